"""Training that does not go to its end: resuming, kills, what is not finite, Ctrl-C."""

import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from errors import raises
from support import assert_same_bits
from trainings import (
    F,
    N,
    assert_same_history,
    assert_same_weights,
    lstm,
    make_data,
    normal,
    regressor,
)

import fastlstm
from fastlstm import Last, Linear, Sequential
from fastlstm.layers import Layer
from fastlstm.training import (
    SGD,
    Adam,
    Batch,
    Batches,
    Checkpoint,
    EarlyStopping,
    MSELoss,
    NonFiniteError,
    OneCycleLR,
    ReduceLROnPlateau,
    Sequences,
    fit,
)

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
    model, stopping = regressor(dropout=0.3), EarlyStopping(3)
    optimizer, schedule = make(model)
    callbacks = [*callbacks, stopping] if early else callbacks
    options |= {"schedule": schedule, "validation": make_data(1), "callbacks": callbacks}
    return model, fit(model, make_data(), MSELoss(), optimizer, epochs, 8, **options), stopping


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
    """A `put_back` that leaves out one thing."""
    from fastlstm.training import checkpoint

    whole = checkpoint.put_back

    def restore(kept, state):
        fresh = checkpoint.kept_of(state)
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
    monkeypatch.setattr("fastlstm.training.checkpoint.put_back", _forgets(forgotten))
    with pytest.raises(AssertionError):
        assert_resumes(MAKERS[name], 3, tmp_path / "training.npz")


def test_resume_of_what_was_over(tmp_path):
    """A training that a callback ended stays ended; a complete one goes on for more epochs."""
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
    """It writes after every third epoch and the last one, behind all other callbacks."""
    from fastlstm.training import checkpoint

    seen, aside = [], checkpoint.written_aside
    monkeypatch.setattr(checkpoint, "written_aside", lambda p: seen.append("saved") or aside(p))
    model = regressor()
    callbacks = [Checkpoint(tmp_path / "a.npz", every=3), lambda state: seen.append(state.epoch)]
    fit(model, make_data(), MSELoss(), Adam(model), 7, 8, callbacks=callbacks)
    assert seen == [1, 2, 3, "saved", 4, 5, 6, "saved", 7, "saved"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_resume_is_refused(tmp_path):
    path = tmp_path / "training.npz"
    _train(_with_adam, 2, callbacks=[Checkpoint(path)])

    def resume(make=_with_adam, **options):
        return lambda: _train(make, **options, resume=path)

    def refused(differences, changed=""):
        return (
            f"{path}: the checkpoint is of another training: {differences}. To go on from it give "
            f"fit what it was made with{changed}; to begin anew remove it, or take another file"
        )

    raises(
        resume(early=False), ValueError,
        refused(
            "callbacks was EarlyStopping, now it is none to keep; patience was 3, now it is "
            "nothing; min_delta was 0.0, now it is nothing; monitor was 'validation_loss', now it "
            "is nothing; mode was 'min', now it is nothing"
        ),
    )  # fmt: skip
    raises(
        resume(seed=3), ValueError,
        refused("seed was 0, now it is 3", "; if that is on purpose give changed=['seed']"),
    )  # fmt: skip
    for make, part in (
        (_with_plateau, "optimizer was Adam, now it is SGD; "),
        (_with_one_cycle, "schedule was NoneType, now it is OneCycleLR; "),
    ):
        with pytest.raises(ValueError) as caught:
            resume(make)()
        assert part in str(caught.value)
    raises(
        resume(epochs=1), ValueError,
        f"{path}: the checkpoint is of epoch 2; expected one of at most epochs=1",
    )  # fmt: skip
    model = regressor()
    before = model.state_dict()
    with pytest.raises(ValueError, match="model was .*dropout=0.3.*, now it is"):
        fit(model, make_data(), MSELoss(), Adam(model), 3, 8, resume=path)
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
    for text in (
        b"{}",
        b"[" * 100_000,
        b'{"version": 1}',
        b'{"version": 2, "kept": {"__array__": 7}}',
    ):
        np.savez(path, __training__=np.array(text))
        with pytest.raises(ValueError) as caught:
            _train(_with_adam, resume=path)
        assert str(caught.value).startswith(f"{path}: a ")
    fastlstm.save(regressor(), path)
    raises(
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
    options = {"callbacks": callbacks, "resume": resume, "progress": False}
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
def written():
    return os.stat(path).st_mtime_ns if os.path.exists(path) else 0

for k in range(22):
    before = written()
    child = os.fork()
    if not child:
        if k < len(ways):
            ways[k]()
        train(10**6, path, path if os.path.exists(path) else None)
    if k >= len(ways):
        while k % 2 and written() == before:  # on a busy machine too some get that far
            time.sleep(0.001)
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
    """A training that is killed again and again, at delicate moments too, ends as it would have."""
    run = _kill(tmp_path / "training.npz", "whole")
    assert run.returncode == 0, run.stderr
    run = _kill(tmp_path / "other.npz", "broken")
    assert run.returncode == 1 and "Error" in run.stderr, "written in place, a file is lost"


# ---- what is not finite ---------------------------------------------------------------------


def _expected_before(batches, data, **options):
    """The model after so many batches of its first epoch."""
    model = regressor(**options)
    optimizer = SGD(model, lr=0.1)
    for batch in list(Batches(data, 4, shuffle=False).epoch(0))[:batches]:
        model.zero_grad()
        y, pullback = model.vjp(batch.x.swapaxes(0, 1))
        pullback(MSELoss()(y, batch.y)[1])
        optimizer.step()
    return model


def _stops(data, origin, what, batches, *, model=None, loss=None, lr=0.1, **options):
    """Assert that `fit` stops at batch `batches` + 1, with the weights that it had before."""
    model = model or regressor()
    optimizer = SGD(model, lr=lr)
    call = lambda: fit(  # noqa: E731
        model, data, loss or MSELoss(), optimizer, 2, 4, shuffle=False, **options
    )
    error = raises(
        call, NonFiniteError,
        f"epoch 1, batch {batches + 1} of 6: {what}; first not finite was {origin}. The model has "
        "the weights from before this batch",
    )  # fmt: skip
    assert (error.epoch, error.batch, error.origin) == (1, batches + 1, origin)
    assert error.history["loss"] == [] and isinstance(error, FloatingPointError)
    assert model.training
    return model


def test_not_finite_in_the_data():
    x, y = make_data()
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
    _stops((*make_data(), weights), "the weight of sample 21", "the loss is nan", 5)


def test_infinite_input_is_blamed_though_nothing_but_a_gradient_shows_it():
    """An LSTM turns inf into 1: output and loss are finite, the gradients of weights are not."""
    x, y = make_data()
    x[9, -1, 0] = np.inf
    model = regressor()
    model.lstm.weight_ih_l0 = np.abs(model.lstm.weight_ih_l0)
    origin = "the input of sample 9"
    model = _stops((x, y), origin, "a gradient is not finite", 2, model=model)
    x[9, -1, 0] = np.nan
    _stops((x, y), origin, "the loss is nan", 2)


class _Added(Linear):
    """A layer that takes a tuple of two inputs."""

    def __call__(self, pair):
        return super().__call__(pair[0] + pair[1])

    def vjp(self, pair):
        y, pullback = super().vjp(pair[0] + pair[1])
        return y, lambda dy: (pullback(dy),) * 2


class _TwoInputs:
    def __init__(self, x, other, y):
        self.x, self.other, self.y = x, other, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, rows):
        return Batch((self.x[rows], self.other[rows]), self.y[rows])


@pytest.mark.parametrize("part, bad", [(0, np.nan), (1, np.nan), (1, np.inf)])
def test_not_finite_in_a_tuple_of_inputs(part, bad):
    """Either input is named by its place; a batch counts by its samples, not by its inputs."""
    x, y = make_data()
    data = _TwoInputs(x, x.copy(), y)
    model = Sequential(_Added(F, 3, seed=4), lstm(3, 4), Last(), Linear(4, 1, seed=2))
    history = fit(model, data, lambda p, t: MSELoss()(p, t), SGD(model, lr=0.0), 1, 8)
    expected = MSELoss()(model((x.swapaxes(0, 1),) * 2), y)[0]
    assert history["loss"][0] == pytest.approx(expected, rel=1e-6)
    (data.x, data.other)[part][[9, 11], -1] = bad
    _stops(data, f"the input[{part}] of samples 9, 11", "the loss is nan", 2, model=model)


def test_not_finite_in_the_model():
    model = regressor()
    model.fc.bias = [np.inf]
    _stops(make_data(), "the parameter fc.bias", "the loss is inf", 0, model=model)
    first = {"0": Linear(F, F, bias=False), "inner": regressor()}
    model = Sequential(first)
    model[0].weight = np.full((F, F), 1e30)
    x, y = make_data()
    x[:] = 0
    x[5:7] = 1e30
    _stops((x, y), "the output of 0 for samples 5, 6", "the loss is nan", 1, model=model)
    model = regressor()
    model.fc.weight = np.full((1, 4), 3e38)
    model.lstm.weight_ih_l0 = np.ones((16, F))
    x[:] = 0
    x[5:7] = 10

    def largest(prediction, target):
        return float(prediction.max()), np.zeros_like(prediction)

    origin = "the output of fc for samples 5, 6"
    _stops((x, y), origin, "the loss is inf", 1, model=model, loss=largest)


def test_not_finite_in_the_loss_or_gradient():
    x, y = make_data()

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
        return 1.0, np.full_like(prediction, 1e37)

    model = regressor()
    model.fc.weight = np.full((1, 4), 1e3)
    _stops((x, y), "the gradient of lstm.bias_hh_l0", what, 0, loss=loss, model=model)


def test_not_finite_after_the_update():
    """The gradients are finite, but the learning rate takes the weights out of range."""
    model = regressor()
    what = "with lr 1e+38 a parameter would not be finite"

    def loss(prediction, target):
        value, gradient = MSELoss()(prediction, target)
        return value, gradient * np.float32(1e4)

    origin = "the update of lstm.weight_ih_l0"
    _stops(make_data(), origin, what, 0, model=model, loss=loss, lr=1e38)
    assert_same_weights(model, regressor())


def test_a_weight_that_was_never_finite_is_not_blamed_on_the_update():
    """It shuts gates, which leaves loss and gradients finite."""
    model = regressor()
    weight = model.lstm.weight_ih_l0.copy()
    weight[0, 0] = np.inf
    model.lstm.weight_ih_l0 = weight
    origin = "the parameter lstm.weight_ih_l0"
    _stops(make_data(), origin, "a parameter is not finite", 0, model=model)
    np.testing.assert_array_equal(model.lstm.weight_ih_l0, weight)


def test_not_finite_in_the_validation():
    x, y = make_data(1)
    x[17] = np.inf
    model = regressor(dropout=0.5)
    states = model.dropout._rng.bit_generator.state
    with pytest.raises(NonFiniteError) as caught:
        fit(model, make_data(), MSELoss(), Adam(model), 2, 8, validation=(x, y))
    assert str(caught.value) == (
        "epoch 1, batch 3 of 3: the validation loss is nan; first not finite was the input of "
        "sample 17. The model has the weights from before this batch"
    )
    other = regressor(dropout=0.5)
    fit(other, make_data(), MSELoss(), Adam(other), 1, 8)
    assert_same_weights(model, other)
    assert model.dropout._rng.bit_generator.state != states and model.training
    assert model.dropout._rng.bit_generator.state == other.dropout._rng.bit_generator.state


def test_ragged_padding_is_not_what_is_not_finite():
    """The data set pads with nan, and values behind an end are not blamed."""

    class Padded(Sequences):
        def __getitem__(self, indices):
            batch = super().__getitem__(indices)
            batch.x[~batch.mask] = np.nan
            batch.y[~batch.mask] = np.nan
            return batch

    lengths = [3, 1, 2, 3]
    sequences = [normal(n, 2, seed=n) for n in lengths]
    sequences[2][1] = np.nan
    data = Padded(sequences, [s.copy() for s in sequences])
    model = lstm(2, 2)
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
    """The update is finished first, so the weights are those after five batches."""
    model, before = regressor(), signal.getsignal(signal.SIGINT)
    model.dropout.eval()
    history = fit(model, make_data(), MSELoss(), Interrupted(model, lr=0.1), 9, 4, shuffle=False)
    assert history.interrupted and history["loss"] == []
    assert_same_weights(model, _expected_before(5, make_data()))
    assert signal.getsignal(signal.SIGINT) is before
    assert [layer.training for _, layer in model.named_layers()] == [1, 1, 0, 1, 1]


def test_half_an_update_would_be_seen(monkeypatch):
    monkeypatch.setattr(
        "fastlstm.training.interrupts.Interrupts._on_signal", lambda self, *_: self._before(*_)
    )
    model = regressor()
    fit(model, make_data(), MSELoss(), Interrupted(model, lr=0.1), 9, 4, shuffle=False)
    with pytest.raises(AssertionError):
        assert_same_weights(model, _expected_before(5, make_data()))


def test_ctrl_c_in_a_run():
    model = Sequential({**regressor().children, "s": Signalling()})
    history = fit(model, make_data(), MSELoss(), SGD(model, lr=0.1), 9, 4, shuffle=False)
    assert history.interrupted and history["loss"] == []
    assert_same_weights(model, _expected_before(2, make_data()))


def test_ctrl_c_in_a_callback(tmp_path):
    """The history has the whole epochs, the weights are the best ones, and training can go on."""
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
    """A handler that was there before is called after the update, and is put back."""
    seen, model = [], regressor()
    optimizer = Interrupted(model, lr=0.1)

    def handler(number, frame):
        seen.append((number, optimizer.steps, model.state_dict()))

    before = signal.signal(signal.SIGINT, handler)
    try:
        history = fit(model, make_data(), MSELoss(), optimizer, 1, 4, shuffle=False)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not history.interrupted and [s[:2] for s in seen] == [(signal.SIGINT, 5)]
    for name, value in _expected_before(5, make_data()).state_dict().items():
        assert_same_bits(seen[0][2][name], value)


def test_fit_in_a_thread():
    model, histories = regressor(), []
    run = lambda: histories.append(  # noqa: E731
        fit(model, make_data(), MSELoss(), SGD(model, lr=0.1), 1, 4, shuffle=False)
    )
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(histories[0]["loss"]) == 1
    assert_same_weights(model, _expected_before(6, make_data()))
