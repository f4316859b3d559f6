"""The contract between layers and engines: the legend, the equations, `Cell` and `Stack`.

Legend, used by every engine::

    T steps, B sequences (rows), I input size, H hidden size, P output size (H, or proj_size)
    N = sum(batch_sizes), the real steps of all sequences together
    gates i, f, g, o in torch's order: rows 0:H, H:2H, 2H:3H, 3H:4H of every (4H, ...) array
    z the gates' pre-activations; h the output state, c the cell state

One step of one layer in one direction::

    z = W_ih x + W_hh h + b                                              (1)
    i = sigmoid(z_i); f = sigmoid(z_f); g = tanh(z_g); o = sigmoid(z_o)  (2)
    c = f * c + i * g                                                    (3)
    h = o * tanh(c)                                                      (4)
    h = W_hr h                                    only with a projection (5)

(Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins 2000; projection: Sak,
Senior & Beaufays 2014.)

Backward through the same step. `d` before a name is the gradient of it; `_0` after a name is what
it was before the step; dh and dc are what the later steps left; with a projection, m is
o * tanh(c); += sums over all steps::

    dh += dy;  dm = W_hr^T dh;  dW_hr += dh m^T          dm = dh without a projection (6)
    dc += dm * o * (1 - tanh(c)^2)                                                 (7)
    dz_i = dc * g * i * (1 - i);    dz_f = dc * c_0 * f * (1 - f)
    dz_g = dc * i * (1 - g^2);      dz_o = dm * tanh(c) * o * (1 - o)              (8)
    dc_0 = dc * f;  dh_0 = W_hh^T dz                                               (9)
    dx = W_ih^T dz;  dW_ih += dz x^T;  dW_hh += dz h_0^T;  db += dz                (10)

That is the plain cell. `Options`, and arrays that a `Cell` has beside its weights, change the step.
One step with all of them, in order; c_0 and h_0 are the states before it::

    m   = h_0 * noise.h                                    recurrent dropout, in training   (11)
    s   = b + W_ih x + W_hh m                                                               (12)
          b + ln_ih * norm(W_ih x) + ln_hh * norm(W_hh m)  layer_norm "haste": over 4H
          W_ih x + W_hh m                                  layer_norm "tflite"
    s_i += w_ci * c_0;  s_f += w_cf * c_0;  s_o += w_co * c'    peepholes; c' is that of (16) (13)
    z   = s;  or z_q = b_q + ln_q * norm(s_q) for each gate q    layer_norm "tflite": over H  (14)
    i = gate(z_i);  f = gate(z_f);  g = cell(z_g);  o = gate(z_o)    z within +-gate_clip  (15)
          f = 1 - i or i = 1 - f                           coupled
    c'  = f * c_0 + i * g                                  within +-cell_clip              (16)
    h'  = o * output(c')                                                                   (17)
          o * output(b_c + ln_c * norm(c'))                layer_norm "haste": over H
    h'  = W_hr h'                                          within +-proj_clip              (18)
    c   = (1 - zone_c) * c' + zone_c * c_0;  h likewise, of h' and h_0    zoneout          (19)

norm(v) is (v - mean) / sqrt(variance + epsilon), both over the values of one row; the variance is
the mean of the squares of v - mean. In training zone_c and zone_h are masks of 0 and 1 for every
value, otherwise the probabilities themselves. The derivative of a clip is 1 within the bounds and
at them. (Peepholes: Gers & Schmidhuber 2000. Coupled gates: Greff et al. 2017. Layer normalisation:
Ba, Kiros & Hinton 2016, as TFLite's operator UNIDIRECTIONAL_SEQUENCE_LSTM has it, with epsilon
1e-8, and as Haste's LayerNormLSTM, with 1e-5. Zoneout: Krueger et al. 2017. Recurrent dropout with
one mask for all steps: Gal & Ghahramani 2016.)

Backward, the steps of (11) to (19) are undone in turn. With a peephole of o, dc receives
w_co ds_o before (16); dc_0 receives w_ci ds_i + w_cf ds_f. What (12) had is what (10) takes: with
"haste", dW_ih and dx come from the gradient of W_ih x, and dW_hh and dh_0 from that of W_hh m.

Packed rows are the one layout that engines see. The rows of step 0 come first, then those of
step 1, and so on; step t has a row for each of the first ``batch_sizes[t]`` sequences. Sequences
are sorted by length, the longest first, so `batch_sizes` never increases. Its first number is B: a
sequence without steps has no row, and engines do not see it.

The caller has checked and allocated everything. An engine checks nothing, fills what it is given,
keeps nothing that could change a result, and may be called from many threads at once. Long calls
let Python run the handlers of signals between two pieces of time. If a handler raises, as that of
Ctrl-C does, the call ends there, and what it fills or changes is worth nothing: the caller puts
states and gradients back. No bit of a result depends on the pieces.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = np.ndarray[Any, np.dtype[Any]]
"""An array of float32 or float64; all arrays of one stack and of its calls have one dtype."""


class Activation(NamedTuple):
    """A function of one number: one of those of ONNX's operator LSTM, with its parameters.

    ================ ========================================== ===============
    name             value at x                                 alpha, beta
    ================ ========================================== ===============
    sigmoid          1 / (1 + exp(-x))
    tanh             tanh(x)
    relu             max(x, 0)
    affine           alpha x + beta                             both
    leaky_relu       x, or alpha x where x < 0                  alpha
    thresholded_relu x, or 0 where x <= alpha                   alpha
    scaled_tanh      alpha tanh(beta x)                         both
    hard_sigmoid     alpha x + beta, within 0 and 1             both
    elu              x, or alpha (exp(x) - 1) where x < 0       alpha
    softsign         x / (1 + abs(x))
    softplus         log(1 + exp(x))
    ================ ========================================== ===============
    """

    name: str
    alpha: float = 0.0
    beta: float = 0.0


ACTIVATIONS = (
    "sigmoid", "tanh", "relu", "affine", "leaky_relu", "thresholded_relu", "scaled_tanh",
    "hard_sigmoid", "elu", "softsign", "softplus",
)  # fmt: skip
"""The names of the functions; their places are the numbers that compiled engines use."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What equations (11) to (19) take beside arrays; the defaults are the plain cell's.

    Attributes
    ----------
    gate_clip, cell_clip, proj_clip : float
        Bounds of z, c' and the projected h'; infinite without a clip.
    coupled : {"", "f=1-i", "i=1-f"}
        Which gate follows another. The rows of that gate are zeros in every array of a cell, and
        its gradients are zeros.
    gate, cell, output : Activation
        The functions of (15) and (17).
    layer_norm : {"", "tflite", "haste"}
        Which normalisation there is. The mean and variance of "haste" leave out the rows of a gate
        that `coupled` takes away.
    zoneout_h, zoneout_c : float
        The probabilities with which a value stays what it was.
    """

    gate_clip: float = math.inf
    cell_clip: float = math.inf
    proj_clip: float = math.inf
    coupled: Literal["", "f=1-i", "i=1-f"] = ""
    gate: Activation = Activation("sigmoid")
    cell: Activation = Activation("tanh")
    output: Activation = Activation("tanh")
    layer_norm: Literal["", "tflite", "haste"] = ""
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0


EPSILON = {"tflite": 1e-8, "haste": 1e-5}
"""What norm adds to the variance."""


class Noise(NamedTuple):
    """What training draws at random for one run of one direction; None where there is none.

    A plain cell with noise follows (11) to (19) as well.

    Attributes
    ----------
    h : ndarray of shape (B, P)
        The factors of (11), for each sequence in the order of its row in step 0.
    zone_h, zone_c : ndarrays of shape (N, P) and (N, H)
        The masks of (19), of 0 and 1.
    """

    h: Array | None = None
    zone_h: Array | None = None
    zone_c: Array | None = None


PLAIN = Options()


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """What one layer computes with in one direction: its parameters, or the gradients of them.

    An option of the recurrence is a field here and equations in each engine; section 1 of
    ``docs/architecture.md`` lists the places. As a value a cell never changes:
    neither its fields nor, while it holds parameters, the numbers in its arrays. Engines add into
    the arrays of gradients. All arrays are C-contiguous and of one dtype.

    Attributes
    ----------
    w_ih : ndarray of shape (4H, I)
        I is the layer's input size: above the first layer of a stack, directions * P.
    w_hh : ndarray of shape (4H, P)
    b : ndarray of shape (4H,)
    w_hr : ndarray of shape (P, H), or None without a projection
    w_ci, w_cf, w_co : ndarrays of shape (H,), or None without peepholes
    ln : ndarray of shape (4H,), or None
        The gains of (14), with layer_norm "tflite".
    ln_ih, ln_hh, ln_c, b_c : ndarrays of shape (4H,), (4H,), (H,), (H,), or None
        The gains of (12) and (17) and the bias of (17), with layer_norm "haste".
    reverse : bool
        Whether the cell runs from each sequence's own last step to step 0. Of two directions the
        second one does, and the first does not.
    options : Options
    """

    w_ih: Array
    w_hh: Array
    b: Array
    w_hr: Array | None = None
    w_ci: Array | None = None
    w_cf: Array | None = None
    w_co: Array | None = None
    ln: Array | None = None
    ln_ih: Array | None = None
    ln_hh: Array | None = None
    ln_c: Array | None = None
    b_c: Array | None = None
    reverse: bool = False
    options: Options = PLAIN

    @property
    def sizes(self) -> tuple[int, int, int]:
        """I, H and P."""
        return self.w_ih.shape[1], len(self.b) // 4, self.w_hh.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of all its numbers."""
        return self.w_ih.dtype

    @property
    def is_plain(self) -> bool:
        """Whether equations (1) to (10) say all: no option and no further array is there."""
        # Most cells have the very object: a comparison of all fields would take a microsecond.
        if self.options is not PLAIN and self.options != PLAIN:
            return False
        return self.w_ci is self.w_cf is self.w_co is self.ln is self.ln_ih is self.ln_c is None

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Cell:
        """Return ``Cell(**fields)``, without a call for each field: training makes two a step."""
        cell = object.__new__(cls)
        vars(cell).update(fields)
        return cell

    def arrays(self) -> dict[str, Array]:
        """Return the arrays that this cell has, by the names of the fields."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {array.shape}" for name, array in self.arrays().items())
        more = "" if self.options == PLAIN else f", {self.options}"
        return f"Cell({shapes} of {self.dtype}, reverse={self.reverse}{more})"

    def map(self, function: Callable[[Array], Array]) -> Cell:
        """Return a cell of what `function` makes of each array that this cell has."""
        arrays: dict[str, Any] = {name: function(array) for name, array in self.arrays().items()}
        return dataclasses.replace(self, **arrays)


class Step(Protocol):
    """The step of one stream, which `Stack.step` returns."""

    def __call__(self, x: ArrayLike, out: Array | None = None) -> Array:
        """Advance every stream by one step.

        Parameters
        ----------
        x : array of shape (B, I)
            Of the layer's dtype; `fastlstm.arrays` says what is converted.
        out : ndarray of shape (B, P), optional
            C-contiguous, of the layer's dtype. It is filled and returned, so that nothing is
            allocated for the result. It must not share memory with `x`.

        Returns
        -------
        ndarray of shape (B, P)

        Raises
        ------
        ValueError, TypeError
            If a shape or dtype does not fit, or `out` shares memory with `x`; the state has not
            moved.
        RuntimeError
            If another thread makes a step of the same stream now (engine native).
        """
        ...


class Stack(Protocol):
    """Layers on top of each other, packed once for an engine.

    Parameters
    ----------
    cells : sequence of Cell
        For each layer, and in it for each direction. The stack keeps a copy in its own order: later
        changes of the arrays change nothing.
    directions : {1, 2}
        How many cells a layer has; the second one is `reverse`. What a layer hands on has the
        outputs of both side by side. All cells have the same sizes, but for I, and options.
    back : bool
        Whether gradients will be asked for. Such a stack has one layer.
    spare : dict, optional
        Memory that the stacks of one layer hand on to each other. Training packs the weights anew
        at every step and fills another tape, and fresh memory would cost a tenth of the time.

    Attributes
    ----------
    stale : bool
        False. The layer sets it when the stack is no longer what the layer runs on, because its
        parameters or its number of threads have changed. Steps look at it.
    """

    stale: bool

    def __init__(
        self,
        cells: Sequence[Cell],
        directions: int,
        back: bool = False,
        spare: dict[str, Any] | None = None,
    ) -> None: ...

    def run(
        self,
        x: Array,
        batch_sizes: Array,
        h: Array,
        c: Array,
        y: Array,
        threads: int,
        noise: Sequence[Noise] | None = None,
        cells: Array | None = None,
        table: Any = None,
        index: Array | None = None,
    ) -> None:
        """Run whole sequences: equations (1) to (5), or (11) to (19).

        Parameters
        ----------
        x : ndarray of shape (N, I)
            Packed rows. Values of a row lie side by side and are aligned; rows may lie apart. Not
            written. With a `table`, int64 of shape (N, 1): which of its rows each of them is.
        batch_sizes : int64 ndarray of shape (T,)
            As the module says.
        h, c : ndarrays of shape (layers * directions, B, P) and (layers * directions, B, H)
            C-contiguous. They hold the initial states, and afterwards each sequence's states after
            its own last step (of the second direction: after its step 0).
        y : ndarray of shape (N, directions * P)
            Filled with the last layer's h, at the rows of `x`. Its rows may lie apart.
        threads : int
            How many threads may work at once.
        noise : sequence of Noise, optional
            For each direction, for stacks of one layer. None: nothing is random.
        cells : ndarray of shape (N, directions * H), optional
            Filled with c after every step, for stacks of one layer. Its rows may lie apart.
        table : object, optional
            What `table` returned.
        index : int64 ndarray of shape (B,), optional
            h and c then hold the states of more sequences than the run has, and these are the rows
            of its own, on the second axis; none comes twice. Other rows are not touched.
        """
        ...

    def table(self, x: Array) -> Any:
        """Make what the first layer makes of inputs that come again and again, b + W_ih x of (1).

        Parameters
        ----------
        x : ndarray of shape (rows, I)
            As that of `run`.

        Returns
        -------
        object
            For `run`, `call` and `step` of this stack, which then take numbers of these rows, all
            within them, in place of the rows, and give the same bits. None if the engine gains
            nothing; it is never given a table then.
        """
        ...

    def call(
        self, x: Any, hx: Any, time_axis: int, threads: int, table: Any = None
    ) -> tuple[Any, ...] | None:
        """Run what the caller of a layer gives, from the checks to the results; None if it refuses.

        A small run takes less time than functions in Python that check and allocate for it. So
        here, in `step` and in `Product.call` an engine looks at what a caller gives. It may take
        arguments that need no conversion: of the very type ndarray, of the stack's dtype in native
        byte order, and of the right shape with at least one step and one sequence. It refuses all
        else, and everything if it gains nothing: the layer then checks, converts and calls `run`,
        which gives the same values.

        Parameters
        ----------
        x : object
            With `time_axis` 0 or 1 whole sequences, with (T, B, I), (B, T, I) or, without a batch,
            (T, I) as the shapes that may fit. With -1 one step, (B, I) or (I,), for stacks of one
            layer and direction.
        hx : object
            None for zeros, or a pair of states (layers * directions, B, P) and (layers *
            directions, B, H). They lack B where `x` does; with one step they lack the first axis.
        time_axis : {0, 1, -1}
            Where `x` has the steps of a batch.
        threads : int
            As for `run`.
        table : object, optional
            As for `run`: `x` is then int64, without the axis of features.

        Returns
        -------
        y, (h, c) : ndarrays
            y as `x`, with directions * P features, a transposed view if `time_axis` is 1; the
            final states as `hx`. With one step ``h, c`` alone. None of them shares memory with what
            was given.
        """
        ...

    def record(
        self,
        x: Array,
        batch_sizes: Array,
        h: Array,
        c: Array,
        y: Array,
        threads: int,
        checkpoint_every: int = 0,
        noise: Sequence[Noise] | None = None,
    ) -> Any:
        """Run a stack of one layer, and keep what `saved` and `back` need.

        Parameters
        ----------
        x, batch_sizes, h, c, y, threads
            As for `run`. `x` and `y` are kept, not copied.
        checkpoint_every : int
            With 0, the gates and cells of every step are kept. Otherwise the states at every so
            many steps are kept, from which `back` computes the rest again.
        noise
            As for `run`. It is kept, not copied.

        Returns
        -------
        tape
            For `saved` and `back` of the same stack, any number of times.
        """
        ...

    def saved(self, tape: Any) -> list[tuple[Array, Array]]:
        """Return the gates and cells of every step of a run recorded without checkpoints.

        Returns
        -------
        list of (gates, cells)
            For each direction two fresh arrays: i, f, g, o after (15), of shape (N, 4H), and c, of
            shape (N, H).
        """
        ...

    def back(
        self,
        tape: Any,
        dy: Array,
        dh: Array,
        dc: Array,
        dx: Array | None,
        dw: Sequence[Cell],
        threads: int,
        dcells: Sequence[Array | None] | None = None,
    ) -> None:
        """Go back through a recorded run of a stack made with ``back=True``: (6) to (10).

        Parameters
        ----------
        tape
            What `record` returned.
        dy : ndarray of shape (N, directions * P)
            The gradient of y. Its rows may lie apart. Not written.
        dh, dc : ndarrays of shape (directions, B, P) and (directions, B, H)
            C-contiguous. They hold the gradients of the final states, and afterwards those of the
            initial states.
        dx : ndarray of shape (N, I), or None
            C-contiguous. Filled with the gradient of x; None if nobody needs it.
        dw : sequence of Cell
            For each direction the gradients of its parameters; they are added into.
        threads : int
            As for `run`; it may be another number.
        dcells : sequence of ndarray of shape (N, H) or None, optional
            For each direction the gradients of the cells that `saved` returns.
        """
        ...

    def step(
        self,
        h: Array,
        c: Array,
        present: Callable[[], tuple[Stack, int]],
        otherwise: Step,
        table: Any = None,
    ) -> Step:
        """Return the function that advances a stream by one step over a stack of one direction.

        A step is so short that a function in Python around it would take longer than the step.
        So the engine looks at what a caller gives, as in `call`. It may take `x` and `out` that fit
        as they are: aligned C-contiguous arrays of the stack's dtype, in native byte order and of
        the right shape. It hands all else to `otherwise`, and everything if it gains nothing.

        Parameters
        ----------
        h, c : ndarrays of shape (layers, B, P) and (layers, B, H)
            The states of the stream, which each step changes in place.
        present : callable
            Returns the stack that the layer runs on now, and its number of threads. The function
            asks at first, and again when the stack that it has is `stale`.
        otherwise : callable
            Checks, converts and makes the step by `run`; it raises what is to be raised.
        table : object, optional
            As for `run`: the function takes B int64, which are to be within its rows, and hands
            all else to `otherwise`, and everything if this stack, whose table it is, is `stale`.
        """
        ...


class Product(Protocol):
    """The product of rows with a matrix, y = W x + b, packed once for an engine.

    Each sum begins with b and adds the products with x in order, as (1) does; engine numpy leaves
    the order to its BLAS.

    Parameters
    ----------
    w : ndarray of shape (O, I)
    b : ndarray of shape (O,), or None

    Attributes
    ----------
    stale : bool
        False. As a `Stack`'s; lines look at it.
    """

    stale: bool

    def __init__(self, w: Array, b: Array | None) -> None: ...

    def run(self, x: Array, y: Array, threads: int) -> None:
        """Fill `y` (N, O) with the products of the rows of `x` (N, I).

        N is at least 1. Rows of both may lie apart, their values lie side by side.
        """
        ...

    def call(self, x: Any, threads: int) -> Array | None:
        """Return the product of what a caller gives, (..., I), or None; see `Stack.call`.

        Large products are refused too: the layer computes them in pieces, between which Python runs
        the handlers of signals.
        """
        ...

    def slide(
        self,
        x: Any,
        before: int,
        after: int,
        stride: int,
        dilation: int,
        rectified: bool,
        threads: int,
    ) -> Array | None:
        """Return a convolution of what a caller gives, x (N, C, S), or None; see `call`.

        I is K C, a kernel of K values; it moves over S in steps of `stride`, over `before` and
        `after` zeros too, and its own values are `dilation` apart. The caller has checked that it
        fits. The result is (N, O, P) of P positions, a view of (N, P, O); negative numbers become
        0, if `rectified`.
        """
        ...


class Link(NamedTuple):
    """One layer in a `Line`, or a sum: an LSTM has a `step`, a Linear a `product`, a sum a `plus`.

    The values that go through a line have numbers: 0 is its input, n what its nth link gives.
    """

    takes: int  # the number of a value with so many `inputs`
    inputs: int
    outputs: int
    step: Step | None = None  # what `Stack.step` returned; its states are the link's
    product: Callable[[], tuple[Product, int]] | None = None  # as the `present` of `Stack.step`
    plus: int | None = None  # the number of the value that is added to the one that it takes


class Line(Protocol):
    """Some layers of a stream, through which a step or a chunk goes in one call."""

    def run(self, x: Any, time_axis: int, out: Array | None = None) -> Array | None:
        """Advance the streams by what a caller gives, or return None; see `Stack.call`.

        Large runs are refused too: beside them it is nothing what the layers do one by one.

        Parameters
        ----------
        x : object
            (T, B, I) with `time_axis` 0, (B, T, I) with 1; one step (B, I) with -1.
        time_axis : {0, 1, -1}
            Where `x` has its steps.
        out : ndarray of shape (B, F), optional
            With one step: filled and returned. It must not share memory with `x`.

        Returns
        -------
        ndarray
            What the last link gives, as `x`.

        Raises
        ------
        RuntimeError
            If another thread advances a stream in it now; no state has moved.
        """
        ...


class Rule(NamedTuple):
    """How an optimiser changes parameters by their gradients, for one number of its step.

    The equations stand with the optimisers, in `fastlstm.training.optimisers`.

    Attributes
    ----------
    kind : {"sgd", "rmsprop", "adam"}
    rate : float
        By which a change is multiplied: minus the learning rate; of Adam, divided by 1 - beta1^n.
    decay, shrink : float
        The parameters times `decay` are added to the gradients, unless it is 0. Before that they
        are multiplied by `shrink`.
    momentum, dampening : float
        Of SGD and RMSprop.
    mean, square : float
        The shares that means of gradients and of their squares keep.
    root, eps : float
        Adam divides the root of the mean square by `root`; `eps` is added to it.
    nesterov, first : bool
        Of SGD: Nesterov's momentum, and whether the momentum begins in this step.
    """

    kind: Literal["sgd", "rmsprop", "adam"]
    rate: float
    decay: float
    shrink: float = 1.0
    momentum: float = 0.0
    dampening: float = 0.0
    mean: float = 0.0
    square: float = 0.0
    root: float = 1.0
    eps: float = 0.0
    nesterov: bool = False
    first: bool = False


class Engine(Protocol):
    """What the module of an engine exports; layers use nothing else of it."""

    def line(self, links: Sequence[Link], batch: int) -> Line | None:
        """Return what takes B streams through links, the last of which gives the result.

        None if the engine gains nothing. All links are of this engine and of one dtype, and the
        first has a step or a product; their features fit.
        """
        ...

    @property
    def Stack(self) -> type[Stack]:
        """The engine's `Stack`."""
        ...

    @property
    def Product(self) -> type[Product]:
        """The engine's `Product`."""
        ...

    def update(self, rule: Rule, p: Array, g: Array, moments: Sequence[Array | None]) -> bool:
        """Change parameters `p` and their moments by the gradients `g`, or return False.

        All are flat, contiguous and of one dtype. The moments are those of the rule in the order of
        the optimiser's `moment_names`, None for one that it does without. Each operation is rounded
        as NumPy rounds it. An engine that would gain nothing leaves the update to the optimiser.
        """
        ...

    def is_finite(self, x: Array) -> bool:
        """Tell whether all numbers of a contiguous array are finite."""
        ...

    def prepare(self, dtype: np.dtype[Any]) -> None:
        """Do before the first call what can be done then, such as compiling, for one dtype."""
        ...

    def describe(self) -> dict[str, object]:
        """Return what `fastlstm.engine_info` tells: "version", "instruction_set" and the like."""
        ...
