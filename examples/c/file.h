/* Whole files in memory, models from them, and the time. In C11 and in C++17. */

#ifndef FILE_H
#define FILE_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "fastlstm.h"

/* Say what is wrong with a file, and end the program. */
static inline void fail(const char *path, const char *why)
{
    fprintf(stderr, "%s: %s\n", path, why);
    exit(1);
}

/* Memory as fastlstm wants it. The programs here keep it until they end. */
static inline void *allocate(size_t size)
{
#ifdef _WIN32
    void *memory = _aligned_malloc(size, 64);
#else
    void *memory = aligned_alloc(64, (size + 63) / 64 * 64);
#endif
    if (!memory && size)
        fail("memory", "there is not enough");
    return memory;
}

/* The bytes of a file. */
static inline void *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        fail(path, "cannot be opened");
    const long end = ftell(file);
    if (end < 0 || fseek(file, 0, SEEK_SET))
        fail(path, "cannot be read");
    *size = (size_t)end;
    void *bytes = allocate(*size);
    if (fread(bytes, 1, *size, file) != *size)
        fail(path, "cannot be read");
    fclose(file);
    return bytes;
}

/* The model in a file, and what it is. */
static inline fl_model *read_model(const char *path, fl_model_info *info)
{
    size_t number;
    const void *bytes = read_file(path, &number);
    const int isa = fl_isa(NULL); /* the best that this machine has */
    const size_t size = fl_model_bytes(bytes, number, isa);
    fl_model *model;
    fl_status status = fl_model_load(bytes, number, isa, allocate(size), size, &model);
    if (status == FL_OK) {
        info->struct_size = sizeof *info;
        status = fl_model_describe(model, info);
    }
    if (status != FL_OK)
        fail(path, fl_error_string(status));
    return model;
}

/* A session of one sequence, whose runs are of at most so many steps. */
static inline fl_session *make_session(const fl_model *model, int64_t most_steps)
{
    const size_t size = fl_session_bytes(model, 1, most_steps);
    fl_session *session;
    const fl_status status = fl_session_make(allocate(size), size, model, 1, most_steps, &session);
    if (status != FL_OK)
        fail("session", fl_error_string(status));
    return session;
}

/* Seconds for which this program has kept a core busy. (On Windows: for which it has run.) */
static inline double now(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

#endif
