"""`run`: a long recording through a model, in chunks of time that carry the states."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import as_array
from ..checks import check_size
from ..layers import Layer, ModelStream, Stream
from ..sequences.batch import undecided
from .arguments import refuse_class
from .pieces import Stored, Target, beside, is_chunks

_VALUES = 1 << 20  # of the widest layer in a chunk: 4 MB of float32


def run(
    model: Layer | Stream | ModelStream,
    x: ArrayLike | Iterable[ArrayLike] | Any,
    *,
    steps: int | None = None,
    out: Any = None,
) -> NDArray[Any] | Any:
    """Run a model over a long recording, in chunks of time that carry the states on.

    Recording and results may be larger than memory: what is read from elsewhere, and what goes to
    `out`, is read and written while another chunk is computed.

    Parameters
    ----------
    model : Layer, or a stream of one
        What has a `stream`: an LSTM or a Sequential, neither bidirectional nor run from the end. A
        stream goes on where it stands, and is at the end of the recording afterwards: so states are
        given, and taken.
    x : array of shape (T, I), (T, B, I), or (B, T, I) if the model is `batch_first`; or iterator
        One recording, or B of them at once; (T,), (T, B) or (B, T) tokens if the model begins with
        an Embedding. In memory, or whatever has a shape, a dtype and slices, as a `numpy.memmap`,
        an ``h5py.Dataset`` and a ``zarr.Array`` do. An iterator, such as a generator, gives such
        arrays, each of which goes on where the one before has ended.
    steps : int, optional
        T of a chunk; about a million values of the widest layer if it is not given. With engine
        native the values do not depend on it. The arrays of an iterator are the chunks themselves.
    out : array, optional
        Where the results go: anything with a shape, a dtype and assignment to slices, as the arrays
        named above. Its shape and dtype are those of the results.

    Returns
    -------
    ndarray of shape (T, F), (T, B, F), or (B, T, F)
        A value for every step, behind a Last too. With `out` it is `out`. For an iterator without
        `out` it is an iterator too, which gives the results for one array after the other.

    Raises
    ------
    ValueError, TypeError
        If the model has no stream, or the recording does not fit it, or `out` not the results. Its
        length is compared before any work, and its other axes and its dtype after the first chunk,
        before it is written to.

    Notes
    -----
    Errors of reading and writing come through as they are, and Ctrl-C ends the work after the chunk
    at hand. A stream then stands where it stood before. `out` holds the first results, up to a step
    that cannot be told, and behind them what was there before. A stream whose results come from an
    iterator stands behind the last ones that were taken.

    Memory, besides a result that is returned: three chunks with their results. Where an array is
    stored in chunks of its own, a chunk is made of whole ones.

    Examples
    --------
    >>> lstm = fastlstm.LSTM(3, 4, seed=0)
    >>> x = np.ones((1000, 3), np.float32)
    >>> y = fastlstm.training.run(lstm, x, steps=100)
    >>> np.allclose(y, lstm(x)[0], atol=1e-6)
    True

    States go from one recording to the next:

    >>> stream = lstm.stream()
    >>> parts = [fastlstm.training.run(stream, x[:400]), fastlstm.training.run(stream, x[400:])]
    >>> np.allclose(np.concatenate(parts), y, atol=1e-6)
    True
    >>> h, c = stream.state

    Arrays that come one after the other:

    >>> chunks = (x[first : first + 250] for first in range(0, 1000, 250))
    >>> [len(y) for y in fastlstm.training.run(lstm, chunks)]
    [250, 250, 250, 250]
    """
    if steps is not None:
        check_size("steps", steps)
    recording = _Recording(model)
    if is_chunks(x):
        results = recording.of_chunks(x)
        if out is None:
            return results
        with recording.unmoved_by_errors(), contextlib.closing(results):
            first = next(results, None)
            if first is None:
                raise ValueError("Expected x with at least one array, got an iterator without any")
            target = Target(out, None, recording.axis, None)
            return target.filled(itertools.chain([first], results))
    stored = Stored(x, "x")
    recording.begin(stored.shape)
    axis = recording.axis
    target = Target(out, x, axis, stored.shape[axis])
    pieces = stored.pieces(axis, steps or recording.usual_steps())
    results = recording.results(pieces, stored.is_slow)
    with recording.unmoved_by_errors(), contextlib.closing(results):
        return target.filled(results)


class _Recording:
    """How a recording lies, and the stream that it goes through.

    Parameters
    ----------
    model : Layer, Stream or ModelStream

    Attributes
    ----------
    axis : int
        That of time, once `begin` was told a shape.
    """

    def __init__(self, model: Any) -> None:
        refuse_class("model", model)
        self._is_given = isinstance(model, (Stream, ModelStream))
        layer = model
        if self._is_given:
            layer = model._lstm if isinstance(model, Stream) else model._model
        if not isinstance(layer, Layer):
            raise TypeError(
                f"model should be a layer, or a stream of one, got: {type(model).__name__}"
            )
        self._layer = layer
        self._stream = model if self._is_given else layer.stream()  # which may be refused
        self.axis = 0

    def begin(self, shape: tuple[int, ...]) -> None:
        """Learn the shape of the first piece; ValueError if the model takes no such recording."""
        layer = self._layer
        timed = [inner for _, inner in layer.named_layers() if hasattr(inner, "batch_first")]
        batch_first = timed[0].batch_first if timed else False
        axes = layer._axes or (2 if layer._takes_indices else 3)
        names = ("(T,)", "(T, B)") if axes == 2 else ("(T, I)", "(T, B, I)")
        if batch_first:
            names = names[0], names[1].replace("T, B", "B, T")
        exact = layer._axes is not None  # a layer of one's own may take more axes
        if len(shape) < axes - 1 or (exact and len(shape) > axes):
            raise ValueError(f"Expected x of shape {names[0]} or {names[1]}, got {shape}")
        self._is_one = len(shape) == axes - 1
        if not self._is_one and batch_first is None:
            raise undecided("run", shape)
        self._alone = int(batch_first is not False)  # the axis of time where one has an axis too
        self.axis = 0 if self._is_one else self._alone
        self._batch = 1 if self._is_one else shape[1 - self.axis]
        if self._is_given and self._batch != self._stream.batch_size:
            raise ValueError(
                f"Expected x for the {self._stream.batch_size} sequences of the stream, got "
                f"{self._batch}: shape {shape}"
            )
        if self._batch != self._stream.batch_size:
            self._stream = layer.stream(self._batch)

    def usual_steps(self) -> int:
        """Return how many steps a chunk has, unless the caller says so."""
        widest = max((max(p.shape) for p in self._layer.state_dict().values()), default=1)
        return max(1, _VALUES // (self._batch * widest))

    def of_chunks(self, chunks: Iterable[ArrayLike]) -> Generator[NDArray[Any], None, None]:
        """Yield the results for arrays that come one after the other."""
        # Copies, because a reader may use one buffer again and again.
        arrays = (np.array(as_array(chunk, "an array of x")) for chunk in chunks)
        first = next(arrays, None)
        if first is None:
            return
        self.begin(first.shape)
        with contextlib.closing(self.results(itertools.chain([first], arrays), True)) as results:
            yield from results

    def results(
        self, pieces: Iterable[NDArray[Any]], is_slow: bool
    ) -> Generator[NDArray[Any], None, None]:
        """Yield the results for pieces of time; a given stream ends behind the last one."""
        state = self._stream.state if self._is_given else None
        with contextlib.closing(beside(self._advanced, pieces, is_slow)) as outcomes:
            try:
                for y, after in outcomes:
                    state = after
                    yield y
            finally:
                outcomes.close()  # only now the stream stands still
                if self._is_given:
                    self._stream.state = state

    def _advanced(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        """Run a piece; return the results, and the state after it if a stream was given."""
        if self._is_one:
            x = np.expand_dims(x, 1 - self._alone)
        y = self._stream.run(x)
        if self._is_one:
            y = y.squeeze(1 - self._alone)
        return y, self._stream.state if self._is_given else None

    @contextlib.contextmanager
    def unmoved_by_errors(self) -> Iterator[None]:
        """Put a given stream back to where it was if the block fails."""
        before = self._stream.state if self._is_given else None
        try:
            yield
        except BaseException:
            if self._is_given:
                self._stream.state = before
            raise
