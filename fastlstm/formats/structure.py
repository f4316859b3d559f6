"""A model's structure as plain data: described from a model, built into one, inferred from names.

A description is a dict: ``{"layer": "Linear", "in_features": 4, ...}``, every argument of the
layer given; of a Sequential ``{"layer": "Sequential", "children": {"lstm": {...}, ...}}``. Files
hold it as JSON together with the version of this scheme.

Inference reads the names and shapes of a torch state dict. What has no parameters (an activation,
dropout, taking the last step) leaves no trace there and is never guessed.
"""

import json
import re
from itertools import groupby, islice
from typing import NamedTuple

from ..layers import Dropout, Embedding, Last, Linear, ReLU, Sequential, Sigmoid, Softmax, Tanh
from ..lstm import LSTM, LSTMCell

_VERSION = 1
_MOST_NESTED = 16  # Sequentials in Sequentials
_MOST_CHAINED = 8  # layers, whose orders may all be tried

_ARGUMENTS = {  # the layers that can be described, and their arguments
    LSTM: "input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size "
    "dtype",
    LSTMCell: "input_size hidden_size bias dtype",
    Linear: "in_features out_features bias dtype",
    Embedding: "num_embeddings embedding_dim padding_idx dtype",
    Dropout: "p",
    ReLU: "",
    Tanh: "",
    Sigmoid: "",
    Softmax: "dim",
    Last: "batch_first bidirectional",
}
_TYPES = dict.fromkeys(("bias", "bidirectional"), (bool,))
_TYPES |= {
    "batch_first": (bool, type(None)),
    "dropout": (float,),
    "p": (float,),
    "dtype": (str,),
    "padding_idx": (int, type(None)),
}
_LAYERS = {layer.__name__: layer for layer in _ARGUMENTS}


# Models and descriptions


def describe(model):
    """Return a model's structure as plain data.

    Parameters
    ----------
    model : Layer

    Returns
    -------
    dict

    Raises
    ------
    TypeError
        If it is, or holds, a layer of a kind that this module does not know.

    Examples
    --------
    >>> describe(fastlstm.Softmax())
    {'layer': 'Softmax', 'dim': -1}
    """
    if type(model) is Sequential:
        children = {name: describe(child) for name, child in model.children.items()}
        return {"layer": "Sequential", "children": children}
    if type(model) not in _ARGUMENTS:
        raise TypeError(
            f"the structure of {type(model).__name__} cannot be stored; known are "
            f"{', '.join([*_LAYERS, 'Sequential'])}. A .pt file holds the parameters alone"
        )
    return {"layer": type(model).__name__} | {
        name: _argument(model, name) for name in _ARGUMENTS[type(model)].split()
    }


def build(description, engine="auto", *, numbers=None):
    """Return the model that a description of unknown origin describes.

    Parameters
    ----------
    description : dict
    engine : str
        For its LSTMs.
    numbers : int, optional
        How many parameters there are to fill it: one that needs more is refused before memory
        is taken.

    Returns
    -------
    Layer

    Raises
    ------
    ValueError
        If anything but known layers with exactly their arguments, of the right types, stands in it.

    Examples
    --------
    >>> build({"layer": "Softmax", "dim": 0})
    Softmax(dim=0)
    """
    needed = _check(description)
    if numbers is not None and needed > numbers:
        raise ValueError(f"its structure needs {needed} numbers or more, the file holds {numbers}")
    try:
        return _construct(description, engine)
    except TypeError as fault:  # layers that are known, but do not go together
        raise ValueError(f"its structure cannot be built: {fault}") from fault


def dumps(model):
    """Return the JSON text of a model's structure."""
    return json.dumps({"version": _VERSION, "structure": describe(model)})


def loads(text):
    """Return the description in a JSON text; `build` checks it."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"its structure is damaged JSON: {fault}") from fault
    if not isinstance(entry, dict) or entry.keys() != {"version", "structure"}:
        raise ValueError("its structure must be an object of a version and a structure")
    version = entry["version"]
    if type(version) is not int or version != _VERSION:
        got = version if type(version) is int else type(version).__name__
        raise ValueError(f"its structure must have version {_VERSION}, got {got}")
    return entry["structure"]


def _argument(model, name):
    value = getattr(model, name)
    if name == "dtype":
        return str(value)
    if name == "bias":  # a Linear has the array itself there, or None
        return value if isinstance(value, bool) else value is not None
    return value


def _check(description, depth=0):
    """Refuse whatever `describe` would not return; return a least count of its parameters."""
    if not isinstance(description, dict) or not isinstance(description.get("layer"), str):
        raise ValueError('its structure is damaged: a layer must be an object with a "layer"')
    kind = description["layer"]
    given = {name: value for name, value in description.items() if name != "layer"}
    if kind == "Sequential":
        if given.keys() != {"children"} or not isinstance(given["children"], dict):
            raise ValueError("its structure is damaged: a Sequential must have children alone")
        if depth == _MOST_NESTED:
            raise ValueError(f"its structure nests more than {_MOST_NESTED} Sequentials")
        return sum(_check(child, depth + 1) for child in given["children"].values())
    if kind not in _LAYERS:
        raise ValueError(
            f"its structure has an unknown layer {kind[:50]!r}; known are "
            f"{', '.join([*_LAYERS, 'Sequential'])}"
        )
    expected = _ARGUMENTS[_LAYERS[kind]].split()
    if given.keys() != set(expected):
        raise ValueError(
            f"its structure gives {kind} the arguments {sorted(given)}, expected {sorted(expected)}"
        )
    for name in expected:
        types = _TYPES.get(name, (int,))
        if type(given[name]) not in types:
            raise ValueError(
                f"its structure gives {kind} {name} of type {type(given[name]).__name__}, "
                f"expected {types[0].__name__}"
            )
    return max(0, _least_numbers(kind, given))


def _least_numbers(kind, given):
    """The sizes of a layer's matrices, all added up."""
    if kind == "LSTM":
        hidden, directions = given["hidden_size"], 1 + given["bidirectional"]
        out, layers = given["proj_size"] or hidden, given["num_layers"]
        inputs = given["input_size"] + (layers - 1) * directions * out  # of all layers
        return 4 * hidden * directions * (inputs + layers * out)
    if kind == "LSTMCell":
        return 4 * given["hidden_size"] * (given["input_size"] + given["hidden_size"])
    if kind == "Linear":
        return given["in_features"] * given["out_features"]
    if kind == "Embedding":
        return given["num_embeddings"] * given["embedding_dim"]
    return 0


def _construct(description, engine):
    kind = description["layer"]
    if kind == "Sequential":
        children = description["children"].items()
        return Sequential({name: _construct(child, engine) for name, child in children})
    arguments = {name: value for name, value in description.items() if name != "layer"}
    if kind in ("LSTM", "LSTMCell", "Linear"):
        arguments["engine"] = engine
    return _LAYERS[kind](**arguments)


# State dicts and descriptions


_NAME = re.compile(
    r"((?:.*\.)?)"  # the prefix: the layer's place in the model
    r"((?:weight|bias)(?:_(?:ih|hh|hr)(?:_l(?:0|[1-9]\d{0,5})(?:_reverse)?)?)?)",
    re.DOTALL,
)


_CELL = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}


class _Link(NamedTuple):
    """A layer that may stand somewhere in a chain: what it takes and gives, None: not features."""

    prefix: str
    takes: int | None
    gives: int | None
    description: dict

    def __str__(self):
        return f"{self.description['layer']} {self.takes or 'indices'} -> {self.gives or 'h, c'}"

    def follows(self, before):
        """Two Linear layers in a row make no sense without an activation, so none is chained."""
        linear = before.description["layer"] == self.description["layer"] == "Linear"
        return self.takes is not None and self.takes == before.gives and not linear


def lstms(state):
    """Return the arrays of each LSTM in a state dict, prefix -> local name -> array; not none."""
    found, fault = {}, "no name ends in 'weight_ih_l0'"
    for prefix, arrays in _groups(state).items():
        arrays = {name: array for name, array in arrays.items() if "_l" in name}
        if other := _other(arrays):
            fault = f"{prefix + '...'!r}{other}"
        elif arrays:
            found[prefix] = arrays
    if not found:
        names = ", ".join(map(repr, list(state)[:20])) or "nothing"
        raise ValueError(f"it holds no LSTM: {fault}. It holds {names}")
    return found


def describe_lstm(prefix, arrays, batch_first):
    """Return the structure of an LSTM whose arrays `lstms` has found; ValueError if it has none."""
    inputs = _matrix(prefix, arrays, "weight_ih_l0")
    projected = "weight_hr_l0" in arrays
    return {
        "layer": "LSTM",
        "input_size": inputs.shape[1],
        "hidden_size": inputs.shape[0] // 4,
        "num_layers": 1 + max(int(re.search(r"_l(\d+)", name)[1]) for name in arrays),
        "bias": any(name.startswith("bias") for name in arrays),
        "batch_first": batch_first,
        "dropout": 0.0,
        "bidirectional": any(name.endswith("_reverse") for name in arrays),
        "proj_size": _matrix(prefix, arrays, "weight_hr_l0").shape[0] if projected else 0,
        "dtype": str(inputs.dtype),
    }


def infer(state, ordered=True, batch_first=False):
    """Return the structure that a state dict's names and shapes admit, if there is but one.

    Layers are chained by their sizes, each taking what the one before gives: an Embedding (a
    matrix without bias, first), LSTMs and Linears, but not two Linears in a row, which have an
    activation between them that no name tells. A single LSTM, LSTMCell or Linear without prefix
    is returned as such, all else as a Sequential with the names' prefixes.

    Parameters
    ----------
    state : dict of str -> ndarray
    ordered : bool
        Whether the state dict has the model's order, which is then kept. If not, the sizes must
        admit one order only, and there may be one Linear: two that surround an LSTM would fit
        the other way round as well.
    batch_first : bool
        Of the LSTMs; no name tells.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If it holds other layers, or they can be chained in no way or in several; with what there
        is.

    Examples
    --------
    >>> infer({"weight": np.zeros((1, 4)), "bias": np.zeros(1)})["in_features"]
    4
    """
    groups = _groups(state)
    choices = {prefix: _links(prefix, arrays, batch_first) for prefix, arrays in groups.items()}
    others = [repr(name) for name in state if not _NAME.fullmatch(name)]
    others += [
        f"{prefix + '...'!r}{_other(groups[prefix])}"
        for prefix, links in choices.items()
        if not links
    ]

    def unclear(reason):
        found = [f"{p!r}: {' or '.join(map(str, links))}" for p, links in choices.items() if links]
        return ValueError(
            f"its layers cannot be told from names and shapes: {reason}. "
            f"Found {', '.join(found[:20]) or 'no layers'}. Load one LSTM with "
            "fastlstm.load_lstm(path, prefix=...), or build the model by hand and use "
            "model.load_state_dict(fastlstm.load_state(path))"
        )

    if others:
        raise unclear(f"not known are {', '.join(others[:20])}")
    if not 1 <= len(choices) <= _MOST_CHAINED:
        raise unclear(f"there are {len(choices)} layers, at most {_MOST_CHAINED} are chained")
    if any(len(prefix.split(".")) > _MOST_NESTED for prefix in choices):
        raise unclear(f"a name has more than {_MOST_NESTED} parts")
    if len(choices) > 1 and any(links[0].gives is None for links in choices.values()):
        raise unclear("an LSTMCell is stepped by code of its own, which no name tells")
    if gap := _gap(choices):
        raise unclear(f"{gap!r} has no parameters, and what it is stands nowhere")
    chains = list(islice(_chains(list(choices.values()), ordered), 2))
    if not chains:
        order = "the order of the file" if ordered else "any order"
        raise unclear(f"no chain fits their sizes in {order} without two Linear layers in a row")
    links = chains[0]
    linears = sum(link.description["layer"] == "Linear" for link in links)
    if len(chains) > 1 or (linears > 1 and not ordered):
        raise unclear("several chains fit their sizes")
    if len(links) == 1 and not links[0].prefix:
        return links[0].description
    nested = _nest([(link.prefix[:-1].split("."), link.description) for link in links])
    if nested is None:
        raise unclear("their names do not nest as their sizes chain")
    return nested


def _groups(state):
    """Return prefix -> local name -> array for all names that a layer of ours could have."""
    groups = {}
    for name, array in state.items():
        if match := _NAME.fullmatch(name):
            groups.setdefault(match[1], {})[match[2]] = array
    return groups


def _other(arrays):
    """Name what has an LSTM's names but not its gates: without projection weight_hh is (4H, H)."""
    matrix = arrays.get("weight_hh_l0", arrays.get("weight_hh"))
    if matrix is None or matrix.ndim != 2 or not matrix.size or "weight_hr_l0" in arrays:
        return ""
    kinds = {3: " (a GRU, not an LSTM)", 1: " (a plain RNN, not an LSTM)"}
    return kinds.get(matrix.shape[0] / matrix.shape[1], "")


def _matrix(prefix, arrays, name):
    if name not in arrays:
        raise ValueError(f"an LSTM lacks {prefix + name!r}; it has {', '.join(arrays)}")
    if arrays[name].ndim != 2:
        raise ValueError(f"{prefix + name!r} must be a matrix, got shape {arrays[name].shape}")
    return arrays[name]


def _links(prefix, arrays, batch_first):
    """Return what a group of arrays may be: nothing, one layer, or Embedding and Linear."""
    if _other(arrays):
        return []
    if all("_l" in name for name in arrays):
        d = describe_lstm(prefix, arrays, batch_first)
        gives = (1 + d["bidirectional"]) * (d["proj_size"] or d["hidden_size"])
        return [_Link(prefix, d["input_size"], gives, d)]
    if {"weight_ih", "weight_hh"} <= arrays.keys() <= _CELL:
        inputs = _matrix(prefix, arrays, "weight_ih")
        sizes = {"input_size": inputs.shape[1], "hidden_size": inputs.shape[0] // 4}
        d = {"layer": "LSTMCell", **sizes, "bias": "bias_ih" in arrays, "dtype": str(inputs.dtype)}
        return [_Link(prefix, inputs.shape[1], None, d)]
    if not {"weight"} <= arrays.keys() <= {"weight", "bias"} or arrays["weight"].ndim != 2:
        return []
    (rows, columns), dtype = arrays["weight"].shape, str(arrays["weight"].dtype)
    sizes = {"in_features": columns, "out_features": rows}
    d = {"layer": "Linear", **sizes, "bias": "bias" in arrays, "dtype": dtype}
    links = [_Link(prefix, columns, rows, d)]
    if "bias" not in arrays:
        sizes = {"num_embeddings": rows, "embedding_dim": columns}
        d = {"layer": "Embedding", **sizes, "padding_idx": None, "dtype": dtype}
        links.append(_Link(prefix, None, columns, d))
    return links


def _chains(choices, ordered, before=None):
    """Yield every list of links that uses each choice once and in which each follows the last."""
    if not choices:
        yield []
    for n, links in enumerate(choices[:1] if ordered else choices):
        for link in links:
            if before is None or link.follows(before):
                for rest in _chains(choices[:n] + choices[n + 1 :], ordered, link):
                    yield [link, *rest]


def _gap(prefixes):
    """Return the first number that is missing among the layers of a torch Sequential, or None."""
    numbered = {}
    for prefix in prefixes:
        parts = prefix.split(".")[:-1]
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
