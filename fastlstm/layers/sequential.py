"""Sequential: layers one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .chain import Given, check_whole, dotted, outside, within
from .container import Container
from .layer import Back, Layer, States
from .stream import Chain, Live


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
        does not get them. Of a layer of one's own nothing is known, and so nothing asked.

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

    def _run(self, x: Any, hx: States, lengths: Any) -> tuple[Any, States]:
        states: States = {}
        for name, layer in self.children.items():
            x, own = layer._pass(x, within(hx, name), lengths)
            states |= outside(own, name)
        return x, states

    def _run_vjp(
        self, x: Any, hx: States, lengths: Any, input_gradient: bool, stated: bool
    ) -> tuple[Any, States, Back]:
        states: States = {}
        backs: list[tuple[str, Back]] = []
        # Whether the gradient of a layer's input is needed. It is if a layer before it learns.
        needed = input_gradient
        for name, layer in self.children.items():
            if not (needed or stated or layer.learns):  # no gradient goes back through this layer
                x, _ = layer._pass(x, {}, lengths)
                continue
            x, own, back = layer._pass_vjp(x, within(hx, name), lengths, needed, stated)
            states |= outside(own, name)
            needed = needed or layer.learns or (stated and bool(own))
            if needed:
                backs.append((name, back))

        def pullback(dx: Any, d_states: States) -> tuple[Any, States]:
            d_hx: States = {}
            for name, back in reversed(backs):
                dx, own = back(dx, within(d_states, name))
                d_hx |= outside(own, name)
            return dx, d_hx

        return x, states, pullback

    def _outputs(
        self, x: Any, lengths: Any, name: str = "", steps: bool = True
    ) -> Iterator[tuple[str, Any, bool]]:
        for own, layer in self.children.items():
            for outcome in layer._outputs(x, lengths, dotted(name, own), steps):
                yield outcome
            x, steps = outcome[1:]

    def _live(self, name: str, given: Given, batch_size: int) -> Live:
        parts: list[tuple[str, Live]] = []
        for own, layer in self.children.items():
            parts.append((own, layer._live(dotted(name, own), given, batch_size)))
            given = layer._join(dotted(name, own), given)[1]
        return Chain(parts)

    @property
    def _takes_indices(self) -> bool:  # type: ignore[override]
        return bool(self.children) and bool(self[0]._takes_indices)

    def _from_list(self, x: Any) -> Any:
        if not isinstance(x, (list, tuple)) or not self.children or self[0].num_parameters:
            return x  # a layer with parameters converts it to its own dtype
        return super()._from_list(x)

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
