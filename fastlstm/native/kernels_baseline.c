/* The kernels for any machine: vectors of 16 bytes where the compiler has them, and no FMA. */

#include "internal.h"

#ifndef FL_NO_BASELINE

/* A root in a vector spares a call of the C library. */
#if defined(__x86_64__)
#include <emmintrin.h>
#define SUFFIX_float ps
#define SUFFIX_double pd
#define SQRT GLUE(_mm_sqrt_, OF(SUFFIX))
#elif defined(__aarch64__)
#include <arm_neon.h>
#define SUFFIX_float f32
#define SUFFIX_double f64
#define SQRT GLUE(vsqrtq_, OF(SUFFIX))
#endif

#define ISA baseline
/* Where there are no vectors, one of a single number spares the compiler to take them apart. */
#if defined(__SSE2__) || defined(__aarch64__)
#define VECTOR_BYTES 16
#else
#define VECTOR_BYTES (int)sizeof(REAL)
#endif
#define ROWS 2
#define CELLS_AFTER 0

static int there(void)
{
    return 1;
}

#include "isa.inc"

#endif
