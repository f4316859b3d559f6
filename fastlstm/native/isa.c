/* The instruction sets that are compiled in, the best first, and the choice among them. */

#include "internal.h"

static const fl_instruction_set *const table[] = {
#if defined(__x86_64__)
    &fl_avx512,
    &fl_avx2,
#elif defined(__aarch64__)
    &fl_neon,
#endif
    &fl_baseline,
};
enum { COUNT = sizeof table / sizeof *table };

const char *fl_isa_name(int isa)
{
    return isa >= 0 && isa < COUNT ? table[isa]->name : NULL;
}

int fl_isa(const char *name)
{
    for (int isa = 0; isa < COUNT; isa++)
        if (name ? !strcmp(name, table[isa]->name) : table[isa]->there())
            return table[isa]->there() ? isa : -2;
    return -1;
}

const fl_instruction_set *fl_instruction_set_of(int isa)
{
    return table[isa];
}

const fl_kernels *fl_kernels_of(int isa, int32_t itemsize)
{
    return table[isa]->kernels[itemsize == sizeof(double)];
}
