/* Streams: sequences whose steps arrive one by one, or a few at a time. Small plain layers of one sequence go
straight to the kernels that are made for them; all else is a call of fl_run. Nothing here allocates, locks or
waits. */

#include "internal.h"
#include "modes.h"

enum {
    STREAM_STEPS = 64, /* of a call of fl_run, and so many are hoisted at once: scratch memory has room for them */
};

struct fl_stream {
    const fl_stack *stack;
    int few;              /* whether `few_steps` makes the steps of all layers */
    int unaligned;        /* the bits that are 0 in the address of a value */
    int64_t h_row, c_row; /* the bytes of a layer's state of a sequence, with padding */
    void *between[2];     /* what a layer hands to the next, by turns, if they are few */
    fl_call call;         /* otherwise; its h and c are the states in either case */
    fl_few layers[];
};

/* Place a stream's arrays behind it and return the bytes of the whole. `memory` may be NULL. */
COLD static int64_t place_stream(fl_stream *memory, const fl_stack *stack, int64_t batch)
{
    const fl_shape *s = &stack->shape;
    const fl_kernels *kernels = stack->kernels;
    const int few = fl_are_few(stack, batch);
    const int64_t padded = fl_up(s->hidden, kernels->lanes) * s->itemsize;
    fl_stream stream = {
        .stack = stack,
        .few = few,
        .unaligned = s->itemsize - 1,
        .h_row = few ? padded : s->output * s->itemsize,
        .c_row = few ? padded : s->hidden * s->itemsize,
        .call = {.steps = STREAM_STEPS,
                 .batch = batch,
                 .threads = 1,
                 .x_stride = s->input * s->itemsize,
                 .y_stride = s->output * s->itemsize},
    };
    const int hoist = few && s->layers == 1 && fl_hoists_inputs(s->input * GATES * padded);
    const int64_t bytes[] = {
        s->layers * batch * stream.h_row,
        s->layers * batch * stream.c_row,
        few ? (s->layers > 1) * padded : 0,
        few ? (s->layers > 2) * padded : 0,
        few ? hoist * STREAM_STEPS * GATES * padded : fl_scratch_bytes_of(stack, &stream.call),
    };
    void **places[] = {
        &stream.call.h, &stream.call.c, &stream.between[0], &stream.between[1], &stream.call.scratch,
    };
    int64_t at = fl_up(sizeof stream + (few ? s->layers * sizeof(fl_few) : 0), 64);
    for (int n = 0; n < 5; n++) {
        *places[n] = memory ? (char *)memory + at : NULL;
        at = fl_up(at + bytes[n], 64);
    }
    if (!memory)
        return at;
    *memory = stream;
    for (int layer = 0; few && layer < s->layers; layer++) {
        memory->layers[layer] = fl_few_of(&stack->cells[layer], kernels->lanes, (char *)stream.call.h + layer * padded,
                                          (char *)stream.call.c + layer * padded);
        memory->layers[layer].z = stream.call.scratch;
        memory->layers[layer].hoist = hoist ? STREAM_STEPS : 0;
    }
    return at;
}

static fl_status check_stream(const fl_stack *stack, int64_t batch)
{
    if (!stack)
        return FL_NULL;
    return stack->shape.directions == 1 ? fl_check_batch(stack, batch, STREAM_STEPS) : FL_UNSUPPORTED;
}

size_t fl_stream_bytes(const fl_stack *stack, int64_t batch)
{
    return check_stream(stack, batch) ? 0 : fl_size(place_stream(NULL, stack, batch));
}

fl_status fl_make_stream(void *memory, size_t size, const fl_stack *stack, int64_t batch, fl_stream **made)
{
    if (!made)
        return FL_NULL;
    fl_status status = check_stream(stack, batch);
    if (status)
        return status;
    const int64_t bytes = place_stream(NULL, stack, batch);
    if ((status = fl_check_memory(memory, size, bytes)))
        return status;
    fl_touch(memory, bytes);
    fl_stream *stream = memory;
    place_stream(stream, stack, batch);
    *made = stream;
    return fl_set_states(stream, NULL, NULL);
}

/* ---- states ------------------------------------------------------------------------------------------ */

/* Copy the states of all layers between rows of `width` bytes and the stream's own. */
static void put(char *own, int64_t row, const char *from, int64_t width, int64_t rows)
{
    for (int64_t n = 0; n < rows; n++, own += row) {
        memset(own, 0, row);
        if (from)
            memcpy(own, from + n * width, width);
    }
}

static void get(char *to, int64_t width, const char *own, int64_t row, int64_t rows)
{
    for (int64_t n = 0; to && n < rows; n++)
        memcpy(to + n * width, own + n * row, width);
}

/* Whether a state, which may be NULL, is where values may be. */
static int is_misplaced(const fl_stream *stream, const void *state)
{
    return state && fl_check_array(state, stream->stack->shape.itemsize);
}

fl_status fl_set_states(fl_stream *stream, const void *h, const void *c)
{
    if (!stream)
        return FL_NULL;
    if (is_misplaced(stream, h) || is_misplaced(stream, c))
        return FL_BAD_ALIGNMENT;
    const fl_shape *s = &stream->stack->shape;
    const int64_t rows = s->layers * stream->call.batch;
    put(stream->call.h, stream->h_row, h, s->output * s->itemsize, rows);
    put(stream->call.c, stream->c_row, c, s->hidden * s->itemsize, rows);
    return FL_OK;
}

fl_status fl_get_states(const fl_stream *stream, void *h, void *c)
{
    if (!stream)
        return FL_NULL;
    if (is_misplaced(stream, h) || is_misplaced(stream, c))
        return FL_BAD_ALIGNMENT;
    const fl_shape *s = &stream->stack->shape;
    const int64_t rows = s->layers * stream->call.batch;
    get(h, s->output * s->itemsize, stream->call.h, stream->h_row, rows);
    get(c, s->hidden * s->itemsize, stream->call.c, stream->c_row, rows);
    return FL_OK;
}

/* ---- steps ------------------------------------------------------------------------------------------- */

/* Each step goes through all layers, as the next layer's step then computes while this one's waits. It is no part of
`fl_run_few`, where its needs would cost 4 ns of every step. */
static __attribute__((noinline)) void through_layers(const fl_stack *stack, fl_few *layers, void *const *between,
                                                     int64_t steps, const char *x, int64_t x_stride, char *y,
                                                     int64_t y_stride)
{
    const fl_kernels *kernels = stack->kernels;
    const int last = stack->shape.layers - 1;
    for (; steps > 0; steps--, x += x_stride, y += y_stride) {
        const void *from = x;
        for (int layer = 0; layer <= last; layer++) {
            void *to = layer < last ? between[layer % 2] : y;
            kernels->few_steps(&layers[layer], 1, from, 0, to, 0);
            from = to;
        }
    }
}

/* Some steps of small layers. */
void fl_run_few(const fl_stack *stack, fl_few *layers, void *const *between, int64_t steps, const char *x,
                int64_t x_stride, char *y, int64_t y_stride)
{
    if (stack->shape.layers == 1)
        stack->kernels->few_steps(layers, steps, x, x_stride, y, y_stride);
    else
        through_layers(stack, layers, between, steps, x, x_stride, y, y_stride);
}

/* Some steps of all other layers. It is no part of `advance`, where its needs would cost every small step. */
static __attribute__((noinline)) fl_status many_steps(fl_stream *stream, int64_t steps, const char *x, int64_t x_stride,
                                                      char *y, int64_t y_stride)
{
    fl_call call = stream->call;
    call.x_stride = x_stride;
    call.y_stride = y_stride;
    for (int64_t now; steps > 0; steps -= now) {
        now = steps < STREAM_STEPS ? steps : STREAM_STEPS;
        call.x = x;
        call.y = y;
        call.steps = now;
        call.parity = stream->call.parity;
        fl_run_checked(stream->stack, &call);
        stream->call.parity ^= now & 1;
        x += now * call.batch * x_stride;
        y += now * call.batch * y_stride;
    }
    return FL_OK;
}

static inline fl_status advance(fl_stream *stream, int64_t steps, const void *x, int64_t x_stride, void *y,
                                int64_t y_stride)
{
    if (!stream->few)
        return many_steps(stream, steps, x, x_stride, y, y_stride);
    fl_mode before = fl_set_mode();
    fl_run_few(stream->stack, stream->layers, stream->between, steps, x, x_stride, y, y_stride);
    fl_restore_mode(before);
    return FL_OK;
}

fl_status fl_step(fl_stream *stream, const void *x, void *y)
{
    if (!stream || !x || !y)
        return FL_NULL;
    if (((uintptr_t)x | (uintptr_t)y) & (uintptr_t)stream->unaligned)
        return FL_BAD_ALIGNMENT;
    return advance(stream, 1, x, stream->call.x_stride, y, stream->call.y_stride);
}

fl_status fl_steps(fl_stream *stream, int64_t steps, const void *x, int64_t x_stride, void *y, int64_t y_stride)
{
    if (!stream)
        return FL_NULL;
    if (steps <= 0)
        return steps ? FL_BAD_CALL : FL_OK;
    if (steps > (int64_t)1 << 32) /* The batch has at most 31 bits, and their product less than 64. */
        return FL_TOO_LARGE;
    const int64_t rows = steps * stream->call.batch, size = stream->stack->shape.itemsize;
    fl_status status = fl_check_rows(x, x_stride, rows, 0, size);
    if (!status)
        status = fl_check_rows(y, y_stride, rows, stream->call.y_stride, size);
    return status ? status : advance(stream, steps, x, fl_stride(x_stride, rows), y, fl_stride(y_stride, rows));
}
