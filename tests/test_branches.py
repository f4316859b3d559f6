"""Residual and Concat: values, states, gradients and streams; by hand, and against torch."""

import copy
import pickle

import numpy as np
import pytest
from errors import raises
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import (
    LSTM,
    Concat,
    Dropout,
    Embedding,
    Last,
    Linear,
    LSTMCell,
    ReLU,
    Residual,
    Sequential,
    Softmax,
    Tanh,
)
from fastlstm.training import Adam, MSELoss, fit, predict

B, T = 3, 6


def _models(dtype="float32", batch_first=False, engine="auto"):
    """Return models of 3 features by name."""
    lstm = {"dtype": dtype, "batch_first": batch_first, "engine": engine}
    plain = {"dtype": dtype, "engine": engine}
    return {
        "residual": Residual(
            Sequential({"rec": LSTM(3, 8, seed=1, **lstm), "lin": Linear(8, 3, seed=2, **plain)})
        ),
        "projected": Residual(LSTM(3, 5, 2, seed=1, **lstm), Linear(3, 5, seed=2, **plain)),
        "concat": Concat(
            {"short": LSTM(3, 4, proj_size=2, seed=1, **lstm), "skip": Sequential(),
             "deep": Sequential(Linear(3, 2, seed=2, **plain), Tanh(), LSTM(2, 3, seed=3, **lstm))}
        ),
        "nested": Sequential(
            {"in": Residual(LSTM(3, 3, seed=1, **lstm)), "drop": Dropout(0.3, seed=1),
             "mid": Concat(Residual(Sequential(Concat(LSTM(3, 2, seed=2, **lstm),
                                                      Linear(3, 1, seed=4, **plain)))), ReLU()),
             "out": Linear(6, 2, seed=3, **plain)}
        ),
    }  # fmt: skip


NAMES = list(_models())


def _by_hand(name, model, x, lengths=None):
    """What a model gives, put together from calls of its LSTMs and Linears."""

    def of(lstm, x):
        return lstm(x, lengths=lengths)[0]

    if name == "residual":
        return x + model.layer.lin(of(model.layer.rec, x))
    if name == "projected":
        return model.projection(x) + of(model.layer, x)
    if name == "concat":
        deep = of(model.deep[2], np.tanh(model.deep[0](x)))
        return np.concatenate([of(model.short, x), x, deep], axis=-1)
    x = x + of(model["in"].layer, x)
    inner = model.mid[0].layer[0]
    z = x + np.concatenate([of(inner[0], x), inner[1](x)], axis=-1)
    return model.out(np.concatenate([z, np.maximum(x, 0)], axis=-1))


@pytest.mark.parametrize("lengths", [None, [2, 6, 0]])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_layers(name, batch_first, lengths, dtype):
    model = _models(dtype, batch_first)[name].eval()
    x = normal(*((B, T) if batch_first else (T, B)), 3, dtype=dtype)
    expected = _by_hand(name, model, x, lengths)
    assert expected.dtype == dtype
    np.testing.assert_array_equal(model(x, lengths=lengths), expected)
    np.testing.assert_array_equal(model.vjp(x, lengths=lengths)[0], expected)
    np.testing.assert_array_equal(Sequential({"all": model})(x, lengths=lengths), expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_sequence_without_a_batch(name):
    model, x = _models()[name].eval(), normal(T, 3)
    np.testing.assert_allclose(model(x), model(x[:, None])[:, 0], atol=1e-6)


def test_padding_is_the_inputs_own():
    """A Residual keeps its input past an end, as x + 0 in torch; a Concat's LSTM gives 0."""
    x = normal(T, B, 3)
    y = Residual(LSTM(3, 3, seed=0))(x, lengths=[2, 6, 0])
    assert_same_bits(y[2:, 0], x[2:, 0])
    assert_same_bits(y[:, 2], x[:, 2])
    assert not (y[:2, 0] == x[:2, 0]).any()
    y = Concat(LSTM(3, 3, seed=0), Linear(3, 1, seed=1))(x, lengths=[2, 6, 0])
    assert not y[2:, 0, :3].any() and y[2:, 0, 3].all()


# ---- states -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_states_carry_a_sequence_on(native, name):
    model, x = _models(engine="native")[name].eval(), normal(T, B, 3)
    first, states = model(x[:2], return_states=True)
    names = {
        "residual": ["layer.rec"], "projected": ["layer"], "concat": ["short", "deep.2"],
        "nested": ["in.layer", "mid.0.layer.0.0"],
    }[name]  # fmt: skip
    assert list(states) == names
    rest, _ = model(x[2:], states)
    assert_same_bits(np.concatenate([first, rest]), np.ascontiguousarray(model(x)))


def test_states_and_their_gradients_are_those_of_the_lstms():
    model, x = _models("float64")["concat"], normal(T, B, 3, dtype="float64")
    hx = {
        "short": (normal(1, B, 2, dtype="float64"), normal(1, B, 4, dtype="float64")),
        "deep.2": (normal(1, B, 3, dtype="float64"), normal(1, B, 3, dtype="float64")),
    }
    (y, states), pullback = model.vjp(x, hx)
    output, final = model.short(x, hx["short"])
    np.testing.assert_array_equal(y[..., :2], output)
    np.testing.assert_array_equal(states["short"][1], final[1])
    d_states = {"short": (None, np.ones((1, B, 4)))}
    _, d_hx = pullback(None, d_states)
    _, expected = model.short.vjp(x, hx["short"])[1](None, d_states["short"])
    for one, other in zip(d_hx["short"], expected, strict=True):
        assert_same_bits(one, other)
    assert not d_hx["deep.2"][0].any()


# ---- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, [2, 6, 0]])
@pytest.mark.parametrize("name", NAMES)
def test_derivatives(name, lengths):
    """Gradients are differences of a weighted sum of all outputs, along random directions."""
    model = _models("float64", engine="numpy")[name].eval()
    x = normal(T, B, 3, dtype="float64")
    y, pullback = model.vjp(x, lengths=lengths)
    weights = normal(*y.shape, seed=5, dtype="float64")
    dx = pullback(weights)
    before, step = model.state_dict(), 1e-6
    along = {
        n: normal(*p.shape, seed=k, dtype="float64") for k, (n, p) in enumerate(before.items())
    }
    x_along = normal(*x.shape, seed=9, dtype="float64")

    def total(sign):
        model.load_state_dict({n: p + sign * step * along[n] for n, p in before.items()})
        return np.vdot(weights, model(x + sign * step * x_along, lengths=lengths))

    slope = np.vdot(dx, x_along) + sum(np.vdot(g, along[n]) for n, g in model.grads.items())
    assert abs((total(1) - total(-1)) / (2 * step) - slope) < 1e-7 * abs(slope) + 1e-8


def _in_torch(torch, name):
    """The same model, written as one would in torch."""
    nn = torch.nn
    kind = torch.float64

    class Residual(nn.Module):
        def __init__(self, layer, projection=None):
            super().__init__()
            self.layer, self.projection = layer, projection or nn.Identity()

        def forward(self, x):
            y = self.layer(x)
            return self.projection(x) + (y[0] if isinstance(y, tuple) else y)

    class Chain(nn.Sequential):
        def forward(self, x):
            for part in self:
                x = part(x)
                x = x[0] if isinstance(x, tuple) else x
            return x

    class Concat(nn.Module):
        def __init__(self, **layers):
            super().__init__()
            for key, layer in layers.items():
                setattr(self, key, layer)

        def forward(self, x):
            ys = [layer(x) for layer in self.children()]
            return torch.cat([y[0] if isinstance(y, tuple) else y for y in ys], dim=-1)

    if name == "residual":
        chain = Chain()
        chain.rec, chain.lin = nn.LSTM(3, 8, dtype=kind), nn.Linear(8, 3, dtype=kind)
        return Residual(chain)
    if name == "projected":
        return Residual(nn.LSTM(3, 5, 2, dtype=kind), nn.Linear(3, 5, dtype=kind))
    return Concat(
        short=nn.LSTM(3, 4, proj_size=2, dtype=kind),
        skip=nn.Identity(),
        deep=Chain(nn.Linear(3, 2, dtype=kind), nn.Tanh(), nn.LSTM(2, 3, dtype=kind)),
    )


@pytest.mark.parametrize("name", ["residual", "projected", "concat"])
def test_names_values_and_gradients_are_torchs(name):
    torch = pytest.importorskip("torch", reason="comparison with torch needs torch")
    theirs, ours = _in_torch(torch, name), _models("float64")[name]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = normal(T, B, 3, dtype="float64")
    tensor = torch.tensor(x, requires_grad=True)
    expected = theirs(tensor)
    y, pullback = ours.vjp(x)
    np.testing.assert_allclose(y, expected.detach(), rtol=0, atol=1e-12)
    dy = normal(*y.shape, seed=1, dtype="float64")
    expected.backward(torch.tensor(dy))
    np.testing.assert_allclose(pullback(dy), tensor.grad, rtol=0, atol=1e-11)
    for key, parameter in theirs.named_parameters():
        np.testing.assert_allclose(ours.grads[key], parameter.grad, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_without_the_gradient_of_the_input_the_others_are_the_same(name):
    model, x = _models()[name].eval(), normal(T, B, 3)
    y, pullback = model.vjp(x)
    pullback(np.ones_like(y))
    expected = {key: g.copy() for key, g in model.grads.items()}
    model.zero_grad()
    assert model.vjp(x, input_gradient=False)[1](np.ones_like(y)) is None
    for key, gradient in model.grads.items():
        assert_same_bits(gradient, expected[key])


def test_a_frozen_branch_is_run_without_a_way_back(monkeypatch):
    taped = []
    own = LSTM.vjp
    monkeypatch.setattr(LSTM, "vjp", lambda self, *a, **k: taped.append(self) or own(self, *a, **k))
    model = Concat(LSTM(3, 4, seed=0).freeze(), LSTM(3, 2, seed=1))
    y, pullback = model.vjp(normal(T, B, 3), input_gradient=False)
    pullback(np.ones_like(y))
    assert taped == [model[1]]
    assert not model.grads["0.weight_hh_l0"].any() and model.grads["1.weight_hh_l0"].any()


def test_a_layer_in_two_places_gets_both_gradients():
    shared = Linear(3, 3, dtype="float64", seed=0)
    model = Sequential(Residual(shared), Concat(shared, shared))
    x = normal(5, 3, dtype="float64")
    y, pullback = model.vjp(x)
    pullback(np.ones_like(y))
    z, ones = x + shared(x), np.ones((5, 3))
    dz = 2 * ones @ shared.weight
    np.testing.assert_allclose(shared.grads["weight"], 2 * ones.T @ z + dz.T @ x, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_gradients_add_nothing(name):
    model, x = _models()[name], normal(T, B, 3)
    y, pullback = model.vjp(x)
    with pytest.raises(ValueError, match=r"Expected d_output of the output's shape"):
        pullback(np.ones_like(y)[..., :-1])
    assert not any(g.any() for g in model.grads.values())


# ---- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_steps_and_chunks_are_the_model(native, dtype, name, batch_first):
    model = _models(dtype, batch_first, "native")[name]
    x = normal(T, B, 3, dtype=dtype)

    def turned(array):
        return array.swapaxes(0, 1) if batch_first else array

    expected = np.ascontiguousarray(turned(copy.deepcopy(model).eval()(turned(x))))
    stream = model.stream(B)
    assert_same_bits(np.stack([stream.step(x_t) for x_t in x]), expected)
    stream.reset()
    out = np.empty(expected.shape[1:], dtype)
    assert stream.step(x[0], out) is out
    assert_same_bits(out, expected[0])
    branched = pickle.loads(pickle.dumps(stream))
    for one in (stream, branched, copy.deepcopy(branched)):
        first = one.run(turned(x[1:3])) if one is stream else None
        if first is not None:
            assert_same_bits(np.ascontiguousarray(turned(first)), expected[1:3])
            continue
        assert_same_bits(one.step(x[1]), expected[1])
    twin = copy.copy(stream)
    for one in (stream, twin):
        assert_same_bits(one.step(x[3]), expected[3])
    stream.state = branched.state
    assert_same_bits(stream.step(x[2]), expected[2])


def test_a_last_beside_something_else():
    """In a stream each step counts as the last one."""
    lstm = LSTM(3, 4, seed=0)
    head = Concat(Last(), Sequential(Linear(4, 2, seed=1), Last()))
    model = Sequential(lstm, head, Linear(6, 1, seed=2))
    x = normal(T, B, 3)
    h = lstm(x)[0][-1]
    expected = model[2](np.concatenate([h, model[1][1][0](h)], axis=-1))
    np.testing.assert_allclose(model(x), expected, atol=1e-6)
    stream = model.stream(B)
    steps = [stream.step(x_t) for x_t in x]
    np.testing.assert_allclose(steps[-1], expected, atol=1e-6)
    np.testing.assert_allclose(steps[1], model(x[:2]), atol=1e-6)


@pytest.mark.parametrize(
    "model, sentence",
    [
        (Residual(LSTM(3, 3, bidirectional=True), Linear(3, 6)), "'layer': a stream needs a unidi"),
        (Concat({"a": LSTM(3, 4), "b": Softmax(0)}), r"'b' \(Softmax\(dim=0\)\) may sum over sev"),
        (Concat(Linear(3, 4), ReLU()), "a stream needs a model with an LSTM, this one has none"),
    ],
)
def test_models_without_a_stream(model, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.stream()


# ---- what does not fit --------------------------------------------------------------------------

TORN = "what one reads as steps the other reads as sequences"


@pytest.mark.parametrize(
    "make, kind, sentence",
    [
        (lambda: Residual(LSTM(3, 4)), ValueError,
         "Residual: 'layer' (LSTM(3, 4)) gives 4 features, its input has 3: give "
         "projection=Linear(3, 4)"),
        (lambda: Residual(LSTM(3, 4), Linear(3, 5)), ValueError,
         "Residual: 'layer' (LSTM(3, 4)) gives 4 features, 'projection' (Linear(in_features=3, "
         "out_features=5, bias=True)) gives 5"),
        (lambda: Residual(LSTM(3, 4), Linear(2, 4)), ValueError,
         "Residual: 'layer' (LSTM(3, 4)) takes 3 features, 'projection' (Linear(in_features=2, "
         "out_features=4, bias=True)) takes 2 of the same input"),
        (lambda: Sequential({"a": LSTM(2, 5), "b": Residual(Concat(Tanh(), ReLU()))}), ValueError,
         "Sequential: 'b.layer' (Concat) gives 10 features, its input has 5: give "
         "projection=Linear(5, 10)"),
        (lambda: Residual(Sequential(LSTM(3, 3), Last())), ValueError,
         "Residual: 'layer.1' (Last(batch_first=False, bidirectional=False)) leaves one step, "
         "which cannot be added to all of them"),
        (lambda: Residual(Embedding(9, 3)), ValueError,
         "Residual: 'layer' (Embedding(9, 3)) takes indices, to which nothing can be added"),
        (lambda: Residual(LSTMCell(3, 3)), TypeError,
         "Residual: 'layer' gives the (h, c) of an LSTMCell, which no layer takes; put it last or "
         "use an LSTM"),
        (lambda: Residual(np.tanh), TypeError, "Residual: 'layer' is not a layer but ufunc"),
        (lambda: Concat(), ValueError, "Concat needs at least one layer"),
        (lambda: Concat({"a.b": ReLU()}), ValueError,
         "Concat: a name must be a string without dots, not empty, got 'a.b'"),
        (lambda: Concat(Linear(3, 1), Linear(3, 1, dtype="float64")), ValueError,
         "Concat: layers have different dtypes: ['float32', 'float64']; layer.astype, or "
         "load(path, dtype=...), makes them one"),
        (lambda: Concat(LSTM(3, 4), Sequential(LSTM(3, 4), Last())), ValueError,
         "Concat: '0' (LSTM(3, 4)) gives all steps, '1.1' (Last(batch_first=False, "
         "bidirectional=False)) leaves one: they cannot stand side by side"),
        (lambda: Concat(LSTM(3, 4), Tanh(), LSTM(3, 2, batch_first=True)), ValueError,
         "Concat: '0' (LSTM(3, 4)) has batch_first=False, '2' (LSTM(3, 2, batch_first=True)) has "
         "batch_first=True: " + TORN),
        (lambda: Sequential(Concat(LSTM(3, 4), LSTM(3, 2)), Linear(5, 1)), ValueError,
         "Sequential: '0' (Concat) gives 6 features, '1' (Linear(in_features=5, out_features=1, "
         "bias=True)) takes 5"),
        (lambda: Sequential(Concat(LSTM(3, 4), LSTM(3, 2, bidirectional=True)), Last()), ValueError,
         "Sequential: '1' (Last) takes both directions of '0.1' (LSTM(3, 2, bidirectional=True)) "
         "apart, which '0' (Concat) has mixed: put it before that, or say "
         "Last(bidirectional=False) for the last step of each sequence"),
        (lambda: Residual(Tanh())([1.0, 2.0], hx={"layer": None}), ValueError,
         "hx: Expected states of no LSTM, got some of ['layer']"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(make, kind, sentence):
    raises(make, kind, sentence)


def test_layouts_that_part_later_are_refused_by_the_run():
    for model in (Concat(LSTM(3, 4), LSTM(3, 4)), Sequential(LSTM(3, 3), Residual(LSTM(3, 3)))):
        inner, stream = model[1] if isinstance(model[1], LSTM) else model[1].layer, model.stream(5)
        inner.batch_first = True
        for call in (model, model.vjp, stream.run):
            with pytest.raises(ValueError, match=TORN):
                call(normal(5, 5, 3))


def test_what_is_only_seen_in_a_run():
    class Narrow(fastlstm.Layer):
        def forward(self, input):
            return input[..., :1]

    x = normal(T, B, 3)
    with pytest.raises(ValueError, match=r"cannot add \(6, 3, 1\), its layer's output, to \(6, 3"):
        Residual(Narrow())(x)
    assert Concat(Narrow(), ReLU())(x).shape == (T, B, 4)
    with pytest.raises(ValueError, match=r"alike, got '0' \(3, 3\), '1' \(6, 3, 1\)"):
        Concat(Last(False, False), Narrow())(x)
    with pytest.raises(TypeError, match="PackedSequence"):
        Residual(LSTM(3, 3))(fastlstm.pack_sequence([x[:, 0]]))
    with pytest.raises(TypeError, match="PackedSequence"):
        Concat(LSTM(3, 3))(fastlstm.pack_sequence([x[:, 0]]))


def test_a_last_behind_them_knows_its_lstm():
    x = normal(B, T, 3)
    lstms = LSTM(3, 4, batch_first=True, seed=0), LSTM(3, 2, batch_first=True, seed=1)
    model = Sequential(Concat(*lstms), Last())
    expected = np.concatenate([lstm(x)[1][0][0] for lstm in lstms], axis=-1)
    assert_same_bits(model(x), expected)
    first = LSTM(3, 4, bidirectional=True, seed=0)
    model = Sequential(first, Residual(LSTM(8, 4, bidirectional=True, seed=1)), Last())
    x = normal(T, B, 3)
    z = first(x)[0]
    y = z + model[1].layer(z)[0]
    assert_same_bits(model(x), np.concatenate([y[-1, :, :4], y[0, :, 4:]], axis=-1))


# ---- the rest of the package --------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_them(tmp_path, name):
    model, x = _models()[name].eval(), normal(T, B, 3)
    fastlstm.save(model, tmp_path / "model.npz")
    loaded = fastlstm.load(tmp_path / "model.npz")
    assert repr(loaded) == repr(model)
    assert_same_bits(loaded(x), model(x))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same_bits(copied(x), model(x))
    wide = model.astype("float64")
    np.testing.assert_allclose(wide(x.astype("float64")), model(x), atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 100])
@pytest.mark.parametrize("name", NAMES)
def test_the_command_runs_them(tmp_path, monkeypatch, name, chunk):
    from fastlstm import cli
    from fastlstm.cli import run

    monkeypatch.setattr(run, "CHUNK_VALUES", chunk)
    model, x = _models()[name].eval(), normal(T, B, 3)
    fastlstm.save(model, tmp_path / "model.npz")
    np.save(tmp_path / "x.npy", x)
    assert cli.main(["info", str(tmp_path / "model.npz")]) == 0
    paths = [str(tmp_path / file) for file in ("model.npz", "x.npy", "y.npy")]
    assert cli.main(["run", *paths[:2], "-o", paths[2]]) == 0
    np.testing.assert_allclose(np.load(paths[2]), model(x), atol=1e-6)


def test_the_command_carries_their_states(tmp_path):
    from fastlstm import cli

    model, x = _models()["residual"].eval(), normal(T, B, 3)
    fastlstm.save(model, tmp_path / "model.npz")
    for part, options in (("a", ["--state-out"]), ("b", ["--state-in"])):
        np.save(tmp_path / f"{part}.npy", x[:2] if part == "a" else x[2:])
        files = [str(tmp_path / file) for file in (f"{part}.npy", f"y_{part}.npy", "state.npz")]
        command = ["run", str(tmp_path / "model.npz"), files[0], "-o", files[1], *options, files[2]]
        assert cli.main(command) == 0
    whole = np.concatenate([np.load(tmp_path / f"y_{part}.npy") for part in "ab"])
    np.testing.assert_allclose(whole, model(x), atol=1e-6)


LINEAR = {"layer": "Linear", "in_features": 3, "out_features": 3}


@pytest.mark.parametrize(
    "description, sentence",
    [
        ({"layer": "Concat", "children": {}}, "Concat needs at least one layer"),
        ({"layer": "Residual", "children": {}}, "its structure cannot be built: .*'layer'"),
        ({"layer": "Residual", "children": {"layer": LINEAR, "skip": LINEAR}},
         "its structure cannot be built: .*'skip'"),
        ({"layer": "Residual", "children": {"layer": LINEAR}, "projection": None},
         "its structure is damaged: a Residual must have children alone"),
        ({"layer": "Concat", "children": {"a.b": LINEAR}}, "a name must be a string without dots"),
    ],
)  # fmt: skip
def test_a_structure_that_is_none_of_theirs_is_refused(description, sentence):
    from fastlstm.formats import structure

    with pytest.raises(ValueError, match=sentence):
        structure.build(description)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_they_learn(name, batch_first):
    model = _models(batch_first=batch_first)[name]
    x = normal(40, T, 3)
    other = copy.deepcopy(model)
    for key, value in other.state_dict().items():
        noise = normal(*value.shape, seed=len(key))
        other.load_state_dict({key: value + 0.3 * noise}, strict=False)
    y = predict(other, x)
    history = fit(model, (x, y), MSELoss(), Adam(model, lr=0.02), 30, 20, progress=False)
    assert history["loss"][-1] < history["loss"][0] / 3
    run = model if batch_first else (lambda z: model(z.swapaxes(0, 1)).swapaxes(0, 1))
    np.testing.assert_allclose(predict(model.eval(), x), run(x), atol=1e-6)


def test_a_sum_that_is_not_finite_is_named():
    model = Residual(Linear(3, 3, seed=0))
    model.layer.weight = np.full((3, 3), 3e38)
    with pytest.raises(fastlstm.training.NonFiniteError) as caught:
        x = np.full((4, 3), 3e38, np.float32)
        fit(model, (x, x), MSELoss(), Adam(model), 1, 4, shuffle=False, progress=False)
    assert caught.value.origin == "the output of layer for samples 0, 1, 2, 3"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_without_parameters_there_is_no_dtype(dtype):
    x = normal(4, 2, 3).astype(dtype)
    model = Residual(Sequential(Tanh(), Residual(Tanh())))
    y, pullback = model.vjp(x)
    assert y.dtype == pullback(y).dtype == max(np.dtype(dtype), np.dtype("float32"))
    inner = np.tanh(x.astype(y.dtype))
    assert_same_bits(y, x + (inner + np.tanh(inner)))


def test_repr_names_and_parts():
    model = Concat({"a": Residual(LSTM(3, 4), Linear(3, 4, bias=False)), "b": Tanh()})
    assert repr(model) == (
        "Concat(\n  (a): Residual(\n    (layer): LSTM(3, 4)\n    (projection): Linear("
        "in_features=3, out_features=4, bias=False)\n  )\n  (b): Tanh()\n)"
    )
    assert model["b"] is model[1] is model.b and len(model) == 2
    assert [*model[:1]] == [model.a] and isinstance(model[:1], Concat)
    assert {"a", "b"} <= set(dir(model)) and {"layer", "projection"} <= set(dir(model.a))
    with pytest.raises(AttributeError, match="'layer' cannot be replaced; build a new Residual"):
        model.a.layer = Tanh()
