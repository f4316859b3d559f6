"""GraphModel: a whole network as a file has it, with named inputs and outputs; and its stream."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from ..arrays import as_array
from ..checks import check_dtype, check_size, quoted, short
from ..layers import Layer
from ..layers.stream import check_mask
from ..terminal import printable
from .alike import Alike
from .plan import Value

if TYPE_CHECKING:
    from ..arrays import Array
    from ..checks import Precision
    from .limits import Limits
    from .plan import Plan

_HALF = ("float16", "bfloat16")
_BATCH = re.compile(r"(?i)b|n|bs|n?_?batch.*|.*batch(_?size)?")  # what people call that axis


class Port(NamedTuple):
    """An input or output of a graph.

    ``dtype`` is None, and so is ``shape``, where the file does not tell it; strings have the dtype
    object. A size is a number, a name that stands for one, or None. An input with a ``default`` may
    be left out. ``listed`` says that the value is no array but a list of arrays.
    """

    name: str
    dtype: np.dtype[Any] | None = None
    shape: tuple[int | str | None, ...] | None = None
    default: Array | None = None
    listed: bool = False


class State(NamedTuple):
    """An input and an output that belong together: what one call gives, the next one takes.

    ``backward`` says that it is that of a layer which runs from the end to the beginning, and so
    does not go on from call to call.
    """

    input: Port
    output: str
    backward: bool = False

    @property
    def batch_axis(self) -> int | None:
        """The axis of the batch, which is the only one whose size is open; None if there is none.

        >>> State(Port("h", None, (2, "batch", 128)), "hn").batch_axis
        1
        """
        sizes = self.input.shape or ()
        places = [place for place, size in enumerate(sizes) if not isinstance(size, int)]
        return places[0] if len(places) == 1 else None


class GraphModel(Layer):
    """A network that was read from a file as a graph of operators, such as an ONNX file.

    It is run and streamed, and not trained. The LSTMs in it, and other layers that fastlstm has,
    are layers inside it: `named_layers`, `state_dict`, `repr` show them, and `load_state_dict`
    changes them. What the graph holds besides them stays as it is in the file.

    Parameters
    ----------
    plan : Plan
    inputs, outputs : sequence of Port
        In the order of the plan's.
    states : sequence of State
        Those inputs and outputs that belong together.
    layers : dict of str -> Layer
        The layers inside, which the plan's nodes use.
    limits : Limits
        Those of the plan's operators.

    Attributes
    ----------
    inputs, outputs : tuple of Port
    states : tuple of State

    Notes
    -----
    May be called from many threads at once. A call keeps no state: where the file's author meant
    the network to go on from call to call, `stream` does that.

    Examples
    --------
    >>> from fastlstm.graphs.limits import Limits
    >>> from fastlstm.graphs.plan import Node, Plan
    >>> plan = Plan([Node("add", "Add", np.add, ("h", "x"), ("hn",))], {}, ["x", "h"], ["hn"])
    >>> x, h = (Port(name, np.dtype("f4"), ("batch", 2)) for name in "xh")
    >>> model = GraphModel(plan, [x, h], [Port("hn")], [State(h, "hn")], {}, Limits(1000))
    >>> model
    GraphModel(
      input 'x' float32 (batch, 2)
      input 'h' float32 (batch, 2)
      output 'hn'
      state 'h' -> 'hn'
    )
    >>> model.run(["hn"], {"x": [[1.0, 2.0]], "h": [[3.0, 4.0]]})
    [array([[4., 6.]], dtype=float32)]
    >>> model([[1.0, 2.0]])
    array([[1., 2.]], dtype=float32)
    """

    def __init__(
        self,
        plan: Plan,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        states: Sequence[State],
        layers: Mapping[str, Layer],
        limits: Limits,
    ) -> None:
        dtypes = {str(layer.dtype) for layer in layers.values() if layer.num_parameters}
        super().__init__({}, "float64" if dtypes == {"float64"} else "float32", layers)
        self.inputs, self.outputs, self.states = tuple(inputs), tuple(outputs), tuple(states)
        self.plan, self.limits = plan, limits
        self._places = {port.name: place for place, port in enumerate(self.outputs)}
        of_states = {state.input.name for state in self.states}
        self._alike: Alike | None = None  # the last calls
        self._free = [port.name for port in self.inputs if port.name not in of_states]
        self.eval()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_alike": None}

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Value]:
        """Run the graph, as onnxruntime's ``InferenceSession.run``.

        Parameters
        ----------
        output_names : list of str, or None
            Which outputs to return, in this order; None is all.
        feeds : dict of str -> array
            A value for each input, by its name. Those with a default may be left out.

        Returns
        -------
        list of ndarray
            The caller's own: no later call writes into them.

        Raises
        ------
        ValueError, TypeError
            If an input is missing or unknown, or its type, axes or sizes do not fit; or if an
            operator cannot compute with these values, which the sentence names.

        Notes
        -----
        An array must have the dtype of its input. Lists and numbers have none and are converted,
        halves (float16, bfloat16) are widened, and integers become wider ones, as nothing is lost
        then.
        """
        places = None if output_names is None else self._places_of(output_names)
        results = self._results(feeds)
        return results if places is None else [results[place] for place in places]

    def _values(self, feeds: Mapping[str, Any]) -> list[Value]:
        """Return a value for each input, checked."""
        if not isinstance(feeds, Mapping):
            raise TypeError(
                f"feeds must be a dict of arrays by the names of inputs, got {type(feeds).__name__}"
            )
        known = [port.name for port in self.inputs]
        if unknown := [name for name in feeds if name not in known]:
            raise ValueError(f"there is no input {quoted(unknown)}; there are {quoted(known)}")
        missing = [p.name for p in self.inputs if p.name not in feeds and p.default is None]
        if missing:
            raise ValueError(f"a value is missing for the input {quoted(missing)}")
        values = [
            _fitting(port, feeds[port.name]) if port.name in feeds else port.default
            for port in self.inputs
        ]
        return values

    def _places_of(self, output_names: Sequence[str]) -> list[int]:
        """Return the places of outputs among all of them."""
        if isinstance(output_names, str):
            raise TypeError(f"output_names must be a list of names, got {output_names!r:.100}")
        if unknown := [name for name in output_names if name not in self._places]:
            raise ValueError(
                f"there is no output {quoted(unknown)}; there are {quoted(self._places)}"
            )
        return [self._places[name] for name in output_names]

    def _results(self, feeds: Mapping[str, Any]) -> list[Value]:
        """Run the graph; what this returns shares memory with nothing else.

        Numbers that overflow, and the like, come out as inf and nan, without a warning.
        """
        alike, plan = self._alike, self.plan
        values = alike and alike.values(feeds)
        with np.errstate(all="ignore"):
            if alike and values:
                plan = alike.plan(values)
            else:
                values = self._values(feeds)
                plain = all(type(v) is np.ndarray and v.dtype.kind != "O" for v in values)
                names = [port.name for port in self.inputs]
                # Of values that are lists or strings there is more to be checked.
                self._alike = Alike(plan, names, values) if plain else None
            results = plan.run(values)
        others = {id(value) for value in values}  # of which nothing may be returned
        for place, value in enumerate(results):
            if (
                value.__class__ is np.ndarray
                and value.base is None
                and value.dtype.kind != "U"
                and value.flags.writeable
                and id(value) not in others
            ):
                others.add(id(value))  # as is usual: an array of its own
            else:
                results[place] = _own(value, values, others)
        return results

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the graph from the beginning of a sequence.

        Parameters
        ----------
        *inputs, **named
            Values of the inputs, in order or by name, or one dict of them by name. States may be
            left out, and are zeros then.

        Returns
        -------
        ndarray, or tuple of ndarray
            The outputs, without the final states; `run` returns these too.

        Raises
        ------
        ValueError, TypeError
            As `run` raises them.
        """
        feeds = self._feeds(inputs, named)
        feeds |= self._zero_states(feeds)
        results = self.run(self._own_outputs(), feeds)
        return results[0] if len(results) == 1 else tuple(results)

    def stream(self, batch_size: int = 1) -> GraphStream:
        """Begin a stream: calls that go on where the call before has ended.

        Parameters
        ----------
        batch_size : int
            The size of those axes of the states whose size the file leaves open.

        Returns
        -------
        GraphStream

        Raises
        ------
        ValueError
            If the graph has no inputs and outputs that belong together as a state, or one of a
            layer that runs backward; or if the file leaves no size of these open and `batch_size`
            is more than 1.
        """
        return GraphStream(self, check_size("batch_size", batch_size))

    def _live(self, name: str, given: Any, states: Any) -> NoReturn:
        """Refuse: only its own streams know what of it is a state."""
        raise ValueError(
            f"{short(name) + ': ' if name else ''}a GraphModel keeps states that only a stream of "
            "it alone knows: GraphModel.stream makes one"
        )

    def vjp(self, *inputs: Any, **named: Any) -> NoReturn:
        """Refuse: a graph that was read from a file is not trained."""
        raise NotImplementedError(
            "a GraphModel runs and does not learn: fastlstm.load_lstm takes an LSTM out of the "
            "file, which does"
        )

    def astype(self, dtype: Precision) -> GraphModel:
        """Return a copy of the same precision; a graph has types of its own, which stay."""
        if check_dtype(dtype) != self.dtype:
            wanted = f"dtype={str(np.dtype(dtype))!r}"
            raise ValueError(
                "the numbers in a graph have the types that its file gives them: "
                f"fastlstm.load(path, {wanted}) reads a Keras file in another one, "
                f"fastlstm.load_lstm(path, {wanted}) an LSTM out of any file"
            )
        return copy.deepcopy(self)

    def _feeds(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of inputs by their names; those in order are for others than states."""
        names = self._free
        if len(inputs) == 1 and not named and isinstance(inputs[0], Mapping):
            return dict(inputs[0])
        if len(inputs) > len(names):
            raise TypeError(f"it takes {len(names)} inputs, {quoted(names)}, got {len(inputs)}")
        feeds = dict(zip(names, inputs, strict=False))
        if not named:
            return feeds
        if twice := feeds.keys() & named.keys():
            raise TypeError(f"the input {quoted(sorted(twice))} is given twice")
        return feeds | dict(named)

    def _zero_states(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Return zeros for those states that are not among the values of inputs."""
        sizes, rest = _open_sizes(self.inputs, feeds)
        left = [s for s in self.states if s.input.name not in feeds and s.input.default is None]
        return {state.input.name: self._zeros(state, sizes, rest) for state in left}

    def _zeros(self, state: State, sizes: Mapping[str, int], rest: int) -> Array:
        """Return a state of zeros: `sizes` has those of named axes, the others have size `rest`."""
        port = state.input
        if port.shape is None:
            raise ValueError(
                f"the state {short(port.name)} must be given: the file does not tell its shape"
            )
        shape = [n if isinstance(n, int) else sizes.get(n or "", rest) for n in port.shape]
        dtype = port.dtype or np.dtype("f4")
        self.limits.allow(shape, dtype.itemsize)
        return np.zeros(shape, dtype)

    def _own_outputs(self) -> list[str]:
        """Return the outputs that are not final states; all, if there are no others."""
        of_states = {state.output for state in self.states}
        names = [port.name for port in self.outputs]
        return [name for name in names if name not in of_states] or names

    def __repr__(self) -> str:
        lines = [f"  input {_shown(port)}" for port in self.inputs]
        lines += [f"  output {_shown(port)}" for port in self.outputs]
        lines += [f"  state {short(s.input.name)} -> {short(s.output)}" for s in self.states]
        lines += [
            f"  ({printable(name)}): " + repr(child).replace("\n", "\n  ")
            for name, child in self.children.items()
        ]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


class GraphStream:
    """The states of a graph's network from call to call; made by `GraphModel.stream`.

    One stream belongs to one thread at a time; many streams of one model may run at once.
    ``copy.copy(stream)`` branches off at the point reached, over the same model.

    Parameters
    ----------
    model : GraphModel
    batch_size : int
        As for `GraphModel.stream`.

    Attributes
    ----------
    batch_size : int
    state : dict of str -> ndarray
        The states by the names of their inputs, copies; assign to resume.

    Examples
    --------
    >>> from fastlstm.graphs.limits import Limits
    >>> from fastlstm.graphs.plan import Node, Plan
    >>> plan = Plan([Node("add", "Add", np.add, ("h", "x"), ("hn",))], {}, ["x", "h"], ["hn"])
    >>> x, h = (Port(name, np.dtype("f4"), ("batch", 2)) for name in "xh")
    >>> model = GraphModel(plan, [x, h], [Port("hn")], [State(h, "hn")], {}, Limits(1000))
    >>> stream = model.stream(batch_size=2)
    >>> for _ in range(3):
    ...     y = stream.step([[1.0, 2.0], [3.0, 4.0]])
    >>> stream.reset([False, True])
    >>> stream.state["h"].tolist()
    [[3.0, 6.0], [0.0, 0.0]]
    """

    def __init__(self, model: GraphModel, batch_size: int) -> None:
        if not model.states:
            raise ValueError(
                "a stream needs inputs and outputs that belong together as a state, this graph has "
                f"none; its inputs are {quoted(port.name for port in model.inputs)}"
            )
        shapes = [state.input.shape or (None,) for state in model.states]
        if batch_size > 1 and all(isinstance(n, int) for shape in shapes for n in shape):
            raise ValueError(f"batch_size={batch_size}: the file fixes all sizes of its states")
        for state in model.states:
            if state.backward:
                raise ValueError(
                    f"a stream goes forward only, and the state {short(state.input.name)} is that "
                    "of a layer that runs backward, from the end of the whole sequence"
                )
        self._model, self.batch_size = model, batch_size
        names = [port.name for port in model.outputs]
        self._outputs = [names.index(name) for name in model._own_outputs()]
        self._after = [names.index(state.output) for state in model.states]
        self._shown = not {*self._outputs}.isdisjoint(self._after)  # callers get the states too
        self._places = [(state.input.name, n) for n, state in enumerate(model.states)]
        self._names = model._free
        self._free = frozenset(self._names)
        self._states: list[Array] = []
        self.reset()

    def run(self, *inputs: Any, **named: Any) -> Any:
        """Run the graph once, on what comes next, with the states of the call before.

        It depends on the graph whether that is one step, a frame or a chunk of steps.

        Parameters
        ----------
        *inputs, **named
            Values of the inputs that are not states, in order or by name, or one dict of them.

        Returns
        -------
        ndarray, or tuple of ndarray
            The outputs that are not states.

        Raises
        ------
        ValueError, TypeError
            As `GraphModel.run` raises them; the states have not moved.
        """
        model = self._model
        feeds = model._feeds(inputs, named) if inputs else named
        if feeds.keys() != self._free and (unknown := [n for n in feeds if n not in self._free]):
            raise ValueError(
                f"there is no input {quoted(unknown)} besides the states; there are "
                f"{quoted(self._names) or 'none'}"
            )
        for name, place in self._places:
            feeds[name] = self._states[place]
        results = model._results(feeds)
        states = [results[place] for place in self._after]
        for state, before, after in zip(model.states, self._states, states, strict=True):
            if before.shape != after.shape or before.dtype != after.dtype:
                raise ValueError(
                    f"the state {short(state.input.name)} is {before.dtype} of shape "
                    f"{before.shape}, the graph goes on with {after.dtype} of shape {after.shape}"
                )
        self._states = [state.copy() for state in states] if self._shown else states
        outputs = [results[place] for place in self._outputs]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    step = run

    @property
    def state(self) -> dict[str, Array]:
        """The states by the names of their inputs, copies; assign to resume."""
        pairs = zip(self._model.states, self._states, strict=True)
        return {state.input.name: value.copy() for state, value in pairs}

    @state.setter
    def state(self, states: Mapping[str, Any]) -> None:
        names = [state.input.name for state in self._model.states]
        if not isinstance(states, Mapping) or set(states) != set(names):
            got = quoted(states) if isinstance(states, Mapping) else type(states).__name__
            raise ValueError(f"state must be a dict of {quoted(names)}, got {got or 'nothing'}")
        given: list[Array] = [
            _fitting(state.input, states[state.input.name]) for state in self._model.states
        ]
        for name, own, new in zip(names, self._states, given, strict=True):
            if own.shape != new.shape:
                raise ValueError(
                    f"the state {short(name)} must have shape {own.shape}, got {new.shape}"
                )
        self._states = [array.copy() for array in given]

    def reset(self, mask: Any = None) -> None:
        """Set states to those that a new stream begins with: the file's defaults, or zeros.

        Parameters
        ----------
        mask : bool array of shape (B,), optional
            Which streams begin anew; all if not given.

        Raises
        ------
        ValueError
            If `mask` is not B booleans, or if the file does not tell which axis of the states is
            that of the batch; no state has changed.
        """
        begin = [self._start(state) for state in self._model.states]
        if mask is None:
            self._states = begin
            return
        mask = check_mask(mask, self.batch_size)
        for state in self._model.states:
            if state.batch_axis is None:
                raise ValueError(
                    f"mask: the file leaves open no size, or several, of the state "
                    f"{_shown(state.input)}, so that its axis of the batch is not known"
                )
        for state, own, start in zip(self._model.states, self._states, begin, strict=True):
            axis = state.batch_axis
            assert axis is not None
            np.moveaxis(own, axis, 0)[mask] = np.moveaxis(start, axis, 0)[mask]

    def _start(self, state: State) -> Array:
        if state.input.default is not None:
            return np.array(state.input.default)
        return self._model._zeros(state, {}, self.batch_size)

    def __copy__(self) -> GraphStream:
        """Return a stream at the same point, with states of its own, over the same network."""
        copy = self._model.stream(self.batch_size)
        copy.state = self.state
        return copy

    def __repr__(self) -> str:
        return f"GraphStream({self._model!r}, batch_size={self.batch_size})"


def _own(value: Value, given: Sequence[Value], others: set[int]) -> Value:
    """Return a result as the caller may have it: a copy, if it has memory of inputs or others.

    `others` has the ids of these, and gets that of the result.
    """
    if isinstance(value, (list, tuple)):
        return [np.array(one) for one in value]
    if not isinstance(value, (np.ndarray, np.generic)):
        return value
    array: Array = np.asarray(value)
    if array.dtype.kind == "U":
        return array.astype(object)  # as strings that go in
    owner = _owner(array)
    shared = any(_owner(one) is owner for one in given if isinstance(one, np.ndarray))
    if shared or id(owner) in others or not array.flags.writeable:
        owner = array = array.copy()
    others.add(id(owner))
    return array


def _owner(array: Array) -> Array:
    """Return the array whose memory an array is a view of: itself, if it is no view."""
    while (base := array.base) is not None and isinstance(base, np.ndarray):
        array = base
    return array


def _fitting(port: Port, value: Any) -> Value:
    """Return a value for an input; raise if its type, axes or sizes do not fit."""
    dtype, sizes = port.dtype, port.shape
    # To NumPy, None as a dtype is float64.
    if dtype is not None and dtype.kind != "O" and type(value) is np.ndarray:
        fits = sizes is None or (value.ndim == len(sizes) and _agree(sizes, value.shape))
        if fits and value.dtype == dtype:
            return value
    name = f"the input {short(port.name)}"
    if value is None and port.dtype is None:
        return None  # an "optional" of ONNX
    if port.listed:
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{name} must be a list of arrays, got {type(value).__name__}")
        return [as_array(one, name) for one in value]
    if port.dtype == np.dtype(object):
        array = np.asarray(value, object)
        if not all(isinstance(one, str) for one in array.flat):
            raise TypeError(f"{name} must hold strings")
    elif type(value) is np.ndarray and value.dtype == port.dtype:
        array = value
    else:
        array = as_array(value, name)
        if port.dtype is not None and array.dtype != port.dtype:
            array = _converted(port, port.dtype, array, value)
    shape = port.shape
    if shape is not None and (array.ndim != len(shape) or not _agree(shape, array.shape)):
        raise ValueError(f"the input {_shown(port)} is given an array of shape {array.shape}")
    return array


def _agree(sizes: Sequence[int | str | None], shape: Sequence[int]) -> bool:
    """Whether a shape has those sizes that are known."""
    for size, own in zip(sizes, shape, strict=True):
        if size != own and isinstance(size, int):
            return False
    return True


def _converted(port: Port, dtype: np.dtype[Any], array: Array, given: Any) -> Array:
    """Return an array as the dtype of an input, by the rule that `arrays` has for layers.

    Integers may become wider ones.
    """
    kinds = {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}.get(dtype.kind, "fiub")
    untyped = isinstance(given, (list, tuple, int, float)) and (
        array.dtype.kind in kinds or not array.size
    )
    swapped = array.dtype.newbyteorder("=") == dtype
    half = array.dtype.name in _HALF and dtype.name in ("float32", "float64")
    wider = dtype.kind in "iu" and array.dtype.kind in "iu" and np.can_cast(array.dtype, dtype)
    if untyped or swapped or half or wider:
        with np.errstate(under="ignore", over="ignore"):
            converted: Array = array.astype(dtype)
        if dtype.kind not in "iu" or np.array_equal(converted, array):
            return converted
    raise ValueError(
        f"the input {_shown(port)} is given {array.dtype}, and nothing is converted that could "
        f"lose something: give it x.astype({str(dtype)!r})"
    )


def _open_sizes(inputs: Sequence[Port], feeds: Mapping[str, Any]) -> tuple[dict[str, int], int]:
    """Return the sizes of named axes that values tell, and that of axes without a name.

    The latter is that of an axis that is called like a batch or, if there is none, the first open
    size that any value has, which is that of the batch in most graphs.
    """
    sizes: dict[str, int] = {}
    first = None
    for port in inputs:
        if port.shape is None or port.name not in feeds:
            continue
        for size, given in zip(port.shape, np.shape(feeds[port.name]), strict=False):
            if isinstance(size, str):
                sizes.setdefault(size, given)
            if not isinstance(size, int) and first is None:
                first = given
    batches = [given for name, given in sizes.items() if _BATCH.fullmatch(name)]
    return sizes, batches[0] if batches else 1 if first is None else first


def _shown(port: Port) -> str:
    """Return an input or output as people read it: ``'x' float32 (batch, 16)``."""
    dtype = "" if port.dtype is None else f" {port.dtype}".replace("object", "str")
    shape = ""
    if port.shape is not None:
        sizes = (str(n) if isinstance(n, int) else short(n)[1:-1] if n else "?" for n in port.shape)
        shape = f" ({', '.join(sizes)})"
    optional = "" if port.default is None else ", may be left out"
    return f"{short(port.name)}{dtype}{shape}{optional}"
