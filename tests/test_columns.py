"""Columns with names: compared where they are known, and numbers or refused by name."""

import datetime

import numpy as np
import pytest
from support import assert_same_bits

import fastlstm
from fastlstm.training import Arrays, Sequences, Standardizer, Windows, split_by_time

VALUES = np.random.default_rng(0).normal([10, -200], [2, 50], size=(40, 2))


class Column:
    """One column of a table that is neither pandas' nor polars', as these show themselves."""

    def __init__(self, name, values):
        self.name, self.values = name, values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)

    def to_frame(self):
        return Table({self.name: self.values})


class Table:
    """Columns by name, as polars has them: times among numbers become numbers as a whole."""

    def __init__(self, columns):
        self.columns, self._columns = list(columns), columns

    def __len__(self):
        return len(self._columns[self.columns[0]])

    def __getitem__(self, names):
        if isinstance(names, str):
            return Column(names, self._columns[names])
        return Table({name: self._columns[name] for name in names})

    def __array__(self, dtype=None, copy=None):
        return np.stack([np.asarray(c).astype(float) for c in self._columns.values()], axis=1)


def pandas_table(columns):
    pandas = pytest.importorskip("pandas", reason="DataFrames need pandas")
    return pandas.DataFrame(columns)


def polars_table(columns):
    polars = pytest.importorskip("polars", reason="its DataFrames need polars")
    return polars.DataFrame(columns)


def pyarrow_table(columns):
    pyarrow = pytest.importorskip("pyarrow", reason="its tables need pyarrow")
    return pyarrow.table(columns)


@pytest.fixture(params=[Table, pandas_table, polars_table, pyarrow_table])
def table(request):
    """Make a table of columns by name."""
    return request.param


def named(table, *names):
    return table({name: VALUES[:, ["load", "temp"].index(name)] for name in names})


# ---- names ----------------------------------------------------------------------------------


def test_columns_in_another_order_are_refused(table):
    standardizer = Standardizer.fit(named(table, "load", "temp"))
    assert standardizer.names == ["load", "temp"]
    swapped = named(table, "temp", "load")
    sentence = (
        r"^Expected the columns of the standardizer, \['load', 'temp'\], in this order, got "
        r"\['temp', 'load'\]$"
    )
    for call in (
        lambda: Windows(swapped, 3, standardizer=standardizer),
        lambda: standardizer.transform(swapped),
        lambda: standardizer.inverse(swapped),
        lambda: standardizer.transform(swapped, columns=["load", "temp"]),
        lambda: Sequences([swapped, swapped], [0, 1], standardizer=standardizer),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()
    expected = (VALUES - VALUES.mean(0)) / VALUES.std(0)
    z = standardizer.transform(swapped, columns=["temp", "load"])
    np.testing.assert_allclose(z, expected[:, ::-1], rtol=1e-12)
    x = Windows(named(table, "load", "temp"), 3, standardizer=standardizer, dtype="float64")[:1].x
    np.testing.assert_allclose(x[0], expected[:3], rtol=1e-12)


def test_other_names_are_refused(table):
    standardizer = Standardizer.fit(named(table, "load", "temp"))
    other = table({"load": VALUES[:, 0], "wind": VALUES[:, 1]})
    with pytest.raises(ValueError, match=r": \['temp'\] missing, \['wind'\] unknown$"):
        Windows(other, 3, standardizer=standardizer)
    one = Standardizer.fit(named(table, "load"))
    with pytest.raises(ValueError, match=r"\['load'\], in this order, got \['temp'\]"):
        one.transform(named(table, "temp"))


def test_a_column_alone_has_a_name():
    pandas = pytest.importorskip("pandas", reason="DataFrames need pandas")
    kinds = (
        lambda name: named(Table, name)[name],
        lambda name: pandas.Series(VALUES[:, 0], name=name),
    )
    for make in kinds:
        standardizer = Standardizer.fit(make("load"))
        assert standardizer.names == ["load"]
        with pytest.raises(ValueError, match="in this order, got"):
            Windows(make("temp"), 3, standardizer=standardizer)


def test_a_series_is_a_column_by_its_name_or_a_row_by_its_labels():
    pandas = pytest.importorskip("pandas", reason="DataFrames need pandas")
    frame = pandas.DataFrame(VALUES, columns=["load", "temp"])
    standardizer = Standardizer.fit(frame)
    z = standardizer.transform(frame)
    assert_same_bits(standardizer.transform(frame["temp"], "temp"), z[:, 1])
    assert_same_bits(standardizer.transform(frame.iloc[3]), z[3])
    assert_same_bits(standardizer.transform(pandas.Series(VALUES[:, 1]), "temp"), z[:, 1])
    with pytest.raises(ValueError, match=r"\['temp'\], in this order, got \['load'\]"):
        standardizer.transform(frame["load"], "temp")
    with pytest.raises(ValueError, match=r"in this order, got \['temp', 'load'\]"):
        standardizer.transform(frame.iloc[3][["temp", "load"]])


def test_columns_without_names_fit_all():
    pandas = pytest.importorskip("pandas", reason="DataFrames need pandas")
    plain, numbered = VALUES, pandas.DataFrame(VALUES)
    frame = pandas.DataFrame(VALUES, columns=["load", "temp"])
    expected = Standardizer.fit(plain).transform(plain)
    for fitted in (plain, numbered, frame):
        for series in (plain, numbered, frame):
            z = Standardizer.fit(fitted).transform(series)
            np.testing.assert_allclose(z, expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"\[0, 1\], in this order, got \[1, 0\]"):
        Windows(numbered[[1, 0]], 3, standardizer=Standardizer.fit(numbered))


def test_names_travel(tmp_path):
    standardizer = Standardizer.fit(named(Table, "load", "temp"))
    np.savez(tmp_path / "s.npz", **standardizer.state_dict())
    with np.load(tmp_path / "s.npz") as state:
        again = Standardizer(**state)
    assert again.names == ["load", "temp"]
    with pytest.raises(ValueError, match="in this order"):
        again.transform(named(Table, "temp", "load"))
    with pytest.raises(ValueError, match=r"Expected names of 1 columns, got \['a', 'b'\]"):
        Standardizer([0.0], [1.0], ["a", "b"])


# ---- numbers --------------------------------------------------------------------------------

MOMENT = datetime.datetime(2020, 1, 1)


@pytest.mark.parametrize(
    "column",
    [[MOMENT] * 40, [MOMENT.date()] * 40, [MOMENT - MOMENT] * 40, ["a"] * 40, [MOMENT.time()] * 40],
    ids=["datetime", "date", "duration", "text", "time"],
)
def test_columns_that_are_no_numbers_are_named(table, column):
    if table is Table:
        column = np.array(column)
    frame = table({"load": VALUES[:, 0], "when": column})
    for call in (
        lambda: Windows(frame, 3),
        lambda: Standardizer.fit(frame),
        lambda: Standardizer([0, 0], [1, 1]).transform(frame),
        lambda: Arrays(frame, VALUES),
        lambda: Sequences([frame], [0]),
        lambda: fastlstm.LSTM(2, 3, dtype="float64")(frame),
    ):
        with pytest.raises(ValueError, match=r"columns of numbers, got others in \['when'\]: lea"):
            call()


@pytest.mark.parametrize("kind", ["M8[s]", "m8[s]"])
def test_arrays_of_times_are_no_numbers(kind):
    times = np.arange(10).astype(kind)
    for call in (
        lambda: Windows(times, 3),
        lambda: Arrays(times, times),
        lambda: Sequences([times], [0]),
        lambda: fastlstm.LSTM(1, 2)(times),
    ):
        with pytest.raises(TypeError, match=r"must be an array of numbers, got (time|date)"):
            call()


def test_pandas_own_types_are_numbers():
    pandas = pytest.importorskip("pandas", reason="DataFrames need pandas")
    frame = pandas.DataFrame({"i": [1, None, 3], "f": [0.5, 1.5, None], "b": [True, None, False]})
    frame = frame.astype({"i": "Int64", "f": "Float64", "b": "boolean"})
    expected = np.array([[1, 0.5, 1], [np.nan, 1.5, np.nan], [3, np.nan, 0]])
    np.testing.assert_array_equal(Arrays(frame, expected)[:].x, expected)
    np.testing.assert_array_equal(Windows(frame, 3, lead=0, inputs=[0, 1, 2])[:].x[0], expected)
    np.testing.assert_array_equal(Arrays(frame["i"], expected)[:].x, expected[:, 0])
    classes = pandas.Series([2, 0, 1], dtype="Int64")  # none is missing: they stay integers
    assert Arrays(expected, classes).y.dtype == np.int64
    assert Sequences(list(expected), classes)[:].y.dtype == np.int64
    for name, others in {"category": "category", "text": object, "words": "string"}.items():
        frame[name] = pandas.Series([1, 2, 3]).astype(others)
    with pytest.raises(ValueError, match=r"got others in \['category', 'text', 'words'\]"):
        Windows(frame, 2)


def test_missing_values_and_truth_values_of_others(table):
    frame = table({"i": [1, 2, 3], "b": [True, None, False], "t": [True, False, True]})
    if table is pandas_table:
        frame = frame.astype({"b": "boolean"})  # of objects pandas makes nothing else
    expected = [[1, 1, 1], [2, np.nan, 0], [3, 0, 1]]
    np.testing.assert_array_equal(Arrays(frame, frame)[:].y, expected)


def test_tables_are_cut_and_cut_into_windows(table):
    frame = named(table, "load", "temp")
    if table is not Table:
        train, validation = split_by_time(frame, overlap=3)
        assert_same_bits(Windows(train, 3, dtype="float64")[:1].x[0], VALUES[:3])
        assert_same_bits(Windows(validation, 3, dtype="float64")[:1].y[0], VALUES[32:33])
    data = Windows(frame, 3, inputs="temp", targets="load", dtype="float64")
    assert_same_bits(data[:1].x[0], VALUES[:3, 1:])
    assert_same_bits(data[:1].y[0], VALUES[3:4, :1])


# ---- scale ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1, -3.3e-5, 1e15])
def test_rounding_noise_is_no_signal(value, dtype):
    """One value in nine is the next float, which as a signal would be 2.8 deviations away."""
    column = np.full(90, value, dtype)
    column[::9] = np.nextafter(column[0], np.inf, dtype=dtype)
    for series in (column, [column[:40], column[40:]], column.astype(column.dtype.newbyteorder())):
        standardizer = Standardizer.fit(series)
        assert standardizer.scale.tolist() == [1]
        z = standardizer.transform(column)
        assert np.abs(z).max() <= abs(np.spacing(column[0]))
        np.testing.assert_allclose(standardizer.inverse(z), column, rtol=np.finfo(dtype).eps)


@pytest.mark.parametrize("module", ["pandas", "polars"])
def test_each_column_of_a_table_is_rounded_by_its_own_type(module):
    noise = np.full(90, 0.1, np.float32)
    noise[::9] = np.nextafter(noise[0], np.float32(1))
    columns = {"noise": noise, "signal": noise.astype(float), "count": np.arange(90)}
    frame = pytest.importorskip(module).DataFrame(columns)
    expected = [1, columns["signal"].std(), columns["count"].std()]
    for series in (frame, [frame[:40], frame[40:]]):
        np.testing.assert_allclose(Standardizer.fit(series).scale, expected)


def test_sums_that_are_one_but_for_rounding():
    shares = np.random.default_rng(0).random((1000, 7))
    ones = (shares / shares.sum(axis=1, keepdims=True)).sum(axis=1)
    assert len(np.unique(ones)) > 1
    assert Standardizer.fit(ones).scale.tolist() == [1]
    tenths = np.array([(0.1 + k) - k for k in range(4)])
    assert Standardizer.fit(tenths).scale.tolist() == [1]
    for n in (50, 1000, 5000):
        means = np.cumsum(np.full(n, 0.3)) / np.arange(1, n + 1)
        assert Standardizer.fit(means).scale.tolist() == [1]


@pytest.mark.parametrize(
    "column",
    [
        1e6 + 1e-6 * np.arange(100.0),
        1e9 + np.arange(100.0) % 7,
        (101325 + np.arange(100) % 5).astype("f4"),
        1e-100 * np.arange(100.0),
        (2**40 + np.arange(100) % 2),
    ],
    ids=["small steps", "far away", "pascals in float32", "tiny", "integers"],
)
def test_small_signals_stay(column):
    scale = Standardizer.fit(column).scale[0]
    assert scale != 1 and abs(scale - column.astype(float).std()) <= 1e-6 * scale


def test_columns_that_are_skipped():
    one_hot = np.eye(2)[np.arange(40) % 2]
    series = np.concatenate([VALUES, one_hot], axis=1)
    plain = Standardizer.fit(series)
    for skip in ([2, 3], [-2, -1]):
        standardizer = Standardizer.fit(series, skip=skip)
        assert standardizer.mean.tolist() == [*plain.mean[:2], 0, 0]
        assert standardizer.scale.tolist() == [*plain.scale[:2], 1, 1]
        assert_same_bits(standardizer.transform(series)[:, 2:], one_hot)
    frame = Table({"load": VALUES[:, 0], "monday": one_hot[:, 0]})
    by_name = Standardizer.fit(frame, skip="monday")
    assert (by_name.mean[1], by_name.scale[1]) == (0, 1)
    with pytest.raises(ValueError, match="skip: Expected one of the columns .*, got 'sunday'"):
        Standardizer.fit(frame, skip=["sunday"])
    with pytest.raises(ValueError, match="skip: Expected a column from 0 to 3, got 4"):
        Standardizer.fit(series, skip=4)


@pytest.mark.parametrize("chunk", [2, 6, 2**17])
def test_missing_values_are_passed_over_where_that_is_asked_for(monkeypatch, chunk):
    monkeypatch.setattr("fastlstm.training.standardizer._CHUNK", chunk)
    series = VALUES.copy()
    series[[0, 1, 2, 9, 39], 1] = np.nan
    standardizer = Standardizer.fit([series[:20], series[20:]], ignore_missing=True)
    np.testing.assert_allclose(standardizer.mean, np.nanmean(series, axis=0), rtol=1e-13)
    np.testing.assert_allclose(standardizer.scale, np.nanstd(series, axis=0), rtol=1e-13)
    series[3, 1] = np.inf
    with pytest.raises(ValueError, match="1 that are not, the first inf at step 3 of column 1"):
        Standardizer.fit(series, ignore_missing=True)
    series[:, 0] = np.nan
    with pytest.raises(ValueError, match="Expected values in every column, got none in 0"):
        Standardizer.fit(series, ignore_missing=True)


def test_flat_predictions_are_brought_back_to_units():
    standardizer = Standardizer([1, 10, 100], [2, 4, 8])
    data = Windows(np.arange(60.0).reshape(20, 3), 4, 3, targets=[2, 0], standardizer=standardizer)
    flat = Windows(
        data.series, 4, 3, targets=[2, 0], standardizer=standardizer, flat=True, dtype="float64"
    )
    expected = np.stack([data.series[0][n : n + 3, [2, 0]].ravel() for n in range(4, 18)])
    y = flat[:].y
    assert y.shape == (14, 6)
    np.testing.assert_allclose(standardizer.inverse(y, [2, 0]), expected, rtol=1e-15)
    one = Standardizer([5], [2])
    assert one.inverse([[1.0, 2.0, 3.0]]).tolist() == [[7, 9, 11]]
    for wrong in ((14, 5), (14, 1), (14, 0)):
        with pytest.raises(ValueError, match=r"shape \(\.\.\., 2\)"):
            standardizer.inverse(np.zeros(wrong), [2, 0])
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 2\)"):
        standardizer.transform(np.zeros((14, 6)), [2, 0])
