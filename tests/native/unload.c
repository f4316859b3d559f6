/* A library that is unloaded right after its threads have worked, as that of a plugin is: the program goes on, and
none of the threads is left.

    unload LIBRARY */

#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fastlstm.h"

enum { N = 512, TIMES = 3, PATIENCE = 1000, PAUSE = 10000 /* microseconds */ };

static void demand(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "%s\n", what);
        exit(1);
    }
}

/* How many threads this process has; 1 where nothing tells. */
static int threads(void)
{
    int count = -2; /* of "." and ".." */
    DIR *tasks = opendir("/proc/self/task");
    if (!tasks)
        return 1;
    while (readdir(tasks))
        count++;
    closedir(tasks);
    return count;
}

/* Multiply with two threads. */
static void work(void *library)
{
    /* POSIX has functions and objects in the same type of pointer, and C has not. */
#define FIND(name) \
    __typeof__(name) *name##_; \
    *(void **)(void *)&name##_ = dlsym(library, #name); \
    demand(name##_ != NULL, "the library lacks " #name)
    FIND(fl_isa);
    FIND(fl_linear_bytes);
    FIND(fl_pack_linear);
    FIND(fl_run_linear);
    float *w = calloc(N * N, sizeof *w), *y = calloc(N * N, sizeof *y);
    const int isa = fl_isa_(NULL);
    const size_t size = fl_linear_bytes_(sizeof *w, N, N, isa);
    void *memory = aligned_alloc(64, size);
    fl_linear *linear;
    demand(!fl_pack_linear_(memory, size, sizeof *w, N, N, isa, w, NULL, &linear), "it is not packed");
    const fl_linear_call call = {.struct_size = sizeof call,
                                 .x = w,
                                 .y = y,
                                 .x_stride = N * sizeof *w,
                                 .y_stride = N * sizeof *y,
                                 .rows = N,
                                 .threads = 2};
    demand(!fl_run_linear_(linear, &call), "it does not run");
    free(memory);
    free(w);
    free(y);
}

int main(int argc, char **argv)
{
    for (int n = 0; argc > 1 && n < TIMES; n++) {
        void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        demand(library != NULL, "the library is not found");
        work(library);
        demand(access("/proc/self/task", R_OK) || threads() == 2, "no thread has come");
        if (n) /* so that they sleep; the first time they are still awake */
            usleep(PAUSE);
        demand(!dlclose(library), "it is not closed");
        for (int pauses = 0; threads() > 1; pauses++) { /* One that has ended may be seen for a moment. */
            demand(pauses < PATIENCE, "a thread is left");
            usleep(PAUSE);
        }
    }
    puts("unloaded");
    return 0;
}
