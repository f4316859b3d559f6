"""Training by several ranks, which are threads here: the same values, bits, errors and endings.

With MPI itself: `test_mpirun.py`.
"""

import copy
import functools
import pickle
import signal
import threading

import numpy as np
import pytest
import ranks
from errors import raises
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_same_bits
from trainings import F, N, T, assert_same_history, assert_same_weights, make_data
from values import normal

from fastlstm import LSTM, Dropout, Last, Linear, Sequential
from fastlstm.training import (
    MPI,
    SGD,
    Adam,
    Arrays,
    Batch,
    BCEWithLogitsLoss,
    Checkpoint,
    CrossEntropyLoss,
    EarlyStopping,
    HuberLoss,
    L1Loss,
    MSELoss,
    NonFiniteError,
    NSELoss,
    OneCycleLR,
    ReduceLROnPlateau,
    Sequences,
    StopTraining,
    fit,
    mpi,
)

X, Y = make_data()
LR, BATCH, EPOCHS = 0.1, 8, 2
RNG = np.random.default_rng(5)
LENGTHS = RNG.integers(1, T + 1, N).tolist()
STEPS = [normal(n, F, seed=k, dtype="float64") for k, n in enumerate(LENGTHS)]
CLASSES = RNG.integers(0, 3, N)
WEIGHTS = np.where(np.arange(N) % 3, RNG.random(N) + 0.1, 0)
MASK = RNG.random((N, 1)) < 0.6


def own_mean(prediction, target):
    """A loss of one's own that has no denominator."""
    error = prediction - target
    return float(np.mean(error**2)), 2 * error / error.size


def steps_model(outputs=1):
    return Sequential(
        LSTM(F, 4, engine="numpy", seed=1, dtype="float64"),
        Linear(4, outputs, seed=2, dtype="float64"),
    )


def last_model(outputs=1, dropout=0.0, dtype="float64", seed=1):
    return Sequential(
        LSTM(F, 4, 2, dropout=dropout, engine="numpy", seed=seed, dtype=dtype),
        Dropout(dropout, seed=3),
        Last(),
        Linear(4, outputs, seed=2, dtype=dtype),
    )


def double(*arrays):
    return tuple(np.asarray(array, np.float64) for array in arrays)


def own_masked_mean(prediction, target, mask):
    """A loss of one's own over the steps that count, that has no denominator."""
    mask = np.broadcast_to(
        mask.reshape(*mask.shape, *(1,) * (target.ndim - mask.ndim)), target.shape
    )
    error, count = np.where(mask, prediction - target, 0), int(mask.sum())
    return float(np.sum(error**2)) / count, 2 * error / count  # an error if none counts


class OneMask:
    """A data set whose mask has one row for all samples."""

    def __len__(self):
        return N

    def __getitem__(self, rows):
        x = np.asarray(X[rows], np.float64)
        return Batch(x, x[..., :1] ** 2, mask=np.arange(T)[None] < T - 1)


# name -> (model, data, loss)
CASES = {
    "mean": (last_model, double(X, Y), MSELoss()),
    "sum": (last_model, double(X, Y), HuberLoss("sum")),
    "weights": (last_model, double(X, Y, WEIGHTS), MSELoss()),
    "mask": (last_model, Arrays(*double(X, Y), mask=MASK), MSELoss()),
    "std": (last_model, Arrays(*double(X, Y), std=np.abs(Y[:, 0]) + 1.0), NSELoss()),
    "partial": (
        last_model, double(X, Y),
        functools.partial(functools.partial(NSELoss(), std=np.array([2.0])), mask=None),
    ),
    "classes": (
        functools.partial(last_model, 3), (double(X)[0], CLASSES),
        CrossEntropyLoss(weight=[0.0, 1.0, 5.0], label_smoothing=0.1),
    ),
    "ignored": (
        functools.partial(last_model, 3), (double(X)[0], CLASSES), CrossEntropyLoss(ignore_index=1)
    ),
    "ragged steps": (
        steps_model, Sequences(STEPS, [s[:, :1] for s in STEPS], dtype="float64"), MSELoss()
    ),
    "ragged last": (last_model, Sequences(STEPS, double(Y)[0], dtype="float64"), MSELoss()),
    "own": (last_model, double(X, Y), own_mean),
    "own mask": (last_model, Arrays(*double(X, Y), mask=MASK), own_masked_mean),
    "one mask for all": (steps_model, OneMask(), own_masked_mean),
    "yes or no": (last_model, double(X, (Y > 0)), BCEWithLogitsLoss(2.0)),
}  # fmt: skip

# Two orders of a sum of n terms are at most n eps apart, relative to the sum of the magnitudes.
# Here a gradient sums the steps of a batch, n = 8 * 6, whose magnitudes are below 30 together. A
# difference in the parameters goes on into later gradients, less than twice as large by the end.
STEPS_DONE = EPOCHS * -(-N // BATCH)
CLOSE = 2 * STEPS_DONE * LR * 30 * 48 * np.finfo(np.float64).eps  # 1e-10 or so


def train(case, comm=None, parts=None, make=None, epochs=EPOCHS, **options):
    """(model, history) of a training of a case, by ranks if there is a communicator."""
    model, data, loss = CASES[case]
    model = (make or model)()
    optimizer = SGD(model, lr=LR / 10 if case == "sum" else LR)
    if comm is not None:
        options["parallel"] = MPI(comm, parts=parts)
    options.setdefault("metrics", {"bias": lambda y, t: float(y.mean() - t.mean())})
    options.setdefault("validation", data)
    return model, fit(model, data, loss, optimizer, epochs, BATCH, progress=False, **options)


def by_ranks(size, program, comm=ranks.Comm):
    """What the ranks return, if none has raised anything."""
    outcomes = ranks.run(size, program, comm)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def assert_as_one(case, size, comm=ranks.Comm, **options):
    """Assert that ranks give what one process gives, up to rounding, and all the same bits."""
    model, history = train(case, **options)
    outcomes = by_ranks(size, lambda own: train(case, own, **options), comm)
    for other, told in outcomes:
        assert_same_weights(other, outcomes[0][0])
        assert_same_history(told, outcomes[0][1])
        for name, value in model.state_dict().items():
            np.testing.assert_allclose(other.state_dict()[name], value, rtol=0, atol=CLOSE)
        for name in history.keys() - {"seconds"}:
            np.testing.assert_allclose(told[name], history[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_ranks_train_as_one_process(case):
    assert_as_one(case, 3)


@pytest.mark.parametrize("size", [4, 9])  # more than samples in the last batch, and in any
def test_ranks_without_samples(size):
    assert_as_one("mean", size)
    assert_as_one("ragged steps", size)


@pytest.mark.parametrize("options", [
    {"clip_norm": 0.1}, {"clip_value": 0.01}, {"shuffle": False}, {"validation": None},
])  # fmt: skip
def test_options(options):
    assert_as_one("mean", 2, **options)


def test_one_rank_gives_the_bits_of_fit():
    make = functools.partial(last_model, dropout=0.3)
    model, history = train("own", make=make)
    [(other, told)] = by_ranks(1, lambda own: train("own", own, make=make))
    assert_same_weights(other, model)
    assert_same_history(told, history)


class Multiplied(ranks.Comm):
    """A communicator whose sums are as many times too large as there are ranks."""

    @staticmethod
    def add(arrays):
        return np.add.reduce(arrays) * len(arrays)


class Averaged(ranks.Comm):
    """A communicator that takes means: right for other programs, which do not divide."""

    @staticmethod
    def add(arrays):
        return np.mean(arrays, axis=0)


class Partly(ranks.Comm):
    """A communicator that leaves each rank its own gradients of one parameter, the last."""

    def Allreduce(self, sent, received):
        own = received[-1:].copy()
        super().Allreduce(sent, received)
        received[-1:] = own


class Deaf(ranks.Comm):
    """A communicator that gives the first rank's gradients to all."""

    @staticmethod
    def add(arrays):
        return arrays[0]


class Skewed(ranks.Comm):
    """A communicator that adds up in another order on each rank, and so rounds differently."""

    def Allreduce(self, sent, received):
        arrays = self._everybody("Allreduce", received.copy())
        total = np.zeros_like(received)
        for k in range(self.size):
            total += arrays[(k + self.rank) % self.size]
        received[...] = total


@pytest.mark.parametrize("broken", [Multiplied, Averaged, Partly, Deaf, Skewed])
def test_a_broken_communicator_is_seen(broken):
    with pytest.raises((AssertionError, RuntimeError)):
        assert_as_one("mean", 3, broken)


def test_ranks_that_come_apart_are_told():
    [fault] = set(map(str, ranks.run(3, lambda own: train("mean", own), Partly)))
    assert fault.startswith("after epoch 1 rank 1 has other parameters, or another learning rate")


# ---- the same bits


def assert_same_for_any_size(case, sizes, parts=4, **options):
    model, history = by_ranks(1, lambda own: train(case, own, parts, **options))[0]
    for size in sizes:
        for other, told in by_ranks(size, lambda own: train(case, own, parts, **options)):
            assert_same_weights(other, model)
            assert_same_history(told, history)
    return model, history


@pytest.mark.parametrize("case", ["mean", "own", "classes", "ragged steps"])
def test_parts_give_the_same_bits(case):
    assert_same_for_any_size(case, [2, 3, 4])


@pytest.mark.parametrize("engine", ["numpy", "native"])
def test_parts_with_dropout_and_momenta(engine):
    """float32, with an optimiser that has a state, and random masks for each part."""
    if engine == "native":
        pytest.importorskip("fastlstm.engines._native")

    def program(own):
        model = Sequential(
            LSTM(F, 4, 2, dropout=0.3, engine=engine, seed=1), Last(), Dropout(0.5, seed=2),
            Linear(4, 1, seed=2),
        )  # fmt: skip
        optimizer = Adam(model, lr=0.01)
        schedule = OneCycleLR(optimizer, 0.1, 4 * 3)
        parallel = MPI(own, parts=5)
        options = {"schedule": schedule, "clip_norm": 0.5, "validation": (X, Y)}
        return model, fit(
            model, (X, Y), MSELoss(), optimizer, 4, BATCH, parallel=parallel, **options
        )

    model, history = by_ranks(1, program)[0]
    for size in (2, 5):
        for other, told in by_ranks(size, program):
            assert_same_weights(other, model)
            assert_same_history(told, history)


def test_parts_differ_from_one_process_by_rounding():
    model, _ = train("mean")
    other, _ = by_ranks(1, lambda own: train("mean", own, 4))[0]
    differences = [
        np.abs(value - other.state_dict()[name]).max() for name, value in model.state_dict().items()
    ]
    assert 0 < max(differences) < CLOSE


def test_each_part_has_masks_of_its_own():
    """With one mask for all, equal samples in two parts would be dropped alike."""
    seen = []

    class Seen(Dropout):
        def vjp(self, input):
            y, pullback = super().vjp(input)
            seen.append(y)
            return y, pullback

    def program(own):
        model = Sequential(LSTM(F, 16, engine="numpy", seed=1), Last(), Seen(0.5, seed=3))
        data = np.ones((4, T, F), np.float32), np.ones((4, 16), np.float32)
        fit(model, data, MSELoss(), SGD(model, lr=0.0), 1, 4, parallel=MPI(own, parts=2))

    by_ranks(1, program)
    first, second = seen
    assert not np.array_equal(first == 0, second == 0)


def in_turn(start, stop, sums):
    """A broken `_joined`: the same numbers, added one after the other."""
    ordered = [sums[key] for key in sorted(sums)]
    return functools.reduce(np.add, ordered)


def reversed_order(start, stop, sums):
    """A broken `_joined`: from the end."""
    return in_turn(start, stop, {(-a, b): value for (a, b), value in sums.items()})


@pytest.mark.parametrize("broken", [in_turn, reversed_order])
def test_another_order_is_seen(broken, monkeypatch):
    monkeypatch.setattr(mpi, "_joined", broken)
    with pytest.raises(AssertionError):
        assert_same_for_any_size("mean", [3, 4], parts=8)


def tree_sum(arrays):
    """The sum of all parts in the order that is promised, on one rank."""
    if len(arrays) == 1:
        return arrays[0]
    half = 1
    while half * 2 < len(arrays):
        half *= 2
    return tree_sum(arrays[:half]) + tree_sum(arrays[half:])


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(1, 7))
def test_add_up(data, parts, length):
    size = data.draw(st.integers(1, parts))
    values = normal(parts, length, seed=parts * 10 + length)
    counted = []

    def program(comm):
        flat = np.full(length, np.nan, np.float32)

        def compute(part):
            counted.append(part)
            flat[...] = values[part]

        mpi.Ranks(comm, parts).add_up(flat, compute)
        return flat

    for got in by_ranks(size, program):
        assert_same_bits(got, tree_sum(list(values)))
    assert sorted(counted) == list(range(parts))


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(0, 20), st.booleans())
def test_every_sample_is_in_one_part(data, parts, count, is_ragged):
    size = data.draw(st.integers(1, parts))

    def program(comm):
        return mpi.Ranks(comm, parts).cut(np.arange(count) * 10, is_ragged)

    pieces = [piece for own in by_ranks(size, program) for piece in own]
    assert sorted(np.concatenate(pieces).tolist()) == list(range(count))
    sizes = [len(piece) for piece in pieces]
    assert len(pieces) == parts and max(sizes) - min(sizes) <= 1


# ---- what ranks begin with


def test_rank_0_gives_its_state_to_all():
    """Parameters, moments, random states and the schedule are those of rank 0."""

    def program(own):
        model = last_model(dropout=0.5, seed=own.rank)
        optimizer = Adam(model, lr=0.01)
        if own.rank == 0:  # it has been trained before
            fit(model, CASES["mean"][1], MSELoss(), optimizer, 1, BATCH, progress=False)
        fit(model, CASES["mean"][1], MSELoss(), optimizer, 2, BATCH, parallel=MPI(own))
        return model, optimizer.state_dict()

    (model, state), *others = by_ranks(3, program)
    assert state["steps"] == 9
    for other, theirs in others:
        assert_same_weights(other, model)
        for name, value in state.items():
            assert_same_bits(theirs[name], value)


def on_rank(number, changed, usual):
    return lambda own: changed if own.rank == number else usual


MISMATCHES = {
    "batch_size is 8 on rank 0 and 4 on rank 1": {"batch_size": 4},
    "seed is 0 on rank 0 and 1 on rank 1": {"seed": 1},
    "epochs is 2 on rank 0 and 3 on rank 1": {"epochs": 3},
    "shuffle is True on rank 0 and False on rank 1": {"shuffle": False},
    "clip_norm is None on rank 0 and 1.0 on rank 1": {"clip_norm": 1.0},
    "loss is MSELoss(reduction='mean') on rank 0 and L1Loss(reduction='mean') on rank 1": {
        "loss": L1Loss()
    },
    "optimizer is SGD on rank 0 and Adam on rank 1": {"optimizer": Adam},
    "lr is 0.1 on rank 0 and 0.2 on rank 1": {"lr": 0.2},
    "data is 22 samples on rank 0 and 21 samples on rank 1": {"data": (X[1:], Y[1:])},
    "data has other values on rank 1 than on rank 0": {"data": (X + 1, Y)},
    "validation is None on rank 0 and 22 samples on rank 1": {"validation": (X, Y)},
    "callbacks is none to keep on rank 0 and EarlyStopping on rank 1": {
        "callbacks": [EarlyStopping(3, monitor="loss")]
    },
    "frozen is  on rank 0 and 3.bias on rank 1": {"freeze": "3.bias"},
    "parts is None on rank 0 and 4 on rank 1": {"parts": 4},
    "resume is None on rank 0 and a path on rank 1": {"resume": "there is no such file"},
    "engine is native, numpy on rank 0 and native on rank 1": {"engine": "native"},
}


def mismatched(own, number=1, **changed):
    options = {"loss": MSELoss(), "optimizer": SGD, "lr": 0.1, "data": (X, Y), "epochs": 2}
    options |= {"batch_size": 8, "freeze": None, "parts": None, "engine": "numpy"}
    options |= changed if own.rank == number else {}
    taken = {n: options.pop(n) for n in ("loss", "optimizer", "lr", "data", "epochs", "batch_size")}
    model = Sequential(
        LSTM(F, 4, engine=options.pop("engine"), seed=1), Last(), Dropout(), Linear(4, 1, seed=2)
    )
    if name := options.pop("freeze"):
        model.freeze(name)
    before = model.state_dict()
    optimizer = taken["optimizer"](model, lr=taken["lr"])
    try:
        fit(
            model, taken["data"], taken["loss"], optimizer, taken["epochs"], taken["batch_size"],
            parallel=MPI(own, parts=options.pop("parts")), **options,
        )  # fmt: skip
    except Exception as fault:
        for name, value in before.items():
            assert_same_bits(model.state_dict()[name], value)
        return fault
    raise AssertionError("it was not refused")


@pytest.mark.parametrize("sentence", MISMATCHES)
def test_mismatches(sentence):
    changed = MISMATCHES[sentence]
    if "engine" in changed:
        pytest.importorskip("fastlstm.engines._native")
    faults = ranks.run(2, lambda own: mismatched(own, **changed))
    expected = ValueError, f"every rank must train the same, but {sentence}"
    assert [(type(fault), str(fault)) for fault in faults] == [expected] * 2


def test_models_of_other_sizes():
    def program(own):
        model = Sequential(LSTM(F, 4 + own.rank, seed=1), Last(), Linear(4 + own.rank, 1))
        fit(model, (X, Y), MSELoss(), SGD(model, lr=0.1), 1, parallel=MPI(own))

    faults = ranks.run(2, program)
    assert all(isinstance(fault, ValueError) for fault in faults)
    assert "but model is Sequential" in str(faults[0])


def test_a_wrong_argument_on_one_rank():
    faults = ranks.run(3, lambda own: mismatched(own, 2, batch_size=0))
    raises_here = "batch_size must be greater than zero, got 0"
    assert str(faults[2]) == raises_here and isinstance(faults[2], ValueError)
    for fault in faults[:2]:
        assert isinstance(fault, RuntimeError)
        assert str(fault) == f"rank 2 of 3 failed: ValueError: {raises_here}"


def test_arguments():
    [fault] = ranks.run(1, lambda own: MPI(own, parts=0))
    assert str(fault) == "parts must be greater than zero, got 0"
    for fault in ranks.run(3, lambda own: MPI(own, parts=2)):
        assert str(fault) == "Expected parts of at least 3, one a rank, got 2"
    raises(lambda: MPI(3), TypeError, "comm should be a communicator of mpi4py, got: int")
    sentence = "parallel should be a training.MPI, got: int"
    raises(lambda: train("mean", parallel=2), TypeError, sentence)
    [parallel] = ranks.run(1, lambda own: MPI(own, parts=3))
    assert repr(parallel) == "MPI(parts=3), rank 0 of 1"


def test_without_mpi4py(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mpi4py", None)
    raises(MPI, ImportError, "training.MPI needs the mpi4py package: pip install mpi4py")


# ---- errors on one rank


class Unreadable:
    """Data that one rank cannot read from some batch on."""

    def __init__(self, own, number=1, after=4):
        self.fails, self.left = own.rank == number, after

    def __len__(self):
        return N

    def __getitem__(self, rows):
        self.left -= 1
        if self.fails and self.left < 0:
            raise OSError("the disk has gone")
        return Arrays(*double(X, Y))[rows]


class Failing(Linear):
    """A layer whose way forward or back fails on one rank, at the third time."""

    times = 0
    fails: str = ""

    def vjp(self, input, input_gradient=True):
        y, pullback = super().vjp(input)
        self.times += 1
        if self.fails == "forward" and self.times > 2:
            raise MemoryError("no room")

        def back(dy):
            if self.fails == "back" and self.times > 2:
                raise MemoryError("no room")
            return pullback(dy)

        return y, back


def fails_in(where, own, number=1, parts=None):
    """Train with something that fails on one rank alone; return the error there."""
    here = own.rank == number
    last = Failing(4, 1, seed=2, dtype="float64")
    if here and where in ("forward", "back"):
        last.fails = where
    model = Sequential(LSTM(F, 4, engine="numpy", seed=1, dtype="float64"), Last(), last)

    def callback(state):
        if where == "callback" and here and state.epoch == 2:
            raise KeyError("nothing there")

    def metric(prediction, target):
        if where == "metric" and len(target) == N:
            raise ZeroDivisionError("no value")
        return 0.0

    calls = {"left": 9 if where == "loss" and here else 1000}  # no part of what must be the same

    def loss(prediction, target):
        calls["left"] -= 1
        if calls["left"] < 0:
            raise TypeError("no loss")
        return MSELoss()(prediction, target)

    data = Unreadable(own, number, 8) if where == "data" else double(X, Y)
    try:
        fit(
            model, data, loss, SGD(model, lr=0.1), 4, BATCH, callbacks=[callback],
            metrics={"m": metric}, parallel=MPI(own, parts=parts), progress=False,
            validation=double(X, Y),
        )  # fmt: skip
    except Exception as fault:
        return fault
    raise AssertionError("it has not failed")


FAULTS = {
    "data": (OSError, "the disk has gone"),
    "forward": (MemoryError, "no room"),
    "back": (MemoryError, "no room"),
    "callback": (KeyError, "nothing there"),
    "metric": (ZeroDivisionError, "no value"),
    "loss": (TypeError, "no loss"),
}


@pytest.mark.parametrize("where", FAULTS)
@pytest.mark.parametrize("parts", [None, 4])
def test_an_error_on_one_rank_is_one_on_all(where, parts):
    number = 0 if where == "metric" else 1
    faults = ranks.run(3, lambda own: fails_in(where, own, number, parts))
    kind, text = FAULTS[where]
    own = faults.pop(number)
    assert isinstance(own, kind) and text in str(own)
    for fault in faults:
        assert type(fault) is RuntimeError
        assert str(fault).startswith(f"rank {number} of 3 failed: {kind.__name__}: ")
        assert text in str(fault)


def test_what_others_cannot_know_of_ends_all(capsys):
    class Stumbles:
        def __call__(self, state):
            pass

        def finish(self, state):
            raise OSError("no room to finish")

    def program(own):
        callbacks = [Stumbles()] if own.rank == 1 else []
        return train("mean", own, callbacks=callbacks)

    outcomes = ranks.run(2, program)
    assert isinstance(outcomes[1], ranks.Aborted)
    told = capsys.readouterr().err
    assert "no room to finish" in told
    assert "rank 1 of 2 failed where the others cannot know of it: all are ended" in told


def not_finite(kind, comm=None):
    x, y = (array.copy() for array in double(X, Y))
    options, lr = {}, 0.1
    if kind == "input":
        x[13] = np.nan
    if kind == "update":
        y, lr = 1e3 * y, 1e308

    def loss(prediction, target):
        value, gradient = MSELoss()(prediction, target)
        return value, gradient * np.nan if kind == "gradient" else gradient

    model = last_model()
    if kind == "validation":
        options["validation"] = x, np.where(np.arange(N)[:, None] == 17, np.inf, y)
    if comm is not None:
        options["parallel"] = MPI(comm)
    before = model.state_dict()
    with pytest.raises(NonFiniteError) as caught:
        fit(model, (x, y), loss, SGD(model, lr=lr), 2, BATCH, progress=False, **options)
    if kind in ("gradient", "update"):
        for name, value in before.items():
            assert_same_bits(model.state_dict()[name], value)
    fault = caught.value
    return str(fault), fault.epoch, fault.batch, fault.origin, len(fault.history["loss"])


@pytest.mark.parametrize("kind", ["input", "gradient", "update", "validation"])
def test_what_is_not_finite_is_told_as_by_one_process(kind):
    expected = not_finite(kind)
    assert by_ranks(3, lambda own: not_finite(kind, own)) == [expected] * 3


def test_no_target_counts():
    def program(own):
        model, data = last_model(), Arrays(*double(X, Y), mask=np.zeros((N, 1), bool))
        sentence = "data: no target counts: each is masked, or ignored by the loss, or weighs 0"
        before = model.state_dict()
        optimizer = SGD(model, lr=0.1)
        raises(
            lambda: fit(model, data, MSELoss(), optimizer, 1, BATCH, parallel=MPI(own)),
            ValueError, sentence,
        )  # fmt: skip
        assert_same_bits(model.state_dict()["3.weight"], before["3.weight"])

    by_ranks(2, program)


# ---- endings


def stopping_on(number, how, own):
    def stop(state):
        if own.rank == number and state.epoch == 2:
            if how == "interrupt":
                raise KeyboardInterrupt
            if how == "reason":
                raise StopTraining("enough")
            return True

    return train("mean", own, epochs=5, callbacks=[stop])


@pytest.mark.parametrize("how", ["interrupt", "reason", "return"])
@pytest.mark.parametrize("number", [0, 2])
def test_one_rank_ends_the_training_of_all(how, number):
    outcomes = by_ranks(3, functools.partial(stopping_on, number, how))
    stopped = {"interrupt": None, "reason": "enough", "return": "stop after epoch 2"}[how]
    for model, history in outcomes:
        assert len(history["loss"]) == 2
        assert history.stopped == stopped and history.interrupted == (how == "interrupt")
        assert_same_weights(model, outcomes[0][0])


def test_a_signal_ends_the_training_of_all(monkeypatch):
    """A signal that one rank notes in the middle of an epoch; handlers need the main thread."""
    from fastlstm.training import shared

    whole = shared.SharedTraining._learn_together

    def learn(self, rows, pieces):
        if self.ranks.rank == 1 and self.state.epoch == 1 and self.place.number == 2:
            self.interrupts.asked = signal.SIGTERM
        return whole(self, rows, pieces)

    monkeypatch.setattr(shared.SharedTraining, "_learn_together", learn)
    outcomes = by_ranks(3, lambda own: train("mean", own, make=last_model))
    for model, history in outcomes:
        assert history.interrupted and len(history["loss"]) == 1
        assert_same_weights(model, outcomes[0][0])


def in_main_thread(callback, parts=2):
    """Train by one rank in this thread, which is the one that signals come to."""
    shared = {"slots": [None], "barrier": threading.Barrier(1)}
    return train("mean", ranks.Comm(0, 1, shared), parts, epochs=3, callbacks=[callback])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_handlers_of_signals(number):
    """A signal ends the training, and then the handlers are those from before."""
    before = [signal.getsignal(other) for other in (signal.SIGINT, signal.SIGTERM)]
    _, history = in_main_thread(lambda state: signal.raise_signal(number))
    assert history.interrupted and len(history["loss"]) == 1
    assert [signal.getsignal(other) for other in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_comes_too_late_is_not_lost():
    class Late:
        def __call__(self, state):
            pass

        def finish(self, state):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        in_main_thread(Late())


def test_early_stopping_and_plateaus():
    def program(own):
        model = last_model()
        optimizer = SGD(model, lr=0.5)
        early, schedule = EarlyStopping(2), ReduceLROnPlateau(optimizer, patience=0)
        x, y = double(X, Y)
        history = fit(
            model, (x, y), MSELoss(), optimizer, 30, BATCH, validation=(x, -y), callbacks=[early],
            schedule=schedule, parallel=None if own is None else MPI(own), progress=False,
        )  # fmt: skip
        return model, history, early.best_epoch

    model, history, best = program(None)
    assert history.stopped and len(history["loss"]) < 30
    for other, told, theirs in by_ranks(2, program):
        assert theirs == best and told.stopped == history.stopped
        assert told["lr"] == history["lr"]
        np.testing.assert_allclose(other.state_dict()["3.bias"], model.state_dict()["3.bias"])


@pytest.mark.parametrize("change_model", [
    lambda model: setattr(model["3"], "bias", [5.0]),
    lambda model: model["0"].freeze(),  # whose gradients would have no place in the sum
    lambda model: model["3"].freeze("bias"),
])  # fmt: skip
def test_a_callback_that_changes_one_rank(change_model):
    def program(own):
        def change(state):
            if own.rank == 1:
                change_model(state.model)

        return train("mean", own, callbacks=[change])

    for fault in ranks.run(2, program):
        assert isinstance(fault, RuntimeError)
        assert str(fault).startswith("after epoch 1 rank 1 has other parameters")


def test_metrics_see_all_predictions_in_order():
    seen = {}

    def order(prediction, target):
        seen[len(seen)] = target[:, 0]
        return 0.0

    by_ranks(3, lambda own: train("mean", own, epochs=1, shuffle=False, metrics={"order": order}))
    whole = [targets for targets in seen.values() if len(targets) == N]
    assert len(whole) == 2  # of data and validation, on rank 0 alone
    for targets in whole:
        assert_same_bits(targets, double(Y)[0][:, 0])


def test_only_rank_0_reports(capsys):
    by_ranks(2, lambda own: train("mean", own, verbose=True))
    assert capsys.readouterr().out.count("epoch 1/2") == 1


# ---- checkpoints


def resumed(own, path, epochs, parts=4, resume=False, dropout=0.3, **options):
    """A training with everything that has a state; only rank 0 is given the right path."""
    model = last_model(dropout=dropout, seed=own.rank)
    optimizer = Adam(model, lr=0.01)
    schedule = OneCycleLR(optimizer, 0.05, 6 * 3)
    here = path if own.rank == 0 else path.with_name("nowhere") / "x.npz"
    history = fit(
        model, double(X, Y), MSELoss(), optimizer, epochs, BATCH, schedule=schedule,
        callbacks=[EarlyStopping(9), Checkpoint(here)], validation=double(X, Y),
        parallel=MPI(own, parts=parts), resume=here if resume else None, progress=False, **options,
    )  # fmt: skip
    return model, history


@pytest.mark.parametrize("before, after", [(1, 3), (2, 4), (4, 1), (3, 2)])
def test_resume_with_any_number_of_ranks(before, after, tmp_path):
    """The same bits as without a break, and only rank 0 reads or writes."""
    path = tmp_path / "training.npz"
    model, history = by_ranks(2, lambda own: resumed(own, tmp_path / "other.npz", 6))[0]
    by_ranks(before, lambda own: resumed(own, path, 2))
    for other, told in by_ranks(after, lambda own: resumed(own, path, 6, resume=True)):
        assert_same_weights(other, model)
        assert_same_history(told, history)
        assert told.resumed == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.npz", "training.npz"]


def test_resume_without_parts(tmp_path):
    """What other numbers of ranks go on with differs by rounding; nothing else is refused."""
    path = tmp_path / "training.npz"
    by_ranks(2, lambda own: resumed(own, path, 2, None, dropout=0.0))
    saved = path.read_bytes()
    outcomes = by_ranks(3, lambda own: resumed(own, path, 6, None, True, dropout=0.0))
    assert len(outcomes[0][1]["loss"]) == 6
    path.write_bytes(saved)
    [(model, _)] = by_ranks(1, lambda own: resumed(own, path, 6, None, True, dropout=0.0))
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(outcomes[2][0].state_dict()[name], value, atol=1e-9)


def test_other_parts_are_another_training(tmp_path):
    path = tmp_path / "training.npz"
    by_ranks(2, lambda own: resumed(own, path, 2))
    faults = ranks.run(2, lambda own: resumed(own, path, 6, 8, True))
    assert "parts was 4, now it is 8" in str(faults[0])
    assert isinstance(faults[0], ValueError) and isinstance(faults[1], RuntimeError)
    by_ranks(2, lambda own: resumed(own, path, 6, 8, True, changed=["parts"]))


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    path = tmp_path / "missing" / "training.npz"
    faults = ranks.run(2, lambda own: resumed(own, path, 2))
    assert isinstance(faults[0], OSError)
    assert str(faults[1]).startswith("rank 0 of 2 failed: FileNotFoundError: ")


# ---- what it needs of layers


def test_joined_gradients():
    model = last_model()
    y, pullback = model.vjp(double(X)[0].swapaxes(0, 1))
    pullback(np.ones_like(y))
    before = {name: gradient.copy() for name, gradient in model.grads.items()}
    flat = model.joined_gradients()
    assert flat is model.joined_gradients() and flat.size == model.num_parameters
    for name, gradient in model.grads.items():
        assert_same_bits(gradient, before[name])
        assert np.shares_memory(gradient, flat)
    twin = copy.deepcopy(model)
    assert not any(np.shares_memory(gradient, flat) for gradient in twin.grads.values())
    assert not pickle.loads(pickle.dumps(model)).grads["3.bias"].any()
    model.freeze("3")
    smaller = model.joined_gradients()
    assert smaller.size == model[0].num_parameters
    model.unfreeze("3")
    assert model.joined_gradients().size == flat.size
    y, pullback = model.vjp(double(X)[0].swapaxes(0, 1))
    model.zero_grad()
    pullback(np.ones_like(y))
    assert_same_bits(model.joined_gradients()[-1:], model.grads["3.bias"])


def test_a_layer_that_is_frozen_later():
    def program(own):
        def freeze(state):
            state.model.freeze("0") if state.epoch == 1 else state.model.unfreeze("0")

        model = last_model()
        parallel = None if own is None else MPI(own)
        options = {"callbacks": [freeze], "parallel": parallel, "progress": False}
        fit(model, double(X, Y), MSELoss(), SGD(model, lr=0.1), 3, BATCH, **options)
        return model

    model = program(None)
    for other in by_ranks(2, program):
        for name, value in model.state_dict().items():
            np.testing.assert_allclose(other.state_dict()[name], value, rtol=0, atol=CLOSE)


def test_each_rank_takes_one_thread(monkeypatch):
    pytest.importorskip("fastlstm.engines._native")
    monkeypatch.delenv("FASTLSTM_NUM_THREADS", raising=False)
    monkeypatch.setattr("fastlstm.engines.machine.cpus", lambda: 7)

    def program(own):
        seen = []
        told = LSTM(F, 4, engine="native", seed=1, num_threads=2)
        model = Sequential(told, LSTM(4, 4, engine="native", seed=1), Last(), Linear(4, 1))

        def look(state):
            seen.extend([model[0].num_threads, model[1].num_threads])

        options = {"callbacks": [look], "parallel": MPI(own), "progress": False}
        fit(model, (X, Y), MSELoss(), SGD(model, lr=0.1), 1, BATCH, **options)
        return seen, [model[0].num_threads, model[1].num_threads]

    assert by_ranks(2, program) == [([2, 1], [2, 7])] * 2
    monkeypatch.setenv("FASTLSTM_NUM_THREADS", "3")
    assert by_ranks(2, program) == [([2, 3], [2, 3])] * 2
