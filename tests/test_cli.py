"""The command line against the Python API, by value; its errors, exit codes and files."""

import os
import re
import struct
import subprocess
import sys
import types
import wave

import numpy as np
import pytest

from fastlstm import LSTM, Embedding, Last, Linear, LSTMCell, Sequential, Softmax, Tanh, cli
from fastlstm.cli import engines as cli_engines
from fastlstm.cli import run as cli_run
from fastlstm.formats import save
from fastlstm.wav import Sound

X = np.random.default_rng(0).standard_normal((11, 3, 2)).astype(np.float32)  # (T, B, I)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, so that names are short and files can be listed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lstm(**options):
    return LSTM(2, 5, num_layers=2, engine="numpy", seed=1, **options).eval()


def run(model, x, *options, out="y.npy"):
    """Save `model` and `x`, run the command on them, and return what it wrote."""
    save(model, "model.npz")
    np.save("x.npy", x)
    arguments = ["run", "model.npz", "x.npy", "-o", out, "--engine", "numpy", *options]
    assert cli.main(arguments) == 0
    return np.load(out) if out.endswith(".npy") else out


def error_of(capsys, *arguments):
    """The one line that the command leaves on stderr when it fails."""
    before = sorted(os.listdir())
    assert cli.main(list(arguments)) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fastlstm: error: ") and err.count("\n") == 1
    assert sorted(os.listdir()) == before
    return err.removeprefix("fastlstm: error: ").removesuffix("\n")


def assert_same(actual, expected):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


# Values


@pytest.mark.parametrize("chunk", [1, 4, 11])
@pytest.mark.parametrize(
    ("model", "x"),
    [
        (lstm(), X),
        (lstm(), X[:, 0]),
        (lstm(batch_first=True), X.swapaxes(0, 1)),
        (lstm(proj_size=3, dtype="float64"), X.astype(np.float64)),
        (Sequential({"rnn": lstm(), "tanh": Tanh(), "fc": Linear(5, 4, seed=2)}), X),
        (Sequential(Sequential(lstm(), LSTM(5, 3, engine="numpy", seed=3)), Softmax()), X),
        (Sequential(Embedding(9, 2, seed=4), lstm()), np.arange(33).reshape(11, 3) % 9),
        (Sequential(Embedding(9, 2, seed=4), lstm()), np.arange(11) % 9),
    ],
    ids="batched unbatched batch-first projected head nested tokens unbatched-tokens".split(),
)
def test_chunks_give_the_whole(model, x, chunk, monkeypatch):
    """However time is cut, the output is that of one call of the model from Python."""
    seen = []
    convert = cli_run._convert
    monkeypatch.setattr(cli_run, "_convert", lambda x, *rest: seen.append(x) or convert(x, *rest))
    widest = max(max(p.shape) for p in model.state_dict().values())
    batch = 3 if 3 in x.shape else 1
    monkeypatch.setattr(cli_run, "CHUNK_VALUES", chunk * batch * widest)
    expected = model(x)
    assert_same(run(model, x), expected[0] if isinstance(model, LSTM) else expected)
    assert len(seen) == -(-11 // chunk)


@pytest.mark.parametrize(
    ("model", "options", "call"),
    [
        (lstm(bidirectional=True), [], {}),
        (lstm(), ["--lengths", "3,11,5"], {"lengths": [3, 11, 5]}),
        (Sequential(lstm(), Last(), Linear(5, 1, seed=2)), [], {}),
        (Sequential(lstm(), Last()), ["--lengths", "3,11,5"], {"lengths": [3, 11, 5]}),
        (Sequential(lstm(), Softmax(dim=0)), [], {}),
    ],
    ids="bidirectional lengths last last-of-lengths softmax-over-time".split(),
)
def test_models_that_need_the_whole_are_not_cut(model, options, call, monkeypatch):
    monkeypatch.setattr(cli_run, "CHUNK_VALUES", 1)
    expected = model(X, **call)
    assert_same(run(model, X, *options), expected[0] if isinstance(model, LSTM) else expected)


def test_batch_first_option_reads_and_writes_the_batch_first(monkeypatch):
    """It does so for a model whose file does not say so; without a batch it changes nothing."""
    monkeypatch.setattr(cli_run, "CHUNK_VALUES", 1)
    expected, _ = lstm()(X)
    assert_same(run(lstm(), X.swapaxes(0, 1), "--batch-first"), expected.swapaxes(0, 1))
    assert_same(run(lstm(), X[:, 0], "--batch-first"), expected[:, 0])
    model = Sequential(lstm(), Last())
    assert_same(run(model, X.swapaxes(0, 1), "--batch-first"), model(X))


def test_batch_first_option_of_a_torch_file(torch):
    """Such a file does not say that its model was made with batch_first=True."""
    net = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(2, 5, batch_first=True)})
    net["fc"] = torch.nn.Linear(5, 4)
    torch.save(net.state_dict(), "model.pt")
    x = np.ascontiguousarray(X.swapaxes(0, 1))
    np.save("x.npy", x)
    assert cli.main(["run", "model.pt", "x.npy", "-o", "y.npy", "--batch-first"]) == 0
    expected = net["fc"](net["rnn"](torch.from_numpy(x))[0]).detach().numpy()
    np.testing.assert_allclose(np.load("y.npy"), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("text", ["3,11,5", "lengths.txt", "lengths.npy"])
def test_lengths_from_the_line_or_a_file(text):
    np.save("lengths.npy", [3, 11, 5])
    with open("lengths.txt", "w") as file:
        file.write("3 11\n5\n")
    assert_same(run(lstm(), X, "--lengths", text), lstm()(X, lengths=[3, 11, 5])[0])


def test_a_stream_resumes_from_its_states(monkeypatch):
    """Two halves of a file, with the states handed on, give what the whole file gives."""
    monkeypatch.setattr(cli_run, "CHUNK_VALUES", 1)
    model = Sequential(lstm(), Linear(5, 1, seed=2))
    first = run(model, X[:7], "--state-out", "s.npz")
    second = run(model, X[7:], "--state-in", "s.npz", "--state-out", "s.npz")
    assert_same(np.concatenate([first, second]), model(X))
    _, (h, c) = model[0](X)
    with np.load("s.npz") as state:
        assert sorted(state) == ["c", "h"]
        assert_same(state["h"], h)
        assert_same(state["c"], c)


def test_states_of_a_bidirectional_lstm_and_of_another_dtype():
    h, c = np.full((2, 4, 3, 5), 0.25)
    np.savez("s.npz", h=h, c=c)
    model = lstm(bidirectional=True)
    expected, _ = model(X, (h.astype(np.float32), c.astype(np.float32)))
    assert_same(run(model, X, "--state-in", "s.npz"), expected)


def test_values_are_converted_to_the_models_dtype():
    expected, _ = lstm()(np.round(X))
    for dtype in (np.float64, np.float16, np.int8, ">f4"):
        assert_same(run(lstm(), np.round(X).astype(dtype)), expected)
    tokens = Sequential(Embedding(9, 2, seed=4), lstm())
    assert_same(run(tokens, np.array([0.0, 8.0, 3.0])), tokens([0, 8, 3]))


def test_fortran_order_and_input_are_left_alone():
    assert_same(run(lstm(), np.asfortranarray(X)), lstm()(X)[0])
    np.testing.assert_array_equal(np.load("x.npy"), X)


def test_prefix_takes_one_lstm_of_several():
    model = Sequential({"a": lstm(), "b": LSTM(5, 2, engine="numpy", seed=3)})
    assert_same(run(model, X, "--prefix", "a"), lstm()(X)[0])


def test_prefix_takes_any_part():
    head = Linear(5, 4, seed=3)
    model = Sequential({"net": Sequential({"a": lstm(), "fc": head}), "out": Linear(4, 1)})
    assert_same(run(model, X, "--prefix", "net"), head(lstm()(X)[0]))
    save(model, "model.pt")
    np.save("x.npy", X)
    options = ["x.npy", "-o", "y.npy", "--prefix", "net", "--no-batch-first"]
    assert cli.main(["run", "model.pt", *options]) == 0
    assert_same(np.load("y.npy"), head(lstm()(X)[0]))


@pytest.mark.parametrize("options", [[], ["--lengths", "3,1,2"]])
def test_a_layout_that_the_file_does_not_tell_is_asked_for(capsys, options):
    model = Sequential({"embedding": Embedding(9, 2, seed=4), "lstm": lstm()})
    save(model, "model.pt")
    tokens = np.array([[0, 8, 3, 1], [5, 2, 7, 4], [6, 6, 1, 0]])
    np.save("x.npy", tokens)
    np.save("one.npy", tokens[0])
    message = error_of(capsys, "run", "model.pt", "x.npy", "-o", "y.npy", *options)
    assert message == (
        "model.pt does not tell whether the batch comes first in x.npy, of shape (3, 4): give "
        "--batch-first for (B, T, ...) or --no-batch-first for (T, B, ...)"
    )
    assert not os.path.exists("y.npy")
    assert cli.main(["run", "model.pt", "one.npy", "-o", "y.npy"]) == 0
    assert_same(np.load("y.npy"), model(tokens[0]))
    lengths = [3, 1, 2] if options else None
    assert cli.main(["run", "model.pt", "x.npy", "-o", "y.npy", *options, "--batch-first"]) == 0
    expected = model(tokens.T, lengths=lengths).swapaxes(0, 1)
    assert_same(np.load("y.npy"), expected)
    assert cli.main(["run", "model.pt", "x.npy", "-o", "y.npy", "--no-batch-first"]) == 0
    assert_same(np.load("y.npy"), model(tokens))


def test_key_takes_one_state_dict_of_a_checkpoint(torch):
    nets = [torch.nn.LSTM(2, 5) for _ in range(2)]
    torch.save({"net": nets[0].state_dict(), "ema": nets[1].state_dict()}, "model.pt")
    np.save("x.npy", X)
    options = ["--key", "ema", "--no-batch-first"]
    assert cli.main(["run", "model.pt", "x.npy", "-o", "y.npy", *options]) == 0
    expected = nets[1](torch.from_numpy(X))[0].detach().numpy()
    np.testing.assert_allclose(np.load("y.npy"), expected, rtol=0, atol=1e-6)


# Other files


def write(name, text):
    with open(name, "w", newline="") as file:
        file.write(text)


@pytest.mark.parametrize(
    "text",
    [
        "1,-2\n0.5,3e-1\n",
        "left,right\r\n1,-2\r\n0.5,.3\r\n",
        '\ufeff1,-2\n\n" 0.50",0.3',
    ],
    ids=["plain", "header", "byte order mark, quotes, no last line end"],
)
def test_csv_in(text):
    with open("x.csv", "w", newline="", encoding="utf-8") as file:
        file.write(text)
    save(lstm(), "model.npz")
    assert cli.main(["run", "model.npz", "x.csv", "-o", "y.npy", "--engine", "numpy"]) == 0
    assert_same(np.load("y.npy"), lstm()(np.array([[1, -2], [0.5, 0.3]], np.float32))[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_csv_out_reads_back_as_the_same_numbers(dtype, monkeypatch):
    monkeypatch.setattr(cli_run, "CHUNK_VALUES", 1)
    model, x = lstm(dtype=dtype), X[:, :1]
    expected = run(model, x)
    for given in (x, x[:, 0]):
        run(model, given, out="y.csv")
        np.testing.assert_array_equal(np.loadtxt("y.csv", dtype, delimiter=","), expected[:, 0])


def test_csv_out_of_a_classifier_is_a_row_for_every_sequence():
    model = Sequential(lstm(), Last(), Linear(5, 4, seed=2))
    run(model, X, out="y.csv")
    assert_same(np.loadtxt("y.csv", np.float32, delimiter=","), model(X))
    run(model, X[:, 0], out="y.csv")
    assert_same(np.loadtxt("y.csv", np.float32, delimiter=",", ndmin=2), model(X[:, 0])[None])


@pytest.mark.parametrize(
    ("width", "data", "left", "right"),
    [
        (1, bytes([0, 128, 255, 129]), [-1, 127 / 128], [0, 1 / 128]),
        (2, struct.pack("<4h", -32768, 0, 32767, -1), [-1, 32767 / 32768], [0, -1 / 32768]),
        (
            3,
            bytes.fromhex("000080 000000 ffff7f ffffff"),
            [-1, 1 - 2.0**-23],
            [0, -(2.0**-23)],
        ),
        (4, struct.pack("<4i", -(2**31), 0, 2**30, -1), [-1, 0.5], [0, -(2.0**-31)]),
    ],
)
def test_wav_in(width, data, left, right):
    with wave.open("x.wav", "wb") as file:
        file.setparams((2, width, 16000, 0, "NONE", ""))
        file.writeframes(data)
    np.testing.assert_array_equal(Sound("x.wav"), np.transpose([left, right]))
    save(lstm(dtype="float64"), "model.npz")
    assert cli.main(["run", "model.npz", "x.wav", "-o", "y.npy", "--engine", "numpy"]) == 0
    expected, _ = lstm(dtype="float64")(np.transpose([left, right]))
    assert_same(np.load("y.npy"), expected)


# Progress


def test_progress_waits_a_second_and_does_without_tqdm(monkeypatch):
    monkeypatch.setattr(cli_run, "CHUNK_VALUES", 1)
    bars = []

    def tqdm(starts, **options):
        bars.append((len(starts), options["delay"]))
        return starts

    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=tqdm))
    without_terminal = run(lstm(), X)
    assert bars == []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with_bar = run(lstm(), X)
    assert bars == [(11, 1)]
    np.testing.assert_array_equal(without_terminal, with_bar)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    np.testing.assert_array_equal(run(lstm(), X), with_bar)


def test_nothing_is_said_when_all_is_well(capsys):
    run(lstm(), X)
    assert capsys.readouterr() == ("", "")


# What can go wrong


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b\n1,2\n3\n", "x.csv, line 3: expected 2 columns, got 1"),
        ("1,2\n3,4,5\n", "x.csv, line 2: expected 2 columns, got 3"),
        ("1,2\n3,x\n", "x.csv, line 2: expected a finite number in digits, got 'x'"),
        ("1,x\n", "x.csv, line 1: expected a finite number in digits, got 'x'"),
        ("a,b\n", "x.csv holds no rows of numbers"),
        ("", "x.csv holds no rows of numbers"),
        ('1,"2', "x.csv cannot be read as CSV: unexpected end of data"),
    ],
)
def test_bad_csv(text, sentence, capsys):
    write("x.csv", text)
    save(lstm(), "model.npz")
    assert error_of(capsys, "run", "model.npz", "x.csv", "-o", "y.npy") == sentence


def test_bad_wav(capsys):
    save(lstm(), "model.npz")
    with wave.open("x.wav", "wb") as file:
        file.setparams((2, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(400))
    os.truncate("x.wav", 100)
    sentence = error_of(capsys, "run", "model.npz", "x.wav", "-o", "y.npy")
    assert sentence == "x.wav is cut off: expected 400 bytes of samples, got 56"
    write("x.wav", "no sound")
    sentence = error_of(capsys, "run", "model.npz", "x.wav", "-o", "y.npy")
    assert sentence.startswith("x.wav cannot be read as PCM .wav: ")


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (X[0, 0], "x.npy must have shape (T, features) or (T, B, features), every size at least"),
        (X[:0], "1, got (0, 3, 2)"),
        (X.astype(complex), "x.npy must hold real numbers, got dtype complex128"),
        (X.astype(float) * 1e300, "x.npy holds values that do not fit float32"),
        (X[..., :1], "Expected 2, got 1"),
    ],
    ids="dimensions empty complex overflow features".split(),
)
def test_bad_arrays(x, sentence, capsys):
    save(lstm(), "model.npz")
    np.save("x.npy", x)
    assert sentence in error_of(capsys, "run", "model.npz", "x.npy", "-o", "y.npy")


@pytest.mark.parametrize("x", [[0.5], [np.nan]])
def test_tokens_must_be_whole(x, capsys):
    save(Sequential(Embedding(9, 2), lstm()), "model.npz")
    np.save("x.npy", x)
    assert "x.npy " in error_of(capsys, "run", "model.npz", "x.npy", "-o", "y.npy")


def test_files_that_are_no_arrays(capsys):
    save(lstm(), "model.npz")
    np.save("whole.npy", X)
    with open("whole.npy", "rb") as whole, open("cut.npy", "wb") as cut:
        cut.write(whole.read()[:200])
    np.save("objects.npy", np.array([{}]), allow_pickle=True)
    np.savez("archive", x=X)
    os.rename("archive.npz", "archive.npy")
    for name in ("cut.npy", "objects.npy", "archive.npy"):
        sentence = error_of(capsys, "run", "model.npz", name, "-o", "y.npy")
        assert sentence.startswith(f"{name} cannot be read as .npy: ")
    sentence = error_of(capsys, "run", "model.npz", "gone.npy", "-o", "y.npy")
    assert sentence == "[Errno 2] No such file or directory: 'gone.npy'"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-o", "y.txt"], "output must end in .npy or .csv or .wav or .npz, got y.txt"),
        (["-o", "gone/y.npy"], "gone/y.npy cannot be written: there is no folder gone"),
        (["-o", "y.csv"], "y.csv can hold one sequence, x.npy has 3: write a .npy file"),
        (
            ["-o", "y.npy", "--lengths", "3,x"],
            "--lengths must be whole numbers as 3,5,2, got '3,x'",
        ),
        (
            ["-o", "y.npy", "--state-in", "model.npz"],
            "model.npz must hold the arrays h and c, got weight_ih_l0",
        ),
        (["-o", "y.npy", "--prefix", "gone"], "nothing has the prefix 'gone'; there are ''"),
        (["-o", "y.npy", "--state-out", "y.npy"], "--state-out must end in .npz, got y.npy"),
        (["-o", "y.npy", "--state-out", "s.txt"], "--state-out must end in .npz, got s.txt"),
    ],
)
def test_bad_options(options, sentence, capsys):
    save(LSTM(2, 5), "model.npz")
    np.save("x.npy", X)
    assert sentence in error_of(capsys, "run", "model.npz", "x.npy", *options).replace("\\", "/")


def test_input_must_have_a_known_suffix(capsys):
    sentence = error_of(capsys, "run", "model.npz", "x.mp3", "-o", "y.npy")
    assert sentence == "input must end in .npy or .csv or .wav or .npz, got x.mp3"


def test_models_that_cannot_run(capsys):
    np.save("x.npy", X)
    save(LSTMCell(2, 5), "model.npz")
    sentence = error_of(capsys, "run", "model.npz", "x.npy", "-o", "y.npy")
    assert sentence == "model.npz holds an LSTMCell, which only Python code can step"
    save(Sequential(LSTM(2, 5), LSTM(5, 5)), "model.npz")
    sentence = error_of(capsys, "run", "model.npz", "x.npy", "-o", "y.npy", "--state-out", "s.npz")
    assert sentence == "--state-in and --state-out need a model with one LSTM, model.npz has 2"


def test_errors_of_many_lines_become_one(monkeypatch, capsys):
    def fail(*_, **__):
        raise ValueError("first:\n\tsecond\n\tthird")

    monkeypatch.setattr(cli_run, "load", fail)
    sentence = error_of(capsys, "run", "model.npz", "x.npy", "-o", "y.npy")
    assert sentence == "first: second third"


@pytest.mark.parametrize(("fault", "code"), [(KeyboardInterrupt, 130), (OSError("full"), 1)])
def test_a_run_that_breaks_off_leaves_the_old_files(fault, code, monkeypatch):
    """No half of an output is left, neither under its name nor beside it."""
    monkeypatch.setattr(cli_run, "CHUNK_VALUES", 1)
    old = run(lstm(), X, "--state-out", "s.npz")
    before = sorted(os.listdir())
    convert, left = cli_run._convert, iter(range(5))

    def convert_a_few(*arguments):
        if next(left, None) is None:
            raise fault
        return convert(*arguments)

    monkeypatch.setattr(cli_run, "_convert", convert_a_few)
    arguments = ["run", "model.npz", "x.npy", "-o", "y.npy", "--state-out", "s.npz"]
    assert cli.main(arguments) == code
    assert sorted(os.listdir()) == before
    np.testing.assert_array_equal(np.load("y.npy"), old)


# The other commands


def test_info(capsys):
    save(Sequential({"rnn": LSTM(2, 300), "fc": Linear(300, 1)}), "model.npz")
    assert cli.main(["info", "model.npz"]) == 0
    size = os.path.getsize("model.npz") / 1024**2
    assert capsys.readouterr().out == (
        f"model.npz: {size:.1f} MiB\n"
        "Sequential(\n"
        "  (rnn): LSTM(2, 300)\n"
        "  (fc): Linear(in_features=300, out_features=1, bias=True)\n"
        ")\n"
        "parameter         shape         values\n"
        "rnn.weight_ih_l0  (1200, 2)      2,400\n"
        "rnn.weight_hh_l0  (1200, 300)  360,000\n"
        "rnn.bias_ih_l0    (1200,)        1,200\n"
        "rnn.bias_hh_l0    (1200,)        1,200\n"
        "fc.weight         (1, 300)         300\n"
        "fc.bias           (1,)               1\n"
        "total             float32      365,101\n"
        "1.4 MiB in memory\n"
    )


def test_info_where_the_file_does_not_tell_the_layers(capsys):
    layers = {"fc1": Linear(2, 2), "enc": LSTM(2, 3), "rnn": LSTM(4, 1)}
    arrays = {f"{n}.{p}": v for n, layer in layers.items() for p, v in layer.state_dict().items()}
    np.savez("model.npz", **arrays, **{"norm.count": np.array(7), "a\x1b": np.ones(2, bool)})
    assert cli.main(["info", "model.npz"]) == 0
    out, err = capsys.readouterr()
    size, reason, *table = out.splitlines()
    assert err == "" and re.fullmatch(r"model\.npz: \d\.\d KiB", size)
    assert reason.startswith("how its parts go together is not told by names and shapes: 'a\\x1b'")
    assert "'' (not known here: 'a\\x1b' (2,))" in reason
    assert table[:2] == [
        "parameter         shape                 values",
        "fc1.weight        (2, 2)                     4",
    ]
    assert table[-5:] == [
        "norm.count        ()                         1",
        "'a\\x1b'           (2,)                       2",
        "total             bool, float32, int64     121",
        "0.5 KiB in memory",
        "for --prefix: 'fc1', 'enc', 'rnn'",
    ]
    save(Linear(2, 2), "model.pt")
    os.truncate("model.pt", 400)
    assert "a damaged or truncated zip file" in error_of(capsys, "info", "model.pt")
    assert "nothing has the prefix 'gone'; there are 'fc1', 'enc', 'rnn'" in error_of(
        capsys, "info", "model.npz", "--prefix", "gone"
    )


def test_info_where_there_is_no_lstm(capsys):
    np.savez(
        "model.npz", **{"gru.weight_ih_l0": np.ones((9, 2)), "gru.weight_hh_l0": np.ones((9, 3))}
    )
    assert cli.main(["info", "model.npz"]) == 0
    out = capsys.readouterr().out
    assert "'gru' is a GRU, or an LSTM with coupled gates" in out and "--prefix" not in out


def test_engines_under_a_variable_that_names_none(capsys, monkeypatch):
    monkeypatch.setenv("FASTLSTM_ENGINE", "abacus")
    assert cli.main(["engines"]) == 1
    out, err = capsys.readouterr()
    assert re.search("^numpy +(default|available) +version ", out, re.M)
    assert re.fullmatch("fastlstm: error: .* must be one of auto, .* got 'abacus'\n", err)


def test_engines(capsys, monkeypatch):
    monkeypatch.setattr(
        cli_engines,
        "engine_info",
        lambda: {
            "fast": {"available": False, "default": False, "reason": "no luck; pip install luck"},
            "numpy": {"available": True, "default": True, "version": "2.0", "instruction_set": "X"},
            "other": {"available": True, "default": False, "version": "1", "prepare_seconds": 0.0},
        },
    )
    assert cli.main(["engines"]) == 0
    assert capsys.readouterr().out == (
        "fast    missing    no luck; pip install luck\n"
        "numpy   default    version 2.0, instruction set X\n"
        "other   available  version 1\n"
    )


def test_engines_are_those_of_this_machine(capsys):
    assert cli.main(["engines"]) == 0
    assert re.search(r"^numpy +(default|available) +version ", capsys.readouterr().out, re.M)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["info", "convert", "run", "engines", "--version"]),
        (["info", "--help"], ["MODEL", "--key", "--prefix"]),
        (
            ["run", "--help"],
            "MODEL INPUT --output --batch-first --lengths --state-in --state-out --engine "
            "--key --prefix .csv .wav .npy larger bidirectional".split(),
        ),
        (["engines", "--help"], ["usage: fastlstm engines"]),
    ],
)
def test_help(arguments, words, capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main(arguments)
    assert leave.value.code == 0
    text = capsys.readouterr().out
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("arguments", [[], ["dance"], ["info"], ["run", "m", "x"]])
def test_wrong_usage_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main(arguments)
    assert leave.value.code == 2
    assert capsys.readouterr().err.startswith("usage: fastlstm")


def command(*arguments, **options):
    line = [sys.executable, "-m", "fastlstm", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, **options)


def test_as_a_process():
    """``python -m fastlstm``: the exit code is the process's, the error is on stderr."""
    save(lstm(), "model.npz")
    np.save("x.npy", X)
    done = command("run", "model.npz", "x.npy", "-o", "y.npy", "--engine", "numpy")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert_same(np.load("y.npy"), lstm()(X)[0])
    done = command("info", "gone.npz")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "fastlstm: error: [Errno 2] No such file or directory: 'gone.npz'\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE to imitate")
def test_a_reader_that_goes_away_is_no_error():
    save(Sequential(*(LSTM(1, 1) for _ in range(4))), "model.npz")
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "fastlstm", "info", "model.npz"]
    done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
