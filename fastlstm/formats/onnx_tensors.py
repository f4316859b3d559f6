"""The tensors of an ONNX file as arrays, whichever of many ways of storing them was taken."""

from __future__ import annotations

import functools
import math
import os
import stat
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import short

if TYPE_CHECKING:
    from ..arrays import Array
    from ..graphs.limits import Limits
    from .source import Source

_MIB = 1 << 20
# The field of a TensorProto that holds the numbers of a type, where they are not bytes. All types
# that are missing here, most of which have at most 16 bits, lie in int32_data.
_FIELDS = {
    **dict.fromkeys(("FLOAT", "COMPLEX64"), "float_data"),
    **dict.fromkeys(("DOUBLE", "COMPLEX128"), "double_data"),
    **dict.fromkeys(("UINT32", "UINT64"), "uint64_data"),
    "INT64": "int64_data",
    "STRING": "string_data",
}
_PACKED = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}  # bits of a number


class Tensors:
    """Reads the tensors of a file.

    Parameters
    ----------
    source : Source
    limits : Limits
        Of what a sparse tensor takes when it is filled with its zeros.
    key : str
        By which a tensor says where in the file its numbers lie.
    """

    def __init__(self, source: Source, limits: Limits, key: str) -> None:
        self._source, self._limits, self._key = source, limits, key
        self._external: dict[str, int] = {}  # how much may still be read of each file beside it
        self._regions: dict[tuple[Any, ...], Array] = {}

    def array(self, tensor: Any) -> Array:
        """Return the array of a TensorProto, which nobody may write into.

        Raises
        ------
        ValueError
            If its numbers are not those that its type and sizes ask for.
        """
        kind = _kinds().get(tensor.data_type, "UNDEFINED")
        if kind == "UNDEFINED":
            raise ValueError(f"a tensor has the unknown type {tensor.data_type}")
        shape = tuple(tensor.dims)
        if any(size < 0 for size in shape):
            raise ValueError(f"a tensor has a size below 0: {short(shape)}")
        if tensor.HasField("segment"):
            raise ValueError("a tensor is stored in segments, which ONNX has given up")
        count = math.prod(shape)
        dtype = dtype_of(tensor.data_type)
        place = next((e.value for e in tensor.external_data if e.key == self._key), None)
        if place is not None:
            start, end = map(int, place.split())
            if kind == "STRING" or tensor.HasField("raw_data"):
                raise ValueError("a tensor of strings is stored as bytes, or any tensor twice")
            _check_count(end - start, _bytes(kind, dtype, count), "bytes", shape, kind)
            array = _numbers(self._source.read(start, end - start), dtype, count, kind)
        elif tensor.data_location == tensor.EXTERNAL:
            array = self._beside(tensor, dtype, count, kind)
        elif tensor.HasField("raw_data"):
            data = tensor.raw_data
            if kind == "STRING":
                raise ValueError("a tensor of strings is stored as bytes")
            _check_count(len(data), _bytes(kind, dtype, count), "bytes", shape, kind)
            array = _numbers(data, dtype, count, kind)
        else:
            array = _from_field(tensor, dtype, count, kind)
        array = array.reshape(shape)
        array.flags.writeable = False
        return array

    def dense(self, sparse: Any) -> Array:
        """Return the array of a SparseTensorProto, with its zeros."""
        values, places = self.array(sparse.values), self.array(sparse.indices)
        shape = tuple(sparse.dims)
        self._limits.allow(shape, values.dtype.itemsize)
        if values.ndim != 1 or places.dtype != np.int64:
            raise ValueError("a sparse tensor needs values of one axis, and indices of int64")
        if places.shape == (len(values), len(shape)):
            inside = (places >= 0) & (places < np.array(shape))
            index = tuple(places.T)
        elif places.shape == values.shape:
            inside = (places >= 0) & (places < math.prod(shape))
            index = (places,)
        else:
            raise ValueError(
                f"a sparse tensor has {len(values)} values, but indices of shape {places.shape}"
            )
        if not inside.all():
            raise ValueError(f"a sparse tensor has an index outside of its shape {short(shape)}")
        array = np.zeros(shape if len(index) == len(shape) else math.prod(shape), values.dtype)
        array[index] = values
        array = array.reshape(shape)
        array.flags.writeable = False
        return array

    def _beside(self, tensor: Any, dtype: np.dtype[Any], count: int, kind: str) -> Array:
        """Return the numbers of a tensor that lie in another file of the same folder."""
        if kind == "STRING":
            raise ValueError("a tensor of strings is stored in another file")
        told = {entry.key: entry.value for entry in tensor.external_data}
        check_text(*told, *told.values())
        path, size = self._file(told.get("location", ""))
        start = _whole(told.get("offset", "0"), "offset")
        wanted = _bytes(kind, dtype, count)
        if "length" in told:
            _check_count(
                _whole(told["length"], "length"), wanted, "bytes", tuple(tensor.dims), kind
            )
        if start + wanted > size:
            raise ValueError(
                f"{wanted} bytes from byte {start} on are wanted of its file "
                f"{short(os.path.basename(path))}, which has {size}"
            )
        region = (path, start, count, kind)
        if region not in self._regions:
            left = self._external.setdefault(path, 2 * size + _MIB) - wanted
            if left < 0:
                raise ValueError(
                    f"its tensors take far more bytes of the file {short(os.path.basename(path))} "
                    f"than the {size} that it has"
                )
            self._external[path] = left
            with open(path, "rb") as file:
                file.seek(start)
                data = np.fromfile(file, np.uint8, wanted)
            if len(data) < wanted:
                raise ValueError(f"its file {short(os.path.basename(path))} became shorter")
            self._regions[region] = _numbers(data, dtype, count, kind)
        return self._regions[region]

    def _file(self, location: str) -> tuple[str, int]:
        """Return the path and the size of a file beside this one."""
        if self._source.folder is None:
            raise ValueError(
                f"numbers of it lie in another file, {short(location)}: give the path of the "
                "model instead of an open file"
            )
        parts = location.replace("\\", "/").split("/")
        if not location or "\0" in location or os.path.isabs(location) or ".." in parts:
            raise ValueError(
                f"numbers of it lie in the file {short(location)}, which must be named by a path "
                "inside the model's folder"
            )
        folder = os.path.realpath(self._source.folder)
        path = os.path.realpath(os.path.join(folder, location))
        if os.path.commonpath([folder, path]) != folder:
            raise ValueError(
                f"numbers of it lie in the file {short(location)}, a link out of the model's folder"
            )
        try:
            found = os.stat(path)
        except OSError as fault:
            raise ValueError(
                f"numbers of it lie in the file {short(location)}, which cannot be read: "
                f"{fault.strerror}"
            ) from fault
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"numbers of it lie in {short(location)}, which is no plain file")
        return path, found.st_size


@functools.cache
def _kinds() -> dict[int, str]:
    """Return the types of tensors by their numbers."""
    from onnx import TensorProto

    return {number: name for name, number in TensorProto.DataType.items()}


@functools.cache
def dtype_of(data_type: int) -> np.dtype[Any]:
    """Return NumPy's dtype for a type of ONNX; ValueError if there is none.

    Those that NumPy lacks, such as bfloat16, are those of ml_dtypes, which onnx brings along.
    """
    from onnx import helper

    try:
        dtype: np.dtype[Any] = np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    except KeyError:
        raise ValueError(f"its numbers have the type {data_type}, which NumPy lacks") from None
    return dtype


def check_text(*texts: object) -> None:
    """Raise ValueError unless all texts are text: what is no UTF-8 comes as bytes."""
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{short(text)} is no text")


def _bytes(kind: str, dtype: np.dtype[Any], count: int) -> int:
    """Return how many bytes so many numbers take where they are stored as bytes."""
    return -(-count * _PACKED.get(kind, 8 * dtype.itemsize) // 8)


def _check_count(got: int, wanted: int, what: str, shape: tuple[int, ...], kind: str) -> None:
    if got != wanted:
        raise ValueError(
            f"a tensor of {kind} and shape {short(shape)} has {got} {what} instead of {wanted}"
        )


def _whole(text: str, what: str) -> int:
    """Return a number that a file has as text."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"the {what} of a tensor in another file is {short(text)}")
    return int(text)


def _numbers(data: Any, dtype: np.dtype[Any], count: int, kind: str) -> Array:
    """Return a flat array of so many numbers that are stored as bytes."""
    if kind in _PACKED:
        return _unpacked(np.frombuffer(data, np.uint8), dtype, count, _PACKED[kind])
    if dtype.isbuiltin == 1:  # not one of ml_dtypes
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False)
    return np.frombuffer(data, f"<u{dtype.itemsize}").astype(f"u{dtype.itemsize}").view(dtype)


def _unpacked(data: Array, dtype: np.dtype[Any], count: int, bits: int) -> Array:
    """Return numbers of 2 or 4 bits, of which the first ones in a byte are its lowest bits."""
    codes: Array = (data[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & ((1 << bits) - 1)
    codes = codes.astype(np.uint8).reshape(-1)[:count]
    if dtype.name.startswith("float"):
        return codes.view(dtype)
    if dtype.name.startswith("int"):
        half = 1 << (bits - 1)
        codes = (codes.astype(np.int8) ^ half) - half
    array: Array = codes.astype(dtype)
    return array


def _from_field(tensor: Any, dtype: np.dtype[Any], count: int, kind: str) -> Array:
    """Return a flat array of numbers or strings that are not stored as bytes."""
    field = _FIELDS.get(kind, "int32_data")
    values = getattr(tensor, field)
    shape = tuple(tensor.dims)
    if kind == "STRING":
        _check_count(len(values), count, "strings", shape, kind)
        array = np.empty(count, object)
        array[:] = [text.decode("utf-8", "replace") for text in values]
        return array
    each = 2 if dtype.kind == "c" else 1
    if kind in _PACKED:  # one byte in each
        stored = np.array(values, np.int32)
        _check_count(len(stored), _bytes(kind, dtype, count), "numbers", shape, kind)
        return _unpacked(_narrow(stored, np.dtype(np.uint8), kind), dtype, count, _PACKED[kind])
    _check_count(len(values), each * count, "numbers", shape, kind)
    if field in ("float_data", "double_data"):
        flat = np.array(values, np.float32 if field == "float_data" else np.float64)
        return flat.view(dtype)
    stored = np.array(values, {"int64_data": "i8", "uint64_data": "u8"}.get(field, "i4"))
    if dtype.kind in "iu":
        return _narrow(stored, dtype, kind)
    if dtype.kind == "b":
        return stored.astype(bool)
    return _narrow(stored, np.dtype(f"u{dtype.itemsize}"), kind).view(dtype)  # floats as codes


def _narrow(stored: Array, dtype: np.dtype[Any], kind: str) -> Array:
    """Return integers as a narrower type; ValueError if one does not fit."""
    array: Array = stored.astype(dtype)
    if not np.array_equal(array.astype(stored.dtype), stored):
        raise ValueError(f"a tensor of {kind} has a number that this type cannot hold")
    return array
