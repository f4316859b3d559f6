"""Run pools for minutes, and check all they give: ``python -m benchmarks.soak --help``.

Coroutines in two event loops, and a thread beside them, open streams, advance them by steps and
chunks, cancel, miss deadlines, make mistakes, leave, and move streams as bytes. The pools are saved
and restored meanwhile, and now and then a layer fails. Every stream has another one beside it that
is not in the pool and takes the same steps alone: results and states must be the same bits. At the
end the memory must be what it was.
"""

from __future__ import annotations

from . import processors  # first: it pins the threads of whatever is imported next

# isort: split
import argparse
import asyncio
import collections
import contextlib
import copy
import pathlib
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np

import fastlstm

FEATURES, HIDDEN, CLIENTS = 16, 32, 96
GROWTH = 8  # MiB by which the memory of the process may differ between its second and last quarter
# What clients do, and how often.
ACTIONS = {
    "step": 60, "chunk": 10, "pipeline": 5, "cancel": 5, "deadline": 5, "mistake": 5, "direct": 3,
    "leave": 4, "move": 3,
}  # fmt: skip


class Fragile(fastlstm.Layer):
    """A layer that passes on what it gets, or fails when it is told to."""

    stepwise = True

    def __init__(self) -> None:
        super().__init__()
        self.fails = 0

    def forward(self, input: Any) -> Any:
        if self.fails:
            self.fails -= 1
            raise ArithmeticError("the layer was told to fail")
        return input


def models() -> list[tuple[Any, Fragile | None]]:
    """Return the models of the pools: an LSTM, and a whole model with a layer that may fail."""
    lstm, fragile = fastlstm.LSTM(FEATURES, HIDDEN, 2, seed=0), Fragile()
    parts = {
        "below": fastlstm.LSTM(FEATURES, HIDDEN, seed=1),
        "fragile": fragile,
        "above": fastlstm.LSTM(HIDDEN, HIDDEN, seed=2),
        "linear": fastlstm.Linear(HIDDEN, 3, seed=3),
    }
    return [(lstm, None), (fastlstm.Sequential(parts), fragile)]


class Alone:
    """A stream that takes the same steps outside the pool."""

    def __init__(self, model: Any) -> None:
        self.stream = model.stream()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the results of one step (I,), or of several (T, I)."""
        y = np.stack([self.stream.step(row[None])[0] for row in x.reshape(-1, FEATURES)])
        return y if x.ndim == 2 else y[0]

    def __copy__(self) -> Alone:
        other = object.__new__(Alone)
        other.stream = copy.copy(self.stream)
        return other

    def state(self) -> list[np.ndarray]:
        return [part[..., 0, :] for part in parts_of(self.stream.state)]


def parts_of(state: Any) -> list[np.ndarray]:
    """Return the arrays of a state: (h, c), or a dict of those."""
    return [
        part for pair in (state.values() if isinstance(state, dict) else [state]) for part in pair
    ]


def same(got: Any, expected: Any, what: str) -> None:
    """Raise AssertionError unless all bits are the same."""
    assert np.array_equal(got, expected), f"{what}: other numbers than the stream alone gives"


class World:
    """A pool, its clients, and a keeper who stops them to save the pool, and restores it later."""

    def __init__(
        self, model: Any, fragile: Fragile | None, folder: pathlib.Path, until: float, seed: int
    ) -> None:
        self.model, self.fragile, self.folder, self.until = model, fragile, folder, until
        self.sound = copy.deepcopy(model)  # whose layers never fail, for the streams alone
        self.pool = model.pool(CLIENTS + 8, max_wait=0.0005, max_batch=64, max_pending=80)
        self.counts: collections.Counter[str] = collections.Counter()
        self.seconds, self.timed = np.zeros(100_000), 0  # how long the last submits took
        self.rng = np.random.default_rng(seed)
        self.clients = [Client(self, [seed, number]) for number in range(CLIENTS)]
        self.active = 0
        # Of direct calls in another thread: none is made while the pool goes back in time.
        self.direct, self.restored = threading.Lock(), 0

    def note(self, seconds: float) -> None:
        """Note how long a submit took, in memory that does not grow."""
        self.seconds[self.timed % len(self.seconds)] = seconds
        self.timed += 1

    async def run(self) -> None:
        """Run all clients until the end."""
        self.running, self.quiet = asyncio.Event(), asyncio.Event()
        self.running.set()
        await asyncio.gather(self.keep(), *(client.run() for client in self.clients))
        for client in self.clients:
            client.check()

    @contextlib.asynccontextmanager
    async def stopped(self) -> Any:
        """Wait until no client does anything, and let none begin."""
        self.running.clear()
        while self.active:
            self.quiet.clear()
            await self.quiet.wait()
        yield
        self.running.set()

    async def keep(self) -> None:
        """Save and restore; and let the layer fail, if there is such a one."""
        path, beside = self.folder / "stopped.pool", self.folder / "running.pool"
        loop = asyncio.get_running_loop()
        while time.monotonic() < self.until:
            await asyncio.sleep(0.2 + self.rng.random())
            await loop.run_in_executor(None, self.pool.save, beside)
            other = self.model.pool(self.pool.capacity)
            await loop.run_in_executor(None, other.restore, beside)
            assert len(other) <= other.capacity
            async with self.stopped():
                self.pool.save(path)
                kept = [(client.sid, copy.copy(client.alone)) for client in self.clients]
            await asyncio.sleep(0.2 + self.rng.random())
            async with self.stopped():
                with self.direct:
                    self.pool.restore(path)
                    self.restored += 1
                    own = [sid for sid, _ in kept]
                    self.pool.close(np.setdiff1d(self.pool.sids, own))
                for client, (client.sid, client.alone) in zip(self.clients, kept, strict=True):
                    client.check()
            self.counts["saved and restored"] += 1
            if self.fragile is not None:
                self.fragile.fails = int(self.rng.integers(1, 40))


class Client:
    """A coroutine with one stream, and the same stream alone."""

    def __init__(self, world: World, seed: Any) -> None:
        self.world, self.rng = world, np.random.default_rng(seed)
        self.names, weights = [*ACTIONS], np.array([*ACTIONS.values()], float)
        self.weights = weights / weights.sum()
        self.begin()

    def begin(self) -> None:
        self.sid, self.alone = self.world.pool.open(), Alone(self.world.sound)

    def draw(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal((*shape, FEATURES), dtype=np.float32)

    def check(self) -> None:
        """Compare the state in the pool with that of the stream alone."""
        state = parts_of(self.world.pool.state(self.sid))
        for got, expected in zip(state, self.alone.state(), strict=True):
            same(got, expected, f"the state of stream {self.sid}")

    async def run(self) -> None:
        world = self.world
        while time.monotonic() < world.until:
            await world.running.wait()
            world.active += 1
            try:
                for action in self.rng.choice(self.names, 10, p=self.weights):
                    await self.do(str(action))
                self.check()
            finally:
                world.active -= 1
                world.quiet.set()
            await asyncio.sleep(self.rng.random() * 0.01)

    async def do(self, action: str) -> None:
        """Do one thing; whatever it gives is checked."""
        pool, counts = self.world.pool, self.world.counts
        begin = time.perf_counter()
        try:
            if action in ("step", "chunk", "deadline"):
                x = self.draw(*([int(self.rng.integers(1, 6))] if action == "chunk" else []))
                deadline = self.rng.random() * 0.01 if action == "deadline" else None
                same(await pool.submit(self.sid, x, deadline), self.alone(x), action)
                self.world.note(time.perf_counter() - begin)
            elif action == "pipeline":
                xs = self.draw(4)
                tasks = [asyncio.ensure_future(pool.submit(self.sid, x)) for x in xs]
                await asyncio.wait(tasks)
                for x, task in zip(xs, tasks, strict=True):
                    if task.exception() is None:
                        same(task.result(), self.alone(x), action)
                    else:
                        counts["of a pipeline failed"] += 1
            elif action == "cancel":
                await self.cancel()
            elif action == "mistake":
                await self.mistake()
            elif action == "direct":
                x = self.draw()
                same(pool.step(self.sid, x), self.alone(x), action)
            elif action == "leave":
                pool.close(self.sid)
                self.begin()
            else:
                data = pool.to_bytes(self.sid)
                pool.close(self.sid)
                self.sid = pool.open(data)
        except TimeoutError:
            counts["too late"] += 1
        except ArithmeticError:
            counts["failed by the layer"] += 1
        counts[action] += 1

    async def cancel(self) -> None:
        """Cancel a step sooner or later; the next one shows whether it has moved the state."""
        pool, x, then = self.world.pool, self.draw(), self.draw()
        task = asyncio.ensure_future(pool.submit(self.sid, x))
        await asyncio.sleep(self.rng.random() * 0.002)
        task.cancel()
        await asyncio.wait([task])
        moved = copy.copy(self.alone)
        expected = moved(x)
        if not task.cancelled():
            if (error := task.exception()) is not None:
                raise error
            same(task.result(), expected, "what was cancelled too late")
            self.alone = moved
            return
        while True:
            try:
                y = await pool.submit(self.sid, then)
                break
            except ArithmeticError:
                self.world.counts["failed by the layer"] += 1
        if np.array_equal(y, (other := copy.copy(self.alone))(then)):
            self.alone = other
            self.world.counts["cancelled before"] += 1
        else:
            same(y, moved(then), "the step behind a cancelled one")
            self.alone = moved
            self.world.counts["cancelled during"] += 1

    async def mistake(self) -> None:
        """Do something wrong, which must be refused."""
        pool = self.world.pool
        wrong = [
            (self.sid, self.draw(2, 2)),
            (self.sid, self.draw()[1:]),
            (self.sid, self.draw().astype(np.float64)),
            (self.sid + 2**50, self.draw()),
            (self.sid, self.draw(), float("nan")),
        ]
        try:
            await pool.submit(*wrong[self.rng.integers(len(wrong))])
        except (TypeError, ValueError):
            return
        raise AssertionError("a mistake was let through")


def beside(world: World, seed: int) -> None:
    """In a thread: streams that come, advance together by direct calls, and go."""
    rng, pool = np.random.default_rng(seed), world.pool
    while time.monotonic() < world.until:
        with world.direct:
            restored, streams = world.restored, {}
            with contextlib.suppress(fastlstm.PoolFull):
                for _ in range(int(rng.integers(1, 8))):
                    streams[pool.open()] = Alone(world.sound)
        for _ in range(int(rng.integers(1, 20))):
            sids = rng.permutation([*streams])[: rng.integers(1, len(streams) + 1)]
            x = rng.standard_normal((len(sids), FEATURES), dtype=np.float32)
            with world.direct:
                if world.restored > restored:
                    break  # the keeper has closed them
                try:
                    y = pool.step(sids, x)
                except ArithmeticError:
                    world.counts["failed by the layer"] += 1
                    continue
            for sid, row, result in zip(sids.tolist(), x, y, strict=True):
                same(result, streams[sid](row), "beside")
            world.counts["beside"] += 1
        with world.direct:
            if world.restored == restored:
                pool.close([*streams])
        time.sleep(0.005)


def memory() -> float:
    """Return how much memory the process has, in MiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    """Run, and say what was done; a difference ends the program with an error."""
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    until = time.monotonic() + args.seconds
    faults: list[BaseException] = []

    def thread(work: Any, *arguments: Any) -> threading.Thread:
        def run() -> None:
            try:
                work(*arguments)
            except BaseException as fault:
                faults.append(fault)
                raise

        started = threading.Thread(target=run, daemon=True)
        started.start()
        return started

    with tempfile.TemporaryDirectory() as folder:
        worlds, threads = [], []
        for number, (model, fragile) in enumerate(models()):
            own = pathlib.Path(folder) / str(number)
            own.mkdir()
            world = World(model, fragile, own, until, args.seed + number)
            worlds.append(world)
            threads.append(thread(lambda world=world: asyncio.run(world.run())))
            threads.append(thread(beside, world, args.seed + 10 + number))
        used = []
        while time.monotonic() < until and not faults:
            time.sleep(0.25)
            used.append(memory())
        for world in worlds:
            world.until = 0
        for one in threads:
            one.join(60)
            assert not one.is_alive(), "somebody waits for ever"
    if faults:
        raise faults[0]
    quarter = len(used) // 4
    second, last = (
        statistics.median(part) for part in (used[quarter : 2 * quarter], used[-quarter:])
    )
    print(f"{args.seconds:g} s, {processors()} processors, {CLIENTS} clients in each of 2 loops")
    for world in worlds:
        print(type(world.model).__name__)
        for name, count in sorted(world.counts.items()):
            print(f"  {count:9,} {name}")
        p50, p99, p999 = np.percentile(world.seconds[: world.timed], [50, 99, 99.9]) * 1e3
        print(f"  of submits, ms: p50 {p50:.2f}, p99 {p99:.2f}, p99.9 {p999:.2f}")
    print(f"memory, MiB: {second:.1f} in the second quarter, {last:.1f} in the last")
    assert last - second < GROWTH, f"the memory has grown by {last - second:.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
