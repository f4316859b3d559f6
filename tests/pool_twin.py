"""A pool, and for each of its streams a `Stream` of its own that must give the same."""

import numpy as np
import pytest
from support import assert_same_bits

import fastlstm


def assert_equal(got, expected, exact):
    if exact:
        assert_same_bits(got, expected)
    else:
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(got, expected, **_close(got.dtype))


def _close(dtype):
    """Engines without the promise of one answer sum in another order: some units in the last place.

    States are at most 1 in these tests, outputs a few units.
    """
    eps = float(np.finfo(dtype).eps)
    return {"rtol": 50 * eps, "atol": 50 * eps}


def arrays_of(state):
    """Yield all arrays of a state: (h, c), or a dict of them; each may be a tuple of arrays."""
    if isinstance(state, dict):
        for name in sorted(state):
            yield from arrays_of(state[name])
    elif isinstance(state, tuple):
        for part in state:
            yield from arrays_of(part)
    else:
        yield state


def unbatched(state):
    """Return the state of a stream with B = 1 without its axis B."""
    if isinstance(state, dict):
        return {name: unbatched(part) for name, part in state.items()}
    if isinstance(state, tuple):
        return tuple(unbatched(part) for part in state)
    return state[:, 0] if state.ndim == 3 else state[0]


class Twin:
    """Does everything twice, in a pool and in streams of their own, and compares.

    `draw(rng, *axes)` makes an input.
    """

    def __init__(self, model, capacity, exact=True, seed=0, draw=None, pool=None):
        self.model, self.exact, self.rng = model, exact, np.random.default_rng(seed)
        self.pool = (pool or fastlstm.Pool)(model, capacity)
        self.alone, self.closed, self._draw = {}, [], draw
        lstms = [layer for _, layer in model.named_layers() if isinstance(layer, fastlstm.LSTM)]
        self.batch_first, self.inputs = lstms[0].batch_first, getattr(model, "input_size", None)

    def draw(self, *axes):
        if self._draw:
            return self._draw(self.rng, *axes)
        return self.rng.standard_normal((*axes, self.inputs)).astype(self.model.dtype)

    def some(self):
        """Some live sids, in any order."""
        live = self.rng.permutation([*self.alone])
        return live[: self.rng.integers(1, len(live) + 1)].astype(np.int64)

    def open(self, state=None, like=None):
        sid = self.pool.open(state)
        assert type(sid) is int and sid not in self.alone and sid not in self.closed
        self.alone[sid] = self.model.stream()
        if like is not None:
            self.alone[sid].state = self.alone[like].state
        return sid

    def close(self, sids):
        self.pool.close(sids)
        for sid in np.atleast_1d(sids).tolist():
            del self.alone[sid]
            self.closed.append(sid)

    def step(self, sids, out=False):
        x = self.draw(len(sids))
        expected = [self.alone[sid].step(x[n : n + 1])[0] for n, sid in enumerate(sids.tolist())]
        into = np.full((len(sids), *expected[0].shape), np.nan, self.model.dtype) if out else None
        y = self.pool.step(sids, x, into)
        assert into is None or y is into
        assert_equal(y, np.stack(expected), self.exact)

    def step_one(self, sid):
        x = self.draw(1)
        assert_equal(self.pool.step(sid, x[0]), self.alone[sid].step(x)[0], self.exact)

    def run(self, sids, lengths=None, steps=3, packed=False):
        n = len(sids)
        x = self.draw(n, steps) if self.batch_first else self.draw(steps, n)
        each = np.full(n, steps) if lengths is None else lengths
        by_steps = x.swapaxes(0, 1) if self.batch_first else x
        expected = []
        for k, sid in enumerate(sids.tolist()):
            own = by_steps[: each[k], k : k + 1]
            y = self.alone[sid].run(own.swapaxes(0, 1) if self.batch_first else own)
            expected.append((y.swapaxes(0, 1) if self.batch_first else y)[:, 0])
        if packed:
            pack = fastlstm.pack_padded_sequence(by_steps, each, enforce_sorted=False)
            y, _ = fastlstm.pad_packed_sequence(self.pool.run(sids, pack), total_length=steps)
        else:
            y = self.pool.run(sids, x, lengths)
            y = y.swapaxes(0, 1) if self.batch_first else y
        assert y.shape[:2] == (steps, n)
        for k, own in enumerate(expected):
            assert_equal(y[: len(own), k], own, self.exact)
            assert not y[len(own) :, k].any()

    def reset(self, sids):
        self.pool.reset(sids)
        for sid in np.atleast_1d(sids).tolist():
            self.alone[sid].reset()

    def check(self):
        """Compare all states, and try what must be refused."""
        assert sorted(self.pool.sids.tolist()) == sorted(self.alone)
        assert len(self.pool) == len(self.alone)
        for sid, stream in self.alone.items():
            assert sid in self.pool
            expected = arrays_of(unbatched(stream.state))
            for got, own in zip(arrays_of(self.pool.state(sid)), expected, strict=True):
                assert_equal(got, own, self.exact)
        live = [*self.alone][:1]
        for sid in self.closed[-3:]:
            assert sid not in self.pool
            with pytest.raises(ValueError, match=f"{sid} is no sid of a live stream"):
                self.pool.step([*live, sid], self.draw(len(live) + 1))

    def go(self, rounds):
        """Do so many things at random."""
        for _ in range(rounds):
            if not self.alone or (len(self.alone) < self.pool.capacity and self.rng.random() < 0.4):
                like = self.rng.choice([*self.alone]) if self.alone else None
                how = self.rng.integers(3) if self.alone else 0
                if how == 0:
                    self.open()
                else:
                    take = self.pool.state if how == 1 else self.pool.to_bytes
                    self.open(take(like), like)
                continue
            sids, kind = self.some(), self.rng.integers(10)
            if kind < 3:
                self.step(sids, out=bool(kind == 0))
            elif kind == 3:
                self.step_one(int(sids[0]))
            elif kind < 6:
                self.run(sids, self.rng.integers(0, 5, len(sids)), steps=4)
            elif kind == 6:
                self.run(sids)
            elif kind == 7:
                self.run(sids, self.rng.integers(1, 5, len(sids)), steps=4, packed=True)
            elif kind == 8:
                self.reset(sids)
            else:
                self.close(sids[: len(sids) // 2 + 1])
            if self.rng.random() < 0.3:
                self.check()
        self.check()
