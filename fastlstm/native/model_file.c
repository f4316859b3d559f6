/* Checking the file of a model. Nothing that a file says is used before it is known to be possible, and all work is
in proportion to the number of its bytes. */

#include "model_file.h"

#define MAGIC "\x89\x46\x4C\x0D\x0A\x1A\x0A"
enum {
    ORDER = 0x01020304,
    OTHER_ORDER = 0x04030201,
    FILE_VERSION = 1,
    MOST_NODES = 4096,
    MOST_ARRAYS = 65536,
    ARRAY_BYTES = 16, /* of the record of an array */
    WHOLE = 64,       /* everything begins at a multiple of this */
};
#define MOST_VALUES INT64_C(2147483647) /* the largest of all sizes */

_Static_assert(sizeof(fl_head) == 128 && sizeof(fl_node) == 208, "records are as the file has them");

/* ---- reading --------------------------------------------------------------------------------------- */

/* A record of an array. */
typedef struct {
    int64_t at, bytes;
} array_record;

static int64_t nodes_at(void)
{
    return sizeof(fl_head);
}

static int64_t arrays_at(const fl_head *head)
{
    return fl_up(nodes_at() + (int64_t)head->nodes * (int64_t)sizeof(fl_node), WHOLE);
}

static int64_t text_at(const fl_head *head)
{
    return fl_up(arrays_at(head) + (int64_t)head->arrays * ARRAY_BYTES, WHOLE);
}

fl_node fl_node_of(const fl_file *file, int64_t n)
{
    fl_node node;
    memcpy(&node, file->bytes + nodes_at() + n * (int64_t)sizeof node, sizeof node);
    return node;
}

static array_record array_of(const fl_file *file, int64_t n)
{
    array_record array;
    memcpy(&array, file->bytes + arrays_at(&file->head) + n * ARRAY_BYTES, sizeof array);
    return array;
}

const void *fl_array_of(const fl_file *file, const fl_node *node, int64_t k)
{
    const array_record array = array_of(file, node->first_array + k);
    return array.bytes ? file->bytes + array.at : NULL;
}

fl_arrays fl_arrays_of(const fl_file *file, const fl_node *node, int64_t cell)
{
    void *places[CELL_ARRAYS];
    for (int k = 0; k < CELL_ARRAYS; k++)
        places[k] = (void *)fl_array_of(file, node, cell * CELL_ARRAYS + k);
    return (fl_arrays){
        .struct_size = sizeof(fl_arrays),
        .w_ih = places[0],
        .w_hh = places[1],
        .b = places[2],
        .w_hr = places[3],
        .w_ci = places[4],
        .w_cf = places[5],
        .w_co = places[6],
        .ln = places[7],
        .ln_ih = places[8],
        .ln_hh = places[9],
        .ln_c = places[10],
        .b_c = places[11],
    };
}

fl_shape fl_shape_of(const fl_node *node, int32_t itemsize, fl_options *options)
{
    const int64_t *whole = node->whole;
    const double *numbers = node->numbers;
    *options = (fl_options){
        .struct_size = sizeof(fl_options),
        .gate_clip = numbers[0],
        .cell_clip = numbers[1],
        .proj_clip = numbers[2],
        .coupled = (int32_t)whole[COUPLED],
        .gate = {(int32_t)(whole[FUNCTIONS] & 255), numbers[3], numbers[4]},
        .cell = {(int32_t)(whole[FUNCTIONS] >> 8 & 255), numbers[5], numbers[6]},
        .output = {(int32_t)(whole[FUNCTIONS] >> 16), numbers[7], numbers[8]},
        .layer_norm = (int32_t)whole[LAYER_NORM],
        .zoneout_h = numbers[9],
        .zoneout_c = numbers[10],
    };
    return (fl_shape){
        .struct_size = sizeof(fl_shape),
        .itemsize = itemsize,
        .layers = (int32_t)whole[LAYERS],
        .directions = (int32_t)whole[DIRECTIONS],
        .input = node->I,
        .hidden = whole[HIDDEN],
        .output = node->O / whole[DIRECTIONS],
        .options = whole[GENERAL] ? options : NULL,
    };
}

/* ---- what the bytes are ---------------------------------------------------------------------------- */

/* The CRC-32 of zlib and PNG, four bits at a time: their table is small. */
static uint32_t add_checksum(uint32_t sum, const unsigned char *bytes, size_t number)
{
    static const uint32_t table[] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    for (size_t n = 0; n < number; n++) {
        sum ^= bytes[n];
        sum = sum >> 4 ^ table[sum & 15];
        sum = sum >> 4 ^ table[sum & 15];
    }
    return sum;
}

static uint32_t checksum_of(const unsigned char *bytes, size_t number)
{
    static const unsigned char zeros[sizeof(uint32_t)];
    const size_t at = offsetof(fl_head, checksum), behind = at + sizeof zeros;
    uint32_t sum = add_checksum(UINT32_MAX, bytes, at);
    sum = add_checksum(sum, zeros, sizeof zeros);
    return ~add_checksum(sum, bytes + behind, number - behind);
}

static int are_zeros(const void *memory, int64_t number)
{
    const unsigned char *bytes = memory;
    for (int64_t n = 0; n < number; n++)
        if (bytes[n])
            return 0;
    return 1;
}

/* The bytes from one place to another are there, and zeros. */
static int is_padding(const fl_file *file, int64_t from, int64_t to)
{
    return to <= file->head.bytes && are_zeros(file->bytes + from, to - from);
}

/* Whether this is a file of this library's that has come whole. */
static fl_status check_bytes(const unsigned char *bytes, size_t number, fl_head *head)
{
    const size_t magic = sizeof head->magic;
    if (memcmp(bytes, MAGIC, number < magic ? number : magic) != 0)
        return FL_FILE_MAGIC;
    if (number < sizeof *head)
        return FL_FILE_TRUNCATED;
    memcpy(head, bytes, sizeof *head);
    if (head->order != ORDER)
        return head->order == OTHER_ORDER ? FL_FILE_ENDIAN : FL_FILE_DAMAGED;
    if (head->version != FILE_VERSION)
        return FL_FILE_VERSION;
    if (head->bytes < 0 || (uint64_t)head->bytes != number)
        return FL_FILE_TRUNCATED;
    if (head->checksum != checksum_of(bytes, number))
        return FL_FILE_CHECKSUM;
    return FL_OK;
}

/* ---- what the head says ---------------------------------------------------------------------------- */

static int is_size(int64_t value)
{
    return value >= 1 && value <= MOST_VALUES;
}

static int is_head_right(const fl_file *file)
{
    const fl_head *head = &file->head;
    return (head->itemsize == 4 || head->itemsize == 8) && head->nodes >= 1 && head->nodes <= MOST_NODES
        && head->arrays <= MOST_ARRAYS && is_size(head->input) && is_size(head->output) && head->indices <= 1
        && (!head->indices || head->input == 1) && !head->zero && isfinite(head->sample_rate) && head->sample_rate >= 0
        && !signbit(head->sample_rate) && head->bytes % WHOLE == 0 && text_at(head) <= head->bytes
        && head->text == text_at(head) && head->text_bytes >= 0 && head->text_bytes <= head->bytes - head->text
        && are_zeros(head->zeros, sizeof head->zeros);
}

/* ---- what the records say -------------------------------------------------------------------------- */

/* How far the check has come. */
typedef struct {
    fl_file *file;
    int64_t array, place;                       /* the next array's number, and where it begins if it is there */
    int64_t node;                               /* the next node, which gives value node + 1 */
    unsigned char one_step[MOST_NODES / 8 + 1]; /* for each value, a bit: whether it has one step */
} check;

/* a b, or INT64_MAX if that is more. Neither is negative. */
static int64_t times(int64_t a, int64_t b)
{
    return a && b > INT64_MAX / a ? INT64_MAX : a * b;
}

/* Whether an array may be there. */
typedef enum { NEVER, MAYBE, ALWAYS } presence;

/* The next array has rows * columns values, or is not there. */
static int check_array(check *c, presence there, int64_t rows, int64_t columns)
{
    const fl_head *head = &c->file->head;
    const array_record array = array_of(c->file, c->array++);
    if (!array.at && !array.bytes)
        return there != ALWAYS;
    const int64_t bytes = times(times(rows, columns), head->itemsize), left = head->bytes - c->place;
    if (there == NEVER || array.at != c->place || array.bytes != bytes || bytes > left)
        return 0;
    const int64_t end = c->place + bytes;
    c->place = fl_up(end, WHOLE); /* The size of the file is a multiple, too. */
    return is_padding(c->file, end, c->place);
}

static int has_one_step(const check *c, uint32_t value)
{
    return c->one_step[value / 8] >> value % 8 & 1;
}

/* How many values a step of a value has. */
static int64_t width_of(const check *c, uint32_t value)
{
    return value ? fl_node_of(c->file, (int64_t)value - 1).O : c->file->head.input;
}

static int is_function_right(int64_t function, double alpha, double beta)
{
    const int uses_both = function == FL_AFFINE || function == FL_SCALED_TANH || function == FL_HARD_SIGMOID;
    const int uses_alpha = uses_both || function == FL_LEAKY_RELU || function == FL_THRESHOLDED_RELU
        || function == FL_ELU;
    return function >= FL_SIGMOID && function <= FL_SOFTPLUS && isfinite(alpha) && isfinite(beta)
        && (uses_alpha || alpha == 0) && (uses_both || beta == 0);
}

static int is_probability(double value)
{
    return value >= 0 && value <= 1;
}

static int are_options_right(const fl_node *node)
{
    fl_options o;
    fl_shape_of(node, 4, &o);
    return o.gate_clip > 0 && o.cell_clip > 0 && o.proj_clip > 0
        && is_function_right(o.gate.function, o.gate.alpha, o.gate.beta)
        && is_function_right(o.cell.function, o.cell.alpha, o.cell.beta)
        && is_function_right(o.output.function, o.output.alpha, o.output.beta) && is_probability(o.zoneout_h)
        && is_probability(o.zoneout_c);
}

static int check_lstm(check *c, const fl_node *node)
{
    const int64_t *whole = node->whole, layers = whole[LAYERS], directions = whole[DIRECTIONS], H = whole[HIDDEN];
    if (!is_size(layers) || directions < 1 || directions > 2 || !is_size(H) || node->O % directions)
        return 0;
    const int64_t cells = layers * directions, P = node->O / directions, gates = 4 * H;
    if (whole[REVERSE] < 0 || whole[REVERSE] > (directions == 1) || whole[GENERAL] < 0 || whole[GENERAL] > 1
        || whole[COUPLED] < 0 || whole[COUPLED] > FL_I_FROM_F || whole[LAYER_NORM] < 0
        || whole[LAYER_NORM] > FL_NORM_SUMS || whole[FUNCTIONS] < 0 || whole[FUNCTIONS] >= 1 << 24)
        return 0;
    const int general = whole[GENERAL] == 1;
    if (general ? !are_options_right(node)
                : !are_zeros(&whole[COUPLED], 3 * sizeof *whole) || !are_zeros(node->numbers, sizeof node->numbers))
        return 0;
    if (node->arrays != cells * CELL_ARRAYS + 2)
        return 0;
    const presence peephole = general ? MAYBE : NEVER, projection = P == H ? NEVER : ALWAYS;
    const presence gates_norm = whole[LAYER_NORM] == FL_NORM_GATES ? ALWAYS : NEVER;
    const presence sums_norm = whole[LAYER_NORM] == FL_NORM_SUMS ? ALWAYS : NEVER;
    int right = 1;
    for (int64_t cell = 0; cell < cells && right; cell++)
        right = check_array(c, ALWAYS, gates, cell < directions ? node->I : node->O) && check_array(c, ALWAYS, gates, P)
            && check_array(c, MAYBE, gates, 1) && check_array(c, projection, P, H) && check_array(c, peephole, H, 1)
            && check_array(c, peephole, H, 1) && check_array(c, peephole, H, 1) && check_array(c, gates_norm, gates, 1)
            && check_array(c, sums_norm, gates, 1) && check_array(c, sums_norm, gates, 1)
            && check_array(c, sums_norm, H, 1) && check_array(c, sums_norm, H, 1);
    if (directions == 2 || whole[REVERSE])
        c->file->steps = 0;
    return right && check_array(c, MAYBE, cells, P) && check_array(c, MAYBE, cells, H);
}

static int check_convolution(check *c, const fl_node *node)
{
    const int64_t *whole = node->whole;
    for (int n = LENGTH; n <= STRIDE; n++)
        if (!is_size(whole[n]))
            return 0;
    const int64_t kernel = whole[KERNEL], padding = whole[PADDING];
    if (padding < 0 || padding >= kernel)
        return 0;
    const int64_t padded = whole[LENGTH] + 2 * padding;
    return padded >= kernel && whole[LENGTH_OUT] == (padded - kernel) / whole[STRIDE] + 1
        && node->I == whole[LENGTH] * whole[CHANNELS] && node->O == whole[LENGTH_OUT] * whole[CHANNELS_OUT]
        && check_array(c, ALWAYS, times(whole[CHANNELS_OUT], kernel), whole[CHANNELS])
        && check_array(c, MAYBE, whole[CHANNELS_OUT], 1);
}

/* What the kinds have: whole numbers, numbers and arrays (an LSTM has as many as its layers say). */
static const struct {
    unsigned char whole, numbers, arrays;
} kinds[] = {
    [NODE_LSTM] = {8, 11, 0},       [NODE_EMBEDDING] = {1, 0, 1},   [NODE_LINEAR] = {0, 0, 2},
    [NODE_ACTIVATION] = {1, 2, 0},  [NODE_SUM] = {0, 0, 0},         [NODE_JOIN] = {0, 0, 0},
    [NODE_STANDARDIZE] = {0, 0, 2}, [NODE_RESTORE] = {0, 0, 2},     [NODE_LAST] = {1, 0, 0},
    [NODE_SELECT] = {1, 0, 0},      [NODE_CONVOLUTION] = {7, 0, 2}, [NODE_MAGNITUDE] = {2, 0, 0},
};

/* What all kinds have in common: the values that the node takes, and that what it has no use for is 0. */
static int is_record_right(const check *c, const fl_node *node)
{
    if (node->kind < NODE_LSTM || node->kind > NODE_MAGNITUDE || node->zero || !is_size(node->I) || !is_size(node->O))
        return 0;
    const int whole = kinds[node->kind].whole, numbers = kinds[node->kind].numbers;
    const int takes_two = node->kind == NODE_SUM || node->kind == NODE_JOIN;
    if (!are_zeros(node->whole + whole, (9 - whole) * (int64_t)sizeof *node->whole)
        || !are_zeros(node->numbers + numbers, (12 - numbers) * (int64_t)sizeof *node->numbers))
        return 0;
    if ((node->kind != NODE_LSTM && node->arrays != kinds[node->kind].arrays) || node->first_array != c->array
        || node->arrays > c->file->head.arrays - c->array)
        return 0;
    const int indices = c->file->head.indices == 1;
    for (int n = 0; n < 1 + takes_two; n++)
        if (node->value[n] > c->node || (indices && !node->value[n] && node->kind != NODE_EMBEDDING))
            return 0;
    if (!takes_two && node->value[1])
        return 0;
    return node->I == width_of(c, node->value[0]);
}

static int check_node(check *c, const fl_node *node)
{
    if (!is_record_right(c, node))
        return 0;
    const int64_t I = node->I, O = node->O, *whole = node->whole;
    const int one_step = has_one_step(c, node->value[0]);
    switch (node->kind) {
    case NODE_LSTM: return !one_step && check_lstm(c, node);
    case NODE_EMBEDDING:
        return c->file->head.indices && !node->value[0] && is_size(whole[0]) && check_array(c, ALWAYS, whole[0], O);
    case NODE_LINEAR: return check_array(c, ALWAYS, O, I) && check_array(c, MAYBE, O, 1);
    case NODE_ACTIVATION:
        if (whole[0] == SOFTMAX)
            return I == O && node->numbers[0] == 0 && node->numbers[1] == 0;
        return I == O && is_function_right(whole[0], node->numbers[0], node->numbers[1]);
    case NODE_SUM:
    case NODE_JOIN: {
        const int64_t other = width_of(c, node->value[1]);
        return one_step == has_one_step(c, node->value[1])
            && (node->kind == NODE_SUM ? I == O && other == O : I + other == O);
    }
    case NODE_STANDARDIZE:
    case NODE_RESTORE: return I == O && check_array(c, ALWAYS, I, 1) && check_array(c, ALWAYS, I, 1);
    case NODE_LAST:
        if (whole[0])
            c->file->steps = 0;
        return I == O && !one_step && whole[0] >= 0 && whole[0] <= I;
    case NODE_SELECT: return whole[0] >= 0 && whole[0] <= I - O;
    case NODE_CONVOLUTION: return check_convolution(c, node);
    case NODE_MAGNITUDE:
        return is_size(whole[MAGNITUDE_LENGTH]) && is_size(whole[MAGNITUDES])
            && O == whole[MAGNITUDE_LENGTH] * whole[MAGNITUDES] && I == 2 * O;
    }
    return 0;
}

/* Whether all records, the text's place and all arrays are right, and nothing else is there. */
static int check_records(fl_file *file)
{
    const fl_head *head = &file->head;
    check c = {.file = file, .place = fl_up(head->text + head->text_bytes, WHOLE)};
    if (!is_padding(file, nodes_at() + (int64_t)head->nodes * (int64_t)sizeof(fl_node), arrays_at(head))
        || !is_padding(file, arrays_at(head) + (int64_t)head->arrays * ARRAY_BYTES, head->text)
        || !is_padding(file, head->text + head->text_bytes, c.place))
        return 0;
    for (; c.node < head->nodes; c.node++) {
        const fl_node node = fl_node_of(file, c.node);
        if (!check_node(&c, &node))
            return 0;
        const uint32_t value = (uint32_t)c.node + 1;
        file->last = node.kind == NODE_LAST || has_one_step(&c, node.value[0]);
        c.one_step[value / 8] |= (unsigned char)(file->last << value % 8);
    }
    return c.array == head->arrays && c.place == head->bytes && width_of(&c, head->nodes) == head->output;
}

fl_status fl_check_file(const void *bytes, size_t number, fl_file *file)
{
    if (!bytes)
        return FL_NULL;
    if ((uintptr_t)bytes % 8)
        return FL_BAD_ALIGNMENT;
    *file = (fl_file){.bytes = bytes, .steps = 1};
    const fl_status status = check_bytes(bytes, number, &file->head);
    if (status)
        return status;
    return is_head_right(file) && check_records(file) ? FL_OK : FL_FILE_DAMAGED;
}
