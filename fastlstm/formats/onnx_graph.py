"""How the graph of an ONNX file becomes a `Draft`: names, constants, functions, graphs in graphs.

The names of values in the file are those of one graph; a graph inside an operator sees those
around it. In the draft every value has a name of its own. So functions and the branches of an If
whose condition is known can be put into the graph that uses them.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import quoted, short
from ..graphs.control import truth
from ..graphs.model import Port
from ..graphs.operators import node_of
from ..graphs.plan import Body, Draft, Node, Operator, Value
from .onnx_states import PASSING, Flow
from .onnx_tensors import Tensors, check_text, dtype_of

if TYPE_CHECKING:
    from .budget import Budget

# Constants are computed beforehand as long as that takes so many seconds together; and what is more
# than one operation for each number that goes in, only up to so many. What onnx computes may take
# any time, as a regular expression does: only windows, which networks have as constants, are
# computed beforehand.
_MOST_SECONDS = 2.0
_MOST_PRODUCTS = 10**8
_COSTLY = {"Conv", "Gemm", "MatMul"}
# These take one operation for each place in each window or, as Loops do, as many as a number says.
_LATE = {"AveragePool", "Loop", "MaxPool", "Scan"}
_BY_ONNX = {"BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix"}

_SMALL = 256  # bytes of an attribute that may be read many times
_LONGEST_NAME = 500  # letters of an operator's type or domain
_OLDEST = 7  # the first version of ONNX's operators ("opset") that is read
_PLAIN = {  # fields of an AttributeProto by its type, which need no readers of their own
    "FLOAT": "f",
    "INT": "i",
    "STRING": "s",
    "TYPE_PROTO": "tp",
    "FLOATS": "floats",
    "INTS": "ints",
    "STRINGS": "strings",
    "TYPE_PROTOS": "type_protos",
}
_VALUES = _PLAIN | {
    "TENSOR": "t",
    "GRAPH": "g",
    "SPARSE_TENSOR": "sparse_tensor",
    "TENSORS": "tensors",
    "GRAPHS": "graphs",
    "SPARSE_TENSORS": "sparse_tensors",
}


class Graph:
    """A graph that is being read, or a function: which value each of its names stands for.

    Parameters
    ----------
    draft : Draft
        What it becomes part of.
    versions : dict of str -> int
        Of the operators, by their domains.
    outer : Graph, optional
        The one around it, whose names it sees.
    attributes : dict
        Those that a function was called with: the AttributeProto and the graph that it stands in.
    repeated : bool
        Whether its constants have been read before, as those of a function that is called twice.
    """

    def __init__(
        self,
        draft: Draft,
        versions: Mapping[str, int],
        outer: Graph | None = None,
        attributes: Mapping[str, tuple[Any, Graph]] | None = None,
        repeated: bool = False,
    ) -> None:
        self.draft, self.versions, self.outer = draft, versions, outer
        self.attributes = attributes or {}
        self.repeated = repeated
        self.depth: int = outer.depth + 1 if outer else 0
        self.names: dict[str, str] = {}
        self._around: dict[str, str] = {}  # as `names`, of the graphs around it
        self.captured: dict[str, None] = {}  # what its draft takes from the one around it, in order

    def find(self, name: str) -> str:
        """Return the value that a name stands for; "" for an input that a function lacks."""
        if name in self.names:
            return self.names[name]
        if name in self._around:
            return self._around[name]
        if self.outer is None:
            raise ValueError(f"nothing before it gives {short(name)}")
        found = self.outer.find(name)
        if found and self.outer.draft is not self.draft:
            if found in self.outer.draft.constants:
                self.draft.constants[found] = self.outer.draft.constants[found]
            else:
                self.captured[found] = None
        self._around[name] = found
        return found


class Reader:
    """Reads the graph of a model, and what is in it.

    Parameters
    ----------
    model : ModelProto
    tensors : Tensors
    draft : Draft
        It gets the nodes, constants and layers.
    budget : Budget
        Of the file.

    Attributes
    ----------
    inputs, outputs : list of Port
    names : list of str
        The values of the outputs.
    faults : dict of str -> str
        Why an operator cannot be computed, by its name.
    flow : Flow
        Which values go where, for `states`.
    """

    def __init__(self, model: Any, tensors: Tensors, draft: Draft, budget: Budget) -> None:
        self._tensors, self._budget = tensors, budget
        self._functions = {(_domain(f.domain), f.name, f.overload): f for f in model.functions}
        if len(self._functions) < len(model.functions):
            raise ValueError("it has two functions of the same name")
        self._calls: list[tuple[str, str, str]] = []  # of functions that are being read
        self._called: set[tuple[str, str, str]] = set()
        self._taken: dict[str, int] = {}
        self.faults: dict[str, str] = {}
        self.flow = Flow()
        self._seconds = 0.0  # spent on constants
        self._failed = 0  # how many operators nobody can compute
        graph = Graph(draft, _versions(model.opset_import))
        self.inputs = self._main(model.graph, graph, model.ir_version >= 4)
        self.outputs = [_port(value) for value in model.graph.output]
        if len({port.name for port in self.outputs}) < len(self.outputs):
            raise ValueError("its graph has two outputs of the same name")
        self.names = self._results(model.graph.output, graph)

    # ---- graphs ----

    def _main(self, proto: Any, graph: Graph, optional: bool) -> list[Port]:
        """Read the graph of the model, and return its inputs.

        If `optional`, initializers that are inputs too may be given other values. Weights may not:
        what is made of them, such as the layers, is made once. Before version 4 of ONNX's files
        ("IR version") all initializers had to be inputs, and were constants.
        """
        given = {tensor.name for tensor in proto.initializer}
        given |= {sparse.values.name for sparse in proto.sparse_initializer}
        is_given = any(value.name in given for value in proto.input)
        weights = _weights(proto) if optional and is_given else given
        ports, defaults = [], {}
        for value in proto.input:
            if value.name in given and value.name in weights:
                continue
            ports.append(_port(value))
            self._define(graph, value.name)
            if value.name in given:
                defaults[value.name] = len(ports) - 1
        for name, array in self._fill(proto, graph, defaults).items():
            port = ports[defaults[name]]
            if port.dtype is not None and port.dtype != array.dtype:
                raise ValueError(
                    f"the input {short(name)} has the type {port.dtype}, its initializer "
                    f"{array.dtype}"
                )
            ports[defaults[name]] = port._replace(dtype=array.dtype, default=array)
        return ports

    def _fill(self, proto: Any, graph: Graph, apart: Collection[str] = ()) -> dict[str, Any]:
        """Read the initializers and the nodes of a graph; return the initializers named `apart`."""
        found = {}
        arrays: list[Any] = [(tensor.name, self._array, tensor) for tensor in proto.initializer]
        arrays += [(one.values.name, self._dense, one) for one in proto.sparse_initializer]
        for name, read, tensor in arrays:
            try:
                array = read(tensor, graph)
            except ValueError as fault:
                raise ValueError(f"initializer {short(name)}: {fault}") from fault
            if name in apart:
                found[name] = array
            else:
                self._constant(graph, name, array)
        self._nodes(proto.node, graph)
        return found

    def _nodes(self, nodes: Iterable[Any], graph: Graph) -> None:
        self._budget.check("levels of graphs", graph.depth)
        for proto in nodes:
            self._budget.spend("operators")
            try:
                self._node(proto, graph)
            except ValueError as fault:
                said = str(fault)
                if said.startswith("operator ") or said.startswith("it has "):
                    raise
                raise ValueError(
                    f"operator {short(proto.op_type)[1:-1]} {short(_name(proto))}: {said}"
                ) from fault

    def _results(self, outputs: Iterable[Any], graph: Graph) -> list[str]:
        """Return the values of the outputs of a graph."""
        names = []
        for value in outputs:
            try:
                names.append(graph.find(value.name))
            except ValueError:
                raise ValueError(f"nothing gives the output {short(value.name)}") from None
        return names

    # ---- nodes ----

    def _node(self, proto: Any, graph: Graph) -> None:
        check_text(proto.name, proto.domain, proto.op_type, proto.overload)
        domain, kind = _domain(proto.domain), proto.op_type
        for name in domain, kind:
            if not name.isprintable() or len(name) > _LONGEST_NAME:
                raise ValueError(f"no operator is called {short(name)}")
        key = (domain, kind, proto.overload)
        inputs = _stripped([graph.find(name) if name else "" for name in proto.input])
        if key in self._functions:
            self._call(key, proto, inputs, graph)
            return
        if domain not in graph.versions:
            raise ValueError(f"the file does not tell the version of the domain {short(domain)}")
        if domain == "" and kind == "Constant":
            found = [*self._attributes(proto, graph)]
            if len(proto.output) != 1 or len(found) != 1:
                raise ValueError("a constant needs one output and one attribute")
            attribute, owner = found[0]
            value = self._value(attribute, graph, owner is not graph)
            self._constant(graph, proto.output[0], value)
            return
        if domain == "" and kind == "Identity" and len(inputs) == len(proto.output) == 1:
            self._define(graph, proto.output[0], inputs[0])
            return
        if domain == "" and kind == "If" and inputs and inputs[0] in graph.draft.constants:
            self._branch(proto, graph.draft.constants[inputs[0]], graph)
            return
        self._operator(proto, domain, inputs, graph)

    def _operator(self, proto: Any, domain: str, inputs: list[str], graph: Graph) -> None:
        """Read an operator that is one node of the draft."""
        draft, name = graph.draft, _name(proto)
        known = self._failed
        attributes: dict[str, Any] = {}
        around: dict[str, None] = {}  # the values that graphs inside take from around them
        for attribute, owner in self._attributes(proto, graph):
            if attribute.name in attributes:
                raise ValueError(f"it has the attribute {short(attribute.name)} twice")
            value = self._attribute(attribute, owner, graph)
            attributes[attribute.name] = value
            bodies = value if isinstance(value, list) else [value]
            for body in bodies:
                if isinstance(body, Body):
                    around |= dict.fromkeys(body.captured)
        outputs = [self._define(graph, n) if n else "" for n in proto.output]
        if proto.op_type != "Split":  # into how many parts, its outputs may say
            outputs = _stripped(outputs)
        if self._failed > known or not outputs:
            self._failed += bool(outputs)
            return  # a graph inside has operators that nobody computes
        operator = Operator(
            name,
            proto.op_type,
            domain,
            graph.versions[domain],
            attributes,
            (*inputs, *around),
            tuple(outputs),
            tuple(draft.constants.get(n) for n in (*inputs, *around)),
            draft,
        )
        try:
            node = node_of(operator)
        except ValueError as fault:
            self._fault(name, str(fault))
            return
        self._note_flow(operator)
        self._add(draft, node, domain, graph)

    def _note_flow(self, operator: Operator) -> None:
        """Note where the operator's values go, as far as it matters for states."""
        inputs, outputs = operator.inputs, operator.outputs
        if operator.type in ("LSTM", "DynamicQuantizeLSTM", "GRU", "RNN"):
            begins, ends = (*inputs, *[""] * 7)[5:7], (*outputs, "", "", "")[1:3]
            backward = operator.attributes.get("direction", "forward") != "forward"
            self.flow.lstm(begins, ends, backward)
        elif operator.domain == "" and operator.type in PASSING:
            sources = inputs if operator.type == "Concat" else inputs[:1]
            for body in operator.attributes.values():
                if operator.type == "If" and isinstance(body, Body):
                    sources = ()
                    for result, output in zip(body.plan.outputs, outputs, strict=False):
                        self.flow.passes(result, output)
            for source in sources:
                for output in outputs:
                    self.flow.passes(source, output)

    def _add(self, draft: Draft, node: Node, domain: str, graph: Graph) -> None:
        """Add a node to the draft; what it computes from constants is a constant, and stays one."""
        begun = time.monotonic()
        try:
            draft.add(node, fold=self._folds(draft, node, domain))
        except ValueError as fault:
            if graph.depth == 0:
                self._fault(node.name, str(fault))
                return
            draft.add(node, fold=False)  # it may be in a branch that is never taken
        self._seconds += time.monotonic() - begun
        for name in node.outputs:
            if isinstance(value := draft.constants.get(name), np.ndarray):
                value.flags.writeable = False

    def _folds(self, draft: Draft, node: Node, domain: str) -> bool:
        """Whether a node that takes constants alone may be computed while the file is read.

        Not if a few numbers could ask for hours of work; it is done at each call then. Nor if
        another call has another result: what is drawn at random, or by a layer with new weights.
        """
        if node.by == "fastlstm" or node.type in _LATE or self._seconds > _MOST_SECONDS:
            return False
        if node.by == "onnx":
            return node.type in _BY_ONNX
        if node.by == "numpy" and node.type not in _COSTLY and domain == "":
            return True
        sizes = [np.size(draft.constants[n]) for n in node.inputs if n in draft.constants]
        return math.prod(max(1, size) for size in sizes) <= _MOST_PRODUCTS

    def _branch(self, proto: Any, condition: Value, graph: Graph) -> None:
        """Read an If whose condition is known: the nodes of one branch take its place."""
        wanted = "then_branch" if truth(condition) else "else_branch"
        found = {
            attribute.name: (attribute, owner)
            for attribute, owner in self._attributes(proto, graph)
        }
        attribute, owner = found.get(wanted, (None, graph))
        if attribute is None or not attribute.HasField("g"):
            raise ValueError(f"it has no {wanted}")
        branch = Graph(graph.draft, owner.versions, owner, owner.attributes, owner.repeated)
        branch.depth = graph.depth + 1
        self._fill(attribute.g, branch)
        results = self._results(attribute.g.output, branch)
        self._give(proto, results, graph)

    def _call(
        self, key: tuple[str, str, str], proto: Any, inputs: Sequence[str], graph: Graph
    ) -> None:
        """Read the call of a function of the file: its nodes take its place."""
        function = self._functions[key]
        if key in self._calls:
            raise ValueError(f"the function {short(function.name)} calls itself")
        if len(inputs) > len(function.input):
            raise ValueError(f"the function {short(function.name)} is given too many inputs")
        given = {attribute.name: (attribute, graph) for attribute in function.attribute_proto}
        given |= {found.name: (found, owner) for found, owner in self._attributes(proto, graph)}
        body = Graph(
            graph.draft,
            _versions(function.opset_import),
            None,
            given,
            graph.repeated or key in self._called,
        )
        body.depth = graph.depth + 1
        for place, name in enumerate(function.input):
            if name in body.names:
                raise ValueError(f"the function {short(function.name)} has an input twice")
            body.names[name] = inputs[place] if place < len(inputs) else ""
        self._calls.append(key)
        self._called.add(key)
        self._nodes(function.node, body)
        self._calls.pop()
        results = [body.find(name) for name in function.output]
        self._give(proto, results, graph)

    def _give(self, proto: Any, results: Sequence[str], graph: Graph) -> None:
        """Let the outputs of a node stand for these values."""
        if len(proto.output) > len(results):
            raise ValueError(f"it has {len(proto.output)} outputs, its graph {len(results)}")
        for name, value in zip(proto.output, results, strict=False):
            if name:
                self._define(graph, name, value)

    # ---- values ----

    def _define(self, graph: Graph, name: str, value: str | None = None) -> str:
        """Let a name stand for a value, a new one if none is given, and return that."""
        if name in graph.names:
            raise ValueError(f"there are two values called {short(name)}")
        check_text(name)
        if not name:
            raise ValueError("a value has no name")
        if value is None:
            self._budget.spend("letters of names", len(name))
            count = self._taken.get(name, 0)
            self._taken[name] = count + 1
            value = f"{name} ({count + 1})" if count else name
            if count:
                self._taken[value] = 1
        graph.names[name] = value
        return value

    def _constant(self, graph: Graph, name: str, value: Value) -> None:
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
        graph.draft.constants[self._define(graph, name)] = value

    def _array(self, tensor: Any, graph: Graph, again: bool = False) -> Value:
        array = self._tensors.array(tensor)
        if again or graph.repeated:
            graph.draft.spend(array.nbytes)
        return array

    def _dense(self, sparse: Any, graph: Graph) -> Value:
        array = self._tensors.dense(sparse)
        graph.draft.spend(array.nbytes)
        return array

    # ---- attributes ----

    def _attributes(self, proto: Any, graph: Graph) -> Iterable[tuple[Any, Graph]]:
        """Yield the attributes of a node, and the graph that each stands in.

        In a function an attribute may refer to one of the call.
        """
        for attribute in proto.attribute:
            check_text(attribute.name, attribute.ref_attr_name)
            if not attribute.ref_attr_name:
                yield attribute, graph
            elif found := self._referred(attribute.ref_attr_name, graph):
                told, owner = found
                named = type(told)()
                named.CopyFrom(told)
                named.name = attribute.name
                yield named, owner

    def _referred(self, name: str, graph: Graph | None) -> tuple[Any, Graph] | None:
        while graph is not None:
            if name in graph.attributes:
                return graph.attributes[name]
            graph = graph.outer
        return None

    def _attribute(self, proto: Any, owner: Graph, graph: Graph) -> Any:
        """Return the value of an attribute."""
        kind = _kind(proto)
        if kind == "GRAPH":
            return self._body(proto.g, owner, graph)
        if kind == "GRAPHS":
            return [self._body(inner, owner, graph) for inner in proto.graphs]
        return self._value(proto, graph, owner is not graph)

    def _value(self, proto: Any, graph: Graph, again: bool) -> Any:
        """Return the value of an attribute that is no graph; that of a Constant is an array.

        `again` says that others may read the same attribute: it is one of a function's call.
        """
        kind = _kind(proto)
        if kind in _PLAIN and (again or graph.repeated) and proto.ByteSize() > _SMALL:
            graph.draft.spend(8 * proto.ByteSize())  # a number of a list takes so much more
        if kind == "TENSOR":
            return self._array(proto.t, graph, again)
        if kind == "TENSORS":
            return [self._array(tensor, graph, again) for tensor in proto.tensors]
        if kind == "SPARSE_TENSOR":
            return self._dense(proto.sparse_tensor, graph)
        if kind not in _PLAIN:
            raise ValueError(f"its attribute {short(proto.name)} has the type {kind}")
        value = getattr(proto, _PLAIN[kind])
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif kind == "STRINGS":
            value = [text.decode("utf-8", "replace") for text in value]
        elif kind.endswith("S"):
            value = list(value)
        if proto.name.startswith("value_") and proto.name[6:] in _CONSTANTS:
            return np.array(value, _CONSTANTS[proto.name[6:]])
        return value

    def _body(self, proto: Any, owner: Graph, graph: Graph) -> Body:
        """Return a graph inside an operator as a plan of its own."""
        draft = graph.draft.inside()
        body = Graph(draft, owner.versions, owner, owner.attributes, graph.repeated)
        body.depth = graph.depth + 1
        given = {tensor.name for tensor in proto.initializer}
        inputs = [
            self._define(body, value.name) for value in proto.input if value.name not in given
        ]
        known = self._failed
        self._fill(proto, body)
        graph.draft.room = draft.room
        outputs = self._results(proto.output, body)
        captured = tuple(body.captured)
        if self._failed > known:
            return Body(Draft(draft.engine, draft.limits, 0).plan((), ()), captured)
        ports = map(_port, proto.output)
        kinds = [(port.dtype, port.shape) for port in ports]
        return Body(draft.plan((*inputs, *captured), outputs), captured, kinds)

    def _fault(self, name: str, fault: str) -> None:
        self._failed += 1
        if len(self.faults) < 100:
            self.faults.setdefault(name, fault)


_WEIGHTS = {  # the places of the inputs that layers are made of
    "LSTM": (1, 2, 3, 7),
    "DynamicQuantizeLSTM": (1, 2, 3, 7, 8, 9, 10, 11),
    "MatMul": (0, 1),
    "Gemm": (0, 1, 2),
    "Conv": (1, 2),
}
_CONSTANTS = {
    "int": "i8", "ints": "i8", "float": "f4", "floats": "f4", "string": "O", "strings": "O",
}  # fmt: skip


def _kind(attribute: Any) -> str:
    """Return the type of an attribute; ValueError if it has the value of another one."""
    check_text(attribute.name, attribute.ref_attr_name)
    kind = _kinds().get(attribute.type, "UNDEFINED")
    if kind == "UNDEFINED":
        raise ValueError(f"its attribute {short(attribute.name)} has no known type")
    fields = {field.name for field, _ in attribute.ListFields()}
    if others := fields - {"name", "type", "doc_string", "ref_attr_name", _VALUES[kind]}:
        what = f"its attribute {short(attribute.name)} is said to be {kind}"
        raise ValueError(f"{what}, but has {quoted(sorted(others))}")
    return kind


@functools.cache
def _kinds() -> dict[int, str]:
    """Return the types of attributes by their numbers."""
    from onnx import AttributeProto

    return {number: name for name, number in AttributeProto.AttributeType.items()}


def _weights(proto: Any) -> set[str]:
    """Return the names of values that are weights of operators in a graph, or in graphs inside."""
    found, graphs = set(), [proto]
    while graphs:
        for node in graphs.pop().node:
            places = _WEIGHTS.get(node.op_type, ())
            found |= {name for place, name in enumerate(node.input) if place in places}
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return found


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _versions(imports: Iterable[Any]) -> dict[str, int]:
    """Return the versions of operators that a file or function uses, by their domains."""
    from onnx import defs

    versions = {_domain(entry.domain): int(entry.version) for entry in imports}
    version, newest = versions.get("", _OLDEST), defs.onnx_opset_version()
    if version < _OLDEST:
        raise ValueError(
            f"its operators are those of version (opset) {version} of ONNX, read are {_OLDEST} and "
            "newer ones: convert it with onnx.version_converter.convert_version(model, 13)"
        )
    if version > newest:
        raise ValueError(
            f"its operators are those of version (opset) {version} of ONNX, the onnx package that "
            f"is installed knows {newest}: pip install --upgrade onnx"
        )
    return versions


def _stripped(names: list[str]) -> list[str]:
    """Return names without the empty ones at the end."""
    while names and not names[-1]:
        names.pop()
    return names


def _name(proto: Any) -> str:
    """Return the name of a node or, if it has none, that of its first output."""
    return str(proto.name or next(filter(None, proto.output), ""))


def _port(value: Any) -> Port:
    """Return an input or output of a graph, from its ValueInfoProto."""
    told = value.type
    if told.HasField("optional_type"):  # which may be None, so that its type and shape are open
        return Port(value.name, listed=told.optional_type.elem_type.HasField("sequence_type"))
    if not told.HasField("tensor_type"):
        return Port(value.name, listed=told.HasField("sequence_type"))
    tensor = told.tensor_type
    dtype = dtype_of(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return Port(value.name, dtype)
    shape: list[int | str | None] = []
    for size in tensor.shape.dim:
        if size.HasField("dim_value"):
            if size.dim_value < 0:
                raise ValueError(f"{short(value.name)} has a size below 0: {size.dim_value}")
            shape.append(int(size.dim_value))
        else:
            check_text(size.dim_param)
            shape.append(size.dim_param or None)
    return Port(value.name, dtype, tuple(shape))
