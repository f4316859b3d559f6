"""An LSTM behind an Embedding: products of the embedding's rows, made ahead, change no bit.

The model that takes them is compared with its layers one by one: the LSTM then gets an array.
"""

import concurrent.futures
import copy
import dataclasses
import itertools
import os
import pickle

import numpy as np
import pytest
from support import Work, assert_same_bits, draw, with_options

import fastlstm
from fastlstm import LSTM, Dropout, Embedding, Linear, Sequential
from fastlstm.layers import lookup
from fastlstm.layers.lookup import Lookup
from fastlstm.sequences.packing import batch_sizes_of

ROWS, FEATURES = 12, 10


def model_of(hidden_size=20, *, seed=0, **options):
    """An embedding, a dropout and an LSTM, in evaluation."""
    dtype = options.get("dtype", "float32")
    layers = {
        "embedding": Embedding(ROWS, FEATURES, padding_idx=0, dtype=dtype, seed=seed),
        "dropout": Dropout(0.5),
        "lstm": LSTM(FEATURES, hidden_size, engine="native", seed=seed + 1, **options),
    }
    return Sequential(layers).eval()


def is_ahead(model):
    """Whether there are products of the embedding's rows, so that the next call takes them."""
    ahead = model["lstm"]._ahead
    return ahead is not None and ahead.made is not None


def made_ahead(model):
    """The model, after so many calls that there are such products."""
    for _ in range(4):
        model(np.zeros((ROWS, 1), int) if not model["lstm"].batch_first else [[0] * ROWS])
    assert is_ahead(model)
    return model


def results(output, states, hidden_size):
    """All arrays of a run, one after the other."""
    if isinstance(hidden_size, list):
        states = itertools.chain(*states)
    return [output, *states]


def assert_same(model, index, hidden_size=20, **arguments):
    """A run of the model has the bits of the LSTM's over the rows."""
    hx = arguments.pop("hx", None)
    output, states = model(index, {"lstm": hx} if hx else None, return_states=True, **arguments)
    got = results(output, states["lstm"], hidden_size)
    expected = model["lstm"](model["embedding"](index), hx, **arguments)
    for one, other in zip(got, results(*expected, hidden_size), strict=True):
        assert_same_bits(np.ascontiguousarray(one), np.ascontiguousarray(other))


OPTIONS = {
    "plain": {},
    "large": {"hidden_size": 90, "num_layers": 2},
    "widths": {"hidden_size": [20, 15]},
    "double": {"dtype": "float64"},
    "two directions": {"bidirectional": True, "num_layers": 2},
    "from the end": {"reverse": True},
    "projection": {"proj_size": 5},
    "batch first": {"batch_first": True, "bidirectional": True},
    "learned states": {"learn_initial_state": True},
    "no bias": {"bias": False},
    "peepholes": {"peephole": True, "gate_clip": 0.5, "cell_clip": 0.3},
    "coupled": {"coupled": "f=1-i", "gate_activation": "hard_sigmoid"},
    "also coupled": {"coupled": "i=1-f", "peephole": True, "bidirectional": True},
    "tflite": {"layer_norm": "tflite", "peephole": True},
    "haste": {"layer_norm": "haste", "bidirectional": True},
    "zoneout": {"zoneout": (0.1, 0.2)},
    "threads": {"num_threads": 3, "hidden_size": 200, "num_layers": 2},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("steps, sequences", [(1, 1), (33, 1), (5, 4), (9, 17)])
def test_calls(native, name, steps, sequences):
    """The same bits, whatever the options, the lengths, the masks and the states."""
    options = OPTIONS[name]
    hidden_size, rng = options.get("hidden_size", 20), np.random.default_rng(0)
    model = made_ahead(model_of(**options))
    swap = options.get("batch_first", False)
    shape = (sequences, steps) if swap else (steps, sequences)
    index = rng.integers(0, ROWS, shape)
    assert_same(model, index, hidden_size)
    assert_same(model, index, hidden_size, lengths=rng.integers(0, steps + 1, sequences))
    hx = model["lstm"](model["embedding"](index))[1]
    assert_same(model, index, hidden_size, hx=hx)
    assert_same(model, index[..., :0] if not swap else index[:0], hidden_size)
    lstm, embedding = model["lstm"], model["embedding"]
    for more in (
        {"mask": rng.random(shape) < 0.7, "masked_output": "last"},
        {"reset": rng.random(shape) < 0.3},
        {"return_cells": True, "return_gates": True},
    ):
        got, expected = lstm(Lookup(embedding, index), **more), lstm(embedding(index), **more)
        assert_same_bits(*(np.ascontiguousarray(y) for y in (got[0], expected[0])))
        assert len(got) == len(expected)
    assert is_ahead(model)


@pytest.mark.parametrize("lengths", [(1,), (40,), (7, 7, 5, 3, 1, 1), (12,) * 17])
@pytest.mark.parametrize("name", ["few", "alone", "units", "options", "haste"])
def test_cuts(native, name, lengths):
    """The engine gives the same bits, however threads share the work."""
    work, options = {
        "few": (Work(lengths, 9, 30), {}),
        "alone": (Work(lengths, 100, 70, layers=2, dtype="float64"), {}),
        "units": (Work(lengths, 40, 130, 90, layers=2, directions=2), {}),
        "options": (Work(lengths, 9, 70, directions=2), {"peephole": True, "coupled": "f=1-i"}),
        "haste": (Work(lengths, 9, 70), {"layer_norm": "haste"}),
    }[name]
    cells, x, h, c = draw(work)
    cells = [with_options(cell, **options) if options else cell for cell in cells]
    if work.directions == 1:
        cells = [dataclasses.replace(cell, reverse=len(lengths) == 6) for cell in cells]
    rng, sizes = np.random.default_rng(0), batch_sizes_of(np.array(lengths))
    rows = rng.standard_normal((11, work.I)).astype(work.dtype)
    index = rng.integers(0, 11, (len(x), 1))
    stack = native.Stack(cells, work.directions)
    table = stack.table(rows)

    def run(x, *more):
        y, states = (
            np.empty((len(x), work.directions * h.shape[2]), work.dtype),
            (h.copy(), c.copy()),
        )
        stack.run(x, sizes, *states, y, 4, *more)
        return y, *states

    expected = run(rows[index[:, 0]])
    teams = work.directions if work.directions == 2 else work.layers
    for cut in (
        None,
        (1, 1, 1, 1, 1),
        (4, 1, 1, 2, 3, 1),
        (2, 2, 1, 1, 1),
        (4, 1, teams, 2, 2),
        (4, 1, teams, 1, 1, 1),
    ):
        if cut and cut[1] > len(lengths):
            continue
        stack.force_cuts(cut)
        for got, same in zip(run(index, None, None, table), expected, strict=True):
            assert_same_bits(got, same)


@pytest.mark.parametrize("sequences", [1, 3])
@pytest.mark.parametrize(
    "name", [n for n, o in OPTIONS.items() if not {"bidirectional", "reverse"} & {*o}]
)
def test_streams(native, name, sequences):
    """Steps and chunks of a stream, before there are products and with them."""
    model, rng = model_of(**OPTIONS[name]), np.random.default_rng(0)
    embedding = model["embedding"]
    stream, layer = model.stream(sequences), model["lstm"].stream(sequences)
    out = np.empty((sequences, model["lstm"]._output_size), model.dtype)
    seen = []
    for _ in range(2 * ROWS + 5):
        index = rng.integers(0, ROWS, sequences)
        expected = layer.step(embedding(index))
        for given in (index, [*index], index.astype(np.int32)):
            state = stream.state
            assert_same_bits(stream.step(given), expected)
            stream.state = state
        assert stream.step(index, out) is out
        assert_same_bits(out, expected)
        chunk = rng.integers(
            0, ROWS, (sequences, 3) if model["lstm"].batch_first else (3, sequences)
        )
        ys = stream.run(chunk), layer.run(embedding(chunk))
        assert_same_bits(*map(np.ascontiguousarray, ys))
        seen.append(is_ahead(model))
    assert not seen[0] and seen[-1]
    if len(layer._states) == 2:
        assert stream._part.parts[0]._quick is not None
    for other in (copy.copy(stream), pickle.loads(pickle.dumps(stream))):
        assert_same_bits(other.step(index), layer.step(embedding(index)))
        layer.state = stream.state["lstm"]


def test_a_stream_refuses_what_it_refused(native):
    """With products too: numbers beyond the embedding, other shapes, a wrong `out`."""
    stream = made_ahead(model_of()).stream(2)
    stream.step([0, 1])
    stream.step([0, 1])
    assert stream._part.parts[0]._quick is not None
    before = stream.state["lstm"][0]
    for index, words in (
        (np.array([0, ROWS]), "out of range"),
        (np.array([-1, 0]), "out of range"),
        (np.array([0, 1, 2]), "shape"),
        (np.array([[0, 1]]), "shape"),
        (np.array([0.0, 1.0]), "integers"),
    ):
        with pytest.raises(ValueError, match=words):
            stream.step(index)
    with pytest.raises(ValueError, match="out must be"):
        stream.step(np.array([0, 1]), np.empty((2, 20)))
    assert_same_bits(stream.state["lstm"][0], before)


CHANGES = {
    "embedding": lambda model: setattr(model["embedding"], "weight", 2 * model["embedding"].weight),
    "lstm": lambda model: setattr(model["lstm"], "weight_ih_l0", -model["lstm"].weight_ih_l0),
    "bias": lambda model: setattr(model["lstm"], "bias_ih_l0", model["lstm"].bias_hh_l0 + 1),
    "all": lambda model: model.load_state_dict(model_of(seed=5).state_dict()),
    "in place": lambda model: [
        (flat.__imul__(0.5), layer.changed()) for layer, flat, _ in model.buffers()
    ],
}  # fmt: skip


def check_after(change):
    """After a change of parameters, calls and streams have the bits of the new ones."""
    model, index = made_ahead(model_of()), np.arange(ROWS).reshape(-1, 2)
    before, stream = model(index), model.stream(2)
    for row in (index[0], index[0]):
        stream.step(row)
    change(model)
    layer = model["lstm"].stream(2)
    layer.state = stream.state["lstm"]
    for _ in range(6):  # first without products, and then with new ones
        assert not np.array_equal(model(index), before)
        assert_same(model, index)
        assert_same_bits(stream.step(index[1]), layer.step(model["embedding"](index[1])))


@pytest.mark.parametrize("name", CHANGES)
def test_changed_parameters(native, name):
    check_after(CHANGES[name])


@pytest.mark.parametrize("name", CHANGES)
def test_stale_products_are_noticed(native, name, monkeypatch):
    """The comparison above rejects an LSTM that goes on with products of former parameters."""
    monkeypatch.setattr(lookup.Ahead, "is_of", lambda *_: True)
    monkeypatch.setattr(LSTM, "_discard", keeping(LSTM._discard))
    with pytest.raises(AssertionError):
        check_after(CHANGES[name])


def keeping(discard):
    def keeps(lstm, *ways):
        ahead = lstm._ahead
        discard(lstm, *ways)
        vars(lstm)["_ahead"] = ahead

    return keeps


def test_training_is_as_it_was(native):
    """A way back between calls, and a step of an optimiser, with the products there."""
    model = made_ahead(model_of())
    index = np.arange(ROWS).reshape(-1, 1)
    y, pullback = model.train().vjp(index)
    pullback(np.ones_like(y))
    assert model.grads["embedding.weight"].any()
    fastlstm.training.SGD(model, 0.1).step()
    model.eval()
    for _ in range(4):
        assert_same(model, index)
    assert is_ahead(model)


def test_dropout_between_keeps_them_apart(native):
    """In training mode the rows are dropped out, and in evaluation they are not."""
    model = made_ahead(model_of())
    index = np.arange(ROWS).reshape(-1, 1)
    y = model(index)
    assert not np.array_equal(model.train()(index), y)
    assert_same_bits(model.eval()(index), y)


def test_layers_of_ones_own_see_arrays(native):
    """Whoever overrides how a layer is called gets what it got."""

    class Loud(Embedding):
        def __call__(self, input):
            return 2 * super().__call__(input)

    class Own(LSTM):
        def __call__(self, input, *args, **options):
            assert type(input) is np.ndarray
            return super().__call__(input, *args, **options)

    index = np.arange(ROWS).reshape(-1, 1)
    plain = LSTM(FEATURES, 5, engine="native", seed=1).eval()
    for embedding, lstm in (
        (Loud(ROWS, FEATURES, seed=0), plain),
        (Embedding(ROWS, FEATURES, seed=0), Own(FEATURES, 5, engine="native", seed=1)),
    ):
        model = Sequential(embedding, lstm, Linear(5, 2, seed=2)).eval()
        expected = model[2](plain(embedding(index))[0])
        for _ in range(4):
            assert_same_bits(model(index), expected)


def test_copies_and_pickles_have_none(native):
    """They begin anew, with the same bits, and a pickle does not grow."""
    model = model_of()
    small = len(pickle.dumps(model))
    made_ahead(model)
    assert len(pickle.dumps(model)) == small
    index = np.arange(ROWS).reshape(-1, 1)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        copy.copy(model["lstm"]),
    ):
        lstm = other if isinstance(other, LSTM) else other["lstm"]
        assert lstm._ahead is None
    other = pickle.loads(pickle.dumps(model))
    assert_same_bits(other(index), model(index))


def test_many_threads_at_once(native):
    """They count together, and one or several of them make the products."""
    model, index = model_of(), np.arange(ROWS).reshape(-1, 1)
    expected = model["lstm"](model["embedding"](index))[0]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = [*pool.map(lambda _: model(index), range(64))]
    assert is_ahead(model)
    for y in results:
        assert_same_bits(y, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child(native):
    """It has the products too, and what it changes is its own."""
    model, index = made_ahead(model_of()), np.arange(ROWS).reshape(-1, 1)
    expected = model(index)
    child = os.fork()
    if child == 0:
        same = np.array_equal(model(index), expected)
        model["embedding"].weight = 2 * model["embedding"].weight
        os._exit(0 if same and not np.array_equal(model(index), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert_same_bits(model(index), expected)


def test_only_tables_that_pay(native, monkeypatch):
    """Not before each row was looked up twice on average, and not where they would be large."""
    model, one = model_of(), np.zeros((1, 1), int)
    model(one)  # packs the weights
    for _ in range(2 * ROWS - 1):
        model(one)
    assert not is_ahead(model)
    model(one)
    assert is_ahead(model)
    monkeypatch.setattr(lookup, "_BYTES_PER_INPUT", ROWS * 4 * 20 * 4 // (FEATURES - 4) - 1)
    model = model_of()
    for _ in range(4):
        model(np.zeros((ROWS, 1), int))
    assert not is_ahead(model)


def test_two_embeddings_of_one_lstm(native):
    """Each has its own products: by turns, there are none."""
    lstm = LSTM(FEATURES, 6, engine="native", seed=0).eval()
    models = [
        Sequential({"embedding": Embedding(ROWS, FEATURES, seed=n), "lstm": lstm}) for n in (1, 2)
    ]
    index = np.arange(ROWS).reshape(-1, 1)
    for _ in range(3):
        for _ in range(4):
            assert_same(models[0], index)
        assert is_ahead(models[0])
        assert_same(models[1], index)


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_engines_without_a_table(engine):
    """They compute as without."""
    pytest.importorskip("numba") if engine == "numba" else None
    model = Sequential(Embedding(ROWS, FEATURES, seed=0), LSTM(FEATURES, 6, engine=engine, seed=1))
    index = np.arange(ROWS).reshape(-1, 2)
    for _ in range(6):
        assert_same_bits(model(index), model[1](model[0](index))[0])
    stream, layer = model.stream(2), model[1].stream(2)
    for row in index:
        assert_same_bits(stream.step(row), layer.step(model[0](row)))


def test_errors_are_those_of_arrays(native):
    """An LSTM that cannot take the rows says the same with a `Lookup`."""
    embedding, index = Embedding(ROWS, FEATURES), np.zeros((3, 2), int)
    for lstm, given in (
        (LSTM(FEATURES + 1, 4), index),
        (LSTM(FEATURES, 4, dtype="float64"), index),
        (LSTM(FEATURES, 4, batch_first=None), index),
        (LSTM(FEATURES, 4), index[..., None]),
    ):
        for _ in range(2):
            errors = []
            for x in (embedding(given), Lookup(embedding, given)):
                with pytest.raises(ValueError) as caught:
                    lstm(x)
                errors.append(str(caught.value))
            assert errors[0] == errors[1]
