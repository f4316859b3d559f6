"""The nodes of a model for C: what kinds there are, and which nodes can stand after each other.

A node takes one or two of the values before it and gives one. ``docs/reference/fl_format.md`` tells
what each kind computes. `check` refuses nodes that the C library would refuse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..engines.contract import ACTIVATIONS

if TYPE_CHECKING:
    from ..arrays import Array

LSTM, EMBEDDING, LINEAR, ACTIVATION, SUM, JOIN, STANDARDIZE = range(1, 8)
RESTORE, LAST, SELECT, CONVOLUTION, MAGNITUDE = range(8, 13)
SOFTMAX = 256  # the function of an activation that is over all values of a step

MOST_NODES, MOST_ARRAYS = 4096, 65536
_MOST = 2**31 - 1  # of values of any kind: of steps, units, rows

# The arrays of a cell, in the order of the file; the first three of an LSTM that has no options,
# and w_hr, are all that a plain one can have.
CELL_ARRAYS = (
    "w_ih", "w_hh", "b", "w_hr", "w_ci", "w_cf", "w_co", "ln", "ln_ih", "ln_hh", "ln_c", "b_c",
)  # fmt: skip
_CELL = len(CELL_ARRAYS)
_ENDS = "", "_reverse"  # of the names of each direction


class Node(NamedTuple):
    """One operation of a model.

    Attributes
    ----------
    kind : int
        `LSTM`, `EMBEDDING`, `LINEAR`, `ACTIVATION`, `SUM`, `JOIN`, `STANDARDIZE`, `RESTORE`,
        `LAST`, `SELECT`, `CONVOLUTION` or `MAGNITUDE`.
    sources : tuple of int
        The values that it takes: 0 is what goes into the model, n what node n - 1 gives.
    takes, gives : int
        How many values a step of the first source has, and how many one of its own.
    whole : tuple of int
        Its whole numbers, up to 9; those that are left out are 0.
    numbers : tuple of float
        Its numbers, up to 12; likewise.
    arrays : tuple of (ndarray or None)
        Its arrays, None for one that is not there.
    """

    kind: int
    sources: tuple[int, ...]
    takes: int
    gives: int
    whole: tuple[int, ...] = ()
    numbers: tuple[float, ...] = ()
    arrays: tuple[Array | None, ...] = ()

    @property
    def name(self) -> str:
        """The name of its kind."""
        return KINDS[self.kind].name if self.kind in KINDS else f"unknown kind {self.kind}"

    def array_names(self) -> list[str]:
        """Return what its arrays are called; those of an LSTM by their layer and direction."""
        if self.kind != LSTM:
            return [*KINDS[self.kind].arrays]
        layers, directions = self.whole[:2]
        ends = [f"_l{layer}{end}" for layer in range(layers) for end in _ENDS[:directions]]
        return [*(name + end for end in ends for name in CELL_ARRAYS), "h_0", "c_0"]

    def padded(self) -> Node:
        """Return the node with all of its whole numbers and numbers."""
        whole = (*self.whole, *[0] * (9 - len(self.whole)))
        numbers = (*map(float, self.numbers), *[0.0] * (12 - len(self.numbers)))
        return self._replace(whole=whole, numbers=numbers)


class Model(NamedTuple):
    """What a file holds.

    ``takes`` is how many values of a step go in, 1 if these are ``indices``. ``text`` is for other
    readers than C.
    """

    nodes: Sequence[Node]
    takes: int
    indices: bool
    dtype: np.dtype[Any]
    sample_rate: float = 0.0
    text: bytes = b""

    @property
    def gives(self) -> int:
        """How many values of a step come out."""
        return self.nodes[-1].gives


class Wanted(NamedTuple):
    """An array that a node has, or, if it is `optional`, can have."""

    shape: tuple[int, ...]
    optional: bool = False


class _Kind(NamedTuple):
    """A kind of node: how many values it takes, and what it has.

    ``wanted`` refuses a node by a ValueError, and returns the arrays that it has; of an LSTM it is
    called when their number is known to be small.
    """

    name: str
    wanted: Callable[[Node], list[Wanted]]
    sources: int = 1
    whole: int = 0
    numbers: int = 0
    arrays: tuple[str, ...] = ()


# ---- kinds of nodes ---------------------------------------------------------------------------


def require(holds: bool, fault: str) -> None:
    """Raise ValueError with this sentence unless something holds."""
    if not holds:
        raise ValueError(fault)


def _is_zero(number: float) -> bool:
    """Tell whether a number is 0, and not -0, which has other bytes."""
    return number == 0 and math.copysign(1, number) > 0


def _sizes(values: Sequence[int], names: str) -> None:
    """Refuse what is no size."""
    for name, value in zip(names.split(), values, strict=True):
        require(1 <= value <= _MOST, f"{name} must be 1 to {_MOST}, got {value}")


def _same_width(node: Node) -> None:
    require(
        node.gives == node.takes, f"it must give {node.takes} values, as it takes, got {node.gives}"
    )


def _function(number: int, alpha: float, beta: float) -> None:
    """Refuse what is no function, and parameters that it does not have."""
    require(0 <= number < len(ACTIVATIONS), f"there is no function {number}")
    require(math.isfinite(alpha) and math.isfinite(beta), "alpha and beta must be finite")
    has_alpha, has_beta = PARAMETERS.get(ACTIVATIONS[number], (False, False))
    require(
        (has_alpha or alpha == 0) and (has_beta or beta == 0),
        f"{ACTIVATIONS[number]} has no such parameters as {alpha}, {beta}",
    )


# Whether a function has alpha and beta.
PARAMETERS = {
    "affine": (True, True),
    "leaky_relu": (True, False),
    "thresholded_relu": (True, False),
    "scaled_tanh": (True, True),
    "hard_sigmoid": (True, True),
    "elu": (True, False),
}


def _lstm(node: Node) -> list[Wanted]:
    layers, directions, H, reverse, general, coupled, layer_norm, functions, _ = node.whole
    P = node.gives // directions
    require(
        node.gives == directions * P, f"{node.gives} values are no whole number for each direction"
    )
    _sizes([H, P], "units outputs")
    require(reverse in (0, 1) and not (reverse and directions == 2), f"reverse cannot be {reverse}")
    require(general in (0, 1), f"general must be 0 or 1, got {general}")
    if general:
        clips, parameters, zoneouts = node.numbers[:3], node.numbers[3:9], node.numbers[9:11]
        require(coupled in (0, 1, 2), f"coupled must be 0, 1 or 2, got {coupled}")
        require(layer_norm in (0, 1, 2), f"layer_norm must be 0, 1 or 2, got {layer_norm}")
        require(all(clip > 0 for clip in clips), f"clips must be above 0, got {clips}")
        require(all(0 <= p <= 1 for p in zoneouts), f"zoneouts must be 0 to 1, got {zoneouts}")
        require(0 <= functions < 1 << 24, f"functions cannot be {functions}")
        for place in range(3):
            number = functions >> 8 * place & 255
            _function(number, *parameters[2 * place : 2 * place + 2])
    else:
        plain = not (coupled or layer_norm or functions) and all(map(_is_zero, node.numbers))
        require(plain, "options are there, and general is 0")
    wanted = []
    for layer in range(layers):
        takes = directions * P if layer else node.takes
        wanted += directions * _cell(takes, H, P, bool(general), layer_norm)
    return [*wanted, Wanted((layers * directions, P), True), Wanted((layers * directions, H), True)]


def _cell(I: int, H: int, P: int, general: bool, layer_norm: int) -> list[Wanted]:
    """Return the arrays of a cell; one of shape (0,) cannot be there."""
    none = Wanted((0,), True)
    shapes = dict.fromkeys(CELL_ARRAYS, none)
    shapes |= {"w_ih": Wanted((4 * H, I)), "w_hh": Wanted((4 * H, P)), "b": Wanted((4 * H,), True)}
    if P != H:
        shapes["w_hr"] = Wanted((P, H))
    if general:
        shapes |= dict.fromkeys(("w_ci", "w_cf", "w_co"), Wanted((H,), True))
    if layer_norm == 1:
        shapes["ln"] = Wanted((4 * H,))
    if layer_norm == 2:
        shapes |= dict.fromkeys(("ln_ih", "ln_hh"), Wanted((4 * H,)))
        shapes |= dict.fromkeys(("ln_c", "b_c"), Wanted((H,)))
    return [*shapes.values()]


def _embedding(node: Node) -> list[Wanted]:
    _sizes(node.whole[:1], "rows")
    return [Wanted((node.whole[0], node.gives))]


def _linear(node: Node) -> list[Wanted]:
    return [Wanted((node.gives, node.takes)), Wanted((node.gives,), True)]


def _activation(node: Node) -> list[Wanted]:
    _same_width(node)
    if node.whole[0] == SOFTMAX:
        require(not any(node.numbers), "softmax has no alpha and beta")
    else:
        _function(node.whole[0], *node.numbers[:2])
    return []


def _no_arrays(node: Node) -> list[Wanted]:
    return []


def _sum(node: Node) -> list[Wanted]:
    _same_width(node)
    return []


def _scale(node: Node) -> list[Wanted]:
    _same_width(node)
    return 2 * [Wanted((node.takes,))]


def _last(node: Node) -> list[Wanted]:
    _same_width(node)
    (n,) = node.whole[:1]
    require(0 <= n <= node.takes, f"{n} of {node.takes} values cannot be those of the first step")
    return []


def _select(node: Node) -> list[Wanted]:
    (n,) = node.whole[:1]
    fits = 0 <= n and n + node.gives <= node.takes
    require(fits, f"it takes {node.takes} values, not those from {n} to {n + node.gives}")
    return []


def _convolution(node: Node) -> list[Wanted]:
    length, channels, length_out, channels_out, kernel, stride, padding = node.whole[:7]
    _sizes(node.whole[:6], "length channels length_out channels_out kernel stride")
    require(0 <= padding < kernel, f"padding must be 0 to {kernel - 1}, got {padding}")
    room = length + 2 * padding - kernel
    require(room >= 0, f"a kernel of {kernel} has no place in {length} and {padding} on each side")
    fits = room // stride + 1
    require(fits == length_out, f"length_out must be {fits}, got {length_out}")
    require(node.takes == length * channels, f"it must take {length * channels} values")
    require(
        node.gives == length_out * channels_out, f"it must give {length_out * channels_out} values"
    )
    return [Wanted((channels_out, kernel, channels)), Wanted((channels_out,), True)]


def _magnitude(node: Node) -> list[Wanted]:
    length, n = node.whole[:2]
    _sizes(node.whole[:2], "length n")
    require(node.takes == 2 * length * n, f"it must take {2 * length * n} values")
    require(node.gives == length * n, f"it must give {length * n} values")
    return []


KINDS = {
    LSTM: _Kind("LSTM", _lstm, whole=8, numbers=11),
    EMBEDDING: _Kind("embedding", _embedding, whole=1, arrays=("weight",)),
    LINEAR: _Kind("linear", _linear, arrays=("weight", "bias")),
    ACTIVATION: _Kind("activation", _activation, whole=1, numbers=2),
    SUM: _Kind("sum", _sum, sources=2),
    JOIN: _Kind("join", _no_arrays, sources=2),
    STANDARDIZE: _Kind("standardize", _scale, arrays=("mean", "scale")),
    RESTORE: _Kind("restore", _scale, arrays=("mean", "scale")),
    LAST: _Kind("last", _last, whole=1),
    SELECT: _Kind("select", _select, whole=1),
    CONVOLUTION: _Kind("convolution", _convolution, whole=7, arrays=("weight", "bias")),
    MAGNITUDE: _Kind("magnitude", _magnitude, whole=2),
}


def check(model: Model) -> list[list[Wanted]]:
    """Refuse a model that cannot be, but for its arrays; return those that each node wants.

    Raises
    ------
    ValueError
        The sentence names the node, by its place and its kind.
    """
    require(
        1 <= len(model.nodes) <= MOST_NODES,
        f"it must have 1 to {MOST_NODES} nodes, got {len(model.nodes)}",
    )
    _sizes([model.takes], "inputs")
    require(model.takes == 1 or not model.indices, f"{model.takes} values of a step are indices")
    rate = model.sample_rate
    require(
        0 < rate < math.inf or _is_zero(rate),
        f"the sample rate must be a finite number from 0 on, got {rate}",
    )
    widths, single, wanted = [model.takes], [False], []
    places = MOST_ARRAYS
    for n, short_node in enumerate(model.nodes):
        node = short_node.padded()
        try:
            single.append(_check_sources(node, widths, single, model.indices))
            if node.kind == LSTM:
                _check_layers(node, places)
            wanted.append(KINDS[node.kind].wanted(node))
            places -= len(wanted[-1])
        except ValueError as fault:
            raise ValueError(f"node {n} ({node.name}): {fault}") from None
        widths.append(node.gives)
    return wanted


def _check_sources(node: Node, widths: list[int], single: list[bool], indices: bool) -> bool:
    """Refuse a node that cannot stand at its place; return whether what it gives has one step."""
    require(node.kind in KINDS, "a newer fastlstm may know it")
    kind, sources = KINDS[node.kind], node.sources
    require(len(sources) == kind.sources, f"it must take {kind.sources} values, got {len(sources)}")
    require(
        all(0 <= source < len(widths) for source in sources),
        f"it takes the values {sources}, of which only 0 to {len(widths) - 1} are there",
    )
    require(len(node.whole) == 9 and len(node.numbers) == 12, "it has too many numbers")
    unused = [*node.whole[kind.whole :], *node.numbers[kind.numbers :]]
    require(
        all(map(_is_zero, unused)), f"it has numbers that a {kind.name} has no use for: {unused}"
    )
    if node.kind == EMBEDDING:
        require(indices and sources == (0,), "it takes values, and an embedding takes indices")
    else:
        require(not (indices and 0 in sources), "it takes indices, as an embedding alone does")
    first = sources[0]
    require(node.takes == widths[first], f"it takes {node.takes} values of {widths[first]}")
    require(1 <= node.gives <= _MOST, f"it cannot give {node.gives} values")
    one_step = single[first]
    if len(sources) == 2:
        second = widths[sources[1]]
        whole = node.takes + (second if node.kind == JOIN else 0)
        require(
            node.kind == JOIN or second == node.takes,
            f"{node.takes} and {second} values have no sum",
        )
        require(node.gives == whole, f"it must give {whole} values, got {node.gives}")
        require(
            single[sources[1]] == one_step, "one of its values has one step, and the other has all"
        )
    require(not one_step or node.kind not in (LSTM, LAST), "it takes a value that has one step")
    return one_step or node.kind == LAST


def _check_layers(node: Node, places: int) -> None:
    """Refuse an LSTM of too many arrays, before there is a list of them."""
    layers, directions = node.whole[:2]
    _sizes([layers], "layers")
    require(directions in (1, 2), f"directions must be 1 or 2, got {directions}")
    count = layers * directions * _CELL + 2
    require(count <= places, f"with it, there are more than {MOST_ARRAYS} arrays")


def check_arrays(model: Model) -> None:
    """Refuse a model that cannot be; see `check`. Arrays must have the shapes and the dtype."""
    for n, (node, wanted) in enumerate(zip(model.nodes, check(model), strict=True)):
        what = f"node {n} ({node.name})"
        got = [None if array is None else array.shape for array in node.arrays]
        shapes = [one.shape for one in wanted]
        fits = len(got) == len(wanted) and all(
            one.optional if shape is None else shape == one.shape and 0 not in shape
            for shape, one in zip(got, wanted, strict=True)
        )
        require(fits, f"{what}: its arrays must have the shapes {shapes}, got {got}")
        dtypes = {str(array.dtype) for array in node.arrays if array is not None}
        require(
            dtypes <= {model.dtype.name}, f"{what}: its arrays must be {model.dtype}, got {dtypes}"
        )


def alike(one: Sequence[Node], other: Sequence[Node], values: bool = True) -> bool:
    """Tell whether nodes are equal; without `values`, of arrays only their shapes."""

    def equal(a: Array | None, b: Array | None) -> bool:
        if a is None or b is None:
            return a is b
        if a.shape != b.shape or not values:
            return a.shape == b.shape
        # Where there is nan, NumPy copies both, and there is none as a rule.
        return np.array_equal(a, b) or np.array_equal(a, b, equal_nan=True)

    def facts(node: Node) -> tuple[Any, ...]:
        sources = sorted(node.sources) if node.kind == SUM else node.sources
        return node.padded()._replace(sources=tuple(sources))[:6]

    return len(one) == len(other) and all(
        facts(a) == facts(b)
        and len(a.arrays) == len(b.arrays)
        and all(map(equal, a.arrays, b.arrays))
        for a, b in zip(one, other, strict=True)
    )
