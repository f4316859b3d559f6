"""The truth, by independent voices: numbers worked by hand, torch's stored and live, onnxruntime's.

Whatever holds for `_numpy` here holds for every engine, and both are run; the other files then
compare engines with `_numpy` alone.
"""

import json
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import onnx_lstm
from support import Case, make_case, run

import fastlstm
from fastlstm.engines import _numpy, load
from fastlstm.engines.contract import Cell
from fastlstm.sequences.packing import batch_sizes_of, rows_of

GOLDENS = np.load(pathlib.Path(__file__).parent / "data" / "torch_lstm.npz")


# ---- by hand --------------------------------------------------------------------------------


def worked_by_hand():
    """One unit, two steps, with gates that are fractions.

    sigmoid(ln n) = n / (n + 1) and tanh(ln n) = (n^2 - 1) / (n^2 + 1). At the first step
    i, f, g, o = 3/4, 1/2, 3/5, 2/3, at the second 1/2, 3/4, 4/5, 1/4. c_0 is such that c_1 = ln 2:
    h_1 = 2/3 * 3/5 = 2/5. Then c_2 = 3/4 ln 2 + 1/2 * 4/5, and exp(2 c_2) = 2^1.5 exp(0.8).
    """
    ln2, ln3 = math.log(2), math.log(3)
    z_1, z_2 = np.array([[ln3, 0, ln2, ln2], [0, ln3, ln3, -ln3]])
    w_hh = np.array([1.0, -1.0, 2.0, -2.0])
    # of x = 1, -1 and h = -1/2, 2/5 before the steps: z = +-w_ih + w_hh h + b
    h_0, h_1 = -0.5, 0.4
    w_ih = (z_1 - z_2 + (h_1 - h_0) * w_hh) / 2
    b = (z_1 + z_2 - (h_1 + h_0) * w_hh) / 2
    e = 2**1.5 * math.exp(0.8)
    c_2 = 0.75 * ln2 + 0.4
    case = Case(
        Cell(w_ih[:, None], w_hh[:, None], b),
        x=np.array([[1.0], [-1.0]]),
        batch_sizes=np.array([1, 1]),
        h=np.array([[h_0]]),
        c=np.array([[2 * (ln2 - 0.75 * 0.6)]]),
        reverse=False,
    )
    h_2 = 0.25 * (e - 1) / (e + 1)
    return case, {"y": [[h_1], [h_2]], "h": [[h_2]], "c": [[c_2]]}


def _assert_close(got, expected, rtol=0, atol=1e-15):
    assert got.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol, atol, err_msg=name)


def test_two_steps_by_hand():
    case, expected = worked_by_hand()
    _assert_close(run(_numpy, case), expected)


def test_reverse_by_hand():
    case, expected = worked_by_hand()
    case = case._replace(x=case.x[::-1], reverse=True)
    _assert_close(run(_numpy, case), expected | {"y": expected["y"][::-1]})


def test_ragged_by_hand():
    """The second of two sequences has one step only, so its state stays h_1, c_1."""
    case, expected = worked_by_hand()
    (h_1,), (h_2,) = expected["y"]
    case = case._replace(
        x=np.array([[1.0], [1.0], [-1.0]]),
        batch_sizes=np.array([2, 1]),
        h=np.repeat(case.h, 2, axis=0),
        c=np.repeat(case.c, 2, axis=0),
    )
    c_n = [expected["c"][0], [math.log(2)]]
    _assert_close(run(_numpy, case), {"y": [[h_1], [h_1], [h_2]], "h": [[h_2], [h_1]], "c": c_n})


def test_projection_by_hand():
    """Two equal units, of which the projection takes a weighted mean, act as one."""
    case, expected = worked_by_hand()
    doubled = case.cell.map(lambda array: array.repeat(2, axis=0))
    case = case._replace(cell=doubled, c=case.c.repeat(2, axis=1))
    case = case.with_cell(w_hr=np.array([[0.25, 0.75]]))
    expected["c"] = np.repeat(expected["c"], 2, axis=1)
    _assert_close(run(_numpy, case), expected)


def test_layer_by_hand(engine, dtype, tolerance):
    """The whole layer is run: names of the parameters, both biases, states in and out."""
    case, expected = worked_by_hand()
    lstm = fastlstm.LSTM(1, 1, dtype=dtype, engine=engine)
    lstm.load_state_dict(
        {
            "weight_ih_l0": case.cell.w_ih,
            "weight_hh_l0": case.cell.w_hh,
            "bias_ih_l0": 3 * case.cell.b,
            "bias_hh_l0": -2 * case.cell.b,
        }
    )
    x, h_0, c_0 = (values.astype(dtype) for values in (case.x, case.h, case.c))
    output, (h_n, c_n) = lstm(x, (h_0, c_0))
    got = {"y": output, "h": h_n, "c": c_n}
    # the two biases are a rounding each, of up to 3 |b|, before they are summed
    _assert_close(got, expected, **tolerance(terms=3 + 6, magnitude=3 * np.abs(case.cell.b).max()))


# ---- torch, stored --------------------------------------------------------------------------


def _golden(name):
    config = json.loads(str(GOLDENS[f"{name}/config"]))
    flat, state_dict = GOLDENS[f"{name}/parameters"], {}
    for key, shape in config["shapes"].items():
        state_dict[key], flat = flat[: math.prod(shape)].reshape(shape), flat[math.prod(shape) :]
    arrays = {
        key: GOLDENS[f"{name}/{key}"]
        for key in ("input", "h_0", "c_0", "output", "h_n", "c_n")
        if f"{name}/{key}" in GOLDENS
    }
    return config, state_dict, arrays


def bound_of(tolerance, layer, x):
    """`tolerance` of a layer whose parameters are U(+-1/sqrt(H)), as torch draws them.

    Both sides err, hence 2; an upper layer's input carries the lower one's error.
    """
    layers = getattr(layer, "num_layers", 1)
    P = getattr(layer, "proj_size", 0) or layer.hidden_size
    width = P * (1 + getattr(layer, "bidirectional", False)) if layers > 1 else 0
    squares = max((np.asarray(x, float) ** 2).sum(-1).max(), width) + P + 2
    terms = max(layer.input_size, width) + P + 1 + layer.hidden_size * (P < layer.hidden_size)
    bound = tolerance(terms=terms, magnitude=np.sqrt(squares / layer.hidden_size))
    return {key: 2 * layers * value for key, value in bound.items()}


@pytest.mark.parametrize(
    "name", sorted(key.removesuffix("/config") for key in GOLDENS if key.endswith("/config"))
)
def test_stored_torch(engine, name):
    from support import tolerance

    config, state_dict, arrays = _golden(name)
    kind = fastlstm.LSTMCell if config.get("cell") else fastlstm.LSTM
    layer = kind(**config["layer"], dtype=config["dtype"], engine=engine)
    layer.load_state_dict(state_dict)
    hx = (arrays["h_0"], arrays["c_0"]) if "h_0" in arrays else None
    if config.get("cell"):
        h_n, c_n = layer(arrays["input"], hx)
        got = {"h_n": h_n, "c_n": c_n}
    else:
        output, (h_n, c_n) = layer(arrays["input"], hx, lengths=config.get("lengths"))
        got = {"output": output, "h_n": h_n, "c_n": c_n}

    def both(terms, magnitude):
        return tolerance(engine, config["dtype"], terms, magnitude)

    _assert_close(got, {key: arrays[key] for key in got}, **bound_of(both, layer, arrays["input"]))


def test_stored_torch_is_not_trivial():
    """The file has every option, and no answer is constant."""
    cases = [_golden(key.removesuffix("/config")) for key in GOLDENS if key.endswith("/config")]
    seen = {key for config, *_ in cases for key, value in config["layer"].items() if value}
    assert seen == {
        "input_size", "hidden_size", "num_layers", "batch_first", "bidirectional", "proj_size"
    }  # fmt: skip
    assert {config["layer"].get("bias", True) for config, *_ in cases} == {True, False}
    assert all(np.ptp(arrays["c_n"]) > 0 for *_, arrays in cases if arrays["c_n"].size > 1)


# ---- torch, live ----------------------------------------------------------------------------

LAYERS = st.fixed_dictionaries(
    {
        "input_size": st.integers(1, 20),
        "hidden_size": st.integers(1, 35),
        "num_layers": st.integers(1, 3),
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "bidirectional": st.booleans(),
        "proj_size": st.integers(0, 20),
    }
).map(lambda options: options | {"proj_size": options["proj_size"] % options["hidden_size"]})

CALLS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["padded", "unbatched", "lengths", "our pack", "torch's pack"]),
        "lengths": st.lists(st.integers(1, 9), min_size=1, max_size=15),
        "longer": st.integers(0, 2),
        "states": st.booleans(),
        "enforce_sorted": st.booleans(),
        "seed": st.integers(0, 2**32 - 1),
    }
)


@settings(max_examples=60, deadline=None)
@given(options=LAYERS, call=CALLS)
# torch says this once: its fast path has no projections
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_live_torch(torch, engine, dtype, tolerance, options, call):
    from torch.nn.utils import rnn

    with torch.random.fork_rng():
        torch.manual_seed(call["seed"])
        theirs = torch.nn.LSTM(**options, dtype=getattr(torch, dtype))
    ours = fastlstm.LSTM(**options, dtype=dtype, engine=engine)
    ours.load_state_dict(theirs.state_dict())

    rng = np.random.default_rng(call["seed"])
    lengths, first = call["lengths"], options["batch_first"]
    if call["kind"].endswith("pack") and call["enforce_sorted"]:
        lengths = sorted(lengths, reverse=True)
    T, B = max(lengths) + call["longer"], len(lengths)
    batch = () if call["kind"] == "unbatched" else (B,)
    shape = (T, *batch) if not (first and batch) else (B, T)
    x = rng.standard_normal((*shape, options["input_size"])).astype(dtype)
    hx = None
    if call["states"]:
        cells = options["num_layers"] * (1 + options["bidirectional"])
        sizes = options["proj_size"] or options["hidden_size"], options["hidden_size"]
        hx = tuple(rng.uniform(-1, 1, (cells, *batch, size)).astype(dtype) for size in sizes)

    given_ours, given_theirs, only_ours = x, torch.from_numpy(x), {}
    if call["kind"] not in ("padded", "unbatched"):
        sort = call["enforce_sorted"] and call["kind"] != "lengths"
        given_theirs = rnn.pack_padded_sequence(given_theirs, lengths, first, sort)
        given_ours = {
            "lengths": x,
            "our pack": fastlstm.pack_padded_sequence(x, lengths, first, sort),
            "torch's pack": given_theirs,
        }[call["kind"]]
        only_ours = {"lengths": lengths} if call["kind"] == "lengths" else {}
    with torch.inference_mode():
        output, (h_n, c_n) = theirs(given_theirs, hx and tuple(map(torch.from_numpy, hx)))
    got, (got_h, got_c) = ours(given_ours, hx, **only_ours)

    if call["kind"].endswith("pack"):
        assert isinstance(got, fastlstm.PackedSequence)
        for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
            np.testing.assert_array_equal(getattr(got, name), getattr(output, name), err_msg=name)
        got, output = got.data, output.data
    elif call["kind"] == "lengths":
        output, _ = rnn.pad_packed_sequence(output, first, total_length=T)
    got = {"output": got, "h_n": got_h, "c_n": got_c}
    expected = {"output": output.numpy(), "h_n": h_n.numpy(), "c_n": c_n.numpy()}
    for name in got:
        assert (got[name].shape, got[name].dtype) == (expected[name].shape, np.dtype(dtype))
    _assert_close(got, expected, **bound_of(tolerance, ours, x))


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 35)),
    batch=st.sampled_from([(), (1,), (5,), (16,)]),
    bias=st.booleans(),
    states=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_live_torch_cell(torch, engine, dtype, tolerance, sizes, batch, bias, states, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        theirs = torch.nn.LSTMCell(*sizes, bias, dtype=getattr(torch, dtype))
    ours = fastlstm.LSTMCell(*sizes, bias, dtype=dtype, engine=engine)
    ours.load_state_dict(theirs.state_dict())
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*batch, sizes[0])).astype(dtype)
    hx = None
    if states:
        hx = tuple(rng.uniform(-1, 1, (*batch, sizes[1])).astype(dtype) for _ in range(2))
    with torch.inference_mode():
        h, c = theirs(torch.from_numpy(x), hx and tuple(map(torch.from_numpy, hx)))
    got_h, got_c = ours(x, hx)
    expected = {"h": h.numpy(), "c": c.numpy()}
    assert got_h.shape == expected["h"].shape and got_c.shape == expected["c"].shape
    _assert_close({"h": got_h, "c": got_c}, expected, **bound_of(tolerance, ours, x))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
def test_live_torch_with_nan_and_inf(torch, engine, dtype, tolerance):
    """The same values are nan or saturated, and the same sequences untouched, as in torch."""
    theirs = torch.nn.LSTM(3, 5, 2, dtype=getattr(torch, dtype))
    ours = fastlstm.LSTM(3, 5, 2, dtype=dtype, engine=engine)
    ours.load_state_dict(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((4, 6, 3)).astype(dtype)
    x[1, 0, 1], x[2, 1, 0], x[1, 2, 2], x[1, 4], x[1, 5, :2] = (
        np.nan, np.inf, -np.inf, np.inf, (np.inf, -np.inf)
    )  # fmt: skip
    with torch.inference_mode():
        expected, (h_n, c_n) = theirs(torch.from_numpy(x))
    got, (got_h, got_c) = ours(x)
    finite = np.where(np.isfinite(x), x, 0)
    bound = bound_of(tolerance, ours, finite)
    _assert_close(
        {"output": got, "h_n": got_h, "c_n": got_c},
        {"output": expected.numpy(), "h_n": h_n.numpy(), "c_n": c_n.numpy()},
        **bound,
    )
    assert np.isnan(got[1:, 0]).all() and np.isfinite(got[0]).all() and np.isfinite(got[:, 3]).all()


# ---- onnxruntime ----------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_onnxruntime_one_direction(engine, direction):
    lengths = [6, 6, 4, 1]
    case = make_case(I=3, H=9, lengths=lengths, reverse=direction == "reverse", dtype="float32")
    step, sequence = rows_of(np.arange(4), case.batch_sizes)
    x = np.zeros((6, 4, 3), np.float32)
    x[step, sequence] = case.x
    weights = case.cell.w_ih, case.cell.w_hh, case.cell.b
    y, h, c = onnx_lstm(direction, [weights], x, lengths, case.h[None], case.c[None])
    bound = {key: 2 * value for key, value in case.tolerance(engine).items()}
    _assert_close(
        run(load(engine), case), {"y": y[step, 0, sequence], "h": h[0], "c": c[0]}, **bound
    )


@pytest.mark.parametrize("lengths", [[5, 5, 5], [2, 5, 3], [1, 4, 4]])
def test_onnxruntime_both_directions(engine, lengths):
    """Lengths come in any order, and may all be shorter than the padding."""
    from support import tolerance

    lstm = fastlstm.LSTM(3, 7, bidirectional=True, engine=engine, seed=1)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((5, 3, 3)).astype(np.float32)
    h, c = (rng.uniform(-1, 1, (2, 3, 7)).astype(np.float32) for _ in range(2))
    p = lstm.state_dict()
    weights = [
        (p["weight_ih" + s], p["weight_hh" + s], p["bias_ih" + s] + p["bias_hh" + s])
        for s in ("_l0", "_l0_reverse")
    ]
    y, h_n, c_n = onnx_lstm("bidirectional", weights, x, lengths, h, c)
    output, (got_h, got_c) = lstm(x, (h, c), lengths=lengths)
    assert batch_sizes_of(np.array(lengths)).sum() == sum(lengths)

    def both(terms, magnitude):
        return tolerance(engine, "float32", terms, magnitude)

    _assert_close(
        {"y": output, "h": got_h, "c": got_c},
        {"y": y.transpose(0, 2, 1, 3).reshape(5, 3, 14), "h": h_n, "c": c_n},
        **bound_of(both, lstm, x),
    )
