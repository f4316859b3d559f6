"""Files of whole networks that were made to do harm, or are damaged, in all their formats.

A file of a few bytes must not take seconds, much memory, or anything but a ValueError that names
it. What only takes long when a model runs is the caller's, who can interrupt it.
"""

from __future__ import annotations

import functools
import io
import json
import random
import tempfile
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_onnx_files import constant, graph, model, node, own_function, port, read, with_functions
from test_onnx_hostile import RICH

import fastlstm
from fastlstm import load, load_lstm, load_state

onnx = pytest.importorskip("onnx", reason="writes ONNX files, and onnx is not installed")
INT64, STRING = onnx.TensorProto.INT64, onnx.TensorProto.STRING

# On a machine that does nothing else, none of these takes a second.
SECONDS = 15
MOST = 24 << 20  # bytes, beside ten times the size of the file


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def made(
    nodes: Any, outputs: Any = ("y",), inputs: Any = (), opset: int = 21, **arrays: Any
) -> Any:
    """Return a file of nodes, inputs and constants."""
    return model(graph(nodes, inputs, outputs, arrays), opset=opset, ir=10)


def summed(nodes: list[Any]) -> list[Any]:
    """Return nodes with one behind them that takes what each of them gives last."""
    return [*nodes, node("Sum", [one.output[-1] for one in nodes], ["y"])]


def referring(one: Any, name: str, other: str, kind: int) -> Any:
    """Return a node of a function with an attribute that is one of the call."""
    one.attribute.add(name=name, ref_attr_name=other, type=kind)
    return one


def called(nodes: list[Any], **attributes: Any) -> bytes:
    """Return a file that calls a function with attributes."""
    function = own_function("F", nodes)
    function.attribute.extend(attributes)
    return with_functions([function], [node("F", ["x"], ["y"], domain="own", **attributes)])


def doubled(nodes: list[Any], times: int) -> bytes:
    """Return a file with a function that calls one twice, which calls one twice, and so on."""
    functions = [own_function("F0", nodes)]
    for k in range(times):
        twice = [node(f"F{k}", [a], [b], domain="own") for a, b in ("xt", "ty")]
        functions.append(own_function(f"F{k + 1}", twice))
    return with_functions(functions, [node(f"F{times}", ["x"], ["y"], domain="own")])


def text(letters: str, count: int = 1) -> np.ndarray:
    return np.array([letters] * count, object)


def strings(name: str = "y") -> Any:
    return port(name, None, STRING)


def within_bounds(data: bytes) -> str:
    """Load a file, and return what is said of it; assert that it takes little time and memory."""
    read(RICH)  # what is imported is not the file's
    begun, said = time.process_time(), ""
    tracemalloc.start()
    try:
        repr(load(io.BytesIO(data)))
    except ValueError as error:
        said = str(error)
        assert said.startswith("<BytesIO>: ")
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(said) < 5000
    assert time.process_time() - begun < SECONDS
    assert peak < MOST + 10 * len(data)
    return said


# Files, and what is said of them; "" for those that are read, and whose work is left for the run.
MUCH = "far more would be made of its constants than it has of them"
ZEROS = np.zeros((1 << 40, 0, 1), np.float32)
FILES: dict[str, tuple[bytes, str]] = {
    # work that a few bytes ask for, and that was done while the file was read
    "windows as large as their arrays": (
        made([node("MaxPool", ["a"], ["y"], kernel_shape=[60000])], a=ones(1, 1, 120000)), ""),
    "windows of onnx's": (
        made([node("LpPool", ["a"], ["y"], kernel_shape=[10**5], pads=[99999] * 2)],
             a=ones(1, 1, 100)), ""),
    "samples of a region": (
        made([node("RoiAlign", ["a", "r", "b"], ["y"], output_height=100, output_width=100,
                   sampling_ratio=1000)], a=ones(1, 1, 2, 2), r=ones(1, 4), b=np.zeros(1, "i8")),
        ""),
    "a pattern that never ends": (
        made([node("RegexFullMatch", ["s"], ["y"], pattern="(a|aa)+$b")], [port("y", None, 9)],
             s=text("a" * 100)), ""),
    "steps of nothing": (
        made([node("GRU", ["x", "W", "R"], ["y"], hidden_size=1)],
             x=ZEROS, W=ones(1, 3, 1), R=ones(1, 3, 1)), ""),
    "strings that grow": (
        made([node("StringConcat", [f"s{k}"] * 2, [f"s{k + 1}"]) for k in range(45)],
             [strings("s45")], s0=text("a" * 100)), ""),
    "parts of strings": (
        made([node("StringSplit", ["s"], ["y", "n"], delimiter="a")], [strings()],
             s=np.array(["a" * 20000] + ["b"] * 20000, object)), ""),
    "indices without any": (
        made([node("OneHot", ["i", "d", "v"], ["y"])],
             i=np.zeros(0, "i8"), d=np.array(1 << 40), v=ones(2)), ""),
    # sequences
    "sequences of sequences": (
        made([node("SequenceConstruct", [f"s{k}"], [f"s{k + 1}"]) for k in range(3000)]
             + [node("SequenceLength", ["s3000"], ["y"])], [port("y", [], INT64)], s0=ones(1)),
        "a sequence holds arrays, and no sequences"),
    "a sequence in the place of indices": (
        made([node("Shape", ["x"], ["s"]), node("SequenceConstruct", ["i"], ["q"]),
              node("Gather", ["s", "q"], ["y"])], [port("y", None, INT64)], ["x"],
             i=np.zeros(1, "i8")), ""),
    # what a function does with the attributes of its call, again and again
    "floats of a function": (doubled([
        node("Constant", [], ["c"], value_floats=[1.0] * 20000), node("Add", ["x", "c"], ["y"])], 20
    ), MUCH),
    "a tensor of a call": (called(
        [referring(node("Constant", [], [f"c{k}"]), "value", "t", 4) for k in range(4000)]
        + [node("Neg", ["x"], ["y"])], t=constant("t", ones(20000))), MUCH),
    "floats of a call": (called(
        [referring(node("Constant", [], [f"c{k}"]), "value_floats", "t", 6) for k in range(4000)]
        + [node("Neg", ["x"], ["y"])], t=[1.0] * 20000), MUCH),
    # layers and other things that are made of the same weights, each time anew
    "products of other factors": (made(summed(
        [node("Gemm", ["x", "W"], [f"m{k}"], alpha=1.0 + k) for k in range(500)]
    ), inputs=[port("x", [1, 200])], W=ones(200, 200)), MUCH),
    "LSTMs of other clips": (made(summed(
        [node("LSTM", ["x", "W", "R"], ["", f"m{k}"], hidden_size=50, clip=1.0 + k)
         for k in range(500)]
    ), inputs=[port("x", [1, 1, 50])], W=ones(1, 200, 50), R=ones(1, 200, 50)), MUCH),
    "normalizations of other factors": (made(summed(
        [node("BatchNormalization", ["x"] + ["s"] * 4, [f"m{k}"], epsilon=1e-3 + k)
         for k in range(500)]
    ), inputs=[port("x", [1, 10000])], s=ones(10000)), MUCH),
    # what took a time of the square of the file's size
    "many splits": (made(
        [node("Split", ["x"], [f"{c}{k}" for c in "abcd"], num_outputs=4) for k in range(4000)]
        + [node("Sum", [f"{c}{k}" for c in "ab" for k in range(4000)], ["y"])], inputs=["x"]), ""),
    "many states": (made([node("Neg", [f"h{k}"], [f"hn{k}"]) for k in range(2000)],
        [port(f"hn{k}", [1]) for k in range(2000)], [port(f"h{k}", [1]) for k in range(2000)]), ""),
    "many values for a branch": (made(
        [node("Neg", ["x"], [f"v{k}"]) for k in range(2000)]
        + [node("If", ["c"], [f"y{n}" if n else "y"],
                then_branch=graph([node("Sum", [f"v{k}" for k in range(2000)], ["b"])], [], ["b"]),
                else_branch=graph([node("Neg", ["x"], ["b"])], [], ["b"])) for n in range(10)],
        inputs=["x", port("c", [], onnx.TensorProto.BOOL)]), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_loading_takes_little(name: str) -> None:
    data, words = FILES[name]
    said = within_bounds(data)
    assert words in said
    assert bool(words) == bool(said)


def test_a_constant_of_a_call_is_the_caller_s() -> None:
    """It was 0 in place of the attribute's value."""
    scale = referring(node("Constant", [], ["c"]), "value_float", "alpha", 1)
    network = read(called([scale, node("Mul", ["x", "c"], ["y"])], alpha=3.0))
    assert network.run(None, {"x": np.array([2.0], "f")})[0].tolist() == [6.0]


def test_strings_have_limits_at_run_time() -> None:
    joined = [node("StringConcat", [f"s{k}"] * 2, [f"s{k + 1}"]) for k in range(45)]
    split = [node("StringSplit", ["s0"], ["y", "n"], delimiter="a")]
    short, long = text("ab"), np.array(["a" * 20000, *["b"] * 2000], object)
    for nodes, output, value in ((joined, "s45", short), (split, "y", long)):
        data = made(nodes, [strings(output)], [port("s0", [len(value)], STRING)])
        network = read(data, max_bytes=1 << 20)
        with pytest.raises(ValueError, match="would take .* bytes, at most 1048576 are allowed"):
            network.run(None, {"s0": value})
    few = read(made(joined[:2], [strings("s2")], [port("s0", [1], STRING)]))
    assert few.run(None, {"s0": short})[0].tolist() == ["ab" * 4]


def test_names_of_layers_that_are_taken() -> None:
    nodes = [node("LSTM", ["x", f"W{k}", "R"], ["", f"m{k}"], "same", hidden_size=1) for k in "abc"]
    weights = {f"W{k}": ones(1, 4, 1) for k in "abc"}
    network = read(made(summed(nodes), inputs=[port("x", [1, 1, 1])], **weights, R=ones(1, 4, 1)))
    assert list(network.children) == ["same", "same_2", "same_3"]


# ---- Keras --------------------------------------------------------------------------------------

KERAS2 = zipfile.ZipFile(Path(__file__).parent / "data" / "keras2.zip")


def renamed(name: Any) -> bytes:
    """Return a .keras file in which a layer has another name."""
    files = {}
    with zipfile.ZipFile(io.BytesIO(KERAS2.read("network_v3.keras"))) as archive:
        for one in archive.namelist():
            files[one] = archive.read(one)
    config = json.loads(files["config.json"])
    config["config"]["layers"][1]["config"]["name"] = name
    files["config.json"] = json.dumps(config).encode()
    return zipped(files)


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("name", [{}, [], 1.5, True])
def test_names_that_are_no_texts(name: Any) -> None:
    with pytest.raises(ValueError, match="^<BytesIO>: its network is damaged: a layer is called"):
        load(io.BytesIO(renamed(name)))


def keras_network(layers: list[Any], inputs: Any, outputs: Any) -> bytes:
    """Return a .keras file of a functional network of layers without weights."""
    config = {"name": "m", "layers": layers, "input_layers": inputs, "output_layers": outputs}
    entry = {"module": "keras", "class_name": "Functional", "config": config}
    with zipfile.ZipFile(io.BytesIO(KERAS2.read("network_v3.keras"))) as archive:
        weights = archive.read("model.weights.h5")
    return zipped({
        "config.json": json.dumps(entry).encode(), "metadata.json": b'{"keras_version": "3.1"}',
        "model.weights.h5": weights,
    })  # fmt: skip


def keras_layer(kind: str, name: str, *calls: list[tuple[str, int]], **config: Any) -> Any:
    """Return a layer that is called several times, each on so many values."""
    nodes = [
        {"args": [[{"class_name": "__keras_tensor__", "config": {"keras_history": [*one, 0]}}
                   for one in call]], "kwargs": {}}
        for call in calls
    ]  # fmt: skip
    config = {"name": name, **config}
    return {"module": "keras", "class_name": kind, "config": config, "inbound_nodes": nodes}


INPUT = keras_layer("InputLayer", "i", batch_shape=[None, 3])


def test_keras_networks_of_many_names() -> None:
    """They took a time of the square of their number."""
    called = keras_layer("Dropout", "a", [("i", 0)], *[[("a", k)] for k in range(7000)], rate=0.5)
    within_bounds(keras_network([INPUT, called], [["i", 0, 0]], [["a", 7000, 0]]))
    once = keras_layer("Activation", "a", [("i", 0)], activation="relu")
    within_bounds(keras_network([INPUT, once], [["i", 0, 0]], [["a", 0, 0]] * 15000))


def test_what_a_keras_network_puts_together_has_a_limit() -> None:
    doubled = [
        keras_layer("Concatenate", f"c{k + 1}", [(f"c{k}" if k else "i", 0)] * 2, axis=-1)
        for k in range(50)
    ]
    data = keras_network([INPUT, *doubled], [["i", 0, 0]], [["c50", 0, 0]])
    network = load(io.BytesIO(data), max_bytes=1 << 20)
    with pytest.raises(ValueError, match="would take 1572864 bytes, at most 1048576 are allowed"):
        network(np.ones((1, 3), "f"))


# ---- any damage ---------------------------------------------------------------------------------


@functools.cache
def corpus() -> list[bytes]:
    """Return small files of all formats of networks."""
    pytest.importorskip("h5py", reason="writes Keras files, and h5py is not installed")
    names = "chain.h5", "chain_weights.h5", "stateful.h5", "network_v3.keras"
    files = [RICH, *map(KERAS2.read, names)]
    chain = {"words": fastlstm.Embedding(5, 3), "lstm": fastlstm.LSTM(3, 2, batch_first=True)}
    for suffix in (".onnx", ".keras", ".weights.h5"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model{suffix}"
            fastlstm.save(fastlstm.Sequential(chain), path)
            files.append(path.read_bytes())
    return files


@pytest.mark.filterwarnings("ignore::UserWarning")  # what files do not tell
@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(seed=st.integers(0, 1 << 32))
def test_damage(seed: int) -> None:
    """Cut, changed, or with parts of itself in other places: a ValueError or a model."""
    chance = random.Random(seed)
    content = damaged(chance.choice(corpus()), chance)
    for function in (load, load_lstm, load_state):
        try:
            result = function(io.BytesIO(content))
        except ValueError as error:
            assert str(error).startswith("<BytesIO>: ")
            assert len(str(error)) < 5000
        else:
            repr(result)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return a damaged file; of one that is zipped, it may be a member that is damaged."""
    if content.startswith(b"PK") and chance.random() < 0.8:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        name = chance.choice(sorted(files))
        files[name] = damaged(files[name], chance)
        return zipped(files)
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 3])):
        place, other = chance.randrange(len(content)), chance.randrange(len(content))
        size = chance.choice([1, 1, 2, 4, 8, 30])
        part = content[other : other + size]
        number = chance.choice([0, 1, 1 << 31, 1 << 62, (1 << 63) - 1, (1 << 64) - 1, other])
        kind = chance.choice(["bit", "number", "copy", "hole", "part", "end"])
        if kind == "bit" and place < len(changed):
            changed[place] ^= 1 << other % 8
        elif kind == "number":
            changed[place : place + size] = number.to_bytes(8, "little")[:size]
        elif kind == "copy":
            changed[place:place] = part
        elif kind == "hole":
            del changed[place : place + size]
        elif kind == "part":
            changed[place : place + len(part)] = part
        elif kind == "end" and chance.random() < 0.3:
            del changed[place:]
    return bytes(changed)


def test_the_corpus_is_right() -> None:
    for content in corpus():
        assert load_state(io.BytesIO(content))
