# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, annotation_typing=False
# cython: freethreading_compatible=True
"""The C kernels of fastlstm/native: pointers out of arrays, memory to work in, the GIL off, one call.

The contract, the legend and the numbered equations are in `contract.py`; how it is fast stands
in ``docs/architecture.md``.

Any of this may run in many threads at once, also in a Python without the GIL. What threads share
is complete before another one sees it, and does not change afterwards, but for three things:
`Stack.idle` and `Step.busy`, which are exchanged in one go, and `Stack.stale`, which says the same
to whoever sees it early or late. The dict `spare` is Python's, whose methods are safe.
"""

import itertools
import os
import threading

import numpy as np

from .contract import ACTIVATIONS
from .contract import Step as Contract
from .machine import Caches, asked_caches, cpus

cimport numpy as cnp
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int32_t, int64_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset

cnp.import_array()


cdef extern from "Python.h":
    int PyErr_CheckSignals()  # what it raises is left to `_raise`


cdef extern from *:
    """
    /* Put a value into a place and return what was there, in one go for all threads. With the GIL, which nobody hands
    over meanwhile, that is so in any case. */
    #ifdef Py_GIL_DISABLED
    static inline void *exchange(void **place, void *value)
    {
        return __atomic_exchange_n(place, value, __ATOMIC_ACQ_REL);
    }
    static inline int exchange_flag(int *place, int value)
    {
        return __atomic_exchange_n(place, value, __ATOMIC_ACQ_REL);
    }
    #else
    static inline void *exchange(void **place, void *value)
    {
        void *before = *place;
        *place = value;
        return before;
    }
    static inline int exchange_flag(int *place, int value)
    {
        int before = *place;
        *place = value;
        return before;
    }
    #endif
    """
    void *exchange(void **place, void *value) noexcept nogil
    int exchange_flag(int *place, int value) noexcept nogil


cdef extern from "fastlstm.h":
    ctypedef struct fl_activation:
        int32_t function
        double alpha, beta
    ctypedef enum fl_status:
        FL_OK
        FL_STOPPED
    const char *fl_error_string(int status)
    ctypedef struct fl_options:
        size_t struct_size
        double gate_clip, cell_clip, proj_clip
        int32_t coupled
        fl_activation gate, cell, output
        int32_t layer_norm
        double zoneout_h, zoneout_c
    ctypedef struct fl_caches:
        int64_t l1, l2, l3
        int32_t l3_sharers
    ctypedef struct fl_shape:
        size_t struct_size
        int32_t itemsize, layers, directions
        int64_t input, hidden, output
        int32_t back
        const fl_options *options
        const fl_caches *caches
    ctypedef struct fl_arrays:
        size_t struct_size
        void *w_ih
        void *w_hh
        void *b
        void *w_hr
        void *w_ci
        void *w_cf
        void *w_co
        void *ln
        void *ln_ih
        void *ln_hh
        void *ln_c
        void *b_c
    ctypedef struct fl_noise:
        const void *h
        const void *zone_h
        const void *zone_c
    ctypedef struct fl_stack:
        pass
    ctypedef struct fl_cut:
        int32_t threads, groups, teams, seats, shares, inputs_first
    ctypedef struct fl_back_cut:
        int32_t threads, groups, shares
    ctypedef struct fl_call:
        size_t struct_size
        const void *x
        const void *table
        int64_t table_rows
        void *y
        int64_t x_stride, y_stride, steps, batch
        const int64_t *batch_sizes
        void *h
        void *c
        void *scratch
        size_t scratch_size
        void *cells
        int64_t cells_stride
        const fl_cut *cut
        const fl_noise *noise
        int32_t threads, reverse, parity
        void *tape
        size_t tape_size
        int64_t checkpoint_interval
        int (*stop)() noexcept nogil
        const int64_t *index
        int64_t states
    ctypedef struct fl_back_call:
        size_t struct_size
        const fl_call *call
        const void *dy
        int64_t dy_stride
        void *dh
        void *dc
        void *dx
        const void *const *dcells
        const fl_arrays *dw
        int32_t fill_dw
        void *scratch
        size_t scratch_size
        const fl_back_cut *cut
    int fl_isa(const char *name)
    const char *fl_isa_name(int isa)
    fl_caches fl_caches_here()
    fl_status fl_set_processors(int32_t processors)
    size_t fl_stack_bytes(const fl_shape *shape, int isa)
    fl_status fl_pack(void *memory, size_t size, const fl_shape *shape, int isa,
                      const fl_arrays *parameters, fl_stack **stack)
    const char *fl_stack_isa(const fl_stack *stack)
    int fl_stack_lanes(const fl_stack *stack)
    size_t fl_table_bytes(const fl_stack *stack, int64_t rows)
    fl_status fl_fill_table(const fl_stack *stack, const void *x, int64_t x_stride, int64_t rows,
                            void *table, size_t size) nogil
    size_t fl_scratch_bytes(const fl_stack *stack, const fl_call *call) nogil
    fl_status fl_run(const fl_stack *stack, const fl_call *call) nogil
    size_t fl_tape_bytes(const fl_stack *stack, const fl_call *call) nogil
    fl_status fl_saved(const fl_stack *stack, const fl_call *call, int direction, void *gates,
                       void *cells) nogil
    size_t fl_back_scratch_bytes(const fl_stack *stack, const fl_back_call *back) nogil
    fl_status fl_back(const fl_stack *stack, const fl_back_call *back) nogil
    ctypedef struct fl_linear:
        pass
    ctypedef struct fl_linear_call:
        size_t struct_size
        const void *x
        void *y
        int64_t x_stride, y_stride, rows
        int32_t threads
    size_t fl_linear_bytes(int32_t itemsize, int64_t inputs, int64_t outputs, int isa)
    fl_status fl_pack_linear(void *memory, size_t size, int32_t itemsize, int64_t inputs,
                             int64_t outputs, int isa, const void *w, const void *b,
                             fl_linear **linear)
    fl_status fl_run_linear(const fl_linear *linear, const fl_linear_call *call) nogil
    ctypedef enum:
        FL_SGD, FL_RMSPROP, FL_ADAM
    ctypedef struct fl_rule:
        size_t struct_size
        int32_t kind, nesterov, first
        double rate, shrink, decay, momentum, dampening, mean, square, root, eps
    fl_status fl_update(const fl_rule *rule, int32_t itemsize, int64_t count, void *p, const void *g,
                        void *const *moments, int isa) nogil
    fl_status fl_all_finite(int32_t itemsize, int64_t count, const void *x, int isa,
                            int32_t *finite) nogil


cdef int _expect(fl_status status) except -1:
    """Raise what a signal's handler raised during a call that was stopped, or say what was refused.

    Layers check what they are given, so what C refuses is a fault of ours.
    """
    if status == FL_OK:
        return 0
    if status == FL_STOPPED:
        return -1
    raise RuntimeError(f"the native engine was called wrongly: {fl_error_string(status).decode()}")


def _choose_isa():
    """The number of the instruction set: FASTLSTM_ISA, or the best that this machine has."""
    name = os.environ.get("FASTLSTM_ISA")
    if not name:
        return fl_isa(NULL)
    isa = fl_isa(name.encode())
    if isa < 0:
        names = map(_isa_name, itertools.count())
        names = itertools.takewhile(lambda known: known is not None, names)
        here = [known for known in names if fl_isa(known.encode()) >= 0]
        lacks = "which this machine lacks" if isa == -2 else "which is not known"
        raise ValueError(
            f"FASTLSTM_ISA is {name!r}, {lacks}: expected one of {', '.join(here)}, or nothing"
        )
    return isa


def _isa_name(int isa):
    name = fl_isa_name(isa)
    return name.decode() if name != NULL else None


_expect(fl_set_processors(cpus()))

cdef fl_caches _CACHES = fl_caches_here()  # or those of FASTLSTM_CACHES, to which work is cut
if (asked := asked_caches()) is not None:
    _CACHES.l1, _CACHES.l2, _CACHES.l3, _CACHES.l3_sharers = asked
cdef int _ISA = _choose_isa()

# Larger scratch memory is given back: beside its call it costs nothing.
cdef size_t _KEEP_BYTES = 1 << 23
# So many pieces of spare memory are kept at most.
cdef Py_ssize_t _PIECES = 256
# Work of a step, in bytes of weights times rows, that takes longer than handing over the GIL does.
cdef size_t _WORTH_GIL = 1 << 18
# Work of a line, in bytes of weights times rows, of a millisecond: 20 us are nothing beside it.
cdef double _MOST_OF_A_LINE = 1e8
# So many steps go through a line at once: what its links give stays in the near caches.
cdef int64_t _LINED_UP = 64
# An update of so many parameters, 0.3 ms of Adam's, gives the GIL away. Others are short beside the pass before them.
cdef int64_t _MANY_NUMBERS = 1 << 18
# Work, in bytes of weights times rows, that takes so long that Ctrl-C would be waited for.
cdef double _WORTH_ASKING = 1e9

# So many bytes of windows are laid out at once, for each thread: they stay in a core's L2 cache.
cdef int64_t _LAID_OUT = 1 << 18

ctypedef int (*Stop)() noexcept nogil


cdef int _interrupted() noexcept nogil:
    """Run the handlers of signals that came; 1 if one raised, as Ctrl-C's does."""
    with gil:
        return PyErr_CheckSignals() != 0


cdef Stop _stop_of(double work):
    """What a call of so much work asks now and then; Python runs its handlers in the main thread."""
    if work > _WORTH_ASKING and threading.get_ident() == threading.main_thread().ident:
        return _interrupted
    return NULL


cdef struct Scratch:  # it begins with this, and has so many bytes behind it
    size_t size


cdef inline void *_aligned(void *memory) noexcept nogil:
    return <void *>((<uintptr_t>memory + 63) & ~<uintptr_t>63)


cdef cnp.ndarray _borrow(spare, str name, size_t size):
    """Memory of at least so many bytes, that of this name in `spare` if it is not much larger."""
    cdef cnp.ndarray memory = None
    size += 64
    if type(spare) is Spare:
        memory = (<Spare>spare).take(size)
    elif spare is not None:
        memory = spare.pop(name, None)
    if memory is not None and size <= <size_t>cnp.PyArray_SIZE(memory) <= 2 * size:
        return memory
    return np.empty(size, np.uint8)


cdef void _give_back(spare, str name, cnp.ndarray memory) noexcept:
    if memory is None:
        return
    if type(spare) is Spare:
        (<Spare>spare).give(memory)
    elif spare is not None:
        spare[name] = memory


cdef class Spare:
    """Spare(limit)
--

    Memory that many stacks hand on to each other: what was given back last, up to so many bytes
    and a number of pieces that is looked through in no time.
    """

    cdef list held
    cdef size_t limit

    def __init__(self, size_t limit):
        self.held, self.limit = [], limit

    @property
    def bytes(self):
        """How many bytes are held."""
        return sum([len(memory) for memory in self.held])

    cdef cnp.ndarray take(self, size_t size):
        """Memory of at least so many bytes, and not much more; None if there is none."""
        cdef Py_ssize_t n
        for n in range(len(self.held) - 1, -1, -1):
            if size <= <size_t>len(self.held[n]) <= 2 * size:
                return self.held.pop(n)
        return None

    cdef void give(self, cnp.ndarray memory) noexcept:
        cdef size_t total = 0
        cdef Py_ssize_t n
        self.held.append(memory)
        for n in range(len(self.held) - 1, -1, -1):
            total += len(self.held[n])
            if total > self.limit or len(self.held) - n > _PIECES:
                del self.held[: n + 1]
                return


cdef inline void *_address(cnp.ndarray array) noexcept:
    return NULL if array is None else cnp.PyArray_DATA(array)


cdef fl_arrays _addresses(cell):
    """Where the arrays of a cell are; the cell must outlive what is returned."""
    return fl_arrays(
        sizeof(fl_arrays),
        _address(cell.w_ih), _address(cell.w_hh), _address(cell.b), _address(cell.w_hr),
        _address(cell.w_ci), _address(cell.w_cf), _address(cell.w_co), _address(cell.ln),
        _address(cell.ln_ih), _address(cell.ln_hh), _address(cell.ln_c), _address(cell.b_c),
    )


cdef int _fill_activation(fl_activation *to, activation) except -1:
    name, to.alpha, to.beta = activation
    to.function = ACTIVATIONS.index(name)
    return 0


cdef int _fill_options(fl_options *to, options) except -1:
    to.struct_size = sizeof(fl_options)
    to.gate_clip, to.cell_clip = options.gate_clip, options.cell_clip
    to.proj_clip = options.proj_clip
    to.coupled = ("", "f=1-i", "i=1-f").index(options.coupled)
    _fill_activation(&to.gate, options.gate)
    _fill_activation(&to.cell, options.cell)
    _fill_activation(&to.output, options.output)
    to.layer_norm = ("", "tflite", "haste").index(options.layer_norm)
    to.zoneout_h, to.zoneout_c = options.zoneout_h, options.zoneout_c
    return 0


cdef const fl_noise *_fill_noise(fl_noise *to, noise) except? NULL:
    """Where the arrays of each direction's noise are, which must outlive what is returned."""
    if noise is None:
        return NULL
    for direction, drawn in enumerate(noise):
        to[direction].h = _address(drawn.h)
        to[direction].zone_h, to[direction].zone_c = _address(drawn.zone_h), _address(drawn.zone_c)
    return to


cdef class Stack:
    """Stack(cells, directions, back=False, spare=None)
--

    The contract's `Stack`: each of its methods is one call into C.
    """  # `inspect` reads the signature of a C type from the beginning of its text

    cdef fl_stack *stack
    cdef cnp.ndarray memory  # NumPy asks for huge pages, which spare large weights many misses
    cdef size_t bytes
    cdef object spare
    cdef fl_shape shape
    cdef Scratch *idle[4]  # which calls take and give back
    cdef bint reverse  # of a stack of one direction; of two, the second one is in any case
    cdef fl_cut cut  # if it has threads, work is cut like this
    cdef fl_back_cut back_cut
    cdef public bint stale

    def __init__(self, cells, int directions, bint back=False, spare=None):
        if self.stack != NULL:
            raise TypeError("a stack is packed once")
        self.shape.struct_size = sizeof(fl_shape)
        self.shape.input, self.shape.hidden, self.shape.output = cells[0].sizes
        self.shape.itemsize = cells[0].dtype.itemsize
        self.shape.directions, self.shape.back = directions, back
        self.shape.layers = len(cells) // directions
        self.reverse = directions == 1 and cells[0].reverse
        cdef fl_options options
        if not all(cell.is_plain for cell in cells):
            _fill_options(&options, cells[0].options)
            self.shape.options = &options
        self.shape.caches = &_CACHES
        self.bytes = fl_stack_bytes(&self.shape, _ISA)
        self.spare = spare
        self.memory = _borrow(spare, "weights", self.bytes)
        cdef cnp.ndarray places = np.empty(len(cells) * sizeof(fl_arrays), np.uint8)
        cdef fl_arrays *arrays = <fl_arrays *>cnp.PyArray_DATA(places)
        for k, cell in enumerate(cells):
            arrays[k] = _addresses(cell)
        _expect(fl_pack(
            _aligned(cnp.PyArray_DATA(self.memory)), self.bytes, &self.shape, _ISA, arrays, &self.stack
        ))
        self.shape.options = NULL  # The stack has its own copy.

    def __del__(self):
        _give_back(self.spare, "weights", self.memory)

    def __dealloc__(self):
        for k in range(4):
            PyMem_RawFree(self.idle[k])

    @property
    def isa(self):
        """The instruction set whose kernels these weights are packed for."""
        return fl_stack_isa(self.stack).decode()

    @property
    def lanes(self):
        """How many units of a layer share a vector."""
        return fl_stack_lanes(self.stack)

    cdef Scratch *take(self, size_t size) except NULL:
        """Memory of at least so many bytes that no other call has."""
        cdef Scratch *scratch = NULL
        cdef int k
        for k in range(4):
            if self.idle[k] != NULL:
                scratch = <Scratch *>exchange(<void **>&self.idle[k], NULL)
                if scratch != NULL:
                    break
        if scratch == NULL or scratch.size < size:
            PyMem_RawFree(scratch)
            scratch = <Scratch *>PyMem_RawMalloc(sizeof(Scratch) + 64 + size)
            if scratch == NULL:
                raise MemoryError()
            scratch.size = size
        return scratch

    cdef void give(self, Scratch *scratch) noexcept:
        cdef int k
        if scratch.size <= _KEEP_BYTES:
            for k in range(4):
                if self.idle[k] == NULL:
                    # What another thread has put there meanwhile goes on to the next place.
                    scratch = <Scratch *>exchange(<void **>&self.idle[k], scratch)
                    if scratch == NULL:
                        return
        PyMem_RawFree(scratch)

    def table(self, cnp.ndarray x not None):
        return Table(self, x)

    def run(self, cnp.ndarray x not None, cnp.ndarray batch_sizes not None, cnp.ndarray h not None,
            cnp.ndarray c not None, cnp.ndarray y not None, int threads, noise=None,
            cnp.ndarray cells=None, Table table=None, cnp.ndarray index=None):
        cdef fl_call call = _call_of(x, batch_sizes, h, c, y, threads)
        if table is not None:
            table.give_to(&call)
        if index is not None:
            call.index, call.states = <const int64_t *>cnp.PyArray_DATA(index), call.batch
            call.batch = cnp.PyArray_DIM(index, 0)
        if cells is not None:
            call.cells, call.cells_stride = cnp.PyArray_DATA(cells), cnp.PyArray_STRIDE(cells, 0)
        cdef fl_noise drawn[2]  # for each direction
        call.noise = _fill_noise(drawn, noise)
        self.go(&call, cnp.PyArray_DIM(x, 0))

    def run_at(self, steps, states, uintptr_t x, uintptr_t y, int threads):
        cdef int64_t rows
        cdef fl_call call = self.call_at(steps, states, x, y, threads, &rows)
        self.go(&call, rows)

    def record_at(self, steps, states, uintptr_t x, uintptr_t y, uintptr_t tape, size_t room,
                  int threads):
        cdef int64_t rows
        cdef fl_call call = self.call_at(steps, states, x, y, threads, &rows)
        self.lay(&call, tape, room)
        self.go(&call, rows)

    def back_at(self, steps, states, uintptr_t x, uintptr_t y, uintptr_t tape, size_t room,
                uintptr_t dy, uintptr_t dx, dw, int threads):
        cdef int64_t rows
        cdef fl_call run = self.call_at(steps, states, x, y, threads, &rows)
        self.lay(&run, tape, room)
        run.reverse = self.reverse
        cdef fl_back_call call
        cdef fl_arrays gradients[2]  # of each direction
        cdef uintptr_t again[2]
        cdef int direction
        memset(gradients, 0, sizeof(gradients))
        for direction in range(self.shape.directions):
            places = dw[direction]
            gradients[direction].struct_size = sizeof(fl_arrays)
            gradients[direction].w_ih = <void *><uintptr_t>places[0]
            gradients[direction].w_hh = <void *><uintptr_t>places[1]
            gradients[direction].b, again[direction] = <void *><uintptr_t>places[2], places[3]
            gradients[direction].w_hr = <void *><uintptr_t>places[4]
        call.dy, call.dy_stride, call.dcells, call.fill_dw = <const void *>dy, run.y_stride, NULL, 1
        call.dh, call.dc, call.dx = run.h, run.c, <void *>dx
        self.go_back(&run, &call, gradients, rows)
        for direction in range(self.shape.directions):
            if again[direction]:
                memcpy(<void *>again[direction], gradients[direction].b,
                       4 * self.shape.hidden * self.shape.itemsize)

    def lend(self, str name, shape, bint values):
        cdef cnp.npy_intp dims[2]
        cdef size_t size = self.shape.itemsize if values else 1
        cdef int kind = cnp.NPY_UINT8, n
        if values:
            kind = cnp.NPY_FLOAT32 if size == 4 else cnp.NPY_FLOAT64
        for n in range(len(shape)):
            dims[n] = shape[n]
            size *= dims[n]
        cdef Lent lent = Lent()
        lent.name, lent.spare = name, self.spare
        lent.memory = _borrow(self.spare, name, size)
        cdef cnp.ndarray array = cnp.PyArray_SimpleNewFromData(
            len(shape), dims, kind, _aligned(cnp.PyArray_DATA(lent.memory))
        )
        cnp.set_array_base(array, lent)
        return array

    cdef fl_call call_at(self, tuple steps, tuple states, uintptr_t x, uintptr_t y, int threads,
                         int64_t *rows):
        """A call on C-contiguous memory at these addresses, and how many rows it has."""
        cdef fl_call call
        cdef uintptr_t batch_sizes, h_0, c_0, h, c
        memset(&call, 0, sizeof(call))
        call.struct_size = sizeof(call)
        batch_sizes, call.steps, call.batch, rows[0] = steps
        call.batch_sizes, call.threads = <const int64_t *>batch_sizes, threads
        call.x, call.x_stride = <const void *>x, self.shape.input * self.shape.itemsize
        call.y = <void *>y
        call.y_stride = self.shape.directions * self.shape.output * self.shape.itemsize
        h_0, c_0, h, c = states
        call.h, call.c = <void *>h, <void *>c
        cdef size_t size = self.shape.layers * self.shape.directions * call.batch * self.shape.itemsize
        if h_0:
            memcpy(call.h, <const void *>h_0, size * self.shape.output)
        else:
            memset(call.h, 0, size * self.shape.output)
        memcpy(call.c, <const void *>c_0, size * self.shape.hidden)
        return call

    cdef int lay(self, fl_call *call, uintptr_t tape, size_t room) except -1:
        """Place the tape of a call into the room at this address."""
        call.tape_size = fl_tape_bytes(self.stack, call)
        if room < call.tape_size + 64:
            raise ValueError(f"a tape of {call.tape_size + 64} bytes, got {room}")
        call.tape = _aligned(<void *>tape)
        return 0

    cdef int go(self, fl_call *call, int64_t rows) except -1:
        """Run in memory that no other call has; short work keeps the GIL."""
        call.reverse, call.stop = self.reverse, _stop_of(<double>self.bytes * rows)
        call.cut = &self.cut if self.cut.threads else NULL
        call.scratch_size = fl_scratch_bytes(self.stack, call)
        cdef Scratch *scratch = self.take(call.scratch_size)
        cdef fl_status status
        call.scratch = _aligned(scratch + 1)
        if self.bytes * rows < _WORTH_GIL:
            status = fl_run(self.stack, call)
        else:
            with nogil:
                status = fl_run(self.stack, call)
        self.give(scratch)
        return _expect(status)

    def call(self, x, hx, int time_axis, int threads, Table table=None):
        cdef int type_number = cnp.NPY_FLOAT32 if self.shape.itemsize == 4 else cnp.NPY_FLOAT64
        cdef int ndim = cnp.PyArray_NDIM(x) if cnp.PyArray_CheckExact(x) else 0, last = ndim - 1
        if table is not None and ndim:
            last, ndim = ndim, ndim + 1
        cdef bint timed = time_axis >= 0, batched = last > timed
        if (
            not timed <= last <= timed + 1
            or cnp.PyArray_TYPE(x) != (type_number if table is None else cnp.NPY_INT64)
            or not cnp.PyArray_ISNOTSWAPPED(x)
            or (table is None and cnp.PyArray_DIM(x, last) != self.shape.input)
        ):
            return None
        if hx is not None and (type(hx) is not tuple or len(hx) != 2):
            return None
        cdef bint batch_first = batched and time_axis != 0
        cdef cnp.npy_intp steps = cnp.PyArray_DIM(x, batch_first) if timed else 1
        cdef cnp.npy_intp batch = cnp.PyArray_DIM(x, not batch_first) if batched else 1
        if steps == 0 or batch == 0:
            return None

        # Of all that is returned: (cells or steps, batch, features), without the axes that x lacks.
        cdef cnp.npy_intp shape[3]
        shape[last - batched] = batch
        shape[0] = self.shape.layers * self.shape.directions if timed else shape[0]
        shape[last] = self.shape.output
        cdef cnp.ndarray h = _state(hx, 0, ndim, shape, type_number)
        shape[last] = self.shape.hidden
        cdef cnp.ndarray c = _state(hx, 1, ndim, shape, type_number)
        if h is None or c is None:
            return None
        shape[0] = steps if timed else shape[0]
        shape[last] = self.shape.directions * self.shape.output
        cdef cnp.ndarray y = cnp.PyArray_EMPTY(ndim, shape, type_number, 0), rows = x
        if batch_first and timed:
            rows = cnp.PyArray_SwapAxes(rows, 0, 1)
        if not cnp.PyArray_ISCARRAY_RO(rows):
            rows = cnp.PyArray_FROM_OF(rows, cnp.NPY_ARRAY_CARRAY_RO)
        cdef int64_t few[64]  # of a short call: NumPy would take a tenth of its time for an array
        cdef cnp.ndarray many = None
        cdef int64_t *batch_sizes = few
        if steps > 64:
            many = cnp.PyArray_EMPTY(1, &steps, cnp.NPY_INT64, 0)
            batch_sizes = <int64_t *>cnp.PyArray_DATA(many)
        cdef cnp.npy_intp t
        for t in range(steps):
            batch_sizes[t] = batch
        cdef fl_call call
        memset(&call, 0, sizeof(call))
        call.struct_size = sizeof(call)
        call.x, call.x_stride = cnp.PyArray_DATA(rows), self.shape.input * self.shape.itemsize
        if table is not None:
            table.give_to(&call)
            call.x_stride = sizeof(int64_t)
        call.y, call.y_stride = cnp.PyArray_DATA(y), shape[last] * self.shape.itemsize
        call.h, call.c = cnp.PyArray_DATA(h), cnp.PyArray_DATA(c)
        call.steps, call.batch, call.threads = steps, batch, threads
        call.batch_sizes = batch_sizes
        self.go(&call, steps * batch)
        if not timed:
            return h, c
        return cnp.PyArray_SwapAxes(y, 0, 1) if batch_first else y, (h, c)

    def record(self, cnp.ndarray x not None, cnp.ndarray batch_sizes not None,
               cnp.ndarray h not None, cnp.ndarray c not None, cnp.ndarray y not None, int threads,
               int64_t checkpoint_every=0, noise=None):
        cdef fl_call call = _call_of(x, batch_sizes, h, c, y, threads)
        call.reverse, call.checkpoint_interval = self.reverse, checkpoint_every
        call.cut = &self.cut if self.cut.threads else NULL
        cdef Tape tape = Tape()
        tape.spare, tape.arrays = self.spare, (x, batch_sizes, y, noise)
        call.noise = _fill_noise(tape.noise, noise)
        call.tape_size = fl_tape_bytes(self.stack, &call)
        tape.memory = _borrow(self.spare, "tape", call.tape_size)
        call.tape = _aligned(cnp.PyArray_DATA(tape.memory))
        call.scratch_size = fl_scratch_bytes(self.stack, &call)
        cdef cnp.ndarray scratch = _borrow(self.spare, "scratch", call.scratch_size)
        cdef fl_status status
        call.scratch = _aligned(cnp.PyArray_DATA(scratch))
        call.stop = _stop_of(<double>self.bytes * cnp.PyArray_DIM(x, 0))
        with nogil:
            status = fl_run(self.stack, &call)
        _expect(status)
        _give_back(self.spare, "scratch", scratch)
        call.cut = NULL
        tape.call = call
        return tape

    def force_cuts(self, forward=None, back=None):
        cdef fl_cut cut
        cdef fl_back_cut back_cut
        cut.threads, cut.groups, cut.teams, cut.seats, cut.shares, cut.inputs_first = (
            *(forward or [0] * 5), 0
        )[:6]
        back_cut.threads, back_cut.groups, back_cut.shares = back or [0] * 3
        self.cut, self.back_cut = cut, back_cut

    def saved(self, Tape tape not None):
        cdef fl_call call = tape.call
        call.scratch_size = fl_scratch_bytes(self.stack, &call)
        cdef cnp.ndarray scratch = np.empty(call.scratch_size + 64, np.uint8)
        cdef cnp.ndarray gates, cells
        call.scratch = _aligned(cnp.PyArray_DATA(scratch))
        x, _, y, _ = tape.arrays
        result = []
        for direction in range(self.shape.directions):
            gates = np.empty((len(x), 4 * self.shape.hidden), y.dtype)
            cells = np.empty((len(x), self.shape.hidden), y.dtype)
            _expect(fl_saved(
                self.stack, &call, direction, cnp.PyArray_DATA(gates), cnp.PyArray_DATA(cells)
            ))
            result.append((gates, cells))
        return result

    def back(self, Tape tape not None, cnp.ndarray dy not None, cnp.ndarray dh not None,
             cnp.ndarray dc not None, cnp.ndarray dx, dw, int threads, dcells=None):
        cdef fl_call run = tape.call
        cdef fl_back_call call
        cdef fl_arrays gradients[2]  # of each direction, as the next
        cdef const void *more[2]
        for direction, cell in enumerate(dw):
            gradients[direction] = _addresses(cell)
        run.threads = threads
        call.dcells, call.fill_dw = NULL, 0
        if dcells is not None:
            for direction, cells in enumerate(dcells):
                more[direction] = _address(cells)
            call.dcells = more
        call.dy, call.dy_stride = cnp.PyArray_DATA(dy), cnp.PyArray_STRIDE(dy, 0)
        call.dh, call.dc, call.dx = _address(dh), _address(dc), _address(dx)
        self.go_back(&run, &call, gradients, cnp.PyArray_DIM(dy, 0))

    cdef int go_back(self, fl_call *run, fl_back_call *call, const fl_arrays *gradients,
                     int64_t rows) except -1:
        """Go back through a call that was recorded."""
        call.struct_size, call.call, call.dw = sizeof(fl_back_call), run, gradients
        call.cut = &self.back_cut if self.back_cut.threads else NULL
        call.scratch_size = fl_back_scratch_bytes(self.stack, call)
        cdef cnp.ndarray scratch = _borrow(self.spare, "back", call.scratch_size)
        cdef fl_status status
        call.scratch = _aligned(cnp.PyArray_DATA(scratch))
        run.stop = _stop_of(<double>self.bytes * rows)
        with nogil:
            status = fl_back(self.stack, call)
        _expect(status)
        _give_back(self.spare, "back", scratch)
        return 0

    def step(self, cnp.ndarray h not None, cnp.ndarray c not None, present, otherwise,
             Table table=None):
        return Step(h, c, present, otherwise, table).step


cdef class Table:
    """What `Stack.table` returns."""

    cdef Stack stack
    cdef cnp.ndarray memory
    cdef void *products
    cdef int64_t rows

    def __init__(self, Stack stack not None, cnp.ndarray x not None):
        cdef int64_t x_stride = cnp.PyArray_STRIDE(x, 0)
        cdef const void *first = cnp.PyArray_DATA(x)
        self.stack, self.rows = stack, cnp.PyArray_DIM(x, 0)
        cdef size_t size = fl_table_bytes(stack.stack, self.rows)
        cdef fl_status status
        self.memory = np.empty(size + 64, np.uint8)
        self.products = _aligned(cnp.PyArray_DATA(self.memory))
        with nogil:
            status = fl_fill_table(stack.stack, first, x_stride, self.rows, self.products, size)
        _expect(status)

    cdef void give_to(self, fl_call *call) noexcept:
        call.table, call.table_rows = self.products, self.rows


cdef cnp.ndarray _state(hx, int n, int ndim, cnp.npy_intp *shape, int type_number):
    """A copy of state n of hx, zeros if there are none; None if that does not fit as it is."""
    cdef cnp.ndarray state
    if hx is None:
        return cnp.PyArray_ZEROS(ndim, shape, type_number, 0)
    given = hx[n]
    if not (
        cnp.PyArray_CheckExact(given)
        and cnp.PyArray_TYPE(given) == type_number
        and cnp.PyArray_NDIM(given) == ndim
        and cnp.PyArray_CompareLists(cnp.PyArray_DIMS(given), shape, ndim)
        and cnp.PyArray_ISCARRAY_RO(given)
    ):
        return None
    state = cnp.PyArray_EMPTY(ndim, shape, type_number, 0)
    memcpy(cnp.PyArray_DATA(state), cnp.PyArray_DATA(given), cnp.PyArray_NBYTES(state))
    return state


cdef class Tape:
    """What a recorded run leaves for the way back; x and y themselves are kept, not copied."""

    cdef fl_call call
    cdef fl_noise noise[2]
    cdef cnp.ndarray memory
    cdef tuple arrays
    cdef object spare

    def __del__(self):
        _give_back(self.spare, "tape", self.memory)


cdef class Lent:
    """The owner of an array's memory, which is spare again when nobody has the array."""

    cdef str name
    cdef object spare
    cdef cnp.ndarray memory

    def __del__(self):
        _give_back(self.spare, self.name, self.memory)


cdef fl_call _call_of(cnp.ndarray x, cnp.ndarray batch_sizes, cnp.ndarray h, cnp.ndarray c,
                      cnp.ndarray y, int threads):
    cdef fl_call call
    memset(&call, 0, sizeof(call))
    call.struct_size = sizeof(call)
    call.x, call.x_stride = cnp.PyArray_DATA(x), cnp.PyArray_STRIDE(x, 0)
    call.y, call.y_stride = cnp.PyArray_DATA(y), cnp.PyArray_STRIDE(y, 0)
    call.h, call.c = cnp.PyArray_DATA(h), cnp.PyArray_DATA(c)
    call.batch = cnp.PyArray_DIM(h, cnp.PyArray_NDIM(h) - 2)
    call.batch_sizes = <const int64_t *>cnp.PyArray_DATA(batch_sizes)
    call.steps = cnp.PyArray_DIM(batch_sizes, 0)
    call.threads = threads
    return call


cdef class Sample:
    """Sample(arrays, whole=False)
--

    Values of arrays, by which one sees later that somebody has written into them.

    Of an array of up to 16 KiB all values are kept. Of a larger one, if not `whole`, it is one of each
    row and of each column, so that a write to a whole row or column, or to all of them, is seen. The
    arrays have one or two axes, and are C-contiguous.
    """

    cdef list arrays, kept

    def __init__(self, arrays, bint whole=False):
        self.arrays, self.kept = [*arrays], []
        for array in self.arrays:
            count = array.size if whole or array.nbytes <= 16384 else max(array.shape)
            self.kept.append(np.empty(count * array.itemsize, np.uint8))
        self.compare(True)

    def holds(self):
        """Whether the arrays have the values that they had."""
        return self.compare(False)

    cdef bint compare(self, bint keep):
        cdef cnp.ndarray array, kept
        cdef int64_t rows, columns, size, n
        for n in range(len(self.arrays)):
            array, kept = self.arrays[n], self.kept[n]
            rows, columns = cnp.PyArray_DIM(array, 0), 1
            if cnp.PyArray_NDIM(array) == 2:
                columns = cnp.PyArray_DIM(array, 1)
            size = cnp.PyArray_NBYTES(array)
            if size == cnp.PyArray_NBYTES(kept):
                if keep:
                    memcpy(cnp.PyArray_DATA(kept), cnp.PyArray_DATA(array), size)
                elif memcmp(cnp.PyArray_DATA(kept), cnp.PyArray_DATA(array), size) != 0:
                    return False
            elif cnp.PyArray_ITEMSIZE(array) == 4:
                if not _same[int32_t](<int32_t *>cnp.PyArray_DATA(array),
                                      <int32_t *>cnp.PyArray_DATA(kept), rows, columns, keep):
                    return False
            elif not _same[int64_t](<int64_t *>cnp.PyArray_DATA(array),
                                    <int64_t *>cnp.PyArray_DATA(kept), rows, columns, keep):
                return False
        return True


ctypedef fused bits:
    int32_t
    int64_t


cdef bint _same(bits *values, bits *kept, int64_t rows, int64_t columns, bint keep) noexcept nogil:
    """Whether the kept values are those of a diagonal that begins anew at each edge; or keep them."""
    cdef int64_t n, row = 0, column = 0
    cdef bits differ = 0
    for n in range(max(rows, columns)):
        if keep:
            kept[n] = values[row * columns + column]
        differ |= kept[n] ^ values[row * columns + column]
        row = row + 1 if row + 1 < rows else 0
        column = column + 1 if column + 1 < columns else 0
    return differ == 0


cdef class Step:
    """Step(h, c, present, otherwise, table=None)
--

    The step of one stream: B sequences through a whole stack in one call; see `Stack.step`.
    """

    cdef object present, otherwise
    cdef Stack stack
    cdef cnp.ndarray h, c, scratch
    cdef fl_call call
    cdef fl_cut cut
    cdef int type_number
    cdef Py_ssize_t inputs, outputs
    cdef Table table
    cdef int busy  # whether a step is being made
    cdef int64_t room  # the number of steps for which the scratch memory was last made

    def __init__(self, cnp.ndarray h not None, cnp.ndarray c not None, present, otherwise,
                 Table table=None):
        self.h, self.c, self.present, self.otherwise = h, c, present, otherwise
        self.table = table
        self.call.struct_size = sizeof(fl_call)
        if table is not None:
            table.give_to(&self.call)
        self.type_number = cnp.PyArray_TYPE(h)
        self.call.h, self.call.c = cnp.PyArray_DATA(h), cnp.PyArray_DATA(c)
        self.call.batch, self.call.steps = cnp.PyArray_DIM(h, 1), 1
        self.take_present()
        self.inputs, self.outputs = self.stack.shape.input, self.stack.shape.output
        self.call.x_stride = self.inputs * self.stack.shape.itemsize
        self.call.y_stride = self.outputs * self.stack.shape.itemsize
        if table is not None:
            self.call.x_stride = sizeof(int64_t)

    cdef int take_present(self) except -1:
        """Take over the stack that the layer runs on now, and how many threads there may be."""
        cdef fl_call call = self.call
        cdef Stack stack
        cdef cnp.ndarray scratch
        stack, call.threads = self.present()
        call.cut = &stack.cut if stack.cut.threads else NULL
        call.scratch_size = fl_scratch_bytes(stack.stack, &call)
        scratch = np.empty(call.scratch_size + 64, np.uint8)
        call.scratch = _aligned(cnp.PyArray_DATA(scratch))
        # Nothing fails from here on: a stack never meets scratch memory that is too small for it, nor does a cut.
        self.cut = stack.cut
        call.cut = &self.cut if self.cut.threads else NULL
        self.call, self.stack, self.scratch, self.room = call, stack, scratch, 1
        return 0

    cdef int make_room(self, int64_t steps) except -1:
        """Have scratch memory for so many steps, too."""
        cdef fl_call call = self.call
        cdef cnp.ndarray scratch
        call.steps = steps
        cdef size_t size = fl_scratch_bytes(self.stack.stack, &call)
        if size > call.scratch_size:
            scratch = np.empty(size + 64, np.uint8)
            self.call.scratch, self.call.scratch_size = _aligned(cnp.PyArray_DATA(scratch)), size
            self.scratch = scratch
        self.room = steps
        return 0

    cdef inline bint fits(self, object array, Py_ssize_t size):
        return (
            cnp.PyArray_CheckExact(array)
            and cnp.PyArray_TYPE(array) == self.type_number
            and cnp.PyArray_NDIM(array) == 2
            and cnp.PyArray_DIM(array, 0) == self.call.batch
            and cnp.PyArray_DIM(array, 1) == size
            and cnp.PyArray_ISCARRAY_RO(array)
        )

    cdef bint are_rows(self, object x):
        """Whether these are numbers of rows of the table, for the stack that it was made of."""
        cdef int64_t *numbers
        cdef int64_t n
        if (
            not cnp.PyArray_CheckExact(x)
            or cnp.PyArray_TYPE(x) != cnp.NPY_INT64
            or cnp.PyArray_NDIM(x) != 1
            or cnp.PyArray_DIM(x, 0) != self.call.batch
            or not cnp.PyArray_ISCARRAY_RO(x)
            or self.stack is not self.table.stack
            or self.stack.stale
        ):
            return False
        numbers = <int64_t *>cnp.PyArray_DATA(x)
        for n in range(self.call.batch):
            if not 0 <= numbers[n] < self.table.rows:
                return False
        return True

    cdef inline bint overlap(self, object x, object out):
        """Whether these, which fit, share memory."""
        cdef char *inputs = <char *>cnp.PyArray_DATA(x)
        cdef char *outputs = <char *>cnp.PyArray_DATA(out)
        cdef int64_t batch = self.call.batch
        return (
            inputs < outputs + batch * self.call.y_stride
            and outputs < inputs + batch * self.call.x_stride
        )

    cdef inline int begin(self) except -1:
        if exchange_flag(&self.busy, 1):
            raise RuntimeError(
                "two threads step one stream at once: a stream belongs to one thread at a time"
            )
        return 0

    cdef inline void end(self) noexcept:
        exchange_flag(&self.busy, 0)

    def step(self, x: ArrayLike, out: Array | None = None) -> Array:
        self.begin()
        try:
            return self.go(x, out)
        finally:
            self.end()

    cdef go(self, x, out):
        cdef cnp.npy_intp shape[2]
        if not (self.fits(x, self.inputs) if self.table is None else self.are_rows(x)):
            return self.otherwise(x, out)
        if out is None:
            shape[0], shape[1] = self.call.batch, self.outputs
            out = cnp.PyArray_EMPTY(2, shape, self.type_number, 0)
        elif (
            not (self.fits(out, self.outputs) and cnp.PyArray_ISWRITEABLE(out))
            or self.overlap(x, out)
        ):
            return self.otherwise(x, out)
        # A table goes with the stack that it was made of, if that became stale just now too.
        if self.stack.stale and self.table is None:
            self.take_present()
        self.call.x, self.call.y = cnp.PyArray_DATA(x), cnp.PyArray_DATA(out)
        self.call.parity ^= 1
        cdef fl_status status
        if self.stack.bytes * self.call.batch < _WORTH_GIL:
            status = fl_run(self.stack.stack, &self.call)
        else:
            with nogil:
                status = fl_run(self.stack.stack, &self.call)
        _expect(status)
        return out


Step.step.__doc__ = Contract.__call__.__doc__


cdef class Product:
    """Product(w, b)
--

    The contract's `Product`.
    """

    cdef fl_linear *linear
    cdef cnp.ndarray memory
    cdef size_t bytes
    cdef cnp.npy_intp inputs, outputs
    cdef int type_number
    cdef public bint stale

    def __init__(self, cnp.ndarray w not None, cnp.ndarray b):
        cdef int32_t itemsize = w.dtype.itemsize
        cdef int64_t outputs = w.shape[0], inputs = w.shape[1]
        self.inputs, self.outputs, self.type_number = inputs, outputs, cnp.PyArray_TYPE(w)
        w = np.ascontiguousarray(w)
        b = None if b is None else np.ascontiguousarray(b)
        self.bytes = fl_linear_bytes(itemsize, inputs, outputs, _ISA)
        self.memory = np.empty(self.bytes + 64, np.uint8)
        _expect(fl_pack_linear(
            _aligned(cnp.PyArray_DATA(self.memory)), self.bytes, itemsize, inputs, outputs, _ISA,
            cnp.PyArray_DATA(w), NULL if b is None else cnp.PyArray_DATA(b), &self.linear,
        ))

    def run(self, cnp.ndarray x not None, cnp.ndarray y not None, int threads):
        cdef fl_linear_call call
        call.struct_size = sizeof(call)
        call.x, call.x_stride = cnp.PyArray_DATA(x), cnp.PyArray_STRIDE(x, 0)
        call.y, call.y_stride = cnp.PyArray_DATA(y), cnp.PyArray_STRIDE(y, 0)
        call.rows, call.threads = cnp.PyArray_DIM(x, 0), threads
        self.go(&call)

    cdef int go(self, const fl_linear_call *call) except -1:
        cdef fl_status status
        if self.bytes * call.rows < _WORTH_GIL:
            status = fl_run_linear(self.linear, call)
        else:
            with nogil:
                status = fl_run_linear(self.linear, call)
        return _expect(status)

    def call(self, x, int threads):
        cdef int ndim = cnp.PyArray_NDIM(x) if cnp.PyArray_CheckExact(x) else 0
        if (
            not 1 <= ndim <= 3
            or cnp.PyArray_TYPE(x) != self.type_number
            or cnp.PyArray_DIM(x, ndim - 1) != self.inputs
            or not cnp.PyArray_ISCARRAY_RO(x)
        ):
            return None
        cdef cnp.npy_intp shape[3]
        memcpy(shape, cnp.PyArray_DIMS(x), ndim * sizeof(cnp.npy_intp))
        shape[ndim - 1] = self.outputs
        cdef size_t itemsize = cnp.PyArray_ITEMSIZE(x)
        cdef fl_linear_call call
        call.struct_size = sizeof(call)
        call.rows, call.threads = cnp.PyArray_SIZE(x) // self.inputs, threads
        if call.rows == 0 or <double>self.bytes * call.rows > _WORTH_ASKING:
            return None
        cdef cnp.ndarray y = cnp.PyArray_EMPTY(ndim, shape, self.type_number, 0)
        call.x, call.x_stride = cnp.PyArray_DATA(x), self.inputs * itemsize
        call.y, call.y_stride = cnp.PyArray_DATA(y), self.outputs * itemsize
        self.go(&call)
        return y

    def slide(self, x, int64_t before, int64_t after, int64_t stride, int64_t dilation,
              bint rectified, int threads):
        if (
            not cnp.PyArray_CheckExact(x)
            or cnp.PyArray_NDIM(x) != 3
            or cnp.PyArray_TYPE(x) != self.type_number
            or not cnp.PyArray_ISBEHAVED_RO(x)
        ):
            return None
        cdef cnp.npy_intp *sizes = cnp.PyArray_DIMS(x)
        cdef cnp.npy_intp *strides = cnp.PyArray_STRIDES(x)
        cdef int64_t item = cnp.PyArray_ITEMSIZE(x), row, image
        cdef _Slide slide
        slide.channels, slide.values, slide.item = sizes[1], sizes[2], item
        slide.kernel, slide.dilation = self.inputs // sizes[1], dilation
        slide.of_channel, slide.of_value = strides[1], strides[2]
        cdef int64_t reach = (slide.kernel - 1) * dilation + 1
        cdef int64_t positions = (before + sizes[2] + after - reach) // stride + 1
        cdef int64_t rows = sizes[0] * positions, size = self.inputs * item
        if rows == 0 or <double>self.bytes * rows > _WORTH_ASKING:
            return None
        cdef cnp.npy_intp shape[3]
        shape[0], shape[1], shape[2] = sizes[0], positions, self.outputs
        cdef cnp.ndarray y = cnp.PyArray_EMPTY(3, shape, self.type_number, 0)
        cdef int64_t at_once = min(rows, max(1, _LAID_OUT * threads // size)), first, count
        shape[0] = at_once * size
        cdef cnp.ndarray memory = cnp.PyArray_EMPTY(1, shape, cnp.NPY_UINT8, 0)
        cdef char *laid_out = <char *>cnp.PyArray_DATA(memory)
        cdef char *results = <char *>cnp.PyArray_DATA(y)
        cdef const char *images = <const char *>cnp.PyArray_DATA(x)
        cdef fl_linear_call call
        call.struct_size = sizeof(call)
        call.x, call.x_stride, call.y_stride = laid_out, size, self.outputs * item
        call.threads = threads
        for first in range(0, rows, at_once):
            count = min(at_once, rows - first)
            for row in range(count):
                image = (first + row) // positions
                _lay_out(&slide, images + image * strides[0],
                         (first + row) % positions * stride - before, laid_out + row * size)
            call.rows, call.y = count, results + first * call.y_stride
            self.go(&call)
            if rectified:
                _rectify(results + first * call.y_stride, count * self.outputs, item)
        return cnp.PyArray_SwapAxes(y, 1, 2)


cdef struct _Slide:
    int64_t channels, values, kernel, dilation
    int64_t item, of_channel, of_value  # in bytes: a number, from one channel or value to the next


cdef void _lay_out(const _Slide *slide, const char *image, int64_t first, char *row) noexcept nogil:
    """Write the window that begins at `first` as a row: kernel, then channels; 0 outside."""
    cdef int64_t size = slide.channels * slide.item, k, c, at, begin, end
    cdef bint together = slide.channels == 1 or slide.of_channel == slide.item
    if together and slide.dilation == 1 and slide.of_value == size:
        begin = min(slide.kernel, max(0, -first))
        end = max(begin, min(slide.kernel, slide.values - first))
        memset(row, 0, begin * size)
        memcpy(row + begin * size, image + (first + begin) * size, (end - begin) * size)
        memset(row + end * size, 0, (slide.kernel - end) * size)
        return
    cdef const char *value
    for k in range(slide.kernel):
        at = first + k * slide.dilation
        value = image + at * slide.of_value
        if not 0 <= at < slide.values:
            memset(row, 0, size)
        elif together:
            memcpy(row, value, size)
        elif slide.item == 4:
            for c in range(slide.channels):
                (<float *>row)[c] = (<const float *>(value + c * slide.of_channel))[0]
        else:
            for c in range(slide.channels):
                (<double *>row)[c] = (<const double *>(value + c * slide.of_channel))[0]
        row += size


cdef void _rectify(char *y, int64_t count, int64_t item) noexcept nogil:
    """Set negative numbers to 0."""
    cdef int64_t n
    if item == 4:
        for n in range(count):
            (<float *>y)[n] = 0 if (<float *>y)[n] < 0 else (<float *>y)[n]
    else:
        for n in range(count):
            (<double *>y)[n] = 0 if (<double *>y)[n] < 0 else (<double *>y)[n]


def update(rule, cnp.ndarray p not None, cnp.ndarray g not None, moments):
    cdef fl_rule own
    cdef void *places[3]
    cdef int n
    cdef fl_status status
    cdef int32_t itemsize = cnp.PyArray_ITEMSIZE(p)
    own.struct_size = sizeof(own)
    own.kind = (FL_SGD, FL_RMSPROP, FL_ADAM)[("sgd", "rmsprop", "adam").index(rule.kind)]
    own.nesterov, own.first = rule.nesterov, rule.first
    own.rate, own.shrink, own.decay = rule.rate, rule.shrink, rule.decay
    own.momentum, own.dampening = rule.momentum, rule.dampening
    own.mean, own.square, own.root, own.eps = rule.mean, rule.square, rule.root, rule.eps
    memset(places, 0, sizeof(places))
    for n, moment in enumerate(moments):
        places[n] = _address(moment)
    cdef int64_t count = cnp.PyArray_SIZE(p)
    cdef void *parameters = cnp.PyArray_DATA(p)
    cdef const void *gradients = cnp.PyArray_DATA(g)
    if count < _MANY_NUMBERS:
        status = fl_update(&own, itemsize, count, parameters, gradients, places, _ISA)
    else:
        with nogil:
            status = fl_update(&own, itemsize, count, parameters, gradients, places, _ISA)
    _expect(status)
    return True


def is_finite(cnp.ndarray x not None):
    cdef int32_t finite = 0, itemsize = cnp.PyArray_ITEMSIZE(x)
    cdef int64_t count = cnp.PyArray_SIZE(x)
    cdef const void *numbers = cnp.PyArray_DATA(x)
    cdef fl_status status
    if count < _MANY_NUMBERS:
        status = fl_all_finite(itemsize, count, numbers, _ISA, &finite)
    else:
        with nogil:
            status = fl_all_finite(itemsize, count, numbers, _ISA, &finite)
    _expect(status)
    return finite != 0


cdef struct _Link:
    fl_call *call  # of a step, which holds it,
    fl_stack *stack
    fl_linear *linear  # or of a product; a sum has neither
    int threads, takes, plus
    int64_t inputs, outputs
    char *value  # what it gives; the last one gives what the line gives


cdef class Line:
    """Line(links, batch)
--

    The contract's `Line`. Pieces of time go through all links one after the other.
    """

    cdef list steps, products, presents  # by the numbers of links; None where a link has none
    cdef cnp.ndarray memory, values
    cdef _Link *links
    cdef int count
    cdef size_t bytes  # of all weights, of which there are always as many
    cdef int64_t batch, room  # room: the number of steps for which there are values
    cdef int type_number, itemsize

    def __init__(self, links, int64_t batch):
        cdef Step step
        self.count, self.batch = len(links), batch
        self.memory = np.zeros(self.count * sizeof(_Link), np.uint8)
        self.links = <_Link *>cnp.PyArray_DATA(self.memory)
        self.steps, self.presents = [], [link.product for link in links]
        self.products = [None] * self.count
        for n, link in enumerate(links):
            self.links[n].takes, self.links[n].plus = link.takes, link.plus or 0
            self.links[n].inputs, self.links[n].outputs = link.inputs, link.outputs
            step = None if link.step is None else link.step.__self__
            self.steps.append(step)
            if step is not None:
                self.links[n].call = &step.call
                self.type_number, self.itemsize = step.type_number, step.stack.shape.itemsize
                self.bytes += step.stack.bytes
            elif link.product is not None:
                self.take_product(n)
                self.bytes += (<Product>self.products[n]).bytes

    cdef int take_product(self, int n) except -1:
        """Take over what the layer of a link computes by now."""
        cdef Product product
        product, threads = self.presents[n]()
        self.products[n] = product
        self.links[n].linear, self.links[n].threads = product.linear, threads
        return 0

    cdef int prepare(self, int64_t steps) except -1:
        """Have all that so many steps need, in a time in which no other thread has a step of these.

        Nothing fails afterwards.
        """
        cdef Step step
        cdef Product product
        cdef cnp.ndarray values
        cdef int n
        cdef size_t at
        cdef int64_t rest = steps % _LINED_UP if steps > _LINED_UP else 0
        steps = min(steps, _LINED_UP)
        for n in range(self.count):
            step, product = self.steps[n], self.products[n]
            if step is not None:
                if step.stack.stale:
                    step.take_present()
                self.links[n].stack = step.stack.stack
                if step.room != steps:
                    step.make_room(steps)
                if rest:
                    step.make_room(rest)
            elif product is not None and product.stale:
                self.take_product(n)
        if steps > self.room:
            at = 0
            for n in range(self.count - 1):
                at += _up(self.links[n].outputs * self.itemsize * self.batch * steps)
            values = np.empty(at + 64, np.uint8)
            at = 0
            for n in range(self.count - 1):
                self.links[n].value = <char *>_aligned(cnp.PyArray_DATA(values)) + at
                at += _up(self.links[n].outputs * self.itemsize * self.batch * steps)
            self.values, self.room = values, steps
        return 0

    def run(self, x, int time_axis, out=None):
        cdef bint timed = time_axis >= 0
        cdef int ndim = 2 + timed
        if (
            not cnp.PyArray_CheckExact(x)
            or cnp.PyArray_NDIM(x) != ndim
            or cnp.PyArray_TYPE(x) != self.type_number
            or cnp.PyArray_DIM(x, ndim - 1) != self.links[0].inputs
            or not cnp.PyArray_ISNOTSWAPPED(x)
        ):
            return None
        cdef cnp.ndarray rows = x, y
        if time_axis == 1:
            rows = cnp.PyArray_SwapAxes(rows, 0, 1)
        cdef int64_t steps = cnp.PyArray_DIM(rows, 0) if timed else 1
        cdef cnp.npy_intp shape[3]
        shape[0], shape[timed], shape[ndim - 1] = steps, self.batch, self.links[self.count - 1].outputs
        if (
            steps == 0
            or cnp.PyArray_DIM(rows, timed) != self.batch
            or (timed and <double>self.bytes * steps * self.batch > _MOST_OF_A_LINE)
        ):
            return None
        if not cnp.PyArray_ISCARRAY_RO(rows):
            rows = cnp.PyArray_FROM_OF(rows, cnp.NPY_ARRAY_CARRAY_RO)
        if out is None:
            out = cnp.PyArray_EMPTY(ndim, shape, self.type_number, 0)
        elif not (
            cnp.PyArray_CheckExact(out)
            and cnp.PyArray_TYPE(out) == self.type_number
            and cnp.PyArray_NDIM(out) == ndim
            and cnp.PyArray_CompareLists(cnp.PyArray_DIMS(out), shape, ndim)
            and cnp.PyArray_ISCARRAY(out)
            and _lie_apart(rows, out)
        ):
            return None
        y = out
        cdef int n, begun = 0
        try:
            for n in range(self.count):
                if self.steps[n] is not None:
                    (<Step>self.steps[n]).begin()
                begun = n + 1
            self.go(<const char *>cnp.PyArray_DATA(rows), <char *>cnp.PyArray_DATA(y), steps)
        finally:
            for n in range(begun):
                if self.steps[n] is not None:
                    (<Step>self.steps[n]).end()
        return cnp.PyArray_SwapAxes(y, 0, 1) if time_axis == 1 else y

    cdef int go(self, const char *x, char *y, int64_t steps) except -1:
        self.prepare(steps)
        cdef fl_status status
        if self.bytes * steps * self.batch < _WORTH_GIL:
            status = self.advance(x, y, steps)
        else:
            with nogil:
                status = self.advance(x, y, steps)
        return _expect(status)

    cdef fl_status advance(self, const char *x, char *y, int64_t steps) noexcept nogil:
        """Make all steps, so many at once as there is room for."""
        cdef _Link *last = self.links + self.count - 1
        cdef int64_t now
        cdef fl_status status = FL_OK
        while steps > 0 and status == FL_OK:
            now = min(steps, _LINED_UP)
            last.value = y
            status = self.advance_piece(x, now)
            x += now * self.batch * self.links[0].inputs * self.itemsize
            y += now * self.batch * last.outputs * self.itemsize
            steps -= now
        return status

    cdef fl_status advance_piece(self, const char *x, int64_t steps) noexcept nogil:
        cdef fl_linear_call product
        cdef fl_status status = FL_OK
        cdef _Link *link
        cdef const char *source
        cdef const char *plus
        cdef int n
        product.struct_size, product.rows = sizeof(product), steps * self.batch
        for n in range(self.count):
            link = self.links + n
            source = plus = x
            if link.takes:
                source = self.links[link.takes - 1].value
            if link.plus:
                plus = self.links[link.plus - 1].value
            if link.stack != NULL:
                link.call.x, link.call.y, link.call.steps = source, link.value, steps
                status = fl_run(link.stack, link.call)
                link.call.steps = 1
                link.call.parity ^= steps & 1
            elif link.linear != NULL:
                product.x, product.x_stride = source, link.inputs * self.itemsize
                product.y, product.y_stride = link.value, link.outputs * self.itemsize
                product.threads = link.threads
                status = fl_run_linear(link.linear, &product)
            else:
                _add(source, plus, link.value, product.rows * link.outputs, self.itemsize)
            if status != FL_OK:
                break
        return status


cdef inline size_t _up(size_t size) noexcept nogil:
    return (size + 63) & ~<size_t>63


cdef inline bint _lie_apart(cnp.ndarray one, cnp.ndarray other):
    """Whether C-contiguous arrays share no memory."""
    cdef char *first = <char *>cnp.PyArray_DATA(one)
    cdef char *second = <char *>cnp.PyArray_DATA(other)
    return (
        first + cnp.PyArray_NBYTES(one) <= second or second + cnp.PyArray_NBYTES(other) <= first
    )


cdef void _add(const char *a, const char *b, char *y, int64_t count, int itemsize) noexcept nogil:
    cdef int64_t n
    if itemsize == 4:
        for n in range(count):
            (<float *>y)[n] = (<const float *>a)[n] + (<const float *>b)[n]
    else:
        for n in range(count):
            (<double *>y)[n] = (<const double *>a)[n] + (<const double *>b)[n]


def line(links, int64_t batch):
    return Line(links, batch)


def prepare(dtype):
    pass


def describe():
    from .. import __version__

    return {
        "version": __version__, "instruction_set": _isa_name(_ISA),
        "caches": Caches(_CACHES.l1, _CACHES.l2, _CACHES.l3, _CACHES.l3_sharers),
    }
