"""What all optimisers share: a step over the flat buffers, moments, and a state that can be kept.

A step works in place, block by block, so that a block stays in the processor's cache from the first
operation on it to the last. Only the moments are allocated, once.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import as_array
from ..checks import check_number, check_size
from ..engines import load
from ..engines.contract import Engine, Rule
from ..layers import Layer
from ..layers.computed import Computed
from . import blocks
from .blocks import (
    Block,
    Factors,
    blocks_of,
    check_model,
    factors_of,
    frozen_parts,
    layout_of,
    stretches,
)


class Optimiser:
    """The loop over blocks, the moments and the state; a subclass says how a block changes.

    A subclass lists its `options`, the numbers and switches that `state_dict` holds, and in
    `moment_names` the names of the moments that it may keep. It has the methods `_needed`, `_rule`
    and `_compute`.
    """

    options: ClassVar[tuple[str, ...]] = ()
    moment_names: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        model: Layer,
        lr: float,
        weight_decay: float,
        lr_factors: Factors | None,
        decay_factors: Factors | None,
    ) -> None:
        self._layout = layout_of(check_model(model))
        parts = [part for parts in self._layout for part in parts]
        if not parts:
            raise ValueError(f"{type(self).__name__}: the model has no parameters to learn")
        self.model = model
        self.lr = check_number("lr", lr, least=0)
        self.initial_lr = math.nan  # where schedules start; the first of them sets it
        self.weight_decay = check_number("weight_decay", weight_decay, least=0)
        self.steps = 0
        self.factors = {"lr_factors": lr_factors, "decay_factors": decay_factors}  # as given
        self._lr_factors = factors_of(parts, lr_factors, "lr_factors")
        self._decay_factors = factors_of(parts, decay_factors, "decay_factors")
        self._layers = [layer for layer, _, _ in model.buffers()]
        self._computed = next((one for one in self._layers if isinstance(one, Computed)), None)
        self._blocks: list[list[Block]] = []  # of each buffer, without what is frozen
        self._stretches: list[list[slice]] = []  # what these cover
        self._frozen: list[frozenset[str]] | None = None  # for each layer, when these were made
        self._left_out: set[str] = set()  # the names of what was frozen then
        # name -> in how many steps it was frozen: they do not count as steps of its own
        self._missed: dict[str, int] = {}
        # name -> an array for each buffer, made by the first step that needs it
        self._moments: dict[str, list[NDArray[Any]]] = {}
        self._fresh: list[str] = []  # those that were made in the step at hand
        self._scratch = np.empty((2, blocks.BLOCK))  # taken as of each layer's dtype

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.options)
        factors = "".join(f", {n}={value!r}" for n, value in self.factors.items() if value)
        return f"{type(self).__name__}({options}{factors}) after {self.steps} steps"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scratch": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copy the moments, as a layer copies its parameters."""
        moments = {m: [np.array(flat) for flat in flats] for m, flats in state["_moments"].items()}
        self.__dict__.update(state, _moments=moments, _scratch=np.empty((2, blocks.BLOCK)))

    def _leave_out_frozen(self) -> None:
        """Make the blocks of each buffer anew if other parameters are frozen now."""
        frozen = [layer._frozen for layer in self._layers]
        if frozen != self._frozen:
            self._left_out = frozen_parts(self.model, self._layout)
            rates = {
                name: (0.0,) * len(factors) if name in self._left_out else factors
                for name, factors in self._lr_factors.items()
            }
            factors = rates, self._decay_factors
            self._blocks = [blocks_of(parts, *factors, self._missed) for parts in self._layout]
            self._stretches = [stretches(own) for own in self._blocks]
            self._frozen = frozen

    def learnt_gradients(self) -> Iterator[NDArray[Any]]:
        """Yield the gradients of all that a step changes, as flat pieces of the layers' buffers."""
        self._leave_out_frozen()
        for layer, own in zip(self._layers, self._stretches, strict=True):
            _, gradients = layer._own_buffers()
            for where in own:
                yield gradients[where]

    def _needed(self) -> Sequence[str]:
        """Return the names of the moments that a step keeps."""
        raise NotImplementedError

    def _update(
        self,
        p: NDArray[Any],
        g: NDArray[Any],
        moments: dict[str, NDArray[Any]],
        lr: float,
        decay: float,
        steps: int,
    ) -> None:
        """Change the parameters `p` and the moments by the gradients `g`, which stay as they are.

        The step is number `steps` of these parameters, from 1.
        """
        in_order = [*map(moments.get, self.moment_names)]
        if not self._engine.update(self._rule(lr, decay, steps), p, g, in_order):
            with np.errstate(all="ignore"):
                scratch = self._scratch.view(p.dtype)[:, : p.size]
                self._compute(p, g, moments, scratch, lr, decay, steps)

    @property
    def _engine(self) -> Engine:
        """The engine of the first layer that has one; or NumPy's, which leaves it to `_compute`."""
        return load("numpy") if self._computed is None else self._computed._engine

    def _rule(self, lr: float, decay: float, steps: int) -> Rule:
        """Return what `_compute` does, as engines are told."""
        raise NotImplementedError

    def _compute(
        self,
        p: NDArray[Any],
        g: NDArray[Any],
        moments: dict[str, NDArray[Any]],
        scratch: NDArray[Any],
        lr: float,
        decay: float,
        steps: int,
    ) -> None:
        """Make an update in NumPy: the truth for engines. `scratch` is two arrays of p's size."""
        raise NotImplementedError

    def step(self) -> None:
        """Change all parameters by their gradients; frozen ones and their moments stay."""
        needed = self._needed()
        self._fresh = [name for name in needed if name not in self._moments]
        if self._fresh:
            self._moments |= self._zeros(self._fresh)
        self.steps += 1
        lr, weight_decay = float(self.lr), float(self.weight_decay)
        self._leave_out_frozen()
        for name in self._left_out:
            self._missed[name] = self._missed.get(name, 0) + 1
        for number, layer in enumerate(self._layers):
            if not self._blocks[number]:
                continue
            parameters, gradients = layer._own_buffers()
            with layer._exclusive():
                for where, lr_factor, decay_factor, missed in self._blocks[number]:
                    p, g = parameters[where], gradients[where]
                    moments = {name: self._moments[name][number][where] for name in needed}
                    rates = lr * lr_factor, weight_decay * decay_factor
                    self._update(p, g, moments, *rates, self.steps - missed)
                layer.changed()

    def zero_grad(self) -> None:
        """Set all gradients of the model to zero."""
        self.model.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a step depends on besides parameters, gradients and factors, as copies.

        Returns
        -------
        dict of str -> int, float, bool, tuple of float, or ndarray
            "steps" is the number of steps so far, "initial_lr" the learning rate that schedules
            start from (nan without one). The options of the constructor are there as they are now.
            For each parameter that has been learnt, each moment stands under torch's name of the
            moment, a dot and the parameter's name, in the shape and dtype of the parameter. If such
            a parameter was frozen in some steps, their number stands under "missed", a dot and its
            name. The factors are not in the state: build the optimiser with them again.
        """
        state = {name: getattr(self, name) for name in ("steps", "initial_lr", *self.options)}
        frozen, missed = frozen_parts(self.model, self._layout), self._missed
        never = {name for name in frozen if missed.get(name, 0) == self.steps}
        state |= {f"missed.{name}": n for name, n in missed.items() if name not in never}
        for moment, name, view in self._moment_views():
            if name not in never:
                state[f"{moment}.{name}"] = view.copy()
        return state

    def _moment_views(self) -> Iterator[tuple[str, str, NDArray[Any]]]:
        """Yield (moment, parameter's name, view in the parameter's shape)."""
        for moment, flats in self._moments.items():
            for flat, parts in zip(flats, self._layout, strict=True):
                for part in parts:
                    yield moment, part.name, flat[part.start : part.stop].reshape(part.shape)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, so that the next step gives the same bits.

        Parameters
        ----------
        state_dict : mapping
            The state of an optimiser of the same class with the same switches, over parameters of
            the same names, shapes and dtype. Its numbers, `lr` among them, replace those of this
            optimiser, as in torch.

        Raises
        ------
        ValueError
            If it does not fit. Every fault is named, and nothing has been changed.
        """
        if not hasattr(state_dict, "keys"):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict).__name__}")
        loaded = copy.copy(self)
        faults = loaded._take_options(state_dict)
        names = {name.partition(".")[0] for name in state_dict}
        needed = loaded._needed() if loaded.steps else ()
        loaded._moments = self._zeros(m for m in self.moment_names if m in needed or m in names)
        frozen = frozen_parts(self.model, self._layout)
        views = {
            f"{m}.{name}": view
            for m, name, view in loaded._moment_views()
            if name not in frozen or f"{m}.{name}" in state_dict
        }
        never = [n for n in frozen if not any(f"{m}.{n}" in views for m in loaded._moments)]
        loaded._missed, loaded._frozen = dict.fromkeys(never, loaded.steps), None
        missed = {k: n for n in self._decay_factors if (k := f"missed.{n}") in state_dict}
        for key, name in missed.items():
            count = as_array(state_dict[key], key)
            if count.dtype.kind in "iu" and not count.ndim and 0 <= count <= loaded.steps:
                loaded._missed[name] = int(count)
            else:
                faults.append(f"{key} must be a number of the {loaded.steps} steps, got {count}.")
        faults += _faults(state_dict, views, ("steps", "initial_lr", *self.options, *missed))
        if faults:
            sentence = f"Error(s) in loading state_dict for {type(self).__name__}:"
            raise ValueError("\n\t".join([sentence, *faults]))
        for name, view in views.items():
            view[...] = as_array(state_dict[name], name)
        self.__dict__.update(loaded.__dict__)

    def _take_options(self, state_dict: Mapping[str, Any]) -> list[str]:
        """Set the options of a state; return what is wrong with them."""
        faults = []
        for name in ("steps", "initial_lr", *self.options):
            if name in state_dict:
                try:
                    setattr(self, name, _option(name, getattr(self, name), state_dict[name]))
                except (TypeError, ValueError) as error:
                    faults.append(str(error))
        if not faults:
            options = {name: getattr(self, name) for name in self.options}
            try:
                make: Any = type(self)
                with contextlib.suppress(TypeError):  # a subclass may be made in another way
                    make(self.model, **options)
            except ValueError as error:  # the constructor refuses them
                faults.append(f"{error}.")
        return faults

    def _zeros(self, moments: Iterable[str]) -> dict[str, list[NDArray[Any]]]:
        """Return arrays of zeros for these moments, one as each layer's own buffer."""
        return {m: [np.zeros_like(layer._flat) for layer in self._layers] for m in moments}


def _faults(
    state_dict: Mapping[str, Any], views: Mapping[str, NDArray[Any]], options: Iterable[str]
) -> list[str]:
    """Return what is wrong with the names, shapes and types in a state."""
    faults, expected = [], [*options, *views]
    if missing := [f'"{name}"' for name in expected if name not in state_dict]:
        faults.append(f"Missing key(s) in state_dict: {', '.join(missing)}.")
    if unexpected := [f'"{name}"' for name in state_dict if name not in expected]:
        faults.append(f"Unexpected key(s) in state_dict: {', '.join(unexpected)}.")
    for name in (name for name in views if name in state_dict):
        array, view = as_array(state_dict[name], name), views[name]
        if (array.shape, array.dtype) != (view.shape, view.dtype):
            faults.append(
                f"{name} must be {view.dtype} of shape {view.shape}, got {array.dtype} of shape "
                f"{array.shape}."
            )
    return faults


def _option(name: str, current: Any, value: Any) -> Any:
    """Return a loaded option in the type of the `current` one; refuse another switch."""
    array = as_array(value, name)
    if array.dtype.kind not in "fiub" or array.shape != np.shape(current):
        raise ValueError(f"{name} must be like {current!r}, got {value!r}.")
    if isinstance(current, bool):
        if array.item() != current:
            raise ValueError(f"{name} must be {current} as this optimiser's, got {value!r}.")
        return current
    if isinstance(current, tuple):
        return tuple(float(number) for number in array)
    if name == "steps":
        return check_size(name, array.item(), least=0)
    if name == "initial_lr" and not (math.isnan(array) or 0 <= array < math.inf):
        raise ValueError(f"initial_lr must be nan or a finite number of at least 0, got {value!r}.")
    return float(array)
