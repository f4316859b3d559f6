"""Whole models in C: their files, steps, runs, states, and what is refused.

The program model.c runs each case in every way that must give the same bits: at once, in chunks,
step by step, with threads, each sequence by itself, with states that another session takes up, and
after a reset. Here its values are compared with those of the engine `native`, bit for bit, where a
model has no function but those that round once, and with NumPy's in float64. Files are written by
`fl_files`, which knows nothing of fastlstm's own writer.
"""

import dataclasses
import functools
import os
import pathlib
import shlex
import shutil
import struct
import subprocess
from typing import NamedTuple

import numpy as np
import pytest
from fl_files import (
    ACTIVATION,
    CONVOLUTION,
    EMBEDDING,
    JOIN,
    LAST,
    LINEAR,
    MAGNITUDE,
    RESTORE,
    SELECT,
    SOFTMAX,
    STANDARDIZE,
    SUM,
    Model,
    Node,
    compute,
    function,
    lstm,
    softmax,
    with_checksum,
    write,
)
from support import FUNCTIONS, Work, draw, tolerance
from test_native_c import COMPILERS, FLAGS, HERE, ISAS, NATIVE, PROGRAMS, build, find, start_wine

from fastlstm.engines import _numpy
from fastlstm.engines.contract import ACTIVATIONS, Activation, Options

__all__ = ["build", "start_wine"]  # fixtures

RELU = ACTIVATIONS.index("relu")
STATUSES = """OK STOPPED NULL BAD_STRUCT_SIZE BAD_ALIGNMENT TOO_SMALL TOO_LARGE BAD_ISA BAD_ITEMSIZE
    BAD_SHAPE BAD_OPTIONS BAD_ARRAYS BAD_CALL BAD_STRIDE BAD_BATCH_SIZES BAD_CUT BAD_INDEX
    UNSUPPORTED FILE_MAGIC FILE_VERSION FILE_ENDIAN FILE_TRUNCATED FILE_CHECKSUM
    FILE_DAMAGED""".split()

# Each instruction set by GCC without optimisation; the rest repeats that.
SLOW = pytest.mark.slow
TARGETS = [
    pytest.param(compiler, isa, level, marks=[SLOW] * ((compiler, level) != ("gcc", "-O0")))
    for level in ("-O0", "-O3")
    for compiler in COMPILERS
    for isa in ("baseline", *ISAS.get(compiler, HERE))
]


class Case(NamedTuple):
    """A model, the sequences that run through it, and with how many threads it also runs."""

    model: Model
    B: int = 1
    T: int = 9
    threads: int = 2

    def x(self):
        """What goes in, (T, B, input)."""
        rng = np.random.default_rng(7)
        shape = self.T, self.B, self.model.input
        if self.model.indices:
            rows = [node.whole[0] for node in self.model.nodes if node.kind == EMBEDDING]
            return rng.integers(0, min(rows), shape)
        return rng.standard_normal(shape).astype(self.model.dtype)


def cells(I, H, P=None, **work):
    """The cells of a stack."""
    return draw(Work((1,), I, H, P, **work))[0]


def drawn(*shape, seed=3, scale=0.3, mean=0.0):
    """Numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape) * scale + mean


def linear(value, I, O, bias=True):  # noqa: E741 (the format's names)
    """The node of a product."""
    return Node(LINEAR, (value,), I, O, arrays=(drawn(O, I), drawn(O) if bias else None))


def act(value, width, name="relu", alpha=0.0, beta=0.0):
    """That of an activation."""
    number = SOFTMAX if name == "softmax" else ACTIVATIONS.index(name)
    return Node(ACTIVATION, (value,), width, width, (number,), (alpha, beta))


def scaled(kind, value, width):
    """That of a standardisation, or of its reverse."""
    return Node(kind, (value,), width, width, arrays=(drawn(width), abs(drawn(width)) + 0.5))


def convolution(value, length, channels, channels_out, kernel, stride=1, padding=0, bias=True):
    """That of a convolution."""
    length_out = (length + 2 * padding - kernel) // stride + 1
    whole = length, channels, length_out, channels_out, kernel, stride, padding
    arrays = drawn(channels_out, kernel, channels), drawn(channels_out) if bias else None
    return Node(
        CONVOLUTION, (value,), length * channels, length_out * channels_out, whole, (), arrays
    )


def learned(stack, P, H):
    """h_0 and c_0 of a stack."""
    return {"h_0": drawn(len(stack), P), "c_0": drawn(len(stack), H, scale=1.0)}


def model(*nodes, **head):
    """A model, into which goes what its first node takes."""
    return Model(nodes, nodes[0].I, **head)


def amplifier(H, dtype="float32"):
    """What effects for guitars are: a residual connection around an LSTM and its head."""
    return model(
        lstm(0, cells(1, H)), linear(1, H, 1), Node(SUM, (0, 2), 1, 1), dtype=dtype, rate=48000.0
    )


def speech():
    """A convolution as of a Fourier transform, magnitudes, more convolutions, an LSTM and a head."""
    return model(
        convolution(0, 40, 1, 10, 8, 4, 2, bias=False),  # (10, 10)
        Node(MAGNITUDE, (1,), 100, 50, (10, 5)),
        convolution(2, 10, 5, 6, 3, 2, 1),  # (5, 6)
        act(3, 30),
        convolution(4, 5, 6, 4, 3),  # (3, 4)
        act(5, 12),
        lstm(6, cells(12, 20, layers=2)),
        act(7, 20),
        linear(8, 20, 1),
        rate=16000.0,
    )


def branches():
    """All that joins, takes apart and scales; values that are dead, taken late or never."""
    return model(
        scaled(STANDARDIZE, 0, 5),  # 1
        lstm(1, cells(5, 18)),  # 2
        Node(SELECT, (2,), 18, 7, (4,)),  # 3
        linear(3, 7, 5),  # 4
        Node(SUM, (4, 1), 5, 5),  # 5
        Node(JOIN, (5, 3), 5, 12),  # 6
        linear(0, 5, 40),  # 7, which nothing takes
        scaled(RESTORE, 6, 12),  # 8
        lstm(8, cells(12, 9)),  # 9
        Node(JOIN, (9, 2), 9, 27),  # 10
        Node(SUM, (10, 10), 27, 27),  # 11
        act(11, 27),  # 12
        Node(SELECT, (12,), 27, 26, (1,)),  # 13
    )


def text():
    """Two tables of the same indices, and the last step."""
    return model(
        Node(EMBEDDING, (0,), 1, 6, (11,), (), (drawn(11, 6),)),
        Node(EMBEDDING, (0,), 1, 3, (9,), (), (drawn(9, 3),)),
        Node(JOIN, (1, 2), 6, 9),
        lstm(3, cells(9, 8, layers=2)),
        Node(LAST, (4,), 8, 8),
        linear(5, 8, 4, bias=False),
        Node(SELECT, (5,), 8, 2, (5,)),
        Node(JOIN, (6, 7), 4, 6),
        indices=True,
        text=b'{"a": "note"}',
    )


def both_directions(last):
    """An LSTM of two directions, and where each ends its reading, or a value of each step."""
    stack = cells(4, 7, layers=2, directions=2)
    nodes = [lstm(0, stack, 2, **learned(stack, 7, 7))]
    nodes += [Node(LAST, (1,), 14, 14, (7,))] if last else [Node(SELECT, (1,), 14, 14, (0,))]
    return model(*nodes, linear(2, 14, 3))


def with_options(dtype="float32", P=None, **options):
    """An LSTM with options and learned states."""
    stack = cells(6, 19, P, layers=2, dtype=dtype, peephole=True, options=Options(**options))
    return model(lstm(0, stack, **learned(stack, P or 19, 19)), dtype=dtype)


def reverse(last):
    """An LSTM that runs from the end; of one sequence, it is a small one."""
    nodes = [lstm(0, cells(3, 12), reverse=True)]
    nodes += [Node(LAST, (1,), 12, 12, (12,)), linear(2, 12, 2)] if last else []
    return model(*nodes)


def states(stack_of=cells(5, 24)):  # noqa: B008 (it never changes)
    """An LSTM with learned states."""
    return model(lstm(0, stack_of, **learned(stack_of, 24, 24)))


# Models of which each value is rounded as often in NumPy, so that bits can be compared.
EXACT = {
    "amplifier": Case(amplifier(16), T=150),
    "amplifier_40": Case(amplifier(40), T=40),
    "amplifier_double": Case(amplifier(20, "float64"), T=20),
    "amplifier_many": Case(amplifier(32), B=5, T=70),
    "amplifier_wide": Case(amplifier(150), B=2, T=9),
    "layers": Case(model(lstm(0, cells(3, 20, layers=4))), T=20),
    "hoisted": Case(model(lstm(0, cells(130, 33))), T=150),
    "hoisted_many": Case(model(lstm(0, cells(40, 100, layers=2))), B=3, T=130),
    "threads": Case(model(lstm(0, cells(64, 256)), linear(1, 256, 130)), B=4, T=20, threads=3),
    "threads_rows": Case(model(lstm(0, cells(32, 64, layers=2))), B=24, T=90),
    "speech": Case(speech(), T=12),
    "speech_many": Case(speech(), B=3, T=5),
    "branches": Case(branches(), T=80),
    "branches_many": Case(branches(), B=3, T=13),
    "text": Case(text(), T=70),
    "text_many": Case(text(), B=4, T=12),
    "two_directions": Case(both_directions(False), B=3),
    "two_directions_last": Case(both_directions(True), B=2),
    "reverse": Case(reverse(False), T=150),
    "reverse_last": Case(reverse(True), B=3, T=90),
    "projection": Case(model(lstm(0, cells(7, 70, 65, layers=2)), linear(1, 65, 3)), B=2),
    "learned": Case(states(), T=20),
    "learned_many": Case(states(), B=4, T=20),
    "haste": Case(with_options(layer_norm="haste", coupled="i=1-f", cell_clip=1.5), B=2),
    "tflite": Case(with_options(layer_norm="tflite", gate_clip=2.0), T=70),
    "functions": Case(
        with_options("float64", gate=Activation("hard_sigmoid", 0.2, 0.5),
                     cell=Activation("softsign"), output=Activation("elu", 0.7)), B=3),
    "zoneout": Case(with_options(P=11, zoneout_h=0.3, zoneout_c=0.1, proj_clip=0.2)),
    "one_node": Case(model(Node(SELECT, (0,), 5, 2, (3,))), B=2),
    "one_last": Case(model(Node(LAST, (0,), 5, 5)), B=2, T=70),
    "one_first": Case(model(Node(LAST, (0,), 5, 5, (5,))), B=2, T=70),
    "one_sum": Case(model(Node(SUM, (0, 0), 33, 33)), B=2, T=70),
    "one_join": Case(model(Node(JOIN, (0, 0), 3, 6)), B=2, T=70),
    "one_embedding": Case(
        model(Node(EMBEDDING, (0,), 1, 3, (5,), (), (drawn(5, 3),)), indices=True), B=2),
    "widths": Case(model(scaled(STANDARDIZE, 0, 33), scaled(RESTORE, 1, 33),
                         Node(SELECT, (2,), 33, 18, (1,)), Node(MAGNITUDE, (3,), 18, 9, (3, 3)))),
    "convolution_kernels": Case(model(convolution(0, 9, 3, 70, 4, 2, 3)), B=2, T=3),
    "convolution_one": Case(model(convolution(0, 1, 1, 1, 1)), T=3),
}  # fmt: skip


def run(command, case, x):
    """What the program model gives: (what it tells of the model, y, the states)."""
    data = write(case.model)
    head = np.array([len(data), case.B, case.T, case.threads], np.int64)
    given = head.tobytes() + data + np.ascontiguousarray(x).tobytes()
    ran = subprocess.run(command, input=given, capture_output=True)
    if ran.returncode == 2:
        pytest.skip(f"this machine lacks what {command} wants")
    assert ran.returncode == 0, ran.stderr.decode()
    status, *told, rate = struct.unpack_from("<7qd", ran.stdout)
    assert STATUSES[status] == "OK"
    itemsize, indices, takes, gives, steps, last = told
    assert (itemsize, indices) == (np.dtype(case.model.dtype).itemsize, case.model.indices)
    assert (takes, gives, rate) == (case.model.input, case.model.output, case.model.rate)
    shape = 1 if last else case.T, case.B, gives
    y = np.frombuffer(ran.stdout, case.model.dtype, np.prod(shape), 64)
    (count,) = struct.unpack_from("<q", ran.stdout, 64 + y.nbytes)
    states = np.frombuffer(ran.stdout, case.model.dtype, offset=72 + y.nbytes)
    assert states.nbytes == count
    return steps, y.reshape(shape), states


@functools.cache
def truth(name):
    """y of a case, in float64."""
    case = EXACT[name]
    return compute(_numpy_engine(), case.model, case.x(), np.float64)[0]


def bound(case):
    """How far y may be from the truth: what `support.tolerance` allows to each product."""
    sums = [n.I * n.O // len(n.arrays[0]) if n.kind == CONVOLUTION else n.I + n.O + 1
            for n in case.model.nodes]  # fmt: skip
    terms = [max(1, n) for n in sums for _ in range(1)]
    return {
        "rtol": 0,
        "atol": sum(tolerance("native", case.model.dtype, n, np.sqrt(n))["atol"] for n in terms),
    }


def _numpy_engine():
    """`_numpy`, with a Product, which it lacks."""

    class Product:
        def __init__(self, w, b):
            self.w, self.b = w, 0.0 if b is None else b

        def run(self, x, y, threads):
            y[...] = x @ self.w.T + self.b

    class Engine:
        Stack = _numpy.Stack

    Engine.Product = Product
    return Engine


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("compiler, isa, level", TARGETS)
def test_models(build, native, compiler, isa, level, name):
    """All ways to run a model give the bits of the engine, and values near the truth."""
    case = EXACT[name]
    steps, y, states = run([*build(compiler, "model", level), isa], case, case.x())
    whole = any(n.kind == LAST and any(n.whole) for n in case.model.nodes)
    whole |= any(cell.reverse for n in case.model.nodes for cell in n.cells)
    assert steps == (not whole)
    np.testing.assert_allclose(y, truth(name), **bound(case))
    if isa == "baseline" or native.describe()["instruction_set"] == "baseline":
        return
    same, ends = compute(native, case.model, case.x(), case.model.dtype)
    assert (y + 0).tobytes() == (same + 0).tobytes()  # no sign of 0
    if steps:
        ends = np.concatenate([np.zeros(0, y.dtype), *(a.ravel() for a in ends)])
        assert states[: ends.size].tobytes() == ends.tobytes()
        assert not states[ends.size :].any() and states.nbytes - ends.nbytes < 64
    else:
        assert not states.size


# ---- functions ------------------------------------------------------------------------------


ODD = [0.0, -0.0, 1e-30, -1e-30, 1e-8, 700.0, -700.0, 88.0, -88.0, 1e30, -1e30, np.inf, -np.inf]


def errors(activation, x, expected, info):
    """How far values may be from those of a function: 8 roundings of them, and those of its parts.

    A sum of alpha x and beta may be smaller than they are, and in a softmax the difference from the
    greatest x is rounded before its exponential is taken. Denormals are zeros.
    """
    parts = np.zeros_like(x)
    if activation.name in ("affine", "hard_sigmoid"):
        parts = abs(activation.alpha * x) + abs(activation.beta)
        parts[~np.isfinite(parts)] = 0
    if activation.name == "softmax":
        parts = (x.max(-1, keepdims=True) - x) * expected
    return float(info.eps) * (8 * abs(expected) + parts) + 4 * float(info.tiny)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*FUNCTIONS, "softmax"])
@pytest.mark.parametrize("compiler, isa, level", TARGETS)
def test_functions(build, compiler, isa, level, name, dtype):
    """Each function is within a few roundings of NumPy's in float64; nan stays nan.

    Rows of 5 and 33 values have whole vectors of every width and parts of them.
    """
    activation = FUNCTIONS.get(name, Activation("softmax"))
    for width in (5, 33):
        case = Case(model(act(0, width, *activation), dtype=dtype), B=2, T=8)
        x = np.random.default_rng(1).standard_normal((8, 2, width)) * 4
        x[1:4, 1, 3] = 60, -60, np.nan
        if name != "softmax":
            x.flat[: len(ODD)] = ODD
        x = x.astype(dtype)
        _, y, _ = run([*build(compiler, "model", level), isa], case, x)
        wide = x.astype(float)
        with np.errstate(all="ignore"):
            expected = softmax(wide) if name == "softmax" else function(*activation, wide)
            near = abs(y - expected) <= errors(activation, wide, expected, np.finfo(dtype))
            infinite = (y == np.sign(expected) * np.inf) & (abs(expected) > np.finfo(dtype).max)
        assert (near | (y == expected) | infinite | (np.isnan(y) & np.isnan(expected))).all(), name
        assert np.isnan(y).any()


def test_softmax_of_infinities(build):
    """As in torch: -inf counts nothing; with inf, or nothing but -inf, all are nan."""
    x = np.float32([[1, -np.inf, 1, -np.inf, -np.inf], [0, 1, np.inf, 2, 3], [-np.inf] * 5])
    case = Case(model(act(0, 5, "softmax")), T=3)
    _, y, _ = run([*build("gcc", "model", "-O0"), "baseline"], case, x[:, None])
    np.testing.assert_array_equal(y[0, 0], [0.5, 0, 0.5, 0, 0])
    assert np.isnan(y[1:]).all()


# ---- what is refused ------------------------------------------------------------------------


def statuses(command, files):
    """The names of the statuses with which files are loaded."""
    given = b"".join(struct.pack("<q", len(data)) + data for data in files)
    ran = subprocess.run([*command, "check"], input=given, capture_output=True)
    if ran.returncode == 2:
        pytest.skip(f"this machine lacks what {command} wants")
    assert ran.returncode == 0, ran.stderr.decode()
    return [STATUSES[n] for n in np.frombuffer(ran.stdout, np.int64)]


def put(data, at, layout, *values):
    """The file with other numbers at a place, and the right checksum."""
    data = bytearray(data)
    struct.pack_into(layout, data, at, *values)
    return with_checksum(data)


RIGHT = write(amplifier(8))


def damaged():
    """Files with one fault each, by its name: (the file, its status)."""
    assert statuses_of_bytes()
    files = dict(statuses_of_bytes())
    files |= {name: (data, "FILE_DAMAGED") for name, data in head_faults().items()}
    files |= {name: (write(m), "FILE_DAMAGED") for name, m in node_faults().items()}
    files |= {name: (data, "FILE_DAMAGED") for name, data in record_faults().items()}
    return files


def statuses_of_bytes():
    """Faults of the bytes as a whole."""
    flipped = bytearray(RIGHT)
    flipped[-70] ^= 1
    return {
        "right": (RIGHT, "OK"),
        "empty": (b"", "FILE_TRUNCATED"),
        "magic": (b"\x89PNG" + RIGHT[4:], "FILE_MAGIC"),
        "magic of few bytes": (b"abc", "FILE_MAGIC"),
        "magic as text": (RIGHT.replace(b"\r\n", b"\n", 1), "FILE_MAGIC"),
        "seven bytes": (RIGHT[:7], "FILE_TRUNCATED"),
        "a part of the head": (RIGHT[:127], "FILE_TRUNCATED"),
        "a part": (RIGHT[:-64], "FILE_TRUNCATED"),
        "more": (RIGHT + bytes(64), "FILE_TRUNCATED"),
        "size": (put(RIGHT, 16, "<q", -1), "FILE_TRUNCATED"),
        "order": (put(RIGHT, 8, ">I", 0x01020304), "FILE_ENDIAN"),
        "no order": (put(RIGHT, 8, "<I", 0x01020305), "FILE_DAMAGED"),
        "version 0": (put(RIGHT, 12, "<I", 0), "FILE_VERSION"),
        "version 2": (put(RIGHT, 12, "<I", 2), "FILE_VERSION"),
        "a bit": (bytes(flipped), "FILE_CHECKSUM"),
        "checksum": (RIGHT[:24] + b"\0\0\0\0" + RIGHT[28:], "FILE_CHECKSUM"),
    }


def head_faults():
    """Faults of the head."""
    (text_at,) = struct.unpack_from("<q", RIGHT, 72)
    return {
        f"head at {at}: {values}": put(RIGHT, at, layout, *values)
        for at, layout, *values in [
            (28, "<I", 2), (28, "<I", 8), (28, "<I", 0), (32, "<I", 0), (32, "<I", 2),
            (32, "<I", 4), (32, "<I", 4097), (32, "<I", 2**32 - 1), (36, "<I", 0), (36, "<I", 17),
            (36, "<I", 15), (36, "<I", 65537), (36, "<I", 2**32 - 1), (40, "<q", 0), (40, "<q", 2),
            (40, "<q", -1), (40, "<q", 2**62), (48, "<q", 2), (48, "<q", 0), (56, "<I", 1),
            (56, "<I", 2), (60, "<I", 1), (64, "<d", -1), (64, "<d", np.nan), (64, "<d", np.inf),
            (72, "<q", text_at + 64), (72, "<q", text_at - 64), (72, "<q", 0), (80, "<q", 1),
            (80, "<q", 64), (80, "<q", -1), (80, "<q", 2**63 - 1), (88, "<B", 1), (127, "<B", 1),
        ]
    }  # fmt: skip


def record_faults():
    """Faults of records and of places: file 0 begins with a node at 128."""
    nodes = 3 * 208
    arrays = 128 + nodes + -nodes % 64
    padding = RIGHT.index(b"\0", 128 + nodes)
    faults = {
        f"node at {at}: {values}": put(RIGHT, 128 + at, layout, *values)
        for at, layout, *values in [
            (0, "<I", 0), (0, "<I", 13), (0, "<I", 2**32 - 1), (4, "<I", 1), (4, "<I", 2**32 - 1),
            (8, "<I", 1), (12, "<I", 1), (12, "<I", 2**32 - 1), (16, "<I", 13), (16, "<I", 15),
            (16, "<I", 2**32 - 2), (20, "<I", 1), (24, "<q", 2), (24, "<q", 2**31),
            (24, "<q", -1), (32, "<q", 9), (32, "<q", 16), (32, "<q", 0), (32, "<q", 2**62),
            (104, "<q", 1), (200, "<d", 1), (200, "<d", -0.0), (112, "<d", 1),
            (208 + 4, "<I", 2), (208 + 4, "<I", 0), (208 + 40, "<q", 1), (416 + 8, "<I", 3),
            (416 + 16, "<I", 1),
        ]
    }  # fmt: skip
    first, size = struct.unpack_from("<2q", RIGHT, arrays)
    faults |= {
        f"array: {values}": put(RIGHT, arrays, "<2q", *values)
        for values in [
            (first + 64, size), (first - 64, size), (0, size), (first, 0), (first, size - 4),
            (first, size + 64), (first, -size), (2**62, size), (0, 0), (first, 2**63 - 1),
        ]
    }  # fmt: skip
    faults["array that may not be there"] = put(RIGHT, arrays + 16 * 4, "<2q", first, 32)
    faults["behind the nodes"] = put(RIGHT, padding, "<B", 1)
    faults["behind an array"] = put(write(amplifier(5)), -1, "<B", 1)
    faults["behind all"] = put(RIGHT + bytes(64), 16, "<q", len(RIGHT) + 64)
    with_text = write(amplifier(8)._replace(text=b"abc"))
    faults["behind the text"] = put(with_text, with_text.index(b"abc") + 3, "<B", 1)
    return faults


def changed(node, **whole):
    """A node with other whole numbers: of an LSTM by name, else by place."""
    names = "layers directions H reverse general coupled layer_norm functions last".split()
    values = [*node.whole, *[0] * (9 - len(node.whole))]
    for name, value in whole.items():
        values[names.index(name) if name in names else int(name[1:])] = value
    return node._replace(whole=tuple(values))


def with_array(node, n, array):
    """A node with another array."""
    arrays = list(node.arrays)
    arrays[n] = array
    return node._replace(arrays=tuple(arrays))


def number(node, n, value):
    """A node with another number."""
    numbers = [*node.numbers, *[0.0] * (12 - len(node.numbers))]
    numbers[n] = value
    return node._replace(numbers=tuple(numbers))


def node_faults():
    """Models that cannot be, written as if they could."""
    plain, stack = lstm(0, cells(2, 6)), lstm(0, cells(2, 6, layers=2, directions=2), 2)
    clips = Options(gate_clip=1.0)
    general = lstm(0, cells(2, 6, options=clips))
    haste = lstm(0, cells(2, 6, options=Options(layer_norm="haste")))
    tflite = lstm(0, cells(2, 6, options=Options(layer_norm="tflite")))
    projected = lstm(0, cells(2, 6, 5))
    conv = convolution(0, 9, 2, 3, 4, 2, 1)
    embedding = Node(EMBEDDING, (0,), 1, 3, (5,), (), (drawn(5, 3),))
    last, one = Node(LAST, (0,), 2, 2), linear(0, 2, 2)
    lstms = {
        "layers 0": changed(plain, layers=0),
        "layers 2": changed(plain, layers=2),
        "layers 2**40": changed(plain, layers=2**40),
        "directions 0": changed(plain, directions=0),
        "directions 2": changed(plain, directions=2),
        "directions 3": changed(stack, directions=3),
        "H": changed(plain, H=7),
        "H 0": changed(plain, H=0),
        "H -6": changed(plain, H=-6),
        "H 2**62": changed(plain, H=2**62),
        "reverse 2": changed(plain, reverse=2),
        "reverse of both": changed(stack, reverse=1),
        "general 2": changed(general, general=2),
        "general 0": changed(general, general=0),
        "general 1": changed(plain, general=1),
        "coupled of a plain one": changed(plain, coupled=1),
        "coupled 3": changed(general, coupled=3),
        "norm 3": changed(general, layer_norm=3),
        "norm without gains": changed(general, layer_norm=1),
        "other norm": changed(haste, layer_norm=1),
        "no norm": changed(tflite, layer_norm=0),
        "functions": changed(general, functions=11),
        "functions of the output": changed(general, functions=11 << 16),
        "functions 2**24": changed(general, functions=1 << 24),
        "functions -1": changed(general, functions=-1),
        "the last whole number": changed(plain, last=1),
        "gate_clip 0": number(general, 0, 0.0),
        "cell_clip nan": number(general, 1, np.nan),
        "proj_clip -1": number(general, 2, -1.0),
        "proj_clip without a projection": number(general, 2, 1.0),
        "alpha of sigmoid": number(general, 3, 1.0),
        "alpha inf": number(changed(general, functions=3), 3, np.inf),
        "zoneout_h": number(general, 9, 1.5),
        "zoneout_c": number(general, 10, np.nan),
        "a twelfth number": number(general, 11, 1.0),
        "no w_ih": with_array(plain, 0, None),
        "no w_hh": with_array(plain, 1, None),
        "w_hr of a plain one": with_array(plain, 3, drawn(6, 6)),
        "no w_hr": with_array(projected, 3, None),
        "P above H": lstm(0, cells(2, 6, 7)),
        "peephole of a plain one": with_array(plain, 4, drawn(6)),
        "gains of a plain one": with_array(plain, 7, drawn(24)),
        "no gains": with_array(tflite, 7, None),
        "no b_c": with_array(haste, 11, None),
        "h_0": with_array(plain, 12, drawn(7)),
        "b": with_array(plain, 2, drawn(23)),
        "arrays": plain._replace(arrays=plain.arrays[:-1]),
        "more arrays": plain._replace(arrays=(*plain.arrays, None)),
    }
    others = {
        "embedding of values": [embedding],
        "rows": [changed(embedding, _0=6)],
        "linear": [with_array(one, 0, drawn(3, 2))],
        "linear without W": [with_array(one, 0, None)],
        "a whole number of a linear": [changed(one, _0=1)],
        "function 11": [changed(act(0, 2), _0=11)],
        "function 257": [changed(act(0, 2), _0=257)],
        "function -1": [changed(act(0, 2), _0=-1)],
        "alpha of relu": [number(act(0, 2), 0, 1.0)],
        "alpha of softmax": [number(act(0, 2, "softmax"), 0, 1.0)],
        "beta of elu": [number(act(0, 2, "elu", 1.0), 1, 1.0)],
        "nan of elu": [act(0, 2, "elu", np.nan)],
        "widths of an activation": [act(0, 2)._replace(O=3)],
        "widths of a sum": [linear(0, 2, 3), Node(SUM, (0, 1), 2, 2)],
        "width of a sum": [Node(SUM, (0, 0), 2, 4)],
        "width of a join": [Node(JOIN, (0, 0), 2, 2)],
        "steps of a sum": [last, Node(SUM, (0, 1), 2, 2)],
        "steps of a join": [last, Node(JOIN, (1, 0), 2, 4)],
        "mean": [with_array(scaled(STANDARDIZE, 0, 2), 0, None)],
        "scale": [with_array(scaled(RESTORE, 0, 2), 1, drawn(3))],
        "last of 3": [changed(last, _0=3)],
        "last of -1": [changed(last, _0=-1)],
        "last of one step": [last, last._replace(takes=(1,))],
        "lstm of one step": [last, plain._replace(takes=(1,))],
        "select behind the end": [Node(SELECT, (0,), 5, 3, (3,))],
        "select of 2**62": [Node(SELECT, (0,), 5, 3, (2**62,))],
        "select of -1": [Node(SELECT, (0,), 5, 3, (-1,))],
        "select of more": [Node(SELECT, (0,), 5, 6)],
        **{
            f"convolution {place} {value}": [changed(conv, **{f"_{place}": value})]
            for place, value in [
                (0, 8), (0, 0), (0, 2**31), (1, 1), (2, 5), (2, 3), (3, 2), (4, 3), (4, 2**31 - 1),
                (5, 1), (5, 0), (5, -1), (6, 0), (6, 4), (6, -1), (6, 2**62), (7, 1),
            ]
        },
        "magnitude": [Node(MAGNITUDE, (0,), 12, 6, (2, 2))],
        "magnitude of half": [Node(MAGNITUDE, (0,), 12, 12, (3, 4))],
        "magnitude 0": [Node(MAGNITUDE, (0,), 12, 6, (0, 6))],
        "magnitude 2**62": [Node(MAGNITUDE, (0,), 12, 6, (2**62, 6))],
        "a value of its own": [act(1, 2)],
        "a later value": [act(0, 2), act(9, 2)],
        "a value of another width": [linear(0, 2, 3), act(1, 2)],
        "a second value": [act(0, 2)._replace(takes=(0, 1)), act(1, 2)],
    }  # fmt: skip
    models = {name: model(node) for name, node in lstms.items()}
    models |= {name: Model(tuple(nodes), nodes[0].I) for name, nodes in others.items()}
    indices = {
        "linear of indices": [linear(0, 1, 2)],
        "sum with indices": [embedding._replace(O=1, arrays=(drawn(5, 1),)), Node(SUM, (1, 0), 1, 1)],
        "embedding of an embedding": [embedding._replace(O=1, arrays=(drawn(5, 1),)),
                                      embedding._replace(takes=(1,))],
    }  # fmt: skip
    models |= {name: Model(tuple(nodes), 1, indices=True) for name, nodes in indices.items()}
    wide = linear(0, 2, 2)
    models["two indices of a step"] = Model((wide,), 2, indices=True)
    return models


def test_damaged_files(build):
    """Each fault has its status, and none is loaded."""
    files = damaged()
    got = statuses([*build("gcc", "model", "-O0"), "baseline"], [data for data, _ in files.values()])
    expected = [status for _, status in files.values()]
    wrong = [
        (name, *pair)
        for name, *pair in zip(files, got, expected, strict=True)
        if pair[0] != pair[1]
    ]
    assert not wrong


def test_right_files_are_not_refused(build):
    """The faults of `damaged` are those of models that are right otherwise."""
    files = [write(case.model) for case in EXACT.values()]
    assert {*statuses([*build("gcc", "model", "-O0"), "baseline"], files)} == {"OK"}


@pytest.mark.parametrize("name", ["amplifier", "speech", "text", "haste"])
def test_every_bit_is_checked(build, name):
    """One bit that is not what it was is found, wherever it is."""
    data, rng = write(EXACT[name].model), np.random.default_rng(5)
    files = []
    for at in [*range(256), *rng.integers(256, len(data), 500)]:
        other = bytearray(data)
        other[at] ^= 1 << rng.integers(8)
        files.append(bytes(other))
    assert "OK" not in statuses([*build("gcc", "model", "-O0"), "baseline"], files)


# ---- fuzzing --------------------------------------------------------------------------------


SMALL = ["amplifier", "speech", "branches", "text", "two_directions_last", "haste", "tflite", "zoneout"]


def corpus(folder):
    """A folder of small models, from which fuzzing begins."""
    folder.mkdir()
    for name in SMALL:
        (folder / f"{name}.fl").write_bytes(write(EXACT[name].model))
    return folder


def test_mutated_files(build, tmp_path):
    """Files with faults behind a right checksum are refused or run, and nothing else happens."""
    command = [*build("gcc", "fuzz_model", "-O0"), "3000", *corpus(tmp_path / "corpus").iterdir()]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    loaded, refused = map(int, ran.stdout.split())
    assert loaded > 30 and refused > 300


@pytest.mark.slow
def test_fuzzing(tmp_path):
    """libFuzzer finds nothing in a minute, with the address and undefined-behaviour sanitizers."""
    find("clang")
    program = tmp_path / "fuzz"
    flags = [*FLAGS, "-O1", "-g", "-DWITH_LIBFUZZER", "-fsanitize=fuzzer,address,undefined"]
    flags += ["-fno-sanitize-recover=all", f"-I{NATIVE}"]
    sources = [PROGRAMS / "fuzz_model.c", *sorted(NATIVE.glob("*.c"))]
    built = subprocess.run(
        ["clang", *flags, *sources, "-lm", "-o", program], capture_output=True, text=True
    )
    if "libclang_rt.fuzzer" in built.stderr:
        pytest.skip("clang has no libFuzzer here")
    assert built.returncode == 0, built.stderr
    command = [program, "-max_total_time=60", "-max_len=20000", "-rss_limit_mb=1000"]
    ran = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/", corpus(tmp_path / "corpus")],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-5000:]
