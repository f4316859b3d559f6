"""The layers LSTM and LSTMCell: what they take, what they refuse, what they keep."""

import copy
import itertools
import pickle
import re
import warnings
import weakref

import numpy as np
import pytest
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import LSTM, LSTMCell
from fastlstm.engines import _layers, load


def _everything(result):
    output, (h, c) = result
    return [output, h, c]


class Watched:
    """An engine whose stacks assert the layers' side of the contract, and keep what they are given.

    `packs` counts the cells that were packed, `alive` are the stacks that somebody still has.
    """

    def __init__(self, module):
        self.module, self.packs, self.alive = module, 0, weakref.WeakSet()
        self.inputs, self.outputs, self.places = [], [], []

    def Stack(self, cells, directions, back=False, spare=None):
        assert directions in (1, 2) and len(cells) % directions == 0
        assert len(cells) == directions or not back
        self.packs += len(cells)
        stack = WatchedStack(self, cells, directions, back, spare)
        self.alive.add(stack)
        return stack


class WatchedStack:
    def __init__(self, engine, cells, directions, back, spare):
        self.engine, self.directions, self.dtype = engine, directions, cells[0].dtype
        self.cells, (inputs, self.H, self.P) = len(cells), cells[0].sizes
        self.inputs = inputs
        for k, cell in enumerate(cells):
            wide = inputs if k < directions else directions * self.P
            assert cell.w_ih.shape == (4 * self.H, wide)
            assert cell.w_hh.shape == (4 * self.H, self.P) and cell.b.shape == (4 * self.H,)
            has_w_hr = cell.w_hr is not None and cell.w_hr.shape == (self.P, self.H)
            assert has_w_hr or (cell.w_hr is None and self.P == self.H)
            assert {array.dtype for array in cell.arrays().values()} == {self.dtype}
        self.own = engine.module.Stack(cells, directions, back, spare)

    @property
    def stale(self):
        return self.own.stale

    @stale.setter
    def stale(self, value):
        self.own.stale = value

    def check(self, x, batch_sizes, h, c, y, threads):
        assert batch_sizes.dtype == np.int64 and batch_sizes.ndim == 1 and batch_sizes.size
        assert batch_sizes[-1] >= 1 and (np.diff(batch_sizes) <= 0).all()
        N, B = batch_sizes.sum(), batch_sizes[0]
        assert x.shape == (N, self.inputs) and y.shape == (N, self.directions * self.P)
        assert (h.shape, c.shape) == ((self.cells, B, self.P), (self.cells, B, self.H))
        assert {x.dtype, h.dtype, c.dtype, y.dtype} == {self.dtype} and self.dtype.isnative
        for a in (h, c):
            assert a.flags.carray
        for a in (x, y):
            assert a.flags.aligned and (a.shape[1] == 1 or a.strides[1] == a.itemsize)
        assert y.flags.writeable
        assert not any(np.shares_memory(a, b) for a, b in itertools.combinations((x, h, c, y), 2))
        assert isinstance(threads, int) and threads >= 1
        self.engine.inputs.append(x.copy())
        self.engine.places.append(x.ctypes.data)

    def run(self, *arguments):
        self.check(*arguments)
        self.own.run(*arguments)
        self.engine.outputs.append(arguments[4].copy())

    def record(self, *arguments):
        *arguments, every = arguments if len(arguments) == 7 else (*arguments, 0)
        assert isinstance(every, int) and every >= 0 and self.cells == self.directions
        self.check(*arguments)
        return self.own.record(*arguments, every)

    def back(self, tape, dy, dh, dc, dx, dw, threads):
        assert dy.shape[1] == self.directions * self.P and len(dw) == self.directions
        for a in (dh, dc, *([] if dx is None else [dx])):
            assert a.flags.carray and a.dtype == self.dtype
        for gradients in dw:
            for a in gradients.arrays().values():
                assert a.flags.carray and a.dtype == self.dtype
        self.own.back(tape, dy, dh, dc, dx, dw, threads)

    def step(self, h, c, present, otherwise):
        assert h.flags.carray and c.flags.carray and self.directions == 1

        def own_of_present():
            stack, threads = present()
            return stack.own, threads

        return self.own.step(h, c, own_of_present, otherwise)


def _watch(layer):
    layer._engine = Watched(load(layer.engine))
    return layer._engine


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
     'input.astype("float32"), or convert model: build it with dtype="float64"'),
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
     'hx[1].astype("float32"), or convert model: build it with dtype="float64"'),
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
    watched, before = _watch(lstm), lstm.state_dict()
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
        self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__


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
    watched = _watch(lstm)
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
    watched, x = _watch(lstm), torch.randn(5, 2, 3)
    lstm(x)
    assert watched.places == [x.data_ptr()]


# ---- what goes on ---------------------------------------------------------------------------

OPTIONS = [
    dict(zip(("num_layers", "bidirectional", "proj_size", "batch_first"), values, strict=True))
    for values in itertools.product((1, 3), (False, True), (0, 2), (False, True))
]


@pytest.mark.parametrize("kind", ["padded", "lengths", "pack", "unbatched"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_engine_gets_what_the_contract_says(engine, dtype, options, kind):
    """The caller's arrays, which may be read-only, are never written."""
    lstm = LSTM(3, 5, **options, dtype=dtype, engine=engine, seed=0)
    watched = _watch(lstm)
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
    for options in OPTIONS:
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
    watched = _watch(lstm)
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

    monkeypatch.setattr(_layers, "_WORTH_THREADS", 0)
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


# ---- parameters -----------------------------------------------------------------------------

NAMES = [
    "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_hr_l0",
    "weight_ih_l0_reverse", "weight_hh_l0_reverse", "bias_ih_l0_reverse", "bias_hh_l0_reverse",
    "weight_hr_l0_reverse",
]  # fmt: skip


def test_names_and_shapes():
    """They are torch's, for a layer with every kind of parameter."""
    state = LSTM(3, 4, 2, bidirectional=True, proj_size=2).state_dict()
    assert list(state) == NAMES + [name.replace("l0", "l1") for name in NAMES]
    shapes = [(16, 3), (16, 2), (16,), (16,), (2, 4)]
    upper = [(16, 4), *shapes[1:]]
    assert [value.shape for value in state.values()] == 2 * shapes + 2 * upper
    assert [v.shape for v in LSTMCell(3, 4).state_dict().values()] == [
        (16, 3),
        (16, 4),
        (16,),
        (16,),
    ]
    assert list(LSTMCell(3, 4, bias=False).state_dict()) == ["weight_ih", "weight_hh"]
    assert LSTM(3, 4).num_parameters == 16 * (3 + 4 + 2)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_torchs_state_dict(torch, dtype, options, bias):
    """Names, order, shapes, dtype and repr are torch's."""
    theirs = torch.nn.LSTM(3, 5, bias=bias, **options, dtype=getattr(torch, dtype))
    ours = LSTM(3, 5, bias=bias, **options, dtype=dtype)
    assert repr(ours) == repr(theirs)
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    ours.load_state_dict(expected)
    for name, value in ours.state_dict().items():
        assert_same_bits(value, expected[name].numpy())
        assert_same_bits(getattr(ours, name), value)
    theirs.load_state_dict({name: torch.from_numpy(v) for name, v in ours.state_dict().items()})


def test_torchs_repr(torch):
    options = dict(bias=False, batch_first=True, dropout=0.1, bidirectional=True, proj_size=2)
    assert repr(LSTM(3, 4, 2, **options)) == repr(torch.nn.LSTM(3, 4, 2, **options))
    for bias in (True, False):
        assert repr(LSTMCell(3, 4, bias)) == repr(torch.nn.LSTMCell(3, 4, bias))


def test_repr():
    options = dict(bias=False, batch_first=True, dropout=0.1, bidirectional=True, proj_size=2)
    assert repr(LSTM(3, 4, 2, **options)) == (
        "LSTM(3, 4, proj_size=2, num_layers=2, bias=False, batch_first=True, dropout=0.1, "
        "bidirectional=True)"
    )
    assert repr(LSTM(3, 4)) == "LSTM(3, 4)"
    assert repr(LSTMCell(3, 4, bias=False)) == "LSTMCell(3, 4, bias=False)"


def test_load_state_dict_names_every_fault_and_changes_nothing():
    lstm = LSTM(10, 20, 2, seed=0)
    before = lstm.state_dict()
    faulty = {name: value + 1 for name, value in before.items()}
    del faulty["weight_ih_l0"], faulty["bias_hh_l1"]
    faulty["weight_hh_l0"] = np.zeros((1, 1), np.float32)
    faulty["bias_ih_l0"] = np.zeros(80, int)
    faulty["zzz"] = faulty["yyy"] = np.zeros(1)
    with pytest.raises(ValueError) as caught:
        lstm.load_state_dict(faulty)
    assert str(caught.value) == (
        "Error(s) in loading state_dict for LSTM:\n"
        '\tMissing key(s) in state_dict: "weight_ih_l0", "bias_hh_l1".\n'
        '\tUnexpected key(s) in state_dict: "zzz", "yyy".\n'
        "\tsize mismatch for weight_hh_l0: copying a param with shape (1, 1) from checkpoint, the "
        "shape in current model is (80, 20).\n"
        "\ttype mismatch for bias_ih_l0: expected floats, got int64."
    )
    for name, value in lstm.state_dict().items():
        assert_same_bits(value, before[name])


@pytest.mark.parametrize("package", ["numpy", "torch"])
@pytest.mark.parametrize("source", ["float16", "bfloat16", "float32", "float64"])
def test_load_state_dict_rounds_any_float(dtype, package, source):
    """float64 into float32 is rounded, as torch does it; bfloat16 is exact."""
    module = pytest.importorskip(package, reason="tensors need torch")
    if source == "bfloat16" and package == "numpy":
        module = pytest.importorskip("ml_dtypes", reason="bfloat16 is not NumPy's own")
    values = {n: normal(*v.shape, dtype="float64") for n, v in LSTM(3, 4).state_dict().items()}
    if package == "torch":
        given = {n: module.tensor(v).to(getattr(module, source)) for n, v in values.items()}
        values = {n: v.double().numpy() for n, v in given.items()}
    else:
        given = {n: v.astype(getattr(module, source)) for n, v in values.items()}
        values = {n: v.astype(np.float64) for n, v in given.items()}
    lstm = LSTM(3, 4, dtype=dtype)
    lstm.load_state_dict(given)
    for name, value in lstm.state_dict().items():
        assert_same_bits(value, values[name].astype(dtype))


def test_state_dict_is_a_copy():
    lstm = LSTM(3, 4, seed=0)
    state = lstm.state_dict()
    state["weight_ih_l0"][...] = 0
    assert lstm.weight_ih_l0.all()
    given = lstm.state_dict()
    lstm.load_state_dict(given)
    given["weight_ih_l0"][...] = 0
    assert lstm.weight_ih_l0.all()


def test_parameters_refuse_writing_in_place():
    """Otherwise the engine's packed weights would be out of date without a sign."""
    lstm = LSTM(3, 4)
    with pytest.raises(ValueError, match="read-only"):
        lstm.weight_ih_l0[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        lstm.weight_ih_l0 += 1
    with pytest.raises(AttributeError, match="^LSTM has no attribute 'weight_ih_l1'$"):
        _ = lstm.weight_ih_l1


def test_a_parameter_of_another_shape_is_refused():
    lstm = LSTM(3, 4, seed=0)
    before = lstm.state_dict()
    with pytest.raises(
        ValueError, match=r"^weight_ih_l0 must have shape \(16, 3\), got \(3, 16\)$"
    ):
        lstm.weight_ih_l0 = lstm.weight_ih_l0.T
    with pytest.raises(ValueError, match=r"^bias_ih_l0 must have shape \(16,\), got \(\)$"):
        lstm.bias_ih_l0 = 0
    assert_same_bits(lstm.weight_ih_l0, before["weight_ih_l0"])


def _set_one(layer, state):
    for name, value in state.items():
        setattr(layer, name, value)


def _reset(layer, state):
    layer.reset_parameters(seed=7)


def _inside_a_model(layer, state):
    model = fastlstm.Sequential({"lstm": layer})
    model.load_state_dict({"lstm." + name: value for name, value in state.items()})


@pytest.mark.parametrize(
    "change", [_set_one, LSTM.load_state_dict, _reset, _inside_a_model], ids=lambda f: f.__name__
)
def test_new_parameters_are_used_at_once(engine, change):
    """Neither the layer nor an open stream runs on weights that were packed before the change."""
    lstm = LSTM(3, 4, 2, engine=engine, seed=0)
    stream = lstm.stream(2)
    before = lstm(X)[0]
    stream.step(X[0])
    change(lstm, LSTM(3, 4, 2, seed=7).state_dict())
    expected = LSTM(3, 4, 2, engine=engine, seed=7)
    assert_same_bits(lstm.weight_hh_l1, expected.weight_hh_l1)
    assert_same_bits(lstm(X)[0], expected(X)[0])
    assert not np.array_equal(lstm(X)[0], before)
    stream.reset()
    fresh = expected.stream(2)
    assert_same_bits(stream.step(X[0]), fresh.step(X[0]))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_counts(engine, name):
    """A change of any parameter changes the result, so none is packed once and forgotten."""
    lstm = LSTM(3, 4, bidirectional=True, proj_size=2, engine=engine, seed=0)
    before = lstm(X)[0]
    setattr(lstm, name, getattr(lstm, name) + 1)
    assert np.abs(lstm(X)[0] - before).max() > 1e-3


def test_parameters_are_packed_once_per_version(engine):
    lstm = LSTM(3, 4, 2, engine=engine)
    watched, stream = _watch(lstm), lstm.stream(2)
    for _ in range(3):
        lstm(X)
        stream.step(X[0])
        stream.run(X)
    assert watched.packs == 2
    lstm.bias_ih_l1 = np.zeros(16)
    lstm(X)
    assert watched.packs == 4


@pytest.mark.parametrize("num_layers", [1, 3])
def test_never_more_than_two_packed_copies(engine, num_layers):
    """One copy is of the whole stack, one of its layers apart; a single layer has one copy."""
    lstm = LSTM(3, 4, num_layers, dropout=0.5 * (num_layers > 1), engine=engine)
    watched, most = _watch(lstm), (1 if num_layers == 1 else 1 + num_layers)
    for _ in range(3):
        lstm(X), lstm.vjp(X), lstm.stream(2).step(X[0])
        assert len(watched.alive) == most
        lstm.eval()(X), lstm.train()(X)
        assert len(watched.alive) == most


def test_changed_parameters_leave_no_packed_copy(engine):
    """Only a pullback keeps the copies that it goes back through."""
    lstm = LSTM(3, 4, 2, dropout=0.5, engine=engine)
    watched, stream = _watch(lstm), lstm.stream(2)
    lstm(X), stream.step(X[0])
    (output, _), pullback = lstm.vjp(X)
    assert len(watched.alive) == 3
    lstm.bias_ih_l0 = np.ones(16)
    assert len(watched.alive) == 2
    stream.step(X[0])
    assert len(watched.alive) == 3
    pullback(output)
    del pullback
    assert len(watched.alive) == 1
    lstm.num_threads = 1
    assert not watched.alive


def test_evaluation_keeps_what_it_runs_on(engine):
    for num_layers in (1, 2):
        lstm = LSTM(3, 4, num_layers, engine=engine).eval()
        watched = _watch(lstm)
        for _ in range(3):
            lstm.eval()(X)
        assert watched.packs == num_layers
        lstm.vjp(X)
        lstm.eval()(X)
        assert len(watched.alive) == 1  # packed without the way back


# ---- initialisation -------------------------------------------------------------------------


def test_initialisation_is_torchs():
    """Every parameter is drawn from U(-1/sqrt(H), 1/sqrt(H)), also with a projection."""
    lstm = LSTM(30, 64, 2, bidirectional=True, proj_size=16, dtype="float64", seed=0)
    for name, value in lstm.state_dict().items():
        bound = 1 / 8
        assert np.abs(value).max() <= bound, name
        # five standard deviations of the mean, and of the extremes' distance from the bound
        assert abs(value.mean()) < 5 * bound / np.sqrt(3 * value.size), name
        assert bound - np.abs(value).max() < bound * 20 / value.size, name
        assert abs(value.std() - bound / np.sqrt(3)) < 5 * bound * 0.3 / np.sqrt(value.size), name
    cell = LSTMCell(30, 16, seed=0)
    assert all(0.2 < np.abs(v).max() <= 0.25 for v in cell.state_dict().values())


def test_seeds():
    """The same seed, a number or a generator, gives the same parameters; a generator moves on."""
    rng = np.random.default_rng(1)
    first, again, generated, later, other = (
        LSTM(3, 4, 2, seed=seed).state_dict() for seed in (1, 1, rng, rng, 2)
    )
    for name, value in first.items():
        assert_same_bits(again[name], value)
        assert_same_bits(generated[name], value)
        assert not np.array_equal(later[name], value)
        assert not np.array_equal(other[name], value)


def test_no_global_random_state():
    """No global random state is read or changed."""
    np.random.seed(0)  # noqa: NPY002 (that very state)
    before = np.random.get_state()  # noqa: NPY002
    first = LSTM(3, 4, 2, dropout=0.5)
    first(X)
    after = np.random.get_state()  # noqa: NPY002
    assert_same_bits(after[1], before[1])
    assert after[2:] == before[2:]
    np.random.seed(0)  # noqa: NPY002
    assert not np.array_equal(first.weight_ih_l0, LSTM(3, 4).weight_ih_l0)


def test_kinds_of_initialisation():
    lstm = LSTM(8, 6, dtype="float64")
    lstm.reset_parameters(0, weight_ih="glorot", weight_hh="orthogonal", bias="unit_forget_gate")
    bound = np.sqrt(6 / (24 + 8))
    assert 0.9 * bound < np.abs(lstm.weight_ih_l0).max() <= bound
    np.testing.assert_allclose(lstm.weight_hh_l0.T @ lstm.weight_hh_l0, np.eye(6), atol=1e-14)
    np.testing.assert_array_equal(
        lstm.bias_ih_l0.reshape(4, 6), np.repeat([[0], [1], [0], [0]], 6, 1)
    )
    np.testing.assert_array_equal(lstm.bias_hh_l0, 0)
    lstm.reset_parameters(weight_ih="orthogonal", weight_hh="zeros", bias="zeros")
    np.testing.assert_allclose(lstm.weight_ih_l0.T @ lstm.weight_ih_l0, np.eye(8), atol=1e-14)
    assert not lstm.weight_hh_l0.any() and not lstm.bias_ih_l0.any()
    wide = LSTM(40, 2, dtype="float64")
    wide.reset_parameters(weight_ih="orthogonal")
    np.testing.assert_allclose(wide.weight_ih_l0 @ wide.weight_ih_l0.T, np.eye(8), atol=1e-14)
    lstm.reset_parameters(5)
    assert_same_bits(lstm.weight_ih_l0, LSTM(8, 6, dtype="float64", seed=5).weight_ih_l0)
    corners = []
    for seed in range(20):  # no sign is preferred, as a bare QR decomposition would
        lstm.reset_parameters(seed, weight_hh="orthogonal")
        corners.append(lstm.weight_hh_l0[0, 0])
    assert min(corners) < 0 < max(corners)
    projected = LSTM(8, 64, proj_size=32)
    projected.reset_parameters(weight_ih="zeros", weight_hh="zeros", bias="zeros")
    assert 0.9 / 8 < np.abs(projected.weight_hr_l0).max() <= 1 / 8


@pytest.mark.parametrize(
    "options, sentence",
    [
        (
            dict(weight_ih="he"),
            "weight_ih must be one of uniform, glorot, orthogonal, zeros, got 'he'",
        ),
        (
            dict(weight_hh=None),
            "weight_hh must be one of uniform, glorot, orthogonal, zeros, got None",
        ),
        (dict(bias="glorot"), "bias must be one of uniform, unit_forget_gate, zeros, got 'glorot'"),
    ],
)
def test_unknown_initialisation(options, sentence):
    lstm = LSTM(3, 4, seed=0)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        lstm.reset_parameters(1, **options)
    assert_same_bits(lstm.weight_ih_l0, LSTM(3, 4, seed=0).weight_ih_l0)


# ---- copies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies(engine, duplicate):
    """They have the same values and the same engine, and parameters of their own."""
    lstm = LSTM(3, 4, 2, bidirectional=True, engine=engine, seed=0).eval()
    for _ in range(2):  # before weights are packed, and after
        twin = duplicate(lstm)
        assert repr(twin) == repr(lstm) and twin.engine == engine and not twin.training
        expected = lstm(X)[0]
        assert_same_bits(twin(X)[0], expected)
        twin.load_state_dict({n: v * 2 for n, v in twin.state_dict().items()})
        assert_same_bits(lstm(X)[0], expected)
        assert_same_bits(lstm.weight_ih_l0, LSTM(3, 4, 2, bidirectional=True, seed=0).weight_ih_l0)
        assert_same_bits(twin.weight_ih_l0, 2 * lstm.weight_ih_l0)
        assert not np.array_equal(twin(X)[0], expected)
        twin.bias_ih_l0 = lstm.bias_ih_l0
        assert twin.num_parameters == lstm.num_parameters


def test_copies_drop_on_their_own():
    lstm = LSTM(3, 4, 2, dropout=0.5, seed=0)
    twin = pickle.loads(pickle.dumps(lstm))
    assert_same_bits(twin(X)[0], lstm(X)[0])


# ---- LSTMCell -------------------------------------------------------------------------------

CELL = [
    (dict(input=X), ValueError, "LSTMCell: Expected input to be 1D or 2D, got 3D instead"),
    (dict(input=X[0, :, :2]), ValueError, "input has inconsistent input_size: got 2 expected 3"),
    (dict(input=X[0], hx=(H, H[0])), ValueError,
     "LSTMCell: Expected hx[0] to be 1D or 2D, got 3D instead"),
    (dict(input=X[0], hx=(H[0], H)), ValueError,
     "LSTMCell: Expected hx[1] to be 1D or 2D, got 3D instead"),
    (dict(input=X[:3, 0], hx=(H[0], H[0])), ValueError,
     "Input batch size 3 doesn't match hidden0 batch size 2"),
    (dict(input=X[0], hx=(H[0, :, :2], H[0])), ValueError,
     "hidden0 has inconsistent hidden_size: got 2, expected 4"),
    (dict(input=X[0], hx=(H[0], H[0, :, :2])), ValueError,
     "hidden1 has inconsistent hidden_size: got 2, expected 4"),
    (dict(input=X[0], hx=H[0]), TypeError,
     "hx must be a tuple (h, c), got ndarray of shape (2, 4)"),
    (dict(input=X[0, 0], hx=(H[0], H[0])), ValueError,
     "LSTMCell: Expected hx[0] to be 1D as the input, got 2D"),
    (dict(input=X[0].astype(float)), ValueError,
     "LSTMCell input dtype (float64) does not match weight dtype (float32). Convert input: "
     'input.astype("float32"), or convert model: build it with dtype="float64"'),
]  # fmt: skip


@pytest.mark.parametrize("call, kind, sentence", CELL)
def test_cell_errors(engine, call, kind, sentence):
    cell = LSTMCell(3, 4, engine=engine)
    watched = _watch(cell)
    with pytest.raises(kind) as caught:
        cell(**call)
    assert str(caught.value) == sentence
    assert not watched.inputs


@pytest.mark.parametrize("call, kind, sentence", CELL[:7])
def test_cell_errors_are_torchs(torch, call, kind, sentence):
    call = {k: torch.tensor(v) if k == "input" else tuple(map(torch.tensor, v))
            for k, v in call.items()}  # fmt: skip
    with pytest.raises((ValueError, RuntimeError)) as caught:
        torch.nn.LSTMCell(3, 4)(*call.values())
    assert sentence == str(caught.value)


@pytest.mark.parametrize("case", [INPUTS[n] for n in (0, 1, 2, 4, 14, 15, 17, 18)])
def test_input_errors_are_torchs(torch, case):
    call, _, sentence = case
    call = {k: torch.tensor(v) if k == "input" else tuple(map(torch.tensor, v))
            for k, v in call.items()}  # fmt: skip
    with pytest.raises((ValueError, RuntimeError)) as caught:
        torch.nn.LSTM(3, 4, 2)(*call.values())
    assert sentence == str(caught.value)


def test_cell_is_one_step_of_the_layer(engine, dtype):
    """It writes neither input nor states, batched or not."""
    cell = LSTMCell(3, 5, dtype=dtype, engine=engine, seed=0)
    lstm = LSTM(3, 5, dtype=dtype, engine=engine)
    lstm.load_state_dict({name + "_l0": value for name, value in cell.state_dict().items()})
    x, h, c = (normal(4, n, seed=n, dtype=dtype) for n in (3, 5, 5))
    for a in (x, h, c):
        a.flags.writeable = False
    _watch(cell)
    for hx in (None, (h, c)):
        got = cell(x, hx)
        _, expected = lstm(x[None], hx and (h[None], c[None]))
        for a, b in zip(got, expected, strict=True):
            assert_same_bits(a, b[0])
        alone = cell(x[1], hx and (h[1], c[1]))
        _, expected = lstm(x[None, 1], hx and (h[None, 1], c[None, 1]))
        for a, b in zip(alone, expected, strict=True):
            assert_same_bits(a, b[0])
    assert [a.shape for a in cell(x[:0])] == [(0, 5), (0, 5)]


@pytest.mark.parametrize(
    "name, value",
    [("hidden_size", 1), ("input_size", 1), ("num_layers", 1), ("bias", False), ("engine", "numpy"),
     ("bidirectional", True), ("proj_size", 1), ("dtype", "float64"), ("children", {})],
)  # fmt: skip
def test_structure_cannot_be_changed(name, value):
    """With a changed size an engine would write past the states, for which weights are packed."""
    lstm = LSTM(3, 4, 2, seed=0)
    before = getattr(lstm, name)
    with pytest.raises(AttributeError) as caught:
        setattr(lstm, name, value)
    assert str(caught.value) == f"{name} of LSTM cannot be changed: build another layer"
    assert getattr(lstm, name) == before


def test_a_parameter_takes_floats_of_any_precision_and_nothing_else():
    lstm = LSTM(3, 4, bias=False, seed=0)
    values = np.arange(48.0).reshape(16, 3)
    lstm.weight_ih_l0 = values
    assert np.array_equal(lstm.weight_ih_l0, values.astype(np.float32))
    lstm.weight_ih_l0 = np.zeros((16, 3), int).tolist()
    assert not lstm.weight_ih_l0.any()
    for value, kind, sentence in (
        (values.astype(complex), ValueError, "weight_ih_l0 must hold floats, got complex128"),
        (values.astype(int), ValueError, "weight_ih_l0 must hold floats, got int64"),
        (np.ma.masked_less(values, 3), TypeError, "weight_ih_l0 is a masked array"),
    ):
        with pytest.raises(kind, match=sentence):
            lstm.weight_ih_l0 = value
    assert not lstm.weight_ih_l0.any()


def test_state_dict_must_be_a_mapping():
    with pytest.raises(TypeError, match="^Expected state_dict to be dict-like, got NoneType$"):
        LSTM(3, 4).load_state_dict(None)


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
