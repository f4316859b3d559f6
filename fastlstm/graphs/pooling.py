"""ONNX's pools: the largest number or the mean of windows that slide over the last axes.

Both go one axis after the other, since the largest of largest numbers is the largest of all, and
sums add up as well. Along an axis, they go place by place of the window, for all windows at once.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .limits import Limits
from .makers import Table, allow, along, attribute, whole, wholes, word
from .plan import Compute, Operator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..arrays import Array, Floats, Integers

POOLING = Table()

_PADDINGS = "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"


@POOLING.enter("GlobalMaxPool", "GlobalAveragePool")
def _make_global(operator: Operator) -> Compute:
    return _over_all_max if operator.type == "GlobalMaxPool" else _over_all_mean


def _over_all_max(x: Array) -> Any:
    return np.maximum.reduce(x, tuple(range(2, x.ndim)), keepdims=True)


def _over_all_mean(x: Floats) -> Any:
    return np.mean(x, tuple(range(2, x.ndim)), dtype=_wide(x), keepdims=True).astype(x.dtype)


def _wide(x: Array) -> Any:
    return np.float32 if x.itemsize == 2 else x.dtype


@POOLING.enter("MaxPool", "AveragePool", outputs=(1, 2))
def _make_pool(operator: Operator) -> Compute:
    kernel = wholes(attribute(operator, "kernel_shape"))
    count = len(kernel)
    geometry = _Geometry(
        kernel,
        wholes(operator.attributes.get("strides", (1,) * count)),
        wholes(operator.attributes.get("dilations", (1,) * count)),
        wholes(operator.attributes.get("pads", (0, 0) * count)),
        word(operator, "auto_pad", _PADDINGS, "NOTSET"),
        bool(whole(operator, "ceil_mode", 0)),
    )
    geometry.check()
    if operator.type == "MaxPool" and len(operator.outputs) > 1:
        by_columns = bool(whole(operator, "storage_order", 0))
        return partial(_max_pool_and_places, geometry, by_columns, operator.draft.limits)
    if operator.type == "MaxPool":
        return partial(_max_pool, geometry, operator.draft.limits)
    padding_counts = bool(whole(operator, "count_include_pad", 0))
    return partial(_average_pool, geometry, padding_counts, operator.draft.limits)


class _Windows(NamedTuple):
    """The windows along one axis: there are `number`, and the first begins `before` the axis.

    Their places are `dilation` apart, `kernel` many, and they themselves `stride` apart.
    """

    axis: int
    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    behind: int
    number: int

    def parts(self) -> Any:
        """Yield, for each place in a window, which windows have it on the axis, and there where."""
        lowest = self.before - (self.number - 1) * self.stride
        highest = (self.before + self.size - 1) // self.dilation
        for place in range(max(lowest // self.dilation, 0), min(highest + 1, self.kernel)):
            start = place * self.dilation - self.before
            first = max(-(start // self.stride), 0)
            last = min((self.size - 1 - start) // self.stride + 1, self.number)
            if first < last:
                begin = start + first * self.stride
                end = start + (last - 1) * self.stride + 1
                yield (
                    along(self.axis, slice(first, last)),
                    along(self.axis, slice(begin, end, self.stride)),
                )

    def counts(self, padding_counts: bool) -> Integers:
        """Return how many places of each window are on the axis or its padding; 1 if none is."""
        low, high = (-self.before, self.size + self.behind) if padding_counts else (0, self.size)
        starts = np.arange(self.number) * self.stride - self.before
        first = np.maximum(-((starts - low) // self.dilation), 0)
        last = np.minimum((high - 1 - starts) // self.dilation + 1, self.kernel)
        found: Integers = np.maximum(last - first, 1)
        return found

    def are_empty(self) -> NDArray[np.bool_]:
        """Return which windows lie in the padding as a whole."""
        empty = np.ones(self.number, bool)
        for there, _ in self.parts():
            empty[there[self.axis]] = False
        return empty


class _Geometry(NamedTuple):
    """How windows slide: each is a number for each axis, and pads those before and behind it."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str
    ceil: bool

    def check(self) -> None:
        """Raise ValueError if these are no windows."""
        axes = len(self.kernel)
        given = self.strides, self.dilations, self.pads[:axes], self.pads[axes:]
        if any(len(numbers) != axes for numbers in given):
            raise ValueError("its strides, dilations or pads are not as many as its axes")
        if min(self.kernel + self.strides + self.dilations, default=1) < 1 or min(self.pads) < 0:
            raise ValueError("a size of its windows is below 1, or a padding below 0")
        if any(pad >= size for pad, size in zip(self.pads, self.kernel * 2, strict=True)):
            raise ValueError("its padding is as large as a window")

    def windows(self, shape: Sequence[int]) -> list[_Windows]:
        """Return the windows along each of the last axes of an array."""
        axes = len(self.kernel)
        if len(shape) != axes + 2:
            raise ValueError(f"it pools over {axes} axes, behind two others, and not {shape}")
        return [
            self._along(axis, size, *numbers)
            for axis, (size, *numbers) in enumerate(
                zip(
                    shape[2:],
                    self.kernel,
                    self.strides,
                    self.dilations,
                    self.pads[:axes],
                    self.pads[axes:],
                    strict=True,
                ),
                start=2,
            )
        ]

    def _along(
        self,
        axis: int,
        size: int,
        kernel: int,
        stride: int,
        dilation: int,
        before: int,
        behind: int,
    ) -> _Windows:
        reach = (kernel - 1) * dilation + 1
        if self.auto_pad == "VALID":
            before = behind = 0
        elif self.auto_pad != "NOTSET":
            count = -(-size // stride)
            total = max((count - 1) * stride + reach - size, 0)
            before = total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2
            behind = total - before
        free = size + before + behind - reach
        if free < 0 or not size:
            raise ValueError(f"a window of {reach} is larger than the axis, {size}")
        count = free // stride + 1
        if self.ceil and free % stride and count * stride < size + before:
            count += 1  # it begins on the axis, and ends behind it
        return _Windows(axis, size, kernel, stride, dilation, before, behind, count)


def _pooled(ufunc: np.ufunc, nothing: Any, limits: Limits, windows: _Windows, x: Array) -> Array:
    shape = (*x.shape[: windows.axis], windows.number, *x.shape[windows.axis + 1 :])
    allow(limits, shape, x.dtype)
    allow(limits, (windows.before + windows.size + windows.behind,), x.dtype)
    y = np.full(shape, nothing, x.dtype)
    for there, here in windows.parts():
        part = y[there]
        ufunc(part, x[here], out=part)
    return y


def _max_pool(geometry: _Geometry, limits: Limits, x: Array) -> Array:
    least = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    for windows in geometry.windows(x.shape):
        x = _pooled(np.maximum, least, limits, windows, x)
        x[along(windows.axis, windows.are_empty())] = _lowest(x.dtype)
    return x


def _lowest(dtype: np.dtype[Any]) -> Any:
    """Return what the largest number of no numbers is: the lowest finite one, as in onnxruntime."""
    return np.iinfo(dtype).min if dtype.kind in "iu" else np.finfo(dtype).min


def _max_pool_and_places(
    geometry: _Geometry, by_columns: bool, limits: Limits, x: Array
) -> tuple[Array, Integers]:
    """Return the largest numbers, and the place of each among all of x: of equal ones the first.

    Places are counted in rows, the last axis first, or in columns of each image.
    """
    inner = x.shape[2:]
    allow(limits, x.shape, np.dtype(np.int64))
    places = np.arange(prod(inner)).reshape(inner[::-1] if by_columns else inner)
    places = places.T if by_columns else places
    images = np.arange(prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * len(inner))
    places = images * prod(inner) + places
    for windows in reversed(geometry.windows(x.shape)):  # so the first one comes first in a row
        shape = (*x.shape[: windows.axis], windows.number, *x.shape[windows.axis + 1 :])
        allow(limits, shape, np.dtype(np.int64))
        y, found = np.full(shape, _lowest(x.dtype), x.dtype), np.full(shape, -1)
        for there, here in windows.parts():
            better = (x[here] > y[there]) | (found[there] < 0)
            np.copyto(y[there], x[here], where=better)
            np.copyto(found[there], places[here], where=better)
        x, places = y, found
    return x, places


def _average_pool(geometry: _Geometry, padding_counts: bool, limits: Limits, x: Floats) -> Floats:
    y, every = x.astype(_wide(x), copy=False), geometry.windows(x.shape)
    for windows in every:
        y = _pooled(np.add, 0, limits, windows, y)
    counts = [windows.counts(padding_counts) for windows in every]
    if all(count.min() == count.max() for count in counts):
        y /= prod(int(count[0]) for count in counts)
    else:
        for n, count in enumerate(counts):
            y /= count.astype(y.dtype).reshape(-1, *[1] * (len(counts) - 1 - n))
    return y.astype(x.dtype, copy=False)
