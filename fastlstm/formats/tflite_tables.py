"""What stands in a TFLite file: its tensors, operators and signatures, as plain data.

Nothing is computed here. Constants share the memory of the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import quoted, short
from . import dtypes
from .flat_tables import File, Table, Tables
from .tflite_schema import (
    BUFFER,
    CODE,
    MODEL,
    NAMED,
    OPERATOR,
    OPERATORS,
    OPTIONS,
    QUANTIZATION,
    SIGNATURE,
    SUBGRAPH,
    TENSOR,
    TYPES,
    VERSION,
)

if TYPE_CHECKING:
    from ..arrays import Array
    from .budget import Budget

_MOST_AXES = 32
_NUMBERS = {
    *("float16", "float32", "float64", "bool", "bfloat16"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}


class Scales(NamedTuple):
    """How the integers of a tensor stand for numbers: scale * (integer - zero point)."""

    scale: Array
    zero_point: Array
    axis: int


class Tensor(NamedTuple):
    """A tensor as a file describes it.

    ``shape`` is None where its rank is open, and has None for sizes that are open. ``data`` has the
    numbers of a constant, and is None otherwise.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    is_variable: bool
    scales: Scales | None
    is_sparse: bool
    data: Array | None


class Operation(NamedTuple):
    """An operator in a graph: its name, options, and the indices of tensors; -1 stands for none."""

    kind: str
    options: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Signature(NamedTuple):
    """Names for the inputs and outputs of a subgraph, by the indices of their tensors."""

    key: str
    subgraph: int
    inputs: dict[int, str]
    outputs: dict[int, str]


class Subgraph:
    """A graph of a file.

    Attributes
    ----------
    name : str
    inputs, outputs : tuple of int
        Indices of tensors.
    """

    def __init__(self, model: Model, table: Table) -> None:
        self._model = model
        self._tensors = table.tables(SUBGRAPH.TENSORS)
        self._operators = table.tables(SUBGRAPH.OPERATORS)
        self.name = table.text(SUBGRAPH.NAME)
        self.inputs = self._indices(table, SUBGRAPH.INPUTS)
        self.outputs = self._indices(table, SUBGRAPH.OUTPUTS)
        self._known: dict[int, Tensor] = {}

    def tensor(self, index: int) -> Tensor:
        """Return the tensor of an index."""
        if index not in self._known:
            self._known[index] = self._model.tensor(self._tensors[index])
        return self._known[index]

    def _indices(self, table: Table, field: int, absent: bool = False) -> tuple[int, ...]:
        """Return a field of indices of tensors; -1 stands for those that may be `absent`."""
        found = table.vector(field, "i4")
        if found is None:
            return ()
        wrong = found[(found < -absent) | (found >= len(self._tensors))]
        if wrong.size:
            raise ValueError(
                f"it refers to tensor {wrong[0]} of a graph that has {len(self._tensors)}"
            )
        return tuple(found.tolist())

    @cached_property
    def operations(self) -> list[Operation]:
        """The operators in the order in which they run."""
        budget, found = self._model.file.budget, []
        for table in self._operators:
            kind = self._model.kind(table.number(OPERATOR.CODE, "I"))
            inputs = self._indices(table, OPERATOR.INPUTS, True)
            outputs = self._indices(table, OPERATOR.OUTPUTS, True)
            budget.spend("tables", (len(inputs) + len(outputs)) // 4)
            options = _options(kind, table)
            found.append(Operation(kind, options, inputs, outputs))
        return found


def _options(kind: str, table: Table) -> dict[str, Any]:
    """Return the options of an operator; those of another kind of operator are passed over."""
    known = OPTIONS.get(kind)
    if known is None:
        return {}
    stored = table.table(OPERATOR.OPTIONS)
    if stored is not None and table.number(OPERATOR.OPTIONS_TYPE, "B") != known.type:
        stored = None
    options: dict[str, Any] = {}
    for name, (number, form, *default) in known.fields.items():
        if form == "[i":
            vector = None if stored is None else stored.vector(number, "i4")
            if vector is not None and vector.size > _MOST_AXES:
                raise ValueError(f"{kind} has {vector.size} numbers of {name}")
            options[name] = None if vector is None else vector.tolist()
        elif form == "text":
            options[name] = "" if stored is None else stored.text(number)
        else:
            usual = default[0] if default else 0
            options[name] = usual if stored is None else stored.number(number, form, usual)
    return options


class Model:
    """A TFLite file.

    Parameters
    ----------
    file : File

    Raises
    ------
    ValueError
        If it is damaged, or of another version.
    """

    def __init__(self, data: bytearray, budget: Budget) -> None:
        self.file = File(data, budget)
        table = self.file.root()
        version = table.number(MODEL.VERSION, "I")
        if version != VERSION:
            raise ValueError(f"it is of version {version} of TFLite's files; {VERSION} is read")
        self._codes = table.tables(MODEL.OPERATOR_CODES)
        self._kinds: dict[int, str] = {}
        self._subgraphs = table.tables(MODEL.SUBGRAPHS)
        self._buffers = table.tables(MODEL.BUFFERS)
        self._numbers: dict[int, memoryview] = {}
        self.description = table.text(MODEL.DESCRIPTION)
        self.signatures = [self._signature(one) for one in table.tables(MODEL.SIGNATURES)]
        self._graphs: dict[int, Subgraph] = {}

    def subgraph(self, index: int) -> Subgraph:
        """Return the graph of an index."""
        if not 0 <= index < len(self._subgraphs):
            raise ValueError(f"it refers to graph {index}, and has {len(self._subgraphs)}")
        if index not in self._graphs:
            self._graphs[index] = Subgraph(self, self._subgraphs[index])
        return self._graphs[index]

    def kind(self, index: int) -> str:
        """Return the name of the operator that a code stands for."""
        if index not in self._kinds:
            if index >= len(self._codes):
                raise ValueError(f"it refers to operator code {index}, and has {len(self._codes)}")
            code = self._codes[index]
            old, new = code.number(CODE.OLD_BUILTIN, "b"), code.number(CODE.BUILTIN, "i")
            number = max(old, new)
            name = OPERATORS[number] if 0 <= number < len(OPERATORS) else f"number {number}"
            if name == "CUSTOM":
                name = f"CUSTOM {short(code.text(CODE.CUSTOM))}"
            self._kinds[index] = name
        return self._kinds[index]

    def tensor(self, table: Table) -> Tensor:
        """Return a tensor from its table."""
        name = table.text(TENSOR.NAME)
        try:
            return self._tensor(name, table)
        except ValueError as fault:
            raise ValueError(f"tensor {short(name)}: {fault}") from fault

    def _tensor(self, name: str, table: Table) -> Tensor:
        number = table.number(TENSOR.TYPE, "b")
        if not 0 <= number < len(TYPES):
            raise ValueError(f"its type has the number {number}, which is not known")
        sizes = _sizes(table, TENSOR.SHAPE) or ()
        opened = _sizes(table, TENSOR.SIGNATURE)
        shape: tuple[int | None, ...] | None = sizes
        if opened is not None and len(opened) == len(sizes):
            pairs = zip(opened, sizes, strict=True)
            shape = tuple([None if size < 0 else now for size, now in pairs])
        # A tensor without axes may be one number, or one whose axes are not known.
        if not sizes and not table.number(TENSOR.HAS_RANK, "?", False):
            shape = None
        stored = self._stored(table.number(TENSOR.BUFFER, "I"))
        is_variable = table.number(TENSOR.IS_VARIABLE, "?", False)
        if is_variable and stored is not None:
            raise ValueError(
                "it is variable, and has numbers in the file, which LiteRT refuses too"
            )
        data = None
        is_sparse = table.table(TENSOR.SPARSITY) is not None
        if stored is not None and not is_sparse:
            data = _array(stored, TYPES[number], sizes)
            shape = sizes
        elif not is_variable and min(sizes, default=1) == 0:
            # A constant without numbers, such as the shape of a single number, has no bytes.
            data = _array(memoryview(b""), TYPES[number], sizes)
        scales = _scales(table.table(TENSOR.QUANTIZATION))
        return Tensor(name, TYPES[number], shape, is_variable, scales, is_sparse, data)

    def _stored(self, index: int) -> memoryview | None:
        """Return the bytes of a buffer; None of one that has none, as that of a computed tensor."""
        if index not in self._numbers:
            if index == 0 and not len(self._buffers):
                return None
            if not index < len(self._buffers):
                raise ValueError(f"it refers to buffer {index} of {len(self._buffers)}")
            buffer, data = self._buffers[index], self.file.data
            found = buffer.vector(BUFFER.DATA, "u1")
            start, size = (buffer.number(field, "Q") for field in (BUFFER.OFFSET, BUFFER.SIZE))
            if found is None and start > 1:  # in files of more than 2 GiB
                if start + size > len(data):
                    raise ValueError(
                        f"its numbers end at byte {start + size}, and the file has {len(data)}"
                    )
                self._numbers[index] = data[start : start + size]
            else:
                self._numbers[index] = memoryview(b"" if found is None else found.data)
        return self._numbers[index] if len(self._numbers[index]) else None

    def _signature(self, table: Table) -> Signature:
        def names(tables: Tables) -> dict[int, str]:
            found: dict[int, str] = {}
            for one in tables:
                found[one.number(NAMED.TENSOR, "I")] = one.text(NAMED.NAME)
            if len(set(found.values())) < len(found):
                raise ValueError(f"a signature has a name twice: {quoted(found.values())}")
            return found

        return Signature(
            table.text(SIGNATURE.KEY),
            table.number(SIGNATURE.SUBGRAPH, "I"),
            names(table.tables(SIGNATURE.INPUTS)),
            names(table.tables(SIGNATURE.OUTPUTS)),
        )


def _sizes(table: Table, field: int) -> tuple[int, ...] | None:
    found = table.vector(field, "i4")
    if found is None:
        return None
    if found.size > _MOST_AXES:
        raise ValueError(f"it has {found.size} axes, at most {_MOST_AXES} are read")
    return tuple(found.tolist())


def _array(stored: memoryview, dtype: str, shape: Sequence[int]) -> Array | None:
    """Return numbers as an array; None if they are of a type that is not read."""
    if dtype not in _NUMBERS:
        return None
    if any(size < 0 for size in shape):
        raise ValueError(f"its shape {short(shape)} has a size below 0")
    if (size := math.prod(shape) * dtypes.itemsize(dtype)) != len(stored):
        raise ValueError(
            f"{dtype} of shape {short(shape)} takes {size} bytes, and the file has {len(stored)}"
        )
    if dtype == "float16":  # which stays that: its operators round to it
        array: Array = np.frombuffer(stored, "<f2")
    else:
        array = dtypes.numbers(stored, dtype)  # type: ignore[arg-type]
    array = np.require(array.astype(array.dtype.newbyteorder("="), copy=False), requirements="A")
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def _scales(table: Table | None) -> Scales | None:
    """Return how integers stand for numbers; None if they stand for themselves."""
    if table is None:
        return None
    scale = table.vector(QUANTIZATION.SCALE, "f4")
    if scale is None or not scale.size:
        return None
    zero = table.vector(QUANTIZATION.ZERO_POINT, "i8")
    zero = np.zeros(scale.size, np.int64) if zero is None else zero
    return Scales(scale, zero, table.number(QUANTIZATION.AXIS, "i"))
