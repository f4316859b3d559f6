"""The structure of a model as plain data: how a model is described, and built from a description.

The description of a layer is a dict that names its class and gives the arguments of the
constructor: ``{"layer": "Linear", "in_features": 4, ...}``. An argument that is left out has its
default, so that a file stays readable when the class gets another argument. A layer of layers gives
its children instead: ``{"layer": "Sequential", "children": {"lstm": {...}, ...}}``. Files hold a
description as JSON, together with the version of this scheme.

A description may come from a file of unknown origin. So it is checked whole before anything is
built, and it can name none but the layers in the two tables below.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..checks import check_not_newer, quoted
from ..layers import (
    LSTM,
    Concat,
    Dropout,
    Embedding,
    Last,
    Layer,
    Linear,
    LSTMCell,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)

if TYPE_CHECKING:
    from ..arrays import Array

Description: TypeAlias = dict[str, Any]

_VERSION = 1
_MOST_NESTED = 16  # layers of layers inside each other
_MOST_LAYERS = 1000
_MOST_MISSING = 100  # so many arrays may the file lack; `load_state_dict` then names them all
_MOST_SHOWN = 10**100  # a count may have more digits than Python is willing to write

# Layers that can be described by the arguments of their constructors, and layers of layers, which
# are described by their children alone and are built from these by their names.
_LAYERS = {
    layer.__name__: layer
    for layer in (
        LSTM,
        LSTMCell,
        Linear,
        Embedding,
        Dropout,
        ReLU,
        Tanh,
        Sigmoid,
        Softmax,
        Last,
    )
}
_CONTAINERS: dict[str, Callable[..., Layer]] = {
    layer.__name__: layer for layer in (Sequential, Concat, Residual)
}
# Arguments that say how a layer runs or begins, and not what it is.
_NOT_DESCRIBED = {"engine", "num_threads", "seed"}
# The types, as JSON has them, of values with these annotations.
_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (float,),
    "str": (str,),
    "None": (type(None),),
    "Sequence[int]": (list,),
    "tuple[float, float]": (list,),
    "Coupling": (str,),
    "Norm": (str,),
    "Function": (str, list),
}


class _Argument(NamedTuple):
    """An argument of a layer's constructor: the types of its values, and its default."""

    types: tuple[type, ...]
    default: Any

    @property
    def is_required(self) -> bool:
        return self.default is inspect.Parameter.empty


@functools.cache
def _parameters(kind: str) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of the constructor of a layer of this kind."""
    return inspect.signature(_LAYERS[kind]).parameters


@functools.cache
def _arguments(kind: str) -> dict[str, _Argument]:
    """Return the arguments that describe a layer of this kind, as the constructor has them.

    The annotations tell the types. A dtype is described by its name.
    """
    return {
        name: _Argument(
            (str,)
            if name == "dtype"
            else tuple(kind for part in parameter.annotation.split(" | ") for kind in _TYPES[part]),
            parameter.default,
        )
        for name, parameter in _parameters(kind).items()
        if name not in _NOT_DESCRIBED
    }


def describe(model: Layer) -> Description:
    """Return the structure of a model as plain data.

    Parameters
    ----------
    model : Layer

    Returns
    -------
    dict

    Raises
    ------
    TypeError
        If the model is, or contains, a layer that is not one of fastlstm's own.

    Examples
    --------
    >>> describe(fastlstm.Softmax())
    {'layer': 'Softmax', 'dim': -1}
    """
    kind = type(model).__name__
    if type(model) is _CONTAINERS.get(kind):
        children = {name: describe(child) for name, child in model.children.items()}
        return {"layer": kind, "children": children}
    if type(model) is not _LAYERS.get(kind):
        raise TypeError(
            f"the structure of {kind} cannot be stored; known are {_known()}. "
            "A .pt file holds the parameters alone"
        )
    return {"layer": kind} | {name: argument(model, name) for name in _arguments(kind)}


def build(
    description: Any,
    *,
    state: Mapping[str, Array] | None = None,
    most_arrays: int | None = None,
    **options: Any,
) -> Layer:
    """Return the model that a description of unknown origin describes.

    Parameters
    ----------
    description : dict
    state : dict of str -> ndarray, optional
        The arrays that there are to fill the model. A model that needs more arrays or numbers is
        refused before memory is taken.
    most_arrays : int, optional
        How many arrays they may become, if the file has several in one; as many as there are if it
        is left out.
    **options
        Arguments, as ``engine`` and ``dtype``, for every layer whose constructor has them. They
        take the place of the description's.

    Returns
    -------
    Layer

    Raises
    ------
    ValueError
        If it describes anything but known layers, or if the arguments of one are not those of its
        constructor, or have values of other types.

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
        most_arrays = len(state) if most_arrays is None else most_arrays
        if arrays > most_arrays + _MOST_MISSING:
            shown = min(arrays, _MOST_SHOWN)
            raise ValueError(f"its structure needs {shown} arrays, the file holds {len(state)}")
    try:
        return _construct(description, options)
    except TypeError as fault:  # these layers are known, but do not go together
        raise ValueError(f"its structure cannot be built: {fault}") from fault


def dumps(model: Layer) -> str:
    """Return the structure of a model as JSON text.

    Raise ValueError if it has more layers, or nests them deeper, than `build` accepts.
    """
    description = describe(model)
    _check(description)
    return json.dumps({"version": _VERSION, "structure": description})


def loads(text: str | bytes) -> Any:
    """Return the description in a JSON text; `build` checks it, and not this function."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"its structure is damaged JSON: {fault}") from fault
    if not isinstance(entry, dict) or entry.keys() != {"version", "structure"}:
        raise ValueError("its structure must be an object of a version and a structure")
    version = entry["version"]
    check_not_newer("its structure", version, _VERSION)
    if type(version) is not int or version != _VERSION:
        got = version if type(version) is int else type(version).__name__
        raise ValueError(f"its structure must have version {_VERSION}, got {got}")
    return entry["structure"]


def recurrent(description: Any) -> dict[str, Description]:
    """Return the LSTMs and LSTMCells in a description, by the prefixes of their parameters.

    They have all arguments. An argument that the description leaves out has its default.
    """
    _check(description)

    def walk(description: Description, prefix: str) -> Iterator[tuple[str, Description]]:
        for name, child in description.get("children", {}).items():
            yield from walk(child, f"{prefix}{name}.")
        if description["layer"] in ("LSTM", "LSTMCell"):
            yield prefix, {"layer": description["layer"], **_with_defaults(description)}

    return dict(walk(description, ""))


def _known() -> str:
    return ", ".join([*_LAYERS, *_CONTAINERS])


def argument(model: Layer, name: str) -> Any:
    """Return the value of a constructor's argument, which is the attribute of the same name."""
    value = getattr(model, name)
    if name == "dtype":
        return str(value)
    if name == "bias":  # that of a Linear is the array itself, or None
        return value if isinstance(value, bool) else value is not None
    return list(value) if isinstance(value, tuple) else value


def _check(description: Any, depth: int = 0) -> tuple[int, int, int]:
    """Refuse a description that cannot be one of a model.

    Return how many layers and arrays the model has, and how many numbers it has at least.
    """
    if not isinstance(description, dict) or not isinstance(description.get("layer"), str):
        raise ValueError('its structure is damaged: a layer must be an object with a "layer"')
    kind = description["layer"]
    given = _given(description)
    if kind in _CONTAINERS:
        if given.keys() != {"children"} or not isinstance(given["children"], dict):
            raise ValueError(f"its structure is damaged: a {kind} must have children alone")
        if depth == _MOST_NESTED:
            raise ValueError(f"its structure nests more than {_MOST_NESTED} {kind}s")
        layers, arrays, numbers = 1, 0, 0
        for child in given["children"].values():
            more = _check(child, depth + 1)
            layers, arrays, numbers = layers + more[0], arrays + more[1], numbers + more[2]
            if layers > _MOST_LAYERS:
                raise ValueError(f"its structure has more than {_MOST_LAYERS} layers")
        return layers, arrays, numbers
    if kind not in _LAYERS:
        raise ValueError(f"its structure has an unknown layer {kind[:50]!r}; known are {_known()}")
    expected = _arguments(kind)
    required = {name for name, argument in expected.items() if argument.is_required}
    if not required <= given.keys() <= expected.keys():
        raise ValueError(
            f"its structure gives {kind} the arguments {quoted(sorted(given)) or 'none'}, expected "
            + quoted(sorted(expected))
        )
    for name, value in given.items():
        types = expected[name].types
        if type(value) not in types:
            raise ValueError(
                f"its structure gives {kind} {name} of type {type(value).__name__}, "
                f"expected {types[0].__name__}"
            )
        if name == "hidden_size" and type(value) is list:
            _check_widths(value)
    arrays, numbers = _needs(kind, _with_defaults(description))
    return 1, max(0, arrays), max(0, numbers)


def _check_widths(widths: list[Any]) -> None:
    """Refuse the widths of an LSTM's layers, unless they are counts, and not too many."""
    if not 0 < len(widths) <= _MOST_LAYERS:
        raise ValueError(
            f"its structure gives LSTM a hidden_size for {len(widths)} layers, expected 1 to "
            f"{_MOST_LAYERS}"
        )
    if any(type(width) is not int or width < 1 for width in widths):
        raise ValueError("its structure gives LSTM a hidden_size with other than counts")


def _given(description: Description) -> dict[str, Any]:
    """Return the arguments, or the children, that a description gives."""
    return {name: value for name, value in description.items() if name != "layer"}


def _with_defaults(description: Description) -> dict[str, Any]:
    """Return the arguments of a description, and the defaults of those that it leaves out."""
    arguments = _arguments(description["layer"])
    return {name: argument.default for name, argument in arguments.items()} | _given(description)


def _needs(kind: str, given: Description) -> tuple[int, int]:
    """Return how many arrays a layer has, and how many numbers its matrices have together."""
    if kind == "LSTM":
        hidden, directions = given["hidden_size"], 1 + given["bidirectional"]
        each, gates = _extras(given)
        each += 2 + 2 * given["bias"] + bool(given["proj_size"])
        # Layers of one width, however many a file may say there are, are counted at once.
        widths = [(width, 1) for width in hidden] if type(hidden) is list else None
        arrays, numbers, takes = 0, 0, given["input_size"]
        for width, layers in widths or [(hidden, given["num_layers"])]:
            gives = directions * (given["proj_size"] or width)
            inputs = takes + (layers - 1) * gives  # of all these layers
            arrays += layers * directions * each
            numbers += gates * width * (directions * inputs + layers * gives)
            takes = gives
        return arrays, numbers
    if kind == "LSTMCell":
        size, (each, gates) = given["input_size"] + given["hidden_size"], _extras(given)
        return each + 2 + 2 * given["bias"], gates * given["hidden_size"] * size
    if kind == "Linear":
        return 1 + given["bias"], given["in_features"] * given["out_features"]
    if kind == "Embedding":
        return 1, given["num_embeddings"] * given["embedding_dim"]
    return 0, 0


def _extras(given: Description) -> tuple[int, int]:
    """Return how many arrays the options of a recurrence add to a cell, and how many gates it has.

    It is the least where an option has none of its values.
    """
    gates = 4 - (given["coupled"] is not None)
    arrays = {"tflite": 1, "haste": 4}.get(given["layer_norm"], 0)
    arrays += (gates - 1) * given["peephole"] + 2 * given["learn_initial_state"]
    return arrays, gates


def _construct(description: Description, options: dict[str, Any]) -> Layer:
    """Build a description that has been checked."""
    kind = description["layer"]
    if kind in _CONTAINERS:
        children = description["children"].items()
        layers = {name: _construct(child, options) for name, child in children}
        return Residual(**layers) if kind == "Residual" else _CONTAINERS[kind](layers)
    taken = {name: value for name, value in options.items() if name in _parameters(kind)}
    return _LAYERS[kind](**_given(description) | taken)
