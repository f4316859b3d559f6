/* Teams whose threads come late, leave early or never come, and calls that share the pool: all work is done, once, in
the order of phases, and nobody waits for a thread that is not there. Made for ThreadSanitizer; any build may run.

    teams ROUNDS [fork]

Whatever hangs is ended by an alarm. "fork": children have pools of their own, too. */

#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#if !defined(_WIN32)
#include <sys/wait.h>
#endif

#include "internal.h"

enum { MOST = 80, SECONDS = 120 };

static void check(int right, const char *what)
{
    if (right)
        return;
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static uint64_t random_number(void)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
    return state >> 33;
}

static void sleep_ns(int64_t ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

static void await(const _Atomic int64_t *count, int64_t value)
{
    while (atomic_load(count) < value)
        sched_yield();
}

/* ---- teams ------------------------------------------------------------------------------------------- */

/* Each share of a phase mixes what two shares of the phase before have made, so that one that comes too early, twice
or not at all makes other numbers. They are no atomics: a race is seen, too. */
typedef struct {
    fl_team *team;
    int64_t phases;
    uint64_t made[2][MOST];
    fl_stop stop;
} job;

static uint64_t mixed(const uint64_t *before, int share, int shares, int64_t phase)
{
    return before[share] * 0x9e3779b97f4a7c15u + (before[(share + 1) % shares] ^ (uint64_t)phase << share % 64);
}

typedef struct {
    job *job;
    int seat;
    int64_t late, phases; /* nanoseconds; how many phases it stays for */
} member;

static void *take_part(void *member_)
{
    const member *own = member_;
    job *job = own->job;
    if (own->late)
        sleep_ns(own->late);
    for (int64_t phase = 0; phase < own->phases; phase++)
        for (int share; (share = fl_next_share(job->team, own->seat, phase)) >= 0;) {
            uint64_t *to = &job->made[phase % 2][share];
            *to = mixed(job->made[(phase + 1) % 2], share, job->team->shares, phase);
            fl_finish_share(job->team, share, phase);
        }
    return NULL;
}

/* Wait for the whole team, as the threads of another team do. */
static void *await_team(void *job_)
{
    job *job = job_;
    for (int64_t phases = 1; phases <= job->phases; phases++)
        fl_await_team(job->team, phases, NULL);
    return NULL;
}

static void *await_stopped(void *job_)
{
    job *job = job_;
    fl_await_team(job->team, job->phases + 1, &job->stop);
    return NULL;
}

static void start(pthread_t *thread, void *(*function)(void *), void *context)
{
    check(!pthread_create(thread, NULL, function, context), "no thread");
}

/* Some members of a team, of whom at least the first stays to the end. */
static void run_team(int seats, int shares, const member *members, int count, int64_t phases)
{
    static job job;
    memset(&job, 0, sizeof job);
    void *memory = aligned_alloc(64, fl_team_bytes(shares));
    check(memory != NULL, "no memory");
    job.team = fl_make_team(memory, seats, shares);
    job.phases = phases;
    uint64_t expected[2][MOST] = {0};
    for (int64_t phase = 0; phase < phases; phase++)
        for (int share = 0; share < shares; share++)
            expected[phase % 2][share] = mixed(expected[(phase + 1) % 2], share, shares, phase);
    pthread_t threads[MOST], waiting, stopped;
    member own[MOST];
    for (int k = 0; k < count; k++) {
        own[k] = members[k];
        own[k].job = &job;
        start(&threads[k], take_part, &own[k]);
    }
    start(&waiting, await_team, &job);
    start(&stopped, await_stopped, &job);
    pthread_join(waiting, NULL);
    atomic_store(&job.stop.stopped, 1);
    pthread_join(stopped, NULL);
    if (count == 1 && seats < 64)
        check(job.team->empty == ((UINT64_C(1) << seats) - 1) - (UINT64_C(1) << members->seat),
              "empty seats not known");
    const int64_t last = (phases - 1) % 2;
    check(!memcmp(job.made[last], expected[last], sizeof *expected), "a team has made other numbers");
    for (int k = 0; k < count; k++)
        pthread_join(threads[k], NULL);
    free(memory);
}

static void run_teams(void)
{
    static const int sizes[][2] = {{1, 1}, {1, 3}, {2, 2}, {2, 4}, {3, 4}, {4, 4}, {5, 8}, {8, 16}, {16, 16}, {16, 40}};
    const int size = (int)(random_number() % (sizeof sizes / sizeof *sizes));
    const int seats = sizes[size][0], shares = sizes[size][1];
    const int64_t phases = 1 + (int64_t)(random_number() % 60);
    member members[MOST];
    int count = 0;
    for (int seat = 0; seat < seats; seat++)
        switch (random_number() % 4) {
        case 0: /* It never comes. */ break;
        case 1: /* It leaves early. */
            members[count++] = (member){.seat = seat, .phases = (int64_t)(random_number() % (uint64_t)phases)};
            break;
        case 2: /* It comes late, */
            members[count++] = (member){.seat = seat, .late = (int64_t)(random_number() % 300000), .phases = phases};
            break;
        default: /* or in time. */ members[count++] = (member){.seat = seat, .phases = phases};
        }
    /* Somebody stays, perhaps in the seat of another. */
    members[count++] = (member){.seat = (int)(random_number() % (uint64_t)seats), .phases = phases};
    run_team(seats, shares, members, count, phases);
}

/* Shares of a thread that is slow are done by others, too: this one does not end its first share before all others are
finished, its own second one among them. */
static void *be_slow(void *team_)
{
    fl_team *team = team_;
    int share = fl_next_share(team, 1, 0);
    check(share == 1, "not its own share");
    for (int other = 0; other < team->shares; other++)
        if (other != share)
            await(&team->finished[other].value, 1);
    do
        fl_finish_share(team, share, 0);
    while ((share = fl_next_share(team, 1, 0)) >= 0);
    return NULL;
}

static void balance(void)
{
    fl_team *team = fl_make_team(aligned_alloc(64, fl_team_bytes(6)), 3, 6);
    pthread_t slow;
    start(&slow, be_slow, team);
    await(&team->begun[1].value, 1);
    for (int share; (share = fl_next_share(team, 0, 0)) >= 0;)
        fl_finish_share(team, share, 0);
    pthread_join(slow, NULL);
    free(team);
}

/* A thread that is alone in its team is patient with the others once, and then knows that they are not there. */
static void know_empty(void)
{
    run_team(16, 20, &(member){.seat = 3, .phases = 9}, 1, 9);
}

/* A team may have more seats than a set has bits. */
static void be_many(void)
{
    run_team(70, 75, &(member){.seat = 0, .phases = 3}, 1, 3);
}

/* The thread that tells the others that a phase is over may be held up before it does, and then tell of an old phase
when later ones are over. Nobody waits for it to come back. */
static void tell_late(void)
{
    enum { SHARES = 8, PHASES = 3 };
    fl_team *team = fl_make_team(aligned_alloc(64, fl_team_bytes(SHARES)), 2, SHARES);
    for (int64_t phase = 0; phase < PHASES; phase++)
        for (int share; (share = fl_next_share(team, 0, phase)) >= 0;)
            fl_finish_share(team, share, phase);
    check(team->over == PHASES, "nobody has told that a phase is over");
    atomic_store(&team->over, 1);
    fl_await_team(team, PHASES, NULL);
    check(fl_next_share(team, 1, PHASES - 1) < 0, "a phase begins again");
    free(team);
}

/* ---- the pool --------------------------------------------------------------------------------------- */

/* A call that ends when `least` threads have come, or at once if that is 0. */
typedef struct {
    int threads, least;
    _Atomic int64_t come;
    _Atomic uint64_t numbers;   /* those that threads were given, a bit for each */
    pthread_t by[MOST];         /* who had which */
    _Atomic int64_t *begun;     /* NULL, or counts calls whose `least` threads have come */
    const _Atomic int64_t *end; /* NULL, or does not end until this is 1 */
} meeting;

static void come(void *meeting_, int number)
{
    meeting *own = meeting_;
    check(0 <= number && number < own->threads, "a number that no thread can have");
    const uint64_t bit = UINT64_C(1) << number;
    check(!(atomic_fetch_or(&own->numbers, bit) & bit), "two threads have the same number");
    own->by[number] = pthread_self();
    atomic_fetch_add(&own->come, 1);
    await(&own->come, own->least);
    if (number)
        return;
    if (own->begun)
        atomic_fetch_add(own->begun, 1);
    if (own->end)
        await(own->end, 1);
}

static void meet(int threads, int least)
{
    meeting own = {.threads = threads, .least = least};
    fl_together(threads, come, &own);
    check(own.come >= least && own.come <= threads && own.numbers & 1, "not all have come");
}

static void *call(void *meeting_)
{
    meeting *own = meeting_;
    fl_together(own->threads, come, own);
    return NULL;
}

/* A worker has the same number in each call that has the pool for itself. */
static void keep_numbers(void)
{
    meeting first = {.threads = 6, .least = 6}, again = {.threads = 6, .least = 6}, fewer = {.threads = 3, .least = 3};
    fl_together(6, come, &first);
    fl_together(3, come, &fewer);
    fl_together(6, come, &again);
    for (int k = 0; k < 6; k++)
        check(pthread_equal(first.by[k], again.by[k]) && (k > 2 || pthread_equal(first.by[k], fewer.by[k])),
              "a worker has another number");
}

/* Calls that come just when workers fall asleep, 50 us after the call before, find them. */
static void call_sleepy(long rounds)
{
    for (long n = 0; n < 10 * rounds; n++) {
        struct timespec begin, now;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        const long wait = 48000 + (long)(random_number() % 8000);
        do
            clock_gettime(CLOCK_MONOTONIC, &now);
        while ((now.tv_sec - begin.tv_sec) * 1000000000 + now.tv_nsec - begin.tv_nsec < wait);
        meet(3, 3);
    }
}

/* A call does not wait for workers that have not begun: these still sleep when it is through. */
static void leave_sleepers(void)
{
    int late = 0;
    for (int n = 0; n < 100 && !late; n++) {
        sleep_ns(500000);
        meeting own = {.threads = 8};
        fl_together(8, come, &own);
        late = own.come < 8;
    }
    check(late, "a call waits for all its workers");
}

/* With 8 processors, two calls have 4 threads each, however many they ask for; one whose workers are all taken when it
begins gets them when the other call ends. */
static void share_pool(void)
{
    _Atomic int64_t begun = 0, end_first = 0, end_both = 0;
    meeting first = {.threads = 8, .least = 8, .begun = &begun, .end = &end_first};
    meeting second = {.threads = 8, .least = 4, .begun = &begun, .end = &end_both};
    meeting third = {.threads = 8, .least = 4, .begun = &begun, .end = &end_both};
    pthread_t callers[3];
    start(&callers[0], call, &first);
    await(&begun, 1);
    start(&callers[1], call, &second);
    await(&second.come, 1);
    sleep_ns(1000000);
    check(second.come == 1, "a worker is in two calls");
    atomic_store(&end_first, 1); /* The first call gives back all workers; three of them come to the second. */
    await(&begun, 2);
    pthread_join(callers[0], NULL);
    start(&callers[2], call, &third);
    await(&begun, 3);
    sleep_ns(1000000);
    check(second.come == 4 && third.come == 4, "a call has more than its part");
    atomic_store(&end_both, 1);
    pthread_join(callers[1], NULL);
    pthread_join(callers[2], NULL);
}

static void *call_often(void *rounds)
{
    for (long n = 0; n < *(long *)rounds; n++)
        meet(1 + (int)(n % 9), 0);
    return NULL;
}

static void call_at_once(long rounds)
{
    pthread_t callers[5];
    for (int k = 0; k < 5; k++)
        start(&callers[k], call_often, &rounds);
    for (int k = 0; k < 5; k++)
        pthread_join(callers[k], NULL);
}

/* A child makes a pool of its own, whether its parent's is awake or asleep. */
static void fork_beside_pool(void)
{
#if !defined(_WIN32) && !defined(__SANITIZE_THREAD__) /* The latter does not support threads made after such a fork. */
    for (int asleep = 0; asleep < 2; asleep++) {
        meet(4, 4);
        if (asleep)
            sleep_ns(1000000);
        const pid_t child = fork();
        if (!child) {
            alarm(SECONDS);
            meet(4, 4);
            keep_numbers();
            _exit(0);
        }
        int status;
        check(waitpid(child, &status, 0) == child && status == 0, "a child has failed");
        meet(4, 4);
    }
#endif
}

int main(int argc, char **argv)
{
    const long rounds = argc > 1 ? atol(argv[1]) : 100;
    alarm(SECONDS);
    fl_set_processors(8);
    for (long n = 0; n < rounds; n++)
        run_teams();
    for (long n = 0; n < rounds; n++) {
        meet(1 + (int)(n % 9), 1 + (int)(n % 9));
        meet(1 + (int)(n % 12), 0);
        if (n % 8 == 0)
            sleep_ns(200000); /* The pool falls asleep. */
    }
    balance();
    know_empty();
    be_many();
    tell_late();
    keep_numbers();
    leave_sleepers();
    call_sleepy(rounds);
    share_pool();
    call_at_once(10 * rounds);
    if (argc > 2)
        fork_beside_pool();
    keep_numbers();
    return 0;
}
