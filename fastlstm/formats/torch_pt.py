"""What torch wrote (.pt, .pth), read without it: state dicts, checkpoints, modules, TorchScript.

Two forms exist (torch/serialization.py). Since torch 1.6 a file is a zip: ``<root>/data.pkl``, a
pickle in which a tensor names its storage, and ``<root>/data/<key>``, the storages' raw numbers.
Before, it was one stream: pickles of a magic number, the protocol's version, facts of the machine,
the object and its storages' keys, then each storage as a count and raw numbers.

Nothing of a file is run or built: `pickles` reads the pickle, and knows of torch the functions
below, which describe a tensor. All else stays an object that is not opened, and matters only where
a tensor should stand. The descriptions are checked against their storages' sizes; memory is taken
only for those that are asked for. A module's tensors are found in its attributes, under the names
that its state dict would have.
"""

import math
import pickle
import re
import zipfile
from types import FunctionType
from typing import NamedTuple

import numpy as np

from ..parameters import listed, quoted, short
from . import archive, pickles
from .dtypes import is_known, itemsize, numbers
from .pickles import Global, Object, describe
from .source import State

SUFFIXES = (".pt", ".pth")
ORDERED = True  # a state dict lists its layers as the model defined them
PARAMETER = r"(^|\.)(weight|bias)($|_[ih][hr])"  # the names of what a layer learns

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MOST_REPEATED = 16, 1 << 24  # how many numbers may be named: so often those stored, and so many
_MOST_DIMENSIONS = 32  # NumPy 1's limit
_LARGEST = 1 << 48  # of a tensor's offset, shape and strides, which NumPy turns into bytes
_MOST_DEPTH, _LONGEST_NAME = 8, 255  # how far nested state dicts are searched for
_STORAGES = {
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
_PACKED = "is of a quantised layer, which is not read; save the model before its quantisation"
_TENSORS = {  # that are not read, by the last part of the name of what rebuilds them
    "_rebuild_sparse_tensor": "is a sparse tensor, which is not read; save its to_dense()",
    "_rebuild_sparse_csr_tensor": "is a sparse tensor, which is not read; save its to_dense()",
    "_rebuild_qtensor": "is a quantised tensor, which is not read; save its dequantize()",
    "_rebuild_meta_tensor_no_storage": "is a meta tensor, which has a shape and no numbers",
    "_rebuild_nested_tensor": "is a nested tensor, which is not read; save its parts",
    "ScriptObject": _PACKED,
}
_QUANTISED_MODULE = re.compile(r"torch\..*\.quantized\.")


class _StorageType(NamedTuple):
    """The name of a type of numbers, and the bytes of one."""

    dtype: str
    itemsize: int


class _Storage(NamedTuple):
    """A stored run of numbers: its key in the file, how many, of which type."""

    key: str
    count: int
    type: _StorageType


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides count numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple


class _Array(NamedTuple):
    """A NumPy array, whose bytes stand in the pickle itself."""

    dtype: np.dtype
    shape: tuple
    order: str
    data: bytes


class _Refused(NamedTuple):
    """What is not read, with the reason: a tensor of another kind, or what stands in its place."""

    reason: str
    is_tensor: bool = True


def recognises(source):
    """Tell whether a file is one of torch's, or a pickle that might be."""
    if source.members is not None:
        return any(_is_pickle(name) for name in source.members)
    # A pickle of protocol 2 to 5, or the magic number as protocols 0 and 1 write it.
    return source.head.startswith((b"\x80", f"L{_MAGIC}L".encode()))


def read(source, key=None, likely=PARAMETER):
    """Read a state dict from a file.

    Parameters
    ----------
    source : Source
    key : str, optional
        Which state dict of a checkpoint that nests several: the dotted path to it.
    likely : str
        Without a key, dicts with a name in which this pattern is found go before all others, as a
        generator's state or a mean that stand beside the model.

    Returns
    -------
    state : State
        Arrays of the file's dtypes, small floats widened to float32 (exact). Tied weights share
        memory. Refused are tensors of a kind or type that NumPy lacks, and objects under the name
        of a weight or a bias.
    structure : None
        A state dict has none.

    Raises
    ------
    ValueError
        If the file is damaged, or holds no such state dict.
    """
    read_form = _read_stream if source.members is None else _read_zip
    found, fetch = read_form(source)
    state, arrays = State(), {}
    tensors, state.batch_first = _state_dict(found, key, likely, source.budget)
    _check_repeated([tensor for tensor in tensors.values() if isinstance(tensor, _Tensor)])
    for name, tensor in tensors.items():
        if isinstance(tensor, _Refused):
            state.refused[name] = tensor.reason
        elif isinstance(tensor, _Array):
            state[name] = _native(tensor)
        else:
            if tensor.storage not in arrays:
                data = fetch(tensor.storage)
                arrays[tensor.storage] = numbers(data, tensor.storage.type.dtype)
            state[name] = _view(arrays[tensor.storage], tensor)
    return state, None


def write(file, model):
    """Write a model's state dict as the zip that torch.load (weights_only=True) opens."""
    state = {
        name: np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        for name, array in model.state_dict().items()
    }
    entries = [
        _plain(name) + _tensor_opcodes(str(key), array)
        for key, (name, array) in enumerate(state.items())
    ]
    data = b"\x80\x02" + _ORDERED_DICT + b"(" + b"".join(entries) + b"u."
    with zipfile.ZipFile(file, "w") as archive:

        def add(name, content):  # dated 1980, so that equal models give equal files
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)

        add("data.pkl", data)
        add("byteorder", b"little")
        for key, array in enumerate(state.values()):
            add(f"data/{key}", array.tobytes())
        add("version", b"3\n")


# Writing: the few opcodes of a state dict, written by hand, because Python's pickler would import
# the classes it names.

_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _plain(value):
    """The opcodes of a str, an int or a tuple of ints, without a pickle's first and last."""
    return pickle.dumps(value, protocol=2)[2:-1]


def _tensor_opcodes(key, array):
    storage = next(name for name, dtype in _STORAGES.items() if dtype == array.dtype.name)
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return b"".join(
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            _plain("storage"),
            f"ctorch\n{storage}\n".encode(),
            _plain(key) + _plain("cpu") + _plain(array.size) + b"tQ",
            _plain(0) + _plain(array.shape) + _plain(strides),
            b"\x89" + _ORDERED_DICT + b"tR",  # requires_grad: False, no hooks
        ]
    )


# Reading


def _is_pickle(member):
    return member.endswith("/data.pkl") or member == "data.pkl"


def _read_zip(source):
    """Return the pickle of a zip and a function that fetches a storage's bytes."""
    members = source.members
    names = [name for name in members if _is_pickle(name)]
    if len(names) > 1:
        raise ValueError(f"it holds {len(names)} members named data.pkl, expected one")
    root = names[0].removesuffix("data.pkl")
    if (order := members.get(root + "byteorder")) is not None:
        _check_little(bytes(archive.read(source, order)) if order.size < 9 else None)
    source.budget.check("bytes of a pickle", members[names[0]].size)
    data = bytes(archive.read(source, members[names[0]]))

    def fetch(storage):
        member = members.get(f"{root}data/{storage.key}")
        if member is None:
            raise ValueError(f"storage {short(storage.key)} is missing")
        expected = storage.count * storage.type.itemsize
        if member.size != expected:
            raise ValueError(
                f"storage {short(storage.key)} must have {expected} bytes for {storage.count} "
                f"numbers of type {storage.type.dtype}, got {member.size}"
            )
        return archive.read(source, member)

    return _unpickle(data, 0, source.budget, {}), fetch


def _check_little(order):
    if order == b"big":
        raise ValueError(
            'it was written on a big-endian machine (byteorder "big"); load it with torch and '
            "save it again on a little-endian one"
        )
    if order != b"little":
        raise ValueError('its member byteorder is damaged: it must be "little" or "big"')


def _read_stream(source):
    """Return the pickle of a legacy stream and a function that fetches a storage's bytes."""
    budget = source.budget
    data = bytes(source.read(0, min(source.size, budget.limits["bytes of a pickle"])))
    magic = _unpickle(data, 0, budget, {})
    if magic.value != _MAGIC:
        raise ValueError(
            "it is a pickle, but not one of torch's: the magic number is missing. "
            "Pickles of unknown origin are not opened, because they can run any code"
        )
    protocol = _unpickle(data, magic.end, budget, {})
    if protocol.value != _PROTOCOL:
        raise ValueError(
            f"torch's protocol version must be {_PROTOCOL}, got {describe(protocol.value)}"
        )
    machine = _unpickle(data, protocol.end, budget, {})
    if isinstance(machine.value, dict) and machine.value.get("little_endian") is False:
        _check_little(b"big")
    storages = {}
    found = _unpickle(data, machine.end, budget, storages)
    keys = _unpickle(data, found.end, budget, {})
    if not isinstance(keys.value, list) or any(
        type(key) is not str or key not in storages for key in keys.value
    ):
        raise ValueError("the list of its storages is damaged")
    starts, position = {}, keys.end
    for storage in map(storages.__getitem__, keys.value):
        starts[storage.key] = start = position + 8  # after the count
        position = start + storage.count * storage.type.itemsize
        if position > source.size:
            raise ValueError(
                f"it is truncated: storage {short(storage.key)} ends at byte {position}, the file "
                f"at byte {source.size}"
            )
        count = int.from_bytes(source.read(start - 8, 8), "little")
        if count != storage.count:
            raise ValueError(
                f"storage {short(storage.key)} must have {storage.count} numbers, got {count}"
            )

    def fetch(storage):
        if storage.key not in starts:
            raise ValueError(f"storage {short(storage.key)} is missing")
        return source.read(starts[storage.key], storage.count * storage.type.itemsize)

    return found, fetch


def _check_repeated(tensors):
    """Refuse views that name far more numbers than are stored: whoever copies them needs those."""
    named = sum(math.prod(tensor.shape) for tensor in tensors)
    stored = sum(storage.count for storage in {tensor.storage for tensor in tensors})
    times, more = _MOST_REPEATED
    if named > times * stored + more:
        raise ValueError(f"the tensors name {named} numbers, many times those that are stored")


def _view(array, tensor):
    """The tensor over its storage's numbers, without a copy; ndarray checks the bounds again."""
    step = array.itemsize
    strides = [step * stride for stride in tensor.strides]
    view = np.ndarray(tensor.shape, array.dtype, array, tensor.offset * step, strides)
    span = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if view.size > span:  # one number stands at several places: torch does not write there either
        view.flags.writeable = False
    return view


def _native(array):
    """A pickled NumPy array in native byte order, half types widened to float32."""
    flat = np.frombuffer(bytearray(array.data), array.dtype)
    native = "f4" if array.dtype == np.float16 else array.dtype.newbyteorder("=")
    return flat.astype(native, copy=False).reshape(array.shape, order=array.order)


# Which of the nested dicts is the state dict


def _state_dict(found, key, likely, budget):
    """Return the tensors of the one state dict that fits, and `batch_first` of its LSTMs."""
    asked = ""
    if found.asked:
        asked = (
            f"; it asks for {quoted(found.asked)}, which is refused: only plain "
            "numbers are loaded, never code"
        )
    if isinstance(found.value, Object) and _is_script(found.value) and not found.value.state:
        raise ValueError(
            "it is a frozen TorchScript module, whose weights are constants without names; save it "
            "before torch.jit.freeze"
        )
    if _entries(found.value) is None and not _is_module(found.value):
        raise ValueError(
            f"expected a state dict, got {describe(found.value)}; save model.state_dict(){asked}"
        )
    candidates = _candidates(found.value, budget)
    likely_ones = {
        path: found
        for path, found in candidates.items()
        if any(re.search(likely, name) for name in found[0])
    }
    if key is None:
        candidates = likely_ones or candidates
    if key in candidates:
        return candidates[key]
    words = listed(f"{short(path)} ({len(found[0])} tensors)" for path, found in candidates.items())
    if key is not None:
        raise ValueError(f"no state dict has the key {short(key)}; it holds {words or 'none'}")
    if not candidates:
        raise ValueError(f"it holds no tensors, so no state dict{asked}")
    if len(candidates) > 1:
        raise ValueError(f"it holds several state dicts, choose one with key=: {words}")
    return next(iter(candidates.values()))


def _candidates(tree, budget):
    """Map dotted path -> what `_state_dict` returns, for modules and dicts that hold tensors.

    Tensors of no dimension, such as a loss that is kept along, do not make a state dict. Dicts
    under other keys than strings (an optimiser's state) are not searched.
    """
    found, seen, queue = {}, {id(tree)}, [((), tree)]
    for path, node in queue:  # which grows on the way
        batch_first = {}
        if _is_module(node):
            tensors, children = dict(_module_tensors(node, "", 0, budget, batch_first)), {}
        else:
            tensors, children = _tensors(_entries(node)), _entries(node)
        if any(map(_counts, tensors.values())):
            name = ".".join(path)
            budget.spend("letters of names", len(name))
            found[name] = tensors, batch_first
        for name, value in children.items():
            nests = _is_module(value) or _entries(value) is not None
            if nests and id(value) not in seen and len(name) <= _LONGEST_NAME:
                seen.add(id(value))
                if len(path) < _MOST_DEPTH:
                    queue.append(((*path, name), value))
    return found


def _counts(tensor):
    return tensor.is_tensor if isinstance(tensor, _Refused) else bool(tensor.shape)


def _entries(value):
    """The entries of a dict, or of an object that is one by another name; None of all else."""
    value = value.items if isinstance(value, Object) else value
    return value if isinstance(value, dict) else None


def _tensors(entries):
    """The tensors among the entries of a dict, and the objects in the place of one."""
    found = {}
    for name, value in entries.items():
        tensor = _as_tensor(value)
        if tensor is None and isinstance(value, Object) and re.search(PARAMETER, name):
            reason = f"is {describe(value)}, which is not opened: only plain numbers are loaded"
            tensor = _Refused(reason, is_tensor=False)
        if tensor is not None:
            found[name] = tensor
    return found


def _as_tensor(value):
    """What a value of the pickle is as a tensor, read or refused; None if it is none."""
    if isinstance(value, _Tensor) and not is_known(value.storage.type.dtype):
        return _Refused(f"has numbers of type {short(value.storage.type.dtype)}, which NumPy lacks")
    if isinstance(value, (_Tensor, _Refused)):
        return value
    if isinstance(value, tuple) and value and isinstance(value[0], Object):
        first = _as_tensor(value[0])  # of the weight and bias of a quantised layer
        return first if isinstance(first, _Refused) else None
    if not isinstance(value, Object) or not isinstance(value.maker, Global):
        return None
    maker = value.maker
    if maker.module.split(".")[0] == "torch" and maker.name in _TENSORS:
        return _Refused(_TENSORS[maker.name])
    if maker.module in ("torch._utils", "torch._tensor") and maker.name.startswith("_rebuild"):
        return _Refused(f"is a tensor of a kind that is not read: {short(str(maker))}")
    if maker.module == "torch.nn.parameter":
        return _Refused(f"is {describe(value)}, which has no numbers")
    return _numpy_array(value)


# Whole modules


def _attributes(value):
    """An object's attributes; a class with __slots__ has two dicts of them."""
    state = value.state if isinstance(value, Object) else None
    if isinstance(state, tuple) and state:
        state = state[0]
    return state if isinstance(state, dict) else {}


def _is_script(value):
    """Tell whether an object is a TorchScript module: of a class whose code is in the file."""
    return isinstance(value.maker, Global) and value.maker.module.split(".")[0] == "__torch__"


def _is_module(value):
    attributes = _attributes(value)
    return "_parameters" in attributes or (bool(attributes) and _is_script(value))


def _module_tensors(module, prefix, depth, budget, batch_first):
    """Yield names and tensors in the order of the module's state dict; fill `batch_first`."""
    budget.check("levels of modules", depth)
    budget.spend("names of modules and their tensors")
    attributes = _attributes(module)
    if _is_script(module):
        own = children = attributes
    else:
        own = {**_dict(attributes, "_parameters"), **_dict(attributes, "_buffers")}
        for name in _names(attributes.get("_non_persistent_buffers_set")):
            own.pop(name, None)
        children = _dict(attributes, "_modules")
    if _QUANTISED_MODULE.match(str(module.maker)):  # it packs weights into other attributes
        own = {"weight": _Refused(_PACKED)}
    if type(attributes.get("batch_first")) is bool:
        batch_first[prefix] = attributes["batch_first"]
    for name, tensor in _tensors(own).items():
        budget.spend("names of modules and their tensors")
        budget.spend("letters of names", len(prefix) + len(name))
        yield prefix + name, tensor
    for name, child in children.items():
        if _is_module(child):
            budget.spend("letters of names", len(prefix) + len(name))
            yield from _module_tensors(child, f"{prefix}{name}.", depth + 1, budget, batch_first)


def _dict(attributes, name):
    return _entries(attributes.get(name)) or {}


def _names(value):
    """The strings in a set, which protocols below 4 make by a call with a list."""
    if isinstance(value, Object) and value.arguments:
        value = value.arguments[0]
    return [item for item in value if type(item) is str] if isinstance(value, list) else []


# What the names in a pickle stand for


def _unpickle(data, start, budget, storages):
    """Read a pickle; `storages` collects those that it names, by their keys."""

    def persistent(described):
        if isinstance(described, tuple) and described[:1] == ("module",):
            return described[1]  # a class, beside which old files keep its source
        described = _as_tuple(described)
        if not isinstance(described, tuple) or not 5 <= len(described) <= 6:
            raise ValueError("its pickle is damaged: a storage is not described as torch does it")
        storage = _storage(*described)
        if storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"storage {short(storage.key)} is described in two ways")
        return storage

    return pickles.load(data, start, budget, _KNOWN, persistent)


def _as_tuple(described):
    """A persistent id; protocol 0 writes its text, as "('storage', <class 'torch.X'>, ...)"."""
    if isinstance(described, str):
        pattern = r"\('storage', <class '([\w.]+)'>, '(\w+)', '([\w:]+)', (\d{1,18})(, None)?\)"
        if match := re.fullmatch(pattern, described):
            kind, key, location, count, _ = match.groups()
            return "storage", _KNOWN.get(kind), key, location, int(count)
    return described


def _storage(kind, storage_type, key, location, count, view=None):
    """torch's persistent id: ('storage', torch.FloatStorage, '0', 'cpu', 12)."""
    if isinstance(storage_type, Global):
        storage_type = _StorageType(str(storage_type), 1)
    if kind != "storage" or not isinstance(storage_type, _StorageType) or view is not None:
        raise ValueError("its pickle is damaged: a storage is not described as torch does it")
    if type(key) is not str or len(key) > _LONGEST_NAME:
        raise ValueError("its pickle is damaged: a storage's key must be a short string")
    if type(count) is not int or count < 0:
        raise ValueError(f"storage {key!r} must hold a count of numbers, got {describe(count)}")
    return _Storage(key, count, storage_type)


def _tensor(budget, storage, offset, shape, strides, grad=False, hooks=None, metadata=None):
    """torch._utils._rebuild_tensor_v2: a strided view that must lie within its storage."""
    budget.spend("copied items", 4 + len(shape))
    if not isinstance(storage, _Storage):
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
    if end > storage.count:
        raise ValueError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} "
            f"does not lie within its storage of {storage.count} numbers"
        )
    if isinstance(metadata, dict) and (metadata.get("conj") or metadata.get("neg")):
        return _Refused("is a conjugate or negated view; save resolve_conj().resolve_neg() of it")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _typed_tensor(budget, storage, offset, shape, strides, grad, hooks, dtype, metadata=None):
    """torch._utils._rebuild_tensor_v3: a view of bytes as numbers of a type."""
    if not isinstance(storage, _Storage) or not isinstance(dtype, Global):
        raise ValueError("its pickle is damaged: a tensor must be a view of a storage, of a type")
    size = itemsize(dtype.name) if is_known(dtype.name) else 1
    storage = _Storage(storage.key, storage.count // size, _StorageType(dtype.name, size))
    return _tensor(budget, storage, offset, shape, strides, grad, hooks, metadata)


def _parameter(budget, data, requires_grad, hooks, state=None):
    """torch._utils._rebuild_parameter, and one with attributes: its tensor."""
    if not isinstance(data, (_Tensor, _Refused, Object)):
        raise ValueError(f"a Parameter must hold a tensor, got {describe(data)}")
    return data


def _tensor_of_class(budget, function, kind, arguments, state):
    """torch._tensor._rebuild_from_type_v2: a tensor with attributes, or of a class of its own."""
    if isinstance(kind, Global) and kind.module not in ("torch", "torch.nn.parameter"):
        return _Refused(f"is of the class {short(str(kind))}, whose meaning is its own code's")
    if isinstance(function, FunctionType):
        return function(budget, *arguments)
    return Object(function, arguments)


def _first(budget, data, *others):
    """What rebuilds a tensor of a device from one of the CPU, or from an array: that one."""
    return data


_KNOWN = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_class,
    "torch._utils._rebuild_device_tensor_from_numpy": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch.storage.UntypedStorage": _StorageType("untyped", 1),
}
_KNOWN |= {f"torch.{name}": _StorageType(t, itemsize(t)) for name, t in _STORAGES.items()}
_KNOWN |= {f"torch.{name}": _StorageType(name, size) for name, size in _QUANTISED.items()}


# NumPy arrays in a pickle


def _numpy_array(value):
    """A NumPy array of plain numbers, as its pickle describes it; None if it is none."""
    maker = value.maker
    name = maker.name if maker.module.split(".")[0] == "numpy" else None
    if name == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, fortran, data = value.state
        order = "F" if fortran is True else "C"
    elif name == "_frombuffer" and len(value.arguments) == 4:
        data, dtype, shape, order = value.arguments
    else:
        return None
    refused = _Refused("is a NumPy array of other than plain numbers, which is not read")
    if isinstance(data, Object) and str(data.maker) == "_codecs.encode":  # bytes in protocol 2
        text = data.arguments[0] if data.arguments else None
        data = text.encode("latin-1", "replace") if type(text) is str else None
    dtype = _numpy_dtype(dtype)
    if dtype is None or not isinstance(data, bytes) or type(shape) is not tuple:
        return refused
    if len(shape) > _MOST_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        return refused
    if math.prod(shape) * dtype.itemsize != len(data) or order not in ("C", "F"):
        return refused
    return _Array(dtype, shape, order, data)


def _numpy_dtype(value):
    """The dtype of plain numbers that NumPy's pickle describes; None if it is another."""
    if not isinstance(value, Object) or str(value.maker) != "numpy.dtype":
        return None
    code = value.arguments[0] if value.arguments else None
    if type(code) is not str or not re.fullmatch("b1|[iu][1248]|f[248]|c8|c16", code):
        return None
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else None
    return np.dtype(order + code) if order in ("<", ">", "|") else None
