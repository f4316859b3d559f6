"""`reverse=True`: layers that run from each sequence's own end, outputs in the order of time."""

import numpy as np
import pytest
from errors import raises
from gradients import assert_derivative, make_problem
from layer_by_layer import Setting, assert_agrees
from peers import onnx_lstm
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import LSTM, Concat, Last, Linear, Residual, Sequential, cli

REVERSE = {"hidden_size": 4, "reverse": True}
SETTINGS = {
    "one layer": Setting(REVERSE),
    "states": Setting(REVERSE, hx=True, layout="batch"),
    "own ends": Setting(REVERSE, lengths=(3, 0, 5), hx=True),
    "deep": Setting(REVERSE | {"num_layers": 3}, lengths=(2, 5, 1)),
    "packed": Setting(REVERSE | {"num_layers": 2, "proj_size": 2}, (2, 5, 4), "packed", hx=True),
    "unbatched": Setting(REVERSE | {"bias": False}, layout="unbatched", hx=True),
    "recomputed": Setting(REVERSE, (2, 5, 4), hx=True, call={"checkpoint_every": 2}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_torch_over_turned_sequences_gives_the_same(torch, name, engine):
    assert_agrees(torch, SETTINGS[name], engine)


@pytest.mark.parametrize("name", ["own ends", "deep"])
def test_in_float32_too(torch, name, engine):
    assert_agrees(torch, SETTINGS[name], engine, "float32")


def test_onnxs_direction_reverse_gives_the_same(engine):
    lstm = LSTM(3, 4, reverse=True, engine=engine, seed=0)
    x, lengths = normal(6, 3, 3), [6, 2, 4]
    h, c = normal(1, 3, 4, seed=1), normal(1, 3, 4, seed=2)
    weights = lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0 + lstm.bias_hh_l0
    y_onnx, h_onnx, c_onnx = onnx_lstm("reverse", [weights], x, lengths, h, c)
    y, (h_n, c_n) = lstm(x, (h, c), lengths=lengths)
    np.testing.assert_allclose(y, y_onnx[:, 0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(h_n, h_onnx, rtol=0, atol=1e-6)
    np.testing.assert_allclose(c_n, c_onnx, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(70, 40, 64), (400, 1, 64)])
def test_it_is_the_second_direction_of_a_bidirectional_layer(shape, exact_engine, dtype):
    """The same bits, by one thread and by two, forward and back."""
    T, B, H = shape
    both = LSTM(16, H, bidirectional=True, engine=exact_engine, dtype=dtype, num_threads=1, seed=0)
    x, lengths = normal(T, B, 16, dtype=dtype), np.linspace(T, 1, B).astype(int)
    expected, (h_n, c_n) = both(x, lengths=lengths)
    (y, _), pullback = both.vjp(x, lengths=lengths)
    d = np.zeros_like(y)
    d[:, :, H:] = normal(T, B, H, dtype=dtype)
    both_dx, _ = pullback(d)
    for threads in (1, 2):
        lstm = LSTM(16, H, reverse=True, engine=exact_engine, dtype=dtype, num_threads=threads)
        state = both.state_dict().items()
        lstm.load_state_dict(
            {n.removesuffix("_reverse"): v for n, v in state if n.endswith("_reverse")}
        )
        output, finals = lstm(x, lengths=lengths)
        assert_same_bits(np.ascontiguousarray(output), np.ascontiguousarray(expected[:, :, H:]))
        assert_same_bits(finals[0][0], h_n[1])
        assert_same_bits(finals[1][0], c_n[1])
        (_, _), pullback = lstm.vjp(x, lengths=lengths)
        dx, _ = pullback(np.ascontiguousarray(d[:, :, H:]))
        np.testing.assert_allclose(dx, both_dx, rtol=0, atol=64 * np.finfo(dtype).eps)
        for name, gradient in lstm.grads.items():
            expected_gradient = both.grads[f"{name}_reverse"]
            scale = np.abs(expected_gradient).max()
            np.testing.assert_allclose(
                gradient, expected_gradient, rtol=0, atol=64 * np.finfo(dtype).eps * scale
            )


def test_derivatives(engine):
    def make(engine, dtype):
        return LSTM(3, 4, 2, dropout=0.3, reverse=True, engine=engine, dtype=dtype, seed=1)

    assert_derivative(make_problem(make, normal(5, 3, 3), lengths=[3, 5, 1]), engine)


def test_it_excludes_both_directions_and_streams():
    raises(
        lambda: LSTM(3, 4, bidirectional=True, reverse=True), ValueError,
        "reverse=True and bidirectional=True exclude each other: a bidirectional LSTM runs from "
        "the end as well",
    )  # fmt: skip
    lstm = LSTM(3, 4, reverse=True)
    sentence = (
        "a stream needs an LSTM without reverse=True: that begins at the end, which a live stream "
        "does not have"
    )
    raises(lstm.stream, ValueError, sentence)
    raises(Sequential({"own": lstm}).stream, ValueError, f"'own': {sentence}")
    raises(lambda: LSTM(3, 4, reverse=1), TypeError, "reverse should be of type bool, got: int")
    with pytest.raises(AttributeError, match="reverse of LSTM cannot be changed"):
        lstm.reverse = False
    assert repr(lstm) == "LSTM(3, 4, reverse=True)"
    assert list(lstm.state_dict()) == list(LSTM(3, 4).state_dict())


def test_last_reads_step_0(engine):
    """There each sequence has been read to its start; h_n is the same."""
    lstm = LSTM(3, 4, 2, batch_first=True, reverse=True, engine=engine, dtype="float64", seed=0)
    model = Sequential({"lstm": lstm, "last": Last(), "fc": Linear(4, 1, dtype="float64", seed=1)})
    assert repr(model.last) == "Last(batch_first=True, bidirectional=False, reverse=True)"
    x, lengths = normal(3, 5, 3, dtype="float64"), [2, 5, 3]
    _, (h_n, _) = lstm(x, lengths=lengths)
    assert_same_bits(model(x, lengths=lengths), model.fc(h_n[1]))
    assert_same_bits(Last(True, reverse=True)(lstm(x)[0]), lstm(x)[0][:, 0])
    y, pullback = Last(reverse=True).vjp(normal(5, 2, 4))
    dx = pullback(np.ones_like(y))
    assert (dx[0] == 1).all()
    assert not dx[1:].any()

    def make(engine, dtype):
        layer = LSTM(3, 4, reverse=True, engine=engine, dtype=dtype, seed=1)
        return Sequential(layer, Last(), Linear(4, 1, dtype=dtype, seed=2))

    assert_derivative(make_problem(make, normal(5, 3, 3), lengths=[3, 5, 1]), engine)


def test_a_last_that_cannot_know_is_refused():
    forth, back = LSTM(3, 4), LSTM(3, 4, reverse=True)
    Sequential(LSTM(3, 3), back, Last())  # which is that of the LSTM before it
    for whole in (Concat(forth, back), Concat(back, forth)):
        with pytest.raises(ValueError, match="cannot take batch_first, bidirectional and reverse"):
            Sequential(whole, Last())
        Sequential(whole, Last(False, False, False))
    with pytest.raises(ValueError, match="cannot take batch_first, bidirectional and reverse"):
        Sequential(LSTM(3, 4), Residual(LSTM(4, 4, reverse=True)), Last())
    Sequential(Concat(back, LSTM(3, 2, reverse=True)), Last())
    with pytest.raises(ValueError, match="leave out reverse, to take it from there"):
        Sequential(back, Last(reverse=False))
    raises(
        lambda: Last(bidirectional=True, reverse=True), ValueError,
        "reverse=True and bidirectional=True exclude each other: of both directions, only the "
        "features of the second one are read at step 0",
    )  # fmt: skip


def test_files_keep_it(tmp_path):
    model = Sequential(LSTM(3, 4, reverse=True, seed=0), Last(), Linear(4, 1, seed=1)).eval()
    fastlstm.save(model, path := tmp_path / "x.npz")
    again, x = fastlstm.load(path), normal(5, 2, 3)
    assert repr(again) == repr(model)
    assert_same_bits(again(x), model(x))


def test_the_command_runs_it_in_one_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(cli.run, "CHUNK_VALUES", 1)
    fastlstm.save(lstm := LSTM(3, 4, reverse=True, seed=0), tmp_path / "m.npz")
    x = normal(6, 3)
    np.save(tmp_path / "x.npy", x)
    names = [str(tmp_path / name) for name in ("m.npz", "x.npy", "y.npy")]
    assert cli.main(["run", *names[:2], "-o", names[2]]) == 0
    assert_same_bits(np.load(names[2]), lstm(x)[0])


class FromThePadding(LSTM):
    """A fault: it runs from the end of the array, and not from that of each sequence."""

    def vjp(self, input, hx=None, *, lengths=None, **options):
        (y, finals), pullback = super().vjp(input, hx, **options)
        for n, length in enumerate(lengths):
            y = y.copy()
            y[length:, n] = 0
        return (y, finals), pullback


def test_a_run_from_the_padding_is_found(torch):
    assert_agrees(torch, SETTINGS["own ends"], "numpy")
    with pytest.raises(AssertionError, match="output"):
        assert_agrees(torch, SETTINGS["own ends"], "numpy", kind=FromThePadding)
