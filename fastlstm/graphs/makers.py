"""How the makers of computes stand in a table, and how they read what is known of an operator.

A maker is given an `Operator`, and returns a function of the values of its inputs, or None for a
form of it that is left to `reference`. Or it returns the whole `Node`, if that takes other inputs
or is not computed by NumPy: see `alone`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial, wraps
from operator import index
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..checks import short
from .limits import MOST_AXES
from .plan import Compute, Node, Operator

if TYPE_CHECKING:
    from .limits import Limits

MANY = 1 << 30  # as the number of inputs or outputs: as many as one likes
SMALL = 1 << 16  # arrays of so few elements are made without asking the limits
_MISSING: Any = object()


Maker: TypeAlias = "Callable[[Operator], Node | Compute | None]"


class Table(dict[str, Maker]):
    """Makers by the names of operators; for those of other domains than ONNX's, "domain.name"."""

    def enter(
        self, *names: str, inputs: tuple[int, int] = (1, 1), outputs: tuple[int, int] = (1, 1)
    ) -> Callable[[Maker], Maker]:
        """Return a decorator that enters a maker, behind a check of its inputs and outputs.

        Of both there are at least and at most so many, and those that must be are not left out.
        """

        def entered(make: Maker) -> Maker:
            @wraps(make)
            def checked(operator: Operator) -> Node | Compute | None:
                _check_count("input", operator.inputs, inputs)
                _check_count("output", operator.outputs, outputs)
                return make(operator)

            self.update(dict.fromkeys(names, checked))
            return make

        return entered

    def plain(
        self, *names: str, inputs: tuple[int, int] = (1, 1), limited: bool = False
    ) -> Callable[[Compute], Compute]:
        """Return a decorator that enters a function of the inputs; with the limits before them."""

        def entered(compute: Compute) -> Compute:
            make = partial(_limited if limited else _as_it_is, compute)
            self.enter(*names, inputs=inputs)(make)
            return compute

        return entered


def _as_it_is(compute: Compute, operator: Operator) -> Compute:
    return compute


def _limited(compute: Compute, operator: Operator) -> Compute:
    return partial(compute, operator.draft.limits)


def _check_count(what: str, names: Sequence[str], counts: tuple[int, int]) -> None:
    least, most = counts
    if not least <= len(names) <= most or (what == "input" and not all(names[:least])):
        given = sum(map(bool, names))
        wanted = f"{least}" if least == most else f"{least} to {most}" if most < MANY else "more"
        raise ValueError(f"it has {given} {what}s, and must have {wanted}")


def alone(operator: Operator, compute: Compute) -> Node:
    """Return the node that computes from the first input alone: it knows what the others hold."""
    return Node(operator.name, operator.type, compute, operator.inputs[:1], operator.outputs)


# ---- attributes ---------------------------------------------------------------------------------


def attribute(operator: Operator, name: str, default: Any = _MISSING) -> Any:
    """Return an attribute; raise ValueError if it is missing and has no default."""
    value = operator.attributes.get(name, default)
    if value is _MISSING:
        raise ValueError(f"the attribute {name!r} is missing")
    return value


def whole(operator: Operator, name: str, default: Any = _MISSING) -> int:
    """Return an attribute that is an integer."""
    value = attribute(operator, name, default)
    try:
        return index(value)
    except TypeError:
        raise ValueError(f"the attribute {name!r} must be an integer, got {short(value)}") from None


def number(operator: Operator, name: str, default: Any = _MISSING) -> float:
    """Return an attribute that is a number, as ONNX holds it: rounded to float32."""
    value = attribute(operator, name, default)
    try:
        return float(np.float32(value))
    except (TypeError, ValueError):
        raise ValueError(f"the attribute {name!r} must be a number, got {short(value)}") from None


def word(operator: Operator, name: str, choices: Iterable[str], default: str) -> str:
    """Return an attribute that is one of a few words."""
    value = attribute(operator, name, default)
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if value not in choices:
        raise ValueError(
            f"the attribute {name!r} must be one of {', '.join(choices)}, got {short(value)}"
        )
    return str(value)


def wholes(value: Any) -> tuple[int, ...]:
    """Return the integers in an attribute or in the value of an input, in order."""
    return tuple(map(index, np.asarray(value).ravel().tolist()))


def known_wholes(operator: Operator, name: str, place: int) -> tuple[int, ...] | None:
    """Return integers that an attribute holds or, in later versions, an input.

    None if they are not known yet, or are so many that each node should not have them again.
    """
    if operator.has(place):
        value = operator.constant(place)
        return None if value is None or np.size(value) > MOST_AXES else wholes(value)
    return wholes(operator.attributes[name]) if name in operator.attributes else None


# ---- shapes -------------------------------------------------------------------------------------


def axis_of(axis: int, rank: int) -> int:
    """Return an axis as it is counted from the first one; raise ValueError if there is none."""
    if not -rank <= axis < rank:
        raise ValueError(f"there is no axis {axis} among {rank}")
    return axis % rank


def axes_of(axes: Iterable[int], rank: int) -> list[int]:
    """Return axes counted from the first one; raise ValueError if one is named twice."""
    found = [axis_of(axis, rank) for axis in axes]
    if len(set(found)) < len(found):
        raise ValueError(f"an axis is named twice in {found}")
    return found


def along(axis: int, part: Any) -> tuple[Any, ...]:
    """Return the index of a part along one axis, of an array of any rank that has this axis."""
    axis_of(axis, MOST_AXES)
    if axis < 0:
        return (..., part, *[slice(None)] * (-axis - 1))
    return (*[slice(None)] * axis, part)


def allow(limits: Limits, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Ask the limits for an array, unless it is small."""
    if len(shape) > MOST_AXES or math.prod(shape) > SMALL or min(shape, default=0) < 0:
        limits.allow(shape, dtype.itemsize)
