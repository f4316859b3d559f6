"""What Keras's layers compute, in NumPy, but for those that fastlstm has layers for.

The axes are the batch, the steps and the features. Each function takes what its layer's options
are first, and then values, as `functools.partial` of it is what a node computes. A mask is an array
(B, T), True where a step is used, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..arrays import quiet
from .elementwise import sigmoid, softplus

if TYPE_CHECKING:
    from ..arrays import Array
    from ..layers import LSTM, Embedding
    from .limits import Limits
    from .plan import Compute, Plan

# ---- activations ------------------------------------------------------------------------------


def linear(x: Array) -> Any:
    """x."""
    return x


def relu(x: Array, slope: float = 0.0, most: float | None = None, threshold: float = 0.0) -> Any:
    """x above the threshold, at most `most`; below it slope * (x - threshold)."""
    y = np.where(x > threshold, x, 0) if threshold else np.maximum(x, 0)
    if most is not None:
        y = np.minimum(y, most)
    if slope:
        y = np.where(x < threshold, slope * (x - threshold), y)
    return y.astype(x.dtype, copy=False)


@quiet
def softmax(x: Array, axis: int | tuple[int, ...] = -1) -> Any:
    """exp(x) / sum(exp(x))."""
    y = np.exp(x - x.max(axis=axis, keepdims=True))
    return y / y.sum(axis=axis, keepdims=True)


def masked_softmax(axis: int | tuple[int, ...], x: Array, mask: Array | None) -> Any:
    """A softmax over what the mask uses, which is shaped as x."""
    if mask is None:
        return softmax(x, axis)
    used = mask.astype(bool)
    y = softmax(np.where(used, x, x.dtype.type(-1e9)), axis)
    return np.where(used, y, y.dtype.type(0))


@quiet
def log_softmax(x: Array, axis: int = -1) -> Any:
    """log(softmax(x))."""
    x = x - x.max(axis=axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def silu(x: Array) -> Any:
    """x * sigmoid(x)."""
    return x * sigmoid(x)


@quiet
def exponential(x: Array) -> Any:
    """exp(x)."""
    return np.exp(x)


def hard_sigmoid(x: Array, slope: float) -> Any:
    """slope * x + 0.5, within 0 and 1."""
    return np.clip(slope * x + 0.5, 0, 1)


def hard_silu(x: Array) -> Any:
    """x * hard_sigmoid(x)."""
    return x * hard_sigmoid(x, 1 / 6)


def mish(x: Array) -> Any:
    """x * tanh(softplus(x))."""
    return x * np.tanh(softplus(x))


def relu6(x: Array) -> Any:
    """x within 0 and 6."""
    return np.clip(x, 0, 6)


def hard_tanh(x: Array) -> Any:
    """x within -1 and 1."""
    return np.clip(x, -1, 1)


def log_sigmoid(x: Array) -> Any:
    """log(sigmoid(x))."""
    return -softplus(-x)


def tanh_shrink(x: Array) -> Any:
    """x - tanh(x)."""
    return x - np.tanh(x)


def soft_shrink(x: Array) -> Any:
    """x, nearer to 0 by 0.5; 0 where it is as near already."""
    return x - np.clip(x, -0.5, 0.5)


def hard_shrink(x: Array) -> Any:
    """x, or 0 from -0.5 to 0.5."""
    return np.where(np.abs(x) <= 0.5, x.dtype.type(0), x)


@quiet
def squareplus(x: Array) -> Any:
    """(x + sqrt(x^2 + 4)) / 2, which is like softplus."""
    return (x + np.sqrt(x * x + 4)) / 2


def glu(x: Array) -> Any:
    """The first half of the features times the sigmoid of the second."""
    first, second = np.split(x, 2, axis=-1)
    return first * sigmoid(second)


@quiet
def sparse_plus(x: Array) -> Any:
    """0 below -1, x above 1, and (x + 1)^2 / 4 between them."""
    return np.where(x < 1, np.square(np.maximum(x + 1, 0)) / 4, x)


def sparse_sigmoid(x: Array) -> Any:
    """(x + 1) / 2, within 0 and 1."""
    return np.clip((x + 1) / 2, 0, 1)


def prelu(alpha: Array, x: Array) -> Any:
    """x, or alpha * x below 0."""
    return np.where(x > 0, x, alpha * x)


# ---- layers of one input ----------------------------------------------------------------------


def activated(first: Compute, activation: Compute, *values: Any) -> Any:
    """What a layer computes, through an activation."""
    return activation(first(*values))


def flatten(x: Array) -> Any:
    """One axis behind the batch."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def reshape(shape: Sequence[int], x: Array) -> Any:
    """These axes behind the batch; one of them may be -1."""
    return x.reshape(len(x), *shape)


def permute(axes: Sequence[int], x: Array) -> Any:
    """The axes behind the batch in this order, from 1 on."""
    return x.transpose(0, *axes)


def repeat_vector(limits: Limits, count: int, x: Array) -> Any:
    """The same features at every step."""
    limits.allow((len(x), count, *x.shape[1:]), x.itemsize)
    return np.repeat(x[:, None], count, axis=1)


def up_sampling(limits: Limits, count: int, x: Array) -> Any:
    """Each step so many times."""
    limits.allow((len(x), x.shape[1], count, *x.shape[2:]), x.itemsize)
    return np.repeat(x, count, axis=1)


def zero_padding(limits: Limits, before: int, behind: int, x: Array) -> Any:
    """Steps of zeros before and behind the others."""
    limits.allow((len(x), before + x.shape[1] + behind, *x.shape[2:]), x.itemsize)
    return np.pad(x, ((0, 0), (before, behind), (0, 0)))


def cropping(before: int, behind: int, x: Array) -> Any:
    """The steps without the first and last ones."""
    return x[:, before : max(before, x.shape[1] - behind)]


@quiet
def scale_and_shift(axis: int, scale: Array, shift: Array, x: Array) -> Any:
    """x * scale + shift, along one axis."""
    shape = [1] * x.ndim
    shape[axis] = -1
    return x * scale.reshape(shape) + shift.reshape(shape)


@quiet
def layer_normalization(
    axes: Sequence[int], epsilon: float, gamma: Array | None, beta: Array | None, x: Array
) -> Any:
    """x normalised over some axes, times gamma plus beta, which have these axes."""
    own = sorted(axis % x.ndim for axis in axes)
    shape = [n if axis in own else 1 for axis, n in enumerate(x.shape)]
    mean = x.mean(axis=tuple(own), keepdims=True)
    y: Array = (x - mean) / np.sqrt(x.var(axis=tuple(own), keepdims=True) + x.dtype.type(epsilon))
    if gamma is not None:
        y = y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


def masking(value: float, x: Array) -> Any:
    """x with zeros at the steps of which all features have this value."""
    return np.where((x != value).any(axis=-1, keepdims=True), x, x.dtype.type(0))


def mask_of_value(value: float, x: Array) -> Any:
    """The mask of the steps of which not all features have this value."""
    return (x != value).any(axis=-1)


def mask_of_zeros(x: Array) -> Any:
    """The mask of indices other than 0."""
    return np.asarray(x) != 0


def embedding(layer: Embedding, x: Array) -> Any:
    """Rows of a table; indices may be floats, which are cut to integers."""
    return layer(x if x.dtype.kind in "iu" else x.astype(np.int32))


def same_at_each_step(first: Compute, takes_mask: bool, x: Array, mask: Any = None) -> Any:
    """What a layer computes of each step by itself; it sees a mask that has an axis for it."""
    steps: list[Any] = [x.reshape(-1, *x.shape[2:])]
    if takes_mask:
        deep = mask is not None and mask.ndim > 2
        steps.append(mask.reshape(-1, *mask.shape[2:]) if deep else None)
    y = first(*steps)
    return y.reshape(*x.shape[:2], *y.shape[1:])


def mask_of_steps(x: Array, mask: Any) -> Any:
    """The mask behind a layer that works at each step, in Keras 2: of steps with any real part."""
    return mask if mask is None or mask.ndim < 3 else mask.any(axis=tuple(range(2, mask.ndim)))


def planned(plan: Plan, x: Array) -> Any:
    """What a network inside a layer computes."""
    return plan.run([x])[0]


# ---- convolution and pooling -------------------------------------------------------------------


def _windows(
    limits: Limits, x: Array, size: int, stride: int, dilation: int, padding: str, fill: float
) -> Any:
    """Return the steps (B, T', F, size) that each output sees; those outside have the value `fill`.

    "same" pads as TensorFlow does: T' is T / stride rounded up, and more is padded behind than
    before.
    """
    reach = (size - 1) * dilation + 1
    steps = x.shape[1]
    before = behind = 0
    if padding == "causal":
        before = reach - 1
    elif padding == "same":
        total = max(0, (-(-steps // stride) - 1) * stride + reach - steps)
        before = total // 2
        behind = total - before
    if before or behind:
        limits.allow((len(x), before + steps + behind, x.shape[2]), x.itemsize)
        edges = ((0, 0), (before, behind), (0, 0))
        x = np.pad(x, edges, constant_values=x.dtype.type(fill))
    if x.shape[1] < reach:
        raise ValueError(f"there are {steps} steps, a window has {reach}")
    seen = np.lib.stride_tricks.sliding_window_view(x, reach, axis=1)
    return seen[:, ::stride, :, ::dilation]


@quiet
def convolution(
    limits: Limits,
    kernel: Array,
    bias: Array | None,
    options: tuple[int, int, str, int],
    x: Array,
) -> Any:
    """A convolution over steps with a kernel (size, features / groups, filters).

    `options` are the stride, the dilation, the padding and the groups.
    """
    stride, dilation, padding, groups = options
    size, wide, filters = kernel.shape
    if x.ndim != 3 or x.shape[2] != wide * groups:
        raise ValueError(f"it takes steps of {wide * groups} features, got {x.shape}")
    seen = _windows(limits, x, size, stride, dilation, padding, 0)
    limits.allow((len(x), seen.shape[1], size * wide * groups), x.itemsize)
    parts = []
    for part, weights in zip(
        np.split(seen, groups, axis=2), np.split(kernel, groups, axis=2), strict=True
    ):
        rows = part.swapaxes(2, 3).reshape(len(x) * seen.shape[1], size * wide)
        parts.append(rows @ weights.reshape(size * wide, filters // groups))
    y = np.concatenate(parts, axis=1).reshape(len(x), seen.shape[1], filters)
    return y if bias is None else y + bias


def max_pooling(limits: Limits, size: int, stride: int, padding: str, x: Array) -> Any:
    """The largest value of each window of steps."""
    return _windows(limits, x, size, stride, 1, padding, -np.inf).max(axis=-1)


def average_pooling(limits: Limits, size: int, stride: int, padding: str, x: Array) -> Any:
    """The mean of each window of steps, without those outside."""
    total = _windows(limits, x, size, stride, 1, padding, 0).sum(axis=-1)
    inside = np.ones((1, x.shape[1], 1), x.dtype)
    return total / _windows(limits, inside, size, stride, 1, padding, 0).sum(axis=-1)


@quiet
def global_average(keep: bool, x: Array, mask: Array | None) -> Any:
    """The mean of all steps that the mask uses."""
    if mask is None:
        return x.mean(axis=1, keepdims=keep)
    used = mask.astype(bool)[..., None]
    total = np.where(used, x, x.dtype.type(0)).sum(axis=1, keepdims=keep)
    return total / used.sum(axis=1, keepdims=keep).astype(x.dtype)


def global_max(keep: bool, x: Array) -> Any:
    """The largest value of all steps."""
    return x.max(axis=1, keepdims=keep)


# ---- layers of several inputs -------------------------------------------------------------------


def merge(limits: Limits, function: Callable[[Any, Any], Any], *values: Array) -> Any:
    """One value of several by a function of two; one with fewer axes gets axes behind its batch."""
    most = max(value.ndim for value in values)
    aligned = [
        value.reshape(len(value), *[1] * (most - value.ndim), *value.shape[1:]) for value in values
    ]
    limits.allow(np.broadcast_shapes(*[value.shape for value in aligned]), values[0].itemsize)
    result = aligned[0]
    for value in aligned[1:]:
        result = function(result, value)
    return result


def average(limits: Limits, *values: Array) -> Any:
    """The mean of several values."""
    return merge(limits, np.add, *values) / len(values)


def masked_product(limits: Limits, *values: Any) -> Any:
    """The product of values, which are followed by their masks, as Keras 3 has it.

    Where a mask does not use a value, that value is 1; where no mask uses any, the product is 0.
    """
    arrays, masks = _with_masks(values)
    kept = [
        array if mask is None else np.where(mask, array, array.dtype.type(1))
        for array, mask in zip(arrays, masks, strict=True)
    ]
    y = merge(limits, np.multiply, *kept)
    if any(mask is None for mask in masks):
        return y
    return np.where(np.logical_or.reduce(masks), y, y.dtype.type(0))


def masked_extreme(limits: Limits, function: Callable[[Any, Any], Any], *values: Any) -> Any:
    """The largest or smallest of values, which are followed by their masks, as Keras 3 has it.

    Where a mask does not use a value, it is that of the others.
    """
    arrays, masks = _with_masks(values)
    if not any(mask is not None for mask in masks):
        return merge(limits, function, *arrays)
    y, used = arrays[0], masks[0]
    for array, mask in zip(arrays[1:], masks[1:], strict=True):
        if mask is not None:
            array = np.where(mask, array, y)
        if used is not None:
            y = np.where(used, y, array)
        used = None if used is None or mask is None else used | mask
        y = merge(limits, function, y, array)
    return y


def _with_masks(values: Sequence[Any]) -> tuple[list[Array], list[Any]]:
    """Return arrays, and masks (B, T, 1) of them or None."""
    half = len(values) // 2
    masks = [None if mask is None else mask.astype(bool)[..., None] for mask in values[half:]]
    return list(values[:half]), masks


def dot(limits: Limits, axes: tuple[int, int], normalize: bool, x: Array, y: Array) -> Any:
    """The sum over an axis of each of two values, for each pair of what is along the others."""
    if normalize:
        x, y = (
            value / np.sqrt(np.maximum((value * value).sum(axis=axis, keepdims=True), 1e-12))
            for value, axis in zip((x, y), axes, strict=True)
        )
    x, y = np.moveaxis(x, axes[0], -1), np.moveaxis(y, axes[1], 1)
    shape = (*x.shape[:-1], *y.shape[2:])
    limits.allow(shape, x.itemsize)
    z = x.reshape(len(x), -1, x.shape[-1]) @ y.reshape(len(y), y.shape[1], -1)
    return z.reshape(shape if len(shape) > 1 else (len(x), 1))


def concatenate(limits: Limits, axis: int, *values: Array) -> Any:
    """The values one after the other along an axis."""
    limits.allow((sum(value.nbytes for value in values),), 1)
    return np.concatenate(values, axis=axis)


def mask_of_all(*values: Any) -> Any:
    """The mask of a merged value in Keras 2: what all masks use; `values`, then their masks."""
    masks = [mask for mask in values[len(values) // 2 :] if mask is not None]
    return np.logical_and.reduce(masks) if masks else None


def mask_of_any(*values: Any) -> Any:
    """The mask of a merged value in Keras 3: what any mask uses, none if a value has none."""
    masks = values[len(values) // 2 :]
    return None if any(mask is None for mask in masks) else np.logical_or.reduce(masks)


def mask_of_concatenated(axis: int, version: int, *values: Any) -> Any:
    """The mask of concatenated values: of any feature in Keras 3, of all features in Keras 2."""
    values, masks = values[: len(values) // 2], values[len(values) // 2 :]
    if all(mask is None for mask in masks):
        return None
    wide = []
    for value, mask in zip(values, masks, strict=True):
        if mask is None:
            mask = np.ones((1,) * value.ndim, bool)
        elif mask.ndim < value.ndim:
            mask = mask[..., None]
        wide.append(np.broadcast_to(mask, value.shape))
    whole = np.concatenate(wide, axis=axis)
    return whole.all(axis=-1) if version == 2 else whole.any(axis=-1)


# ---- operations ---------------------------------------------------------------------------------


class Place(NamedTuple):
    """Stands in the arguments of an operation for one of its values."""

    number: int


def operation(
    limits: Limits,
    function: Callable[..., Any],
    broadcasts: bool,
    arguments: Sequence[Any],
    options: Mapping[str, Any],
    *values: Any,
) -> Any:
    """Call a function of NumPy; `arguments` have places for the values, in lists too."""
    if broadcasts:
        shapes = [value.shape for value in values]
        limits.allow(np.broadcast_shapes(*shapes), max(value.itemsize for value in values))
    with np.errstate(all="ignore"):
        return function(*_in_their_places(arguments, values), **options)


def _in_their_places(arguments: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    return [
        values[argument.number]
        if isinstance(argument, Place)
        else _in_their_places(argument, values)
        if isinstance(argument, list)
        else argument
        for argument in arguments
    ]


def item(x: Array, key: Any) -> Any:
    """A part of an array."""
    return x[tuple(key) if isinstance(key, list) else key]


# Operations on values, which Keras 3 writes as if they were layers, and those of their options
# that stand in their configs.
OPERATIONS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    **{name: (getattr(np, function), ()) for name, function in {
        "Add": "add", "Subtract": "subtract", "Multiply": "multiply", "TrueDivide": "true_divide",
        "Divide": "true_divide", "Power": "power", "Maximum": "maximum", "Minimum": "minimum",
        "Equal": "equal", "NotEqual": "not_equal", "Greater": "greater", "Less": "less",
        "GreaterEqual": "greater_equal", "LessEqual": "less_equal", "LogicalAnd": "logical_and",
        "LogicalOr": "logical_or", "LogicalNot": "logical_not", "Where": "where",
        "Negative": "negative", "Absolute": "abs", "Abs": "abs", "Sqrt": "sqrt", "Square": "square",
        "Exp": "exp", "Log": "log", "Tanh": "tanh",
    }.items()},
    **{name: (getattr(np, function), ("axis", "keepdims")) for name, function in {
        "Mean": "mean", "Sum": "sum", "Max": "max", "Min": "min", "Any": "any", "All": "all",
    }.items()},
    **{name: (getattr(np, function), ("axis",)) for name, function in {
        "Concatenate": "concatenate", "Stack": "stack", "ExpandDims": "expand_dims",
        "Squeeze": "squeeze", "Flip": "flip",
    }.items()},
    "ZerosLike": (np.zeros_like, ("dtype",)),
    "OnesLike": (np.ones_like, ("dtype",)),
    "Cast": (np.asarray, ("dtype",)),
    "Transpose": (np.transpose, ("axes",)),
    "GetItem": (item, ()),
    "Relu": (relu, ()),
    "Sigmoid": (sigmoid, ()),
    "Silu": (silu, ()),
    "Softplus": (softplus, ()),
    "Softmax": (softmax, ("axis",)),
}  # fmt: skip


# ---- LSTMs --------------------------------------------------------------------------------------


def lstm(
    layer: LSTM, sequences: bool, zero: bool, x: Array, mask: Any = None, *states: Array
) -> Any:
    """Return what an LSTM of one direction gives in Keras: its output, h and c.

    `sequences` is whether it returns all steps; one that runs from the end returns the last step
    first. With `zero`, the output of a masked step is 0, and that of the step before otherwise.
    """
    y, (h, c) = _run(layer, zero, x, mask, states)
    if layer.reverse:
        y = y[:, ::-1]
    return y if sequences else y[:, -1], h[0], c[0]


def both_ways(layer: LSTM, sequences: bool, x: Array, mask: Any = None, *states: Array) -> Any:
    """Return what a bidirectional LSTM gives in Keras: both outputs, and h and c of each."""
    y, (h, c) = _run(layer, sequences, x, mask, states)
    ahead, back = np.split(y, 2, axis=2)
    if not sequences:
        ahead, back = ahead[:, -1], back[:, 0]
    return ahead, back, h[0], c[0], h[1], c[1]


def one_way_each(
    ahead: Compute, back: Compute, sequences: bool, x: Array, mask: Any = None, *states: Array
) -> Any:
    """Do what `both_ways` does with two LSTMs that differ in more than their direction."""
    half = len(states) // 2
    y, *first = ahead(x, mask, *states[:half])
    z, *second = back(x, mask, *states[half:])
    return y, z[:, ::-1] if sequences else z, *first, *second


def merged(mode: str | None, directions: Compute, *values: Any) -> Any:
    """Return the outputs of two directions in one, and their states; in two if there is no mode."""
    y, z, *states = directions(*values)
    if mode is None:
        return y, z, *states
    return _MERGED[mode](y, z), *states


def _beside(y: Array, z: Array) -> Any:
    return np.concatenate([y, z], axis=-1)


def _mean(y: Array, z: Array) -> Any:
    return (y + z) / 2


_MERGED: dict[str, Callable[[Array, Array], Array]] = {
    "concat": _beside,
    "sum": np.add,
    "mul": np.multiply,
    "ave": _mean,
}


def _run(layer: LSTM, zero: bool, x: Array, mask: Any, states: Sequence[Array]) -> Any:
    """Run a layer over x (B, T, I) with states h, c of each direction."""
    hx = (np.stack(states[::2]), np.stack(states[1::2])) if states else None
    if mask is None:
        return layer(x, hx)
    return layer(x, hx, mask=mask.astype(bool), masked_output="zero" if zero else "last")


def time_major(compute: Compute, sequences: bool, x: Array, mask: Any, *states: Array) -> Any:
    """Do what a recurrent layer does with values (T, B, F)."""
    mask = None if mask is None else mask.swapaxes(0, 1)
    y, *rest = compute(x.swapaxes(0, 1), mask, *states)
    return (y.swapaxes(0, 1) if sequences else y), *rest
