"""Layers of any width, from either end, with learned states, as they are defined: by torch.

Each sequence is computed alone over its own steps, layer by layer and direction by direction, each
a call of torch's own LSTM. So there are neither packed rows nor padding, and a state is an array of
its own. Gradients are torch's own.
"""

from typing import Any, NamedTuple

import numpy as np
from values import normal

import fastlstm


class Setting(NamedTuple):
    """An LSTM and how it is called. `arguments` are the constructor's; I is 3.

    `lengths` are those of the sequences, or None if all have T steps; `layout` is "time", "batch",
    "packed" or "unbatched"; `hx` says whether states are given.
    """

    arguments: dict[str, Any]
    lengths: tuple[int, ...] | None = None
    layout: str = "time"
    hx: bool = False
    T: int = 5
    B: int = 3
    call: dict[str, Any] = {}  # further arguments of vjp

    def make(self, engine="numpy", dtype="float64", kind=fastlstm.LSTM):
        lstm = kind(
            3, **self.arguments, batch_first=self.layout == "batch", engine=engine, dtype=dtype,
            seed=1,
        )  # fmt: skip
        for n, (name, value) in enumerate(lstm.state_dict().items()):
            if name.startswith(("h_0", "c_0")):  # which are zeros at first
                setattr(lstm, name, normal(*value.shape, seed=n, dtype="float32"))
        return lstm


def by_torch(torch, lstm, x, lengths, hx=None):
    """Run tensors x (T, B, I) through a chain of torch's LSTMs; parameters are tensors in a dict.

    `hx` has a tensor (B, ...) for each layer and direction: every h, then every c. Returned are the
    output, and final states like `hx`.
    """
    parameters = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in lstm.state_dict().items()
    }
    directions = 1 + lstm.bidirectional
    cells = lstm.num_layers * directions
    outputs, finals = [], []
    for b, length in enumerate(lengths):
        y, ends = x[:length, b], [None] * (2 * cells)
        for layer in range(lstm.num_layers):
            sides = []
            for direction in range(directions):
                k = layer * directions + direction
                suffix = f"_l{layer}" + "_reverse" * direction
                kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
                weights = [parameters[n + suffix] for n in kinds if n + suffix in parameters]
                if hx is not None:
                    h, c = hx[k][b], hx[cells + k][b]
                elif lstm.learn_initial_state:
                    h, c = parameters["h_0" + suffix], parameters["c_0" + suffix]
                else:
                    P, H = parameters["weight_hh" + suffix].shape[1], len(weights[0]) // 4
                    h, c = torch.zeros(P).double(), torch.zeros(H).double()
                from_end = lstm.reverse or direction == 1
                if length:
                    side, h, c = torch.lstm(
                        (y.flip(0) if from_end else y)[:, None],
                        (h[None, None], c[None, None]),
                        weights, lstm.bias, 1, 0.0, False, False, False,
                    )  # fmt: skip
                    h, c, side = h[0, 0], c[0, 0], side[:, 0]
                    sides.append(side.flip(0) if from_end else side)
                ends[k], ends[cells + k] = h, c
            if length:
                y = torch.cat(sides, dim=1)
        wide = directions * lstm._output_size
        steps = y if length else torch.zeros(0, wide).double()
        outputs.append(torch.cat([steps, torch.zeros(len(x) - length, wide).double()]))
        finals.append(ends)
    states = [torch.stack(each) for each in zip(*finals, strict=True)]
    return parameters, torch.stack(outputs, dim=1), states


def assert_agrees(torch, setting, engine, dtype="float64", kind=fastlstm.LSTM):
    """Assert that all that comes out of a run and its pullback is what torch gives.

    `kind` is the class of the layer, so that a broken one can be tried.
    """
    lstm, layout = setting.make(engine, dtype, kind), setting.layout
    T, B = setting.T, 1 if layout == "unbatched" else setting.B
    lengths = list(setting.lengths or [T] * B)
    x = normal(T, B, 3, seed=5)
    cells = lstm.num_layers * (1 + lstm.bidirectional)
    widths = [cell.output_size for cell in lstm._cells] + [c.hidden_size for c in lstm._cells]
    assert len(widths) == 2 * cells
    hx = [normal(B, width, seed=7 + n) for n, width in enumerate(widths)] if setting.hx else None

    def leaf(array):
        return torch.tensor(array, dtype=torch.float64, requires_grad=True)

    x_t, hx_t = leaf(x), [leaf(h) for h in hx] if hx else None
    parameters, y_t, finals_t = by_torch(torch, lstm, x_t, lengths, hx_t)
    dy = normal(*y_t.shape, seed=11)
    d_finals = [normal(*state.shape, seed=13 + n) for n, state in enumerate(finals_t)]
    for b, length in enumerate(lengths):
        dy[length:, b] = 0
    total = (y_t * torch.tensor(dy)).sum()
    total = total + sum(
        (s * torch.tensor(d)).sum() for s, d in zip(finals_t, d_finals, strict=True)
    )
    total.backward()

    def bring(array):  # (T, B, features) into the layout
        array = array.astype(dtype)
        if layout == "packed":
            return fastlstm.pack_padded_sequence(array, lengths, enforce_sorted=False)
        return {"batch": array.swapaxes(0, 1), "unbatched": array[:, 0]}.get(layout, array)

    def back(given):  # an array in the layout as (T, B, features)
        if layout == "packed":
            return fastlstm.pad_packed_sequence(given, total_length=T)[0]
        return {"batch": lambda a: a.swapaxes(0, 1), "unbatched": lambda a: a[:, None]}.get(
            layout, lambda a: a
        )(given)

    def as_states(arrays):  # what a caller gives
        arrays = [(a[0] if layout == "unbatched" else a).astype(dtype) for a in arrays]
        h, c = tuple(arrays[:cells]), tuple(arrays[cells:])
        return (h, c) if isinstance(lstm.hidden_size, tuple) else (np.stack(h), np.stack(c))

    options = dict(setting.call)
    if setting.lengths and layout != "packed":
        options["lengths"] = lengths
    arguments = bring(x), as_states(hx) if hx else None
    (y, finals), pullback = lstm.vjp(*arguments, **options)
    dx, d_initial = pullback(bring(dy), as_states(d_finals))
    called, _ = lstm(*arguments, **{n: v for n, v in options.items() if n == "lengths"})

    # Allowed are so many roundings of a number near 1. A step of a layer makes at most a hundred,
    # with its sums of up to 30 products, and there are five steps and five layers at most. The
    # gradients are sums over the steps of numbers up to about 2.
    atol = 4096 * np.finfo(dtype).eps

    def compare(got, expected, what):
        expected = expected.detach().numpy()
        assert got.dtype == dtype, what
        np.testing.assert_allclose(got, expected, rtol=0, atol=atol, err_msg=what)

    compare(back(y), y_t, "output")
    compare(back(called), y_t, "output of a call")
    compare(back(dx), x_t.grad, "dx")
    for n, (state, final) in enumerate(zip([*finals[0], *finals[1]], finals_t, strict=True)):
        compare(state[None] if layout == "unbatched" else state, final, f"final state {n}")
    d_states = [*d_initial[0], *d_initial[1]]
    for n, d in enumerate(d_states):
        got = d[None] if layout == "unbatched" else d
        if hx_t is not None:
            compare(got, hx_t[n].grad, f"gradient of initial state {n}")
    for name, tensor in parameters.items():
        expected = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
        compare(lstm.grads[name], expected, f"gradient of {name}")
