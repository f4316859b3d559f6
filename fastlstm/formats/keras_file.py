"""Keras files, read without Keras: .keras, .weights.h5, and the .h5 of Keras 2.

A .keras file is a zip file of a network in JSON and its weights in HDF5. In a .h5 file the network
is an attribute. A file of weights alone, .weights.h5 or Keras 2's, has no network: its layers are
told by the names and shapes of their arrays.

In Keras 3, and in .keras files of Keras 2, weights stand in groups that are named by the classes of
layers: ``layers/lstm_1/cell/vars/0``. In other files of Keras 2 each layer of the network has a
group with a list of its weights, in which those that training changes come first.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..checks import quoted, short
from . import archive, hdf5, keras_graph, keras_layers, keras_steps
from .format import ANY, Choice, Content
from .keras_layers import KerasLayer
from .source import Source, State

if TYPE_CHECKING:
    from ..arrays import Array
    from .budget import Budget

NAME = "Keras"
ORDERED = True

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
# The groups of the layers of a network: that of Keras 3, and one of late versions of Keras 2.
_LAYERS = ("layers", "_layer_checkpoint_dependencies")
_ALONE = (
    "weights alone do not tell the order of layers, nor the activations and the direction of LSTMs"
)
_UNTOLD = ("gate_activation", "cell_activation", "output_activation", "reverse")


def recognises(source: Source) -> bool:
    """Tell whether a file is a zip file of a network of Keras, or begins as an HDF5 file."""
    if source.members is not None:
        return {_CONFIG, _METADATA} <= source.members.keys()
    return source.head.startswith(hdf5.MAGIC)


def read(source: Source, choice: Choice = ANY) -> Content:
    """Read a file.

    Returns
    -------
    Content
        If the file has a network, ``build`` makes it; its state has the weights of those layers
        that fastlstm has, under torch's names.

    Raises
    ------
    ValueError
        If the file is damaged, or is no file of Keras.
    """
    choice.refuse_key()
    if source.members is None:
        return _from_hdf5(hdf5.File(source.read(0, source.size), source.budget).root, source)
    config = _json(archive.read(source, source.members[_CONFIG]), source.budget)
    metadata = _json(archive.read(source, source.members[_METADATA]), source.budget)
    version = _version(metadata.get("keras_version") if isinstance(metadata, dict) else None)
    if _WEIGHTS not in source.members:
        raise ValueError(
            f"it has no {_WEIGHTS}, but {quoted(source.members)}: save it with weights in HDF5"
        )
    network = keras_layers.described(config, version, source.budget)
    file = hdf5.File(archive.read(source, source.members[_WEIGHTS]), source.budget).root
    if network.kind not in keras_layers.NETWORKS:  # what it does stands in its code alone
        untold = f"its model is of a class of its own, {short(network.kind)}; {_ALONE}"
        return _of_weights(_layers_by_class(file, source.budget), untold)
    _fill_by_class(network, file)
    return _content(network, source)


def _from_hdf5(file: hdf5.Group, source: Source) -> Content:
    """Return the content of an HDF5 file: with a network or without, of Keras 2 or 3."""
    text = file.text("model_config")
    if text is not None:
        version = _version(file.text("keras_version"))
        network = keras_layers.described(_json(text, source.budget), version, source.budget)
        weights = file.group("model_weights")
        if weights is None:
            raise ValueError("it has a network, but no weights")
        _fill_by_name(network, weights)
        return _content(network, source)
    if (names := file.texts("layer_names")) is not None:
        return _of_weights(_layers_by_name(file, names), _ALONE)
    if any(file.group(name) is not None for name in _LAYERS):
        return _of_weights(_layers_by_class(file, source.budget), _ALONE)
    raise ValueError(f"an HDF5 file, but none that Keras wrote: it has {quoted(file.names())}")


def _json(text: str | bytes | bytearray, budget: Budget) -> Any:
    budget.check("bytes of a network's JSON", len(text))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"its network is damaged JSON: {fault}") from fault


def _version(text: Any) -> int:
    """Return which Keras wrote a file: 2 or 3."""
    if not isinstance(text, str) or not (found := re.match(r"([23])\.", text)):
        raise ValueError(f"it is of Keras {short(text)}; files of Keras 2 and 3 are read")
    return int(found[1])


def _content(network: KerasLayer, source: Source | None) -> Content:
    """Return the content of a file with a network whose layers have their weights."""
    if network.kind not in keras_layers.NETWORKS:
        raise ValueError(f"its model is {network}: a Sequential or Functional model is expected")
    state, recurrent = State(), {}
    for name, layer in keras_layers.walked(network):
        try:
            own = keras_layers.own_layers(layer)
        except ValueError as fault:
            local = "weight" if layer.kind in ("Dense", "Embedding") else "weight_ih_l0"
            state.refused[f"{name}.{local}"] = f"cannot be taken: {fault}"
            continue
        for end, (description, arrays) in own.items():
            prefix = f"{name}{end}."
            state |= {f"{prefix}{local}": array for local, array in arrays.items()}
            if description["layer"] == "LSTM":
                recurrent[prefix] = description
    build = None
    if source is not None:
        build = functools.partial(keras_graph.build, network, source.budget, source.size)
    return Content(state, None, build=build, recurrent=recurrent)


def _of_weights(layers: Iterable[KerasLayer], untold: str) -> Content:
    """Return the content of a file of weights alone, from what its layers seem to be."""
    network = KerasLayer("Sequential", "", {}, 3, inside=[*layers])
    content = _content(network, None)
    told = {
        prefix: {name: value for name, value in given.items() if name not in _UNTOLD}
        for prefix, given in content.recurrent.items()
    }
    content.state.batch_first |= dict.fromkeys(told, True)
    return content._replace(recurrent=told, build=None, untold=untold)


# ---- weights ------------------------------------------------------------------------------------


def _fill_by_class(layer: KerasLayer, group: hdf5.Group | None) -> None:
    """Give layers their weights from groups that have the names of their classes."""
    if layer.kind in keras_layers.NETWORKS:
        found = [group.group(name) for name in _LAYERS] if group is not None else []
        inside = next((one for one in found if one is not None), None)
        taken: dict[str, int] = {}
        for child in layer.inside:
            if child.kind.startswith("ops."):
                continue  # an operation, which is no layer and has no group
            name = _snake_case(child.kind)
            taken[name] = taken.get(name, -1) + 1
            name = f"{name}_{taken[name]}" if taken[name] else name
            if inside is not None and keras_steps.is_known(child):
                _fill_by_class(child, inside.group(name))
        return
    names = keras_layers.WRAPPED.get(layer.kind, ())
    for child, name in zip(layer.inside, names, strict=True):
        _fill_by_class(child, None if group is None else group.group(name))
    count = sum(keras_layers.weight_count(layer))
    path = "cell/vars" if layer.kind == "LSTM" else "vars"
    own = group.group(path) if group is not None and count else None
    if own is not None:
        stored = [str(n) for n in range(count + 1) if own.has_array(str(n))]
        layer.weights = [own.array(one) for one in stored] or None


def _snake_case(name: str) -> str:
    """Return the name of a class as Keras makes a group's name of it."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _fill_by_name(network: KerasLayer, weights: hdf5.Group) -> None:
    """Give the layers of a network their weights from groups that have their names."""
    for layer in network.inside:
        leaves = [leaf for leaf, _ in _leaves(layer, True)]
        if not all(map(keras_steps.is_known, leaves)):
            continue
        group = weights.group(layer.config["name"]) if "name" in layer.config else None
        names = group.texts("weight_names") if group is not None else None
        if not names or group is None:
            continue
        arrays = [group.array(name) for name in names]
        _share_out(layer, arrays)


def _share_out(layer: KerasLayer, arrays: list[Array]) -> None:
    """Give weights to a layer and what is inside it.

    Those that training changes come first, of all layers; layers that are frozen have none such.
    """
    leaves = [
        (leaf, *keras_layers.weight_count(leaf), *(free,)) for leaf, free in _leaves(layer, True)
    ]
    if sum(first + rest for _, first, rest, _ in leaves) != len(arrays):
        return
    waiting = iter(arrays)
    for leaf, first, _, is_free in leaves:
        leaf.weights = [next(waiting) for _ in range(first if is_free else 0)]
    for leaf, first, rest, is_free in leaves:
        assert leaf.weights is not None
        leaf.weights += [next(waiting) for _ in range(rest if is_free else first + rest)]


def _leaves(layer: KerasLayer, is_free: bool) -> Iterator[tuple[KerasLayer, bool]]:
    """Yield the layers that have weights of their own, and whether training changes them."""
    is_free = is_free and layer.config.get("trainable", True) is not False
    if not layer.inside:
        yield layer, is_free
    for child in layer.inside:
        yield from _leaves(child, is_free)


# ---- weights without a network -----------------------------------------------------------------


def _layers_by_class(group: hdf5.Group, budget: Budget, level: int = 1) -> Iterator[KerasLayer]:
    """Yield the layers that groups of weights seem to be.

    Groups have the names of classes or, in models that are classes of their own, of attributes: so
    LSTMs are known by their shapes.
    """
    budget.check("levels of modules", level)
    for name in group.names():
        inside = group.group(name)
        if inside is None:
            continue
        if layer := _layer_of_group(inside, name):
            yield layer
        elif children := [*_layers_by_class(inside, budget, level + 1)]:
            if name in _LAYERS:
                yield from children
            else:
                yield KerasLayer("Sequential", _own_name(inside, name), {}, 3, inside=children)


def _layer_of_group(group: hdf5.Group, name: str) -> KerasLayer | None:
    """Return the layer that a group of weights seems to be; None if it is none that is known."""
    own, kind = _own_name(group, name), re.sub(r"_\d+$", "", name)
    ahead, back = (group.group(f"{way}_layer/cell/vars") for way in ("forward", "backward"))
    if ahead is not None and back is not None:
        return _in_both_ways(own, _guessed("LSTM", ahead), _guessed("LSTM", back))
    if (cell := group.group("cell/vars")) is not None:
        return _guessed("LSTM", cell, own)
    place = {"dense": "vars", "embedding": "vars", "time_distributed": "layer/vars"}.get(kind)
    if place is None or (arrays := group.group(place)) is None:
        return None
    return _guessed("Embedding" if kind == "embedding" else "Dense", arrays, own)


def _own_name(group: hdf5.Group, name: str) -> str:
    """Return the name that a layer has itself, which newer files tell."""
    own = group.group("vars")
    return (None if own is None else own.text("name")) or name


def _guessed(kind: str, group: hdf5.Group, name: str = "") -> KerasLayer | None:
    """Return a layer of this kind with the weights of a group; None if they do not fit."""
    arrays = [group.array(str(n)) for n in range(3) if group.has_array(str(n))]
    return _with_weights(kind, name, arrays)


def _with_weights(kind: str, name: str, arrays: list[Array]) -> KerasLayer | None:
    """Return a layer of this kind with these weights; None if they do not fit."""
    if not arrays or arrays[0].ndim != 2:
        return None
    rows, columns = arrays[0].shape
    if kind == "LSTM":
        fits = len(arrays) in (2, 3) and arrays[1].shape == (columns // 4, columns)
        config = {"units": columns // 4, "use_bias": len(arrays) == 3}
    elif kind == "Dense":
        fits = len(arrays) == 1 or [array.shape for array in arrays[1:]] == [(columns,)]
        config = {"units": columns, "use_bias": len(arrays) == 2}
    else:
        fits, config = len(arrays) == 1, {"input_dim": rows, "output_dim": columns}
    return KerasLayer(kind, name, config, 3, weights=arrays) if fits else None


def _in_both_ways(
    name: str, ahead: KerasLayer | None, back: KerasLayer | None
) -> KerasLayer | None:
    if ahead is None or back is None:
        return None
    back.config = {**back.config, "go_backwards": True}
    return KerasLayer("Bidirectional", name, {}, 3, inside=[ahead, back])


def _layers_by_name(file: hdf5.Group, names: list[str]) -> Iterator[KerasLayer]:
    """Yield the layers that the lists of weights of Keras 2 seem to be, by the weights' names.

    Those of a layer are called ``lstm/lstm_cell/kernel:0``; those of a network's layers stand in
    one group.
    """
    for name in names:
        group = file.group(name)
        found: dict[str, dict[str, Array]] = {}  # weights by the names of their layers
        for path in (group.texts("weight_names") or []) if group is not None else []:
            assert group is not None
            owner, _, local = path.removesuffix(":0").rpartition("/")
            found.setdefault(owner, {})[local] = group.array(path)
        layers: dict[str, list[KerasLayer]] = {}
        for owner, arrays in found.items():
            kind = next((kind for kind, own in _OWN_WEIGHTS.items() if own[0] in arrays), "")
            if not kind or arrays.keys() - set(_OWN_WEIGHTS[kind]):
                continue
            parts = owner.split("/")
            if kind == "LSTM" and len(parts) > 1 and "cell" in parts[-1]:
                parts.pop()
            if parts[-1].startswith(("forward_", "backward_")) and len(parts) > 1:
                parts.pop()
            own = "/".join(parts).removeprefix(f"{name}/")
            weights = [arrays[local] for local in _ORDER if local in arrays]
            if layer := _with_weights(kind, name, weights):
                layers.setdefault(own, []).append(layer)
        for own, ways in layers.items():
            one = ways[0] if len(ways) == 1 else _in_both_ways(name, *ways[:2])
            if one is not None:
                one.name = name if len(layers) == 1 else f"{name}/{own}"
                yield one


_ORDER = ("embeddings", "kernel", "recurrent_kernel", "bias")
# The weights of layers by their names in Keras 2; the first one tells the kind.
_OWN_WEIGHTS = {
    "LSTM": ("recurrent_kernel", "kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "Embedding": ("embeddings",),
}
