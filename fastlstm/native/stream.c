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
    int64_t h_row, c_row; /* the bytes of a layer's state of a sequence, with padding */
    void *between[2];     /* what a layer hands to the next, by turns, if they are few */
    fl_call call;         /* otherwise; its h and c are the states in either case */
    fl_few layers[];
};

/* Place a stream's arrays behind it and return the bytes of the whole. `memory` may be NULL. */
static size_t place_stream(fl_stream *memory, const fl_stack *stack, int64_t batch)
{
    const fl_shape *s = &stack->shape;
    const fl_kernels *kernels = stack->kernels;
    const int few = fl_are_few(stack, batch);
    const int64_t padded = fl_up(s->hidden, kernels->lanes) * s->itemsize;
    fl_stream stream = {
        .stack = stack,
        .few = few,
        .h_row = few ? padded : s->output * s->itemsize,
        .c_row = few ? padded : s->hidden * s->itemsize,
        .call = {.steps = STREAM_STEPS,
                 .batch = batch,
                 .threads = 1,
                 .x_stride = s->input * s->itemsize,
                 .y_stride = s->output * s->itemsize},
    };
    const int hoist = few && s->layers == 1 && fl_hoists_inputs(s->input * GATES * padded);
    const size_t bytes[] = {
        s->layers * batch * stream.h_row,
        s->layers * batch * stream.c_row,
        few ? (s->layers > 1) * padded : 0,
        few ? (s->layers > 2) * padded : 0,
        few ? (size_t)(hoist * STREAM_STEPS * GATES * padded) : fl_scratch_bytes(stack, &stream.call),
    };
    void **places[] = {
        &stream.call.h, &stream.call.c, &stream.between[0], &stream.between[1], &stream.call.scratch,
    };
    size_t at = fl_up(sizeof stream + (few ? s->layers * sizeof(fl_few) : 0), 64);
    for (int n = 0; n < 5; n++) {
        *places[n] = memory ? (char *)memory + at : NULL;
        at = fl_up(at + bytes[n], 64);
    }
    if (!memory)
        return at;
    *memory = stream;
    for (int layer = 0; few && layer < s->layers; layer++)
        memory->layers[layer] = (fl_few){
            .cell = &stack->cells[layer],
            .h = (char *)stream.call.h + layer * padded,
            .c = (char *)stream.call.c + layer * padded,
            .z = stream.call.scratch,
            .hoist = hoist ? STREAM_STEPS : 0,
        };
    return at;
}

size_t fl_stream_bytes(const fl_stack *stack, int64_t batch)
{
    return place_stream(NULL, stack, batch);
}

fl_stream *fl_make_stream(void *memory, const fl_stack *stack, int64_t batch)
{
    fl_stream *stream = memory;
    place_stream(stream, stack, batch);
    fl_set_states(stream, NULL, NULL);
    return stream;
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

void fl_set_states(fl_stream *stream, const void *h, const void *c)
{
    const fl_shape *s = &stream->stack->shape;
    const int64_t rows = s->layers * stream->call.batch;
    put(stream->call.h, stream->h_row, h, s->output * s->itemsize, rows);
    put(stream->call.c, stream->c_row, c, s->hidden * s->itemsize, rows);
}

void fl_get_states(const fl_stream *stream, void *h, void *c)
{
    const fl_shape *s = &stream->stack->shape;
    const int64_t rows = s->layers * stream->call.batch;
    get(h, s->output * s->itemsize, stream->call.h, stream->h_row, rows);
    get(c, s->hidden * s->itemsize, stream->call.c, stream->c_row, rows);
}

/* ---- steps ------------------------------------------------------------------------------------------- */

/* Some steps of small layers. Those of a single layer are one call; of more, each step goes through all of them, as
the next layer's step then computes while this one's waits. */
static void few_steps(fl_stream *stream, int64_t steps, const char *x, int64_t x_stride, char *y, int64_t y_stride)
{
    const fl_kernels *kernels = stream->stack->kernels;
    const int last = stream->stack->shape.layers - 1;
    if (!last) {
        kernels->few_steps(stream->layers, steps, x, x_stride, y, y_stride);
        return;
    }
    for (; steps > 0; steps--, x += x_stride, y += y_stride) {
        const void *from = x;
        for (int layer = 0; layer <= last; layer++) {
            void *to = layer < last ? stream->between[layer % 2] : y;
            kernels->few_steps(&stream->layers[layer], 1, from, 0, to, 0);
            from = to;
        }
    }
}

void fl_step(fl_stream *stream, const void *x, void *y)
{
    const fl_call *call = &stream->call;
    fl_steps(stream, 1, x, call->x_stride, y, call->y_stride);
}

void fl_steps(fl_stream *stream, int64_t steps, const void *x, int64_t x_stride, void *y, int64_t y_stride)
{
    if (stream->few) {
        fl_mode before = fl_set_mode();
        few_steps(stream, steps, x, x_stride, y, y_stride);
        fl_restore_mode(before);
        return;
    }
    fl_call call = stream->call;
    call.x_stride = x_stride;
    call.y_stride = y_stride;
    for (int64_t now; steps > 0; steps -= now) {
        now = steps < STREAM_STEPS ? steps : STREAM_STEPS;
        call.x = x;
        call.y = y;
        call.steps = now;
        call.parity = stream->call.parity;
        fl_run(stream->stack, &call);
        stream->call.parity ^= now & 1;
        x = (const char *)x + now * call.batch * x_stride;
        y = (char *)y + now * call.batch * y_stride;
    }
}
