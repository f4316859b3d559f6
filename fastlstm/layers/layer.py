"""Layer: the questions that every layer answers, and what a user's own layer defines.

A layer is called, ``y = layer(x)``, or run so that one can go back, ``y, pullback = layer.vjp(x)``:
vector-Jacobian products, as JAX names them. `Linear.vjp` says what holds for all of them. Layers
that have layers inside, training and the command line ask every layer the same questions, and none
of them asks what kind of layer it is:

- ``_join``: what it takes and what it gives, before there is any input (see `chain`);
- ``_pass``: what it passes on; the (h, c) of what has states go in and come out by dotted names;
- ``_pass_vjp``: the same, with a way back;
- ``_outputs``: what each layer inside passes on, one after the other;
- ``_live``: what does its work in a stream;
- ``_check_way_back``: whether it can be trained, and so can layers before it;
- ``_state_names``, ``_gives_steps``, ``_goes_by_chunks``, ``_takes_indices``, and for an LSTM that
  looks its input up (see `lookup`) ``_looks_up``, ``_takes_lookups``, ``_is_idle``: facts about it.

`Layer` has an answer to each of them that is right for a layer of which only its call is known.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import numpy as np

from ..checks import check_size, quoted, short
from ..terminal import printable
from .chain import Given, who
from .parameters import Parameters, Shapes
from .pool import Pool
from .stream import Begins, Live, ModelStream, Stepwise, Streams

if TYPE_CHECKING:
    from ..engines.contract import Engine, Link
    from .pool import Evict

States: TypeAlias = dict[str, Any]  # (h, c), or their gradients, by dotted names
# Goes from the gradient of an output, and those of final states, back to that of the input. Those
# of initial states are put into the last argument.
Back: TypeAlias = Callable[[Any, States, States], Any]
_Own = TypeVar("_Own", bound="Layer")


class Layer(Parameters):
    """The base class of every layer: parameters by name, a training switch, layers inside.

    A layer of your own is a class derived from this one. It needs `forward`, and if it is trained,
    or stands behind layers that are, it needs `vjp` too. It then works like any other layer in
    `Sequential`, `Residual` and `Concat`, in `fit`, `predict`, `state_dict` and checkpoints; it can
    be frozen, copied, pickled and brought to another dtype.

    Parameters
    ----------
    shapes : dict of str -> tuple of int, optional
        The parameters by their names, in the order of `state_dict`. They begin as zeros.
    dtype : {"float32", "float64"}
    children : dict of str -> Layer, optional
        The layers inside this one. Their parameters' names get the prefix ``name.``. A layer that
        is assigned to an attribute later is added to them, as in torch.

    Attributes
    ----------
    training : bool
        Whether it is in training mode; see `train`.
    stepwise : bool
        Set it to True in the class if each step of the output depends on the same step of the
        input alone. Streams then take the layer, and call it with one step, (B, ...), at a time.
    gives_steps : bool
        Set it to False in the class if the output has no axis of steps, like that of `Last`.

    Notes
    -----
    A layer of your own has these parts:

    - ``forward(self, input, *, lengths=None)`` returns the output. `lengths` holds the real steps
      of each sequence, where the caller of the model gives them. Leave this parameter out if the
      layer has no use for it. Layers are run by calling them: ``y = layer(x)``.
    - ``vjp(self, input, *, lengths=None)`` returns the output and a function ``dx =
      pullback(d_output)``, which turns the gradient of the output into that of the input. A
      gradient has the shape and dtype of what it belongs to. The pullback calls `add_gradient` for
      each parameter. If `vjp` has a parameter ``input_gradient``, then False means that `dx` is
      not needed and may be None.
    - An attribute that is a `numpy.random.Generator` is kept in checkpoints.
    - Layers in a list are not seen. Assign each to an attribute, or make a `Sequential` of them.

    A class may override ``__call__`` instead of `forward`. If it is derived from another kind of
    layer, as `Linear`, and overrides how that is called, then it has no `vjp` and no stream until
    it defines them, because those of the other kind may not fit. A class that is derived from
    `LSTM` takes `hx` and `lengths`, and returns ``(output, (h_n, c_n))``, as that does.

    Parameters are read as attributes, ``lstm.weight_ih_l0``, which are views that refuse writing.
    They are changed by assigning to them or by `load_state_dict`, so that a layer knows when its
    weights have changed. Assigning to another name that begins with "weight" or "bias" is refused,
    because it would be a misspelt parameter; an attribute that is called so is set before
    ``super().__init__``. A layer of this
    package may be run from many threads at once, also while another thread changes its parameters:
    each call takes all the old ones or all the new ones. Pullbacks add into `grads`, so only one
    thread at a time may call those of a layer; if several do, sums are lost, and nothing else.

    Examples
    --------
    >>> class Scaled(fastlstm.Layer):
    ...     stepwise = True
    ...
    ...     def __init__(self, features):
    ...         super().__init__({"factor": (features,)})
    ...         self.factor = np.ones(features)
    ...
    ...     def forward(self, input):
    ...         return input * self.factor
    ...
    ...     def vjp(self, input):
    ...         factor = self.factor.copy()  # a pullback belongs to the parameters of its run
    ...
    ...         def pullback(d_output):
    ...             axes = tuple(range(input.ndim - 1))
    ...             self.add_gradient("factor", (d_output * input).sum(axes))
    ...             return d_output * factor
    ...
    ...         return input * factor, pullback
    >>> model = fastlstm.Sequential({"scaled": Scaled(3), "lstm": fastlstm.LSTM(3, 4)})
    >>> y, pullback = model.vjp(np.ones((5, 2, 3), np.float32))
    >>> pullback(np.ones_like(y)).shape, model.grads["scaled.factor"].shape
    ((5, 2, 3), (3,))
    >>> model.stream(batch_size=2).step(np.ones((2, 3), np.float32)).shape
    (2, 4)
    """

    stepwise: bool = False
    gives_steps: bool = True

    # Attributes that are right only as long as a method is not overridden. A subclass that
    # overrides the method and does not define them gets those of `Layer`, which assume nothing.
    _dependents: ClassVar[dict[str, tuple[str, ...]]] = {
        "__call__": (
            *("vjp", "stream", "pool", "_join", "_live", "_goes_by_chunks", "stepwise"),
            *("_looks_up", "_takes_lookups", "_is_idle"),
        )
    }
    _axes: int | None = None  # how many axes a batch of its input has, where that is known
    _takes_indices: bool = False  # whether its input is integers
    _looks_up: bool = False  # whether its `_look_up` returns a `Lookup` of what it passes on
    _takes_lookups: bool = False  # whether its input may be one
    _is_idle: bool = False  # whether it passes on, as it is now, what it gets

    def __init__(
        self,
        shapes: Shapes | None = None,
        dtype: Any = "float32",
        children: Mapping[str, Layer] | None = None,
    ) -> None:
        self.training = True
        super().__init__(shapes or {}, dtype, children or {})

    def __init_subclass__(cls, **options: Any) -> None:
        """Make `forward` and the call the same, whichever of the two a class defines."""
        super().__init_subclass__(**options)
        own = vars(cls)
        if "forward" in own and "__call__" not in own:
            cls.__call__ = Layer.__call__  # type: ignore[method-assign]
        elif "__call__" in own and "forward" not in own:
            cls.forward = own["__call__"]  # type: ignore[method-assign]
        for method, dependents in cls._dependents.items():
            for name in dependents:
                if _definer(cls, method) < _definer(cls, name):
                    setattr(cls, name, vars(Layer)[name])

    def __call__(self, input: Any, *args: Any, **options: Any) -> Any:
        """Run the layer: what `forward` returns."""
        return self.forward(input, *args, **options)

    def forward(self, input: Any, *args: Any, **options: Any) -> Any:
        """Return the layer's output; every kind of layer has one of its own.

        Parameters
        ----------
        input : array
        *args, **options
            What else the layer takes, as the `lengths` of sequences.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no forward: write forward(self, input, *, lengths=None), "
            "which returns the output"
        )

    def vjp(self, input: Any, *args: Any, **options: Any) -> Any:
        """Run, and return how to go backwards; every kind of layer has one of its own.

        Parameters
        ----------
        input, *args, **options
            As in a call.
        """
        able = [c for c in type(self).__mro__ if getattr(c, "vjp", Layer.vjp) is not Layer.vjp]
        parent = f"; or vjp = {able[0].__name__}.vjp, if that fits" if able else ""
        raise NotImplementedError(
            f"{type(self).__name__} has no vjp: to train it, or layers before it, write vjp(self, "
            "input, *, lengths=None), which returns the output and a function from the gradient "
            f"of the output to that of the input{parent}"
        )

    def stream(self, batch_size: int = 1) -> Any:
        """Begin a live stream through the whole model: states of its own over these weights.

        Parameters
        ----------
        batch_size : int
            How many streams B advance together.

        Returns
        -------
        ModelStream

        Raises
        ------
        ValueError
            If an LSTM is bidirectional or has ``reverse=True``, there is none, or a layer may need
            more than the step at hand: a Softmax over another axis than the features', an LSTMCell,
            a layer of one's own that is not `stepwise`.
        """
        batch_size = check_size("batch_size", batch_size)
        given = Given([], type(self).__name__)
        streams = Streams(batch_size)
        part = self._live("", given, streams)
        after = self._join("", given)[1]
        known = after.added is not None  # there is no layer of one's own inside
        return ModelStream(self, batch_size, part, streams, after.features if known else None)

    def pool(
        self,
        capacity: int,
        *,
        evict: Evict | None = None,
        max_wait: float = 0.001,
        max_batch: int | None = None,
        max_pending: int | None = None,
    ) -> Pool:
        """Make a pool of live streams, which come and go, over these weights.

        Parameters
        ----------
        capacity : int
            How many streams there may be at once.
        evict : callable, optional
            Called with the pool when it is full: returns the sids of streams to be closed.
        max_wait : float
            How many seconds a step that was given to `Pool.submit` waits for others.
        max_batch, max_pending : int, optional
            How many calls of `Pool.submit` are computed together at most, and how many of them the
            pool holds until they begin.

        Returns
        -------
        Pool

        Raises
        ------
        ValueError
            As `stream`.
        """
        return Pool(
            self,
            capacity,
            evict=evict,
            max_wait=max_wait,
            max_batch=max_batch,
            max_pending=max_pending,
        )

    def add_gradient(self, name: str, value: Any) -> None:
        """Add to the gradient of a parameter of this layer, as a pullback does.

        Parameters
        ----------
        name : str
            A parameter of this layer itself, not of one inside it.
        value : array of the parameter's shape

        Raises
        ------
        ValueError
            If there is no such parameter, or the shape is another.

        Notes
        -----
        Nothing is added for a frozen parameter.
        """
        if name not in self._views:
            raise ValueError(
                f"{type(self).__name__} has no parameter {short(name)}; it has "
                f"{quoted(self._views) or 'none'}"
            )
        if np.shape(value) != self._views[name].shape:
            raise ValueError(
                f"{type(self).__name__}: Expected a gradient of {name} of shape "
                f"{self._views[name].shape}, got {np.shape(value)}"
            )
        grads = self._learnt_grads()
        if name in grads:
            grads[name] += value

    # ---- what every layer answers ----

    def _join(self, name: str, given: Given) -> tuple[Layer, Given]:
        """Return this layer as it stands at its place, and what it gives there; see `chain`."""
        return self, given.unknown(name, self)

    def _pass(self, name: str, x: Any, lengths: Any, hx: States, states: States | None) -> Any:
        """Run the layer, which has this dotted name in the model, and return what it passes on.

        An LSTM begins with the states that `hx` has under its name, zeros if there are none, and
        puts the final ones into `states`, unless that is None because nobody asks for them.
        """
        if lengths is None:
            return self(x)
        return self(x, **accepted(self._own_call, lengths=lengths))

    @property
    def _own_call(self) -> Callable[..., Any]:
        """The function of its class that computes a call, the one with the layer's arguments."""
        cls = type(self)
        return cls.forward if cls.__call__ is Layer.__call__ else cls.__call__

    def _pass_vjp(
        self,
        name: str,
        x: Any,
        lengths: Any,
        hx: States,
        states: States | None,
        input_gradient: bool,
    ) -> tuple[Any, Back]:
        """Run the layer as `_pass` does, and return the way back too.

        `input_gradient` says whether anybody needs the gradient of x. Those of `hx` are needed
        where `states` are.
        """
        what = type(self).__name__
        options = accepted(type(self).vjp, input_gradient=input_gradient)
        if lengths is not None:
            options |= accepted(self._own_call, lengths=lengths)
        result = self.vjp(x, **options)
        if not (isinstance(result, tuple) and len(result) == 2 and callable(result[1])):
            raise TypeError(
                f"{what}: vjp must return (output, pullback), got {type(result).__name__}"
            )
        y, pullback = result
        if not (input_gradient and isinstance(x, np.ndarray) and x.dtype.kind == "f"):
            return y, lambda dy, d_states, d_hx: pullback(dy)
        shape, dtype = x.shape, x.dtype

        def back(dy: Any, d_states: States, d_hx: States) -> Any:
            dx = pullback(dy)
            if getattr(dx, "shape", None) != shape or getattr(dx, "dtype", None) != dtype:
                got = f"{getattr(dx, 'dtype', type(dx).__name__)} of shape {np.shape(dx)}"
                raise ValueError(
                    f"{what}: its pullback must return the gradient of the input, {dtype} of "
                    f"shape {shape}, got {got}"
                )
            return dx

        return y, back

    def _check_way_back(self, needed: bool) -> bool:
        """Raise NotImplementedError if a training would call a `vjp` that is not there.

        `needed` says whether a layer before this one learns; returned is whether this one learns
        or one before it.
        """
        needed = needed or self.learns
        if needed and getattr(self.vjp, "__func__", None) is Layer.vjp:
            self.vjp(None)  # which says what is missing
        return needed

    def _outputs(
        self, x: Any, lengths: Any, name: str = "", steps: bool = True
    ) -> Iterator[tuple[str, Any, bool]]:
        """Yield (dotted name, what it passes on, whether that has steps) of each layer inside.

        `steps` says whether x has them. What comes last is what the layer itself passes on.
        """
        y = self._pass(name, x, lengths, {}, None)
        yield name or type(self).__name__, y, steps and self._gives_steps

    def _live(self, name: str, given: Given, states: Begins) -> Live:
        """Return what does the layer's work in a stream of B sequences; ValueError if nothing can.

        What does that of an LSTM, `states` begins under its dotted name.
        """
        if not self.stepwise:
            raise ValueError(
                f"a stream has one step at a time: {who(name, self)} may need more than "
                "that; run it on what a stream of the layers before it gives"
            )
        return Stepwise(self)

    def _link(self, takes: int, engine: Engine) -> Link | None:
        """Return what an engine computes the layer's work in a stream by; None if it cannot.

        `takes` is the number of the value that goes in.
        """
        return None

    def _state_names(self, differentiable: bool = False) -> list[str]:
        """The dotted names of what has states (h, c), in order.

        `differentiable` leaves out an LSTMCell: its final states have no gradients beside those of
        what it passes on, as they are the same.
        """
        return []

    @property
    def _gives_steps(self) -> bool:
        """Whether its output has an axis of steps where its input has."""
        return self.gives_steps and all(child._gives_steps for child in self.children.values())

    @property
    def _goes_by_chunks(self) -> bool:
        """Whether a sequence may go through it in chunks of time, with states carried along."""
        return self.stepwise

    def _check_layouts(self) -> None:
        """Refuse layers inside that must agree in `batch_first`, if one was changed since."""

    def _as_input(self, x: Any) -> Any:
        """Return an input as the layers inside can take it: lists may have to become arrays."""
        return x

    def gates_of(self, name: str) -> str:
        """Return the gates whose rows an own parameter has, in turn, as "ifgo"; "" for other rows.

        Each gate has as many rows. Optimisers take a factor for each of them.

        Parameters
        ----------
        name : str
            A parameter of the layer itself.

        Returns
        -------
        str
        """
        return ""

    def random_states(self) -> dict[str, np.random.Generator]:
        """Return the layer's own random generators by name; a checkpoint keeps their states.

        They are found among the attributes. A layer that has them elsewhere, as in a list, returns
        them here.
        """
        return {
            n: value for n, value in vars(self).items() if isinstance(value, np.random.Generator)
        }

    def train(self: _Own, mode: bool = True) -> _Own:
        """Switch the layer and its children to training (dropout on) or, False, to evaluation.

        Evaluation gives back the memory that only training needs.

        Parameters
        ----------
        mode : bool

        Returns
        -------
        Layer
            The layer itself.
        """
        for _, layer in self.named_layers():
            layer.training = bool(mode)
            if not mode:
                layer._release()
        return self

    def _release(self) -> None:
        """Give back the memory that only training needs."""

    def eval(self: _Own) -> _Own:
        """Switch to evaluation: ``train(False)``.

        Returns
        -------
        Layer
            The layer itself.
        """
        return self.train(False)

    def __repr__(self) -> str:
        if not self.children:
            return f"{type(self).__name__}({self._arguments()})"
        lines = [
            f"  ({printable(name)}): " + repr(child).replace("\n", "\n  ")
            for name, child in self.children.items()
        ]
        if untold := self.__dict__.get("_untold"):
            lines.append(f"  ({printable(untold)})")
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])

    def _arguments(self) -> str:
        """Return what stands in the brackets of `repr`, as torch's ``extra_repr``."""
        return ""


def _definer(cls: type, name: str) -> int:
    """Return how many classes Python looks into before it finds an attribute of a class."""
    return next(n for n, one in enumerate(cls.__mro__) if name in vars(one))


def accepted(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Return those of the options that are not None and that a function of a layer takes."""
    given = options.items()
    return {n: value for n, value in given if value is not None and _takes(function, n)}


@functools.lru_cache(maxsize=1024)
def _takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name, or takes any."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
