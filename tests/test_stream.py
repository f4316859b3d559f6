"""Streams: step by step, chunk by chunk, and the state between."""

import copy
import inspect
import pickle
import pydoc
import re

import numpy as np
import pytest
from support import assert_same_bits

from fastlstm import LSTM, LSTMCell, Sequential, Stream

OPTIONS = {
    "plain": {},
    "layers": dict(num_layers=3),
    "projection": dict(num_layers=2, proj_size=2),
    "no_bias": dict(bias=False),
    "batch_first": dict(num_layers=2, batch_first=True),
}
T, B = 7, 3


@pytest.fixture(params=OPTIONS, scope="module")
def options(request):
    return OPTIONS[request.param]


def _input(steps=T, rows=B, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal((steps, rows, 4)).astype(dtype)


def _close(tolerance):
    bound = tolerance(terms=4 + 5 + 5 + 1, magnitude=2)
    return lambda got, expected: np.testing.assert_allclose(got, expected, **bound)


def test_steps_are_the_sequence(engine, dtype, tolerance, options):
    lstm = LSTM(4, 5, **options, dtype=dtype, engine=engine, seed=0)
    close, x = _close(tolerance), _input(dtype=dtype)
    output, (h_n, c_n) = lstm(x.swapaxes(0, 1) if lstm.batch_first else x)
    output = output.swapaxes(0, 1) if lstm.batch_first else output
    stream = lstm.stream(B)
    for t in range(T):
        y = stream.step(x[t])
        assert (y.shape, y.dtype) == (output[t].shape, output.dtype)
        close(y, output[t])
    h, c = stream.state
    close(h, h_n)
    close(c, c_n)


def test_step_into_an_array(engine, dtype, options):
    """`out` is filled and returned, the input and what was given before stay."""
    lstm = LSTM(4, 5, **options, dtype=dtype, engine=engine, seed=0)
    one, other, x = lstm.stream(B), lstm.stream(B), _input(dtype=dtype)
    x.flags.writeable = False
    P = lstm.proj_size or 5
    outs = np.full((T, B, P), np.nan, dtype)
    for t in range(T):
        assert one.step(x[t], out=outs[t]) is not None
        expected = other.step(x[t])
        assert_same_bits(outs[t], expected)
        assert np.isnan(outs[t + 1 :]).all()
    out = outs[0]
    assert one.step(x[0], out=out) is out


def test_results_are_not_overwritten_by_the_next_step(engine):
    stream = LSTM(4, 5, 2, engine=engine, seed=0).stream(B)
    x = _input()
    first = stream.step(x[0])
    kept, (h, c) = first.copy(), stream.state
    h_kept, c_kept = h.copy(), c.copy()
    stream.step(x[1])
    stream.run(x)
    for a, b in [(first, kept), (h, h_kept), (c, c_kept)]:
        assert_same_bits(a, b)


@pytest.mark.parametrize("cuts", [[0, 7], [0, 1, 7], [0, 3, 3, 5, 7], list(range(8))], ids=str)
def test_chunks_are_the_sequence(engine, dtype, tolerance, options, cuts):
    """There are empty chunks too, and single steps in between."""
    lstm = LSTM(4, 5, **options, dtype=dtype, engine=engine, seed=0)
    swap = (lambda a: a.swapaxes(0, 1)) if lstm.batch_first else (lambda a: a)
    close, x = _close(tolerance), _input(dtype=dtype)
    output, (h_n, c_n) = lstm(swap(x))
    stream = lstm.stream(B)
    chunks = [swap(x[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    results = [stream.run(chunk) for chunk in chunks]
    assert [len(swap(y)) for y in results] == list(np.diff(cuts))
    close(np.concatenate([swap(y) for y in results]), swap(output))
    h, c = stream.state
    close(h, h_n)
    close(c, c_n)
    y = stream.step(x[0])
    longer, _ = lstm(swap(np.concatenate([x, x[:1]])))
    close(y, swap(longer)[-1])


def test_save_and_resume(engine, options):
    """A state set later, in another stream, goes on bit for bit."""
    lstm = LSTM(4, 5, **options, engine=engine, seed=0)
    x, stream = _input(), lstm.stream(B)
    for t in range(3):
        stream.step(x[t])
    saved = stream.state
    h, c = (a.copy() for a in saved)
    expected = [stream.step(x[t]) for t in range(3, T)]
    other = lstm.stream(B)
    other.step(x[6])
    other.state = saved
    for t, y in zip(range(3, T), expected, strict=True):
        assert_same_bits(other.step(x[t]), y)
    assert_same_bits(saved[0], h)  # neither by `step` nor by assigning
    assert_same_bits(saved[1], c)


def test_a_state_begins_the_sequence(engine, dtype, tolerance, options):
    """It counts as (h_0, c_0) of a whole sequence."""
    lstm = LSTM(4, 5, **options, dtype=dtype, engine=engine, seed=0)
    rng, x = np.random.default_rng(1), _input(dtype=dtype)
    h, c = (
        rng.uniform(-1, 1, (lstm.num_layers, B, size)).astype(dtype)
        for size in (lstm.proj_size or 5, 5)
    )
    stream = lstm.stream(B)
    stream.state = h, c
    given = x.swapaxes(0, 1) if lstm.batch_first else x
    _close(tolerance)(stream.run(given), lstm(given, (h, c))[0])


def test_reset(engine, options):
    lstm = LSTM(4, 5, **options, engine=engine, seed=0)
    stream, x = lstm.stream(B), _input()
    expected = stream.step(x[0])
    stream.step(x[1])
    stream.reset()
    assert not stream.state[0].any() and not stream.state[1].any()
    assert_same_bits(stream.step(x[0]), expected)


@pytest.mark.parametrize("mask", [[True, False, True], [False] * 3, [True] * 3], ids=str)
def test_reset_of_some(engine, options, mask):
    """These rows begin anew, and the others go on."""
    lstm = LSTM(4, 5, **options, engine=engine, seed=0)
    stream, x = lstm.stream(B), _input()
    for t in range(3):
        stream.step(x[t])
    h, c = stream.state
    assert h.all() and c.all()
    stream.reset(mask if mask[1] else np.array(mask))
    fresh = ~np.array(mask)[:, None]
    assert_same_bits(stream.state[0], h * fresh + np.float32(0))
    assert_same_bits(stream.state[1], c * fresh + np.float32(0))
    expected = lstm.stream(B)
    expected.state = h * fresh, c * fresh
    assert_same_bits(stream.step(x[3]), expected.step(x[3]))


def test_streams_share_weights_and_nothing_else(engine):
    lstm = LSTM(4, 5, 2, engine=engine, seed=0)
    x, other_x = _input(), _input(seed=1)
    alone = lstm.stream(B)
    expected = [alone.step(x_t) for x_t in x]
    one, other = lstm.stream(B), lstm.stream(B)
    for t in range(T):
        got = one.step(x[t])
        other.step(other_x[t])
        lstm(other_x)
        assert_same_bits(got, expected[t])
    assert not np.array_equal(one.state[0], other.state[0])


def test_streams_of_one_row(engine, dtype, tolerance):
    """One row is the default; rows of a wider stream are streams of their own."""
    lstm = LSTM(4, 5, 2, dtype=dtype, engine=engine, seed=0)
    x, close = _input(dtype=dtype), _close(tolerance)
    wide, singles = lstm.stream(B), [lstm.stream() for _ in range(B)]
    assert singles[0].batch_size == 1
    for x_t in x:
        y = wide.step(x_t)
        for n, single in enumerate(singles):
            close(single.step(x_t[n : n + 1]), y[n : n + 1])


def test_streams_evaluate(engine):
    """Dropout is off whatever the layer's mode."""
    lstm = LSTM(4, 5, 2, dropout=0.5, engine=engine, seed=0)
    x, stream = _input(), lstm.stream(B)
    assert lstm.training
    steps, chunk = [stream.step(x_t) for x_t in x], lstm.stream(B).run(x)
    evaluating = lstm.eval().stream(B)
    for t in range(T):
        assert_same_bits(evaluating.step(x[t]), steps[t])
    assert_same_bits(chunk, lstm.stream(B).run(x))


class Subclass(np.ndarray):
    pass


def _misaligned(x):
    room = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    room[...] = x
    return room


SAME_VALUES = {
    "subclass": lambda x: x.view(Subclass),
    "misaligned": _misaligned,
    "reversed": lambda x: x[..., ::-1].copy()[..., ::-1],
    "buffer": memoryview,
    "list": lambda x: x.tolist(),
    "fortran": np.asfortranarray,
    "strided": lambda x: x.repeat(2, axis=-1)[..., ::2],
    "big_endian": lambda x: x.astype(">f4"),
    "torch": lambda x: pytest.importorskip("torch", reason="tensors need torch").tensor(x),
}


@pytest.mark.parametrize("name", SAME_VALUES)
def test_the_same_values_in_another_shape_of_memory(engine, name):
    lstm = LSTM(4, 5, 2, engine=engine, seed=0)
    one, other, x = lstm.stream(B), lstm.stream(B), _input()
    convert = SAME_VALUES[name]
    assert_same_bits(one.step(convert(x[0])), other.step(x[0]))
    assert_same_bits(one.run(convert(x)), other.run(x))
    one.state = tuple(map(convert, other.state))
    assert_same_bits(one.step(x[0]), other.step(x[0]))


def test_half_floats_are_widened(engine):
    lstm, half = LSTM(4, 5, 2, engine=engine, seed=0), _input(dtype="float16")
    one, other = lstm.stream(B), lstm.stream(B)
    for x_t in half:
        out = np.empty((B, 5), np.float32)
        assert one.step(x_t, out=out) is out
        assert_same_bits(out, other.step(x_t.astype(np.float32)))


def test_the_next_step_sees_changed_parameters(engine, dtype):
    lstm, other = (LSTM(4, 5, 2, dtype=dtype, engine=engine, seed=seed) for seed in (0, 1))
    stream, x, before = lstm.stream(B), _input(dtype=dtype)[0], 0
    for change in (
        lambda: lstm.load_state_dict(other.state_dict()),
        lambda: setattr(lstm, "weight_hh_l1", lstm.weight_hh_l1 * 2),
        lambda: setattr(lstm, "bias_ih_l0", np.ones(20)),
        lambda: lstm.reset_parameters(seed=5),
    ):
        stream.step(x)
        change()
        same = LSTM(4, 5, 2, dtype=dtype, engine=engine)
        same.load_state_dict(lstm.state_dict())
        expected = same.stream(B)
        expected.state = stream.state
        y = stream.step(x)
        assert_same_bits(y, expected.step(x))
        assert np.abs(y - before).max() > 1e-3
        before = y


def test_the_next_step_takes_the_layers_number_of_threads(monkeypatch, engine):
    """It calls the stack with the number that the layer has by then, as `run` does."""
    lstm = LSTM(4, 5, 2, engine=engine, num_threads=1, seed=0)
    one, other, x = lstm.stream(B), lstm.stream(B), _input()
    seen, present = [], lstm._present
    lstm._present = lambda group=0: seen.append(present()[1]) or present()
    for stream in (one, other):
        stream._take_step()
        stream.step(x[0])
    assert set(seen) == {1}
    lstm.num_threads = 3
    for stream in (one, other):
        seen.clear()
        stream.step(x[0])
        assert set(seen) == {3}


def test_step_is_what_help_shows(engine):
    """`help` shows its arguments and its whole text, of the class and of any stream."""
    stream = LSTM(4, 5, engine=engine).stream()
    signature = inspect.signature(stream.step)
    assert str(signature) == "(x: 'ArrayLike', out: 'Array | None' = None) -> 'Array'"
    of_class = inspect.signature(Stream.step)
    assert [*signature.parameters.values()] == [*of_class.parameters.values()][1:]
    assert inspect.getdoc(stream.step) == inspect.getdoc(Stream.step)
    shown = pydoc.plain(pydoc.render_doc(stream.step))
    assert "method step" in shown and "Advance every stream by one step" in shown
    for heading in ("Parameters", "Returns", "Raises"):
        assert f"{heading}\n    {'-' * len(heading)}\n" in shown
    assert callable(Stream.step) and Stream.step(stream, np.ones((1, 4), np.float32)).any()


def test_a_subclass_may_have_a_step_of_its_own(engine):
    class Doubled(Stream):
        def step(self, x, out=None):
            return 2 * super().step(x, out)

    lstm, x = LSTM(4, 5, engine=engine, seed=0), _input()[0]
    assert_same_bits(Doubled(lstm, B).step(x), 2 * lstm.stream(B).step(x))


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_goes_on_by_itself(engine, duplicate):
    stream, x = LSTM(4, 5, 2, engine=engine, seed=0).stream(B), _input()
    stream.run(x[:3])
    twin = duplicate(stream)
    expected = [stream.step(x_t) for x_t in x[3:]]
    for x_t, y in zip(x[3:], expected, strict=True):
        assert_same_bits(twin.step(x_t), y)
    for got, state in zip(twin.state, stream.state, strict=True):
        assert_same_bits(got, state)
    twin.reset()
    assert_same_bits(stream.state[0][-1], expected[-1])


# ---- errors ---------------------------------------------------------------------------------


def _bad_out(**changes):
    shape, dtype = changes.get("shape", (B, 5)), changes.get("dtype", "float32")
    return np.zeros(shape, dtype)


def _read_only():
    out = _bad_out()
    out.flags.writeable = False
    return out


x, H = _input(), np.ones((2, B, 5), np.float32)
OUT = "out must be a writable C-contiguous float32 array of shape (3, 5), got "
DTYPE = (
    "dtype (float64) does not match weight dtype (float32). Convert {0}: "
    '{0}.astype("float32"), or convert model: model.astype("float64")'
)
ERRORS = {
    "step_rows": (lambda s: s.step(x[0, :2]), ValueError, "x must have shape (3, 4), got (2, 4)"),
    "step_features": (lambda s: s.step(x[0, :, :3]), ValueError,
                      "x must have shape (3, 4), got (3, 3)"),
    "step_of_a_chunk": (lambda s: s.step(x), ValueError, "x must have shape (3, 4), got (7, 3, 4)"),
    "step_dtype": (lambda s: s.step(x[0].astype(float)), ValueError,
                   "Stream x " + DTYPE.format("x")),
    "step_masked": (lambda s: s.step(np.ma.masked_less(x[0], 0)), TypeError,
                    "x is a masked array, whose mask would be lost. Pass x.filled(...), or "
                    "lengths= for sequences of different lengths"),
    "out_shape": (lambda s: s.step(x[0], out=_bad_out(shape=(3, 6))), ValueError,
                  OUT + "float32 of shape (3, 6)"),
    "out_dtype": (lambda s: s.step(x[0], out=_bad_out(dtype="float64")), ValueError,
                  OUT + "float64 of shape (3, 5)"),
    "out_strided": (lambda s: s.step(x[0], out=_bad_out(shape=(3, 10))[:, ::2]), ValueError,
                    OUT + "float32 of shape (3, 5), not contiguous"),
    "out_read_only": (lambda s: s.step(x[0], out=_read_only()), ValueError,
                      OUT + "float32 of shape (3, 5), read-only"),
    "out_subclass": (lambda s: s.step(x[0], out=_bad_out().view(Subclass)), ValueError,
                     OUT + "float32 of shape (3, 5)"),
    "out_misaligned": (lambda s: s.step(x[0], out=_misaligned(_bad_out())), ValueError,
                       OUT + "float32 of shape (3, 5), not aligned"),
    "out_transposed": (lambda s: s.step(x[0], out=np.asfortranarray(_bad_out())), ValueError,
                       OUT + "float32 of shape (3, 5), not contiguous"),
    "out_big_endian": (lambda s: s.step(x[0], out=_bad_out(dtype=">f4")), ValueError,
                       OUT + ">f4 of shape (3, 5)"),
    "out_list": (lambda s: s.step(x[0], out=[[0] * 5] * 3), ValueError,
                 OUT + "list"),
    "run_of_a_step": (lambda s: s.run(x[0]), ValueError, "x must have shape (T, 3, 4), got (3, 4)"),
    "run_rows": (lambda s: s.run(x[:, :2]), ValueError,
                 "x must have shape (T, 3, 4), got (7, 2, 4)"),
    "run_dtype": (lambda s: s.run(x.astype(float)), ValueError, "Stream x " + DTYPE.format("x")),
    "state_shape": (lambda s: setattr(s, "state", (H, H[..., :4])), ValueError,
                    "Expected hidden[1] size (2, 3, 5), got [2, 3, 4]"),
    "state_of_one": (lambda s: setattr(s, "state", H), TypeError,
                     "hx must be a tuple (h_0, c_0), got ndarray of shape (2, 3, 5)"),
    "state_none": (lambda s: setattr(s, "state", None), TypeError,
                   "state must be a tuple (h, c), got None; reset() makes it zero"),
    "state_dtype": (lambda s: setattr(s, "state", (H, H.astype(float))), ValueError,
                    "LSTM hx[1] " + DTYPE.format("hx[1]")),
    "mask_shape": (lambda s: s.reset([True, False]), ValueError,
                   "mask must be 3 booleans, got bool of shape (2,)"),
    "mask_of_indices": (lambda s: s.reset([0, 1, 2]), ValueError,
                        "mask must be 3 booleans, got int64 of shape (3,)"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_leave_the_state_where_it_was(engine, name):
    call, kind, sentence = ERRORS[name]
    stream = LSTM(4, 5, 2, engine=engine, seed=0).stream(B)
    stream.step(x[0])
    h, c = stream.state
    with pytest.raises(kind) as caught:
        call(stream)
    assert str(caught.value) == sentence
    assert_same_bits(stream.state[0], h)
    assert_same_bits(stream.state[1], c)


@pytest.mark.parametrize("gap", [-5, 0, 14])
def test_out_may_not_overlap_x(engine, gap):
    """The kernels write y while they still read x; what lies side by side is none of their concern.

    `x` begins at number 15 of the memory and has 15, as `out` has.
    """
    lstm, memory = LSTM(5, 5, engine=engine, seed=0), np.ones(45, np.float32)
    stream, other = lstm.stream(3), lstm.stream(3)
    x, out = memory[15:30].reshape(3, 5), memory[15 + gap : 30 + gap].reshape(3, 5)
    with pytest.raises(ValueError, match="^out must not share memory with x$"):
        stream.step(x, out=out)
    assert (memory == 1).all() and not any(map(np.any, stream.state))
    for out in (memory[:15].reshape(3, 5), memory[30:].reshape(3, 5)):
        assert_same_bits(stream.step(x, out=out), other.step(x))


def test_errors_of_batch_first(engine):
    stream = LSTM(4, 5, batch_first=True, engine=engine).stream(B)
    for given in (x, x[0], x[0, 0]):
        sentence = f"x must have shape (3, T, 4), got {given.shape}"
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            stream.run(given)


def test_a_bidirectional_layer_has_no_stream():
    with pytest.raises(ValueError) as caught:
        LSTM(4, 5, bidirectional=True).stream()
    assert str(caught.value) == (
        "a stream needs a unidirectional LSTM: the backward direction begins at the end, which a "
        "live stream does not have"
    )


@pytest.mark.parametrize(
    "size, kind, sentence",
    [
        (0, ValueError, "batch_size must be greater than zero, got 0"),
        (2.0, TypeError, "batch_size should be of type int, got: float"),
    ],
)
def test_errors_of_the_number_of_streams(size, kind, sentence):
    with pytest.raises(kind, match=f"^{sentence}$"):
        LSTM(4, 5).stream(size)


def test_repr():
    stream = LSTM(4, 5, 2).stream(3)
    assert repr(stream) == "Stream(LSTM(4, 5, num_layers=2), batch_size=3)"


@pytest.mark.parametrize("model", [LSTM(3, 4), Sequential(LSTM(3, 4))])
def test_the_number_of_sequences_stays(model):
    stream = model.stream(2)
    with pytest.raises(AttributeError, match="batch_size"):
        stream.batch_size = 64
    assert stream.batch_size == 2


def test_what_a_stream_is_made_of():
    with pytest.raises(TypeError, match="^a stream needs an LSTM, got LSTMCell$"):
        Stream(LSTMCell(3, 4))
    with pytest.raises(ValueError, match="^batch_size must be greater than zero, got -1$"):
        Stream(LSTM(3, 4), -1)


def test_a_copy_branches_off(engine):
    """It has the same weights, and a state of its own from the point that was reached."""
    lstm = LSTM(4, 5, 2, engine=engine, seed=0)
    stream = lstm.stream(B)
    stream.step(x[0])
    branch = copy.copy(stream)
    before = branch.state
    expected = stream.step(x[1])
    for now, then in zip(branch.state, before, strict=True):
        assert_same_bits(now, then)
    assert_same_bits(branch.step(x[1]), expected)
    lstm.weight_ih_l0 = np.zeros((20, 4))
    assert_same_bits(branch.step(x[2]), stream.step(x[2]))
