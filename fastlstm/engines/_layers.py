"""A stack of layers on an engine that knows one layer in one direction: loops and threads."""

import threading
from typing import NamedTuple

import numpy as np

# floating-point operations, about a millisecond's: below that, starting threads costs more than
# they save
_WORTH_THREADS = 1e8
# the same, of a piece of time: between two, Python can run the handler of a signal, as Ctrl-C's
_PIECE = 2e8


class Stack:
    """Layers on top of each other, packed once; `run` is the whole stack's.

    Parameters
    ----------
    engine : module
    parameters : list of (w_ih, w_hh, b, w_hr)
        For each layer, and in it for each direction, as the engine's `pack` takes them.
    directions : {1, 2}
    """

    def __init__(self, engine, parameters, directions):
        self._engine, self._directions = engine, directions
        self._weights = [engine.pack(*arrays) for arrays in parameters]
        self._hidden = parameters[0][1].shape[0] // 4, parameters[0][1].dtype
        self._sizes = [sum(a.size for a in arrays if a is not None) for arrays in parameters]

    def run(self, x, batch_sizes, h, c, y, threads):
        """As `Stack.run` of the contract; thread k runs the sequences k, k + n, ...

        As they are sorted by length, the shares are even.
        """
        parts = min(threads, h.shape[1])
        if parts < 2 or 8 * len(x) * sum(self._sizes) < _WORTH_THREADS:
            self._run(x, batch_sizes, h, c, y)
            return
        from concurrent.futures import ThreadPoolExecutor

        given_up = threading.Event()
        place = np.arange(len(x)) - np.repeat(np.cumsum(batch_sizes) - batch_sizes, batch_sizes)

        def run(part):
            rows = np.flatnonzero(place % parts == part)
            sizes = (batch_sizes - part + parts - 1) // parts
            own_h, own_c = (np.array(state[:, part::parts], order="C") for state in (h, c))
            own_y = np.empty((len(rows), y.shape[1]), y.dtype)
            self._run(x[rows], sizes[sizes > 0], own_h, own_c, own_y, given_up)
            y[rows] = own_y
            h[:, part::parts], c[:, part::parts] = own_h, own_c

        with ThreadPoolExecutor(parts) as pool:
            try:
                list(pool.map(run, range(parts)))
            except BaseException:  # the threads, for which the pool waits, leave too
                given_up.set()
                raise

    def _run(self, x, batch_sizes, h, c, y, given_up=None):
        d, last = self._directions, len(self._weights) - 1
        for k, weights in enumerate(self._weights):
            if k % d == 0:  # a layer's first direction
                above = y if k + d > last else np.empty_like(y)
            part = above if d == 1 else np.split(above, 2, axis=1)[k % 2]
            for rows, sizes in self._pieces(k, batch_sizes):
                if given_up is not None and given_up.is_set():
                    return
                live = sizes[0]
                states = h[k][:live], c[k][:live]
                _quietly(self._engine.run, weights, x[rows], sizes, *states, part[rows], k % d == 1)
            if (k + 1) % d == 0:
                x = above

    def _pieces(self, k, batch_sizes, every=0):
        """(Rows, batch sizes) of pieces of time, in the order in which cell k computes them.

        None is long, so that a signal is soon seen, nor has more than `every` steps, if that is
        not 0; the values do not depend on where time is cut.
        """
        steps, ends = len(batch_sizes), np.cumsum(batch_sizes)
        most = max(1, int(_PIECE / (2 * self._sizes[k] * batch_sizes[0])))
        every = min(every or steps, most, steps)
        if self._directions == 2 and k % 2 == 1:
            pieces = [slice(max(0, end - every), end) for end in range(steps, 0, -every)]
        else:
            pieces = [slice(start, start + every) for start in range(0, steps, every)]
        for piece in pieces:
            sizes = batch_sizes[piece]
            first = ends[piece.start] - sizes[0]
            yield slice(first, first + sizes.sum()), sizes

    def record(self, x, batch_sizes, h, c, y, threads, every=0):
        """As `Stack.record` of the contract, in one thread."""
        sides = np.split(y, self._directions, axis=1)
        return [
            self._record(k, x, batch_sizes, h[k], c[k], side, every) for k, side in enumerate(sides)
        ]

    def _record(self, k, x, batch_sizes, h, c, y, every):
        segments = []
        for rows, sizes in self._pieces(k, batch_sizes, every):
            live = sizes[0]
            saved = None if every else self._room_to_save(k, rows)
            segment = _Segment(
                x[rows], sizes, h[:live].copy(), c[:live].copy(), y[rows], rows, saved
            )
            _quietly(
                self._engine.run, self._weights[k], segment.x, sizes, h[:live], c[:live], segment.y,
                k == 1, saved,
            )  # fmt: skip
            segments.append(segment)
        return segments

    def back(self, tape, dy, dh, dc, dx, dw, threads):
        """As `Stack.back` of the contract, in one thread."""
        if dx is not None:
            dx[...] = 0
        sides = np.split(dy, self._directions, axis=1)
        for k, (segments, side) in enumerate(zip(tape, sides, strict=True)):
            for s in reversed(segments):
                saved, live = s.saved or self._save_again(k, s), s.batch_sizes[0]
                _quietly(
                    self._engine.back, self._weights[k], *s[:5], saved, side[s.rows],
                    dh[k][:live], dc[k][:live], None if dx is None else dx[s.rows], dw[k], k == 1,
                )  # fmt: skip

    def _save_again(self, k, s):
        saved = self._room_to_save(k, s.rows)
        y, h, c = np.empty(s.y.shape, s.y.dtype), s.h.copy(), s.c.copy()
        _quietly(self._engine.run, self._weights[k], s.x, s.batch_sizes, h, c, y, k == 1, saved)
        return saved

    def _room_to_save(self, k, rows):
        hidden, dtype = self._hidden
        count = rows.stop - rows.start
        return np.empty((count, 4 * hidden), dtype), np.empty((count, hidden), dtype)


def _quietly(function, *arguments):
    """Call an engine without NumPy's floating-point errors, whatever `np.errstate` there is.

    What underflows is rightly 0, and inf and nan come out as torch's do, without a word.
    """
    with np.errstate(all="ignore"):
        function(*arguments)


class _Segment(NamedTuple):
    """Some steps of one direction on a tape: what `run` took and gave, in the order of `back`."""

    x: np.ndarray
    batch_sizes: np.ndarray
    h: np.ndarray  # before its first step, as c
    c: np.ndarray
    y: np.ndarray
    rows: slice
    saved: tuple | None
