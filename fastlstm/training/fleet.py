"""`fit_many`: a fleet of models, each trained on data of its own, several at a time."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

from ..checks import check_bool, check_size
from ..engines.machine import cpus
from ..layers import Layer
from ..layers.computed import computed, one_thread
from ..terminal import progress_bar
from .arguments import Metrics, check_clips, check_metrics, check_schedule_per, refuse_class
from .callbacks import Callback, History
from .checkpoint import Checkpoint, freeze, generators
from .datasets import Data
from .description import frozen_names
from .fit import fit
from .interrupts import FLEET, Fleet
from .losses import LossFunction
from .optimiser import Optimiser
from .schedules import AnySchedule

_FEW = 3  # failed models whose errors are in the message
# The weights, the names of those that are frozen, and the states of random generators.
_Learnt = tuple[Mapping[str, NDArray[Any]], list[str], dict[str, Any]]


class FleetError(Exception):
    """Some models of a `fit_many` could not be trained; the others were.

    Parameters
    ----------
    message : str
    errors : dict of int -> Exception
        What the `fit` of each failed model raised, by the model's number.
    histories : list of History or None
        Those of all models, in order; None of the failed ones.

    Examples
    --------
    >>> models = [fastlstm.LSTM(1, 2, batch_first=True) for _ in range(2)]
    >>> x = np.zeros((8, 5, 1), np.float32)
    >>> datasets = [(x, np.zeros((8, 5, F), np.float32)) for F in (2, 3)]
    >>> loss, optimizer = fastlstm.training.MSELoss(), fastlstm.training.Adam
    >>> try:
    ...     fastlstm.training.fit_many(models, datasets, loss, optimizer, epochs=1)
    ... except fastlstm.training.FleetError as fault:
    ...     list(fault.errors), len(fault.histories[0]["loss"])
    ([1], 1)
    """

    def __init__(
        self,
        message: str,
        errors: dict[int, Exception] | None = None,
        histories: list[History | None] | None = None,
    ) -> None:
        super().__init__(message)
        self.errors, self.histories = errors or {}, histories or []


def fit_many(
    models: Sequence[Layer],
    datasets: Sequence[Data | Callable[[], Data]],
    loss: LossFunction | Sequence[LossFunction],
    optimizer: Callable[[Layer], Optimiser] | Sequence[Callable[[Layer], Optimiser]],
    epochs: int | Sequence[int],
    batch_size: int | Sequence[int] = 32,
    *,
    validation: Sequence[Data | Callable[[], Data] | None] | None = None,
    schedule: Callable[[Any], AnySchedule] | Sequence[Callable[[Any], AnySchedule]] | None = None,
    schedule_per: Literal["epoch", "batch"] | None = None,
    clip_norm: float | Sequence[float] | None = None,
    clip_value: float | Sequence[float] | None = None,
    callbacks: Callable[[int], Sequence[Callback]] | None = None,
    metrics: Metrics | None = None,
    shuffle: bool = True,
    seed: int | Sequence[int] = 0,
    checkpoints: str | os.PathLike[str] | None = None,
    progress: bool = True,
    num_workers: int | None = None,
    backend: Literal["threads", "loky"] = "threads",
) -> list[History]:
    """Train many models, each on data of its own, several at a time.

    It is for models that are too small to keep several processors busy one by one, such as one for
    each series. Each model gets, bit for bit, what `fit` alone would give it with one thread.

    Parameters
    ----------
    models : list of N Layers
        No two of them may share a layer, or a random generator.
    datasets : list of N data sets
        As `fit` takes them, or a function without arguments that returns one. It is called when
        the model's turn comes, so that not all data need be in memory.
    loss, epochs, batch_size, schedule_per, clip_norm, clip_value, metrics, shuffle, seed
        As for `fit`. All but `metrics` may be lists with a value for each model. A loss or a metric
        of one's own is called from several threads at once.
    optimizer : function, or list of N functions
        ``optimizer(model)`` makes the optimiser of a model, as `Adam` itself does, or
        ``functools.partial(Adam, lr=0.01)``.
    validation : list of N data sets, or functions, or None, optional
        As `datasets`. None in it is a model without validation data.
    schedule : function, or list of N functions, optional
        ``schedule(optimizer)`` makes the schedule of an optimiser.
    callbacks : function, optional
        ``callbacks(n)`` makes the list of callbacks of model number n.
    checkpoints : path, optional
        A folder, which is made if it is missing. Each model has a `Checkpoint` in it, and goes on
        from it if it is there: so the same call again finishes what was interrupted, and skips what
        is done. Models, data and arguments must be the same; `epochs` may grow.
    progress : bool
        Show a bar of the models that are done on a terminal or in a notebook, if tqdm is
        installed.
    num_workers : int, optional
        How many models are trained at a time; as many as this process may keep processors busy, if
        it is not given.
    backend : {"threads", "loky"}
        Threads of this process, or processes of joblib's loky. Processes have an interpreter each,
        which pays for the smallest models; each needs its start, and models and data are copied to
        it and back. Functions that are given are called there, and what callbacks keep stays there.
        With one worker it is a thread in either case.

    Returns
    -------
    list of N History
        What `fit` returns for each model.

    Raises
    ------
    ValueError, TypeError
        If the arguments do not fit together. That is checked before any work; what concerns the
        data of one model alone is not.
    FleetError
        At the end, if the training of some models raised an error. It has their errors and the
        histories of the others, which were trained as if nothing had happened.
    ImportError
        If joblib is missing for ``backend="loky"``.
    OSError
        If the folder of checkpoints cannot be made.

    Notes
    -----
    Ctrl-C ends all trainings: those at hand after a whole number of updates (with loky as if they
    had not begun), and those that had not begun have an empty history. ``history.interrupted`` is
    True of each. With `checkpoints` the same call goes on from there. A second Ctrl-C does not wait
    for them: it is raised as KeyboardInterrupt, and threads end their trainings later.

    Each layer takes one thread while its model is trained, also where `num_threads` was given, as
    other models take the other processors; and as many as before afterwards.

    Examples
    --------
    >>> import functools
    >>> rng = np.random.default_rng(0)
    >>> series = [rng.random(120).cumsum() for _ in range(3)]
    >>> datasets = [fastlstm.training.Windows(one, 10, flat=True) for one in series]
    >>> models = [
    ...     fastlstm.Sequential(
    ...         fastlstm.LSTM(1, 8, seed=n), fastlstm.Last(), fastlstm.Linear(8, 1, seed=n)
    ...     )
    ...     for n in range(3)
    ... ]
    >>> histories = fastlstm.training.fit_many(
    ...     models, datasets, fastlstm.training.MSELoss(),
    ...     functools.partial(fastlstm.training.Adam, lr=0.01), epochs=5,
    ... )
    >>> [history["loss"][-1] < history["loss"][0] for history in histories]
    [True, True, True]
    """
    models = _as_list("models", models, None)
    count = len(models)
    _check_apart(models)
    if num_workers is not None:
        check_size("num_workers", num_workers)
    if backend not in ("threads", "loky"):
        raise ValueError(f'backend must be "threads" or "loky", got {backend!r}')
    check_bool("progress", progress)
    check_metrics(metrics)
    if callbacks is not None and not callable(callbacks):
        raise TypeError(
            "callbacks should be a function of a model's number that returns a list of callbacks, "
            f"got: {type(callbacks).__name__}"
        )
    of_each: dict[str, list[Any]] = {
        "data": _as_list("datasets", datasets, count),
        "validation": [None] * count
        if validation is None
        else _as_list("validation", validation, count),
    }
    arguments = {
        "loss": loss, "optimizer": optimizer, "epochs": epochs, "batch_size": batch_size,
        "schedule": schedule, "schedule_per": schedule_per, "clip_norm": clip_norm,
        "clip_value": clip_value, "shuffle": shuffle, "seed": seed,
    }  # fmt: skip
    for name, value in arguments.items():
        is_list = isinstance(value, (list, tuple))
        of_each[name] = _as_list(name, value, count) if is_list else [value] * count
    of_each["metrics"] = [metrics] * count
    trainings = [
        _Training(number, model, {name: values[number] for name, values in of_each.items()},
                  callbacks, None if checkpoints is None else Path(checkpoints))
        for number, model in enumerate(models)
    ]  # fmt: skip
    for training in trainings:
        training.check()
    if checkpoints is not None:
        Path(checkpoints).mkdir(parents=True, exist_ok=True)
    bar = progress_bar(total=count, unit="model") if progress else None
    update = (lambda: None) if bar is None else bar.update
    workers = min(num_workers or cpus(), count)
    # joblib would train in this thread if there is but one to do it, and go on after Ctrl-C.
    run = _in_threads if backend == "threads" or workers == 1 else _in_processes
    try:
        outcomes = run(trainings, workers, update)
    finally:
        if bar is not None:
            bar.close()
    errors = {n: found for n, found in enumerate(outcomes) if isinstance(found, Exception)}
    if not errors:
        return outcomes  # type: ignore[return-value]  # none of them is an error
    words = [f"model {n}: {type(fault).__name__}: {fault}" for n, fault in errors.items()]
    more = f"; and {len(words) - _FEW} more" if len(words) > _FEW else ""
    raise FleetError(
        f"{len(errors)} of {count} models could not be trained: {'; '.join(words[:_FEW])}{more}",
        errors,
        [None if isinstance(found, Exception) else found for found in outcomes],
    ) from next(iter(errors.values()))


class _Training(NamedTuple):
    """One model, and what `fit` is to be given for it."""

    number: int
    model: Layer
    arguments: dict[str, Any]
    callbacks: Callable[[int], Sequence[Callback]] | None
    folder: Path | None

    def check(self) -> None:
        """Refuse what can be refused without making anything."""
        for name in ("optimizer", "schedule"):
            make = self.arguments[name]
            if isinstance(make, Optimiser) or not (
                callable(make) or name == "schedule" and make is None
            ):
                of = "a model" if name == "optimizer" else "an optimiser"
                raise TypeError(
                    f"{name} should be a function of {of} that makes one, as functools.partial("
                    f"Adam, lr=0.01) is, got: {type(make).__name__}"
                )
        if not callable(self.arguments["loss"]):
            raise TypeError(
                f"loss should be callable, got: {type(self.arguments['loss']).__name__}"
            )
        refuse_class("loss", self.arguments["loss"])
        for name, least in {"epochs": 1, "batch_size": 1, "seed": 0}.items():
            check_size(name, self.arguments[name], least=least)
        check_bool("shuffle", self.arguments["shuffle"])
        check_clips(self.arguments["clip_norm"], self.arguments["clip_value"])
        check_schedule_per(self.arguments["schedule"], self.arguments["schedule_per"])

    def fit(self) -> History:
        """Train the model."""
        options = dict(self.arguments)
        data, held_out = (_made(options.pop(name)) for name in ("data", "validation"))
        optimizer, make_schedule = options.pop("optimizer")(self.model), options.pop("schedule")
        schedule = None if make_schedule is None else make_schedule(optimizer)
        callbacks = [] if self.callbacks is None else [*self.callbacks(self.number)]
        resume = None
        if self.folder is not None:
            path = self.folder / f"{self.number}.npz"
            callbacks.append(Checkpoint(path))
            resume = path if path.exists() else None
        # The other processors train other models, whatever a layer may take when it is alone.
        with one_thread(computed(self.model)):
            return fit(
                self.model, data, optimizer=optimizer, validation=held_out, schedule=schedule,
                callbacks=callbacks, resume=resume, progress=False, **options,
            )  # fmt: skip


_Outcome = History | Exception


def _in_threads(
    trainings: list[_Training], num_workers: int, update: Callable[[], object]
) -> list[_Outcome]:
    """Train in threads, and return what came of each."""
    fleet = Fleet()
    outcomes: list[_Outcome] = [_interrupted() for _ in trainings]
    done: SimpleQueue[Future[None]] = SimpleQueue()

    def train(training: _Training) -> None:
        FLEET.set(fleet)
        try:
            if not fleet.stop.is_set():
                outcomes[training.number] = training.fit()
        except Exception as fault:
            outcomes[training.number] = fault

    with ThreadPoolExecutor(num_workers, "fastlstm") as workers:
        try:
            # Each has a context of its own, a copy of the caller's: NumPy's errstate is there.
            for training in trainings:
                future = workers.submit(copy_context().run, train, training)
                future.add_done_callback(done.put)
            for _ in trainings:
                _first_of(done).result()
                update()
        except KeyboardInterrupt:
            fleet.stop.set()
        except BaseException:
            fleet.stop.set()
            raise
    return outcomes


def _first_of(done: SimpleQueue[Future[None]]) -> Future[None]:
    """Wait for the next training that is done, in a way that lets Ctrl-C through on Windows too."""
    while True:
        with contextlib.suppress(Empty):
            return done.get(timeout=0.1)


def _in_processes(
    trainings: list[_Training], num_workers: int, update: Callable[[], object]
) -> list[_Outcome]:
    """Train in processes, bring back what is learnt, and return what came of each."""
    try:
        from joblib import Parallel, delayed
    except ImportError as error:
        raise ImportError('backend="loky" needs joblib: pip install joblib') from error
    outcomes: list[_Outcome] = [_interrupted() for _ in trainings]
    # Without `max_nbytes` it would leave copies of large data in files until this process ends.
    parallel = Parallel(
        n_jobs=num_workers, backend="loky", return_as="generator_unordered", max_nbytes=None
    )
    results = parallel(delayed(_trained_apart)(training) for training in trainings)
    left = set(range(len(trainings)))
    try:
        with contextlib.suppress(KeyboardInterrupt), contextlib.closing(results):
            for number, outcome, learnt in results:
                _take_over(trainings[number].model, learnt)
                outcomes[number] = outcome
                left.remove(number)
                update()
    except BrokenExecutor as fault:  # a process was killed, such as for its memory
        for number in left:
            outcomes[number] = fault
    return outcomes


def _trained_apart(training: _Training) -> tuple[int, _Outcome, _Learnt]:
    """Train in a process of its own; return what came of it, and what the model has learnt."""
    FLEET.set(Fleet())
    outcome: _Outcome
    try:
        outcome = training.fit()
    except Exception as fault:
        outcome = fault
        try:
            pickle.loads(pickle.dumps(fault))
        except Exception:  # it has to be told in other words
            outcome = RuntimeError(f"{type(fault).__name__}: {fault}")
    model = training.model
    random = {name: rng.bit_generator.state for name, rng in generators(model)}
    return training.number, outcome, (model.state_dict(), frozen_names(model), random)


def _take_over(model: Layer, learnt: _Learnt) -> None:
    """Bring a model to what a copy of it has learnt."""
    weights, frozen, random = learnt
    freeze(model, frozen)
    model.load_state_dict(weights)
    for name, rng in generators(model):
        rng.bit_generator.state = random[name]


def _interrupted() -> History:
    """Return the history of a training that had not begun."""
    history = History()
    history.interrupted = True
    return history


def _made(data: Any) -> Any:
    """Return data, which a function may have to make first."""
    return data() if callable(data) and not hasattr(data, "__getitem__") else data


def _as_list(name: str, values: Any, count: int | None) -> list[Any]:
    """Return a list with a value for each model; refuse anything else."""
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name} should be a list, got: {type(values).__name__}")
    if count is None and not values:
        raise ValueError(f"Expected {name} to hold at least one, got an empty list")
    if count is not None and len(values) != count:
        raise ValueError(f"Expected {name} for {count} models, got {len(values)}")
    return list(values)


def _check_apart(models: list[Any]) -> None:
    """Refuse what is no model, and models that would disturb each other."""
    seen: dict[int, int] = {}
    for number, model in enumerate(models):
        refuse_class(f"models[{number}]", model)
        if not isinstance(model, Layer):
            raise TypeError(f"models[{number}] should be a layer, got: {type(model).__name__}")
        layers = {id(layer): type(layer).__name__ for _, layer in model.named_layers()}
        layers |= {id(rng): "random generator" for _, rng in generators(model)}
        for key, what in layers.items():
            if (other := seen.setdefault(key, number)) != number:
                raise ValueError(
                    f"models[{other}] and models[{number}] share a {what}: each needs its own, as "
                    "copy.deepcopy makes it"
                )
