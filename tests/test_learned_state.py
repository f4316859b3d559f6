"""`learn_initial_state=True`: what sequences begin with is a parameter, and has its gradient."""

import copy
import pickle

import numpy as np
import pytest
from gradients import assert_derivative, make_problem
from layer_by_layer import Setting, assert_agrees
from saboteurs import edited
from support import assert_same_bits
from values import arrays_in, normal

import fastlstm
from fastlstm import LSTM, Concat, Embedding, Last, Linear, LSTMCell, Residual, Sequential
from fastlstm.layers import lstm as lstm_module
from fastlstm.layers import lstm_cell as cell_module
from fastlstm.training import Adam, MSELoss

LEARNED = {"hidden_size": 4, "learn_initial_state": True}
SETTINGS = {
    "one layer": Setting(LEARNED),
    "given": Setting(LEARNED, hx=True),
    "deep": Setting(LEARNED | {"num_layers": 2, "bidirectional": True, "proj_size": 3}),
    "lengths": Setting(LEARNED | {"bidirectional": True}, lengths=(2, 0, 5)),
    "packed": Setting(LEARNED | {"num_layers": 2}, lengths=(2, 5, 4), layout="packed"),
    "unbatched": Setting(LEARNED | {"num_layers": 2}, layout="unbatched"),
    "batch first": Setting(LEARNED, layout="batch", call={"checkpoint_every": 2}),
}


def _filled(layer):
    """The layer with learned states that are not zeros."""
    for prefix, inner in layer.named_layers():
        for n, name in enumerate(inner._views):
            if name.startswith(("h_0", "c_0")):
                value = normal(*inner._views[name].shape, seed=n + len(prefix))
                setattr(inner, name, value)
    return layer


@pytest.mark.parametrize("name", SETTINGS)
def test_torch_with_parameters_for_all_sequences_gives_the_same(torch, name, engine):
    assert_agrees(torch, SETTINGS[name], engine)


@pytest.mark.parametrize("name", ["deep", "lengths"])
def test_in_float32_too(torch, name, engine):
    assert_agrees(torch, SETTINGS[name], engine, "float32")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [None, 3])
def test_torchs_cell_gives_the_same(torch, engine, bias, rows):
    cell = _filled(LSTMCell(3, 4, bias, learn_initial_state=True, engine=engine, dtype="float64"))
    x = normal(*[3] if rows is None else [rows, 3], dtype="float64")
    theirs = torch.nn.LSTMCell(3, 4, bias, dtype=torch.float64)
    weights = {n: torch.tensor(v) for n, v in cell.state_dict().items() if n[0] not in "hc"}
    theirs.load_state_dict(weights)
    h_0, c_0 = (torch.tensor(v, requires_grad=True) for v in (cell.h_0, cell.c_0))
    rest = () if rows is None else (rows, -1)
    h, c = theirs(torch.tensor(x), (h_0.expand(*rest or (4,)), c_0.expand(*rest or (4,))))
    (own_h, own_c), pullback = cell.vjp(x)
    d = normal(*own_h.shape, seed=1, dtype="float64"), normal(*own_h.shape, seed=2, dtype="float64")
    (h * torch.tensor(d[0]) + c * torch.tensor(d[1])).sum().backward()
    pullback(d)
    for got, expected in ((own_h, h), (own_c, c), (cell(x)[0], h), (cell(x)[1], c)):
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=0, atol=1e-14)
    for name, parameter in {"h_0": h_0, "c_0": c_0, **dict(theirs.named_parameters())}.items():
        np.testing.assert_allclose(
            cell.grads[name], 0 if parameter.grad is None else parameter.grad, rtol=0, atol=1e-13
        )
    cell.zero_grad()
    given = normal(*own_h.shape), normal(*own_h.shape)
    _, pullback = cell.vjp(x, tuple(state.astype("float64") for state in given))
    pullback(d)
    assert not cell.grads["h_0"].any()
    assert not cell.grads["c_0"].any()


def test_derivatives(engine):
    """Also of masks and resets, behind which sequences begin with the learned states again."""
    reset = np.zeros((5, 3), bool)
    reset[[0, 2, 3], [0, 1, 1]] = True
    mask = normal(5, 3) > -0.5

    def make(engine, dtype):
        options = {"bidirectional": True, "learn_initial_state": True}
        return _filled(LSTM(3, [4, 2], **options, engine=engine, dtype=dtype, seed=1))

    for options in ({}, {"lengths": [3, 0, 5]}, {"reset": reset, "mask": mask}):
        assert_derivative(make_problem(make, normal(5, 3, 3), **options), engine)


def test_models_pass_gradients_on(engine):
    """Behind an Embedding, which has no gradient for its input; in a Concat and a Residual."""

    def make(engine, dtype):
        options = {"learn_initial_state": True, "dtype": dtype, "engine": engine}
        both = Concat(
            LSTM(3, 2, reverse=True, seed=2, **options), LSTM(3, [2, 1], seed=3, **options)
        )
        layers = Embedding(5, 3, dtype=dtype, seed=1), Residual(both), LSTM(3, 2, seed=4, **options)
        return _filled(Sequential(*layers, Last(), Linear(2, 1, dtype=dtype, seed=5)))

    assert_derivative(make_problem(make, np.array([[1, 0], [4, 2], [3, 3]])), engine)


def test_parameters_come_last_and_begin_at_zero():
    lstm = LSTM(3, 4, 2, bidirectional=True, proj_size=2, learn_initial_state=True, seed=0)
    names = list(lstm.state_dict())
    assert names[5:7] == ["h_0_l0", "c_0_l0"]
    assert names[-2:] == ["h_0_l1_reverse", "c_0_l1_reverse"]
    assert (lstm.h_0_l1.shape, lstm.c_0_l1.shape) == ((2,), (4,))
    plain = LSTM(3, 4, 2, bidirectional=True, proj_size=2, seed=0)
    for name, value in lstm.state_dict().items():
        if name.startswith(("h_0", "c_0")):
            assert not value.any(), name
        else:
            assert_same_bits(value, plain.state_dict()[name])
    x = normal(5, 2, 3)
    assert_same_bits(np.array(lstm(x)[0]), np.array(plain(x)[0]))
    assert (
        repr(LSTMCell(3, 4, learn_initial_state=True)) == "LSTMCell(3, 4, learn_initial_state=True)"
    )
    assert list(LSTMCell(3, 4, learn_initial_state=True).state_dict())[-2:] == ["h_0", "c_0"]
    with pytest.raises(ValueError, match=r'Missing key\(s\) in state_dict: "h_0_l0", "c_0_l0"'):
        lstm.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match=r'Unexpected key\(s\) in state_dict: "h_0_l0"'):
        plain.load_state_dict(lstm.state_dict())
    _filled(lstm).reset_parameters(0)
    assert not lstm.h_0_l0.any()


@pytest.mark.parametrize("widths", [4, [4, 3]])
def test_streams_begin_and_begin_anew_with_it(widths, engine, dtype):
    lstm = _filled(LSTM(3, widths, learn_initial_state=True, engine=engine, dtype=dtype, seed=0))
    x, atol = normal(6, 2, 3, dtype=dtype), 32 * np.finfo(dtype).eps
    whole, stream = lstm(x)[0], lstm.stream(2)
    np.testing.assert_allclose(stream.run(x), whole, rtol=0, atol=atol)
    stream.reset()
    np.testing.assert_allclose([stream.step(x_t) for x_t in x], whole, rtol=0, atol=atol)
    lstm.h_0_l0 = lstm.h_0_l0 + 1  # of which a stream takes notice when it begins anew
    before = [array.copy() for array in arrays_in(stream.state)]
    stream.reset([False, True])
    for array, old, new in zip(
        arrays_in(stream.state), before, arrays_in(lstm.stream(2).state), strict=True
    ):
        assert_same_bits(array[..., 0, :], old[..., 0, :])
        assert_same_bits(array[..., 1, :], new[..., 1, :])
    np.testing.assert_allclose(stream.run(x)[:, 1], lstm(x)[0][:, 1], rtol=0, atol=atol)
    model = Sequential({"lstm": lstm, "fc": Linear(whole.shape[2], 1, dtype=dtype)})
    live = model.stream(2)
    live.step(x[0])
    live.reset()
    np.testing.assert_allclose([live.step(x_t) for x_t in x], model(x), rtol=0, atol=atol)


def test_frozen_states_have_no_gradient(engine):
    lstm = _filled(LSTM(3, 4, learn_initial_state=True, engine=engine, seed=0)).freeze("h_0_l0")
    y, pullback = lstm.vjp(normal(4, 2, 3))
    pullback(np.ones_like(y[0]))
    assert not lstm.grads["h_0_l0"].any()
    assert lstm.grads["c_0_l0"].all()
    lstm.freeze()
    lstm.vjp(normal(4, 2, 3))[1](np.ones_like(y[0]))
    lstm.unfreeze("*_0_l0").zero_grad()
    lstm.vjp(normal(4, 2, 3))[1](np.ones_like(y[0]))
    assert {n for n, g in lstm.grads.items() if g.any()} == {"h_0_l0", "c_0_l0"}


def test_training_learns_it():
    """Sequences that differ from their first step on: only what they begin with can tell."""
    lstm = LSTM(1, 4, learn_initial_state=True, batch_first=True, seed=0)
    lstm.freeze("weight*", "bias*")
    model = Sequential({"lstm": lstm})
    aim = _filled(copy.deepcopy(lstm))
    x = normal(16, 3, 1)
    before = {name: value.copy() for name, value in lstm.state_dict().items()}
    loss = fastlstm.fit(model, (x, aim(x)[0]), MSELoss(), Adam(model, lr=0.05), epochs=150)["loss"]
    assert loss[-1] < loss[0] / 100
    changed = {n for n, v in lstm.state_dict().items() if not np.array_equal(v, before[n])}
    assert changed == {"h_0_l0", "c_0_l0"}


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "pt"])
@pytest.mark.parametrize("kind", [LSTM, LSTMCell])
def test_files_and_copies_keep_it(tmp_path, suffix, kind):
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    layer = _filled(kind(3, 4, learn_initial_state=True, seed=0))
    fastlstm.save(layer, path := tmp_path / f"x.{suffix}")
    for again in (fastlstm.load(path), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        x = normal(4, 3)
        for got, expected in zip(arrays_in(again(x)), arrays_in(layer(x)), strict=True):
            assert_same_bits(got, expected)
    double = layer.astype("float64")
    assert double.state_dict().keys() == layer.state_dict().keys()


FAULTS = {
    "the gradient of one sequence": ("LSTM.vjp.pullback", "d.sum(axis=1)", "d[:, 0]"),
    "its mean": ("LSTM.vjp.pullback", "d.sum(axis=1)", "d.mean(axis=1)"),
    "though states are given": (
        "LSTM.vjp", "hx is None and self.learn_initial_state", "self.learn_initial_state",
    ),
    "zeros in a call": ("LSTM._begin", "self._initial(batch.size)", "self._zeros(batch.size)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(torch, fault):
    broken = edited(lstm_module, *FAULTS[fault]).LSTM

    def both(kind):
        assert_agrees(torch, SETTINGS["deep"], "numpy", kind=kind)
        assert_agrees(torch, SETTINGS["given"], "numpy", kind=kind)

    both(LSTM)
    with pytest.raises(AssertionError):
        both(broken)


def test_a_fault_of_the_cell_is_found():
    broken = edited(cell_module, "LSTMCell.vjp.pullback", "d.sum(axis=0)[None]", "d[:1]").LSTMCell
    x, got = normal(3, 3), []
    for kind in (LSTMCell, broken):
        cell = _filled(kind(3, 4, learn_initial_state=True, seed=0))
        (h, _), pullback = cell.vjp(x)
        d = [cell.vjp(row[None])[1]((h[:1] * 0 + 1, None)) for row in x]
        summed = cell.grads["c_0"].copy()
        np.testing.assert_allclose(summed, sum(one[1][1][0] for one in d), rtol=1e-5, atol=1e-6)
        cell.zero_grad()
        pullback((np.ones_like(h), None))
        got.append(np.allclose(cell.grads["c_0"], summed, rtol=1e-5, atol=1e-6))
    assert got == [True, False]
