"""An operator of a TFLite graph that is being read: its inputs, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ..checks import quoted, short
from ..graphs import Port, State
from ..graphs.operators import OPERATORS
from ..graphs.plan import FAULTS, Node, Operator, told
from .tflite_rows import Row
from .tflite_schema import ACTIVATIONS
from .tflite_tables import Operation, Tensor

if TYPE_CHECKING:
    from ..arrays import Array
    from ..engines import EngineChoice
    from ..graphs.limits import Limits
    from ..graphs.plan import Compute, Plan
    from ..layers import Layer
    from .tflite_graph import Reader

Made = TypeVar("Made", bound="Layer")

_OPSET = 18  # the version of ONNX's operators that are used
_INTEGERS = ("int8", "uint8", "int16", "int32", "int4", "uint4", "int64")
_ACTIVATIONS: dict[int, tuple[str, tuple[float, ...]]] = {
    1: ("Relu", ()), 2: ("Clip", (-1, 1)), 3: ("Clip", (0, 6)),
}  # fmt: skip


class States(NamedTuple):
    """The states of an LSTM: the values it takes, and those that it gives."""

    inputs: list[str]
    outputs: list[str]


class Site:
    """An operator that is being read, and where what it becomes goes.

    Attributes
    ----------
    kind, label : str
        Its name among TFLite's operators, and that of its first output.
    options : dict
    inputs, outputs : tuple of int
        Indices of tensors.
    reader : Reader
    """

    def __init__(self, reader: Reader, operation: Operation, label: str) -> None:
        self.reader, self.label = reader, label
        self.kind, self.options, self.inputs, self.outputs = operation
        for index in (*self.inputs, *self.outputs):
            if index >= 0 and self.kind != "DEQUANTIZE":
                check_floats(self.reader.graph.tensor(index), "it takes or gives")

    @property
    def engine(self) -> EngineChoice:
        return self.reader.draft.engine

    @property
    def limits(self) -> Limits:
        return self.reader.draft.limits

    # ---- inputs ----

    def has(self, place: int | None) -> bool:
        """Whether there is such an input."""
        return place is not None and place < len(self.inputs) and self.inputs[place] >= 0

    def needs(self, least: int, most: int | None = None, outputs: int = 1) -> None:
        """Raise ValueError unless there are so many inputs, and outputs."""
        most = least if most is None else most
        if not least <= len(self.inputs) <= most or -1 in self.inputs[:least]:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise ValueError(f"it has {len(self.inputs)} inputs, and must have {wanted}")
        if len(self.outputs) != outputs:
            raise ValueError(f"it has {len(self.outputs)} outputs, and must have {outputs}")

    def tensor(self, place: int) -> Tensor:
        """Return an input as the file describes it."""
        if not self.has(place):
            raise ValueError(f"its input {place} is missing")
        return self.reader.graph.tensor(self.inputs[place])

    def value(self, place: int) -> str:
        """Return the value of an input."""
        if not self.has(place):
            raise ValueError(f"its input {place} is missing")
        return self.reader.value(self.inputs[place])

    def known(self, place: int) -> Array | None:
        """Return the numbers of an input that is a constant; None of one that is computed."""
        return self.reader.draft.constants.get(self.value(place))

    def wholes(self, place: int) -> list[int] | None:
        """Return the integers of an input that is a constant, of at most some axes."""
        found = self.known(place)
        if found is None or found.size > 64:
            return None
        if found.dtype.kind not in "iu":
            raise ValueError(f"its input {place} must hold integers, got {found.dtype}")
        return [int(one) for one in found.ravel()]

    def weight(self, place: int, axes: int) -> Array:
        """Return an input that must be a constant of float32 with so many axes."""
        tensor, array = self.tensor(place), self.known(place)
        who = f"its input {place}, {short(tensor.name)},"
        if array is None:
            raise ValueError(f"{who} must be a constant, and is computed")
        if array.dtype != np.float32 or array.ndim != axes:
            raise ValueError(
                f"{who} must be float32 with {axes} axes, got {array.dtype} of {array.shape}"
            )
        return array

    # ---- what it becomes ----

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """Return a value of these numbers."""
        name = self.reader.fresh()
        self.reader.draft.constants[name] = np.array(value, dtype)
        return name

    def put(
        self, type: str, inputs: Sequence[str], count: int = 1, name: str = "", **attributes: Any
    ) -> list[str]:
        """Add one of ONNX's operators, and return the values that it gives."""
        draft = self.reader.draft
        outputs = tuple(self.reader.fresh() for _ in range(count))
        constants = tuple(draft.constants.get(one) for one in inputs)
        operator = Operator(
            name or self.label,
            type,
            "",
            _OPSET,
            attributes,
            tuple(inputs),
            outputs,
            constants,
            draft,
        )
        try:
            made = OPERATORS[type](operator)
        except FAULTS as fault:
            raise told(operator, fault) from fault
        if made is None:
            raise ValueError(f"{type} in this form is not computed here")
        if not isinstance(made, Node):
            made = Node(self.label, type, made, tuple(inputs), outputs)
        self.reader.add(made._replace(name=self.label))
        return list(outputs)

    def compute(
        self,
        compute: Compute,
        inputs: Sequence[str],
        finals: Sequence[str] = (),
        outputs: int | None = None,
        type: str = "",
        by: str = "numpy",
    ) -> None:
        """Add a function that gives the operator's outputs, and the final states behind them.

        ``outputs`` is how many of the operator's outputs there are, if not all.
        """
        given = self.outputs if outputs is None else self.outputs[:outputs]
        names = [self.reader.fresh() for _ in given]
        kind = type or self.kind.title().replace("_", "")
        node = Node(self.label, kind, compute, tuple(inputs), (*names, *finals), by)
        self.reader.add(node)
        for place, name in enumerate(names):
            self.give(name, place)

    def give(self, value: str, place: int = 0) -> None:
        """Say which value an output is."""
        index = self.outputs[place]
        if index >= 0:
            if index in self.reader.values:
                raise ValueError(f"it gives tensor {index}, which is there already")
            self.reader.values[index] = value

    def activated(self, value: str) -> str:
        """Return a value behind the activation that the operator has in itself.

        Raises
        ------
        ValueError
            If it is none of those that LiteRT computes: it leaves out others, or refuses them.
        """
        number = self.options.get("activation", 0)
        if not number:
            return value
        if number not in _ACTIVATIONS:
            name = ACTIVATIONS[number] if 0 <= number < len(ACTIVATIONS) else f"number {number}"
            raise ValueError(f"LiteRT does not compute its activation {name}")
        kind, bounds = _ACTIVATIONS[number]
        limits = [self.constant(bound, np.float32) for bound in bounds]
        return self.put(kind, [value, *limits])[0]

    def give_new(self, compute: Compute, places: Sequence[int], by: str = "numpy") -> str:
        """Return the value of a function of some inputs, which is no output yet."""
        name = self.reader.fresh()
        kind = self.kind.title().replace("_", "")
        inputs = tuple(self.value(place) for place in places)
        self.reader.add(Node(self.label, kind, compute, inputs, (name,), by))
        return name

    def result(self, place: int = 0) -> Tensor:
        """Return an output as the file describes it."""
        return self.reader.graph.tensor(self.outputs[place])

    def inside(self, index: int) -> Plan:
        """Return the plan of a graph that stands in the operator.

        Raises
        ------
        ValueError
            If it cannot be computed, or reads or changes variables.
        """
        inner = self.reader.read_inside(index)
        if inner.assigned:
            names = quoted(inner.assigned, most=5)
            raise ValueError(f"its graph {index} has variables of its own, {names}")
        return inner.draft.plan([port.name for port in inner.inputs], inner.names)

    # ---- layers ----

    def layer(self, layer: Layer, name: str) -> str:
        """Put a layer into the model, and return the name that it has there."""
        self.reader.draft.layer(name, layer)
        return next(reversed(self.reader.draft.layers))

    def shared(self, make: Callable[[], Made], constants: Sequence[Any], name: str) -> Made:
        """Return a layer that is made of constants; all operators that have them share it."""

        def made() -> Made:
            layer = make()
            self.layer(layer, name)
            return layer

        return self.reader.draft.once(name, constants, made)

    def row(self, place: int) -> Row | None:
        """Return the row of layers that an input is, if it is one."""
        return self.reader.rows.get(self.value(place))

    def is_row(self, row: Row | None, place: int = 0) -> None:
        """Say that an output is a row of layers, or is none."""
        index = self.outputs[place]
        if row is not None and index >= 0:
            self.reader.rows[self.reader.values[index]] = row

    # ---- states ----

    def states(self, owner: str, sizes: Sequence[int], first: int) -> States:
        """Return the values of an LSTM's states, h and c of each direction in turn.

        They are variable tensors of the file, and become inputs and outputs of the model.
        """
        reader, names, finals = self.reader, [], []
        if reader.outer is not None:
            raise ValueError("it has states, and stands in a graph inside another operator")
        for place, size in enumerate(sizes, first):
            tensor, index = self.tensor(place), self.inputs[place]
            who = f"its state, input {place}, {short(tensor.name)},"
            if not tensor.is_variable or tensor.dtype != "float32":
                raise ValueError(f"{who} must be a variable tensor of float32")
            if index in reader.variables:
                raise ValueError(f"{who} is that of another operator too")
            reader.variables.add(index)
            shape = tensor.shape or ()
            if len(shape) != 2 or shape[1] != size:
                raise ValueError(f"{who} must have shape (batch, {size}), got {short(shape)}")
            number = place - first
            name = reader.free(f"{owner}/{'hc'[number % 2]}{'_reverse' * (number > 1)}")
            port = Port(name, np.dtype("f4"), (None if reader.is_open else shape[0], size))
            final = reader.free(f"{name}_n")
            reader.states.append(State(port, final, number > 1))
            names.append(name)
            finals.append(final)
            reader.finals.append(final)
        return States(names, finals)


def check_floats(tensor: Tensor, verb: str) -> None:
    """Raise ValueError if a tensor holds integers that stand for other numbers."""
    if tensor.scales is not None and tensor.dtype in _INTEGERS:
        raise ValueError(
            f"{verb} quantised numbers, {tensor.dtype} in {short(tensor.name)}; models of floats "
            "are read: convert it without optimizations, or with weights in float16"
        )
