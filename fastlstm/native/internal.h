/* What the C files of this folder share and no other file sees. The names are those of the legend in
fastlstm.h; L is the number of lanes of a vector. */

#ifndef FASTLSTM_INTERNAL_H
#define FASTLSTM_INTERNAL_H

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(__ASSOCIATIVE_MATH__) \
    || defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#error "with -ffast-math or a part of it results are not the same bits everywhere: compile without"
#endif

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "fastlstm.h"

/* A build may leave out parts, as the options of CMakeLists.txt say: FL_NO_AVX512, FL_NO_AVX2, FL_NO_NEON and
FL_NO_BASELINE are instruction sets, FL_NO_FLOAT and FL_NO_DOUBLE types of number, FL_NO_TRAINING all that only the way
back needs. With FL_NO_THREADS, one thread does everything and nothing of an operating system is used. What stands behind
these constants is compiled, and then left out. */
#ifdef FL_NO_THREADS
#define WITH_THREADS 0
#else
#define WITH_THREADS 1
#endif
#ifdef FL_NO_TRAINING
#define WITH_TRAINING 0
#else
#define WITH_TRAINING 1
#endif

/* What runs once for a model or a stream is made small. */
#define COLD __attribute__((cold))

enum {
    GATES = 4,         /* of an LSTM's cell: i, f, g, o */
    WIDTH = 4,         /* of a register tile, in vectors: a panel holds WIDTH L outputs */
    LINEAR_ROWS = 64,  /* of a linear product, which are multiplied together */
    MOST_THREADS = 64, /* of a call */
    FEW_UNITS = 64,    /* of a layer whose steps `few_steps` makes for a sequence alone, at most */
    STEPS_BEHIND = 8,  /* a layer is behind the one below it at most, if they follow one another */
};

/* The kinds of cell: the plain one, (1) to (10), and the one with options or noise, (11) to (19). Kernels take the
kind as a constant, so that each kind has code of its own. */
typedef enum { FL_PLAIN, FL_GENERAL } fl_kind;

/* After this many floating-point operations, a tenth of a millisecond or more, the calling thread looks at the
clock. If this many nanoseconds have passed since it last asked whether to go on, it asks again. */
#ifndef CLOCK_WORK
#define CLOCK_WORK 10000000
#define ASK_NS 30000000
#endif

/* How a call ends early: the calling thread asks, and every thread leaves where it next looks at `stopped`. */
typedef struct {
    int (*ask)(void);
    int64_t work; /* that the calling thread knows of since it looked at the clock */
    int64_t time; /* at which it asks again */
    _Atomic int stopped;
} fl_stop;

/* The weights of one layer in one direction, in panels of one vector of L units: w is
[panel][k][gate][lane], with k over the inputs and then the outputs, and b is [panel][gate][lane]. w_hr is
in panels of WIDTH L outputs, [panel][k][lane], with k over the units. Units and outputs past the last are
padding, with weights of zero.

Peepholes, ln_c and b_c are [panel][lane], the other gains [panel][gate][lane], padded with zeros; those that
the cell lacks are NULL.

For the way back, or else NULL: W_ih, W_hh and W_hr transposed, in panels of WIDTH L inputs, outputs and units,
[panel][k][lane], with k over [panel of units][gate][lane], or for W_hr over the outputs. */
typedef struct {
    int64_t I, H, P;
    void *w, *b, *w_hr;
    void *back_ih, *back_hh, *back_hr;
    void *w_ci, *w_cf, *w_co, *ln, *ln_ih, *ln_hh, *ln_c, *b_c;
    const fl_options *options; /* those of a stack without any are the plain cell's */
    const fl_caches *caches;
    fl_kind kind;
} fl_cell;

/* How many values the tape has for a unit of a row: the gates i, f, g, o of the plain kind. Of the general kind it
has the s of (13), from which (14) and (15) make the gates; with FL_NORM_SUMS the four W_ih x and the four W_hh m
of (12). */
static inline int fl_saved_values(const fl_cell *cell)
{
    return cell->options->layer_norm == FL_NORM_SUMS ? 2 * GATES : GATES;
}

/* The weights of a linear product, in panels of WIDTH L outputs, [panel][k][lane], and b, padded with zeros. */
struct fl_linear {
    const struct fl_kernels *kernels;
    int64_t inputs, outputs;
    int32_t itemsize;
    void *w, *b;
};

/* What a recorded run of one layer in one direction keeps for the way back: the first h, [sequence][output]; c
at the first step of each segment, [segment][panel][sequence][lane]; and what `fl_saved_values` says and c of
every row, [panel][row][value][lane] and [panel][row][lane]. With checkpoints, segments are `interval` steps long, and
gates and cells are NULL. Without them, the interval is 0 and there is one segment. */
typedef struct {
    void *h, *states, *gates, *cells;
    int64_t interval;
    int64_t panel_rows; /* how many rows a panel of gates and cells has */
} fl_tape;

/* How a team shares a task: there are so many seats, and W_ih x is computed for `most_hoisted` steps at once at most, or
with `inputs_first` for all of them before the first. */
typedef struct {
    int seats, inputs_first;
    int64_t most_hoisted;
} fl_split;

/* A task: one layer in one direction, for some of the sequences. Strides are in bytes. x, y, h and c are those
of all sequences. */
typedef struct {
    const fl_cell *cell;
    const void *x;
    void *y, *h, *c;
    void *cells; /* NULL: not wanted */
    int64_t x_stride, y_stride, cells_stride;
    const int64_t *batch_sizes; /* NULL: `batch` in every step */
    int64_t steps, batch, rows; /* T, B, N */
    int64_t first_sequence, sequences;
    int reverse, parity; /* as fl_call has them */
    int shares;          /* in how many the units of each step are split; 1: they are not */
    /* Whether the thread is the calling one. The ints are four and stand together: a copy of this structure would wait
    for single stores, 10 to 30 ns of a step. */
    int is_caller;
    const int64_t *index;  /* NULL, or which rows of h and c are those of all sequences */
    const void *table;     /* NULL, or the products of this direction; x are then numbers of its rows */
    const fl_tape *tape;   /* NULL: nothing is recorded */
    const fl_noise *noise; /* of this direction, with the rows of all sequences; NULL: nothing is random */
    fl_stop *stop;         /* NULL: it cannot be stopped */
    void *scratch;
    const fl_split *split; /* NULL: one thread runs the task and nobody else is there */
} fl_task;

/* Noise makes a task of a plain cell one of the general kind. It is asked here, as one more int beside the others of a
task would make a step of a small layer wait for a store, 10 ns. */
static inline fl_kind fl_kind_of(const fl_task *task)
{
    return task->noise ? FL_GENERAL : task->cell->kind;
}

/* The way back through a recorded task with all sequences, by all threads. */
typedef struct {
    fl_task task; /* as it ran, except that h and c are not read */
    const void *dy;
    int64_t dy_stride;
    void *dh, *dc, *dx;
    const void *dcells; /* (N, H), or NULL */
    fl_arrays dw;
    int add_dx, fill_dw;         /* whether to add to dx instead of filling it, and to fill dw instead of adding */
    int threads, groups, shares; /* as fl_back_cut has them */
    void *scratch;
} fl_back_task;

/* A group of sequences on the way back: how many threads are in it, and the team that they are, which follows. */
typedef struct {
    _Alignas(64) _Atomic int64_t inside;
} fl_back_group;

/* A thread's seat in the team that runs a task; see below. */
typedef struct fl_seat fl_seat;

/* How many phases a step of a task has: of its units; with layer_norm, of its rows; with a projection, of its
outputs. */
static inline int fl_phases(const fl_cell *cell)
{
    return 1 + (cell->options->layer_norm != 0) + (cell->P != cell->H);
}

/* A plain layer without a projection that runs for a sequence alone, and of which all sums of a step have room in
registers and a small buffer: what its steps have in common. */
typedef struct {
    const void *start;                  /* with what the sums of the next step begin: b, or W_ih x + b of that step */
    const void *w;                      /* the weights of what is added to that */
    int64_t start_stride, panel_stride; /* in numbers */
    int64_t inputs, units, panels;      /* inputs: 0 if `start` has them */
    const void *h_0;                    /* the states, padded to whole vectors: h before a step, */
    void *h, *c;                        /* and after it; h may be h_0 if all sums of a step come before all cells */
    const fl_cell *cell;
    void *z;       /* memory for W_ih x + b of `hoist` steps */
    int64_t hoist; /* for how many steps at once these are computed; 0: they are not hoisted */
    int64_t ready; /* 0, or they are there, for steps that are so many values apart, `z` being the next step's */
    int backwards; /* whether the next step takes the panels backwards, if they are many */
} fl_few;

/* Whether so many bytes of W_ih are to be hoisted out of the steps of a small layer: more would push W_hh out of the
first-level cache. */
static inline int fl_hoists_inputs(int64_t bytes)
{
    return bytes > 1 << 14;
}

/* What a model computes of values beside products and cells. */
typedef enum { MAP_FUNCTION, MAP_SOFTMAX, MAP_SUM, MAP_STANDARDIZE, MAP_RESTORE, MAP_MAGNITUDE } fl_map_kind;

typedef struct {
    fl_map_kind kind;
    fl_activation function;   /* of MAP_FUNCTION */
    int64_t count;            /* how many values a row of y has */
    int64_t magnitudes;       /* of MAP_MAGNITUDE: so many a follow one another in a row of x, and then so many b */
    const void *mean, *scale; /* (count,) of MAP_STANDARDIZE and MAP_RESTORE */
} fl_map;

/* What is compiled once for each instruction set and type of number. */
typedef struct fl_kernels {
    int lanes, weight_bytes, tile; /* tile: how many rows a tile has at most */
    void (*pack)(fl_cell *cell, const fl_arrays *parameters);
    /* Of a task, only cell, table, batch_sizes, steps, batch, sequences, shares, split and noise are read. */
    int64_t (*scratch_bytes)(const fl_task *task);
    /* Make `steps` steps, x and y of which are so many bytes apart. y has exactly H values. */
    void (*few_steps)(fl_few *few, int64_t steps, const void *x, int64_t x_stride, void *y, int64_t y_stride);
    /* Fill a table of products, [row][panel][gate][lane], from rows x. */
    void (*fill_table)(const fl_cell *cell, const void *x, int64_t x_stride, int64_t rows, void *table);
    /* A task is run by one thread, without a seat, or by a team, each of whose threads calls `run` with its own.
    `load_task` loads the states before, so that the team need not. */
    void (*load_task)(const fl_task *task);
    /* One of `pieces` pieces of W_ih x of all steps, with `inputs_first`. */
    void (*make_inputs)(const fl_task *task, int piece, int pieces);
    void (*run)(const fl_task *task, const fl_seat *seat);
    /* Of a recorded task with all sequences, the gates and cells that `fl_saved` fills. */
    /* The rest, up to `back`, is of training, and NULL without it. */
    void (*saved)(const fl_task *task, void *gates, void *cells);
    void (*pack_back)(fl_cell *cell, const fl_arrays *parameters);
    int64_t (*back_scratch_bytes)(const fl_back_task *back);
    void (*begin_back)(const fl_back_task *back);       /* once, before the threads come */
    void (*back)(const fl_back_task *back, int thread); /* in every thread */
    void (*update)(const fl_rule *rule, int64_t count, void *p, const void *g, void *const *moments);
    int (*all_finite)(int64_t count, const void *x);
    void (*pack_linear)(fl_linear *linear, const void *w, const void *b);
    /* Up to LINEAR_ROWS rows, for the panels of outputs from `from` to `to`. */
    void (*run_linear)(const fl_linear *linear, const void *x, int64_t x_stride, void *y, int64_t y_stride,
                       int64_t rows, int64_t from, int64_t to);
    /* Fill rows of y from those of x, which may be the same, and, for MAP_SUM, of another value. Strides are in bytes. */
    void (*map)(const fl_map *map, int64_t rows, const void *x, int64_t x_stride, const void *other,
                int64_t other_stride, void *y, int64_t y_stride);
} fl_kernels;

typedef struct {
    const char *name;
    int (*there)(void);           /* whether this machine has it */
    const fl_kernels *kernels[2]; /* for float and for double; NULL: not compiled in */
} fl_instruction_set;

extern const fl_instruction_set fl_avx512, fl_avx2, fl_neon, fl_baseline;

struct fl_stack {
    fl_shape shape;
    fl_options options; /* to which the cells point, */
    fl_caches caches;   /* and to these */
    const fl_instruction_set *isa;
    const fl_kernels *kernels;
    /* What checks ask in each call, and would take longer than a step of a small layer may. */
    double most_rows;   /* T times B of a call whose sizes fit */
    int64_t step_bytes; /* of scratch memory for one step of one sequence in one thread, without noise or a table */
    fl_cell cells[];    /* [layer][direction]; their weights follow in the same memory */
};

/* Whether this x86 machine has vectors of so many bytes, 32 or 64, with the instructions of AVX2 and FMA, or of AVX-512
F, DQ, BW and VL too. */
int fl_has_vectors(int bytes);

/* Whether the steps of so many sequences are those of small plain layers, which `few_steps` makes. */
int fl_are_few(const fl_stack *stack, int64_t batch);

/* Make them. `between` holds two rows of padded units, which layers hand to the next by turns. */
void fl_run_few(const fl_stack *stack, fl_few *layers, void *const *between, int64_t steps, const char *x,
                int64_t x_stride, char *y, int64_t y_stride);

/* Whether there is an instruction set of this number, and this machine has it. */
int fl_isa_is_here(int isa);

/* The instruction set of such a number, and its kernels for values of so many bytes; NULL if they are not compiled in. */
const fl_instruction_set *fl_instruction_set_of(int isa);
const fl_kernels *fl_kernels_of(int isa, int32_t itemsize);

/* How many rows a call has. */
int64_t fl_rows_of(const fl_call *call);

/* Place a direction's arrays in the tape of a call of so many rows, and return the bytes of the whole tape. */
int64_t fl_place_tape(fl_tape *tape, const fl_stack *stack, const fl_call *call, int64_t rows, int direction);

fl_cut fl_cut_of(const fl_stack *stack, const fl_call *call, int64_t rows);

/* The first sequence of a group, of so many groups. */
int64_t fl_first_sequence(const fl_call *call, int64_t rows, int groups, int group);

fl_back_cut fl_back_cut_of(const fl_stack *stack, const fl_call *call, int64_t rows);

/* The products of a task, W_ih x and W_hh h of (1) or (12), as `fl_blocking_of` wants to know them. */
typedef struct {
    int64_t inputs, outputs, panels, lanes, bytes; /* I, P, and of the weights; `bytes` has one of them */
    int64_t rows, steps;                           /* of a step; of the task */
    int inputs_first;                              /* whether W_ih x is computed for all steps at once */
    int table;                                     /* whether it is copied from a table; I is 0 then */
    int64_t tile;                                  /* how many rows a tile has at most */
} fl_blocking_sizes;

/* How they are cut: a panel of weights into blocks that stay in the first-level cache while all rows are multiplied. */
typedef struct {
    int64_t hoist; /* for how many steps at once W_ih x is computed; 0: in each step, together with W_hh h */
    int64_t x, k;  /* how many k a block has: of W_ih x where it is hoisted; of what each step multiplies */
    int ahead;     /* whether the next block is fetched while this one is multiplied */
} fl_blocking;

fl_blocking fl_blocking_of(const fl_caches *caches, const fl_blocking_sizes *sizes);

/* How the products of the way back through a cell are cut. */
typedef struct {
    int64_t inputs, hidden, outputs, lanes, bytes; /* I, H, P; L; bytes of a value */
    int64_t rows;                                  /* how many a chunk has */
} fl_back_sizes;

typedef struct {
    int64_t blocks;         /* of dx and dh: so many panels of dz meet one panel of weights at once */
    int64_t dz_panels;      /* of dx: so many panels of dz meet all panels of weights before the next ones do */
    int64_t sum_rows;       /* of dW: the most rows that go into one product */
    int64_t sum_columns;    /* of dW: so many columns of [x | h_0] meet all panels of dz before the next ones do */
    int fetch_ih, fetch_hh; /* whether W_ih or W_hh is to be fetched ahead: it does not stay in the second level */
} fl_back_blocking;

fl_back_blocking fl_back_blocking_of(const fl_caches *caches, const fl_back_sizes *sizes);

/* How a linear product is cut: into blocks of LINEAR_ROWS rows, and those into parts of the panels. */
typedef struct {
    int threads;
    int64_t panels, blocks, parts;
} fl_linear_cut;

fl_linear_cut fl_linear_cut_of(const fl_linear *linear, const fl_linear_call *call);

/* x, rounded up to a multiple of `whole`. */
static inline int64_t fl_up(int64_t x, int64_t whole)
{
    return (x + whole - 1) / whole * whole;
}

/* A layer whose states are h and c, with vectors of so many lanes; nothing is hoisted. */
static inline fl_few fl_few_of(const fl_cell *cell, int lanes, void *h, void *c)
{
    return (fl_few){
        .start = cell->b,
        .w = cell->w,
        .panel_stride = (cell->I + cell->H) * GATES * lanes,
        .inputs = cell->I,
        .units = cell->H,
        .panels = fl_up(cell->H, lanes) / lanes,
        .h_0 = h,
        .h = h,
        .c = c,
        .cell = cell,
    };
}

/* A place in memory; NULL where there is none yet, and only sizes count. */
static inline void *fl_offset(const void *memory, int64_t offset)
{
    return memory ? (char *)(uintptr_t)memory + offset : NULL;
}

/* How many bytes of a table of products a direction has for each row. */
static inline int64_t fl_table_row(const fl_stack *stack)
{
    return GATES * fl_up(stack->shape.hidden, stack->kernels->lanes) * stack->shape.itemsize;
}

/* How many inputs a layer has. */
static inline int64_t fl_inputs(const fl_shape *shape, int layer)
{
    return layer ? shape->directions * shape->output : shape->input;
}

/* Call work(context, 0) in this thread and, as far as threads are free, work(context, k) for other k < threads in
those. Return when all that began have returned. Any one of these calls must be able to do all the work. */
void fl_together(int threads, void (*work)(void *context, int thread), void *context);

/* A number that has a cache line to itself. */
typedef struct {
    _Alignas(64) _Atomic int64_t value;
} fl_line;

/* How many phases of a share some thread has begun; and, if the share is the first of a seat, the last share of another
seat that the thread in this one has begun. It looks there first the next time: the core has what the share needs. */
typedef struct {
    _Alignas(64) _Atomic int64_t value;
    _Atomic int other;
} fl_begun;

/* A team: up to `seats` threads that do phases together, one after the other. Each phase has `shares` shares, any of
which any thread may do, and none of the next phase begins before all are finished. Share s is first of all that of
seat s % seats, whose thread finds in its caches what the share needs. The shares of a thread that has not come, or
comes late, are done by the others. */
typedef struct {
    int seats, shares;
    /* [share]: how many phases of it some thread has begun, and how many are finished. They lie apart, so that in the
    usual case a share's own thread alone touches `begun`. */
    fl_begun *begun;
    fl_line *finished;
    _Alignas(64) _Atomic int64_t over; /* how many phases are known to be over; it may be behind */
    _Atomic uint64_t empty;            /* the seats whose threads are known not to be there, a bit for each */
} fl_team;

/* The bytes of a team of so many shares, at a multiple of 64, and that team, made in this memory. */
size_t fl_team_bytes(int shares);
fl_team *fl_make_team(void *memory, int seats, int shares);

/* The share of this phase that the thread in this seat is to do next; -1, if the phase is over. It waits for the
others if need be, and does their shares if they do not come. Phases are 0, 1, ... in turn. Call it until it returns
-1, and `fl_finish_share` after each share. A thread that comes late begins with phase 0 as all do, and is told at once
that it is over. */
int fl_next_share(fl_team *team, int seat, int64_t phase);
void fl_finish_share(fl_team *team, int share, int64_t phase);

/* Wait until so many phases of a team are over, or until `stop`, which may be NULL, is stopped. */
void fl_await_team(fl_team *team, int64_t phases, const fl_stop *stop);

/* A thread's seat in the team that runs a task. */
struct fl_seat {
    fl_team *team;
    int number;          /* of the seat */
    int loaded;          /* whether `load_task` has been called: otherwise the first phase does it */
    int64_t phase;       /* the first phase of the task, of all that the team has */
    fl_team *below;      /* NULL, or the team of the layer below, which makes x while this team runs, and whose */
    int64_t below_phase; /* first phase of the first step is this one */
};

/* Ask whether to go on, if it is time. */
void fl_ask(fl_stop *stop);

/* Whether this thread is to leave, before it does so many floating-point operations. */
static inline int fl_stopped(fl_stop *stop, int is_caller, int64_t work)
{
    if (is_caller && (stop->work += work) >= CLOCK_WORK)
        fl_ask(stop);
    return atomic_load_explicit(&stop->stopped, memory_order_relaxed);
}

/* How many rows, of `row_bytes` each, to give a panel that is to hold `rows` at least. Panels take an odd number
of 2 KB: at distances of a multiple of 64 KB they would share few places of the second-level cache. */
static inline int64_t fl_panel_rows(int64_t rows, int64_t row_bytes)
{
    int64_t unit = row_bytes < 2048 ? 2048 / row_bytes : 1;
    return ((rows + unit - 1) / unit | 1) * unit;
}

/* Write into every page of some memory, so that the system gives it now, and not in a step of a real-time thread. */
static inline void fl_touch(void *memory, int64_t bytes)
{
    const int64_t page = 4096; /* or more */
    for (int64_t at = 0; at < bytes; at += page)
        ((char *)memory)[at] = 0;
    ((char *)memory)[bytes - 1] = 0; /* The memory need not begin with a page, and may end in one more. */
}

/* ---- checks.c: what the public functions ask before any work ------------------------------------------ */

/* Functions that return a status return FL_OK if all is right. Those that return a structure of the caller's return
NULL if it is not, and set the status in any case. They return the structure itself or, if it is that of another
version, `own`, which they fill. */

/* Whether a structure of some version can have so many bytes. */
int fl_is_struct_size(size_t told);

const void *fl_known_of_other(const void *given, void *own, size_t size, fl_status *status);

/* The bytes from row to row; those of a single row, which may be any number, are never added to anything. */
static inline int64_t fl_stride(int64_t stride, int64_t rows)
{
    return rows > 1 ? stride : 0;
}

/* A structure that begins with struct_size. The usual case costs two comparisons and copies nothing. */
static inline const void *fl_known(const void *given, void *own, size_t size, fl_status *status)
{
    size_t told;
    *status = FL_NULL;
    if (!given)
        return NULL;
    memcpy(&told, given, sizeof told);
    if (told != size)
        return fl_known_of_other(given, own, size, status);
    *status = FL_OK;
    return given;
}

/* The n-th of an array of them, which lie as far apart as the first one says. */
const fl_arrays *fl_nth_arrays(const fl_arrays *given, int n, fl_arrays *own, fl_status *status);

/* A number of bytes as public functions return it: 0 if no memory can have so many. */
size_t fl_size(int64_t bytes);

/* Memory that has to have so many bytes. */
fl_status fl_check_memory(const void *memory, size_t size, int64_t needed);

/* An array of values, and one of rows, each of which is filled with so many bytes or, for 0, read. */
fl_status fl_check_array(const void *array, int64_t itemsize);
fl_status fl_check_rows(const void *array, int64_t stride, int64_t rows, int64_t filled, int64_t itemsize);

fl_status fl_check_isa(int isa, int32_t itemsize);
fl_status fl_check_options(const fl_options *options);

/* Fill the shape, and the options if there are any, with what is given. */
fl_status fl_check_shape(const fl_shape *given, int isa, fl_shape *shape, fl_options *options);

/* Fill the n-th arrays with what is given: the parameters of a cell, or the gradients of a direction. */
fl_status fl_check_parameters(const fl_shape *shape, const fl_arrays *given, int n, fl_arrays *own);
fl_status fl_check_gradients(const fl_stack *stack, const fl_arrays *given, int direction, fl_arrays *own);

/* The most T times B of a call whose sizes fit. */
double fl_most_rows(const fl_shape *shape);

/* Whether so many rows can be run at all. */
fl_status fl_check_batch(const fl_stack *stack, int64_t batch, int64_t steps);

/* A call: what its sizes depend on; all of it but the scratch memory; and the same of one that was recorded, whose h and
c are not read. */
const fl_call *fl_check_work(const fl_stack *stack, const fl_call *given, fl_call *own, fl_status *status);
const fl_call *fl_check_call(const fl_stack *stack, const fl_call *given, fl_call *own, fl_status *status);
const fl_call *fl_check_recorded(const fl_stack *stack, const fl_call *given, fl_call *own, fl_status *status);

fl_status fl_check_back_cut(const fl_stack *stack, const fl_back_cut *cut, int64_t batch);
fl_status fl_check_back(const fl_stack *stack, const fl_back_call *back, int64_t rows);

fl_status fl_check_linear(int32_t itemsize, int64_t inputs, int64_t outputs, int isa);
const fl_linear_call *fl_check_product(const fl_linear *linear, const fl_linear_call *given, fl_linear_call *own,
                                       fl_status *status);

fl_status fl_check_update(const fl_rule *rule, int32_t itemsize, int64_t count, const void *p, const void *g,
                          void *const *moments, int isa);
fl_status fl_check_numbers(int32_t itemsize, int64_t count, const void *x, int isa);

/* ---- what public functions do behind their checks ------------------------------------------------------ */

int64_t fl_stack_bytes_of(const fl_shape *shape, int isa);
fl_stack *fl_place_stack(void *memory, const fl_shape *shape, int isa);
int64_t fl_scratch_bytes_of(const fl_stack *stack, const fl_call *call);
int64_t fl_tape_bytes_of(const fl_stack *stack, const fl_call *call);
fl_status fl_run_checked(const fl_stack *stack, const fl_call *call);
void fl_run_linear_checked(const fl_linear *linear, const fl_linear_call *call);

#endif
