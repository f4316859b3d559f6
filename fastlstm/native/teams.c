/* How threads that work together meet: the shares of a phase, and who does them. */

#include "system.h"

#include "internal.h"

/* Up to so many shares, every thread that waits reads from all of them that a phase is over. If there are more, the
thread in the first seat does and tells the others: lines that many read take long to change. */
enum { FEW_SHARES = 4 };

/* A thread that waits leaves the shares of others to them until it has paused so often, about a microsecond; then it
looks which have not begun. Threads that do not read from all shares leave that to the one that does, but not for long:
it may have lost its processor, and then tell of an old phase when it goes on. So they look again and again. */
enum { PATIENCE = 32, PATIENCE_OF_MANY = 128 };

static inline int is_impatient(int64_t pauses)
{
    return pauses % PATIENCE_OF_MANY == PATIENCE_OF_MANY - 1;
}

size_t fl_team_bytes(int shares)
{
    return sizeof(fl_team) + shares * (sizeof(fl_line) + sizeof(fl_begun));
}

fl_team *fl_make_team(void *memory, int seats, int shares)
{
    fl_team *team = memory;
    memset(memory, 0, fl_team_bytes(shares));
    team->seats = seats;
    team->shares = shares;
    team->finished = (fl_line *)(team + 1);
    team->begun = (fl_begun *)(team->finished + shares);
    return team;
}

static inline int is_finished(const fl_team *team, int share, int64_t phase)
{
    return atomic_load_explicit(&team->finished[share].value, memory_order_acquire) > phase;
}

/* Whether all shares are finished, of which a thread has seen those before `*seen` finish. It reads from all, so that
lines which come from other cores come at the same time. */
static inline int all_finished(const fl_team *team, int64_t phase, int *seen)
{
    int first = team->shares;
    for (int share = team->shares - 1; share >= *seen; share--)
        if (!is_finished(team, share, phase))
            first = share;
    *seen = first;
    return first == team->shares;
}

static inline int is_over(const fl_team *team, int64_t phase)
{
    return atomic_load_explicit(&team->over, memory_order_acquire) > phase;
}

static inline int has_begun(const fl_team *team, int share, int64_t phase)
{
    return atomic_load_explicit(&team->begun[share].value, memory_order_relaxed) > phase;
}

/* Whether this thread is the first to begin a share in this phase. */
static inline int begin_share(fl_team *team, int share, int64_t phase)
{
    return !has_begun(team, share, phase)
        && atomic_compare_exchange_strong(&team->begun[share].value, &phase, phase + 1);
}

/* Who has not even begun the first of its shares is not there: its seat is empty, and nobody waits for it again. Of
shares that are finished, `begun` is not read, so that it stays in the cache of the core that will change it. */
static void find_empty(fl_team *team, int64_t phase)
{
    for (int share = 0; share < team->seats && share < team->shares; share++)
        if (!is_finished(team, share, phase) && !has_begun(team, share, phase))
            atomic_fetch_or_explicit(&team->empty, UINT64_C(1) << share % 64, memory_order_relaxed);
}

/* Begin a share that nobody has begun, of these seats. Return which, or -1. */
static int begin_other(fl_team *team, int seat, uint64_t seats, int64_t phase)
{
    _Atomic int *last = &team->begun[seat].other;
    int share = atomic_load_explicit(last, memory_order_relaxed), of_seat = share % team->seats;
    for (int k = 0; k < team->shares; k++) {
        if (seats >> of_seat % 64 & 1 && !is_finished(team, share, phase) && begin_share(team, share, phase)) {
            atomic_store_explicit(last, share, memory_order_relaxed);
            return share;
        }
        of_seat = of_seat + 1 < team->seats ? of_seat + 1 : 0;
        if (++share == team->shares)
            share = of_seat = 0;
    }
    return -1;
}

int fl_next_share(fl_team *team, int seat, int64_t phase)
{
    for (int share = seat; share < team->shares; share += team->seats) {
        if (begin_share(team, share, phase))
            return share;
        if (atomic_load_explicit(&team->begun[share].value, memory_order_acquire) > phase + 1)
            return -1; /* The next phase has begun. */
    }
    const int few = team->shares <= FEW_SHARES;
    const uint64_t own = UINT64_C(1) << seat % 64;
    uint64_t begun = own; /* the seats whose shares have all begun */
    int seen = 0;
    if (atomic_load_explicit(&team->empty, memory_order_relaxed) & own)
        atomic_fetch_and_explicit(&team->empty, ~own, memory_order_relaxed);
    for (int64_t pauses = 0; !is_over(team, phase); fl_pause_after(pauses++)) {
        uint64_t others = atomic_load_explicit(&team->empty, memory_order_relaxed);
        const int reads = few || own == (~others & (others + 1)); /* the first seat that is not empty */
        const int looks = is_impatient(pauses) || (reads && pauses == PATIENCE);
        if (looks) {
            find_empty(team, phase);
            others = ~UINT64_C(0);
            begun = 0; /* It takes two seats for one if there are more than 64. */
        }
        if (others & ~begun) {
            const int share = begin_other(team, seat, others, phase);
            if (share >= 0)
                return share;
            begun |= others;
        }
        if ((reads || looks) && all_finished(team, phase, &seen)) {
            if (!few)
                atomic_store_explicit(&team->over, phase + 1, memory_order_release);
            break;
        }
    }
    return -1;
}

void fl_finish_share(fl_team *team, int share, int64_t phase)
{
    atomic_store_explicit(&team->finished[share].value, phase + 1, memory_order_release);
}

void fl_await_team(fl_team *team, int64_t phases, const fl_stop *stop)
{
    int seen = 0;
    for (int64_t pauses = 0; !is_over(team, phases - 1); fl_pause_after(pauses++)) {
        if ((team->shares <= FEW_SHARES || is_impatient(pauses)) && all_finished(team, phases - 1, &seen))
            return;
        if (stop && atomic_load_explicit(&stop->stopped, memory_order_relaxed))
            return;
    }
}
