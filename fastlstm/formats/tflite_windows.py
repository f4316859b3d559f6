"""TFLite's operators of windows, convolutions and pooling, by those of ONNX.

TFLite has channels as the last axis, (N, H, W, C), ONNX as the second. The axes are exchanged
before and behind; the product itself has the channels last, and so nothing is copied for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .tflite_site import Site

_TO_ONNX, _FROM_ONNX = (0, 3, 1, 2), (0, 2, 3, 1)
_PADDINGS = "SAME_UPPER", "VALID"  # by their numbers in the file


def _moves(site: Site) -> dict[str, Any]:
    """Return how the windows move, as ONNX's attributes."""
    padding = site.options["padding"]
    if not 0 <= padding < len(_PADDINGS):
        raise ValueError(f"its padding has the number {padding}, which is not known")
    return {
        "auto_pad": _PADDINGS[padding],
        "strides": [site.options["stride_h"], site.options["stride_w"]],
    }


def _around(site: Site, type: str, others: list[str], **attributes: Any) -> None:
    """Put one of ONNX's operators between transpositions."""
    value = site.put("Transpose", [site.value(0)], perm=_TO_ONNX)
    value = site.put(type, [*value, *others], **attributes)
    value = site.put("Transpose", value, perm=_FROM_ONNX)
    site.give(site.activated(value[0]))


def _convolution(site: Site) -> None:
    site.needs(2, 3)
    weight, bias = site.weight(1, 4), site.weight(2, 1) if site.has(2) else None
    deep = site.options.get("multiplier")
    if deep is None:
        kernel, channels = weight.transpose(_TO_ONNX), site.tensor(0).shape or (None,)
        inside = kernel.shape[1]
        wide = channels[-1] if isinstance(channels[-1], int) else inside
        if not inside or wide % inside:
            raise ValueError(f"kernels of {inside} channels do not go over {wide}")
        groups = wide // inside
    else:
        if weight.shape[0] != 1 or deep < 1 or weight.shape[3] % deep:
            raise ValueError(f"its kernels have the shape {weight.shape}, with a depth of {deep}")
        kernel, groups = weight.transpose(3, 0, 1, 2), weight.shape[3] // deep
    others = [site.constant(np.ascontiguousarray(kernel), np.float32)]
    if bias is not None:
        others.append(site.constant(bias, np.float32))
    dilations = [site.options["dilation_h"], site.options["dilation_w"]]
    _around(site, "Conv", others, group=groups, dilations=dilations, **_moves(site))


def _pooling(site: Site) -> None:
    site.needs(1)
    sizes = site.options["height"], site.options["width"]
    moves = _moves(site)
    if min(*sizes, *moves["strides"]) < 1:
        raise ValueError(f"its windows have sizes {sizes} and strides {moves['strides']}")
    name = "MaxPool" if site.kind == "MAX_POOL_2D" else "AveragePool"
    _around(site, name, [], kernel_shape=list(sizes), **moves)


WINDOWS: dict[str, Callable[[Site], None]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "MAX_POOL_2D": _pooling,
    "AVERAGE_POOL_2D": _pooling,
}
