"""The native engine's forward pass gives one answer, bit for bit, however it is cut.

A cut is forced: groups of sequences, teams for directions or layers, seats and shares, and whether
products of inputs come first. There are cuts with more of each than there are sequences, units,
threads or cores. What a stop leaves behind is test_native_c.py's, where calls are stopped under
ThreadSanitizer.
"""

import dataclasses

import numpy as np
import pytest
from support import WORKS, Guarded, Work, assert_same_answers, draw, noise_of
from test_native_gradients import KINDS, with_kind

from fastlstm import LSTM
from fastlstm.engines import load
from fastlstm.sequences.packing import batch_sizes_of

pytestmark = pytest.mark.usefixtures("native")

ONE = (1, 1, 1, 1, 1)


class Run:
    """A work on the native engine; called with a cut, it returns all that the run fills.

    With `reverse`, a work of one direction goes from the end to the start. A recorded run, whose
    tape has the states of every so many steps, returns what the tape makes of it.
    """

    def __init__(self, work, reverse=False, recorded=False, every=0):
        self.work, self.recorded, self.every = work, recorded, every
        self.cells, self.x, self.h, self.c = draw(work)
        if reverse:
            self.cells = [dataclasses.replace(cell, reverse=True) for cell in self.cells]
        self.stack = load("native").Stack(self.cells, work.directions, recorded)

    def __call__(self, cut):
        work, (rows, dtype) = self.work, (len(self.x), self.x.dtype)
        self.stack.force_cuts(cut)
        widths = {"y": self.h.shape[2], "cells": self.c.shape[2]}
        values = {n: np.full((rows, work.directions * w), np.nan, dtype) for n, w in widths.items()}
        values |= {"h": self.h.reshape(-1, widths["y"]), "c": self.c.reshape(-1, widths["cells"])}
        buffers = {name: Guarded(value) for name, value in values.items()}
        y, cells, h, c = (buffer.array for buffer in buffers.values())
        arrays = self.x, batch_sizes_of(np.array(work.lengths))
        arrays += h.reshape(self.h.shape), c.reshape(self.c.shape), y, 1
        noise = noise_of(work)
        made = {"y": y, "h": h, "c": c}
        if self.recorded:
            tape = self.stack.record(*arrays, self.every, noise)
            made |= self.from_tape(tape)
        elif work.layers == 1:
            self.stack.run(*arrays, noise, cells)
            made["cells"] = cells
        else:
            self.stack.run(*arrays)
        for name, buffer in buffers.items():
            buffer.check(name)
        return made

    def from_tape(self, tape):
        """What is saved of a recorded run, and the gradients that its tape gives."""
        made = {}
        if not self.every:
            for k, (gates, cells) in enumerate(self.stack.saved(tape)):
                made |= {f"gates {k}": gates, f"saved {k}": cells}
        dy = np.cos(np.arange(len(self.x) * self.work.directions * self.h.shape[2], dtype=float))
        dy = dy.reshape(len(self.x), -1).astype(self.x.dtype)
        gradients = [np.ones_like(self.h), np.ones_like(self.c), np.empty_like(self.x)]
        dw = [cell.map(np.zeros_like) for cell in self.cells]
        self.stack.back(tape, dy, *gradients, dw, 1)
        made |= dict(zip(("dh", "dc", "dx"), gradients, strict=True))
        return made | {f"{n} {k}": a for k, d in enumerate(dw) for n, a in d.arrays().items()}


def drawn(kind, rng):
    """A run of a work of this kind, and a cut of it."""
    steps, batch = int(rng.integers(1, 20)), int(rng.choice([1, 1, 2, 3, 5, 9, 20]))
    lengths = rng.integers(1, steps + 1, batch) if rng.random() < 0.5 else np.full(batch, steps)
    work = Work((*np.sort(lengths)[::-1].tolist(),), *rng.integers(1, 150, 2).tolist())
    work = with_kind(work, kind)._replace(directions=int(rng.integers(1, 3)))
    recorded = rng.random() < 0.3
    if not (recorded or work.noise or work.dcells):
        work = work._replace(layers=int(rng.integers(1, 4)))
    run = Run(
        work,
        reverse=bool(work.directions == 1 and rng.random() < 0.3),
        recorded=recorded,
        every=int(rng.choice([0, 0, 1, 3])) if recorded else 0,
    )
    return run, drawn_cut(work, rng)


def drawn_cut(work, rng):
    groups, seats = int(rng.choice([1, 1, 2, 3, 7])), int(rng.choice([1, 1, 2, 3, 5]))
    teams = int(rng.choice([1, 2 if work.directions == 2 else work.layers]))
    shares = seats + int(rng.choice([0, 0, 1, seats, 20]))
    threads = int(rng.choice([1, 2, 3, 16, groups * teams * seats]))
    return threads, groups, teams, seats, shares, int(rng.integers(0, 2))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", KINDS)
def test_one_answer_of_any_cut(kind, seed):
    run, cut = drawn(kind, np.random.default_rng([seed, *kind.encode()]))
    assert_same_answers(run(cut), run(ONE))


# Of each work, cuts for its size: alone and with others, in time behind one another, in blocks of
# steps for which W_ih x is made together.
CUTS = {
    "slices": [(16, 16, 1, 1, 1), (16, 4, 1, 4, 4), (2, 7, 1, 2, 3), (16, 8, 1, 1, 1, 1)],
    "slices_stack": [(16, 8, 2, 1, 1), (16, 2, 2, 4, 4), (3, 2, 1, 2, 4)],
    "one_long": [(16, 16, 1, 1, 1), (4, 2, 1, 2, 2)],
    "stairs_reverse": [(16, 8, 2, 1, 1), (8, 2, 2, 2, 3), (8, 4, 1, 2, 2)],
    "directions": [(2, 1, 2, 1, 1), (16, 1, 2, 8, 8), (3, 1, 1, 3, 9)],
    "units": [(16, 1, 1, 16, 16), (4, 1, 1, 4, 16), (2, 1, 1, 5, 7), (16, 1, 1, 2, 2, 1)],
    "units_of_two": [(2, 1, 2, 1, 1), (16, 2, 2, 4, 4), (4, 1, 2, 2, 5)],
    "units_leaving": [(3, 1, 3, 1, 1), (16, 2, 3, 2, 4), (12, 1, 3, 4, 4), (16, 6, 1, 2, 2)],
    "units_double": [(2, 1, 2, 1, 1), (8, 1, 2, 4, 4)],
    "denormal": [(16, 8, 1, 2, 2)],
}


@pytest.mark.parametrize("name, cut", [(n, c) for n, cuts in CUTS.items() for c in cuts], ids=str)
def test_one_answer_of_larger_works(name, cut):
    run = Run(WORKS[name])
    assert_same_answers(run(cut), run(ONE))


@pytest.mark.parametrize("layers, hidden", [(2, 16), (2, 64), (3, 40), (4, 70)])
@pytest.mark.parametrize("steps", [1, 2, 7, 8, 9, 100])
def test_one_answer_of_layers_that_follow_one_another(layers, hidden, steps):
    """The small ones for a sequence alone have kernels of their own."""
    for batch in (1, 2):
        run = Run(Work((steps,) * batch, 30, hidden, layers=layers))
        one = run(ONE)
        for threads, groups, seats, first in (
            (1, 1, 1, 0), (layers, 1, 1, 0), (8, 1, 1, 1), (2, batch, 1, 1), (8, 1, 2, 0),
        ):  # fmt: skip
            assert_same_answers(run((threads, groups, layers, seats, seats, first)), one)


@pytest.mark.parametrize("layers, directions, every", [(1, 1, None), (2, 2, None), (1, 2, 0)])
@pytest.mark.parametrize("lengths", [(3,) * 3000, (3, 2, 1) * 1000], ids=["equal", "ragged"])
def test_one_answer_of_one_thread_that_takes_many_in_groups(layers, directions, every, lengths):
    """So many that their rows leave any second-level cache."""
    work = Work(tuple(sorted(lengths, reverse=True)), 30, 30, layers=layers, directions=directions)
    run = Run(work, recorded=every is not None, every=every or 0)
    assert_same_answers(run(None), run(ONE))


@pytest.mark.parametrize("cut", [(2, 1, 1, 2, 2), (16, 1, 1, 16, 16), (4, 1, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_one_answer_of_steps(cut, batch):
    """Those of a stream, whose states are beside the first x before threads are called."""
    x = np.random.default_rng(0).standard_normal((6, batch, 30)).astype(np.float32)
    lstm = LSTM(30, 130, 2, engine="native", num_threads=1, seed=0)
    expected, _ = lstm(x)
    lstm._whole_stacks()[0].force_cuts(cut)
    stream = lstm.stream(batch)
    got = np.stack([stream.step(x_t) for x_t in x])
    assert_same_answers({"y": got}, {"y": expected})


def test_groups_that_overlap_would_be_seen():
    """A sabotaged cut, two groups that share a sequence, gives other values."""
    run = Run(Work((5,) * 4, 3, 16))
    expected = run(ONE)
    run.stack.force_cuts(ONE)
    h, c, y = run.h.copy(), run.c.copy(), np.empty_like(expected["y"])
    for group in (slice(0, 3), slice(2, 4)):
        rows = np.arange(20).reshape(5, 4)[:, group].ravel()
        own = y[rows]
        states = np.ascontiguousarray(h[:, group]), np.ascontiguousarray(c[:, group])
        sizes = np.full(5, group.stop - group.start)
        run.stack.run(np.ascontiguousarray(run.x[rows]), sizes, *states, own, 1)
        y[rows], h[:, group], c[:, group] = own, *states
    with pytest.raises(AssertionError, match="values differ"):
        assert_same_answers({"y": y}, {"y": expected["y"]})
