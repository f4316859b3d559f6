/* Files of models that nobody would write: each is loaded, and if it can be, it runs some steps.

With WITH_LIBFUZZER this is a target of libFuzzer, which begins with a folder of right files:

    clang -DWITH_LIBFUZZER -fsanitize=fuzzer,address,undefined ... && ./fuzz FOLDER

Otherwise it is a program that changes files by itself, in the same way each time:

    fuzz_model NUMBER FILE...

It prints how many of so many changed files could be loaded, and how many were refused. A fault is an abort, or what a
sanitizer sees. The checksum is always made right, so that what lies behind it is reached. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastlstm.h"

enum { HEAD = 128, NODE = 208, ARRAY = 16, MOST_BYTES = 1 << 18, MOST_FILE = 1 << 20, MOST_STEPS = 70 };

/* ---- the bytes of a file --------------------------------------------------------------------------- */

static uint32_t get32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static void put_checksum(uint8_t *bytes, size_t number)
{
    if (number < HEAD)
        return;
    uint32_t sum = UINT32_MAX;
    memset(bytes + 24, 0, sizeof sum);
    for (size_t n = 0; n < number; n++) {
        sum ^= bytes[n];
        for (int bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (sum & 1 ? 0xedb88320 : 0);
    }
    sum = ~sum;
    memcpy(bytes + 24, &sum, sizeof sum);
}

static uint64_t drawn;

/* A number below `most`. */
static size_t draw(size_t most)
{
    drawn = drawn * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (size_t)(drawn >> 33) % most;
}

/* Where a field of 4 or 8 bytes of the head, of a node or of an array lies. */
static size_t draw_field(const uint8_t *bytes, size_t number, size_t *width)
{
    const size_t nodes = get32(bytes + 32) % 4097, arrays = get32(bytes + 36) % 65537;
    const size_t arrays_at = HEAD + (nodes * NODE + 63) / 64 * 64;
    size_t at = 0;
    *width = 8;
    switch (draw(4)) {
    case 0: at = draw(HEAD / 8) * 8; break;
    case 1: at = arrays_at + draw(2 * arrays + 1) * 8; break;
    default: at = HEAD + draw(nodes + 1) * NODE + draw(NODE / 8) * 8;
    }
    if (draw(2)) {
        *width = 4;
        at += draw(2) * 4;
    }
    return at + *width <= number ? at : draw(number / 8) * 8;
}

/* Change some fields of a file. */
static void change(uint8_t *bytes, size_t number)
{
    for (size_t changes = 1 + draw(4); changes > 0; changes--) {
        size_t width, other;
        const size_t at = draw_field(bytes, number, &width), from = draw_field(bytes, number, &other);
        uint64_t value = 0; /* which may go round */
        memcpy(&value, bytes + at, width);
        switch (draw(4)) {
        case 0: value += draw(5) - UINT64_C(2); break;
        case 1: memcpy(&value, bytes + from, other < width ? other : width); break;
        case 2: value = (UINT64_C(1) << draw(64)) - draw(3); break;
        default: value = draw(20) - UINT64_C(2);
        }
        memcpy(bytes + at, &value, width);
    }
}

/* ---- what is done with it -------------------------------------------------------------------------- */

static int64_t up(int64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static void *allocate(size_t bytes)
{
    const size_t whole = bytes ? (size_t)up((int64_t)bytes) : 64;
    void *memory = aligned_alloc(64, whole);
    if (!memory)
        abort();
    return memset(memory, 0xff, whole);
}

static void demand(int holds)
{
    if (!holds)
        abort();
}

/* Whether values are the same, a nan as any other. */
static int are_same(const void *a, const void *b, int64_t count, int itemsize)
{
    for (int64_t n = 0; n < count; n++) {
        const double x = itemsize == 4 ? ((const float *)a)[n] : ((const double *)a)[n];
        const double y = itemsize == 4 ? ((const float *)b)[n] : ((const double *)b)[n];
        if (x != y && !(x != x && y != y))
            return 0;
    }
    return 1;
}

/* Run some steps, at once and one by one, and compare them. */
static void run(const fl_model *model, const fl_model_info *info, int64_t batch, int64_t steps)
{
    const size_t size = fl_session_bytes(model, batch, steps);
    const int64_t x_row = info->input * (info->indices ? 8 : info->itemsize), y_row = info->output * info->itemsize;
    const int64_t rows = info->last ? batch : steps * batch;
    if (!size || size > MOST_BYTES || x_row > MOST_BYTES / (steps * batch) || y_row > MOST_BYTES / (steps * batch))
        return;
    char *memory = allocate(size), *x = allocate(x_row * steps * batch);
    char *y = allocate(y_row * rows), *single = allocate(y_row * rows);
    fl_session *session;
    demand(!fl_session_make(memory, size, model, batch, steps, &session));
    memset(x, 0, x_row * steps * batch);
    for (int64_t n = 0; n < x_row * steps * batch / 4 && !info->indices; n++) {
        const float value = (float)(n % 13) / 8 - 0.5f;
        memcpy(x + n * 4, &value, 4);
    }
    const fl_model_call call = {
        .struct_size = sizeof call,
        .steps = steps,
        .x = x,
        .y = y,
        .x_stride = x_row,
        .y_stride = y_row,
        .threads = 1 + (int32_t)(steps % 2),
    };
    demand(!fl_model_run(session, &call));
    const size_t states = fl_session_state_bytes(session);
    void *state = allocate(states);
    demand(!fl_session_get_state(session, state, states) && !fl_session_set_state(session, state, states));
    demand(!fl_session_reset(session, NULL));
    for (int64_t t = 0; t < steps && info->steps; t++)
        demand(!fl_model_step(session, x + t * batch * x_row, single + (info->last ? 0 : t * batch * y_row)));
    demand(!info->steps || are_same(y, single, rows * info->output, info->itemsize));
    free(memory);
    free(x);
    free(y);
    free(single);
    free(state);
}

/* Load a file, and return whether that could be. */
static int try(const uint8_t *bytes, size_t number)
{
    uint8_t *const copy = allocate(number), *file = copy + (up((int64_t)number) - (int64_t)number) / 8 * 8;
    memcpy(file, bytes, number);
    put_checksum(file, number);
    const int isa = fl_isa(number / 64 % 2 ? "baseline" : NULL);
    const size_t size = fl_model_bytes(file, number, isa);
    /* A panel of 64 outputs for one, and what there is beside weights. */
    demand(size < 100 * number + 4096);
    void *memory = allocate(size);
    fl_model *model;
    const fl_status status = fl_model_load(file, number, isa, memory, size, &model);
    demand(!status == (size > 0));
    if (!status) {
        fl_model_info info = {.struct_size = sizeof info};
        demand(!fl_model_describe(model, &info));
        run(model, &info, 1, 3);
        run(model, &info, 3, 2);
        run(model, &info, 1, MOST_STEPS);
    }
    free(memory);
    free(copy);
    return !status;
}

#ifdef WITH_LIBFUZZER

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Mostly fields are changed, as other changes move all that follows. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
    drawn = seed;
    draw(2);
    if (size < HEAD || !draw(4))
        return LLVMFuzzerMutate(data, size, most);
    change(data, size);
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try(data, size);
    return 0;
}

#else

int main(int argc, char **argv)
{
    const int number = argc > 1 ? atoi(argv[1]) : 0, files = argc - 2;
    int loaded = 0;
    static uint8_t bytes[MOST_FILE], changed[MOST_FILE];
    for (int file = 0; file < files; file++) {
        FILE *opened = fopen(argv[2 + file], "rb");
        demand(opened != NULL);
        const size_t size = fread(bytes, 1, sizeof bytes, opened);
        fclose(opened);
        for (int n = file; n < number; n += files) {
            drawn = (uint64_t)n;
            memcpy(changed, bytes, size);
            if (n >= files) /* first the file as it is */
                change(changed, size);
            loaded += try(changed, size);
        }
    }
    printf("%d %d\n", loaded, number - loaded);
    return 0;
}

#endif
