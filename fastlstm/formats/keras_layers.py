"""Keras's layers as a file describes them, their weights, and those that are layers here too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import quoted, short
from ..graphs import keras_functions as functions
from ..layers.parameters import undrawn
from . import structure

if TYPE_CHECKING:
    from ..arrays import Array
    from ..engines import EngineChoice
    from .budget import Budget
    from .structure import Description

NETWORKS = ("Sequential", "Functional", "Model")
_WRAPPERS = {"TimeDistributed": "layer", "Bidirectional": "layer", "RNN": "cell"}
# By which names what is inside a wrapper stands in groups of weights.
WRAPPED = {
    "TimeDistributed": ("layer",),
    "Bidirectional": ("forward_layer", "backward_layer"),
    "RNN": ("cell",),
}
# How the modules of Keras's own classes begin; "" is that of files which do not tell modules.
_MODULES = ("", "keras", "tf_keras", "tensorflow.keras", "tensorflow.python.keras")


class KerasLayer:
    """A layer as a file describes it.

    ``kind`` is its class; ``version`` is that of Keras, 2 or 3. ``inside`` has what a wrapper wraps
    and the layers of a network, and ``calls`` says on what a layer of a network is called, as the
    file has it. ``weights`` are its own, in Keras's order; None until they are read.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        config: Mapping[str, Any],
        version: int,
        inside: list[KerasLayer] | None = None,
        weights: list[Array] | None = None,
    ) -> None:
        self.kind, self.name, self.config, self.version = kind, name, config, version
        self.inside = [] if inside is None else inside
        self.calls: Any = None
        self.weights = weights

    def __str__(self) -> str:
        return f"layer {short(self.name)} ({self.kind[:100]})"

    # ---- what stands in its config; a value of another type is refused ----

    def _get(self, option: str, default: Any, kinds: tuple[type, ...], words: str) -> Any:
        value = self.config.get(option, default)
        if isinstance(value, bool) and bool not in kinds or not isinstance(value, kinds):
            raise ValueError(f"{self}: {option} must be {words}, got {short(value)}")
        return value

    def flag(self, option: str, default: bool = False) -> bool:
        """Return an option that is True or False."""
        return bool(self._get(option, default, (bool, type(None)), "true or false"))

    def number(self, option: str, default: float) -> float:
        """Return an option that is a finite number."""
        value = self._get(option, default, (int, float), "a number")
        if not -1e300 < value < 1e300:
            raise ValueError(f"{self}: {option} must be a finite number, got {short(value)}")
        return float(value)

    def count(self, option: str, least: int = 1, default: int | None = None) -> int:
        """Return an option that is an int, or a list of one, of at least `least`."""
        value = self.config.get(option, default)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            bound = f" of at least {least}" if least >= 0 else ""
            raise ValueError(f"{self}: {option} must be a whole number{bound}, got {short(value)}")
        return value

    def integer(self, option: str, default: int) -> int:
        """Return an option that is an int, or a list of one."""
        return self.count(option, -(1 << 31), default)

    def counts(self, option: str) -> list[int]:
        """Return an option that is a list of ints."""
        value = self.config.get(option)
        if not isinstance(value, list) or not all(type(n) is int for n in value):
            raise ValueError(f"{self}: {option} must be a list of numbers, got {short(value)}")
        return value

    def word(self, option: str, default: str, known: tuple[str, ...]) -> str:
        """Return an option that is one of these words."""
        value = self.config.get(option, default)
        if value not in known:
            raise ValueError(f"{self}: {option}={short(value)} is not known, as {quoted(known)} is")
        return str(value)

    def function(self, option: str, default: str) -> tuple[str, Mapping[str, Any]]:
        """Return the name and the parameters of an activation; a file has them in several forms."""
        value = self.config.get(option, default)
        if isinstance(value, dict):
            name, config = value.get("class_name"), value.get("config")
            if name == "function" and isinstance(config, str):
                registered = value.get("registered_name")
                value = registered if isinstance(registered, str) and ">" in registered else config
            elif isinstance(name, str) and isinstance(config, dict):
                return name, config
        if value is None:
            value = "linear"
        if not isinstance(value, str):
            raise ValueError(f"{self}: {option} must be the name of a function, got {short(value)}")
        return value, {}

    @property
    def slope(self) -> float:
        """The slope of a hard sigmoid, which is another one in each version of Keras."""
        return 0.2 if self.version == 2 else 1 / 6

    def precision(self) -> str:
        """Return the name of the layer's dtype or policy of dtypes."""
        value = self.config.get("dtype")
        if isinstance(value, dict) and isinstance(value.get("config"), dict):
            value = value["config"].get("name")
        return value if isinstance(value, str) else "float32"

    def only(self, option: str, *allowed: Any) -> None:
        """Refuse a layer that has another value of an option than these."""
        value = self.config.get(option, allowed[0])
        if value not in allowed:
            raise ValueError(f"{self}: {option}={short(value)} is not known here")

    def arrays(self, *shapes: tuple[int | None, ...]) -> list[Array]:
        """Return the weights, of these shapes; None stands for any size."""
        weights = self.weights
        if weights is None:
            raise ValueError(f"{self} has no weights in the file")
        if quantised := [array.dtype for array in weights if array.dtype.kind != "f"]:
            raise ValueError(f"{self} has a weight of {quantised[0]}: it is quantised")
        if len(weights) != len(shapes):
            raise ValueError(f"{self} has {len(weights)} arrays in the file, not {len(shapes)}")
        for array, shape in zip(weights, shapes, strict=True):
            fits = len(shape) == array.ndim and all(
                want in (None, got) for want, got in zip(shape, array.shape, strict=True)
            )
            if not fits:
                shown = ", ".join("?" if size is None else str(size) for size in shape)
                raise ValueError(f"{self} has a weight of shape {array.shape}, not ({shown})")
        return weights


# ---- reading the description ---------------------------------------------------------------------


def described(entry: Any, version: int, budget: Budget, level: int = 1) -> KerasLayer:
    """Return the layer that an entry of unknown origin describes, with all that is inside it."""
    budget.check("levels of modules", level)
    budget.spend("operators")
    if not isinstance(entry, dict):
        raise ValueError(f"its network is damaged: a layer must be an object, got {short(entry)}")
    kind, config = entry.get("class_name"), entry.get("config")
    if kind in NETWORKS and isinstance(config, list):  # as the first versions of Keras 2 had it
        config = {"name": str(entry.get("name", "sequential")), "layers": config}
    if not isinstance(kind, str) or not isinstance(config, dict):
        raise ValueError("its network is damaged: a layer must have a class_name and a config")
    module, registered = entry.get("module"), entry.get("registered_name")
    module = module if isinstance(module, str) else ""
    if isinstance(registered, str) and ">" in registered:
        kind = registered
    elif ".ops." in module or (
        # The .h5 files of Keras 3 have no modules, and operations have none of a layer's options.
        version > 2 and not module and kind in functions.OPERATIONS and "trainable" not in config
    ):
        kind = f"ops.{kind}"
    elif not any(module == own or module.startswith(f"{own}.") for own in _MODULES):
        kind = f"{module}.{kind}"
    name = config.get("name", entry.get("name", kind))
    if not isinstance(name, str):
        raise ValueError(f"its network is damaged: a layer is called {short(name)}")
    layer = KerasLayer(kind, name.replace(".", "_"), config, version)
    if kind in NETWORKS:
        inside = config.get("layers")
        if not isinstance(inside, list):
            raise ValueError(f"its network is damaged: {layer} has no list of layers")
        names = set()
        for one in inside:
            child = described(one, version, budget, level + 1)
            child.calls = one.get("inbound_nodes")
            layer.inside.append(child)
            if child.name in names:
                raise ValueError(f"several layers of {layer} are called {short(child.name)}")
            names.add(child.name)
    elif kind in _WRAPPERS:
        layer.inside.append(described(config.get(_WRAPPERS[kind]), version, budget, level + 1))
        if kind == "Bidirectional":
            layer.inside.append(_backward(layer, version, budget, level))
    return layer


def _backward(layer: KerasLayer, version: int, budget: Budget, level: int) -> KerasLayer:
    """Return the backward layer of a Bidirectional, which has that of the forward one if none."""
    forward = layer.inside[0]
    if layer.config.get("backward_layer") is not None:
        return described(layer.config["backward_layer"], version, budget, level + 1)
    config = {**forward.config, "go_backwards": not forward.config.get("go_backwards")}
    return KerasLayer(forward.kind, f"backward_{forward.name}", config, version)


def weight_count(layer: KerasLayer) -> tuple[int, int]:
    """Return how many weights of its own a layer has: those that training changes, and others."""
    kind = layer.kind
    if kind in ("LSTM", "LSTMCell"):
        return 2 + layer.flag("use_bias", True), 0
    if kind in ("Dense", "Conv1D"):
        return 1 + layer.flag("use_bias", True), 0
    if kind in ("BatchNormalization", "LayerNormalization"):
        affine = layer.flag("scale", True) + layer.flag("center", True)
        return affine, 2 * (kind == "BatchNormalization")
    if kind == "Normalization":
        return 0, 3 * (layer.config.get("mean") is None)
    return {"CuDNNLSTM": 3, "Embedding": 1, "PReLU": 1}.get(kind, 0), 0


# ---- layers that fastlstm has -------------------------------------------------------------------


class Own(NamedTuple):
    """A layer of fastlstm: its structure, and its arrays by torch's names."""

    description: Description
    arrays: Mapping[str, Array]

    def made(self, dtype: Any, engine: EngineChoice) -> Any:
        """Return the layer, in evaluation mode."""
        with undrawn():
            layer = structure.build(self.description, state=self.arrays, dtype=dtype, engine=engine)
        layer.load_state_dict({n: a.astype(dtype, copy=False) for n, a in self.arrays.items()})
        return layer.eval()


_LSTMS = ("LSTM", "CuDNNLSTM")


def own_layers(layer: KerasLayer) -> dict[str, Own]:
    """Return the layers of fastlstm that compute a layer, by what stands behind its name.

    Raises
    ------
    ValueError
        If an option or the weights of it are not such as fastlstm has.
    """
    kind = layer.kind
    if kind in _LSTMS:
        return {"": _lstm(layer)}
    if kind == "RNN" and layer.inside[0].kind == "LSTMCell":
        return {"": _lstm(_with_cell(layer))}
    if kind == "Bidirectional" and {part.kind for part in layer.inside} <= set(_LSTMS):
        return _bidirectional(layer)
    if kind == "TimeDistributed":
        return own_layers(layer.inside[0])
    if kind == "Dense":
        kernel, *bias = layer.arrays(
            (None, layer.count("units")), *[(layer.count("units"),)] * layer.flag("use_bias", True)
        )
        sizes = {"in_features": len(kernel), "out_features": kernel.shape[1], "bias": bool(bias)}
        arrays = {"weight": kernel.T} | ({"bias": bias[0]} if bias else {})
        return {"": Own({"layer": "Linear", **sizes, "dtype": _dtype(kernel)}, arrays)}
    if kind == "Embedding":
        (table,) = layer.arrays((layer.count("input_dim"), layer.count("output_dim")))
        sizes = {"num_embeddings": len(table), "embedding_dim": table.shape[1]}
        return {"": Own({"layer": "Embedding", **sizes, "dtype": _dtype(table)}, {"weight": table})}
    return {}


def _dtype(array: Array) -> str:
    return "float64" if array.dtype == np.float64 else "float32"


def _with_cell(layer: KerasLayer) -> KerasLayer:
    """Return an RNN of an LSTMCell as the LSTM that it is."""
    cell = layer.inside[0]
    return KerasLayer(
        "LSTM", layer.name, {**cell.config, **layer.config}, layer.version, weights=cell.weights
    )


def _lstm(layer: KerasLayer) -> Own:
    """Return an LSTM of one direction."""
    units, has_bias = layer.count("units"), layer.flag("use_bias", True)
    if layer.kind == "CuDNNLSTM" or (
        has_bias
        and layer.weights
        and len(layer.weights) == 3
        and layer.weights[2].size == 8 * units
    ):
        kernel, recurrent, bias = _from_cudnn(
            *layer.arrays((None, 4 * units), (units, 4 * units), (8 * units,))
        )
        biases = [bias]
    else:
        shapes = [(None, 4 * units), (units, 4 * units), *[(4 * units,)] * has_bias]
        kernel, recurrent, *biases = layer.arrays(*shapes)
    description = {
        "layer": "LSTM",
        "input_size": len(kernel),
        "hidden_size": units,
        "bias": has_bias,
        "batch_first": not layer.flag("time_major"),
        "reverse": layer.flag("go_backwards"),
        "dtype": _dtype(kernel),
        **_cell_options(layer),
    }
    arrays = {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent.T}
    if has_bias:
        arrays |= {"bias_ih_l0": biases[0], "bias_hh_l0": np.zeros_like(biases[0])}
    return Own(description, arrays)


def _from_cudnn(kernel: Array, recurrent: Array, biases: Array) -> tuple[Array, Array, Array]:
    """Return the weights of cuDNN's layer as those of an LSTM.

    cuDNN has the matrix of each gate by rows of the gate's units, and two biases, which are added.
    """
    size, units = kernel.shape[0], kernel.shape[1] // 4
    gates = [part.reshape(units, size).T for part in np.split(kernel, 4, axis=1)]
    between = [part.T for part in np.split(recurrent, 4, axis=1)]
    return np.hstack(gates), np.hstack(between), biases[: 4 * units] + biases[4 * units :]


def _cell_options(layer: KerasLayer) -> Description:
    """Return the arguments of an LSTM for the functions and the dropouts of a layer."""
    if layer.kind == "CuDNNLSTM":
        return {}
    state = _function_of_cell(layer, "activation", "tanh")
    recurrent = _function_of_cell(layer, "recurrent_activation", "sigmoid")
    options = {"cell_activation": state, "output_activation": state, "gate_activation": recurrent}
    for own, theirs in (("input_dropout", "dropout"), ("recurrent_dropout", "recurrent_dropout")):
        if rate := layer.number(theirs, 0.0):
            options[own] = rate
    return options


def _function_of_cell(layer: KerasLayer, option: str, default: str) -> Any:
    """Return an activation of a cell as an LSTM takes it."""
    name, parameters = layer.function(option, default)
    known: dict[str, Any] = {
        "tanh": "tanh",
        "sigmoid": "sigmoid",
        "relu": "relu",
        "linear": "identity",
        "softsign": "softsign",
        "softplus": "softplus",
        "elu": "elu",
        "leaky_relu": ["leaky_relu", 0.2],
        "hard_sigmoid": ["hard_sigmoid", layer.slope, 0.5],
    }
    if name not in known or parameters:
        raise ValueError(f"{layer}: {option}={short(name)} is none that an LSTM has here")
    return known[name]


def _bidirectional(layer: KerasLayer) -> dict[str, Own]:
    """Return one LSTM of both directions, or two if they differ in more than their direction."""
    ways = [_lstm(part) for part in layer.inside]
    ahead, back = ({**way.description, "reverse": False} for way in ways)
    if ahead == back and not ways[0].description["reverse"]:
        reverse = {f"{name}_reverse": array for name, array in ways[1].arrays.items()}
        return {"": Own({**ahead, "bidirectional": True}, {**ways[0].arrays, **reverse})}
    first, second = (f"/{part.name}" for part in layer.inside)
    return {first: ways[0], second if second != first else f"{second}_2": ways[1]}


def walked(network: KerasLayer, path: str = "") -> Iterator[tuple[str, KerasLayer]]:
    """Yield each layer of a network, and of networks in it, with its name."""
    for layer in network.inside:
        if layer.kind in NETWORKS:
            yield from walked(layer, f"{path}{layer.name}/")
        else:
            yield f"{path}{layer.name}", layer
