"""LSTMs of programs that have one bias, and none of the options: what of ours they can run.

Our two biases are added, as the engines add them, so that nothing is lost; what is read gets zeros
as the second.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..layers import LSTM, Dropout, Layer
from ..layers.options import options_text
from ..layers.sequential import flattened

if TYPE_CHECKING:
    from ..arrays import Array
    from .structure import Description

_OPTIONS = (
    *("peephole", "coupled", "gate_clip", "cell_clip", "proj_clip", "gate_activation"),
    *("cell_activation", "output_activation", "layer_norm", "zoneout", "reverse"),
)


class Cell(NamedTuple):
    """The arrays of one layer, in torch's order of gates: (4H, I), (4H, H), (4H,)."""

    w_ih: Array
    w_hh: Array
    bias: Array


def parameters(prefix: str, suffix: str, cell: Cell) -> dict[str, Array]:
    """Return the parameters of a layer, by torch's names."""
    return {
        f"{prefix}weight_ih{suffix}": np.ascontiguousarray(cell.w_ih),
        f"{prefix}weight_hh{suffix}": np.ascontiguousarray(cell.w_hh),
        f"{prefix}bias_ih{suffix}": cell.bias,
        f"{prefix}bias_hh{suffix}": np.zeros_like(cell.bias),
    }


def described(inputs: int, hidden: int, layers: int = 1) -> Description:
    """Return an LSTM as `structure` describes it. How a batch lies is not known of such files."""
    sizes = {"input_size": inputs, "hidden_size": hidden, "num_layers": layers}
    return {"layer": "LSTM", **sizes, "batch_first": None}


def cells(lstm: LSTM, name: str, program: str) -> list[Cell]:
    """Return the layers of an LSTM; ValueError if the program has not what it does.

    Its learned first states are the caller's to write or to refuse.
    """
    told = options_text(lstm, _OPTIONS)
    if lstm.bidirectional:
        told += ", bidirectional=True"
    if lstm.proj_size:
        told += f", proj_size={lstm.proj_size}"
    if told:
        raise ValueError(f"{name or 'the LSTM'}: {program} has no LSTM with {told[2:]}")
    arrays, found = lstm.state_dict(), []
    for layer in range(lstm.num_layers):
        w_ih, w_hh = arrays[f"weight_ih_l{layer}"], arrays[f"weight_hh_l{layer}"]
        bias = np.zeros(len(w_ih), w_ih.dtype)
        if lstm.bias:
            bias = arrays[f"bias_ih_l{layer}"] + arrays[f"bias_hh_l{layer}"]
        found.append(Cell(w_ih, w_hh, bias))
    return found


def chain(model: Layer) -> Iterator[tuple[str, Layer]]:
    """Yield (name, layer) of a chain of layers; Dropout, which does nothing in use, is left out."""
    return ((name, layer) for name, layer in flattened(model) if not isinstance(layer, Dropout))
