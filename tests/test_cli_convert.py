"""`fastlstm convert`: between all formats, by value; what it refuses, before any work."""

from pathlib import Path

import numpy as np
import pytest

import fastlstm
from fastlstm import LSTM, Last, Linear, Sequential, cli

pytest.importorskip("onnx", reason="ONNX files need onnx")

SUFFIXES = ["npz", "safetensors", "pt", "pth", "onnx"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, so that names are short and files can be listed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model(**options):
    lstm = LSTM(3, 5, num_layers=2, bidirectional=True, seed=1, **options)
    return Sequential({"lstm": lstm, "last": Last(), "fc": Linear(10, 2, seed=2)}).eval()


def convert(*arguments):
    assert cli.main(["convert", *arguments]) == 0


def error_of(capsys, *arguments):
    """The one line that the command leaves on stderr when it fails; no file appears or changes."""
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    assert cli.main(["convert", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fastlstm: error: ") and err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before
    return err.removeprefix("fastlstm: error: ").removesuffix("\n")


def assert_same(again, expected):
    assert repr(again) == repr(expected)
    state = expected.state_dict()
    assert again.state_dict().keys() == state.keys()
    for name, array in again.state_dict().items():
        assert array.tobytes() == state[name].tobytes(), name


@pytest.mark.parametrize("there", ["npz", "safetensors", "onnx"])
@pytest.mark.parametrize("here", ["npz", "safetensors", "onnx"])
def test_the_same_model_in_another_format(here, there, capsys):
    fastlstm.save(model(batch_first=True), f"here.{here}")
    convert(f"here.{here}", f"there.{there}")
    assert_same(fastlstm.load(f"there.{there}"), model(batch_first=True))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "onnx"])
def test_there_and_back_by_torch(suffix):
    fastlstm.save(model(), f"here.{suffix}")
    convert(f"here.{suffix}", "there.pt")
    again = fastlstm.load("there.pt", order=["lstm", Last(), "fc"], batch_first=False)
    for name, array in model().state_dict().items():
        assert again.state_dict()[name].tobytes() == array.tobytes()


def test_a_checkpoint_of_torch(torch, capsys):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = torch.nn.LSTM(3, 4, batch_first=True)
            self.fc = torch.nn.Linear(4, 2)

    net = Net()
    torch.save({"model": {"net": net.state_dict()}, "epoch": 3}, "c.pt")
    assert error_of(capsys, "c.pt", "c.onnx", "--key", "model.net").endswith(
        "as `fastlstm convert --batch-first` does"
    )
    convert("c.pt", "c.onnx", "--key", "model.net", "--batch-first")
    again, x = fastlstm.load("c.onnx"), np.ones((2, 5, 3), "float32")
    with torch.no_grad():
        expected = net.fc(net.rnn(torch.from_numpy(x))[0]).numpy()
    np.testing.assert_allclose(again(x), expected, rtol=0, atol=1e-6)
    convert("c.onnx", "fc.npz", "--prefix", "fc")
    assert repr(fastlstm.load("fc.npz")) == "Linear(in_features=4, out_features=2, bias=True)"


def test_the_options_of_onnx():
    import onnx

    fastlstm.save(model(batch_first=True), "m.npz")
    convert("m.npz", "m.onnx", "--opset", "22", "--lengths", "--states")
    proto = onnx.load("m.onnx")
    assert proto.opset_import[0].version == 22
    assert [port.name for port in proto.graph.input] == ["input", "lengths", "h_0", "c_0"]
    assert [port.name for port in proto.graph.output] == ["output", "h_n", "c_n"]
    convert("m.npz", "m.onnx")
    proto = onnx.load("m.onnx")
    assert proto.opset_import[0].version == 14
    assert [port.name for port in proto.graph.input] == ["input"]


def test_a_layout_that_the_file_contradicts(capsys):
    fastlstm.save(model(), "m.npz")
    assert error_of(capsys, "m.npz", "m.onnx", "--batch-first") == (
        "m.npz: batch_first=True contradicts its structure, which is time-major"
    )
    convert("m.npz", "m.onnx", "--no-batch-first")


def test_what_onnx_cannot_hold(capsys):
    fastlstm.save(LSTM(3, 4, cell_clip=2.0), "m.npz")
    assert error_of(capsys, "m.npz", "m.onnx") == (
        "m.onnx: 'LSTM' has cell_clip=2.0, which ONNX's operator LSTM cannot express"
    )


def test_what_arrays_do_not_tell_is_said(capsys):
    fastlstm.save(LSTM(3, 4, cell_clip=2.0), "m.npz")
    convert("m.npz", "m.pt")
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("fastlstm: warning: m.pt: such a file holds arrays alone, ")
    fastlstm.save(LSTM(3, 4, dtype="float64"), "m.npz")
    convert("m.npz", "m.onnx")
    assert capsys.readouterr().err == (
        "fastlstm: warning: onnxruntime has no LSTM in float64; model.astype('float32') can be run "
        "there\n"
    )


REFUSED = {
    "m.npz m.npz": "m.npz cannot be written: it is read from",
    "m.npz m.txt": "m.txt: the suffix must be one of .safetensors, ",
    "m.npz none/m.onnx": "none/m.onnx cannot be written: there is no folder none",
    "none.npz m.onnx": "[Errno 2] No such file or directory: 'none.npz'",
    "m.npz n.npz --opset 14": "n.npz: opset cannot be chosen for npz files",
    "m.npz n.pt --lengths --states": "n.pt: lengths and states cannot be chosen for ",
    "m.npz m.onnx --opset 13": "m.onnx: opset must be 14 to ",
    "m.npz m.onnx --prefix nothing": "m.npz: nothing has the prefix 'nothing'",
    "m.npz m.onnx --prefix fc --states": "m.onnx: states=True needs a model with an LSTM",
    "text.npz m.onnx": "text.npz: it is text: its content is of no known format",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_refused(arguments, capsys):
    fastlstm.save(model(), "m.npz")
    Path("text.npz").write_text("no model")
    assert error_of(capsys, *arguments.split()).startswith(REFUSED[arguments])


def test_the_output_is_checked_first(capsys):
    """A fault of the output is told, whatever the model is."""
    Path("text.npz").write_text("no model")
    for output, options, message in (
        ("m.txt", [], "the suffix must be"),
        ("none/m.npz", [], "there is no folder"),
        ("m.npz", ["--opset", "14"], "opset cannot be chosen"),
    ):
        assert message in error_of(capsys, "text.npz", output, *options)


def test_a_forecaster_is_more_than_a_model(capsys):
    network = Sequential(LSTM(1, 4, batch_first=True), Last(), Linear(4, 2)).eval()
    series = np.arange(20.0, dtype="float32")[:, None]
    training = fastlstm.training
    training.Forecaster(network, training.Standardizer.fit(series), 6, 2).save("f.npz")
    assert error_of(capsys, "f.npz", "f.onnx").startswith("f.npz is a forecaster, ")
