"""Schedules of the learning rate, under torch's names and with its values.

A schedule sets ``optimizer.lr`` when it is made, for step 0, and at each ``schedule.step()``. That
is called after the optimiser's step, once per epoch or, as a one-cycle policy needs it, once per
batch. What it sets depends on two numbers only: how many steps it has made, and the learning rate
that the optimiser had when its first schedule was made, ``optimizer.initial_lr``. So rounding
errors do not add up, and a resumed schedule continues exactly. Two schedules on one optimiser do
not multiply, as torch's do: `SequentialLR` puts one after the other. `ReduceLROnPlateau` alone
works on the learning rate that it finds.
"""

from __future__ import annotations

import bisect
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

from ..checks import check_bool, check_number, check_size
from .optimiser import Optimiser


class ScheduleLike(Protocol):
    """What `fit` asks of a schedule: it may be of your own making."""

    @property
    def optimizer(self) -> Optimiser:
        """The optimiser whose learning rate it sets."""
        ...

    def step(self) -> object:
        """Set the next learning rate."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """Return what changes from step to step."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> object:
        """Take over what `state_dict` returned."""
        ...


class _Stateful:
    """What all schedules of this module share: an optimiser, and a state that can be kept."""

    counted: ClassVar[tuple[str, ...]] = ("last_epoch",)  # the names of the state's numbers
    most_steps: float = math.inf  # how often `step` may be called in all
    base_lr: float
    last_epoch: int

    def __init__(self, optimizer: Optimiser) -> None:
        if not isinstance(optimizer, Optimiser):
            raise TypeError(
                f"optimizer should be one of this package, got: {type(optimizer).__name__}"
            )
        self.optimizer = optimizer

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._arguments().items())
        return f"{type(self).__name__}({shown}) after {self.last_epoch} steps"

    def _arguments(self) -> dict[str, object]:
        """Return what the schedule was made with, for `repr`."""
        left_out = ("optimizer", "base_lr", "most_steps", *self.counted)
        return {
            name: value
            for name, value in vars(self).items()
            if name not in left_out and not name.startswith("_")
        }

    def begin_from(self, base_lr: float) -> None:
        """Continue as if the learning rate of step 0 had been `base_lr`."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from step to step, by torch's names.

        Returns
        -------
        dict of str -> number
            For a schedule made anew with the same arguments. The learning rate is not in it, as it
            is in the state of the optimiser.
        """
        return {name: getattr(self, name) for name in self.counted}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; load the state of the optimiser before.

        Raises
        ------
        ValueError
            If it is not such a state; nothing has been changed.
        """
        if not hasattr(state_dict, "keys") or set(state_dict) != set(self.counted):
            got = sorted(state_dict) if hasattr(state_dict, "keys") else type(state_dict).__name__
            raise ValueError(
                f"{type(self).__name__}: Expected a state with {', '.join(self.counted)}, got {got}"
            )
        values: dict[str, Any] = {}
        for name, value in state_dict.items():  # counts are ints, the best metric is a float
            is_count = isinstance(getattr(self, name), int)
            try:
                values[name] = operator.index(value) if is_count else float(value)
            except (TypeError, ValueError, OverflowError) as error:
                kind = "Expected numbers"
                raise ValueError(f"{type(self).__name__}: {kind}, got {error}") from error
            if is_count and not 0 <= values[name] < 2**53:
                raise ValueError(
                    f"{type(self).__name__}: Expected a count as {name}, got {values[name]}"
                )
        self._resume(values)

    def _resume(self, values: dict[str, Any]) -> None:
        """Continue from these values of the state."""
        self.__dict__.update(values)


class Schedule(_Stateful):
    """A schedule that counts its steps; a subclass says which learning rate belongs to a count."""

    def __init__(self, optimizer: Optimiser) -> None:
        super().__init__(optimizer)
        if math.isnan(optimizer.initial_lr):
            optimizer.initial_lr = optimizer.lr
        self.base_lr = optimizer.initial_lr
        self.last_epoch = 0
        self._apply(0)

    def _rate(self, count: int) -> float:
        """Return the learning rate after `count` steps."""
        raise NotImplementedError

    def _apply(self, count: int) -> None:
        """Set what belongs to this count."""
        self.optimizer.lr = self._rate(count)

    def begin_from(self, base_lr: float) -> None:
        """Continue as if the learning rate of step 0 had been `base_lr`."""
        self.base_lr = self.optimizer.initial_lr = base_lr
        self._apply(self.last_epoch)

    def step(self) -> None:
        """Set the next learning rate."""
        self._apply(self.last_epoch + 1)
        self.last_epoch += 1

    def _resume(self, values: dict[str, Any]) -> None:
        self._apply(values["last_epoch"])
        super()._resume(values)


class StepLR(Schedule):
    """Multiplies the learning rate by `gamma` every `step_size` steps.

    Parameters
    ----------
    optimizer : SGD, RMSprop, Adam or AdamW
    step_size : int > 0
    gamma : float >= 0

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type.

    Notes
    -----
    Source: torch.optim.lr_scheduler.StepLR.

    Examples
    --------
    >>> optimizer = fastlstm.training.SGD(fastlstm.Linear(1, 1), lr=8.0)
    >>> schedule = fastlstm.training.StepLR(optimizer, step_size=1, gamma=0.5)
    >>> schedule.step()
    >>> optimizer.lr
    4.0
    """

    def __init__(self, optimizer: Optimiser, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = check_size("step_size", step_size)
        self.gamma = check_number("gamma", gamma, least=0)
        super().__init__(optimizer)

    def _rate(self, count: int) -> float:
        return self.optimizer.initial_lr * self.gamma ** (count // self.step_size)


class LinearLR(Schedule):
    """Warm-up: the learning rate rises linearly, from `start_factor` to `end_factor` times itself.

    Parameters
    ----------
    optimizer : SGD, RMSprop, Adam or AdamW
    start_factor : float in (0, 1]
    end_factor : float in [0, 1]
    total_iters : int > 0
        The number of steps until `end_factor` is reached. After that it stays.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type.

    Notes
    -----
    Source: torch.optim.lr_scheduler.LinearLR.

    Examples
    --------
    >>> optimizer = fastlstm.training.SGD(fastlstm.Linear(1, 1), lr=8.0)
    >>> schedule = fastlstm.training.LinearLR(optimizer, start_factor=0.25, total_iters=3)
    >>> optimizer.lr
    2.0
    >>> schedule.step()
    >>> optimizer.lr
    4.0
    """

    def __init__(
        self,
        optimizer: Optimiser,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        self.start_factor = check_number("start_factor", start_factor, above=0, most=1)
        self.end_factor = check_number("end_factor", end_factor, least=0, most=1)
        self.total_iters = check_size("total_iters", total_iters)
        super().__init__(optimizer)

    def _rate(self, count: int) -> float:
        part = min(count, self.total_iters) / self.total_iters
        return self.optimizer.initial_lr * _line(self.start_factor, self.end_factor, part)


class CosineAnnealingLR(Schedule):
    """Half a cosine from the learning rate down to `eta_min` in `T_max` steps, then up again.

    Parameters
    ----------
    optimizer : SGD, RMSprop, Adam or AdamW
    T_max : int > 0
    eta_min : float >= 0

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type.

    Notes
    -----
    Sources: Loshchilov & Hutter 2017; torch.optim.lr_scheduler.CosineAnnealingLR.

    Examples
    --------
    >>> optimizer = fastlstm.training.SGD(fastlstm.Linear(1, 1), lr=8.0)
    >>> schedule = fastlstm.training.CosineAnnealingLR(optimizer, T_max=2, eta_min=1.0)
    >>> schedule.step()
    >>> optimizer.lr
    4.5
    """

    def __init__(self, optimizer: Optimiser, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max = check_size("T_max", T_max)
        self.eta_min = check_number("eta_min", eta_min, least=0)
        super().__init__(optimizer)

    def _rate(self, count: int) -> float:
        return _cosine(self.optimizer.initial_lr, self.eta_min, count / self.T_max)


def _line(start: float, end: float, part: float) -> float:
    return start + (end - start) * part


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


class OneCycleLR(Schedule):
    """One cycle: the learning rate rises to `max_lr`, then falls to almost 0, batch by batch.

    Meanwhile the momentum falls and rises.

    Parameters
    ----------
    optimizer : SGD, RMSprop, Adam or AdamW
        Its own learning rate does not matter.
    max_lr : float >= 0
    total_steps : int > 0, optional
        If it is not given, it is `epochs` times `steps_per_epoch`.
    epochs, steps_per_epoch : int > 0, optional
    pct_start : float in [0, 1]
        The share of the steps in which the learning rate rises.
    anneal_strategy : {"cos", "linear"}
    cycle_momentum : bool
        Set ``optimizer.momentum``, or the first of ``optimizer.betas``, too.
    base_momentum, max_momentum : float in [0, 1)
        The momentum at the highest learning rate, and that at the beginning and the end.
    div_factor : float > 0
        The learning rate begins with max_lr / div_factor.
    final_div_factor : float > 0
        The learning rate ends with max_lr / div_factor / final_div_factor.
    three_phase : bool
        Fall to the learning rate of the beginning in as many steps as it rose, then to the end's.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type. `step` raises ValueError if it was
        called `total_steps` times already.

    Notes
    -----
    Sources: Smith & Topin 2019; torch.optim.lr_scheduler.OneCycleLR.

    Examples
    --------
    >>> optimizer = fastlstm.training.Adam(fastlstm.Linear(1, 1))
    >>> schedule = fastlstm.training.OneCycleLR(optimizer, max_lr=1, total_steps=10, div_factor=4)
    >>> optimizer.lr, optimizer.betas
    (0.25, (0.95, 0.999))
    >>> schedule.step()
    >>> schedule.step()
    >>> optimizer.lr, optimizer.betas
    (1.0, (0.85, 0.999))
    """

    def __init__(
        self,
        optimizer: Optimiser,
        max_lr: float,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError(
                    "You must define either total_steps OR (epochs AND steps_per_epoch)"
                )
            total_steps = check_size("epochs", epochs)
            total_steps *= check_size("steps_per_epoch", steps_per_epoch)
        self.total_steps = total = check_size("total_steps", total_steps)
        self.most_steps = total
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be cos or linear, got {anneal_strategy!r}")
        self._between = _cosine if anneal_strategy == "cos" else _line
        self.cycle_momentum = check_bool("cycle_momentum", cycle_momentum)
        up = check_number("pct_start", pct_start, least=0, most=1) * total
        top = check_number("max_lr", max_lr, least=0)
        start = top / check_number("div_factor", div_factor, above=0)
        end = start / check_number("final_div_factor", final_div_factor, above=0)
        low = check_number("base_momentum", base_momentum, least=0, below=1)
        high = check_number("max_momentum", max_momentum, least=0, below=1)
        # (count, learning rate, momentum) at the corners
        self._corners: list[tuple[float, float, float]] = [
            (0, start, high), (up - 1, top, low), (total - 1, end, high),
        ]  # fmt: skip
        if check_bool("three_phase", three_phase):
            self._corners.insert(2, (2 * up - 2, start, high))
        super().__init__(optimizer)

    def _arguments(self) -> dict[str, object]:
        return {"max_lr": self._corners[1][1], **super()._arguments()}

    def _at(self, count: int) -> list[float]:
        """Return the learning rate and the momentum after `count` steps."""
        if count > self.total_steps:
            raise ValueError(
                f"Tried to step {count} times. The specified number of total steps is "
                f"{self.total_steps}"
            )
        corners = self._corners
        phase = next((k for k in range(1, len(corners) - 1) if count <= corners[k][0]), -1)
        begin, *from_ = corners[phase - 1]
        end, *to = corners[phase]
        part = (count - begin) / (end - begin) if end != begin else 1.0
        return [self._between(a, b, part) for a, b in zip(from_, to, strict=True)]

    def _rate(self, count: int) -> float:
        return self._at(count)[0]

    def _apply(self, count: int) -> None:
        rate, momentum = self._at(count)
        self.optimizer.lr = rate
        optimizer: Any = self.optimizer  # which of the two it has is not known
        if self.cycle_momentum and hasattr(optimizer, "betas"):
            optimizer.betas = (momentum, *optimizer.betas[1:])
        elif self.cycle_momentum:
            optimizer.momentum = momentum


class SequentialLR(Schedule):
    """Several schedules, one after the other, such as a warm-up and what follows it.

    Parameters
    ----------
    optimizer : SGD, RMSprop, Adam or AdamW
    schedulers : list of schedules of this optimiser
        Each begins with its own step 0. Only the `step` of the SequentialLR is to be called. None
        of them may be a ReduceLROnPlateau.
    milestones : list of int, increasing
        After how many steps the second one begins, the third one, and so on.

    Raises
    ------
    ValueError, TypeError
        If a schedule is of another optimiser, or the milestones are not one fewer than the
        schedules.

    Notes
    -----
    Source: torch.optim.lr_scheduler.SequentialLR.

    Examples
    --------
    >>> optimizer = fastlstm.training.Adam(fastlstm.Linear(1, 1), lr=8.0)
    >>> warm_up = fastlstm.training.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> halved = fastlstm.training.StepLR(optimizer, step_size=1, gamma=0.5)
    >>> schedule = fastlstm.training.SequentialLR(optimizer, [warm_up, halved], milestones=[2])
    >>> rates = [optimizer.lr]
    >>> for _ in range(4):
    ...     schedule.step()
    ...     rates.append(optimizer.lr)
    >>> rates
    [4.0, 6.0, 8.0, 4.0, 2.0]
    """

    def __init__(
        self, optimizer: Optimiser, schedulers: Sequence[Schedule], milestones: Sequence[int]
    ) -> None:
        self._schedulers = list(schedulers)
        for schedule in self._schedulers:
            if not isinstance(schedule, Schedule):
                raise TypeError(
                    f"SequentialLR takes schedules that go by steps, got {type(schedule).__name__}"
                )
            if schedule.optimizer is not optimizer:
                raise ValueError("SequentialLR expects all schedules to be of its optimizer")
        self._starts = [0, *(check_size("milestone", count) for count in milestones)]
        if len(self._starts) != len(self._schedulers):
            raise ValueError(
                f"SequentialLR expects one milestone less than schedules, got {len(milestones)} "
                f"for {len(self._schedulers)}"
            )
        if sorted(set(self._starts)) != self._starts:
            raise ValueError(f"milestones must increase, got {list(milestones)}")
        ends = zip(self._schedulers, self._starts, [*self._starts[1:], math.inf], strict=True)
        over = [
            start + s.most_steps for s, start, next_ in ends if start + s.most_steps < next_ - 1
        ]
        self.most_steps = min(over, default=math.inf)
        super().__init__(optimizer)

    def _arguments(self) -> dict[str, object]:
        return {"schedulers": self._schedulers, "milestones": self._starts[1:]}

    def _apply(self, count: int) -> None:
        number = bisect.bisect_right(self._starts, count) - 1
        self._schedulers[number]._apply(count - self._starts[number])


class ReduceLROnPlateau(_Stateful):
    """Multiplies the learning rate by `factor` when a metric no longer gets better.

    Parameters
    ----------
    optimizer : SGD, RMSprop, Adam or AdamW
    mode : {"min", "max"}
        Whether a lower or a higher metric is better.
    factor : float in [0, 1)
    patience : int >= 0
        So many steps in a row may pass without a better metric. At the next one the learning rate
        is reduced.
    threshold : float >= 0
        A metric is better only if it is better by more than this.
    threshold_mode : {"rel", "abs"}
        Whether `threshold` is a share of the best metric, or in its unit.
    cooldown : int >= 0
        So many steps after a reduction are not counted.
    min_lr : float >= 0
        The learning rate is not reduced below this.
    eps : float >= 0
        A reduction by no more than this is not made.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type.

    Notes
    -----
    A metric that is nan is not better. Source: torch.optim.lr_scheduler.ReduceLROnPlateau.

    Examples
    --------
    >>> optimizer = fastlstm.training.SGD(fastlstm.Linear(1, 1), lr=8.0)
    >>> schedule = fastlstm.training.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     schedule.step(loss)
    >>> optimizer.lr
    4.0
    """

    counted = ("last_epoch", "best", "num_bad_epochs", "cooldown_counter")

    def __init__(
        self,
        optimizer: Optimiser,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be min or max, got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold_mode must be rel or abs, got {threshold_mode!r}")
        self.factor = check_number("factor", factor, least=0, below=1)
        self.patience = check_size("patience", patience, least=0)
        self.threshold = check_number("threshold", threshold, least=0)
        self.cooldown = check_size("cooldown", cooldown, least=0)
        self.min_lr = check_number("min_lr", min_lr, least=0)
        self.eps = check_number("eps", eps, least=0)
        self.mode, self.threshold_mode = mode, threshold_mode
        super().__init__(optimizer)
        self.base_lr = optimizer.lr
        self.last_epoch = self.num_bad_epochs = self.cooldown_counter = 0
        self.best = math.inf if mode == "min" else -math.inf

    def step(self, metric: float) -> None:
        """Take the metric of another epoch, and reduce the learning rate if it is time.

        Parameters
        ----------
        metric : float
        """
        metric = float(metric)
        self.last_epoch += 1
        if self._is_better(metric):
            self.best, self.num_bad_epochs = metric, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            lr = max(self.optimizer.lr * self.factor, self.min_lr)
            if self.optimizer.lr - lr > self.eps:
                self.optimizer.lr = lr
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def begin_from(self, base_lr: float) -> None:
        """Continue with this learning rate, as if it had been found there."""
        self.base_lr = self.optimizer.lr = base_lr

    def _is_better(self, metric: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            bar = self.best * (1 + sign * self.threshold)
        else:
            bar = self.best + sign * self.threshold
        return metric > bar if self.mode == "max" else metric < bar


AnySchedule = ScheduleLike | ReduceLROnPlateau
