"""``fastlstm train`` and ``forecast`` against the Python API, by value; errors, Ctrl-C, kill -9."""

import csv
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import fastlstm
from fastlstm import cli
from fastlstm.cli import forecast as cli_forecast
from fastlstm.cli import table_arguments
from fastlstm.cli import train as cli_train
from fastlstm.training import (
    Adam,
    EarlyStopping,
    Forecaster,
    MSELoss,
    RMSprop,
    Standardizer,
    seasonal_naive,
)

WINDOW, HORIZON, ROWS = 6, 3, 90
YEARS = np.arange(1900, 1900 + ROWS)
SERIES = np.stack(
    [10 + 5 * np.sin(YEARS), 300 + 50 * np.cos(YEARS / 2), np.sqrt(YEARS - 1899)], axis=1
)
TRAIN = "train data.csv --target a --window 6 --horizon 3 --hidden 5 --epochs 4 -o model.npz"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(SERIES)


def write(values, name="data.csv", labels=YEARS):
    with open(name, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["year", "a", "b", "c"])
        rows.writerows([label, *row.tolist()] for label, row in zip(labels, values, strict=True))


def run(line, *more, code=0):
    assert cli.main([*line.split(), *more]) == code


def read(name):
    """(header, labels, values) of a CSV file."""
    with open(name, newline="") as file:
        header, *rows = csv.reader(file)
    return header, [row[0] for row in rows], np.array([row[1:] for row in rows], float)


def error_of(capsys, line, *more):
    """The one line on stderr of a command that fails and writes nothing."""
    before = sorted(os.listdir())
    assert cli.main([*line.split(), *more]) == 1
    err = capsys.readouterr().err
    assert err.startswith("fastlstm: error: ") and err.count("\n") == 1
    assert sorted(os.listdir()) == before
    return err.removeprefix("fastlstm: error: ").removesuffix("\n")


def assert_same_model(left, right):
    left, right = fastlstm.load_state(left), fastlstm.load_state(right)
    assert left.keys() == right.keys()
    for name, array in left.items():
        np.testing.assert_array_equal(array, right[name])


def assert_errors(out, baseline, truth, forecast, naive):
    """The printed table has the errors of these, (..., 2), in a and c."""
    table = re.findall(rf"^(\w+)\n  forecast +(.*)\n  {baseline} +(.*)\n", out, re.M)
    assert [name for name, *_ in table] == ["a", "c"]
    for n, (_, *rows) in enumerate(table):
        for row, values in zip(rows, (forecast, naive), strict=True):
            error = (values - truth)[..., n]
            rmse, mae = np.sqrt(np.mean(error**2)), np.abs(error).mean()
            assert row.split() == [f"{rmse:.4g}", f"{mae:.4g}"]


# --- train ----------------------------------------------------------------------------------------


def by_api(inputs, targets, columns, validation=0.25, optimizer=Adam, **options):
    """The training of the command, written out; returns (forecaster, history)."""
    # as a file is read, row by row: sums in another order round otherwise
    values = np.ascontiguousarray(SERIES[:, ["abc".index(name) for name in columns]])
    cut = round(ROWS * (1 - validation))
    model = fastlstm.Sequential(
        {
            "lstm": fastlstm.LSTM(len(inputs), 5, num_layers=2, seed=7),
            "last": fastlstm.Last(),
            "linear": fastlstm.Linear(5, HORIZON * len(targets), seed=7),
        }
    )
    forecaster = Forecaster(
        model, Standardizer.fit(values[:cut]), WINDOW, HORIZON,
        inputs=inputs, targets=targets, columns=columns,
    )  # fmt: skip
    if validation:
        options["validation"] = forecaster.windows(values[cut - WINDOW :])
        options["callbacks"] = [EarlyStopping(20)]
    history = fastlstm.fit(
        model, forecaster.windows(values[:cut]), MSELoss(), optimizer(model, lr=0.01), 4,
        16, clip_norm=1, seed=7, **options,
    )  # fmt: skip
    return forecaster, history


OPTIONS = "--layers 2 --batch-size 16 --lr 0.01 --seed 7 --validation 0.25".split()


def test_a_training_is_that_of_the_api(capsys):
    run(TRAIN, *OPTIONS, "--target", "c", "--inputs", "b", "a", "--season", "4")
    ours = Forecaster.load("model.npz")
    expected, history = by_api(["b", "a"], ["a", "c"], ["b", "a", "c"])
    expected.save("api.npz")
    assert_same_model("model.npz", "api.npz")
    assert repr(ours) == repr(expected)
    values = SERIES[:, [1, 0, 2]]
    np.testing.assert_array_equal(ours.forecast(values), expected.forecast(values))

    first, forecast, truth = expected.backtest(values, 68)
    naive = seasonal_naive(values[:, [1, 2]], first, HORIZON, 4)
    out = capsys.readouterr().out
    assert out.startswith("data.csv: 90 rows from 1900 to 1989; 68 to train on\n")
    for n in range(4):
        loss, other = history["loss"][n], history["validation_loss"][n]
        assert f"\nepoch {n + 1}/4: loss {loss:.4g}, validation loss {other:.4g}\n" in out
    assert re.search(r"\nmodel\.npz: \d+ parameters, those of epoch \d of 4 epochs\n", out)
    assert "\nvalidation: 20 forecasts of 3 steps, in the table's units\n" in out
    assert_errors(out, "as 4 steps ago", truth, forecast, naive)


def test_without_validation_all_rows_are_trained_on(capsys):
    run(TRAIN, *OPTIONS, "--validation", "0", "--optimizer", "rmsprop")
    expected, _ = by_api(["a"], ["a"], ["a"], validation=0, optimizer=RMSprop)
    expected.save("api.npz")
    assert_same_model("model.npz", "api.npz")
    out = capsys.readouterr().out
    assert "90 to train on" in out and "the last ones of 4 epochs" in out
    assert "validation" not in out


def test_it_stops_early_and_does_without_tqdm(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(TRAIN, *OPTIONS, "--epochs", "500", "--patience", "2", "--lr", "0.1")
    out = capsys.readouterr().out
    best, done = map(int, re.search(r"epoch (\d+) of (\d+) epochs\n", out).groups())
    assert done == best + 2 < 500 and f"epoch {done}/500" in out


def test_the_bare_model_is_for_python_and_info_alone(capsys):
    run(TRAIN)
    np.save("x.npy", np.zeros((6, 1), np.float32))
    assert fastlstm.load("model.npz")(np.zeros((6, 1), np.float32)).shape == (3,)
    capsys.readouterr()
    assert cli.main("run model.npz x.npy -o y.npy".split()) == 1  # its values are standardised
    assert "model.npz is a forecaster" in capsys.readouterr().err
    run("info model.npz")
    out = capsys.readouterr().out
    assert "\nForecaster(window=6, horizon=3, inputs=['a'], targets=['a'])\n" in out
    assert "__notes__" not in out


def test_the_history_is_drawn():
    pytest.importorskip("matplotlib")
    run(TRAIN, "--plot", "history.png")
    with open("history.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("command", [TRAIN, "forecast model.npz data.csv -o out.csv"])
def test_a_plot_without_matplotlib_fails_before_the_work(capsys, monkeypatch, command):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    sentence = error_of(capsys, command, "--plot", "x.png")
    assert sentence == "plots need matplotlib, which is missing: pip install matplotlib"


@pytest.mark.parametrize(
    "options, sentence",
    [
        ("-o model.pt", "output must end in .npz, got model.pt"),
        ("-o gone/model.npz", "gone/model.npz cannot be written: there is no folder gone"),
        ("--plot x.jpg", "--plot must end in .png, got x.jpg"),
        ("--plot gone/x.png", "gone/x.png cannot be written: there is no folder gone"),
        ("--checkpoint model.npz", "--checkpoint and --output must be two files, got model.npz"),
        ("--checkpoint gone/c", "gone/c cannot be written: there is no folder gone"),
        ("--checkpoint data.csv", "data.csv: this is no checkpoint of a training"),
        ("--target x", "data.csv has no column 'x'; its columns are 'year', 'a', 'b', 'c'"),
        ("--inputs a x", "data.csv has no column 'x'"),
        (
            "--window 70",
            "data.csv has 90 rows, which leave 72 to train on; expected --window and --horizon, "
            "70 + 3, at least",
        ),
        (
            "--validation 0.02",
            "data.csv has 90 rows, of which --validation 0.02 leaves 2; expected --horizon, 3, at "
            "least",
        ),
        ("--season 73", "--season 73 is more than the 72 rows to train on"),
        ("--lr 1e39", "epoch 1, batch 1 of 2: "),
    ],
)
def test_bad_options_of_train(capsys, options, sentence):
    assert error_of(capsys, TRAIN, *options.split()).replace("\\", "/").startswith(sentence)


def test_missing_values_are_named(capsys):
    gaps = SERIES.copy()
    gaps[40, 1] = np.nan
    write(gaps)
    run(TRAIN)  # column b is not used
    sentence = error_of(capsys, TRAIN, "--inputs", "b", "a")
    assert sentence == "data.csv, line 42, column 'b': a value is missing: fill it in first"


@pytest.mark.parametrize(
    "arguments",
    [
        "train data.csv --window 6 --horizon 3 -o m.npz",
        "train data.csv --target a --horizon 3 -o m.npz",
        "train data.csv --target a --window 6 --horizon 3",
        f"{TRAIN} --window 0",
        f"{TRAIN} --validation 1",
        f"{TRAIN} --lr nan",
        f"{TRAIN} --seed -1",
        f"{TRAIN} --optimizer best",
        "forecast model.npz",
        "forecast model.npz data.csv --steps x",
    ],
)
def test_wrong_usage_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main(arguments.split())
    assert leave.value.code == 2
    assert re.match("usage: fastlstm (train|forecast)", capsys.readouterr().err)


def test_help(capsys):
    words = {
        "train": "DATA.csv --output --plot --target --inputs --window --horizon --hidden --layers "
        "--epochs --batch-size --lr --optimizer --validation --patience --seed --season "
        "--checkpoint Ctrl-C matplotlib (default: 0.2)",
        "forecast": "MODEL DATA.csv --output --plot --steps --holdout --season horizon",
    }
    for command, expected in words.items():
        with pytest.raises(SystemExit) as leave:
            cli.main([command, "--help"])
        out = capsys.readouterr().out
        assert leave.value.code == 0 and [w for w in expected.split() if w not in out] == []


# --- interrupted, killed --------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal to send")
def test_ctrl_c_leaves_a_usable_model():
    line = f"{TRAIN} --epochs 1000000 --patience 1000000"
    process = subprocess.Popen(
        [sys.executable, "-m", "fastlstm", *line.split()],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("epoch 3/") for line in lines), process.stderr.read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "")
    assert ", interrupted\n" in out and "\nvalidation: " in out
    assert np.isfinite(Forecaster.load("model.npz").forecast(SERIES[:, :1])).all()
    assert sorted(os.listdir()) == ["data.csv", "model.npz"]


def test_ctrl_c_before_an_epoch_is_done_leaves_the_old_model(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    run(TRAIN)
    with open("model.npz", "rb") as file:
        before = file.read()
    monkeypatch.setattr(MSELoss, "__call__", interrupt)
    monkeypatch.setattr("fastlstm.training.loop.Training.check", lambda *_: None)
    run(TRAIN, code=130)
    assert capsys.readouterr().err == "interrupted before an epoch was done: nothing is written\n"
    with open("model.npz", "rb") as file:
        assert file.read() == before


def test_interrupted_in_the_middle_it_has_the_best_weights(capsys, monkeypatch):
    report = cli_train._report

    def stop_after_three(state):
        report(state)
        if state.epoch == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli_train, "_report", stop_after_three)
    run(TRAIN, code=130)
    assert "of 3 epochs, interrupted" in capsys.readouterr().out
    # without Ctrl-C after as many epochs
    monkeypatch.setattr(cli_train, "_report", report)
    run(TRAIN, "--epochs", "2", "-o", "two.npz")
    assert_same_model("model.npz", "two.npz")  # callbacks after the report saw two epochs


# The command, which kills itself where it would report its sixth epoch.
KILLED = """
import os, signal, sys
from fastlstm import cli
from fastlstm.cli import train
train._report = lambda state: state.epoch == 6 and os.kill(os.getpid(), signal.SIGKILL)
cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal to send")
def test_killed_and_resumed_is_uninterrupted_bit_for_bit():
    line = f"{TRAIN} --epochs 60 --patience 60 --batch-size 4"
    done = subprocess.run([sys.executable, "-c", KILLED, *line.split(), "--checkpoint", "training"])
    assert done.returncode == -signal.SIGKILL and not os.path.exists("model.npz")
    run(line, "--checkpoint", "training")
    run(line, "-o", "whole.npz")
    assert_same_model("model.npz", "whole.npz")


def test_a_resumed_training_says_so_only_where_it_goes_on(capsys):
    run(TRAIN, "--checkpoint", "training", "--epochs", "2")
    run(TRAIN, "-o", "whole.npz")
    capsys.readouterr()
    run(TRAIN, "--checkpoint", "training")
    assert re.findall(r"^epoch (\d)/4", capsys.readouterr().out, re.M) == ["3", "4"]
    assert_same_model("model.npz", "whole.npz")
    sentence = error_of(capsys, TRAIN, "--checkpoint", "training", "--hidden", "6")
    assert sentence.startswith("training: the checkpoint is of another training: model was ")


def test_a_checkpoint_of_another_table_or_with_other_options_is_refused(capsys):
    """A table with as many rows of another day makes another training, not one that is done."""
    run(TRAIN, "--checkpoint", "training", "--epochs", "2")
    advice = "To train anew remove it, or give another --checkpoint"
    write(SERIES + YEARS[:, None] / 9)
    sentence = error_of(capsys, TRAIN, "--checkpoint", "training")
    assert sentence == (
        "training: the checkpoint is of another training: data has other values; validation has "
        f"other values. {advice}"
    )
    write(SERIES)
    for option, was in (("--lr", "lr was 0.005"), ("--patience", "patience was 20")):
        sentence = error_of(capsys, TRAIN, "--checkpoint", "training", option, "7")
        assert sentence.startswith(f"training: the checkpoint is of another training: {was}, now")
        assert re.search(
            rf" it is 7(\.0)?\. If that is on purpose add --changed {option[2:]}\. ", sentence
        )
        assert sentence.endswith(advice)
    changed = SERIES.copy()
    changed[-1, 0] += 1  # in the validation part alone
    write(changed)
    sentence = error_of(capsys, TRAIN, "--checkpoint", "training")
    assert sentence.endswith(f": validation has other values. {advice}")
    write(SERIES)
    run(TRAIN, "--checkpoint", "training")
    run(TRAIN, "-o", "whole.npz")
    assert_same_model("model.npz", "whole.npz")


def test_what_changed_on_purpose_counts(capsys):
    """The learning rate changes from the third epoch on; more patience lets a stopped one go on."""
    run(TRAIN, "--checkpoint", "training", "--epochs", "2")
    run(TRAIN, "--checkpoint", "training", "--lr", "0.1", "--changed", "lr")
    fast = fastlstm.load_state("model.npz")
    assert re.findall(r"^epoch (\d)/4", capsys.readouterr().out, re.M) == ["3", "4"]
    run(TRAIN, "-o", "whole.npz")
    whole = fastlstm.load_state("whole.npz")
    assert any((fast[name] != whole[name]).any() for name in whole if "weight" in name)
    sentence = error_of(capsys, TRAIN, "--checkpoint", "training", "--hidden", "7", "--lr", "0.1")
    assert "--changed" not in sentence
    options = "--checkpoint", "short", "--epochs", "30", "--lr", "0.5"
    run(TRAIN, *options, "--patience", "1")
    first = len(re.findall(r"^epoch \d+/30", capsys.readouterr().out, re.M))
    assert first < 30
    run(TRAIN, *options, "--patience", "6", "--changed", "patience")
    run(TRAIN, "-o", "long.npz", *options[2:], "--patience", "6")
    assert_same_model("model.npz", "long.npz")


@pytest.mark.parametrize("option", ["--output", "--checkpoint", "--plot"])
def test_destinations_are_tried_before_the_first_epoch(capsys, monkeypatch, option):
    monkeypatch.setattr(cli_train, "fit", lambda *_, **__: pytest.fail("it trained"))
    name = {"--output": "x.npz", "--checkpoint": "x", "--plot": "x.png"}[option]
    os.mkdir(name)
    assert error_of(capsys, TRAIN, option, name) == f"{name} cannot be written: it is a folder"
    os.rmdir(name)

    def refuse(path):
        raise PermissionError(f"{path} cannot be written: Read-only file system")

    for module in (cli_train, table_arguments):
        monkeypatch.setattr(
            module, "check_writable", lambda path, *_: refuse(path) if path.name == name else None
        )
    assert error_of(capsys, TRAIN, option, name).endswith("Read-only file system")


# --- forecast -------------------------------------------------------------------------------------


@pytest.fixture
def model():
    """A forecaster of c and a from these two, at model.npz."""
    run(TRAIN, "--target", "c", "--inputs", "c", "a")
    f = Forecaster.load("model.npz")
    assert (f.columns, f.inputs, f.targets) == (["c", "a"], [0, 1], [1, 0])
    return f


DIGITS = {"rtol": 0.5e-8, "atol": 0}  # 9 are written


@pytest.mark.parametrize("steps", [None, 2, 8])
def test_a_forecast_is_that_of_the_api(model, capsys, steps):
    expected = model.forecast(SERIES[:, [2, 0]], steps)
    more = [] if steps is None else ["--steps", str(steps)]
    capsys.readouterr()
    run("forecast model.npz data.csv -o out.csv", *more)
    assert capsys.readouterr() == ("", "")
    header, labels, values = read("out.csv")
    assert header == ["year", "a", "c"]
    assert labels == [str(1990 + n) for n in range(len(expected))]
    np.testing.assert_allclose(values, expected, **DIGITS)
    run("forecast model.npz data.csv", *more)
    with open("out.csv") as file:
        assert capsys.readouterr().out == file.read()


def test_columns_may_stand_in_any_order_and_rows_before_the_window_be_few(model):
    with open("data.csv", "w") as file:
        file.write("x,a,no,c\n")
        file.writelines(f"x,{a!r},?,{c!r}\n" for a, _, c in SERIES[-WINDOW:].tolist())
    run("forecast model.npz data.csv -o out.csv")
    header, labels, values = read("out.csv")
    assert (header, labels) == (["step", "a", "c"], ["1", "2", "3"])
    np.testing.assert_allclose(values, model.forecast(SERIES[:, [2, 0]]), **DIGITS)


@pytest.mark.parametrize("holdout, compared", [(2, 2), (10, 3)])
def test_a_holdout_is_compared(model, capsys, holdout, compared):
    known = SERIES[: ROWS - holdout, [2, 0]]
    expected = model.forecast(known)
    capsys.readouterr()
    run("forecast model.npz data.csv -o out.csv --season 2 --holdout", str(holdout))
    _, labels, values = read("out.csv")
    assert labels == [str(1990 - holdout + n) for n in range(3)]
    np.testing.assert_allclose(values, expected, **DIGITS)
    truth = SERIES[ROWS - holdout :][:compared, [0, 2]]
    naive = known[[-2, -1, -2]][:compared, [1, 0]]
    out = capsys.readouterr().out
    assert_errors(out, "as 2 steps ago", truth, expected[:compared], naive)


def test_errors_go_elsewhere_than_a_forecast_that_is_printed(model, capsys):
    capsys.readouterr()
    run("forecast model.npz data.csv --holdout 3")
    out, err = capsys.readouterr()
    assert out.startswith("year,a,c\n1987,") and "RMSE" not in out
    assert "RMSE" in err and "last value" in err


@pytest.mark.parametrize("more, past, then", [([], 48, 3), (["--holdout", "2"], 48, 3)])
def test_a_forecast_is_drawn(model, monkeypatch, more, past, then):
    pytest.importorskip("matplotlib")
    draw, seen = cli_forecast.plot_forecast, {}

    def look(series, forecast, truth, **options):
        seen.update(options, series=series, forecast=forecast, truth=truth)
        return draw(series, forecast, truth, **options)

    monkeypatch.setattr(cli_forecast, "plot_forecast", look)
    run("forecast model.npz data.csv -o out.csv --plot out.png", *more)
    with open("out.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    end = ROWS - (2 if more else 0)
    np.testing.assert_array_equal(seen["series"], SERIES[end - past : end, [0, 2]])
    np.testing.assert_allclose(seen["forecast"], read("out.csv")[2], **DIGITS)
    assert seen["names"] == ["a", "c"]
    assert seen["times"].tolist() == list(range(1900 + end - past, 1900 + end + then))
    if more:
        np.testing.assert_array_equal(seen["truth"], [*SERIES[end:, [0, 2]], [np.nan] * 2])
    else:
        assert seen["truth"] is None


def test_dates_go_on(model, capsys):
    days = [str(day) for day in np.arange("2024-01-01", "2024-03-31", dtype="datetime64[D]")]
    write(SERIES, labels=days)
    run("forecast model.npz data.csv -o out.csv")
    assert read("out.csv")[1] == ["2024-03-31", "2024-04-01", "2024-04-02"]
    run("forecast model.npz data.csv -o out.csv --holdout 1")
    assert read("out.csv")[1] == ["2024-03-30", "2024-03-31", "2024-04-01"]


def unnamed(model):
    model.columns = None
    model.save("model.npz")


@pytest.mark.parametrize(
    "prepare, options, sentence",
    [
        (None, "-o out.txt", "output must end in .csv, got out.txt"),
        (None, "-o gone/out.csv", "gone/out.csv cannot be written: there is no folder gone"),
        (None, "--plot out.gif", "--plot must end in .png, got out.gif"),
        (
            None,
            "--holdout 85",
            "data.csv has 90 rows, which leave 5 to forecast from; expected the model's window of "
            "6 at least",
        ),
        (None, "--holdout 500", "data.csv has 90 rows, which leave 0 to forecast from; "),
        (
            None,
            "--holdout 3 --season 88 -o out.csv",
            "--season 88 is more than the 87 rows of data.csv before the forecast",
        ),
        (lambda _: write(SERIES[:, ::-1][:, :1], labels=YEARS), "", "data.csv, line 2: expected 4"),
        (unnamed, "", "model.npz does not name its columns"),
        (lambda m: fastlstm.save(m.model, "model.npz"), "", "model.npz: it holds no forecaster"),
        (lambda _: os.truncate("model.npz", 900), "", "model.npz: a damaged or truncated zip"),
        (lambda _: os.remove("model.npz"), "", "[Errno 2] No such file or directory: 'model.npz'"),
    ],
)
def test_bad_forecasts(model, capsys, prepare, options, sentence):
    if prepare:
        prepare(model)
    line = f"forecast model.npz data.csv {options}"
    assert error_of(capsys, line).replace("\\", "/").startswith(sentence)
    assert not os.path.exists("out.csv")


def test_more_steps_than_the_model_can_give(capsys):
    run(TRAIN, "--inputs", "b")
    sentence = error_of(capsys, "forecast model.npz data.csv --steps 4")
    assert sentence.startswith("Expected at most the horizon of 3 steps, got steps=4: only a model")
