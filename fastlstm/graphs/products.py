"""ONNX's products of matrices and convolutions: MatMul, MatMulInteger, Gemm, Conv.

A matrix that is known when the graph is read is packed once, and multiplied by the kernels of an
engine; a product of two computed values is NumPy's. A convolution is a product too: the windows
that the kernel moves over are laid out as rows, and multiplied by the kernel as a matrix. Inside,
channels are the last axis, so that a window is one piece of memory. What is returned is a view of
that with the axes in ONNX's order, and the next convolution finds it laid out as it needs it.

Sources: https://onnx.ai/onnx/operators/onnx__Conv.html, and the pages of Gemm and MatMul there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..layers import Linear
from ..layers.parameters import undrawn
from .plan import Compute, Node, Operator

if TYPE_CHECKING:
    from ..arrays import Array
    from ..engines import EngineChoice
    from .limits import Limits
    from .plan import Draft, Plan

_Make = Callable[[], "tuple[Array, Array | None]"]

_HALF = np.dtype(np.float16)  # computed in float32, as onnxruntime does
_FLOATS = _HALF, np.dtype(np.float32), np.dtype(np.float64)
# So many bytes of windows are laid out at once, for each thread: they stay in a core's L2 cache.
_BLOCK = 1 << 18


def linear_of(weight: Array, bias: Array | None, engine: EngineChoice) -> Linear:
    """Return a layer that has a matrix (out, in), and a bias (out,) or none, in its precision."""
    dtype = np.dtype(np.float64 if weight.dtype == np.float64 else np.float32)
    with undrawn():
        linear = Linear(
            weight.shape[1], weight.shape[0], bias is not None, dtype=dtype, engine=engine
        )
    arrays = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    linear.load_state_dict(arrays)
    return linear


# ---- products of matrices -----------------------------------------------------------------------


class Dense:
    """x W^T + b for a W and b that are known: x (..., in) or, if `transposed`, (in, rows)."""

    def __init__(self, linear: Linear, half: bool, transposed: bool, limits: Limits) -> None:
        self.linear, self.half, self.transposed, self.limits = linear, half, transposed, limits
        # Bytes of the result for each value of x.
        self._bytes = linear.dtype.itemsize * linear.out_features / linear.in_features

    def with_bias(self, draft: Draft, bias: Array) -> Dense:
        """Return it with a constant as its bias; the layer of the draft is replaced by its like."""
        size = self.linear.out_features

        def with_it() -> Linear:
            of_all = np.broadcast_to(bias, (size,))
            linear: Linear = linear_of(self.linear.weight, of_all, draft.engine).eval()
            draft.replace(self.linear, linear)
            return linear

        linear = draft.once("with bias", [self.linear, bias], with_it)
        return Dense(linear, self.half, self.transposed, self.limits)

    def __call__(self, x: Array) -> Array:
        if x.size * self._bytes > self.limits.most:
            rows = x.size // self.linear.in_features
            self.limits.allow((rows, self.linear.out_features), self.linear.dtype.itemsize)
        if self.transposed:
            if x.ndim != 2:
                raise ValueError(f"the first factor must have 2 axes, got the shape {x.shape}")
            x = x.T
        if self.half:
            return self.linear(x.astype(np.float32)).astype(_HALF)
        return self.linear(x)


def _dense(operator: Operator, constants: Sequence[Array], kind: Hashable, make: _Make) -> Dense:
    """Return the product with a matrix and a bias, or none, that `make` makes of constants.

    Its layer becomes one of the graph's.
    """
    draft = operator.draft

    def linear() -> Linear:
        made = linear_of(*make(), draft.engine)
        draft.layer(operator.name, made)
        return made

    layer = draft.once(("Linear", kind), constants, linear)
    half = constants[0].dtype == _HALF
    return Dense(layer, half, bool(operator.attributes.get("transA", 0)), draft.limits)


def put_back(draft: Draft, plan: Plan) -> None:
    """Put those layers into the draft that nodes of a plan use, and that are in it no more.

    What became one with another node may have had its layer together with nodes that did not.
    """
    known, plans = {id(layer) for layer in draft.layers.values()}, [plan]
    while plans:
        for node in plans.pop().nodes:
            compute: Any = node.compute
            plans += getattr(compute, "plans", ())
            dense = compute.args[0] if isinstance(compute, partial) and compute.args else compute
            if isinstance(dense, Dense) and id(dense.linear) not in known:
                known.add(id(dense.linear))
                draft.layer(node.name or node.type, dense.linear)


def _is_matrix(value: Any) -> bool:
    """Whether a Linear can have it, or its transpose, as weight."""
    is_array = isinstance(value, np.ndarray)
    return is_array and value.ndim == 2 and value.size > 0 and value.dtype in _FLOATS


def matmul(operator: Operator) -> Node | Compute:
    weight = operator.constant(1)
    if operator.constant(0) is None and _is_matrix(weight):
        return _node(operator, _dense(operator, [weight], "MatMul", lambda: (weight.T, None)), 1)
    return partial(_matmul, limits=operator.draft.limits)


def _matmul(a: Array, b: Array, *, limits: Limits) -> Array:
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.ndim > 1 else ()
    shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    limits.allow((*shape, *rows, *columns), max(a.itemsize, 4))
    if a.dtype == b.dtype == _HALF:
        return np.asarray(np.matmul(a, b, dtype=np.float32)).astype(_HALF)
    return np.asarray(np.matmul(a, b))


def matmul_integer(operator: Operator) -> Compute:
    """Multiply bytes as floats: these hold the sums exactly, and their products are quick."""
    b, zero = operator.constant(1), operator.constant(3)
    is_known = b is not None and (zero is not None or not operator.has(3))
    known = _less_zero(b, zero, _exact(b)) if is_known else None
    return partial(_matmul_integer, operator.draft.limits, known)


def _matmul_integer(
    limits: Limits,
    known: Array | None,
    a: Array,
    b: Array,
    a_zero: Array | None = None,
    b_zero: Array | None = None,
) -> Array:
    """Return (a - a_zero) (b - b_zero) in int32; `known` is the second factor, if it is known."""
    exact = _exact(b)
    if a_zero is not None and a_zero.ndim == 1:
        a_zero = a_zero[:, None]  # one for each row
    second = _less_zero(b, b_zero, exact) if known is None else known
    y = _matmul(_less_zero(a, a_zero, exact), second, limits=limits)
    return y.astype(np.int64).astype(np.int32)  # too large a sum begins anew from below


def _exact(b: Array) -> np.dtype[Any]:
    """Return the type of floats that holds all sums of a product of bytes with b."""
    terms = b.shape[-2] if b.ndim > 1 else b.size
    return np.dtype(np.float32 if terms * 255 * 255 <= 1 << 24 else np.float64)


def _less_zero(x: Array, zero: Array | None, dtype: np.dtype[Any]) -> Array:
    if x.dtype not in (np.int8, np.uint8):
        raise ValueError(f"it multiplies int8 and uint8, got {x.dtype}")
    return x.astype(dtype) if zero is None else np.subtract(x, zero, dtype=dtype)


def gemm(operator: Operator) -> Node | Compute | None:
    if operator.version < 7:
        return None  # C is broadcast by an attribute there
    attributes = operator.attributes
    alpha, beta = (float(attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    of_a, of_b = (bool(attributes.get(name, 0)) for name in ("transA", "transB"))
    weight, added = operator.constant(1), operator.constant(2)
    if operator.constant(0) is not None or not _is_matrix(weight):
        limits = operator.draft.limits
        return partial(_gemm, alpha=alpha, beta=beta, of_a=of_a, of_b=of_b, limits=limits)
    size = weight.shape[0 if of_b else 1]
    is_bias = isinstance(added, np.ndarray) and added.shape in _biases(size)

    def arrays() -> tuple[Array, Array | None]:
        scaled = weight if of_b else weight.T
        if alpha != 1:
            scaled = scaled * scaled.dtype.type(alpha)
        if not is_bias:
            return scaled, None
        bias = np.broadcast_to(added.reshape(-1), (size,))
        return scaled, bias if beta == 1 else bias * bias.dtype.type(beta)

    constants = [weight, added] if is_bias else [weight]
    dense = _dense(operator, constants, (alpha, beta, of_b), arrays)
    if is_bias or not operator.has(2):
        return _node(operator, dense, 1)
    inputs = operator.inputs[0], operator.inputs[2]
    compute = partial(_dense_and, dense, beta)
    return Node(operator.name, operator.type, compute, inputs, operator.outputs, "fastlstm")


def _biases(size: int) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a C that is the same for all rows."""
    return (), (1,), (1, 1), (size,), (1, size)


def _dense_and(dense: Dense, beta: float, a: Array, c: Array) -> Array:
    if a.ndim != 2:
        raise ValueError(f"the first factor must have 2 axes, got the shape {a.shape}")
    return _added(dense(a), beta, c)


def _gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    *,
    alpha: float,
    beta: float,
    of_a: bool,
    of_b: bool,
    limits: Limits,
) -> Array:
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"the factors must have 2 axes, got the shapes {a.shape} and {b.shape}")
    if a.dtype.kind in "iu" and not alpha.is_integer() & beta.is_integer():
        raise ValueError(f"alpha and beta of integers cannot be {alpha} and {beta}")
    y = _matmul(a.T if of_a else a, b.T if of_b else b, limits=limits)
    if alpha != 1:
        y *= y.dtype.type(alpha)
    return y if c is None else _added(y, beta, c)


def _added(y: Array, beta: float, c: Array) -> Array:
    """Return y + beta c, computed where y lies."""
    y += c if beta == 1 else c * y.dtype.type(beta)
    return y


def _node(operator: Operator, compute: Compute, count: int) -> Node:
    """Return a node that takes only the first inputs: it has the others, which are constants."""
    inputs, outputs = operator.inputs[:count], operator.outputs
    return Node(operator.name, operator.type, compute, inputs, outputs, "fastlstm")


# ---- convolutions -------------------------------------------------------------------------------


class _Matrix(Protocol):
    """What fills y with x W^T + b, row by row: an engine's `Product`, or `_Computed`."""

    def run(self, x: Array, y: Array, threads: int) -> None: ...


class _Computed(NamedTuple):
    """A matrix that the graph computes, for NumPy's product."""

    weight: Array
    bias: Array | None

    def run(self, x: Array, y: Array, threads: int) -> None:
        np.matmul(x, self.weight.T, out=y)
        if self.bias is not None:
            y += self.bias


class _Axis(NamedTuple):
    """How windows move along one axis."""

    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    def padded(self, size: int, auto_pad: str) -> _Axis:
        """Return it with the padding that an axis of this size gets."""
        if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
            return self
        reach = (self.kernel - 1) * self.dilation + 1
        missing = max(0, (-(-size // self.stride) - 1) * self.stride + reach - size)
        less, more = missing // 2, -(-missing // 2)
        before, after = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
        return self._replace(before=before, after=after)

    def windows(self, size: int) -> int:
        """Return the number of windows over so many values, padding included."""
        reach = (self.kernel - 1) * self.dilation + 1
        if reach > size:
            raise ValueError(f"a kernel over {reach} values does not fit into {size}")
        return (size - reach) // self.stride + 1


class _Layout(NamedTuple):
    """What follows from the shape of an input: sizes, and where the windows lie."""

    padded: tuple[int, ...]  # (N, S..., C), S with the padding
    inside: tuple[slice, ...] | None  # where the input goes; None if there is no padding
    windows: tuple[int, ...]  # (N, P..., K..., C): P positions of a window, K values in it
    strides: tuple[int, ...]  # of these axes, in bytes
    flat: tuple[int, int]  # (N P..., M)
    result: tuple[int, ...]  # (N, P..., M)


class Windows:
    """The windows of a kernel (M, C/groups, K...) that moves over images (N, C, S...).

    Parameters
    ----------
    axes : sequence of _Axis
    auto_pad : str
        ONNX's.
    kernels, channels : int
        M and C.
    groups : int
    dtype : dtype
        Of images and kernel.
    limits : Limits
    """

    def __init__(
        self,
        axes: Sequence[_Axis],
        auto_pad: str,
        kernels: int,
        channels: int,
        groups: int,
        dtype: np.dtype[Any],
        limits: Limits,
    ) -> None:
        self.axes, self.auto_pad, self.limits = tuple(axes), auto_pad, limits
        self.kernels, self.channels, self.groups = kernels, channels, groups
        self.dtype = dtype
        count = len(axes) + 2
        self.inwards = 0, *range(2, count), 1  # the axes of (N, C, S...) as (N, S..., C)
        self.outwards = 0, count - 1, *range(1, count - 1)
        self._last: Any = None, None  # the shape of the last input, and its layout

    def layout(self, shape: tuple[int, ...]) -> _Layout:
        """Return the layout for an input, which is kept: most inputs are like the last one."""
        last, known = self._last
        if last == shape:
            layout: _Layout = known
            return layout
        if len(shape) != len(self.axes) + 2 or shape[1] != self.channels:
            raise ValueError(
                f"the input must have {self.channels} channels and {len(self.axes)} axes of "
                f"positions, got the shape {shape}"
            )
        batch, channels, *sizes = shape
        axes = [axis.padded(n, self.auto_pad) for axis, n in zip(self.axes, sizes, strict=True)]
        padded = [axis.before + n + axis.after for axis, n in zip(axes, sizes, strict=True)]
        counts = [axis.windows(n) for axis, n in zip(axes, padded, strict=True)]
        item, groups, kernel = self.dtype.itemsize, self.groups, [axis.kernel for axis in axes]
        self.limits.allow((batch, *padded, channels), item)
        self.limits.allow((batch, *counts, self.kernels), item)
        # In bytes from one image to the next, and from one value of each axis to the next.
        image, *steps = (item * math.prod((*padded[n:], channels)) for n in range(len(axes) + 1))
        moves = [axis.stride * step for axis, step in zip(axes, steps, strict=True)]
        holes = [axis.dilation * step for axis, step in zip(axes, steps, strict=True)]
        inside = [slice(axis.before, axis.before + n) for axis, n in zip(axes, sizes, strict=True)]
        layout = _Layout(
            (batch, *padded, channels),
            None if padded == sizes else (slice(None), *inside),
            (batch, *counts, *kernel, channels // groups),
            (image, *moves, *holes, item),
            (batch * math.prod(counts), self.kernels),
            (batch, *counts, self.kernels),
        )
        self._last = shape, layout
        return layout

    def laid_out(self, x: Array, layout: _Layout) -> Array:
        """Return the input with channels last, and padding."""
        x = x.transpose(self.inwards)
        if layout.inside is None:
            return np.ascontiguousarray(x)
        data = np.zeros(layout.padded, self.dtype)
        data[layout.inside] = x
        return data

    def multiply(self, x: Array, matrices: Sequence[_Matrix], threads: int) -> Array:
        """Return the products (N, P..., M) of all windows with the matrix of each group."""
        layout = self.layout(x.shape)
        data = self.laid_out(x, layout)
        y = np.empty(layout.flat, self.dtype)
        if len(y):
            deep, wide = self.channels // self.groups, self.kernels // self.groups
            for group, matrix in enumerate(matrices):
                start = group * deep * self.dtype.itemsize
                windows = np.ndarray(layout.windows, self.dtype, data, start, layout.strides)
                columns, done = y[:, group * wide : (group + 1) * wide], 0
                for rows in _rows(windows, len(self.axes), _BLOCK * threads):
                    matrix.run(rows, columns[done : done + len(rows)], threads)
                    done += len(rows)
        return y.reshape(layout.result)

    def weigh(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """Return the same where each group is one channel with one kernel: sums of weighted values.

        `weight` is (K..., C).
        """
        layout, count = self.layout(x.shape), len(self.axes)
        data = self.laid_out(x, layout)
        y = np.zeros(layout.result, self.dtype)
        if bias is not None:
            y += bias
        moves, holes = layout.strides[: count + 1], layout.strides[count + 1 : -1]
        strides = *moves, self.dtype.itemsize
        for offsets in np.ndindex(weight.shape[:-1]):
            start = sum(n * hole for n, hole in zip(offsets, holes, strict=True))
            values = np.ndarray(layout.result, self.dtype, data, start, strides)
            y += values * weight[offsets]
        return y


def _rows(windows: Array, count: int, most: int) -> Iterator[Array]:
    """Yield the windows (N, P..., K..., C) as rows (positions, values), some `most` bytes of them.

    `count` is how many axes P... are.
    """
    width = math.prod(windows.shape[count + 1 :])
    image = windows.itemsize * math.prod(windows.shape[1:])
    pieces, size = [windows], image
    if image > most:  # a piece is a part of an image
        pieces, size = list(windows), image // windows.shape[1]
    step = max(1, most // size)
    for piece in pieces:
        for start in range(0, len(piece), step):
            rows = piece[start : start + step].reshape(-1, width)
            # With dilation and one channel, a view can have gaps between the values of a row.
            yield rows if rows.strides[1] == rows.itemsize else np.ascontiguousarray(rows)


class Convolution:
    """A convolution with a kernel (M, C/groups, K...) that is known."""

    def __init__(self, windows: Windows, weight: Array, bias: Array | None, draft: Draft) -> None:
        self.windows, self.dtype = windows, weight.dtype
        self._rectified = False
        axis = windows.axes[0]
        # What `Product.slide` takes, where it can compute this.
        self._slide = None
        if len(windows.axes) == windows.groups == 1 and not windows.auto_pad.startswith("SAME"):
            self._slide = axis.before, axis.after, axis.stride, axis.dilation
        self._depthwise = _of_channels(weight, bias) if _is_depthwise(windows) else None
        self._linears = []
        if self._depthwise is None:
            self._linears = draft.once(
                ("Conv", windows.groups),
                [weight, bias],
                lambda: [
                    linear_of(*p, draft.engine) for p in _matrices(weight, bias, windows.groups)
                ],
            )

    def rectified(self) -> Convolution:
        """Return it with negative results set to 0."""
        rectified = copy.copy(self)
        rectified._rectified = True
        return rectified

    def __call__(self, x: Array) -> Array:
        if x.dtype != self.dtype:
            raise ValueError(f"the kernel is of {self.dtype}, but the input of {x.dtype}")
        if self.dtype == _HALF:
            x = x.astype(np.float32)
        if self._slide is not None:
            self.windows.layout(x.shape)  # which checks it
            linear = self._linears[0]
            slid = linear._product().slide(x, *self._slide, self._rectified, linear.num_threads)
            if slid is not None:
                return slid.astype(_HALF) if self.dtype == _HALF else slid
        if self._depthwise is not None:
            y = self.windows.weigh(x, *self._depthwise)
        else:
            matrices = [linear._product() for linear in self._linears]
            y = self.windows.multiply(x, matrices, self._linears[0].num_threads)
        if self._rectified:
            np.maximum(y, 0, out=y)
        if self.dtype == _HALF:
            y = y.astype(_HALF)
        outwards: Array = y.transpose(self.windows.outwards)
        return outwards


def _convolve(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    attributes: Mapping[str, Any],
    limits: Limits,
) -> Array:
    """Return the convolution with a kernel that the graph computes."""
    windows = _windows(attributes, weight, limits)
    if x.dtype != weight.dtype:
        raise ValueError(f"the kernel is of {weight.dtype}, but the input of {x.dtype}")
    half = x.dtype == _HALF
    if half:
        x, weight = x.astype(np.float32), weight.astype(np.float32)
        bias = None if bias is None else bias.astype(np.float32)
    matrices = [_Computed(*part) for part in _matrices(weight, bias, windows.groups)]
    y = windows.multiply(x, matrices, 1)
    outwards: Array = (y.astype(_HALF) if half else y).transpose(windows.outwards)
    return outwards


def _is_depthwise(windows: Windows) -> bool:
    return windows.groups == windows.channels == windows.kernels > 1


def _of_channels(weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """Return the kernels (C, 1, K...) of single channels as (K..., C), and the bias."""
    dtype = np.float64 if weight.dtype == np.float64 else np.float32
    kernels = np.ascontiguousarray(np.moveaxis(weight[:, 0], 0, -1), dtype)
    return kernels, None if bias is None else bias.astype(dtype)


def _matrices(
    weight: Array, bias: Array | None, groups: int
) -> Iterator[tuple[Array, Array | None]]:
    """Yield the matrix (M/groups, K... C/groups) and bias of each group of a kernel."""
    size = len(weight) // groups
    rows = np.moveaxis(weight, 1, -1).reshape(len(weight), -1)
    for start in range(0, len(weight), size):
        part = slice(start, start + size)
        yield rows[part], None if bias is None else bias[part]


def _windows(attributes: Mapping[str, Any], weight: Array, limits: Limits) -> Windows:
    """Return how a kernel moves, by the attributes of a Conv.

    Raises
    ------
    ValueError
        If they do not fit together.
    """
    kernel, dtype = weight.shape, weight.dtype
    count = len(kernel) - 2
    if dtype not in _FLOATS:
        raise ValueError(f"a kernel cannot be of {dtype}")
    if count < 1 or 0 in kernel:
        raise ValueError(f"a kernel cannot have the shape {kernel}")

    def numbers(name: str, usual: int, least: int, times: int = 1) -> tuple[int, ...]:
        given = attributes.get(name)
        values = tuple(given) if given else (usual,) * (count * times)
        if len(values) != count * times or min(values) < least:
            raise ValueError(f"{name} cannot be {list(values)} for {count} axes")
        return values

    if given := attributes.get("kernel_shape"):
        if tuple(given) != kernel[2:]:
            raise ValueError(f"kernel_shape is {list(given)}, but the kernel's shape {kernel}")
    auto_pad = attributes.get("auto_pad", "NOTSET")
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad cannot be {auto_pad!r:.100}")
    pads = numbers("pads", 0, 0, 2) if auto_pad == "NOTSET" else (0,) * (2 * count)
    strides, dilations = numbers("strides", 1, 1), numbers("dilations", 1, 1)
    axes = map(_Axis, kernel[2:], strides, dilations, pads[:count], pads[count:])
    groups = attributes.get("group", 1)
    if groups < 1 or kernel[0] % groups:
        raise ValueError(f"{kernel[0]} kernels cannot be in {groups} groups")
    channels, inside = kernel[1] * groups, np.dtype(np.float32) if dtype == _HALF else dtype
    return Windows([*axes], auto_pad, kernel[0], channels, groups, inside, limits)


def conv(operator: Operator) -> Node | Compute:
    weight, bias, limits = operator.constant(1), operator.constant(2), operator.draft.limits
    is_known = weight is not None and (bias is not None or not operator.has(2))
    if operator.constant(0) is not None or not is_known:
        return partial(_convolve, attributes=dict(operator.attributes), limits=limits)
    windows = _windows(operator.attributes, weight, limits)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{len(weight)} kernels have a bias of the shape {bias.shape}")
    return _node(operator, Convolution(windows, weight, bias, operator.draft), 1)
