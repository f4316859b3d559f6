"""Checkpoints of a training: all that its next epochs depend on, in one file, whole at any moment.

The file is a NumPy .npz without pickled objects. The entry ``__training__`` is JSON, in which
``{"__array__": 3}`` stands for the array of entry ``3``. The entry ``__hash__`` is a hash of all
others. The file is written aside and renamed, so that a kill at any moment leaves the old file or
the new one.

The file also holds, in words, what the training is made of (`fastlstm.training.description`). A
training that continues from it must be made of the same, except for what is named.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..checks import check_not_newer, check_size
from ..files import check_writable, written_aside
from ..formats import npz
from ..formats.source import Source
from ..layers import Layer
from .callbacks import State
from .description import check_same, frozen_names, hash_of, keepers_of
from .interrupts import FLEET

_VERSION = 2  # version 1 did not say what the training was made of
_ENTRY, _SEAL = "__training__", "__hash__"
_ARRAY = "__array__"


class Checkpoint:
    """A callback that saves the whole training, so that ``fit(..., resume=path)`` goes on from it.

    Parameters
    ----------
    path : str or path-like
        The file. Each checkpoint replaces the one before.
    every : int
        Save after each so many epochs, and after the last one.

    Raises
    ------
    OSError
        By `fit`, before the first epoch if the path is a folder or cannot be written, and later if
        the disk is full. The older file is still there then.

    Notes
    -----
    The file holds the weights, the states of optimiser and schedule, what other callbacks keep
    (`EarlyStopping` its best weights), the history, and the random states of all dropout. The order
    of the data follows from the epoch. So a resumed training gives, bit for bit, what an
    uninterrupted one would have given. Data and program are not in the file: call `fit` with the
    same arguments again. They are compared with those of the file: model, data and validation data
    (by a hash of all their batches), loss, optimiser, schedule, callbacks that keep something, and
    the options of all these. Functions are compared by name, code and what they enclose, metrics by
    their names. `epochs` may grow; any other argument that differs on purpose must be named in
    ``fit(..., changed=...)``.

    The file is written aside, flushed to the disk and renamed. A kill meanwhile leaves the old file
    as it is, and a part of the new one next to it under a name that begins with a dot.

    Cost: one write of three times the model's size with Adam, four times with early stopping. For
    the hash all data are read once, before the first epoch.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "training.npz")
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.random((40, 5, 1), np.float32), rng.random((40, 1), np.float32)
    >>> def train(epochs, **options):
    ...     model = fastlstm.Sequential(
    ...         fastlstm.LSTM(1, 4, seed=0), fastlstm.Last(), fastlstm.Linear(4, 1, seed=0)
    ...     )
    ...     optimizer = fastlstm.training.Adam(model)
    ...     loss = fastlstm.training.MSELoss()
    ...     return fastlstm.training.fit(model, (x, y), loss, optimizer, epochs, 10, **options)
    >>> history = train(2, callbacks=[fastlstm.training.Checkpoint(path)])
    >>> train(4, resume=path)["loss"] == train(4)["loss"]
    True
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 1) -> None:
        self.path, self.every = Path(path), check_size("every", every)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, every={self.every})"

    def start(self, state: State) -> None:
        """Refuse a path that cannot be written, before the work rather than after it."""
        check_writable(self.path)

    def __call__(self, state: State) -> None:
        """Save the training at the end of an epoch."""
        if state.epoch % self.every and state.epoch < state.epochs and not state.history.stopped:
            return
        arrays: list[NDArray[Any]] = []
        tree = {"version": _VERSION, "made_for": state.made_of, "kept": kept_of(state)}
        text = json.dumps(_taken_apart(tree, arrays))
        entries = {str(number): array for number, array in enumerate(arrays)}
        entries[npz.TRAINING] = np.array(text.encode())
        entries[_SEAL] = _seal(entries)
        with written_aside(self.path) as file:
            np.savez(file, **entries)  # type: ignore[arg-type]  # no entry has an option's name


def read(path: str | os.PathLike[str], state: State, changed: Iterable[str]) -> dict[str, Any]:
    """Return what a checkpoint kept; ValueError if it is of another training, but for `changed`."""
    with open(path, "rb") as file, _naming(path):
        made_of, kept = _read(file)
        check_same(made_of, state.made_of, changed)
        epoch = check_size("epoch", kept["epoch"], least=0)
        if epoch > state.epochs:
            raise ValueError(
                f"the checkpoint is of epoch {epoch}; expected one of at most epochs={state.epochs}"
            )
        _check_history(kept, state)
        if not set(kept["frozen"]) <= set(state.model.requires_grad):
            raise ValueError(f"a damaged checkpoint: {kept['frozen']!r} are no frozen parameters")
        for name, array in kept["model"].items():
            if array.dtype != state.model.dtype:
                raise ValueError(f"a damaged checkpoint: {name} is of {array.dtype}")
    return kept


def restore(
    path: str | os.PathLike[str], kept: dict[str, Any], state: State, changed: Iterable[str]
) -> None:
    """Bring a `State` to that of a checkpoint; options that `changed` keep their new values."""
    optimizer: Any = state.optimizer
    schedule: Any = state.schedule
    own = {name: getattr(optimizer, name) for name in optimizer.options if name in changed}
    with _naming(path):
        put_back(kept, state)
        for name, value in own.items():
            setattr(optimizer, name, value)
        if "lr" in changed and hasattr(schedule, "base_lr"):
            schedule.begin_from(schedule.base_lr)
    if changed:
        state.history.stopped = None  # the reason may be among what changed
    state.history.resumed = state.epoch
    is_done = state.history.stopped or state.epoch == state.epochs
    if is_done and FLEET.get() is None:  # of a fleet, many may be
        reason = state.history.stopped or f"all of {state.epochs} epochs were done"
        print(f"{os.fspath(path)}: nothing is left to train: {reason}", file=sys.stderr)


@contextlib.contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever is wrong with the content of a file into a ValueError that names the file."""
    try:
        yield
    except OSError:
        raise
    except ValueError as fault:
        raise ValueError(f"{os.fspath(path)}: {fault}") from fault
    except Exception as fault:  # a damaged tree may raise any error
        raise ValueError(
            f"{os.fspath(path)}: a damaged checkpoint: {type(fault).__name__}: {fault}"
        ) from fault


def _check_history(kept: dict[str, Any], state: State) -> None:
    """Refuse a history that lacks a number for some epoch under a name that `fit` fills."""
    history, stopped = kept["history"], kept["stopped"]
    if not all(isinstance(values, list) for values in history.values()):
        raise ValueError("a damaged checkpoint: its history is not made of lists")
    for name in state.history:
        numbers = [float(value) for value in history[name] if type(value) in (int, float)]
        if not len(numbers) == len(history[name]) == kept["epoch"]:
            raise ValueError(
                f"a damaged checkpoint: its history has no {kept['epoch']} numbers of {name!r}"
            )
    if stopped is not None and not isinstance(stopped, str):
        raise ValueError(f"a damaged checkpoint: it was stopped by {stopped!r}")


@contextlib.contextmanager
def unchanged_if_refused(state: State) -> Iterator[None]:
    """Put model, random states, optimiser, schedule and callbacks back if the block fails."""
    weights = state.model.state_dict()
    frozen = frozen_names(state.model)
    random = {name: rng.bit_generator.state for name, rng in generators(state.model)}
    parts: list[object] = [state.optimizer, state.schedule, *state.callbacks]
    attributes = [(part, dict(vars(part))) for part in parts if hasattr(part, "__dict__")]
    states = []
    for callback in keepers_of(state):
        with contextlib.suppress(Exception):  # it may have none before its `start`
            states.append((callback, copy.deepcopy(callback.state_dict())))
    try:
        yield
    except BaseException:
        freeze(state.model, frozen)
        state.model.load_state_dict(weights)
        for name, rng in generators(state.model):
            rng.bit_generator.state = random[name]
        for part, before in attributes:
            vars(part).clear()
            vars(part).update(before)
        for callback, before in states:  # what they hold may have been changed in place
            callback.load_state_dict(before)
        raise


def kept_of(state: State) -> dict[str, Any]:
    """Return all that the next epochs depend on."""
    return {
        "epoch": state.epoch,
        "history": dict(state.history),
        "stopped": state.history.stopped,
        "model": state.model.state_dict(),
        "frozen": frozen_names(state.model),
        "optimizer": state.optimizer.state_dict(),
        "schedule": None if state.schedule is None else state.schedule.state_dict(),
        "callbacks": [callback.state_dict() for callback in keepers_of(state)],
        "random": {name: rng.bit_generator.state for name, rng in generators(state.model)},
    }


def put_back(kept: dict[str, Any], state: State) -> None:
    """Set all that the next epochs depend on."""
    freeze(state.model, kept["frozen"])  # a callback may have changed them
    state.optimizer.load_state_dict(kept["optimizer"])
    if state.schedule is not None:
        state.schedule.load_state_dict(kept["schedule"])
    for callback, own in zip(keepers_of(state), kept["callbacks"], strict=True):
        callback.load_state_dict(own)
    state.model.load_state_dict(kept["model"])
    for name, rng in generators(state.model):
        rng.bit_generator.state = kept["random"][name]
    state.history.update(kept["history"])
    state.history.stopped = kept["stopped"]
    state.epoch = kept["epoch"]


def freeze(model: Layer, names: Iterable[str]) -> None:
    """Freeze these parameters and no others."""
    for name in model.requires_grad:
        model.requires_grad[name] = name not in names


def generators(model: Layer) -> Iterator[tuple[str, np.random.Generator]]:
    """Yield (name, random generator) of all layers, such as those of dropout."""
    for prefix, layer in model.named_layers():
        for name, generator in layer.random_states().items():
            yield prefix + name, generator


def _read(file: BinaryIO) -> tuple[dict[str, str], dict[str, Any]]:
    """Return what an open checkpoint says its training is made of, and what it kept."""
    source = Source(file)
    if not npz.recognises(source):
        raise ValueError("this is no checkpoint of a training")
    arrays = npz.read_arrays(source).require()
    seal, sealed = arrays.pop(_SEAL, None), _seal(arrays)
    text = arrays.pop(npz.TRAINING, np.zeros(0))
    if text.dtype.kind != "S" or text.ndim:
        raise ValueError(f"this is no checkpoint of a training: it has no text {npz.TRAINING!r}")
    source.budget.check("bytes of a training's JSON", text.nbytes)
    tree = _put_together(json.loads(text.item()), arrays)
    check_not_newer("the checkpoint", tree["version"], _VERSION)
    if tree["version"] != _VERSION:
        raise ValueError(
            f"a checkpoint of version {tree['version']}, expected {_VERSION} (1 does not say of "
            "which data and options it is); begin anew with another file"
        )
    if seal != sealed:
        raise ValueError("a damaged checkpoint: it does not hold what was written to it")
    return tree["made_for"], tree["kept"]


def _seal(entries: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return the hash of all entries."""
    return np.array(hash_of([entries[name] for name in sorted(entries)]).encode())


def _taken_apart(tree: Any, arrays: list[NDArray[Any]]) -> Any:
    """Return `tree` as JSON can hold it: arrays are moved to a list, and their numbers stay."""
    if isinstance(tree, np.ndarray):
        arrays.append(tree)
        return {_ARRAY: len(arrays) - 1}
    if isinstance(tree, dict):
        return {name: _taken_apart(branch, arrays) for name, branch in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_taken_apart(branch, arrays) for branch in tree]
    return tree.item() if isinstance(tree, np.generic) else tree


def _put_together(tree: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return the tree that was taken apart."""
    if isinstance(tree, dict):
        if tree.keys() == {_ARRAY}:
            return arrays[str(tree[_ARRAY])]
        return {name: _put_together(branch, arrays) for name, branch in tree.items()}
    if isinstance(tree, list):
        return [_put_together(branch, arrays) for branch in tree]
    return tree
