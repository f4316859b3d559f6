/* The file of a model and its sessions, without Python.

    model ISA <case >results
    model ISA check <files >statuses

A case is four int64 (the bytes of the file, B, T, threads), the file and x (T, B, input). It is run at once, and then
in every other way that must give the same bits: in chunks with rows that lie apart, step by step, with threads, each
sequence by itself, with states that go to another session in the middle, and after sequences have begun anew. The
results: the status of fl_model_load as int64, and if it is FL_OK, six int64 (itemsize, indices, input, output, steps,
last), a double (the sample rate), y of the run, the number of bytes of the states as int64, and the states after it.

With `check`, there is any number of files, each behind an int64 with its bytes, and for each there is an int64, the
status. Another end than that of memory or of arithmetic is a fault of ours. */

#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastlstm.h"

enum { GUARD = 0xa5, GUARDED = 256, PIECES = 4096 };

static struct {
    unsigned char *memory;
    size_t bytes;
} pieces[PIECES];
static int taken, wrong;

static void expect(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "%s\n", what);
        wrong = 1;
    }
}

/* Memory full of nan: what is used before it is set shows. What is written behind it shows too, at the end. */
static void *allocate(size_t bytes)
{
    unsigned char *memory = aligned_alloc(64, (bytes + GUARDED) / 64 * 64 + 64);
    if (!memory || taken == PIECES)
        abort();
    pieces[taken].memory = memory;
    pieces[taken++].bytes = bytes;
    memset(memory + bytes, GUARD, GUARDED);
    return memset(memory, 0xff, bytes);
}

static void free_all(void)
{
    for (; taken > 0; taken--) {
        for (int k = 0; k < GUARDED; k++)
            expect(pieces[taken - 1].memory[pieces[taken - 1].bytes + k] == GUARD, "written behind the end of memory");
        free(pieces[taken - 1].memory);
    }
}

static void *take(size_t bytes)
{
    void *memory = allocate(bytes);
    if (bytes && fread(memory, 1, bytes, stdin) != bytes)
        abort();
    return memory;
}

static void give(const void *values, size_t bytes)
{
    if (bytes && fwrite(values, 1, bytes, stdout) != bytes)
        abort();
}

/* ---- runs -------------------------------------------------------------------------------------------- */

static const fl_model *model;
static fl_model_info info;
static int64_t B, T, threads, x_row, y_row;

static fl_session *make(int64_t batch, int64_t most_steps)
{
    const size_t size = fl_session_bytes(model, batch, most_steps);
    fl_session *session = NULL;
    expect(size && size % 64 == 0, "the bytes of a session");
    unsigned char *memory = allocate(size);
    expect(!fl_session_make(memory, size, model, batch, most_steps, &session), "a session");
    for (size_t at = 0; at < size; at += 4096)
        expect(memory[at] != 0xff, "a page that a step would be the first to write into");
    expect(memory[size - 1] != 0xff, "a last page that a step would be the first to write into");
    return session;
}

static void run(fl_session *session, int64_t steps, const char *x, int64_t x_stride, char *y, int64_t y_stride,
                int32_t with_threads)
{
    const fl_model_call call = {
        .struct_size = sizeof call,
        .steps = steps,
        .x = x,
        .x_stride = x_stride,
        .y = y,
        .y_stride = y_stride,
        .threads = with_threads,
    };
    expect(!fl_model_run(session, &call), "a run");
}

/* How many rows of y so many steps fill. */
static int64_t rows_of(int64_t steps, int64_t batch)
{
    return info.last ? batch : steps * batch;
}

/* Where the rows of y from step t on go. */
static char *from_step(char *y, int64_t t, int64_t batch, int64_t stride)
{
    return info.last ? y : y + t * batch * stride;
}

static void run_chunks(const char *x, const char *y)
{
    enum { X_GAP = 16, Y_GAP = 8 };
    const int64_t x_stride = x_row + X_GAP, y_stride = y_row + Y_GAP, most = T / 3 + 1;
    char *apart = allocate(T * B * x_stride), *got = allocate(rows_of(T, B) * y_stride);
    memset(got, GUARD, rows_of(T, B) * y_stride);
    for (int64_t n = 0; n < T * B; n++)
        memcpy(apart + n * x_stride, x + n * x_row, x_row);
    fl_session *session = make(B, most);
    for (int64_t t = 0, now; t < T; t += now) {
        now = t ? (T - t < most ? T - t : most) : 1;
        run(session, now, apart + t * B * x_stride, x_stride, from_step(got, t, B, y_stride), y_stride, 1);
    }
    run(session, 0, NULL, 0, NULL, 0, 1);
    for (int64_t n = 0; n < rows_of(T, B); n++) {
        expect(!memcmp(got + n * y_stride, y + n * y_row, y_row), "chunks");
        for (int k = 0; k < Y_GAP; k++)
            expect((unsigned char)got[n * y_stride + y_row + k] == GUARD, "written between rows");
    }
}

static void run_steps(const char *x, const char *y)
{
    char *got = allocate(rows_of(T, B) * y_row);
    fl_session *session = make(B, 1);
    for (int64_t t = 0; t < T; t++)
        expect(!fl_model_step(session, x + t * B * x_row, from_step(got, t, B, y_row)), "a step");
    expect(!memcmp(got, y, rows_of(T, B) * y_row), "step by step");
}

/* The stride of a single row may be any number: nothing is computed with it, which a sanitizer would see. */
static void run_single_rows(const char *x)
{
    const int64_t strides[] = {x_row, 0, 1, INT64_MAX, INT64_MIN};
    char *expected = allocate(y_row), *got = allocate(y_row);
    for (int n = 0; n < 5; n++) {
        run(make(1, 1), 1, x, strides[n], n ? got : expected, strides[n], 1);
        expect(!n || !memcmp(got, expected, y_row), "a single row with another stride");
    }
}

static void run_threads(const char *x, const char *y)
{
    char *got = allocate(rows_of(T, B) * y_row);
    run(make(B, T), T, x, x_row, got, y_row, (int32_t)threads);
    expect(!memcmp(got, y, rows_of(T, B) * y_row), "with threads");
}

/* Each sequence by itself, in rows that lie B apart. */
static void run_alone(const char *x, const char *y)
{
    char *got = allocate(rows_of(T, B) * y_row);
    for (int64_t b = 0; b < B; b++)
        run(make(1, T), T, x + b * x_row, B * x_row, got + b * y_row, B * y_row, 1);
    expect(!memcmp(got, y, rows_of(T, B) * y_row), "each sequence by itself");
}

static void move_states(const char *x, const char *y)
{
    const int64_t half = T / 2;
    char *got = allocate(rows_of(T, B) * y_row);
    fl_session *first = make(B, T), *second = make(B, T);
    const size_t size = fl_session_state_bytes(first);
    expect(size == fl_session_state_bytes(second) && size % 64 == 0, "the bytes of states");
    void *state = allocate(size);
    run(second, half, x, x_row, got, y_row, 1); /* The states of the second are to be replaced. */
    run(first, half, x, x_row, got, y_row, 1);
    expect(!fl_session_get_state(first, state, size), "states");
    run(first, T - half, x, x_row, from_step(got, half, B, y_row), y_row, 1);
    expect(!fl_session_set_state(second, state, size), "states");
    run(second, T - half, x + half * B * x_row, x_row, from_step(got, half, B, y_row), y_row, 1);
    expect(!memcmp(got, y, rows_of(T, B) * y_row), "states that another session took up");
}

/* Every other sequence begins anew, then all do. */
static void begin_anew(const char *x, const char *y)
{
    char *got = allocate(rows_of(T, B) * y_row), *going_on = allocate(rows_of(T, B) * y_row);
    uint8_t *mask = allocate(B);
    fl_session *session = make(B, T), *other = make(B, T);
    for (int64_t b = 0; b < B; b++)
        mask[b] = b % 2 ? 0 : 7;
    run(session, T, x, x_row, got, y_row, 1);
    run(other, T, x, x_row, got, y_row, 1);
    run(other, T, x, x_row, going_on, y_row, 1);
    expect(!fl_session_reset(session, mask), "a reset");
    run(session, T, x, x_row, got, y_row, 1);
    for (int64_t n = 0; n < rows_of(T, B); n++)
        expect(!memcmp(got + n * y_row, (mask[n % B] ? y : going_on) + n * y_row, y_row), "some sequences anew");
    expect(!fl_session_reset(session, NULL), "a reset");
    run(session, T, x, x_row, got, y_row, 1);
    expect(!memcmp(got, y, rows_of(T, B) * y_row), "all sequences anew");
}

/* ---- refusals ---------------------------------------------------------------------------------------- */

/* What a call of a session says, and that it leaves its states and y as they are. */
static void refuse(fl_session *session, fl_status expected, const fl_model_call *call, char *y, const char *what)
{
    const size_t size = fl_session_state_bytes(session);
    char *before = allocate(size), *after = allocate(size), *y_before = allocate(rows_of(T, B) * y_row);
    fl_session_get_state(session, before, size);
    memcpy(y_before, y, rows_of(T, B) * y_row);
    expect(fl_model_run(session, call) == expected, what);
    fl_session_get_state(session, after, size);
    expect(!memcmp(before, after, size) && !memcmp(y, y_before, rows_of(T, B) * y_row), "changed by what was refused");
}

static void refuse_runs(const char *x)
{
    fl_session *session = make(B, T);
    char *y = allocate(rows_of(T, B) * y_row + 64), *bytes = allocate(sizeof(fl_model_call) + 8);
    const fl_model_call right = {
        .struct_size = sizeof right,
        .steps = T,
        .x = x,
        .x_stride = x_row,
        .y = y,
        .y_stride = y_row,
        .threads = 1,
    };
    fl_model_call call;
#define REFUSE(status, field, value) \
    call = right, call.field = value, refuse(session, status, &call, y, "refused: " #field " = " #value)
    REFUSE(FL_BAD_STRUCT_SIZE, struct_size, 0);
    REFUSE(FL_BAD_STRUCT_SIZE, struct_size, sizeof call - 1);
    REFUSE(FL_BAD_STRUCT_SIZE, struct_size, 1 << 20);
    REFUSE(FL_BAD_CALL, steps, -1);
    REFUSE(FL_BAD_CALL, steps, T + 1);
    REFUSE(FL_BAD_CALL, steps, INT64_MAX);
    REFUSE(FL_BAD_CALL, threads, 0);
    REFUSE(FL_NULL, x, NULL);
    REFUSE(FL_NULL, y, NULL);
    REFUSE(FL_BAD_ALIGNMENT, x, x + 1);
    REFUSE(FL_BAD_ALIGNMENT, y, y + 2);
    if (T * B > 1)
        REFUSE(FL_BAD_STRIDE, x_stride, x_row + 2);
    if (rows_of(T, B) > 1) {
        REFUSE(FL_BAD_STRIDE, y_stride, y_row + 2);
        REFUSE(FL_BAD_STRIDE, y_stride, y_row - info.itemsize);
        REFUSE(FL_BAD_STRIDE, y_stride, 0);
    }
#undef REFUSE
    /* A newer program's structure, whose new field is 0 or not. */
    memcpy(bytes, &right, sizeof right);
    memset(bytes + sizeof right, 0, 8);
    const size_t larger = sizeof right + 8;
    memcpy(bytes, &larger, sizeof larger);
    expect(!fl_model_run(session, (const fl_model_call *)bytes), "a newer structure");
    bytes[sizeof right] = 1;
    refuse(session, FL_BAD_STRUCT_SIZE, (const fl_model_call *)bytes, y, "a newer field");
    expect(fl_model_run(NULL, &right) == FL_NULL && fl_model_run(session, NULL) == FL_NULL, "refused: NULL");
    if (info.indices) {
        int64_t *indices = allocate(T * B * x_row);
        const int64_t no_rows[] = {-1, INT64_MAX, INT64_MIN, 1 << 30};
        for (int n = 0; n < 4; n++) {
            memcpy(indices, x, T * B * x_row);
            indices[T * B - 1] = no_rows[n];
            call = right;
            call.x = indices;
            refuse(session, FL_BAD_INDEX, &call, y, "refused: an index");
            if (info.steps)
                expect(fl_model_step(session, indices + (T - 1) * B, y) == FL_BAD_INDEX, "refused: an index");
        }
    }
    if (info.steps) {
        expect(fl_model_step(NULL, x, y) == FL_NULL, "refused: NULL");
        expect(fl_model_step(session, NULL, y) == FL_NULL, "refused: NULL");
        expect(fl_model_step(session, x, NULL) == FL_NULL, "refused: NULL");
        expect(fl_model_step(session, x + 1, y) == FL_BAD_ALIGNMENT, "refused: x");
        expect(fl_model_step(session, x, y + 1) == FL_BAD_ALIGNMENT, "refused: y");
    } else
        expect(fl_model_step(session, x, y) == FL_UNSUPPORTED, "steps of a model that wants whole sequences");
}

static void refuse_sessions(void)
{
    const size_t size = fl_session_bytes(model, B, T), states = fl_session_state_bytes(make(B, T));
    char *memory = allocate(size);
    fl_session *session = NULL;
    expect(!fl_session_bytes(NULL, B, T) && !fl_session_bytes(model, 0, T) && !fl_session_bytes(model, B, 0), "bytes");
    expect(!fl_session_bytes(model, INT64_MAX, T) && !fl_session_bytes(model, B, INT64_MAX), "bytes of too much");
    expect(fl_session_make(memory, size, model, B, INT64_MAX, &session) == FL_TOO_LARGE, "too many steps");
    expect(fl_session_make(memory, size, NULL, B, T, &session) == FL_NULL, "no model");
    expect(fl_session_make(memory, size, model, B, T, NULL) == FL_NULL, "nowhere");
    expect(fl_session_make(NULL, size, model, B, T, &session) == FL_NULL, "no memory");
    expect(fl_session_make(memory + 8, size, model, B, T, &session) == FL_BAD_ALIGNMENT, "memory");
    expect(fl_session_make(memory, size - 1, model, B, T, &session) == FL_TOO_SMALL, "little memory");
    expect(fl_session_make(memory, size, model, -1, T, &session) == FL_BAD_CALL, "-1 sequences");
    expect(fl_session_make(memory, size, model, B, 0, &session) == FL_BAD_CALL, "0 steps");
    expect(fl_session_make(memory, size, model, INT64_MAX, T, &session) == FL_TOO_LARGE, "too many sequences");
    for (size_t n = 0; n < size; n++)
        expect((unsigned char)memory[n] == 0xff, "written by what was refused");
    expect(!session, "a session where none was made");
    expect(fl_session_reset(NULL, NULL) == FL_NULL && !fl_session_state_bytes(NULL), "no session");
    expect(fl_session_get_state(NULL, memory, size) == FL_NULL, "no session");
    expect(fl_session_set_state(NULL, memory, size) == FL_NULL, "no session");
    if (states) {
        session = make(B, T);
        expect(fl_session_get_state(session, NULL, states) == FL_NULL, "no states");
        expect(fl_session_set_state(session, NULL, states) == FL_NULL, "no states");
        expect(fl_session_get_state(session, allocate(states), states - 1) == FL_TOO_SMALL, "few bytes of states");
        expect(fl_session_set_state(session, allocate(states), states - 1) == FL_TOO_SMALL, "few bytes of states");
    }
    /* That of a newer program, with anything in it; and of an older one, which had no sample rate. */
    struct {
        fl_model_info known;
        unsigned char more[16];
    } newer;
    memset(&newer, 0xff, sizeof newer);
    newer.known.struct_size = sizeof newer;
    expect(!fl_model_describe(model, &newer.known), "a newer info");
    for (int n = 0; n < 16; n++)
        expect(!newer.more[n], "more of a newer info");
    newer.known.struct_size = sizeof info;
    expect(!memcmp(&newer, &info, offsetof(fl_model_info, sample_rate)), "the rest of a newer info");
    newer.known.struct_size = offsetof(fl_model_info, sample_rate);
    newer.known.sample_rate = -1;
    expect(!fl_model_describe(model, &newer.known) && newer.known.sample_rate == -1, "an older info");
    fl_model_info told = {.struct_size = 3};
    expect(fl_model_describe(model, &told) == FL_BAD_STRUCT_SIZE, "the size of an info");
    expect(fl_model_describe(model, NULL) == FL_NULL && fl_model_describe(NULL, &info) == FL_NULL, "no info");
}

static void refuse_loads(const char *file, size_t number, int isa)
{
    const size_t size = fl_model_bytes(file, number, isa);
    char *memory = allocate(size);
    fl_model *loaded = NULL;
    expect(!fl_model_bytes(NULL, number, isa) && !fl_model_bytes(file, number, 99), "bytes");
    expect(!fl_model_bytes(file, number - 1, isa), "bytes of a part");
    expect(fl_model_load(NULL, number, isa, memory, size, &loaded) == FL_NULL, "no file");
    expect(fl_model_load(file, number, isa, memory, size, NULL) == FL_NULL, "nowhere");
    expect(fl_model_load(file, number, isa, NULL, size, &loaded) == FL_NULL, "no memory");
    expect(fl_model_load(file, number, -1, memory, size, &loaded) == FL_BAD_ISA, "an instruction set");
    expect(fl_model_load(file, number, isa, memory + 32, size, &loaded) == FL_BAD_ALIGNMENT, "memory");
    expect(fl_model_load(file, number, isa, memory, size - 1, &loaded) == FL_TOO_SMALL, "little memory");
    expect(fl_model_load(file, number - 1, isa, memory, size, &loaded) == FL_FILE_TRUNCATED, "a part of a file");
    char *moved = allocate(number + 4);
    memcpy(moved + 4, file, number);
    expect(fl_model_load(moved + 4, number, isa, memory, size, &loaded) == FL_BAD_ALIGNMENT, "where a file lies");
    for (size_t n = 0; n < size; n++)
        expect((unsigned char)memory[n] == 0xff, "written by what was refused");
    expect(!loaded, "a model where none was made");
}

/* ---- the program ------------------------------------------------------------------------------------- */

static fl_status load(const void *file, size_t number, int isa)
{
    const size_t size = fl_model_bytes(file, number, isa);
    fl_model *loaded = NULL;
    const fl_status status = fl_model_load(file, number, isa, allocate(size), size, &loaded);
    expect(!status == !!loaded && !status == (size > 0 && size % 64 == 0), "a status and a model");
    model = loaded;
    return status;
}

static void check_files(int isa)
{
    int64_t number;
    while (fread(&number, sizeof number, 1, stdin) == 1) {
        const int64_t status = load(take(number), number, isa);
        give(&status, sizeof status);
        free_all();
    }
}

static void run_case(int isa)
{
    const int64_t *head = take(4 * sizeof *head);
    const char *file = take(head[0]);
    B = head[1];
    T = head[2];
    threads = head[3];
    const int64_t status = load(file, head[0], isa);
    give(&status, sizeof status);
    if (status)
        return;
    info.struct_size = sizeof info;
    expect(!fl_model_describe(model, &info), "a description");
    const int64_t told[] = {info.itemsize, info.indices, info.input, info.output, info.steps, info.last};
    give(told, sizeof told);
    give(&info.sample_rate, sizeof info.sample_rate);
    x_row = info.input * (info.indices ? 8 : info.itemsize);
    y_row = info.output * info.itemsize;
    const char *x = take(T * B * x_row);
    char *y = allocate(rows_of(T, B) * y_row);
    fl_session *session = make(B, T);
    run(session, T, x, x_row, y, y_row, 1);
    give(y, rows_of(T, B) * y_row);
    const size_t size = fl_session_state_bytes(session);
    const int64_t state_bytes = (int64_t)size;
    void *state = allocate(size);
    expect(!fl_session_get_state(session, state, size), "states");
    give(&state_bytes, sizeof state_bytes);
    give(state, size);

    run_single_rows(x);
    run_threads(x, y);
    run_alone(x, y);
    if (info.steps) {
        run_chunks(x, y);
        run_steps(x, y);
        move_states(x, y);
        begin_anew(x, y);
    } else {
        char *again = allocate(rows_of(T, B) * y_row);
        run(session, T, x, x_row, again, y_row, 1);
        expect(!memcmp(again, y, rows_of(T, B) * y_row), "again");
    }
    refuse_runs(x);
    refuse_sessions();
    refuse_loads(file, head[0], isa);
    free_all();
}

int main(int argc, char **argv)
{
    const int isa = fl_isa(argc > 1 ? argv[1] : NULL);
    if (isa < 0)
        return 2;
    fesetround(FE_UPWARD); /* No value depends on the mode of this thread, and it stays as it was. */
    if (argc > 2 && !strcmp(argv[2], "check"))
        check_files(isa);
    else
        run_case(isa);
    expect(fegetround() == FE_UPWARD, "the rounding mode has changed");
    return wrong;
}
