/* One call of the C API, without Python: reads a case from its input, writes y, h and c.

    bits ISA <case >results

The case: eleven int64 (itemsize, layers, directions, I, H, P, T, B, threads, reverse, whether batch
sizes follow); for each layer and direction w_ih, w_hh, b and, if P < H, w_hr; batch sizes, T int64;
x; h; c. Rows of x and y lie side by side. */

#include <stdio.h>
#include <stdlib.h>

#include "fastlstm.h"

static void *room(size_t bytes)
{
    void *memory = aligned_alloc(64, bytes / 64 * 64 + 64);
    if (!memory)
        abort();
    return memory;
}

static void *take(int64_t count, size_t size)
{
    void *memory = room(count * size);
    if (fread(memory, size, count, stdin) != (size_t)count)
        abort();
    return memory;
}

int main(int argc, char **argv)
{
    enum { ITEMSIZE, LAYERS, DIRECTIONS, I, H, P, T, B, THREADS, REVERSE, RAGGED, HEAD };
    int isa = fl_isa(argc > 1 ? argv[1] : NULL);
    if (isa < 0)
        return 2;
    const int64_t *head = take(HEAD, sizeof *head);
    const int64_t wide = head[DIRECTIONS] * head[P], cells = head[LAYERS] * head[DIRECTIONS];
    const size_t size = head[ITEMSIZE];
    const fl_shape shape = {
        .itemsize = (int32_t)size, .layers = (int32_t)head[LAYERS],
        .directions = (int32_t)head[DIRECTIONS],
        .input = head[I], .hidden = head[H], .output = head[P],
    };
    const void **parameters = room(cells * 4 * sizeof *parameters);
    for (int64_t k = 0; k < cells; k++) {
        parameters[4 * k] = take(4 * head[H] * (k < head[DIRECTIONS] ? head[I] : wide), size);
        parameters[4 * k + 1] = take(4 * head[H] * head[P], size);
        parameters[4 * k + 2] = take(4 * head[H], size);
        parameters[4 * k + 3] = head[P] < head[H] ? take(head[P] * head[H], size) : NULL;
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
    call.h = take(cells * head[B] * head[P], size);
    call.c = take(cells * head[B] * head[H], size);
    call.y = room(rows * wide * size);

    fl_stack *stack = fl_pack(room(fl_stack_bytes(&shape, isa)), &shape, isa, parameters);
    call.room = room(fl_room_bytes(stack, &call));
    fl_run(stack, &call);
    fwrite(call.y, size, rows * wide, stdout);
    fwrite(call.h, size, cells * head[B] * head[P], stdout);
    fwrite(call.c, size, cells * head[B] * head[H], stdout);
    return 0;
}
