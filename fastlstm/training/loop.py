"""The training loop: epochs, batches, and what happens at the end of each.

A step is the same few lines for every model: run the model, compute the loss, run the pullback,
update. The rest is there for the case that something goes wrong: what is not finite is found before
it reaches the weights, Ctrl-C waits until an update is whole, and the end of an epoch is a `State`
that `Checkpoint` can write down.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..terminal import printable, progress_bar
from .arguments import Metrics, about, check_clips, check_loss, is_number
from .batch_loss import BatchLoss
from .batches import Batches
from .callbacks import Callback, State, StopTraining
from .clipping import clip_grad_norm, clip_grad_value
from .datasets import Arrays, Batch, Dataset, Sequences
from .diagnosis import NonFiniteError, first_in_backward, first_in_forward
from .early_stopping import EarlyStopping
from .interrupts import Interrupts
from .losses import CrossEntropyLoss, LossFunction
from .schedules import ReduceLROnPlateau
from .view import SamplesFirst, mode

_LABELS = 2**18  # so many targets are checked at a time

_Outcome = tuple[float, float, NDArray[Any]]  # loss of a batch, its denominator, the prediction


class Place(NamedTuple):
    """The batch at hand: "data" or "validation", their batches, and its number among them."""

    name: str
    batches: Batches
    number: int


class Training:
    """What `fit` does with batches: it checks the first, learns from each, and measures epochs."""

    def __init__(
        self,
        state: State,
        view: SamplesFirst,
        loss: LossFunction,
        metrics: Metrics,
        per_batch: bool,
        clip_norm: float | None,
        clip_value: float | None,
        interrupts: Interrupts,
    ) -> None:
        self.state, self.model, self.view = state, state.model, view
        self.loss, self.metrics = BatchLoss(loss), metrics
        self.per_batch, self.interrupts = per_batch, interrupts
        self.clip_norm, self.clip_value = clip_norm, clip_value
        check_clips(clip_norm, clip_value)
        # EarlyStopping keeps the weights at the end of an epoch: what it monitors must be theirs.
        self.measures_after = any(
            isinstance(callback, EarlyStopping) and callback.monitor in ("loss", *metrics)
            for callback in state.callbacks
        )
        # (layer, its parameters, room for what they were before an update)
        buffers = [(layer, parameters) for layer, parameters, _ in state.model.buffers()]
        self.buffers = [(*buffer, np.empty_like(buffer[1])) for buffer in buffers]
        self.place: Place | None = None  # for errors

    def check(self, batches: Batches, name: str) -> None:
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
                check_loss(self.loss(prediction, batch), prediction)
                self.loss.denominator(prediction, batch)
                if len(batch.y) != len(rows):
                    raise ValueError(f"Expected data[indices] of {len(rows)}, got {len(batch.y)}")
                self._check_classes(batches, prediction)
            except (TypeError, ValueError) as fault:
                raise about(name, fault) from fault
            try:
                self._measure([counted(prediction, batch)])
            except ValueError:  # a metric may have no value for so few samples, but must for all
                self._measure([counted(self.view(b), b) for b in batches.epoch(0)])

    def _check_classes(self, batches: Batches, prediction: NDArray[Any]) -> None:
        """Refuse targets that are no class, in all batches: sorted data have them in the last."""
        data: Dataset = batches.data
        rows = batches.batch_size
        if not isinstance(self.loss.unwrapped, CrossEntropyLoss):
            return
        if type(data) is Arrays:  # without x, which may be large
            data = Arrays(np.zeros(len(data)), data.y, data.weights, mask=data.mask)
            rows = max(rows, _LABELS // max(1, data.y[0].size))
        elif type(data) is not Sequences:
            return
        for first in range(0, len(data), rows):
            batch = data[first : first + rows]
            shape = (*batch.y.shape[: prediction.ndim - 1], *prediction.shape[-1:])
            self.loss.denominator(np.broadcast_to(prediction.dtype.type(0), shape), batch)

    def run(
        self, batches: Batches, held_out: Batches | None, progress: bool, verbose: bool
    ) -> None:
        """Train until all epochs are done, or a callback ends the training."""
        state = self.state
        with _bar(progress, state, len(batches)) as bar:
            while state.epoch < state.epochs and not state.history.stopped:
                started, lr = time.perf_counter(), state.optimizer.lr
                values = self._values_of_an_epoch(batches, held_out, bar)
                with self.interrupts.held():
                    self._step_schedule(values)
                    values |= {"lr": lr, "seconds": self._seconds_since(started)}
                    for name, value in values.items():
                        state.history[name].append(value)
                    state.epoch += 1
                report = functools.partial(_report, state, values, bar, progress, verbose)
                self._end_epoch(report)

    def _seconds_since(self, started: float) -> float:
        return time.perf_counter() - started

    def _end_epoch(self, report: Callable[[], None]) -> None:
        """Report an epoch, which is in the history now, and call all callbacks."""
        report()
        self._call(self.state.callbacks)

    def _values_of_an_epoch(
        self, batches: Batches, held_out: Batches | None, bar: Any
    ) -> dict[str, float]:
        """Learn from all batches once; return loss and metrics, of the validation data too."""
        values = self._epoch(batches, "data", learn=True, bar=bar)
        if self.measures_after:
            values = self._evaluated(batches, "data")
        if held_out is not None:
            evaluated = self._evaluated(held_out, "validation")
            values |= {f"validation_{name}": value for name, value in evaluated.items()}
        return values

    def _epoch(self, batches: Batches, name: str, learn: bool, bar: Any = None) -> dict[str, float]:
        """Learn from each batch, or evaluate it; return loss and metrics over all of them."""
        step = self._learn if learn else self._evaluate
        total = count = 0.0
        seen = []
        for number, batch in enumerate(batches.epoch(self.state.epoch)):
            self.interrupts.check()
            self.place = Place(name, batches, number)
            with np.errstate(all="ignore"):  # what is not finite becomes an error
                value, denominator, prediction = step(batch)
            value = float(value)  # a loss of one's own may give a float32
            total += value if self.loss.adds_up or not denominator else value * denominator
            count += denominator
            if self.metrics:
                seen.append(counted(prediction, batch))
            if bar is not None:
                bar.update()
        return {"loss": self._mean(name, total, count)} | self._measure(seen)

    def _mean(self, name: str, total: float, count: float) -> float:
        """Return the loss of all batches from their sums; refuse targets of which none counts."""
        if not count:
            raise ValueError(
                f"{name}: no target counts: each is masked, or ignored by the loss, or weighs 0"
            )
        return total if self.loss.adds_up else total / count

    def _evaluated(self, batches: Batches, name: str) -> dict[str, float]:
        """Return the loss and the metrics over all batches, in evaluation mode."""
        with mode(self.model, training=False):
            return self._epoch(batches, name, learn=False)

    def _measure(self, seen: list[tuple[NDArray[Any], NDArray[Any]]]) -> dict[str, float]:
        """Return each metric of the (predictions, targets) of batches."""
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

    def _learn(self, batch: Batch) -> _Outcome:
        """Make a step of training; return the loss from before it."""
        self.model.zero_grad()
        prediction, pullback = self.view.vjp(batch)
        denominator = self.loss.denominator(prediction, batch)
        if not denominator:
            return self.loss.of_weightless(prediction, batch), 0.0, prediction
        value, gradient = self.loss(prediction, batch)
        if not math.isfinite(value):
            raise self._fault(f"the loss is {value}", batch)
        pullback(gradient)
        self._step(batch)
        return value, denominator, prediction

    def _step(self, batch: Batch | None) -> None:
        """Make the optimiser's step by the gradients of a batch, if they are finite."""
        optimizer = self.state.optimizer
        if not all(map(optimizer._engine.is_finite, optimizer.learnt_gradients())):
            raise self._fault("a gradient is not finite", batch, backward=True)
        if self.clip_norm is not None:
            norm = clip_grad_norm(optimizer, self.clip_norm)
            if not math.isfinite(norm):
                raise self._fault(f"the norm of the gradients is {norm}", batch, "that norm")
        if self.clip_value is not None:
            clip_grad_value(optimizer, self.clip_value)
        with self.interrupts.held():
            self._update(batch)

    def _update(self, batch: Batch | None) -> None:
        """Change the parameters; put them back if a number would not be finite."""
        buffers = [buffer for buffer in self.buffers if not buffer[0]._all_frozen]
        for _, parameters, before in buffers:
            before[...] = parameters
        self.state.optimizer.step()
        is_finite = self.state.optimizer._engine.is_finite
        if not all(is_finite(parameters) for _, parameters, _ in buffers):
            names = (name for name, p in self.model.state_dict().items() if not is_finite(p))
            name = next(names)
            for layer, parameters, before in buffers:
                with layer._exclusive():
                    parameters[...] = before
                    layer.changed()
            if not is_finite(self.model.state_dict()[name]):
                raise self._fault("a parameter is not finite", batch, f"the parameter {name}")
            wrong = f"with lr {self.state.optimizer.lr:g} a parameter would not be finite"
            raise self._fault(wrong, batch, f"the update of {name}")
        schedule = self.state.schedule
        if self.per_batch and schedule is not None and not isinstance(schedule, ReduceLROnPlateau):
            schedule.step()

    def _evaluate(self, batch: Batch) -> _Outcome:
        """Return the loss of a batch, from which nothing is learnt."""
        prediction = self.view(batch)
        denominator = self.loss.denominator(prediction, batch)
        if denominator:
            value, _ = self.loss(prediction, batch)
        else:
            value = self.loss.of_weightless(prediction, batch)
        if not math.isfinite(value):
            raise self._fault_of_evaluation(value, batch)
        return value, denominator, prediction

    def _fault_of_evaluation(self, value: float, batch: Batch | None) -> NonFiniteError:
        """Return the error for a loss that is not finite, where nothing is learnt."""
        of_validation = self.place is not None and self.place.name == "validation"
        what = "validation loss" if of_validation else "loss after the epoch"
        return self._fault(f"the {what} is {value}", batch)

    def _step_schedule(self, values: dict[str, float]) -> None:
        """Make the schedule's step at the end of an epoch."""
        schedule = self.state.schedule
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(values.get("validation_loss", values["loss"]))
        elif schedule is not None and not self.per_batch:
            schedule.step()

    def _call(self, callbacks: Iterable[Callback]) -> None:
        """Call all of these callbacks, even if one of them ends the training."""
        state = self.state
        for callback in callbacks:
            name = getattr(callback, "__name__", type(callback).__name__)
            reason = f"{name} after epoch {state.epoch}"
            try:
                stop = callback(state)
            except StopTraining as request:
                stop, reason = True, request.reason or reason
            if isinstance(stop, (bool, np.bool_)) and stop:
                state.history.stopped = reason

    def _fault(
        self, what: str, batch: Batch | None, origin: str | None = None, backward: bool = False
    ) -> NonFiniteError:
        """Return the error for the batch at hand; find its origin, unless it is known."""
        assert self.place is not None
        (_, batches, number), epoch = self.place, self.state.epoch
        if origin is None:
            numbers = batches.order(epoch)[number]
            if batch is None:  # nobody has read it as a whole
                batch = batches.data[numbers]
            with mode(self.model, training=False):
                origin = first_in_forward(self.view, batch, numbers)
        if origin is None:
            origin = first_in_backward(self.model) if backward else "the loss itself"
        best = [c.best_epoch for c in self.state.callbacks if isinstance(c, EarlyStopping)]
        weights = "the weights from before this batch"
        if any(best):
            weights = f"its best weights, those of epoch {[epoch for epoch in best if epoch][-1]}"
        return NonFiniteError(
            f"epoch {epoch + 1}, batch {number + 1} of {len(batches)}: {what}; first not finite "
            f"was {origin}. The model has {weights}",
            epoch + 1, number + 1, origin, self.state.history,
        )  # fmt: skip


def counted(prediction: NDArray[Any], batch: Batch) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the predictions and targets of a batch, without those that are masked."""
    if batch.mask is None:
        return prediction, batch.y
    mask = np.broadcast_to(batch.mask, batch.y.shape[: np.ndim(batch.mask)])
    return prediction[mask], batch.y[mask]


@contextlib.contextmanager
def _bar(progress: bool, state: State, batches: int) -> Iterator[Any]:
    """Give a bar over all batches that are still to come, or None where nobody would see it."""
    todo = (state.epochs - state.epoch) * batches
    bar = progress_bar(total=todo, unit="batch") if progress else None
    try:
        yield bar
    finally:
        if bar is not None:
            bar.close()


def _report(
    state: State, values: dict[str, float], bar: Any, progress: bool, verbose: bool
) -> None:
    """Show the values of an epoch in the bar, or write a line."""
    shown = printable(", ".join(f"{name} {value:.4g}" for name, value in values.items()))
    line = f"epoch {state.epoch}/{state.epochs}: {shown}"
    if bar is not None:
        bar.set_postfix_str(shown, refresh=False)
    if verbose:
        print(line, flush=True) if bar is None else bar.write(line)
    elif progress and bar is None and sys.stderr and not sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)
