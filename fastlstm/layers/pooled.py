"""Models in a pool: what their parts do over packed rows, and how LSTMs find the states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import as_float, as_rows
from .chain import Given
from .stream import check_live

if TYPE_CHECKING:
    from ..arrays import Array, Floats, Integers
    from .embedding import Embedding
    from .layer import Layer
    from .lstm import LSTM
    from .stream import Live


class Call:
    """What the parts of a model are told about one call.

    Attributes
    ----------
    states : list of ndarray
        Those of the pool.
    index : int64 ndarray of shape (B,)
        The rows of the streams, in the order of the packed sequences.
    batch_sizes : int64 ndarray of shape (T,)
    rows : int
        How many rows that is.
    """

    rows: int
    states: list[Floats]
    index: Integers
    batch_sizes: Integers


class _Pooled:
    """What does the work of an LSTM in a pool. A step of it takes packed rows, of any steps."""

    def __init__(self, lstm: LSTM, places: slice, call: Call) -> None:
        self._lstm, self._places, self._call = lstm, places, call

    def step(self, x: Any, out: Floats | None = None, table: Any = None) -> Any:
        lstm = self._lstm
        if type(x) is not np.ndarray or x.dtype != lstm.dtype:
            x = as_float(x, lstm.dtype, "x", "Pool")
        if x.shape != (self._call.rows, lstm.input_size):
            shape = self._call.rows, lstm.input_size
            raise ValueError(f"x must have shape {shape}, got {x.shape}")
        return self._run(lstm._whole_stacks(), as_rows(x), out)

    def _run(self, stacks: Any, x: Array, out: Floats | None, table: Any = None) -> Floats:
        call, lstm = self._call, self._lstm
        if out is None:
            out = np.empty((len(x), lstm._output_size), lstm.dtype)
        if len(x):
            states = call.states[self._places]
            lstm._run_stacks(stacks, x, call.batch_sizes, states, out, table, call.index)
        return out

    def run(self, x: Any) -> Any:
        return self.step(x)

    def _behind(self, embedding: Embedding) -> _PooledBehind:
        return _PooledBehind(embedding, self)


class _PooledBehind:
    """An embedding and the LSTM behind it, in a pool."""

    def __init__(self, embedding: Embedding, pooled: _Pooled) -> None:
        self._embedding, self._pooled = embedding, pooled

    def step(self, x: Any, out: Floats | None = None) -> Any:
        lookup = self._embedding._look_up(x)
        ahead = self._pooled._lstm._ahead_of(lookup)
        if ahead is None or lookup.index.ndim != 1:
            return self._pooled.step(lookup.rows(), out)
        return self._pooled._run(ahead.stacks, lookup.index[:, np.newaxis], out, ahead.made)

    def run(self, x: Any) -> Any:
        return self.step(x)


class Parts:
    """What a call goes through: the parts of a model, and what they are told. One call at a time.

    It gives each LSTM its places among the states.
    """

    def __init__(self, model: Layer) -> None:
        self.call, self.lstms = Call(), dict[str, "LSTM"]()
        self.places: dict[str, slice] = {}
        given = Given([], type(model).__name__)
        self.live: Live = model._live("", given, self)

    def begin(self, name: str, lstm: LSTM) -> _Pooled:
        check_live(lstm)
        start = sum(2 * len(own._groups) for own in self.lstms.values())
        self.lstms[name] = lstm
        self.places[name] = slice(start, start + 2 * len(lstm._groups))
        return _Pooled(lstm, self.places[name], self.call)
