"""Which inputs and outputs of an ONNX graph belong together as a state that goes on.

A file does not tell this. Two things do: that an input is what an LSTM, GRU or RNN begins with, and
an output what the same one ends with; and names, such as ``h`` and ``hn``, unless values go other
ways. An input and an output are taken for a state only if their types and sizes agree, and if
neither could belong to another one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..graphs import Port, State

Slot = tuple[int, str]  # the number of an LSTM, and "h" or "c"

# Operators whose output has the numbers of their first input, some of them, or in another order. A
# Concat has those of all its inputs.
PASSING = {
    "Cast", "Concat", "Flatten", "Gather", "Identity", "If", "Reshape", "Slice", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
}  # fmt: skip
_MOST_VISITS = 1 << 17  # of values, for all walks together
_MOST_PAIRS = 1 << 16  # of an input and an output

# Words by which a name says that a state goes in, or comes out, and words for states.
_IN = {"in", "init", "initial", "input", "last", "old", "past", "prev", "previous"}
_OUT = {"curr", "current", "final", "n", "new", "next", "o", "out", "output", "present", "updated"}
_STATE = {
    "c", "cache", "cell", "ch", "cx", "gru", "h", "hc", "hidden", "hx", "lstm", "mem", "memory",
    "rnn", "state", "states",
}  # fmt: skip
_JOINED = re.compile(  # a state and what comes behind it, in one word
    r"(c|cell|cx|h|hidden|hx|states?)(n|t|in|o|out|prev|next|new|init|final)"
)


class Flow:
    """Where values go, as far as it matters for states; filled while a graph is read."""

    def __init__(self) -> None:
        self._sources: defaultdict[str, list[str]] = defaultdict(list)
        self._begins: list[tuple[str, Slot]] = []  # what LSTMs begin with
        self._ends: dict[str, Slot] = {}
        self._backward: set[int] = set()  # those that run backward, too
        self._lstms = 0
        self._visits = 0

    def passes(self, source: str, target: str) -> None:
        """Note that a value has the numbers of another one, or some of them."""
        self._sources[target].append(source)

    def lstm(self, inputs: Sequence[str], outputs: Sequence[str], backward: bool = False) -> None:
        """Note an LSTM: its initial h and c, and its final ones; of a GRU or RNN, the c is ""."""
        for kind, begin, end in zip("hc", inputs, outputs, strict=True):
            if begin:
                self._begins.append((begin, (self._lstms, kind)))
            if end:
                self._ends[end] = self._lstms, kind
        if backward:
            self._backward.add(self._lstms)
        self._lstms += 1

    def is_backward(self, slots: Iterable[Slot]) -> bool:
        """Whether states are those of an LSTM that runs backward."""
        return any(lstm in self._backward for lstm, _ in slots)

    def begun_by(self, inputs: Iterable[str]) -> dict[str, frozenset[Slot]]:
        """Return which states of LSTMs begin with each of these values."""
        wanted = set(inputs)
        found: defaultdict[str, set[Slot]] = defaultdict(set)
        for value, slot in self._begins:
            for source in self._before(value) & wanted:
                found[source].add(slot)
        return {name: frozenset(slots) for name, slots in found.items()}

    def ended_in(self, value: str) -> frozenset[Slot]:
        """Return which states of LSTMs a value is made of when they have ended."""
        return frozenset(self._ends[name] for name in self._before(value) if name in self._ends)

    def _before(self, value: str) -> set[str]:
        """Return all values that one has numbers of; of none, if the graph is too large."""
        seen, todo = {value}, [value]
        while todo:
            self._visits += 1
            if self._visits > _MOST_VISITS:
                return set()
            for source in self._sources.get(todo.pop(), ()):
                if source not in seen:
                    seen.add(source)
                    todo.append(source)
        return seen


def states(
    inputs: Sequence[Port], outputs: Sequence[Port], values: Mapping[str, str], flow: Flow
) -> list[State]:
    """Return the states of a graph, in the order of the inputs.

    `values` has the value of each output, by its name.
    """
    begins = flow.begun_by(port.name for port in inputs)
    ends = {port.name: flow.ended_in(values[port.name]) for port in outputs}
    pairs = _matched(
        inputs, outputs, lambda one, other: bool(begins.get(one) and begins[one] == ends[other])
    )
    free_in = [port for port in inputs if port.name not in pairs]
    free_out = [port for port in outputs if port.name not in pairs.values()]

    def named(one: str, other: str) -> bool:
        begun, ended = begins.get(one), ends[other]
        if begun and ended and begun.isdisjoint(ended):
            return False  # states of other LSTMs
        return _named_alike(one, other)

    pairs |= _matched(free_in, free_out, named)
    return [
        State(port, pairs[port.name], flow.is_backward(begins.get(port.name, ())))
        for port in inputs
        if port.name in pairs
    ]


def _matched(
    inputs: Sequence[Port], outputs: Sequence[Port], belong: Callable[[str, str], bool]
) -> dict[str, str]:
    """Return the pairs that fit and belong together, where each has no other partner.

    There are none, if the graph has too many inputs and outputs.
    """
    if len(inputs) * len(outputs) > _MOST_PAIRS:
        return {}
    partners: defaultdict[str, list[str]] = defaultdict(list)
    suitors: defaultdict[str, list[str]] = defaultdict(list)
    for one in inputs:
        for other in outputs:
            if belong(one.name, other.name) and _fit(one, other):
                partners[one.name].append(other.name)
                suitors[other.name].append(one.name)
    return {
        name: found[0]
        for name, found in partners.items()
        if len(found) == 1 and len(suitors[found[0]]) == 1
    }


def _fit(one: Port, other: Port) -> bool:
    """Whether an output can be the next value of an input, as far as the file tells."""
    if one.dtype is None or one.dtype != other.dtype or one.shape is None or one.listed:
        return False
    if other.shape is None:
        return True
    opened = [
        {axis for axis, size in enumerate(port.shape or ()) if not isinstance(size, int)}
        for port in (one, other)
    ]
    if all(opened) and opened[0].isdisjoint(opened[1]):
        return False  # the batch is another axis: one is the other with its axes in another order
    return len(one.shape) == len(other.shape) and all(
        a == b or not (isinstance(a, int) and isinstance(b, int))
        for a, b in zip(one.shape, other.shape, strict=True)
    )


def _named_alike(one: str, other: str) -> bool:
    """Whether the names of an input and an output are those of one state before and after.

    >>> [_named_alike(*names.split()) for names in ("h hn", "h_0 h_n", "state stateN", "h cn")]
    [True, True, True, False]
    """
    before, after = _words(one), _words(other)
    if one == other or not _STATE & set(before):
        return False
    if not _without(before, _IN).isdisjoint(_without(after, _OUT)):
        return True
    if len(before) != len(after):
        return False
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    return len(changed) == 1 and changed[0][0] in {*_IN, "0"} and changed[0][1] in {*_OUT, "1"}


def _without(words: list[str], roles: set[str]) -> set[tuple[str, ...]]:
    """Return words without one that says a role; the words themselves if they have none."""
    places = [place for place, word in enumerate(words) if word in roles]
    return {tuple(words[:n] + words[n + 1 :]) for n in places} or {tuple(words)}


def _words(name: str) -> list[str]:
    """Return the words of a name: ``stateN`` is state n, ``hn0`` h n 0, ``lstm.h_in`` lstm h in."""
    name = re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()
    words: list[str] = []
    for word in re.findall(r"[a-z]+|[0-9]+", name):
        joined = _JOINED.fullmatch(word)
        words += joined.groups() if joined else [word]
    return words
