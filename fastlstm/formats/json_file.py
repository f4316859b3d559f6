"""JSON files of models, as audio plugins have them: which kind a file is, and its text read safely.

The kinds are modules beside this one: `rtneural` (with what AIDA-X adds), `nam` and `guitarml`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..checks import quoted
from . import guitarml, nam, rtneural
from .format import ANY, Choice, Content
from .json_values import decoded, parsed
from .source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "JSON (RTNeural, AIDA-X, NAM, GuitarML)"
ORDERED = True  # RTNeural's own programs write the layers in the order in which they run

_DAMAGED = "damaged JSON"
_KINDS: dict[frozenset[str], Callable[[dict[str, Any]], Content]] = {
    frozenset({"architecture", "config"}): nam.read,
    frozenset({"model_data", "state_dict"}): guitarml.read,
    frozenset({"in_shape", "layers"}): rtneural.read,
}


def recognises(source: Source) -> bool:
    """Tell whether a file begins as a JSON object does."""
    return bool(re.match(rb"(\xef\xbb\xbf)?\s*\{\s*[\"}]", source.head))


def read(source: Source, choice: Choice = ANY) -> Content:
    """Read a model.

    Returns
    -------
    Content
        With the structure of the model, but of RTNeural's form for torch, which is a state dict.

    Raises
    ------
    ValueError
        If the file is damaged, of no known kind, or holds what fastlstm has no layer for; or if a
        key is given.
    """
    choice.refuse_key()
    tree = _tree(source)
    for keys, read_kind in _KINDS.items():
        if keys <= tree.keys():
            return read_kind(tree)
    if rtneural.is_state_dict(tree):
        source.budget.check("names of modules and their tensors", len(tree))
        return rtneural.read_state_dict(tree)
    raise ValueError(
        "it is JSON of no known kind: a model of RTNeural or AIDA-X has in_shape and layers, one "
        "of NAM architecture, config and weights, one of GuitarML model_data and state_dict, a "
        f"state dict names with weight and bias; this has {quoted(tree, most=5) or 'nothing'}"
    )


def _tree(source: Source) -> dict[str, Any]:
    """Return the object that a file holds."""
    source.budget.check("bytes of a model's JSON", source.size)
    text = decoded(bytes(source.read(0, source.size)), _DAMAGED)
    tree = parsed(text, source.budget, _DAMAGED)
    if not isinstance(tree, dict):  # not reached: it begins as an object
        raise ValueError(f"{_DAMAGED}: it must be an object, got {type(tree).__name__}")
    return tree
