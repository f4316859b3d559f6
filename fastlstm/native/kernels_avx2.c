/* The kernels for AVX2 with FMA. */

#include "internal.h"

#if defined(__x86_64__) && !defined(FL_NO_AVX2)

#include "x86.h"

#define ISA avx2
#define VECTOR_BYTES 32
#define ROWS 3
#define CELLS_AFTER 4
#define FEATURES "avx2,fma"
#define SUFFIX_float ps
#define SUFFIX_double pd
#define INTRINSIC(name) GLUE(_mm256_##name##_, OF(SUFFIX))
#define FMA INTRINSIC(fmadd)
#define MIN INTRINSIC(min)
#define MAX INTRINSIC(max)
#define SQRT INTRINSIC(sqrt)
#define LOWS(a, b) INTRINSIC(permute2f128)(a, b, 0x20)
#define HIGHS(a, b) INTRINSIC(permute2f128)(a, b, 0x31)
#define HALF_ROWS 4

static int there(void)
{
    return fl_has_vectors(VECTOR_BYTES);
}

#include "isa.inc"

#endif
