/* Packing a linear product, and running it over blocks of rows and threads. */

#include "internal.h"
#include "modes.h"

/* One product, as all its threads see it. */
typedef struct {
    const fl_linear *linear;
    const fl_linear_call *call;
    fl_linear_cut cut;
    _Atomic size_t next; /* the first job, a part of the panels in a block of rows, that no thread has begun */
} linear_run;

static int64_t linear_bytes(int32_t itemsize, int64_t inputs, int64_t outputs, int isa)
{
    const fl_kernels *kernels = fl_kernels_of(isa, itemsize);
    int64_t whole = fl_up(outputs, WIDTH * kernels->lanes);
    return fl_up(sizeof(fl_linear), 64) + fl_up(inputs * whole * kernels->weight_bytes, 64)
        + fl_up(whole * itemsize, 64);
}

size_t fl_linear_bytes(int32_t itemsize, int64_t inputs, int64_t outputs, int isa)
{
    const fl_status status = fl_check_linear(itemsize, inputs, outputs, isa);
    return status ? 0 : fl_size(linear_bytes(itemsize, inputs, outputs, isa));
}

fl_status fl_pack_linear(void *memory, size_t size, int32_t itemsize, int64_t inputs, int64_t outputs, int isa,
                         const void *w, const void *b, fl_linear **packed)
{
    if (!packed)
        return FL_NULL;
    fl_status status = fl_check_linear(itemsize, inputs, outputs, isa);
    if (status || (status = fl_check_array(w, itemsize)) || (b && (status = fl_check_array(b, itemsize)))
        || (status = fl_check_memory(memory, size, linear_bytes(itemsize, inputs, outputs, isa))))
        return status;
    const fl_kernels *kernels = fl_kernels_of(isa, itemsize);
    int64_t whole = fl_up(outputs, WIDTH * kernels->lanes);
    fl_linear *linear = memory;
    char *places = (char *)memory + fl_up(sizeof(fl_linear), 64);
    *linear = (fl_linear){
        .kernels = kernels,
        .inputs = inputs,
        .outputs = outputs,
        .itemsize = itemsize,
        .w = places,
        .b = places + fl_up(inputs * whole * kernels->weight_bytes, 64),
    };
    kernels->pack_linear(linear, w, b);
    *packed = linear;
    return FL_OK;
}

static void take_linear(void *context, int thread)
{
    (void)thread;
    linear_run *run = context;
    const fl_linear_call *call = run->call;
    const fl_linear_cut *cut = &run->cut;
    const int64_t x_stride = fl_stride(call->x_stride, call->rows), y_stride = fl_stride(call->y_stride, call->rows);
    const size_t jobs = (size_t)(cut->blocks * cut->parts);
    fl_mode before = fl_set_mode();
    for (size_t job; (job = atomic_fetch_add(&run->next, 1)) < jobs;) {
        int64_t row = (int64_t)job / cut->parts * LINEAR_ROWS, part = (int64_t)job % cut->parts,
                left = call->rows - row;
        int64_t from = cut->panels * part / cut->parts, to = cut->panels * (part + 1) / cut->parts;
        int64_t rows = left < LINEAR_ROWS ? left : LINEAR_ROWS;
        run->linear->kernels->run_linear(run->linear, (const char *)call->x + row * x_stride, x_stride,
                                         (char *)call->y + row * y_stride, y_stride, rows, from, to);
    }
    fl_restore_mode(before);
}

void fl_run_linear_checked(const fl_linear *linear, const fl_linear_call *call)
{
    linear_run run = {.linear = linear, .call = call, .cut = fl_linear_cut_of(linear, call)};
    if (run.cut.threads > 1)
        fl_together(run.cut.threads, take_linear, &run);
    else
        take_linear(&run, 0);
}

fl_status fl_run_linear(const fl_linear *linear, const fl_linear_call *given)
{
    fl_linear_call own;
    fl_status status = FL_NULL;
    const fl_linear_call *call = linear ? fl_check_product(linear, given, &own, &status) : NULL;
    if (call)
        fl_run_linear_checked(linear, call);
    return status;
}
