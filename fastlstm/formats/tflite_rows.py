"""Values of a TFLite graph that are what a row of layers makes of its only input.

A converter writes a Keras model as operators: it turns the steps round before and behind an LSTM
that runs from the end, exchanges the axes of batch and steps around one that has the steps first,
and cuts out the last step. Here is told which layers these are together. A graph whose output is
such a row becomes a `Sequential`, which can be trained and streamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..layers import LSTM, Layer
from . import structure

if TYPE_CHECKING:
    from ..arrays import Array
    from ..graphs import Port


# A longer row is a graph: each value has a row of its own, and all are kept while a graph is read.
_MOST_PARTS = 200


class Part(NamedTuple):
    """A layer of a row: its description as `structure` has it, and its arrays."""

    description: dict[str, Any]
    arrays: Mapping[str, Array]

    @classmethod
    def of(cls, layer: Layer) -> Part:
        """Return the part that a layer is."""
        return cls(structure.describe(layer), layer.state_dict())

    @property
    def is_lstm(self) -> bool:
        """Whether it is an LSTM."""
        return bool(self.description["layer"] == "LSTM")

    def has(self, argument: str) -> bool:
        """Whether an argument of its description is given, and true."""
        return bool(self.description.get(argument))


class Row(NamedTuple):
    """What is known of a value: the input, and the layers behind it.

    The axes of batch and steps may be exchanged against the row's (``swapped``), and an axis of the
    row's may run from its end (``flipped``). ``axes`` is how many axes the value has, None if that
    is not known.
    """

    port: Port
    axes: int | None
    parts: tuple[Part, ...] = ()
    swapped: bool = False
    flipped: int | None = None

    def behind(self, *parts: Part, added: int = 0) -> Row | None:
        """Return the row with further layers, which take each step for itself."""
        if self.axes is None or len(self.parts) > _MOST_PARTS:
            return None
        return self._replace(parts=self.parts + parts, axes=self.axes + added)

    def lstm(self, layer: LSTM, time_major: bool) -> Row | None:
        """Return the row with an LSTM; None if its axes are others."""
        batch_first = time_major == self.swapped
        if self.axes != 3 or self.flipped not in (None, int(batch_first)):
            return None
        if self.flipped is not None and layer.bidirectional:
            return None
        part = Part.of(layer)
        changes = {"batch_first": batch_first, "reverse": self.flipped is not None}
        return self.behind(part._replace(description={**part.description, **changes}))

    def transposed(self, axes: Sequence[int]) -> Row | None:
        """Return the row with its axes in another order."""
        if self.axes == 3 and tuple(axes) == (1, 0, 2):
            return self._replace(swapped=not self.swapped)
        return None

    def turned(self, axes: Sequence[int]) -> Row | None:
        """Return the row with an axis in the opposite order."""
        if self.axes != 3 or len(axes) != 1:
            return None
        (axis,) = axes
        axis = axis + 3 if axis < 0 else axis
        axis = 1 - axis if self.swapped and axis < 2 else axis
        if self.flipped is None:
            return self._replace(flipped=axis) if axis < 2 else None
        return self._replace(flipped=None) if axis == self.flipped else None

    def cut(self, index: Sequence[Any]) -> Row | None:
        """Return the row of a slice; None unless it is the last step."""
        whole = [part is ... or part == slice(None, None, 1) for part in index]
        if (
            self.axes != 3
            or whole.count(False) != 1
            or not isinstance(index[whole.index(False)], int)
        ):
            return None
        axis = whole.index(False)
        if index[axis] != -1 or axis > 1 or ... in index[:axis]:
            return None
        return self.last(axis)

    def reshaped(self, sizes: Any, shape: Any) -> Row | None:
        """Return the row in another shape; None unless it is the same one."""
        return None

    def last(self, axis: int) -> Row | None:
        """Return the row of the last element along an axis: the last step of the LSTM before it."""
        part = self.parts[-1] if self.parts else None
        if part is None or not part.is_lstm or part.has("bidirectional"):
            return None
        batch_first = part.has("batch_first")
        if axis != int(batch_first != self.swapped) or (self.flipped is None) == part.has(
            "reverse"
        ):
            return None
        last = Part({"layer": "Last"}, {})
        return self._replace(parts=(*self.parts, last), axes=2, swapped=False, flipped=None)

    @staticmethod
    def beside(rows: Sequence[Row]) -> Row | None:
        """Return the row of two directions whose outputs are put beside each other."""
        if len(rows) != 2 or rows[0]._replace(parts=()) != rows[1]._replace(parts=()):
            return None
        ahead, back = rows
        if ahead.flipped is not None or len(ahead.parts) != len(back.parts):
            return None
        lasts = [list(row.parts[-1:]) for row in rows if row.axes == 2]
        if any(not one or one[0].description["layer"] != "Last" for one in lasts):
            return None
        cut = len(ahead.parts) - bool(lasts)
        pairs = zip(ahead.parts[: cut - 1], back.parts, strict=False)
        if cut < 1 or any(one is not other for one, other in pairs):
            return None
        one, other = ahead.parts[cut - 1], back.parts[cut - 1]
        if not one.is_lstm or not other.is_lstm or one.has("reverse"):
            return None
        if {**one.description, "reverse": True} != {**other.description}:
            return None
        reverse = {f"{name}_reverse": array for name, array in other.arrays.items()}
        both = Part({**one.description, "bidirectional": True}, {**one.arrays, **reverse})
        return ahead._replace(parts=(*ahead.parts[: cut - 1], both, *ahead.parts[cut:]))

    @property
    def is_whole(self) -> bool:
        """Whether the value is what the layers give, with its axes in their order."""
        return bool(self.parts) and not self.swapped and self.flipped is None
