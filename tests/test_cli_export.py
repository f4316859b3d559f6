"""`fastlstm export`: headers that C and C++ compile, `.fl` files, and what is refused."""

import re
import shutil
import subprocess
from pathlib import Path

import fl_reader
import numpy as np
import pytest

import fastlstm
from fastlstm import LSTM, Embedding, Last, Linear, Sequential, cli
from fastlstm.training import Forecaster, Standardizer


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, so that names are short and files can be listed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model():
    parts = {"lstm": LSTM(3, 5, seed=1), "last": Last(), "fc": Linear(5, 2, seed=2)}
    return Sequential(parts).eval()


def export(*arguments):
    assert cli.main(["export", *arguments]) == 0


def error_of(capsys, *arguments):
    """The one line that the command leaves on stderr when it fails; no file appears or changes."""
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    assert cli.main(["export", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fastlstm: error: ") and err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before
    return err.removeprefix("fastlstm: error: ").removesuffix("\n")


def in_header(path, name):
    """The bytes of the array in a header."""
    found = re.search(rf"unsigned char {name}\[(\d+)\] = {{([^}}]*)}};", Path(path).read_text())
    data = bytes(int(number) for number in found[2].split(",") if number.strip())
    assert len(data) == int(found[1])
    return data


def test_a_header_holds_the_file():
    fastlstm.save(model(), "m.npz")
    export("m.npz", "-o", "m.h", "--sample-rate", "16000")
    export("m.npz", "-o", "m.fl", "--sample-rate", "16000")
    data = Path("m.fl").read_bytes()
    assert in_header("m.h", "m") == data
    fastlstm.save(model(), "saved.fl", sample_rate=16000)
    assert Path("saved.fl").read_bytes() == data
    text = Path("m.h").read_text()
    assert text.startswith("/* From m.npz by `fastlstm export`, for fl_model_load")
    assert "(lstm): LSTM(3, 5)\n" in text and f"{len(data)} bytes. */" in text


PROGRAM = """\
#include "m.h"
#include "m.h"
#include <stdio.h>

int main(void) {
    if (model_size != sizeof model || (size_t)model % 64)
        return 1;
    return fwrite(model, 1, model_size, stdout) != model_size;
}
"""


@pytest.mark.parametrize(
    "compiler, suffix, standard",
    [
        ("gcc", "c", "c11"),
        ("g++", "cpp", "c++17"),
        ("clang", "c", "c11"),
        ("clang++", "cpp", "c++17"),
    ],
)
def test_compilers_take_the_header(compiler, suffix, standard):
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    # Names that could end a comment, begin another one, or go on in the next line.
    named = Sequential({"*/ int x; /*/": Linear(3, 1, seed=0), "ends in \\": LSTM(1, 2, seed=0)})
    fastlstm.save(named, "a  b\\.npz")
    export("a  b\\.npz", "-o", "m.h", "--name", "model")
    Path(f"m.{suffix}").write_text(PROGRAM)
    warnings = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
    command = [compiler, f"-std={standard}", *warnings, f"m.{suffix}", "-o", "m"]
    subprocess.run(command, check=True)
    run = subprocess.run(["./m"], check=True, stdout=subprocess.PIPE)
    assert run.stdout == in_header("m.h", "model")
    assert fl_reader.decode(run.stdout).takes == 3


def test_names():
    fastlstm.save(model(), "m.npz")
    for file, name in (
        ("a b-c.h", "a_b_c"),
        ("2.h", "model_2"),
        ("float.h", "model_float"),
        ("ä.h", "model__"),
        ("_x.h", "_x"),
        ("fastlstm.h", "model_fastlstm"),
        ("fl_model.h", "model_fl_model"),
        ("linux.h", "model_linux"),
        ("concept.h", "model_concept"),
    ):
        export("m.npz", "-o", file)
        assert in_header(file, name)
        guard = f"FASTLSTM_MODEL_{name}"
        assert f"#ifndef {guard}\n#define {guard}\n" in Path(file).read_text()


TOGETHER = """\
#include "fastlstm.hpp"
#include "amp.h"
#include "others/Amp.h"

int main() { return amp_size + Amp_size + sizeof(model_fastlstm) - 3 * sizeof amp; }
"""


def test_headers_in_one_program(tmp_path):
    """Of names that are equal but for case; beside the library's headers; that of a user's own."""
    shutil.which("g++") or pytest.skip("needs g++")
    fastlstm.save(model(), "m.npz")
    Path("others").mkdir()  # as some systems take both names for one file
    for name in ("amp.h", "others/Amp.h", "fastlstm.h"):
        export("m.npz", "-o", name)
    Path("library").mkdir()
    for header in Path(fastlstm.get_include()).glob("fastlstm.h*"):
        shutil.copy(header, "library")
    own = "#define AMP_H\n#define FASTLSTM_H_\n"  # as guards of headers mostly are
    Path("fastlstm.h").rename("model.h")
    program = f'{own}#include "library/fastlstm.h"\n#include "model.h"\n{TOGETHER}'
    Path("m.cpp").write_text(program)
    command = ["g++", "-std=c++20", "-Wall", "-Werror", "-Ilibrary", "m.cpp", "-o", "m"]
    subprocess.run(command, check=True)
    assert subprocess.run(["./m"]).returncode == 0


def test_a_state_dict_of_torch_in_an_order():
    fastlstm.save(model(), "m.pt")
    export("m.pt", "-o", "m.fl", "--order", "lstm, Last, fc,ReLU")
    kinds = [node.kind for node in fl_reader.decode(Path("m.fl").read_bytes()).nodes]
    assert kinds == [1, 9, 3, 4]
    export("m.pt", "-o", "fc.fl", "--prefix", "fc")
    (node,) = fl_reader.decode(Path("fc.fl").read_bytes()).nodes
    assert node.kind == 3 and node.arrays[0].tobytes() == model().fc.weight.tobytes()


def test_a_model_for_c_again():
    fastlstm.save(Sequential(Embedding(4, 3, seed=0), LSTM(3, 2, seed=0)), "m.fl")
    export("m.fl", "-o", "again.fl")
    assert Path("again.fl").read_bytes() == Path("m.fl").read_bytes()


def test_what_is_refused(capsys):
    fastlstm.save(model(), "m.npz")
    assert error_of(capsys, "m.npz", "-o", "m.c") == "output must end in .h or .fl, got m.c"
    assert error_of(capsys, "m.npz", "-o", "no/m.h") == (
        "no/m.h cannot be written: there is no folder no"
    )
    assert error_of(capsys, "gone.npz", "-o", "m.h").endswith(
        "No such file or directory: 'gone.npz'"
    )
    assert error_of(capsys, "m.npz", "-o", "m.h", "--name", "a-b") == (
        "--name must be a name in C, got 'a-b'"
    )
    for name in ("class", "alignas", "_Bool", "size_t", "int64_t", "fl_run", "FL_OK", "typeof"):
        assert error_of(capsys, "m.npz", "-o", "m.h", "--name", name) == (
            f"--name must be free for use in C and C++, got '{name}'"
        )
    assert error_of(capsys, "m.npz", "-o", "m.fl", "--name", "a") == (
        "--name is for headers, a .fl file has none"
    )
    assert error_of(capsys, "m.npz", "-o", "m.h", "--order", "lstm,fc") == (
        "m.npz: order= is for files that do not tell it; this one does"
    )
    fastlstm.save(model(), "m.fl")
    assert error_of(capsys, "m.fl", "-o", "m.fl") == "m.fl cannot be written: it is read from"
    softmax = Sequential(Linear(3, 2), fastlstm.Softmax(dim=0))
    fastlstm.save(softmax, "s.npz")
    assert error_of(capsys, "s.npz", "-o", "s.h") == (
        "s.npz: 1 (Softmax) sums over dim=0, and a .fl file holds sums over the features alone: "
        "give dim=-1"
    )


def test_other_commands_take_the_file(capsys):
    fastlstm.save(model(), "m.fl", sample_rate=44100)
    assert cli.main(["info", "m.fl"]) == 0
    out = capsys.readouterr().out
    assert "in C: 3 values in and 2 out for a step, at 44100 Hz\nnodes: LSTM, last, linear\n" in out
    x = np.random.default_rng(0).standard_normal((7, 3)).astype("float32")
    np.save("x.npy", x)
    assert cli.main(["run", "m.fl", "x.npy", "-o", "y.npy"]) == 0
    np.testing.assert_allclose(np.load("y.npy"), model()(x), rtol=1e-5)
    assert cli.main(["convert", "m.fl", "m.npz"]) == 0
    assert repr(fastlstm.load("m.npz")) == repr(model())
    assert cli.main(["convert", "m.npz", "again.fl"]) == 0
    kinds = [node.kind for node in fl_reader.decode(Path("again.fl").read_bytes()).nodes]
    assert kinds == [1, 9, 3]


def test_info_of_a_model_for_c_alone(capsys):
    from fastlstm.formats import fl

    taken = fl.Node(fl.SELECT, (0,), 3, 1, whole=(2,))
    double = fl.Node(fl.LINEAR, (1,), 1, 1, arrays=(np.array([[2]], np.float32), None))
    with open("c.fl", "wb") as file:
        fl.write_nodes(file, [taken, double], takes=3)
    assert cli.main(["info", "c.fl"]) == 0
    out = capsys.readouterr().out
    assert "its model can run in C alone: node 0 is a select, for which fastlstm has no lay" in out
    assert "nodes: select, linear\n" in out and "1_weight   (1, 1)        1\n" in out
    assert "--prefix" not in out
    assert cli.main(["run", "c.fl", "x.npy", "-o", "y.npy"]) == 1
    assert "its model can run in C alone" in capsys.readouterr().err


# ---- forecasters --------------------------------------------------------------------------------


def forecaster(dtype="float64"):
    """Of columns 2 and 0 of 3, 4 steps of column 1 and 2."""
    rng = np.random.default_rng(0)
    series = rng.standard_normal((60, 3)) * [3, 0.5, 200] + [10, -4, 3000]
    net = Sequential(
        LSTM(2, 5, batch_first=True, dtype=dtype, seed=0),
        Last(),
        Linear(5, 8, dtype=dtype, seed=1),
    )
    standardizer = Standardizer.fit(series)
    return Forecaster(net, standardizer, 6, 4, inputs=[2, 0], targets=[1, 2]), series


@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-12), ("float32", 2e-6)])
def test_a_forecaster_takes_and_gives_units(dtype, rtol):
    f, series = forecaster(dtype)
    f.save("f.fl")
    f.save("f.npz")
    export("f.npz", "-o", "exported.fl")
    export("f.npz", "-o", "f.h")
    data = Path("f.fl").read_bytes()
    assert Path("exported.fl").read_bytes() == data == in_header("f.h", "f")
    file = fl_reader.decode(data)
    assert [node.kind for node in file.nodes] == [7, 1, 9, 3, 8]
    assert (file.takes, file.gives) == (2, 8)
    window = series[-6:, [2, 0]]
    got = fl_reader.compute(file, window[:, None]).reshape(4, 2)
    np.testing.assert_allclose(got, f.forecast(series), rtol=rtol)


def test_a_forecaster_comes_back(capsys):
    f, series = forecaster()
    f.save("f.fl")
    again = Forecaster.load("f.fl")
    assert repr(again) == repr(f)
    np.testing.assert_allclose(again.forecast(series), f.forecast(series), rtol=1e-12)
    again.save("again.fl")
    assert Path("again.fl").read_bytes() == Path("f.fl").read_bytes()
    assert fastlstm.training.is_forecaster("f.fl")
    assert repr(fastlstm.load("f.fl")) == repr(f.model)
    assert cli.main(["info", "f.fl"]) == 0
    out = capsys.readouterr().out
    assert "Forecaster(window=6, horizon=4, inputs=[2, 0], targets=[1, 2])" in out
    assert "in C: 2 values in and 8 out for a step\n" in out
    assert "nodes: standardize, LSTM, last, linear, restore\n" in out
    np.save("x.npy", series)
    assert cli.main(["run", "f.fl", "x.npy", "-o", "y.npy"]) == 1
    assert "f.fl is a forecaster, whose model takes" in capsys.readouterr().err
    assert error_of(capsys, "f.fl", "-o", "f.h", "--sample-rate", "1") == (
        "f.fl is a forecaster, for which --sample-rate is not"
    )


def test_notes_that_are_not_the_nodes_are_refused():
    f, _ = forecaster()
    f.save("f.fl")
    data = Path("f.fl").read_bytes()
    other = Forecaster(f.model, Standardizer(f.standardizer.mean + 1, f.standardizer.scale), 6, 4,
                       inputs=[2, 0], targets=[1, 2])  # fmt: skip
    other.save("other.fl")
    from fastlstm.formats import fl_file

    mine, others = (fl_file.parse(bytearray(d)) for d in (data, Path("other.fl").read_bytes()))
    Path("mixed.fl").write_bytes(b"".join(fl_file.encode(mine._replace(text=others.text))))
    with pytest.raises(
        ValueError, match=r"mixed\.fl: its notes do not fit: its nodes compute somet"
    ):
        Forecaster.load("mixed.fl")


def test_scales_that_the_dtype_cannot_hold():
    f, _ = forecaster("float32")
    f.standardizer.scale[0] = 1e-60
    with pytest.raises(
        ValueError, match=r"f\.fl: float32 cannot hold the means and scales of its st"
    ):
        f.save("f.fl")
    assert not Path("f.fl").exists()
