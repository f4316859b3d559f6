"""Writes the file of a model as docs/reference/fl_format.md has it, and computes what it gives.

This knows nothing of fastlstm's own writer: it is a second reading of that page, and it writes what
is wrong as readily as what is right.
"""

import dataclasses
import struct
import zlib
from typing import NamedTuple

import numpy as np

from fastlstm.engines.contract import ACTIVATIONS, PLAIN

LSTM, EMBEDDING, LINEAR, ACTIVATION, SUM, JOIN, STANDARDIZE = range(1, 8)
RESTORE, LAST, SELECT, CONVOLUTION, MAGNITUDE = range(8, 13)
SOFTMAX = 256


class Node(NamedTuple):
    """A node; `takes` are the values that it takes, and None is an array that is not there.

    An LSTM also has its cells, for `compute`.
    """

    kind: int
    takes: tuple
    I: int
    O: int  # noqa: E741 (the format's names)
    whole: tuple = ()
    numbers: tuple = ()
    arrays: tuple = ()
    cells: tuple = ()


class Model(NamedTuple):
    """A model: its nodes, and what the head says of it."""

    nodes: tuple
    input: int
    dtype: str = "float32"
    indices: bool = False
    rate: float = 0.0
    text: bytes = b""

    @property
    def output(self):
        return self.nodes[-1].O


def lstm(value, cells, directions=1, h_0=None, c_0=None, reverse=False):
    """The node of a stack of cells, which are in the order of the layers."""
    first, o = cells[0], cells[0].options
    general = not first.is_plain
    functions = [ACTIVATIONS.index(name) for name, *_ in (o.gate, o.cell, o.output)]
    whole = [len(cells) // directions, directions, first.w_hh.shape[0] // 4, reverse, general]
    numbers = []
    if general:
        whole += [
            ["", "f=1-i", "i=1-f"].index(o.coupled),
            ["", "tflite", "haste"].index(o.layer_norm),
        ]
        whole.append(functions[0] + 256 * functions[1] + 65536 * functions[2])
        numbers += [o.gate_clip, o.cell_clip, o.proj_clip]
        numbers += [*o.gate[1:], *o.cell[1:], *o.output[1:], o.zoneout_h, o.zoneout_c]
    names = "w_ih w_hh b w_hr w_ci w_cf w_co ln ln_ih ln_hh ln_c b_c".split()
    arrays = [getattr(cell, name) for cell in cells for name in names] + [h_0, c_0]
    I, P = first.w_ih.shape[1], first.w_hh.shape[1]
    if reverse:
        cells = [dataclasses.replace(cell, reverse=True) for cell in cells]
    return Node(
        LSTM, (value,), I, directions * P, tuple(whole), tuple(numbers), tuple(arrays), tuple(cells)
    )


def pad(data):
    """The bytes, padded to a multiple of 64."""
    return data + bytes(-len(data) % 64)


def record(node, first_array):
    """The 208 bytes of a node."""
    values = (*node.takes, 0)[:2]
    whole = (*node.whole, *[0] * 9)[:9]
    numbers = (*node.numbers, *[0.0] * 12)[:12]
    head = struct.pack(
        "<6I2q", node.kind, *values, first_array, len(node.arrays), 0, node.I, node.O
    )
    return head + struct.pack("<9q", *map(int, whole)) + struct.pack("<12d", *numbers)


def with_checksum(data):
    """The bytes of a file with the checksum that they have."""
    data = bytearray(data)
    data[24:28] = bytes(4)
    data[24:28] = struct.pack("<I", zlib.crc32(data))
    return bytes(data)


def write(model):
    """The bytes of a file."""
    records, arrays = b"", []
    for node in model.nodes:
        records += record(node, len(arrays))
        arrays += node.arrays
    nodes = pad(records)
    text_at = 128 + len(nodes) + len(pad(bytes(16 * len(arrays))))
    at, places, values = text_at + len(pad(model.text)), b"", b""
    for array in arrays:
        data = b"" if array is None else np.ascontiguousarray(array, model.dtype).tobytes()
        places += struct.pack("<2q", at if data else 0, len(data))
        values += pad(data)
        at += len(pad(data))
    head = struct.pack(
        "<8s2Iq4I2q2Id2q40x", b"\x89FL\r\n\x1a\n\0", 0x01020304, 1, at, 0,
        np.dtype(model.dtype).itemsize, len(model.nodes), len(arrays), model.input, model.output,
        model.indices, 0, model.rate, text_at, len(model.text),
    )  # fmt: skip
    return with_checksum(head + nodes + pad(places) + pad(model.text) + values)


# ---- what it gives --------------------------------------------------------------------------


def function(name, alpha, beta, x):
    """An activation, as contract.py has it."""
    with np.errstate(all="ignore"):
        return {
            "sigmoid": lambda: 1 / (1 + np.exp(-x)),
            "tanh": lambda: np.tanh(x),
            "relu": lambda: np.maximum(x, 0),
            "affine": lambda: alpha * x + beta,
            "leaky_relu": lambda: np.where(x < 0, alpha * x, x),
            "thresholded_relu": lambda: np.where(x <= alpha, 0, x),
            "scaled_tanh": lambda: alpha * np.tanh(beta * x),
            "hard_sigmoid": lambda: np.clip(alpha * x + beta, 0, 1),
            "elu": lambda: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
            "softsign": lambda: x / (1 + abs(x)),
            "softplus": lambda: np.maximum(x, 0) + np.log1p(np.exp(-abs(x))),
        }[name]()


def softmax(x):
    """e^x over the sum of all."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def product(engine, w, b, x):
    """W x + b of an engine, for x (..., I)."""
    rows = np.ascontiguousarray(x.reshape(-1, x.shape[-1]))
    y = np.empty((len(rows), len(w)), x.dtype)
    engine.Product(w, b).run(rows, y, 1)
    return y.reshape(*x.shape[:-1], len(w))


def _lstm(engine, node, x, states):
    T, B, _ = x.shape
    layers, directions, H = node.whole[:3]
    cells, P = len(node.cells), node.O // directions
    shapes = zip(node.arrays[-2:], (P, H), strict=True)
    h, c = (
        np.repeat((np.zeros((cells, w)) if a is None else a)[:, None], B, 1).astype(x.dtype)
        for a, w in shapes
    )
    y = np.empty((T * B, node.O), x.dtype)
    drawn = [cell.map(lambda a: a.astype(x.dtype)) for cell in node.cells]
    engine.Stack(drawn, directions).run(x.reshape(T * B, -1), np.full(T, B), h, c, y, 1)
    states += [state for layer in zip(h, c, strict=True) for state in layer]
    return y.reshape(T, B, -1)


def _convolution(engine, node, x):
    length, channels, length_out, channels_out, kernel, stride, padding = node.whole
    w, b = (None if a is None else a.astype(x.dtype) for a in node.arrays)
    wide = x.reshape(*x.shape[:2], length, channels)
    wide = np.pad(wide, [(0, 0), (0, 0), (padding, padding), (0, 0)])
    rows = [wide[:, :, n * stride : n * stride + kernel] for n in range(length_out)]
    rows = np.stack(rows, 2).reshape(*x.shape[:2], length_out, kernel * channels)
    return product(engine, w.reshape(channels_out, -1), b, rows).reshape(*x.shape[:2], -1)


def _one(engine, node, x, other, states):
    arrays = [None if a is None else a.astype(x.dtype) for a in node.arrays[:2]]
    if node.kind == LSTM:
        return _lstm(engine, node, x, states)
    if node.kind == LINEAR:
        return product(engine, *arrays, x)
    if node.kind == ACTIVATION:
        if node.whole[0] == SOFTMAX:
            return softmax(x)
        name = ACTIVATIONS[node.whole[0]]
        return function(name, *(*node.numbers, 0.0, 0.0)[:2], x).astype(x.dtype)
    if node.kind == SUM:
        return x + other
    if node.kind == JOIN:
        return np.concatenate([x, other], 2)
    if node.kind == STANDARDIZE:
        return (x - arrays[0]) / arrays[1]
    if node.kind == RESTORE:
        return x * arrays[1] + arrays[0]
    if node.kind == LAST:
        own = node.O - (*node.whole, 0)[0]
        return np.concatenate([x[-1:, :, :own], x[:1, :, own:]], 2)
    if node.kind == SELECT:
        return x[:, :, node.whole[0] : node.whole[0] + node.O]
    if node.kind == CONVOLUTION:
        return _convolution(engine, node, x)
    length, n = node.whole
    a, b = np.moveaxis(x.reshape(*x.shape[:2], length, 2, n), 3, 0)
    return np.sqrt(a * a + b * b).reshape(*x.shape[:2], -1)


def compute(engine, model, x, dtype):
    """(y, states after the last step) of a model, with the cells and products of an engine.

    x is (T, B, input), or (T, B, 1) of indices. The states are those of the file of a session.
    """
    values, states = [x if model.indices else x.astype(dtype)], []
    for node in model.nodes:
        if node.kind == EMBEDDING:
            values.append(node.arrays[0].astype(dtype)[x[..., 0]])
            continue
        one, other = (values[n] for n in (*node.takes, node.takes[0])[:2])
        values.append(_one(engine, node, one, other, states))
    return values[-1], states


__all__ = ["PLAIN", "Model", "Node", "compute", "lstm", "write"]
