"""LSTM.from_arrays: weights of other libraries, by the values that these libraries compute."""

import re

import numpy as np
import pytest

import fastlstm
from fastlstm import LSTM

T, B, I, H = 6, 3, 5, 4
KERNEL, RECURRENT, BIAS = "kernel", "recurrent_kernel", "bias"


def numbers(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


X = numbers(T, B, I, seed=9)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_gates(x, w, u, b):
    """A forward direction by its gates: w[gate] (H, I), u[gate] (H, H), b[gate] (H,)."""
    h = c = np.zeros((x.shape[1], u["i"].shape[0]))
    outputs = []
    for x_t in x:
        z = {gate: x_t @ w[gate].T + h @ u[gate].T + b[gate] for gate in "ifgo"}
        c = sigmoid(z["f"]) * c + sigmoid(z["i"]) * np.tanh(z["g"])
        h = sigmoid(z["o"]) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


W, U, V = (
    {gate: numbers(*shape, seed=seed + k) for k, gate in enumerate("ifgo")}
    for seed, shape in ((10, (H, I)), (20, (H, H)), (30, (H,)))
)
BACK = [{gate: -0.5 * array[..., ::-1] for gate, array in part.items()} for part in (W, U, V)]


def rows(part, gates="ifgo"):
    return np.concatenate([part[gate] for gate in gates])


def each(part, transposed=False):
    return [part[gate].T if transposed else part[gate] for gate in "ifgo"]


LAYOUTS = {
    "torch": (rows(W), rows(U), rows(V)),
    "keras": (rows(W).T, rows(U).T, rows(V)),
    "onnx": (
        rows(W, "iofg")[None],
        rows(U, "iofg")[None],
        np.concatenate([rows(V, "iofg"), np.zeros(4 * H)])[None],
    ),
    "matlab": (rows(W), rows(U), rows(V)[:, None]),
    "tflite": (each(W), each(U), each(V)),
    "flax": (each(W, True), each(U, True), each(V)),
}
NOTHING = dict.fromkeys("ifgo", np.zeros(H))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_by_its_gates(layout):
    kernel, recurrent, bias = LAYOUTS[layout]
    lstm = LSTM.from_arrays(kernel, recurrent, bias, layout=layout)
    assert (lstm.input_size, lstm.hidden_size, lstm.dtype) == (I, H, "float64")
    assert repr(lstm) == "LSTM(5, 4)" and not lstm.training
    np.testing.assert_allclose(lstm(X)[0], by_gates(X, W, U, V), rtol=0, atol=1e-14)
    lstm = LSTM.from_arrays(kernel, recurrent, layout=layout)
    assert repr(lstm) == "LSTM(5, 4, bias=False)"
    np.testing.assert_allclose(lstm(X)[0], by_gates(X, W, U, NOTHING), rtol=0, atol=1e-14)


def test_both_directions_of_matlab_and_onnx():
    onnx = [
        np.stack([rows(part, "iofg"), rows(back, "iofg")])
        for part, back in zip((W, U, V), BACK, strict=True)
    ]
    onnx[2] = np.concatenate([onnx[2], np.zeros((2, 4 * H))], axis=1)
    matlab = [
        np.concatenate([rows(part), rows(back)]) for part, back in zip((W, U, V), BACK, strict=True)
    ]
    expected = [by_gates(X, W, U, V), by_gates(X[::-1], *BACK)[::-1]]
    for layout, arrays in ("onnx", onnx), ("matlab", matlab), ("matlab", [*matlab[:2], None]):
        lstm = LSTM.from_arrays(*arrays, layout=layout)
        assert lstm.bidirectional and lstm.num_layers == 1
        if arrays[2] is not None:
            y = np.concatenate(expected, axis=2)
            np.testing.assert_allclose(lstm(X)[0], y, rtol=0, atol=1e-14)
    column = LSTM.from_arrays(matlab[0], matlab[1], matlab[2][:, None], layout="matlab")
    np.testing.assert_array_equal(column.bias_ih_l0_reverse, rows(BACK[2]))


def test_torch_itself(torch):
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(I, H, dtype=torch.float64)
    biases = theirs.bias_ih_l0.detach(), theirs.bias_hh_l0.detach()
    expected = theirs(torch.from_numpy(X))[0].detach().numpy()
    for pair in (biases, list(biases), biases[0] + biases[1]):
        lstm = LSTM.from_arrays(theirs.weight_ih_l0.detach(), theirs.weight_hh_l0.detach(), pair)
        assert lstm.dtype == "float64"
        np.testing.assert_allclose(lstm(X)[0], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("biased", [True, False])
def test_onnxruntime_itself(directions, biased):
    onnx = pytest.importorskip("onnx", reason="builds the graph")
    onnxruntime = pytest.importorskip("onnxruntime", reason="its values are the reference")
    arrays = {
        "W": numbers(directions, 4 * H, I, seed=1, dtype="float32"),
        "R": numbers(directions, 4 * H, H, seed=2, dtype="float32"),
        "B": numbers(directions, 8 * H, seed=3, dtype="float32"),
    }
    if not biased:
        del arrays["B"]
    node = onnx.helper.make_node(
        "LSTM",
        ["X", *arrays],
        ["Y"],
        hidden_size=H,
        direction="bidirectional" if directions == 2 else "forward",
    )
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("X", real, [T, B, I])],
        [onnx.helper.make_tensor_value_info("Y", real, [T, directions, B, H])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)])
    model.ir_version = 8
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = X.astype("float32")
    expected = session.run(None, {"X": x})[0].transpose(0, 2, 1, 3).reshape(T, B, directions * H)
    lstm = LSTM.from_arrays(*arrays.values(), layout="onnx")
    assert lstm.dtype == "float32"
    np.testing.assert_allclose(lstm(x)[0], expected, rtol=0, atol=2e-6)


def test_the_usual_keywords():
    kernel, recurrent, bias = LAYOUTS["keras"]
    options = {"batch_first": True, "dtype": "float32", "engine": "numpy", "num_threads": 1}
    lstm = LSTM.from_arrays(kernel, recurrent, bias, layout="keras", **options)
    assert (lstm.batch_first, lstm.dtype, lstm.engine, lstm.num_threads) == tuple(options.values())
    y = lstm(X.swapaxes(0, 1).astype("float32"))[0]
    np.testing.assert_allclose(y.swapaxes(0, 1), by_gates(X, W, U, V), rtol=0, atol=1e-5)
    for narrow in (np.float16, np.float32):
        assert LSTM.from_arrays(kernel.astype(narrow), recurrent, bias, layout="keras").dtype == (
            "float32"
        )
    lists = LSTM.from_arrays(kernel.tolist(), recurrent.tolist(), bias.tolist(), layout="keras")
    assert lists.dtype == "float32"
    np.testing.assert_array_equal(lists.weight_ih_l0, rows(W).astype("float32"))


def test_arrays_are_copied():
    kernel, recurrent, bias = (array.copy() for array in LAYOUTS["torch"])
    lstm = LSTM.from_arrays(kernel, recurrent, bias)
    kernel[...] = recurrent[...] = bias[...] = 0
    np.testing.assert_array_equal(lstm.weight_ih_l0, rows(W))
    np.testing.assert_array_equal(lstm.bias_ih_l0, rows(V))
    assert not lstm.bias_hh_l0.any()


@pytest.mark.parametrize(
    "layout, changed, message",
    [
        (
            "keras",
            {KERNEL: rows(W)},
            "kernel of layout 'keras' must be (I, 4H), here (16, 16), got",
        ),
        (
            "torch",
            {KERNEL: rows(W).T},
            "kernel of layout 'torch' must be (4H, I), here (16, 16), go",
        ),
        ("torch", {RECURRENT: rows(U).T}, "must be (4H, H), here (64, 16), got (4, 16)"),
        (
            "torch",
            {BIAS: np.zeros(15)},
            "bias of layout 'torch' must be (4H), here (16,), got (15,)",
        ),
        (
            "torch",
            {BIAS: (rows(V),) * 3},
            "bias of layout 'torch' must be (2, 4H), here (2, 16), got",
        ),
        ("keras", {BIAS: (rows(V),) * 2}, "bias of layout 'keras' must be (4H), got (2, 16)"),
        ("onnx", {BIAS: rows(V)[None]}, "bias of layout 'onnx' must be (D, 8H), here (1, 32), got"),
        ("onnx", {KERNEL: rows(W)}, "kernel of layout 'onnx' must be (D, 4H, I), got (16, 5)"),
        ("onnx", {KERNEL: numbers(3, 16, 5)}, "has 1 or 2 directions and 1 unit or more, got 3"),
        ("matlab", {KERNEL: numbers(48, 5)}, "has 1 or 2 directions and 1 unit or more, got 3"),
        ("matlab", {BIAS: numbers(16, 2)}, "must be (4H*D, 1), here (16, 1), got (16, 2)"),
        ("tflite", {KERNEL: each(W)[:3]}, "must be (4, H, I), here (4, 4, 5), got (3, 4, 5)"),
        (
            "tflite",
            {KERNEL: [*each(W)[:3], U["o"]]},
            "the arrays of kernel must have one shape, got",
        ),
        ("flax", {KERNEL: each(W)}, "must be (4, I, H), here (4, 4, 4), got (4, 4, 5)"),
        ("keras", {KERNEL: np.ones((5, 16), int)}, "kernel must hold floats, got int64"),
        (
            "keras",
            {RECURRENT: np.zeros((0, 0))},
            "1 or 2 directions and 1 unit or more, got 1 and 0",
        ),
        (
            "caffe",
            {},
            "layout must be one of torch, keras, onnx, matlab, tflite, flax, got 'caffe'",
        ),
        (3, {}, "layout must be one of torch, keras, onnx, matlab, tflite, flax, got '3'"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_expected(layout, changed, message):
    arrays = LAYOUTS.get(layout, LAYOUTS["torch"])
    given = dict(zip((KERNEL, RECURRENT, BIAS), arrays, strict=True)) | changed
    with pytest.raises(ValueError, match=re.escape(message)):
        LSTM.from_arrays(**given, layout=layout)


@pytest.mark.parametrize("name", [KERNEL, RECURRENT])
def test_a_kernel_cannot_be_left_out(name):
    given = dict(zip((KERNEL, RECURRENT, BIAS), LAYOUTS["torch"], strict=True)) | {name: None}
    with pytest.raises(TypeError, match=f"^{name} must be an array of numbers, got NoneType"):
        LSTM.from_arrays(**given)


def test_a_saved_bridge_is_an_lstm_as_any(tmp_path):
    lstm = LSTM.from_arrays(*LAYOUTS["keras"], layout="keras", batch_first=True)
    fastlstm.save(lstm, tmp_path / "x.npz")
    np.testing.assert_array_equal(fastlstm.load(tmp_path / "x.npz")(X)[0], lstm(X)[0])


# ---- options --------------------------------------------------------------------------------

PEEPHOLES = {gate: numbers(H, seed=50 + k) for k, gate in enumerate("ifo")}


def in_torchs_layout(coupled=None, gates="ifgo", **options):
    lstm = LSTM(I, H, dtype="float64", coupled=coupled, engine="numpy", **options)
    state = {
        "weight_ih_l0": rows(W, gates), "weight_hh_l0": rows(U, gates),
        "bias_ih_l0": rows(V, gates), "bias_hh_l0": 0 * rows(V, gates),
    }  # fmt: skip
    if lstm.peephole:
        state |= {f"weight_c{gate}_l0": PEEPHOLES[gate] for gate in gates if gate != "g"}
    lstm.load_state_dict(state)
    return lstm(X)[0]


@pytest.mark.parametrize("coupled, gates", [(None, "ifgo"), ("f=1-i", "igo"), ("i=1-f", "fgo")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_peepholes_and_coupled_gates_of_every_layout(layout, coupled, gates):
    stacked = np.stack([PEEPHOLES[gate] for gate in "ifo"])
    peephole = [*stacked] if layout != "onnx" else rows(PEEPHOLES, "iof")[None]
    given = {"layout": layout, "coupled": coupled, "cell_clip": 0.5, "engine": "numpy"}
    lstm = LSTM.from_arrays(*LAYOUTS[layout], peephole=peephole, **given)
    expected = in_torchs_layout(coupled, gates, peephole=True, cell_clip=0.5)
    np.testing.assert_allclose(lstm(X)[0], expected, rtol=1e-13)
    if coupled and layout in ("tflite", "flax"):  # without arrays of the gate that follows
        fewer = [[part["ifgo".index(gate)] for gate in gates] for part in LAYOUTS[layout]]
        peephole = [PEEPHOLES[gate] for gate in gates if gate != "g"]
        lstm = LSTM.from_arrays(*fewer, peephole=peephole, **given)
        np.testing.assert_allclose(lstm(X)[0], expected, rtol=1e-13)


def test_peepholes_of_two_directions():
    both = np.stack([np.stack([sign * PEEPHOLES[gate] for gate in "ifo"]) for sign in (1, -1)])
    matlab = [np.concatenate([part, -part]) for part in LAYOUTS["torch"]]
    lstm = LSTM.from_arrays(*matlab, layout="matlab", peephole=both)
    for end, sign in ("_l0", 1), ("_l0_reverse", -1):
        for gate in "ifo":
            np.testing.assert_array_equal(
                lstm.state_dict()[f"weight_c{gate}{end}"], sign * PEEPHOLES[gate]
            )


@pytest.mark.parametrize("layout, sentence", [
    ("keras", "peephole of layout 'keras' must be (3, H), here (3, 4), got (2, 4)"),
    ("onnx", "peephole of layout 'onnx' must be (D, 3H), here (1, 12), got (2, 4)"),
])  # fmt: skip
def test_peepholes_of_a_wrong_shape(layout, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        LSTM.from_arrays(*LAYOUTS[layout], layout=layout, peephole=np.zeros((2, H)))


def test_unknown_coupling():
    with pytest.raises(ValueError, match="coupled must be"):
        LSTM.from_arrays(*LAYOUTS["keras"], layout="keras", coupled="o=1-i")


@pytest.mark.parametrize(
    "option, names",
    [
        ({"layer_norm": "tflite"}, "weight_ln_l0"),
        ({"learn_initial_state": True}, "c_0_l0, h_0_l0"),
        ({"proj_size": 1}, "weight_hr_l0"),
    ],
)
def test_an_option_with_arrays_of_its_own_is_refused(option, names):
    with pytest.raises(ValueError, match=f"no arrays for {names}: build an LSTM with these"):
        LSTM.from_arrays(*LAYOUTS["keras"], layout="keras", **option)
