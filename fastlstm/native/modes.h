/* How this thread's floating-point arithmetic treats numbers.

While a kernel runs, denormals are zero: they take a hundred times a number's time, and a state that fades
away leaves thousands of them. Rounding is to nearest and nothing traps, whatever the caller had set, so
that the bits do not depend on it. Afterwards the thread's own mode is restored. These functions are
inline because a step of a small layer takes little more than a hundred nanoseconds. */

#ifndef FASTLSTM_MODES_H
#define FASTLSTM_MODES_H

#include <stdint.h>

#if defined(__x86_64__)

#include <xmmintrin.h>

typedef unsigned fl_mode;

enum {
    FL_MODE = 0x9fc0, /* results and operands that are denormal are zero; all exceptions are masked */
    FL_FLAGS = 0x3f,  /* the exceptions that there were */
    FL_INEXACT = 0x20,
};

/* Set the mode for kernels and return the one before. The flags stay, and that of inexact results is set, which
kernels would set: reading the register after a flag has changed waits for all arithmetic before it, which takes 60 ns
of a step (Intel Xeon, AVX-512). */
static inline fl_mode fl_set_mode(void)
{
    fl_mode before = _mm_getcsr() | FL_INEXACT;
    _mm_setcsr(FL_MODE | (before & FL_FLAGS));
    return before;
}

static inline void fl_restore_mode(fl_mode before)
{
    _mm_setcsr(before);
}

#elif defined(__aarch64__)

typedef uint64_t fl_mode;

static inline fl_mode fl_set_mode(void)
{
    fl_mode before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(UINT64_C(1) << 24)); /* denormals are zero */
    return before;
}

static inline void fl_restore_mode(fl_mode before)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
}

#else /* the mode stays as it is */

typedef int fl_mode;

static inline fl_mode fl_set_mode(void)
{
    return 0;
}

static inline void fl_restore_mode(fl_mode before)
{
    (void)before;
}

#endif

#endif
