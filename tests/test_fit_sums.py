"""What `fit` adds up over batches: losses with their own denominators, metrics, the best epoch."""

import functools
import math

import numpy as np
import pytest
from errors import raises
from support import assert_same_bits
from trainings import F, N, T, assert_same_weights, lstm, make_data, regressor
from values import normal

from fastlstm import Last, Linear, Sequential
from fastlstm.training import (
    SGD,
    Adam,
    Arrays,
    Batch,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    EarlyStopping,
    HuberLoss,
    L1Loss,
    MSELoss,
    NonFiniteError,
    NSELoss,
    QuantileLoss,
    Sequences,
    StopTraining,
    Windows,
    fit,
)

X = normal(N, T, F)
CLASSES = np.random.default_rng(1).integers(0, 3, N)
WEIGHTS = np.random.default_rng(2).random(N) + 0.1
WEIGHTS[::3] = 0
STD = np.random.default_rng(3).random(N) + 0.5
LENGTHS = np.random.default_rng(4).integers(1, T + 1, N)
STEP_WEIGHTS = np.random.default_rng(5).random((N, T))


class Steps:
    """Ragged samples with a target, and a weight, for every step; what is padded is nan."""

    lengths = LENGTHS

    def __init__(self, targets, weights=None):
        self.mask = np.arange(T) < LENGTHS[:, None]
        mask = self.mask.reshape(self.mask.shape + (1,) * (targets.ndim - 2))
        self.targets = np.where(mask, targets, np.nan) if targets.dtype.kind == "f" else targets
        self.weights = weights

    def __len__(self):
        return N

    def __getitem__(self, rows):
        longest = LENGTHS[rows].max()
        weights = None if self.weights is None else self.weights[rows]
        if weights is not None and weights.ndim == 2:
            weights = np.where(self.mask[rows], weights, np.nan)[:, :longest]
        return Batch(
            X[rows, :longest], self.targets[rows, :longest], weights,
            self.mask[rows, :longest], LENGTHS[rows],
        )  # fmt: skip


def _one(outputs):
    return Sequential(lstm(F, 4), Last(), Linear(4, outputs, seed=2))


def _each(outputs):
    return Sequential(lstm(F, 4), Linear(4, outputs, seed=2))


def _numbers(*shape):
    return normal(*shape, seed=9)


IGNORED = np.where(np.arange(N) % 3 == 1, -100, CLASSES)
STEP_CLASSES = np.random.default_rng(6).integers(0, 3, (N, T))
# (model, data, loss by its reduction)
CASES = {
    "mse": lambda r: (_one(1), (X, _numbers(N, 1)), MSELoss(r)),
    "l1 weights": lambda r: (_one(2), (X, _numbers(N, 2), WEIGHTS), L1Loss(r)),
    "huber": lambda r: (_each(2), (X, _numbers(N, T, 2)), HuberLoss(r)),
    "quantiles": lambda r: (_one(3), (X, _numbers(N), WEIGHTS), QuantileLoss([0.1, 0.5, 0.9], r)),
    "bce pos_weight": lambda r: (
        _one(3), (X, (_numbers(N, 3) > 0).astype(np.float32), WEIGHTS), BCEWithLogitsLoss(4.0, r)
    ),
    "nse": lambda r: (_one(1), Arrays(X, _numbers(N, 1), WEIGHTS, std=STD), NSELoss(r)),
    "nse of one basin": lambda r: (
        _one(1), (X, _numbers(N, 1)), functools.partial(NSELoss(r), std=2.0)
    ),
    "ce": lambda r: (_one(3), (X, CLASSES), CrossEntropyLoss(reduction=r)),
    "ce class weights": lambda r: (_one(3), (X, CLASSES), CrossEntropyLoss([0.01, 10, 1], 0, r)),
    "ce class weights by partial": lambda r: (
        _one(3), (X, CLASSES),
        functools.partial(functools.partial(CrossEntropyLoss([0.01, 10, 1], reduction=r))),
    ),
    "ce ignored": lambda r: (_one(3), (X, IGNORED), CrossEntropyLoss(reduction=r)),
    "ce all": lambda r: (
        _one(3), (X, IGNORED, WEIGHTS), CrossEntropyLoss([0.01, 10, 1], -100, r, 0.1)
    ),
    "ce smoothed, some of weight 0": lambda r: (
        _one(3), (X, np.sort(CLASSES)), CrossEntropyLoss([0.1, 10, 0], -100, r, 0.3)
    ),
    "ce shares": lambda r: (
        _one(3), (X, np.abs(_numbers(N, 3)), WEIGHTS), CrossEntropyLoss([0.1, 10, 1], reduction=r)
    ),
    "ce steps": lambda r: (
        _each(3), Steps(STEP_CLASSES, WEIGHTS), CrossEntropyLoss([0.01, 10, 1], 2, r)
    ),
    "steps": lambda r: (_each(2), Steps(_numbers(N, T, 2)), MSELoss(r)),
    "steps with weights": lambda r: (_each(2), Steps(_numbers(N, T, 2), WEIGHTS), MSELoss(r)),
    "weighted steps": lambda r: (_each(2), Steps(_numbers(N, T, 2), STEP_WEIGHTS), MSELoss(r)),
    "weighted class steps": lambda r: (
        _each(3), Steps(STEP_CLASSES, STEP_WEIGHTS), CrossEntropyLoss([0.01, 10, 1], reduction=r)
    ),
}  # fmt: skip


def _at_once(model, data, loss):
    """The loss over all data, in one call."""
    batch = (data if hasattr(data, "__getitem__") and not isinstance(data, tuple) else
             Arrays(*data))[np.arange(N)]  # fmt: skip
    y = model.eval()(batch.x.swapaxes(0, 1), lengths=batch.lengths)
    y = y.swapaxes(0, 1) if y.ndim == 3 else y
    options = {"weights": batch.weights, "mask": batch.mask, "std": batch.std}
    return loss(y, batch.y, **{n: v for n, v in options.items() if v is not None})[0]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", CASES)
def test_the_loss_of_an_epoch_is_that_over_all_at_once(name, reduction):
    """This holds for training and validation, though batches of 5 weigh differently."""
    model, data, loss = CASES[name](reduction)
    options = {"validation": data, "shuffle": False}
    history = fit(model, data, loss, SGD(model, lr=0.0), 1, 5, **options)
    expected = _at_once(model, data, loss)
    # float32 predictions, whose sums BLAS may cut otherwise, and losses of some 20 to 130 terms
    np.testing.assert_allclose(history["loss"], [expected], rtol=1e-5)
    np.testing.assert_allclose(history["validation_loss"], [expected], rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_denominator_is_what_mean_divides_by(name):
    """On the same numbers, the sum is the mean times the denominator."""
    model, data, mean = CASES[name]("mean")
    total = CASES[name]("sum")[2]
    inner = mean
    while isinstance(inner, functools.partial):
        inner = inner.func
    batch = (Arrays(*data) if isinstance(data, tuple) else data)[np.arange(5)]
    y = model(batch.x.swapaxes(0, 1), lengths=batch.lengths)
    y = y.swapaxes(0, 1) if y.ndim == 3 else y
    options = {"weights": batch.weights, "mask": batch.mask}
    options = {n: v for n, v in options.items() if v is not None}
    std = {} if batch.std is None else {"std": batch.std}
    means, sums = (loss(y, batch.y, **options, **std)[0] for loss in (mean, total))
    assert sums == pytest.approx(means * inner.denominator(y, batch.y, **options), rel=1e-12)


def test_a_mean_of_means_is_another_number():
    """One batch is of a heavy class, the other of a light one."""
    loss = CrossEntropyLoss([0.1, 10.0])
    model = Linear(1, 2, bias=False)
    model.weight = [[1.0], [-1.0]]
    x, y = np.array([[1.0], [1.0]], np.float32), np.array([0, 1])
    history = fit(model, (x, y), loss, SGD(model, lr=0.0), 1, 1, progress=False)
    whole = loss(model(x), y)[0]
    halves = np.mean([loss(model(x[k : k + 1]), y[k : k + 1])[0] for k in range(2)])
    assert history["loss"][0] == pytest.approx(whole, rel=1e-6)
    assert abs(halves - whole) > 0.5


@pytest.mark.parametrize("what", ["ignored", "masked", "class weight 0", "weight 0"])
def test_a_batch_in_which_nothing_counts_changes_nothing(what):
    """Training goes on as if that batch had not been there."""
    kept = np.r_[0:8, 16:N]
    y, loss, weights = CLASSES.copy(), CrossEntropyLoss(), np.ones(N)
    y[y == 2] = 1

    class Masked:
        def __len__(self):
            return N

        def __getitem__(self, rows):
            return Batch(X[rows], y[rows], mask=np.isin(rows, kept))

    data = X, y
    if what == "ignored":
        y[8:16] = -100
    elif what == "class weight 0":
        y[8:16], loss = 2, CrossEntropyLoss([1, 1, 0])
    elif what == "weight 0":
        weights[8:16] = 0
        data = X, y, weights
    else:
        data = Masked()
    model, other = _one(3), _one(3)
    options = {"shuffle": False, "progress": False}
    history = fit(model, data, loss, Adam(model), 3, 8, validation=data, **options)
    few = X[kept], y[kept]
    expected = fit(other, few, loss, Adam(other), 3, 8, validation=few, **options)
    assert_same_weights(model, other)
    for name in ("loss", "validation_loss"):
        assert_same_bits(history[name], expected[name])


def test_data_in_which_nothing_counts_are_refused():
    model = _one(3)
    y = np.full(N, -100)
    before = model.state_dict()
    for name in ("data", "validation"):
        data = {"data": (X, CLASSES), "validation": (X, CLASSES), name: (X, y)}
        sentence = f"{name}: no target counts: each is masked, or ignored by the loss, or weighs 0"
        raises(
            lambda d=data: fit(model, d["data"], CrossEntropyLoss(), SGD(model, lr=0.0), 2, 8,
                               validation=d["validation"]),
            ValueError, sentence,
        )  # fmt: skip
    for name, value in model.state_dict().items():
        assert_same_bits(value, before[name])


def _weighs_three(prediction, target):
    """A user's own loss, in which class 0 weighs 3."""
    share = np.where(target == 0, 3.0, 1.0)
    error = prediction[:, 0] - target
    gradient = np.zeros_like(prediction)
    gradient[:, 0] = 2 * share * error / share.sum()
    return np.sum(share * error**2) / share.sum(), gradient


class _TellsWhatItWeighs:
    __call__ = staticmethod(_weighs_three)

    def denominator(self, prediction, target):
        return np.where(target == 0, 3.0, 1.0).sum()


def test_losses_of_ones_own():
    """A denominator is used if there is one; otherwise a batch counts by its samples."""
    for loss in (_TellsWhatItWeighs(), _weighs_three):
        model = _one(1)
        history = fit(model, (X, CLASSES), loss, SGD(model, lr=0.0), 1, 5, shuffle=False)
        y = model(X.swapaxes(0, 1))
        whole = _weighs_three(y, CLASSES)[0]
        cuts = [slice(k, k + 5) for k in range(0, N, 5)]
        values = [_weighs_three(y[cut], CLASSES[cut])[0] for cut in cuts]
        by_samples = np.average(values, weights=[len(y[cut]) for cut in cuts])
        assert abs(whole - by_samples) > 1e-3
        expected = whole if hasattr(loss, "denominator") else by_samples
        assert history["loss"][0] == pytest.approx(expected, rel=1e-6)


class _Sum:
    reduction = "sum"

    def __call__(self, prediction, target):
        return np.float32(target.sum()), np.zeros_like(prediction)


def test_the_numbers_of_a_loss_of_ones_own_are_added_in_float64():
    target = np.ones((N, 1), np.float32)
    target[0] = 2**24  # in float32, adding 1 to it changes nothing
    model = _one(1)
    history = fit(model, (X, target), _Sum(), Adam(model), 1, 1, shuffle=False, progress=False)
    assert history["loss"] == [2**24 + N - 1]
    assert type(history["loss"][0]) is float  # which json.dumps takes


def test_a_loss_of_ones_own_with_weighted_steps():
    """Without a denominator a batch counts by its real steps."""
    data = Steps(_numbers(N, T, 2), STEP_WEIGHTS)

    def loss(prediction, target, weights, mask):
        return MSELoss()(prediction, target, weights=weights, mask=mask)

    model = _each(2)
    history = fit(model, data, loss, SGD(model, lr=0.0), 1, 5)
    expected = _at_once(model, data, MSELoss())
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_std_goes_to_who_takes_it():
    """Data sets for NSELoss serve other losses too."""
    model, other = _one(1), _one(1)
    y = _numbers(N, 1)
    fit(model, Arrays(X, y, std=STD), MSELoss(), Adam(model), 1, 8)
    fit(other, (X, y), MSELoss(), Adam(other), 1, 8)
    assert_same_weights(model, other)
    with pytest.raises(ValueError, match=r"^data: NSELoss: Expected std, .* Arrays\(x, y, std=.*"):
        fit(model, (X, y), NSELoss(), Adam(model), 1, 8)


def test_every_data_set_takes_std():
    """A batch holds the std of each sample; for windows this is the std of their series."""
    y = _numbers(N, 1)
    ragged = [X[k, : LENGTHS[k]] for k in range(N)]
    few = [2, 0, 3]
    assert_same_bits(Sequences(ragged, y, std=STD)[few].std, STD[few])
    series = [normal(20, 1), 3 * normal(12, 1, seed=1)]
    data = Windows(series, 5, 2, std=[1.0, 3.0], flat=True)
    assert data[:].std.tolist() == [1.0] * 14 + [3.0] * 6
    assert Windows(series, 5, std=2)[:2].std.tolist() == [2, 2]
    model = Sequential(lstm(1, 4), Last(), Linear(4, 2, seed=2))
    history = fit(model, data, NSELoss(), SGD(model, lr=0.0), 1, 5)
    batch = data[:]
    prediction = model(batch.x.swapaxes(0, 1))
    expected = np.mean((prediction - batch.y) ** 2 / (batch.std[:, None] + 0.1) ** 2)
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    for call, sentence in (
        (
            lambda: Windows(series, 5, std=[1.0, 2.0, 3.0]),
            "Expected std to be a number, or of shape (2,), one a series, got (3,)",
        ),
        (
            lambda: Sequences(ragged, y, std=STD[:3]),
            "Expected std of shape (22,), one a sequence, got (3,)",
        ),
        (
            lambda: Arrays(X, y, std=STD[:3]),
            "Expected std of shape (22,), one a sample, got (3,)",
        ),
    ):
        raises(call, ValueError, sentence)


# ---- metrics --------------------------------------------------------------------------------


def _accuracy(prediction, target):
    return np.mean(prediction.argmax(-1) == target)


def _explained(prediction, target):
    """The share of the variance that is explained, which is no mean over batches."""
    return 1 - np.sum((prediction - target) ** 2) / np.sum((target - target.mean()) ** 2)


def test_metrics_are_those_over_all_at_once():
    model = _one(1)
    y = _numbers(N, 1)
    held_out = normal(N, T, F, seed=7), normal(N, 1, seed=8)
    history = fit(
        model, (X, y), MSELoss(), SGD(model, lr=0.0), 2, 5, validation=held_out,
        metrics={"explained": _explained},
    )  # fmt: skip
    assert list(history) == [
        "loss", "explained", "validation_loss", "validation_explained", "lr", "seconds"
    ]  # fmt: skip
    for name, (inputs, target) in {"": (X, y), "validation_": held_out}.items():
        expected = _explained(model(inputs.swapaxes(0, 1)), target)
        assert history[f"{name}explained"] == pytest.approx([expected] * 2, abs=1e-5)  # of 1
        assert all(type(value) is float for value in history[f"{name}explained"])


def test_metrics_of_training_see_each_prediction_before_its_update():
    model, other, seen = _one(3), _one(3), []

    def loss(prediction, target):
        seen.append((prediction.copy(), target))
        return CrossEntropyLoss()(prediction, target)

    history = fit(
        model, (X, CLASSES), loss, Adam(model, lr=0.1), 1, 5, metrics={"accuracy": _accuracy}
    )
    predictions, targets = (np.concatenate(parts) for parts in zip(*seen[1:], strict=True))
    assert history["accuracy"] == [_accuracy(predictions, targets)]
    fit(other, (X, CLASSES), CrossEntropyLoss(), Adam(other, lr=0.1), 1, 5)
    assert_same_weights(model, other)  # a metric changes nothing


def test_metrics_see_real_steps_alone():
    model = _each(2)
    data = Steps(_numbers(N, T, 2))
    history = fit(
        model, data, MSELoss(), SGD(model, lr=0.0), 1, 5,
        metrics={"mse": lambda y, t: np.mean((y - t) ** 2), "rows": lambda y, t: len(y)},
    )  # fmt: skip
    assert history["mse"] == pytest.approx(history["loss"], rel=1e-6)
    assert history["rows"] == [LENGTHS.sum()]


def test_a_mask_may_have_axes_of_length_1():
    """Losses take one mask for all samples."""
    steps = np.array([[True, False, True, True, False, False]])

    class Masked:
        def __len__(self):
            return N

        def __getitem__(self, rows):
            return Batch(X[rows], X[rows], mask=steps)

    model = _each(F)
    history = fit(
        model, Masked(), MSELoss(), SGD(model, lr=0.0), 1, 5, progress=False,
        metrics={"mse": lambda y, t: np.mean((y - t) ** 2), "rows": lambda y, t: len(y)},
    )  # fmt: skip
    error = model(X.swapaxes(0, 1)).swapaxes(0, 1) - X
    assert history["loss"][0] == pytest.approx(np.mean(error[:, steps[0]] ** 2), rel=1e-5)
    assert history["mse"] == pytest.approx(history["loss"], rel=1e-6)
    assert history["rows"] == [3 * N]


def test_bad_metrics():
    model = _one(3)

    def train(metrics):
        return lambda: fit(
            model, (X, CLASSES), CrossEntropyLoss(), Adam(model), 1, 8, metrics=metrics
        )

    for metrics, kind, sentence in (
        ([_accuracy], TypeError, "metrics should be a dict of names and functions, got: list"),
        ({"a": 3}, TypeError, "metrics['a'] should be a function, got: int"),
        ({"a": "accuracy"}, TypeError, "metrics['a'] should be a function, got: str"),
        (
            {"a": MSELoss}, TypeError,
            "metrics['a']: Expected an object, got the class MSELoss itself; call it: MSELoss(...)",
        ),
        (
            {"a": CrossEntropyLoss()}, TypeError,
            "metrics['a'] should return a number, got: tuple",
        ),
        ({3: _accuracy}, TypeError, "metrics: Expected names, got 3"),
        ({"loss": _accuracy}, ValueError, "metrics: 'loss' is a name that the history uses "
         "itself"),
        ({"validation_a": _accuracy}, ValueError, "metrics: 'validation_a' is a name that the "
         "history uses itself"),
        ({"a": lambda y, t: "high"}, TypeError, "metrics['a'] should return a number, got: str"),
        (
            {"a": lambda y, t: y}, TypeError, "metrics['a'] should return a number, got: ndarray",
        ),
    ):  # fmt: skip
        raises(train(metrics), kind, sentence)
        assert_same_weights(model, _one(3))
    with pytest.raises(TypeError, match="positional argument"):
        train({"a": lambda y: 1.0})()
    assert_same_weights(model, _one(3))


# ---- the best epoch -------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [N, 5])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_monitoring_the_loss_gives_the_weights_that_it_was_measured_with(batch_size, dropout):
    """An epoch may be one batch or many; from epoch 4 on the learning rate is too large."""
    model, early = regressor(dropout=dropout), EarlyStopping(50, monitor="loss")

    def too_fast(state):
        state.optimizer.lr = 0.1 if state.epoch < 3 else 3.0

    history = fit(
        model, make_data(), MSELoss(), SGD(model, lr=0.1), 5, batch_size,
        callbacks=[early, too_fast],
    )  # fmt: skip
    best = int(np.argmin(history["loss"]))
    assert best < 4 and early.best_epoch == best + 1 and early.best == history["loss"][best]
    x, y = make_data()
    measured = MSELoss()(model.eval()(x.swapaxes(0, 1)), y)[0]
    assert measured == pytest.approx(early.best, rel=1e-5)
    assert abs(measured - history["loss"][best + 1]) > 1e-3


def test_monitoring_a_metric_of_the_training_data():
    model, early = _one(3), EarlyStopping(50, monitor="accuracy", mode="max")
    history = fit(
        model, (X, CLASSES), CrossEntropyLoss(), Adam(model, lr=0.3), 12, 5, callbacks=[early],
        metrics={"accuracy": _accuracy},
    )  # fmt: skip
    assert early.best == max(history["accuracy"]) > min(history["accuracy"])
    assert early.best_epoch == int(np.argmax(history["accuracy"])) + 1
    assert _accuracy(model(X.swapaxes(0, 1)), CLASSES) == early.best


def test_monitoring_changes_no_weight():
    """The loss is measured once more after the epoch, which shows in the history alone."""
    trained = []
    for monitor in ("loss", "validation_loss"):
        kept = []
        model = regressor(dropout=0.5)
        callbacks = [EarlyStopping(9, monitor=monitor)]
        callbacks += [lambda state, kept=kept: kept.append(state.model.state_dict())]
        fit(model, make_data(), MSELoss(), Adam(model), 3, 8, validation=make_data(1),
            callbacks=callbacks)  # fmt: skip
        trained.append(kept)
    for one, other in zip(*trained, strict=True):
        for name in one:
            assert_same_bits(one[name], other[name])


@pytest.mark.parametrize("mode", ["min", "max"])
def test_modes_of_early_stopping(mode):
    sign = 1 if mode == "min" else -1
    values, weights = iter([sign * v for v in (3.0, 2.0, 1.6, 1.6, 1.7, 1.0)]), []
    early = EarlyStopping(2, 0.5, monitor="validation_score", mode=mode)

    def watch(state):
        weights.append(state.model.state_dict())

    scores = []

    def validation_score(prediction, target):
        scores.append(None)
        number = len(scores) - 3  # two looks beforehand; then training, validation, ...
        return next(values) if number >= 0 and number % 2 else 0.0

    model = regressor()
    history = fit(
        model, make_data(), MSELoss(), Adam(model), 9, 8, validation=make_data(1),
        callbacks=[watch, early], metrics={"score": validation_score},
    )  # fmt: skip
    assert history["validation_score"] == [sign * v for v in (3.0, 2.0, 1.6, 1.6)]
    assert early.best_epoch == 2 and early.best == sign * 2.0
    assert history.stopped == "EarlyStopping after epoch 4"
    for name, value in model.state_dict().items():
        assert_same_bits(value, weights[1][name])


def test_bad_modes():
    raises(lambda: EarlyStopping(1, mode="auto"), ValueError, "mode must be min or max, got 'auto'")
    raises(
        lambda: EarlyStopping(1, monitor=3), TypeError, "monitor should be of type str, got: int"
    )
    model = _one(3)
    raises(
        lambda: fit(model, (X, CLASSES), CrossEntropyLoss(), Adam(model), 1, 8,
                    metrics={"a": _accuracy}, callbacks=[EarlyStopping(1, 0, "validation_a")]),
        ValueError,
        "EarlyStopping: Expected 'validation_a' in the history; pass validation= to fit",
    )  # fmt: skip


def test_the_best_weights_come_back_though_another_callback_fails_at_the_end():
    class Fails:
        def __call__(self, state):
            pass

        def finish(self, state):
            raise RuntimeError("the disk is full")

    model, kept = regressor(), []
    early = EarlyStopping(9, monitor="turn")
    turns = {"turn": lambda prediction, target: abs(len(kept) - 1)}
    callbacks = [Fails(), lambda state: kept.append(state.model.state_dict()), early]
    raises(
        lambda: fit(model, make_data(), MSELoss(), Adam(model), 4, 8, callbacks=callbacks,
                    metrics=turns), RuntimeError, "the disk is full",
    )  # fmt: skip
    assert early.best_epoch == 2
    for name, value in model.state_dict().items():
        assert_same_bits(value, kept[1][name])


@pytest.mark.parametrize("how", ["nan", "validation nan", "interrupt", "stop", "error"])
def test_the_best_weights_come_back_however_it_ends(how):
    """In epoch 4, the third after the best one, each kind of failure is tried."""
    values, kept = iter([2.0, 1.0, 3.0, 4.0]), []

    class Scores:
        def start(self, state):
            state.history["score"] = []

        def __call__(self, state):
            state.history["score"].append(next(values))
            kept.append(state.model.state_dict())

    def ending(state):
        if state.epoch == 3 and how == "interrupt":
            raise KeyboardInterrupt
        if state.epoch == 3 and how == "stop":
            raise StopTraining("enough")
        if state.epoch == 3 and how == "error":
            raise RuntimeError("no")

    def loss(prediction, target):
        value, gradient = MSELoss()(prediction, target)
        late = len(kept) == 3 and (how == "nan" or (how == "validation nan" and not model.training))
        return (math.nan if late else value), gradient

    model, early = regressor(), EarlyStopping(9, monitor="score")
    callbacks = [Scores(), early, ending]
    train = lambda: fit(  # noqa: E731
        model, make_data(), loss, Adam(model, lr=0.1), 4, 8, validation=make_data(1),
        callbacks=callbacks,
    )  # fmt: skip
    if how == "interrupt":
        assert train().interrupted
    elif how == "stop":
        assert train().stopped == "enough"
    elif how == "error":
        with pytest.raises(RuntimeError):
            train()
    else:
        with pytest.raises(NonFiniteError) as caught:
            train()
        assert str(caught.value).endswith("The model has its best weights, those of epoch 2")
        assert caught.value.history["score"] == [2.0, 1.0, 3.0]
    for name, value in model.state_dict().items():
        assert_same_bits(value, kept[1][name])
        assert (value != kept[2][name]).any()
