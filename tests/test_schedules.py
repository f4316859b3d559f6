"""Schedules: value by value against torch's; resuming; what is refused."""

import math

import numpy as np
import pytest
from errors import raises
from saboteurs import edited
from values import through_a_file

from fastlstm import Linear
from fastlstm.training import (
    SGD,
    Adam,
    CosineAnnealingLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    RMSprop,
    SequentialLR,
    StepLR,
    optimisers,
    schedules,
)

COUNT = 40


SCHEDULES = {
    "step": ("StepLR", dict(step_size=4)),
    "step gamma": ("StepLR", dict(step_size=1, gamma=0.9)),
    "cosine": ("CosineAnnealingLR", dict(T_max=12)),
    "cosine min": ("CosineAnnealingLR", dict(T_max=33, eta_min=0.01)),
    "linear": ("LinearLR", {}),
    "linear down": ("LinearLR", dict(start_factor=1.0, end_factor=0.1, total_iters=20)),
    "one cycle": ("OneCycleLR", dict(max_lr=0.5, total_steps=40)),
    "one cycle epochs": ("OneCycleLR", dict(max_lr=0.5, epochs=5, steps_per_epoch=8)),
    "one cycle linear": ("OneCycleLR", dict(
        max_lr=0.5, total_steps=40, anneal_strategy="linear", pct_start=0.4, div_factor=5.0,
        final_div_factor=100.0, base_momentum=0.8, max_momentum=0.9)),
    "one cycle three": ("OneCycleLR", dict(max_lr=0.5, total_steps=40, three_phase=True)),
    "one cycle plain": ("OneCycleLR", dict(max_lr=0.5, total_steps=40, cycle_momentum=False)),
    "one cycle down": ("OneCycleLR", dict(max_lr=0.5, total_steps=40, pct_start=0.0)),
    "one cycle up": ("OneCycleLR", dict(max_lr=0.5, total_steps=40, pct_start=0.95)),
}  # fmt: skip


def _pair(torch, kind="SGD"):
    """Our optimiser, torch's, and what reads learning rate and momentum of both."""
    model = Linear(1, 1, dtype="float64", seed=0)
    ours = getattr(optimisers, kind)(model, lr=0.2)
    theirs = getattr(torch.optim, kind)([torch.zeros(1, requires_grad=True)], lr=0.2)

    def read():
        group = theirs.param_groups[0]
        if kind == "SGD":
            return (ours.lr, ours.momentum), (group["lr"], group["momentum"])
        return (ours.lr, *ours.betas), (group["lr"], *group["betas"])

    return ours, theirs, read


def _assert_same_rates(read, step):
    """torch multiplies from step to step, each time rounding; near the end of a cosine,
    1 + cos(pi (1 - 1/T)) has only eps T^2 / 5 of its digits: 220 eps for T = 33, for the way back
    up too. Ours is computed anew at each step.
    """
    got, expected = read()
    eps = np.finfo(float).eps
    np.testing.assert_allclose(got, expected, rtol=2 * COUNT * 8 * eps, atol=eps, err_msg=step)


def _step_beside(schedule, theirs, torchs, read):
    """Make `COUNT` steps of a schedule and of torch's; assert that they set the same."""
    _assert_same_rates(read, "at first")
    for step in range(COUNT):
        theirs.step()
        torchs.step()
        schedule.step()
        _assert_same_rates(read, f"after step {step}")


def assert_matches(torch, module, case, kind):
    """Assert that a schedule of `module` sets what torch's does, over `COUNT` steps."""
    name, options = SCHEDULES[case]
    ours, theirs, read = _pair(torch, kind)
    schedule = getattr(module, name)(ours, **options)
    torchs = getattr(torch.optim.lr_scheduler, name)(theirs, **options)
    _step_beside(schedule, theirs, torchs, read)
    assert schedule.last_epoch == torchs.last_epoch == COUNT


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("case", SCHEDULES)
def test_schedule_is_torchs(torch, case, kind):
    assert_matches(torch, schedules, case, kind)


# name -> (a function, a piece of it, what the saboteur has instead, the case that must show it)
EDITS = {
    "a step late": (
        "Schedule.step", "self._apply(self.last_epoch + 1)", "self._apply(self.last_epoch)",
        "step"),
    "nothing at first": ("Schedule.__init__", "self._apply(0)", "pass", "linear"),
    "a factor a step": ("StepLR._rate", "count // self.step_size", "count", "step"),
    "gamma forgotten": ("StepLR._rate", "self.gamma", "0.1", "step gamma"),
    "warm-up goes on": (
        "LinearLR._rate", "min(count, self.total_iters)", "count", "linear down"),
    "ends swapped": (
        "LinearLR._rate", "_line(self.start_factor, self.end_factor, part)",
        "_line(self.end_factor, self.start_factor, part)", "linear"),
    "a line for a cosine": ("CosineAnnealingLR._rate", "_cosine", "_line", "cosine"),
    "minimum forgotten": ("CosineAnnealingLR._rate", "self.eta_min", "0.0", "cosine min"),
    "momentum forgotten": (
        "OneCycleLR._apply", "optimizer.betas = (momentum, *optimizer.betas[1:])", "pass",
        "one cycle"),
    "always a cosine": (
        "OneCycleLR.__init__", '_cosine if anneal_strategy == "cos" else _line', "_cosine",
        "one cycle linear"),
    "a corner late": (
        "OneCycleLR.__init__", "[(0, start, high), (up - 1, top, low), (total - 1, end, high)]",
        "[(0, start, high), (up, top, low), (total - 1, end, high)]", "one cycle"),
    "momentum always": (
        "OneCycleLR._apply", 'self.cycle_momentum and hasattr(optimizer, "betas")', "True",
        "one cycle plain"),
    "two phases": (
        "OneCycleLR.__init__", "self._corners.insert(2, (2 * up - 2, start, high))", "pass",
        "one cycle three"),
    "a digit lost": (
        "OneCycleLR._apply", "self.optimizer.lr = rate", "self.optimizer.lr = rate * (1 + 1e-12)",
        "one cycle"),
}  # fmt: skip


@pytest.mark.parametrize("saboteur", EDITS)
def test_saboteur_is_rejected(torch, saboteur):
    *edit, case = EDITS[saboteur]
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_matches(torch, edited(schedules, *edit), case, "Adam")


@pytest.mark.parametrize("second", ["cosine", "step"])
def test_sequence_is_torchs(torch, second):
    ours, theirs, read = _pair(torch)
    name, options = SCHEDULES[second]
    module = torch.optim.lr_scheduler
    parts = [LinearLR(ours, 0.1), getattr(schedules, name)(ours, **options), StepLR(ours, 2)]
    torchs = [module.LinearLR(theirs, 0.1), getattr(module, name)(theirs, **options),
              module.StepLR(theirs, 2)]  # fmt: skip
    schedule = SequentialLR(ours, parts, [6, 25])
    torchs = module.SequentialLR(theirs, torchs, [6, 25])
    _step_beside(schedule, theirs, torchs, read)


@pytest.mark.parametrize("options", [
    {}, dict(factor=0.5, patience=0), dict(factor=0.5, patience=2, cooldown=3),
    dict(mode="max", patience=1, threshold=0.1), dict(patience=0, threshold_mode="abs", factor=0.3),
    dict(mode="max", threshold_mode="abs", threshold=0.5, patience=3),
    dict(patience=0, min_lr=0.05), dict(patience=0, factor=0.9, eps=0.01),
])  # fmt: skip
def test_plateau_is_torchs(torch, options):
    ours, theirs, read = _pair(torch)
    schedule = ReduceLROnPlateau(ours, **options)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    rng, rates = np.random.default_rng(0), set()
    for step in range(60):
        metric = np.nan if step == 30 else 3 * 0.97**step + rng.random()
        schedule.step(metric)
        torchs.step(metric)
        got, expected = read()
        assert got == expected
        rates.add(ours.lr)
    state, theirs = schedule.state_dict(), torchs.state_dict()
    assert state == {key: theirs[key] for key in state}
    assert len(rates) > 1


@pytest.mark.parametrize("case", [*SCHEDULES, "sequence", "plateau"])
@pytest.mark.parametrize("schedule_first", [False, True])
def test_schedule_resumes(case, schedule_first):
    """It resumes from a checkpoint's file, in both orders of loading."""

    def make():
        optimizer = Adam(Linear(1, 1, seed=0), lr=0.2)
        if case == "sequence":
            parts = [LinearLR(optimizer, 0.1), CosineAnnealingLR(optimizer, 9)]
            return optimizer, SequentialLR(optimizer, parts, [6])
        if case == "plateau":
            return optimizer, ReduceLROnPlateau(optimizer, patience=1, factor=0.5, cooldown=2)
        name, options = SCHEDULES[case]
        return optimizer, getattr(schedules, name)(optimizer, **options)

    def step(schedule, number):
        schedule.step(*([number % 7 + 1.0] if case == "plateau" else []))

    optimizer, schedule = make()
    for number in range(13):
        step(schedule, number)
    states = through_a_file(optimizer.state_dict()), through_a_file(schedule.state_dict())
    other, resumed = make()
    loads = [(other, states[0]), (resumed, states[1])]
    for thing, state in reversed(loads) if schedule_first else loads:
        thing.load_state_dict(state)
    for number in range(13, 30):
        assert (other.lr, other.betas) == (optimizer.lr, optimizer.betas)
        step(schedule, number)
        step(resumed, number)
    assert resumed.state_dict() == schedule.state_dict()


def test_a_schedule_begins_where_the_optimiser_is():
    optimizer = SGD(Linear(1, 1), lr=1.0)
    optimizer.lr = 0.5
    StepLR(optimizer, 1, 0.5)
    assert optimizer.lr == optimizer.initial_lr == 0.5


def test_one_cycle_may_go_up_only():
    """There torch divides by zero in the end."""
    optimizer = SGD(Linear(1, 1))
    schedule = OneCycleLR(optimizer, 0.5, 4, pct_start=1.0, anneal_strategy="linear", div_factor=5)
    rates = [optimizer.lr]
    for _ in range(3):
        schedule.step()
        rates.append(optimizer.lr)
    np.testing.assert_allclose(rates, np.linspace(0.1, 0.5, 4), rtol=1e-15)
    schedule.step()
    assert optimizer.lr == pytest.approx(0.1 / 1e4)


def test_one_cycle_ends():
    optimizer = RMSprop(Linear(1, 1))
    schedule = OneCycleLR(optimizer, 0.5, 3)
    for _ in range(3):
        schedule.step()
    before = optimizer.lr
    raises(schedule.step, ValueError,
           "Tried to step 4 times. The specified number of total steps is 3")  # fmt: skip
    raises(lambda: schedule.load_state_dict({"last_epoch": 9}), ValueError,
           "Tried to step 9 times. The specified number of total steps is 3")  # fmt: skip
    assert (optimizer.lr, schedule.last_epoch) == (before, 3)


def test_bad_schedules():
    optimizer = SGD(Linear(1, 1))
    other = StepLR(SGD(Linear(1, 1)), 2)
    bad = {
        "step_size must be greater than zero, got 0": lambda: StepLR(optimizer, 0),
        "gamma must be a finite number of at least 0, got -1": lambda: StepLR(optimizer, 1, -1),
        "start_factor must be a finite number above 0 and of at most 1, got 0": lambda: LinearLR(
            optimizer, 0
        ),
        "eta_min must be a finite number of at least 0, got nan": lambda: CosineAnnealingLR(
            optimizer, 3, math.nan
        ),
        "You must define either total_steps OR (epochs AND steps_per_epoch)": lambda: OneCycleLR(
            optimizer, 1.0, epochs=3
        ),
        "anneal_strategy must be cos or linear, got 'tanh'": lambda: OneCycleLR(
            optimizer, 1.0, 3, anneal_strategy="tanh"
        ),
        "SequentialLR expects all schedules to be of its optimizer": lambda: SequentialLR(
            optimizer, [other], []
        ),
        "SequentialLR expects one milestone less than schedules, got 1 for 1": lambda: SequentialLR(
            other.optimizer, [other], [3]
        ),
        "milestones must increase, got [3, 3]": lambda: SequentialLR(
            other.optimizer, [other, other, other], [3, 3]
        ),
        "mode must be min or max, got 'best'": lambda: ReduceLROnPlateau(optimizer, "best"),
        "threshold_mode must be rel or abs, got 'none'": lambda: ReduceLROnPlateau(
            optimizer, threshold_mode="none"
        ),
        "factor must be a finite number of at least 0 and below 1, got 1": lambda: (
            ReduceLROnPlateau(optimizer, factor=1)
        ),
        "StepLR: Expected a state with last_epoch, got ['epoch']": lambda: other.load_state_dict(
            {"epoch": 3}
        ),
        "StepLR: Expected a state with last_epoch, got NoneType": lambda: other.load_state_dict(
            None
        ),
    }
    for sentence, call in bad.items():
        raises(call, ValueError, sentence)
    raises(lambda: StepLR(Linear(1, 1), 3), TypeError,
           "optimizer should be one of this package, got: Linear")  # fmt: skip
    raises(lambda: SequentialLR(optimizer, [ReduceLROnPlateau(optimizer)], []), TypeError,
           "SequentialLR takes schedules that go by steps, got ReduceLROnPlateau")  # fmt: skip
    with pytest.raises(ValueError, match="StepLR: Expected numbers, got"):
        other.load_state_dict({"last_epoch": "three"})
    assert optimizer.lr == 1e-3 and math.isnan(optimizer.initial_lr)
