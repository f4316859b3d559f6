"""GraphModel: a whole network as a file has it, with named inputs and outputs; and its stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..arrays import as_array
from ..checks import check_size, quoted, short
from ..layers import Layer
from ..terminal import printable
from .plan import Value

if TYPE_CHECKING:
    from ..arrays import Array
    from .limits import Limits
    from .plan import Plan


class Port(NamedTuple):
    """An input or output of a graph.

    ``dtype`` is None, and so is ``shape``, where the file does not tell it. A size is a number, a
    name that stands for one, or None.
    """

    name: str
    dtype: np.dtype[Any] | None = None
    shape: tuple[int | str | None, ...] | None = None


class State(NamedTuple):
    """An input and an output that belong together: what one call gives, the next one takes."""

    input: Port
    output: str


class GraphModel(Layer):
    """A network that was read from a file as a graph of operators, such as an ONNX file.

    It is run and streamed, and not trained. The LSTMs in it, and other layers that fastlstm has,
    are layers inside it: `named_layers`, `state_dict`, `repr` show them.

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
        self.eval()

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Value]:
        """Run the graph, as onnxruntime's ``InferenceSession.run``.

        Parameters
        ----------
        output_names : list of str, or None
            Which outputs to return, in this order; None is all.
        feeds : dict of str -> array
            A value for each input, by its name.

        Returns
        -------
        list of ndarray

        Raises
        ------
        ValueError, TypeError
            If an input is missing or unknown, or its type, axes or sizes do not fit; or if an
            operator cannot compute with these values, which the sentence names.
        """
        names = [port.name for port in self.outputs]
        wanted = names if output_names is None else list(output_names)
        if unknown := [name for name in wanted if name not in names]:
            raise ValueError(f"there is no output {quoted(unknown)}; there are {quoted(names)}")
        if not isinstance(feeds, Mapping):
            raise TypeError(
                f"feeds must be a dict of arrays by the names of inputs, got {type(feeds).__name__}"
            )
        known = {port.name: port for port in self.inputs}
        if unknown := [name for name in feeds if name not in known]:
            raise ValueError(f"there is no input {quoted(unknown)}; there are {quoted(known)}")
        if missing := [name for name in known if name not in feeds]:
            raise ValueError(f"a value is missing for the input {quoted(missing)}")
        values: list[Value] = self.plan.run(
            [_fitting(port, feeds[port.name]) for port in self.inputs]
        )
        if output_names is None:
            return values
        return [values[names.index(name)] for name in wanted]

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the graph from the beginning of a sequence.

        Parameters
        ----------
        *inputs, **named
            Values of the inputs, in order or by name. States may be left out, and are zeros then.

        Returns
        -------
        ndarray, or tuple of ndarray
            The outputs; those that are the final states of given or zero states are left out, `run`
            returns these too.
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
            If the graph has no inputs and outputs that belong together as a state.
        """
        return GraphStream(self, check_size("batch_size", batch_size))

    def _feeds(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of inputs by their names; those in order are for others than states."""
        of_states = {state.input.name for state in self.states}
        names = [port.name for port in self.inputs if port.name not in of_states]
        if len(inputs) == 1 and not named and isinstance(inputs[0], Mapping):
            return dict(inputs[0])
        if len(inputs) > len(names):
            raise TypeError(f"it takes {len(names)} inputs, {quoted(names)}, got {len(inputs)}")
        feeds = dict(zip(names, inputs, strict=False))
        if twice := feeds.keys() & named.keys():
            raise TypeError(f"the input {quoted(sorted(twice))} is given twice")
        return feeds | dict(named)

    def _zero_states(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Return zeros for those states that are not among the values of inputs."""
        sizes, rest = _open_sizes(self.inputs, feeds)
        left = [state for state in self.states if state.input.name not in feeds]
        return {state.input.name: self._zeros(state, sizes, rest) for state in left}

    def _zeros(self, state: State, sizes: Mapping[str, int], rest: int) -> Array:
        """Return a state of zeros: `sizes` has those of named axes, the others have size `rest`."""
        port = state.input
        if port.shape is None:
            raise ValueError(
                f"the state {short(port.name)} must be given: the file does not tell its shape"
            )
        shape = [n if isinstance(n, int) else sizes.get(n or "", rest) for n in port.shape]
        self.limits.allow(shape, (port.dtype or np.dtype("f4")).itemsize)
        return np.zeros(shape, port.dtype or np.dtype("f4"))

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

    Attributes
    ----------
    batch_size : int
    state : dict of str -> ndarray
        The states by the names of their inputs, copies; assign to resume.
    """

    def __init__(self, model: GraphModel, batch_size: int) -> None:
        if not model.states:
            raise ValueError(
                "a stream needs inputs and outputs that belong together as a state, this graph has "
                f"none; its inputs are {quoted(port.name for port in model.inputs)}"
            )
        self._model, self.batch_size = model, batch_size
        self._outputs = model._own_outputs()
        self._wanted = [*self._outputs, *(state.output for state in model.states)]
        self._state: dict[str, Array] = {}
        self.reset()

    def run(self, *inputs: Any, **named: Any) -> Any:
        """Run the graph once, on what comes next, with the states of the call before.

        It depends on the graph whether that is one step, a frame or a chunk of steps.

        Parameters
        ----------
        *inputs, **named
            Values of the inputs that are not states, in order or by name.

        Returns
        -------
        ndarray, or tuple of ndarray
            The outputs that are not states.

        Raises
        ------
        ValueError, TypeError
            As `GraphModel.run` raises them; the states have not moved.
        """
        feeds = self._model._feeds(inputs, named)
        results = self._model.run(self._wanted, self._state | feeds)
        count = len(self._outputs)
        after = zip(self._model.states, results[count:], strict=True)
        self._state = {state.input.name: value for state, value in after}
        return results[0] if count == 1 else tuple(results[:count])

    step = run

    @property
    def state(self) -> dict[str, Array]:
        """The states by the names of their inputs, copies; assign to resume."""
        return {name: value.copy() for name, value in self._state.items()}

    @state.setter
    def state(self, states: Mapping[str, Any]) -> None:
        names = [state.input.name for state in self._model.states]
        if set(states) != set(names):
            raise ValueError(f"state must have {quoted(names)}, got {quoted(states) or 'nothing'}")
        self._state = {
            state.input.name: _fitting(state.input, states[state.input.name]).copy()
            for state in self._model.states
        }

    def reset(self) -> None:
        """Set the states to zero."""
        zeros = {
            s.input.name: self._model._zeros(s, {}, self.batch_size) for s in self._model.states
        }
        self._state = zeros

    def __copy__(self) -> GraphStream:
        """Return a stream at the same point, with states of its own, over the same network."""
        copy = self._model.stream(self.batch_size)
        copy.state = self._state
        return copy

    def __repr__(self) -> str:
        return f"GraphStream({self._model!r}, batch_size={self.batch_size})"


def _fitting(port: Port, value: Any) -> Value:
    """Return a value for an input; raise if its type, axes or sizes do not fit."""
    array = as_array(value, f"the input {short(port.name)}")
    if port.dtype is not None and array.dtype != port.dtype:
        array = _converted(port, array, value)
    if port.shape is not None and (
        array.ndim != len(port.shape)
        or any(isinstance(n, int) and n != m for n, m in zip(port.shape, array.shape, strict=True))
    ):
        raise ValueError(f"the input {_shown(port)} is given an array of shape {array.shape}")
    return array


def _converted(port: Port, array: Array, given: Any) -> Array:
    """Return an array as the dtype of an input, if that loses nothing of what was meant."""
    dtype = port.dtype
    assert dtype is not None
    if not isinstance(given, np.ndarray) and array.dtype.kind == dtype.kind:
        return array.astype(dtype)  # a list of Python's numbers has no precision of its own
    if not np.can_cast(array.dtype, dtype, "safe"):
        raise ValueError(
            f"the input {_shown(port)} is given an array of {array.dtype}: convert it by "
            f"x.astype({str(dtype)!r})"
        )
    return array.astype(dtype)


def _open_sizes(inputs: Sequence[Port], feeds: Mapping[str, Any]) -> tuple[dict[str, int], int]:
    """Return the sizes of named axes that values tell, and that of axes without a name.

    The latter is the first open size that any value has, which is that of the batch in most graphs.
    """
    sizes: dict[str, int] = {}
    rest = None
    for port in inputs:
        if port.shape is None or port.name not in feeds:
            continue
        for size, given in zip(port.shape, np.shape(feeds[port.name]), strict=False):
            if isinstance(size, str):
                sizes.setdefault(size, given)
            if not isinstance(size, int) and rest is None:
                rest = given
    return sizes, 1 if rest is None else rest


def _shown(port: Port) -> str:
    """Return an input or output as people read it: ``'x' float32 (batch, 16)``."""
    shape = "" if port.shape is None else f" ({', '.join(str(n or '?') for n in port.shape)})"
    return f"{short(port.name)}{f' {port.dtype}' if port.dtype else ''}{shape}"
