"""`fit_many`: each model of a fleet learns what `fit` alone teaches it, bit for bit.

Two ways of running are compared with `fit`: threads, and processes of loky, which take a while to
start and are marked slow but for one test. What happens at the same time is shown by events that
threads wait for, not by time.
"""

import copy
import functools
import os
import signal
import threading
import time

import numpy as np
import pytest
from trainings import assert_same_history, assert_same_weights
from values import normal

import fastlstm
from fastlstm import LSTM, Dropout, Last, Linear, Sequential, fit
from fastlstm.training import (
    Adam,
    EarlyStopping,
    FleetError,
    HuberLoss,
    L1Loss,
    MSELoss,
    NonFiniteError,
    StepLR,
    Windows,
    fit_many,
    fleet,
)

COUNT = 5
WAIT = 30  # seconds after which a test fails that would hang
ADAM = functools.partial(Adam, lr=0.01)


def make_models(count=COUNT, **options):
    return [
        Sequential(
            LSTM(2, 4 + n, seed=n, **options),
            Dropout(0.3, seed=n),
            Last(),
            Linear(4 + n, 1, seed=n),
        )
        for n in range(count)
    ]


def make_data(count=COUNT, samples=20):
    return [(normal(samples, 6, 2, seed=n), normal(samples, 1, seed=n + 50)) for n in range(count)]


def halved(optimizer):
    return StepLR(optimizer, 1, 0.5)


def stops_early(number):
    return [EarlyStopping(patience=1 + number)]


def bias(prediction, target):
    return float((prediction - target).mean())


def one_by_one(models, data, loss, epochs, batch_size=32, *, callbacks=None, **options):
    """What `fit_many` is compared with: `fit` in a loop."""
    make, schedule = options.pop("optimizer", ADAM), options.pop("schedule", None)
    held_out = options.pop("validation", None)
    histories = []
    for number, model in enumerate(models):
        optimizer = make(model)
        histories.append(
            fit(
                model, data[number], loss, optimizer, epochs, batch_size,
                schedule=None if schedule is None else schedule(optimizer),
                callbacks=[] if callbacks is None else callbacks(number),
                validation=None if held_out is None else held_out[number],
                progress=False, **options,
            )
        )  # fmt: skip
    return histories


def assert_same(models, histories, expected_models, expected_histories):
    for got, expected in zip(histories, expected_histories, strict=True):
        assert_same_history(got, expected)
        assert (got.stopped, got.interrupted) == (expected.stopped, expected.interrupted)
    for got, expected in zip(models, expected_models, strict=True):
        assert_same_weights(got, expected)


OPTIONS = {
    "plain": {},
    "all": {
        "validation": make_data(samples=7),
        "schedule": halved,
        "callbacks": stops_early,
        "metrics": {"bias": bias},
        "clip_norm": 0.5,
        "clip_value": 0.1,
        "seed": 3,
    },
}


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [
        thread.name for thread in threading.enumerate() if thread.name.startswith("fastlstm_")
    ]


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [1, 2, 4, None])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_each_model_learns_what_fit_teaches_it(options, num_workers):
    models, expected = make_models(), make_models()
    histories = fit_many(
        models, make_data(), MSELoss(), ADAM, 3, 8, num_workers=num_workers, **options
    )
    assert_same(
        models, histories, expected, one_by_one(expected, make_data(), MSELoss(), 3, 8, **options)
    )
    for model in models:
        assert model.training


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_processes_give_the_same(options):
    pytest.importorskip("joblib")
    models, expected = make_models(), make_models()
    histories = fit_many(
        models, make_data(), MSELoss(), ADAM, 3, 8, num_workers=2, backend="loky", **options
    )
    assert_same(
        models, histories, expected, one_by_one(expected, make_data(), MSELoss(), 3, 8, **options)
    )
    # Dropout goes on where it was: what is trained from here on is the same, too.
    again = [fit_many(each, make_data(), MSELoss(), ADAM, 1, 8) for each in (models, expected)]
    assert_same(models, again[0], expected, again[1])


def test_a_value_for_each_model():
    data, models, expected = make_data(3), make_models(3), make_models(3)
    losses, epochs, seeds = [MSELoss(), L1Loss(), HuberLoss()], [1, 3, 2], (7, 8, 9)
    makers = [functools.partial(Adam, lr=lr) for lr in (0.1, 0.01, 0.02)]
    histories = fit_many(models, data, losses, makers, epochs, [4, 8, 20], seed=seeds)
    for n, model in enumerate(expected):
        own = fit(
            model, data[n], losses[n], makers[n](model), epochs[n], [4, 8, 20][n], seed=seeds[n],
            progress=False,
        )  # fmt: skip
        assert_same_history(histories[n], own)
        assert_same_weights(models[n], model)
    assert [len(history["loss"]) for history in histories] == epochs


def test_data_are_made_when_their_turn_comes():
    alive, most, lock = [0], [0], threading.Lock()

    class Held:
        def __init__(self, n):
            self._x, self._y = make_data()[n]
            with lock:
                alive[0] += 1
                most[0] = max(most[0], alive[0])

        def __len__(self):
            return len(self._x)

        def __getitem__(self, indices):
            return fastlstm.training.Batch(self._x[indices], self._y[indices])

        def __del__(self):
            with lock:
                alive[0] -= 1

    models, expected = make_models(), make_models()
    makers = [functools.partial(Held, n) for n in range(COUNT)]
    held_out = [None, *makers[1:]]
    histories = fit_many(models, makers, MSELoss(), ADAM, 2, 8, validation=held_out, num_workers=1)
    assert most[0] == 2  # the data, and those of the validation
    data = make_data()
    expected_histories = one_by_one(expected, data, MSELoss(), 2, 8, validation=[None, *data[1:]])
    assert_same(models, histories, expected, expected_histories)


def test_models_are_trained_at_the_same_time():
    barrier = threading.Barrier(2)

    def meets(number):
        return [lambda state: barrier.wait(WAIT) and None]

    fit_many(make_models(2), make_data(2), MSELoss(), ADAM, 3, callbacks=meets, num_workers=2)


def test_a_fleet_of_windows_shares_its_series():
    """Data of one array, and a loss, that all threads read."""
    series = normal(60, 3)
    datasets = [Windows(series, 6, inputs=[n, (n + 1) % 3], targets=n, flat=True) for n in range(3)]
    models, expected = make_models(3), make_models(3)
    histories = fit_many(models, datasets, MSELoss(), ADAM, 2, num_workers=3)
    assert_same(models, histories, expected, one_by_one(expected, datasets, MSELoss(), 2))


# ---- comparisons that must fail -----------------------------------------------------------------


def mixes_data(training):
    return training._replace(arguments={**training.arguments, "data": make_data()[0]})


def mixes_seeds(training):
    return training._replace(arguments={**training.arguments, "seed": training.number})


def stops_before(training):
    return training._replace(arguments={**training.arguments, "epochs": 1})


def forgets_callbacks(training):
    return training._replace(callbacks=None)


ORIGINAL = fleet._Training.fit


@pytest.mark.parametrize("broken", [mixes_data, mixes_seeds, stops_before, forgets_callbacks])
def test_broken_fleets_are_found(monkeypatch, broken):
    monkeypatch.setattr(fleet._Training, "fit", lambda training: ORIGINAL(broken(training)))
    options = {"callbacks": lambda n: [lambda state: state.epoch == 2]}
    models, expected = make_models(), make_models()
    histories = fit_many(models, make_data(), MSELoss(), ADAM, 3, 8, **options)
    expected_histories = one_by_one(expected, make_data(), MSELoss(), 3, 8, **options)
    with pytest.raises(AssertionError):
        assert_same(models, histories, expected, expected_histories)


# ---- threads of the engine ----------------------------------------------------------------------


@pytest.mark.parametrize("told", [False, True])
def test_each_layer_takes_one_thread_and_gets_its_own_back(monkeypatch, told):
    """However many it would take alone, whoever says so: the other models take the others."""
    monkeypatch.delenv("FASTLSTM_NUM_THREADS", raising=False)
    if told:
        monkeypatch.setenv("FASTLSTM_NUM_THREADS", "3")
    models = make_models(3, num_threads=2)
    models[1][0].num_threads = None
    models[2][0].num_threads = 1
    usual, seen = models[1][0].num_threads, []

    def looks(number):
        return [lambda state: seen.append([state.model[n].num_threads for n in (0, 3)]) and None]

    fit_many(models, make_data(3), MSELoss(), ADAM, 1, callbacks=looks)
    assert seen == [[1, 1]] * 3
    assert [model[0].num_threads for model in models] == [2, usual, 1]
    assert models[1][0]._asked_threads is None
    with pytest.raises(FleetError):
        fit_many(models, [3, 3, 3], MSELoss(), ADAM, 1)
    assert [model[0].num_threads for model in models] == [2, usual, 1]


# ---- errors -------------------------------------------------------------------------------------


def with_faults():
    """Data of which the second have targets of a wrong shape, and the fourth a nan."""
    data = make_data()
    data[1] = data[1][0], normal(20, 2)
    data[3] = copy.deepcopy(data[3])
    data[3][0][5, 2, 1] = np.nan
    return data


@pytest.mark.parametrize("backend", ["threads", pytest.param("loky", marks=pytest.mark.slow)])
def test_a_model_that_fails_does_not_take_others_down(backend):
    models, expected = make_models(), make_models()
    with pytest.raises(FleetError) as caught:
        fit_many(models, with_faults(), MSELoss(), ADAM, 2, 8, num_workers=2, backend=backend)
    error = caught.value
    assert list(error.errors) == [1, 3]
    assert isinstance(error.errors[1], ValueError) and isinstance(error.errors[3], NonFiniteError)
    assert "the input of sample 5" in error.errors[3].origin
    assert error.__cause__ is error.errors[1]
    assert str(error).startswith(
        "2 of 5 models could not be trained: model 1: ValueError: data: MSELoss: Expected target"
    )
    assert [history is None for history in error.histories] == [False, True, False, True, False]
    whole = [n for n in range(COUNT) if n not in error.errors]
    histories = one_by_one(
        [expected[n] for n in whole], [make_data()[n] for n in whole], MSELoss(), 2, 8
    )
    assert_same(
        [models[n] for n in whole], [error.histories[n] for n in whole],
        [expected[n] for n in whole], histories,
    )  # fmt: skip
    assert_same_weights(models[1], expected[1])
    with pytest.raises(NonFiniteError):
        one_by_one(expected[3:4], with_faults()[3:4], MSELoss(), 2, 8)
    assert_same_weights(models[3], expected[3])  # those from before that batch


def test_a_few_errors_are_told():
    with pytest.raises(FleetError, match="^5 of 5.*model 2: TypeError: .*; and 2 more$"):
        fit_many(make_models(), [3] * 5, MSELoss(), ADAM, 1)


class Strange(Exception):
    """An error that cannot be sent to another process."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def strange(number):
    def raises(state):
        raise Strange("this", "that")

    return [raises]


@pytest.mark.slow
def test_an_error_that_cannot_be_sent_is_told():
    pytest.importorskip("joblib")
    with pytest.raises(FleetError, match="model 0: RuntimeError: Strange: this and that"):
        fit_many(
            make_models(2), make_data(2), MSELoss(), ADAM, 1, callbacks=strange, backend="loky"
        )


class Kills:
    """A data set that ends the process in which it is read, as a lack of memory would."""

    def __len__(self):
        return 8

    def __getitem__(self, indices):
        os._exit(1)


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_what_was_done():
    models, expected, data = make_models(3), make_models(3), make_data(3)
    with pytest.raises(FleetError, match="TerminatedWorkerError") as caught:
        fit_many(
            models,
            [data[0], Kills(), data[2]],
            MSELoss(),
            ADAM,
            1,
            8,
            backend="loky",
            num_workers=2,
        )
    errors = caught.value.errors
    assert 1 in errors
    histories = one_by_one(expected, [data[0], data[1], data[2]], MSELoss(), 1, 8)
    untouched = make_models(3)
    for n, history in enumerate(caught.value.histories):
        assert (history is None) == (n in errors)
        if history is None:
            assert_same_weights(models[n], untouched[n])
        else:
            assert_same([models[n]], [history], [expected[n]], [histories[n]])


def test_one_worker_of_processes_ends_by_ctrl_c(monkeypatch):
    waits, first_of = threading.Event(), fleet._first_of

    def first_of_told(done):
        waits.set()
        return first_of(done)

    monkeypatch.setattr(fleet, "_first_of", first_of_told)

    def interrupts(number):
        def interrupt(state):
            if number == 0 and state.epoch == 2:
                assert waits.wait(WAIT)
                signal.raise_signal(signal.SIGINT)

        return [interrupt]

    histories = fit_many(
        make_models(3), make_data(3), MSELoss(), ADAM, 10**6, callbacks=interrupts,
        backend="loky", num_workers=1,
    )  # fmt: skip
    assert [history.interrupted for history in histories] == [True] * 3
    assert not any(history.get("loss") for history in histories[1:])
    assert fleet.FLEET.get() is None


def test_what_ends_python_ends_the_fleet():
    def leaves(number):
        def leave(state):
            raise SystemExit(3)

        return [leave] if number == 0 else []

    with pytest.raises(SystemExit):
        fit_many(make_models(), make_data(), MSELoss(), ADAM, 1000, callbacks=leaves, num_workers=2)


def refuses(sentence, kind=ValueError, **changes):
    models = make_models(2)
    arguments = {
        "models": models, "datasets": make_data(2), "loss": MSELoss(), "optimizer": ADAM,
        "epochs": 1,
    } | changes  # fmt: skip
    before = [model.state_dict() for model in models]
    with pytest.raises(kind, match=sentence):
        fit_many(**arguments)
    for model, weights in zip(models, before, strict=True):
        for name, value in model.state_dict().items():
            assert np.array_equal(value, weights[name])


def test_arguments_that_do_not_fit_are_refused_before_any_work(tmp_path):
    model, shared = make_models(1)[0], np.random.default_rng(0)
    adam = Adam(model)
    refuses("Expected models to hold at least one", models=[])
    refuses("models should be a list, got: Sequential", TypeError, models=model)
    refuses(r"models\[1\] should be a layer, got: int", TypeError, models=[model, 3])
    refuses(r"models\[0\]: Expected an object, got the class LSTM", TypeError, models=[LSTM, model])
    refuses(r"models\[0\] and models\[1\] share a Sequential", models=[model, model])
    refuses(
        r"models\[0\] and models\[1\] share a LSTM", models=[model, Sequential(model[0], Last())]
    )
    twins = [Sequential(LSTM(2, 3), Dropout(0.5, seed=shared), Last()) for _ in range(2)]
    refuses(r"models\[0\] and models\[1\] share a random generator", models=twins)
    refuses("Expected datasets for 2 models, got 3", datasets=make_data(3))
    refuses("datasets should be a list, got: ndarray", TypeError, datasets=np.zeros((2, 3)))
    refuses("Expected validation for 2 models, got 1", validation=make_data(1))
    refuses("loss should be callable, got: int", TypeError, loss=3)
    refuses("got the class MSELoss itself", TypeError, loss=MSELoss)
    refuses("Expected loss for 2 models, got 1", loss=[MSELoss()])
    refuses("optimizer should be a function of a model.*got: Adam", TypeError, optimizer=adam)
    refuses("Expected optimizer for 2 models, got 3", optimizer=[ADAM] * 3)
    refuses("schedule should be a function of an optim", TypeError, schedule=StepLR(adam, 1))
    refuses("epochs must be greater than zero, got 0", epochs=[1, 0])
    refuses("batch_size should be of type int, got: float", TypeError, batch_size=2.0)
    refuses("seed must be at least 0, got -1", seed=[0, -1])
    refuses("shuffle should be of type bool, got: int", TypeError, shuffle=1)
    refuses("clip_norm must be a finite number above 0, got -1", clip_norm=[1.0, -1])
    refuses("clip_value must be a finite number above 0, got 0", clip_value=0)
    refuses('schedule_per must be "epoch" or "batch", got 3', schedule_per=3)
    refuses('schedule_per="batch" needs a schedule', schedule_per="batch")
    refuses("callbacks should be a function of a model's number", TypeError, callbacks=[print])
    refuses("metrics should be a dict", TypeError, metrics=[bias])
    refuses("num_workers must be greater than zero, got 0", num_workers=0)
    refuses('backend must be "threads" or "loky", got \'dask\'', backend="dask")
    refuses("progress should be of type bool", TypeError, progress=1)
    (tmp_path / "file").touch()
    refuses("File exists", OSError, checkpoints=tmp_path / "file")


def test_without_joblib_an_error_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "joblib", None)
    refuses('backend="loky" needs joblib: pip install joblib', ImportError, backend="loky")


# ---- Ctrl-C, and checkpoints --------------------------------------------------------------------


def presses(at_epoch, after=None):
    """Callbacks of which that of model 1 presses Ctrl-C, and waits until the main thread knows.

    Model `after`, where one is named, has been through an epoch by then.
    """
    has_trained = threading.Event()
    if after is None:
        has_trained.set()

    def make(number):
        def press(state):
            if number == after:
                has_trained.set()
            if number == 1 and state.epoch == at_epoch:
                assert has_trained.wait(WAIT)
                signal.raise_signal(signal.SIGINT)
                assert fleet.FLEET.get().stop.wait(WAIT)

        return [press]

    return make


def test_ctrl_c_ends_all_of_them():
    models = make_models()
    epochs = [2, 100_000, 100_000, 1, 1]
    # Model 2 begins where model 0 has ended.
    callbacks = presses(3, after=2)
    histories = fit_many(
        models, make_data(), MSELoss(), ADAM, epochs, 8, callbacks=callbacks, num_workers=2
    )
    assert [history.interrupted for history in histories] == [False, True, True, True, True]
    expected = make_models()[:1]
    own = one_by_one(expected, make_data(), MSELoss(), 2, 8)
    assert_same(models[:1], histories[:1], expected, own)
    for n in (1, 2):  # whole epochs are in the history
        (again,), epochs = make_models()[n : n + 1], len(histories[n]["loss"])
        own = one_by_one([again], make_data()[n : n + 1], MSELoss(), epochs, 8)
        assert_same_history(histories[n], own[0])
    for n in (3, 4):  # these had not begun
        assert histories[n] == {}
        assert_same_weights(models[n], make_models()[n])
    for model in models:
        assert model.training


def test_a_second_ctrl_c_is_raised(monkeypatch):
    """Trainings may go on then, so that nothing can be said of them."""

    class Impatient(fleet.ThreadPoolExecutor):
        def shutdown(self, *args, **options):
            super().shutdown(*args, **options)
            raise KeyboardInterrupt

    def interrupted(done):
        raise KeyboardInterrupt

    monkeypatch.setattr(fleet, "_first_of", interrupted)
    monkeypatch.setattr(fleet, "ThreadPoolExecutor", Impatient)
    with pytest.raises(KeyboardInterrupt):
        fit_many(make_models(2), make_data(2), MSELoss(), ADAM, 2)


def test_one_early_stopping_for_two_trainings_is_refused():
    """It would stop one by the losses of the other, and give it the other's weights."""
    early = EarlyStopping(5, monitor="loss")
    [first, second], [data, other] = make_models(2), make_data(2)

    def train(model, data, *callbacks):
        fit(model, data, MSELoss(), ADAM(model), 2, callbacks=[*callbacks, early], progress=False)

    def begins_another(state):
        with pytest.raises(ValueError, match="another training is using it"):
            train(second, other)

    train(first, data, begins_another)
    train(second, other)  # one after the other is no fault


def test_the_same_call_goes_on_from_checkpoints(tmp_path, capsys):
    folder, expected = tmp_path / "a" / "fleet", make_models()
    whole = one_by_one(expected, make_data(), MSELoss(), 6, 8)
    options = {"checkpoints": folder, "num_workers": 2}
    first = fit_many(
        make_models(), make_data(), MSELoss(), ADAM, 6, 8, callbacks=presses(3), **options
    )
    assert any(history.interrupted for history in first)
    models = make_models()
    second = fit_many(models, make_data(), MSELoss(), ADAM, 6, 8, **options)
    assert_same(models, second, expected, whole)
    assert second[1].resumed >= 3
    models = make_models()
    third = fit_many(models, make_data(), MSELoss(), ADAM, 6, 8, **options)
    assert_same(models, third, expected, whole)
    assert [history.resumed for history in third] == [6] * COUNT
    assert sorted(os.listdir(folder)) == [f"{n}.npz" for n in range(COUNT)]
    assert capsys.readouterr() == ("", "")  # not a line for each model
    with pytest.raises(FleetError, match="data has other values"):
        fit_many(make_models(), make_data()[::-1], MSELoss(), ADAM, 6, 8, **options)


@pytest.mark.slow
def test_checkpoints_of_processes(tmp_path):
    pytest.importorskip("joblib")
    models, expected = make_models(), make_models()
    whole = one_by_one(expected, make_data(), MSELoss(), 4, 8)
    options = {"checkpoints": tmp_path, "num_workers": 2, "backend": "loky"}
    fit_many(make_models(), make_data(), MSELoss(), ADAM, 2, 8, **options)
    assert_same(
        models, fit_many(models, make_data(), MSELoss(), ADAM, 4, 8, **options), expected, whole
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs signals of POSIX")
def test_ctrl_c_ends_processes(tmp_path):
    """Models at hand stay as they were; the next fleet has processes again."""
    pytest.importorskip("joblib")
    begun = tmp_path / "begun"

    def tells(number):
        return [lambda state: begun.touch() if number == 1 else None]

    def press():
        while not begun.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    presser, models = threading.Thread(target=press), make_models()
    options = {"num_workers": 2, "backend": "loky"}
    presser.start()
    epochs = [1, 1_000_000, 1_000_000, 1, 1]
    histories = fit_many(
        models, make_data(), MSELoss(), ADAM, epochs, 8, callbacks=tells, **options
    )
    presser.join()
    for n in range(1, COUNT):
        assert histories[n] == {} and histories[n].interrupted
        assert_same_weights(models[n], make_models()[n])
    again = fit_many(models, make_data(), MSELoss(), ADAM, 1, 8, **options)
    assert not any(history.interrupted for history in again)


def test_a_fit_after_a_fleet_belongs_to_none():
    fit_many(make_models(1), make_data(1), MSELoss(), ADAM, 1)
    (model,), (data,) = make_models(1), make_data(1)
    assert not fit(model, data, MSELoss(), Adam(model), 1, progress=False).interrupted
