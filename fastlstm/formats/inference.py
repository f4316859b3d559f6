"""How the parts of a state dict go together, as far as names and shapes tell it.

A state dict lists its parts in the order in which the model defined the layers. It does not tell in
which order they run, and nothing of residual connections and of layers without parameters
(activations, dropout, which output of an LSTM is used). So a chain is inferred only if the sizes
admit a single one, and if that is the common one: an embedding, LSTMs, a Linear. In every other
case the caller must say the order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ..checks import quoted, short
from ..layers import Last, Layer
from . import structure
from .parts import Part, Parts, Reading, within
from .structure import Description

if TYPE_CHECKING:
    from ..arrays import Array

_MOST_NESTED = 16  # parts of a name
_MOST_CHAINED = 8  # layers, of which all orders are tried
_MOST_COMPARED = 100  # chains
_LONGEST_ADVISED = 300  # characters of a name in advice
_UNTOLD = "activations, dropout, residual connections and which output is used"


class Link(NamedTuple):
    """A part in a chain, read as one layer. A layer without parameters has no name."""

    name: str | None
    reading: Reading


Chain: TypeAlias = list[Link]


def infer(parts: Parts, ordered: bool = True) -> tuple[Description, Mapping[str, Array], str]:
    """Return the model of the parts, if they admit a single chain, and that is the common one.

    Parameters
    ----------
    parts : Parts
    ordered : bool
        Whether the file keeps the order in which the layers were defined. If it does, the chain
        must have this order.

    Returns
    -------
    description : dict
        A layer, if there is only one part and it has no name; otherwise a Sequential with the names
        of the parts.
    arrays : dict of str -> ndarray
        Under the names that they have in the model.
    untold : str
        Words for people about what the file does not tell; empty for a layer without a name.

    Raises
    ------
    ValueError
        If no model can be inferred. The sentence lists the parts, and what the caller can do.
    """
    links = _only_chain(parts, ordered)
    if len(links) == 1 and not links[0].name:
        return links[0].reading.description, parts[""].arrays, ""
    nested = _nest([(_name(link).split("."), link.reading.description) for link in links])
    if nested is None:
        raise _unclear(parts, "their names do not nest as their sizes chain")
    arrays = {f"{n}.{local}": a for n, part in parts.items() for local, a in part.arrays.items()}
    untold = [f"not in the file: {_UNTOLD}"]
    if len(links) > 1 and links[-1].reading.kind == "Linear":
        untold.append(f"here {links[-1].name} takes every step")
    if parts.numbers:
        untold.append(f"left out of the file: {quoted(parts.numbers)}")
    return nested, arrays, "; ".join(untold)


def arrange(
    parts: Parts, order: Sequence[str | Layer], ordered: bool = True
) -> tuple[Description, Mapping[str, Array], list[str]]:
    """Return a Sequential of parts in the order that the caller says, and its arrays.

    Parameters
    ----------
    parts : Parts
    order : list of str or Layer
        Names of parts, names of groups that are chains of their own, and layers without parameters.
    ordered : bool
        As for `infer`, which infers the chains of the groups.

    Returns
    -------
    description : dict
        A Sequential. The name of a part in it has ``_`` for dots; that of a layer without
        parameters is its place in `order`.
    arrays : dict of str -> ndarray
        Under the names that they have in the model.
    left : list of str
        The parts of no known kind that the order leaves out, or the arrays of such a part if it has
        no name.

    Raises
    ------
    ValueError
        If a name in `order` is not that of a part or group, a part of a known kind is missing, or
        the sizes do not fit in this order.
    """
    choices: list[Chain] = []
    held: dict[str, Mapping[str, Array]] = {}
    covered: set[str] = set()
    for entry in order:
        if isinstance(entry, Layer):
            choices.append([Link(None, Reading(None, None, _as_given(entry)))])
            continue
        entry = entry.removesuffix(".")
        group = within(parts, entry)
        inside = {name for name in parts if name.startswith(f"{entry}.")}
        covered |= {entry} if entry in parts else inside or set(parts)
        if set(group) == {""}:
            if not group[""].readings:
                raise ValueError(f"{entry!r} cannot be run: {group['']}")
            choices.append([Link(entry, reading) for reading in group[""].readings])
            held[entry] = group[""].arrays
        else:
            description, held[entry], _ = infer(group, ordered)
            links = _only_chain(group, ordered)
            ends = links[0].reading.takes, links[-1].reading.gives
            choices.append([Link(entry, Reading(*ends, description))])
    left = [name for name in parts if name not in covered]
    if known := [name for name in left if parts[name].readings]:
        raise ValueError(f"order leaves out {_list(parts, known)}; it must name every part")
    chains = list(islice(_chains(choices, ordered=True, linears=True), 2))
    if not chains:
        raise ValueError(f"the sizes do not fit in this order: {_list(parts, covered)}")
    if len(chains) > 1:
        raise ValueError(
            "a matrix may be a Linear or an Embedding in this order; load it into a model of your "
            f"own: {parts.call('into=model')}. It holds {_list(parts, covered)}"
        )
    children: dict[str, Description] = {}
    arrays: dict[str, Array] = {}
    taken = {entry.replace(".", "_") for entry in held}
    for place, link in enumerate(chains[0]):
        child = str(place) if link.name is None else link.name.replace(".", "_") or "0"
        while child in children or (link.name is None and child in taken):
            child += "_"
        children[child] = link.reading.description
        own = held[link.name] if link.name is not None else {}
        arrays |= {f"{child}.{name}": array for name, array in own.items()}
    return {"layer": "Sequential", "children": children}, arrays, _called(parts, left)


def _as_given(layer: Layer) -> Description:
    """Return the structure of a layer without parameters.

    What a Last leaves undecided stays so, because it will take it from its LSTM.
    """
    description = structure.describe(layer)
    if layer.children:
        description["children"] = {n: _as_given(child) for n, child in layer.children.items()}
    if isinstance(layer, Last):
        for option in ("batch_first", "bidirectional", "reverse"):
            description[option] = getattr(layer, f"_{option}")
    return description


def check_order(order: Sequence[str | Layer]) -> None:
    """Raise unless `order` is a list of names and of layers without parameters."""
    if not isinstance(order, (list, tuple)) or not order:
        raise TypeError(f"order must be a list of names and layers, got {type(order).__name__}")
    for entry in order:
        if isinstance(entry, Layer) and entry.num_parameters:
            raise TypeError(
                f"order names what has parameters, got a {type(entry).__name__}; only layers "
                "without parameters can be given themselves"
            )
        if isinstance(entry, type):
            raise TypeError(f"order holds the class {entry.__name__}; write {entry.__name__}()")
        if not isinstance(entry, (str, Layer)):
            raise TypeError(
                "order must be a list of names and of fastlstm's layers, got "
                + type(entry).__name__
            )
        if isinstance(entry, Layer):
            try:
                structure.describe(entry)
            except TypeError as fault:
                raise TypeError(
                    f"order takes fastlstm's own layers, got {type(entry).__name__}: build the "
                    "model and load it with fastlstm.load(path, into=model)"
                ) from fault
    names = [entry.removesuffix(".") for entry in order if isinstance(entry, str)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"order names {quoted(sorted(twice))} twice")


def _only_chain(parts: Parts, ordered: bool) -> Chain:
    """Return the one chain that the sizes admit, if it is the common one; otherwise raise."""
    kinds = {name: {r.kind for r in p.readings} for name, p in parts.items()}
    linears = [name for name, kind in kinds.items() if kind == {"Linear"}]
    if len(parts) == 1 and (fault := next(iter(parts.values())).fault):
        raise ValueError(fault)
    if unknown := [name or next(iter(parts[""].arrays), "") for name in kinds if not kinds[name]]:
        raise _unclear(parts, f"{quoted(unknown)} cannot be run")
    if not 1 <= len(parts) <= _MOST_CHAINED:
        raise _unclear(parts, f"there are {len(parts)} parts, at most {_MOST_CHAINED} are chained")
    if any(len(name.split(".")) > _MOST_NESTED for name in parts):
        raise _unclear(parts, f"a name has more than {_MOST_NESTED} parts")
    if len(parts) > 1 and {"LSTMCell"} in kinds.values():
        raise _unclear(parts, "an LSTMCell is stepped by code of its own, which no name tells")
    if len(linears) > 1:
        raise _unclear(
            parts, f"between {quoted(linears)} an activation may stand, which no name tells"
        )
    if gap := _gap(parts):
        raise _unclear(parts, f"{short(gap)} has no parameters, and what it is stands nowhere")
    choices = [[Link(name, r) for r in part.readings] for name, part in parts.items()]
    chains = list(islice(_chains(choices), _MOST_COMPARED))
    if not chains:
        raise _unclear(parts, "their sizes fit in no order")
    common = [links for links in chains if _is_common(links)]
    in_order = [c for c in common if not ordered or [link.name for link in c] == list(parts)]
    if len(in_order) != 1 or any(_rivals(in_order[0], other) for other in chains):
        several = "their sizes fit in more than one way"
        other = "their sizes fit in another order than the file's alone"
        unusual = "they are not an embedding, LSTMs and a Linear, in this order"
        raise _unclear(parts, several if len(chains) > 1 else other if common else unusual)
    links = in_order[0]
    lstms = [_name(link) for link in links if link.reading.kind == "LSTM"]
    if len(lstms) > 1 and not _is_a_list(lstms):
        raise _unclear(
            parts, f"{quoted(lstms)} may be an encoder and a decoder, with other steps in between"
        )
    return links


def _is_common(links: Chain) -> bool:
    """Tell whether a chain is an embedding, LSTMs and a Linear, or one layer alone."""
    letters = {"Embedding": "E", "LSTM": "L", "Linear": "F"}
    spelled = "".join(letters.get(link.reading.kind, "?") for link in links)
    return len(links) == 1 or bool(re.fullmatch("E?L+F?", spelled))


def _rivals(links: Chain, other: Chain) -> bool:
    """Tell whether a model that is built as one chain, but is the other, would run unnoticed.

    If the two take different numbers of features, the first call refuses the wrong one. Several
    LSTMs, however, may do more than follow each other, and any other order is a sign of that.
    """
    if links == other:
        return False
    takes, also = links[0].reading.takes, other[0].reading.takes
    lstms = sum(link.reading.kind == "LSTM" for link in links)
    return takes == also or lstms > 1 or not all(link in other for link in links)


def _chains(
    choices: list[Chain],
    ordered: bool = False,
    linears: bool = False,
    before: Link | None = None,
    gives: int | None = None,
) -> Iterator[Chain]:
    """Yield every chain of one link of each choice in which all sizes fit.

    Each link must take as many features as the one before it gives. Two Linear layers may follow
    each other only if `linears` says that the caller has put them so. `before` is the link that
    stands before the chain, and `gives` the number of features that it gives.
    """
    if not choices:
        yield []
    for n, links in enumerate(choices[:1] if ordered else choices):
        for link in links:
            rest = choices[:n] + choices[n + 1 :]
            if link.name is None:
                given = _features_behind(link.reading.description, gives)
                chains = _chains(rest, ordered, linears, before, given)
            elif before is None or (
                link.reading.takes is not None
                and link.reading.takes == gives
                and (linears or {before.reading.kind, link.reading.kind} != {"Linear"})
            ):
                chains = _chains(rest, ordered, linears, link, link.reading.gives)
            else:
                continue
            for chain in chains:
                yield [link, *chain]


def _features_behind(description: Description, features: int | None) -> int | None:
    """Return how many features a layer without parameters gives of so many; None if unknown."""
    children = description.get("children", {}).values()
    if description["layer"] == "Concat":
        return sum(_features_behind(child, features) or 0 for child in children) or None
    if description["layer"] == "Sequential":
        for child in children:
            features = _features_behind(child, features)
    return features


def _unclear(parts: Parts, reason: str) -> ValueError:
    """Return the error of parts whose order is not told, with what there is and what to do."""
    ways = [f"{parts.call('into=model')} loads it into a model of your own"]
    if order := _fitting_order(parts):
        left = _called(parts, [name for name in parts if name not in order])
        ways.insert(
            0,
            f"{parts.call(f'order={order!r}')} if they run one after the other so"
            + (f" without {quoted(left)}" if left else "")
            + ", with fastlstm.ReLU(), fastlstm.Last() and the like in their places",
        )
    short_enough = [name for name in parts if 1 <= len(name) <= _LONGEST_ADVISED]
    if clear := [name for name in short_enough if len(parts[name].readings) == 1]:
        one = Parts(path=parts.path).call(f"prefix={f'{parts.prefix}.{clear[0]}'.strip('.')!r}")
        ways.append(f"{one} takes one part alone")
    return ValueError(
        f"how its parts go together is not told by names and shapes: {reason}. It holds "
        f"{_list(parts, parts) or 'no layers'}. Say it in one line of Python: {'; '.join(ways)}; "
        'fastlstm.save(model, "model.npz") then keeps it, for the command line too'
    )


def _fitting_order(parts: Parts) -> list[str] | None:
    """Return an order in which the sizes of the parts fit in one way, if possible the file's."""
    choices = {n: [Link(n, r) for r in p.readings] for n, p in parts.items() if p.readings}
    if not 2 <= len(choices) <= _MOST_CHAINED or any(
        links[0].reading.kind == "LSTMCell" or len(name) > _LONGEST_ADVISED
        for name, links in choices.items()
    ):
        return None
    orders = [list(choices)]
    orders += [
        [_name(link) for link in c] for c in islice(_chains([*choices.values()], linears=True), 20)
    ]
    for order in orders:
        in_order = [choices[name] for name in order]
        if len(list(islice(_chains(in_order, ordered=True, linears=True), 2))) == 1:
            return order
    return None


def _list(parts: Mapping[str, Part], names: Iterable[str]) -> str:
    names = list(names)
    shown = [f"{name!r} ({parts[name]})"[:300] for name in names[:20]]
    return ", ".join(shown) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _called(parts: Mapping[str, Part], names: Iterable[str]) -> list[str]:
    """Return the names of parts for a sentence; a part without a name is called by its arrays."""
    return [n for name in names for n in ([name] if name else parts[name].arrays)]


def _name(link: Link) -> str:
    """Return the name of a link that is a part."""
    return link.name or ""


def _is_a_list(names: list[str]) -> bool:
    """Tell whether names number the elements of one list, as those of torch's ModuleList do."""
    parents, ends = zip(*(name.rpartition(".")[::2] for name in names), strict=True)
    first = int(ends[0]) if ends[0].isdecimal() else 0
    counted = tuple(str(first + n) for n in range(len(ends)))
    return len(set(parents)) == 1 and ends == counted


def _gap(names: Iterable[str]) -> str | None:
    """Return the first number that is missing among the layers of a torch Sequential, or None."""
    numbered: dict[str, set[str]] = {}
    for name in names:
        parts = name.split(".")
        for n, part in enumerate(parts):
            if part.isdecimal():
                numbered.setdefault(".".join(parts[:n]), set()).add(part)
    for parent, numbers in numbered.items():
        for number in map(str, range(len(numbers))):
            if number not in numbers:
                return f"{parent}.{number}".removeprefix(".")
    return None


def _nest(layers: list[tuple[list[str], Description]]) -> Description | None:
    """Return nested Sequentials of (path, description) pairs in order; None if that cannot be."""
    children: dict[str, Description | None] = {}
    for name, group in groupby(layers, key=lambda layer: layer[0][0]):
        inner = [(path[1:], description) for path, description in group]
        if name in children:
            return None
        if inner[0][0]:
            children[name] = _nest(inner) if all(path for path, _ in inner) else None
        else:
            children[name] = inner[0][1] if len(inner) == 1 else None
    if None in children.values():
        return None
    return {"layer": "Sequential", "children": children}
