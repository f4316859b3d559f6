"""Optimisers and clipping: against torch's, step by step; resuming; what is refused."""

import copy
import inspect
import math
import pickle

import numpy as np
import pytest
from errors import raises
from saboteurs import edited
from support import assert_same_bits
from values import normal, through_a_file

from fastlstm import LSTM, Dropout, Layer, Linear, Sequential, engines
from fastlstm.engines.contract import Rule
from fastlstm.training import (
    SGD,
    Adam,
    AdamW,
    RMSprop,
    StepLR,
    blocks,
    clip_grad_norm,
    clip_grad_value,
    optimisers,
)

STEPS = 10


def _model(dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    lstm = LSTM(3, 5, bidirectional=True, proj_size=2, dtype=dtype, engine="numpy", seed=rng)
    return Sequential({"lstm": lstm, "fc": Linear(4, 2, dtype=dtype, seed=rng)})


def _torchs_model(torch, model):
    """torch's model with the parameters of ours."""
    dtype = getattr(torch, str(model.dtype))
    theirs = torch.nn.ModuleDict({
        "lstm": torch.nn.LSTM(3, 5, bidirectional=True, proj_size=2, dtype=dtype),
        "fc": torch.nn.Linear(4, 2, dtype=dtype),
    })  # fmt: skip
    theirs.load_state_dict({n: torch.from_numpy(a) for n, a in model.state_dict().items()})
    return theirs


def _gradients(model, step, gain=1.0):
    """The random gradients of a step, by name; no two steps' are alike."""
    rng = np.random.default_rng([99, step])
    return {
        name: (rng.standard_normal(a.shape) * gain).astype(a.dtype)
        for name, a in model.state_dict().items()
    }


def _give(model, gradients):
    for name, view in model.grads.items():
        view[...] = gradients[name]


def _walk(optimizer, steps=STEPS, first=0):
    for step in range(first, first + steps):
        _give(optimizer.model, _gradients(optimizer.model, step))
        optimizer.step()
    return optimizer.model.state_dict()


def _give_torch(torch, theirs, gradients):
    for name, parameter in theirs.named_parameters():
        parameter.grad = torch.from_numpy(gradients[name].copy())


def _torchs_walk(torch, model, make, steps=STEPS):
    """Parameters after torch's steps, and the largest change in one of them."""
    theirs, largest = _torchs_model(torch, model), 0.0
    optimizer = make(theirs)
    for step in range(steps):
        _give_torch(torch, theirs, _gradients(model, step))
        before = [p.detach().clone() for p in theirs.parameters()]
        optimizer.step()
        for p, old in zip(theirs.parameters(), before, strict=True):
            largest = max(largest, float((p.detach() - old).abs().max()))
    return {n: p.detach().numpy() for n, p in theirs.named_parameters()}, largest


def _torchs(torch, name, **options):
    """What makes torch's optimiser: its single-tensor code."""
    return lambda theirs: getattr(torch.optim, name)(theirs.parameters(), foreach=False, **options)


def assert_matches(torch, kind, name, options, dtype, groups=None):
    """Assert that ten steps of `kind` leave the parameters where torch's `name` does.

    Both round the same operations, but for fused multiply-adds: a step rounds a parameter once
    or twice on either side, eps of the largest parameter together; and the change that is added
    is the result of at most 16 operations, moments of before included, so that both sides' may
    differ by 16 eps of the largest change. Ten steps: ten times that.
    """
    model = _model(dtype)
    make = groups or _torchs(torch, name, **options)
    expected, largest = _torchs_walk(torch, model, make)
    got = _walk(kind(model, **options))
    size = max(np.abs(a).max() for a in expected.values())
    bound = STEPS * np.finfo(dtype).eps * (size + 16 * largest)
    assert list(got) == list(expected)
    for parameter, values in expected.items():
        assert got[parameter].dtype == dtype
        np.testing.assert_allclose(got[parameter], values, rtol=0, atol=bound, err_msg=parameter)


GRID = {
    "sgd": ("SGD", {}),
    "sgd lr": ("SGD", {"lr": 0.1, "weight_decay": 0.2}),
    "sgd momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd dampening": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    "sgd nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "rmsprop": ("RMSprop", {}),
    "rmsprop decay": ("RMSprop", {"weight_decay": 0.1, "alpha": 0.9, "eps": 1e-3}),
    "rmsprop momentum": ("RMSprop", {"momentum": 0.9, "weight_decay": 0.1}),
    "rmsprop centered": ("RMSprop", {"centered": True}),
    "rmsprop all": (
        "RMSprop",
        {"centered": True, "momentum": 0.5, "weight_decay": 0.1, "lr": 0.02, "alpha": 0.95},
    ),
    "adam": ("Adam", {}),
    "adam lr": ("Adam", {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2}),
    "adam low beta": ("Adam", {"lr": 0.1, "betas": (0.3, 0.5)}),
    "adam decay": ("Adam", {"lr": 0.1, "weight_decay": 0.2}),
    "adam amsgrad": ("Adam", {"lr": 0.1, "amsgrad": True, "betas": (0.9, 0.5)}),
    "adamw": ("AdamW", {}),
    "adamw decay": ("AdamW", {"lr": 0.1, "weight_decay": 0.2}),
    "adamw amsgrad": ("AdamW", {"lr": 0.1, "weight_decay": 0.2, "amsgrad": True}),
    "adamw no decay": ("AdamW", {"weight_decay": 0.0}),
}


@pytest.mark.parametrize("case", GRID)
def test_ten_steps_are_torchs(torch, dtype, case):
    name, options = GRID[case]
    assert_matches(torch, getattr(optimisers, name), name, options, dtype)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_arguments_are_torchs(torch, name):
    """So are their order and defaults; torch has a few more, not about the arithmetic."""
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    ours = inspect.signature(getattr(optimisers, name)).parameters
    shared = [n for n in ours if n not in ("model", "lr_factors", "decay_factors")]
    assert shared == [n for n in theirs if n in shared]
    for argument in shared:
        assert ours[argument].default == theirs[argument].default


# ---- saboteurs: optimisers that the comparison must reject -------------------------------------

ROOT = "root /= (1 - beta2**steps) ** 0.5; root += self.eps"
NESTEROV = "self.nesterov"
CHANGE = "change /= root; p += change"
SHRINK = "p *= 1 - lr * decay"
# name -> (a function, a piece of it, what the saboteur has instead, the case that must show it)
EDITS = {
    "decay forgotten": ("_decayed", "np.multiply(p, decay, out=out)", "out[...] = 0", "sgd lr"),
    "decay of the wrong sign": (
        "_decayed", "np.multiply(p, decay, out=out)", "np.multiply(p, -decay, out=out)",
        "adam decay"),
    "decay times lr": (
        "Adam._compute", "_decayed(p, g, decay, scratch[0])",
        "_decayed(p, g, lr * decay, scratch[0])", "adam decay"),
    "coupled AdamW": ("AdamW._compute", SHRINK, "pass", "adamw decay"),
    "AdamW's decay without lr": ("AdamW._compute", SHRINK, "p *= 1 - decay", "adamw decay"),
    "AdamW's decay last": (
        "AdamW._compute",
        f"if decay: {SHRINK}\nsuper()._compute(p, g, moments, scratch, lr, 0.0, steps)",
        f"super()._compute(p, g, moments, scratch, lr, 0.0, steps)\nif decay: {SHRINK}",
        "adamw decay"),
    "dampened at first": ("SGD._compute", "self._fresh or steps == 1", "False", "sgd dampening"),
    "dampening forgotten": ("SGD._compute", "1 - self.dampening", "1", "sgd dampening"),
    "momentum forgotten": ("SGD._compute", "b *= self.momentum", "b *= 0", "sgd momentum"),
    "nesterov forgotten": ("SGD._compute", NESTEROV, "False", "sgd nesterov"),
    "always nesterov": ("SGD._compute", NESTEROV, "True", "sgd momentum"),
    "not centered": (
        "RMSprop._compute", "np.subtract(v, root, out=root)", "root[...] = v", "rmsprop centered"),
    "eps in the root": (
        "RMSprop._compute", "np.sqrt(root if self.centered else v, out=root); root += self.eps",
        "np.sqrt((root if self.centered else v) + self.eps, out=root)", "rmsprop decay"),
    "eps forgotten": ("Adam._compute", "root += self.eps", "pass", "adam lr"),
    "eps before the correction": (
        "Adam._compute", ROOT, "root += self.eps; root /= (1 - beta2**steps) ** 0.5", "adam lr"),
    "mean not unbiased": ("Adam._compute", "-lr / (1 - beta1**steps)", "-lr", "adam"),
    "square not unbiased": ("Adam._compute", "root /= (1 - beta2**steps) ** 0.5", "pass", "adam"),
    "steps from 0": (
        "Adam._compute", "-lr / (1 - beta1**steps)", "-lr / (1 - beta1 ** (steps + 1))", "adam"),
    "betas swapped": ("Adam._compute", "beta1, beta2 = self.betas", "beta2, beta1 = self.betas",
                      "adam lr"),
    "square of the mean": (
        "Adam._compute", "_lerp(m, g, 1 - beta1, change); _add_squares(v, g, beta2, change)",
        "_lerp(m, g, 1 - beta1, change); _add_squares(v, m, beta2, change)", "adam"),
    "not the largest": (
        "Adam._compute", "v = np.maximum(highest, v, out=highest)", "pass", "adam amsgrad"),
    "change in float16": (
        "Adam._compute", CHANGE, "change /= root; p += change.astype(np.float16)", "adam lr"),
    "lerp from the wrong end": (
        "_lerp", "np.subtract(new, scratch, out=old)", "old += scratch", "adam low beta"),
}  # fmt: skip


def _forgetful(kind, forget):
    """Return an optimiser whose steps leave some parameters as they were."""

    class Forgetful(kind):
        def step(self):
            before = self.model.state_dict()
            super().step()
            after = self.model.state_dict()
            for name, values in after.items():
                forget(name, values, before[name])
            self.model.load_state_dict(after)

    return Forgetful


def _forget_the_last_layer(name, values, before):
    if name.startswith("fc."):
        values[...] = before


def _forget_the_last_number(name, values, before):
    values.flat[-1] = before.flat[-1]


@pytest.mark.parametrize("saboteur", EDITS)
def test_saboteur_is_rejected(torch, dtype, saboteur):
    place, old, new, case = EDITS[saboteur]
    name, options = GRID[case]
    kind = getattr(edited(optimisers, place, old, new), name)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_matches(torch, kind, name, options, dtype)


@pytest.mark.parametrize("forget", [_forget_the_last_layer, _forget_the_last_number])
def test_forgetful_optimiser_is_rejected(torch, dtype, forget):
    name, options = GRID["sgd"]
    kind = getattr(optimisers, name)
    assert_matches(torch, _forgetful(kind, lambda *_: None), name, options, dtype)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_matches(torch, _forgetful(kind, forget), name, options, dtype)


# ---- factors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name, options", [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("RMSprop", {"weight_decay": 0.1, "centered": True}),
    ("Adam", {"lr": 0.1, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.1}),
])  # fmt: skip
def test_factors_are_torchs_groups(torch, dtype, name, options):
    """So are those of gates: torch gets each parameter as four leaves, a group for each."""
    lr_factors = {"*bias*": 2.0, "lstm.weight_hh*": [1, 0.5, 1, 0], "fc.*": 3, "fc.bias": 0}
    decay_factors = {"*": 2, "*bias*": 0, "lstm.bias_ih_l0": (1, 2, 3, 4)}
    lr, decay = options.get("lr", 0.01), options["weight_decay"]
    model = _model(dtype)

    def four(factor):
        return factor if isinstance(factor, (list, tuple)) else [factor] * 4

    def factors(parameter):
        lr, decay = 1, 2
        if "bias" in parameter:
            lr, decay = 2, 0
        if parameter.startswith("lstm.weight_hh"):
            lr = [1, 0.5, 1, 0]
        if parameter.startswith("fc."):
            lr = 0 if "bias" in parameter else 3
        if parameter == "lstm.bias_ih_l0":
            decay = (1, 2, 3, 4)
        return zip(four(lr), four(decay), strict=True)

    leaves, groups = {}, []
    for parameter, values in model.state_dict().items():
        leaves[parameter] = [torch.tensor(rows) for rows in np.array_split(values, 4)]
        for leaf, (lr_factor, decay_factor) in zip(
            leaves[parameter], factors(parameter), strict=True
        ):
            groups.append(
                {"params": [leaf], "lr": lr * lr_factor, "weight_decay": decay * decay_factor}
            )
    theirs = getattr(torch.optim, name)(groups, foreach=False, **options)
    for step in range(STEPS):
        for parameter, values in _gradients(model, step).items():
            for leaf, rows in zip(leaves[parameter], np.array_split(values, 4), strict=True):
                leaf.grad = torch.tensor(rows)
        theirs.step()
    kind = getattr(optimisers, name)
    before = model.state_dict()
    got = _walk(kind(model, **options, lr_factors=lr_factors, decay_factors=decay_factors))
    for parameter, values in got.items():
        expected = torch.cat(leaves[parameter]).numpy()
        # as in assert_matches; no change is larger than 3 lr, times 10 with momentum
        bound = STEPS * np.finfo(dtype).eps * (1 + np.abs(expected).max() + 16 * 30 * lr)
        np.testing.assert_allclose(values, expected, rtol=0, atol=bound, err_msg=parameter)
    assert_same_bits(got["fc.bias"], before["fc.bias"])
    assert_same_bits(got["lstm.weight_hh_l0"][15:], before["lstm.weight_hh_l0"][15:])
    assert not np.array_equal(got["lstm.weight_hh_l0"][:15], before["lstm.weight_hh_l0"][:15])


@pytest.mark.parametrize("kind", [SGD, RMSprop, Adam, AdamW])
def test_frozen_stays_whatever_comes(kind):
    model = _model()
    optimizer = kind(model, lr_factors={"lstm.*": 0}, weight_decay=0.5)
    before = model.state_dict()
    before["lstm.bias_ih_l0"][:2] = model.lstm._views["bias_ih_l0"][:2] = -0.0, np.inf
    _give(model, {name: np.full(a.shape, np.nan) for name, a in before.items()})
    optimizer.step()
    for name, values in model.state_dict().items():
        if name.startswith("lstm."):
            assert_same_bits(values, before[name])
        else:
            assert np.isnan(values).all()


def test_factors_of_one_are_none():
    plain, ones = _walk(Adam(_model())), Adam(_model(), lr_factors={"*": 1}, decay_factors={})
    for name, values in _walk(ones).items():
        assert_same_bits(values, plain[name])


def test_bad_factors():
    model = _model()
    names = ", ".join(model.state_dict())
    raises(lambda: Adam(model, lr_factors={"*biass*": 2}), ValueError,
           f"lr_factors: '*biass*' matches no parameter; there are {names}")  # fmt: skip
    raises(lambda: SGD(model, decay_factors={"fc.*": [1, 2, 3, 4]}), ValueError,
           "decay_factors: 'fc.*' has a factor for each gate, but fc.weight of shape (2, 4) has "
           "no gates")  # fmt: skip
    raises(lambda: SGD(model, lr_factors={"*weight_hr*": [1, 2, 3, 4]}), ValueError,
           "lr_factors: '*weight_hr*' has a factor for each gate, but lstm.weight_hr_l0 of shape "
           "(2, 5) has no gates")  # fmt: skip
    for value in ([1, 2], [1]):
        raises(lambda value=value: AdamW(model, lr_factors={"lstm.weight_ih*": value}), ValueError,
               "lr_factors['lstm.weight_ih*'] must be one number, or 4 for the gates i, f, g, o "
               f"of lstm.weight_ih_l0, got {len(value)}")  # fmt: skip
    raises(lambda: RMSprop(model, lr_factors={"*": -1}), ValueError,
           "lr_factors['*'] must be a finite number of at least 0, got -1")  # fmt: skip
    raises(lambda: RMSprop(model, lr_factors={"*": None}), TypeError,
           "lr_factors['*'] should be a number, got: NoneType")  # fmt: skip
    raises(lambda: Adam(model, lr_factors=2.0), TypeError,
           "lr_factors should be a dict, got: float")  # fmt: skip


@pytest.mark.parametrize("coupled", [None, "f=1-i", "i=1-f"])
@pytest.mark.parametrize("layer_norm", ["tflite", "haste"])
def test_which_parameters_have_gates(layer_norm, coupled):
    """Those with as many rows for each gate as there are units; a list of factors is for them."""
    gates = {None: "ifgo", "f=1-i": "igo", "i=1-f": "fgo"}[coupled]
    lstm = LSTM(
        2, 5, proj_size=3, peephole=True, layer_norm=layer_norm, coupled=coupled, engine="numpy"
    )
    before = lstm.state_dict()
    for gradient in lstm.grads.values():
        gradient[...] = 1
    factors = dict.fromkeys((n for n in before if lstm.gates_of(n)), range(1, len(gates) + 1))
    optimizer = SGD(lstm, 1, lr_factors={n: [*values] for n, values in factors.items()})
    optimizer.step()
    for name, values in before.items():
        assert lstm.gates_of(name) == (gates if len(values) == 5 * len(gates) else "")
        steps = np.repeat(factors.get(name, [1]), 5 if name in factors else len(values))
        change = (values.T - lstm.state_dict()[name].T).T
        np.testing.assert_allclose(change.reshape(len(values), -1)[:, 0], steps, atol=1e-5)


def test_a_layer_may_have_other_gates():
    """As many factors as gates that have rows."""

    class Three(Layer):
        def __init__(self):
            super().__init__({"kernel": (6, 2), "offset": (2,)})

        def gates_of(self, name):
            return "igo" if name == "kernel" else ""

    model = Three()
    model.kernel, model.offset = np.ones((6, 2)), np.ones(2)
    factors = {"*": 4, "kernel": [1, 0, 3]}, {"kernel": [0.5, 1, 2], "offset": 0}
    optimizer = SGD(model, 0.25, weight_decay=1, lr_factors=factors[0], decay_factors=factors[1])
    for gradient in model.grads.values():
        gradient[...] = 0.5
    optimizer.step()
    # 1 - 0.25 * 1 * (0.5 + 0.5 * 1); frozen; 1 - 0.25 * 3 * (0.5 + 2 * 1)
    assert model.kernel[:, 0].tolist() == [0.75, 0.75, 1, 1, -0.875, -0.875]
    assert model.offset.tolist() == [0.5, 0.5]
    raises(lambda: SGD(model, decay_factors={"*": 1, "k*": [1, 2, 3, 4]}), ValueError,
           "decay_factors['k*'] must be one number, or 3 for the gates i, g, o of kernel, got 4"
           )  # fmt: skip


# ---- on the flat buffers ------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["sgd nesterov", "rmsprop all", "adam amsgrad", "adamw decay"])
def test_blocks_do_not_matter(monkeypatch, dtype, case):
    name, options = GRID[case]
    options = options | {"lr_factors": {"*bias*": 0.5, "lstm.weight_hh_l0": [1, 2, 3, 4]}}
    whole = _walk(getattr(optimisers, name)(_model(dtype), **options))
    monkeypatch.setattr(blocks, "BLOCK", 7)
    for parameter, values in _walk(getattr(optimisers, name)(_model(dtype), **options)).items():
        assert_same_bits(values, whole[parameter])


def _updated(engine, dtype, case, size=70):
    """Parameters and moments of a layer of an engine after some steps; numbers of many sizes."""
    name, options = GRID[case]
    model = Linear(size, 1, bias=False, dtype=dtype, engine=engine, seed=0)
    optimizer = getattr(optimisers, name)(model, **options)
    rng = np.random.default_rng(1)
    tiny = float(np.finfo(dtype).smallest_normal) ** 0.5  # whose squares are beyond normal numbers
    for _ in range(5):
        sizes = rng.choice([1, 1e-3, 1e3, tiny, 0], size)
        model.grads["weight"][...] = rng.standard_normal(size) * sizes
        optimizer.step()
    kept = {f"{m}.{name}": view for m, name, view in optimizer._moment_views()}
    return {"weight": model.weight, **kept}


def assert_as_numpy(engine, dtype, case, size=70):
    """Assert that an engine leaves the very bits that the optimiser's own arithmetic does."""
    expected = _updated("numpy", dtype, case, size)
    for name, values in _updated(engine, dtype, case, size).items():
        assert_same_bits(values, expected[name])


@pytest.mark.parametrize("case", GRID)
def test_engines_update_as_numpy(exact_engine, dtype, case):
    assert_as_numpy(exact_engine, dtype, case)


@pytest.mark.parametrize("case", ["sgd nesterov", "rmsprop all", "adam amsgrad"])
def test_engines_update_any_number_of_parameters(exact_engine, dtype, case):
    for size in (*range(1, 35), 1 << 18):
        assert_as_numpy(exact_engine, dtype, case, size)


# field of a rule -> a case in which it matters
FIELDS = {
    "rate": "sgd", "decay": "adam decay", "shrink": "adamw decay", "momentum": "sgd momentum",
    "dampening": "sgd dampening", "mean": "adam", "square": "adam", "root": "adam",
    "eps": "rmsprop decay", "nesterov": "sgd nesterov", "first": "sgd dampening",
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_an_engine_that_is_told_wrongly_is_rejected(native, dtype, field, monkeypatch):
    assert set(FIELDS) == set(Rule._fields) - {"kind"}
    kind, _ = GRID[FIELDS[field]]
    rule = getattr(optimisers, kind)._rule

    def wrong(self, *arguments):
        right = rule(self, *arguments)
        value = getattr(right, field)
        return right._replace(**{field: not value if type(value) is bool else 1.01 * value})

    monkeypatch.setattr(getattr(optimisers, kind), "_rule", wrong)
    with pytest.raises(AssertionError):
        assert_as_numpy(native.__name__.rpartition("_")[2], dtype, FIELDS[field])


@pytest.mark.parametrize("count", [0, 1, 7, 8, 33])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_engines_find_what_is_not_finite(engine, dtype, count, bad):
    is_finite = engines.load(engine).is_finite
    x = np.full(count, np.finfo(dtype).max, dtype)  # whose sum is not finite
    with np.errstate(all="ignore"):
        assert is_finite(x) is True
        for place in range(count):
            spoilt = x.copy()
            spoilt[place] = bad
            assert is_finite(spoilt) is False


def test_step_is_seen_by_the_layers(engine):
    """Weights are packed anew, and gradients stay as they were."""
    lstm = LSTM(2, 3, engine=engine, seed=0)
    x = np.ones((4, 1, 2), np.float32)
    before = lstm(x)[0]
    optimizer = SGD(lstm, lr=0.5)
    for view in lstm.grads.values():
        view[...] = 1
    optimizer.step()
    other = LSTM(2, 3, engine=engine)
    other.load_state_dict(lstm.state_dict())
    assert not np.array_equal(lstm(x)[0], before)
    assert_same_bits(lstm(x)[0], other(x)[0])
    assert all((view == 1).all() for view in lstm.grads.values())
    optimizer.zero_grad()
    assert not any(view.any() for view in lstm.grads.values())


@pytest.mark.parametrize("case", ["sgd momentum", "rmsprop all", "adam amsgrad"])
def test_moments_are_of_each_layers_dtype(engine, case):
    """A layer of one's own may hold others of another dtype than its own, or of two."""
    name, options = GRID[case]

    def walked(model):
        optimizer = getattr(optimisers, name)(model, **options)
        for step in range(6):
            for gradient in model.grads.values():
                gradient[...] = normal(*gradient.shape, seed=step)
            if step == 3:
                state = optimizer.state_dict()
                optimizer = getattr(optimisers, name)(model, **options)
                optimizer.load_state_dict(state)
            optimizer.step()
        return model.state_dict()

    def layers():
        return {
            "narrow": Linear(30, 40, engine=engine, seed=0),
            "wide": Linear(30, 41, dtype="float64", engine=engine, seed=1),
        }

    together = walked(Layer(children=layers()))
    for name_of_layer, layer in layers().items():
        for parameter, values in walked(Layer(children={name_of_layer: layer})).items():
            assert values.dtype == layer.dtype
            assert_same_bits(together[parameter], values)


def test_gradients_are_not_written(dtype):
    for name, options in GRID.values():
        model = _model(dtype)
        given = _gradients(model, 0)
        _give(model, given)
        getattr(optimisers, name)(model, **options).step()
        for parameter, view in model.grads.items():
            assert_same_bits(view, given[parameter])


@pytest.mark.parametrize("case", GRID)
def test_gradients_that_are_not_finite_do_what_they_do_in_torch(torch, case):
    name, options = GRID[case]
    model = _model()
    theirs = _torchs_model(torch, model)
    optimizer = _torchs(torch, name, **options)(theirs)
    ours = getattr(optimisers, name)(model, **options)
    for step in range(3):
        gradients = _gradients(model, step)
        if step == 1:  # the mean of the squares overflows, not the square of the mean
            gradients["fc.weight"].flat[:4] = np.nan, np.inf, -np.inf, 2e20
        _give(model, gradients)
        _give_torch(torch, theirs, gradients)
        ours.step()
        optimizer.step()
    for parameter, values in theirs.named_parameters():
        expected, got = values.detach().numpy(), model.state_dict()[parameter]
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected), err_msg=parameter)
        np.testing.assert_array_equal(np.isinf(got), np.isinf(expected), err_msg=parameter)


def test_a_layer_in_two_places_is_stepped_once():
    shared = Linear(2, 2, seed=0)
    model = Sequential(shared, shared)
    expected = shared.weight - np.float32(0.5)
    shared.grads["weight"][...] = 1
    optimizer = SGD(model, lr=0.5)
    optimizer.step()
    assert_same_bits(shared.weight, expected)
    assert clip_grad_norm(model, math.inf) == 2


# ---- state ------------------------------------------------------------------------------------


@pytest.mark.parametrize("through", [copy.deepcopy, through_a_file])
@pytest.mark.parametrize("case", GRID)
def test_resumed_is_uninterrupted(dtype, case, through):
    name, options = GRID[case]
    kind = getattr(optimisers, name)
    options = options | {"lr_factors": {"*bias*": 0.5, "fc.bias": 0}}
    whole = kind(_model(dtype), **options)
    expected = _walk(whole)
    first = kind(_model(dtype), **options)
    schedule = StepLR(first, 1)
    _walk(first, 5)
    first.lr = whole.lr
    parameters, state = first.model.state_dict(), through(first.state_dict())
    _walk(first, 1)  # what was returned are copies
    second = kind(_model(dtype, seed=1), **options | {"lr": 7.0, "weight_decay": 0.3})
    second.model.load_state_dict(parameters)
    second.load_state_dict(state)
    assert (second.steps, second.initial_lr) == (5, schedule.optimizer.initial_lr)
    for parameter, values in _walk(second, 5, first=5).items():
        assert_same_bits(values, expected[parameter])
    for key, value in second.state_dict().items():
        if key != "initial_lr":
            assert_same_bits(value, whole.state_dict()[key])


@pytest.mark.parametrize("through", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_goes_on_without_the_scratch_memory(dtype, through):
    optimizer = Adam(_model(dtype))
    _walk(optimizer, 5)
    assert len(pickle.dumps(optimizer)) < 50_000
    copied = through(optimizer)
    expected = _walk(optimizer, 5, first=5)
    for parameter, values in _walk(copied, 5, first=5).items():
        assert_same_bits(values, expected[parameter])


def test_state_has_names_and_shapes():
    optimizer = Adam(_model(), lr=0.25)
    options = {"lr": 0.25, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    state = optimizer.state_dict()
    assert math.isnan(state.pop("initial_lr"))
    assert state == {"steps": 0} | options
    _walk(optimizer, 1)
    state = optimizer.state_dict()
    assert state["steps"] == 1
    gradient = _gradients(optimizer.model, 0)["fc.weight"]
    # m = 0 + (1 - beta1) (g - 0)
    assert_same_bits(state["exp_avg.fc.weight"], gradient * np.float32(1 - 0.9))
    assert [key for key in state if key.startswith("exp_avg_sq.")] == [
        f"exp_avg_sq.{name}" for name in optimizer.model.state_dict()
    ]


def test_state_that_does_not_fit_changes_nothing():
    optimizer = Adam(_model(), lr=0.25)
    _walk(optimizer, 2)
    before = optimizer.state_dict()

    def check(change, *faults):
        state = {k: v for k, v in (before | change).items() if v is not None}
        sentence = "\n\t".join(["Error(s) in loading state_dict for Adam:", *faults])
        raises(lambda: optimizer.load_state_dict(state), ValueError, sentence)
        for key, value in optimizer.state_dict().items():
            assert_same_bits(value, before[key])

    check({"lr": None, "exp_avg.fc.bias": None},
          'Missing key(s) in state_dict: "lr", "exp_avg.fc.bias".')  # fmt: skip
    check({"lr": 1.0, "momentum": 0.5}, 'Unexpected key(s) in state_dict: "momentum".')
    check({"exp_avg.fc.bias": np.zeros(3, np.float32), "steps": 7},
          "exp_avg.fc.bias must be float32 of shape (2,), got float32 of shape (3,).")  # fmt: skip
    check({"exp_avg.fc.bias": np.zeros(2)},
          "exp_avg.fc.bias must be float32 of shape (2,), got float64 of shape (2,).")  # fmt: skip
    check({"amsgrad": True}, "amsgrad must be False as this optimiser's, got True.")
    check({"lr": "fast"}, "lr must be an array of numbers, got str")
    check({"betas": 0.5}, "betas must be like (0.9, 0.999), got 0.5.")
    missing = {key: None for key in before if key.startswith("exp_avg.")}
    named = ", ".join(f'"{key}"' for key in missing)
    check(missing, f"Missing key(s) in state_dict: {named}.")
    raises(lambda: optimizer.load_state_dict(None), TypeError,
           "Expected state_dict to be dict-like, got NoneType")  # fmt: skip
    with pytest.raises(ValueError, match="square_avg.lstm.weight_ih_l0"):
        RMSprop(_model()).load_state_dict(before)


class _Own(Adam):
    """An optimiser whose constructor takes other arguments."""

    def __init__(self, model):
        super().__init__(model, lr=0.5)


def test_states_hold_what_the_constructor_takes():
    """Numbers of the right kind that no optimiser can have are refused; nothing is changed."""
    model = Linear(2, 1)
    optimizer = Adam(model)
    good = optimizer.state_dict()
    for change in (
        {"lr": -1.0}, {"lr": float("nan")}, {"betas": (0.9, 1.0)}, {"eps": -1e-8}, {"steps": -1},
        {"steps": 1.5}, {"weight_decay": float("inf")}, {"initial_lr": -1.0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(change))[:4]):
            optimizer.load_state_dict(good | change)
        assert str(optimizer.state_dict()) == str(good)
    own = _Own(model)
    own.load_state_dict(own.state_dict() | {"lr": 0.25})
    assert own.lr == 0.25


def test_momentum_may_begin_late(torch):
    """A schedule may do so: the buffer begins with the first gradient that meets momentum."""
    model = _model("float64")
    theirs = _torchs_model(torch, model)
    optimizer, ours = torch.optim.SGD(theirs.parameters(), lr=0.1, dampening=0.5), None
    ours = SGD(model, lr=0.1, dampening=0.5)
    for step in range(6):
        gradients = _gradients(model, step)
        _give(model, gradients)
        _give_torch(torch, theirs, gradients)
        if step == 2:
            ours.momentum = optimizer.param_groups[0]["momentum"] = 0.9
        ours.step()
        optimizer.step()
    for name, values in theirs.named_parameters():
        np.testing.assert_allclose(model.state_dict()[name], values.detach(), rtol=0, atol=1e-14)


def test_bad_options():
    model = _model()
    for name, value in {"lr": -1, "momentum": -0.5, "weight_decay": math.inf}.items():
        raises(lambda name=name, value=value: SGD(model, **{name: value}), ValueError,
               f"{name} must be a finite number of at least 0, got {value}")  # fmt: skip
    for options in ({}, {"momentum": 0.9, "dampening": 0.1}):
        raises(lambda options=options: SGD(model, nesterov=True, **options), ValueError,
               "Nesterov momentum requires a momentum and zero dampening")  # fmt: skip
    raises(lambda: RMSprop(model, alpha=1.5), ValueError,
           "alpha must be a finite number of at least 0 and of at most 1, got 1.5")  # fmt: skip
    raises(lambda: Adam(model, betas=(0.9, 1.0)), ValueError,
           "beta must be a finite number of at least 0 and below 1, got 1.0")  # fmt: skip
    raises(lambda: Adam(model, betas=0.9), ValueError, "betas must be two numbers, got 0.9")
    raises(lambda: Adam(model, lr="fast"), TypeError, "lr should be a number, got: str")
    raises(lambda: AdamW(model, amsgrad=1), TypeError,
           "amsgrad should be of type bool, got: int")  # fmt: skip
    raises(lambda: Adam(model.state_dict()), TypeError,
           "model should be a layer of this package, got: dict")  # fmt: skip
    raises(lambda: Adam(Dropout()), ValueError,
           "Adam: the model has no parameters to learn")  # fmt: skip


# ---- clipping -----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [0.5, 0, 1e3, math.inf])
def test_clip_by_norm_is_torchs(torch, dtype, max_norm):
    model = _model(dtype)
    theirs, gradients = _torchs_model(torch, model), _gradients(model, 0)
    _give(model, gradients)
    _give_torch(torch, theirs, gradients)
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm).item()
    norm = clip_grad_norm(model, max_norm)
    exact = math.sqrt(sum(float(np.sum(np.float64(g) ** 2)) for g in gradients.values()))
    assert norm == pytest.approx(exact, rel=1e-14)
    # torch's sum of some 300 squares in the dtype, of which the norm has half the error
    eps = float(np.finfo(dtype).eps)
    assert norm == pytest.approx(expected, rel=150 * eps)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(model.grads[name], parameter.grad, rtol=150 * eps)
    if max_norm >= norm:
        for name, view in model.grads.items():
            assert_same_bits(view, gradients[name])


@pytest.mark.parametrize("rubbish", [np.nan, np.inf])
def test_clip_of_what_is_not_finite_is_torchs(torch, rubbish):
    model = _model()
    theirs, gradients = _torchs_model(torch, model), _gradients(model, 0)
    gradients["fc.bias"][0] = rubbish
    _give(model, gradients)
    _give_torch(torch, theirs, gradients)
    raises(lambda: clip_grad_norm(model, 1.0, error_if_nonfinite=True), RuntimeError,
           f"The total norm of the gradients is {rubbish}, so they cannot be clipped. To scale "
           "them by it anyway, set error_if_nonfinite=False")  # fmt: skip
    for name, view in model.grads.items():
        assert_same_bits(view, gradients[name])
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    np.testing.assert_equal(clip_grad_norm(model, 1.0), float(rubbish))
    for name, parameter in theirs.named_parameters():
        np.testing.assert_array_equal(model.grads[name], parameter.grad.numpy())


def test_clip_by_value_is_torchs(torch, dtype):
    model = _model(dtype)
    theirs, gradients = _torchs_model(torch, model), _gradients(model, 0)
    gradients["fc.bias"][...] = np.nan, -np.inf
    _give(model, gradients)
    _give_torch(torch, theirs, gradients)
    torch.nn.utils.clip_grad_value_(theirs.parameters(), 0.7)
    clip_grad_value(model, 1e300)
    assert clip_grad_value(model, 0.7) is None
    for name, parameter in theirs.named_parameters():
        assert_same_bits(model.grads[name], parameter.grad.numpy())


def test_bad_clips():
    model = _model()
    raises(lambda: clip_grad_norm(model, -1), ValueError,
           "max_norm must be a finite number of at least 0, got -1")  # fmt: skip
    raises(lambda: clip_grad_value(model, math.nan), ValueError,
           "value must be a finite number of at least 0, got nan")  # fmt: skip
    for clip in (clip_grad_norm, clip_grad_value):
        raises(lambda clip=clip: clip([], 1), TypeError,
               "model should be a layer of this package, got: list")  # fmt: skip
