/* An LSTM alone, without Python: one step of the C API over and over, timed or written out.

    cc -std=c11 -O3 -ffp-contract=off -pthread -I fastlstm/native \
        benchmarks/step.c fastlstm/native/[a-z]*.c -lm -o step
    ./step 1 32 [avx2]          I and H: nanoseconds of a step in float32, one in each call and BLOCK
                                in each call, the medians of many runs
    ./step 1 32 32 1 4 5 avx2   I, H, P, B, bytes of a value, steps, instruction set (or the best):
                                no clock; writes raw w_ih, w_hh, b, w_hr (if P < H), x, y, h, c

Weights are uniform in +-1/sqrt(H) and x in +-1, by a fixed seed. h and c begin with zero and go on
from step to step. Times are those of a stream, fl_step and fl_steps. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fastlstm.h"

/* To these caches the long form's work is cut, so that counts of its instructions are the same everywhere: a program
under Valgrind sees the caches of a processor that Valgrind makes up. */
static const fl_caches CACHES = {.l1 = 48 << 10, .l2 = 2 << 20, .l3 = 32 << 20, .l3_sharers = 8};

enum { BLOCK = 64, RUNS = 101, NANOSECONDS = 1000000 }; /* of a run, at least */

static void *allocate(size_t bytes)
{
    size_t whole = bytes / 64 * 64 + 64;
    void *memory = aligned_alloc(64, whole);
    if (!memory) {
        fprintf(stderr, "no memory for %zu bytes\n", whole);
        exit(1);
    }
    return memset(memory, 0, whole);
}

static void expect(fl_status status)
{
    if (!status)
        return;
    fprintf(stderr, "%s\n", fl_error_string(status));
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

static void run(const fl_stack *stack, fl_call *call, long steps)
{
    for (long n = 0; n < steps; n++) {
        call->parity ^= 1;
        expect(fl_run(stack, call));
    }
}

/* Nanoseconds of so many calls of `block` steps. */
static double timed(fl_stream *stream, const fl_call *call, int block, long calls)
{
    struct timespec begin, end;
    timespec_get(&begin, TIME_UTC);
    for (long n = 0; n < calls; n++)
        if (block == 1)
            fl_step(stream, call->x, call->y);
        else
            fl_steps(stream, block, call->x, call->x_stride, call->y, call->y_stride);
    timespec_get(&end, TIME_UTC);
    return (end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(fl_stream *stream, const fl_call *call, int block)
{
    static double runs[RUNS];
    long calls = 1;
    while (timed(stream, call, block, calls) < NANOSECONDS)
        calls *= 2;
    for (int n = 0; n < RUNS; n++)
        runs[n] = timed(stream, call, block, calls) / (calls * block);
    qsort(runs, RUNS, sizeof *runs, ascending);
    return runs[RUNS / 2];
}

static void print_times(const fl_stack *stack, int64_t I, int64_t H)
{
    fl_stream *stream;
    const size_t bytes = fl_stream_bytes(stack, 1);
    expect(fl_make_stream(allocate(bytes), bytes, stack, 1, &stream));
    const fl_call call = {.x = draw(BLOCK * I, sizeof(float), 1),
                          .y = allocate(BLOCK * H * sizeof(float)),
                          .x_stride = I * sizeof(float),
                          .y_stride = H * sizeof(float)};
    double one = median(stream, &call, 1), block = median(stream, &call, BLOCK), sum = 0;
    expect(fl_set_states(stream, NULL, NULL));
    timed(stream, &call, BLOCK, 1);
    for (int64_t n = 0; n < BLOCK * H; n++)
        sum += ((float *)call.y)[n];
    printf("%.1f %.1f ns a step, by itself and in blocks of %d, %s, sum of outputs %.9g\n", one, block, BLOCK,
           fl_stack_isa(stack), sum);
}

int main(int argc, char **argv)
{
    if (argc != 3 && argc != 4 && argc != 7 && argc != 8) {
        fprintf(stderr, "expected I H [ISA], or I H P B ITEMSIZE STEPS [ISA], as step.c says\n");
        return 1;
    }
    int written = argc > 4;
    int64_t I = atoll(argv[1]), H = atoll(argv[2]), P = written ? atoll(argv[3]) : H;
    int64_t B = written ? atoll(argv[4]) : 1;
    const char *isa_name = argc == 8 ? argv[7] : argc == 4 ? argv[3] : NULL;
    int itemsize = written ? atoi(argv[5]) : 4, isa = fl_isa(isa_name);
    if (isa < 0) {
        fprintf(stderr, "instruction set %s is not compiled in or not in this machine\n", isa_name);
        return 1;
    }
    enum { W_IH, W_HH, BIAS, W_HR, X, Y, STATE, CELL, ARRAYS };
    int64_t counts[ARRAYS] = {4 * H * I, 4 * H * P, 4 * H, P < H ? P * H : 0, B * I, B * P, B * P, B * H};
    void *arrays[ARRAYS];
    for (int n = 0; n < ARRAYS; n++)
        arrays[n] = draw(counts[n], itemsize, n < X ? 1 / sqrt((double)H) : n == X ? 1 : 0);

    fl_shape shape = {.struct_size = sizeof shape,
                      .itemsize = itemsize,
                      .layers = 1,
                      .directions = 1,
                      .input = I,
                      .hidden = H,
                      .output = P,
                      .caches = written ? &CACHES : NULL};
    fl_arrays parameters = {.struct_size = sizeof parameters,
                            .w_ih = arrays[W_IH],
                            .w_hh = arrays[W_HH],
                            .b = arrays[BIAS],
                            .w_hr = P < H ? arrays[W_HR] : NULL};
    fl_stack *stack;
    const size_t bytes = fl_stack_bytes(&shape, isa);
    expect(fl_pack(allocate(bytes), bytes, &shape, isa, &parameters, &stack));
    fl_call call = {.struct_size = sizeof call,
                    .x = arrays[X],
                    .x_stride = I * itemsize,
                    .y = arrays[Y],
                    .y_stride = P * itemsize,
                    .steps = 1,
                    .batch = B,
                    .h = arrays[STATE],
                    .c = arrays[CELL],
                    .threads = 1};
    call.scratch_size = fl_scratch_bytes(stack, &call);
    call.scratch = allocate(call.scratch_size);
    if (!written) {
        print_times(stack, I, H);
        return 0;
    }
    run(stack, &call, atol(argv[6]));
    for (int n = 0; n < ARRAYS; n++)
        fwrite(arrays[n], itemsize, counts[n], stdout);
    return 0;
}
