"""Whole models give one answer, bit for bit, however the work is cut.

However the work is cut: batches, positions, chunks and steps, lengths, threads, instruction sets.
What is asked of an LSTM alone stands in test_engines.py and test_native.py.
"""

import hashlib
import json

import numpy as np
import pytest
from support import assert_same_bits
from test_native import HERE, python

import fastlstm
from fastlstm import LSTM, Embedding, Last, Linear, ReLU, Sequential, Sigmoid, Softmax, Tanh
from fastlstm.engines import load

I, T, B = 5, 13, 150  # noqa: E741 (the legend's name)


def models(engine, dtype="float32", num_threads=None, batch_first=False):
    """Every layer that computes, in models as they are built."""
    how = {"dtype": dtype, "engine": engine, "num_threads": num_threads, "seed": 1}
    order = {"batch_first": batch_first}
    models = {
        "head": Sequential(LSTM(I, 21, **order, **how), Linear(21, 5, **how)),
        "large": Sequential(
            LSTM(I, 90, **order, **how), ReLU(), Linear(90, 300, bias=False, **how)
        ),
        "softmax": Sequential(
            LSTM(I, 21, 2, bidirectional=True, **order, **how), Linear(42, 70, **how), Softmax()
        ),
        "classes": Sequential(
            LSTM(I, 21, proj_size=9, **order, **how),
            Last(**order),
            Tanh(),
            Linear(9, 33, **how),
            Softmax(1),
        ),  # fmt: skip
        "gate": Sequential(
            Linear(I, 17, **how), LSTM(17, 8, **order, **how), Linear(8, 1, **how), Sigmoid()
        ),
        "widths": Sequential(
            LSTM(I, [33, 12, 12], learn_initial_state=True, **order, **how), Linear(12, 3, **how)
        ),
        "reverse": Sequential(LSTM(I, [24, 90], reverse=True, **order, **how), Tanh()),
    }
    models["widths"][0].c_0_l0 = np.linspace(-1, 1, 33)
    return {name: model.eval() for name, model in models.items()}


NAMES = list(models("numpy"))


def inputs(dtype="float32"):
    return np.random.default_rng(0).standard_normal((T, B, I)).astype(dtype)


def of_sequences(name, output):
    """The output with its axis of sequences first."""
    return output if name == "classes" else output.swapaxes(0, 1)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(params=[1, 2])
def num_threads(request):
    return request.param


def test_batches_and_positions(exact_engine, dtype, name, num_threads):
    model, x = models(exact_engine, dtype, num_threads)[name], inputs(dtype)
    whole = of_sequences(name, models(exact_engine, dtype, 1)[name](x))
    assert np.isfinite(whole).all() and np.ptp(whole) > 0
    for some in (slice(0, 1), slice(7, 9), slice(3, 150, 7), slice(149, None, -1), slice(5, 140)):
        assert_same_bits(of_sequences(name, model(x[:, some])), whole[some])


def test_predict_of_any_batch_size(exact_engine, name):
    """Its docstring promises the same results."""
    model = models(exact_engine, batch_first=True)[name]
    data = inputs().swapaxes(0, 1)
    whole = fastlstm.predict(model, data, batch_size=B)
    for batch_size in (1, 7, 64):
        assert_same_bits(fastlstm.predict(model, data, batch_size=batch_size), whole)


def test_lengths(exact_engine, dtype, name):
    """A sequence gives among others of other lengths what it gives alone."""
    model, x = models(exact_engine, dtype)[name], inputs(dtype)
    lengths = np.random.default_rng(1).integers(1, T + 1, B)
    whole = of_sequences(name, model(x, lengths=lengths))
    for n in (0, 1, 77, B - 1):
        alone = of_sequences(name, model(x[: lengths[n], n : n + 1]))[0]
        assert_same_bits(whole[n] if name == "classes" else whole[n, : lengths[n]], alone)


@pytest.mark.parametrize("head", ["head", "large", "widths"])
def test_steps_and_chunks(exact_engine, dtype, head, num_threads):
    """The layers behind an LSTM's stream run on each step or chunk."""
    model, x = models(exact_engine, dtype, num_threads)[head], inputs(dtype)
    whole, rest = model(x), model[1:]
    steps, chunks = model[0].stream(B), model[0].stream(B)
    assert_same_bits(np.stack([rest(steps.step(x_t)) for x_t in x]), whole)
    pieces = [rest(chunks.run(piece)) for piece in np.split(x, [1, 2, 7])]
    assert_same_bits(np.concatenate(pieces), whole)


def test_what_vjp_returns(exact_engine, dtype, name):
    model, x = models(exact_engine, dtype)[name], inputs(dtype)
    assert_same_bits(model.vjp(x)[0], model(x))


def digests():
    """Print a digest of every model's answer on this instruction set."""
    bits = {}
    for dtype in ("float32", "float64"):
        for name, model in models("native", dtype).items():
            bits[f"{name} {dtype}"] = hashlib.sha256(model(inputs(dtype)).tobytes()).hexdigest()
    print(json.dumps(bits))


@pytest.mark.skipif(HERE[0] != "avx512", reason="compares AVX2 with AVX-512")
def test_instruction_sets(native):
    call = ("-c", "import test_one_answer; test_one_answer.digests()")
    wide, narrow = (json.loads(python(*call, FASTLSTM_ISA=isa)) for isa in HERE[:2])
    assert wide == narrow


# ---- the linear product ---------------------------------------------------------------------

SIZES = [(1, 1), (3, 5), (40, 3), (9, 8), (70, 64), (65, 65), (128, 129), (33, 200), (500, 16)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_linear_of_any_rows(exact_engine, dtype, size, bias):
    """Each row is near the truth, and the same whatever rows are beside it."""
    one, many = (
        Linear(*size, bias, dtype=dtype, engine=exact_engine, num_threads=n, seed=0) for n in (1, 3)
    )
    x = np.random.default_rng(2).standard_normal((331, size[0])).astype(dtype)
    whole = one(x)
    truth = x.astype(np.float64) @ one.weight.T.astype(np.float64)
    truth += one.bias if bias else 0
    magnitude = np.abs(x).astype(np.float64) @ np.abs(one.weight.T) + 1
    assert (np.abs(whole - truth) <= (size[0] + 1) * np.finfo(dtype).eps * magnitude).all()
    for rows in (1, 2, 3, 4, 5, 6, 8, 63, 64, 65, 130, 331):
        for start in (0, 331 - rows):
            piece = slice(start, start + rows)
            assert_same_bits(one(x[piece]), whole[piece])
            assert_same_bits(many(x[piece]), whole[piece])


def test_linear_begins_with_b_and_adds_x_in_order(exact_engine):
    """One answer follows from this rule; rounding shows the order of a sum."""
    linear = Linear(4, 1, engine=exact_engine)
    linear.weight, linear.bias = [[1.0, 1.0, 1.0, 1.0]], [2.0**24]
    x = np.array([[1, 1, -(2.0**24), 3]], np.float32)
    assert linear(x)[0, 0] == 3  # 2^24 + 1 is 2^24 twice; any other order gives 4 or 5


def test_linear_of_rows_that_lie_apart(engine, dtype):
    linear = Linear(6, 70, dtype=dtype, engine=engine, seed=0)
    x = np.random.default_rng(3).standard_normal((9, 4, 6)).astype(dtype)
    for view in (x[::2], x[:, 1:2], x.swapaxes(0, 1), x[::-1], x[:0]):
        np.testing.assert_allclose(linear(view), linear(view.copy()), rtol=1e-6, atol=1e-6)
        assert linear(view).shape == (*view.shape[:-1], 70)


def test_linear_chooses_its_engine(engine):
    linear = Linear(2, 3, engine=engine)
    assert linear.engine == engine
    with pytest.raises(ValueError, match="engine must be one of auto, native, numba, numpy"):
        Linear(2, 3, engine="blas")
    with pytest.raises(ValueError, match="num_threads must be from 1"):
        Linear(2, 3, num_threads=0)


def test_linear_sees_changed_parameters(engine):
    linear, x = Linear(2, 3, engine=engine, seed=0), np.ones((1, 2), np.float32)
    linear(x)
    linear.weight = np.zeros((3, 2))
    linear.bias = [1, 2, 3]
    assert linear(x).tolist() == [[1, 2, 3]]


def test_loaded_models_take_their_engine(engine, tmp_path):
    model = Sequential(Embedding(4, 3), LSTM(3, 4), Linear(4, 2))
    fastlstm.save(model, tmp_path / "model.npz")
    loaded = fastlstm.load(tmp_path / "model.npz", engine=engine)
    assert [loaded[1].engine, loaded[2].engine] == [engine, engine]


# ---- element by element ---------------------------------------------------------------------


@pytest.mark.parametrize("layer", [Sigmoid(), Tanh(), ReLU(), Softmax()], ids=repr)
def test_activations_wherever_values_lie(dtype, layer):
    """Values may lie alone, among others, backwards, apart or transposed."""
    x = (np.random.default_rng(4).standard_normal((64, 33)) * 8).astype(dtype)
    whole = layer(x)
    for n in range(64):
        assert_same_bits(layer(x[n]), whole[n])
        assert_same_bits(layer(x[n : n + 3]), whole[n : n + 3])
    apart = np.zeros((64, 33, 3), dtype)
    apart[..., 1] = x
    backwards = np.ascontiguousarray(x[:, ::-1])[:, ::-1]
    for view in (np.asfortranarray(x), apart[..., 1], backwards, x[::-1][::-1]):
        assert_same_bits(layer(view), whole)
    if not isinstance(layer, Softmax):
        for k in range(33):
            assert_same_bits(layer(x[:, k]), whole[:, k])


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_softmax_along_any_axis(dtype, dim):
    """It is the softmax of each of its lines alone."""
    x = np.random.default_rng(5).standard_normal((9, 20, 37)).astype(dtype)
    lines, whole = np.moveaxis(x, dim, -1), np.moveaxis(Softmax(dim)(x), dim, -1)
    for place in np.ndindex(*lines.shape[:2]):
        assert_same_bits(whole[place], Softmax()(lines[place]))


def test_the_contract(engine):
    """Engines take rows that lie apart, and write no further than they should."""
    module = load(engine)
    w, b = np.arange(15, dtype=np.float32).reshape(5, 3), np.ones(5, np.float32)
    product = module.Product(w, b)
    x = np.arange(24, dtype=np.float32).reshape(4, 6)[:, 1:4]
    y = np.full((4, 9), 7, np.float32)
    product.run(x, y[:, 2:7], 2)
    np.testing.assert_allclose(y[:, 2:7], x @ w.T + b)
    assert (y[:, :2] == 7).all() and (y[:, 7:] == 7).all()
