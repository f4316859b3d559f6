/* Packing a linear product, and running it over blocks of rows and threads. */

#include "internal.h"
#include "modes.h"

/* One product, as all its threads see it. */
typedef struct {
    const fl_linear *linear;
    const fl_linear_call *call;
    fl_linear_cut cut;
    _Atomic int64_t next; /* the first job, a part of the panels in a block of rows, that no thread has begun */
} linear_run;

size_t fl_linear_bytes(int32_t itemsize, int64_t inputs, int64_t outputs, int isa)
{
    const fl_kernels *kernels = fl_kernels_of(isa, itemsize);
    int64_t whole = fl_up(outputs, WIDTH * kernels->lanes);
    return fl_up(sizeof(fl_linear), 64) + fl_up(inputs * whole * kernels->weight_bytes, 64) + whole * itemsize;
}

fl_linear *fl_pack_linear(void *memory, int32_t itemsize, int64_t inputs, int64_t outputs, int isa, const void *w,
                          const void *b)
{
    const fl_kernels *kernels = fl_kernels_of(isa, itemsize);
    int64_t whole = fl_up(outputs, WIDTH * kernels->lanes);
    fl_linear *linear = memory;
    char *places = (char *)memory + fl_up(sizeof(fl_linear), 64);
    *linear = (fl_linear){kernels, inputs, outputs, places, places + fl_up(inputs * whole * kernels->weight_bytes, 64)};
    kernels->pack_linear(linear, w, b);
    return linear;
}

static void take_linear(void *context, int thread)
{
    (void)thread;
    linear_run *run = context;
    const fl_linear_call *call = run->call;
    const fl_linear_cut *cut = &run->cut;
    int64_t job, jobs = cut->blocks * cut->parts;
    fl_mode before = fl_set_mode();
    while ((job = atomic_fetch_add(&run->next, 1)) < jobs) {
        int64_t row = job / cut->parts * LINEAR_ROWS, part = job % cut->parts, left = call->rows - row;
        int64_t from = cut->panels * part / cut->parts, to = cut->panels * (part + 1) / cut->parts;
        int64_t rows = left < LINEAR_ROWS ? left : LINEAR_ROWS;
        run->linear->kernels->run_linear(run->linear, (const char *)call->x + row * call->x_stride, call->x_stride,
                                         (char *)call->y + row * call->y_stride, call->y_stride, rows, from, to);
    }
    fl_restore_mode(before);
}

void fl_run_linear(const fl_linear *linear, const fl_linear_call *call)
{
    linear_run run = {.linear = linear, .call = call, .cut = fl_linear_cut_of(linear, call)};
    if (run.cut.threads > 1)
        fl_together(run.cut.threads, take_linear, &run);
    else
        take_linear(&run, 0);
}
