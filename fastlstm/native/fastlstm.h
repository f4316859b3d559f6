/* LSTM stacks on a CPU, in C11: no dependencies, no allocation, no settings changed. With more than
one thread allowed it keeps a few threads of its own, which sleep between calls.

Legend, as everywhere in fastlstm: T steps, B sequences, I input size, H hidden size, P output size
(H, or the projection's), N = the sum of all batch sizes; gates i, f, g, o. The equations (1) to (5)
stand in fastlstm/engines/__init__.py, and in forward.inc where they run.

    fl_shape shape = {.itemsize = 4, .layers = 1, .directions = 1, .input = 1, .hidden = 32, .output = 32};
    int isa = fl_isa(NULL);
    fl_stack *stack = fl_pack(aligned_alloc(64, fl_stack_bytes(&shape, isa)), &shape, isa, parameters);
    fl_call call = {.x = x, .x_stride = 4, .y = y, .y_stride = 128, .steps = 1, .batch = 1,
                    .h = h, .c = c, .threads = 1};
    call.room = aligned_alloc(64, fl_room_bytes(stack, &call));
    fl_run(stack, &call);

Nothing is checked: sizes and pointers must be right. */

#ifndef FASTLSTM_H
#define FASTLSTM_H

#include <stddef.h>
#include <stdint.h>

/* Of a stack: itemsize 4 is float, 8 double; directions 1 or 2; output == hidden: no projection. */
typedef struct {
    int32_t itemsize, layers, directions;
    int64_t input, hidden, output;
    int32_t back; /* whether it is packed for `fl_back` too */
} fl_shape;

/* A stack's weights, packed for one instruction set; read-only, any number of threads may run it. */
typedef struct fl_stack fl_stack;

/* The arrays of one layer in one direction, C-contiguous: its parameters, which are read, or the gradients of
them, which are added into. */
typedef struct {
    void *w_ih; /* (4H, I), above the first layer (4H, directions * P) */
    void *w_hh; /* (4H, P) */
    void *b;    /* (4H) */
    void *w_hr; /* (P, H); NULL without a projection */
} fl_arrays;

/* One run over packed rows: those of step 0, then of step 1, ...; sequences longest first. */
typedef struct {
    const void *x; /* (N, I), values of a row side by side */
    void *y;       /* (N, directions * P); filled */
    int64_t x_stride, y_stride; /* bytes from row to row */
    int64_t steps, batch;       /* T, B, each at least 1 */
    const int64_t *batch_sizes; /* (T,), not increasing, from B to at least 1; NULL: B in every step */
    void *h, *c; /* (layers * directions, B, P) and (..., B, H): states before, states after */
    void *room;  /* fl_room_bytes, at a multiple of 64; anything may be in it */
    int32_t threads; /* how many may work, the caller among them; values do not depend on it.
                        A real-time thread should ask for 1: it may have to wait for others. */
    int32_t reverse; /* of a stack of one direction: run from each sequence's end */
    int32_t odd;     /* in a stream, other than in the call before: saves time, changes no value */
    void *tape;      /* of a stack of one layer, NULL or fl_tape_bytes at a multiple of 64, filled for `fl_back` */
    int64_t every;   /* the tape holds states at every so many steps; 0: all gates and cells */
    int (*stop)(void); /* NULL, or asked by the calling thread now and then: other than 0 ends the run */
} fl_call;

/* The way back through a recorded call. */
typedef struct {
    const fl_call *call; /* as it ran, but for h, c, which are not read, and threads, which may differ */
    const void *dy;      /* (N, directions * P) */
    int64_t dy_stride;   /* bytes from row to row */
    void *dh, *dc;       /* (directions, B, P) and (..., B, H): of the states after, of the states before */
    void *dx;            /* (N, I), rows side by side; filled; NULL: not wanted */
    const fl_arrays *dw; /* for each direction the gradients of its parameters; added into */
    void *room;          /* fl_back_room_bytes, at a multiple of 64 */
} fl_back_call;

/* The number of an instruction set by name, or of the best that this machine has (NULL); -1: not
known, or not compiled in; -2: this machine lacks it. */
int fl_isa(const char *name);

/* The name of number 0 (the best), 1, ... of those compiled in; NULL past the last. */
const char *fl_isa_name(int isa);

/* Bytes of a stack's packed weights. */
size_t fl_stack_bytes(const fl_shape *shape, int isa);

/* Pack into `memory`, of so many bytes at a multiple of 64. `parameters`: for each layer, and in it
for each direction; they are not needed afterwards. */
fl_stack *fl_pack(void *memory, const fl_shape *shape, int isa, const fl_arrays *parameters);

/* The instruction set whose kernels run this stack, and how many units of a layer share a vector. */
const char *fl_stack_isa(const fl_stack *stack);
int fl_stack_lanes(const fl_stack *stack);

/* Bytes of room that `call` needs: its steps, batch, batch_sizes and threads are read. */
size_t fl_room_bytes(const fl_stack *stack, const fl_call *call);

/* Equations (1) to (5) for all layers, directions and steps. Not 0: it was stopped, and what it fills is
worth nothing. */
int fl_run(const fl_stack *stack, const fl_call *call);

/* Bytes of the tape of a call: its steps, batch, batch_sizes and `every` are read. */
size_t fl_tape_bytes(const fl_stack *stack, const fl_call *call);

/* Bytes of room that the way back needs: of its call steps, batch, batch_sizes, every, threads are read. */
size_t fl_back_room_bytes(const fl_stack *stack, const fl_back_call *back);

/* Equations (6) to (10) for both directions and all steps; the tape can be used again. Not 0: it was
stopped, as its call's `stop` said, and what it fills or adds into is worth nothing. */
int fl_back(const fl_stack *stack, const fl_back_call *back);

/* y = W x + b for any number of rows: each sum begins with b and adds x in order, as a stack's do. */
typedef struct fl_linear fl_linear;

typedef struct {
    const void *x; /* (rows, inputs), values of a row side by side */
    void *y;       /* (rows, outputs); filled */
    int64_t x_stride, y_stride, rows; /* strides in bytes, multiples of a value's */
    int32_t threads;                  /* as a stack's call has them */
} fl_linear_call;

/* As fl_stack_bytes and fl_pack: w (outputs, inputs), b (outputs,) or NULL. */
size_t fl_linear_bytes(int32_t itemsize, int64_t inputs, int64_t outputs, int isa);
fl_linear *fl_pack_linear(void *memory, int32_t itemsize, int64_t inputs, int64_t outputs, int isa,
                          const void *w, const void *b);

/* Needs no room. */
void fl_run_linear(const fl_linear *linear, const fl_linear_call *call);

#endif
