/* How products are cut so that what they use again stays in the caches of the machine. Everything here is a pure
function of sizes, and no value that is computed depends on the answer. */

#include "internal.h"

static int64_t at_least_one(int64_t count)
{
    return count > 1 ? count : 1;
}

/* ---- the forward pass ------------------------------------------------------------------------------ */

/* W_ih x is worth computing for so many steps at once, or, if weights are beyond the second-level cache, rows. */
#define HOISTED_STEPS 4
#define HOISTED_ROWS 64

/* Rows of a table are copied for so many steps at once that they stay in the first-level cache. */
#define TABLE_BYTES (1 << 14)

/* How many k each block of a panel has. Blocks are as equal as they can be. There is one if the whole panel stays in
the first-level cache beside the rows, or if few tiles use it again. */
static int64_t block_of(int64_t k, int64_t k_bytes, int64_t tiles, int64_t l1)
{
    if (tiles < 3 || 4 * k * k_bytes <= 3 * l1)
        return k;
    const int64_t most = at_least_one(l1 * 5 / 8 / k_bytes), blocks = (k + most - 1) / most;
    return (k + blocks - 1) / blocks;
}

/* For how many steps at once W_ih x is computed. Each step then reads W_hh alone, and W_ih is read once for all of
them. Against that stands z, which is written and read again. */
static int64_t hoist_of(const fl_caches *caches, const fl_blocking_sizes *sizes, int64_t k_bytes, int64_t weights)
{
    const int64_t rows = sizes->rows, I = sizes->inputs, far = weights > caches->l2;
    const int alone = rows <= sizes->tile; /* In a step, nothing uses weights twice, and the tile may not be whole. */
    if (rows == 0)
        return 0; /* A part may be empty. */
    if (sizes->inputs_first)
        return sizes->steps;
    if (sizes->table) {
        const int64_t most = at_least_one(TABLE_BYTES / (rows * sizes->panels * k_bytes));
        return most < sizes->steps ? most : sizes->steps;
    }
    if (alone ? 2 * weights <= caches->l1 : 4 * (I + sizes->outputs) * k_bytes <= 3 * caches->l1 || 2 * rows > I)
        return 0;
    int64_t steps = caches->l2 / 4 / (rows * sizes->panels * k_bytes); /* so that z stays in the second level */
    if (far && steps * rows < HOISTED_ROWS)
        steps = (HOISTED_ROWS + rows - 1) / rows;
    if (far && steps < HOISTED_STEPS)
        steps = HOISTED_STEPS;
    if (steps > sizes->steps)
        steps = sizes->steps;
    return steps < (alone ? 2 : HOISTED_STEPS) ? 0 : steps;
}

fl_blocking fl_blocking_of(const fl_caches *caches, const fl_blocking_sizes *sizes)
{
    const int64_t I = sizes->inputs, P = sizes->outputs, rows = sizes->rows, tile = sizes->tile;
    const int64_t k_bytes = GATES * sizes->lanes * sizes->bytes, weights = sizes->panels * (I + P) * k_bytes;
    const int64_t hoist = hoist_of(caches, sizes, k_bytes, weights);
    return (fl_blocking){
        .hoist = hoist,
        .x = block_of(I, k_bytes, (hoist * rows + tile - 1) / tile, caches->l1),
        .k = block_of(hoist ? P : I + P, k_bytes, (rows + tile - 1) / tile, caches->l1),
        .ahead = rows > 1 && weights > caches->l2,
    };
}

/* ---- the way back -------------------------------------------------------------------------------- */

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
