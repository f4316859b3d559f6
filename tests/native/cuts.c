/* What cut.c decides, and the time that its model gives, in nanoseconds. Each line of the input is one question, and is
answered by a line:

    MACHINE STACK CALL forward            threads groups teams seats shares inputs_first ns
                                        of the cut that is chosen
    MACHINE STACK CALL forward CUT        ns of this cut, told as above
    MACHINE STACK CALL back               threads groups shares ns
    MACHINE STACK CALL back CUT           ns of this cut
    MACHINE INPUTS OUTPUTS ROWS THREADS linear    threads panels blocks parts
    THREADS meeting                               ns of a meeting, and of handing a run over

MACHINE is L1 L2 L3 SHARERS LANES TILE BYTES, STACK is LAYERS DIRECTIONS I H P KIND NORM, and CALL is STEPS BATCH ROWS
THREADS TAPE. It needs cut.c alone, whose inner functions it calls. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cut.c"

static double time_of(const fl_stack *stack, const fl_call *call, int64_t rows, const fl_cut *cut)
{
    const run_sizes run = run_sizes_of(stack, call, rows);
    const int panels = most_of(stack->shape.hidden, stack->kernels->lanes);
    const group_sizes group = group_of(&run, most_of(call->batch, cut->groups));
    const share_sizes share = share_of(&run, cut->seats, most_of(panels, cut->seats));
    const int seats = cut->groups * cut->teams * cut->seats, threads = cut->inputs_first ? seats : cut->threads;
    const double ns = run_ns(&run, cut->teams, threads, most_of(seats, threads), &group, &share);
    return cut->inputs_first ? first_ns(&run, ns, cut->teams, threads, cut->threads, &group, &share) : ns;
}

static double back_time_of(const fl_stack *stack, const fl_call *call, int64_t rows, const fl_back_cut *cut)
{
    const int panels = most_of(stack->shape.hidden, stack->kernels->lanes);
    const group_sizes group = back_group_of(call, rows, most_of(call->batch, cut->groups));
    const share_sizes share = back_share_of(cut->shares, most_of(panels, cut->shares));
    return back_ns(stack, rows, call->steps, cut->threads, cut->groups * cut->shares, &group, &share);
}

/* A pointer, so that it is called and not compiled into the function that calls it: a tool counts its instructions. */
static fl_cut (*volatile choose)(const fl_stack *stack, const fl_call *call, int64_t rows) = fl_cut_of;

static void answer(const int64_t *n, const char *question, const int *own, int numbers)
{
    const fl_kernels kernels = {.lanes = (int)n[4], .tile = (int)n[5], .weight_bytes = (int)n[6]};
    fl_stack *stack = calloc(1, sizeof(fl_stack) + sizeof(fl_cell));
    stack->caches = (fl_caches){n[0], n[1], n[2], (int32_t)n[3]};
    stack->kernels = &kernels;
    stack->shape = (fl_shape){.itemsize = (int32_t)n[6],
                              .layers = (int32_t)n[7],
                              .directions = (int32_t)n[8],
                              .input = n[9],
                              .hidden = n[10],
                              .output = n[11]};
    stack->cells->kind = n[12] ? FL_GENERAL : FL_PLAIN;
    stack->options.layer_norm = (int32_t)n[13];
    const fl_call call = {.steps = n[14], .batch = n[15], .threads = (int32_t)n[17], .tape = n[18] ? stack : NULL};
    if (question[0] == 'f') {
        fl_cut cut = {own[0], own[1], own[2], own[3], own[4], own[5]};
        if (!numbers)
            cut = choose(stack, &call, n[16]);
        if (!numbers)
            printf("%d %d %d %d %d %d ", cut.threads, cut.groups, cut.teams, cut.seats, cut.shares, cut.inputs_first);
        printf("%.0f\n", time_of(stack, &call, n[16], &cut));
    } else {
        fl_back_cut cut = {own[0], own[1], own[2]};
        if (!numbers)
            cut = fl_back_cut_of(stack, &call, n[16]);
        if (!numbers)
            printf("%d %d %d ", cut.threads, cut.groups, cut.shares);
        printf("%.0f\n", back_time_of(stack, &call, n[16], &cut));
    }
    free(stack);
}

int main(void)
{
    char line[512];
    while (fgets(line, sizeof line, stdin)) {
        int64_t n[19];
        int found = 0, own[6] = {0};
        char *at = line, *end;
        for (; found < 19 && (n[found] = strtoll(at, &end, 10), end != at); found++)
            at = end;
        char question[8] = "";
        int length = 0;
        sscanf(at, "%7s%n", question, &length);
        int numbers = sscanf(at + length, "%d %d %d %d %d %d", &own[0], &own[1], &own[2], &own[3], &own[4], &own[5]);
        if (found == 1)
            printf("%.0f %.0f\n", meeting_ns((int)n[0]), start_ns((int)n[0]));
        else if (found == 11 && question[0] == 'l') {
            const fl_kernels kernels = {.lanes = (int)n[4], .weight_bytes = (int)n[6]};
            const fl_linear linear = {.kernels = &kernels, .inputs = n[7], .outputs = n[8]};
            const fl_linear_call call = {.rows = n[9], .threads = (int32_t)n[10]};
            const fl_linear_cut cut = fl_linear_cut_of(&linear, &call);
            printf("%d %" PRId64 " %" PRId64 " %" PRId64 "\n", cut.threads, cut.panels, cut.blocks, cut.parts);
        } else if (found == 19)
            answer(n, question, own, numbers > 0 ? numbers : 0);
        else
            return 1;
        fflush(stdout);
    }
    return 0;
}
