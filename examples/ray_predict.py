"""One model in a pool of Ray's actors, which predict for many samples at the same time.

Bearings hum; a worn one rattles, now and then, which hides in the noise. An LSTM learns from 400
recordings to tell worn bearings from good ones, which takes a second. Then 20,000 recordings go to
the actors in blocks, and the program checks that they answer what `fastlstm.predict` gives here,
bit for bit. With `--lose` one actor's process is killed in the middle: Ray starts another, and asks
again.

    pip install ".[ray]"
    python examples/ray_predict.py
    python examples/ray_predict.py --lose

On a cluster it runs as it is: `ray job submit -- python examples/ray_predict.py --actors 64`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

import numpy as np

import fastlstm
from fastlstm.training import Adam, CrossEntropyLoss

STEPS, HIDDEN, BLOCK = 100, 16, 500


def recordings(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sounds (count, STEPS, 1), and 1 for each worn bearing, 0 for a good one."""
    time = np.arange(STEPS) + rng.uniform(0, 10, (count, 1))
    worn = rng.integers(0, 2, count)
    rattles = rng.random((count, STEPS)) < 0.08
    sound = np.sin(time * 0.6) + 0.3 * rng.standard_normal((count, STEPS))
    sound += np.where(rattles & (worn[:, None] == 1), 2.0, 0.0) * np.sign(sound)
    return sound[..., None].astype("float32"), worn


def trained(seed: int = 0) -> fastlstm.Sequential:
    """Return a model that has learnt to hear worn bearings."""
    model = fastlstm.Sequential(
        # An actor has one processor, and so its layers take one thread.
        fastlstm.LSTM(1, HIDDEN, batch_first=True, num_threads=1, seed=seed),
        fastlstm.Last(batch_first=True),
        fastlstm.Linear(HIDDEN, 2, num_threads=1, seed=seed),
    )
    data = recordings(np.random.default_rng(seed), 400)
    fastlstm.fit(
        model, data, CrossEntropyLoss(), Adam(model, lr=0.01), epochs=40, seed=seed, progress=False
    )
    return model


class Predictor:
    """What an actor is: a process that has the model, unpickled once, and predicts."""

    def __init__(self, model: fastlstm.Layer) -> None:
        self.model = model

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the model's output for some samples."""
        return fastlstm.predict(self.model, x)

    def process(self) -> int:
        """Return the number of this actor's process."""
        return os.getpid()


def main(arguments: list[str] | None = None) -> dict[str, object]:
    """Train, predict on all actors, print, and return what came out."""
    parser = argparse.ArgumentParser(description="A model in a pool of Ray's actors.")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--lose", action="store_true", help="kill an actor's process in the middle")
    options = parser.parse_args(arguments)
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        sys.exit(f'ray_predict.py needs: pip install "ray[default]" ({error})')

    model = trained()
    x, worn = recordings(np.random.default_rng(1), options.samples)
    blocks = [x[first : first + BLOCK] for first in range(0, len(x), BLOCK)]

    # A process that is lost is started anew, and what it had to do is done again.
    actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(Predictor)
    with ray.init(ignore_reinit_error=True, log_to_driver=False):
        actors = [actor.remote(model) for _ in range(options.actors)]
        processes = ray.get([one.process.remote() for one in actors])
        start, outputs = time.perf_counter(), []
        for output in ActorPool(actors).map(lambda one, block: one.predict.remote(block), blocks):
            outputs.append(output)  # in the order of the blocks, as they come
            if options.lose and len(outputs) == len(blocks) // 4:
                os.kill(processes[0], signal.SIGKILL)
        seconds = time.perf_counter() - start
        survivors = ray.get([one.process.remote() for one in actors])
    output = np.concatenate(outputs)

    same = np.array_equal(output, fastlstm.predict(model, x))
    accuracy = float(np.mean(output.argmax(axis=1) == worn))
    print(f"{len(x)} recordings in {len(blocks)} blocks, {options.actors} actors: {seconds:.2f} s")
    print(f"Right about {accuracy:.1%} of the bearings")
    print(f"As fastlstm.predict here, bit for bit: {same}")
    return {"same": same, "accuracy": accuracy, "lost": len(set(processes) - set(survivors))}


if __name__ == "__main__":
    main()
