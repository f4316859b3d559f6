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
    """One step of all sequences: the new h and c, and the gates i, f, g, o."""
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    i, f, g, o = (x @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, dim=1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = f * c + i * g
    m = o * c.tanh()
    return (m if w_hr is None else m @ w_hr.T), c, i, f, g, o


def run(layers, ways, x, h_0, c_0, start_h, start_c, mask, reset, lengths, last):
    """Run layers over x (T, B, I); return the output (T, B, D*P), h_n, c_n and all steps.

    `layers` lists the weights of each direction of each layer, `ways` has True for a direction that
    runs from the end. A sequence begins anew with `start_h` and `start_c` (layers * D, features).
    `mask` and `reset` are booleans (T, B), `lengths` (B,) integers; `last` says what
    masked_output="last" says. All steps are h, c, i, f, g and o of each layer, (T, B, D*H).
    """
    import torch

    T, B = x.shape[:2]
    h_n, c_n, steps = [], [], []
    for layer, directions in enumerate(layers):
        outputs = []
        for d, weights in enumerate(directions):
            n = layer * len(ways) + d
            h, c = h_0[n], c_0[n]
            zeros = torch.zeros_like(c)
            shown, y = [torch.zeros_like(h), *[zeros] * 5], [None] * T
            for t in reversed(range(T)) if ways[d] else range(T):
                # A reset lies between two steps. It stands at the later one of them in time.
                at = t + 1 if ways[d] else t
                begins = (reset[at] & (at < lengths)) if at < T else torch.zeros(B, dtype=bool)
                begins = begins[:, None]
                h, c = torch.where(begins, start_h[n], h), torch.where(begins, start_c[n], c)
                real = (mask[t] & (t < lengths))[:, None]
                new = cell(x[t], h, c, weights)
                h, c = torch.where(real, new[0], h), torch.where(real, new[1], c)
                shown = [torch.where(begins, 0, value) for value in shown]
                shown = [torch.where(real, *pair) for pair in zip(new, shown, strict=True)]
                shows = (t < lengths)[:, None] if last else real
                y[t] = [torch.where(shows, value, 0) for value in shown]
            outputs.append([torch.stack(values) for values in zip(*y, strict=True)])
            h_n.append(h)
            c_n.append(c)
        steps.append([torch.cat(both, dim=2) for both in zip(*outputs, strict=True)])
        x = steps[-1][0]
    return x, torch.stack(h_n), torch.stack(c_n), steps


def truth(values, ways, last):
    """All that a run and its pullback give, by name, for the values of a `Run`."""
    import torch

    given = {
        name: torch.tensor(value, requires_grad=value.dtype.kind == "f")
        for name, value in values.items()
    }
    kinds = "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"
    suffixes = ("", "_reverse")[: len(ways)]
    deep = sum(name.startswith("weight_ih") for name in given) // len(ways)
    names = [f"_l{k}{s}" for k in range(deep) for s in suffixes]
    layers = [
        [[given.get(f"{kind}_l{k}{s}") for kind in kinds] for s in suffixes] for k in range(deep)
    ]
    h_0, c_0 = given["h_0"], given["c_0"]
    start = [torch.zeros(len(s), s.shape[2], dtype=s.dtype) for s in (h_0, c_0)]
    if "h_0_l0" in given:
        start = [torch.stack([given[kind + name] for name in names]) for kind in ("h_0", "c_0")]
        # These runs are given no states. Those in `values` are 0 and collect the gradients.
        h_0, c_0 = h_0 + start[0][:, None], c_0 + start[1][:, None]
    where = (given[n] for n in ("mask", "reset", "lengths"))
    *outputs, steps = run(layers, ways, given["x"], h_0, c_0, *start, *where, last)
    results = dict(zip(OUTPUTS, outputs, strict=True))
    shown = {f"{n}{k}": v for k, s in enumerate(steps) for n, v in zip(STEPS, s[1:], strict=True)}
    results |= shown if "d_c0" in given else {}
    pairs = [(y, given["d_" + n]) for n, y in results.items() if "d_" + n in given]
    loss = sum((y * d).sum() for y, d in pairs if y.requires_grad)
    wanted = {n: v for n, v in given.items() if v.requires_grad and n[2:] not in results}
    found = torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True)
    gradients = {"d_" + n: g for n, g in zip(wanted, found, strict=True)}
    return {n: v.detach().numpy() for n, v in (results | gradients).items()}


OUTPUTS = "output", "h_n", "c_n"
STEPS = "c", "i", "f", "g", "o"

# ---- comparisons ----------------------------------------------------------------------------


class Run(NamedTuple):
    """A run to compare: the sizes of its LSTM, the layout of its input, its masks and resets.

    `layout` is "time", "batch", "packed" or "unbatched". `mask` and `reset` are booleans (T, B),
    `lengths` (B,) integers; None is none. `options` are those of `vjp`. With `steps` cells and
    gates are returned. `learned` initial states mean that none are given.
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
    steps: bool = False
    reverse: bool = False
    learned: bool = False

    @property
    def ways(self):
        """For each direction whether it runs from the end."""
        return (self.reverse, True)[: 1 + self.bidirectional]

    def lstm(self, engine, dtype, kind=fastlstm.LSTM):
        """The LSTM, the same one every time."""
        return kind(
            3,
            5,
            self.layers,
            bidirectional=self.bidirectional,
            proj_size=self.proj_size,
            batch_first=self.layout == "batch",
            reverse=self.reverse,
            learn_initial_state=self.learned,
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
        if self.steps:
            shapes |= {f"d_c{k}": (T, B, D * 5) for k in range(self.layers)}
        values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        state = self.lstm("numpy", "float32").state_dict()
        values |= {name: rng.uniform(-0.5, 0.5, value.shape) for name, value in state.items()}
        if self.learned:
            values |= {"h_0": np.zeros(h), "c_0": np.zeros(c)}
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
        if self.steps:
            options |= {"return_cells": True, "return_gates": True}
        (y, states, *steps), pullback = lstm.vjp(x, None if self.learned else hx, **options)
        d_cells = [self.arranged(values[f"d_c{k}"], values["lengths"]) for k in self.shown]
        dx, d_hx = pullback(d_output, d_states, *([d_cells] if d_cells else []))
        states, d_hx = ([s[:, None] if one else s for s in pair] for pair in (states, d_hx))
        results = dict(zip(OUTPUTS, (self.time_first(y), *states), strict=True))
        for k in self.shown:
            each = steps[0][k], *steps[1][k]
            results |= {f"{n}{k}": self.time_first(a) for n, a in zip(STEPS, each, strict=True)}
        results |= zip(("d_x", "d_h_0", "d_c_0"), (self.time_first(dx), *d_hx), strict=True)
        return results | {"d_" + name: gradient for name, gradient in lstm.grads.items()}

    @property
    def shown(self):
        """The numbers of the layers of which all steps are returned."""
        return range(self.layers if self.steps else 0)

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
    expected, moves = spread(
        lambda values: truth(values, run.ways, run.last), run.values(), draws=2
    )
    rows = run.shape[0] * run.shape[1]
    count = roundings(engine, max(4 * 5, rows))
    assert_within(run.got(engine, dtype, kind), expected, moves, count, np.dtype(dtype))
