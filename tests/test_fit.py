"""Training: `fit` against loops by hand and against torch, callbacks, prediction, bad input."""

import functools
import inspect
import json
import signal
import sys
import tracemalloc
import types

import numpy as np
import pytest
from errors import raises
from gradients import roundings
from support import assert_same_bits
from trainings import F, N, T, assert_same_weights, lstm, make_data, regressor
from values import normal

from fastlstm import LSTM, Dropout, Embedding, Last, Linear, Sequential
from fastlstm.training import (
    SGD,
    Adam,
    Arrays,
    Batch,
    Batches,
    Checkpoint,
    CrossEntropyLoss,
    EarlyStopping,
    MSELoss,
    OneCycleLR,
    ReduceLROnPlateau,
    Sequences,
    SequentialLR,
    StepLR,
    StopTraining,
    clip_grad_norm,
    clip_grad_value,
    fit,
    predict,
)

# ---- by value -------------------------------------------------------------------------------


def _steps(**options):
    """A value for every step."""
    return Sequential(lstm(F, 4, **options), Linear(4, 3, seed=2)), normal(N, T, 3, seed=5)


def _ragged_tokens():
    rng = np.random.default_rng(4)
    return [rng.integers(1, 9, n) for n in rng.integers(1, T + 1, N)]


def _classifier():
    parts = (
        Embedding(9, 3, padding_idx=0, seed=1),
        lstm(3, 4, bidirectional=True),
        Last(bidirectional=True),
        Linear(8, 3, seed=2),
    )
    return Sequential(*parts), np.random.default_rng(5).integers(0, 3, N)


def _tagger():
    targets = [normal(len(s), 2, seed=len(s)) for s in _ragged_tokens()]
    return Sequential(Embedding(9, 3, seed=1), lstm(3, 4), Linear(4, 2, seed=2)), targets


X = normal(N, T, F)
# model, data, loss, whether the model wants time first, and gives it
CASES = {
    "many_to_one": lambda: (regressor(), make_data(), MSELoss(), True, False),
    "batch_first": lambda: (regressor(batch_first=True), make_data(), MSELoss(), False, False),
    "many_to_many": lambda: ((s := _steps())[0], (X, s[1]), MSELoss(), True, True),
    "many_to_many_batch_first": lambda: (
        (s := _steps(batch_first=True))[0], (X, s[1]), MSELoss("sum"), False, False
    ),
    "lstm_alone": lambda: (
        lstm(F, 3, proj_size=1), (X, normal(N, T, 1)), MSELoss(), True, True
    ),
    "no_lstm": lambda: (Linear(F, 3, seed=1), (X, normal(N, T, 3)), MSELoss(), False, False),
    "weights": lambda: (
        regressor(), Arrays(*make_data(), weights=np.arange(N) % 3), MSELoss(), True, False
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
        model = regressor()
        optimizer = SGD(model, lr=0.1, momentum=0.9)
        if wanted == "fit":
            fit(model, make_data(), MSELoss(), optimizer, 2, 8, **{name: 0.1})
        else:
            clip = CLIPS[name] if wanted == "clipped" else None
            _by_hand(model, make_data(), MSELoss(), True, False, optimizer, 2, clip=clip)
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
    model, other = regressor(), regressor()
    optimizer, others = (Adam(m, lr=0.1) for m in (model, other))
    schedule, other_schedule = make(optimizer), make(others)
    options = {"schedule": schedule, "schedule_per": per}
    history = fit(model, make_data(), MSELoss(), optimizer, 4, 8, **options)
    rates = []
    for epoch in range(4):
        rates.append(others.lr)
        for batch in Batches(make_data(), 8, seed=0).epoch(epoch):
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


@pytest.mark.parametrize("inside", [None, "first", "last"])
@pytest.mark.parametrize("per", ["epoch", "batch"])
def test_one_cycle_of_too_few_steps_is_refused_before_any_work(per, inside):
    """It takes exactly as many steps as there are, alone and before or after another schedule."""
    steps = {"epoch": 4, "batch": 12}[per]

    def train(epochs, model):
        optimizer = Adam(model)
        schedule = OneCycleLR(optimizer, 0.1, total_steps=steps - 2 * (inside == "last"))
        if inside == "first":  # it must last until the second begins
            schedule = SequentialLR(optimizer, [schedule, StepLR(optimizer, 2)], [steps + 2])
        elif inside == "last":
            schedule = SequentialLR(optimizer, [StepLR(optimizer, 2), schedule], [2])
        options = {"schedule": schedule, "schedule_per": per}
        return fit(model, make_data(), MSELoss(), optimizer, epochs, 8, **options)

    assert len(train(4, regressor())["loss"]) == 4
    model, kind = regressor(), "SequentialLR" if inside else "OneCycleLR"
    todo = {"epoch": "5 more: 5 epochs", "batch": "15 more: 5 epochs of 3 batches"}[per]
    raises(
        lambda: train(5, model), ValueError,
        f"schedule: {kind} has {steps} steps, of which 0 are done, but there will be {todo}",
    )  # fmt: skip
    assert_same_weights(model, regressor())


def test_plateau_sees_the_validation_loss_or_the_loss():
    for validation, name in ((make_data(1), "validation_loss"), (None, "loss")):
        model, seen = regressor(), []
        optimizer = Adam(model)
        schedule = ReduceLROnPlateau(optimizer)
        schedule.step = seen.append
        options = {"schedule": schedule, "validation": validation}
        history = fit(model, make_data(), MSELoss(), optimizer, 3, 8, **options)
        assert seen == history[name]


def test_order_of_the_data():
    """Another seed gives another order; without shuffling each epoch has the data's own order."""

    def train(**options):
        model, seen = regressor(), []

        def loss(prediction, target):
            seen.append(target[:, 0])
            return MSELoss()(prediction, target)

        fit(model, make_data(), loss, SGD(model), 2, 8, **options)
        return np.concatenate(seen[1:])  # the first was the look at whether all fits

    expected = make_data()[1][:, 0]
    assert_same_bits(train(shuffle=False), np.tile(expected, 2))
    first, again, second = train(), train(seed=0), train(seed=1)
    assert_same_bits(first, again)
    assert (first != second).any() and (first[:N] != first[N:]).any()
    for order in (first, second):
        assert_same_bits(np.sort(order), np.sort(np.tile(expected, 2)))


def test_validation():
    """It runs in evaluation mode and changes neither modes nor random states nor weights."""
    trained = {}
    for validation in (None, make_data(seed=1)):
        model = regressor(dropout=0.5)
        model.dropout.eval()  # a layer's own mode is its own, afterwards
        options = {"validation": validation}
        history = fit(model, make_data(), MSELoss(), Adam(model, lr=0.01), 3, 8, **options)
        assert [layer.training for _, layer in model.named_layers()] == [1, 1, 0, 1, 1]
        trained[validation is None] = model
        with pytest.raises(AssertionError):  # dropout is on in training
            still = regressor(dropout=0.5).eval()
            _by_hand(still, make_data(), MSELoss(), True, False, Adam(still, lr=0.01), 3)
            assert_same_weights(model, still)
    assert_same_weights(trained[True], trained[False])
    x, y = make_data(seed=1)
    expected = MSELoss()(model.eval()(x.swapaxes(0, 1)), y)[0]
    # means of float32 predictions over one batch of 22, and over three
    np.testing.assert_allclose(history["validation_loss"][-1], expected, rtol=1e-6)


def test_modes_come_back_after_an_error():
    model, calls = regressor(dropout=0.5), []

    def loss(prediction, target):
        calls.append(model.training)
        if len(calls) > 2 and not model.training:  # in the validation after the first epoch
            raise RuntimeError("no")
        return MSELoss()(prediction, target)

    model.last.eval()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError):
        fit(model, make_data(), loss, Adam(model), 1, 8, validation=make_data())
    assert calls == [False, False, True, True, True, False]
    assert [layer.training for _, layer in model.named_layers()] == [1, 1, 1, 0, 1]
    assert signal.getsignal(signal.SIGINT) is before


def test_batches_of_no_weight_are_left_out():
    x, y = make_data()
    weights = np.repeat([1.0, 0.0], [8, N - 8])
    model, other = regressor(), regressor()
    options = {"shuffle": False}
    history = fit(model, (x, y, weights), MSELoss(), Adam(model), 1, 8, **options)
    expected = fit(other, (x[:8], y[:8]), MSELoss(), Adam(other), 1, 8, **options)
    assert history["loss"] == expected["loss"]
    assert_same_weights(model, other)


# ---- callbacks ------------------------------------------------------------------------------


def test_callbacks():
    model, seen = regressor(), []
    optimizer = Adam(model)

    def watch(state):
        assert state.model is model and state.optimizer is optimizer and state.epochs == 9
        assert len(state.history["loss"]) == state.epoch and model.training
        seen.append(state.epoch)
        return "not a reason to stop"

    def enough(state):
        return np.bool_(state.epoch == 2)

    history = fit(model, make_data(), MSELoss(), optimizer, 9, 8, callbacks=[enough, watch])
    assert seen == [1, 2] and history.stopped == "enough after epoch 2"

    def raising(state):
        raise StopTraining

    history = fit(model, make_data(), MSELoss(), optimizer, 9, 8, callbacks=[raising, watch])
    assert seen == [1, 2, 1] and history.stopped == "raising after epoch 1"

    def explaining(state):
        raise StopTraining("enough")

    history = fit(model, make_data(), MSELoss(), optimizer, 9, 8, callbacks=[explaining])
    assert len(history["loss"]) == 1 and history.stopped == "enough"


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
    model = regressor()
    history = fit(model, make_data(), MSELoss(), Adam(model), 9, 8, callbacks=[Metric(), early])
    assert history.stopped == f"EarlyStopping after epoch {stop}" and early.best_epoch == best
    assert early.best == history["metric"][best - 1]
    for name, value in model.state_dict().items():
        assert_same_bits(value, weights[best - 1][name])
        assert (value != weights[-1][name]).any()


def test_early_stopping_at_the_last_epoch_and_again():
    """The best weights come back without a stop too, and another training begins anew."""
    model, early, kept = regressor(), EarlyStopping(5), []
    optimizer = SGD(model, lr=3.0)  # too large: the first epoch is the best
    callbacks = [early, lambda state: kept.append(state.model.state_dict())]
    options = {"validation": make_data(1), "callbacks": callbacks}
    history = fit(model, make_data(), MSELoss(), optimizer, 3, 8, **options)
    best = int(np.argmin(history["validation_loss"]))
    assert best < 2 and history.stopped is None and early.best_epoch == best + 1
    for name, value in model.state_dict().items():
        assert_same_bits(value, kept[best][name])
    history = fit(model, make_data(), MSELoss(), SGD(model, lr=0.0), 1, 8, **options)
    assert early.best == history["validation_loss"][0]


# ---- bad input ------------------------------------------------------------------------------


def _good():
    model = regressor(dropout=0.5)
    return {
        "model": model, "data": make_data(), "loss": MSELoss(), "optimizer": Adam(model),
        "epochs": 1, "batch_size": 8,
    }  # fmt: skip


x, y = make_data()


class _Pairs:
    """A user's own data set, which gives (x, y) as torch's do, or what `give` makes of rows."""

    def __init__(self, give=lambda rows: (x[rows], y[rows])):
        self.give = give

    def __len__(self):
        return N

    def __getitem__(self, rows):
        return self.give(rows)


def _loss_with_gradient(change):
    return lambda prediction, target: change(*MSELoss()(prediction, target))


IS_A_CLASS = r"{}: Expected an object, got the class {} itself; call it: {}\(\.\.\.\)"


def _undecodable(prediction, target):
    return b"\xff".decode("ascii")


def _torchs_loss(prediction, target):
    """A loss like torch.nn.MSELoss, which takes no arrays."""


_torchs_loss = type("MSELoss", (), {"__module__": "torch.nn.loss", "__call__": _torchs_loss})()


BAD = {
    "lengths": ({"data": (x, y[1:])}, ValueError, r"y of shape \(22, \.\.\.\), .* got \(21, 1\)"),
    "empty": ({"data": (x[:0], y[:0])}, ValueError, "at least one sample"),
    "no_data": ({"data": [x, y]}, TypeError, "^data: Expected data to be Arrays.* got list$"),
    "a_dict": ({"data": {"x": x, "y": y}}, TypeError, "^data: Expected data to be .* got dict$"),
    "validation_lengths": (
        {"validation": (x[1:], y)}, ValueError, r"^validation: Expected y of shape \(21, \.\.\.\)"
    ),
    "no_validation_data": ({"validation": x}, TypeError, "^validation: Expected data .* ndarray$"),
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
    "no_features": (
        {"data": (x[..., 0], y)}, ValueError,
        r"^data: Expected x of shape \(N, T, F\); one feature is x\[..., None\], one step x\[:, "
        r"None\], got a batch of shape \(8, 6\)$",
    ),
    "dtype": ({"data": (x.astype(float), y)}, ValueError, "^data: RNN input dtype .float64"),
    "no_steps": ({"data": (x[:, 0, 0], y)}, ValueError, r"^data: Expected x with samples and ste"),
    "reduction": ({"loss": MSELoss("none")}, ValueError, r"one number .* shape \(8, 1\)"),
    "loss": ({"loss": "mse"}, TypeError, "loss should be callable, got: str"),
    "model": ({"model": 3}, TypeError, "optimizer|model"),
    "optimizer": ({"optimizer": None}, TypeError, "one of this package, got: NoneType"),
    "others_optimizer": (
        {"optimizer": Adam(regressor())}, ValueError, "the optimiser of this model",
    ),
    "others_schedule": (
        {"schedule": StepLR(Adam(regressor()), 1)}, ValueError, "a schedule of this optimizer",
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
        {"callbacks": [Checkpoint("/no/such/folder/a.npz")]}, FileNotFoundError,
        "^/no/such/folder/a.npz cannot be written: there is no folder /no/such/folder$",
    ),
    "pairs": (
        {"data": _Pairs()}, TypeError,
        r"^data: Expected data\[indices\] to be a fastlstm.training.Batch, got tuple; a data set "
        r"should return Batch\(x, y\)$",
    ),
    "validation_pairs": ({"validation": _Pairs()}, TypeError, r"^validation: Expected data\[ind"),
    "loss_is_a_number": (
        {"loss": _loss_with_gradient(lambda value, gradient: value)}, TypeError,
        r"^data: loss should return \(value, gradient\), the gradient .* got: float$",
    ),
    "loss_is_a_gradient": (
        {"loss": _loss_with_gradient(lambda value, gradient: gradient)}, TypeError,
        r"^data: loss should return \(value, gradient\), .* got: ndarray$",
    ),
    "loss_without_value": (
        {"loss": _loss_with_gradient(lambda value, gradient: (None, gradient))}, TypeError,
        "^data: loss: Expected a number for a batch, got: NoneType$",
    ),
    "loss_without_gradient": (
        {"loss": _loss_with_gradient(lambda value, gradient: (value, None))}, ValueError,
        r"^data: loss: Expected a gradient of the prediction's shape \(8, 1\), got \(\)$",
    ),
    "gradient_of_another_shape": (
        {"loss": _loss_with_gradient(lambda value, gradient: (value, gradient[:, 0]))}, ValueError,
        r"^data: loss: Expected a gradient of the prediction's shape \(8, 1\), got \(8,\)$",
    ),
    "loss_class": ({"loss": MSELoss}, TypeError, IS_A_CLASS.format("loss", *["MSELoss"] * 2)),
    "model_class": ({"model": LSTM}, TypeError, IS_A_CLASS.format("model", *["LSTM"] * 2)),
    "optimizer_class": (
        {"optimizer": Adam}, TypeError, IS_A_CLASS.format("optimizer", *["Adam"] * 2)
    ),
    "schedule_class": (
        {"schedule": StepLR}, TypeError, IS_A_CLASS.format("schedule", *["StepLR"] * 2)
    ),
    "data_class": ({"data": Arrays}, TypeError, IS_A_CLASS.format("data", *["Arrays"] * 2)),
    "validation_class": (
        {"validation": Sequences}, TypeError, IS_A_CLASS.format("validation", *["Sequences"] * 2)
    ),
    "callback_class": (
        {"callbacks": [EarlyStopping]}, TypeError,
        IS_A_CLASS.format("callbacks", *["EarlyStopping"] * 2),
    ),
    "float_labels": (
        {"data": (x, np.zeros(N)), "loss": CrossEntropyLoss()}, ValueError,
        "^data: CrossEntropyLoss: Expected target to hold class indices, integers from 0 to 0 in",
    ),
    "list_of_words": (
        {"data": (x, ["yes"] * N), "loss": CrossEntropyLoss()}, TypeError,
        r"^data: y must be an array of numbers, got list\. Classes are integers from 0, as np\.",
    ),
    "ragged_words": (
        {"data": lambda: Sequences(list(x), ["yes"] * N)}, TypeError,
        r"^targets must be an array of numbers, got list\. Classes are integers from 0",
    ),
    "word_labels": (
        {"data": (x, np.array(["yes"] * N)), "loss": CrossEntropyLoss()}, ValueError,
        r"class indices, integers .* got <U3 of shape \(22,\)\. Labels become indices by np.uni",
    ),
    "one_by_one": (
        {"data": _Pairs(lambda row: Batch(x[int(row)], y[int(row)]))}, TypeError,
        "^data: data.indices. of an array of indices: ",
    ),
    "another_number": (
        {"data": _Pairs(lambda rows: Batch(x[:3], y[:3]))}, ValueError,
        r"^data: Expected data\[indices\] of 8, got 3$",
    ),
    "batch_of_lists": (
        {"data": _Pairs(lambda rows: Batch(x[rows], y[rows].tolist()))}, TypeError,
        r"^data: Expected y of data\[indices\] to be an array, got a list$",
    ),
    "half_a_batch": (
        {"data": _Pairs(lambda rows: types.SimpleNamespace(x=x[rows], y=y[rows]))}, TypeError,
        r"^data: Expected data\[indices\] to be a fastlstm.training.Batch, got SimpleNamespace; ",
    ),
    "last_label": (
        {"data": (x, np.arange(N) // (N - 1)), "loss": CrossEntropyLoss()}, ValueError,
        "^data: CrossEntropyLoss: target must hold classes 0..0, got indices from 0 to 1$",
    ),
    "last_label_of_sequences": (
        {"data": lambda: Sequences(list(x), np.arange(N) // (N - 1)), "loss": CrossEntropyLoss()},
        ValueError, "^data: CrossEntropyLoss: target must hold classes 0..0, got indices from 0 t",
    ),
    "last_label_of_validation": (
        {"data": (x, np.zeros(N, int)), "validation": (x, np.arange(N) // (N - 1)),
         "loss": CrossEntropyLoss()}, ValueError, "^validation: CrossEntropyLoss: target must hold",
    ),
    "torchs_loss": (
        {"loss": _torchs_loss}, TypeError,
        "^loss should be one of this package, got torch's MSELoss$",
    ),
    "loss_without_weights": (
        {"data": (x, y, np.ones(N)), "loss": lambda y, t: MSELoss()(y, t)}, TypeError,
        r"^data: loss\(prediction, target, weights=\.\.\.\): .*unexpected keyword argument 'weigh",
    ),
    "a_number_as_schedule": (
        {"schedule": 0.1}, TypeError, "^schedule should be one of this package, got: float$"
    ),
    "monitor_of_another_name": (
        {"callbacks": [EarlyStopping(2, monitor="val_loss"), Checkpoint("a.npz")],
         "validation": (x, y)}, ValueError,
        "^EarlyStopping: Expected 'val_loss' in the history, which has loss, validation_loss, lr, ",
    ),
    "resume": (
        {"resume": True}, TypeError, "^resume should be the path of a checkpoint, got: bool$"
    ),
    "changed": ({"changed": None}, TypeError, "^changed should be a list of names of arguments"),
    "metric_that_fails": (
        {"metrics": {"a": lambda y, t: np.zeros(2) + np.zeros(3)}}, ValueError,
        r"^metrics\['a'\]: operands could not be broadcast together",
    ),
    "error_of_another_kind": (
        {"loss": _undecodable}, ValueError, r"^data: loss\(prediction, target\): 'ascii' codec"
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
        late = {n: v() for n, v in change.items() if n == "data" and inspect.isfunction(v)}
        fit(**(good | change | late))
    assert_same_weights(model, regressor(dropout=0.5))
    assert model.training and model.dropout._rng.bit_generator.state == random
    assert good["optimizer"].steps == 0


def test_a_plateau_of_what_should_grow_is_refused():
    """It would take each fall of the loss for a lack of progress; a callback may step it."""
    model = regressor()
    optimizer = Adam(model)
    plateau = ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=0.5)
    raises(
        lambda: fit(model, make_data(), MSELoss(), optimizer, 1, 8, schedule=plateau), ValueError,
        'schedule: ReduceLROnPlateau of mode="max" would see the loss, of which less is better; '
        "call its step with a metric in a callback instead",
    )  # fmt: skip
    history = fit(
        model, make_data(), MSELoss(), optimizer, 3, 8, metrics={"a": lambda y, t: 1.0},
        callbacks=[lambda state: plateau.step(state.history["a"][-1])],
    )  # fmt: skip
    assert history["lr"] == [0.001, 0.001, 0.0005]


def test_a_data_frame_is_no_data_set():
    pandas = pytest.importorskip("pandas", reason="a table of pandas' needs pandas")
    model = regressor()
    table = pandas.DataFrame(x[:, 0])
    with pytest.raises(TypeError, match="^data: Expected data to be Arrays.* got DataFrame$"):
        fit(model, table, MSELoss(), Adam(model), 1, 8)


@pytest.mark.parametrize("batch_first", [False, True])
def test_samples_are_not_taken_for_steps(batch_first):
    """torch would run a table of samples (N, F), with a target each, as one sequence."""
    model = Sequential(lstm(F, 4, batch_first=batch_first), Linear(4, 1))
    sentence = (
        "Expected x of shape (N, T, F); one feature is x[..., None], one step x[:, None], got a "
        "batch of shape (2, 2)"
    )
    rows, targets = x[:, 0], y
    data = rows, targets
    raises(lambda: fit(model, data, MSELoss(), Adam(model), 1, 2), ValueError, f"data: {sentence}")
    raises(lambda: predict(model, rows, 2), ValueError, sentence)
    fit(model, (rows[:, None], targets[:, None]), MSELoss(), Adam(model), 1, 2)
    tagger = Sequential(Embedding(9, 2), Dropout(0.1), lstm(2, 4, batch_first=batch_first))
    tokens = np.ones((N, T), int)
    assert predict(tagger, tokens).shape == (N, T, 4)
    raises(
        lambda: predict(tagger, tokens[:, 0], 2), ValueError,
        "Expected x with samples and steps, (N, T, ...), got shape (2,)" if not batch_first else
        "Expected x of shape (N, T), tokens, got a batch of shape (2,)",
    )  # fmt: skip


def test_a_metric_without_a_value_for_few_samples():
    """A metric needs a value for all samples only; for a single batch it may divide by zero."""

    def two_kinds(prediction, target):
        if len(target) < N:
            raise ValueError("only one kind is there")
        return 1.0

    model = regressor()
    options = {"metrics": {"m": two_kinds}, "validation": make_data(1)}
    history = fit(model, make_data(), MSELoss(), Adam(model), 2, 8, **options)
    assert history["m"] == history["validation_m"] == [1.0, 1.0]


def test_a_monitor_may_be_another_callbacks():
    def adds(state):
        state.history.setdefault("own", []).append(-state.epoch)

    model, early = regressor(), EarlyStopping(2, monitor="own")
    fit(model, make_data(), MSELoss(), Adam(model), 3, 8, callbacks=[adds, early])
    assert early.best_epoch == 3


def test_one_cycle_that_does_not_end_is_said(capsys, tmp_path):
    """Nothing is said where there are checkpoints, because more epochs may follow."""

    def train(epochs, **options):
        model = regressor()
        optimizer = Adam(model)
        schedule = OneCycleLR(optimizer, 0.1, total_steps=12)
        options |= {"schedule": schedule, "progress": False}
        fit(model, make_data(), MSELoss(), optimizer, epochs, 8, **options)
        return capsys.readouterr().err

    sentence = (
        "schedule: OneCycleLR has 12 steps, of which 0 are done, but there will be 9 more: 3 "
        "epochs of 3 batches; the learning rate will not come to its end\n"
    )
    assert train(3) == sentence
    assert train(4) == ""
    assert train(3, callbacks=[Checkpoint(tmp_path / "a.npz")]) == ""


def test_mixed_batch_first_is_refused():
    model = Sequential(lstm(F, 4), Last(), Linear(4, 1))
    model[1].batch_first = True
    sentence = "model: all of its LSTM and Last layers must be batch_first, or none"
    raises(lambda: fit(model, make_data(), MSELoss(), Adam(model), 1, 8), ValueError, sentence)


def test_bad_callbacks():
    for call in (lambda: EarlyStopping(0), lambda: EarlyStopping(1, -1.0)):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(ValueError):
        Checkpoint("a.npz", every=0)
    model = regressor()
    callbacks = [EarlyStopping(1, monitor="accuracy")]
    with pytest.raises(ValueError, match="Expected 'accuracy' in the history, which has loss, lr"):
        fit(model, make_data(), MSELoss(), Adam(model), 1, 8, callbacks=callbacks)


# ---- torch ----------------------------------------------------------------------------------

STEPS = 200
OPTIMIZERS = {
    "sgd": lambda model, lr=0.1: SGD(model, lr=lr, momentum=0.9),
    "adam": lambda model, lr=0.01: Adam(model, lr=lr),
}


def _long_run():
    """Inputs, targets and initial weights that are exact in float32: a sum to be remembered."""
    x = normal(16, 12, F)
    model = Sequential(lstm(F, 8), Last(), Linear(8, 1, seed=2))
    return x, x[..., 0].sum(1, keepdims=True) / 3, model.state_dict()


def _ours(dtype, engine, make, moved=None):
    """Return the loss before each step; `moved` changes what each of them sees, and its result."""
    x, y, weights = _long_run()
    x, y = x.astype(dtype), y.astype(dtype)
    layers = LSTM(F, 8, engine=engine, dtype=dtype), Last(), Linear(8, 1, dtype=dtype)
    model = Sequential(*layers)
    model.load_state_dict(weights)
    optimizer, loss, losses = make(model), MSELoss(), []
    if moved is None:
        return np.array(fit(model, (x, y), loss, optimizer, STEPS, 16, shuffle=False)["loss"])
    for _ in range(STEPS):
        weights = model.state_dict()
        model.load_state_dict({name: moved(value) for name, value in weights.items()})
        model.zero_grad()
        prediction, pullback = model.vjp(moved(x.swapaxes(0, 1)))
        value, gradient = loss(prediction, moved(y))
        pullback(moved(gradient))
        for gradient in model.grads.values():
            gradient[...] = moved(gradient)
        model.load_state_dict(weights)
        optimizer.step()
        losses.append(value)
    return np.array(losses)


@functools.cache
def _theirs(torch, dtype, name):
    x, y, weights = _long_run()
    x, y = (torch.from_numpy(a.astype(dtype)) for a in (x.swapaxes(0, 1), y))
    kind = getattr(torch, dtype)
    parts = {"0": torch.nn.LSTM(F, 8, dtype=kind), "2": torch.nn.Linear(8, 1, dtype=kind)}
    for prefix, part in parts.items():
        own = {n[2:]: torch.from_numpy(w) for n, w in weights.items() if n.startswith(prefix)}
        part.load_state_dict(own)
    parameters = [p for part in parts.values() for p in part.parameters()]
    optimizer = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        "adam": lambda: torch.optim.Adam(parameters, lr=0.01),
    }[name]()
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(parts["2"](parts["0"](x)[0][-1]), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


@functools.cache
def _growth(name):
    """How far errors in every step take each loss, per size of the errors.

    In float64, 8 trainings with random errors (root of mean square): each step sees weights, inputs
    and targets that are off, and the gradients that it finds and those it goes back from are off
    too, every value in proportion to the largest of its kind. That is how `gradients.spread` finds
    what rounding does in one step. From step to step errors grow or fade as the training has it,
    which is in here; they are small enough for all of it to be linear. Every engine shows the same
    growth, so the fastest one is asked.
    """
    exact, size, squares = _ours("float64", "auto", OPTIMIZERS[name]), 1e-8, 0
    for draw in range(8):
        rng = np.random.default_rng(draw)

        def moved(a, rng=rng):
            return a + size * np.abs(a).max() * rng.standard_normal(a.shape)

        squares += (_ours("float64", "auto", OPTIMIZERS[name], moved) - exact) ** 2
    return np.sqrt(squares / 8) / size


def _bound(name, engine, dtype):
    """What the losses of two trainings may differ by: both round, and we allow six times that."""
    u, terms = np.finfo(dtype).eps / 2, F + 8 + 1
    return 6 * (roundings(engine, terms) + roundings("numpy", terms)) * u * _growth(name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_200_steps_follow_torch(torch, name, engine, dtype):
    expected = _theirs(torch, dtype, name)
    assert expected[-1] < expected[0] / 1e4  # there is something to follow
    bound = _bound(name, engine, dtype)
    assert (np.abs(_ours(dtype, engine, OPTIMIZERS[name]) - expected) <= bound).all()
    lr = {"sgd": 0.1001, "adam": 0.01001}[name]  # a thousandth more is seen
    wrong = _ours(dtype, engine, lambda model: OPTIMIZERS[name](model, lr))
    assert (np.abs(wrong - expected) > bound).any()


# ---- what is shown --------------------------------------------------------------------------


def test_verbose(capsys):
    model = regressor()
    history = fit(
        model, make_data(), MSELoss(), Adam(model), 2, 8, validation=make_data(1), verbose=True
    )  # fmt: skip
    out, err = capsys.readouterr()
    lines = out.splitlines()
    first = f"epoch 1/2: loss {history['loss'][0]:.4g}, validation_loss "
    assert len(lines) == 2 and lines[0].startswith(first) and err == ""
    fit(model, make_data(), MSELoss(), Adam(model), 2, 8, progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_line_for_each_epoch_where_there_is_no_terminal(capsys):
    """It goes to standard error, with every value of the history; verbose lines replace it."""
    model = regressor()
    options = {"validation": make_data(1), "metrics": {"highest": lambda y, t: y.max()}}
    history = fit(model, make_data(), MSELoss(), Adam(model), 2, 8, **options)
    out, err = capsys.readouterr()
    for epoch, line in enumerate(err.splitlines()):
        values = ", ".join(f"{name} {history[name][epoch]:.4g}" for name in history)
        assert line == f"epoch {epoch + 1}/2: {values}"
    assert out == "" and err.count("\n") == 2


class _Notebook:
    """IPython, as a notebook's kernel shows it."""

    config = {"IPKernelApp": {}}

    def get_ipython(self):
        return self


def test_lines_in_a_notebook_without_tqdm(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", _Notebook())
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    model = regressor()
    fit(model, make_data(), MSELoss(), Adam(model), 2, 8)
    assert capsys.readouterr().err.count("\nepoch 2/2: loss ") == 1


@pytest.mark.parametrize("where", ["terminal", "notebook"])
def test_progress(where, capsys, monkeypatch):
    """A terminal and a notebook show a bar of all batches, which is closed in any case."""
    pytest.importorskip("tqdm", reason="the bar is tqdm's")
    from tqdm.auto import tqdm

    bars = []

    class Bar(tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options | {"delay": 0})
            bars.append(self)

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    if where == "terminal":
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    else:
        monkeypatch.setitem(sys.modules, "IPython", _Notebook())

    model = regressor()
    fit(model, make_data(), MSELoss(), Adam(model), 2, 8)
    assert (bars[0].total, bars[0].n, bars[0].disable) == (6, 6, True)
    fit(model, make_data(), MSELoss(), Adam(model), 2, 8, progress=False)
    assert len(bars) == 1


def test_memory_does_not_grow():
    """Many epochs add less memory than a single step keeps."""
    model, sizes = Sequential(lstm(F, 32), Last(), Linear(32, 1)), []
    data = normal(32, 20, F), normal(32, 1)
    tracemalloc.start()
    try:
        callbacks = [lambda state: sizes.append(tracemalloc.get_traced_memory()[0])]
        fit(model, data, MSELoss(), Adam(model), 12, 8, validation=data, callbacks=callbacks)
    finally:
        tracemalloc.stop()
    kept = 8 * 20 * 5 * 32 * 4  # bytes of gates and cells of one batch
    assert sizes[-1] - sizes[3] < kept / 2


# ---- predict --------------------------------------------------------------------------------


def test_predict_by_value():
    model, (x, y) = regressor(dropout=0.5), make_data()
    expected = model.eval()(x.swapaxes(0, 1))
    model.train()
    model.last.eval()
    for data in (x, (x, y), Arrays(x, y)):
        # BLAS may cut sums of four terms otherwise for other batches
        np.testing.assert_allclose(predict(model, data, 8), expected, rtol=0, atol=1e-6)
    assert [layer.training for _, layer in model.named_layers()] == [1, 1, 1, 0, 1]
    same = predict(regressor(batch_first=True), x)
    np.testing.assert_allclose(predict(regressor(), x), same, rtol=0, atol=1e-6)


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


@pytest.mark.parametrize("make", [_tagger, _classifier])
def test_predict_without_targets(make):
    """It takes sequences as they are, some without steps, or Sequences that hold them alone."""
    sequences, (model, targets) = [*_ragged_tokens(), np.zeros(0, int)], make()
    targets = [*targets, np.zeros((0, 2)) if make is _tagger else 0]
    expected = predict(model, Sequences(sequences, targets), 5)
    for data in (sequences, [s.tolist() for s in sequences], Sequences(sequences)):
        for size in (5, 1, 100):
            got = predict(model, data, size)
            assert type(got) is type(expected) and len(got) == len(expected)
            for one, other in zip(got, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    assert len(got[-1]) == (0 if make is _tagger else 3)


def test_predict_of_a_list_of_features():
    """The list is taken in the model's precision, whatever the layout."""
    sequences = [normal(n, F, seed=n).astype("float64") for n in (3, 1, 4)]
    for batch_first in (False, True):
        model = LSTM(F, 2, batch_first=batch_first, dtype="float64", seed=0)
        got = predict(model, sequences, 2)
        for row, sequence in zip(got, sequences, strict=True):
            np.testing.assert_allclose(row, model(sequence)[0], rtol=0, atol=1e-12)


def test_fit_needs_targets():
    model, data = _tagger()[0], Sequences(_ragged_tokens())
    sentence = "data: Expected Sequences with targets, got them without"
    raises(lambda: fit(model, data, MSELoss(), Adam(model), 1, 8), ValueError, sentence)


def test_a_sequence_without_steps_teaches_nothing():
    """It has no target for any step, so loss and update are those of the others."""
    results = []
    for more in ([], [np.zeros(0, int)]):
        (model, targets), sequences = _tagger(), _ragged_tokens()
        data = Sequences(sequences + more, targets + [np.zeros((0, 2)) for _ in more])
        options = {"batch_size": len(data), "shuffle": False}
        results.append((fit(model, data, MSELoss(), Adam(model), 2, **options)["loss"], model))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-6)
    for one, other in zip(*(model.state_dict().values() for _, model in results), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_predict_errors():
    with pytest.raises(TypeError, match="model should be a layer, got: int"):
        predict(3, X)
    with pytest.raises(ValueError, match="batch_size must be greater than zero"):
        predict(regressor(), X, 0)
    with pytest.raises(ValueError, match="at least one sample"):
        predict(regressor(), X[:0])
