"""What `vjp` promises: pullbacks add, belong to their run, and write nothing of the caller's."""

import copy
import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from gradients import parts
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
from fastlstm.training import SGD


def _models(engine, dtype="float32"):
    """Return name -> (layer, an input, keywords of a run), for every kind of layer."""
    options = {"engine": engine, "dtype": dtype, "seed": 1}
    x, lengths = normal(6, 4, 5, dtype=dtype), [3, 6, 1, 6]
    deep = LSTM(5, 9, 2, bidirectional=True, proj_size=4, **options)
    return {
        "lstm": (LSTM(5, 9, **options), x, {}),
        "lstm of lengths": (deep, x, {"lengths": lengths, "checkpoint_every": 2}),
        "cell": (LSTMCell(5, 9, **options), x[0], {"hx": (x[1, :, :1].repeat(9, 1),) * 2}),
        "linear": (Linear(5, 3, dtype=dtype, seed=1), x, {}),
        "embedding": (Embedding(7, 3, dtype=dtype, seed=1), np.arange(12).reshape(3, 4) % 6, {}),
        "sequential": (Sequential(deep, Last(False, True), Linear(8, 2, dtype=dtype)), x,
                       {"lengths": lengths}),
        **{kind.__name__.lower(): (kind(), x, {}) for kind in (ReLU, Tanh, Sigmoid, Softmax, Last)},
        "dropout": (Dropout(0.5, seed=1), x, {}),
    }  # fmt: skip


MODELS = list(_models("numpy"))
WITH_WEIGHTS = MODELS[:6]


def _ones(y):
    """Return a gradient for `y`: 1, 2, ... in its structure."""
    if isinstance(y, tuple):
        return tuple(map(_ones, y))
    return np.arange(1, y.size + 1, dtype=y.dtype).reshape(y.shape)


def _pull(layer, pullback, d):
    got = pullback(*d) if isinstance(layer, LSTM) else pullback(d)
    return [g for g in parts(got) if g is not None]


@pytest.fixture(params=MODELS)
def model(request, engine):
    return _models(engine)[request.param]


@pytest.fixture(params=WITH_WEIGHTS)
def learner(request, engine):
    return _models(engine)[request.param]


def test_output_is_the_calls(exact_engine, dtype):
    for name, (layer, x, options) in _models(exact_engine, dtype).items():
        if name != "dropout":
            got = parts(layer.vjp(x, **options)[0])
            options.pop("checkpoint_every", None)
            for g, expected in zip(got, parts(layer(x, **options)), strict=True):
                assert_same_bits(g, expected)


def test_output_is_the_calls_within_rounding(dtype):
    for name, (layer, x, options) in _models("numpy", dtype).items():
        if name != "dropout":
            got = parts(layer.vjp(x, **options)[0])
            options.pop("checkpoint_every", None)
            for g, expected in zip(got, parts(layer(x, **options)), strict=True):
                # sums of up to 20 terms, added in another order
                np.testing.assert_allclose(g, expected, rtol=0, atol=50 * np.finfo(dtype).eps)


def test_dropout_draws_as_a_call_does():
    x = normal(6, 4)
    y, pullback = Dropout(0.5, seed=1).vjp(x)
    assert_same_bits(y, Dropout(0.5, seed=1)(x))
    assert_same_bits(pullback(x), y)
    lstm, same = (LSTM(4, 3, 2, dropout=0.5, engine="numpy", seed=1) for _ in range(2))
    assert_same_bits(lstm.vjp(x)[0][0], same(x)[0])
    dropout = Dropout(0.5).eval()
    y, pullback = dropout.vjp(x)
    assert_same_bits(y, x)
    assert_same_bits(pullback(x), x)


def test_pullbacks_add(learner):
    """Two calls double the gradients, zero_grad begins anew, and dx is the same each time."""
    layer, x, options = learner
    y, pullback = layer.vjp(x, **options)
    first = _pull(layer, pullback, _ones(y))
    once = {name: g.copy() for name, g in layer.grads.items()}
    assert all(g.any() for g in once.values())
    for got, expected in zip(_pull(layer, pullback, _ones(y)), first, strict=True):
        assert_same_bits(got, expected)
    for name, g in layer.grads.items():
        # sums of up to 24 rows, begun with what was there
        atol = 24 * np.finfo(g.dtype).eps * np.abs(once[name]).max()
        np.testing.assert_allclose(g, 2 * once[name], rtol=0, atol=atol, err_msg=name)
    layer.zero_grad()
    assert not any(g.any() for g in layer.grads.values())
    _pull(layer, pullback, _ones(y))
    for name, g in layer.grads.items():
        assert_same_bits(g, once[name])


def test_pullbacks_do_not_know_of_each_other(model):
    """Of three runs, one is dropped, and two are gone back through in either order."""
    layer, x, options = model
    inputs = x, x[::-1].copy()
    runs = [layer.vjp(given, **options) for given in (*inputs, x)][:2]

    def back(n):
        layer.zero_grad()
        y, pullback = runs[n]
        return _pull(layer, pullback, _ones(y)) + [g.copy() for g in layer.grads.values()]

    expected = [back(0), back(1)]
    for n in (1, 1, 0, 1, 0):
        for got, e in zip(back(n), expected[n], strict=True):
            assert_same_bits(got, e)


def test_pullback_takes_the_weights_of_its_run(learner):
    """Later the weights may be assigned, loaded, or written by an optimiser."""
    layer, x, options = learner
    y, pullback = layer.vjp(x, **options)
    expected = _pull(layer, pullback, _ones(y))
    grads = {name: g.copy() for name, g in layer.grads.items()}

    def assigned():
        inner = next(inner for _, inner in layer.named_layers() if inner._views)
        name = next(iter(inner._views))
        setattr(inner, name, getattr(inner, name) * 3)

    def loaded():
        layer.load_state_dict({name: 2 * value for name, value in layer.state_dict().items()})

    def stepped():
        for inner, parameters, _ in layer.buffers():
            parameters -= 1
            inner.changed()

    for change in (assigned, loaded, stepped):
        change()
        layer.zero_grad()
        for got, e in zip(_pull(layer, pullback, _ones(y)), expected, strict=True):
            assert_same_bits(got, e)
        for name, g in layer.grads.items():
            assert_same_bits(g, grads[name])
        changed = parts(layer.vjp(x, **options)[0])
        assert not np.array_equal(changed[0], parts(y)[0])


def test_nothing_given_is_written(model):
    layer, x, options = model
    x = x.copy()
    y, pullback = layer.vjp(x, **options)
    expected = _pull(layer, pullback, _ones(y))
    d, kept = _ones(y), x.copy()
    for array in [x, *parts(d)]:
        array.flags.writeable = False
    if isinstance(layer, Dropout):  # draws another mask
        layer = Dropout(0.5, seed=1)
    y, pullback = layer.vjp(x, **options)
    for got, e in zip(_pull(layer, pullback, d), expected, strict=True):
        assert_same_bits(got, e)
    assert_same_bits(x, kept)
    for array, original in zip(parts(d), parts(_ones(y)), strict=True):
        assert_same_bits(array, original)


def test_outputs_and_gradients_are_the_callers(model):
    """Writing over them changes no pullback; arrays that a pullback reads refuse it."""
    layer, x, options = model
    y, pullback = layer.vjp(x, **options)
    expected = [g.copy() for g in _pull(layer, pullback, _ones(y))]
    for array in [*parts(y), *_pull(layer, pullback, _ones(y))]:
        if array.flags.writeable:
            array[...] = np.nan
    for got, e in zip(_pull(layer, pullback, _ones(y)), expected, strict=True):
        assert_same_bits(got, e)


@pytest.mark.parametrize("mode", ["padded", "lengths", "packed", "unbatched"])
def test_lstm_without_some_gradients(engine, mode):
    """None, or a gradient that is left out, counts as zeros."""
    lstm = LSTM(5, 9, 2, bidirectional=True, engine=engine, seed=1)
    x, options = normal(6, 4, 5), {"lengths": [3, 6, 1, 6]} if mode == "lengths" else {}
    if mode == "packed":
        x = fastlstm.pack_padded_sequence(x, [3, 6, 1, 6], enforce_sorted=False)
    (output, states), pullback = lstm.vjp(x[:, 0] if mode == "unbatched" else x, **options)
    d = [_ones(part) for part in parts((output, states))]
    for given in itertools.product((True, False), repeat=3):
        some = [value if there else None for value, there in zip(d, given, strict=True)]
        zeroed = [value if there else 0 * value for value, there in zip(d, given, strict=True)]
        calls = [(some[0], tuple(some[1:])), (zeroed[0], tuple(zeroed[1:]))]
        if not any(given[1:]):
            calls += [(some[0],), (some[0], None)]
        results = []
        for call in calls:
            lstm.zero_grad()
            results.append(parts(pullback(*call)) + [g.copy() for g in lstm.grads.values()])
        for result in results[1:]:
            for got, expected in zip(result, results[0], strict=True):
                assert_same_bits(got, expected)


def test_chunks_of_time(engine, dtype):
    """Gradients handed back from chunk to chunk are those of the whole; detached, they are not."""
    rng = np.random.default_rng(0)
    lstm = LSTM(5, 9, 2, proj_size=4, engine=engine, dtype=dtype, seed=1)
    x, d = normal(12, 3, 5, dtype=dtype), rng.standard_normal((12, 3, 4)).astype(dtype)
    (_, states), pullback = lstm.vjp(x)
    dx, (dh_0, dc_0) = pullback(d, states)  # any gradients of these shapes will do
    whole = {name: g.copy() for name, g in lstm.grads.items()}
    lstm.zero_grad()
    cuts, hx, pullbacks, pieces = [slice(5), slice(5, 9), slice(9, 12)], None, [], []
    for cut in cuts:
        (_, hx), chunk = lstm.vjp(x[cut], hx)
        pullbacks.append(chunk)
    backwards = list(zip(cuts, pullbacks, strict=True))[::-1]
    d_states = states
    for cut, chunk in backwards:
        piece, d_states = chunk(d[cut], d_states)
        pieces.insert(0, piece)
    # the same sums, but cut; of up to 36 rows, and of 16 to 36 terms on the way
    eps = 200 * np.finfo(dtype).eps
    np.testing.assert_allclose(np.concatenate(pieces), dx, rtol=0, atol=eps * np.abs(dx).max())
    for got, e in zip(d_states, (dh_0, dc_0), strict=True):
        np.testing.assert_allclose(got, e, rtol=0, atol=eps * np.abs(e).max())
    for name, g in lstm.grads.items():
        np.testing.assert_allclose(g, whole[name], rtol=0, atol=eps * np.abs(whole[name]).max())
    lstm.zero_grad()
    for cut, chunk in backwards:
        chunk(d[cut])
    assert np.abs(lstm.grads["weight_hh_l0"] - whole["weight_hh_l0"]).max() > 1e-3


def test_no_rows(engine):
    nothing = np.zeros((6, 0, 5), np.float32)
    for name, (layer, x, options) in _models(engine).items():
        options = {"checkpoint_every": 2} if "checkpoint_every" in options else {}
        x = nothing[0] if name == "cell" else x[:, :0] if name == "embedding" else nothing
        y, pullback = layer.vjp(x, **options)
        for dx in _pull(layer, pullback, _ones(y))[:1]:
            assert dx.shape == x.shape
        assert not any(g.any() for g in layer.grads.values())


def _refused(layer, call, kind, sentence):
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value).startswith(sentence)
    assert not any(g.any() for g in layer.grads.values())


def test_wrong_gradients_are_refused(model):
    """They are refused in a sentence, and nothing has been added."""
    layer, x, options = model
    y, pullback = layer.vjp(x, **options)
    d, last = _ones(y), layer[-1] if isinstance(layer, Sequential) else layer
    name = type(last).__name__
    if isinstance(layer, (LSTM, LSTMCell)):
        states = d[1] if isinstance(layer, LSTM) else d

        def go_back(given, *first):
            return pullback(*(first or d[:1] if isinstance(layer, LSTM) else ()), given)

        for bad in (3, states[:1], (*states, None), np.zeros(2)):
            _refused(layer, lambda bad=bad: go_back(bad), TypeError, "d_states must be a tuple (h")
        for n in (0, 1):
            wrong = [*states]
            wrong[n] = states[n][..., 1:]
            with pytest.raises(ValueError, match="hidden"):
                go_back(tuple(wrong))
            wrong[n] = states[n].astype("float64")
            _refused(layer, lambda wrong=wrong: go_back(wrong), ValueError,
                     f"{name} d_states[{n}] dtype (float64) does not match")  # fmt: skip
        if isinstance(layer, LSTM):
            _refused(layer, lambda: go_back(states, d[0][1:]), ValueError,
                     "Expected d_output of the output's shape")  # fmt: skip
            _refused(layer, lambda: go_back(states, d[0].astype("float64")), ValueError,
                     "LSTM d_output dtype (float64) does not match")  # fmt: skip
        return
    sentence = f"{name}: Expected d_output of the output's "
    _refused(layer, lambda: pullback(d[..., 1:]), ValueError, sentence + f"shape {d.shape}, got")
    _refused(layer, lambda: pullback(d[None]), ValueError, sentence + f"shape {d.shape}, got")
    _refused(layer, lambda: pullback(d.astype("float64")), ValueError,
             sentence + "dtype float32, got float64")  # fmt: skip
    _refused(layer, lambda: pullback(d.astype(int)), ValueError,
             sentence + "dtype float32, got int64")  # fmt: skip
    _refused(layer, lambda: pullback(None), TypeError, "d_output must be an array of numbers")


def test_vjp_refuses_what_a_call_refuses():
    x = normal(6, 4, 5)
    lstm = LSTM(5, 3, engine="numpy")
    for wrong, sentence in (
        (x[..., 1:], "input.size.-1. must be equal"), (x[0, 0], "2D or 3D"),
        (x.astype("float64"), "does not match weight dtype"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            lstm.vjp(wrong)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="checkpoint_every must be greater than zero"):
            lstm.vjp(x, checkpoint_every=wrong)
    with pytest.raises(TypeError, match="checkpoint_every should be of type int, got: float"):
        lstm.vjp(x, checkpoint_every=2.0)
    with pytest.raises(ValueError, match="Linear: Expected input of shape"):
        Linear(4, 3).vjp(x)
    with pytest.raises(ValueError, match="index out of range"):
        Embedding(4, 3).vjp([4])
    with pytest.raises(ValueError, match="at most the input's 6 steps"):
        Last().vjp(x, lengths=[7, 1, 1, 1])


def test_gradients_have_the_parameters_names(learner):
    layer, x, options = learner
    state = layer.state_dict()
    assert list(layer.grads) == list(state)
    for name, gradient in layer.grads.items():
        assert (gradient.shape, gradient.dtype) == (state[name].shape, state[name].dtype)
        assert not gradient.any() and gradient.flags.writeable
    for name, gradient in layer.grads.items():
        gradient[...] = 1
        assert (layer.grads[name] == 1).all()
    assert all((gradients == 1).all() for _, _, gradients in layer.buffers())
    sizes = [(parameters.size, gradients.size) for _, parameters, gradients in layer.buffers()]
    assert sum(first for first, _ in sizes) == layer.num_parameters
    assert all(first == second for first, second in sizes)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["deepcopy", "pickle"],
)
def test_copies_have_gradients_of_their_own(learner, duplicate):
    """These are zeros at first, because a copy has not gone back."""
    layer, x, options = learner
    size = len(pickle.dumps(layer))
    y, pullback = layer.vjp(x, **options)
    expected = _pull(layer, pullback, _ones(y))
    before = {name: g.copy() for name, g in layer.grads.items()}
    twin = duplicate(layer)
    assert not any(g.any() for g in twin.grads.values())
    assert len(pickle.dumps(layer)) < size + 100, "neither gradients nor copies of weights"
    for got, e in zip(_pull(twin, twin.vjp(x, **options)[1], _ones(y)), expected, strict=True):
        assert_same_bits(got, e)
    for name, g in twin.grads.items():
        assert_same_bits(g, before[name])
        assert_same_bits(layer.grads[name], before[name])
        assert not np.shares_memory(g, layer.grads[name])


def test_packs_go_through_a_sequential(engine):
    x, lengths = normal(6, 4, 5), [3, 6, 1, 6]
    options = {"engine": engine, "seed": 1}
    model = Sequential(LSTM(5, 3, **options), LSTM(3, 2, **options))
    y, pullback = model.vjp(x, lengths=lengths)
    expected = pullback(_ones(y))
    grads = {name: g.copy() for name, g in model.grads.items()}
    model.zero_grad()
    packed, pullback = model.vjp(fastlstm.pack_padded_sequence(x, lengths, enforce_sorted=False))
    d = fastlstm.pack_padded_sequence(_ones(y), lengths, enforce_sorted=False)
    assert_same_bits(fastlstm.pad_packed_sequence(packed)[0], y)
    assert_same_bits(fastlstm.pad_packed_sequence(pullback(d))[0], expected)
    for name, g in model.grads.items():
        assert_same_bits(g, grads[name])


def test_gradients_packed_otherwise_are_refused(engine):
    """They have as many rows, but in another order than the output."""
    pack = fastlstm.pack_padded_sequence
    x, lstm = normal(4, 3, 5), LSTM(5, 3, engine=engine)
    output, pullback = lstm.vjp(pack(x, [4, 2, 1], enforce_sorted=False))
    sentence = "Expected d_output packed as the output: the same lengths in the same order"
    for lengths in ([3, 3, 1], [1, 2, 4]):
        d = pack(x[..., :3], lengths, enforce_sorted=False)
        assert d.data.shape == output[0].data.shape
        _refused(lstm, lambda d=d: pullback(d), ValueError, sentence)
    d = pack(x[..., :3], [4, 2, 1], enforce_sorted=False)
    dx = pullback(d)[0].data
    assert_same_bits(pullback(pack(x[..., :3], [4, 2, 1]))[0].data, dx)
    assert_same_bits(pullback(d.data)[0].data, dx)


# ---- Embedding ------------------------------------------------------------------------------


def _gradient(embedding):
    """The gradients as an optimiser sees them."""
    ((_, _, gradients),) = embedding.buffers()
    return gradients.reshape(embedding.num_embeddings, embedding.embedding_dim)


def test_embedding_sums_repeated_indices(dtype):
    """The sums are exact for whole numbers; an index's gradient is None."""
    embedding = Embedding(9, 2, padding_idx=3, dtype=dtype)
    index = np.array([[8, 0, 8], [3, 8, 0], [3, 3, 5]])
    y, pullback = embedding.vjp(index)
    assert_same_bits(y, embedding.weight[index])
    assert pullback(_ones(y)) is None
    expected = np.zeros((9, 2), dtype)
    np.add.at(expected, index, _ones(y))
    expected[3] = 0
    assert_same_bits(embedding.grads["weight"], expected)
    _, pullback = embedding.vjp([3, 3])
    assert pullback(np.ones((2, 2), dtype)) is None
    assert_same_bits(embedding.grads["weight"], expected)
    _, pullback = embedding.vjp(np.uint8(5))
    pullback(np.ones(2, dtype))
    assert_same_bits(embedding.grads["weight"][5], expected[5] + 1)


def test_embedding_touches_only_rows_that_were_read():
    """A negative zero elsewhere stays one."""
    embedding = Embedding(9, 2)
    _gradient(embedding)[...] = -0.0
    y, pullback = embedding.vjp([1, 7, 1])
    pullback(_ones(y))
    np.testing.assert_array_equal(_gradient(embedding)[[1, 7]], [[6, 8], [3, 4]])
    assert np.signbit(np.delete(_gradient(embedding), [1, 7], axis=0)).all()
    embedding.zero_grad()
    assert not _gradient(embedding).any()


def test_embedding_makes_nothing_dense():
    embedding = Embedding(100_000, 64)
    embedding.zero_grad()
    _gradient(embedding)
    y, pullback = embedding.vjp(np.arange(50) * 1999)
    tracemalloc.start()
    try:
        pullback(_ones(y))
        embedding.zero_grad()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 1 << 20 < embedding.weight.nbytes / 20


def test_a_layer_under_two_names_is_updated_once():
    """Both uses add into one gradient, and one step is taken, as for shared parameters in torch."""
    shared = fastlstm.Linear(3, 3, dtype="float64", seed=0)
    model = fastlstm.Sequential(shared, shared)
    before = shared.weight.copy()
    y, pullback = model.vjp(np.ones((2, 3)))
    pullback(np.ones_like(y))
    SGD(model, lr=0.1).step()
    np.testing.assert_allclose(shared.weight, before - 0.1 * shared.grads["weight"], rtol=1e-15)
