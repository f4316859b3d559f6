"""Keras files that `save` writes, against Keras 3 itself, on torch: values, arrays, refusals."""

from __future__ import annotations

import functools
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from errors import raises
from gradients import assert_within, roundings, spread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import (
    LSTM,
    Concat,
    Dropout,
    Embedding,
    Last,
    Layer,
    Linear,
    LSTMCell,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
    cli,
)
from fastlstm.formats import keras_writer

h5py = pytest.importorskip("h5py", reason="writes HDF5, and h5py is not installed")

I, H, T, B = 3, 4, 5, 2
ROWS = 7  # of a table of an Embedding


@pytest.fixture(scope="module")
def keras(torch, tmp_path_factory):
    """Keras on torch; what it writes to a home of its own is not kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield pytest.importorskip("keras", reason="compares with Keras, which is not installed")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("written") / "model.keras"


_lstm = functools.partial(LSTM, batch_first=True)


def _stirred(model: Layer) -> Layer:
    """Give every parameter its own random numbers, small enough that no gate is saturated."""
    arrays = enumerate(model.state_dict().items())
    model.load_state_dict({n: normal(*a.shape, seed=k + 1) / 2 for k, (n, a) in arrays})
    return model.eval()


def _inputs(model: Layer) -> np.ndarray:
    """Return a batch that the model takes."""
    shape, dtype = keras_writer._input(model)
    sizes = (B, *[T] * (len(shape) - 2), shape[-1]) if dtype is None else (B, T)
    if dtype is None:
        return normal(*sizes, seed=0).astype(model.dtype)
    return np.random.default_rng(0).integers(0, ROWS, sizes)


def _run(model: Layer, x: np.ndarray) -> np.ndarray:
    y = model(x)
    return y[0] if isinstance(y, tuple) else y


def _theirs(keras: Any, theirs: Any, x: np.ndarray) -> np.ndarray:
    return theirs(keras.ops.convert_to_tensor(x), training=False).detach().numpy()


def _assert_agree(theirs: np.ndarray, model: Layer, x: np.ndarray) -> None:
    """Assert that Keras gives what the model gives; both sides err, in each of the sums."""
    double = model.astype("float64")
    values = {**double.state_dict(), "x": x.astype("float64") if x.dtype.kind == "f" else x}

    def ours(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        double.load_state_dict({n: a for n, a in values.items() if n != "x"})
        return {"y": _run(double, values["x"])}

    _, moves = spread(ours, values)
    terms = 2 * max(max(array.shape) for array in model.state_dict().values()) + 1
    count = 2 * roundings("native", terms, options=True)
    # Keras on torch multiplies in float32 what is float64, but in an LSTM.
    exact = all(type(own) in (LSTM, Last, Sequential) for _, own in model.named_layers())
    dtype = str(model.dtype) if exact else "float32"
    assert theirs.dtype in (model.dtype, dtype)
    got, expected = ({"y": y.astype(dtype)} for y in (_run(model, x), theirs))
    assert_within(got, expected, moves, count, dtype)


def _check(keras: Any, model: Layer, path: Path) -> Any:
    """Save a model, and assert that Keras loads the same one; return Keras'."""
    fastlstm.save(model, path)
    theirs = keras.saving.load_model(path)
    x = _inputs(model)
    _assert_agree(_theirs(keras, theirs, x), model, x)
    return theirs


def _tree(data: bytes) -> dict[str, Any]:
    """Return what an HDF5 file holds by its paths: the bytes of arrays, and "" for groups."""
    found: dict[str, Any] = {}
    with h5py.File(io.BytesIO(data)) as file:
        file.visititems(
            lambda path, own: found.update(
                {
                    path: (own.dtype.str, own.shape, own[()].tobytes())
                    if hasattr(own, "shape")
                    else ""
                }
            )
        )
    return found


def _weights(path: Path) -> bytes:
    return zipfile.ZipFile(path).read("model.weights.h5")


# ---- values ---------------------------------------------------------------------------------

FUNCTIONS: list[Any] = [
    *("sigmoid", "tanh", "relu", "softsign", "softplus", "elu", "identity", "affine"),
    *("scaled_tanh", ("leaky_relu", 0.2), ("hard_sigmoid", 1 / 6, 0.5)),
    ("hard_sigmoid", float(np.float32(1 / 6)), 0.5),
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_functions(keras, path, function):
    for options in (
        {"gate_activation": function},
        {"cell_activation": function, "output_activation": function},
    ):
        _check(keras, _stirred(_lstm(I, H, **options)), path)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False, "dtype": "float64"},
        {"bidirectional": True},
        {"bidirectional": True, "num_layers": 2, "bias": False},
        {"hidden_size": [4, 2, 3], "dropout": 0.5, "dtype": "float64"},
        {"num_layers": 2, "bidirectional": True, "input_dropout": 0.25, "recurrent_dropout": 0.5},
        {"batch_first": None, "cell_activation": "softsign", "output_activation": "softsign"},
    ],
    ids=str,
)
def test_lstms(keras, path, options, ends):
    lstm = _stirred(_lstm(**{"input_size": I, "hidden_size": H, **options}))
    model = Sequential({"rnn": lstm, **({"end": Last()} if ends else {})})
    lstm.batch_first = True if lstm.batch_first is None else lstm.batch_first
    theirs = _check(keras, model.eval(), path)
    for own in theirs.layers:
        own = getattr(own, "forward_layer", own)
        if isinstance(own, keras.layers.LSTM):
            assert own.dropout == lstm.input_dropout
            assert own.recurrent_dropout == lstm.recurrent_dropout
    between = [own.rate for own in theirs.layers if isinstance(own, keras.layers.Dropout)]
    assert between == [0.5] * 2 * bool(lstm.dropout)


def test_an_undecided_layout_is_batch_first(keras, path):
    lstm = _stirred(_lstm(I, H, batch_first=None))
    fastlstm.save(lstm, path)
    theirs = keras.saving.load_model(path)
    lstm.batch_first = True
    x = _inputs(lstm)
    _assert_agree(_theirs(keras, theirs, x), lstm, x)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_an_lstm_from_the_end_with_its_last_step(keras, path, layers):
    """Keras gives the last step first; the layers after the first go on in that order."""
    lstm = _lstm(I, H, layers, reverse=True)
    theirs = _check(keras, _stirred(Sequential(lstm, Last(), Linear(H, 2))), path)
    assert [own.go_backwards for own in theirs.layers[:layers]] == [True] + [False] * (layers - 1)


MODELS: dict[str, Any] = {
    "tagger": lambda: Sequential(
        {
            "table": Embedding(ROWS, I, padding_idx=0),
            "rnn": _lstm(I, H, 2, bidirectional=True),
            "drop": Dropout(0.25),
            "fc": Linear(2 * H, 3),
            "softmax": Softmax(),
        }
    ),
    "classifier": lambda: Sequential(
        _lstm(I, H), Last(), Linear(H, 5), ReLU(), Linear(5, 2, bias=False), Softmax(1)
    ),
    "table alone": lambda: Embedding(ROWS, I),
    "table of wide numbers": lambda: Sequential(
        Embedding(ROWS, I, dtype="float64"), _lstm(I, H, dtype="float64")
    ),
    "rows": lambda: Sequential(Linear(I, H), Tanh(), Linear(H, 2), Sigmoid()),
    "function first": lambda: Sequential(Tanh(), Dropout(1.0), _lstm(I, H), Softmax(2)),
    "nested": lambda: Sequential(
        {"a": Sequential({"b": Sequential({"rnn": _lstm(I, H)})}), "c": Sequential({"d": Last()})}
    ),
    "residual": lambda: Residual(Sequential({"rec": _lstm(1, 8), "lin": Linear(8, 1)})),
    "residual of steps that end": lambda: Sequential(
        _lstm(I, H), Last(), Residual(Linear(H, H)), Residual(Linear(H, 2), Linear(H, 2))
    ),
    "concat": lambda: Sequential(
        Concat(_lstm(I, 3), Sequential(_lstm(I, 3), _lstm(3, 3)), Sequential(), Linear(I, 1)),
        Concat(Linear(7 + I, 2)),
    ),
    "ends side by side": lambda: Sequential(
        Concat(
            Sequential(_lstm(I, 2), Last()), Sequential(_lstm(I, 2, bidirectional=True), Last())
        ),
        Linear(6, 1),
    ),
    "tables side by side": lambda: Sequential(
        Concat(Embedding(ROWS, 2), Sequential(Embedding(ROWS, 2), Linear(2, 2))), _lstm(4, H)
    ),
    "twice the same": lambda: Residual(Sequential(Residual(Linear(I, I)), Dropout(0.5))),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(keras, path, name):
    theirs = _check(keras, _stirred(MODELS[name]()), path)
    joins = any(
        isinstance(own, (keras.layers.Add, keras.layers.Concatenate)) for own in theirs.layers
    )
    assert isinstance(theirs, keras.Sequential) != joins


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own
@pytest.mark.parametrize("name", MODELS)
def test_paths_are_those_of_keras(keras, path, name):
    """Keras, when it saves what it has loaded, writes the same groups and arrays."""
    fastlstm.save(_stirred(MODELS[name]()), path)
    again = path.with_name("again.keras")
    keras.saving.load_model(path).save(again)
    assert _tree(_weights(path)) == _tree(_weights(again))
    ours, theirs = (json.loads(zipfile.ZipFile(p).read("config.json")) for p in (path, again))
    _assert_part_of(ours, theirs)


def _assert_part_of(ours: Any, theirs: Any) -> None:
    """Assert that Keras says all that we say; it says more, and a dtype as a policy."""
    if isinstance(theirs, dict) and theirs.get("class_name") == "DTypePolicy":
        theirs = theirs["config"]["name"]
    if isinstance(ours, dict):
        for name, value in ours.items():
            _assert_part_of(value, theirs[name])
    elif isinstance(ours, list):
        for one, other in zip(ours, theirs, strict=True):
            _assert_part_of(one, other)
    else:
        assert ours == theirs


def test_weights_alone(keras, tmp_path):
    """They are what the `.keras` file holds, and go into a model of these layers, whose names."""
    model = _stirred(MODELS["tagger"]())
    path = tmp_path / "tagger.WEIGHTS.h5"
    fastlstm.save(model, path)
    fastlstm.save(model, tmp_path / "tagger.keras")
    assert path.read_bytes() == _weights(tmp_path / "tagger.keras")
    path = path.rename(tmp_path / "tagger.weights.h5")
    layers = keras.layers
    rnn = functools.partial(layers.LSTM, H, return_sequences=True)
    own = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(ROWS, I),
            layers.Bidirectional(rnn(name="other")),
            layers.Bidirectional(rnn()),
            layers.Dense(3, activation="softmax", name="names do not matter"),
        ]
    )
    own.load_weights(path)
    x = _inputs(model)
    _assert_agree(_theirs(keras, own, x), model, x)


def test_loaded_again(path):
    """Parameters have the same bits, the sum of two biases the bits of the sum."""
    model = _stirred(Sequential({"rnn": _lstm(I, H, bidirectional=True), "fc": Linear(2 * H, 2)}))
    fastlstm.save(model, path)
    expected = model.state_dict()
    for end in ("l0", "l0_reverse"):
        both = [f"rnn.bias_{of}_{end}" for of in ("ih", "hh")]
        expected[both[0]] = expected[both[0]] + expected[both[1]]
        expected[both[1]] = np.zeros_like(expected[both[1]])
    got = fastlstm.load(path).state_dict()
    assert [*got] == [*expected]
    for name, array in expected.items():
        assert_same_bits(got[name], array)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own
def test_a_model_of_keras_comes_back(keras, path):
    """Keras' file is loaded, and saved, and loaded by Keras."""
    layers = keras.layers
    theirs = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(ROWS, I),
            layers.Bidirectional(layers.LSTM(H, recurrent_activation="hard_sigmoid", dropout=0.25)),
            layers.Dropout(0.5),
            layers.Dense(3, use_bias=False),
            layers.Activation("softmax"),
        ]
    )
    theirs.save(path)
    ours = fastlstm.load(path)
    fastlstm.save(ours, path.with_name("again.keras"))
    again = keras.saving.load_model(path.with_name("again.keras"))
    for one, other in zip(theirs.weights, again.weights, strict=True):
        assert_same_bits(one.value.detach().numpy(), other.value.detach().numpy())
    x = _inputs(ours)
    assert_same_bits(_theirs(keras, theirs, x), _theirs(keras, again, x))


@pytest.mark.filterwarnings("ignore:.*do not tell the join of:UserWarning")  # of .weights.h5
def test_equal_models_are_equal_files(tmp_path, monkeypatch):
    model = _stirred(MODELS["concat"]())
    for name in ("one.keras", "one.weights.h5"):
        path = tmp_path / name
        fastlstm.save(model, path)
        first = path.read_bytes()
        with monkeypatch.context() as later:
            later.setattr("time.time", lambda: 2e9)
            fastlstm.save(model.astype(model.dtype), path)
        assert path.read_bytes() == first


def test_two_biases_become_their_sum(keras, path):
    """In the model's dtype, as engines add them; what is infinite stays so, and nothing warns."""
    lstm = _stirred(_lstm(I, 1, seed=0))
    lstm.bias_ih_l0, lstm.bias_hh_l0 = [1, 3e38, 1e-8, 0], [1e-8, 3e38, 1, -0.0]
    fastlstm.save(lstm, path)
    (own,) = keras.saving.load_model(path).layers
    assert_same_bits(own.cell.bias.value.detach().numpy(), np.float32([1, np.inf, 1, 0]))


def test_names(keras, path):
    """Characters that Keras or a backend refuses become others, and no name comes twice."""
    layers = {"a/b": Linear(I, I), "a b": Tanh(), "_a": Dropout(), "input_layer": Linear(I, 1)}
    theirs = _check(keras, _stirred(Sequential({**layers, "ä": Sigmoid()})), path)
    names = ["a_b", "a_b_1", "a", "input_layer_1", "activation"]
    assert [own.name for own in theirs.layers] == names
    assert theirs.inputs[0].name == "input_layer"


@st.composite
def _layers(draw: Any, features: int, depth: int = 2) -> tuple[Layer, int]:
    """Draw a layer over so many features of all steps, and how many it gives."""
    kinds = ["lstm", "linear", "function", "dropout"]
    kind = draw(st.sampled_from([*kinds, *["residual", "concat", "chain"] * (depth > 0)]))
    width = draw(st.integers(1, 4))
    if kind == "lstm":
        both = draw(st.booleans())
        layers, bias = draw(st.integers(1, 2)), draw(st.booleans())
        activation = draw(st.sampled_from(["tanh", "softsign", ("hard_sigmoid", 1 / 6)]))
        functions = dict.fromkeys(["cell_activation", "output_activation"], activation)
        lstm = _lstm(features, width, layers, bias, bidirectional=both, **functions)
        return lstm, width * (1 + both)
    if kind == "linear":
        return Linear(features, width, draw(st.booleans())), width
    if kind == "function":
        functions = [ReLU, Tanh, Sigmoid, *[Softmax] * (features > 1)]  # else Keras warns
        return draw(st.sampled_from(functions))(), features
    if kind == "dropout":
        return Dropout(0.5), features
    if kind == "residual":
        layer, gives = draw(_layers(features, depth - 1))
        same = gives == features and draw(st.booleans())
        return Residual(layer, None if same else Linear(features, gives)), gives
    count, parts, total = draw(st.integers(1, 3)), [], 0
    for _ in range(count):
        layer, gives = draw(_layers(features, depth - 1))
        parts.append(layer)
        total += gives
        features = gives if kind == "chain" else features
    return (Sequential(*parts), features) if kind == "chain" else (Concat(*parts), total)


@st.composite
def _models(draw: Any) -> Sequential:
    """Draw a model; its first layer says how wide its input is, and the last step may be taken."""
    first: list[Layer] = [draw(st.sampled_from([Embedding(ROWS, I), _lstm(I, I), Linear(I, I)]))]
    rest, features = draw(_layers(I))
    if not isinstance(first[0], Linear) and draw(st.booleans()):
        return Sequential(*first, rest, _lstm(features, 2), Last(), Linear(2, 2))
    return Sequential(*first, _lstm(I, I), rest)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=_models(), wide=st.booleans())
def test_any_model(keras, path, model, wide):
    _check(keras, _stirred(model.astype("float64") if wide else model), path)


# ---- refusals -------------------------------------------------------------------------------

_KNOWN = (
    "LSTM, Last, Linear, Embedding, ReLU, Tanh, Sigmoid, Softmax, Dropout, Sequential, Residual, "
    "Concat"
)


class _Own(Layer):
    def forward(self, input):
        return input


class _Derived(LSTM):
    pass


REFUSED: list[Any] = [
    (_Own(), TypeError, f"_Own(): it is none of {_KNOWN}"),
    (Sequential({"a": Sequential({"own": _Own()})}), TypeError,
     f"'a.own' (_Own()): it is none of {_KNOWN}"),
    (_Derived(I, H), TypeError, f"_Derived(3, 4): it is none of {_KNOWN}"),
    (Sequential(LSTMCell(I, H)), TypeError, f"'0' (LSTMCell(3, 4)): it is none of {_KNOWN}"),
    (Sequential({"rnn": LSTM(I, H)}), ValueError,
     "'rnn' (LSTM(3, 4)): Keras' layers take the batch first, (B, T, F), and this one the time: "
     "set batch_first = True on it, and give it its input that way"),
    (Sequential(_lstm(I, H, batch_first=None), Last(batch_first=False)), ValueError,
     "'1' (Last(batch_first=False, bidirectional=False)): Keras' layers take the batch first, (B, "
     "T, F), and this one the time: set batch_first = True on it, and give it its input that way"),
    (_lstm(I, H, proj_size=2, proj_clip=1.0), ValueError,
     "LSTM(3, 4, proj_size=2, batch_first=True, proj_clip=1.0): Keras' LSTM has nothing for "
     "proj_size=2, proj_clip=1.0"),
    (_lstm(I, H, reverse=True), ValueError,
     "LSTM(3, 4, batch_first=True, reverse=True): with reverse=True, Keras' LSTM (go_backwards) "
     "gives the last step first; only with a Last directly behind it the two are the same"),
    (_lstm(I, H, gate_activation="hard_sigmoid"), ValueError,
     "LSTM(3, 4, batch_first=True, gate_activation='hard_sigmoid'): Keras has no "
     "gate_activation='hard_sigmoid', but 'sigmoid', 'tanh', 'relu', 'softsign', 'softplus', "
     "'elu', 'identity', 'affine', 'scaled_tanh', ('leaky_relu', 0.2), "
     "('hard_sigmoid', 0.16666666666666666, 0.5)"),
    (_lstm(I, H, cell_activation="relu"), ValueError,
     "LSTM(3, 4, batch_first=True, cell_activation='relu'): Keras' LSTM has one activation for "
     "both, got cell_activation='relu' and output_activation='tanh'"),
    (Sequential(_lstm(I, H), Linear(H, 2), Last()), ValueError,
     "'2' (Last(batch_first=True, bidirectional=False)) here: Keras gives the last step as an "
     "option of an LSTM, so that it must stand directly behind one in a Sequential"),
    (Sequential(Linear(I, H), Softmax(0)), ValueError,
     "'1' (Softmax(dim=0)): Keras' softmax is that of the last axis, 1 or -1"),
    (Sequential(_lstm(I, H), Softmax(1)), ValueError,
     "'1' (Softmax(dim=1)): Keras' softmax is that of the last axis, 2 or -1"),
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("model, kind, sentence", REFUSED, ids=[case[2][:40] for case in REFUSED])
def test_refusals(tmp_path, model, kind, sentence, suffix):
    """Nothing is written, and what was there stays."""
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"old")
    head = f"{path}: " if kind is ValueError else ""
    raises(lambda: fastlstm.save(model, path), kind, f"{head}a Keras file cannot hold {sentence}")
    assert [*tmp_path.iterdir()] == [path] and path.read_bytes() == b"old"


@pytest.mark.parametrize(
    "options",
    [
        *({"peephole": True}, {"coupled": "f=1-i"}, {"gate_clip": 2.0}, {"cell_clip": 2.0}),
        *({"layer_norm": "haste"}, {"zoneout": 0.1}, {"learn_initial_state": True}),
    ],
    ids=str,
)
def test_each_option_that_keras_lacks_is_named(tmp_path, options):
    lstm = _lstm(I, H, **options)
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"Keras' LSTM has nothing for {name}={value!r}$"):
        fastlstm.save(lstm, tmp_path / "m.keras")


@pytest.mark.parametrize("model", [ReLU(), Sequential(), Sequential(Dropout(), Softmax())], ids=str)
def test_an_input_of_unknown_width(tmp_path, model):
    path = tmp_path / "m.keras"
    sentence = (
        f"{path}: a Keras file says how many features the input has, which no layer of this model "
        "tells"
    )
    raises(lambda: fastlstm.save(model, path), ValueError, sentence)


@pytest.mark.parametrize("name", ["model.h5", "weights.h5", "model.weights", "keras", ".keras"])
def test_other_suffixes(tmp_path, name):
    path = tmp_path / name
    known = ", ".join(end for form in fastlstm.formats.table.WRITTEN for end in form.SUFFIXES)
    assert ".keras, .weights.h5" in known
    sentence = f"{path}: the suffix must be one of {known}, got {path.suffix!r}"
    raises(lambda: fastlstm.save(Linear(I, H), path), ValueError, sentence)


def test_convert(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = _stirred(MODELS["tagger"]())
    fastlstm.save(model, "a.npz")
    for words in ("a.npz b.keras", "b.keras c.npz", "b.keras c.weights.h5"):
        assert cli.main(["convert", *words.split()]) == 0
    assert capsys.readouterr() == ("", "")
    x = _inputs(model)
    for name in ("b.keras", "c.npz"):
        assert_same_bits(fastlstm.load(name)(x), model(x))
    assert Path("c.weights.h5").read_bytes() == _weights(Path("b.keras"))
    assert cli.main(["convert", "a.npz", "d.keras", "--opset", "14"]) == 1
    error = "fastlstm: error: d.keras: opset cannot be chosen for Keras files\n"
    assert capsys.readouterr() == ("", error) and not Path("d.keras").exists()


def test_h5py_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    sentence = "Keras files need h5py, which is not installed: pip install h5py"
    raises(lambda: fastlstm.save(Linear(I, H), tmp_path / "m.keras"), ImportError, sentence)
    assert not [*tmp_path.iterdir()]


def test_what_weights_alone_do_not_tell_is_warned_of(tmp_path):
    lstm = _lstm(I, H, gate_activation="relu")
    with pytest.warns(UserWarning, match="do not tell gate_activation='relu' of the LSTM"):
        fastlstm.save(lstm, tmp_path / "m.weights.h5")
    fastlstm.save(lstm, tmp_path / "m.keras")


# ---- broken writers -------------------------------------------------------------------------

_cell = keras_writer._cell


def _swapped(state: Any, suffix: str, bias: bool) -> Any:
    """Put the gates f and g in each other's place."""
    return [
        a.reshape(-1, 4, H)[:, [0, 2, 1, 3]].reshape(a.shape) for a in _cell(state, suffix, bias)
    ]


SABOTEURS: dict[str, tuple[str, Any]] = {
    "gates": ("_cell", _swapped),
    "one bias": (
        "_cell",
        lambda state, suffix, bias: [*_cell(state, suffix, bias)[:2], state["bias_ih" + suffix]],
    ),
    "one direction": ("_cell", lambda state, suffix, bias: _cell(state, suffix[:3], bias)),
    "order of writing": ("_in_keras_order", lambda nodes: nodes),
    "function": ("_function", lambda name, lstm, option: "tanh"),
}


@pytest.mark.parametrize("name", SABOTEURS)
def test_broken_writers_are_caught(keras, path, monkeypatch, name):
    """A model in which each of these faults changes a value, and no shape."""
    model = Sequential(
        _lstm(I, H, bidirectional=True),
        Concat(_lstm(2 * H, H), Sequential(Linear(2 * H, 2 * H), _lstm(2 * H, H), _lstm(H, H))),
        Concat(_lstm(2 * H, H), Sequential(_lstm(2 * H, H), Linear(H, 2 * H), _lstm(2 * H, H))),
    )
    _check(keras, _stirred(model), path)
    monkeypatch.setattr(keras_writer, *SABOTEURS[name])
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        _check(keras, model, path)


def test_a_layout_that_the_file_has_may_be_said(tmp_path):
    path = tmp_path / "m.keras"
    fastlstm.save(Sequential({"rnn": LSTM(I, H, batch_first=True, seed=1)}), path)
    x = np.ones((2, 3, I), np.float32)
    assert np.array_equal(fastlstm.load(path, batch_first=True)(x), fastlstm.load(path)(x))
    raises(
        lambda: fastlstm.load(path, batch_first=False),
        ValueError,
        f"{path}: batch_first=False contradicts its structure, which is batch-first",
    )
    fastlstm.save(fastlstm.Residual(LSTM(I, I, batch_first=True, seed=1)), path)  # a graph
    raises(
        lambda: fastlstm.load(path, batch_first=True),
        ValueError,
        f"{path}: batch_first= is for models of layers; how a graph takes its inputs stands in "
        "their shapes",
    )
