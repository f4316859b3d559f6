"""Layers as nodes of a model for C, and nodes as layers.

`Drawing` goes through a model from its input to its output; each kind of layer has a method that
adds the nodes that do its work. `told` goes the other way: it finds the layers that would be drawn
as the nodes of a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..engines.contract import ACTIVATIONS, Activation, Cell
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
from ..layers.options import check_function
from ..layers.parameters import undrawn
from . import fl_nodes as fl
from . import structure
from .fl_nodes import CELL_ARRAYS, Model, Node

if TYPE_CHECKING:
    from ..arrays import Array
    from .structure import Description

_COUPLED = "", "f=1-i", "i=1-f"  # by their numbers in a file
_NORMS = "", "tflite", "haste"
_FUNCTIONS: dict[type[Layer], str] = {ReLU: "relu", Tanh: "tanh", Sigmoid: "sigmoid"}
_MOST_NESTED = 16  # layers of layers inside each other, as `structure` has it


class _Value(NamedTuple):
    """A value: its number, how many features it has, and whether these are of one step."""

    number: int
    features: int
    one_step: bool = False
    indices: bool = False


class _Piece(NamedTuple):
    """What a node was made of: a layer by its name and, of an LSTM, the layers in it."""

    name: str
    layer: Layer
    cells: range


class Drawing:
    """Nodes that are being made.

    Attributes
    ----------
    nodes : list of Node
    pieces : list
        What each node was made of, if it has arrays; otherwise None.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.pieces: list[_Piece | None] = []

    def add(
        self,
        kind: int,
        x: _Value,
        gives: int,
        *,
        second: _Value | None = None,
        whole: tuple[int, ...] = (),
        numbers: tuple[float, ...] = (),
        arrays: tuple[Array | None, ...] = (),
        piece: _Piece | None = None,
    ) -> _Value:
        """Add a node, and return what it gives."""
        sources = (x.number,) if second is None else (x.number, second.number)
        self.nodes.append(Node(kind, sources, x.features, gives, whole, numbers, arrays))
        self.pieces.append(piece)
        return _Value(len(self.nodes), gives, x.one_step or kind == fl.LAST)

    def draw(self, name: str, layer: Layer, x: _Value) -> _Value:
        """Add the nodes of a layer, which has this name in the model, and return what it gives."""
        if isinstance(layer, Sequential):
            for own, child in layer.children.items():
                x = self.draw(dotted(name, own), child, x)
            return x
        if isinstance(layer, (Residual, Concat)):
            first, *others = (
                self.draw(dotted(name, own), one, x) for own, one in layer.children.items()
            )
            if isinstance(layer, Residual):
                (skip,) = others or [x]
                return self._beside(fl.SUM, name, layer, skip, first)
            for other in others:
                first = self._beside(fl.JOIN, name, layer, first, other)
            return first
        if x.indices != isinstance(layer, Embedding):
            takes = "indices" if isinstance(layer, Embedding) else "numbers"
            raise ValueError(f"{_place(name, layer)} takes {takes}, which it is not given")
        if isinstance(layer, Dropout):
            return x
        if isinstance(layer, (LSTM, LSTMCell)):
            return self._recurrent(name, layer, x)
        if isinstance(layer, Linear):
            arrays = layer.weight, layer.bias
            piece = _Piece(name, layer, range(0))
            return self.add(fl.LINEAR, x, layer.out_features, arrays=arrays, piece=piece)
        if isinstance(layer, Embedding):
            return self.add(
                fl.EMBEDDING,
                x,
                layer.embedding_dim,
                whole=(layer.num_embeddings,),
                arrays=(layer.weight,),
                piece=_Piece(name, layer, range(0)),
            )
        if isinstance(layer, Last):
            return self._last(name, layer, x)
        return self._activation(name, layer, x)

    def _beside(self, kind: int, name: str, layer: Layer, one: _Value, other: _Value) -> _Value:
        place = _place(name, layer)
        if one.one_step != other.one_step:
            raise ValueError(f"{place} has one step of one layer, and all of another one")
        if kind == fl.SUM and one.features != other.features:
            raise ValueError(f"{place} adds {one.features} features to {other.features}")
        gives = one.features + (other.features if kind == fl.JOIN else 0)
        return self.add(kind, one, gives, second=other)

    def _recurrent(self, name: str, layer: LSTM | LSTMCell, x: _Value) -> _Value:
        """Add a node for each group of layers that have equal widths."""
        if x.one_step:
            raise ValueError(
                f"{_place(name, layer)} takes one step, which a Last has left of the sequence: a "
                ".fl file cannot hold that"
            )
        directions = layer._directions
        with layer._exclusive():
            cells = [layer._cell(k) for k in range(len(layer._suffixes))]
        for group in layer._groups:
            places = range(group.start, group.stop)
            cell = cells[group.start]
            _, H, P = cell.sizes
            options, general = cell.options, not cell.is_plain
            functions, parameters = 0, []
            for n, function in enumerate((options.gate, options.cell, options.output)):
                functions |= ACTIVATIONS.index(function.name) << 8 * n
                parameters += function[1:]
            choices = (
                _COUPLED.index(options.coupled),
                _NORMS.index(options.layer_norm),
                functions,
            )
            clips = options.gate_clip, options.cell_clip, options.proj_clip
            numbers = (*clips, *parameters, options.zoneout_h, options.zoneout_c)
            reverse = directions == 1 and cell.reverse
            layers = len(places) // directions
            arrays = [a for k in places for a in _arrays_of_cell(cells[k], layer.bias)]
            x = self.add(
                fl.LSTM,
                x,
                directions * P,
                whole=(layers, directions, H, int(reverse), int(general), *choices)
                if general
                else (layers, directions, H, int(reverse)),
                numbers=numbers if general else (),
                arrays=(*arrays, *_first_states(layer, places)),
                piece=_Piece(name, layer, places),
            )
        return x

    def _last(self, name: str, layer: Last, x: _Value) -> _Value:
        place = _place(name, layer)
        if x.one_step:
            raise ValueError(f"{place} needs a sequence of steps, which it is not given")
        from_start = x.features if layer.reverse else 0
        if layer.bidirectional:
            if x.features % 2:
                raise ValueError(f"{place} needs an even number of features, got {x.features}")
            from_start = x.features // 2
        return self.add(fl.LAST, x, x.features, whole=(from_start,))

    def _activation(self, name: str, layer: Layer, x: _Value) -> _Value:
        if not isinstance(layer, Softmax):
            number = ACTIVATIONS.index(_FUNCTIONS[type(layer)])
            return self.add(fl.ACTIVATION, x, x.features, whole=(number,))
        if layer.dim not in (-1, 1 if x.one_step else 2):
            raise ValueError(
                f"{_place(name, layer)} sums over dim={layer.dim}, and a .fl file holds sums over "
                "the features alone: give dim=-1"
            )
        return self.add(fl.ACTIVATION, x, x.features, whole=(fl.SOFTMAX,))


def _place(name: str, layer: Layer) -> str:
    """Return the name and the kind of a layer."""
    kind = type(layer).__name__
    return f"{name} ({kind})" if name else kind


def _arrays_of_cell(cell: Cell, bias: bool) -> list[Array | None]:
    """Return the arrays of a cell in the order of the file."""
    there = cell.arrays()
    if not bias:
        del there["b"]
    return [there.get(name) for name in CELL_ARRAYS]


def _first_states(layer: Any, places: range) -> list[Array | None]:
    """Return the learned states of some of an LSTM's layers, h_0 and c_0."""
    if not layer.learn_initial_state:
        return [None, None]
    return [
        np.stack([layer._views[name] for name in names[places.start : places.stop]])
        for names in _names_of_states(layer)
    ]


def _names_of_states(layer: Any) -> tuple[list[str], list[str]]:
    """Return the names of each h_0, and of each c_0."""
    half = len(layer._suffixes)
    return layer._initial_names[:half], layer._initial_names[half:]


def draw(model: Layer) -> Drawing:
    """Return the nodes of a model.

    Raises
    ------
    ValueError
        If a layer, or an option of one, cannot be held.
    """
    drawing = Drawing()
    indices = model._takes_indices
    features = 1 if indices else model._join("", Given([], type(model).__name__))[1].taken
    if features is None:
        raise ValueError(
            f"how many features {type(model).__name__} takes is not known, as no LSTM or Linear in "
            "it says so: a .fl file must say it"
        )
    drawing.draw("", model, _Value(0, features, indices=indices))
    if not drawing.nodes:
        raise ValueError(f"{type(model).__name__} computes nothing: a .fl file must have a node")
    return drawing


def append(
    layer: Layer, nodes: list[Node], source: int, takes: int, one_step: bool
) -> tuple[int, int]:
    """Append the nodes of a layer; see `fl.nodes_of`."""
    drawing = Drawing()
    drawing.nodes = [*nodes]
    indices = bool(layer._takes_indices)
    value = drawing.draw("", layer, _Value(source, takes, one_step, indices))
    nodes[:] = drawing.nodes
    return value.number, value.features


# ---- and back ---------------------------------------------------------------------------------


def told(model: Model, description: Description | None) -> tuple[Description, dict[str, Array]]:
    """Return the structure of layers that have the nodes of a file, and their parameters.

    Parameters
    ----------
    model : Model
        What `fl_file.parse` returned.
    description : dict, optional
        The structure in the file's text, of unknown origin. It is believed only if the layers that
        it describes would be drawn as these very nodes.

    Returns
    -------
    dict, dict of str -> ndarray
        A description as `structure.build` takes it, and arrays by torch's names. Of the two biases
        of an LSTM, ``bias_ih`` is the one of the file, and ``bias_hh`` zeros.

    Raises
    ------
    ValueError
        If no layers of fastlstm's have these nodes.
    """
    if description is not None:
        for nodes in _within_scales(model.nodes):
            try:
                return description, _parameters(nodes, model, description)
            except (ValueError, TypeError):  # another program may have changed the file
                pass
    description = _describe(model)
    return description, _parameters(model.nodes, model, description)


def _within_scales(nodes: Sequence[Node]) -> Iterator[Sequence[Node]]:
    """Yield nodes without a standardize before them and a restore behind, if both are there."""
    first, last = nodes[0], nodes[-1]
    if len(nodes) > 2 and first.kind == fl.STANDARDIZE and last.kind == fl.RESTORE:
        inner = nodes[1:-1]
        if last.sources == (len(nodes) - 1,) and all(min(node.sources) > 0 for node in inner):
            yield [n._replace(sources=tuple(s - 1 for s in n.sources)) for n in inner]
    else:
        yield nodes


def _parameters(nodes: Sequence[Node], model: Model, description: Description) -> dict[str, Array]:
    """Return the parameters of the layers that are described; raise if they have other nodes."""
    arrays = {
        f"{n}.{k}": array
        for n, node in enumerate(nodes)
        for k, array in enumerate(node.arrays)
        if array is not None
    }
    with undrawn():  # one bias of the file becomes two
        layers = structure.build(
            description,
            state=arrays,
            most_arrays=2 * len(arrays) + 2 * len(nodes) + _states(nodes),
            engine="numpy",
        )
    drawing = draw(layers)
    fault = "no layers of fastlstm's have its nodes"
    if layers.dtype != model.dtype or bool(layers._takes_indices) != model.indices:
        raise ValueError(fault)
    if not fl.alike(nodes, drawing.nodes, values=False):
        raise ValueError(fault)
    state: dict[str, Array] = {}
    for node, piece in zip(nodes, drawing.pieces, strict=True):
        if piece is not None:
            state.update(_state_of(node, piece))
    layers.load_state_dict(state)
    if not fl.alike(nodes, draw(layers).nodes):  # as where rows of a coupled gate are not zeros
        raise ValueError(fault)
    return state


def _states(nodes: Sequence[Node]) -> int:
    """Return how many first states stand in arrays of several."""
    return sum(2 * math.prod(node.whole[:2]) for node in nodes if node.kind == fl.LSTM)


def _state_of(node: Node, piece: _Piece) -> Iterator[tuple[str, Array]]:
    """Yield the parameters in a node's arrays, by their names in the model."""
    layer: Any = piece.layer
    if not isinstance(layer, (LSTM, LSTMCell)):
        for own, array in zip(("weight", "bias"), node.arrays, strict=False):
            if array is not None:
                yield dotted(piece.name, own), array
        return
    for n, k in enumerate(piece.cells):
        there = node.arrays[n * len(CELL_ARRAYS) : (n + 1) * len(CELL_ARRAYS)]
        by_field = dict(zip(CELL_ARRAYS, there, strict=True))
        b = by_field["b"]
        named = {own: by_field[field] for field, own in layer._named[k].items()}
        if b is not None:
            named |= dict(zip(layer._bias_names[k], (b, np.zeros_like(b)), strict=True))
        for own, array in named.items():
            assert array is not None  # the shapes have been compared
            with_gap = own in layer._with_gaps
            yield dotted(piece.name, own), layer._without_gap(array) if with_gap else array
        for names, states in zip(_names_of_states(layer), node.arrays[-2:], strict=True):
            if states is not None:
                yield dotted(piece.name, names[k]), states[n]


def _describe(model: Model) -> Description:
    """Return the structure of layers that may have the nodes of a file."""
    nodes = model.nodes
    for n, node in enumerate(nodes):
        if node.kind in (fl.STANDARDIZE, fl.RESTORE, fl.SELECT, fl.CONVOLUTION, fl.MAGNITUDE):
            raise ValueError(f"node {n} is a {node.name}, for which fastlstm has no layer")
    # The last value that all ways to a value go through, for each value.
    through = [0]
    for node in nodes:
        one, other = node.sources[0], node.sources[-1]
        while one != other:
            one, other = min(one, other), through[max(one, other)]
        through.append(one)
    used: set[int] = set()
    layers = _chain(nodes, through, 0, len(nodes), used, str(model.dtype), 0)
    if len(used) < len(nodes):
        raise ValueError("it has nodes whose values nothing takes")
    return layers


def _chain(
    nodes: Sequence[Node],
    through: Sequence[int],
    start: int,
    end: int,
    used: set[int],
    dtype: str,
    depth: int,
) -> Description:
    """Return the structure of what makes a value of another one."""
    layers: list[Description] = []
    if depth > _MOST_NESTED:
        raise ValueError(f"its nodes make layers that are nested more than {_MOST_NESTED} deep")
    while end > start:
        if end in used:
            raise ValueError(f"value {end} goes several ways that layers do not")
        used.add(end)
        node, before = nodes[end - 1], through[end]
        if len(node.sources) == 1:
            layers.append(_LAYERS[node.kind](node.padded(), dtype))
        else:
            sources = _joined(nodes, through, end, used) if node.kind == fl.JOIN else node.sources
            ways = [
                _chain(nodes, through, before, source, used, dtype, depth + 1) for source in sources
            ]
            if node.kind == fl.JOIN:
                names = map(str, range(len(ways)))
                layers.append({"layer": "Concat", "children": dict(zip(names, ways, strict=True))})
            else:
                first, second = ways if node.sources[0] <= node.sources[1] else ways[::-1]
                if min(node.sources) == before:
                    children = {"layer": second}
                else:  # the nodes of the layer are drawn before those of the projection
                    children = {"layer": first, "projection": second}
                layers.append({"layer": "Residual", "children": children})
        end = before
    if end < start:
        raise ValueError(f"value {start} goes several ways that layers do not")
    if len(layers) == 1:
        return layers[0]
    if not layers:
        return {"layer": "Dropout", "p": 0.0}
    children = {str(n): layer for n, layer in enumerate(reversed(layers))}
    return {"layer": "Sequential", "children": children}


def _joined(nodes: Sequence[Node], through: Sequence[int], end: int, used: set[int]) -> list[int]:
    """Return all values that a join and the joins right before it put side by side, as a Concat."""
    first, second = nodes[end - 1].sources
    sources = [second]
    while first == end - 1 and through[first] == through[end] and nodes[first - 1].kind == fl.JOIN:
        if first in used:
            raise ValueError(f"value {first} goes several ways that layers do not")
        used.add(first)
        end = first
        first, second = nodes[end - 1].sources
        sources.append(second)
    return [first, *reversed(sources)]


def _describe_lstm(node: Node, dtype: str) -> Description:
    layers, directions, H, reverse, general, coupled, layer_norm, functions, _ = node.whole
    cell = dict(zip(CELL_ARRAYS, node.arrays, strict=False))
    P = node.gives // directions
    description: Description = {
        "layer": "LSTM",
        "input_size": node.takes,
        "hidden_size": H,
        "num_layers": layers,
        "bias": cell["b"] is not None,
        "batch_first": None,
        "bidirectional": directions == 2,
        "proj_size": P if P != H else 0,
        "reverse": bool(reverse),
        "learn_initial_state": node.arrays[-1] is not None,
        "dtype": dtype,
    }
    if general:
        names = "gate_clip", "cell_clip", "proj_clip"
        clips = zip(names, node.numbers, strict=False)
        description |= {name: clip for name, clip in clips if clip < math.inf}
        for n, name in enumerate(("gate", "cell", "output")):
            alpha, beta = node.numbers[3 + 2 * n : 5 + 2 * n]
            function = Activation(ACTIVATIONS[functions >> 8 * n & 255], alpha, beta)
            description[f"{name}_activation"] = _function_of(function)
        zoneout_h, zoneout_c = node.numbers[9:11]
        description |= {
            "coupled": _COUPLED[coupled] or None,
            "layer_norm": _NORMS[layer_norm] or None,
            "peephole": cell["w_co"] is not None,
            "zoneout": [zoneout_h, zoneout_c],
        }
    return description


def _function_of(function: Activation) -> Any:
    """Return a function as an argument that is stored has it."""
    count = sum(fl.PARAMETERS.get(function.name, ()))
    shortest = check_function("function", function[: 1 + count])
    return shortest if isinstance(shortest, str) else list(shortest)


def _describe_linear(node: Node, dtype: str) -> Description:
    return {
        "layer": "Linear",
        "in_features": node.takes,
        "out_features": node.gives,
        "bias": node.arrays[1] is not None,
        "dtype": dtype,
    }


def _describe_embedding(node: Node, dtype: str) -> Description:
    return {
        "layer": "Embedding",
        "num_embeddings": node.whole[0],
        "embedding_dim": node.gives,
        "dtype": dtype,
    }


def _describe_activation(node: Node, dtype: str) -> Description:
    if node.whole[0] == fl.SOFTMAX:
        return {"layer": "Softmax"}
    name = ACTIVATIONS[node.whole[0]]
    for layer, own in _FUNCTIONS.items():
        if own == name:
            return {"layer": layer.__name__}
    raise ValueError(f"fastlstm has no layer for the activation {name}")


def _describe_last(node: Node, dtype: str) -> Description:
    (from_start,) = node.whole[:1]
    reverse = from_start == node.takes
    return {"layer": "Last", "bidirectional": 0 < from_start < node.takes, "reverse": reverse}


_LAYERS = {
    fl.LSTM: _describe_lstm,
    fl.LINEAR: _describe_linear,
    fl.EMBEDDING: _describe_embedding,
    fl.ACTIVATION: _describe_activation,
    fl.LAST: _describe_last,
}
