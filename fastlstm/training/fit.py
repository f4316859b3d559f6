"""`fit`: a training from its arguments to its history."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from ..checks import check_size
from ..layers import Layer
from ..layers.computed import left_to_machine, one_thread
from .arguments import (
    Metrics,
    check_changed,
    check_metrics,
    check_parts,
    check_resume,
    check_steps,
    in_order,
    is_per_batch,
    named_data,
)
from .batches import Batches
from .callbacks import Callback, History, State
from .checkpoint import Checkpoint, read, restore, unchanged_if_refused
from .datasets import Data
from .description import all_in_words, beginning_in_words, described
from .interrupts import Interrupts, NotedInterrupts
from .loop import Training
from .losses import LossFunction
from .mpi import MPI, Ranks
from .optimiser import Optimiser
from .schedules import AnySchedule
from .shared import SharedTraining, of_ranks, share_state
from .view import SamplesFirst, mode


def fit(
    model: Layer,
    data: Data,
    loss: LossFunction,
    optimizer: Optimiser,
    epochs: int,
    batch_size: int = 32,
    *,
    validation: Data | None = None,
    schedule: AnySchedule | None = None,
    schedule_per: Literal["epoch", "batch"] | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    callbacks: Sequence[Callback] = (),
    metrics: Metrics | None = None,
    shuffle: bool = True,
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    changed: Iterable[str] = (),
    progress: bool = True,
    verbose: bool = False,
    parallel: MPI | None = None,
) -> History:
    """Train a model.

    Parameters
    ----------
    model : Layer
        An LSTM, whose output is the prediction, or a Sequential; `batch_first` or not.
    data : data set, or (x, y), or (x, y, weights)
        Samples first: x (N, T, F), or (N, T) tokens for an Embedding; y like the prediction:
        (N, ...) after a `Last`, otherwise (N, T, ...). See `fastlstm.training.datasets`.
    loss : callable
        ``value, gradient = loss(prediction, target, weights=..., mask=..., std=...)``, where the
        value is a number. Weights, mask and std are passed only if the data have them, and `std`
        only if the loss takes it. See the notes for what else a loss may define.
    optimizer : SGD, RMSprop, Adam or AdamW
        The optimiser of this model.
    epochs : int
        How many times to go through the data in all; with `resume` the epochs before it count.
    batch_size : int
        The number of samples for one update.
    validation : as `data`, optional
        Its loss is computed in evaluation mode after each epoch.
    schedule : StepLR, LinearLR, CosineAnnealingLR, OneCycleLR, SequentialLR, ReduceLROnPlateau
        A schedule of this optimiser. ReduceLROnPlateau gets the validation loss or, if there are no
        validation data, the loss. A schedule that ends before the training is refused. If it would
        not come to its end, a line on standard error says so, unless there are checkpoints, from
        which the training may continue.
    schedule_per : {"epoch", "batch"}, optional
        When to step the schedule. If it is not given, OneCycleLR is stepped per batch and others
        per epoch.
    clip_norm, clip_value : float, optional
        Before an update scale the gradients if their norm over all parameters is larger than
        `clip_norm`, then bring each into [-clip_value, clip_value].
    callbacks : list of callables
        Each is called with the `State` at the end of each epoch. One that returns True, or raises
        `StopTraining`, ends the training. `EarlyStopping` and `Checkpoint` are callbacks.
    metrics : dict of str -> callable, optional
        ``number = function(prediction, target)``. Each is called once an epoch with all predictions
        for the training data, which were made before each update, and once with those for the
        validation data, samples first. If there is a mask, it gets only the rows that count. The
        values are in the history.
    shuffle : bool
        Take the samples in another order in each epoch.
    seed : int
        The seed of that order, which depends on nothing else.
    resume : path, optional
        Continue from the file of a `Checkpoint`, with the same other arguments; `epochs` may grow.
        Arguments that are not the same are refused by name. If nothing is left to train, a line on
        standard error says so.
    changed : list of str
        The names of arguments, of `fit`, the optimiser or a callback, that differ from those in the
        file on purpose: "lr", "patience", "data", "batch_size", "schedule_options", ... The new
        values count from now on, and a training that a callback had ended continues. Model,
        optimiser, schedule and callbacks must be of the same kinds.
    progress : bool
        Show a bar on a terminal or in a notebook, if tqdm is installed. Elsewhere write a line for
        each epoch to standard error.
    verbose : bool
        Print a line for each epoch.
    parallel : MPI, optional
        Let several processes, on one machine or many, train together: see `fastlstm.training.MPI`.

    Returns
    -------
    History

    Raises
    ------
    ValueError, TypeError
        If something does not fit. It is raised before the first update, and nothing has been
        changed, not even by a damaged file to resume from. By then the model has run in evaluation
        mode on the first batch of all data; on all batches, if a metric has no value for only one.
    NonFiniteError
        If a loss, a gradient or an update is nan or inf. The model then has the weights from before
        that batch, or the best ones of `EarlyStopping`. The error says which, and where nan or inf
        appeared first.
    OSError
        If `resume` cannot be opened, or a checkpoint could not be written.
    RuntimeError
        If the model predicts in another thread right now. Nothing has been changed.

    Notes
    -----
    Ctrl-C ends the training: `fit` returns, ``history.interrupted`` is True, and the weights are
    those after a whole number of updates. Afterwards each layer is in training or evaluation mode
    as before, even after an error.

    The loss of an epoch is that of all its samples together, however they are cut into batches. If
    the `reduction` of the loss is "sum", it is the sum. Otherwise it is sum(value * d) / sum(d),
    where d is ``loss.denominator(prediction, target, weights=..., mask=...)`` for each batch. The
    losses of this package have that method. For a loss without it d is the sum of the weights of
    the samples (of the steps, if there is a mask), or their number if there are no weights. A batch
    with d = 0, where all targets are masked, ignored or without weight, changes nothing. If all
    batches are so, a ValueError says it after the first epoch.

    Two trainings with the same arguments, initial weights and random states give the same bits,
    and so does one that was killed and resumed::

        resume = path if os.path.exists(path) else None
        fit(..., callbacks=[Checkpoint(path)], resume=resume)

    Cost for each batch, besides that of model, loss and optimiser: one copy of the parameters, and
    one pass over parameters and gradients to see that they are finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.random((200, 10, 1), np.float32)
    >>> y = x[:, -2]  # the last value but one
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
    if parallel is not None and not isinstance(parallel, MPI):
        raise TypeError(f"parallel should be a training.MPI, got: {type(parallel).__name__}")
    with contextlib.ExitStack() as around:
        ranks: Ranks | None = None
        if parallel is not None and not parallel.is_alone:
            ranks = around.enter_context(parallel.together())
        is_first = ranks is None or ranks.rank == 0
        agreed = contextlib.nullcontext if ranks is None else ranks.agreed
        with agreed():
            view = SamplesFirst(model)
            check_size("epochs", epochs)
            batches = Batches(named_data("data", data), batch_size, shuffle=shuffle, seed=seed)
            held_out = None
            if validation is not None:
                held_out = Batches(named_data("validation", validation), batch_size, shuffle=False)
            check_parts(model, loss, optimizer, schedule)
            metrics, changed = check_metrics(metrics), check_changed(changed)
            check_resume(resume)
            history = _empty_history(metrics, held_out is not None)
            called = [c for c in in_order(callbacks) if is_first or not isinstance(c, Checkpoint)]
            state = State(model, optimizer, schedule, called, history, epochs, {})
            per_batch = is_per_batch(schedule, schedule_per)
        if ranks is not None:
            around.enter_context(one_thread(left_to_machine(model)))
        parts: dict[str, Any] = {}
        if parallel is not None and parallel.parts is not None:
            parts["parts"] = parallel.parts
        words = functools.partial(
            described, state, batches.data, None if held_out is None else held_out.data, loss,
            metrics, batch_size=batch_size, shuffle=shuffle, seed=seed, clip_norm=clip_norm,
            clip_value=clip_value, schedule_per="batch" if per_batch else "epoch", **parts,
        )  # fmt: skip
        interrupts = around.enter_context(Interrupts() if ranks is None else NotedInterrupts())
        with agreed():
            given = state, view, loss, metrics, per_batch, clip_norm, clip_value, interrupts
            training = Training(*given) if ranks is None else SharedTraining(ranks, *given)
            training.check(batches, "data")
            if held_out is not None:
                training.check(held_out, "validation")
        if ranks is not None:
            with agreed():
                state.made_of = words(in_words=beginning_in_words) | of_ranks(state, resume)
            ranks.check_same(state.made_of)
        with agreed():
            if is_first:
                is_kept = any(isinstance(c, Checkpoint) for c in state.callbacks)
                needed = resume is not None or is_kept
                state.made_of = words(in_words=all_in_words) if needed else {}
            kept = None if resume is None or not is_first else read(resume, state, changed)
        with unchanged_if_refused(state):
            with agreed():
                for callback in state.callbacks:
                    _call_if_there(callback, "start", state)
                if resume is not None and kept is not None:
                    restore(resume, kept, state, changed)
            if ranks is not None:
                share_state(ranks, state)
            with agreed():
                check_steps(state, per_batch, len(batches))
                around.enter_context(mode(model, training=True))
        try:
            training.run(batches, held_out, progress and is_first, verbose and is_first)
        except KeyboardInterrupt as fault:
            if ranks is not None and fault is not ranks.known:
                raise
            history.interrupted = True
            interrupts.answered()
        finally:
            interrupts.hold()  # the rest is quick, and must not be cut short
            _finish(state)
    return history


def _empty_history(metrics: Metrics, has_validation: bool) -> History:
    """Return a history with an empty list for each name that `fit` fills."""
    names = ["loss", *metrics]
    of_validation = [f"validation_{name}" for name in names] if has_validation else []
    return History({name: [] for name in [*names, *of_validation, "lr", "seconds"]})


def _finish(state: State) -> None:
    """Let all callbacks finish in their order, even if one of them raises an error."""
    with contextlib.ExitStack() as finishing:  # it calls the one that was pushed last first
        for callback in reversed(state.callbacks):
            finishing.callback(_call_if_there, callback, "finish", state)


def _call_if_there(callback: Callback, method: Literal["start", "finish"], state: State) -> None:
    bound: Any = getattr(callback, method, None)
    if bound is not None:
        bound(state)
