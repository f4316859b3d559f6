"""A model's structure as plain data: described from a model, built into one.

A description is a dict: ``{"layer": "Linear", "in_features": 4, ...}``, every argument of the
layer given; of a Sequential ``{"layer": "Sequential", "children": {"lstm": {...}, ...}}``. Files
hold it as JSON together with the version of this scheme.
"""

import json

from ..checks import quoted
from ..layers import (
    LSTM,
    Dropout,
    Embedding,
    Last,
    Linear,
    LSTMCell,
    ReLU,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)

_VERSION = 1
_MOST_NESTED = 16  # Sequentials in Sequentials
_MOST_LAYERS = 1000
_MOST_MISSING = 100  # arrays; so many `load_state_dict` may name
_MOST_SHOWN = 10**100  # for a count may have more digits than Python writes

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
_TYPES = dict.fromkeys(("bias", "bidirectional"), (bool,))  # what is no int
_TYPES |= {
    "batch_first": (bool, type(None)),
    "dropout": (float,),
    "p": (float,),
    "dtype": (str,),
    "padding_idx": (int, type(None)),
    "Last bidirectional": (bool, type(None)),
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


def build(description, engine="auto", *, dtype=None, state=None):
    """Return the model that a description of unknown origin describes.

    Parameters
    ----------
    description : dict
    engine : str
        For its LSTMs.
    dtype : {"float32", "float64"}, optional
        Of its layers, in place of their own.
    state : dict of str -> ndarray, optional
        What there is to fill it: a model that needs more arrays or numbers is refused before
        memory is taken.

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
    _, arrays, numbers = _check(description)
    if state is not None:
        held = sum(array.size for array in state.values())
        if numbers > held:
            shown = min(numbers, _MOST_SHOWN)
            raise ValueError(f"its structure needs {shown} numbers or more, the file holds {held}")
        if arrays > len(state) + _MOST_MISSING:
            shown = min(arrays, _MOST_SHOWN)
            raise ValueError(f"its structure needs {shown} arrays, the file holds {len(state)}")
    try:
        return _construct(description, engine, {} if dtype is None else {"dtype": dtype})
    except TypeError as fault:  # layers that are known, but do not go together
        raise ValueError(f"its structure cannot be built: {fault}") from fault


def dumps(model):
    """Return the JSON text of a model's structure; ValueError if `loads` would not take it back."""
    _check(describe(model))
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


def layouts(description):
    """Return the batch_first of each LSTM in a description, by the prefix of its parameters."""
    _check(description)

    def walk(description, prefix):
        for name, child in description.get("children", {}).items():
            yield from walk(child, f"{prefix}{name}.")
        if description["layer"] == "LSTM":
            yield prefix, description["batch_first"]

    return dict(walk(description, ""))


def _argument(model, name):
    value = getattr(model, name)
    if name == "dtype":
        return str(value)
    if name == "bias":  # a Linear has the array itself there, or None
        return value if isinstance(value, bool) else value is not None
    return value


def _check(description, depth=0):
    """Refuse what `describe` would not return; count layers, arrays and, at least, numbers."""
    if not isinstance(description, dict) or not isinstance(description.get("layer"), str):
        raise ValueError('its structure is damaged: a layer must be an object with a "layer"')
    kind = description["layer"]
    given = {name: value for name, value in description.items() if name != "layer"}
    if kind == "Sequential":
        if given.keys() != {"children"} or not isinstance(given["children"], dict):
            raise ValueError("its structure is damaged: a Sequential must have children alone")
        if depth == _MOST_NESTED:
            raise ValueError(f"its structure nests more than {_MOST_NESTED} Sequentials")
        layers, arrays, numbers = 1, 0, 0
        for child in given["children"].values():
            more = _check(child, depth + 1)
            layers, arrays, numbers = layers + more[0], arrays + more[1], numbers + more[2]
            if layers > _MOST_LAYERS:
                raise ValueError(f"its structure has more than {_MOST_LAYERS} layers")
        return layers, arrays, numbers
    if kind not in _LAYERS:
        raise ValueError(
            f"its structure has an unknown layer {kind[:50]!r}; known are "
            f"{', '.join([*_LAYERS, 'Sequential'])}"
        )
    expected = _ARGUMENTS[_LAYERS[kind]].split()
    if given.keys() != set(expected):
        raise ValueError(
            f"its structure gives {kind} the arguments {quoted(sorted(given)) or 'none'}, expected "
            + quoted(sorted(expected))
        )
    for name in expected:
        types = _TYPES.get(f"{kind} {name}", _TYPES.get(name, (int,)))
        if type(given[name]) not in types:
            raise ValueError(
                f"its structure gives {kind} {name} of type {type(given[name]).__name__}, "
                f"expected {types[0].__name__}"
            )
    arrays, numbers = _needs(kind, given)
    return 1, max(0, arrays), max(0, numbers)


def _needs(kind, given):
    """How many arrays a layer has, and the sizes of its matrices, all added up."""
    if kind == "LSTM":
        hidden, directions = given["hidden_size"], 1 + given["bidirectional"]
        out, layers = given["proj_size"] or hidden, given["num_layers"]
        inputs = given["input_size"] + (layers - 1) * directions * out  # of all layers
        each = 2 + 2 * given["bias"] + bool(given["proj_size"])
        return layers * directions * each, 4 * hidden * directions * (inputs + layers * out)
    if kind == "LSTMCell":
        size = given["input_size"] + given["hidden_size"]
        return 2 + 2 * given["bias"], 4 * given["hidden_size"] * size
    if kind == "Linear":
        return 1 + given["bias"], given["in_features"] * given["out_features"]
    if kind == "Embedding":
        return 1, given["num_embeddings"] * given["embedding_dim"]
    return 0, 0


def _construct(description, engine, dtype):
    kind = description["layer"]
    if kind == "Sequential":
        children = description["children"].items()
        return Sequential({name: _construct(child, engine, dtype) for name, child in children})
    arguments = {name: value for name, value in description.items() if name != "layer"}
    if "dtype" in arguments:
        arguments |= dtype
    if kind in ("LSTM", "LSTMCell", "Linear"):
        arguments["engine"] = engine
    return _LAYERS[kind](**arguments)
