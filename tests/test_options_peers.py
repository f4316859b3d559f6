"""Options of the recurrence against those who have them: onnxruntime, and Haste's equations.

Whatever a peer computes in float32 and we compute in float32 errs on both sides; `spread` says how
far rounding may take a result.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import pytest
import support
from gradients import assert_within, roundings, spread
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peers import onnx_lstm
from support import argument_of

import fastlstm
from fastlstm.engines import load
from fastlstm.engines.contract import Cell, Noise, Options
from fastlstm.sequences.packing import uniform_sizes

I, H, T = 3, 9, 6


# ---- onnxruntime ----------------------------------------------------------------------------

NAMES = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "affine": "Affine",
    "leaky_relu": "LeakyRelu",
    "thresholded_relu": "ThresholdedRelu",
    "scaled_tanh": "ScaledTanh",
    "hard_sigmoid": "HardSigmoid",
    "elu": "Elu",
    "softsign": "Softsign",
    "softplus": "Softplus",
}
FUNCTIONS = [*map(argument_of, support.FUNCTIONS.values()), "leaky_relu", "hard_sigmoid", "elu"]
"""All eleven with parameters of their own, then some with their defaults.

The default of thresholded_relu is 1, as the operator ThresholdedRelu has it, which ONNX says holds
for LSTM too. onnxruntime takes 0 there.
"""


class Node(NamedTuple):
    """A node LSTM and its input, in the words of our arguments."""

    functions: tuple[Any, Any, Any] = ("sigmoid", "tanh", "tanh")
    peephole: bool = False
    coupled: bool = False
    clip: float | None = None
    direction: str = "forward"
    lengths: tuple[int, ...] = (6, 2, 6, 4)
    seed: int = 0

    @property
    def ends(self) -> list[str]:
        """How the names of each direction's parameters end."""
        return ["_l0", "_l0_reverse"] if self.direction == "bidirectional" else ["_l0"]

    def layer(self, engine: str, dtype: str) -> fastlstm.LSTM:
        """Return our layer with these options."""
        gate, cell, output = self.functions
        return fastlstm.LSTM(
            I,
            H,
            bidirectional=self.direction == "bidirectional",
            reverse=self.direction == "reverse",
            peephole=self.peephole,
            coupled="f=1-i" if self.coupled else None,
            gate_clip=self.clip,
            gate_activation=gate,
            cell_activation=cell,
            output_activation=output,
            engine=engine,
            dtype=dtype,
        )

    def values(self) -> dict[str, np.ndarray]:
        """Draw the parameters, the input and the states, exact in float32."""
        rng = np.random.default_rng(self.seed)
        shapes = {
            name: value.shape for name, value in self.layer("numpy", "float32").state_dict().items()
        }
        B, d = len(self.lengths), len(self.ends)
        shapes |= {"x": (T, B, I), "h": (d, B, H), "c": (d, B, H)}
        scale = {"weight_hh": 1 / np.sqrt(H), "weight_ih": 0.6, "bias_ih": 0.3, "bias_hh": 0.3}
        return {
            name: (scale.get(name.split("_l0")[0], 1) * rng.standard_normal(shape)).astype(
                "float32"
            )
            for name, shape in shapes.items()
        }

    def ours(self, values: dict[str, np.ndarray], engine: str) -> dict[str, np.ndarray]:
        """Run our layer in the dtype of the values."""
        layer = self.layer(engine, str(values["x"].dtype))
        layer.load_state_dict({name: values[name] for name in layer.state_dict()})
        y, (h, c) = layer(values["x"], (values["h"], values["c"]), lengths=self.lengths)
        return {"y": y, "h": h, "c": c}

    def theirs(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the node in onnxruntime; where gates are coupled, what it has for f is not used."""
        rng = np.random.default_rng(1)

        def four_gates(array: np.ndarray) -> np.ndarray:
            if not self.coupled:
                return array
            i, g, o = np.split(array, 3)
            return np.concatenate([i, rng.standard_normal(i.shape).astype("float32"), g, o])

        weights, peepholes = [], []
        for end in self.ends:
            biases = values["bias_ih" + end] + values["bias_hh" + end]
            arrays = values["weight_ih" + end], values["weight_hh" + end], biases
            weights.append(tuple(map(four_gates, arrays)))
            if self.peephole:
                i, o = values["weight_ci" + end], values["weight_co" + end]
                peepholes.append((i, values.get("weight_cf" + end, 3 * i), o))
        attributes: dict[str, Any] = {"input_forget": int(self.coupled)}
        if self.clip is not None:
            attributes["clip"] = self.clip
        each = self.functions * len(self.ends)
        attributes["activations"] = [NAMES[f if isinstance(f, str) else f[0]] for f in each]
        alphas = [f[1] for f in each if not isinstance(f, str)]
        betas = [f[2] for f in each if len(f) == 3 and not isinstance(f, str)]
        attributes |= {"activation_alpha": alphas} if alphas else {}
        attributes |= {"activation_beta": betas} if betas else {}
        y, h, c = onnx_lstm(
            self.direction, weights, values["x"], self.lengths, values["h"], values["c"],
            peepholes or None, **attributes,
        )  # fmt: skip
        return {"y": y.transpose(0, 2, 1, 3).reshape(T, len(self.lengths), -1), "h": h, "c": c}


@functools.lru_cache(maxsize=200)  # the engines share what onnxruntime gives
def _theirs(node: Node) -> dict[str, np.ndarray]:
    return node.theirs(node.values())


@functools.lru_cache(maxsize=200)
def _compared(node: Node) -> tuple[dict[str, np.ndarray], ...]:
    """Return the values of a node, what onnxruntime makes of them, and how far each may move."""
    values = node.values()
    doubled = {name: value.astype("float64") for name, value in values.items()}
    _, moves = spread(functools.partial(node.ours, engine="numpy"), doubled)
    return values, _theirs(node), moves


def assert_agrees(node: Node, engine: str) -> None:
    """Assert that our layer gives what onnxruntime gives; both sides err, hence twice."""
    values, expected, moves = _compared(node)
    got = node.ours(values, engine)
    assert_within(got, expected, moves, 2 * roundings("native", I + H + 1, options=True), "float32")


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
@pytest.mark.parametrize("place", range(3), ids=["gate", "cell", "output"])
def test_onnx_functions(engine, place, function):
    functions: list[Any] = ["sigmoid", "tanh", "tanh"]
    functions[place] = function
    assert_agrees(Node(tuple(functions)), engine)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    "option",
    [
        {"peephole": True},
        {"coupled": True},
        {"clip": 0.7},
        {"peephole": True, "coupled": True, "clip": 0.5},
    ],
    ids="-".join,
)
def test_onnx_options(engine, direction, option):
    assert_agrees(Node(direction=direction, **option), engine)


def _is_finite(node: Node) -> bool:
    """Whether onnxruntime gives numbers: from 89 on its softplus overflows, which ours does not."""
    return all(np.isfinite(value).all() for value in _theirs(node).values())


NODES = st.builds(
    Node,
    functions=st.tuples(*[st.sampled_from(FUNCTIONS[:11])] * 3),
    peephole=st.booleans(),
    coupled=st.booleans(),
    clip=st.sampled_from([None, 0.4, 1.5]),
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    lengths=st.lists(st.integers(1, T), min_size=1, max_size=5).map(tuple),
    seed=st.integers(0, 2**16),
)


@settings(max_examples=10, deadline=None)
@given(node=NODES)
def test_onnx_options_together(engine, node):
    assume(_is_finite(node))
    assert_agrees(node, engine)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(node=NODES)
def test_many_onnx_nodes(engine, node):
    assume(_is_finite(node))
    assert_agrees(node, engine)


def test_onnx_saboteurs():
    """The comparison sees what is easily confused."""
    for node, other in (
        (Node(clip=0.7), {"clip": 0.71}),
        (Node(coupled=True), {"direction": "reverse"}),
        (Node(functions=(("hard_sigmoid", 0.2, 0.5), "tanh", "tanh")),
         {"functions": (("hard_sigmoid", 1 / 6, 0.5), "tanh", "tanh")}),
        (Node(functions=(("affine", 0.7, 0.2), "tanh", "tanh")),
         {"functions": (("affine", 0.2, 0.7), "tanh", "tanh")}),
        (Node(functions=("sigmoid", "softsign", "tanh")),
         {"functions": ("sigmoid", "tanh", "softsign")}),
    ):  # fmt: skip
        values, expected, moves = _compared(node)
        got = node._replace(**other).ours(values, "numpy")
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            assert_within(
                got, expected, moves, 2 * roundings("native", I + H + 1, options=True), "float32"
            )


# ---- Haste ----------------------------------------------------------------------------------


def _haste(torch: Any, values: dict[str, np.ndarray], zoneout: float, mask: Any = None) -> Any:
    """Compute what Haste's LayerNormLSTM says in words, with its arrays and its order i, g, f, o.

    kernel (I, 4H), recurrent (H, 4H), bias (4H,), gamma (2, 4H), gamma_h and beta_h (H,). `mask`
    (T, B, H), in training, is 1 where h moves; otherwise h is the mean of both.
    """
    norm = torch.nn.functional.layer_norm
    v = {name: torch.from_numpy(value) for name, value in values.items()}
    h, c, outputs = v["h"], v["c"], []
    size = c.shape[1]
    for t, x in enumerate(v["x"]):
        z = norm(x @ v["kernel"], (4 * size,), v["gamma"][0]) + v["bias"]
        z = z + norm(h @ v["recurrent"], (4 * size,), v["gamma"][1])
        i, g, f, o = z.split(size, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        new = torch.sigmoid(o) * torch.tanh(norm(c, (size,), v["gamma_h"], v["beta_h"]))
        moves = 1 - zoneout if mask is None else torch.from_numpy(mask)[t]
        h = h + moves * (new - h)
        outputs.append(h)
    return {"y": torch.stack(outputs).numpy(), "h": h.numpy(), "c": c.numpy()}


def _as_haste(values: dict[str, np.ndarray], engine: str, zoneout: float, mask: Any = None) -> Any:
    """Return the same from our layer, or with a mask from the engine."""

    def rows(array: np.ndarray) -> np.ndarray:
        """Rows of the gates i, f, g, o from columns of i, g, f, o."""
        i, g, f, o = np.split(array, 4, axis=-1)
        return np.concatenate([i, f, g, o], axis=-1).T.copy()

    arrays = {
        "w_ih": rows(values["kernel"]), "w_hh": rows(values["recurrent"]),
        "b": rows(values["bias"]), "ln_ih": rows(values["gamma"][0]),
        "ln_hh": rows(values["gamma"][1]), "ln_c": values["gamma_h"], "b_c": values["beta_h"],
    }  # fmt: skip
    x, h, c = values["x"], values["h"][None].copy(), values["c"][None].copy()
    if mask is None:
        names = ("weight_ih", "weight_hh", "bias_ih", "weight_ln_ih", "weight_ln_hh",
                 "weight_ln_c", "bias_ln_c")  # fmt: skip
        state = {f"{n}_l0": a for n, a in zip(names, arrays.values(), strict=True)}
        lstm = fastlstm.LSTM(
            I, H, layer_norm="haste", zoneout=(zoneout, 0), engine=engine, dtype=str(x.dtype)
        )
        lstm.load_state_dict(state | {"bias_hh_l0": 0 * arrays["b"]})
        y, (h, c) = lstm.eval()(x, (h, c))
        return {"y": y, "h": h[0], "c": c[0]}
    steps, rows_of_step = x.shape[:2]
    y = np.empty((steps * rows_of_step, H), x.dtype)
    cell = Cell(**arrays, options=Options(layer_norm="haste", zoneout_h=zoneout))
    noise = [Noise(zone_h=(1 - mask).reshape(y.shape).astype(x.dtype))]
    stack, sizes = load(engine).Stack([cell], 1), uniform_sizes(steps, rows_of_step)
    stack.run(x.reshape(len(y), I), sizes, h, c, y, 1, noise=noise)
    return {"y": y.reshape(steps, rows_of_step, H), "h": h[0], "c": c[0]}


@pytest.mark.parametrize("zoneout", [0, 0.3])
@pytest.mark.parametrize("training", [False, True])
def test_haste(torch, engine, zoneout, training):
    rng, B = np.random.default_rng(4), 3
    shapes = {"kernel": (I, 4 * H), "recurrent": (H, 4 * H), "bias": (4 * H,)}
    shapes |= {"gamma": (2, 4 * H), "gamma_h": (H,), "beta_h": (H,)}
    shapes |= {"x": (T, B, I), "h": (B, H), "c": (B, H)}
    values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    mask = (rng.random((T, B, H)) >= zoneout) * 1.0 if training else None
    expected, moves = spread(lambda v: _haste(torch, v, zoneout, mask), values)
    got = _as_haste(values, engine, zoneout, mask)
    assert_within(got, expected, moves, roundings(engine, 4 * H, options=True), "float64")
