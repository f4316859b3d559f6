"""TFLite's operators of LSTMs: hand-worked numbers, and what LiteRT gives of the same file."""

from __future__ import annotations

import io
import itertools
import math
from typing import Any

import numpy as np
import pytest
from values import normal

import fastlstm
from fastlstm import GraphModel, Sequential

pytest.importorskip("flatbuffers", reason="builds TFLite files, and flatbuffers is not installed")
from tflite_files import Graph  # noqa: E402

I, H, T, B = 3, 5, 6, 2  # noqa: E741
# The greatest error of one number, against 1: outputs of an LSTM are below 1, and each is some
# roundings of float32, 6e-8, away from another engine's.
ROUNDINGS = 2e-6


class Weights:
    """Draws weights, which are the same for the same order of calls."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __call__(self, *shape: int) -> Any:
        return (0.7 * self.rng.normal(size=shape)).astype(np.float32)


def one_direction(
    graph: Graph, draw: Any, inputs: int, outputs: int, *, peephole: bool, cifg: bool, proj: bool
) -> list[int]:
    """Return the constants of a direction, up to the bias of the projection."""

    def four(*shape: int) -> list[int]:
        return [-1 if cifg and n == 0 else graph.constant(draw(*shape)) for n in range(4)]

    own = four(H, inputs) + four(H, outputs)
    own += [-1 if not peephole or cifg and n == 0 else graph.constant(draw(H)) for n in range(3)]
    own += four(H)
    return [*own, graph.constant(draw(outputs, H)) if proj else -1, -1]


def unidirectional(
    *,
    peephole: bool = False,
    cifg: bool = False,
    proj: int = 0,
    norm: bool = False,
    time_major: bool = False,
    **options: Any,
) -> bytes:
    """Return a file of one UNIDIRECTIONAL_SEQUENCE_LSTM."""
    graph, draw, p = Graph(), Weights(), proj or H
    front = (T, B) if time_major else (B, T)
    x, y = graph.tensor("x", (*front, I)), graph.tensor("y", (*front, p))
    own = one_direction(graph, draw, I, p, peephole=peephole, cifg=cifg, proj=bool(proj))
    own += [graph.state(B, p), graph.state(B, H)]
    if norm:
        own += [-1 if cifg and n == 0 else graph.constant(draw(H)) for n in range(4)]
    options = {"activation": "tanh", "time_major": time_major, **options}
    graph.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", [x, *own], [y], **options)
    return graph.file([x], [y])


def bidirectional(
    *,
    peephole: bool = False,
    cifg: bool = False,
    proj: int = 0,
    time_major: bool = False,
    merge: bool = True,
    auxiliary: int = 0,
    weighted: bool = False,
) -> tuple[bytes, list[Any]]:
    """Return a file of one BIDIRECTIONAL_SEQUENCE_LSTM, and values of its inputs.

    With the batch first there is one sequence: of further ones LiteRT 2.3 gives what lies in its
    memory, as tensorflow#51561 says too.
    """
    graph, draw, p = Graph(), Weights(), proj or H
    rows = B if time_major else 1
    front = (T, B) if time_major else (1, T)
    inputs = [graph.tensor("x", (*front, I))]
    own = []
    for _ in range(2):
        own += one_direction(graph, draw, I, p, peephole=peephole, cifg=cifg, proj=bool(proj))
    own += [graph.state(rows, size) for size in (p, H, p, H)]
    if auxiliary:
        inputs.append(graph.tensor("aux", (*front, auxiliary)))
        own.append(inputs[1])
        own += [graph.constant(draw(H, auxiliary)) if weighted else -1 for _ in range(8)]
    else:
        own += [-1] * 9
    outputs = [graph.tensor(n, (*front, p * (1 + merge))) for n in ("y", "z")[: 2 - merge]]
    graph.operator(
        "BIDIRECTIONAL_SEQUENCE_LSTM", [inputs[0], *own], outputs,
        activation="tanh", merge_outputs=merge, time_major=time_major,
    )  # fmt: skip
    sizes = [I, auxiliary][: len(inputs)]
    return graph.file(inputs, outputs), [normal(*front, n, seed=n) for n in sizes]


def theirs(data: bytes, *values: Any, calls: int = 1) -> list[list[Any]]:
    """Return LiteRT's outputs of calls in a row, which go on from each other."""
    litert = pytest.importorskip(
        "ai_edge_litert.interpreter", reason="compares with LiteRT, which is not installed"
    )
    interpreter = litert.Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    found = []
    for _ in range(calls):
        for place, value in zip(interpreter.get_input_details(), values, strict=True):
            interpreter.set_tensor(place["index"], value)
        interpreter.invoke()
        details = interpreter.get_output_details()
        found.append([interpreter.get_tensor(one["index"]).copy() for one in details])
    return found


def read(data: bytes, **options: Any) -> Any:
    return fastlstm.load(io.BytesIO(data), **options)


def close(got: Any, expected: Any) -> None:
    assert got.shape == expected.shape and got.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=ROUNDINGS)


# ---- one direction ------------------------------------------------------------------------------

FORMS: list[dict[str, Any]] = [
    *(
        {"peephole": peephole, "cifg": cifg, "proj": proj, "norm": norm}
        for peephole, cifg, proj, norm in itertools.product(
            (False, True), (False, True), (0, 3), (False, True)
        )
    ),
    {"time_major": True},
    {"time_major": True, "peephole": True, "proj": 2},
    {"cell_clip": 0.3},
    {"proj": 3, "cell_clip": 0.5, "proj_clip": 0.2},
    {"proj_clip": 0.2},  # which bounds nothing without a projection
    {"activation": "relu", "cell_clip": 3.0},
    {"cifg": True, "activation": "relu", "cell_clip": 2.0},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_an_lstm_gives_what_litert_gives_in_calls_that_go_on(form):
    data = unidirectional(**form)
    x = normal(T, B, I) if form.get("time_major") else normal(B, T, I)
    model = read(data)
    assert isinstance(model, Sequential)
    first, second = (outputs[0] for outputs in theirs(data, x, calls=2))
    close(model(x), first)
    close(model(x), first)  # a call begins anew
    stream = model.stream(batch_size=B)
    axis = 0 if form.get("time_major") else 1
    steps = [stream.step(x.take(t, axis)) for t in (*range(T), *range(T))]
    assert np.array_equal(np.stack(steps[:T], axis), model(x))
    close(np.stack(steps[T:], axis), second)


def test_options_are_told():
    lstm = read(
        unidirectional(peephole=True, cifg=True, norm=True, proj=2, cell_clip=0.1, proj_clip=0.2)
    )[0]
    assert repr(lstm) == (
        "LSTM(3, 5, proj_size=2, batch_first=True, peephole=True, coupled='i=1-f', cell_clip=0.1, "
        "proj_clip=0.2, layer_norm='tflite')"
    )


# ---- by hand ------------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_hand(cifg: bool = False, norm: bool = False, **options: Any) -> tuple[bytes, dict[str, Any]]:
    """Return a file of an LSTM of two units that have the same weights, and these."""
    names = {
        "w": dict(zip("ifgo", (0.5, -0.25, 1.0, 0.75), strict=True)),
        "r": dict(zip("ifgo", (0.125, 0.5, -0.5, 0.25), strict=True)),
        "b": dict(zip("ifgo", (0.1, 0.2, -0.3, 0.4), strict=True)),
        "p": dict(zip("ifo", (0.5, -1.0, 2.0), strict=True)),
    }
    graph = Graph()
    x, y = graph.tensor("x", (1, 2, 1)), graph.tensor("y", (1, 2, 1))

    def held(array: Any, gate: str) -> int:
        return -1 if cifg and gate == "i" else graph.constant(np.asarray(array, np.float32))

    own = [held([[names["w"][gate]], [names["w"][gate]]], gate) for gate in "ifgo"]
    own += [held([[names["r"][gate]], [names["r"][gate]]], gate) for gate in "ifgo"]
    own += [held([names["p"][gate]] * 2, gate) for gate in "ifo"]
    own += [held([names["b"][gate]] * 2, gate) for gate in "ifgo"]
    own += [graph.constant(np.float32([[0.5, 0.25]])), -1, graph.state(1, 1), graph.state(1, 2)]
    if norm:
        own += [held([1.5, 1.5], gate) for gate in "ifgo"]
    graph.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", [x, *own], [y], activation="tanh", **options)
    return graph.file([x], [y]), names


@pytest.mark.parametrize("cifg", [False, True])
def test_peepholes_projection_and_clips_by_hand(cifg):
    data, k = by_hand(cifg, cell_clip=0.5, proj_clip=0.2)
    h = c = 0.0
    expected = []
    for x in (1.0, 3.0):
        f = sigmoid(k["w"]["f"] * x + k["r"]["f"] * h + k["b"]["f"] + k["p"]["f"] * c)
        i = sigmoid(k["w"]["i"] * x + k["r"]["i"] * h + k["b"]["i"] + k["p"]["i"] * c)
        g = math.tanh(k["w"]["g"] * x + k["r"]["g"] * h + k["b"]["g"])
        c = min(f * c + (1 - f if cifg else i) * g, 0.5)
        o = sigmoid(k["w"]["o"] * x + k["r"]["o"] * h + k["b"]["o"] + k["p"]["o"] * c)
        h = min((0.5 + 0.25) * o * math.tanh(c), 0.2)
        expected.append(h)
    assert expected[0] > 0.1 and c == 0.5 and h == 0.2  # both bounds are met in the second step
    close(read(data)(np.float32([[[1], [3]]])), np.float32(expected).reshape(1, 2, 1))


def test_layer_normalisation_by_hand():
    """Units that are alike have no variance: what is left of each gate is its bias."""
    data, k = by_hand(norm=True)
    h = c = 0.0
    expected = []
    for _ in range(2):
        i, f, o = (sigmoid(k["b"][gate]) for gate in "ifo")
        c = f * c + i * math.tanh(k["b"]["g"])
        h = (0.5 + 0.25) * o * math.tanh(c)
        expected.append(h)
    close(read(data)(np.float32([[[1], [3]]])), np.float32(expected).reshape(1, 2, 1))


# ---- both directions, and single steps ----------------------------------------------------------


@pytest.mark.parametrize(
    "form, kind",
    [
        ({}, Sequential),
        ({"time_major": True}, Sequential),
        ({"peephole": True, "proj": 2}, Sequential),
        ({"cifg": True, "time_major": True}, Sequential),
        ({"merge": False}, GraphModel),
        ({"merge": False, "proj": 3}, GraphModel),
        ({"auxiliary": I}, GraphModel),
        ({"auxiliary": I, "merge": False, "cifg": True}, GraphModel),
        ({"auxiliary": 2, "weighted": True}, GraphModel),
        ({"auxiliary": 4, "weighted": True, "time_major": True}, GraphModel),
    ],
    ids=str,
)
def test_both_directions_give_what_litert_gives(form, kind):
    data, values = bidirectional(**form)
    model = read(data)
    assert type(model) is kind
    got = model(*values)
    got = [*got] if isinstance(got, tuple) else [got]
    expected = theirs(data, *values)[0]
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        close(one, other)


@pytest.mark.parametrize("cifg", [False, True])
def test_single_steps_go_on_as_litert_s(cifg):
    graph, draw = Graph(), Weights()
    x, y = graph.tensor("x", (B, I)), graph.tensor("y", (B, H))
    own = one_direction(graph, draw, I, H, peephole=True, cifg=cifg, proj=False)
    states = [graph.state(B, H), graph.state(B, H)]
    graph.operator("LSTM", [x, *own, *states], [y], activation="tanh")
    data, value = graph.file([x], [y]), normal(B, I)
    model = read(data)
    stream = model.stream()
    for expected in theirs(data, value, calls=3):
        close(stream.run(value), expected[0])
    stream.reset()
    assert np.array_equal(stream.run(value), model(value))


def test_an_input_with_the_name_of_a_state_is_told_from_it():
    def read_with(name: str) -> Any:
        graph, draw = Graph(), Weights()
        x, y = graph.tensor(name, (B, I)), graph.tensor("y", (B, H))
        own = one_direction(graph, draw, I, H, peephole=False, cifg=False, proj=False)
        graph.operator(
            "LSTM", [x, *own, graph.state(B, H), graph.state(B, H)], [y], activation="tanh"
        )
        return read(graph.file([x], [y]))

    x = normal(B, I)
    plain = read_with("x")
    for name in ("lstm/h", "lstm/c", "lstm/h_n", "1", "2"):
        model = read_with(name)
        assert [port.name for port in model.inputs][0] == name
        assert np.array_equal(model(x), plain(x))


def test_the_basic_form_takes_and_gives_its_states():
    graph, draw = Graph(), Weights()
    x, h, c = (graph.tensor(name, (B, n)) for name, n in (("x", I), ("h", H), ("c", H)))
    shapes = {"h_n": (B, H), "c_n": (B, H), "scratch": (B, I + H), "more": (B, 4 * H)}
    outputs = [graph.tensor(name, shape) for name, shape in shapes.items()]
    weights = [graph.constant(draw(4 * H, I + H)), graph.constant(draw(4 * H))]
    graph.operator("LSTM", [x, h, *weights, c], outputs, activation="tanh", kernel_type=1)
    data = graph.file([x, h, c], outputs[:2])
    values = [normal(B, n, seed=n + place) for place, n in enumerate((I, H, H))]
    model = read(data)
    assert [state.input.name for state in model.states] == ["h", "c"]
    expected = theirs(data, *values)[0]
    got = model.run(["h_n", "c_n"], dict(zip("xhc", values, strict=True)))
    for one, other in zip(got, expected, strict=True):
        close(one, other)


# ---- open sizes, signatures, several graphs -----------------------------------------------------


def test_open_sizes_are_those_of_the_call():
    graph, draw = Graph(), Weights()
    x = graph.tensor("x", (1, T, I), signature=[-1, T, I])
    y, z = graph.tensor("y", (1, T, H)), graph.tensor("z", (1, T, H))
    own = one_direction(graph, draw, I, H, peephole=False, cifg=False, proj=False)
    states = [graph.state(1, H), graph.state(1, H)]
    graph.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", [x, *own, *states], [y], activation="tanh")
    graph.operator("EXP", [y], [z])
    model = read(graph.file([x], [z], ({x: "steps"}, {z: "result"})))
    assert isinstance(model, GraphModel)
    assert [port.name for port in model.inputs] == ["steps", "lstm/h", "lstm/c"]
    assert [port.name for port in model.outputs] == ["result", "lstm/h_n", "lstm/c_n"]
    assert [port.shape for port in model.inputs] == [(None, T, I), (None, H), (None, H)]
    x = normal(4, T, I)
    rows = [model(x[n : n + 1]) for n in range(4)]
    close(model(x), np.concatenate(rows))
    stream = model.stream(batch_size=4)
    twice = [stream.run(x), stream.run(x)]
    assert np.array_equal(twice[0], model(steps=x)) and not np.array_equal(*twice)
    stream.reset([True, False, False, False])
    assert np.array_equal(stream.run(x)[0], twice[0][0])


# ---- what is refused ----------------------------------------------------------------------------


def changed(change: Any, **form: Any) -> bytes:
    """Return the file of an LSTM, whose graph `change` may alter before it is written."""
    graph, draw = Graph(), Weights()
    x, y = graph.tensor("x", (B, T, I)), graph.tensor("y", (B, T, H))
    own = one_direction(graph, draw, I, H, peephole=True, cifg=False, proj=False)
    inputs = [x, *own, graph.state(B, H), graph.state(B, H)]
    options = {"activation": "tanh", **form}
    change(graph, inputs)
    graph.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [y], **options)
    return graph.file([x], [y])


def nothing(graph: Graph, inputs: list[int]) -> None:
    """Change nothing."""


def put(place: int, value: Any, **fields: Any) -> Any:
    """Return a change: another constant at a place; None is none."""

    def change(graph: Graph, inputs: list[int]) -> None:
        inputs[place] = -1 if value is None else graph.constant(value, "new", **fields)

    return change


def set_field(place: int, **fields: Any) -> Any:
    """Return a change of the tensor at a place."""
    return lambda graph, inputs: graph.tensors[inputs[place]].update(fields)


def shared(graph: Graph, inputs: list[int]) -> None:
    inputs[19] = inputs[18]


def computed(graph: Graph, inputs: list[int]) -> None:
    weight = graph.tensor("W", (H, I))
    graph.operator("RESHAPE", [inputs[0]], [weight], new_shape=[-1, I])
    inputs[2] = weight


INT8 = np.ones((H, I), np.int8)
REFUSED = {
    "relu6": (nothing, {"activation": "relu6"}, "its activation relu6 is none that an LSTM has"),
    "no activation": (nothing, {"activation": "none"}, "LiteRT then gives o * g"),
    "an activation of no name": (nothing, {"activation": 9}, "its activation 9 is none"),
    "diagonal": (nothing, {"diagonal": True}, "recurrent weights are diagonal matrices"),
    "a clip below 0": (nothing, {"cell_clip": -1.0}, "cell_clip must be 0 or a number above it"),
    "a clip that is no number": (nothing, {"cell_clip": math.nan}, "cell_clip must be 0"),
    "hybrid": (
        put(2, INT8, scale=[0.5]), {}, "quantised numbers, int8 in 'new'; models of floats are read"
    ),
    "integers": (put(2, INT8), {}, "input 2, 'new', must be float32 with 2 axes, got int8"),
    "half": (put(2, INT8.astype(np.float16)), {}, "must be float32 with 2 axes, got float16"),
    "computed": (computed, {}, "its input 2, 'W', must be a constant, and is computed"),
    "sparse": (set_field(2, is_sparse=True), {}, "is stored sparse, which is not read"),
    "another shape": (put(2, np.ones((H, I + 1), np.float32)), {}, "have the shapes"),
    "another bias": (put(13, np.ones(H + 1, np.float32)), {}, "input 13 must have shape (5,)"),
    "another peephole": (put(10, np.ones(2, np.float32)), {}, "input 10 must have shape (5,)"),
    "a gate is missing": (put(3, None), {}, "its input 3 is missing"),
    "a peephole is missing": (put(11, None), {}, "its input 11 is missing"),
    "half a CIFG": (put(1, None), {}, "do not go together"),
    "a projection as wide": (
        put(16, np.ones((H, H), np.float32)), {}, "gives 5 outputs of 5 units; here they must be"
    ),
    "a state that is no variable": (
        put(18, np.ones((B, H), np.float32)), {}, "must be a variable tensor of float32"
    ),
    "a state of another shape": (
        set_field(19, shape=(B, H + 1)), {}, "must have shape (batch, 5), got (2, 6)"
    ),
    "a state of two": (shared, {}, "is that of another operator too"),
    "a state with numbers": (
        set_field(18, data=np.ones((B, H), np.float32).tobytes()), {}, "which LiteRT refuses too"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name):
    change, options, said = REFUSED[name]
    with pytest.raises(ValueError) as caught:
        read(changed(change, **options))
    assert said in str(caught.value) and str(caught.value).startswith("<BytesIO>: ")


def test_a_bias_of_the_projection_is_refused_unless_it_is_zero():
    def projected(bias: float) -> bytes:
        graph, draw = Graph(), Weights()
        x, y = graph.tensor("x", (B, T, I)), graph.tensor("y", (B, T, 2))
        own = one_direction(graph, draw, I, 2, peephole=False, cifg=False, proj=True)
        own[-1] = graph.constant(np.full(2, bias, np.float32))
        states = [graph.state(B, 2), graph.state(B, H)]
        graph.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", [x, *own, *states], [y], activation="tanh")
        return graph.file([x], [y])

    with pytest.raises(ValueError, match="its projection has a bias, which an LSTM here has not"):
        read(projected(0.5))
    x = normal(B, T, I)
    close(read(projected(0.0))(x), theirs(projected(0.0), x)[0][0])


def test_an_lstm_is_taken_alone_out_of_a_graph_with_an_unknown_operator():
    graph, draw = Graph(), Weights()
    x, y, z = (graph.tensor(n, (B, T, size)) for n, size in (("x", I), ("y", H), ("z", H)))
    own = one_direction(graph, draw, I, H, peephole=True, cifg=False, proj=False)
    states = [graph.state(B, H), graph.state(B, H)]
    graph.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", [x, *own, *states], [y], activation="tanh")
    graph.operator("FlexRoll", [y], [z])
    file = io.BytesIO(graph.file([x], [z]))
    with pytest.raises(
        ValueError, match="operator CUSTOM 'FlexRoll' 'z': it is not known here; its LSTMs are"
    ):
        fastlstm.load(file)
    lstm = fastlstm.load_lstm(file, dtype="float64")
    alone = read(unidirectional(peephole=True))
    x = normal(B, T, I)
    close(lstm(x.astype(np.float64))[0].astype(np.float32), alone(x))


SABOTEURS = [("f", "g"), ("i", "o"), ("f", "i")]


@pytest.mark.parametrize("gates", SABOTEURS, ids="".join)
def test_gates_in_another_order_are_noticed(gates):
    def swapped(graph: Graph, inputs: list[int]) -> None:
        one, other = (1 + "ifgo".index(gate) for gate in gates)
        inputs[one], inputs[other] = inputs[other], inputs[one]

    x = normal(B, T, I)
    right, wrong = (read(changed(change))(x) for change in (nothing, swapped))
    with pytest.raises(AssertionError):
        close(wrong, right)
