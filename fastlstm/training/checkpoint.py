"""Checkpoints of a training: all that its next epochs depend on, in one file, whole at any moment.

The file is a NumPy .npz without pickled objects. Entry ``__training__`` is JSON; where that has
``{"__array__": 3}`` stands the array of entry ``3``; entry ``__hash__`` is that of all others. The
file is written aside and renamed, so a kill at any moment leaves the one of before or the new one.

It also holds, in words, what the training is made of: the model, a hash of the data, every option.
Whoever goes on from it must have the same, or name what is another on purpose.
"""

import contextlib
import copy
import functools
import hashlib
import inspect
import json
import os
import re
import sys
from pathlib import Path

import numpy as np

from ..checks import check_size
from ..files import check_writable, written_aside
from ..formats import npz
from ..formats.source import Source
from ..layers import Layer
from .datasets import Batch

_VERSION = 2  # 1 did not say what the training was made of
_SEAL = "__hash__"
_ARRAY = "__array__"
# what a training that goes on cannot do without: the file's states are theirs
_SAME = frozenset("model frozen optimizer schedule callbacks monitor mode metrics".split())
_ROWS = 32  # samples read at once for the hash
_WHOLE = r"(?<=\d)\.0(?!\d)"  # behind a number
_FEW = 8  # numbers of an array, or parts of a list, that a sentence shows
_LONG = 400  # characters of an option that it shows


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
        By `fit` before the first epoch, if the path is a folder or cannot be written; in an epoch,
        if the disk is full. The file of before is still there then.

    Notes
    -----
    In the file are the weights, the optimiser's state, the schedule's, what other callbacks keep
    (early stopping: its best weights), the history, the random states of all dropout and the order
    of the data: whoever resumes gets, bit for bit, what the uninterrupted run would have given. Not
    in it are the data and the program: call `fit` with the same arguments again. What the training
    is made of is compared then: model, data and validation (by a hash of all that they give), loss,
    optimiser, schedule, callbacks that keep something, and all of their options; a function by its
    name, its code and what that encloses; metrics by their names. `epochs` may grow; what else is
    another on purpose, `fit` wants named. The file is written aside, flushed to the disk and
    renamed; a kill in between leaves the old file as it is, and the new one's beginnings next to it
    under a name with a dot before it.

    Cost: one write of three times the model's size with Adam, four with early stopping; for the
    hash, all data are read once, before the first epoch.

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
        """Refuse what cannot be written before the work rather than after it."""
        check_writable(self.path)

    def __call__(self, state):
        """Save the training at the end of an epoch."""
        if state.epoch % self.every and state.epoch < state.epochs and not state.history.stopped:
            return
        arrays = []
        tree = {"version": _VERSION, "made_for": state.made_of, "kept": _kept(state)}
        text = json.dumps(_taken_apart(tree, arrays))
        entries = {str(number): array for number, array in enumerate(arrays)}
        entries[npz.TRAINING] = np.array(text.encode())
        with written_aside(self.path) as file:
            np.savez(file, **entries, **{_SEAL: _seal(entries)})


def read(path, state, changed):
    """What a checkpoint kept; ValueError unless it is of this training, but for what `changed`."""
    with open(path, "rb") as file, _naming(path):
        made_of, kept = _read(file)
        _compare(made_of, state.made_of, changed)
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


def restore(path, kept, state, changed):
    """Bring a `State` to where the one in a checkpoint was, with what `changed` as it is now."""
    optimizer, schedule = state.optimizer, state.schedule
    own = {name: getattr(optimizer, name) for name in optimizer.options if name in changed}
    with _naming(path):
        _restore(kept, state)
        for name, value in own.items():
            setattr(optimizer, name, value)
        if "lr" in changed and hasattr(schedule, "base_lr"):
            schedule.begin_from(schedule.base_lr)
    if changed:
        state.history.stopped = None  # what made it stop may be among what changed
    state.history.resumed = state.epoch
    if state.history.stopped or state.epoch == state.epochs:
        reason = state.history.stopped or f"all of {state.epochs} epochs were done"
        print(f"{os.fspath(path)}: nothing is left to train: {reason}", file=sys.stderr)


@contextlib.contextmanager
def _naming(path):
    """Make ValueErrors that name the file of whatever is wrong with what is in it."""
    try:
        yield
    except OSError:
        raise
    except ValueError as fault:
        raise ValueError(f"{os.fspath(path)}: {fault}") from fault
    except Exception as fault:  # a damaged tree may break its readers in any way
        raise ValueError(
            f"{os.fspath(path)}: a damaged checkpoint: {type(fault).__name__}: {fault}"
        ) from fault


def _check_history(kept, state):
    """Refuse a history without a number for each epoch and each name that `fit` gives it."""
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
def unchanged_if_refused(state):
    """Put model, random states, optimiser, schedule and callbacks back if the block fails."""
    weights = state.model.state_dict()
    frozen = _frozen(state.model)
    random = {name: rng.bit_generator.state for name, rng in _generators(state.model)}
    parts = [state.optimizer, state.schedule, *state.callbacks]
    attributes = [(part, dict(vars(part))) for part in parts if hasattr(part, "__dict__")]
    states = []
    for callback in _keepers(state):
        with contextlib.suppress(Exception):  # before its `start` it may have none
            states.append((callback, copy.deepcopy(callback.state_dict())))
    try:
        yield
    except BaseException:
        _freeze(state.model, frozen)
        state.model.load_state_dict(weights)
        for name, rng in _generators(state.model):
            rng.bit_generator.state = random[name]
        for part, before in attributes:
            vars(part).clear()
            vars(part).update(before)
        for callback, before in states:  # of those that change what they hold in place
            callback.load_state_dict(before)
        raise


# ---- what a training is made of -----------------------------------------------------------------


def made_of(state, data, validation, loss, metrics, **options):
    """What a training is made of, in words by the names of arguments.

    A hash behind a `` #`` is compared and not shown.
    """
    optimizer, schedule = state.optimizer, state.schedule
    own = {name: getattr(optimizer, name) for name in optimizer.options}
    if hasattr(schedule, "base_lr"):  # it has set the learning rate, and the momentum perhaps
        own["lr"] = schedule.base_lr
        if getattr(schedule, "cycle_momentum", False):
            own = {n: value for n, value in own.items() if n not in ("momentum", "betas")}
    keepers = _keepers(state)
    kept = [_options(callback) for callback in keepers]
    return {
        "model": " ".join(f"{state.model!r} of {state.model.dtype}".split()),
        "frozen": ", ".join(_frozen(state.model)),
        "data": _data_in_words(data),
        "validation": "None" if validation is None else _data_in_words(validation),
        "loss": _in_words(loss),
        "metrics": _without_hash(_in_words(metrics)),  # their names tell
        "optimizer": type(optimizer).__name__,
        "schedule": type(schedule).__name__,
        "schedule_options": _in_words(schedule),
        "callbacks": ", ".join(type(callback).__name__ for callback in keepers) or "none to keep",
        **{n: _in_words([k[n] for k in kept if n in k])[1:-1] for k in kept for n in k},
        **{name: _in_words(value) for name, value in (own | optimizer.factors | options).items()},
    }


def _options(thing):
    """The arguments that an object was made with, as far as it keeps them under their names."""
    names = inspect.signature(type(thing)).parameters
    return {name: getattr(thing, name) for name in names if hasattr(thing, name)}


def _in_words(value, depth=4):
    """An option as a sentence can show it, and as two trainings can be compared by it."""
    if isinstance(value, np.ndarray):
        few = value.size <= _FEW
        return f"{value.tolist()}" if few else f"{value.dtype}{list(value.shape)} #{_hash(value)}"
    if isinstance(value, (str, int, float, complex, bytes, np.generic)) or value is None:
        return repr(value.item() if isinstance(value, np.generic) else value)
    if isinstance(value, Layer) or not depth:
        return type(value).__name__
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {_in_words(v, depth - 1)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple)):
        words = [_in_words(item, depth - 1) for item in value]
        more = f", ... {len(words)} in all #{_hash(words)}" if len(words) > _FEW else ""
        return f"[{', '.join(words[:_FEW])}{more}]"
    if isinstance(value, functools.partial):
        inside = _in_words(value.func, depth), *map(_in_words, value.args)
        named = (f"{name}={_in_words(v, depth - 1)}" for name, v in value.keywords.items())
        return f"partial({', '.join([*inside, *named])})"
    if hasattr(value, "__code__"):  # a function or a method
        return f"{value.__qualname__} #{_hash(_code(value.__code__) + _enclosed(value, depth))}"
    if hasattr(value, "__qualname__"):  # one that is built in, or a class
        return value.__qualname__
    left_out = {"optimizer", "base_lr", "most_steps", *getattr(value, "counted", ())}
    parts = getattr(value, "__dict__", {}).items()
    parts = (f"{n.lstrip('_')}={_in_words(v, depth - 1)}" for n, v in parts if n not in left_out)
    return f"{type(value).__name__}({', '.join(parts)})"


def _code(code):
    """What a function does, whatever line it stands on."""
    constants = [
        _code(c) if inspect.iscode(c) else sorted(map(repr, c)) if isinstance(c, frozenset)
        else repr(c)
        for c in code.co_consts
    ]  # fmt: skip
    return [repr(code.co_code), repr(code.co_names), *constants]


def _enclosed(function, depth):
    """What a function was made with: defaults, and the values around it that are no containers."""
    defaults, named, cells = (
        getattr(function, f"__{name}__", None) for name in ("defaults", "kwdefaults", "closure")
    )
    kept = [*(defaults or ()), *(named or {}).values()]
    for cell in cells or ():
        with contextlib.suppress(ValueError):  # it is empty as yet
            kept.append(cell.cell_contents)
    return [_in_words(value, depth - 1) for value in kept if not isinstance(value, (list, dict))]


def _data_in_words(data):
    """How many samples there are, and a hash of all that they give."""

    def read(first):
        batch = data[np.arange(first, min(first + _ROWS, len(data)))]
        return [getattr(batch, name, None) for name in Batch._fields]

    if _hash(read(0)) != _hash(read(0)):  # noise is added to them, say
        return f"{len(data)} samples, others at each reading"
    digests = [_hash(read(first)) for first in range(0, len(data), _ROWS)]
    return f"{len(data)} samples #{_hash(digests)}"


def _hash(value):
    """A short hash of arrays, and of lists, tuples and dicts of them."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(value, dict):
        value = [part for item in value.items() for part in item]
    if isinstance(value, (list, tuple)):
        digest.update(" ".join(map(_hash, value)).encode())
    elif isinstance(value, (str, type(None))):
        digest.update(repr(value).encode())
    else:
        array = np.ascontiguousarray(value)
        digest.update(f"{array.dtype.str}{np.shape(value)}".encode())
        bare = array.reshape(-1).view(np.uint8) if not array.dtype.hasobject else None
        digest.update(repr(array.tolist()).encode() if bare is None else bare)
    return digest.hexdigest()


def _compare(theirs, ours, changed):
    """Refuse another training than this one, but for what is named in `changed`."""
    names = [*ours, *(name for name in theirs if name not in ours)]
    other = [n for n in names if not _are_same(theirs.get(n), ours.get(n))]
    other = [name for name in other if name not in changed or name in _SAME]
    if not other:
        return
    differences = "; ".join(_difference(n, theirs.get(n), ours.get(n)) for n in other)
    way_out = ""
    if not _SAME.intersection(other):
        way_out = f"; if that is on purpose give changed={other}"
    raise ValueError(
        f"the checkpoint is of another training: {differences}. To go on from it give fit what it "
        f"was made with{way_out}; to begin anew remove it, or take another file"
    )


def _are_same(words, others):
    """Whether two options are, 1 and 1.0 too."""
    first, second = (w and re.sub(_WHOLE, "", w) for w in (words, others))
    return first == second


def _without_hash(words):
    return re.sub(" #[0-9a-f]+", "", words)


def _difference(name, theirs, ours):
    then, now = (_without_hash(str(words or "nothing"))[:_LONG] for words in (theirs, ours))
    return f"{name} has other values" if then == now else f"{name} was {then}, now it is {now}"


# ---- what is kept -------------------------------------------------------------------------------


def _keepers(state):
    return [callback for callback in state.callbacks if hasattr(callback, "state_dict")]


def _kept(state):
    """All that the next epochs depend on."""
    return {
        "epoch": state.epoch,
        "history": dict(state.history),
        "stopped": state.history.stopped,
        "model": state.model.state_dict(),
        "frozen": _frozen(state.model),
        "optimizer": state.optimizer.state_dict(),
        "schedule": None if state.schedule is None else state.schedule.state_dict(),
        "callbacks": [callback.state_dict() for callback in _keepers(state)],
        "random": {name: rng.bit_generator.state for name, rng in _generators(state.model)},
    }


def _restore(kept, state):
    _freeze(state.model, kept["frozen"])  # a callback may have changed that
    state.optimizer.load_state_dict(kept["optimizer"])
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


def _frozen(model):
    return [name for name, learns in model.requires_grad.items() if not learns]


def _freeze(model, names):
    """Freeze these parameters and no others."""
    for name in model.requires_grad:
        model.requires_grad[name] = name not in names


def _generators(model):
    """(name, random generator) of every layer that has one, for its dropout."""
    for prefix, layer in model.named_layers():
        for name, generator in layer.random_states().items():
            yield prefix + name, generator


def _read(file):
    """(identity, what was kept) of an open checkpoint."""
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
    if tree["version"] != _VERSION:
        raise ValueError(
            f"a checkpoint of version {tree['version']}, expected {_VERSION} (1 does not say of "
            "which data and options it is); begin anew with another file"
        )
    if seal != sealed:
        raise ValueError("a damaged checkpoint: it does not hold what was written to it")
    return tree["made_for"], tree["kept"]


def _seal(entries):
    return np.array(_hash([entries[name] for name in sorted(entries)]).encode())


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
