"""ONNX's operators GRU and RNN, in NumPy: models have them beside LSTMs.

Legend, as in `recurrent`; a GRU has 3 gates, z, r and h, and an RNN the last one alone (G is their
number)::

    X  (T, B, I)     W  (D, GH, I)   R  (D, GH, H)   B  (D, 2GH), of W and behind that of R
    Y  (T, D, B, H)  initial_h, Y_h  (D, B, H)       sequence_lens (B,)

    z = f(W_z x + R_z h)
    r = f(W_r x + R_r h)
    n = g(W_h x + R_h (r h))      or, with linear_before_reset,     g(W_h x + r (R_h h))
    h' = (1 - z) n + z h          and of an RNN, h' = f(W_h x + R_h h)

Biases are left out in these. With layout 1, X is (B, T, I), Y (B, T, D, H), and the states are
(B, D, H). Sources: https://onnx.ai/onnx/operators/onnx__GRU.html, onnx__RNN.html; where these leave
something open, the values are those of onnxruntime.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_number
from ..engines._numpy import activate
from ..engines.contract import Activation
from .indexing import reverse_sequence
from .makers import Table, allow, whole
from .recurrent import direction, functions

if TYPE_CHECKING:
    from ..arrays import Array, Floats, Integers
    from .plan import Compute, Operator

GRU = Table()

_USUAL = {"GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@GRU.enter(*_USUAL, inputs=(3, 6), outputs=(1, 2))
def _make(operator: Operator) -> Compute:
    return _Recurrence(operator)


class _Recurrence:
    """Computes Y and Y_h."""

    def __init__(self, operator: Operator) -> None:
        given, usual = operator.attributes, _USUAL[operator.type]
        way, self.directions = direction(given)
        self.backward = [way == "reverse", True][: self.directions]
        found = [Activation(*one) for one in functions(given, usual * self.directions)]
        count = len(usual)
        self.functions = [found[k : k + count] for k in range(0, len(found), count)]
        clip = given.get("clip")
        self.clip = math.inf if clip is None else check_number("clip", clip, above=0)
        self.gates = 3 if operator.type == "GRU" else 1
        self.linear_first = bool(whole(operator, "linear_before_reset", 0))
        self.batch_first = bool(whole(operator, "layout", 0))
        self.units = whole(operator, "hidden_size", 0)
        self.outputs, self.limits = len(operator.outputs), operator.draft.limits

    def __call__(
        self,
        x: Floats,
        w: Floats,
        r: Floats,
        b: Floats | None = None,
        lengths: Integers | None = None,
        h: Floats | None = None,
    ) -> Any:
        dtype = x.dtype
        if x.itemsize == 2:
            x, w, r = (array.astype(np.float32) for array in (x, w, r))
        if self.batch_first:
            x, h = x.swapaxes(0, 1), None if h is None else h.swapaxes(0, 1)
        steps, rows = self._check(x, w, r, b, lengths, h)
        units = r.shape[2]
        shape = steps, self.directions, rows, units
        allow(self.limits, (steps, rows, self.gates * units), x.dtype)
        allow(self.limits, shape, x.dtype)
        y, ends = np.zeros(shape, x.dtype), np.zeros(shape[1:], x.dtype)
        if h is not None and x.size:
            ends[...] = h
        if lengths is not None:
            ends[:, lengths == 0] = 0
        bias = np.zeros((self.directions, 2 * self.gates * units), x.dtype)
        if b is not None:
            bias[...] = b
        for k, backward in enumerate(self.backward if x.size else ()):
            self._run(
                k, _turned(x, lengths, backward), w[k], r[k], bias[k], lengths, y[:, k], ends[k]
            )
            if backward:
                y[:, k] = _turned(y[:, k].copy(), lengths, backward)
        if self.batch_first:
            y, ends = y.transpose(2, 0, 1, 3), ends.swapaxes(0, 1)
        results = y.astype(dtype, copy=False), ends.astype(dtype, copy=False)
        return results if self.outputs > 1 else results[0]

    def _check(
        self,
        x: Floats,
        w: Floats,
        r: Floats,
        b: Floats | None,
        lengths: Integers | None,
        h: Floats | None,
    ) -> tuple[int, int]:
        """Return the sizes T and B; raise ValueError if those of the arrays do not fit together."""
        if x.ndim != 3 or r.ndim != 3:
            raise ValueError(f"X and R must have 3 axes, got the shapes {x.shape} and {r.shape}")
        (steps, rows, features), units, many = x.shape, r.shape[2], self.directions
        if self.units not in (0, units):
            raise ValueError(f"hidden_size is {self.units}, but R has the shape {r.shape}")
        wide = self.gates * units
        for name, array, shape in (
            ("W", w, (many, wide, features)),
            ("R", r, (many, wide, units)),
            ("B", b, (many, 2 * wide)),
            ("sequence_lens", lengths, (rows,)),
            ("initial_h", h, (many, rows, units)),
        ):
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
        return steps, rows

    def _run(
        self,
        k: int,
        x: Floats,
        w: Floats,
        r: Floats,
        b: Floats,
        lengths: Integers | None,
        y: Floats,
        h: Floats,
    ) -> None:
        """Fill y (T, B, H) and h (B, H), which has the state at the beginning, in one direction."""
        before, after = np.split(b, 2)
        last = slice(len(r) - r.shape[1], None)  # the rows of the gate h
        if self.linear_first:
            after = after.copy()
            inner, after[last] = after[last].copy(), 0
        else:
            inner = np.zeros((), x.dtype)
        inputs = x @ w.T + (before + after)
        step = self._gru if self.gates == 3 else self._rnn
        for t, part in enumerate(inputs):
            new = step(self.functions[k], part, h, r, inner)
            if lengths is None:
                h[...] = y[t] = new
            else:
                going = t < lengths
                h[going] = y[t, going] = new[going]

    def _gru(
        self, functions: list[Activation], x: Floats, h: Floats, r: Floats, inner: Floats
    ) -> Floats:
        units = h.shape[1]
        f, g = functions
        gates = activate(f, self._clipped(x[:, : 2 * units] + h @ r[: 2 * units].T))
        z, reset = gates[:, :units], gates[:, units:]
        if self.linear_first:
            part = reset * (h @ r[2 * units :].T + inner)
        else:
            part = (reset * h) @ r[2 * units :].T
        n = activate(g, self._clipped(x[:, 2 * units :] + part))
        new: Floats = (1 - z) * n + z * h
        return new

    def _rnn(
        self, functions: list[Activation], x: Floats, h: Floats, r: Floats, inner: Floats
    ) -> Floats:
        return activate(functions[0], self._clipped(x + h @ r.T))

    def _clipped(self, x: Floats) -> Floats:
        return x if self.clip == math.inf else np.clip(x, -self.clip, self.clip)


def _turned(x: Floats, lengths: Integers | None, backward: bool) -> Array:
    """Return sequences (T, B, ...) from their ends on, if they are to be run backward."""
    if not backward:
        return x
    return x[::-1] if lengths is None else reverse_sequence(False, x, lengths)
