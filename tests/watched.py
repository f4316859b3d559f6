"""An engine that watches whether layers keep their side of the contract."""

import itertools
import weakref

import numpy as np

from fastlstm.engines import load


class Watched:
    """An engine whose stacks assert the layers' side of the contract, and keep what they are given.

    `packs` counts the cells that were packed, `alive` are the stacks that somebody still has.
    """

    def __init__(self, module):
        self.module, self.packs, self.alive = module, 0, weakref.WeakSet()
        self.inputs, self.outputs, self.places = [], [], []

    def Stack(self, cells, directions, back=False, spare=None):
        assert directions in (1, 2) and len(cells) % directions == 0
        assert len(cells) == directions or not back
        self.packs += len(cells)
        stack = WatchedStack(self, cells, directions, back, spare)
        self.alive.add(stack)
        return stack

    def line(self, links, batch):
        return None  # so that `run` is what layers call


class WatchedStack:
    def __init__(self, engine, cells, directions, back, spare):
        self.engine, self.directions, self.dtype = engine, directions, cells[0].dtype
        self.cells, (inputs, self.H, self.P) = len(cells), cells[0].sizes
        self.inputs = inputs
        for k, cell in enumerate(cells):
            wide = inputs if k < directions else directions * self.P
            assert cell.w_ih.shape == (4 * self.H, wide)
            assert cell.w_hh.shape == (4 * self.H, self.P) and cell.b.shape == (4 * self.H,)
            has_w_hr = cell.w_hr is not None and cell.w_hr.shape == (self.P, self.H)
            assert has_w_hr or (cell.w_hr is None and self.P == self.H)
            assert {array.dtype for array in cell.arrays().values()} == {self.dtype}
        self.own = engine.module.Stack(cells, directions, back, spare)

    @property
    def stale(self):
        return self.own.stale

    @stale.setter
    def stale(self, value):
        self.own.stale = value

    def check(self, x, batch_sizes, h, c, y, threads, noise=None, cells=None):
        assert batch_sizes.dtype == np.int64 and batch_sizes.ndim == 1 and batch_sizes.size
        assert batch_sizes[-1] >= 1 and (np.diff(batch_sizes) <= 0).all()
        N, B = batch_sizes.sum(), batch_sizes[0]
        assert x.shape == (N, self.inputs) and y.shape == (N, self.directions * self.P)
        assert (h.shape, c.shape) == ((self.cells, B, self.P), (self.cells, B, self.H))
        assert {x.dtype, h.dtype, c.dtype, y.dtype} == {self.dtype} and self.dtype.isnative
        for a in (h, c):
            assert a.flags.carray
        for a in (x, y):
            assert a.flags.aligned and (a.shape[1] == 1 or a.strides[1] == a.itemsize)
        assert y.flags.writeable
        assert not any(np.shares_memory(a, b) for a, b in itertools.combinations((x, h, c, y), 2))
        assert isinstance(threads, int) and threads >= 1
        self.engine.inputs.append(x.copy())
        self.engine.places.append(x.ctypes.data)

    def run(self, *arguments):
        self.check(*arguments)
        self.own.run(*arguments)
        self.engine.outputs.append(arguments[4].copy())

    def call(self, x, hx, time_axis, threads):
        return None  # so that `run` is what layers call

    def record(self, x, batch_sizes, h, c, y, threads, every=0, noise=None):
        assert isinstance(every, int) and every >= 0 and self.cells == self.directions
        self.check(x, batch_sizes, h, c, y, threads, noise)
        return self.own.record(x, batch_sizes, h, c, y, threads, every, noise)

    def back(self, tape, dy, dh, dc, dx, dw, threads):
        assert dy.shape[1] == self.directions * self.P and len(dw) == self.directions
        for a in (dh, dc, *([] if dx is None else [dx])):
            assert a.flags.carray and a.dtype == self.dtype
        for gradients in dw:
            for a in gradients.arrays().values():
                assert a.flags.carray and a.dtype == self.dtype
        self.own.back(tape, dy, dh, dc, dx, dw, threads)

    def step(self, h, c, present, otherwise):
        assert h.flags.carray and c.flags.carray and self.directions == 1

        def own_of_present():
            stack, threads = present()
            return stack.own, threads

        return self.own.step(h, c, own_of_present, otherwise)


def watch(layer):
    """Put a `Watched` in the place of the layer's engine, and return it."""
    layer._engine = Watched(load(layer.engine))
    return layer._engine
