"""What data sets, optimisers, schedules, losses and callbacks say of themselves."""

import dataclasses
import inspect
import types
from typing import NamedTuple

import numpy as np
import pytest

import fastlstm
from fastlstm import LSTM, Linear
from fastlstm.engines import contract
from fastlstm.engines.contract import Cell, Options
from fastlstm.graphs import Node
from fastlstm.graphs.limits import Limits
from fastlstm.graphs.plan import Plan
from fastlstm.training import (
    SGD,
    Adam,
    Arrays,
    Batch,
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
    State,
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


# What a user meets besides: made by calls, handed to callbacks, or inside of a model that is read.
def _ran(**options):
    lstm = LSTM(64, 100, engine="numpy", seed=0)
    return lstm(np.ones((50, 8, 64), "f4"), **options)


def _state():
    history = History({"loss": [0.5, 0.25], "lr": [], "seconds": [1.0, 1.0]})
    model = Linear(1, 1)
    return State(model, SGD(model, lr=0.1), None, [], history, 10, {}, epoch=2)


def _plan():
    nodes = [Node("add", "Add", np.add, ("h", "w"), ("hn",))]
    return Plan(nodes, {"w": np.ones((500, 500))}, ["h"], ["hn"])


LARGE = {
    "PackedSequence(3 sequences of 10 to 500 steps, data: (910, 7) of float32)":
        lambda: fastlstm.pack_sequence([np.ones((n, 7), "f4") for n in (500, 400, 10)]),
    "PackedSequence(0 sequences of 0 to 0 steps, data: (0,) of float64)":
        lambda: fastlstm.PackedSequence([], []),
    "Gates(i, f, g, o: (50, 8, 100) of float32)": lambda: _ran(return_gates=True)[2][0],
    "Gates(i, f, g, o: PackedSequence(2 sequences of 1 to 9 steps, data: (10, 4) of float32))":
        lambda: LSTM(2, 4, engine="numpy")(
            fastlstm.pack_sequence([np.ones((n, 2), "f4") for n in (9, 1)]), return_gates=True
        )[2][0],
    "Batch(x: (500, 20) of float64, y: (500,) of float64, weights: (500,) of float64)":
        lambda: Arrays(np.zeros((500, 20)), np.zeros(500), np.ones(500))[:],
    "Batch(x: list)": lambda: Batch([1, 2], None),
    "State(epoch 2 of 10, {'loss': 0.25, 'seconds': 1.0})": _state,
    "Cell(w_ih: (400, 64), w_hh: (400, 100), b: (400,) of float64, reverse=True)":
        lambda: Cell(np.ones((400, 64)), np.ones((400, 100)), np.ones(400), reverse=True),
    "Plan(1 nodes, 1 constants, inputs: 'h', outputs: 'hn')": _plan,
    "Limits(1000)": lambda: Limits(1000),
}  # fmt: skip


@pytest.mark.parametrize("expected", LARGE)
def test_repr_of_much(expected):
    """What holds large arrays tells their shapes."""
    assert repr(LARGE[expected]()) == expected


def test_options_of_a_cell_are_told():
    options = Options(coupled="f=1-i")
    cell = Cell(np.ones((8, 1)), np.ones((8, 2)), np.ones(8), options=options)
    assert repr(cell).endswith(f"of float64, reverse=False, {options})")


PUBLIC = [
    fastlstm, fastlstm.training, fastlstm.layers, fastlstm.sequences, fastlstm.formats,
    fastlstm.graphs, fastlstm.visualize, contract,
]  # fmt: skip


def without_repr(modules):
    """Public classes that say of themselves what Python says of any object, or of any dataclass.

    Exceptions have their sentence, protocols have no objects. A tuple or dataclass without a repr
    of its own prints all that it holds, which must be no arrays.
    """
    found = set()
    for module in modules:
        names = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
        for thing in (getattr(module, name) for name in names):
            if not isinstance(thing, type) or not thing.__module__.startswith("fastlstm"):
                continue
            if issubclass(thing, BaseException) or getattr(thing, "_is_protocol", False):
                continue
            own = any("__repr__" in vars(c) for c in thing.__mro__[:-1] if c is not tuple)
            fields = vars(thing).get("__annotations__", {})
            made = issubclass(thing, tuple) or dataclasses.is_dataclass(thing)
            written = inspect.getsourcefile(thing.__repr__) if own else None
            holds_arrays = any("Array" in str(kind) for kind in fields.values())
            if not own or (made and holds_arrays and "fastlstm" not in (written or "")):
                found.add(thing.__name__)
    return found


def test_every_public_class_has_a_repr():
    # `Noise` is drawn inside of layers; the default of a graph's input is a small array.
    assert without_repr(PUBLIC) <= {"Noise", "Port"}


def test_classes_without_a_repr_are_found():
    class Plain:
        pass

    class Arrayed(NamedTuple):
        values: "Array"  # noqa: F821

    @dataclasses.dataclass
    class Data:
        values: "Array"  # noqa: F821

    class Told(Data):
        def __repr__(self):
            return "Told"

    module = types.SimpleNamespace(**{c.__name__: c for c in (Plain, Arrayed, Data, Told)})
    for thing in vars(module).values():
        thing.__module__ = "fastlstm.test"
    assert without_repr([module]) == {"Plain", "Arrayed", "Data"}
