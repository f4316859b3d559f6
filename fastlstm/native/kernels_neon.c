/* The kernels for the vectors of arm64, which every such machine has. */

#include "internal.h"

#if defined(__aarch64__) && !defined(FL_NO_NEON)

#include <arm_neon.h>

#define ISA neon
#define VECTOR_BYTES 16
#define ROWS 5
#define CELLS_AFTER 0
#define SUFFIX_float f32
#define SUFFIX_double f64
#define FMA(a, b, c) GLUE(vfmaq_, OF(SUFFIX))(c, a, b)
#define MIN GLUE(vminq_, OF(SUFFIX))
#define MAX GLUE(vmaxq_, OF(SUFFIX))
#define SQRT GLUE(vsqrtq_, OF(SUFFIX))

static int there(void)
{
    return 1;
}

#include "isa.inc"

#endif
