/* Many callers at once share stacks, and each call asks for many threads: every result must be, bit
for bit, that of one thread. Made for ThreadSanitizer; any build of it may run.

    threads ROUNDS

The stacks make each way of cutting the work happen, forward and back: sequences, directions, units of
a step; and other calls are cut by chance, for up to MOST_THREADS threads, far more than there are processors. Some
calls are stopped: then they say so, and all threads have left. Built with a small CLOCK_WORK. */

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastlstm.h"

enum { CALLERS = 3, MOST = 1 << 19, MOST_THREADS = 16 };

typedef struct {
    fl_shape shape; /* `back`: the gradients count too */
    int64_t steps, batch, interval;
    fl_stack *stack;
    float *expected;
} work;

static const fl_options normed = {
    .struct_size = sizeof normed,
    .gate_clip = 2,
    .cell_clip = 2,
    .proj_clip = 2,
    .gate = {.function = FL_SIGMOID},
    .cell = {.function = FL_TANH},
    .output = {.function = FL_SOFTPLUS},
    .layer_norm = FL_NORM_SUMS,
    .zoneout_h = 0.1,
    .zoneout_c = 0.1,
};

static const fl_options bounded = {
    .struct_size = sizeof bounded,
    .gate_clip = 2,
    .cell_clip = 2,
    .proj_clip = INFINITY,
    .coupled = FL_F_FROM_I,
    .gate = {.function = FL_HARD_SIGMOID},
    .cell = {.function = FL_TANH},
    .output = {.function = FL_SOFTSIGN},
};

static work works[] = {
    {.shape = {sizeof(fl_shape), 4, 1, 1, 32, 256, 256, 0, &bounded, NULL}, .steps = 12, .batch = 3}, /* units */
    {.shape = {sizeof(fl_shape), 4, 2, 1, 32, 300, 250, 0, &normed, NULL},
     .steps = 8,
     .batch = 3}, /* units, then rows, then outputs */
    {.shape = {sizeof(fl_shape), 4, 2, 1, 16, 40, 40, 0, NULL, NULL}, .steps = 12, .batch = 32},  /* sequences */
    {.shape = {sizeof(fl_shape), 4, 2, 2, 16, 64, 64, 0, NULL, NULL}, .steps = 60, .batch = 2},   /* directions */
    {.shape = {sizeof(fl_shape), 4, 2, 1, 32, 256, 256, 0, NULL, NULL}, .steps = 12, .batch = 1}, /* units */
    {.shape = {sizeof(fl_shape), 4, 2, 1, 32, 300, 250, 0, NULL, NULL},
     .steps = 8,
     .batch = 2}, /* units, then outputs */
    {.shape = {sizeof(fl_shape), 4, 1, 2, 16, 40, 40, 1, NULL, NULL}, .steps = 16, .batch = 32}, /* back: rows */
    {.shape = {sizeof(fl_shape), 4, 1, 1, 32, 256, 256, 1, NULL, NULL}, .steps = 8, .batch = 2}, /* units */
    {.shape = {sizeof(fl_shape), 4, 1, 1, 32, 128, 90, 1, NULL, NULL},
     .steps = 22,
     .batch = 3,
     .interval = 9}, /* rows, run again */
    {.shape = {sizeof(fl_shape), 4, 1, 1, 32, 256, 256, 1, &bounded, NULL}, .steps = 8, .batch = 2}, /* units */
    {.shape = {sizeof(fl_shape), 4, 1, 1, 32, 128, 90, 1, &normed, NULL},
     .steps = 22,
     .batch = 3,
     .interval = 9}, /* rows, run again */
};
enum { WORKS = sizeof works / sizeof *works };

static float numbers[MOST]; /* weights, inputs and states */
static long rounds;

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, bytes / 64 * 64 + 64);
    if (!memory)
        abort();
    return memory;
}

/* Whether a call was stopped; one that was refused ends the program. */
static int was_stopped(fl_status status)
{
    if (status <= FL_STOPPED)
        return status == FL_STOPPED;
    fprintf(stderr, "%s\n", fl_error_string(status));
    exit(1);
}

/* How many results there are: y, and of the way back dx, dh, dc and, for each direction, dw. */
static int64_t results_of(const work *w)
{
    const fl_shape *s = &w->shape;
    int64_t I = s->input, H = s->hidden, P = s->output, y = w->steps * w->batch * s->directions * P;
    if (!s->back)
        return y;
    int64_t more = !s->options ? 0 : s->options->layer_norm ? 13 * H : 3 * H; /* peepholes, and what norms take */
    return y + w->steps * w->batch * I + s->directions * (w->batch * (P + H) + 4 * H * (I + P + 1) + P * H + more);
}

/* How a call is cut. */
typedef struct {
    fl_cut forward;
    fl_back_cut back;
} cuts;

static int go_back(const work *w, const fl_call *call, const cuts *cuts, float *results)
{
    const fl_shape *s = &w->shape;
    int64_t I = s->input, H = s->hidden, P = s->output;
    fl_back_call way = {.struct_size = sizeof way,
                        .call = call,
                        .dy = numbers + 20,
                        .dy_stride = call->y_stride,
                        .cut = cuts ? &cuts->back : NULL};
    fl_arrays dw[2] = {{.struct_size = sizeof *dw}, {.struct_size = sizeof *dw}};
#define PLACE(pointer, count) (pointer = results, results += count)
    PLACE(way.dx, w->steps * w->batch * I);
    PLACE(way.dh, s->directions * w->batch * P);
    PLACE(way.dc, s->directions * w->batch * H);
    for (int k = 0; k < s->directions; k++) {
        PLACE(dw[k].w_ih, 4 * H * I);
        PLACE(dw[k].w_hh, 4 * H * P);
        PLACE(dw[k].b, 4 * H);
        if (P < H)
            PLACE(dw[k].w_hr, P * H);
        if (s->options) {
            PLACE(dw[k].w_ci, H);
            PLACE(dw[k].w_cf, H);
            PLACE(dw[k].w_co, H);
        }
        if (s->options && s->options->layer_norm) {
            PLACE(dw[k].ln_ih, 4 * H);
            PLACE(dw[k].ln_hh, 4 * H);
            PLACE(dw[k].ln_c, H);
            PLACE(dw[k].b_c, H);
        }
    }
#undef PLACE
    way.dw = dw;
    way.scratch_size = fl_back_scratch_bytes(w->stack, &way);
    way.scratch = allocate(way.scratch_size);
    int stopped = was_stopped(fl_back(w->stack, &way));
    free(way.scratch);
    return stopped;
}

static int go_on(void)
{
    return 0;
}

static int at_once(void)
{
    return 1;
}

/* NULL: it was stopped, on the way back if there is one. Without cuts, it is cut as the library does. */
static float *run(const work *w, int threads, const cuts *cuts, int (*stop)(void))
{
    const fl_shape *s = &w->shape;
    size_t states = s->layers * s->directions * w->batch * s->hidden * sizeof(float);
    size_t results = results_of(w) * sizeof(float);
    fl_call call = {
        .struct_size = sizeof call,
        .x = numbers,
        .x_stride = s->input * (int64_t)sizeof(float),
        .y = memset(allocate(results), 0, results),
        .y_stride = s->directions * s->output * (int64_t)sizeof(float),
        .steps = w->steps,
        .batch = w->batch,
        .h = memset(allocate(states), 0, states),
        .c = memset(allocate(states), 0, states),
        .threads = threads,
        .cut = cuts ? &cuts->forward : NULL,
        .checkpoint_interval = w->interval,
        .stop = s->back ? NULL : stop,
    };
    if (s->back)
        call.tape = allocate(call.tape_size = fl_tape_bytes(w->stack, &call));
    call.scratch = allocate(call.scratch_size = fl_scratch_bytes(w->stack, &call));
    int stopped = was_stopped(fl_run(w->stack, &call));
    if (s->back) {
        call.stop = stop;
        stopped |= go_back(w, &call, cuts, (float *)call.y + w->steps * w->batch * s->directions * s->output);
    }
    free(call.h);
    free(call.c);
    free(call.scratch);
    free(call.tape);
    if (!stopped)
        return call.y;
    free(call.y);
    return NULL;
}

static uint64_t random_number(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
    return *state >> 40;
}

/* A number from 1 to `most`. */
static int32_t draw(uint64_t *state, int64_t most)
{
    return 1 + (int32_t)(random_number(state) % (uint64_t)most);
}

/* Any cut: groups, teams that follow one another, seats and shares, of which some are empty; with more or fewer threads
than it has seats, or as many. */
static cuts draw_cuts(const work *w, uint64_t *state)
{
    const fl_shape *s = &w->shape;
    const int64_t teams = s->directions == 2 ? 2 : s->layers;
    cuts cuts = {
        .forward = {.threads = draw(state, MOST_THREADS),
                    .groups = draw(state, 4),
                    .teams = draw(state, 2) == 1 ? 1 : (int32_t)teams,
                    .seats = draw(state, 4)},
        .back = {.threads = draw(state, MOST_THREADS), .groups = draw(state, 4), .shares = draw(state, 4)},
    };
    cuts.forward.shares = cuts.forward.seats + draw(state, 4) - 1;
    cuts.forward.inputs_first = draw(state, 2) - 1;
    if (draw(state, 2) == 1)
        cuts.forward.threads = cuts.forward.groups * cuts.forward.teams * cuts.forward.seats;
    return cuts;
}

static void *caller(void *first)
{
    uint64_t state = (uint64_t)(size_t)first;
    for (long n = 0; n < rounds; n++) {
        const work *w = &works[((long)(size_t)first + n) % WORKS];
        const cuts cuts = draw_cuts(w, &state);
        float *results = run(w, draw(&state, MOST_THREADS), n % 2 ? &cuts : NULL,
                             n % 3 == 0       ? NULL
                                 : n % 3 == 1 ? go_on
                                              : at_once);
        if (!results && n % 3 == 2)
            continue;
        if (!results || memcmp(results, w->expected, results_of(w) * sizeof(float))) {
            fprintf(stderr, "other bits: work %d, round %ld, cut %d %d %d %d %d, back %d %d %d\n", (int)(w - works), n,
                    cuts.forward.threads, cuts.forward.groups, cuts.forward.teams, cuts.forward.seats,
                    cuts.forward.shares, cuts.back.threads, cuts.back.groups, cuts.back.shares);
            exit(1);
        }
        free(results);
    }
    return NULL;
}

/* A stack of at most two layers in two directions. */
static fl_stack *pack(const fl_shape *shape, int isa)
{
    const int norm = shape->options && shape->options->layer_norm;
    fl_arrays parameters[4];
    for (int k = 0; k < 4; k++) {
        float *more = shape->options ? numbers + k : NULL, *gains = norm ? numbers + k : NULL;
        parameters[k] = (fl_arrays){
            .struct_size = sizeof *parameters,
            .w_ih = numbers + 4 * k,
            .w_hh = numbers + 4 * k + 1,
            .b = numbers + 4 * k + 2,
            .w_hr = shape->output < shape->hidden ? numbers + 4 * k + 3 : NULL,
            .w_ci = more,
            .w_cf = more,
            .w_co = more,
            .ln_ih = gains,
            .ln_hh = gains,
            .ln_c = gains,
            .b_c = gains,
        };
    }
    fl_stack *stack;
    const size_t bytes = fl_stack_bytes(shape, isa);
    was_stopped(fl_pack(allocate(bytes), bytes, shape, isa, parameters, &stack));
    return stack;
}

int main(int argc, char **argv)
{
    rounds = argc > 1 ? atol(argv[1]) : 100;
    uint64_t state = 1;
    for (int n = 0; n < MOST; n++)
        numbers[n] = (float)random_number(&state) / (1 << 24) / 4 - 0.125f;
    int isa = fl_isa(NULL);
    for (work *w = works; w < works + WORKS; w++) {
        w->stack = pack(&w->shape, isa);
        w->expected = run(w, 1, NULL, NULL);
        if (run(w, 1, NULL, at_once)) {
            fprintf(stderr, "not stopped: work %d\n", (int)(w - works));
            return 1;
        }
    }
    fl_set_processors(MOST_THREADS);
    pthread_t callers[CALLERS];
    for (size_t n = 0; n < CALLERS; n++)
        if (pthread_create(&callers[n], NULL, caller, (void *)n))
            abort();
    for (int n = 0; n < CALLERS; n++)
        pthread_join(callers[n], NULL);
    return 0;
}
