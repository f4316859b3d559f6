"""Calls that the engine takes as they are: the same as those that go the long way through Python.

`Stack.call` checks, allocates and runs in one go, or refuses. What it must not do is to take what
the rules of `fastlstm.arrays` convert or refuse, or to give anything else than the layer would.
"""

import concurrent.futures
import sys
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import assert_same_bits
from values import arrays_in, normal

from fastlstm import LSTM, Linear, LSTMCell, pack_sequence

# ---- the long way ---------------------------------------------------------------------------


class LongLSTM(LSTM):
    def _at_once(self, input, hx, time_axis, table=None):
        return None


class LongCell(LSTMCell):
    def _at_once(self, input, hx, time_axis):
        return None


LONG = {LSTM: LongLSTM, LSTMCell: LongCell}


class LongLinear(Linear):
    def __call__(self, input):
        return self._run(self._arrange(input))


class Own(np.ndarray):
    """A subclass, which may mean anything."""


class Setting(NamedTuple):
    """A layer, what it is called with, and in which forms (see `FORMS`).

    `faults` name what is wrong with the arguments (see `arguments`), mostly nothing.
    """

    kind: type = LSTM
    options: dict = {}
    T: int = 2
    B: int = 3
    batched: bool = True
    hx: str = "none"
    forms: tuple = ("as it is",) * 3
    faults: frozenset = frozenset()

    def layer(self, engine, dtype, long=False):
        """A layer that has run once, so that its weights are packed."""
        kind = LONG[self.kind] if long else self.kind
        layer = kind(4, 5, engine=engine, dtype=dtype, seed=0, **self.options).eval()
        layer(np.ones((1, 4), dtype))
        return layer

    def arguments(self, dtype):
        """x and hx, with their faults, in their forms."""
        sequences = self.kind is LSTM
        T, B, size = [self.T] * sequences, [self.B] * self.batched, 4 + ("features" in self.faults)
        leading = B + T if self.options.get("batch_first") else T + B
        shapes = [
            [*leading, size] if "axes" not in self.faults else [*leading, 1, size],
            *self.states(sequences),
        ]
        if "rows" in self.faults:
            shapes[1][-2:-1] = [7]
        if "units" in self.faults:
            shapes[2][-1] += 1
        arrays = []
        for n, (shape, form) in enumerate(zip(shapes, self.forms, strict=True)):
            array = FORMS[form](normal(*shape, seed=n, dtype=dtype))
            arrays.append(array)
        x, *hx = arrays
        return x, HX[self.hx](hx)

    def states(self, sequences):
        cells = (1 + self.options.get("bidirectional", False)) * self.options.get("num_layers", 1)
        first = [cells] * sequences + [self.B] * self.batched
        return [[*first, self.options.get("proj_size", 0) or 5], [*first, 5]]


def misaligned(array):
    room = np.empty(array.nbytes + 1, np.uint8)
    copy = room[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def read_only(array):
    array.flags.writeable = False
    return array


def strided(array):
    room = np.full((*array.shape[:-1], 2 * array.shape[-1]), 7, array.dtype)
    room[..., ::2] = array
    return room[..., ::2]


FORMS = {
    "as it is": lambda array: array,
    "read-only": read_only,
    "strided": strided,
    "reversed": lambda array: array[::-1].copy()[::-1],
    "columns first": np.asfortranarray,
    "repeated": lambda array: np.broadcast_to(array[:1], array.shape),
    "misaligned": misaligned,
    "swapped": lambda array: array.astype(array.dtype.newbyteorder()),
    "float16": lambda array: array.astype("float16"),
    "float32": lambda array: array.astype("float32"),
    "float64": lambda array: array.astype("float64"),
    "longdouble": lambda array: array.astype("longdouble"),
    "int64": lambda array: array.astype("int64"),
    "a list": lambda array: array.tolist(),
    "a subclass": lambda array: array.view(Own),
    "masked": np.ma.masked_array,
    "None": lambda array: None,
}
HX = {
    "none": lambda hx: None,
    "tuple": tuple,
    "list": list,
    "array": lambda hx: np.zeros((2, 3)),
    "one": lambda hx: (hx[0],),
    "three": lambda hx: (*hx, hx[0]),
    "swapped": lambda hx: tuple(hx[::-1]),
}
OPTIONS = [
    {},
    {"batch_first": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"proj_size": 2},
    {"num_layers": 2, "reverse": True},
    {"peephole": True, "zoneout": 0.25},
]


def outcome(call):
    """What a call returns, or as a string the error that it raises."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def arrays_of(nested):
    """All arrays in nests of tuples and lists, in turn."""
    if isinstance(nested, (tuple, list)):
        return [array for part in nested for array in arrays_of(part)]
    return [nested] if isinstance(nested, np.ndarray) else []


def assert_same_outcome(got, expected, given=()):
    """Assert that errors are equal, or that nests of arrays are, bit for bit and flag for flag.

    No array may be in the memory of another one, or of one that was `given`.
    """
    arrays, wanted = arrays_of(got), arrays_of(expected)
    if isinstance(expected, str):
        assert isinstance(got, str) and got == expected
        return
    assert len(arrays) == len(wanted)
    assert type(got) is tuple and [type(one) for one in got] == [type(one) for one in expected]
    for n, (one, want) in enumerate(zip(arrays, wanted, strict=True)):
        assert type(one) is np.ndarray and one.dtype == want.dtype and one.dtype.isnative
        assert (one.shape, one.strides) == (want.shape, want.strides)
        for flag in ("C_CONTIGUOUS", "F_CONTIGUOUS", "WRITEABLE", "ALIGNED"):
            assert one.flags[flag] == want.flags[flag], flag
        assert_same_bits(np.ascontiguousarray(one), np.ascontiguousarray(want))
        others = [*arrays[:n], *arrays[n + 1 :], *arrays_of(given)]
        assert not any(np.may_share_memory(one, other) for other in others)


def assert_agrees(setting, engine, dtype, layer=None):
    """Assert that a layer's call does what the long way does, with an engine and with numpy."""
    layer = layer or setting.layer(engine, dtype)
    arguments, untouched = setting.arguments(dtype), setting.arguments(dtype)
    got = outcome(lambda: layer(*arguments))
    expected = outcome(lambda: setting.layer(engine, dtype, long=True)(*untouched))
    assert_same_outcome(got, expected, arguments)
    for array, before in zip(arrays_of(arguments), arrays_of(untouched), strict=True):
        assert np.array_equal(array, before), "an argument was written"
    if isinstance(expected, str):
        plain = outcome(lambda: setting.layer("numpy", dtype)(*setting.arguments(dtype)))
        assert_same_outcome(got, plain)


SETTINGS = st.builds(
    Setting,
    kind=st.just(LSTM),
    options=st.sampled_from(OPTIONS),
    T=st.sampled_from([1, 2, 5, 0]),
    B=st.sampled_from([1, 3, 2, 0]),
    batched=st.booleans(),
    hx=st.sampled_from(["tuple", "none", *HX]),
    forms=st.tuples(*[st.sampled_from(["as it is"] * 9 + [*FORMS])] * 3),
    faults=st.frozensets(st.sampled_from(["features", "axes", "rows", "units"]), max_size=1)
    | st.just(frozenset()),
)
CELL_SETTINGS = SETTINGS.map(
    lambda setting: setting._replace(
        kind=LSTMCell, options={n: v for n, v in setting.options.items() if n in ("peephole",)}
    )
)


@given(SETTINGS | CELL_SETTINGS)
@example(Setting(hx="tuple", forms=("as it is", "None", "None")))
@example(Setting(hx="tuple", forms=("as it is", "None", "as it is")))
@example(Setting(LSTMCell, hx="tuple", forms=("as it is", "None", "None")))
@example(Setting(LSTMCell, T=1, B=3, hx="tuple", faults=frozenset(["rows"])))
@example(Setting(options={"batch_first": True}, T=5, B=3, forms=("columns first",) * 3))
@settings(deadline=None, max_examples=400)
def test_a_call_is_the_same_either_way(native, dtype, setting):
    assert_agrees(setting, "native", dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", range(3), ids=["x", "h", "c"])
@pytest.mark.parametrize("kind", [LSTM, LSTMCell])
@pytest.mark.parametrize("batch_first", [False, True])
def test_every_form_of_every_argument(native, dtype, kind, place, form, batch_first):
    forms = tuple(form if n == place else "as it is" for n in range(3))
    options = {"batch_first": True} if batch_first and kind is LSTM else {}
    for batched in (True, False):
        assert_agrees(Setting(kind, options, 3, 2, batched, "tuple", forms), "native", dtype)


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_native_engine_takes_what_fits(native, dtype, batch_first):
    """Otherwise the tests above would compare the long way with itself."""
    for options in OPTIONS:
        options = options | {"batch_first": batch_first}
        for batched in (True, False):
            setting = Setting(options=options, batched=batched, hx="tuple")
            layer, (x, hx) = setting.layer("native", dtype), setting.arguments(dtype)
            for given_hx in (None, hx):
                assert layer._at_once(x, given_hx, int(batch_first)) is not None
    weights = Linear(4, 3, engine="native", dtype=dtype)
    weights(np.ones((1, 4), dtype))
    for shape in ((2, 3, 4), (2, 4), (4,)):
        assert weights._packed[1].call(normal(*shape, dtype=dtype), 1) is not None
    for batched in (True, False):
        setting = Setting(LSTMCell, batched=batched, hx="tuple")
        assert setting.layer("native", dtype)._at_once(*setting.arguments(dtype), -1) is not None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "shape", [(3, 2, 4), (2, 4), (4,), (2, 1, 2, 4), (3, 0, 4), (3, 5), (9, 4)]
)
def test_every_form_of_a_linear_input(native, dtype, form, shape):
    layers = [
        kind(4, 3, engine=engine, dtype=dtype, seed=0)
        for kind, engine in ((Linear, "native"), (LongLinear, "native"), (Linear, "numpy"))
    ]
    for layer in layers:
        layer(np.ones((1, 4), dtype))  # packs the weights
    x, untouched = (FORMS[form](normal(*shape, dtype=dtype)) for _ in range(2))
    got, expected, plain = (outcome(lambda layer=layer: (layer(x),)) for layer in layers)
    assert_same_outcome(got, expected, x)
    assert not isinstance(expected, str) or got == plain
    assert np.array_equal(np.asarray(x), np.asarray(untouched))


def test_a_linear_call_sees_what_has_changed(engine):
    pair = [kind(4, 3, engine=engine, seed=0) for kind in (Linear, LongLinear)]
    x = normal(2, 4)
    results = []
    for value in (None, 1.0, 2.0):
        for layer in pair:
            if value:
                layer.weight = np.full((3, 4), value)
        for _ in range(2):
            got, expected = (layer(x) for layer in pair)
            assert_same_bits(got, expected)
        results.append(got)
    assert not np.array_equal(results[0], results[1]) and not np.array_equal(*results[1:])


@pytest.mark.parametrize("options", OPTIONS[:2] + OPTIONS[3:4])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_chunk(native, dtype, form, options):
    """A stream goes on from its states, and keeps them where nothing can be computed."""
    streams = [
        Setting(options=options).layer("native", dtype, long).stream(3) for long in (False, True)
    ]
    for stream in streams:
        stream.step(np.ones((3, 4), dtype))
    for shape in ((2, 3, 4), (3, 3, 4), (3, 2, 4), (5, 4), (3, 3, 5), (3, 0, 4), (0, 3, 4)):
        x = FORMS[form](normal(*shape, dtype=dtype))
        got, expected = (outcome(lambda s=s, x=x: (s.run(x),)) for s in streams)
        assert_same_outcome(got, expected, [x, streams[0]._states])
        assert_same_outcome(streams[0].state, streams[1].state)


# ---- what is seen ---------------------------------------------------------------------------


def _in_place(self, x, hx, axis):
    """The final states are the caller's own arrays."""
    y, (h, c) = LSTM._at_once(self, x, hx, axis)
    hx[0][...] = h
    return y, (hx[0], c)


FAULTS = {
    "shares": _in_place,
    "ignores hx": lambda self, x, hx, axis: LSTM._at_once(self, x, None, axis),
    "a list": lambda self, x, hx, axis: [*LSTM._at_once(self, x, hx, axis)],
    "one memory": lambda self, x, hx, axis: (lambda y, s: (y, (y[-1:], s[1])))(
        *LSTM._at_once(self, x, hx, axis)
    ),
    "another layout": lambda self, x, hx, axis: (lambda y, s: (np.asfortranarray(y), s))(
        *LSTM._at_once(self, x, hx, axis)
    ),
    "read-only": lambda self, x, hx, axis: (lambda y, s: (read_only(y), s))(
        *LSTM._at_once(self, x, hx, axis)
    ),
    "the other axis": lambda self, x, hx, axis: LSTM._at_once(self, x.swapaxes(0, 1), hx, 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(native, fault):
    setting = Setting(T=3, B=3, hx="tuple")
    kind = type(fault, (LSTM,), {"_at_once": FAULTS[fault]})
    broken = kind(4, 5, engine="native", seed=0).eval()
    broken._whole_stacks()
    with pytest.raises(AssertionError):
        assert_agrees(setting, "native", "float32", broken)


def test_what_should_be_refused_and_is_taken_is_seen(native):
    def lenient(self, x, hx, axis):
        return LSTM._at_once(self, np.asarray(x, np.float32), hx, axis)

    kind = type("Lenient", (LSTM,), {"_at_once": lenient})
    broken = kind(4, 5, engine="native", seed=0).eval()
    broken._whole_stacks()
    setting = Setting(forms=("float64", "as it is", "as it is"))
    with pytest.raises(AssertionError):
        assert_agrees(setting, "native", "float32", broken)


# ---- what changes between two calls ---------------------------------------------------------


def twins(engine, **options):
    """The same layer twice, the second one on the long way, and a function that compares them."""
    pair = [kind(4, 5, engine=engine, seed=0, **options).eval() for kind in (LSTM, LongLSTM)]
    x, hx = normal(3, 2, 4), (normal(1, 2, 5, seed=1), normal(1, 2, 5, seed=2))

    def compare(change=lambda layer: None, **call):
        for layer in pair:
            change(layer)
        got, expected = (layer(x, hx, **call) for layer in pair)
        for one, want in zip(arrays_in(got), arrays_in(expected), strict=True):
            assert_same_bits(np.array(one), np.array(want))
        return np.array(got[0])

    compare()  # packs the weights
    return compare


CHANGES = {
    "assignment": lambda layer: setattr(layer, "weight_hh_l0", np.ones((20, 5))),
    "load_state_dict": lambda layer: layer.load_state_dict(LSTM(4, 5, seed=3).state_dict()),
    "reset_parameters": lambda layer: layer.reset_parameters(5),
    "an optimiser": lambda layer: (layer.buffers().__next__()[1].fill(0.25), layer.changed()),
    "zoneout": lambda layer: setattr(layer, "zoneout", 0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_call_sees_what_has_changed(engine, change):
    compare = twins(engine)
    before = compare()
    after = compare(CHANGES[change])
    assert not np.array_equal(before, after)
    assert_same_bits(compare(), after)


def test_a_call_sees_that_the_batch_comes_first(engine):
    compare = twins(engine)
    compare(lambda layer: setattr(layer, "batch_first", False))
    with pytest.raises(ValueError, match=r"Expected hidden\[0\] size \(1, 3, 5\)"):
        compare(lambda layer: setattr(layer, "batch_first", True))


@pytest.mark.parametrize("option", ["recurrent_dropout", "input_dropout", "zoneout"])
def test_training_draws_and_evaluation_does_not(engine, option):
    compare = twins(engine, **{option: 0.5})
    still = compare()
    assert_same_bits(compare(), still)
    first, second = compare(LSTM.train), compare()
    assert not np.array_equal(first, second)
    assert_same_bits(compare(LSTM.eval), still)


def test_other_arguments_of_a_call(engine):
    compare = twins(engine)
    whole = compare()
    assert not np.array_equal(compare(lengths=[3, 1]), whole)
    assert not np.array_equal(compare(mask=np.eye(3, 2) > 0), whole)
    assert not np.array_equal(compare(reset=np.eye(3, 2) > 0), whole)
    assert_same_bits(compare(masked_output="last"), whole)
    assert_same_bits(compare(return_cells=True, return_gates=True), whole)
    with pytest.raises(ValueError, match="masked_output must be"):
        compare(masked_output="none")


def test_packed_undecided_learned_and_wide_layers(engine):
    """What only the layer knows how to begin, even if the weights are packed."""
    for options in ({"learn_initial_state": True}, {"batch_first": None}):
        pair = [kind(4, 5, engine=engine, seed=0, **options) for kind in (LSTM, LongLSTM)]
        for layer in pair:
            if layer.learn_initial_state:
                layer.h_0_l0 = np.ones(5)
            layer(normal(3, 4))
        got, expected = (layer(normal(2, 4)) for layer in pair)
        assert_same_bits(got[0], expected[0])
        if layer.batch_first is None:
            with pytest.raises(ValueError, match="undecided"):
                pair[0](normal(3, 2, 4))
    pair = [kind(4, [5, 6], engine=engine, seed=0) for kind in (LSTM, LongLSTM)]
    x = pack_sequence([normal(3, 4), normal(1, 4)])
    for given_x in (normal(3, 2, 4), normal(3, 2, 4), x):
        got, expected = ([*arrays_in(layer(given_x))] for layer in pair)
        for one, want in zip(got, expected, strict=True):
            assert_same_bits(one, want)


def test_many_threads_call_one_layer(exact_engine):
    """Of any shape at once: no call may use what another one works in."""
    lstm = LSTM(4, 40, 2, engine=exact_engine, seed=0, num_threads=2).eval()
    shapes = [(1, 1, 4), (7, 2, 4), (3, 30, 4), (40, 3, 4), (5, 4)]
    inputs = [normal(*shape, seed=n) for n, shape in enumerate(shapes)]
    expected = [[np.array(a) for a in arrays_in(lstm(x))] for x in inputs]

    def call(worker):
        for n in range(40):
            k = (worker + n) % len(inputs)
            for got, want in zip(arrays_in(lstm(inputs[k])), expected[k], strict=True):
                assert_same_bits(got, want)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(call, range(8)))
    finally:
        sys.setswitchinterval(interval)


def test_a_layer_in_use_is_not_kept_by_its_calls(engine):
    """Results own their memory: nothing of the layer, or of the arguments, stays with them."""
    lstm, x = LSTM(4, 5, engine=engine, seed=0).eval(), normal(1, 1, 4)
    hx = normal(1, 1, 5), normal(1, 1, 5)
    lstm(x, hx)
    counts = [sys.getrefcount(one) for one in (x, hx, *hx, None)][:-1]
    results = [lstm(x, hx) for _ in range(10)]
    assert [sys.getrefcount(one) for one in (x, hx, *hx, None)][:-1] == counts
    first = [np.array(a) for a in arrays_in(results[0])]
    for result in results[1:]:
        for array in arrays_in(result):
            array[...] = np.nan
    for got, want in zip(arrays_in(results[0]), first, strict=True):
        assert_same_bits(got, want)
