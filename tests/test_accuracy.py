"""How near gates, c and h are to exact numbers, relatively, over all numbers and in every engine.

c has no bound: what a shut gate lets through must be small beside c, not beside 1. Each value is
seen through a layer of one unit whose pre-activations are its inputs, however it is run.
"""

import numpy as np
import pytest

import fastlstm

# The relative error of a sigmoid or a tanh, in units of u = eps / 2. Of a small sigmoid: what is
# left of the exponent 0.4, Horner's rule 0.9, 1 + e 0.5, the division 0.5. The numerator of a tanh
# has one rounding more, and doubles its error where it takes most off (1 - 1/2). Found are 2.5 and
# 3.6. NumPy says of its own functions that they are within 4 ulp.
RELATIVE = {"numpy": 8, "numba": 4, "native": 4}
FAR = {"float32": 100, "float64": 800}  # of this z a sigmoid is 1, of -z it is below all numbers
WAYS = ["call", "vjp", "stream"]


def one_step(engine, z, c, way="call"):
    """h and c after a step of N sequences of one unit, from z (N, 4) of i, f, g, o and c (N)."""
    lstm = fastlstm.LSTM(4, 1, bias=False, dtype=z.dtype, engine=engine)
    lstm.weight_ih_l0, lstm.weight_hh_l0 = np.eye(4, dtype=z.dtype), np.zeros((4, 1), z.dtype)
    states = np.zeros((1, len(z), 1), z.dtype), c.reshape(1, -1, 1)
    if way == "stream":
        stream = lstm.stream(len(z))
        stream.state = states
        stream.step(z)
        h, c = stream.state
    elif way == "vjp":
        (_, (h, c)), _ = lstm.vjp(z[np.newaxis], states)
    else:
        _, (h, c) = lstm(z[np.newaxis], states)
    return h[0, :, 0], c[0, :, 0]


def sigmoid(z):
    """Computed in the widest numbers, because NumPy's float64 functions err by an ulp."""
    z = z.astype(np.longdouble)
    return np.exp(np.minimum(z, 0)) / (1 + np.exp(-np.abs(z)))


def tanh(x):
    return np.tanh(x.astype(np.longdouble))


def numbers(dtype):
    """Finite numbers of every size, densest where gates are neither open nor shut."""
    if dtype == "float32":
        every = np.arange(0, 2**32, 9001, dtype=np.uint32).view(np.float32)
    else:
        every = np.arange(0, 2**64 - 2**45, 2**45, dtype=np.uint64).view(np.float64)
    near = np.concatenate([np.linspace(-b, b, 100_001) for b in (1, 20, FAR[dtype])])
    return np.concatenate([every[np.isfinite(every)], near.astype(dtype)])


def assert_relative(got, exact, roundings):
    """Assert so many roundings at most, relatively; results below all normal numbers may be 0."""
    kind = np.finfo(got.dtype)
    bound = roundings * kind.eps / 2 * np.abs(exact)
    bound = np.where(np.abs(exact) < kind.tiny * (1 + 8 * kind.eps), kind.tiny, bound)
    over = np.abs(got.astype(np.longdouble) - exact) / bound
    assert over.max() <= 1, (got[over.argmax()], exact[over.argmax()])


ACTIVATIONS = {  # which z of i, f, g, o it is, those of the others in FAR, c_0, where it is seen
    "i": (sigmoid, (None, -1, 1, -1), 0, "c"),
    "f": (sigmoid, (-1, None, 0, -1), 1, "c"),
    "g": (tanh, (1, -1, None, -1), 0, "c"),
    "o": (sigmoid, (-1, 1, 0, None), 100, "h"),
    "tanh(c)": (tanh, (-1, 1, 0, 1), None, "h"),
}


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(engine, dtype, name, way):
    """Each of a cell's five is right over all numbers, at sigmoid(-80) and tanh(1e-30) too.

    The ways differ in what they do with an activation, not in how they compute it, so one of them
    sees every number and the other two every eighth.
    """
    function, z, c, seen = ACTIVATIONS[name]
    x = numbers(dtype)[:: 1 if way == "call" else 8]
    z = [x if side is None else np.full_like(x, side * FAR[dtype]) for side in z]
    c = x if c is None else np.full_like(x, c)
    got = dict(zip("hc", one_step(engine, np.stack(z, axis=1), c, way), strict=True))[seen]
    assert_relative(got, function(x), RELATIVE[engine])
    assert np.abs(got).max() <= 1


@pytest.mark.parametrize("way", WAYS)
def test_c_and_h(engine, dtype, way):
    """Gates of all sizes meet; c and g have the same sign, so that no terms cancel."""
    rng = np.random.default_rng(0)
    count, most = 100_000, {"float32": 60, "float64": 600}[dtype]
    z = rng.uniform(-1, 1, (count, 4)) * 10 ** rng.uniform(-3, np.log10(most), (count, 4))
    z, c = z.astype(dtype), (10 ** rng.uniform(-most / 8, most / 2, count)).astype(dtype)
    z[:, 2] = np.abs(z[:, 2])
    h, new_c = one_step(engine, z, c, way)
    i, f, _, o = sigmoid(z).T
    exact = f * c + i * tanh(z[:, 2])
    each = RELATIVE[engine]
    assert_relative(new_c, exact, 2 * each + 3)
    assert_relative(h, o * np.tanh(exact), 4 * each + 5)


@pytest.mark.parametrize(
    "z_f, c, expected",
    [
        (-40, 1e8, 4.248354255291589e-10),
        (-40, 2e6, 8.496708510583178e-12),
        (-40, 1e12, 4.24835425526603e-06),
        (-10, 1000, 0.045366706563237796),
        (-80, 1e30, 1.804851387649439e-05),
        ("open", 1e-6, 9.999999999996667e-07),
        ("open", 1e-8, 1e-8),
        ("open", -1e-30, -1e-30),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_a_memory_behind_a_shut_gate(engine, dtype, z_f, c, expected, way):
    """A counter that is to be forgotten is forgotten, and a small one still counts."""
    far = FAR[dtype]
    z = np.array([[-far, far if z_f == "open" else z_f, 0, far]], dtype)
    h, _ = one_step(engine, z, np.array([c], dtype), way)
    np.testing.assert_allclose(h, expected, rtol=12 * np.finfo(dtype).eps)


def test_an_open_gate_is_one(engine, dtype):
    """It keeps c to its last bit over any number of steps, and |h| never exceeds 1."""
    rng = np.random.default_rng(0)
    lstm = fastlstm.LSTM(1, 64, dtype=dtype, engine=engine)
    far, zeros = FAR[dtype], np.zeros(64)
    gates = {"bias_ih_l0": np.concatenate([zeros - far, zeros + far, zeros, zeros + far])}
    lstm.load_state_dict({n: gates.get(n, 0) + 0 * v for n, v in lstm.state_dict().items()})
    c = rng.standard_normal((1, 3, 64)) * 10 ** rng.uniform(-3, 3, (1, 3, 64))
    c = c.astype(dtype)
    y, (_, c_n) = lstm(np.zeros((300, 3, 1), dtype), (np.zeros_like(c), c))
    np.testing.assert_array_equal(c_n, c)
    assert np.abs(y).max() == 1


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("way", WAYS)
def test_what_is_infinite_as_torch_has_it(torch, engine, dtype, way):
    """c is infinite, nan or the largest number; the gates are open, shut or in between."""
    most, shut = np.finfo(dtype).max, -FAR[dtype]
    z, some = [0, -40, 40, -80, shut, -1e4, 1e4], [-np.inf, np.inf, np.nan, most, -most, 1e30, 0]
    rows = np.array(np.meshgrid(z, z, [0, 1, -1e4], [0, -40, 1e4], some)).reshape(5, -1).T
    z, c = rows[:, :4].astype(dtype), rows[:, 4].astype(dtype)
    i, f, g, o = torch.from_numpy(z).T
    expected = torch.sigmoid(f) * torch.from_numpy(c) + torch.sigmoid(i) * torch.tanh(g)
    h, got = one_step(engine, z, c, way)
    bound = {"rtol": 32 * np.finfo(dtype).eps, "atol": 0}
    np.testing.assert_allclose(got, expected.numpy(), **bound)
    np.testing.assert_allclose(h, (torch.sigmoid(o) * torch.tanh(expected)).numpy(), **bound)
    assert not np.isnan(got[~np.isnan(c) & (z[:, 1] > shut)]).any()


@pytest.mark.parametrize("checkpoint_every", [None, 1])
def test_gradients_through_a_shut_gate(engine, dtype, checkpoint_every):
    """dc_0 = f dc and dz_f = f c_0 (1 - f) dc are as accurate, relatively, as their gates."""
    z_f = np.linspace(-80, 0, 10_001).astype(dtype)
    far = FAR[dtype]
    z = np.stack([np.full_like(z_f, value) for value in (-far, 0, 0, -far)], axis=1)
    z[:, 1] = z_f
    lstm = fastlstm.LSTM(4, 1, bias=False, dtype=dtype, engine=engine)
    lstm.weight_ih_l0, lstm.weight_hh_l0 = np.eye(4, dtype=dtype), np.zeros((4, 1), dtype)
    c = np.full((1, len(z), 1), 1e6, dtype)
    _, pullback = lstm.vjp(z[np.newaxis], (np.zeros_like(c), c), checkpoint_every=checkpoint_every)
    dx, (_, dc_0) = pullback(None, (None, np.ones_like(c)))
    f, each = sigmoid(z_f), RELATIVE[engine]
    assert_relative(dc_0[0, :, 0], f, each)
    assert_relative(dx[0, :, 1], f * 1_000_000 * sigmoid(-z_f), 2 * each + 4)
