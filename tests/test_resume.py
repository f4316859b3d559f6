"""Going on from a checkpoint: what must be the same, what may change, what damage cannot do."""

import copy
import functools
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from errors import raises
from support import assert_same_bits
from trainings import (
    F,
    N,
    T,
    assert_same_history,
    assert_same_weights,
    lstm,
    make_data,
    normal,
    regressor,
)

from fastlstm import Last, Linear, Sequential
from fastlstm.training import (
    SGD,
    Adam,
    AdamW,
    Arrays,
    Batch,
    Checkpoint,
    CrossEntropyLoss,
    EarlyStopping,
    HuberLoss,
    MSELoss,
    NonFiniteError,
    NSELoss,
    OneCycleLR,
    ReduceLROnPlateau,
    RMSprop,
    Sequences,
    SequentialLR,
    Standardizer,
    StepLR,
    Windows,
    checkpoint,
    description,
    fit,
)

X, Y = make_data()


def _loss(prediction, target):
    return MSELoss()(prediction, target)


def _highest(prediction, target):
    return prediction.max()


def _parts(**change):
    """All arguments of a training with everything that has a state, made anew at each call."""
    model = change.pop("model", regressor)(dropout=0.3)
    make = change.pop("optimizer", lambda model: Adam(model, lr=0.02))
    optimizer = make(model)
    schedule = change.pop("schedule", lambda optimizer: StepLR(optimizer, 2, gamma=0.5))(optimizer)
    early = change.pop("early", lambda: EarlyStopping(5))()
    return {
        "model": model, "data": (X, Y), "loss": MSELoss(), "optimizer": optimizer, "epochs": 4,
        "batch_size": 8, "validation": make_data(1), "schedule": schedule,
        "callbacks": [] if early is None else [early], "progress": False,
    } | change  # fmt: skip


def _save(path, epochs=2, **change):
    """Train for a while, with a checkpoint."""
    parts = _parts(**change)
    parts["callbacks"] = [*parts["callbacks"], Checkpoint(path)]
    fit(**parts | {"epochs": epochs})
    return parts


def _everything(parts):
    """All that a refused resume must leave as it is, as bytes."""
    model, optimizer = parts["model"], parts["optimizer"]
    attributes = {
        name: value
        for part in (optimizer, parts["schedule"], *parts["callbacks"])
        for name, value in getattr(part, "__dict__", {}).items()
        if name
        not in (
            "model",
            "optimizer",
            "_scratch",
            "_runs",
            "_frozen",
            "_layers",
            "_computed",
            "_layout",
            "_between",
        )
        and not name.startswith("_schedulers")
    }
    random = [rng.bit_generator.state for _, rng in checkpoint.generators(model)]
    return pickle.dumps((model.state_dict(), attributes, random, model.training))


def _refused(path, sentence, **change):
    """Assert that going on with another argument is refused with a sentence, nothing changed."""
    parts = _parts(**change)
    before = _everything(parts)
    with pytest.raises(ValueError) as caught:
        fit(**parts, resume=path)
    assert str(caught.value).startswith(f"{path}: ")
    assert sentence in str(caught.value)
    assert _everything(parts) == before
    return str(caught.value)


# ---- what must be the same ------------------------------------------------------------------


def _changed(array, *place):
    array = array.copy()
    array[place] += 1
    return array


WEIGHTS = np.ones(N)
OTHERS = {
    "values of x": ({"data": (_changed(X, 21, 3, 1), Y)}, "data has other values"),
    "values of y": ({"data": (X, _changed(Y, 0, 0))}, "data has other values"),
    "weights": ({"data": (X, Y, WEIGHTS)}, "data has other values"),
    "fewer samples": ({"data": (X[1:], Y[1:])}, "data was 22 samples, now it is 21 samples"),
    "validation": ({"validation": make_data(2)}, "validation has other values"),
    "no validation": (
        {"validation": None, "early": lambda: EarlyStopping(5, monitor="loss")},
        "validation was 22 samples, now it is None; ",
    ),
    "loss": ({"loss": HuberLoss()}, "loss was MSELoss(reduction='mean'), now it is HuberLoss("
             "reduction='mean', delta=1.0)"),
    "reduction": ({"loss": MSELoss("sum")}, "loss was MSELoss(reduction='mean'), now it is MSELo"),
    "function": ({"loss": _loss}, "loss was MSELoss(reduction='mean'), now it is _loss"),
    "lr": ({"optimizer": lambda model: Adam(model, lr=0.01)}, "lr was 0.02, now it is 0.01"),
    "betas": (
        {"optimizer": lambda model: Adam(model, 0.02, betas=(0.8, 0.999))},
        "betas was [0.9, 0.999], now it is [0.8, 0.999]",
    ),
    "weight_decay": (
        {"optimizer": lambda model: Adam(model, 0.02, weight_decay=0.1)},
        "weight_decay was 0.0, now it is 0.1",
    ),
    "lr_factors": (
        {"optimizer": lambda model: Adam(model, 0.02, lr_factors={"fc.*": 2})},
        "lr_factors was None, now it is {fc.*: 2}",
    ),
    "class of optimizer": (
        {"optimizer": lambda model: AdamW(model, 0.02, weight_decay=0.0)},
        "optimizer was Adam, now it is AdamW",
    ),
    "gamma": (
        {"schedule": lambda optimizer: StepLR(optimizer, 2, gamma=0.6)},
        "schedule_options was StepLR(step_size=2, gamma=0.5), now it is StepLR(step_size=2, gam",
    ),
    "no schedule": (
        {"schedule": lambda optimizer: None}, "schedule was StepLR, now it is NoneType"
    ),
    "schedule_per": ({"schedule_per": "batch"}, "schedule_per was 'epoch', now it is 'batch'"),
    "patience": ({"early": lambda: EarlyStopping(6)}, "patience was 5, now it is 6"),
    "min_delta": ({"early": lambda: EarlyStopping(5, 0.1)}, "min_delta was 0.0, now it is 0.1"),
    "monitor": (
        {"early": lambda: EarlyStopping(5, monitor="loss")},
        "monitor was 'validation_loss', now it is 'loss'",
    ),
    "mode": ({"early": lambda: EarlyStopping(5, mode="max")}, "mode was 'min', now it is 'max'"),
    "no callback": ({"early": lambda: None}, "callbacks was EarlyStopping, now it is none to keep"),
    "metrics": (
        {"metrics": {"highest": _highest}}, "metrics was {}, now it is {highest: _highest}"
    ),
    "batch_size": ({"batch_size": 4}, "batch_size was 8, now it is 4"),
    "shuffle": ({"shuffle": False}, "shuffle was True, now it is False"),
    "seed": ({"seed": 1}, "seed was 0, now it is 1"),
    "clip_norm": ({"clip_norm": 1.0}, "clip_norm was None, now it is 1.0"),
    "clip_value": ({"clip_value": 1.0}, "clip_value was None, now it is 1.0"),
    "frozen": (
        {"model": lambda **options: regressor(**options).freeze("fc")},
        "frozen was nothing, now it is fc.weight, fc.bias",
    ),
    "model": (
        {"model": lambda **options: regressor(batch_first=True, **options)}, "model was Sequential("
    ),
    "dropout": ({"model": lambda **options: regressor(dropout=0.4)}, "model was Sequential("),
}  # fmt: skip
ALONE = {"frozen", "model", "dropout", "class of optimizer", "no schedule", "monitor", "mode",
         "no callback", "metrics", "no validation"}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_another_training_is_refused(name, tmp_path):
    """The error has the name and both values of each difference alone; nothing is changed."""
    change, difference = OTHERS[name]
    path = tmp_path / "training.npz"
    _save(path)
    data = path.read_bytes()
    sentence = _refused(path, f": the checkpoint is of another training: {difference}", **change)
    assert sentence.endswith("; to begin anew remove it, or take another file")
    argument = difference.split()[0]
    way_out = f"; if that is on purpose give changed=['{argument}']; to begin anew"
    assert (way_out in sentence) == (name not in ALONE)
    assert path.read_bytes() == data


def test_every_difference_is_named(tmp_path):
    path = tmp_path / "training.npz"
    _save(path)
    raises(
        lambda: fit(**_parts(seed=1, data=(_changed(X, 0, 0, 0), Y)), resume=path), ValueError,
        f"{path}: the checkpoint is of another training: data has other values; seed was 0, now it "
        "is 1. To go on from it give fit what it was made with; if that is on purpose give changed="
        "['data', 'seed']; to begin anew remove it, or take another file",
    )  # fmt: skip


def _with_std(change=0):
    return Arrays(X, Y, std=np.arange(N) + 1.0 + change)


def _sequences(change=0):
    return Sequences([normal(k % 5 + 1, F) + change for k in range(N)], Y)


class _Pairs:
    """A user's own data set; with noise, each reading gives other values."""

    def __init__(self, noise=None, more=0):
        self.noise, self.more = noise, more

    def __len__(self):
        return N

    def __getitem__(self, rows):
        x = X[rows] + np.float32(self.more)
        if self.noise is not None:
            x = x + self.noise.standard_normal(x.shape).astype(np.float32)
        return Batch(x, Y[rows])


NSE = {"loss": NSELoss()}
DATA = {
    "std": ({"data": _with_std(), **NSE}, {"data": _with_std(1), **NSE}),
    "ragged": ({"data": _sequences()}, {"data": _sequences(1)}),
    "own": ({"data": _Pairs()}, {"data": _Pairs(more=1)}),
    "loss with an array": (
        {"loss": functools.partial(NSELoss(), std=np.float64(2.0))},
        {"loss": functools.partial(NSELoss(), std=np.float64(2.5))},
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_other_data_of_every_kind_are_refused_and_the_same_taken(name, tmp_path):
    same, other = DATA[name]
    path = tmp_path / "training.npz"
    options = {"validation": None, "early": lambda: None}
    _save(path, **options, **same)
    assert len(fit(**_parts(**options, **same), resume=path)["loss"]) == 4
    _refused(path, "is of another training: " + next(iter(other)), **options, **other)


def test_other_windows_are_refused(tmp_path):
    """They have other rows, another step between as many windows, or another standardisation."""
    path, series = tmp_path / "training.npz", normal(40, F)

    def train(epochs, rows=series, stride=1, standardizer=None, **options):
        data = Windows(rows, T, 1, stride=stride, standardizer=standardizer)
        model = Sequential(lstm(F, 4), Last(), Linear(4, F, seed=2))

        def loss(prediction, target):
            value, gradient = MSELoss()(prediction, target[:, 0])
            return value, gradient

        return fit(model, data, loss, Adam(model), epochs, 8, progress=False, **options)

    train(1, callbacks=[Checkpoint(path)])
    assert train(2, resume=path).resumed == 1
    longer = normal(74, F)  # as many windows, every second one
    for options in (
        {"rows": _changed(series, 39, 1)}, {"standardizer": Standardizer.fit(series)},
        {"rows": longer, "stride": 2},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="of another training: data has other values"):
            train(2, **options, resume=path)


def test_data_that_are_new_at_each_reading_are_known_by_their_number(tmp_path):
    path = tmp_path / "training.npz"
    noise = lambda seed: {"data": _Pairs(np.random.default_rng(seed))}  # noqa: E731
    _save(path, **noise(1))
    assert len(fit(**_parts(**noise(2)), resume=path)["loss"]) == 4
    _refused(
        path, "data was 22 samples, others at each reading, now it is 22 samples", data=_Pairs()
    )


def test_data_are_compared_by_what_they_give(tmp_path):
    """A tuple, Arrays of it and a mapped file are the same data."""
    path = tmp_path / "training.npz"
    _save(path)
    np.save(tmp_path / "x.npy", X)
    for data in (Arrays(X, Y), (np.load(tmp_path / "x.npy", mmap_mode="r"), Y)):
        assert len(fit(**_parts(data=data), resume=path)["loss"]) == 4


SCHEDULES = {
    "one cycle": lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=12),
    "plateau": lambda optimizer: ReduceLROnPlateau(optimizer, patience=0, factor=0.5),
    "sequence": lambda optimizer: SequentialLR(
        optimizer, [StepLR(optimizer, 1, 0.5), StepLR(optimizer, 1, 0.9)], [2]
    ),
    "none": lambda optimizer: None,
}


@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize("name", SCHEDULES)
def test_going_on_with_the_very_same_objects(name, momentum, tmp_path):
    """In a notebook, objects are already where the training was; that is no difference."""
    path = tmp_path / "training.npz"
    make = {
        True: lambda model: SGD(model, 0.1, momentum=0.9),
        False: lambda model: Adam(model, lr=0.02),
    }[momentum]
    change = {"schedule": SCHEDULES[name], "optimizer": make}
    parts = _save(path, **change)
    history = fit(**parts | {"epochs": 4}, resume=path)
    whole = _parts(**change)
    assert_same_history(history, fit(**whole))
    assert_same_weights(parts["model"], whole["model"])


@pytest.mark.parametrize("kind", [SGD, RMSprop, Adam, AdamW])
def test_going_on_with_factors(kind, tmp_path):
    """Factors of gates, with a schedule, clipping and a frozen gate: the bits are the same."""
    path = tmp_path / "training.npz"
    factors = {
        "lr_factors": {"lstm.weight_hh*": [1, 0.5, 2, 0], "lstm.bias_hh*": 0},
        "decay_factors": {"*bias*": 0, "lstm.weight_ih*": [1, 2, 3, 4]},
    }
    change = {
        "optimizer": lambda model: kind(model, 0.02, weight_decay=0.1, **factors),
        "clip_norm": 0.5,
    }
    _save(path, **change)
    parts, whole = _parts(**change), _parts(**change)
    assert_same_history(fit(**parts, resume=path), fit(**whole))
    assert_same_weights(parts["model"], whole["model"])
    fresh, trained = regressor(dropout=0.3).state_dict(), whole["model"].state_dict()
    frozen = trained["lstm.weight_hh_l0"] == fresh["lstm.weight_hh_l0"]
    assert frozen.all(axis=1).reshape(4, 4).all(axis=1).tolist() == [False, False, False, True]


@pytest.mark.parametrize("monitor, mode", [("loss", "min"), ("highest", "max")])
def test_going_on_with_metrics_and_frozen_layers(monitor, mode, tmp_path):
    """The bits are the same, whatever is monitored and learnt."""
    path = tmp_path / "training.npz"
    change = {
        "early": lambda: EarlyStopping(5, monitor=monitor, mode=mode),
        "metrics": {"highest": _highest},
        "model": lambda **options: regressor(**options).freeze("lstm.weight_hh_l0", "fc.bias"),
    }
    _save(path, **change)
    parts, whole = _parts(**change), _parts(**change)
    assert_same_history(fit(**parts, resume=path), fit(**whole))
    assert_same_weights(parts["model"], whole["model"])
    assert parts["callbacks"][0].best == whole["callbacks"][0].best


# ---- what may change on purpose -------------------------------------------------------------


def _by_hand(change_after_two, **parts):
    """A training that changes something after the second epoch, without any checkpoint."""
    parts = _parts(**parts)
    parts["callbacks"] = [
        *parts["callbacks"], lambda state: state.epoch == 2 and change_after_two(state)
    ]  # fmt: skip
    fit(**parts)
    return parts


@pytest.mark.parametrize("name", ["none", "step", "plateau"])
def test_another_learning_rate(name, tmp_path):
    """It holds from now on, as if it had been changed between two epochs."""
    path = tmp_path / "training.npz"
    step = lambda optimizer: StepLR(optimizer, 2, gamma=0.5)  # noqa: E731
    change = {"schedule": {**SCHEDULES, "step": step}[name]}
    _save(path, **change)
    parts = _parts(optimizer=lambda model: Adam(model, lr=0.004), **change)
    history = fit(**parts, resume=path, changed=["lr"])

    def slower(state):
        if name == "step":
            state.optimizer.initial_lr = 0.004
            state.schedule._apply(2)
        else:
            state.optimizer.lr = 0.004

    expected = _by_hand(slower, **change)
    assert_same_weights(parts["model"], expected["model"])
    assert history["lr"][2] == {"none": 0.004, "step": 0.002, "plateau": 0.004}[name]
    with pytest.raises(AssertionError):
        assert_same_weights(parts["model"], _by_hand(lambda state: None, **change)["model"])


def test_more_patience(tmp_path):
    """A stopped training goes on, and ends as it would have with that patience from the start."""
    path = tmp_path / "training.npz"
    change = {"optimizer": lambda model: SGD(model, lr=3.0), "schedule": lambda optimizer: None}
    _save(path, 9, early=lambda: EarlyStopping(2), **change)
    parts = _parts(early=lambda: EarlyStopping(4), epochs=9, **change)
    history = fit(**parts, resume=path, changed=["patience"])
    whole = _parts(early=lambda: EarlyStopping(4), epochs=9, **change)
    expected = fit(**whole)
    assert len(history["loss"]) > history.resumed
    assert_same_history(history, expected)
    assert history.stopped == expected.stopped
    assert_same_weights(parts["model"], whole["model"])


CHANGES = {
    "data": {"data": (_changed(X, 3, 3, 1), Y)},
    "loss": {"loss": HuberLoss()},
    "batch_size": {"batch_size": 4},
    "seed": {"seed": 5},
    "clip_norm": {"clip_norm": 0.01},
    "validation": {"validation": make_data(3)},
    "betas": {"optimizer": lambda model: Adam(model, 0.02, betas=(0.5, 0.9))},
    "schedule_options": {"schedule": lambda optimizer: StepLR(optimizer, 1, gamma=0.9)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_arguments_on_purpose(name, tmp_path):
    """Those that are named hold; the next checkpoint describes the training as it is now."""
    path, other = tmp_path / "training.npz", tmp_path / "other.npz"
    _save(path)
    parts = _parts(**CHANGES[name])
    parts["callbacks"] = [*parts["callbacks"], Checkpoint(other)]
    history = fit(**parts, resume=path, changed=(name, "patience"))
    assert history.resumed == 2 and len(history["loss"]) == 4
    plain = _parts()
    expected = fit(**plain, resume=path)
    assert history["loss"][:2] == expected["loss"][:2]
    key = "validation_loss" if name == "validation" else "loss"
    assert history[key] != expected[key]
    assert fit(**_parts(**CHANGES[name], epochs=5), resume=other).resumed == 4
    _refused(other, f"training: {name}", epochs=5)


def test_some_changes_cannot_be_meant(tmp_path):
    path = tmp_path / "training.npz"
    _save(path)
    parts = _parts(early=lambda: EarlyStopping(5, mode="max"))
    with pytest.raises(ValueError, match="mode was 'min', now it is 'max'"):
        fit(**parts, resume=path, changed=["mode"])
    for changed in ("lr", [3]):
        with pytest.raises(TypeError, match="changed should be a list of names of arguments, got"):
            fit(**_parts(), resume=path, changed=changed)


# ---- nothing in silence ---------------------------------------------------------------------


@pytest.mark.parametrize("how", ["all epochs", "stopped"])
def test_nothing_left_to_train_is_said(how, tmp_path, capsys):
    path = tmp_path / "training.npz"
    stop = [] if how == "all epochs" else [_stops]
    parts = _parts(epochs=3)
    callbacks = parts["callbacks"] + stop
    fit(**parts | {"callbacks": [*callbacks, Checkpoint(path)]})
    again = _parts(epochs=3)
    history = fit(**again | {"callbacks": again["callbacks"] + stop}, resume=path)
    done = len(history["loss"])
    reason = "all of 3 epochs were done" if how == "all epochs" else "_stops after epoch 2"
    assert capsys.readouterr() == ("", f"{path}: nothing is left to train: {reason}\n")
    assert history.resumed == done == (3 if how == "all epochs" else 2)
    more = fit(**_parts(epochs=done + 1), resume=path, changed=["patience"])
    assert more.resumed == done and len(more["loss"]) == done + 1
    assert capsys.readouterr() == ("", "")
    assert fit(**_parts()).resumed == 0


def _stops(state):
    return state.epoch == 2


def test_checkpoints_that_do_not_say_what_they_are_of(tmp_path):
    """Those of earlier versions are refused, with what to do."""
    path = tmp_path / "training.npz"
    _save(path)
    entries = _entries(path)
    entries[0]["version"] = 1
    _write(path, *entries)
    _refused(
        path,
        "a checkpoint of version 1, expected 2 (1 does not say of which data and options it is); "
        "begin anew with another file",
    )
    entries[0]["version"] = 3
    _write(path, *entries)
    _refused(path, "the checkpoint was written by a newer fastlstm: install that to read it")


# ---- where it is written --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["folder", "below a file", "no folder"])
def test_a_path_that_cannot_be_written_is_found_before_the_first_epoch(name, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    path, kind, why = {
        "folder": (tmp_path, IsADirectoryError, "it is a folder"),
        "below a file": (
            tmp_path / "a.txt/b.npz", FileNotFoundError, f"there is no folder {tmp_path / 'a.txt'}"
        ),
        "no folder": (
            tmp_path / "b/c.npz", FileNotFoundError, f"there is no folder {tmp_path / 'b'}"
        ),
    }[name]  # fmt: skip
    parts = _parts()
    parts["callbacks"].append(Checkpoint(path))
    fit(
        **_parts(callbacks=[parts["callbacks"][0]])
    )  # what early stopping holds, it goes on holding
    before = _everything(parts)
    raises(lambda: fit(**parts), kind, f"{path} cannot be written: {why}")
    assert _everything(parts) == before


def test_the_side_file_is_tried_before_the_first_epoch(tmp_path, monkeypatch):
    def full(path):
        raise OSError("no room")

    monkeypatch.setattr("fastlstm.training.checkpoint.check_writable", full)
    parts = _parts()
    parts["callbacks"].append(Checkpoint(tmp_path / "training.npz"))
    raises(lambda: fit(**parts), OSError, "no room")
    assert_same_weights(parts["model"], regressor(dropout=0.3))
    assert list(tmp_path.iterdir()) == []


# ---- damaged files --------------------------------------------------------------------------


def _entries(path):
    """(the JSON tree, the arrays) of a checkpoint."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "__hash__"}
    return json.loads(arrays.pop("__training__").item()), arrays


def _write(path, tree, arrays):
    """Write a file with a hash that fits, so that its reader must find what is wrong."""
    entries = {**arrays, "__training__": np.array(json.dumps(tree).encode())}
    np.savez(path, **entries, __hash__=checkpoint._seal(entries))


def _leaves(tree, place=()):
    """The place of every value in nested dicts and lists, the branches' too."""
    yield place
    if isinstance(tree, dict):
        for name, branch in tree.items():
            yield from _leaves(branch, (*place, name))
    elif isinstance(tree, list):
        for number, branch in enumerate(tree):
            yield from _leaves(branch, (*place, number))


RUBBISH = [None, True, -1, 2.5, 10**30, 10**400, float("nan"), "x", [], {}, [1, 2], {"a": 1},
           {"__array__": 0}, {"__array__": 10**6}, {"__array__": []}]  # fmt: skip


def _assert_taken_or_refused(path, change, seen, number=False):
    """Assert that the file is refused at once, by its name and without effect, or is taken."""
    parts = _parts(**change)
    before = _everything(parts)
    try:
        kept = fit(**parts, resume=path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ") or str(error).startswith("schedule: "), error
        assert _everything(parts) == before
        seen["refused"] += 1
    except NonFiniteError:  # numbers of the right kind that no training had
        assert number
    else:
        assert len(kept["loss"]) == 4 or kept.stopped
        assert all(np.isfinite(value).all() for value in parts["model"].state_dict().values())
        seen["taken"] += 1


def _plateau(optimizer):
    return ReduceLROnPlateau(optimizer, patience=0, factor=0.5)


DAMAGED = {
    "adam": {},
    "plateau": {"schedule": _plateau, "optimizer": lambda model: SGD(model, 0.1, momentum=0.9)},
    "one cycle": {"schedule": SCHEDULES["one cycle"]},
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "adam")) for n in DAMAGED]
)
def test_damaged_trees_are_refused_at_once(name, tmp_path):
    """Any value in any place gives no other error, none an epoch later, and changes nothing."""
    path, damaged = tmp_path / "training.npz", tmp_path / "damaged.npz"
    _save(path, **DAMAGED[name])
    tree, arrays = _entries(path)
    seen, rng = {"refused": 0, "taken": 0}, np.random.default_rng(0)
    for place in _leaves(tree):
        # of each place a few, drawn: all of them take minutes
        for rubbish in [RUBBISH[k] for k in rng.choice(len(RUBBISH), 3, replace=False)]:
            other = copy.deepcopy(tree)
            if not place:
                other = rubbish
            else:
                branch = other
                for step in place[:-1]:
                    branch = branch[step]
                branch[place[-1]] = rubbish
            if other == tree:
                continue
            _write(damaged, other, arrays)
            number = place[:2] == ("kept", "optimizer")
            _assert_taken_or_refused(damaged, DAMAGED[name], seen, number)
    assert seen["refused"] > 100


@pytest.mark.parametrize("what", ["tree", "array", "hash", "no hash"])
def test_a_file_that_was_written_to_is_refused(what, tmp_path):
    """It is refused though all values are of the right kind."""
    path = tmp_path / "training.npz"
    _save(path)
    with np.load(path) as file:
        entries = dict(file)
    if what == "tree":
        text = entries["__training__"].item().replace(b'"steps": 6', b'"steps": 7')
        entries["__training__"] = np.array(text)
    elif what == "array":
        entries["3"] = entries["3"] + 1
    elif what == "hash":
        entries["__hash__"] = np.array(b"0" * 32)
    else:
        del entries["__hash__"]
    np.savez(path, **entries)
    _refused(path, "a damaged checkpoint: it does not hold what was written to it")


def test_missing_entries_are_refused(tmp_path):
    path, damaged = tmp_path / "training.npz", tmp_path / "damaged.npz"
    _save(path)
    tree, arrays = _entries(path)
    seen = {"refused": 0, "taken": 0}
    for place in _leaves(tree):
        if not place or isinstance(place[-1], int):
            continue
        other = copy.deepcopy(tree)
        branch = other
        for step in place[:-1]:
            branch = branch[step]
        del branch[place[-1]]
        _write(damaged, other, arrays)
        _assert_taken_or_refused(damaged, {}, seen)
    assert seen["taken"] == 0 and seen["refused"] > 50


def test_damaged_arrays_are_refused_at_once(tmp_path):
    path, damaged = tmp_path / "training.npz", tmp_path / "damaged.npz"
    _save(path)
    tree, arrays = _entries(path)
    seen = {"refused": 0, "taken": 0}
    for name, array in arrays.items():
        for other in (
            array[:-1], array.astype(np.float64), array.astype(np.int64), array[None],
            np.array("x"), np.zeros(0, np.float32), array.astype(complex),
        ):  # fmt: skip
            _write(damaged, tree, arrays | {name: other})
            _assert_taken_or_refused(damaged, {}, seen)
        _write(damaged, tree, {n: a for n, a in arrays.items() if n != name})
        _assert_taken_or_refused(damaged, {}, seen)
    assert seen == {"refused": 8 * len(arrays), "taken": 0}


class _Counts:
    """A user's own callback, which changes what it holds in place."""

    def __init__(self):
        self.counts = [7]

    def start(self, state):
        self.counts.clear()

    def __call__(self, state):
        self.counts.append(state.epoch)

    def state_dict(self):
        return {"counts": list(self.counts)}

    def load_state_dict(self, state_dict):
        self.counts[:] = state_dict["counts"]
        if self.counts == [1, 2, 9]:
            raise KeyError("no")


def test_callbacks_that_change_in_place_are_put_back(tmp_path):
    path = tmp_path / "training.npz"
    _save(path, callbacks=[_Counts()])
    tree, arrays = _entries(path)
    tree["kept"]["callbacks"][0]["counts"].append(9)
    _write(path, tree, arrays)
    counts = _Counts()
    with pytest.raises(ValueError, match="a damaged checkpoint: KeyError: 'no'"):
        fit(**_parts(callbacks=[counts]), resume=path)
    assert counts.counts == [7]


class _Late(_Counts):
    """A callback that has no state before its start."""

    def __init__(self):
        pass

    def start(self, state):
        self.counts = []


def test_callbacks_that_begin_with_their_start(tmp_path):
    path = tmp_path / "training.npz"
    _save(path, callbacks=[_Late()])
    late = _Late()
    assert fit(**_parts(callbacks=[late]), resume=path).resumed == 2
    assert late.counts == [1, 2, 3, 4]
    late = _Late()
    tree, arrays = _entries(path)
    tree["kept"]["callbacks"][0] = {}
    _write(path, tree, arrays)
    with pytest.raises(ValueError, match="a damaged checkpoint: KeyError: 'counts'"):
        fit(**_parts(callbacks=[late]), resume=path)
    assert not hasattr(late, "counts")


def test_class_weights_are_compared(tmp_path):
    """Arrays with many numbers are compared by a hash, those with few by their numbers."""
    path = tmp_path / "training.npz"
    for classes, difference in ((3, "loss was CrossEntropyLoss("), (12, "loss has other values")):
        model = lambda dropout: Sequential(  # noqa: E731
            lstm(F, 4),
            Last(),
            Linear(4, classes, seed=2),  # noqa: B023
        )
        y = np.arange(N) % 3
        weight = np.ones(classes)
        options = {"model": model, "data": (X, y), "validation": None, "early": lambda: None}
        _save(path, loss=CrossEntropyLoss(weight), **options)
        assert fit(**_parts(loss=CrossEntropyLoss(weight), **options), resume=path).resumed == 2
        weight = weight.copy()
        weight[1] = 2
        _refused(path, difference, loss=CrossEntropyLoss(weight), **options)


class _Holds:
    """A user's own loss, which holds any value."""

    def __init__(self, held, weight=1.0):
        self.held, self.weight = held, weight

    def __call__(self, prediction, target):
        return MSELoss()(prediction, target)


HELD = {
    "few": (list(range(5)), [*range(4), 9], "held=[0, 1, 2, 3, 4], "),
    "many": (list(range(900)), [*range(899), 9], None),
    "words": (["a"] * 20, ["a"] * 19 + ["b"], None),
    "nested": ({"a": [np.zeros(30)]}, {"a": [np.ones(30)]}, None),
    "long": ("a" * 5000, "b" + "a" * 4999, "loss was _Holds(held='aaaaa"),
    "function": (_loss, _highest, "held=_loss, "),
    "array of words": (np.array(["a", "b"] * 5), np.array(["a", "c"] * 5), None),
    "dates": (np.arange(9).astype("M8[D]"), np.arange(1, 10).astype("M8[D]"), None),
}


@pytest.mark.parametrize("name", HELD)
def test_what_a_loss_holds_is_compared(name, tmp_path):
    path = tmp_path / "training.npz"
    held, other, shown = HELD[name]
    _save(path, loss=_Holds(held))
    assert fit(**_parts(loss=_Holds(copy.deepcopy(held))), resume=path).resumed == 2
    sentence = _refused(path, shown or "loss has other values", loss=_Holds(other))
    assert len(sentence) < 1200 + len(str(path))
    sentence = _refused(path, "weight=1.0)" if name != "long" else "", loss=_Holds(held, 2.0))
    assert name == "long" or "weight=2.0)" in sentence


def _make(loss, factor=1.0, *, names=frozenset("ab")):
    """Return a function that encloses these values, and calls another one inside."""
    calls = []

    def scaled(prediction, target, more=factor):
        calls.append(prediction)
        shift = (lambda y: y * 2)(0.0) if "a" in {"a", "b", "c"} | names else 0.0
        return loss(prediction, target + shift)

    return scaled


FUNCTIONS = {
    "code": (lambda y, t: MSELoss()(y, t), lambda y, t: HuberLoss()(y, t)),
    "a constant": (lambda y, t: MSELoss()(y, t + 1), lambda y, t: MSELoss()(y, t + 2)),
    "what it encloses": (_make(MSELoss()), _make(HuberLoss())),
    "a default": (_make(MSELoss()), _make(MSELoss(), 2.0)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_one_name_are_told_apart(name, tmp_path):
    path = tmp_path / "training.npz"
    loss, other = FUNCTIONS[name]
    _save(path, loss=loss)
    sentence = _refused(path, "training: loss has other values. ", loss=other)
    assert "give changed=['loss']" in sentence
    assert fit(**_parts(loss=loss), resume=path).resumed == 2  # though it has been called


def test_a_function_is_the_same_in_another_process():
    """It is the same whatever the seed of hashes, and on any line."""
    program = (
        "{}from fastlstm.training import description\n"
        "def f(y, t, n=2): return [k in {{'a', 'b', 'c'}} for k in (lambda: (y, t))()]\n"
        "print(description._in_words(f))"
    )
    words = {
        subprocess.run(
            [sys.executable, "-c", program.format(lines)], text=True, capture_output=True,
            check=True, env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for lines, seed in (("", "1"), ("\n\n", "2"), ("import os\n", "3"))
    }  # fmt: skip
    assert len(words) == 1 and words.pop().startswith("f #")


def test_whole_numbers_are_numbers(tmp_path):
    path = tmp_path / "training.npz"
    _save(path, clip_norm=1, optimizer=lambda model: SGD(model, lr_factors={"fc.*": 2}))
    parts = _parts(clip_norm=1.0, optimizer=lambda model: SGD(model, lr_factors={"fc.*": 2.0}))
    assert fit(**parts, resume=path).resumed == 2
    raises(
        lambda: fit(**parts | {"clip_norm": 1.05}, resume=path), ValueError,
        f"{path}: the checkpoint is of another training: clip_norm was 1, now it is 1.05. To go on "
        "from it give fit what it was made with; if that is on purpose give changed=['clip_norm']; "
        "to begin anew remove it, or take another file",
    )  # fmt: skip


def test_a_loss_may_hold_itself_a_model_or_anything(tmp_path):
    """What cannot be described in words is known by the name of its class."""
    path = tmp_path / "training.npz"

    def make():
        loss = _Holds([regressor(), object(), np.random.default_rng(0)])
        loss.weight = loss
        return loss

    _save(path, loss=make())
    assert fit(**_parts(loss=make()), resume=path).resumed == 2


def test_a_hash_sees_bits_types_and_shapes():
    arrays = [
        np.zeros(4, np.float32), np.zeros(4, np.int32), np.zeros((2, 2), np.float32),
        np.zeros(2, np.float64), np.array([0, 0, 0, -0.0], np.float32), np.zeros(5, np.float32),
        np.array(["a", None, 1, 2.0], object),
    ]  # fmt: skip
    hashes = [description.hash_of(array) for array in arrays]
    assert len(set(hashes)) == len(arrays)
    for array, known in zip(arrays, hashes, strict=True):
        assert description.hash_of(array.copy()) == known
    strided = np.zeros((4, 2), np.float32)[:, 0]
    assert description.hash_of(strided) == hashes[0]
    assert_same_bits(strided, arrays[0])
