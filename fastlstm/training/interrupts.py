"""Ctrl-C while a model is trained."""

import contextlib
import signal
import threading


class Interrupts:
    """Ctrl-C, held back while an update is under way, so that no half of one is left.

    Python gives signals to the main thread alone: in others there is nothing to hold back.
    """

    def __enter__(self):
        self._held, self._late = False, None
        self._before = signal.getsignal(signal.SIGINT)
        self._ours = threading.current_thread() is threading.main_thread() and callable(
            self._before
        )
        if self._ours:
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_):
        if self._ours:
            signal.signal(signal.SIGINT, self._before)
        self._release()

    def hold(self):
        """Hold Ctrl-C back until the end."""
        self._held = True

    @contextlib.contextmanager
    def held(self):
        """Hold Ctrl-C back until this block is done."""
        self._held = True
        try:
            yield
        finally:
            self._release()

    def _release(self):
        self._held = False
        if self._late is not None:
            late, self._late = self._late, None
            self._before(*late)

    def _on_signal(self, *signal_and_frame):
        if self._held:
            self._late = signal_and_frame
        else:
            self._before(*signal_and_frame)
