"""What `save` writes, loaded by torch and by the safetensors library, for all its options."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradients import assert_within, roundings, spread
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import LSTM, Embedding, Linear, LSTMCell, Sequential

torch = pytest.importorskip("torch", reason="loads what is written")
I, H, T, B = 3, 5, 4, 2

GRID = [
    dict(zip(("num_layers", "bias", "bidirectional", "proj_size"), values, strict=True))
    for values in itertools.product((1, 3), (True, False), (False, True), (0, 2))
]
for number, options in enumerate(GRID):  # these two change no array; each meets half of the others
    options["batch_first"] = bool(number % 3)
    options["dropout"] = 0.5 * (number % 2) * (options["num_layers"] > 1)


def opened(path: Path) -> dict[str, Any]:
    """Return the tensors in a file, as torch's users read them."""
    if path.suffix == ".safetensors":
        library = pytest.importorskip("safetensors.torch", reason="reads safetensors")
        return library.load_file(path)
    return torch.load(path, weights_only=True)


def stirred(layer: Any) -> Any:
    """Give all parameters numbers of their own."""
    arrays = enumerate(layer.state_dict().items())
    dtype = layer.dtype
    layer.load_state_dict({n: normal(*a.shape, seed=k, dtype=dtype) / 2 for k, (n, a) in arrays})
    return layer.eval()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", GRID, ids=str)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_an_lstm(options, dtype, suffix, tmp_path):
    lstm = stirred(LSTM(I, H, dtype=dtype, **options))
    path = tmp_path / f"model{suffix}"
    fastlstm.save(lstm, path)
    theirs = torch.nn.LSTM(I, H, **options, dtype=getattr(torch, dtype)).eval()
    state = opened(path)
    if suffix != ".safetensors":  # the library sorts names
        assert list(state) == list(theirs.state_dict())
    theirs.load_state_dict(state, strict=True)
    for name, array in lstm.state_dict().items():
        assert_same_bits(state[name].numpy(), array)
    assert all(not tensor.requires_grad for tensor in state.values())

    double = lstm.astype("float64")
    x = normal(B, T, I, seed=50, dtype=dtype)
    values = {**double.state_dict(), "x": x.astype("float64")}

    def ours(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        double.load_state_dict({n: a for n, a in given.items() if n != "x"})
        output, (h, c) = double(given["x"])
        return {"output": output, "h": h, "c": c}

    expected, moves = spread(ours, values)
    with torch.no_grad():
        output, (h, c) = theirs(torch.from_numpy(x))
    found = {"output": output.numpy(), "h": h.numpy(), "c": c.numpy()}
    count = 2 * roundings("native", I + H + 3 * H, options=True)
    expected = {name: value.astype(dtype) for name, value in expected.items()}
    assert_within(found, expected, moves, count, dtype)
    again = fastlstm.load(path, batch_first=options["batch_first"])
    assert_same_bits(again(x)[0], lstm(x)[0])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("bias", [True, False])
def test_other_layers(bias, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    pairs = [
        (LSTMCell(I, H, bias=bias), torch.nn.LSTMCell(I, H, bias=bias)),
        (Linear(I, H, bias=bias), torch.nn.Linear(I, H, bias=bias)),
        (Embedding(I, H), torch.nn.Embedding(I, H)),
        (
            Sequential({"a": Linear(I, H, bias=bias), "b": Sequential({"0": Linear(H, 1)})}),
            torch.nn.Sequential(),
        ),
    ]
    pairs[-1][1].add_module("a", torch.nn.Linear(I, H, bias=bias))
    pairs[-1][1].add_module("b", torch.nn.Sequential(torch.nn.Linear(H, 1)))
    for layer, theirs in pairs:
        fastlstm.save(stirred(layer), path)
        theirs.load_state_dict(opened(path), strict=True)
        for name, tensor in theirs.state_dict().items():
            assert_same_bits(tensor.numpy(), layer.state_dict()[name])


def test_what_torch_keeps_of_it(tmp_path):
    """Its own file of the same numbers is read as ours is."""
    lstm = stirred(LSTM(I, H, num_layers=2, bidirectional=True, proj_size=2))
    fastlstm.save(lstm, tmp_path / "ours.pt")
    file = io.BytesIO()
    torch.save(torch.load(tmp_path / "ours.pt", weights_only=True), file)
    for name, array in fastlstm.load_state(io.BytesIO(file.getvalue())).items():
        assert_same_bits(array, lstm.state_dict()[name])


def test_options_that_no_array_tells_are_said(tmp_path):
    with pytest.warns(UserWarning, match="gate_clip"):
        fastlstm.save(LSTM(I, H, gate_clip=3.0), tmp_path / "model.pt")
