"""Forecaster: forecasts against arithmetic by hand, its file, and what files may not do to it."""

import json

import numpy as np
import pytest

import fastlstm
from fastlstm.training import Forecaster, Standardizer, is_forecaster, seasonal_naive

RNG = np.random.default_rng(0)
SERIES = RNG.normal([10, -200, 3], [2, 50, 0.1], size=(60, 3))
WINDOW, HORIZON = 5, 4

# Both sides do the same arithmetic in float64 but for the place of a subtraction and a division;
# what differs is a few roundings of values whose size is that of the series.
EXACT = {"rtol": 0, "atol": 16 * np.finfo(float).eps * np.abs(SERIES).max()}


def forecaster(inputs=(0, 1, 2), targets=(0, 1, 2), dtype="float64", batch_first=False, **options):
    model = fastlstm.Sequential(
        fastlstm.LSTM(len(inputs), 6, dtype=dtype, batch_first=batch_first, seed=1),
        fastlstm.Last(batch_first=batch_first),
        fastlstm.Linear(6, HORIZON * len(targets), dtype=dtype, seed=2),
    )
    options = {"inputs": list(inputs), "targets": list(targets), **options}
    return Forecaster(model, Standardizer.fit(SERIES), WINDOW, HORIZON, **options)


def by_hand(f, series):
    """Forecast one horizon: standardise, run and undo are written out."""
    mean, scale = f.standardizer.mean, f.standardizer.scale
    z = ((series[-WINDOW:] - mean) / scale)[:, f.inputs]
    lstm, last, linear = f.model
    hidden = lstm(z[None] if lstm.batch_first else z[:, None])[0]
    y = linear(last(hidden)).reshape(HORIZON, len(f.targets))
    return y * scale[f.targets] + mean[f.targets]


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    "inputs, targets", [((0, 1, 2), (0, 1, 2)), ((2, 0), (1,)), ((1,), (2, 1))]
)
def test_a_forecast_is_the_models_in_the_series_own_units(inputs, targets, batch_first):
    f = forecaster(inputs, targets, batch_first=batch_first)
    y = f.forecast(SERIES)
    assert y.shape == (HORIZON, len(targets)) and y.dtype == np.float64
    np.testing.assert_allclose(y, by_hand(f, SERIES), **EXACT)
    np.testing.assert_array_equal(f.forecast(SERIES, steps=2), y[:2])
    np.testing.assert_array_equal(f.forecast(SERIES[-WINDOW:]), y)


def iterated(f, series, steps):
    """Forecast horizon after horizon, each from the series and the forecasts made so far."""
    own = series.copy()
    while len(own) < len(series) + steps:
        rows = np.full((HORIZON, 3), np.nan)
        rows[:, f.targets] = by_hand(f, own)
        own = np.concatenate([own, rows])
    return own[len(series) :][:steps, f.targets]


@pytest.mark.parametrize(
    "inputs, targets", [((0, 1, 2), (0, 1, 2)), ((0, 1), (1, 0)), ((2,), (2,))]
)
def test_behind_the_horizon_it_goes_on_from_its_own_forecasts(inputs, targets):
    f = forecaster(inputs, targets)
    np.testing.assert_allclose(f.forecast(SERIES, 11), iterated(f, SERIES, 11), **EXACT)


def targets_as_they_come(f):
    f.targets = f.inputs  # the columns of a forecast taken for those of the inputs


def a_window_too_old(f):
    predict = f._known
    f._known = lambda series: predict(np.asarray(series)[:-1])


def other_units(f):
    f.standardizer = Standardizer(f.standardizer.mean, f.standardizer.scale * 1.0001)


@pytest.mark.parametrize("sabotage", [targets_as_they_come, a_window_too_old, other_units])
def test_the_comparison_finds_a_broken_forecaster(sabotage):
    good, broken = forecaster((0, 1), (1, 0)), forecaster((0, 1), (1, 0))
    sabotage(broken)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(broken.forecast(SERIES, 11), iterated(good, SERIES, 11), **EXACT)


def test_a_backtest_is_a_forecast_from_each_point():
    f = forecaster((2, 0), (1,))
    first, forecast, truth = f.backtest(SERIES, start=40, stride=3)
    assert first.tolist() == [40, 43, 46, 49, 52, 55]
    for n, step in enumerate(first):
        np.testing.assert_allclose(forecast[n], f.forecast(SERIES[:step]), **EXACT)
        np.testing.assert_array_equal(truth[n], SERIES[step : step + HORIZON, [1]])
    assert f.backtest(SERIES)[0].tolist() == list(range(WINDOW, 57))


def test_the_steps_after_a_forecasts_beginning_are_not_looked_at():
    f, changed = forecaster(), SERIES.copy()
    changed[50:] = 1e6
    np.testing.assert_array_equal(f.backtest(SERIES, 50)[1][0], f.backtest(changed, 50)[1][0])


def test_columns_that_do_not_go_in_may_be_missing():
    gaps = SERIES.copy()
    gaps[:, 1] = np.nan
    gaps[:-WINDOW] = np.nan
    f = forecaster((2, 0), (1,))
    np.testing.assert_array_equal(f.forecast(gaps), f.forecast(SERIES))


def test_windows_are_what_the_model_trains_on():
    f = forecaster((2, 0), (1,), dtype="float32")
    z = (SERIES - f.standardizer.mean) / f.standardizer.scale
    batch = f.windows(SERIES, stride=2)[[3]]
    assert batch.x.dtype == np.float32
    np.testing.assert_allclose(batch.x[0], z[6 : 6 + WINDOW, [2, 0]], rtol=1e-6)
    np.testing.assert_allclose(batch.y, z[6 + WINDOW : 6 + WINDOW + HORIZON, [1]].T, rtol=1e-6)
    assert len(f.windows([SERIES, SERIES[:20]])) == 52 + 12


def test_units_are_not_rounded_to_the_models_type():
    """For values around 1e9, a float32 model's forecast has 7 digits of the deviation from them."""
    series = 1e9 + SERIES[:, :1]
    model = fastlstm.Sequential(
        fastlstm.LSTM(1, 4, seed=0), fastlstm.Last(), fastlstm.Linear(4, HORIZON, seed=0)
    )
    f = Forecaster(model, Standardizer.fit(series), WINDOW, HORIZON)
    g = Forecaster(model, Standardizer.fit(SERIES[:, :1]), WINDOW, HORIZON)
    # 1e9 itself is rounded to 1e-7, on the way in and out
    difference = f.forecast(series) - g.forecast(SERIES[:, :1]) - 1e9
    assert np.abs(difference).max() < 1e-5


def test_dataframes_columns_are_found_by_name():
    pandas = pytest.importorskip("pandas")
    f = forecaster(columns=["a", "b", "c"], inputs=["c", "a"], targets=["b"])
    assert (f.inputs, f.targets) == ([2, 0], [1])
    frame = pandas.DataFrame(SERIES, columns=["a", "b", "c"])[["c", "b", "a"]]
    frame["more"] = "text"
    np.testing.assert_array_equal(f.forecast(frame), f.forecast(SERIES))
    np.testing.assert_array_equal(f.backtest(frame)[1], f.backtest(SERIES)[1])
    assert "inputs=['c', 'a'], targets=['b']" in repr(f)
    with pytest.raises(ValueError, match=r"columns \['a', 'c'\], got a DataFrame without \['a'\]"):
        f.forecast(frame.drop(columns="a"))
    with pytest.raises(ValueError, match=r"got a DataFrame without \['b'\]"):
        f.backtest(frame.drop(columns="b"))


def test_what_a_forecast_does_not_use_need_not_be_there():
    """Targets that are no inputs, other columns and rows before the window may be absent."""
    pandas = pytest.importorskip("pandas")
    f = forecaster(columns=["a", "b", "c"], inputs=["c", "a"], targets=["b"])
    expected = f.forecast(SERIES)
    np.testing.assert_array_equal(f.forecast(SERIES[:, [2, 0]]), expected)
    frame = pandas.DataFrame(SERIES, columns=["a", "b", "c"])
    np.testing.assert_array_equal(f.forecast(frame[["a", "c"]]), expected)
    np.testing.assert_array_equal(f.forecast(frame[["a", "b", "c", "b"]]), expected)
    with pytest.raises(ValueError, match=r"columns \['a', 'c'\] once, got more of \['a'\]"):
        f.forecast(frame[["a", "c", "a"]])
    one = forecaster(columns=["a", "b", "c"], inputs=["c"], targets=["b"])
    np.testing.assert_array_equal(one.forecast(frame["c"]), one.forecast(SERIES))
    with pytest.raises(ValueError, match=r"columns \['c'\], got a DataFrame without \['c'\]"):
        one.forecast(frame["b"])
    blank = frame.astype(object)
    blank.iloc[: 60 - WINDOW] = ""
    blank["b"] = "?"
    np.testing.assert_array_equal(f.forecast(blank), expected)
    blank.iloc[60 - WINDOW, 0] = ""
    with pytest.raises(ValueError, match=r"got others in \['a'\]"):
        f.forecast(blank)


def test_names_of_the_standardizer_are_the_forecasters():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(SERIES, columns=["a", "b", "c"])
    f = forecaster()
    f = Forecaster(f.model, Standardizer.fit(frame), WINDOW, HORIZON)
    assert f.columns == ["a", "b", "c"]
    expected = f.forecast(SERIES)
    for order in (["a", "b", "c"], ["c", "a", "b"], ["b", "c", "a"]):
        np.testing.assert_array_equal(f.forecast(frame[order]), expected)
        np.testing.assert_array_equal(f.windows(frame[order])[:].x, f.windows(SERIES)[:].x)
    np.testing.assert_array_equal(f.forecast(pandas.DataFrame(SERIES)), expected)
    with pytest.raises(ValueError, match=r"standardizer, \['a', 'b', 'c'\], in this order, got"):
        Forecaster(f.model, f.standardizer, WINDOW, HORIZON, columns=["b", "a", "c"])


@pytest.mark.parametrize("act", ["forecast", "backtest"])
def test_one_series_at_a_time(act):
    with pytest.raises(TypeError, match=f"{act} takes one series, got a list of 2: call it for ea"):
        getattr(forecaster(), act)([SERIES, SERIES])


def test_the_mode_of_layers_is_left_as_it_was():
    model = fastlstm.Sequential(
        fastlstm.LSTM(1, 4), fastlstm.Last(), fastlstm.Dropout(0.5), fastlstm.Linear(4, 1)
    )
    f = Forecaster(model, Standardizer([0.0], [1.0]), 3)
    series = np.arange(9.0)
    np.testing.assert_array_equal(f.forecast(series), f.forecast(series))
    assert all(layer.training for _, layer in model.named_layers())


def test_seasonal_naive():
    series = np.arange(10.0)
    assert seasonal_naive(series, 6, 7, season=3)[:, 0].tolist() == [3, 4, 5, 3, 4, 5, 3]
    np.testing.assert_array_equal(seasonal_naive(SERIES, [1, 60], 2), SERIES[[[0, 0], [59, 59]]])
    for first, got in [(2, 2), ([5, 2, 11], 2), ([5, 11], 11)]:
        with pytest.raises(ValueError, match=rf"from step 3, a season, to 10.*from step {got}$"):
            seasonal_naive(series, first, 4, season=3)


# --- what does not fit ----------------------------------------------------------------------------


def with_gap(step):
    series = SERIES.copy()
    series[step, 2] = np.nan
    return series


@pytest.mark.parametrize(
    "act, sentence",
    [
        (lambda f: f.forecast(SERIES[:4]), "at least 5 steps, the window, got 4"),
        (lambda f: f.forecast(SERIES[:, :2]), "a series of 3 columns, as the standardizer has"),
        (lambda f: f.forecast(with_gap(57)), "last 5 steps, got nan at step 57 of column 2"),
        (lambda f: f.forecast(SERIES, 0), "steps must be greater than zero, got 0"),
        (lambda f: f.backtest(SERIES, 4), "start must be at least 5, got 4"),
        (lambda f: f.backtest(SERIES, 57), "4 steps from step 57 on, got a series of 60"),
        (lambda f: f.windows(SERIES[:8]), "at least 9 steps"),
        (lambda f: f.save("model.pt"), r"model\.pt: a forecaster's suffix must be \.npz or \.fl"),
        (lambda f: forecaster((0,), (1,)).forecast(SERIES, 5), "at most the horizon of 4 steps"),
        (lambda f: forecaster((0,), (0, 1)).forecast(SERIES, 5), "whose inputs are its targets"),
    ],
)
def test_what_does_not_fit_is_refused(act, sentence):
    with pytest.raises(ValueError, match=sentence):
        act(forecaster())


@pytest.mark.parametrize(
    "change, error, sentence",
    [
        ({"model": 3}, TypeError, "model should be a layer, got: int"),
        ({"model": fastlstm.LSTM(3, 12, dtype="float64")}, ValueError, r"gives \(B, horizon \* t"),
        ({"standardizer": None}, TypeError, "Expected a Standardizer, got NoneType"),
        ({"window": 0}, ValueError, "window must be greater than zero"),
        ({"horizon": 5}, ValueError, r"\(B, 15\), got \('B', 12\)"),
        ({"inputs": [0]}, ValueError, "model: .*Expected 3, got 1"),
        ({"targets": "x"}, ValueError, "only the columns of a DataFrame have names"),
        ({"columns": ["a", "b"]}, ValueError, "names of 3 columns"),
        ({"columns": ["a", "b", "a"]}, ValueError, "all different"),
        ({"columns": [1, 2, 3]}, TypeError, "a list of names"),
    ],
)
def test_wrong_parts_are_refused(change, error, sentence):
    f = forecaster()
    parts = {"model": f.model, "standardizer": f.standardizer, "window": 5, "horizon": 4, **change}
    with pytest.raises(error, match=sentence):
        Forecaster(**parts)


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [None, ["a", "b", 'ü"\n']])
def test_what_is_saved_is_loaded(tmp_path, columns):
    f = forecaster((2, 0), (1,), dtype="float32", columns=columns)
    f.save(tmp_path / "f.npz")
    g = Forecaster.load(tmp_path / "f.npz", engine="numpy")
    assert g.columns == columns and repr(g) == repr(f) and g.model[0].engine == "numpy"
    g = Forecaster.load(str(tmp_path / "f.npz"))
    np.testing.assert_array_equal(g.forecast(SERIES), f.forecast(SERIES))
    for name, array in f.standardizer.state_dict().items():
        np.testing.assert_array_equal(g.standardizer.state_dict()[name], array)


def test_its_file_is_the_models_too(tmp_path):
    f = forecaster()
    f.save(tmp_path / "f.npz")
    model = fastlstm.load(tmp_path / "f.npz")
    assert repr(model) == repr(f.model)
    x = RNG.random((7, 2, 3))
    np.testing.assert_array_equal(model(x), f.model(x))
    assert fastlstm.load_state(tmp_path / "f.npz").keys() == f.model.state_dict().keys()
    with np.load(tmp_path / "f.npz", allow_pickle=False) as arrays:
        assert json.loads(arrays["__notes__"].item())["window"] == WINDOW


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    f = forecaster()
    f.save(tmp_path / "f.npz")
    before = (tmp_path / "f.npz").read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        f.save(tmp_path / "f.npz")
    assert (tmp_path / "f.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]


NESTED = b"[" * 100_000
HOSTILE = {
    "no notes": (None, "holds no forecaster"),
    "no object": (b"[1]", "must be a JSON object, got list"),
    "no JSON": (b"{", "damaged JSON"),
    "no text": (b"\xff", "damaged JSON"),
    "nested": (NESTED, "damaged JSON"),
    "other kind": ({"kind": "recipe"}, "holds no forecaster"),
    "a newer version": ({"version": 2}, "its forecaster was written by a newer fastlstm"),
    "an older version": ({"version": 0}, "must be of version 1"),
    "more": ({"more": 1}, "must be of version 1 and have window.*'more'"),
    "window 0": ({"window": 0}, "window must be greater than zero"),
    "window true": ({"window": True}, "window should be of type int"),
    "window text": ({"window": "5"}, "window should be of type int"),
    "horizon": ({"horizon": 10**30}, r"gives \(B, horizon \* targets\)"),
    "inputs none": ({"inputs": None}, "lists as inputs"),
    "inputs text": ({"inputs": ["a", "b", "c"]}, "only the columns of a DataFrame have names"),
    "inputs nested": ({"inputs": [[0]]}, "inputs should be of type int"),
    "inputs far": ({"inputs": [0, 1, 7]}, "a column from 0 to 2, got 7"),
    "inputs few": ({"inputs": [0]}, "Expected 3, got 1"),
    "targets empty": ({"targets": []}, "at least one column"),
    "columns": ({"columns": 3}, "its notes must have lists as columns"),
    "columns of letters": ({"columns": "abc"}, "its notes must have lists as columns"),
    "columns without end": ({"columns": ["c" * 10**5] * 2}, "its notes do not fit"),
    "mean text": ({"mean": ["1", "2", "3"]}, "its notes do not fit"),
    "mean nested": ({"mean": [[1.0], [2.0], [3.0]]}, r"one shape \(F,\)"),
    "mean ragged": ({"mean": [[1.0], [2.0, 3.0]]}, "its notes do not fit"),
    "mean huge": ({"mean": [10**400, 0, 0]}, "its notes do not fit"),
    "mean nan": ({"mean": [float("nan"), 0, 0]}, "finite means"),
    "scale 0": ({"scale": [0.0, 1, 1]}, "finite positive scales"),
    "scale few": ({"scale": [1.0]}, r"one shape \(F,\)"),
    "all few": ({"mean": [0.0], "scale": [1.0]}, "a column from 0 to 0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_notes_are_refused(tmp_path, name):
    path, (change, sentence) = tmp_path / "f.npz", HOSTILE[name]
    forecaster().save(path)
    with np.load(path) as file:
        arrays = dict(file)
    notes = arrays.pop("__notes__").item()
    if isinstance(change, dict):
        change = json.dumps({**json.loads(notes), **change}).encode()
    if change is not None:
        arrays["__notes__"] = np.array(change)
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=rf"f\.npz: (?s:.*){sentence}") as error:
        Forecaster.load(path)
    assert len(str(error.value)) < 1000
    fastlstm.load(path)  # which passes over them


def test_notes_that_are_no_text(tmp_path):
    np.savez(tmp_path / "f.npz", __notes__=np.zeros(3))
    with pytest.raises(ValueError, match=r"f\.npz: entry '__notes__' must be one string"):
        Forecaster.load(tmp_path / "f.npz")


def test_a_file_of_another_format(tmp_path):
    fastlstm.save(forecaster().model, tmp_path / "f.pt")
    with pytest.raises(ValueError, match=r"f\.pt: it holds no forecaster"):
        Forecaster.load(tmp_path / "f.pt")
    with pytest.raises(FileNotFoundError):
        Forecaster.load(tmp_path / "gone.npz")


def test_a_forecasters_file_is_told_from_others(tmp_path):
    f = forecaster()
    f.save(tmp_path / "f.npz")
    fastlstm.save(f.model, tmp_path / "model.npz")
    fastlstm.save(f.model, tmp_path / "model.pt")
    np.savez(tmp_path / "notes.npz", __notes__=np.zeros(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "f.npz").read_bytes()[:500])
    found = {path.name: is_forecaster(path) for path in tmp_path.iterdir()}
    assert [name for name, is_one in found.items() if is_one] == ["f.npz"] and len(found) == 5
    with pytest.raises(FileNotFoundError):
        is_forecaster(tmp_path / "gone.npz")


def test_damage_is_a_value_error(tmp_path):
    """A file that is cut or changed anywhere is refused, or gives the same forecaster."""
    path = tmp_path / "f.npz"
    f = forecaster()
    f.save(path)
    whole, refused = path.read_bytes(), 0
    cases = [whole[:n] for n in range(0, len(whole), 97)]
    for n in RNG.integers(len(whole), size=100):
        cases.append(whole[:n] + bytes([whole[n] ^ 0x55]) + whole[n + 1 :])
    for case in cases:
        path.write_bytes(case)
        try:
            g = Forecaster.load(path)
        except ValueError as fault:
            assert str(fault).startswith(str(path))
            refused += 1
        else:
            np.testing.assert_array_equal(g.forecast(SERIES), f.forecast(SERIES))
    assert refused > len(cases) / 2
