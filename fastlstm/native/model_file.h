/* The file of a model, docs/reference/fl_format.md: what is where in its bytes. */

#ifndef FASTLSTM_MODEL_FILE_H
#define FASTLSTM_MODEL_FILE_H

#include "internal.h"

/* The kinds of nodes, and what their whole numbers are. */
enum {
    NODE_LSTM = 1,
    NODE_EMBEDDING,
    NODE_LINEAR,
    NODE_ACTIVATION,
    NODE_SUM,
    NODE_JOIN,
    NODE_STANDARDIZE,
    NODE_RESTORE,
    NODE_LAST,
    NODE_SELECT,
    NODE_CONVOLUTION,
    NODE_MAGNITUDE,
};
enum { LAYERS, DIRECTIONS, HIDDEN, REVERSE, GENERAL, COUPLED, LAYER_NORM, FUNCTIONS };
enum { LENGTH, CHANNELS, LENGTH_OUT, CHANNELS_OUT, KERNEL, STRIDE, PADDING };
enum { MAGNITUDE_LENGTH, MAGNITUDES };
enum { SOFTMAX = 256 /* beside the numbers of fl_activation */ };

/* The twelve arrays of fl_arrays, of each layer in each direction. */
enum { CELL_ARRAYS = 12 };

/* A node's record, as it lies in the file. */
typedef struct {
    uint32_t kind, value[2], first_array, arrays, zero;
    int64_t I, O, whole[9];
    double numbers[12];
} fl_node;

/* The head of the file, likewise. */
typedef struct {
    unsigned char magic[8];
    uint32_t order, version;
    int64_t bytes;
    uint32_t checksum, itemsize, nodes, arrays;
    int64_t input, output;
    uint32_t indices, zero;
    double sample_rate;
    int64_t text, text_bytes;
    unsigned char zeros[40];
} fl_head;

/* A file that has been checked. */
typedef struct {
    const unsigned char *bytes;
    fl_head head;
    int steps; /* whether the model can run step by step */
    int last;  /* whether it gives one step */
} fl_file;

/* Check all of the file. */
fl_status fl_check_file(const void *bytes, size_t number, fl_file *file);

/* Of a file that has been checked: node n; the k-th array of a node, NULL if it is not there. */
fl_node fl_node_of(const fl_file *file, int64_t n);
const void *fl_array_of(const fl_file *file, const fl_node *node, int64_t k);

/* Of an LSTM: its sizes, which point to the options, if there are any. */
fl_shape fl_shape_of(const fl_node *node, int32_t itemsize, fl_options *options);

/* The arrays of one of its cells. They are only read. */
fl_arrays fl_arrays_of(const fl_file *file, const fl_node *node, int64_t cell);

#endif
