"""Residual and Concat: layers beside each other over one input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import as_any_float, as_array, as_float, as_gradient, quiet
from ..engines.contract import Link
from .chain import Given, check_layouts, check_whole, dotted, runs_from_end, who
from .container import Container
from .layer import Back, Layer, States
from .sequential import by_their_names
from .stream import Begins, Live, linked, put, width

if TYPE_CHECKING:
    from ..arrays import Floats
    from ..engines.contract import Engine


class _Branches(Container):
    """Layers beside each other over one input; each kind says how their results are combined."""

    def _together(self, x: Any, results: list[Any]) -> Floats:
        """Return what the results of all layers over x give together."""
        raise NotImplementedError

    def _parted(self, dy: Floats, shapes: list[tuple[int, ...]]) -> list[Floats]:
        """Return the gradient of each result, of these shapes, from that of all together."""
        raise NotImplementedError

    def _past(self, dy: Floats) -> Floats | None:
        """Return the gradient of x by the way that leads past all layers; None if there is none."""
        return None

    def _run(self, name: str, x: Any, lengths: Any, hx: States, states: States | None) -> Any:
        results = [
            layer._pass(dotted(name, own), x, lengths, hx, states)
            for own, layer in self.children.items()
        ]
        return self._together(x, results)

    def _run_vjp(
        self,
        name: str,
        x: Any,
        lengths: Any,
        hx: States,
        states: States | None,
        input_gradient: bool,
    ) -> tuple[Any, Back]:
        results: list[Any] = []
        backs: list[Back | None] = []
        for own, layer in self.children.items():
            inside, back = dotted(name, own), None
            if input_gradient or layer.learns or (states is not None and layer._state_names()):
                y, back = layer._pass_vjp(inside, x, lengths, hx, states, input_gradient)
            else:  # no gradient goes back through this layer
                y = layer._pass(inside, x, lengths, hx, states)
            results.append(y)
            backs.append(back)
        y = self._together(x, results)
        like, shapes = (y.shape, y.dtype), [result.shape for result in results]

        def pullback(dy: Any, d_states: States, d_hx: States) -> Any:
            dy = as_gradient(dy, *like, type(self).__name__)
            dx = self._past(dy) if input_gradient else None
            for back, d_result in zip(backs, self._parted(dy, shapes), strict=True):
                d_input = back(d_result, d_states, d_hx) if back else None
                if input_gradient and d_input is not None:  # indices have no gradient
                    with np.errstate(all="ignore"):
                        dx = d_input if dx is None else dx + d_input
            return dx

        return y, pullback

    def _check_way_back(self, needed: bool) -> bool:
        learns = [layer._check_way_back(needed) for layer in self.children.values()]
        return needed or any(learns)

    def _outputs(
        self, x: Any, lengths: Any, name: str = "", steps: bool = True
    ) -> Iterator[tuple[str, Any, bool]]:
        results = []
        for own, layer in self.children.items():
            for outcome in layer._outputs(x, lengths, dotted(name, own), steps):
                yield outcome
            results.append(outcome[1])
        what = name or type(self).__name__
        yield what, self._together(x, results), steps and self._gives_steps

    def _live(self, name: str, given: Given, states: Begins) -> Live:
        parts = [
            layer._live(dotted(name, own), given, states) for own, layer in self.children.items()
        ]
        return _Beside(self, parts)

    def _fit_each(
        self, children: Mapping[str, Layer], given: Given, prefix: str
    ) -> tuple[dict[str, Layer], dict[str, Given]]:
        """Each layer as it stands over the input, and what it gives."""
        joined: dict[str, Layer] = {}
        behind: dict[str, Given] = {}
        for name, layer in children.items():
            joined[name], after = layer._join(prefix + name, given)
            check_whole(after, prefix + name)
            behind[name] = after
            given = given._replace(taken=after.taken, taker=after.taker)  # of the same input
        return joined, behind

    def _joint(self, behind: list[Given], name: str, features: int | None, **known: Any) -> Given:
        """What they give together; LSTMs inside them must agree in their layout."""
        first, last = behind[0], behind[-1]
        lstms = {id(one.lstm[1]): one.lstm for one in behind if one.lstm and not one.stranger}
        named = [*lstms.values()]
        pairs = [(named[0], other) for other in named[1:]]
        check_layouts(pairs, first.owner)
        first.layouts.extend(pairs)
        both = [lstm for lstm in named if lstm[1].bidirectional]  # a Last must know of these
        axes = {one.axes for one in behind} - {None}
        added = {one.added for one in behind}
        known = {
            "lstm": next(iter([*both, *named]), None),
            "axes": axes.pop() if len(axes) == 1 else None,
            "added": added.pop() if len(added) == 1 else None,
        } | known
        if unclear := [one for one in behind if one.stranger]:
            known |= {"lstm": unclear[0].lstm, "stranger": unclear[0].stranger}
        giver = f"{name!r} ({type(self).__name__})"
        if len({runs_from_end(lstm[1]) for lstm in named}) > 1:  # a Last must know of this too
            known |= {"stranger": giver}
            known["lstm"] = next(lstm for lstm in named if runs_from_end(lstm[1]))
        ended = next((one.last for one in behind if one.last), "")
        return last.behind(features=features, giver=giver, last=ended, **known)


class Residual(_Branches):
    """x + layer(x), the shortcut of He et al. (2016); with a projection, projection(x) + layer(x).

    Parameters
    ----------
    layer : Layer
        What is added to its own input, as an LSTM or a Sequential.
    projection : Layer, optional
        What x goes through on its own way, as a Linear, where `layer` gives another number of
        features than it takes.

    Raises
    ------
    TypeError
        If one of them is no layer, or gives the (h, c) of an LSTMCell.
    ValueError
        If the two that are added do not have the same number of features or steps, or differ in
        `batch_first`, as far as that is known.

    Notes
    -----
    Parameters have the names that a torch module with the attributes ``layer`` and ``projection``
    would give them. With `lengths`, an LSTM's outputs past a sequence's end are 0, so that there y
    is x itself, or its projection, as in torch.

    Examples
    --------
    >>> lstm = fastlstm.LSTM(1, 8, batch_first=True, seed=0)
    >>> amp = fastlstm.Residual(fastlstm.Sequential({"rec": lstm, "lin": fastlstm.Linear(8, 1)}))
    >>> x = np.ones((2, 5, 1), np.float32)
    >>> np.array_equal(amp(x), x + amp.layer(x))
    True
    >>> list(amp.state_dict())[-2:]
    ['layer.lin.weight', 'layer.lin.bias']
    """

    def __init__(self, layer: Layer, projection: Layer | None = None) -> None:
        children = {"layer": layer}
        if projection is not None:
            children["projection"] = projection
        super().__init__(children)

    def _fit(
        self, children: Mapping[str, Layer], given: Given, prefix: str
    ) -> tuple[dict[str, Layer], Given]:
        joined, behind = self._fit_each(children, given, prefix)
        after, names = behind["layer"], {n: who(prefix + n, layer) for n, layer in joined.items()}
        skip = behind.get("projection", given._replace(taken=after.taken, taker=after.taker))
        if joined["layer"]._takes_indices:
            raise ValueError(
                f"{given.owner}: {names['layer']} takes indices, to which nothing can be added"
            )
        if bool(after.last) != bool(skip.last) and None not in (after.added, skip.added):
            raise ValueError(
                f"{given.owner}: {after.last or skip.last} leaves one step, which cannot be added "
                "to all of them"
            )
        wide, other = after.known_features, skip.known_features
        if None not in (wide, other) and wide != other:
            rest = f"its input has {other}: give projection=Linear({other}, {wide})"
            if "projection" in names:
                rest = f"{names['projection']} gives {other}"
            raise ValueError(f"{given.owner}: {names['layer']} gives {wide} features, {rest}")
        features = other if wide is None else wide
        if features is None and after.added is None:
            skip = skip._replace(added=None)
        directions = after.directions and skip.directions
        name = prefix.removesuffix(".")
        return joined, self._joint([after, skip], name, features, directions=directions)

    @property
    def _takes_indices(self) -> bool:  # type: ignore[override]
        return False

    def _as_input(self, x: Any) -> Any:
        if type(x) is np.ndarray and x.dtype == self.dtype:
            return x
        if self.num_parameters or isinstance(x, (list, tuple)):
            return as_float(x, self.dtype, owner="Residual")
        return as_any_float(x, "Residual")  # like the layers inside, it has no dtype of its own

    @quiet
    def _together(self, x: Any, results: list[Any]) -> Floats:
        y = as_array(results[0], "the output of a Residual's layer")
        skip = as_array(results[-1] if len(results) > 1 else x, "the output of a projection")
        if y.shape != skip.shape:
            raise ValueError(f"Residual: cannot add {y.shape}, its layer's output, to {skip.shape}")
        total: Floats = skip + y
        return total

    def _parted(self, dy: Floats, shapes: list[tuple[int, ...]]) -> list[Floats]:
        return [dy] * len(shapes)

    def _past(self, dy: Floats) -> Floats | None:
        return None if "projection" in self.children else dy


class Concat(_Branches):
    """Layers side by side over one input, their outputs one after the other in the last axis.

    Parameters
    ----------
    *layers : Layer, or one dict of str -> Layer
        At least one; named as in `Sequential`. A slice is a Concat of these layers.

    Raises
    ------
    TypeError
        If something is not a layer, or gives the (h, c) of an LSTMCell.
    ValueError
        If there is no layer, a name is empty or holds a dot, or the layers do not take the same
        input or do not give the same steps: their dtypes, features or `batch_first` differ, or one
        gives the last step only. What is not known yet is checked when the layer runs.

    Notes
    -----
    Parameters have the names that a torch module with these attributes would give them. With
    `lengths`, what an LSTM gives past a sequence's end is 0, what a Linear gives is its bias.

    Examples
    --------
    >>> both = fastlstm.Concat({"short": fastlstm.LSTM(3, 4), "long": fastlstm.LSTM(3, 16)})
    >>> model = fastlstm.Sequential({"both": both, "fc": fastlstm.Linear(20, 1)})
    >>> model.both(np.ones((5, 2, 3), np.float32)).shape
    (5, 2, 20)
    >>> list(model.state_dict())[:2]
    ['both.short.weight_ih_l0', 'both.short.weight_hh_l0']
    """

    def __init__(self, *layers: Layer | Mapping[str, Layer]) -> None:
        children = by_their_names(layers)
        if not children:
            raise ValueError("Concat needs at least one layer")
        super().__init__(children)

    def _fit(
        self, children: Mapping[str, Layer], given: Given, prefix: str
    ) -> tuple[dict[str, Layer], Given]:
        joined, behind = self._fit_each(children, given, prefix)
        ended = [one.last for one in behind.values() if one.last]
        whole = [name for name, one in behind.items() if not one.last and one.added is not None]
        if ended and whole:
            raise ValueError(
                f"{given.owner}: {who(prefix + whole[0], joined[whole[0]])} gives all steps, "
                f"{ended[0]} leaves one: they cannot stand side by side"
            )
        sizes = [one.known_features for one in behind.values()]
        known = [size for size in sizes if size is not None]
        features = sum(known) if len(known) == len(sizes) else None
        unknown = {"added": None} if features is None else {}
        name = prefix.removesuffix(".")
        return joined, self._joint([*behind.values()], name, features, **unknown)

    @property
    def _takes_indices(self) -> bool:  # type: ignore[override]
        return any(layer._takes_indices for layer in self.children.values())

    def _together(self, x: Any, results: list[Any]) -> Floats:
        arrays = [as_array(y, "the output of a layer in a Concat") for y in results]
        if len({y.shape[:-1] for y in arrays}) > 1 or not arrays[0].ndim:
            shapes = ", ".join(
                f"{name!r} {y.shape}" for name, y in zip(self.children, arrays, strict=True)
            )
            raise ValueError(f"Concat: outputs must have all axes but the last alike, got {shapes}")
        return np.concatenate(arrays, axis=-1)

    def _parted(self, dy: Floats, shapes: list[tuple[int, ...]]) -> list[Floats]:
        ends = [*accumulate(shape[-1] for shape in shapes)]
        return [dy[..., end - shape[-1] : end] for shape, end in zip(shapes, ends, strict=True)]

    def __getitem__(self, name: str | int | slice) -> Any:
        """A layer by its name, or by its position if an int; a Concat if a slice."""
        if isinstance(name, slice):
            return Concat(dict([*self.children.items()][name]))
        return super().__getitem__(name)


class _Beside:
    """What does the work of layers beside each other in a stream."""

    def __init__(self, layer: _Branches, parts: list[Live]) -> None:
        self.layer, self.parts = layer, parts

    def step(self, x: Any, out: Floats | None = None) -> Any:
        x = self.layer._as_input(x)
        return put(self.layer._together(x, [part.step(x) for part in self.parts]), out)

    def run(self, x: Any) -> Any:
        x = self.layer._as_input(x)
        return self.layer._together(x, [part.run(x) for part in self.parts])

    def _links(self, takes: int, engine: Engine, links: list[Link]) -> int | None:
        if type(self.layer) is not Residual:
            return None
        values = [linked(part, takes, engine, links) for part in self.parts]
        y, skip = values[0], values[1] if len(values) > 1 else takes
        if not links or y is None or skip is None or width(links, y) != width(links, skip):
            return None  # without links, nothing says how wide the input is
        links.append(Link(skip, width(links, skip), width(links, y), plus=y))
        return len(links)
