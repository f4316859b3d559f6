"""Models written as Keras 3 holds them: layers of keras.layers, their graph as JSON, their arrays.

A model is first put down as a graph of Keras' layers, and whatever Keras has no layer for is
refused while nothing has been written. Then the graph is written: as a model, `.keras`, a zip of
two JSON texts and of an HDF5 file of arrays, or as these arrays alone, `.weights.h5`.

What Keras calls things: the kernel of a layer is the transpose of a weight of ours, and the gates
stand in the same order. Its LSTM has one bias, which is the sum of our two; the engines too compute
with this sum alone, so that nothing is lost. Source of names and paths: keras.src.saving in Keras
3.5 to 3.15, and files that these wrote.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ..checks import listed
from ..layers import (
    LSTM,
    Concat,
    Dropout,
    Embedding,
    Last,
    Layer,
    Linear,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)
from ..layers.chain import Given, dotted, who
from ..layers.options import Function, options_text
from ..layers.sequential import flattened

if TYPE_CHECKING:
    from ..arrays import Array

_Shape: TypeAlias = tuple[int | None, ...]
_Variables: TypeAlias = dict[str, tuple[str, list[Any]]]

_VERSION = "3.5.0"  # of Keras, whose files have this form; later ones read them
_DATE = (1980, 1, 1, 0, 0, 0)  # of all members of a zip, so that equal models are equal files
_ACTIVATIONS: dict[type[Layer], str] = {ReLU: "relu", Tanh: "tanh", Sigmoid: "sigmoid"}

# Functions of an LSTM that Keras has under one name, without parameters.
_FUNCTIONS: dict[Function, str] = {
    **{name: name for name in ("sigmoid", "tanh", "relu", "softsign", "softplus", "elu")},
    **{"identity": "linear", "affine": "linear", "scaled_tanh": "tanh"},
    ("leaky_relu", 0.2): "leaky_relu",
    ("hard_sigmoid", 1 / 6, 0.5): "hard_sigmoid",
}
# Options that keras.layers.LSTM lacks, whatever their value.
_LACKING = (
    *("peephole", "coupled", "gate_clip", "cell_clip", "proj_clip", "layer_norm", "zoneout"),
    "learn_initial_state",
)


def write(file: IO[bytes], model: Layer) -> None:
    """Write a model as Keras' own files, `.keras`, hold it: keras.saving.load_model reads it.

    Raises
    ------
    TypeError
        If the model is, or contains, a layer that Keras has not.
    ValueError
        If an option of a layer, or how layers go together, cannot be told to Keras.
    ImportError
        If h5py is missing.
    """
    graph = _Graph(model)
    texts = {"metadata.json": {"keras_version": _VERSION}, "config.json": graph.config()}
    members: dict[str, Any] = {name: json.dumps(value).encode() for name, value in texts.items()}
    members["model.weights.h5"] = graph.hdf5()
    with zipfile.ZipFile(file, "w") as archive:  # stored and not compressed, as Keras does
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), data)


def write_weights(file: IO[bytes], model: Layer) -> None:
    """Write the arrays of a model alone, `.weights.h5`, for the `load_weights` of a Keras model.

    Raises
    ------
    TypeError, ValueError, ImportError
        As `write` does.
    """
    file.write(_Graph(model).hdf5())


class _Written(NamedTuple):
    """What `save` asks of a format, for one of the two kinds of files; see `WrittenFormat`."""

    SUFFIXES: tuple[str, ...]
    STRUCTURED: bool
    write: Callable[..., None]
    NAME: str = "Keras"


MODEL = _Written((".keras",), True, write)
WEIGHTS = _Written((".weights.h5",), False, write_weights)


@dataclass(eq=False)
class _Node:
    """A layer of Keras: its class, its configuration, whose outputs it takes, and what it gives.

    ``variables`` has the arrays of the layer and of those inside it, in Keras' order, by the paths
    of these inside it: what each is called, and its arrays.
    """

    kind: str
    name: str
    config: dict[str, Any]
    inputs: list[_Node]
    shape: _Shape
    variables: _Variables = field(default_factory=dict)

    @property
    def snake(self) -> str:
        """The name of the class as paths have it."""
        return "input_layer" if self.kind == "InputLayer" else self.kind.lower()


class _Graph:
    """The layers of Keras that are a model together, each after those whose outputs it takes."""

    def __init__(self, model: Layer) -> None:
        for prefix, layer in model.named_layers():
            if type(layer) not in _RULES:
                known = ", ".join(kind.__name__ for kind in _RULES)
                raise TypeError(
                    f"a Keras file cannot hold {who(prefix[:-1], layer)}: it is none of {known}"
                )
            if isinstance(layer, (LSTM, Last)) and layer.batch_first is False:
                raise ValueError(
                    f"a Keras file cannot hold {who(prefix[:-1], layer)}: Keras' layers take the "
                    "batch first, (B, T, F), and this one the time: set batch_first = True on it, "
                    "and give it its input that way"
                )
        self.dtype = str(model.dtype)
        self.nodes: list[_Node] = []
        self.names: set[str] = set()
        shape, dtype = _input(model)
        settings = {"batch_shape": shape, "dtype": dtype or self.dtype}
        start = self.add("InputLayer", "input_layer", settings, [], shape)
        self.put("", model, start)
        self.is_chain = all(node.inputs == [before] for before, node in pairwise(self.nodes))
        self.name = "sequential" if self.is_chain else "functional"
        if not self.is_chain:
            self.nodes = _in_keras_order(self.nodes)

    # ---- how a model of ours becomes one --------------------------------------------------------

    def add(
        self,
        kind: str,
        path: str,
        config: dict[str, Any],
        inputs: list[_Node],
        shape: _Shape,
        arrays: list[Any] | None = None,
    ) -> _Node:
        """Add a layer of Keras, under a name of its own."""
        name = re.sub(r"[^A-Za-z0-9_]", "_", path).lstrip("_") or kind.lower()
        unique, count = name, 0
        while unique in self.names:
            count += 1
            unique = f"{name}_{count}"
        self.names.add(unique)
        node = _Node(kind, unique, config, inputs, shape, {"": (unique, arrays or [])})
        self.nodes.append(node)
        return node

    def put(self, name: str, layer: Layer, x: _Node) -> _Node:
        """Add what computes a layer of ours over the output of x; return what gives its output."""
        return _RULES[type(layer)](self, name, layer, x)

    def sequential(self, name: str, layer: Sequential, x: _Node) -> _Node:
        """Sequentials inside are layers of the outer one; a Last is an option of its LSTM."""
        chain = [*flattened(layer, name)]
        followers = [*(part for _, part in chain), None][1:]
        before: Layer | None = None
        for (own, part), after in zip(chain, followers, strict=True):
            if isinstance(part, LSTM):
                x = self.lstm(own, part, x, after if isinstance(after, Last) else None)
            elif not (isinstance(part, Last) and isinstance(before, LSTM)):
                x = self.put(own, part, x)
            before = part
        return x

    def lstm(self, name: str, lstm: LSTM, x: _Node, last: Last | None = None) -> _Node:
        """Each of its layers is one of Keras; with a `last` that follows it, only this step."""
        _check_lstm(name, lstm, last)
        state = lstm.state_dict()
        for k in range(lstm.num_layers):
            top = k == lstm.num_layers - 1
            ends = top and last is not None
            path = name if lstm.num_layers == 1 else f"{name or 'lstm'}_l{k}"
            cells = [
                _cell(state, f"_l{k}{suffix}", lstm.bias)
                for suffix in ("", "_reverse")[: 1 + lstm.bidirectional]
            ]
            units = len(cells[0][1])
            config = {
                "units": units,
                "activation": _function(name, lstm, "cell_activation"),
                "recurrent_activation": _function(name, lstm, "gate_activation"),
                "use_bias": lstm.bias,
                "return_sequences": not ends,
                # What runs from the end gives its last step first, to a layer that begins there.
                "go_backwards": lstm.reverse and k == 0,
                "dropout": float(lstm.input_dropout),
                "recurrent_dropout": float(lstm.recurrent_dropout),
            }
            shape = (*x.shape[: 1 if ends else 2], units * len(cells))
            if lstm.bidirectional:
                x = self.bidirectional(path, config, x, shape, cells)
            else:
                x = self.add("LSTM", path or "lstm", config, [x], shape)
                x.variables["cell"] = ("lstm_cell", cells[0])
            if lstm.dropout and not top:
                x = self.add("Dropout", f"{path}_dropout", {"rate": lstm.dropout}, [x], x.shape)
        return x

    def bidirectional(
        self, path: str, config: dict[str, Any], x: _Node, shape: _Shape, cells: list[list[Any]]
    ) -> _Node:
        """Add two LSTMs of Keras over one input, the second one from the end."""
        node = self.add("Bidirectional", path or "bidirectional", {}, [x], shape)
        node.config["merge_mode"] = "concat"
        directions = {"layer": "forward", "backward_layer": "backward"}
        for (argument, direction), cell in zip(directions.items(), cells, strict=True):
            own = config | {"go_backwards": direction == "backward"}
            inner = _Node("LSTM", f"{direction}_{node.name}", own, [x], shape)
            node.config[argument] = self.entry(inner)
            node.variables[f"{direction}_layer"] = (inner.name, [])
            node.variables[f"{direction}_layer/cell"] = ("lstm_cell", cell)
        return node

    def linear(self, name: str, linear: Linear, x: _Node) -> _Node:
        config = {"units": linear.out_features, "activation": "linear"}
        config["use_bias"] = linear.bias is not None
        arrays = [linear.weight.T] + ([] if linear.bias is None else [linear.bias])
        shape = (*x.shape[:-1], linear.out_features)
        return self.add("Dense", name or "dense", config, [x], shape, arrays)

    def embedding(self, name: str, embedding: Embedding, x: _Node) -> _Node:
        """A row of padding is one like the others: Keras' mask is another thing."""
        sizes = {"input_dim": embedding.num_embeddings, "output_dim": embedding.embedding_dim}
        shape = (*x.shape, embedding.embedding_dim)
        config = sizes | {"mask_zero": False}
        return self.add("Embedding", name, config, [x], shape, [embedding.weight])

    def activation(self, name: str, layer: Layer, x: _Node) -> _Node:
        if isinstance(layer, Softmax) and layer.dim not in (-1, len(x.shape) - 1):
            raise ValueError(
                f"a Keras file cannot hold {who(name, layer)}: Keras' softmax is that of the last "
                f"axis, {len(x.shape) - 1} or -1"
            )
        function = _ACTIVATIONS.get(type(layer), "softmax")
        return self.add("Activation", name, {"activation": function}, [x], x.shape)

    def dropout(self, name: str, dropout: Dropout, x: _Node) -> _Node:
        return self.add("Dropout", name, {"rate": float(dropout.p)}, [x], x.shape)

    def last(self, name: str, last: Last, x: _Node) -> _Node:
        raise ValueError(
            f"a Keras file cannot hold {who(name, last)} here: Keras gives the last step as an "
            "option of an LSTM, so that it must stand directly behind one in a Sequential"
        )

    def residual(self, name: str, residual: Residual, x: _Node) -> _Node:
        parts = residual.children.items()
        own = {part: self.put(dotted(name, part), child, x) for part, child in parts}
        terms = [own.get("projection", x), own["layer"]]
        return self.add("Add", name, {}, terms, own["layer"].shape)

    def concat(self, name: str, concat: Concat, x: _Node) -> _Node:
        own = [self.put(dotted(name, part), child, x) for part, child in concat.children.items()]
        if len(own) == 1:
            return own[0]
        widths = [node.shape[-1] or 0 for node in own]
        shape = (*own[0].shape[:-1], sum(widths))
        return self.add("Concatenate", name, {"axis": -1}, own, shape)

    # ---- how it is written ----------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """Return the whole graph as Keras' JSON has it."""
        layers = [self.entry(node) for node in self.nodes]
        shape = self.nodes[0].shape
        inside: dict[str, Any] = {"name": self.name, "trainable": True, "layers": layers}
        model: dict[str, Any] = {"config": inside, "registered_name": None}
        if self.is_chain:
            inside |= {"build_input_shape": shape}
            model |= {"module": "keras", "class_name": "Sequential"}
            return model | {"build_config": {"input_shape": shape}}
        for node, layer in zip(self.nodes, layers, strict=True):
            layer |= {"name": node.name, "inbound_nodes": self.calls(node)}
        inside |= {"input_layers": [self.nodes[0].name, 0, 0]}
        inside |= {"output_layers": [self.nodes[-1].name, 0, 0]}
        model |= {"module": "keras.src.models.functional", "class_name": "Functional"}
        return model | {"registered_name": "Functional"}

    def entry(self, node: _Node) -> dict[str, Any]:
        """Return a layer as Keras' JSON has it."""
        config = {"name": node.name, **node.config}
        entry: dict[str, Any] = {"module": "keras.layers", "class_name": node.kind}
        entry |= {"config": config, "registered_name": None}
        if node.inputs:
            shapes = [before.shape for before in node.inputs]
            config |= {"trainable": True, "dtype": self.dtype}
            if node.kind not in ("Activation", "Dropout"):  # which Keras need not build
                entry["build_config"] = {"input_shape": shapes[0] if len(shapes) == 1 else shapes}
        return entry

    def calls(self, node: _Node) -> list[Any]:
        """Return on what a layer is called: a tensor, or a list of tensors."""
        tensors = [
            {
                "class_name": "__keras_tensor__",
                "config": {
                    "shape": before.shape,
                    "dtype": before.config.get("dtype", self.dtype),
                    "keras_history": [before.name, 0, 0],
                },
            }
            for before in node.inputs
        ]
        if not tensors:
            return []
        several = node.kind in ("Add", "Concatenate")
        return [{"args": [tensors] if several else tensors, "kwargs": {}}]

    def hdf5(self) -> memoryview:
        """Return the file of all arrays."""
        try:
            import h5py
        except ImportError as fault:
            raise ImportError(
                "Keras files need h5py, which is not installed: pip install h5py"
            ) from fault
        groups: _Variables = {"": (self.name, [])}
        counts: dict[str, int] = {}
        for node in self.nodes[1:] if self.is_chain else self.nodes:  # a chain's input has no group
            count = counts[node.snake] = counts.get(node.snake, -1) + 1
            path = f"layers/{node.snake}" + (f"_{count}" if count else "")
            groups |= {f"{path}/{inner}": own for inner, own in node.variables.items()}
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            for path, (name, arrays) in groups.items():
                group = file.create_group(posixpath.join(path, "vars"))
                group.attrs["name"] = name
                for place, array in enumerate(arrays):
                    group.create_dataset(
                        str(place), data=array, dtype=array.dtype.newbyteorder("<")
                    )
        return buffer.getbuffer()


# Each takes the graph, the dotted name of a layer, the layer, and what gives its input.
_RULES: dict[type[Layer], Callable[[_Graph, str, Any, _Node], _Node]] = {
    LSTM: _Graph.lstm,
    Last: _Graph.last,
    Linear: _Graph.linear,
    Embedding: _Graph.embedding,
    **dict.fromkeys((*_ACTIVATIONS, Softmax), _Graph.activation),
    Dropout: _Graph.dropout,
    Sequential: _Graph.sequential,
    Residual: _Graph.residual,
    Concat: _Graph.concat,
}


def _input(model: Layer) -> tuple[_Shape, str | None]:
    """Return the shape of a batch of a model's input, and its dtype where that is not the model's.

    How many sequences and steps there are is left open. A model without steps takes rows.
    """
    if model._takes_indices:
        return (None, None), "int32"
    _, given = model._join("", Given([], type(model).__name__))
    if given.taken is None:
        raise ValueError(
            "a Keras file says how many features the input has, which no layer of this model tells"
        )
    return (None, *[None] * (given.axes == 3), given.taken), None


def _check_lstm(name: str, lstm: LSTM, last: Last | None) -> None:
    """Refuse an LSTM with what Keras' LSTM lacks; `last` follows it directly."""
    head = f"a Keras file cannot hold {who(name, lstm)}: "
    lacking = options_text(lstm, _LACKING).removeprefix(", ")
    if lstm.proj_size:
        lacking = listed([f"proj_size={lstm.proj_size}", *[lacking] * bool(lacking)])
    if lacking:
        raise ValueError(f"{head}Keras' LSTM has nothing for {lacking}")
    if lstm.reverse and last is None:
        raise ValueError(
            f"{head}with reverse=True, Keras' LSTM (go_backwards) gives the last step first; only "
            "with a Last directly behind it the two are the same"
        )
    cell, output = (_function(name, lstm, f"{of}_activation") for of in ("cell", "output"))
    if cell != output:
        raise ValueError(
            f"{head}Keras' LSTM has one activation for both, got "
            f"cell_activation={lstm.cell_activation!r} and "
            f"output_activation={lstm.output_activation!r}"
        )


def _function(name: str, lstm: LSTM, option: str) -> str:
    """Return what Keras calls a function of an LSTM."""
    value = getattr(lstm, option)

    def rounded(function: Function) -> tuple[Any, ...]:
        kind, *numbers = (function,) if isinstance(function, str) else function
        return kind, *(lstm.dtype.type(number) for number in numbers)

    for ours, theirs in _FUNCTIONS.items():
        if rounded(ours) == rounded(value):
            return theirs
    raise ValueError(
        f"a Keras file cannot hold {who(name, lstm)}: Keras has no {option}={value!r}, but "
        + listed(repr(function) for function in _FUNCTIONS)
    )


def _cell(state: dict[str, Array], suffix: str, bias: bool) -> list[Array]:
    """Return the arrays of one layer in one direction as Keras has them."""
    kernel, recurrent_kernel = (state[f"weight_{of}{suffix}"].T for of in ("ih", "hh"))
    if not bias:
        return [kernel, recurrent_kernel]
    with np.errstate(all="ignore"):  # as the engines add them: a sum may be infinite
        return [kernel, recurrent_kernel, state["bias_ih" + suffix] + state["bias_hh" + suffix]]


def _in_keras_order(nodes: list[_Node]) -> list[_Node]:
    """Return the layers of a graph in the order in which Keras numbers them when it loads it.

    That is the longest way to the output first, and layers with equal ways as they are met on the
    way back from there (map_graph in keras.src.ops.function).
    """
    ways = dict.fromkeys(nodes, 0)
    for node in reversed(nodes):
        for before in node.inputs:
            ways[before] = max(ways[before], ways[node] + 1)
    met: dict[_Node, int] = {}
    left = [nodes[-1]]
    while left:
        node = left.pop()
        if node not in met:
            met[node] = len(met)
            left.extend(reversed(node.inputs))
    return sorted(nodes, key=lambda node: (-ways[node], met[node]))
