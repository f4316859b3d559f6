/* Steps of the C library and of RTNeural's models in turn.

    cc -std=c11 -O2 -ffp-contract=off -pthread -I fastlstm/native \
        benchmarks/clib.c fastlstm/native/[a-z]*.c -lm -ldl -o clib
    ./clib I H ISA PEER...      ISA: of ours, or "best"; PEER: a library of rtneural.cpp

Weights are uniform in +-1/sqrt(H) and x in +-1, by a fixed seed. Before anything is timed, the outputs of BLOCK steps
from states of zero are compared. Then, in each of ROUNDS rounds, each contestant makes some calls of one step, and some
calls of BLOCK steps, of which those before are not counted; the order is rotated. Printed is a line for each
contestant: its name, the medians in nanoseconds of a step, and how far its outputs are from ours. */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fastlstm.h"

enum { BLOCK = 64, ROUNDS = 101, NANOSECONDS = 100000, MOST = 8 }; /* NANOSECONDS: of a round's calls, at least */

typedef struct {
    const char *name;
    void *model;
    void (*steps)(void *model, long count, const float *x, float *y); /* NULL: the model is a stream of ours */
    long calls[2];                                                    /* of one step, of a block */
    double times[2][ROUNDS], error;
} contestant;

static int64_t I, H;
static float *x, *y;

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, bytes / 64 * 64 + 64);
    if (!memory) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return memset(memory, 0, bytes / 64 * 64 + 64);
}

static void expect(fl_status status)
{
    if (status) {
        fprintf(stderr, "%s\n", fl_error_string(status));
        exit(1);
    }
}

static float *draw(int64_t count, double bound)
{
    static uint64_t state = 1;
    float *drawn = allocate(count * sizeof(float));
    for (int64_t n = 0; n < count; n++) {
        state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
        drawn[n] = (float)(bound * ((double)(state >> 11) / (1ull << 52) - 1));
    }
    return drawn;
}

/* Nanoseconds of so many calls, of one step or of a block. */
static double timed(const contestant *c, int block, long calls)
{
    const int64_t x_stride = I * sizeof(float), y_stride = H * sizeof(float);
    struct timespec begin, end;
    timespec_get(&begin, TIME_UTC);
    for (long n = 0; n < calls; n++)
        if (c->steps)
            c->steps(c->model, block ? BLOCK : 1, block ? x : x + n % BLOCK * I, y);
        else if (block)
            fl_steps(c->model, BLOCK, x, x_stride, y, y_stride);
        else
            fl_step(c->model, x + n % BLOCK * I, y);
    timespec_get(&end, TIME_UTC);
    return (end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec);
}

static int ascending(const void *a, const void *b)
{
    double p = *(const double *)a, q = *(const double *)b;
    return (p > q) - (p < q);
}

int main(int argc, char **argv)
{
    static contestant all[MOST];
    if (argc < 4 || argc - 3 > MOST) {
        fprintf(stderr, "expected I H ISA PEER..., as clib.c says\n");
        return 1;
    }
    I = atoll(argv[1]);
    H = atoll(argv[2]);
    const double bound = 1 / sqrt((double)H);
    float *w_ih = draw(4 * H * I, bound), *w_hh = draw(4 * H * H, bound), *b = draw(4 * H, bound);
    float *outputs = allocate(BLOCK * H * sizeof(float));
    x = draw(BLOCK * I, 1);
    y = allocate(BLOCK * H * sizeof(float));

    const int isa = fl_isa(strcmp(argv[3], "best") ? argv[3] : NULL);
    const fl_shape shape = {.struct_size = sizeof shape,
                            .itemsize = sizeof(float),
                            .layers = 1,
                            .directions = 1,
                            .input = I,
                            .hidden = H,
                            .output = H};
    const fl_arrays arrays = {.struct_size = sizeof arrays, .w_ih = w_ih, .w_hh = w_hh, .b = b};
    const size_t bytes = fl_stack_bytes(&shape, isa);
    const fl_stack *stack;
    fl_stream *stream;
    expect(fl_pack(allocate(bytes), bytes, &shape, isa, &arrays, (fl_stack **)&stack));
    const size_t stream_bytes = fl_stream_bytes(stack, 1);
    expect(fl_make_stream(allocate(stream_bytes), stream_bytes, stack, 1, &stream));

    int count = 1;
    all[0] = (contestant){.name = fl_stack_isa(stack), .model = stream};
    for (int n = 4; n < argc; n++, count++) {
        void *library = dlopen(argv[n], RTLD_NOW | RTLD_LOCAL);
        void *(*make)(int, int, const float *, const float *, const float *, void *) = NULL;
        if (library)
            *(void **)&make = dlsym(library, "peer_make");
        all[count].name = argv[n];
        if (!make || !(all[count].model = make((int)I, (int)H, w_ih, w_hh, b, &all[count].steps))) {
            fprintf(stderr, "%s: %s\n", argv[n], make ? "it has no model of this size" : dlerror());
            return 1;
        }
    }
    for (int n = 0; n < count; n++) {
        timed(&all[n], 1, 1);
        for (int64_t k = 0; k < BLOCK * H; k++) {
            if (!n)
                outputs[k] = y[k];
            all[n].error = fmax(all[n].error, fabs((double)y[k] - outputs[k]));
        }
        for (int block = 0; block < 2; block++)
            for (long *calls = &all[n].calls[block]; timed(&all[n], block, ++*calls) < NANOSECONDS; *calls *= 2)
                ;
    }
    for (int round = 0; round < ROUNDS; round++)
        for (int turn = 0; turn < count; turn++)
            for (int block = 0; block < 2; block++) {
                contestant *c = &all[(turn + round) % count];
                const long calls = c->calls[block];
                timed(c, block, calls);
                c->times[block][round] = timed(c, block, calls) / (calls * (block ? BLOCK : 1));
            }
    for (int n = 0; n < count; n++) {
        for (int block = 0; block < 2; block++)
            qsort(all[n].times[block], ROUNDS, sizeof(double), ascending);
        printf("%s %.1f %.1f %.1e\n", all[n].name, all[n].times[0][ROUNDS / 2], all[n].times[1][ROUNDS / 2],
               all[n].error);
    }
    return 0;
}
