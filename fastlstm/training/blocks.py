"""The blocks of a model's flat buffers that an optimiser works on, and the factors of each.

The parameters of a layer lie side by side in one array, and so do their gradients. An optimiser
goes through these arrays block by block. A block ends where the factor of the learning rate or that
of the decay changes; what is frozen is in no block.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..checks import check_number
from ..layers import Layer

BLOCK = 32768  # numbers: parameters, gradients, moments and scratch of so many stay in the cache

Factors = Mapping[str, float | Collection[float]]  # as users give them
_PerGate = tuple[float, ...]  # one for each gate of a parameter, or one alone


class Part(NamedTuple):
    """One parameter: its name from the model's root, and its place in its layer's buffer."""

    name: str
    shape: tuple[int, ...]
    start: int
    gates: str  # whose rows it has, as "ifgo", each as many; "" for other rows

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)

    @property
    def pieces(self) -> int:
        """How many factors it may have: one for each gate, or one alone."""
        return len(self.gates) or 1


class Block(NamedTuple):
    """A piece of a layer's buffer with one factor of the learning rate and one of the decay."""

    where: slice
    lr_factor: float
    decay_factor: float
    missed: int  # the number of steps in which it was frozen


def check_model(model: Layer) -> Layer:
    """Refuse what is no layer."""
    if not isinstance(model, Layer):
        raise TypeError(f"model should be a layer of this package, got: {type(model).__name__}")
    return model


def layout_of(model: Layer) -> list[list[Part]]:
    """Return, for each buffer of the model, the parts that lie in it, side by side."""
    prefixes: dict[int, str] = {}
    for prefix, layer in model.named_layers():
        prefixes.setdefault(id(layer), prefix)
    layout = []
    for layer, _, _ in model.buffers():
        parts: list[Part] = []
        start = 0
        for name, view in layer._views.items():
            parts.append(Part(prefixes[id(layer)] + name, view.shape, start, layer.gates_of(name)))
            start = parts[-1].stop
        layout.append(parts)
    return layout


def frozen_parts(model: Layer, layout: list[list[Part]]) -> set[str]:
    """Return the names of all parts that are frozen now."""
    return {
        part.name
        for (layer, _, _), parts in zip(model.buffers(), layout, strict=True)
        for part in parts
        if part.name.rpartition(".")[2] in layer._frozen
    }


def factors_of(parts: list[Part], patterns: Factors | None, argument: str) -> dict[str, _PerGate]:
    """Return the factors of each part by its name, those of the last pattern that matches it."""
    factors: dict[str, _PerGate] = {part.name: (1.0,) * part.pieces for part in parts}
    if not hasattr(patterns or {}, "items"):
        raise TypeError(f"{argument} should be a dict, got: {type(patterns).__name__}")
    for pattern, value in (patterns or {}).items():
        several = isinstance(value, (list, tuple, np.ndarray))
        given: Any = value if several else [value]
        values = [check_number(f"{argument}[{pattern!r}]", v, least=0) for v in given]
        matching = [part for part in parts if fnmatch.fnmatchcase(part.name, pattern)]
        if not matching:
            names = ", ".join(factors)
            raise ValueError(f"{argument}: {pattern!r} matches no parameter; there are {names}")
        for part in matching:
            if several and not part.gates:
                raise ValueError(
                    f"{argument}: {pattern!r} has a factor for each gate, but {part.name} of "
                    f"shape {part.shape} has no gates"
                )
            if several and len(values) != part.pieces:
                raise ValueError(
                    f"{argument}[{pattern!r}] must be one number, or {part.pieces} for the gates "
                    f"{', '.join(part.gates)} of {part.name}, got {len(values)}"
                )
            factors[part.name] = tuple(values) if several else (values[0],) * part.pieces
    return factors


def blocks_of(
    parts: list[Part],
    lr_factors: Mapping[str, _PerGate],
    decay_factors: Mapping[str, _PerGate],
    missed: Mapping[str, int],
) -> list[Block]:
    """Cut a layer's buffer into blocks, and leave out whatever has a factor of 0."""
    merged: list[tuple[int, int, tuple[float, float, int]]] = []
    for part in parts:
        size = (part.stop - part.start) // part.pieces
        for k, pair in enumerate(zip(lr_factors[part.name], decay_factors[part.name], strict=True)):
            start, stop = part.start + k * size, part.start + (k + 1) * size
            factors = (*pair, missed.get(part.name, 0))
            if merged and merged[-1][2] == factors:
                start = merged.pop()[0]
            merged.append((start, stop, factors))
    return [
        Block(slice(k, min(k + BLOCK, stop)), *factors)
        for start, stop, factors in merged
        if factors[0]  # with a factor of 0 the parameter is frozen
        for k in range(start, stop, BLOCK)
    ]


def stretches(blocks: Iterable[Block]) -> list[slice]:
    """Return the fewest slices of a layer's buffer that cover these blocks and nothing else."""
    merged: list[slice] = []
    for where in (block.where for block in blocks):
        start = merged.pop().start if merged and merged[-1].stop == where.start else where.start
        merged.append(slice(start, where.stop))
    return merged


def learnt_gradients(model: Layer) -> list[NDArray[Any]]:
    """Return the gradients of all that is not frozen, as flat pieces of the layers' buffers."""
    layout = layout_of(check_model(model))
    frozen, learnt = frozen_parts(model, layout), []
    for (_, _, gradients), parts in zip(model.buffers(), layout, strict=True):
        factors = {p.name: (float(p.name not in frozen),) * p.pieces for p in parts}
        blocks = blocks_of(parts, factors, factors, {})
        learnt += [gradients[where] for where in stretches(blocks)]
    return learnt
