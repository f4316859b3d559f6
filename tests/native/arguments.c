/* Every public function with every argument that is wrong, one at a time: it says which status it should, and changes
nothing. Right calls between them still work, with structures of older and of newer versions too.

    arguments [ISA]

It prints what is wrong, and ends with 1 if anything was, or with 2 if this machine lacks the instruction set. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastlstm.h"

enum { I = 3, H = 5, P = 4, T = 4, B = 3, N = 9, VALUE = sizeof(float), PIECES = 128, MORE = 24 };

static int wrong;

/* ---- memory, all of which is compared with what it was -------------------------------------------------- */

static struct {
    unsigned char *memory, *kept;
    size_t bytes;
} pieces[PIECES];
static int taken;

static void *allocate(size_t bytes)
{
    const size_t whole = bytes / 64 * 64 + 64;
    if (taken == PIECES)
        abort();
    pieces[taken].bytes = whole;
    pieces[taken].kept = aligned_alloc(64, whole);
    pieces[taken].memory = aligned_alloc(64, whole);
    if (!pieces[taken].memory || !pieces[taken].kept)
        abort();
    return memset(pieces[taken++].memory, 0, whole);
}

static void keep(void)
{
    for (int n = 0; n < taken; n++)
        memcpy(pieces[n].kept, pieces[n].memory, pieces[n].bytes);
}

static void expect(int right, const char *what)
{
    if (right)
        return;
    wrong = 1;
    printf("%s\n", what);
}

static void expect_status(int status, int expected, const char *what)
{
    if (status != expected) {
        wrong = 1;
        printf("%s: \"%s\" instead of \"%s\"\n", what, fl_error_string(status), fl_error_string(expected));
    }
}

/* A call that had to be refused with this status. */
static void refused(int status, int expected, const char *what)
{
    expect_status(status, expected, what);
    for (int n = 0; n < taken; n++)
        if (memcmp(pieces[n].kept, pieces[n].memory, pieces[n].bytes)) {
            wrong = 1;
            printf("%s: memory was changed\n", what);
            keep();
        }
}

/* A call that had to be right. What it changed is kept. */
static void accepted(int status, const char *what)
{
    expect_status(status, FL_OK, what);
    keep();
}

#define REFUSED(expected, call) refused(call, expected, #call)
#define ACCEPTED(call) accepted(call, #call)

static float *draw(int64_t count)
{
    static uint64_t state = 1;
    float *drawn = allocate(count * sizeof(float));
    for (int64_t n = 0; n < count; n++) {
        state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
        drawn[n] = (float)(state >> 40) / (1 << 24) - 0.5f;
    }
    return drawn;
}

/* ---- stacks ------------------------------------------------------------------------------------------ */

static int isa;
static void *memory; /* for anything that is packed, and refused */
enum { MEMORY = 1 << 20 };
static fl_stack *refused_stack;

static const fl_options options = {
    .struct_size = sizeof options,
    .gate_clip = 2,
    .cell_clip = 3,
    .proj_clip = INFINITY,
    .gate = {.function = FL_SIGMOID},
    .cell = {.function = FL_TANH},
    .output = {.function = FL_TANH},
    .layer_norm = FL_NORM_SUMS,
    .zoneout_c = 0.5,
};

static const fl_caches caches = {.l1 = 32 << 10, .l2 = 1 << 20, .l3 = 0, .l3_sharers = 1};

static const fl_shape plain = {.struct_size = sizeof plain,
                               .itemsize = VALUE,
                               .layers = 1,
                               .directions = 1,
                               .input = I,
                               .hidden = H,
                               .output = H,
                               .back = 1,
                               .caches = &caches};

/* Two layers in two directions, with a projection and norms. */
static const fl_shape rich = {.struct_size = sizeof rich,
                              .itemsize = VALUE,
                              .layers = 2,
                              .directions = 2,
                              .input = I,
                              .hidden = H,
                              .output = P,
                              .options = &options};

static fl_arrays plain_arrays, rich_arrays[4];

static fl_stack *packed(const fl_shape *shape, const fl_arrays *parameters)
{
    fl_stack *stack = NULL;
    const size_t bytes = fl_stack_bytes(shape, isa);
    expect(bytes && bytes % 64 == 0, "the bytes of a stack are no multiple of 64");
    accepted(fl_pack(allocate(bytes), bytes, shape, isa, parameters, &stack), "a stack");
    return stack;
}

/* A stack of this shape has no size, and is not packed. */
static void refused_shape(const fl_shape *shape, int expected, const char *what)
{
    expect(fl_stack_bytes(shape, isa) == 0, what);
    refused(fl_pack(memory, MEMORY, shape, isa, &plain_arrays, &refused_stack), expected, what);
    expect(refused_stack == NULL, what);
}

#define SHAPE(expected, ...) \
    do { \
        fl_shape s = plain; \
        __VA_ARGS__; \
        refused_shape(&s, expected, #__VA_ARGS__); \
    } while (0)

#define OPTIONS(expected, ...) \
    do { \
        fl_shape s = plain; \
        fl_options o = options; \
        o.layer_norm = 0; \
        s.options = &o; \
        __VA_ARGS__; \
        refused_shape(&s, expected, #__VA_ARGS__); \
    } while (0)

#define CACHES(expected, ...) \
    do { \
        fl_shape s = plain; \
        fl_caches k = caches; \
        s.caches = &k; \
        __VA_ARGS__; \
        refused_shape(&s, expected, "caches: " #__VA_ARGS__); \
    } while (0)

static void shapes(void)
{
    refused_shape(NULL, FL_NULL, "no shape");
    SHAPE(FL_BAD_STRUCT_SIZE, s.struct_size = 0);
    SHAPE(FL_BAD_STRUCT_SIZE, s.struct_size = 1);
    SHAPE(FL_BAD_STRUCT_SIZE, s.struct_size = sizeof s - 1);
    SHAPE(FL_BAD_STRUCT_SIZE, s.struct_size = SIZE_MAX);
    SHAPE(FL_BAD_ITEMSIZE, s.itemsize = 0);
    SHAPE(FL_BAD_ITEMSIZE, s.itemsize = 2);
    SHAPE(FL_BAD_ITEMSIZE, s.itemsize = 16);
    SHAPE(FL_BAD_ITEMSIZE, s.itemsize = -4);
    SHAPE(FL_BAD_SHAPE, s.layers = 0);
    SHAPE(FL_BAD_SHAPE, s.layers = INT32_MIN);
    SHAPE(FL_BAD_SHAPE, s.directions = 0);
    SHAPE(FL_BAD_SHAPE, s.directions = 3);
    SHAPE(FL_BAD_SHAPE, s.directions = -1);
    SHAPE(FL_BAD_SHAPE, s.input = 0);
    SHAPE(FL_BAD_SHAPE, s.input = INT64_MIN);
    SHAPE(FL_BAD_SHAPE, s.hidden = 0);
    SHAPE(FL_BAD_SHAPE, s.hidden = -1);
    SHAPE(FL_BAD_SHAPE, s.output = 0);
    SHAPE(FL_BAD_SHAPE, s.output = INT64_MIN);
    SHAPE(FL_BAD_CALL, s.back = 2);
    SHAPE(FL_BAD_CALL, s.back = -1);
    SHAPE(FL_TOO_LARGE, s.layers = INT32_MAX);
    SHAPE(FL_TOO_LARGE, s.layers = INT32_MAX, s.directions = 2);
    SHAPE(FL_TOO_LARGE, s.input = INT64_MAX);
    SHAPE(FL_TOO_LARGE, s.hidden = INT64_MAX, s.output = INT64_MAX);
    SHAPE(FL_TOO_LARGE, s.hidden = INT64_MAX);
    SHAPE(FL_TOO_LARGE, s.output = INT64_MAX);
    SHAPE(FL_TOO_LARGE, s.hidden = s.output = s.input = (int64_t)1 << 30);
    SHAPE(FL_TOO_LARGE, s.hidden = s.output = (int64_t)1 << 28, s.layers = 1 << 28);
    SHAPE(FL_TOO_LARGE, s.hidden = ((int64_t)1 << 62) + 1);
    /* Too large for the memory alone: the sizes themselves are right. */
    fl_shape large = plain;
    large.input = large.hidden = large.output = 1 << 20;
    expect(sizeof(size_t) < 8 || fl_stack_bytes(&large, isa) > (size_t)8 << 40, "the bytes of a large stack");

    OPTIONS(FL_BAD_STRUCT_SIZE, o.struct_size = 0);
    OPTIONS(FL_BAD_OPTIONS, o.gate_clip = 0);
    OPTIONS(FL_BAD_OPTIONS, o.gate_clip = -1);
    OPTIONS(FL_BAD_OPTIONS, o.gate_clip = NAN);
    OPTIONS(FL_BAD_OPTIONS, o.cell_clip = 0);
    OPTIONS(FL_BAD_OPTIONS, o.cell_clip = NAN);
    OPTIONS(FL_BAD_OPTIONS, o.proj_clip = -INFINITY);
    OPTIONS(FL_BAD_OPTIONS, o.proj_clip = NAN);
    OPTIONS(FL_BAD_OPTIONS, o.coupled = 3);
    OPTIONS(FL_BAD_OPTIONS, o.coupled = -1);
    OPTIONS(FL_BAD_OPTIONS, o.layer_norm = 3);
    OPTIONS(FL_BAD_OPTIONS, o.layer_norm = INT32_MIN);
    OPTIONS(FL_BAD_OPTIONS, o.gate.function = FL_SOFTPLUS + 1);
    OPTIONS(FL_BAD_OPTIONS, o.gate.function = -1);
    OPTIONS(FL_BAD_OPTIONS, o.cell.function = INT32_MAX);
    OPTIONS(FL_BAD_OPTIONS, o.output.function = INT32_MIN);
    OPTIONS(FL_BAD_OPTIONS, o.gate.alpha = NAN);
    OPTIONS(FL_BAD_OPTIONS, o.cell.beta = INFINITY);
    OPTIONS(FL_BAD_OPTIONS, o.output.alpha = -INFINITY);
    OPTIONS(FL_BAD_OPTIONS, o.zoneout_h = -0.1);
    OPTIONS(FL_BAD_OPTIONS, o.zoneout_h = NAN);
    OPTIONS(FL_BAD_OPTIONS, o.zoneout_c = 1.1);
    OPTIONS(FL_BAD_OPTIONS, o.zoneout_c = NAN);

    CACHES(FL_BAD_SHAPE, k.l1 = 0);
    CACHES(FL_BAD_SHAPE, k.l2 = -1);
    CACHES(FL_BAD_SHAPE, k.l3 = -1);
    CACHES(FL_BAD_SHAPE, k.l3_sharers = 0);
    CACHES(FL_TOO_LARGE, k.l1 = INT64_MAX);
    CACHES(FL_TOO_LARGE, k.l2 = INT64_MAX);
    CACHES(FL_TOO_LARGE, k.l3 = INT64_MAX);
}

static void packing(void)
{
    const size_t bytes = fl_stack_bytes(&plain, isa);
    char *at = memory;
    REFUSED(FL_BAD_ISA, fl_pack(memory, MEMORY, &plain, -1, &plain_arrays, &refused_stack));
    REFUSED(FL_BAD_ISA, fl_pack(memory, MEMORY, &plain, -2, &plain_arrays, &refused_stack));
    REFUSED(FL_BAD_ISA, fl_pack(memory, MEMORY, &plain, 99, &plain_arrays, &refused_stack));
    expect(!fl_stack_bytes(&plain, -1) && !fl_stack_bytes(&plain, INT32_MAX), "bytes for no instruction set");
    REFUSED(FL_NULL, fl_pack(NULL, MEMORY, &plain, isa, &plain_arrays, &refused_stack));
    REFUSED(FL_NULL, fl_pack(memory, MEMORY, &plain, isa, NULL, &refused_stack));
    REFUSED(FL_NULL, fl_pack(memory, MEMORY, &plain, isa, &plain_arrays, NULL));
    REFUSED(FL_BAD_ALIGNMENT, fl_pack(at + 32, MEMORY - 32, &plain, isa, &plain_arrays, &refused_stack));
    REFUSED(FL_TOO_SMALL, fl_pack(memory, bytes - 1, &plain, isa, &plain_arrays, &refused_stack));
    REFUSED(FL_TOO_SMALL, fl_pack(memory, 0, &plain, isa, &plain_arrays, &refused_stack));

#define ARRAYS(shape, of, expected, ...) \
    do { \
        fl_arrays a[4]; \
        memcpy(a, of, sizeof of); \
        __VA_ARGS__; \
        refused(fl_pack(memory, MEMORY, &shape, isa, a, &refused_stack), expected, #__VA_ARGS__); \
    } while (0)
#define PLAIN(expected, ...) ARRAYS(plain, plain_one, expected, __VA_ARGS__)
#define RICH(expected, ...) ARRAYS(rich, rich_arrays, expected, __VA_ARGS__)
    const fl_arrays plain_one[] = {plain_arrays};
    PLAIN(FL_BAD_STRUCT_SIZE, a[0].struct_size = 0);
    PLAIN(FL_BAD_ARRAYS, a[0].w_ih = NULL);
    PLAIN(FL_BAD_ARRAYS, a[0].w_hh = NULL);
    PLAIN(FL_BAD_ARRAYS, a[0].w_hr = a[0].w_hh);
    PLAIN(FL_BAD_ARRAYS, a[0].w_ci = a[0].b);
    PLAIN(FL_BAD_ARRAYS, a[0].w_cf = a[0].b);
    PLAIN(FL_BAD_ARRAYS, a[0].w_co = a[0].b);
    PLAIN(FL_BAD_ARRAYS, a[0].ln = a[0].b);
    PLAIN(FL_BAD_ARRAYS, a[0].ln_ih = a[0].b);
    PLAIN(FL_BAD_ALIGNMENT, a[0].w_ih = (char *)a[0].w_ih + 1);
    PLAIN(FL_BAD_ALIGNMENT, a[0].b = (char *)a[0].b + 2);
    RICH(FL_BAD_STRUCT_SIZE, a[3].struct_size -= 8);
    RICH(FL_BAD_ARRAYS, a[3].w_ih = NULL);
    RICH(FL_BAD_ARRAYS, a[0].w_hr = NULL);
    RICH(FL_BAD_ARRAYS, a[1].ln = a[1].ln_ih);
    RICH(FL_BAD_ARRAYS, a[2].ln_ih = NULL);
    RICH(FL_BAD_ARRAYS, a[2].ln_hh = NULL);
    RICH(FL_BAD_ARRAYS, a[2].ln_c = NULL);
    RICH(FL_BAD_ARRAYS, a[3].b_c = NULL);
    expect(refused_stack == NULL, "a stack was refused and told");
    expect(!fl_stack_isa(NULL) && !fl_stack_lanes(NULL), "the instruction set of no stack");
}

/* ---- runs -------------------------------------------------------------------------------------------- */

static int64_t sizes[] = {B, B, 2, 1};
static fl_stack *one, *many;
static fl_call call, recorded, looked_up, many_call;

static int at_once(void)
{
    return 1;
}

/* A run with this call is refused, and so is its size if that depends on it. */
static void refused_run(const fl_stack *stack, const fl_call *bad, int expected, int sized, const char *what)
{
    expect(!sized || !fl_scratch_bytes(stack, bad), what);
    expect(fl_scratch_bytes(stack, bad) || sized || expected == FL_NULL, what);
    refused(fl_run(stack, bad), expected, what);
}

#define RUN_OF(stack, of, expected, sized, ...) \
    do { \
        fl_call k = of; \
        __VA_ARGS__; \
        refused_run(stack, &k, expected, sized, #of ": " #__VA_ARGS__); \
    } while (0)
#define SIZED(expected, ...) RUN_OF(one, call, expected, 1, __VA_ARGS__)
#define RUN(expected, ...) RUN_OF(one, call, expected, 0, __VA_ARGS__)
#define CUT(expected, ...) \
    do { \
        fl_cut cut = {.threads = 1, .groups = 1, .teams = 1, .seats = 1, .shares = 1}; \
        __VA_ARGS__; \
        RUN_OF(one, call, expected, 1, k.cut = &cut); \
    } while (0)

static void runs(void)
{
    float *x = (float *)(uintptr_t)call.x;
    ACCEPTED(fl_run(one, &call));
    REFUSED(FL_NULL, fl_run(NULL, &call));
    REFUSED(FL_NULL, fl_run(one, NULL));
    expect(!fl_scratch_bytes(NULL, &call) && !fl_scratch_bytes(one, NULL), "scratch memory of nothing");
    SIZED(FL_BAD_STRUCT_SIZE, k.struct_size = 0);
    SIZED(FL_BAD_STRUCT_SIZE, k.struct_size = 12);
    SIZED(FL_BAD_CALL, k.steps = 0);
    SIZED(FL_BAD_CALL, k.steps = INT64_MIN);
    SIZED(FL_BAD_CALL, k.batch = 0);
    SIZED(FL_BAD_CALL, k.batch = -1);
    SIZED(FL_BAD_CALL, k.threads = 0);
    SIZED(FL_BAD_CALL, k.threads = INT32_MIN);
    SIZED(FL_BAD_CALL, k.checkpoint_interval = -1);
    SIZED(FL_TOO_LARGE, k.steps = INT64_MAX, k.batch_sizes = NULL);
    SIZED(FL_TOO_LARGE, k.batch = INT64_MAX, k.batch_sizes = NULL);
    SIZED(FL_TOO_LARGE, k.steps = k.batch = INT64_MAX, k.batch_sizes = NULL);
    SIZED(FL_TOO_LARGE, k.steps = (int64_t)1 << 34, k.batch = 1 << 30, k.batch_sizes = NULL);
#define SIZES(...) SIZED(FL_BAD_BATCH_SIZES, int64_t other[T] = {__VA_ARGS__}; k.batch_sizes = other)
    SIZES(B + 1, B, 2, 1);
    SIZES(2, 2, 2, 1);
    SIZES(B, B, 2, 0);
    SIZES(B, 0, 0, 0);
    SIZES(B, 1, 2, 1);
    SIZES(B, B, 2, -1);
    SIZES(B, INT64_MIN, 2, 1);
    SIZES(B, INT64_MAX, INT64_MIN, 1);
    RUN(FL_NULL, k.x = NULL);
    RUN(FL_NULL, k.y = NULL);
    RUN(FL_NULL, k.h = NULL);
    RUN(FL_NULL, k.c = NULL);
    RUN(FL_NULL, k.scratch = NULL);
    RUN(FL_BAD_ALIGNMENT, k.x = (char *)x + 1);
    RUN(FL_BAD_ALIGNMENT, k.y = (char *)k.y + 2);
    RUN(FL_BAD_ALIGNMENT, k.h = (char *)k.h + 3);
    RUN(FL_BAD_ALIGNMENT, k.c = (char *)k.c + 1);
    RUN(FL_BAD_ALIGNMENT, k.scratch = (char *)k.scratch + 32);
    RUN(FL_TOO_SMALL, k.scratch_size -= 1);
    RUN(FL_TOO_SMALL, k.scratch_size = 0);
    RUN(FL_BAD_STRIDE, k.x_stride = 2);
    RUN(FL_BAD_STRIDE, k.y_stride += 1);
    RUN(FL_BAD_STRIDE, k.y_stride = (H - 1) * VALUE);
    RUN(FL_BAD_STRIDE, k.y_stride = 0);
    RUN(FL_BAD_STRIDE, k.y_stride = -VALUE);
    RUN(FL_TOO_LARGE, k.x_stride = INT64_MAX / 4 * 4);
    RUN(FL_TOO_LARGE, k.x_stride = INT64_MIN);
    RUN(FL_TOO_LARGE, k.y_stride = INT64_MIN);
    RUN(FL_BAD_CALL, k.reverse = 2);
    RUN(FL_BAD_CALL, k.reverse = -1);
    RUN(FL_BAD_CALL, k.parity = 2);
    RUN(FL_BAD_CALL, k.parity = -1);
    RUN(FL_BAD_STRIDE, k.cells = k.y; k.cells_stride = VALUE);
    RUN(FL_BAD_ALIGNMENT, k.cells = (char *)k.y + 1; k.cells_stride = H * VALUE);
    SIZED(FL_BAD_CALL, k.tape = recorded.tape; k.table = looked_up.table);
    RUN(FL_BAD_ALIGNMENT, fl_noise noise = {.h = (char *)x + 1}; k.noise = &noise; k.scratch_size += 1 << 12);
    RUN(FL_BAD_ALIGNMENT, fl_noise noise = {.zone_c = (char *)x + 2}; k.noise = &noise; k.scratch_size += 1 << 12);

    CUT(FL_BAD_CUT, cut.threads = 0);
    CUT(FL_BAD_CUT, cut.threads = INT32_MAX);
    CUT(FL_BAD_CUT, cut.groups = 0);
    CUT(FL_BAD_CUT, cut.groups = INT32_MAX);
    CUT(FL_BAD_CUT, cut.teams = 0);
    CUT(FL_BAD_CUT, cut.teams = 2);
    CUT(FL_BAD_CUT, cut.seats = 0);
    CUT(FL_BAD_CUT, cut.seats = 65, cut.shares = 65);
    CUT(FL_BAD_CUT, cut.shares = 0);
    CUT(FL_BAD_CUT, cut.seats = 2);
    CUT(FL_BAD_CUT, cut.shares = INT32_MAX);
    CUT(FL_BAD_CUT, cut.inputs_first = 2);
    CUT(FL_BAD_CUT, cut.inputs_first = -1);
    CUT(FL_BAD_CUT, cut.inputs_first = 1, cut.threads = 65);

    /* What several layers or two directions cannot do. */
#define MANY(expected, sized, ...) RUN_OF(many, many_call, expected, sized, __VA_ARGS__)
    ACCEPTED(fl_run(many, &many_call));
    MANY(FL_UNSUPPORTED, 1, k.tape = recorded.tape);
    MANY(FL_UNSUPPORTED, 1, k.cells = k.y);
    MANY(FL_UNSUPPORTED, 1, fl_noise noise[2] = {{0}}; k.noise = noise);
    MANY(FL_UNSUPPORTED, 0, k.reverse = 1);
    MANY(FL_BAD_STRIDE, 0, k.y_stride = (2 * P - 1) * VALUE);

    /* A call that is stopped says so. */
    fl_call stopped = call;
    stopped.stop = at_once;
    const int status = fl_run(one, &stopped);
    expect(status == FL_OK || status == FL_STOPPED, "a stopped run");
    ACCEPTED(fl_run(one, &call));
}

static void tables(void)
{
    const int64_t rows = looked_up.table_rows;
    const size_t bytes = fl_table_bytes(one, rows);
    const float *x = call.x;
    char *table = memory;
    expect(bytes && bytes % 64 == 0, "the bytes of a table");
    expect(!fl_table_bytes(NULL, rows) && !fl_table_bytes(one, 0) && !fl_table_bytes(one, -1)
               && !fl_table_bytes(one, INT64_MIN) && !fl_table_bytes(one, INT64_MAX),
           "the bytes of a table that cannot be");
    REFUSED(FL_NULL, fl_fill_table(NULL, x, I * VALUE, rows, table, bytes));
    REFUSED(FL_NULL, fl_fill_table(one, NULL, I * VALUE, rows, table, bytes));
    REFUSED(FL_NULL, fl_fill_table(one, x, I * VALUE, rows, NULL, bytes));
    REFUSED(FL_BAD_CALL, fl_fill_table(one, x, I * VALUE, 0, table, bytes));
    REFUSED(FL_BAD_CALL, fl_fill_table(one, x, I * VALUE, INT64_MIN, table, bytes));
    REFUSED(FL_TOO_LARGE, fl_fill_table(one, x, I * VALUE, INT64_MAX, table, bytes));
    REFUSED(FL_TOO_LARGE, fl_fill_table(one, x, 0, INT64_MAX, table, bytes));
    REFUSED(FL_BAD_STRIDE, fl_fill_table(one, x, I * VALUE + 1, rows, table, bytes));
    REFUSED(FL_BAD_ALIGNMENT, fl_fill_table(one, (const char *)x + 1, I * VALUE, rows, table, bytes));
    REFUSED(FL_BAD_ALIGNMENT, fl_fill_table(one, x, I * VALUE, rows, table + 8, bytes));
    REFUSED(FL_TOO_SMALL, fl_fill_table(one, x, I * VALUE, rows, table, bytes - 1));

    ACCEPTED(fl_run(one, &looked_up));
#define LOOKED(expected, ...) RUN_OF(one, looked_up, expected, 0, __VA_ARGS__)
    LOOKED(FL_BAD_CALL, k.table_rows = 0);
    LOOKED(FL_BAD_CALL, k.table_rows = INT64_MIN);
    LOOKED(FL_BAD_INDEX, k.table_rows = rows - 1);
    LOOKED(FL_BAD_ALIGNMENT, k.table = (const char *)k.table + 4);
    LOOKED(FL_BAD_ALIGNMENT, k.x = (const char *)k.x + 4);
    LOOKED(FL_BAD_STRIDE, k.x_stride = 12);
    LOOKED(FL_NULL, k.x = NULL);
    int64_t *numbers = (int64_t *)(uintptr_t)looked_up.x, last = numbers[N - 1];
    const int64_t bad[] = {-1, rows, INT64_MIN, INT64_MAX};
    for (int n = 0; n < 4; n++) {
        numbers[N - 1] = bad[n];
        keep();
        LOOKED(FL_BAD_INDEX, (void)k);
    }
    numbers[N - 1] = last;
    ACCEPTED(fl_run(one, &looked_up));
}

static void indices(void)
{
    int64_t index[B];
    for (int64_t b = 0; b < B; b++)
        index[b] = B - 1 - b;
    fl_call by_index = call, by_index_many = many_call;
    by_index.index = by_index_many.index = index;
    by_index.states = by_index_many.states = B;
    by_index.scratch_size = fl_scratch_bytes(one, &by_index);
    by_index.scratch = allocate(by_index.scratch_size);
    by_index_many.scratch_size = fl_scratch_bytes(many, &by_index_many);
    by_index_many.scratch = allocate(by_index_many.scratch_size);
    ACCEPTED(fl_run(one, &by_index));
    ACCEPTED(fl_run(many, &by_index_many));
#define INDEXED(expected, ...) \
    do { \
        RUN_OF(one, by_index, expected, 0, __VA_ARGS__); \
        RUN_OF(many, by_index_many, expected, 0, __VA_ARGS__); \
    } while (0)
    INDEXED(FL_BAD_CALL, k.states = 0);
    INDEXED(FL_BAD_CALL, k.states = INT64_MIN);
    INDEXED(FL_TOO_LARGE, k.states = INT64_MAX);
    INDEXED(FL_BAD_INDEX, k.states = B - 1);
    INDEXED(FL_BAD_ALIGNMENT, k.index = (const int64_t *)(const void *)((const char *)index + 4));
    RUN_OF(one, recorded, FL_BAD_CALL, 1, k.index = index, k.states = B);
    RUN_OF(one, by_index, FL_TOO_SMALL, 0, k.scratch_size -= 1);
    const int64_t bad[] = {-1, B, INT64_MIN, INT64_MAX};
    for (int n = 0; n < 4; n++) {
        index[B - 1] = bad[n];
        INDEXED(FL_BAD_INDEX, (void)k);
    }
    index[B - 1] = 0;
    ACCEPTED(fl_run(one, &by_index));
}

/* ---- the way back ------------------------------------------------------------------------------------ */

static fl_arrays gradients;
static fl_back_call back;

#define BACK(expected, sized, ...) \
    do { \
        fl_back_call k = back; \
        __VA_ARGS__; \
        expect(sized ? !fl_back_scratch_bytes(one, &k) : fl_back_scratch_bytes(one, &k) > 0, \
               "bytes of the way back: " #__VA_ARGS__); \
        refused(fl_back(one, &k), expected, "the way back: " #__VA_ARGS__); \
    } while (0)
#define BACK_CUT(...) \
    do { \
        fl_back_cut cut = {1, 1, 1}; \
        __VA_ARGS__; \
        BACK(FL_BAD_CUT, 1, k.cut = &cut); \
    } while (0)

static void backward(void)
{
    float *gates = memory, *cells = gates + N * 4 * H;
    ACCEPTED(fl_run(one, &recorded));
    expect(fl_tape_bytes(one, &recorded) % 64 == 0, "the bytes of a tape");
    expect(!fl_tape_bytes(NULL, &recorded) && !fl_tape_bytes(one, NULL) && !fl_tape_bytes(many, &many_call),
           "the tape of nothing");
#define TAPE(expected, ...) RUN_OF(one, recorded, expected, 0, __VA_ARGS__)
    TAPE(FL_BAD_ALIGNMENT, k.tape = (char *)k.tape + 16);
    TAPE(FL_TOO_SMALL, k.tape_size -= 1);
    TAPE(FL_TOO_SMALL, k.tape_size = 0);

    ACCEPTED(fl_saved(one, &recorded, 0, gates, cells));
    REFUSED(FL_NULL, fl_saved(NULL, &recorded, 0, gates, cells));
    REFUSED(FL_NULL, fl_saved(one, NULL, 0, gates, cells));
    REFUSED(FL_NULL, fl_saved(one, &recorded, 0, NULL, cells));
    REFUSED(FL_NULL, fl_saved(one, &recorded, 0, gates, NULL));
    REFUSED(FL_BAD_ALIGNMENT, fl_saved(one, &recorded, 0, (char *)gates + 1, cells));
    REFUSED(FL_BAD_CALL, fl_saved(one, &recorded, 1, gates, cells));
    REFUSED(FL_BAD_CALL, fl_saved(one, &recorded, -1, gates, cells));
    REFUSED(FL_NULL, fl_saved(one, &call, 0, gates, cells)); /* It has no tape. */
    REFUSED(FL_UNSUPPORTED, fl_saved(many, &recorded, 0, gates, cells));
    fl_call other = recorded;
    other.scratch_size = 64;
    REFUSED(FL_TOO_SMALL, fl_saved(one, &other, 0, gates, cells));
    other = recorded;
    other.checkpoint_interval = 2;
    REFUSED(FL_BAD_CALL, fl_saved(one, &other, 0, gates, cells));

    ACCEPTED(fl_back(one, &back));
    REFUSED(FL_NULL, fl_back(NULL, &back));
    REFUSED(FL_NULL, fl_back(one, NULL));
    REFUSED(FL_UNSUPPORTED, fl_back(many, &back));
    expect(!fl_back_scratch_bytes(NULL, &back) && !fl_back_scratch_bytes(one, NULL)
               && !fl_back_scratch_bytes(many, &back),
           "the way back of nothing");
    BACK(FL_BAD_STRUCT_SIZE, 1, k.struct_size = 0);
    BACK(FL_NULL, 1, k.call = NULL);
    BACK(FL_NULL, 0, k.call = &call); /* It has no tape. */
    BACK(FL_NULL, 0, k.dy = NULL);
    BACK(FL_NULL, 0, k.dh = NULL);
    BACK(FL_NULL, 0, k.dc = NULL);
    BACK(FL_NULL, 0, k.dw = NULL);
    BACK(FL_NULL, 0, k.scratch = NULL);
    BACK(FL_BAD_ALIGNMENT, 0, k.dy = (const char *)k.dy + 1);
    BACK(FL_BAD_ALIGNMENT, 0, k.dh = (char *)k.dh + 1);
    BACK(FL_BAD_ALIGNMENT, 0, k.dc = (char *)k.dc + 1);
    BACK(FL_BAD_ALIGNMENT, 0, k.dx = (char *)k.dx + 1);
    BACK(FL_BAD_ALIGNMENT, 0, k.scratch = (char *)k.scratch + 8);
    BACK(FL_BAD_ALIGNMENT, 0, const void *dcells = (char *)k.dc + 1; k.dcells = &dcells);
    BACK(FL_TOO_SMALL, 0, k.scratch_size -= 1);
    BACK(FL_BAD_STRIDE, 0, k.dy_stride += 1);
    BACK(FL_TOO_LARGE, 0, k.dy_stride = INT64_MIN);
    BACK(FL_BAD_CALL, 0, k.fill_dw = 2);
    BACK(FL_BAD_CALL, 0, k.fill_dw = -1);
    BACK(FL_TOO_SMALL, 0, other = recorded; other.tape_size -= 64; k.call = &other);
    BACK(FL_BAD_CALL, 1, other = recorded; other.threads = 0; k.call = &other);
    BACK(FL_BAD_STRUCT_SIZE, 1, other = recorded; other.struct_size = 4; k.call = &other);
    BACK(FL_BAD_ARRAYS, 0, fl_arrays a = gradients; a.w_ih = NULL; k.dw = &a);
    BACK(FL_BAD_ARRAYS, 0, fl_arrays a = gradients; a.b = NULL; k.dw = &a);
    BACK(FL_BAD_ARRAYS, 0, fl_arrays a = gradients; a.w_hr = a.b; k.dw = &a);
    BACK(FL_BAD_ARRAYS, 0, fl_arrays a = gradients; a.w_co = a.b; k.dw = &a);
    BACK(FL_BAD_ARRAYS, 0, fl_arrays a = gradients; a.ln = a.b; k.dw = &a);
    BACK(FL_BAD_ALIGNMENT, 0, fl_arrays a = gradients; a.w_hh = (char *)a.w_hh + 1; k.dw = &a);
    BACK(FL_BAD_STRUCT_SIZE, 0, fl_arrays a = gradients; a.struct_size = 0; k.dw = &a);
    BACK_CUT(cut.threads = 0);
    BACK_CUT(cut.threads = 65);
    BACK_CUT(cut.groups = 0);
    BACK_CUT(cut.groups = INT32_MAX);
    BACK_CUT(cut.shares = -1);
    BACK_CUT(cut.shares = INT32_MAX);
    ACCEPTED(fl_back(one, &back));
}

/* ---- streams ------------------------------------------------------------------------------------------ */

static void streams(void)
{
    const size_t bytes = fl_stream_bytes(one, B);
    const float *x = call.x;
    float *y = call.y;
    char *at = memory;
    fl_stream *stream = NULL;
    expect(bytes && bytes % 64 == 0, "the bytes of a stream");
    expect(!fl_stream_bytes(NULL, 1) && !fl_stream_bytes(one, 0) && !fl_stream_bytes(one, -1)
               && !fl_stream_bytes(one, INT64_MAX) && !fl_stream_bytes(one, INT64_MIN) && !fl_stream_bytes(many, 1),
           "the bytes of a stream that cannot be");
    REFUSED(FL_NULL, fl_make_stream(NULL, bytes, one, B, &stream));
    REFUSED(FL_NULL, fl_make_stream(memory, bytes, NULL, B, &stream));
    REFUSED(FL_NULL, fl_make_stream(memory, bytes, one, B, NULL));
    REFUSED(FL_BAD_ALIGNMENT, fl_make_stream(at + 8, bytes, one, B, &stream));
    REFUSED(FL_TOO_SMALL, fl_make_stream(memory, bytes - 1, one, B, &stream));
    REFUSED(FL_BAD_CALL, fl_make_stream(memory, bytes, one, 0, &stream));
    REFUSED(FL_BAD_CALL, fl_make_stream(memory, bytes, one, INT64_MIN, &stream));
    REFUSED(FL_TOO_LARGE, fl_make_stream(memory, bytes, one, INT64_MAX, &stream));
    REFUSED(FL_UNSUPPORTED, fl_make_stream(memory, bytes, many, 1, &stream));
    expect(stream == NULL, "a stream was refused and told");

    const size_t large = fl_stream_bytes(one, 1000);
    unsigned char *pages = memset(allocate(large), 0xff, large);
    ACCEPTED(fl_make_stream(pages, large, one, 1000, &stream));
    for (size_t page = 0; page < large; page += 4096)
        expect(pages[page] != 0xff, "a page that a step would be the first to write into");
    expect(pages[large - 1] != 0xff, "a last page that a step would be the first to write into");
    for (int64_t batch = 1; batch <= B; batch += B - 1) { /* the quickest kind, and the other */
        const size_t size = fl_stream_bytes(one, batch);
        ACCEPTED(fl_make_stream(allocate(size), size, one, batch, &stream));
        ACCEPTED(fl_step(stream, x, y));
        REFUSED(FL_NULL, fl_step(NULL, x, y));
        REFUSED(FL_NULL, fl_step(stream, NULL, y));
        REFUSED(FL_NULL, fl_step(stream, x, NULL));
        REFUSED(FL_BAD_ALIGNMENT, fl_step(stream, (const char *)x + 1, y));
        REFUSED(FL_BAD_ALIGNMENT, fl_step(stream, x, (char *)y + 2));
        ACCEPTED(fl_steps(stream, 2, x, I * VALUE, y, H * VALUE));
        ACCEPTED(fl_steps(stream, 0, NULL, 0, NULL, 0));
        REFUSED(FL_NULL, fl_steps(NULL, 2, x, I * VALUE, y, H * VALUE));
        REFUSED(FL_NULL, fl_steps(stream, 2, NULL, I * VALUE, y, H * VALUE));
        REFUSED(FL_NULL, fl_steps(stream, 2, x, I * VALUE, NULL, H * VALUE));
        REFUSED(FL_BAD_CALL, fl_steps(stream, -1, x, I * VALUE, y, H * VALUE));
        REFUSED(FL_BAD_CALL, fl_steps(stream, INT64_MIN, x, I * VALUE, y, H * VALUE));
        REFUSED(FL_TOO_LARGE, fl_steps(stream, INT64_MAX, x, I * VALUE, y, H * VALUE));
        REFUSED(FL_BAD_ALIGNMENT, fl_steps(stream, 2, (const char *)x + 1, I * VALUE, y, H * VALUE));
        REFUSED(FL_BAD_ALIGNMENT, fl_steps(stream, 2, x, I * VALUE, (char *)y + 1, H * VALUE));
        REFUSED(FL_BAD_STRIDE, fl_steps(stream, 2, x, 6, y, H * VALUE));
        REFUSED(FL_BAD_STRIDE, fl_steps(stream, 2, x, I * VALUE, y, 4));
        REFUSED(FL_BAD_STRIDE, fl_steps(stream, 2, x, I * VALUE, y, 0));
        REFUSED(FL_TOO_LARGE, fl_steps(stream, 2, x, INT64_MIN, y, H * VALUE));
        REFUSED(FL_TOO_LARGE, fl_steps(stream, 2, x, I * VALUE, y, INT64_MIN));
        float *states = allocate(2 * B * H * VALUE);
        ACCEPTED(fl_get_states(stream, states, states + B * H));
        ACCEPTED(fl_get_states(stream, NULL, NULL));
        REFUSED(FL_NULL, fl_get_states(NULL, states, states));
        REFUSED(FL_BAD_ALIGNMENT, fl_get_states(stream, (char *)states + 1, states + B * H));
        REFUSED(FL_BAD_ALIGNMENT, fl_get_states(stream, states, (char *)states + 2));
        ACCEPTED(fl_set_states(stream, states, states + B * H));
        REFUSED(FL_NULL, fl_set_states(NULL, states, states));
        REFUSED(FL_BAD_ALIGNMENT, fl_set_states(stream, (char *)states + 1, states));
        REFUSED(FL_BAD_ALIGNMENT, fl_set_states(stream, states, (char *)states + 3));
    }
}

/* ---- updates ----------------------------------------------------------------------------------------- */

static void updates(void)
{
    enum { COUNT = 9 };
    float *p = draw(COUNT), *g = draw(COUNT), *moments[3] = {draw(COUNT), draw(COUNT), draw(COUNT)};
    int32_t *finite = allocate(sizeof *finite);
    const fl_rule right = {.struct_size = sizeof right, .kind = FL_ADAM, .rate = -1, .shrink = 1, .root = 1, .eps = 1};
    keep();
#define UPDATE(expected, ...) \
    do { \
        fl_rule k = right; \
        const void *of_p = p, *of_g = g; \
        void *m[3] = {moments[0], moments[1], moments[2]}, **all = m; \
        int32_t size = VALUE; \
        int64_t count = COUNT; \
        int on = isa; \
        __VA_ARGS__; \
        const int status = fl_update(&k, size, count, (void *)(uintptr_t)of_p, of_g, all, on); \
        refused(status, expected, "an update: " #__VA_ARGS__); \
    } while (0)
    UPDATE(FL_OK, count = 0);
    UPDATE(FL_BAD_STRUCT_SIZE, k.struct_size = 0);
    UPDATE(FL_BAD_CALL, k.kind = -1);
    UPDATE(FL_BAD_CALL, k.kind = FL_ADAM + 1);
    UPDATE(FL_BAD_CALL, k.nesterov = 2);
    UPDATE(FL_BAD_CALL, k.nesterov = -1);
    UPDATE(FL_BAD_CALL, k.first = 2);
    UPDATE(FL_BAD_CALL, k.first = -1);
    UPDATE(FL_BAD_ITEMSIZE, size = 2);
    UPDATE(FL_BAD_ISA, on = 77);
    UPDATE(FL_BAD_SHAPE, count = -1);
    UPDATE(FL_TOO_LARGE, count = INT64_MAX);
    UPDATE(FL_NULL, of_p = NULL);
    UPDATE(FL_NULL, of_g = NULL);
    UPDATE(FL_NULL, all = NULL);
    UPDATE(FL_BAD_ALIGNMENT, of_p = (const char *)p + 1);
    UPDATE(FL_BAD_ALIGNMENT, of_g = (const char *)g + 1);
    UPDATE(FL_BAD_ALIGNMENT, m[2] = (char *)m[2] + 1);
    UPDATE(FL_BAD_ARRAYS, m[0] = NULL);
    UPDATE(FL_BAD_ARRAYS, m[1] = NULL);
    UPDATE(FL_BAD_ARRAYS, k.kind = FL_RMSPROP; m[0] = NULL);
    UPDATE(FL_BAD_ARRAYS, k.kind = FL_SGD; m[1] = NULL);
    UPDATE(FL_BAD_ARRAYS, k.kind = FL_SGD; m[2] = NULL);
    REFUSED(FL_NULL, fl_update(NULL, VALUE, COUNT, p, g, (void *const *)moments, isa));

    REFUSED(FL_NULL, fl_all_finite(VALUE, COUNT, p, isa, NULL));
    REFUSED(FL_NULL, fl_all_finite(VALUE, COUNT, NULL, isa, finite));
    REFUSED(FL_BAD_ALIGNMENT, fl_all_finite(VALUE, COUNT, (const char *)p + 1, isa, finite));
    REFUSED(FL_BAD_ITEMSIZE, fl_all_finite(2, COUNT, p, isa, finite));
    REFUSED(FL_BAD_ISA, fl_all_finite(VALUE, COUNT, p, -1, finite));
    REFUSED(FL_BAD_SHAPE, fl_all_finite(VALUE, -1, p, isa, finite));
    REFUSED(FL_TOO_LARGE, fl_all_finite(VALUE, INT64_MAX, p, isa, finite));
    ACCEPTED(fl_all_finite(VALUE, COUNT, p, isa, finite));
    expect(*finite == 1, "numbers that are finite");
    p[COUNT - 1] = INFINITY;
    keep();
    ACCEPTED(fl_all_finite(VALUE, COUNT, p, isa, finite));
    expect(*finite == 0, "a number that is not finite");

    void *used[3] = {moments[0]};
    fl_rule rule = right;
    rule.kind = FL_SGD;
    rule.first = 1;
    ACCEPTED(fl_update(&rule, VALUE, COUNT - 1, p, g, used, isa));
    expect(p[COUNT - 1] == INFINITY && !memcmp(moments[0], g, (COUNT - 1) * VALUE), "an update of all but one");
}

/* ---- linear products --------------------------------------------------------------------------------- */

static void products(void)
{
    enum { ROWS = 3 };
    const float *w = draw(H * I), *b = draw(H), *x = call.x;
    char *at = memory;
    float *y = allocate(ROWS * H * VALUE);
    fl_linear *linear = NULL;
    const size_t bytes = fl_linear_bytes(VALUE, I, H, isa);
    expect(bytes && bytes % 64 == 0, "the bytes of a product");
    expect(!fl_linear_bytes(3, I, H, isa) && !fl_linear_bytes(VALUE, 0, H, isa) && !fl_linear_bytes(VALUE, I, -1, isa)
               && !fl_linear_bytes(VALUE, I, H, -1) && !fl_linear_bytes(VALUE, INT64_MAX, H, isa)
               && !fl_linear_bytes(VALUE, INT64_MAX, INT64_MAX, isa) && !fl_linear_bytes(VALUE, I, INT64_MIN, isa),
           "the bytes of a product that cannot be");
    keep();
    REFUSED(FL_NULL, fl_pack_linear(NULL, bytes, VALUE, I, H, isa, w, b, &linear));
    REFUSED(FL_NULL, fl_pack_linear(memory, bytes, VALUE, I, H, isa, NULL, b, &linear));
    REFUSED(FL_NULL, fl_pack_linear(memory, bytes, VALUE, I, H, isa, w, b, NULL));
    REFUSED(FL_BAD_ALIGNMENT, fl_pack_linear(at + 4, bytes, VALUE, I, H, isa, w, b, &linear));
    REFUSED(FL_BAD_ALIGNMENT, fl_pack_linear(memory, bytes, VALUE, I, H, isa, (const char *)w + 1, b, &linear));
    REFUSED(FL_BAD_ALIGNMENT, fl_pack_linear(memory, bytes, VALUE, I, H, isa, w, (const char *)b + 1, &linear));
    REFUSED(FL_TOO_SMALL, fl_pack_linear(memory, bytes - 1, VALUE, I, H, isa, w, b, &linear));
    REFUSED(FL_BAD_ITEMSIZE, fl_pack_linear(memory, bytes, 2, I, H, isa, w, b, &linear));
    REFUSED(FL_BAD_ISA, fl_pack_linear(memory, bytes, VALUE, I, H, 77, w, b, &linear));
    REFUSED(FL_BAD_SHAPE, fl_pack_linear(memory, bytes, VALUE, 0, H, isa, w, b, &linear));
    REFUSED(FL_BAD_SHAPE, fl_pack_linear(memory, bytes, VALUE, I, INT64_MIN, isa, w, b, &linear));
    REFUSED(FL_TOO_LARGE, fl_pack_linear(memory, bytes, VALUE, INT64_MAX, H, isa, w, b, &linear));
    expect(linear == NULL, "a product was refused and told");
    ACCEPTED(fl_pack_linear(allocate(bytes), bytes, VALUE, I, H, isa, w, NULL, &linear));

    const fl_linear_call right = {.struct_size = sizeof right,
                                  .x = x,
                                  .y = y,
                                  .x_stride = I * VALUE,
                                  .y_stride = H * VALUE,
                                  .rows = ROWS,
                                  .threads = 1};
#define PRODUCT(expected, ...) \
    do { \
        fl_linear_call k = right; \
        __VA_ARGS__; \
        refused(fl_run_linear(linear, &k), expected, "a product: " #__VA_ARGS__); \
    } while (0)
    ACCEPTED(fl_run_linear(linear, &right));
    REFUSED(FL_NULL, fl_run_linear(NULL, &right));
    REFUSED(FL_NULL, fl_run_linear(linear, NULL));
    PRODUCT(FL_OK, k.rows = 0; k.x = k.y = NULL);
    PRODUCT(FL_BAD_STRUCT_SIZE, k.struct_size = 0);
    PRODUCT(FL_NULL, k.x = NULL);
    PRODUCT(FL_NULL, k.y = NULL);
    PRODUCT(FL_BAD_ALIGNMENT, k.x = (const char *)x + 1);
    PRODUCT(FL_BAD_ALIGNMENT, k.y = (char *)y + 1);
    PRODUCT(FL_BAD_CALL, k.rows = -1);
    PRODUCT(FL_BAD_CALL, k.rows = INT64_MIN);
    PRODUCT(FL_TOO_LARGE, k.rows = INT64_MAX);
    PRODUCT(FL_TOO_LARGE, k.rows = INT64_MAX / 2; k.x_stride = 0);
    PRODUCT(FL_BAD_CALL, k.threads = 0);
    PRODUCT(FL_BAD_STRIDE, k.x_stride = 1);
    PRODUCT(FL_BAD_STRIDE, k.y_stride = H * VALUE - VALUE);
    PRODUCT(FL_TOO_LARGE, k.x_stride = INT64_MIN);
    fl_linear_call overlapping = right; /* Rows of x may overlap. */
    overlapping.x_stride = VALUE;
    ACCEPTED(fl_run_linear(linear, &overlapping));
}

/* ---- single rows --------------------------------------------------------------------------------------- */

/* The stride of a single row may be any number: nothing is computed with it, which a sanitizer would see. */
static void single_rows(void)
{
    fl_call single = call, single_many = many_call, single_recorded = recorded;
    fl_back_call single_back = back;
    single.batch = single_many.batch = single_recorded.batch = 1;
    single.steps = single_many.steps = single_recorded.steps = 1;
    single.batch_sizes = single_many.batch_sizes = single_recorded.batch_sizes = NULL;
    single.cells = allocate(H * VALUE);
    single.scratch_size = fl_scratch_bytes(one, &single);
    single.scratch = allocate(single.scratch_size);
    single_back.call = &single_recorded;
    fl_linear_call product = {.struct_size = sizeof product, .x = call.x, .rows = 1, .threads = 1};
    const size_t of_product = fl_linear_bytes(VALUE, I, H, isa), of_table = fl_table_bytes(one, 1);
    const size_t of_stream = fl_stream_bytes(one, 1);
    fl_linear *linear;
    fl_stream *stream;
    float *kept[2], *y = call.y;
    void *table = allocate(of_table);
    char *of_linear = allocate(of_product), *streamed = allocate(of_stream);
    ACCEPTED(fl_pack_linear(of_linear, of_product, VALUE, I, H, isa, plain_arrays.w_ih, NULL, &linear));
    ACCEPTED(fl_make_stream(streamed, of_stream, one, 1, &stream));
    product.y = allocate(H * VALUE);
    const int64_t strides[] = {H * VALUE, 0, 1, -3, INT64_MAX, INT64_MIN};
    for (int n = 0; n < 6; n++) {
        const int64_t stride = strides[n];
        float *at = kept[n > 0] = allocate(6 * H * VALUE);
        single.x_stride = single.y_stride = single.cells_stride = stride;
        single_many.x_stride = single_many.y_stride = stride;
        single_recorded.x_stride = single_recorded.y_stride = single_back.dy_stride = stride;
        product.x_stride = product.y_stride = stride;
        memset(call.h, 0, H * VALUE);
        memset(call.c, 0, H * VALUE);
        memset(many_call.h, 0, 4 * P * VALUE);
        memset(many_call.c, 0, 4 * H * VALUE);
        memset(back.dh, 0, H * VALUE);
        memset(back.dc, 0, H * VALUE);
        ACCEPTED(fl_run(one, &single));
        memcpy(at, y, H * VALUE);
        memcpy(at + H, single.cells, H * VALUE);
        ACCEPTED(fl_run(many, &single_many));
        memcpy(at + 2 * H, many_call.y, P * VALUE);
        memset(call.h, 0, H * VALUE);
        memset(call.c, 0, H * VALUE);
        ACCEPTED(fl_run(one, &single_recorded));
        ACCEPTED(fl_back(one, &single_back));
        memcpy(at + 3 * H, back.dx, I * VALUE);
        ACCEPTED(fl_run_linear(linear, &product));
        memcpy(at + 4 * H, product.y, H * VALUE);
        ACCEPTED(fl_set_states(stream, NULL, NULL));
        ACCEPTED(fl_steps(stream, 1, call.x, stride, y, stride));
        memcpy(at + 5 * H, y, H * VALUE);
        ACCEPTED(fl_fill_table(one, call.x, stride, 1, table, of_table));
        expect(!memcmp(kept[0], kept[n > 0], 6 * H * VALUE), "a single row has other values with another stride");
    }
}

/* ---- other versions of structures ---------------------------------------------------------------------- */

/* A structure of a newer version, with MORE bytes. */
#define NEWER(type) \
    union { \
        type known; \
        char bytes[sizeof(type) + MORE]; \
    }

static void versions(void)
{
    float *y = call.y, *h = call.h, *c = call.c, expected[N * H];
    memset(h, 0, B * H * VALUE);
    memset(c, 0, B * H * VALUE);
    ACCEPTED(fl_run(one, &call));
    memcpy(expected, y, sizeof expected);

    NEWER(fl_call) newer = {.bytes = {0}};
    newer.known = call;
    newer.known.struct_size = sizeof newer;
    memset(newer.bytes + sizeof call, 0, MORE);
    memset(h, 0, B * H * VALUE);
    memset(c, 0, B * H * VALUE);
    memset(y, 0, N * H * VALUE);
    ACCEPTED(fl_run(one, &newer.known));
    expect(!memcmp(y, expected, sizeof expected), "a newer call has other values");
    newer.bytes[sizeof newer - 1] = 1;
    REFUSED(FL_BAD_STRUCT_SIZE, fl_run(one, &newer.known));

    /* An older one, that ends before `stop`: what lies there is not read. */
    fl_call older = call;
    older.struct_size = offsetof(fl_call, stop);
    older.stop = (int (*)(void))(uintptr_t)1;
    memset(h, 0, B * H * VALUE);
    memset(c, 0, B * H * VALUE);
    memset(y, 0, N * H * VALUE);
    ACCEPTED(fl_run(one, &older));
    expect(!memcmp(y, expected, sizeof expected), "an older call has other values");

    /* Arrays of newer structures lie further apart. All else is newer, too. */
    NEWER(fl_arrays) further[4];
    NEWER(fl_shape) shape;
    NEWER(fl_options) more;
    memset(further, 0, sizeof further);
    memset(&shape, 0, sizeof shape);
    memset(&more, 0, sizeof more);
    for (int k = 0; k < 4; k++) {
        memcpy(&further[k], &rich_arrays[k], sizeof(fl_arrays));
        further[k].known.struct_size = sizeof *further;
    }
    memcpy(&shape, &rich, sizeof rich);
    memcpy(&more, &options, sizeof options);
    shape.known.struct_size = sizeof shape;
    shape.known.options = &more.known;
    more.known.struct_size = sizeof more;
    fl_stack *stack = packed(&shape.known, &further[0].known);
    const size_t of_h = 4 * B * P * VALUE, of_c = 4 * B * H * VALUE, of_y = N * 2 * P * VALUE;
    memset(many_call.h, 0, of_h);
    memset(many_call.c, 0, of_c);
    ACCEPTED(fl_run(many, &many_call));
    char *before = allocate(of_y);
    memcpy(before, many_call.y, of_y);
    memset(many_call.y, 0, of_y);
    memset(many_call.h, 0, of_h);
    memset(many_call.c, 0, of_c);
    ACCEPTED(fl_run(stack, &many_call));
    expect(!memcmp(before, many_call.y, of_y), "newer parameters have other values");
    further[2].bytes[sizeof *further - 1] = 1;
    keep();
    REFUSED(FL_BAD_STRUCT_SIZE, fl_pack(memory, MEMORY, &rich, isa, &further[0].known, &refused_stack));
    more.bytes[sizeof options] = 1;
    REFUSED(FL_BAD_STRUCT_SIZE, fl_pack(memory, MEMORY, &shape.known, isa, rich_arrays, &refused_stack));

    /* An older shape, that ends before `caches`, has those of this machine. */
    fl_shape short_shape = plain;
    short_shape.struct_size = offsetof(fl_shape, caches);
    short_shape.caches = (const fl_caches *)(uintptr_t)1;
    stack = packed(&short_shape, &plain_arrays);
    memset(h, 0, B * H * VALUE);
    memset(c, 0, B * H * VALUE);
    memset(y, 0, N * H * VALUE);
    call.scratch_size = fl_scratch_bytes(stack, &call);
    call.scratch = allocate(call.scratch_size);
    ACCEPTED(fl_run(stack, &call));
    expect(!memcmp(y, expected, sizeof expected), "an older shape has other values");

    /* No bias is one of zeros. */
    fl_arrays without = plain_arrays, zeros = plain_arrays;
    without.b = NULL;
    zeros.b = allocate(4 * H * VALUE);
    for (int n = 0; n < 2; n++) {
        stack = packed(&plain, n ? &zeros : &without);
        memset(h, 0, B * H * VALUE);
        memset(c, 0, B * H * VALUE);
        ACCEPTED(fl_run(stack, &call));
        expect(!n || !memcmp(y, expected, sizeof expected), "no bias has other values than zeros");
        memcpy(expected, y, sizeof expected);
    }
}

/* ---- all --------------------------------------------------------------------------------------------- */

static void sentences(void)
{
    expect(fl_version() == FL_VERSION, "the version is another one than the header's");
    for (int status = FL_OK; status <= FL_FILE_UNREADABLE; status++) {
        const char *sentence = fl_error_string(status);
        expect(sentence && strlen(sentence) > 5 && sentence[strlen(sentence) - 1] != '.',
               "a status without a sentence");
        for (int other = FL_OK; other < status; other++)
            expect(strcmp(sentence, fl_error_string(other)), "two statuses with one sentence");
    }
    const int unknown[] = {-1, FL_FILE_UNREADABLE + 1, INT32_MIN, INT32_MAX};
    for (int n = 0; n < 4; n++)
        expect(!strcmp(fl_error_string(unknown[n]), "unknown status"), "the sentence of no status");
    expect(fl_isa("none") == -1 && fl_isa("") == -1, "an instruction set of no name");
    expect(!fl_isa_name(-1) && !fl_isa_name(INT32_MAX) && !fl_isa_name(INT32_MIN), "the name of no instruction set");
    REFUSED(FL_BAD_CALL, fl_set_processors(0));
    REFUSED(FL_BAD_CALL, fl_set_processors(INT32_MIN));
    ACCEPTED(fl_set_processors(1));
}

static fl_arrays arrays_of(int64_t inputs, int projected)
{
    fl_arrays a = {.struct_size = sizeof a, .w_ih = draw(4 * H * inputs), .w_hh = draw(4 * H * H), .b = draw(4 * H)};
    if (projected) {
        a.w_hr = draw(P * H);
        a.w_ci = draw(H);
        a.ln_ih = a.ln_hh = draw(4 * H);
        a.ln_c = a.b_c = draw(H);
    }
    return a;
}

int main(int argc, char **argv)
{
    isa = fl_isa(argc > 1 ? argv[1] : NULL);
    if (isa < 0)
        return 2;
    memory = allocate(MEMORY);
    plain_arrays = arrays_of(I, 0);
    for (int k = 0; k < 4; k++)
        rich_arrays[k] = arrays_of(k < 2 ? I : 2 * P, 1);
    one = packed(&plain, &plain_arrays);
    many = packed(&rich, rich_arrays);

    call = (fl_call){.struct_size = sizeof call,
                     .x = draw(N * I),
                     .y = allocate(N * H * VALUE),
                     .x_stride = I * VALUE,
                     .y_stride = H * VALUE,
                     .steps = T,
                     .batch = B,
                     .batch_sizes = sizes,
                     .h = draw(B * H),
                     .c = draw(B * H),
                     .threads = 1};
    recorded = call;
    recorded.tape_size = fl_tape_bytes(one, &call);
    recorded.tape = allocate(recorded.tape_size);
    recorded.scratch_size = fl_scratch_bytes(one, &recorded);
    recorded.scratch = allocate(recorded.scratch_size);
    call.scratch_size = fl_scratch_bytes(one, &call);
    call.scratch = allocate(call.scratch_size);
    looked_up = call;
    looked_up.table_rows = 7;
    const size_t of_table = fl_table_bytes(one, looked_up.table_rows);
    void *table = allocate(of_table);
    int64_t *numbers = allocate(N * sizeof *numbers);
    for (int n = 0; n < N; n++)
        numbers[n] = (n + 5) % 7;
    numbers[2] = 6;
    ACCEPTED(fl_fill_table(one, call.x, I * VALUE, looked_up.table_rows, table, of_table));
    looked_up.table = table;
    looked_up.x = numbers;
    looked_up.x_stride = sizeof *numbers;
    looked_up.scratch_size = fl_scratch_bytes(one, &looked_up);
    looked_up.scratch = allocate(looked_up.scratch_size);
    many_call = call;
    many_call.y_stride = 2 * P * VALUE;
    many_call.y = allocate(N * 2 * P * VALUE);
    many_call.h = draw(4 * B * P);
    many_call.c = draw(4 * B * H);
    many_call.scratch_size = fl_scratch_bytes(many, &many_call);
    many_call.scratch = allocate(many_call.scratch_size);
    gradients = arrays_of(I, 0);
    back = (fl_back_call){.struct_size = sizeof back,
                          .call = &recorded,
                          .dy = draw(N * H),
                          .dy_stride = H * VALUE,
                          .dh = draw(B * H),
                          .dc = draw(B * H),
                          .dx = allocate(N * I * VALUE),
                          .dw = &gradients};
    back.scratch_size = fl_back_scratch_bytes(one, &back);
    back.scratch = allocate(back.scratch_size);
    keep();

    sentences();
    shapes();
    packing();
    runs();
    tables();
    indices();
    backward();
    streams();
    updates();
    products();
    single_rows();
    versions();
    return wrong;
}
