/* fastlstm's LSTM for CPUs as a C11 library.

It has no dependencies and allocates no memory: the caller brings the memory for packed weights and for each
call, of sizes that functions here tell. It leaves the settings of the process and of the calling thread as
they were. If a call may use more than one thread, the library keeps a few threads of its own, which sleep
between calls and end when it is unloaded. (On Windows it stays loaded once it has any.)

A stack is packed once and then run. This makes one step of one sequence, with I = 1 and H = 32 in float:

    fl_shape shape = {.struct_size = sizeof shape, .itemsize = 4, .layers = 1, .directions = 1,
                      .input = 1, .hidden = 32, .output = 32};
    fl_arrays parameters = {.struct_size = sizeof parameters, .w_ih = w_ih, .w_hh = w_hh, .b = b};
    int isa = fl_isa(NULL);
    size_t size = fl_stack_bytes(&shape, isa);
    fl_stack *stack;
    fl_pack(aligned_alloc(64, size), size, &shape, isa, &parameters, &stack);
    fl_call call = {.struct_size = sizeof call, .x = x, .x_stride = 4, .y = y, .y_stride = 128,
                    .steps = 1, .batch = 1, .h = h, .c = c, .threads = 1};
    call.scratch_size = fl_scratch_bytes(stack, &call);
    call.scratch = aligned_alloc(64, call.scratch_size);
    fl_run(stack, &call);

A whole model from one file is `fl_model`, below.

Every function checks its arguments before any work, and changes nothing if it refuses them. Functions that do
something return an `fl_status`, FL_OK if they did it. Functions that return a number of bytes return 0 if their
arguments are refused; the function that takes the memory then says why. What cannot be seen is not checked: pointers
must lead to arrays of the sizes that are said, and what is filled may not overlap what is read. A stride, the bytes from
row to row, is not looked at where there is one row. All numbers of bytes returned are multiples of 64, as aligned_alloc
wants them, and all memory that the caller brings begins at a multiple of 64. (Windows has _aligned_malloc.)

A structure that may grow begins with `struct_size`, its sizeof where the program was compiled: a later library takes
the fields that it adds as zeros. In an array of such structures all have the same. Structures without it stay as they
are for as long as the first number of the version does.

Legend, the same in all of fastlstm: T steps, B sequences, I inputs, H hidden units, P outputs (H, or those of
the projection), N = the sum of all batch sizes, which is the number of rows; gates i, f, g, o; `d` before a
name is its gradient. The numbered equations are in fastlstm/engines/contract.py; cell.inc repeats those of
the cell. */

#ifndef FASTLSTM_H
#define FASTLSTM_H

#include <stddef.h>
#include <stdint.h>

/* The version of this header, 10000 major + 100 minor + patch; `fl_version` tells that of the library. */
#define FL_VERSION 100

/* What the library exports. On Windows, FL_BUILD_DLL is defined where the DLL is built, and FL_DLL in a program that is
linked to it. A library that has the sources in it, and is to export nothing of them, defines FL_API as nothing. */
#ifndef FL_API
#if defined(_WIN32) && defined(FL_BUILD_DLL)
#define FL_API __declspec(dllexport)
#elif defined(_WIN32) && defined(FL_DLL)
#define FL_API __declspec(dllimport)
#elif defined(__GNUC__) && !defined(_WIN32)
#define FL_API __attribute__((visibility("default")))
#else
#define FL_API
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What a function did, or why it refused. */
typedef enum {
    FL_OK,
    FL_STOPPED,         /* the call's `stop` ended it, and what it fills is worth nothing */
    FL_NULL,            /* a pointer is NULL that may not be */
    FL_BAD_STRUCT_SIZE, /* a struct_size is not that of any version, or the program is newer than the library and uses
                           a field that the library does not know */
    FL_BAD_ALIGNMENT,   /* memory does not begin at a multiple of what is wanted */
    FL_TOO_SMALL,       /* memory is smaller than what the function for it said */
    FL_TOO_LARGE,       /* sizes whose products do not fit */
    FL_BAD_ISA,         /* no instruction set has this number, or this machine lacks it */
    FL_BAD_ITEMSIZE,    /* neither 4 nor 8, or not compiled in */
    FL_BAD_SHAPE,       /* a size below 1, or directions other than 1 or 2 */
    FL_BAD_OPTIONS,     /* an option out of its range, or not a number */
    FL_BAD_ARRAYS,      /* an array is missing, or there is one that the shape or the options have no use for */
    FL_BAD_CALL,        /* steps, batch, threads, or a flag out of its range; fields that do not go together */
    FL_BAD_STRIDE,      /* not a multiple of a value's size, or rows that are filled would overlap */
    FL_BAD_BATCH_SIZES, /* not from B down to at least 1 */
    FL_BAD_CUT,         /* a cut that this run cannot have */
    FL_BAD_INDEX,       /* an input is not the number of a row of a table, or an index not that of a state */
    FL_UNSUPPORTED,     /* this stack, model or build cannot do that */
    FL_FILE_MAGIC,      /* the bytes are not a model of fastlstm's */
    FL_FILE_VERSION,    /* a format that this library does not know */
    FL_FILE_ENDIAN,     /* written for the other order of bytes */
    FL_FILE_TRUNCATED,  /* fewer bytes, or more, than the file says */
    FL_FILE_CHECKSUM,   /* the bytes are not those that were written */
    FL_FILE_DAMAGED,    /* what the file says cannot be */
    FL_FILE_UNREADABLE, /* there is no such file, or it cannot be read; fastlstm.hpp says so, as nothing here opens files */
} fl_status;

/* A sentence for a status, in English, without a full stop; "unknown status" for other numbers. */
FL_API const char *fl_error_string(int status);

/* The version of the library, as FL_VERSION is that of the header. */
FL_API int fl_version(void);

/* A function of one number. `function` is one of the numbers below; contract.py says what each computes and
which of them use alpha and beta. */
typedef struct {
    int32_t function;
    double alpha, beta;
} fl_activation;

enum {
    FL_SIGMOID,
    FL_TANH,
    FL_RELU,
    FL_AFFINE,
    FL_LEAKY_RELU,
    FL_THRESHOLDED_RELU,
    FL_SCALED_TANH,
    FL_HARD_SIGMOID,
    FL_ELU,
    FL_SOFTSIGN,
    FL_SOFTPLUS,
};

/* What equations (11) to (19) take beside arrays. The plain cell's are clips of INFINITY, FL_SIGMOID for the
gates, FL_TANH for the cell and the output, and zeros. */
typedef struct {
    size_t struct_size;                     /* sizeof(fl_options) */
    double gate_clip, cell_clip, proj_clip; /* INFINITY: none */
    int32_t coupled;                        /* 0, FL_F_FROM_I (f = 1 - i) or FL_I_FROM_F (i = 1 - f). In all arrays,
                                               the rows of the gate that follows are zeros. */
    fl_activation gate, cell, output;       /* of (15) and (17) */
    int32_t layer_norm;                     /* 0, FL_NORM_GATES ("tflite") or FL_NORM_SUMS ("haste") */
    double zoneout_h, zoneout_c;            /* the probabilities of (19), which a run without noise multiplies by */
} fl_options;

enum { FL_F_FROM_I = 1, FL_I_FROM_F };
enum { FL_NORM_GATES = 1, FL_NORM_SUMS };

/* The data caches that one core uses, in bytes; l3 is 0 if there are two levels. `l3_sharers` is how many processors
share the third level. */
typedef struct {
    int64_t l1, l2, l3;
    int32_t l3_sharers;
} fl_caches;

/* The sizes of a stack of layers. Each layer has one or two directions; its output goes into the next. */
typedef struct {
    size_t struct_size;            /* sizeof(fl_shape) */
    int32_t itemsize;              /* bytes of a value: 4 for float, 8 for double */
    int32_t layers, directions;    /* at least 1; 1 or 2 */
    int64_t input, hidden, output; /* I of the first layer, H, P; there is a projection if P is not H */
    int32_t back;                  /* whether the stack is packed for `fl_back` too */
    const fl_options *options;     /* of all cells; the stack keeps a copy. NULL: the plain cell, (1) to (5), which is
                                      quicker; of a cell's arrays only w_ih, w_hh, b and w_hr are read then. */
    const fl_caches *caches;       /* to which the work of a step is cut; the stack keeps a copy. NULL: those of this
                                      machine. They change the time and no value. */
} fl_shape;

/* The weights of a stack, packed for one instruction set. They are only read: any number of threads may run
the same stack at once. */
typedef struct fl_stack fl_stack;

/* The arrays of one layer in one direction, C-contiguous: its parameters, which are read, or their gradients,
which are added to. The rows of gate i come first, then those of f, g and o. */
typedef struct {
    size_t struct_size; /* sizeof(fl_arrays) */
    void *w_ih;         /* (4H, I); above the first layer (4H, directions * P) */
    void *w_hh;         /* (4H, P) */
    void *b;            /* (4H,): the one bias, which is the sum of torch's two, bias_ih + bias_hh. That of parameters
                           may be NULL: zeros */
    void *w_hr;         /* (P, H); NULL without a projection */
    void *w_ci, *w_cf, *w_co; /* (H,): the peepholes of (13); NULL without */
    void *ln;                 /* (4H,): the gains of (14); NULL without FL_NORM_GATES */
    void *ln_ih, *ln_hh;      /* (4H,): the gains of (12); NULL without FL_NORM_SUMS */
    void *ln_c, *b_c;         /* (H,): the gain and the bias of (17); NULL without FL_NORM_SUMS */
} fl_arrays;

/* What training draws at random for one run of one direction. Each array may be NULL. */
typedef struct {
    const void *h;               /* (B, P): the factors of (11), of each sequence */
    const void *zone_h, *zone_c; /* (N, P) and (N, H): the masks of (19), of 0 and 1 */
} fl_noise;

/* How the work of a run is cut. There are `groups` of sequences, each of which goes through the whole stack. A group has
one team of threads; or two, one for each direction, which meet after each layer; or, in a stack of one direction, one
for each layer, which follow one another through the steps. The `seats` threads of a team meet in each step, the units
of which they have in `shares`, at least as many as there are seats. In all there are `threads`, or fewer if they do not
come. If `inputs_first` is 1, all of them, those without a seat too, make the products of the first layer's inputs before
the first step, for all steps; of its first direction alone, if a group has one team. */
typedef struct {
    int32_t threads, groups, teams, seats, shares, inputs_first;
} fl_cut;

/* How the backward pass is cut: into `groups` of sequences, and in each step the units of a group into `shares`, whose
threads meet. All threads meet after each chunk of steps. */
typedef struct {
    int32_t threads, groups, shares;
} fl_back_cut;

/* One run of a stack over packed rows: the rows of step 0, then those of step 1, and so on. Sequences are
sorted by length, the longest first. */
typedef struct {
    size_t struct_size;         /* sizeof(fl_call) */
    const void *x;              /* (N, I); the values of a row lie side by side. With `table`: (N,) of int64_t, the
                                   numbers of rows of the table */
    const void *table;          /* NULL, or what `fl_fill_table` filled. Such a run is not recorded. */
    int64_t table_rows;         /* how many rows it has */
    void *y;                    /* (N, directions * P), filled by the run */
    int64_t x_stride, y_stride; /* bytes from row to row */
    int64_t steps, batch;       /* T and B, each at least 1 */
    const int64_t *batch_sizes; /* (T,): how many sequences each step has, B at first, at least 1, not increasing;
                                   NULL: B in every step */
    void *h, *c;                /* (layers * directions, B, P) and (layers * directions, B, H): the states before
                                   the run, replaced by those after it */
    void *cells;                /* NULL, or, for a stack of one layer, (N, directions * H): filled with c after each
                                   step, where cells_stride is the bytes from row to row */
    int64_t cells_stride;
    void *scratch;               /* memory of fl_scratch_bytes, with any content */
    size_t scratch_size;         /* how many bytes it has */
    int32_t threads;             /* how many threads may work, the caller among them. No value depends on it. A
                                    real-time thread should ask for 1: with more it may wait for others. */
    const fl_cut *cut;           /* NULL: that which takes the least time. For tests and measurements: this one, with
                                    scratch memory for it. */
    const fl_noise *noise;       /* for each direction, for stacks of one layer; NULL: nothing is random */
    int32_t reverse;             /* if 1, run from the end of each sequence to its start; for one direction only */
    int32_t parity;              /* for a stream, 0 and 1 in turn from call to call: a call then begins with the
                                    weights that the call before used last. It changes the time and no value. */
    void *tape;                  /* NULL, or, for a stack of one layer, memory of fl_tape_bytes, which the run fills for
                                    `fl_back` */
    size_t tape_size;            /* how many bytes it has */
    int64_t checkpoint_interval; /* 0: the tape holds the gates (or what they are computed from) and cells of all
                                    steps. n > 0: it holds the states at every n-th step, and `fl_back` computes the
                                    others again. */
    int (*stop)(void);           /* NULL, or asked by the calling thread now and then: the run ends early when it
                                    returns other than 0 */
    const int64_t *index;        /* NULL, or (B,): h and c are then the states of more sequences than the call has,
                                    (layers * directions, states, P) and (layers * directions, states, H), and sequence b
                                    has row index[b] of them. No number comes twice. Such a run is not recorded. */
    int64_t states;              /* how many rows those have */
} fl_call;

/* The backward pass through a recorded call. */
typedef struct {
    size_t struct_size;        /* sizeof(fl_back_call) */
    const fl_call *call;       /* as it ran, except for h and c, which are not read, and threads, which may differ */
    const void *dy;            /* (N, directions * P) */
    int64_t dy_stride;         /* bytes from row to row */
    void *dh, *dc;             /* (directions, B, P) and (directions, B, H): the gradients of the states after the run,
                                  replaced by those of the states before it */
    void *dx;                  /* (N, I), filled, with rows side by side; NULL: not wanted */
    const void *const *dcells; /* for each direction (N, H), the gradients of the cells of `fl_saved`, or NULL; NULL:
                                  there are none */
    const fl_arrays *dw;       /* for each direction, the gradients of its parameters, which are added to */
    int32_t fill_dw;           /* 1: those are filled instead, if there are any rows; whatever they hold before */
    void *scratch;             /* memory of fl_back_scratch_bytes */
    size_t scratch_size;       /* how many bytes it has */
    const fl_back_cut *cut;    /* as that of `fl_call` */
} fl_back_call;

/* The number of the instruction set with this name, or, for NULL, of the best that this machine has. -1: the name
is not known, or the set is not compiled in. -2: this machine lacks it. */
FL_API int fl_isa(const char *name);

/* The name of instruction set 0 (the best), 1, ... of those compiled in; NULL after the last. */
FL_API const char *fl_isa_name(int isa);

/* The caches of this machine, or usual ones where nothing tells. The machine is asked once. */
FL_API fl_caches fl_caches_here(void);

/* How many processors this program may keep busy, at least 1. Calls that come at once share so many threads fairly; a
call that is alone has as many as it asks for. Until this is called, it is the processors that are online. */
FL_API fl_status fl_set_processors(int32_t number);

/* How many bytes the packed weights of a stack take. */
FL_API size_t fl_stack_bytes(const fl_shape *shape, int isa);

/* Pack weights into `memory`, fl_stack_bytes of it, and tell the stack, which begins there. `parameters` holds those of
each layer and in it of each direction. They and the options are not needed afterwards. */
FL_API fl_status fl_pack(void *memory, size_t size, const fl_shape *shape, int isa, const fl_arrays *parameters,
                         fl_stack **stack);

/* The name of the instruction set whose kernels run this stack, and how many units of a layer share a vector. NULL and
0 for NULL. */
FL_API const char *fl_stack_isa(const fl_stack *stack);
FL_API int fl_stack_lanes(const fl_stack *stack);

/* How many bytes of scratch memory a call needs. Its steps, batch, batch_sizes, noise, threads and cut are read, and
whether it has a tape, a table and an index. */
FL_API size_t fl_scratch_bytes(const fl_stack *stack, const fl_call *call);

/* Run all layers, directions and steps: equations (1) to (5), or (11) to (19). */
FL_API fl_status fl_run(const fl_stack *stack, const fl_call *call);

/* Inputs that are rows of a table, such as the vectors of words: what the first layer makes of each of them, W_ih x + b,
can be computed once, and calls take it from there. No bit of a result depends on it, as a sum begins with b and adds x
before h. */

/* How many bytes that takes for so many rows. */
FL_API size_t fl_table_bytes(const fl_stack *stack, int64_t rows);

/* Fill `table`, fl_table_bytes of it, from the rows of x (rows, I), which are `x_stride` bytes apart. */
FL_API fl_status fl_fill_table(const fl_stack *stack, const void *x, int64_t x_stride, int64_t rows, void *table,
                               size_t size);

/* A stream: B sequences whose steps arrive one by one, as samples of sound do. It holds their states. A program that
runs steps for ever makes a stack and then

    size_t size = fl_stream_bytes(stack, 1);
    fl_stream *stream;
    fl_make_stream(aligned_alloc(64, size), size, stack, 1, &stream);
    fl_step(stream, x, y);

Every stack can be streamed whose `directions` are 1. A stack without options or a projection, of up to 64 units,
is quickest, with B = 1. */
typedef struct fl_stream fl_stream;

/* How many bytes a stream of B sequences takes. */
FL_API size_t fl_stream_bytes(const fl_stack *stack, int64_t batch);

/* Make a stream in `memory`, fl_stream_bytes of it, and write into every page of that, so that no step is the first to.
Its states are zeros. It needs the stack for as long as it is used, and nothing frees it but the memory. */
FL_API fl_status fl_make_stream(void *memory, size_t size, const fl_stack *stack, int64_t batch, fl_stream **stream);

/* Advance all sequences by one step: x is (B, I) and y (B, P), with rows side by side, and they may not overlap.

This and the functions below are for real-time threads: they allocate nothing, take no lock, wait for nobody and
call nothing of the system; a step takes the same time whatever the values. One thread at a time may use a stream,
and any number of threads may use streams of the same stack. */
FL_API fl_status fl_step(fl_stream *stream, const void *x, void *y);

/* Advance all sequences by so many steps, which is quicker than one by one and gives the same bits. x is (steps, B, I)
and y (steps, B, P); strides are the bytes from row to row, of which each step has B. 0 steps do nothing. */
FL_API fl_status fl_steps(fl_stream *stream, int64_t steps, const void *x, int64_t x_stride, void *y, int64_t y_stride);

/* Write the states into h (layers, B, P) and c (layers, B, H), or replace them by those. With NULL, `fl_get_states`
leaves one out, and `fl_set_states` makes it zeros. */
FL_API fl_status fl_get_states(const fl_stream *stream, void *h, void *c);
FL_API fl_status fl_set_states(fl_stream *stream, const void *h, const void *c);

/* How many bytes the tape of a call takes. Its steps, batch, batch_sizes and checkpoint_interval are read. */
FL_API size_t fl_tape_bytes(const fl_stack *stack, const fl_call *call);

/* Fill the gates i, f, g, o (N, 4H), after (15), and the cells (N, H), c of (19), of one direction of a recorded
call, as it ran; its scratch memory is used. Its checkpoint_interval must be 0. */
FL_API fl_status fl_saved(const fl_stack *stack, const fl_call *call, int direction, void *gates, void *cells);

/* How many bytes of scratch memory the backward pass needs. Its cut is read, and whether dx is wanted; and of its
call, steps, batch, batch_sizes, checkpoint_interval, noise and threads. */
FL_API size_t fl_back_scratch_bytes(const fl_stack *stack, const fl_back_call *back);

/* Go back through all directions and steps: equations (6) to (10), or those of (19) to (11) backward. The tape
stays as it is and can be used again. After FL_STOPPED, what it adds to is worth nothing either. */
FL_API fl_status fl_back(const fl_stack *stack, const fl_back_call *back);

/* The weights of a linear product y = W x + b, packed. Each sum begins with b and adds x in order, as those of
a stack do, so a row's bits do not depend on the other rows. */
typedef struct fl_linear fl_linear;

typedef struct {
    size_t struct_size;               /* sizeof(fl_linear_call) */
    const void *x;                    /* (rows, inputs); the values of a row lie side by side. Rows may overlap: so a
                                         convolution is a product whose rows are less than `inputs` values apart. */
    void *y;                          /* (rows, outputs), filled */
    int64_t x_stride, y_stride, rows; /* strides in bytes, multiples of a value's size; rows, from 0 on */
    int32_t threads;                  /* as in `fl_call` */
} fl_linear_call;

/* As `fl_stack_bytes` and `fl_pack`: w is (outputs, inputs), and b is (outputs,) or NULL. */
FL_API size_t fl_linear_bytes(int32_t itemsize, int64_t inputs, int64_t outputs, int isa);
FL_API fl_status fl_pack_linear(void *memory, size_t size, int32_t itemsize, int64_t inputs, int64_t outputs, int isa,
                                const void *w, const void *b, fl_linear **linear);

/* Multiply. It needs no scratch memory. */
FL_API fl_status fl_run_linear(const fl_linear *linear, const fl_linear_call *call);

/* A rule by which optimisers change parameters p by their gradients g: SGD, RMSprop and Adam (AdamW too), as
fastlstm/training/optimisers.py has them. What follows from the number of the step is worked out by the caller. */
enum { FL_SGD, FL_RMSPROP, FL_ADAM };

typedef struct {
    size_t struct_size;         /* sizeof(fl_rule) */
    int32_t kind;               /* FL_SGD, FL_RMSPROP or FL_ADAM */
    int32_t nesterov, first;    /* FL_SGD: Nesterov's momentum; whether the momentum begins, as a copy of g */
    double rate;                /* by which the change is multiplied: minus the learning rate; FL_ADAM: divided by
                                   1 - beta1^n in step n */
    double shrink, decay;       /* p is first multiplied by shrink, 1 without; then decay * p is added to g */
    double momentum, dampening; /* FL_SGD, FL_RMSPROP */
    double mean, square;        /* the shares that the means of g and of g^2 keep: beta1 and beta2, or alpha */
    double root, eps; /* by which FL_ADAM divides the root of the mean square, sqrt(1 - beta2^n); added to it */
} fl_rule;

/* Change `count` parameters p and their moments, three arrays of that size or NULL: of FL_SGD the momentum; of FL_RMSPROP
the mean of g^2, that of g, the momentum; of FL_ADAM the means of g and of g^2, the greatest mean of g^2. The first of
FL_RMSPROP and the first two of FL_ADAM are needed; what is NULL of the others the rule does without. Each operation is
rounded, so that all instruction sets, and NumPy, give the same bits. */
FL_API fl_status fl_update(const fl_rule *rule, int32_t itemsize, int64_t count, void *p, const void *g,
                           void *const *moments, int isa);

/* Set `finite` to whether none of `count` numbers is nan or inf. */
FL_API fl_status fl_all_finite(int32_t itemsize, int64_t count, const void *x, int isa, int32_t *finite);

/* A whole model, as fastlstm.save(model, "m.fl") writes it: docs/reference/fl_format.md describes the file. Its weights
are packed into memory of the caller's, and are only read afterwards. The other arrays (tables of embeddings, means and
scales, first states) are read from the file's bytes, so these must stay where they are for as long as the model or a
session of it is used. A file mapped into memory serves, and so does an array of constants that `fastlstm export` has
written.

    size_t size = fl_model_bytes(bytes, number, isa);
    fl_model *model;
    fl_model_load(bytes, number, isa, aligned_alloc(64, size), size, &model);
    size = fl_session_bytes(model, 1, 1);
    fl_session *session;
    fl_session_make(aligned_alloc(64, size), size, model, 1, 1, &session);
    fl_model_step(session, x, y);                                               */
typedef struct fl_model fl_model;

/* What a model is. */
typedef struct {
    size_t struct_size;    /* sizeof(fl_model_info), set by the caller */
    int32_t itemsize;      /* bytes of a value of its outputs, and of its inputs unless they are indices */
    int32_t indices;       /* 1: inputs are int64_t numbers of rows of an embedding, one for each step */
    int64_t input, output; /* values of a step of one sequence */
    int32_t steps;         /* 1: it can be run step by step; 0: it needs whole sequences (two directions) */
    int32_t last;          /* 1: a run gives the output of its last step only */
    double sample_rate;    /* of the signal it was made for, in Hz; 0: not said */
} fl_model_info;

/* How many bytes the packed weights of a model take. `bytes` begin at a multiple of 8. */
FL_API size_t fl_model_bytes(const void *bytes, size_t number, int isa);

/* Check all of the file and pack its weights into `memory`, fl_model_bytes of it. */
FL_API fl_status fl_model_load(const void *bytes, size_t number, int isa, void *memory, size_t size, fl_model **model);

/* Fill `info`, of which struct_size alone need be set. What a newer program's has more becomes 0. */
FL_API fl_status fl_model_describe(const fl_model *model, fl_model_info *info);

/* A session: B sequences that run through a model, with their states, and memory to work in. Any number of sessions, in
any threads, may use one model; one thread at a time uses a session. */
typedef struct fl_session fl_session;

/* How many bytes a session takes whose runs are of at most so many steps. */
FL_API size_t fl_session_bytes(const fl_model *model, int64_t batch, int64_t most_steps);

/* Make a session in `memory`, fl_session_bytes of it, and write into every page of that. Its states are those that the
model begins with: zeros, or learned ones. */
FL_API fl_status fl_session_make(void *memory, size_t size, const fl_model *model, int64_t batch, int64_t most_steps,
                                 fl_session **session);

/* Advance all sequences by one step: x is (B, input) and y (B, output), with rows side by side, and they may not
overlap. FL_UNSUPPORTED for a model that needs whole sequences. As `fl_step`, this and all functions of a session below
are for real-time threads. */
FL_API fl_status fl_model_step(fl_session *session, const void *x, void *y);

/* A run of some steps. */
typedef struct {
    size_t struct_size;         /* sizeof(fl_model_call) */
    int64_t steps;              /* from 0 to the session's most_steps */
    const void *x;              /* (steps, B, input); the values of a row lie side by side */
    void *y;                    /* (steps, B, output), filled; (B, output) if the model gives its last step only */
    int64_t x_stride, y_stride; /* bytes from row to row, of which each step has B */
    int32_t threads;            /* as in `fl_call`: a real-time thread should ask for 1 */
} fl_model_call;

/* Advance all sequences by so many steps: the same bits as one by one. A model that needs whole sequences takes the
steps for all of them, and begins each run with its first states. */
FL_API fl_status fl_model_run(fl_session *session, const fl_model_call *call);

/* The states of all sequences as values of the model's itemsize: for each LSTM in the model's order, and each layer of
it, h (B, P) and then c (B, H); whatever else the model carries from step to step follows. A session of equal B takes
them up, in another process too. 0 bytes if there are none, as in a model that needs whole sequences. */
FL_API size_t fl_session_state_bytes(const fl_session *session);
FL_API fl_status fl_session_get_state(const fl_session *session, void *state, size_t size);
FL_API fl_status fl_session_set_state(fl_session *session, const void *state, size_t size);

/* Begin anew: all sequences, or, if `mask` is not NULL, those n of which mask[n] is not 0. */
FL_API fl_status fl_session_reset(fl_session *session, const uint8_t *mask);

#ifdef __cplusplus
}
#endif

#endif
