"""The cell with options once more, by torch: its operators give the values, autograd the gradients.

It shares no line with the package: each gate is a tensor of its own, sequences are padded and not
packed, and nothing is computed by hand on the way back. Options and arrays have the names of
`fastlstm.engines.contract`, where the equations (11) to (19) are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest

from fastlstm.engines.contract import Activation, Options

torch: Any = pytest.importorskip("torch", reason="compares with torch, which is not installed")
F = torch.nn.functional

Tensor = Any

ACTIVATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "sigmoid": lambda x, alpha, beta: torch.sigmoid(x),
    "tanh": lambda x, alpha, beta: torch.tanh(x),
    "relu": lambda x, alpha, beta: torch.relu(x),
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "leaky_relu": lambda x, alpha, beta: F.leaky_relu(x, alpha),
    "thresholded_relu": lambda x, alpha, beta: F.threshold(x, alpha, 0.0),
    "scaled_tanh": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
    "hard_sigmoid": lambda x, alpha, beta: torch.clamp(alpha * x + beta, 0, 1),
    "elu": lambda x, alpha, beta: F.elu(x, alpha),
    "softsign": lambda x, alpha, beta: F.softsign(x),
    "softplus": lambda x, alpha, beta: F.softplus(x, threshold=100),
}


class Draws(NamedTuple):
    """What training draws: factors of h_0 (B, P), and masks of zoneout (T, B, P) and (T, B, H)."""

    h: Tensor = None
    zone_h: Tensor = None
    zone_c: Tensor = None


class Results(NamedTuple):
    """Of one direction: outputs (T, B, P), final states, gates (T, B, 4H) and cells (T, B, H).

    Past a sequence's end there are zeros.
    """

    y: Tensor
    h: Tensor
    c: Tensor
    gates: Tensor
    cells: Tensor


def run(
    w: Mapping[str, Tensor],
    options: Options,
    x: Tensor,
    lengths: list[int],
    h: Tensor,
    c: Tensor,
    reverse: bool = False,
    draws: Draws = Draws(),  # noqa: B008 (a tuple of None)
) -> Results:
    """Run one layer in one direction over x (T, B, I), each sequence over its own length."""
    T = len(x)
    nothing = torch.zeros_like(h), c.new_zeros(len(c), 4 * c.shape[1]), torch.zeros_like(c)
    kept = [nothing] * T
    for t in reversed(range(T)) if reverse else range(T):
        live = (torch.tensor(lengths) > t)[:, None]
        zone_h = options.zoneout_h if draws.zone_h is None else draws.zone_h[t]
        zone_c = options.zoneout_c if draws.zone_c is None else draws.zone_c[t]
        seen_h = h if draws.h is None else h * draws.h
        new_h, new_c, gates = step(w, options, x[t], seen_h, c)
        new_h = zone_h * h + (1 - zone_h) * new_h
        new_c = zone_c * c + (1 - zone_c) * new_c
        h, c = torch.where(live, new_h, h), torch.where(live, new_c, c)
        kept[t] = tuple(torch.where(live, v, torch.zeros_like(v)) for v in (h, gates, c))
    y, all_gates, cells = (torch.stack(values) for values in zip(*kept, strict=True))
    return Results(y, h, c, all_gates, cells)


def step(
    w: Mapping[str, Tensor], options: Options, x: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return h and c after one step, before zoneout, and i, f, g, o side by side (B, 4H)."""
    H = c.shape[1]
    missing = {"": "", "f=1-i": "f", "i=1-f": "i"}[options.coupled]
    names = "ifgo".replace(missing, "") if missing else "ifgo"

    def of(gate: str, array: str) -> Tensor:
        first = "ifgo".index(gate) * H
        return w[array][first : first + H]

    def normed_together(array: str, gains: str, v: Tensor) -> dict[str, Tensor]:
        products = torch.cat([v @ of(gate, array).T for gate in names], dim=1)
        gain = torch.cat([of(gate, gains) for gate in names])
        normed = F.layer_norm(products, (len(names) * H,), gain, eps=1e-5)
        return dict(zip(names, normed.split(H, dim=1), strict=True))

    if options.layer_norm == "haste":
        by_x, by_h = normed_together("w_ih", "ln_ih", x), normed_together("w_hh", "ln_hh", h)
    else:
        by_x = {gate: x @ of(gate, "w_ih").T for gate in names}
        by_h = {gate: h @ of(gate, "w_hh").T for gate in names}

    def bounded(v: Tensor, bound: float) -> Tensor:
        return torch.clamp(v, -bound, bound)

    def gate(name: str, function: Activation, cell: Tensor = None, peephole: str = "") -> Tensor:
        s = by_x[name] + by_h[name]
        if peephole in w:
            s = s + w[peephole] * cell
        if options.layer_norm == "tflite":
            s = F.layer_norm(s, (H,), of(name, "ln"), eps=1e-8)
        z = bounded(s + of(name, "b"), options.gate_clip)
        return ACTIVATIONS[function.name](z, function.alpha, function.beta)

    g = gate("g", options.cell)
    if missing == "i":
        f = gate("f", options.gate, c, "w_cf")
        i = 1 - f
    elif missing == "f":
        i = gate("i", options.gate, c, "w_ci")
        f = 1 - i
    else:
        i = gate("i", options.gate, c, "w_ci")
        f = gate("f", options.gate, c, "w_cf")
    c = bounded(f * c + i * g, options.cell_clip)
    o = gate("o", options.gate, c, "w_co")
    seen = c
    if options.layer_norm == "haste":
        seen = F.layer_norm(c, (H,), w["ln_c"], w["b_c"], eps=1e-5)
    h = o * ACTIVATIONS[options.output.name](seen, options.output.alpha, options.output.beta)
    if "w_hr" in w:
        h = bounded(h @ w["w_hr"].T, options.proj_clip)
    return h, c, torch.cat([i, f, g, o], dim=1)
