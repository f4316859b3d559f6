"""The layers other than LSTMs: values by hand and against torch, names, errors."""

import copy
import pickle

import numpy as np
import pytest
from errors import raises
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import (
    LSTM,
    Dropout,
    Embedding,
    Last,
    Linear,
    LSTMCell,
    ReLU,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)

# ---- Linear ---------------------------------------------------------------------------------


def test_linear_by_hand(dtype):
    linear = Linear(2, 3, dtype=dtype)
    linear.weight, linear.bias = [[1, 2], [3, 4], [0, -1]], [10, 20, 30]
    y = linear(np.array([[1, 1], [0, 0.5]], dtype))
    assert_same_bits(y, np.array([[13, 27, 29], [11, 22, 29.5]], dtype))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (4, 7), (3, 4, 7), (0, 7)], ids=str)
def test_linear_is_torchs(torch, dtype, shape, bias):
    theirs = torch.nn.Linear(7, 5, bias, dtype=getattr(torch, dtype))
    ours = Linear(7, 5, bias, dtype=dtype)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = normal(*shape, dtype=dtype)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(x)).numpy()
    got = ours(x)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    # a sum of 8 terms on both sides
    np.testing.assert_allclose(got, expected, rtol=0, atol=16 * np.finfo(dtype).eps)
    np.testing.assert_allclose(got, ours(torch.from_numpy(x)), rtol=0, atol=0)


def test_linear_parameters():
    linear = Linear(25, 40, seed=0)
    for value in linear.state_dict().values():
        assert 0.17 < np.abs(value).max() <= 0.2
    assert_same_bits(linear.weight, Linear(25, 40, seed=0).weight)
    linear.reset_parameters(1)
    assert_same_bits(linear.weight, Linear(25, 40, seed=1).weight)
    assert linear.num_parameters == 25 * 40 + 40
    assert Linear(3, 2, bias=False).bias is None


def test_linear_errors():
    linear = Linear(3, 2)
    raises(lambda: linear(normal(3, 2)), ValueError,
           "Linear: Expected input of shape (..., 3), got (3, 2)")  # fmt: skip
    raises(lambda: linear(1.0), ValueError, "Linear: Expected input of shape (..., 3), got ()")
    raises(lambda: linear(normal(2, 3, dtype="float64")), ValueError,
           "Linear input dtype (float64) does not match weight dtype (float32). Convert input: "
           'input.astype("float32"), or convert model: model.astype("float64")')  # fmt: skip
    raises(lambda: Linear(0, 2), ValueError, "in_features must be greater than zero, got 0")
    raises(lambda: Linear(2, 1.0), TypeError, "out_features should be of type int, got: float")
    raises(lambda: Linear(2, 1, 0), TypeError, "bias should be of type bool, got: int")


# ---- Embedding ------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_idx", [None, 0, 3, -1])
@pytest.mark.parametrize(
    "indices", [[[0, 4], [3, 3]], 2, [], np.arange(5, dtype=np.uint8)], ids=str
)
def test_embedding_is_torchs(torch, dtype, padding_idx, indices):
    theirs = torch.nn.Embedding(5, 3, padding_idx, dtype=getattr(torch, dtype))
    ours = Embedding(5, 3, padding_idx, dtype=dtype)
    assert repr(ours) == repr(theirs)
    if padding_idx is not None:
        assert not ours.weight[padding_idx].any() and np.delete(ours.weight, padding_idx, 0).all()
    ours.load_state_dict(theirs.state_dict())
    expected = theirs(torch.as_tensor(indices, dtype=torch.int64)).detach().numpy()
    assert_same_bits(ours(indices), expected)


def test_embedding_parameters():
    """They are drawn from N(0, 1): mean and deviation are within five of their deviations."""
    weight = Embedding(100, 50, seed=0).weight
    assert abs(weight.mean()) < 5 / np.sqrt(5000)
    assert abs(weight.std() - 1) < 5 / np.sqrt(2 * 5000)
    assert_same_bits(weight, Embedding(100, 50, seed=0).weight)


def test_embedding_gives_copies():
    embedding = Embedding(3, 2, seed=0)
    before = embedding.weight.copy()
    embedding([0, 1])[...] = 7
    embedding(2)[...] = 7
    assert_same_bits(embedding.weight, before)


def test_embedding_errors():
    embedding = Embedding(5, 3)
    for index in ([0, 5], [-1, 0]):
        raises(lambda index=index: embedding(index), ValueError,
               "index out of range: Embedding has rows 0..4, got indices "
               f"from {min(index)} to {max(index)}")  # fmt: skip
    raises(lambda: embedding([1.0]), ValueError,
           "input of Embedding must hold integers, got dtype float64")  # fmt: skip
    raises(lambda: embedding([True]), ValueError,
           "input of Embedding must hold integers, got dtype bool")  # fmt: skip
    raises(lambda: Embedding(5, 3, 5), ValueError,
           "Padding_idx must be within num_embeddings, got 5 for 5 embeddings")  # fmt: skip
    raises(lambda: Embedding(5, 3, -6), ValueError,
           "Padding_idx must be within num_embeddings, got -6 for 5 embeddings")  # fmt: skip
    raises(lambda: Embedding(5, 3, 1.0), TypeError, "padding_idx should be of type int, got: float")


# ---- element by element ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer, name", [(ReLU(), "ReLU"), (Tanh(), "Tanh"), (Sigmoid(), "Sigmoid")], ids=str
)
def test_activations_are_torchs(torch, dtype, layer, name):
    x = np.concatenate(
        [normal(1000, dtype=dtype), np.linspace(-100, 100, 1001, dtype=dtype),
         np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 1e30, -1e30], dtype)]
    )  # fmt: skip
    kept = x.copy()
    theirs = getattr(torch.nn, name)()
    assert repr(layer) == repr(theirs)
    expected = theirs(torch.from_numpy(x)).numpy()
    got = layer(x)
    assert got.dtype == x.dtype
    # torch flushes what is below the normal numbers to 0
    tiny = np.finfo(dtype).smallest_normal
    np.testing.assert_allclose(got, expected, rtol=8 * np.finfo(dtype).eps, atol=tiny)
    assert_same_bits(x, kept)


def test_sigmoid_by_hand(dtype):
    """Small results keep their digits, nothing warns, and any shape and strides will do."""
    x = np.array([-np.inf, -1e30, -80, -1, 0, 80, 1e30, np.inf, np.nan], dtype)
    e = np.exp(np.array([80, 1], "float64"))
    expected = [0, 0, 1 / (1 + e[0]), 1 / (1 + e[1]), 0.5, 1, 1, 1, np.nan]
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(Sigmoid()(x), expected, rtol=4 * eps)
    np.testing.assert_allclose(Sigmoid()(x[::-2]), expected[::-2], rtol=4 * eps)
    spread = np.broadcast_to(x[2:4], (3, 2))
    np.testing.assert_allclose(Sigmoid()(spread), [expected[2:4]] * 3, rtol=4 * eps)
    assert Sigmoid()(np.zeros((), dtype)) == 0.5 and Sigmoid()(x[:0]).shape == (0,)


@pytest.mark.parametrize("kind", [ReLU, Tanh, Sigmoid, Softmax, Last])
def test_the_input_is_left_as_it_is(dtype, kind):
    x = normal(4, 5, dtype=dtype)
    kept = x.copy()
    kind()(x)[...] = 7
    assert_same_bits(x, kept)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("dim", [-1, 0, 1])
def test_softmax_is_torchs(torch, dtype, dim):
    x = normal(4, 5, 6, dtype=dtype) * 30
    x[0, 0] = np.array([1000, -1000, 0, 999, -np.inf, 1], dtype)
    theirs = torch.nn.Softmax(dim)
    assert repr(Softmax(dim)) == repr(theirs)
    expected = theirs(torch.from_numpy(x)).numpy()
    got = Softmax(dim)(x)
    # exp(x) takes over the absolute error of x, up to 1000 eps; then a sum
    np.testing.assert_allclose(got, expected, rtol=20 * np.finfo(dtype).eps, atol=1e-37)
    np.testing.assert_allclose(got.sum(dim), 1, rtol=10 * np.finfo(dtype).eps)


def test_softmax_by_hand():
    got = Softmax()(np.log([[1.0, 2.0, 5.0], [1.0, 1.0, 2.0]]))
    np.testing.assert_allclose(got, [[1 / 8, 2 / 8, 5 / 8], [1 / 4, 1 / 4, 1 / 2]], rtol=1e-15)
    raises(lambda: Softmax(2)(normal(2, 3)), ValueError,
           "Softmax: Expected input with an axis 2, got 2D")  # fmt: skip
    raises(lambda: Softmax(0.5), TypeError, "dim should be of type int, got: float")


@pytest.mark.parametrize("kind", [ReLU, Tanh, Sigmoid, Softmax, Dropout, Last])
def test_layers_without_parameters_take_either_float(kind):
    layer = kind().eval()
    for dtype in ("float32", "float64"):
        assert layer(normal(2, 3, dtype=dtype)).dtype == dtype
    assert layer(normal(2, 3).astype(np.float16)).dtype == np.float32
    assert layer([[1.0, 2.0]]).dtype == np.float64
    sentence = f"{kind.__name__}: Expected input of float32 or float64, got "
    for value, name in ((np.ones((2, 3), int), "int64"), (np.ones((2, 3), "i1"), "int8"),
                        (np.ones(2, complex), "complex128")):  # fmt: skip
        raises(lambda value=value: layer(value), ValueError, sentence + name)
    with pytest.raises(TypeError, match="input is a masked array"):
        layer(np.ma.masked_less(normal(2, 3), 0))
    assert layer.num_parameters == 0 and layer.state_dict() == {}


# ---- Dropout --------------------------------------------------------------------------------


def test_dropout(dtype):
    """Frequencies are within five deviations, scaling is exact, the input stays as it is."""
    x = normal(100, 200, dtype=dtype)
    kept = x.copy()
    dropout = Dropout(0.25, seed=0)
    y = dropout(x)
    assert_same_bits(x, kept)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, np.where(y == 0, 0, x * np.dtype(dtype).type(4 / 3)))
    assert abs((y == 0).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / x.size)
    again = Dropout(0.25, seed=0)
    assert_same_bits(again(x), y)
    assert not np.array_equal(dropout(x), y)
    assert_same_bits(dropout.eval()(x), x)
    assert repr(dropout) == "Dropout(p=0.25)"


@pytest.mark.parametrize("p, factor", [(0, 1), (1, 0), (0.0, 1), (1.0, 0)])
def test_dropout_of_nothing_and_everything(p, factor):
    x = normal(3, 4)
    np.testing.assert_array_equal(Dropout(p)(x), factor * x)


def test_dropout_errors():
    for p in (-0.1, 1.1, "half", None):
        with pytest.raises(ValueError, match="dropout should be a number in range .0, 1."):
            Dropout(p)


# ---- Last -----------------------------------------------------------------------------------


def test_last_by_hand():
    y = np.arange(24.0).reshape(3, 2, 4)  # 3 steps, 2 sequences
    assert_same_bits(Last()(y), y[2])
    assert_same_bits(Last()(y, lengths=[1, 3]), y[[0, 2], [0, 1]])
    assert_same_bits(Last(batch_first=True)(y), y[:, 1])
    assert_same_bits(Last(batch_first=True)(y, lengths=[2, 1, 2]), y[[0, 1, 2], [1, 0, 1]])
    assert_same_bits(Last()(y[:, 0]), y[2, 0])
    assert_same_bits(Last(batch_first=True)(y[:, 0]), y[2, 0])
    both = Last(bidirectional=True)(y, lengths=[2, 3])
    assert_same_bits(both, np.array([[8.0, 9, 2, 3], [20, 21, 6, 7]]))


@pytest.mark.parametrize("lengths", [None, [2, 6, 1, 4]])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_last_is_the_final_state(engine, batch_first, bidirectional, lengths):
    """Classifiers take h_n of the last layer, with the directions side by side."""
    lstm = LSTM(3, 5, 2, batch_first=batch_first, bidirectional=bidirectional, engine=engine)
    x = normal(*((4, 6) if batch_first else (6, 4)), 3)
    output, (h_n, _) = lstm(x, lengths=lengths)
    last = Last(batch_first, bidirectional)
    directions = h_n[-2:] if bidirectional else h_n[-1:]
    assert_same_bits(last(output, lengths=lengths), np.concatenate(list(directions), axis=1))
    kept = output.copy()
    last(output, lengths=lengths)[...] = 0
    assert_same_bits(np.ascontiguousarray(output), np.ascontiguousarray(kept))


def test_last_of_nothing():
    """It gives zeros and has no gradient, whatever stands in the padding."""
    x = np.arange(1.0, 13.0, dtype=np.float32).reshape(2, 3, 2)
    for last in (Last(), Last(bidirectional=True)):
        y, pullback = last.vjp(x, lengths=[0, 2, 0])
        assert_same_bits(y[[0, 2]], np.zeros((2, 2), np.float32))
        assert_same_bits(y[1], np.array([9, 10 if not last.bidirectional else 4], np.float32))
        assert not pullback(np.ones_like(y))[:, [0, 2]].any()
        assert_same_bits(last(x, lengths=[0, 0, 0]), np.zeros((3, 2), np.float32))
        assert_same_bits(last(x[:0], lengths=[0, 0, 0]), np.zeros((3, 2), np.float32))


def test_last_unbatched(engine):
    lstm = LSTM(3, 5, bidirectional=True, engine=engine)
    output, (h_n, _) = lstm(normal(6, 3))
    assert_same_bits(Last(bidirectional=True)(output), h_n.ravel())


def test_last_errors():
    y, last = normal(3, 2, 5), Last()
    raises(lambda: last(y[0, 0]), ValueError, "Last: Expected input to be 2D or 3D, got 1D instead")
    raises(lambda: Last(bidirectional=True)(y), ValueError,
           "Last: Expected an even number of features, got 5")  # fmt: skip
    raises(lambda: last(y[:0]), ValueError, "Expected sequence length to be larger than 0 in Last")
    sentence = "Expected `len(lengths)` to be equal to batch_size, but got 1 (batch_size=2)"
    raises(lambda: last(y, lengths=[1]), ValueError, sentence)
    sentence = "Expected every length to be at most the input's 3 steps, but got 4 at index 0"
    raises(lambda: last(y, lengths=[4, 1]), ValueError, sentence)
    sentence = "lengths needs batched 3-D input, got unbatched 2-D input"
    raises(lambda: last(y[0], lengths=[1]), ValueError, sentence)
    raises(lambda: Last(1), TypeError, "batch_first should be of type bool, got: int")
    assert repr(Last(True)) == "Last(batch_first=True, bidirectional=False)"


# ---- Sequential -----------------------------------------------------------------------------


def _tagger(engine="auto", **options):
    """Embedding, LSTM, Linear under the names of a torch module with these attributes."""
    return Sequential(
        {
            "embedding": Embedding(9, 4, padding_idx=0, seed=1),
            "lstm": LSTM(4, 5, 2, bidirectional=True, batch_first=True, engine=engine, **options),
            "fc": Linear(10, 3, seed=3),
        }
    )


def test_sequential_is_its_layers(engine):
    model = _tagger(engine)
    tokens, lengths = np.array([[1, 2, 3, 4], [5, 6, 0, 0]]), [4, 2]
    embedding, lstm, fc = model
    expected = fc(lstm(embedding(tokens), lengths=lengths)[0])
    assert_same_bits(model(tokens, lengths=lengths), expected)
    assert not np.array_equal(model(tokens), expected)


def test_sequential_is_torchs(engine, torch):
    """Names, repr and values are those of a torch module with these attributes."""

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(9, 4, padding_idx=0)
            self.lstm = torch.nn.LSTM(4, 5, 2, bidirectional=True, batch_first=True)
            self.fc = torch.nn.Linear(10, 3)

        def forward(self, tokens):
            return self.fc(self.lstm(self.embedding(tokens))[0])

    theirs, ours = Tagger(), _tagger(engine)
    assert repr(ours) == repr(theirs).replace("Tagger(", "Sequential(")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    tokens = np.random.default_rng(0).integers(0, 9, (3, 6))
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(tokens)).numpy()
    # two LSTM layers and a product of 11 terms on both sides; see test_truth.py for the former
    np.testing.assert_allclose(ours(tokens), expected, rtol=0, atol=5e-6)


def test_sequential_by_position(torch):
    ours = Sequential(Linear(3, 4), Tanh(), Sequential(Linear(4, 2), Softmax()))
    theirs = torch.nn.Sequential(
        torch.nn.Linear(3, 4),
        torch.nn.Tanh(),
        torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Softmax(dim=-1)),
    )
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == ["0.weight", "0.bias", "2.0.weight", "2.0.bias"]
    ours.load_state_dict(theirs.state_dict())
    x = normal(5, 3)
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours(x), expected, rtol=0, atol=20 * np.finfo("float32").eps)


def test_sequential_passes_lengths_on(engine):
    """Every LSTM and Last gets them, also those of a Sequential inside."""
    lstm = LSTM(3, 4, bidirectional=True, engine=engine, seed=0)
    inner = Sequential({"lstm": lstm, "drop": Dropout(0.5)})
    model = Sequential(inner, Last(bidirectional=True), Linear(8, 2)).eval()
    x, lengths = normal(5, 3, 3), [2, 5, 1]
    _, (h_n, _) = lstm(x, lengths=lengths)
    assert_same_bits(model(x, lengths=lengths), model[2](np.concatenate([h_n[0], h_n[1]], 1)))


def test_sequential_of_nothing():
    x = normal(2, 3)
    assert Sequential()(x) is x and repr(Sequential()) == "Sequential()"
    assert Sequential({}).state_dict() == {} and len(Sequential()) == 0


def test_sequential_is_a_container():
    model = _tagger()
    layers = list(model)
    assert len(model) == 3 and list(model.children) == ["embedding", "lstm", "fc"]
    assert model["lstm"] is model[1] is model.children["lstm"] is layers[1]
    assert model[-1] is layers[2]
    with pytest.raises(KeyError):
        _ = model["head"]
    with pytest.raises(IndexError):
        _ = model[3]
    assert model.lstm is model["lstm"] and model.fc is layers[2]
    with pytest.raises(AttributeError, match="Sequential has no attribute 'head'"):
        _ = model.head
    with pytest.raises(AttributeError, match="layer 'fc' cannot be replaced; build a new Seq"):
        model.fc = Linear(10, 7)
    assert model.fc is layers[2]
    assert model.num_parameters == sum(layer.num_parameters for layer in layers)
    assert [name for name, _ in model.named_layers()] == ["", "embedding.", "lstm.", "fc."]


def test_a_slice_of_a_sequential_is_one(torch):
    """It has the same layers under the same names, as in torch."""
    layers = {"a": Linear(2, 3), "b": Tanh(), "c": Linear(3, 1)}
    model, part = Sequential(layers), Sequential(layers)[1:]
    assert type(part) is Sequential and list(part.children) == ["b", "c"]
    assert part.c is model.c and list(part.state_dict()) == ["c.weight", "c.bias"]
    theirs = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    ours = Sequential(Tanh(), Tanh(), Linear(3, 1))
    assert repr(ours[1:]) == repr(theirs[1:]) and repr(ours[::-2]) == repr(theirs[::-2])


def test_attributes_of_a_layer_come_before_children():
    """A child may have any name; attributes of Layer itself stay as they are."""
    model = Sequential({"training": ReLU(), "dtype": Tanh(), "train": Dropout()}).eval()
    assert model.training is False and model.dtype == np.float32
    assert not model["train"].training and isinstance(model["dtype"], Tanh)


@pytest.mark.parametrize("first", [Dropout(), Softmax(), Sequential(Tanh())], ids=str)
def test_sequential_converts_lists(dtype, first):
    """It does so also if the first layer has no dtype of its own."""
    model = Sequential(first, Sequential(LSTM(3, 4, dtype=dtype), Tanh())).eval()
    x = [[1.0, -2.0, 3.0], [0.5, 0.25, 4.0]]
    got = model(x)
    assert got.dtype == dtype
    assert_same_bits(got, model(np.array(x, dtype)))
    assert Sequential(Sequential(Embedding(4, 3)), Linear(3, 2))([[1, 2]]).shape == (1, 2, 2)


def test_sequential_switches_all_of_its_layers():
    model = Sequential(Dropout(), Sequential(LSTM(3, 4, 2, dropout=0.5), Dropout()))
    assert all(layer.training for _, layer in model.named_layers())
    assert model.eval() is model
    assert not any(layer.training for _, layer in model.named_layers())
    model.train()
    assert all(layer.training for _, layer in model.named_layers())
    model.train(False)
    assert not any(layer.training for _, layer in model.named_layers())


def test_sequential_load_state_dict_names_every_fault_and_changes_nothing():
    model = _tagger()
    before = model.state_dict()
    faulty = {name: value + 1 for name, value in before.items()}
    del faulty["fc.bias"]
    faulty["lstm.weight_hh_l1"] = faulty["lstm.weight_hh_l1"].T
    faulty["head.weight"] = np.zeros(1)
    raises(
        lambda: model.load_state_dict(faulty),
        ValueError,
        "Error(s) in loading state_dict for Sequential:\n"
        '\tMissing key(s) in state_dict: "fc.bias".\n'
        '\tUnexpected key(s) in state_dict: "head.weight".\n'
        "\tsize mismatch for lstm.weight_hh_l1: copying a param with shape (5, 20) from "
        "checkpoint, the shape in current model is (20, 5).",
    )
    for name, value in model.state_dict().items():
        assert_same_bits(value, before[name])


def test_sequential_in_float64():
    model = Sequential(Linear(3, 4, dtype="float64"), Tanh(), LSTM(4, 2, dtype="float64"))
    assert model.dtype == np.float64 and Sequential(Linear(3, 4)).dtype == np.float32
    assert model(normal(5, 2, 3, dtype="float64")).dtype == np.float64


def test_sequential_errors():
    raises(lambda: Sequential(Linear(2, 2), np.tanh), TypeError,
           "Sequential: '1' is not a layer but ufunc")  # fmt: skip
    sentence = " gives the (h, c) of an LSTMCell, which no layer takes; put it last or use an LSTM"
    raises(
        lambda: Sequential(LSTMCell(3, 4), Linear(4, 1)), TypeError, "Sequential: '0'" + sentence
    )
    nested = Sequential({"cell": Sequential(ReLU(), LSTMCell(3, 4))})
    raises(lambda: Sequential({"rnn": nested, "fc": Linear(4, 1)}), TypeError,
           "Sequential: 'rnn'" + sentence)  # fmt: skip
    h, c = Sequential(ReLU(), LSTMCell(3, 4))(normal(2, 3))
    assert h.shape == c.shape == (2, 4)
    raises(lambda: Sequential({"a.b": ReLU()}), ValueError,
           "Sequential: a name must be a string without dots, not empty, got 'a.b'")  # fmt: skip
    raises(lambda: Sequential({"": ReLU()}), ValueError,
           "Sequential: a name must be a string without dots, not empty, got ''")  # fmt: skip
    raises(lambda: Sequential({1: ReLU()}), ValueError,
           "Sequential: a name must be a string without dots, not empty, got 1")  # fmt: skip
    raises(lambda: Sequential(Linear(2, 2), Sequential(Linear(2, 2, dtype="float64"))), ValueError,
           "Sequential: layers have different dtypes: ['float32', 'float64']; layer.astype, or "
            "load(path, dtype=...), makes them one")  # fmt: skip


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "pickle"],
)
def test_copies_of_a_model(engine, duplicate):
    model = _tagger(engine).eval()
    twin, tokens = duplicate(model), [[1, 2, 3], [4, 5, 6]]
    expected = model(tokens)
    assert_same_bits(twin(tokens), expected)
    assert repr(twin) == repr(model) and not twin.training
    twin.load_state_dict({name: value * 2 for name, value in twin.state_dict().items()})
    assert_same_bits(model(tokens), expected)
    assert not np.array_equal(twin(tokens), expected)


def test_attributes():
    """Arguments can be read under their names."""
    assert (Linear(3, 2).in_features, Linear(3, 2).out_features) == (3, 2)
    embedding = Embedding(3, 2, -1)
    assert (embedding.num_embeddings, embedding.embedding_dim, embedding.padding_idx) == (3, 2, 2)
    assert Dropout(0.1).p == 0.1 and Softmax(0).dim == 0
    lstm = fastlstm.LSTM(3, 4, 2, False, True, 0.5, True, 1, num_threads=2)
    assert vars(lstm).items() >= dict(
        input_size=3, hidden_size=4, num_layers=2, bias=False, batch_first=True, dropout=0.5,
        bidirectional=True, proj_size=1, num_threads=2, training=True,
    ).items()  # fmt: skip


# ---- seeds ----------------------------------------------------------------------------------


def test_a_seed_gives_dropout_other_numbers_than_the_parameters():
    """The parameters are what a generator of this seed draws first, as in earlier versions."""
    lstm = LSTM(3, 4, 2, dropout=0.5, seed=7)
    drawn = np.random.default_rng(7).random(48, np.float32)
    np.testing.assert_allclose(lstm.weight_ih_l0.ravel() + 0.5, drawn, rtol=0, atol=1e-7)
    for masks in (lstm._dropout_rng, Dropout(seed=7)._rng):
        ahead = copy.deepcopy(masks).random(10000, np.float32)
        assert not np.isin(drawn, ahead).any()
    again = LSTM(3, 4, 2, dropout=0.5, seed=7)
    x = normal(5, 2, 3)
    assert_same_bits(lstm(x)[0], again(x)[0])
    assert not np.array_equal(lstm(x)[0], lstm(x)[0])


def test_a_generator_as_seed_draws_parameters_and_then_masks():
    """Layers share the generator, as in earlier versions."""
    rng = np.random.default_rng(7)
    lstm = LSTM(3, 4, 2, dropout=0.5, seed=rng)
    assert lstm._dropout_rng is rng and Dropout(seed=rng)._rng is rng
    same = LSTM(3, 4, 2, seed=7)
    for name, value in lstm.state_dict().items():
        assert_same_bits(value, same.state_dict()[name])
