"""ONNX files: what is read, against onnxruntime and the onnx package; states, streams, LSTMs alone.

`graph`, `model` and `node` write small files; `same` runs one here and in onnxruntime.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import io
import itertools
import os
import pathlib
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from values import normal

from fastlstm import LSTM, load, load_lstm, load_state
from fastlstm.formats import onnx_states
from fastlstm.formats.onnx_tensors import Tensors
from fastlstm.formats.source import Source
from fastlstm.graphs import GraphModel
from fastlstm.graphs.limits import Limits

onnx = pytest.importorskip("onnx", reason="writes ONNX files, and onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the oracle is onnxruntime")
helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto
node = helper.make_node

T, B, I, H = 5, 2, 3, 4
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
onnxruntime.set_default_logger_severity(4)


def port(name: str, shape: Any = None, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.asarray(value), name)


def graph(nodes: Any, inputs: Any, outputs: Any, constants: Any = (), name: str = "graph") -> Any:
    """Return a GraphProto; inputs and outputs may be names, and constants a dict."""
    constants = constants.items() if isinstance(constants, Mapping) else constants
    given = [constant(*pair) if isinstance(pair, tuple) else pair for pair in constants]
    ports = ([port(p) if isinstance(p, str) else p for p in ps] for ps in (inputs, outputs))
    return helper.make_graph(nodes, name, *ports, given)


def model(proto: Any, opset: int = 17, ir: int = 8, **options: Any) -> bytes:
    """Return the bytes of a file."""
    imports = [helper.make_opsetid("", opset), *options.pop("imports", ())]
    data: bytes = helper.make_model(
        proto, opset_imports=imports, ir_version=ir, **options
    ).SerializeToString()
    return data


def read(data: bytes, **options: Any) -> Any:
    return load(io.BytesIO(data), **options)


def by_onnxruntime(data: bytes, feeds: Mapping[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    results: list[Any] = session.run(None, dict(feeds))
    return results


def close(got: Sequence[Any], expected: Sequence[Any], terms: int) -> None:
    """Assert that results are equal, but for the roundings of sums of so many terms.

    As in `support.tolerance`, a sum is off by u / 2 sqrt(terms) of its norm in the mean, and we
    allow six times that, and as much again for what stands behind it; both sides do it.
    """
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert isinstance(one, np.ndarray)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        atol = 0.0
        if one.dtype.kind == "f" and one.size:
            u = float(np.finfo(one.dtype).eps) / 2
            atol = 2 * 12 * (np.sqrt(terms) / 2 + 5) * u * max(1.0, float(np.abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


def same(data: bytes, feeds: Mapping[str, Any], terms: int = 16) -> GraphModel:
    """Assert that a file gives what it gives in onnxruntime, and return the model."""
    network = read(data)
    close(network.run(None, feeds), by_onnxruntime(data, feeds), terms)
    assert isinstance(network, GraphModel)
    return network


def test_results_that_are_wrong_are_seen() -> None:
    """Gates in another order, a state that is lost, a step too late, another dtype or shape."""
    y = by_onnxruntime(model(lstm_graph()), FEEDS)[0]
    swapped = lstm_graph()
    for tensor in swapped.initializer[:2]:
        w = numpy_helper.to_array(tensor).reshape(1, 4, H, -1)[:, [1, 0, 2, 3]]
        tensor.CopyFrom(constant(tensor.name, w.reshape(1, 4 * H, -1)))
    without = {**FEEDS, "h": np.zeros_like(H0)}
    for wrong in (
        by_onnxruntime(model(swapped), FEEDS)[0],
        by_onnxruntime(model(lstm_graph()), without)[0],
        np.roll(y, 1, axis=0),
        y.astype("f8"),
        y[:, 0],
        y * np.float32(1 + 1e-4),
    ):
        with pytest.raises(AssertionError):
            close([wrong], [y], 16)


def lstm_arrays(directions: int = 1, seed: int = 0, i: int = I, h: int = H) -> dict[str, Any]:
    shapes = {"W": (4 * h, i), "R": (4 * h, h), "B": (8 * h,)}
    return {n: normal(directions, *s, seed=seed + k) for k, (n, s) in enumerate(shapes.items())}


def lstm_graph(outputs: Sequence[str] = ("Y", "hn", "cn"), **attributes: Any) -> Any:
    """Return a graph of one LSTM with states in and out."""
    attributes = {"hidden_size": H, "name": "rnn", **attributes}
    inputs = ["x", "W", "R", "B", "", "h", "c"]
    states = [port(name, [1, "batch", H]) for name in "hc"]
    return graph(
        [node("LSTM", inputs, outputs, **attributes)],
        [port("x", ["time", "batch", I]), *states],
        [port("Y", ["time", 1, "batch", H]), *(port(n, [1, "batch", H]) for n in outputs[1:])],
        lstm_arrays(),
    )


def states_of(network: GraphModel) -> list[tuple[str, str]]:
    return [(state.input.name, state.output) for state in network.states]


X, H0, C0 = normal(T, B, I), normal(1, B, H, seed=5), normal(1, B, H, seed=6)
FEEDS = {"x": X, "h": H0, "c": C0}


# ---- versions of operators and of files ---------------------------------------------------------


@pytest.mark.parametrize("opset", range(7, onnx.defs.onnx_opset_version() + 1))
def test_every_version_of_operators(opset: int) -> None:
    """The LSTM of each, and a Squeeze, whose axes were an attribute once."""
    new = opset >= 13
    squeeze = node(
        "Squeeze", ["Y", "one"] if new else ["Y"], ["y"], **({} if new else {"axes": [1]})
    )
    proto = lstm_graph()
    proto.node.extend([squeeze, node("MatMul", ["y", "M"], ["m"]), node("Tanh", ["m"], ["z"])])
    proto.initializer.extend([constant("one", [1]), constant("M", normal(H, 3, seed=9))])
    proto.output.append(port("z", ["time", "batch", 3]))
    data = model(proto, opset, ir=8 if opset < 20 else 10)
    network = read(data)
    try:
        expected = by_onnxruntime(data, FEEDS)
    except Exception:  # a version that this onnxruntime does not know yet
        assert opset > 21
        expected = by_onnxruntime(model(proto, 21, ir=10), FEEDS)
    close(network.run(None, FEEDS), expected, 16)
    assert states_of(network) == [("h", "hn"), ("c", "cn")]


def test_versions_that_are_not_read() -> None:
    with pytest.raises(ValueError, match=r"version \(opset\) 6 of ONNX, read are 7 and newer"):
        read(model(lstm_graph(), 6))
    with pytest.raises(
        ValueError, match="opset\\) 1000 of ONNX, the onnx package that is installed"
    ):
        read(model(lstm_graph(), 1000))
    unnamed = graph([node("Gelu", ["x"], ["y"], domain="com.example")], ["x"], ["y"])
    with pytest.raises(ValueError, match="operator Gelu 'y': the file does not tell the version"):
        read(model(unnamed))


def test_an_operator_that_nobody_knows_is_named() -> None:
    proto = lstm_graph()
    proto.node.append(node("Novel", ["Y"], ["z"], domain="com.example", name="new"))
    proto.output.append(port("z"))
    data = model(proto, imports=[helper.make_opsetid("com.example", 1)])
    said = "Novel.*com.example.*its LSTMs are loaded alone by fastlstm.load_lstm"
    with pytest.raises(ValueError, match=said):
        read(data)
    lstm = load_lstm(io.BytesIO(data))  # what is known can be taken alone
    close([lstm(X, (H0, C0))[0]], [by_onnxruntime(model(lstm_graph()), FEEDS)[0][:, 0]], 16)


def test_initializers_that_are_inputs_too() -> None:
    """In old files they are constants; in newer ones they may be left out, but for weights."""
    proto = graph(
        [node("Add", ["x", "shift"], ["s"]), node("MatMul", ["s", "M"], ["y"])],
        [port("x", [None, 2]), port("shift", [2]), port("M", [2, 2])],
        ["y"],
        {"shift": np.array([1, 2], "f"), "M": normal(2, 2)},
    )
    feeds = {"x": normal(3, 2)}
    old = same(model(proto, 9, ir=3), feeds)
    assert [p.name for p in old.inputs] == ["x"]
    new = same(model(proto), feeds)
    assert [p.name for p in new.inputs] == ["x", "shift"]
    assert "input 'shift' float32 (2), may be left out" in repr(new)
    same(model(proto), feeds | {"shift": np.array([5, 6], "f")})
    np.testing.assert_array_equal(new(feeds["x"]), new.run(None, feeds)[0])
    with pytest.raises(ValueError, match=r"there is no input 'M'; there are 'x', 'shift'"):
        new.run(None, feeds | {"M": normal(2, 2)})
    with pytest.raises(ValueError, match="a value is missing for the input 'x'"):
        new.run(None, {})


# ---- tensors ------------------------------------------------------------------------------------

FLOATS = ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2",
          "FLOAT8E5M2FNUZ", "FLOAT8E8M0", "FLOAT4E2M1"]  # fmt: skip
INTEGERS = ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "INT4",
            "UINT4", "INT2", "UINT2"]  # fmt: skip
OTHERS = ["BOOL", "COMPLEX64", "COMPLEX128"]


def tensors(folder: str | None = None, size: int = 1 << 20) -> Tensors:
    return Tensors(Source(io.BytesIO(bytes(size)), folder), Limits(1 << 20), "key")


@pytest.mark.parametrize("kind", [*FLOATS, *INTEGERS, *OTHERS])
@pytest.mark.parametrize("raw", [True, False])
def test_every_type_in_every_storage(kind: str, raw: bool) -> None:
    number = getattr(TensorProto, kind)
    values: Any = [1, 0, 1] if kind in (*OTHERS, "INT2", "UINT2") else [1, 2, 4, 0, 2]
    if kind == "FLOAT8E8M0":
        values = [1, 2, 4, 0.5, 2]  # it has no zero
    if kind.startswith("INT") and kind != "INT2":
        values = [1, -2, 7, -8, 3]
    dtype = helper.tensor_dtype_to_np_dtype(number)
    array = np.array(values, "f4" if kind in FLOATS else None).astype(dtype)
    if raw:
        tensor = numpy_helper.from_array(array, "t")
        assert tensor.data_type == number
    else:
        tensor = helper.make_tensor("t", number, array.shape, array)
    assert tensor.HasField("raw_data") is raw
    read = tensors().array(tensor)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)
    np.testing.assert_array_equal(read, numpy_helper.to_array(tensor))
    assert not read.flags.writeable


def test_strings() -> None:
    tensor = helper.make_tensor("t", TensorProto.STRING, (2, 1), [b"a", "ü".encode()])
    assert tensors().array(tensor).tolist() == [["a"], ["ü"]]


def made(**fields: Any) -> Any:
    return TensorProto(**{"name": "t", "data_type": FLOAT, "dims": [2], **fields})


FAULTY_TENSORS = {
    "too few numbers": (made(float_data=[1]), "FLOAT and shape (2,) has 1 numbers instead of 2"),
    "too many bytes": (made(raw_data=bytes(12)), "has 12 bytes instead of 8"),
    "nothing": (made(), "has 0 numbers instead of 2"),
    "another field": (made(int64_data=[1, 2]), "has 0 numbers instead of 2"),
    "no type": (made(data_type=0, float_data=[1, 2]), "a tensor has the unknown type 0"),
    "a new type": (made(data_type=99, float_data=[1, 2]), "a tensor has the unknown type 99"),
    "below 0": (made(dims=[-2], float_data=[1, 2]), "a tensor has a size below 0"),
    "huge": (made(dims=[1 << 60, 1 << 60], float_data=[1]), "has 1 numbers instead of 1329"),
    "huge, of nothing": (made(dims=[0, 1 << 62, 1 << 62]), "array"),
    "too many axes": (made(dims=[1] * 100, float_data=[1]), "dimension"),
    "segments": (made(float_data=[1, 2], segment=TensorProto.Segment()), "stored in segments"),
    "out of range": (made(data_type=TensorProto.UINT8, int32_data=[1, 256]), "cannot hold"),
    "codes out of range": (made(data_type=TensorProto.FLOAT16, int32_data=[1, -70000]), "cannot"),
    "strings as bytes": (made(data_type=TensorProto.STRING, raw_data=b"ab"), "stored as bytes"),
    "too few strings": (made(data_type=TensorProto.STRING, string_data=[b"a"]), "1 strings inst"),
    "nibbles": (made(data_type=TensorProto.INT4, dims=[3], raw_data=b"a"), "1 bytes instead of 2"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTY_TENSORS)
def test_faulty_tensors(fault: str) -> None:
    tensor, words = FAULTY_TENSORS[fault]
    with pytest.raises(ValueError, match=re.escape(words)):
        tensors().array(tensor)
    with pytest.raises(ValueError, match="^<BytesIO>: initializer 't': "):
        read(model(graph([node("Neg", ["t"], ["y"])], [], ["y"], [tensor])))
    with pytest.raises(ValueError, match="^<BytesIO>: operator Constant 'c': "):
        read(model(graph([node("Constant", [], ["c"], value=tensor)], [], ["c"])))


def test_sparse_tensors() -> None:
    values = constant("s", np.array([1, 2], "f"))
    dense = np.zeros((2, 3), "f")
    dense[0, 1], dense[1, 2] = 1, 2
    for places in (np.array([1, 5]), np.array([[0, 1], [1, 2]])):
        sparse = helper.make_sparse_tensor(values, constant("i", places), [2, 3])
        proto = graph([node("Add", ["x", "s"], ["y"])], ["x"], ["y"])
        proto.sparse_initializer.append(sparse)
        x = normal(2, 3)
        np.testing.assert_array_equal(read(model(proto))(x), x + dense)
        proto = graph(
            [node("Constant", [], ["s"], sparse_value=sparse), node("Add", ["x", "s"], ["y"])],
            ["x"], ["y"],
        )  # fmt: skip
        np.testing.assert_array_equal(read(model(proto))(x), x + dense)
    for places, dims, words in (
        (np.array([1, 6]), [2, 3], "an index outside of its shape"),
        (np.array([1, -1]), [2, 3], "an index outside of its shape"),
        (np.array([[0, 1], [2, 0]]), [2, 3], "an index outside of its shape"),
        (np.array([1]), [2, 3], "has 2 values, but indices of shape"),
        (np.array([1, 2]), [1 << 20, 1 << 20], "would take 4398046511104 bytes"),
        (np.array([1, 2]), [-2, 3], "a size below 0"),
        (np.array([1, 2], np.int32), [2, 3], "indices of int64"),
    ):
        proto.node[0].attribute[0].sparse_tensor.CopyFrom(
            helper.make_sparse_tensor(values, constant("i", places), dims)
        )
        with pytest.raises(ValueError, match=words):
            read(model(proto))


def test_large_numbers_are_taken_from_the_file_itself(tmp_path: pathlib.Path) -> None:
    """Those in initializers, constants, branches and functions; in a file, and behind others."""
    M = [normal(64, 64, seed=seed) for seed in range(4)]
    branch = graph([node("Constant", [], ["k"], value=constant("k", M[1])),
                    node("MatMul", ["a", "k"], ["b"])], [], ["b"])  # fmt: skip
    other = graph([node("Identity", ["a"], ["b2"])], [], ["b2"], {"unused": M[3]})
    function = helper.make_function(
        "own", "F", ["x"], ["y"],
        [node("Constant", [], ["k"], value=constant("k", M[2])), node("MatMul", ["x", "k"], ["y"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    proto = graph(
        [node("MatMul", ["x", "M"], ["a"]),
         node("If", ["p"], ["c"], then_branch=branch, else_branch=other),
         node("F", ["c"], ["y"], domain="own")],
        ["x", port("p", [], BOOL)], ["y"], {"M": M[0]},
    )  # fmt: skip
    data = model(proto, functions=[function], imports=[helper.make_opsetid("own", 1)])
    feeds = {"x": normal(2, 64) / 64, "p": np.array(True)}
    same(data, feeds, 64)
    (tmp_path / "m.bin").write_bytes(b"before" + data)
    with open(tmp_path / "m.bin", "rb") as file:
        file.seek(6)
        close(load(file).run(None, feeds), by_onnxruntime(data, feeds), 64)
        assert file.tell() == 6


def test_a_file_cannot_name_places_in_itself() -> None:
    """Where the reader leaves large numbers in the file, it marks that by a key of its own."""
    tensor = made(dims=[2])
    tensor.external_data.add(key="key", value="0 8")
    with pytest.raises(ValueError, match="has 0 numbers instead of 2"):
        read(model(graph([node("Neg", ["t"], ["y"])], [], ["y"], [tensor])))


# ---- external data ------------------------------------------------------------------------------


def external(location: str, size: int = 4, **told: Any) -> Any:
    """Return a tensor of so many floats in another file."""
    tensor = made(dims=[size], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **told}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def with_external(folder: pathlib.Path, *parts: Any) -> pathlib.Path:
    """Write a file in a folder of its own, which adds up tensors that lie beside it."""
    for k, part in enumerate(parts):
        part.name = f"t{k}"
    names = [part.name for part in parts]
    proto = graph([node("Sum", ["x", *names], ["y"])], ["x"], ["y"], parts)
    (folder / "m").mkdir()
    (folder / "m/m.onnx").write_bytes(model(proto))
    return folder / "m/m.onnx"


def test_external_data(tmp_path: pathlib.Path) -> None:
    path = with_external(
        tmp_path,
        external("d.bin"),
        external("d.bin", offset=16, length=16),
        external("sub/e.bin", offset=8),
        external("d.bin", offset=16),
    )
    (path.parent / "sub").mkdir()
    d, e = normal(8), normal(6, seed=1)
    (path.parent / "d.bin").write_bytes(d.tobytes())
    (path.parent / "sub/e.bin").write_bytes(e.tobytes())
    got = load(path)(np.zeros(4, "f"))
    np.testing.assert_allclose(got, d[:4] + 2 * d[4:] + e[2:], atol=1e-6)
    assert load_state(path) == {}
    os.chdir(path.parent)
    try:
        np.testing.assert_array_equal(load("m.onnx")(np.zeros(4, "f")), got)
    finally:
        os.chdir(tmp_path)
    with open(path, "rb") as file, pytest.raises(ValueError, match="give the path of the model"):
        load(file)


EXTERNAL_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "absolute": ({"location": "/etc/passwd"}, "by a path inside the model's folder"),
    "above": ({"location": "../secret"}, "by a path inside the model's folder"),
    "above, later": ({"location": "sub/../../secret"}, "by a path inside the model's folder"),
    "above, of Windows": ({"location": "..\\secret"}, "by a path inside the model's folder"),
    "no name": ({"location": ""}, "by a path inside the model's folder"),
    "zero byte": ({"location": "d\0"}, "by a path inside the model's folder"),
    "missing": ({"location": "none.bin"}, "cannot be read: No such file"),
    "a link out": ({"location": "link"}, "a link out of the model's folder"),
    "a folder link out": ({"location": "outside/secret"}, "a link out of the model's folder"),
    "a folder": ({"location": "sub"}, "no plain file"),
    "a pipe": ({"location": "pipe"}, "no plain file"),
    "too short": ({"location": "d.bin", "size": 9}, "36 bytes from byte 0 on are wanted of its"),
    "beyond": ({"location": "d.bin", "offset": 20}, "16 bytes from byte 20 on are wanted"),
    "huge": ({"location": "d.bin", "size": 1 << 50}, "which has 32"),
    "another length": ({"location": "d.bin", "length": 15}, "has 15 bytes instead of 16"),
    "offset below 0": ({"location": "d.bin", "offset": -4}, "the offset of a tensor"),
    "offset of words": ({"location": "d.bin", "offset": "a"}, "the offset of a tensor"),
    "offset of many digits": (
        {"location": "d.bin", "offset": "9" * 5000},
        "the offset of a tensor",
    ),
}


@pytest.mark.parametrize("fault", EXTERNAL_FAULTS)
def test_external_data_that_is_refused(tmp_path: pathlib.Path, fault: str) -> None:
    told, words = EXTERNAL_FAULTS[fault]
    path = with_external(tmp_path, external(**told))
    (tmp_path / "secret").write_bytes(bytes(16))
    (path.parent / "d.bin").write_bytes(bytes(32))
    (path.parent / "sub").mkdir()
    (path.parent / "link").symlink_to(tmp_path / "secret")
    (path.parent / "outside").symlink_to(tmp_path)
    os.mkfifo(path.parent / "pipe")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: initializer 't0': .*{words}"):
        load(path)


def test_one_region_may_have_many_names_but_not_be_read_over_and_over(
    tmp_path: pathlib.Path,
) -> None:
    size = 1 << 18
    path = with_external(tmp_path, *[external("d.bin", size) for _ in range(100)])
    (path.parent / "d.bin").write_bytes(np.ones(size + 100, "f").tobytes())
    assert load(path)(np.zeros(size, "f"))[0] == 100
    (tmp_path / "two").mkdir()
    parts = [external("d.bin", size, offset=4 * k) for k in range(100)]
    path = with_external(tmp_path / "two", *parts)
    (path.parent / "d.bin").write_bytes(bytes(4 * size + 400))
    with pytest.raises(ValueError, match="tensors take far more bytes of the file 'd.bin' than"):
        load(path)


# ---- names, constants, functions ----------------------------------------------------------------


def test_outputs_are_the_caller_s_own() -> None:
    """An output may be an input, a constant, or the same as another one."""
    proto = graph(
        [node("Identity", ["x"], ["a"]), node("Identity", ["k"], ["b"]), node("Neg", ["x"], ["c"]),
         node("Identity", ["c"], ["d"]), node("Reshape", ["x", "s"], ["e"])],
        [port("x", [2])], ["a", "b", "c", "d", "e", port("x", [2])],
        {"k": np.ones(2, "f"), "s": np.array([2, 1])},
    )  # fmt: skip
    network, x = read(model(proto)), np.array([3, 4], "f")
    for _ in range(2):
        results = network.run(None, {"x": x})
        expected = [[3, 4], [1, 1], [-3, -4], [-3, -4], [[3], [4]], [3, 4]]
        for k, result in enumerate(results):
            np.testing.assert_array_equal(result, expected[k])
            result += 1 + k  # which nobody else may see
        np.testing.assert_array_equal(x, [3, 4])


def test_lists_and_constants_of_branches_are_the_caller_s_own() -> None:
    proto = graph([node("SequenceConstruct", ["k", "l"], ["s"])], ["x"], ["s"],
                  {"k": x43, "l": x43[:2]})  # fmt: skip
    (got,) = read(model(proto)).run(None, {"x": x43})
    assert [one.shape for one in got] == [(4, 3), (2, 3)]

    def branch(name: str, number: float) -> Any:
        made = node("Constant", [], [name], value_floats=[number])
        return graph([made], [], [name])

    chosen = node("If", ["c"], ["y"], then_branch=branch("a", 1), else_branch=branch("b", 2))
    network = read(model(graph([chosen], [port("c", [], onnx.TensorProto.BOOL)], ["y"])))
    for _ in range(2):
        (y,) = network.run(None, {"c": np.array(True)})
        assert y.tolist() == [1]
        y += 1


def test_what_is_drawn_at_random_is_drawn_in_each_call() -> None:
    network = read(model(graph(
        [node("RandomNormal", [], ["r"], shape=[4]), node("RandomUniformLike", ["k"], ["u"]),
         node("Concat", ["r", "u", "x"], ["y"], axis=0)], [port("x", [1])], ["y"],
        {"k": np.zeros(4, "f")},
    )))  # fmt: skip
    first, second = (network(np.zeros(1, "f")) for _ in range(2))
    assert not np.any(first[:8] == second[:8])


def test_an_lstm_of_constants_follows_its_parameters() -> None:
    """It is not computed while the file is read: its weights may be others later."""
    arrays = lstm_arrays() | {"x": X}
    made = helper.make_node("LSTM", ["x", "W", "R", "B"], ["", "hn"], name="rnn", hidden_size=H)
    constants = {name: arrays[name] for name in ("x", "W", "R", "B")}
    network = read(model(graph([made, node("Add", ["hn", "z"], ["y"])], ["z"], ["y"], constants)))
    before = network(np.zeros(1, "f"))
    network.load_state_dict({name: 0 * value for name, value in network.state_dict().items()})
    assert before.any() and not network(np.zeros(1, "f")).any()


def test_a_graph_inside_may_have_names_of_its_own() -> None:
    """Its names go before those around it; both branches may have the same ones."""
    one = graph([node("Add", ["x", "k"], ["t"]), node("Add", ["t", "v"], ["u"])], [], ["u"],
                {"k": np.array([1], "f"), "v": np.array([10], "f")})  # fmt: skip
    two = graph([node("Add", ["x", "k"], ["t"]), node("Mul", ["t", "v"], ["u"])], [], ["u"],
                {"k": np.array([2], "f")})  # fmt: skip
    nodes = [
        node("Neg", ["x"], ["v"]),
        node("If", ["p"], ["a"], then_branch=one, else_branch=two),
        node("If", ["yes"], ["b"], then_branch=one, else_branch=two),
        node("If", ["no"], ["c"], then_branch=one, else_branch=two),
        node("Sub", ["b", "c"], ["t"]),
    ]
    constants = {"yes": np.array(True), "no": np.array([False])}
    network = read(model(graph(nodes, ["x", port("p", [], BOOL)], ["a", "b", "c", "t"], constants)))
    x = np.array([3, 5], "f")
    for p in (True, False):
        then, otherwise = x + 1 + 10, (x + 2) * -x
        expected = [then if p else otherwise, then, otherwise, then - otherwise]
        for got, wanted in zip(network.run(None, {"x": x, "p": p}), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert [n.type for n in network.plan.nodes].count("If") == 1


FAULTY_GRAPHS = {
    "a cycle": ([node("Add", ["x", "b"], ["a"]), node("Neg", ["a"], ["b"])], ["b"],
                "operator Add 'a': nothing before it gives 'b'"),
    "itself": ([node("Add", ["x", "a"], ["a"])], ["a"], "nothing before it gives 'a'"),
    "the wrong order": ([node("Neg", ["a"], ["b"]), node("Neg", ["x"], ["a"])], ["b"],
                        "operator Neg 'b': nothing before it gives 'a'"),
    "a missing value": ([node("Neg", ["q"], ["b"])], ["b"], "nothing before it gives 'q'"),
    "two of a name": ([node("Neg", ["x"], ["a"]), node("Abs", ["x"], ["a"])], ["a"],
                      "operator Abs 'a': there are two values called 'a'"),
    "an input's name": ([node("Neg", ["x"], ["x"])], ["x"], "there are two values called 'x'"),
    "a missing output": ([node("Neg", ["x"], ["a"])], ["z"], "nothing gives the output 'z'"),
    "two outputs": ([node("Neg", ["x"], ["a"])], ["a", "a"], "two outputs of the same name"),
    "no output": ([node("Neg", ["x"], ["a"])], [], "its graph has no outputs"),
    "a new operator": ([node("Nonsense", ["x"], ["a"])], ["a"], "Nonsense"),
    "an If without a branch": ([node("If", ["p"], ["a"])], ["a"], "it has no else_branch"),
    "an If of a constant": ([node("If", ["yes"], ["a"])], ["a"], "it has no then_branch"),
    "an If of two": ([node("If", ["two"], ["a"])], ["a"], "a condition must be one value"),
    "a Loop without a body": ([node("Loop", ["", "", "x"], ["a"])], ["a"], "it has no body"),
    "a Scan without a body": ([node("Scan", ["x"], ["a"])], ["a"], "it has no body"),
    "a Constant of nothing": ([node("Constant", [], ["a"])], ["a"], "needs one output and one"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTY_GRAPHS)
def test_faulty_graphs(fault: str) -> None:
    nodes, outputs, words = FAULTY_GRAPHS[fault]
    constants = {"yes": np.array(True), "two": np.array([True, False])}
    data = model(graph(nodes, ["x", port("p", [], BOOL)], outputs, constants))
    with pytest.raises(ValueError, match=f"^<BytesIO>: .*{re.escape(words)}"):
        read(data)


def own_function(
    name: str, nodes: Any, inputs: Any = ("x",), outputs: Any = ("y",), **more: Any
) -> Any:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, inputs, outputs, nodes, imports, **more)


def with_functions(functions: Any, nodes: Any, outputs: Any = ("y",)) -> bytes:
    imports = [helper.make_opsetid("own", 1)]
    proto = graph(nodes, ["x"], outputs)
    return model(proto, functions=functions, imports=imports)


def test_functions() -> None:
    """Called in each other, with attributes, defaults, graphs inside, and inputs left out."""
    leaky = node("LeakyRelu", ["x"], ["t"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    slope = helper.make_attribute("slope", 0.25)
    then = graph([node("Add", ["t", "x"], ["r"])], [], ["r"])
    other = graph([node("Sub", ["t", "x"], ["r"])], [], ["r"])
    inner = own_function(
        "Inner",
        [leaky, node("ReduceSum", ["x"], ["s"], keepdims=0),
         node("Constant", [], ["zero"], value_float=0.0), node("Greater", ["s", "zero"], ["p"]),
         node("If", ["p"], ["y"], then_branch=then, else_branch=other)],
        attribute_protos=[slope],
    )  # fmt: skip
    call = node("Inner", ["x"], ["t"], domain="own")
    call.attribute.add(name="slope", ref_attr_name="outer", type=onnx.AttributeProto.FLOAT)
    outer = own_function(
        "Outer", [call, node("Inner", ["t"], ["y"], domain="own")], attributes=["outer"]
    )
    data = with_functions(
        [outer, inner],
        [node("Outer", ["x"], ["a"], domain="own", outer=0.5),
         node("Inner", ["a"], ["b"], domain="own"), node("Neg", ["b"], ["y"])],
    )  # fmt: skip
    for x in (normal(5), -normal(5)):
        same(data, {"x": x})


def test_functions_that_never_end() -> None:
    loop = [own_function("A", [node("B", ["x"], ["y"], domain="own")]),
            own_function("B", [node("A", ["x"], ["y"], domain="own")])]  # fmt: skip
    data = with_functions(loop, [node("A", ["x"], ["y"], domain="own")])
    with pytest.raises(ValueError, match="the function 'A' calls itself"):
        read(data)
    doubling = [own_function("F0", [node("Neg", ["x"], ["y"])])]
    for k in range(1, 60):
        calls = [node(f"F{k - 1}", ["x"], ["t"], domain="own"),
                 node(f"F{k - 1}", ["t"], ["y"], domain="own")]  # fmt: skip
        doubling.append(own_function(f"F{k}", calls))
    for depth, words in (20, "or more operators"), (59, "levels of graphs"):
        data = with_functions(doubling, [node(f"F{depth}", ["x"], ["y"], domain="own")])
        with pytest.raises(ValueError, match=words):
            read(data)
    k = node("Constant", [], ["k"], value=constant("k", np.ones(1 << 18, "f")))
    big = own_function("Big", [k, node("Add", ["x", "k"], ["y"])])
    names = ["x", *(f"v{k}" for k in range(50)), "y"]
    calls = [node("Big", [a], [b], domain="own") for a, b in itertools.pairwise(names)]
    with pytest.raises(
        ValueError, match="far more would be made of its constants than it has of them"
    ):
        read(with_functions([big], calls))


def nested(depth: int) -> bytes:
    inner = graph([node("Neg", ["x"], ["v0"])], [], ["v0"])
    for k in range(1, depth):
        branch = node("If", ["p"], [f"v{k}"], then_branch=inner, else_branch=inner)
        inner = graph([branch], [], [f"v{k}"])
        if k < 4:
            continue
        inner.node[0].attribute[0].g.CopyFrom(graph([node("Abs", ["x"], ["w"])], [], ["w"]))
    inner.input.extend([port("x"), port("p", [], BOOL)])
    return model(inner)


def test_graphs_in_graphs_in_graphs() -> None:
    network = read(nested(25))
    assert network.run(None, {"x": np.ones(1, "f"), "p": True})[0] == -1
    assert pickle.loads(pickle.dumps(network)).run(None, {"x": np.ones(1, "f"), "p": True})[0] == -1
    assert copy.deepcopy(network).run(None, {"x": np.ones(1, "f"), "p": False})[0] == 1


# ---- If, Loop, Scan -----------------------------------------------------------------------------

x43 = normal(4, 3)


def test_only_the_branch_that_is_taken_runs() -> None:
    wrong = graph([node("Reshape", ["x", "seven"], ["e"])], [], ["e"], {"seven": np.array([7])})
    right = graph([node("Neg", ["x"], ["t"])], [], ["t"])
    branches = {"then_branch": right, "else_branch": wrong}
    proto = graph([node("If", ["p"], ["y"], **branches)], ["x", port("p", [], BOOL)], ["y"])
    network = read(model(proto))
    np.testing.assert_array_equal(network(x43, True), -x43)
    with pytest.raises(ValueError, match=r"operator Reshape 'e': .*"):
        network(x43, False)
    with pytest.raises(ValueError, match="the input 'p' bool .* is given float"):
        network(x43, np.array(1.0))


@pytest.mark.parametrize("trips", [None, 0, 3])
@pytest.mark.parametrize("condition", [None, True, False])
@pytest.mark.parametrize("stop", [1, 2, 100])
def test_loops(trips: int | None, condition: bool | None, stop: int) -> None:
    """With and without a number of trips and a condition; states, collected values, outer ones."""
    if trips is None and condition is None:
        condition = True
    body = graph(
        [node("Add", ["v", "x"], ["v2"]), node("Cast", ["i"], ["f"], to=FLOAT),
         node("Add", ["v2", "f"], ["s"]), node("Less", ["i", "stop"], ["go"])],
        [port("i", [], INT64), port("c", [], BOOL), port("v", [4, 3])],
        [port("go", [], BOOL), port("v2", [4, 3]), port("s", [4, 3])],
        {"stop": np.array(min(stop, 5))},
    )  # fmt: skip
    inputs = ["" if trips is None else "M", "" if condition is None else "p", "x"]
    given: dict[str, Any] = {"x": x43}
    ports = [port("x", [4, 3])]
    if trips is not None:
        given["M"], ports = np.array(trips), [*ports, port("M", [], INT64)]
    if condition is not None:
        given["p"], ports = np.array(condition), [*ports, port("p", [], BOOL)]
    proto = graph([node("Loop", inputs, ["v_end", "all"], body=body)], ports, ["v_end", "all"])
    for opset in (11, 17, 21):
        same(model(proto, opset), given)


@pytest.mark.parametrize("back", [0, 1])
@pytest.mark.parametrize("out_back", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("out_axis", [0, 1, -1])
def test_scans(back: int, out_back: int, axis: int, out_axis: int) -> None:
    body = graph(
        [node("Add", ["s", "a"], ["s2"]), node("Mul", ["s2", "k"], ["o"])],
        [port("s", [3]), port("a", [3])], [port("s2", [3]), port("o", [3])],
    )  # fmt: skip
    scan = node("Scan", ["s0", "x"], ["s_end", "all"], body=body, num_scan_inputs=1,
                scan_input_axes=[axis], scan_input_directions=[back], scan_output_axes=[out_axis],
                scan_output_directions=[out_back])  # fmt: skip
    ports = [port("s0", [3]), port("x", [None, None]), port("k", [1])]
    x = x43 if axis == 0 else x43.T.copy()
    data = model(graph([scan], ports, ["s_end", "all"]))
    feeds = {"s0": x43[0], "x": x, "k": np.array([2], "f")}
    network = same(data, feeds)
    # of nothing, which makes onnxruntime crash
    s_end, all_ = network.run(None, feeds | {"x": x[:0] if axis == 0 else x[:, :0]})
    np.testing.assert_array_equal(s_end, x43[0])
    assert all_.shape == ((0, 3) if out_axis == 0 else (3, 0))


def test_scans_of_batches() -> None:
    """The form of ONNX's first version of it, with lengths."""
    body = graph(
        [node("Add", ["s", "a"], ["s2"]), node("Neg", ["s2"], ["o"])],
        [port("s", [3]), port("a", [3])], [port("s2", [3]), port("o", [3])],
    )  # fmt: skip
    for lengths, back in itertools.product(("", "lengths"), (0, 1)):
        scan = node("Scan", [lengths, "s0", "x"], ["s_end", "all"], body=body, num_scan_inputs=1,
                    directions=[back])  # fmt: skip
        ports = [port("s0", [2, 3]), port("x", [2, 4, 3])]
        feeds: dict[str, Any] = {"s0": x43[:2], "x": normal(2, 4, 3, seed=1)}
        if lengths:
            ports.append(port("lengths", [2], INT64))
            feeds["lengths"] = np.array([4, 2])
        same(model(graph([scan], ports, ["s_end", "all"]), 8, ir=3), feeds)


def test_an_lstm_inside_a_loop_is_a_layer_of_the_model() -> None:
    body = graph(
        [node("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["", "h2", "c2"], hidden_size=H,
              name="in"),
         node("Identity", ["go"], ["go2"])],
        [port("i", [], INT64), port("go", [], BOOL), port("h", [1, B, H]), port("c", [1, B, H])],
        [port("go2", [], BOOL), port("h2", [1, B, H]), port("c2", [1, B, H])],
    )  # fmt: skip
    proto = graph(
        [node("Loop", ["three", "", "h0", "c0"], ["h", "c"], body=body)],
        [port("x", [T, B, I]), port("h0", [1, B, H]), port("c0", [1, B, H])], ["h", "c"],
        {"three": np.array(3), **lstm_arrays()},
    )  # fmt: skip
    network = same(model(proto), {"x": X, "h0": H0, "c0": C0})
    assert list(network.children) == ["in"] and isinstance(network.children["in"], LSTM)
    lstm = load_lstm(io.BytesIO(model(proto)))
    states = H0, C0
    for _ in range(3):
        _, states = lstm(X, states)
    close(network.run(None, {"x": X, "h0": H0, "c0": C0}), states, 16)


# ---- states and streams -------------------------------------------------------------------------

ALIKE = [
    "h hn", "h0 hn", "h_0 h_n", "h_in h_out", "hin hout", "h0 h1", "state stateN", "c cn",
    "state state_out", "in_state out_state", "input_state output_state", "hidden hidden_out",
    "c_prev c_next", "prev_h next_h", "h_prev h", "initial_h final_h", "lstm1.h0 lstm1.hn",
    "hidden_state new_hidden_state", "h.1 h_out.1", "h0_1 hn_1", "state_in_0 state_out_0", "h0 hn0",
    "stateIn stateOut", "lstm_h_in lstm_h_out",
]  # fmt: skip
APART = [
    "x y", "input output", "x_in x_out", "audio_in audio_out", "h c", "h cn", "h0 cn", "h_in c_out",
    "mask mask_out", "input_ids output_ids", "a.h b.hn", "c1 c2", "h h2", "state_1 state_0",
    "length length_out", "h_0 h_1_out", "state_0 state_out_1", "h1 h0n",
]  # fmt: skip


@pytest.mark.parametrize("names", [*ALIKE, *APART])
def test_names_of_states(names: str) -> None:
    assert onnx_states._named_alike(*names.split()) is (names in ALIKE)


def summed(inputs: Any, outputs: Any) -> list[tuple[str, str]]:
    """Return the states of a graph in which every output is the sum of all inputs."""
    names = [p.name for p in inputs]
    nodes = [node("Sum", names, [p.name]) for p in outputs]
    return states_of(read(model(graph(nodes, inputs, outputs))))


def test_states_by_name_must_be_clear() -> None:
    h, n = port("h", [1, "b", 4]), port("hn", [1, "b", 4])
    assert summed([port("x"), h], [port("y"), n]) == [("h", "hn")]
    assert summed([h], [port("hn", [1, "q", "w"])]) == [("h", "hn")]
    assert summed([h], [port("hn", [2, "b", 4])]) == []  # another size
    assert summed([h], [port("hn", ["b", 4])]) == []  # other axes
    assert summed([h], [port("hn", ["b", 1, 4])]) == []  # in another order
    assert summed([h], [port("hn", [1, "b", 4], TensorProto.DOUBLE)]) == []
    assert summed([port("h")], [n]) == []  # sizes that the file does not tell
    assert summed([h, port("h_in", [1, "b", 4])], [n]) == []  # two that it could be
    assert summed([h], [n, port("h_out", [1, "b", 4])]) == []


def test_states_by_where_values_go() -> None:
    """Of two layers in one array, whatever its name; not those of a part, nor of swapped ones."""
    arrays = {f"{n}{k}": a for k in (0, 1) for n, a in lstm_arrays(i=H, seed=9 * k).items()}
    split = [node("Split", [s], [f"{s}0", f"{s}1"], axis=0) for s in ("first", "second")]
    lstms = [
        node("LSTM", [x, f"W{k}", f"R{k}", f"B{k}", "", f"first{k}", f"second{k}"],
             [f"Y{k}", f"H{k}", f"C{k}"], hidden_size=H)
        for k, x in enumerate(("x", "y0"))
    ]  # fmt: skip
    squeeze = node("Squeeze", ["Y0", "one"], ["y0"])
    joins = [node("Concat", ["H0", "H1"], ["third"], axis=0),
             node("Concat", ["C0", "C1"], ["fourth"], axis=0),
             node("Add", ["third", "third"], ["double"])]  # fmt: skip
    shape = [2, "b", H]
    proto = graph(
        [*split, lstms[0], squeeze, lstms[1], *joins],
        [port("x", ["t", "b", H]), port("first", shape), port("second", shape)],
        [port("Y1"), port("third", shape), port("fourth", shape), port("double", shape)],
        {"one": np.array([1]), **arrays},
    )  # fmt: skip
    x, h, c = normal(T, B, H), normal(2, B, H, seed=1), normal(2, B, H, seed=2)
    network = same(model(proto), {"x": x, "first": h, "second": c})
    assert states_of(network) == [("first", "third"), ("second", "fourth")]
    joins[0].input[:] = ["H0", "C1"]
    joins[1].input[:] = ["C0", "H1"]
    proto.node[5].CopyFrom(joins[0])
    proto.node[6].CopyFrom(joins[1])
    assert states_of(read(model(proto))) == []


def test_names_do_not_count_against_where_values_go() -> None:
    """The second LSTM begins with what the first one ends with: its end is no state of that."""
    arrays = {f"{n}{k}": a for k in (0, 1) for n, a in lstm_arrays(seed=9 * k).items()}
    lstms = [
        node("LSTM", ["x", f"W{k}", f"R{k}", f"B{k}", "", h], ["", end], hidden_size=H)
        for k, h, end in ((0, "h", "between"), (1, "between", "hn"))
    ]
    shape = [1, "b", H]
    proto = graph(lstms, [port("x", ["t", "b", I]), port("h", shape)], [port("hn", shape)], arrays)
    network = same(model(proto), {"x": X, "h": H0})
    assert states_of(network) == []
    with pytest.raises(ValueError, match="this graph has none"):
        network.stream()


@pytest.mark.parametrize(("kind", "gates"), [("GRU", 3), ("RNN", 1)])
def test_states_of_other_recurrent_operators(kind: str, gates: int) -> None:
    arrays = {"W": normal(1, gates * H, I, seed=1), "R": normal(1, gates * H, H, seed=2)}
    recurrent = node(kind, ["x", "W", "R", "", "", "first"], ["Y", "second"], hidden_size=H)
    shape = [1, "b", H]
    proto = graph([recurrent], [port("x", ["t", "b", I]), port("first", shape)],
                  [port("Y"), port("second", shape)], arrays)  # fmt: skip
    network = same(model(proto), {"x": X, "first": H0})
    assert states_of(network) == [("first", "second")]
    stream, whole = network.stream(B), network(X)
    for t in range(T):
        close([stream.step(X[t : t + 1])], [whole[t : t + 1]], 16)


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_what_runs_backward_is_not_streamed(direction: str) -> None:
    """It begins with zeros like other states, but a stream never comes to its beginning."""
    d = 1 + (direction == "bidirectional")
    ports = [port("x", ["t", "b", I]), port("h", [d, "b", H])]
    lstm = node("LSTM", ["x", "W", "R", "B", "", "h"], ["Y", "hn"], hidden_size=H,
                direction=direction)  # fmt: skip
    proto = graph([lstm], ports, [port("Y"), port("hn", [d, "b", H])], lstm_arrays(d))
    network = same(model(proto), {"x": X, "h": np.zeros((d, B, H), "f")})
    np.testing.assert_array_equal(network(X), network(X, h=np.zeros((d, B, H), "f")))
    with pytest.raises(ValueError, match="the state 'h' is that of a layer that runs backward"):
        network.stream(B)


def test_streams() -> None:
    network = same(model(lstm_graph()), FEEDS)
    assert states_of(network) == [("h", "hn"), ("c", "cn")]
    zeros = np.zeros_like(H0)
    whole, h, c = network.run(None, {"x": X, "h": zeros, "c": zeros})
    np.testing.assert_array_equal(network(X), whole)
    np.testing.assert_array_equal(network({"x": X}), whole)
    np.testing.assert_array_equal(network(X, h=H0, c=C0), network.run(["Y"], FEEDS)[0])
    stream = network.stream(B)
    for t in range(T):
        np.testing.assert_array_equal(stream.step(X[t : t + 1]), whole[t : t + 1])
        if t == 1:
            branch, kept = copy.copy(stream), copy.deepcopy(stream)
            thawed = pickle.loads(pickle.dumps(stream))
    for other in branch, kept, thawed:
        np.testing.assert_array_equal(other.run(x=X[2:3]), whole[2:3])
        np.testing.assert_array_equal(other.run(x=X[3:4]), whole[3:4])
        np.testing.assert_array_equal(other.run(X[4:]), whole[4:])
        np.testing.assert_array_equal(other.state["h"], h)
        np.testing.assert_array_equal(other.state["c"], c)
    stream.reset([False, True])
    np.testing.assert_array_equal(stream.state["h"][:, 0], h[:, 0])
    assert not stream.state["h"][:, 1].any() and not stream.state["c"][:, 1].any()
    stream.state = {"h": H0, "c": C0}
    np.testing.assert_array_equal(stream.run(X), network.run(["Y"], FEEDS)[0])
    stream.reset()
    np.testing.assert_array_equal(stream.run(X), whole)


def test_what_a_stream_refuses() -> None:
    network = read(model(lstm_graph()))
    stream = network.stream(B)
    stream.step(X)
    before = stream.state
    for call, kind, words in (
        (lambda: stream.step(X, X), TypeError, "it takes 1 inputs, 'x', got 2"),
        (lambda: stream.step(), ValueError, "a value is missing for the input 'x'"),
        (lambda: stream.step(X, x=X), TypeError, "'x' is given twice"),
        (lambda: stream.step(y=X), ValueError, "there is no input 'y' besides"),
        (lambda: stream.step(X, h=H0), ValueError, "there is no input 'h' besides the states"),
        (lambda: stream.step(X.astype("f8")), ValueError, "is given float64"),
        (lambda: stream.step(X[:, :1]), ValueError, "operator LSTM 'rnn': "),
        (lambda: stream.reset([True]), ValueError, "mask must be 2 booleans"),
        (lambda: setattr(stream, "state", {"h": H0}), ValueError, "must be a dict of 'h', 'c'"),
        (lambda: setattr(stream, "state", {"h": H0[:, :1], "c": C0}), ValueError,
         r"the state 'h' must have shape \(1, 2, 4\), got \(1, 1, 4\)"),
        (lambda: network.stream(0), ValueError, "batch_size must be greater than zero"),
    ):  # fmt: skip
        with pytest.raises(kind, match=words):  # type: ignore[call-overload]
            call()
    for name, state in stream.state.items():
        np.testing.assert_array_equal(state, before[name])
    with pytest.raises(ValueError, match="needs inputs and outputs that belong together"):
        read(model(lstm_graph(outputs=("Y",)))).stream()
    fixed = read(model(graph([node("Add", ["x", "h"], ["hn"])], [port("x", [3]), port("h", [3])],
                             [port("hn", [3])])))  # fmt: skip
    with pytest.raises(ValueError, match="so that its axis of the batch is not known"):
        fixed.stream().reset([True])
    with pytest.raises(ValueError, match="batch_size=2: the file fixes all sizes of its states"):
        fixed.stream(2)


# ---- a GraphModel -------------------------------------------------------------------------------


def test_inputs_are_converted_where_nothing_is_lost() -> None:
    inputs = [port("x", ["n", 2]), port("i", [1], INT64), port("p", [1], BOOL)]
    casts = [node("Cast", [name], [f"{name}f"], to=FLOAT) for name in "ip"]
    network = read(model(graph([*casts, node("Sum", ["x", "if", "pf"], ["y"])], inputs, ["y"])))
    x, i, p = np.ones((3, 2), "f"), np.array([2]), np.array([True])
    for feeds in (
        {"x": x.tolist(), "i": [2], "p": [True]},
        {"x": x.astype("f2"), "i": i.astype("i4"), "p": p},
        {"x": x.astype(">f4"), "i": i.astype("u1"), "p": p},
        {"x": [[1, 1]] * 3, "i": i, "p": p},
        {"x": np.ones((6, 4), "f")[::2, ::2], "i": i, "p": p},
    ):
        np.testing.assert_array_equal(network.run(None, feeds)[0], np.full((3, 2), 4, "f"))
    for name, value in (
        ("x", x.astype("f8")), ("x", x.astype("i4")), ("i", np.array([2.0])), ("i", [2.5]),
        ("i", np.array([2], "u8")), ("p", np.array([1])), ("p", [1]), ("x", x > 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"the input '{name}' .* is given .*: give it x"):
            network.run(None, {"x": x, "i": i, "p": p, name: value})
    for wrong in (x[0], np.ones((3, 3), "f")):
        with pytest.raises(ValueError, match=r"'x' float32 \(n, 2\) is given an array of shape"):
            network.run(None, {"x": wrong, "i": i, "p": p})
    with pytest.raises(TypeError, match="x is a masked array|is a masked array"):
        network.run(None, {"x": np.ma.masked_array(x), "i": i, "p": p})


def test_names_of_outputs_and_inputs() -> None:
    network = read(model(lstm_graph()))
    y, hn, cn = network.run(None, FEEDS)
    for names in (["cn", "Y"], ["hn"], [], ["Y", "Y"]):
        got = network.run(names, FEEDS)
        wanted = [{"Y": y, "hn": hn, "cn": cn}[name] for name in names]
        assert len(got) == len(wanted)
        assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
    for call, kind, words in (
        (lambda: network.run(["q"], FEEDS), ValueError, "no output 'q'; there are 'Y', 'hn', 'cn'"),
        (lambda: network.run("Y", FEEDS), TypeError, "output_names must be a list of names"),
        (lambda: network.run(None, X), TypeError, "feeds must be a dict"),
        (lambda: network.run(None, {"x": X}), ValueError, "missing for the input 'h', 'c'"),
        (lambda: network(X, x=X), TypeError, "the input 'x' is given twice"),
        (lambda: network(), ValueError, "missing for the input 'x'"),
        (lambda: network.vjp(X), NotImplementedError, "fastlstm.load_lstm takes an LSTM out"),
        (lambda: network.astype("float64"), ValueError, "load_lstm.path, dtype='float64'"),
    ):  # fmt: skip
        with pytest.raises(kind, match=words):  # type: ignore[call-overload]
            call()
    assert network.astype("float32") is not network


def test_new_parameters_take_effect() -> None:
    network = read(model(lstm_graph()))
    assert list(network.state_dict()) == [
        f"rnn.{n}_l0" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    for one in network, copy.deepcopy(network), pickle.loads(pickle.dumps(network)):
        before = one(X)
        stream = one.stream(B)
        one.load_state_dict({n: 2 * a for n, a in one.state_dict().items()})
        lstm = LSTM(I, H, batch_first=False)
        lstm.load_state_dict({n.removeprefix("rnn."): a for n, a in one.state_dict().items()})
        close([one(X)[:, 0], stream.run(X)[:, 0]], 2 * [lstm(X)[0]], 16)
        assert not np.array_equal(one(X), before)
    np.testing.assert_array_equal(before, read(model(lstm_graph()))(X))


def test_all_layers_that_run_are_the_model_s() -> None:
    """A weight that products with a bias and without one take, around a graph and inside it."""
    inner = graph([node("MatMul", ["x", "W"], ["t"]), node("Add", ["t", "l"], ["u"])], [], ["u"])
    plain = graph([node("MatMul", ["x", "W"], ["v"])], [], ["v"])
    nodes = [
        node("MatMul", ["x", "W"], ["a"]), node("Add", ["a", "k"], ["y0"]),
        node("MatMul", ["x", "W"], ["y1"]),
        node("MatMul", ["x", "W"], ["b"]), node("Add", ["b", "l"], ["y2"]),
        node("Gemm", ["x", "W", "m"], ["y3"], alpha=0.5),
        node("If", ["c"], ["y4"], then_branch=inner, else_branch=plain),
    ]  # fmt: skip
    outputs = [f"y{k}" for k in range(5)]
    constants = {"W": x43.T, "k": normal(4, seed=1), "l": normal(4, seed=2)}
    inputs = ["x", "m", port("c", [], BOOL)]
    for condition in True, False:
        feeds = {"x": x43, "m": np.zeros((4, 4), "f"), "c": np.array(condition)}
        network = same(model(graph(nodes, inputs, outputs, constants)), feeds)
        network.load_state_dict({name: 0 * value for name, value in network.state_dict().items()})
        assert not any(value.any() for value in network.run(None, feeds))


def test_sequences_of_arrays() -> None:
    """An output may be a list, and an input too."""
    listed = helper.make_tensor_sequence_value_info("s", FLOAT, None)
    proto = graph([node("SequenceConstruct", ["x", "x"], ["s"])], ["x"], [listed])
    (got,) = read(model(proto)).run(None, {"x": x43})
    assert isinstance(got, (list, tuple)) and len(got) == 2
    np.testing.assert_array_equal(got[1], x43)
    proto = graph([node("ConcatFromSequence", ["s"], ["y"], axis=0)], [listed], ["y"])
    network = read(model(proto))
    np.testing.assert_array_equal(network([x43, x43]), np.concatenate([x43, x43]))
    with pytest.raises(TypeError, match="the input 's' must be a list of arrays"):
        network.run(None, {"s": x43})
    joined = node("ConcatFromSequence", ["s"], ["t"], axis=0)
    network = read(model(graph([joined, node("Add", ["t", "x"], ["y"])], ["x", listed], ["y"])))
    for _ in range(2):
        np.testing.assert_array_equal(network(x43, [x43]), x43 + x43)
        with pytest.raises(ValueError, match="a value is missing for the input 's'"):
            network.run(None, {"x": x43})


def test_strings_and_optional_values() -> None:
    words = port("x", [2], TensorProto.STRING)
    lower = node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER")
    network = read(model(graph([lower], [words], [port("y", None, TensorProto.STRING)])))
    for given in (["A", "Bc"], np.array(["A", "Bc"]), np.array(["A", "Bc"], object)):
        y = network(given)
        assert y.dtype == object and y.tolist() == ["a", "bc"]
    with pytest.raises(TypeError, match="the input 'x' must hold strings"):
        network([1, 2])
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [2]))
    maybe = helper.make_value_info("x", kind)
    has = node("OptionalHasElement", ["x"], ["y"])
    network = read(model(graph([has], [maybe], [port("y", [], BOOL)]), 18))
    assert network.run(None, {"x": None}) == [False]
    assert network.run(None, {"x": np.ones(2, "f")}) == [True]


@pytest.fixture(scope="module")
def onnx_cases() -> dict[str, list[Any]]:
    """The onnx package's own cases, by their first operator; it takes seconds to make them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as it makes them
        found = importlib.import_module("onnx.backend.test.case.node").collect_testcases(None)
    cases: dict[str, list[Any]] = {}
    for case in found:
        if case.model and case.data_sets and "bfloat16" not in case.name:
            cases.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return cases


@pytest.mark.parametrize(
    "kind",
    ["If", "Loop", "Scan", "Identity", "Constant", "SplitToSequence", "SequenceInsert",
     "OptionalHasElement", "OptionalGetElement"],
)  # fmt: skip
def test_the_onnx_package_s_own_cases(onnx_cases: dict[str, list[Any]], kind: str) -> None:
    """Of operators that are more than functions of arrays."""

    def as_value(value: Any) -> Any:
        return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value

    for case in onnx_cases[kind]:
        network = read(case.model.SerializeToString())
        for inputs, outputs in case.data_sets:
            feeds = zip((p.name for p in network.inputs), map(as_value, inputs), strict=True)
            got = network.run(None, dict(feeds))
            for one, other in zip(got, map(as_value, outputs), strict=True):
                if isinstance(other, (list, tuple)):
                    close(one, other, 1)
                else:
                    close([one], [other], 1)


# ---- LSTMs alone --------------------------------------------------------------------------------


def two_lstms() -> bytes:
    proto = lstm_graph(name="enc.rnn", activations=["Sigmoid", "Tanh", "Relu"], clip=0.5)
    arrays = lstm_arrays(2, seed=20, i=H)
    proto.node.extend([
        node("Squeeze", ["Y", "one"], ["y"]),
        node("LSTM", ["y", "W2", "R2", "B2"], ["Z"], hidden_size=H, direction="bidirectional",
             name="dec"),
    ])  # fmt: skip
    proto.initializer.extend(
        [constant("one", [1]), *(constant(f"{n}2", a) for n, a in arrays.items())]
    )
    proto.output.append(port("Z"))
    return model(proto)


def test_an_lstm_alone() -> None:
    data = two_lstms()
    file = io.BytesIO(data)
    y, _, _, z = by_onnxruntime(data, FEEDS)
    with pytest.raises(ValueError, match="choose one with prefix=: 'enc_rnn', 'dec'"):
        load_lstm(file)
    with pytest.raises(ValueError, match="no LSTM has the prefix 'q'; there are 'enc_rnn', 'dec'"):
        load_lstm(file, prefix="q")
    for dtype in ("float32", "float64"):
        one = load_lstm(file, prefix="enc_rnn", dtype=dtype)
        two = load_lstm(file, prefix="dec.", dtype=dtype, engine="numpy")
        assert (one.dtype, two.engine, two.bidirectional) == (dtype, "numpy", True)
        assert (one.gate_clip, one.output_activation) == (0.5, "relu")
        close(
            [one(X.astype(dtype), (H0.astype(dtype), C0.astype(dtype)))[0].astype("f")],
            [y[:, 0]],
            16,
        )
        out = two(y[:, 0].astype(dtype))[0].reshape(T, B, 2, H).transpose(0, 2, 1, 3)
        close([np.ascontiguousarray(out).astype("f")], [z], 16)
    part = load(file, prefix="dec")
    assert isinstance(part, LSTM)
    assert {n.split(".")[0] for n in load_state(file)} == {"enc_rnn", "dec"}
    into = LSTM(I, H, gate_clip=0.5, output_activation="relu", batch_first=False)
    assert load(file, into=into, prefix="enc_rnn") is into
    close([into(X, (H0, C0))[0]], [y[:, 0]], 16)
    whole = load(file)
    whole.load_state_dict({name: 0 * array for name, array in whole.state_dict().items()})
    assert load(file, into=whole) is whole
    close(whole.run(["Y", "Z"], FEEDS), [y, z], 16)
    with pytest.raises(ValueError, match="enc_rnn has gate_clip=0.5 in the file, None"):
        load(file, into=LSTM(I, H, output_activation="relu"), prefix="enc_rnn")


def test_an_lstm_that_is_damaged_is_named() -> None:
    data = model(lstm_graph(hidden_size=5))
    for function in load, load_lstm, load_state:
        with pytest.raises(ValueError, match="operator LSTM 'rnn': R must have shape"):
            function(io.BytesIO(data))


def test_attributes_of_another_type_than_they_say() -> None:
    proto = lstm_graph()
    attribute = next(a for a in proto.node[0].attribute if a.name == "hidden_size")
    attribute.f = 4.0
    with pytest.raises(ValueError, match="attribute 'hidden_size' is said to be INT, but has 'f'"):
        read(model(proto))
    attribute.ClearField("f")
    attribute.type = onnx.AttributeProto.UNDEFINED
    with pytest.raises(ValueError, match="attribute 'hidden_size' has no known type"):
        read(model(proto))


def test_what_load_refuses_of_a_graph() -> None:
    file = io.BytesIO(model(lstm_graph()))
    for options, words in (
        ({"dtype": "float64"}, "an ONNX graph has types of its own; load_lstm takes"),
        ({"order": ["rnn"]}, "order= is for files that do not tell it"),
        ({"batch_first": True}, "how a graph takes its inputs stands in their shapes"),
        ({"key": "a"}, "key='a' is for torch checkpoints"),
        ({"prefix": "q"}, "nothing has the prefix 'q'"),
    ):
        with pytest.raises(ValueError, match=words):
            load(file, **options)
    assert load(file, dtype="float32", engine="numpy").children["rnn"].engine == "numpy"
    assert load(file, max_bytes=123).limits.most == 123


# ---- real files ---------------------------------------------------------------------------------

SILERO = importlib.util.find_spec("silero_vad")
FILES = [] if SILERO is None else sorted(pathlib.Path(SILERO.origin).parent.glob("data/*.onnx"))


def frames(rate: int) -> np.ndarray[Any, Any]:
    """Three seconds of a sound, in frames with what was before them: (steps, 64 + 512)."""
    t = np.arange(3 * rate) / rate
    sound = 0.5 * np.sin(900 * t * (1 + 0.1 * np.sin(3 * t))) * np.exp(-((t - 1.5) ** 2))
    sound = (sound + 0.02 * normal(len(t), dtype="float64")).astype("f")
    size, before = (512, 64) if rate == 16000 else (256, 32)
    padded = np.concatenate([np.zeros(before, "f"), sound])
    starts = range(0, len(sound) - size + 1, size)
    return np.stack([padded[start : start + before + size] for start in starts])


@pytest.mark.skipif(not FILES, reason="silero_vad is not installed")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_silero(path: pathlib.Path) -> None:
    """Each of its files, frame by frame, for one stream and three at once, at both rates."""
    network = load(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    assert [p.name for p in network.inputs] == names
    if "h" in names:
        x, zeros = frames(16000), np.zeros((1, 1, 128), "f")
        probabilities, h, c = session.run(None, {"input": x, "h": zeros, "c": zeros})
        close([network(x)], [probabilities], 2 * 576)
        stream = network.stream()
        steps = [stream.step(frame[None]) for frame in x]
        close([np.concatenate(steps), *stream.state.values()], [probabilities, h, c], 2 * 576)
        return
    rates = (16000, 8000) if path.stem in ("silero_vad", "silero_vad_op18_ifless") else (16000,)
    for rate, batch in itertools.product(rates, (1, 3)):
        if "openvino" in path.stem and batch > 1:
            continue  # its batch is fixed
        x = frames(rate)
        x = x[: len(x) // batch * batch].reshape(batch, -1, x.shape[1])
        stream, state = network.stream(batch), np.zeros((2, batch, 128), "f")
        rest = {"sr": np.array(rate)} if "sr" in names else {}
        for k in range(x.shape[1]):
            wanted, state = session.run(None, {"input": x[:, k], "state": state, **rest})
            # float16 inside: what is summed and rounded in another order is off by more
            terms = 2 * 576 * (1 << 10 if "half" in path.stem else 1)
            close([stream.step(x[:, k], **rest)], [wanted], terms)
            close([stream.state["state"]], [state], terms)


def test_silero_through_pickle_and_load_lstm() -> None:
    if not FILES:
        pytest.skip("silero_vad is not installed")
    path = next(path for path in FILES if path.stem.endswith("sequence"))
    network = pickle.loads(pickle.dumps(load(path)))
    x = frames(16000)[:5]
    np.testing.assert_array_equal(network(x), load(path)(x))
    lstm = load_lstm(path)
    weights = {n.split(".")[-1]: a for n, a in load_state(path).items() if "LSTM" in n}
    for name, array in lstm.state_dict().items():
        np.testing.assert_array_equal(array, weights[name])
