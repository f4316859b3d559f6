/* What blocking.c decides, in one line.

    blocking back L1 L2 L3 SHARERS I H P LANES BYTES ROWS    all of fl_back_blocking, in its order */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

int main(int argc, char **argv)
{
    int64_t n[10];
    if (argc != 12 || strcmp(argv[1], "back"))
        return 1;
    for (int k = 0; k < 10; k++)
        n[k] = atoll(argv[2 + k]);
    const fl_caches caches = {.l1 = n[0], .l2 = n[1], .l3 = n[2], .l3_sharers = (int32_t)n[3]};
    const fl_back_sizes sizes = {.inputs = n[4], .hidden = n[5], .outputs = n[6], .lanes = n[7], .bytes = n[8],
                                 .rows = n[9]};
    const fl_back_blocking b = fl_back_blocking_of(&caches, &sizes);
    printf("%" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %d %d\n", b.blocks, b.dz_panels, b.sum_rows, b.sum_columns,
           b.fetch_ih, b.fetch_hh);
    return 0;
}
