/* The threads of this library. It uses no other library's threads and changes none.

Threads are made when a call first asks for them, and are kept: the pool. After each call they wait awake for a moment,
so that a call that follows at once finds them ready, and then they sleep. Calls that come at once share the pool. No
thread waits for one that has not begun: the others do the work of a thread that comes late. The threads end when the
library is unloaded, as that of a plugin is. */

#ifndef FL_NO_THREADS

#include "system.h"

#include "internal.h"

enum { WORKERS = MOST_THREADS - 1, AWAKE_NS = 50000, WAKE_AS_CALLER = 2, WAKE_AS_WORKER = 4 };
_Static_assert(WORKERS < 64, "a set of workers is a number with one bit for each");

/* A call of `fl_together`. */
typedef struct call {
    void (*work)(void *context, int thread); /* NULL: its workers end */
    void *context;
    int threads;               /* how many it asks for, the caller among them */
    int given;                 /* how many workers it has been given */
    uint64_t workers;          /* these */
    _Atomic uint64_t sleeping; /* those of them that nobody has woken yet */
    struct call *next;         /* in the list of the hungry */
} call;

/* A thread of the pool. A caller that has taken it out of the idle ones writes what it is to do here and then offers
it. The worker takes the offer, unless the caller takes it back first. */
typedef struct {
    _Alignas(64) _Atomic(call *) offer; /* NULL: nothing is to be done; &taken: it works */
    void (*work)(void *context, int thread);
    void *context;
    int number; /* of this thread in the call */
    _Alignas(64) fl_lock lock;
    fl_condition wake;
    fl_thread thread;
} worker;

static call taken;

/* Sets of workers have a bit for each. What each call reads and changes lies in one cache line. */
static struct {
    _Alignas(64) _Atomic uint64_t idle; /* those that no call has */
    _Atomic uint64_t asleep;            /* those that sleep or are about to */
    _Atomic int callers;                /* how many calls there are now */
    _Atomic int made;                   /* how many workers there are */
    _Atomic(call *) hungry;             /* the calls that have fewer workers than they asked for */
    fl_lock lock;                       /* of the list of the hungry, and of making workers */
    worker workers[WORKERS];
} pool = {.lock = FL_LOCK};
static _Alignas(64) _Atomic int processors; /* that all calls share; 0: nobody has asked yet */
static fl_once once = FL_ONCE;

/* The number of the lowest bit in a set, which is not empty. */
static inline int lowest(uint64_t set)
{
    return __builtin_ctzll(set);
}

/* Wake up to so many of a call's workers that sleep. Each that wakes wakes more, so that waking sixteen takes little
longer than waking two, and the caller, who wakes fewer, begins its work at once. */
static void wake(call *call, int most)
{
    for (uint64_t set; most > 0 && (set = atomic_load_explicit(&call->sleeping, memory_order_relaxed));) {
        const uint64_t one = set & -set;
        if (!(atomic_fetch_and_explicit(&call->sleeping, ~one, memory_order_relaxed) & one))
            continue; /* Another thread wakes it. */
        worker *w = &pool.workers[lowest(one)];
        if (!(atomic_fetch_and(&pool.asleep, ~one) & one))
            continue;      /* It did not sleep yet, and saw the offer. */
        fl_take(&w->lock); /* If it is about to wait, it has begun when this lock is had. */
        fl_release(&w->lock);
        fl_signal(&w->wake);
        most--;
    }
}

/* Sleep until woken, unless there is an offer. Who offers does so first and then looks who sleeps. This thread does the
opposite, so that one of them sees the other; both change `asleep`, which is what orders them. */
static void sleep_unless_offered(worker *self, uint64_t own)
{
    atomic_fetch_or(&pool.asleep, own);
    if (atomic_load(&self->offer)) {
        atomic_fetch_and(&pool.asleep, ~own);
        return;
    }
    fl_take(&self->lock);
    while (atomic_load(&pool.asleep) & own)
        fl_wait(&self->wake, &self->lock);
    fl_release(&self->lock);
}

/* Wait for an offer and take it. */
static call *take_offer(worker *self, uint64_t own)
{
    const int yields = self - pool.workers + 1 >= processors; /* There are more threads than processors. */
    for (int64_t end = fl_now() + AWAKE_NS;;) {
        for (int spins = 0; spins < 32; spins++) {
            call *offer = atomic_load_explicit(&self->offer, memory_order_relaxed);
            if (offer && atomic_compare_exchange_strong(&self->offer, &offer, &taken))
                return offer;
            fl_spin();
        }
        if (yields)
            fl_yield();
        if (fl_now() >= end) {
            sleep_unless_offered(self, own);
            end = fl_now() + AWAKE_NS;
        }
    }
}

static FL_THREAD run_worker(void *worker_)
{
    worker *self = worker_;
    const uint64_t own = UINT64_C(1) << (self - pool.workers);
    for (;;) {
        call *call = take_offer(self, own);
        wake(call, WAKE_AS_WORKER);
        if (!self->work)
            return 0;
        self->work(self->context, self->number);
        atomic_store_explicit(&self->offer, NULL, memory_order_release);
    }
}

/* Make the pool as large as this. */
static void make_workers(int count)
{
    fl_take(&pool.lock);
    for (int made; (made = pool.made) < count; pool.made++) {
        worker *w = &pool.workers[made];
        fl_init_lock(&w->lock);
        fl_init_condition(&w->wake);
        if (!fl_start_thread(&w->thread, run_worker, w))
            break;
        atomic_fetch_or(&pool.idle, UINT64_C(1) << made);
    }
    fl_release(&pool.lock);
}

/* A forked child has none of its parent's threads, whatever they were doing. It makes its own. */
static void forget(void)
{
    fl_init_lock(&pool.lock);
    pool.idle = pool.asleep = 0;
    pool.callers = pool.made = 0;
    pool.hungry = NULL;
    for (int k = 0; k < WORKERS; k++)
        pool.workers[k].offer = NULL;
}

static void begin(void)
{
    fl_after_fork(forget);
    int unknown = 0;
    atomic_compare_exchange_strong(&processors, &unknown, fl_processors_online());
}

fl_status fl_set_processors(int32_t number)
{
    if (number < 1)
        return FL_BAD_CALL;
    processors = number;
    return FL_OK;
}

static int at_most(int x, int y)
{
    return x < y ? x : y;
}

/* How many threads there may be for all calls, if one asks for so many. */
static int most_threads(int asked)
{
    const int here = processors;
    return at_most(asked > here ? asked : here, MOST_THREADS);
}

/* How many workers a call may have, if so many calls share them. */
static int fair_part(const call *call, int callers)
{
    return callers < 2 ? call->threads - 1 : at_most(call->threads, most_threads(call->threads) / callers) - 1;
}

/* Give a call up to so many idle workers, those with the lowest numbers, so that worker k has the number k + 1 in each
call that has the pool for itself. Workers that were made for a call that asked for more threads are not for this one. */
static void give(call *call, int most)
{
    const uint64_t usable = (UINT64_C(1) << (most_threads(call->threads) - 1)) - 1;
    uint64_t given, idle = atomic_load_explicit(&pool.idle, memory_order_relaxed);
    do {
        uint64_t left = idle & usable;
        for (int k = 0; k < most && left; k++)
            left &= left - 1;
        given = idle & usable & ~left;
        if (!given)
            return;
    } while (!atomic_compare_exchange_weak(&pool.idle, &idle, idle & ~given));
    call->workers |= given;
    for (uint64_t set = given; set; set &= set - 1) {
        worker *w = &pool.workers[lowest(set)];
        w->work = call->work;
        w->context = call->context;
        w->number = ++call->given;
        atomic_store_explicit(&w->offer, call, memory_order_release);
    }
    const uint64_t sleeping = given & atomic_fetch_or(&pool.asleep, 0);
    if (sleeping) {
        atomic_fetch_or(&call->sleeping, sleeping);
        wake(call, WAKE_AS_CALLER);
    }
}

/* Give the hungry calls what they may have now. The lock is held. */
static void feed(void)
{
    const int callers = pool.callers;
    for (call *one = pool.hungry; one; one = one->next)
        give(one, fair_part(one, callers) - one->given);
}

static void remove_hungry(call *call)
{
    fl_take(&pool.lock);
    if (pool.hungry == call)
        pool.hungry = call->next;
    for (struct call *one = pool.hungry; one; one = one->next)
        if (one->next == call)
            one->next = call->next;
    fl_release(&pool.lock);
}

/* Take back what no worker of a call has begun, and wait for the others. */
static void take_back(const call *done)
{
    for (uint64_t set = done->workers; set; set &= set - 1) {
        worker *w = &pool.workers[lowest(set)];
        call *offer = atomic_load_explicit(&w->offer, memory_order_relaxed);
        if (offer == done)
            atomic_compare_exchange_strong(&w->offer, &offer, NULL);
    }
    for (uint64_t set = done->workers; set; set &= set - 1)
        for (int64_t pauses = 0; atomic_load_explicit(&pool.workers[lowest(set)].offer, memory_order_acquire);)
            fl_pause_after(pauses++);
}

void fl_together(int threads, void (*work)(void *context, int thread), void *context)
{
    if (threads < 2) {
        work(context, 0);
        return;
    }
    fl_call_once(&once, begin);
    call own = {.work = work, .context = context, .threads = at_most(threads, MOST_THREADS)};
    const int part = fair_part(&own, atomic_fetch_add(&pool.callers, 1) + 1);
    int hungry = 0;
    if (part > 0) {
        give(&own, part);
        if (own.given < part && pool.made < most_threads(own.threads) - 1) {
            make_workers(at_most(pool.made + part - own.given, most_threads(own.threads) - 1));
            give(&own, part - own.given);
        }
        hungry = own.given < own.threads - 1 && fl_try_take(&pool.lock);
    }
    if (hungry) {
        own.next = pool.hungry;
        pool.hungry = &own;
        feed(); /* A call may have ended meanwhile. */
        fl_release(&pool.lock);
    }

    work(context, 0);

    if (hungry)
        remove_hungry(&own);
    if (own.workers) {
        take_back(&own);
        atomic_fetch_or(&pool.idle, own.workers);
        if (atomic_load_explicit(&pool.hungry, memory_order_relaxed) && fl_try_take(&pool.lock)) {
            feed();
            fl_release(&pool.lock);
        }
    }
    atomic_fetch_sub(&pool.callers, 1);
}

#ifdef FL_AT_UNLOAD
/* End all threads that no call has: their code may be gone in a moment. If a program ends while others compute, those
threads end with it. */
FL_AT_UNLOAD static void end_workers(void)
{
    call last = {.threads = MOST_THREADS};
    give(&last, WORKERS);
    for (uint64_t set = last.workers; set; set &= set - 1)
        fl_join_thread(pool.workers[lowest(set)].thread);
}
#endif

void fl_ask(fl_stop *stop)
{
    stop->work = 0;
    int64_t time = fl_now();
    if (time < stop->time)
        return;
    stop->time = time + ASK_NS;
    if (stop->ask())
        atomic_store_explicit(&stop->stopped, 1, memory_order_relaxed);
}

#else /* One thread does everything. */

#include "internal.h"

fl_status fl_set_processors(int32_t number)
{
    return number < 1 ? FL_BAD_CALL : FL_OK;
}

void fl_together(int threads, void (*work)(void *context, int thread), void *context)
{
    (void)threads;
    work(context, 0);
}

/* There is no clock either: the program is asked after each CLOCK_WORK operations. */
void fl_ask(fl_stop *stop)
{
    stop->work = 0;
    if (stop->ask())
        stop->stopped = 1;
}

#endif
