"""Models of neuralhydrology: a state dict, and ``config.yml`` in its folder, which says the rest.

The model ``cudalstm`` may pass its dynamic inputs, and its static ones, through networks of their
own before they stand beside each other as the LSTM's input. Here the two are one input, the dynamic
features first, and the static ones are repeated at every step. Source: neuralhydrology 1.13.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import short
from .torch_programs import Maker, Offer

if TYPE_CHECKING:
    from ..arrays import Array
    from .source import State
    from .structure import Description

_CONFIG = "config.yml"
_MOST_BYTES = 1 << 20  # of the configuration
_MOST_CHOSEN = 1 << 24  # numbers of a matrix that takes some of the inputs
_STATICS = "embedding_net.statics_embedding.net"
_DYNAMICS = "embedding_net.dynamics_embeddings.0.net"
_DYNAMICS_BEFORE = "embedding_net.dynamics_embedding.net"  # in older versions
_PARTS = re.compile(r"(lstm|head|embedding_net)\.")
_LINE = re.compile(r"( {2})?([\w-]+):(?: +(.*))?")
_UNKNOWN = ("nan_handling_method", "autoregressive_inputs", "nan_handling_pos_encoding_size")


def offered(folder: str | None, state: State) -> Callable[[], Offer] | None:
    """Return what makes the model, if names are neuralhydrology's and its configuration is there.

    Parameters
    ----------
    folder : str or None
        Where the file is.
    state : State
    """
    if folder is None or "lstm.weight_ih_l0" not in state:
        return None
    if not all(_PARTS.match(name) for name in state):
        return None
    path = os.path.join(folder, _CONFIG)
    if not os.path.isfile(path) or os.path.getsize(path) > _MOST_BYTES:
        return None
    with open(path, "rb") as file:
        config = _read(file.read(_MOST_BYTES).decode("utf-8", "replace"))
    kind = _said(config, "model").lower()  # neuralhydrology takes any letters
    return partial(_made, config, state) if kind == "cudalstm" else None


def _read(text: str) -> dict[str, Any]:
    """Return the names and words of a configuration, and those one level inside.

    Of YAML this is what is needed. Lists count as "[]", whatever stands in them.
    """
    found: dict[str, Any] = {}
    inside = ""
    for line in text.splitlines():
        match = _LINE.fullmatch(line.split(" #")[0].rstrip())
        if match is None:
            if inside and line.lstrip().startswith("- ") and not found[inside]:
                found[inside] = "[]"
            continue
        indented, name, value = match[1], match[2], (match[3] or "").strip("'\"")
        if not indented:
            found[name] = value
            inside = "" if value else name
        elif inside:
            if not isinstance(found[inside], dict):
                found[inside] = {}
            found[inside][name] = value
    return found


def _said(config: Mapping[str, Any], name: str) -> str:
    """Return a word of the configuration, "" for nothing, however that is written."""
    value = config.get(name, "")
    if isinstance(value, dict):
        return "{}"
    return "" if value.lower() in ("", "null", "~", "false", "0", "[]") else str(value)


def _made(config: Mapping[str, Any], state: State) -> Offer:
    """Return the embeddings, the LSTM and the head of a cudalstm."""
    maker = Maker("neuralhydrology", state)
    for name in _UNKNOWN:
        if _said(config, name) or (config.get(name) == "[]" and name == "autoregressive_inputs"):
            raise maker.lacks(f"{name} in its {_CONFIG}")
    if (head := _said(config, "head").lower()) != "regression":
        raise maker.lacks(f"the head {short(head)}; fastlstm has regression's")
    lstm = maker.lstm("lstm", 1, 0.0, batch_first=None)
    children, arrays = _embedded(maker, config, lstm["input_size"])
    children["lstm"] = lstm
    children["head"] = maker.linear("head.net.0")
    if (activation := _said(config, "output_activation").lower()) == "relu":
        children["activation"] = {"layer": "ReLU"}
    elif activation == "softplus":
        raise maker.lacks("the activation 'softplus' behind its head")
    own = ("lstm.", "head.net.0.")
    arrays |= {name: array for name, array in state.items() if name.startswith(own)}
    arrays = {name.replace("head.net.0.", "head."): array for name, array in arrays.items()}
    return Offer(maker.offer(children).description, arrays, "")


def _embedded(
    maker: Maker, config: Mapping[str, Any], size: int
) -> tuple[dict[str, Description], dict[str, Array]]:
    """Return what stands before the LSTM, which takes so many features: nothing, or networks."""
    networks: dict[str, Description | None] = {}
    is_old = f"{_DYNAMICS_BEFORE}.0.weight" in maker.state
    prefixes = {"dynamics": _DYNAMICS_BEFORE if is_old else _DYNAMICS, "statics": _STATICS}
    for kind, prefix in prefixes.items():
        networks[kind] = None
        if f"{prefix}.0.weight" in maker.state:
            told = config.get(f"{kind}_embedding")
            if not isinstance(told, dict):
                raise maker.lacks(f"a {kind}_embedding that its {_CONFIG} does not tell")
            activation = maker.activation(told.get("activation") or "tanh")
            networks[kind] = maker.network(prefix, activation)
    if not any(networks.values()):
        return {}, {}
    gives = {kind: _last(n)["out_features"] if n else 0 for kind, n in networks.items()}
    plain = size - sum(gives.values())  # of what goes to the LSTM as it is
    if plain < 0 or (plain and all(networks.values())):
        raise maker.lacks("embeddings of other sizes than its LSTM takes")
    takes = {kind: _first(n)["in_features"] if n else plain for kind, n in networks.items()}
    total = sum(takes.values())
    arrays: dict[str, Array] = {}
    branches: dict[str, Description] = {}
    start = 0
    for kind, prefix in prefixes.items():
        network, columns = networks[kind], slice(start, start + takes[kind])
        start += takes[kind]
        if network is not None:
            place = f"embedding.{kind}." if takes[kind] < total else "embedding."
            for name, array in maker.state.items():
                if name.startswith(f"{prefix}."):
                    arrays[place + name.removeprefix(f"{prefix}.")] = array
            first = arrays[f"{place}0.weight"]
            if len(first) * total > _MOST_CHOSEN:
                raise maker.lacks(f"{total} inputs of its embeddings, which are too many")
            wide = np.zeros((len(first), total), first.dtype)  # the others' columns are zeros
            wide[:, columns] = first
            arrays[f"{place}0.weight"] = wide
            _first(network)["in_features"] = total
            branches[kind] = network
        elif plain:
            if plain * total > _MOST_CHOSEN:
                raise maker.lacks(f"{total} inputs beside its embeddings, which are too many")
            chosen = np.zeros((plain, total), np.float32)
            chosen[:, columns] = np.eye(plain)
            arrays[f"embedding.{kind}.weight"] = chosen
            sizes = {"in_features": total, "out_features": plain, "bias": False}
            branches[kind] = {"layer": "Linear", **sizes}
    if len(branches) == 1:
        return {"embedding": next(iter(branches.values()))}, arrays
    return {"embedding": {"layer": "Concat", "children": branches}}, arrays


def _first(network: Description) -> Description:
    first: Description = next(iter(network["children"].values()))
    return first


def _last(network: Description) -> Description:
    last: Description = list(network["children"].values())[-1]
    return last
