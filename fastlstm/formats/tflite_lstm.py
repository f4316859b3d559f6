"""TFLite's operators of LSTMs, as layers of fastlstm.

There is one tensor for each gate, in the order i, f, g (which TFLite calls "cell") and o::

    input (B, T, I), or (T, B, I)   weights (H, I)   recurrent weights (H, P)   biases (H,)
    peepholes of i, f, o (H,)       projection (P, H) and its bias (P,)         gains (H,)

Where the tensors of i are left out, i is 1 - f. With gains, each gate is normalised over its units.
Sources, in tensorflow/lite/kernels: unidirectional_sequence_lstm.cc, bidirectional_sequence_lstm.cc
and lstm.cc for the places of the inputs, lstm_eval.cc for the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import short
from ..graphs import tflite_functions as functions
from ..layers import LSTM
from ..layers.parameters import undrawn
from .tflite_schema import ACTIVATIONS

if TYPE_CHECKING:
    from ..arrays import Array
    from ..engines import EngineChoice
    from .tflite_site import Site

_FUNCTIONS = "relu", "tanh"
_GATES = "ifgo"


class Places(NamedTuple):
    """Where the tensors of one direction stand among an operator's inputs.

    Each is the first of several that follow one another; 0 where the operator has none.
    """

    weights: int
    recurrent: int
    peepholes: int
    biases: int
    projection: int
    states: int
    gains: int = 0
    auxiliary: int = 0


ONE_WAY = Places(1, 5, 9, 12, 16, 18, gains=20)
FORWARD = Places(1, 5, 9, 12, 16, 35, auxiliary=40)
BACKWARD = Places(18, 22, 26, 29, 33, 37, auxiliary=44)
_AUXILIARY = 39


def unidirectional(site: Site) -> None:
    """Add a UNIDIRECTIONAL_SEQUENCE_LSTM."""
    if site.options["diagonal"]:
        raise ValueError("its recurrent weights are diagonal matrices, which an LSTM here has not")
    _sequence(site, [_layer(site, ONE_WAY)], [ONE_WAY])


def bidirectional(site: Site) -> None:
    """Add a BIDIRECTIONAL_SEQUENCE_LSTM."""
    merged = site.options["merge_outputs"]
    if len(site.outputs) != 2 - merged:
        raise ValueError(f"it has {len(site.outputs)} outputs, and must have {2 - merged}")
    places = [FORWARD, BACKWARD]
    has_auxiliary = site.has(_AUXILIARY)
    weighted = has_auxiliary and site.has(FORWARD.auxiliary + 1)
    own = [_layer(site, place, weighted) for place in places]
    x = site.value(0)
    if weighted:  # one product with both inputs
        x = site.put("Concat", [x, site.value(_AUXILIARY)], axis=2)[0]
    # Without weights of its own, the auxiliary input is that of the backward direction.
    inputs = [x, site.value(_AUXILIARY) if has_auxiliary and not weighted else x]
    if own[0].given == own[1].given and inputs[0] == inputs[1]:
        _sequence(site, own, places, x if weighted else None)
    else:
        _two_ways(site, own, places, inputs)


def single_step(site: Site) -> None:
    """Add an LSTM: one step of x (B, I); its states are variable tensors, or come and go."""
    if site.options["kernel_type"] == 1:
        _basic(site)
        return
    if len(site.outputs) != 1:
        raise ValueError(f"it has {len(site.outputs)} outputs, and must have 1")
    own = _layer(site, ONE_WAY)
    own.given["batch_first"] = False
    layer = own.made([own], site.engine)
    states = site.states(site.layer(layer, "lstm"), _sizes(own), ONE_WAY.states)
    compute = partial(functions.one_step, layer, False)
    values = [site.value(0), *states.inputs]
    site.compute(compute, values, states.outputs, type="LSTM step", by="fastlstm")


class _Own(NamedTuple):
    """One direction: the arguments of an LSTM, and its arrays by the names of layer 0."""

    given: dict[str, Any]
    arrays: dict[str, Array]

    def made(self, directions: Sequence[_Own], engine: EngineChoice, reverse: bool = False) -> LSTM:
        """Return the layer of one or both directions."""
        both = len(directions) == 2
        with undrawn():
            layer = LSTM(**self.given, bidirectional=both, reverse=reverse, engine=engine)
        state: dict[str, Array] = {}
        for own, end in zip(directions, ("", "_reverse"), strict=False):
            state |= {f"{name}{end}": array for name, array in own.arrays.items()}
        layer.load_state_dict(state)
        return layer


def _sizes(own: _Own) -> tuple[int, int]:
    """Return the sizes of h and c."""
    return own.given["proj_size"] or own.given["hidden_size"], own.given["hidden_size"]


def _sequence(site: Site, own: list[_Own], places: list[Places], x: str | None = None) -> None:
    """Add an LSTM of one direction, or of two that are alike; `x` may be another input."""
    layer = own[0].made(own, site.engine)
    name = site.layer(layer, "lstm")
    sizes = [size for one in own for size in _sizes(one)]
    states = site.states(name, sizes, places[0].states)
    apart = len(site.outputs) == 2
    compute = partial(functions.lstm, layer, apart, site.limits)
    values = [site.value(0) if x is None else x, *states.inputs]
    site.compute(compute, values, states.outputs, type="LSTM", by="fastlstm")
    row = site.row(0)
    if row is not None and x is None:
        time_major = site.options["time_major"]
        if not apart:
            site.is_row(row.lstm(layer, time_major))


def _two_ways(site: Site, own: list[_Own], places: list[Places], inputs: list[str]) -> None:
    """Add two LSTMs, one of each direction."""
    ahead, back = own[0].made(own[:1], site.engine), own[1].made(own[1:], site.engine, True)
    name = site.layer(ahead, "lstm")
    site.layer(back, f"{name}_reverse")
    sizes = [size for one in own for size in _sizes(one)]
    states = site.states(name, sizes, places[0].states)
    compute = partial(functions.two_lstms, ahead, back, len(site.outputs) == 2, site.limits)
    site.compute(compute, [*inputs, *states.inputs], states.outputs, type="LSTM", by="fastlstm")


def _layer(site: Site, places: Places, auxiliary: bool = False) -> _Own:
    """Return what the tensors of one direction say; raise ValueError if no LSTM here has that."""
    coupled = not site.has(places.weights)
    gates = _GATES[coupled:]
    found = {
        gate: [site.weight(start + _GATES.index(gate), 2) for start in _matrices(places, auxiliary)]
        for gate in gates
    }
    kernels = [np.concatenate(parts[:-1], axis=1) for parts in found.values()]
    recurrent = [parts[-1] for parts in found.values()]
    h, p = recurrent[0].shape
    arrays = {"weight_ih_l0": kernels, "weight_hh_l0": recurrent}
    arrays["bias_ih_l0"] = _vectors(site, places.biases, gates, h)
    arrays["bias_hh_l0"] = [np.zeros_like(one) for one in arrays["bias_ih_l0"]]
    given = _options(site, coupled)
    for name, blocks in arrays.items():
        shapes = {block.shape for block in blocks}
        if len(shapes) > 1 or blocks[0].shape[0] != h:
            raise ValueError(f"the tensors of its gates for {name} have the shapes {short(shapes)}")
    given |= {"input_size": kernels[0].shape[1], "hidden_size": h, "proj_size": 0}
    first = places.peepholes + coupled
    if site.has(first):
        if coupled != (not site.has(places.peepholes)):
            raise ValueError("its peepholes and its gates do not go together")
        peepholes = gates.replace("g", "")
        for gate in peepholes:
            arrays[f"weight_c{gate}_l0"] = [_vector(site, places.peepholes + "ifo".index(gate), h)]
    given["peephole"] = site.has(first)
    if places.gains and site.has(places.gains + coupled):
        given["layer_norm"] = "tflite"
        arrays["weight_ln_l0"] = _vectors(site, places.gains, gates, h)
    _project(site, places, given, arrays, p)
    return _Own(given, {name: np.concatenate(blocks) for name, blocks in arrays.items()})


def _matrices(places: Places, auxiliary: bool) -> list[int]:
    """Return where the matrices of gates begin: those of the inputs, and the recurrent ones."""
    between = [places.auxiliary] if auxiliary else []
    return [places.weights, *between, places.recurrent]


def _vector(site: Site, place: int, size: int) -> Array:
    array = site.weight(place, 1)
    if array.shape != (size,):
        raise ValueError(f"its input {place} must have shape ({size},), got {array.shape}")
    return array


def _vectors(site: Site, start: int, gates: str, size: int) -> list[Array]:
    return [_vector(site, start + _GATES.index(gate), size) for gate in gates]


def _options(site: Site, coupled: bool) -> dict[str, Any]:
    """Return the arguments of an LSTM that the operator's options say."""
    options = site.options
    number = options["activation"]
    name = ACTIVATIONS[number] if 0 <= number < len(ACTIVATIONS) else str(number)
    if name == "none":
        raise ValueError("it has no activation, and LiteRT then gives o * g in the place of o * c")
    if name not in _FUNCTIONS:
        raise ValueError(f"its activation {name} is none that an LSTM has here")
    given: dict[str, Any] = {
        "batch_first": not options.get("time_major", False),
        "cell_activation": name,
        "output_activation": name,
    }
    if coupled:
        given["coupled"] = "i=1-f"
    if clip := _clip(site, "cell_clip"):
        given["cell_clip"] = clip
    return given


def _clip(site: Site, name: str) -> float:
    """Return a bound; 0 is none."""
    value = float(site.options[name])
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or a number above it, got {value}")
    return float(str(np.float32(value)))


def _project(
    site: Site, places: Places, given: dict[str, Any], arrays: dict[str, list[Array]], p: int
) -> None:
    """Add the projection to the arguments and arrays of an LSTM, if there is one."""
    h = given["hidden_size"]
    if not site.has(places.projection):
        if p != h:
            raise ValueError(f"it has {h} units and {p} outputs, and no projection between them")
        return
    matrix = site.weight(places.projection, 2)
    if matrix.shape != (p, h):
        raise ValueError(f"its projection must have shape ({p}, {h}), got {matrix.shape}")
    if p >= h:
        raise ValueError(f"its projection gives {p} outputs of {h} units; here they must be fewer")
    if site.has(places.projection + 1) and _vector(site, places.projection + 1, p).any():
        raise ValueError("its projection has a bias, which an LSTM here has not")
    given["proj_size"] = p
    if clip := _clip(site, "proj_clip"):
        given["proj_clip"] = clip
    arrays["weight_hr_l0"] = [matrix]


def _basic(site: Site) -> None:
    """Add an LSTM of the form BASIC: its states are usual inputs and outputs.

    Inputs are x (B, I), h (B, H), weights (4H, I + H) with gates i, g, f, o, biases (4H,), c
    (B, H); outputs h, c and two that are scratch memory.
    """
    weights, bias = site.weight(2, 2), site.weight(3, 1)
    h, wide = bias.size // 4, weights.shape[1]
    if weights.shape[0] != 4 * h or bias.size != 4 * h or wide <= h:
        raise ValueError(f"its weights have the shapes {weights.shape} and {bias.shape}")
    if ACTIVATIONS[site.options["activation"] % len(ACTIVATIONS)] != "tanh":
        raise ValueError("an LSTM of the form BASIC has the activation tanh")
    rows = [slice(n * h, (n + 1) * h) for n in (0, 2, 1, 3)]
    arrays = {
        "weight_ih_l0": np.concatenate([weights[part, : wide - h] for part in rows]),
        "weight_hh_l0": np.concatenate([weights[part, wide - h :] for part in rows]),
        "bias_ih_l0": np.concatenate([bias[part] for part in rows]),
        "bias_hh_l0": np.zeros_like(bias),
    }
    own = _Own({"input_size": wide - h, "hidden_size": h, "proj_size": 0}, arrays)
    layer = own.made([own], site.engine)
    site.layer(layer, "lstm")
    compute = partial(functions.one_step, layer, True)
    values = [site.value(n) for n in (0, 1, 4)]
    site.compute(compute, values, outputs=2, type="LSTM step", by="fastlstm")
    site.reader.flow.lstm(values[1:], [site.reader.values[index] for index in site.outputs[:2]])
