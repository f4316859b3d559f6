"""What layers that an engine computes have in common: the choice of the engine."""

from __future__ import annotations

from ..engines import choose
from .layer import Layer


class Computed(Layer):
    """A layer that an engine computes: chosen when it is built, and anew for a copy elsewhere."""

    def __init__(self, shapes, dtype, engine):
        super().__init__(shapes, dtype)
        self._asked_engine = engine
        self.engine, self._engine = choose(engine)

    def __getstate__(self):
        return {**super().__getstate__(), "_engine": None}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.__dict__["engine"], self._engine = choose(self._asked_engine)
