/* What the C files of this folder share, and nobody else sees. */

#ifndef FASTLSTM_INTERNAL_H
#define FASTLSTM_INTERNAL_H

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) \
    || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#error "with -ffast-math or a part of it results are not the same bits everywhere: compile without"
#endif

#include <stdatomic.h>

#include "fastlstm.h"

enum { GATES = 4, MOST_THREADS = 64 };

/* After so many floating-point operations, a tenth of a millisecond's or more, the calling thread looks at
the clock; so many nanoseconds after it last asked whether to go on, it asks again. */
#ifndef PIECE
#define PIECE 10000000
#define ASK_NS 30000000
#endif
/* Rows of a linear product that are taken together. */
#define LINEAR_ROWS 64

/* How a call ends early: the calling thread asks, and all threads leave where they next look. */
typedef struct {
    int (*ask)(void);
    int64_t work; /* since the calling thread looked at the clock, as far as it knows */
    int64_t time; /* when it is to ask */
    _Atomic int stopped;
} fl_stop;

/* One layer's weights in one direction. Panels of one vector's lanes L of units,
[panel][k][gate][lane], k over the inputs, then the outputs; b [panel][gate][lane]; w_hr in panels of
4 L outputs, [panel][k][4 L], k over the units. Units past H are padded with zeros.

For the way back, or NULL: W_ih, W_hh and W_hr transposed, in panels of 4 L inputs, outputs and units,
[panel][k][4 L]; k over [panel of units][gate][lane], or, of W_hr, over the outputs. */
typedef struct {
    int64_t I, H, P;
    void *w, *b, *w_hr;
    void *back_ih, *back_hh, *back_hr;
} fl_cell;

/* The weights of a linear product, in panels of 4 L outputs, [panel][k][4 L], and b, padded with zeros. */
struct fl_linear {
    const struct fl_kernels *kernels;
    int64_t inputs, outputs;
    void *w, *b;
};

/* What a recorded run of one layer in one direction leaves for the way back: the first h; c at every
so many steps (0: at the first), [part][panel][sequence][lane]; of every row the gates,
[panel][row][gate][lane], and c, [panel][row][lane]. What is NULL is not recorded. */
typedef struct {
    void *h, *states, *gates, *cells;
    int64_t every, rows; /* rows: from panel to panel */
} fl_tape;

/* Where the threads that share each step's units meet: `claimed[share]` counts the phases of which
somebody took that share, `done` the shares that are finished. */
typedef struct {
    _Alignas(64) _Atomic int64_t claimed[MOST_THREADS];
    _Alignas(64) _Atomic int64_t done;
} fl_meeting;

/* One layer in one direction over `rows` of the sequences, from `row` on; strides in bytes. */
typedef struct {
    const fl_cell *cell;
    const void *x;
    void *y, *h, *c;
    int64_t x_stride, y_stride;
    const int64_t *batch_sizes; /* NULL: `batch` in every step */
    int64_t steps, batch, total; /* total: rows of x */
    int64_t row, rows;
    int reverse, odd;
    int shares; /* among how many threads each step's units are split */
    /* Whether this is the calling thread; where units are shared, that is number 0. It stands beside the other
    ints: at the end it would make copying this structure wait for single stores, 30 ns of a step. */
    int asks;
    const fl_tape *tape; /* NULL: not recorded */
    fl_stop *stop;       /* NULL: runs to its end */
    void *room;
} fl_task;

/* The way back through a recorded task: all its rows, by all threads. */
typedef struct {
    fl_task task; /* as it ran, but for h and c, which are not read */
    const void *dy;
    int64_t dy_stride;
    void *dh, *dc, *dx;
    fl_arrays dw;
    int add; /* into dx, instead of filling it */
    int shares, by_units; /* how many threads; whether they share the units of each step, or the rows */
    void *room;
} fl_back_task;

/* What is compiled once for each instruction set and type of number. A task is run by `alone`, or
by several threads: `begin`, once; `share`, in every thread; `end`, once. */
typedef struct fl_kernels {
    int lanes;
    void (*pack)(fl_cell *cell, const fl_arrays *parameters);
    size_t (*room)(const fl_task *task); /* bytes; of the task cell, steps, batch, row, rows */
    void (*alone)(const fl_task *task);
    void (*begin)(const fl_task *task);
    void (*share)(const fl_task *task, fl_meeting *meeting, int mine);
    void (*end)(const fl_task *task);
    void (*pack_back)(fl_cell *cell, const fl_arrays *parameters);
    size_t (*back_room)(const fl_back_task *back);
    void (*back)(const fl_back_task *back, fl_meeting *meeting, int mine); /* in every thread */
    void (*pack_linear)(fl_linear *linear, const void *w, const void *b);
    /* up to LINEAR_ROWS rows, for the panels from `from` to `to` */
    void (*linear)(const fl_linear *linear, const void *x, int64_t x_stride, void *y, int64_t y_stride,
                   int64_t rows, int64_t from, int64_t to);
} fl_kernels;

typedef struct {
    const char *name;
    int (*there)(void);
    fl_kernels kernels[2]; /* of float, of double */
} fl_isa_table;

extern const fl_isa_table fl_isas[];
extern const int fl_isa_count;

/* Run work(context, 0) here and, where threads are free, work(context, k), k < threads, in others;
return when all that began have returned. One call alone must do all the work if it has to. */
void fl_together(int threads, void (*work)(void *context, int thread), void *context);

/* Whether this thread is the first that takes `share` of phase `number`; each is taken in turn. */
static inline int fl_claim(fl_meeting *meeting, int share, int64_t number)
{
    return atomic_load_explicit(&meeting->claimed[share], memory_order_relaxed) == number
        && atomic_compare_exchange_strong(&meeting->claimed[share], &number, number + 1);
}

/* Ask whether to go on, if it is time. */
void fl_ask(fl_stop *stop);

/* After so many operations more: whether this thread is to leave. `asks`: it is the calling one. */
static inline int fl_stopped(fl_stop *stop, int asks, int64_t work)
{
    if (asks && (stop->work += work) >= PIECE)
        fl_ask(stop);
    return atomic_load_explicit(&stop->stopped, memory_order_relaxed);
}

/* Wait, awake, until `count` is at least `value`; yields the processor if that takes long. */
void fl_wait(const _Atomic int64_t *count, int64_t value);

/* How many rows of `row_bytes` to give each panel that is to hold `rows`: an odd number of 2 KB, for panels
that lie a multiple of 64 KB apart would share the same few places of the second-level cache. */
static inline int64_t fl_panel_rows(int64_t rows, int64_t row_bytes)
{
    int64_t unit = row_bytes < 2048 ? 2048 / row_bytes : 1;
    return ((rows + unit - 1) / unit | 1) * unit;
}

/* x rounded up to a multiple of `whole`. */
static inline int64_t fl_up(int64_t x, int64_t whole)
{
    return (x + whole - 1) / whole * whole;
}

#endif
