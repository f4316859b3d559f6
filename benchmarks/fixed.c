/* A peer of step.c: an LSTM whose sizes are known when it is compiled, with an approximate tanh, as RTNeural's static
models and NeuralAudio have them. This is a program of our own after their published algorithm, in C:

    gates = W [x | h] + b;  c = sigmoid(f) c + sigmoid(i) tanh(g);  h = sigmoid(o) tanh(c)

with sigmoid(z) = (tanh(z / 2) + 1) / 2 and for tanh a quotient of polynomials, here Lambert's continued fraction cut
after five terms and bounded by 1, whose error is up to 1.4e-3 (theirs is up to 9e-4).

    cc -std=c11 -O3 -ffast-math -march=native -DI=1 -DH=32 benchmarks/fixed.c -lm -o fixed
    ./fixed             nanoseconds of a step, by itself and in blocks of BLOCK, and the errors of its tanh
                        and of its outputs

They too compile with such options. */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BLOCK = 64, RUNS = 101, NANOSECONDS = 1000000 }; /* of a run, at least */

#ifdef __AVX512F__
enum { VECTOR_BYTES = 64, TOGETHER = 16 }; /* the sums of so many vectors of rows stay in registers */
#else
enum { VECTOR_BYTES = 32, TOGETHER = 10 };
#endif
enum { ROWS = 4 * H, LANES = VECTOR_BYTES / 4, VECTORS = ROWS / LANES };
_Static_assert(ROWS % LANES == 0, "H is a multiple of 4");

typedef float vec __attribute__((vector_size(VECTOR_BYTES)));

static union {
    vec vectors[VECTORS];
    float rows[ROWS];
} w[I + H], b, gates;
static float state[I + H] __attribute__((aligned(64))), c[H] __attribute__((aligned(64)));
static float x[BLOCK][I], y[BLOCK][H];

static inline float tanh_of(float z)
{
    float square = z * z;
    float quotient = z * (945 + square * (105 + square)) / (945 + square * (420 + 15 * square));
    return quotient > 1 ? 1 : quotient < -1 ? -1 : quotient;
}

static inline float sigmoid(float z)
{
    return 0.5f * tanh_of(0.5f * z) + 0.5f;
}

/* `count` vectors of gates = W [x | h] + b, from vector `first` on. */
static inline __attribute__((always_inline)) void multiply(const int first, const int count)
{
    vec sums[TOGETHER];
#pragma GCC unroll 16
    for (int n = 0; n < count; n++)
        sums[n] = b.vectors[first + n];
    for (int k = 0; k < I + H; k++)
#pragma GCC unroll 16
        for (int n = 0; n < count; n++)
            sums[n] += w[k].vectors[first + n] * state[k];
#pragma GCC unroll 16
    for (int n = 0; n < count; n++)
        gates.vectors[first + n] = sums[n];
}

__attribute__((noinline)) static void run(int steps)
{
    for (int t = 0; t < steps; t++) {
        for (int k = 0; k < I; k++)
            state[k] = x[t][k];
        for (int first = 0; first + TOGETHER <= VECTORS; first += TOGETHER)
            multiply(first, TOGETHER);
        multiply(VECTORS / TOGETHER * TOGETHER, VECTORS % TOGETHER);
        for (int n = 0; n < H; n++)
            c[n] = sigmoid(gates.rows[H + n]) * c[n] + sigmoid(gates.rows[n]) * tanh_of(gates.rows[2 * H + n]);
        for (int n = 0; n < H; n++)
            y[t][n] = state[I + n] = sigmoid(gates.rows[3 * H + n]) * tanh_of(c[n]);
    }
}

static double timed(int block, long calls)
{
    struct timespec begin, end;
    timespec_get(&begin, TIME_UTC);
    for (long n = 0; n < calls; n++)
        run(block);
    timespec_get(&end, TIME_UTC);
    return (end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec);
}

static int ascending(const void *p, const void *q)
{
    double one = *(const double *)p, other = *(const double *)q;
    return (one > other) - (one < other);
}

static double median(int block)
{
    static double runs[RUNS];
    long calls = 1;
    while (timed(block, calls) < NANOSECONDS)
        calls *= 2;
    for (int n = 0; n < RUNS; n++)
        runs[n] = timed(block, calls) / (calls * block);
    qsort(runs, RUNS, sizeof *runs, ascending);
    return runs[RUNS / 2];
}

static float drawn(double bound)
{
    static uint64_t drawing = 1;
    drawing = drawing * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
    return (float)(bound * ((double)(drawing >> 11) / (1ull << 52) - 1));
}

/* How far the outputs of a block are from those of the exact functions, from states of zero on. */
static double error_of_outputs(void)
{
    double h[2][H] = {{0}}, cells[H] = {0}, error = 0;
    for (int n = 0; n < H; n++)
        state[I + n] = c[n] = 0;
    run(BLOCK);
    for (int t = 0; t < BLOCK; t++)
        for (int n = 0; n < H; n++) {
            double z[4];
            for (int gate = 0; gate < 4; gate++) {
                z[gate] = b.rows[gate * H + n];
                for (int k = 0; k < I + H; k++)
                    z[gate] += w[k].rows[gate * H + n] * (k < I ? x[t][k] : h[t % 2][k - I]);
            }
            cells[n] = cells[n] / (1 + exp(-z[1])) + tanh(z[2]) / (1 + exp(-z[0]));
            h[(t + 1) % 2][n] = tanh(cells[n]) / (1 + exp(-z[3]));
            error = fmax(error, fabs(y[t][n] - h[(t + 1) % 2][n]));
        }
    return error;
}

int main(void)
{
    const double bound = 1 / sqrt((double)H);
    for (int n = 0; n < ROWS; n++) {
        b.rows[n] = drawn(bound);
        for (int k = 0; k < I + H; k++)
            w[k].rows[n] = drawn(bound);
    }
    for (int t = 0; t < BLOCK; t++)
        for (int k = 0; k < I; k++)
            x[t][k] = drawn(1);
    double one = median(1), block = median(BLOCK), error = 0;
    for (int n = -100000; n <= 100000; n++)
        error = fmax(error, fabs(tanh_of(n * 1e-4f) - tanh(n * 1e-4)));
    printf("%.1f %.1f ns a step, by itself and in blocks of %d, error of tanh %.1e, of outputs %.1e\n", one, block,
           BLOCK, error, error_of_outputs());
    return 0;
}
