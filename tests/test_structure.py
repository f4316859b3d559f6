"""What a file says and what it does not: undecided layouts, chains, folded weights, parameters."""

import copy
import json
import pickle
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from values import lstm_shapes

import fastlstm
from fastlstm.checks import quoted
from fastlstm.formats import inference, structure
from fastlstm.formats.parts import as_lstm, find_lstm, find_parts, within
from fastlstm.layers import Layer
from fastlstm.training import Adam, Checkpoint, MSELoss


def numbers(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# An undecided layout


def undecided(**options):
    return fastlstm.LSTM(3, 4, batch_first=None, engine="numpy", seed=0, **options)


def decided(batch_first):
    return fastlstm.LSTM(3, 4, batch_first=batch_first, engine="numpy", seed=0)


def test_an_undecided_layout_runs_what_has_none():
    lstm, x = undecided(), numbers(5, 3)
    assert repr(lstm) == "LSTM(3, 4, batch_first=undecided)"
    np.testing.assert_array_equal(lstm(x)[0], decided(True)(x)[0])
    packed = fastlstm.pack_sequence([numbers(5, 3), numbers(2, 3)])
    np.testing.assert_array_equal(lstm(packed)[0].data, decided(False)(packed)[0].data)
    stream, other = lstm.stream(2), decided(False).stream(2)
    np.testing.assert_array_equal(stream.step(x[:2]), other.step(x[:2]))


@pytest.mark.parametrize(
    "run",
    [
        lambda lstm, x: lstm(x),
        lambda lstm, x: lstm(x, lengths=[1] * x.shape[1]),
        lambda lstm, x: lstm.vjp(x),
        lambda lstm, x: lstm.stream(2).run(x),
        lambda lstm, x: fastlstm.Sequential(lstm)(x),
        lambda lstm, x: fastlstm.Sequential(lstm).vjp(x),
        lambda lstm, x: fastlstm.Sequential(lstm, fastlstm.Last())[1](x),
        lambda lstm, x: fastlstm.Sequential(lstm, fastlstm.Last())[1].vjp(x),
        lambda lstm, x: fastlstm.predict(lstm, (x, x)),
    ],
)
@pytest.mark.parametrize("shape", [(5, 2, 3), (2, 2, 3), (1, 1, 3)])
def test_an_undecided_layout_refuses_a_batch(run, shape):
    x = numbers(*shape)
    with pytest.raises(ValueError, match=re.escape("load(path, batch_first=True), or False")):
        run(undecided(), x)


@pytest.mark.parametrize("wish", [True, False])
def test_assigning_decides_a_layout(wish):
    lstm, x = undecided(), numbers(2, 5, 3)
    lstm.batch_first = wish
    np.testing.assert_array_equal(lstm(x)[0], decided(wish)(x)[0])
    assert repr(lstm) == repr(decided(wish))
    for wrong in (1, "yes"):
        with pytest.raises(TypeError, match="batch_first should be of type bool, got: "):
            lstm.batch_first = wrong
    assert lstm.batch_first is wish
    lstm.batch_first = None
    with pytest.raises(ValueError, match="batch_first is undecided"):
        lstm(x)


@pytest.mark.parametrize("shape", [(5, 1, 3), (1, 5, 3), (1, 1, 3), (0, 1, 3), (1, 0, 3)])
def test_one_stream_alone_tells_its_layout(shape):
    x = numbers(*shape)
    expected = decided(shape[0] == 1).stream().run(x)
    y = undecided().stream().run(x)
    assert y.shape == (*shape[:2], 4)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_an_undecided_layout_is_stored(tmp_path, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    model = fastlstm.Sequential(undecided(), fastlstm.Last())
    fastlstm.save(model, tmp_path / f"model{suffix}")
    again = fastlstm.load(tmp_path / f"model{suffix}", engine="numpy")
    assert repr(again) == repr(model) and again[0].batch_first is again[1].batch_first is None
    x = numbers(2, 5, 3)
    with pytest.raises(ValueError, match="batch_first is undecided"):
        again(x)
    for wish in (True, False):
        model = fastlstm.load(tmp_path / f"model{suffix}", batch_first=wish, engine="numpy")
        assert model[0].batch_first is model[1].batch_first is wish
        whole = decided(wish)(x)[0]
        np.testing.assert_array_equal(model(x), whole[:, -1] if wish else whole[-1])


def test_copies_stay_undecided():
    for again in (copy.deepcopy(undecided()), pickle.loads(pickle.dumps(undecided()))):
        assert again.batch_first is None


# Parameters that there are and that there are not

LACKING = [
    (lambda: fastlstm.LSTM(2, 3, bias=False), "bias_ih_l0", (12,)),
    (lambda: fastlstm.LSTM(2, 3), "weight_ih_l1", (12, 3)),
    (lambda: fastlstm.LSTM(2, 3), "weight_ih_l0_reverse", (12, 2)),
    (lambda: fastlstm.LSTM(2, 3), "weight_hr_l0", (2, 3)),
    (lambda: fastlstm.LSTM(2, 3), "weight_ih_l01", (12, 2)),
    (lambda: fastlstm.LSTM(2, 3), "weight_ih", (12, 2)),
    (lambda: fastlstm.LSTM(2, 3), "weights_ih_l0", (12, 2)),
    (lambda: fastlstm.LSTM(2, 3), "bias_l0", (12,)),
    (lambda: fastlstm.LSTMCell(2, 3), "weight_ih_l0", (12, 2)),
    (lambda: fastlstm.LSTMCell(2, 3, bias=False), "bias_hh", (12,)),
    (lambda: fastlstm.Linear(2, 3, bias=False), "bias", (3,)),
    (lambda: fastlstm.Linear(2, 3, bias=False), "bias_", (3,)),
    (lambda: fastlstm.Linear(2, 3), "weights", (3, 2)),
    (lambda: fastlstm.Embedding(2, 3), "bias", (3,)),
    (lambda: fastlstm.Tanh(), "weight", (3,)),
    (lambda: fastlstm.Last(), "bias", (3,)),
    (lambda: fastlstm.Sequential({"fc": fastlstm.Linear(2, 3)}), "weight", (3, 2)),
]


@pytest.mark.parametrize("make, name, shape", LACKING)
def test_assigning_a_parameter_that_the_layer_lacks(make, name, shape):
    layer = make()
    before = layer.state_dict()
    with pytest.raises(AttributeError) as error:
        setattr(layer, name, np.ones(shape, "float32"))
    there = ", ".join(map(repr, before)) or "none"
    sentence = f"{type(layer).__name__} has no parameter {name!r} to assign to; it has {there}"
    assert str(error.value) == sentence
    assert vars(layer).get(name) is None
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_bias_that_is_a_switch_cannot_be_assigned():
    for layer in (fastlstm.LSTM(2, 3, bias=False), fastlstm.LSTMCell(2, 3)):
        with pytest.raises(AttributeError, match="bias of .* cannot be changed: build another"):
            layer.bias = np.ones(12, "float32")


def test_a_sequential_takes_no_new_layers_and_no_layout():
    model = fastlstm.Sequential({"fc": fastlstm.Linear(2, 3)})
    with pytest.raises(AttributeError, match="Sequential: layer 'fc2' cannot be added"):
        model.fc2 = fastlstm.Linear(3, 1)
    with pytest.raises(AttributeError, match="'fc' cannot be replaced; build a new Sequential"):
        model.fc = fastlstm.Linear(2, 3)
    with pytest.raises(AttributeError, match="Sequential has no batch_first; .* layers inside it"):
        model.batch_first = True


def test_a_parameter_is_assigned_to_in_its_own_layer():
    model = fastlstm.Sequential({"net": fastlstm.Sequential(fastlstm.Linear(2, 3))})
    with pytest.raises(AttributeError, match="^'net.0.bias' is a parameter of a layer inside the"):
        setattr(model, "net.0.bias", np.ones(3))
    model.net[0].bias = np.ones(3)
    model.load_state_dict({"net.0.weight": np.ones((3, 2))}, strict=False)
    assert all((array == 1).all() for array in model.state_dict().values())


@pytest.mark.parametrize("name", ["weight_ih_l0", "bias", "hidden_size", "bias_hh_l0"])
def test_parameters_and_sizes_cannot_be_deleted(name):
    lstm = fastlstm.LSTM(2, 3, seed=0)
    before = lstm.state_dict()
    with pytest.raises(AttributeError, match=f"{name} of LSTM cannot be deleted: build another"):
        delattr(lstm, name)
    assert list(lstm.state_dict()) == list(before) and lstm.hidden_size == 3


def test_attributes_of_a_class_of_ones_own_stay_free():
    class Mine(fastlstm.Linear):
        weight_decay = 0.1

        def __init__(self):
            self.bias_scale = 2.0
            super().__init__(2, 3)
            self.weight_decay, self.bias_scale, self.scale = 0.2, 3.0, 4.0

    mine = Mine()
    assert (mine.weight_decay, mine.bias_scale, mine.scale) == (0.2, 3.0, 4.0)
    del mine.scale
    assert not hasattr(mine, "scale")


OPTIONS = [
    (lambda: fastlstm.LSTM(2, 3, 2), "batch_first", (True, False, None), 1),
    (lambda: fastlstm.LSTM(2, 3, 2), "dropout", (0, 0.5, 1), 1.5),
    (lambda: fastlstm.LSTM(2, 3, 2), "num_threads", (1, 3), 0),
    (lambda: fastlstm.LSTMCell(2, 3), "num_threads", (1,), "2"),
    (lambda: fastlstm.Linear(2, 3), "num_threads", (1, 3), 2.0),
    (lambda: fastlstm.Dropout(), "p", (0, 0.5, 1), None),
    (lambda: fastlstm.Softmax(), "dim", (0, -1, 2), 1.0),
    (lambda: fastlstm.Last(), "batch_first", (True, False), "yes"),
]


@pytest.mark.parametrize("make, name, good, bad", OPTIONS)
def test_options_are_checked_when_they_are_assigned(make, name, good, bad):
    """They are checked as the constructor does, and a refusal changes nothing."""
    layer = make()
    for value in good:
        setattr(layer, name, value)
        assert getattr(layer, name) == value
        assert getattr(copy.deepcopy(layer), name) == value
        before = vars(layer).copy()
        with pytest.raises((ValueError, TypeError)) as assigned:
            setattr(layer, name, bad)
        assert vars(layer) == before
    if not isinstance(layer, fastlstm.LSTMCell):
        arguments = [2, 3] if hasattr(layer, "dtype") and layer.num_parameters else []
        with pytest.raises(assigned.type) as constructed:
            type(layer)(*arguments, **{name: bad})
        assert str(assigned.value) == str(constructed.value)


def test_a_number_of_threads_that_is_left_open_is_the_machines(monkeypatch):
    lstm = fastlstm.LSTM(2, 3, num_threads=3)
    monkeypatch.setenv("FASTLSTM_NUM_THREADS", "2")
    assert copy.deepcopy(lstm).num_threads == 3
    lstm.num_threads = None
    assert lstm.num_threads == 2
    monkeypatch.setenv("FASTLSTM_NUM_THREADS", "5")
    assert (lstm.num_threads, copy.deepcopy(lstm).num_threads) == (2, 5)


def test_a_list_of_names_is_cut():
    assert quoted(["a", "b"]) == "'a', 'b'"
    assert quoted(map(str, range(25)), '"', 2) == '"0", "1" and 23 more'
    assert len(quoted(["x" * 10**6] * 10**5)) < 3000
    assert quoted(["\x1b[2J\u202e"]) == r"'\x1b[2J\u202e'"


def test_what_does_not_fit_is_told_in_few_words():
    model = fastlstm.Sequential(*(fastlstm.Linear(1, 1) for _ in range(100)))
    for state in ({f"no.{'x' * 10**5}{n}": np.zeros(1) for n in range(100)}, {}):
        with pytest.raises(ValueError, match="and 180 more") as error:
            model.load_state_dict(state)
        assert len(str(error.value)) < 5000
    wrong = {name: np.zeros(3) for name in model.state_dict()}
    with pytest.raises(ValueError, match="And 180 faults more") as error:
        model.load_state_dict(wrong)
    assert len(str(error.value)) < 5000


def test_load_state_dict_not_strict():
    lstm = fastlstm.LSTM(2, 3, seed=0)
    before = lstm.state_dict()
    state = {"bias_ih_l0": np.ones(12), "steps": np.array(3), "other.weight": np.ones((2, 2))}
    found = lstm.load_state_dict(state, strict=False)
    missing = ["weight_ih_l0", "weight_hh_l0", "bias_hh_l0"]
    assert found.missing_keys == missing and found.unexpected_keys == ["steps", "other.weight"]
    assert found == (missing, ["steps", "other.weight"])
    for name, array in lstm.state_dict().items():
        np.testing.assert_array_equal(array, np.ones(12) if name in state else before[name])
    assert lstm.load_state_dict(before) == ([], [])
    with pytest.raises(ValueError, match="Missing key.*\n.*Unexpected key.*steps"):
        lstm.load_state_dict(state)
    for strict in (True, False):  # nothing is taken where one shape is wrong
        with pytest.raises(ValueError, match="size mismatch for bias_hh_l0"):
            lstm.load_state_dict({"bias_ih_l0": np.ones(12), "bias_hh_l0": np.ones(3)}, strict)
    np.testing.assert_array_equal(lstm.bias_ih_l0, before["bias_ih_l0"])


@pytest.mark.parametrize("strict", [True, False])
def test_numbers_beyond_float32_are_not_taken(tmp_path, strict):
    wide = fastlstm.Linear(2, 1, dtype="float64")
    wide.weight, wide.bias = [[3.0, 4.0]], [1e300]
    model = fastlstm.Linear(2, 1, seed=0)
    before = model.state_dict()
    with pytest.raises(ValueError, match="bias holds numbers beyond float32"):
        model.load_state_dict(wide.state_dict(), strict)
    with pytest.raises(ValueError, match="bias holds numbers beyond float32"):
        model.bias = wide.bias
    fastlstm.save(wide, tmp_path / "x.npz")
    with pytest.raises(ValueError, match="x.npz: .*\n.*bias holds numbers beyond float32"):
        fastlstm.load(tmp_path / "x.npz", dtype="float32")
    assert_same(model.state_dict(), before)
    model.bias = np.array([-np.inf])  # is what it is in any precision
    assert model.bias == [-np.inf]


# Another precision


def test_astype_gives_a_new_layer():
    layers = {
        "embedding": fastlstm.Embedding(7, 3, seed=0),
        "inner": fastlstm.Sequential(fastlstm.LSTM(3, 4, 2, dropout=0.5, seed=1)),
        "fc": fastlstm.Linear(4, 2, seed=2),
    }
    model = fastlstm.Sequential(layers)
    model.fc.vjp(numbers(1, 4))[1](numbers(1, 2))  # gradients stay where they are
    wide = model.astype("float64")
    assert model.dtype == "float32" and wide.dtype == wide.inner.dtype == "float64"
    for name, array in wide.state_dict().items():
        assert array.dtype == "float64"
        np.testing.assert_array_equal(array, model.state_dict()[name])
    assert wide.training and not wide.fc.grads["weight"].any()
    tokens = np.array([[1, 2, 3], [4, 5, 6]])
    expected = model.eval()(tokens)
    y = wide.eval()(tokens)
    assert y.dtype == "float64"
    np.testing.assert_allclose(y, expected, atol=1e-5)
    back = wide.astype(np.float32)
    np.testing.assert_array_equal(back(tokens), expected)
    wide.fc.bias = [1, 2]  # its own numbers
    assert not np.array_equal(model.fc.bias, [1, 2])


def test_astype_keeps_shared_layers_and_rounds():
    linear = fastlstm.Linear(2, 2, dtype="float64", seed=0)
    model = fastlstm.Sequential({"a": linear, "b": linear}).astype("float32")
    assert model.a is model.b
    np.testing.assert_array_equal(model.a.weight, linear.weight.astype("float32"))
    linear.weight = [[1e300, 0], [0, 1]]
    with pytest.raises(ValueError, match="Linear holds numbers beyond float32"):
        linear.astype("float32")
    linear.weight = [[np.inf, np.nan], [0, 1e-300]]
    np.testing.assert_array_equal(linear.astype("float32").weight, [[np.inf, np.nan], [0, 0]])
    with pytest.raises(ValueError, match='dtype must be "float32" or "float64", got \'float16\''):
        linear.astype("float16")


def test_astype_of_a_cell():
    cell = fastlstm.LSTMCell(2, 3, engine="numpy", seed=0)
    wide = cell.astype("float64")
    assert wide.engine == "numpy" and wide.dtype == "float64"
    np.testing.assert_allclose(
        wide(numbers(2, 2, dtype="float64"))[0], cell(numbers(2, 2))[0], atol=1e-6
    )


# Files that do not say it


def state_of(shapes, prefix="", dtype="float32", seed=0):
    return {
        prefix + name: numbers(*shape, seed=seed + k, dtype=dtype)
        for k, (name, shape) in enumerate(shapes.items())
    }


def lstm(name, inputs, hidden, **options):
    return state_of(lstm_shapes(inputs, hidden), f"{name}." if name else "", **options)


def linear(name, inputs, outputs, bias=True):
    shapes = {"weight": (outputs, inputs)} | ({"bias": (outputs,)} if bias else {})
    return state_of(shapes, f"{name}.", seed=50)


def embedding(name, rows, columns):
    return state_of({"weight": (rows, columns)}, f"{name}.", seed=90)


def write(path, state):
    np.savez(path, **state)
    return path


def test_the_commonest_model_there_is(torch, tmp_path):
    torch.manual_seed(0)
    net = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(50, 8),
            "lstm": torch.nn.LSTM(8, 16, 2, batch_first=True, bidirectional=True),
            "fc": torch.nn.Linear(32, 5),
        }
    )
    torch.save(net.state_dict(), tmp_path / "model.pt")
    tokens = torch.randint(0, 50, (4, 7))
    expected = net["fc"](net["lstm"](net["embedding"](tokens))[0]).detach().numpy()
    model = fastlstm.load(tmp_path / "model.pt")
    assert "batch_first=undecided" in repr(model)
    assert "(not in the file: activations, dropout, residual connections and which" in repr(model)
    assert "output is used; here fc" in repr(model)
    for lengths in (None, [7, 7, 7, 7]):
        with pytest.raises(ValueError, match=re.escape("load(path, batch_first=True)")):
            model(tokens.numpy(), lengths=lengths)
    for one, y in zip(tokens, expected, strict=True):
        np.testing.assert_allclose(model(one.numpy()), y, atol=1e-6)
    decided = fastlstm.load(tmp_path / "model.pt", batch_first=True)
    np.testing.assert_allclose(decided(tokens.numpy()), expected, atol=1e-6)
    decided = fastlstm.load(tmp_path / "model.pt", batch_first=False)
    np.testing.assert_allclose(decided(tokens.T.numpy()).swapaxes(0, 1), expected, atol=1e-6)
    model.lstm.batch_first = True
    np.testing.assert_allclose(model(tokens.numpy()), expected, atol=1e-6)
    lone = fastlstm.load_lstm(tmp_path / "model.pt")
    with pytest.raises(ValueError, match=re.escape("load(path, batch_first=True)")):
        lone(numbers(4, 7, 8))


def test_batch_first_is_a_switch(tmp_path):
    path = write(tmp_path / "x.npz", lstm("", 2, 3))
    for function in (fastlstm.load, fastlstm.load_lstm):
        assert function(path, batch_first=np.True_).batch_first is True
        with pytest.raises(TypeError, match="batch_first should be of type bool, got: int"):
            function(path, batch_first=1)


@pytest.mark.parametrize("layer", [fastlstm.LSTM, lambda *sizes, **o: fastlstm.Last(**o)])
@pytest.mark.parametrize("stored, major", [(False, "time-major"), (True, "batch-first")])
def test_batch_first_may_not_contradict_the_file(tmp_path, layer, stored, major):
    fastlstm.save(fastlstm.Sequential(layer(2, 3, batch_first=stored)), tmp_path / "model.npz")
    message = f"model.npz: batch_first={not stored} contradicts its structure, which is {major}"
    with pytest.raises(ValueError, match=message):
        fastlstm.load(tmp_path / "model.npz", batch_first=not stored)
    for wish in (stored, None):
        assert fastlstm.load(tmp_path / "model.npz", batch_first=wish)[0].batch_first is stored


def test_load_lstm_believes_the_files_own_structure(tmp_path):
    lstms = {name: fastlstm.LSTM(2, 2, batch_first=True, seed=0) for name in "ab"}
    fastlstm.save(fastlstm.Sequential(lstms), tmp_path / "model.npz")
    one = fastlstm.load_lstm(tmp_path / "model.npz", prefix="a")
    assert one.batch_first and not one.training
    assert_same(one.state_dict(), lstms["a"].state_dict())


def assert_same(state, expected):
    """Names in order, shapes, dtypes and bits."""
    assert list(state) == list(expected)
    for name, array in expected.items():
        assert state[name].dtype == array.dtype, name
        np.testing.assert_array_equal(state[name], array, err_msg=name)


# Chains


def infer(state, ordered=True):
    description, arrays, _ = inference.infer(find_parts(state), ordered)
    model = structure.build(description)
    model.load_state_dict(arrays)
    return model


LSTM_23 = lstm("lstm", 2, 3)
CELL = {"weight_ih": (12, 2), "weight_hh": (12, 3)}
FC = linear("fc", 3, 4)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    "state, expected",
    [
        (lstm("", 2, 3), "LSTM(2, 3, batch_first=undecided)"),
        (lstm("", 2, 3, dtype="float64"), "LSTM(2, 3, batch_first=undecided)"),
        (state_of({"weight_ih": (12, 2), "weight_hh": (12, 3)}), "LSTMCell(2, 3, bias=False)"),
        (
            state_of({"weight": (4, 3), "bias": (4,)}),
            "Linear(in_features=3, out_features=4, bias=True)",
        ),
        (embedding("word_emb", 9, 2), "Sequential(\n  (word_emb): Embedding(9, 2)\n)"),
        (
            lstm("a.b", 2, 3),
            "Sequential(\n  (a): Sequential(\n    (b): LSTM(2, 3, batch_first=undecided)\n  )\n)",
        ),
        (
            embedding("e", 9, 2) | LSTM_23 | FC,
            "Sequential(\n  (e): Embedding(9, 2)\n  (lstm): LSTM(2, 3, batch_first=undecided)\n"
            "  (fc): Linear(in_features=3, out_features=4, bias=True)\n)",
        ),
        (
            lstm("up.0", 2, 3) | lstm("up.1", 3, 5),
            "Sequential(\n  (up): Sequential(\n    (0): LSTM(2, 3, batch_first=undecided)\n"
            "    (1): LSTM(3, 5, batch_first=undecided)\n  )\n)",
        ),
        # the other way round it would take four features, and refuse one
        (
            lstm("lstm", 1, 4) | linear("fc", 4, 1),
            "Sequential(\n  (lstm): LSTM(1, 4, batch_first=undecided)\n"
            "  (fc): Linear(in_features=4, out_features=1, bias=True)\n)",
        ),
        # matrices without bias: the name tells; counters are of no layer
        (
            embedding("embed", 9, 3) | lstm("lstm", 3, 3) | linear("out", 3, 9, bias=False),
            "Sequential(\n  (embed): Embedding(9, 3)\n  (lstm): LSTM(3, 3, batch_first=undecided)\n"
            "  (out): Linear(in_features=3, out_features=9, bias=False)\n)",
        ),
        (
            {"step": np.array(7)} | LSTM_23 | {"lstm.calls": np.array(3.0)},
            "Sequential(\n  (lstm): LSTM(2, 3, batch_first=undecided)\n)",
        ),
    ],
    ids="lstm float64 cell linear embedding prefix chain list forecast tied scalars".split(),
)
def test_inference(state, expected, ordered):
    model = infer(state, ordered)
    assert repr(model) == expected
    assert model.dtype == next(array for array in state.values() if array.ndim).dtype
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


UNCLEAR = {
    "encoder and decoder that fit both ways": (
        lstm("encoder", 3, 8) | lstm("decoder", 8, 3),
        "their sizes fit in more than one way",
        "'encoder' (LSTM 3 -> 8), 'decoder' (LSTM 8 -> 3)",
    ),
    "encoder and decoder that fit one way": (
        lstm("encoder", 3, 8) | lstm("decoder", 8, 5),
        "'encoder', 'decoder' may be an encoder and a decoder",
        "'encoder' (LSTM 3 -> 8), 'decoder' (LSTM 8 -> 5)",
    ),
    "two LSTMs with numbers": (
        lstm("lstm1", 3, 8) | lstm("lstm2", 8, 8) | linear("fc", 8, 5),
        "'lstm1', 'lstm2' may be an encoder and a decoder",
        "'lstm1' (LSTM 3 -> 8), 'lstm2' (LSTM 8 -> 8), 'fc' (Linear 8 -> 5)",
    ),
    "an autoencoder": (
        lstm("lstm1", 3, 8) | lstm("lstm2", 8, 8) | linear("fc", 8, 3),
        "their sizes fit in more than one way",
        "'lstm1' (LSTM 3 -> 8), 'lstm2' (LSTM 8 -> 8), 'fc' (Linear 8 -> 3)",
    ),
    "two LSTMs in two modules": (
        lstm("encoder.rnn", 3, 8) | lstm("decoder.rnn", 8, 4) | linear("decoder.fc", 4, 2),
        "may be an encoder and a decoder",
        "'encoder.rnn' (LSTM 3 -> 8)",
    ),
    "equal LSTMs": (
        lstm("b", 3, 3) | lstm("a", 3, 3) | FC,
        "their sizes fit in more than one way",
        "'b' (LSTM 3 -> 3), 'a' (LSTM 3 -> 3)",
    ),
    "a list that fits both ways": (
        lstm("rnns.0", 3, 8) | lstm("rnns.1", 8, 3),
        "their sizes fit in more than one way",
        "'rnns.0' (LSTM 3 -> 8)",
    ),
    "square Linear defined first": (
        linear("fc", 8, 8) | lstm("lstm", 8, 8),
        "their sizes fit in more than one way",
        "'fc' (Linear 8 -> 8), 'lstm' (LSTM 8 -> 8)",
    ),
    "square Linear defined last": (
        lstm("lstm", 8, 8) | linear("fc", 8, 8),
        "their sizes fit in more than one way",
        "'lstm' (LSTM 8 -> 8), 'fc' (Linear 8 -> 8)",
    ),
    "Linear defined first that fits both ways": (
        linear("fc", 4, 1) | lstm("lstm", 1, 4),
        "their sizes fit in more than one way",
        "'fc' (Linear 4 -> 1), 'lstm' (LSTM 1 -> 4)",
    ),
    "Linear defined before the LSTM that it fits after": (
        FC | LSTM_23,
        "their sizes fit in another order than the file's alone",
        "'fc' (Linear 3 -> 4), 'lstm' (LSTM 2 -> 3)",
    ),
    "Linear before an LSTM": (
        linear("proj", 7, 2) | LSTM_23,
        "they are not an embedding, LSTMs and a Linear, in this order",
        "'proj' (Linear 7 -> 2)",
    ),
    "two Linears": (
        LSTM_23 | linear("fc1", 3, 4) | linear("fc2", 4, 2),
        "between 'fc1', 'fc2' an activation may stand, which no name tells",
        "'fc1' (Linear 3 -> 4), 'fc2' (Linear 4 -> 2)",
    ),
    "an LSTM between two Linears": (
        linear("fc1", 3, 8) | lstm("lstm", 8, 8) | linear("fc2", 8, 2),
        "between 'fc1', 'fc2' an activation may stand",
        "'lstm' (LSTM 8 -> 8)",
    ),
    "an Embedding or a Linear": (
        linear("e", 2, 2, bias=False) | LSTM_23,
        "their sizes fit in more than one way",
        "'e' (Linear 2 -> 2 or Embedding indices -> 2)",
    ),
    "tied without a name that tells": (
        embedding("a", 9, 3) | lstm("lstm", 3, 3) | embedding("b", 9, 3),
        "their sizes fit in more than one way",
        "'a' (Linear 3 -> 9 or Embedding indices -> 3)",
    ),
    "sizes that do not fit": (
        LSTM_23 | linear("fc", 5, 4),
        "their sizes fit in no order",
        "'lstm' (LSTM 2 -> 3), 'fc' (Linear 5 -> 4)",
    ),
    "batch norm": (
        LSTM_23 | state_of({"norm.weight": (3,), "norm.running_mean": (3,)}) | FC,
        "'norm' cannot be run",
        "'norm' (not known here: 'weight' (3,), 'running_mean' (3,))",
    ),
    "batch norm without weights": (
        LSTM_23 | state_of({"norm.running_mean": (3,), "norm.running_var": (3,)}) | FC,
        "'norm' cannot be run",
        "'norm' (not known here: 'running_mean' (3,), 'running_var' (3,))",
    ),
    "convolution": (
        state_of({"conv.weight": (4, 2, 3), "conv.bias": (4,)}) | LSTM_23,
        "'conv' cannot be run",
        "'conv' (not known here: 'weight' (4, 2, 3), 'bias' (4,))",
    ),
    "attention": (
        LSTM_23 | state_of({"attn.in_proj_weight": (9, 3)}) | linear("attn.out_proj", 3, 3),
        "'attn' cannot be run",
        "'attn.out_proj' (Linear 3 -> 3)",
    ),
    "a learned first state": (
        LSTM_23 | state_of({"h0": (1, 3)}) | FC,
        "'h0' cannot be run",
        "'' (not known here: 'h0' (1, 3))",
    ),
    "a learned first state in the LSTM": (
        LSTM_23 | state_of({"lstm.h0": (1, 3)}) | FC,
        "'lstm' cannot be run",
        "'lstm' (not known here: 'weight_ih_l0' (12, 2)",
    ),
    "LSTM and Linear in one": (
        lstm("", 2, 3) | state_of({"weight": (4, 3), "bias": (4,)}),
        "'weight_ih_l0' cannot be run",
        "'' (not known here: 'weight_ih_l0' (12, 2)",
    ),
    "cell": (
        state_of({"cell.weight_ih": (12, 2), "cell.weight_hh": (12, 3)}) | FC,
        "an LSTMCell is stepped by code of its own, which no name tells",
        "'cell' (LSTMCell 2 -> h, c), 'fc' (Linear 3 -> 4)",
    ),
    "GRU": (
        state_of({"gru.weight_ih_l0": (9, 2), "gru.weight_hh_l0": (9, 3)}) | FC,
        "'gru' cannot be run",
        "'gru' ('gru' is a GRU, or an LSTM with coupled gates, whose arrays do not",
    ),
    "numbers with a gap": (
        lstm("net.0", 2, 3) | linear("net.2", 3, 4),
        "'net.1' has no parameters, and what it is stands nowhere",
        "'net.0' (LSTM 2 -> 3)",
    ),
    "names that do not nest": (
        lstm("a.0", 2, 3) | linear("b", 5, 1) | lstm("a.1", 3, 5),
        "their sizes fit in another order than the file's alone",
        "'a.0' (LSTM 2 -> 3)",
    ),
    "a layer in a layer": (
        LSTM_23 | linear("lstm.fc", 3, 5),
        "their names do not nest as their sizes chain",
        "'lstm.fc' (Linear 3 -> 5)",
    ),
    "many": (
        {k: v for n in range(9) for k, v in lstm(str(n), 3, 3).items()},
        "there are 9 parts, at most 8 are chained",
        "'0' (LSTM 3 -> 3)",
    ),
    "depth": (linear("a" + ".a" * 19, 3, 2), "a name has more than 16 parts", "Linear 3 -> 2"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_unclear_parts_are_listed_with_what_to_do(tmp_path, name):
    state, reason, found = UNCLEAR[name]
    path = write(tmp_path / "x.npz", state)
    with pytest.raises(ValueError) as error:
        fastlstm.load(path)
    message = str(error.value)
    assert message.startswith(f"{path}: how its parts go together is not told by names and shapes")
    assert reason in message and found in message and len(message) < 2500
    follow(message, path)


def test_numbers_of_no_layer_are_left_out_and_said(tmp_path):
    scalars = {"temperature": np.array(2.0), "lstm.calls": np.array(3)}
    model = fastlstm.load(write(tmp_path / "x.npz", scalars | LSTM_23 | FC))
    assert "takes every step; left out of the file: 'temperature', 'lstm.calls')" in repr(model)
    assert_same(model.state_dict(), LSTM_23 | FC)


def test_what_is_not_in_the_file_is_said_of_one_layer_too(tmp_path):
    model = fastlstm.load(write(tmp_path / "x.npz", linear("net.0", 3, 4)))
    assert "residual connections and which output is used)" in repr(model)
    path = write(tmp_path / "x.npz", LSTM_23 | linear("\x1b[2Jfc", 3, 4))
    assert "here \\x1b[2Jfc takes every step)" in repr(fastlstm.load(path))


def test_nothing_is_no_model():
    with pytest.raises(ValueError, match="there are 0 parts, at most .* It holds no layers"):
        infer({"step": np.array(3)})


def follow(message, path):
    """Do all that an error of `load` says."""
    options = r"(?:key='[^']*', )?(?:prefix='[^']*'|(?:prefix='[^']*', )?order=\[[^]]*\])"
    advice = re.findall(rf"fastlstm\.load\(path, {options}\)", message)
    for call in advice:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of parts that nothing can run
            assert isinstance(eval(call, {"fastlstm": fastlstm, "path": path}), Layer)
    assert re.search(
        r"fastlstm\.load\(path, (key='[^']*', )?(prefix='[^']*', )?into=model\)", message
    )
    return advice


def test_every_advice_works(tmp_path):
    path = write(tmp_path / "x.npz", linear("fc1", 3, 8) | lstm("lstm", 8, 8) | linear("fc2", 8, 2))
    with pytest.raises(ValueError) as error:
        fastlstm.load(path)
    assert follow(str(error.value), path) == [
        "fastlstm.load(path, order=['fc1', 'lstm', 'fc2'])",
        "fastlstm.load(path, prefix='fc1')",
    ]
    model = fastlstm.Sequential(
        {"fc1": fastlstm.Linear(3, 8), "lstm": fastlstm.LSTM(8, 8), "fc2": fastlstm.Linear(8, 2)}
    )
    assert fastlstm.load(path, into=model) is model
    assert_same(model.state_dict(), fastlstm.load_state(path))


def test_advice_where_something_cannot_be_run(tmp_path):
    crf = state_of({"crf.transitions": (4, 4), "start": (4,), "end": (4,)})
    path = write(tmp_path / "x.npz", embedding("embed", 9, 2) | LSTM_23 | FC | crf)
    with pytest.raises(ValueError) as error:
        fastlstm.load(path)
    order = ["embed", "lstm", "fc"]
    assert f"order={order}) if they run one after the other so without 'crf', 'start', 'end', " in (
        str(error.value)
    )
    assert str(error.value).endswith(
        'fastlstm.save(model, "model.npz") then keeps it, for the command line too'
    )
    with pytest.warns(UserWarning, match="left out of the file: 'crf', 'start', 'end'$"):
        model = fastlstm.load(path, order=order, batch_first=True)
    fastlstm.save(model, tmp_path / "model.npz")
    tokens = np.array([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(fastlstm.load(tmp_path / "model.npz")(tokens), model(tokens))


def test_into_a_model_that_lacks_something(torch, tmp_path):
    state = {n: torch.from_numpy(a) for n, a in (LSTM_23 | state_of({"lstm.h0": (3,)})).items()}
    torch.save({"model": state, "ema": state}, path := tmp_path / "x.pt")
    model = fastlstm.Sequential({"lstm": fastlstm.LSTM(2, 3)})
    with pytest.raises(ValueError, match='Unexpected key.*"lstm.h0"') as error:
        fastlstm.load(path, key="ema", into=model)
    advice = str(error.value).split("\n\t")[-1]
    call = advice.partition(" leaves out what the model lacks, and returns its names.")[0]
    found = eval(call, {"fastlstm": fastlstm, "path": path, "model": model})
    assert found == ([], ["lstm.h0"])
    assert_same(model.state_dict(), LSTM_23)


def test_advice_about_a_part_of_a_nested_state_dict(torch, tmp_path):
    net = {f"net.{name}": torch.from_numpy(array) for name, array in HEAD.items()}
    torch.save({"model": net, "ema": {n: -array for n, array in net.items()}}, tmp_path / "x.pt")
    path = tmp_path / "x.pt"
    with pytest.raises(ValueError) as error:
        fastlstm.load(path, key="ema", prefix="net")
    assert follow(str(error.value), path) == [
        "fastlstm.load(path, key='ema', prefix='net', order=['fc1', 'rnn.lstm', 'fc2'])",
        "fastlstm.load(path, key='ema', prefix='net.fc1')",
    ]
    assert "fastlstm.load(path, key='ema', prefix='net', into=model)" in str(error.value)
    model = fastlstm.load(path, key="ema", prefix="net", order=["fc1", "rnn.lstm", "fc2"])
    np.testing.assert_array_equal(model.fc1.weight, -HEAD["fc1.weight"])


def test_an_order_with_layers_side_by_side(tmp_path):
    """They give more features than they take, and what a Last leaves open its LSTM tells."""

    def pooled():
        both = fastlstm.Concat(fastlstm.Last(), fastlstm.Sequential(fastlstm.Last()))
        return fastlstm.Sequential(both, fastlstm.Residual(fastlstm.Tanh()))

    lstm = fastlstm.LSTM(2, 3, batch_first=True, bidirectional=True, seed=0)
    layers = {"lstm": lstm, "pooled": pooled(), "fc": fastlstm.Linear(12, 1, seed=1)}
    model = fastlstm.Sequential(layers).eval()
    fastlstm.save(model, path := tmp_path / "x.pt")
    again = fastlstm.load(path, order=["lstm", pooled(), "fc"], batch_first=True)
    x = numbers(4, 5, 2)
    np.testing.assert_array_equal(again(x), model(x))
    with pytest.raises(ValueError, match="the sizes do not fit in this order"):
        fastlstm.load(path, order=["lstm", fastlstm.Last(), "fc"])


def test_inference_is_quick_where_nothing_fits():
    state = {}
    for n in range(8):  # every order of seven fits, none of eight does
        state |= lstm(str(n), 3, 3) if n < 7 else lstm(str(n), 5, 5)
    with pytest.raises(ValueError, match="their sizes fit in no order"):
        infer(state, ordered=False)


# An order that the caller says

HEAD = linear("fc1", 3, 8) | lstm("rnn.lstm", 8, 8) | linear("fc2", 8, 2)


def test_order_is_what_runs(tmp_path):
    path = write(tmp_path / "x.npz", HEAD)
    order = ["fc1", fastlstm.ReLU(), "rnn.lstm", fastlstm.Last(), "fc2", fastlstm.Softmax()]
    model = fastlstm.load(path, order=order, batch_first=True)
    names = ["fc1", "1", "rnn_lstm", "3", "fc2", "5"]
    assert list(model.children) == names and not model.training
    fc1, fc2 = fastlstm.Linear(3, 8), fastlstm.Linear(8, 2)
    fc1.load_state_dict({n: HEAD[f"fc1.{n}"] for n in ("weight", "bias")})
    fc2.load_state_dict({n: HEAD[f"fc2.{n}"] for n in ("weight", "bias")})
    rnn = fastlstm.load_lstm(path, batch_first=True)
    x = numbers(4, 7, 3)
    expected = fastlstm.Softmax()(fc2(rnn(fastlstm.ReLU()(fc1(x)))[0][:, -1]))
    np.testing.assert_allclose(model(x), expected, atol=1e-6)
    undecided = fastlstm.load(path, order=tuple(order))
    np.testing.assert_allclose(undecided(x[0]), expected[0], atol=1e-6)
    with pytest.raises(ValueError, match="batch_first is undecided"):
        undecided(x)


def test_a_group_of_a_file_without_an_order(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    state = lstm("net.rnn", 3, 4) | linear("net.fc", 4, 2) | linear("out", 2, 1)
    library.save_file(state, tmp_path / "x.safetensors")
    model = fastlstm.load(tmp_path / "x.safetensors", order=["net", fastlstm.ReLU(), "out"])
    assert list(model.net.children) == ["rnn", "fc"]
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    net = fastlstm.load(tmp_path / "x.safetensors", prefix="net")
    assert list(net.children) == ["rnn", "fc"]


@pytest.mark.parametrize(
    "state, order, expected",
    [
        (linear("0", 3, 4) | linear("2", 4, 1), ["0", fastlstm.ReLU(), "2"], ["0", "1", "2"]),
        (linear("1", 3, 4) | linear("3", 4, 1), ["1", fastlstm.ReLU(), "3"], ["1", "1_", "3"]),
        (linear("a.b", 3, 4) | linear("a_b", 4, 1), ["a.b", "a_b."], ["a_b", "a_b_"]),
        (lstm("", 3, 4) | linear("fc", 4, 1), ["", "fc"], ["0", "fc"]),
        (
            embedding("net.e", 9, 3) | lstm("net.lstm", 3, 4) | linear("fc", 4, 1),
            ["net", "fc"],
            ["net", "fc"],
        ),
    ],
)
def test_names_in_an_order(tmp_path, state, order, expected):
    model = fastlstm.load(write(tmp_path / "x.npz", state), order=order)
    assert list(model.children) == expected
    held = list(model.state_dict().values())
    for array, (name, stored) in zip(held, state.items(), strict=True):
        np.testing.assert_array_equal(array, stored, err_msg=name)


class Unknown(fastlstm.Tanh):
    """A layer that no file can hold."""


@pytest.mark.parametrize(
    "order, error, message",
    [
        (["fc1", "rnn.lstm"], ValueError, "order leaves out 'fc2' (Linear 8 -> 2); it must name"),
        (["rnn.lstm", "fc1", "fc2"], ValueError, "the sizes do not fit in this order: "),
        (["fc1", "rnn.lstm", "fc3", "fc2"], ValueError, "nothing has the prefix 'fc3'; there are "),
        (["fc1", "fc1.", "fc2"], ValueError, "order names 'fc1' twice"),
        ([], TypeError, "order must be a list of names and layers, got list"),
        ("fc1", TypeError, "order must be a list of names and layers, got str"),
        (["fc1", 3], TypeError, "order must be a list of names and of fastlstm's layers, got int"),
        (["fc1", fastlstm.ReLU], TypeError, "order holds the class ReLU; write ReLU()"),
        (
            ["fc1", Unknown()],
            TypeError,
            "order takes fastlstm's own layers, got Unknown: build the",
        ),
        (["fc1", fastlstm.Linear(1, 1)], TypeError, "has parameters, got a Linear; only layers"),
    ],
)
def test_wrong_orders(tmp_path, order, error, message):
    with pytest.raises(error, match=re.escape(message)):
        fastlstm.load(write(tmp_path / "x.npz", HEAD), order=order)


def test_a_last_in_an_order_takes_its_layout_from_its_lstm(tmp_path):
    layers = {"lstm": fastlstm.LSTM(3, 4, bidirectional=True, seed=0), "fc": fastlstm.Linear(8, 2)}
    fastlstm.save(fastlstm.Sequential(layers), path := tmp_path / "x.pt")
    x = numbers(2, 5, 3)
    h_n = layers["lstm"](x.swapaxes(0, 1))[1][0]
    expected = layers["fc"](np.concatenate([h_n[0], h_n[1]], axis=1))
    for last in (fastlstm.Last(), fastlstm.Last(batch_first=True), fastlstm.Last(True, True)):
        for ending in (last, fastlstm.Sequential(last, fastlstm.Dropout(0.5))):
            model = fastlstm.load(path, order=["lstm", ending, "fc"], batch_first=True)
            np.testing.assert_allclose(model(x), expected, atol=1e-6)
    for last in (fastlstm.Last(batch_first=False), fastlstm.Last(bidirectional=False)):
        with pytest.raises(ValueError, match="x.pt: .*(contradicts|does not agree)"):
            fastlstm.load(path, order=["lstm", last, "fc"], batch_first=True)


def test_an_order_leaves_out_what_cannot_be_run_aloud(tmp_path):
    state = LSTM_23 | state_of({"norm.weight": (3,), "norm.bias": (3,)}) | FC
    path = write(tmp_path / "x.npz", state)
    with pytest.warns(UserWarning, match="x.npz: left out of the file: 'norm'"):
        model = fastlstm.load(path, order=["lstm", "fc"])
    assert "(left out of the file: 'norm')" in repr(model)
    with pytest.raises(
        ValueError, match=re.escape("'norm' cannot be run: not known here: 'weight'")
    ):
        fastlstm.load(path, order=["lstm", "norm", "fc"])


def test_an_order_says_which_numbers_it_leaves_out(tmp_path):
    path = write(tmp_path / "x.npz", HEAD | {"temperature": np.array(2.0)})
    model = fastlstm.load(path, order=["fc1", "rnn.lstm", "fc2"])
    assert "(left out of the file: 'temperature')" in repr(model)
    state = {f"net.{name}": array for name, array in (LSTM_23 | FC).items()}
    path = write(tmp_path / "x.npz", state | {"net.step": np.array(2), "steps": np.array(3)})
    assert "left out of the file: 'step')" in repr(fastlstm.load(path, prefix="net"))


def test_an_order_where_a_matrix_may_be_two_things(tmp_path):
    path = write(tmp_path / "x.npz", embedding("e", 2, 2) | LSTM_23)
    with pytest.raises(ValueError, match="a matrix may be a Linear or an Embedding"):
        fastlstm.load(path, order=["e", "lstm"])
    path = write(tmp_path / "x.npz", embedding("e", 9, 2) | LSTM_23)
    model = fastlstm.load(path, order=["e", "lstm"])
    np.testing.assert_array_equal(model.e([3]), embedding("e", 9, 2)["e.weight"][[3]])


def test_an_order_is_for_files_that_do_not_tell_it(tmp_path):
    fastlstm.save(fastlstm.Sequential({"fc": fastlstm.Linear(2, 3)}), tmp_path / "x.npz")
    with pytest.raises(ValueError, match="x.npz: order= is for files that do not tell it"):
        fastlstm.load(tmp_path / "x.npz", order=["fc"])


# A part of a file, a model of one's own, another precision


@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_prefix_takes_any_part(tmp_path, suffix):
    layers = {
        "embedding": fastlstm.Embedding(9, 2, seed=0),
        "net": fastlstm.Sequential({"lstm": fastlstm.LSTM(2, 3), "fc": fastlstm.Linear(3, 4)}),
        "fc1": fastlstm.Linear(4, 4, seed=1),
        "cell": fastlstm.LSTMCell(4, 3, seed=2),
    }
    path = tmp_path / f"x{suffix}"
    model = {"embedding": layers["embedding"], "net": layers["net"], "last": fastlstm.Last()}
    fastlstm.save(fastlstm.Sequential(model | layers), path)
    for name, layer in layers.items():
        for written in (name, name + "."):
            part = fastlstm.load(path, prefix=written)
            assert type(part) is type(layer) and not part.training
            assert_same(part.state_dict(), layer.state_dict())
    assert_same(fastlstm.load(path, prefix="net.fc").state_dict(), layers["net"]["fc"].state_dict())
    with pytest.raises(
        ValueError, match="nothing has the prefix 'fc'; there are .*'embedding', 'net"
    ):
        fastlstm.load(path, prefix="fc")
    with pytest.raises(TypeError, match="prefix must be a string, got int"):
        fastlstm.load(path, prefix=1)


@pytest.mark.parametrize("name", ["linear", "fc", "fc_2", "lm_head", "out_proj", "dense1"])
def test_the_name_tells_a_linear_without_bias(tmp_path, name):
    path = write(tmp_path / "x.npz", LSTM_23 | linear(name, 3, 4, bias=False))
    part = fastlstm.load(path, prefix=name)
    assert repr(part) == "Linear(in_features=3, out_features=4, bias=False)"
    np.testing.assert_array_equal(part.weight, linear(name, 3, 4, bias=False)[f"{name}.weight"])


def test_prefix_of_what_cannot_be_run(tmp_path):
    path = write(tmp_path / "x.npz", LSTM_23 | state_of({"norm.weight": (3,)}))
    with pytest.raises(
        ValueError, match="'weight' cannot be run. It holds '' .not known here: 'wei"
    ):
        fastlstm.load(path, prefix="norm")
    assert repr(fastlstm.load(path, prefix="lstm")) == "LSTM(2, 3, batch_first=undecided)"


def test_into_a_model_of_ones_own(tmp_path):
    path = write(tmp_path / "x.npz", HEAD | {"steps": np.array(7)})
    inner = fastlstm.Sequential({"lstm": fastlstm.LSTM(8, 8, batch_first=True)})
    layers = {"fc2": fastlstm.Linear(8, 2), "rnn": inner, "fc1": fastlstm.Linear(3, 8)}
    model = fastlstm.Sequential({name: layers[name] for name in ("fc1", "rnn", "fc2")})
    assert fastlstm.load(path, into=model) is model and not model.training
    assert_same(model.state_dict(), HEAD)
    lone = fastlstm.LSTM(8, 8)
    fastlstm.load(path, into=lone, prefix="rnn.lstm")
    assert_same(lone.state_dict(), inner["lstm"].state_dict())
    before = lone.state_dict()
    with pytest.raises(
        ValueError, match="x.npz: Error.s. in loading.*\n.*Missing key.*\n.*Unexpec"
    ):
        fastlstm.load(path, into=lone)
    assert_same(lone.state_dict(), before)
    with pytest.raises(TypeError, match="into must be a layer, got dict"):
        fastlstm.load(path, into={})
    with pytest.raises(
        ValueError, match="batch_first and order cannot be given with into="
    ) as error:
        fastlstm.load(path, into=model, order=["fc1"], batch_first=True)
    assert str(error.value).endswith("the model has its own")


@pytest.mark.parametrize("kind", ["npz", "module"])
def test_into_a_model_of_another_layout(torch, tmp_path, kind):
    path = tmp_path / "x"
    if kind == "npz":
        theirs = fastlstm.Sequential({"net": fastlstm.LSTM(2, 3, batch_first=True, seed=0)})
        fastlstm.save(theirs, path := tmp_path / "x.npz")
    else:
        torch.save(torch.nn.ModuleDict({"net": torch.nn.LSTM(2, 3, batch_first=True)}), path)
    other = fastlstm.LSTM(2, 3, seed=1)
    before = other.state_dict()
    for model, prefix in (other, "net"), (fastlstm.Sequential({"net": other}), None):
        with pytest.raises(
            ValueError, match="net has batch_first=True in the file, False in the mod"
        ):
            fastlstm.load(path, into=model, prefix=prefix)
    assert_same(other.state_dict(), before)
    for layout in (True, None):
        model = fastlstm.LSTM(2, 3, batch_first=layout)
        assert fastlstm.load(path, into=model, prefix="net").batch_first is layout
        assert_same(model.state_dict(), fastlstm.load(path, prefix="net").state_dict())


def test_load_state_dict_takes_what_load_state_gives(tmp_path):
    """It does so also if a file has more arrays than the model."""
    state = LSTM_23 | {"norm.num_batches_tracked": np.array(3)}
    model = fastlstm.Sequential({"lstm": fastlstm.LSTM(2, 3)})
    state = fastlstm.load_state(write(tmp_path / "x.npz", state))
    found = model.load_state_dict(state, strict=False)
    assert found == ([], ["norm.num_batches_tracked"])
    assert_same(model.state_dict(), LSTM_23)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_load_in_another_precision(tmp_path, suffix):
    model = fastlstm.Sequential({"lstm": fastlstm.LSTM(2, 3, seed=0), "fc": fastlstm.Linear(3, 1)})
    path = tmp_path / f"x{suffix}"
    fastlstm.save(model, path)
    wide = fastlstm.load(path, dtype="float64", batch_first=False)
    assert wide.dtype == "float64"
    assert_same(wide.state_dict(), model.astype("float64").state_dict())
    lstm = fastlstm.load_lstm(path, dtype=np.float64)
    assert_same(lstm.state_dict(), model.lstm.astype("float64").state_dict())
    fastlstm.save(wide, path)
    assert_same(fastlstm.load(path, dtype="float32").state_dict(), model.state_dict())
    for function in (fastlstm.load, fastlstm.load_lstm):
        with pytest.raises(ValueError, match='^dtype must be "float32" or "float64", got'):
            function(tmp_path / "gone.pt", dtype="float16")


def test_parts_of_two_precisions(tmp_path):
    path = write(tmp_path / "x.npz", LSTM_23 | {n: a.astype(float) for n, a in FC.items()})
    with pytest.raises(
        ValueError, match="different dtypes: .*load.path, dtype=...., makes them one"
    ):
        fastlstm.load(path)
    assert fastlstm.load(path, dtype="float64").dtype == "float64"


def test_load_lstm_chooses_by_prefix(tmp_path):
    lstms = {"enc": fastlstm.LSTM(2, 3, seed=0), "dec": fastlstm.LSTM(3, 5, 2, seed=1)}
    head = {"fc1": fastlstm.Linear(5, 4), "fc2": fastlstm.Linear(4, 1)}
    path = tmp_path / "x.pt"
    fastlstm.save(fastlstm.Sequential(lstms | head), path)
    for prefix, expected in lstms.items():
        for written in (prefix, prefix + "."):
            lstm = fastlstm.load_lstm(path, prefix=written, batch_first=True, engine="numpy")
            assert_same(lstm.state_dict(), expected.state_dict())
            assert lstm.batch_first and lstm.engine == "numpy" and not lstm.training
    with pytest.raises(ValueError, match="several LSTMs, choose one with prefix=: 'enc', 'dec'"):
        fastlstm.load_lstm(path)
    with pytest.raises(ValueError, match="no LSTM has the prefix 'fc1'; there are 'enc', 'dec'"):
        fastlstm.load_lstm(path, prefix="fc1")
    fastlstm.save(fastlstm.Linear(1, 1), tmp_path / "y.npz")
    with pytest.raises(ValueError, match="y.npz: it holds no LSTM: no name ends in 'weight_ih_l0'"):
        fastlstm.load_lstm(tmp_path / "y.npz")
    fastlstm.save(lstms["enc"], tmp_path / "z.npz")
    lstm = fastlstm.load_lstm(tmp_path / "z.npz", prefix="")
    assert_same(lstm.state_dict(), lstms["enc"].state_dict())


def test_load_lstm_tells_a_gru_from_an_lstm(tmp_path):
    gru = state_of({"gru.weight_ih_l0": (9, 2), "gru.weight_hh_l0": (9, 3), "gru.bias_ih_l0": (9,)})
    path = write(tmp_path / "x.npz", gru)
    with pytest.raises(ValueError, match="it holds no LSTM: 'gru' is a GRU, or an LSTM"):
        fastlstm.load_lstm(path)
    with pytest.raises(ValueError, match="x.npz: 'gru' is a GRU, or an LSTM with coupled gates"):
        fastlstm.load(path)
    write(path, gru | lstm("lstm", 3, 5))
    assert fastlstm.load_lstm(path).hidden_size == 5
    with pytest.raises(ValueError, match="'gru' is a GRU, or an LSTM with coupled gates"):
        fastlstm.load_lstm(path, prefix="gru")
    plain = state_of({"weight_ih": (3, 2), "weight_hh": (3, 3)})
    with pytest.raises(ValueError, match="^it is a plain RNN, not an LSTM"):
        infer(plain)
    projected = {"weight_ih_l0": (12, 2), "weight_hh_l0": (12, 1), "weight_hr_l0": (1, 3)}
    projected |= {"bias_ih_l0": (12,), "bias_hh_l0": (12,)}
    assert infer(state_of(projected)).proj_size == 1
    projected["weight_hh_l0"] = (12, 4)  # as many rows as a GRU's
    with pytest.raises(ValueError, match="size mismatch for weight_hh_l0"):
        infer(state_of(projected))


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
@pytest.mark.parametrize("bias", [True, False])
def test_load_lstm_of_a_cell(tmp_path, suffix, bias):
    cell = fastlstm.LSTMCell(2, 3, bias=bias, engine="numpy", seed=0)
    model = fastlstm.Sequential({"fc": fastlstm.Linear(2, 2), "cell": cell})
    path = tmp_path / f"x{suffix}"
    fastlstm.save(model, path)
    for prefix in (None, "cell"):
        lstm = fastlstm.load_lstm(path, prefix=prefix, engine="numpy")
        assert repr(lstm).startswith("LSTM(2, 3") and not lstm.training
        states = (np.zeros(3, "float32"),) * 2
        for x_t in numbers(4, 2):  # step by step: BLAS may sum a whole sequence in another order
            before = tuple(state[None] for state in states)
            _, (h_n, c_n) = lstm(x_t[None], before)
            states = cell(x_t, states)
            np.testing.assert_array_equal(h_n[0], states[0])
            np.testing.assert_array_equal(c_n[0], states[1])
    fastlstm.save(cell, path)
    lstm = fastlstm.load_lstm(path, batch_first=True, dtype="float64")
    assert repr(lstm) == f"LSTM(2, 3{'' if bias else ', bias=False'}, batch_first=True)"
    np.testing.assert_array_equal(lstm.weight_hh_l0, cell.weight_hh)


def test_load_lstm_says_what_it_leaves_beside_the_lstm(tmp_path):
    for name in ("h0", "w_ci", "lora_A"):
        path = write(tmp_path / "x.npz", LSTM_23 | state_of({f"lstm.{name}": (1, 3)}))
        with pytest.warns(UserWarning, match=f"x.npz: what '{name}' beside the LSTM's own"):
            assert_same(fastlstm.load_lstm(path).state_dict(), lstm("", 2, 3))


@pytest.mark.parametrize(
    "state, inside",
    [  # torch's own example of a layer-normalised cell; LoRA of one weight
        (state_of(CELL | {"ln.weight": (12,)}, "cell."), "cell.ln"),
        (state_of(CELL | {"ln.weight": (12,)}), "ln"),
        (LSTM_23 | state_of({"lstm.weight_hh_l0.scale": (12, 1)}), "lstm.weight_hh_l0"),
    ],
)
def test_an_lstm_with_strange_things_inside_is_refused(tmp_path, state, inside):
    path = write(tmp_path / "x.npz", state)
    for call in (fastlstm.load_lstm, fastlstm.load):
        with pytest.raises(ValueError, match=f"what '{inside}' does inside the LSTM.* is not kn"):
            call(path)


def test_an_lstm_goes_before_a_cell(tmp_path):
    path = write(
        tmp_path / "x.npz", LSTM_23 | state_of({"c.weight_ih": (8, 2), "c.weight_hh": (8, 2)})
    )
    assert fastlstm.load_lstm(path).hidden_size == 3
    assert fastlstm.load_lstm(path, prefix="c").hidden_size == 2


def test_wrong_arguments_are_not_the_files_fault(tmp_path):
    for function in (fastlstm.load, fastlstm.load_lstm):
        with pytest.raises(ValueError, match="^engine must be one of .*, got 'abacus'$"):
            function(tmp_path / "gone.pt", engine="abacus")
        with pytest.raises(TypeError, match="^prefix must be a string, got int$"):
            function(tmp_path / "gone.pt", prefix=1)


def test_load_names_the_faults_of_an_lstm(tmp_path):
    path, shapes = tmp_path / "x.npz", lstm_shapes(2, 3)
    del shapes["bias_ih_l0"]
    shapes["weight_hh_l0"] = (12, 5)
    with pytest.raises(ValueError) as error:
        fastlstm.load(write(path, state_of(shapes)))
    assert 'Missing key(s) in state_dict: "bias_ih_l0".' in str(error.value)
    assert "size mismatch for weight_hh_l0" in str(error.value)
    del shapes["weight_ih_l0"]
    with pytest.raises(
        ValueError, match="x.npz: an LSTM lacks 'weight_ih_l0'; it has 'weight_hh_l0'"
    ):
        fastlstm.load(write(path, state_of(shapes)))


@pytest.mark.parametrize(
    "changed, fault",
    [
        ({"weight_hh_l0": (8, 2)}, "'m.weight_hh_l0' must have shape (12, 3), got (8, 2)"),
        ({"weight_ih_l0": (2, 12)}, "'m.weight_ih_l0' must have 4 rows for each unit, got (2, 12)"),
        ({"weight_ih_l0": (0, 2)}, "'m.weight_ih_l0' must have 4 rows for each unit, got (0, 2)"),
        ({"weight_ih_l0_reverse": (12, 2)}, "an LSTM lacks 'm.weight_hh_l0_reverse'; it has "),
        ({"bias_ih_l1": (12,)}, "an LSTM lacks 'm.weight_ih_l1'; it has "),
        ({"weight_hr_l0": (2, 3), "weight_hh_l0": (12, 1)}, "'m.weight_hh_l0' must have shape (12"),
    ],
)
def test_what_an_lstm_lacks_is_named(tmp_path, changed, fault):
    """The error does not say how many numbers its structure needs."""
    path = write(tmp_path / "x.npz", state_of(lstm_shapes(2, 3) | changed, "m."))
    for call in (fastlstm.load, fastlstm.load_lstm):
        with pytest.raises(ValueError, match=re.escape(fault)):
            call(path)


def test_weights_that_are_no_floats_are_named(tmp_path):
    cell = {"weight_ih": np.ones((4, 2)), "weight_hh": np.ones((4, 1), "int8")}
    for state in ({"weight": np.ones((2, 3), int)}, cell, {"weight_ih_l0": np.ones((4, 2), "c8")}):
        name, wrong = next((n, a) for n, a in state.items() if a.dtype != float)
        path = write(tmp_path / "x.npz", {f"m.{n}": array for n, array in state.items()})
        with pytest.raises(
            ValueError, match=f"x.npz: 'm.{name}' must hold floats, got {wrong.dtype}"
        ):
            fastlstm.load(path)


# A checkpoint of a training


def trained(path, layers):
    """A model that `fit` has trained for an epoch, with its checkpoint."""
    model = fastlstm.Sequential(layers)
    data = numbers(20, 5, 1), numbers(20, 1)
    optimizer, saving = Adam(model), Checkpoint(path)
    fastlstm.fit(model, data, MSELoss(), optimizer, 1, 10, callbacks=[saving])
    return model


def many_to_one():
    return {
        "lstm": fastlstm.LSTM(1, 4, batch_first=True, seed=0),
        "last": fastlstm.Last(),
        "fc": fastlstm.Linear(4, 1, seed=0),
    }


def test_a_checkpoint_gives_its_models_state(tmp_path):
    model = trained(path := tmp_path / "training.npz", many_to_one())
    assert_same(fastlstm.load_state(path), model.state_dict())
    x = numbers(3, 5, 1)
    expected = model.eval()(x)
    order = ["lstm", fastlstm.Last(), "fc"]
    ordered = fastlstm.load(path, order=order, batch_first=True)
    into = fastlstm.load(path, into=fastlstm.Sequential(many_to_one()))
    for again in (ordered, into):
        np.testing.assert_array_equal(again(x), expected)
    lstm = fastlstm.load_lstm(path, batch_first=True)
    np.testing.assert_array_equal(lstm(x)[0], model.lstm(x)[0])
    inferred = fastlstm.load(path)
    assert "here fc takes every step" in repr(inferred)
    np.testing.assert_array_equal(inferred(x[0])[-1], expected[0])


def test_a_checkpoint_that_does_not_tell_its_model_says_what_it_is(tmp_path):
    layers = many_to_one() | {"relu": fastlstm.ReLU(), "out": fastlstm.Linear(1, 1, seed=0)}
    model = trained(path := tmp_path / "training.npz", layers)
    with pytest.raises(ValueError) as error:
        fastlstm.load(path)
    said = (
        f"{path}: it is a checkpoint of a training, of which the model's parameters are taken: how"
    )
    assert str(error.value).startswith(said)
    follow(str(error.value), path)
    with pytest.raises(
        ValueError, match="it is a checkpoint of a training, .*: Error.s. in loading"
    ):
        fastlstm.load(path, into=fastlstm.LSTM(1, 4))
    assert_same(fastlstm.load_state(path), model.state_dict())


@pytest.mark.parametrize(
    "tree",
    [
        "{",
        "[]",
        "{}",
        "[" * 10**5,
        '{"kept": {"model": []}}',
        '{"kept": {"model": {"w": 3}}}',
        '{"kept": {"model": {"w": {"__array__": 7}}}}',
        '{"kept": {"model": {"w": {"__array__": "%s"}}}}' % ("7" * 10**5),
        b"\xff",
    ],
)
def test_a_damaged_checkpoint(tmp_path, tree):
    text = np.array(tree if isinstance(tree, bytes) else tree.encode())
    path = write(tmp_path / "x.npz", {"0": np.ones(3), "__training__": text})
    for function in (fastlstm.load, fastlstm.load_lstm, fastlstm.load_state):
        with pytest.raises(
            ValueError, match="x.npz: it is a checkpoint .*: they are damaged: "
        ) as e:
            function(path)
        assert len(str(e.value)) < 1000


# More than arrays allow


def described(path, description, arrays):
    text = json.dumps({"version": 1, "structure": description})
    return write(path, {**arrays, "__structure__": np.array(text.encode())})


LONG = structure.describe(fastlstm.LSTM(1, 1)) | {"num_layers": 100_000}
TANH = {"layer": "Tanh"}
WIDE = {"layer": "Sequential", "children": {str(n): TANH for n in range(1001)}}
HIGH = {
    "layer": "Sequential",
    "children": {
        str(n): {"layer": "Sequential", "children": {str(m): TANH for m in range(40)}}
        for n in range(40)
    },
}


@pytest.mark.parametrize(
    "description, arrays, message",
    [
        (
            LONG,
            {"w": np.zeros(10)},
            "its structure needs 800000 numbers or more, the file holds 10",
        ),
        (LONG, {"w": np.zeros(10**6)}, "its structure needs 400000 arrays, the file holds 1"),
        (LONG | {"num_layers": 10**30}, {}, "numbers or more, the file holds 0"),
        (
            LONG | {"hidden_size": 10**4000},
            {},
            "numbers or more, the file holds 0",
        ),
        (WIDE, {}, "its structure has more than 1000 layers"),
        (HIGH, {}, "its structure has more than 1000 layers"),
        ({"layer": "x" * 10**5}, {}, "its structure has an unknown layer 'xxxx"),
        ({"layer": "Tanh", "x" * 10**5: 1}, {}, "its structure gives Tanh the arguments 'xxxx"),
        (TANH | {str(n): 1 for n in range(10**4)}, {}, "and 9980 more, expected"),
        (LONG | {"dtype": "x" * 10**5, "num_layers": 1}, {"w": np.zeros(10)}, "dtype must be"),
        (
            {"layer": "Sequential", "children": {"." * 10**5: TANH}},
            {},
            "a name must be a string without dots",
        ),
    ],
)
def test_a_structure_that_asks_for_too_much(tmp_path, monkeypatch, description, arrays, message):
    """It is refused in few words, before a layer is built."""
    if "dtype" not in message and "dots" not in message:
        for layer in ("LSTM", "Tanh", "Sequential"):
            monkeypatch.setattr(structure, layer, None)
        monkeypatch.setattr(structure, "_construct", None)
    path = described(tmp_path / "x.npz", description, arrays)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        fastlstm.load(path)
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value)) < 3000


def test_what_would_not_be_read_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="its structure has more than 1000 layers"):
        fastlstm.save(
            fastlstm.Sequential(*(fastlstm.Tanh() for _ in range(1000))), tmp_path / "x.npz"
        )
    assert not list(tmp_path.iterdir())
    most = fastlstm.Sequential(*(fastlstm.Tanh() for _ in range(999)))
    fastlstm.save(most, tmp_path / "x.npz")
    assert len(fastlstm.load(tmp_path / "x.npz")) == 999


@pytest.mark.parametrize("more", ["weight_ih_l999999", "weight_ih_l2", "bias_hh_l10_reverse"])
def test_no_more_layers_than_arrays(tmp_path, monkeypatch, more):
    path = write(tmp_path / "x.npz", lstm("", 2, 3) | {more: numbers(12, 3)})
    monkeypatch.setattr(structure, "build", None)
    layer = re.search(r"\d+", more)[0]
    for function in (fastlstm.load, fastlstm.load_lstm):
        with pytest.raises(
            ValueError, match=f"an LSTM has layer {layer}, but lacks 'weight_ih_l1'"
        ):
            function(path)


@pytest.mark.parametrize("ending", ["", ".0", ".weight_ih_l1"])
def test_long_names_make_no_long_message(tmp_path, ending):
    long = [letter * 30_000 + ending for letter in "ab"]
    state = linear(long[0], 3, 4) | lstm(long[1], 4, 4) | state_of({f"{long[0]}n.x": (3,)})
    with pytest.raises(ValueError) as error:
        fastlstm.load(write(tmp_path / "x.npz", state))
    assert len(str(error.value)) < 2500


def test_many_names_make_no_long_message(tmp_path):
    state = {f"{'long' * 50}{n}.weight": numbers(2, 3) for n in range(3000)}
    path = write(tmp_path / "x.npz", state)
    for call in (
        lambda: fastlstm.load(path),
        lambda: fastlstm.load_lstm(path),
        lambda: fastlstm.load(path, prefix="gone"),
        lambda: fastlstm.load(path, order=["gone"]),
        lambda: fastlstm.load(path, order=[next(iter(state)).removesuffix(".weight")]),
        lambda: fastlstm.load(path, into=fastlstm.Linear(2, 3)),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert len(str(error.value)) < 10_000


# Whatever names and shapes there are

MODULES = ["", "lstm.", "a.", "a.b.", "0.", "1.", "embedding.", "module.", "a..", ".", "é."]
LOCAL = (
    "weight bias weight_ih_l0 weight_hh_l0 bias_ih_l0 bias_hh_l0 weight_ih_l1 weight_hr_l0 "
    "weight_ih_l0_reverse weight_ih weight_hh weight_ci_l0 weight_cf_l0 weight_co weight_ci "
    "weight_ln_l0 weight_ln weight_ln_c_l0 bias_ln_c h_0_l0 c_0 h0 weight_g weight_v "
    "weight_hh_l0_raw weight_hh_l0_orig weight_hh_l0_mask weight_u running_mean step "
    "parametrizations.weight.original0 parametrizations.weight.original1 "
    "parametrizations.weight.0._u"
).split()
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 12]), max_size=3).map(tuple)
TYPES = st.sampled_from(["f4", "f8", "i8", "?", "u1", "c8"])
ODD = st.dictionaries(
    st.tuples(st.sampled_from(MODULES), st.sampled_from(LOCAL)).map("".join),
    st.tuples(SHAPES, TYPES),
    max_size=6,
)
WHOLE = st.lists(
    st.tuples(st.sampled_from(MODULES), st.integers(1, 3), st.integers(1, 3)), max_size=3
)


@settings(max_examples=500, deadline=None)
@given(odd=ODD, whole=WHOLE, names=st.lists(st.sampled_from(MODULES), min_size=1, max_size=3))
def test_any_state_dict_is_a_model_or_a_value_error(odd, whole, names):
    state = {}
    for module, inputs, hidden in whole:
        state |= {module + n: np.ones(shape) for n, shape in lstm_shapes(inputs, hidden).items()}
    state |= {name: np.ones(shape, dtype) for name, (shape, dtype) in odd.items()}
    for call in (
        lambda parts: inference.infer(parts)[:2],
        lambda parts: inference.infer(within(parts, names[0]), False)[:2],
        lambda parts: inference.arrange(parts, names)[:2],
        lambda parts: as_lstm(find_lstm(parts, None)[1]),
        lambda parts: as_lstm(find_lstm(parts, names[0])[1]),
    ):
        try:
            description, arrays = call(find_parts(state))
            model = structure.build(description, engine="numpy", dtype="float64", state=arrays)
            model.load_state_dict(arrays)
        except ValueError as error:
            assert len(str(error)) < 5000
