/* What blocking.c decides, in one line.

    blocking forward L1 L2 L3 SHARERS I P PANELS LANES BYTES ROWS STEPS TILE    those of the forward pass: hoist x k ahead
    blocking back L1 L2 L3 SHARERS I H P LANES BYTES ROWS    all of fl_back_blocking, in its order */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static void forward(const fl_caches *caches, const int64_t *n)
{
    const fl_blocking_sizes sizes = {.inputs = n[0],
                                     .outputs = n[1],
                                     .panels = n[2],
                                     .lanes = n[3],
                                     .bytes = n[4],
                                     .rows = n[5],
                                     .steps = n[6],
                                     .tile = n[7]};
    const fl_blocking b = fl_blocking_of(caches, &sizes);
    printf("%" PRId64 " %" PRId64 " %" PRId64 " %d\n", b.hoist, b.x, b.k, b.ahead);
}

static void back(const fl_caches *caches, const int64_t *n)
{
    const fl_back_sizes sizes = {
        .inputs = n[0], .hidden = n[1], .outputs = n[2], .lanes = n[3], .bytes = n[4], .rows = n[5]};
    const fl_back_blocking b = fl_back_blocking_of(caches, &sizes);
    printf("%" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %d %d\n", b.blocks, b.dz_panels, b.sum_rows, b.sum_columns,
           b.fetch_ih, b.fetch_hh);
}

int main(int argc, char **argv)
{
    const int forwards = argc > 1 && !strcmp(argv[1], "forward");
    int64_t n[12];
    if (argc != (forwards ? 14 : 12))
        return 1;
    for (int k = 0; k < argc - 2; k++)
        n[k] = atoll(argv[2 + k]);
    const fl_caches caches = {.l1 = n[0], .l2 = n[1], .l3 = n[2], .l3_sharers = (int32_t)n[3]};
    (forwards ? forward : back)(&caches, n + 4);
    return 0;
}
