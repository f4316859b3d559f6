"""What stands around an LSTM in a real model: torch's names and shapes, NumPy's arithmetic.

A layer is called, ``y = layer(x)``, or run so that one can go back, ``y, pullback = layer.vjp(x)``:
vector-Jacobian products, as JAX names them. `Linear.vjp` says what holds for all of them.
"""

import copy

import numpy as np

from ..arrays import as_float, as_gradient
from ..checks import check_size
from .activations import Softmax
from .chain import Given, check_layouts, is_own, join, who
from .dropout import Dropout
from .last import Last
from .layer import Layer
from .linear import Linear
from .lstm import LSTM
from .lstm_cell import LSTMCell
from .stream import ModelStream, by_name


class Sequential(Layer):
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

    def __init__(self, *layers):
        if len(layers) == 1 and isinstance(layers[0], dict):
            children = layers[0]
        else:
            children = {str(n): layer for n, layer in enumerate(layers)}
        for name, layer in children.items():
            if not isinstance(layer, Layer):
                raise TypeError(f"Sequential: {name!r} is not a layer but {type(layer).__name__}")
            if not isinstance(name, str) or not name or "." in name:
                raise ValueError(
                    "Sequential: a name must be a string without dots, not empty, got "
                    f"{name!r:.100}"
                )
        for name, layer in list(children.items())[:-1]:
            if isinstance(_last(layer), LSTMCell):
                raise TypeError(
                    f"Sequential: {name!r:.100} gives the (h, c) of an LSTMCell, which no layer "
                    "takes; put it last or use an LSTM"
                )
        dtypes = {
            str(inner.dtype)
            for layer in children.values()
            for _, inner in layer.named_layers()
            if inner.num_parameters
        }
        if len(dtypes) > 1:
            raise ValueError(
                f"Sequential: layers have different dtypes: {sorted(dtypes)}; layer.astype, or "
                "load(path, dtype=...), makes them one"
            )
        children, given = join(children, Given([]))
        super().__init__({}, dtypes.pop() if dtypes else "float32", children)
        self._layouts = given.layouts  # pairs that must go on agreeing
        self._leaves = tuple(_leaves(children))

    def __call__(self, input, hx=None, *, lengths=None, return_states=False):
        """Run all layers.

        Parameters
        ----------
        input : what the first layer takes
            A list before a layer without parameters becomes an array of the model's dtype.
        hx : dict of str -> (h_0, c_0), list of those, or one (h_0, c_0), optional
            Initial states by the names of the LSTMs and LSTMCells, dotted as in `state_dict`; in
            their order; or of the only one. Zeros where nothing, or None, is given.
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
        check_layouts(self._layouts)
        x, given, states = self._arrange(input), by_name("hx", hx, self._recurrent()), {}
        for name, layer in self._leaves:
            x, own = _call(layer, x, given.get(name), lengths)
            if own is not None:
                states[name] = own
        return x if hx is None and not return_states else (x, states)

    def vjp(self, input, hx=None, *, lengths=None, return_states=False, input_gradient=True):
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
        check_layouts(self._layouts)
        x, given, states = self._arrange(input), by_name("hx", hx, self._recurrent()), {}
        pullbacks, stated = [], hx is not None or return_states
        needed = input_gradient  # of what this layer takes: also if a layer before it learns
        for name, layer in self._leaves:
            if not (needed or stated or layer.learns) and layer.num_parameters:
                x, _ = _call(layer, x, None, lengths)  # frozen, as all before it: nobody goes back
                continue
            x, own, back = _vjp(layer, x, given.get(name), lengths, needed)
            if own is not None:
                states[name] = own
            needed = needed or layer.learns or (stated and own is not None)
            if needed:
                pullbacks.append((name, back))
        shapes = {n: [state.shape for state in s] for n, s in states.items()}
        y_like = (x.shape, x.dtype) if isinstance(x, np.ndarray) else None
        ends_in_cell = type(x) is tuple  # which a PackedSequence is not

        def pullback(d_output, d_states=None):
            if d_states is not None and not stated:
                raise ValueError(
                    "d_states: Expected none of a run without states; give it hx, or "
                    "return_states=True"
                )
            d_states = self._d_states(d_states, shapes)
            dx, d_hx = d_output, {}
            if dx is None and stated:
                dx = np.zeros(*y_like) if y_like else (None, None) if ends_in_cell else None
            with self._all_or_nothing():
                for name, back in reversed(pullbacks):
                    dx, own = back(dx, d_states.get(name))
                    if own is not None:
                        d_hx[name] = own
            dx = dx if input_gradient else None
            return (dx, d_hx) if stated else dx

        return ((x, states) if stated else x), pullback

    def stream(self, batch_size: int = 1) -> ModelStream:
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
            If an LSTM is bidirectional, or a layer may need more than the step at hand: a Softmax
            over another axis than the features', an LSTMCell, a layer of one's own.
        """
        batch_size = check_size("batch_size", batch_size)
        parts, given = [], Given([])
        for name, layer in self._leaves:
            if isinstance(layer, LSTM) and not is_own(layer):
                try:
                    parts.append((name, layer.stream(batch_size)))
                except ValueError as fault:
                    raise ValueError(f"{name!r}: {fault}") from fault
            elif isinstance(layer, Softmax) and not is_own(layer):
                if layer.dim not in (-1, 1 if given.last else 2):
                    raise ValueError(
                        f"a stream has one step at a time: {who(name, layer)} may sum over several"
                    )
                parts.append((name, Softmax()))
            elif is_own(layer) or isinstance(layer, (LSTMCell, Sequential)):
                raise ValueError(
                    f"a stream has one step at a time: {who(name, layer)} is not known to need no "
                    "more; run it on what a stream of the layers before it gives"
                )
            elif not isinstance(layer, (Dropout, Last)):
                parts.append((name, layer))
            _, given = join({name: layer}, given)
        if not any(isinstance(layer, LSTM) for _, layer in self._leaves):
            raise ValueError("a stream needs a model with an LSTM, this one has none")
        return ModelStream(self, batch_size, parts, given.features)

    def _d_states(self, d_states, shapes):
        """The gradients of final states by name, checked before anything is added anywhere."""
        names = self._recurrent(LSTM)
        d_states = by_name("d_states", d_states, names)
        for name, pair in d_states.items():
            if pair is None:
                continue
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(f"d_states of {name!r} must be a tuple (dh_n, dc_n)")
            d_states[name] = tuple(
                None if d is None else as_gradient(d, shape, self.dtype, "Sequential", "d_states")
                for d, shape in zip(pair, shapes[name], strict=True)
            )
        return d_states

    def _recurrent(self, kind=(LSTM, LSTMCell)):
        """The names of the layers that have states, in their order."""
        return [name for name, layer in self._leaves if isinstance(layer, kind)]

    def _join(self, name, given):
        """A copy, if a Last inside takes something from an LSTM before this Sequential."""
        before = len(given.layouts)
        children, given = join(self.children, given, name + ".")
        if all(children[n] is layer for n, layer in self.children.items()):
            return self, given
        twin = copy.copy(self)
        leaves = tuple(_leaves(children))
        layouts = given.layouts[before:]
        twin.__dict__.update(children=children, _layouts=layouts, _leaves=leaves)
        return twin, given

    def _arrange(self, x):
        if isinstance(x, (list, tuple)) and self.children and not self[0].num_parameters:
            x = as_float(x, self.dtype, owner="Sequential")
        return x

    def __getattr__(self, name):
        children = self.__dict__.get("children", {})
        return children[name] if name in children else super().__getattr__(name)

    def __setattr__(self, name, value):
        replaces = name in self.__dict__.get("children", {})
        if name not in self.__dict__ and (replaces or isinstance(value, Layer)):
            how = "replaced" if replaces else "added"
            raise AttributeError(
                f"Sequential: layer {name!r} cannot be {how}; build a new Sequential"
            )
        if name == "batch_first":
            raise AttributeError(
                "Sequential has no batch_first; the LSTM and Last layers inside it have"
            )
        super().__setattr__(name, value)

    def __getitem__(self, name):
        """A layer by its name, or by its position if an int; a Sequential if a slice."""
        if isinstance(name, str):
            return self.children[name]
        if isinstance(name, slice):
            return Sequential(dict(list(self.children.items())[name]))
        return list(self.children.values())[name]

    def __len__(self):
        return len(self.children)

    def __iter__(self):
        return iter(self.children.values())


def _last(layer):
    """The layer whose result a layer gives: of a Sequential, its last one's."""
    return _last(layer[-1]) if isinstance(layer, Sequential) and len(layer) else layer


def _call(layer, x, hx, lengths):
    """(What a layer passes on in a Sequential, its final states); None of a layer that has none."""
    if isinstance(layer, LSTM):
        return layer(x, hx, lengths=lengths)
    if isinstance(layer, LSTMCell):
        states = layer(x, hx)
        return states, states
    if isinstance(layer, (Last, Sequential)) and lengths is not None:
        return layer(x, lengths=lengths), None
    return layer(x), None


def _vjp(layer, x, hx, lengths, input_gradient):
    """(What a layer passes on in a Sequential, its final states, the pullback from both to both).

    The states of a layer that has none are None. An LSTMCell passes on its states.
    """
    options = {}
    if isinstance(layer, (LSTM, LSTMCell)):
        options["hx"] = hx
    own = LSTM.vjp, LSTMCell.vjp, Linear.vjp, Sequential.vjp
    if type(layer).vjp in own:  # a subclass with a `vjp` of its own may not know the option
        options["input_gradient"] = input_gradient
    if isinstance(layer, (LSTM, Last, Sequential)) and lengths is not None:
        options["lengths"] = lengths
    y, pullback = layer.vjp(x, **options)
    if isinstance(layer, LSTM):
        return *y, pullback
    if isinstance(layer, LSTMCell):
        return y, y, lambda d_states, _: pullback(d_states)
    return y, None, lambda d_output, _: (pullback(d_output), None)


def _leaves(children, prefix=""):
    """Yield (dotted name, layer) of the layers, and of those in Sequentials that run as ours."""
    for name, layer in children.items():
        if isinstance(layer, Sequential) and not is_own(layer):
            yield from ((f"{prefix}{name}.{inner}", leaf) for inner, leaf in layer._leaves)
        else:
            yield prefix + name, layer
