"""A model seen samples first, whatever its own layout; and its mode, set for a while."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray

from ..layers import Layer, Sequential
from .arguments import refuse_class
from .datasets import Batch

_PARTS = tuple(name for name in Batch._fields if name != "std")  # which every batch must have


class SamplesFirst:
    """A model that takes and gives samples first, whether its own LSTMs are `batch_first` or not.

    Parameters
    ----------
    model : Layer

    Raises
    ------
    TypeError, ValueError
        If it is no layer, or some of its layers are `batch_first` and others are not.
    """

    def __init__(self, model: Layer) -> None:
        refuse_class("model", model)
        if not isinstance(model, Layer):
            raise TypeError(f"model should be a layer, got: {type(model).__name__}")
        timed = [layer for _, layer in model.named_layers() if hasattr(layer, "batch_first")]
        if len({layer.batch_first for layer in timed}) > 1:
            raise ValueError("model: all of its LSTM and Last layers must be batch_first, or none")
        self.model = model
        self._run = model if type(model) is Sequential else Sequential(model)
        self.axes = self._run._axes
        self.swaps_input = bool(timed) and not timed[0].batch_first
        self.gives_steps = bool(timed) and model._gives_steps

    def __call__(self, batch: Batch) -> Any:
        """Return the prediction for a `Batch`."""
        _check_batch(batch)
        return self._out(self._run(self.swapped(batch.x), lengths=batch.lengths))

    def vjp(self, batch: Batch) -> tuple[Any, Callable[[NDArray[Any]], Any]]:
        """Return the prediction for a `Batch`, and its pullback to the parameters alone."""
        _check_batch(batch)
        x = self.swapped(batch.x)
        y, pullback = self._run.vjp(x, lengths=batch.lengths, input_gradient=False)
        return self._out(y), lambda dy: pullback(self._out(dy))

    def swapped(self, x: Any) -> Any:
        """Return an input, or each of several, in the model's own layout."""
        if isinstance(x, tuple):
            return tuple(map(self.swapped, x))
        if self.swaps_input and x.ndim < 2:
            raise ValueError(f"Expected x with samples and steps, (N, T, ...), got shape {x.shape}")
        if self.axes not in (None, x.ndim):  # an LSTM would mistake samples for steps
            what = "(N, T, F); one feature is x[..., None], one step x[:, None]"
            raise ValueError(
                f"Expected x of shape {what if self.axes == 3 else '(N, T), tokens'}, got a batch "
                f"of shape {x.shape}"
            )
        return x.swapaxes(0, 1) if self.swaps_input else x

    def _out(self, y: Any) -> Any:
        """Swap samples and steps of an output, or of its gradient, if the model has them so."""
        return y.swapaxes(0, 1) if self.swaps_input and self.gives_steps else y


def _check_batch(batch: object) -> None:
    """Refuse what is no `Batch` of arrays."""
    for name in _PARTS:
        part = getattr(batch, name, batch)
        if part is batch:
            raise TypeError(
                "Expected data[indices] to be a fastlstm.training.Batch, got "
                f"{type(batch).__name__}; a data set should return Batch(x, y)"
            )
        if isinstance(part, list) or isinstance(part, tuple) and name != "x":
            raise TypeError(f"Expected {name} of data[indices] to be an array, got a list")


class _Switched:
    """A layer that blocks have put into another mode than its own, or into the same."""

    def __init__(self, layer: Layer, training: bool) -> None:
        self.layer, self.training, self.was = layer, training, layer.training
        self.threads: list[threading.Thread] = []  # that of each block
        self.around = _SWITCHED.get(id(layer))  # that of a block in the middle of which this is

    def refuse_beside(self, training: bool) -> None:
        """Refuse the other mode in another thread, also around a block that has this one."""
        own = threading.current_thread()
        # A thread that has left a generator behind, or is not in this forked process, has ended.
        beside = any(thread is not own and thread.is_alive() for thread in self.threads)
        if self.training != training and beside:
            now, then = ("is trained", "predict") if self.training else ("predicts", "train")
            raise RuntimeError(
                f"model: it {now} in another thread right now, with its dropout "
                f"{'on' if self.training else 'off'}: {then} when that has ended, or with a "
                "copy.deepcopy of it"
            )
        if self.around is not None:
            self.around.refuse_beside(training)


# The switched layers by their ids, as long as a block has them. A lock that its own thread takes
# again, because the garbage collection may end a block in the middle of what another does.
_SWITCHED: weakref.WeakValueDictionary[int, _Switched] = weakref.WeakValueDictionary()
_LOCK = threading.RLock()


def _after_fork() -> None:
    """In a child process: whoever held the lock is gone."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def mode(model: Layer, training: bool) -> Iterator[None]:
    """Put all layers into training or evaluation mode while the block runs; then restore each.

    Blocks of the same mode may overlap, in threads or as generators that wait: a layer gets its own
    mode back when the last of them ends. Blocks of different modes have to be one in the other, in
    one thread; RuntimeError if they are beside each other in two.
    """
    switched: list[_Switched] = []
    thread = threading.current_thread()
    try:
        with _LOCK:
            layers = [layer for _, layer in model.named_layers()]
            for layer in layers:
                if (one := _SWITCHED.get(id(layer))) is not None:
                    one.refuse_beside(training)
            for layer in layers:
                one = _SWITCHED.get(id(layer))
                # A block that has put it into the other mode is around this one, not beside it.
                if one is None or layer.training != training:
                    one = _Switched(layer, training)
                    _SWITCHED[id(layer)] = one
                one.threads.append(thread)
                switched.append(one)
                if layer.training != training:
                    layer.training = training
        if any(one.was != training for one in switched):
            model.train(training)  # which may give memory back
        yield
    finally:
        with _LOCK:
            for one in switched:
                one.threads.remove(thread)
                if one.threads:
                    continue
                if one.layer.training != one.was:
                    one.layer.training = one.was
                # An error that somebody keeps keeps it, too, so it is not just let go.
                if _SWITCHED.get(id(one.layer)) is one:
                    del _SWITCHED[id(one.layer)]
                    if one.around is not None and one.around.threads:
                        _SWITCHED[id(one.layer)] = one.around
