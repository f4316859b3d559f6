"""What LSTM and LSTMCell share: initial weights, packed weights, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ..arrays import quiet
from ..engines.contract import Array, Cell, Stack
from ..initialisers import MATRIX_RULES, draw
from .computed import Computed
from .lookup import Ahead, Lookup
from .options import DEFAULTS, check_option, check_options, gates_of, options_of
from .parameters import as_parameter, begins_drawn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..checks import Precision
    from ..engines import EngineChoice
    from .options import Coupling, Function, Norm

# The fields of a `Cell` that are parameters as they are, and the beginnings of torch's names.
_ARRAYS = {
    "w_ih": "weight_ih", "w_hh": "weight_hh", "w_hr": "weight_hr",
    "w_ci": "weight_ci", "w_cf": "weight_cf", "w_co": "weight_co",
    "ln": "weight_ln",
    "ln_ih": "weight_ln_ih", "ln_hh": "weight_ln_hh", "ln_c": "weight_ln_c", "b_c": "bias_ln_c",
}  # fmt: skip

# How the arrays are drawn that no argument of `reset_parameters` is for, by the beginnings of
# their names, and which arrays do not have the rows of the gates.
_RULES = {
    "weight_hr": "uniform", "weight_ci": "uniform", "weight_cf": "uniform", "weight_co": "uniform",
    "weight_ln": "ones", "weight_ln_ih": "ones", "weight_ln_hh": "ones", "weight_ln_c": "ones",
    "bias_ln_c": "zeros", "h_0": "zeros", "c_0": "zeros",
}  # fmt: skip
_WITHOUT_GATES = "weight_hr", "weight_c", "weight_ln_c", "bias_ln_c", "h_0", "c_0"

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

    Layers are in groups: neighbours with the same number of units, which share a stack. The states
    of a run are a list of arrays: h of each group, (cells, B, P), then c of each, (cells, B, H).
    """

    _fixed = (
        Computed._fixed
        | {"input_size", "hidden_size", "bias"}
        | (DEFAULTS.keys() - {"recurrent_dropout", "zoneout", "input_dropout"})
    )

    peephole: bool
    coupled: Coupling | None
    gate_clip: float | None
    cell_clip: float | None
    gate_activation: Function
    cell_activation: Function
    output_activation: Function
    layer_norm: Norm | None
    learn_initial_state: bool
    zoneout: float | tuple[float, float]

    _ahead: Ahead | None = None  # what is made of an embedding's rows; it goes with the stacks

    _directions: int
    _backward: tuple[bool, ...]  # of each direction, whether it runs from the end
    _gates: str  # those that have rows in weights and biases, in turn

    # The options that the layer has, of those in `DEFAULTS`.
    _own_options: tuple[str, ...] = tuple(DEFAULTS)

    def __init__(
        self,
        bias: bool,
        dtype: Precision,
        engine: EngineChoice,
        seed: int | np.random.Generator | None,
    ) -> None:
        self.bias = bias
        shapes = self._plan()
        super().__init__(shapes, dtype, engine)
        self._engine.prepare(self.dtype)
        self._packed: dict[bool, _Pack] = {}  # by whether layers are apart
        self._whole: list[Stack] | None = None  # the stacks that the last call ran on
        self._spare: dict[int, dict[str, Any]] = {}  # layer -> memory that its stacks hand on
        if begins_drawn():
            self.reset_parameters(seed)

    def _sizes(self) -> list[Sizes]:
        """Return the sizes of each layer and direction, in torch's order."""
        raise NotImplementedError

    def _plan(self) -> dict[str, tuple[int, ...]]:
        """Work out what follows from sizes and options; return the shapes of all parameters."""
        self._cells = cells = self._sizes()
        self._gates, self._options = gates_of(self.coupled), options_of(self)
        self._suffixes = [cell.suffix for cell in cells]
        shapes = {
            kind + cell.suffix: shape
            for cell in cells
            for kind, shape in self._shapes(cell).items()
        }
        self._groups = _groups(cells, self._directions)
        self._is_grouped = len(self._groups) * self._directions < len(cells)
        self._state_sizes = [
            (group.stop - group.start, size)
            for sizes in ([cell.output_size for cell in cells], [c.hidden_size for c in cells])
            for group, size in ((group, sizes[group.start]) for group in self._groups)
        ]
        self._initial_names = [name + s for name in ("h_0", "c_0") for s in self._suffixes]
        # For each layer and direction: the fields of its `Cell`, the bias left out, and the names
        # of the parameters.
        self._named = [
            {field: name + s for field, name in _ARRAYS.items() if name + s in shapes}
            for s in self._suffixes
        ]
        self._bias_names: list[tuple[str, ...]] = [
            ("bias_ih" + s, "bias_hh" + s) if self.bias else () for s in self._suffixes
        ]
        # The parameters that lack the rows of one gate, because it follows from another one.
        coupled = len(self._gates) < 4
        self._with_gaps = {name for name in shapes if coupled and self.gates_of(name)}
        return shapes

    def _take_options(self, given: dict[str, Any], projected: bool = False) -> None:
        """Check those of the arguments that are options of the recurrence; make them attributes."""
        own = {name: given[name] for name in self._own_options}
        for name, value in check_options(own, projected).items():
            setattr(self, name, value)

    def _shapes(self, cell: Sizes) -> dict[str, tuple[int, ...]]:
        """Return the parameters of one layer in one direction, by the beginnings of their names."""
        _, I, H, P = cell
        rows = len(self._gates) * H
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, I), "weight_hh": (rows, P)}
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if P != H:
            shapes["weight_hr"] = (P, H)
        if self.peephole:
            shapes |= {f"weight_c{gate}": (H,) for gate in self._gates if gate != "g"}
        if self.layer_norm == "tflite":
            shapes["weight_ln"] = (rows,)
        if self.layer_norm == "haste":
            shapes |= {"weight_ln_ih": (rows,), "weight_ln_hh": (rows,)}
            shapes |= {"weight_ln_c": (H,), "bias_ln_c": (H,)}
        if self.learn_initial_state:
            shapes |= {"h_0": (P,), "c_0": (H,)}
        return shapes

    def _checked(self, name: str, value: Any) -> Any:
        return check_option(name, value) if name in DEFAULTS else super()._checked(name, value)

    def __getstate__(self) -> dict[str, Any]:
        without: dict[str, Any] = {"_packed": {}, "_whole": None, "_spare": {}, "_ahead": None}
        return {**super().__getstate__(), **without}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # What an earlier version pickled lacks the options that came later.
        defaults = {name: DEFAULTS[name] for name in self._own_options}
        super().__setstate__({**defaults, **state})
        self._plan()
        self._engine.prepare(self.dtype)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("num_threads", "zoneout") or "_packed" not in self.__dict__:
            super().__setattr__(name, value)
            return
        with self._exclusive():  # or another thread could go on packing with what was there before
            super().__setattr__(name, value)
            self._options = options_of(self)
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
        A projection's ``weight_hr`` and the weights of peepholes are always torch's uniform. The
        gains of a layer normalisation are 1, and its biases 0. Cost: one pass over the parameters,
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
            self.__dict__["_whole"] = None  # as is quicker than by `__setattr__`
            self.__dict__["_ahead"] = None
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
        apart = (apart or back) and self._is_grouped
        if stacks := self._packed_stacks(apart, back):
            return stacks
        with self._exclusive():
            # Another thread may have packed them while this one waited.
            return self._packed_stacks(apart, back) or self._pack(apart, back)

    def _packed_stacks(self, apart: bool, back: bool) -> list[Stack] | None:
        """Return the stacks of the present version if they are packed."""
        pack = self._packed.get(apart)
        if pack and pack.version == self._version and (pack.back or not back):
            return pack.stacks
        return None

    def _pack(self, apart: bool, back: bool) -> list[Stack]:
        """Pack the present version. In `_exclusive`."""
        d, count = self._directions, len(self._suffixes)
        self._discard(apart)  # its memory is there to take again
        version, cells = self._version, [self._cell(k) for k in range(count)]
        groups = [slice(k, k + d) for k in range(0, count, d)] if apart else self._groups
        stacks = [
            self._engine.Stack(
                cells[group], d, back, self._spare.setdefault(group.start, {}) if back else None
            )
            for group in groups
        ]
        self._packed[apart] = pack = _Pack(version, back, stacks)
        if version != self._version:
            pack.make_stale()  # somebody has written parameters without `_exclusive`
        return stacks

    def _whole_stacks(self) -> list[Stack]:
        """Return the stacks of all groups, which small calls find without further questions."""
        whole = self._whole
        if whole is None or whole[0].stale:
            whole = self._whole = self._stacks()
        return whole

    def _ahead_of(self, lookup: Lookup) -> Ahead | None:
        """Return the products of an embedding's rows, and the stacks that take numbers of them.

        None if they do not pay, or not yet.
        """
        whole, embedding = self._whole, lookup.embedding
        _, inputs, hidden, _ = self._cells[0]
        if (
            whole is None
            or whole[0].stale
            or embedding.embedding_dim != inputs
            or embedding.dtype != self.dtype
        ):
            return None
        ahead = self._ahead
        if ahead is None or not ahead.is_of(whole[0], embedding):
            ahead = Ahead(whole, embedding, 4 * hidden * self._directions)
            self.__dict__["_ahead"] = ahead
        return ahead if ahead.is_made(lookup.index.size) else None

    def _at_once(
        self, input: Any, hx: Any, time_axis: int, ahead: Ahead | None = None
    ) -> tuple[Any, ...] | None:
        """Return what `Stack.call` gives, None if it refuses or if more than that is to be done."""
        if ahead is not None:
            stacks = ahead.stacks
            if len(stacks) > 1 or (hx is None and self.learn_initial_state):
                return None
            return stacks[0].call(input, hx, time_axis, self.num_threads, ahead.made)
        whole = self._whole
        # What is not packed yet is packed after the checks, so that errors come before any work.
        if whole is None or whole[0].stale or len(whole) > 1:
            return None
        if hx is None and self.learn_initial_state:
            return None
        return whole[0].call(input, hx, time_axis, self.num_threads)

    def _present(self, group: int = 0) -> tuple[Stack, int]:
        """Return the stack that a stream runs a group on now, and the number of its threads."""
        return self._whole_stacks()[group], self.num_threads

    def _run_stacks(
        self,
        stacks: list[Stack],
        x: Array,
        batch_sizes: Array,
        states: list[Array],
        y: Array,
        table: Any = None,
        index: Array | None = None,
    ) -> None:
        """Run stacks one after the other over packed rows x (N, I); y and the states are filled.

        With a `table`, x are numbers of its rows. With an `index`, the states are those of more
        sequences than run, as engines take them.
        """
        last, threads = len(stacks) - 1, self.num_threads
        behind: tuple[Any, ...] = () if index is None else (None, None, None, index)
        more = behind if table is None else (None, None, table, index)
        for n in range(last):
            h, c = states[n], states[n + last + 1]
            above = np.empty((len(x), self._directions * h.shape[2]), self.dtype)
            stacks[n].run(x, batch_sizes, h, c, above, threads, *more)
            x, more = above, behind
        stacks[last].run(x, batch_sizes, states[last], states[-1], y, threads, *more)

    def _zeros(self, rows: int) -> list[Array]:
        """Return states of zeros for so many sequences."""
        dtype, states = self.dtype, []
        for cells, size in self._state_sizes:  # small calls are spared the frame of a comprehension
            states.append(np.zeros((cells, rows, size), dtype))
        return states

    def _initial(self, rows: int) -> list[Array]:
        """Return what sequences begin with if no states are given: zeros, or the learned states."""
        states = self._zeros(rows)
        if self.learn_initial_state:
            with self._exclusive():
                for state, name in zip(each_cell(states), self._initial_names, strict=True):
                    state[...] = self._views[name]
        return states

    def _add_start_gradients(self, d_start: list[Array]) -> None:
        """Add to the gradients of the learned states; `d_start` are like states, without B."""
        own = self._learnt_grads()
        for gradient, name in zip(each_cell(d_start), self._initial_names, strict=True):
            if name in own:
                own[name] += gradient

    def _back(
        self,
        stack: Stack,
        layer: int,
        tape: Any,
        dy: Array,
        dh: Array,
        dc: Array,
        input_gradient: bool = True,
        dcells: list[Array] | None = None,
    ) -> Any:
        """Go back through one layer, which is the `stack`; returns dx (N, I) or None.

        `dcells` are, for each direction, the gradients of the cells of all steps.
        """
        d, own = self._directions, self._learnt_grads()
        places = range(layer * d, (layer + 1) * d)
        dw = [self._gradients_of_cell(k, own) for k in places]
        dx = None
        if input_gradient:
            dx = np.empty((len(dy), dw[0].w_ih.shape[1]), self.dtype)
        if len(dy):
            further = (dcells,) if dcells else ()
            stack.back(tape, dy, dh, dc, dx, dw, self.num_threads, *further)
        for k, gradients in zip(places, dw, strict=True):
            self._take_gradients(k, gradients, own)
        return dx

    def _gradients_of_cell(self, k: int, own: dict[str, Array]) -> Cell:
        """Arrays to which an engine adds the gradients of a cell; frozen ones are thrown away.

        They are the parameters' own gradients, but where a gate is left out of these.
        """
        arrays: dict[str, Any] = {"b": np.zeros(4 * self._cells[k].hidden_size, self.dtype)}
        for field, name in self._named[k].items():
            gradient = own.get(name)
            if gradient is None or name in self._with_gaps:
                gradient = np.zeros_like(self._with_gap(name))
            arrays[field] = gradient
        return Cell.of(self._with_peepholes(k, arrays) if self.peephole else arrays)

    def _take_gradients(self, k: int, gradients: Cell, own: dict[str, Array]) -> None:
        """Add up what an engine could not add into the parameters' own gradients."""
        b = self._without_gap(gradients.b) if self._with_gaps else gradients.b
        for name in self._bias_names[k]:
            if name in own:
                own[name] += b
        if self._with_gaps:
            for field, name in self._named[k].items():
                if name in own and name in self._with_gaps:
                    own[name] += self._without_gap(gradients.arrays()[field])

    @quiet
    def _cell(self, k: int) -> Cell:
        """Return one layer's parameters in one direction, with torch's two biases added up."""
        of = self._with_gap if self._with_gaps else self._views.__getitem__
        fields: dict[str, Any] = {field: of(name) for field, name in self._named[k].items()}
        if self.bias:
            ih, hh = self._bias_names[k]
            fields["b"] = of(ih) + of(hh)
        else:
            fields["b"] = np.zeros(4 * self._cells[k].hidden_size, self.dtype)
        fields["reverse"] = self._backward[k % self._directions]
        fields["options"] = self._options
        return Cell.of(self._with_peepholes(k, fields) if self.peephole else fields)

    def _with_gap(self, name: str) -> Array:
        """Return a parameter with the rows of four gates, zeros for one that is left out."""
        array: Array = self._views[name]
        if name not in self._with_gaps:
            return array
        nothing = np.zeros((len(array) // 3, *array.shape[1:]), array.dtype)
        parts = [self._rows(gate, array) if gate in self._gates else nothing for gate in "ifgo"]
        return np.concatenate(parts)

    def _without_gap(self, array: Array) -> Array:
        """Return the rows of the gates that the parameters have, of an array with four."""
        if len(self._gates) == 4:
            return array
        parts = zip("ifgo", np.split(array, 4), strict=True)
        return np.concatenate([part for gate, part in parts if gate in self._gates])

    def _with_peepholes(self, k: int, arrays: dict[str, Any]) -> dict[str, Any]:
        """Put zeros for the peephole of a gate that is left out: engines see three, or none."""
        if self.peephole:
            for field in ("w_ci", "w_cf"):
                arrays.setdefault(field, np.zeros(self._cells[k].hidden_size, self.dtype))
        return arrays


def _groups(cells: list[Sizes], directions: int) -> list[slice]:
    """Return the places of neighbouring layers that have the same numbers of units."""
    layers = range(0, len(cells), directions)
    starts = [k for k in layers if not k or cells[k].hidden_size != cells[k - 1].hidden_size]
    ends = [*starts[1:], len(cells)]
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]


def each_cell(states: list[Array]) -> Iterator[Array]:
    """Yield the states of each layer and direction in them, views: each h, and then each c."""
    for group in states:
        yield from group


def describe(value: Any) -> str:
    """Tell the type of a value, and its length or shape, for an error."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    shape = f" of shape {value.shape}" if hasattr(value, "shape") else ""
    return type(value).__name__ + shape
