from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import contract
from .contract import Array, Cell, Noise

class Stack:
    stale: bool

    def __init__(
        self,
        cells: Sequence[Cell],
        directions: int,
        back: bool = False,
        spare: dict[str, Any] | Spare | None = None,
    ) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def lanes(self) -> int: ...
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
        table: Table | None = None,
        index: Array | None = None,
    ) -> None: ...
    def run_at(
        self,
        steps: tuple[int, int, int, int],
        states: tuple[int, int, int, int],
        x: int,
        y: int,
        threads: int,
    ) -> None:
        """Do what `run` does with C-contiguous memory at these addresses.

        For tensors of other libraries: it takes a third of the time that views as arrays take.
        `steps` are where the sizes of the steps are, the number of steps, that of sequences and
        that of rows. The first is 0 if every step has all sequences. `states` are where h_0 and c_0
        are, and where h and c of the end go; h_0 may be 0 for zeros. This and the next two check
        nothing.
        """

    def record_at(
        self,
        steps: tuple[int, int, int, int],
        states: tuple[int, int, int, int],
        x: int,
        y: int,
        tape: int,
        room: int,
        threads: int,
    ) -> None:
        """Do what `record` does, without checkpoints, with a tape in `room` bytes there."""

    def back_at(
        self,
        steps: tuple[int, int, int, int],
        states: tuple[int, int, int, int],
        x: int,
        y: int,
        tape: int,
        room: int,
        dy: int,
        dx: int,
        dw: Sequence[tuple[int, int, int, int, int]],
        threads: int,
    ) -> None:
        """Do what `back` does with a run that `record_at` kept.

        `states` are where the gradients of the final states are, and where those of h_0 and c_0 go.
        `dx` may be 0. `dw` has for each direction where the gradients of W_ih, W_hh, b, b again and
        W_hr go; 0: there is none, or not again. They are filled, not added to, if there are any
        rows. The tape need not lie where it lay, but must be as far from a multiple of 64 bytes.
        """

    def lend(self, name: str, shape: Sequence[int], values: bool) -> Array:
        """Return an array of one or two axes, of values or of bytes, at a multiple of 64.

        It holds anything. Its memory is spare memory, such as that of the array before of this
        name, if nobody has that any more: what has been written before is at hand, while new memory
        comes page by page when it is first written, which can take longer than the run that it is
        for.
        """

    def table(self, x: Array) -> Table: ...
    def call(
        self, x: Any, hx: Any, time_axis: int, threads: int, table: Table | None = None
    ) -> tuple[Any, ...] | None: ...
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
    ) -> Tape: ...
    def force_cuts(
        self, forward: Sequence[int] | None = None, back: Sequence[int] | None = None
    ) -> None:
        """Cut all work as told: the fields of `fl_cut` and `fl_back_cut`; None: as is best.

        `inputs_first` may be left out; it is 0 then.

        For tests and measurements: it changes the time and no value. No call may be under way, and
        streams go on as they were until their next change.
        """

    def saved(self, tape: Tape) -> list[tuple[Array, Array]]: ...
    def back(
        self,
        tape: Tape,
        dy: Array,
        dh: Array,
        dc: Array,
        dx: Array | None,
        dw: Sequence[Cell],
        threads: int,
        dcells: Sequence[Array | None] | None = None,
    ) -> None: ...
    def step(
        self,
        h: Array,
        c: Array,
        present: Callable[[], tuple[contract.Stack, int]],
        otherwise: contract.Step,
        table: Table | None = None,
    ) -> contract.Step: ...

class Spare:
    def __init__(self, limit: int) -> None: ...
    @property
    def bytes(self) -> int: ...

class Table: ...
class Tape: ...
class Lent: ...

class Sample:
    def __init__(self, arrays: Sequence[Array], whole: bool = False) -> None: ...
    def holds(self) -> bool: ...

class Step:
    def __init__(
        self,
        h: Array,
        c: Array,
        present: Callable[[], tuple[contract.Stack, int]],
        otherwise: contract.Step,
        table: Table | None = None,
    ) -> None: ...
    def step(self, x: ArrayLike, out: Array | None = None) -> Array: ...

class Product:
    stale: bool

    def __init__(self, w: Array, b: Array | None) -> None: ...
    def run(self, x: Array, y: Array, threads: int) -> None: ...
    def call(self, x: Any, threads: int) -> Array | None: ...
    def slide(
        self,
        x: Any,
        before: int,
        after: int,
        stride: int,
        dilation: int,
        rectified: bool,
        threads: int,
    ) -> Array | None: ...

class Line:
    def __init__(self, links: Sequence[contract.Link], batch: int) -> None: ...
    def run(self, x: Any, time_axis: int, out: Array | None = None) -> Array | None: ...

def line(links: Sequence[contract.Link], batch: int) -> Line: ...
def update(rule: contract.Rule, p: Array, g: Array, moments: Sequence[Array | None]) -> bool: ...
def is_finite(x: Array) -> bool: ...
def prepare(dtype: np.dtype[Any]) -> None: ...
def describe() -> dict[str, object]: ...
