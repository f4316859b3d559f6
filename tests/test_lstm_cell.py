"""LSTMCell: what a step takes, what it refuses, and that it is a step of the layer."""

import pytest
from support import assert_same_bits
from values import normal
from watched import watch

from fastlstm import LSTM, LSTMCell

X, H = normal(5, 2, 3), normal(2, 2, 4)

CELL = [
    (dict(input=X), ValueError, "LSTMCell: Expected input to be 1D or 2D, got 3D instead"),
    (dict(input=X[0, :, :2]), ValueError, "input has inconsistent input_size: got 2 expected 3"),
    (dict(input=X[0], hx=(H, H[0])), ValueError,
     "LSTMCell: Expected hx[0] to be 1D or 2D, got 3D instead"),
    (dict(input=X[0], hx=(H[0], H)), ValueError,
     "LSTMCell: Expected hx[1] to be 1D or 2D, got 3D instead"),
    (dict(input=X[:3, 0], hx=(H[0], H[0])), ValueError,
     "Input batch size 3 doesn't match hidden0 batch size 2"),
    (dict(input=X[0], hx=(H[0, :, :2], H[0])), ValueError,
     "hidden0 has inconsistent hidden_size: got 2, expected 4"),
    (dict(input=X[0], hx=(H[0], H[0, :, :2])), ValueError,
     "hidden1 has inconsistent hidden_size: got 2, expected 4"),
    (dict(input=X[0], hx=H[0]), TypeError,
     "hx must be a tuple (h, c), got ndarray of shape (2, 4)"),
    (dict(input=X[0, 0], hx=(H[0], H[0])), ValueError,
     "LSTMCell: Expected hx[0] to be 1D as the input, got 2D"),
    (dict(input=X[0].astype(float)), ValueError,
     "LSTMCell input dtype (float64) does not match weight dtype (float32). Convert input: "
     'input.astype("float32"), or convert model: model.astype("float64")'),
]  # fmt: skip


@pytest.mark.parametrize("call, kind, sentence", CELL)
def test_cell_errors(engine, call, kind, sentence):
    cell = LSTMCell(3, 4, engine=engine)
    watched = watch(cell)
    with pytest.raises(kind) as caught:
        cell(**call)
    assert str(caught.value) == sentence
    assert not watched.inputs


@pytest.mark.parametrize("call, kind, sentence", CELL[:7])
def test_cell_errors_are_torchs(torch, call, kind, sentence):
    call = {k: torch.tensor(v) if k == "input" else tuple(map(torch.tensor, v))
            for k, v in call.items()}  # fmt: skip
    with pytest.raises((ValueError, RuntimeError)) as caught:
        torch.nn.LSTMCell(3, 4)(*call.values())
    assert sentence == str(caught.value)


def test_cell_is_one_step_of_the_layer(engine, dtype):
    """It writes neither input nor states, batched or not."""
    cell = LSTMCell(3, 5, dtype=dtype, engine=engine, seed=0)
    lstm = LSTM(3, 5, dtype=dtype, engine=engine)
    lstm.load_state_dict({name + "_l0": value for name, value in cell.state_dict().items()})
    x, h, c = (normal(4, n, seed=n, dtype=dtype) for n in (3, 5, 5))
    for a in (x, h, c):
        a.flags.writeable = False
    watch(cell)
    for hx in (None, (h, c)):
        got = cell(x, hx)
        _, expected = lstm(x[None], hx and (h[None], c[None]))
        for a, b in zip(got, expected, strict=True):
            assert_same_bits(a, b[0])
        alone = cell(x[1], hx and (h[1], c[1]))
        _, expected = lstm(x[None, 1], hx and (h[None, 1], c[None, 1]))
        for a, b in zip(alone, expected, strict=True):
            assert_same_bits(a, b[0])
    assert [a.shape for a in cell(x[:0])] == [(0, 5), (0, 5)]
