"""What is measured: sizes, weights, input, useful operations and bar of every case, by name.

Legend, as everywhere in fastlstm: T steps, B sequences, I input size, H hidden size.
"""

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """One workload.

    T = 1 is a single step of a live stream: the state of one call is where the next one begins.
    With `shortest`, lengths are uniform in [shortest, T], one of them T, by `seed`. `bar` is the
    ratio, best peer's time / ours, that the first engine of the table has to reach.
    """

    T: int
    B: int
    I: int  # noqa: E741
    H: int
    layers: int = 1
    directions: int = 1
    dtype: str = "float32"
    proj_size: int = 0
    shortest: int | None = None
    seed: int = 0
    bar: float | None = None

    @property
    def name(self):
        """Sizes separated by commas, what is not usual behind them: 100,32,256,256,float64."""
        steps = self.T if self.shortest is None else f"{self.shortest}-{self.T}"
        parts = [steps, self.B, self.I, self.H]
        if (self.layers, self.directions) != (1, 1):
            parts += [self.layers, self.directions]
        if self.dtype != "float32":
            parts.append(self.dtype)
        if self.proj_size:
            parts.append(f"proj{self.proj_size}")
        return ",".join(map(str, parts))

    @property
    def group(self):
        if self.shortest is not None:
            return "Ragged batches"
        if self.dtype != "float32" or self.proj_size:
            return "Float64 and projections"
        return "One step" if self.T == 1 else "Whole sequences"

    @property
    def lengths(self):
        """The steps of each sequence."""
        if self.shortest is None:
            return np.full(self.B, self.T)
        lengths = np.random.default_rng(self.seed).integers(self.shortest, self.T + 1, self.B)
        lengths[0] = self.T
        return lengths

    @property
    def output_size(self):
        return self.proj_size or self.H

    def input_size(self, layer):
        return self.directions * self.output_size if layer else self.I

    @property
    def operations(self):
        """Useful floating-point operations: matrix products over real steps, 2 a multiply-add."""
        P = self.output_size
        step = sum(8 * self.H * (self.input_size(k) + P) for k in range(self.layers))
        if self.proj_size:
            step += 2 * self.layers * self.H * P
        return int(self.lengths.sum()) * self.directions * step

    def draw(self):
        """Return the weights, torch's names and U(+-1/sqrt(H)), and x ~ N(0, 1) of (T, B, I)."""
        rng = np.random.default_rng(0)
        H, P, bound = self.H, self.output_size, 1 / np.sqrt(self.H)
        shapes = {}
        for k in range(self.layers):
            for suffix in (f"_l{k}", f"_l{k}_reverse")[: self.directions]:
                shapes["weight_ih" + suffix] = (4 * H, self.input_size(k))
                shapes["weight_hh" + suffix] = (4 * H, P)
                shapes["bias_ih" + suffix] = shapes["bias_hh" + suffix] = (4 * H,)
                if self.proj_size:
                    shapes["weight_hr" + suffix] = (P, H)
        weights = {n: rng.uniform(-bound, bound, s).astype(self.dtype) for n, s in shapes.items()}
        return weights, rng.standard_normal((self.T, self.B, self.I)).astype(self.dtype)


# The seeds of the ragged cases give batches that are 52 %, 62 % and 50 % full.
CASES = {
    case.name: case
    for case in (
        Case(1, 1, 32, 32),
        Case(1, 1, 64, 64),
        Case(1, 1, 128, 128),
        Case(1, 1, 256, 256),
        Case(1, 1, 512, 512),
        Case(1, 1, 1024, 1024),
        Case(10, 50, 1, 10),
        Case(100, 1, 32, 32, bar=2),
        Case(100, 1, 128, 128, bar=1.6),
        Case(100, 1, 256, 256, bar=1.15),
        Case(100, 1, 512, 512),
        Case(100, 1, 1024, 1024),
        Case(100, 8, 128, 128, bar=1.1),
        Case(100, 32, 128, 128),
        Case(100, 32, 256, 256, bar=1.1),
        Case(100, 32, 512, 512, bar=1.1),
        Case(100, 128, 512, 512),
        Case(100, 256, 256, 256, bar=1.1),
        Case(50, 64, 512, 1024),
        Case(365, 256, 5, 64, bar=1.55),
        Case(100, 1, 256, 256, layers=2, directions=2),
        Case(100, 32, 256, 256, layers=2, directions=2),
        Case(400, 64, 64, 128, shortest=10, bar=1.7),
        Case(50, 32, 100, 256, shortest=5, seed=57, bar=1.3),
        Case(2000, 16, 40, 128, shortest=100, seed=11, bar=1.5),
        Case(100, 32, 256, 256, dtype="float64", bar=1.8),
        Case(100, 32, 256, 256, proj_size=64),
    )
}
