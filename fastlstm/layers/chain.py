"""How the layers of a Sequential fit together: what each gives to the next, before any input.

Each layer's ``_join(name, given)`` refuses what it cannot take, and returns itself, as it stands at
that place, and what it gives. Whatever is not known is left to the run.
"""

from typing import NamedTuple


class Given(NamedTuple):
    """What a layer gives to the next one, as far as it is known."""

    layouts: list  # all pairs of (name, layer) so far that must agree in `batch_first`
    features: int | None = None  # how long its last axis is
    giver: str = ""  # who gives that many
    lstm: tuple | None = None  # (name, LSTM): whose axes of steps and sequences these are
    directions: bool = False  # whether the features are still that LSTM's, [forward, backward]
    stranger: str = ""  # a layer of one's own behind that LSTM
    last: str = ""  # the Last that left one step of all

    def check(self, features, taker):
        """Refuse what gives another number of features than its taker takes."""
        if self.features not in (None, features):
            raise ValueError(
                f"Sequential: {self.giver} gives {self.features} features, {taker} takes {features}"
            )

    def check_steps(self, taker):
        """Refuse what needs a sequence behind a Last."""
        if self.last:
            raise ValueError(
                f"Sequential: {taker} needs a sequence of steps, of which {self.last} has left one"
            )

    def check_layout(self, name, layer):
        """Refuse a layer of another layout than the LSTM before it; now, and in `layouts`."""
        pair = self.lstm, (name, layer)
        check_layouts([pair])
        self.layouts.append(pair)

    def unknown(self, name, layer):
        """What is given by a layer that may do anything with what was given to it.

        One's own kind of LSTM says itself how its axes lie; another layer may have one inside.
        """
        if _is_lstm(layer):
            return Given(self.layouts, lstm=(name, layer), directions=True)
        inner = [(n[:-1], own) for n, own in layer.named_layers(name + ".") if _is_lstm(own)]
        lstm = inner[-1] if inner else self.lstm
        return Given(self.layouts, lstm=lstm, stranger=who(name, layer) if lstm else "")


def join(children, given, prefix=""):
    """(the layers by their names, each as it stands at its place, what the last one gives)."""
    joined = {}
    for name, layer in children.items():
        if is_own(layer):
            joined[name], given = layer, given.unknown(prefix + name, layer)
        else:
            joined[name], given = layer._join(prefix + name, given)
    return joined, given


def is_own(layer):
    """Whether a layer's call is of the caller's making, not of this package."""
    module = getattr(type(layer).__call__, "__module__", None) or ""
    return module.partition(".")[0] != __name__.partition(".")[0]


def _is_lstm(layer):
    return hasattr(layer, "bidirectional") and hasattr(layer, "num_layers")


def check_layouts(pairs):
    """Refuse layers one behind the other of which one is `batch_first` and the other is not."""
    for before, behind in pairs:
        one, other = before[1].batch_first, behind[1].batch_first
        if one is not other and None not in (one, other):
            raise ValueError(
                f"Sequential: {who(*before)} has batch_first={one}, {who(*behind)} has "
                f"batch_first={other}: one takes for steps what is sequences for the other"
            )


def who(name, layer):
    """A layer in a sentence; names may come from a file of unknown origin."""
    name = name if len(name) <= 100 else name[:100] + "..."
    return f"{name!r} ({type(layer).__name__ if layer.children else repr(layer)})"
