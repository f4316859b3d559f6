"""How a graph of a TFLite file becomes a `Draft`: values, constants, states, and rows of layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ..checks import short
from ..graphs import Port, State
from ..graphs.operators import OPERATORS
from ..graphs.plan import FAULTS, Draft, Node, Operator, told
from .onnx_states import Flow
from .tflite_rows import Row
from .tflite_tables import Model, Operation, Signature, Subgraph, Tensor

if TYPE_CHECKING:
    from ..arrays import Array
    from ..engines import EngineChoice
    from ..graphs.limits import Limits
    from ..graphs.plan import Compute, Plan
    from ..layers import Layer

Made = TypeVar("Made", bound="Layer")

_OPSET = 18  # the version of ONNX's operators that are used
_INTEGERS = ("int8", "uint8", "int16", "int32", "int4", "uint4", "int64")
# Constants are computed beforehand as long as that takes so many seconds together; products and
# windows, which take more than one operation for each number, are not.
_MOST_SECONDS = 2.0
_LATE = {"AveragePool", "Conv", "Gemm", "If", "MatMul", "MaxPool", "While"}
_ACTIVATIONS: dict[int, tuple[str, tuple[float, ...]]] = {
    1: ("Relu", ()), 2: ("Clip", (-1, 1)), 3: ("Clip", (0, 6)), 4: ("Tanh", ()),
}  # fmt: skip


class States(NamedTuple):
    """The states of an LSTM: the values it takes, and those that it gives."""

    inputs: list[str]
    outputs: list[str]


class Reader:
    """Reads a graph.

    Parameters
    ----------
    model : Model
    graph : Subgraph
    signature : Signature, optional
        The names of its inputs and outputs; those of the tensors if there is none.
    draft : Draft
        It gets the nodes, constants and layers.
    makers : dict of str -> function
        What reads operators, by their names.
    outer : Reader, optional
        That of the graph with the operator in which this graph stands.

    Attributes
    ----------
    inputs, outputs : list of Port
        Without those of the states.
    names : list of str
        The values of the outputs.
    states : list of State
    finals : list of str
        The values of the states when a call has ended.
    faults, lstm_faults : list of str
        Why operators cannot be computed, each with its operator; the latter those of LSTMs.
    flow : Flow
        Which inputs LSTMs begin with, and which outputs they end with, where these come and go.
    rows : dict of str -> Row
        Values that are what a row of layers makes of the only input.
    """

    def __init__(
        self,
        model: Model,
        graph: Subgraph,
        signature: Signature | None,
        draft: Draft,
        makers: dict[str, Callable[[Site], None]],
        outer: Reader | None = None,
    ) -> None:
        self.model, self.graph, self.draft = model, graph, draft
        self.outer, self._makers = outer, makers
        self._depth: int = outer._depth + 1 if outer else 0
        model.file.budget.check("levels of graphs", self._depth)
        self.values: dict[int, str] = {-1: ""}
        self.states: list[State] = []
        self.finals: list[str] = []
        self.faults: list[str] = []
        self.lstm_faults: list[str] = []
        self.rows: dict[str, Row] = {}
        self.flow = Flow()
        self.variables: set[int] = set()  # tensors that an LSTM has for its states
        self.handles: dict[int, str] = {}  # tensors that stand for variables of the file
        self.assigned: dict[str, str] = {}  # the values that variables have now
        self.first_values: dict[str, Array] = {}  # those that they begin with
        self._carried: list[tuple[str, Port]] = []  # variables that are states
        self._failed: set[int] = set()  # tensors that nobody computes
        self._seconds = 0.0
        self._count = 0
        self.inputs = [
            self._port(index, name)
            for index, name in self._named(graph.inputs, signature and signature.inputs, "input")
        ]
        for index, port in zip(graph.inputs, self.inputs, strict=True):
            self.values[index] = port.name
        self.is_open = any(
            not isinstance(size, int) for port in self.inputs for size in port.shape or (None,)
        )
        if len(self.inputs) == 1 and outer is None:
            port = self.inputs[0]
            self.rows[port.name] = Row(port, None if port.shape is None else len(port.shape))
        self._changing = _changing(graph)
        for operation in graph.operations:
            model.file.budget.spend("operators")
            self._read(operation, makers)
        for variable, port in self._carried:
            self.states.append(State(port, f"{port.name}_n"))
            self.finals.append(self.assigned[variable])
        named = self._named(graph.outputs, signature and signature.outputs, "output")
        self.outputs = [self._port(index, name) for index, name in named]
        self.names = []
        if not self.faults:
            self.names = [self.value(index) for index in graph.outputs]

    def _named(
        self, indices: Sequence[int], names: dict[int, str] | None, what: str
    ) -> list[tuple[int, str]]:
        """Return tensors with the names that callers know them by, each of which is there once."""
        found: dict[str, int] = {}
        for place, index in enumerate(indices):
            name = (names or {}).get(index) or self.graph.tensor(index).name or f"{what}_{place}"
            free, number = name, 1
            while free in found:
                number += 1
                free = f"{name}_{number}"
            found[free] = index
        if what == "input" and len(set(indices)) < len(indices):
            raise ValueError("its graph has an input twice")
        return [(index, name) for name, index in found.items()]

    def _port(self, index: int, name: str) -> Port:
        tensor = self.graph.tensor(index)
        if tensor.scales is not None and tensor.dtype in _INTEGERS:
            raise ValueError(_quantised(tensor, "it has"))
        if tensor.dtype in ("string", "resource", "variant", "complex64", "complex128"):
            raise ValueError(f"tensor {short(tensor.name)} is of the type {tensor.dtype}")
        try:
            dtype = np.dtype(tensor.dtype)
        except TypeError:
            raise ValueError(
                f"tensor {short(tensor.name)} is of the type {tensor.dtype}, which NumPy lacks"
            ) from None
        return Port(name, dtype, tensor.shape)

    def value(self, index: int) -> str:
        """Return the value of a tensor.

        Raises
        ------
        ValueError
            If nothing before gives it.
        """
        if index in self.values:
            return self.values[index]
        tensor = self.graph.tensor(index)
        if tensor.is_sparse:
            raise ValueError(f"tensor {short(tensor.name)} is stored sparse, which is not read")
        if tensor.data is None:
            raise ValueError(f"nothing before it gives tensor {index}, {short(tensor.name)}")
        name = self.fresh()
        self.draft.constants[name] = tensor.data
        self.values[index] = name
        return name

    def read_inside(self, index: int) -> Reader:
        """Read a graph that stands in an operator of this one.

        Raises
        ------
        ValueError
            If it cannot be computed, or is in itself.
        """
        graph = self.model.subgraph(index)
        around: Reader | None = self
        while around is not None:
            if around.graph is graph:
                raise ValueError(f"its graph {index} stands in itself")
            around = around.outer
        inner = Reader(self.model, graph, None, self.draft.inside(), self._makers, self)
        if inner.faults:
            raise ValueError(inner.faults[0])
        return inner

    def variable(self, name: str) -> str:
        """Return the value that a variable has now: a state, if nothing was assigned to it yet."""
        if name in self.assigned:
            return self.assigned[name]
        if name not in self.first_values:
            raise ValueError(f"variable {short(name)} has no value")
        first = self.first_values[name]
        if name not in self._changing:
            value = self.fresh()
            self.draft.constants[value] = first
        else:
            taken = {port.name for port in self.inputs}
            value = name or "variable"
            while value in taken:
                value += "_"
            self._carried.append((name, Port(value, first.dtype, first.shape, first)))
        self.assigned[name] = value
        return value

    def fresh(self) -> str:
        """Return a name for a value, which no input has."""
        self._count += 1
        taken = {port.name for port in self.inputs}
        name = f"{self._count}"
        return name if name not in taken else f"{name} "

    def _read(self, operation: Operation, makers: dict[str, Callable[[Site], None]]) -> None:
        """Read an operator; what is wrong with it becomes one of the faults."""
        kind = operation.kind
        is_lstm = kind.endswith("LSTM")
        if not self._failed.isdisjoint(operation.inputs) and not is_lstm:
            self._fail(operation)  # an LSTM is of use alone
            return
        first = next((index for index in operation.outputs if index >= 0), None)
        label = "" if first is None else self.graph.tensor(first).name
        try:
            site = Site(self, operation, label)
            if kind not in makers:
                raise ValueError("it is not known here")
            makers[kind](site)
        except FAULTS as fault:
            said = str(fault)
            if said.startswith("it has ") and "at most" in said and "are read" in said:
                raise  # the file asks for too much
            if not said.startswith("operator "):
                said = f"operator {kind} {short(label)}: {said}"
            self.faults.append(said)
            if is_lstm:
                self.lstm_faults.append(said)
            self._fail(operation)

    def _fail(self, operation: Operation) -> None:
        """Note that nobody computes what an operator gives."""
        for index in operation.outputs:
            if index >= 0 and index not in self.values:
                self._failed.add(index)
                self.values[index] = self.fresh()

    def add(self, node: Node) -> None:
        """Add a node to the draft; what it computes from constants is a constant."""
        begun = time.monotonic()
        folds = node.by == "numpy" and node.type not in _LATE and self._seconds < _MOST_SECONDS
        self.draft.add(node, fold=folds and all(node.inputs))
        self._seconds += time.monotonic() - begun
        for name in node.outputs:
            if isinstance(value := self.draft.constants.get(name), np.ndarray):
                value.flags.writeable = False


def _changing(graph: Subgraph) -> set[str]:
    """Return the variables to which a graph assigns something."""
    handles = {
        one.outputs[0]: str(one.options["name"])
        for one in graph.operations
        if one.kind == "VAR_HANDLE" and one.outputs
    }
    return {
        handles[one.inputs[0]]
        for one in graph.operations
        if one.kind == "ASSIGN_VARIABLE" and one.inputs and one.inputs[0] in handles
    }


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
                tensor = self.reader.graph.tensor(index)
                if tensor.scales is not None and tensor.dtype in _INTEGERS:
                    raise ValueError(_quantised(tensor, "it takes or gives"))

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
            raise ValueError(f"it has {len(self.inputs)} inputs, and must have {least} to {most}")
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
        """Return a value behind the activation that the operator has in itself."""
        number = self.options.get("activation", 0)
        if not number:
            return value
        if number not in _ACTIVATIONS:
            raise ValueError(f"its activation has the number {number}, which is not known here")
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
        """Return the plan of a graph that stands in the operator."""
        inner = self.reader.read_inside(index)
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
            name = f"{owner}/{'hc'[number % 2]}{'_reverse' * (number > 1)}"
            port = Port(name, np.dtype("f4"), (None if reader.is_open else shape[0], size))
            reader.states.append(State(port, f"{name}_n", number > 1))
            names.append(name)
            finals.append(f"{name}_n")
            reader.finals.append(f"{name}_n")
        return States(names, finals)


def _quantised(tensor: Tensor, verb: str) -> str:
    """Return the sentence that refuses quantised numbers."""
    return (
        f"{verb} quantised numbers, {tensor.dtype} in {short(tensor.name)}; models of floats are "
        "read: convert it without optimizations, or with weights in float16"
    )
