"""TFLite files that tests build, tensor by tensor, with the library flatbuffers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fastlstm.formats.tflite_schema import ACTIVATIONS, OPERATORS, OPTIONS, TYPES

_PREPEND = {
    "b": "Int8", "B": "Uint8", "?": "Bool", "i": "Int32", "I": "Uint32", "q": "Int64",
    "Q": "Uint64", "f": "Float32", "offset": "UOffsetTRelative",
}  # fmt: skip


_MARK = 0x123456789ABC0000  # stands for an offset that is not known yet


class Graph:
    """A file that is being built, of one graph or several.

    Every method that adds a tensor returns its index.
    """

    def __init__(self) -> None:
        self.tensors: list[dict[str, Any]] = []
        self.operators: list[tuple[str, list[int], list[int], Mapping[str, Any]]] = []
        self.buffers: list[bytes] = [b""]

    def tensor(self, name: str, shape: Sequence[int], dtype: str = "float32", **fields: Any) -> int:
        """Add a tensor; fields are signature, is_variable, data, scale, zero_point and axis."""
        self.tensors.append({"name": name, "shape": shape, "dtype": dtype, **fields})
        return len(self.tensors) - 1

    def constant(self, value: Any, name: str = "", **fields: Any) -> int:
        """Add a constant."""
        array = np.ascontiguousarray(value)
        shape = np.shape(value)
        dtype = fields.pop("dtype", array.dtype.name)
        return self.tensor(name, shape, dtype, data=array.tobytes(), **fields)

    def state(self, *shape: int) -> int:
        """Add a variable tensor."""
        return self.tensor("state", shape, is_variable=True)

    def operator(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any
    ) -> None:
        """Add an operator; its activation may be given by its name."""
        if isinstance(options.get("activation"), str):
            options["activation"] = ACTIVATIONS.index(options["activation"])
        self.operators.append((kind, [*inputs], [*outputs], options))

    def file(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        names: tuple[Mapping[int, str], Mapping[int, str]] | None = None,
        key: str = "serving_default",
    ) -> bytes:
        """Return the file."""
        return file_of([(self, inputs, outputs)], [] if names is None else [(key, 0, *names)])


def file_of(
    graphs: Sequence[tuple[Graph, Sequence[int], Sequence[int]]],
    signatures: Iterable[tuple[str, int, Mapping[int, str], Mapping[int, str]]] = (),
    behind: bool = False,
) -> bytes:
    """Return a file of several graphs, which share nothing.

    Numbers of constants may stand behind the tables, as they do in files of more than 2 GiB.
    """
    from flatbuffers import Builder

    builder = Builder(1024)

    def vector(values: Sequence[Any], kind: str) -> int:
        if kind == "offset":
            builder.StartVector(4, len(values), 4)
            for value in reversed(values):
                builder.PrependUOffsetTRelative(value)
            return int(builder.EndVector())
        return int(builder.CreateNumpyVector(np.asarray(values, kind)))

    def table(fields: Iterable[tuple[int, str, Any]]) -> int:
        fields = [*fields]
        builder.StartObject(max((number for number, _, _ in fields), default=0) + 1)
        for number, kind, value in fields:
            getattr(builder, f"Prepend{_PREPEND[kind]}")(value)
            builder.Slot(number)
        return int(builder.EndObject())

    def text(value: str) -> int:
        return int(builder.CreateString(value))

    buffers: list[bytes] = [b""]

    def tensor_of(given: Mapping[str, Any]) -> int:
        fields = [
            (0, "offset", vector(given["shape"], "i4")),
            (1, "b", TYPES.index(given["dtype"])),
            (3, "offset", text(given["name"])),
        ]
        if given.get("data") is not None:
            buffers.append(given["data"])
            fields.append((2, "I", len(buffers) - 1))
        if given.get("scale") is not None:
            scale = vector(given["scale"], "f4")
            zero = vector(given.get("zero_point", [0] * len(given["scale"])), "i8")
            details = [(2, "offset", scale), (3, "offset", zero), (6, "i", given.get("axis", 0))]
            fields.append((4, "offset", table(details)))
        if given.get("is_variable"):
            fields.append((5, "?", True))
        if given.get("is_sparse"):
            fields.append((6, "offset", table([])))
        if given.get("signature") is not None:
            fields.append((7, "offset", vector(given["signature"], "i4")))
        if not len(given["shape"]):
            fields.append((8, "?", True))
        return table(fields)

    kinds = list(dict.fromkeys(kind for graph, _, _ in graphs for kind, *_ in graph.operators))

    def operator_of(kind: str, inputs: list[int], outputs: list[int], given: Any) -> int:
        fields = [
            (0, "I", kinds.index(kind)),
            (1, "offset", vector(inputs, "i4")),
            (2, "offset", vector(outputs, "i4")),
        ]
        if given or kind in OPTIONS:
            own, options = OPTIONS[kind], []
            for name, value in given.items():
                number, form, *_ = own.fields[name]
                if form == "[i":
                    form, value = "offset", vector(value, "i4")
                elif form == "text":
                    form, value = "offset", text(value)
                options.append((number, form, value))
            fields += [(3, "B", own.type), (4, "offset", table(options))]
        return table(fields)

    subgraphs = []
    for graph, inputs, outputs in graphs:
        tensors = vector([tensor_of(one) for one in graph.tensors], "offset")
        operators = vector([operator_of(*one) for one in graph.operators], "offset")
        ends = [vector(one, "i4") for one in (inputs, outputs)]
        offsets = (tensors, *ends, operators)
        subgraphs.append(table((n, "offset", offset) for n, offset in enumerate(offsets)))

    def code_of(kind: str) -> int:
        fields = [(2, "i", 2 if kind == "BROADCAST_TO" else 1)]
        number = OPERATORS.index(kind) if kind in OPERATORS else OPERATORS.index("CUSTOM")
        if kind not in OPERATORS:
            fields.append((1, "offset", text(kind)))
        return table([(0, "b", min(number, 127)), (3, "i", number), *fields])

    def map_of(names: Mapping[int, str]) -> int:
        return vector(
            [table([(0, "offset", text(name)), (1, "I", index)]) for index, name in names.items()],
            "offset",
        )

    codes = vector([code_of(kind) for kind in kinds], "offset")
    stored = []
    for number, data in enumerate(buffers):
        if data and behind:
            stored.append(table([(1, "Q", _MARK + number), (2, "Q", len(data))]))
        elif data:
            builder.StartVector(1, len(data), 16)
            builder.head = builder.head - len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            stored.append(table([(0, "offset", builder.EndVector())]))
        else:
            stored.append(table([]))
    fields = [(0, "I", 3), (1, "offset", codes), (2, "offset", vector(subgraphs, "offset"))]
    fields.append((4, "offset", vector(stored, "offset")))
    entries = [
        table(
            [
                (0, "offset", map_of(inputs)),
                (1, "offset", map_of(outputs)),
                (2, "offset", text(key)),
                (4, "I", subgraph),
            ]
        )
        for key, subgraph, inputs, outputs in signatures
    ]
    if entries:
        fields.append((7, "offset", vector(entries, "offset")))
    builder.Finish(table(fields), file_identifier=b"TFL3")
    result = bytes(builder.Output())
    for number, data in enumerate(buffers if behind else []):
        result += b"\0" * (-len(result) % 16)
        mark, place = ((n).to_bytes(8, "little") for n in (_MARK + number, len(result)))
        result = result.replace(mark, place) + data
    return result
