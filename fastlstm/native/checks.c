/* What the public functions ask of their arguments, before any work: so wrong ones change nothing. Behind them nothing
is asked again. How large things are is estimated in double, where nothing overflows: what passes has room in int64_t,
with all sums and products that are made of it. */

#include "internal.h"

/* Every size is at most this, so that it fits int too, with some padding. */
#define MOST_SIZE ((int64_t)1 << 30)
/* Estimates are at most this, and at least what they estimate. */
#define MOST_BYTES 0x1p62
/* No structure of any version has so many bytes: a struct_size above it was never set. */
#define MOST_STRUCT 4096
/* The most of each that a cut may have. */
#define MOST_PARTS 1024

const char *fl_error_string(int status)
{
    static const char *const sentences[] = {
        [FL_OK] = "no error",
        [FL_STOPPED] = "the call was stopped",
        [FL_NULL] = "a pointer is NULL that may not be",
        [FL_BAD_STRUCT_SIZE] = "a struct_size is not that of any version, or a field is used that this library does not"
                               " know",
        [FL_BAD_ALIGNMENT] = "memory is not aligned: what a function works in begins at a multiple of 64, an array at a"
                             " multiple of its values' size",
        [FL_TOO_SMALL] = "memory is smaller than what the function for it said",
        [FL_TOO_LARGE] = "sizes are too large: their product does not fit",
        [FL_BAD_ISA] = "no instruction set has this number, or this machine lacks it",
        [FL_BAD_ITEMSIZE] = "the itemsize is neither 4 nor 8, or this library was built without it",
        [FL_BAD_SHAPE] = "a size is below 1, or directions are not 1 or 2",
        [FL_BAD_OPTIONS] = "an option is out of its range, or not a number",
        [FL_BAD_ARRAYS] = "an array is missing, or there is one that the shape or the options have no use for",
        [FL_BAD_CALL] = "steps, batch, threads or a flag is out of its range, or fields do not go together",
        [FL_BAD_STRIDE] = "a stride is not a multiple of a value's size, or rows that are filled would overlap",
        [FL_BAD_BATCH_SIZES] = "batch sizes do not begin with the batch, increase, or are below 1",
        [FL_BAD_CUT] = "this run cannot have such a cut",
        [FL_BAD_INDEX] = "an input is not the number of a row of the table, or an index not that of a state",
        [FL_UNSUPPORTED] = "this stack, model or build cannot do that",
        [FL_FILE_MAGIC] = "this is not a model of fastlstm's",
        [FL_FILE_VERSION] = "the model has a format that this library does not know",
        [FL_FILE_ENDIAN] = "the model was written for the other order of bytes",
        [FL_FILE_TRUNCATED] = "the model has fewer bytes, or more, than it says",
        [FL_FILE_CHECKSUM] = "the bytes of the model are not those that were written",
        [FL_FILE_DAMAGED] = "the model says what cannot be",
        [FL_FILE_UNREADABLE] = "this file cannot be read",
    };
    enum { COUNT = sizeof sentences / sizeof *sentences };
    return status >= 0 && status < COUNT ? sentences[status] : "unknown status";
}

int fl_version(void)
{
    return FL_VERSION;
}

/* ---- structures, memory and arrays ------------------------------------------------------------------- */

int fl_is_struct_size(size_t told)
{
    return told >= sizeof told && told <= MOST_STRUCT && told % sizeof told == 0;
}

const void *fl_known_of_other(const void *given, void *own, size_t size, fl_status *status)
{
    size_t told;
    memcpy(&told, given, sizeof told);
    *status = FL_BAD_STRUCT_SIZE;
    if (!fl_is_struct_size(told))
        return NULL;
    for (size_t n = size; n < told; n++)
        if (((const char *)given)[n])
            return NULL;
    *status = FL_OK;
    memset(own, 0, size);
    return memcpy(own, given, told < size ? told : size);
}

const fl_arrays *fl_nth_arrays(const fl_arrays *given, int n, fl_arrays *own, fl_status *status)
{
    if (!fl_known(given, own, sizeof *own, status))
        return NULL;
    const size_t size = given->struct_size;
    const fl_arrays *nth = (const fl_arrays *)(const void *)((const char *)given + n * size);
    if (nth->struct_size == size)
        return fl_known(nth, own, sizeof *own, status);
    *status = FL_BAD_STRUCT_SIZE;
    return NULL;
}

size_t fl_size(int64_t bytes)
{
    return (uint64_t)bytes > PTRDIFF_MAX ? 0 : (size_t)bytes;
}

fl_status fl_check_memory(const void *memory, size_t size, int64_t needed)
{
    if (!memory)
        return FL_NULL;
    if ((uintptr_t)memory % 64)
        return FL_BAD_ALIGNMENT;
    if (!fl_size(needed))
        return FL_TOO_LARGE;
    return size < (size_t)needed ? FL_TOO_SMALL : FL_OK;
}

fl_status fl_check_array(const void *array, int64_t itemsize)
{
    if (!array)
        return FL_NULL;
    return (uintptr_t)array & (uintptr_t)(itemsize - 1) ? FL_BAD_ALIGNMENT : FL_OK;
}

fl_status fl_check_rows(const void *array, int64_t stride, int64_t rows, int64_t filled, int64_t itemsize)
{
    const fl_status status = fl_check_array(array, itemsize);
    if (status || rows <= 1) /* One row needs no stride. */
        return status;
    if (stride & (itemsize - 1) || (-filled < stride && stride < filled))
        return FL_BAD_STRIDE;
    return fabs((double)stride) * rows > MOST_BYTES ? FL_TOO_LARGE : FL_OK;
}

/* ---- stacks ------------------------------------------------------------------------------------------ */

fl_status fl_check_isa(int isa, int32_t itemsize)
{
    if (!fl_isa_is_here(isa))
        return FL_BAD_ISA;
    if (itemsize != sizeof(float) && itemsize != sizeof(double))
        return FL_BAD_ITEMSIZE;
    return fl_kernels_of(isa, itemsize) ? FL_OK : FL_BAD_ITEMSIZE;
}

static int is_function(const fl_activation *activation)
{
    return activation->function >= FL_SIGMOID && activation->function <= FL_SOFTPLUS && isfinite(activation->alpha)
        && isfinite(activation->beta);
}

static int is_probability(double number)
{
    return number >= 0 && number <= 1;
}

COLD fl_status fl_check_options(const fl_options *o)
{
    const int right = o->gate_clip > 0 && o->cell_clip > 0 && o->proj_clip > 0 && o->coupled >= 0
        && o->coupled <= FL_I_FROM_F && is_function(&o->gate) && is_function(&o->cell) && is_function(&o->output)
        && o->layer_norm >= 0 && o->layer_norm <= FL_NORM_SUMS && is_probability(o->zoneout_h)
        && is_probability(o->zoneout_c);
    return right ? FL_OK : FL_BAD_OPTIONS;
}

static fl_status check_caches(const fl_caches *caches)
{
    if (caches->l1 < 1 || caches->l2 < 1 || caches->l3 < 0 || caches->l3_sharers < 1)
        return FL_BAD_SHAPE;
    return caches->l1 > MOST_SIZE || caches->l2 > MOST_SIZE || caches->l3 > 1024 * MOST_SIZE ? FL_TOO_LARGE : FL_OK;
}

/* The numbers of a layer's widest inputs, its units and its outputs, with all padding that anything gives them. */
typedef struct {
    double inputs, units, outputs;
} padded_sizes;

static padded_sizes padded_of(const fl_shape *s)
{
    const double below = s->layers > 1 ? (double)s->directions * s->output : 0, padding = 512;
    return (padded_sizes){(s->input > below ? s->input : below) + padding, s->hidden + padding, s->output + padding};
}

COLD fl_status fl_check_shape(const fl_shape *given, int isa, fl_shape *shape, fl_options *options)
{
    fl_status status;
    const fl_shape *told = fl_known(given, shape, sizeof *shape, &status);
    if (!told)
        return status;
    const fl_shape s = *told;
    if ((status = fl_check_isa(isa, s.itemsize)))
        return status;
    if (s.layers < 1 || s.directions < 1 || s.directions > 2 || s.input < 1 || s.hidden < 1 || s.output < 1)
        return FL_BAD_SHAPE;
    if (s.back != 0 && s.back != 1)
        return FL_BAD_CALL;
    if (s.back && !WITH_TRAINING)
        return FL_UNSUPPORTED;
    if (s.caches && (status = check_caches(s.caches)))
        return status;
    if (s.options) {
        const fl_options *own = fl_known(s.options, options, sizeof *options, &status);
        if (!own || (status = fl_check_options(own)))
            return status;
        *options = *own;
    }
    if (s.layers > MOST_SIZE / 2 || s.input > MOST_SIZE || s.hidden > MOST_SIZE || s.output > MOST_SIZE)
        return FL_TOO_LARGE;
    const padded_sizes n = padded_of(&s);
    const double weights = GATES * n.units * (n.inputs + n.outputs) + n.units * n.outputs;
    const double values = (1 + s.back) * weights + 64 * n.units, weight = fl_kernels_of(isa, s.itemsize)->weight_bytes;
    if ((double)s.layers * s.directions * (values * (weight > s.itemsize ? weight : s.itemsize) + 4096) > MOST_BYTES)
        return FL_TOO_LARGE;
    *shape = s;
    shape->options = s.options ? options : NULL;
    return FL_OK;
}

/* Whether an array is there as often as it is wanted, and aligned. */
static fl_status check_wanted(const void *array, int wanted, int64_t itemsize)
{
    if (!array != !wanted)
        return FL_BAD_ARRAYS;
    return array ? fl_check_array(array, itemsize) : FL_OK;
}

/* As above; an array that need not be there is wanted if it is. */
static int may_be(const void *array, int allowed)
{
    return array && allowed;
}

COLD fl_status fl_check_parameters(const fl_shape *s, const fl_arrays *given, int k, fl_arrays *own)
{
    fl_status status;
    const fl_arrays *a = fl_nth_arrays(given, k, own, &status);
    if (!a)
        return status;
    const int norm = s->options ? s->options->layer_norm : 0, options = s->options != NULL;
    const int sums = norm == FL_NORM_SUMS;
    const struct {
        const void *array;
        int wanted;
    } all[] = {
        {a->w_ih, 1},
        {a->w_hh, 1},
        {a->b, may_be(a->b, 1)},
        {a->w_hr, s->output != s->hidden},
        {a->w_ci, may_be(a->w_ci, options)},
        {a->w_cf, may_be(a->w_cf, options)},
        {a->w_co, may_be(a->w_co, options)},
        {a->ln, norm == FL_NORM_GATES},
        {a->ln_ih, sums},
        {a->ln_hh, sums},
        {a->ln_c, sums},
        {a->b_c, sums},
    };
    for (size_t n = 0; !status && n < sizeof all / sizeof *all; n++)
        status = check_wanted(all[n].array, all[n].wanted, s->itemsize);
    if (!status)
        *own = *a;
    return status;
}

fl_status fl_check_gradients(const fl_stack *stack, const fl_arrays *given, int direction, fl_arrays *own)
{
    fl_status status;
    const fl_arrays *a = fl_nth_arrays(given, direction, own, &status);
    if (!a)
        return status;
    const fl_cell *cell = &stack->cells[direction];
    const struct {
        const void *array;
        int wanted;
    } all[] = {
        {a->w_ih, 1},
        {a->w_hh, 1},
        {a->b, 1},
        {a->w_hr, cell->w_hr != NULL},
        {a->w_ci, cell->w_ci != NULL},
        {a->w_cf, cell->w_cf != NULL},
        {a->w_co, cell->w_co != NULL},
        {a->ln, cell->ln != NULL},
        {a->ln_ih, cell->ln_ih != NULL},
        {a->ln_hh, cell->ln_hh != NULL},
        {a->ln_c, cell->ln_c != NULL},
        {a->b_c, cell->b_c != NULL},
    };
    for (size_t n = 0; !status && n < sizeof all / sizeof *all; n++)
        status = check_wanted(all[n].array, all[n].wanted, stack->shape.itemsize);
    if (!status)
        *own = *a;
    return status;
}

/* ---- calls ------------------------------------------------------------------------------------------- */

double fl_most_rows(const fl_shape *s)
{
    const padded_sizes n = padded_of(s);
    const double row = 8 * (n.inputs + n.outputs) + 96 * n.units; /* of a layer in one direction, in all arrays */
    return MOST_BYTES / ((double)s->layers * s->directions * row * s->itemsize) - 4096; /* Panels are padded. */
}

fl_status fl_check_batch(const fl_stack *stack, int64_t batch, int64_t steps)
{
    if (batch < 1 || steps < 1)
        return FL_BAD_CALL;
    return batch > MOST_SIZE || (double)batch * (double)steps > stack->most_rows ? FL_TOO_LARGE : FL_OK;
}

static fl_status check_batch_sizes(const fl_call *call)
{
    int64_t before = call->batch;
    int rises = call->batch_sizes[0] != call->batch;
    for (int64_t t = 0; t < call->steps; t++) {
        rises |= call->batch_sizes[t] > before;
        before = call->batch_sizes[t];
    }
    return rises || before < 1 ? FL_BAD_BATCH_SIZES : FL_OK;
}

static int is_number(int32_t n, int32_t most)
{
    return n >= 1 && n <= most;
}

static fl_status check_cut(const fl_stack *stack, const fl_call *call)
{
    const fl_shape *s = &stack->shape;
    const fl_cut *cut = call->cut;
    if (!is_number(cut->threads, MOST_PARTS) || !is_number(cut->groups, MOST_PARTS)
        || !is_number(cut->seats, MOST_THREADS) || !is_number(cut->shares, MOST_PARTS) || cut->shares < cut->seats
        || cut->inputs_first < 0 || cut->inputs_first > 1
        || (cut->inputs_first && cut->threads > cut->groups * MOST_THREADS)
        || (cut->teams != 1 && cut->teams != (s->directions == 2 ? 2 : s->layers)))
        return FL_BAD_CUT;
    if (!WITH_THREADS && (cut->groups > 1 || cut->teams > 1 || cut->shares > 1 || cut->inputs_first))
        return FL_UNSUPPORTED;
    /* Each share of each team has room for sums, and each group and team for what would be one group's. */
    const double teams = (double)cut->groups * cut->teams, units = padded_of(s).units;
    const double all = teams * (cut->shares * ((double)call->batch * 64 * GATES * s->itemsize + 1024) + 8192 * units);
    return teams > 64 * MOST_PARTS || all > MOST_BYTES / 4 ? FL_BAD_CUT : FL_OK;
}

/* What the size of scratch memory depends on. */
static fl_status check_work(const fl_stack *stack, const fl_call *call)
{
    const int one_layer = stack->shape.layers == 1;
    fl_status status = fl_check_batch(stack, call->batch, call->steps);
    if (status)
        return status;
    if (call->threads < 1 || call->checkpoint_interval < 0 || (call->tape && (call->table || call->index)))
        return FL_BAD_CALL;
    if ((!one_layer && (call->tape || call->noise || call->cells)) || (call->tape && !WITH_TRAINING))
        return FL_UNSUPPORTED;
    if (call->batch_sizes && (status = check_batch_sizes(call)))
        return status;
    return call->cut ? check_cut(stack, call) : FL_OK;
}

const fl_call *fl_check_work(const fl_stack *stack, const fl_call *given, fl_call *own, fl_status *status)
{
    const fl_call *call = fl_known(given, own, sizeof *own, status);
    if (call && (*status = check_work(stack, call)))
        return NULL;
    return call;
}

/* Numbers of rows of a table. */
static fl_status check_indices(const fl_call *call, int64_t rows)
{
    if (call->table_rows < 1)
        return FL_BAD_CALL;
    fl_status status = fl_check_rows(call->x, call->x_stride, rows, 0, sizeof(int64_t));
    if (status)
        return status;
    const char *x = call->x;
    for (int64_t n = 0; n < rows; n++) {
        const int64_t index = *(const int64_t *)(const void *)(x + n * call->x_stride);
        if (index < 0 || index >= call->table_rows)
            return FL_BAD_INDEX;
    }
    return FL_OK;
}

/* Which rows of the states the sequences have. */
static fl_status check_index(const fl_stack *stack, const fl_call *call)
{
    const fl_status status = fl_check_batch(stack, call->states, 1);
    if (status || (uintptr_t)call->index % sizeof(int64_t))
        return status ? status : FL_BAD_ALIGNMENT;
    for (int64_t n = 0; n < call->batch; n++)
        if (call->index[n] < 0 || call->index[n] >= call->states)
            return FL_BAD_INDEX;
    return FL_OK;
}

static fl_status check_noise(const fl_stack *stack, const fl_noise *noise)
{
    for (int direction = 0; direction < stack->shape.directions; direction++) {
        const void *arrays[] = {noise[direction].h, noise[direction].zone_h, noise[direction].zone_c};
        for (int n = 0; n < 3; n++)
            if (arrays[n] && fl_check_array(arrays[n], stack->shape.itemsize))
                return FL_BAD_ALIGNMENT;
    }
    return FL_OK;
}

/* What a run reads and fills, but for its states and its memory. */
static fl_status check_rest(const fl_stack *stack, const fl_call *call)
{
    const fl_shape *s = &stack->shape;
    const int64_t size = s->itemsize, rows = fl_rows_of(call);
    fl_status status;
    if (call->reverse < 0 || call->reverse > 1 || call->parity < 0 || call->parity > 1)
        return FL_BAD_CALL;
    if (call->reverse && s->directions == 2)
        return FL_UNSUPPORTED;
    if ((status = fl_check_rows(call->y, call->y_stride, rows, s->directions * s->output * size, size)))
        return status;
    if (!call->table && (status = fl_check_rows(call->x, call->x_stride, rows, 0, size)))
        return status;
    if (call->cells
        && (status = fl_check_rows(call->cells, call->cells_stride, rows, s->directions * s->hidden * size, size)))
        return status;
    if (call->noise && (status = check_noise(stack, call->noise)))
        return status;
    if (call->index && (status = check_index(stack, call)))
        return status;
    if (call->table) {
        if ((uintptr_t)call->table % 64)
            return FL_BAD_ALIGNMENT;
        if ((status = check_indices(call, rows)))
            return status;
    }
    return call->tape ? fl_check_memory(call->tape, call->tape_size, fl_tape_bytes_of(stack, call)) : FL_OK;
}

const fl_call *fl_check_call(const fl_stack *stack, const fl_call *given, fl_call *own, fl_status *status)
{
    const fl_call *call = fl_check_work(stack, given, own, status);
    if (!call)
        return NULL;
    const int64_t size = stack->shape.itemsize;
    if ((*status = check_rest(stack, call)) || (*status = fl_check_array(call->h, size))
        || (*status = fl_check_array(call->c, size)))
        return NULL;
    return call;
}

const fl_call *fl_check_recorded(const fl_stack *stack, const fl_call *given, fl_call *own, fl_status *status)
{
    const fl_call *call = fl_check_work(stack, given, own, status);
    if (!call)
        return NULL;
    *status = call->tape ? check_rest(stack, call) : FL_NULL;
    return *status ? NULL : call;
}

/* ---- the way back ------------------------------------------------------------------------------------ */

fl_status fl_check_back_cut(const fl_stack *stack, const fl_back_cut *cut, int64_t batch)
{
    if (!is_number(cut->threads, MOST_THREADS) || !is_number(cut->groups, MOST_PARTS)
        || !is_number(cut->shares, MOST_PARTS))
        return FL_BAD_CUT;
    const double rows = 512.0 * padded_of(&stack->shape).units * stack->shape.itemsize;
    return (double)cut->groups * cut->shares * (rows + 1024) + 64.0 * batch > MOST_BYTES / 4 ? FL_BAD_CUT : FL_OK;
}

fl_status fl_check_back(const fl_stack *stack, const fl_back_call *back, int64_t rows)
{
    const fl_shape *s = &stack->shape;
    const int64_t size = s->itemsize;
    fl_status status;
    if (back->fill_dw < 0 || back->fill_dw > 1)
        return FL_BAD_CALL;
    if (back->cut && fl_check_back_cut(stack, back->cut, back->call->batch))
        return FL_BAD_CUT;
    if ((status = fl_check_rows(back->dy, back->dy_stride, rows, 0, size)) || (status = fl_check_array(back->dh, size))
        || (status = fl_check_array(back->dc, size)))
        return status;
    if (back->dx && (status = fl_check_array(back->dx, size)))
        return status;
    for (int direction = 0; back->dcells && direction < s->directions; direction++)
        if (back->dcells[direction] && (status = fl_check_array(back->dcells[direction], size)))
            return status;
    return FL_OK;
}

/* ---- linear products --------------------------------------------------------------------------------- */

fl_status fl_check_linear(int32_t itemsize, int64_t inputs, int64_t outputs, int isa)
{
    const fl_status status = fl_check_isa(isa, itemsize);
    if (status)
        return status;
    if (inputs < 1 || outputs < 1)
        return FL_BAD_SHAPE;
    const double bytes = (inputs + 2.0) * ((double)outputs + 512) * sizeof(double);
    return inputs > MOST_SIZE || outputs > MOST_SIZE || bytes > MOST_BYTES ? FL_TOO_LARGE : FL_OK;
}

const fl_linear_call *fl_check_product(const fl_linear *linear, const fl_linear_call *given, fl_linear_call *own,
                                       fl_status *status)
{
    const fl_linear_call *call = fl_known(given, own, sizeof *own, status);
    if (!call)
        return NULL;
    const int64_t size = linear->itemsize;
    *status = call->rows < 0 || call->threads < 1 ? FL_BAD_CALL : FL_OK;
    if (*status || !call->rows)
        return *status ? NULL : call;
    if ((double)call->rows * (linear->outputs + linear->inputs) * size > MOST_BYTES)
        *status = FL_TOO_LARGE;
    else if (!(*status = fl_check_rows(call->x, call->x_stride, call->rows, 0, size)))
        *status = fl_check_rows(call->y, call->y_stride, call->rows, linear->outputs * size, size);
    return *status ? NULL : call;
}

/* ---- updates ----------------------------------------------------------------------------------------- */

fl_status fl_check_numbers(int32_t itemsize, int64_t count, const void *x, int isa)
{
    const fl_status status = fl_check_isa(isa, itemsize);
    if (status)
        return status;
    if (!WITH_TRAINING)
        return FL_UNSUPPORTED;
    if (count < 0)
        return FL_BAD_SHAPE;
    if ((double)count * itemsize > MOST_BYTES)
        return FL_TOO_LARGE;
    return fl_check_array(x, itemsize);
}

fl_status fl_check_update(const fl_rule *rule, int32_t itemsize, int64_t count, const void *p, const void *g,
                          void *const *moments, int isa)
{
    fl_status status = fl_check_numbers(itemsize, count, p, isa);
    if (status || (status = fl_check_array(g, itemsize)))
        return status;
    if (rule->kind < FL_SGD || rule->kind > FL_ADAM || (rule->nesterov != 0 && rule->nesterov != 1)
        || (rule->first != 0 && rule->first != 1))
        return FL_BAD_CALL;
    if (!moments)
        return FL_NULL;
    const int needed = rule->kind, most = rule->kind == FL_SGD ? 1 : 3; /* moments, in order */
    for (int n = 0; n < 3; n++) {
        if (moments[n] ? n >= most : n < needed)
            return FL_BAD_ARRAYS;
        if (moments[n] && (status = fl_check_array(moments[n], itemsize)))
            return status;
    }
    return FL_OK;
}
