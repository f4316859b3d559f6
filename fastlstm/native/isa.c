/* The instruction sets that are compiled in, the best first, and the choice among them. */

#include "internal.h"

static const fl_instruction_set *const table[] = {
#if defined(__x86_64__) && !defined(FL_NO_AVX512)
    &fl_avx512,
#endif
#if defined(__x86_64__) && !defined(FL_NO_AVX2)
    &fl_avx2,
#endif
#if defined(__aarch64__) && !defined(FL_NO_NEON)
    &fl_neon,
#endif
#if !defined(FL_NO_BASELINE)
    &fl_baseline,
#endif
    NULL,
};
enum { COUNT = sizeof table / sizeof *table - 1 };
_Static_assert(COUNT > 0, "this processor has none of the instruction sets that FASTLSTM_ISA names");

#if defined(__x86_64__)

#include <cpuid.h>

/* What leaf 1 and leaf 7 of cpuid tell, and the sets of registers that the system keeps when it changes threads. */
enum {
    FMA3 = 1 << 12,
    XGETBV = 1 << 27,
    AVX = 1 << 28,
    AVX2 = 1 << 5,
    AVX512F = 1 << 16,
    AVX512DQ = 1 << 17,
    AVX512BW = 1 << 30,
    KEPT_256 = 0x6,
    KEPT_512 = 0xe6,
};
#define AVX512VL (1u << 31)

static int has(unsigned told, unsigned wanted)
{
    return (told & wanted) == wanted;
}

/* GCC and Clang have __builtin_cpu_supports, but with the libraries of Visual Studio it does not link. */
int fl_has_vectors(int bytes)
{
    unsigned a, b, c, d, kept, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, FMA3 | XGETBV | AVX))
        return 0;
    __asm__("xgetbv" : "=a"(kept), "=d"(high) : "c"(0));
    if (!has(kept, KEPT_256) || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has(b, AVX2))
        return 0;
#if defined(__APPLE__)
    kept |= KEPT_512; /* macOS begins to keep them when a thread first uses them. */
#endif
    return bytes <= 32 || (has(kept, KEPT_512) && has(b, AVX512F | AVX512DQ | AVX512BW | AVX512VL));
}

#endif

/* The processor is asked once: that of a virtual machine takes long to answer. */
int fl_isa_is_here(int isa)
{
    static _Atomic signed char known[COUNT]; /* 0: nobody has asked yet; 1: it is there; -1: it is not */
    if (isa < 0 || isa >= COUNT)
        return 0;
    signed char here = atomic_load_explicit(&known[isa], memory_order_relaxed);
    if (!here) {
        here = table[isa]->there() ? 1 : -1;
        atomic_store_explicit(&known[isa], here, memory_order_relaxed);
    }
    return here > 0;
}

const char *fl_isa_name(int isa)
{
    return isa >= 0 && isa < COUNT ? table[isa]->name : NULL;
}

int fl_isa(const char *name)
{
    for (int isa = 0; isa < COUNT; isa++)
        if (name ? !strcmp(name, table[isa]->name) : fl_isa_is_here(isa))
            return fl_isa_is_here(isa) ? isa : -2;
    return name ? -1 : -2;
}

const fl_instruction_set *fl_instruction_set_of(int isa)
{
    return table[isa];
}

const fl_kernels *fl_kernels_of(int isa, int32_t itemsize)
{
    return table[isa]->kernels[itemsize == sizeof(double)];
}
