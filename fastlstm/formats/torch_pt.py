"""State dicts that torch.save wrote (.pt, .pth), read and written without torch.

Two forms exist (torch/serialization.py). Since torch 1.6 a file is a zip of stored members:
``<root>/data.pkl``, a pickle in which a tensor names its storage, and ``<root>/data/<key>``, the
storages' raw numbers. Before, it was one stream: pickles of a magic number, the protocol's
version, facts of the machine, the object and its storages' keys, then each storage as a count and
raw numbers.

Python's unpickler is not used: it builds whatever a file asks for. `_unpickle` below knows the
opcodes that plain values need and the four kinds of names that a state dict consists of, and
refuses everything else by name; it imports nothing and calls nothing but three functions of this
module. The tensors it returns are still descriptions, checked against their storages' sizes;
memory is taken only for those that are asked for.
"""

import io
import math
import pickle
import pickletools
import re
import zipfile
from dataclasses import dataclass
from types import FunctionType

import numpy as np

from . import stored_zip
from .dtypes import itemsize, numbers

SUFFIXES = (".pt", ".pth")
ORDERED = True  # a state dict lists its layers as the model defined them
PARAMETER = r"(^|\.)(weight|bias)($|_[ih][hr])"  # the names of what a layer learns

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MOST_PICKLE = 4 << 20  # bytes; about 150 describe a tensor, and one can cost 64 of memory
_MOST_REPEATED = 16  # how often a file may name its numbers again (tied weights do it once)
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


@dataclass(frozen=True)
class _StorageType:
    dtype: str


@dataclass(frozen=True)
class _Storage:
    """A stored run of numbers: its key in the file, how many, of which dtype."""

    key: str
    count: int
    dtype: str


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides count numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple


def recognises(file):
    """Tell whether an open file is one of torch's, or a pickle that might be."""
    if stored_zip.is_zip(file):
        return any(_is_pickle(name) for name in stored_zip.members(file))
    file.seek(0)
    # A pickle of protocol 2 to 5, or the magic number as protocol 1 writes it.
    return file.read(26).startswith((b"\x80", f"L{_MAGIC}L".encode()))


def read(file, key=None, likely=PARAMETER):
    """Read a state dict from an open file.

    Parameters
    ----------
    file : binary file
    key : str, optional
        Which state dict of a checkpoint that nests several: the dotted path to it.
    likely : str
        Without a key, dicts with a name in which this pattern is found go before all others, as a
        generator's state or a mean that stand beside the model.

    Returns
    -------
    state : dict of str -> ndarray
        Of the file's dtypes, half types widened to float32 (exact). Tied weights share memory.
    structure : None
        A state dict has none.

    Raises
    ------
    ValueError
        If the file is damaged, asks for anything but numbers, or holds no such state dict.
    """
    tree, fetch = _read_zip(file) if stored_zip.is_zip(file) else _read_stream(file)
    tensors = _state_dict(tree, key, likely)
    storages = {tensor.storage for tensor in tensors.values()}
    named = sum(math.prod(tensor.shape) for tensor in tensors.values())
    if named > _MOST_REPEATED * sum(storage.count for storage in storages):
        raise ValueError(f"the tensors name {named} numbers, many times those that are stored")
    arrays = {storage: numbers(fetch(storage), storage.dtype) for storage in storages}
    return {name: _view(arrays[tensor.storage], tensor) for name, tensor in tensors.items()}, None


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


def _read_zip(file):
    """Return the pickled object of a zip and a function that fetches a storage's bytes."""
    members = stored_zip.members(file)
    pickles = [name for name in members if _is_pickle(name)]
    if len(pickles) > 1:
        raise ValueError(f"it holds {len(pickles)} members named data.pkl, expected one")
    root = pickles[0].removesuffix("data.pkl")
    if (order := members.get(root + "byteorder")) is not None:
        _check_little(bytes(stored_zip.read(file, order)) if order.size < 9 else None)
    size = members[pickles[0]].size
    if size > _MOST_PICKLE:
        raise ValueError(f"its pickle has {size} bytes; a state dict's has at most {_MOST_PICKLE}")

    def fetch(storage):
        member = members.get(f"{root}data/{storage.key}")
        if member is None:
            raise ValueError(f"storage {storage.key!r} is missing")
        expected = storage.count * itemsize(storage.dtype)
        if member.size != expected:
            raise ValueError(
                f"storage {storage.key!r} must have {expected} bytes for {storage.count} numbers "
                f"of type {storage.dtype}, got {member.size}"
            )
        return stored_zip.read(file, member)

    return _unpickle(io.BytesIO(stored_zip.read(file, members[pickles[0]])), {}), fetch


def _check_little(order):
    if order == b"big":
        raise ValueError(
            'it was written on a big-endian machine (byteorder "big"); load it with torch and '
            "save it again on a little-endian one"
        )
    if order != b"little":
        raise ValueError('its member byteorder is damaged: it must be "little" or "big"')


def _read_stream(file):
    """Return the pickled object of a legacy stream and a function that fetches a storage."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    stream = io.BytesIO(file.read(min(size, _MOST_PICKLE)))
    if _unpickle(stream, {}) != _MAGIC:
        raise ValueError(
            "it is a pickle, but not one of torch's: the magic number is missing. "
            "Pickles of unknown origin are not opened, because they can run any code"
        )
    if (protocol := _unpickle(stream, {})) != _PROTOCOL:
        raise ValueError(f"torch's protocol version must be {_PROTOCOL}, got {_describe(protocol)}")
    machine = _unpickle(stream, {})
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        _check_little(b"big")
    storages = {}
    tree = _unpickle(stream, storages)
    keys = _unpickle(stream, {})
    if not isinstance(keys, list) or any(
        type(key) is not str or key not in storages for key in keys
    ):
        raise ValueError("the list of its storages is damaged")
    starts, position = {}, stream.tell()
    for storage in map(storages.__getitem__, keys):
        starts[storage.key] = start = position + 8  # after the count
        position = start + storage.count * itemsize(storage.dtype)
        if position > size:
            raise ValueError(
                f"it is truncated: storage {storage.key!r} ends at byte {position}, the file at "
                f"byte {size}"
            )
        file.seek(start - 8)
        count = int.from_bytes(file.read(8), "little")
        if count != storage.count:
            raise ValueError(
                f"storage {storage.key!r} must have {storage.count} numbers, got {count}"
            )

    def fetch(storage):
        if storage.key not in starts:
            raise ValueError(f"storage {storage.key!r} is missing")
        data = bytearray(storage.count * itemsize(storage.dtype))
        file.seek(starts[storage.key])
        file.readinto(data)
        return data

    return tree, fetch


def _view(array, tensor):
    """The tensor over its storage's numbers, without a copy; ndarray checks the bounds again."""
    step = array.itemsize
    strides = [step * stride for stride in tensor.strides]
    return np.ndarray(tensor.shape, array.dtype, array, tensor.offset * step, strides)


# Which of the nested dicts is the state dict


def _state_dict(tree, key, likely):
    """Return the tensors of the one state dict that fits."""
    if not isinstance(tree, dict):
        raise ValueError(f"expected a state dict, got {_describe(tree)}; save model.state_dict()")
    found = _candidates(tree)
    if key is None:
        found = {p: t for p, t in found.items() if any(re.search(likely, n) for n in t)} or found
    if key in found:
        return found[key]
    listed = ", ".join(f"{path!r} ({len(found[path])} tensors)" for path in list(found)[:20])
    if key is not None:
        raise ValueError(f"no state dict has the key {key!r}; it holds {listed or 'none'}")
    if not found:
        raise ValueError("it holds no tensors, so no state dict")
    if len(found) > 1:
        raise ValueError(f"it holds several state dicts, choose one with key=: {listed}")
    return next(iter(found.values()))


def _candidates(tree):
    """Map dotted path -> tensors for every dict that holds tensors under string keys.

    Tensors of no dimension, such as a loss that is kept along, do not make a state dict. Dicts
    under other keys than strings (an optimiser's state) are not searched.
    """
    found, seen, queue = {}, set(), [("", tree, 0)]
    for path, node, depth in queue:  # which grows on the way
        if id(node) in seen or depth > _MOST_DEPTH:
            continue
        seen.add(id(node))
        named = {name: value for name, value in node.items() if type(name) is str}
        tensors = {name: value for name, value in named.items() if isinstance(value, _Tensor)}
        if any(tensor.shape for tensor in tensors.values()):
            found[path] = tensors
        queue.extend(
            (f"{path}.{name}".removeprefix("."), value, depth + 1)
            for name, value in named.items()
            if isinstance(value, dict) and len(name) <= _LONGEST_NAME
        )
    return found


def _describe(value):
    """Name a value of unknown origin; never by a repr, which a file could make endless."""
    if type(value) is int:
        return str(value)
    kind = type(value).__name__.lower().strip("_")
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


# The pickle machine


_ATOMS = (str, int, float, bool, type(None))  # the keys that dicts keep
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = set(
    "BININT BININT1 BININT2 INT LONG LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINSTRING "
    "SHORT_BINSTRING BINBYTES SHORT_BINBYTES".split()
)
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _unpickle(stream, storages):
    """Return the next pickle's object from a stream; `storages` collects those it names by key.

    Dicts and OrderedDicts become dicts, tensors and Parameters `_Tensor`. ValueError for any
    opcode or name that a state dict does not need, and for damage.
    """
    stack, outer, memo = [], [], {}
    try:
        for opcode, argument, _ in _opcodes(stream):
            name = opcode.name
            if name in _LITERALS:
                stack.append(argument)
            elif name in _VALUES:
                stack.append(_VALUES[name])
            elif name in _EMPTY:
                stack.append(_EMPTY[name]())
            elif name in _TUPLES:
                items = [stack.pop() for _ in range(_TUPLES[name])]
                stack.append(tuple(reversed(items)))
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "MARK":
                outer.append(stack)
                stack = []
            elif name in ("TUPLE", "APPENDS", "SETITEMS"):
                items, stack = stack, outer.pop()
                if name == "TUPLE":
                    stack.append(tuple(items))
                elif name == "APPENDS":
                    stack[-1].extend(items)
                else:
                    _put(stack[-1], [items[n : n + 2] for n in range(0, len(items), 2)])
            elif name == "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            elif name == "SETITEM":
                value, key = stack.pop(), stack.pop()
                _put(stack[-1], [(key, value)])
            elif name == "GLOBAL":
                stack.append(_named(*argument.split(" ", 1)))
            elif name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_named(module, attribute))
            elif name == "BINPERSID":
                storage = _storage(*stack.pop())
                if storages.setdefault(storage.key, storage) != storage:
                    raise ValueError(f"storage {storage.key!r} is described in two ways")
                stack.append(storage)
            elif name == "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                if not isinstance(function, FunctionType):  # only `_named` gives functions
                    raise ValueError(f"a pickle may not call {_describe(function)}")
                stack.append(function(*arguments))
            elif name == "BUILD":  # attributes of a state dict: `_metadata`, not needed
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise ValueError(f"a pickle may not set attributes of {_describe(stack[-1])}")
            elif name == "STOP":
                return stack.pop()
            elif name not in ("PROTO", "FRAME"):
                raise ValueError(f"a state dict's pickle has no use for the opcode {name}")
    except (IndexError, KeyError, TypeError, AttributeError) as fault:
        raise ValueError(f"its pickle is damaged: {fault}") from fault


def _opcodes(stream):
    try:
        yield from pickletools.genops(stream)
    except (ValueError, Warning) as fault:  # a warning of an odd escape, where it is an error
        raise ValueError(f"its pickle is damaged or truncated: {fault}") from fault


def _named(module, name):
    """What a global of a pickle stands for: one of three functions, or a type of storage."""
    if type(module) is not str or type(name) is not str:
        raise ValueError("its pickle is damaged: a global is not named by strings")
    full = f"{module}.{name}"
    if module == "torch" and name in _STORAGES:
        return _StorageType(_STORAGES[name])
    if full not in _FUNCTIONS:
        raise ValueError(
            f"it asks for {full[:200]!r}, which is refused: only plain numbers are loaded, never "
            "code. If this is a whole pickled module, save model.state_dict() instead"
        )
    return _FUNCTIONS[full]


def _put(target, items):
    """Add (key, value) pairs to a dict; those whose key cannot be a name are left out."""
    if not isinstance(target, dict):
        raise ValueError(f"its pickle is damaged: it sets items of {_describe(target)}")
    if any(len(item) != 2 for item in items):
        raise ValueError("its pickle is damaged: an item of a dict is not a pair")
    target.update((key, value) for key, value in items if isinstance(key, _ATOMS))


def _ordered_dict(items=()):
    """collections.OrderedDict; Python 2 wrote its items as a list of pairs."""
    result = {}
    _put(result, items)
    return result


def _storage(kind, storage_type, key, location, count, view=None):
    """torch's persistent id: ('storage', torch.FloatStorage, '0', 'cpu', 12)."""
    if kind != "storage" or not isinstance(storage_type, _StorageType) or view is not None:
        raise ValueError("its pickle is damaged: a storage is not described as torch does it")
    if type(key) is not str or len(key) > _LONGEST_NAME:
        raise ValueError("its pickle is damaged: a storage's key must be a short string")
    if type(count) is not int or count < 0:
        raise ValueError(f"storage {key!r} must hold a count of numbers, got {_describe(count)}")
    return _Storage(key, count, storage_type.dtype)


def _tensor(storage, offset, shape, strides, requires_grad, hooks, metadata=None):
    """torch._utils._rebuild_tensor_v2: a strided view that must lie within its storage."""
    if not isinstance(storage, _Storage):
        raise ValueError(f"a tensor must be a view of a storage, got {_describe(storage)}")
    if not len(shape) == len(strides) <= _MOST_DIMENSIONS:
        raise ValueError(
            f"a tensor must have as many strides as dimensions, at most {_MOST_DIMENSIONS}, got "
            f"{len(strides)} and {len(shape)}"
        )
    if any(type(n) is not int or not 0 <= n <= _LARGEST for n in (offset, *shape, *strides)):
        raise ValueError(
            f"a tensor's offset, shape and strides must be whole numbers from 0 to {_LARGEST}"
        )
    size = math.prod(shape)
    end = offset
    if size:
        end += 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if end > storage.count or size > storage.count:
        raise ValueError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} "
            f"does not lie within its storage of {storage.count} numbers"
        )
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data, requires_grad, hooks):
    """torch._utils._rebuild_parameter: its tensor."""
    if not isinstance(data, _Tensor):
        raise ValueError(f"a Parameter must hold a tensor, got {_describe(data)}")
    return data


_FUNCTIONS = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
