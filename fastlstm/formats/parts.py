"""The parts of a state dict: the arrays of each layer, and what layer they may be.

A state dict holds numbers under names. Arrays whose names have the same prefix belong to one layer.
Their own names and their shapes tell its kind and its sizes, but for one doubt: a matrix alone may
be a Linear without a bias or an Embedding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ..checks import quoted, short
from .folding import LAYER, NAME, fold
from .structure import Description

if TYPE_CHECKING:
    from ..arrays import Array

_PEEPHOLES = {"weight_ci", "weight_cf", "weight_co"}
_TFLITE_NORM = {"weight_ln"}
_HASTE_NORM = {"weight_ln_ih", "weight_ln_hh", "weight_ln_c", "bias_ln_c"}
_STATES = {"h_0", "c_0"}
_OPTIONAL = _PEEPHOLES | _TFLITE_NORM | _HASTE_NORM | _STATES  # arrays that come with options
_CELL = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"} | _OPTIONAL
_EMBEDDING = re.compile(r"(.*_)?emb(ed(ding)?s?)?\d*", re.IGNORECASE)
_LINEAR = re.compile(r"(.*_)?(fc|lin(ear)?|dense|proj(ection)?|head)_?\d*", re.IGNORECASE)


class Reading(NamedTuple):
    """One layer that a part may be: its structure, and the features that it takes and gives.

    An Embedding takes none, and an LSTMCell gives none: their numbers are None.
    """

    takes: int | None
    gives: int | None
    description: Description

    @property
    def kind(self) -> str:
        """The name of the layer's class."""
        return str(self.description["layer"])

    def __str__(self) -> str:
        return f"{self.kind} {self.takes or 'indices'} -> {self.gives or 'h, c'}"


class Part(NamedTuple):
    """The arrays of one layer by their local names, and what layer it may be.

    If it is no layer that fastlstm knows, there are no readings. `fault` says why, where that is
    known.
    """

    arrays: Mapping[str, Array]
    readings: list[Reading]
    fault: str

    def __str__(self) -> str:
        if self.readings or self.fault:
            return " or ".join(map(str, self.readings)) or self.fault
        shapes = [f"{name[:100]!r} {a.shape}" for name, a in islice(self.arrays.items(), 5)]
        return f"not known here: {', '.join(shapes)}{', ...' if len(self.arrays) > 5 else ''}"


_NOTHING = Part({}, [], "")


class Parts(dict[str, Part]):
    """Parts by the names of their layers.

    Three attributes are for sentences: with which path and `prefix` `load` was called to get these
    parts, and the `numbers` that belong to no part.
    """

    def __init__(
        self,
        parts: Mapping[str, Part] | None = None,
        path: str = "path",
        prefix: str = "",
        numbers: Iterable[str] = (),
    ) -> None:
        super().__init__(parts or {})
        self.path, self.prefix, self.numbers = path, prefix, list(numbers)

    def call(self, option: str) -> str:
        """Return a call of `load` that gives these parts, with one more option."""
        prefix = f"prefix={self.prefix!r}, " if self.prefix else ""
        return f"fastlstm.load({self.path}, {prefix}{option})"


def called_with(key: str | None) -> str:
    """Return the first arguments of a call that reads the state dict of this key."""
    return "path" if key is None else f"path, key={key!r}"


def find_parts(state: Mapping[str, Array], key: str | None = None) -> Parts:
    """Return the parts of a state dict, by the names of their layers in its order.

    Weights that are stored in pieces are put together. Numbers without a dimension that belong to
    no layer (counters, a step) are left out. If the state is a `State`, an LSTM has the batch_first
    that the file tells of it.
    """
    told: Mapping[str, bool | None] = getattr(state, "batch_first", {})
    state, faults = fold(state)
    groups: dict[str, dict[str, Array]] = {}
    numbers = []
    for name, array in state.items():
        is_parameter = NAME.fullmatch(name)
        if is_parameter or array.ndim:
            end = name.rfind(".") + 1
            groups.setdefault(name[:end], {})[name[end:]] = array
        else:
            numbers.append(name)
    for prefix in faults:
        groups.setdefault(prefix, {})
    parts = Parts(path=called_with(key), numbers=numbers)
    for prefix, arrays in groups.items():
        fault = faults.get(prefix, "")
        readings: list[Reading] = []
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


def tell(parts: Parts, described: Mapping[str, Description]) -> None:
    """Read parts as the layers that a structure says they are, by the prefixes of their names."""
    for prefix, description in described.items():
        arrays = parts.get(prefix[:-1], _NOTHING).arrays
        parts[prefix[:-1]] = Part(arrays, [Reading(None, None, description)], "")


def _refuse_made(parts: Parts) -> None:
    """Refuse an LSTM or LSTMCell with unknown parts inside, of which its weights may be made.

    Unknown parts inside an LSTMCell may be norms of its gates. Inside a whole LSTM only parts under
    the name of a weight are refused, because others may work on its output.
    """
    for name in [name for name, part in parts.items() if name and not part.readings]:
        owner, _, own = name.rpartition(".")
        kinds = {reading.kind for reading in parts.get(owner, _NOTHING).readings}
        if kinds == {"LSTMCell"} or (kinds == {"LSTM"} and own.startswith(("weight_", "bias_"))):
            fault = f"what {short(name)} does inside the {kinds.pop()} {short(owner)} is not known"
            parts[owner] = Part(parts[owner].arrays, [], fault)


def within(parts: Parts, name: str) -> Parts:
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


def find_lstm(parts: Mapping[str, Part], prefix: str | None) -> tuple[str, Part]:
    """Return (name, part) of the LSTM with this prefix or, if it is None, of the only LSTM.

    An LSTMCell is taken as an LSTM of one layer if there is no LSTM, or if it has the prefix.
    """
    kinds: dict[str, dict[str, Part]] = {"LSTM": {}, "LSTMCell": {}}
    faults = []
    parts = {name: _without_others(name, part) for name, part in parts.items()}
    for name, part in parts.items():
        kind = part.readings[0].kind if part.readings else None
        if kind in kinds:
            kinds[kind][name] = part
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


def _without_others(name: str, part: Part) -> Part:
    """Return the LSTM in a part that has other arrays too, as a user's own class may have.

    The part stays as it is if such an array has the name of a piece of a weight, such as
    weight_hh_l0_scale.
    """
    end = "" if "weight_ih" in part.arrays else LAYER  # how the names of an LSTMCell end
    own = re.compile(rf"{NAME.pattern}|[hc]_0{end}", re.DOTALL)
    arrays = {local: array for local, array in part.arrays.items() if own.fullmatch(local)}
    others = part.arrays.keys() - arrays.keys()
    made = any(other.startswith(("weight_", "bias_")) for other in others)
    if part.readings or part.fault or made or not arrays:
        return part
    try:
        return Part(arrays, _readings(f"{name}.".removeprefix("."), arrays), "")
    except ValueError as error:
        return Part(arrays, [], str(error))


def as_lstm(part: Part) -> tuple[Description, Mapping[str, Array]]:
    """Return the structure of an LSTM or LSTMCell as an LSTM, and its arrays by an LSTM's names."""
    arrays, description = part.arrays, part.readings[0].description
    if part.readings[0].kind == "LSTMCell":
        arrays = {f"{name}_l0": array for name, array in arrays.items()}
        description = {**description, "layer": "LSTM", "batch_first": None}
    return description, arrays


def _readings(prefix: str, arrays: Mapping[str, Array]) -> list[Reading]:
    """Return the layers that arrays may be: none, one, or both a Linear and an Embedding."""
    if all(re.search(r"_l\d", name) for name in arrays):
        d = _lstm(prefix, arrays)
        hidden = d["hidden_size"]
        last = hidden[-1] if isinstance(hidden, list) else hidden
        gives = (1 + d["bidirectional"]) * (d["proj_size"] or last)
        return [Reading(d["input_size"], gives, d)]
    if {"weight_ih", "weight_hh"} <= arrays.keys() <= _CELL:
        coupled = _coupled(prefix, arrays, "")
        inputs, gates = _matrix(prefix, arrays, "weight_ih"), 3 if coupled else 4
        hidden = _units(prefix, "weight_ih", inputs, gates)
        _require(prefix, arrays, "weight_hh", (gates * hidden, hidden))
        sizes = {"input_size": inputs.shape[1], "hidden_size": hidden}
        d = {"layer": "LSTMCell", **sizes, "bias": "bias_ih" in arrays, "dtype": str(inputs.dtype)}
        d |= coupled | _options(arrays)
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
    embedding = {"layer": "Embedding", **sizes, "dtype": dtype}
    if _EMBEDDING.fullmatch(own_name):
        return [Reading(None, columns, embedding)]
    return [Reading(columns, rows, linear), Reading(None, columns, embedding)]


def _lstm(prefix: str, arrays: Mapping[str, Array]) -> Description:
    """Return the structure of an LSTM of these arrays; raise ValueError if one is missing."""
    coupled = _coupled(prefix, arrays, "_l0")
    inputs, gates = _matrix(prefix, arrays, "weight_ih_l0"), 3 if coupled else 4
    layers = {int(match[1]) for name in arrays if (match := re.search(r"_l(\d+)", name))}
    if gap := next((n for n in range(len(layers)) if n not in layers), None):
        raise ValueError(
            f"an LSTM has layer {max(layers)}, but lacks {short(f'{prefix}weight_ih_l{gap}')}"
        )
    bidirectional = any(name.endswith("_reverse") for name in arrays)
    projected = len(_matrix(prefix, arrays, "weight_hr_l0")) if "weight_hr_l0" in arrays else 0
    ends, takes, widths = ("", "_reverse")[: 1 + bidirectional], inputs.shape[1], []
    for layer in range(len(layers)):
        first = f"weight_ih_l{layer}"
        hidden = _units(prefix, first, _matrix(prefix, arrays, first), gates)
        gives = projected or hidden
        for end in (f"_l{layer}{end}" for end in ends):
            _require(prefix, arrays, f"weight_ih{end}", (gates * hidden, takes))
            _require(prefix, arrays, f"weight_hh{end}", (gates * hidden, gives))
            if projected:
                _require(prefix, arrays, f"weight_hr{end}", (projected, hidden))
        takes = len(ends) * gives
        widths.append(hidden)
    return {
        "layer": "LSTM",
        "input_size": inputs.shape[1],
        "hidden_size": widths[0] if len(set(widths)) == 1 else widths,
        "num_layers": len(layers),
        "bias": any(re.match("bias_[ih]h", name) for name in arrays),
        "batch_first": None,
        "bidirectional": bidirectional,
        "proj_size": projected,
        "dtype": str(inputs.dtype),
        **coupled,
        **_options(arrays),
    }


def _options(arrays: Mapping[str, Array]) -> Description:
    """Return the arguments of those options of an LSTM that its arrays tell, but for `coupled`."""
    kinds = {re.sub(f"{LAYER}$", "", name) for name in arrays}
    options: Description = {}
    if kinds & _PEEPHOLES:
        options["peephole"] = True
    if kinds & (_TFLITE_NORM | _HASTE_NORM):
        options["layer_norm"] = "haste" if kinds & _HASTE_NORM else "tflite"
    if kinds & _STATES:
        options["learn_initial_state"] = True
    return options


def _coupled(prefix: str, arrays: Mapping[str, Array], end: str) -> Description:
    """Return the argument for coupled gates, if the cell whose names end so has them.

    Refuse a plain RNN and a GRU, which have an LSTM's names but fewer rows of weight_hh. A GRU has
    as many as an LSTM with coupled gates, of which only peepholes tell which gate has no rows.
    """
    rows, projection = arrays.get(f"weight_hh{end}"), arrays.get(f"weight_hr{end}")
    units = rows if projection is None else projection
    if rows is None or units is None or rows.ndim != 2 or units.ndim != 2 or not units.size:
        return {}
    gates = len(rows) / units.shape[1]
    name = short(prefix[:-1]) if prefix else "it"
    if gates == 1 and projection is None:
        raise ValueError(f"{name} is a plain RNN, not an LSTM")
    if gates != 3:
        return {}
    has_i, has_f = (f"weight_c{gate}{end}" in arrays for gate in "if")
    if has_i != has_f:
        return {"coupled": "f=1-i" if has_i else "i=1-f"}
    is_lstm = projection is not None or any(f"{kind}{end}" in arrays for kind in _OPTIONAL)
    raise ValueError(
        f"{name} is {'' if is_lstm else 'a GRU, or '}an LSTM with coupled gates, whose arrays do "
        "not tell which of i and f is left out: it is loaded by fastlstm.load(path, into=model)"
    )


def _matrix(prefix: str, arrays: Mapping[str, Array], name: str) -> Array:
    if name not in arrays:
        raise ValueError(f"an LSTM lacks {short(prefix + name)}; it has {quoted(arrays)}")
    if arrays[name].ndim != 2:
        raise ValueError(f"{short(prefix + name)} must be a matrix, got shape {arrays[name].shape}")
    if arrays[name].dtype.kind != "f":
        raise ValueError(f"{short(prefix + name)} must hold floats, got {arrays[name].dtype}")
    return arrays[name]


def _units(prefix: str, name: str, inputs: Array, gates: int) -> int:
    """Return the units of an LSTM, whose input weights have a row for each unit and gate."""
    if not len(inputs) or len(inputs) % gates:
        raise ValueError(
            f"{short(prefix + name)} must have {gates} rows for each unit, got {inputs.shape}"
        )
    return len(inputs) // gates


def _require(prefix: str, arrays: Mapping[str, Array], name: str, shape: tuple[int, int]) -> None:
    """Refuse a matrix that is missing or too small, before memory is taken for the whole layer."""
    matrix = _matrix(prefix, arrays, name)
    if matrix.size < shape[0] * shape[1]:
        raise ValueError(f"{short(prefix + name)} must have shape {shape}, got {matrix.shape}")
