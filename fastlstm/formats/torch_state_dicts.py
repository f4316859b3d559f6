"""Where in the pickle of a torch file the state dict stands.

A checkpoint may nest several state dicts in dicts and lists, beside the state of an optimiser and
anything else. A whole module has its tensors in its attributes; they are found there under the
names that its state dict would have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from ..checks import listed, quoted, short
from .budget import Budget
from .format import ANY, Choice
from .pickles import Object, Pickle, describe
from .torch_tensors import PACKED, PickledArray, Refused, Tensor, as_tensor

Tensors: TypeAlias = "dict[str, Tensor | PickledArray | Refused]"
Layouts: TypeAlias = "dict[str, bool | None]"  # batch_first by the prefix of an LSTM's names
Found: TypeAlias = tuple[Tensors, Layouts]

_MOST_DEPTH, _LONGEST_NAME = 8, 255  # how far nested state dicts are searched for
_QUANTISED_MODULE = re.compile(r"torch\..*\.quantized\.")


def find(pickle: Pickle, choice: Choice, budget: Budget) -> Found:
    """Return the tensors of the one state dict that `choice` wants, and its LSTMs' batch_first.

    Raises
    ------
    ValueError
        If there is no such state dict, or more than one; the sentence lists them.
    """
    value, asked = pickle.value, ""
    if pickle.asked:
        asked = (
            f"; it asks for {quoted(pickle.asked)}, which is refused: only plain "
            "numbers are loaded, never code"
        )
    if isinstance(value, Object) and _is_script(value) and not value.state:
        raise ValueError(
            "it is a frozen TorchScript module, whose weights are constants without names; save it "
            "before torch.jit.freeze"
        )
    if isinstance(value, Object) and value.maker.is_of("darts"):
        raise ValueError(
            "it is an object of Darts, the file beside it whose name ends in .ckpt has its weights"
        )
    key = choice.key
    if key is not None:
        reached = _candidates(value, budget, lists=True, key=key)
        if key in reached:
            return reached[key]
    candidates = _candidates(value, budget) or _candidates(value, budget, lists=True)
    if not candidates and _entries(value) is None and not _is_module(value):
        raise ValueError(
            f"expected a state dict, got {describe(value)}; save model.state_dict(){asked}"
        )
    if key is not None:
        words = _listed(candidates) or "none"
        raise ValueError(f"no state dict has the key {short(key)}; it holds {words}")
    if not candidates:
        raise ValueError(f"it holds no tensors, so no state dict{asked}")
    likely_ones = {
        path: (tensors, batch_first)
        for path, (tensors, batch_first) in candidates.items()
        if any(re.search(choice.likely, name) for name in tensors)
    }
    candidates = likely_ones or candidates
    if len(candidates) > 1:
        words = _listed(candidates)
        raise ValueError(f"it holds several state dicts, choose one with key=: {words}")
    return next(iter(candidates.values()))


def hyper_parameters(pickle: Pickle) -> dict[str, Any]:
    """Return the hyper-parameters that a checkpoint of Lightning's has, or nothing."""
    return _entries((_entries(pickle.value) or {}).get("hyper_parameters")) or {}


def _listed(candidates: Mapping[str, Found]) -> str:
    return listed(f"{short(path)} ({len(found[0])} tensors)" for path, found in candidates.items())


def _candidates(
    tree: Any, budget: Budget, lists: bool = False, key: str | None = None
) -> dict[str, Found]:
    """Return the modules and dicts that hold tensors, by their dotted paths.

    Tensors without a dimension, such as a loss that is kept along, do not make a state dict. Dicts
    under other keys than strings (the state of an optimiser) are not searched. Lists are searched
    if `lists` is true; the number of an element is its name. With a key, only dicts on the way to
    it are searched; without one, a dict that has several paths is searched under the first.
    """
    found: dict[str, Found] = {}
    seen = {id(tree)}
    queue: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    for path, node in queue:  # the queue grows meanwhile
        batch_first: Layouts = {}
        children = _entries(node, lists) or {}
        if _is_module(node):
            tensors, children = dict(_module_tensors(node, "", 0, budget, batch_first)), {}
        else:
            tensors = _tensors(children, budget)
        if any(map(_counts, tensors.values())):
            name = ".".join(path)
            budget.spend("letters of names", len(name))
            found[name] = tensors, batch_first
        if len(path) == _MOST_DEPTH:
            continue
        before = "".join(f"{name}." for name in path) if key else ""
        for name, value in children.items():
            if not f"{key}.".startswith(f"{before}{name}.") if key else id(value) in seen:
                continue
            if len(name) <= _LONGEST_NAME and _nests(value, lists):
                seen.add(id(value))
                queue.append(((*path, name), value))
    return found


def _counts(tensor: Tensor | PickledArray | Refused) -> bool:
    """Tell whether a tensor makes a state dict of the dict that it stands in."""
    return tensor.is_tensor if isinstance(tensor, Refused) else bool(tensor.shape)


def _nests(value: Any, lists: bool) -> bool:
    """Tell whether `_candidates` looks into a value. The time does not grow with the value."""
    items = value.items if isinstance(value, Object) else value
    is_list = lists and type(items) in (list, tuple)
    return isinstance(items, dict) or is_list or _is_module(value)


def _entries(value: Any, lists: bool = False) -> dict[str, Any] | None:
    """Return the entries of a dict, of an object that was given such, or of a list; else None."""
    value = value.items if isinstance(value, Object) else value
    if lists and type(value) in (list, tuple):
        nested = (dict, list, tuple, Object)
        return {str(n): item for n, item in enumerate(value) if isinstance(item, nested)}
    return value if isinstance(value, dict) else None


def _tensors(entries: Mapping[str, Any], budget: Budget) -> Tensors:
    """Return the tensors among the entries of a dict, and the objects in the place of a weight."""
    found: Tensors = {}
    for name, value in entries.items():
        if isinstance(value, (tuple, Object)):  # tensors are tuples too
            budget.spend("letters of names", len(name))  # they are searched here and once more
        tensor = as_tensor(value)
        if tensor is None and isinstance(value, Object) and re.search(ANY.likely, name):
            reason = f"is {describe(value)}, which is not opened: only plain numbers are loaded"
            tensor = Refused(reason, is_tensor=False)
        if tensor is not None:
            found[name] = tensor
    return found


# Whole modules


def _attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object. A class with __slots__ has two dicts of them."""
    state = value.state if isinstance(value, Object) else None
    if isinstance(state, tuple) and state:
        state = state[0]
    return state if isinstance(state, dict) else {}


def _is_script(value: Object) -> bool:
    """Tell whether an object is a TorchScript module, of a class whose code is in the file."""
    return value.maker.is_of("__torch__")


def _is_module(value: Any) -> bool:
    attributes = _attributes(value)
    return "_parameters" in attributes or (bool(attributes) and _is_script(value))


def _module_tensors(
    module: Object, prefix: str, depth: int, budget: Budget, batch_first: Layouts
) -> Iterator[tuple[str, Tensor | PickledArray | Refused]]:
    """Yield names and tensors in the order of the module's state dict, and fill `batch_first`."""
    budget.check("levels of modules", depth)
    budget.spend("names of modules and their tensors")
    attributes = _attributes(module)
    if _is_script(module):
        own = children = attributes
        budget.spend("copied items", len(attributes) // 4)  # an attribute has only 3 bytes
    else:
        parts = [_dict(attributes, name) for name in ("_parameters", "_buffers", "_modules")]
        left_out = _names(attributes.get("_non_persistent_buffers_set"))
        budget.spend("copied items", sum(map(len, [*parts, left_out])))
        own = {**parts[0], **parts[1]}
        for name in left_out:
            if type(name) is str:
                own.pop(name, None)
        children = parts[2]
    if _QUANTISED_MODULE.match(str(module.maker)):  # its weights are packed into other attributes
        own = {"weight": Refused(PACKED)}
    if type(attributes.get("batch_first")) is bool:
        batch_first[prefix] = attributes["batch_first"]
    for name, tensor in _tensors(own, budget).items():
        budget.spend("names of modules and their tensors")
        budget.spend("letters of names", len(prefix))
        yield prefix + name, tensor
    for name, child in children.items():
        if _is_module(child):
            budget.spend("letters of names", len(prefix) + len(name))
            yield from _module_tensors(child, f"{prefix}{name}.", depth + 1, budget, batch_first)


def _dict(attributes: Mapping[str, Any], name: str) -> dict[str, Any]:
    return _entries(attributes.get(name)) or {}


def _names(value: Any) -> list[Any]:
    """Return the elements of a set, which protocols below 4 make by a call with a list."""
    if isinstance(value, Object) and value.arguments:
        value = value.arguments[0]
    return value if isinstance(value, list) else []
