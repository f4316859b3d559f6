"""Checkpoints of a training: all that its next epochs depend on, in one file, whole at any moment.

The file is a NumPy .npz without pickled objects. Entry ``__training__`` is JSON; where that has
``{"__array__": 3}`` stands the array of entry ``3``. It is written aside and renamed, so a kill at
any moment leaves the file of before or the new one.
"""

import json
import os
from pathlib import Path

import numpy as np

from ..files import written_aside
from ..formats import npz
from ..formats.source import Source
from ..parameters import check_size

_VERSION = 1
_ENTRY = "__training__"
_ARRAY = "__array__"


class Checkpoint:
    """A callback that saves the whole training, so that ``fit(..., resume=path)`` goes on from it.

    Parameters
    ----------
    path : str or path-like
        The one file; each checkpoint replaces the one before.
    every : int
        After so many epochs, and after the last one.

    Raises
    ------
    OSError
        If the file cannot be written; the one before is still there then.

    Notes
    -----
    In the file are the weights, the optimiser's state, the schedule's, what other callbacks keep
    (early stopping: its best weights), the history, the random states of all dropout and the order
    of the data: whoever resumes gets, bit for bit, what the uninterrupted run would have given. Not
    in it are the data and the program: call `fit` with the same arguments again. The file is
    written aside, flushed to the disk and renamed; a kill in between leaves the old file as it is,
    and the new one's beginnings next to it under a name with a dot before it.

    Cost: one write of three times the model's size with Adam, four with early stopping.

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

    def __init__(self, path, every=1):
        self.path, self.every = Path(path), check_size("every", every)

    def start(self, state):
        """Refuse a folder that is not there before the work rather than after it."""
        if not self.path.absolute().parent.is_dir():
            raise FileNotFoundError(
                f"{self.path}: there is no such folder to write a checkpoint to"
            )

    def __call__(self, state):
        """Save the training at the end of an epoch."""
        if state.epoch % self.every and state.epoch < state.epochs and not state.history.stopped:
            return
        arrays = []
        tree = {"version": _VERSION, "made_for": _identity(state), "kept": _kept(state)}
        text = json.dumps(_taken_apart(tree, arrays))
        entries = {str(number): array for number, array in enumerate(arrays)}
        with written_aside(self.path) as file:
            np.savez(file, **entries, **{_ENTRY: np.array(text.encode())})


def restore(path, state):
    """Bring a `State` to where the one in a checkpoint was; ValueError if that is of another."""
    with open(path, "rb") as file:
        try:
            made_for, kept = _read(file)
            _compare(made_for, _identity(state))
            if kept["epoch"] > state.epochs:
                raise ValueError(
                    f"the checkpoint is of epoch {kept['epoch']}; expected one of at most "
                    f"epochs={state.epochs}"
                )
            _restore(kept, state)
        except ValueError as fault:
            raise ValueError(f"{os.fspath(path)}: {fault}") from fault
        except (AttributeError, KeyError, RecursionError, TypeError) as fault:
            raise ValueError(
                f"{os.fspath(path)}: a damaged checkpoint: {type(fault).__name__}: {fault}"
            ) from fault


def _identity(state):
    """What must be the same where a training goes on, in words that an error can show."""
    names = {
        "model": f"{state.model!r} of {state.model.dtype}",
        "optimizer": type(state.optimizer).__name__,
        "schedule": type(state.schedule).__name__,
        "callbacks": ", ".join(type(c).__name__ for c in _keepers(state)) or "none to restore",
    }
    return names | {name: str(value) for name, value in state.order.items()}


def _keepers(state):
    return [callback for callback in state.callbacks if hasattr(callback, "state_dict")]


def _kept(state):
    """All that the next epochs depend on."""
    return {
        "epoch": state.epoch,
        "history": dict(state.history),
        "stopped": state.history.stopped,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "schedule": None if state.schedule is None else state.schedule.state_dict(),
        "callbacks": [callback.state_dict() for callback in _keepers(state)],
        "random": {name: rng.bit_generator.state for name, rng in _generators(state.model)},
    }


def _restore(kept, state):
    state.optimizer.load_state_dict(kept["optimizer"])  # first, for it may still refuse
    if state.schedule is not None:
        state.schedule.load_state_dict(kept["schedule"])
    for callback, own in zip(_keepers(state), kept["callbacks"], strict=True):
        callback.load_state_dict(own)
    state.model.load_state_dict(kept["model"])
    for name, rng in _generators(state.model):
        rng.bit_generator.state = kept["random"][name]
    state.history.update(kept["history"])
    state.history.stopped = kept["stopped"]
    state.epoch = kept["epoch"]


def _generators(model):
    """(name, random generator) of every layer that has one, for its dropout."""
    for prefix, layer in model.named_layers():
        for name, value in vars(layer).items():
            if isinstance(value, np.random.Generator):
                yield prefix + name, value


def _read(file):
    """(identity, what was kept) of an open checkpoint."""
    source = Source(file)
    if not npz.recognises(source):
        raise ValueError("this is no checkpoint of a training")
    arrays = npz.read(source)[0].require()
    text = arrays.pop(_ENTRY, np.zeros(0))
    if text.dtype.kind != "S" or text.ndim:
        raise ValueError(f"this is no checkpoint of a training: it has no text {_ENTRY!r}")
    tree = _put_together(json.loads(text.item()), arrays)
    if tree["version"] != _VERSION:
        raise ValueError(f"a checkpoint of version {tree['version']}; known is {_VERSION}")
    return tree["made_for"], tree["kept"]


def _compare(theirs, ours):
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise ValueError(
                f"the checkpoint is of another {name}: {theirs.get(name)}; expected {value}"
            )


def _taken_apart(tree, arrays):
    """`tree` as JSON can hold it: each array is moved to the list `arrays`, its number stays."""
    if isinstance(tree, np.ndarray):
        arrays.append(tree)
        return {_ARRAY: len(arrays) - 1}
    if isinstance(tree, dict):
        return {name: _taken_apart(branch, arrays) for name, branch in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_taken_apart(branch, arrays) for branch in tree]
    return tree.item() if isinstance(tree, np.generic) else tree


def _put_together(tree, arrays):
    if isinstance(tree, dict):
        if tree.keys() == {_ARRAY}:
            return arrays[str(tree[_ARRAY])]
        return {name: _put_together(branch, arrays) for name, branch in tree.items()}
    if isinstance(tree, list):
        return [_put_together(branch, arrays) for branch in tree]
    return tree
