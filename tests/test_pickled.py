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
