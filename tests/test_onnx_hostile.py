"""Damaged and hostile ONNX files: a ValueError that names the file, soon, with little memory."""

from __future__ import annotations

import functools
import io
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_onnx_files import (
    BOOL,
    FEEDS,
    INT64,
    constant,
    external,
    graph,
    lstm_arrays,
    lstm_graph,
    made,
    model,
    node,
    own_function,
    port,
    read,
    with_functions,
)
from values import normal

import fastlstm
from fastlstm import load, load_lstm, load_state
from fastlstm.formats import onnx_file
from fastlstm.formats.source import Source

onnx = pytest.importorskip("onnx", reason="writes ONNX files, and onnx is not installed")


def rich() -> bytes:
    """Return a small file with a bit of everything."""
    proto = lstm_graph()
    branch = graph([node("Add", ["Y", "k"], ["b"])], [], ["b"], {"k": np.array([2], "f")})
    other = graph([node("LSTM", ["x", "W", "R"], ["b"], hidden_size=4)], [], ["b"])
    body = graph(
        [node("Neg", ["v"], ["v2"]), node("Identity", ["go"], ["go2"])],
        [port("i", [], INT64), port("go", [], BOOL), port("v")],
        [port("go2", [], BOOL), port("v2")],
    )
    proto.node.extend([
        node("Constant", [], ["three"], value=constant("three", 3)),
        node("ConstantOfShape", ["sizes"], ["zeros"], value=constant("v", np.ones(1, "f"))),
        node("ReduceSum", ["h"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["p"]),
        node("If", ["p"], ["z"], then_branch=branch, else_branch=other),
        node("Loop", ["three", "", "z"], ["w"], body=body),
        node("Slice", ["w", "zero_i", "three_i"], ["u"]),
        node("Own", ["u"], ["t"], domain="own"),
        node("Concat", ["t", "zeros"], ["end"], axis=0),
    ])  # fmt: skip
    proto.initializer.extend([
        constant("sizes", [1, 1, 2, 4]), constant("zero", np.array(0, "f")),
        constant("zero_i", [0]), constant("three_i", [3]),
    ])  # fmt: skip
    proto.output.append(port("end"))
    function = own_function("Own", [node("Tanh", ["x"], ["y"])])
    return model(proto, functions=[function], imports=[onnx.helper.make_opsetid("own", 1)])


RICH = rich()
PLACES = st.integers(0, len(RICH) - 1)


def tried(data: bytes) -> None:
    """Load a file in every way; anything but a ValueError is a fault of ours."""
    for function in (load, load_lstm, load_state):
        try:
            result = function(io.BytesIO(data))
        except ValueError as error:
            assert str(error).startswith("<BytesIO>: ")
            assert len(str(error)) < 5000
        else:
            repr(result)


def test_the_rich_file_is_right() -> None:
    assert read(RICH).run(["end"], FEEDS)[0].shape == (4, 1, 2, 4)


@pytest.mark.parametrize("part", range(4))
def test_truncated(part: int) -> None:
    for end in range(part, len(RICH), 20):
        with pytest.raises(ValueError, match="^<BytesIO>: "):
            read(RICH[:end])


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(
    st.lists(st.tuples(st.integers(0, len(RICH) - 1), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_mutated(changes: list[tuple[int, int]]) -> None:
    data = bytearray(RICH)
    for place, byte in changes:
        data[place] = byte
    tried(bytes(data))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, len(RICH)), st.integers(0, 200), st.binary(max_size=40))
def test_cut_and_filled(place: int, gap: int, filling: bytes) -> None:
    tried(RICH[:place] + filling + RICH[place + gap :])


def bounded(
    data: bytes, call: Callable[[Any], Any] = load, seconds: float = 3, factor: int = 12
) -> None:
    """Assert that a file is refused, or read, soon and with memory of a few times its size.

    The time is the processor's, of a slow machine; most files take some milliseconds.
    """
    read(model(lstm_graph()))  # what is imported is not the file's
    begun = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="^<BytesIO>: |^operator "):
            call(io.BytesIO(data))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < factor * len(data) + (12 << 20)
    assert time.process_time() - begun < seconds * 10


def runs(file: Any) -> None:
    """Load a file with a small limit of memory, and run it."""
    network = load(file, max_bytes=1 << 20)
    feeds = {}
    for one in network.inputs:
        shape = [n if isinstance(n, int) else 1 for n in one.shape or (1,)]
        feeds[one.name] = np.ones(shape, one.dtype)
    network.run(None, feeds)


def test_sizes_that_numbers_decide() -> None:
    """They are refused when the graph runs, and are not computed beforehand."""
    huge = {"n": np.array([10**6, 10**6]), "one": np.ones((1, 1), "f"), "k": np.array(10**12)}
    huge |= {"pads": np.array([10**6] * 4), "zero": np.array(0), "step": np.array(1)}
    for nodes in (
        [node("ConstantOfShape", ["n"], ["y"])],
        [node("Expand", ["one", "n"], ["y"])],
        [node("Tile", ["one", "n"], ["y"])],
        [node("Pad", ["one", "pads"], ["y"])],
        [node("Range", ["zero", "k", "step"], ["y"])],
        [node("ConstantOfShape", ["n"], ["t"]), node("ReduceSum", ["t"], ["y"])],
        [node("Expand", ["x", "n"], ["t"]), node("Add", ["t", "t"], ["y"])],
    ):
        data = model(graph(nodes, [port("x", [1, 1])], ["y"], huge))
        bounded(data, runs)


def test_constants_that_grow() -> None:
    """Doubled by each operator; or made again and again, each of a size that is allowed."""
    doubled = [node("Concat", [f"a{k}", f"a{k}"], [f"a{k + 1}"], axis=0) for k in range(60)]
    outer = [node("Mul", ["row", "column"], [f"b{k}"]) for k in range(1000)]
    joined = node("Sum", [f"b{k}" for k in range(1000)], ["a60"])
    constants = {"a0": np.ones(10, "f"), "row": np.ones((1, 500), "f")}
    constants["column"] = np.ones((500, 1), "f")
    begun = time.process_time()
    tracemalloc.start()
    for nodes in (doubled, [*outer, joined]):
        network = read(model(graph(nodes, [], ["a60"], constants)))
        assert network.plan.nodes  # some are left for the run
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 << 20
    assert time.process_time() - begun < 30


def test_constants_that_take_long() -> None:
    """Products of many small constants with each other; endless loops."""
    body = graph(
        [node("Identity", ["go"], ["go2"])], [port("i", [], INT64), port("go", [], BOOL)],
        [port("go2", [], BOOL)],
    )  # fmt: skip
    kernel = {"big": np.ones((1, 1, 300, 300), "f"), "kernel": np.ones((1, 1, 290, 290), "f")}
    convolutions = [node("Conv", ["big", "kernel"], [f"c{k}"]) for k in range(2000)]
    total = node("Sum", [f"c{k}" for k in range(2000)], ["y"])
    endless = node("Loop", ["", "yes"], [], body=body)
    counted = node("Loop", ["k", ""], [], body=body)
    begun = time.process_time()
    for nodes in ([*convolutions, total], [node("Neg", ["x"], ["y"]), endless, counted]):
        constants = {**kernel, "yes": np.array(True), "k": np.array(1 << 62)}
        read(model(graph(nodes, ["x"], ["y"], constants)))
    assert time.process_time() - begun < 30


def with_field(number: int, data: bytes, times: int) -> bytes:
    """Put bytes into a field with a length, and that into such a field, so many times."""
    for _ in range(times):
        size, length = len(data), b""
        while size > 0x7F:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        data = bytes([number << 3 | 2]) + length + bytes([size]) + data
    return data


def nested_messages(depth: int) -> bytes:
    """Return a file of graphs in attributes of operators in graphs, without anything else."""
    data = bytes(5000)
    for _ in range(depth):
        for number in (6, 5, 1):  # of a graph in an attribute in a node in a graph
            data = with_field(number, data, 1)
    return b"\x08\x08" + with_field(7, data, 1)


def test_many_operators() -> None:
    nodes = [node("Neg", ["x"], [f"y{k}"]) for k in range(30000)]
    begun = time.process_time()
    assert len(read(model(graph(nodes, ["x"], ["y0"]))).plan.nodes) == 1
    assert time.process_time() - begun < 30


def negated(name: str) -> Any:
    return [node("Neg", [name], ["y"])]


HOSTILE: dict[str, bytes] = {
    "nested messages": nested_messages(3000),
    "nested messages, a few": nested_messages(30),
    "nested groups": b"\x08\x08\x3a\x64" + b"\x0b" * 100,
    "a number without an end": b"\x08\x08\x3a\x04\x0a" + b"\xff" * 20,
    "a length beyond the file": b"\x08\x08\x3a\xff\xff\xff\xff\x7f" + bytes(50),
    "a hidden_size that is absurd": model(lstm_graph(hidden_size=1 << 40)),
    "a hidden_size of another LSTM": model(lstm_graph(hidden_size=5)),
    "a hidden_size below 0": model(lstm_graph(hidden_size=-4)),
    "a hidden_size in words": model(lstm_graph(hidden_size="four")),
    "sizes of an input": model(graph(negated("x"), [port("x", [-5])], ["y"])),
    "huge external data": model(graph(negated("t"), [], ["y"], [external("d", 1 << 60)])),
    "a huge tensor": model(graph(negated("t"), [], ["y"], [made(dims=[1 << 62])])),
    "a name of a million letters": model(graph(negated("x" * 10**6), [], ["y"])),
    "names of millions of letters": with_functions(
        [own_function("F", [node("Neg", ["x"], ["v" * 10**5]), node("Neg", ["v" * 10**5], ["y"])])],
        [node("F", [f"v{k}" if k else "x"], [f"v{k + 1}"], domain="own") for k in range(500)],
        ("v500",),
    ),
    "an attribute of another type": model(lstm_graph(direction=3)),
    "a weight of another type": model(graph(
        [node("LSTM", ["x", "W", "R"], ["y"], hidden_size=4)], ["x"], ["y"],
        {n: a.astype("i4") for n, a in lstm_arrays().items()},
    )),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name: str) -> None:
    bounded(HOSTILE[name])


def test_names_are_shown_without_what_moves_a_cursor() -> None:
    evil = "a\x1b[31m\n\u202eb"
    proto = lstm_graph(name=evil)
    proto.node.append(node("Neg", [evil], [evil + "2"], name=evil))
    proto.input.append(port(evil, [evil, 2]))
    proto.output.append(port(evil + "2"))
    network = read(model(proto))
    shown = [repr(network)]
    calls: list[Callable[[], object]] = [
        lambda: network.run(None, {}),
        lambda: network.run([evil], FEEDS),
        lambda: network.run(None, {**FEEDS, evil: np.ones(3, "f")}),
        lambda: load_lstm(io.BytesIO(model(proto)), prefix="q"),
    ]
    for kind, domain in (evil, ""), ("Neg", evil), ("x" * 10**6, ""):
        strange = graph([node(kind, ["x"], ["y"], name=evil, domain=domain)], ["x"], ["y"])
        imports = [onnx.helper.make_opsetid(domain, 1)] if domain else []
        calls.append(functools.partial(read, model(strange, imports=imports)))
    for call in calls:
        with pytest.raises(ValueError) as error:
            call()
        shown.append(str(error.value))
    for text in shown:
        assert text.replace("\n", "").isprintable() and "\x1b" not in text
        assert len(text) < 2000
        assert "\\x1b" in text or "xxx" in text


def test_a_large_file_takes_its_size_a_few_times() -> None:
    """The numbers, those of the layer, and what is between them for a while."""
    arrays = lstm_arrays(i=512, h=512)
    lstm = node("LSTM", ["x", "W", "R", "B"], ["y"], hidden_size=512)
    data = model(graph([lstm], ["x"], ["y"], arrays))
    file = io.BytesIO(data)
    tracemalloc.start()
    network = load(file)
    left, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3.5 * len(data) and left < 1.1 * len(data)
    np.testing.assert_array_equal(
        network.state_dict()["y.weight_hh_l0"][:512], arrays["R"][0, :512]
    )


def test_other_protobuf_messages_are_not_onnx() -> None:
    """Nor is anything else that begins like one."""
    for data in (
        b"",
        b"\x08",
        b"\x08\x01\x12\x04abcd",  # a TensorFlow SavedModel
        b"\x0a\x05hello",  # a TensorFlow graph begins so
        b"\x08\x08\x12\x02ab",  # without a graph
        b"\x3a\x02ab\x0b",  # with a group
        b"::",
        b"\x80\x04\x95",
        b"PK\x03\x04" + bytes(40),
        RICH[1:],
        bytes(100),
        bytes(normal(300).tobytes()),
    ):
        assert not onnx_file.recognises(Source(io.BytesIO(data)))
    assert onnx_file.recognises(Source(io.BytesIO(RICH)))
    assert onnx_file.recognises(Source(io.BytesIO(RICH[: len(RICH) // 2 + 2000][:-3])))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install onnx"):
        fastlstm.load(io.BytesIO(RICH))
