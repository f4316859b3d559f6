"""JSON files of GuitarML's programs, which Automated-GuitarAmpModelling trains.

``model_data`` has the sizes, ``state_dict`` the weights as nested lists, under torch's names: an
LSTM ``rec`` and a Linear ``lin``, to whose output the first input is added if ``skip`` says so.
Source: Automated-GuitarAmpModelling's networks.py, GuitarML's NeuralPi.
"""

from __future__ import annotations

from typing import Any

from ..checks import quoted, short
from .format import Content
from .json_values import array, member, size
from .one_bias import described
from .rtneural import skipped, with_skip
from .source import State


def read(tree: dict[str, Any]) -> Content:
    """Read a model.

    Raises
    ------
    ValueError
        If it is not of an LSTM, or its arrays are not those that its sizes say.
    """
    data = member(tree, "model_data", "the model", dict)
    where = "model_data"
    kind = member(data, "model", where, str) if "model" in data else "SimpleRNN"
    unit = member(data, "unit_type", where, str)
    if (kind, unit) != ("SimpleRNN", "LSTM"):
        raise ValueError(f"it is a {short(kind)} of {short(unit)}; known is a SimpleRNN of LSTM")
    inputs, hidden = size(data, "input_size", where), size(data, "hidden_size", where)
    layers = size(data, "num_layers", where) if "num_layers" in data else 1
    outputs = size(data, "output_size", where) if "output_size" in data else 1
    skip = skipped(data, "skip", where)
    shapes: dict[str, tuple[int, ...]] = {}
    given = member(tree, "state_dict", "the model", dict)
    has_bias = "lin.bias" in given
    for layer in range(min(layers, len(given))):
        shapes[f"rec.weight_ih_l{layer}"] = (4 * hidden, hidden if layer else inputs)
        shapes[f"rec.weight_hh_l{layer}"] = (4 * hidden, hidden)
        shapes[f"rec.bias_ih_l{layer}"] = shapes[f"rec.bias_hh_l{layer}"] = (4 * hidden,)
    shapes["lin.weight"] = (outputs, hidden)
    if has_bias:
        shapes["lin.bias"] = (outputs,)
    if given.keys() != shapes.keys() or layers > len(given):
        raise ValueError(
            f"its state_dict must have {quoted(shapes)}, as {where} says, got {quoted(given)}"
        )
    state = State()
    state |= {name: array(value, name, *shapes[name]) for name, value in given.items()}
    rec = described(inputs, hidden, layers)
    lin = {"layer": "Linear", "in_features": hidden, "out_features": outputs, "bias": has_bias}
    structure = with_skip({"rec": rec, "lin": lin}, state, inputs, outputs, skip)
    notes = {name: value for name, value in tree.items() if name != "state_dict"}
    return Content(state, structure, notes=notes)
