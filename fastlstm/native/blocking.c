/* How products are cut so that what they use again stays in the caches of the machine. Everything here is a pure
function of sizes, and no value that is computed depends on the answer. */

#include "internal.h"

static int64_t at_least_one(int64_t count)
{
    return count > 1 ? count : 1;
}

fl_back_blocking fl_back_blocking_of(const fl_caches *caches, const fl_back_sizes *sizes)
{
    const int64_t panel_bytes = WIDTH * sizes->lanes * sizes->bytes; /* of one k, or of one row */
    const int64_t dz_bytes = GATES * sizes->lanes * sizes->bytes;
    const int64_t inner_bytes = fl_up(sizes->hidden, sizes->lanes) * GATES * sizes->bytes; /* of a column of weights */
    const int64_t near = caches->l2 / 2; /* the other half is for what passes by */
    /* In half of the first level, a part of a panel of weights stays while all rows of a chunk or step pass by. Of a
    product over rows, a panel of each of the two operands is used again and again. */
    const fl_back_blocking blocking = {
        .blocks = at_least_one(caches->l1 / 2 / (GATES * sizes->lanes * panel_bytes)),
        .dz_panels = at_least_one(near / (sizes->rows * dz_bytes)),
        .sum_rows = at_least_one(caches->l1 / (panel_bytes + dz_bytes)),
        .sum_columns = at_least_one(near / (sizes->rows * panel_bytes)) * WIDTH * sizes->lanes,
        .fetch_ih = inner_bytes * sizes->inputs > near,
        .fetch_hh = inner_bytes * sizes->outputs > near,
    };
    return blocking;
}
