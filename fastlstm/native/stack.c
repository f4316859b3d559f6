/* The C API: packing a stack, its room, and its run over layers, directions and threads. */

#include <string.h>

#include "internal.h"

struct fl_stack {
    fl_shape shape;
    const fl_isa_table *isa;
    const fl_kernels *kernels;
    fl_cell cells[]; /* [layer][direction]; their weights follow */
};

/* ---- instruction sets ------------------------------------------------------------------------ */

const char *fl_isa_name(int isa)
{
    return isa >= 0 && isa < fl_isa_count ? fl_isas[isa].name : NULL;
}

int fl_isa(const char *name)
{
    for (int isa = 0; isa < fl_isa_count; isa++)
        if (name ? !strcmp(name, fl_isas[isa].name) : fl_isas[isa].there())
            return fl_isas[isa].there() ? isa : -2;
    return -1;
}

/* ---- packing --------------------------------------------------------------------------------- */

static int64_t inputs_of(const fl_shape *shape, int layer)
{
    return layer ? shape->directions * shape->output : shape->input;
}

/* Place the arrays of all cells behind the stack, for `lanes`; return the end. `stack` may be NULL. */
static size_t place(fl_stack *stack, const fl_shape *shape, int lanes)
{
    int cells = shape->layers * shape->directions;
    size_t at = fl_up(sizeof(fl_stack) + cells * sizeof(fl_cell), 64);
    int64_t H = shape->hidden, P = shape->output, wide = (int64_t)GATES * lanes;
    int64_t gates = fl_up(H, lanes) * GATES;
    for (int k = 0; k < cells; k++) {
        int64_t I = inputs_of(shape, k / shape->directions);
        int64_t counts[] = {
            (I + P) * gates, gates, P == H ? 0 : wide + fl_up(P, wide) * H,
            fl_up(I, wide) * gates, fl_up(P, wide) * gates, P == H ? 0 : fl_up(H, wide) * P,
        };
        void *places[6] = {0};
        for (int n = 0; n < (shape->back ? 6 : 3); n++) {
            if (stack)
                places[n] = (char *)stack + at;
            at = fl_up(at + counts[n] * shape->itemsize, 64);
        }
        if (stack)
            stack->cells[k] = (fl_cell){I, H, P, places[0], places[1], places[2], places[3], places[4], places[5]};
    }
    return at;
}

static const fl_kernels *kernels_of(const fl_shape *shape, int isa)
{
    return &fl_isas[isa].kernels[shape->itemsize == sizeof(double)];
}

size_t fl_stack_bytes(const fl_shape *shape, int isa)
{
    return place(NULL, shape, kernels_of(shape, isa)->lanes);
}

fl_stack *fl_pack(void *memory, const fl_shape *shape, int isa, const fl_arrays *parameters)
{
    fl_stack *stack = memory;
    stack->shape = *shape;
    stack->isa = &fl_isas[isa];
    stack->kernels = kernels_of(shape, isa);
    place(stack, shape, stack->kernels->lanes);
    for (int k = 0; k < shape->layers * shape->directions; k++) {
        stack->kernels->pack(&stack->cells[k], &parameters[k]);
        if (shape->back)
            stack->kernels->pack_back(&stack->cells[k], &parameters[k]);
    }
    return stack;
}

const char *fl_stack_isa(const fl_stack *stack)
{
    return stack->isa->name;
}

int fl_stack_lanes(const fl_stack *stack)
{
    return stack->kernels->lanes;
}

/* ---- how numbers are treated ------------------------------------------------------------------- */
/* While a kernel runs, denormals are 0, for they cost a hundred times a number's time and a state that
fades away leaves thousands; rounding is to nearest and nothing traps, whatever the caller had, or one
thread's bits would not be another's. Afterwards the thread's setting is what it was. */

#if defined(__x86_64__)
#include <xmmintrin.h>
typedef unsigned setting;
static setting set(void)
{
    setting before = _mm_getcsr();
    _mm_setcsr(0x9fc0); /* flush to zero, denormals are zero, all exceptions masked */
    return before;
}
static void restore(setting before)
{
    _mm_setcsr(before);
}
#elif defined(__aarch64__)
typedef uint64_t setting;
static setting set(void)
{
    setting before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(UINT64_C(1) << 24));
    return before;
}
static void restore(setting before)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
}
#else
typedef int setting;
static setting set(void)
{
    return 0;
}
static void restore(setting before)
{
    (void)before;
}
#endif

/* ---- running ---------------------------------------------------------------------------------- */

/* How the work is cut: into `parts` of the sequences, side by side, each through the whole stack; or,
layer by layer, into whole `directions` and `shares` of each step's units. */
typedef struct {
    int threads, parts, shares, directions;
} cut;

/* One run, as all its threads see it, and where things lie in its room: what layers hand on (twice,
in turn), a room for each task that runs at once. */
typedef struct {
    const fl_stack *stack;
    const fl_call *call;
    cut cut;
    int64_t total; /* rows */
    fl_tape tapes[2]; /* of the directions, if there is a tape */
    size_t between[2], tasks, task_size;
    fl_stop *stop; /* NULL: runs to its end */
    int layer;     /* that runs now, if not in parts */
    _Atomic int64_t next; /* what nobody has begun: a part, or a direction */
    const fl_task *task;  /* whose units are shared, if any, */
    fl_meeting *meeting;  /* and where */
} run;

static int64_t rows_of(const fl_call *call)
{
    int64_t total = call->steps * call->batch;
    if (call->batch_sizes) {
        total = 0;
        for (int64_t t = 0; t < call->steps; t++)
            total += call->batch_sizes[t];
    }
    return total;
}

/* A direction's part of a call's tape; returns the bytes of the whole. */
static size_t place_tape(fl_tape *tape, const fl_stack *stack, const fl_call *call, int64_t total, int direction)
{
    const fl_shape *s = &stack->shape;
    int64_t lanes = stack->kernels->lanes, units = fl_up(s->hidden, lanes);
    int64_t every = call->every < call->steps ? call->every : call->steps; /* what it means, without overflow */
    int64_t parts = every ? (call->steps + every - 1) / every : 1;
    int64_t rows = every ? 0 : fl_panel_rows(total, GATES * lanes * s->itemsize);
    int64_t counts[] = {call->batch * s->output, parts * units * call->batch, rows * units * GATES, rows * units};
    size_t at[5] = {0};
    for (int n = 0; n < 4; n++)
        at[n + 1] = at[n] + fl_up(counts[n] * s->itemsize, 64);
    char *begin = (char *)call->tape + direction * at[4];
    *tape = (fl_tape){.h = begin, .states = begin + at[1], .every = every, .rows = rows};
    if (rows) {
        tape->gates = begin + at[2];
        tape->cells = begin + at[3];
    }
    return at[4] * s->directions;
}

size_t fl_tape_bytes(const fl_stack *stack, const fl_call *call)
{
    fl_tape tape;
    return place_tape(&tape, stack, call, rows_of(call), 0);
}

/* Floating-point operations, about a tenth of a millisecond's: below, threads cost more than they save. */
#define WORTH_THREADS 5e5
/* The same on the way back, where threads meet more often. */
#define WORTH_THREADS_BACK 8e6
/* Weights of one step, in bytes, that are worth meeting at every step. */
#define WORTH_MEETING (1 << 16)

static cut cut_of(const fl_stack *stack, const fl_call *call, int64_t total)
{
    const fl_shape *s = &stack->shape;
    const cut one = {1, 1, 1, 1};
    int n = call->threads < MOST_THREADS ? call->threads : MOST_THREADS;
    if (n < 2)
        return one;
    double work = 0;
    for (int layer = 0; layer < s->layers; layer++)
        work += 8.0 * total * s->directions * s->hidden * (inputs_of(s, layer) + s->output);
    if (work < WORTH_THREADS)
        return one;
    int meeting = 4 * s->hidden * s->output * s->itemsize >= WORTH_MEETING;
    if (call->batch >= 4 * n)
        return (cut){n, n, 1, 1};
    if (s->directions == 2 && (n == 2 || !meeting))
        return (cut){2, 1, 1, 2};
    if (meeting)
        return (cut){n, 1, n, 1};
    if (n > call->batch)
        n = (int)call->batch;
    return n > 1 ? (cut){n, n, 1, 1} : one;
}

/* Bytes from row to row of what one layer hands to the next. */
static int64_t between_stride(const fl_stack *stack)
{
    int64_t stride = stack->shape.directions * stack->shape.output * stack->shape.itemsize;
    return stride % 256 ? stride : stride + 64;
}

/* Where part k of the sequences begins: all have about the same number of steps to do, in sum. */
static int64_t row_of(const run *run, int part)
{
    const fl_call *call = run->call;
    if (part == 0 || part == run->cut.parts)
        return part ? call->batch : 0;
    if (!call->batch_sizes)
        return call->batch * part / run->cut.parts;
    int64_t row = 0, steps = run->total * part / run->cut.parts;
    for (int64_t t = call->steps; steps > 0 && t > 0; t--) /* longest first: t steps, of so many */
        for (; row < call->batch_sizes[t - 1] && steps > 0; row++)
            steps -= t;
    return row;
}

static fl_task task_of(const run *run, int layer, int direction, int part, int thread)
{
    const fl_call *call = run->call;
    const fl_shape *s = &run->stack->shape;
    int cell = layer * s->directions + direction;
    char *room = call->room;
    int64_t row = row_of(run, part);
    fl_task task = {
        .cell = &run->stack->cells[cell],
        .x = call->x, .x_stride = call->x_stride, .y = call->y, .y_stride = call->y_stride,
        .h = (char *)call->h + cell * call->batch * s->output * s->itemsize,
        .c = (char *)call->c + cell * call->batch * s->hidden * s->itemsize,
        .batch_sizes = call->batch_sizes, .steps = call->steps, .batch = call->batch,
        .total = run->total, .row = row, .rows = row_of(run, part + 1) - row,
        .reverse = direction || call->reverse, .odd = call->odd, .shares = run->cut.shares,
        .stop = run->stop, .asks = thread == 0,
        .room = room + run->tasks + run->task_size * (part + direction % run->cut.directions),
    };
    if (layer) {
        task.x = room + run->between[(layer - 1) % 2];
        task.x_stride = between_stride(run->stack);
    }
    if (layer < s->layers - 1) {
        task.y = room + run->between[layer % 2];
        task.y_stride = between_stride(run->stack);
    }
    task.y = (char *)task.y + direction * s->output * s->itemsize;
    if (call->tape)
        task.tape = &run->tapes[direction];
    return task;
}

static void prepare(run *run, const fl_stack *stack, const fl_call *call)
{
    const fl_shape *s = &stack->shape;
    run->stack = stack;
    run->call = call;
    run->total = rows_of(call);
    run->cut = cut_of(stack, call, run->total);
    for (int direction = 0; call->tape && direction < s->directions; direction++)
        place_tape(&run->tapes[direction], stack, call, run->total, direction);
    run->between[0] = run->between[1] = run->tasks = run->task_size = 0;
    if (s->layers > 1) {
        int64_t between = fl_up(run->total * between_stride(stack), 64);
        run->between[1] = between;
        run->tasks = s->layers > 2 ? 2 * between : between;
    }
}

/* The room of one task; layers above the second need what the second does. */
static size_t task_size(const run *run)
{
    size_t most = 0;
    for (int layer = 0; layer < run->stack->shape.layers && layer < 2; layer++)
        for (int part = 0; part < run->cut.parts; part++) {
            int64_t row = row_of(run, part);
            const fl_task task = {
                .cell = &run->stack->cells[layer * run->stack->shape.directions],
                .steps = run->call->steps, .batch = run->call->batch,
                .row = row, .rows = row_of(run, part + 1) - row,
            };
            size_t size = run->stack->kernels->room(&task);
            if (most < size)
                most = size;
        }
    return most;
}

size_t fl_room_bytes(const fl_stack *stack, const fl_call *call)
{
    run run;
    prepare(&run, stack, call);
    return run.tasks + task_size(&run) * run.cut.parts * run.cut.directions;
}

static int stopped(const run *run)
{
    return run->stop && fl_stopped(run->stop, 0, 0);
}

static void whole_stack(const run *run, int part, int thread)
{
    for (int layer = 0; layer < run->stack->shape.layers && !stopped(run); layer++)
        for (int direction = 0; direction < run->stack->shape.directions && !stopped(run); direction++) {
            const fl_task task = task_of(run, layer, direction, part, thread);
            run->stack->kernels->alone(&task);
        }
}

static void take_parts(void *context, int thread)
{
    run *run = context;
    setting before = set();
    for (int64_t part; (part = atomic_fetch_add(&run->next, 1)) < run->cut.parts;)
        whole_stack(run, (int)part, thread);
    restore(before);
}

static void take_directions(void *context, int thread)
{
    run *run = context;
    setting before = set();
    for (int64_t direction; (direction = atomic_fetch_add(&run->next, 1)) < run->cut.directions;) {
        const fl_task task = task_of(run, run->layer, (int)direction, 0, thread);
        run->stack->kernels->alone(&task);
    }
    restore(before);
}

static void take_shares(void *context, int thread)
{
    const run *run = context;
    setting before = set();
    run->stack->kernels->share(run->task, run->meeting, thread);
    restore(before);
}

static void share_layer(run *run, int direction)
{
    const fl_task task = task_of(run, run->layer, direction, 0, 0);
    fl_meeting meeting = {.done = 0};
    run->task = &task;
    run->meeting = &meeting;
    run->stack->kernels->begin(&task);
    fl_together(run->cut.threads, take_shares, run);
    run->stack->kernels->end(&task);
}

static void in_threads(run *run)
{
    run->task_size = task_size(run);
    run->next = 0;
    if (run->cut.parts > 1) {
        fl_together(run->cut.threads, take_parts, run);
        return;
    }
    for (run->layer = 0; run->layer < run->stack->shape.layers && !stopped(run); run->layer++) {
        run->next = 0;
        if (run->cut.directions > 1)
            fl_together(run->cut.threads, take_directions, run);
        else
            for (int direction = 0; direction < run->stack->shape.directions; direction++)
                share_layer(run, direction);
    }
}

int fl_run(const fl_stack *stack, const fl_call *call)
{
    run run;
    fl_stop stop = {.ask = call->stop};
    prepare(&run, stack, call);
    run.stop = call->stop ? &stop : NULL;
    if (run.cut.threads > 1) {
        in_threads(&run);
        return stop.stopped;
    }
    setting before = set();
    whole_stack(&run, 0, 0);
    restore(before);
    return stop.stopped;
}

/* ---- the way back ------------------------------------------------------------------------------- */

typedef struct {
    const fl_stack *stack;
    const fl_back_task *task;
    fl_meeting *meeting;
} way_back;

/* One direction's task; the gradients of both share dx. */
static fl_back_task back_task_of(const fl_stack *stack, const fl_back_call *back, int direction, fl_tape *tape,
                                 fl_stop *stop)
{
    const fl_call *call = back->call;
    const fl_shape *s = &stack->shape;
    size_t state = call->batch * s->itemsize;
    int n = call->threads < MOST_THREADS ? call->threads : MOST_THREADS;
    int64_t total = rows_of(call);
    place_tape(tape, stack, call, total, direction);
    if (n < 1 || 16.0 * total * s->hidden * (s->input + s->output) < WORTH_THREADS_BACK)
        n = 1;
    fl_back_task task = {
        .task = {
            .cell = &stack->cells[direction], .x = call->x, .x_stride = call->x_stride,
            .y = (char *)call->y + direction * s->output * s->itemsize, .y_stride = call->y_stride,
            .batch_sizes = call->batch_sizes, .steps = call->steps, .batch = call->batch, .total = total,
            .rows = call->batch, .reverse = direction || call->reverse,
            .tape = tape, .stop = stop,
        },
        .dy = (const char *)back->dy + direction * s->output * s->itemsize, .dy_stride = back->dy_stride,
        .dh = (char *)back->dh + direction * state * s->output,
        .dc = (char *)back->dc + direction * state * s->hidden,
        .dx = back->dx, .add = direction, .shares = n, .room = back->room,
        .by_units = n > 1 && call->batch < 4 * n && s->output == s->hidden
            && 4 * s->hidden * s->output * s->itemsize >= WORTH_MEETING,
    };
    if (back->dw)
        task.dw = back->dw[direction];
    return task;
}

size_t fl_back_room_bytes(const fl_stack *stack, const fl_back_call *back)
{
    fl_tape tape;
    const fl_back_task task = back_task_of(stack, back, 0, &tape, NULL);
    return stack->kernels->back_room(&task);
}

static void take_back(void *context, int thread)
{
    const way_back *way = context;
    setting before = set();
    way->stack->kernels->back(way->task, way->meeting, thread);
    restore(before);
}

int fl_back(const fl_stack *stack, const fl_back_call *back)
{
    fl_stop stop = {.ask = back->call->stop};
    for (int direction = 0; direction < stack->shape.directions && !stop.stopped; direction++) {
        fl_tape tape;
        const fl_back_task task = back_task_of(stack, back, direction, &tape, stop.ask ? &stop : NULL);
        fl_meeting meeting = {.done = 0};
        way_back way = {stack, &task, task.shares > 1 ? &meeting : NULL};
        if (task.shares > 1)
            fl_together(task.shares, take_back, &way);
        else
            take_back(&way, 0);
    }
    return stop.stopped;
}

/* ---- the linear product -------------------------------------------------------------------------- */

/* One product, as all its threads see it: blocks of rows, and in each `parts` of the outputs' panels. */
typedef struct {
    const fl_linear *linear;
    const fl_linear_call *call;
    int64_t panels, blocks, parts;
    _Atomic int64_t next; /* what nobody has begun */
} linear_run;

size_t fl_linear_bytes(int32_t itemsize, int64_t inputs, int64_t outputs, int isa)
{
    const fl_shape shape = {.itemsize = itemsize};
    int64_t whole = fl_up(outputs, GATES * kernels_of(&shape, isa)->lanes);
    return fl_up(sizeof(fl_linear), 64) + fl_up(inputs * whole * itemsize, 64) + whole * itemsize;
}

fl_linear *fl_pack_linear(void *memory, int32_t itemsize, int64_t inputs, int64_t outputs, int isa,
                          const void *w, const void *b)
{
    const fl_shape shape = {.itemsize = itemsize};
    const fl_kernels *kernels = kernels_of(&shape, isa);
    int64_t whole = fl_up(outputs, GATES * kernels->lanes);
    fl_linear *linear = memory;
    char *places = (char *)memory + fl_up(sizeof(fl_linear), 64);
    *linear = (fl_linear){kernels, inputs, outputs, places, places + fl_up(inputs * whole * itemsize, 64)};
    kernels->pack_linear(linear, w, b);
    return linear;
}

static void take_linear(void *context, int thread)
{
    (void)thread;
    linear_run *run = context;
    const fl_linear_call *call = run->call;
    int64_t job, jobs = run->blocks * run->parts;
    setting before = set();
    while ((job = atomic_fetch_add(&run->next, 1)) < jobs) {
        int64_t row = job / run->parts * LINEAR_ROWS, part = job % run->parts, left = call->rows - row;
        int64_t from = run->panels * part / run->parts, to = run->panels * (part + 1) / run->parts;
        int64_t rows = left < LINEAR_ROWS ? left : LINEAR_ROWS;
        run->linear->kernels->linear(run->linear, (const char *)call->x + row * call->x_stride, call->x_stride,
                                     (char *)call->y + row * call->y_stride, call->y_stride, rows, from, to);
    }
    restore(before);
}

void fl_run_linear(const fl_linear *linear, const fl_linear_call *call)
{
    linear_run run = {.linear = linear, .call = call};
    double work = 2.0 * linear->inputs * linear->outputs * call->rows;
    int64_t wide = GATES * linear->kernels->lanes;
    int n = work < WORTH_THREADS ? 1 : call->threads < MOST_THREADS ? call->threads : MOST_THREADS;
    run.panels = fl_up(linear->outputs, wide) / wide;
    run.blocks = fl_up(call->rows, LINEAR_ROWS) / LINEAR_ROWS;
    run.parts = run.blocks >= 4 * n ? 1 : n < run.panels ? n : run.panels; /* few rows: share the outputs */
    if (n > 1)
        fl_together(n, take_linear, &run);
    else
        take_linear(&run, 0);
}
