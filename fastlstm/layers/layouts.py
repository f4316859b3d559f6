"""One LSTM layer's weights as other libraries lay them out, brought into torch's names and shapes.

====== ========== ============ ================ =======================
layout gates      kernel       recurrent kernel bias
====== ========== ============ ================ =======================
torch  i, f, g, o (4H, I)      (4H, H)          (4H,), or a pair of it
keras  i, f, g, o (I, 4H)      (H, 4H)          (4H,)
onnx   i, o, f, g (D, 4H, I)   (D, 4H, H)       (D, 8H): of W, then R
matlab i, f, g, o (4H D, I)    (4H D, H)        (4H D, 1)
tflite i, f, g, o four (H, I)  four (H, H)      four (H,)
flax   i, f, g, o four (I, H)  four (H, H)      four (H,)
====== ========== ============ ================ =======================

D is 1, or 2 for both directions, the forward one first. Where there is one bias, ``bias_hh`` is 0.
Peepholes are lists of (H,) for i, f and o, but with ONNX (D, 3H) for i, o and f. Where a gate is
coupled, layouts with an array for each gate have none of it, and the others have rows that are not
used.
Sources: torch.nn.LSTM; keras.layers.LSTM; ONNX, operator LSTM; MATLAB, lstmLayer and bilstmLayer;
TFLite, operator UNIDIRECTIONAL_SEQUENCE_LSTM; flax.linen.LSTMCell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import as_array
from ..checks import short
from .options import check_option, gates_of
from .parameters import as_parameter

if TYPE_CHECKING:
    from ..arrays import Array

# The gates in their order, and the axes of kernel, recurrent kernel and bias; P is the axis along
# which the outputs of the step before are multiplied.
_LAYOUTS = {
    "torch": ("ifgo", ("4H", "I"), ("4H", "P"), ("4H",)),
    "keras": ("ifgo", ("I", "4H"), ("P", "4H"), ("4H",)),
    "onnx": ("iofg", ("D", "4H", "I"), ("D", "4H", "P"), ("D", "8H")),
    "matlab": ("ifgo", ("4H D", "I"), ("4H D", "P"), ("4H D", "1")),
    "tflite": ("ifgo", ("4", "H", "I"), ("4", "H", "P"), ("4", "H")),
    "flax": ("ifgo", ("4", "I", "H"), ("4", "P", "H"), ("4", "H")),
}


def as_torch(*given: Any) -> dict[str, Array]:
    """Return one LSTM layer's parameters under torch's names; ValueError if they do not fit.

    It takes what `in_blocks` takes.

    Examples
    --------
    >>> state = as_torch(np.ones((3, 8)), np.ones((2, 8)), None, "keras")
    >>> {name: array.shape for name, array in state.items()}
    {'weight_ih_l0': (8, 3), 'weight_hh_l0': (8, 2)}
    """
    return {name: np.concatenate(blocks) for name, blocks in in_blocks(*given).items()}


def in_blocks(
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any,
    layout: str,
    peephole: Any = None,
    coupled: str | None = None,
) -> dict[str, list[Array]]:
    """Return the same as blocks of rows, one behind another, which need not be copies.

    `coupled` says which gate follows another; its rows are left out.
    """
    if not isinstance(layout, str) or layout not in _LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(_LAYOUTS)}, got {short(layout)}")
    gates, *axes_in_order = _LAYOUTS[layout]
    own = gates_of(check_option("coupled", coupled))
    order = [gates.index(gate) for gate in own]
    given = {"kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}
    if len(own) == 3 and axes_in_order[0][0] == "4":
        given = {name: _with_gap(value, own) for name, value in given.items()}
    arrays = {n: _array(n, a) for n, a in given.items() if a is not None or n != "bias"}
    axes: dict[str, tuple[str, ...]] = dict(zip(given, map(tuple, axes_in_order), strict=True))
    if "bias" in arrays and (layout, arrays["bias"].ndim) == ("torch", 2):
        axes["bias"] = ("2", "4H")
    if "bias" in arrays and (layout, arrays["bias"].ndim) == ("matlab", 1):
        axes["bias"] = ("4H D",)
    d, h = _check(arrays, axes, layout)

    def matrices(name: str) -> Array:
        inputs = axes[name].index("I" if name == "kernel" else "P")
        return np.moveaxis(arrays[name], inputs, -1).reshape(d, 4, h, -1)

    blocks: dict[str, list[Array]] = {}
    w_ih, w_hh = matrices("kernel"), matrices("recurrent_kernel")
    for k, end in enumerate(("_l0", "_l0_reverse")[:d]):
        blocks |= {f"weight_ih{end}": [w_ih[k, gate] for gate in order]}
        blocks |= {f"weight_hh{end}": [w_hh[k, gate] for gate in order]}
        if "bias" in arrays:
            b_ih, *b_hh = arrays["bias"].reshape(d, -1, 4, h)[k]
            of_hh = b_hh[0] if b_hh else 0 * b_ih
            blocks |= {f"bias_ih{end}": [b_ih[gate] for gate in order]}
            blocks |= {f"bias_hh{end}": [of_hh[gate] for gate in order]}
    if peephole is not None:
        parts = _peepholes(peephole, layout, d, h, own)
        blocks |= {
            f"weight_c{gate}{end}": [parts[k, "ifo".index(gate)]]
            for k, end in enumerate(("_l0", "_l0_reverse")[:d])
            for gate in own
            if gate != "g"
        }
    return blocks


def _with_gap(value: Any, own: str) -> Any:
    """Return a list of arrays for four gates from one for the three that are there."""
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return value
    parts = dict(zip(own, value, strict=True))
    return [parts[gate] if gate in parts else np.zeros_like(value[0]) for gate in "ifgo"]


def _peepholes(peephole: Any, layout: str, d: int, h: int, own: str) -> Array:
    """Return the peepholes (D, 3, H) of i, f and o; ValueError if they do not fit."""
    onnx = layout == "onnx"
    if not onnx and isinstance(peephole, (list, tuple)) and len(peephole) == len(own) - 1:
        given = dict(zip(own.replace("g", ""), peephole, strict=True))
        peephole = [given.get(gate, np.zeros(h)) for gate in "ifo"]
    array = _array("peephole", peephole)
    shapes = [(d, 3 * h)] if onnx else [(3, h), (d, 3, h)] if d == 1 else [(d, 3, h)]
    if array.shape not in shapes:
        raise ValueError(
            f"peephole of layout {layout!r} must be {'(D, 3H)' if onnx else '(3, H)'}, here "
            f"{shapes[0]}, got {array.shape}"
        )
    parts = array.reshape(d, 3, h)
    return parts[:, [0, 2, 1]] if onnx else parts  # ONNX has i, o, f


def _array(name: str, value: Any) -> Array:
    """An array of floats; of a list of arrays, as of one for each gate, these stacked."""
    if isinstance(value, (list, tuple)) and any(hasattr(part, "shape") for part in value):
        parts = [as_array(part, name) for part in value]
        if len({part.shape for part in parts}) > 1:
            shapes = ", ".join(str(part.shape) for part in parts)
            raise ValueError(f"the arrays of {name} must have one shape, got {shapes}")
        value = np.stack(parts)
    return as_parameter(value, name)


def _check(
    arrays: Mapping[str, Array], axes: Mapping[str, tuple[str, ...]], layout: str
) -> tuple[int, int]:
    """Return (D, H), which the kernels' shapes tell; ValueError if a shape is not of the layout."""

    def wrong(name: str, expected: str = "") -> ValueError:
        said = f"({', '.join(axes[name])})".replace("P", "H").replace(" D", "*D")
        shape = arrays[name].shape
        return ValueError(f"{name} of layout {layout!r} must be {said}{expected}, got {shape}")

    for name, array in arrays.items():
        if array.ndim != len(axes[name]):
            raise wrong(name)
    kernel, recurrent = arrays["kernel"].shape, arrays["recurrent_kernel"].shape
    h = recurrent[axes["recurrent_kernel"].index("P")]
    d = kernel[0] if axes["kernel"][0] == "D" else 1
    if axes["kernel"][0] == "4H D" and h:
        d = max(1, kernel[0] // (4 * h))
    if d not in (1, 2) or not h:
        raise ValueError(f"an LSTM has 1 or 2 directions and 1 unit or more, got {d} and {h}")
    sizes = {"I": kernel[axes["kernel"].index("I")], "P": h, "H": h, "4H": 4 * h, "8H": 8 * h}
    sizes |= {"4H D": 4 * h * d, "D": d, "1": 1, "2": 2, "4": 4}
    for name in sorted(arrays, reverse=True):  # the recurrent kernel first, for H is of that
        expected = tuple(sizes[axis] for axis in axes[name])
        if arrays[name].shape != expected:
            raise wrong(name, f", here {expected}")
    return d, h
