/* A program of somebody else's: a stream, compared with the equations as one would write them down. It ends with 0 if
the values agree, and prints the version and the instruction set. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "fastlstm.h"

enum { I = 2, H = 5, T = 20 };

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* One step of the plain cell, with a bias of zero. */
static void step(const float *w_ih, const float *w_hh, const float *x, double *h, double *c)
{
    double z[4 * H];
    for (int n = 0; n < 4 * H; n++) {
        z[n] = 0;
        for (int k = 0; k < I; k++)
            z[n] += w_ih[n * I + k] * x[k];
        for (int k = 0; k < H; k++)
            z[n] += w_hh[n * H + k] * h[k];
    }
    for (int n = 0; n < H; n++) {
        c[n] = sigmoid(z[H + n]) * c[n] + sigmoid(z[n]) * tanh(z[2 * H + n]);
        h[n] = sigmoid(z[3 * H + n]) * tanh(c[n]);
    }
}

static void *allocate(size_t size)
{
    void *memory = aligned_alloc(64, size);
    if (!memory)
        abort();
    return memory;
}

static void check(fl_status status)
{
    if (status == FL_OK)
        return;
    fprintf(stderr, "%s\n", fl_error_string(status));
    exit(1);
}

int main(void)
{
    float w_ih[4 * H * I], w_hh[4 * H * H], b[4 * H] = {0};
    for (int n = 0; n < 4 * H * I; n++)
        w_ih[n] = (float)(n % 7) / 7 - 0.4f;
    for (int n = 0; n < 4 * H * H; n++)
        w_hh[n] = (float)(n % 11) / 11 - 0.5f;

    const fl_shape shape = {
        .struct_size = sizeof shape, .itemsize = 4, .layers = 1, .directions = 1, .input = I, .hidden = H, .output = H};
    const fl_arrays parameters = {.struct_size = sizeof parameters, .w_ih = w_ih, .w_hh = w_hh, .b = b};
    const int isa = fl_isa(NULL);
    size_t size = fl_stack_bytes(&shape, isa);
    void *weights = allocate(size);
    fl_stack *stack;
    check(fl_pack(weights, size, &shape, isa, &parameters, &stack));
    size = fl_stream_bytes(stack, 1);
    void *states = allocate(size);
    fl_stream *stream;
    check(fl_make_stream(states, size, stack, 1, &stream));

    double h[H] = {0}, c[H] = {0}, worst = 0;
    for (int t = 0; t < T; t++) {
        const float x[I] = {(float)(t % 5) - 2, (float)(t % 3)};
        float y[H];
        check(fl_step(stream, x, y));
        step(w_ih, w_hh, x, h, c);
        for (int n = 0; n < H; n++)
            worst = fmax(worst, fabs(y[n] - h[n]));
    }
    free(states);
    free(weights);
    printf("fastlstm %d, %s: off by %.1e at most\n", fl_version(), fl_isa_name(isa), worst);
    return fl_version() != FL_VERSION || !(worst < 1e-6);
}
