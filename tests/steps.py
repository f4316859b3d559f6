"""Masks, resets and lengths as they are defined: an LSTM step by step in torch.

The loop knows neither packed rows nor pieces. It keeps a state for each sequence and decides at
every step what becomes of it. Gradients are torch's own.
"""

from typing import NamedTuple

import numpy as np
from gradients import assert_within, roundings, spread

import fastlstm

# ---- the definition -------------------------------------------------------------------------


def cell(x, h, c, weights):
    """One step of all sequences: the new h and c."""
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    i, f, g, o = (x @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, dim=1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    m = o.sigmoid() * c.tanh()
    return (m if w_hr is None else m @ w_hr.T), c


def run(layers, x, h_0, c_0, mask, reset, lengths, last):
    """Run layers over x (T, B, I); return the output (T, B, D*P), h_n and c_n.

    `layers` lists the weights of each direction of each layer. `mask` and `reset` are booleans
    (T, B), `lengths` (B,) integers; `last` says what masked_output="last" says.
    """
    import torch

    T, B = x.shape[:2]
    D = len(layers[0])
    finals = []
    for layer, directions in enumerate(layers):
        outputs = []
        for d, weights in enumerate(directions):
            h, c = h_0[layer * D + d], c_0[layer * D + d]
            shown, y = torch.zeros_like(h), [None] * T
            for t in range(T) if d == 0 else reversed(range(T)):
                # A reset lies between two steps. It stands at the later one of them in time.
                at = t if d == 0 else t + 1
                begins = (reset[at] & (at < lengths)) if at < T else torch.zeros(B, dtype=bool)
                h, c, shown = (torch.where(begins[:, None], 0, s) for s in (h, c, shown))
                real = (mask[t] & (t < lengths))[:, None]
                next_h, next_c = cell(x[t], h, c, weights)
                h, c = torch.where(real, next_h, h), torch.where(real, next_c, c)
                shown = torch.where(real, h, shown)
                y[t] = torch.where((t < lengths)[:, None] if last else real, shown, 0)
            outputs.append(torch.stack(y))
            finals.append((h, c))
        x = torch.cat(outputs, dim=2)
    return x, torch.stack([h for h, _ in finals]), torch.stack([c for _, c in finals])


def truth(values, last):
    """All that a run and its pullback give, by name, for the values of a `Run`."""
    import torch

    given = {
        name: torch.tensor(value, requires_grad=value.dtype.kind == "f")
        for name, value in values.items()
    }
    kinds = "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"
    suffixes = [s for s in ("", "_reverse") if f"weight_ih_l0{s}" in given]
    deep = sum(name.startswith("weight_ih") for name in given) // len(suffixes)
    layers = [
        [[given.get(f"{kind}_l{k}{s}") for kind in kinds] for s in suffixes] for k in range(deep)
    ]
    inputs = ("x", "h_0", "c_0", "mask", "reset", "lengths")
    results = dict(zip(OUTPUTS, run(layers, *(given[n] for n in inputs), last), strict=True))
    with_gradients = {n: y for n, y in results.items() if y.requires_grad}
    loss = sum((y * given["d_" + n]).sum() for n, y in with_gradients.items())
    wanted = {n: v for n, v in given.items() if v.requires_grad and n[2:] not in OUTPUTS}
    found = torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True)
    gradients = {"d_" + n: g for n, g in zip(wanted, found, strict=True)}
    return {n: v.detach().numpy() for n, v in (results | gradients).items()}


OUTPUTS = "output", "h_n", "c_n"

# ---- comparisons ----------------------------------------------------------------------------


class Run(NamedTuple):
    """A run to compare: the sizes of its LSTM, the layout of its input, its masks and resets.

    `layout` is "time", "batch", "packed" or "unbatched". `mask` and `reset` are booleans (T, B),
    `lengths` (B,) integers; None is none. `options` are those of `vjp`.
    """

    layers: int = 1
    bidirectional: bool = False
    proj_size: int = 0
    layout: str = "time"
    mask: np.ndarray | None = None
    reset: np.ndarray | None = None
    lengths: np.ndarray | None = None
    last: bool = False
    options: dict = {}
    shape: tuple = (6, 3)

    def lstm(self, engine, dtype, kind=fastlstm.LSTM):
        """The LSTM, the same one every time."""
        return kind(
            3,
            5,
            self.layers,
            bidirectional=self.bidirectional,
            proj_size=self.proj_size,
            batch_first=self.layout == "batch",
            engine=engine,
            dtype=dtype,
            seed=1,
        )

    def values(self):
        """What goes in, parameters and gradients of the outputs too; exact in float32."""
        rng, (T, B) = np.random.default_rng(2), self.shape
        D, P = 1 + self.bidirectional, self.proj_size or 5
        h, c = (self.layers * D, B, P), (self.layers * D, B, 5)
        shapes = {"x": (T, B, 3), "h_0": h, "c_0": c}
        shapes |= {"d_output": (T, B, D * P), "d_h_n": h, "d_c_n": c}
        values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        values |= self.lstm("numpy", "float32").state_dict()
        values = {name: v.astype("float32").astype("float64") for name, v in values.items()}
        values["mask"] = np.ones((T, B), bool) if self.mask is None else np.array(self.mask)
        values["reset"] = np.zeros((T, B), bool) if self.reset is None else np.array(self.reset)
        values["lengths"] = np.full(B, T) if self.lengths is None else np.array(self.lengths)
        return values

    def got(self, engine, dtype="float64", kind=fastlstm.LSTM):
        """What `vjp` and its pullback give, named as by `truth`."""
        lstm = self.lstm(engine, dtype, kind)
        values = {
            n: v.astype(dtype) if v.dtype.kind == "f" else v for n, v in self.values().items()
        }
        lstm.load_state_dict({name: values[name] for name in lstm.state_dict()})
        options = dict(self.options)
        if self.last:
            options["masked_output"] = "last"
        for name in ("mask", "reset"):
            if getattr(self, name) is not None:
                options[name] = self.arranged(values[name])
        if self.lengths is not None and self.layout != "packed":
            options["lengths"] = values["lengths"]
        x, d_output = (self.arranged(values[n], values["lengths"]) for n in ("x", "d_output"))
        one = self.layout == "unbatched"
        hx, d_states = (
            [values[n][:, 0] if one else values[n] for n in names]
            for names in (("h_0", "c_0"), ("d_h_n", "d_c_n"))
        )
        (y, states), pullback = lstm.vjp(x, hx, **options)
        dx, d_hx = pullback(d_output, d_states)
        states, d_hx = ([s[:, None] if one else s for s in pair] for pair in (states, d_hx))
        results = dict(zip(OUTPUTS, (self.time_first(y), *states), strict=True))
        results |= zip(("d_x", "d_h_0", "d_c_0"), (self.time_first(dx), *d_hx), strict=True)
        return results | {"d_" + name: gradient for name, gradient in lstm.grads.items()}

    def arranged(self, array, lengths=None):
        """An array (T, B, ...) in this layout; packed if there are lengths."""
        if self.layout == "packed" and lengths is not None:
            return fastlstm.pack_padded_sequence(array, lengths, enforce_sorted=False)
        if self.layout == "unbatched":
            return array[:, 0]
        return array.swapaxes(0, 1) if self.layout == "batch" else array

    def time_first(self, array):
        """The inverse of `arranged`."""
        if self.layout == "packed":
            return fastlstm.pad_packed_sequence(array)[0]
        if self.layout == "unbatched":
            return array[:, None]
        return array.swapaxes(0, 1) if self.layout == "batch" else array


def assert_steps(run, engine, dtype="float64", kind=fastlstm.LSTM):
    """Assert that a run and its gradients are those of the loop, but for rounding."""
    expected, moves = spread(lambda values: truth(values, run.last), run.values(), draws=2)
    rows = run.shape[0] * run.shape[1]
    count = roundings(engine, max(4 * 5, rows))
    assert_within(run.got(engine, dtype, kind), expected, moves, count, np.dtype(dtype))
