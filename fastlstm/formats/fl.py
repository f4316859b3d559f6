"""The one-file model for C: what ``fl_model_load`` of the C library runs, and what we read back.

``docs/reference/fl_format.md`` describes the file, `fl_nodes` reads and writes it, and `fl_layers`
makes nodes of layers. Programs that make nodes themselves take `Node`, `nodes_of` and `write_nodes`
from here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from ..checks import check_bool, check_dtype, check_number, check_size, listed
from ..layers import Layer
from . import fl_layers, structure
from .fl_file import encode, parse
from .fl_nodes import (
    ACTIVATION,
    CONVOLUTION,
    EMBEDDING,
    JOIN,
    LAST,
    LINEAR,
    LSTM,
    MAGNITUDE,
    RESTORE,
    SELECT,
    SOFTMAX,
    STANDARDIZE,
    SUM,
    Model,
    Node,
    alike,
    check_arrays,
)
from .format import ANY, Choice, Content, Wish
from .source import Source, State

if TYPE_CHECKING:
    from ..arrays import Array
    from ..checks import Precision

__all__ = [
    "NAME", "ORDERED", "STRUCTURED", "SUFFIXES", "is_same", "model_of", "read", "read_notes",
    "recognises", "summary", "write",
    "ACTIVATION", "CONVOLUTION", "EMBEDDING", "JOIN", "LAST", "LINEAR", "LSTM", "MAGNITUDE",
    "RESTORE", "SELECT", "SOFTMAX", "STANDARDIZE", "SUM", "Model", "Node", "Scale", "nodes_of",
    "write_nodes",
]  # fmt: skip

NAME = "fl"
SUFFIXES = (".fl",)
STRUCTURED = True
ORDERED = True

_MAGIC = b"\x89FL"  # the rest of it, a transfer of text may have changed


class Scale(NamedTuple):
    """Means and scales of values, as a Standardizer has them."""

    mean: Array
    scale: Array


def recognises(source: Source) -> bool:
    """Tell whether a file begins as one of these does."""
    return source.head.startswith(_MAGIC)


def read(source: Source, choice: Choice = ANY) -> Content:
    """Read a model.

    Returns
    -------
    Content
        The structure and the parameters of the layers that have the nodes of the file; see
        `fl_layers.told`. If there are no such layers, its `build` says why, and the state has the
        arrays of the nodes.

    Raises
    ------
    ValueError
        If the file is damaged or hostile, or a key is given.
    """
    choice.refuse_key()
    model, text = read_model(source)
    description = None
    if "structure" in text:
        entry = {name: value for name, value in text.items() if name != "notes"}
        try:
            description = structure.loads(json.dumps(entry))
        except ValueError:  # a newer fastlstm may have written it, and the nodes are there
            description = None
    notes = text["notes"] if isinstance(text.get("notes"), dict) else {}
    if model.sample_rate:
        notes = notes | {"sample_rate": model.sample_rate}
    state = State()
    try:
        description, arrays = fl_layers.told(model, description)
    except (ValueError, TypeError) as error:
        fault = str(error)
        state.update(_by_nodes(model))

        def build(wish: Wish) -> NoReturn:
            raise ValueError(f"its model can run in C alone: {fault}")

        return Content(state, None, build=build, notes=notes)
    state.update(arrays)
    return Content(state, description, notes=notes)


def read_model(source: Source) -> tuple[Model, dict[str, Any]]:
    """Return the nodes of a file, and its text.

    Raises
    ------
    ValueError
        If the file is damaged or hostile.
    """
    model = parse(source.read(0, source.size))
    source.budget.check("bytes of JSON", len(model.text))
    try:
        text = json.loads(model.text) if model.text else {}
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"its text is damaged JSON: {fault}") from fault
    if not isinstance(text, dict):
        raise ValueError(f"its text must be a JSON object, got {type(text).__name__}")
    return model, text


def read_notes(source: Source) -> dict[str, Any] | None:
    """Read the notes of a file; None if it has none.

    Raises
    ------
    ValueError
        If the file is damaged, or its notes are not a JSON object.
    """
    notes = read_model(source)[1].get("notes")
    if not isinstance(notes, (dict, type(None))):
        raise ValueError(f"its notes must be a JSON object, got {type(notes).__name__}")
    return notes


def write(
    file: IO[bytes],
    model: Layer,
    *,
    sample_rate: float = 0.0,
    inputs: Scale | None = None,
    outputs: Scale | None = None,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write a model as it computes in evaluation.

    Parameters
    ----------
    file : binary file
    model : Layer
    sample_rate : float
        In Hz, of the signal that the model was made for; 0 says nothing.
    inputs, outputs : Scale, optional
        If they are given, the inputs are standardised before the model, and the outputs are brought
        back to their units behind it.
    notes : dict, optional
        What else is to be kept, as JSON can hold it.

    Raises
    ------
    ValueError
        If such a file cannot hold a layer, or an option of one; nothing has been written then.
    TypeError
        If a layer is none of fastlstm's own.
    """
    text: dict[str, Any] = json.loads(structure.dumps(model))
    if notes is not None:
        text["notes"] = notes
    drawn = model_of(model, inputs, outputs)
    rate = check_number("sample_rate", sample_rate, least=0)
    _write(file, drawn._replace(sample_rate=rate, text=json.dumps(text).encode()))


def model_of(model: Layer, inputs: Scale | None = None, outputs: Scale | None = None) -> Model:
    """Return the nodes of a model; see `write`."""
    nodes = fl_layers.draw(model).nodes
    takes = nodes[0].takes
    if inputs is not None:
        nodes = [node._replace(sources=tuple(n + 1 for n in node.sources)) for node in nodes]
        nodes.insert(0, _scale(STANDARDIZE, 0, inputs, model.dtype))
    if outputs is not None:
        nodes.append(_scale(RESTORE, len(nodes), outputs, model.dtype))
    return Model(nodes, takes, bool(model._takes_indices), model.dtype)


def nodes_of(
    layer: Layer, nodes: list[Node], source: int, takes: int, *, one_step: bool = False
) -> tuple[int, int]:
    """Append the nodes of a layer to others.

    Parameters
    ----------
    layer : Layer
        One of fastlstm's own, which may hold others.
    nodes : list of Node
    source : int
        The value that the layer takes: 0, or n for what ``nodes[n - 1]`` gives.
    takes : int
        How many features that has.
    one_step : bool
        Whether it is of one step, behind a `LAST`.

    Returns
    -------
    value, features : int
        The number of the value that the layer gives, and how many features that has.

    Raises
    ------
    ValueError
        If a layer, or an option of one, cannot be held.
    """
    structure.describe(layer)  # which refuses layers that are not fastlstm's own
    return fl_layers.append(layer, nodes, source, takes, one_step)


def write_nodes(
    file: IO[bytes],
    nodes: Sequence[Node],
    *,
    takes: int,
    indices: bool = False,
    dtype: Precision = "float32",
    sample_rate: float = 0.0,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write a model that is given as nodes.

    Parameters
    ----------
    file : binary file
    nodes : sequence of Node
        They are computed in order; the last one gives what comes out. The format's page in the
        reference tells what each kind has.
    takes : int
        How many values of a step go in; 1 if these are indices.
    indices : bool
        Whether they are int64 indices, for embeddings.
    dtype : {"float32", "float64"}
        Of all arrays.
    sample_rate : float
        As for `write`.
    notes : dict, optional
        What JSON can hold.

    Raises
    ------
    ValueError, TypeError
        If a node cannot stand at its place, or its arrays do not have the shapes or the dtype that
        they must have. The sentence names the node; nothing has been written.

    Examples
    --------
    >>> import io
    >>> from fastlstm.formats import fl
    >>> double = fl.Node(fl.LINEAR, (0,), 1, 1, arrays=(np.array([[2.0]], np.float32), None))
    >>> file = io.BytesIO()
    >>> fl.write_nodes(file, [double, fl.Node(fl.SUM, (0, 1), 1, 1)], takes=1)
    >>> file.seek(0)
    0
    >>> fastlstm.load(file)(np.ones((5, 1), np.float32)).ravel()
    array([3., 3., 3., 3., 3.], dtype=float32)
    """
    text = b"" if notes is None else json.dumps({"notes": notes}).encode()
    rate = check_number("sample_rate", sample_rate, least=0)
    takes, indices = check_size("takes", takes), check_bool("indices", indices)
    _write(file, Model(nodes, takes, indices, check_dtype(dtype), rate, text))


def summary(source: Source) -> list[str]:
    """Return what C sees of a file, in words: its values and its nodes."""
    model, _ = read_model(source)
    takes = "an index" if model.indices else f"{model.takes} values"
    rate = f", at {model.sample_rate:g} Hz" if model.sample_rate else ""
    kinds = listed(node.name for node in model.nodes)
    return [f"in C: {takes} in and {model.gives} out for a step{rate}", f"nodes: {kinds}"]


def is_same(source: Source, model: Model) -> bool:
    """Tell whether a file has these nodes."""
    return alike(read_model(source)[0].nodes, model.nodes)


def _write(file: IO[bytes], model: Model) -> None:
    check_arrays(model)
    for piece in encode(model):
        file.write(piece)


def _scale(kind: int, source: int, scale: Scale, dtype: np.dtype[Any]) -> Node:
    """Return the node that standardises values, or restores them."""
    with np.errstate(all="ignore"):
        arrays = tuple(np.asarray(numbers, float).astype(dtype) for numbers in scale)
    if not (np.isfinite(arrays).all() and (arrays[1] > 0).all()):
        raise ValueError(f"{dtype} cannot hold the means and scales of its standardizer")
    width = len(arrays[0])
    return Node(kind, (source,), width, width, arrays=arrays)


def _by_nodes(model: Model) -> dict[str, Array]:
    """Return the arrays of a model by the numbers of its nodes, as ``3_weight``."""
    return {
        f"{n}_{name}": array
        for n, node in enumerate(model.nodes)
        for name, array in zip(node.array_names(), node.arrays, strict=True)
        if array is not None
    }
