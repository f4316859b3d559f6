"""Who changes the parameters: SGD, RMSprop, Adam and AdamW as torch has them, and clipping.

An optimiser works in place on the flat buffers of a model's layers, block by block, so that a block
stays in the cache from the first operation on it to the last; it allocates nothing of the
parameters' size but its moments, once. Operations and their order are those of torch's
single-tensor code, in the layers' dtype: a step differs from torch's by rounding alone. Gradients
that are not finite do what they do in torch.

Every optimiser takes `lr_factors` and `decay_factors`, as MATLAB's lstmLayer has them: what `lr`
and `weight_decay` are multiplied by for some parameters. They are dicts whose keys are patterns,
as `fnmatch` has them, over the names in ``model.state_dict()``, and whose values are a number or,
for parameters with the rows of an LSTM's gates, four, in the order i, f, g, o::

    lr_factors={"*bias*": 2, "lstm.weight_hh_l0": [1, 2, 1, 1]}, decay_factors={"*bias*": 0}

Of several patterns that match a name the last one counts; a name without a match has 1. Whatever
has a learning rate's factor of 0 is frozen, as `Layer.freeze` does it: neither it nor its moments
change, even if its gradients are nan, and these do not count in a norm.
"""

import contextlib
import copy
import fnmatch
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..arrays import as_array
from ..checks import check_bool, check_number, check_size
from ..layers import Layer
from ..layers.recurrent import Recurrent

_BLOCK = 32768  # numbers: parameters, gradients, moments and scratch of so many stay in the cache


class _Part(NamedTuple):
    """One parameter: its name from the model's root, and where in its layer's buffer it lies."""

    name: str
    shape: tuple
    start: int
    gated: bool  # its rows are the four gates', a quarter each

    @property
    def stop(self):
        return self.start + math.prod(self.shape)


class _Run(NamedTuple):
    """A block of a layer's buffer with one factor of the learning rate and one of the decay."""

    where: slice
    lr_factor: float
    decay_factor: float
    missed: int  # steps in which it was frozen


def _check_model(model):
    if not isinstance(model, Layer):
        raise TypeError(f"model should be a layer of this package, got: {type(model).__name__}")
    return model


def _layout(model):
    """For each buffer, the `_Part`s that lie in it, side by side."""
    prefixes, layout = {}, []
    for prefix, layer in model.named_layers():
        prefixes.setdefault(id(layer), prefix)
    for layer, _, _ in model.buffers():
        parts, start = [], 0
        for name, view in layer._views.items():
            gated = isinstance(layer, Recurrent) and not name.startswith("weight_hr")
            parts.append(_Part(prefixes[id(layer)] + name, view.shape, start, gated))
            start = parts[-1].stop
        layout.append(parts)
    return layout


def _frozen(model, layout):
    """The names of all parameters that are frozen now."""
    return {
        part.name
        for (layer, _, _), parts in zip(model.buffers(), layout, strict=True)
        for part in parts
        if part.name.rpartition(".")[2] in layer._frozen
    }


def _factors(parts, patterns, argument):
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


def _runs(parts, lr_factors, decay_factors, missed):
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
        _Run(slice(k, min(k + _BLOCK, stop)), *factors)
        for start, stop, factors in merged
        if factors[0]  # a factor 0 freezes: nothing is computed
        for k in range(start, stop, _BLOCK)
    ]


def _stretches(runs):
    """Slices of a layer's buffer that hold what these runs do, as few as may be."""
    merged = []
    for where in (run.where for run in runs):
        start = merged.pop().start if merged and merged[-1].stop == where.start else where.start
        merged.append(slice(start, where.stop))
    return merged


class Optimiser:
    """The loop over blocks, the moments, the state; a subclass says what happens to a block."""

    _options = ()  # the names of the numbers and switches that `state_dict` holds
    _moments_of = ()  # torch's names of the arrays that it may hold

    def __init__(self, model, lr, weight_decay, lr_factors, decay_factors):
        self._layout = _layout(_check_model(model))
        parts = [part for parts in self._layout for part in parts]
        if not parts:
            raise ValueError(f"{type(self).__name__}: the model has no parameters to learn")
        self.model = model
        self.lr = check_number("lr", lr, least=0)
        self.initial_lr = math.nan  # what schedules start from; the first of them sets it
        self.weight_decay = check_number("weight_decay", weight_decay, least=0)
        self.steps = 0
        self.factors = {"lr_factors": lr_factors, "decay_factors": decay_factors}  # as given
        self._lr_factors = _factors(parts, lr_factors, "lr_factors")
        self._decay_factors = _factors(parts, decay_factors, "decay_factors")
        self._layers = [layer for layer, _, _ in model.buffers()]
        self._frozen, self._runs = None, []  # each layer's frozen names, which the runs leave out
        self._missed = {}  # name -> steps in which it was frozen: they do not count as its own
        self._moments = {}  # name -> an array for each buffer, from the first step that needs it
        self._scratch = np.empty((2, _BLOCK), model.dtype)

    def __setstate__(self, state):
        """The moments are copied, as a layer's parameters are."""
        moments = {m: [np.array(flat) for flat in flats] for m, flats in state["_moments"].items()}
        self.__dict__.update(state, _moments=moments, _scratch=np.empty_like(state["_scratch"]))

    def _leave_out_frozen(self):
        """Make the runs of each buffer anew if other parameters are frozen now."""
        frozen = [layer._frozen for layer in self._layers]
        if frozen != self._frozen:
            self._left_out = _frozen(self.model, self._layout)
            zeros = dict.fromkeys(self._left_out, (0.0,) * 4)
            factors = self._lr_factors | zeros, self._decay_factors
            self._runs = [_runs(parts, *factors, self._missed) for parts in self._layout]
            self._frozen = frozen

    def learnt_gradients(self) -> Iterator[np.ndarray]:
        """Yield the gradients of all that a step changes, as flat pieces of the layers' buffers."""
        self._leave_out_frozen()
        for (_, _, gradients), runs in zip(self.model.buffers(), self._runs, strict=True):
            for where in _stretches(runs):
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
        frozen, missed = _frozen(self.model, self._layout), self._missed
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
        frozen = _frozen(self.model, self._layout)
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

    def _decayed(self, p, g, decay, out):
        """The gradients with the penalty's, decay * p, in `out`; or themselves without."""
        if not decay:
            return g
        np.multiply(p, decay, out=out)
        out += g
        return out


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


def _lerp(old, new, weight, scratch):
    """old + weight * (new - old), written into `old`; torch starts from the nearer end."""
    np.subtract(new, old, out=scratch)
    if weight < 0.5:
        scratch *= weight
        old += scratch
    else:
        scratch *= 1 - weight
        np.subtract(new, scratch, out=old)


def _add_squares(average, g, beta, scratch):
    """beta * average + (1 - beta) * g * g, written into `average`."""
    np.multiply(g, 1 - beta, out=scratch)
    scratch *= g
    average *= beta
    average += scratch


class SGD(Optimiser):
    """Stochastic gradient descent, with momentum if it is not 0: torch.optim.SGD.

    Parameters
    ----------
    model : Layer
        Whose parameters `step` changes.
    lr : float >= 0
        The learning rate; read, and set by schedules, as ``optimizer.lr``.
    momentum : float >= 0
    dampening : float
        The gradient's share in the momentum is 1 - dampening, but in the first step 1.
    weight_decay : float >= 0
        Times the parameters, added to the gradients.
    nesterov : bool
        Needs momentum and no dampening.
    lr_factors, decay_factors : dict of str -> float or four floats, optional
        By patterns of the parameters' names, see `fastlstm.training.optimisers`.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type.

    Notes
    -----
    With g the gradient, ``b = momentum b + (1 - dampening) g`` and ``p = p - lr b``; with
    `nesterov` ``p = p - lr (g + momentum b)``. Keeps b, of the parameters' size, if there is
    momentum. Factors: as in MATLAB's lstmLayer. Source: torch.optim.SGD.

    Examples
    --------
    >>> model = fastlstm.Linear(1, 1, bias=False)
    >>> model.weight = [[1.0]]
    >>> optimizer = fastlstm.training.SGD(model, lr=0.5)
    >>> model.grads["weight"][...] = 1.0
    >>> optimizer.step()
    >>> model.weight
    array([[0.5]], dtype=float32)
    """

    _options = ("lr", "momentum", "dampening", "weight_decay", "nesterov")
    _moments_of = ("momentum_buffer",)

    def __init__(
        self, model, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, *,
        lr_factors=None, decay_factors=None,
    ):  # fmt: skip
        super().__init__(model, lr, weight_decay, lr_factors, decay_factors)
        self.momentum = check_number("momentum", momentum, least=0)
        self.dampening = check_number("dampening", dampening)
        self.nesterov = check_bool("nesterov", nesterov)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def _needed(self):
        return ("momentum_buffer",) if self.momentum else ()

    def _update(self, p, g, moments, scratch, lr, decay, steps):
        g, change = self._decayed(p, g, decay, scratch[0]), scratch[1]
        for b in moments:
            if self._fresh or steps == 1:
                b[...] = g
            else:
                np.multiply(g, 1 - self.dampening, out=change)
                b *= self.momentum
                b += change
            if self.nesterov:
                np.multiply(b, self.momentum, out=change)
                change += g
                g = change
            else:
                g = b
        np.multiply(g, -lr, out=change)
        p += change


class RMSprop(Optimiser):
    """Gradients over the root of their mean square: torch.optim.RMSprop.

    Parameters
    ----------
    model : Layer
        Whose parameters `step` changes.
    lr : float >= 0
        The learning rate; read, and set by schedules, as ``optimizer.lr``.
    alpha : float in [0, 1]
        How much of the mean square of before a step keeps.
    eps : float >= 0
        Added to the root.
    weight_decay : float >= 0
        Times the parameters, added to the gradients.
    momentum : float >= 0
    centered : bool
        Takes the variance instead of the mean square.
    lr_factors, decay_factors : dict of str -> float or four floats, optional
        By patterns of the parameters' names, see `fastlstm.training.optimisers`.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type.

    Notes
    -----
    With g the gradient, ``v = alpha v + (1 - alpha) g^2`` and ``p = p - lr g / (sqrt(v) + eps)``;
    with `centered` ``sqrt(v - m^2)``, m the mean of g as v of g^2; with momentum ``b = momentum b
    + g / (...)`` and ``p = p - lr b``. Keeps v, m and b, each of the parameters' size. Factors: as
    in MATLAB's lstmLayer. Sources: Hinton's lecture; Graves 2013 (centered); torch.optim.RMSprop.

    Examples
    --------
    >>> model = fastlstm.Linear(1, 1, bias=False)
    >>> model.weight = [[1.0]]
    >>> optimizer = fastlstm.training.RMSprop(model, lr=0.05, alpha=0.75)
    >>> model.grads["weight"][...] = 8.0
    >>> optimizer.step()
    >>> model.weight
    array([[0.9]], dtype=float32)
    """

    _options = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered")
    _moments_of = ("square_avg", "grad_avg", "momentum_buffer")

    def __init__(
        self, model, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False,
        *, lr_factors=None, decay_factors=None,
    ):  # fmt: skip
        super().__init__(model, lr, weight_decay, lr_factors, decay_factors)
        self.alpha = check_number("alpha", alpha, least=0, most=1)
        self.eps = check_number("eps", eps, least=0)
        self.momentum = check_number("momentum", momentum, least=0)
        self.centered = check_bool("centered", centered)

    def _needed(self):
        kept = True, self.centered, self.momentum > 0
        return tuple(name for name, is_kept in zip(self._moments_of, kept, strict=True) if is_kept)

    def _update(self, p, g, moments, scratch, lr, decay, steps):
        moments = dict(zip(self._needed(), moments, strict=True))
        g, root = self._decayed(p, g, decay, scratch[0]), scratch[1]
        v = moments["square_avg"]
        _add_squares(v, g, self.alpha, root)
        if self.centered:
            m = moments["grad_avg"]
            _lerp(m, g, 1 - self.alpha, root)
            np.multiply(m, m, out=root)
            np.subtract(v, root, out=root)
        np.sqrt(root if self.centered else v, out=root)
        root += self.eps
        change = scratch[0]
        if self.momentum > 0:
            b = moments["momentum_buffer"]
            np.divide(g, root, out=change)
            b *= self.momentum
            b += change
            np.multiply(b, -lr, out=change)
        else:
            np.multiply(g, -lr, out=change)
            change /= root
        p += change


class Adam(Optimiser):
    """Mean gradients over the root of their mean square, both unbiased: torch.optim.Adam.

    Parameters
    ----------
    model : Layer
        Whose parameters `step` changes.
    lr : float >= 0
        The learning rate; read, and set by schedules, as ``optimizer.lr``.
    betas : (float, float) in [0, 1)
        How much of the mean and of the mean square of before a step keeps.
    eps : float >= 0
        Added to the root.
    weight_decay : float >= 0
        Times the parameters, added to the gradients: a penalty, which the root scales too.
    amsgrad : bool
        Takes the largest mean square so far.
    lr_factors, decay_factors : dict of str -> float or four floats, optional
        By patterns of the parameters' names, see `fastlstm.training.optimisers`.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type.

    Notes
    -----
    With g the gradient of step n, from 1, ``m = beta1 m + (1 - beta1) g``, ``v = beta2 v + (1 -
    beta2) g^2`` and ``p = p - lr / (1 - beta1^n) m / (sqrt(v) / sqrt(1 - beta2^n) + eps)``. Keeps
    m and v, and the largest v with `amsgrad`, each of the parameters' size. Factors: as in
    MATLAB's lstmLayer. Sources: Kingma & Ba 2015; Reddi et al. 2018 (amsgrad); torch.optim.Adam.

    Examples
    --------
    >>> model = fastlstm.Sequential({"lstm": fastlstm.LSTM(3, 4), "fc": fastlstm.Linear(4, 1)})
    >>> optimizer = fastlstm.training.Adam(model, lr=0.01, lr_factors={"lstm.*": 0, "fc.bias": 2})
    >>> model.fc.bias = [1.0]
    >>> for gradient in model.grads.values():
    ...     gradient[...] = 3.0
    >>> optimizer.step()
    >>> model.fc.bias
    array([0.98], dtype=float32)
    """

    _options = ("lr", "betas", "eps", "weight_decay", "amsgrad")
    _moments_of = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def __init__(
        self, model, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, *,
        lr_factors=None, decay_factors=None,
    ):  # fmt: skip
        super().__init__(model, lr, weight_decay, lr_factors, decay_factors)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas must be two numbers, got {betas!r}")
        self.betas = tuple(check_number("beta", beta, least=0, below=1) for beta in betas)
        self.eps = check_number("eps", eps, least=0)
        self.amsgrad = check_bool("amsgrad", amsgrad)

    def _needed(self):
        return self._moments_of if self.amsgrad else self._moments_of[:2]

    def _update(self, p, g, moments, scratch, lr, decay, steps):
        m, v, *largest = moments
        beta1, beta2 = self.betas
        g = self._decayed(p, g, decay, scratch[0])
        root, change = scratch
        _lerp(m, g, 1 - beta1, change)
        _add_squares(v, g, beta2, change)
        for highest in largest:
            v = np.maximum(highest, v, out=highest)
        np.sqrt(v, out=root)
        root /= (1 - beta2**steps) ** 0.5
        root += self.eps
        np.multiply(m, -lr / (1 - beta1**steps), out=change)
        change /= root
        p += change


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameters themselves: torch.optim.AdamW.

    Parameters
    ----------
    model : Layer
        Whose parameters `step` changes.
    lr : float >= 0
        The learning rate; read, and set by schedules, as ``optimizer.lr``.
    betas : (float, float) in [0, 1)
        How much of the mean and of the mean square of before a step keeps.
    eps : float >= 0
        Added to the root.
    weight_decay : float >= 0
        A step first takes the part lr * weight_decay from each parameter.
    amsgrad : bool
        Takes the largest mean square so far.
    lr_factors, decay_factors : dict of str -> float or four floats, optional
        By patterns of the parameters' names, see `fastlstm.training.optimisers`.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type.

    Notes
    -----
    ``p = p (1 - lr weight_decay)``, then as `Adam`. Sources: Loshchilov & Hutter 2019;
    torch.optim.AdamW.

    Examples
    --------
    >>> model = fastlstm.Linear(1, 1, bias=False)
    >>> model.weight = [[1.0]]
    >>> fastlstm.training.AdamW(model, lr=0.5, weight_decay=0.5).step()
    >>> model.weight
    array([[0.75]], dtype=float32)
    """

    def __init__(
        self, model, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, *,
        lr_factors=None, decay_factors=None,
    ):  # fmt: skip
        super().__init__(
            model, lr, betas, eps, weight_decay, amsgrad,
            lr_factors=lr_factors, decay_factors=decay_factors,
        )  # fmt: skip

    def _update(self, p, g, moments, scratch, lr, decay, steps):
        if decay:
            p *= 1 - lr * decay
        super()._update(p, g, moments, scratch, lr, 0.0, steps)


def clip_grad_norm(model, max_norm, *, error_if_nonfinite=False):
    """Scale all gradients of a model so that their norm is at most `max_norm`.

    Parameters
    ----------
    model : Layer, or an optimiser of one
        What is frozen does not count, nor, of an optimiser, what its `lr_factors` let be.
    max_norm : float >= 0
        inf: only the norm is wanted.
    error_if_nonfinite : bool
        Refuses a norm that is nan or inf. Otherwise such gradients are scaled by it, as in
        torch: by nan, or by 0, which leaves nan where inf was.

    Returns
    -------
    float
        The 2-norm of all these gradients together, as one vector, before; summed in float64.

    Raises
    ------
    RuntimeError
        If the norm is not finite and `error_if_nonfinite`; the gradients have not been changed.

    Notes
    -----
    The factor is max_norm / (norm + 1e-6), at most 1. Source: torch.nn.utils.clip_grad_norm_.

    Examples
    --------
    >>> model = fastlstm.Linear(2, 1, bias=False)
    >>> model.grads["weight"][...] = [3.0, 4.0]
    >>> fastlstm.training.clip_grad_norm(model, 1.0)
    5.0
    >>> model.grads["weight"].round(4)
    array([[0.6, 0.8]], dtype=float32)
    """
    gradients = _learnt_gradients(model)
    if max_norm != math.inf:
        check_number("max_norm", max_norm, least=0)
    check_bool("error_if_nonfinite", error_if_nonfinite)
    with np.errstate(all="ignore"):
        total = math.sqrt(sum(_squares(gradient) for gradient in gradients))
        if error_if_nonfinite and not math.isfinite(total):
            raise RuntimeError(
                f"The total norm of the gradients is {total}, so they cannot be clipped. To scale "
                "them by it anyway, set error_if_nonfinite=False"
            )
        factor = float(max_norm) / (total + 1e-6)
        if not factor >= 1:
            for gradient in gradients:
                gradient *= factor
    return total


def _learnt_gradients(model):
    """Gradients of what is learnt: of a layer, all that is not frozen."""
    if isinstance(model, Optimiser):
        return list(model.learnt_gradients())
    layout, learnt = _layout(_check_model(model)), []
    frozen = _frozen(model, layout)
    for (_, _, gradients), parts in zip(model.buffers(), layout, strict=True):
        factors = {part.name: (float(part.name not in frozen),) * 4 for part in parts}
        learnt += [gradients[where] for where in _stretches(_runs(parts, factors, factors, {}))]
    return learnt


def _squares(array):
    """The sum of squares, in float64, block by block."""
    blocks = (array[k : k + _BLOCK].astype(np.float64) for k in range(0, array.size, _BLOCK))
    return sum(float(np.sum(block * block)) for block in blocks)


def clip_grad_value(model, value):
    """Bring each gradient of a model into [-value, value].

    Parameters
    ----------
    model : Layer, or an optimiser of one
    value : float >= 0

    Returns
    -------
    None

    Raises
    ------
    ValueError, TypeError
        If `value` is not a number of at least 0, or `model` not a layer.

    Notes
    -----
    nan stays nan, as in torch.nn.utils.clip_grad_value_, the source.

    Examples
    --------
    >>> model = fastlstm.Linear(2, 1, bias=False)
    >>> model.grads["weight"][...] = [3.0, -4.0]
    >>> fastlstm.training.clip_grad_value(model, 3.5)
    >>> model.grads["weight"]
    array([[ 3. , -3.5]], dtype=float32)
    """
    gradients = _learnt_gradients(model)
    check_number("value", value, least=0)
    with np.errstate(over="ignore"):  # a value beyond float32 clips nothing
        for gradient in gradients:
            np.clip(gradient, -value, value, out=gradient)
