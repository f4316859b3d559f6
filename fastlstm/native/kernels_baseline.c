/* The kernels for any machine: vectors of 16 bytes, which the compiler makes of what there is, and no FMA. */

#include "internal.h"

#define ISA baseline
#define VECTOR_BYTES 16
#define ROWS 2

static int there(void)
{
    return 1;
}

#include "isa.inc"
