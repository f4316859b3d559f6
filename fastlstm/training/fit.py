"""`fit`: what is asked of a training, and its beginning and end."""

import contextlib
import os

from ..checks import check_size
from .arguments import (
    check_changed,
    check_metrics,
    check_parts,
    check_steps,
    in_order,
    is_per_batch,
    named_data,
)
from .batches import Batches
from .callbacks import History, State
from .checkpoint import Checkpoint, made_of, read, restore, unchanged_if_refused
from .interrupts import Interrupts
from .loop import Training
from .view import SamplesFirst, mode


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
    with Interrupts() as interrupts:
        training = Training(
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


def _hook(callback, name, state):
    method = getattr(callback, name, None)
    if method is not None:
        method(state)
