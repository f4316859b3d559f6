"""Neural Amp Modeler's .nam files of LSTMs.

Their weights are one list: for each layer the rows [W_ih | W_hh] of the gates in torch's order, the
bias, and the first h and c, which the trainer has found; then the weights and the bias of a Linear,
which has one output if the file does not say more. Source: NeuralAmpModelerCore's lstm.cpp and
get_dsp.cpp, neural-amp-modeler's recurrent.py.
"""

from __future__ import annotations

import json
import re
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from ..checks import check_number, short
from ..layers import LSTM, Layer, Linear
from .format import Content
from .json_values import array, member, nested, size
from .one_bias import Cell, cells, chain, described, parameters
from .source import State

if TYPE_CHECKING:
    from ..arrays import Array

NAME = "NAM"
SUFFIXES = (".nam",)
STRUCTURED = True

_VERSION = "0.5.4"  # of the form of the file that is written
_VERSIONS = "0.5.0 to 0.7"  # that NeuralAmpModelerCore reads
_MOST_LAYERS = 1000


def read(tree: dict[str, Any]) -> Content:
    """Read a model of the architecture LSTM; its learned first states are kept.

    Without first states but zeros, the LSTM has none: so is written what never learned any.

    Raises
    ------
    ValueError
        If it is of another architecture or version, or its weights are not as many as its sizes
        say.
    """
    kind = member(tree, "architecture", "the model", str)
    if kind != "LSTM":
        raise ValueError(
            f"it is a {short(kind)} of Neural Amp Modeler; fastlstm has its LSTM alone"
        )
    version = tree.get("version", _VERSION)
    if not isinstance(version, str) or not re.fullmatch(r"0\.[5-7]\.\d+", version, re.ASCII):
        raise ValueError(
            f"it is of version {short(str(version))} of Neural Amp Modeler's files; those of "
            f"{_VERSIONS} are read"
        )
    config = member(tree, "config", "the model", dict)
    inputs, hidden, layers = (
        size(config, name, "the config") for name in ("input_size", "hidden_size", "num_layers")
    )
    channels = size(config, "in_channels", "the config") if "in_channels" in config else inputs
    outputs = size(config, "out_channels", "the config") if "out_channels" in config else 1
    if channels != inputs:
        raise ValueError(f"'in_channels' must be 'input_size', {inputs}, got {channels}")
    weights = member(tree, "weights", "the model", list)
    if layers > _MOST_LAYERS:
        raise ValueError(f"'num_layers' must be at most {_MOST_LAYERS}, got {layers}")
    wanted = outputs * (hidden + 1)
    wanted += (layers - 1) * _cell_size(hidden, hidden) + _cell_size(inputs, hidden)
    if len(weights) != wanted:
        raise ValueError(
            f"an LSTM of {inputs} inputs, {layers} layers of {hidden} and {outputs} outputs has "
            f"{wanted} weights, the file {len(weights)}"
        )
    values = _Values(array(weights, "the list of weights", wanted))
    state, first = State(), State()
    width = inputs
    for layer in range(layers):
        rows = values.take(4 * hidden, width + hidden)
        cell = Cell(rows[:, :width], rows[:, width:], values.take(4 * hidden))
        state |= parameters("lstm.", f"_l{layer}", cell)
        first[f"lstm.h_0_l{layer}"] = values.take(hidden)
        first[f"lstm.c_0_l{layer}"] = values.take(hidden)
        width = hidden
    lstm = described(inputs, hidden, layers)
    if any(one.any() for one in first.values()):
        lstm["learn_initial_state"] = True
        state |= first
    state["head.weight"] = values.take(outputs, hidden)
    state["head.bias"] = values.take(outputs)
    head = {"layer": "Linear", "in_features": hidden, "out_features": outputs}
    children = {"lstm": lstm, "head": head}
    notes = {name: value for name, value in tree.items() if name not in ("config", "weights")}
    return Content(state, {"layer": "Sequential", "children": children}, notes=notes)


def _cell_size(inputs: int, hidden: int) -> int:
    return 4 * hidden * (inputs + hidden + 1) + 2 * hidden


class _Values:
    """A list of numbers from which arrays are taken in turn."""

    def __init__(self, values: Array) -> None:
        self.left = values

    def take(self, *shape: int) -> Array:
        """Return the next numbers as an array of this shape."""
        number = int(np.prod(shape))
        taken, self.left = self.left[:number], self.left[number:]
        return taken.reshape(shape)


def write(file: IO[bytes], model: Layer, sample_rate: float | None = None) -> None:
    """Write a chain of one LSTM and a Linear with one output.

    Parameters
    ----------
    file : binary file
    model : Layer
        Its LSTM has one direction, layers of one width and no options but learned first states.
    sample_rate : float, optional
        Of the signal in Hz. A plugin takes 48000 if it is left out.

    Raises
    ------
    ValueError
        If the model is anything else, or a parameter is none of float32's numbers.
    """
    parts = dict(chain(model))
    kinds = [type(layer) for layer in parts.values()]
    if kinds != [LSTM, Linear]:
        got = ", ".join(kind.__name__ for kind in kinds) or "no layers"
        raise ValueError(f"a .nam file holds one LSTM and a Linear with one output, got {got}")
    name, (lstm, head) = next(iter(parts)), cast("tuple[LSTM, Linear]", tuple(parts.values()))
    if head.out_features != 1:
        raise ValueError(f"the Linear of a .nam file has one output, got {head.out_features}")
    of_layers = cells(lstm, name, "Neural Amp Modeler")
    if isinstance(lstm.hidden_size, tuple):
        raise ValueError(
            f"{name}: the layers of a .nam file have one width, got {lstm.hidden_size}"
        )
    state, values = lstm.state_dict(), []
    for layer, cell in enumerate(of_layers):
        values += [np.concatenate([cell.w_ih, cell.w_hh], axis=1), cell.bias]
        zeros = np.zeros(lstm.hidden_size, cell.bias.dtype)
        values += [state.get(f"{of}_0_l{layer}", zeros) for of in "hc"]
    values += [head.weight, np.zeros(1, head.dtype) if head.bias is None else head.bias]
    sizes = ("input_size", "hidden_size", "num_layers")
    tree: dict[str, Any] = {
        "version": _VERSION,
        "metadata": {},
        "architecture": "LSTM",
        "config": {name: getattr(lstm, name) for name in sizes},
        "weights": nested(np.concatenate([value.ravel() for value in values]), "the model"),
    }
    if sample_rate is not None:
        tree["sample_rate"] = check_number("sample_rate", sample_rate, above=0)
    file.write(json.dumps(tree).encode())
