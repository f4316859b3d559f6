/* The values of a stream of the baseline, bit by bit, to be compared with those of another processor. */

#include <stdio.h>
#include "fastlstm.h"

int main(void)
{
    enum { I = 3, H = 21, T = 50 };
    const fl_shape shape = {
        .struct_size = sizeof shape, .itemsize = 4, .layers = 1, .directions = 1, .input = I, .hidden = H, .output = H};
    static float w_ih[4 * H * I], w_hh[4 * H * H], b[4 * H];
    for (int n = 0; n < 4 * H * H; n++)
        w_hh[n] = (float)(n * 37 % 101 - 50) / 128;
    for (int n = 0; n < 4 * H * I; n++)
        w_ih[n] = (float)(n * 29 % 61 - 30) / 32;
    for (int n = 0; n < 4 * H; n++)
        b[n] = (float)(n * 17 % 31 - 15) / 32;
    static _Alignas(64) char memory[1 << 16], more[1 << 12];
    const fl_arrays arrays = {.struct_size = sizeof arrays, .w_ih = w_ih, .w_hh = w_hh, .b = b};
    fl_stack *stack;
    fl_stream *stream;
    if (fl_pack(memory, sizeof memory, &shape, fl_isa("baseline"), &arrays, &stack)
        || fl_make_stream(more, sizeof more, stack, 1, &stream))
        return 1;
    for (int t = 0; t < T; t++) {
        const float x[I] = {(float)(t % 5) - 2, (float)(t % 7) / 4, 1};
        float y[H];
        if (fl_step(stream, x, y))
            return 1;
        for (int n = 0; n < H; n++)
            printf("%a\n", y[n]);
    }
}
