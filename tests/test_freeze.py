"""Frozen parameters: no gradient, no update, no decay, no part in a norm; kept by copies."""

import copy
import pickle

import numpy as np
import pytest
from errors import raises
from support import assert_same_bits
from trainings import F, N, assert_same_weights, lstm, make_data, regressor
from values import arrays_in, normal

import fastlstm
from fastlstm import LSTM, Dropout, Embedding, Last, Linear, LSTMCell, Sequential
from fastlstm.training import (
    SGD,
    Adam,
    AdamW,
    Arrays,
    Checkpoint,
    CrossEntropyLoss,
    MSELoss,
    RMSprop,
    clip_grad_norm,
    clip_grad_value,
    fit,
)

NAMES = ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "lstm.bias_hh_l0"]
ALL = [*NAMES, "fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    "names, frozen",
    [
        ((), ALL),
        (("lstm",), NAMES),
        (("fc.bias", "lstm.weight_hh_l0"), ["lstm.weight_hh_l0", "fc.bias"]),
        (("*bias*",), [*NAMES[2:], "fc.bias"]),
        (("fc",), ALL[4:]),
    ],
)
def test_names(names, frozen):
    model = regressor()
    assert list(model.requires_grad) == ALL and all(model.requires_grad.values())
    assert model.freeze(*names) is model
    assert [n for n, learns in model.requires_grad.items() if not learns] == frozen
    assert model.unfreeze(*names) is model
    assert all(model.requires_grad.values())


def test_requires_grad():
    model = regressor()
    model.requires_grad["lstm.weight_ih_l0"] = False
    assert not model.lstm.requires_grad["weight_ih_l0"]
    model.lstm.requires_grad = False
    model.lstm.requires_grad["bias_ih_l0"] = True
    assert [n for n, learns in model.requires_grad.items() if learns] == [
        "lstm.bias_ih_l0", "fc.weight", "fc.bias"
    ]  # fmt: skip
    assert repr(model.fc.requires_grad) == "{'weight': True, 'bias': True}"
    assert len(model.requires_grad) == 6 and "fc.bias" in model.requires_grad
    assert "dropout" not in model.requires_grad


def test_a_layer_in_two_places_is_frozen_in_both():
    linear = Linear(3, 3)
    model = Sequential(linear, linear)
    model.freeze("1.weight")
    assert [n for n, learns in model.requires_grad.items() if not learns] == [
        "0.weight", "1.weight"
    ]  # fmt: skip


def test_wrong_names():
    model = regressor()
    there = ", ".join(f"'{name}'" for name in ALL)
    for call, what in ((model.freeze, "freeze"), (model.unfreeze, "unfreeze")):
        for name in ("lstm.weight_ih_l1", "ls", "dropout", ""):
            sentence = (
                f"{what}: {name!r} is no parameter, nor a layer with parameters; there are {there}"
            )
            raises(lambda c=call, n=name: c("fc", n), ValueError, sentence)
    assert all(model.requires_grad.values())  # nothing has been changed
    raises(lambda: model.freeze(["fc"]), TypeError, "freeze takes names of type str, got: list")
    raises(
        lambda: Dropout().freeze("p"), ValueError,
        "freeze: 'p' is no parameter, nor a layer with parameters; there are none",
    )  # fmt: skip
    with pytest.raises(TypeError, match=r"requires_grad\['fc.bias'\] should be of type bool"):
        model.requires_grad["fc.bias"] = 1
    with pytest.raises(TypeError, match="requires_grad should be of type bool, got: dict"):
        model.requires_grad = {}
    with pytest.raises(TypeError, match="none can be deleted"):
        del model.requires_grad["fc.bias"]


# ---- gradients ------------------------------------------------------------------------------


def _run(layer, x):
    y, pullback = layer.vjp(x)
    y = y[0] if isinstance(layer, LSTM) else y
    return pullback(tuple(map(np.ones_like, y)) if isinstance(y, tuple) else np.ones_like(y))


LAYERS = {
    "lstm": (lambda e: LSTM(F, 4, num_layers=2, bidirectional=True, engine=e, seed=1), (3, 2, F)),
    "projected": (lambda e: LSTM(F, 4, proj_size=2, engine=e, seed=1), (3, 2, F)),
    "no bias": (lambda e: LSTM(F, 4, bias=False, engine=e, seed=1), (3, 2, F)),
    "cell": (lambda e: LSTMCell(F, 4, engine=e, seed=1), (2, F)),
    "linear": (lambda e: Linear(F, 4, seed=1), (2, F)),
    "embedding": (lambda e: Embedding(5, 4, seed=1), None),
}


@pytest.mark.parametrize("name", LAYERS)
def test_frozen_parameters_get_no_gradient_and_others_theirs(name, engine):
    """One parameter at a time is frozen, then all; the gradient of the input stays the same."""
    make, shape = LAYERS[name]
    x = np.array([[0, 1], [1, 3]]) if shape is None else normal(*shape)
    plain = make(engine)
    expected_dx = _run(plain, x)
    for names in [*([own] for own in plain.state_dict()), list(plain.state_dict())]:
        layer = make(engine).freeze(*names)
        dx = _run(layer, x)
        for own, gradient in layer.grads.items():
            assert_same_bits(gradient, plain.grads[own] if own not in names else 0 * gradient)
            assert plain.grads[own].any() or own == "weight_hh"  # of a cell: h_0 is 0
        for got, expected in zip(arrays_in(dx), arrays_in(expected_dx), strict=True):
            assert_same_bits(got, expected)


def test_freezing_forgets_a_gradient():
    linear = Linear(2, 1)
    _run(linear, np.ones((1, 2), np.float32))
    linear.freeze("weight")
    assert not linear.grads["weight"].any() and linear.grads["bias"] == 1


# ---- updates, decay, norms ------------------------------------------------------------------

OPTIMISERS = {
    "sgd": lambda model, **more: SGD(model, 0.1, momentum=0.9, weight_decay=0.1, **more),
    "rmsprop": lambda model, **more: RMSprop(model, momentum=0.5, weight_decay=0.1, **more),
    "adam": lambda model, **more: Adam(model, amsgrad=True, weight_decay=0.1, **more),
    "adamw": lambda model, **more: AdamW(model, **more),
}
WAYS = {
    "freeze": lambda model: (model.freeze("lstm", "fc.bias"), {})[1],
    "lr_factors": lambda model: {"lr_factors": {"lstm.*": 0, "fc.bias": 0}},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", OPTIMISERS)
def test_fit_trains_the_rest_as_if_it_were_alone(kind, way):
    """So does clipping: the norm is that of fc.weight alone, behind the frozen LSTM."""
    model = regressor()
    head = Linear(4, 1, seed=2)
    head.freeze("bias")
    x, y = make_data()
    features = model[:3](x.swapaxes(0, 1))
    optimizer = OPTIMISERS[kind](model, **WAYS[way](model))
    fit(model, (x, y), MSELoss(), optimizer, 3, 8, clip_norm=0.5)
    fit(head, (features, y), MSELoss(), OPTIMISERS[kind](head), 3, 8, clip_norm=0.5)
    # BLAS may cut the rows of a batch otherwise than those of all features
    np.testing.assert_allclose(model.fc.weight, head.weight, rtol=0, atol=1e-6)
    fresh = regressor()
    for name in [*NAMES, "fc.bias"]:
        assert_same_bits(model.state_dict()[name], fresh.state_dict()[name])
    assert (np.abs(model.fc.weight - fresh.fc.weight) > 1e-4).any()


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_a_gate_may_be_frozen(kind):
    """With a factor of 0 for the forget gate, its rows stay and do not count in the norm."""
    model = regressor()
    optimizer = OPTIMISERS[kind](model, lr_factors={"lstm.*": [1, 0, 1, 1]})
    for gradient in model.grads.values():
        gradient[...] = 2.0
    counted = 4 * sum(g.size for n, g in model.grads.items() if n.startswith("fc"))
    counted += 3 * sum(g.size for n, g in model.grads.items() if n.startswith("lstm"))
    assert clip_grad_norm(optimizer, 1.0) == pytest.approx(counted**0.5, rel=1e-12)
    assert (model.grads["lstm.bias_ih_l0"][4:8] == 2.0).all()
    assert (model.grads["lstm.bias_ih_l0"][:4] < 2.0).all()
    before = model.lstm.weight_hh_l0.copy()
    optimizer.step()
    same = (model.lstm.weight_hh_l0 == before).all(axis=1).reshape(4, 4).all(axis=1)
    assert same.tolist() == [False, True, False, False]


@pytest.mark.parametrize("way", WAYS)
def test_norms_and_clips_leave_out_what_is_frozen(way):
    model = regressor()
    optimizer = SGD(model, **WAYS[way](model))
    for gradient in model.grads.values():
        gradient[...] = 3.0  # by hand: whoever writes there, it does not count
    parts = (model, optimizer) if way == "freeze" else (optimizer,)
    for part in parts:
        model.grads["fc.weight"][...] = 3.0
        assert clip_grad_norm(part, 1.0) == 6.0  # of four values
        np.testing.assert_allclose(model.grads["fc.weight"], 0.5, rtol=1e-6)
        model.grads["fc.weight"][...] = 3.0
        clip_grad_value(part, 2.0)
        assert (model.grads["fc.weight"] == 2.0).all()
    for name in [*NAMES, "fc.bias"]:
        assert (model.grads[name] == 3.0).all()


def test_nan_in_a_frozen_gradient_does_not_end_a_training():
    """An infinite sample spoils the LSTM's gradients alone, which are not needed."""
    x, y = make_data()
    x[9, -1, 0] = np.inf
    for way in WAYS.values():
        model = regressor()
        model.lstm.weight_ih_l0 = np.abs(model.lstm.weight_ih_l0)
        optimizer = SGD(model, lr=0.1, **way(model))
        history = fit(model, (x, y), MSELoss(), optimizer, 2, 8, clip_norm=1.0)
        assert np.isfinite(history["loss"]).all()
        assert all(np.isfinite(value).all() for value in model.state_dict().values())


def test_nothing_to_learn_is_refused():
    model = regressor().freeze()
    raises(
        lambda: fit(model, make_data(), MSELoss(), SGD(model), 1, 8), ValueError,
        "model: Expected something to learn, but all of its parameters are frozen",
    )  # fmt: skip


def test_unfrozen_by_a_callback():
    """From the third epoch on the LSTM learns too, and the optimiser notices at once."""
    model, kept = regressor().freeze("lstm"), []

    def thaw(state):
        kept.append(state.model.state_dict())
        if state.epoch == 2:
            state.model.unfreeze()

    fit(model, make_data(), MSELoss(), Adam(model), 3, 8, callbacks=[thaw])
    for name in NAMES:
        assert_same_bits(kept[1][name], regressor().state_dict()[name])
        assert (kept[2][name] != kept[1][name]).any()


def test_the_state_of_an_optimiser_has_no_moments_of_what_is_frozen():
    model = regressor().freeze("lstm")
    optimizer = Adam(model)
    fit(model, make_data(), MSELoss(), optimizer, 1, 8)
    state = optimizer.state_dict()
    moments = [name for name in state if "." in name]
    assert moments == [f"{m}.fc.{p}" for m in ("exp_avg", "exp_avg_sq") for p in ("weight", "bias")]
    other = Adam(copy.deepcopy(model))
    other.load_state_dict(state)
    for trained, its in ((model, optimizer), (other.model, other)):
        fit(trained, make_data(), MSELoss(), its, 1, 8)
    assert_same_weights(model, other.model)
    model.unfreeze()
    with pytest.raises(ValueError, match='Missing key.* "exp_avg.lstm.weight_ih_l0"'):
        optimizer.load_state_dict(state)


# (parameters, whether they are learnt from the step of this number on)
LATER = {
    "thawed": {0: ("lstm.*", False), 3: ("lstm.*", True)},
    "frozen late": {3: ("fc.weight", False)},
    "left out for a while": {2: ("lstm.weight_hh_l0", False), 5: ("lstm.weight_hh_l0", True)},
}


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("kind", ["SGD", "dampened", "RMSprop", "Adam", "AdamW"])
def test_steps_of_what_was_frozen_are_torchs(torch, kind, later):
    """Each parameter counts its own steps, so a mean that begins late is unbiased too."""
    options = {
        "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        "dampened": {"momentum": 0.9, "dampening": 0.5},
        "RMSprop": {"momentum": 0.5, "centered": True},
        "Adam": {"amsgrad": True, "weight_decay": 0.1},
        "AdamW": {"amsgrad": True, "weight_decay": 0.1},
    }[kind]
    kind = "SGD" if kind == "dampened" else kind
    model = Sequential({"lstm": LSTM(F, 3, dtype="float64"), "fc": Linear(3, 1, dtype="float64")})
    theirs = {n: torch.nn.Parameter(torch.tensor(p)) for n, p in model.state_dict().items()}
    optimizer = getattr(fastlstm.training, kind)(model, lr=0.01, **options)
    expected = getattr(torch.optim, kind)(theirs.values(), lr=0.01, **options)
    random = np.random.default_rng(0)
    for step in range(8):
        if step in LATER[later]:
            names, learns = LATER[later][step]
            model.unfreeze(names) if learns else model.freeze(names)
        other = type(optimizer)(model, lr=0.01, **options)  # resumed at each step
        other.load_state_dict(optimizer.state_dict())
        optimizer = other
        for name, parameter in theirs.items():
            gradient = random.standard_normal(parameter.shape)
            parameter.grad = torch.tensor(gradient) if model.requires_grad[name] else None
            model.grads[name][...] = gradient
        optimizer.step()
        expected.step()
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value, theirs[name].detach(), rtol=0, atol=1e-13, err_msg=name)


def test_missed_steps_of_a_state_are_checked():
    model = Linear(2, 1)
    optimizer = Adam(model)
    optimizer.step()
    for count in (-1, 2, 0.5, "1", [1]):
        with pytest.raises((ValueError, TypeError), match=r"missed\.bias"):
            optimizer.load_state_dict(optimizer.state_dict() | {"missed.bias": count})
    with pytest.raises(ValueError, match='Unexpected key.* "missed.weights"'):
        optimizer.load_state_dict(optimizer.state_dict() | {"missed.weights": 1})


@pytest.mark.parametrize("cut", [2, 3, 5])
def test_what_callbacks_freeze_is_so_after_a_resume(cut, tmp_path):
    """Layers are frozen one by one; a kill before, between or after changes no bit."""

    def switch(state):
        if state.epoch == 2:
            state.model.unfreeze("lstm").freeze("fc.weight")
        if state.epoch == 4:
            state.model.unfreeze()

    def train(epochs, resume=None):
        model, path = regressor().freeze("lstm"), tmp_path / "training.npz"
        history = fit(
            model, make_data(), MSELoss(), Adam(model, lr=0.01), epochs, 8, progress=False,
            callbacks=[switch, Checkpoint(path)], resume=resume and path,
        )  # fmt: skip
        return model, history

    expected, whole = train(7)
    train(cut)
    model, history = train(7, resume=True)
    assert history.resumed == cut and history["loss"] == whole["loss"]
    assert_same_weights(model, expected)
    assert all(model.requires_grad.values())


# ---- copies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))]
)
def test_copies_keep_it_and_are_their_own(copied):
    layer = lstm(F, 4).freeze("weight_hh_l0")
    other = copied(layer)
    assert dict(other.requires_grad) == dict(layer.requires_grad)
    other.unfreeze()
    assert not layer.requires_grad["weight_hh_l0"]
    model = Sequential(lstm(F, 4), Last(), Linear(4, 3)).freeze("0")
    deep = copy.deepcopy(model)
    assert dict(deep.requires_grad) == dict(model.requires_grad)


def test_loading_does_not_care():
    model, other = regressor().freeze(), regressor()
    other.fc.bias = [7.0]
    model.load_state_dict(other.state_dict())
    assert model.fc.bias == 7.0 and not any(model.requires_grad.values())


@pytest.mark.parametrize("frozen, taped", [((), 3), (("0",), 2), (("0", "1"), 1), (("1",), 3)])
def test_what_nobody_needs_is_not_computed(frozen, taped, monkeypatch):
    """Layers before the first one that learns are run and not recorded."""
    taking = []
    parts = lstm(F, 4, dropout=0.5, num_layers=2), lstm(4, 3), Linear(3, 1, seed=2)
    model, plain = Sequential(*parts), Sequential(*copy.deepcopy(parts))
    model.freeze(*frozen) if frozen else None
    for kind in (LSTM, Linear):

        def vjp(self, x, own=kind.vjp, **options):
            taking.append(options["input_gradient"])
            return own(self, x, **options)

        monkeypatch.setattr(kind, "vjp", vjp)
    x = normal(3, 2, F)
    y, pullback = model.vjp(x, input_gradient=False)
    assert taking == [False] + [True] * (taped - 1)
    assert pullback(np.ones_like(y)) is None
    monkeypatch.undo()
    expected, pullback = plain.vjp(x)
    pullback(np.ones_like(expected))
    assert_same_bits(y, expected)
    for name, gradient in model.grads.items():
        is_frozen = name.partition(".")[0] in frozen
        assert_same_bits(gradient, 0 * gradient if is_frozen else plain.grads[name])


def test_states_of_a_frozen_layer_get_their_gradients():
    model = Sequential({"lstm": lstm(F, 3), "fc": Linear(3, 1, seed=2)})
    plain, x = copy.deepcopy(model), normal(3, 2, F)
    model.freeze("lstm")
    results = []
    for one in (model, plain):
        (y, _), pullback = one.vjp(x, return_states=True, input_gradient=False)
        results.append(pullback(np.ones_like(y))[1]["lstm"])
    for got, expected in zip(*results, strict=True):
        assert expected.any()
        assert_same_bits(got, expected)


def test_what_is_frozen_takes_no_room():
    """40 MB of frozen vectors have no gradients and no moments, and an epoch does not copy them."""
    tokens, classes = np.arange(N * 3).reshape(N, 3), np.arange(N) % 3
    parts = Embedding(10**6, 10, seed=1), lstm(10, 4), Last(), Linear(4, 3, seed=2)
    model = Sequential(*parts)
    optimizer = Adam(model.freeze("0"))
    fit(model, (tokens, classes), CrossEntropyLoss(), optimizer, 1, 8)
    assert model[0]._gradients is None
    vectors = [gradients for layer, _, gradients in model.buffers() if layer is model[0]]
    assert vectors[0].strides == (0,) and len(vectors[0]) == 10**7
    assert not any(piece.size >= 10**7 for piece in optimizer.learnt_gradients())
    model.unfreeze()
    assert model.grads["0.weight"].shape == (10**6, 10)
    model.freeze("0")
    assert model[0]._gradients is None


def test_frozen_embedding():
    """Vectors from elsewhere stay as they are, bit for bit, while the model above them learns."""
    tokens = np.random.default_rng(0).integers(0, 9, (N, 5))
    classes = np.random.default_rng(1).integers(0, 3, N)
    parts = Embedding(9, 3, seed=1), lstm(3, 4), Last(), Linear(4, 3, seed=2)
    model = Sequential(*parts).freeze("0")
    before = model.state_dict()
    data = Arrays(tokens, classes)
    history = fit(model, data, CrossEntropyLoss(), AdamW(model, 0.05), 5, 8)
    assert history["loss"][-1] < history["loss"][0]
    for name, value in model.state_dict().items():
        assert (value == before[name]).all() == (name == "0.weight")
