/* How work is cut among threads. Everything here is a pure function of sizes, and no value that is computed
depends on the answer. */

#include "internal.h"

/* Below this many floating-point operations, some ten microseconds, threads cost more than they save. */
#define WORTH_THREADS 5e5
/* The same on the way back, where threads meet more often. */
#define WORTH_THREADS_BACK 8e6
/* If the recurrent weights of a layer have this many bytes, it is worth meeting after each step to share them. */
#define WORTH_MEETING (1 << 16)
/* With fewer sequences for each thread than this, tiles have too few rows. */
#define SEQUENCES_EACH 4

static int threads_of(int32_t threads)
{
    return threads < 1 ? 1 : threads < MOST_THREADS ? threads : MOST_THREADS;
}

static int worth_meeting(const fl_shape *shape)
{
    return 4 * shape->hidden * shape->output * shape->itemsize >= WORTH_MEETING;
}

fl_cut fl_cut_of(const fl_shape *shape, const fl_call *call, int64_t rows)
{
    const fl_cut one = {.threads = 1, .groups = 1, .teams = 1, .seats = 1, .shares = 1};
    int n = threads_of(call->threads);
    if (n < 2)
        return one;
    double work = 0;
    for (int layer = 0; layer < shape->layers; layer++)
        work += 8.0 * rows * shape->directions * shape->hidden * (fl_inputs(shape, layer) + shape->output);
    if (work < WORTH_THREADS)
        return one;
    const fl_cut grouped = {.threads = n, .groups = n, .teams = 1, .seats = 1, .shares = 1};
    if (call->batch >= SEQUENCES_EACH * n)
        return grouped;
    if (shape->directions == 2 && (n == 2 || !worth_meeting(shape)))
        return (fl_cut){.threads = 2, .groups = 1, .teams = 2, .seats = 1, .shares = 1};
    if (worth_meeting(shape))
        return (fl_cut){.threads = n, .groups = 1, .teams = 1, .seats = n, .shares = n};
    if (n > call->batch)
        n = (int)call->batch;
    return n > 1 ? (fl_cut){.threads = n, .groups = n, .teams = 1, .seats = 1, .shares = 1} : one;
}

/* All groups have about the same number of rows. */
int64_t fl_first_sequence(const fl_call *call, int64_t rows, int groups, int group)
{
    if (group == 0 || group == groups)
        return group ? call->batch : 0;
    if (!call->batch_sizes)
        return call->batch * group / groups;
    int64_t sequence = 0, left = rows * group / groups; /* rows that the groups before this one are to have */
    for (int64_t t = call->steps; left > 0 && t > 0; t--) /* sequences of t steps; the longest come first */
        for (; sequence < call->batch_sizes[t - 1] && left > 0; sequence++)
            left -= t;
    return sequence;
}

fl_back_cut fl_back_cut_of(const fl_shape *shape, const fl_options *options, const fl_call *call, int64_t rows)
{
    int n = threads_of(call->threads);
    if (16.0 * rows * shape->hidden * (shape->input + shape->output) < WORTH_THREADS_BACK)
        n = 1;
    /* A projection, and norms, take all units of a row together. */
    int apart = shape->output == shape->hidden && !options->layer_norm;
    int by_units = n > 1 && call->batch < SEQUENCES_EACH * n && apart && worth_meeting(shape);
    return (fl_back_cut){.threads = n, .groups = by_units ? 1 : n, .shares = by_units ? n : 1};
}

fl_linear_cut fl_linear_cut_of(const fl_linear *linear, const fl_linear_call *call)
{
    double work = 2.0 * linear->inputs * linear->outputs * call->rows;
    int64_t wide = WIDTH * linear->kernels->lanes;
    fl_linear_cut cut = {
        .threads = work < WORTH_THREADS ? 1 : threads_of(call->threads),
        .panels = fl_up(linear->outputs, wide) / wide,
        .blocks = fl_up(call->rows, LINEAR_ROWS) / LINEAR_ROWS,
        .parts = 1,
    };
    if (cut.blocks < 4 * cut.threads) /* There are few rows: the threads share the outputs too. */
        cut.parts = cut.threads < cut.panels ? cut.threads : cut.panels;
    return cut;
}
