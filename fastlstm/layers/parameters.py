"""Named parameters over one flat buffer, their gradients, and those of layers inside.

A layer's parameters live side by side in one array, in torch's order; each name is a view of it.
So an optimiser is one loop, a checkpoint is one write, and nothing is kept twice.
"""

from __future__ import annotations

import copy
import fnmatch
import math
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np

from ..arrays import as_array
from ..checks import check_batch_first, check_bool, check_dtype, quoted, short

if TYPE_CHECKING:
    from ..arrays import Array, Floats
    from ..checks import Precision
    from .layer import Layer

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
_Own = TypeVar("_Own", bound="Parameters")

_LIKE_A_PARAMETER = re.compile(r"(.*\.)?(weight|bias)", re.DOTALL)

_draws: ContextVar[bool] = ContextVar("draws", default=True)

_forks = 0  # how many forks there are between this process and the one that began as a program


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


@contextmanager
def undrawn() -> Iterator[None]:
    """Let layers that are made inside the block begin with anything: who makes them fills them.

    To draw 2.5 million numbers at random takes longer than to read them from a file.
    """
    token = _draws.set(False)
    try:
        yield
    finally:
        _draws.reset(token)


def begins_drawn() -> bool:
    """Whether a constructor draws the first parameters at random."""
    return _draws.get()


class LoadedKeys(NamedTuple):
    """What `Layer.load_state_dict` did not find in a state dict, and what it left there."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Parameters:
    """What a layer has: parameters by name, their gradients, and layers inside with theirs.

    `Layer` is the only class derived from it, and its docstring tells how all this is used.
    """

    # Attributes that the shapes of parameters, or what is packed from them, depend on: they keep
    # the values that the constructor gives them.
    _fixed: ClassVar[frozenset[str]] = frozenset({"dtype", "children"})
    _guarded = False  # whether an `_all_or_nothing` around this one puts the gradients back
    _handed_out = False  # whether callers have views of the gradients, and may write into them
    _zeroed = False  # whether nothing was added to the gradients since they were set to zero
    _frozen: frozenset[str] = frozenset()  # names of own parameters that are not to be learnt
    _joined: tuple[Floats, list[Floats]] | None = None  # `joined_gradients`, and each layer's part

    def __init__(self, shapes: Shapes, dtype: Any, children: Mapping[str, Layer]) -> None:
        what = type(self).__name__
        shapes = _check_shapes(what, shapes)
        check_children(what, children)
        self.dtype = check_dtype(dtype)
        self.children: dict[str, Layer] = dict(children)
        for name in shapes:
            if name in self.__dict__ or name in children or hasattr(type(self), name):
                raise ValueError(
                    f"{what}: a parameter cannot be called {short(name)}, as the layer has another "
                    "attribute of this name"
                )
        made = np.zeros if begins_drawn() else np.empty
        self._flat: Floats = made(sum(map(math.prod, shapes.values())), self.dtype)
        self._views = _views_of(self._flat, shapes)
        self._gradients: Floats | None = None  # as `_flat`, once asked for
        self._grad_views: dict[str, Floats] | None = None  # as `_views`
        self._version = 0  # counts the changes of the parameters
        self._process_locks: dict[int, Any] = {}  # see `_exclusive`

    def __getattr__(self, name: str) -> Any:
        attributes = self.__dict__
        if name in attributes.get("children", ()):
            return attributes["children"][name]
        views = attributes.get("_views")
        if views is None or name not in views:
            hint = "" if views is not None else ": call super().__init__(...) first"
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")
        view = views[name].view()
        view.flags.writeable = False
        return view

    def __dir__(self) -> Iterable[str]:
        inside = [*self.__dict__.get("_views", ()), *self.__dict__.get("children", ())]
        return sorted({*super().__dir__(), *inside})

    def __setattr__(self, name: str, value: Any) -> None:
        is_layer = isinstance(value, Parameters)
        if name[:1] == "_" and name in self.__dict__ and not is_layer:
            object.__setattr__(self, name, value)  # what runs change themselves needs no checks
            return
        is_inside = name not in self.__dict__ and name in self.__dict__.get("children", ())
        if is_inside or is_layer:
            self._set_child(name, value)
        elif name in self.__dict__.get("_views", {}):
            self._set({name: as_parameter(value, name)})
        elif self._lacks_parameter(name):
            if name in self._parameter_names():
                raise AttributeError(
                    f"{short(name)} is a parameter of a layer inside the {type(self).__name__}: "
                    "assign to it there, or by load_state_dict(..., strict=False)"
                )
            raise AttributeError(
                f"{type(self).__name__} has no parameter {short(name)} to assign to; it has "
                f"{quoted(self._parameter_names()) or 'none'}"
            )
        elif name in self._fixed and name in self.__dict__:
            raise AttributeError(
                f"{name} of {type(self).__name__} cannot be changed: build another layer"
            )
        else:
            object.__setattr__(self, name, self._checked(name, value))

    def _checked(self, name: str, value: Any) -> Any:
        """Return what is stored when `value` is assigned to an attribute; raise to refuse it.

        Constructors assign too, so an option has the same check at any time.
        """
        return check_batch_first(value) if name == "batch_first" else value

    def _set_child(self, name: str, value: Any) -> None:
        """Take a layer that is assigned to an attribute as one inside this one."""
        what = type(self).__name__
        if "children" not in self.__dict__:
            raise AttributeError(f"{what}: call super().__init__(...) before assigning layers")
        if not isinstance(value, Parameters):
            raise AttributeError(f"{what}: {short(name)} is a layer inside it, and stays one")
        if any(layer is self for _, layer in value.named_layers()):
            raise AttributeError(f"{what}: {short(name)} would be a layer inside itself")
        if name in self._views or name in self._fixed or hasattr(type(self), name):
            raise AttributeError(
                f"{what}: a layer cannot be called {short(name)}, as that is a parameter, or an "
                "attribute of the class"
            )
        self.__dict__.pop(name, None)  # such as None, which the name stood for until now
        self.children[name] = cast("Layer", value)

    def __delattr__(self, name: str) -> None:
        if name in self._views or name in self._fixed or name in self.children:
            raise AttributeError(
                f"{name} of {type(self).__name__} cannot be deleted: build another layer"
            )
        object.__delattr__(self, name)

    def _lacks_parameter(self, name: str) -> bool:
        """Tell whether a name looks like that of a parameter, but is the name of nothing."""
        absent = name == "bias" and self.__dict__.get(name, "") is None  # a Linear's
        own = (name in self.__dict__ and not absent) or hasattr(type(self), name)
        return "_views" in self.__dict__ and not own and bool(_LIKE_A_PARAMETER.match(name))

    def _parameter_names(self) -> list[str]:
        return [prefix + name for prefix, layer in self.named_layers() for name in layer._views]

    def __getstate__(self) -> dict[str, Any]:
        """Return for pickle and copy a buffer of its own, with shapes in place of views."""
        shapes = {name: view.shape for name, view in self._views.items()}
        without = {"_gradients": None, "_grad_views": None, "_joined": None}
        with self._exclusive():
            flat = self._flat.copy()
        state = {**self.__dict__, "_flat": flat, "_views": shapes, **without}
        del state["_process_locks"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copy what comes out of a pickle: it may be a mapped file, read-only or shared."""
        flat, children = np.array(state["_flat"]), dict(state["children"])
        views = _views_of(flat, state["_views"])
        self.__dict__.update(state, _flat=flat, _views=views, children=children, _process_locks={})

    def _own_grads(self) -> dict[str, Floats]:
        """The gradients of this layer's own parameters, views by their names; zeros at first."""
        views = self._grad_views
        if views is None:
            with self._exclusive():  # two threads could keep views of what the other has replaced
                if self._gradients is None:
                    self._gradients = np.zeros_like(self._flat)
                views = self._grad_views
                if views is None:
                    shapes = {name: view.shape for name, view in self._views.items()}
                    self._grad_views = views = _views_of(self._gradients, shapes)
        return views

    def _learnt_grads(self) -> dict[str, Floats]:
        """Those of `_own_grads` that are not frozen; a pullback adds into them."""
        if not self._frozen:
            return self._own_grads()
        if self._all_frozen:
            return {}  # without making room for gradients
        return {n: view for n, view in self._own_grads().items() if n not in self._frozen}

    @property
    def grads(self) -> dict[str, Floats]:
        """The gradients by torch's names, as `state_dict`: views of what pullbacks add into.

        Returns
        -------
        dict of str -> ndarray
            Zeros before the first pullback and after `zero_grad`, and of what is frozen.
        """
        for _, layer in self.named_layers():
            vars(layer).update(_handed_out=True, _zeroed=False)
        return {
            prefix + name: view
            for prefix, layer in self.named_layers()
            for name, view in layer._own_grads().items()
        }

    def _all_or_nothing(self) -> _AllOrNothing | nullcontext[None]:
        """Return a context that puts gradients back if its block, which adds to them, fails."""
        if self._guarded:  # with all inside
            return nullcontext()
        return _AllOrNothing(self._layers())

    def zero_grad(self) -> None:
        """Set all gradients to zero; without it, pullbacks go on adding."""
        for layer in self._layers():
            if layer._gradients is not None:
                layer._gradients[...] = 0
                vars(layer)["_zeroed"] = not layer._handed_out

    def joined_gradients(self) -> Floats:
        """Return the gradients of this layer and all inside it as one flat array, without a copy.

        At the first call, and when other layers are frozen as a whole, they move: arrays that
        `grads` returned before are no longer the layers'. Layers that are frozen as a whole have no
        part in it. What lies in it stands in the order of `buffers`.

        Raises
        ------
        ValueError
            If the layers have different dtypes.
        """
        layers = [layer for layer in self._layers() if layer._views and not layer._all_frozen]
        if self._joined is not None:
            flat, parts = self._joined
            if len(parts) == len(layers) and all(
                layer._gradients is part for layer, part in zip(layers, parts, strict=True)
            ):
                return flat
        dtypes = sorted({str(layer.dtype) for layer in layers})
        if len(dtypes) > 1:
            raise ValueError(f"{type(self).__name__}: layers have different dtypes: {dtypes}")
        flat = np.zeros(sum(layer._flat.size for layer in layers), dtypes[0] if dtypes else None)
        parts = np.split(flat, np.cumsum([layer._flat.size for layer in layers], dtype=int))[:-1]
        for layer, part in zip(layers, parts, strict=True):
            with layer._exclusive():
                if layer._gradients is not None:
                    part[...] = layer._gradients
                layer._gradients, layer._grad_views = part, None
        self.__dict__["_joined"] = flat, parts
        return flat

    def freeze(self: _Own, *names: str) -> _Own:
        """Let training leave parameters as they are, until `unfreeze`.

        A frozen parameter gets no gradient, no update and no weight decay, and has no part in the
        norm that `clip_grad_norm` takes. Copies and pickles keep that; `state_dict` does not tell.

        Parameters
        ----------
        *names : str
            Parameters of this layer and those inside it, layers inside it, or patterns as `fnmatch`
            has them: "lstm.weight_ih_l0", "lstm", "*bias*". None: all.

        Returns
        -------
        Layer
            This one.

        Raises
        ------
        ValueError, TypeError
            If a name fits nothing; nothing has been changed.

        Examples
        --------
        >>> model = fastlstm.Sequential({"lstm": fastlstm.LSTM(1, 2), "fc": fastlstm.Linear(2, 1)})
        >>> dict(model.freeze("lstm", "fc.bias").requires_grad)["fc.weight"]
        True
        >>> sum(model.requires_grad.values())
        1
        """
        return self._switch("freeze", names, False)

    def unfreeze(self: _Own, *names: str) -> _Own:
        """Let training change parameters again: the opposite of `freeze`, with the same names.

        An optimiser that has made steps by then begins with moments of 0 for them. To begin as it
        did for the others, make another one.

        Parameters
        ----------
        *names : str
            As those of `freeze`.

        Returns
        -------
        Layer
            The layer itself.

        Examples
        --------
        >>> fastlstm.Linear(2, 1).freeze().unfreeze("bias").requires_grad
        {'weight': False, 'bias': True}
        """
        return self._switch("unfreeze", names, True)

    @property
    def learns(self) -> bool:
        """Whether this layer, or one inside it, has a parameter that is not frozen."""
        return not all(layer._all_frozen for layer in self._layers())

    @property
    def _all_frozen(self) -> bool:
        """Whether no parameter of its own is learnt."""
        return len(self._frozen) == len(self._views)

    def _switch(self: _Own, what: str, names: Iterable[str], learns: bool) -> _Own:
        owners = self._owners()
        chosen: dict[str, tuple[Layer, str]] = {}
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"{what} takes names of type str, got: {type(name).__name__}")
            fits = [n for n in owners if fnmatch.fnmatchcase(n, name) or n.startswith(f"{name}.")]
            if not fits:
                raise ValueError(
                    f"{what}: {name[:100]!r} is no parameter, nor a layer with parameters; there "
                    f"are {quoted(owners) or 'none'}"
                )
            chosen |= {n: owners[n] for n in fits}
        for layer, name in (chosen if names else owners).values():
            layer._frozen = layer._frozen - {name} if learns else layer._frozen | {name}
            if not learns and layer._gradients is not None:
                layer._own_grads()[name][...] = 0
            if layer._all_frozen:
                layer._gradients = layer._grad_views = None  # nobody needs their room
        return self

    def _owners(self) -> dict[str, tuple[Layer, str]]:
        """Return (layer, the parameter's name in it) for each parameter, by its dotted name."""
        return {
            prefix + name: (layer, name)
            for prefix, layer in self.named_layers()
            for name in layer._views
        }

    @property
    def requires_grad(self) -> MutableMapping[str, bool]:
        """Which parameters are learnt, by name; assign True or False to one, or to all of them.

        Examples
        --------
        >>> linear = fastlstm.Linear(2, 1)
        >>> linear.requires_grad["bias"] = False
        >>> linear.requires_grad
        {'weight': True, 'bias': False}
        >>> linear.requires_grad = False
        >>> linear.requires_grad
        {'weight': False, 'bias': False}
        """
        return _Switches(self)

    @requires_grad.setter
    def requires_grad(self, learns: bool) -> None:
        self._switch("requires_grad", (), check_bool("requires_grad", learns))

    def buffers(self) -> Iterator[tuple[Layer, Floats, Floats]]:
        """Yield what an optimiser works on: (layer, parameters, gradients), each array flat.

        For this layer and those inside it that have parameters, once each under however many names.
        Names and shapes of what lies side by side are the layer's own. Who writes parameters calls
        the layer's `changed`.
        """
        for layer in self._layers():
            if layer._views:
                yield layer, *layer._own_buffers()

    def _own_buffers(self) -> tuple[Floats, Floats]:
        """Return the layer's own parameters and gradients, as `buffers` yields them."""
        if self._gradients is None and self._all_frozen:  # zeros that take no room
            return self._flat, np.broadcast_to(self.dtype.type(0), self._flat.shape)
        self._own_grads()
        assert self._gradients is not None
        return self._flat, self._gradients

    def _exclusive(self) -> Any:
        """Return a context for one thread at a time, in which parameters are written or copied.

        So what a run makes of them is of one version, whatever other threads assign meanwhile. The
        same thread may enter again. It is a lock, and a forked child has one of its own: its
        parent's may be held by a thread that the child does not have.
        """
        locks = self._process_locks
        return locks.get(_forks) or locks.setdefault(_forks, threading.RLock())

    def changed(self) -> None:
        """Tell the layer that its parameters were written: what is packed from them is stale.

        Who writes them is in a block of `_exclusive` until then.
        """
        self.__dict__["_version"] += 1

    def _set(self, values: Mapping[str, Array]) -> None:
        """Copy arrays of the right shapes into the parameters of these names."""
        for name, value in values.items():
            if value.shape != self._views[name].shape:
                raise ValueError(
                    f"{name} must have shape {self._views[name].shape}, got {value.shape}"
                )
            if not _fits(value, self.dtype):
                raise ValueError(f"{name} holds numbers beyond {self.dtype}")
        with self._exclusive(), np.errstate(under="ignore"):
            try:
                for name, value in values.items():
                    self._views[name][...] = value
            finally:  # Ctrl-C may end it
                self.changed()

    def named_layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Go through this layer and all inside it.

        Parameters
        ----------
        prefix : str
            What comes before the names.

        Yields
        ------
        (str, Layer)
            What the names of a layer's parameters begin with, as "encoder.lstm.", and the layer.
        """
        yield prefix, self  # type: ignore[misc]  # every object of this class is a Layer
        for name, child in self.children.items():
            yield from child.named_layers(f"{prefix}{name}.")

    def _layers(self) -> Iterable[Layer]:
        """Return this layer and all inside it, once each: what a step of training goes through."""
        found: dict[int, Layer] = {}
        to_do: list[Layer] = [self]  # type: ignore[list-item]  # all of this class are Layers
        while to_do:
            layer = to_do.pop()
            if id(layer) not in found:
                found[id(layer)] = layer
                if layer.children:
                    to_do += reversed(layer.children.values())
        return found.values()

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters of this layer and of those inside it hold."""
        return sum(layer._flat.size for _, layer in self.named_layers())

    def state_dict(self) -> dict[str, Floats]:
        """Return all parameters by torch's names, in torch's order, as copies.

        Returns
        -------
        dict of str -> ndarray
        """
        state: dict[str, Floats] = {}
        for prefix, layer in self.named_layers():
            with layer._exclusive():
                state |= {prefix + name: view.copy() for name, view in layer._views.items()}
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadedKeys:
        """Take all parameters from a mapping with torch's names.

        Parameters
        ----------
        state_dict : mapping of str -> array
            Exactly the names of `state_dict`, each with its shape; arrays or torch tensors of
            any float type (float64 into a float32 layer is rounded, as torch does it).
        strict : bool
            If False, parameters that are missing keep their values, and names that the layer
            lacks are left alone; both are returned.

        Returns
        -------
        missing_keys, unexpected_keys : lists of str, in a named tuple

        Raises
        ------
        ValueError
            If a name is missing or unexpected, unless not `strict`, or a shape or type is wrong, in
            any case. The faults are named, and nothing has been changed.

        Examples
        --------
        >>> linear = fastlstm.Linear(2, 1, bias=False)
        >>> state = {"weight": np.ones((1, 2)), "steps": np.array(7)}
        >>> linear.load_state_dict(state, strict=False).unexpected_keys
        ['steps']
        """
        expected = self._owners()
        if not hasattr(state_dict, "keys"):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict).__name__}")
        arrays = {n: as_array(state_dict[n], n) for n in expected if n in state_dict}
        missing = [name for name in expected if name not in state_dict]
        unexpected = [name for name in state_dict if name not in expected]
        faults = []
        for kind, names in ("Missing", missing), ("Unexpected", unexpected):
            if strict and names:
                faults.append(f"{kind} key(s) in state_dict: " + quoted(names, '"') + ".")
        for name, array in arrays.items():
            layer, local = expected[name]
            if array.shape != layer._views[local].shape:
                faults.append(
                    f"size mismatch for {name}: copying a param with shape {array.shape} from "
                    f"checkpoint, the shape in current model is {layer._views[local].shape}."
                )
            if not _holds_floats(array):
                faults.append(f"type mismatch for {name}: expected floats, got {array.dtype}.")
            elif not _fits(array, layer.dtype):
                faults.append(f"{name} holds numbers beyond {layer.dtype}.")
        if faults:
            if len(faults) > 20:
                faults[20:] = [f"And {len(faults) - 20} faults more."]
            raise ValueError(
                "\n\t".join([f"Error(s) in loading state_dict for {type(self).__name__}:", *faults])
            )
        for prefix, layer in self.named_layers():
            names = [name for name in layer._views if prefix + name in arrays]
            layer._set({name: arrays[prefix + name] for name in names})
        return LoadedKeys(missing, unexpected)

    def astype(self: _Own, dtype: Precision) -> _Own:
        """Return a copy of the layer, and of all inside it, of another precision.

        Parameters
        ----------
        dtype : {"float32", "float64"}
            float64 is rounded to float32; the other way is exact.

        Returns
        -------
        Layer
            In the mode of this one, with random states of its own.

        Raises
        ------
        ValueError
            If `dtype` is another one, or a number lies beyond float32.

        Examples
        --------
        >>> fastlstm.Linear(2, 1).astype("float64").weight.dtype
        dtype('float64')
        """
        wanted, model = check_dtype(dtype), copy.deepcopy(self)
        for _, layer in model.named_layers():
            if not _fits(layer._flat, wanted):
                raise ValueError(f"{type(layer).__name__} holds numbers beyond {wanted}")
            with np.errstate(under="ignore"):
                flat = layer._flat.astype(wanted)
            layer.__setstate__({**layer.__getstate__(), "dtype": wanted, "_flat": flat})
        return model


class _AllOrNothing:
    """`Parameters._all_or_nothing`: a block can be cut short by Ctrl-C too."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        # Where gradients are known to be zeros, a copy would cost a tenth of a small pullback.
        self._before = [
            (layer, None if layer._zeroed or layer._gradients is None else layer._gradients.copy())
            for layer in layers
            if not layer._guarded
        ]

    def __enter__(self) -> None:
        for layer, _ in self._before:
            vars(layer).update(_guarded=True, _zeroed=False)

    def __exit__(self, kind: Any, *_: Any) -> None:
        for layer, gradients in self._before:
            vars(layer)["_guarded"] = False
            if kind is not None and layer._gradients is not None:
                layer._gradients[...] = 0 if gradients is None else gradients


class _Switches(MutableMapping[str, bool]):
    """`Layer.requires_grad`: each reading asks the layers, each assignment tells them."""

    def __init__(self, layer: Parameters) -> None:
        self._layer = layer

    def __getitem__(self, name: str) -> bool:
        layer, own = self._layer._owners()[name]
        return own not in layer._frozen

    def __setitem__(self, name: str, learns: bool) -> None:
        self._layer._switch(
            "requires_grad", (name,), check_bool(f"requires_grad[{name!r}]", learns)
        )

    def __delitem__(self, name: str) -> None:
        raise TypeError("requires_grad has a value for each parameter; none can be deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(self._layer._owners())

    def __len__(self) -> int:
        return len(self._layer._owners())

    def __repr__(self) -> str:
        return repr(dict(self))


def _views_of(flat: Floats, shapes: Shapes) -> dict[str, Floats]:
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()], dtype=int)
    return {
        name: piece.reshape(shape)
        for (name, shape), piece in zip(shapes.items(), np.split(flat, ends)[:-1], strict=True)
    }


def _holds_floats(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _fits(array: Array, dtype: np.dtype[Any]) -> bool:
    """Tell whether no finite number would become infinite in another precision."""
    if array.dtype.itemsize <= dtype.itemsize:
        return True
    with np.errstate(all="ignore"):
        return np.array_equal(np.isinf(array.astype(dtype)), np.isinf(array))


def as_parameter(value: Any, name: str) -> Array:
    """What may be assigned to a parameter: floats of any precision, or a list of numbers."""
    array = as_array(value, name)
    untyped = isinstance(value, (list, tuple, int))
    if not _holds_floats(array) and not (untyped and array.dtype.kind in "iu"):
        raise ValueError(f"{name} must hold floats, got {array.dtype}")
    return array


def check_children(what: str, children: Any) -> None:
    """Refuse children of a layer of the kind `what` that are no layers, or whose names will not do.

    `what` is for the message.
    """
    if not isinstance(children, Mapping):
        raise TypeError(f"{what}: layers must be a dict by name, got {type(children).__name__}")
    for name, layer in children.items():
        if not isinstance(layer, Parameters):
            raise TypeError(f"{what}: {name!r} is not a layer but {type(layer).__name__}")
        _check_name(what, name)


def _check_shapes(what: str, shapes: Any) -> Shapes:
    """Refuse `shapes` unless it holds names of parameters and their shapes."""
    if not isinstance(shapes, Mapping):
        raise TypeError(f"{what}: shapes must be a dict by name, got {type(shapes).__name__}")
    for name, shape in shapes.items():
        _check_name(what, name)
        sizes = shape if isinstance(shape, (tuple, list)) else [None]
        if not all(isinstance(size, (int, np.integer)) and size >= 0 for size in sizes):
            raise TypeError(f"{what}: the shape of {name!r} must be a tuple of ints, got {shape!r}")
    checked: Shapes = shapes
    return checked


def _check_name(what: str, name: Any) -> None:
    if not isinstance(name, str) or not name or "." in name:
        raise ValueError(
            f"{what}: a name must be a string without dots, not empty, got {name!r:.100}"
        )
