"""Checks of the arguments of `fit`, before any work."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..checks import check_number
from ..layers import Layer
from .callbacks import Callback, State
from .checkpoint import Checkpoint
from .datasets import Data, Dataset, as_dataset
from .interrupts import FLEET
from .optimiser import Optimiser
from .schedules import AnySchedule, OneCycleLR, ReduceLROnPlateau

Metrics = Mapping[str, Callable[[NDArray[Any], NDArray[Any]], Any]]


def named_data(name: str, data: Data) -> Dataset:
    """Return data as `as_dataset` does; errors name the argument."""
    refuse_class(name, data)
    try:
        return as_dataset(data)
    except (TypeError, ValueError) as fault:
        raise about(name, fault) from fault


def check_parts(model: Layer, loss: object, optimizer: object, schedule: Any) -> None:
    """Refuse a loss, an optimiser or a schedule that is none, or that is of another model."""
    parts = {"loss": loss, "optimizer": optimizer, "schedule": schedule}
    for name, part in parts.items():
        refuse_class(name, part)
    if not callable(loss):
        raise TypeError(f"loss should be callable, got: {type(loss).__name__}")
    if type(loss).__module__.partition(".")[0] == "torch":
        raise TypeError(f"loss should be one of this package, got torch's {type(loss).__name__}")
    if not isinstance(optimizer, Optimiser):
        raise TypeError(f"optimizer should be one of this package, got: {type(optimizer).__name__}")
    if optimizer.model is not model:
        raise ValueError("optimizer: Expected the optimiser of this model, got another model's")
    if optimizer._layers != [layer for layer, _, _ in model.buffers()]:
        raise ValueError(
            "optimizer: the model has layers now that it did not have when the optimiser was made; "
            "make another one"
        )
    if not model.learns:
        raise ValueError("model: Expected something to learn, but all of its parameters are frozen")
    model._check_way_back(needed=False)
    if schedule is not None and not hasattr(schedule, "optimizer"):
        raise TypeError(f"schedule should be one of this package, got: {type(schedule).__name__}")
    if schedule is not None and schedule.optimizer is not optimizer:
        raise ValueError("schedule: Expected a schedule of this optimizer, got another one's")
    if isinstance(schedule, ReduceLROnPlateau) and schedule.mode == "max":
        raise ValueError(
            'schedule: ReduceLROnPlateau of mode="max" would see the loss, of which less is '
            "better; call its step with a metric in a callback instead"
        )


def check_loss(result: object, prediction: NDArray[Any]) -> None:
    """Refuse what is not the value and the gradient of a loss."""
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise TypeError(
            "loss should return (value, gradient), the gradient being that of the value with "
            f"respect to the prediction, got: {type(result).__name__}"
        )
    value, gradient = result
    if getattr(value, "ndim", 0):
        raise ValueError(
            f"loss: Expected one number for a batch, got an array of shape {value.shape}; "
            'its reduction must be "mean" or "sum"'
        )
    if not is_number(value):
        raise TypeError(f"loss: Expected a number for a batch, got: {type(value).__name__}")
    if np.shape(gradient) != np.shape(prediction):
        raise ValueError(
            f"loss: Expected a gradient of the prediction's shape {np.shape(prediction)}, got "
            f"{np.shape(gradient)}"
        )


def check_metrics(metrics: Metrics | None) -> Metrics:
    """Return metrics as a dict; refuse names that the history uses itself."""
    if not isinstance(metrics or {}, dict):
        raise TypeError(
            f"metrics should be a dict of names and functions, got: {type(metrics).__name__}"
        )
    checked = dict(metrics or {})
    for name, metric in checked.items():
        if not isinstance(name, str):
            raise TypeError(f"metrics: Expected names, got {name!r}")
        if name in ("loss", "lr", "seconds") or name.startswith("validation_"):
            raise ValueError(f"metrics: {name!r} is a name that the history uses itself")
        refuse_class(f"metrics[{name!r}]", metric)
        if not callable(metric):
            raise TypeError(f"metrics[{name!r}] should be a function, got: {type(metric).__name__}")
    return checked


def in_order(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return the callbacks with checkpoints last: these keep what the others made of the epoch."""
    for callback in callbacks if isinstance(callbacks, (list, tuple)) else ():
        refuse_class("callbacks", callback)
    if not isinstance(callbacks, (list, tuple)) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks should be a list of callables, got {callbacks!r}")
    return sorted(callbacks, key=lambda callback: isinstance(callback, Checkpoint))


def check_resume(resume: str | os.PathLike[str] | None) -> None:
    """Refuse what is no path."""
    if resume is not None and not isinstance(resume, (str, os.PathLike)):
        raise TypeError(f"resume should be the path of a checkpoint, got: {type(resume).__name__}")


def check_changed(changed: Iterable[str]) -> list[str]:
    """Return a list of names; refuse anything else."""
    is_list = isinstance(changed, (list, tuple, set))
    if not is_list or not all(isinstance(name, str) for name in changed):
        raise TypeError(f"changed should be a list of names of arguments, got {changed!r}")
    return list(changed)


def check_schedule_per(schedule: object, schedule_per: object) -> None:
    """Refuse what does not fit a schedule, or a function that makes one."""
    if schedule_per not in (None, "epoch", "batch"):
        raise ValueError(f'schedule_per must be "epoch" or "batch", got {schedule_per!r}')
    if schedule_per == "batch" and (schedule is None or isinstance(schedule, ReduceLROnPlateau)):
        raise ValueError('schedule_per="batch" needs a schedule, and not ReduceLROnPlateau')


def is_per_batch(
    schedule: AnySchedule | None, schedule_per: Literal["epoch", "batch"] | None
) -> bool:
    """Tell whether to step the schedule after each batch."""
    check_schedule_per(schedule, schedule_per)
    return schedule_per == "batch" or (schedule_per is None and isinstance(schedule, OneCycleLR))


def check_clips(clip_norm: float | None, clip_value: float | None) -> None:
    """Refuse bounds of gradients that are no finite numbers above 0."""
    for name, value in {"clip_norm": clip_norm, "clip_value": clip_value}.items():
        if value is not None:
            check_number(name, value, above=0)


def check_steps(state: State, per_batch: bool, batches: int) -> None:
    """Refuse a schedule that would end before the training; tell of one that would not end.

    Nothing is told if there are checkpoints: such a training may be continued, and its schedule may
    have steps for that.
    """
    schedule: Any = state.schedule
    epochs = state.epochs - state.epoch
    most = getattr(schedule, "most_steps", math.inf)
    todo = epochs * (batches if per_batch else 1)
    if most == math.inf or schedule.last_epoch + todo == most:
        return
    sentence = (
        f"schedule: {type(schedule).__name__} has {most} steps, of which {schedule.last_epoch} are "
        f"done, but there will be {todo} more: {epochs} epochs"
    ) + (f" of {batches} batches" if per_batch else "")
    if schedule.last_epoch + todo > most:
        raise ValueError(sentence)
    if not state.made_of and FLEET.get() is None:
        print(f"{sentence}; the learning rate will not come to its end", file=sys.stderr)


def refuse_class(name: str, value: object) -> None:
    """Refuse a class where an object of it is meant."""
    if isinstance(value, type):
        raise TypeError(
            f"{name}: Expected an object, got the class {value.__name__} itself; call it: "
            f"{value.__name__}(...)"
        )


def about(name: str, fault: Exception) -> TypeError | ValueError:
    """Return a TypeError or ValueError that names the argument before the fault."""
    kind = TypeError if isinstance(fault, TypeError) else ValueError
    return kind(f"{name}: {fault}")


def is_number(value: object) -> bool:
    """Tell whether a value is one number, of Python or NumPy."""
    return hasattr(value, "__float__") and not getattr(value, "ndim", 0)
