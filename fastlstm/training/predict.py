"""`predict`: run a model over data, batch by batch."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import as_array
from ..checks import check_size
from ..layers import Layer
from .batches import Batches
from .datasets import Arrays, Batch, Data, Sequences
from .pieces import Stored, Target, beside, is_chunks, is_stored
from .view import SamplesFirst, mode
from .windows import Windows


def predict(
    model: Layer,
    data: ArrayLike | Data | Sequence[ArrayLike] | Iterable[ArrayLike] | Any,
    batch_size: int = 256,
    *,
    out: Any = None,
) -> NDArray[Any] | Any:
    """Run a model over data, batch by batch, in evaluation mode.

    Data and results may be larger than memory: what is read from elsewhere, and what goes to `out`,
    is read and written while other batches are computed.

    Parameters
    ----------
    model : Layer
        An LSTM or a Sequential, `batch_first` or not.
    data : array, data set, (x, y), list of sequences, or iterator of arrays
        Samples first, as for `fit`. An array is x alone: in memory, or whatever has a shape, a
        dtype and slices, as a `numpy.memmap`, an ``h5py.Dataset`` and a ``zarr.Array`` do. A list
        holds arrays (T_i, F), or tokens (T_i,): see `Sequences`. An iterator, such as a generator,
        gives arrays (N_k, ...), one after the other.
    batch_size : int
        The number of samples in one run. With engine native the values do not depend on it.
    out : array, optional
        Where the results go: anything with a shape, a dtype and assignment to slices, as the arrays
        named above. Its first axis has the length of the data; the others, and the dtype, are those
        of the results.

    Returns
    -------
    ndarray of shape (N, ...)
        Samples first, in the order of the data: (N, T, F), or (N, F) after a `Last`. For ragged
        data with a value at every step it is a list of N arrays (T_i, F). With `out` it is `out`.
        For an iterator without `out` it is an iterator too, which gives the results for one array
        after the other; the model is in evaluation mode from its first to its last.

    Raises
    ------
    ValueError, TypeError
        If the data do not fit the model, or `out` not the results. Its length is compared before
        any work, and its other axes and its dtype after the first batch, before it is written to.
    RuntimeError
        If another thread trains the model right now.

    Notes
    -----
    Afterwards each layer is in training or evaluation mode as before, once the last of several
    predictions by one model has ended, in threads or as iterators. If it is trained meanwhile in
    another thread, whichever came second is a RuntimeError. Do not train it while an iterator waits
    either: the batch ahead may be computed with the dropout of the training, and other weights.

    Errors of reading and writing come through as they are, and Ctrl-C ends the work after the batch
    at hand. Then `out` holds the first results, up to one that cannot be told, and behind them what
    was there before.

    Memory, besides a result that is returned: three batches with their results. Where an array is
    stored in chunks, so many rows are read at once as make whole chunks, at least `batch_size`; an
    `out` whose chunks have as many rows, or a divisor of them, is written without reading a chunk
    again. Files of other libraries must be opened by the caller, and may be closed afterwards.

    Examples
    --------
    >>> model = fastlstm.Sequential(fastlstm.LSTM(1, 4), fastlstm.Last(), fastlstm.Linear(4, 2))
    >>> fastlstm.training.predict(model, np.zeros((1000, 7, 1), np.float32)).shape
    (1000, 2)
    >>> fastlstm.training.predict(model, [np.zeros((3, 1)), np.zeros((1, 1))]).shape
    (2, 2)

    From one file into another:

    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> np.save(os.path.join(folder, "x.npy"), np.zeros((1000, 7, 1), np.float32))
    >>> x = np.load(os.path.join(folder, "x.npy"), mmap_mode="r")
    >>> y = np.lib.format.open_memmap(
    ...     os.path.join(folder, "y.npy"), "w+", dtype=np.float32, shape=(1000, 2)
    ... )
    >>> fastlstm.training.predict(model, x, out=y) is y
    True
    """
    check_size("batch_size", batch_size)
    view = SamplesFirst(model)
    if is_chunks(data):
        results = _of_chunks(view, data, batch_size)
        if out is None:
            return results
        target = Target(out, None, 0, None)
        with contextlib.closing(results):
            return target.filled(results)
    dataset: Any = data
    if isinstance(data, tuple) and len(data) in (2, 3) and is_stored(data[0]):
        dataset = data[0]
    elif isinstance(data, list):
        dataset = Sequences(data, dtype=model.dtype)
    elif type(data) is Arrays:
        dataset = data.x
    if hasattr(dataset, "__array__") or is_stored(dataset):
        x = Stored(dataset, "data")
        if not x.shape or not x.shape[0]:
            raise ValueError(f"Expected data with at least one sample, got shape {x.shape}")
        target = Target(out, dataset, 0, x.shape[0])
        pieces, is_slow = x.pieces(0, batch_size), x.is_slow and x.shape[0] > batch_size
        results = beside(lambda rows: _of_rows(view, rows, batch_size), pieces, is_slow)
        with mode(model, training=False), contextlib.closing(results):
            return target.filled(results)
    batches = Batches(dataset, batch_size, shuffle=False)
    target = Target(out, None, 0, len(batches.data))
    outcomes = beside(lambda batch: (view(batch), batch.lengths), _read(batches), len(batches) > 1)
    with mode(model, training=False), contextlib.closing(outcomes):
        first = next(outcomes)
        all_outcomes = itertools.chain([first], outcomes)
        if not view.gives_steps or first[1] is None:
            return target.filled(y for y, _ in all_outcomes)
        if out is not None:
            raise ValueError(
                "out cannot hold the results, which are sequences of different lengths: leave it "
                "out, and get a list of arrays"
            )
        ragged: list[NDArray[Any]] = []
        for y, lengths in all_outcomes:
            assert lengths is not None  # as of the first batch
            ragged += [row[:n] for row, n in zip(y, lengths, strict=True)]
        return ragged


def _of_rows(view: SamplesFirst, x: NDArray[Any], batch_size: int) -> NDArray[Any]:
    """Return the results for an array of samples, batch by batch."""
    if len(x) <= batch_size:
        y: NDArray[Any] = view(Batch(x, None))
        return y
    firsts = range(0, len(x), batch_size)
    target = Target(None, None, 0, len(x))
    whole: NDArray[Any] = target.filled(view(Batch(x[n : n + batch_size], None)) for n in firsts)
    return whole


def _of_chunks(
    view: SamplesFirst, chunks: Iterable[ArrayLike], batch_size: int
) -> Generator[NDArray[Any], None, None]:
    """Yield the results for arrays that come one after the other."""
    # Copies, because a reader may use one buffer again and again.
    arrays = (np.array(as_array(chunk, "an array of data")) for chunk in chunks)
    with mode(view.model, training=False):
        yield from beside(lambda rows: _of_rows(view, rows, batch_size), arrays, True)


def _read(batches: Batches) -> Iterator[Batch]:
    """Read the batches of a data set; what a caller's own gives is copied, as it may change."""
    for batch in batches.epoch(0):
        if not isinstance(batches.data, (Arrays, Sequences, Windows)) and isinstance(batch, Batch):
            x, lengths = copy.deepcopy((batch.x, batch.lengths))
            batch = batch._replace(x=x, lengths=lengths)
        yield batch
