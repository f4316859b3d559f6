"""What every optimiser does: a step over the flat buffers, its moments, and its state."""

import contextlib
import copy
import math
from collections.abc import Iterator

import numpy as np

from ..arrays import as_array
from ..checks import check_number, check_size
from . import blocks
from .blocks import check_model, factors_of, frozen_names, layout_of, runs_of, stretches


class Optimiser:
    """The loop over blocks, the moments, the state; a subclass says what happens to a block."""

    _options = ()  # the names of the numbers and switches that `state_dict` holds
    _moments_of = ()  # torch's names of the arrays that it may hold

    def __init__(self, model, lr, weight_decay, lr_factors, decay_factors):
        self._layout = layout_of(check_model(model))
        parts = [part for parts in self._layout for part in parts]
        if not parts:
            raise ValueError(f"{type(self).__name__}: the model has no parameters to learn")
        self.model = model
        self.lr = check_number("lr", lr, least=0)
        self.initial_lr = math.nan  # what schedules start from; the first of them sets it
        self.weight_decay = check_number("weight_decay", weight_decay, least=0)
        self.steps = 0
        self.factors = {"lr_factors": lr_factors, "decay_factors": decay_factors}  # as given
        self._lr_factors = factors_of(parts, lr_factors, "lr_factors")
        self._decay_factors = factors_of(parts, decay_factors, "decay_factors")
        self._layers = [layer for layer, _, _ in model.buffers()]
        self._frozen, self._runs = None, []  # each layer's frozen names, which the runs leave out
        self._missed = {}  # name -> steps in which it was frozen: they do not count as its own
        self._moments = {}  # name -> an array for each buffer, from the first step that needs it
        self._scratch = np.empty((2, blocks.BLOCK), model.dtype)

    def __setstate__(self, state):
        """The moments are copied, as a layer's parameters are."""
        moments = {m: [np.array(flat) for flat in flats] for m, flats in state["_moments"].items()}
        self.__dict__.update(state, _moments=moments, _scratch=np.empty_like(state["_scratch"]))

    def _leave_out_frozen(self):
        """Make the runs of each buffer anew if other parameters are frozen now."""
        frozen = [layer._frozen for layer in self._layers]
        if frozen != self._frozen:
            self._left_out = frozen_names(self.model, self._layout)
            zeros = dict.fromkeys(self._left_out, (0.0,) * 4)
            factors = self._lr_factors | zeros, self._decay_factors
            self._runs = [runs_of(parts, *factors, self._missed) for parts in self._layout]
            self._frozen = frozen

    def learnt_gradients(self) -> Iterator[np.ndarray]:
        """Yield the gradients of all that a step changes, as flat pieces of the layers' buffers."""
        self._leave_out_frozen()
        for (_, _, gradients), runs in zip(self.model.buffers(), self._runs, strict=True):
            for where in stretches(runs):
                yield gradients[where]

    def _needed(self):
        """The names of the moments that a step keeps."""
        raise NotImplementedError

    def _update(self, p, g, moments, scratch, lr, decay, steps):
        """Change the parameters `p` by their gradients `g` (not written), and the moments.

        It is their step of number `steps`, from 1.
        """
        raise NotImplementedError

    def step(self):
        """Change all parameters by their gradients; frozen ones and their moments stay."""
        needed = self._needed()
        self._fresh = [name for name in needed if name not in self._moments]
        self._moments |= self._zeros(self._fresh)
        self.steps += 1
        lr, weight_decay = float(self.lr), float(self.weight_decay)
        self._leave_out_frozen()
        for name in self._left_out:
            self._missed[name] = self._missed.get(name, 0) + 1
        with np.errstate(all="ignore"):
            for number, (layer, parameters, gradients) in enumerate(self.model.buffers()):
                buffers = [parameters, gradients, *(self._moments[n][number] for n in needed)]
                for where, lr_factor, decay_factor, missed in self._runs[number]:
                    p, g, *moments = (buffer[where] for buffer in buffers)
                    scratch = self._scratch[:, : p.size]
                    rates = lr * lr_factor, weight_decay * decay_factor
                    self._update(p, g, moments, scratch, *rates, self.steps - missed)
                if self._runs[number]:
                    layer.changed()

    def zero_grad(self):
        """Set all gradients of the model to zero."""
        self.model.zero_grad()

    def state_dict(self):
        """Return all that a step depends on besides parameters, gradients and factors, as copies.

        Returns
        -------
        dict of str -> int, float, bool, tuple of float, or ndarray
            "steps", how many there were; "initial_lr", the base of schedules (nan without one);
            the constructor's options as they are now; each moment of each parameter that has been
            learnt, under torch's name of the moment, a dot and the parameter's name, in its shape
            and dtype; and under "missed", a dot and its name in how many steps such a parameter was
            frozen, if there were any.
            The factors are not in it: build the optimiser with them again.
        """
        state = {name: getattr(self, name) for name in ("steps", "initial_lr", *self._options)}
        frozen, missed = frozen_names(self.model, self._layout), self._missed
        never = {name for name in frozen if missed.get(name, 0) == self.steps}
        state |= {f"missed.{name}": n for name, n in missed.items() if name not in never}
        for moment, name, view in self._moment_views():
            if name not in never:
                state[f"{moment}.{name}"] = view.copy()
        return state

    def _moment_views(self):
        """Yield (moment, parameter's name, view of its shape)."""
        for moment, flats in self._moments.items():
            for flat, parts in zip(flats, self._layout, strict=True):
                for part in parts:
                    yield moment, part.name, flat[part.start : part.stop].reshape(part.shape)

    def load_state_dict(self, state_dict):
        """Take over what `state_dict` returned, so that the next step is, bit for bit, the next.

        Parameters
        ----------
        state_dict : mapping
            Of an optimiser of the same class and switches, over parameters of the same names,
            shapes and dtype. Numbers, `lr` among them, replace this optimiser's, as in torch.

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
        loaded._moments = self._zeros(m for m in self._moments_of if m in needed or m in names)
        frozen = frozen_names(self.model, self._layout)
        views = {
            f"{m}.{name}": view
            for m, name, view in loaded._moment_views()
            if name not in frozen or f"{m}.{name}" in state_dict
        }
        never = [n for n in frozen if not any(f"{m}.{n}" in views for m in loaded._moments)]
        loaded._missed, loaded._frozen = dict.fromkeys(never, loaded.steps), None
        missed = {k: n for n in self._decay_factors if (k := f"missed.{n}") in state_dict}
        for key, name in missed.items():
            loaded._missed[name] = count = as_array(state_dict[key], key)
            if count.dtype.kind not in "iu" or count.ndim or not 0 <= count <= loaded.steps:
                faults.append(f"{key} must be a number of the {loaded.steps} steps, got {count}.")
        faults += _faults(state_dict, views, ("steps", "initial_lr", *self._options, *missed))
        if faults:
            sentence = f"Error(s) in loading state_dict for {type(self).__name__}:"
            raise ValueError("\n\t".join([sentence, *faults]))
        for name, view in views.items():
            view[...] = as_array(state_dict[name], name)
        loaded._missed = {name: int(count) for name, count in loaded._missed.items()}
        self.__dict__.update(loaded.__dict__)

    def _take_options(self, state_dict):
        """Set the numbers that a state has; return what is wrong with it."""
        faults = []
        for name in ("steps", "initial_lr", *self._options):
            if name in state_dict:
                try:
                    setattr(self, name, _option(name, getattr(self, name), state_dict[name]))
                except (TypeError, ValueError) as error:
                    faults.append(str(error))
        if not faults:
            options = {name: getattr(self, name) for name in self._options}
            try:
                with contextlib.suppress(TypeError):  # a subclass may be made in another way
                    type(self)(self.model, **options)
            except ValueError as error:  # the constructor would not take them
                faults.append(f"{error}.")
        return faults

    def _zeros(self, moments):
        sizes = [parts[-1].stop for parts in self._layout]
        return {m: [np.zeros(size, self.model.dtype) for size in sizes] for m in moments}


def _faults(state_dict, views, options):
    """What is wrong with the names, shapes and types in a state."""
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


def _option(name, current, value):
    """A loaded number as the kind that `current` is; a switch must be the same."""
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
