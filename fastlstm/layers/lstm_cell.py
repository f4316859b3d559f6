"""LSTMCell: one step of one layer, shaped as torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import as_float, as_rows
from ..checks import check_bool, check_size
from ..engines.contract import Noise
from ..sequences.packing import uniform_sizes
from .chain import Given, who
from .dropout import masks_of
from .layer import Back, States, accepted
from .noise import zone
from .options import options_text, zones_of
from .recurrent import Recurrent, Sizes, describe

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..arrays import Floats
    from ..checks import Precision
    from ..engines import EngineChoice
    from .options import Coupling, Function, Norm


class LSTMCell(Recurrent):
    """One step of one LSTM layer: torch.nn.LSTMCell's arguments, names and shapes.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    bias : bool
    peephole, coupled, gate_clip, cell_clip, layer_norm
        As `LSTM`'s.
    gate_activation, cell_activation, output_activation
        As `LSTM`'s.
    zoneout
        As `LSTM`'s. In training mode it draws a mask for every step.
    learn_initial_state : bool
        As `LSTM`'s: ``h_0`` and ``c_0``, each of shape (H,), are what a step begins with where `hx`
        is None.
    dtype : {"float32", "float64"}
    engine : {"auto", "native", "numba", "numpy"}
        As `LSTM`'s.
    seed : int or numpy.random.Generator, optional
        For the initial parameters, U(-1/sqrt(H), 1/sqrt(H)).

    Attributes
    ----------
    weight_ih, weight_hh, bias_ih, bias_hh : ndarray
        (4H, I), (4H, H), (4H,), (4H,).

    Examples
    --------
    >>> cell = fastlstm.LSTMCell(3, 4, seed=0)
    >>> h, c = cell(np.ones((2, 3), np.float32))
    >>> h, c = cell(np.ones((2, 3), np.float32), (h, c))
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """

    _directions, _backward = 1, (False,)
    _own_options = (
        "peephole", "coupled", "gate_clip", "cell_clip", "gate_activation", "cell_activation",
        "output_activation", "layer_norm", "zoneout", "learn_initial_state",
    )  # fmt: skip

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        peephole: bool = False,
        coupled: Coupling | None = None,
        gate_clip: float | None = None,
        cell_clip: float | None = None,
        gate_activation: Function = "sigmoid",
        cell_activation: Function = "tanh",
        output_activation: Function = "tanh",
        layer_norm: Norm | None = None,
        zoneout: float | tuple[float, float] = 0.0,
        learn_initial_state: bool = False,
        dtype: Precision = "float32",
        engine: EngineChoice = "auto",
        seed: int | np.random.Generator | None = None,
    ) -> None:
        arguments = dict(locals())
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        bias = check_bool("bias", bias)
        self._take_options(arguments)
        self._dropout_rng = masks_of(seed)
        super().__init__(bias, dtype, engine, seed)
        self.num_threads = 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"_dropout_rng": masks_of(None), **state})  # which came with zoneout

    def _sizes(self) -> list[Sizes]:
        return [Sizes("", self.input_size, self.hidden_size, self.hidden_size)]

    def __call__(self, input: ArrayLike, hx: Any = None) -> tuple[Floats, Floats]:
        """Run one step.

        Parameters
        ----------
        input : array of shape (B, I), or (I,) unbatched
        hx : (h, c), each of shape (B, H) or (H,), optional
            Zeros if not given, or the learned ``h_0``, ``c_0``. Not written.

        Returns
        -------
        h, c : ndarrays, as `hx`

        Raises
        ------
        ValueError, TypeError
            If a shape or dtype does not fit; torch's sentences.
        """
        if not (self.training and self.zoneout):
            if final := self._at_once(input, hx, -1):
                h, c = final
                return h, c
        rows, h, c = self._arrange(input, hx)
        if len(rows):
            batch_sizes = uniform_sizes(1, len(rows))
            noise, y = self._noise(len(rows)), np.empty_like(h)
            self._whole_stacks()[0].run(rows, batch_sizes, h[None], c[None], y, 1, noise)
        return (h[0], c[0]) if np.ndim(input) == 1 else (h, c)

    def vjp(
        self, input: ArrayLike, hx: Any = None, *, input_gradient: bool = True
    ) -> tuple[tuple[Floats, Floats], Callable[[Any], Any]]:
        """Run one step, and return how to go backwards.

        Parameters
        ----------
        input, hx
            As in a call. `input` is kept, not copied: do not write into it before the pullback.
        input_gradient : bool
            As `LSTM.vjp`'s.

        Returns
        -------
        (h, c) : as a call's
        pullback : callable
            ``dx, (dh_0, dc_0) = pullback((dh, dc))``: from the gradients of h and c, each of which
            may be None for zeros, to those of `input` and `hx`; adds those of the parameters to
            `grads`. See `LSTM.vjp`.

        Examples
        --------
        >>> cell = fastlstm.LSTMCell(3, 4, seed=0)
        >>> (h, c), pullback = cell.vjp(np.ones((2, 3), np.float32))
        >>> dx, (dh_0, dc_0) = pullback((np.ones_like(h), None))
        >>> dx.shape, dc_0.shape
        ((2, 3), (2, 4))
        """
        x, h, c = self._arrange(input, hx)
        single = np.ndim(input) == 1
        is_learned = hx is None and self.learn_initial_state
        layer, tape, rows = self._stacks(back=True)[0], None, len(x)
        if rows:
            sizes = uniform_sizes(1, rows)
            tape = layer.record(
                x, sizes, h[None], c[None], np.empty_like(h), self.num_threads, 0,
                self._noise(rows),
            )  # fmt: skip

        def pullback(d_states: Any) -> Any:
            dh, dc = self._d_states(d_states, rows, 1 if single else 2)
            dy = np.zeros_like(dh)
            with np.errstate(all="ignore"), self._all_or_nothing():
                dx = self._back(layer, 0, tape, dy, dh[None], dc[None], input_gradient)
                if is_learned:
                    self._add_start_gradients([d.sum(axis=0)[None] for d in (dh, dc)])
            if not single:
                return dx, (dh, dc)
            return None if dx is None else dx[0], (dh[0], dc[0])

        return ((h[0], c[0]) if single else (h, c)), pullback

    def random_states(self) -> dict[str, np.random.Generator]:
        """Return the generator of zoneout's masks, if there is zoneout; see `Layer`'s."""
        return super().random_states() if self.zoneout else {}

    def _noise(self, rows: int) -> list[Noise] | None:
        """Draw the masks of zoneout for one step of `rows` sequences, in training."""
        if not (self.training and self.zoneout):
            return None
        shape = rows, self.hidden_size
        zones = [zone(self._dropout_rng, shape, self.dtype, p) for p in zones_of(self.zoneout)]
        return [Noise(None, *zones)]

    def _join(self, name: str, given: Given) -> tuple[LSTMCell, Given]:
        given = given.check(self.input_size, who(name, self))
        if given.lstm and not (given.stranger or given.last):
            raise ValueError(
                f"{given.owner}: {who(name, self)} takes one step, {who(*given.lstm)} gives all of "
                "them; put a Last between the two"
            )
        return self, given.behind(cell=True)

    def _pass(self, name: str, x: Any, lengths: Any, hx: States, states: States | None) -> Any:
        final = self(x, hx.get(name))
        if states is not None:
            states[name] = final
        return final

    def _pass_vjp(
        self,
        name: str,
        x: Any,
        lengths: Any,
        hx: States,
        states: States | None,
        input_gradient: bool,
    ) -> tuple[Any, Back]:
        options = accepted(type(self).vjp, input_gradient=input_gradient)
        final, pullback = self.vjp(x, hx=hx.get(name), **options)
        if states is not None:
            states[name] = final

        def back(dy: Any, d_states: States, d_hx: States) -> Any:
            dx, d_hx[name] = pullback(dy)
            return dx

        return final, back

    def _state_names(self, differentiable: bool = False) -> list[str]:
        return [] if differentiable else [""]

    def _d_states(self, d_states: Any, rows: int, ndim: int) -> tuple[Floats, Floats]:
        """The gradients of a step's h and c; what is None becomes zeros."""
        if isinstance(d_states, (tuple, list)) and len(d_states) == 2:
            zero = np.zeros((rows, self.hidden_size)[2 - ndim :], self.dtype)
            d_states = [zero if given is None else given for given in d_states]
        return self._states(d_states, rows, ndim, "d_states")

    def _arrange(self, input: Any, hx: Any) -> tuple[Floats, Floats, Floats]:
        """(rows (B, I), h, c) of what a step is given, checked; the states are fresh."""
        x = as_float(input, self.dtype, owner="LSTMCell")
        if x.ndim not in (1, 2):
            raise ValueError(f"LSTMCell: Expected input to be 1D or 2D, got {x.ndim}D instead")
        if x.shape[-1] != self.input_size:
            raise ValueError(
                f"input has inconsistent input_size: got {x.shape[-1]} expected {self.input_size}"
            )
        rows = as_rows(x[None] if x.ndim == 1 else x)
        if hx is None:
            h, c = self._initial(len(rows))
            return rows, h[0], c[0]
        return rows, *self._states(hx, len(rows), x.ndim)

    def _states(self, hx: Any, rows: int, ndim: int, what: str = "hx") -> tuple[Floats, Floats]:
        shape = rows, self.hidden_size
        if hx is None:
            return np.zeros(shape, self.dtype), np.zeros(shape, self.dtype)
        if not isinstance(hx, (tuple, list)) or len(hx) != 2:
            raise TypeError(f"{what} must be a tuple (h, c), got {describe(hx)}")
        states = []
        for n, state in enumerate(hx):
            name = f"{what}[{n}]"
            state = as_float(state, self.dtype, name, "LSTMCell")
            if state.ndim not in (1, 2):
                raise ValueError(
                    f"LSTMCell: Expected {name} to be 1D or 2D, got {state.ndim}D instead"
                )
            if state.ndim != ndim:
                raise ValueError(
                    f"LSTMCell: Expected {name} to be {ndim}D as the input, got {state.ndim}D"
                )
            if ndim == 2 and len(state) != rows:
                raise ValueError(
                    f"Input batch size {rows} doesn't match hidden{n} batch size {len(state)}"
                )
            if state.shape[-1] != self.hidden_size:
                raise ValueError(
                    f"hidden{n} has inconsistent hidden_size: got {state.shape[-1]}, "
                    f"expected {self.hidden_size}"
                )
            states.append(np.array(state.reshape(shape), order="C"))
        return states[0], states[1]

    def _arguments(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")
        return text + options_text(self)
