"""Ctrl-C while models are trained: it waits until the update at hand is whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any


class Fleet:
    """What the trainings of a fleet share.

    Attributes
    ----------
    stop : threading.Event
        Once it is set, each training ends as by Ctrl-C.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()


FLEET: ContextVar[Fleet | None] = ContextVar("FLEET", default=None)  # to which a `fit` belongs


class Interrupts:
    """A context in which Ctrl-C can be held back, so that no half of an update is left.

    Python handles signals in the main thread alone. In other threads there is nothing to hold back.
    """

    def __enter__(self) -> Interrupts:
        self._held, self._fleet = False, FLEET.get()
        self._late: tuple[int, FrameType | None] | None = None  # what came while it was held back
        before = signal.getsignal(signal.SIGINT)
        is_main = threading.current_thread() is threading.main_thread()
        self._before = before if is_main and callable(before) else None
        if self._before is not None:
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        self._release()

    def check(self) -> None:
        """Raise KeyboardInterrupt if this training belongs to a fleet that is to stop."""
        if self._fleet is not None and self._fleet.stop.is_set():
            raise KeyboardInterrupt

    def hold(self) -> None:
        """Hold Ctrl-C back until the context ends."""
        self._held = True

    def answered(self) -> None:
        """Be told that the training has ended because of Ctrl-C."""

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold Ctrl-C back until this block ends."""
        self._held = True
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        self._held = False
        if self._late is not None and self._before is not None:
            late, self._late = self._late, None
            self._before(*late)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._late = number, frame
        elif self._before is not None:
            self._before(number, frame)


class NotedInterrupts(Interrupts):
    """A context in which Ctrl-C and SIGTERM are only noted: several processes stop together.

    Attributes
    ----------
    asked : int
        The number of the signal that came, 0 if there was none. One that is still there when the
        context ends is raised then.
    """

    def __enter__(self) -> NotedInterrupts:
        self.asked = 0
        self._handlers: dict[int, Any] = {}  # what was there before
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before is not None and before is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.asked:
            signal.raise_signal(self.asked)

    def hold(self) -> None:
        """Do nothing: all signals are held back already."""

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Do nothing: all signals are held back already."""
        yield

    def answered(self) -> None:
        """Forget the signal: the training has ended because of it, here or on another rank."""
        self.asked = 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = number
