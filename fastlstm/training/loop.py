"""`fit`, the training loop.

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
import os
import signal
import sys
import threading
import time

import numpy as np

from ..checks import check_number, check_size
from ..terminal import printable, progress_bar
from .arguments import (
    about,
    check_changed,
    check_loss,
    check_metrics,
    check_parts,
    check_steps,
    in_order,
    is_number,
    is_per_batch,
    named_data,
)
from .callbacks import EarlyStopping, History, State, StopTraining
from .checkpoint import Checkpoint, made_of, read, restore, unchanged_if_refused
from .datasets import Arrays, Batches, Sequences
from .diagnosis import NonFiniteError, first_in_backward, first_in_forward, is_finite
from .losses import CrossEntropyLoss, Loss
from .optimisers import clip_grad_norm, clip_grad_value
from .schedules import ReduceLROnPlateau
from .view import SamplesFirst, mode

_LABELS = 2**18  # that are looked at together


def fit(
    model, data, loss, optimizer, epochs, batch_size=32, *, validation=None, schedule=None,
    schedule_per=None, clip_norm=None, clip_value=None, callbacks=(), metrics=None, shuffle=True,
    seed=0, resume=None, changed=(), progress=True, verbose=False,
):  # fmt: skip
    """Train a model.

    Parameters
    ----------
    model : Layer
        An LSTM, whose output is the prediction, or a Sequential; `batch_first` or not.
    data : data set, or (x, y), or (x, y, weights)
        Samples first: x (N, T, F), or (N, T) tokens for an Embedding; y as the model's prediction:
        (N, ...) behind a `Last`, otherwise (N, T, ...). See `fastlstm.training.datasets`.
    loss : callable
        ``value, gradient = loss(prediction, target, weights=..., mask=..., std=...)``, its value a
        number; given is what the data have of these, `std` only to who takes it. What a loss may
        say of itself: see the notes.
    optimizer : SGD, RMSprop, Adam or AdamW
        Of this model.
    epochs : int
        How often to go through the data, in all: with `resume` those before count.
    batch_size : int
        Samples for one update.
    validation : as `data`, optional
        Its loss is computed in evaluation mode after each epoch.
    schedule : StepLR, LinearLR, CosineAnnealingLR, OneCycleLR, SequentialLR, ReduceLROnPlateau
        Of this optimiser. ReduceLROnPlateau sees the validation loss or, without one, the loss.
        One that ends before the training is refused. Of one that would not come to its end standard
        error is told, unless there are checkpoints, from which the training may go on.
    schedule_per : {"epoch", "batch"}, optional
        When to step the schedule; not given, OneCycleLR per batch and others per epoch.
    clip_norm, clip_value : float, optional
        Scale gradients whose norm over all parameters is larger; bring each into [-v, v].
    callbacks : list of callables
        Each called with the `State` at the end of each epoch; any that returns True, or raises
        `StopTraining`, ends the training. `EarlyStopping` and `Checkpoint` are callbacks.
    metrics : dict of str -> callable, optional
        ``number = function(prediction, target)``, called once an epoch with all predictions of the
        training, each made before its update, and with all of the validation, samples first; where
        there is a mask, with the rows that it leaves. The values are in the history.
    shuffle : bool
        Take the samples in another order each epoch.
    seed : int
        For that order, which depends on nothing else.
    resume : path, optional
        Go on from the file of a `Checkpoint`, with the same other arguments; `epochs` may grow.
        What is not the same is refused, each argument by its name. Says so on standard error if
        nothing is left to train.
    changed : list of str
        Arguments, of `fit`, the optimiser or a callback, that are others than in that file on
        purpose: "lr", "patience", "data", "batch_size", "schedule_options", ... They count from
        now on, and what had stopped is looked at again. Model, optimiser, schedule and callbacks
        must be of the same kinds.
    progress : bool
        On a terminal and in a notebook show a bar, if tqdm is installed; elsewhere write a line for
        each epoch to standard error.
    verbose : bool
        Print a line for each epoch.

    Returns
    -------
    History

    Raises
    ------
    ValueError, TypeError
        If something does not fit: before any work, and nothing has been changed, by a damaged file
        to resume from neither. The model has run on the first batch of all data by then, and on all
        if a metric has no value for so few, in evaluation mode.
    NonFiniteError
        If a loss, a gradient or an update is nan or inf. The model has the weights of before that
        batch, or the best ones of `EarlyStopping`; the sentence says which, and where nan or inf
        came up first.
    OSError
        If `resume` cannot be opened, or a checkpoint could not be written.

    Notes
    -----
    Ctrl-C ends the training; `fit` returns, ``history.interrupted`` is True, and the weights are
    those of a whole number of updates. Each layer is in training or evaluation mode as before, on
    errors too.

    The loss of an epoch is that over all its samples at once, however they are cut into batches: of
    a loss whose `reduction` is "sum" the sum; otherwise sum(value * d) / sum(d), d being what
    ``loss.denominator(prediction, target, weights=..., mask=...)`` gives for a batch. The losses of
    this package have that method; for a loss without it d is the weights of the batch's samples
    (of its steps where there is a mask), 1 each if there are none. A batch whose d is 0, as all of
    its targets are masked or ignored or weigh nothing, changes nothing; if that is so of all, a
    ValueError says it after the first epoch.

    Two trainings with the same arguments, initial weights and random states give the same bits,
    and so does one that was killed and resumed::

        resume = path if os.path.exists(path) else None
        fit(..., callbacks=[Checkpoint(path)], resume=resume)

    Cost: besides model, loss and optimiser, one copy of the parameters and a look at each
    parameter and gradient for every batch.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.random((200, 10, 1), np.float32)
    >>> y = x[:, -2]  # what was last but one
    >>> model = fastlstm.Sequential(
    ...     fastlstm.LSTM(1, 8, seed=0), fastlstm.Last(), fastlstm.Linear(8, 1, seed=0)
    ... )
    >>> history = fastlstm.training.fit(
    ...     model, (x[:150], y[:150]), fastlstm.training.MSELoss(),
    ...     fastlstm.training.Adam(model, lr=0.01), epochs=20, batch_size=10,
    ...     validation=(x[150:], y[150:]),
    ... )
    >>> history["validation_loss"][-1] < history["validation_loss"][0] / 10
    True
    """
    view = SamplesFirst(model)
    check_size("epochs", epochs)
    batches = Batches(named_data("data", data), batch_size, shuffle=shuffle, seed=seed)
    held_out = None
    if validation is not None:
        held_out = Batches(named_data("validation", validation), batch_size, shuffle=False)
    check_parts(model, loss, optimizer, schedule)
    metrics = check_metrics(metrics)
    names = ["loss", *metrics]
    held_out_names = [] if held_out is None else [f"validation_{name}" for name in names]
    history = History({name: [] for name in [*names, *held_out_names, "lr", "seconds"]})
    changed = check_changed(changed)
    if resume is not None and not isinstance(resume, (str, os.PathLike)):
        raise TypeError(f"resume should be the path of a checkpoint, got: {type(resume).__name__}")
    state = State(model, optimizer, schedule, in_order(callbacks), history, epochs, {})
    per_batch = is_per_batch(schedule, schedule_per)
    with _Interrupts() as interrupts:
        training = _Training(
            state, view, loss, metrics, per_batch, clip_norm, clip_value, interrupts
        )
        training.check(batches, "data")
        if held_out is not None:
            training.check(held_out, "validation")
        if resume is not None or any(isinstance(c, Checkpoint) for c in state.callbacks):
            state.made_of = made_of(
                state, batches.data, held_out and held_out.data, loss, metrics,
                batch_size=batch_size, shuffle=shuffle, seed=seed, clip_norm=clip_norm,
                clip_value=clip_value, schedule_per="batch" if per_batch else "epoch",
            )  # fmt: skip
        kept = None if resume is None else read(resume, state, changed)
        with unchanged_if_refused(state):
            for callback in state.callbacks:
                _hook(callback, "start", state)
            if kept is not None:
                restore(resume, kept, state, changed)
            check_steps(state, per_batch, len(batches))
        with mode(model, training=True):
            try:
                training.run(batches, held_out, progress, verbose)
            except KeyboardInterrupt:
                history.interrupted = True
            finally:
                interrupts.hold()  # the rest is quick, and must be whole
                with contextlib.ExitStack() as finishing:  # all of them, even if one raises
                    for callback in reversed(state.callbacks):
                        finishing.callback(_hook, callback, "finish", state)
    return history


class _Training:
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


class _Interrupts:
    """Ctrl-C, held back while an update is under way, so that no half of one is left.

    Python gives signals to the main thread alone: in others there is nothing to hold back.
    """

    def __enter__(self):
        self._held, self._late = False, None
        self._before = signal.getsignal(signal.SIGINT)
        self._ours = threading.current_thread() is threading.main_thread() and callable(
            self._before
        )
        if self._ours:
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_):
        if self._ours:
            signal.signal(signal.SIGINT, self._before)
        self._release()

    def hold(self):
        """Hold Ctrl-C back until the end."""
        self._held = True

    @contextlib.contextmanager
    def held(self):
        """Hold Ctrl-C back until this block is done."""
        self._held = True
        try:
            yield
        finally:
            self._release()

    def _release(self):
        self._held = False
        if self._late is not None:
            late, self._late = self._late, None
            self._before(*late)

    def _on_signal(self, *signal_and_frame):
        if self._held:
            self._late = signal_and_frame
        else:
            self._before(*signal_and_frame)


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


def _hook(callback, name, state):
    method = getattr(callback, name, None)
    if method is not None:
        method(state)


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
