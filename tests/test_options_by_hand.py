"""Options of the recurrence by numbers worked by hand, with TFLite's and Haste's equations.

sigmoid(ln n) = n / (n + 1) and tanh(ln n) = (n^2 - 1) / (n^2 + 1), so that gates are fractions:
sigmoid(ln 2) = 2/3, sigmoid(ln 3) = 3/4, tanh(ln 2) = 3/5, tanh(ln 3) = 4/5, tanh(ln(3) / 2) = 1/2.

The order of operations is that of TFLite's lstm_eval: products and peepholes are added up, then
normalised over the units of the gate, multiplied by the coefficients and moved by the bias; the
cell is clipped before the peephole of o and h see it; the projection is clipped last.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fastlstm
from fastlstm.engines import load
from fastlstm.engines.contract import Cell, Noise

LN2, LN3, ROOT2 = math.log(2), math.log(3), math.sqrt(2)

# The numbers are fractions near 1 after some twenty roundings of 1e-16.
CLOSE = {"rtol": 0, "atol": 1e-14}


def _layer(state: dict[str, Any], engine: str, *sizes: int, **options: Any) -> fastlstm.LSTM:
    lstm = fastlstm.LSTM(*sizes, dtype="float64", engine=engine, **options)
    lstm.load_state_dict({f"{name}_l0": np.array(value) for name, value in state.items()})
    return lstm.eval()


def _solved(z: list[list[float]], seen: dict[int, list[float]]) -> dict[str, Any]:
    """Return weights whose sums are `z` (gates, units) for x = 1 and h_0 = (1/2, -1/2).

    Of each z, x gives the double and h_0 minus three times as much; the bias gives the double less
    what the peepholes give, which are 3 where a gate sees the numbers `seen`.
    """
    flat = [(value, 3 * (seen[gate][unit] if gate in seen else 0))
            for gate, values in enumerate(z) for unit, value in enumerate(values)]  # fmt: skip
    return {
        "weight_ih": [[2 * value] for value, _ in flat],
        "weight_hh": [[-3 * value, 3 * value] for value, _ in flat],
        "bias_ih": [2 * value - peephole for value, peephole in flat],
        "bias_hh": [0.0] * len(flat),
    }


def test_peepholes_projection_and_clips_of_tflite(engine):
    """Three units and two outputs; the bound of the cell is ln 2, that of the projection 3/10.

    c_0 = 1, 9/10 - ln 3, 3/2
    i = 1/2, 3/4, 2/3;  f = 3/4, 1/2, 1/3;  g = 3/5, -3/5, 4/5;  o = 2/3, 1/4, 1/2
    f c_0 + i g = 3/4 + 3/10, 9/20 - ln(3)/2 - 9/20, 1/2 + 8/15
    c' = ln 2, -ln(3)/2, ln 2                     the first and the last beyond the bound
    o tanh(c') = 2/3 3/5, 1/4 -1/2, 1/2 3/5 = 2/5, -1/8, 3/10
    W_hr of it = 2/5 - 2/8 + 3/10, 1/5 - 4/8 + 1/10 = 9/20, -1/5
    h = 3/10, -1/5                                the first beyond the bound
    """
    c_0, c = [1.0, 0.9 - LN3, 1.5], [LN2, -LN3 / 2, LN2]
    z = [[0, LN3, LN2], [LN3, 0, -LN2], [LN2, -LN2, LN3], [LN2, -LN3, 0]]
    state = _solved(z, seen={0: c_0, 1: c_0, 3: c})
    state |= {f"weight_c{gate}": [3.0] * 3 for gate in "ifo"}
    state["weight_hr"] = [[1, 2, 1], [1 / 2, 4, 1 / 3]]
    lstm = _layer(state, engine, 1, 3, peephole=True, proj_size=2, cell_clip=LN2, proj_clip=0.3)
    y, (h_n, c_n) = lstm(np.ones((1, 1)), (np.array([[0.5, -0.5]]), np.array([c_0])))
    np.testing.assert_allclose(c_n[0], c, **CLOSE)
    np.testing.assert_allclose(h_n[0], [0.3, -0.2], **CLOSE)
    np.testing.assert_allclose(y[0], [0.3, -0.2], **CLOSE)


@pytest.mark.parametrize("coupled", ["i=1-f", "f=1-i"])
def test_coupled_gates(engine, coupled):
    """The one gate is 3/4 and 1/3, the other 1/4 and 2/3; g = 3/5, 4/5; o = 2/3, 1/2.

    c_0 is such that c' = ln 2, -ln 3: of share s of the old and 1 - s of g, it is (c' - (1 - s) g)
    / s. h = 2/3 3/5, -1/2 4/5. The peephole of the one gate sees c_0, that of o sees c'.
    """
    keeps = (3 / 4, 1 / 3) if coupled == "i=1-f" else (1 / 4, 2 / 3)
    c, g = [LN2, -LN3], (3 / 5, 4 / 5)
    c_0 = [(own - (1 - s) * new) / s for own, s, new in zip(c, keeps, g, strict=True)]
    z = [[LN3, -LN2], [LN2, LN3], [LN2, 0]]
    state = _solved(z, seen={0: c_0, 2: c})
    state |= {f"weight_c{coupled[-1]}": [3.0] * 2, "weight_co": [3.0] * 2}
    lstm = _layer(state, engine, 1, 2, peephole=True, coupled=coupled)
    _, (h_n, c_n) = lstm(np.ones((1, 1)), (np.array([[0.5, -0.5]]), np.array([c_0])))
    np.testing.assert_allclose(c_n[0], c, **CLOSE)
    np.testing.assert_allclose(h_n[0], [2 / 5, -2 / 5], **CLOSE)


def test_layer_norm_of_tflite(engine):
    """Of two units, s + d and s - d, the mean is s and the variance d^2.

    Here d is 1e-4: with epsilon, 1e-8, the norms are d / sqrt(2 d^2) = 1 / sqrt 2 and minus that.
    Coefficients are sqrt(2) times what they are to give.

    x gives 2e-4 and 2e-4 to i, f and o, and their peepholes add d and -d, each inside of the norm;
    to g it gives 3e-4 and 1e-4. h_0 is 0.
    c_0 = 1, -1
    z_i = ln 3, -ln 2                   i = 3/4, 1/3
    z_f = ln 2 - ln 2, -ln 3 + 2 ln 3   f = 1/2, 3/4
    z_g = ln 2, -ln 3                   g = 3/5, -4/5
    c'  = 1/2 + 9/20, -3/4 - 4/15       = 0.95, -61/60
    z_o = ln 3, -ln 3 + ln 3            o = 3/4, 1/2
    """
    d, c = 1e-4, [0.95, -61 / 60]
    state = {
        "weight_ih": [[2 * d]] * 4 + [[3 * d], [d]] + [[2 * d]] * 2,
        "weight_hh": np.zeros((8, 2)),
        "bias_ih": [0, 0, -LN2, 2 * LN3, 0, 0, 0, LN3],
        "bias_hh": [0.0] * 8,
        "weight_ci": [d, d],
        "weight_cf": [d, d],
        "weight_co": [d / c[0], -d / c[1]],
        "weight_ln": [ROOT2 * v for v in (LN3, LN2, LN2, LN3, LN2, LN3, LN3, LN3)],
    }
    lstm = _layer(state, engine, 1, 2, peephole=True, layer_norm="tflite")
    _, (h_n, c_n) = lstm(np.ones((1, 1)), (np.zeros((1, 2)), np.array([[1.0, -1.0]])))
    # d is known to 1e-16 of 2e-4, the norm to a few 1e-12
    np.testing.assert_allclose(c_n[0], c, rtol=0, atol=1e-11)
    h = [3 / 4 * math.tanh(c[0]), 1 / 2 * math.tanh(c[1])]
    np.testing.assert_allclose(h_n[0], h, rtol=0, atol=1e-11)


def test_layer_norm_of_haste(engine):
    """Of eight values, a and -a in turn, the mean is 0 and the variance a^2.

    With a^2 = 1e-5, as epsilon, they become 1 / sqrt 2 and minus that; with a^2 = 3e-5, sqrt(3/4)
    and minus that.

    W x is a for unit 0 and -a for unit 1 of each gate, with a^2 = 1e-5 and gains of sqrt(2) u;
    W h is -a and a, with a^2 = 3e-5 and gains of sqrt(4/3) v: z is +-(u - v) + b.
    i: u - v = ln 3          b = 0           i = 3/4, 1/4
    f: u - v = ln 3          b = -ln 3, 0    f = 1/2, 1/4
    g: u - v = ln 2          b = 0           g = 3/5, -3/5
    o: u - v = 2 ln 2 - ln 2 b = 0, ln 2     o = 2/3, 1/2
    c_0 = 1.2, -1.4:  c' = 0.6 + 0.45, -0.35 - 0.15 = 1.05, -0.5, which stays as it is; its mean is
    0.275 and its variance 0.775^2, so that its norms are n = 0.775 / sqrt(0.775^2 + 1e-5) and -n.
    """
    a, b = math.sqrt(1e-5), math.sqrt(3e-5)
    u, v = (LN3 + 1, LN3 - 1, LN2 + 2, 2 * LN2), (1, -1, 2, LN2)
    state = {
        "weight_ih": [[a], [-a]] * 4,
        "weight_hh": [[-2 * b, 0], [0, -2 * b]] * 4,  # h_0 = 1/2, -1/2
        "bias_ih": [0, 0, -LN3, 0, 0, 0, 0, LN2],
        "bias_hh": [0.0] * 8,
        "weight_ln_ih": [ROOT2 * value for value in u for _ in range(2)],
        "weight_ln_hh": [math.sqrt(4 / 3) * value for value in v for _ in range(2)],
        "weight_ln_c": [1.5, 0.5],
        "bias_ln_c": [0.1, -0.2],
    }
    lstm = _layer(state, engine, 1, 2, layer_norm="haste")
    _, (h_n, c_n) = lstm(np.ones((1, 1)), (np.array([[0.5, -0.5]]), np.array([[1.2, -1.4]])))
    n = 0.775 / math.sqrt(0.775**2 + 1e-5)
    h = [2 / 3 * math.tanh(0.1 + 1.5 * n), 1 / 2 * math.tanh(-0.2 - 0.5 * n)]
    np.testing.assert_allclose(c_n[0], [1.05, -0.5], rtol=0, atol=1e-13)
    np.testing.assert_allclose(h_n[0], h, rtol=0, atol=1e-13)


def test_clip_of_the_gates(engine):
    """Beyond ln 2, z is ln 2: i = 2/3 for z = 5, g = -3/5 for z = -5.

    f = 1/2 and o = 3/5 are within. c' = 1/2 c_0 - 2/5 = 1, h = 3/5 tanh(1).
    """
    state = {
        "weight_ih": [[5.0], [0.0], [-5.0], [math.log(1.5)]],
        "weight_hh": np.zeros((4, 1)),
        "bias_ih": [0.0] * 4,
        "bias_hh": [0.0] * 4,
    }
    lstm = _layer(state, engine, 1, 1, gate_clip=LN2)
    _, (h_n, c_n) = lstm(np.ones((1, 1)), (np.zeros((1, 1)), np.array([[2.8]])))
    np.testing.assert_allclose(c_n[0], [1], **CLOSE)
    np.testing.assert_allclose(h_n[0], [3 / 5 * math.tanh(1)], **CLOSE)


# At -ln 3, ln 2 and 3; the first of each two has the defaults.
FUNCTIONS: list[tuple[Any, list[float]]] = [
    ("sigmoid", [1 / 4, 2 / 3, 1 / (1 + math.exp(-3))]),
    ("tanh", [-4 / 5, 3 / 5, math.tanh(3)]),
    ("relu", [0, LN2, 3]),
    ("identity", [-LN3, LN2, 3]),
    ("affine", [-LN3, LN2, 3]),
    (("affine", 2, 1), [1 - 2 * LN3, 1 + 2 * LN2, 7]),
    (("affine", 2), [-2 * LN3, 2 * LN2, 6]),
    ("leaky_relu", [-LN3 / 100, LN2, 3]),
    (("leaky_relu", 0.5), [-LN3 / 2, LN2, 3]),
    ("thresholded_relu", [0, 0, 3]),
    (("thresholded_relu", 0.5), [0, LN2, 3]),
    ("scaled_tanh", [-4 / 5, 3 / 5, math.tanh(3)]),
    (("scaled_tanh", 2, 0.5), [-1, 2 / 3, 2 * math.tanh(1.5)]),
    ("hard_sigmoid", [0.5 - LN3 / 5, 0.5 + LN2 / 5, 1]),
    (("hard_sigmoid", 1 / 6), [0.5 - LN3 / 6, 0.5 + LN2 / 6, 1]),
    ("elu", [-2 / 3, LN2, 3]),
    (("elu", 1.5), [-1, LN2, 3]),
    ("softsign", [-LN3 / (1 + LN3), LN2 / (1 + LN2), 3 / 4]),
    ("softplus", [math.log(4 / 3), LN3, math.log(1 + math.exp(3))]),
]


@pytest.mark.parametrize("function, expected", FUNCTIONS, ids=str)
def test_functions(engine, function, expected):
    """Of three units: i = 1/2 and c_0 = 0, so that c is half of g."""
    state = {
        "weight_ih": np.zeros((12, 1)),
        "weight_hh": np.zeros((12, 3)),
        "bias_ih": [0.0] * 6 + [-LN3, LN2, 3] + [0.0] * 3,
        "bias_hh": [0.0] * 12,
    }
    lstm = _layer(state, engine, 1, 3, cell_activation=function)
    _, (_, c_n) = lstm(np.ones((1, 1)))
    np.testing.assert_allclose(2 * c_n[0], expected, **CLOSE)


def test_zoneout(engine):
    """i, f, g, o = 1/2, 1/2, 3/5, 3/4 at each step; h_0 = 0.4, c_0 = 1, W_hh = 0.

    c' = 0.8, and h' = 3/4 tanh(0.8) is made from c', not from what zoneout leaves. In evaluation
    with 1/4 for h and 1/10 for c: c = 0.8 + 0.1 (1 - 0.8) = 0.82; h = h' + (0.4 - h') / 4. The
    second step begins there: c' = 0.41 + 0.3.
    In training, masks say which values stay: h at the first step, c at the second.
    """
    state = {
        "weight_ih": [[0.0], [0.0], [LN2], [LN3]],
        "weight_hh": np.zeros((4, 1)),
        "bias_ih": [0.0] * 4,
        "bias_hh": [0.0] * 4,
    }
    lstm = _layer(state, engine, 1, 1, zoneout=(0.25, 0.1))
    hx = np.array([[0.4]]), np.array([[1.0]])
    y, (_, c_n) = lstm(np.ones((2, 1)), hx)
    h_1 = 0.75 * 0.75 * math.tanh(0.8) + 0.25 * 0.4
    h_2 = 0.75 * 0.75 * math.tanh(0.71) + 0.25 * h_1
    np.testing.assert_allclose(y[:, 0], [h_1, h_2], **CLOSE)
    np.testing.assert_allclose(c_n[0], [0.9 * 0.71 + 0.1 * 0.82], **CLOSE)

    w_ih, w_hh, bias = (np.array(state[name]) for name in ("weight_ih", "weight_hh", "bias_ih"))
    cell = Cell(w_ih, w_hh, bias)
    noise = [Noise(zone_h=np.array([[1.0], [0.0]]), zone_c=np.array([[0.0], [1.0]]))]
    h, c, y = hx[0][None].copy(), hx[1][None].copy(), np.empty((2, 1))
    stack = load(engine).Stack([cell], 1)
    stack.run(np.ones((2, 1)), np.array([1, 1]), h, c, y, 1, noise=noise)
    # the second step's c' is 0.7, and h' is made from it, although c stays 0.8
    np.testing.assert_allclose(y[:, 0], [0.4, 0.75 * math.tanh(0.7)], **CLOSE)
    np.testing.assert_allclose(c[0], [[0.8]], **CLOSE)
