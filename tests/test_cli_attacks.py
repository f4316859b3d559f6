"""The command line under attack: names that command terminals, shut outputs, wild input."""

import os
import pathlib
import platform
import re
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

import fastlstm
from fastlstm import LSTM, Embedding, Last, Linear, Sequential, cli
from fastlstm.cli import run as cli_run
from fastlstm.npy import map_array
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
    """Assert that these bytes are UTF-8 and hold visible characters and line ends alone."""
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
    """A file's maker chose them freely; they are shown in a sentence and in a table."""
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
        assert printable(name) in out + err or repr(name)[1:-1] in out + err or "'x'" in err


def test_names_that_are_no_text(torch, capsys):
    """UTF-8 cannot write one half of a pair of surrogates."""
    torch.save({"w\ud800\x1b": torch.ones(3), "weight_ih_l0": torch.ones(8, 2)}, "model.pt")
    for command_ in (["info", "model.pt"], ["run", "model.pt", "x.npy", "-o", "y.npy"]):
        code = cli.main(command_)
        out, err = map(assert_tame, capsys.readouterr())
        assert code == (command_[0] == "run") and r"w\ud800\x1b" in out + err


def test_a_long_name_does_not_widen_every_row(capsys):
    fastlstm.save(LSTM(2, 3), "model.npz")
    np.savez("model.npz", **{"n" * 60_000: np.ones(3)}, **{f"w{n}": np.ones(1) for n in range(50)})
    assert cli.main(["info", "model.npz"]) == 0
    out = capsys.readouterr().out
    assert "\n'" + "n" * 100 + "'..." in out and len(out) < 20_000


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


def test_names_of_metrics(capsys):
    model = Linear(1, 1)
    x = np.ones((4, 1), np.float32)
    fastlstm.training.fit(
        model, (x, x), fastlstm.training.MSELoss(), fastlstm.training.SGD(model, lr=0.1), 1,
        metrics={"\x1b[2Jmine": lambda y, target: 1.0}, verbose=True,
    )  # fmt: skip
    out, err = map(assert_tame, capsys.readouterr())
    assert r"\x1b[2Jmine 1" in out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_whatever_the_output_can_hold(encoding):
    """A name that the output cannot encode is escaped; Python would raise UnicodeEncodeError."""
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
    model = Sequential(LSTM(1, 2, engine="numpy"), Last(), Linear(2, 1))
    Forecaster(
        model, Standardizer([0.0], [1.0]), 3, 1, inputs=["a"], targets=["a"], columns=["a"]
    ).save("f.npz")
    with open("x.csv", "w") as file:
        file.write("a\n1\n2\n3\n4\n")


SLOW = pytest.mark.slow  # each is a process, or several
PRINTING = [
    ["info", "f.npz"],
    pytest.param(["engines"], marks=SLOW),
    pytest.param(["forecast", "f.npz", "x.csv"], marks=SLOW),
]


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
        ("FASTLSTM_NUM_THREADS", "many"),
        *(
            pytest.param(*others, marks=SLOW)
            for others in [
                ("FASTLSTM_ISA", "neon" if platform.machine() == "x86_64" else "avx2"),
                ("FASTLSTM_CACHES", "48K"),
                ("FASTLSTM_ENGINE", "abacus"),
                ("FASTLSTM_NUM_THREADS", "0"),
                ("FASTLSTM_NUM_THREADS", "9" * 5000),
            ]
        ),
    ],
)
def test_a_wrong_variable_is_its_own_fault(name, value):
    """The table of engines is still shown, and no model file is blamed."""
    if name in ("FASTLSTM_ISA", "FASTLSTM_CACHES"):
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
    env = {"FASTLSTM_ENGINE": "abacus", "FASTLSTM_ISA": "nosuch", "FASTLSTM_CACHES": "none"}
    code, out, err = command("engines", env=env)
    assert code == 1 and re.findall(r"^\w+", out.decode(), re.M) == ["native", "numba", "numpy"]


# What nobody foresaw


@pytest.mark.parametrize("kind", [IndexError, ZeroDivisionError, AssertionError, RuntimeError])
def test_what_nobody_foresaw_is_a_sentence(kind, monkeypatch, capsys):
    def fail(*_, **__):
        raise kind("deep\x1b inside")

    monkeypatch.setattr(cli_run, "load", fail)
    assert cli.main(["run", "m.npz", "x.npy", "-o", "y.npy"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(
        rf"fastlstm: error: unexpected {kind.__name__} at test_cli_attacks\.py:\d+, a fault of "
        r"fastlstm, please report it: deep\\x1b inside\n", err,
    )  # fmt: skip


# Arrays in files


def npy(header, data=b"", version=1, size=None):
    """A .npy file with such a header, a dict or bytes."""
    text = header if isinstance(header, bytes) else repr(header).encode()
    size = len(text) if size is None else size
    head = b"\x93NUMPY" + bytes([version, 0]) + size.to_bytes(2 if version == 1 else 4, "little")
    return head + text + data


def head(shape=(2, 3), descr="<f4", fortran_order=False, **more):
    return {"descr": descr, "fortran_order": fortran_order, "shape": shape} | more


VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i8", ">i2", "|i1", "|b1", "<f2"])
@pytest.mark.parametrize("order", "CF")
def test_arrays_of_every_layout(version, dtype, order):
    values = np.array(VALUES % 2, dtype, order=order)
    with open("x.npy", "wb") as file:
        np.lib.format.write_array(file, values, version=(version, 0))
    got = map_array("x.npy")
    assert got.dtype == values.dtype and got.flags.f_contiguous == values.flags.f_contiguous
    np.testing.assert_array_equal(got, values)
    np.testing.assert_array_equal(got, np.load("x.npy"))


def test_headers_of_other_writers():
    """Keys in another order, other spaces, no last comma and bytes behind the array are read."""
    for text in (
        b"{'shape':(2,3),'descr':'<f4','fortran_order':False}",
        b'  {"fortran_order": False, "descr": "<f4", "shape": (2, 3,),}   \n',
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }\n",
    ):
        with open("x.npy", "wb") as file:
            file.write(npy(text, VALUES.tobytes() + b"more"))
        np.testing.assert_array_equal(map_array("x.npy"), VALUES)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (5, 0)])
def test_arrays_without_or_with_one_value(shape):
    np.save("x.npy", np.ones(shape))
    np.testing.assert_array_equal(map_array("x.npy"), np.ones(shape))


DAMAGED = {
    "empty": b"",
    "no magic": b"PK\3\4" + bytes(60),
    "version 9": npy(head(), version=9),
    "brackets": npy(b"((("),
    "many brackets": npy(b"(" * 9000),
    "many signs": npy(b"-" * 9000 + b"1"),
    "calls": npy(b"__import__('os').abort()"),
    "power": npy(b"9**9**9**9"),
    "a list": npy(b"[1, 2]"),
    "no shape": npy(b"{'descr': '<f4', 'fortran_order': False}"),
    "one more": npy(head(more=1), VALUES.tobytes()),
    "negative": npy(head((-20, 1)), VALUES.tobytes()),
    "negative twice": npy(head((-2, -3)), VALUES.tobytes()),
    "truth": npy(head((True, 6)), VALUES.tobytes()),
    "fractions": npy(head((2.0, 3)), VALUES.tobytes()),
    "a number": npy(head(6), VALUES.tobytes()),
    "huge": npy(head((2**62, 4)), VALUES.tobytes()),
    "wraps": npy(head((2**32, 2**32)), VALUES.tobytes()),
    "wider than 64 bits": npy(head((0, 2**70)), VALUES.tobytes()),
    "huge and empty": npy(head((0, 2**62, 2**62)), VALUES.tobytes()),
    "long": npy(head((10**4000,)), VALUES.tobytes()),
    "many digits": npy(repr(head()).replace("2", "9" * 5000).encode()),
    "a comma too many": npy(repr(head()).replace("2, ", "2,, ").encode(), VALUES.tobytes()),
    "twice": npy(repr(head()).replace("}", ", 'shape': (1,)").encode(), VALUES.tobytes()),
    "a long type": npy(head(descr="<f" + "4" * 5000), VALUES.tobytes()),
    "many axes": npy(head((1,) * 100), VALUES.tobytes()),
    "objects": npy(head((1,), "|O"), bytes(8)),
    "records": npy(head((1,), [("a", "<f4")]), bytes(4)),
    "records in a word": npy(head((1,), "f4,f4"), bytes(8)),
    "arrays in a word": npy(head((1,), "(2,)f4"), bytes(8)),
    "no type": npy(head((1,), "<f5"), bytes(8)),
    "a type that is evaluated": npy(head((1,), "01"), bytes(8)),
    "a type that is none": npy(head((1,), 7), bytes(8)),
    "order": npy(head(fortran_order="no"), VALUES.tobytes()),
    "cut off": npy(head(), VALUES.tobytes()[:-1]),
    "cut header": npy(head())[:40],
    "size of the header": npy(head(), VALUES.tobytes(), version=2, size=0xFFFFFFFF),
    "a long header": npy(repr(head()).encode() + b" " * 20_000, VALUES.tobytes()),
    "no text": npy(b"\xff\xfe{", VALUES.tobytes(), version=3),
    "NUL": npy(b"{\0}", VALUES.tobytes()),
}  # fmt: skip


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_damaged_arrays(data, capsys):
    """One short line tells the fault, without the file's own megabyte, and nothing is written."""
    with open("x.npy", "wb") as file:
        file.write(data)
    fastlstm.save(LSTM(3, 2, engine="numpy"), "m.npz")
    for arguments in (["x.npy", "-o", "y.npy"], ["ok.npy", "-o", "y.npy", "--lengths", "x.npy"]):
        np.save("ok.npy", VALUES[:, None])
        assert cli.main(["run", "m.npz", *arguments]) == 1
        out, err = capsys.readouterr()
        assert err.startswith("fastlstm: error: x.npy cannot be read as .npy: ") and out == ""
        assert err.count("\n") == 1 and len(err) < 1000 and not os.path.exists("y.npy")


# Numbers in CSV files


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1\n1_000\n", "x.csv, line 2: expected a finite number in digits, got '1_000'"),
        ("1_000\n1\n", "x.csv, line 1: expected a finite number in digits, got '1_000'"),
        ("inf\n1\n", "x.csv, line 1: expected a finite number in digits, got 'inf'"),
        ("x\n-Infinity\n", "x.csv, line 2: expected a finite number in digits, got '-Infinity'"),
        ("nan\n1\n", "x.csv, line 1: expected a finite number in digits, got 'nan'"),
        ("1e999\n", "x.csv, line 1: expected a finite number in digits, got '1e999'"),
        (
            "9" * 5000 + "\n",
            f"x.csv, line 1: expected a finite number in digits, got '{'9' * 100}'...",
        ),
        (
            "1\n" + "z" * 5000 + "\n",
            f"x.csv, line 2: expected a finite number in digits, got '{'z' * 100}'...",
        ),
        ("a,b,c\n1,2\n", "x.csv, line 2: expected 3 columns, got 2"),
        (" \n1\n", "x.csv, line 1: expected a finite number in digits, got ' '"),
        ("1\n١٢\n", "x.csv, line 2: expected a finite number in digits, got '١٢'"),
        ("1\n\0\n", None),
        ("1\n" + "1" * 200_000 + "\n", "x.csv cannot be read as CSV: field larger than field"),
    ],
    ids=range(13),
)
def test_numbers_that_are_none(text, sentence, capsys):
    with open("x.csv", "w", newline="") as file:
        file.write(text)
    fastlstm.save(LSTM(1, 2, engine="numpy"), "m.npz")
    assert cli.main(["run", "m.npz", "x.csv", "-o", "y.npy"]) == 1
    err = assert_tame(capsys.readouterr().err)
    assert err.startswith(f"fastlstm: error: {sentence or 'x.csv'}") and len(err) < 300


def test_a_csv_in_another_encoding(capsys):
    with open("x.csv", "wb") as file:
        file.write("température\n1\n".encode("latin-1"))
    fastlstm.save(LSTM(1, 2, engine="numpy"), "m.npz")
    assert cli.main(["run", "m.npz", "x.csv", "-o", "y.npy"]) == 1
    assert "x.csv cannot be read as CSV: 'utf-8' codec can't" in capsys.readouterr().err


# What a file does not tell, or tells of another command


@pytest.mark.parametrize("tokens", [False, True])
def test_an_undecided_layout_is_asked_for(tokens, capsys):
    """If the file has no structure, one sequence runs, and a batch needs an option."""
    model = LSTM(3, 2, engine="numpy", seed=1).eval()
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
    if tokens:
        model, x = Sequential(Embedding(5, 3, seed=2), model).eval(), np.arange(8).reshape(4, 2) % 5
    fastlstm.save(model, "m.pt")  # a state dict, without structure
    call = lambda x: model(x) if tokens else model(x)[0]  # noqa: E731
    first, whole = call(x[:, 0]), call(x)
    swapped = call(np.ascontiguousarray(x.swapaxes(0, 1))).swapaxes(0, 1)
    np.save("x.npy", x)
    np.save("one.npy", x[:, 0])
    arguments = ["run", "m.pt", "x.npy", "-o", "y.npy"]
    assert cli.main(arguments) == 1
    assert capsys.readouterr().err == (
        "fastlstm: error: m.pt does not tell whether the batch comes first in x.npy, of shape "
        f"{x.shape}: give --batch-first for (B, T, ...) or --no-batch-first for (T, B, ...)\n"
    )
    assert not os.path.exists("y.npy")
    assert cli.main(["run", "m.pt", "one.npy", "-o", "y.npy"]) == 0
    np.testing.assert_allclose(np.load("y.npy"), first, rtol=0, atol=1e-6)
    for option, expected in (("--no-batch-first", whole), ("--batch-first", swapped)):
        assert cli.main([*arguments, option]) == 0
        np.testing.assert_allclose(np.load("y.npy"), expected, rtol=0, atol=1e-6)


def test_a_forecaster_is_named_to_its_own_command(capsys):
    _forecaster()
    for options in ([], ["--prefix", "0"]):
        assert cli.main(["run", "f.npz", "x.csv", "-o", "y.csv", *options]) == 1
        assert capsys.readouterr().err == (
            "fastlstm: error: f.npz is a forecaster, whose model takes and gives standardised "
            "values: use `fastlstm forecast`\n"
        )
    assert not os.path.exists("y.csv")


# Destinations are tried before the work


def test_lengths_that_nobody_takes(capsys):
    fastlstm.save(Linear(3, 2), "m.npz")
    np.save("x.npy", VALUES)
    assert cli.main(["run", "m.npz", "x.npy", "-o", "y.npy", "--lengths", "2"]) == 1
    assert capsys.readouterr().err == (
        "fastlstm: error: --lengths needs a model with an LSTM, m.npz has none\n"
    )
    assert cli.main(["run", "m.npz", "x.npy", "-o", "y.npy"]) == 0
    expected = fastlstm.load("m.npz")(VALUES)
    np.testing.assert_allclose(np.load("y.npy"), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_last_of_two_directions(batch_first):
    """The output is that from Python, where Last takes both directions from its LSTM."""
    lstm = LSTM(3, 2, bidirectional=True, batch_first=batch_first, engine="numpy", seed=1)
    model = Sequential(Sequential(lstm, Last()), Linear(4, 2, seed=2)).eval()
    fastlstm.save(model, "m.npz")
    x = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    np.save("x.npy", x)
    assert cli.main(["run", "m.npz", "x.npy", "-o", "y.npy"]) == 0
    np.testing.assert_allclose(np.load("y.npy"), model(x), rtol=0, atol=1e-6)
    assert cli.main(["run", "m.npz", "x.npy", "-o", "y.npy", "--lengths", "1,3,2,4,2"]) == (
        1 if batch_first else 0
    )
    assert np.load("y.npy").shape == ((4, 2) if batch_first else (5, 2))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("run m.npz x.npy -o x.npy", "x.npy"),
        ("run m.npz x.npy -o y.npy --state-out m.npz", "m.npz"),
        ("run m.npz x.npy -o link.npy", "link.npy"),
        ("run m.npz x.npy -o lengths.npy --lengths lengths.npy", "lengths.npy"),
        ("forecast f.npz x.csv -o x.csv", "x.csv"),
        ("forecast f.npz x.csv -o ./x.csv", "x.csv"),
    ],
)
def test_what_is_read_is_not_written_over(line, name, capsys):
    _forecaster()
    fastlstm.save(LSTM(3, 2, engine="numpy"), "m.npz")
    np.save("x.npy", VALUES)
    os.symlink("x.npy", "link.npy")
    np.save("lengths.npy", [2])
    before = {name: pathlib.Path(name).read_bytes() for name in os.listdir()}
    assert cli.main(line.split()) == 1
    assert capsys.readouterr().err == (
        f"fastlstm: error: {name} cannot be written: it is read from\n"
    )
    assert before == {name: pathlib.Path(name).read_bytes() for name in os.listdir()}


def test_a_run_without_standard_error_shows_no_bar(monkeypatch):
    fastlstm.save(LSTM(3, 2, engine="numpy"), "m.npz")
    np.save("x.npy", VALUES)
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=pytest.fail))
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["run", "m.npz", "x.npy", "-o", "y.npy"]) == 0


@needs_full
def test_an_output_that_fills_up_is_named(capsys):
    fastlstm.save(LSTM(3, 2, engine="numpy"), "m.npz")
    np.save("x.npy", VALUES)
    os.symlink("/dev/full", "y.npy")
    os.symlink("/dev/full", "s.npz")
    assert cli.main(["run", "m.npz", "x.npy", "-o", "y.npy"]) == 1
    sentence = "fastlstm: error: {} cannot be written: No space left on device\n"
    assert capsys.readouterr().err == sentence.format("y.npy")
    assert cli.main(["run", "m.npz", "x.npy", "-o", "z.npy", "--state-out", "s.npz"]) == 1
    assert capsys.readouterr().err == sentence.format("s.npz")
    assert os.path.islink("y.npy") and os.path.islink("s.npz")


@pytest.mark.parametrize("option", ["-o", "--state-out"])
def test_destinations_are_tried_before_the_work(option, monkeypatch, capsys, folder):
    monkeypatch.setattr(cli_run, "load", lambda *_, **__: pytest.fail("that was the work"))
    names = {"-o": "y.npy", "--state-out": "s.npz"}
    (folder / names[option]).mkdir()
    arguments = [part for pair in names.items() for part in pair]
    assert cli.main(["run", "m.npz", "x.npy", *arguments]) == 1
    assert capsys.readouterr().err == (
        f"fastlstm: error: {names[option]} cannot be written: it is a folder\n"
    )


@pytest.mark.parametrize("option", ["--steps", "--holdout", "--window", "--epochs", "--layers"])
@pytest.mark.parametrize("text", ["9999999999999999999", "9" * 5000, "1_0", "1.0", "0x1", "-1", ""])
def test_numbers_of_options(option, text, capsys):
    _forecaster()
    train = "train x.csv -o m.npz --target a --window 1 --horizon 1 --validation 0".split()
    line = ["forecast", "f.npz", "x.csv"] if option in ("--steps", "--holdout") else train
    with pytest.raises(SystemExit) as leave:
        cli.main([*line, f"{option}={text}"])
    assert leave.value.code == 2
    most = 1000 if option == "--layers" else 999999999
    assert capsys.readouterr().err.endswith(
        f"error: argument {option}: expected a whole number from 1 to {most}, got {text[:60]!r}\n"
    )
