"""LSTM: what it takes, what it refuses, and what it keeps."""

import re
import warnings

import numpy as np
import pytest
from support import assert_same_bits
from values import LSTM_OPTIONS, normal
from watched import watch

import fastlstm
from fastlstm import LSTM, LSTMCell
from fastlstm.engines import _layers


def _everything(result):
    output, (h, c) = result
    return [output, h, c]


# ---- construction ---------------------------------------------------------------------------

REFUSED_BY_TORCH = [
    (dict(hidden_size=0), ValueError, "hidden_size must be greater than zero, got 0"),
    (dict(input_size=-1), ValueError, "input_size must be greater than zero, got -1"),
    (dict(num_layers=0), ValueError, "num_layers must be greater than zero, got 0"),
    (dict(hidden_size=2.0), TypeError, "hidden_size should be of type int, got: float"),
    (dict(input_size="3"), TypeError, "input_size should be of type int, got: str"),
    (dict(bias=1), TypeError, "bias should be of type bool, got: int"),
    (dict(batch_first=1), TypeError, "batch_first should be of type bool, got: int"),
    (dict(proj_size=-1), ValueError,
     "proj_size should be a positive integer or zero to disable projections, got -1"),
    (dict(proj_size=4), ValueError,
     "proj_size has to be smaller than hidden_size, got proj_size=4 and hidden_size=4"),
    *[(dict(dropout=value, num_layers=2), ValueError,
       "dropout should be a number in range [0, 1] representing the probability of an element "
       f"being zeroed, got {value!r}") for value in (-0.1, 1.5, True, "0.5", float("nan"))],
]  # fmt: skip

REFUSED_BY_US = [
    (dict(hidden_size=True), TypeError, "hidden_size should be of type int, got: bool"),
    (dict(bidirectional=None), TypeError, "bidirectional should be of type bool, got: NoneType"),
    (dict(dtype="float16"), ValueError, """dtype must be "float32" or "float64", got 'float16'"""),
    (dict(dtype="double32"), ValueError,
     """dtype must be "float32" or "float64", got 'double32'"""),
    (dict(num_threads=0), ValueError, "num_threads must be from 1 to 1024, got 0"),
]  # fmt: skip


@pytest.mark.parametrize("options, kind, sentence", REFUSED_BY_TORCH + REFUSED_BY_US)
def test_construction_errors(options, kind, sentence):
    kinds = [LSTM]
    if set(options) <= {"input_size", "hidden_size", "bias", "dtype"}:
        kinds.append(LSTMCell)
    for layer in kinds:
        with pytest.raises(kind) as caught:
            layer(**{"input_size": 3, "hidden_size": 4} | options)
        assert str(caught.value) == sentence


@pytest.mark.parametrize("options, kind, sentence", REFUSED_BY_TORCH)
def test_construction_errors_begin_as_torchs(torch, options, kind, sentence):
    with pytest.raises(kind) as caught:
        torch.nn.LSTM(**{"input_size": 3, "hidden_size": 4} | options)
    assert sentence.startswith(str(caught.value))


def test_dropout_without_an_upper_layer_is_warned_of():
    sentence = (
        "dropout option adds dropout after all but last recurrent layer, so non-zero dropout "
        "expects num_layers greater than 1, but got dropout=0.5 and num_layers=1"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$") as caught:
        LSTM(3, 4, dropout=0.5)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LSTM(3, 4, 2, dropout=0.5)


def test_numpy_numbers_are_numbers():
    lstm = LSTM(np.int64(3), np.int32(4), np.uint8(2), np.True_, dropout=np.float32(0.5))
    assert repr(lstm) == "LSTM(3, 4, num_layers=2, dropout=0.5)"
    assert lstm(normal(2, 1, 3))[0].shape == (2, 1, 4)


# ---- what comes in --------------------------------------------------------------------------

X = normal(5, 2, 3)
H, C = normal(2, 2, 4), normal(2, 2, 4, seed=1)

INPUTS = [
    (dict(input=X[0, 0]), ValueError, "LSTM: Expected input to be 2D or 3D, got 1D instead"),
    (dict(input=X[None]), ValueError, "LSTM: Expected input to be 2D or 3D, got 4D instead"),
    (dict(input=X[:, :, :2]), ValueError,
     "input.size(-1) must be equal to input_size. Expected 3, got 2"),
    (dict(input=X[:, 0, :2]), ValueError,
     "input.size(-1) must be equal to input_size. Expected 3, got 2"),
    (dict(input=X[:0]), ValueError, "Expected sequence length to be larger than 0 in RNN"),
    (dict(input=X[:0, 0]), ValueError, "Expected sequence length to be larger than 0 in RNN"),
    (dict(input=X.astype(float)), ValueError,
     "RNN input dtype (float64) does not match weight dtype (float32). Convert input: "
     'input.astype("float32"), or convert model: model.astype("float64")'),
    (dict(input=X.astype(int)), ValueError,
     "RNN input dtype (int64) does not match weight dtype (float32). Convert input: "
     'input.astype("float32")'),
    (dict(input=X > 0), ValueError,
     "RNN input dtype (bool) does not match weight dtype (float32). Convert input: "
     'input.astype("float32")'),
    (dict(input=X.astype(complex)), ValueError,
     "RNN input dtype (complex128) does not match weight dtype (float32). Convert input: "
     'input.astype("float32")'),
    (dict(input=None), TypeError, "input must be an array of numbers, got NoneType"),
    (dict(input=np.ma.masked_less(X, 0)), TypeError,
     "input is a masked array, whose mask would be lost. Pass input.filled(...), or lengths= for "
     "sequences of different lengths"),
    (dict(input=X, hx=H), TypeError,
     "hx must be a tuple (h_0, c_0), got ndarray of shape (2, 2, 4)"),
    (dict(input=X, hx=(H,)), TypeError, "hx must be a tuple (h_0, c_0), got a tuple of 1"),
    (dict(input=X, hx=(H[:, :1], C)), ValueError,
     "Expected hidden[0] size (2, 2, 4), got [2, 1, 4]"),
    (dict(input=X, hx=(H, C[:, :, :3])), ValueError,
     "Expected hidden[1] size (2, 2, 4), got [2, 2, 3]"),
    (dict(input=X, hx=(H[:1], C)), ValueError, "Expected hidden[0] size (2, 2, 4), got [1, 2, 4]"),
    (dict(input=X, hx=(H[:, 0], C[:, 0])), ValueError,
     "For batched 3-D input, hx and cx should also be 3-D but got (2-D, 2-D) tensors"),
    (dict(input=X[:, 0], hx=(H, C)), ValueError,
     "For unbatched 2-D input, hx and cx should also be 2-D but got (3-D, 3-D) tensors"),
    (dict(input=X[:, 0], hx=(H[:, 0, :3], C[:, 0])), ValueError,
     "Expected hidden[0] size (2, 4), got [2, 3]"),
    (dict(input=X, hx=(H, C.astype(float))), ValueError,
     "LSTM hx[1] dtype (float64) does not match weight dtype (float32). Convert hx[1]: "
     'hx[1].astype("float32"), or convert model: model.astype("float64")'),
    (dict(input=X, lengths=[5]), ValueError,
     "Expected `len(lengths)` to be equal to batch_size, but got 1 (batch_size=2)"),
    (dict(input=X, lengths=[[5, 5]]), ValueError,
     "Expected `len(lengths)` to be equal to batch_size, but got shape (1, 2) (batch_size=2)"),
    (dict(input=X, lengths=[5, -1]), ValueError,
     "Length of all samples has to be at least 0, but found an element in 'lengths' that is "
     "< 0: -1 at index 1"),
    (dict(input=X, lengths=[6, 5]), ValueError,
     "Expected every length to be at most the input's 5 steps, but got 6 at index 0"),
    (dict(input=X, lengths=[5.0, 4.0]), ValueError,
     "lengths must hold integers, got dtype float64"),
    (dict(input=X[:, 0], lengths=[5]), ValueError,
     "lengths needs batched 3-D input, got unbatched 2-D input"),
    (dict(input=fastlstm.pack_sequence([X[:, 0]]), lengths=[5]), ValueError,
     "lengths cannot be given with a PackedSequence, which has its own"),
    (dict(input=fastlstm.pack_sequence([X[:, 0, 0]])), ValueError,
     "LSTM: Expected data of a PackedSequence to be 2D, got 1D"),
    (dict(input=fastlstm.pack_sequence([X[:, 0, :2]])), ValueError,
     "input.size(-1) must be equal to input_size. Expected 3, got 2"),
    (dict(input=fastlstm.pack_sequence([X[:, 0]]), hx=(H, C)), ValueError,
     "Expected hidden[0] size (2, 1, 4), got [2, 2, 4]"),
    (dict(input=fastlstm.PackedSequence(X[:, 0], np.array([2, 2]))), ValueError,
     "Expected data of a PackedSequence to have 4 rows, the sum of its batch_sizes, got shape "
     "(5, 3)"),
    (dict(input="abc"), TypeError, "input must be an array of numbers, got str"),
    (dict(input=b"abc"), TypeError, "input must be an array of numbers, got bytes"),
    (dict(input=(X, (X, X))), TypeError,
     "input is a tuple of arrays, not an array; of what an LSTM returns, (output, (h_n, c_n)), "
     "pass the output on"),
    (dict(input=X, hx=(None, None)), TypeError, "hx[0] must be an array of numbers, got NoneType"),
    (dict(input=X, hx="hc"), TypeError, "hx must be a tuple (h_0, c_0), got str"),
    (dict(input=[[1, 2, 3j]]), ValueError,
     "RNN input dtype (complex128) does not match weight dtype (float32). Convert input: "
     'input.astype("float32")'),
]  # fmt: skip


@pytest.mark.parametrize("call, kind, sentence", INPUTS)
def test_input_errors(engine, call, kind, sentence):
    """The sentence comes before any work, and nothing has changed."""
    lstm = LSTM(3, 4, 2, engine=engine, seed=0)
    watched, before = watch(lstm), lstm.state_dict()
    arrays = [v for v in (call["input"], *(call.get("hx", ()))) if type(v) is np.ndarray]
    copies = [a.copy() for a in arrays]
    with pytest.raises(kind) as caught:
        lstm(**call)
    assert str(caught.value) == sentence
    assert not watched.inputs
    for array, original in zip(arrays, copies, strict=True):
        assert_same_bits(array, original)
    for name, value in lstm.state_dict().items():
        assert_same_bits(value, before[name])


@pytest.mark.parametrize("case", [INPUTS[n] for n in (0, 1, 2, 4, 14, 15, 17, 18)])
def test_input_errors_are_torchs(torch, case):
    call, _, sentence = case
    call = {k: torch.tensor(v) if k == "input" else tuple(map(torch.tensor, v))
            for k, v in call.items()}  # fmt: skip
    with pytest.raises((ValueError, RuntimeError)) as caught:
        torch.nn.LSTM(3, 4, 2)(*call.values())
    assert sentence == str(caught.value)


def test_input_of_one_step_less_in_batch_first():
    """T and B change places, and so they do in the sentences."""
    lstm = LSTM(3, 4, 2, batch_first=True)
    with pytest.raises(ValueError, match="Expected sequence length to be larger than 0 in RNN"):
        lstm(X[:, :0])
    with pytest.raises(
        ValueError, match=re.escape("Expected hidden[0] size (2, 5, 4), got [2, 2, 4]")
    ):
        lstm(X, (H, C))
    with pytest.raises(ValueError, match="got 2 .batch_size=5."):
        lstm(X, lengths=[1, 1])


class _Dlpack:
    """Has nothing but the DLPack protocol."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class _Array:
    """Has nothing but ``__array__``."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


def _unaligned(x):
    room = np.zeros(x.nbytes + 1, np.uint8)[1:]
    view = room.view(x.dtype).reshape(x.shape)
    view[...] = x
    assert not view.flags.aligned
    return view


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def _torch(x):
    return pytest.importorskip("torch", reason="tensors as input need torch").tensor(x)


SAME_VALUES = {
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(map(tuple, x.tolist())),
    "fortran": np.asfortranarray,
    "strided": lambda x: x.repeat(2, axis=0)[::2],
    "strided_features": lambda x: x.repeat(3, axis=2)[:, :, ::3],
    "reversed": lambda x: x[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "transposed": lambda x: x.transpose(1, 2, 0).copy().transpose(2, 0, 1),
    "unaligned": _unaligned,
    "big_endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "little_endian": lambda x: x.astype(x.dtype.newbyteorder("<")),
    "read_only": _read_only,
    "subclass": lambda x: x.view(np.recarray),
    "memoryview": memoryview,
    "__array__": _Array,
    "dlpack": _Dlpack,
    "torch": _torch,
    "torch_transposed": lambda x: _torch(x).transpose(0, 1).contiguous().transpose(0, 1),
}


@pytest.mark.parametrize("name", SAME_VALUES)
def test_the_same_values_in_another_shape_of_memory(engine, dtype, name):
    """Input and states may come in any layout or container that has the right dtype, or none."""
    lstm = LSTM(3, 4, 2, dtype=dtype, engine=engine, seed=0)
    watched = watch(lstm)
    x, h, c = (normal(*shape, dtype=dtype) for shape in [(5, 2, 3), (2, 2, 4), (2, 2, 4)])
    convert = SAME_VALUES[name]
    got, expected = lstm(convert(x), (convert(h), convert(c))), lstm(x, (h, c))
    for a, b in zip(_everything(got), _everything(expected), strict=True):
        assert type(a) is np.ndarray
        assert_same_bits(np.ascontiguousarray(a), np.ascontiguousarray(b))
    assert len(watched.inputs) == 2


def test_a_matrix_is_an_array(engine):
    """The operators of this subclass of arrays mean something else."""
    with pytest.warns(PendingDeprecationWarning):
        x = np.matrix(X[:, 0])
    lstm = LSTM(3, 4, engine=engine, seed=0)
    assert_same_bits(lstm(x)[0], lstm(X[:, 0])[0])


def test_numbers_without_a_dtype(engine, dtype):
    """Lists of Python's ints, floats and bools are taken."""
    lstm = LSTM(2, 3, dtype=dtype, engine=engine, seed=0)
    got = lstm([[1, 0.1], [True, -3]])[0]
    assert_same_bits(got, lstm(np.array([[1, 0.1], [1, -3]], dtype))[0])


def test_half_types_are_widened(engine, dtype):
    lstm = LSTM(3, 4, dtype=dtype, engine=engine, seed=0)
    half = X.astype(np.float16)
    assert_same_bits(lstm(half)[0], lstm(half.astype(dtype))[0])


@pytest.mark.parametrize("package", ["ml_dtypes", "torch"])
def test_bfloat16_is_widened(engine, dtype, package):
    module = pytest.importorskip(package, reason="bfloat16 is not NumPy's own")
    lstm = LSTM(3, 4, dtype=dtype, engine=engine, seed=0)
    widened = (X.view(np.uint32) & 0xFFFF0000).view(np.float32)
    half = module.tensor(widened).bfloat16() if package == "torch" else X.astype(module.bfloat16)
    if package == "ml_dtypes":
        widened = half.astype(np.float32)
    assert np.abs(widened - X).max() > 1e-3
    assert_same_bits(lstm(half)[0], lstm(widened.astype(dtype))[0])


def test_a_tensor_with_a_gradient_is_refused_with_the_way_out(torch):
    with pytest.raises(ValueError, match=r"input cannot be read as an array: .*tensor.detach\(\)"):
        LSTM(3, 4)(torch.tensor(X, requires_grad=True))


def test_a_list_of_unequal_rows_is_refused():
    with pytest.raises(ValueError, match="input cannot be read as an array: .*inhomogeneous"):
        LSTM(3, 4)([[1, 2, 3], [4, 5]])


def test_masked_states_and_packs_are_refused():
    masked = np.ma.masked_less(H, 0)
    with pytest.raises(TypeError, match=r"hx\[0\] is a masked array, whose mask would be lost"):
        LSTM(3, 4, 2)(X, (masked, C))
    pack = fastlstm.PackedSequence(np.ma.masked_less(X[:, 0], 0), np.ones(5, int))
    with pytest.raises(TypeError, match="data of a PackedSequence is a masked array"):
        LSTM(3, 4, 2)(pack)


def test_a_tensor_shares_its_memory(torch, engine):
    """Nothing is copied on the way in: the engine gets the caller's memory."""
    lstm = LSTM(3, 4, engine=engine)
    watched, x = watch(lstm), torch.randn(5, 2, 3)
    lstm(x)
    assert watched.places == [x.data_ptr()]


# ---- what goes on ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["padded", "lengths", "pack", "unbatched"])
@pytest.mark.parametrize("options", LSTM_OPTIONS, ids=str)
def test_engine_gets_what_the_contract_says(engine, dtype, options, kind):
    """The caller's arrays, which may be read-only, are never written."""
    lstm = LSTM(3, 5, **options, dtype=dtype, engine=engine, seed=0)
    watched = watch(lstm)
    cells, batch = len(lstm._suffixes), () if kind == "unbatched" else (4,)
    h = normal(cells, *batch, options["proj_size"] or 5, dtype=dtype)
    c = normal(cells, *batch, 5, dtype=dtype)
    x = normal(*((4, 6) if lstm.batch_first and batch else (6, *batch)), 3, dtype=dtype)
    arrays = [x, h, c]
    copies = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    lengths = [2, 6, 1, 6]
    given = x
    if kind == "pack":
        given = fastlstm.pack_padded_sequence(x, lengths, lstm.batch_first, enforce_sorted=False)
        given.data.flags.writeable = False
    for _ in range(2):
        output, (h_n, c_n) = lstm(given, (h, c), lengths=lengths if kind == "lengths" else None)
    assert watched.packs == cells and len(watched.inputs) == 2
    for a, original in zip(arrays, copies, strict=True):
        assert_same_bits(a, original)
    for result in (output.data if kind == "pack" else output, h_n, c_n):
        assert result.flags.writeable
        assert not any(np.shares_memory(result, a) for a in arrays)


EMPTY = [
    {},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "proj_size": 2, "batch_first": True},
    {"num_layers": 3, "bias": False},
]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths_are_sequences_of_their_own(engine, dtype, tolerance, bidirectional, batch_first):
    """Each gives among others what it gives alone, and zeros past its end."""
    lstm = LSTM(
        3, 5, 2, batch_first=batch_first, bidirectional=bidirectional, dtype=dtype, engine=engine
    )
    x, lengths = normal(6, 4, 3, dtype=dtype), [3, 6, 1, 4]
    h, c = (normal(2 * (1 + bidirectional), 4, 5, seed=s, dtype=dtype) for s in (1, 2))
    output, (h_n, c_n) = lstm(x.swapaxes(0, 1) if batch_first else x, (h, c), lengths=lengths)
    output = output.swapaxes(0, 1) if batch_first else output
    bound = tolerance(terms=3 + 10 + 5 + 1, magnitude=2)
    for n, length in enumerate(lengths):
        alone, (h_alone, c_alone) = lstm(x[:length, n], (h[:, n], c[:, n]))
        np.testing.assert_allclose(output[:length, n], alone, **bound)
        np.testing.assert_allclose(h_n[:, n], h_alone, **bound)
        np.testing.assert_allclose(c_n[:, n], c_alone, **bound)
        np.testing.assert_array_equal(output[length:, n], 0)


@pytest.mark.parametrize("lengths", [[0, 3, 0, 5], [0, 0, 0, 0]])
@pytest.mark.parametrize("config", EMPTY, ids=str)
def test_sequences_without_steps(engine, dtype, config, lengths):
    """Their outputs are 0, their states stay, and the others are as if these were not there."""
    lstm = LSTM(3, 5, **config, dtype=dtype, engine=engine, seed=0).eval()
    cells, swap = len(lstm._suffixes), lstm.batch_first
    x = normal(6, 4, 3, dtype=dtype)
    x[:, 0] = np.nan  # is not read
    hx = tuple(normal(cells, 4, n, seed=n, dtype=dtype) for n in (lstm.proj_size or 5, 5))
    given = x.swapaxes(0, 1) if swap else x
    for output, states in (lstm(given, hx, lengths=lengths),
                           lstm.vjp(given, hx, lengths=lengths)[0]):  # fmt: skip
        output = output.swapaxes(0, 1) if swap else output
        some = np.flatnonzero(lengths)
        none = np.setdiff1d(range(4), some)
        assert_same_bits(output[:, none], np.zeros_like(output[:, none]))
        for after, before in zip(states, hx, strict=True):
            assert_same_bits(after[:, none], before[:, none])
        if len(some):
            few = given[some] if swap else given[:, some]
            alone = lstm(few, tuple(s[:, some] for s in hx), lengths=[3, 5])
            expected = alone[0].swapaxes(0, 1) if swap else alone[0]
            for got, wanted in zip(
                (output[:, some], *(s[:, some] for s in states)), (expected, *alone[1]), strict=True
            ):
                np.testing.assert_allclose(got, wanted, rtol=0, atol=8 * np.finfo(dtype).eps)
    (output, _), pullback = lstm.vjp(given, hx, lengths=lengths)
    final = tuple(normal(*s.shape, seed=7, dtype=dtype) for s in hx)
    dx, initial = pullback(np.ones_like(output), final)
    assert not (dx[none] if swap else dx[:, none]).any()
    for got, wanted in zip(initial, final, strict=True):
        assert_same_bits(got[:, none], wanted[:, none])
    if not len(some):
        assert not any(gradient.any() for gradient in lstm.grads.values())


def test_no_steps_at_all(engine):
    """T = 0 is taken if the lengths say so; without lengths it is refused, as in torch."""
    lstm = LSTM(3, 5, engine=engine)
    hx = normal(1, 2, 5), normal(1, 2, 5)
    output, states = lstm(np.zeros((0, 2, 3), np.float32), hx, lengths=[0, 0])
    assert output.shape == (0, 2, 5)
    for after, before in zip(states, hx, strict=True):
        assert_same_bits(after, before)


def test_sequences_without_steps_do_not_learn_or_share(engine):
    """This holds with dropout too; final states do not share memory with the caller's."""
    lstm = LSTM(3, 5, 2, dropout=0.5, engine=engine, seed=0)
    hx = normal(2, 2, 5), normal(2, 2, 5)
    for _, states in (lstm(normal(4, 2, 3), hx, lengths=[0, 4]),
                      lstm.vjp(normal(4, 2, 3), hx, lengths=[0, 4])[0]):  # fmt: skip
        for after, before in zip(states, hx, strict=True):
            assert_same_bits(after[:, 0], before[:, 0])
            assert not np.shares_memory(after, before)


def test_what_lies_past_the_ends_does_not_matter(engine):
    lstm = LSTM(3, 5, 2, bidirectional=True, engine=engine, seed=0)
    x = normal(6, 3, 3)
    expected = lstm(x, lengths=[6, 2, 4])
    x[2:, 1] = np.nan
    x[4:, 2] = np.inf
    for a, b in zip(_everything(lstm(x, lengths=[6, 2, 4])), _everything(expected), strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("lengths", [None, []])
def test_an_empty_batch(engine, lengths):
    for options in LSTM_OPTIONS:
        lstm = LSTM(3, 5, **options, engine=engine)
        x = np.zeros((0, 4, 3) if lstm.batch_first else (4, 0, 3), np.float32)
        output, (h, c) = lstm(x, lengths=lengths)
        D, P = 1 + lstm.bidirectional, lstm.proj_size or 5
        assert output.shape == (*x.shape[:2], D * P)
        assert h.shape == (D * lstm.num_layers, 0, P) and c.shape == (D * lstm.num_layers, 0, 5)
        assert {a.dtype for a in (output, h, c)} == {np.dtype(np.float32)}
    assert lstm(x, (h, c), lengths=lengths)[1][0].shape == h.shape


def test_the_backward_direction_is_the_forward_one_from_the_end(engine, dtype):
    """This is the definition, tried with the same weights in both directions."""
    both = LSTM(3, 5, bidirectional=True, dtype=dtype, engine=engine, seed=0)
    one = LSTM(3, 5, dtype=dtype, engine=engine)
    one.load_state_dict({name: both.state_dict()[name] for name in one.state_dict()})
    for name, value in one.state_dict().items():
        setattr(both, name + "_reverse", value)
    x = normal(6, 2, 3, dtype=dtype)
    output, (h, c) = both(x)
    forward, (h_forward, c_forward) = one(x)
    backward, (h_backward, c_backward) = one(x[::-1])
    assert_same_bits(output, np.concatenate([forward, backward[::-1]], axis=2))
    assert_same_bits(h, np.concatenate([h_forward, h_backward]))
    assert_same_bits(c, np.concatenate([c_forward, c_backward]))


def test_layers_on_top_of_each_other(engine, dtype):
    """Two layers are two LSTMs, the second fed with the output of the first."""
    both = LSTM(3, 5, 2, dtype=dtype, engine=engine, seed=0)
    state = both.state_dict()
    first, second = LSTM(3, 5, dtype=dtype, engine=engine), LSTM(5, 5, dtype=dtype, engine=engine)
    first.load_state_dict({name: state[name] for name in first.state_dict()})
    second.load_state_dict({name: state[name.replace("l0", "l1")] for name in first.state_dict()})
    x = normal(6, 2, 3, dtype=dtype)
    between, (h_0, _) = first(x)
    output, (h_1, _) = second(between)
    got, (h, _) = both(x)
    assert_same_bits(got, output)
    assert_same_bits(h, np.concatenate([h_0, h_1]))


# ---- dropout --------------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("p", [0.3, 0.5])
def test_dropout_between_layers(engine, dtype, p, bidirectional):
    """Each value of each step is zeroed by itself with probability p, or else scaled exactly."""
    options = dict(bidirectional=bidirectional, dtype=dtype, engine=engine, seed=0)
    lstm, plain = LSTM(3, 8, 3, dropout=p, **options), LSTM(3, 8, 3, **options)
    watched = watch(lstm)
    T, B, x = 200, 10, normal(200, 10, 3, dtype=dtype)
    output, (h, _) = lstm(x)
    expected, (h_plain, _) = plain(x)
    D = 1 + bidirectional
    assert_same_bits(watched.inputs[0], x.reshape(T * B, 3))  # not before the first layer
    assert_same_bits(h[:D], h_plain[:D])  # states are not dropped
    dropped, full = watched.inputs[1].reshape(T, B, -1), watched.outputs[0].reshape(T, B, -1)
    kept = dropped != 0
    scale = np.dtype(dtype).type(1 / (1 - p))
    np.testing.assert_array_equal(dropped, full * scale * kept)
    # frequencies within five standard deviations: of all, of each unit, of equal neighbours
    deviation = np.sqrt(p * (1 - p))
    assert abs(kept.mean() - (1 - p)) < 5 * deviation / np.sqrt(kept.size)
    assert (np.abs(kept.mean(axis=(0, 1)) - (1 - p)) < 5 * deviation / np.sqrt(T * B)).all()
    same = p**2 + (1 - p) ** 2
    for a, b in [
        (kept[1:], kept[:-1]),
        (kept[:, 1:], kept[:, :-1]),
        (kept[..., 1:], kept[..., :-1]),
    ]:
        assert abs((a == b).mean() - same) < 5 * np.sqrt(same * (1 - same) / a.size)
    # another mask on every layer, none on the output
    other = watched.inputs[2].reshape(T, B, -1) != 0
    assert abs((other == kept).mean() - same) < 5 * np.sqrt(same * (1 - same) / kept.size)
    assert (output != 0).all() and not np.array_equal(output, expected)


def test_dropout_is_off_in_evaluation(engine):
    lstm, plain = LSTM(3, 4, 2, dropout=0.5, engine=engine, seed=0), LSTM(3, 4, 2, engine=engine)
    plain.load_state_dict(lstm.state_dict())
    expected = plain(X)[0]
    assert lstm.training and not np.array_equal(lstm(X)[0], expected)
    assert lstm.eval() is lstm and not lstm.training
    assert_same_bits(lstm(X)[0], expected)
    assert lstm.train() is lstm and lstm.training
    assert not np.array_equal(lstm(X)[0], expected)


def test_dropout_of_everything(engine):
    """With p = 1 the upper layer reads zeros."""
    lstm = LSTM(3, 4, 2, dropout=1.0, engine=engine, seed=0)
    upper = LSTM(4, 4, engine=engine)
    state = lstm.state_dict()
    upper.load_state_dict({n: state[n.replace("l0", "l1")] for n in upper.state_dict()})
    np.testing.assert_array_equal(lstm(X)[0], upper(np.zeros((5, 2, 4), np.float32))[0])


def test_dropout_comes_from_the_seed(engine):
    """The same seed drops the same values, call after call; other calls and seeds drop others."""
    options = dict(dropout=0.5, engine=engine)
    first, again = LSTM(3, 4, 2, seed=1, **options), LSTM(3, 4, 2, seed=1, **options)
    other = LSTM(3, 4, 2, seed=2, **options)
    other.load_state_dict(first.state_dict())
    outputs = [first(X)[0] for _ in range(3)]
    for output in outputs:
        assert_same_bits(again(X)[0], output)
        assert not np.array_equal(other(X)[0], output)
    assert not np.array_equal(outputs[0], outputs[1])


# ---- threads --------------------------------------------------------------------------------


@pytest.fixture
def threads_at_once(monkeypatch):
    """Any work is shared among threads, however small; holds how many rows each call had.

    That is, of the engines whose threads are Python's.
    """
    seen, run_cell = [], _layers.Layers._run_cell

    def watched(self, k, x, *rest):
        seen.append(len(x))
        run_cell(self, k, x, *rest)

    monkeypatch.setattr(_layers, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr(_layers.Layers, "_run_cell", watched)
    return seen


@pytest.mark.parametrize("kind", ["padded", "lengths", "pack"])
def test_threads_share_the_sequences(threads_at_once, engine, dtype, kind):
    """Each thread has its share, as the contract says, and begins with the caller's states."""
    options = dict(num_layers=2, bidirectional=True, proj_size=2, dtype=dtype, engine=engine)
    one = LSTM(3, 5, **options, num_threads=1, seed=0)
    many = LSTM(3, 5, **options, num_threads=3, seed=0)
    x, lengths = normal(6, 7, 3, dtype=dtype), [1, 6, 4, 1, 6, 2, 3]
    hx = normal(4, 7, 2, seed=1, dtype=dtype), normal(4, 7, 5, seed=2, dtype=dtype)
    keywords = {"lengths": lengths} if kind == "lengths" else {}
    if kind == "pack":
        x = fastlstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
    expected = one(x, hx, **keywords)
    threads_at_once.clear()
    got = many(x, hx, **keywords)
    shares = (18, 12, 12) if kind == "padded" else (10, 8, 5)  # of every third, the longest first
    assert engine == "native" or sorted(threads_at_once) == sorted(4 * shares)
    bound = {"rtol": 0, "atol": 0}
    if engine == "numpy":  # its BLAS adds in another order for another number of rows
        bound = {"rtol": 0, "atol": 50 * np.finfo(dtype).eps}
    for a, b in zip(_everything(got), _everything(expected), strict=True):
        if isinstance(a, fastlstm.PackedSequence):
            a, b = a.data, b.data
        np.testing.assert_allclose(a, b, **bound)


def test_dropout_does_not_depend_on_threads(threads_at_once, engine):
    one, many = (LSTM(3, 4, 2, dropout=0.5, engine=engine, seed=1, num_threads=n) for n in (1, 3))
    x = normal(5, 7, 3)
    for _ in range(2):
        assert_same_bits(many(x)[0], one(x)[0])


@pytest.mark.parametrize("dtype", [None, "float16", ">i4", "nonsense", object])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match='^dtype must be "float32" or "float64", got '):
        LSTM(3, 4, dtype=dtype)


@pytest.mark.parametrize("dtype", [">f4", np.float32, "f4"])
def test_a_dtype_by_any_name(dtype):
    assert LSTM(3, 4, dtype=dtype).dtype == np.dtype("float32")
    assert LSTM(3, 4, dtype=dtype).dtype.isnative


def test_a_pack_with_one_of_its_indices(engine):
    """The output pack has the order in which the states are returned, as with both indices."""
    lstm = LSTM(3, 4, engine=engine, seed=0)
    sequences = [X[:2, 0], X[:5, 1], X[:3, 0]]
    both = fastlstm.pack_sequence(sequences, enforce_sorted=False)
    expected, (h_n, _) = lstm(both)
    for given in (both._replace(sorted_indices=None), both._replace(unsorted_indices=None)):
        output, (h, _) = lstm(given)
        assert np.array_equal(h, h_n)
        assert np.array_equal(output.sorted_indices, expected.sorted_indices)
        assert np.array_equal(output.unsorted_indices, expected.unsorted_indices)
