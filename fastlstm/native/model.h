/* A model that is ready to run, as model.c makes it and session.c runs it. */

#ifndef FASTLSTM_MODEL_H
#define FASTLSTM_MODEL_H

#include "model_file.h"

/* A node of the file, ready to run. Value 0 is what goes into the model, and value n + 1 what node n gives. */
typedef struct {
    int32_t kind;
    int32_t value[2]; /* those that it takes */
    int32_t one_step; /* whether they have one step each, and not all */
    int32_t is_view;  /* whether what it gives is a part of what it takes, which stays where it is */
    int32_t root;     /* the value in which what it gives lies: its own, unless it is a view */
    int32_t last_use; /* the last node that takes a value with this root */
    int32_t slot;     /* the memory of what it gives; -1 for views, and for the last node, which fills y */
    int64_t I, O;
    union {
        struct {
            const fl_stack *stack;
            const void *h_0, *c_0;   /* (cells, P) and (cells, H), NULL: zeros */
            int32_t reverse, number; /* its number among the LSTMs */
        } lstm;
        struct {
            const char *table;
        } embedding;
        struct {
            const fl_linear *linear;
            int64_t length, channels, length_out, stride, padding; /* of a convolution */
        } product;
        int64_t n; /* of NODE_SELECT and NODE_LAST */
        fl_map map;
    } of;
} fl_operation;

/* Memory for values that are not alive at the same time: of one with all steps or of one with one step, so many values
for each row of it. */
typedef struct {
    int64_t all, one;
    int32_t is_free; /* while the model is loaded */
} fl_slot;

struct fl_model {
    const fl_kernels *kernels;
    fl_model_info info;
    int64_t rows; /* indices are below this: the least rows that an embedding has */
    int32_t operations, slots, lstms;
    fl_slot *slot;
    fl_operation operation[]; /* slots and packed weights follow in the same memory */
};

#endif
