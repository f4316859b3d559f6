"""Whatever is typed and whatever is in the files: an exit code and a sentence, no traceback."""

import contextlib
import io
import os
import pathlib
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import fastlstm
from fastlstm import LSTM, Embedding, Last, Linear, Sequential, cli
from fastlstm.terminal import printable
from fastlstm.training import Forecaster, Standardizer

# What an option may be given, besides what it asks for.
WORDS = [
    "", "-", "--", "0", "1", "2", "3", "-1", "1.5", "nan", "inf", "1e999", "9" * 19, "9" * 5000,
    "1_0", "\u0663", "a", "b", "a,b", "3,2", "lstm", "0.", ".", "..", "/", "/dev/null", "x.npy",
    "x.csv", "x.wav", "x.txt", "m.npz", "f.npz", "t.npz", "s.npz", "gone.npy", "gone/y.npy",
    "y.npy", "y.csv", "y.wav", "y.npz", "y.png", "folder", "folder.npz", "e\x1b[2J", "\u202e",
    "\udc80", "é", "n" * 300 + ".npy", "{}", "%s", "*", "@x.csv", "auto", "numpy", "adam", "cut",
]  # fmt: skip
OPTIONS = {
    "info": ["--key", "--prefix", "--help", "--nosuch"],
    "run": [
        "-o", "--output", "--batch-first", "--no-batch-first", "--lengths", "--state-in",
        "--state-out", "--engine", "--key", "--prefix",
    ],
    "train": [
        "-o", "--target", "--inputs", "--window", "--horizon", "--layers", "--lr", "--optimizer",
        "--validation", "--patience", "--seed", "--season", "--batch-size", "--checkpoint",
    ],
    "forecast": ["-o", "--steps", "--holdout", "--season"],
    "engines": ["--help"],
    "nosuch": ["-o"],
}  # fmt: skip
BASE = {
    "info": ["m.npz"],
    "run": ["m.npz", "x.npy", "-o", "y.npy", "--engine", "numpy"],
    "train": "x.csv -o y.npz --target a --window 2 --horizon 1 --hidden 2 --epochs 1".split(),
    "forecast": ["f.npz", "x.csv"],
    "engines": [],
    "nosuch": [],
}


def _files():
    """The inputs of every example, by name."""
    rng = np.random.default_rng(0)
    lstm = LSTM(2, 3, engine="numpy", seed=1)
    forecaster = Sequential(LSTM(1, 2, engine="numpy", seed=1), Last(), Linear(2, 1, seed=2))
    fastlstm.save(lstm, "m.npz")
    fastlstm.save(lstm, "m.pt")
    fastlstm.save(Sequential(Embedding(4, 2, seed=1), lstm, Linear(3, 2, seed=2)), "t.npz")
    Forecaster(
        forecaster, Standardizer([0.0], [1.0]), 3, 1, inputs=["a"], targets=["a"], columns=["a"]
    ).save("f.npz")
    x = rng.standard_normal((6, 2)).astype(np.float32)
    np.save("x.npy", x)
    np.savez("s.npz", h=x[:1, None, :1].repeat(3, 2), c=x[:1, None, :1].repeat(3, 2))
    with open("x.csv", "w") as file:
        file.write("a,b\n" + "".join(f"{n % 5},{n}.5\n" for n in range(30)))
    with open("x.txt", "w") as file:
        file.write("6 5\n")
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 60, b"WAVE", b"fmt ", 16, 1, 2, 8, 32, 4, 16)
    with open("x.wav", "wb") as file:
        file.write(head + struct.pack("<4sI", b"data", 24) + bytes(range(24)))
    names = [name for name in os.listdir() if os.path.isfile(name)]
    return {name: pathlib.Path(name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    before = os.getcwd()
    os.chdir(folder)
    os.mkdir("folder")
    os.mkdir("folder.npz")
    yield _files()
    os.chdir(before)


def attempt(files, arguments):
    """Run the command; returns its exit code after looking at what it said."""
    for name, data in files.items():
        with open(name, "wb") as file:
            file.write(data)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(arguments)
        except SystemExit as leave:
            code = leave.code
    said = err.getvalue()
    assert code in (0, 1, 2), (arguments, said)
    assert "please report it" not in said and "Traceback" not in said, (arguments, said)
    if code == 1:
        lines = [line for line in said.splitlines() if line.startswith("fastlstm: error: ")]
        assert len(lines) == 1 and len(lines[0]) < 4000 + sum(map(len, arguments)), said
    assert all(c == "\n" or printable(c) == c for c in said + out.getvalue()), (arguments, said)
    assert not [name for name in os.listdir() if name.endswith(".fastlstm")]
    return code


quiet = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def test_the_commands_themselves_are_right(files):
    """Otherwise nothing that follows would get beyond the first check."""
    for command in ("info", "run", "train", "forecast", "engines"):
        assert attempt(files, [command, *BASE[command]]) == 0
    assert attempt(files, ["run", "m.npz", "x.wav", "-o", "y.wav", "--state-in", "s.npz"]) == 0
    assert attempt(files, ["run", "m.npz", "x.csv", "-o", "y.csv", "--state-in", "s.npz"]) == 0


@quiet
@given(st.data())
def test_whatever_is_typed(files, data):
    command = data.draw(st.sampled_from(sorted(OPTIONS)))
    line = list(BASE[command])
    for _ in range(data.draw(st.integers(1, 3))):
        words = data.draw(st.lists(st.sampled_from(WORDS), max_size=2))
        if data.draw(st.booleans()):
            words.insert(0, data.draw(st.sampled_from(OPTIONS[command])))
            place = len(line)
        else:
            place = data.draw(st.integers(0, len(line)))
        drop = data.draw(st.integers(0, 1))
        line[place : place + drop] = words
    # what is right and merely long is no fault
    assume("9" * 19 not in line or command != "train")
    attempt(files, [command, *line])


@quiet
@given(st.data())
def test_whatever_is_in_the_files(files, data):
    """Bytes of the files are changed, cut out or put in."""
    name = data.draw(st.sampled_from(sorted(files)))
    damaged = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged)))
        width = data.draw(st.sampled_from([0, 1, 2, 8, 10_000]))
        damaged[place : place + width] = data.draw(
            st.one_of(
                st.sampled_from(
                    [b"", b"\0", b"-", b"9" * 30, b"(" * 100, b'"', b"\n", b",", b"\x1b[2J",
                     b"\xff\xff\xff\xff", b"nan", b"1_0", b";", b"\xc2\x9b", b"\r"]
                ),
                st.binary(max_size=4),
            )
        )  # fmt: skip
    files = files | {name: bytes(damaged)}
    lines = {
        "x.npy": ["run m.npz x.npy -o y.npy", "run t.npz x.npy -o y.npy"],
        "x.csv": ["run m.npz x.csv -o y.npy", "forecast f.npz x.csv --steps 2",
                  "train x.csv -o y.npz --target a --window 2 --horizon 1 --hidden 2 --epochs 1"],
        "x.wav": ["run m.npz x.wav -o y.wav"],
        "x.txt": ["run m.npz x.npy -o y.npy --lengths x.txt"],
        "s.npz": ["run m.npz x.npy -o y.npy --state-in s.npz"],
        "m.pt": ["info m.pt", "run m.pt x.npy -o y.npy"],
        "m.npz": ["info m.npz", "run m.npz x.npy -o y.npy"],
        "t.npz": ["info t.npz --prefix 1", "run t.npz x.npy -o y.npy"],
        "f.npz": ["info f.npz", "forecast f.npz x.csv", "run f.npz x.csv -o y.csv"],
    }  # fmt: skip
    attempt(files, data.draw(st.sampled_from(lines[name])).split())


@settings(quiet, max_examples=40)
@given(st.binary(max_size=300))
@example(b"\x93NUMPY\x01\x00\x03\x00(((")
@example(b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\xff")
@example(b"PK\x03\x04")
@example(b"\x1f\x8b\x08")
@example(b"\x80\x04\x95")
def test_files_of_any_bytes(files, data):
    for name, line in (
        ("x.npy", "run m.npz x.npy -o y.npy"),
        ("x.wav", "run m.npz x.wav -o y.npy"),
        ("x.csv", "run m.npz x.csv -o y.npy"),
        ("m.npz", "info m.npz"),
        ("s.npz", "run m.npz x.npy -o y.npy --state-in s.npz"),
    ):
        attempt(files | {name: data}, line.split())
