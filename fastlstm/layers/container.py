"""Container: what Sequential, Residual and Concat share, such as calls with states by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import as_float, as_gradient
from .chain import Given, check_layouts, dotted
from .layer import Back, Layer, States
from .parameters import check_children
from .stream import by_name

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .stream import ModelStream


class Container(Layer):
    """A layer that is nothing but the layers inside it, and how they are joined.

    Each kind says how they fit together (`_fit`), and how they run (`_run`, `_run_vjp`).

    Parameters
    ----------
    children : dict of str -> Layer
    """

    _dependents = {
        "__call__": (
            *Layer._dependents["__call__"],
            *("_pass", "_pass_vjp", "_outputs", "_state_names", "_check_way_back"),
        ),
        "vjp": ("_pass_vjp", "_check_way_back"),
    }

    def __init__(self, children: Mapping[str, Layer]) -> None:
        what = type(self).__name__
        check_children(what, children)
        dtypes = {
            str(inner.dtype)
            for layer in children.values()
            for _, inner in layer.named_layers()
            if inner.num_parameters
        }
        if len(dtypes) > 1:
            raise ValueError(
                f"{what}: layers have different dtypes: {sorted(dtypes)}; layer.astype, or "
                "load(path, dtype=...), makes them one"
            )
        children, given = self._fit(children, Given([], what), "")
        super().__init__({}, dtypes.pop() if dtypes else "float32", children)
        self.__dict__["_layouts"] = given.layouts  # pairs that must go on agreeing
        self.__dict__["_axes"] = given.axes

    def _fit(
        self, children: Mapping[str, Layer], given: Given, prefix: str
    ) -> tuple[dict[str, Layer], Given]:
        """The layers inside, each as it stands at its place, and what they give together."""
        raise NotImplementedError

    def _run(self, name: str, x: Any, lengths: Any, hx: States, states: States | None) -> Any:
        """Run all layers, as `_pass` does, however a subclass is called."""
        raise NotImplementedError

    def _run_vjp(
        self,
        name: str,
        x: Any,
        lengths: Any,
        hx: States,
        states: States | None,
        input_gradient: bool,
    ) -> tuple[Any, Back]:
        """Run all layers, as `_pass_vjp` does, whatever the `vjp` of a subclass."""
        raise NotImplementedError

    def __call__(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: ArrayLike | None = None,
        return_states: bool = False,
    ) -> Any:
        """Run all layers.

        Parameters
        ----------
        input : what the first layer takes
            A list before a layer without parameters becomes an array of the model's dtype.
        hx : dict of str -> (h_0, c_0), list of those, or one (h_0, c_0), optional
            Initial states by the names of the LSTMs and LSTMCells, dotted as in `state_dict`; in
            their order; or of the only one. Where nothing, or None, is given, an LSTM begins with
            zeros, or with its learned states.
        lengths : B ints, optional
            Each sequence's real steps, for every LSTM and Last inside.
        return_states : bool
            Whether to return the final states too, as is done wherever `hx` is given.

        Returns
        -------
        y : what the last layer gives; of an LSTM, its output
        states : dict of str -> (h_n, c_n)
            If they are asked for: what the next call takes as `hx`.

        Examples
        --------
        >>> model = fastlstm.Sequential({"lstm": fastlstm.LSTM(3, 4), "fc": fastlstm.Linear(4, 1)})
        >>> x = np.ones((6, 2, 3), np.float32)
        >>> y, states = model(x[:2], return_states=True)
        >>> rest, states = model(x[2:], states)
        >>> np.array_equal(np.concatenate([y, rest]), model(x))
        True
        """
        self._check_layouts()
        states: States | None = {} if return_states or hx is not None else None
        y = self._run("", self._as_input(input), lengths, self._by_name("hx", hx), states)
        return y if states is None else (y, states)

    def vjp(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: ArrayLike | None = None,
        return_states: bool = False,
        input_gradient: bool = True,
    ) -> tuple[Any, Callable[..., Any]]:
        """Run all layers, and return how to go backwards.

        Parameters
        ----------
        input, hx, lengths, return_states
            As in a call. What layers pass on is kept, not copied: do not write into `input` before
            the pullback.
        input_gradient : bool
            False: nobody needs `dx`. It is None then, and not computed.

        Returns
        -------
        y, or (y, states) : as a call's
            y may refuse writing, for the pullback reads it.
        pullback : callable
            ``dx = pullback(d_output)``: from the gradient of y (of an LSTMCell's (h, c), a pair) to
            that of `input`, None if this is integers; adds those of all parameters that are not
            frozen to `grads`. See `Linear.vjp`. Where states are returned, ``dx, d_hx =
            pullback(d_output, d_states)``: in go the gradients of the final states of LSTMs, as
            `hx` is given, and zeros where there are none, as for a `d_output` of None; out come
            those of all initial states, a dict.

        Examples
        --------
        >>> model = fastlstm.Sequential(fastlstm.LSTM(3, 4), fastlstm.Last(), fastlstm.Linear(4, 1))
        >>> y, pullback = model.vjp(np.ones((5, 2, 3), np.float32))
        >>> pullback(np.ones_like(y)).shape
        (5, 2, 3)
        >>> model.grads["2.bias"]
        array([2.], dtype=float32)
        """
        self._check_layouts()
        states: States | None = {} if return_states or hx is not None else None
        given = self._by_name("hx", hx)
        x = self._as_input(input)
        y, back = self._run_vjp("", x, lengths, given, states, input_gradient)
        stated = states is not None
        shapes = {n: [_shape(state) for state in s] for n, s in (states or {}).items()}
        y_like = (y.shape, y.dtype) if isinstance(y, np.ndarray) else None
        ends_in_cell = type(y) is tuple  # which a PackedSequence is not

        def pullback(d_output: Any, d_states: Any = None) -> Any:
            if d_states is not None and not stated:
                raise ValueError(
                    "d_states: Expected none of a run without states; give it hx, or "
                    "return_states=True"
                )
            d_states = self._d_states(d_states, shapes)
            d_hx: States = {}
            if d_output is None and stated:
                d_output = np.zeros(*y_like) if y_like else (None, None) if ends_in_cell else None
            with self._all_or_nothing():
                dx = back(d_output, d_states, d_hx)
            dx = dx if input_gradient else None
            return (dx, d_hx) if stated else dx

        return ((y, states) if stated else y), pullback

    if TYPE_CHECKING:

        def stream(self, batch_size: int = 1) -> ModelStream: ...

    def _d_states(self, d_states: Any, shapes: Mapping[str, Any]) -> States:
        """The gradients of final states by name, checked before anything is added anywhere."""
        given = self._by_name("d_states", d_states, differentiable=True)
        for name, pair in given.items():
            if pair is None:
                continue
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(f"d_states of {name!r} must be a tuple (dh_n, dc_n)")
            what = type(self).__name__, "d_states"
            given[name] = tuple(
                None if d is None else _as_gradient(d, shape, self.dtype, *what)
                for d, shape in zip(pair, shapes[name], strict=True)
            )
        return given

    def _by_name(self, what: str, states: Any, differentiable: bool = False) -> States:
        """States that a caller gives, by their names; {} if none are given."""
        if states is None:
            return {}  # most runs have none, and then the names need not be gathered
        return by_name(what, states, self._names_inside(differentiable))

    def _names_inside(self, differentiable: bool = False) -> list[str]:
        """The names of what has states, as `_run` and `_run_vjp` take and give them."""
        return [
            dotted(name, inner)
            for name, layer in self.children.items()
            for inner in layer._state_names(differentiable)
        ]

    def _state_names(self, differentiable: bool = False) -> list[str]:
        return self._names_inside(differentiable)

    def _pass(self, name: str, x: Any, lengths: Any, hx: States, states: States | None) -> Any:
        return self._run(name, self._as_input(x), lengths, hx, states)

    def _pass_vjp(
        self,
        name: str,
        x: Any,
        lengths: Any,
        hx: States,
        states: States | None,
        input_gradient: bool,
    ) -> tuple[Any, Back]:
        return self._run_vjp(name, self._as_input(x), lengths, hx, states, input_gradient)

    def _join(self, name: str, given: Given) -> tuple[Layer, Given]:
        """A copy, if a Last inside takes something from an LSTM before this layer."""
        before = len(given.layouts)
        children, given = self._fit(self.children, given, name + "." if name else "")
        if all(children[n] is layer for n, layer in self.children.items()):
            return self, given
        twin = copy.copy(self)
        twin.__dict__.update(children=children, _layouts=given.layouts[before:])
        return twin, given

    def _check_layouts(self) -> None:
        check_layouts(self._layouts, type(self).__name__)

    @property
    def _goes_by_chunks(self) -> bool:
        return all(child._goes_by_chunks for child in self.children.values())

    def _as_input(self, x: Any) -> Any:
        if not isinstance(x, (list, tuple)) or hasattr(x, "batch_sizes") or self._takes_indices:
            return x
        if isinstance(x, tuple) and any(hasattr(part, "shape") for part in x):
            return x  # several inputs, which a layer of one's own may take
        return as_float(x, self.dtype, owner=type(self).__name__)

    def __setattr__(self, name: str, value: Any) -> None:
        replaces = name in self.__dict__.get("children", {})
        if name not in self.__dict__ and (replaces or isinstance(value, Layer)):
            how = "replaced" if replaces else "added"
            what = type(self).__name__
            raise AttributeError(f"{what}: layer {name!r} cannot be {how}; build a new {what}")
        if name == "batch_first":
            raise AttributeError(
                f"{type(self).__name__} has no batch_first; the LSTM and Last layers inside it have"
            )
        super().__setattr__(name, value)

    def __getitem__(self, name: str | int) -> Any:
        """A layer by its name, or by its position if an int."""
        if isinstance(name, str):
            return self.children[name]
        return list(self.children.values())[name]

    def __len__(self) -> int:
        return len(self.children)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.children.values())


def _shape(state: Any) -> Any:
    """Return the shape of a state, or a list of shapes where layers have different widths."""
    return [array.shape for array in state] if isinstance(state, tuple) else state.shape


def _as_gradient(d: Any, shape: Any, dtype: np.dtype[Any], owner: str, what: str) -> Any:
    """Return the gradient of a state of such a `_shape`; raise ValueError unless it fits."""
    if isinstance(shape, tuple):
        return as_gradient(d, shape, dtype, owner, what)
    if not isinstance(d, (tuple, list)) or len(d) != len(shape):
        raise ValueError(
            f"{owner}: Expected {what} as the states, a tuple of {len(shape)} arrays, got "
            f"{type(d).__name__}"
        )
    pairs = zip(d, shape, strict=True)
    return tuple(as_gradient(one, own, dtype, owner, what) for one, own in pairs)
