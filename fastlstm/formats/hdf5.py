"""HDF5 files as Keras writes them, read by h5py with distrust.

What a file can make its reader do is kept small. Only what lies in the file itself is read: no
links to other files, no data sets that are stored elsewhere or put together from others. Only
filters that h5py has built in are applied, because HDF5 loads others from libraries. All arrays
together, and all texts, may take what the budget allows, however small they are stored. Whatever
h5py finds wrong becomes a ValueError.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..checks import short
from .dtypes import numbers

if TYPE_CHECKING:
    from ..arrays import Array
    from .budget import Budget

MAGIC = b"\x89HDF\r\n\x1a\n"

_FILTERS = {1, 2, 3, 32000}  # deflate, shuffle, Fletcher's checksum, LZF
_HEAP = b"GCOL"  # begins a collection of texts of any length; 8 bytes behind it its size stands
_Result = TypeVar("_Result")


def _told(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """Let a function raise ValueErrors alone; h5py has many ways to say that a file is damaged."""

    @wraps(function)
    def told(*arguments: Any, **options: Any) -> _Result:
        try:
            return function(*arguments, **options)
        except (OSError, KeyError, RuntimeError, TypeError, OverflowError, AttributeError) as fault:
            raise ValueError(f"a damaged or truncated HDF5 file: {short(fault, '')}") from fault
        except UnicodeDecodeError as fault:
            raise ValueError(f"a damaged HDF5 file: {fault}") from fault

    return told


@contextmanager
def opened(data: bytes | bytearray, budget: Budget) -> Iterator[Group]:
    """Open the content of a file, and give its root.

    Raises
    ------
    ValueError
        If the file is damaged.
    ImportError
        If the h5py library is missing.
    """
    library = _library()
    file = _told(library.File)(io.BytesIO(data), "r")
    try:
        yield Group(file, budget, _longest_text(data))
    finally:
        file.close()


class Group:
    """A group of an HDF5 file: named groups and arrays, with texts as attributes."""

    def __init__(self, group: Any, budget: Budget, longest: int) -> None:
        self._group, self._budget, self._longest = group, budget, longest

    @_told
    def names(self) -> list[str]:
        """Return the names of what is inside, as they are sorted."""
        names = []
        for name in self._group:
            self._budget.spend("names of modules and their tensors")
            self._budget.spend("letters of names", len(name))
            names.append(name)
        return names

    @_told
    def group(self, path: str) -> Group | None:
        """Return a group inside, or inside groups inside; None if there is none."""
        found = self._find(path)
        library = _library()
        if not isinstance(found, library.Group):
            return None
        return Group(found, self._budget, self._longest)

    @_told
    def has_array(self, path: str) -> bool:
        """Tell whether there is an array."""
        return isinstance(self._find(path), _library().Dataset)

    @_told
    def array(self, path: str) -> Array:
        """Return an array of numbers; floats of 16 bits are widened to float32."""
        data = self._find(path)
        if not isinstance(data, _library().Dataset):
            raise ValueError(f"it has no array {short(path)}")
        if data.is_virtual or data.external:
            raise ValueError(f"array {short(path)} is stored outside the file")
        properties = data.id.get_create_plist()
        filters = {properties.get_filter(n)[0] for n in range(properties.get_nfilters())}
        if filters - _FILTERS:
            raise ValueError(f"array {short(path)} is compressed by a filter that is not known")
        if data.shape is None:
            raise ValueError(f"array {short(path)} is empty")
        dtype = data.dtype
        is_bfloat16 = dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None
        if not is_bfloat16 and dtype.kind not in "fiub":
            raise ValueError(f"array {short(path)} holds no numbers, but {short(dtype, '')}")
        for shape in (data.shape, data.chunks or ()):
            self._budget.check("inflated bytes", math.prod(shape) * dtype.itemsize)
        self._budget.spend("inflated bytes", math.prod(data.shape) * dtype.itemsize)
        array: Array = data[()]
        if is_bfloat16:
            return numbers(array.tobytes(), "bfloat16").reshape(array.shape)
        if dtype.kind == "f" and dtype.itemsize == 2:
            return array.astype(np.float32)
        return np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(array.shape)

    @_told
    def text(self, name: str) -> str | None:
        """Return an attribute that is one text; None if there is none."""
        value = self._attribute(name, ())
        return None if value is None else _decoded(value)

    @_told
    def texts(self, name: str) -> list[str] | None:
        """Return an attribute that is a list of texts; None if there is none.

        Keras stores a long list in parts, under the names name0, name1 and so on.
        """
        if (whole := self._attribute(name, None)) is not None:
            return [_decoded(one) for one in whole]
        if self._attribute(f"{name}0", None) is None:
            return None
        found: list[str] = []
        number = 0
        while (part := self._attribute(f"{name}{number}", None)) is not None:
            found += [_decoded(one) for one in part]
            number += 1
        return found

    def _attribute(self, name: str, shape: tuple[int, ...] | None) -> Any:
        """Return the value of an attribute of texts, of this shape, or of any of one axis."""
        library = _library()
        encoded = name.encode()
        if not library.h5a.exists(self._group.id, encoded):
            return None
        attribute = library.h5a.open(self._group.id, encoded)
        count, kind = math.prod(attribute.shape), attribute.get_type()
        if shape is None and len(attribute.shape) == 1 and not count:
            return []  # NumPy has no empty list of texts, so that Keras writes one of floats
        if attribute.shape != shape and (shape is not None or len(attribute.shape) != 1):
            raise ValueError(f"attribute {short(name)} has another shape")
        if not isinstance(kind, library.h5t.TypeStringID):
            raise ValueError(f"attribute {short(name)} is no text")
        each = self._longest if kind.is_variable_str() else kind.get_size()
        self._budget.check("inflated bytes", count * each)
        value = self._group.attrs[name]
        self._budget.spend("inflated bytes", sum(map(len, [value] if shape == () else value)))
        return value

    def _find(self, path: str) -> Any:
        """Return what a path of names leads to, by hard links alone; None if it leads nowhere."""
        library, found = _library(), self._group
        for name in path.split("/"):
            if not isinstance(found, library.Group) or not name or name == ".":
                return None
            link = found.get(name, getlink=True)
            if link is None:
                return None
            if not isinstance(link, library.HardLink):
                raise ValueError(f"{short(path)} is a link, which may lead out of the file")
            found = found[name]
        return found


def _decoded(text: Any) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)


def _longest_text(data: bytes | bytearray) -> int:
    """Return how many bytes a text of any length may have at most.

    Such texts stand apart from the attributes that have them, so that a small list can name a long
    text many times.
    """
    longest, at = 0, data.find(_HEAP)
    while at >= 0:
        size = int.from_bytes(data[at + 8 : at + 16], "little")
        longest = max(longest, min(size, len(data)))
        at = data.find(_HEAP, at + 1)
    return longest


def _library() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "a Keras file needs the h5py library: pip install 'fastlstm[keras]'"
        ) from error
    return h5py
