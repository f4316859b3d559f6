"""Sequential: layers one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .chain import Given, check_whole, dotted
from .container import Container
from .layer import Back, Layer, States
from .lookup import Lookup
from .stream import Begins, Chain, Live


class Sequential(Container):
    """Layers one after the other, as torch.nn.Sequential; an LSTM passes on its output.

    The layers are compared with each other when it is built: what one gives, the next must take.

    Parameters
    ----------
    *layers : Layer, or one dict of str -> Layer
        Positional layers are named "0", "1", ...; with a dict the names are the caller's, so
        that `state_dict` has torch's names of a model with these attributes. A layer is read as
        ``model.name``, ``model["name"]`` or ``model[0]``; a slice is a Sequential of these layers.

    Raises
    ------
    TypeError
        If something is not a layer, or an LSTMCell, which gives (h, c), is not the last one.
    ValueError
        If a name is empty or holds a dot, or layers do not fit together: in their dtypes, in the
        features that one gives and the next takes, in `batch_first`; or what needs steps or indices
        does not get them. A layer of your own is asked only what it says of itself.

    Examples
    --------
    >>> model = fastlstm.Sequential({"lstm": fastlstm.LSTM(3, 4), "fc": fastlstm.Linear(4, 1)})
    >>> model(np.zeros((5, 2, 3), np.float32)).shape
    (5, 2, 1)
    >>> list(model.state_dict())[-2:]
    ['fc.weight', 'fc.bias']
    """

    def __init__(self, *layers: Layer | Mapping[str, Layer]) -> None:
        super().__init__(by_their_names(layers))

    def _fit(
        self, children: Mapping[str, Layer], given: Given, prefix: str
    ) -> tuple[dict[str, Layer], Given]:
        joined: dict[str, Layer] = {}
        for name, layer in children.items():
            check_whole(given, prefix + (list(joined) or [""])[-1])
            joined[name], given = layer._join(prefix + name, given)
        return joined, given

    def _run(self, name: str, x: Any, lengths: Any, hx: States, states: States | None) -> Any:
        for own, layer in self.children.items():
            if type(x) is Lookup and not layer._takes_lookups:
                if layer._is_idle:
                    continue
                x = x.rows()
            if layer._looks_up:
                x = layer._look_up(x)
            else:
                x = layer._pass(dotted(name, own), x, lengths, hx, states)
        return x.rows() if type(x) is Lookup else x

    def _run_vjp(
        self,
        name: str,
        x: Any,
        lengths: Any,
        hx: States,
        states: States | None,
        input_gradient: bool,
    ) -> tuple[Any, Back]:
        backs: list[Back] = []
        # Whether the gradient of a layer's input is needed. It is if something before it has a use
        # for gradients: a layer that learns, or initial states.
        needed = input_gradient
        for own, layer in self.children.items():
            inside = dotted(name, own)
            if needed or layer.learns or (states is not None and layer._state_names()):
                x, back = layer._pass_vjp(inside, x, lengths, hx, states, needed)
                backs.append(back)
                needed = True
            else:  # no gradient goes back through this layer
                x = layer._pass(inside, x, lengths, hx, states)
        backs.reverse()

        def pullback(dx: Any, d_states: States, d_hx: States) -> Any:
            for back in backs:
                dx = back(dx, d_states, d_hx)
            return dx

        return x, pullback

    def _check_way_back(self, needed: bool) -> bool:
        for layer in self.children.values():
            needed = layer._check_way_back(needed)
        return needed

    def _outputs(
        self, x: Any, lengths: Any, name: str = "", steps: bool = True
    ) -> Iterator[tuple[str, Any, bool]]:
        for own, layer in self.children.items():
            for outcome in layer._outputs(x, lengths, dotted(name, own), steps):
                yield outcome
            x, steps = outcome[1:]

    def _live(self, name: str, given: Given, states: Begins) -> Live:
        parts: list[Live] = []
        for own, layer in self.children.items():
            parts.append(layer._live(dotted(name, own), given, states))
            given = layer._join(dotted(name, own), given)[1]
        return Chain(parts)

    @property
    def _takes_indices(self) -> bool:  # type: ignore[override]
        return bool(self.children) and bool(self[0]._takes_indices)

    def _as_input(self, x: Any) -> Any:
        if not isinstance(x, (list, tuple)) or not self.children or self[0].num_parameters:
            return x  # a layer with parameters converts it to its own dtype
        return super()._as_input(x)

    def __getitem__(self, name: str | int | slice) -> Any:
        """A layer by its name, or by its position if an int; a Sequential if a slice."""
        if isinstance(name, slice):
            return Sequential(dict([*self.children.items()][name]))
        return super().__getitem__(name)


def by_their_names(layers: tuple[Any, ...]) -> Mapping[str, Layer]:
    """Layers as they are given, one by one or in a dict, by their names."""
    if len(layers) == 1 and isinstance(layers[0], dict):
        return layers[0]
    return {str(n): layer for n, layer in enumerate(layers)}


def flattened(layer: Layer, name: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield the layers of a chain, with those of the chains in it, and their names."""
    if type(layer) is Sequential:
        for own, part in layer.children.items():
            yield from flattened(part, dotted(name, own))
    else:
        yield name, layer
