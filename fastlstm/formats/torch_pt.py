"""What torch wrote (.pt, .pth), read without it: state dicts, checkpoints, modules, TorchScript.

Two forms exist (torch/serialization.py). Since torch 1.6 a file is a zip: ``<root>/data.pkl``, a
pickle in which a tensor names its storage, and ``<root>/data/<key>``, the storages' raw numbers.
Before, it was one stream: pickles of a magic number, the protocol's version, facts of the machine,
the object and its storages' keys, then each storage as a count and raw numbers.

Nothing of a file is run or built: `pickles` reads the pickle, and calls only what `torch_tensors`
has to describe a tensor. All else stays an object that is not opened, and matters only where a
tensor should stand. Memory is taken only for the tensors that are asked for. A module's tensors are
found in its attributes, under the names that its state dict would have.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile

import numpy as np

from ..checks import listed, quoted, short
from . import archive
from .dtypes import numbers
from .format import ANY, Choice, Content
from .pickles import Object, describe
from .source import Source, State
from .torch_tensors import (
    PACKED,
    STORAGES,
    Array,
    Refused,
    Tensor,
    as_native,
    as_tensor,
    as_view,
    unpickle,
)

NAME = "torch"
SUFFIXES = (".pt", ".pth")
ORDERED = True  # a state dict lists its layers in the order in which the model defined them

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MOST_REPEATED = 16, 1 << 24  # how many numbers may be named: so often those stored, and so many
_MOST_DEPTH, _LONGEST_NAME = 8, 255  # how far nested state dicts are searched for
_QUANTISED_MODULE = re.compile(r"torch\..*\.quantized\.")


def recognises(source: Source) -> bool:
    """Tell whether a file is one of torch's, or a pickle that might be."""
    if source.members is not None:
        return any(_is_pickle(name) for name in source.members)
    # A pickle of protocol 2 to 5, or the magic number as protocols 0 and 1 write it.
    return source.head.startswith((b"\x80", f"L{_MAGIC}L".encode()))


def read(source: Source, choice: Choice = ANY) -> Content:
    """Read a state dict from a file.

    Returns
    -------
    Content
        The arrays have the file's dtypes, but floats of 8 and 16 bits are widened to float32, which
        is exact. Weights that were stored once under two names share their memory. An entry is
        refused if it is a tensor of a kind or type that NumPy lacks, or an object under the name of
        a weight or a bias. A NumPy array among tensors counts as such an object, and is left out
        under any other name. The structure is None, because these files have none.

    Raises
    ------
    ValueError
        If the file is damaged, or holds no state dict that `choice` wants.
    """
    read_form = _read_stream if source.members is None else _read_zip
    found, fetch = read_form(source)
    state, arrays = State(), {}
    tensors, state.batch_first = _state_dict(found, choice, source.budget)
    if any(isinstance(tensor, Tensor) for tensor in tensors.values()):
        tensors = {
            name: tensor
            for name, tensor in tensors.items()
            if not isinstance(tensor, Array) or re.search(ANY.likely, name)
        }
    _check_repeated([t for t in tensors.values() if isinstance(t, (Tensor, Array))])
    for name, tensor in tensors.items():
        if isinstance(tensor, Refused):
            state.refused[name] = tensor.reason
        elif isinstance(tensor, Array):
            state[name] = as_native(tensor)
        else:
            if tensor.storage not in arrays:
                data = fetch(tensor.storage)
                arrays[tensor.storage] = numbers(data, tensor.storage.type.dtype)
            state[name] = as_view(arrays[tensor.storage], tensor)
    return Content(state, None)


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
    storage = next(name for name, dtype in STORAGES.items() if dtype == array.dtype.name)
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

    return unpickle(data, 0, source.budget, {}), fetch


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
    magic = unpickle(data, 0, budget, {})
    if magic.value != _MAGIC:
        raise ValueError(
            "it is a pickle, but not one of torch's: the magic number is missing. "
            "Pickles of unknown origin are not opened, because they can run any code"
        )
    protocol = unpickle(data, magic.end, budget, {})
    if protocol.value != _PROTOCOL:
        raise ValueError(
            f"torch's protocol version must be {_PROTOCOL}, got {describe(protocol.value)}"
        )
    machine = unpickle(data, protocol.end, budget, {})
    if isinstance(machine.value, dict) and machine.value.get("little_endian") is False:
        _check_little(b"big")
    storages = {}
    found = unpickle(data, machine.end, budget, storages)
    keys = unpickle(data, found.end, budget, {})
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
    named, stored = 0, {}
    for tensor in tensors:
        size = math.prod(tensor.shape)
        named += size
        if isinstance(tensor, Array):
            stored[id(tensor.data)] = size
        else:
            stored[tensor.storage] = tensor.storage.count
    times, more = _MOST_REPEATED
    if named > times * sum(stored.values()) + more:
        raise ValueError(f"the tensors name {named} numbers, many times those that are stored")


# Which of the nested dicts is the state dict


def _state_dict(found, choice, budget):
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
    key = choice.key
    if key is not None:
        reached = _candidates(found.value, budget, lists=True, key=key)
        if key in reached:
            return reached[key]
    candidates = _candidates(found.value, budget) or _candidates(found.value, budget, lists=True)
    if not candidates and _entries(found.value) is None and not _is_module(found.value):
        raise ValueError(
            f"expected a state dict, got {describe(found.value)}; save model.state_dict(){asked}"
        )
    if key is not None:
        words = _listed(candidates) or "none"
        raise ValueError(f"no state dict has the key {short(key)}; it holds {words}")
    if not candidates:
        raise ValueError(f"it holds no tensors, so no state dict{asked}")
    likely_ones = {
        path: (tensors, batch_first)
        for path, (tensors, batch_first) in candidates.items()
        if any(re.search(choice.likely, name) for name in tensors)
    }
    candidates = likely_ones or candidates
    if len(candidates) > 1:
        words = _listed(candidates)
        raise ValueError(f"it holds several state dicts, choose one with key=: {words}")
    return next(iter(candidates.values()))


def _listed(candidates):
    return listed(f"{short(path)} ({len(found[0])} tensors)" for path, found in candidates.items())


def _candidates(tree, budget, lists=False, key=None):
    """Map dotted path -> what `_state_dict` returns, for modules and dicts that hold tensors.

    Tensors of no dimension, such as a loss that is kept along, do not make a state dict. Dicts
    under other keys than strings (an optimiser's state) are not searched, and lists only if this is
    asked for; what stands in them has its number for a name. With a key only what lies on the way
    to it is searched; without one, each dict under the first of its names.
    """
    found, seen, queue = {}, {id(tree)}, [((), tree)]
    for path, node in queue:  # which grows on the way
        batch_first = {}
        children = _entries(node, lists) or {}
        if _is_module(node):
            tensors, children = dict(_module_tensors(node, "", 0, budget, batch_first)), {}
        else:
            tensors = _tensors(children, budget)
        if any(map(_counts, tensors.values())):
            name = ".".join(path)
            budget.spend("letters of names", len(name))
            found[name] = tensors, batch_first
        if len(path) == _MOST_DEPTH:
            continue
        before = "".join(f"{name}." for name in path) if key else ""
        for name, value in children.items():
            if not f"{key}.".startswith(f"{before}{name}.") if key else id(value) in seen:
                continue
            if len(name) <= _LONGEST_NAME and _nests(value, lists):
                seen.add(id(value))
                queue.append(((*path, name), value))
    return found


def _counts(tensor):
    return tensor.is_tensor if isinstance(tensor, Refused) else bool(tensor.shape)


def _nests(value, lists):
    """Tell whether `_candidates` looks into a value; at once, however much it holds."""
    items = value.items if isinstance(value, Object) else value
    return isinstance(items, dict) or lists and type(items) in (list, tuple) or _is_module(value)


def _entries(value, lists=False):
    """The entries of a dict, of an object that is one by another name, or of a list; else None."""
    value = value.items if isinstance(value, Object) else value
    if lists and type(value) in (list, tuple):
        nested = (dict, list, tuple, Object)
        return {str(n): item for n, item in enumerate(value) if isinstance(item, nested)}
    return value if isinstance(value, dict) else None


def _tensors(entries, budget):
    """The tensors among the entries of a dict, and the objects in the place of one."""
    found = {}
    for name, value in entries.items():
        if isinstance(value, (tuple, Object)):  # tensors are tuples too
            budget.spend("letters of names", len(name))  # which are searched here and once more
        tensor = as_tensor(value)
        if tensor is None and isinstance(value, Object) and re.search(ANY.likely, name):
            reason = f"is {describe(value)}, which is not opened: only plain numbers are loaded"
            tensor = Refused(reason, is_tensor=False)
        if tensor is not None:
            found[name] = tensor
    return found


# Whole modules


def _attributes(value):
    """An object's attributes; a class with __slots__ has two dicts of them."""
    state = value.state if isinstance(value, Object) else None
    if isinstance(state, tuple) and state:
        state = state[0]
    return state if isinstance(state, dict) else {}


def _is_script(value):
    """Tell whether an object is a TorchScript module: of a class whose code is in the file."""
    return value.maker.is_of("__torch__")


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
        budget.spend("copied items", len(attributes) // 4)  # which have but 3 bytes each
    else:
        parts = [_dict(attributes, name) for name in ("_parameters", "_buffers", "_modules")]
        left_out = _names(attributes.get("_non_persistent_buffers_set"))
        budget.spend("copied items", sum(map(len, [*parts, left_out])))
        own = {**parts[0], **parts[1]}
        for name in left_out:
            if type(name) is str:
                own.pop(name, None)
        children = parts[2]
    if _QUANTISED_MODULE.match(str(module.maker)):  # it packs weights into other attributes
        own = {"weight": Refused(PACKED)}
    if type(attributes.get("batch_first")) is bool:
        batch_first[prefix] = attributes["batch_first"]
    for name, tensor in _tensors(own, budget).items():
        budget.spend("names of modules and their tensors")
        budget.spend("letters of names", len(prefix))
        yield prefix + name, tensor
    for name, child in children.items():
        if _is_module(child):
            budget.spend("letters of names", len(prefix) + len(name))
            yield from _module_tensors(child, f"{prefix}{name}.", depth + 1, budget, batch_first)


def _dict(attributes, name):
    return _entries(attributes.get(name)) or {}


def _names(value):
    """What is in a set, which protocols below 4 make by a call with a list."""
    if isinstance(value, Object) and value.arguments:
        value = value.arguments[0]
    return value if isinstance(value, list) else []
