"""What layers that an engine computes have in common: the choice of the engine, and threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..engines import choose
from ..engines.machine import asked_threads, threads
from .layer import Layer

if TYPE_CHECKING:
    from ..checks import Precision
    from ..engines import EngineChoice


class Computed(Layer):
    """A layer that an engine computes: chosen when it is built, and anew for a copy elsewhere.

    A copy elsewhere also counts its own processors, where `num_threads` is left to the machine.
    """

    _fixed = Layer._fixed | {"engine"}

    def __init__(
        self, shapes: dict[str, tuple[int, ...]], dtype: Precision, engine: EngineChoice
    ) -> None:
        super().__init__(shapes, dtype)
        self._asked_engine = engine
        self.engine, self._engine = choose(engine)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "num_threads":
            self.__dict__["_asked_threads"] = value

    def _checked(self, name: str, value: Any) -> Any:
        if name == "num_threads":
            return threads(value, self.engine)
        return super()._checked(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_engine": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__["engine"], self._engine = choose(self._asked_engine)
        self.num_threads = self._asked_threads


def computed(model: Layer) -> list[Computed]:
    """Return the layers of a model that an engine computes."""
    return [layer for _, layer in model.named_layers() if isinstance(layer, Computed)]


def left_to_machine(model: Layer) -> list[Computed]:
    """Return those whose number of threads neither the caller nor the environment has said."""
    if asked_threads() is not None:
        return []
    return [layer for layer in computed(model) if layer._asked_threads is None]


@contextlib.contextmanager
def one_thread(layers: Iterable[Computed]) -> Iterator[None]:
    """Let layers take one thread while the block runs, and then what they were asked to take."""
    before = [(layer, layer._asked_threads) for layer in layers]
    try:
        for layer, _ in before:
            layer.num_threads = 1
        yield
    finally:
        for layer, asked in before:
            layer.num_threads = asked
