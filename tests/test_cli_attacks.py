"""The command line under attack: names that command terminals, shut outputs, wild input."""

import os
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import fastlstm
from fastlstm import LSTM, Linear, Sequential, cli
from fastlstm.terminal import printable
from fastlstm.training import Forecaster, Standardizer

# What must not reach a terminal: an escape sequence (C0), DEL, C1, line ends and tabs inside a
# name, turned and isolated directions, marks without width, other line ends, half a pair, a tag.
HOSTILE = (
    "\x1b[2J\x1b]0;mine\x07\x00\x7f\x9b1m\r\n\t\u202a\u202e\u2066\u2069\u200e\u200f\u061c\u200b"
    "\ufeff\u2028\u2029\udc80\ud800\U000e0041"
)
SEEN = (
    r"\x1b[2J\x1b]0;mine\x07\x00\x7f\x9b1m\r\n\t\u202a\u202e\u2066\u2069\u200e\u200f\u061c\u200b"
    r"\ufeff\u2028\u2029\udc80\ud800\U000e0041"
)
VISIBLE = "température ℃ 気温\u3000Ж 𝛼 é 🌡 ~\\"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, so that names are short and files can be listed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments, **options):
    """Run the command as a process; returns (exit code, output, errors), as bytes."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120} | options
    environment = os.environ | {"PYTHONUNBUFFERED": ""} | options.pop("env", {})
    line = [sys.executable, "-m", "fastlstm", *arguments]
    done = subprocess.run(line, env=environment, **options)
    return done.returncode, done.stdout, done.stderr


def assert_tame(data):
    """Nothing but line ends and what is to be seen, in bytes of UTF-8."""
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    assert [c for c in text if not (c == "\n" or printable(c) == c)] == []
    return text


# What is printed


def test_printable():
    assert printable(HOSTILE) == SEEN
    assert printable(VISIBLE) == VISIBLE
    assert printable("plain") == "plain"


@pytest.mark.parametrize("name", [HOSTILE.replace("\x00", ""), VISIBLE.replace("\\", "")])
def test_names_of_parameters(name, capsys):
    """Those of a file are whatever its maker liked; in a sentence and in a table."""
    name = name.encode("utf-8", "replace").decode("utf-8")  # what a zip can hold
    with zipfile.ZipFile("model.npz", "w") as archive:
        for entry in ("lstm.weight_ih_l0", name):
            with archive.open(entry + ".npy", "w") as file:
                np.lib.format.write_array(file, np.ones((8, 2), np.float32))
    for arguments in (
        ["info", "model.npz"],
        ["info", "model.npz", "--prefix", "x"],
        ["run", "model.npz", "x.npy", "-o", "y.npy"],
    ):
        cli.main(arguments)
        out, err = map(assert_tame, capsys.readouterr())
        assert printable(name) in out + err or repr(name)[1:-1] in out + err or "x." in err


def test_names_of_layers(capsys):
    model = Sequential({"a\x1b[2J\nb": LSTM(2, 3, engine="numpy"), "fc\u202e": Linear(3, 1)})
    assert r"(a\x1b[2J\nb): LSTM(2, 3" in repr(model) and r"(fc\u202e): Linear" in repr(model)
    fastlstm.save(model, "model.npz")
    assert cli.main(["info", "model.npz"]) == 0
    out, _ = capsys.readouterr()
    assert r"(fc\u202e): Linear" in assert_tame(out)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
def test_names_of_files_and_options(capsys):
    name = HOSTILE.replace("\x00", "").replace("\ud800", "")
    code, out, err = command("info", name + ".npz")
    assert (code, out) == (1, b"") and r"\x1b[2J" in assert_tame(err)
    fastlstm.save(LSTM(2, 3), name + ".npz")
    code, out, err = command("info", name + ".npz")
    assert (code, err) == (0, b"") and r"\x1b[2J" in assert_tame(out)
    for arguments in (["info", "m", name], [name], ["run", "--" + name], ["info", "m", "--key"]):
        code, out, err = command(*arguments)
        assert (code, out) == (2, b"") and assert_tame(err).startswith("usage: fastlstm")


def test_names_of_columns(capsys):
    hostile = "load\x1b[2J\u202e"
    rows = "\n".join(f"{n},{n % 7}" for n in range(60))
    with open("x.csv", "w", encoding="utf-8") as file:
        file.write(f"when\x1b,{hostile}\n{rows}\n")
    train = ["train", "x.csv", "-o", "m.npz", "--target", hostile, "--window", "4", "--horizon"]
    assert cli.main([*train, "2", "--epochs", "1", "--hidden", "2"]) == 0
    out, err = map(assert_tame, capsys.readouterr())
    assert r"load\x1b[2J\u202e" in out and err == ""
    for arguments in (
        ["forecast", "m.npz", "x.csv"],
        ["forecast", "m.npz", "x.csv", "--holdout", "3"],
        ["info", "m.npz"],
        ["train", "x.csv", "-o", "m.npz", "--target", "g\x1b", "--window", "4", "--horizon", "2"],
    ):
        cli.main(arguments)
        out, err = map(assert_tame, capsys.readouterr())
        assert r"\x1b" in out + err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_whatever_the_output_can_hold(encoding):
    """A name that its encoding lacks is escaped, where Python would raise UnicodeEncodeError."""
    model = Sequential({VISIBLE.replace("\\", "").replace(".", ""): LSTM(2, 3, engine="numpy")})
    fastlstm.save(model, "model.npz")
    code, out, err = command("info", "model.npz", env={"PYTHONIOENCODING": encoding})
    assert (code, err) == (0, b"")
    seen = "température ℃".encode(encoding, "backslashreplace")
    assert seen in out
    code, out, err = command("info", "Ж.npz", env={"PYTHONIOENCODING": encoding})
    assert code == 1 and "Ж.npz".encode(encoding, "backslashreplace") in err


# Outputs that are shut


def shut(*arguments, redirection):
    """Run the command under a shell with such a redirection."""
    line = f'exec "$0" -m fastlstm "$@" {redirection}'
    environment = os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        ["sh", "-c", line, sys.executable, *arguments],
        capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr
    return done.returncode, done.stderr


needs_sh = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


def _forecaster():
    model = Sequential({"lstm": LSTM(1, 2, engine="numpy"), "last": fastlstm.Last()})
    model = Sequential(*model.children.values(), Linear(2, 1))
    Forecaster(
        model, Standardizer([0.0], [1.0]), 3, 1, inputs=["a"], targets=["a"], columns=["a"]
    ).save("f.npz")
    with open("x.csv", "w") as file:
        file.write("a\n1\n2\n3\n4\n")


PRINTING = [["info", "f.npz"], ["engines"], ["forecast", "f.npz", "x.csv"]]


@needs_sh
@pytest.mark.parametrize("arguments", PRINTING)
def test_a_closed_output(arguments):
    _forecaster()
    closed = (1, "fastlstm: error: standard output cannot be written: it is closed\n")
    assert shut(*arguments, redirection=">&-") == closed
    code, _ = shut(*arguments, redirection="2>&-")
    assert code == 0
    code, _ = shut(*arguments, redirection=">&- 2>&-")
    assert code == 1


@needs_sh
def test_a_run_needs_no_output():
    fastlstm.save(LSTM(2, 3, engine="numpy"), "m.npz")
    np.save("x.npy", np.ones((4, 2), np.float32))
    assert shut("run", "m.npz", "x.npy", "-o", "y.npy", redirection=">&- 2>&-") == (0, "")
    assert np.load("y.npy").shape == (4, 3)


@needs_sh
def test_training_into_a_closed_output_is_refused_before_the_work():
    _forecaster()
    code, err = shut(
        *"train x.csv -o m.npz --target a --window 1 --horizon 1 --validation 0".split(),
        redirection=">&-",
    )
    assert (code, err) == (1, "fastlstm: error: standard output cannot be written: it is closed\n")
    assert not os.path.exists("m.npz")


@needs_sh
@needs_full
@pytest.mark.parametrize("arguments", PRINTING)
def test_a_full_output(arguments):
    _forecaster()
    code, err = shut(*arguments, redirection=">/dev/full")
    assert code == 1
    assert err == ("fastlstm: error: standard output cannot be written: No space left on device\n")
    for more in (["--version"], ["--help"]):
        code, err = shut(*more, redirection=">/dev/full")
        assert code == 1 and "standard output cannot be written: No space left on device" in err
    assert shut("info", "gone", redirection="2>/dev/full") == (1, "")


# Variables of the environment


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FASTLSTM_ISA", "nosuch"),
        ("FASTLSTM_ISA", "neon" if os.uname().machine == "x86_64" else "avx2"),
        ("FASTLSTM_ENGINE", "abacus"),
        ("FASTLSTM_NUM_THREADS", "many"),
        ("FASTLSTM_NUM_THREADS", "0"),
        ("FASTLSTM_NUM_THREADS", "9" * 5000),
    ],
)
def test_a_wrong_variable_is_its_own_fault(name, value):
    """The table of engines still shows; no model file is blamed."""
    if name == "FASTLSTM_ISA":
        pytest.importorskip("fastlstm.engines._native", reason="the variable is native's")
    code, out, err = command("engines", env={name: value})
    assert code == 1 and re.match(rf"fastlstm: error: {name} (must be|is) ", err.decode())
    assert re.findall(r"^\w+", out.decode(), re.M) == ["native", "numba", "numpy"]
    fastlstm.save(LSTM(1, 2), "m.npz")
    np.save("x.npy", np.ones((3, 1), np.float32))
    for arguments in (["run", "m.npz", "x.npy", "-o", "y.npy"], ["info", "m.npz"]):
        code, out, err = command(*arguments, env={name: value})
        if arguments[0] == "info" and name != "FASTLSTM_NUM_THREADS":
            assert code == 0  # which computes nothing
        else:
            assert (code, out) == (1, b"")
            assert re.match(rf"fastlstm: error: {name} (must be|is) ", err.decode())


def test_of_two_wrong_variables_the_table_still_shows():
    env = {"FASTLSTM_ENGINE": "abacus", "FASTLSTM_ISA": "nosuch"}
    code, out, err = command("engines", env=env)
    assert code == 1 and re.findall(r"^\w+", out.decode(), re.M) == ["native", "numba", "numpy"]


# What nobody foresaw


@pytest.mark.parametrize("kind", [IndexError, ZeroDivisionError, AssertionError, RuntimeError])
def test_what_nobody_foresaw_is_a_sentence(kind, monkeypatch, capsys):
    def fail(*_, **__):
        raise kind("deep\x1b inside")

    monkeypatch.setattr(cli, "load", fail)
    assert cli.main(["run", "m.npz", "x.npy", "-o", "y.npy"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(
        rf"fastlstm: error: unexpected {kind.__name__} at test_cli_attacks\.py:\d+, a fault of "
        r"fastlstm, please report it: deep\\x1b inside\n", err,
    )  # fmt: skip
