/* What the engine asks of the operating system: locks, threads, a clock. Those of Windows are its own, so that no
library need be installed there; all others are POSIX's. With FL_NO_THREADS
nothing is asked. Include this before any other header. */

#ifndef FASTLSTM_SYSTEM_H
#define FASTLSTM_SYSTEM_H

#if defined(FL_NO_THREADS)

#include <stdint.h>

static inline void fl_yield(void)
{
}

#elif !defined(_WIN32)

#define _POSIX_C_SOURCE 200809L
#define _DARWIN_C_SOURCE /* for _SC_NPROCESSORS_ONLN */

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

typedef pthread_mutex_t fl_lock;
typedef pthread_cond_t fl_condition;
typedef pthread_once_t fl_once;
typedef pthread_t fl_thread;
#define FL_LOCK PTHREAD_MUTEX_INITIALIZER
#define FL_ONCE PTHREAD_ONCE_INIT
#define FL_THREAD void * /* what a thread's function returns */

static inline void fl_init_lock(fl_lock *lock)
{
    pthread_mutex_init(lock, NULL);
}

static inline void fl_take(fl_lock *lock)
{
    pthread_mutex_lock(lock);
}

/* Whether it was free. */
static inline int fl_try_take(fl_lock *lock)
{
    return !pthread_mutex_trylock(lock);
}

static inline void fl_release(fl_lock *lock)
{
    pthread_mutex_unlock(lock);
}

static inline void fl_init_condition(fl_condition *condition)
{
    pthread_cond_init(condition, NULL);
}

/* Release the lock, sleep until signalled (or for no reason), and take the lock again. */
static inline void fl_wait(fl_condition *condition, fl_lock *lock)
{
    pthread_cond_wait(condition, lock);
}

static inline void fl_signal(fl_condition *condition)
{
    pthread_cond_signal(condition);
}

static inline void fl_call_once(fl_once *once, void (*function)(void))
{
    pthread_once(once, function);
}

/* Start a thread which blocks all signals: they are the program's. Return whether it exists. */
static inline int fl_start_thread(fl_thread *thread, FL_THREAD function(void *), void *context)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    const int failed = pthread_create(thread, NULL, function, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !failed;
}

/* Wait for the end of a thread. */
static inline void fl_join_thread(fl_thread thread)
{
    pthread_join(thread, NULL);
}

/* A function that is called when what it is linked into is unloaded, and when the program ends. */
#define FL_AT_UNLOAD __attribute__((destructor))

/* Have a function called in each child that this process forks. */
static inline void fl_after_fork(void (*function)(void))
{
    pthread_atfork(NULL, NULL, function);
}

/* Whoever else waits for this processor gets it. */
static inline void fl_yield(void)
{
    sched_yield();
}

static inline int fl_processors_online(void)
{
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* Nanoseconds since some moment. */
static inline int64_t fl_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

#else

#define WIN32_LEAN_AND_MEAN
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0601 /* Windows 7 is the oldest that has all of it. */
#endif

#include <windows.h>

#include <process.h>
#include <stdint.h>

typedef SRWLOCK fl_lock;
typedef CONDITION_VARIABLE fl_condition;
typedef INIT_ONCE fl_once;
typedef HANDLE fl_thread;
#define FL_LOCK SRWLOCK_INIT
#define FL_ONCE INIT_ONCE_STATIC_INIT
#define FL_THREAD unsigned __stdcall

static inline void fl_init_lock(fl_lock *lock)
{
    InitializeSRWLock(lock);
}

static inline void fl_take(fl_lock *lock)
{
    AcquireSRWLockExclusive(lock);
}

static inline int fl_try_take(fl_lock *lock)
{
    return TryAcquireSRWLockExclusive(lock);
}

static inline void fl_release(fl_lock *lock)
{
    ReleaseSRWLockExclusive(lock);
}

static inline void fl_init_condition(fl_condition *condition)
{
    InitializeConditionVariable(condition);
}

static inline void fl_wait(fl_condition *condition, fl_lock *lock)
{
    SleepConditionVariableSRW(condition, lock, INFINITE, 0);
}

static inline void fl_signal(fl_condition *condition)
{
    WakeConditionVariable(condition);
}

static inline BOOL CALLBACK fl_call_it(INIT_ONCE *once, void *function, void **unused)
{
    (void)once, (void)unused;
    (*(void (**)(void))function)();
    return TRUE;
}

static inline void fl_call_once(fl_once *once, void (*function)(void))
{
    InitOnceExecuteOnce(once, fl_call_it, &function, NULL);
}

/* While a DLL is unloaded no thread can end. So what has started one stays. */
static inline int fl_start_thread(fl_thread *thread, FL_THREAD function(void *), void *context)
{
    static const char here;
    HMODULE own;
    GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN,
                       (LPCWSTR)(const void *)&here, &own);
    *thread = (HANDLE)_beginthreadex(NULL, 0, function, context, 0, NULL);
    if (*thread)
        CloseHandle(*thread);
    return *thread != NULL;
}

static inline void fl_after_fork(void (*function)(void))
{
    (void)function; /* Windows has no fork. */
}

static inline void fl_yield(void)
{
    SwitchToThread();
}

static inline int fl_processors_online(void)
{
    return (int)GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
}

static inline int64_t fl_now(void)
{
    LARGE_INTEGER count, second;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&second);
    return count.QuadPart / second.QuadPart * 1000000000
        + count.QuadPart % second.QuadPart * 1000000000 / second.QuadPart;
}

#endif

static inline void fl_spin(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb"); /* "yield" is no pause on most processors. */
#endif
}

/* Pause in a loop that waits for another thread, after so many pauses. If that takes long, whoever else wants this
processor gets it, perhaps the very thread that this one waits for. */
enum { AWAKE_PAUSES = 2048 };

static inline void fl_pause_after(int64_t pauses)
{
    if (pauses < AWAKE_PAUSES)
        fl_spin();
    else
        fl_yield();
}

#endif
