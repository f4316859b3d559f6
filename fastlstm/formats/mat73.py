"""MATLAB's files of version 7.3, which are HDF5 files behind 512 bytes.

A variable is an array with its class as an attribute. A struct is a group with an array for each
field. The elements of a cell, and the fields of several structs, are references to what stands in a
group "#refs#". Axes are in the opposite order. Files are read by our own `hdf5`, which says why.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import short
from . import hdf5, hdf5_chunks
from .mat_values import Cell, Closed, Struct, Variable

if TYPE_CHECKING:
    from ..arrays import Array
    from .source import Source

_HEADER = 512
_NUMBERS = {"double": "f8", "single": "f4", "logical": "u1"}
_NUMBERS |= {f"int{8 * size}": f"i{size}" for size in (1, 2, 4, 8)}
_NUMBERS |= {f"uint{8 * size}": f"u{size}" for size in (1, 2, 4, 8)}
_INSIDE = ("#refs#", "#subsystem#")  # what variables refer to


def recognises(head: bytes) -> bool:
    """Tell whether a file begins as one of this version does."""
    return head.startswith(b"MATLAB") and head[124:128] in (b"\0\2IM", b"\2\0MI")


def variables(source: Source) -> dict[str, Variable]:
    """Return the variables of a file by their names.

    Raises
    ------
    ValueError
        If the file is damaged, or not of the form in which MATLAB writes it.
    """
    if source.size < _HEADER:
        raise ValueError(f"it is truncated: it has {source.size} bytes")
    data = source.read(_HEADER, source.size - _HEADER)
    file = hdf5.File(data, source.budget, _HEADER, "MATLAB")
    reader = _Reader(file)
    return {
        name: Variable(reader.kind(header, name), functools.partial(reader.value, header, name))
        for name, header in file.root.headers().items()
        if name not in _INSIDE
    }


def _object(kind: str) -> str:
    """Return what is said of a value of another class."""
    if kind == "function_handle":
        return "a function handle"
    return f"an object of MATLAB's class {short(kind)}"


class _Reader:
    """Reads the values of one file, by where their headers are."""

    def __init__(self, file: hdf5.File) -> None:
        self._file = file

    def kind(self, header: int, name: str) -> str:
        """Return the name of the class of a value; "" if it has none."""
        if not header:
            raise ValueError(f"{short(name)} is a link, which may lead anywhere")
        return hdf5.Group(self._file, header).text("MATLAB_class") or ""

    def value(self, header: int, name: str, depth: int = 0) -> Any:
        """Return the value whose header is at a place."""
        self._file.budget.check("levels of modules", depth)
        self._file.budget.spend("values of MATLAB")
        try:
            return self._value(header, name, depth)
        except hdf5.UnknownType:
            return Closed("an array of complex numbers, or of others that are not read")

    def _value(self, header: int, name: str, depth: int) -> Any:
        kind, group = self.kind(header, name), hdf5.Group(self._file, header)
        if kind == "struct":
            return self._struct(group, header, name, depth)
        if group.is_group:
            return Closed("a sparse matrix" if kind in _NUMBERS else _object(kind))
        if kind == "cell":
            references = self._array(group, header, name)
            shape, found = self._elements(references, name, depth)
            return Cell(shape, found)
        if kind in _NUMBERS:
            array = self._array(group, header, name)
            if array.dtype.kind not in "iufb":
                raise ValueError(f"a damaged MATLAB file: {short(name)} holds no numbers")
            return np.ascontiguousarray(array.T.astype(_NUMBERS[kind], copy=False))
        if kind == "char":
            return self._text(self._array(group, header, name), name)
        return Closed(_object(kind) if kind else "no array of MATLAB")

    def _array(self, group: hdf5.Group, header: int, name: str) -> Array:
        """Return an array in HDF5's order of axes; of an empty one there are just the sizes."""
        array = self._file.array(header, name, hdf5_chunks.read)
        return np.zeros((0, 0)) if group.number("MATLAB_empty") else array

    def _text(self, array: Array, name: str) -> Any:
        if not array.size:
            return ""
        if array.ndim != 2 or array.shape[1] != 1:
            return Closed("an array of several texts")
        if array.dtype.kind != "u":
            raise ValueError(f"a damaged MATLAB file: {short(name)} is no text")
        try:
            return array.astype("<u2").tobytes().decode("utf-16-le")
        except UnicodeDecodeError as fault:
            raise ValueError(f"a damaged MATLAB file: {fault}") from fault

    def _elements(
        self, references: Array, name: str, depth: int
    ) -> tuple[tuple[int, ...], list[Any]]:
        """Return the shape of an array of references, and the values to which they lead."""
        if references.dtype != np.uint64:
            if not references.size:
                return (0, 0), []
            raise ValueError(f"a damaged MATLAB file: {short(name)} has no elements")
        found = [self.value(header, name, depth + 1) for header in references.ravel().tolist()]
        return references.shape[::-1], found

    def _struct(self, group: hdf5.Group, header: int, name: str, depth: int) -> Any:
        if not group.is_group:  # an empty array of structs
            self._array(group, header, name)
            return Struct((0, 0), [])
        fields: dict[str, Any] = {}
        several: dict[str, list[Any]] = {}
        shape: tuple[int, ...] = (1, 1)
        for field, inside in group.headers().items():
            if self.kind(inside, field) or hdf5.Group(self._file, inside).is_group:
                fields[field] = self.value(inside, field, depth + 1)
            else:  # one reference for each of several structs
                array = self._file.array(inside, field, hdf5_chunks.read)
                if several and array.shape[::-1] != shape:
                    raise ValueError(f"a damaged MATLAB file: the fields of {short(name)} differ")
                shape, several[field] = self._elements(array, field, depth)
        if several and fields:
            raise ValueError(f"a damaged MATLAB file: the fields of {short(name)} differ")
        if not several:
            return Struct((1, 1), [fields])
        count = len(next(iter(several.values())))
        return Struct(shape, [{f: of[n] for f, of in several.items()} for n in range(count)])
