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
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..checks import quoted, short
from . import archive, hdf5, keras_graph, keras_layers
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
    ImportError
        If the h5py library is missing.
    """
    choice.refuse_key()
    if source.members is None:
        with hdf5.opened(source.read(0, source.size), source.budget) as file:
            return _from_hdf5(file, source)
    config = _json(archive.read(source, source.members[_CONFIG]), source.budget)
    metadata = _json(archive.read(source, source.members[_METADATA]), source.budget)
    version = _version(metadata.get("keras_version") if isinstance(metadata, dict) else None)
    if _WEIGHTS not in source.members:
        raise ValueError(
            f"it has no {_WEIGHTS}, but {quoted(source.members)}: save it with weights in HDF5"
        )
    network = keras_layers.described(config, version, source.budget)
    data = archive.read(source, source.members[_WEIGHTS])
    with hdf5.opened(data, source.budget) as file:
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


def _content(network: KerasLayer, source: Source) -> Content:
    """Return the content of a file with a network whose layers have their weights."""
    if network.kind not in keras_layers.NETWORKS:
        raise ValueError(f"its model is {network}: a Sequential or Functional model is expected")
    state, recurrent = State(), {}
    for name, layer in keras_layers.walked(network):
        try:
            own = keras_layers.own_layers(layer)
        except ValueError as fault:
            state.refused[f"{name}.weight_ih_l0"] = f"cannot be taken: {fault}"
            continue
        for end, (description, arrays) in own.items():
            prefix = f"{name}{end}."
            state |= {f"{prefix}{local}": array for local, array in arrays.items()}
            if description["layer"] == "LSTM":
                recurrent[prefix] = description
    build = functools.partial(keras_graph.build, network, source.budget, source.size)
    return Content(state, None, build=build, recurrent=recurrent)


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
            if inside is not None and keras_layers.is_known(child):
                _fill_by_class(child, inside.group(name))
        return
    names = keras_layers.WRAPPED.get(layer.kind, ())
    for child, name in zip(layer.inside, names, strict=True):
        _fill_by_class(child, None if group is None else group.group(name))
    count = sum(keras_layers.weight_count(layer))
    path = "cell/vars" if layer.kind == "LSTM" else "vars"
    own = group.group(path) if group is not None and count else None
    if own is not None and own.has_array("0"):
        layer.weights = [own.array(str(n)) for n in range(count)]


def _snake_case(name: str) -> str:
    """Return the name of a class as Keras makes a group's name of it."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _fill_by_name(network: KerasLayer, weights: hdf5.Group) -> None:
    """Give the layers of a network their weights from groups that have their names."""
    for layer in network.inside:
        leaves = [leaf for leaf, _ in _leaves(layer, True)]
        if not all(map(keras_layers.is_known, leaves)):
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
