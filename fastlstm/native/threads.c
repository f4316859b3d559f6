/* A pool of a few threads that belong to this library. It uses no other library's threads and changes none.

The threads are made when a call first asks for them. After each call they wait awake for a moment, so that a
call that follows at once finds them ready, and then they sleep. One call at a time has the pool; a call that
comes meanwhile runs in its own thread alone. No thread waits for one that has not begun: the others do the
work of a thread that comes late. */

#define _POSIX_C_SOURCE 200809L

#include "internal.h"

#include <time.h>

#if !defined(__unix__) && !defined(__APPLE__)

static int64_t now(void)
{
    return clock() * (INT64_C(1000000000) / CLOCKS_PER_SEC);
}

void fl_together(int threads, void (*work)(void *context, int thread), void *context)
{
    (void)threads;
    work(context, 0);
}

void fl_wait(const _Atomic int64_t *count, int64_t value)
{
    (void)count, (void)value; /* There is one thread, so all of it is done. */
}

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>

enum { AWAKE_NS = 50000, SPINS = 4096 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake, left;
    int busy, made;
    void (*work)(void *context, int thread);
    void *context;
    int given;              /* how many threads have been given a number in this call */
    _Atomic int64_t wanted; /* how many more may take part */
    _Atomic int64_t inside; /* how many take part now, the caller not counted */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .left = PTHREAD_COND_INITIALIZER};
static pthread_once_t once = PTHREAD_ONCE_INIT;

static inline void spin(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void fl_wait(const _Atomic int64_t *count, int64_t value)
{
    for (int64_t spins = 0; atomic_load_explicit(count, memory_order_acquire) < value; spins++)
        if (spins < SPINS)
            spin();
        else
            sched_yield();
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void *worker(void *nothing)
{
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        if (!pool.wanted) { /* Another call may follow at once. */
            pthread_mutex_unlock(&pool.lock);
            for (int64_t end = now() + AWAKE_NS; !atomic_load(&pool.wanted) && now() < end;)
                for (int spins = 0; spins < 32; spins++)
                    spin();
            pthread_mutex_lock(&pool.lock);
        }
        while (!pool.wanted)
            pthread_cond_wait(&pool.wake, &pool.lock);
        pool.wanted--;
        pool.inside++;
        int number = ++pool.given;
        pthread_mutex_unlock(&pool.lock);
        pool.work(pool.context, number);
        pthread_mutex_lock(&pool.lock);
        if (--pool.inside == 0)
            pthread_cond_signal(&pool.left);
    }
    return nothing;
}

/* A forked child has none of its parent's threads, whatever they were doing. It makes its own. */
static void forget(void)
{
    pool.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    pool.wake = pool.left = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    pool.busy = pool.made = 0;
    pool.wanted = pool.inside = 0;
}

static void register_forget(void)
{
    pthread_atfork(NULL, NULL, forget);
}

/* Make the pool as large as this. Its threads block all signals, which are the program's. */
static void make(int threads)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    for (pthread_t thread; pool.made < threads && !pthread_create(&thread, NULL, worker, NULL); pool.made++)
        pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void fl_together(int threads, void (*work)(void *context, int thread), void *context)
{
    pthread_once(&once, register_forget);
    pthread_mutex_lock(&pool.lock);
    if (pool.busy) {
        pthread_mutex_unlock(&pool.lock);
        work(context, 0);
        return;
    }
    make(threads - 1);
    pool.busy = 1;
    pool.work = work;
    pool.context = context;
    pool.given = 0;
    pool.wanted = threads - 1 < pool.made ? threads - 1 : pool.made;
    for (int k = 0; k < pool.wanted; k++)
        pthread_cond_signal(&pool.wake);
    pthread_mutex_unlock(&pool.lock);

    work(context, 0);

    pthread_mutex_lock(&pool.lock);
    pool.wanted = 0;
    pthread_mutex_unlock(&pool.lock);
    for (int spins = 0; atomic_load(&pool.inside) && spins < SPINS; spins++)
        spin();
    pthread_mutex_lock(&pool.lock);
    while (pool.inside)
        pthread_cond_wait(&pool.left, &pool.lock);
    pool.busy = 0;
    pthread_mutex_unlock(&pool.lock);
}

#endif

/* ---- teams --------------------------------------------------------------------------------------- */

size_t fl_team_bytes(int shares)
{
    return sizeof(fl_team) + shares * sizeof(fl_share);
}

fl_team *fl_make_team(void *memory, int seats, int shares)
{
    fl_team *team = memory;
    memset(memory, 0, fl_team_bytes(shares));
    team->seats = seats;
    team->shares = shares;
    team->each = (fl_share *)(team + 1);
    return team;
}

int fl_next_share(fl_team *team, int seat, int64_t phase)
{
    for (int k = 0; k < team->shares; k++) {
        const int share = (seat + k) % team->shares;
        int64_t begun = phase;
        if (atomic_load_explicit(&team->each[share].begun, memory_order_relaxed) == phase
            && atomic_compare_exchange_strong(&team->each[share].begun, &begun, phase + 1))
            return share;
    }
    fl_await_team(team, phase + 1, NULL);
    return -1;
}

void fl_finish_share(fl_team *team, int share, int64_t phase)
{
    atomic_store_explicit(&team->each[share].finished, phase + 1, memory_order_release);
}

void fl_await_team(fl_team *team, int64_t phases, const fl_stop *stop)
{
    (void)stop;
    for (int share = 0; share < team->shares; share++)
        fl_wait(&team->each[share].finished, phases);
}

void fl_ask(fl_stop *stop)
{
    stop->work = 0;
    int64_t time = now();
    if (time < stop->time)
        return;
    stop->time = time + ASK_NS;
    if (stop->ask())
        atomic_store_explicit(&stop->stopped, 1, memory_order_relaxed);
}
