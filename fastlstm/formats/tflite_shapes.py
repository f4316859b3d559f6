"""TFLite's operators of shapes and places, by those of ONNX or by functions of their own.

They are as those in `tflite_operators`, which says where the sources are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graphs import tflite_functions as functions
from ..layers import Embedding
from ..layers.parameters import undrawn
from .tflite_rows import Part, Row
from .tflite_schema import TYPES

if TYPE_CHECKING:
    from .tflite_site import Site

SHAPES: dict[str, Callable[[Site], None]] = {}


def _enter(*kinds: str) -> Callable[[Callable[[Site], None]], Callable[[Site], None]]:
    """Return a decorator that enters a function into the table."""

    def entered(make: Callable[[Site], None]) -> Callable[[Site], None]:
        SHAPES.update(dict.fromkeys(kinds, make))
        return make

    return entered


def _dtype(number: int) -> np.dtype[Any]:
    """Return the type that a number stands for."""
    name = TYPES[number] if 0 <= number < len(TYPES) else f"number {number}"
    try:
        return np.dtype(name)
    except TypeError:
        raise ValueError(f"its type {name} is not known here") from None


# ---- shapes -------------------------------------------------------------------------------------


@_enter("RESHAPE")
def _reshape(site: Site) -> None:
    site.needs(1, 2)
    if site.has(1):
        sizes = site.value(1)
    elif site.options["new_shape"] is not None:
        sizes = site.constant(site.options["new_shape"])
    else:
        raise ValueError("it has no shape")
    site.give(site.put("Reshape", [site.value(0), sizes], allowzero=1)[0])
    row = site.row(0)
    if row is not None:
        site.is_row(row.reshaped(site.known(1) if site.has(1) else None, site.result().shape))


@_enter("SHAPE")
def _shape(site: Site) -> None:
    site.needs(1)
    site.compute(partial(functions.shape, _dtype(site.options["out_type"])), [site.value(0)])


@_enter("RANK")
def _rank(site: Site) -> None:
    site.needs(1)
    site.compute(functions.rank, [site.value(0)])


@_enter("TRANSPOSE")
def _transpose(site: Site) -> None:
    site.needs(2)
    axes = site.wholes(1)
    if axes is None:
        site.compute(functions.transpose, [site.value(0), site.value(1)], type="TransposeTo")
        return
    site.give(site.put("Transpose", [site.value(0)], perm=axes)[0])
    row = site.row(0)
    if row is not None:
        site.is_row(row.transposed(axes))


@_enter("SQUEEZE")
def _squeeze(site: Site) -> None:
    site.needs(1)
    axes = site.options["axes"]
    rest = [site.constant(axes)] if axes else []
    site.give(site.put("Squeeze", [site.value(0), *rest])[0])


@_enter("EXPAND_DIMS")
def _expand_dims(site: Site) -> None:
    site.needs(2)
    site.give(site.put("Unsqueeze", [site.value(0), site.value(1)])[0])


@_enter("PACK")
def _pack(site: Site) -> None:
    site.needs(1, len(site.inputs))
    axis = site.options["axis"]
    values = [site.value(n) for n in range(len(site.inputs))]
    site.compute(partial(functions.pack, axis, site.limits), values)


@_enter("UNPACK")
def _unpack(site: Site) -> None:
    site.needs(1, outputs=len(site.outputs))
    compute = partial(functions.unpack, site.options["axis"], len(site.outputs))
    site.compute(compute, [site.value(0)])


@_enter("CONCATENATION")
def _concatenate(site: Site) -> None:
    site.needs(1, len(site.inputs))
    values = [site.value(n) for n in range(len(site.inputs))]
    axis = site.options["axis"]
    if number := site.options["activation"]:
        raise ValueError(f"LiteRT leaves out its activation, which has the number {number}")
    site.give(site.put("Concat", values, axis=axis)[0])
    rows = [site.row(n) for n in range(len(site.inputs))]
    if all(row is not None for row in rows):
        known = [row for row in rows if row is not None]
        if known[0].axes is not None and axis in (-1, known[0].axes - 1):
            site.is_row(Row.beside(known))


@_enter("SLICE")
def _slice(site: Site) -> None:
    site.needs(3)
    site.compute(functions.cut, [site.value(n) for n in range(3)], type="SliceOf")


@_enter("STRIDED_SLICE")
def _strided_slice(site: Site) -> None:
    site.needs(4)
    if site.options["offset"]:
        raise ValueError("its ends count from its begins, which is not known here")
    masks = {name: site.options[name] for name in functions.MASKS}
    cut = functions.StridedSlice(masks)
    lists = [site.wholes(n) for n in (1, 2, 3)]
    if any(one is None for one in lists):
        site.compute(cut, [site.value(n) for n in range(4)])
        return
    index = cut.index(*lists)
    site.compute(itemgetter(index), [site.value(0)])
    row = site.row(0)
    if row is not None:
        site.is_row(row.cut(index))


@_enter("SPLIT")
def _split(site: Site) -> None:
    site.needs(2, outputs=len(site.outputs))
    compute = partial(functions.split, len(site.outputs))
    site.compute(compute, [site.value(1), site.value(0)], type="SplitEvenly")


@_enter("SPLIT_V")
def _split_at(site: Site) -> None:
    site.needs(3, outputs=len(site.outputs))
    compute = partial(functions.split_at, len(site.outputs))
    site.compute(compute, [site.value(n) for n in range(3)])


@_enter("TILE")
def _tile(site: Site) -> None:
    site.needs(2)
    site.give(site.put("Tile", [site.value(0), site.value(1)])[0])


@_enter("BROADCAST_TO")
def _broadcast(site: Site) -> None:
    site.needs(2)
    site.give(site.put("Expand", [site.value(0), site.value(1)])[0])


@_enter("FILL")
def _fill(site: Site) -> None:
    site.needs(2)
    site.compute(partial(functions.fill, site.limits), [site.value(0), site.value(1)])


@_enter("RANGE")
def _range(site: Site) -> None:
    site.needs(3)
    site.give(site.put("Range", [site.value(n) for n in range(3)])[0])


@_enter("PAD", "PADV2", "MIRROR_PAD")
def _pad(site: Site) -> None:
    site.needs(2, 3)
    widths = site.known(1)
    if widths is None or widths.ndim != 2 or widths.shape[1] != 2 or widths.size > 64:
        raise ValueError("its widths must be a constant of two numbers for each axis")
    mode = "constant"
    if site.kind == "MIRROR_PAD":
        mode = "reflect" if site.options["mode"] == 0 else "symmetric"
    value = [site.value(2)] if site.kind == "PADV2" and site.has(2) else []
    sides = [(int(a), int(b)) for a, b in widths]
    site.compute(partial(functions.pad, mode, sides, site.limits), [site.value(0), *value])


@_enter("REVERSE_V2")
def _reverse(site: Site) -> None:
    site.needs(2)
    site.compute(functions.reverse, [site.value(0), site.value(1)])
    row, axes = site.row(0), site.wholes(1)
    if row is not None and axes is not None:
        site.is_row(row.turned(axes))


@_enter("REVERSE_SEQUENCE")
def _reverse_sequence(site: Site) -> None:
    site.needs(2)
    axes = {"time_axis": site.options["seq_dim"], "batch_axis": site.options["batch_dim"]}
    site.give(site.put("ReverseSequence", [site.value(0), site.value(1)], **axes)[0])


# ---- places -------------------------------------------------------------------------------------


@_enter("GATHER", "EMBEDDING_LOOKUP")
def _gather(site: Site) -> None:
    site.needs(2)
    x, indices = (0, 1) if site.kind == "GATHER" else (1, 0)
    axis, batch = site.options.get("axis", 0), site.options.get("batch_dims", 0)
    table = site.known(x)
    if axis == batch == 0 and table is not None and table.ndim == 2 and table.dtype == np.float32:
        _embed(site, table, indices)
        return
    compute = partial(functions.gather, axis, batch, site.limits)
    site.compute(compute, [site.value(x), site.value(indices)], type="GatherAt")


def _embed(site: Site, table: Any, place: int) -> None:
    """Look rows up in a constant table, by a layer."""

    def made() -> Embedding:
        with undrawn():
            embedding = Embedding(*table.shape)
        embedding.load_state_dict({"weight": table})
        return embedding

    embedding = site.shared(made, [table], "embedding")
    site.compute(
        partial(functions.embed, embedding, site.limits),
        [site.value(place)],
        type="Embedding",
        by="fastlstm",
    )
    row = site.row(place)
    if row is not None and np.dtype(site.tensor(place).dtype).kind in "iu":
        site.is_row(row.behind(Part.of(embedding), added=1))


@_enter("GATHER_ND")
def _gather_nd(site: Site) -> None:
    site.needs(2)
    site.give(site.put("GatherND", [site.value(0), site.value(1)])[0])


@_enter("ONE_HOT")
def _one_hot(site: Site) -> None:
    site.needs(4)
    compute = partial(functions.one_hot, site.options["axis"], site.limits)
    site.compute(compute, [site.value(n) for n in range(4)])
