"""What engines share that compute one `Cell` at a time: whole stacks, in threads, and the rest.

The rest is what such an engine leaves to its caller, or to NumPy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .contract import Array, Cell, Noise, Rule, Stack, Step

# With fewer floating-point operations for each than these, about half a millisecond,
# starting threads costs more than they save.
_WORTH_A_THREAD = 5e7
# So many floating-point operations make a piece of time, 15 to 300 ms. Between two pieces, Python
# can run the handler of a signal, such as that of Ctrl-C. Each piece reads its state, and begins
# without weights in the near cache and without inputs multiplied ahead: pieces of 2 ms take up to
# 20 % more time. A step of a tiny layer takes as long as _STEP operations.
_PIECE, _STEP = 4e9, 1e4


class Layers:
    """The contract's `Stack`, by functions for one cell, which an engine's subclass names.

    ``pack(cell) -> weights``
        Brings a cell into the engine's own order, in memory of its own.
    ``run_cell(weights, x, batch_sizes, h, c, y, reverse, saved, noise)``
        Runs one layer in one direction, equations (1) to (5) or (11) to (19): `h` (B, P), `c`
        (B, H), `y` (N, P); with `reverse` from the end. `saved`, if it is not None, is a pair to be
        filled for every row. Of the plain cell without noise these are i, f, g, o and c, of shapes
        (N, 4H) and (N, H); otherwise c and, in place of the gates, what the way back needs: 4H
        values, or 8H with layer_norm "haste".
    ``back_cell(weights, x, batch_sizes, h, c, y, saved, dy, dh, dc, dx, dw, reverse, dcells,
    noise)``
        Goes back through such a run, equations (6) to (10). `h` and `c` are the initial states; x,
        y and `saved` are as `run_cell` left them; `dx`, if it is not None, is added into.
    ``gates_of(weights, batch_sizes, c, saved, reverse, noise) -> gates``
        Returns i, f, g, o (N, 4H) of such a run as a fresh array; `c` is the initial state.
    """

    pack: Callable[[Cell], Any]
    run_cell: Callable[..., None]
    back_cell: Callable[..., None]
    gates_of: Callable[..., Array]
    stale = False

    def __init__(
        self,
        cells: Sequence[Cell],
        directions: int,
        back: bool = False,
        spare: dict[str, Any] | None = None,
    ) -> None:
        self._directions, self._cells = directions, [_Packed(self.pack(c), c) for c in cells]

    def run(
        self,
        x: Array,
        batch_sizes: Array,
        h: Array,
        c: Array,
        y: Array,
        threads: int,
        noise: Sequence[Noise] | None = None,
        cells: Array | None = None,
        table: None = None,
        index: Array | None = None,
    ) -> None:
        """Run as the contract says; thread k runs the sequences k, k + n, ...

        As the sequences are sorted by length, the shares are even.
        """
        if index is not None:
            own_h, own_c = h.take(index, axis=1), c.take(index, axis=1)
            self.run(x, batch_sizes, own_h, own_c, y, threads, noise, cells)
            h[:, index], c[:, index] = own_h, own_c
            return
        work = 8 * len(x) * sum(cell.size for cell in self._cells)
        parts = min(threads, h.shape[1], int(work / _WORTH_A_THREAD))
        if parts < 2:
            self._run(x, batch_sizes, h, c, y, noise, cells)
            return
        from concurrent.futures import ThreadPoolExecutor

        given_up = threading.Event()
        place = np.arange(len(x)) - np.repeat(np.cumsum(batch_sizes) - batch_sizes, batch_sizes)

        def run(part: int) -> None:
            rows = np.flatnonzero(place % parts == part)
            sizes = (batch_sizes - part + parts - 1) // parts
            own_h, own_c = (np.array(state[:, part::parts], order="C") for state in (h, c))
            own_y = np.empty((len(rows), y.shape[1]), y.dtype)
            own_noise = noise and [_part_of(n, slice(part, None, parts), rows) for n in noise]
            own_cells = None if cells is None else np.empty((len(rows), cells.shape[1]), y.dtype)
            own = own_h, own_c, own_y, own_noise, own_cells
            self._run(x[rows], sizes[sizes > 0], *own, given_up)
            y[rows] = own_y
            if cells is not None:
                cells[rows] = own_cells
            h[:, part::parts], c[:, part::parts] = own_h, own_c

        with ThreadPoolExecutor(parts) as pool:
            try:
                list(pool.map(run, range(parts)))
            except BaseException:  # the threads, for which the pool waits, leave too
                given_up.set()
                raise

    def _run(
        self,
        x: Array,
        batch_sizes: Array,
        h: Array,
        c: Array,
        y: Array,
        noise: Sequence[Noise] | None,
        cells: Array | None,
        given_up: threading.Event | None = None,
    ) -> None:
        d, last = self._directions, len(self._cells) - 1
        for k in range(len(self._cells)):
            if k % d == 0:  # a layer's first direction
                above = y if k + d > last else np.empty_like(y)
            side = above if d == 1 else np.split(above, 2, axis=1)[k % 2]
            for rows, sizes in self._pieces(k, batch_sizes):
                if given_up is not None and given_up.is_set():
                    return
                live = sizes[0]
                own = _part_of(noise[k], slice(live), rows) if noise else _SILENCE
                saved = None if cells is None else self._empty_saved(k, rows)
                self._run_cell(k, x[rows], sizes, h[k][:live], c[k][:live], side[rows], saved, own)
                if cells is not None and saved is not None:
                    np.split(cells, d, axis=1)[k % d][rows] = saved[1]
            if (k + 1) % d == 0:
                x = above

    def _pieces(
        self, k: int, batch_sizes: Array, most_steps: int = 0
    ) -> Iterator[tuple[slice, Array]]:
        """Yield (rows, batch sizes) of pieces of time, in the order in which cell k computes them.

        None is long, so that a signal is soon seen, and none has more than `most_steps`, unless
        that is 0. The values do not depend on where time is cut.
        """
        steps, ends = len(batch_sizes), np.cumsum(batch_sizes)
        soon = max(1, int(_PIECE / max(2 * self._cells[k].size * batch_sizes[0], _STEP)))
        most = min(most_steps or steps, soon, steps)
        if self._is_reverse(k):
            pieces = [slice(max(0, end - most), end) for end in range(steps, 0, -most)]
        else:
            pieces = [slice(start, start + most) for start in range(0, steps, most)]
        for piece in pieces:
            sizes = batch_sizes[piece]
            first = ends[piece.start] - sizes[0]
            yield slice(first, first + sizes.sum()), sizes

    def record(
        self,
        x: Array,
        batch_sizes: Array,
        h: Array,
        c: Array,
        y: Array,
        threads: int,
        checkpoint_every: int = 0,
        noise: Sequence[Noise] | None = None,
    ) -> list[list[_Segment]]:
        """Record as the contract says, in one thread; the tape has segments for each direction."""
        sides = np.split(y, self._directions, axis=1)
        noise = noise or [_SILENCE] * self._directions
        return [
            self._record(k, x, batch_sizes, h[k], c[k], side, checkpoint_every, noise[k])
            for k, side in enumerate(sides)
        ]

    def _record(
        self,
        k: int,
        x: Array,
        batch_sizes: Array,
        h: Array,
        c: Array,
        y: Array,
        checkpoint_every: int,
        noise: Noise,
    ) -> list[_Segment]:
        segments = []
        for rows, sizes in self._pieces(k, batch_sizes, checkpoint_every):
            live = sizes[0]
            saved = None if checkpoint_every else self._empty_saved(k, rows)
            before, own = (h[:live].copy(), c[:live].copy()), _part_of(noise, slice(live), rows)
            self._run_cell(k, x[rows], sizes, h[:live], c[:live], y[rows], saved, own)
            segments.append(_Segment(rows, x[rows], sizes, *before, y[rows], saved, own))
        return segments

    def saved(self, tape: list[list[_Segment]]) -> list[tuple[Array, Array]]:
        """Return the gates and cells of a tape as the contract says."""
        result = []
        for k, segments in enumerate(tape):
            parts = {}  # by the first of their rows: time may have run from the end
            for s in segments:
                assert s.saved is not None
                with np.errstate(all="ignore"):  # as in `_run_cell`
                    gates = self.gates_of(
                        self._cells[k].weights, s.batch_sizes, s.c, s.saved, self._is_reverse(k),
                        s.noise,
                    )  # fmt: skip
                parts[s.rows.start] = gates, s.saved[1]
            in_order = [parts[start] for start in sorted(parts)]
            gates, cells = (np.concatenate(part) for part in zip(*in_order, strict=True))
            result.append((gates, cells))
        return result

    def back(
        self,
        tape: list[list[_Segment]],
        dy: Array,
        dh: Array,
        dc: Array,
        dx: Array | None,
        dw: Sequence[Cell],
        threads: int,
        dcells: Sequence[Array | None] | None = None,
    ) -> None:
        """Go back as the contract says, in one thread."""
        if dx is not None:
            dx[...] = 0
        sides = np.split(dy, self._directions, axis=1)
        for k, (segments, side) in enumerate(zip(tape, sides, strict=True)):
            d = dcells[k] if dcells else None
            for s in reversed(segments):
                saved, live = s.saved or self._save_again(k, s), len(s.h)
                with np.errstate(all="ignore"):  # as in `_run_cell`
                    self.back_cell(
                        self._cells[k].weights, s.x, s.batch_sizes, s.h, s.c, s.y, saved,
                        side[s.rows], dh[k][:live], dc[k][:live],
                        None if dx is None else dx[s.rows], dw[k], self._is_reverse(k),
                        None if d is None else d[s.rows], s.noise,
                    )  # fmt: skip

    def _save_again(self, k: int, s: _Segment) -> tuple[Array, Array]:
        saved, y = self._empty_saved(k, s.rows), np.empty(s.y.shape, s.y.dtype)
        self._run_cell(k, s.x, s.batch_sizes, s.h.copy(), s.c.copy(), y, saved, s.noise)
        return saved

    def _empty_saved(self, k: int, rows: slice) -> tuple[Array, Array]:
        cell, count = self._cells[k], rows.stop - rows.start
        return (
            np.empty((count, cell.saved_size), cell.dtype),
            np.empty((count, cell.hidden_size), cell.dtype),
        )

    def _run_cell(
        self,
        k: int,
        x: Array,
        batch_sizes: Array,
        h: Array,
        c: Array,
        y: Array,
        saved: tuple[Array, Array] | None,
        noise: Noise,
    ) -> None:
        """Run a cell without NumPy's floating-point errors, whatever `np.errstate` there is.

        What underflows is rightly 0, and inf and nan come out as torch has them, without a word.
        """
        weights, reverse = self._cells[k].weights, self._is_reverse(k)
        with np.errstate(all="ignore"):
            self.run_cell(weights, x, batch_sizes, h, c, y, reverse, saved, noise)

    def _is_reverse(self, k: int) -> bool:
        return self._cells[k].reverse

    def table(self, x: Array) -> None:
        """Return None: this engine makes products as it needs them."""

    def call(
        self, x: Any, hx: Any, time_axis: int, threads: int, table: None = None
    ) -> tuple[Any, ...] | None:
        """Refuse: this engine gains nothing by checks of its own."""
        return None

    def step(
        self,
        h: Array,
        c: Array,
        present: Callable[[], tuple[Stack, int]],
        otherwise: Step,
        table: None = None,
    ) -> Step:
        """Return `otherwise`: this engine gains nothing by a step of its own."""
        return otherwise


class _Packed:
    """A cell as its engine has packed it, and what is asked of it often."""

    def __init__(self, weights: Any, cell: Cell) -> None:
        self.weights, self.dtype, self.hidden_size = weights, cell.dtype, cell.sizes[1]
        self.reverse = cell.reverse
        self.saved_size = (4 if cell.ln_ih is None else 8) * self.hidden_size
        self.size = sum(array.size for array in cell.arrays().values())


class _Segment(NamedTuple):
    """Some steps of one direction on a tape: which rows, and what `run_cell` took and gave."""

    rows: slice
    x: Array
    batch_sizes: Array
    h: Array  # before its first step, as c
    c: Array
    y: Array
    saved: tuple[Array, Array] | None
    noise: Noise


_SILENCE = Noise()


def _part_of(noise: Noise, sequences: slice, rows: Any) -> Noise:
    """Return the noise of some sequences, and of the packed rows that are theirs."""
    h, zone_h, zone_c = noise
    return Noise(
        None if h is None else h[sequences],
        None if zone_h is None else zone_h[rows],
        None if zone_c is None else zone_c[rows],
    )


def update(rule: Rule, p: Array, g: Array, moments: Sequence[Array | None]) -> bool:
    """Refuse: what these engines could do, the optimiser does in NumPy."""
    return False


def is_finite(x: Array) -> bool:
    """Tell whether all numbers are finite; in one pass if they are and their sum is, too."""
    return bool(np.isfinite(x.sum())) or bool(np.isfinite(x).all())
