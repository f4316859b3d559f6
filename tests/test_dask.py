"""`fastlstm.dask`: the bits of `fastlstm.predict`, however blocks are cut and whoever has them.

Whole clusters, and what becomes of their work when a part of them is lost: test_dask_hosts.py.
"""

import functools
import os
import pickle
import subprocess
import sys
import textwrap
from collections import OrderedDict

import numpy as np
import pytest
from errors import raises
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_same_bits

import fastlstm

pytest.importorskip("dask.array", reason="runs models over Dask's arrays")
dask = pytest.importorskip("dask")
import dask.array as da  # noqa: E402
import dask.bag as db  # noqa: E402

import fastlstm.dask  # noqa: E402
from fastlstm.dask import _ready, _Sent  # noqa: E402
from fastlstm.training import Adam, EarlyStopping, MSELoss, NonFiniteError, StepLR  # noqa: E402
from fastlstm.training.view import SamplesFirst  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def _synchronous():
    """Compute in this thread, in order, so that nothing depends on time."""
    with dask.config.set(scheduler="synchronous"):
        yield


def numbers(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def zeros(shape, **options):
    return da.zeros(shape, dtype="float32", **options)


def with_head(engine="auto", **options):
    return fastlstm.Sequential(
        fastlstm.LSTM(3, 4, 2, dropout=0.5, engine=engine, seed=0, **options),
        fastlstm.Linear(4 * (1 + options.get("bidirectional", False)), 2, engine=engine, seed=1),
    )


def tagger(engine="auto"):
    return fastlstm.Sequential(
        fastlstm.Embedding(7, 3, seed=0), fastlstm.LSTM(3, 4, engine=engine, seed=1)
    )


MODELS = {
    "lstm": lambda engine: fastlstm.LSTM(3, 4, engine=engine, seed=0),
    "batch_first": lambda engine: with_head(engine, batch_first=True),
    "time first": with_head,
    "both directions": lambda engine: with_head(engine, bidirectional=True),
    "last": lambda engine: fastlstm.Sequential(
        fastlstm.LSTM(3, 4, engine=engine, dtype="float64", seed=0), fastlstm.Last()
    ),
    "tokens": tagger,
    "linear": lambda engine: fastlstm.Linear(3, 2, engine=engine, seed=0),
}


def samples_of(name, count, steps):
    if name == "tokens":
        return np.random.default_rng(0).integers(0, 7, (count, steps))
    if name == "linear":
        return numbers(count, 3)
    return numbers(count, steps, 3, dtype="float64" if name == "last" else "float32")


def ragged(model, x, lengths):
    """What `fastlstm.predict` gives for sequences of these lengths, padded with zeros."""
    y = fastlstm.predict(model, [row[:n] for row, n in zip(x, lengths, strict=True)])
    if not isinstance(y, list):
        return y
    padded = np.zeros((*x.shape[:2], y[0].shape[-1]), y[0].dtype)
    for row, values in zip(padded, y, strict=True):
        row[: len(values)] = values
    return padded


@st.composite
def cuts(draw, count):
    """A way to cut so many samples into blocks, some of which may be empty."""
    inner = sorted(draw(st.lists(st.integers(0, count), max_size=4)))
    edges = [0, *inner, count]
    return tuple(b - a for a, b in zip(edges, edges[1:], strict=False))


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_the_bits_of_predict(exact_engine, name, data):
    model = MODELS[name](exact_engine)
    count, steps = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 6))
    x = samples_of(name, count, steps)
    blocks = data.draw(cuts(count))
    array = da.from_array(x, chunks=(blocks, *x.shape[1:]))
    y = fastlstm.dask.predict(model, array, batch_size=data.draw(st.integers(1, 5)))
    expected = fastlstm.predict(model, x)
    assert y.shape == expected.shape and y.dtype == expected.dtype and y.chunks[0] == blocks
    assert_same_bits(y.compute(), expected)
    assert_same_bits(y[-1].compute(), expected[-1])  # a part of it alone


@pytest.mark.parametrize("name", [name for name in MODELS if name != "linear"])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_lengths(exact_engine, name, data):
    """The bits of each sequence alone, and zeros after its end, whatever stands there in x."""
    model = MODELS[name](exact_engine)
    count, steps = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    x = samples_of(name, count, steps)
    lengths = np.array(data.draw(st.lists(st.integers(0, steps), min_size=count, max_size=count)))
    array = da.from_array(x, chunks=(data.draw(cuts(count)), *x.shape[1:]))
    given_lengths = data.draw(
        st.sampled_from([lengths, da.from_array(lengths, chunks=2), lengths.tolist()])
    )
    y = fastlstm.dask.predict(model, array, given_lengths, batch_size=data.draw(st.integers(1, 4)))
    assert_same_bits(y.compute(), ragged(model, x, lengths))


def test_the_engine_with_blas_keeps_to_its_tolerance():
    model, x = MODELS["time first"]("numpy"), numbers(9, 5, 3)
    y = fastlstm.dask.predict(model, da.from_array(x, chunks=(4, -1, -1)))
    np.testing.assert_allclose(y.compute(), fastlstm.predict(model, x), rtol=0, atol=1e-6)


class Broken:
    """A model seen samples first, with a fault."""

    def __init__(self, fault, model):
        self.fault, self.model, self.view = fault, model, SamplesFirst(model)
        self.gives_steps = self.view.gives_steps

    def __call__(self, batch):
        if self.fault == "lengths are lost":
            batch = batch._replace(lengths=None)
        elif self.fault == "one step late":
            batch = batch._replace(x=np.roll(batch.x, 1, 1))
        elif self.fault == "dropout":
            self.model.train()
        y = self.view(batch)
        return y[::-1] if self.fault == "samples change places" else y


@pytest.mark.parametrize(
    "fault", ["lengths are lost", "one step late", "dropout", "samples change places"]
)
def test_the_comparison_finds(fault, monkeypatch):
    model, x, lengths = with_head(bidirectional=True), numbers(6, 5, 3), [5, 1, 3, 2, 4, 5]
    array = da.from_array(x, chunks=(3, -1, -1))
    monkeypatch.setattr(fastlstm.dask, "SamplesFirst", functools.partial(Broken, fault))
    y = fastlstm.dask.predict(model, array, lengths).compute()
    with pytest.raises(AssertionError):
        assert_same_bits(y, ragged(model, x, lengths))


# ---- what Dask allows ----------------------------------------------------------------------------


def test_samples_whose_number_is_unknown():
    model, x = with_head(), numbers(20, 5, 3)
    wanted = x[:, 0, 0] > 0
    lengths = np.random.default_rng(1).integers(1, 6, 20)
    array, n = da.from_array(x, chunks=(6, -1, -1)), da.from_array(lengths, chunks=6)
    chosen = array[da.from_array(wanted, chunks=6)]
    y = fastlstm.dask.predict(model, chosen, n[da.from_array(wanted, chunks=6)])
    assert np.isnan(y.shape[0]) and y.shape[1:] == (5, 2)
    assert_same_bits(y.compute(), ragged(model, x[wanted], lengths[wanted]))
    raises(
        lambda: fastlstm.dask.predict(model, chosen, lengths),
        ValueError,
        "Expected lengths as a Dask array in the blocks of the samples, because"
        " how many samples there are is unknown; the array's"
        " compute_chunk_sizes() finds it out",
    )


def test_no_samples():
    y = fastlstm.dask.predict(with_head(), zeros((0, 5, 3)))
    assert y.compute().shape == (0, 5, 2)


def test_weights_are_those_of_the_call():
    model, x = fastlstm.LSTM(3, 4, seed=0), numbers(4, 5, 3)
    expected = fastlstm.predict(model, x)
    y = fastlstm.dask.predict(model, da.from_array(x))
    model.weight_hh_l0 = np.zeros((16, 4))
    assert not np.array_equal(fastlstm.predict(model, x), expected)
    assert_same_bits(y.compute(), expected)


def test_equal_models_have_one_name():
    """So that Dask computes once what is asked for twice, and only that."""

    def small():
        return fastlstm.Sequential(fastlstm.LSTM(3, 4, seed=0), fastlstm.Linear(4, 2, seed=1))

    array = zeros((4, 5, 3), chunks=(2, -1, -1))
    model = small()
    names = [fastlstm.dask.predict(m, array).name for m in (model, small())]
    model(np.zeros((5, 1, 3), np.float32))  # packs its weights
    names.append(fastlstm.dask.predict(model, array).name)
    assert len(set(names)) == 1
    model[1].bias = [1, 2]
    others = [
        fastlstm.dask.predict(model, array),
        fastlstm.dask.predict(small(), array + 1),
        fastlstm.dask.predict(small(), array, batch_size=1),
        fastlstm.dask.predict(small(), array, [5, 5, 5, 5]),
        fastlstm.dask.predict(small(), array, [5, 5, 5, 4]),
    ]
    assert len({names[0], *(y.name for y in others)}) == 6


def test_a_model_in_training_stays_so():
    model = with_head()
    y = fastlstm.dask.predict(model, zeros((4, 5, 3), chunks=(2, -1, -1)))
    y.compute()
    assert all(layer.training for _, layer in model.named_layers())


def test_blocks_run_beside_each_other():
    model, x = with_head(), numbers(64, 20, 3)
    y = fastlstm.dask.predict(model, da.from_array(x, chunks=(1, -1, -1)))
    assert_same_bits(y.compute(scheduler="threads", num_workers=8), fastlstm.predict(model, x))


# ---- a model on its way --------------------------------------------------------------------------


class Counted(fastlstm.Layer):
    """Counts how often it is pickled, and made of a pickle."""

    stepwise = True
    pickled = unpickled = 0

    def forward(self, input):
        return input + 1

    def __getstate__(self):
        Counted.pickled += 1
        return super().__getstate__()

    def __setstate__(self, state):
        Counted.unpickled += 1
        super().__setstate__(state)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_a_model_is_pickled_once_and_made_once(scheduler, monkeypatch):
    monkeypatch.setattr(Counted, "pickled", 0)
    monkeypatch.setattr(Counted, "unpickled", 0)
    monkeypatch.setattr(_Sent, "_kept", OrderedDict())
    x = numbers(40, 2, 3)
    y = fastlstm.dask.predict(Counted(), da.from_array(x, chunks=(1, -1, -1)))
    assert_same_bits(y.compute(scheduler=scheduler, num_workers=4), x + 1)
    assert (Counted.pickled, Counted.unpickled) == (1, 1)


def test_a_process_keeps_a_few_models(monkeypatch):
    monkeypatch.setattr(_Sent, "_kept", OrderedDict())
    sent = [_Sent(fastlstm.LSTM(1, 2, seed=seed)) for seed in range(10)]
    first = sent[0].thing()
    for one in sent[1:8]:
        one.thing()
    assert sent[0].thing() is first
    for one in sent[8:]:
        one.thing()
    assert len(_Sent._kept) == 8 and sent[0].thing() is first
    assert sent[1].fingerprint not in _Sent._kept
    assert_same_bits(sent[1].thing().weight_ih_l0, fastlstm.LSTM(1, 2, seed=1).weight_ih_l0)


def test_its_size_is_told():
    sent = _Sent(fastlstm.LSTM(100, 100))
    assert sys.getsizeof(sent) > 4 * fastlstm.LSTM(100, 100).num_parameters


def test_a_block_is_computed_in_one_thread(monkeypatch):
    """As Dask counts; a number that was set is kept, by the layer or by its worker."""
    monkeypatch.delenv("FASTLSTM_NUM_THREADS", raising=False)
    model = fastlstm.Sequential(
        fastlstm.LSTM(3, 4), fastlstm.LSTM(4, 4, num_threads=2), fastlstm.Linear(4, 1)
    )
    sent = _Sent(model, _ready).thing()
    assert [layer.num_threads for layer in sent] == [1, 2, 1]
    assert model[0]._asked_threads is None  # this one is left as it is
    monkeypatch.setenv("FASTLSTM_NUM_THREADS", "3")
    sent = _Sent(fastlstm.Sequential(*model, fastlstm.LSTM(1, 1)), _ready).thing()
    assert [layer.num_threads for layer in sent] == [3, 2, 3, 3]


# A worker without the engine native: its module cannot be found there.
WITHOUT = """
import pickle, sys
sys.modules["fastlstm.engines._native"] = None
import numpy as np
import fastlstm.dask
anyone, native, x, y = pickle.load(sys.stdin.buffer)
model = anyone.thing()
print(model.engine, np.abs(model(x)[0] - y).max() < 1e-6)
try:
    native.thing()
except ImportError as fault:
    print(fault)
"""


def on_a_worker(program, *things, **environment):
    """What a program prints in a process of its own that gets these things."""
    run = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(things), capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}, check=True,
    )  # fmt: skip
    return run.stdout.decode().splitlines()


@pytest.mark.usefixtures("native")
def test_a_worker_without_the_engine():
    """It takes the one that it has, or is told to take; or says that the model asks for another."""
    model, x = fastlstm.LSTM(3, 4, seed=0), numbers(5, 2, 3)
    assert model.engine == "native"
    asks = fastlstm.LSTM(3, 4, engine="native")
    told, said = on_a_worker(
        WITHOUT, _Sent(model), _Sent(asks), x, model(x)[0], FASTLSTM_ENGINE="numpy"
    )
    assert told == "numpy True"
    assert said.startswith("engine 'native' is not available here") and "To get it: " in said


# ---- fit_many ------------------------------------------------------------------------------------


def series(count=5):
    """Data sets: series of different lengths as windows, and what follows each."""
    rng = np.random.default_rng(0)
    made = [rng.standard_normal((20 + 3 * n, 6, 1)).astype("f4") for n in range(count)]
    return [(x, x[:, -2] * (n + 1)) for n, x in enumerate(made)]


def forecaster(seed=0, **options):
    return fastlstm.Sequential(
        fastlstm.LSTM(1, 5, seed=seed, **options), fastlstm.Dropout(0.2, seed=seed),
        fastlstm.Last(), fastlstm.Linear(5, 1, seed=seed),
    )  # fmt: skip


def of_data(data):
    return forecaster(len(data[0]))


OPTIONS = {
    "loss": MSELoss(), "optimizer": functools.partial(Adam, lr=0.01), "epochs": 3,
    "batch_size": 8, "clip_norm": 1.0, "seed": 4,
}  # fmt: skip


def assert_trained(trained, models, datasets, **more):
    """What `fit` alone makes of these models with these data is what came out, bit for bit."""
    options = {**OPTIONS, **more}
    make, schedule = options.pop("optimizer"), options.pop("schedule", None)
    callbacks, held_out = options.pop("callbacks", None), options.pop("validation", None)
    assert len(trained) == len(models) == len(datasets)
    for n, ((got, history), model, data) in enumerate(zip(trained, models, datasets, strict=True)):
        optimizer = make(model)
        expected = fastlstm.fit(
            model, data, optimizer=optimizer, progress=False, **options,
            schedule=schedule and schedule(optimizer), callbacks=callbacks() if callbacks else (),
            validation=held_out and held_out[n],
        )  # fmt: skip
        assert history.keys() == expected.keys()
        for name in expected.keys() - {"seconds"}:
            assert_same_bits(history[name], expected[name])
        for name, value in model.state_dict().items():
            assert_same_bits(got.state_dict()[name], value)


@pytest.mark.parametrize("partitions", [1, 2, 5])
def test_a_template_for_many_series(partitions):
    datasets, template = series(), forecaster()
    before = template.state_dict()
    bag = db.from_sequence(datasets, npartitions=partitions)
    trained = fastlstm.dask.fit_many(template, bag, **OPTIONS)
    assert trained.npartitions == bag.npartitions
    assert_trained(trained.compute(), [forecaster() for _ in datasets], datasets)
    for name, value in before.items():
        assert_same_bits(template.state_dict()[name], value)


@pytest.mark.parametrize(
    "scheduler", ["threads", pytest.param("processes", marks=pytest.mark.slow)]
)
def test_by_other_schedulers(scheduler):
    datasets = series()
    bag = db.from_sequence(datasets, npartitions=3)
    trained = fastlstm.dask.fit_many(of_data, bag, **OPTIONS)
    got = trained.compute(scheduler=scheduler, num_workers=2)
    assert_trained(got, [of_data(data) for data in datasets], datasets)


def test_all_that_fit_takes():
    datasets = series()
    held_out = [(x[:5], y[:5]) for x, y in datasets]
    more = {
        "schedule": functools.partial(StepLR, step_size=1),
        "schedule_per": "epoch",
        "callbacks": lambda: [EarlyStopping(patience=1)],
        "metrics": {"error": lambda y, target: float(np.abs(y - target).mean())},
        "shuffle": False,
        "clip_value": 0.1,
    }
    trained = fastlstm.dask.fit_many(
        of_data,
        db.from_sequence(datasets, npartitions=2),
        validation=db.from_sequence(held_out, npartitions=2),
        **OPTIONS,
        **more,
    ).compute()
    models = [of_data(data) for data in datasets]
    assert_trained(trained, models, datasets, validation=held_out, **more)
    assert {"validation_loss", "validation_error"} <= trained[0][1].keys()


@pytest.mark.parametrize("models", [lambda trained: trained, lambda trained: trained.pluck(0)])
def test_the_models_of_an_earlier_result_learn_more(models):
    datasets = series()
    bag = db.from_sequence(datasets, npartitions=2)
    trained = fastlstm.dask.fit_many(forecaster(), bag, **OPTIONS)
    more = fastlstm.dask.fit_many(models(trained), bag, **OPTIONS).compute()
    assert_trained(more, [model for model, _ in trained.compute()], datasets)


def test_an_earlier_result_without_a_model():
    bag = db.from_sequence(series(1), npartitions=1)
    trained = fastlstm.dask.fit_many(lambda data: None, bag, **OPTIONS)
    [(model, fault)] = fastlstm.dask.fit_many(trained, bag, **OPTIONS).compute()
    assert model is None and str(fault) == "model should be a layer, got: NoneType"


def test_bags_of_what_is_no_model():
    models, bag = [None, "model", forecaster], db.from_sequence(series(3), npartitions=1)
    trained = fastlstm.dask.fit_many(db.from_sequence(models, npartitions=1), bag, **OPTIONS)
    assert [str(fault) for _, fault in trained.compute()] == [
        f"model should be a layer, got: {name}" for name in ("NoneType", "str", "function")
    ]


@pytest.mark.parametrize("again", [
    lambda trained: trained.persist(),
    lambda trained: db.from_sequence(trained.compute(), npartitions=2),
])  # fmt: skip
def test_results_stay_results_where_dask_keeps_them(again):
    """A plain tuple with a model in front would be a call of the model to Dask."""
    datasets = series()
    bag = db.from_sequence(datasets, npartitions=2)
    kept = again(fastlstm.dask.fit_many(forecaster(), bag, **OPTIONS))
    assert_trained(kept.compute(), [forecaster() for _ in datasets], datasets)
    more = fastlstm.dask.fit_many(kept.pluck(0), bag, **OPTIONS).compute()
    assert_trained(more, [model for model, _ in kept.compute()], datasets)


def test_a_function_that_returns_one_model_again_and_again():
    datasets, model = series(), forecaster()
    bag = db.from_sequence(datasets, npartitions=2)
    trained = fastlstm.dask.fit_many(lambda data: model, bag, **OPTIONS).compute()
    assert_trained(trained, [forecaster() for _ in datasets], datasets)


class Kept(fastlstm.dask._Training):
    """A training with a fault: all series share one model."""

    def parts(self, model):
        vars(model).update(vars(self.models))
        return super().parts(model)


@pytest.mark.parametrize("fault", ["one model for all", "series change places", "another seed"])
def test_the_comparison_of_trainings_finds(fault, monkeypatch):
    datasets = series()
    bag, options = db.from_sequence(datasets, npartitions=2), dict(OPTIONS)
    if fault == "one model for all":
        monkeypatch.setattr(fastlstm.dask, "_Training", Kept)
    elif fault == "series change places":
        bag = db.from_sequence(datasets[::-1], npartitions=2)
    else:
        options["seed"] = 5
    trained = fastlstm.dask.fit_many(forecaster(), bag, **options).compute()
    with pytest.raises(AssertionError):
        assert_trained(trained, [forecaster() for _ in datasets], datasets)


def test_a_series_that_cannot_be_trained_leaves_the_others_alone():
    datasets = series()
    broken = list(datasets)
    broken[1] = (datasets[1][0], datasets[1][1][:-1])
    broken[3] = (np.full_like(datasets[3][0], np.nan), datasets[3][1])
    bag = db.from_sequence(broken, npartitions=2)
    trained = fastlstm.dask.fit_many(forecaster(), bag, **OPTIONS).compute()
    assert isinstance(trained[1][1], ValueError) and "as many rows as x" in str(trained[1][1])
    assert isinstance(trained[3][1], NonFiniteError)
    for name, value in forecaster().state_dict().items():
        assert_same_bits(trained[3][0].state_dict()[name], value)
    rest = [0, 2, 4]
    assert_trained(
        [trained[n] for n in rest], [forecaster() for _ in rest], [datasets[n] for n in rest]
    )


def test_a_function_that_makes_no_model_or_fails():
    def make(data):
        if len(data[0]) == 20:
            raise ValueError("too short")
        return "model"

    bag = db.from_sequence(series(2), npartitions=1)
    [[none, fault], [made, other]] = fastlstm.dask.fit_many(make, bag, **OPTIONS).compute()
    assert (none, str(fault)) == (None, "too short")
    assert (made, str(other)) == ("model", "model should be a layer, got: str")


def test_what_is_no_error_of_fit_is_raised():
    def make(data):
        raise OSError("the disk is gone")

    bag = db.from_sequence(series(2), npartitions=1)
    with pytest.raises(OSError, match="the disk is gone"):
        fastlstm.dask.fit_many(make, bag, **OPTIONS).compute()


def test_an_interruption_ends_all_trainings():
    """Where the trainings run in the main thread; `fit` alone would return."""
    seen = []

    def interrupt(state):
        seen.append(state)
        raise KeyboardInterrupt

    bag = db.from_sequence(series(), npartitions=2)
    trained = fastlstm.dask.fit_many(forecaster(), bag, **OPTIONS, callbacks=lambda: [interrupt])
    with pytest.raises(KeyboardInterrupt):
        trained.compute()


def test_a_series_is_trained_in_one_thread(monkeypatch):
    """And its model takes as many as before afterwards."""
    monkeypatch.delenv("FASTLSTM_NUM_THREADS", raising=False)
    template = forecaster()
    template[3].num_threads = 2

    def watch():  # what it finds goes back with the history
        return [lambda s: s.history.update(threads=[s.model[n].num_threads for n in (0, 3)])]

    bag = db.from_sequence(series(1), npartitions=1)
    [[model, history]] = fastlstm.dask.fit_many(template, bag, **OPTIONS, callbacks=watch).compute()
    assert history["threads"] == [1, 2]
    assert [model[n]._asked_threads for n in (0, 3)] == [None, 2]


# ---- what is refused -----------------------------------------------------------------------------


def test_what_is_no_dask_array():
    raises(
        lambda: fastlstm.dask.predict(with_head(), np.zeros((4, 5, 3))),
        TypeError,
        "array should be a dask.array.Array, got: ndarray; for data without Dask"
        " there is fastlstm.predict",
    )
    raises(
        lambda: fastlstm.dask.predict(with_head(), da.zeros(())),
        ValueError,
        "Expected an array with samples first, (N, T, F), got shape ()",
    )


def test_samples_that_are_cut():
    array = zeros((4, 6, 3), chunks=(2, 2, 1))
    raises(
        lambda: fastlstm.dask.predict(with_head(), array),
        ValueError,
        "Expected an array in blocks of whole samples, got one that is cut along "
        "axis 1 and 2 too, with chunks (2, 2, 1); its rechunk({1: -1, 2: -1})"
        " brings each sample together",
    )
    y = fastlstm.dask.predict(with_head(), array.rechunk({1: -1, 2: -1}))
    assert y.chunks == ((2, 2), (6,), (2,))


def test_steps_whose_number_is_unknown():
    array = zeros((4, 6, 3))
    array = array[:, da.ones(6, dtype=bool)]
    raises(
        lambda: fastlstm.dask.predict(with_head(), array),
        ValueError,
        "Expected an array whose samples have known sizes, got shape (4, nan, 3)"
        "; its compute_chunk_sizes() finds them out",
    )


def test_what_does_not_fit_the_model_is_refused_before_it_is_computed():
    with pytest.raises(ValueError, match="3"):
        fastlstm.dask.predict(with_head(), zeros((4, 5, 2)))
    with pytest.raises(ValueError, match=r"Expected x of shape \(N, T, F\)"):
        fastlstm.dask.predict(with_head(), zeros((4, 5)))
    raises(
        lambda: fastlstm.dask.predict("model", zeros((4, 5))),
        TypeError,
        "model should be a layer, got: str",
    )
    raises(
        lambda: fastlstm.dask.predict(with_head(), zeros((4, 5, 3)), batch_size=0),
        ValueError,
        "batch_size must be greater than zero, got 0",
    )


@pytest.mark.parametrize(
    "lengths, sentence",
    [
        ([1, 2, 3], "Expected lengths of shape (4,), got (3,)"),
        (np.ones((4, 1), int), "Expected lengths of shape (4,), got (4, 1)"),
        ([1.0, 2.0, 3.0, 4.0], "lengths must hold integers, got dtype float64"),
        ([1, 2, 6, 7], "Expected lengths of 0 to 5, got 6 of sample 2"),
        ([1, -1, 6, 7], "Expected lengths of 0 to 5, got -1 of sample 1"),
        (da.ones(3, dtype=int), "Expected lengths of shape (4,), got (3,)"),
        (da.ones(4), "Expected lengths of shape (4,), integers, got float64 of shape (4,)"),
    ],
)
def test_lengths_that_do_not_fit(lengths, sentence):
    raises(
        lambda: fastlstm.dask.predict(with_head(), zeros((4, 5, 3)), lengths),
        ValueError,
        sentence,
    )
    raises(
        lambda: fastlstm.dask.predict(fastlstm.Linear(4, 1), zeros((4,)), lengths),
        ValueError,
        "lengths need samples with steps, (N, T, ...), got shape (4,)",
    )


def test_lengths_that_are_found_wrong_when_they_are_computed():
    array = zeros((4, 5, 3), chunks=(2, -1, -1))
    y = fastlstm.dask.predict(with_head(), array, da.from_array(np.array([1, 2, 3, 6]), chunks=2))
    raises(
        lambda: y.compute(),
        ValueError,
        "Expected lengths of 0 to 5, got 6 of sample 1",
    )
    unknown = array[da.ones(4, chunks=2, dtype=bool)]
    raises(
        lambda: fastlstm.dask.predict(with_head(), unknown, da.ones(4, dtype=int)),
        ValueError,
        "Expected lengths in as many blocks as the samples, 2, got 1",
    )


def test_a_model_whose_output_depends_on_the_values():
    class First(fastlstm.Layer):
        def forward(self, input):
            return input[:, : 1 + int(input.max())]

    array = da.from_array(np.array([[0.0, 0.0], [1.0, 0.0]]), chunks=(1, -1))
    y = fastlstm.dask.predict(First(), array)
    raises(
        lambda: y.compute(),
        ValueError,
        "Expected the model to give float64 of shape (1,) for each sample, as for"
        " one of zeros, got float64 of shape (2,)",
    )


def test_arguments_of_fit_many_that_do_not_fit():
    bag = db.from_sequence(series(4), npartitions=2)

    def fit_many(models, bag, **more):
        return lambda: fastlstm.dask.fit_many(models, bag, **{**OPTIONS, **more})

    raises(
        fit_many(forecaster(), series()),
        TypeError,
        "bag should be a dask.bag.Bag, got: list",
    )
    raises(
        fit_many("model", bag),
        TypeError,
        "models should be a layer, a function that makes one, or a dask.bag.Bag, got: str",
    )
    raises(
        fit_many(fastlstm.LSTM, bag),
        TypeError,
        "models: Expected an object, got the class LSTM itself; call it: LSTM(...)",
    )
    other = db.from_sequence(series(4), npartitions=4)
    for name in "models", "validation":
        raises(
            fit_many(**{"models": forecaster(), "bag": bag, name: other}),
            ValueError,
            f"Expected {name} in as many partitions as the bag, 2, got 4",
        )
    model = forecaster()
    for name in "optimizer", "schedule", "callbacks":
        raises(
            fit_many(model, bag, **{name: [Adam(model)]}),
            TypeError,
            f"{name} should be a function, got: list",
        )
    raises(fit_many(model, bag, epochs=0), ValueError, "epochs must be greater than zero, got 0")
    raises(fit_many(model, bag, shuffle=1), TypeError, "shuffle should be of type bool, got: int")
    raises(
        fit_many(model, bag, clip_norm=-1),
        ValueError,
        "clip_norm must be a finite number above 0, got -1",
    )
    raises(
        fit_many(model, bag, schedule_per="batch"),
        ValueError,
        'schedule_per="batch" needs a schedule, and not ReduceLROnPlateau',
    )
    raises(fit_many(model, bag, loss="mse"), TypeError, "loss should be callable, got: str")
    raises(
        fit_many(model, bag, optimizer=lambda model: None),
        TypeError,
        "optimizer should be one of this package, got: NoneType",
    )


def test_without_dask():
    program = textwrap.dedent("""
        import sys
        import fastlstm
        for missing in "cloudpickle", "dask":
            sys.modules[missing] = None
            try:
                import fastlstm.dask
            except ImportError as fault:
                print(fault)
            del sys.modules[missing]
    """)
    assert on_a_worker(program) == [
        f"fastlstm.dask needs Dask, of which {missing} is missing: "
        'pip install "dask[array,distributed]"'
        for missing in ("cloudpickle", "dask")
    ]
