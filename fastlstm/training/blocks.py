"""The blocks of a model's flat buffers that an optimiser works on, and the factors of each."""

import fnmatch
import math
from typing import NamedTuple

import numpy as np

from ..checks import check_number
from ..layers import Layer

BLOCK = 32768  # numbers: parameters, gradients, moments and scratch of so many stay in the cache


class Part(NamedTuple):
    """One parameter: its name from the model's root, and where in its layer's buffer it lies."""

    name: str
    shape: tuple
    start: int
    gated: bool  # its rows are the four gates', a quarter each

    @property
    def stop(self):
        return self.start + math.prod(self.shape)


class Run(NamedTuple):
    """A block of a layer's buffer with one factor of the learning rate and one of the decay."""

    where: slice
    lr_factor: float
    decay_factor: float
    missed: int  # steps in which it was frozen


def check_model(model):
    if not isinstance(model, Layer):
        raise TypeError(f"model should be a layer of this package, got: {type(model).__name__}")
    return model


def layout_of(model):
    """For each buffer, the `Part`s that lie in it, side by side."""
    prefixes, layout = {}, []
    for prefix, layer in model.named_layers():
        prefixes.setdefault(id(layer), prefix)
    for layer, _, _ in model.buffers():
        parts, start = [], 0
        for name, view in layer._views.items():
            parts.append(Part(prefixes[id(layer)] + name, view.shape, start, layer.has_gates(name)))
            start = parts[-1].stop
        layout.append(parts)
    return layout


def frozen_names(model, layout):
    """The names of all parameters that are frozen now."""
    return {
        part.name
        for (layer, _, _), parts in zip(model.buffers(), layout, strict=True)
        for part in parts
        if part.name.rpartition(".")[2] in layer._frozen
    }


def factors_of(parts, patterns, argument):
    """Name -> its four factors (all the same if it is one), by the last pattern that matches."""
    factors = {part.name: (1.0,) * 4 for part in parts}
    if not hasattr(patterns or {}, "items"):
        raise TypeError(f"{argument} should be a dict, got: {type(patterns).__name__}")
    for pattern, value in (patterns or {}).items():
        several = isinstance(value, (list, tuple, np.ndarray))
        values = [
            check_number(f"{argument}[{pattern!r}]", v, least=0)
            for v in (value if several else [value])
        ]
        if len(values) not in ((4,) if several else (1,)):
            raise ValueError(
                f"{argument}[{pattern!r}] must be one number, or four for the gates i, f, g, o, "
                f"got {len(values)}"
            )
        matching = [part for part in parts if fnmatch.fnmatchcase(part.name, pattern)]
        if not matching:
            names = ", ".join(factors)
            raise ValueError(f"{argument}: {pattern!r} matches no parameter; there are {names}")
        for part in matching:
            if several and not part.gated:
                raise ValueError(
                    f"{argument}: {pattern!r} has a factor for each gate, but {part.name} of "
                    f"shape {part.shape} has no gates"
                )
            factors[part.name] = tuple(values) if several else (values[0],) * 4
    return factors


def runs_of(parts, lr_factors, decay_factors, missed):
    """A layer's buffer cut where a factor, or the steps that were missed, change; and in blocks."""
    merged = []
    for part in parts:
        quarter = (part.stop - part.start) // 4
        for gate in range(4):
            start = part.start + gate * quarter
            stop = part.stop if gate == 3 else start + quarter
            factors = lr_factors[part.name][gate], decay_factors[part.name][gate]
            factors += (missed.get(part.name, 0),)
            if merged and merged[-1][2] == factors:
                start = merged.pop()[0]
            merged.append((start, stop, factors))
    return [
        Run(slice(k, min(k + BLOCK, stop)), *factors)
        for start, stop, factors in merged
        if factors[0]  # a factor 0 freezes: nothing is computed
        for k in range(start, stop, BLOCK)
    ]


def stretches(runs):
    """Slices of a layer's buffer that hold what these runs do, as few as may be."""
    merged = []
    for where in (run.where for run in runs):
        start = merged.pop().start if merged and merged[-1].stop == where.start else where.start
        merged.append(slice(start, where.stop))
    return merged
