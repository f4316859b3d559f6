"""How the parts of a state dict go together, as far as names and shapes tell it.

A state dict holds numbers under names, in the order in which the layers were defined. It does not
hold the order in which they run, nor what has no parameters (activations, dropout, which of an
LSTM's outputs is used). So a chain is inferred only where the sizes admit one alone and that is the
common one: an embedding, LSTMs, a Linear. Everything else is for the caller to say.
"""

import re
from itertools import groupby, islice
from typing import NamedTuple

from ..checks import quoted, short
from ..layers import Last, Layer, Sequential
from . import structure
from .folding import NAME, fold

_MOST_NESTED = 16  # parts of a name
_MOST_CHAINED = 8  # layers, whose orders are all tried
_MOST_COMPARED = 100  # chains
_LONGEST_ADVISED = 300  # characters of a name
_CELL = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}
_EMBEDDING = re.compile(r"(.*_)?emb(ed(ding)?s?)?\d*", re.IGNORECASE)
_LINEAR = re.compile(r"(.*_)?(fc|lin(ear)?|dense|proj(ection)?|head)_?\d*", re.IGNORECASE)
_NEITHER_TELLS = "activations, dropout and which output is used"


class Reading(NamedTuple):
    """What a part may be: its structure, and how many features it takes and gives, if any."""

    takes: int | None
    gives: int | None
    description: dict

    def __str__(self):
        return f"{self.description['layer']} {self.takes or 'indices'} -> {self.gives or 'h, c'}"


class Part(NamedTuple):
    """The arrays of one layer by their local names, what it may be, or why it is nothing known."""

    arrays: dict
    readings: list
    fault: str

    def __str__(self):
        if self.readings or self.fault:
            return " or ".join(map(str, self.readings)) or self.fault
        shapes = [f"{name[:100]!r} {a.shape}" for name, a in islice(self.arrays.items(), 5)]
        return f"not known here: {', '.join(shapes)}{', ...' if len(self.arrays) > 5 else ''}"


_NOTHING = Part({}, [], "")


class Parts(dict):
    """Parts by the names of their layers.

    For words: what `load` was called with to have them, and the numbers that belong to none.
    """

    def __init__(self, parts=(), path="path", prefix="", numbers=()):
        super().__init__(parts)
        self.path, self.prefix, self.numbers = path, prefix, list(numbers)

    def call(self, option):
        """A call that loads these parts with one option more."""
        prefix = f"prefix={self.prefix!r}, " if self.prefix else ""
        return f"fastlstm.load({self.path}, {prefix}{option})"


def called_with(key):
    """The first arguments of a call that reads the state dict of this key."""
    return "path" if key is None else f"path, key={key!r}"


class Link(NamedTuple):
    """A part in a chain, read in one way; or a layer without parameters, which has no name."""

    name: str | None
    reading: Reading


# The parts


def find_parts(state, key=None):
    """Return the parts of a state dict, by the names of their layers in its order.

    What a part's weights are stored in pieces of is put together; numbers without a dimension that
    belong to no layer (counters, a step) are left out.

    Returns
    -------
    Parts
    """
    told = getattr(state, "batch_first", {})
    state, faults = fold(state)
    groups, numbers = {}, []
    for name, array in state.items():
        match = NAME.fullmatch(name)
        prefix, local = (
            match.groups() if match else re.fullmatch(r"(?s)((?:.*\.)?)(.*)", name).groups()
        )
        if match or array.ndim:
            groups.setdefault(prefix, {})[local] = array
        else:
            numbers.append(name)
    for prefix in faults:
        groups.setdefault(prefix, {})
    parts = Parts(path=called_with(key), numbers=numbers)
    for prefix, arrays in groups.items():
        fault, readings = faults.get(prefix, ""), []
        if not fault:
            try:
                readings = _readings(prefix, arrays)
                for reading in readings:
                    if "batch_first" in reading.description:
                        reading.description["batch_first"] = told.get(prefix)
            except ValueError as error:
                fault = str(error)
        parts[prefix[:-1]] = Part(arrays, readings, fault)
    _refuse_made(parts)
    return parts


def _refuse_made(parts):
    """Refuse LSTMs with something inside that nobody knows: a cell's norms, a weight's own parts.

    Beside a whole LSTM other things may stand inside its layer, as what is done with its output.
    """
    for name in [name for name, part in parts.items() if name and not part.readings]:
        owner, _, own = name.rpartition(".")
        kinds = {_kind(Link(owner, reading)) for reading in parts.get(owner, _NOTHING).readings}
        if kinds == {"LSTMCell"} or (kinds == {"LSTM"} and own.startswith(("weight_", "bias_"))):
            fault = f"what {short(name)} does inside the {kinds.pop()} {short(owner)} is not known"
            parts[owner] = Part(parts[owner].arrays, [], fault)


def within(parts, name):
    """Return the parts of one layer, alone under the name "", or those of all layers inside it."""
    name = name.removesuffix(".")
    full = f"{parts.prefix}.{name}".strip(".")
    if name in parts:
        return Parts({"": parts[name]}, parts.path, full)
    inner = {n[len(name) + 1 :]: p for n, p in parts.items() if n.startswith(name + ".")}
    if not inner and name:
        raise ValueError(
            f"nothing has the prefix {short(name)}; there are {quoted(parts) or 'none'}"
        )
    numbers = [n[len(name) + 1 :] for n in parts.numbers if n.startswith(name + ".")]
    return Parts(inner, parts.path, full, numbers) if inner else parts


def find_lstm(parts, prefix):
    """Return (name, part) of the LSTM with this prefix or, if it is None, of the only one.

    An LSTMCell is an LSTM of one layer; it counts where there are no others, or by its prefix.
    """
    kinds = {"LSTM": {}, "LSTMCell": {}}
    faults = []
    parts = {name: _without_others(name, part) for name, part in parts.items()}
    for name, part in parts.items():
        layer = part.readings[0].description["layer"] if part.readings else None
        if layer in kinds:
            kinds[layer][name] = part
        elif part.fault:
            faults.append(part.fault)
    found = kinds["LSTM"] or kinds["LSTMCell"]
    if prefix is not None:
        prefix = prefix.removesuffix(".")
        found = kinds["LSTM"] | kinds["LSTMCell"]
        if prefix in parts and parts[prefix].fault:
            raise ValueError(parts[prefix].fault)
        if prefix not in found:
            raise ValueError(
                f"no LSTM has the prefix {short(prefix)}; there are {quoted(found) or 'none'}"
            )
        return prefix, found[prefix]
    if len(found) > 1:
        raise ValueError(f"it holds several LSTMs, choose one with prefix=: {quoted(found)}")
    if not found:
        why = "; ".join(faults[:5]) or "no name ends in 'weight_ih_l0'"
        raise ValueError(f"it holds no LSTM: {why}. It holds {quoted(parts) or 'nothing'}")
    return next(iter(found.items()))


def _without_others(name, part):
    """The LSTM in a part that has arrays of other names too, as a class of one's own may have.

    Not where such a name says that a weight is made of it, as weight_hh_l0_scale would.
    """
    arrays = {local: array for local, array in part.arrays.items() if NAME.fullmatch(local)}
    made = any(other.startswith(("weight_", "bias_")) for other in part.arrays.keys() - arrays)
    if part.readings or part.fault or made or not arrays:
        return part
    try:
        return Part(arrays, _readings(f"{name}.".removeprefix("."), arrays), "")
    except ValueError as error:
        return Part(arrays, [], str(error))


def as_lstm(part):
    """Return an LSTM's or LSTMCell's structure as an LSTM, and its arrays by the LSTM's names."""
    arrays, description = part.arrays, part.readings[0].description
    if description["layer"] == "LSTMCell":
        arrays = {f"{name}_l0": array for name, array in arrays.items()}
        description = _lstm("", arrays)
    return description, arrays


def _readings(prefix, arrays):
    """Return what arrays may be: nothing, one layer, or both Linear and Embedding."""
    _refuse_others(prefix, arrays)
    if all("_l" in name for name in arrays):
        d = _lstm(prefix, arrays)
        gives = (1 + d["bidirectional"]) * (d["proj_size"] or d["hidden_size"])
        return [Reading(d["input_size"], gives, d)]
    if {"weight_ih", "weight_hh"} <= arrays.keys() <= _CELL:
        inputs = _matrix(prefix, arrays, "weight_ih")
        hidden = _units(prefix, "weight_ih", inputs)
        _require(prefix, arrays, "weight_hh", (4 * hidden, hidden))
        sizes = {"input_size": inputs.shape[1], "hidden_size": hidden}
        d = {"layer": "LSTMCell", **sizes, "bias": "bias_ih" in arrays, "dtype": str(inputs.dtype)}
        return [Reading(inputs.shape[1], None, d)]
    if not {"weight"} <= arrays.keys() <= {"weight", "bias"} or arrays["weight"].ndim != 2:
        return []
    _matrix(prefix, arrays, "weight")
    (rows, columns), dtype = arrays["weight"].shape, str(arrays["weight"].dtype)
    sizes = {"in_features": columns, "out_features": rows}
    linear = {"layer": "Linear", **sizes, "bias": "bias" in arrays, "dtype": dtype}
    own_name = prefix[:-1].split(".")[-1]
    if "bias" in arrays or _LINEAR.fullmatch(own_name):
        return [Reading(columns, rows, linear)]
    sizes = {"num_embeddings": rows, "embedding_dim": columns}
    embedding = {"layer": "Embedding", **sizes, "padding_idx": None, "dtype": dtype}
    if _EMBEDDING.fullmatch(own_name):
        return [Reading(None, columns, embedding)]
    return [Reading(columns, rows, linear), Reading(None, columns, embedding)]


def _lstm(prefix, arrays):
    """The structure of an LSTM with these arrays; ValueError if a layer of it is missing."""
    inputs = _matrix(prefix, arrays, "weight_ih_l0")
    layers = {int(re.search(r"_l(\d+)", name)[1]) for name in arrays}
    if gap := next((n for n in range(len(layers)) if n not in layers), None):
        raise ValueError(
            f"an LSTM has layer {max(layers)}, but lacks {short(f'{prefix}weight_ih_l{gap}')}"
        )
    hidden = _units(prefix, "weight_ih_l0", inputs)
    bidirectional = any(name.endswith("_reverse") for name in arrays)
    projected = len(_matrix(prefix, arrays, "weight_hr_l0")) if "weight_hr_l0" in arrays else 0
    ends, gives = ("", "_reverse")[: 1 + bidirectional], projected or hidden
    for end in (f"_l{n}{end}" for n in range(len(layers)) for end in ends):
        takes = inputs.shape[1] if end in ("_l0", "_l0_reverse") else len(ends) * gives
        _require(prefix, arrays, f"weight_ih{end}", (4 * hidden, takes))
        _require(prefix, arrays, f"weight_hh{end}", (4 * hidden, gives))
        if projected:
            _require(prefix, arrays, f"weight_hr{end}", (projected, hidden))
    return {
        "layer": "LSTM",
        "input_size": inputs.shape[1],
        "hidden_size": hidden,
        "num_layers": len(layers),
        "bias": any(name.startswith("bias") for name in arrays),
        "batch_first": None,
        "dropout": 0.0,
        "bidirectional": bidirectional,
        "proj_size": projected,
        "dtype": str(inputs.dtype),
    }


def _refuse_others(prefix, arrays):
    """Refuse an LSTM's names without its gates: weight_hh, unless projected, is (4H, H)."""
    matrix = arrays.get("weight_hh_l0", arrays.get("weight_hh"))
    if matrix is None or matrix.ndim != 2 or not matrix.size or "weight_hr_l0" in arrays:
        return
    gates = matrix.shape[0] / matrix.shape[1]
    if gates in (1, 3):
        kind = "a GRU" if gates == 3 else "a plain RNN"
        raise ValueError(f"{short(prefix[:-1]) if prefix else 'it'} is {kind}, not an LSTM")


def _matrix(prefix, arrays, name):
    if name not in arrays:
        raise ValueError(f"an LSTM lacks {short(prefix + name)}; it has {quoted(arrays)}")
    if arrays[name].ndim != 2:
        raise ValueError(f"{short(prefix + name)} must be a matrix, got shape {arrays[name].shape}")
    if arrays[name].dtype.kind != "f":
        raise ValueError(f"{short(prefix + name)} must hold floats, got {arrays[name].dtype}")
    return arrays[name]


def _units(prefix, name, inputs):
    """How many units an LSTM has: its input weights have a row for each gate of each."""
    if not len(inputs) or len(inputs) % 4:
        raise ValueError(
            f"{short(prefix + name)} must have 4 rows for each unit, got {inputs.shape}"
        )
    return len(inputs) // 4


def _require(prefix, arrays, name, shape):
    """Refuse a matrix that is missing or too small, before memory is taken for what it lacks."""
    matrix = _matrix(prefix, arrays, name)
    if matrix.size < shape[0] * shape[1]:
        raise ValueError(f"{short(prefix + name)} must have shape {shape}, got {matrix.shape}")


# Chains


def infer(parts, ordered=True):
    """Return the model that the parts admit, if there is but one, and it is the common one.

    Parameters
    ----------
    parts : Parts
    ordered : bool
        Whether the file keeps the order in which the layers were defined. If so, the chain must
        have it too.

    Returns
    -------
    description : dict
        A single part without a name as it is, all else as a Sequential with the parts' names.
    arrays : dict of str -> ndarray
        Under the model's names.
    untold : str
        What the file does not tell, for people; empty of a layer without a name.

    Raises
    ------
    ValueError
        With the parts, and the ways to say what is not known.
    """
    links = _only_chain(parts, ordered)
    if len(links) == 1 and not links[0].name:
        return links[0].reading.description, parts[""].arrays, ""
    nested = _nest([(link.name.split("."), link.reading.description) for link in links])
    if nested is None:
        raise _unclear(parts, "their names do not nest as their sizes chain")
    arrays = {f"{n}.{local}": a for n, part in parts.items() for local, a in part.arrays.items()}
    untold = [f"not in the file: {_NEITHER_TELLS}"]
    if len(links) > 1 and _kind(links[-1]) == "Linear":
        untold.append(f"here {links[-1].name} takes every step")
    if parts.numbers:
        untold.append(f"left out of the file: {quoted(parts.numbers)}")
    return nested, arrays, "; ".join(untold)


def arrange(parts, order, ordered=True):
    """Return a Sequential of parts in the order that the caller says, and its arrays.

    Parameters
    ----------
    parts : Parts
    order : list of str or Layer
        Names of parts, or of groups that are chains of their own, and layers without parameters.
    ordered : bool
        As for `infer`, for the groups.

    Returns
    -------
    description : dict
        Its layers have the parts' names, with ``_`` for dots; layers without parameters their
        place in `order`.
    arrays : dict of str -> ndarray
        Under the model's names.
    left : list of str
        The parts of no known kind that the order leaves out; of one without a name, its arrays.

    Raises
    ------
    TypeError, ValueError
        If something else stands in `order`, a part of a known kind is missing, or their sizes do
        not fit in that order.
    """
    choices, held, covered = [], {}, set()
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
    children, arrays = {}, {}
    taken = {entry.replace(".", "_") for entry in held}
    for place, link in enumerate(chains[0]):
        child = str(place) if link.name is None else link.name.replace(".", "_") or "0"
        while child in children or (link.name is None and child in taken):
            child += "_"
        children[child] = link.reading.description
        arrays |= {f"{child}.{name}": a for name, a in held.get(link.name, {}).items()}
    return {"layer": "Sequential", "children": children}, arrays, _called(parts, left)


def _as_given(layer):
    """The structure of a layer without parameters; what a Last leaves open its LSTM will tell."""
    description = structure.describe(layer)
    if isinstance(layer, Sequential):
        description["children"] = {n: _as_given(child) for n, child in layer.children.items()}
    if isinstance(layer, Last):
        description |= {"batch_first": layer._batch_first, "bidirectional": layer._bidirectional}
    return description


def check_order(order):
    """Refuse what is no list of names and of layers without parameters."""
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


def _only_chain(parts, ordered):
    """Return the one chain that the sizes admit, if it is the common one."""
    kinds = {name: {_kind(Link(name, r)) for r in p.readings} for name, p in parts.items()}
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
    lstms = [link.name for link in links if _kind(link) == "LSTM"]
    if len(lstms) > 1 and not _is_a_list(lstms):
        raise _unclear(
            parts, f"{quoted(lstms)} may be an encoder and a decoder, with other steps in between"
        )
    return links


def _is_common(links):
    """Tell whether a chain is an embedding, LSTMs and a Linear, or one layer alone."""
    letters = "".join(
        {"Embedding": "E", "LSTM": "L", "Linear": "F"}.get(_kind(n), "?") for n in links
    )
    return len(links) == 1 or re.fullmatch("E?L+F?", letters)


def _rivals(links, other):
    """Tell whether a model could be either of two chains without a word from its input.

    If they take other numbers of features, a wrong one is refused at the first call. Two LSTMs
    may do more than follow each other, so any other order is a sign that they do.
    """
    if links == other:
        return False
    takes, also = links[0].reading.takes, other[0].reading.takes
    lstms = sum(_kind(link) == "LSTM" for link in links)
    return takes == also or lstms > 1 or not all(link in other for link in links)


def _chains(choices, ordered=False, linears=False, before=None, gives=None):
    """Yield every list of links that uses each choice once and in which each takes what is given.

    `linears`: two Linear layers in a row are fine, for the caller has said so.
    """
    if not choices:
        yield []
    for n, links in enumerate(choices[:1] if ordered else choices):
        for link in links:
            rest = choices[:n] + choices[n + 1 :]
            if link.name is None:  # it gives as many features as it takes
                chains = _chains(rest, ordered, linears, before, gives)
            elif before is None or (
                link.reading.takes is not None
                and link.reading.takes == gives
                and (linears or {_kind(before), _kind(link)} != {"Linear"})
            ):
                chains = _chains(rest, ordered, linears, link, link.reading.gives)
            else:
                continue
            for chain in chains:
                yield [link, *chain]


def _unclear(parts, reason):
    """The error of parts whose order is not told: what there is, and how it can be said."""
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


def _fitting_order(parts):
    """An order in which the sizes of the parts fit in one way, or None; the file's if it does."""
    choices = {n: [Link(n, r) for r in p.readings] for n, p in parts.items() if p.readings}
    if not 2 <= len(choices) <= _MOST_CHAINED or any(
        _kind(links[0]) == "LSTMCell" or len(name) > _LONGEST_ADVISED
        for name, links in choices.items()
    ):
        return None
    orders = [list(choices)]
    orders += [
        [link.name for link in c] for c in islice(_chains([*choices.values()], linears=True), 20)
    ]
    for order in orders:
        in_order = [choices[name] for name in order]
        if len(list(islice(_chains(in_order, ordered=True, linears=True), 2))) == 1:
            return order
    return None


def _list(parts, names):
    shown = [f"{name!r} ({parts[name]})"[:300] for name in islice(names, 20)]
    return ", ".join(shown) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _called(parts, names):
    """What parts are called in a sentence: one without a name by its arrays."""
    return [n for name in names for n in ([name] if name else parts[name].arrays)]


def _kind(link):
    return link.reading.description["layer"]


def _is_a_list(names):
    """Tell whether names count the elements of one list, as torch's Sequential and ModuleList."""
    parents, ends = zip(*(name.rpartition(".")[::2] for name in names), strict=True)
    first = int(ends[0]) if ends[0].isdecimal() else 0
    counted = tuple(str(first + n) for n in range(len(ends)))
    return len(set(parents)) == 1 and ends == counted


def _gap(names):
    """Return the first number that is missing among the layers of a torch Sequential, or None."""
    numbered = {}
    for name in names:
        parts = name.split(".")
        for n, part in enumerate(parts):
            if part.isdecimal():
                numbered.setdefault(".".join(parts[:n]), set()).add(part)
    for parent, numbers in numbered.items():
        for n in map(str, range(len(numbers))):
            if n not in numbers:
                return f"{parent}.{n}".removeprefix(".")
    return None


def _nest(layers):
    """Return Sequentials in Sequentials of (path, description) pairs in order; None: impossible."""
    children = {}
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
