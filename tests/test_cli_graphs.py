"""`fastlstm run` and `fastlstm info` on files of graphs, by value against onnxruntime."""

import numpy as np
import pytest

from fastlstm import cli

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

X = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
TOLERANCE = 8 * np.finfo(np.float32).eps  # sums of 3 + 4 + 2 terms, and functions between 0 and 1


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, in which m.onnx is an LSTM with states and a gain."""
    monkeypatch.chdir(tmp_path)
    write("m.onnx")
    np.save("x.npy", X)
    return tmp_path


def write(path, more=(), outputs=("y", "hn", "cn")):
    """Write a graph: an LSTM of 3 inputs and 4 units, whose output is multiplied by an input k."""
    rng = np.random.default_rng(1)
    arrays = {"W": (1, 16, 3), "R": (1, 16, 4), "B": (1, 32)}
    arrays = {n: rng.uniform(-0.7, 0.7, shape).astype(np.float32) for n, shape in arrays.items()}
    arrays["one"] = np.array([1])
    nodes = [
        helper.make_node(
            "LSTM", ["x", "W", "R", "B", "", "h", "c"], ["Y", "hn", "cn"], "rnn", hidden_size=4
        ),
        helper.make_node("Squeeze", ["Y", "one"], ["y4"], "squeeze"),
        helper.make_node("Mul", ["y4", "k"], ["y"], "gain"),
        *more,
    ]
    value = helper.make_tensor_value_info
    state = [1, "batch", 4]
    ends = {
        "y": value("y", TensorProto.FLOAT, ["time", "batch", 4]),
        "hn": value("hn", TensorProto.FLOAT, state),
        "cn": value("cn", TensorProto.FLOAT, state),
        "z": value("z", TensorProto.FLOAT, None),
    }
    inputs = [
        value("x", TensorProto.FLOAT, ["time", "batch", 3]),
        value("h", TensorProto.FLOAT, state),
        value("c", TensorProto.FLOAT, state),
        value("k", TensorProto.FLOAT, []),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        inputs,
        [ends[name] for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def by_onnxruntime(x, k, states=None):
    session = onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    zeros = np.zeros((1, x.shape[1], 4), np.float32)
    h, c = states or (zeros, zeros)
    return session.run(None, {"x": x, "h": h, "c": c, "k": np.array(k, "f4")})


def run(*arguments):
    assert cli.main(["run", "m.onnx", *arguments]) == 0


def error_of(capsys, *arguments):
    assert cli.main(["run", "m.onnx", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err.removeprefix("fastlstm: error: ")


def assert_near(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=TOLERANCE * max(1, abs(expected).max())
    )


def test_an_array_is_for_the_only_input_that_is_left():
    run("x.npy", "--no-batch-first", "--feed", "k=2.5", "-o", "y.npy")
    assert_near(np.load("y.npy"), by_onnxruntime(X[:, None], 2.5)[0])


def test_arrays_by_names_give_outputs_by_names():
    x = np.stack([X, X[::-1]], axis=1)
    np.savez("in.npz", x=x, k=np.float32(3))
    run("in.npz", "-o", "out.npz")
    with np.load("out.npz") as out:
        assert set(out) == {"y"}  # the final states go where --state-out says
        assert_near(out["y"], by_onnxruntime(x, 3)[0])


def test_states_go_on_where_the_run_before_has_ended():
    np.save("first.npy", X[:3])
    np.save("rest.npy", X[3:])
    options = ["--no-batch-first", "--feed", "k=1"]
    run("first.npy", *options, "-o", "a.npy", "--state-out", "s.npz")
    run("rest.npy", *options, "-o", "b.npy", "--state-in", "s.npz", "--state-out", "end.npz")
    whole, h, c = by_onnxruntime(X[:, None], 1)
    assert_near(np.concatenate([np.load("a.npy"), np.load("b.npy")]), whole)
    with np.load("end.npz") as end:
        assert_near(end["h"], h)
        assert_near(end["c"], c)


def test_tables_and_sounds():
    np.savetxt("x.csv", X, delimiter=",")
    run("x.csv", "--no-batch-first", "--feed", "k=1", "-o", "y.csv")
    expected = by_onnxruntime(X[:, None], 1)[0]
    assert_near(np.loadtxt("y.csv", delimiter=",", dtype=np.float32), expected[:, 0])


def test_several_outputs_need_names(capsys):
    write("m.onnx", [helper.make_node("Neg", ["y"], ["z"])], ("y", "z", "hn", "cn"))
    options = ["x.npy", "--no-batch-first", "--feed", "k=1"]
    assert error_of(capsys, *options, "-o", "y.npy") == (
        "y.npy can hold one output, m.onnx gives 'y', 'z': write a .npz file\n"
    )
    run(*options, "-o", "y.npz")
    with np.load("y.npz") as out:
        np.testing.assert_array_equal(out["z"], -out["y"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "x.npy is one array, m.onnx takes 'x' (time, batch, 3), 'k' (): give a .npz file"),
        (["--feed", "k=1"], "x.npy has shape (7, 3), m.onnx takes 'x' (time, batch, 3): give"),
        (["--feed", "q=1"], "--feed must be NAME=NUMBER or NAME=FILE.npy, with one of the inputs"),
        (["--feed", "k=one"], "--feed k must be a number, got 'one'"),
        (["--feed", "k=1", "--lengths", "3"], "--lengths is for models of layers; m.onnx is a"),
        (["--feed", "k=1e60"], "--feed k holds values that do not fit float32"),
        (
            ["--feed", "k=1", "--batch-first", "--state-in", "x2.npz"],
            "x2.npz must hold the arrays 'c', 'h', got 'x'",
        ),
    ],
)
def test_what_does_not_fit(options, sentence, capsys):
    np.savez("x2.npz", x=X)
    assert sentence in error_of(capsys, "x.npy", *options, "-o", "y.npy")


def test_a_table_is_refused_for_a_batch(capsys):
    np.save("x.npy", np.zeros((7, 2, 3), np.float32))
    sentence = error_of(capsys, "x.npy", "--feed", "k=1", "-o", "y.csv")
    assert sentence.startswith("y.csv can hold one table, m.onnx gives an array of shape (7, 2, 4)")


def test_what_is_for_graphs_is_refused_for_models_of_layers(capsys):
    import fastlstm

    fastlstm.save(fastlstm.LSTM(3, 4), "m.npz")
    for options in (["x.npy", "-o", "y.npz"], ["m.npz", "-o", "y.npy"]):
        assert cli.main(["run", "m.npz", *options]) == 1
        assert "is for a graph with inputs and outputs by names" in capsys.readouterr().err
    assert cli.main(["run", "m.npz", "x.npy", "-o", "y.npy", "--feed", "k=1"]) == 1
    assert "--feed is for a graph" in capsys.readouterr().err


def test_info_shows_ends_states_operators_and_who_computes(capsys):
    write("m.onnx", [helper.make_node("Det", ["h"], ["z"])], ("y", "z", "hn", "cn"))
    assert cli.main(["info", "m.onnx"]) == 0
    out = capsys.readouterr().out
    for line in (
        "  input 'x' float32 (time, batch, 3)",
        "  output 'y' float32 (time, batch, 4)",
        "  state 'h' -> 'hn'",
        "  state 'c' -> 'cn'",
        "  (rnn): LSTM(3, 4)",
        "operator  number  computed by",
        "LSTM           1  fastlstm's engine",
        "Mul            1  fastlstm, in NumPy",
        "Det            1  the reference evaluator of the onnx package, which is slow",
        "rnn.weight_ih_l0  (16, 3)      48",
    ):
        assert line in out.splitlines(), out


def test_info_counts_what_stands_in_branches(capsys):
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["h"], ["b"], kind)],
            kind,
            [],
            [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
        )
        for kind in ("Exp", "Neg")
    ]
    more = [
        helper.make_node("Cast", ["k"], ["is_set"], "cast", to=TensorProto.BOOL),
        helper.make_node("If", ["is_set"], ["z"], then_branch=branches[0], else_branch=branches[1]),
    ]
    write("m.onnx", more, ("y", "z", "hn", "cn"))
    assert cli.main(["info", "m.onnx"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for kind in ("Exp", "Neg", "If"):
        assert f"{kind:8}       1  fastlstm, in NumPy" in lines


def test_a_number_in_the_file_asks_for_much(capsys):
    more = [helper.make_node("Expand", ["k", "shape"], ["z"], "grow")]
    write("m.onnx", more, ("y", "z", "hn", "cn"))
    model = onnx.load("m.onnx")
    shape = np.array([1 << 10, 1 << 10])
    model.graph.initializer.append(numpy_helper.from_array(shape, "shape"))
    onnx.save(model, "m.onnx")
    options = ["x.npy", "--no-batch-first", "--feed", "k=1", "-o", "y.npz"]
    sentence = error_of(capsys, *options, "--max-bytes", str((4 << 20) - 1))
    assert "grow" in sentence and "4194304 bytes" in sentence and "--max-bytes" in sentence
    run(*options, "--max-bytes", str(4 << 20))
    with np.load("y.npz") as out:
        assert out["z"].shape == (1 << 10, 1 << 10)
    assert "needs a rate" in error_of(capsys, "x.npy", "-o", "y.wav")
