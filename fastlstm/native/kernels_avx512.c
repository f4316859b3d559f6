/* The kernels for AVX-512. */

#include "internal.h"

#if defined(__x86_64__) && !defined(FL_NO_AVX512)

#include "x86.h"

#define ISA avx512
#define VECTOR_BYTES 64
#define ROWS 5
#define CELLS_AFTER 0
#define FEATURES "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma"
#define SUFFIX_float ps
#define SUFFIX_double pd
#define INTRINSIC(name) GLUE(_mm512_##name##_, OF(SUFFIX))
#define FMA INTRINSIC(fmadd)
#define MIN INTRINSIC(min)
#define MAX INTRINSIC(max)
#define SQRT INTRINSIC(sqrt)
#define QUARTERS_float f32x4
#define QUARTERS_double f64x2
#define LOWS(a, b) GLUE(_mm512_shuffle_, OF(QUARTERS))(a, b, 0x44)
#define HIGHS(a, b) GLUE(_mm512_shuffle_, OF(QUARTERS))(a, b, 0xee)
#define HALF_ROWS 8

static int there(void)
{
    return fl_has_vectors(VECTOR_BYTES);
}

#include "isa.inc"

#endif
