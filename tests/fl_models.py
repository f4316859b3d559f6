"""Models for C, of every kind of node, by their names: what `fl_files` can write and compute."""

from typing import NamedTuple

import numpy as np
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
    lstm,
)
from support import Work, draw

from fastlstm.engines.contract import ACTIVATIONS, Activation, Options


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


def speech(H=20):
    """A Fourier transform as a convolution, magnitudes, convolutions, an LSTM and a head."""
    return model(
        convolution(0, 40, 1, 10, 8, 4, 2, bias=False),  # (10, 10)
        Node(MAGNITUDE, (1,), 100, 50, (10, 5)),
        convolution(2, 10, 5, 6, 3, 2, 1),  # (5, 6)
        act(3, 30),
        convolution(4, 5, 6, 4, 3),  # (3, 4)
        act(5, 12),
        lstm(6, cells(12, H, layers=2)),
        act(7, H),
        linear(8, H, 1),
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
        act(5, 5),  # 6
        Node(JOIN, (6, 3), 5, 12),  # 7
        linear(0, 5, 40),  # 8, which nothing takes
        scaled(RESTORE, 7, 12),  # 9
        lstm(9, cells(12, 9)),  # 10
        Node(JOIN, (10, 2), 9, 27),  # 11
        Node(JOIN, (11, 5), 27, 32),  # 12
        Node(SUM, (12, 12), 32, 32),  # 13
        act(13, 32),  # 14
        Node(SELECT, (14,), 32, 31, (1,)),  # 15
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


def with_options(dtype="float32", P=None, H=19, **options):
    """An LSTM with options and learned states."""
    stack = cells(6, H, P, layers=2, dtype=dtype, peephole=True, options=Options(**options))
    return model(lstm(0, stack, **learned(stack, P or H, H)), dtype=dtype)


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
    "hoisted_many": Case(model(lstm(0, cells(40, 100, layers=2))), B=3, T=70),
    "threads": Case(model(lstm(0, cells(64, 256)), linear(1, 256, 130)), B=4, T=12, threads=3),
    # So many threads that the session has no memory for all of them.
    "threads_all": Case(model(lstm(0, cells(134, 65))), B=64, T=16, threads=2**31 - 1),
    "threads_rows": Case(model(lstm(0, cells(32, 64, layers=2))), B=24, T=45),
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
    "wide_projection": Case(model(lstm(0, cells(7, 10, 19, layers=2))), B=2),
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

# Small ones, from which a fuzzer begins.
SEEDS = {
    "amplifier": amplifier(3),
    "speech": speech(3),
    "branches": branches(),
    "text": text(),
    "two_directions": both_directions(True),
    "reverse": reverse(True),
    "haste": with_options(H=3, layer_norm="haste", coupled="i=1-f", cell_clip=1.5),
    "tflite": with_options("float64", H=3, layer_norm="tflite", gate_clip=2.0),
    "zoneout": with_options(H=4, P=2, zoneout_h=0.3, cell=Activation("softsign")),
    "softmax": model(act(0, 5, "softmax"), act(1, 5, "elu", 0.5), act(2, 5, "softplus")),
    "convolution": EXACT["convolution_kernels"].model,
    "widths": EXACT["widths"].model,
}
