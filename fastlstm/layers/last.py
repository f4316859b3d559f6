"""Last: the last step of every sequence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..arrays import as_any_float, as_gradient
from ..checks import check_bool, listed
from ..sequences.batch import undecided
from ..sequences.packing import check_lengths
from .chain import Given, runs_from_end, who
from .layer import Layer
from .stream import Begins, Chain, Live

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..arrays import Floats

_Place: TypeAlias = tuple[Any, Any, slice]  # steps, sequences and features that are read


class Last(Layer):
    """The step of an LSTM's output at which the reading of each sequence ended.

    That is the forward direction at each sequence's own last step and, if `bidirectional`, the
    backward direction at step 0, where it has read everything: h_n of the last layer. For a
    sequence of length 0 it is zeros.

    Parameters
    ----------
    batch_first : bool, optional
        The input is (B, T, F) instead of (T, B, F); an unbatched one is (T, F).
    bidirectional : bool, optional
        The features are [forward, backward], half and half.
    reverse : bool, optional
        The LSTM runs from the end, so that all features are read at step 0.

    Notes
    -----
    In a Sequential all three are those of the LSTM before it: leave them out there. Elsewhere they
    are False unless given. (The layer that the Sequential has is a copy that knows its LSTM.)

    Examples
    --------
    >>> fastlstm.Last()(np.array([[[1.0]], [[2.0]]]), lengths=[1])
    array([[1.]])
    >>> model = fastlstm.Sequential(fastlstm.LSTM(3, 4, batch_first=True), fastlstm.Last())
    >>> model[1]
    Last(batch_first=True, bidirectional=False)
    """

    gives_steps = False

    def __init__(
        self,
        batch_first: bool | None = None,
        bidirectional: bool | None = None,
        reverse: bool | None = None,
    ) -> None:
        super().__init__({})
        self._lstm: Layer | None = None  # the LSTM before it in a Sequential, which is not inside
        self.batch_first = batch_first
        self._bidirectional = (
            None if bidirectional is None else check_bool("bidirectional", bidirectional)
        )
        self._reverse = None if reverse is None else check_bool("reverse", reverse)
        if reverse and bidirectional:
            raise ValueError(
                "reverse=True and bidirectional=True exclude each other: of both directions, only "
                "the features of the second one are read at step 0"
            )

    @property
    def batch_first(self) -> bool | None:
        """Whether the input is (B, T, F); None if it is undecided for the LSTM before it."""
        if self._batch_first is not None or self._lstm is None:
            return bool(self._batch_first)
        found: bool | None = self._lstm.batch_first
        return found

    @batch_first.setter
    def batch_first(self, value: bool | None) -> None:
        self._batch_first: bool | None = value

    @property
    def bidirectional(self) -> bool:
        """Whether the features are [forward, backward]."""
        if self._bidirectional is not None or self._lstm is None:
            return bool(self._bidirectional)
        return bool(self._lstm.bidirectional)

    @property
    def reverse(self) -> bool:
        """Whether all features are read at step 0."""
        if self._reverse is not None or self._lstm is None:
            return bool(self._reverse)
        return runs_from_end(self._lstm)

    def _join(self, name: str, given: Given) -> tuple[Last, Given]:
        given.check_steps(who(name, self))
        if given.lstm is None:
            return self, given._replace(last=who(name, self))
        if given.stranger:
            needed = ["batch_first", "bidirectional", *["reverse"] * runs_from_end(given.lstm[1])]
            if any(getattr(self, f"_{option}") is None for option in needed):
                options = f"{listed(needed[:-1])} and {needed[-1]}"
                raise ValueError(
                    f"{given.owner}: {name!r} (Last) cannot take {options} "
                    f"from {who(*given.lstm)}, because it is not known what {given.stranger} makes "
                    f"of its output: give {'both' if len(needed) == 2 else 'all three'}"
                )
            return self, given._replace(last=who(name, self))
        last, lstm = copy.copy(self), given.lstm[1]
        if lstm.bidirectional and not given.directions:
            if self._bidirectional is not False:
                raise ValueError(
                    f"{given.owner}: {name!r} (Last) takes both directions of {who(*given.lstm)} "
                    f"apart, which {given.giver} has mixed: put it before that, or say "
                    "Last(bidirectional=False) for the last step of each sequence"
                )
        elif self._bidirectional not in (None, lstm.bidirectional):
            torchs = ", or put it behind the Linear, for what torch's output[-1] gives there"
            raise ValueError(
                f"{given.owner}: {who(name, self)} does not agree with {who(*given.lstm)}: leave "
                "out bidirectional, to take it from there" + (torchs if lstm.bidirectional else "")
            )
        if self._reverse not in (None, runs_from_end(lstm)):
            raise ValueError(
                f"{given.owner}: {who(name, self)} does not agree with {who(*given.lstm)}: leave "
                "out reverse, to take it from there"
            )
        vars(last)["_lstm"] = lstm
        given.check_layout(name, last)
        return last, given._replace(last=who(name, last))

    def _live(self, name: str, given: Given, states: Begins) -> Live:
        """Pass a step on as it is, because the sequence might end there."""
        return Chain([])

    def __call__(self, input: ArrayLike, *, lengths: ArrayLike | None = None) -> Floats:
        """Take where the reading of each sequence has ended.

        Parameters
        ----------
        input : array of shape (T, B, F), (B, T, F) with `batch_first`, or (T, F)
        lengths : array of int of shape (B,), optional
            The real steps of each sequence; all T if left out.

        Returns
        -------
        ndarray of shape (B, F), or (F,)
        """
        x, by_steps, places = self._arrange(input, lengths)
        return self._run(x, by_steps, places)

    def vjp(
        self, input: ArrayLike, *, lengths: ArrayLike | None = None
    ) -> tuple[Floats, Callable[[ArrayLike], Floats]]:
        """Run, and return how to go backwards; see `Linear.vjp`.

        Parameters
        ----------
        input, lengths
            As in a call.

        Returns
        -------
        y : ndarray of shape (B, F) or (F,)
        pullback : callable
            ``dx = pullback(d_output)``, zeros but for what was read.
        """
        x, by_steps, places = self._arrange(input, lengths)
        y = self._run(x, by_steps, places)
        wide, shape, dtype = by_steps.shape, y.shape, x.dtype
        batched, batch_first = x.ndim == 3, self.batch_first

        def pullback(d_output: ArrayLike) -> Floats:
            dy = as_gradient(d_output, shape, dtype, "Last").reshape(wide[1:])
            dx = np.zeros(wide, dtype)  # it lies as the outputs of an LSTM do
            for step, sequences, features in places:
                dx[step, sequences, features] = dy[sequences, features]
            if not batched:
                return dx[:, 0]
            return dx.swapaxes(0, 1) if batch_first else dx

        return y, pullback

    def _arrange(self, input: Any, lengths: Any) -> tuple[Floats, Floats, list[_Place]]:
        """Return the input, a view of it as (T, B, F), and the places in that which are read."""
        x = as_any_float(input, "Last")
        batch_first, bidirectional = self.batch_first, self.bidirectional
        if x.ndim not in (2, 3):
            raise ValueError(f"Last: Expected input to be 2D or 3D, got {x.ndim}D instead")
        if x.ndim == 3 and batch_first is None:
            raise undecided("Last", x.shape)
        features = x.shape[-1]
        if bidirectional and features % 2:
            raise ValueError(f"Last: Expected an even number of features, got {features}")
        by_steps = x[:, None] if x.ndim == 2 else x.swapaxes(0, 1) if batch_first else x
        steps, sequences, _ = by_steps.shape
        chosen: Any = slice(None)
        start: Any = 0
        end: Any = -1
        if lengths is not None:
            if x.ndim == 2:
                raise ValueError("lengths needs batched 3-D input, got unbatched 2-D input")
            lengths = check_lengths(lengths, sequences, steps, least=0)
            chosen = np.flatnonzero(lengths)
            start, end = np.zeros_like(chosen), lengths[chosen] - 1
        elif not steps:
            raise ValueError("Expected sequence length to be larger than 0 in Last")
        if not bidirectional:
            return x, by_steps, [(start if self.reverse else end, chosen, slice(None))]
        half = features // 2
        return x, by_steps, [(end, chosen, slice(half)), (start, chosen, slice(half, None))]

    def _run(self, x: Floats, by_steps: Floats, places: list[_Place]) -> Floats:
        y = np.zeros(by_steps.shape[1:], x.dtype)
        for step, sequences, features in places:
            y[sequences, features] = by_steps[step, sequences, features]
        return y if x.ndim == 3 else y.reshape(y.shape[1:])

    def _arguments(self) -> str:
        layout = "undecided" if self.batch_first is None else self.batch_first
        text = f"batch_first={layout}, bidirectional={self.bidirectional}"
        return text + (", reverse=True" if self.reverse else "")
