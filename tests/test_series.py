"""Windows, parts in time and standardisation: by hand, against naive loops and against NumPy."""

import tracemalloc

import numpy as np
import pytest
from errors import raises
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_same_bits
from values import make_series

from fastlstm.training import (
    Arrays,
    Batch,
    Sequences,
    Standardizer,
    Windows,
    split_by_time,
    windows,
)

# ---- windows --------------------------------------------------------------------------------


def _naive(many, window, horizon, inputs, targets, lead, stride):
    """(x, y, series, first target's step) of every sample, value by value, from the definition."""
    samples = []
    for number, series in enumerate(many):
        for start in range(0, len(series), stride):
            ins = [start + k for k in range(window)]
            outs = [ins[-1] + lead + k for k in range(horizon)]
            if max(ins + outs) < len(series):
                x = [[series[t, f] for f in inputs] for t in ins]
                y = [[series[t, f] for f in targets] for t in outs]
                samples.append((x, y, number, outs[0]))
    return samples


def _assert_windows(make, many, window, horizon, inputs, targets, lead, stride):
    """Assert that make(...) has the samples of `_naive`, bit for bit, and knows where they lie."""
    options = {"inputs": inputs, "targets": targets, "lead": lead, "stride": stride}
    expected = _naive(many, window, horizon, **options)
    data = make(many, window, horizon, **options, dtype="float64")
    assert len(data) == len(expected)
    order = np.random.default_rng(0).permutation(len(data))
    batch = data[order]
    assert_same_bits(batch.x, np.array([expected[k][0] for k in order]))
    assert_same_bits(batch.y, np.array([expected[k][1] for k in order]))
    assert batch.x.flags.c_contiguous and batch.y.flags.c_contiguous
    assert set(batch[2:]) == {None}
    number, first = data.where(order)
    assert number.tolist() == [expected[k][2] for k in order]
    assert first.tolist() == [expected[k][3] for k in order]


@st.composite
def _cases(draw):
    """Arguments of `_assert_windows` with at least one sample; some series may be too short."""
    window, horizon = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    lead = draw(st.integers(1 - window, 4))
    span = max(window, window - 1 + lead + horizon)
    lengths = draw(st.lists(st.integers(0, 2 * span + 3), max_size=4))
    lengths.insert(draw(st.integers(0, len(lengths))), span + draw(st.integers(0, 9)))
    features = draw(st.integers(1, 3))
    columns = st.lists(st.integers(0, features - 1), min_size=1, max_size=3)
    many = [make_series(T, features, seed) for seed, T in enumerate(lengths)]
    stride = draw(st.integers(1, 5))
    return many, window, horizon, draw(columns), draw(columns), lead, stride


@given(_cases())
@settings(max_examples=200, deadline=None)
def test_windows_are_the_naive_loops(case):
    _assert_windows(Windows, *case)


def test_windows_by_hand():
    series = np.array([[0, 10], [1, 11], [2, 12], [3, 13], [4, 14], [5, 15]])
    batch = Windows(series, 2, horizon=2, targets=1, stride=2)[:]
    assert_same_bits(batch.x, np.array([[[0, 10], [1, 11]], [[2, 12], [3, 13]]], np.float32))
    assert_same_bits(batch.y, np.array([[[12], [13]], [[14], [15]]], np.float32))


def test_windows_of_many_series_by_hand():
    data = Windows([np.arange(3), np.arange(1), 10 + np.arange(4)], 2)
    assert data[:].x[..., 0].tolist() == [[0, 1], [10, 11], [11, 12]]
    assert data[:].y[..., 0].tolist() == [[2], [12], [13]]
    assert [part.tolist() for part in data.where([0, 2])] == [[0, 2], [2, 3]]


@pytest.mark.parametrize(
    "lead, horizon, expected",
    [
        (3, 1, [[5], [6], [7]]),  # three steps ahead
        (0, 1, [[2], [3], [4], [5], [6], [7]]),  # at the last step of the inputs
        (-2, 3, [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6], [5, 6, 7]]),  # at all
    ],
)
def test_lead_by_hand(lead, horizon, expected):
    data = Windows(np.arange(8), 3, horizon, inputs=0, lead=lead)
    assert data[:].y[..., 0].tolist() == expected
    assert data[:].x[0, :, 0].tolist() == [0, 1, 2]


class _Shifted(Windows):
    """Inputs one step late."""

    def __getitem__(self, indices):
        late = Windows.__new__(Windows)
        late.__dict__.update(self.__dict__, series=[np.roll(s, -1, axis=0) for s in self.series])
        return Batch(late.__class__.__getitem__(late, indices).x, super().__getitem__(indices).y)


def _horizon_too_far(*args, lead, **options):
    return Windows(*args, lead=lead + 1, **options)


def _horizon_too_near(*args, lead, **options):
    return Windows(*args, lead=lead - 1, **options)


def _across(many, *args, **options):
    return Windows(np.concatenate(many), *args, **options)


def _without_the_last(many, *args, **options):
    return Windows([series[:-1] for series in many], *args, **options)


def _stride_forgotten(*args, stride, **options):
    return Windows(*args, stride=1, **options)


def _columns_swapped(*args, inputs, **options):
    return Windows(*args, inputs=inputs[::-1], **options)


@pytest.mark.parametrize(
    "broken",
    [
        _Shifted, _horizon_too_far, _horizon_too_near, _across, _without_the_last,
        _stride_forgotten, _columns_swapped,
    ],
)  # fmt: skip
def test_broken_windows_are_rejected(broken):
    case = [make_series(15, 3), make_series(18, 3)], 4, 2, [0, 2], [1], 1, 3
    _assert_windows(Windows, *case)
    with pytest.raises(AssertionError):
        _assert_windows(broken, *case)


def test_flat_targets_are_what_a_linear_gives():
    data = Windows(np.arange(12).reshape(6, 2), 2, 3, flat=True)
    assert data[:].y.tolist() == [[4, 5, 6, 7, 8, 9], [6, 7, 8, 9, 10, 11]]


def test_cube_is_all_windows():
    series = make_series(30, 3)
    options = {
        "inputs": [0, 2],
        "targets": 1,
        "lead": 2,
        "stride": 2,
        "flat": True,
        "dtype": "float64",
    }
    x, y = windows(series, 5, 3, **options)
    expected = Windows(series, 5, 3, **options)[:]
    assert_same_bits(x, expected.x)
    assert_same_bits(y, expected.y)


def test_windows_take_dtypes_and_layouts(dtype):
    whole = np.arange(40).reshape(10, 4)
    expected = Windows(whole.astype(dtype), 3, dtype=dtype)[:]
    for series in (whole, whole.astype("f4"), np.asfortranarray(whole), whole.astype(">f8")):
        batch = Windows(series, 3, dtype=dtype)[:]
        assert_same_bits(batch.x, expected.x)
        assert_same_bits(batch.y, expected.y)
    assert expected.x.dtype == dtype


def test_windows_standardise_before_they_round():
    """Rounded to float32 first, a series far from 0 would lose all its digits."""
    series = 1e9 + make_series(50, 2)
    standardizer = Standardizer.fit(series)
    data = Windows(series, 4, 2, inputs=[0, 1], targets=[1], standardizer=standardizer)
    whole = standardizer.transform(series).astype(np.float32)
    expected = Windows(whole, 4, 2, inputs=[0, 1], targets=[1])
    assert_same_bits(data[:].x, expected[:].x)
    assert_same_bits(data[:].y, expected[:].y)
    assert np.unique(data[:].x).size > 90


def test_windows_take_weights_of_steps_and_of_samples():
    many = [np.arange(7), 10 + np.arange(5)]
    steps = [np.arange(7) / 10, np.arange(5.0)]
    data = Windows(many, 3, 2, weights=steps)
    assert data[[0, 2, 3]].weights.tolist() == [[0.3, 0.4], [0.5, 0.6], [3, 4]]
    for one in (steps[0], steps[0].tolist()):
        assert Windows(many[0], 3, 2, weights=one)[[1]].weights.tolist() == [[0.4, 0.5]]
    assert Windows(many, 3, 2, weights=np.arange(4))[[3, 1]].weights.tolist() == [3, 1]
    pairs = np.stack([many[0], many[0]], axis=1)
    flat = Windows(pairs, 3, 2, weights=steps[0], flat=True)[[0]]
    assert flat.weights.tolist() == [[0.3, 0.3, 0.4, 0.4]] and flat.y.tolist() == [[3, 3, 4, 4]]
    for wrong in (steps[::-1], steps[:1], np.ones(5), [np.ones((7, 1)), np.ones(5)]):
        with pytest.raises(ValueError, match=r"shape \[\(7,\), \(5,\)\], one a .* or \(4,\), one"):
            Windows(many, 3, 2, weights=wrong)


@pytest.mark.parametrize("flat", [False, True])
def test_windows_mask_targets_that_are_missing(flat):
    series = make_series(8, 2)
    series[5, 0] = series[6, 1] = np.nan
    options = {"inputs": [0], "targets": [0, 1], "flat": flat}
    batch = Windows(series, 3, 2, mask_missing=True, **options)[[2, 3]]
    expected = [[[False, True], [True, False]], [[True, False], [True, True]]]
    assert batch.mask.tolist() == np.reshape(expected, batch.y.shape).tolist()
    np.testing.assert_array_equal(~np.isnan(batch.y), batch.mask)
    assert Windows(series, 3, 2, **options)[[2, 3]].mask is None


def test_windows_refuse():
    series = np.zeros((9, 2))
    raises(
        lambda: Windows([series, series[:3]], 8, 3),
        ValueError,
        "Expected a series of at least 11 steps for window=8, horizon=3 and lead=1, got 9 at most",
    )
    assert len(Windows(series, 8, 1)) == 1
    raises(
        lambda: Windows(series, 3, targets=0, lead=0),
        ValueError,
        "With lead=0 targets are at steps of the inputs: name the inputs, so that no target is "
        "among them by mistake",
    )
    raises(lambda: Windows(series, 3, lead=-3), ValueError, "lead must be at least -2, got -3")
    raises(lambda: Windows(series, 0), ValueError, "window must be greater than zero, got 0")
    raises(lambda: Windows(series, 3, 0), ValueError, "horizon must be greater than zero, got 0")
    raises(
        lambda: Windows(series, 3, stride=1.0),
        TypeError,
        "stride should be of type int, got: float",
    )
    raises(
        lambda: Windows(series, 3, dtype="int32"),
        ValueError,
        'dtype must be "float32" or "float64", got \'int32\'',
    )
    raises(
        lambda: Windows(series, 3, targets=[0, 2]),
        ValueError,
        "targets: Expected a column from 0 to 1, got 2",
    )
    raises(
        lambda: Windows(series, 3, targets="flow"),
        ValueError,
        "targets: only the columns of a DataFrame have names, got 'flow'; give positions from 0 "
        "to 1",
    )
    raises(
        lambda: Windows(series, 3, inputs=[]),
        ValueError,
        "inputs must be at least one column, got none",
    )
    raises(
        lambda: Windows([series, series[:, :1]], 3),
        ValueError,
        "Expected all series to have the same columns, got 2 in series 0 and 1 in series 1",
    )
    raises(
        lambda: Windows([1.0, 2.0], 1),
        ValueError,
        "Expected series of shape (T, F) or (T,), got () (a list is a list of series)",
    )
    raises(
        lambda: Windows(np.zeros((9, 2, 2)), 3),
        ValueError,
        "Expected series of shape (T, F) or (T,), got (9, 2, 2)",
    )
    raises(lambda: Windows([], 3), ValueError, "Expected at least one series, got an empty list")
    raises(
        lambda: Windows(series.astype(complex), 3),
        ValueError,
        "Expected series of numbers, got dtype complex128",
    )
    raises(
        lambda: Windows(series, 3, standardizer=Standardizer([0], [1])),
        ValueError,
        "Expected a standardizer of 2 columns, as the series has, got one of 1",
    )
    raises(
        lambda: Windows(series, 3, standardizer="yes"),
        TypeError,
        "Expected a Standardizer, got str",
    )


@pytest.mark.parametrize(
    "make", [Windows, lambda s, _: Arrays(s, s), lambda s, _: Sequences([s, s], [0, 1])]
)
def test_indices_are_checked(make):
    data = make(np.zeros(12), 3)
    end = len(data)
    for wrong, kind in [([0, end], IndexError), ([-1], IndexError), (0, ValueError)]:
        with pytest.raises(kind, match="(?i)expected .*ind"):
            data[wrong]
    with pytest.raises(ValueError, match="indices of samples must hold integers, got dtype float"):
        data[[0.0]]


# ---- pandas ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pandas():
    return pytest.importorskip("pandas", reason="DataFrames need pandas")


def _frame(pandas):
    hours = pandas.date_range("2024-01-01", periods=20, freq="h")
    return pandas.DataFrame(
        {"rain": np.arange(20.0), "snow": np.arange(20) % 3, "flow": -np.arange(20.0)}, hours
    )


def test_frames_have_names(pandas):
    frame = _frame(pandas)
    data = Windows(frame, 4, 2, inputs=["snow", "rain"], targets="flow")
    assert (data.inputs, data.targets) == ([1, 0], [2])
    expected = Windows(frame.to_numpy(), 4, 2, inputs=[1, 0], targets=[2])
    assert_same_bits(data[:].x, expected[:].x)
    assert_same_bits(data[:].y, expected[:].y)


def test_series_of_pandas_are_one_feature(pandas):
    flow = _frame(pandas)["flow"]
    data = Windows([flow, flow[:9]], 4, targets="flow")
    expected = Windows([flow.to_numpy(), flow[:9].to_numpy()], 4)
    assert_same_bits(data[:].x, expected[:].x)


def test_frames_of_pandas_own_types(pandas):
    frame = _frame(pandas).astype({"snow": "Int64", "rain": "Float64"})
    frame.iloc[3, 1] = pandas.NA
    x = Windows(frame, 20 - 1)[:].x[0]
    expected = _frame(pandas).to_numpy(np.float32)[:-1]
    expected[3, 1] = np.nan
    np.testing.assert_array_equal(x, expected)
    raises(
        lambda: Standardizer.fit(frame),
        ValueError,
        "Expected finite values, got 1 that are not, the first nan at step 3 of column 1",
    )


def test_frames_are_split_by_position(pandas):
    frame = _frame(pandas).set_index(np.arange(20.0) / 10)  # labels would lead elsewhere
    train, validation = split_by_time(frame, overlap=3)
    pandas.testing.assert_frame_equal(train, frame.iloc[:16])
    pandas.testing.assert_frame_equal(validation, frame.iloc[13:])


def test_frames_refuse(pandas):
    frame = _frame(pandas)
    raises(
        lambda: Windows(frame.assign(name="a", day=frame.index), 3),
        ValueError,
        "Expected columns of numbers, got others in ['name', 'day']: leave them out, or make them "
        "the index",
    )
    raises(
        lambda: Windows(frame, 3, targets="Flow"),
        ValueError,
        "targets: Expected one of the columns ['rain', 'snow', 'flow'], got 'Flow'",
    )
    with pytest.raises(ValueError, match=r"same columns, got \['rain', .*'snow'\] in series 1"):
        Windows([frame, frame[["rain", "flow", "snow"]]], 3)
    with pytest.raises(ValueError, match="one of the columns .* got 'flow'"):
        Windows(frame.rename(columns={"snow": "flow"}), 3, targets="flow")


# ---- parts in time --------------------------------------------------------------------------


def test_split_by_hand():
    train, validation, test = split_by_time(np.arange(10), (0.5, 0.3, 0.2), overlap=2)
    assert train.tolist() == [0, 1, 2, 3, 4]
    assert validation.tolist() == [3, 4, 5, 6, 7]
    assert test.tolist() == [6, 7, 8, 9]


def test_split_of_many_cuts_each():
    a, b = make_series(10, 2), make_series(20, 2)
    train, validation = split_by_time([a, b])
    assert [len(part) for part in train] == [8, 16]
    for part, expected in zip(validation, (a[8:], b[16:]), strict=True):
        assert_same_bits(part, expected)
        assert part.base is not None, "a view"


def _targets_of(part, window, horizon, lead):
    """The steps that are targets of a part of np.arange(T), and those that are inputs."""
    batch = Windows(part, window, horizon, inputs=0, lead=lead, dtype="float64")[:]
    return set(batch.y.ravel().tolist()), set(batch.x.ravel().tolist())


def _assert_no_leak(split, T, fractions, window, horizon, lead):
    """Assert that no step is a target in two parts, and none of a later part is seen earlier."""
    overlap = window - 1 + lead
    parts = split(np.arange(T), fractions, overlap=overlap)
    seen = [_targets_of(part, window, horizon, lead) for part in parts]
    bounds = np.rint(np.cumsum(fractions) * T)
    for (earlier, inputs), (later, _), bound in zip(seen, seen[1:], bounds, strict=False):
        assert max(earlier | inputs) < bound <= min(later)
        assert min(later) == bound, "a target was lost"


@given(st.integers(1, 6), st.integers(1, 4), st.integers(-2, 4), st.integers(60, 90))
@settings(max_examples=60, deadline=None)
def test_validation_targets_are_in_no_training_window(window, horizon, lead, T):
    _assert_no_leak(split_by_time, T, (0.5, 0.25, 0.25), window, horizon, max(lead, 1 - window))


def _one_more(series, fractions, overlap):
    return split_by_time(series, fractions, overlap=overlap + 1)


def _training_too_long(series, fractions, overlap):
    first, *rest = split_by_time(series, fractions, overlap=overlap)
    return series[: len(first) + 1], *rest


def _at_random(series, fractions, overlap):
    return split_by_time(np.random.default_rng(0).permutation(series), fractions, overlap=overlap)


def _no_overlap(series, fractions, overlap):
    return split_by_time(series, fractions)


@pytest.mark.parametrize("broken", [_one_more, _training_too_long, _at_random, _no_overlap])
def test_leaking_splits_are_rejected(broken):
    case = 80, (0.5, 0.25, 0.25), 5, 2, 1
    _assert_no_leak(split_by_time, *case)
    with pytest.raises(AssertionError):
        _assert_no_leak(broken, *case)


def test_split_refuses():
    series = np.arange(10)
    for wrong in [(0.8, 0.3), (1.2, -0.2), (1.0, 0.0), 0.8, (np.nan, 1)]:
        raises(
            lambda wrong=wrong: split_by_time(series, wrong),
            ValueError,
            f"Expected positive fractions that sum to 1, got {wrong!r}",
        )
    raises(
        lambda: split_by_time(series, (0.96, 0.04)),
        ValueError,
        "Expected enough steps for parts of (0.96, 0.04), got a series of 10",
    )
    raises(
        lambda: split_by_time([1, 2, 3]),
        TypeError,
        "Expected a series, or a list of series, got int: a list is a list of series, one series "
        "is an array",
    )
    raises(
        lambda: split_by_time(series, overlap=-1), ValueError, "overlap must be at least 0, got -1"
    )
    raises(lambda: split_by_time([]), ValueError, "Expected at least one series, got an empty list")


# ---- standardisation ------------------------------------------------------------------------


def _assert_standard(standardizer, rows):
    """Assert mean and scale against NumPy in long double.

    A sum of n values is off by n eps times their mean size, here as seen from the first row, and so
    is the mean of their squares; the rest is some roundings. On a platform whose long double is a
    double the reference is off by as much again.
    """
    rows = rows.astype(np.longdouble)
    from_first = np.abs(rows - rows[0]).mean(axis=0) + np.abs(rows).max(axis=0)
    n = 2 * (len(rows) + 8) * np.finfo(float).eps
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    assert (np.abs(standardizer.mean - mean) <= n * from_first).all()
    assert (np.abs(standardizer.scale - scale) <= n * scale).all()


@pytest.mark.parametrize("chunk", [2, 7, 64, 2**17])
@pytest.mark.parametrize("kind", ["f4", "f8", "i2", ">f8"])
def test_standardizer_is_numpys(monkeypatch, kind, chunk):
    monkeypatch.setattr("fastlstm.training.standardizer._CHUNK", chunk)
    many = [(1000 + 5 * make_series(T, 3, T)).astype(kind) for T in (50, 1, 0, 33)]
    _assert_standard(Standardizer.fit(many), np.concatenate(many))
    _assert_standard(Standardizer.fit(many[0]), many[0])
    _assert_standard(Standardizer.fit(many[0][:, 0]), many[0][:, :1])


def test_standardizer_far_from_zero():
    """Sums of squares would lose all digits, because 1e9 ** 2 * eps is 200."""
    rows = 1e9 + make_series(1000, 2)
    _assert_standard(Standardizer.fit(rows), rows)
    first = np.concatenate([[[0.0, 5.0]], rows])  # the origin is an outlier
    assert np.allclose(Standardizer.fit(first).scale, first.std(axis=0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("broken", ["one_degree_less", "last_row_missing", "variance"])
def test_broken_standardizers_are_rejected(broken):
    rows = make_series(300, 2)
    mean, scale = {
        "one_degree_less": (rows.mean(0), rows.std(0, ddof=1)),
        "last_row_missing": (rows[:-1].mean(0), rows[:-1].std(0)),
        "variance": (rows.mean(0), rows.var(0)),
    }[broken]
    _assert_standard(Standardizer(rows.mean(0), rows.std(0)), rows)
    with pytest.raises(AssertionError):
        _assert_standard(Standardizer(mean, scale), rows)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e300, 3.3e-5])
def test_constant_columns_have_scale_one(monkeypatch, value):
    monkeypatch.setattr("fastlstm.training.standardizer._CHUNK", 14)
    standardizer = Standardizer.fit(np.stack([np.full(1000, value), np.arange(1000.0)], 1))
    assert (standardizer.mean[0], standardizer.scale[0]) == (value, 1)
    z = standardizer.transform([[value, 0.0], [value, 999.0]])
    assert z[:, 0].tolist() == [0, 0] and np.isfinite(z).all()


def test_transform_by_hand_and_back(dtype):
    standardizer = Standardizer([1, 10, 100], [2, 4, 8])
    x = np.array([[3, 6, 100], [1, 10, 104]], dtype)
    z = standardizer.transform(x)
    assert_same_bits(z, np.array([[1, -1, 0], [0, 0, 0.5]], dtype))
    assert_same_bits(standardizer.inverse(z), x)
    assert_same_bits(standardizer.inverse(z[:, [2, 0]], [2, 0]), x[:, [2, 0]])
    assert_same_bits(standardizer.transform(x[:, [1]], columns=[1]), z[:, [1]])
    assert_same_bits(standardizer.transform(x[:, 2], columns=2), z[:, 2])
    cube = np.stack([x, x, x])
    assert_same_bits(standardizer.transform(cube), np.stack([z, z, z]))
    assert_same_bits(standardizer.transform(x.astype(int)), z.astype(float))


def test_standardizer_travels(tmp_path):
    standardizer = Standardizer.fit(make_series(40, 3))
    np.savez(tmp_path / "model.npz", **standardizer.state_dict())
    with np.load(tmp_path / "model.npz") as state:
        again = Standardizer(**state)
    assert_same_bits(again.mean, standardizer.mean)
    assert_same_bits(again.scale, standardizer.scale)
    standardizer.state_dict()["mean"][:] = 0
    assert_same_bits(again.mean, standardizer.mean)


def test_standardizer_refuses(monkeypatch):
    monkeypatch.setattr("fastlstm.training.standardizer._CHUNK", 6)
    rows = make_series(20, 3)
    rows[[7, 7, 12], [1, 2, 0]] = np.inf, np.nan, np.nan
    fault = "Expected finite values, got 3 that are not, the first inf at step 7 of column 1"
    raises(lambda: Standardizer.fit(rows), ValueError, fault)
    raises(lambda: Standardizer.fit([rows[:5], rows]), ValueError, f"{fault} of series 1")
    raises(
        lambda: Standardizer.fit(np.array([0, 1e200])),
        ValueError,
        "Expected values whose squares are finite, got larger ones",
    )
    raises(
        lambda: Standardizer.fit(np.zeros((0, 2))),
        ValueError,
        "Expected series with at least one step, got none",
    )
    raises(
        lambda: Standardizer([0, 0], [1]),
        ValueError,
        "Expected mean and scale of one shape (F,), got (2,) and (1,)",
    )
    for mean, scale in [(0.0, 0.0), (0.0, -1.0), (np.nan, 1.0), (0.0, np.inf)]:
        raises(
            lambda mean=mean, scale=scale: Standardizer([mean], [scale]),
            ValueError,
            f"Expected finite means and finite positive scales, got [{mean}] and [{scale}]",
        )
    standardizer = Standardizer([0, 0], [1, 1])
    for call in (standardizer.transform, standardizer.inverse):
        for wrong in (np.zeros((4, 3)), np.zeros(3), np.zeros((2, 1))):
            raises(
                lambda call=call, wrong=wrong: call(wrong),
                ValueError,
                f"Expected values of shape (..., 2), one for each column, got {wrong.shape}",
            )
        raises(
            lambda call=call: call(np.zeros((4, 1)), [2]),
            ValueError,
            "columns: Expected a column from 0 to 1, got 2",
        )


# ---- memory-mapped --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A file of 32 MB, 2M x 4, mapped into memory."""
    path = tmp_path_factory.mktemp("mapped") / "series.npy"
    whole = np.lib.format.open_memmap(path, "w+", "float32", (2_000_000, 4))
    whole[:] = np.arange(len(whole) * 4).reshape(-1, 4) % 1009
    whole.flush()
    return np.load(path, mmap_mode="r")


def _peak(call):
    call()  # what is imported when it is used first does not count
    tracemalloc.start()
    try:
        result = call()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_windows_of_a_mapped_file_take_a_batchs_memory(mapped):
    """All windows would take 1.5 GB and the file 32 MB; a batch and its copies take some 50 KB."""

    def some():
        train, _ = split_by_time(mapped)
        data = Windows(train, 48, 12, targets=[1, 3], standardizer=Standardizer([0] * 4, [1] * 4))
        return data[[5, len(data) - 1] * 32]

    batch, peak = _peak(some)
    assert peak < 1e6
    assert_same_bits(batch.x[0], mapped[5:53])
    assert_same_bits(batch.y[1], mapped[1_599_988:1_600_000, [1, 3]])
    assert _peak(lambda: Windows(np.array(mapped), 48))[1] > 3e7, "the measure sees copies"


def test_standardizer_reads_a_mapped_file_in_pieces(mapped):
    standardizer, peak = _peak(lambda: Standardizer.fit(mapped))
    assert peak < 5e6  # some arrays of 1 MB; all of it in float64 would be 64 MB
    expected = np.mean(mapped, axis=0, dtype=float), np.std(mapped, axis=0, dtype=float)
    np.testing.assert_allclose(standardizer.mean, expected[0], rtol=1e-12)
    np.testing.assert_allclose(standardizer.scale, expected[1], rtol=1e-12)


@pytest.mark.parametrize("view", [slice(None), slice(None, None, -1), slice(None, None, 2)])
def test_arrays_from_a_mapped_file_are_read_by_batch(mapped, view):
    """However its numbers lie."""
    rows, columns = mapped[view], mapped[view, 1:3]
    (batch,), peak = _peak(lambda: [Arrays(rows, columns)[[1, 999_999]]])
    assert peak < 1e6
    assert_same_bits(batch.x, rows[[1, 999_999]])
    assert_same_bits(batch.y, columns[[1, 999_999]])
