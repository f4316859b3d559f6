"""How the pickles of torch describe tensors.

A pickle names a function that rebuilds the tensor from a storage, which stands elsewhere in the
file. Here nothing is rebuilt while a pickle is read. A tensor becomes a description, which is
checked against the size of its storage, or the reason why it is not read. NumPy arrays count as
tensors.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ..checks import short
from . import pickles
from .budget import Budget
from .dtypes import is_known, itemsize
from .pickles import Global, Object, Pickle, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..arrays import Array

_LONGEST_KEY = 255
_MOST_DIMENSIONS = 32  # the limit of NumPy 1
_LARGEST = 1 << 48  # for offset, shape and strides, which NumPy multiplies by the item's bytes
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_QUANTISED = {"QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4, "QUInt4x2Storage": 1}
PACKED = "is of a quantised layer, which is not read; save the model before its quantisation"
_TENSORS = {  # why a tensor is not read, by the last name of the function that rebuilds it
    "_rebuild_sparse_tensor": "is a sparse tensor, which is not read; save its to_dense()",
    "_rebuild_sparse_csr_tensor": "is a sparse tensor, which is not read; save its to_dense()",
    "_rebuild_qtensor": "is a quantised tensor, which is not read; save its dequantize()",
    "_rebuild_meta_tensor_no_storage": "is a meta tensor, which has a shape and no numbers",
    "_rebuild_nested_tensor": "is a nested tensor, which is not read; save its parts",
    "ScriptObject": PACKED,
}


class _StorageType(NamedTuple):
    """The name of a type of numbers, and the bytes of one number."""

    dtype: str
    itemsize: int


class Storage(NamedTuple):
    """A stored run of numbers: its key in the file, how many they are, and their type."""

    key: str
    length: int
    type: _StorageType


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class PickledArray(NamedTuple):
    """A NumPy array, whose bytes stand in the pickle itself."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    data: bytes


class Refused(NamedTuple):
    """Why an entry is not read. It is a tensor of another kind, or an object in its place."""

    reason: str
    is_tensor: bool = True


def as_tensor(value: Any) -> Tensor | PickledArray | Refused | None:
    """Return the tensor that a value of the pickle is, or why it is refused; None if it is none."""
    if isinstance(value, Tensor) and not is_known(value.storage.type.dtype):
        return Refused(f"has numbers of type {short(value.storage.type.dtype)}, which NumPy lacks")
    if isinstance(value, (Tensor, Refused)):
        return value
    if isinstance(value, tuple) and value and isinstance(value[0], Object):
        first = as_tensor(value[0])  # the value may be weight and bias of a quantised layer
        return first if isinstance(first, Refused) else None
    if not isinstance(value, Object):
        return None
    maker = value.maker
    if maker.is_of("torch") and maker.name in _TENSORS:
        return Refused(_TENSORS[maker.name])
    if maker.module in ("torch._utils", "torch._tensor") and maker.name.startswith("_rebuild"):
        return Refused(f"is a tensor of a kind that is not read: {short(str(maker))}")
    if maker.module == "torch.nn.parameter":
        return Refused(f"is {describe(value)}, which has no numbers")
    return _numpy_array(value)


def as_view(array: Array, tensor: Tensor) -> Array:
    """Return the tensor as a view of its storage's numbers; ndarray checks its bounds again."""
    step = array.itemsize
    strides = [step * stride for stride in tensor.strides]
    view: Array = np.ndarray(tensor.shape, array.dtype, array, tensor.offset * step, strides)
    span = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if view.size > span:  # one number stands at several places; torch too refuses to write there
        view.flags.writeable = False
    return view


def as_native(array: PickledArray) -> Array:
    """Return a pickled NumPy array in native byte order; float16 is widened to float32."""
    flat = np.frombuffer(bytearray(array.data), array.dtype)
    half = array.dtype == np.float16
    native = np.dtype("f4") if half else array.dtype.newbyteorder("=")
    return flat.astype(native, copy=False).reshape(array.shape, order=array.order)


# What the names in a pickle stand for


def unpickle(data: bytes, start: int, budget: Budget, storages: dict[str, Storage]) -> Pickle:
    """Read a pickle, and collect in `storages` those that it names, by their keys."""

    def persistent(described: Any) -> Any:
        if isinstance(described, tuple) and described[:1] == ("module",):
            return described[1]  # a class; old files keep its source beside it
        described = _as_tuple(described)
        if not isinstance(described, tuple) or not 5 <= len(described) <= 6:
            raise ValueError("its pickle is damaged: a storage is not described as torch does it")
        storage = _storage(*described)
        if storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"storage {short(storage.key)} is described in two ways")
        return storage

    return pickles.load(data, start, budget, _KNOWN, persistent)


def _as_tuple(described: Any) -> Any:
    """Return a persistent id as a tuple.

    Protocol 0 writes its text instead, as "('storage', <class 'torch.X'>, ...)".
    """
    if isinstance(described, str):
        pattern = r"\('storage', <class '([\w.]+)'>, '(\w+)', '([\w:]+)', (\d{1,18})(, None)?\)"
        if match := re.fullmatch(pattern, described):
            kind, key, location, count, _ = match.groups()
            return "storage", _KNOWN.get(kind), key, location, int(count)
    return described


def _storage(
    kind: Any, storage_type: Any, key: Any, location: Any, count: Any, view: Any = None
) -> Storage:
    """Return the storage of a persistent id: ('storage', torch.FloatStorage, '0', 'cpu', 12)."""
    if isinstance(storage_type, Global):
        storage_type = _StorageType(str(storage_type), 1)
    if kind != "storage" or not isinstance(storage_type, _StorageType) or view is not None:
        raise ValueError("its pickle is damaged: a storage is not described as torch does it")
    if type(key) is not str or len(key) > _LONGEST_KEY:
        raise ValueError("its pickle is damaged: a storage's key must be a short string")
    if type(count) is not int or count < 0:
        raise ValueError(f"storage {key!r} must hold a count of numbers, got {describe(count)}")
    return Storage(key, count, storage_type)


# Each of the following functions takes the arguments of the function of torch that its docstring
# names, and describes what that one would make.


def _tensor(
    budget: Budget,
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor | Refused:
    """torch._utils._rebuild_tensor_v2: a strided view, which must lie within its storage."""
    budget.spend("copied items", 4 + len(shape))
    if not isinstance(storage, Storage):
        raise ValueError(f"a tensor must be a view of a storage, got {describe(storage)}")
    if not len(shape) == len(strides) <= _MOST_DIMENSIONS:
        raise ValueError(
            f"a tensor must have as many strides as dimensions, at most {_MOST_DIMENSIONS}, got "
            f"{len(strides)} and {len(shape)}"
        )
    if any(type(n) is not int or not 0 <= n <= _LARGEST for n in (offset, *shape, *strides)):
        raise ValueError(
            f"a tensor's offset, shape and strides must be whole numbers from 0 to {_LARGEST}"
        )
    end = offset
    if math.prod(shape):
        end += 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if end > storage.length:
        raise ValueError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} "
            f"does not lie within its storage of {storage.length} numbers"
        )
    if isinstance(metadata, dict) and (metadata.get("conj") or metadata.get("neg")):
        return Refused("is a conjugate or negated view; save resolve_conj().resolve_neg() of it")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _typed_tensor(
    budget: Budget,
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor | Refused:
    """torch._utils._rebuild_tensor_v3: a view of bytes as numbers of a type."""
    if not isinstance(storage, Storage) or not isinstance(dtype, Global):
        raise ValueError("its pickle is damaged: a tensor must be a view of a storage, of a type")
    size = itemsize(dtype.name) if is_known(dtype.name) else 1
    storage = Storage(storage.key, storage.length // size, _StorageType(dtype.name, size))
    return _tensor(budget, storage, offset, shape, strides, grad, hooks, metadata)


def _parameter(budget: Budget, data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> Any:
    """torch._utils._rebuild_parameter and _rebuild_parameter_with_state: the tensor inside."""
    if not isinstance(data, (Tensor, Refused, Object)):
        raise ValueError(f"a Parameter must hold a tensor, got {describe(data)}")
    return data


def _tensor_of_class(
    budget: Budget, function: Any, kind: Any, arguments: Any, state: Any
) -> Tensor | Refused | Object:
    """torch._tensor._rebuild_from_type_v2: a tensor with attributes, or of a class of its own."""
    if isinstance(kind, Global) and kind.module not in ("torch", "torch.nn.parameter"):
        return Refused(f"is of the class {short(str(kind))}, whose meaning is its own code's")
    if function in (_tensor, _typed_tensor):
        tensor: Tensor | Refused = function(budget, *arguments)
        return tensor
    return Object(kind, arguments)


def _from_cpu(budget: Budget, data: Any, dtype: Any, device: Any, grad: Any) -> Any:
    """torch._utils._rebuild_device_tensor_from_numpy and _from_cpu_tensor: the numbers inside."""
    return data


_KNOWN: dict[str, Callable[..., Any] | _StorageType] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_class,
    "torch._utils._rebuild_device_tensor_from_numpy": _from_cpu,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _from_cpu,
    "torch.storage.UntypedStorage": _StorageType("untyped", 1),
}
_KNOWN |= {f"torch.{name}": _StorageType(t, itemsize(t)) for name, t in STORAGES.items()}
_KNOWN |= {f"torch.{name}": _StorageType(name, size) for name, size in _QUANTISED.items()}


# NumPy arrays in a pickle


def _numpy_array(value: Object) -> PickledArray | Refused | None:
    """Return the NumPy array that a pickle describes, or why it is refused; None if it is none."""
    maker = value.maker
    name = maker.name if maker.is_of("numpy") else None
    order: Any
    if name == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, fortran, data = value.state
        order = "F" if fortran is True else "C"
    elif name == "_frombuffer" and len(value.arguments) == 4:
        data, dtype, shape, order = value.arguments
    else:
        return None
    refused = Refused("is a NumPy array of other than plain numbers, which is not read")
    plain = _numpy_dtype(dtype)
    if plain is None or not isinstance(data, bytes) or type(shape) is not tuple:
        return refused
    if len(shape) > _MOST_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        return refused
    if math.prod(shape) * plain.itemsize != len(data) or order not in ("C", "F"):
        return refused
    return PickledArray(plain, shape, order, data)


def _numpy_dtype(value: Any) -> np.dtype[Any] | None:
    """Return the dtype of plain numbers that a pickle describes; None if it is another one."""
    if not isinstance(value, Object) or str(value.maker) != "numpy.dtype":
        return None
    code = value.arguments[0] if value.arguments else None
    if type(code) is not str or not re.fullmatch("b1|[iu][1248]|f[248]|c8|c16", code):
        return None
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else None
    return np.dtype(f"{order}{code}") if order in ("<", ">", "|") else None
