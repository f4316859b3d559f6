"""What a training is made of, in words, so that two trainings can be compared.

Each argument of `fit` and each option of its parts has a text. Long values are hashed: the part of
a text behind `` #`` is such a hash, which is compared and not shown.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from types import CodeType
from typing import Any

import numpy as np

from ..layers import Layer
from .callbacks import State
from .datasets import Batch, Dataset

# These cannot be changed when a training continues: the states in its file belong to them.
_SAME = frozenset("model frozen optimizer schedule callbacks monitor mode metrics".split())
_ROWS = 32  # so many samples are read at once for the hash
_WHOLE = r"(?<=\d)\.0(?!\d)"  # the end of a whole number that is a float
_FEW = 8  # numbers of an array, or parts of a list, that a text shows
_LONG = 400  # characters of an option that an error shows


def described(
    state: State,
    data: Dataset,
    validation: Dataset | None,
    loss: object,
    metrics: object,
    in_words: Callable[[Dataset], str],
    **options: object,
) -> dict[str, str]:
    """Return what a training is made of: a text for each argument, by its name.

    `in_words` is what makes the texts of data sets, `all_in_words` or `beginning_in_words`.
    """
    optimizer: Any = state.optimizer
    schedule: Any = state.schedule
    own: dict[str, Any] = {name: getattr(optimizer, name) for name in optimizer.options}
    if hasattr(schedule, "base_lr"):  # it has set the learning rate, and perhaps the momentum
        own["lr"] = schedule.base_lr
        if getattr(schedule, "cycle_momentum", False):
            own = {n: value for n, value in own.items() if n not in ("momentum", "betas")}
    keepers = keepers_of(state)
    kept = [_options(callback) for callback in keepers]
    return {
        "model": " ".join(f"{state.model!r} of {state.model.dtype}".split()),
        "frozen": ", ".join(frozen_names(state.model)),
        "data": in_words(data),
        "validation": "None" if validation is None else in_words(validation),
        "loss": _in_words(loss),
        "metrics": _without_hash(_in_words(metrics)),  # only their names are compared
        "optimizer": type(optimizer).__name__,
        "schedule": type(schedule).__name__,
        "schedule_options": _in_words(schedule),
        "callbacks": ", ".join(type(callback).__name__ for callback in keepers) or "none to keep",
        **{n: _in_words([k[n] for k in kept if n in k])[1:-1] for k in kept for n in k},
        **{name: _in_words(value) for name, value in (own | optimizer.factors | options).items()},
    }


def keepers_of(state: State) -> list[Any]:
    """Return the callbacks that have a state to keep."""
    return [callback for callback in state.callbacks if hasattr(callback, "state_dict")]


def frozen_names(model: Layer) -> list[str]:
    """Return the names of the parameters that are frozen."""
    return [name for name, learns in model.requires_grad.items() if not learns]


def _options(thing: object) -> dict[str, Any]:
    """Return the arguments that an object was made with, if it keeps them under their names."""
    names = inspect.signature(type(thing)).parameters
    return {name: getattr(thing, name) for name in names if hasattr(thing, name)}


def _in_words(value: Any, depth: int = 4) -> str:
    """Return the text of a value: equal values of two trainings have equal texts."""
    if isinstance(value, np.ndarray):
        few = value.size <= _FEW
        return f"{value.tolist()}" if few else f"{value.dtype}{list(value.shape)} #{hash_of(value)}"
    if isinstance(value, (str, int, float, complex, bytes, np.generic)) or value is None:
        return repr(value.item() if isinstance(value, np.generic) else value)
    if isinstance(value, Layer) or not depth:
        return type(value).__name__
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {_in_words(v, depth - 1)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple)):
        words = [_in_words(item, depth - 1) for item in value]
        more = f", ... {len(words)} in all #{hash_of(words)}" if len(words) > _FEW else ""
        return f"[{', '.join(words[:_FEW])}{more}]"
    if isinstance(value, functools.partial):
        inside = _in_words(value.func, depth), *map(_in_words, value.args)
        named = (f"{name}={_in_words(v, depth - 1)}" for name, v in value.keywords.items())
        return f"partial({', '.join([*inside, *named])})"
    if hasattr(value, "__code__"):  # a function or a method
        return f"{value.__qualname__} #{hash_of(_code(value.__code__) + _enclosed(value, depth))}"
    if hasattr(value, "__qualname__"):  # one that is built in, or a class
        return str(value.__qualname__)
    left_out = {"optimizer", "base_lr", "most_steps", *getattr(value, "counted", ())}
    parts = getattr(value, "__dict__", {}).items()
    parts = (f"{n.lstrip('_')}={_in_words(v, depth - 1)}" for n, v in parts if n not in left_out)
    return f"{type(value).__name__}({', '.join(parts)})"


def _code(code: CodeType) -> list[Any]:
    """Return what a function does, without the lines that it is on."""
    constants = [
        _code(c) if inspect.iscode(c) else sorted(map(repr, c)) if isinstance(c, frozenset)
        else repr(c)
        for c in code.co_consts
    ]  # fmt: skip
    return [repr(code.co_code), repr(code.co_names), *constants]


def _enclosed(function: Callable[..., Any], depth: int) -> list[str]:
    """Return the defaults of a function, and the values around it that are no lists or dicts."""
    defaults, named, cells = (
        getattr(function, f"__{name}__", None) for name in ("defaults", "kwdefaults", "closure")
    )
    kept = [*(defaults or ()), *(named or {}).values()]
    for cell in cells or ():
        with contextlib.suppress(ValueError):  # it may still be empty
            kept.append(cell.cell_contents)
    return [_in_words(value, depth - 1) for value in kept if not isinstance(value, (list, dict))]


def all_in_words(data: Dataset) -> str:
    """Return the number of samples, and a hash of all batches that they make."""
    return _samples_in_words(data, len(data))


def beginning_in_words(data: Dataset) -> str:
    """Return the number of samples, and a hash of all lengths and of the first samples."""
    lengths = getattr(data, "lengths", None)
    return f"{_samples_in_words(data, _ROWS)} #{hash_of(lengths)}"


def _samples_in_words(data: Dataset, most: int) -> str:
    """Return the number of samples, and a hash of the batches that the first ones make."""

    def read(first: int) -> list[Any]:
        batch = data[np.arange(first, min(first + _ROWS, len(data)))]
        return [getattr(batch, name, None) for name in Batch._fields]

    if hash_of(read(0)) != hash_of(read(0)):  # noise may be added at each reading
        return f"{len(data)} samples, others at each reading"
    digests = [hash_of(read(first)) for first in range(0, min(most, len(data)), _ROWS)]
    return f"{len(data)} samples #{hash_of(digests)}"


def hash_of(value: Any) -> str:
    """Return a short hash of an array, a text or None, or of lists, tuples and dicts of these."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(value, dict):
        value = [part for item in value.items() for part in item]
    if isinstance(value, (list, tuple)):
        digest.update(" ".join(map(hash_of, value)).encode())
    elif isinstance(value, (str, type(None))):
        digest.update(repr(value).encode())
    else:
        array = np.ascontiguousarray(value)
        digest.update(f"{array.dtype.str}{np.shape(value)}".encode())
        if array.dtype.hasobject:
            digest.update(repr(array.tolist()).encode())
        else:
            digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def check_same(theirs: Mapping[str, str], ours: Mapping[str, str], changed: Iterable[str]) -> None:
    """Refuse a training that is made of other things, except for those named in `changed`."""
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


def _are_same(words: str | None, others: str | None) -> bool:
    """Tell whether two texts are of equal values; 1 and 1.0 are equal."""
    first, second = (w and re.sub(_WHOLE, "", w) for w in (words, others))
    return first == second


def _without_hash(words: str) -> str:
    return re.sub(" #[0-9a-f]+", "", words)


def _difference(name: str, theirs: str | None, ours: str | None) -> str:
    then, now = (_without_hash(str(words or "nothing"))[:_LONG] for words in (theirs, ours))
    return f"{name} has other values" if then == now else f"{name} was {then}, now it is {now}"
