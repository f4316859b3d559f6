/* The kernels for any machine: vectors of 16 bytes, which the compiler makes of what there is, and no FMA. */

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
#define VECTOR_BYTES 16
#define ROWS 2
#define CELLS_AFTER 0

static int there(void)
{
    return 1;
}

#include "isa.inc"

#endif
