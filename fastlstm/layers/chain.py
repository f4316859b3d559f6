"""How layers fit together: what each gives to the next, before there is any input.

Each layer's ``_join(name, given)`` refuses what it cannot take. It returns itself, as it stands at
that place, and what it gives. What is not known yet is checked when the layers run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from .layer import Layer

    Named: TypeAlias = tuple[str, Layer]


class Given(NamedTuple):
    """What a layer gives to the next one, as far as it is known."""

    layouts: list[tuple[Named, Named]]  # all pairs so far that must agree in `batch_first`
    owner: str  # the kind of the layer that is being built, for messages
    features: int | None = None  # how long its last axis is
    giver: str = ""  # which layer gives that many
    lstm: Named | None = None  # the LSTM whose axes of steps and sequences these are
    directions: bool = False  # whether the features are still that LSTM's, [forward, backward]
    stranger: str = ""  # a layer behind that LSTM of which nothing is known
    last: str = ""  # the layer that passed on the last step only
    cell: bool = False  # whether it is the (h, c) of an LSTMCell
    taken: int | None = None  # how many features the first input has, where a layer told
    taker: str = ""  # which layer told
    axes: int | None = None  # how many axes a batch of the first input has, where an LSTM told
    added: int | None = 0  # how many axes layers have added since, where that is known

    def check(self, features: int, taker: str) -> Given:
        """Refuse what gives another number of features than its taker takes."""
        if self.features not in (None, features):
            raise ValueError(
                f"{self.owner}: {self.giver} gives {self.features} features, {taker} takes "
                f"{features}"
            )
        if not self.is_input:
            return self
        if self.taken not in (None, features):
            raise ValueError(
                f"{self.owner}: {self.taker} takes {self.taken} features, {taker} takes "
                f"{features} of the same input"
            )
        return self._replace(taken=features, taker=taker)

    def check_steps(self, taker: str) -> None:
        """Refuse what needs a sequence behind a Last."""
        if self.last:
            raise ValueError(
                f"{self.owner}: {taker} needs a sequence of steps, of which {self.last} has left "
                "one"
            )

    def check_layout(self, name: str, layer: Layer) -> None:
        """Refuse a layer of another layout than the LSTM before it; now, and in `layouts`."""
        if self.lstm is not None:
            pair = self.lstm, (name, layer)
            check_layouts([pair], self.owner)
            self.layouts.append(pair)

    @property
    def is_input(self) -> bool:
        """Whether it has the features of the first input, because no layer has changed them."""
        return self.features is None and self.added == 0 and not self.cell

    @property
    def known_features(self) -> int | None:
        """How many features it has, also where they are still those of the first input."""
        return self.taken if self.is_input else self.features

    def behind(self, **known: Any) -> Given:
        """Return what is given by a layer of which only this is known."""
        kept = {name: getattr(self, name) for name in ("taken", "taker", "axes", "added")}
        return Given(self.layouts, self.owner, **kept | known)

    def behind_lstm(self, name: str, lstm: Layer, **known: Any) -> Given:
        """Return what is given by an LSTM. The first one tells how many axes the input has."""
        axes = self.axes
        if axes is None and self.added is not None:
            axes = 3 - self.added
        return self.behind(lstm=(name, lstm), directions=True, axes=axes, **known)

    def unknown(self, name: str, layer: Layer) -> Given:
        """Return what is given by a layer that may do anything with what was given to it.

        One's own kind of LSTM says itself how its axes lie. Another layer may have one inside.
        """
        if _is_lstm(layer):
            return self.behind_lstm(name, layer, added=None)
        inner = [(n[:-1], own) for n, own in layer.named_layers(name + ".") if _is_lstm(own)]
        lstm = inner[-1] if inner else self.lstm
        stranger = who(name, layer) if lstm else ""
        last = "" if layer.gives_steps else who(name, layer)
        return self.behind(lstm=lstm, stranger=stranger, last=last, added=None)


def check_whole(given: Given, name: str) -> None:
    """Refuse the (h, c) of an LSTMCell where a layer is to take it."""
    if given.cell:
        raise TypeError(
            f"{given.owner}: {name!r:.100} gives the (h, c) of an LSTMCell, which no layer takes; "
            "put it last or use an LSTM"
        )


def _is_lstm(layer: Layer) -> bool:
    return hasattr(layer, "bidirectional") and hasattr(layer, "num_layers")


def runs_from_end(lstm: Layer) -> bool:
    """Tell whether all that an LSTM gives was computed from the end, as with ``reverse=True``."""
    return bool(getattr(lstm, "reverse", False))


def check_layouts(pairs: Iterable[tuple[Named, Named]], owner: str = "Sequential") -> None:
    """Refuse a pair of layers of which one is `batch_first` and the other is not."""
    for before, behind in pairs:
        one, other = before[1].batch_first, behind[1].batch_first
        if one is not other and None not in (one, other):
            raise ValueError(
                f"{owner}: {who(*before)} has batch_first={one}, {who(*behind)} has "
                f"batch_first={other}: what one reads as steps the other reads as sequences"
            )


def who(name: str, layer: Layer) -> str:
    """Return how a message names a layer. Long names, as a damaged file may hold, are cut."""
    what = type(layer).__name__ if layer.children else repr(layer)
    short = name if len(name) <= 100 else name[:100] + "..."
    return f"{short!r} ({what})" if name else what


def dotted(name: str, inner: str) -> str:
    """Return the dotted name of what is called `inner` inside the layer `name`."""
    return f"{name}.{inner}" if name and inner else name or inner
