"""What LSTM and LSTMCell share: initial weights, packed weights, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ..arrays import quiet
from ..engines.contract import Array, Cell, Stack
from ..initialisers import MATRIX_RULES, draw
from .computed import Computed
from .parameters import as_parameter

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..checks import Precision
    from ..engines import EngineChoice

# The fields of a `Cell` that are parameters as they are, and the beginnings of torch's names.
_MATRICES = {"w_ih": "weight_ih", "w_hh": "weight_hh", "w_hr": "weight_hr"}

# How the arrays are drawn that no argument of `reset_parameters` is for, by the beginnings of
# their names, and which arrays do not have the rows of the gates.
_RULES = {"weight_hr": "uniform"}
_WITHOUT_GATES = ("weight_hr",)

_BIAS_RULES = "uniform", "unit_forget_gate", "narrow_normal", "zeros", "ones"

Rule: TypeAlias = "str | Callable[[tuple[int, ...]], ArrayLike]"
"""How an array is drawn: the name of a rule, or a function that returns it for a shape."""


class Sizes(NamedTuple):
    """One layer in one direction: how the names of its parameters end, and its I, H and P."""

    suffix: str
    input_size: int
    hidden_size: int
    output_size: int  # H, or proj_size


class _Pack(NamedTuple):
    """The stacks of one version of the parameters, and whether they know the way back."""

    version: int
    back: bool
    stacks: list[Stack]

    def make_stale(self) -> None:
        for stack in self.stacks:
            stack.stale = True


class Recurrent(Computed):
    """What LSTM and LSTMCell share: initial weights, packed weights, and the way back.

    `cells` lists the sizes of each layer and direction, in torch's order.
    """

    _fixed = Computed._fixed | {"input_size", "hidden_size", "bias"}

    _directions: int
    _gates = "ifgo"  # those that have rows in weights and biases, in turn

    def __init__(
        self,
        cells: list[Sizes],
        bias: bool,
        dtype: Precision,
        engine: EngineChoice,
        seed: int | np.random.Generator | None,
    ) -> None:
        self.bias, self._cells = bias, cells
        self._suffixes = [cell.suffix for cell in cells]
        shapes: dict[str, tuple[int, ...]] = {}
        for suffix, input_size, hidden_size, output_size in cells:
            shapes["weight_ih" + suffix] = (4 * hidden_size, input_size)
            shapes["weight_hh" + suffix] = (4 * hidden_size, output_size)
            if bias:
                shapes["bias_ih" + suffix] = shapes["bias_hh" + suffix] = (4 * hidden_size,)
            if output_size != hidden_size:
                shapes["weight_hr" + suffix] = (output_size, hidden_size)
        # Neighbouring layers of the same units share a stack: which cells are in each.
        self._groups = _groups(cells, self._directions)
        # For each layer and direction: the fields of its `Cell`, biases left out, and their names.
        self._matrices = [
            {field: name + s for field, name in _MATRICES.items() if name + s in shapes}
            for s in self._suffixes
        ]
        super().__init__(shapes, dtype, engine)
        self._engine.prepare(self.dtype)
        self._packed: dict[bool, _Pack] = {}  # by whether layers are apart
        self._whole: list[Stack] | None = None  # the stacks that the last call ran on
        self._spare: dict[int, dict[str, Any]] = {}  # layer -> memory that its stacks hand on
        self.reset_parameters(seed)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_packed": {}, "_whole": None, "_spare": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._engine.prepare(self.dtype)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "num_threads":
            self._discard(True, False)  # so that streams take it over

    def _release(self) -> None:
        # Another dict, not an empty one: memory still in use is given back to the old dict, and
        # goes with it.
        self._spare = {}
        self._discard(*(apart for apart, pack in [*self._packed.items()] if apart or pack.back))

    def reset_parameters(
        self,
        seed: int | np.random.Generator | None = None,
        *,
        weight_ih: Rule = "uniform",
        weight_hh: Rule = "uniform",
        bias: Rule = "uniform",
    ) -> None:
        """Draw the parameters anew.

        Parameters
        ----------
        seed : int or numpy.random.Generator, optional
            The same seed gives the same parameters; None takes fresh entropy. No global random
            state is read or changed.
        weight_ih, weight_hh : str or callable
            The rule for the weights, each time over a whole matrix, (4H, columns):

            - "uniform": torch's U(-1/sqrt(H), 1/sqrt(H));
            - "glorot": U(-a, a) with a = sqrt(6 / (4H + columns)); Keras and MATLAB take it for
              `weight_ih`;
            - "he": normal with the variance 2 / columns;
            - "orthogonal": orthonormal columns, or rows if there are fewer of them; Keras and
              MATLAB take it for `weight_hh`;
            - "narrow_normal": normal with the standard deviation 0.01;
            - "zeros", "ones";
            - a function, which is called with the shape, as ``numpy.ones`` and the method
              ``standard_normal`` of a Generator can be, and returns an array of that shape.
        bias : str or callable
            "uniform" is torch's rule for ``bias_ih`` and ``bias_hh``. The other rules are for the
            sum of the two: they are followed by ``bias_ih``, and ``bias_hh`` is 0. They are
            "unit_forget_gate", "narrow_normal", "zeros", "ones", and a function, which is called
            with ``(4H,)``. "unit_forget_gate" is 1 for the forget gate and 0 for the others, so
            that memory is kept at first. Where the forget gate is 1 - i, the input gate has -1
            instead, which is the same.

        Raises
        ------
        ValueError
            If there is no such rule, or if a function returns another shape or numbers that are
            not finite. All functions are called, and what they return is checked, before any
            parameter changes.

        Notes
        -----
        A projection's ``weight_hr`` is always torch's uniform. Cost: one pass over the parameters,
        and a QR decomposition of each matrix for "orthogonal". Sources: torch.nn.LSTM; Glorot &
        Bengio 2010; He et al. 2015; Saxe, McClelland & Ganguli 2014; Jozefowicz, Zaremba &
        Sutskever 2015 (forget gate); MATLAB's lstmLayer for their names.

        Examples
        --------
        >>> lstm = fastlstm.LSTM(3, 2)
        >>> lstm.reset_parameters(0, weight_ih="he", weight_hh=np.ones, bias="unit_forget_gate")
        >>> lstm.weight_hh_l0[0], lstm.bias_ih_l0
        (array([1., 1.], dtype=float32), array([0., 0., 1., 1., 0., 0., 0., 0.], dtype=float32))
        """
        for name, value, known in (
            ("weight_ih", weight_ih, MATRIX_RULES),
            ("weight_hh", weight_hh, MATRIX_RULES),
            ("bias", bias, _BIAS_RULES),
        ):
            if not callable(value) and not (isinstance(value, str) and value in known):
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, or a function, got {value!r:.100}"
                )
        rules: dict[str, Rule] = {"weight_ih": weight_ih, "weight_hh": weight_hh}
        rules |= {"bias_ih": bias, "bias_hh": "uniform" if bias == "uniform" else "zeros"}
        rules |= _RULES
        names = [
            (kind + suffix, rule, 1 / np.sqrt(hidden_size))
            for suffix, _, hidden_size, _ in self._cells
            for kind, rule in rules.items()
            if kind + suffix in self._views
        ]
        returned = {name: self._returned(rule, name) for name, rule, _ in names if callable(rule)}
        rng = np.random.default_rng(seed)
        for name, rule, bound in names:
            shape = self._views[name].shape
            if callable(rule):
                values = returned[name]
            elif rule == "unit_forget_gate":
                values = np.zeros(shape, self.dtype)
                self._rows("f", values)[...] = 1
                if "f" not in self._gates:
                    self._rows("i", values)[...] = -1  # sigmoid(1) = 1 - sigmoid(-1)
            else:
                values = draw(rule, rng, shape, bound, self.dtype)
            self._set({name: values})

    def _returned(self, function: Callable[[tuple[int, ...]], ArrayLike], name: str) -> Array:
        """Return what a user's function makes for a parameter; ValueError if it will not do."""
        shape = self._views[name].shape
        what = f"what the function returned for {name}"
        values = as_parameter(function(shape), what)
        if values.shape != shape:
            raise ValueError(f"{what} must have shape {shape}, got {values.shape}")
        with np.errstate(all="ignore"):
            values = values.astype(self.dtype)  # a copy: the function may return one array again
        if not np.isfinite(values).all():
            raise ValueError(f"{what} must be finite numbers within {self.dtype}")
        return values

    def _rows(self, gate: str, array: Array) -> Array:
        """Return a gate's rows of an array that has those of all gates; none if it is coupled."""
        place, size = self._gates.find(gate), len(array) // len(self._gates)
        return array[place * size : (place + 1) * size] if place >= 0 else array[:0]

    def gates_of(self, name: str) -> str:
        """Return the gates whose rows a parameter has; projections have none."""
        return "" if name.startswith(_WITHOUT_GATES) else self._gates

    def changed(self) -> None:
        """Tell the layer that its parameters were written: what is packed from them is stale."""
        super().changed()
        self._discard(True, False)

    def _discard(self, *ways: bool) -> None:
        """Forget the stacks that are packed in these ways; streams that hold one take another."""
        if False in ways:
            self._whole = None
        for apart in ways:
            if pack := self._packed.pop(apart, None):
                pack.make_stale()

    def _stacks(self, apart: bool = False, back: bool = False) -> list[Stack]:
        """Return the parameters as the engine packs them: `apart`, layer by layer, or in groups.

        A group is one stack for neighbouring layers of the same units. Both ways are packed once
        for each version of the parameters. `back` asks for layers apart whose stacks know the way
        back. Such stacks run forward as well, and where no layers are in a group, there is one way
        only, so that there are never more than two packed copies.
        """
        d, count = self._directions, len(self._suffixes)
        apart = (apart or back) and len(self._groups) * d < count
        pack = self._packed.get(apart)
        if pack and pack.version == self._version and (pack.back or not back):
            return pack.stacks
        del pack
        self._discard(apart)  # its memory is there to take again
        version, cells = self._version, [self._cell(k) for k in range(count)]
        groups = [slice(k, k + d) for k in range(0, count, d)] if apart else self._groups
        stacks = [
            self._engine.Stack(
                cells[group], d, back, self._spare.setdefault(group.start, {}) if back else None
            )
            for group in groups
        ]
        pack = _Pack(version, back, stacks)
        if self._packed.setdefault(apart, pack) is not pack or version != self._version:
            pack.make_stale()  # another thread was faster, or has changed the parameters
        return stacks

    def _whole_stacks(self) -> list[Stack]:
        """Return the stacks of all groups, which small calls find without further questions."""
        whole = self._whole
        if whole is None or whole[0].stale:
            whole = self._whole = self._stacks()
        return whole

    def _present(self, group: int = 0) -> tuple[Stack, int]:
        """Return the stack that a stream runs a group on now, and the number of its threads."""
        return self._whole_stacks()[group], self.num_threads

    def _back(
        self,
        layer: Stack,
        cells: slice,
        tape: Any,
        dy: Array,
        dh: Array,
        dc: Array,
        input_gradient: bool = True,
    ) -> Any:
        """Go back through one layer of the stack, the `cells` in it; returns dx (N, I) or None."""
        own, places = self._learnt_grads(), range(len(self._suffixes))[cells]
        dw = [self._gradients_of_cell(k, own) for k in places]
        dx = None
        if input_gradient:
            dx = np.empty((len(dy), dw[0].w_ih.shape[1]), self.dtype)
        if len(dy):
            layer.back(tape, dy, dh, dc, dx, dw, self.num_threads)
        for suffix, gradients in zip(self._suffixes[cells], dw, strict=True):
            for name in {"bias_ih" + suffix, "bias_hh" + suffix} & own.keys():
                own[name] += gradients.b
        return dx

    def _gradients_of_cell(self, k: int, own: dict[str, Array]) -> Cell:
        """Arrays to which an engine adds the gradients of a cell; frozen ones are thrown away."""
        matrices: dict[str, Any] = {
            field: own[name] if name in own else np.zeros_like(self._views[name])
            for field, name in self._matrices[k].items()
        }
        return Cell(b=np.zeros(4 * self._cells[k].hidden_size, self.dtype), **matrices)

    @quiet
    def _cell(self, k: int) -> Cell:
        """Return one layer's parameters in one direction, with torch's two biases added up."""
        b, suffix = np.zeros(4 * self._cells[k].hidden_size, self.dtype), self._suffixes[k]
        if self.bias:
            b = self._views["bias_ih" + suffix] + self._views["bias_hh" + suffix]
        arrays: dict[str, Any] = {
            field: self._views[name] for field, name in self._matrices[k].items()
        }
        reverse = self._directions == 2 and k % 2 == 1
        return Cell(b=b, reverse=reverse, **arrays)


def _groups(cells: list[Sizes], directions: int) -> list[slice]:
    """Return the places of neighbouring layers that have the same numbers of units."""
    layers = range(0, len(cells), directions)
    starts = [k for k in layers if not k or cells[k].hidden_size != cells[k - 1].hidden_size]
    ends = [*starts[1:], len(cells)]
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]


def describe(value: Any) -> str:
    """Tell the type of a value, and its length or shape, for an error."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    shape = f" of shape {value.shape}" if hasattr(value, "shape") else ""
    return type(value).__name__ + shape
