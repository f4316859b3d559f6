"""Trace: the gates and states of every LSTM inside a model, at every step of a run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..arrays import as_array
from ..checks import quoted
from ..sequences.batch import Ragged
from ..sequences.packing import (
    PackedSequence,
    check_packed,
    lengths_of,
    uniform_sizes,
    unpack_sequence,
)
from ..terminal import printable
from .layer import Layer
from .lstm import LSTM
from .lstm_cell import LSTMCell

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..arrays import Floats, Integers
    from ..sequences.batch import Batch

GATES = "i", "f", "g", "o"
SIGNALS = *GATES, "c", "h"


class Layout(NamedTuple):
    """How the arrays of a trace lie: whether they have a batch, and where; lengths if ragged."""

    batched: bool
    batch_first: bool
    lengths: Integers | None = None

    def one(self, value: Any, number: int) -> Any:
        """Return the steps of one sequence."""
        if hasattr(value, "batch_sizes"):
            sequences = unpack_sequence(value)
        elif not self.batched:
            sequences = [value]
        else:
            sequences = value if self.batch_first else value.swapaxes(0, 1)
        if not -len(sequences) <= number < len(sequences):
            raise IndexError(f"there is no sequence {number}, there are {len(sequences)}")
        one = sequences[number]
        return one if self.lengths is None else one[: self.lengths[number]]


class LayerTrace:
    """What one layer of an LSTM did in one direction: its gates and states after every step.

    Attributes
    ----------
    i, f, o : ndarrays of shape (T, B, H), in the layout of the layer's input; or PackedSequences
        Input, forget and output gate, after their activation: between 0 and 1 with the usual one.
    g : as `i`
        The candidate, what the input gate lets into the cell; between -1 and 1 with the usual tanh.
    c : as `i`
        The cell state after the step.
    h : as `i`, with P features
        The output after the step; P is H, or `proj_size`.
    name : str
        The key in the trace, such as "lstm.l0_reverse".
    reverse : bool
        Whether the layer runs from the end in this direction. The arrays are in the order of time
        all the same: at place t is what was computed when step t of the input was read.

    Examples
    --------
    >>> lstm = fastlstm.LSTM(3, 4, seed=0)
    >>> trace = fastlstm.visualize.trace(lstm, np.ones((5, 2, 3), np.float32))
    >>> layer = trace["l0"]
    >>> layer
    LayerTrace('l0': i, f, g, o, c, h (5, 2, 4) float32)
    >>> np.allclose(layer.c[1], layer.f[1] * layer.c[0] + layer.i[1] * layer.g[1])
    True
    >>> layer.sequence(1)
    LayerTrace('l0': i, f, g, o, c, h (5, 4) float32)
    """

    i: Any
    f: Any
    g: Any
    o: Any
    c: Any
    h: Any

    def __init__(self, name: str, reverse: bool, layout: Layout, signals: dict[str, Any]) -> None:
        self.name, self.reverse, self._layout = name, reverse, layout
        self.__dict__.update(signals)

    def signals(self) -> dict[str, Any]:
        """Return i, f, g, o, c and h by their names."""
        return {name: vars(self)[name] for name in SIGNALS}

    def sequence(self, number: int = 0) -> LayerTrace:
        """Return the trace of one sequence, without the axis of the batch and without padding.

        Parameters
        ----------
        number : int
            Which sequence of the batch; 0 of input without a batch.

        Returns
        -------
        LayerTrace
            With arrays (T, H) of the sequence's own T steps.

        Raises
        ------
        IndexError
            If there is no such sequence.
        """
        signals = {name: self._layout.one(v, number) for name, v in self.signals().items()}
        return LayerTrace(self.name, self.reverse, Layout(False, False), signals)

    def __repr__(self) -> str:
        return f"LayerTrace({self.name!r}: {self._shapes()} {self._dtype()})"

    def _shapes(self) -> str:
        c, h = (_shape(value) for value in (self.c, self.h))
        return f"i, f, g, o, c, h {c}" if c == h else f"i, f, g, o, c {c}, h {h}"

    def _dtype(self) -> str:
        return str(getattr(self.c, "data", self.c).dtype) if is_pack(self.c) else str(self.c.dtype)


class Trace:
    """The gates and states of every LSTM inside a model, at every step of one run.

    Attributes
    ----------
    layers : dict of str -> LayerTrace
        One for each layer and direction, from the input to the output. Keys are the names of the
        parameters without their beginning: "l0" and "l0_reverse" of an LSTM, "encoder.l0" of one
        that a model has as "encoder". An LSTMCell has its own name, "cell" if it is the model; each
        call of it is a step, so that its arrays are (calls, B, H) or (calls, H). If a layer of your
        own runs an LSTM more than once, the second run has the key "encoder.l0.run2", and so on.
    input
        What the model was given.
    output
        What the model returned; of an LSTM, and wherever states were given, without the final ones.

    Examples
    --------
    >>> model = fastlstm.Sequential({"lstm": fastlstm.LSTM(3, 4), "fc": fastlstm.Linear(4, 1)})
    >>> trace = fastlstm.visualize.trace(model, np.ones((5, 2, 3), np.float32))
    >>> trace
    Trace(
      input: (5, 2, 3) float32
      'lstm.l0': i, f, g, o, c, h (5, 2, 4)
      output: (5, 2, 1) float32
    )
    >>> trace["lstm.l0"].f.shape, trace["lstm"] is trace["lstm.l0"]
    ((5, 2, 4), True)
    """

    def __init__(self, layers: dict[str, LayerTrace], input: Any, output: Any) -> None:
        self.layers, self.input, self.output = layers, input, output

    def __getitem__(self, name: str) -> LayerTrace:
        """Return a layer by its key, or by the beginning of it where no other key begins so.

        Raises
        ------
        KeyError
            If there is none, or more than one.
        """
        if name in self.layers:
            return self.layers[name]
        found = [key for key in self.layers if key.startswith(f"{name}.")]
        if len(found) == 1:
            return self.layers[found[0]]
        what = (
            f"is more than one: {quoted(found)}" if found else f"is none of {quoted(self.layers)}"
        )
        raise KeyError(f"{name!r:.100} {what}")

    def __repr__(self) -> str:
        layers = [f"{key!r}: {layer._shapes()}" for key, layer in self.layers.items()]
        lines = [f"input: {described(self.input)}", *layers, f"output: {described(self.output)}"]
        return "\n".join(["Trace(", *(f"  {printable(line)}" for line in lines), ")"])


def trace(
    model: Layer,
    input: Any,
    hx: Any = None,
    *,
    lengths: ArrayLike | None = None,
    **options: Any,
) -> Trace:
    """Run a model, and return the gates and states of every LSTM in it at every step.

    Parameters
    ----------
    model : Layer
        An LSTM, an LSTMCell, or any model with such inside, as a Sequential or a GraphModel.
    input : what the model takes
        Of a GraphModel, its first input, or a dict of all.
    hx : optional
        Initial states, as the model takes them.
    lengths : B ints, optional
        The real steps of each sequence, as the model takes them. Past them all arrays are 0.
    **options
        What else a call of the model takes, such as the `mask` of an LSTM.

    Returns
    -------
    Trace

    Raises
    ------
    TypeError
        If `model` is no layer.
    ValueError
        If no LSTM ran, and whatever the model raises.

    Notes
    -----
    A copy of the model runs, in evaluation mode: without dropout and with the expected values of
    zoneout. The model itself does not change in any way. Cost: a copy of the weights, the call, and
    6 H values for each step, layer and direction. Needs NumPy alone.

    Examples
    --------
    >>> lstm = fastlstm.LSTM(3, 4, num_layers=2, bidirectional=True, seed=0)
    >>> trace = fastlstm.visualize.trace(lstm, np.ones((5, 3), np.float32))
    >>> trace
    Trace(
      input: (5, 3) float32
      'l0': i, f, g, o, c, h (5, 4)
      'l0_reverse': i, f, g, o, c, h (5, 4)
      'l1': i, f, g, o, c, h (5, 4)
      'l1_reverse': i, f, g, o, c, h (5, 4)
      output: (5, 8) float32
    )
    >>> np.array_equal(trace["l1"].h, trace.output[:, :4])
    True
    """
    twin = quiet_copy(model, "trace")
    recorders: list[_LSTMRuns | _CellRuns] = []
    seen: set[int] = set()
    for prefix, layer in twin.named_layers():
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if isinstance(layer, LSTM):
            recorders.append(_LSTMRuns(layer, prefix.removesuffix(".")))
        elif isinstance(layer, LSTMCell):
            recorders.append(_CellRuns(layer, prefix.removesuffix(".")))
    given = {"hx": hx, "lengths": lengths, **options}
    result = twin(input, **{name: value for name, value in given.items() if value is not None})
    layers = {one.name: one for recorder in recorders for one in recorder.layers()}
    if not layers:
        raise ValueError(f"trace: no LSTM or LSTMCell ran in this {type(model).__name__}")
    return Trace(layers, as_given(input), without_states(model, result, hx))


def quiet_copy(model: Layer, what: str) -> Layer:
    """Return a copy of a model in evaluation mode; TypeError if it is none."""
    if not isinstance(model, Layer):
        raise TypeError(f"{what}: model must be a fastlstm layer, got {type(model).__name__}")
    return copy.deepcopy(model).eval()


def as_given(input: Any) -> Any:
    """Return what a model was given as arrays, if it is one array or pack."""
    if is_pack(input):
        data, *rest = check_packed(input)
        return PackedSequence(as_array(data, "input"), *rest)
    if isinstance(input, (dict, tuple)):
        return input
    return as_array(input, "input")


def without_states(model: Layer, result: Any, hx: Any) -> Any:
    """Return the output out of what a call returned that may have final states beside it."""
    stated = isinstance(model, LSTM) or (hx is not None and not isinstance(model, LSTMCell))
    return result[0] if stated else result


def input_of(trace: Trace, layer: LayerTrace, sequence: int) -> Floats | None:
    """Return the model's input (T, I) for one sequence of a layer.

    None if that is no array of floats with a row for each step of the layer.
    """
    given, like = trace.input, layer.c
    if is_pack(given) != is_pack(like):
        return None
    data, other = (given.data, like.data) if is_pack(given) else (given, like)
    if not isinstance(data, np.ndarray) or data.dtype.kind != "f":
        return None
    if data.shape[:-1] != other.shape[:-1]:
        return None
    one: Floats = layer._layout.one(given, sequence)
    return one


class _LSTMRuns:
    """Notes what every run of an LSTM, a copy, leaves: its batch, and the tapes of its layers."""

    def __init__(self, lstm: LSTM, name: str) -> None:
        self._lstm, self._name = lstm, name
        self._runs: list[tuple[Batch, list[Any]]] = []
        self._record_of_class = lstm._record
        # All ways to run an LSTM lead to `_record` now.
        vars(lstm).update(
            _at_once=lambda *arguments: None,
            _ahead_of=lambda lookup: None,
            _run=self._run,
            _record=self._record,
        )

    def _record(self, batch: Batch, states: list[Floats], *how: Any, **told: Any) -> Any:
        y, tapes = self._record_of_class(batch, states, back=False)
        self._runs.append((batch, tapes))
        return y, tapes

    def _run(self, batch: Batch, states: list[Floats], cells: list[Floats] | None = None) -> Floats:
        y: Floats
        y, tapes = self._record(batch, states)
        if cells is not None:
            for tape in tapes:
                each = [c for _, c in self._lstm._saved(tape)]
                cells.append(np.concatenate(each, axis=1))
        return y

    def layers(self) -> Iterator[LayerTrace]:
        """Yield the trace of each layer and direction of each run."""
        lstm, prefix = self._lstm, self._name and self._name + "."
        for number, (batch, tapes) in enumerate(self._runs, 1):
            layout = _layout(lstm, batch)
            end = "" if number == 1 else f".run{number}"
            for n, tape in enumerate(tapes):
                saved = lstm._saved(tape)
                ((cells,), (gates,)) = lstm._seen(batch, [saved], True, True)
                values = [*gates, cells, batch.output(tape.y)]
                each = [_split(value, lstm._directions) for value in values]
                for k, signals in enumerate(zip(*each, strict=True)):
                    name = f"{prefix}l{n}{'_reverse' * k}{end}"
                    by_name = dict(zip(SIGNALS, signals, strict=True))
                    yield LayerTrace(name, lstm._backward[k], layout, by_name)


class _CellRuns:
    """Notes the gates and states of every call of an LSTMCell, a copy."""

    def __init__(self, cell: LSTMCell, name: str) -> None:
        self._cell, self._name = cell, name or "cell"
        self._steps: list[dict[str, Floats]] = []
        vars(cell).update(_at_once=self._call)

    def _call(self, input: Any, hx: Any, time_axis: int) -> tuple[Floats, Floats]:
        rows, h, c = self._cell._arrange(input, hx)
        width = self._cell.hidden_size
        gates, cells = np.empty((0, 4 * width), c.dtype), np.empty((0, width), c.dtype)
        if len(rows):
            stack, sizes = self._cell._stacks()[0], uniform_sizes(1, len(rows))
            y = np.empty_like(h)
            ((gates, cells),) = stack.saved(
                stack.record(rows, sizes, h[None], c[None], y, self._cell.num_threads or 1)
            )
        values = [*np.split(gates, 4, axis=1), cells, h]
        if np.ndim(input) == 1:
            values, h, c = [value[0] for value in values], h[0], c[0]
        self._steps.append(dict(zip(SIGNALS, (v.copy() for v in values), strict=True)))
        return h, c

    def layers(self) -> Iterator[LayerTrace]:
        """Yield the trace of all calls, if there was one."""
        if self._steps:
            signals = {name: np.stack([step[name] for step in self._steps]) for name in SIGNALS}
            layout = Layout(signals["c"].ndim == 3, False)
            yield LayerTrace(self._name, False, layout, signals)


def _layout(lstm: LSTM, batch: Batch) -> Layout:
    lengths = None
    if type(batch) is Ragged:
        lengths = np.zeros(batch.size, np.int64)
        lengths[batch.sequences] = lengths_of(batch.batch_sizes)
    return Layout(batch.batched, bool(lstm.batch_first), lengths)


def _split(value: Any, directions: int) -> list[Any]:
    """Return the features of each direction; of a pack, packs."""
    if is_pack(value):
        return [value._replace(data=part) for part in _split(value.data, directions)]
    return np.split(value, directions, axis=-1)


def is_pack(value: Any) -> bool:
    return hasattr(value, "batch_sizes")


def _shape(value: Any) -> str:
    return f"packed {value.data.shape}" if is_pack(value) else str(np.shape(value))


def described(value: Any) -> str:
    """Tell the shapes of what a model takes or gives."""
    if isinstance(value, dict):
        return ", ".join(f"{name!r} {described(one)}" for name, one in value.items())
    if isinstance(value, (tuple, list)) and not is_pack(value) and hasattr(value[0], "shape"):
        return ", ".join(map(described, value))
    array = value.data if is_pack(value) else np.asarray(value)
    return f"{_shape(value)} {array.dtype}"
