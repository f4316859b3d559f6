/* Packing a stack, and running it over layers, directions and threads. */

#include "internal.h"
#include "modes.h"

/* ---- packing --------------------------------------------------------------------------------- */

/* Place the arrays of all cells behind the stack and return the bytes of the whole. `stack` may be NULL. */
static size_t place_cells(fl_stack *stack, const fl_shape *shape, const fl_kernels *kernels)
{
    int cells = shape->layers * shape->directions;
    size_t at = fl_up(sizeof(fl_stack) + cells * sizeof(fl_cell), 64);
    const int64_t H = shape->hidden, P = shape->output, wide = (int64_t)WIDTH * kernels->lanes;
    const int64_t units = fl_up(H, kernels->lanes), gates = units * GATES;
    const int64_t value = shape->itemsize, weight = kernels->weight_bytes;
    const int peepholes = shape->options != NULL; /* There is a place for them, whether a cell has them or not. */
    const int norm_gates = peepholes && shape->options->layer_norm == FL_NORM_GATES;
    const int norm_sums = peepholes && shape->options->layer_norm == FL_NORM_SUMS, back = shape->back != 0;
    for (int k = 0; k < cells; k++) {
        int64_t I = fl_inputs(shape, k / shape->directions);
        fl_cell cell = {.I = I, .H = H, .P = P};
        const struct {
            void **place;
            int64_t bytes;
        } arrays[] = {
            {&cell.w, (I + P) * gates * weight},
            {&cell.b, gates * value},
            {&cell.w_hr, P == H ? 0 : wide * value + fl_up(P, wide) * H * weight}, /* after zeros */
            {&cell.w_ci, peepholes * units * value},
            {&cell.w_cf, peepholes * units * value},
            {&cell.w_co, peepholes * units * value},
            {&cell.ln, norm_gates * gates * value},
            {&cell.ln_ih, norm_sums * gates * value},
            {&cell.ln_hh, norm_sums * gates * value},
            {&cell.ln_c, norm_sums * units * value},
            {&cell.b_c, norm_sums * units * value},
            {&cell.back_ih, back * fl_up(I, wide) * gates * weight},
            {&cell.back_hh, back * fl_up(P, wide) * gates * weight},
            {&cell.back_hr, P == H ? 0 : back * fl_up(H, wide) * P * weight},
        };
        for (size_t n = 0; n < sizeof arrays / sizeof *arrays; n++)
            if (arrays[n].bytes) {
                *arrays[n].place = stack ? (char *)stack + at : NULL;
                at = fl_up(at + arrays[n].bytes, 64);
            }
        if (stack) {
            cell.options = &stack->options;
            cell.caches = &stack->caches;
            cell.kind = shape->options ? FL_GENERAL : FL_PLAIN;
            stack->cells[k] = cell;
        }
    }
    return at;
}

size_t fl_stack_bytes(const fl_shape *shape, int isa)
{
    return place_cells(NULL, shape, fl_kernels_of(isa, shape->itemsize));
}

static const fl_options plain = {
    .gate_clip = INFINITY, .cell_clip = INFINITY, .proj_clip = INFINITY,
    .gate = {.function = FL_SIGMOID}, .cell = {.function = FL_TANH}, .output = {.function = FL_TANH},
};

fl_stack *fl_pack(void *memory, const fl_shape *shape, int isa, const fl_arrays *parameters)
{
    fl_stack *stack = memory;
    stack->shape = *shape;
    stack->shape.options = NULL;
    stack->shape.caches = NULL;
    stack->options = shape->options ? *shape->options : plain;
    stack->caches = shape->caches ? *shape->caches : fl_caches_here();
    stack->isa = fl_instruction_set_of(isa);
    stack->kernels = fl_kernels_of(isa, shape->itemsize);
    place_cells(stack, shape, stack->kernels);
    for (int k = 0; k < shape->layers * shape->directions; k++) {
        stack->kernels->pack(&stack->cells[k], &parameters[k]);
        if (shape->back)
            stack->kernels->pack_back(&stack->cells[k], &parameters[k]);
    }
    return stack;
}

int fl_are_few(const fl_stack *stack, int64_t batch)
{
    const fl_shape *s = &stack->shape;
    return batch == 1 && s->directions == 1 && s->output == s->hidden && stack->cells->kind == FL_PLAIN
        && s->hidden <= FEW_UNITS;
}

const char *fl_stack_isa(const fl_stack *stack)
{
    return stack->isa->name;
}

int fl_stack_lanes(const fl_stack *stack)
{
    return stack->kernels->lanes;
}

/* ---- running --------------------------------------------------------------------------------------- */

/* One run, as all its threads see it, and what lies where in its scratch memory: what a layer hands to the next
(two arrays, in turn), and then the scratch memory of each task that runs at once. */
typedef struct {
    const fl_stack *stack;
    const fl_call *call;
    fl_cut cut;
    int64_t rows;
    fl_tape tapes[2]; /* of each direction, if the run is recorded */
    size_t between[2], tasks, task_size;
    fl_stop *stop;        /* NULL: it cannot be stopped */
    int layer;            /* which layer runs now, unless parts run through all of them */
    _Atomic int64_t next; /* the first part or direction that no thread has begun */
    const fl_task *task;  /* the task whose units threads share now, if they do, */
    fl_meeting *meeting;  /* and where they meet */
} stack_run;

static int64_t rows_of(const fl_call *call)
{
    if (!call->batch_sizes)
        return call->steps * call->batch;
    int64_t rows = 0;
    for (int64_t t = 0; t < call->steps; t++)
        rows += call->batch_sizes[t];
    return rows;
}

/* Place a direction's arrays in the call's tape and return the bytes of the whole tape. */
static size_t place_tape(fl_tape *tape, const fl_stack *stack, const fl_call *call, int64_t rows, int direction)
{
    const fl_shape *s = &stack->shape;
    int64_t lanes = stack->kernels->lanes, units = fl_up(s->hidden, lanes);
    /* An interval longer than the call means the same as one of its length, and does not overflow. */
    int64_t interval = call->checkpoint_interval < call->steps ? call->checkpoint_interval : call->steps;
    int64_t segments = interval ? (call->steps + interval - 1) / interval : 1;
    int64_t values = fl_saved_values(&stack->cells[direction]);
    int64_t panel_rows = interval ? 0 : fl_panel_rows(rows, values * lanes * s->itemsize);
    int64_t counts[] = {call->batch * s->output, segments * units * call->batch, panel_rows * units * values,
                        panel_rows * units};
    size_t at[5] = {0};
    for (int n = 0; n < 4; n++)
        at[n + 1] = at[n] + fl_up(counts[n] * s->itemsize, 64);
    char *begin = (char *)call->tape + direction * at[4];
    *tape = (fl_tape){.h = begin, .states = begin + at[1], .interval = interval, .panel_rows = panel_rows};
    if (panel_rows) {
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

/* The bytes from row to row of what one layer hands to the next. Rows at a multiple of 256 bytes would share few
places of the cache. */
static int64_t between_stride(const fl_stack *stack)
{
    int64_t stride = stack->shape.directions * stack->shape.output * stack->shape.itemsize;
    return stride % 256 ? stride : stride + 64;
}

/* The first sequence of a part. A step of a stream has one part, and does without the call. */
static int64_t first_sequence(const stack_run *run, int part)
{
    if (run->cut.groups == 1)
        return part ? run->call->batch : 0;
    return fl_first_sequence(run->call, run->rows, run->cut.groups, part);
}

static fl_task task_of(const stack_run *run, int layer, int direction, int part, int thread)
{
    const fl_call *call = run->call;
    const fl_shape *s = &run->stack->shape;
    int cell = layer * s->directions + direction;
    char *scratch = call->scratch;
    int64_t first = first_sequence(run, part);
    fl_task task = {
        .cell = &run->stack->cells[cell],
        .x = call->x, .x_stride = call->x_stride, .y = call->y, .y_stride = call->y_stride,
        .h = (char *)call->h + cell * call->batch * s->output * s->itemsize,
        .c = (char *)call->c + cell * call->batch * s->hidden * s->itemsize,
        .batch_sizes = call->batch_sizes, .steps = call->steps, .batch = call->batch,
        .rows = run->rows, .first_sequence = first, .sequences = first_sequence(run, part + 1) - first,
        .reverse = direction || call->reverse, .parity = call->parity, .shares = run->cut.shares,
        .noise = call->noise ? &call->noise[direction] : NULL, .stop = run->stop, .is_caller = thread == 0,
        .scratch = scratch + run->tasks + run->task_size * (part + direction % run->cut.teams),
    };
    if (layer) {
        task.x = scratch + run->between[(layer - 1) % 2];
        task.x_stride = between_stride(run->stack);
    }
    if (layer < s->layers - 1) {
        task.y = scratch + run->between[layer % 2];
        task.y_stride = between_stride(run->stack);
    }
    task.y = (char *)task.y + direction * s->output * s->itemsize;
    if (call->tape)
        task.tape = &run->tapes[direction];
    if (call->cells) {
        task.cells = (char *)call->cells + direction * s->hidden * s->itemsize;
        task.cells_stride = call->cells_stride;
    }
    return task;
}

static void prepare(stack_run *run, const fl_stack *stack, const fl_call *call)
{
    const fl_shape *s = &stack->shape;
    run->stack = stack;
    run->call = call;
    run->rows = rows_of(call);
    run->cut = call->cut ? *call->cut : fl_cut_of(s, call, run->rows);
    for (int direction = 0; call->tape && direction < s->directions; direction++)
        place_tape(&run->tapes[direction], stack, call, run->rows, direction);
    run->between[0] = run->between[1] = run->tasks = run->task_size = 0;
    if (s->layers > 1) {
        int64_t between = fl_up(run->rows * between_stride(stack), 64);
        run->between[1] = between;
        run->tasks = s->layers > 2 ? 2 * between : between;
    }
}

/* The bytes of scratch memory of one task. Layers above the second need as many as the second. */
static size_t task_size(const stack_run *run)
{
    size_t most = 0;
    for (int layer = 0; layer < run->stack->shape.layers && layer < 2; layer++)
        for (int part = 0; part < run->cut.groups; part++) {
            int64_t first = first_sequence(run, part);
            const fl_task task = {
                .cell = &run->stack->cells[layer * run->stack->shape.directions],
                .steps = run->call->steps, .batch = run->call->batch,
                .first_sequence = first, .sequences = first_sequence(run, part + 1) - first,
                .shares = run->cut.shares, .noise = run->call->noise,
            };
            size_t size = run->stack->kernels->scratch_bytes(&task);
            if (most < size)
                most = size;
        }
    return most;
}

size_t fl_scratch_bytes(const fl_stack *stack, const fl_call *call)
{
    stack_run run;
    prepare(&run, stack, call);
    return run.tasks + task_size(&run) * run.cut.groups * run.cut.teams;
}

static int stopped(const stack_run *run)
{
    return run->stop && fl_stopped(run->stop, 0, 0);
}

/* Run one part of the sequences through all layers. */
static void run_part(const stack_run *run, int part, int thread)
{
    for (int layer = 0; layer < run->stack->shape.layers && !stopped(run); layer++)
        for (int direction = 0; direction < run->stack->shape.directions && !stopped(run); direction++) {
            const fl_task task = task_of(run, layer, direction, part, thread);
            run->stack->kernels->run_alone(&task);
        }
}

/* What each thread of a run calls, by the way the work is cut: it takes what no other thread has begun. */
static void take_parts(void *context, int thread)
{
    stack_run *run = context;
    fl_mode before = fl_set_mode();
    for (int64_t part; (part = atomic_fetch_add(&run->next, 1)) < run->cut.groups;)
        run_part(run, (int)part, thread);
    fl_restore_mode(before);
}

static void take_directions(void *context, int thread)
{
    stack_run *run = context;
    fl_mode before = fl_set_mode();
    for (int64_t direction; (direction = atomic_fetch_add(&run->next, 1)) < run->cut.teams;) {
        const fl_task task = task_of(run, run->layer, (int)direction, 0, thread);
        run->stack->kernels->run_alone(&task);
    }
    fl_restore_mode(before);
}

static void take_shares(void *context, int thread)
{
    const stack_run *run = context;
    fl_mode before = fl_set_mode();
    run->stack->kernels->run_share(run->task, run->meeting, thread);
    fl_restore_mode(before);
}

static void share_layer(stack_run *run, int direction)
{
    const fl_task task = task_of(run, run->layer, direction, 0, 0);
    fl_meeting meeting = {.done = 0};
    run->task = &task;
    run->meeting = &meeting;
    run->stack->kernels->begin(&task);
    fl_together(run->cut.threads, take_shares, run);
    run->stack->kernels->end(&task);
}

static void run_in_threads(stack_run *run)
{
    run->task_size = task_size(run);
    run->next = 0;
    if (run->cut.groups > 1) {
        fl_together(run->cut.threads, take_parts, run);
        return;
    }
    for (run->layer = 0; run->layer < run->stack->shape.layers && !stopped(run); run->layer++) {
        run->next = 0;
        if (run->cut.teams > 1)
            fl_together(run->cut.threads, take_directions, run);
        else
            for (int direction = 0; direction < run->stack->shape.directions; direction++)
                share_layer(run, direction);
    }
}

int fl_run(const fl_stack *stack, const fl_call *call)
{
    stack_run run;
    fl_stop stop = {.ask = call->stop};
    prepare(&run, stack, call);
    run.stop = call->stop ? &stop : NULL;
    if (run.cut.threads > 1) {
        run_in_threads(&run);
        return stop.stopped;
    }
    fl_mode before = fl_set_mode();
    run_part(&run, 0, 0);
    fl_restore_mode(before);
    return stop.stopped;
}

void fl_saved(const fl_stack *stack, const fl_call *call, int direction, void *gates, void *cells)
{
    stack_run run;
    prepare(&run, stack, call);
    run.stop = NULL;
    run.cut = (fl_cut){.threads = 1, .groups = 1, .teams = 1, .seats = 1, .shares = 1};
    const fl_task task = task_of(&run, 0, direction, 0, 0);
    fl_mode before = fl_set_mode();
    stack->kernels->saved(&task, gates, cells);
    fl_restore_mode(before);
}

/* ---- the way back ------------------------------------------------------------------------------- */

/* One direction, as all its threads see it. */
typedef struct {
    const fl_stack *stack;
    const fl_back_task *task;
} back_run;

/* The task of one direction. Both directions add to the same dx. */
static fl_back_task back_task_of(const fl_stack *stack, const fl_back_call *back, int direction, fl_tape *tape,
                                 fl_stop *stop)
{
    const fl_call *call = back->call;
    const fl_shape *s = &stack->shape;
    size_t state = call->batch * s->itemsize;
    int64_t rows = rows_of(call);
    const fl_back_cut cut = back->cut ? *back->cut : fl_back_cut_of(s, &stack->options, call, rows);
    const int units_apart = s->output == s->hidden && !stack->options.layer_norm;
    place_tape(tape, stack, call, rows, direction);
    fl_back_task task = {
        .task = {
            .cell = &stack->cells[direction], .x = call->x, .x_stride = call->x_stride,
            .y = (char *)call->y + direction * s->output * s->itemsize, .y_stride = call->y_stride,
            .batch_sizes = call->batch_sizes, .steps = call->steps, .batch = call->batch, .rows = rows,
            .sequences = call->batch, .reverse = direction || call->reverse,
            .shares = 1, /* No units are split where a segment is computed again. */
            .tape = tape, .noise = call->noise ? &call->noise[direction] : NULL, .stop = stop,
        },
        .dy = (const char *)back->dy + direction * s->output * s->itemsize, .dy_stride = back->dy_stride,
        .dh = (char *)back->dh + direction * state * s->output,
        .dc = (char *)back->dc + direction * state * s->hidden,
        .dcells = back->dcells ? back->dcells[direction] : NULL, .dx = back->dx, .add_dx = direction,
        .threads = cut.threads, .groups = cut.groups, .shares = units_apart ? cut.shares : 1, .scratch = back->scratch,
    };
    if (back->dw)
        task.dw = back->dw[direction];
    return task;
}

size_t fl_back_scratch_bytes(const fl_stack *stack, const fl_back_call *back)
{
    fl_tape tape;
    const fl_back_task task = back_task_of(stack, back, 0, &tape, NULL);
    return stack->kernels->back_scratch_bytes(&task);
}

static void take_back(void *context, int thread)
{
    const back_run *run = context;
    fl_mode before = fl_set_mode();
    run->stack->kernels->back(run->task, thread);
    fl_restore_mode(before);
}

int fl_back(const fl_stack *stack, const fl_back_call *back)
{
    fl_stop stop = {.ask = back->call->stop};
    for (int direction = 0; direction < stack->shape.directions && !stop.stopped; direction++) {
        fl_tape tape;
        const fl_back_task task = back_task_of(stack, back, direction, &tape, stop.ask ? &stop : NULL);
        back_run run = {stack, &task};
        stack->kernels->begin_back(&task);
        if (task.threads > 1)
            fl_together(task.threads, take_back, &run);
        else
            take_back(&run, 0);
    }
    return stop.stopped;
}
