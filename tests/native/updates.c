/* Updates of parameters, without Python: cases one after the other until the input ends.

    updates ISA <cases >results

A case: six int64 (itemsize, count, kind, nesterov, first, and which moments there are: 1, 2 and 4, added); the nine
doubles of fl_rule in its order; p, g and those moments. Given out are p, the moments, and 1 or 0 in that type for
whether all of p is finite. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastlstm.h"

static void take(void *memory, size_t bytes)
{
    if (fread(memory, 1, bytes, stdin) != bytes)
        abort();
}

static void give(const void *memory, size_t bytes)
{
    if (fwrite(memory, 1, bytes, stdout) != bytes)
        abort();
}

/* Memory of just that size, so that an address sanitizer sees what lies beyond it. */
static void *taken(size_t bytes)
{
    void *memory = malloc(bytes);
    if (!memory)
        abort();
    take(memory, bytes);
    return memory;
}

static void update(const int64_t *head, int isa)
{
    const size_t bytes = head[0] * head[1];
    fl_rule rule = {.struct_size = sizeof rule, .kind = head[2], .nesterov = head[3], .first = head[4]};
    double *numbers[] = {&rule.rate, &rule.shrink, &rule.decay, &rule.momentum, &rule.dampening,
                         &rule.mean, &rule.square, &rule.root,  &rule.eps};
    for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++)
        take(numbers[n], sizeof(double));
    void *p = taken(bytes), *g = taken(bytes), *moments[3];
    for (int n = 0; n < 3; n++)
        moments[n] = head[5] >> n & 1 ? taken(bytes) : NULL;
    int32_t finite;
    if (fl_update(&rule, head[0], head[1], p, g, moments, isa) || fl_all_finite(head[0], head[1], p, isa, &finite))
        abort();
    give(p, bytes);
    for (int n = 0; n < 3; n++)
        if (moments[n])
            give(moments[n], bytes);
    const double wide = finite;
    const float narrow = finite;
    give(head[0] == 8 ? (const void *)&wide : &narrow, head[0]);
    free(p);
    free(g);
    for (int n = 0; n < 3; n++)
        free(moments[n]);
}

int main(int argc, char **argv)
{
    const int isa = argc == 2 ? fl_isa(argv[1]) : -1;
    if (isa < 0)
        return 2;
    for (int64_t head[6]; fread(head, sizeof head, 1, stdin) == 1;)
        update(head, isa);
    return 0;
}
