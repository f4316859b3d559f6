"""MATLAB files hold numbers, texts, structs and cells under names, however they are stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from typing import TypeAlias

    from ..arrays import Array

Value: TypeAlias = "Array | str | Struct | Cell | Closed"


class Struct(NamedTuple):
    """A struct, or an array of structs; the elements stand in MATLAB's order, by columns."""

    shape: tuple[int, ...]
    elements: list[dict[str, Any]]


class Cell(NamedTuple):
    """A cell array; the elements stand in MATLAB's order, by columns."""

    shape: tuple[int, ...]
    elements: list[Any]


class Closed(NamedTuple):
    """A value that is not opened, such as an object; `what` says in a sentence what it is."""

    what: str


class Variable(NamedTuple):
    """A variable of a file: the name of its class in MATLAB, and what reads its value."""

    kind: str
    read: Callable[[], Any]


def spelled(value: Any) -> str:
    """Return what a value is, for a sentence."""
    if isinstance(value, Closed):
        return value.what
    if isinstance(value, str):
        return "a text"
    if isinstance(value, (Struct, Cell)):
        name = "struct" if isinstance(value, Struct) else "cell array"
        return f"a {name} of {size_of(value.shape)}"
    return f"an array of {size_of(value.shape)}"


def size_of(shape: tuple[int, ...]) -> str:
    """Return a shape as MATLAB writes it: 3x1."""
    return "x".join(map(str, shape))


def single(value: Any) -> float | None:
    """Return the number of an array of one; None if it is anything else."""
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "biuf":
        return float(value.reshape(-1)[0])
    return None


def is_empty(value: Any) -> bool:
    """Tell whether a value is MATLAB's [], '' or {}."""
    if isinstance(value, (Struct, Cell)):
        return not value.elements
    return not value.size if isinstance(value, np.ndarray) else value == ""
