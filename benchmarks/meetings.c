/* How long threads take to meet, in five ways, and how long the pool takes to bring them together.

    cc -std=c11 -O3 -pthread -I fastlstm/native benchmarks/meetings.c fastlstm/native/threads.c -o meetings
    ./meetings 2 4 8     for so many threads each: a line "WHAT THREADS NANOSECONDS" for each measurement

Each is the median of RUNS runs. The least would be no better: a team whose other threads have lost their processors
for a moment does their shares, and is quick. */

#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "internal.h"

enum { RUNS = 7, PHASES = 10000, CALLS = 1000, CALLS_ASLEEP = 30, MOST = 64, ROUNDS = 6, LATE_NS = 3000 };

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static void spin(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* ---- ways to meet ---------------------------------------------------------------------------------- */

typedef struct {
    _Alignas(64) _Atomic int64_t value;
} line;

static int threads, late; /* late: whether one thread comes LATE_NS after the others in each phase */
static line counter, flag, own[MOST], told[MOST][ROUNDS];
static line begun, ended; /* how many runs have begun, and how many threads have ended one */
static fl_team *team;

static void await(line *line, int64_t value)
{
    while (atomic_load_explicit(&line->value, memory_order_acquire) < value)
        spin();
}

static void say(line *line, int64_t value)
{
    atomic_store_explicit(&line->value, value, memory_order_release);
}

/* What a thread does in a phase. */
static void work(int thread, int64_t phase)
{
    if (late && phase % threads == thread)
        for (const double end = now() + LATE_NS; now() < end;)
            ;
}

/* All add to one counter, and all spin on it. */
static void meet_counter(int thread, int64_t phase)
{
    work(thread, phase);
    atomic_fetch_add(&counter.value, 1);
    await(&counter, threads * (phase + 1));
}

/* The last to add to one counter sets a flag. */
static void meet_flag(int thread, int64_t phase)
{
    work(thread, phase);
    if (atomic_fetch_add(&counter.value, 1) == threads * (phase + 1) - 1)
        say(&flag, phase + 1);
    else
        await(&flag, phase + 1);
}

/* Each has a line, which all others read. */
static void meet_all(int thread, int64_t phase)
{
    work(thread, phase);
    say(&own[thread], phase + 1);
    for (int k = 1; k < threads; k++)
        await(&own[(thread + k) % threads], phase + 1);
}

/* Each has a line, thread 0 reads them all and sets a flag. */
static void meet_gathered(int thread, int64_t phase)
{
    work(thread, phase);
    if (thread) {
        say(&own[thread], phase + 1);
        await(&flag, phase + 1);
        return;
    }
    for (int k = 1; k < threads; k++)
        await(&own[k], phase + 1);
    say(&flag, phase + 1);
}

/* Dissemination: in round r, thread k tells thread k + 2^r what it has heard. */
static void meet_dissemination(int thread, int64_t phase)
{
    work(thread, phase);
    for (int round = 0; 1 << round < threads; round++) {
        say(&told[(thread + (1 << round)) % threads][round], phase + 1);
        await(&told[thread][round], phase + 1);
    }
}

/* The library's: shares are begun and finished, and nobody depends on a thread that does not come. */
static void meet_team(int thread, int64_t phase)
{
    for (int share; (share = fl_next_share(team, thread, phase)) >= 0;) {
        if (share == thread)
            work(thread, phase);
        fl_finish_share(team, share, phase);
    }
}

static const struct {
    const char *name;
    void (*meet)(int thread, int64_t phase);
    int shares; /* of a team, for each thread */
} ways[] = {
    /* clang-format off: a way in each line */
    {"counter", meet_counter, 1},    {"counter-flag", meet_flag, 1},           {"all-read-all", meet_all, 1},
    {"gathered", meet_gathered, 1},  {"dissemination", meet_dissemination, 1}, {"team", meet_team, 1},
    {"team-2-shares", meet_team, 2},
    /* clang-format on */
};
enum { WAYS = sizeof ways / sizeof *ways };

static double times[2 * WAYS][RUNS]; /* in the latter half, one thread is late */

/* A thread of those that meet, in all ways. */
static void *meet(void *thread_)
{
    const int thread = (int)(size_t)thread_;
    int64_t number = 0;
    for (int row = 0; row < 2 * WAYS; row++)
        for (int run = 0; run < RUNS; run++, number++) {
            const int way = row % WAYS;
            const int64_t phases = row < WAYS ? PHASES : PHASES / 4;
            if (thread) {
                await(&begun, number + 1);
            } else { /* All others wait here. */
                late = row >= WAYS;
                counter.value = flag.value = 0;
                memset(own, 0, sizeof own);
                memset(told, 0, sizeof told);
                team = fl_make_team(team, threads, ways[way].shares * threads);
                say(&begun, number + 1);
            }
            ways[way].meet(thread, 0);
            const double start = now();
            for (int64_t phase = 1; phase <= phases; phase++)
                ways[way].meet(thread, phase);
            if (!thread)
                times[row][run] = (now() - start) / phases - late * LATE_NS;
            atomic_fetch_add(&ended.value, 1);
            await(&ended, threads * (number + 1));
        }
    return NULL;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *times)
{
    qsort(times, RUNS, sizeof *times, ascending);
    return times[RUNS / 2];
}

static void measure_meetings(void)
{
    pthread_t made[MOST];
    begun.value = ended.value = 0;
    for (size_t k = 1; k < (size_t)threads; k++)
        if (pthread_create(&made[k], NULL, meet, (void *)k))
            abort();
    meet(NULL);
    for (int k = 1; k < threads; k++)
        pthread_join(made[k], NULL);
    for (int row = 0; row < 2 * WAYS; row++)
        printf("%s:%s %d %.0f\n", row < WAYS ? "meet" : "late", ways[row % WAYS].name, threads, median(times[row]));
}

/* ---- the pool -------------------------------------------------------------------------------------- */

static void do_nothing(void *context, int thread)
{
    (void)context, (void)thread;
}

/* Say that this thread has come; the caller waits for all. */
static void await_all(void *context, int thread)
{
    line *come = context;
    say(&come[thread], 1);
    for (int k = 1; !thread && k < threads; k++)
        await(&come[k], 1);
}

/* Nanoseconds of a call of the pool; `asleep`: it sleeps before. */
static double call(void (*work)(void *context, int thread), int asleep)
{
    double all = 0;
    const int calls = asleep ? CALLS_ASLEEP : CALLS;
    for (int n = 0; n < calls; n++) {
        line come[MOST] = {{0}};
        if (asleep)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        const double start = now();
        fl_together(threads, work, come);
        all += now() - start;
    }
    return all / calls;
}

static void measure_pool(void)
{
    static const struct {
        const char *name;
        void (*work)(void *context, int thread);
        int asleep;
    } calls[] = {
        {"awake, nobody awaited", do_nothing, 0},
        {"awake, until all have come", await_all, 0},
        {"asleep, nobody awaited", do_nothing, 1},
        {"asleep, until all have come", await_all, 1},
    };
    for (size_t k = 0; k < sizeof calls / sizeof *calls; k++) {
        double taken[RUNS];
        for (int run = 0; run < RUNS; run++)
            taken[run] = call(calls[k].work, calls[k].asleep);
        printf("pool:%s %d %.0f\n", calls[k].name, threads, median(taken));
    }
}

int main(int argc, char **argv)
{
    team = aligned_alloc(64, fl_up((int64_t)fl_team_bytes(2 * MOST), 64));
    if (!team)
        return 1;
    for (int n = 1; n < argc; n++) {
        threads = atoi(argv[n]);
        if (threads < 2 || threads > MOST) {
            fprintf(stderr, "expected numbers of threads from 2 to %d\n", MOST);
            return 1;
        }
        measure_meetings();
        measure_pool();
    }
    return 0;
}
