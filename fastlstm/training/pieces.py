"""Arrays larger than memory: read and written in pieces, while other pieces are computed."""

from __future__ import annotations

import contextvars
import mmap
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import as_array, column_names, is_column

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")


def is_stored(value: Any) -> bool:
    """Tell whether a value is an array that is read from elsewhere, slice by slice.

    That is a memory map, or anything with `shape`, `dtype` and slices that is no array in memory:
    data sets of h5py, arrays of zarr, dask and others. None of these is imported here.
    """
    if isinstance(value, np.ndarray):
        base: Any = value
        while isinstance(base, np.ndarray):
            base = base.base
        return isinstance(base, mmap.mmap)
    parts = ("shape", "dtype", "__getitem__")
    if isinstance(value, np.generic) or not all(hasattr(value, part) for part in parts):
        return False
    in_memory = hasattr(value, "__dlpack__")  # as tensors are
    return not in_memory and column_names(value) is None and not is_column(value)


def is_chunks(value: Any) -> TypeGuard[Iterable[Any]]:
    """Tell whether a value gives pieces one after the other, as a generator does."""
    return hasattr(value, "__iter__") and not hasattr(value, "__getitem__")


class Stored:
    """An array that is read piece by piece.

    Parameters
    ----------
    array : any array
        In memory, or as `is_stored` knows it.
    name : str
        For errors.

    Attributes
    ----------
    shape : tuple of int
    is_slow : bool
        Whether to read it beside the computing.
    """

    def __init__(self, array: Any, name: str) -> None:
        self.is_slow, self._name = is_stored(array), name
        self._array = array if self.is_slow else as_array(array, name)
        shape = tuple(self._array.shape)
        if not all(isinstance(size, (int, np.integer)) for size in shape):
            raise ValueError(f"Expected {name} of a known shape, got {shape}")
        self.shape = tuple(map(int, shape))

    def pieces(self, axis: int, size: int) -> Iterator[NDArray[Any]]:
        """Read it in order, in pieces along axis 0 or 1; one that is empty if it has no length.

        A piece has the length `size` at least. Where the array is stored in chunks, which can only
        be read as a whole, a piece is made of whole ones.
        """
        chunks = getattr(self._array, "chunks", None) or ()  # None where there are none
        chunk = chunks[axis] if len(chunks) == len(self.shape) else 1
        if isinstance(chunk, int) and chunk > 0:
            size = -(-size // chunk) * chunk
        length = self.shape[axis]
        for first in range(0, max(length, 1), size):
            yield self._read(axis, slice(first, min(first + size, length)))

    def _read(self, axis: int, where: slice) -> NDArray[Any]:
        part = self._array[:, where] if axis else self._array[where]
        if not self.is_slow:
            return part
        array = as_array(part, self._name)
        if isinstance(part, np.ndarray):
            # A map is read from the file here; a reader of one's own may use its buffer again.
            array = np.array(array)
        expected = list(self.shape)
        expected[axis] = where.stop - where.start
        if array.shape != tuple(expected):
            raise ValueError(
                f"Expected a slice of {self._name} to have shape {tuple(expected)}, got "
                f"{array.shape}"
            )
        return array


def beside(
    compute: Callable[[_Piece], _Result], pieces: Iterable[_Piece], is_slow: bool
) -> Generator[_Result, None, None]:
    """Yield what `compute` makes of each piece, in order.

    Parameters
    ----------
    compute : callable
    pieces : iterable
        Only two or three are held at a time.
    is_slow : bool
        Whether `compute` runs in a thread of its own, and the next piece is read, and the result of
        the last one used, meanwhile. It is the calling thread that reads, so that what belongs to
        this thread can be read, and Ctrl-C ends a read that would take long; what is computed comes
        to an end.
    """
    if not is_slow:
        yield from map(compute, pieces)
        return
    context = contextvars.copy_context()
    worker = ThreadPoolExecutor(1, "fastlstm")
    try:
        before: Future[_Result] | None = None
        for piece in pieces:
            following = worker.submit(context.run, compute, piece)
            del piece
            if before is not None:
                yield before.result()
            before = following
        if before is not None:
            yield before.result()
    finally:
        worker.shutdown(cancel_futures=True)


class Target:
    """Where results go that come piece by piece: `out` as the caller gave it, or a new array.

    Parameters
    ----------
    out : anything with `shape`, `dtype` and assignment to slices, or None
    source : object
        What is read meanwhile: `out` must be other memory.
    axis : int
        0 or 1, along which the pieces follow each other.
    length : int, optional
        That of the axis, where it is known before.

    Raises
    ------
    TypeError, ValueError
        If `out` cannot take results of this length.
    """

    def __init__(self, out: Any, source: Any, axis: int, length: int | None) -> None:
        self._out, self._axis, self._length, self._filled = out, axis, length, 0
        self._is_given = out is not None
        if out is None:
            return
        parts = ("shape", "dtype", "__setitem__")
        if not all(hasattr(out, part) for part in parts):
            raise TypeError(
                "out should have a shape, a dtype and assignment to slices, as arrays, memory maps "
                f"and data sets of h5py and zarr do, got: {type(out).__name__}"
            )
        if isinstance(out, np.ndarray) and not out.flags.writeable:
            raise ValueError("out is read-only")
        same = out is source
        if isinstance(out, np.ndarray) and isinstance(source, np.ndarray):
            same = np.may_share_memory(out, source)
        if same:
            raise ValueError("out must be other memory than what is read")
        if len(out.shape) <= axis or (length is not None and out.shape[axis] != length):
            raise ValueError(
                f"Expected out with {length} values along axis {axis}, got shape {tuple(out.shape)}"
            )

    def put(self, y: NDArray[Any]) -> None:
        """Take the next piece."""
        axis, first = self._axis, self._filled
        last = first + y.shape[axis]
        length = self._length
        if self._is_given and length is None:
            length = int(self._out.shape[axis])
        if length is None or last > length:
            raise ValueError(f"Expected {length} results along axis {axis}, got at least {last}")
        shape = (*y.shape[:axis], length, *y.shape[axis + 1 :])
        if not first and not self._is_given:
            self._out = np.empty(shape, y.dtype)
        if tuple(self._out.shape) != shape or self._out.dtype != y.dtype:
            what = "out" if self._is_given else "results like those before,"
            raise ValueError(
                f"Expected {what} of {y.dtype} and shape {shape}, got {self._out.dtype} of shape "
                f"{tuple(self._out.shape)}"
            )
        where = slice(first, last)
        self._out[(slice(None), where) if axis else where] = y
        self._filled = last

    def filled(self, results: Iterable[NDArray[Any]]) -> Any:
        """Take all pieces; return the array, or raise ValueError if some of it is not filled."""
        for y in results:
            self.put(y)
        length = self._out.shape[self._axis]
        if self._filled != length:
            raise ValueError(
                f"Expected {length} results along axis {self._axis}, got {self._filled}"
            )
        return self._out
