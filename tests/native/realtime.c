/* What is for real-time threads takes no memory, no lock and no time of the system: while steps are made, each function
that could is trapped and ends the program, and so does, on Linux, any system call at all.

    realtime [ISA [MODEL...]]

The models are files, as fastlstm.save writes them for C. It ends with 0 and prints "done"; with 2 if this machine lacks the instruction set; with 3 and the name of the function
that was called; or by a signal, SIGSYS, for a system call. With 77 if this system takes no filter of system calls.
Built with Clang's RealtimeSanitizer, that is the trap instead. */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fastlstm.h"

#if defined(__has_feature)
#if __has_feature(realtime_sanitizer)
#define REALTIME_SANITIZER
#endif
#endif

/* ---- the traps ------------------------------------------------------------------------------------------ */

#ifdef REALTIME_SANITIZER
#define REALTIME __attribute__((nonblocking))

static void filter_system_calls(void)
{
}
#else
#define REALTIME

static volatile int trapped;

static void trap(const char *name)
{
    if (!trapped)
        return;
    if (write(2, name, strlen(name)) < 0 || write(2, " was called\n", 12) < 0)
        _exit(4);
    _exit(3);
}

/* Memory of this program, which is never given back. */
static _Alignas(64) char arena[64 << 20];
static size_t used;

static void *take(size_t alignment, size_t bytes, const char *name)
{
    trap(name);
    used = (used + alignment - 1) / alignment * alignment;
    void *memory = arena + used;
    used += bytes;
    if (used > sizeof arena)
        _exit(5);
    return memory;
}

void *malloc(size_t bytes)
{
    return take(16, bytes, "malloc");
}

void *calloc(size_t count, size_t bytes)
{
    return take(16, count * bytes, "calloc");
}

void *realloc(void *old, size_t bytes)
{
    void *memory = take(16, bytes, "realloc");
    return old ? memcpy(memory, old, bytes) : memory; /* What is behind the old memory is this program's too. */
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return take(alignment, bytes, "aligned_alloc");
}

void *memalign(size_t alignment, size_t bytes)
{
    return take(alignment, bytes, "memalign");
}

int posix_memalign(void **memory, size_t alignment, size_t bytes)
{
    *memory = take(alignment, bytes, "posix_memalign");
    return 0;
}

void free(void *memory)
{
    (void)memory;
    trap("free");
}

/* Functions of the system that are trapped, and otherwise do what they did. */
#define TRAPPED(name, parameters, arguments) \
    int name parameters \
    { \
        int(*const next) parameters = (int(*) parameters)(uintptr_t)dlsym(RTLD_NEXT, #name); \
        trap(#name); \
        return next arguments; \
    }

TRAPPED(pthread_mutex_lock, (pthread_mutex_t * lock), (lock))
TRAPPED(pthread_mutex_trylock, (pthread_mutex_t * lock), (lock))
TRAPPED(pthread_mutex_unlock, (pthread_mutex_t * lock), (lock))
TRAPPED(pthread_cond_wait, (pthread_cond_t * condition, pthread_mutex_t *lock), (condition, lock))
TRAPPED(pthread_cond_signal, (pthread_cond_t * condition), (condition))
TRAPPED(pthread_cond_broadcast, (pthread_cond_t * condition), (condition))
TRAPPED(pthread_create, (pthread_t * thread, const pthread_attr_t *attributes, void *(*begin)(void *), void *argument),
        (thread, attributes, begin, argument))
TRAPPED(pthread_once, (pthread_once_t * once, void (*begin)(void)), (once, begin))
TRAPPED(sched_yield, (void), ())
TRAPPED(nanosleep, (const struct timespec *wanted, struct timespec *left), (wanted, left))
TRAPPED(clock_gettime, (clockid_t clock, struct timespec *now), (clock, now))

/* From now on, only what ends the program and says why is let through. */
static void filter_system_calls(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    const struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        _exit(77);
}
#endif

/* ---- steps ---------------------------------------------------------------------------------------------- */

enum { STEPS = 100, STREAMS = 12, MODELS = 64, BATCH = 2 };

static struct {
    fl_stream *stream;
    int64_t x_row, y_row; /* in bytes */
    char *x, *y, *h, *c;
} streams[STREAMS];

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, bytes / 64 * 64 + 64);
    return memset(memory, 0, bytes / 64 * 64 + 64);
}

/* Small numbers of either type: bytes of which no exponent is large. */
static void *draw(int64_t count, int itemsize)
{
    char *drawn = allocate(count * itemsize);
    for (int64_t n = 0; n < count; n++)
        if (itemsize == 4)
            ((float *)(void *)drawn)[n] = (float)(n * 37 % 101) / 404 - 0.125f;
        else
            ((double *)(void *)drawn)[n] = (double)(n * 37 % 101) / 404 - 0.125;
    return drawn;
}

static void expect(fl_status status)
{
    const char *const said = fl_error_string(status);
    if (status && write(2, said, strlen(said)) > 0)
        _exit(1);
}

static void make(int number, int isa, fl_shape shape, int64_t batch)
{
    const int64_t H = shape.hidden, P = shape.output, size = shape.itemsize;
    fl_arrays parameters[4];
    shape.struct_size = sizeof shape;
    shape.directions = 1;
    for (int layer = 0; layer < shape.layers; layer++) {
        parameters[layer] = (fl_arrays){
            .struct_size = sizeof *parameters,
            .w_ih = draw(4 * H * (layer ? P : shape.input), size),
            .w_hh = draw(4 * H * P, size),
            .b = draw(4 * H, size),
            .w_hr = P < H ? draw(P * H, size) : NULL,
        };
        if (shape.options) {
            parameters[layer].w_ci = draw(H, size);
            parameters[layer].ln_ih = parameters[layer].ln_hh = draw(4 * H, size);
            parameters[layer].ln_c = parameters[layer].b_c = draw(H, size);
        }
    }
    fl_stack *stack;
    size_t bytes = fl_stack_bytes(&shape, isa);
    expect(fl_pack(allocate(bytes), bytes, &shape, isa, parameters, &stack));
    bytes = fl_stream_bytes(stack, batch);
    expect(fl_make_stream(allocate(bytes), bytes, stack, batch, &streams[number].stream));
    streams[number].x_row = shape.input * size;
    streams[number].y_row = P * size;
    streams[number].x = draw(STEPS * batch * shape.input, size);
    streams[number].y = allocate(STEPS * batch * P * size);
    streams[number].h = allocate(shape.layers * batch * P * size);
    streams[number].c = allocate(shape.layers * batch * H * size);
}

static struct {
    fl_session *session;
    fl_model_call call;
    int steps; /* whether it can be run step by step */
    void *state;
    size_t state_size;
} models[MODELS];
static int model_count;

static void load(const char *path, int isa)
{
    FILE *file = fopen(path, "rb");
    if (!file || model_count == MODELS || fseek(file, 0, SEEK_END))
        _exit(1);
    const size_t number = ftell(file);
    void *bytes = allocate(number);
    rewind(file);
    if (fread(bytes, 1, number, file) != number)
        _exit(1);
    fclose(file);
    size_t size = fl_model_bytes(bytes, number, isa);
    fl_model *model;
    fl_session *session;
    fl_model_info info = {.struct_size = sizeof info};
    expect(fl_model_load(bytes, number, isa, allocate(size), size, &model));
    expect(fl_model_describe(model, &info));
    size = fl_session_bytes(model, BATCH, STEPS);
    expect(fl_session_make(allocate(size), size, model, BATCH, STEPS, &session));
    const int64_t rows = (int64_t)STEPS * BATCH, of_x = info.indices ? (int64_t)sizeof(int64_t) : info.itemsize;
    models[model_count].session = session;
    models[model_count].steps = info.steps;
    models[model_count].state_size = fl_session_state_bytes(session);
    models[model_count].state = allocate(models[model_count].state_size);
    models[model_count++].call = (fl_model_call){
        .struct_size = sizeof(fl_model_call),
        .steps = STEPS,
        .x = info.indices ? allocate(rows * of_x) : draw(rows * info.input, info.itemsize),
        .y = allocate(rows * info.output * info.itemsize),
        .x_stride = info.input * of_x,
        .y_stride = info.output * info.itemsize,
        .threads = 1,
    };
}

/* What a real-time thread does with a model. 0 if all was right. */
static int run_model(int n)
{
    static const uint8_t mask[BATCH] = {0, 1};
    fl_session *session = models[n].session;
    const fl_model_call *call = &models[n].call;
    int wrong = fl_model_run(session, call);
    if (models[n].state_size) {
        wrong |= fl_session_get_state(session, models[n].state, models[n].state_size);
        wrong |= fl_session_set_state(session, models[n].state, models[n].state_size);
    }
    wrong |= fl_session_reset(session, mask);
    wrong |= fl_session_reset(session, NULL);
    wrong |= models[n].steps ? fl_model_step(session, call->x, call->y) : 0;
    return wrong;
}

/* What a real-time thread does. 0 if all was right. */
static int run(void) REALTIME;
static int run(void)
{
    int wrong = 0;
    for (int n = 0; n < model_count; n++)
        wrong |= run_model(n);
    for (int n = 0; n < STREAMS; n++) {
        fl_stream *stream = streams[n].stream;
        wrong |= fl_step(stream, streams[n].x, streams[n].y);
        wrong |= fl_steps(stream, STEPS, streams[n].x, streams[n].x_row, streams[n].y, streams[n].y_row);
        wrong |= fl_get_states(stream, streams[n].h, streams[n].c);
        wrong |= fl_set_states(stream, NULL, NULL);
        wrong |= fl_step(stream, streams[n].x, streams[n].y);
        wrong |= fl_set_states(stream, streams[n].h, streams[n].c);
        wrong |= fl_step(stream, streams[n].x, streams[n].y);
        wrong |= fl_step(stream, NULL, NULL) != FL_NULL; /* Refusing takes nothing either. */
    }
    return wrong;
}

int main(int argc, char **argv)
{
    const int isa = fl_isa(argc > 1 ? argv[1] : NULL);
    if (isa < 0)
        return 2;
    const fl_options options = {
        .struct_size = sizeof options,
        .gate_clip = 3,
        .cell_clip = 2,
        .proj_clip = INFINITY,
        .layer_norm = FL_NORM_SUMS,
        .zoneout_c = 0.1,
        .gate = {.function = FL_SIGMOID},
        .cell = {.function = FL_TANH},
        .output = {.function = FL_SOFTPLUS},
    };
    for (int number = 0; number < STREAMS; number += STREAMS / 2) {
        const int32_t size = number ? 8 : 4;
        /* clang-format off: a stream in each line */
        make(number, isa, (fl_shape){.itemsize = size, .layers = 1, .input = 1, .hidden = 32, .output = 32}, 1);
        make(number + 1, isa, (fl_shape){.itemsize = size, .layers = 1, .input = 300, .hidden = 33, .output = 33}, 1);
        make(number + 2, isa, (fl_shape){.itemsize = size, .layers = 3, .input = 3, .hidden = 12, .output = 12}, 1);
        make(number + 3, isa, (fl_shape){.itemsize = size, .layers = 2, .input = 3, .hidden = 23, .output = 11}, 3);
        make(number + 4, isa, (fl_shape){.itemsize = size, .layers = 1, .input = 70, .hidden = 150, .output = 150}, 1);
        make(number + 5, isa,
             (fl_shape){.itemsize = size, .layers = 2, .input = 4, .hidden = 17, .output = 17, .options = &options}, 2);
        /* clang-format on */
    }
    for (int n = 2; n < argc; n++)
        load(argv[n], isa);
    filter_system_calls();
#ifndef REALTIME_SANITIZER
    trapped = 1;
#endif
    const int wrong = run();
    const char *const said = wrong ? "a status other than FL_OK\n" : "done\n";
    if (write(1, said, strlen(said)) < 0)
        return 4;
    _exit(wrong != 0);
}
