/* Streams, and runs with a table, against runs, without Python: the same bits, however the steps are cut into calls.

    steps ISA

Each case runs some steps of two sequences or more at once, which no kernel for small layers does, and then makes the
steps of the first of them, or of all, by streams and by runs of one sequence. It prints what differs, and ends with 1
if anything did, or with 2 if this machine lacks the instruction set. */

#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastlstm.h"

enum { PADDING = 3, GUARD = 0x5a }; /* values between the rows of y, and what their bytes are before and after */

static int wrong;

/* Memory full of nan: what is used before it is set shows. */
static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, bytes / 64 * 64 + 64);
    if (!memory)
        abort();
    return memset(memory, 0xff, bytes / 64 * 64 + 64);
}

static void right(fl_status status)
{
    if (!status)
        return;
    printf("%s\n", fl_error_string(status));
    exit(1);
}

static void *draw(int64_t count, int itemsize, double bound)
{
    static uint64_t state = 1;
    void *drawn = allocate(count * itemsize);
    for (int64_t n = 0; n < count; n++) {
        state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
        double value = bound * ((double)(state >> 11) / (1ull << 52) - 1);
        if (itemsize == 4)
            ((float *)drawn)[n] = (float)value;
        else
            ((double *)drawn)[n] = value;
    }
    return drawn;
}

/* Copy rows between arrays of other strides. */
static void copy_rows(void *to, int64_t to_stride, const void *from, int64_t from_stride, int64_t bytes, int64_t rows)
{
    for (int64_t n = 0; n < rows; n++)
        memcpy((char *)to + n * to_stride, (const char *)from + n * from_stride, bytes);
}

typedef struct {
    int32_t itemsize, layers;
    int64_t I, H, P, steps, batch; /* of the stream; the run it is compared with has a sequence more */
    const fl_options *options;
} steps_case;

static void expect(int same, const char *what, const steps_case *one)
{
    if (same)
        return;
    wrong = 1;
    printf("%s: itemsize %d, layers %d, I %d, H %d, P %d, steps %d, batch %d%s\n", what, (int)one->itemsize,
           (int)one->layers, (int)one->I, (int)one->H, (int)one->P, (int)one->steps, (int)one->batch,
           one->options ? ", options" : "");
}

/* What a run or a stream makes: y, and the states after it. */
typedef struct {
    char *y, *h, *c;
} results;

static void check(const steps_case *one, int isa)
{
    const fl_shape shape = {.struct_size = sizeof shape,
                            .itemsize = one->itemsize,
                            .layers = one->layers,
                            .directions = 1,
                            .input = one->I,
                            .hidden = one->H,
                            .output = one->P,
                            .options = one->options};
    const fl_shape *s = &shape;
    const int64_t T = one->steps, B = one->batch, size = s->itemsize, I = one->I, H = one->H, P = one->P;
    const int64_t all = B + 1, x_row = I * size, y_row = P * size, y_stride = (P + PADDING) * size;
    const int64_t h_bytes = s->layers * B * y_row, c_bytes = s->layers * B * H * size;
    const double bound = 2 / sqrt((double)H);
    fl_arrays parameters[4];
    for (int layer = 0; layer < s->layers; layer++) {
        const int64_t inputs = layer ? P : I;
        parameters[layer] = (fl_arrays){
            .struct_size = sizeof *parameters,
            .w_ih = draw(4 * H * inputs, size, bound),
            .w_hh = draw(4 * H * P, size, bound),
            .b = draw(4 * H, size, 1),
            .w_hr = P < H ? draw(P * H, size, bound) : NULL,
        };
        if (s->options) {
            parameters[layer].w_ci = draw(H, size, bound);
            parameters[layer].ln_ih = draw(4 * H, size, 1);
            parameters[layer].ln_hh = draw(4 * H, size, 1);
            parameters[layer].ln_c = draw(H, size, 1);
            parameters[layer].b_c = draw(H, size, 1);
        }
    }
    fl_stack *stack;
    size_t bytes = fl_stack_bytes(s, isa);
    right(fl_pack(allocate(bytes), bytes, s, isa, parameters, &stack));

    /* The truth: a run of one sequence more. x is (T, all, I), of which the stream takes the first B in each step. */
    char *x_all = draw(T * all * I, size, 3), *x = allocate(T * B * x_row);
    char *h_all = draw(s->layers * all * P, size, 1), *c_all = draw(s->layers * all * H, size, 2);
    char *h_0 = allocate(h_bytes), *c_0 = allocate(c_bytes), *y_all = allocate(T * all * y_row);
    copy_rows(x, B * x_row, x_all, all * x_row, B * x_row, T);
    copy_rows(h_0, B * y_row, h_all, all * y_row, B * y_row, s->layers);
    copy_rows(c_0, B * H * size, c_all, all * H * size, B * H * size, s->layers);
    fl_call call = {.struct_size = sizeof call,
                    .x = x_all,
                    .y = y_all,
                    .x_stride = x_row,
                    .y_stride = y_row,
                    .steps = T,
                    .batch = all,
                    .h = h_all,
                    .c = c_all,
                    .threads = 1};
    call.scratch_size = fl_scratch_bytes(stack, &call);
    call.scratch = allocate(call.scratch_size);
    right(fl_run(stack, &call));
    results truth = {allocate(T * B * y_stride), allocate(h_bytes), allocate(c_bytes)};
    memset(truth.y, GUARD, T * B * y_stride);
    for (int64_t t = 0; t < T; t++)
        copy_rows(truth.y + t * B * y_stride, y_stride, y_all + t * all * y_row, y_row, y_row, B);
    copy_rows(truth.h, B * y_row, h_all, all * y_row, B * y_row, s->layers);
    copy_rows(truth.c, B * H * size, c_all, all * H * size, B * H * size, s->layers);

    results got = {allocate(T * B * y_stride), allocate(h_bytes), allocate(c_bytes)};
#define EXPECT_SAME(what) \
    expect(!memcmp(got.y, truth.y, T * B * y_stride), what ": y", one); \
    expect(!memcmp(got.h, truth.h, h_bytes), what ": h", one); \
    expect(!memcmp(got.c, truth.c, c_bytes), what ": c", one)

    /* A stream, all at once, and in calls of other lengths: 1, 1, 2, 3, 1, 1, 2, 3, ... It runs on from what it was. */
    fl_stream *stream, *other;
    bytes = fl_stream_bytes(stack, B);
    right(fl_make_stream(allocate(bytes), bytes, stack, B, &stream));
    memset(got.y, GUARD, T * B * y_stride);
    right(fl_set_states(stream, h_0, c_0));
    right(fl_steps(stream, T, x, x_row, got.y, y_stride));
    right(fl_get_states(stream, got.h, got.c));
    EXPECT_SAME("a block");
    memset(got.y, GUARD, T * B * y_stride);
    right(fl_set_states(stream, h_0, c_0));
    for (int64_t t = 0, n = 0, now; t < T; t += now, n++) {
        now = n % 4 < 2 ? 1 : n % 4;
        if (now > T - t)
            now = T - t;
        if (t == T / 2) { /* The states come out and go back in. */
            right(fl_get_states(stream, got.h, got.c));
            right(fl_set_states(stream, NULL, NULL));
            right(fl_set_states(stream, got.h, got.c));
        }
        right(fl_steps(stream, now, x + t * B * x_row, x_row, got.y + t * B * y_stride, y_stride));
    }
    right(fl_get_states(stream, got.h, NULL));
    right(fl_get_states(stream, NULL, got.c));
    EXPECT_SAME("blocks");
    memset(got.y, GUARD, T * B * y_stride);
    right(fl_set_states(stream, h_0, c_0));
    char *y = allocate(B * y_row);
    for (int64_t t = 0; t < T; t++) {
        right(fl_step(stream, x + t * B * x_row, y));
        copy_rows(got.y + t * B * y_stride, y_stride, y, y_row, y_row, B);
    }
    right(fl_get_states(stream, got.h, got.c));
    EXPECT_SAME("steps");

    /* Runs of the same sequences, in two calls. */
    memset(got.y, GUARD, T * B * y_stride);
    memcpy(got.h, h_0, h_bytes);
    memcpy(got.c, c_0, c_bytes);
    fl_call runs = {.struct_size = sizeof runs,
                    .x_stride = x_row,
                    .y_stride = y_stride,
                    .batch = B,
                    .h = got.h,
                    .c = got.c,
                    .threads = 1};
    for (int64_t t = 0; t < T; t += runs.steps) {
        runs.x = x + t * B * x_row;
        runs.y = got.y + t * B * y_stride;
        runs.steps = t ? T - t : T / 3 + 1;
        runs.scratch_size = fl_scratch_bytes(stack, &runs);
        runs.scratch = allocate(runs.scratch_size);
        right(fl_run(stack, &runs));
        free(runs.scratch);
    }
    EXPECT_SAME("runs");

    /* The same with numbers of rows, of a table that has those of x the other way round. Numbers lie apart. */
    int64_t *numbers = allocate(2 * T * B * sizeof *numbers);
    bytes = fl_table_bytes(stack, T * B);
    void *table = allocate(bytes);
    right(fl_fill_table(stack, x + (T * B - 1) * x_row, -x_row, T * B, table, bytes));
    for (int64_t n = 0; n < T * B; n++)
        numbers[2 * n] = T * B - 1 - n;
    memset(got.y, GUARD, T * B * y_stride);
    memcpy(got.h, h_0, h_bytes);
    memcpy(got.c, c_0, c_bytes);
    runs.table = table;
    runs.table_rows = T * B;
    runs.x_stride = 2 * sizeof *numbers;
    for (int64_t t = 0; t < T; t += runs.steps) {
        runs.x = numbers + 2 * t * B;
        runs.y = got.y + t * B * y_stride;
        runs.steps = t ? T - t : 1;
        runs.scratch_size = fl_scratch_bytes(stack, &runs);
        runs.scratch = allocate(runs.scratch_size);
        right(fl_run(stack, &runs));
        free(runs.scratch);
    }
    EXPECT_SAME("rows of a table");

    /* A run from the end is one of the reversed rows, for one layer and one sequence. */
    if (s->layers == 1 && B == 1) {
        char *x_reversed = allocate(T * x_row), *y_reversed = allocate(T * y_stride);
        for (int64_t t = 0; t < T; t++)
            memcpy(x_reversed + t * x_row, x + (T - 1 - t) * x_row, x_row);
        memset(y_reversed, GUARD, T * y_stride);
        memcpy(got.h, h_0, h_bytes);
        memcpy(got.c, c_0, c_bytes);
        fl_call back = {.struct_size = sizeof back,
                        .x = x_reversed,
                        .y = y_reversed,
                        .x_stride = x_row,
                        .y_stride = y_stride,
                        .steps = T,
                        .batch = 1,
                        .h = got.h,
                        .c = got.c,
                        .threads = 1,
                        .reverse = 1};
        back.scratch_size = fl_scratch_bytes(stack, &back);
        back.scratch = allocate(back.scratch_size);
        right(fl_run(stack, &back));
        for (int64_t t = 0; t < T; t++)
            memcpy(got.y + t * y_stride, y_reversed + (T - 1 - t) * y_stride, y_stride);
        EXPECT_SAME("from the end");
        free(x_reversed);
        free(y_reversed);
        free(back.scratch);
    }

    /* New streams and NULL begin with zeros. */
    bytes = fl_stream_bytes(stack, B);
    right(fl_make_stream(allocate(bytes), bytes, stack, B, &other));
    right(fl_set_states(stream, NULL, NULL));
    right(fl_get_states(stream, got.h, got.c));
    for (int64_t n = 0; n < h_bytes; n++)
        expect(!got.h[n], "no zero in h", one);
    for (int64_t n = 0; n < c_bytes; n++)
        expect(!got.c[n], "no zero in c", one);
    right(fl_step(stream, x, truth.y));
    right(fl_step(other, x, got.y));
    expect(!memcmp(got.y, truth.y, B * y_row), "a new stream", one);

    for (int layer = 0; layer < s->layers; layer++) {
        const fl_arrays *p = &parameters[layer];
        void *arrays[] = {p->w_ih, p->w_hh, p->b, p->w_hr, p->w_ci, p->ln_ih, p->ln_hh, p->ln_c, p->b_c};
        for (size_t n = 0; n < sizeof arrays / sizeof *arrays; n++)
            free(arrays[n]);
    }
    void *memory[] = {stack,        numbers, table,   x_all,   x,     h_all, c_all, h_0,    c_0,   y_all,
                      call.scratch, truth.y, truth.h, truth.c, got.y, got.h, got.c, stream, other, y};
    for (size_t n = 0; n < sizeof memory / sizeof *memory; n++)
        free(memory[n]);
}

int main(int argc, char **argv)
{
    const int isa = fl_isa(argc > 1 ? argv[1] : NULL);
    if (isa < 0)
        return 2;
    fesetround(FE_UPWARD); /* No value depends on the mode of this thread, and it stays as it was. */
    for (int itemsize = 4; itemsize <= 8; itemsize += 4) {
        if (!fl_linear_bytes(itemsize, 1, 1, isa)) { /* The library may be built for one type alone. */
            printf("itemsize %d is not there\n", itemsize);
            continue;
        }
        for (int H = 1; H <= 70; H++) /* all sizes of small layers, and some larger ones */
            check(&(steps_case){itemsize, 1, H % 3 ? 1 : 6, H, H, 8, 1, NULL}, isa);
        const fl_options options = {
            .struct_size = sizeof options,
            .gate_clip = 3,
            .cell_clip = 2,
            .proj_clip = INFINITY,
            .layer_norm = FL_NORM_SUMS,
            .zoneout_c = 0.1,
            .gate = {.function = FL_SIGMOID},
            .cell = {.function = FL_TANH},
            .output = {.function = FL_TANH},
        };
        /* clang-format off: a case in each line */
        const steps_case cases[] = {
            {itemsize, 1, 130, 33, 33, 140, 1, NULL}, /* W_ih x is hoisted */
            {itemsize, 2, 3, 19, 19, 9, 1, NULL},      {itemsize, 4, 1, 40, 40, 9, 1, NULL},
            {itemsize, 3, 5, 12, 12, 70, 3, NULL},     {itemsize, 2, 5, 23, 11, 9, 1, NULL},
            {itemsize, 1, 2, 150, 150, 9, 1, NULL},    {itemsize, 2, 4, 17, 17, 9, 1, &options},
            {itemsize, 1, 4, 17, 17, 70, 2, &options},
        };
        /* clang-format on */
        for (size_t n = 0; n < sizeof cases / sizeof *cases; n++)
            check(&cases[n], isa);
    }
    if (fegetround() != FE_UPWARD) {
        printf("the rounding mode has changed\n");
        wrong = 1;
    }
    return wrong;
}
