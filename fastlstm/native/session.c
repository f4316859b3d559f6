/* Sessions: the states of some sequences that run through a model, and the memory to work in. A run goes through the
model in blocks of steps, so that its values stay in the caches and take little memory. Nothing here allocates or
locks, and with one thread nothing waits. */

#include "model.h"
#include "modes.h"

enum {
    BLOCK_STEPS = 64,  /* of a block at most, */
    BLOCK_ROWS = 1024, /* and so many rows, */
    LEAST_STEPS = 4,   /* but so many steps */
    MOST_BETWEEN = 2,  /* what small layers hand to the next, by turns */
};
/* Estimates of sizes are at most this, and at least what they estimate. */
#define MOST_BYTES ((double)PTRDIFF_MAX / 2)

/* The rows of a value: each step has one for each sequence. */
typedef struct {
    char *at;
    int64_t stride; /* bytes from row to row */
} value_rows;

/* What an LSTM remembers: rows of h and c, [cell][sequence], with padding if its steps are made by `few_steps`. */
typedef struct {
    char *h, *c;
    int64_t h_row, c_row; /* bytes */
    fl_few *layers;       /* NULL: `few_steps` does not make them */
    int parity;           /* of fl_call */
} lstm_memory;

struct fl_session {
    const fl_model *model;
    int64_t batch, most_steps, block; /* block: the most steps that go through the model at once */
    value_rows *values;               /* [operations + 1]; those of value 0 and of the last are the caller's */
    lstm_memory *memories;            /* of each LSTM */
    char *scratch;                    /* one node after the other works there */
    int64_t scratch_size;
};

/* ---- what lies where --------------------------------------------------------------------------------- */

static int64_t block_of(const fl_model *model, int64_t batch, int64_t most_steps)
{
    if (!model->info.steps)
        return most_steps;
    int64_t block = BLOCK_ROWS / batch;
    block = block < LEAST_STEPS ? LEAST_STEPS : block > BLOCK_STEPS ? BLOCK_STEPS : block;
    return block < most_steps ? block : most_steps;
}

/* What goes through an LSTM at once, but for the arrays. */
static fl_call call_of(const fl_operation *operation, int64_t batch, int64_t steps, int32_t threads)
{
    return (fl_call){
        .struct_size = sizeof(fl_call),
        .steps = steps,
        .batch = batch,
        .threads = threads,
        .reverse = operation->of.lstm.reverse,
    };
}

/* Whether the first layer of an LSTM, of which small steps are made, has its inputs multiplied for many steps. */
static int hoists(const fl_stack *stack, int64_t padded)
{
    return stack->shape.layers == 1 && fl_hoists_inputs(stack->shape.input * GATES * padded);
}

static int64_t padded_row(const fl_stack *stack)
{
    return fl_up(stack->shape.hidden, stack->kernels->lanes) * stack->shape.itemsize;
}

/* The bytes that an LSTM needs to work, with any number of threads that suits it. A call that asks for another number
makes do with fewer threads if that would need more. */
static int64_t lstm_scratch(const fl_operation *operation, int64_t batch, int64_t steps)
{
    const fl_stack *stack = operation->of.lstm.stack;
    const int64_t padded = padded_row(stack);
    if (fl_are_few(stack, batch) && !operation->of.lstm.reverse)
        return MOST_BETWEEN * padded + (steps > 1 && hoists(stack, padded) ? steps * GATES * padded : 0);
    int64_t most = 0;
    const int32_t most_threads = WITH_THREADS ? MOST_THREADS : 1;
    for (int32_t threads = 1; threads <= most_threads; threads += threads < 4 ? 1 : threads / 2) {
        const fl_call call = call_of(operation, batch, steps, threads);
        const int64_t size = fl_scratch_bytes_of(stack, &call);
        most = most < size ? size : most;
    }
    return most;
}

/* Those of the padded input of a convolution, of one row. */
static int64_t convolution_scratch(const fl_operation *operation, int64_t itemsize)
{
    if (!operation->of.product.padding)
        return 0;
    return (operation->of.product.length + 2 * operation->of.product.padding) * operation->of.product.channels
        * itemsize;
}

static int64_t scratch_of(const fl_model *model, int64_t batch, int64_t block)
{
    int64_t most = 0;
    for (int32_t n = 0; n < model->operations; n++) {
        const fl_operation *operation = &model->operation[n];
        const int64_t size = operation->kind == NODE_LSTM ? lstm_scratch(operation, batch, block)
            : operation->kind == NODE_CONVOLUTION         ? convolution_scratch(operation, model->info.itemsize)
                                                          : 0;
        most = most < size ? size : most;
    }
    return most;
}

/* Take some bytes of the memory. `memory` may be NULL. */
static void *take(char *memory, int64_t *at, int64_t bytes)
{
    void *place = memory ? memory + *at : NULL;
    *at = fl_up(*at + bytes, 64);
    return place;
}

/* Place the states of an LSTM. */
static lstm_memory place_lstm(char *memory, int64_t *at, const fl_operation *operation, int64_t batch)
{
    const fl_stack *stack = operation->of.lstm.stack;
    const fl_shape *s = &stack->shape;
    const int few = fl_are_few(stack, batch) && !operation->of.lstm.reverse;
    const int64_t rows = s->layers * s->directions * batch;
    lstm_memory own = {
        .h_row = few ? padded_row(stack) : s->output * s->itemsize,
        .c_row = few ? padded_row(stack) : s->hidden * s->itemsize,
    };
    own.h = take(memory, at, rows * own.h_row);
    own.c = take(memory, at, rows * own.c_row);
    if (few)
        own.layers = take(memory, at, s->layers * (int64_t)sizeof(fl_few));
    return own;
}

/* Let the layers of an LSTM know their states and where they work. */
static void place_layers(lstm_memory *own, const fl_stack *stack, char *scratch, int64_t block)
{
    const int64_t padded = padded_row(stack);
    for (int layer = 0; own->layers && layer < stack->shape.layers; layer++) {
        own->layers[layer] = fl_few_of(&stack->cells[layer], stack->kernels->lanes, own->h + layer * own->h_row,
                                       own->c + layer * own->c_row);
        own->layers[layer].z = scratch + MOST_BETWEEN * padded;
        own->layers[layer].hoist = block > 1 && hoists(stack, padded) ? block : 0;
    }
}

/* Place a session's arrays behind it and return the bytes of the whole. `memory` may be NULL. */
static int64_t place_session(fl_session *memory, const fl_model *model, int64_t batch, int64_t most_steps)
{
    char *bytes = (char *)memory;
    int64_t at = 0;
    const int64_t block = block_of(model, batch, most_steps), size = model->info.itemsize;
    take(bytes, &at, (int64_t)sizeof *memory);
    value_rows *values = take(bytes, &at, (model->operations + 1) * (int64_t)sizeof *values);
    lstm_memory *memories = take(bytes, &at, model->lstms * (int64_t)sizeof *memories);
    for (int32_t n = 0; n < model->operations; n++) {
        const fl_operation *operation = &model->operation[n];
        if (operation->kind != NODE_LSTM)
            continue;
        const lstm_memory own = place_lstm(bytes, &at, operation, batch);
        if (memory)
            memories[operation->of.lstm.number] = own;
    }
    for (int32_t slot = 0; slot < model->slots; slot++) {
        const int64_t all = model->slot[slot].all * block, one = model->slot[slot].one;
        char *place = take(bytes, &at, (all > one ? all : one) * batch * size);
        for (int32_t n = 0; memory && n < model->operations; n++)
            if (model->operation[n].slot == slot)
                values[n + 1] = (value_rows){place, model->operation[n].O * size};
    }
    const int64_t scratch_size = fl_up(scratch_of(model, batch, block), 64);
    char *scratch = take(bytes, &at, scratch_size);
    if (!memory)
        return at;
    *memory = (fl_session){
        .model = model,
        .batch = batch,
        .most_steps = most_steps,
        .block = block,
        .values = values,
        .memories = memories,
        .scratch = scratch,
        .scratch_size = scratch_size,
    };
    for (int32_t n = 0; n < model->operations; n++) {
        const fl_operation *operation = &model->operation[n];
        if (operation->kind == NODE_LSTM)
            place_layers(&memories[operation->of.lstm.number], operation->of.lstm.stack, scratch, block);
    }
    return at;
}

/* Whether such a session can be. */
static fl_status check_session(const fl_model *model, int64_t batch, int64_t most_steps)
{
    if (!model)
        return FL_NULL;
    if (batch < 1 || most_steps < 1)
        return FL_BAD_CALL;
    if (batch > INT32_MAX || most_steps > INT64_MAX / 4 / batch)
        return FL_TOO_LARGE;
    const int64_t block = block_of(model, batch, most_steps);
    const double rows = (double)batch * block;
    double bytes = 0;
    for (int32_t n = 0; n < model->operations; n++) {
        const fl_operation *operation = &model->operation[n];
        if (operation->kind == NODE_LSTM) {
            const fl_status status = fl_check_batch(operation->of.lstm.stack, batch, block);
            if (status)
                return status;
        }
        bytes += (rows + 1) * ((double)operation->I + operation->O + 64) * model->info.itemsize;
        if (operation->kind == NODE_CONVOLUTION)
            bytes += (double)convolution_scratch(operation, model->info.itemsize);
    }
    /* The memory of all LSTMs is below what fl_check_batch allows to each of them. */
    return bytes > MOST_BYTES / 2 ? FL_TOO_LARGE : FL_OK;
}

size_t fl_session_bytes(const fl_model *model, int64_t batch, int64_t most_steps)
{
    return check_session(model, batch, most_steps) ? 0 : fl_size(place_session(NULL, model, batch, most_steps));
}

/* ---- states ------------------------------------------------------------------------------------------ */

/* Make the states of a cell, or those that the mask asks for, what the model begins with. */
static void reset_rows(char *own, int64_t row, const char *first, int64_t width, int64_t batch, const uint8_t *mask)
{
    for (int64_t n = 0; n < batch; n++, own += row) {
        if (mask && !mask[n])
            continue;
        memset(own, 0, row);
        if (first)
            memcpy(own, first, width);
    }
}

static void reset(const fl_session *session, const uint8_t *mask)
{
    for (int32_t n = 0; n < session->model->operations; n++) {
        const fl_operation *operation = &session->model->operation[n];
        if (operation->kind != NODE_LSTM)
            continue;
        const fl_shape *s = &operation->of.lstm.stack->shape;
        const lstm_memory *own = &session->memories[operation->of.lstm.number];
        const int64_t h_width = s->output * s->itemsize, c_width = s->hidden * s->itemsize, batch = session->batch;
        const char *h_0 = operation->of.lstm.h_0, *c_0 = operation->of.lstm.c_0;
        for (int64_t cell = 0; cell < (int64_t)s->layers * s->directions; cell++) {
            reset_rows(own->h + cell * batch * own->h_row, own->h_row, h_0 ? h_0 + cell * h_width : NULL, h_width,
                       batch, mask);
            reset_rows(own->c + cell * batch * own->c_row, own->c_row, c_0 ? c_0 + cell * c_width : NULL, c_width,
                       batch, mask);
        }
    }
}

/* Copy all states, in the order of the header, and return the bytes of them: from the session into `to`, from `from`
into the session, or nowhere if both are NULL. */
static int64_t move_states(const fl_session *session, char *to, const char *from)
{
    const fl_model *model = session->model;
    int64_t at = 0;
    for (int32_t n = 0; n < model->operations && model->info.steps; n++) {
        const fl_operation *operation = &model->operation[n];
        if (operation->kind != NODE_LSTM)
            continue;
        const fl_shape *s = &operation->of.lstm.stack->shape;
        const lstm_memory *own = &session->memories[operation->of.lstm.number];
        for (int64_t k = 0; k < 2 * (int64_t)s->layers; k++) {
            const int64_t row = k % 2 ? own->c_row : own->h_row;
            const int64_t width = (k % 2 ? s->hidden : s->output) * s->itemsize;
            char *state = (k % 2 ? own->c : own->h) + k / 2 * session->batch * row;
            for (int64_t b = 0; b < session->batch; b++, state += row, at += width) {
                if (to)
                    memcpy(to + at, state, width);
                if (from)
                    memcpy(state, from + at, width);
            }
        }
    }
    return at;
}

size_t fl_session_state_bytes(const fl_session *session)
{
    return session ? fl_size(fl_up(move_states(session, NULL, NULL), 64)) : 0;
}

/* The memory that a caller brings for states. */
static fl_status check_states(const fl_session *session, const void *state, size_t size)
{
    if (!session)
        return FL_NULL;
    const size_t needed = fl_session_state_bytes(session);
    if (needed && !state)
        return FL_NULL;
    return size < needed ? FL_TOO_SMALL : FL_OK;
}

fl_status fl_session_get_state(const fl_session *session, void *state, size_t size)
{
    const fl_status status = check_states(session, state, size);
    if (status || !state)
        return status;
    const int64_t bytes = move_states(session, state, NULL);
    memset((char *)state + bytes, 0, fl_up(bytes, 64) - bytes);
    return FL_OK;
}

fl_status fl_session_set_state(fl_session *session, const void *state, size_t size)
{
    const fl_status status = check_states(session, state, size);
    if (!status && state)
        move_states(session, NULL, state);
    return status;
}

fl_status fl_session_reset(fl_session *session, const uint8_t *mask)
{
    if (!session)
        return FL_NULL;
    reset(session, mask);
    return FL_OK;
}

fl_status fl_session_make(void *memory, size_t size, const fl_model *model, int64_t batch, int64_t most_steps,
                          fl_session **session)
{
    fl_status status = check_session(model, batch, most_steps);
    if (status)
        return status;
    if (!session)
        return FL_NULL;
    const int64_t bytes = place_session(NULL, model, batch, most_steps);
    if ((status = fl_check_memory(memory, size, bytes)))
        return status;
    fl_touch(memory, bytes);
    place_session(memory, model, batch, most_steps);
    reset(memory, NULL);
    *session = memory;
    return FL_OK;
}

/* ---- nodes ------------------------------------------------------------------------------------------- */

static void copy_rows(value_rows to, const char *from, int64_t stride, int64_t bytes, int64_t rows)
{
    for (; rows > 0; rows--, to.at += to.stride, from += stride)
        memcpy(to.at, from, bytes);
}

static void run_lstm(fl_session *session, const fl_operation *operation, value_rows x, value_rows y, int64_t steps,
                     int32_t threads)
{
    const fl_stack *stack = operation->of.lstm.stack;
    lstm_memory *own = &session->memories[operation->of.lstm.number];
    if (own->layers) {
        const int64_t padded = own->h_row;
        void *const between[MOST_BETWEEN] = {session->scratch, session->scratch + padded};
        fl_run_few(stack, own->layers, between, steps, x.at, x.stride, y.at, y.stride);
        return;
    }
    fl_call call = call_of(operation, session->batch, steps, threads < MOST_THREADS ? threads : MOST_THREADS);
    call.x = x.at;
    call.x_stride = x.stride;
    call.y = y.at;
    call.y_stride = y.stride;
    call.h = own->h;
    call.c = own->c;
    call.scratch = session->scratch;
    call.scratch_size = (size_t)session->scratch_size;
    call.parity = own->parity;
    while (call.threads > 1 && fl_scratch_bytes_of(stack, &call) > session->scratch_size)
        call.threads--;
    fl_run_checked(stack, &call);
    own->parity ^= (int)(steps & 1);
}

/* With one thread, what fl_run_linear does but for the mode of the arithmetic, which is set, and the sharing of work:
both would be a fifth of a step of a small model. */
static void run_linear(const fl_linear *linear, value_rows x, value_rows y, int64_t rows, int32_t threads)
{
    if (threads > 1) {
        const fl_linear_call call = {
            .struct_size = sizeof call,
            .x = x.at,
            .x_stride = x.stride,
            .y = y.at,
            .y_stride = y.stride,
            .rows = rows,
            .threads = threads,
        };
        fl_run_linear_checked(linear, &call);
        return;
    }
    const int64_t wide = (int64_t)WIDTH * linear->kernels->lanes, panels = fl_up(linear->outputs, wide) / wide;
    for (int64_t now; rows > 0; rows -= now, x.at += now * x.stride, y.at += now * y.stride) {
        now = rows < LINEAR_ROWS ? rows : LINEAR_ROWS;
        linear->kernels->run_linear(linear, x.at, x.stride, y.at, y.stride, now, 0, panels);
    }
}

/* Each row is a product of its own, whose rows overlap. */
static void run_convolution(const fl_session *session, const fl_operation *operation, value_rows x, value_rows y,
                            int64_t rows, int32_t threads)
{
    const int64_t size = session->model->info.itemsize, position = operation->of.product.channels * size;
    const int64_t padding = operation->of.product.padding * position, bytes = operation->I * size;
    const fl_linear *linear = operation->of.product.linear;
    if (padding) {
        memset(session->scratch, 0, padding);
        memset(session->scratch + padding + bytes, 0, padding);
    }
    for (; rows > 0; rows--, x.at += x.stride, y.at += y.stride) {
        if (padding)
            memcpy(session->scratch + padding, x.at, bytes);
        const value_rows from = {padding ? session->scratch : x.at, operation->of.product.stride * position};
        run_linear(linear, from, (value_rows){y.at, linear->outputs * size}, operation->of.product.length_out, threads);
    }
}

static void run_embedding(const fl_session *session, const fl_operation *operation, value_rows x, value_rows y,
                          int64_t rows)
{
    const int64_t bytes = operation->O * session->model->info.itemsize;
    for (; rows > 0; rows--, x.at += x.stride, y.at += y.stride)
        memcpy(y.at, operation->of.embedding.table + *(const int64_t *)(const void *)x.at * bytes, bytes);
}

/* The place of a value that lies in another, or of one that is to be copied. */
static value_rows part_of(const fl_session *session, const fl_operation *operation, value_rows x, int64_t steps)
{
    if (operation->kind == NODE_SELECT)
        x.at += operation->of.n * session->model->info.itemsize;
    else if (operation->of.n < operation->I)
        x.at += (steps - 1) * session->batch * x.stride; /* the last step; with n = I the first */
    return x;
}

/* The last step, with the last n values of the first one. */
static void run_last(const fl_session *session, const fl_operation *operation, value_rows x, value_rows y,
                     int64_t steps)
{
    const int64_t size = session->model->info.itemsize, n = operation->of.n, own = (operation->O - n) * size;
    const value_rows last = part_of(session, operation, x, steps);
    copy_rows(y, last.at, last.stride, own, session->batch);
    y.at += own;
    copy_rows(y, x.at + own, x.stride, n * size, session->batch);
}

/* Compute what a node gives, of so many steps. */
static void run_node(fl_session *session, const fl_operation *operation, value_rows y, int64_t steps, int32_t threads)
{
    const fl_model *model = session->model;
    const value_rows x = session->values[operation->value[0]], other = session->values[operation->value[1]];
    const int64_t rows = steps * session->batch, size = model->info.itemsize;
    switch (operation->kind) {
    case NODE_LSTM: run_lstm(session, operation, x, y, steps, threads); break;
    case NODE_EMBEDDING: run_embedding(session, operation, x, y, rows); break;
    case NODE_LINEAR: run_linear(operation->of.product.linear, x, y, rows, threads); break;
    case NODE_JOIN:
        copy_rows(y, x.at, x.stride, operation->I * size, rows);
        y.at += operation->I * size;
        copy_rows(y, other.at, other.stride, (operation->O - operation->I) * size, rows);
        break;
    case NODE_LAST: run_last(session, operation, x, y, steps); break;
    case NODE_SELECT: {
        const value_rows part = part_of(session, operation, x, steps);
        copy_rows(y, part.at, part.stride, operation->O * size, rows);
        break;
    }
    case NODE_CONVOLUTION: run_convolution(session, operation, x, y, rows, threads); break;
    default:
        model->kernels->map(&operation->of.map, rows, x.at, x.stride, operation->kind == NODE_SUM ? other.at : NULL,
                            other.stride, y.at, y.stride);
    }
}

/* Let some steps go through the model. What has one step is computed behind the last block only. */
static void run_block(fl_session *session, int64_t steps, value_rows x, value_rows y, int is_last, int32_t threads)
{
    const fl_model *model = session->model;
    session->values[0] = x;
    session->values[model->operations] = y;
    for (int32_t n = 0; n < model->operations; n++) {
        const fl_operation *operation = &model->operation[n];
        const int64_t own = operation->one_step ? 1 : steps;
        if (!is_last && (operation->one_step || operation->kind == NODE_LAST))
            continue;
        if (operation->is_view)
            session->values[n + 1] = part_of(session, operation, session->values[operation->value[0]], own);
        else
            run_node(session, operation, session->values[n + 1], own, threads);
    }
}

/* ---- steps and runs ---------------------------------------------------------------------------------- */

/* Whether indices are numbers of rows of all tables. */
static int are_indices_right(const fl_model *model, const char *x, int64_t stride, int64_t rows)
{
    for (int64_t n = 0; n < rows; n++) {
        const int64_t index = *(const int64_t *)(const void *)(x + n * stride);
        if (index < 0 || index >= model->rows)
            return 0;
    }
    return 1;
}

/* The bytes of a value that goes in. */
static int64_t input_size(const fl_model *model)
{
    return model->info.indices ? (int64_t)sizeof(int64_t) : model->info.itemsize;
}

fl_status fl_model_step(fl_session *session, const void *x, void *y)
{
    if (!session || !x || !y)
        return FL_NULL;
    const fl_model *model = session->model;
    const int64_t size = input_size(model), own = model->info.itemsize;
    if (!model->info.steps)
        return FL_UNSUPPORTED;
    if ((uintptr_t)x & (uintptr_t)(size - 1) || (uintptr_t)y & (uintptr_t)(own - 1))
        return FL_BAD_ALIGNMENT;
    if (model->info.indices && !are_indices_right(model, x, size, session->batch))
        return FL_BAD_INDEX;
    const value_rows from = {(char *)x, model->info.input * size}, to = {y, model->info.output * own};
    fl_mode before = fl_set_mode();
    run_block(session, 1, from, to, 1, 1);
    fl_restore_mode(before);
    return FL_OK;
}

static fl_status check_call(const fl_session *session, const fl_model_call *call)
{
    const fl_model *model = session->model;
    const int64_t size = input_size(model), own = model->info.itemsize;
    if (call->steps < 0 || call->steps > session->most_steps || call->threads < 1)
        return FL_BAD_CALL;
    if (!call->steps)
        return FL_OK;
    const int64_t rows = call->steps * session->batch;
    fl_status status = fl_check_rows(call->x, call->x_stride, rows, 0, size);
    if (!status)
        status = fl_check_rows(call->y, call->y_stride, model->info.last ? session->batch : rows,
                               model->info.output * own, own);
    if (!status && model->info.indices && !are_indices_right(model, call->x, call->x_stride, rows))
        status = FL_BAD_INDEX;
    return status;
}

fl_status fl_model_run(fl_session *session, const fl_model_call *given)
{
    fl_model_call own;
    fl_status status;
    if (!session || !given)
        return FL_NULL;
    const fl_model *model = session->model;
    const fl_model_call *call = fl_known(given, &own, sizeof own, &status);
    if (!call || (status = check_call(session, call)))
        return status;
    const int64_t rows = call->steps * session->batch;
    value_rows x = {(char *)call->x, fl_stride(call->x_stride, rows)};
    value_rows y = {call->y, fl_stride(call->y_stride, model->info.last ? session->batch : rows)};
    fl_mode before = fl_set_mode();
    if (!model->info.steps)
        reset(session, NULL);
    for (int64_t left = call->steps, now; left > 0; left -= now) {
        now = left < session->block ? left : session->block;
        run_block(session, now, x, y, now == left, call->threads);
        x.at += now * session->batch * x.stride;
        if (!model->info.last)
            y.at += now * session->batch * y.stride;
    }
    fl_restore_mode(before);
    return FL_OK;
}
