/* Running a stack over groups of sequences, layers, directions and threads.

A run is one call of `fl_together`. Each group of sequences goes through all layers by itself, and the threads of a
group are one team or several, as `fl_cut` says. A thread has a place of its own, a seat in a team of a group, which is
the same in every call, so that the core finds the weights in its caches. But nobody waits for a thread that has not
come: seats are taken, and a thread that is through with its own takes others that nobody has. */

#include "internal.h"
#include "modes.h"

/* How many pieces of the products of inputs there are for each thread. */
#define PIECES_EACH 2

/* One run, as all its threads see it, and what lies where in its scratch memory: what a layer hands to the next, then
the scratch memory of each team, the teams and their seats. */
typedef struct {
    const fl_stack *stack;
    const fl_call *call; /* or, if it tells the sizes of batches that are all the same, `even`, which does not */
    fl_call even;
    fl_cut cut;
    fl_split split, first_split; /* of tasks, and of the first of a team if it has inputs of the whole stack */
    int64_t rows;
    int alone;        /* whether one thread has it all */
    int by_layers;    /* whether each layer has a team */
    fl_tape tapes[2]; /* of each direction, if the run is recorded */
    int arrays;       /* that layers hand to the next: two, in turn, are enough if they run one after the other */
    int pieces;       /* of the products of inputs, if these come first */
    int64_t array_size, task_size, team_size, inputs_size, tasks, teams, inputs, seats;
    fl_stop *stop; /* NULL: it cannot be stopped */
} stack_run;

/* ---- what lies where ----------------------------------------------------------------------------- */

int64_t fl_rows_of(const fl_call *call)
{
    if (!call->batch_sizes)
        return call->steps * call->batch;
    int64_t rows = 0;
    for (int64_t t = 0; t < call->steps; t++)
        rows += call->batch_sizes[t];
    return rows;
}

int64_t fl_place_tape(fl_tape *tape, const fl_stack *stack, const fl_call *call, int64_t rows, int direction)
{
    const fl_shape *s = &stack->shape;
    int64_t lanes = stack->kernels->lanes, units = fl_up(s->hidden, lanes);
    /* An interval longer than the call means the same as one of its length, and does not overflow. */
    int64_t interval = call->checkpoint_interval < call->steps ? call->checkpoint_interval : call->steps;
    int64_t segments = interval ? (call->steps + interval - 1) / interval : 1;
    int64_t values = fl_saved_values(&stack->cells[direction]);
    int64_t panel_rows = interval ? 0 : fl_panel_rows(rows, values * lanes * s->itemsize);
    int64_t counts[] = {call->batch * s->output, segments * units * call->batch, panel_rows * units * values,
                        panel_rows * units};
    int64_t at[5] = {0};
    for (int n = 0; n < 4; n++)
        at[n + 1] = at[n] + fl_up(counts[n] * s->itemsize, 64);
    const void *begin = fl_offset(call->tape, direction * at[4]);
    *tape = (fl_tape){
        .h = fl_offset(begin, 0), .states = fl_offset(begin, at[1]), .interval = interval, .panel_rows = panel_rows};
    if (panel_rows) {
        tape->gates = fl_offset(begin, at[2]);
        tape->cells = fl_offset(begin, at[3]);
    }
    return at[4] * s->directions;
}

int64_t fl_tape_bytes_of(const fl_stack *stack, const fl_call *call)
{
    fl_tape tape;
    return fl_place_tape(&tape, stack, call, fl_rows_of(call), 0);
}

size_t fl_tape_bytes(const fl_stack *stack, const fl_call *given)
{
    fl_call own;
    fl_status status;
    const fl_call *call = WITH_TRAINING && stack && stack->shape.layers == 1
        ? fl_check_work(stack, given, &own, &status)
        : NULL;
    return call ? fl_size(fl_tape_bytes_of(stack, call)) : 0;
}

/* The bytes from row to row of what one layer hands to the next. Rows at a multiple of 256 bytes would share few
places of the cache. */
static int64_t between_stride(const fl_stack *stack)
{
    int64_t stride = stack->shape.directions * stack->shape.output * stack->shape.itemsize;
    return stride % 256 ? stride : stride + 64;
}

/* The first sequence of a group. A step of a stream has one group, and does without the call. */
static int64_t first_sequence(const stack_run *run, int group)
{
    if (run->cut.groups == 1)
        return group ? run->call->batch : 0;
    return fl_first_sequence(run->call, run->rows, run->cut.groups, group);
}

/* One thread takes so many sequences at once, or more, if their rows have room in half of its second-level cache. */
enum { LEAST_TOGETHER = 64 };

/* How one thread does it all: many sequences group by group, so that a group's rows [x | h], which all panels read, stay
in its second-level cache. 1000 sequences of 128,128 take 5 % less time step by step, and 12 % less in runs of 20 [AMD
Zen 3]. */
static fl_cut alone_cut(const fl_stack *stack, const fl_call *call)
{
    fl_cut cut = {.threads = 1, .groups = 1, .teams = 1, .seats = 1, .shares = 1};
    if (call->batch < 2 * LEAST_TOGETHER)
        return cut;
    const fl_shape *s = &stack->shape;
    const int64_t inputs = s->layers > 1 && s->directions * s->output > s->input ? s->directions * s->output : s->input;
    const int64_t together = stack->caches.l2 / 2 / ((2 * (inputs + s->output) + s->hidden) * s->itemsize);
    if (together >= LEAST_TOGETHER)
        cut.groups = (int32_t)((call->batch + together - 1) / together);
    return cut;
}

static void prepare(stack_run *run, const fl_stack *stack, const fl_call *call)
{
    const fl_shape *s = &stack->shape;
    run->stack = stack;
    if (call->batch_sizes && call->batch_sizes[call->steps - 1] == call->batch) {
        run->even = *call;
        run->even.batch_sizes = NULL;
        call = &run->even;
    }
    run->call = call;
    run->rows = fl_rows_of(call);
    /* A step of a small layer is so short that asking the model would show. */
    run->cut = call->cut && WITH_THREADS ? *call->cut
        : call->threads < 2              ? alone_cut(stack, call)
                                         : fl_cut_of(stack, call, run->rows);
    run->by_layers = run->cut.teams > 1 && s->directions == 1;
    run->alone = run->cut.threads == 1 && run->cut.teams == 1 && run->cut.shares == 1 && !run->cut.inputs_first;
    for (int direction = 0; call->tape && direction < s->directions; direction++)
        fl_place_tape(&run->tapes[direction], stack, call, run->rows, direction);
    run->arrays = run->by_layers || s->layers < 3 ? s->layers - 1 : 2;
    run->array_size = run->arrays ? fl_up(run->rows * between_stride(stack), 64) : 0;
    run->tasks = run->arrays * run->array_size;
}

/* The bytes of scratch memory of one task. Layers above the second need as many as the second, and where all steps
have all sequences, the first and the last group are the smallest and the largest. */
static int64_t task_size(const stack_run *run)
{
    const fl_shape *s = &run->stack->shape;
    const int groups = run->cut.groups, step = run->call->batch_sizes || groups < 3 ? 1 : groups - 1;
    int64_t most = 0;
    for (int layer = 0; layer < s->layers && layer < 2; layer++)
        for (int group = 0; group < groups; group += step) {
            const fl_task task = {
                .cell = &run->stack->cells[layer * s->directions],
                .index = run->call->index,
                .table = layer ? NULL : run->call->table,
                .batch_sizes = run->call->batch_sizes,
                .steps = run->call->steps,
                .batch = run->call->batch,
                .sequences = first_sequence(run, group + 1) - first_sequence(run, group),
                .shares = run->cut.shares,
                .split = run->alone ? NULL
                    : layer         ? &run->split
                                    : &run->first_split,
                .noise = run->call->noise,
            };
            const int64_t size = run->stack->kernels->scratch_bytes(&task);
            if (most < size)
                most = size;
        }
    return most;
}

/* Find out how threads share the run, and return the bytes of all its scratch memory. */
static int64_t prepare_teams(stack_run *run)
{
    const int64_t teams = run->cut.groups * run->cut.teams;
    run->split = (fl_split){
        .seats = run->cut.seats,
        .most_hoisted = run->by_layers ? STEPS_BEHIND : run->call->steps,
    };
    run->first_split = run->split;
    run->first_split.inputs_first = run->cut.inputs_first;
    run->task_size = task_size(run);
    run->team_size = fl_up(fl_team_bytes(run->cut.shares), 64);
    /* So many that a thread that comes late finds some left. */
    run->pieces = run->cut.inputs_first ? PIECES_EACH * (run->cut.threads + run->cut.groups - 1) / run->cut.groups : 0;
    run->inputs_size = run->pieces ? fl_up(fl_team_bytes(run->pieces), 64) : 0;
    run->teams = run->tasks + teams * run->task_size;
    run->inputs = run->teams + teams * run->team_size;
    run->seats = run->inputs + teams * run->inputs_size;
    return run->seats + teams * run->cut.seats * (int64_t)sizeof(fl_line);
}

/* The bytes of all its scratch memory; it is ready to run then. */
static int64_t prepare_scratch(stack_run *run)
{
    const fl_call *call = run->call;
    if (call->steps == 1 && call->batch == 1 && run->alone && !call->noise && !call->table && !call->index
        && run->stack->step_bytes)
        return run->stack->step_bytes;
    return run->alone || !WITH_THREADS ? run->tasks + task_size(run) : prepare_teams(run);
}

int64_t fl_scratch_bytes_of(const fl_stack *stack, const fl_call *call)
{
    stack_run run;
    prepare(&run, stack, call);
    return prepare_scratch(&run);
}

size_t fl_scratch_bytes(const fl_stack *stack, const fl_call *given)
{
    fl_call own;
    fl_status status;
    const fl_call *call = stack ? fl_check_work(stack, given, &own, &status) : NULL;
    return call ? fl_size(fl_scratch_bytes_of(stack, call)) : 0;
}

static fl_team *team_of(const stack_run *run, int group, int team)
{
    return (fl_team *)((char *)run->call->scratch + run->teams + (group * run->cut.teams + team) * run->team_size);
}

/* Those that make the products of inputs of a team of the first layer, if these come first: it is one phase. */
static fl_team *inputs_of(const stack_run *run, int group, int team)
{
    return (fl_team *)((char *)run->call->scratch + run->inputs + (group * run->cut.teams + team) * run->inputs_size);
}

/* Of each seat of a team, for how many of its tasks somebody sits or sat down. */
static fl_line *seats_of(const stack_run *run, int group, int team)
{
    return (fl_line *)((char *)run->call->scratch + run->seats)
        + (int64_t)(group * run->cut.teams + team) * run->cut.seats;
}

static void make_teams(const stack_run *run)
{
    for (int group = 0; group < run->cut.groups; group++)
        for (int team = 0; team < run->cut.teams; team++) {
            fl_make_team(team_of(run, group, team), run->cut.seats, run->cut.shares);
            if (run->cut.inputs_first)
                fl_make_team(inputs_of(run, group, team), run->pieces / PIECES_EACH, run->pieces);
            memset(seats_of(run, group, team), 0, run->cut.seats * sizeof(fl_line));
        }
}

/* ---- one task -------------------------------------------------------------------------------------- */

static fl_task task_of(const stack_run *run, int layer, int direction, int group, int is_caller)
{
    const fl_call *call = run->call;
    const fl_shape *s = &run->stack->shape;
    int cell = layer * s->directions + direction;
    int team = run->by_layers ? layer : run->cut.teams > 1 ? direction : 0;
    char *scratch = call->scratch;
    int64_t first = first_sequence(run, group);
    const int64_t states = cell * (call->index ? call->states : call->batch); /* of the cells before this one */
    const int is_first = layer == 0 && direction < run->cut.teams;
    fl_task task = {
        .cell = &run->stack->cells[cell],
        .x = call->x,
        .x_stride = fl_stride(call->x_stride, run->rows),
        .y = call->y,
        .y_stride = fl_stride(call->y_stride, run->rows),
        .h = (char *)call->h + states * s->output * s->itemsize,
        .c = (char *)call->c + states * s->hidden * s->itemsize,
        .batch_sizes = call->batch_sizes,
        .steps = call->steps,
        .batch = call->batch,
        .rows = run->rows,
        .first_sequence = first,
        .sequences = first_sequence(run, group + 1) - first,
        .split = run->alone ? NULL
            : is_first      ? &run->first_split
                            : &run->split,
        .reverse = direction || call->reverse,
        .parity = call->parity,
        .shares = run->cut.shares,
        .is_caller = is_caller,
        .index = call->index,
        .noise = call->noise ? &call->noise[direction] : NULL,
        .stop = run->stop,
        .scratch = scratch + run->tasks + (run->alone ? 0 : run->task_size * (group * run->cut.teams + team)),
    };
    if (call->table && !layer)
        task.table = (const char *)call->table + direction * call->table_rows * fl_table_row(run->stack);
    if (layer) {
        task.x = scratch + run->array_size * ((layer - 1) % run->arrays);
        task.x_stride = between_stride(run->stack);
    }
    if (layer < s->layers - 1) {
        task.y = scratch + run->array_size * (layer % run->arrays);
        task.y_stride = between_stride(run->stack);
    }
    task.y = (char *)task.y + direction * s->output * s->itemsize;
    if (call->tape)
        task.tape = &run->tapes[direction];
    if (call->cells) {
        task.cells = (char *)call->cells + direction * s->hidden * s->itemsize;
        task.cells_stride = fl_stride(call->cells_stride, run->rows);
    }
    return task;
}

static int stopped(const stack_run *run)
{
    return run->stop && fl_stopped(run->stop, 0, 0);
}

/* Whether states are loaded by the calling thread before the others are called. It does so where all would wait for
it: for the first task of the teams of the only group. */
static int is_loaded(const stack_run *run, int task)
{
    return task == 0 && run->cut.groups == 1 && run->cut.shares > 1;
}

/* The phase with which a team's n-th task begins. A task alone with its thread is one phase. */
static int64_t first_phase(const stack_run *run, int task)
{
    if (run->cut.shares == 1 && !run->by_layers)
        return task;
    const int64_t phases = 1 + run->call->steps * fl_phases(run->stack->cells);
    return task * phases - (task && is_loaded(run, 0));
}

/* A thread's place in a group. */
typedef struct {
    int thread, group, team, seat;
    int is_home; /* whether it is the thread's own, and not one where it helps */
} fl_place;

/* The n-th task of a team. */
static fl_task nth_task(const stack_run *run, const fl_place *place, int team, int n)
{
    const int directions = run->stack->shape.directions, is_caller = place->thread == 0;
    if (run->by_layers)
        return task_of(run, team, 0, place->group, is_caller);
    if (run->cut.teams > 1)
        return task_of(run, n, team, place->group, is_caller);
    return task_of(run, n / directions, n % directions, place->group, is_caller);
}

/* Run the n-th task of a team, in one of its seats. */
static void run_task(const stack_run *run, const fl_place *place, int team, int n, int number)
{
    const fl_task task = nth_task(run, place, team, n);
    fl_seat seat = {.team = team_of(run, place->group, team),
                    .number = number,
                    .loaded = is_loaded(run, n),
                    .phase = first_phase(run, n)};
    if (run->by_layers) {
        seat.loaded = is_loaded(run, team);
        if (team) {
            seat.below = team_of(run, place->group, team - 1);
            seat.below_phase = !is_loaded(run, team - 1);
        }
    }
    if (run->cut.shares > 1 || run->by_layers) {
        run->stack->kernels->run(&task, &seat);
        return;
    }
    for (int share; (share = fl_next_share(seat.team, number, n)) >= 0; fl_finish_share(seat.team, share, n))
        run->stack->kernels->run(&task, NULL);
}

/* Make the products of inputs of a group, together with all others that come. */
static void make_inputs(const stack_run *run, const fl_place *place)
{
    const int teams = run->by_layers ? 1 : run->cut.teams;
    for (int k = 0; k < teams; k++) {
        const int team = (place->team + k) % teams;
        fl_team *inputs = inputs_of(run, place->group, team);
        const fl_task task = nth_task(run, place, team, 0);
        const int seat = place->thread % inputs->seats;
        for (int piece; (piece = fl_next_share(inputs, seat, 0)) >= 0; fl_finish_share(inputs, piece, 0))
            run->stack->kernels->make_inputs(&task, piece, run->pieces);
    }
}

/* ---- all tasks of a thread --------------------------------------------------------------------------- */

/* Sit down in a free seat of a team for its n-th task, `place`'s if that is free. Return which, or -1. */
static int take_seat(const stack_run *run, const fl_place *place, int team, int n)
{
    fl_line *seats = seats_of(run, place->group, team);
    for (int k = 0; k < run->cut.seats; k++) {
        const int seat = (place->seat + k) % run->cut.seats;
        int64_t taken = atomic_load_explicit(&seats[seat].value, memory_order_relaxed);
        if (taken <= n && atomic_compare_exchange_strong(&seats[seat].value, &taken, n + 1))
            return seat;
    }
    return -1;
}

/* A group with one team: its threads run all tasks together, one after the other. */
static void run_in_turn(const stack_run *run, const fl_place *place)
{
    const int tasks = run->stack->shape.layers * run->stack->shape.directions, seat = take_seat(run, place, 0, 0);
    for (int n = 0; seat >= 0 && n < tasks && !stopped(run); n++)
        run_task(run, place, 0, n, seat);
}

/* A group with a team for each direction. All wait for both before the next layer. */
static void run_directions(const stack_run *run, const fl_place *place)
{
    for (int layer = 0; layer < run->stack->shape.layers && !stopped(run); layer++) {
        int sat = 0;
        for (int k = 0; k < 2; k++) {
            const int direction = (place->team + k) % 2, seat = take_seat(run, place, direction, layer);
            if (seat < 0)
                continue;
            sat = 1;
            run_task(run, place, direction, layer, seat);
        }
        if (!layer && !sat && !place->is_home)
            return;
        for (int k = 0; k < 2 && layer + 1 < run->stack->shape.layers; k++)
            fl_await_team(team_of(run, place->group, k), first_phase(run, layer + 1), run->stop);
    }
}

/* The lowest layer of a group at which nobody sits or sat; the number of layers, if there is none. */
static int lowest_empty(const stack_run *run, int group)
{
    for (int layer = 0; layer < run->cut.teams; layer++) {
        fl_line *seats = seats_of(run, group, layer);
        int64_t taken = 0;
        for (int seat = 0; seat < run->cut.seats && !taken; seat++)
            taken = atomic_load(&seats[seat].value);
        if (!taken)
            return layer;
    }
    return run->cut.teams;
}

/* A group with a team for each layer, which follows the layer below through the steps. A thread sits down only where
somebody sits at all layers below: so that for which a layer waits is always done. */
static void run_layers(const stack_run *run, const fl_place *place)
{
    int own = place->team; /* until the thread has been there */
    while (!stopped(run)) {
        const int empty = lowest_empty(run, place->group), layer = own < empty ? own : empty;
        if (layer == run->cut.teams)
            break;
        const int seat = take_seat(run, place, layer, 0);
        if (seat >= 0)
            run_task(run, place, layer, 0, seat);
        if (layer == own)
            own = run->cut.teams;
    }
    for (int layer = 0; layer < run->cut.teams && !stopped(run); layer++) {
        const int seat = take_seat(run, place, layer, 0);
        if (seat >= 0)
            run_task(run, place, layer, 0, seat);
    }
}

/* What each thread of a run does: it goes to its own place, and then where it can help. */
static void take_places(void *context, int thread)
{
    const stack_run *run = context;
    const fl_cut *cut = &run->cut;
    fl_mode before = fl_set_mode();
    for (int k = 0; k < cut->groups && !stopped(run); k++) {
        const fl_place place = {
            .thread = thread,
            .group = (thread / (cut->teams * cut->seats) + k) % cut->groups,
            .team = thread / cut->seats % cut->teams,
            .seat = thread % cut->seats,
            .is_home = k == 0,
        };
        if (cut->inputs_first) {
            make_inputs(run, &place);
            if (thread >= cut->groups * cut->teams * cut->seats)
                continue;
        }
        if (cut->teams == 1)
            run_in_turn(run, &place);
        else if (run->by_layers)
            run_layers(run, &place);
        else
            run_directions(run, &place);
    }
    fl_restore_mode(before);
}

/* ---- running ---------------------------------------------------------------------------------------- */

static void run_alone(const stack_run *run)
{
    for (int group = 0; group < run->cut.groups; group++)
        for (int layer = 0; layer < run->stack->shape.layers; layer++)
            for (int direction = 0; direction < run->stack->shape.directions && !stopped(run); direction++) {
                const fl_task task = task_of(run, layer, direction, group, 1);
                run->stack->kernels->run(&task, NULL);
            }
}

static void run_together(stack_run *run)
{
    make_teams(run);
    const int directions = run->by_layers ? 1 : run->cut.teams;
    for (int direction = 0; is_loaded(run, 0) && direction < directions; direction++) {
        const fl_task task = task_of(run, 0, direction, 0, 1);
        run->stack->kernels->load_task(&task);
    }
    fl_together(run->cut.threads, take_places, run);
}

/* Run what is prepared. */
static fl_status go(stack_run *run)
{
    fl_stop stop = {.ask = run->call->stop};
    run->stop = stop.ask ? &stop : NULL;
    fl_mode before = fl_set_mode();
    if (run->alone || !WITH_THREADS)
        run_alone(run);
    else
        run_together(run);
    fl_restore_mode(before);
    return stop.stopped ? FL_STOPPED : FL_OK;
}

fl_status fl_run_checked(const fl_stack *stack, const fl_call *call)
{
    stack_run run;
    prepare(&run, stack, call);
    if (!run.alone && WITH_THREADS)
        prepare_teams(&run);
    return go(&run);
}

fl_status fl_run(const fl_stack *stack, const fl_call *given)
{
    fl_call own;
    fl_status status = FL_NULL;
    const fl_call *call = stack ? fl_check_call(stack, given, &own, &status) : NULL;
    if (!call)
        return status;
    stack_run run;
    prepare(&run, stack, call);
    status = fl_check_memory(call->scratch, call->scratch_size, prepare_scratch(&run));
    return status ? status : go(&run);
}

fl_status fl_saved(const fl_stack *stack, const fl_call *given, int direction, void *gates, void *cells)
{
    fl_call own;
    fl_status status = FL_NULL;
    const fl_call *call = stack ? fl_check_recorded(stack, given, &own, &status) : NULL;
    if (!call)
        return status;
    if (!WITH_TRAINING)
        return FL_UNSUPPORTED;
    const int64_t size = stack->shape.itemsize;
    if (direction < 0 || direction >= stack->shape.directions || call->checkpoint_interval)
        return FL_BAD_CALL;
    stack_run run;
    prepare(&run, stack, call);
    if ((status = fl_check_array(gates, size)) || (status = fl_check_array(cells, size))
        || (status = fl_check_memory(call->scratch, call->scratch_size, prepare_scratch(&run))))
        return status;
    run.stop = NULL;
    run.cut = (fl_cut){.threads = 1, .groups = 1, .teams = 1, .seats = 1, .shares = 1};
    run.alone = 1;
    const fl_task task = task_of(&run, 0, direction, 0, 1);
    fl_mode before = fl_set_mode();
    stack->kernels->saved(&task, gates, cells);
    fl_restore_mode(before);
    return FL_OK;
}
