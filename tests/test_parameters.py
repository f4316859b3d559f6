"""Parameters of a layer: their names, assignment, state dicts, initialisation, copies."""

import copy
import pickle
import re

import numpy as np
import pytest
from support import assert_same_bits
from values import LSTM_OPTIONS, normal
from watched import watch

import fastlstm
from fastlstm import LSTM, LSTMCell

X = normal(5, 2, 3)

NAMES = [
    "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_hr_l0",
    "weight_ih_l0_reverse", "weight_hh_l0_reverse", "bias_ih_l0_reverse", "bias_hh_l0_reverse",
    "weight_hr_l0_reverse",
]  # fmt: skip


def test_names_and_shapes():
    """They are torch's, for a layer with every kind of parameter."""
    state = LSTM(3, 4, 2, bidirectional=True, proj_size=2).state_dict()
    assert list(state) == NAMES + [name.replace("l0", "l1") for name in NAMES]
    shapes = [(16, 3), (16, 2), (16,), (16,), (2, 4)]
    upper = [(16, 4), *shapes[1:]]
    assert [value.shape for value in state.values()] == 2 * shapes + 2 * upper
    assert [v.shape for v in LSTMCell(3, 4).state_dict().values()] == [
        (16, 3),
        (16, 4),
        (16,),
        (16,),
    ]
    assert list(LSTMCell(3, 4, bias=False).state_dict()) == ["weight_ih", "weight_hh"]
    assert LSTM(3, 4).num_parameters == 16 * (3 + 4 + 2)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("options", LSTM_OPTIONS, ids=str)
def test_torchs_state_dict(torch, dtype, options, bias):
    """Names, order, shapes, dtype and repr are torch's."""
    theirs = torch.nn.LSTM(3, 5, bias=bias, **options, dtype=getattr(torch, dtype))
    ours = LSTM(3, 5, bias=bias, **options, dtype=dtype)
    assert repr(ours) == repr(theirs)
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    ours.load_state_dict(expected)
    for name, value in ours.state_dict().items():
        assert_same_bits(value, expected[name].numpy())
        assert_same_bits(getattr(ours, name), value)
    theirs.load_state_dict({name: torch.from_numpy(v) for name, v in ours.state_dict().items()})


def test_torchs_repr(torch):
    options = dict(bias=False, batch_first=True, dropout=0.1, bidirectional=True, proj_size=2)
    assert repr(LSTM(3, 4, 2, **options)) == repr(torch.nn.LSTM(3, 4, 2, **options))
    for bias in (True, False):
        assert repr(LSTMCell(3, 4, bias)) == repr(torch.nn.LSTMCell(3, 4, bias))


def test_repr():
    options = dict(bias=False, batch_first=True, dropout=0.1, bidirectional=True, proj_size=2)
    assert repr(LSTM(3, 4, 2, **options)) == (
        "LSTM(3, 4, proj_size=2, num_layers=2, bias=False, batch_first=True, dropout=0.1, "
        "bidirectional=True)"
    )
    assert repr(LSTM(3, 4)) == "LSTM(3, 4)"
    assert repr(LSTMCell(3, 4, bias=False)) == "LSTMCell(3, 4, bias=False)"


def test_load_state_dict_names_every_fault_and_changes_nothing():
    lstm = LSTM(10, 20, 2, seed=0)
    before = lstm.state_dict()
    faulty = {name: value + 1 for name, value in before.items()}
    del faulty["weight_ih_l0"], faulty["bias_hh_l1"]
    faulty["weight_hh_l0"] = np.zeros((1, 1), np.float32)
    faulty["bias_ih_l0"] = np.zeros(80, int)
    faulty["zzz"] = faulty["yyy"] = np.zeros(1)
    with pytest.raises(ValueError) as caught:
        lstm.load_state_dict(faulty)
    assert str(caught.value) == (
        "Error(s) in loading state_dict for LSTM:\n"
        '\tMissing key(s) in state_dict: "weight_ih_l0", "bias_hh_l1".\n'
        '\tUnexpected key(s) in state_dict: "zzz", "yyy".\n'
        "\tsize mismatch for weight_hh_l0: copying a param with shape (1, 1) from checkpoint, the "
        "shape in current model is (80, 20).\n"
        "\ttype mismatch for bias_ih_l0: expected floats, got int64."
    )
    for name, value in lstm.state_dict().items():
        assert_same_bits(value, before[name])


@pytest.mark.parametrize("package", ["numpy", "torch"])
@pytest.mark.parametrize("source", ["float16", "bfloat16", "float32", "float64"])
def test_load_state_dict_rounds_any_float(dtype, package, source):
    """float64 into float32 is rounded, as torch does it; bfloat16 is exact."""
    module = pytest.importorskip(package, reason="tensors need torch")
    if source == "bfloat16" and package == "numpy":
        module = pytest.importorskip("ml_dtypes", reason="bfloat16 is not NumPy's own")
    values = {n: normal(*v.shape, dtype="float64") for n, v in LSTM(3, 4).state_dict().items()}
    if package == "torch":
        given = {n: module.tensor(v).to(getattr(module, source)) for n, v in values.items()}
        values = {n: v.double().numpy() for n, v in given.items()}
    else:
        given = {n: v.astype(getattr(module, source)) for n, v in values.items()}
        values = {n: v.astype(np.float64) for n, v in given.items()}
    lstm = LSTM(3, 4, dtype=dtype)
    lstm.load_state_dict(given)
    for name, value in lstm.state_dict().items():
        assert_same_bits(value, values[name].astype(dtype))


def test_state_dict_is_a_copy():
    lstm = LSTM(3, 4, seed=0)
    state = lstm.state_dict()
    state["weight_ih_l0"][...] = 0
    assert lstm.weight_ih_l0.all()
    given = lstm.state_dict()
    lstm.load_state_dict(given)
    given["weight_ih_l0"][...] = 0
    assert lstm.weight_ih_l0.all()


def test_parameters_refuse_writing_in_place():
    """Otherwise the engine's packed weights would be out of date without a sign."""
    lstm = LSTM(3, 4)
    with pytest.raises(ValueError, match="read-only"):
        lstm.weight_ih_l0[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        lstm.weight_ih_l0 += 1
    with pytest.raises(AttributeError, match="^LSTM has no attribute 'weight_ih_l1'$"):
        _ = lstm.weight_ih_l1


def test_a_parameter_of_another_shape_is_refused():
    lstm = LSTM(3, 4, seed=0)
    before = lstm.state_dict()
    with pytest.raises(
        ValueError, match=r"^weight_ih_l0 must have shape \(16, 3\), got \(3, 16\)$"
    ):
        lstm.weight_ih_l0 = lstm.weight_ih_l0.T
    with pytest.raises(ValueError, match=r"^bias_ih_l0 must have shape \(16,\), got \(\)$"):
        lstm.bias_ih_l0 = 0
    assert_same_bits(lstm.weight_ih_l0, before["weight_ih_l0"])


def _set_one(layer, state):
    for name, value in state.items():
        setattr(layer, name, value)


def _reset(layer, state):
    layer.reset_parameters(seed=7)


def _inside_a_model(layer, state):
    model = fastlstm.Sequential({"lstm": layer})
    model.load_state_dict({"lstm." + name: value for name, value in state.items()})


@pytest.mark.parametrize(
    "change", [_set_one, LSTM.load_state_dict, _reset, _inside_a_model], ids=lambda f: f.__name__
)
def test_new_parameters_are_used_at_once(engine, change):
    """Neither the layer nor an open stream runs on weights that were packed before the change."""
    lstm = LSTM(3, 4, 2, engine=engine, seed=0)
    stream = lstm.stream(2)
    before = lstm(X)[0]
    stream.step(X[0])
    change(lstm, LSTM(3, 4, 2, seed=7).state_dict())
    expected = LSTM(3, 4, 2, engine=engine, seed=7)
    assert_same_bits(lstm.weight_hh_l1, expected.weight_hh_l1)
    assert_same_bits(lstm(X)[0], expected(X)[0])
    assert not np.array_equal(lstm(X)[0], before)
    stream.reset()
    fresh = expected.stream(2)
    assert_same_bits(stream.step(X[0]), fresh.step(X[0]))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_counts(engine, name):
    """A change of any parameter changes the result, so none is packed once and forgotten."""
    lstm = LSTM(3, 4, bidirectional=True, proj_size=2, engine=engine, seed=0)
    before = lstm(X)[0]
    setattr(lstm, name, getattr(lstm, name) + 1)
    assert np.abs(lstm(X)[0] - before).max() > 1e-3


def test_parameters_are_packed_once_per_version(engine):
    lstm = LSTM(3, 4, 2, engine=engine)
    watched, stream = watch(lstm), lstm.stream(2)
    for _ in range(3):
        lstm(X)
        stream.step(X[0])
        stream.run(X)
    assert watched.packs == 2
    lstm.bias_ih_l1 = np.zeros(16)
    lstm(X)
    assert watched.packs == 4


@pytest.mark.parametrize("num_layers", [1, 3])
def test_never_more_than_two_packed_copies(engine, num_layers):
    """One copy is of the whole stack, one of its layers apart; a single layer has one copy."""
    lstm = LSTM(3, 4, num_layers, dropout=0.5 * (num_layers > 1), engine=engine)
    watched, most = watch(lstm), (1 if num_layers == 1 else 1 + num_layers)
    for _ in range(3):
        lstm(X), lstm.vjp(X), lstm.stream(2).step(X[0])
        assert len(watched.alive) == most
        lstm.eval()(X), lstm.train()(X)
        assert len(watched.alive) == most


def test_changed_parameters_leave_no_packed_copy(engine):
    """Only a pullback keeps the copies that it goes back through."""
    lstm = LSTM(3, 4, 2, dropout=0.5, engine=engine)
    watched, stream = watch(lstm), lstm.stream(2)
    lstm(X), stream.step(X[0])
    (output, _), pullback = lstm.vjp(X)
    assert len(watched.alive) == 3
    lstm.bias_ih_l0 = np.ones(16)
    assert len(watched.alive) == 2
    stream.step(X[0])
    assert len(watched.alive) == 3
    pullback(output)
    del pullback
    assert len(watched.alive) == 1
    lstm.num_threads = 1
    assert not watched.alive


def test_evaluation_keeps_what_it_runs_on(engine):
    for num_layers in (1, 2):
        lstm = LSTM(3, 4, num_layers, engine=engine).eval()
        watched = watch(lstm)
        for _ in range(3):
            lstm.eval()(X)
        assert watched.packs == num_layers
        lstm.vjp(X)
        lstm.eval()(X)
        assert len(watched.alive) == 1  # packed without the way back


@pytest.mark.parametrize(
    "name, value",
    [("hidden_size", 1), ("input_size", 1), ("num_layers", 1), ("bias", False), ("engine", "numpy"),
     ("bidirectional", True), ("proj_size", 1), ("dtype", "float64"), ("children", {})],
)  # fmt: skip
def test_structure_cannot_be_changed(name, value):
    """With a changed size an engine would write past the states, for which weights are packed."""
    lstm = LSTM(3, 4, 2, seed=0)
    before = getattr(lstm, name)
    with pytest.raises(AttributeError) as caught:
        setattr(lstm, name, value)
    assert str(caught.value) == f"{name} of LSTM cannot be changed: build another layer"
    assert getattr(lstm, name) == before


def test_a_parameter_takes_floats_of_any_precision_and_nothing_else():
    lstm = LSTM(3, 4, bias=False, seed=0)
    values = np.arange(48.0).reshape(16, 3)
    lstm.weight_ih_l0 = values
    assert np.array_equal(lstm.weight_ih_l0, values.astype(np.float32))
    lstm.weight_ih_l0 = np.zeros((16, 3), int).tolist()
    assert not lstm.weight_ih_l0.any()
    for value, kind, sentence in (
        (values.astype(complex), ValueError, "weight_ih_l0 must hold floats, got complex128"),
        (values.astype(int), ValueError, "weight_ih_l0 must hold floats, got int64"),
        (np.ma.masked_less(values, 3), TypeError, "weight_ih_l0 is a masked array"),
    ):
        with pytest.raises(kind, match=sentence):
            lstm.weight_ih_l0 = value
    assert not lstm.weight_ih_l0.any()


def test_state_dict_must_be_a_mapping():
    with pytest.raises(TypeError, match="^Expected state_dict to be dict-like, got NoneType$"):
        LSTM(3, 4).load_state_dict(None)


# ---- initialisation -------------------------------------------------------------------------


def test_initialisation_is_torchs():
    """Every parameter is drawn from U(-1/sqrt(H), 1/sqrt(H)), also with a projection."""
    lstm = LSTM(30, 64, 2, bidirectional=True, proj_size=16, dtype="float64", seed=0)
    for name, value in lstm.state_dict().items():
        bound = 1 / 8
        assert np.abs(value).max() <= bound, name
        # five standard deviations of the mean, and of the extremes' distance from the bound
        assert abs(value.mean()) < 5 * bound / np.sqrt(3 * value.size), name
        assert bound - np.abs(value).max() < bound * 20 / value.size, name
        assert abs(value.std() - bound / np.sqrt(3)) < 5 * bound * 0.3 / np.sqrt(value.size), name
    cell = LSTMCell(30, 16, seed=0)
    assert all(0.2 < np.abs(v).max() <= 0.25 for v in cell.state_dict().values())


def test_seeds():
    """The same seed, a number or a generator, gives the same parameters; a generator moves on."""
    rng = np.random.default_rng(1)
    first, again, generated, later, other = (
        LSTM(3, 4, 2, seed=seed).state_dict() for seed in (1, 1, rng, rng, 2)
    )
    for name, value in first.items():
        assert_same_bits(again[name], value)
        assert_same_bits(generated[name], value)
        assert not np.array_equal(later[name], value)
        assert not np.array_equal(other[name], value)


def test_no_global_random_state():
    """No global random state is read or changed."""
    np.random.seed(0)  # noqa: NPY002 (that very state)
    before = np.random.get_state()  # noqa: NPY002
    first = LSTM(3, 4, 2, dropout=0.5)
    first(X)
    after = np.random.get_state()  # noqa: NPY002
    assert_same_bits(after[1], before[1])
    assert after[2:] == before[2:]
    np.random.seed(0)  # noqa: NPY002
    assert not np.array_equal(first.weight_ih_l0, LSTM(3, 4).weight_ih_l0)


def test_kinds_of_initialisation():
    lstm = LSTM(8, 6, dtype="float64")
    lstm.reset_parameters(0, weight_ih="glorot", weight_hh="orthogonal", bias="unit_forget_gate")
    bound = np.sqrt(6 / (24 + 8))
    assert 0.9 * bound < np.abs(lstm.weight_ih_l0).max() <= bound
    np.testing.assert_allclose(lstm.weight_hh_l0.T @ lstm.weight_hh_l0, np.eye(6), atol=1e-14)
    np.testing.assert_array_equal(
        lstm.bias_ih_l0.reshape(4, 6), np.repeat([[0], [1], [0], [0]], 6, 1)
    )
    np.testing.assert_array_equal(lstm.bias_hh_l0, 0)
    lstm.reset_parameters(weight_ih="orthogonal", weight_hh="zeros", bias="zeros")
    np.testing.assert_allclose(lstm.weight_ih_l0.T @ lstm.weight_ih_l0, np.eye(8), atol=1e-14)
    assert not lstm.weight_hh_l0.any() and not lstm.bias_ih_l0.any()
    wide = LSTM(40, 2, dtype="float64")
    wide.reset_parameters(weight_ih="orthogonal")
    np.testing.assert_allclose(wide.weight_ih_l0 @ wide.weight_ih_l0.T, np.eye(8), atol=1e-14)
    lstm.reset_parameters(5)
    assert_same_bits(lstm.weight_ih_l0, LSTM(8, 6, dtype="float64", seed=5).weight_ih_l0)
    corners = []
    for seed in range(20):  # no sign is preferred, as a bare QR decomposition would
        lstm.reset_parameters(seed, weight_hh="orthogonal")
        corners.append(lstm.weight_hh_l0[0, 0])
    assert min(corners) < 0 < max(corners)
    projected = LSTM(8, 64, proj_size=32)
    projected.reset_parameters(weight_ih="zeros", weight_hh="zeros", bias="zeros")
    assert 0.9 / 8 < np.abs(projected.weight_hr_l0).max() <= 1 / 8


@pytest.mark.parametrize(
    "options, sentence",
    [
        (
            dict(weight_ih="unit_forget_gate"),
            "weight_ih must be one of uniform, glorot, he, orthogonal, narrow_normal, zeros, ones, "
            "or a function, got 'unit_forget_gate'",
        ),
        (
            dict(weight_hh=None),
            "weight_hh must be one of uniform, glorot, he, orthogonal, narrow_normal, zeros, ones, "
            "or a function, got None",
        ),
        (
            dict(bias="he"),
            "bias must be one of uniform, unit_forget_gate, narrow_normal, zeros, ones, or a "
            "function, got 'he'",
        ),
        (
            dict(weight_ih=np.zeros(16)),
            "weight_ih must be one of uniform, glorot, he, orthogonal, narrow_normal, zeros, ones, "
            f"or a function, got {np.zeros(16)!r:.100}",
        ),
        (
            dict(weight_hh=lambda shape: np.zeros(shape[::-1])),
            "what the function returned for weight_hh_l0 must have shape (16, 4), got (4, 16)",
        ),
        (
            dict(bias=lambda shape: np.zeros((*shape, 1))),
            "what the function returned for bias_ih_l0 must have shape (16,), got (16, 1)",
        ),
        (
            dict(weight_ih=lambda shape: np.full(shape, np.nan)),
            "what the function returned for weight_ih_l0 must be finite numbers within float32",
        ),
        (
            dict(bias=lambda shape: np.full(shape, 1e39)),
            "what the function returned for bias_ih_l0 must be finite numbers within float32",
        ),
        (
            dict(bias=lambda shape: np.zeros(shape, int)),
            "what the function returned for bias_ih_l0 must hold floats, got int64",
        ),
    ],
)
def test_unknown_initialisation(options, sentence):
    lstm = LSTM(3, 4, seed=0)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        lstm.reset_parameters(1, **options)
    for name, values in LSTM(3, 4, seed=0).state_dict().items():
        assert_same_bits(lstm.state_dict()[name], values)


def test_normal_initialisation():
    """He's variance is 2 / columns, whatever the rows; a narrow normal has the deviation 0.01."""
    lstm = LSTM(8, 6, proj_size=3, dtype="float64")
    lstm.reset_parameters(5, weight_ih="he", weight_hh="he", bias="narrow_normal")
    rng = np.random.default_rng(5)
    draws = [rng.standard_normal(shape) for shape in ((24, 8), (24, 3), 24)]
    assert_same_bits(lstm.weight_ih_l0, draws[0] * np.sqrt(2 / 8))
    assert_same_bits(lstm.weight_hh_l0, draws[1] * np.sqrt(2 / 3))
    assert_same_bits(lstm.bias_ih_l0, draws[2] * 0.01)
    assert not lstm.bias_hh_l0.any()
    lstm.reset_parameters(5, weight_ih="narrow_normal", weight_hh="ones", bias="ones")
    assert_same_bits(lstm.weight_ih_l0, draws[0] * 0.01)
    assert (lstm.weight_hh_l0 == 1).all() and (lstm.bias_ih_l0 == 1).all()
    assert not lstm.bias_hh_l0.any()  # the two biases are added up


def test_initialisation_by_a_function():
    """It is called with the shape of each array; the other arrays do not notice."""
    asked = []

    def numbered(shape):
        asked.append(shape)
        return np.full(shape, 2.0 * len(asked))

    lstm = LSTM(3, 4, 2, bidirectional=True, proj_size=2)
    lstm.reset_parameters(7, weight_hh=numbered, bias=numbered)
    assert asked == [(16, 2), (16,)] * 4
    for k, end in enumerate(["_l0", "_l0_reverse", "_l1", "_l1_reverse"]):
        state = lstm.state_dict()
        assert (state["weight_hh" + end] == 4 * k + 2).all()
        assert (state["bias_ih" + end] == 4 * k + 4).all()
        assert not state["bias_hh" + end].any()
    twin = LSTM(3, 4, 2, bidirectional=True, proj_size=2)
    twin.reset_parameters(7, weight_hh="zeros", bias="zeros")
    for name in ("weight_ih_l0", "weight_hr_l0_reverse", "weight_ih_l1_reverse"):
        assert_same_bits(lstm.state_dict()[name], twin.state_dict()[name])
    cell = LSTMCell(3, 4)
    cell.reset_parameters(weight_ih=np.random.default_rng(2).standard_normal, bias=np.ones)
    expected = np.random.default_rng(2).standard_normal((16, 3)).astype("float32")
    assert_same_bits(cell.weight_ih, expected)
    assert (cell.bias_ih == 1).all() and not cell.bias_hh.any()


OTHERS = {
    "peephole": ({"peephole": True}, ["weight_ci", "weight_cf", "weight_co"]),
    "tflite": ({"layer_norm": "tflite"}, ["weight_ln"]),
    "haste": (
        {"layer_norm": "haste"}, ["weight_ln_ih", "weight_ln_hh", "weight_ln_c", "bias_ln_c"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("option", OTHERS)
@pytest.mark.parametrize("coupled", [None, "f=1-i", "i=1-f"])
def test_initialisation_of_other_arrays(option, coupled):
    """Peepholes are uniform as torch's weights are, gains are ones, and their biases zeros."""
    options, kinds = OTHERS[option]
    lstm = LSTM(3, 4, 2, coupled=coupled, **options, engine="numpy", seed=0)
    gone = {"f=1-i": "weight_cf", "i=1-f": "weight_ci"}.get(coupled)
    names = [kind + end for end in ("_l0", "_l1") for kind in kinds if kind != gone]
    lstm.reset_parameters(1, weight_ih="zeros", weight_hh="zeros", bias="zeros")
    state = lstm.state_dict()
    assert [n for n in state if not n.startswith(("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            ] == names  # fmt: skip
    for name in names:
        if option == "peephole":
            assert 0 < np.abs(state[name]).min() and np.abs(state[name]).max() <= 1 / 2
        else:
            assert (state[name] == (0 if name.startswith("bias") else 1)).all()


@pytest.mark.parametrize(
    "coupled, bias", [(None, [0, 1, 0, 0]), ("f=1-i", [-1, 0, 0]), ("i=1-f", [1, 0, 0])]
)
def test_a_unit_forget_gate_may_be_coupled(coupled, bias):
    """What is kept of c is sigmoid(1) of it, whichever gate has the rows."""
    lstm = LSTM(3, 4, coupled=coupled, dtype="float64", engine="numpy")
    lstm.reset_parameters(weight_ih="zeros", weight_hh="zeros", bias="unit_forget_gate")
    assert lstm.bias_ih_l0.reshape(-1, 4).tolist() == [[b] * 4 for b in bias]
    assert not lstm.bias_hh_l0.any()
    _, (_, c) = lstm(np.zeros((1, 1, 3)), (np.zeros((1, 1, 4)), np.full((1, 1, 4), 5.0)))
    np.testing.assert_allclose(c, 5 / (1 + np.exp(-1)), rtol=1e-15)


def test_a_function_that_fails_changes_nothing():
    lstm = LSTM(3, 4, 2, seed=0)

    def fails(shape):
        if shape[1] == 4:  # in the second layer
            raise KeyError("no such weights")
        return np.ones(shape)

    with pytest.raises(KeyError, match="no such weights"):
        lstm.reset_parameters(1, weight_ih=fails)
    for name, values in LSTM(3, 4, 2, seed=0).state_dict().items():
        assert_same_bits(lstm.state_dict()[name], values)


def test_a_function_may_return_one_array_twice():
    """What it returned is copied, so that it may be filled anew for the next matrix."""
    buffer = np.zeros((16, 4), "float32")

    def filled(shape):
        buffer[...] += 1
        return buffer

    lstm = LSTM(4, 4, 2)
    lstm.reset_parameters(weight_ih=filled)
    assert (lstm.weight_ih_l0 == 1).all() and (lstm.weight_ih_l1 == 2).all()


# ---- copies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies(engine, duplicate):
    """They have the same values and the same engine, and parameters of their own."""
    lstm = LSTM(3, 4, 2, bidirectional=True, engine=engine, seed=0).eval()
    for _ in range(2):  # before weights are packed, and after
        twin = duplicate(lstm)
        assert repr(twin) == repr(lstm) and twin.engine == engine and not twin.training
        expected = lstm(X)[0]
        assert_same_bits(twin(X)[0], expected)
        twin.load_state_dict({n: v * 2 for n, v in twin.state_dict().items()})
        assert_same_bits(lstm(X)[0], expected)
        assert_same_bits(lstm.weight_ih_l0, LSTM(3, 4, 2, bidirectional=True, seed=0).weight_ih_l0)
        assert_same_bits(twin.weight_ih_l0, 2 * lstm.weight_ih_l0)
        assert not np.array_equal(twin(X)[0], expected)
        twin.bias_ih_l0 = lstm.bias_ih_l0
        assert twin.num_parameters == lstm.num_parameters


def test_copies_drop_on_their_own():
    lstm = LSTM(3, 4, 2, dropout=0.5, seed=0)
    twin = pickle.loads(pickle.dumps(lstm))
    assert_same_bits(twin(X)[0], lstm(X)[0])
