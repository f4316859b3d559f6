"""Sequences of different lengths: every helper against torch's, and by hand."""

import tracemalloc

import numpy as np
import pytest
from errors import raises
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_same_bits

import fastlstm
from fastlstm import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
)
from fastlstm.sequences.packing import batch_sizes_of, lengths_of, rows_of

LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=8)
FEATURES = st.sampled_from([(), (1,), (3,), (2, 3)])
KINDS = st.sampled_from(["float32", "float64", "int64"])


@pytest.fixture(scope="module")
def rnn():
    pytest.importorskip("torch", reason="comparison with torch needs torch")
    from torch.nn.utils import rnn

    return rnn


def _draw(shape, dtype):
    """Draw distinct values, so that none can be taken for another."""
    return (np.arange(np.prod(shape, dtype=int)) + 1).reshape(shape).astype(dtype)


def _tensor(array):
    import torch

    return torch.from_numpy(array)


def _assert_same_pack(got, expected):
    assert isinstance(got, PackedSequence)
    for name in PackedSequence._fields:
        ours, theirs = getattr(got, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert type(ours) is np.ndarray
            assert_same_bits(ours, theirs.numpy())


# ---- against torch --------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(LENGTHS, st.integers(0, 2), FEATURES, KINDS, st.booleans(), st.booleans())
def test_pack_padded_sequence(rnn, lengths, longer, features, dtype, batch_first, enforce_sorted):
    lengths = sorted(lengths, reverse=True) if enforce_sorted else lengths
    shape = (len(lengths), max(lengths) + longer)
    x = _draw((shape if batch_first else shape[::-1]) + features, dtype)
    got = pack_padded_sequence(x, lengths, batch_first, enforce_sorted)
    expected = rnn.pack_padded_sequence(_tensor(x), lengths, batch_first, enforce_sorted)
    if enforce_sorted:
        _assert_same_pack(got, expected)
    else:  # torch's sort is not stable: equal lengths may come in another order
        np.testing.assert_array_equal(got.batch_sizes, expected.batch_sizes)
        order = got.sorted_indices
        assert_same_bits(order[got.unsorted_indices], np.arange(len(lengths)))
        keys = [(-lengths[n], n) for n in order]
        assert keys == sorted(keys)
        by_hand = rnn.pack_padded_sequence(
            _tensor(x[order] if batch_first else x[:, order]), np.array(lengths)[order], batch_first
        )
        assert_same_bits(got.data, by_hand.data.numpy())


@settings(deadline=None, max_examples=100)
@given(LENGTHS, FEATURES, KINDS, st.booleans(), st.sampled_from([0, -1, 7]), st.integers(-1, 3))
def test_pad_packed_sequence(rnn, lengths, features, dtype, batch_first, padding, longer):
    """Our pack and torch's give the same."""
    x = [_draw((length, *features), dtype) + 100 * n for n, length in enumerate(lengths)]
    theirs = rnn.pack_sequence([_tensor(a) for a in x], enforce_sorted=False)
    ours = pack_sequence(x, enforce_sorted=False)
    total = None if longer < 0 else max(lengths) + longer
    expected = rnn.pad_packed_sequence(theirs, batch_first, padding, total)
    for pack in (ours, theirs):
        padded, got_lengths = pad_packed_sequence(pack, batch_first, padding, total)
        assert_same_bits(np.ascontiguousarray(padded), np.ascontiguousarray(expected[0]))
        assert_same_bits(got_lengths, expected[1].numpy())


@settings(deadline=None, max_examples=100)
@given(
    LENGTHS, FEATURES, KINDS, st.booleans(), st.sampled_from([0, -1]),
    st.sampled_from(["left", "right"]),
)  # fmt: skip
def test_pad_sequence(rnn, lengths, features, dtype, batch_first, padding, side):
    x = [_draw((length, *features), dtype) + 100 * n for n, length in enumerate(lengths)]
    got = pad_sequence(x, batch_first, padding, side)
    expected = rnn.pad_sequence([_tensor(a) for a in x], batch_first, padding, side)
    assert_same_bits(np.ascontiguousarray(got), np.ascontiguousarray(expected))


def test_an_empty_list_is_what_the_others_are():
    """Beside it tokens stay integers, and features keep their number and precision."""
    assert_same_bits(pad_sequence([[1, 2], []], True), np.array([[1, 2], [0, 0]]))
    features = np.ones((2, 3), np.float32)
    assert_same_bits(
        np.ascontiguousarray(pad_sequence([[], features], True)),
        np.stack([np.zeros_like(features), features]),
    )
    assert pad_sequence([[], []]).shape == (0, 2)


def test_sequences_of_different_types():
    """Side by side they take the type that holds all of them, in any order."""
    whole, half = np.array([1, 2]), np.array([0.5])
    assert_same_bits(pad_sequence([whole, half], True), np.array([[1.0, 2.0], [0.5, 0.0]]))
    assert_same_bits(pad_sequence([half, whole], True), np.array([[0.5, 0.0], [1.0, 2.0]]))
    pack = pack_sequence([whole, half])
    assert_same_bits(pack.data, np.array([1.0, 0.5, 2.0]))


@settings(deadline=None, max_examples=50)
@given(LENGTHS, FEATURES, KINDS)
def test_pack_sequence_and_back(rnn, lengths, features, dtype):
    x = [_draw((length, *features), dtype) + 100 * n for n, length in enumerate(lengths)]
    pack = pack_sequence(x, enforce_sorted=False)
    theirs = rnn.pack_sequence([_tensor(a) for a in x], enforce_sorted=False)
    for sequences in (unpack_sequence(pack), unpack_sequence(theirs)):
        for got, expected in zip(sequences, x, strict=True):
            assert_same_bits(np.ascontiguousarray(got), expected)
    by_length = sorted(x, key=len, reverse=True)
    _assert_same_pack(pack_sequence(by_length), rnn.pack_sequence([_tensor(a) for a in by_length]))


def test_tensors_are_taken(rnn):
    """Tensors of torch go in, and arrays come out."""
    x = _draw((4, 3, 2), "float32")
    expected = pack_padded_sequence(x, [4, 2, 1])
    got = pack_padded_sequence(_tensor(x), _tensor(np.array([4, 2, 1])))
    for a, b in zip(got[:2], expected[:2], strict=True):
        assert_same_bits(a, b)
    assert_same_bits(pad_sequence([_tensor(x[:, 0]), _tensor(x[:2, 1])])[:2, 1], x[:2, 1])


# ---- by hand --------------------------------------------------------------------------------


def test_by_hand():
    """Three sequences a, b, c have lengths 2, 4, 1, so the longest first are b, a, c."""
    x = np.array([[11, 12, 0, 0], [21, 22, 23, 24], [31, 0, 0, 0]])
    pack = pack_padded_sequence(x, [2, 4, 1], batch_first=True, enforce_sorted=False)
    assert pack.data.tolist() == [21, 11, 31, 22, 12, 23, 24]
    assert pack.batch_sizes.tolist() == [3, 2, 1, 1]
    assert pack.sorted_indices.tolist() == [1, 0, 2]
    assert pack.unsorted_indices.tolist() == [1, 0, 2]
    padded, lengths = pad_packed_sequence(pack, batch_first=True, padding_value=-1, total_length=5)
    assert padded.tolist() == [[11, 12, -1, -1, -1], [21, 22, 23, 24, -1], [31, -1, -1, -1, -1]]
    assert lengths.tolist() == [2, 4, 1]
    assert [s.tolist() for s in unpack_sequence(pack)] == [[11, 12], [21, 22, 23, 24], [31]]


def test_equal_lengths_keep_their_order():
    pack = pack_padded_sequence(_draw((2, 5), "int64"), [1, 2, 1, 2, 1], enforce_sorted=False)
    assert pack.sorted_indices.tolist() == [1, 3, 0, 2, 4]


@settings(deadline=None, max_examples=100)
@given(LENGTHS)
def test_lengths_and_batch_sizes_say_the_same(lengths):
    lengths = np.array(sorted(lengths, reverse=True))
    batch_sizes = batch_sizes_of(lengths)
    assert batch_sizes.tolist() == [int((lengths > t).sum()) for t in range(lengths[0])]
    assert batch_sizes.dtype == np.int64
    np.testing.assert_array_equal(lengths_of(batch_sizes), lengths)
    step, sequence = rows_of(np.arange(len(lengths)), batch_sizes)
    expected = [(t, n) for t in range(lengths[0]) for n in range(len(lengths)) if lengths[n] > t]
    assert list(zip(step.tolist(), sequence.tolist(), strict=True)) == expected


def test_packs_are_copies():
    x = _draw((3, 2), "float32")
    pack = pack_padded_sequence(x, [3, 3])
    pack.data[...] = 0
    assert x.all()


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_strides_do_not_matter(batch_first, strided):
    """Views, rows with odd strides and rows without features are taken."""
    x = _draw((4, 3, 2), "float32")
    given = x.swapaxes(0, 1) if batch_first else x
    expected = pack_padded_sequence(x, [4, 3, 1])
    got = pack_padded_sequence(given if strided else given.copy(), [4, 3, 1], batch_first)
    assert_same_bits(got.data, expected.data)
    data = np.repeat(got.data, 2, axis=0)[::2] if strided else got.data
    padded, _ = pad_packed_sequence(got._replace(data=data))
    assert_same_bits(padded[:, 0], x[:, 0])
    one = PackedSequence(data[::2][:1], np.array([1]))
    assert_same_bits(pad_packed_sequence(one)[0], x[:1, :1])
    nothing = pack_padded_sequence(x[:, :, :0], [4, 3, 1])
    assert nothing.data.shape == (8, 0) and pad_packed_sequence(nothing)[0].shape == (4, 3, 0)


def test_one_long_sequence_among_many_short_ones():
    """Memory is taken for real steps alone; padded, these would take 80 MB."""
    x = [np.full((20_000, 1), 7.0), *np.arange(499.0).reshape(-1, 1, 1)]
    tracemalloc.start()
    sequences = unpack_sequence(pack_sequence(x, enforce_sorted=False))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6
    for got, expected in zip(sequences, x, strict=True):
        assert_same_bits(got, expected)


def test_unpacked_sequences_own_their_memory():
    pack = pack_sequence([_draw((3, 2), "float32"), _draw((1, 2), "float32")])
    kept = pack.data.copy()
    for sequence in unpack_sequence(pack):
        assert sequence.base is None
        sequence[...] = 0
    assert_same_bits(pack.data, kept)


def test_either_order_is_enough():
    """sorted_indices and unsorted_indices say the same; a pack needs one of them."""
    x = [_draw((n, 2), "float32") + 100 * n for n in (1, 3, 2)]
    pack = pack_sequence(x, enforce_sorted=False)
    assert (pack.sorted_indices.tolist(), pack.unsorted_indices.tolist()) == ([1, 2, 0], [2, 0, 1])
    for name in ("sorted_indices", "unsorted_indices"):
        for got, expected in zip(unpack_sequence(pack._replace(**{name: None})), x, strict=True):
            assert_same_bits(got, expected)


# ---- errors ---------------------------------------------------------------------------------

X = _draw((4, 3, 2), "float32")
SORTED = (
    "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can "
    "pass `enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this "
    "requirement."
)


def _pack(data=X[:, 0], batch_sizes=(2, 1, 1), order=None, restore=None):
    return PackedSequence(data, np.array(batch_sizes), order, restore)


ERRORS = {
    "number_of_lengths": (lambda: pack_padded_sequence(X, [4, 2]), ValueError,
        "Expected `len(lengths)` to be equal to batch_size, but got 2 (batch_size=3)"),
    "length_zero": (lambda: pack_padded_sequence(X, [4, 2, 0]), ValueError,
        "Length of all samples has to be greater than 0, but found an element in 'lengths' that "
        "is <= 0: 0 at index 2"),
    "length_too_great": (lambda: pack_padded_sequence(X, [5, 3, 1]), ValueError,
        "Expected every length to be at most the input's 4 steps, but got 5 at index 0"),
    "lengths_of_floats": (lambda: pack_padded_sequence(X, [4.0, 3.0, 1.0]), ValueError,
        "lengths must hold integers, got dtype float64"),
    "unsorted": (lambda: pack_padded_sequence(X, [2, 4, 1]), ValueError, SORTED),
    "unsorted_sequences": (lambda: pack_sequence([X[:1, 0], X[:, 1]]), ValueError, SORTED),
    "too_few_dimensions": (lambda: pack_padded_sequence(X[:, 0, 0], [4]), ValueError,
        "Expected input to have at least 2 dimensions, got 1"),
    "no_sequences": (lambda: pack_padded_sequence(X[:, :0], []), ValueError,
        "Cannot pack empty tensors: the batch has no sequences"),
    "masked": (lambda: pack_padded_sequence(np.ma.masked_less(X, 3), [4, 3, 1]), TypeError,
        "input is a masked array, whose mask would be lost. Pass input.filled(...), or lengths= "
        "for sequences of different lengths"),
    "total_length": (lambda: pad_packed_sequence(_pack(), total_length=2), ValueError,
        "Expected total_length to be at least the length of the longest sequence in input, but "
        "got total_length=2 and max sequence length being 3"),
    "total_length_zero": (lambda: pad_packed_sequence(_pack(), total_length=0), ValueError,
        "Expected total_length to be at least the length of the longest sequence in input, but "
        "got total_length=0 and max sequence length being 3"),
    "rows": (lambda: pad_packed_sequence(_pack(batch_sizes=[2, 1])), ValueError,
        "Expected data of a PackedSequence to have 3 rows, the sum of its batch_sizes, got shape "
        "(4, 2)"),
    "increasing": (lambda: pad_packed_sequence(_pack(batch_sizes=[1, 2, 1])), ValueError,
        "batch_sizes of a PackedSequence must be positive and not increasing, got [1, 2, 1]"),
    "fallen_and_risen": (lambda: pad_packed_sequence(_pack(batch_sizes=[2, 1, 2])), ValueError,
        "batch_sizes of a PackedSequence must be positive and not increasing, got [2, 1, 2]"),
    "not_positive": (lambda: pad_packed_sequence(_pack(batch_sizes=[4, 0])), ValueError,
        "batch_sizes of a PackedSequence must be positive and not increasing, got [4, 0]"),
    "none_at_all": (lambda: pad_packed_sequence(_pack(X[:0, 0], np.zeros(0, int))), ValueError,
        "batch_sizes of a PackedSequence must be positive and not increasing, got []"),
    "order": (lambda: pad_packed_sequence(_pack(order=np.array([0, 2]))), ValueError,
        "sorted_indices of a PackedSequence must be a permutation of 0..1, got [0, 2]"),
    "order_of_floats": (lambda: pad_packed_sequence(_pack(order=np.array([0.0, 1.0]))), ValueError,
        "sorted_indices of a PackedSequence must hold integers, got dtype float64"),
    "order_too_short": (lambda: pad_packed_sequence(_pack(order=np.array([0]))), ValueError,
        "sorted_indices of a PackedSequence must be a permutation of 0..1, got [0]"),
    "restore": (lambda: pad_packed_sequence(_pack(restore=np.array([1, 1]))), ValueError,
        "unsorted_indices of a PackedSequence must be a permutation of 0..1, got [1, 1]"),
    "contradiction": (
        lambda: unpack_sequence(_pack(order=np.array([1, 0]), restore=np.array([0, 1]))),
        ValueError, "unsorted_indices of a PackedSequence must undo its sorted_indices: expected "
        "[1, 0], got [0, 1]"),
    "not_a_pack": (lambda: pad_packed_sequence(X), TypeError,
        "Expected a PackedSequence, got ndarray"),
    "not_a_pack_either": (lambda: unpack_sequence([X[:, 0]]), TypeError,
        "Expected a PackedSequence, got list"),
    "empty_sequence": (lambda: pack_sequence([X[:, 0], X[:0, 0]]), ValueError,
        "Length of all samples has to be greater than 0, but found an element in 'lengths' that "
        "is <= 0: 0 at index 1"),
    "empty_list": (lambda: pad_sequence([]), ValueError,
        "Expected a list of at least one sequence, got an empty one"),
    "features": (lambda: pad_sequence([X[:, 0], X[:, 0, :1]]), ValueError,
        "Expected sequences of shape (length, ...) that agree after the first dimension, got "
        "[(4, 2), (4, 1)]"),
    "numbers": (lambda: pad_sequence([1, 2]), ValueError,
        "Expected sequences of shape (length, ...) that agree after the first dimension, got "
        "[(), ()]"),
    "side": (lambda: pad_sequence([X[:, 0]], padding_side="top"), ValueError,
        "padding_side should be either 'right' or 'left', but got top"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, kind, sentence = ERRORS[name]
    raises(call, kind, sentence)


@pytest.mark.parametrize("name", ["number_of_lengths", "length_zero", "unsorted"])
def test_errors_are_torchs(rnn, name):
    _, _, sentence = ERRORS[name]
    lengths = {"number_of_lengths": [4, 2], "length_zero": [4, 2, 0], "unsorted": [2, 4, 1]}[name]
    with pytest.raises((RuntimeError, ValueError)) as caught:
        rnn.pack_padded_sequence(_tensor(X), lengths)
    # torch goes on to speak of ONNX, ours of what was got
    theirs = str(caught.value)
    assert theirs.startswith(sentence.rstrip(".")) or sentence.startswith(theirs)


def test_a_malformed_pack_does_not_reach_the_layer():
    lstm = fastlstm.LSTM(2, 3)
    with pytest.raises(ValueError, match="must be positive and not increasing"):
        lstm(_pack(batch_sizes=[1, 2, 1]))
    with pytest.raises(ValueError, match="must be a permutation"):
        lstm(_pack(order=np.array([1, 1])))
