"""Files of torch (.pt, .pth) read and written without torch.

A file may hold a state dict, a checkpoint, a whole module or TorchScript. There are two forms of
files (torch/serialization.py). Since torch 1.6 a file is a zip: ``<root>/data.pkl`` is a pickle in
which a tensor names its storage, and ``<root>/data/<key>`` are the raw numbers of a storage.
Before, a file was one stream: pickles of a magic number, of the version of the protocol, of facts
about the machine, of the object and of the keys of its storages; then each storage, as a count and
raw numbers.

Nothing in a file is run or built: `pickles` reads the pickle, and calls only the functions by which
`torch_tensors` describes a tensor. Everything else stays an object that is not opened, and matters
only where a tensor should stand. `torch_state_dicts` finds the state dict among all this. Memory is
taken only for the tensors of that one.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, TypeAlias

import numpy as np

from ..checks import short
from . import archive, neuralhydrology, torch_programs, torch_state_dicts
from .dtypes import numbers
from .format import ANY, Choice, Content
from .pickles import Pickle, describe
from .source import Source, State
from .torch_tensors import (
    STORAGES,
    PickledArray,
    Refused,
    Storage,
    Tensor,
    as_native,
    as_view,
    unpickle,
)

if TYPE_CHECKING:
    from ..arrays import Array
    from ..layers import Layer

Fetch: TypeAlias = Callable[[Storage], "bytes | bytearray"]

NAME = "torch"
SUFFIXES = (".pt", ".pth")
STRUCTURED = False
ORDERED = True  # a state dict lists its layers in the order in which the model defined them

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MOST_REPEATED = 16, 1 << 24  # tensors may name 16 times the numbers stored, and 2^24 more


def recognises(source: Source) -> bool:
    """Tell whether torch wrote a file, or may have written it because it is a pickle."""
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
    state = State()
    arrays: dict[Storage, Array] = {}
    tensors, state.batch_first = torch_state_dicts.find(found, choice, source.budget)
    if any(isinstance(tensor, Tensor) for tensor in tensors.values()):
        tensors = {
            name: tensor
            for name, tensor in tensors.items()
            if not isinstance(tensor, PickledArray) or re.search(ANY.likely, name)
        }
    _check_repeated([t for t in tensors.values() if not isinstance(t, Refused)])
    for name, tensor in tensors.items():
        if isinstance(tensor, Refused):
            state.refused[name] = tensor.reason
        elif isinstance(tensor, PickledArray):
            state[name] = as_native(tensor)
        else:
            if tensor.storage not in arrays:
                data = fetch(tensor.storage)
                arrays[tensor.storage] = numbers(data, tensor.storage.type.dtype)
            state[name] = as_view(arrays[tensor.storage], tensor)
    hyper = torch_state_dicts.hyper_parameters(found)
    content = Content(state, None, notes=torch_programs.notes(hyper))
    if choice.key is not None:
        return content
    offered = torch_programs.offered(hyper, state)
    return content._replace(offered=offered or neuralhydrology.offered(source.folder, state))


def write(file: IO[bytes], model: Layer) -> None:
    """Write the state dict of a model as the zip that torch.load (weights_only=True) opens."""
    state = {
        name: np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        for name, array in model.state_dict().items()
    }
    entries = [
        _plain(name) + _tensor_opcodes(str(key), array)
        for key, (name, array) in enumerate(state.items())
    ]
    data = b"\x80\x02" + _ORDERED_DICT + b"(" + b"".join(entries) + b"u."
    with zipfile.ZipFile(file, "w") as members:

        def add(name: str, content: bytes) -> None:
            # Every member is dated 1980, so that equal models give equal files.
            members.writestr(zipfile.ZipInfo(f"archive/{name}"), content)

        add("data.pkl", data)
        add("byteorder", b"little")
        for key, array in enumerate(state.values()):
            add(f"data/{key}", array.tobytes())
        add("version", b"3\n")


# Writing. The few opcodes of a state dict are written by hand, because Python's pickler would
# import the classes that it names.

_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _plain(value: str | int | tuple[int, ...]) -> bytes:
    """Return the opcodes of a value, without the first and the last ones of a pickle."""
    return pickle.dumps(value, protocol=2)[2:-1]


def _tensor_opcodes(key: str, array: Array) -> bytes:
    storage = next(name for name, dtype in STORAGES.items() if dtype == array.dtype.name)
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return b"".join(
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            _plain("storage"),
            f"ctorch\n{storage}\n".encode(),
            _plain(key) + _plain("cpu") + _plain(array.size) + b"tQ",
            _plain(0) + _plain(array.shape) + _plain(strides),
            b"\x89" + _ORDERED_DICT + b"tR",  # requires_grad is False, and there are no hooks
        ]
    )


# Reading


def _is_pickle(member: str) -> bool:
    return member.endswith("/data.pkl") or member == "data.pkl"


def _read_zip(source: Source) -> tuple[Pickle, Fetch]:
    """Return the pickle of a zip, and a function that fetches the bytes of a storage."""
    members = source.members or {}
    names = [name for name in members if _is_pickle(name)]
    if len(names) > 1:
        raise ValueError(f"it holds {len(names)} members named data.pkl, expected one")
    root = names[0].removesuffix("data.pkl")
    if (order := members.get(root + "byteorder")) is not None:
        _check_little(bytes(archive.read(source, order)) if order.size < 9 else None)
    source.budget.check("bytes of a pickle", members[names[0]].size)
    data = bytes(archive.read(source, members[names[0]]))

    def fetch(storage: Storage) -> bytearray:
        member = members.get(f"{root}data/{storage.key}")
        if member is None:
            raise ValueError(f"storage {short(storage.key)} is missing")
        expected = storage.length * storage.type.itemsize
        if member.size != expected:
            raise ValueError(
                f"storage {short(storage.key)} must have {expected} bytes for {storage.length} "
                f"numbers of type {storage.type.dtype}, got {member.size}"
            )
        return archive.read(source, member)

    return unpickle(data, 0, source.budget, {}), fetch


def _check_little(order: bytes | None) -> None:
    if order == b"big":
        raise ValueError(
            'it was written on a big-endian machine (byteorder "big"); load it with torch and '
            "save it again on a little-endian one"
        )
    if order != b"little":
        raise ValueError('its member byteorder is damaged: it must be "little" or "big"')


def _read_stream(source: Source) -> tuple[Pickle, Fetch]:
    """Return the pickle of a legacy stream, and a function that fetches the bytes of a storage."""
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
    storages: dict[str, Storage] = {}
    found = unpickle(data, machine.end, budget, storages)
    keys = unpickle(data, found.end, budget, {})
    if not isinstance(keys.value, list) or any(
        type(key) is not str or key not in storages for key in keys.value
    ):
        raise ValueError("the list of its storages is damaged")
    starts, position = {}, keys.end
    for storage in map(storages.__getitem__, keys.value):
        starts[storage.key] = start = position + 8  # the count takes 8 bytes
        position = start + storage.length * storage.type.itemsize
        if position > source.size:
            raise ValueError(
                f"it is truncated: storage {short(storage.key)} ends at byte {position}, the file "
                f"at byte {source.size}"
            )
        count = int.from_bytes(source.read(start - 8, 8), "little")
        if count != storage.length:
            raise ValueError(
                f"storage {short(storage.key)} must have {storage.length} numbers, got {count}"
            )

    def fetch(storage: Storage) -> bytearray:
        if storage.key not in starts:
            raise ValueError(f"storage {short(storage.key)} is missing")
        return source.read(starts[storage.key], storage.length * storage.type.itemsize)

    return found, fetch


def _check_repeated(tensors: Sequence[Tensor | PickledArray]) -> None:
    """Refuse views that name far more numbers than are stored, because a copy needs them all."""
    named = 0
    stored: dict[int | Storage, int] = {}
    for tensor in tensors:
        size = math.prod(tensor.shape)
        named += size
        if isinstance(tensor, PickledArray):
            stored[id(tensor.data)] = size
        else:
            stored[tensor.storage] = tensor.storage.length
    times, more = _MOST_REPEATED
    if named > times * sum(stored.values()) + more:
        raise ValueError(f"the tensors name {named} numbers, many times those that are stored")
