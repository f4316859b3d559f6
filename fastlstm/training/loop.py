"""The training loop: epochs, batches, and what happens at the end of each.

A step is the same few lines for every model: run it, loss, pullback, update. All the rest is there
for the day when something goes wrong: what is not finite is found before it reaches the weights,
Ctrl-C waits until an update is whole, and the end of an epoch is a `State` that `Checkpoint` can
write down.
"""

import contextlib
import copy
import functools
import inspect
import math
import sys
import time

import numpy as np

from ..checks import check_number
from ..terminal import printable, progress_bar
from .arguments import about, check_loss, is_number
from .callbacks import StopTraining
from .clipping import clip_grad_norm, clip_grad_value
from .datasets import Arrays, Sequences
from .diagnosis import NonFiniteError, first_in_backward, first_in_forward, is_finite
from .early_stopping import EarlyStopping
from .losses import CrossEntropyLoss, Loss
from .schedules import ReduceLROnPlateau
from .view import mode

_LABELS = 2**18  # that are looked at together


class Training:
    """What `fit` does with batches: a step with each of an epoch, and what is at its end."""

    def __init__(
        self, state, view, loss, metrics, per_batch, clip_norm, clip_value, interrupts
    ):  # fmt: skip
        self.state, self.model, self.view, self.loss = state, state.model, view, loss
        self.metrics, self.per_batch, self.interrupts = metrics, per_batch, interrupts
        self.clip_norm, self.clip_value = clip_norm, clip_value
        for name, value in {"clip_norm": clip_norm, "clip_value": clip_value}.items():
            if value is not None:
                check_number(name, value, above=0)
        self.own_loss, self.own_options = loss, {}  # without functools.partial
        while isinstance(self.own_loss, functools.partial):
            self.own_options = self.own_loss.keywords | self.own_options
            self.own_loss = self.own_loss.func
        self.adds_up = getattr(self.own_loss, "reduction", "mean") == "sum"
        self.takes_std = _takes(loss, "std")
        self.measures_after = any(
            isinstance(callback, EarlyStopping) and callback.monitor in ("loss", *metrics)
            for callback in state.callbacks
        )
        buffers = [(layer, parameters) for layer, parameters, _ in state.model.buffers()]
        self.buffers = [(*buffer, np.empty_like(buffer[1])) for buffer in buffers]
        self.place = None  # what the data are, their batches, number of the one at hand

    def check(self, batches, name):
        """Refuse data that do not fit model, loss and metrics."""
        if isinstance(batches.data, Sequences) and batches.data.targets is None:
            raise ValueError(f"{name}: Expected Sequences with targets, got them without")
        rows = np.arange(min(batches.batch_size, len(batches.data)))
        try:
            batch = batches.data[rows]
        except (TypeError, ValueError) as fault:
            raise about(f"{name}: data[indices] of an array of indices", fault) from fault
        with mode(self.model, training=False), np.errstate(all="ignore"):
            try:
                prediction = self.view(batch)
                check_loss(self._call_loss(prediction, batch), prediction)
                self._denominator(prediction, batch)
                if len(batch.y) != len(rows):
                    raise ValueError(f"Expected data[indices] of {len(rows)}, got {len(batch.y)}")
                self._check_classes(batches, prediction)
            except (TypeError, ValueError) as fault:
                raise about(name, fault) from fault
            try:
                self._measure([_counted(prediction, batch)])
            except ValueError:  # for so few samples a metric may have no value; for all it must
                self._measure([_counted(self.view(b), b) for b in batches.epoch(0)])

    def _check_classes(self, batches, prediction):
        """Refuse targets that are no class, wherever they are: sorted data have them at the end."""
        data, rows = batches.data, batches.batch_size
        if not isinstance(self.own_loss, CrossEntropyLoss) or type(data) not in (Arrays, Sequences):
            return
        if type(data) is Arrays:  # without x, which may be large
            data = Arrays(np.zeros(len(data)), data.y, data.weights, mask=data.mask)
            rows = max(rows, _LABELS // max(1, data.y[0].size))
        for first in range(0, len(data), rows):
            batch = data[first : first + rows]
            shape = (*batch.y.shape[: prediction.ndim - 1], *prediction.shape[-1:])
            self._denominator(np.broadcast_to(prediction.dtype.type(0), shape), batch)

    def run(self, batches, held_out, progress, verbose):
        """Train until all epochs are done, or a callback says stop."""
        state, history = self.state, self.state.history
        with _bar(progress, state, len(batches)) as bar:
            while state.epoch < state.epochs and not history.stopped:
                started, lr = time.perf_counter(), state.optimizer.lr
                values = self._epoch(batches, self._learn, "data", bar)
                if self.measures_after:
                    values = self._judged(batches, "data")
                if held_out is not None:
                    judged = self._judged(held_out, "validation")
                    values |= {f"validation_{name}": value for name, value in judged.items()}
                with self.interrupts.held():
                    self._step_schedule(values)
                    values |= {"lr": lr, "seconds": time.perf_counter() - started}
                    for name, value in values.items():
                        history[name].append(value)
                    state.epoch += 1
                shown = printable(", ".join(f"{k} {value:.4g}" for k, value in values.items()))
                line = f"epoch {state.epoch}/{state.epochs}: {shown}"
                if bar is not None:
                    bar.set_postfix_str(shown, refresh=False)
                if verbose:
                    print(line, flush=True) if bar is None else bar.write(line)
                elif progress and bar is None and sys.stderr and not sys.stderr.isatty():
                    print(line, file=sys.stderr, flush=True)
                self._call_back()

    def _epoch(self, batches, step, name, bar=None):
        """The loss and the metrics over all batches of these data, after `step` with each."""
        total = count = 0.0
        seen = []
        for number, batch in enumerate(batches.epoch(self.state.epoch)):
            self.place = name, batches, number
            with np.errstate(all="ignore"):  # what is not finite becomes an error
                value, denominator, prediction = step(batch)
            total += value if self.adds_up or not denominator else value * denominator
            count += denominator
            if self.metrics:
                seen.append(_counted(prediction, batch))
            if bar is not None:
                bar.update()
        if not count:
            raise ValueError(
                f"{name}: no target counts: each is masked, or ignored by the loss, or weighs 0"
            )
        return {"loss": total if self.adds_up else total / count} | self._measure(seen)

    def _judged(self, batches, name):
        """The loss and the metrics over all batches, in evaluation mode."""
        with mode(self.model, training=False):
            return self._epoch(batches, self._judge, name)

    def _measure(self, seen):
        """Each metric of (predictions, targets) that batches gave."""
        values = {}
        for name, metric in self.metrics.items():
            arrays = (np.concatenate(parts) for parts in zip(*seen, strict=True))
            try:
                value = metric(*arrays)
            except (TypeError, ValueError) as fault:
                raise about(f"metrics[{name!r}]", fault) from fault
            if not is_number(value):
                raise TypeError(
                    f"metrics[{name!r}] should return a number, got: {type(value).__name__}"
                )
            values[name] = float(value)
        return values

    def _learn(self, batch):
        """One step of training; returns the loss of before it, its denominator, the prediction."""
        self.model.zero_grad()
        prediction, pullback = self.view.vjp(batch)
        denominator = self._denominator(prediction, batch)
        if not denominator:
            return self._smoothing(prediction, batch), 0.0, prediction
        value, gradient = self._call_loss(prediction, batch)
        if not math.isfinite(value):
            raise self._fault(f"the loss is {value}", batch)
        pullback(gradient)
        optimizer = self.state.optimizer
        if not all(map(is_finite, optimizer.learnt_gradients())):
            raise self._fault("a gradient is not finite", batch, backward=True)
        if self.clip_norm is not None:
            norm = clip_grad_norm(optimizer, self.clip_norm)
            if not math.isfinite(norm):
                raise self._fault(f"the norm of the gradients is {norm}", batch, "that norm")
        if self.clip_value is not None:
            clip_grad_value(optimizer, self.clip_value)
        with self.interrupts.held():
            self._update(batch)
        return value, denominator, prediction

    def _update(self, batch):
        """Change the parameters, or leave them as they are if that makes them infinite."""
        buffers = [buffer for buffer in self.buffers if buffer[0].learns]
        for _, parameters, before in buffers:
            before[...] = parameters
        self.state.optimizer.step()
        if not all(is_finite(parameters) for _, parameters, _ in buffers):
            names = (name for name, p in self.model.state_dict().items() if not is_finite(p))
            name = next(names)
            for layer, parameters, before in buffers:
                parameters[...] = before
                layer.changed()
            if not is_finite(self.model.state_dict()[name]):
                raise self._fault("a parameter is not finite", batch, f"the parameter {name}")
            wrong = f"with lr {self.state.optimizer.lr:g} a parameter would not be finite"
            raise self._fault(wrong, batch, f"the update of {name}")
        if self.per_batch:
            self.state.schedule.step()

    def _judge(self, batch):
        """The loss of a batch in evaluation mode, its denominator, the prediction."""
        prediction = self.view(batch)
        denominator = self._denominator(prediction, batch)
        if denominator:
            value, _ = self._call_loss(prediction, batch)
        else:
            value = self._smoothing(prediction, batch)
        if not math.isfinite(value):
            what = "validation loss" if self.place[0] == "validation" else "loss after the epoch"
            raise self._fault(f"the {what} is {value}", batch)
        return value, denominator, prediction

    def _smoothing(self, prediction, batch):
        """What smoothed labels add to the sum over all where no target's class weighs anything."""
        if not isinstance(self.own_loss, CrossEntropyLoss) or not self.own_loss.label_smoothing:
            return 0.0
        loss = copy.copy(self.own_loss)
        loss.reduction = "sum"
        given = _without_none({"weights": batch.weights, "mask": batch.mask})
        return loss(prediction, batch.y, **given)[0]

    def _call_loss(self, prediction, batch):
        """What the loss returns: its value and gradient."""
        given = _without_none({"weights": batch.weights, "mask": batch.mask})
        if self.takes_std:
            given |= _without_none({"std": getattr(batch, "std", None)})
        if isinstance(self.own_loss, Loss):
            return self.loss(prediction, batch.y, **given)
        try:
            return self.loss(prediction, batch.y, **given)
        except (TypeError, ValueError) as fault:
            arguments = ", ".join(["prediction", "target", *(f"{name}=..." for name in given)])
            raise about(f"loss({arguments})", fault) from fault

    def _denominator(self, prediction, batch):
        """What the loss's mean over a batch divides by, as far as the loss can tell."""
        if not hasattr(self.own_loss, "denominator"):
            return _weight(batch)
        own = {n: v for n, v in self.own_options.items() if n in ("weights", "mask")}
        given = own | _without_none({"weights": batch.weights, "mask": batch.mask})
        return float(self.own_loss.denominator(prediction, batch.y, **given))

    def _step_schedule(self, values):
        schedule = self.state.schedule
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(values.get("validation_loss", values["loss"]))
        elif schedule is not None and not self.per_batch:
            schedule.step()

    def _call_back(self):
        """Call all callbacks, even if one of them ends the training."""
        state = self.state
        for callback in state.callbacks:
            name = getattr(callback, "__name__", type(callback).__name__)
            reason = f"{name} after epoch {state.epoch}"
            try:
                stop = callback(state)
            except StopTraining as request:
                stop, reason = True, request.reason or reason
            if isinstance(stop, (bool, np.bool_)) and stop:
                state.history.stopped = reason

    def _fault(self, what, batch, origin=None, backward=False):
        """The error for the batch at hand; without `origin` it is looked for, forward first."""
        (_, batches, number), epoch = self.place, self.state.epoch
        if origin is None:
            numbers = batches.order(epoch)[number]
            with mode(self.model, training=False):
                origin = first_in_forward(self.view, batch, numbers)
        if origin is None:
            origin = first_in_backward(self.model) if backward else "the loss itself"
        best = [c.best_epoch for c in self.state.callbacks if isinstance(c, EarlyStopping)]
        weights = "the weights of before this batch"
        if any(best):
            weights = f"its best weights, those of epoch {[epoch for epoch in best if epoch][-1]}"
        return NonFiniteError(
            f"epoch {epoch + 1}, batch {number + 1} of {len(batches)}: {what}; first not finite "
            f"was {origin}. The model has {weights}",
            epoch + 1, number + 1, origin, self.state.history,
        )  # fmt: skip


def _weight(batch):
    """How much a batch counts where its loss cannot tell: its samples, or steps, by weight."""
    given = [a for a in (batch.weights, batch.mask) if a is not None]
    if not given:
        return float(len(batch.y))
    axes = max(array.ndim for array in given)
    weights, mask = (
        np.ones((1,) * axes) if a is None else a.reshape(a.shape + (1,) * (axes - a.ndim))
        for a in (batch.weights, batch.mask)
    )
    return float(np.sum(np.where(mask, weights, 0), dtype=np.float64))


def _without_none(options):
    return {name: value for name, value in options.items() if value is not None}


def _takes(function, name):
    """Whether a callable has a parameter of this name, or takes any."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # some that are built in do not say
        return False
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _counted(prediction, batch):
    """Predictions and targets of a batch, only those that its mask lets through."""
    if batch.mask is None:
        return prediction, batch.y
    mask = np.broadcast_to(batch.mask, batch.y.shape[: np.ndim(batch.mask)])
    return prediction[mask], batch.y[mask]


@contextlib.contextmanager
def _bar(progress, state, batches):
    """A bar over all batches that are still to come; None where there is nobody to see it."""
    todo = (state.epochs - state.epoch) * batches
    bar = progress_bar(total=todo, unit="batch") if progress else None
    try:
        yield bar
    finally:
        if bar is not None:
            bar.close()
