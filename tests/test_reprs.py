"""What data sets, optimisers, schedules, losses and callbacks say of themselves."""

import numpy as np
import pytest

import fastlstm
from fastlstm import Linear
from fastlstm.training import (
    SGD,
    Adam,
    Arrays,
    Batches,
    Checkpoint,
    CrossEntropyLoss,
    EarlyStopping,
    History,
    HuberLoss,
    OneCycleLR,
    QuantileLoss,
    ReduceLROnPlateau,
    Sequences,
    SequentialLR,
    Standardizer,
    StepLR,
    Windows,
)


def _optimizer():
    return Adam(Linear(1, 1), lr=0.01, lr_factors={"*bias*": 2})


def _after_a_step(optimizer):
    optimizer.step()
    return optimizer


REPRS = {
    "SGD(lr=0.1, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False) after 1 steps":
        lambda: _after_a_step(SGD(Linear(1, 1), lr=0.1)),
    "Adam(lr=0.01, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=False, "
    "lr_factors={'*bias*': 2}) after 0 steps": _optimizer,
    "StepLR(step_size=3, gamma=0.1) after 0 steps": lambda: StepLR(_optimizer(), 3),
    "OneCycleLR(max_lr=0.5, total_steps=10, cycle_momentum=True) after 0 steps":
        lambda: OneCycleLR(_optimizer(), 0.5, 10),
    "ReduceLROnPlateau(factor=0.1, patience=10, threshold=0.0001, cooldown=0, min_lr=0.0, "
    "eps=1e-08, mode='min', threshold_mode='rel') after 0 steps":
        lambda: ReduceLROnPlateau(_optimizer()),
    "HuberLoss(reduction='sum', delta=2.0)": lambda: HuberLoss("sum", 2.0),
    "QuantileLoss(reduction='mean', quantiles=[0.1, 0.5])": lambda: QuantileLoss([0.1, 0.5]),
    "CrossEntropyLoss(reduction='mean', weight=[1.0, 2.0], ignore_index=-100, label_smoothing=0.0)":
        lambda: CrossEntropyLoss([1, 2]),
    "Windows(40 of series of 20, 30 steps, window=4, horizon=2, inputs=[0], targets=[2], lead=1, "
    "stride=1)": lambda: Windows([np.zeros((20, 3)), np.zeros((30, 3))], 4, 2, inputs=0, targets=2),
    "Arrays(x: (3, 2) of float64, y: (3,), weights: (3,))":
        lambda: Arrays(np.zeros((3, 2)), np.zeros(3), [1, 2, 3]),
    "Sequences(2 of 1 to 2 steps, tokens, sequences' targets)":
        lambda: Sequences([[1, 2], [3]], [0, 1]),
    "Sequences(2 of 1 to 2 steps, 1 features, no targets)": lambda: Sequences([[0.5, 2], [3.0]]),
    "Batches(Arrays(x: (3,) of int64, y: (3,)), 2, shuffle=True, seed=5, drop_last=False, pool=50)":
        lambda: Batches((np.arange(3, dtype=np.int64), [1, 2, 3]), 2, seed=5),
    "Standardizer(mean=[0.0], scale=[2.0], names=['a'])": lambda: Standardizer([0], [2], ["a"]),
    "EarlyStopping(3, min_delta=0.0, monitor='validation_loss', mode='min')":
        lambda: EarlyStopping(3),
    "Checkpoint('a.npz', every=2)": lambda: Checkpoint("a.npz", every=2),
    "History({'loss': [1.0]})": lambda: History({"loss": [1.0]}),
}  # fmt: skip


@pytest.mark.parametrize("expected", REPRS)
def test_repr(expected):
    assert repr(REPRS[expected]()) == expected


def test_a_sequence_of_schedules_shows_them():
    optimizer = _optimizer()
    schedule = SequentialLR(optimizer, [StepLR(optimizer, 1), StepLR(optimizer, 2)], [3])
    schedule.step()
    assert repr(schedule) == (
        "SequentialLR(schedulers=[StepLR(step_size=1, gamma=0.1) after 0 steps, "
        "StepLR(step_size=2, gamma=0.1) after 0 steps], milestones=[3]) after 1 steps"
    )


def test_every_public_class_has_a_repr():
    """It is its own or a parent's from this package; exceptions and tuples keep theirs."""
    everything = {**vars(fastlstm), **vars(fastlstm.training)}
    names = {*fastlstm.__all__, *fastlstm.training.__all__}
    classes = [thing for name in names if isinstance(thing := everything[name], type)]
    assert len(classes) > 40
    assert [c.__name__ for c in classes if c.__repr__ is object.__repr__] == []
