"""`predict` and `run` over data that are read, and results that are written, piece by piece.

Values are compared with those of the whole array at once, bit for bit. That reading goes on beside
computing is shown by events that each side waits for, not by time.
"""

import copy
import functools
import signal
import subprocess
import sys
import textwrap
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import LSTM, Dropout, Embedding, Last, Layer, Linear, Sequential, predict, run
from fastlstm.training import Arrays, Batch, Sequences, Windows, pieces

N, T, F = 23, 6, 3  # samples, steps, features; batches of 4 leave one of 3
X = normal(N, T, F)
LONG = normal(50, 2, F, seed=1)
WAIT = 30  # seconds after which a test fails that would hang


def regressor(engine="auto", **options):
    lstm = LSTM(F, 5, seed=0, engine=engine, **options)
    last = Last(batch_first=options.get("batch_first", False))
    return Sequential(lstm, Dropout(0.5), last, Linear(5, 2, seed=1, engine=engine))


def tagger(engine="auto", **options):
    lstm = LSTM(F, 5, seed=0, engine=engine, **options)
    return Sequential(lstm, Dropout(0.5), Linear(5, 2, seed=1, engine=engine))


class Slices:
    """An array that only gives slices, as those of files do, and tells which."""

    def __init__(self, array, chunks=None):
        self._array, self.shape, self.dtype, self.chunks = array, array.shape, array.dtype, chunks
        self.asked = []

    def __getitem__(self, where):
        self.asked.append(where)
        return self._array[where].copy()

    def __setitem__(self, where, values):
        self.asked.append(where)
        self._array[where] = values


def new(folder, suffix=""):
    """The path of another file."""
    return folder / f"{len([*folder.iterdir()])}{suffix}"


def npy(tmp_path, array):
    path = new(tmp_path, ".npy")
    np.save(path, array)
    return np.load(path, mmap_mode="r+")


def view_of_npy(tmp_path, array):
    return npy(tmp_path, array).view(np.ndarray)


def hdf5(tmp_path, array, **options):
    h5py = pytest.importorskip("h5py")
    file = h5py.File(new(tmp_path), "w")
    return file.create_dataset("x", data=array, **options)


def zarr(tmp_path, array):
    zarr = pytest.importorskip("zarr")
    chunks = (5, *array.shape[1:])
    made = zarr.open(str(new(tmp_path)), mode="w", shape=array.shape, dtype="f4", chunks=chunks)
    made[:] = array
    return made


def slices(tmp_path, array):
    return Slices(array.copy())


STORES = {
    "slices": slices,
    "npy": npy,
    "a view of npy": view_of_npy,
    "hdf5": hdf5,
    "hdf5 in chunks": functools.partial(hdf5, chunks=True, compression="gzip"),
    "zarr": zarr,
}


@pytest.fixture(params=STORES)
def store(request, tmp_path):
    return functools.partial(STORES[request.param], tmp_path)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [
        thread.name for thread in threading.enumerate() if thread.name.startswith("fastlstm_")
    ]


# ---- predict: values ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("make", [regressor, tagger])
def test_predict_of_what_is_stored(store, make, batch_first, native):
    model = make(batch_first=batch_first)
    assert_same_bits(predict(model, store(X), 4), predict(model, X))
    assert model.training and model[1].training


@pytest.mark.parametrize("make", [regressor, tagger])
def test_predict_into_what_is_stored(store, make, native):
    model = make()
    expected = predict(model, X)
    for data in (X, Slices(X), Arrays(X, X), (X, X), (X[n : n + 7] for n in range(0, N, 7))):
        out = store(np.full(expected.shape, np.nan, np.float32))
        assert predict(model, data, 4, out=out) is out
        assert_same_bits(out[:], expected)


def test_predict_of_arrays_that_come_one_after_the_other(native):
    model = tagger()
    lengths = [5, 1, 10, 7]
    chunks = np.split(X, np.cumsum(lengths)[:-1])
    results = predict(model, iter(chunks), 4)
    assert not isinstance(results, np.ndarray)
    results = list(results)
    assert [len(y) for y in results] == lengths
    assert_same_bits(np.concatenate(results), predict(model, X))
    assert list(predict(model, iter([]))) == []


def test_predict_of_tuples_and_arrays_of_what_is_stored(tmp_path, native):
    model, x = regressor(), Slices(X)
    assert_same_bits(predict(model, (x, np.zeros(N)), 4), predict(model, X))
    assert x.asked == [slice(n, min(n + 4, N)) for n in range(0, N, 4)]
    assert_same_bits(predict(model, Arrays(npy(tmp_path, X), X), 4), predict(model, X))


def test_predict_of_half_types(native):
    """They are widened, as those in memory are."""
    model = regressor()
    half = X.astype(np.float16)
    assert_same_bits(predict(model, Slices(half), 4), predict(model, half))


def test_predict_of_tokens(store, native):
    model = Sequential(Embedding(9, 4, seed=0), LSTM(4, 3, seed=0), Last())
    tokens = np.random.default_rng(0).integers(0, 9, (N, T))
    assert_same_bits(predict(model, Slices(tokens), 4), predict(model, tokens))


class Own:
    """A data set that gives one buffer again and again, in the thread in which it was made."""

    def __init__(self, x):
        self._x, self._buffer, self._thread = x, np.empty_like(x), threading.get_ident()

    def __len__(self):
        return len(self._x)

    def __getitem__(self, indices):
        assert threading.get_ident() == self._thread
        rows = self._buffer[: len(indices)]
        rows[...] = self._x[indices]
        return Batch(rows, None)


def test_predict_of_a_data_set_of_ones_own(native):
    model = tagger()
    assert_same_bits(predict(model, Own(X), 4), predict(model, X))
    out = np.empty((N, T, 2), np.float32)
    assert_same_bits(predict(model, Own(X), 4, out=out), predict(model, X))


def test_lengths_of_a_data_set_of_ones_own(native):
    class Ragged(Own):
        """It uses one buffer for lengths too."""

        lengths = np.arange(N) % T + 1
        room = np.empty(4, np.int64)

        def __getitem__(self, indices):
            lengths = self.room[: len(indices)]
            lengths[...] = self.lengths[indices]
            return super().__getitem__(indices)._replace(lengths=lengths)

    model = Sequential(tagger(), Last()).eval()
    expected = model(X.swapaxes(0, 1), lengths=Ragged.lengths)
    assert_same_bits(predict(model, Ragged(X), 4), expected)
    parts = predict(tagger(), Ragged(X), 4)
    assert [len(part) for part in parts] == Ragged.lengths.tolist()


def test_an_iterator_may_use_its_buffer_again(native):
    model = tagger()

    def reads(buffer):
        for first in range(0, N - N % 4, 4):
            buffer[...] = X[first : first + 4]
            yield buffer

    results = list(predict(model, reads(np.empty((4, T, F), np.float32))))
    assert_same_bits(np.concatenate(results), predict(model, X)[: N - N % 4])
    buffer = np.empty((5, 2, F), np.float32)

    def steps():
        for first in range(0, 50, 5):
            buffer[...] = LONG[first : first + 5]
            yield buffer

    assert_same_bits(np.concatenate([*run(model.eval(), steps())]), model(LONG))


def test_predict_of_windows_and_sequences_beside_computing(native):
    model, series = regressor(), normal(40, F, seed=2)
    data = Windows(series, 6)
    assert_same_bits(predict(model, data, 4), predict(model, data, 1000))
    sequences = [X[n, : 1 + n % T] for n in range(N)]
    ragged = predict(tagger(), sequences, 4)
    for got, expected in zip(ragged, predict(tagger(), Sequences(sequences), 100), strict=True):
        assert_same_bits(got, expected)


def test_whole_chunks_are_read(native):
    model = regressor()
    x = Slices(X, chunks=(5, T, F))
    predict(model, x, 4)
    assert x.asked == [slice(n, min(n + 5, N)) for n in range(0, N, 5)]
    for chunks in (None, (), ((5, 5), (6,), (3,)), (4, 2, 2)):  # the third are dask's
        x = Slices(X, chunks=chunks)
        assert_same_bits(predict(model, x, 4), predict(model, X))
        assert x.asked == [slice(n, min(n + 4, N)) for n in range(0, N, 4)]


# ---- run: values --------------------------------------------------------------------------------


def whole(model, x):
    """What a model that is called gives for a recording, from an LSTM its output."""
    y = model.eval()(x)
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("make", [tagger, lambda **options: LSTM(F, 5, seed=0, **options)])
@pytest.mark.parametrize("of_one", [False, True])
def test_run_is_the_whole_at_once(store, make, batch_first, of_one, native):
    model = make(batch_first=batch_first)
    x = LONG[:, 0] if of_one else LONG.swapaxes(0, 1) if batch_first else LONG
    x = np.ascontiguousarray(x)
    expected = whole(model, x)
    for steps in (7, 50, None):
        assert_same_bits(run(model, store(x), steps=steps), expected)
        assert_same_bits(run(model, x, steps=steps), expected)
        out = np.empty_like(expected)
        assert run(model, store(x), steps=steps, out=out) is out
        assert_same_bits(out, expected)
    out = Slices(np.zeros_like(expected))
    run(model, x, steps=7, out=out)
    assert_same_bits(out[:], expected)


def test_run_gives_every_step_behind_a_last(native):
    model = regressor()
    expected = model.stream(2).run(LONG)
    assert_same_bits(run(model, LONG, steps=9), expected)
    assert model.training  # which streams never look at


def test_run_of_tokens(native):
    model = Sequential(Embedding(9, 4, seed=0), LSTM(4, 3, seed=0))
    tokens = np.random.default_rng(0).integers(0, 9, (50, 2))
    assert_same_bits(run(model, Slices(tokens), steps=7), whole(model, tokens))
    assert_same_bits(run(model, Slices(tokens[:, 1].copy()), steps=7), whole(model, tokens)[:, 1])


def test_run_where_the_layout_is_undecided(native):
    """One recording has no axis of sequences, so it does not matter."""
    lstm = LSTM(F, 5, seed=0, batch_first=None)
    assert_same_bits(run(lstm, LONG[:, 0], steps=7), whole(lstm, LONG[:, 0]))
    assert_same_bits(run(lstm, LONG[:1, 0]), whole(lstm, LONG[:1, 0]))
    with pytest.raises(ValueError, match="batch_first is undecided"):
        run(lstm, LONG)


@pytest.mark.parametrize("make", [tagger, lambda: LSTM(F, 5, seed=0)])
def test_a_stream_goes_on_where_it_stands(make, native):
    model = make()
    expected = whole(model, LONG)
    stream, by_hand = model.stream(2), model.stream(2)
    by_hand.run(LONG[:30])
    parts = [run(stream, Slices(LONG[:20]), steps=7)]
    parts += run(stream, iter([LONG[20:24], LONG[24:24], LONG[24:30]]))
    assert_same_states(stream, by_hand)
    out = np.empty((20, *expected.shape[1:]), np.float32)
    parts.append(run(stream, iter([LONG[30:41], LONG[41:]]), out=out))
    by_hand.run(LONG[30:])
    assert_same_states(stream, by_hand)
    assert_same_bits(np.concatenate(parts), expected)


def assert_same_states(stream, other):
    ours, theirs = stream.state, other.state
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        ours, theirs = list(ours.values()), list(theirs.values())
    for one, another in zip(ours, theirs, strict=True):
        for array, expected in zip(one, another, strict=True):
            assert_same_bits(array, expected)


def test_an_iterator_that_is_left_leaves_the_stream_behind_what_was_taken(native):
    lstm = LSTM(F, 5, seed=0)
    stream, by_hand = lstm.stream(2), lstm.stream(2)
    results = run(stream, (LONG[n : n + 10] for n in range(0, 50, 10)))
    next(results), next(results)
    results.close()
    by_hand.run(LONG[:20])
    assert_same_states(stream, by_hand)


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 4), st.none() | st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_run_however_it_is_cut(length, steps, batch, chunk):
    lstm = LSTM(F, 3, seed=0)
    x = normal(length, batch, F)
    stored = Slices(x, chunks=None if chunk is None else (chunk, batch, F))
    assert_matches(lstm, run(lstm, stored, steps=steps), whole(lstm, x))


@given(st.integers(1, 40), st.integers(1, 50), st.none() | st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_predict_however_it_is_cut(count, batch_size, chunk):
    model = regressor()
    x = normal(count, T, F)
    stored = Slices(x, chunks=None if chunk is None else (chunk, T, F))
    assert_matches(model[0], predict(model, stored, batch_size), predict(model, x))


def assert_matches(lstm, got, expected):
    if lstm.engine == "native":
        assert_same_bits(got, expected)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


# ---- comparisons that must fail -----------------------------------------------------------------


def without_last(self, axis, size):
    yield from list(ORIGINAL(self, axis, size))[:-1]


def backwards(self, axis, size):
    yield from list(ORIGINAL(self, axis, size))[::-1]


def first_twice(self, axis, size):
    every = list(ORIGINAL(self, axis, size))
    yield from every[:1] + every[:1] + every[2:]


ORIGINAL = pieces.Stored.pieces


@pytest.mark.parametrize("broken", [without_last, backwards, first_twice])
def test_broken_readers_are_found(monkeypatch, broken, native):
    monkeypatch.setattr(pieces.Stored, "pieces", broken)
    model, x = tagger().eval(), X[:20]  # in batches of 4
    with pytest.raises((AssertionError, ValueError)):
        assert_same_bits(predict(model, Slices(x), 4), model(x.swapaxes(0, 1)).swapaxes(0, 1))
    with pytest.raises((AssertionError, ValueError)):
        assert_same_bits(run(model, Slices(LONG), steps=5), model(LONG))


def test_a_state_that_is_not_carried_is_found(monkeypatch, native):
    model = LSTM(F, 5, seed=0)
    own = fastlstm.Stream.run

    def forgets(self, x):
        self.reset()
        return own(self, x)

    monkeypatch.setattr(fastlstm.Stream, "run", forgets)
    with pytest.raises(AssertionError):
        assert_same_bits(run(model, LONG, steps=7), whole(model, LONG))


# ---- beside computing, and bounded memory -------------------------------------------------------


class Meeting(Layer):
    """A layer that computes batch n only when batch n + 1 has been read."""

    stepwise = True

    def __init__(self, reads, batches):
        super().__init__()
        self._reads, self._batches, self._done = reads, batches, 0

    def forward(self, input):
        self._done += 1
        assert self._reads.reached(min(self._done + 1, self._batches)), "nothing is read meanwhile"
        return input


class Reads(Slices):
    def __init__(self, array):
        super().__init__(array)
        self._condition = threading.Condition()

    def __getitem__(self, where):
        part = super().__getitem__(where)
        with self._condition:
            self._condition.notify_all()
        return part

    def reached(self, count):
        with self._condition:
            return self._condition.wait_for(lambda: len(self.asked) >= count, WAIT)


def test_the_next_batch_is_read_while_one_is_computed():
    x = Reads(X)
    model = Sequential(Meeting(x, 6), LSTM(F, 5, seed=0), Last())
    np.testing.assert_allclose(
        predict(model, x, 4), predict(Sequential(model[1], model[2]), X), atol=1e-6
    )
    x = Reads(LONG)
    model = Sequential(Meeting(x, 5), LSTM(F, 5, seed=0))
    np.testing.assert_allclose(run(model, x, steps=10), model[1](LONG)[0], atol=1e-6)


def test_results_are_written_while_others_are_computed():
    written = threading.Event()

    class Writes(Slices):
        def __setitem__(self, where, values):
            super().__setitem__(where, values)
            written.set()

    class Waits(Layer):
        count = 0

        def forward(self, input):
            self.count += 1
            assert self.count < 3 or written.wait(WAIT)  # of the first, while the third waits
            return input

    model = Sequential(LSTM(F, 5, seed=0), Last(), Waits())
    predict(model, Slices(X), 4, out=Writes(np.zeros((N, 5), np.float32)))


def test_only_a_few_pieces_are_held():
    """What is read is at most three batches ahead of what has been written."""
    alive, most, lock = [0], [0], threading.Lock()  # one thread reads, and another writes

    class Counted(Slices):
        def __getitem__(self, where):
            with lock:
                alive[0] += 1
                most[0] = max(most[0], alive[0])
            return super().__getitem__(where)

    class Written(Slices):
        def __setitem__(self, where, values):
            with lock:
                alive[0] -= 1

    x = normal(400, T, F)
    predict(regressor(), Counted(x), 4, out=Written(np.zeros((400, 2), np.float32)))
    assert 2 <= most[0] <= 3 and alive[0] == 0


class Endless:
    """Zeros of any size, which are made as they are read."""

    def __init__(self, *shape):
        self.shape, self.dtype = shape, np.dtype(np.float32)

    def __getitem__(self, where):
        count = len(range(*where.indices(self.shape[0])))
        return np.zeros((count, *self.shape[1:]), np.float32)

    def __setitem__(self, where, values):
        assert len(values)


@pytest.mark.parametrize("way", ["predict", "run", "an iterator"])
def test_memory_is_that_of_a_few_pieces(way):
    """Of 50 MB that are read, and 25 MB that are written, as NumPy's memory is counted."""
    lstm = LSTM(64, 32, seed=0, num_threads=1)
    if way == "predict":
        x, out, options = Endless(2000, 100, 64), Endless(2000, 100, 32), {"batch_size": 20}
        work = functools.partial(predict, lstm, x, out=out, **options)
        a_piece = 20 * 100 * (64 + 32) * 4
    else:
        x, out = Endless(10_000, 20, 64), Endless(10_000, 20, 32)
        if way == "an iterator":
            x = (np.zeros((100, 20, 64), np.float32) for _ in range(100))
        work = functools.partial(run, lstm, x, out=out)
        work = work if way == "an iterator" else functools.partial(work, steps=100)
        a_piece = 100 * 20 * (64 + 32) * 4
    predict(lstm, np.zeros((4, 3, 64), np.float32))
    tracemalloc.start()
    try:
        work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * a_piece


@pytest.mark.slow
def test_a_process_stays_small(tmp_path):
    """HDF5 to HDF5, 256 MB each: the process grows by no more than a tenth of that."""
    pytest.importorskip("h5py")
    program = f"""
    import resource, h5py, numpy as np, fastlstm
    file = h5py.File({str(tmp_path / "big.h5")!r}, "w")
    x = file.create_dataset("x", (8192, 64, 128), "f4", chunks=(64, 64, 128))
    for n in range(0, 8192, 512):
        x[n:n+512] = np.full((512, 64, 128), 0.5, np.float32)
    y = file.create_dataset("y", (8192, 64, 128), "f4", chunks=(64, 64, 128))
    lstm = fastlstm.LSTM(128, 128, batch_first=True, seed=0)
    fastlstm.predict(lstm, x[:64], 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fastlstm.predict(lstm, x, 64, out=y)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert np.array_equal(y[-1], lstm(np.full((1, 64, 128), 0.5, np.float32))[0][0])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 26_000  # KB


# ---- what goes wrong ----------------------------------------------------------------------------


class Fault(Exception):
    """An error that nothing else raises."""


class FailsAt(Slices):
    """It raises a `Fault` at the slice that begins there."""

    def __init__(self, array, first, fault=Fault):
        super().__init__(array)
        self._first, self._fault = first, fault

    def _fail(self, where):
        where = where[1] if isinstance(where, tuple) else where
        if where.start == self._first:
            raise self._fault("as it is")

    def __getitem__(self, where):
        self._fail(where)
        return super().__getitem__(where)

    def __setitem__(self, where, values):
        self._fail(where)
        super().__setitem__(where, values)


@pytest.mark.parametrize("first", [0, 4, 20])
def test_an_error_of_reading_comes_through(first):
    model = regressor()
    expected = predict(model, X)
    out = Slices(np.full((N, 2), 7, np.float32))
    with pytest.raises(Fault, match="as it is"):
        predict(model, FailsAt(X, first), 4, out=out)
    assert model.training and model[1].training
    # The first results, and then what was there.
    written = int((out[:] != 7).all(axis=1).sum())
    assert written <= first
    np.testing.assert_allclose(out[:written], expected[:written], atol=1e-6)
    assert (out[written:N] == 7).all()


def test_an_error_of_writing_comes_through():
    model = regressor()
    with pytest.raises(Fault, match="as it is"):
        predict(model, Slices(X), 4, out=FailsAt(np.zeros((N, 2), np.float32), 8))
    assert model.training
    with pytest.raises(Fault, match="as it is"):
        predict(model, X, 4, out=FailsAt(np.zeros((N, 2), np.float32), 8))


@pytest.mark.parametrize("fault", [Fault, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("side", ["reading", "writing", "an iterator"])
def test_a_stream_is_put_back_after_an_error(side, fault):
    model = tagger()
    stream, before = model.stream(2), model.stream(2)
    for one in (stream, before):
        one.run(LONG[:3])
    x, options = FailsAt(LONG, 30 if side == "reading" else None, fault), {"steps": 10}
    out = FailsAt(np.zeros((50, 2, 2), np.float32), 30 if side == "writing" else None, fault)
    if side == "an iterator":
        x, options = (FailsAt(LONG, 30, fault)[n : n + 10] for n in range(0, 50, 10)), {}
    with pytest.raises(fault, match="as it is"):
        run(stream, x, out=out, **options)
    assert_same_states(stream, before)


class Breaks(Layer):
    stepwise = True

    def forward(self, input):
        raise Fault("as it is")


def test_an_error_of_computing_comes_through():
    model = Sequential(LSTM(F, 5), Last(), Breaks())
    for data in (X, Slices(X), Own(X), [X[0], X[1]]):
        with pytest.raises(Fault, match="as it is"):
            predict(model, data, 4)
    with pytest.raises(Fault, match="as it is"):
        list(predict(model, iter([X])))
    with pytest.raises(Fault, match="as it is"):
        run(Sequential(LSTM(F, 5), Breaks()), Slices(LONG), steps=7)
    assert model.training


@pytest.mark.parametrize("side", ["reading", "computing"])
def test_ctrl_c_ends_the_work(side):
    """What is computed comes to its end, and no thread is left, which a fixture sees."""

    calls = []

    def press():
        calls.append(None)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)

    class Pressed(Slices):
        def __getitem__(self, where):
            if side == "reading":
                press()
            return super().__getitem__(where)

    class Presses(Layer):
        stepwise = True

        def forward(self, input):
            if side == "computing":
                press()
            return input

    x, model = Pressed(normal(4000, T, F)), Sequential(Presses(), LSTM(F, 5), Last())
    with pytest.raises(KeyboardInterrupt):
        predict(model, x, 4)
    assert len(x.asked) < 10 and model.training


@pytest.mark.parametrize("side", ["reading", "computing"])
def test_ctrl_c_ends_a_run(side):
    class Pressed(Slices):
        def __getitem__(self, where):
            if side == "reading" and len(self.asked) == 3:
                signal.raise_signal(signal.SIGINT)
            return super().__getitem__(where)

    class Presses(Layer):
        stepwise, count = True, 0

        def forward(self, input):
            self.count += 1
            if side == "computing" and self.count == 3:
                signal.raise_signal(signal.SIGINT)
            return input

    x, stream = Pressed(normal(4000, 1, F)), Sequential(Presses(), LSTM(F, 5)).stream()
    with pytest.raises(KeyboardInterrupt):
        run(stream, x, steps=10)
    assert len(x.asked) < 10 and not stream.state["1"][0].any()


def test_an_iterator_that_is_left_gives_the_mode_back():
    model = regressor()
    results = predict(model, iter([X, X, X]))
    assert model.training
    next(results)
    assert not model.training and not model[1].training
    results.close()
    assert model.training and model[1].training


def refuses(work, sentence, kind=ValueError):
    with pytest.raises(kind, match=sentence):
        work()


def test_an_out_that_does_not_fit_is_refused_before_any_work():
    x, model = Slices(X), regressor()
    read_only = np.zeros((N, 2), np.float32)
    read_only.flags.writeable = False
    square = normal(4, F, F)
    for out, sentence, kind in [
        (
            np.zeros((N + 1, 2), np.float32),
            rf"Expected out with {N} values along axis 0",
            ValueError,
        ),
        (np.zeros((), np.float32), "Expected out with", ValueError),
        (read_only, "out is read-only", ValueError),
        ([0.0] * N, "out should have a shape, a dtype and assignment to slices", TypeError),
        (x, "out must be other memory than what is read", ValueError),
    ]:
        refuses(lambda out=out: predict(model, x, 4, out=out), sentence, kind)
    assert not x.asked
    refuses(
        lambda: predict(LSTM(F, F), square, out=square),
        "out must be other memory than what is read",
    )
    x = Slices(LONG)
    refuses(lambda: run(tagger(), x, out=np.zeros((49, 2, 2), np.float32)), "with 50 values")
    assert not x.asked


@pytest.mark.parametrize("shape, dtype", [((N, 3), "f4"), ((N,), "f4"), ((N, 2), "f8")])
def test_an_out_of_other_results_is_refused_before_it_is_written(shape, dtype):
    model = regressor()
    for data in (X, Slices(X), Own(X), iter([X])):
        out = np.full(shape, 7, dtype)
        refuses(
            lambda data=data, out=out: predict(model, data, 4, out=out),
            rf"Expected out of float32 and shape \({N}, 2\), got float",
        )
        assert (out == 7).all()


def test_an_iterator_must_fill_out():
    model = regressor()
    chunks = [X[:10], X[10:]]
    short, long = (np.full((n, 2), 7, np.float32) for n in (N - 1, N + 1))
    refuses(lambda: predict(model, iter(chunks), out=short), rf"Expected {N - 1} results")
    refuses(lambda: predict(model, iter(chunks), out=long), rf"Expected {N + 1} results.*got {N}")
    refuses(lambda: predict(model, iter([]), out=long), rf"Expected {N + 1} results.*got 0")
    assert (long[N:] == 7).all()
    refuses(lambda: run(LSTM(F, 5), iter([]), out=np.zeros((1, 5), "f4")), "at least one array")


def test_sequences_of_different_lengths_have_no_out():
    sequences = [X[n, : 1 + n % T] for n in range(N)]
    out = np.zeros((N, T, 2), np.float32)
    refuses(lambda: predict(tagger(), sequences, out=out), "sequences of different lengths")
    assert not out.any()
    out = np.zeros((N, 2), np.float32)
    assert predict(regressor(), sequences, out=out) is out and out.all()


def test_data_that_do_not_fit():
    model = regressor()
    refuses(lambda: predict(model, Slices(X.astype(np.float64))), "does not match weight dtype")
    refuses(lambda: predict(model, Slices(X[..., :2])), "input_size")
    refuses(lambda: predict(model, Slices(X[:0])), "at least one sample")
    refuses(lambda: predict(model, Slices(X[:, 0])), r"Expected x of shape \(N, T, F\)")
    unknown = Slices(X)
    unknown.shape = (float("nan"), T, F)  # as dask has it behind a selection
    refuses(lambda: predict(model, unknown), "Expected data of a known shape")
    short = Slices(X)
    short.shape = (N + 1, T, F)
    refuses(lambda: predict(model, short, 4), r"Expected a slice of data to have shape \(4, 6, 3\)")
    text = Slices(np.full((N, T, F), "a"))
    refuses(lambda: predict(model, text), "does not match weight dtype")


def test_recordings_that_do_not_fit():
    lstm = LSTM(F, 5)
    for x in (LONG[0, 0], LONG[None]):
        refuses(lambda x=x: run(lstm, x), r"Expected x of shape \(T, I\) or \(T, B, I\), got")
    tokens = Sequential(Embedding(9, 4), LSTM(4, 3, batch_first=True))
    refuses(lambda: run(tokens, np.zeros((5, 4, 3), int)), r"\(T,\) or \(B, T\), got")
    refuses(lambda: run(lstm, Slices(LONG.astype("f8"))), "does not match weight dtype")
    refuses(lambda: run(lstm, LONG[..., :2]), "x must have shape")
    refuses(lambda: run(lstm, LONG, steps=0), "steps must be greater than zero")
    refuses(
        lambda: run(lstm.stream(3), LONG), "Expected x for the 3 sequences of the stream, got 2"
    )
    refuses(lambda: run(3, LONG), "model should be a layer, or a stream of one", TypeError)
    refuses(lambda: run(LSTM, LONG), "got the class LSTM itself", TypeError)


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"reverse": True}])
def test_what_cannot_stream_is_refused_in_the_words_of_stream(options):
    lstm, x = LSTM(F, 5, **options), Slices(LONG)
    with pytest.raises(ValueError) as ours:
        run(lstm, x)
    with pytest.raises(ValueError) as theirs:
        lstm.stream()
    assert str(ours.value) == str(theirs.value) and not x.asked
    refuses(lambda: run(Linear(F, 2), LONG), "a stream needs a model with an LSTM")


def test_a_copied_stream_is_not_moved(native):
    stream = LSTM(F, 5, seed=0).stream(2)
    branch = copy.copy(stream)
    run(branch, LONG)
    assert_same_states(stream, LSTM(F, 5, seed=0).stream(2))


def test_tables_come_in_chunks(native):
    """A reader of tables, as pandas and pyarrow have them, gives chunks of rows."""
    pandas = pytest.importorskip("pandas")
    lstm, x = LSTM(F, 5, seed=0), np.ascontiguousarray(LONG[:, 0])
    tables = (pandas.DataFrame(x[n : n + 8], columns=list("abc")) for n in range(0, 50, 8))
    assert_same_bits(np.concatenate(list(run(lstm, tables))), whole(lstm, x))


def test_parquet(tmp_path, native):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    lstm, x = LSTM(F, 5, seed=0), np.ascontiguousarray(LONG[:, 0])
    table = pyarrow.table({name: x[:, n] for n, name in enumerate("abc")})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=20)
    with parquet.ParquetFile(tmp_path / "x.parquet") as file:
        out = np.zeros((50, 5), np.float32)
        run(lstm, file.iter_batches(batch_size=7), out=out)
    assert_same_bits(out, whole(lstm, x))
