/* What a library without threads, training and double answers where they are asked for: the statuses, in lines that
test_clib.py knows. */

#include <stdio.h>
#include "fastlstm.h"

int main(void)
{
    fl_shape shape = {
        .struct_size = sizeof shape, .itemsize = 4, .layers = 1, .directions = 1, .input = 1, .hidden = 2, .output = 2};
    static float w[64];
    static _Alignas(64) char memory[1 << 16], more[1 << 16];
    const fl_arrays arrays = {.struct_size = sizeof arrays, .w_ih = w, .w_hh = w};
    const int isa = fl_isa(NULL);
    fl_stack *stack;
    printf("%d\n", fl_pack(memory, sizeof memory, &shape, isa, &arrays, &stack));
    const fl_cut cut = {.threads = 2, .groups = 1, .teams = 1, .seats = 2, .shares = 2};
    fl_call call = {.struct_size = sizeof call,
                    .x = w,
                    .y = w + 8,
                    .x_stride = 4,
                    .y_stride = 8,
                    .steps = 2,
                    .batch = 1,
                    .h = w + 16,
                    .c = w + 24,
                    .scratch = more,
                    .scratch_size = sizeof more,
                    .threads = 8,
                    .cut = &cut};
    printf("%d\n", fl_run(stack, &call));
    call.cut = NULL;
    printf("%d\n", fl_run(stack, &call));
    call.tape = more;
    call.tape_size = sizeof more;
    printf("%d %zu\n", fl_run(stack, &call), fl_tape_bytes(stack, &call));
    fl_back_call back = {.struct_size = sizeof back, .call = &call};
    printf("%d %d %zu\n", fl_back(stack, &back), fl_saved(stack, &call, 0, w, w), fl_back_scratch_bytes(stack, &back));
    shape.back = 1;
    printf("%d\n", fl_pack(memory, sizeof memory, &shape, isa, &arrays, &stack));
    shape.back = 0;
    shape.itemsize = 8;
    printf("%d %zu\n", fl_pack(memory, sizeof memory, &shape, isa, &arrays, &stack), fl_stack_bytes(&shape, isa));
    printf("%d %d %s\n", fl_isa("avx2"), fl_isa("baseline"), fl_isa_name(1) ? fl_isa_name(1) : "none");
    shape.itemsize = 4;
    shape.input = shape.hidden = shape.output = 30000; /* 2^33 bytes of weights and more: too many for 32 bits */
    printf("%d\n", fl_stack_bytes(&shape, isa) != 0);
}
