"""Arrays, padded sequences, and the order of batches: by hand, every sample once, resumed."""

import itertools

import numpy as np
import pytest
from errors import raises
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_same_bits
from values import make_series

import fastlstm
from fastlstm.training import SGD, Arrays, Batch, Batches, MSELoss, Sequences, Standardizer, Windows

# ---- arrays and sequences -------------------------------------------------------------------


def test_arrays_keep_what_they_get():
    x, y, w = make_series(6, 3), np.arange(6), np.arange(6, dtype=np.float32)
    batch = Arrays(np.asfortranarray(x), y, w)[[4, 0, 4]]
    assert_same_bits(batch.x, x[[4, 0, 4]])
    assert_same_bits(batch.y, y[[4, 0, 4]])
    assert_same_bits(batch.weights, w[[4, 0, 4]])
    assert batch.x.flags.c_contiguous and batch.mask is None and batch.lengths is None
    assert Arrays(x, y)[1:3].weights is None


def test_arrays_refuse():
    x = np.zeros((4, 2))
    raises(
        lambda: Arrays(x, np.zeros(3)),
        ValueError,
        "Expected y of shape (4, ...), as many rows as x, got (3,)",
    )
    raises(
        lambda: Arrays(x, np.zeros(4), np.zeros((4, 1))),
        ValueError,
        "Expected weights of shape (4,), one a sample, got (4, 1)",
    )
    for empty in (np.zeros((0, 2)), 1.0):
        with pytest.raises(ValueError, match="Expected x with at least one sample, got shape"):
            Arrays(empty, empty)


def test_arrays_take_a_mask_and_weights_of_steps():
    x, y = make_series(6, 3), make_series(6, 2)
    y[[0, 4], [1, 0]] = np.nan
    w = np.arange(12.0).reshape(6, 2)
    data = Arrays(x, y, w, mask=~np.isnan(y))
    batch = data[[4, 0, 2]]
    assert_same_bits(batch.weights, w[[4, 0, 2]])
    assert batch.mask.tolist() == [[False, True], [True, False], [True, True]]
    assert Arrays(x, y, mask=np.arange(6) > 2)[1:5].mask.tolist() == [False, False, True, True]
    raises(
        lambda: Arrays(x, y, w[:, :1]),
        ValueError,
        "Expected weights of shape (6,), one a sample, or (6, 2), one a step, got (6, 1)",
    )
    for wrong in (np.ones((6, 3), bool), np.ones(5, bool), np.ones((6, 2, 1), bool), True):
        raises(
            lambda wrong=wrong: Arrays(x, y, mask=wrong),
            ValueError,
            f"Expected a mask whose axes are the first ones of y, (6, 2), got {np.shape(wrong)}",
        )
    raises(lambda: Arrays(x, y, mask=w), TypeError, "Expected a mask of truth values, got float64")


def test_masked_targets_count_for_nothing():
    """The loss of an epoch is the mean over the targets that are there."""
    x, y = make_series(9, 4)[..., None].astype("f4"), make_series(9, 2).astype("f4")
    y[::2, 0] = y[4, 1] = np.nan
    model = fastlstm.Sequential(
        fastlstm.LSTM(1, 3, seed=0), fastlstm.Last(), fastlstm.Linear(3, 2, seed=0)
    )
    error = (fastlstm.predict(model, x) - y) ** 2
    data = Arrays(x, y, mask=~np.isnan(y))
    history = fastlstm.fit(
        model,
        data,
        MSELoss(),
        SGD(model, lr=1e-30),
        1,
        4,
        validation=data,
    )
    np.testing.assert_allclose(history["validation_loss"], [np.nanmean(error)], rtol=1e-6)


@pytest.mark.parametrize("flat", [False, True])
def test_weights_of_steps_and_a_mask_of_values_in_a_training(flat):
    series = make_series(40, 3).astype("f4")
    series[np.random.default_rng(0).random((40, 3)) < 0.3] = np.nan
    series[:, 0] = np.arange(40) / 40
    weights = np.random.default_rng(1).random(40)
    options = {"inputs": [0], "targets": [1, 2], "weights": weights, "mask_missing": True}
    if flat:
        options |= {"horizon": 2, "flat": True}
        layers = fastlstm.LSTM(1, 3, seed=0), fastlstm.Last(), fastlstm.Linear(3, 4, seed=0)
    else:
        options |= {"horizon": 5, "lead": -4}
        layers = fastlstm.LSTM(1, 3, seed=0), fastlstm.Linear(3, 2, seed=0)
    data, model = Windows(series, 5, **options), fastlstm.Sequential(*layers)
    y, error, weight = fastlstm.predict(model, data), 0, 0
    for n in range(len(data)):
        for step in range(options["horizon"]):
            at = n + step + (5 if flat else 0)
            for target in range(2):
                if not np.isnan(truth := series[at, 1 + target]):
                    value = y[n].ravel()[2 * step + target]
                    error += weights[at] * (value - truth) ** 2
                    weight += weights[at]
    history = fastlstm.fit(
        model, data, MSELoss(), SGD(model, lr=1e-30), 1, 7, validation=data,
        verbose=False,
    )  # fmt: skip
    np.testing.assert_allclose(history["validation_loss"], [error / weight], rtol=1e-5)
    np.testing.assert_allclose(history["loss"], [error / weight], rtol=1e-5)


def _ragged(lengths, features=2, dtype="float32"):
    return [make_series(T, features, k).astype(dtype) for k, T in enumerate(lengths)]


def test_sequences_with_a_class_each(dtype):
    sequences = _ragged([3, 1, 5], dtype="float64")
    data = Sequences(sequences, np.array([2, 0, 1], np.int8), dtype=dtype)
    batch = data[[2, 1]]
    expected = np.zeros((2, 5, 2), dtype)
    expected[0], expected[1, :1] = sequences[2], sequences[1]
    assert_same_bits(batch.x, expected)
    assert_same_bits(batch.y, np.array([1, 0]))
    assert_same_bits(batch.lengths, np.array([5, 1]))
    assert batch.x.flags.c_contiguous and batch.mask is None and batch.weights is None
    assert data[:2].x.shape == (2, 3, 2), "no longer than its own longest"


def test_sequences_with_a_target_for_each_step(dtype):
    sequences = _ragged([2, 3])
    targets = [np.array([[1.0], [2.0]]), np.array([[3.0], [4.0], [5.0]])]
    batch = Sequences(sequences, targets, dtype=dtype)[:]
    assert_same_bits(batch.y, np.array([[[1], [2], [0]], [[3], [4], [5]]], dtype))
    assert_same_bits(batch.mask, np.array([[True, True, False], [True, True, True]]))


def test_sequences_of_tokens_and_of_one_feature():
    tokens = Sequences([[1, 2], [3]], [0.5, 1.5])[:]
    assert_same_bits(tokens.x, np.array([[1, 2], [3, 0]]))
    assert_same_bits(tokens.y, np.array([0.5, 1.5], np.float32))
    feature = Sequences([[1, 2], [0.5]], np.array([[1, 2], [3, 4]]))[:]
    assert_same_bits(feature.x, np.array([[[1], [2]], [[0.5], [0]]], np.float32))
    assert_same_bits(feature.y, np.array([[1, 2], [3, 4]]))
    counts = Sequences([np.array([[1, 2]]), np.array([[3, 4], [5, 6]])], [True, False])[:]
    assert_same_bits(counts.x, np.array([[[1, 2], [0, 0]], [[3, 4], [5, 6]]], np.float32))
    assert_same_bits(counts.y, np.array([1, 0], np.float32))


@pytest.mark.parametrize("empty", [[], np.zeros(0), np.zeros(0, int)], ids=repr)
def test_sequences_may_be_empty(empty):
    """An empty list has no type of its own, so it takes that of the others."""
    tokens = Sequences([[5, 6], empty], [1, 0])
    batch = tokens[:]
    assert tokens.tokens and batch.x.dtype == np.int64 and batch.lengths.tolist() == [2, 0]
    assert batch.x.tolist() == [[5, 6], [0, 0]]
    features = Sequences([empty, [[1.0, 2.0]], np.zeros((0, 2))], [empty, [3.0], []])
    batch = features[:]
    assert not features.tokens and batch.x.tolist() == [[[0, 0]], [[1, 2]], [[0, 0]]]
    assert batch.y.tolist() == [[0], [3], [0]] and batch.mask.tolist() == [[False], [True], [False]]
    assert features[[0, 2]].x.shape == (2, 0, 2)
    assert Sequences([[1.0, 2.0], empty], [1, 0])[:].x.tolist() == [[[1], [2]], [[0], [0]]]


def test_sequences_are_standardised():
    sequences = _ragged([3, 1, 5], dtype="float64")
    standardizer = Standardizer.fit(sequences)
    data = Sequences(sequences, [0, 1, 0], standardizer=standardizer)
    by_hand = Sequences([standardizer.transform(s) for s in sequences], [0, 1, 0])
    assert_same_bits(data[[2, 1]].x, by_hand[[2, 1]].x)
    assert data[[1, 2]].x[0, 1:].tolist() == np.zeros((4, 2)).tolist(), "padding stays 0"
    raises(
        lambda: Sequences(sequences, [0, 1, 0], standardizer=Standardizer([0], [1])),
        ValueError,
        "Expected a standardizer of 2 columns, as the series has, got one of 1",
    )
    raises(
        lambda: Sequences(sequences, [0, 1, 0], standardizer=1),
        TypeError,
        "Expected a Standardizer, got int",
    )
    raises(
        lambda: Sequences([[1, 2], [3]], [0, 1], standardizer=standardizer),
        ValueError,
        "Expected sequences of features for a standardizer, got tokens",
    )


def test_sequences_mask_targets_that_are_missing():
    sequences = _ragged([2, 3])
    targets = [np.array([[1, np.nan], [2, 3]]), np.array([[np.nan, np.nan], [4, 5], [6, 7.0]])]
    batch = Sequences(sequences, targets, mask_missing=True)[[0, 1]]
    assert batch.mask.tolist() == [
        [[True, False], [True, True], [False, False]],
        [[False, False], [True, True], [True, True]],
    ]
    one_each = Sequences(sequences, [np.nan, 2.0], mask_missing=True)[[0, 1]]
    assert one_each.mask.tolist() == [False, True]
    assert Sequences(sequences, [1, 2], mask_missing=True)[[0, 1]].mask.tolist() == [True, True]
    assert Sequences(sequences, [t[:, 1] for t in targets])[[0]].mask.tolist() == [[True, True]]


def test_sequences_take_weights():
    sequences, steps = _ragged([2, 3]), [np.arange(2.0), np.arange(3.0)]
    batch = Sequences(sequences, [0, 1], weights=[0.5, 2])[[1, 0]]
    assert batch.weights.tolist() == [2, 0.5] and batch.mask is None
    batch = Sequences(sequences, steps, weights=np.array([0.5, 2]))[[1, 0]]
    assert batch.weights.tolist() == [2, 0.5]
    batch = Sequences(sequences, steps, weights=[[1, 2], [3, 4, 5]])[[0, 1]]
    assert batch.weights.tolist() == [[1, 2, 0], [3, 4, 5]]
    assert batch.mask.tolist() == [[True, True, False], [True] * 3]
    for weights, sentence in [
        ([1.0], "Expected weights of shape (2,), got (1,)"),
        ([[1, 2], [3, 4]], "Expected weights of shape [(2,), (3,)], got [(2,), (2,)]"),
    ]:
        raises(lambda w=weights: Sequences(sequences, steps, weights=w), ValueError, sentence)
    raises(
        lambda: Sequences(sequences, [0, 1], weights=[[1, 2], [3, 4, 5]]),
        ValueError,
        "Expected weights of shape (N,), one a sequence as the targets are, got a list of arrays",
    )


def test_sequences_refuse():
    sequences = _ragged([3, 2])
    raises(
        lambda: Sequences(sequences, [0, 1, 2]),
        ValueError,
        "Expected targets for 2 sequences, got them for 3",
    )
    raises(
        lambda: Sequences(sequences, [[0, 1, 2], [0, 1, 2]]),
        ValueError,
        "Expected a list of targets to have one for each of the 2 steps of sequence 1, got shape "
        "(3,); one for each whole sequence comes as an array of shape (N, ...)",
    )
    raises(
        lambda: Sequences(sequences, [np.zeros((3, 1)), np.zeros((2, 2))]),
        ValueError,
        "Expected targets of one shape at every step, got [(1,), (2,)]",
    )
    raises(
        lambda: Sequences([*sequences, np.zeros((4, 3))], [0, 1, 2]),
        ValueError,
        "Expected sequences of shape (T_i, F) with one F, or (T_i,), got [(2, 2), (3, 2), (4, 3)]",
    )
    for words in (np.array(["yes", "no"]), np.array(["yes", "no"], object)):
        with pytest.raises(ValueError, match=r"class indices, integers from 0, got .*np\.unique"):
            Sequences(sequences, words)
    raises(
        lambda: Sequences([], []),
        ValueError,
        "Expected a list of at least one sequence, got an empty one",
    )
    raises(
        lambda: Sequences(np.zeros((4, 3, 2)), [0] * 4),
        TypeError,
        "Expected a list of sequences, got ndarray",
    )


# ---- batches --------------------------------------------------------------------------------


def _indices(count, **options):
    """Batches of the numbers 0, 1, ..., so that a batch's x tells which samples it has."""
    return Batches((np.arange(count), np.arange(count)), **options)


@given(
    st.integers(1, 60), st.integers(1, 20), st.booleans(), st.integers(0, 3), st.integers(1, 4),
    st.booleans(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_every_sample_once_an_epoch(count, size, shuffle, epoch, pool, ragged):
    options = {"batch_size": size, "shuffle": shuffle, "pool": pool, "seed": 5}
    data = (np.arange(count), np.arange(count))
    if ragged:
        tokens = [[k] * (k * 7 % 11 + 1) for k in range(count)]
        data = Sequences(tokens, list(range(count)))
    batches = Batches(data, **options)
    got = [batch.y for batch in batches.epoch(epoch)]
    assert len(got) == len(batches) == -(-count // size)
    assert sorted(np.concatenate(got).tolist()) == list(range(count))
    assert sorted(map(len, got))[1:] == [size] * (len(got) - 1)
    if not shuffle:
        assert np.concatenate(got).tolist() == list(range(count))
    if count >= size:
        fewer = Batches(data, drop_last=True, **options)
        left = [batch.y for batch in fewer.epoch(epoch)]
        assert len(left) == len(fewer) == count // size
        assert {len(batch) for batch in left} == {size}
        assert np.unique(np.concatenate(left)).size == count // size * size


def test_order_by_hand():
    """The order sorts the numbers that PCG64 gives for the seed [seed, epoch]."""
    raw = np.random.PCG64([7, 2]).random_raw(10).tolist()
    expected = sorted(range(10), key=raw.__getitem__)
    batches = _indices(10, batch_size=4, seed=7)
    assert [batch.x.tolist() for batch in batches.epoch(2)] == [
        expected[:4], expected[4:8], expected[8:],
    ]  # fmt: skip
    # stored, for a training that was begun long ago goes on in the same order
    assert _indices(10, batch_size=10, seed=7).order(2)[0].tolist() == [
        8,
        6,
        4,
        0,
        5,
        7,
        1,
        3,
        9,
        2,
    ]


def test_order_depends_on_seed_and_epoch_alone():
    def order(epoch, seed=1, size=8):
        return np.concatenate(_indices(100, batch_size=size, seed=seed).order(epoch)).tolist()

    batches = _indices(100, batch_size=8, seed=1)
    for epoch in (3, 0, 3, 1):  # asked for in any order, any number of times
        np.random.seed(epoch)  # noqa: NPY002 (what others do with NumPy's global state)
        list(batches.epoch(epoch))
        assert np.concatenate(batches.order(epoch)).tolist() == order(epoch)
    assert order(0, size=8) == order(0, size=33)
    different = [order(0), order(1), order(2), order(0, seed=2), order(1, seed=0), list(range(100))]
    assert len({tuple(one) for one in different}) == len(different)


def test_resuming_within_an_epoch_gives_the_same_batches():
    data = Sequences(_ragged([k % 9 + 1 for k in range(50)]), np.arange(50))
    batches, again = (Batches(data, 7, seed=4, pool=3) for _ in range(2))
    whole = list(batches.epoch(2))
    for first in range(len(whole) + 1):
        rest = list(again.epoch(2, first=first))
        assert len(rest) == len(whole) - first
        for got, expected in zip(rest, whole[first:], strict=True):
            for a, b in zip(got, expected, strict=True):
                assert (a is None and b is None) or (assert_same_bits(a, b) is None)


def test_passed_over_batches_are_not_read():
    class Reads(Arrays):
        def __getitem__(self, indices):
            read.append(len(indices))
            return super().__getitem__(indices)

    read = []
    rest = Batches(Reads(np.arange(10), np.arange(10)), 3).epoch(0, first=2)
    assert read == []
    next(rest)
    assert read == [3]


def test_orders_are_uniform():
    """The 4! orders are equally likely: chi-squared with 23 degrees exceeds 95 once in 1e9."""
    batches, seen = _indices(4, batch_size=4), dict.fromkeys(itertools.permutations(range(4)), 0)
    for epoch in range(2400):
        seen[tuple(batches.order(epoch)[0].tolist())] += 1
    assert sum((count - 100) ** 2 / 100 for count in seen.values()) < 95


def _padding(data, order):
    """Return the number of padded steps of all batches, and that of real ones."""
    padded = sum(data[batch].x.shape[1] * len(batch) for batch in order)
    return padded - data.lengths.sum(), data.lengths.sum()


@given(st.integers(1, 200), st.integers(1, 16), st.integers(1, 6), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_padding_is_below_its_bound(count, size, pool, epoch):
    """Sorted batches share a pool's range of lengths, so all padding is at most size * range."""
    lengths = np.random.default_rng([count, size]).integers(1, 60, count)
    data = Sequences([[1] * T for T in lengths], np.arange(count))
    padding, _ = _padding(data, Batches(data, size, pool=pool).order(epoch))
    pools = -(-count // (pool * size))
    assert padding <= pools * size * (lengths.max() - lengths.min())


def test_buckets_save_padding_and_still_shuffle():
    """Of 32 lengths from 1 to 400 the longest has 388 steps, where the mean has 200."""
    lengths = np.random.default_rng(0).integers(1, 401, 1600)
    data = Sequences([[1] * T for T in lengths], np.arange(1600))
    buckets, mixed = Batches(data, 32), Batches(data, 32, pool=1)
    padding, steps = _padding(data, buckets.order(0))
    assert padding < 32 * 400 < 0.05 * steps
    wasted, steps = _padding(data, mixed.order(0))
    assert wasted > 0.8 * steps
    first = [lengths[batch].mean() for batch in buckets.order(0)]
    assert np.abs(np.corrcoef(first, range(len(first)))[0, 1]) < 0.5, "batches are not in order"
    a, b = ({tuple(sorted(batch)) for batch in buckets.order(epoch)} for epoch in (0, 1))
    assert len(a & b) < 5, "every epoch has other batches"
    assert np.concatenate(Batches(data, 32, shuffle=False).order(0)).tolist() == list(range(1600))


def test_batches_take_what_data_sets_are():
    class Squares:
        def __len__(self):
            return 5

        def __getitem__(self, indices):
            return Batch(np.asarray(indices), np.asarray(indices) ** 2)

    assert [b.y.tolist() for b in Batches(Squares(), 3, shuffle=False).epoch(0)] == [
        [0, 1, 4], [9, 16],
    ]  # fmt: skip
    data = Windows(np.arange(9.0), 3)
    x = np.concatenate([batch.x for batch in Batches(data, 4, shuffle=False).epoch(0)])
    assert_same_bits(x, data[:].x)
    weighted = Batches((np.zeros(3), np.zeros(3), np.arange(3)), 3, shuffle=False)
    assert next(weighted.epoch(0)).weights.tolist() == [0, 1, 2]


def test_batches_refuse():
    expected = (
        "Expected data to be Arrays, Sequences, Windows, or a tuple (x, y) or (x, y, weights), "
    )
    raises(lambda: Batches([1, 2], 1), TypeError, f"{expected}got list")
    raises(lambda: Batches(np.zeros(4), 1), TypeError, f"{expected}got ndarray")
    raises(lambda: Batches((np.zeros(4),), 1), TypeError, f"{expected}got tuple of 1")
    raises(lambda: Batches(4, 1), TypeError, f"{expected}got int")
    raises(
        lambda: _indices(4, batch_size=0), ValueError, "batch_size must be greater than zero, got 0"
    )
    raises(
        lambda: _indices(4, batch_size=5, drop_last=True),
        ValueError,
        "Expected enough samples for one batch of 5, got 4",
    )
    raises(
        lambda: _indices(4, batch_size=2, seed=-1), ValueError, "seed must be at least 0, got -1"
    )
    raises(
        lambda: _indices(4, batch_size=2, shuffle="yes"),
        TypeError,
        "shuffle should be of type bool, got: str",
    )
    batches = _indices(4, batch_size=2)
    raises(lambda: batches.epoch(-1), ValueError, "epoch must be at least 0, got -1")
    raises(lambda: batches.epoch(0, first=-1), ValueError, "first must be at least 0, got -1")
