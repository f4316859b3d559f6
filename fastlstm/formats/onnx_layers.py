"""Layers as nodes of ONNX's operators, which `onnx_writer` puts into a file.

`draw` goes through a model from its input to its output; each kind of layer has a function that
adds the nodes that do its work. Sequences inside the graph have the shape (time, batch, features),
as the operator LSTM wants them.

Source of the operators: https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ..checks import check_bool, quoted, short
from ..layers import (
    LSTM,
    Concat,
    Dropout,
    Embedding,
    Last,
    Layer,
    Linear,
    LSTMCell,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)
from ..layers.chain import Given, dotted
from ..layers.layouts import as_torch
from ..layers.options import options_of

if TYPE_CHECKING:
    from ..arrays import Array

# ONNX's names of the functions in an LSTM, and how many of alpha and beta each has.
_FUNCTIONS = {
    "sigmoid": ("Sigmoid", 0),
    "tanh": ("Tanh", 0),
    "relu": ("Relu", 0),
    "affine": ("Affine", 2),
    "leaky_relu": ("LeakyRelu", 1),
    "thresholded_relu": ("ThresholdedRelu", 1),
    "scaled_tanh": ("ScaledTanh", 2),
    "hard_sigmoid": ("HardSigmoid", 2),
    "elu": ("Elu", 1),
    "softsign": ("Softsign", 0),
    "softplus": ("Softplus", 0),
}
# What an LSTM may have that the operator cannot express, whatever its value.
_INEXPRESSIBLE = "proj_size", "cell_clip", "proj_clip", "layer_norm", "zoneout"

_INT32 = 6  # among ONNX's types of numbers

_Axes: TypeAlias = tuple["str | int | None", ...]  # names or sizes; None for what is not known


class Options(NamedTuple):
    """What the caller chooses of inputs and outputs; `fastlstm.save` explains it."""

    names: Mapping[str, str]
    lengths: bool
    states: bool

    def check(self) -> None:
        """Raise ValueError or TypeError if an option has none of its values."""
        if not isinstance(self.names, Mapping):
            raise TypeError(f"names must be a dict, got {type(self.names).__name__}")
        check_bool("lengths", self.lengths)
        check_bool("states", self.states)
        for name in [*self.names, *self.names.values()]:
            if not isinstance(name, str) or not name:
                raise TypeError(f"names must be a dict of str -> str, not empty, got {name!r:.100}")
        if len({*self.names.values()}) < len(self.names):
            raise ValueError(f"names must differ, got {quoted(self.names.values())}")


class _Value(NamedTuple):
    """A value in the graph: its name, its axes, and whether it holds indices."""

    name: str
    axes: _Axes
    holds_indices: bool = False

    @property
    def has_steps(self) -> bool:
        return "time" in self.axes


class Parameter(NamedTuple):
    """An array of parameters, which is made when it is written."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    array: Callable[[], Array]


class _Node(NamedTuple):
    type: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


class _Port(NamedTuple):
    """An input or output of the graph: what the model calls it, and the value."""

    role: str
    value: _Value
    dtype: np.dtype[Any]


class Graph:
    """A graph that is being made.

    Parameters
    ----------
    dtype : numpy.dtype
        The model's.
    options : Options
    stateful : list of str
        The names of the layers that have states.
    is_batch_first : bool
        Whether the model's sequences are (batch, time, ...). In the graph they never are.
    """

    def __init__(
        self, dtype: np.dtype[Any], options: Options, stateful: list[str], is_batch_first: bool
    ) -> None:
        self.dtype, self.options, self.is_batch_first = dtype, options, is_batch_first
        self.nodes: list[_Node] = []
        self.parameters: dict[str, Parameter] = {}
        self.constants: dict[str, Array] = {}
        self.inputs: list[_Port] = []
        self.outputs: list[_Port] = []
        self.lengths = ""  # the input of lengths, if there is one
        self._stateful = stateful
        self._taken: set[str] = set()  # names of nodes and their outputs
        self._shared: dict[str, str] = {}

    def add(
        self,
        type: str,
        inputs: Iterable[str],
        name: str,
        outputs: Sequence[str | None],
        **attributes: Any,
    ) -> list[str]:
        """Add a node, and return the names of its outputs.

        These are the node's name with what `outputs` has; None is an output that nobody wants. If
        the name is taken, a number is put behind it.
        """
        free, number = name, 2
        while not self._taken.isdisjoint({free, *(free + end for end in outputs if end)}):
            free, number = f"{name}_{number}", number + 1
        named = ["" if end is None else free + end for end in outputs]
        self._taken.update([free, *named])
        self.nodes.append(_Node(type, free, list(inputs), named, attributes))
        return named

    def one(self, type: str, inputs: Iterable[str], name: str, **attributes: Any) -> str:
        """Add a node with one output, and return the name of that."""
        return self.add(type, inputs, name, [""], **attributes)[0]

    def shared(self, type: str, inputs: Iterable[str], name: str, **attributes: Any) -> str:
        """Do the same, but for the first caller with this name alone."""
        if name not in self._shared:
            self._shared[name] = self.one(type, inputs, name, **attributes)
        return self._shared[name]

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """Return the name of a constant."""
        name = f"constant {value}"
        self.constants[name] = np.array(value, dtype)
        return name

    def parameter(self, name: str, shape: tuple[int, ...], array: Callable[[], Array]) -> str:
        """Return the name of an array of parameters, which is `name` itself."""
        self.parameters[name] = Parameter(shape, self.dtype, array)
        return name

    def input(self, role: str, axes: _Axes, dtype: Any = None) -> str:
        """Return the name of a new input."""
        value = _Value(f"input {role}", axes)
        self.inputs.append(_Port(role, value, np.dtype(dtype or self.dtype)))
        return value.name

    def output(self, role: str, value: _Value) -> None:
        """Make a value an output."""
        dtype = np.dtype(np.int64) if value.holds_indices else self.dtype
        self.outputs.append(_Port(role, value, dtype))

    def state_role(self, layer: str, state: str) -> str:
        """Return what a state of a layer is called, as "h_0"."""
        return state if len(self._stateful) == 1 else dotted(layer, state)

    def has_steps(self) -> str:
        """Return the name of (B, 1) bools: whether a sequence has any step."""
        zero = self.constant(0)
        has_steps = self.shared("Greater", [self.lengths, zero], "lengths/above_0")
        return self.shared("Unsqueeze", [has_steps, self.constant([1])], "lengths/above_0/column")

    def named(self) -> dict[str, str]:
        """Return the names that the caller gives to values, by those that they have had so far.

        An output that is an input or another output as well gets a node of its own.
        """
        roles = [port.role for port in (*self.inputs, *self.outputs)]
        if unknown := [role for role in self.options.names if role not in roles]:
            raise ValueError(f"names has {quoted(unknown)}, the model has {quoted(roles)}")
        names = {
            port.value.name: self.options.names.get(port.role, port.role) for port in self.inputs
        }
        for n, (role, value, dtype) in enumerate(self.outputs):
            if value.name in names or value.name in self.parameters:
                value = value._replace(name=self.one("Identity", [value.name], f"{role}/copy"))
                self.outputs[n] = _Port(role, value, dtype)
            names[value.name] = self.options.names.get(role, role)
        inner = {name for node in self.nodes for name in node.outputs} - names.keys()
        taken = [*inner, *self.parameters, *self.constants, *names.values()]
        if twice := sorted({name for name in names.values() if taken.count(name) > 1}):
            raise ValueError(
                f"the graph has {quoted(twice)} already: give other names for inputs and outputs"
            )
        return names


def stateful(model: Layer) -> list[str]:
    """Return the names of the layers that have states."""
    return [
        prefix.removesuffix(".")
        for prefix, layer in model.named_layers()
        if isinstance(layer, (LSTM, LSTMCell))
    ]


def draw(model: Layer, options: Options) -> Graph:
    """Return the graph of a model.

    Raises
    ------
    ValueError
        If the model has a layer, or an option of one, that ONNX cannot express; or if it has no
        such inputs or outputs as the caller wants.
    """
    timed = [layer for _, layer in model.named_layers() if isinstance(layer, (LSTM, Last))]
    with_states = stateful(model)
    if options.lengths and not timed:
        raise ValueError("lengths=True needs a model with an LSTM or a Last")
    if options.states and not with_states:
        raise ValueError("states=True needs a model with an LSTM or an LSTMCell")
    model._check_layouts()
    layouts = {layer.batch_first for layer in timed}
    if None in layouts:
        raise ValueError(
            "its batch_first is undecided: set it to True or False in its LSTMs, or load the model "
            "with batch_first=True or False, as `fastlstm convert --batch-first` does"
        )
    graph = Graph(model.dtype, options, with_states, True in layouts)

    is_index = model._takes_indices
    axes: _Axes = ("time", "batch") if timed else ("batch",)
    shown = axes[::-1] if graph.is_batch_first else axes
    if not is_index:  # as many features as a layer tells
        features = model._join("", Given([], type(model).__name__))[1].taken
        axes, shown = (*axes, features), (*shown, features)
    x = _Value(graph.input("input", shown, np.int64 if is_index else None), axes, is_index)
    if graph.is_batch_first:
        x = x._replace(name=graph.one("Transpose", [x.name], "input/by_steps", perm=_swapped(x)))
    if options.lengths:
        graph.lengths = graph.input("lengths", ("batch",), np.int64)
    y = _write(graph, "", model, x)
    if y is not None:
        if graph.is_batch_first and y.has_steps:
            name = graph.one("Transpose", [y.name], "output/by_sequences", perm=_swapped(y))
            y = y._replace(name=name, axes=("batch", "time", *y.axes[2:]))
        graph.output("output", y)
        graph.outputs.insert(0, graph.outputs.pop())  # before the states
    return graph


def _swapped(x: _Value) -> list[int]:
    """Return the order of axes that swaps the first two."""
    return [1, 0, *range(2, len(x.axes))]


# ---- layers -----------------------------------------------------------------------------------


def _write(graph: Graph, name: str, layer: Layer, x: _Value) -> _Value | None:
    """Add the nodes of a layer, and return what it gives; None if these are states alone."""
    if x.holds_indices != isinstance(layer, Embedding) and not isinstance(
        layer, (Sequential, Residual, Concat, Dropout)
    ):
        takes = "indices" if isinstance(layer, Embedding) else "numbers"
        raise ValueError(f"{_place(name, layer)} takes {takes}, which it is not given")
    return _WRITERS[type(layer)](graph, name, layer, x)


def _place(name: str, layer: Layer) -> str:
    """Return the name of a layer, or what kind it is if it has none."""
    return name or type(layer).__name__


def _sequential(graph: Graph, name: str, layer: Sequential, x: _Value) -> _Value | None:
    y: _Value | None = x
    for own, child in layer.children.items():
        assert y is not None  # nothing follows an LSTMCell
        y = _write(graph, dotted(name, own), child, y)
    return y


def _beside(graph: Graph, name: str, layer: Layer, x: _Value) -> list[_Value]:
    """Write the layers of a Residual or Concat; none of them is an LSTMCell."""
    values = [_write(graph, dotted(name, own), one, x) for own, one in layer.children.items()]
    return [value for value in values if value is not None]


def _residual(graph: Graph, name: str, layer: Residual, x: _Value) -> _Value:
    y, *projected = _beside(graph, name, layer, x)
    (skip,) = projected or [x]
    return y._replace(name=graph.one("Add", [skip.name, y.name], f"{_place(name, layer)}/Add"))


def _concat(graph: Graph, name: str, layer: Concat, x: _Value) -> _Value:
    values = _beside(graph, name, layer, x)
    sizes = [value.axes[-1] for value in values]
    size = sum(n for n in sizes if isinstance(n, int)) if None not in sizes else None
    joined = graph.one("Concat", [v.name for v in values], f"{_place(name, layer)}/Concat", axis=-1)
    return values[0]._replace(name=joined, axes=(*values[0].axes[:-1], size))


def _same(graph: Graph, name: str, layer: Layer, x: _Value) -> _Value:
    return x


def _function(type: str) -> Callable[..., _Value]:
    """Return what writes a function of each value."""

    def function(graph: Graph, name: str, layer: Layer, x: _Value) -> _Value:
        return x._replace(name=graph.one(type, [x.name], f"{_place(name, layer)}/{type}"))

    return function


def _softmax(graph: Graph, name: str, layer: Softmax, x: _Value) -> _Value:
    rank, place = len(x.axes), _place(name, layer)
    if not -rank <= layer.dim < rank:
        raise ValueError(f"{place} (Softmax) is over axis {layer.dim}, its input has {rank}")
    axis = layer.dim % rank
    if x.has_steps and graph.is_batch_first and axis < 2:
        axis = 1 - axis
    return x._replace(name=graph.one("Softmax", [x.name], f"{place}/Softmax", axis=axis))


def _linear(graph: Graph, name: str, layer: Linear, x: _Value) -> _Value:
    place, weight = _place(name, layer), dotted(name, "weight")
    biases = []
    if layer.bias is not None:
        bias = dotted(name, "bias")
        biases = [graph.parameter(bias, layer.bias.shape, lambda: layer.bias)]
    if len(x.axes) == 2:
        graph.parameter(weight, layer.weight.shape, lambda: layer.weight)
        y = graph.one("Gemm", [x.name, weight, *biases], f"{place}/Gemm", transB=1)
    else:
        weight = graph.parameter(f"{weight}_T", layer.weight.shape[::-1], lambda: layer.weight.T)
        y = graph.one("MatMul", [x.name, weight], f"{place}/MatMul")
        y = graph.one("Add", [y, *biases], f"{place}/Add") if biases else y
    return _Value(y, (*x.axes[:-1], layer.out_features))


def _embedding(graph: Graph, name: str, layer: Embedding, x: _Value) -> _Value:
    weight = dotted(name, "weight")
    graph.parameter(weight, layer.weight.shape, lambda: layer.weight)
    y = graph.one("Gather", [weight, x.name], f"{_place(name, layer)}/Gather")
    return _Value(y, (*x.axes, layer.embedding_dim))


def _last(graph: Graph, name: str, layer: Last, x: _Value) -> _Value:
    """Take steps; for a sequence without any step it is zeros."""
    place = _place(name, layer)
    axes = x.axes[1:]
    if not x.has_steps:
        raise ValueError(f"{place} (Last) needs a sequence of steps, which it is not given")

    def first() -> str:
        return graph.one("Gather", [x.name, graph.constant(0)], f"{place}/first", axis=0)

    def last() -> str:
        if not graph.lengths:
            return graph.one("Gather", [x.name, graph.constant(-1)], f"{place}/last", axis=0)
        before = graph.one("Sub", [graph.lengths, graph.constant(1)], f"{place}/lengths_less_1")
        before = graph.one("Max", [before, graph.constant(0)], f"{place}/end")
        step = graph.one("Unsqueeze", [before, graph.constant([1])], f"{place}/end/column")
        by_sequences = graph.one("Transpose", [x.name], f"{place}/by_sequences", perm=[1, 0, 2])
        return graph.one("GatherND", [by_sequences, step], f"{place}/last", batch_dims=1)

    def half(y: str, start: int, end: int) -> str:
        bounds = [graph.constant([n]) for n in (start, end, 1)]
        return graph.one("Slice", [y, *bounds], f"{place}/half")

    if layer.bidirectional:
        wide = axes[-1]
        if not isinstance(wide, int) or wide % 2:
            raise ValueError(f"{place} (Last) needs an even number of features, got {wide}")
        halves = [half(last(), 0, wide // 2), half(first(), wide // 2, wide)]
        y = graph.one("Concat", halves, f"{place}/Concat", axis=-1)
    else:
        y = first() if layer.reverse else last()
    if graph.lengths:
        zero = graph.constant(0.0, graph.dtype)
        y = graph.one("Where", [graph.has_steps(), y, zero], f"{place}/Where")
    return _Value(y, axes)


def _lstm(graph: Graph, name: str, layer: LSTM, x: _Value) -> _Value:
    place, ends = _place(name, layer), _suffixes(layer)
    if not x.has_steps:
        raise ValueError(f"{place} (LSTM) needs a sequence of steps, which it is not given")
    starts = _first_states(graph, name, layer, x.name)
    finals = []
    for k, (own, start) in enumerate(zip(ends, starts, strict=True)):
        width = getattr(layer, f"weight_hh{own[0]}").shape[1] * len(own)
        node = f"{place}/layer{k}"
        y, *final = _node(graph, name, layer, own, node, x.name, start)
        finals.append(final)
        if len(own) == 1:  # y is (time, directions, batch, units)
            y = graph.one("Squeeze", [y, graph.constant([1])], f"{node}/output")
        else:
            y = graph.one("Transpose", [y], f"{node}/beside", perm=[0, 2, 1, 3])
            y = graph.one("Reshape", [y, graph.constant([0, 0, width])], f"{node}/output")
        x = _Value(y, (*x.axes[:2], width))
    if graph.options.states:
        _final_states(graph, name, layer, finals)
    return x


def _cell(graph: Graph, name: str, layer: LSTMCell, x: _Value) -> None:
    """Write a cell as an LSTM over one step; its outputs are its states."""
    place, axes = _place(name, layer), ("batch", layer.hidden_size)
    if x.has_steps:
        raise ValueError(f"{place} (LSTMCell) takes one step, and is given all of them")
    zero = graph.constant([0])
    step = graph.one("Unsqueeze", [x.name, zero], f"{place}/one_step")
    start = ["", ""]
    if graph.options.states:
        given = [graph.input(graph.state_role(name, f"{s}_0"), axes) for s in "hc"]
        start = [
            graph.one("Unsqueeze", [one, zero], f"{place}/{s}_0")
            for s, one in zip("hc", given, strict=True)
        ]
    elif layer.learn_initial_state:
        start = _learned(graph, name, layer, [""], place, step)
    _, *final = _node(graph, name, layer, [""], f"{place}/step", step, start)
    for s, one in zip("hc", final, strict=True):
        y = graph.one("Squeeze", [one, zero], f"{place}/{s}_n")
        graph.output(graph.state_role(name, f"{s}_n"), _Value(y, axes))


def _suffixes(layer: LSTM | LSTMCell) -> list[list[str]]:
    """Return how the names of parameters end, of each layer for each direction."""
    if isinstance(layer, LSTMCell):
        return [[""]]
    ends = ["", "_reverse"][: 1 + layer.bidirectional]
    return [[f"_l{k}{end}" for end in ends] for k in range(layer.num_layers)]


def _node(
    graph: Graph,
    name: str,
    layer: LSTM | LSTMCell,
    ends: list[str],
    node: str,
    x: str,
    start: list[str],
) -> list[str]:
    """Add a node LSTM, one layer in all its directions, and return what its outputs are called.

    The operator leaves open with which states a sequence without any step ends; here, as in
    fastlstm, it ends with those that it began with.
    """
    _check_expressible(name, layer)
    gates = layer.gates_of("weight_ih")

    def of_gates(kind: str) -> Array:
        """Return an array of each direction, with the rows of all gates in ONNX's order."""
        own = [getattr(layer, kind + end) for end in ends]
        parts = [dict(zip(gates, np.split(a, len(gates)), strict=True)) for a in own]
        nothing = np.zeros_like(parts[0]["i"])  # where a gate follows another one
        return np.stack([np.concatenate([p.get(g, nothing) for g in "iofg"]) for p in parts])

    def biases() -> Array:
        return np.concatenate([of_gates("bias_ih"), of_gates("bias_hh")], axis=1)

    def peepholes() -> Array:
        nothing = np.zeros(H, layer.dtype)
        rows = [[getattr(layer, f"weight_c{g}{end}", nothing) for g in "iof"] for end in ends]
        return np.array(rows).reshape(D, 3 * H)

    D, H = len(ends), getattr(layer, f"weight_hh{ends[0]}").shape[1]
    takes = getattr(layer, f"weight_ih{ends[0]}").shape[1]

    def parameter(kind: str, shape: tuple[int, ...], array: Callable[[], Array]) -> str:
        return graph.parameter(dotted(name, kind + ends[0]), shape, array)

    w = parameter("W", (D, 4 * H, takes), lambda: of_gates("weight_ih"))
    r = parameter("R", (D, 4 * H, H), lambda: of_gates("weight_hh"))
    b = parameter("B", (D, 8 * H), biases) if layer.bias else ""
    p = parameter("P", (D, 3 * H), peepholes) if layer.peephole else ""
    lengths = ""
    if graph.lengths and isinstance(layer, LSTM):
        lengths = graph.shared("Cast", [graph.lengths], "lengths/int32", to=_INT32)
    inputs = [x, w, r, b, lengths, *start, p]
    while not inputs[-1]:
        inputs.pop()
    is_cell, has_states = isinstance(layer, LSTMCell), graph.options.states
    outputs = [None if is_cell else "/Y", *(["/Y_h", "/Y_c"] if is_cell or has_states else [])]
    y, *final = graph.add("LSTM", inputs, node, outputs, **_attributes(layer, D, H))
    if lengths and start[0] and final:
        final = [
            graph.one("Where", [graph.has_steps(), one, before], f"{node}/{s}_n")
            for s, one, before in zip("hc", final, start, strict=True)
        ]
    return [y, *final]


def _check_expressible(name: str, layer: LSTM | LSTMCell) -> None:
    """Raise ValueError if a layer has an option that acts in evaluation and that ONNX lacks."""
    found = [option for option in _INEXPRESSIBLE if getattr(layer, option, None)]
    if layer.coupled == "i=1-f":
        found.append("coupled")
    if found:
        said = ", ".join(f"{option}={getattr(layer, option)!r}" for option in found)
        raise ValueError(
            f"{short(_place(name, layer))} has {said}, which ONNX's operator LSTM cannot express"
        )


def _attributes(layer: LSTM | LSTMCell, directions: int, hidden_size: int) -> dict[str, Any]:
    """Return the attributes of a node LSTM; those with the operator's defaults are left out.

    Programs disagree in the defaults of alpha and beta, so these are always written.
    """
    attributes: dict[str, Any] = {"hidden_size": hidden_size}
    if directions == 2:
        attributes["direction"] = "bidirectional"
    elif getattr(layer, "reverse", False):
        attributes["direction"] = "reverse"
    if layer.gate_clip is not None:
        attributes["clip"] = layer.gate_clip
    if layer.coupled:
        attributes["input_forget"] = 1
    options = options_of(layer)
    functions = [options.gate, options.cell, options.output] * directions
    names, counts = zip(*(_FUNCTIONS[f.name] for f in functions), strict=True)
    if names != ("Sigmoid", "Tanh", "Tanh") * directions:
        attributes["activations"] = names
    if alphas := [f.alpha for f, n in zip(functions, counts, strict=True) if n > 0]:
        attributes["activation_alpha"] = alphas
    if betas := [f.beta for f, n in zip(functions, counts, strict=True) if n > 1]:
        attributes["activation_beta"] = betas
    return attributes


def _first_states(graph: Graph, name: str, layer: LSTM, x: str) -> list[list[str]]:
    """Return the names of each layer's first h and c; "" stands for zeros."""
    place, ends = _place(name, layer), _suffixes(layer)
    if not graph.options.states:
        if not layer.learn_initial_state:
            return [["", ""]] * len(ends)
        return [
            _learned(graph, name, layer, own, f"{place}/layer{k}", x) for k, own in enumerate(ends)
        ]
    states: list[list[str]] = []
    for s in "hc":
        role = graph.state_role(name, f"{s}_0")
        if isinstance(layer.hidden_size, int):
            directions = len(ends[0])
            axes: _Axes = (len(ends) * directions, "batch", layer.hidden_size)
            parts = [graph.input(role, axes)]
            if len(ends) > 1:
                sizes = graph.constant([directions] * len(ends))
                outputs = [f"/layer{k}" for k in range(len(ends))]
                parts = graph.add("Split", [*parts, sizes], f"{place}/{s}_0", outputs, axis=0)
        else:
            parts = []
            for k, (own, width) in enumerate(zip(ends, layer.hidden_size, strict=True)):
                rows = [graph.input(role + end, ("batch", width)) for end in own]
                node = f"{place}/layer{k}/{s}_0"
                rows = [graph.one("Unsqueeze", [r, graph.constant([0])], node) for r in rows]
                parts += rows if len(rows) == 1 else [graph.one("Concat", rows, node, axis=0)]
        states.append(parts)
    return [[h, c] for h, c in zip(*states, strict=True)]


def _learned(
    graph: Graph, name: str, layer: LSTM | LSTMCell, ends: list[str], node: str, x: str
) -> list[str]:
    """Return the names of one layer's learned first h and c, as many as x has sequences."""

    def stacked(kind: str) -> Callable[[], Array]:
        return lambda: np.stack([getattr(layer, kind + end)[None] for end in ends])

    place, one = _place(name, layer), graph.constant([1])
    sizes = graph.shared("Shape", [x], f"{place}/sizes")
    count = graph.shared("Gather", [sizes, one], f"{place}/sizes/batch", axis=0)
    shape = graph.shared("Concat", [one, count, one], f"{place}/sizes/of_states", axis=0)
    width = getattr(layer, f"c_0{ends[0]}").shape[0]
    names = []
    for s in "hc":
        parameter = dotted(name, f"initial_{s}{ends[0]}")
        graph.parameter(parameter, (len(ends), 1, width), stacked(f"{s}_0"))
        names.append(graph.one("Expand", [parameter, shape], f"{node}/{s}_0"))
    return names


def _final_states(graph: Graph, name: str, layer: LSTM, finals: list[list[str]]) -> None:
    """Make the final h and c of all layers outputs, in the shapes of the first ones."""
    place, ends = _place(name, layer), _suffixes(layer)
    for s, parts in zip("hc", zip(*finals, strict=True), strict=True):
        if isinstance(layer.hidden_size, int):
            axes: _Axes = (len(parts) * len(ends[0]), "batch", layer.hidden_size)
            whole = parts[0]
            if len(parts) > 1:
                whole = graph.one("Concat", parts, f"{place}/{s}_n", axis=0)
            graph.output(graph.state_role(name, f"{s}_n"), _Value(whole, axes))
            continue
        for own, part, width in zip(ends, parts, layer.hidden_size, strict=True):
            for d, end in enumerate(own):
                node = f"{place}/{s}_n{end}"
                row = graph.one("Gather", [part, graph.constant(d)], node, axis=0)
                graph.output(graph.state_role(name, f"{s}_n{end}"), _Value(row, ("batch", width)))


_WRITERS: dict[type[Layer], Callable[..., _Value | None]] = {
    Sequential: _sequential,
    Residual: _residual,
    Concat: _concat,
    Dropout: _same,
    ReLU: _function("Relu"),
    Tanh: _function("Tanh"),
    Sigmoid: _function("Sigmoid"),
    Softmax: _softmax,
    Linear: _linear,
    Embedding: _embedding,
    Last: _last,
    LSTM: _lstm,
    LSTMCell: _cell,
}
# ---- back again -------------------------------------------------------------------------------


def parameters_of(model: Layer, arrays: Mapping[str, Array]) -> dict[str, Array] | None:
    """Return the parameters of a model by their names in it, from the arrays of its graph.

    It is None if some are not there, as learned states in whose place the caller gives states.
    """
    state = dict(arrays)
    for prefix, layer in model.named_layers():
        if isinstance(layer, (LSTM, LSTMCell)):
            state |= _as_torch(prefix, layer, arrays)
        elif isinstance(layer, Linear) and f"{prefix}weight_T" in arrays:
            state[f"{prefix}weight"] = arrays[f"{prefix}weight_T"].T
    names = model._owners().keys()
    return {name: state[name] for name in names} if names <= state.keys() else None


def _as_torch(prefix: str, layer: LSTM | LSTMCell, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the parameters of a layer by torch's names, from those of its nodes."""
    found: dict[str, Array] = {}
    for ends in _suffixes(layer):
        w, r, b, p, h, c = (
            arrays.get(f"{prefix}{kind}{ends[0]}")
            for kind in ("W", "R", "B", "P", "initial_h", "initial_c")
        )
        named = as_torch(w, r, b, "onnx", p, layer.coupled)
        for start, end in zip(("_l0", "_l0_reverse"), ends, strict=False):
            found |= {
                prefix + name.removesuffix(start) + end: array
                for name, array in named.items()
                if name.endswith(start)
            }
        for kind, array in (("h_0", h), ("c_0", c)):
            if array is not None:
                found |= {f"{prefix}{kind}{end}": array[d, 0] for d, end in enumerate(ends)}
    return found
