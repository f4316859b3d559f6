"""Stream: a live state over weights that it shares with the layer and with other streams.

Of one LSTM, or, as a ModelStream, of all LSTMs in a Sequential.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..arrays import as_float, as_rows
from ..checks import check_size
from ..engines.contract import Array, Engine, Line, Link, Stack, Step
from ..sequences.batch import undecided
from ..sequences.packing import uniform_sizes
from .lookup import Lookup

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..arrays import Floats
    from .embedding import Embedding
    from .layer import Layer
    from .lstm import LSTM


class Stream:
    """B sequences that arrive step by step, or chunk by chunk; made by `LSTM.stream`.

    A stream keeps the states between calls; the weights stay the layer's and are shared by all
    its streams. One stream belongs to one thread at a time, and the engine native refuses a step
    while another one is made; many streams of one layer may run at once. A stream always evaluates,
    dropout off whatever the layer's mode. ``copy.copy(stream)`` branches off at the point reached.

    Parameters
    ----------
    lstm : LSTM
        Neither bidirectional nor with ``reverse=True``.
    batch_size : int
        B.

    Raises
    ------
    ValueError
        If `lstm`, or a direction of it, runs from the end.

    Examples
    --------
    >>> lstm = fastlstm.LSTM(3, 4, seed=0)
    >>> x = np.ones((5, 1, 3), np.float32)
    >>> stream = lstm.stream()
    >>> steps = np.stack([stream.step(x_t) for x_t in x])
    >>> np.allclose(steps, lstm(x)[0], atol=1e-6)
    True
    """

    def __init__(self, lstm: LSTM, batch_size: int = 1) -> None:
        check_live(lstm)
        self._lstm, batch_size = lstm, check_size("batch_size", batch_size)
        self._states = lstm._initial(batch_size)  # as the runs of the layer have them
        self._take_step()

    def _take_step(self) -> None:
        """Make the engine's step an attribute of the instance, so that calls go straight to it."""
        steps, count = [], len(self._states) // 2
        for group in range(count):
            present = functools.partial(self._lstm._present, group)
            h, c = self._states[group::count]
            otherwise = _CheckedStep(self._lstm, group, [h, c]).step
            steps.append(present()[0].step(h, c, present, otherwise))
        self._steps = steps
        self._step = steps[0] if count == 1 else _StepThrough(steps, self._states[:count]).step
        if type(self).step is Stream.step:
            self.__dict__["step"] = self._step

    @functools.cached_property
    def _line(self) -> Line | None:
        return line_of(self, self._lstm._engine, self.batch_size)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__
        return {name: state[name] for name in state.keys() - {"step", "_step", "_steps", "_line"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over such a state. The arrays are copied, as those of a layer are."""
        # Before layers could differ in width, a stream had one h and one c.
        states = state["_states"] if "_states" in state else [state["_h"], state["_c"]]
        self.__dict__.update(state, _states=[np.array(array) for array in states])
        self._take_step()

    def __copy__(self) -> Stream:
        """Return a stream at the same point, with states of its own, over the same weights."""
        copy = Stream(self._lstm, self.batch_size)
        copy.state = self.state
        return copy

    def step(self, x: ArrayLike, out: Array | None = None) -> Array:
        return self._step(x, out)

    step.__doc__ = Step.__call__.__doc__  # one text for this one and the engines' own

    def run(self, x: Any) -> Floats:
        """Advance every stream by a chunk of steps: the same values as step by step.

        Parameters
        ----------
        x : array of shape (T, B, I), or (B, T, I) if the layer is `batch_first`
            T may be 0. Where the layer's `batch_first` is undecided, B must be 1: then the shape
            tells which.

        Returns
        -------
        ndarray of shape (T, B, P), or (B, T, P)

        Raises
        ------
        ValueError, TypeError
            If a shape or dtype does not fit; the state has not moved.
        """
        lstm = self._lstm
        batch_first = lstm.batch_first
        if self._line is not None and batch_first is not None:
            y: Floats | None = self._line.run(x, batch_first)
            if y is not None:
                return y
        lookup, ahead = (x, lstm._ahead_of(x)) if type(x) is Lookup else (None, None)
        if lookup is not None:
            x = lookup.rows() if ahead is None else lookup.index
        if len(self._states) == 2 and batch_first is not None:
            if done := lstm._at_once(x, tuple(self._states), batch_first, ahead):
                y, states = done
                try:
                    self._put(states)
                except BaseException:  # such as Ctrl-C between h and c
                    self._put(states)
                    raise
                return y
        if lookup is not None and ahead is not None:
            x = lookup.rows()
        x = as_float(x, lstm.dtype, "x", "Stream")
        if batch_first is None:
            if x.ndim == 3 and self.batch_size > 1:
                raise undecided("Stream", x.shape)
            batch_first = x.shape[:1] == (1,)
        time_major = x.swapaxes(0, 1) if batch_first and x.ndim == 3 else x
        if time_major.ndim != 3 or time_major.shape[1:] != (self.batch_size, lstm.input_size):
            sizes = ("T", self.batch_size) if not batch_first else (self.batch_size, "T")
            raise ValueError(
                f"x must have shape ({sizes[0]}, {sizes[1]}, {lstm.input_size}), got {x.shape}"
            )
        steps = len(time_major)
        rows = as_rows(time_major)
        batch_sizes = uniform_sizes(steps, self.batch_size)
        y = np.empty((len(rows), lstm._output_size), lstm.dtype)
        if steps:
            _advance(lstm, lstm._whole_stacks(), self._states, rows, batch_sizes, y)
        y = y.reshape(steps, self.batch_size, lstm._output_size)
        return y.swapaxes(0, 1) if batch_first else y

    def _links(self, takes: int, engine: Engine, links: list[Link]) -> int | None:
        if type(self) is not Stream or engine is not self._lstm._engine:
            return None
        for group, step in zip(self._lstm._groups, self._steps, strict=True):
            _, inputs, _, outputs = self._lstm._cells[group.start]
            links.append(Link(takes, inputs, outputs, step=step))
            takes = len(links)
        return takes

    def _behind(self, embedding: Embedding) -> LookedUp | None:
        """Return what does the work of both in a model's stream, if looking up may pay."""
        return LookedUp(embedding, self) if type(self) is Stream else None

    def _step_of(self, lookup: Lookup, otherwise: Step) -> Step | None:
        """Return a step that takes numbers of an embedding's rows, None if that does not pay."""
        ahead = self._lstm._ahead_of(lookup) if len(self._states) == 2 else None
        if ahead is None:
            return None
        h, c = self._states
        present = functools.partial(self._lstm._present, 0)
        return ahead.stacks[0].step(h, c, present, otherwise, ahead.made)

    @property
    def batch_size(self) -> int:
        """How many sequences advance together."""
        return len(self._states[0][0])

    @property
    def state(self) -> tuple[Floats, Floats]:
        """(h, c), copies of shape (layers, B, P) and (layers, B, H); assign to resume.

        If widths differ, two tuples of arrays (B, P) and (B, H), one for each layer.
        """
        return self._lstm._given_out([array.copy() for array in self._states])

    @state.setter
    def state(self, state: Any) -> None:
        if state is None:
            raise TypeError("state must be a tuple (h, c), got None; reset() makes it zero")
        self._put(self._lstm.check_states(state, self.batch_size, True))

    def _put(self, states: list[Floats]) -> None:
        for own, given in zip(self._states, states, strict=True):
            own[...] = given

    def reset(self, mask: Any = None, to: Any = None) -> None:
        """Set states to zero or, if the layer has them, to the learned ones, or to given ones.

        Parameters
        ----------
        mask : bool array of shape (B,), optional
            Which streams begin anew; all if not given.
        to : (h, c), optional
            What they begin with: arrays as `state`'s, of which the rows in `mask` are taken, or
            without their axis B, with which each of them begins.

        Raises
        ------
        ValueError, TypeError
            If `mask` is not B booleans, or `to` does not fit; no state has changed.

        Examples
        --------
        >>> stream = fastlstm.LSTM(1, 2).stream(batch_size=3)
        >>> stream.reset([False, True, False], to=(np.ones((1, 2)).tolist(), [[4.0, 5.0]]))
        >>> stream.state[1].tolist()
        [[[0.0, 0.0], [4.0, 5.0], [0.0, 0.0]]]
        """
        mask = check_mask(mask, self.batch_size)
        self._begin(mask, self._starts(to))

    def _starts(self, to: Any) -> list[Floats]:
        """Return states for all streams: those given, checked, or those of a new stream."""
        if to is None:
            starts = self._lstm._initial(1)
        else:
            pair = isinstance(to, (tuple, list)) and len(to) == 2
            one = pair and all(axes_of(state) == 2 for state in to)  # for all streams
            starts = self._lstm.check_states(to, 1 if one else self.batch_size, not one, "to")
        return [
            np.broadcast_to(start, own.shape)
            for start, own in zip(starts, self._states, strict=True)
        ]

    def _begin(self, mask: Array, starts: list[Floats]) -> None:
        for own, start in zip(self._states, starts, strict=True):
            own[:, mask] = start[:, mask]

    def __repr__(self) -> str:
        return f"Stream({self._lstm!r}, batch_size={self.batch_size})"


def line_of(part: Live, engine: Engine, batch_size: int) -> Line | None:
    """Return what does the work of a part in one call of the engine; None if nothing does."""
    links: list[Link] = []
    if linked(part, 0, engine, links) is None:
        return None
    fit = all(width(links, link.takes) == link.inputs for link in links)
    return engine.line(links, batch_size) if fit else None


def linked(part: Live, takes: int, engine: Engine, links: list[Link]) -> int | None:
    """Append the links of a part, which takes the value of this number; return that of its own.

    None if the engine cannot do its work.
    """
    own = getattr(part, "_links", None)
    value: int | None = None if own is None else own(takes, engine, links)
    return value


def width(links: list[Link], value: int) -> int:
    """Return how many features the value of this number has."""
    return links[value - 1].outputs if value else links[0].inputs


def check_live(lstm: Any) -> None:
    """Refuse what is no LSTM, or runs from the end."""
    if not (hasattr(lstm, "stream") and hasattr(lstm, "num_layers")):
        raise TypeError(f"a stream needs an LSTM, got {type(lstm).__name__}")
    if lstm.bidirectional:
        raise ValueError(
            "a stream needs a unidirectional LSTM: the backward direction begins at the end, "
            "which a live stream does not have"
        )
    if lstm.reverse:
        raise ValueError(
            "a stream needs an LSTM without reverse=True: that begins at the end, which a live "
            "stream does not have"
        )


class Live(Protocol):
    """What does the work of a layer in a stream, step by step or chunk by chunk."""

    def step(self, x: Any, out: Floats | None = None) -> Any:
        """Compute the next step from x (B, ...). `out`, which is checked, takes the result."""

    def run(self, x: Any) -> Any:
        """Compute the next steps from a chunk of input, in the layout of the layers."""


class Begins(Protocol):
    """What has the states of all LSTMs in a model: streams, or a pool."""

    def begin(self, name: str, lstm: LSTM) -> Live:
        """Return what does an LSTM's work; it has this dotted name in the model."""


class Streams(dict[str, "Stream"]):
    """The streams of a model's LSTMs, by their dotted names."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size

    def begin(self, name: str, lstm: LSTM) -> Stream:
        self[name] = stream = lstm.stream(self._batch_size)
        return stream


class Stepwise:
    """A layer whose steps do not depend on each other."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def step(self, x: Any, out: Floats | None = None) -> Any:
        y = self.layer(x)
        return y if out is None else put(y, out)

    def run(self, x: Any) -> Any:
        return self.layer(x)

    def _links(self, takes: int, engine: Engine, links: list[Link]) -> int | None:
        link = self.layer._link(takes, engine)
        if link is None:
            return None
        links.append(link)
        return len(links)


class LookedUp:
    """An embedding and the LSTM behind it."""

    def __init__(self, embedding: Embedding, stream: Stream) -> None:
        self._embedding, self._stream = embedding, stream
        # What takes numbers of rows, once it pays, and the version of the embedding that it is for.
        self._quick: Step | None = None
        self._version = -1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_quick": None}

    def step(self, x: Any, out: Floats | None = None) -> Any:
        quick = self._quick
        if quick is None or self._version != self._embedding._version:
            return self._step(x, out)
        if type(x) is not np.ndarray or x.dtype != np.int64:
            x = self._embedding._arrange(x)
        return quick(x, out)

    def _step(self, x: Any, out: Floats | None = None) -> Any:
        lookup, version = self._embedding._look_up(x), self._embedding._version
        self._quick = self._stream._step_of(lookup, self._step)
        self._version = version  # another thread may have changed it meanwhile
        return self._stream.step(lookup.rows(), out)

    def run(self, x: Any) -> Any:
        return self._stream.run(self._embedding._look_up(x))


class Chain:
    """Parts that pass on to each other; without parts, a step is passed on as it is."""

    def __init__(self, parts: list[Live]) -> None:
        self.parts: list[Live] = []
        for part in parts:
            for own in part.parts if isinstance(part, Chain) else [part]:
                before = self.parts[-1] if self.parts else None
                both = None
                if type(before) is Stepwise and before.layer._looks_up and hasattr(own, "_behind"):
                    both = own._behind(before.layer)
                if both is None:
                    self.parts.append(own)
                else:
                    self.parts[-1] = both
        self._first, self._last = self.parts[:-1], self.parts[-1] if self.parts else None

    def step(self, x: Any, out: Floats | None = None) -> Any:
        if self._last is None:
            return put(x, out)
        for part in self._first:
            x = part.step(x)
        return self._last.step(x, out)

    def run(self, x: Any) -> Any:
        for part in self.parts:
            x = part.run(x)
        return x

    def _links(self, takes: int, engine: Engine, links: list[Link]) -> int | None:
        value: int | None = takes
        for part in self.parts:
            value = None if value is None else linked(part, value, engine, links)
        return value


class ModelStream:
    """B sequences that arrive step by step at a whole model; made by `Layer.stream`.

    It is like `Stream`, with a state for each LSTM. Every step gives what the model would give if
    the sequence ended there, so a Last passes on each step's output. Dropout is off.

    Parameters
    ----------
    model : Layer
        A model with an LSTM inside.
    batch_size : int
        B.
    part : object
        What a step goes through; `Layer.stream` puts it together.
    streams : dict of str -> Stream
        The streams of the LSTMs inside `part`, by their dotted names.
    features : int, optional
        F, how many values a step gives, where that is known before.

    Examples
    --------
    >>> model = fastlstm.Sequential({"lstm": fastlstm.LSTM(3, 4), "fc": fastlstm.Linear(4, 1)})
    >>> x = np.ones((5, 2, 3), np.float32)
    >>> stream = model.stream(batch_size=2)
    >>> steps = np.stack([stream.step(x_t) for x_t in x])
    >>> np.allclose(steps, model(x), atol=1e-6)
    True
    >>> h, c = stream.state["lstm"]
    """

    def __init__(
        self,
        model: Layer,
        batch_size: int,
        part: Live,
        streams: dict[str, Stream],
        features: int | None = None,
    ) -> None:
        self._model, self._batch_size, self._part = model, batch_size, part
        self._streams, self._features = streams, features
        if not self._streams:
            raise ValueError("a stream needs a model with an LSTM, this one has none")

    @functools.cached_property
    def _line(self) -> Line | None:
        return line_of(self._part, self._lstm._engine, self.batch_size)

    @functools.cached_property
    def _lstm(self) -> LSTM:
        """The first of all, with whose layout and engine the others go."""
        return next(iter(self._streams.values()))._lstm

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_line"}

    @property
    def batch_size(self) -> int:
        """How many sequences advance together."""
        return self._batch_size

    def __copy__(self) -> ModelStream:
        """Return a stream at the same point, with states of its own, over the same weights."""
        copy: ModelStream = self._model.stream(self.batch_size)
        copy.state = self.state
        return copy

    def step(self, x: Any, out: Floats | None = None) -> Floats:
        """Advance every stream by one step.

        Parameters
        ----------
        x : array of shape (B, I), or B integers if the model begins with an Embedding
        out : ndarray of shape (B, F), optional
            C-contiguous, of the model's dtype: filled and returned. May not be `x`'s memory.

        Returns
        -------
        ndarray of shape (B, F)

        Raises
        ------
        ValueError, TypeError
            If a shape or dtype does not fit; the states have not moved.
        """
        y: Floats | None
        if self._line is not None:
            y = self._line.run(x, -1, out)
            if y is not None:
                return y
        if type(x) is not np.ndarray:
            x = self._model._as_input(x)
        if self._features is None:  # a layer of one's own is last, or may refuse what it gets
            with self._unmoved_by_errors():
                y = self._part.step(x)
                if out is not None:
                    check_out(out, y.shape, self._model.dtype)
            y = put(y, out)
            return y
        if out is not None:
            check_out(out, (self.batch_size, self._features), self._model.dtype)
        y = self._part.step(x, out)
        return y

    def run(self, x: Any) -> Floats:
        """Advance every stream by a chunk of steps: the same values as step by step.

        Parameters
        ----------
        x : array of shape (T, B, ...), or (B, T, ...) if the LSTMs are `batch_first`
            As the model takes it. T may be 0.

        Returns
        -------
        ndarray of shape (T, B, F), or (B, T, F)
            A value for every step, behind a Last too.

        Raises
        ------
        ValueError, TypeError
            If a shape or dtype does not fit; the states have not moved.
        """
        self._model._check_layouts()
        batch_first = self._lstm.batch_first
        if self._line is not None and batch_first is not None:
            y: Floats | None = self._line.run(x, batch_first)
            if y is not None:
                return y
        x = self._model._as_input(x)
        with self._unmoved_by_errors():
            y = self._part.run(x)
        return y

    @contextlib.contextmanager
    def _unmoved_by_errors(self) -> Iterator[None]:
        streams = self._streams.values()
        before = [[own.copy() for own in stream._states] for stream in streams]
        try:
            yield
        except BaseException:
            for stream, states in zip(streams, before, strict=True):
                stream._put(states)
            raise

    @property
    def state(self) -> dict[str, tuple[Floats, Floats]]:
        """A dict of (h, c) by the LSTMs' names, copies; assign to resume."""
        return {name: stream.state for name, stream in self._streams.items()}

    @state.setter
    def state(self, states: Any) -> None:
        states = by_name("state", states, list(self._streams))
        if missing := [name for name in self._streams if states.get(name) is None]:
            raise ValueError(
                f"state: Expected (h, c) of every LSTM, got none for {missing}; reset() makes "
                "states zero"
            )
        checked = {
            name: stream._lstm.check_states(states[name], self.batch_size, True, f"state[{name!r}]")
            for name, stream in self._streams.items()
        }
        for name, stream in self._streams.items():
            stream._put(checked[name])

    def reset(self, mask: Any = None, to: Any = None) -> None:
        """Set states to zero or, in LSTMs that have them, to the learned ones, or to given ones.

        Parameters
        ----------
        mask : bool array of shape (B,), optional
            Which streams begin anew; all if not given.
        to : dict of str -> (h, c), list of those, or one (h, c), optional
            What they begin with, by the LSTMs' names, in their order, or for the only one; each as
            in `Stream.reset`.

        Raises
        ------
        ValueError, TypeError
            If `mask` is not B booleans, or `to` does not fit; no state has changed.
        """
        mask = check_mask(mask, self.batch_size)
        to = by_name("to", to, list(self._streams))
        starts = {name: stream._starts(to.get(name)) for name, stream in self._streams.items()}
        for name, stream in self._streams.items():
            stream._begin(mask, starts[name])

    def __repr__(self) -> str:
        return f"ModelStream({self._model!r}, batch_size={self.batch_size})"


def check_mask(mask: Any, batch_size: int) -> Array:
    """Return a mask of streams as an array, or refuse it; None is all of them."""
    mask = np.ones(batch_size, bool) if mask is None else np.asarray(mask)
    if mask.dtype != bool or mask.shape != (batch_size,):
        raise ValueError(
            f"mask must be {batch_size} booleans, got {mask.dtype} of shape {mask.shape}"
        )
    checked: Array = mask
    return checked


def by_name(what: str, states: Any, names: list[str]) -> dict[str, Any]:
    """Return a dict of states, which may be given by names, in order, or for the only LSTM."""
    if states is None:
        return {}
    known = ", ".join(map(repr, names)) or "no LSTM"
    if hasattr(states, "keys"):
        if unknown := [name for name in states if name not in names]:
            raise ValueError(f"{what}: Expected states of {known}, got some of {unknown}")
        return dict(states)
    if not isinstance(states, (list, tuple)):
        raise TypeError(
            f"{what} must be a dict of (h, c) by the names of LSTMs, or a list of them, got "
            f"{type(states).__name__}"
        )
    if len(names) == 1 and len(states) == 2:
        return {names[0]: states}
    if len(states) != len(names):
        raise ValueError(
            f"{what}: Expected a list of one (h, c) for each of {known}, got {len(states)}"
        )
    return dict(zip(names, states, strict=True))


def put(y: Any, out: Floats | None) -> Any:
    """Return a result, in `out` if that is given."""
    if out is None:
        return y
    out[...] = y
    return out


class _CheckedStep:
    """A step through one group of layers, which checks and converts its input first.

    `states` are the h and c of the group.
    """

    def __init__(self, lstm: LSTM, group: int, states: list[Array]) -> None:
        self._lstm, self._group, self._states = lstm, group, states
        self._features = lstm._cells[lstm._groups[group].start].input_size

    def step(self, x: ArrayLike, out: Array | None = None) -> Array:
        lstm, shape = self._lstm, self._states[0].shape[1:]
        rows = shape[0]
        if type(x) is not np.ndarray or x.dtype != lstm.dtype:
            x = as_float(x, lstm.dtype, "x", "Stream")
        if x.shape != (rows, self._features):
            raise ValueError(f"x must have shape {(rows, self._features)}, got {x.shape}")
        if out is None:
            out = np.empty(shape, lstm.dtype)
        else:
            check_out(out, shape, lstm.dtype)
            if np.shares_memory(x, out):
                raise ValueError("out must not share memory with x")
        stacks = [lstm._present(self._group)[0]]
        _advance(lstm, stacks, self._states, as_rows(x), uniform_sizes(1, rows), out)
        return out

    step.__doc__ = Step.__call__.__doc__


class _StepThrough:
    """A step through groups of layers, one after the other, where the widths of layers differ.

    Ctrl-C between two groups leaves the first a step ahead, as it does between layers of a model.
    `outputs` are the states h of the groups.
    """

    def __init__(self, steps: list[Step], outputs: list[Array]) -> None:
        self._last, self._out = steps[-1], (outputs[-1].shape[1:], outputs[-1].dtype)
        between = [np.empty_like(h[-1]) for h in outputs[:-1]]  # what groups hand on
        self._first = [*zip(steps[:-1], between, strict=True)]

    def step(self, x: ArrayLike, out: Array | None = None) -> Array:
        if out is not None:
            check_out(out, *self._out)  # before a state moves
        for step, between in self._first:
            x = step(x, between)
        return self._last(x, out)

    step.__doc__ = Step.__call__.__doc__


def _advance(
    lstm: LSTM,
    stacks: list[Stack],
    states: list[Array],
    rows: Array,
    batch_sizes: Array,
    y: Array,
) -> None:
    """Run over packed rows; if that is cut short, as by Ctrl-C, the states are put back."""
    before = [array.copy() for array in states]
    try:
        lstm._run_stacks(stacks, rows, batch_sizes, states, y)
    except BaseException:
        for array, kept in zip(states, before, strict=True):
            array[...] = kept
        raise


def axes_of(state: Any) -> int:
    """Return how many axes a state has, which may be a list, or a tuple of different widths."""
    listed = isinstance(state, (tuple, list)) and len(state) > 0
    return 1 + np.ndim(state[0]) if listed else np.ndim(state)


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if (
        type(out) is not np.ndarray
        or out.shape != shape
        or out.dtype != dtype
        or not out.flags.carray
    ):
        raise ValueError(
            f"out must be a writable C-contiguous {dtype} array of shape {shape}, got "
            + _describe(out)
        )


def _describe(out: Any) -> str:
    if not isinstance(out, np.ndarray):
        return type(out).__name__
    faults = [
        "" if out.flags.writeable else ", read-only",
        "" if out.flags.c_contiguous else ", not contiguous",
        "" if out.flags.aligned else ", not aligned",
    ]
    return f"{out.dtype} of shape {out.shape}{''.join(faults)}"
