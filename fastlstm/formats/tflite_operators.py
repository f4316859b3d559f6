"""TFLite's operators, by those of ONNX or by functions of their own.

Each function is given a `Site`, and puts what computes the operator into the draft. Sources: the
kernels in tensorflow/lite/kernels, and tensorflow/compiler/mlir/lite/ir/tfl_ops.td for what each
input is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graphs import tflite_functions as functions
from ..graphs.products import linear_of
from ..layers import Layer, ReLU, Sigmoid, Softmax, Tanh
from . import tflite_lstm
from .tflite_control import CONTROL
from .tflite_rows import Part
from .tflite_shapes import SHAPES
from .tflite_windows import WINDOWS

if TYPE_CHECKING:
    from .tflite_site import Site

Maker = Callable[["Site"], None]
MAKERS: dict[str, Maker] = {}


def _enter(*kinds: str) -> Callable[[Maker], Maker]:
    """Return a decorator that enters a function into the table."""

    def entered(make: Maker) -> Maker:
        MAKERS.update(dict.fromkeys(kinds, make))
        return make

    return entered


# ---- numbers ------------------------------------------------------------------------------------

_UNARY = {
    "ABS": "Abs", "CEIL": "Ceil", "COS": "Cos", "ELU": "Elu", "EXP": "Exp", "FLOOR": "Floor",
    "HARD_SWISH": "HardSwish", "LOG": "Log", "LOGICAL_NOT": "Not", "LOGISTIC": "Sigmoid",
    "LOG_SOFTMAX": "LogSoftmax", "NEG": "Neg", "RELU": "Relu", "ROUND": "Round", "SIGN": "Sign",
    "SIN": "Sin", "SQRT": "Sqrt", "TANH": "Tanh",
}  # fmt: skip
_BINARY = {
    "ADD": "Add", "EQUAL": "Equal", "GREATER": "Greater", "GREATER_EQUAL": "GreaterOrEqual",
    "LESS": "Less", "LESS_EQUAL": "LessOrEqual", "LOGICAL_AND": "And", "LOGICAL_OR": "Or",
    "MAXIMUM": "Max", "MINIMUM": "Min", "MUL": "Mul", "POW": "Pow", "SUB": "Sub",
}  # fmt: skip
_LAYERS: dict[str, type[Layer]] = {"LOGISTIC": Sigmoid, "RELU": ReLU, "TANH": Tanh}
_BOUNDS = {"RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1), "RELU_0_TO_1": (0, 1)}


def _in_row(site: Site, layer: type[Layer]) -> None:
    """Say that the operator is a layer without parameters, if its input is a row of layers."""
    row = site.row(0)
    if row is not None:
        site.is_row(row.behind(Part.of(layer())))


@_enter(*_UNARY)
def _unary(site: Site) -> None:
    site.needs(1)
    site.give(site.put(_UNARY[site.kind], [site.value(0)])[0])
    if site.kind in _LAYERS:
        _in_row(site, _LAYERS[site.kind])


@_enter(*_BINARY)
def _binary(site: Site) -> None:
    site.needs(2)
    value = site.put(_BINARY[site.kind], [site.value(0), site.value(1)])[0]
    site.give(site.activated(value))


@_enter(*_BOUNDS)
def _bounded(site: Site) -> None:
    site.needs(1)
    bounds = [site.constant(bound, np.float32) for bound in _BOUNDS[site.kind]]
    site.give(site.put("Clip", [site.value(0), *bounds])[0])


@_enter("RSQRT")
def _reciprocal_root(site: Site) -> None:
    site.needs(1)
    root = site.put("Sqrt", [site.value(0)])
    site.give(site.put("Reciprocal", root)[0])


@_enter("SQUARE")
def _square(site: Site) -> None:
    site.needs(1)
    site.compute(np.square, [site.value(0)])


@_enter("NOT_EQUAL")
def _not_equal(site: Site) -> None:
    site.needs(2)
    equal = site.put("Equal", [site.value(0), site.value(1)])
    site.give(site.put("Not", equal)[0])


@_enter("DIV", "FLOOR_DIV", "SQUARED_DIFFERENCE", "FLOOR_MOD")
def _spread(site: Site) -> None:
    site.needs(2)
    compute = {
        "DIV": functions.divide,
        "FLOOR_DIV": functions.floor_divide,
        "FLOOR_MOD": functions.remainder,
        "SQUARED_DIFFERENCE": functions.squared_difference,
    }[site.kind]
    name = site.give_new(partial(functions.spread, compute, site.limits), [0, 1])
    site.give(site.activated(name))


@_enter("ADD_N")
def _sum_of_all(site: Site) -> None:
    site.needs(1, len(site.inputs))
    site.give(site.put("Sum", [site.value(n) for n in range(len(site.inputs))])[0])


@_enter("LEAKY_RELU")
def _leaky_relu(site: Site) -> None:
    site.needs(1)
    site.give(site.put("LeakyRelu", [site.value(0)], alpha=site.options["alpha"])[0])


@_enter("PRELU")
def _prelu(site: Site) -> None:
    site.needs(2)
    site.give(site.put("PRelu", [site.value(0), site.value(1)])[0])


@_enter("GELU")
def _gelu(site: Site) -> None:
    site.needs(1)
    form = "tanh" if site.options["approximate"] else "none"
    site.give(site.put("Gelu", [site.value(0)], approximate=form)[0])


@_enter("SOFTMAX")
def _softmax(site: Site) -> None:
    site.needs(1)
    value, beta = site.value(0), site.options["beta"]
    if beta != 1:
        value = site.put("Mul", [value, site.constant(beta, np.float32)])[0]
    site.give(site.put("Softmax", [value], axis=-1)[0])
    if beta == 1:
        _in_row(site, Softmax)


@_enter("SELECT", "SELECT_V2")
def _select(site: Site) -> None:
    site.needs(3)
    if site.kind == "SELECT_V2":
        site.give(site.put("Where", [site.value(n) for n in range(3)])[0])
    else:
        compute = partial(functions.select, site.limits)
        site.compute(compute, [site.value(n) for n in range(3)])


@_enter("CAST")
def _cast(site: Site) -> None:
    site.needs(1)
    dtype = np.dtype(site.result().dtype)
    site.compute(partial(functions.cast, dtype, site.limits), [site.value(0)])


@_enter("DEQUANTIZE")
def _dequantize(site: Site) -> None:
    site.needs(1)
    tensor = site.tensor(0)
    if tensor.dtype == "float16":
        site.compute(partial(functions.cast, np.dtype("f4"), site.limits), [site.value(0)])
        return
    if tensor.scales is None or site.known(0) is None:
        raise ValueError("it takes quantised numbers that are computed; models of floats are read")
    scale, zero, axis = tensor.scales
    counts = {scale.size, zero.size}
    sizes = tensor.data.shape if tensor.data is not None else ()
    if counts != {1} and not (0 <= axis < len(sizes) and counts == {sizes[axis]}):
        raise ValueError(f"it has {scale.size} scales for numbers of shape {sizes}")
    compute = partial(functions.dequantize, scale, zero, axis, site.limits)
    site.compute(compute, [site.value(0)])


@_enter("ZEROS_LIKE")
def _zeros(site: Site) -> None:
    site.needs(1)
    site.compute(functions.zeros, [site.value(0)])


# ---- reductions ---------------------------------------------------------------------------------

_REDUCTIONS = {
    "MEAN": "ReduceMean", "SUM": "ReduceSum", "REDUCE_MAX": "ReduceMax", "REDUCE_MIN": "ReduceMin",
    "REDUCE_PROD": "ReduceProd",
}  # fmt: skip


@_enter(*_REDUCTIONS)
def _reduce(site: Site) -> None:
    site.needs(2)
    keep = int(site.options["keep_dims"])
    if site.wholes(1) == []:
        site.give(site.value(0))
        return
    inputs = [site.value(0), site.value(1)]
    site.give(site.put(_REDUCTIONS[site.kind], inputs, keepdims=keep)[0])


@_enter("REDUCE_ANY", "REDUCE_ALL")
def _any(site: Site) -> None:
    site.needs(2)
    find = np.any if site.kind == "REDUCE_ANY" else np.all
    compute = partial(functions.any_of, site.options["keep_dims"], find)
    site.compute(compute, [site.value(0), site.value(1)])


@_enter("ARG_MAX", "ARG_MIN")
def _arg(site: Site) -> None:
    site.needs(2)
    find = np.argmax if site.kind == "ARG_MAX" else np.argmin
    dtype = np.dtype(site.result().dtype)
    site.compute(partial(functions.arg, find, dtype), [site.value(0), site.value(1)])


@_enter("CUMSUM")
def _cumulate(site: Site) -> None:
    site.needs(2)
    exclusive, backward = (int(site.options[name]) for name in ("exclusive", "reverse"))
    inputs = [site.value(0), site.value(1)]
    site.give(site.put("CumSum", inputs, exclusive=exclusive, reverse=backward)[0])


# ---- products -----------------------------------------------------------------------------------


@_enter("FULLY_CONNECTED")
def _fully_connected(site: Site) -> None:
    site.needs(2, 3)
    if site.options["weights_format"]:
        raise ValueError("its weights are shuffled, as integers of 4 bits are; floats are read")
    weight, keep = site.known(1), site.options["keep_num_dims"]
    bias = site.known(2) if site.has(2) else None
    if site.has(2) and bias is None:
        raise ValueError("its bias must be a constant, and is computed")
    if weight is None:
        _product(site, keep, bias)
        return
    weight = site.weight(1, 2)
    if bias is not None and (bias.dtype != np.float32 or bias.shape != weight.shape[:1]):
        raise ValueError(
            f"its bias must be float32 ({weight.shape[0]},), got {bias.dtype} {bias.shape}"
        )
    if not weight.size:
        raise ValueError(f"its weights have the shape {weight.shape}")
    linear = site.shared(partial(linear_of, weight, bias, site.engine), [weight, bias], "linear")
    compute = partial(functions.fully_connected, linear, keep, site.limits)
    value = site.give_new(compute, [0], "fastlstm")
    site.give(site.activated(value))
    row, activation = site.row(0), site.options["activation"]
    if row is None or (not keep and row.axes != 2) or activation not in (0, 1):
        return
    parts = [Part.of(linear)]
    if activation:
        parts.append(Part.of(ReLU()))
    site.is_row(row.behind(*parts))


def _product(site: Site, keep: bool, bias: Any) -> None:
    """Multiply by a matrix that is computed."""
    value = site.give_new(partial(functions.times_matrix, keep, site.limits), [0, 1])
    if bias is not None:
        value = site.put("Add", [value, site.value(2)])[0]
    site.give(site.activated(value))


@_enter("BATCH_MATMUL")
def _batch_matmul(site: Site) -> None:
    site.needs(2)
    factors = [site.value(0), site.value(1)]
    for place, option in enumerate(("adj_x", "adj_y")):
        if site.options[option]:
            factors[place] = site.give_new(functions.adjoint, [place])
    site.give(site.put("MatMul", factors)[0])


MAKERS |= {
    **SHAPES,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": tflite_lstm.unidirectional,
    "BIDIRECTIONAL_SEQUENCE_LSTM": tflite_lstm.bidirectional,
    "LSTM": tflite_lstm.single_step,
    **WINDOWS,
    **CONTROL,
}
