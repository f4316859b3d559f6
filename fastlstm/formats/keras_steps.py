"""What computes Keras's layers, by their classes.

A class, function or module that a file names is only ever looked up in the tables of this module.
What is not in them is an error that names it, such as a user's own class, or a Lambda, whose code
stands in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import short
from ..graphs import elementwise
from ..graphs import keras_functions as functions
from ..layers import Dropout, Last, Layer, ReLU, Sigmoid, Softmax, Tanh
from .keras_layers import NETWORKS, KerasLayer, own_layers

if TYPE_CHECKING:
    from ..arrays import Array
    from ..engines import EngineChoice
    from ..graphs.limits import Limits
    from ..graphs.plan import Compute

# ---- activations --------------------------------------------------------------------------------

_FUNCTIONS: dict[str, Compute] = {
    "linear": functions.linear,
    "relu": functions.relu,
    "relu6": functions.relu6,
    "leaky_relu": partial(functions.relu, slope=0.2),
    "sigmoid": elementwise.sigmoid,
    "tanh": np.tanh,
    "softmax": functions.softmax,
    "log_softmax": functions.log_softmax,
    "elu": partial(elementwise.elu, 1.0),
    "celu": partial(elementwise.celu, 1.0),
    "selu": partial(elementwise.selu, *elementwise.SELU),
    "softplus": elementwise.softplus,
    "softsign": elementwise.softsign,
    "silu": functions.silu,
    "swish": functions.silu,
    "gelu": elementwise.gelu,
    "exponential": functions.exponential,
    "hard_silu": functions.hard_silu,
    "hard_swish": functions.hard_silu,
    "hard_tanh": functions.hard_tanh,
    "log_sigmoid": functions.log_sigmoid,
    "mish": functions.mish,
    "tanh_shrink": functions.tanh_shrink,
    "soft_shrink": functions.soft_shrink,
    "hard_shrink": functions.hard_shrink,
    "squareplus": functions.squareplus,
    "glu": functions.glu,
    "sparse_plus": functions.sparse_plus,
    "sparse_sigmoid": functions.sparse_sigmoid,
}
# Those of which fastlstm has layers.
_ACTIVATIONS: dict[str, type[Layer]] = {
    "relu": ReLU, "sigmoid": Sigmoid, "tanh": Tanh, "softmax": Softmax,
}  # fmt: skip


def _activation(layer: KerasLayer, option: str = "activation") -> tuple[str, Compute]:
    """Return the name of an activation, and what computes it."""
    name, parameters = layer.function(option, "linear")
    if name == "hard_sigmoid":
        return name, partial(functions.hard_sigmoid, slope=layer.slope)
    if name in _FUNCTIONS and not parameters:
        return name, _FUNCTIONS[name]
    if name in _LAYER_FUNCTIONS:
        other = KerasLayer(name, layer.name, parameters, layer.version)
        return name, _LAYER_FUNCTIONS[name](other)
    raise ValueError(f"{layer}: {option}={short(name)} is not known here")


def _relu(layer: KerasLayer) -> Compute:
    most = layer.config.get("max_value")
    return partial(
        functions.relu,
        slope=layer.number("negative_slope", 0.0),
        most=None if most is None else layer.number("max_value", 0.0),
        threshold=layer.number("threshold", 0.0),
    )


def _leaky_relu(layer: KerasLayer) -> Compute:
    name = "negative_slope" if "negative_slope" in layer.config else "alpha"
    return partial(functions.relu, slope=layer.number(name, 0.3))


def _elu(layer: KerasLayer) -> Compute:
    return partial(elementwise.elu, layer.number("alpha", 1.0))


def _thresholded_relu(layer: KerasLayer) -> Compute:
    return partial(functions.relu, threshold=layer.number("theta", 1.0))


# Layers that are activations with parameters of their own.
_LAYER_FUNCTIONS: dict[str, Callable[[KerasLayer], Compute]] = {
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "ELU": _elu,
    "ThresholdedReLU": _thresholded_relu,
}


# ---- what computes a layer ----------------------------------------------------------------------


class Step(NamedTuple):
    """What computes a layer.

    Parameters
    ----------
    compute : function or None
        Of the values of the layer's inputs; if `takes_mask`, of the first one, its mask or None,
        and the others. None if the layer gives its input as it is.
    layers : dict of str -> Layer
        The layers of fastlstm in it, by what stands behind the layer's name.
    chain : dict of str -> Layer, or None
        Layers of fastlstm that do the same one after the other; None if there are none.
    outputs : int
    takes_mask : bool
    mask : "stop", "pass" or function
        What becomes of the mask of the first input: it ends here, or is that of the first outputs,
        as many as `masked`. A function makes a new one of the values of all inputs and, if
        `merges`, of their masks.
    merges : bool
        Whether the layer takes a list of inputs.
    states : tuple of int
        The sizes of the states that go on from call to call, which are the last outputs.
    takes_indices : bool
        Whether the inputs are indices, and may be integers.
    options : dict, optional
        Of an operation, whose `compute` takes its arguments and these before its values.
    """

    compute: Compute | None
    layers: Mapping[str, Layer] = {}
    chain: Mapping[str, Layer] | None = None
    outputs: int = 1
    takes_mask: bool = False
    mask: str | Compute = "stop"
    masked: int = 1
    merges: bool = False
    states: tuple[int, ...] = ()
    takes_indices: bool = False
    options: Mapping[str, Any] | None = None


class Making(NamedTuple):
    """How a model is made.

    That is the precision and the engine of its layers, its limits, and what computes a network
    inside a layer.
    """

    dtype: np.dtype[Any]
    engine: EngineChoice
    limits: Limits
    network: Callable[[KerasLayer, Making], tuple[Compute, Mapping[str, Layer]]]

    def cast(self, array: Array) -> Array:
        """Return a weight in the model's precision."""
        return array.astype(self.dtype, copy=False)


def is_known(layer: KerasLayer) -> bool:
    """Tell whether a layer is one of those that are known here."""
    return layer.kind in _MAKERS or layer.kind in (*NETWORKS, "InputLayer", "LSTMCell")


def unknown(layer: KerasLayer) -> ValueError:
    """Return the error that a layer is none of those that are known here."""
    return ValueError(
        f"{layer} is not known here; the file's LSTMs are loaded alone by "
        "fastlstm.load_lstm(path, prefix=...)"
    )


Maker = Callable[[KerasLayer, Making], Step]


def step_of(layer: KerasLayer, making: Making) -> Step:
    """Return what computes a layer; raise ValueError if it is not known, or has not its weights."""
    if layer.kind not in _MAKERS:
        raise unknown(layer)
    return _MAKERS[layer.kind](layer, making)


def _made(layer: KerasLayer, making: Making) -> dict[str, Any]:
    return {end: own.made(making.dtype, making.engine) for end, own in own_layers(layer).items()}


def _lstm_step(layer: KerasLayer, making: Making) -> Step:
    layers = _made(layer, making)
    if not layers:
        raise ValueError(f"{layer}: {layer.inside[0]} inside it is not known here")
    first = layer if layer.kind != "Bidirectional" else layer.inside[0]
    sequences, states = first.flag("return_sequences"), first.flag("return_state")
    zero = first.flag("zero_output_for_mask")
    layer.only("unroll", True, False)
    outputs, chain = 1, None
    if layer.kind == "Bidirectional":
        mode = layer.config.get("merge_mode", "concat")
        if mode not in ("concat", "sum", "mul", "ave", None):
            raise ValueError(f"{layer}: merge_mode={short(mode)} is not known")
        for option in ("return_sequences", "return_state", "stateful"):
            if len({part.flag(option) for part in layer.inside}) > 1:
                raise ValueError(f"{layer}: its directions differ in {option}")
        if "" in layers:
            both: Compute = partial(functions.both_ways, layers[""], sequences)
        else:
            ways = [partial(functions.lstm, one, sequences, sequences) for one in layers.values()]
            both = partial(functions.one_way_each, ways[0], ways[1], sequences)
        compute: Compute = partial(functions.merged, mode, both)
        outputs = 1 + (mode is None)
        plain = "" in layers and mode == "concat"
    else:
        compute = partial(functions.lstm, layers[""], sequences, zero)
        plain = not layers[""].reverse or not sequences
    if first.flag("time_major"):
        if layer.kind == "Bidirectional":
            raise ValueError(f"{layer}: time_major inside it is not known here")
        compute, plain = partial(functions.time_major, compute, sequences), False
        for one in layers.values():
            one.batch_first = True
    sizes = tuple(one.hidden_size for one in layers.values() for _ in range(2))
    if "" in layers and layers[""].bidirectional:
        sizes *= 2
    if plain and not states:
        chain = dict(layers) if sequences else {**layers, "_last": Last()}
    given = outputs + len(sizes)
    stateful = first.flag("stateful")
    if not states and not stateful:
        compute, given = partial(_without_states, outputs, compute), outputs
    return Step(
        compute,
        layers,
        chain,
        outputs=given,
        takes_mask=True,
        mask="pass" if sequences else "stop",
        masked=outputs,
        states=sizes if stateful else (),
    )


def _without_states(outputs: int, compute: Compute, *values: Any) -> Any:
    results = compute(*values)
    return results[0] if outputs == 1 else results[:outputs]


def _dense_step(layer: KerasLayer, making: Making) -> Step:
    layers = _made(layer, making)
    compute, chain = _then_activated(layer, layers[""], layers)
    return Step(compute, layers, chain, mask="pass")


def _then_activated(
    layer: KerasLayer, first: Compute, layers: Mapping[str, Layer] | None
) -> tuple[Compute, Mapping[str, Layer] | None]:
    """Return what computes a layer with its activation, and the chain of layers that does so."""
    name, activation = _activation(layer)
    if name == "linear":
        return first, layers
    chain = None
    if name in _ACTIVATIONS and layers is not None:
        chain = {**layers, f"_{name}": _ACTIVATIONS[name]()}
    return partial(functions.activated, first, activation), chain


def _embedding_step(layer: KerasLayer, making: Making) -> Step:
    layers = _made(layer, making)
    compute = partial(functions.embedding, layers[""])
    if layer.flag("mask_zero"):
        mask: Compute | str = functions.mask_of_zeros
        return Step(compute, layers, mask=mask, takes_indices=True)
    return Step(compute, layers, layers, takes_indices=True)


def _dropout_step(layer: KerasLayer, making: Making) -> Step:
    return Step(None, chain={"": Dropout(layer.number("rate", 0.0)).eval()}, mask="pass")


def _nothing_step(layer: KerasLayer, making: Making) -> Step:
    return Step(None, chain={}, mask="pass")


def _activation_step(layer: KerasLayer, making: Making) -> Step:
    name, compute = _activation(layer)
    chain: dict[str, Layer] | None = None
    if name in _ACTIVATIONS or name == "linear":
        chain = {} if name == "linear" else {"": _ACTIVATIONS[name]()}
    return Step(compute, chain=chain, mask="pass")


def _function_step(layer: KerasLayer, making: Making) -> Step:
    compute = _LAYER_FUNCTIONS[layer.kind](layer)
    plain = layer.kind == "ReLU" and compute == _relu(KerasLayer("ReLU", "", {}, layer.version))
    return Step(compute, chain={"": ReLU()} if plain else None, mask="pass")


# ---- layers of one input -------------------------------------------------------------------------


def _plain(compute: Compute, mask: str | Compute = "stop") -> Step:
    return Step(compute, mask=mask)


def _masking_step(layer: KerasLayer, making: Making) -> Step:
    value = layer.number("mask_value", 0.0)
    return _plain(partial(functions.masking, value), partial(functions.mask_of_value, value))


def _softmax_step(layer: KerasLayer, making: Making) -> Step:
    axes = layer.config.get("axis", -1)
    axis: Any = tuple(layer.counts("axis")) if isinstance(axes, list) else layer.integer("axis", -1)
    if isinstance(axis, tuple) and len(axis) == 1:
        (axis,) = axis
    chain = {"": Softmax(axis)} if axis == -1 else None
    compute = partial(functions.masked_softmax, axis)
    return Step(compute, chain=chain, takes_mask=True, mask="pass")


def _prelu_step(layer: KerasLayer, making: Making) -> Step:
    weights = layer.weights
    if weights is None or len(weights) != 1:
        raise ValueError(f"{layer} has no weight in the file")
    (alpha,) = layer.arrays((None,) * weights[0].ndim)
    return _plain(partial(functions.prelu, making.cast(alpha)), "pass")


def _flatten_step(layer: KerasLayer, making: Making) -> Step:
    layer.only("data_format", "channels_last", None)
    return _plain(functions.flatten)


def _reshape_step(layer: KerasLayer, making: Making) -> Step:
    shape = layer.config.get("target_shape")
    if isinstance(shape, list):
        shape = [-1 if size is None else size for size in shape]
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise ValueError(f"{layer}: target_shape={short(shape)} is no shape")
    return _plain(partial(functions.reshape, shape))


def _permute_step(layer: KerasLayer, making: Making) -> Step:
    axes = layer.counts("dims")
    if sorted(axes) != list(range(1, len(axes) + 1)):
        raise ValueError(f"{layer}: dims={short(axes)} is no order of axes")
    return _plain(partial(functions.permute, axes))


def _repeat_vector_step(layer: KerasLayer, making: Making) -> Step:
    return _plain(partial(functions.repeat_vector, making.limits, layer.count("n")))


def _up_sampling_step(layer: KerasLayer, making: Making) -> Step:
    return _plain(partial(functions.up_sampling, making.limits, layer.count("size")))


def _two_ends(layer: KerasLayer, option: str) -> list[int]:
    """Return an option that is one number for both ends of a sequence, or a list of two."""
    value = layer.config.get(option)
    both = [value, value] if type(value) is int else value
    if (
        not isinstance(both, list)
        or len(both) != 2
        or not all(type(size) is int and size >= 0 for size in both)
    ):
        raise ValueError(f"{layer}: {option}={short(value)} is not known here")
    return both


def _padding_step(layer: KerasLayer, making: Making) -> Step:
    layer.only("data_format", "channels_last", None)
    before, behind = _two_ends(layer, "padding")
    return _plain(partial(functions.zero_padding, making.limits, before, behind))


def _cropping_step(layer: KerasLayer, making: Making) -> Step:
    before, behind = _two_ends(layer, "cropping")
    return _plain(partial(functions.cropping, before, behind))


def _rescaling_step(layer: KerasLayer, making: Making) -> Step:
    scale, offset = (np.array([layer.number(n, d)]) for n, d in (("scale", 1.0), ("offset", 0.0)))
    compute = partial(functions.scale_and_shift, -1, making.cast(scale), making.cast(offset))
    return _plain(compute, "pass" if layer.version > 2 else "stop")


def _normalization_step(layer: KerasLayer, making: Making) -> Step:
    """Return (x - mean) / deviation along the last axis, of the weights or of the config."""
    if layer.flag("invert") or layer.config.get("axis", -1) not in (-1, [-1], None, []):
        raise ValueError(f"{layer}: invert, and axes but the last one, are not known here")
    given = [layer.config.get(name) for name in ("mean", "variance")]
    if given[0] is None:
        given = list((layer.weights or [])[:2])
    try:
        mean, variance = (np.asarray(one, np.float64).reshape(-1) for one in given)
        scale = 1 / np.maximum(np.sqrt(variance), 1e-7)
        scale, shift = np.broadcast_arrays(scale, -mean * scale)
    except (TypeError, ValueError) as fault:
        raise ValueError(f"{layer} has no mean and variance in the file") from fault
    compute = partial(functions.scale_and_shift, -1, making.cast(scale), making.cast(shift))
    return _plain(compute, "pass" if layer.version > 2 else "stop")


def _batch_norm_step(layer: KerasLayer, making: Making) -> Step:
    """Return x times a scale plus a shift, in which the statistics of training are worked out."""
    axis = layer.integer("axis", -1)
    scaled, centred = layer.flag("scale", True), layer.flag("center", True)
    weights = [
        array.astype(np.float64) for array in layer.arrays(*[(None,)] * (2 + scaled + centred))
    ]
    if len({len(array) for array in weights}) > 1:
        raise ValueError(f"{layer} has weights of different sizes")
    *affine, mean, variance = weights
    with np.errstate(all="ignore"):
        scale = 1 / np.sqrt(variance + layer.number("epsilon", 1e-3))
        scale = affine[0] * scale if scaled else scale
        shift = (affine[-1] if centred else 0) - mean * scale
    compute = partial(functions.scale_and_shift, axis, making.cast(scale), making.cast(shift))
    return _plain(compute, "pass")


def _layer_norm_step(layer: KerasLayer, making: Making) -> Step:
    axis = layer.config.get("axis", -1)
    axes = layer.counts("axis") if isinstance(axis, list) else [layer.integer("axis", -1)]
    if layer.flag("rms_scaling") or not axes:
        raise ValueError(f"{layer}: rms_scaling is not known here")
    scaled, centred = layer.flag("scale", True), layer.flag("center", True)
    weights = layer.arrays(*[(None,) * len(axes)] * (scaled + centred)) if scaled + centred else []
    gamma = making.cast(weights[0]) if scaled else None
    beta = making.cast(weights[-1]) if centred else None
    epsilon = layer.number("epsilon", 1e-3)
    return _plain(partial(functions.layer_normalization, axes, epsilon, gamma, beta), "pass")


def _convolution_step(layer: KerasLayer, making: Making) -> Step:
    layer.only("data_format", "channels_last", None)
    filters, groups = layer.count("filters"), layer.count("groups", default=1)
    size = layer.count("kernel_size")
    kernel, *bias = layer.arrays(
        (size, None, filters), *[(filters,)] * layer.flag("use_bias", True)
    )
    if filters % groups:
        raise ValueError(f"{layer}: {filters} filters are not for {groups} groups")
    options = (
        layer.count("strides", default=1),
        layer.count("dilation_rate", default=1),
        layer.word("padding", "valid", ("valid", "same", "causal")),
        groups,
    )
    compute, _ = _then_activated(
        layer,
        partial(
            functions.convolution,
            making.limits,
            making.cast(kernel),
            making.cast(bias[0]) if bias else None,
            options,
        ),
        None,
    )
    return _plain(compute)


def _pooling_step(layer: KerasLayer, making: Making) -> Step:
    layer.only("data_format", "channels_last", None)
    size = layer.count("pool_size", default=2)
    strides = size if layer.config.get("strides") is None else layer.count("strides")
    padding = layer.word("padding", "valid", ("valid", "same"))
    function = functions.max_pooling if "Max" in layer.kind else functions.average_pooling
    return _plain(partial(function, making.limits, size, strides, padding))


def _global_average_step(layer: KerasLayer, making: Making) -> Step:
    layer.only("data_format", "channels_last", None)
    return Step(partial(functions.global_average, layer.flag("keepdims")), takes_mask=True)


def _global_max_step(layer: KerasLayer, making: Making) -> Step:
    layer.only("data_format", "channels_last", None)
    return _plain(partial(functions.global_max, layer.flag("keepdims")))


_BY_FEATURES = ("Dense", "Dropout", "Activation", "ReLU")  # work alike on any axes before the last


def _time_distributed_step(layer: KerasLayer, making: Making) -> Step:
    (inner,) = layer.inside
    if inner.kind in NETWORKS:
        compute, layers = making.network(inner, making)
        step = Step(compute, layers)
    else:
        step = step_of(inner, making)
    if step.states or step.outputs > 1 or step.merges or callable(step.mask):
        raise ValueError(f"{layer}: {inner} inside it is not known here")
    mask: str | Compute = "pass"
    if layer.version == 2 and step.mask != "pass":
        mask = functions.mask_of_steps
    return Step(
        None
        if step.compute is None
        else partial(functions.same_at_each_step, step.compute, step.takes_mask),
        step.layers,
        step.chain if inner.kind in _BY_FEATURES else None,
        takes_mask=step.compute is not None,
        mask=mask,
        merges=callable(mask),
        takes_indices=step.takes_indices,
    )


# ---- layers of several inputs, and operations ---------------------------------------------------


def _merge_step(layer: KerasLayer, making: Making) -> Step:
    computes: dict[str, Compute] = {
        "Add": partial(functions.merge, making.limits, np.add),
        "Subtract": partial(functions.merge, making.limits, np.subtract),
        "Multiply": partial(functions.merge, making.limits, np.multiply),
        "Maximum": partial(functions.merge, making.limits, np.maximum),
        "Minimum": partial(functions.merge, making.limits, np.minimum),
        "Average": partial(functions.average, making.limits),
    }
    compute, takes_mask = computes[layer.kind], False
    if layer.version > 2:
        masked: dict[str, Compute] = {
            "Multiply": partial(functions.masked_product, making.limits),
            "Maximum": partial(functions.masked_extreme, making.limits, np.maximum),
            "Minimum": partial(functions.masked_extreme, making.limits, np.minimum),
        }
        takes_mask = layer.kind in masked
        compute = masked.get(layer.kind, compute)
    mask = functions.mask_of_all if layer.version == 2 else functions.mask_of_any
    return Step(compute, takes_mask=takes_mask, mask=mask, merges=True)


def _concatenate_step(layer: KerasLayer, making: Making) -> Step:
    axis = layer.integer("axis", -1)
    mask = partial(functions.mask_of_concatenated, axis, layer.version)
    return Step(partial(functions.concatenate, making.limits, axis), mask=mask, merges=True)


def _dot_step(layer: KerasLayer, making: Making) -> Step:
    axes = layer.config.get("axes")
    both = [axes, axes] if type(axes) is int else axes
    if not isinstance(both, list) or len(both) != 2 or not all(type(n) is int for n in both):
        raise ValueError(f"{layer}: axes={short(axes)} is not known here")
    compute = partial(functions.dot, making.limits, tuple(both), layer.flag("normalize"))
    return Step(compute, merges=True)


def _operation_step(layer: KerasLayer, making: Making) -> Step:
    function, names = functions.OPERATIONS[layer.kind.removeprefix("ops.")]
    options: dict[str, Any] = {}
    for name in names:
        value = layer.config.get(name)
        value = tuple(layer.counts(name)) if isinstance(value, list) else value
        if name == "dtype" and value is not None:
            options[name] = _dtype_of(layer, making)
            continue
        if not isinstance(value, (int, tuple, type(None))):
            raise ValueError(f"{layer}: {name} must be a number, got {short(value)}")
        options[name] = value
    broadcasts = isinstance(function, np.ufunc) or function is np.where
    compute = partial(functions.operation, making.limits, function, broadcasts)
    return Step(compute, options=options)


def _dtype_of(layer: KerasLayer, making: Making) -> np.dtype[Any]:
    """Return the type of what an operation gives; all floats have the model's precision."""
    name = layer.precision()
    if "float" in name:
        return making.dtype
    return np.dtype(layer.word("dtype", "bool", ("bool", "int8", "uint8", "int32", "int64")))


_MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
_MAKERS: dict[str, Maker] = {
    "LSTM": _lstm_step,
    "CuDNNLSTM": _lstm_step,
    "RNN": _lstm_step,
    "Bidirectional": _lstm_step,
    "Dense": _dense_step,
    "Embedding": _embedding_step,
    "Activation": _activation_step,
    "Dropout": _dropout_step,
    "Masking": _masking_step,
    "Softmax": _softmax_step,
    "PReLU": _prelu_step,
    "Flatten": _flatten_step,
    "Reshape": _reshape_step,
    "Permute": _permute_step,
    "RepeatVector": _repeat_vector_step,
    "UpSampling1D": _up_sampling_step,
    "ZeroPadding1D": _padding_step,
    "Cropping1D": _cropping_step,
    "Rescaling": _rescaling_step,
    "Normalization": _normalization_step,
    "BatchNormalization": _batch_norm_step,
    "LayerNormalization": _layer_norm_step,
    "Conv1D": _convolution_step,
    "MaxPooling1D": _pooling_step,
    "AveragePooling1D": _pooling_step,
    "GlobalAveragePooling1D": _global_average_step,
    "GlobalMaxPooling1D": _global_max_step,
    "TimeDistributed": _time_distributed_step,
    "Concatenate": _concatenate_step,
    "Dot": _dot_step,
    **dict.fromkeys(_MERGES, _merge_step),
    **{f"ops.{name}": _operation_step for name in functions.OPERATIONS},
    **dict.fromkeys(_LAYER_FUNCTIONS, _function_step),
    **dict.fromkeys(
        [
            "SpatialDropout1D",
            "GaussianDropout",
            "GaussianNoise",
            "AlphaDropout",
            "ActivityRegularization",
            "Identity",
        ],
        _nothing_step,
    ),
}
