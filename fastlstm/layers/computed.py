"""What layers that an engine computes have in common: the choice of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..engines import choose
from ..engines.machine import threads
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
