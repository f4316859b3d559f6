"""What is asked of the arguments of `fit`, before any work."""

import math
import sys

import numpy as np

from .checkpoint import Checkpoint
from .datasets import as_dataset
from .optimiser import Optimiser
from .schedules import OneCycleLR, ReduceLROnPlateau


def named_data(name, data):
    """As `as_dataset`; errors say which data it is about."""
    refuse_class(name, data)
    try:
        return as_dataset(data)
    except (TypeError, ValueError) as fault:
        raise about(name, fault) from fault


def check_parts(model, loss, optimizer, schedule):
    """Refuse a loss, optimiser or schedule that is none, or another model's."""
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
    if not model.learns:
        raise ValueError("model: Expected something to learn, but all of its parameters are frozen")
    if schedule is not None and not hasattr(schedule, "optimizer"):
        raise TypeError(f"schedule should be one of this package, got: {type(schedule).__name__}")
    if schedule is not None and schedule.optimizer is not optimizer:
        raise ValueError("schedule: Expected a schedule of this optimizer, got another one's")
    if isinstance(schedule, ReduceLROnPlateau) and schedule.mode == "max":
        raise ValueError(
            'schedule: ReduceLROnPlateau of mode="max" would see the loss, of which less is '
            "better; call its step with a metric in a callback instead"
        )


def check_loss(result, prediction):
    """Refuse what is not the value and gradient of a loss."""
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


def check_metrics(metrics):
    """Return metrics as a dict of functions by names that the history has free."""
    if not isinstance(metrics or {}, dict):
        raise TypeError(
            f"metrics should be a dict of names and functions, got: {type(metrics).__name__}"
        )
    metrics = dict(metrics or {})
    for name, metric in metrics.items():
        if not isinstance(name, str):
            raise TypeError(f"metrics: Expected names, got {name!r}")
        if name in ("loss", "lr", "seconds") or name.startswith("validation_"):
            raise ValueError(f"metrics: {name!r} is a name that the history has for itself")
        refuse_class(f"metrics[{name!r}]", metric)
        if not callable(metric):
            raise TypeError(f"metrics[{name!r}] should be a function, got: {type(metric).__name__}")
    return metrics


def in_order(callbacks):
    """The callbacks as a list, checkpoints last: they keep what the others made of the epoch."""
    for callback in callbacks if isinstance(callbacks, (list, tuple)) else ():
        refuse_class("callbacks", callback)
    if not isinstance(callbacks, (list, tuple)) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks should be a list of callables, got {callbacks!r}")
    return sorted(callbacks, key=lambda callback: isinstance(callback, Checkpoint))


def check_changed(changed):
    """Refuse what is no list of names."""
    is_list = isinstance(changed, (list, tuple, set))
    if not is_list or not all(isinstance(name, str) for name in changed):
        raise TypeError(f"changed should be a list of names of arguments, got {changed!r}")
    return list(changed)


def is_per_batch(schedule, schedule_per):
    """Whether to step the schedule after each batch."""
    if schedule_per not in (None, "epoch", "batch"):
        raise ValueError(f'schedule_per must be "epoch" or "batch", got {schedule_per!r}')
    if schedule_per == "batch" and (schedule is None or isinstance(schedule, ReduceLROnPlateau)):
        raise ValueError('schedule_per="batch" needs a schedule, and not ReduceLROnPlateau')
    return schedule_per == "batch" or (schedule_per is None and isinstance(schedule, OneCycleLR))


def check_steps(state, per_batch, batches):
    """Refuse a schedule that would come to its end before the training; say so of one that won't.

    Not with checkpoints: such a training may be gone on with, and its schedule have steps for that.
    """
    schedule, epochs = state.schedule, state.epochs - state.epoch
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
    if not state.made_of:
        print(f"{sentence}; the learning rate will not come to its end", file=sys.stderr)


def refuse_class(name, value):
    if isinstance(value, type):
        raise TypeError(
            f"{name}: Expected an object, got the class {value.__name__} itself; call it: "
            f"{value.__name__}(...)"
        )


def about(name, fault):
    """A TypeError or ValueError that says which argument it is about."""
    kind = TypeError if isinstance(fault, TypeError) else ValueError
    return kind(f"{name}: {fault}")


def is_number(value):
    return hasattr(value, "__float__") and not getattr(value, "ndim", 0)
