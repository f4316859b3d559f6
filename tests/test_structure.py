"""What a file says and what it does not: undecided layouts, chains, folded weights, parameters."""

import copy
import pickle
import re

import numpy as np
import pytest

import fastlstm
from fastlstm.parameters import listed


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
    (lambda: fastlstm.Linear(2, 3, bias=False), "bias_", (3,)),
    (lambda: fastlstm.Linear(2, 3), "weights", (3, 2)),
    (lambda: fastlstm.Embedding(2, 3), "bias", (3,)),
    (lambda: fastlstm.Tanh(), "weight", (3,)),
    (lambda: fastlstm.Last(), "bias", (3,)),
    (lambda: fastlstm.Sequential({"fc": fastlstm.Linear(2, 3)}), "weight", (3, 2)),
    (lambda: fastlstm.Sequential({"fc": fastlstm.Linear(2, 3)}), "fc.weight", (3, 2)),
    (lambda: fastlstm.Sequential({"fc": fastlstm.Linear(2, 3)}), "fc.bias", (3,)),
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
    assert name not in vars(layer)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_bias_that_is_a_switch_or_missing_cannot_be_assigned():
    for layer in (fastlstm.LSTM(2, 3, bias=False), fastlstm.Linear(2, 3, bias=False)):
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


def test_a_list_of_names_is_cut():
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed(map(str, range(25)), '"', 2) == '"0", "1" and 23 more'
    assert len(listed(["x" * 10**6] * 10**5)) < 3000
    assert listed(["\x1b[2J\u202e"]) == r"'\x1b[2J\u202e'"


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
