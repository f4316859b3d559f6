"""On many machines, by Dask: `predict` over arrays in blocks, `fit_many` over bags of series.

Nothing here schedules anything: what is returned is Dask's own lazy array or bag, which any of its
schedulers computes. Imported only when asked for; it needs Dask.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

try:
    import cloudpickle
    import dask
    import dask.array
    import dask.bag
    from dask.base import tokenize
except ModuleNotFoundError as fault:
    raise ImportError(
        f"fastlstm.dask needs Dask, of which {fault.name} is missing: "
        'pip install "dask[array,distributed]"'
    ) from fault

from .arrays import as_integers
from .checks import check_bool, check_size
from .layers import Layer
from .layers.computed import left_to_machine, one_thread
from .training import Batch, NonFiniteError, fit
from .training.arguments import (
    Metrics,
    check_clips,
    check_metrics,
    check_parts,
    check_schedule_per,
    refuse_class,
)
from .training.callbacks import Callback
from .training.losses import LossFunction
from .training.optimiser import Optimiser
from .training.schedules import AnySchedule
from .training.view import SamplesFirst

__all__ = ["fit_many", "predict"]


def predict(
    model: Layer, array: dask.array.Array, lengths: Any = None, batch_size: int = 256
) -> dask.array.Array:
    """Run a model over a Dask array, block by block, in evaluation mode.

    Parameters
    ----------
    model : Layer
        An LSTM or a Sequential, `batch_first` or not. Its weights are taken as they are now.
    array : dask.array.Array of shape (N, T, F), or whatever the model takes, samples first
        Cut into blocks of samples alone. How many samples there are may be unknown.
    lengths : int array of shape (N,), optional
        How many of the T steps of each sample are real: a NumPy array, or a Dask array.
    batch_size : int
        The number of samples in one run within a block.

    Returns
    -------
    dask.array.Array of shape (N, ...)
        Lazy, samples first, in blocks of the same samples: (N, T, F), or (N, F) after a `Last`.
        Steps past the end of a sample are zeros.

    Raises
    ------
    ValueError, TypeError
        If the array is cut along another axis than that of samples, or does not fit the model.
        Dask arrays are not looked into before they are computed: a wrong number in `lengths` is
        then an error of its block.

    Notes
    -----
    With engine native the values are those of `fastlstm.predict`, bit for bit, whatever the blocks
    and whoever computes them, also after a worker was lost: Dask computes its blocks again.

    The model is pickled once, here. Dask's distributed scheduler sends these bytes to each worker
    once, and a worker makes a model of them once, not for each block. (Dask warns of them if they
    are more than 10 MB.) A layer whose engine was left to fastlstm takes the best one that the
    worker has; one with ``engine="native"`` is an ImportError on a worker without it.

    Each block is computed in one thread, as Dask runs as many blocks at a time as it has threads;
    layers whose `num_threads` was set keep it, and ``FASTLSTM_NUM_THREADS`` of a worker holds.

    Cost: one sample of zeros is run here to find out what the model gives. Then each block is read
    once and written once.

    Examples
    --------
    >>> import dask.array as da
    >>> model = fastlstm.Sequential(fastlstm.LSTM(3, 4, seed=0), fastlstm.Last())
    >>> x = da.random.default_rng(0).random((1000, 20, 3), 'f4', chunks=(250, -1, -1))
    >>> y = fastlstm.dask.predict(model, x)
    >>> y.shape, y.chunks[0]
    ((1000, 4), (250, 250, 250, 250))
    >>> np.array_equal(y.compute(), fastlstm.predict(model, x.compute()))
    True
    """
    SamplesFirst(model)  # says what is wrong with a model
    check_size("batch_size", batch_size)
    _check_blocks(array)
    lengths = None if lengths is None else _aligned(lengths, array)
    sent = _Sent(model, _ready)
    one = np.zeros((1, *array.shape[1:]), array.dtype)
    steps = None if lengths is None else np.array(one.shape[1:2])
    given = SamplesFirst(sent.thing())(Batch(one, None, lengths=steps))
    axes, new = tuple(range(array.ndim)), range(array.ndim, array.ndim + given.ndim - 1)
    return dask.array.blockwise(
        _block, (0, *new), array, axes, lengths, None if lengths is None else (0,),
        new_axes=dict(zip(new, given.shape[1:], strict=True)), align_arrays=False,
        name=f"fastlstm-predict-{tokenize(sent, array, lengths, batch_size)}",
        dtype=given.dtype, meta=np.empty((0,) * given.ndim, given.dtype),
        sent=sent.delayed("model"),
        batch_size=batch_size, like=given[:0].copy(),
    )  # fmt: skip


def fit_many(
    models: Layer | Callable[[Any], Layer] | dask.bag.Bag,
    bag: dask.bag.Bag,
    loss: LossFunction,
    optimizer: Callable[[Layer], Optimiser],
    epochs: int,
    batch_size: int = 32,
    *,
    validation: dask.bag.Bag | None = None,
    schedule: Callable[[Optimiser], AnySchedule] | None = None,
    schedule_per: Literal["epoch", "batch"] | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    callbacks: Callable[[], Sequence[Callback]] | None = None,
    metrics: Metrics | None = None,
    shuffle: bool = True,
    seed: int = 0,
) -> dask.bag.Bag:
    """Train a model for each series of a Dask bag, as `fastlstm.training.fit_many` for a list.

    Parameters
    ----------
    models : Layer, function, or dask.bag.Bag
        A layer is a template, of which each series gets a copy. A function is called with the data
        set of a series and returns a model for it. A bag holds a model for each series, in the same
        partitions, and is copied too. An earlier result is such a bag: its models go on.
    bag : dask.bag.Bag of data sets
        A data set of each series, as `fit` takes them: ``bag.map(make)`` makes them of series.
    loss, epochs, batch_size, schedule_per, clip_norm, clip_value, metrics, shuffle, seed
        As for `fit`, for all series.
    optimizer : function
        ``optimizer(model)`` makes the optimiser of a model, as `Adam` itself does, or
        ``functools.partial(Adam, lr=0.01)``.
    validation : dask.bag.Bag of data sets, optional
        One for each series, in the same partitions as `bag`. None in it is a series without.
    schedule : function, optional
        ``schedule(optimizer)`` makes the schedule of an optimiser.
    callbacks : function, optional
        ``callbacks()`` makes the list of callbacks for a series. They run where it is trained.

    Returns
    -------
    dask.bag.Bag of (model, History)
        Lazy, in the order of the series: each trained model and what `fit` returned. Where it
        raised one of its errors for a series, a ValueError, TypeError or NonFiniteError, this error
        stands in place of the history, beside the model as `fit` left it; the others are trained as
        if nothing had happened.

    Raises
    ------
    ValueError, TypeError
        If the arguments do not fit together, or not to a template. That is checked before any
        series is.

    Notes
    -----
    Each model gets, bit for bit, what `fit` alone gives it with one thread, whoever trains it, also
    after a worker was lost. The series of a partition are trained one after the other, partitions
    as many at a time as Dask has threads, each in one thread of the engine, unless `num_threads` of
    its layers or ``FASTLSTM_NUM_THREADS`` of the worker says more. So there should be a few
    partitions for each thread of the workers.

    What is lazy is computed whenever it is asked for: ``bag.persist()`` trains once and keeps the
    models on the workers, ``bag.compute()`` brings them here.

    Examples
    --------
    >>> import functools
    >>> import dask.bag as db
    >>> from fastlstm.training import Adam, MSELoss, Windows
    >>> rng = np.random.default_rng(0)
    >>> series = db.from_sequence([rng.random(120).cumsum() for _ in range(4)], npartitions=2)
    >>> template = fastlstm.Sequential(
    ...     fastlstm.LSTM(1, 8, seed=0), fastlstm.Last(), fastlstm.Linear(8, 1, seed=1)
    ... )
    >>> trained = fastlstm.dask.fit_many(
    ...     template, series.map(Windows, 10, flat=True), MSELoss(),
    ...     functools.partial(Adam, lr=0.01), epochs=5,
    ... )
    >>> histories = trained.pluck(1).compute(scheduler="threads")
    >>> [history["loss"][-1] < history["loss"][0] for history in histories]
    [True, True, True, True]
    """
    _check_bag("bag", bag, bag)
    refuse_class("models", models)
    if isinstance(models, dask.bag.Bag):
        _check_bag("models", models, bag)
    elif not callable(models):
        raise TypeError(
            "models should be a layer, a function that makes one, or a dask.bag.Bag, got: "
            f"{type(models).__name__}"
        )
    if validation is not None:
        _check_bag("validation", validation, bag)
    for name, function in {
        "optimizer": optimizer, "schedule": schedule, "callbacks": callbacks,
    }.items():  # fmt: skip
        if not callable(function) and (function is not None or name == "optimizer"):
            raise TypeError(f"{name} should be a function, got: {type(function).__name__}")
    options = {
        "loss": loss, "epochs": check_size("epochs", epochs),
        "batch_size": check_size("batch_size", batch_size), "schedule_per": schedule_per,
        "clip_norm": clip_norm, "clip_value": clip_value, "metrics": check_metrics(metrics),
        "shuffle": check_bool("shuffle", shuffle), "seed": check_size("seed", seed, least=0),
    }  # fmt: skip
    check_clips(clip_norm, clip_value)
    check_schedule_per(schedule, schedule_per)
    made = models if isinstance(models, dask.bag.Bag) else None
    training = _Training(
        None if made is not None else models, optimizer, schedule, callbacks, options
    )
    if isinstance(models, Layer):
        one = copy.deepcopy(models)
        check_parts(one, loss, *training.parts(one))
    return bag.map(_trained, made, validation, sent=_Sent(training).delayed("training"))


def _check_bag(name: str, bag: Any, like: Any) -> None:
    """Refuse what is no bag, or has other partitions than another."""
    if not isinstance(bag, dask.bag.Bag):
        raise TypeError(f"{name} should be a dask.bag.Bag, got: {type(bag).__name__}")
    if bag.npartitions != like.npartitions:
        raise ValueError(
            f"Expected {name} in as many partitions as the bag, {like.npartitions}, got "
            f"{bag.npartitions}"
        )


class _Training(NamedTuple):
    """What the trainings of all series have in common."""

    models: Any  # a template or a function; None where each series has its own
    optimizer: Callable[[Layer], Optimiser]
    schedule: Callable[[Optimiser], AnySchedule] | None
    callbacks: Callable[[], Sequence[Callback]] | None
    options: dict[str, Any]

    def parts(self, model: Layer) -> tuple[Optimiser, AnySchedule | None]:
        """Return an optimiser of the model, and a schedule of that."""
        optimizer = self.optimizer(model)
        return optimizer, None if self.schedule is None else self.schedule(optimizer)


class _Trained(NamedTuple):
    """A pair that Dask never takes for a call, as it takes a plain tuple with a model in front."""

    model: Any
    history: Any


def _trained(data: Any, given: Any, held_out: Any, sent: _Sent) -> _Trained:
    """Train a model for a series, and return it with its history, or with the error of `fit`.

    The model is a copy of the one that is given for this series, if each has its own, and of the
    one that a function returns, which may be the same for several series.
    """
    training: _Training = sent.thing()
    model: Any = None
    try:
        if training.models is None:
            model = given.model if isinstance(given, _Trained) else given
        elif isinstance(training.models, Layer):
            model = training.models
        else:
            model = training.models(data)
        SamplesFirst(model)  # says what is wrong with a model
        model = copy.deepcopy(model)
        with one_thread(left_to_machine(model)):
            optimizer, schedule = training.parts(model)
            callbacks = () if training.callbacks is None else training.callbacks()
            history = fit(
                model, data, optimizer=optimizer, schedule=schedule, validation=held_out,
                callbacks=callbacks, progress=False, **training.options,
            )  # fmt: skip
    except (ValueError, TypeError, NonFiniteError) as fault:
        return _Trained(model, fault)
    if history.interrupted:  # the other series are not to go on
        raise KeyboardInterrupt
    return _Trained(model, history)


def _check_blocks(array: object) -> None:
    """Refuse what is no Dask array of samples that are whole, each in one block."""
    if not isinstance(array, dask.array.Array):
        raise TypeError(
            f"array should be a dask.array.Array, got: {type(array).__name__}; for data without "
            "Dask there is fastlstm.predict"
        )
    if not array.ndim:
        raise ValueError("Expected an array with samples first, (N, T, F), got shape ()")
    if cut := [axis for axis in range(1, array.ndim) if array.numblocks[axis] > 1]:
        raise ValueError(
            "Expected an array in blocks of whole samples, got one that is cut along axis "
            f"{' and '.join(map(str, cut))} too, with chunks {array.chunksize}; its "
            f"rechunk({dict.fromkeys(range(1, array.ndim), -1)}) brings each sample together"
        )
    if any(np.isnan(size) for size in array.shape[1:]):
        raise ValueError(
            f"Expected an array whose samples have known sizes, got shape {array.shape}; "
            "its compute_chunk_sizes() finds them out"
        )


def _aligned(lengths: Any, array: dask.array.Array) -> dask.array.Array:
    """Return lengths as a Dask array in the blocks of the samples; check what is known of them."""
    if array.ndim < 2:
        raise ValueError(f"lengths need samples with steps, (N, T, ...), got shape {array.shape}")
    samples = array.chunks[0]
    unknown = np.isnan(array.shape[0])
    if not isinstance(lengths, dask.array.Array):
        if unknown:
            raise ValueError(
                "Expected lengths as a Dask array in the blocks of the samples, because how many "
                "samples there are is unknown; the array's compute_chunk_sizes() finds it out"
            )
        lengths = as_integers(lengths, "lengths")
        _check_lengths(lengths, array.shape)
        return dask.array.from_array(lengths, chunks=(samples,))
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise ValueError(
            f"Expected lengths of shape ({array.shape[0]},), integers, got {lengths.dtype} of "
            f"shape {lengths.shape}"
        )
    if unknown or np.isnan(lengths.shape[0]):
        if lengths.numblocks[0] != len(samples):
            raise ValueError(
                f"Expected lengths in as many blocks as the samples, {len(samples)}, got "
                f"{lengths.numblocks[0]}"
            )
        return lengths
    if lengths.shape != array.shape[:1]:
        raise ValueError(f"Expected lengths of shape {array.shape[:1]}, got {lengths.shape}")
    return lengths.rechunk((samples,))


def _check_lengths(lengths: NDArray[np.int64], shape: tuple[int, ...]) -> None:
    """Refuse lengths that are not one a sample, of 0 to T steps."""
    if lengths.shape != shape[:1]:
        raise ValueError(f"Expected lengths of shape {shape[:1]}, got {lengths.shape}")
    wrong = np.flatnonzero((lengths < 0) | (lengths > shape[1]))
    if wrong.size:
        raise ValueError(
            f"Expected lengths of 0 to {shape[1]}, got {lengths[wrong[0]]} of sample {wrong[0]}"
        )


def _block(
    x: Any,
    lengths: NDArray[np.int64] | None,
    sent: _Sent,
    batch_size: int,
    like: NDArray[Any],
) -> NDArray[Any]:
    """Return what the model gives for a block, zeros past the end of each sample.

    `like` has the shape and the dtype of it, but no samples.

    Dask hands a block over in a list of one for each axis that the result has not.
    """
    while isinstance(x, list):
        [x] = x
    if lengths is not None:
        lengths = as_integers(lengths, "lengths")
        _check_lengths(lengths, x.shape)
    view, y = SamplesFirst(sent.thing()), np.empty((len(x), *like.shape[1:]), like.dtype)
    for first in range(0, len(x), batch_size):
        rows = slice(first, first + batch_size)
        part = view(Batch(x[rows], None, lengths=None if lengths is None else lengths[rows]))
        if part.shape[1:] != like.shape[1:] or part.dtype != like.dtype:
            raise ValueError(
                f"Expected the model to give {like.dtype} of shape {like.shape[1:]} for each "
                f"sample, as for one of zeros, got {part.dtype} of shape {part.shape[1:]}"
            )
        y[rows] = part
    if lengths is not None and view.gives_steps:
        y[np.arange(y.shape[1]) >= lengths[:, None]] = 0
    return y


def _ready(model: Layer) -> Layer:
    """Prepare a model that all blocks of a process run: nobody changes it from now on."""
    for layer in left_to_machine(model):
        layer.num_threads = 1
    return model.eval()


class _Sent:
    """A thing on its way to other processes: pickled once, unpickled once by each of them.

    Parameters
    ----------
    thing : object
    ready : function, optional
        What makes of the thing, where it has arrived, what is used there; a function of a module.
    """

    _kept: OrderedDict[str, Any] = OrderedDict()  # in this process, the last used at the end
    _most = 8  # so many
    _lock = threading.Lock()

    def __init__(self, thing: object, ready: Callable[[Any], Any] | None = None) -> None:
        self.ready = ready
        self.data = cloudpickle.dumps(thing)  # takes classes and functions of a notebook along
        self.fingerprint = hashlib.sha256(self.data).hexdigest()

    def __dask_tokenize__(self) -> str:
        return self.fingerprint

    def __sizeof__(self) -> int:
        """Return the number of bytes, by which Dask plans what to move where."""
        return object.__sizeof__(self) + len(self.data)

    def delayed(self, name: str) -> Any:
        """Return it as a node of its own in a graph, which Dask brings to each worker once."""
        return dask.delayed(self, name=f"fastlstm-{name}-{self.fingerprint}", traverse=False)

    def thing(self) -> Any:
        """Return the thing, which all of this process share."""
        with self._lock:
            if self.fingerprint not in self._kept:
                thing = pickle.loads(self.data)
                self._kept[self.fingerprint] = thing if self.ready is None else self.ready(thing)
            self._kept.move_to_end(self.fingerprint)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return self._kept[self.fingerprint]
