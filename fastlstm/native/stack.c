/* Packing a stack, and the way back through it. */

#include "internal.h"
#include "modes.h"

/* ---- packing --------------------------------------------------------------------------------- */

/* Place the arrays of all cells behind the stack and return the bytes of the whole. `stack` may be NULL. */
static int64_t place_cells(fl_stack *stack, const fl_shape *shape, const fl_kernels *kernels)
{
    const int cells = shape->layers * shape->directions;
    int64_t at = fl_up(sizeof(fl_stack) + cells * (int64_t)sizeof(fl_cell), 64);
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

size_t fl_stack_bytes(const fl_shape *given, int isa)
{
    fl_shape shape;
    fl_options options;
    if (fl_check_shape(given, isa, &shape, &options))
        return 0;
    return fl_size(place_cells(NULL, &shape, fl_kernels_of(isa, shape.itemsize)));
}

static const fl_options plain = {
    .gate_clip = INFINITY,
    .cell_clip = INFINITY,
    .proj_clip = INFINITY,
    .gate = {.function = FL_SIGMOID},
    .cell = {.function = FL_TANH},
    .output = {.function = FL_TANH},
};

fl_stack *fl_place_stack(void *memory, const fl_shape *shape, int isa)
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
    const fl_call step = {.steps = 1, .batch = 1, .threads = 1};
    stack->most_rows = fl_most_rows(shape);
    stack->step_bytes = 0; /* so that it is counted */
    stack->step_bytes = fl_scratch_bytes_of(stack, &step);
    return stack;
}

fl_status fl_pack(void *memory, size_t size, const fl_shape *given, int isa, const fl_arrays *parameters,
                  fl_stack **packed)
{
    fl_shape shape;
    fl_options options;
    fl_arrays arrays;
    if (!packed)
        return FL_NULL;
    fl_status status = fl_check_shape(given, isa, &shape, &options);
    if (status)
        return status;
    const fl_kernels *kernels = fl_kernels_of(isa, shape.itemsize);
    const int cells = shape.layers * shape.directions;
    for (int k = 0; k < cells; k++)
        if ((status = fl_check_parameters(&shape, parameters, k, &arrays)))
            return status;
    if ((status = fl_check_memory(memory, size, place_cells(NULL, &shape, kernels))))
        return status;
    fl_stack *stack = fl_place_stack(memory, &shape, isa);
    for (int k = 0; k < cells; k++) {
        const fl_arrays *own = fl_nth_arrays(parameters, k, &arrays, &status);
        kernels->pack(&stack->cells[k], own);
        if (WITH_TRAINING && shape.back)
            kernels->pack_back(&stack->cells[k], own);
    }
    *packed = stack;
    return FL_OK;
}

/* How many bytes a table of so many rows has; 0 if it cannot be. */
static int64_t table_bytes(const fl_stack *stack, int64_t rows)
{
    const int64_t row = stack->shape.directions * fl_table_row(stack);
    return rows < 1 || rows > INT64_MAX / row ? 0 : rows * row;
}

size_t fl_table_bytes(const fl_stack *stack, int64_t rows)
{
    return stack ? fl_size(table_bytes(stack, rows)) : 0;
}

fl_status fl_fill_table(const fl_stack *stack, const void *x, int64_t x_stride, int64_t rows, void *table, size_t size)
{
    if (!stack)
        return FL_NULL;
    if (rows < 1)
        return FL_BAD_CALL;
    fl_status status = fl_check_rows(x, x_stride, rows, 0, stack->shape.itemsize);
    if (status || (status = fl_check_memory(table, size, table_bytes(stack, rows))))
        return status;
    fl_mode before = fl_set_mode();
    for (int direction = 0; direction < stack->shape.directions; direction++)
        stack->kernels->fill_table(&stack->cells[direction], x, fl_stride(x_stride, rows), rows,
                                   (char *)table + direction * rows * fl_table_row(stack));
    fl_restore_mode(before);
    return FL_OK;
}

int fl_are_few(const fl_stack *stack, int64_t batch)
{
    const fl_shape *s = &stack->shape;
    return batch == 1 && s->directions == 1 && s->output == s->hidden && stack->cells->kind == FL_PLAIN
        && s->hidden <= FEW_UNITS;
}

const char *fl_stack_isa(const fl_stack *stack)
{
    return stack ? stack->isa->name : NULL;
}

int fl_stack_lanes(const fl_stack *stack)
{
    return stack ? stack->kernels->lanes : 0;
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
    int64_t rows = fl_rows_of(call);
    const fl_back_cut cut = back->cut ? *back->cut : fl_back_cut_of(stack, call, rows);
    const int units_apart = s->output == s->hidden && !stack->options.layer_norm;
    fl_arrays own;
    fl_status status;
    fl_place_tape(tape, stack, call, rows, direction);
    fl_back_task task = {
        .task =
            {
                .cell = &stack->cells[direction],
                .x = call->x,
                .x_stride = fl_stride(call->x_stride, rows),
                .y = fl_offset(call->y, direction * s->output * s->itemsize),
                .y_stride = fl_stride(call->y_stride, rows),
                .batch_sizes = call->batch_sizes,
                .steps = call->steps,
                .batch = call->batch,
                .rows = rows,
                .sequences = call->batch,
                .reverse = direction || call->reverse,
                .shares = 1, /* No units are split where a segment is computed again. */
                .tape = tape,
                .noise = call->noise ? &call->noise[direction] : NULL,
                .stop = stop,
            },
        .dy = fl_offset(back->dy, direction * s->output * s->itemsize),
        .dy_stride = fl_stride(back->dy_stride, rows),
        .dh = fl_offset(back->dh, direction * state * s->output),
        .dc = fl_offset(back->dc, direction * state * s->hidden),
        .dcells = back->dcells ? back->dcells[direction] : NULL,
        .dx = back->dx,
        .add_dx = direction,
        .fill_dw = back->fill_dw,
        .threads = cut.threads,
        .groups = cut.groups,
        .shares = units_apart ? cut.shares : 1,
        .scratch = back->scratch,
    };
    if (back->dw)
        task.dw = *fl_nth_arrays(back->dw, direction, &own, &status);
    return task;
}

static int64_t back_scratch_bytes(const fl_stack *stack, const fl_back_call *back)
{
    fl_tape tape;
    fl_back_call sizes = *back;
    sizes.dw = NULL;
    sizes.dcells = NULL;
    const fl_back_task task = back_task_of(stack, &sizes, 0, &tape, NULL);
    return fl_up(stack->kernels->back_scratch_bytes(&task), 64);
}

size_t fl_back_scratch_bytes(const fl_stack *stack, const fl_back_call *given)
{
    fl_back_call back;
    fl_call own;
    fl_status status;
    const fl_back_call *taken = WITH_TRAINING && stack && stack->shape.back
        ? fl_known(given, &back, sizeof back, &status)
        : NULL;
    if (!taken)
        return 0;
    back = *taken;
    back.call = fl_check_work(stack, back.call, &own, &status);
    if (!back.call || stack->shape.layers > 1 || (back.cut && fl_check_back_cut(stack, back.cut, back.call->batch)))
        return 0;
    return fl_size(back_scratch_bytes(stack, &back));
}

static void take_back(void *context, int thread)
{
    const back_run *run = context;
    fl_mode before = fl_set_mode();
    run->stack->kernels->back(run->task, thread);
    fl_restore_mode(before);
}

static fl_status go_back(const fl_stack *stack, const fl_back_call *back)
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
    return stop.stopped ? FL_STOPPED : FL_OK;
}

fl_status fl_back(const fl_stack *stack, const fl_back_call *given)
{
    fl_back_call back;
    fl_call own;
    fl_arrays arrays;
    fl_status status = FL_NULL;
    const fl_back_call *taken = stack ? fl_known(given, &back, sizeof back, &status) : NULL;
    if (!taken)
        return status;
    if (!WITH_TRAINING || !stack->shape.back)
        return FL_UNSUPPORTED;
    back = *taken;
    back.call = fl_check_recorded(stack, back.call, &own, &status);
    if (!back.call || (status = fl_check_back(stack, &back, fl_rows_of(back.call))))
        return status;
    for (int direction = 0; direction < stack->shape.directions; direction++)
        if ((status = fl_check_gradients(stack, back.dw, direction, &arrays)))
            return status;
    status = fl_check_memory(back.scratch, back.scratch_size, back_scratch_bytes(stack, &back));
    return status ? status : go_back(stack, &back);
}
