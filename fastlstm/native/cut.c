/* How work is cut among threads, and among how many: of all cuts that one which takes the least time by a model of
the engine. Everything here is a pure function of sizes, and no value that is computed depends on the answer. */

#include "internal.h"

/* ---- what things take ------------------------------------------------------------------------------- */

/* All times are in nanoseconds of a core at 3 GHz that does two multiply-adds of vectors in a cycle. A processor that
does one (a Zen 4 with AVX-512) is taken for twice as fast as it is, since nothing tells. What counts is how times
compare. [one]: fitted to runs of one thread with 16 to 1024 units and 1 to 64 rows on an Intel Xeon with AVX-512 and
2 MB of second level, and right within 10 % on an Emerald Rapids. [all]: fitted to the cuts of 25 runs among 1 to 16
threads on that Emerald Rapids, whose 16 processors are 8 cores. [read]: measured by reading, on four machines. */

/* One k of the products of one row and one panel: a multiply-add for each gate, at 93 % of the peak [one]. */
#define PRODUCT_NS 0.72
/* Of two things that one core does at once, computing and reading, so much of the shorter one is not hidden [one]. */
#define SEEN 0.35
/* The cells of a tile, which wait for each other, and those of one row and panel [one]. */
#define TILE_NS 35.0
#define CELL_NS 10.0
/* What the general kind takes for them, beside the plain one [one]. */
#define GENERAL_CELLS 2.5
/* A step of a task beside its products and cells, and what each row adds to that [one]. */
#define STEP_NS 60.0
#define ROW_NS 10.0
/* A byte of the weights that a thread reads in each step, by the level it comes from: 320, 120 and 60 GB/s, 30 where a
third level is large, and 15 from memory [read]. */
#define L1_NS (1 / 320.0)
#define L2_NS (1 / 120.0)
#define L3_NS (1 / 60.0)
#define MESH_NS (1 / 30.0)
#define MEMORY_NS (1 / 15.0)
/* A third level of so many bytes is no longer that of one ring or die, and its parts are far from each other. (That of
eight cores has up to 96 MB. How many share it tells nothing in a virtual machine.) */
#define MESH_BYTES (100 << 20)
/* The share of a level that weights have: the rest is for rows. Every other step takes them backwards, so what does not
fit a level is read from the next, and no more [one, all]. */
#define NEAR_SHARE 0.7
#define FAR_SHARE 0.85
/* A byte that another core has written takes as long as so many bytes of the third level, in the rows of a step and in
those of a chunk, which are fetched ahead [all]. */
#define EXCHANGED_ROWS 7.0
#define EXCHANGED_CHUNK 4.0
/* A byte that a recorded run writes to the tape [one]. */
#define TAPE_NS 0.03
/* A meeting in the midst of work, and what each doubling of the number of threads adds [all]. By itself it takes 180,
370, 470 and 960 ns for 2, 4, 8 and 16 threads there (benchmarks/meetings.c). */
#define MEETING_NS 200.0
#define DOUBLING_NS 130.0
/* What a layer waits for in each step that the one below it makes at the same time [all]. */
#define FOLLOW_NS 50.0
/* Handing a run over to threads that are awake, and what each of them adds [all]. */
#define START_NS 150.0
#define THREAD_NS 150.0
/* By so much of the time of a run each further thread lets it end later: cores slow down when all work, two may be one,
other programs have work too, and the last thread counts. With two groups for each thread, of so many sequences at
least, a thread that is held up leaves one to others [all]. */
#define LATE 0.03
#define LATE_FINE 0.021
#define FINE_ROWS 4
/* By so much threads that meet in each step, or after each layer, are held up by each other [all]. */
#define HELD_UP 1.04
/* Threads that only make input products must save so much of a run. */
#define MAKERS_COST 0.08
/* A run that takes less with one thread stays there: if the others sleep, waking them takes 2 to 14 us, and 19 until
two are there. No run of so few multiply-adds takes more, a cell counted as 64. */
#define ALONE_NS 8000.0
#define ALONE_WORK 5e4
/* The same in training, where the other threads mostly sleep: between two calls the caller does more than compute. With
two threads, 10,50,1,10 trained in 126 us instead of 93 [Intel Xeon, 2 cores]. */
#define ALONE_TRAINING_NS 60000.0

/* The way back, fitted to one and two threads of the first machine, and right within 10 % for 1 to 16 of the other: one
k of its products for one row and one panel; the cells of one row and panel, with what is copied for them; a step. */
#define BACK_PRODUCT_NS 0.88
#define BACK_CELL_NS 60.0
#define BACK_STEP_NS 150.0
/* The rows of one of its chunks, with several threads and with one, as backward.inc has them. */
#define BACK_CHUNK_ROWS 512
#define BACK_CHUNK_ROWS_ALONE 128
/* How many chunks there are at least, if some threads make sums beside those that go through the steps; and what that
takes, compared with a time in which nobody ever waits. */
#define BACK_CHUNKS 4
#define BESIDE 1.1
/* After so many rows, and at the end, the sums are added to the gradients: so often the room of all weights is read or
written so many times. */
#define BACK_SUM_ROWS 4096
#define GRADIENT_PASSES 4.0
/* What the way back takes more than a run to begin and to end with several threads. */
#define BACK_START_NS 1.4e4

/* For what every candidate asks: a call of it, instead, makes a decision some 6 % longer. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

static double meeting_ns(int threads)
{
    double ns = MEETING_NS;
    for (int met = 1; met < threads; met *= 2)
        ns += DOUBLING_NS;
    return threads > 1 ? ns : 0;
}

static double start_ns(int threads)
{
    return threads > 1 ? START_NS + THREAD_NS * threads : 0;
}

/* A byte of the third level. */
static double far_ns(const fl_caches *caches)
{
    return caches->l3 > MESH_BYTES ? MESH_NS : L3_NS;
}

/* How many threads are considered, of those that may be used, for work that takes one of them so long: calling them is
to take an eighth of that at most, and work below `least_ns` stays with one. */
static int worth_threads(int threads, double alone_ns, double least_ns)
{
    const double most = (alone_ns / 8 - START_NS) / THREAD_NS;
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    return alone_ns < least_ns ? 1 : threads < most ? threads : (int)most;
}

/* The time of reading so many bytes in each step, the same as in the step before. */
static double read_ns(const fl_caches *caches, double bytes)
{
    const double far = far_ns(caches);
    const double beyond_l1 = bytes - NEAR_SHARE * caches->l1, beyond_l2 = bytes - FAR_SHARE * caches->l2;
    const double beyond_l3 = caches->l3 ? bytes - FAR_SHARE * caches->l3 : 0;
    double ns = bytes * L1_NS;
    if (beyond_l1 > 0)
        ns += beyond_l1 * (L2_NS - L1_NS);
    if (beyond_l2 > 0)
        ns += beyond_l2 * (far - L2_NS);
    if (beyond_l3 > 0)
        ns += beyond_l3 * (MEMORY_NS - far);
    return ns;
}

static double at_once(double a, double b)
{
    return a > b ? a + SEEN * b : b + SEEN * a;
}

/* ---- parts ------------------------------------------------------------------------------------------- */

/* The numbers of groups and of seats that are considered. */
static const unsigned char numbers[] = {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64};
enum { NUMBERS = sizeof numbers };

/* The most that one of so many parts has of `count` things. */
static int most_of(int64_t count, int parts)
{
    return (int)(((uint32_t)count + parts - 1) / (uint32_t)parts);
}

/* Into how many parts some things can be cut, so that no part has as many as with fewer parts, and what it has. */
typedef struct {
    int count, parts[NUMBERS], most[NUMBERS];
} part_numbers;

static void find_numbers(part_numbers *found, int64_t things, int threads)
{
    found->count = 0;
    for (int n = 0; n < NUMBERS && numbers[n] <= threads && numbers[n] <= things; n++) {
        const int most = most_of(things, numbers[n]);
        if (found->count && most == found->most[found->count - 1])
            continue;
        found->parts[found->count] = numbers[n];
        found->most[found->count++] = most;
    }
}

/* The first sequence of a group: all groups have about the same number of rows. */
int64_t fl_first_sequence(const fl_call *call, int64_t rows, int groups, int group)
{
    if (group == 0 || group == groups)
        return group ? call->batch : 0;
    if (!call->batch_sizes)
        return call->batch * group / groups;
    int64_t sequence = 0, left = rows * group / groups;   /* rows that the groups before this one are to have */
    for (int64_t t = call->steps; left > 0 && t > 0; t--) /* sequences of t steps; the longest come first */
        for (; sequence < call->batch_sizes[t - 1] && left > 0; sequence++)
            left -= t;
    return sequence;
}

/* ---- the forward pass ------------------------------------------------------------------------------- */

/* A run as the model sees it. */
typedef struct {
    const fl_stack *stack;
    double steps, live; /* live: how many of the sequences are in a step, on average; 1: all */
    double inputs;      /* of the first layer, for which products are made: none with a table of them */
    double k_bytes;     /* of one k of a panel of weights, or of one row of z */
    double cell, tile;  /* the time of the cells of a row in a panel, and of a tile in it */
    int few_units;      /* whether a sequence alone has a loop of its own */
    int phases;         /* of a step */
} run_sizes;

/* What the largest of the groups has in each step; whether W_ih x may be made for several steps at once, and whether
all cells of a step are computed together. */
typedef struct {
    double rows, tiles;
    int hoists, few;
} group_sizes;

/* What the largest share of the units has of their panels, and of those of the outputs of a projection; the time of all
meetings of a step; which part of h comes from other cores. */
typedef struct {
    double panels, wide, meetings, others;
} share_sizes;

static run_sizes run_sizes_of(const fl_stack *stack, const fl_call *call, int64_t rows)
{
    const fl_shape *s = &stack->shape;
    const double kind = call->noise || stack->cells->kind == FL_GENERAL ? GENERAL_CELLS : 1;
    const double taped = call->tape ? (GATES + 1) * stack->kernels->lanes * s->itemsize * TAPE_NS : 0;
    return (run_sizes){
        .stack = stack,
        .steps = call->steps,
        .live = (double)rows / call->steps / call->batch,
        .inputs = call->table ? 0 : s->input,
        .k_bytes = GATES * stack->kernels->lanes * s->itemsize,
        .cell = kind * CELL_NS + taped,
        .tile = kind * TILE_NS,
        .few_units = s->hidden <= FEW_UNITS && s->output == s->hidden && kind == 1 && !call->tape,
        .phases = 1 + (stack->options.layer_norm != 0) + (s->output != s->hidden),
    };
}

/* A group of so many sequences. */
static group_sizes group_of(const run_sizes *run, int sequences)
{
    const int even = run->live == 1;
    return (group_sizes){.rows = run->live * sequences,
                         .tiles = most_of(sequences, run->stack->kernels->tile),
                         .hoists = run->steps > 3 && (sequences > 1 || even),
                         .few = run->few_units && sequences == 1 && even};
}

/* A share of so many panels, in a team of so many threads. */
static share_sizes share_of(const run_sizes *run, int seats, int panels)
{
    const fl_shape *s = &run->stack->shape;
    const int wide = s->output == s->hidden ? 0 : most_of(s->output, WIDTH * run->stack->kernels->lanes);
    return (share_sizes){.panels = panels,
                         .wide = most_of(wide, seats),
                         .meetings = run->phases * meeting_ns(seats),
                         .others = 1 - 1.0 / seats};
}

/* W_ih x for one step, if it is made for several at once: W_ih, which is read once for them, takes the place of W_hh in
the second level where both do not fit. The sums are written and read again. */
static ALWAYS_INLINE double hoisted_ns(const run_sizes *run, double rows, double panels, double inputs,
                                       double most_steps)
{
    const fl_caches *caches = &run->stack->caches;
    const double z_bytes = rows * panels * run->k_bytes;
    const double w_ih = panels * inputs * run->k_bytes, w_hh = panels * run->stack->shape.output * run->k_bytes;
    const double beyond = w_ih + w_hh - FAR_SHARE * caches->l2, steps = caches->l2 / 4 / z_bytes;
    double read = w_ih * L2_NS;
    if (beyond > 0)
        read = (w_ih + (beyond < w_hh ? beyond : w_hh)) * far_ns(caches);
    read /= steps < 4 ? 4 : steps > most_steps ? most_steps : steps;
    return at_once(panels * rows * inputs * PRODUCT_NS, read) + 2 * z_bytes * L2_NS;
}

/* One step of one layer in one direction. */
static ALWAYS_INLINE double step_ns(const run_sizes *run, double inputs, const group_sizes *group,
                                    const share_sizes *share, double most_hoisted)
{
    const fl_shape *s = &run->stack->shape;
    const fl_caches *caches = &run->stack->caches;
    const double rows = group->rows, panels = share->panels, wide = share->wide;
    const int hoisted = group->hoists && 2 * rows <= inputs;
    const double k = hoisted ? s->output : inputs + s->output;
    const double tiles = group->few && share->others == 0 ? 0 : group->tiles;
    double ns = STEP_NS + rows * ROW_NS + panels * (tiles * run->tile + rows * run->cell);
    ns += at_once(panels * rows * k * PRODUCT_NS, read_ns(caches, panels * k * run->k_bytes));
    if (hoisted)
        ns += hoisted_ns(run, rows, panels, inputs, most_hoisted);
    if (wide > 0)
        ns += at_once(wide * rows * s->hidden * PRODUCT_NS, read_ns(caches, wide * s->hidden * run->k_bytes));
    return ns + share->meetings + share->others * rows * s->output * s->itemsize * EXCHANGED_ROWS * far_ns(caches);
}

/* The whole run, by threads each of which has so many groups, one after the other, or one share of one. */
static double run_ns(const run_sizes *run, int teams, int threads, int each, const group_sizes *group,
                     const share_sizes *share)
{
    const fl_shape *s = &run->stack->shape;
    const int follow = teams > 1 && s->directions == 1; /* Each layer follows the one below it. */
    const double hoisted = follow ? STEPS_BEHIND : run->steps, more = s->layers - 1;
    const double first = step_ns(run, run->inputs, group, share, hoisted);
    const double next = more > 0 ? step_ns(run, fl_inputs(s, 1), group, share, hoisted) : 0;
    double ns = run->steps * (first + more * next);
    if (follow)
        ns = (run->steps + more * STEPS_BEHIND) * ((first > next ? first : next) + FOLLOW_NS);
    else if (teams > 1) /* Both directions meet after each layer. */
        ns += s->layers * (meeting_ns(teams) + share->meetings);
    else
        ns *= s->directions;
    if (teams > 1 || share->others > 0)
        ns *= HELD_UP;
    return (each * ns + start_ns(threads)) * (1 + (each > 1 ? LATE_FINE : LATE) * (threads - 1));
}

/* The time of a run of one group that takes `ns` with so many threads and teams, if `makers` threads make the input
products of the first layer before its first step, and not those of each share its own. The sums then come from other
cores. */
static __attribute__((noinline)) double first_ns(const run_sizes *run, double ns, int teams, int threads, int makers,
                                                 const group_sizes *group, const share_sizes *share)
{
    const fl_shape *s = &run->stack->shape;
    const double panels = most_of(s->hidden, run->stack->kernels->lanes), rows = group->rows;
    const double own = hoisted_ns(run, rows, share->panels, s->input, run->steps);
    const double together = teams * hoisted_ns(run, rows, panels, s->input, run->steps) / makers;
    const double fetched = rows * share->panels * run->k_bytes * EXCHANGED_ROWS * far_ns(&run->stack->caches);
    const double late = 1 + LATE * (threads - 1), all_late = 1 + LATE * (makers - 1);
    return ns * (1 + MAKERS_COST) - run->steps * ((own - fetched) * HELD_UP * late - together * all_late)
        + (meeting_ns(makers) + start_ns(makers) - start_ns(threads)) * all_late;
}

static const fl_cut one = {.threads = 1, .groups = 1, .teams = 1, .seats = 1, .shares = 1};

/* That of several threads, if there is one that takes less than one thread's time. It is a function of its own, as
entering it takes 10 ns, which a step of a small layer is to be spared. */
static __attribute__((noinline)) fl_cut least_cut(const fl_stack *stack, const fl_call *call, int64_t rows)
{
    const fl_shape *s = &stack->shape;
    fl_cut best = one;
    const run_sizes run = run_sizes_of(stack, call, rows);
    const int panels = most_of(s->hidden, stack->kernels->lanes), most_teams = s->directions == 2 ? 2 : s->layers;
    part_numbers seats, parts;
    group_sizes groups[NUMBERS];
    groups[0] = group_of(&run, (int)call->batch);
    const share_sizes whole = share_of(&run, 1, panels);
    double least = run_ns(&run, 1, 1, 1, &groups[0], &whole);
    const int threads = worth_threads(call->threads, least, call->tape ? ALONE_TRAINING_NS : ALONE_NS);
    find_numbers(&seats, panels, threads);
    find_numbers(&parts, call->batch, threads);
    for (int n = 0; n < parts.count; n++)
        groups[n] = group_of(&run, parts.most[n]);
    /* Whether input products can be first: they are made for several steps at once, and more groups than one would not
    share them as well. */
    const int hoists = groups[0].hoists && 2 * groups[0].rows <= run.inputs && groups[0].tiles == 1;
    for (int k = 0; k < seats.count; k++) {
        const share_sizes share = share_of(&run, seats.parts[k], seats.most[k]);
        for (int teams = 1; teams <= most_teams; teams += most_teams > 1 ? most_teams - 1 : 1)
            for (int n = 0; n < parts.count; n++) {
                const int all = teams * seats.parts[k] * parts.parts[n], finer = 2 * all;
                if (all > threads)
                    break;
                double ns = run_ns(&run, teams, all, 1, &groups[n], &share);
                if (ns < least) {
                    least = ns;
                    best = (fl_cut){.threads = all,
                                    .groups = parts.parts[n],
                                    .teams = teams,
                                    .seats = seats.parts[k],
                                    .shares = seats.parts[k]};
                }
                const int first = hoists && n == 0 && k > 0 && (teams == 1 || s->directions == 2);
                for (int makers = 2 * all; first && makers <= threads; makers *= 2) {
                    const double with = first_ns(&run, ns, teams, all, makers, &groups[0], &share);
                    if (with < least) {
                        least = with;
                        best = (fl_cut){.threads = makers,
                                        .groups = 1,
                                        .teams = teams,
                                        .seats = seats.parts[k],
                                        .shares = seats.parts[k],
                                        .inputs_first = 1};
                    }
                }
                if (all == 1 || all > parts.parts[n] || call->batch < FINE_ROWS * finer)
                    continue;
                const group_sizes half = group_of(&run, most_of(call->batch, finer));
                ns = run_ns(&run, 1, all, 2, &half, &share);
                if (ns < least) {
                    least = ns;
                    best = (fl_cut){.threads = all, .groups = finer, .teams = 1, .seats = 1, .shares = 1};
                }
            }
    }
    return best;
}

fl_cut fl_cut_of(const fl_stack *stack, const fl_call *call, int64_t rows)
{
    const fl_shape *s = &stack->shape;
    const double work = (double)s->layers * s->directions * s->hidden * (s->input + s->output + 64) * rows;
    return !WITH_THREADS || call->threads < 2 || work < ALONE_WORK ? one : least_cut(stack, call, rows);
}

/* ---- the way back ------------------------------------------------------------------------------------ */

static group_sizes back_group_of(const fl_call *call, int64_t rows, int sequences)
{
    return (group_sizes){.rows = (double)rows / call->steps / call->batch * sequences};
}

static share_sizes back_share_of(int seats, int panels)
{
    return (share_sizes){.panels = panels, .meetings = meeting_ns(seats), .others = 1 - 1.0 / seats};
}

/* (6) to (9) of one step, for the rows of a group and a share of the units. */
static double back_step_ns(const fl_stack *stack, const group_sizes *group, const share_sizes *share)
{
    const fl_shape *s = &stack->shape;
    const double units = share->panels * stack->kernels->lanes, width = fl_up(s->hidden, stack->kernels->lanes);
    const double dz_bytes = GATES * width * s->itemsize; /* of a row */
    return BACK_STEP_NS + group->rows * (ROW_NS + share->panels * BACK_CELL_NS)
        + at_once(share->panels * group->rows * width * BACK_PRODUCT_NS, read_ns(&stack->caches, units * dz_bytes))
        + share->meetings + share->others * group->rows * dz_bytes * EXCHANGED_ROWS * far_ns(&stack->caches);
}

/* (10) for all rows, by so many threads. A thread's part of dx needs the dz of some rows; its part of dW needs the dz
of some units, and all of [x | h_0]. */
static double sums_ns(const fl_stack *stack, double rows, double chunks, int threads)
{
    const fl_shape *s = &stack->shape;
    const double lanes = stack->kernels->lanes, far = far_ns(&stack->caches), columns = s->input + s->output;
    const double units = fl_up(s->hidden, stack->kernels->lanes), dz_bytes = GATES * units * s->itemsize;
    const double xh_bytes = fl_up(s->input + s->output, WIDTH * stack->kernels->lanes) * (double)s->itemsize;
    const double others = (1 - 1.0 / threads) * (2 * dz_bytes / threads + xh_bytes);
    const double dw_bytes = columns * dz_bytes / threads, sums = (int64_t)(rows / BACK_SUM_ROWS) + 1;
    return rows * units / lanes * (s->input + columns) * BACK_PRODUCT_NS / threads
        + rows * others * EXCHANGED_CHUNK * far + chunks * 2 * read_ns(&stack->caches, dw_bytes)
        + sums * read_ns(&stack->caches, GRADIENT_PASSES * dw_bytes);
}

/* The whole way back in one direction. So many threads, of all, go back through the steps of a chunk; the others make
the sums of the chunk before meanwhile, and then all do. */
static double back_ns(const fl_stack *stack, double rows, double steps, int threads, int in_steps,
                      const group_sizes *group, const share_sizes *share)
{
    double chunks = rows / (threads > 1 ? BACK_CHUNK_ROWS : BACK_CHUNK_ROWS_ALONE);
    if (in_steps < threads && chunks < BACK_CHUNKS)
        chunks = BACK_CHUNKS;
    chunks = chunks < 1 ? 1 : chunks < steps ? chunks : steps;
    const double back = steps * back_step_ns(stack, group, share) / chunks;
    const double sums = sums_ns(stack, rows, chunks, threads) / chunks;
    double both = back * in_steps / threads + sums;
    if (both < back)
        both = back;
    double ns = back + (chunks - 1) * both + sums + (chunks + 3) * meeting_ns(threads);
    if (in_steps < threads)
        ns *= BESIDE;
    return (ns + (threads > 1 ? BACK_START_NS + start_ns(threads) : 0)) * (1 + LATE * (threads - 1));
}

fl_back_cut fl_back_cut_of(const fl_stack *stack, const fl_call *call, int64_t rows)
{
    const fl_shape *s = &stack->shape;
    fl_back_cut best = {.threads = 1, .groups = 1, .shares = 1};
    if (!WITH_THREADS || call->threads < 2 || 2.0 * s->hidden * (s->input + s->output + 64) * rows < ALONE_WORK)
        return best;
    const int panels = most_of(s->hidden, stack->kernels->lanes);
    /* A projection, and norms, take all units of a row together. */
    const int apart = s->output == s->hidden && !stack->options.layer_norm;
    const group_sizes every = back_group_of(call, rows, (int)call->batch);
    const share_sizes whole = back_share_of(1, panels);
    double least = back_ns(stack, rows, call->steps, 1, 1, &every, &whole);
    const int threads = worth_threads(call->threads, least, ALONE_TRAINING_NS);
    part_numbers seats, parts;
    find_numbers(&seats, panels, apart ? threads : 1);
    find_numbers(&parts, call->batch, threads);
    for (int k = 0; k < seats.count; k++) {
        const share_sizes share = back_share_of(seats.parts[k], seats.most[k]);
        for (int n = 0; n < parts.count; n++) {
            const int in_steps = seats.parts[k] * parts.parts[n];
            const group_sizes group = back_group_of(call, rows, parts.most[n]);
            for (int all = in_steps; all <= threads && all <= 4 * in_steps; all *= 2) {
                const double ns = back_ns(stack, rows, call->steps, all, in_steps, &group, &share);
                if (ns < least) {
                    least = ns;
                    best = (fl_back_cut){.threads = all, .groups = parts.parts[n], .shares = seats.parts[k]};
                }
            }
        }
    }
    return best;
}

/* ---- linear products --------------------------------------------------------------------------------- */

/* The threads share the rows, in blocks, or, if these are few, the outputs too. */
fl_linear_cut fl_linear_cut_of(const fl_linear *linear, const fl_linear_call *call)
{
    const int64_t wide = WIDTH * linear->kernels->lanes, panels = fl_up(linear->outputs, wide) / wide;
    const int64_t blocks = fl_up(call->rows, LINEAR_ROWS) / LINEAR_ROWS;
    fl_linear_cut best = {.threads = 1, .panels = panels, .blocks = blocks, .parts = 1};
    const double weights = (double)blocks * linear->inputs * wide * linear->kernels->weight_bytes; /* of a panel */
    const double panel_ns = at_once((double)call->rows * linear->inputs * PRODUCT_NS, weights * L2_NS);
    double least = panels * panel_ns;
    if (!WITH_THREADS || call->threads < 2 || least < ALONE_NS)
        return best;
    for (int n = 1; n < NUMBERS && numbers[n] <= call->threads; n++) {
        const int threads = numbers[n], parts = blocks >= 4 * threads ? 1 : threads < panels ? threads : (int)panels;
        const double part_ns = panel_ns * most_of(panels, parts) / blocks;
        const double ns = (most_of(blocks * parts, threads) * part_ns + start_ns(threads)) * (1 + LATE * (threads - 1));
        if (ns < least) {
            least = ns;
            best.threads = threads;
            best.parts = parts;
        }
    }
    return best;
}
