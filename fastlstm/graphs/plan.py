"""Plan: a graph of operators, put in order once and then run over arrays.

A graph comes from a file: a reader gives its constants and nodes to a `Draft`, in an order in which
each node finds its inputs, and `Draft.plan` makes the plan. What can be computed from constants
alone is computed at once, and nodes that nobody asks for are left out.

A value is an array or, as ONNX also has them, a list of arrays (a "sequence") or None (an absent
"optional"). Values have names; the empty name stands for an input that is left out, or an output
that nobody wants. A plan does not write into the values that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from ..arrays import quiet
from ..checks import quoted, short
from .limits import Limits, TooLarge

if TYPE_CHECKING:
    from ..engines import EngineChoice
    from ..layers import Layer

Made = TypeVar("Made")
Value: TypeAlias = Any  # an ndarray, a list of them, or None
# Takes the values of a node's inputs, and returns that of its output, or a tuple where it has
# several. A model is pickled with its plan, so it is a function of a module, `functools.partial` of
# one, or an object of a class; no lambda and no function inside a function.
Compute: TypeAlias = Callable[..., Any]

# What operators raise for values that will not do. A list has no shape, for example.
FAULTS = ValueError, TypeError, LookupError, ArithmeticError, AttributeError

_Take: TypeAlias = Any  # a slot, or an itemgetter: `_taking`
_Give: TypeAlias = Any  # a slot, or a list of them


class Node(NamedTuple):
    """One operator of a graph.

    ``by`` says who computes it: "fastlstm" its engines, "numpy", or "onnx" its reference evaluator.
    ``note`` tells what it does otherwise than the file says, if it does.
    """

    name: str
    type: str
    compute: Compute
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    by: str = "numpy"
    note: str = ""


class Operator(NamedTuple):
    """An operator as a file has it, from which a `Node` is made.

    Parameters
    ----------
    name, type, domain : str
        ``domain`` is "" for ONNX's own operators.
    version : int
        The version of the domain's operators that the file was written for ("opset").
    attributes : dict of str -> object
        Numbers, strings, lists of them, arrays; a `Body` where the file has a graph.
    inputs, outputs : tuple of str
        Names of values.
    constants : tuple
        The values of those inputs that are known already; None for the others.
    draft : Draft
        The graph that the operator becomes part of: its engine, limits and layers.
    """

    name: str
    type: str
    domain: str
    version: int
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[Value, ...]
    draft: Draft

    def constant(self, place: int) -> Value:
        """Return the value of an input if it is known already, None otherwise."""
        return self.constants[place] if place < len(self.constants) else None

    def has(self, place: int) -> bool:
        """Whether there is such an input."""
        return place < len(self.inputs) and bool(self.inputs[place])


class Body(NamedTuple):
    """A graph inside an operator: a branch of an If, what a Loop or Scan repeats.

    ``plan`` takes its own inputs first, and then the values of the graphs around it that it uses.
    These are named by ``captured``, and are inputs of the operator's node too, behind its own.
    ``kinds`` are dtype and shape of each output, None for what the file does not tell.
    """

    plan: Plan
    captured: tuple[str, ...]
    kinds: Sequence[tuple[Any, Any]] = ()


class Draft:
    """A graph that is being read.

    Parameters
    ----------
    engine : str
        The engine of the layers inside; see `fastlstm.LSTM`.
    limits : Limits
        Of arrays whose size a number in the file decides. It is the same object for the whole
        model, so that the operators follow when it is changed.
    room : int
        How many bytes all computed constants may take together.

    Attributes
    ----------
    constants : dict of str -> value
    nodes : list of Node
    layers : dict of str -> Layer
        The layers inside, such as LSTMs, by the names of their nodes.
    made : dict
        What `once` has made.
    taken : dict
        The constants that it has made something of, by their identities.
    """

    def __init__(self, engine: EngineChoice, limits: Limits, room: int) -> None:
        self.engine, self.limits, self.room = engine, limits, room
        self.constants: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self.layers: dict[str, Layer] = {}
        self.made: dict[Hashable, tuple[Any, tuple[Value, ...]]] = {}
        self.taken: dict[int, Value] = {}
        self._names: dict[int, str] = {}  # of layers, by their identities
        self._numbers: dict[str, int] = {}  # how many layers have names that begin so

    def inside(self) -> Draft:
        """Return a draft for a graph inside an operator: its layers are layers of this one."""
        draft = Draft(self.engine, self.limits, self.room)
        draft.layers, draft.made, draft.taken = self.layers, self.made, self.taken
        draft._names, draft._numbers = self._names, self._numbers
        return draft

    def spend(self, size: int) -> None:
        """Count bytes of what is made of constants, beyond those that the file has itself.

        Raises
        ------
        ValueError
            If these are too many.
        """
        self.room -= size
        if self.room < 0:
            raise ValueError("far more would be made of its constants than it has of them")

    def layer(self, name: str, layer: Layer) -> Layer:
        """Put a layer into the model, in evaluation mode, under a name like that of its node."""
        name = name.replace(".", "_") or type(layer).__name__
        free, number = name, self._numbers.get(name, 1)
        while free in self.layers:
            number += 1
            free = f"{name}_{number}"
        self._numbers[name] = number
        self.layers[free] = layer.eval()
        self._names[id(layer)] = free
        return layer

    def replace(self, layer: Layer, other: Layer | None) -> None:
        """Take a layer out of the model, if it is there; another one may take its place."""
        if name := self._names.pop(id(layer), ""):
            if other is None:
                del self.layers[name]
            else:
                self.layers[name] = other
                self._names[id(other)] = name

    def once(self, kind: Hashable, constants: Sequence[Value], make: Callable[[], Made]) -> Made:
        """Return what `make` makes of these constants, the same for all nodes that have them.

        A file stores a weight once, however many nodes take it. `kind` tells what is made. If
        several things are made of a constant, they `spend`.
        """
        key = kind, tuple(map(id, constants))
        if key not in self.made:
            for constant in constants:
                if id(constant) in self.taken:
                    self.spend(_bytes(constant))
                self.taken[id(constant)] = constant
            self.made[key] = make(), tuple(constants)  # which keeps the constants, and so their ids
        made: Made = self.made[key][0]
        return made

    def add(self, node: Node, fold: bool = True) -> None:
        """Add a node behind all that it takes values from.

        If all its inputs are constants, it is computed now, unless `fold` is False or its result is
        too large.
        """
        if fold and all(not name or name in self.constants for name in node.inputs):
            try:
                values = [self.constants.get(name) for name in node.inputs]
                results = computed(node, values)
            except TooLarge:
                pass
            else:
                size = sum(_bytes(result) for result in results)
                if size <= self.room:
                    self.room -= size
                    named = zip(node.outputs, results, strict=True)
                    self.constants.update((name, result) for name, result in named if name)
                    return
        self.nodes.append(node)

    def plan(self, inputs: Sequence[str], outputs: Sequence[str]) -> Plan:
        """Return the plan of all that the outputs need; some neighbours become one node in it."""
        from .fusion import fused  # they need the nodes of this module
        from .lookups import looked_up

        nodes = fused(self, looked_up(self, self.nodes, outputs), outputs)
        return Plan(nodes, self.constants, inputs, outputs)


class Plan:
    """Operators in the order in which they run.

    Parameters
    ----------
    nodes : iterable of Node
        In an order in which each finds its inputs among the plan's, the constants and the outputs
        of those before it. Those that no output needs are left out.
    constants : dict of str -> value
    inputs, outputs : sequence of str

    Attributes
    ----------
    nodes : list of Node
        Those that run.
    constants : dict of str -> value
        Those that are used.
    inputs, outputs : tuple of str
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        constants: Mapping[str, Value],
        inputs: Sequence[str],
        outputs: Sequence[str],
    ) -> None:
        self.nodes = _needed(list(nodes), set(outputs))
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        places = {name: place for place, name in enumerate(inputs)}
        self._first: list[Value] = [None] * len(inputs)  # what the slots hold before a run
        used = {name for node in self.nodes for name in node.inputs} | set(outputs)
        self.constants = {n: v for n, v in constants.items() if n in used and n not in places}
        for name, value in self.constants.items():
            places[name] = len(self._first)
            self._first.append(value)
        kept = set(outputs) | set(constants)
        last = {name: n for n, node in enumerate(self.nodes) for name in node.inputs}
        places[""] = len(self._first)
        self._first.append(None)
        # Of each node: what takes its inputs out of the slots, where its output goes or outputs go,
        # and the slots to empty: those of values that nobody needs behind it, unless an output of
        # the node has taken the slot.
        self._steps: list[tuple[Node, Compute, _Take, _Give, list[int]]] = []
        idle: list[int] = []  # slots that may be used again
        for n, node in enumerate(self.nodes):
            takes = [_place(places, name, node) for name in node.inputs]
            done = {name for name in node.inputs if name and last[name] == n} - kept
            free = sorted({places[name] for name in done})
            idle += free
            for name in filter(None, node.outputs):
                if name in places:
                    raise ValueError(f"{_who(node)} gives {short(name)}, which is there already")
                if not idle:
                    idle.append(len(self._first))
                    self._first.append(None)
                places[name] = idle.pop()
            gives = [places[name] if name else -1 for name in node.outputs]
            free = [place for place in free if place not in gives]
            give = gives[0] if len(gives) == 1 else gives
            self._steps.append((node, node.compute, _taking(takes), give, free))
        for name in outputs:
            if name not in places:
                raise ValueError(f"nothing gives the output {short(name)}")
        self._last = [places[name] for name in outputs]

    def __repr__(self) -> str:
        return (
            f"Plan({len(self.nodes)} nodes, {len(self.constants)} constants, inputs: "
            f"{quoted(self.inputs)}, outputs: {quoted(self.outputs)})"
        )

    def run(self, values: Sequence[Value]) -> list[Value]:
        """Return the values of the outputs, given those of the inputs, in their orders.

        Whoever runs a model sets NumPy's errstate around it, once: a graph inside has none.

        Raises
        ------
        ValueError
            If an operator cannot compute; the sentence names it.
        """
        slots = self._first.copy()
        slots[: len(values)] = values
        try:
            for node, compute, takes, gives, free in self._steps:  # noqa: B007 (named in errors)
                if takes.__class__ is int:
                    result = compute(slots[takes])
                else:
                    result = compute(*takes(slots))
                if gives.__class__ is int:
                    slots[gives] = result
                else:
                    for place, value in zip(gives, result, strict=True):
                        if place >= 0:
                            slots[place] = value
                for place in free:
                    slots[place] = None
        except FAULTS as fault:
            raise told(node, fault) from fault
        return [slots[place] for place in self._last]


@quiet
def computed(node: Node, values: Sequence[Value]) -> tuple[Value, ...]:
    """Return the values of a node's outputs, given those of its inputs.

    Raises
    ------
    TooLarge, ValueError
        As `Plan.run`.
    """
    try:
        result = node.compute(*values)
    except TooLarge:
        raise
    except MemoryError as fault:
        raise TooLarge(f"{_who(node)}: {fault or 'there is not enough memory'}") from fault
    except FAULTS as fault:
        raise told(node, fault) from fault
    return result if len(node.outputs) > 1 else (result,)


def _needed(nodes: list[Node], wanted: Collection[str]) -> list[Node]:
    """Return the nodes that the wanted values need, in the same order.

    An output that nobody takes loses its name.
    """
    wanted, needed = set(wanted), []
    for node in reversed(nodes):
        if wanted.isdisjoint(node.outputs) or not any(node.outputs):
            continue
        needed.append(node._replace(outputs=tuple(n if n in wanted else "" for n in node.outputs)))
        wanted.update(filter(None, node.inputs))
    return needed[::-1]


def _taking(places: Sequence[int]) -> _Take:
    """Return what takes values out of slots: a slot, or a function that returns several values."""
    if len(places) == 1:
        return places[0]
    return itemgetter(*places) if places else itemgetter(slice(0))


def _place(places: Mapping[str, int], name: str, node: Node) -> int:
    if name not in places:
        raise ValueError(f"{_who(node)} takes {short(name)}, which nothing before it gives")
    return places[name]


def _who(node: Node | Operator) -> str:
    return f"operator {node.type} {short(node.name)}"


def told(node: Node | Operator, fault: Exception) -> ValueError:
    """Return an error that says which operator cannot compute; one from inside says it already."""
    said = str(fault)
    if said.startswith("operator "):
        return fault if isinstance(fault, ValueError) else ValueError(said)
    kind = TooLarge if isinstance(fault, TooLarge) else ValueError
    return kind(f"{_who(node)}: {said}")


def _bytes(value: Value) -> int:
    if isinstance(value, (list, tuple)):
        return sum(map(_bytes, value)) + 8 * len(value)
    return int(getattr(value, "nbytes", 0)) or 8 * int(getattr(value, "num_parameters", 0))
