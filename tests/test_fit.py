"""Training: `fit` against loops by hand and torch, resuming, kills, Ctrl-C, what is not finite."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from gradients import roundings
from support import assert_same_bits

import fastlstm
from fastlstm import LSTM, Dropout, Embedding, Last, Linear, Sequential
from fastlstm.parameters import Layer
from fastlstm.training import (
    SGD,
    Adam,
    Arrays,
    Batches,
    Checkpoint,
    CosineAnnealingLR,
    CrossEntropyLoss,
    EarlyStopping,
    History,
    MSELoss,
    NonFiniteError,
    OneCycleLR,
    ReduceLROnPlateau,
    Sequences,
    StepLR,
    StopTraining,
    clip_grad_norm,
    clip_grad_value,
    fit,
    predict,
)

N, T, F = 22, 6, 2  # samples, steps, features; batches of 8 leave one of 6


def _random(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _lstm(inputs, hidden, **options):
    return LSTM(inputs, hidden, engine="numpy", seed=1, **options)


def _regressor(dropout=0.0, **options):
    """Many to one; with dropout in two places, each with random numbers of its own."""
    inside = {"num_layers": 2, "dropout": dropout} if dropout else {}
    layers = {
        "lstm": _lstm(F, 4, **inside, **options),
        "dropout": Dropout(dropout, seed=3),
        "last": Last(batch_first=options.get("batch_first", False)),
        "fc": Linear(4, 1, seed=2, dtype=options.get("dtype", "float32")),
    }
    return Sequential(layers)


def _data(seed=0, dtype="float32", **_):
    x = _random(N, T, F, seed=seed, dtype=dtype)
    return x, x[:, -2:, 0].sum(1, keepdims=True)


def assert_same_weights(model, other):
    for name, value in model.state_dict().items():
        assert_same_bits(value, other.state_dict()[name])


def assert_same_history(got, expected):
    """All but the seconds, bit for bit."""
    assert got.keys() == expected.keys()
    for name in expected.keys() - {"seconds"}:
        assert_same_bits(got[name], expected[name])


def _check(call, kind, sentence):
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == sentence
    return caught.value


# ---- by value -------------------------------------------------------------------------------


def _steps(**options):
    """A value for every step."""
    return Sequential(_lstm(F, 4, **options), Linear(4, 3, seed=2)), _random(N, T, 3, seed=5)


def _ragged_tokens():
    rng = np.random.default_rng(4)
    return [rng.integers(1, 9, n) for n in rng.integers(1, T + 1, N)]


def _classifier():
    parts = (
        Embedding(9, 3, padding_idx=0, seed=1),
        _lstm(3, 4, bidirectional=True),
        Last(bidirectional=True),
        Linear(8, 3, seed=2),
    )
    return Sequential(*parts), np.random.default_rng(5).integers(0, 3, N)


def _tagger():
    targets = [_random(len(s), 2, seed=len(s)) for s in _ragged_tokens()]
    return Sequential(Embedding(9, 3, seed=1), _lstm(3, 4), Linear(4, 2, seed=2)), targets


X = _random(N, T, F)
# model, data, loss, whether the model wants time first, and gives it
CASES = {
    "many_to_one": lambda: (_regressor(), _data(), MSELoss(), True, False),
    "batch_first": lambda: (_regressor(batch_first=True), _data(), MSELoss(), False, False),
    "many_to_many": lambda: ((s := _steps())[0], (X, s[1]), MSELoss(), True, True),
    "many_to_many_batch_first": lambda: (
        (s := _steps(batch_first=True))[0], (X, s[1]), MSELoss("sum"), False, False
    ),
    "lstm_alone": lambda: (
        _lstm(F, 3, proj_size=1), (X, _random(N, T, 1)), MSELoss(), True, True
    ),
    "no_lstm": lambda: (Linear(F, 3, seed=1), (X, _random(N, T, 3)), MSELoss(), False, False),
    "weights": lambda: (
        _regressor(), Arrays(*_data(), weights=np.arange(N) % 3), MSELoss(), True, False
    ),
    "ragged_classes": lambda: (
        (c := _classifier())[0], Sequences(_ragged_tokens(), c[1]), CrossEntropyLoss(), True, False
    ),
    "ragged_steps": lambda: (
        (t := _tagger())[0], Sequences(_ragged_tokens(), t[1]), MSELoss(), True, True
    ),
}  # fmt: skip


def _by_hand(model, data, loss, swap_in, swap_out, optimizer, epochs, after_step=(), clip=None):
    """The losses of each epoch, from the loop that one would write without `fit`."""
    losses = []
    for epoch in range(epochs):
        values, weights = [], []
        for batch in Batches(data, 8, seed=0).epoch(epoch):
            model.zero_grad()
            x = batch.x.swapaxes(0, 1) if swap_in else batch.x
            options = {} if batch.lengths is None else {"lengths": batch.lengths}
            y, pullback = model.vjp(x, **options)
            y = y[0] if isinstance(model, LSTM) else y
            y = y.swapaxes(0, 1) if swap_out else y
            value, dy = loss(y, batch.y, weights=batch.weights, mask=batch.mask)
            pullback(dy.swapaxes(0, 1) if swap_out else dy)
            if clip is not None:
                clip(model)
            optimizer.step()
            for step in after_step:
                step()
            values.append(value)
            own = np.ones(len(x[0] if swap_in else x)) if batch.weights is None else batch.weights
            weights.append(own.sum() if batch.mask is None else batch.mask.sum())
        total = np.dot(values, weights) / np.sum(weights)
        losses.append(np.sum(values) if loss.reduction == "sum" else total)
    return losses


@pytest.mark.parametrize("name", CASES)
def test_fit_by_hand(name):
    model, data, loss, *swaps = CASES[name]()
    history = fit(model, data, loss, Adam(model, lr=0.01), 3, 8)
    other, *_ = CASES[name]()
    losses = _by_hand(other, data, loss, *swaps, Adam(other, lr=0.01), 3)
    assert_same_weights(model, other)
    # the sums over three or so batches may be taken in another order
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-14)
    assert losses[2] < losses[0]
    assert history["lr"] == [0.01] * 3 and len(history["seconds"]) == 3
    assert list(history) == ["loss", "lr", "seconds"]
    assert not history.interrupted and history.stopped is None
    assert json.loads(json.dumps(history)) == dict(history)


CLIPS = {
    "clip_norm": lambda model: clip_grad_norm(model, 0.1),
    "clip_value": lambda model: clip_grad_value(model, 0.1),
}


@pytest.mark.parametrize("name", CLIPS)
def test_clipping_by_hand(name):
    results = {}
    for wanted in ("fit", "clipped", "not clipped"):
        model = _regressor()
        optimizer = SGD(model, lr=0.1, momentum=0.9)
        if wanted == "fit":
            fit(model, _data(), MSELoss(), optimizer, 2, 8, **{name: 0.1})
        else:
            clip = CLIPS[name] if wanted == "clipped" else None
            _by_hand(model, _data(), MSELoss(), True, False, optimizer, 2, clip=clip)
        results[wanted] = model
    assert_same_weights(results["fit"], results["clipped"])
    with pytest.raises(AssertionError):
        assert_same_weights(results["fit"], results["not clipped"])


@pytest.mark.parametrize("per", [None, "epoch", "batch"])
@pytest.mark.parametrize("kind", ["step", "one_cycle"])
def test_schedule_by_hand(kind, per):
    make = {
        "step": lambda optimizer: StepLR(optimizer, 2, gamma=0.5),
        "one_cycle": lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=20),
    }[kind]
    per_batch = per == "batch" or (per is None and kind == "one_cycle")
    model, other = _regressor(), _regressor()
    optimizer, others = (Adam(m, lr=0.1) for m in (model, other))
    schedule, other_schedule = make(optimizer), make(others)
    options = {"schedule": schedule, "schedule_per": per}
    history = fit(model, _data(), MSELoss(), optimizer, 4, 8, **options)
    rates = []
    for epoch in range(4):
        rates.append(others.lr)
        for batch in Batches(_data(), 8, seed=0).epoch(epoch):
            other.zero_grad()
            y, pullback = other.vjp(batch.x.swapaxes(0, 1))
            pullback(MSELoss()(y, batch.y)[1])
            others.step()
            if per_batch:
                other_schedule.step()
        if not per_batch:
            other_schedule.step()
    assert history["lr"] == rates and len(set(rates)) > 1
    assert_same_weights(model, other)


def test_plateau_sees_the_validation_loss_or_the_loss():
    for validation, name in ((_data(1), "validation_loss"), (None, "loss")):
        model, seen = _regressor(), []
        optimizer = Adam(model)
        schedule = ReduceLROnPlateau(optimizer)
        schedule.step = seen.append
        options = {"schedule": schedule, "validation": validation}
        history = fit(model, _data(), MSELoss(), optimizer, 3, 8, **options)
        assert seen == history[name]


def test_order_of_the_data():
    """Another seed, another order; without shuffling the data's own, in each epoch."""

    def train(**options):
        model, seen = _regressor(), []

        def loss(prediction, target):
            seen.append(target[:, 0])
            return MSELoss()(prediction, target)

        fit(model, _data(), loss, SGD(model), 2, 8, **options)
        return np.concatenate(seen[1:])  # the first was the look at whether all fits

    expected = _data()[1][:, 0]
    assert_same_bits(train(shuffle=False), np.tile(expected, 2))
    first, again, second = train(), train(seed=0), train(seed=1)
    assert_same_bits(first, again)
    assert (first != second).any() and (first[:N] != first[N:]).any()
    for order in (first, second):
        assert_same_bits(np.sort(order), np.sort(np.tile(expected, 2)))


def test_validation():
    """By value, in evaluation mode; modes, random states and weights are as without it."""
    trained = {}
    for validation in (None, _data(seed=1)):
        model = _regressor(dropout=0.5)
        model.dropout.eval()  # a layer's own mode is its own, afterwards
        options = {"validation": validation}
        history = fit(model, _data(), MSELoss(), Adam(model, lr=0.01), 3, 8, **options)
        assert [layer.training for _, layer in model.named_layers()] == [1, 1, 0, 1, 1]
        trained[validation is None] = model
        with pytest.raises(AssertionError):  # dropout is on in training
            still = _regressor(dropout=0.5).eval()
            _by_hand(still, _data(), MSELoss(), True, False, Adam(still, lr=0.01), 3)
            assert_same_weights(model, still)
    assert_same_weights(trained[True], trained[False])
    x, y = _data(seed=1)
    expected = MSELoss()(model.eval()(x.swapaxes(0, 1)), y)[0]
    # means of float32 predictions over one batch of 22, and over three
    np.testing.assert_allclose(history["validation_loss"][-1], expected, rtol=1e-6)


def test_modes_come_back_after_an_error():
    model, calls = _regressor(dropout=0.5), []

    def loss(prediction, target):
        calls.append(model.training)
        if len(calls) > 2 and not model.training:  # in the validation after the first epoch
            raise RuntimeError("no")
        return MSELoss()(prediction, target)

    model.last.eval()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError):
        fit(model, _data(), loss, Adam(model), 1, 8, validation=_data())
    assert calls == [False, False, True, True, True, False]
    assert [layer.training for _, layer in model.named_layers()] == [1, 1, 1, 0, 1]
    assert signal.getsignal(signal.SIGINT) is before


def test_batches_of_no_weight_are_left_out():
    x, y = _data()
    weights = np.repeat([1.0, 0.0], [8, N - 8])
    model, other = _regressor(), _regressor()
    options = {"shuffle": False}
    history = fit(model, (x, y, weights), MSELoss(), Adam(model), 1, 8, **options)
    expected = fit(other, (x[:8], y[:8]), MSELoss(), Adam(other), 1, 8, **options)
    assert history["loss"] == expected["loss"]
    assert_same_weights(model, other)


# ---- callbacks ------------------------------------------------------------------------------


def test_callbacks():
    model, seen = _regressor(), []
    optimizer = Adam(model)

    def watch(state):
        assert state.model is model and state.optimizer is optimizer and state.epochs == 9
        assert len(state.history["loss"]) == state.epoch and model.training
        seen.append(state.epoch)
        return "not a reason to stop"

    def enough(state):
        return np.bool_(state.epoch == 2)

    history = fit(model, _data(), MSELoss(), optimizer, 9, 8, callbacks=[enough, watch])
    assert seen == [1, 2] and history.stopped == "enough after epoch 2"

    def raising(state):
        raise StopTraining

    history = fit(model, _data(), MSELoss(), optimizer, 9, 8, callbacks=[raising, watch])
    assert seen == [1, 2, 1] and history.stopped == "raising after epoch 1"


@pytest.mark.parametrize("min_delta, best, stop", [(0.0, 3, 5), (0.5, 2, 4)])
def test_early_stopping(min_delta, best, stop):
    """It stops `patience` epochs behind the best one, and gives back its weights."""
    metric, weights = iter([3.0, 2.0, 1.6, 1.6, 1.7, 1.0]), []

    class Metric:
        def start(self, state):
            state.history["metric"] = []

        def __call__(self, state):
            state.history["metric"].append(next(metric))
            weights.append(state.model.state_dict())

    early = EarlyStopping(2, min_delta, monitor="metric")
    model = _regressor()
    history = fit(model, _data(), MSELoss(), Adam(model), 9, 8, callbacks=[Metric(), early])
    assert history.stopped == f"EarlyStopping after epoch {stop}" and early.best_epoch == best
    assert early.best == history["metric"][best - 1]
    for name, value in model.state_dict().items():
        assert_same_bits(value, weights[best - 1][name])
        assert (value != weights[-1][name]).any()


def test_early_stopping_at_the_last_epoch_and_again():
    """The best weights come back without a stop too, and another training begins anew."""
    model, early, kept = _regressor(), EarlyStopping(5), []
    optimizer = SGD(model, lr=3.0)  # too large: the first epoch is the best
    callbacks = [early, lambda state: kept.append(state.model.state_dict())]
    options = {"validation": _data(1), "callbacks": callbacks}
    history = fit(model, _data(), MSELoss(), optimizer, 3, 8, **options)
    best = int(np.argmin(history["validation_loss"]))
    assert best < 2 and history.stopped is None and early.best_epoch == best + 1
    for name, value in model.state_dict().items():
        assert_same_bits(value, kept[best][name])
    history = fit(model, _data(), MSELoss(), SGD(model, lr=0.0), 1, 8, **options)
    assert early.best == history["validation_loss"][0]


# ---- resuming -------------------------------------------------------------------------------


def _with_adam(model):
    optimizer = Adam(model, lr=0.02)
    return optimizer, None


def _with_plateau(model):
    optimizer = SGD(model, lr=0.5, momentum=0.9)
    return optimizer, ReduceLROnPlateau(optimizer, patience=0, factor=0.5)


def _with_one_cycle(model):
    optimizer = Adam(model, lr=0.02)
    return optimizer, OneCycleLR(optimizer, 0.1, total_steps=18)


def _train(make, epochs=6, early=True, callbacks=(), **options):
    """(model, history, early stopping) of a training with everything that has a state."""
    model, stopping = _regressor(dropout=0.3), EarlyStopping(3)
    optimizer, schedule = make(model)
    callbacks = [*callbacks, stopping] if early else callbacks
    options |= {"schedule": schedule, "validation": _data(1), "callbacks": callbacks}
    return model, fit(model, _data(), MSELoss(), optimizer, epochs, 8, **options), stopping


MAKERS = {"adam": _with_adam, "plateau": _with_plateau, "one_cycle": _with_one_cycle}


def assert_resumes(make, cut, path, early=True):
    """Assert that a training that was cut off goes on as if it had not been."""
    path.unlink(missing_ok=True)

    class Cut(Exception):
        pass

    def cutting(state):  # one epoch behind the checkpoint: a kill comes when it comes
        if state.epoch == cut + 1:
            raise Cut

    with pytest.raises(Cut):
        _train(make, early=early, callbacks=[Checkpoint(path), cutting])
    got = _train(make, early=early, callbacks=[Checkpoint(path)], resume=path)
    expected = _train(make, early=early)
    assert_same_weights(got[0], expected[0])
    assert_same_history(got[1], expected[1])
    assert got[1].stopped == expected[1].stopped
    assert (got[2].best, got[2].best_epoch) == (expected[2].best, expected[2].best_epoch)


@pytest.mark.parametrize("cut", [1, 3, 4])
@pytest.mark.parametrize("name", MAKERS)
def test_resume_equals_uninterrupted(name, cut, tmp_path):
    for early in (True, False):
        assert_resumes(MAKERS[name], cut, tmp_path / "training.npz", early)


def _forgets(name):
    """A `_restore` that leaves out one thing."""
    from fastlstm.training import checkpoint

    whole = checkpoint._restore

    def restore(kept, state):
        fresh = checkpoint._kept(state)
        if name == "moments":
            kept["optimizer"] = {
                key: value * 0 if isinstance(value, np.ndarray) else value
                for key, value in kept["optimizer"].items()
            }
        else:
            kept[name] = fresh[name]
        whole(kept, state)

    return restore


@pytest.mark.parametrize(
    "forgotten, name",
    [("moments", "adam"), ("moments", "plateau"), ("optimizer", "adam"), ("model", "adam"),
     ("schedule", "plateau"), ("callbacks", "plateau"), ("random", "adam"), ("history", "adam"),
     ("epoch", "adam")],
)  # fmt: skip
def test_a_forgetful_checkpoint_is_seen(forgotten, name, tmp_path, monkeypatch):
    monkeypatch.setattr("fastlstm.training.checkpoint._restore", _forgets(forgotten))
    with pytest.raises(AssertionError):
        assert_resumes(MAKERS[name], 3, tmp_path / "training.npz")


def test_resume_of_what_was_over(tmp_path):
    """A training that a callback ended stays ended; one that was through goes on if asked to."""
    path = tmp_path / "training.npz"

    def stop(state):
        return state.epoch == 2

    whole = _train(_with_adam, callbacks=[stop, Checkpoint(path, every=50)])
    again = _train(_with_adam, callbacks=[stop, Checkpoint(path)], resume=path)
    assert again[1].stopped == whole[1].stopped == "stop after epoch 2"
    assert_same_weights(again[0], whole[0])
    _train(_with_adam, 3, early=False, callbacks=[Checkpoint(path, every=2)])
    more = _train(_with_adam, 6, early=False, resume=path)
    assert_same_history(more[1], _train(_with_adam, 6, early=False)[1])


def test_checkpoint_every(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        "fastlstm.training.checkpoint.written_aside",
        lambda path: saved.append(path) or open(os.devnull, "wb"),
    )
    model = _regressor()
    epochs = [[], []]

    def watch(state):
        epochs[0].append(state.epoch)

    class Order(Checkpoint):
        """Checkpoints come last, whatever their place in the list."""

        def __call__(self, state):
            assert epochs[0][-1] == state.epoch
            before = len(saved)
            super().__call__(state)
            epochs[1] += [state.epoch] * (len(saved) - before)

    callbacks = [Order(tmp_path / "a.npz", every=3), watch]
    fit(model, _data(), MSELoss(), Adam(model), 7, 8, callbacks=callbacks)
    assert epochs[1] == [3, 6, 7]


def test_resume_is_refused(tmp_path):
    path = tmp_path / "training.npz"
    _train(_with_adam, 2, callbacks=[Checkpoint(path)])

    def resume(make=_with_adam, **options):
        return lambda: _train(make, **options, resume=path)

    head = f"{path}: the checkpoint is of another"
    _check(resume(_with_plateau), ValueError, f"{head} optimizer: Adam; expected SGD")
    _check(resume(_with_one_cycle), ValueError, f"{head} schedule: NoneType; expected OneCycleLR")
    _check(
        resume(early=False), ValueError,
        f"{head} callbacks: EarlyStopping; expected none to restore",
    )  # fmt: skip
    _check(resume(seed=3), ValueError, f"{head} seed: 0; expected 3")
    _check(
        resume(epochs=1), ValueError,
        f"{path}: the checkpoint is of epoch 2; expected one of at most epochs=1",
    )  # fmt: skip
    model = _regressor()
    before = model.state_dict()
    with pytest.raises(ValueError, match="(?s)is of another model: .*dropout=0.3.*; expected"):
        fit(model, _data(), MSELoss(), Adam(model), 3, 8, resume=path)
    for name, value in model.state_dict().items():
        assert_same_bits(value, before[name])
    with pytest.raises(FileNotFoundError):
        _train(_with_adam, resume=tmp_path / "none.npz")
    data = path.read_bytes()
    for damaged in (data[:-50], data[:2000], data.replace(b"__training__", b"__drainage__"), b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError) as caught:
            _train(_with_adam, resume=path)
        assert str(caught.value).startswith(f"{path}: ")
    fastlstm.save(_regressor(), path)
    _check(
        resume(), ValueError,
        f"{path}: this is no checkpoint of a training: it has no text '__training__'",
    )  # fmt: skip


_KILLS = """
import os, random, signal, sys, time
import numpy as np
import fastlstm.training as t
from fastlstm import LSTM, Dropout, Last, Linear, Sequential
from fastlstm.training import checkpoint

path, broken = sys.argv[1], sys.argv[2] == "broken"
x = np.random.default_rng(0).standard_normal((8, 3, 2)).astype(np.float32)
y = x[:, -1]

def train(epochs, path=None, resume=None):
    # 200,000 parameters, so that most of the time goes into writing
    model = Sequential(
        LSTM(2, 220, engine="numpy", seed=0), Dropout(0.5, seed=1), Last(), Linear(220, 2, seed=0)
    )
    callbacks = [t.Checkpoint(path)] if path else []
    loss, optimizer = t.MSELoss(), t.Adam(model)
    options = {"callbacks": callbacks, "resume": resume}
    return model, t.fit(model, (x, y), loss, optimizer, epochs, 8, **options)

def bits(model, history):
    return [a.tobytes() for a in model.state_dict().values()], history["loss"]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def dying(name):
    real, count = getattr(os, name), iter(range(99))
    def call(*arguments):
        if next(count) == 1:  # in the second checkpoint
            die()
        real(*arguments)
    setattr(os, name, call)

def dying_in_the_middle():
    real, count = np.savez, iter(range(99))
    def savez(file, *arguments, **entries):
        if next(count) == 1:
            file.write(b"PK")
            file.flush()
            die()
        real(file, *arguments, **entries)
    np.savez = savez

done, ways = 0, [dying_in_the_middle, lambda: dying("fsync"), lambda: dying("replace")]
if broken:
    checkpoint.written_aside, ways = lambda path: open(path, "wb"), ways[:1]
for k in range(22):
    child = os.fork()
    if not child:
        if k < len(ways):
            ways[k]()
        train(10**6, path, path if os.path.exists(path) else None)
    if k >= len(ways):
        time.sleep(random.random() * 0.1)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    if os.path.exists(path):
        with open(path, "rb") as file:
            epoch = checkpoint._read(file)[1]["epoch"]
        assert epoch >= done
        done = epoch
assert done > 3, done
assert bits(*train(done, resume=path)) == bits(*train(done))
print(done)
"""


def _kill(path, how):
    code = [sys.executable, "-c", _KILLS, str(path), how]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(code, capture_output=True, text=True, env=environment)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills copies of itself, made by os.fork")
def test_a_kill_loses_nothing(tmp_path):
    """Killed again and again, at its most delicate moments and at random ones, it still arrives."""
    run = _kill(tmp_path / "training.npz", "whole")
    assert run.returncode == 0, run.stderr
    run = _kill(tmp_path / "other.npz", "broken")
    assert run.returncode == 1 and "Error" in run.stderr, "written in place, a file is lost"


# ---- what is not finite ---------------------------------------------------------------------


def _expected_before(batches, data, **options):
    """The model after so many batches of its first epoch."""
    model = _regressor(**options)
    optimizer = SGD(model, lr=0.1)
    for batch in list(Batches(data, 4, shuffle=False).epoch(0))[:batches]:
        model.zero_grad()
        y, pullback = model.vjp(batch.x.swapaxes(0, 1))
        pullback(MSELoss()(y, batch.y)[1])
        optimizer.step()
    return model


def _stops(data, origin, what, batches, *, model=None, loss=None, lr=0.1, **options):
    """Assert that `fit` stops at batch `batches` + 1, with the weights that it had before."""
    model = model or _regressor()
    optimizer = SGD(model, lr=lr)
    call = lambda: fit(  # noqa: E731
        model, data, loss or MSELoss(), optimizer, 2, 4, shuffle=False, **options
    )
    error = _check(
        call, NonFiniteError,
        f"epoch 1, batch {batches + 1} of 6: {what}; first not finite was {origin}. The model has "
        "the weights of before this batch",
    )  # fmt: skip
    assert (error.epoch, error.batch, error.origin) == (1, batches + 1, origin)
    assert error.history["loss"] == [] and isinstance(error, FloatingPointError)
    assert model.training
    return model


def test_not_finite_in_the_data():
    x, y = _data()
    for bad, name in ((np.nan, "input"), (-np.inf, "input"), (np.nan, "target")):
        broken = {"input": x.copy(), "target": y.copy()}
        broken[name][[9, 11], -1] = bad
        data = broken["input"], broken["target"]
        model = _stops(data, f"the {name} of samples 9, 11", "the loss is nan", 2)
        assert_same_weights(model, _expected_before(2, data))
    x[:, 0, 0] = np.nan
    x[0] = 0
    _stops((x, y), "the input of samples 1, 2, 3", "the loss is nan", 0)
    weights = np.ones(N)
    weights[-1] = np.inf
    _stops((*_data(), weights), "the weight of sample 21", "the loss is nan", 5)


def test_not_finite_in_the_model():
    model = _regressor()
    model.fc.bias = [np.inf]
    _stops(_data(), "the parameter fc.bias", "the loss is inf", 0, model=model)
    first = {"0": Linear(F, F, bias=False), "inner": _regressor()}
    model = Sequential(first)
    model[0].weight = np.full((F, F), 1e30)
    x, y = _data()
    x[:] = 0
    x[5:7] = 1e30
    _stops((x, y), "the output of 0 for samples 5, 6", "the loss is nan", 1, model=model)
    model = _regressor()
    model.fc.weight = np.full((1, 4), 3e38)
    x[5:7] = 10
    _stops((x, y), "the output of fc for samples 5, 6", "the loss is inf", 1, model=model)


def test_not_finite_in_the_loss_or_gradient():
    x, y = _data()

    def loss(prediction, target):
        value, gradient = MSELoss()(prediction, target)
        return (math.inf if y[13] in target else value), gradient

    model = _stops((x, y), "the loss itself", "the loss is inf", 3, loss=loss)
    assert_same_weights(model, _expected_before(3, (x, y)))

    def loss(prediction, target):
        value, gradient = MSELoss()(prediction, target)
        return value, gradient * np.float32(np.nan if y[13] in target else 1)

    what = "a gradient is not finite"
    model = _stops((x, y), "the gradient of fc.bias", what, 3, loss=loss, clip_norm=1e9)
    assert_same_weights(model, _expected_before(3, (x, y)))

    def loss(prediction, target):
        value, gradient = MSELoss()(prediction, target)
        return value, np.full_like(gradient, 1e38) if y[13] in target else gradient

    model = Sequential({"lstm": _lstm(F, 4), "last": Last(), "fc": Linear(4, 1)})
    model.fc.weight = np.full((1, 4), 1e3)
    before = model.lstm.state_dict()
    x[:] = 0
    _stops((x, y), "the gradient of lstm.bias_hh_l0", what, 0, loss=lambda p, t: (
        1.0, np.full_like(p, 1e37)), model=model)  # fmt: skip
    for name, value in model.lstm.state_dict().items():
        assert_same_bits(value, before[name])


def test_not_finite_after_the_update():
    """Finite gradients, but a learning rate that takes the weights out of range."""
    model = _regressor()
    what = "with lr 1e+38 a parameter would not be finite"

    def loss(prediction, target):
        value, gradient = MSELoss()(prediction, target)
        return value, gradient * np.float32(1e4)

    origin = "the update of lstm.weight_ih_l0"
    _stops(_data(), origin, what, 0, model=model, loss=loss, lr=1e38)
    assert_same_weights(model, _regressor())


def test_not_finite_in_the_validation():
    x, y = _data(1)
    x[17] = np.inf
    model = _regressor(dropout=0.5)
    states = model.dropout._rng.bit_generator.state
    with pytest.raises(NonFiniteError) as caught:
        fit(model, _data(), MSELoss(), Adam(model), 2, 8, validation=(x, y))
    assert str(caught.value) == (
        "epoch 1, batch 3 of 3: the validation loss is nan; first not finite was the input of "
        "sample 17. The model has the weights of before this batch"
    )
    other = _regressor(dropout=0.5)
    fit(other, _data(), MSELoss(), Adam(other), 1, 8)
    assert_same_weights(model, other)
    assert model.dropout._rng.bit_generator.state != states and model.training
    assert model.dropout._rng.bit_generator.state == other.dropout._rng.bit_generator.state


def test_ragged_padding_is_not_what_is_not_finite():
    """A data set that pads with nan: what is behind an end is not the culprit."""

    class Padded(Sequences):
        def __getitem__(self, indices):
            batch = super().__getitem__(indices)
            batch.x[~batch.mask] = np.nan
            batch.y[~batch.mask] = np.nan
            return batch

    lengths = [3, 1, 2, 3]
    sequences = [_random(n, 2, seed=n) for n in lengths]
    sequences[2][1] = np.nan
    data = Padded(sequences, [s.copy() for s in sequences])
    model = _lstm(2, 2)
    with pytest.raises(NonFiniteError, match="was the input of sample 2. The"):
        fit(model, data, MSELoss(), Adam(model), 1, 4)


# ---- Ctrl-C ---------------------------------------------------------------------------------


def _interrupt():
    signal.raise_signal(signal.SIGINT)


class Signalling(Layer):
    """Passes on what it gets; a Ctrl-C comes on the way in its third batch."""

    def __init__(self):
        super().__init__({})
        self.count = 0

    def __call__(self, x):
        return x

    def vjp(self, x):
        self.count += 1
        if self.count == 3:
            _interrupt()
        return x, lambda dy: dy


class Interrupted(SGD):
    """Ctrl-C comes between two layers' updates in its fifth step."""

    def _update(self, p, *arguments):
        super()._update(p, *arguments)
        if self.steps == 5 and p is not None:
            _interrupt()


def test_ctrl_c_in_an_update():
    """The update is finished first: the weights are those after five batches."""
    model, before = _regressor(), signal.getsignal(signal.SIGINT)
    model.dropout.eval()
    history = fit(model, _data(), MSELoss(), Interrupted(model, lr=0.1), 9, 4, shuffle=False)
    assert history.interrupted and history["loss"] == []
    assert_same_weights(model, _expected_before(5, _data()))
    assert signal.getsignal(signal.SIGINT) is before
    assert [layer.training for _, layer in model.named_layers()] == [1, 1, 0, 1, 1]


def test_half_an_update_would_be_seen(monkeypatch):
    monkeypatch.setattr(
        "fastlstm.training.loop._Interrupts._on_signal", lambda self, *_: self._before(*_)
    )
    model = _regressor()
    fit(model, _data(), MSELoss(), Interrupted(model, lr=0.1), 9, 4, shuffle=False)
    with pytest.raises(AssertionError):
        assert_same_weights(model, _expected_before(5, _data()))


def test_ctrl_c_in_a_run():
    model = Sequential({"s": Signalling(), **_regressor().children})
    history = fit(model, _data(), MSELoss(), SGD(model, lr=0.1), 9, 4, shuffle=False)
    assert history.interrupted and history["loss"] == []
    assert_same_weights(model, _expected_before(2, _data()))


def test_ctrl_c_in_a_callback(tmp_path):
    """What was whole is in the history; early stopping gives its best; one can go on from there."""
    path = tmp_path / "training.npz"

    def stop(state):
        if state.epoch == 3:
            _interrupt()

    interrupted = _train(_with_adam, callbacks=[stop, Checkpoint(path)])
    assert interrupted[1].interrupted and len(interrupted[1]["loss"]) == 3
    assert interrupted[2].best_epoch in (1, 2)  # the third epoch's callbacks did not come to it
    again = _train(_with_adam, callbacks=[Checkpoint(path)], resume=path)
    assert not again[1].interrupted
    assert_same_history(again[1], _train(_with_adam)[1])


def test_ctrl_c_of_someone_elses():
    """A handler that was there before is called, after the update, and comes back."""
    seen, model = [], _regressor()
    optimizer = Interrupted(model, lr=0.1)

    def handler(number, frame):
        seen.append((number, optimizer.steps, model.state_dict()))

    before = signal.signal(signal.SIGINT, handler)
    try:
        history = fit(model, _data(), MSELoss(), optimizer, 1, 4, shuffle=False)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not history.interrupted and [s[:2] for s in seen] == [(signal.SIGINT, 5)]
    for name, value in _expected_before(5, _data()).state_dict().items():
        assert_same_bits(seen[0][2][name], value)


def test_fit_in_a_thread():
    model, histories = _regressor(), []
    run = lambda: histories.append(  # noqa: E731
        fit(model, _data(), MSELoss(), SGD(model, lr=0.1), 1, 4, shuffle=False)
    )
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(histories[0]["loss"]) == 1
    assert_same_weights(model, _expected_before(6, _data()))


# ---- bad input ------------------------------------------------------------------------------


def _good():
    model = _regressor(dropout=0.5)
    return {
        "model": model, "data": _data(), "loss": MSELoss(), "optimizer": Adam(model), "epochs": 1,
        "batch_size": 8,
    }  # fmt: skip


x, y = _data()
BAD = {
    "lengths": ({"data": (x, y[1:])}, ValueError, "x's 22 samples"),
    "empty": ({"data": (x[:0], y[:0])}, ValueError, "at least one sample"),
    "no_data": ({"data": [x, y]}, TypeError, "Expected data to be Arrays"),
    "batch_size": ({"batch_size": 0}, ValueError, "batch_size must be greater than zero, got 0"),
    "epochs": ({"epochs": 0}, ValueError, "epochs must be greater than zero, got 0"),
    "epochs_type": ({"epochs": 1.5}, TypeError, "epochs should be of type int, got: float"),
    "target": (
        {"data": (x, y[:, 0])}, ValueError,
        r"^data: MSELoss: Expected target of shape \(8, 1\) for a prediction of shape \(8, 1\), "
        r"got \(8,\)$",
    ),
    "validation_target": (
        {"validation": (x, np.zeros((N, 2), np.float32))}, ValueError,
        r"^validation: MSELoss: Expected target of shape \(8, 1\) .* got \(8, 2\)$",
    ),
    "features": ({"data": (x[..., :1], y)}, ValueError, "^data: input.size.* Expected 2, got 1"),
    "dtype": ({"data": (x.astype(float), y)}, ValueError, "^data: RNN input dtype .float64"),
    "no_steps": ({"data": (x[:, 0, 0], y)}, ValueError, r"^data: Expected x with samples and ste"),
    "reduction": ({"loss": MSELoss("none")}, ValueError, r"one number .* shape \(8, 1\)"),
    "loss": ({"loss": "mse"}, TypeError, "loss should be callable, got: str"),
    "model": ({"model": 3}, TypeError, "optimizer|model"),
    "optimizer": ({"optimizer": None}, TypeError, "one of this package, got: NoneType"),
    "others_optimizer": (
        {"optimizer": Adam(_regressor())}, ValueError, "the optimiser of this model",
    ),
    "others_schedule": (
        {"schedule": StepLR(Adam(_regressor()), 1)}, ValueError, "a schedule of this optimizer",
    ),
    "schedule_per": ({"schedule_per": "step"}, ValueError, "must be \"epoch\" or \"batch\""),
    "schedule_per_batch": ({"schedule_per": "batch"}, ValueError, "needs a schedule"),
    "clip_norm": ({"clip_norm": 0}, ValueError, "clip_norm must be a finite number above 0"),
    "clip_value": ({"clip_value": -1.0}, ValueError, "clip_value must be a finite number above 0"),
    "callbacks": ({"callbacks": print}, TypeError, "callbacks should be a list of callables"),
    "a_callback": ({"callbacks": [3]}, TypeError, "callbacks should be a list of callables"),
    "monitor": (
        {"callbacks": [EarlyStopping(1)]}, ValueError,
        "EarlyStopping: Expected 'validation_loss' in the history; pass validation= to fit",
    ),
    "folder": (
        {"callbacks": [Checkpoint("/no/such/folder/a.npz")]}, FileNotFoundError, "no such folder",
    ),
    "shuffle": ({"shuffle": 1}, TypeError, "shuffle should be of type bool"),
    "seed": ({"seed": -1}, ValueError, "seed must be at least 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_any_work(name):
    change, kind, sentence = BAD[name]
    good = _good()
    model = good["model"]
    random = model.dropout._rng.bit_generator.state
    with pytest.raises(kind, match=sentence):
        fit(**(good | change))
    assert_same_weights(model, _regressor(dropout=0.5))
    assert model.training and model.dropout._rng.bit_generator.state == random
    assert good["optimizer"].steps == 0


def test_mixed_batch_first_is_refused():
    model = Sequential(_lstm(F, 4), Last(batch_first=True), Linear(4, 1))
    sentence = "model: all of its LSTM and Last layers must be batch_first, or none"
    _check(lambda: fit(model, _data(), MSELoss(), Adam(model), 1, 8), ValueError, sentence)


def test_bad_callbacks():
    for call in (lambda: EarlyStopping(0), lambda: EarlyStopping(1, -1.0)):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(ValueError):
        Checkpoint("a.npz", every=0)
    model = _regressor()
    callbacks = [EarlyStopping(1, monitor="accuracy")]
    with pytest.raises(ValueError, match="Expected 'accuracy' in the history, which has loss, lr"):
        fit(model, _data(), MSELoss(), Adam(model), 1, 8, callbacks=callbacks)


# ---- what is shown --------------------------------------------------------------------------


def test_verbose(capsys, monkeypatch):
    model = _regressor()
    history = fit(
        model, _data(), MSELoss(), Adam(model), 2, 8, validation=_data(1), verbose=True
    )  # fmt: skip
    out, err = capsys.readouterr()
    lines = out.splitlines()
    first = f"epoch 1/2: loss {history['loss'][0]:.4g}, validation_loss "
    assert len(lines) == 2 and lines[0].startswith(first) and err == ""
    fit(model, _data(), MSELoss(), Adam(model), 2, 8)
    assert capsys.readouterr() == ("", "")


def test_progress(capsys, monkeypatch):
    """On a terminal, a bar of all batches, which is closed in any case."""
    tqdm = pytest.importorskip("tqdm", reason="the bar is tqdm's")
    bars = []

    class Bar(tqdm.tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options | {"delay": 0})
            bars.append(self)

    monkeypatch.setattr("tqdm.tqdm", Bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    model = _regressor()
    fit(model, _data(), MSELoss(), Adam(model), 2, 8)
    assert (bars[0].total, bars[0].n, bars[0].disable) == (6, 6, True)
    fit(model, _data(), MSELoss(), Adam(model), 2, 8, progress=False)
    assert len(bars) == 1


def test_memory_does_not_grow():
    """From epoch to epoch less is added than a small part of what one step keeps."""
    model, sizes = Sequential(_lstm(F, 32), Last(), Linear(32, 1)), []
    data = _random(32, 20, F), _random(32, 1)
    tracemalloc.start()
    try:
        callbacks = [lambda state: sizes.append(tracemalloc.get_traced_memory()[0])]
        fit(model, data, MSELoss(), Adam(model), 12, 8, validation=data, callbacks=callbacks)
    finally:
        tracemalloc.stop()
    kept = 8 * 20 * 5 * 32 * 4  # bytes of gates and cells of one batch
    assert sizes[-1] - sizes[3] < kept / 10


# ---- predict --------------------------------------------------------------------------------


def test_predict_by_value():
    model, (x, y) = _regressor(dropout=0.5), _data()
    expected = model.eval()(x.swapaxes(0, 1))
    model.train()
    model.last.eval()
    for data in (x, (x, y), Arrays(x, y)):
        # BLAS may cut sums of four terms otherwise for other batches
        np.testing.assert_allclose(predict(model, data, 8), expected, rtol=0, atol=1e-6)
    assert [layer.training for _, layer in model.named_layers()] == [1, 1, 1, 0, 1]
    same = predict(_regressor(batch_first=True), x)
    np.testing.assert_allclose(predict(_regressor(), x), same, rtol=0, atol=1e-6)


def test_predict_every_step():
    model, _ = _steps()
    got = predict(model, X, 5)
    np.testing.assert_allclose(got.swapaxes(0, 1), model(X.swapaxes(0, 1)), rtol=0, atol=1e-6)


def test_predict_ragged():
    sequences = _ragged_tokens()
    model, targets = _tagger()
    got = predict(model, Sequences(sequences, targets), 5)
    assert isinstance(got, list)
    for row, tokens in zip(got, sequences, strict=True):
        np.testing.assert_allclose(row, model(tokens[:, None])[:, 0], rtol=0, atol=1e-6)
    model, classes = _classifier()
    got = predict(model, Sequences(sequences, classes), 5)
    for row, tokens in zip(got, sequences, strict=True):
        np.testing.assert_allclose(row, model(tokens[:, None])[0], rtol=0, atol=1e-6)


def test_predict_errors():
    with pytest.raises(TypeError, match="model should be a layer, got: int"):
        predict(3, X)
    with pytest.raises(ValueError, match="batch_size must be greater than zero"):
        predict(_regressor(), X, 0)
    with pytest.raises(ValueError, match="at least one sample"):
        predict(_regressor(), X[:0])
