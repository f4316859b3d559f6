/* One call of the C API, without Python: reads a case from its input, writes y, h and c; then, if
asked to, goes back and writes dx, dh, dc and, for each direction, the gradients of the arrays of the case,
or writes the gates and cells of each direction.

    bits ISA [L1 L2 L3 SHARERS] <case >results

Every run is made once more, without what it records, over states that it takes by index.

With the bytes of three caches and how many processors share the third, the work is cut to these instead of those of
the machine.

The case: fifteen int64 (itemsize, layers, directions, I, H, P, T, B, threads, reverse, whether batch
sizes follow, the checkpoint_interval of the tape, or -1 if nothing is recorded, or -2 if gates and cells are
written; whether options follow, whether there are peepholes, which noise there is: 1 for h, 2 for zone_h and 4
for zone_c, added); the options, sixteen doubles in the order of fl_options; for each layer and direction the
arrays that fl_arrays has, in its order; batch sizes, T int64; x; h; c; for each direction the noise; if it
goes back, dy; dh; dc. Rows lie side by side. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastlstm.h"

/* So many bytes behind each piece of memory are checked at the end. An address sanitizer sees more: it has none. */
#ifdef __SANITIZE_ADDRESS__
enum { GUARD = 0, PIECES = 256 };
#else
enum { GUARD = 4096, PIECES = 256 };
#endif

static struct {
    unsigned char *memory;
    size_t bytes;
} pieces[PIECES];
static int taken;

/* Memory full of nan: what is used before it is set shows. */
static void *allocate(size_t bytes)
{
    unsigned char *memory = aligned_alloc(64, (bytes + GUARD) / 64 * 64 + 64);
    if (!memory || taken == PIECES)
        abort();
    pieces[taken].memory = memory;
    pieces[taken++].bytes = bytes;
    memset(memory + bytes, 0xa5, GUARD);
    return memset(memory, 0xff, bytes);
}

/* 0, or 3 if something was written behind the end of its memory. */
static int check(void)
{
    for (int n = 0; n < taken; n++)
        for (int k = 0; k < GUARD; k++)
            if (pieces[n].memory[pieces[n].bytes + k] != 0xa5) {
                fprintf(stderr, "byte %d behind %zu bytes was written\n", k, pieces[n].bytes);
                return 3;
            }
    return 0;
}

static void expect(fl_status status)
{
    if (!status)
        return;
    fprintf(stderr, "%s\n", fl_error_string(status));
    exit(1);
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

/* clang-format off: each number beside those that it belongs to */
enum {
    ITEMSIZE,
    LAYERS,
    DIRECTIONS,
    I,
    H,
    P,
    T,
    B,
    THREADS,
    REVERSE,
    RAGGED,
    INTERVAL,
    OPTIONS,
    PEEPHOLES,
    NOISE,
    HEAD
};
/* clang-format on */

static fl_options take_options(void)
{
    const double *given = take(16, sizeof *given);
    const fl_options options = {
        .struct_size = sizeof options,
        .gate_clip = given[0],
        .cell_clip = given[1],
        .proj_clip = given[2],
        .coupled = (int32_t)given[3],
        .gate = {(int32_t)given[4], given[5], given[6]},
        .cell = {(int32_t)given[7], given[8], given[9]},
        .output = {(int32_t)given[10], given[11], given[12]},
        .layer_norm = (int32_t)given[13],
        .zoneout_h = given[14],
        .zoneout_c = given[15],
    };
    return options;
}

/* The arrays of a cell with so many inputs, in the order in which they stand in the input, and how many numbers each
has: 0 if it is not there. Return how many arrays there may be. */
static int arrays_of(const int64_t *head, const fl_options *options, int64_t inputs, fl_arrays *arrays, void **places[],
                     int64_t counts[])
{
    const int64_t h = head[H], p = head[P];
    const int norm = options ? options->layer_norm : 0;
    const struct {
        void **place;
        int64_t count;
    } all[] = {
        {&arrays->w_ih, 4 * h * inputs},
        {&arrays->w_hh, 4 * h * p},
        {&arrays->b, 4 * h},
        {&arrays->w_hr, p < h ? p * h : 0},
        {&arrays->w_ci, head[PEEPHOLES] ? h : 0},
        {&arrays->w_cf, head[PEEPHOLES] ? h : 0},
        {&arrays->w_co, head[PEEPHOLES] ? h : 0},
        {&arrays->ln, norm == FL_NORM_GATES ? 4 * h : 0},
        {&arrays->ln_ih, norm == FL_NORM_SUMS ? 4 * h : 0},
        {&arrays->ln_hh, norm == FL_NORM_SUMS ? 4 * h : 0},
        {&arrays->ln_c, norm == FL_NORM_SUMS ? h : 0},
        {&arrays->b_c, norm == FL_NORM_SUMS ? h : 0},
    };
    const int count = sizeof all / sizeof *all;
    for (int n = 0; n < count; n++) {
        places[n] = all[n].place;
        counts[n] = all[n].count;
    }
    return count;
}

/* Put the states of sequences, `values` values for each cell, into those of more sequences, whose rows are bytes of 0xa5
elsewhere; or, to `compare`, tell whether they are there. */
static int among(const int64_t *head, int64_t cells, const int64_t *index, int64_t states, const char *own,
                 int64_t values, char *all, int compare)
{
    const size_t row = values * head[ITEMSIZE];
    int64_t others = 0;
    if (!compare)
        memset(all, 0xa5, cells * states * row);
    for (int64_t cell = 0; cell < cells; cell++)
        for (int64_t b = 0; b < head[B]; b++) {
            char *place = all + (cell * states + index[b]) * row;
            const char *mine = own + (cell * head[B] + b) * row;
            if (!compare)
                memcpy(place, mine, row);
            else if (memcmp(place, mine, row))
                return 0;
            else
                memset(place, 0xa5, row);
        }
    for (size_t n = 0; compare && n < cells * states * row; n++)
        others += (unsigned char)all[n] != 0xa5;
    return !others;
}

/* A run that takes its states by index from those of more sequences gives the same bits as `run`, which begins with
`h` and `c`, and touches no other states. 0, or 4 if it does not. */
static int check_index(const fl_stack *stack, const fl_call *run, const int64_t *head, const void *h, const void *c)
{
    const int64_t cells = head[LAYERS] * head[DIRECTIONS], states = 2 * head[B] + 3, size = head[ITEMSIZE];
    int64_t *index = allocate(head[B] * sizeof *index), rows = head[T] * head[B];
    for (int64_t b = 0; b < head[B]; b++) /* neither in order nor side by side */
        index[b] = (b % 2 ? b : 2 * head[B] + 2 - b);
    for (int64_t t = rows = 0; t < head[T]; t++)
        rows += run->batch_sizes ? run->batch_sizes[t] : head[B];
    fl_call call = *run;
    call.tape = NULL;
    call.tape_size = 0;
    call.checkpoint_interval = 0;
    call.index = index;
    call.states = states;
    call.h = allocate(cells * states * head[P] * size);
    call.c = allocate(cells * states * head[H] * size);
    call.y = allocate(rows * run->y_stride);
    among(head, cells, index, states, h, head[P], call.h, 0);
    among(head, cells, index, states, c, head[H], call.c, 0);
    call.scratch_size = fl_scratch_bytes(stack, &call);
    call.scratch = allocate(call.scratch_size);
    expect(fl_run(stack, &call));
    if (!memcmp(call.y, run->y, rows * run->y_stride) && among(head, cells, index, states, run->h, head[P], call.h, 1)
        && among(head, cells, index, states, run->c, head[H], call.c, 1))
        return 0;
    fprintf(stderr, "a run over states by index gives other bits, or changes others\n");
    return 4;
}

int main(int argc, char **argv)
{
    int isa = fl_isa(argc > 1 ? argv[1] : NULL);
    if (isa < 0)
        return 2;
    const int64_t *head = take(HEAD, sizeof *head);
    const int64_t wide = head[DIRECTIONS] * head[P], cells = head[LAYERS] * head[DIRECTIONS];
    const int64_t of_h = cells * head[B] * head[P], of_c = cells * head[B] * head[H];
    const size_t size = head[ITEMSIZE];
    const int back = head[INTERVAL] >= 0, saved = head[INTERVAL] == -2;
    fl_options options;
    if (head[OPTIONS])
        options = take_options();
    fl_caches caches;
    if (argc > 5)
        caches = (fl_caches){atoll(argv[2]), atoll(argv[3]), atoll(argv[4]), atoi(argv[5])};
    const fl_shape shape = {
        .struct_size = sizeof shape,
        .itemsize = (int32_t)size,
        .layers = (int32_t)head[LAYERS],
        .directions = (int32_t)head[DIRECTIONS],
        .input = head[I],
        .hidden = head[H],
        .output = head[P],
        .back = back,
        .options = head[OPTIONS] ? &options : NULL,
        .caches = argc > 5 ? &caches : NULL,
    };
    fl_arrays *parameters = allocate(cells * sizeof *parameters);
    memset(parameters, 0, cells * sizeof *parameters);
    void **places[16];
    int64_t counts[16];
    for (int64_t k = 0; k < cells; k++) { /* one after the other, as they stand in the input */
        parameters[k].struct_size = sizeof *parameters;
        const int64_t inputs = k < head[DIRECTIONS] ? head[I] : wide;
        const int arrays = arrays_of(head, shape.options, inputs, &parameters[k], places, counts);
        for (int n = 0; n < arrays; n++)
            if (counts[n])
                *places[n] = take(counts[n], size);
    }
    fl_call call = {
        .struct_size = sizeof call,
        .steps = head[T],
        .batch = head[B],
        .threads = (int32_t)head[THREADS],
        .reverse = (int32_t)head[REVERSE],
        .x_stride = head[I] * (int64_t)size,
        .y_stride = wide * (int64_t)size,
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
    fl_noise noise[2] = {{0}};
    for (int64_t k = 0; k < head[DIRECTIONS]; k++) {
        if (head[NOISE] & 1)
            noise[k].h = take(head[B] * head[P], size);
        if (head[NOISE] & 2)
            noise[k].zone_h = take(rows * head[P], size);
        if (head[NOISE] & 4)
            noise[k].zone_c = take(rows * head[H], size);
    }
    if (head[NOISE])
        call.noise = noise;

    fl_stack *stack;
    size_t bytes = fl_stack_bytes(&shape, isa);
    expect(fl_pack(allocate(bytes), bytes, &shape, isa, parameters, &stack));
    if (back || saved) {
        call.checkpoint_interval = back ? head[INTERVAL] : 0;
        call.tape_size = fl_tape_bytes(stack, &call);
        call.tape = allocate(call.tape_size);
    }
    call.scratch_size = fl_scratch_bytes(stack, &call);
    call.scratch = allocate(call.scratch_size);
    void *h = memcpy(allocate(of_h * size), call.h, of_h * size);
    void *c = memcpy(allocate(of_c * size), call.c, of_c * size);
    expect(fl_run(stack, &call));
    const int indexed = check_index(stack, &call, head, h, c);
    if (indexed)
        return indexed;
    give(call.y, rows * wide, size);
    give(call.h, of_h, size);
    give(call.c, of_c, size);
    for (int direction = 0; saved && direction < head[DIRECTIONS]; direction++) {
        void *gates = allocate(rows * 4 * head[H] * size), *states = allocate(rows * head[H] * size);
        expect(fl_saved(stack, &call, direction, gates, states));
        give(gates, rows * 4 * head[H], size);
        give(states, rows * head[H], size);
    }
    if (!back)
        return check();

    fl_back_call way = {.struct_size = sizeof way, .call = &call, .dy_stride = call.y_stride};
    way.dy = take(rows * wide, size);
    way.dh = take(of_h, size);
    way.dc = take(of_c, size);
    way.dx = allocate(rows * head[I] * size);
    fl_arrays *dw = allocate(cells * sizeof *dw);
    memset(dw, 0, cells * sizeof *dw);
    for (int64_t k = 0; k < cells; k++) {
        dw[k].struct_size = sizeof *dw;
        const int arrays = arrays_of(head, shape.options, head[I], &dw[k], places, counts);
        for (int n = 0; n < arrays; n++)
            if (counts[n])
                *places[n] = zeros(counts[n], size);
    }
    way.dw = dw;
    way.scratch_size = fl_back_scratch_bytes(stack, &way);
    way.scratch = allocate(way.scratch_size);
    expect(fl_back(stack, &way));
    give(way.dx, rows * head[I], size);
    give(way.dh, of_h, size);
    give(way.dc, of_c, size);
    for (int64_t k = 0; k < cells; k++) {
        const int arrays = arrays_of(head, shape.options, head[I], &dw[k], places, counts);
        for (int n = 0; n < arrays; n++)
            give(*places[n], counts[n], size);
    }
    return check();
}
