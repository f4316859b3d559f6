"""What comes out of a pickle is its owner's: memory of its own that can be written."""

import copy
import pickle

import numpy as np
import pytest
from support import assert_same_bits

import fastlstm
from fastlstm.training import SGD, Adam, AdamW, RMSprop


def _through_buffers(thing, wrap=bytes):
    """A copy whose arrays came out-of-band, as joblib and multiprocessing hand them on."""
    buffers = []
    data = pickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
    assert buffers
    return pickle.loads(data, buffers=[wrap(b.raw()) for b in buffers])


def _model():
    return fastlstm.Sequential(
        fastlstm.Embedding(7, 3, seed=0), fastlstm.LSTM(3, 5, 2, seed=1),
        fastlstm.Linear(5, 4, seed=2),
    )  # fmt: skip


COPIES = {
    "read-only": _through_buffers,
    "shared": lambda thing: _through_buffers(thing, bytearray),
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
def test_a_model_that_arrives_read_only_learns(make_copy):
    """One update, assigned parameters and loaded ones give the original's bits."""
    tokens = np.arange(6).reshape(3, 2)
    models, results = [_model()], []
    models.append(make_copy(models[0]))
    for model in models:
        y, pullback = model.vjp(tokens)
        pullback(np.ones_like(y))
        SGD(model, lr=0.1).step()
        model[2].bias = [1, 2, 3, 4]
        model.load_state_dict({n: v * 2 for n, v in model.state_dict().items()})
        results.append(model(tokens))
    assert not np.array_equal(results[0], _model()(tokens))
    assert_same_bits(results[1], results[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: fastlstm.LSTM(2, 3, bidirectional=True, dtype="float64", seed=0),
        lambda: fastlstm.LSTMCell(2, 3, seed=0),
        lambda: fastlstm.Linear(2, 3, seed=0),
        lambda: fastlstm.Embedding(5, 3, seed=0),
    ],
)
def test_two_copies_of_the_same_memory_share_nothing(make):
    layer, buffers = make(), []
    data = pickle.dumps(layer, protocol=5, buffer_callback=buffers.append)
    memory = [bytearray(b.raw()) for b in buffers]
    one, other = (pickle.loads(data, buffers=memory) for _ in range(2))
    one.load_state_dict({name: value * 0 for name, value in one.state_dict().items()})
    for name, value in layer.state_dict().items():
        assert value.any() and not getattr(one, name).any()
        assert_same_bits(getattr(other, name), value)


def test_a_mapped_model_can_be_trained(tmp_path):
    joblib = pytest.importorskip("joblib", reason="maps what it stores")
    joblib.dump(_model(), tmp_path / "model.joblib")
    model = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    y, pullback = model.vjp([[0], [1]])
    pullback(np.ones_like(y))
    Adam(model).step()
    assert not np.array_equal(model([[0], [1]]), y)
    again = joblib.load(tmp_path / "model.joblib", mmap_mode="r+")
    again[1].weight_ih_l0 = np.zeros((20, 3))  # and the file is left as it is
    assert_same_bits(joblib.load(tmp_path / "model.joblib")([[0], [1]]), y)


def test_a_stream_that_arrives_read_only_steps():
    stream = fastlstm.LSTM(3, 5, seed=0).stream()
    x = np.ones((1, 3), np.float32)
    stream.step(x)
    copied = _through_buffers(stream)
    for _ in range(2):
        assert_same_bits(copied.step(x), stream.step(x))


@pytest.mark.parametrize(
    "kind",
    [
        Adam,
        AdamW,
        RMSprop,
        SGD,
    ],
)
def test_an_optimiser_that_arrives_read_only_steps(kind):
    model = _model()
    options = {"momentum": 0.9} if kind is SGD else {}
    optimizers = [kind(model, lr=0.1, **options)]
    y, pullback = model.vjp([[0], [1]])
    pullback(np.ones_like(y))
    optimizers[0].step()
    optimizers.append(_through_buffers(optimizers[0]))
    for optimizer in optimizers:
        optimizer.zero_grad()
        y, pullback = optimizer.model.vjp([[0], [1]])
        pullback(np.ones_like(y))
        optimizer.step()
    ours, theirs = (optimizer.model.state_dict() for optimizer in optimizers)
    for name, value in ours.items():
        assert_same_bits(theirs[name], value)


# What an LSTM and an LSTMCell had in a pickle before there were options of the recurrence.
PLAIN = {
    "_asked_engine", "_asked_threads", "_directions", "_engine", "_flat", "_grad_views",
    "_gradients", "_packed", "_spare", "_suffixes", "_version", "_views", "_whole", "bias",
    "children", "dtype", "engine", "hidden_size", "input_size", "num_threads", "training",
}  # fmt: skip
STACKED = PLAIN | {
    "_dropout_rng", "_output_size", "batch_first", "bidirectional", "dropout", "num_layers",
    "proj_size",
}  # fmt: skip


@pytest.mark.parametrize(
    "layer, kept",
    [
        (fastlstm.LSTM(2, 4, 2, dropout=0.5, bidirectional=True, proj_size=3, seed=0), STACKED),
        (fastlstm.LSTM(2, 4, bias=False, batch_first=True, dtype="float64", seed=0), STACKED),
        (fastlstm.LSTMCell(2, 4, seed=0), PLAIN),
    ],
    ids=["LSTM", "float64", "LSTMCell"],
)
def test_a_layer_that_was_pickled_before_there_were_options(layer, kept):
    """It gives the same bits, learns, is copied, and keeps its new options as they are."""
    state = {name: value for name, value in layer.__getstate__().items() if name in kept}
    old = type(layer).__new__(type(layer))
    old.__setstate__(pickle.loads(pickle.dumps(state)))
    assert repr(old) == repr(layer) and old.zoneout == 0
    x = np.arange(12, dtype=layer.dtype).reshape(6, 2) / 12
    for copied in (old, copy.deepcopy(old), old.astype(layer.dtype)):
        (y, _), pullback = copied.vjp(x)
        assert_same_bits(copied.eval()(x)[0], copy.copy(layer).eval()(x)[0])
        dy = np.ones_like(y)
        assert pullback((dy, dy) if kept is PLAIN else dy)[0].any()
    with pytest.raises(AttributeError, match="peephole of LSTM.* cannot be changed"):
        old.peephole = True
    old.zoneout = 1.0  # every step leaves the state as it was
    assert not old.train()(x)[0].any()


def test_a_stream_that_was_pickled_before_there_were_widths():
    stream = fastlstm.LSTM(2, 4, 2, proj_size=3, seed=0).stream(2)
    x = np.ones((2, 2), np.float32)
    stream.step(x)
    state = stream.__getstate__()
    state["_h"], state["_c"] = state.pop("_states")
    old = fastlstm.Stream.__new__(fastlstm.Stream)
    old.__setstate__(pickle.loads(pickle.dumps(state)))
    for _ in range(2):
        assert_same_bits(old.step(x), stream.step(x))
    old.reset()
    assert not old.state[0].any()
