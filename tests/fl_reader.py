"""A reader of `.fl` files, written from docs/reference/fl_format.md alone; it computes them too.

It takes nothing of `fastlstm.formats`, so it finds what the writer does otherwise than the page
says. The LSTMs are computed by the equations of `_numpy`, from the arrays as they lie in the file.
"""

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from fastlstm.engines import _numpy
from fastlstm.engines.contract import PLAIN, Activation, Cell, Options

FUNCTIONS = (
    "sigmoid", "tanh", "relu", "affine", "leaky_relu", "thresholded_relu", "scaled_tanh",
    "hard_sigmoid", "elu", "softsign", "softplus",
)  # fmt: skip
CELL = ("w_ih", "w_hh", "b", "w_hr", "w_ci", "w_cf", "w_co", "ln", "ln_ih", "ln_hh", "ln_c", "b_c")


class Read(NamedTuple):
    """A node as it stands in a file; the arrays are flat, None for one that is not there."""

    kind: int
    first: int
    second: int
    takes: int
    gives: int
    whole: list[int]
    numbers: list[float]
    arrays: list[Any]


class File(NamedTuple):
    """The head of a file, its nodes and its text."""

    nodes: list[Read]
    dtype: np.dtype[Any]
    takes: int
    gives: int
    indices: int
    sample_rate: float
    text: bytes


def up(size: int) -> int:
    return (size + 63) // 64 * 64


def decode(data: bytes) -> File:
    """Return what stands in a file, which must be whole and nothing else."""

    def at(place: int, kind: str) -> Any:
        return struct.unpack_from("<" + kind, data, place)[0]

    assert data[:8] == bytes.fromhex("89464C0D0A1A0A00")
    assert at(8, "I") == 0x01020304 and at(12, "I") == 1 and at(16, "q") == len(data)
    assert len(data) % 64 == 0
    assert at(24, "I") == zlib.crc32(data[:24] + bytes(4) + data[28:])
    itemsize, nodes, arrays = at(28, "I"), at(32, "I"), at(36, "I")
    takes, gives, indices = at(40, "q"), at(48, "q"), at(56, "I")
    assert at(60, "I") == 0 and not any(data[88:128])
    dtype = np.dtype({4: "<f4", 8: "<f8"}[itemsize])
    node_at = 128
    array_at = node_at + up(208 * nodes)
    text_at, text_size = at(72, "q"), at(80, "q")
    assert text_at == array_at + up(16 * arrays)
    used = set(range(128)) | set(range(text_at, text_at + text_size))
    used |= set(range(node_at, node_at + 208 * nodes)) | set(
        range(array_at, array_at + 16 * arrays)
    )
    end, held = text_at + up(text_size), []
    for n in range(arrays):
        start, size = at(array_at + 16 * n, "q"), at(array_at + 16 * n + 8, "q")
        if (start, size) == (0, 0):
            held.append(None)
            continue
        assert start == end and start % 64 == 0
        held.append(np.frombuffer(data[start : start + size], dtype))
        used |= set(range(start, start + size))
        end += up(size)
    assert end == len(data)
    assert not any(data[n] for n in set(range(len(data))) - used)
    read, next_array = [], 0
    for n in range(nodes):
        record = data[node_at + 208 * n : node_at + 208 * (n + 1)]
        kind, first, second, array, count, zero, into, out = struct.unpack("<6I2q", record[:40])
        assert array == next_array and zero == 0
        assert first <= n and second <= n and (second == 0 or kind in (5, 6))
        whole, numbers = struct.unpack("<9q", record[40:112]), struct.unpack("<12d", record[112:])
        next_array += count
        arrays_of_it = held[array:next_array]
        read.append(Read(kind, first, second, into, out, [*whole], [*numbers], arrays_of_it))
    assert next_array == arrays and read[-1].gives == gives
    text = data[text_at : text_at + text_size]
    return File(read, dtype, takes, gives, indices, at(64, "d"), text)


def compute(file: File, x: Any) -> Any:
    """Return what a file's model gives for x, (T, B, features) or indices (T, B)."""
    values = [x if file.indices else np.asarray(x, file.dtype)]
    for node in file.nodes:
        a, b = values[node.first], values[node.second]
        assert (1 if a.ndim < 3 and file.indices and node.kind == 2 else a.shape[-1]) == node.takes
        y = _KINDS[node.kind](node, a, b)
        assert y.shape[-1] == node.gives and y.dtype == file.dtype
        values.append(y)
    return values[-1]


def cells(node: Read) -> list[Cell]:
    """Return the cells of an LSTM's node."""
    layers, directions, H, reverse, general, coupled, layer_norm, functions, nothing = node.whole
    assert nothing == 0 and len(node.arrays) == 12 * layers * directions + 2
    P = node.gives // directions
    options = PLAIN
    if general:
        f = [
            Activation(FUNCTIONS[functions >> 8 * n & 255], *node.numbers[3 + 2 * n : 5 + 2 * n])
            for n in range(3)
        ]
        options = Options(
            *node.numbers[:3], ("", "f=1-i", "i=1-f")[coupled], *f,
            ("", "tflite", "haste")[layer_norm], *node.numbers[9:11],
        )  # fmt: skip
    made = []
    for k in range(layers * directions):
        held = dict(zip(CELL, node.arrays[12 * k : 12 * k + 12], strict=True))
        takes = node.takes if k < directions else directions * P
        shapes = {"w_ih": (4 * H, takes), "w_hh": (4 * H, P), "w_hr": (P, H)}
        if held["b"] is None:
            held["b"] = np.zeros(4 * H, held["w_ih"].dtype)
        fields = {
            name: None if array is None else array.reshape(shapes.get(name, -1)).copy()
            for name, array in held.items()
        }
        runs_back = bool(reverse) or (directions == 2 and k % 2 == 1)
        made.append(Cell(**fields, reverse=runs_back, options=options))
    return made


def _lstm(node: Read, x: Any, _: Any) -> Any:
    layers, directions, H = node.whole[:3]
    P, (T, B) = node.gives // directions, x.shape[:2]
    h = np.zeros((layers * directions, B, P), x.dtype)
    c = np.zeros((layers * directions, B, H), x.dtype)
    for state, first in zip((h, c), node.arrays[-2:], strict=True):
        if first is not None:
            state[...] = first.reshape(len(state), 1, -1)
    y = np.empty((T * B, node.gives), x.dtype)
    rows = np.ascontiguousarray(x).reshape(T * B, -1)
    stack = _numpy.Stack(cells(node), directions)
    stack.run(rows, np.full(T, B, np.int64), h, c, y, 1)
    return y.reshape(T, B, -1)


def _linear(node: Read, x: Any, _: Any) -> Any:
    w, b = node.arrays
    y = x @ w.reshape(node.gives, node.takes).T
    return y if b is None else y + b


def _activation(node: Read, x: Any, _: Any) -> Any:
    if node.whole[0] == 256:
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)
    alpha, beta = (x.dtype.type(number) for number in node.numbers[:2])
    return {
        "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "tanh": lambda: np.tanh(x),
        "relu": lambda: np.maximum(x, 0),
        "affine": lambda: alpha * x + beta,
    }[FUNCTIONS[node.whole[0]]]()


def _last(node: Read, x: Any, _: Any) -> Any:
    n = node.whole[0]
    return np.concatenate([x[-1:, ..., : node.takes - n], x[:1, ..., node.takes - n :]], axis=-1)


def _convolution(node: Read, x: Any, _: Any) -> Any:
    length, channels, length_out, channels_out, kernel, stride, padding = node.whole[:7]
    w = node.arrays[0].reshape(channels_out, kernel, channels)
    b = 0 if node.arrays[1] is None else node.arrays[1]
    x = x.reshape(*x.shape[:-1], length, channels)
    beside = np.zeros((*x.shape[:-2], padding, channels), x.dtype)
    x = np.concatenate([beside, x, beside], axis=-2)
    places = [
        np.einsum("...kc,okc->...o", x[..., n * stride : n * stride + kernel, :], w) + b
        for n in range(length_out)
    ]
    return np.concatenate(places, axis=-1)


def _magnitude(node: Read, x: Any, _: Any) -> Any:
    length, n = node.whole[:2]
    x = x.reshape(*x.shape[:-1], length, 2, n)
    squares = x[..., 0, :] ** 2 + x[..., 1, :] ** 2
    return np.sqrt(squares).reshape(*x.shape[:-3], length * n)


_KINDS = {
    1: _lstm,
    2: lambda node, x, _: node.arrays[0].reshape(node.whole[0], node.gives)[x],
    3: _linear,
    4: _activation,
    5: lambda node, x, y: x + y,
    6: lambda node, x, y: np.concatenate([x, y], axis=-1),
    7: lambda node, x, _: (x - node.arrays[0]) / node.arrays[1],
    8: lambda node, x, _: x * node.arrays[1] + node.arrays[0],
    9: _last,
    10: lambda node, x, _: x[..., node.whole[0] : node.whole[0] + node.gives],
    11: _convolution,
    12: _magnitude,
}
