"""What LSTM and LSTMCell share: initial weights, packed weights, and the way back."""

from __future__ import annotations

import numpy as np

from ..arrays import quiet
from ..engines import stack
from ..initialisers import glorot, orthogonal, uniform
from .computed import Computed


class Recurrent(Computed):
    """What LSTM and LSTMCell share: gates' initialisation, engine, packed weights.

    `cells` lists, in torch's order, the (suffix of the names, input size) of each layer and
    direction; `output_size` is what a cell passes on, H or proj_size.
    """

    _fixed = Computed._fixed | {"input_size", "hidden_size", "bias"}

    def __init__(self, cells, hidden_size, output_size, bias, dtype, engine, seed):
        self.hidden_size, self.bias = hidden_size, bias
        self._suffixes = [suffix for suffix, _ in cells]
        shapes = {}
        for suffix, input_size in cells:
            shapes["weight_ih" + suffix] = (4 * hidden_size, input_size)
            shapes["weight_hh" + suffix] = (4 * hidden_size, output_size)
            if bias:
                shapes["bias_ih" + suffix] = shapes["bias_hh" + suffix] = (4 * hidden_size,)
            if output_size != hidden_size:
                shapes["weight_hr" + suffix] = (output_size, hidden_size)
        super().__init__(shapes, dtype, engine)
        self._engine.prepare(self.dtype)
        self._packed = {}  # apart, back -> (version of the parameters, their stacks)
        self._spare = {}  # layer -> memory that its stacks hand on
        self.reset_parameters(seed)

    def __getstate__(self):
        return {**super().__getstate__(), "_packed": {}, "_spare": {}}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._engine.prepare(self.dtype)

    def _release(self):
        # not emptied: what is still in use is given back to the old one, and goes with it
        self._spare = {}
        self._packed = {key: self._packed[key] for key in self._packed.keys() & {(False, False)}}

    def reset_parameters(
        self, seed=None, *, weight_ih="uniform", weight_hh="uniform", bias="uniform"
    ):
        """Draw the parameters anew.

        Parameters
        ----------
        seed : int or numpy.random.Generator, optional
            The same seed gives the same parameters; None takes fresh entropy. No global random
            state is read or changed.
        weight_ih, weight_hh : {"uniform", "glorot", "orthogonal", "zeros"}
            "uniform" is torch's U(-1/sqrt(H), 1/sqrt(H)). Keras and MATLAB take glorot for
            `weight_ih` and orthogonal for `weight_hh`, each over the whole (4H, ...) matrix.
        bias : {"uniform", "unit_forget_gate", "zeros"}
            "unit_forget_gate": 1 in the forget gate's ``bias_ih``, 0 everywhere else, so that
            memory is kept at first (Jozefowicz, Zaremba & Sutskever 2015).

        Notes
        -----
        A projection's ``weight_hr`` is always torch's uniform.
        """
        matrices, biases = (
            ("uniform", "glorot", "orthogonal", "zeros"),
            (
                "uniform",
                "unit_forget_gate",
                "zeros",
            ),
        )
        for name, value, known in (
            ("weight_ih", weight_ih, matrices),
            ("weight_hh", weight_hh, matrices),
            ("bias", bias, biases),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        rng = np.random.default_rng(seed)
        bound = 1 / np.sqrt(self.hidden_size)
        draw = {
            "uniform": lambda shape: uniform(rng, shape, bound, self.dtype),
            "glorot": lambda shape: glorot(rng, shape, self.dtype),
            "orthogonal": lambda shape: orthogonal(rng, shape),
            "zeros": np.zeros,
            "unit_forget_gate": np.zeros,
        }
        rules = {
            "weight_ih": weight_ih, "weight_hh": weight_hh, "weight_hr": "uniform",
            "bias_ih": bias, "bias_hh": bias,
        }  # fmt: skip
        for name, view in self._views.items():
            kind = "_".join(name.split("_")[:2])
            values = draw[rules[kind]](view.shape)
            if kind == "bias_ih" and bias == "unit_forget_gate":
                values[self.hidden_size : 2 * self.hidden_size] = 1
            self._set({name: values})

    def has_gates(self, name: str) -> bool:
        """Tell whether the rows of a parameter are the gates'; those of a projection are not."""
        return not name.startswith("weight_hr")

    def _stacks(self, apart=False, back=False):
        """The parameters as the engine packs them, once per version: one stack, or layers apart.

        `back`: layers apart, for gradients too.
        """
        version, stacks = self._packed.get((apart, back), (None, None))
        if version != self._version:
            version, d = self._version, self._directions
            stacks = None
            self._packed.pop((apart, back), None)  # its memory is there to take again
            cells = [self._parameters(suffix) for suffix in self._suffixes]
            size = d if apart or back else len(cells)
            stacks = []
            for k in range(0, len(cells), size):
                spare = self._spare.setdefault(k, {}) if back else None
                stacks.append(stack(self._engine, cells[k : k + size], d, back, spare))
            self._packed[apart, back] = version, stacks
        return stacks

    def _back(self, layer, cells, tape, dy, dh, dc, input_gradient=True):
        """Go back through one layer of the stack, the `cells` in it; returns dx (N, I) or None."""
        suffixes, own, dw = self._suffixes[cells], self._learnt_grads(), []
        for suffix in suffixes:
            db = np.zeros(4 * self.hidden_size, self.dtype)
            names = "weight_ih" + suffix, "weight_hh" + suffix, "weight_hr" + suffix
            dw_ih, dw_hh, dw_hr = (self._room_for_gradient(own, name) for name in names)
            dw.append((dw_ih, dw_hh, db, dw_hr))
        dx = None
        if input_gradient:
            dx = np.empty((len(dy), dw[0][0].shape[1]), self.dtype)
        if len(dy):
            layer.back(tape, dy, dh, dc, dx, dw, self.num_threads)
        if self.bias:
            for suffix, (_, _, db, _) in zip(suffixes, dw, strict=True):
                for name in {"bias_ih" + suffix, "bias_hh" + suffix} & own.keys():
                    own[name] += db
        return dx

    def _room_for_gradient(self, own, name):
        """Where an engine adds a gradient: of a frozen parameter, where nobody looks."""
        is_frozen = name in self._views and name not in own
        return np.zeros_like(self._views[name]) if is_frozen else own.get(name)

    @quiet
    def _parameters(self, suffix):
        """(w_ih, w_hh, b, w_hr) of one layer in one direction."""
        get = self._views.get
        b = np.zeros(4 * self.hidden_size, self.dtype)
        if self.bias:
            b = get("bias_ih" + suffix) + get("bias_hh" + suffix)
        return get("weight_ih" + suffix), get("weight_hh" + suffix), b, get("weight_hr" + suffix)


def describe(value):
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    shape = f" of shape {value.shape}" if hasattr(value, "shape") else ""
    return type(value).__name__ + shape
