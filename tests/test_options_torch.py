"""Each option of the recurrence, alone and with others, against torch: values and gradients.

`reference.py` has the equations in torch. `Setting` says what is computed, `by_torch` and
`by_engine` compute it, and `assert_agrees` compares the two. Faults that the comparison must reject
come last.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
from gradients import Problem, assert_derivative, assert_within, make_problem, roundings, spread
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Draws, torch
from saboteurs import edited
from support import FUNCTIONS, argument_of

import fastlstm
from fastlstm.engines import _numpy, load
from fastlstm.engines.contract import Cell, Noise, Options
from fastlstm.sequences.packing import batch_sizes_of

I = 3


@pytest.fixture(scope="module", autouse=True)
def _alone():
    """Let torch compute in one thread: work so small takes it many times as long in two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Setting(NamedTuple):
    """One layer, what is random in it, and its sequences, the longest first."""

    options: Options = Options()
    peephole: bool = False
    P: int | None = None  # of a projection
    noise: frozenset[str] = frozenset()  # which fields of `Noise` there are
    directions: int = 1
    reverse: bool = False  # of the only direction
    H: int = 5
    lengths: tuple[int, ...] = (4, 4, 3, 1)
    seed: int = 0


def values_of(setting: Setting) -> dict[str, np.ndarray]:
    """Draw what a setting computes with, in float64, exact in float32.

    Arrays of a cell have the names of its fields and the number of the direction. Rows of a gate
    that is coupled are zeros.
    """
    rng = np.random.default_rng(setting.seed)
    H, P, B, N = setting.H, setting.P or setting.H, len(setting.lengths), sum(setting.lengths)

    def normal(*shape: int, scale: float = 1, mean: float = 0) -> np.ndarray:
        return (mean + scale * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)

    values = {"x": normal(N, I), "dy": normal(N, setting.directions * P)}
    for name, size in {"h": P, "c": H, "dh": P, "dc": H}.items():
        values[name] = normal(setting.directions, B, size)
    for k in range(setting.directions):
        cell = {
            "w_ih": normal(4 * H, I, scale=0.6),
            "w_hh": normal(4 * H, P, scale=1 / math.sqrt(P)),
            "b": normal(4 * H, scale=0.3),
        }
        if setting.P:
            cell["w_hr"] = normal(P, H, scale=1 / math.sqrt(H))
        if setting.peephole:
            cell |= {name: normal(H) for name in ("w_ci", "w_cf", "w_co")}
        if setting.options.layer_norm == "tflite":
            cell["ln"] = normal(4 * H, scale=0.5, mean=1)
        if setting.options.layer_norm == "haste":
            cell |= {name: normal(4 * H, scale=0.5, mean=1) for name in ("ln_ih", "ln_hh")}
            cell |= {"ln_c": normal(H, scale=0.5, mean=1), "b_c": normal(H, scale=0.3)}
        gone = {"f=1-i": 1, "i=1-f": 0}.get(setting.options.coupled)
        for array in cell.values():
            if gone is not None and len(array) == 4 * H:
                array[gone * H : (gone + 1) * H] = 0
        if setting.peephole and gone is not None:
            cell[("w_ci", "w_cf")[gone]][...] = 0
        values |= {f"{name}{k}": array for name, array in cell.items()}
        values[f"dcells{k}"] = normal(N, H)
    return values


def noise_of(setting: Setting) -> list[dict[str, np.ndarray]]:
    """Draw the noise of each direction: packed rows, as engines take them."""
    rng = np.random.default_rng([setting.seed, 1])
    H, P, B, N = setting.H, setting.P or setting.H, len(setting.lengths), sum(setting.lengths)
    return [
        {
            "h": (rng.random((B, P)) < 0.6) / 0.6,
            "zone_h": (rng.random((N, P)) < 0.4) * 1.0,
            "zone_c": (rng.random((N, H)) < 0.3) * 1.0,
        }
        for _ in range(setting.directions)
    ]


def cell_of(values: dict[str, np.ndarray], k: int) -> dict[str, np.ndarray]:
    """Return the arrays of one direction's cell, by the names of its fields."""
    names = (field.name for field in dataclasses.fields(Cell))
    return {name: values[f"{name}{k}"] for name in names if f"{name}{k}" in values}


def backward_of(setting: Setting, k: int) -> bool:
    return k == 1 or setting.reverse


def by_torch(setting: Setting, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return all that a setting computes, by name, as torch has it in float64."""
    lengths = list(setting.lengths)
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}

    def padded(rows: Any) -> Any:
        sizes = torch.from_numpy(batch_sizes_of(np.array(lengths)))
        pack = torch.nn.utils.rnn.PackedSequence(torch.as_tensor(rows), sizes)
        return torch.nn.utils.rnn.pad_packed_sequence(pack)[0]

    def packed(steps: Any) -> Any:
        return torch.nn.utils.rnn.pack_padded_sequence(steps, lengths).data

    results, x = [], padded(leaves["x"])
    for k, drawn in enumerate(noise_of(setting)):
        draws = Draws(
            **{
                name: torch.from_numpy(value) if name == "h" else padded(value)
                for name, value in drawn.items()
                if name in setting.noise
            }
        )
        w = cell_of(leaves, k)
        states = leaves["h"][k], leaves["c"][k]
        backward = backward_of(setting, k)
        results.append(reference.run(w, setting.options, x, lengths, *states, backward, draws))
    y = torch.cat([packed(result.y) for result in results], dim=1)
    h, c = (torch.stack([getattr(result, name) for result in results]) for name in ("h", "c"))
    got = {"y": y, "h": h, "c": c}
    total = (y * leaves["dy"].detach()).sum()
    total = total + (h * leaves["dh"].detach()).sum() + (c * leaves["dc"].detach()).sum()
    for k, result in enumerate(results):
        got |= {f"gates{k}": packed(result.gates), f"cells{k}": packed(result.cells)}
        total = total + (got[f"cells{k}"] * leaves[f"dcells{k}"].detach()).sum()
    got["run_cells"] = torch.cat([got[f"cells{k}"] for k in range(len(results))], dim=1)
    got |= {f"run_{name}": got[name] for name in ("y", "h", "c")}
    total.backward()
    got = {name: value.detach().numpy() for name, value in got.items()}
    for name, leaf in leaves.items():
        if not name.startswith("d"):
            gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            got[f"d_{name}"] = gradient.numpy()
    return got


def by_engine(
    module: Any, setting: Setting, values: dict[str, np.ndarray], every: int = 0
) -> dict[str, np.ndarray]:
    """Return the same as an engine has it, in the dtype of the values.

    What begins with "run_" comes from a stack that only runs, the rest from one that goes back.
    """
    dtype, x, d = values["x"].dtype, values["x"], setting.directions
    cells = [
        Cell(**cell_of(values, k), reverse=backward_of(setting, k), options=setting.options)
        for k in range(d)
    ]
    noise = [
        Noise(**{n: v.astype(dtype) for n, v in drawn.items() if n in setting.noise})
        for drawn in noise_of(setting)
    ]
    stack = module.Stack(cells, d, back=True)
    sizes = batch_sizes_of(np.array(setting.lengths))
    h, c, y = values["h"].copy(), values["c"].copy(), np.full_like(values["dy"], np.nan)
    tape = stack.record(x, sizes, h, c, y, 1, every, noise=noise if setting.noise else None)
    got = {"y": y, "h": h, "c": c}
    h, c, y = values["h"].copy(), values["c"].copy(), np.full_like(values["dy"], np.nan)
    of_steps = np.full((len(x), d * setting.H), np.nan, dtype)
    forward = module.Stack(cells, d)
    forward.run(x, sizes, h, c, y, 1, noise=noise if setting.noise else None, cells=of_steps)
    got |= {"run_y": y, "run_h": h, "run_c": c, "run_cells": of_steps}
    if not every:
        for k, (gates, states) in enumerate(stack.saved(tape)):
            got |= {f"gates{k}": gates, f"cells{k}": states}
    dcells = [values[f"dcells{k}"] for k in range(d)]
    dh, dc, dx = values["dh"].copy(), values["dc"].copy(), np.full_like(x, np.nan)
    dw = [cell.map(np.zeros_like) for cell in cells]
    stack.back(tape, values["dy"], dh, dc, dx, dw, 1, dcells)
    got |= {"d_x": dx, "d_h": dh, "d_c": dc}
    for k, gradients in enumerate(dw):
        got |= {f"d_{name}{k}": array for name, array in gradients.arrays().items()}
    return got


@functools.lru_cache(maxsize=500)  # the engines share what torch gives
def truth(setting: Setting) -> tuple[dict[str, np.ndarray], ...]:
    """Return the values of a setting, what torch makes of them, and how far each may move."""
    values = values_of(setting)
    expected, moves = spread(functools.partial(by_torch, setting), values)
    gradients = [name for name in expected if name.startswith("d_")]
    return values, expected, _with_norms(setting, expected, moves, gradients)


def _with_norms(
    setting: Setting, expected: dict[str, np.ndarray], moves: dict[str, Any], gradients: list[str]
) -> dict[str, Any]:
    """Return how far each result may move, with what norms do to gradients.

    On the way back a norm may take away all of a gradient, such as that of the size of its input.
    What is left then are the roundings of what there was, which has the size of other gradients.
    """
    if not setting.options.layer_norm:
        return moves
    least = max(np.abs(expected[name]).max(initial=0) for name in gradients)
    return moves | {name: max(moves[name], least) for name in gradients}


def assert_agrees(
    module: Any, engine: str, setting: Setting, dtype: str = "float64", every: int = 0
) -> None:
    """Assert that all that `module` gives is what torch gives, but for the rounding of `engine`.

    With checkpoints, at `every` so many steps, there are no gates and cells.
    """
    values, expected, moves = truth(setting)
    if every:
        expected = {n: v for n, v in expected.items() if not n.startswith(("gates", "cells"))}
    got = by_engine(module, setting, {n: v.astype(dtype) for n, v in values.items()}, every)
    terms = max(I + (setting.P or setting.H) + 1, 4 * setting.H, len(values["x"]))
    assert_within(got, expected, moves, roundings(engine, terms, options=True), dtype)


# ---- each option ----------------------------------------------------------------------------


def _setting(**changes: Any) -> Setting:
    """Return the plain setting with some changes; those of `Options` by their names."""
    own = {name: changes.pop(name) for name in Setting._fields if name in changes}
    return Setting(**own)._replace(options=dataclasses.replace(Options(), **changes))


CHANGES: dict[str, dict[str, Any]] = {
    "peephole": {"peephole": True},
    "f=1-i": {"coupled": "f=1-i"},
    "i=1-f": {"coupled": "i=1-f"},
    "gate_clip": {"gate_clip": 0.8},
    "cell_clip": {"cell_clip": 0.55},
    "projection": {"P": 3},
    "proj_clip": {"P": 3, "proj_clip": 0.2},
    "tflite": {"layer_norm": "tflite"},
    "haste": {"layer_norm": "haste"},
    "zoneout": {"zoneout_h": 0.3, "zoneout_c": 0.15},
    "noise_h": {"noise": frozenset({"h"})},
    "noise_zone_h": {"noise": frozenset({"zone_h"}), "zoneout_h": 0.3},
    "noise_zone_c": {"noise": frozenset({"zone_c"}), "zoneout_c": 0.15},
    "reverse": {"reverse": True},
    "both": {"directions": 2},
}
CHANGES |= {
    f"{place}={name}": {place: function}
    for place in ("gate", "cell", "output")
    for name, function in FUNCTIONS.items()
    if name != {"gate": "sigmoid", "cell": "tanh", "output": "tanh"}[place]
}
"""What makes each option of the plain setting."""


def together(names: list[str], **more: Any) -> Setting:
    """Return the setting with several changes; of two that exclude each other the later one.

    Of two directions, the first one is never reversed.
    """
    changes: dict[str, Any] = {}
    for name in names:
        noise = changes.get("noise", frozenset()) | CHANGES[name].get("noise", frozenset())
        changes |= CHANGES[name] | {"noise": noise}
    if changes.get("directions") == 2:
        changes["reverse"] = False
    return _setting(**changes, **more)


@pytest.mark.parametrize("name", CHANGES)
def test_each_option(engine, name):
    assert_agrees(load(engine), engine, together([name]))


@pytest.mark.parametrize("coupled", ["f=1-i", "i=1-f"])
@pytest.mark.parametrize("layer_norm", ["tflite", "haste"])
def test_everything_at_once(engine, coupled, layer_norm):
    """All options in one cell, in both directions."""
    names = ["peephole", coupled, "gate_clip", "cell_clip", "proj_clip", layer_norm, "zoneout",
             "gate=hard_sigmoid", "cell=softsign", "output=elu", "both"]  # fmt: skip
    setting = together(names)
    clip = dataclasses.replace(setting.options, gate_clip=2.5)  # norms are larger
    setting = setting._replace(options=clip, H=18, P=17)
    for noise in (frozenset(), frozenset({"h", "zone_h", "zone_c"})):
        for every in (0, 3):
            assert_agrees(load(engine), engine, setting._replace(noise=noise), every=every)


CHOICES = st.lists(st.sampled_from(sorted(CHANGES)), min_size=2, max_size=3, unique=True)
# Not two units: their norms are 1 and -1 whatever they are, so that gradients cancel to nothing,
# and what is left is rounding, of which `spread` would see no cause.
SIZES = st.fixed_dictionaries(
    {
        "H": st.sampled_from([4, 9, 18]),
        "lengths": st.sampled_from([(4, 4, 3, 1), (5,), (3, 3), (1, 1, 1), (6, 2)]),
        "seed": st.integers(0, 2**16),
    }
)


@settings(max_examples=8, deadline=None)
@given(names=CHOICES, sizes=SIZES)
def test_options_in_pairs_and_triples(engine, names, sizes):
    assert_agrees(load(engine), engine, together(names, **sizes))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(names=CHOICES, sizes=SIZES)
def test_many_pairs_and_triples(engine, names, sizes):
    assert_agrees(load(engine), engine, together(names, **sizes))


# ---- whole layers ---------------------------------------------------------------------------

FIELDS = {
    "weight_ih": "w_ih", "weight_hh": "w_hh", "weight_hr": "w_hr", "weight_ci": "w_ci",
    "weight_cf": "w_cf", "weight_co": "w_co", "weight_ln": "ln", "weight_ln_ih": "ln_ih",
    "weight_ln_hh": "ln_hh", "weight_ln_c": "ln_c", "bias_ln_c": "b_c",
}  # fmt: skip


class Layers(NamedTuple):
    """An LSTM with the options of a setting, whose sizes and directions it has, and a call."""

    setting: Setting
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    mode: str = "lengths"  # or "padded", "packed"
    lengths: tuple[int, ...] = (2, 4, 3)

    def make(self, engine: str, dtype: str) -> fastlstm.LSTM:
        """Return the layer, in evaluation."""
        setting, options = self.setting, self.setting.options

        def bound(value: float) -> float | None:
            return None if math.isinf(value) else value

        return fastlstm.LSTM(
            I,
            setting.H,
            self.num_layers,
            self.bias,
            self.batch_first,
            bidirectional=setting.directions == 2,
            reverse=setting.reverse,
            proj_size=setting.P or 0,
            peephole=setting.peephole,
            coupled=options.coupled or None,
            gate_clip=bound(options.gate_clip),
            cell_clip=bound(options.cell_clip),
            proj_clip=bound(options.proj_clip),
            gate_activation=argument_of(options.gate),
            cell_activation=argument_of(options.cell),
            output_activation=argument_of(options.output),
            layer_norm=options.layer_norm or None,
            zoneout=(options.zoneout_h, options.zoneout_c),
            engine=engine,
            dtype=dtype,
        ).eval()

    def problem(self) -> Problem:
        """Draw all that goes into the layer, its parameters too."""
        setting, (T, B) = self.setting, (max(self.lengths), len(self.lengths))
        cells = self.num_layers * setting.directions
        states = (cells, B, setting.P or setting.H), (cells, B, setting.H)
        shape = (B, T, I) if self.batch_first else (T, B, I)
        rng = np.random.default_rng(setting.seed)
        options: dict[str, Any] = {} if self.mode == "padded" else {"lengths": [*self.lengths]}
        if self.mode == "packed":
            options["packed"] = True
        problem = make_problem(self.make, rng.standard_normal(shape), states, **options)
        moved = {
            name: value + 0.4 * rng.standard_normal(value.shape)
            for name, value in problem.arrays.items()
            if name.startswith(("weight", "bias"))
        }
        return problem._replace(arrays=problem.arrays | moved)

    def by_torch(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return outputs, as "out0" and so on, and gradients by the names of what they are of."""
        leaves = {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}
        x = leaves["x"].transpose(0, 1) if self.batch_first else leaves["x"]
        lengths = [len(x)] * len(self.lengths) if self.mode == "padded" else [*self.lengths]
        finals, d = [], self.setting.directions
        for layer in range(self.num_layers):
            sides = []
            for k in range(d):
                w = self.weights(leaves, f"_l{layer}" + ("_reverse" if k else ""))
                states = leaves["h_0"][layer * d + k], leaves["c_0"][layer * d + k]
                backward = backward_of(self.setting, k)
                options = self.setting.options
                result = reference.run(w, options, x, lengths, *states, backward)
                sides.append(result.y)
                finals.append((result.h, result.c))
            x = torch.cat(sides, dim=2)
        y = x.transpose(0, 1) if self.batch_first else x
        if self.mode == "packed":
            pack = torch.nn.utils.rnn.pack_padded_sequence
            y = pack(x, lengths, enforce_sorted=False).data
        outputs = [y, *map(torch.stack, zip(*finals, strict=True))]
        sum((v * leaves[f"d{k}"].detach()).sum() for k, v in enumerate(outputs)).backward()
        got = {f"out{k}": value.detach().numpy() for k, value in enumerate(outputs)}
        return got | {
            name: (torch.zeros_like(leaf) if leaf.grad is None else leaf.grad).numpy()
            for name, leaf in leaves.items()
            if name not in {"d0", "d1", "d2"}
        }

    def weights(self, leaves: dict[str, Any], end: str) -> dict[str, Any]:
        """Return one direction's arrays as `reference` has them, with four gates."""
        gone = {"f=1-i": 1, "i=1-f": 0}.get(self.setting.options.coupled)

        def whole(name: str) -> Any:
            array = leaves[name + end]
            if gone is None or len(array) != 3 * self.setting.H:
                return array
            parts = [*array.split(self.setting.H)]
            parts.insert(gone, torch.full_like(parts[0], math.nan))  # never to be looked at
            return torch.cat(parts)

        w = {field: whole(name) for name, field in FIELDS.items() if name + end in leaves}
        w["b"] = (
            whole("bias_ih") + whole("bias_hh")
            if self.bias
            else torch.zeros(4 * self.setting.H, dtype=torch.float64)
        )
        return w


@functools.lru_cache(maxsize=200)  # the engines share what torch gives
def layers_truth(layers: Layers) -> tuple[Any, ...]:
    """Return the problem, what torch makes of it, and how far each result may move."""
    problem = layers.problem()
    expected, moves = spread(layers.by_torch, problem.arrays)
    gradients = [name for name in expected if not name.startswith("out")]
    return problem, expected, _with_norms(layers.setting, expected, moves, gradients)


def assert_layers_agree(layers: Layers, engine: str) -> None:
    """Assert that outputs and gradients of the layer are torch's."""
    problem, expected, moves = layers_truth(layers)
    got = {f"out{k}": v for k, v in enumerate(problem.outputs(problem.arrays, engine))}
    got |= problem.gradients(engine=engine)
    setting, count = layers.setting, layers.num_layers
    terms = max(2 * setting.H + I + 1, 4 * setting.H, sum(layers.lengths))
    assert_within(got, expected, moves, count * roundings(engine, terms, options=True), "float64")


QUIET = [name for name in CHANGES if not name.startswith("noise")]  # what evaluation has


@pytest.mark.parametrize("name", QUIET)
def test_each_option_of_a_layer(engine, name):
    """Names and shapes of the parameters, two biases, lengths in any order, two layers."""
    setting = together([name])
    assert_layers_agree(Layers(setting, num_layers=2), engine)


LAYERS = st.fixed_dictionaries(
    {
        "num_layers": st.integers(1, 2),
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "mode": st.sampled_from(["padded", "lengths", "packed"]),
        "lengths": st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    }
)


def _layers(names: list[str], sizes: dict[str, Any], how: dict[str, Any]) -> Layers:
    return Layers(together([name for name in names if name in QUIET], **sizes), **how)


@settings(max_examples=8, deadline=None)
@given(names=CHOICES, sizes=SIZES, how=LAYERS)
def test_layers_with_options_together(engine, names, sizes, how):
    assert_layers_agree(_layers(names, sizes, how), engine)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(names=CHOICES, sizes=SIZES, how=LAYERS)
def test_many_layers_with_options_together(engine, names, sizes, how):
    assert_layers_agree(_layers(names, sizes, how), engine)


# ---- finite differences ---------------------------------------------------------------------

# They know nothing of torch. Where a kink lies between two of their points they are no derivative,
# so that the examples are always the same ones.


@pytest.mark.parametrize("name", QUIET)
def test_the_derivative_of_each_option(name):
    assert_derivative(Layers(together([name]), num_layers=2).problem(), "numpy")


@settings(max_examples=12, deadline=None, derandomize=True)
@given(names=CHOICES, sizes=SIZES, how=LAYERS)
def test_the_derivative_of_options_together(names, sizes, how):
    assert_derivative(_layers(names, sizes, how).problem(), "numpy")


# ---- faults that must be found --------------------------------------------------------------

# Where the fault is, what stands there, what stands for it, and options that show it.
SABOTEURS: dict[str, tuple[str, str, str, list[str]]] = {
    "the peephole of o sees the cell before the step": (
        "values_of", 's[3] + w["w_co"] * c', 's[3] + w["w_co"] * c_0', ["peephole"],
    ),
    "the peephole of o sees the cell before its clip": (
        "values_of",
        'c = clip(raw_c, options.cell_clip)\nif "w_co" in w:\n    s[3] = s[3] + w["w_co"] * c',
        'c = clip(raw_c, options.cell_clip)\nif "w_co" in w:\n    s[3] = s[3] + w["w_co"] * raw_c',
        ["peephole", "cell_clip"],
    ),
    "i and f take each other's peephole": (
        "values_of",
        's[0] + w["w_ci"] * c_0, s[1] + w["w_cf"] * c_0',
        's[0] + w["w_cf"] * c_0, s[1] + w["w_ci"] * c_0',
        ["peephole"],
    ),
    "f has no peephole": (
        "values_of", 's[1] + w["w_cf"] * c_0', "s[1]", ["peephole"],
    ),
    "the gates are clipped after their activation": (
        "values_of",
        "activate(options.gate, clipped(z[gate]))",
        "clipped(activate(options.gate, z[gate]))",
        ["gate_clip"],
    ),
    "g is not clipped": (
        "values_of", "activate(options.cell, clipped(z[2]))", "activate(options.cell, z[2])",
        ["gate_clip"],
    ),
    "o is not clipped": (
        "values_of", "activate(options.gate, clipped(z[3]))", "activate(options.gate, z[3])",
        ["gate_clip"],
    ),
    "c is clipped on one side": (
        "clip", "np.clip(v, -bound, bound)", "np.minimum(v, bound)", ["cell_clip"],
    ),
    "h is made from the cell before its clip": (
        "values_of", "Values(s, z, [i, f, g, o], raw_c, c, q, a, o * a)",
        "Values(s, z, [i, f, g, o], raw_c, c, q, a, o * activate(cell.options.output, raw_c))",
        ["cell_clip"],
    ),
    "f=1-i is computed as i=1-f": (
        "values_of", 'options.coupled == "f=1-i"', 'options.coupled == "i=1-f"', ["f=1-i"],
    ),
    "i=1-f is computed as i=f": (
        "values_of",
        'if options.coupled == "i=1-f":\n    i = 1 - f',
        'if options.coupled == "i=1-f":\n    i = f',
        ["i=1-f"],
    ),
    "the way back forgets that f follows i": (
        "cell_back",
        'if options.coupled != "i=1-f":\n    back_to_sums(0, di - df if options.coupled else di)',
        'if options.coupled != "i=1-f":\n    back_to_sums(0, di)',
        ["f=1-i"],
    ),
    "the way back forgets that i follows f": (
        "cell_back",
        'if options.coupled != "f=1-i":\n    back_to_sums(1, df - di if options.coupled else df)',
        'if options.coupled != "f=1-i":\n    back_to_sums(1, df)',
        ["i=1-f"],
    ),
    "the gate has the function of g": (
        "values_of", "activate(options.gate, clipped(z[3]))",
        "activate(options.cell, clipped(z[3]))", ["gate=hard_sigmoid"],
    ),
    "c goes into h by the function of g": (
        "values_of", "activate(options.output, q)", "activate(options.cell, q)",
        ["output=softsign"],
    ),
    "the hard sigmoid is Keras 3's": (
        "activate", "np.clip(alpha * x + beta, 0, 1)", "np.clip(x / 6 + beta, 0, 1)",
        ["gate=hard_sigmoid"],
    ),
    "the hard sigmoid is not bounded above": (
        "activate", "np.clip(alpha * x + beta, 0, 1)", "np.maximum(alpha * x + beta, 0)",
        ["gate=hard_sigmoid"],
    ),
    "the thresholded relu subtracts its threshold": (
        "activate", "np.where(x <= alpha, x.dtype.type(0), x)", "np.maximum(x - alpha, 0)",
        ["cell=thresholded_relu"],
    ),
    "alpha and beta of the scaled tanh are exchanged": (
        "activate", "alpha * np.tanh(beta * x)", "beta * np.tanh(alpha * x)",
        ["cell=scaled_tanh"],
    ),
    "alpha and beta of the hard sigmoid are exchanged": (
        "activate", "np.clip(alpha * x + beta, 0, 1)", "np.clip(beta * x + alpha, 0, 1)",
        ["gate=hard_sigmoid"],
    ),
    "elu has no alpha": (
        "activate", "alpha * np.expm1(x)", "np.expm1(x)", ["output=elu"],
    ),
    "the slope of elu has no alpha": (
        "slope", "alpha * np.exp(x)", "np.exp(x)", ["output=elu"],
    ),
    "the slope of a scaled tanh has no beta": (
        "slope", "alpha * beta * (1 - np.tanh(beta * x) ** 2)",
        "alpha * (1 - np.tanh(beta * x) ** 2)", ["cell=scaled_tanh"],
    ),
    "the slope of softsign is not squared": (
        "slope", "1 / (1 + np.abs(x)) ** 2", "1 / (1 + np.abs(x))", ["cell=softsign"],
    ),
    "the mean is over the sequences": (
        "norm", "v - v.mean(axis=1, keepdims=True)", "v - v.mean(axis=0, keepdims=True)",
        ["tflite"],
    ),
    "the variance is divided by H - 1": (
        "norm", "np.mean(v * v, axis=1, keepdims=True)",
        "np.sum(v * v, axis=1, keepdims=True) / (v.shape[1] - 1)", ["haste"],
    ),
    "epsilon is forgotten": (
        "norm", "v.dtype.type(EPSILON[kind])", "0", ["haste"],
    ),
    "epsilon is added to the deviation": (
        "norm", "np.sqrt(np.mean(v * v, axis=1, keepdims=True) + v.dtype.type(EPSILON[kind]))",
        "(np.sqrt(np.mean(v * v, axis=1, keepdims=True)) + v.dtype.type(EPSILON[kind]))",
        ["haste"],
    ),
    "the way back through a norm forgets the mean": (
        "norm_back",
        "d - d.mean(axis=1, keepdims=True) - n * np.mean(d * n, axis=1, keepdims=True)",
        "d - n * np.mean(d * n, axis=1, keepdims=True)",
        ["tflite"],
    ),
    "the gain is that of another gate": (
        "values_of", "np.split(w[name], 4)[gate]",
        "np.split(w[name], 4)[gate - (name == 'ln')]", ["tflite"],
    ),
    "the peephole comes after the norm": (
        "values_of", "b + ln * norm(s[gate], 'tflite')",
        "b + ln * norm(s[gate] - (gate == 0) * cell.w_ci * c_0, 'tflite')"
        " + (gate == 0) * cell.w_ci * c_0",
        ["tflite", "peephole"],
    ),
    "W x is normalised for each gate": (
        "values_of",
        "w['ln_ih'][own] * norm(u[:, own], 'haste')",
        "w['ln_ih'] * norm(u.reshape(-1, len(cell.b) // 4), 'haste').reshape(u.shape)",
        ["haste"],
    ),
    "W x and W h are normalised together": (
        "values_of",
        "sums[:, own] += w['ln_ih'][own] * norm(u[:, own], 'haste')\n"
        "sums[:, own] += w['ln_hh'][own] * norm(v[:, own], 'haste')",
        "sums[:, own] += w['ln_ih'][own] * norm(u[:, own] + v[:, own], 'haste')",
        ["haste"],
    ),
    "the gains of W x and W h are exchanged": (
        "values_of", "w['ln_ih'][own] * norm(u[:, own], 'haste')",
        "w['ln_hh'][own] * norm(u[:, own], 'haste')", ["haste"],
    ),
    "the norm counts the rows of a gate that is coupled": (
        "present", "np.flatnonzero(np.arange(len(cell.b)) // (len(cell.b) // 4) != gone)",
        "np.arange(len(cell.b))", ["haste", "f=1-i"],
    ),
    "the normalised cell is kept": (
        "values_of", "Values(s, z, [i, f, g, o], raw_c, c, q, a, o * a)",
        "Values(s, z, [i, f, g, o], raw_c, q, q, a, o * a)", ["haste"],
    ),
    "the projection is clipped before it is made": (
        "run_general", "clip(h_t @ cell.w_hr, options.proj_clip)",
        "clip(h_t, options.proj_clip) @ cell.w_hr", ["proj_clip"],
    ),
    "the way back does not see the clip of the projection": (
        "back_general", "np.where(inside(values.m @ cell.w_hr, options.proj_clip), dm, 0)", "dm",
        ["proj_clip"],
    ),
    "the way back does not see the clip of the cell": (
        "cell_back", "np.where(inside(values.raw_c, options.cell_clip), dc, 0)", "dc",
        ["cell_clip"],
    ),
    "the way back does not see the clip of the gates": (
        "cell_back", "inside(z, options.gate_clip)", "1", ["gate_clip"],
    ),
    "zoneout keeps the share that should move": (
        "keep_some", "(1 - zone) * new + zone * old", "zone * new + (1 - zone) * old",
        ["noise_zone_c"],
    ),
    "zoneout keeps the expected share that should move": (
        "keep_some", "(1 - zone) * new + zone * old", "zone * new + (1 - zone) * old",
        ["zoneout"],
    ),
    "h is made from the cell after its zoneout": (
        "run_general",
        "values = values_of(cell, sums, c_0)\nh_t = values.m",
        "values = values_of(cell, sums, c_0)\nh_t = values.gates[3] * activate(cell.options.output,"
        " values.c + cell.options.zoneout_c * (c_0 - values.c))",
        ["zoneout"],
    ),
    "the probabilities stand for the masks": (
        "run_general", "options.zoneout_c if noise.zone_c is None else noise.zone_c[rows]",
        "options.zoneout_c", ["noise_zone_c"],
    ),
    "dropout is applied to the state that zoneout keeps": (
        "run_general", "h_0, c_0 = h[:live].copy(), c[:live].copy()",
        "h_0, c_0 = h[:live] * (1 if noise.h is None else noise.h[:live]), c[:live].copy()",
        ["noise_h", "noise_zone_h"],
    ),
    "the way back forgets the factors of dropout": (
        "back_general", "dm_0 *= noise.h[:live]", "dm_0 *= 1", ["noise_h"],
    ),
    "the gradients of the cells are dropped": (
        "back_general", "dc_t = dc_t + dcells[rows]", "dc_t = dc_t", ["peephole"],
    ),
    "the gradient of c passes the peephole of o after the clip": (
        "cell_back",
        'if "w_co" in w:\n'
        '    dws["w_co"] += (ds[3] * values.c).sum(axis=0)\n'
        '    dc = dc + ds[3] * w["w_co"]\n'
        "dc = np.where(inside(values.raw_c, options.cell_clip), dc, 0)",
        "dc = np.where(inside(values.raw_c, options.cell_clip), dc, 0)\n"
        'if "w_co" in w:\n'
        '    dws["w_co"] += (ds[3] * values.c).sum(axis=0)\n'
        '    dc = dc + ds[3] * w["w_co"]',
        ["peephole", "cell_clip"],
    ),
    "the gradient of c_0 lacks what the peepholes bring": (
        "cell_back", 'dc_0 + ds[0] * w["w_ci"] + ds[1] * w["w_cf"]', "dc_0", ["peephole"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", SABOTEURS)
def test_saboteurs_are_found(fault):
    place, old, new, names = SABOTEURS[fault]
    broken = edited(_numpy, place, old, new)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_agrees(broken, "numpy", together(names))


def test_a_copy_without_a_fault_is_not_rejected():
    copy = edited(_numpy, "activate", "np.tanh(x)", "np.tanh(x)")
    for *_, names in SABOTEURS.values():
        assert_agrees(copy, "numpy", together(names))
