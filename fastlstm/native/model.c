/* Loading a model: its weights are packed, and it is settled which values lie where. */

#include "model.h"

/* ---- what lies where in the model's memory ----------------------------------------------------------- */

static int has_weights(const fl_node *node)
{
    return node->kind == NODE_LSTM || node->kind == NODE_LINEAR || node->kind == NODE_CONVOLUTION;
}

/* The bytes of the packed weights of a node; 0 if it has none, or more than there can be. */
static int64_t weights_of(const fl_node *node, int32_t itemsize, int isa)
{
    fl_options options;
    if (node->kind == NODE_LSTM) {
        const fl_shape shape = fl_shape_of(node, itemsize, &options);
        return (int64_t)fl_stack_bytes(&shape, isa);
    }
    if (node->kind == NODE_LINEAR)
        return (int64_t)fl_linear_bytes(itemsize, node->I, node->O, isa);
    if (node->kind == NODE_CONVOLUTION)
        return (int64_t)fl_linear_bytes(itemsize, node->whole[KERNEL] * node->whole[CHANNELS],
                                        node->whole[CHANNELS_OUT], isa);
    return 0;
}

static int64_t slots_at(const fl_file *file)
{
    return fl_up((int64_t)(sizeof(fl_model) + file->head.nodes * sizeof(fl_operation)), 64);
}

static int64_t weights_at(const fl_file *file)
{
    return fl_up(slots_at(file) + (int64_t)(file->head.nodes * sizeof(fl_slot)), 64);
}

/* Check the file, and tell the bytes of the model. */
static fl_status check_model(const void *bytes, size_t number, int isa, fl_file *file, int64_t *size)
{
    fl_status status = fl_check_file(bytes, number, file);
    if (status || (status = fl_check_isa(isa, (int32_t)file->head.itemsize)))
        return status;
    *size = weights_at(file);
    for (int64_t n = 0; n < file->head.nodes; n++) {
        const fl_node node = fl_node_of(file, n);
        const int64_t weights = weights_of(&node, (int32_t)file->head.itemsize, isa);
        if (!weights && has_weights(&node))
            return FL_TOO_LARGE;
        *size += fl_up(weights, 64);
    }
    return FL_OK;
}

size_t fl_model_bytes(const void *bytes, size_t number, int isa)
{
    fl_file file;
    int64_t size;
    return check_model(bytes, number, isa, &file, &size) ? 0 : fl_size(size);
}

/* ---- nodes ------------------------------------------------------------------------------------------- */

static const fl_stack *load_stack(void *memory, const fl_file *file, const fl_node *node, int isa)
{
    fl_options options;
    const fl_shape shape = fl_shape_of(node, (int32_t)file->head.itemsize, &options);
    fl_stack *stack = fl_place_stack(memory, &shape, isa);
    for (int cell = 0; cell < shape.layers * shape.directions; cell++) {
        const fl_arrays arrays = fl_arrays_of(file, node, cell);
        stack->kernels->pack(&stack->cells[cell], &arrays);
    }
    return stack;
}

/* Nothing is refused here: the file and the memory have been checked. */
static const fl_linear *load_linear(void *memory, const fl_file *file, const fl_node *node, int64_t inputs,
                                    int64_t outputs, int isa)
{
    fl_linear *linear = NULL;
    fl_pack_linear(memory, SIZE_MAX, (int32_t)file->head.itemsize, inputs, outputs, isa, fl_array_of(file, node, 0),
                   fl_array_of(file, node, 1), &linear);
    return linear;
}

static fl_map map_of(const fl_file *file, const fl_node *node)
{
    fl_map map = {.count = node->O};
    switch (node->kind) {
    case NODE_ACTIVATION:
        map.kind = node->whole[0] == SOFTMAX ? MAP_SOFTMAX : MAP_FUNCTION;
        map.function = (fl_activation){(int32_t)node->whole[0], node->numbers[0], node->numbers[1]};
        break;
    case NODE_SUM: map.kind = MAP_SUM; break;
    case NODE_MAGNITUDE:
        map.kind = MAP_MAGNITUDE;
        map.magnitudes = node->whole[MAGNITUDES];
        break;
    default:
        map.kind = node->kind == NODE_STANDARDIZE ? MAP_STANDARDIZE : MAP_RESTORE;
        map.mean = fl_array_of(file, node, 0);
        map.scale = fl_array_of(file, node, 1);
    }
    return map;
}

/* What an operation is beside the values that it takes. Its weights are packed into `memory`. */
static void load_operation(fl_operation *operation, fl_model *model, const fl_file *file, const fl_node *node, int isa,
                           void *memory)
{
    const int64_t *whole = node->whole;
    switch (node->kind) {
    case NODE_LSTM: {
        const int64_t cells = whole[LAYERS] * whole[DIRECTIONS];
        operation->of.lstm.stack = load_stack(memory, file, node, isa);
        operation->of.lstm.h_0 = fl_array_of(file, node, cells * CELL_ARRAYS);
        operation->of.lstm.c_0 = fl_array_of(file, node, cells * CELL_ARRAYS + 1);
        operation->of.lstm.reverse = (int32_t)whole[REVERSE];
        operation->of.lstm.number = model->lstms++;
        break;
    }
    case NODE_EMBEDDING:
        operation->of.embedding.table = fl_array_of(file, node, 0);
        if (!model->rows || model->rows > whole[0])
            model->rows = whole[0];
        break;
    case NODE_CONVOLUTION:
        operation->of.product.length = whole[LENGTH];
        operation->of.product.channels = whole[CHANNELS];
        operation->of.product.length_out = whole[LENGTH_OUT];
        operation->of.product.stride = whole[STRIDE];
        operation->of.product.padding = whole[PADDING];
        operation->of.product.linear = load_linear(memory, file, node, whole[KERNEL] * whole[CHANNELS],
                                                   whole[CHANNELS_OUT], isa);
        break;
    case NODE_LINEAR: operation->of.product.linear = load_linear(memory, file, node, node->I, node->O, isa); break;
    case NODE_JOIN: break;
    case NODE_LAST:
    case NODE_SELECT: operation->of.n = whole[0]; break;
    default: operation->of.map = map_of(file, node);
    }
}

/* ---- values ------------------------------------------------------------------------------------------ */

/* What gives a value; NULL for value 0. */
static fl_operation *giver(fl_model *model, int32_t value)
{
    return value ? &model->operation[value - 1] : NULL;
}

static int32_t root_of(fl_model *model, int32_t value)
{
    return value ? giver(model, value)->root : 0;
}

/* Whether what a node gives has one step. */
static int gives_one_step(const fl_operation *operation)
{
    return operation->one_step || operation->kind == NODE_LAST;
}

static void connect(fl_model *model, int32_t n, const fl_node *node)
{
    fl_operation *operation = &model->operation[n];
    *operation = (fl_operation){
        .kind = (int32_t)node->kind,
        .value = {(int32_t)node->value[0], (int32_t)node->value[1]},
        .slot = -1,
        .root = n + 1,
        .last_use = n,
        .I = node->I,
        .O = node->O,
    };
    const fl_operation *before = giver(model, operation->value[0]);
    operation->one_step = before && gives_one_step(before);
    const int is_last = n + 1 == model->operations, takes_two = node->kind == NODE_SUM || node->kind == NODE_JOIN;
    const int is_part = node->kind == NODE_SELECT
        || (node->kind == NODE_LAST && (!node->whole[0] || node->whole[0] == node->I));
    if (is_part && !is_last) {
        operation->is_view = 1;
        operation->root = root_of(model, operation->value[0]);
    }
    for (int k = 0; k < 1 + takes_two; k++) {
        fl_operation *source = giver(model, root_of(model, operation->value[k]));
        if (source)
            source->last_use = n;
    }
}

/* The slot of a value that this node takes, if its own can be computed in place: nobody else takes it any more. */
static int32_t slot_in_place(fl_model *model, int32_t n)
{
    const fl_operation *operation = &model->operation[n];
    const int takes_two = operation->kind == NODE_SUM;
    if (!takes_two && operation->kind != NODE_ACTIVATION && operation->kind != NODE_STANDARDIZE
        && operation->kind != NODE_RESTORE)
        return -1;
    for (int k = 0; k < 1 + takes_two; k++) {
        const fl_operation *source = giver(model, operation->value[k]);
        if (source && !source->is_view && source->last_use == n)
            return source->slot;
    }
    return -1;
}

/* The free slot that need grow least and, of those, is smallest; a new one, if none is free. */
static int32_t take_slot(fl_model *model, int one_step, int64_t width)
{
    int32_t best = -1;
    int64_t least_growth = 0, least_width = 0;
    for (int32_t n = 0; n < model->slots; n++) {
        const int64_t own = one_step ? model->slot[n].one : model->slot[n].all, growth = own < width ? width - own : 0;
        if (!model->slot[n].is_free)
            continue;
        if (best < 0 || growth < least_growth || (growth == least_growth && own < least_width)) {
            best = n;
            least_growth = growth;
            least_width = own;
        }
    }
    if (best < 0) {
        best = model->slots++;
        model->slot[best] = (fl_slot){0};
    }
    fl_slot *slot = &model->slot[best];
    int64_t *own = one_step ? &slot->one : &slot->all;
    *own = *own < width ? width : *own;
    slot->is_free = 0;
    return best;
}

/* Free the slot of a value that no node after this one takes, unless its own value lies there now. */
static void free_slot(fl_model *model, int32_t n, int32_t value)
{
    const fl_operation *root = giver(model, root_of(model, value));
    if (root && root->slot >= 0 && root->last_use == n
        && (root == &model->operation[n] || root->slot != model->operation[n].slot))
        model->slot[root->slot].is_free = 1;
}

/* Give every value its slot. */
static void plan(fl_model *model)
{
    for (int32_t n = 0; n + 1 < model->operations; n++) {
        fl_operation *operation = &model->operation[n];
        if (!operation->is_view && (operation->slot = slot_in_place(model, n)) < 0)
            operation->slot = take_slot(model, gives_one_step(operation), operation->O);
        free_slot(model, n, operation->value[0]);
        free_slot(model, n, operation->value[1]);
        free_slot(model, n, n + 1);
    }
}

/* ---- loading ----------------------------------------------------------------------------------------- */

fl_status fl_model_load(const void *bytes, size_t number, int isa, void *memory, size_t size, fl_model **loaded)
{
    fl_file file;
    int64_t needed;
    if (!loaded)
        return FL_NULL;
    fl_status status = check_model(bytes, number, isa, &file, &needed);
    if (status || (status = fl_check_memory(memory, size, needed)))
        return status;
    const fl_head *head = &file.head;
    const int32_t itemsize = (int32_t)head->itemsize;
    fl_model *model = memory;
    *model = (fl_model){
        .kernels = fl_kernels_of(isa, itemsize),
        .info = {.struct_size = sizeof(fl_model_info),
                 .itemsize = itemsize,
                 .indices = (int32_t)head->indices,
                 .input = head->input,
                 .output = head->output,
                 .steps = file.steps,
                 .last = file.last,
                 .sample_rate = head->sample_rate},
        .operations = (int32_t)head->nodes,
        .slot = (fl_slot *)(void *)((char *)memory + slots_at(&file)),
    };
    char *weights = (char *)memory + weights_at(&file);
    for (int32_t n = 0; n < model->operations; n++) {
        const fl_node node = fl_node_of(&file, n);
        connect(model, n, &node);
        load_operation(&model->operation[n], model, &file, &node, isa, weights);
        weights += fl_up(weights_of(&node, itemsize, isa), 64);
    }
    plan(model);
    *loaded = model;
    return FL_OK;
}

fl_status fl_model_describe(const fl_model *model, fl_model_info *info)
{
    if (!model || !info)
        return FL_NULL;
    const size_t told = info->struct_size, own = sizeof model->info;
    if (!fl_is_struct_size(told))
        return FL_BAD_STRUCT_SIZE;
    memset(info, 0, told); /* A program that is newer than the library need not have cleared the rest. */
    memcpy(info, &model->info, told < own ? told : own);
    info->struct_size = told;
    return FL_OK;
}
