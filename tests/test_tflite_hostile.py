"""Damaged and hostile TFLite files: a ValueError that names the file, soon, with little memory."""

from __future__ import annotations

import functools
import io
import struct
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from values import normal

import fastlstm
from fastlstm import load, load_lstm, load_state
from fastlstm.formats.budget import Budget
from fastlstm.formats.flat_tables import File
from fastlstm.formats.tflite_tables import Model

pytest.importorskip("flatbuffers", reason="builds TFLite files, and flatbuffers is not installed")
from tflite_files import Graph, file_of  # noqa: E402


def lstm_inputs(graph: Graph, x: int, i: int = 3, h: int = 4) -> list[int]:
    """Return the inputs of an LSTM, constants and states included."""
    shapes = [(h, i)] * 4 + [(h, h)] * 4 + [()] * 3 + [(h,)] * 4
    weights = [-1 if not s else graph.constant(normal(*s, seed=n)) for n, s in enumerate(shapes)]
    return [x, *weights, -1, -1, graph.state(1, h), graph.state(1, h)]


def rich() -> bytes:
    """Return a small file with a bit of everything."""
    graph = Graph()
    x, word = graph.tensor("x", [1, 5, 3], signature=[-1, 5, 3]), graph.tensor("w", [1], "int32")
    y, z, sizes = (
        graph.tensor("y", [1, 5, 4]),
        graph.tensor("z", [1, 4]),
        graph.tensor("n", [2], "int32"),
    )
    graph.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", lstm_inputs(graph, x), [y], activation="tanh")
    lists = [graph.constant(np.array(one, np.int32)) for one in ([0, -1, 0], [0, 0, 0], [1, 1, 1])]
    graph.operator("STRIDED_SLICE", [y, *lists], [z], begin=5, end=5, shrink=2)
    half = graph.constant(normal(2, 4).astype(np.float16), "half")
    weight, dense, row = (
        graph.tensor(name, shape) for name, shape in (("W", [2, 4]), ("d", [1, 2]), ("r", [1, 2]))
    )
    graph.operator("DEQUANTIZE", [half], [weight])
    graph.operator(
        "FULLY_CONNECTED", [z, weight, graph.constant(normal(2))], [dense], activation="relu"
    )
    graph.operator("GATHER", [graph.constant(normal(6, 2)), word], [row], axis=0)
    both, flat, filled = (
        graph.tensor("both", [2, 2]),
        graph.tensor("flat", [4]),
        graph.tensor("f", [2, 2]),
    )
    graph.operator("CONCATENATION", [dense, row], [both], axis=0)
    graph.operator("SHAPE", [both], [sizes], out_type=2)
    graph.operator("FILL", [sizes, graph.constant(np.float32(3))], [filled])
    graph.operator("ADD", [both, filled], [both2 := graph.tensor("sum", [2, 2])])
    graph.operator("RESHAPE", [both2, graph.constant(np.array([-1], np.int32))], [flat])
    return graph.file([x, word], [flat], ({x: "input", word: "word"}, {flat: "result"}))


RICH = rich()
QUICK = functools.partial(load, engine="numpy")  # no other engine is imported


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


def bounded(
    data: bytes, call: Callable[[Any], Any] = QUICK, seconds: float = 5, factor: int = 12
) -> str:
    """Assert that a file is refused soon, and with little memory; return the sentence."""
    tracemalloc.start()
    begun = time.process_time()
    try:
        with pytest.raises(ValueError) as caught:
            call(io.BytesIO(data))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < seconds
    assert most < factor * len(data) + (8 << 20)
    return str(caught.value)


def test_the_rich_file_is_right() -> None:
    model = load(io.BytesIO(RICH))
    assert model(normal(2, 5, 3)[:1], np.array([3], np.int32)).shape == (4,)


def test_truncated_at_every_length() -> None:
    for end in range(len(RICH)):
        with pytest.raises(ValueError, match="^<BytesIO>: "):
            load(io.BytesIO(RICH[:end]))


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("byte", [0x01, 0x80, 0xFF])
def test_every_byte_mutated(byte: int, step: int) -> None:
    """Every seventh byte, each time others, and in the slow tests all of them."""
    for place in range(byte % step, len(RICH), step):
        data = bytearray(RICH)
        data[place] = byte if data[place] != byte else byte ^ 0x55
        tried_once(bytes(data))


def tried_once(data: bytes) -> None:
    """Load a file; anything but a ValueError is a fault of ours."""
    try:
        load(io.BytesIO(data), engine="numpy")
    except ValueError as error:
        assert str(error).startswith("<BytesIO>: ")


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(
    st.lists(st.tuples(st.integers(0, len(RICH) - 1), st.integers(0, 255)), min_size=1, max_size=5)
)
def test_mutated(changes: list[tuple[int, int]]) -> None:
    data = bytearray(RICH)
    for place, byte in changes:
        data[place] = byte
    tried(bytes(data))


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(8, len(RICH)), st.integers(0, 200), st.binary(max_size=40))
def test_cut_and_filled(place: int, gap: int, filling: bytes) -> None:
    tried(RICH[:place] + filling + RICH[place + gap :])


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(
    st.integers(0, len(RICH) // 4 - 1),
    st.sampled_from([0, 1, 4, 1 << 16, 1 << 28, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF]),
)
def test_a_number_replaced(word: int, value: int) -> None:
    """Distances, counts and sizes are words of 4 bytes."""
    data = bytearray(RICH)
    struct.pack_into("<I", data, 4 * word, value)
    tried(bytes(data))


# ---- crafted tables -----------------------------------------------------------------------------


def crafted(*words: int, root: int = 12) -> bytes:
    """Return a file of these words behind the identifier; its root lies at a place."""
    return (
        struct.pack("<I", root)
        + b"TFL3"
        + b"".join(struct.pack("<I", w & 0xFFFFFFFF) for w in words)
    )


VTABLE = 4 | 8 << 16, 4  # a vtable of no fields: 4 bytes, of tables of 8 bytes; and padding

CRAFTED = {
    "the root leads to itself": (crafted(0, root=0), "leads to itself"),
    "the root lies behind the end": (crafted(0, root=1 << 31), "refers to byte"),
    "the vtable lies before the file": (crafted(0, 100, 0), "refers to byte -88"),
    "the vtable lies behind the end": (crafted(0, -1000, 0), "refers to byte"),
    "the vtable is the table itself": (crafted(0, 0, 0), "there is no table"),
    "the vtable has an odd size": (crafted(5 | 8 << 16, 4, 0), "there is no table"),
    "the vtable has no end": (crafted(0xFFFE | 8 << 16, 4, 0), "has no end"),
    "the table has no end": (crafted(4 | 0xFFFF << 16, 4, 0), "has no end"),
    "a field lies outside of its table": (crafted(6 | 8 << 16, 400, 4 | 8 << 16, 0), "damaged"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_offsets(name: str) -> None:
    data, said = CRAFTED[name]
    assert said in bounded(data)


def table_at(fields: dict[int, int]) -> bytes:
    """Return a vtable and a table whose fields, by their numbers, are words."""
    count = max(fields, default=-1) + 1
    places = {number: 4 + 4 * n for n, number in enumerate(fields)}
    offsets = [places.get(number, 0) for number in range(count)]
    vtable = struct.pack(f"<HH{count}H", 4 + 2 * count, 4 + 4 * len(fields), *offsets)
    vtable += b"\0" * (-len(vtable) % 4)
    return vtable + struct.pack(f"<i{len(fields)}I", len(vtable), *fields.values())


def with_root(root: bytes, size: int, rest: bytes) -> bytes:
    """Return a file that begins with a root, whose table itself has so many bytes."""
    return struct.pack("<I", 8 + len(root) - size) + b"TFL3" + root + rest


@pytest.mark.parametrize("field", [1, 2, 4, 7])
@pytest.mark.parametrize("count", [1 << 20, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_vector_longer_than_the_file(field: int, count: int) -> None:
    root = table_at({0: 3, field: 4})  # the version, and a vector right behind the table
    data = with_root(root, 12, struct.pack("<I", count) * 4)
    assert f"a vector of {count} numbers" in bounded(data)


def test_many_distances_to_one_table() -> None:
    """A vector of tables that are all the same one: reading them all would take for ever."""
    count = 100_000
    root = table_at({0: 3, 7: 4})  # signatures, of which all are read
    empty = table_at({})
    distances = [4 * (count - n) + len(empty) - 4 for n in range(count)]
    rest = struct.pack(f"<I{count}I", count, *distances) + empty
    with pytest.raises(ValueError, match="it has [0-9]+ or more tables; at most [0-9]+ are read"):
        QUICK(io.BytesIO(with_root(root, 12, rest)))


def test_unaligned_numbers_are_read() -> None:
    file = File(b"\0" + struct.pack("<I2f", 2, 1.5, 2.5), Budget(100))
    assert file.vector(1, "f4").tolist() == [1.5, 2.5]


# ---- crafted graphs -----------------------------------------------------------------------------


def lonely(kind: str, inputs: list[Any], shape: tuple[int, ...], **options: Any) -> bytes:
    """Return a file of one operator, which takes a float x (1,) and constants."""
    graph = Graph()
    x, y = graph.tensor("x", [1]), graph.tensor("y", shape)
    own = [x if one is None else graph.constant(one) for one in inputs]
    graph.operator(kind, own, [y], **options)
    return graph.file([x], [y])


HUGE = np.array([1 << 30, 1 << 30], np.int32)
MULTIPLIED = {
    "FILL": ("FILL", [HUGE, np.float32(1)]),
    "TILE": ("TILE", [None, np.array([1 << 30], np.int32)]),
    "BROADCAST_TO": ("BROADCAST_TO", [None, HUGE]),
    "RANGE": ("RANGE", [np.int32(0), np.int32(2**31 - 1), np.int32(1)]),
    "PAD": ("PAD", [None, np.array([[0, 2**31 - 1]], np.int32)]),
    "ONE_HOT": (
        "ONE_HOT",
        [np.array([1], np.int32), np.int32(2**30), np.float32(1), np.float32(0)],
    ),
}


@pytest.mark.parametrize("name", MULTIPLIED)
def test_what_multiplies_is_bounded(name: str) -> None:
    kind, inputs = MULTIPLIED[name]
    data = lonely(kind, inputs, (1,), **({"axis": -1} if kind == "ONE_HOT" else {}))
    model = load(io.BytesIO(data), max_bytes=1 << 20)  # constants are not computed beforehand
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="at most 1048576 are allowed; .*--max-bytes"):
            model(np.ones(1, np.float32))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_reshape_to_more_numbers_is_refused() -> None:
    model = load(io.BytesIO(lonely("RESHAPE", [None, HUGE], (1, 1))))
    with pytest.raises(ValueError, match="operator Reshape 'y': cannot reshape"):
        model(np.ones(1, np.float32))


def test_a_shape_larger_than_its_numbers() -> None:
    graph = Graph()
    x, y = graph.tensor("x", [1]), graph.tensor("y", [1])
    big = graph.tensor("big", HUGE, data=b"\0\0\0\0")
    graph.operator("ADD", [x, big], [y])
    said = bounded(graph.file([x], [y]))
    assert (
        "tensor 'big': float32 of shape (1073741824, 1073741824) takes 4611686018427387904" in said
    )


def test_states_of_any_size_are_not_made_at_load() -> None:
    graph = Graph()
    x, y = graph.tensor("x", [1, 5, 3]), graph.tensor("y", [1, 5, 4])
    inputs = lstm_inputs(graph, x)
    graph.tensors[inputs[-1]]["shape"] = [1 << 30, 4]
    z = graph.tensor("z", [1, 5, 4])
    graph.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [y], activation="tanh")
    graph.operator("EXP", [y], [z])
    model = load(io.BytesIO(graph.file([x], [z])))
    with pytest.raises(ValueError, match="max-bytes"):
        model(normal(1, 5, 3))


CYCLES = {
    "an operator takes what it gives": ([("ADD", [0, 1], [1])], "nothing before it gives tensor 1"),
    "two operators wait for each other": (
        [("ADD", [0, 2], [1]), ("ADD", [0, 1], [2])], "nothing before it gives tensor 2"
    ),
    "a tensor is given twice": (
        [("ABS", [0], [1]), ("NEG", [0], [1])], "it gives tensor 1, which is there already"
    ),
    "an operator gives an input": ([("ABS", [0], [0])], "which is there already"),
    "there is no such tensor": ([("ABS", [7], [1])], "it refers to tensor 7 of a graph that has 3"),
    "an index is negative": ([("ABS", [-2], [1])], "it refers to tensor -2"),
    "nothing gives the output": ([("ABS", [0], [2])], "nothing before it gives tensor 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", CYCLES)
def test_graphs_that_lead_nowhere(name: str) -> None:
    operators, said = CYCLES[name]
    graph = Graph()
    tensors = [graph.tensor(letter, [2]) for letter in "xyz"]
    for kind, inputs, outputs in operators:
        graph.operator(kind, inputs, outputs)
    assert said in bounded(graph.file(tensors[:1], tensors[1:2]))


def test_no_graph_and_no_outputs() -> None:
    assert "it refers to graph 0, and has 0" in bounded(file_of([]))
    assert "its graph has no outputs" in bounded(file_of([(Graph(), [], [])]))


def test_many_faults_are_counted() -> None:
    graph = Graph()
    x, y = graph.tensor("x", [1]), graph.tensor("y", [1])
    for _ in range(1000):
        graph.operator("ABS", [x], [y])
    assert bounded(graph.file([x, y], [y]), factor=30).endswith("; and 995 more")


@pytest.mark.parametrize("size", [0, 7, 8, 11])
def test_hardly_any_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="^<BytesIO>: "):
        load(io.BytesIO(b"\x0c\0\0\0TFL3\0\0\0\0"[:size]))


def test_names_are_shown_escaped() -> None:
    graph = Graph()
    x, y = graph.tensor("x", [1]), graph.tensor("\x1b[31m" + "y" * 10000, [1])
    graph.operator("Own\x1bop", [x], [y])
    with pytest.raises(ValueError) as caught:
        load(io.BytesIO(graph.file([x], [y])))
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 500
    assert "CUSTOM" in str(caught.value)


def test_reading_the_tables_makes_no_copies() -> None:
    weights = np.zeros((1000, 1000), np.float32)
    graph = Graph()
    x, y = graph.tensor("x", [1, 1000]), graph.tensor("y", [1, 1000])
    graph.operator("FULLY_CONNECTED", [x, graph.constant(weights), -1], [y])
    data = bytearray(graph.file([x], [y]))
    tracemalloc.start()
    try:
        model = Model(data, Budget(len(data)))
        for index in range(3):
            model.subgraph(0).tensor(index)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert isinstance(fastlstm.load(io.BytesIO(data)), fastlstm.Sequential)
