"""LSTMs of other programs, called with arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def has_vnni() -> bool:
    """Whether this processor sums products of int8 and uint8 without clipping, for onnxruntime."""
    told = Path("/proc/cpuinfo")
    return not told.exists() or "vnni" in told.read_text() or "flags" not in told.read_text()


Array = np.ndarray[Any, np.dtype[Any]]


def onnx_lstm(
    direction: str,
    weights: Sequence[tuple[Array, Array, Array]],
    x: Array,
    lengths: Sequence[int],
    h: Array,
    c: Array,
    peepholes: Sequence[Array] | None = None,
    **attributes: Any,
) -> list[Array]:
    """Run the ONNX operator LSTM in onnxruntime: Y (T, D, B, H), Y_h and Y_c (D, B, H).

    Parameters
    ----------
    direction : {"forward", "reverse", "bidirectional"}
    weights : sequence of (w_ih, w_hh, b)
        Of each direction, with the gates i, f, g, o; ONNX has them as i, o, f, g.
    x, lengths, h, c
        (T, B, I), B ints, and twice (D, B, H).
    peepholes : sequence of ndarray of shape (3, H), optional
        Of each direction those of i, f and o; ONNX has them as i, o, f.
    **attributes
        Further ones of the operator, under its names.
    """
    onnx = pytest.importorskip("onnx", reason="the second oracle needs onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the second oracle needs onnxruntime")

    def reorder(w: Array) -> Array:
        i, f, g, o = np.split(w, 4)
        return np.concatenate([i, o, f, g])

    w, r, b = (np.stack([reorder(one[n]) for one in weights]) for n in range(3))
    inputs = {
        "X": x,
        "W": w,
        "R": r,
        "B": np.concatenate([b, np.zeros_like(b)], 1),
        "sequence_lens": np.asarray(lengths, np.int32),
        "initial_h": h,
        "initial_c": c,
    }
    if peepholes is not None:
        inputs["P"] = np.stack([np.concatenate([i, o, f]) for i, f, o in peepholes])
    helper = onnx.helper
    node = helper.make_node(
        "LSTM",
        list(inputs),
        ["Y", "Y_h", "Y_c"],
        hidden_size=h.shape[-1],
        direction=direction,
        **attributes,
    )
    graph = helper.make_graph(
        [node],
        "lstm",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in inputs.items()
        ],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in node.output],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    results: list[Array] = session.run(None, inputs)
    return results
