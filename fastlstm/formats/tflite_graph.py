"""How a graph of a TFLite file becomes a `Draft`: values, constants, states, and rows of layers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..checks import short
from ..graphs import Port, State
from ..graphs.plan import FAULTS, Draft, Node
from .onnx_states import Flow
from .tflite_rows import Row
from .tflite_site import Site, check_floats
from .tflite_tables import Model, Operation, Signature, Subgraph

if TYPE_CHECKING:
    from ..arrays import Array

# Constants are computed beforehand as long as that takes so many seconds together; products and
# windows, which take more than one operation for each number, are not.
_MOST_SECONDS = 2.0
_LATE = {"AveragePool", "Conv", "Gemm", "If", "MatMul", "MaxPool", "While"}


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
        self._taken = {port.name for port in self.inputs}
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
        numbers: defaultdict[str, int] = defaultdict(lambda: 1)
        for place, index in enumerate(indices):
            name = (names or {}).get(index) or self.graph.tensor(index).name or f"{what}_{place}"
            free = name
            while free in found:
                numbers[name] += 1
                free = f"{name}_{numbers[name]}"
            found[free] = index
        if what == "input" and len(set(indices)) < len(indices):
            raise ValueError("its graph has an input twice")
        return [(index, name) for name, index in found.items()]

    def _port(self, index: int, name: str) -> Port:
        tensor = self.graph.tensor(index)
        check_floats(tensor, "it has")
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
            value = self.free(name or "variable")
            self._carried.append((name, Port(value, first.dtype, first.shape, first)))
        self.assigned[name] = value
        return value

    def fresh(self) -> str:
        """Return a name for a value, which no input and no state has."""
        self._count += 1
        return self.free(f"{self._count}")

    def free(self, name: str) -> str:
        """Return a name, with "_" behind it as long as something has it, and take it."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

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
