/* One call of the C API, without Python: reads a case from its input, writes y, h and c; then, if
asked to, goes back and writes dx, dh, dc and, for each direction, dw_ih, dw_hh, db and dw_hr.

    bits ISA <case >results

The case: twelve int64 (itemsize, layers, directions, I, H, P, T, B, threads, reverse, whether batch
sizes follow, and the checkpoint_interval of the tape, or -1 if it does not go back); for each layer
and direction w_ih, w_hh, b and, if P < H, w_hr; batch sizes, T int64; x; h; c; if it goes back, dy; dh;
dc. Rows lie side by side. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastlstm.h"

/* Memory full of nan: what is used before it is set shows. */
static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, bytes / 64 * 64 + 64);
    if (!memory)
        abort();
    return memset(memory, 0xff, bytes);
}

static void *take(int64_t count, size_t size)
{
    void *memory = allocate(count * size);
    if (fread(memory, size, count, stdin) != (size_t)count)
        abort();
    return memory;
}

static void *zeros(int64_t count, size_t size)
{
    return memset(allocate(count * size), 0, count * size);
}

static void give(const void *values, int64_t count, size_t size)
{
    if (count && fwrite(values, size, count, stdout) != (size_t)count)
        abort();
}

int main(int argc, char **argv)
{
    enum { ITEMSIZE, LAYERS, DIRECTIONS, I, H, P, T, B, THREADS, REVERSE, RAGGED, INTERVAL, HEAD };
    int isa = fl_isa(argc > 1 ? argv[1] : NULL);
    if (isa < 0)
        return 2;
    const int64_t *head = take(HEAD, sizeof *head);
    const int64_t wide = head[DIRECTIONS] * head[P], cells = head[LAYERS] * head[DIRECTIONS];
    const int64_t of_h = cells * head[B] * head[P], of_c = cells * head[B] * head[H];
    const size_t size = head[ITEMSIZE];
    const int back = head[INTERVAL] >= 0;
    const fl_shape shape = {
        .itemsize = (int32_t)size, .layers = (int32_t)head[LAYERS],
        .directions = (int32_t)head[DIRECTIONS],
        .input = head[I], .hidden = head[H], .output = head[P], .back = back,
    };
    fl_arrays *parameters = allocate(cells * sizeof *parameters);
    for (int64_t k = 0; k < cells; k++) { /* one after the other, as they stand in the input */
        parameters[k].w_ih = take(4 * head[H] * (k < head[DIRECTIONS] ? head[I] : wide), size);
        parameters[k].w_hh = take(4 * head[H] * head[P], size);
        parameters[k].b = take(4 * head[H], size);
        parameters[k].w_hr = head[P] < head[H] ? take(head[P] * head[H], size) : NULL;
    }
    fl_call call = {
        .steps = head[T], .batch = head[B], .threads = (int32_t)head[THREADS],
        .reverse = (int32_t)head[REVERSE],
        .x_stride = head[I] * (int64_t)size, .y_stride = wide * (int64_t)size,
    };
    int64_t rows = head[T] * head[B];
    if (head[RAGGED]) {
        call.batch_sizes = take(head[T], sizeof *call.batch_sizes);
        rows = 0;
        for (int64_t t = 0; t < head[T]; t++)
            rows += call.batch_sizes[t];
    }
    call.x = take(rows * head[I], size);
    call.h = take(of_h, size);
    call.c = take(of_c, size);
    call.y = allocate(rows * wide * size);

    fl_stack *stack = fl_pack(allocate(fl_stack_bytes(&shape, isa)), &shape, isa, parameters);
    if (back) {
        call.checkpoint_interval = head[INTERVAL];
        call.tape = allocate(fl_tape_bytes(stack, &call));
    }
    call.scratch = allocate(fl_scratch_bytes(stack, &call));
    fl_run(stack, &call);
    give(call.y, rows * wide, size);
    give(call.h, of_h, size);
    give(call.c, of_c, size);
    if (!back)
        return 0;

    fl_back_call way = {.call = &call, .dy_stride = call.y_stride};
    way.dy = take(rows * wide, size);
    way.dh = take(of_h, size);
    way.dc = take(of_c, size);
    way.dx = allocate(rows * head[I] * size);
    fl_arrays *dw = allocate(cells * sizeof *dw);
    const int64_t of_w_hr = head[P] < head[H] ? head[P] * head[H] : 0;
    for (int64_t k = 0; k < cells; k++)
        dw[k] = (fl_arrays){
            .w_ih = zeros(4 * head[H] * head[I], size),
            .w_hh = zeros(4 * head[H] * head[P], size),
            .b = zeros(4 * head[H], size),
            .w_hr = of_w_hr ? zeros(of_w_hr, size) : NULL,
        };
    way.dw = dw;
    way.scratch = allocate(fl_back_scratch_bytes(stack, &way));
    fl_back(stack, &way);
    give(way.dx, rows * head[I], size);
    give(way.dh, of_h, size);
    give(way.dc, of_c, size);
    for (int64_t k = 0; k < cells; k++) {
        give(dw[k].w_ih, 4 * head[H] * head[I], size);
        give(dw[k].w_hh, 4 * head[H] * head[P], size);
        give(dw[k].b, 4 * head[H], size);
        give(dw[k].w_hr, of_w_hr, size);
    }
    return 0;
}
