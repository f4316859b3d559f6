"""What stands around an LSTM in a real model: torch's names and shapes, NumPy's arithmetic.

A layer is called, ``y = layer(x)``, or run so that one can go back, ``y, pullback = layer.vjp(x)``:
vector-Jacobian products, as JAX names them. `Linear.vjp` says what holds for all of them.
"""

import copy
import math

import numpy as np

from .arrays import as_array, as_float, as_integers, as_rows
from .chain import Given, check_layouts, is_own, join, who
from .engines import threads
from .lstm import LSTM, Computed, LSTMCell, dropout_mask
from .packing import check_lengths
from .parameters import (
    Layer,
    check_batch_first,
    check_bool,
    check_probability,
    check_size,
    quiet,
    uniform,
)
from .stream import ModelStream, by_name, undecided

# Numbers multiplied in one call of an engine: between two, Python runs the handlers of signals.
_PIECE = 1 << 30


class Linear(Computed):
    """y = x W^T + b, as torch.nn.Linear.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype : {"float32", "float64"}
    engine, num_threads
        As `LSTM`'s. With engine native or numba a row's result does not depend, bit for bit, on the
        other rows.
    seed : int or numpy.random.Generator, optional
        For the initial parameters, U(-1/sqrt(in_features), 1/sqrt(in_features)).

    Attributes
    ----------
    weight : ndarray of shape (out_features, in_features)
    bias : ndarray of shape (out_features,), or None

    Examples
    --------
    >>> linear = fastlstm.Linear(2, 1)
    >>> linear.weight, linear.bias = [[1, 2]], [3]
    >>> linear(np.array([[10, 20]], np.float32))
    array([[53.]], dtype=float32)
    """

    def __init__(
        self,
        in_features,
        out_features,
        bias=True,
        *,
        dtype="float32",
        engine="auto",
        num_threads=None,
        seed=None,
    ):
        self.in_features = check_size("in_features", in_features)
        self.out_features = check_size("out_features", out_features)
        shapes = {"weight": (out_features, in_features)}
        if check_bool("bias", bias):
            shapes["bias"] = (out_features,)
        else:
            self.bias = None
        super().__init__(shapes, dtype, engine)
        self._asked_threads = num_threads  # a copy elsewhere counts its own processors
        self.num_threads = threads(num_threads, self.engine)
        self._most_rows = max(1, _PIECE // (self.in_features * self.out_features))
        self._packed = self._copied = None, None  # version of the parameters; packed, its weight
        self.reset_parameters(seed)

    def __getstate__(self):
        nothing = None, None
        return {**super().__getstate__(), "_packed": nothing, "_copied": nothing}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.num_threads = threads(self._asked_threads, self.engine)

    def _release(self):
        self._copied = None, None

    def reset_parameters(self, seed=None):
        """Draw the parameters anew from U(-1/sqrt(in_features), 1/sqrt(in_features))."""
        rng = np.random.default_rng(seed)
        bound = 1 / math.sqrt(self.in_features)
        self._set({n: uniform(rng, v.shape, bound, self.dtype) for n, v in self._views.items()})

    def __call__(self, input):
        """Map (..., in_features) to (..., out_features); ValueError if they do not fit."""
        return self._run(self._arrange(input))

    def vjp(self, input, *, input_gradient=True):
        """Run, and return how to go backwards.

        Parameters
        ----------
        input : array of shape (..., in_features)
            As in a call. Kept, not copied: do not write into it before the pullback.
        input_gradient : bool
            False: nobody needs `dx`. It is None then, and not computed.

        Returns
        -------
        y : ndarray of shape (..., out_features)
            As a call's.
        pullback : callable
            ``dx = pullback(d_output)``: from the gradient of y, an array of its shape and dtype, to
            that of `input`, and adds those of the parameters to `grads`. May be called again, with
            other gradients; several may be alive. It goes back through the run that it came from,
            whatever has become of the parameters since.

        Raises
        ------
        ValueError, TypeError
            As a call. The pullback, if `d_output` does not fit; nothing has been added then.

        Notes
        -----
        Cost: 2 in_features out_features floating-point operations for every row, and backwards
        twice that, in one product over all rows for each of dx and the weight's gradient. Kept are
        the input and, for all runs of one version of the parameters, one copy of the weight.

        Examples
        --------
        >>> linear = fastlstm.Linear(2, 1)
        >>> linear.weight = [[1, 2]]
        >>> y, pullback = linear.vjp(np.array([[10, 20]], np.float32))
        >>> pullback(np.ones_like(y))
        array([[1., 2.]], dtype=float32)
        >>> linear.grads["weight"]
        array([[10., 20.]], dtype=float32)
        """
        x = self._arrange(input)
        y, weight = self._run(x), self._copy_of_weight()
        shape = y.shape

        @quiet
        def pullback(d_output):
            dy = as_rows(_as_gradient(d_output, shape, self.dtype, "Linear"))
            dx = (dy @ weight).reshape(x.shape) if input_gradient else None
            grads = self._learnt_grads()
            with self._all_or_nothing():
                if "weight" in grads:
                    grads["weight"] += dy.T @ as_rows(x)
                if "bias" in grads:
                    grads["bias"] += dy.sum(axis=0)
            return dx

        return y, pullback

    def _arrange(self, input):
        x = as_float(input, self.dtype, owner="Linear")
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"Linear: Expected input of shape (..., {self.in_features}), got {x.shape}"
            )
        return x

    def _run(self, x):
        rows = as_rows(x)
        y = np.empty((len(rows), self.out_features), self.dtype)
        version, weights = self._packed
        if version != self._version:
            version, get = self._version, self._views.get
            weights = self._engine.pack_linear(get("weight"), get("bias"))
            self._packed = version, weights
        for start in range(0, len(rows), self._most_rows):
            piece = slice(start, start + self._most_rows)
            self._engine.run_linear(weights, rows[piece], y[piece], self.num_threads)
        return y.reshape(*x.shape[:-1], self.out_features)

    def _join(self, name, given):
        given.check(self.in_features, who(name, self))
        features, giver = self.out_features, who(name, self)
        return self, given._replace(features=features, giver=giver, directions=False)

    def _copy_of_weight(self):
        """The weight as it is now, for pullbacks that come after it has changed."""
        version, weight = self._copied
        if version != self._version:
            version, weight = self._version, self._views["weight"].copy()
            self._copied = version, weight
        return weight

    def _arguments(self):
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class Embedding(Layer):
    """A row of `weight` for every index, as torch.nn.Embedding.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
    padding_idx : int, optional
        This row begins as zeros; negative counts from the end.
    dtype : {"float32", "float64"}
    seed : int or numpy.random.Generator, optional
        For the initial weights, N(0, 1).

    Attributes
    ----------
    weight : ndarray of shape (num_embeddings, embedding_dim)

    Examples
    --------
    >>> embedding = fastlstm.Embedding(3, 2, padding_idx=0)
    >>> embedding([[0, 0]])
    array([[[0., 0.],
            [0., 0.]]], dtype=float32)
    """

    _kept = True  # its gradient comes last, in one addition, and is large: no copy of it is needed

    def __init__(
        self, num_embeddings, embedding_dim, padding_idx=None, *, dtype="float32", seed=None
    ):
        self.num_embeddings = check_size("num_embeddings", num_embeddings)
        self.embedding_dim = check_size("embedding_dim", embedding_dim)
        if padding_idx is not None:
            check_size("padding_idx", padding_idx, least=None)
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(
                    f"Padding_idx must be within num_embeddings, got {padding_idx} for "
                    f"{num_embeddings} embeddings"
                )
            padding_idx = int(padding_idx) % num_embeddings
        self.padding_idx = padding_idx
        super().__init__({"weight": (num_embeddings, embedding_dim)}, dtype)
        self.reset_parameters(seed)

    def reset_parameters(self, seed=None):
        """Draw the weights anew from N(0, 1); the padding row is zeros."""
        weight = np.random.default_rng(seed).standard_normal(
            self._views["weight"].shape, self.dtype
        )
        if self.padding_idx is not None:
            weight[self.padding_idx] = 0
        self._set({"weight": weight})

    def __call__(self, input):
        """Map indices (...) to (..., embedding_dim); ValueError if one is out of range."""
        return self._views["weight"][self._arrange(input)]

    def vjp(self, input):
        """Run, and return how to go backwards; see `Linear.vjp`.

        Parameters
        ----------
        input : array of int of shape (...)

        Returns
        -------
        y : ndarray of shape (..., embedding_dim)
        pullback : callable
            ``None = pullback(d_output)``, for indices have no gradient. Touches only the rows of
            ``grads["weight"]`` that were read: each gets the sum of its gradients, that of
            `padding_idx` none, as torch's.
        """
        index = self._arrange(input)
        y = self._views["weight"][index]
        shape, index = y.shape, index.ravel()

        @quiet
        def pullback(d_output):
            dy = as_rows(_as_gradient(d_output, shape, self.dtype, "Embedding"))
            self._add(index, dy)

        return y, pullback

    def _join(self, name, given):
        if given.features is not None:
            raise ValueError(
                f"Sequential: {who(name, self)} takes indices, {given.giver} gives features"
            )
        return self, Given(given.layouts, self.embedding_dim, who(name, self))

    def _add(self, index, dy):
        """Add rows dy (N, embedding_dim) to those of the gradient that `index` (N,) names."""
        gradient = self._learnt_grads().get("weight")
        if gradient is None:
            return
        order = np.argsort(index, kind="stable")
        if self.padding_idx is not None:
            order = order[index[order] != self.padding_idx]
        if not order.size:
            return
        index = index[order]
        new = np.concatenate([[True], index[1:] != index[:-1]])
        first = np.flatnonzero(new)  # of each group of equal indices
        gradient[index[first]] += np.add.reduceat(dy[order], first, axis=0)

    def _arrange(self, input):
        index = as_integers(input, "input of Embedding")
        if index.size and not (0 <= index.min() and index.max() < self.num_embeddings):
            raise ValueError(
                f"index out of range: Embedding has rows 0..{self.num_embeddings - 1}, got indices "
                f"from {index.min()} to {index.max()}"
            )
        return index

    def _arguments(self):
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class Dropout(Layer):
    """In training mode zeroes values with probability p and scales the others by 1 / (1 - p).

    Parameters
    ----------
    p : float in [0, 1]
    seed : int or numpy.random.Generator, optional

    Examples
    --------
    >>> fastlstm.Dropout(0.5).eval()(np.ones(3))
    array([1., 1., 1.])
    """

    def __init__(self, p=0.5, *, seed=None):
        super().__init__({})
        self.p = check_probability(p)
        self._rng = np.random.default_rng(seed)

    @quiet
    def __call__(self, input):
        """Return an array of the input's shape; the input itself in evaluation."""
        return self._run(input)[0]

    @quiet
    def vjp(self, input):
        """Run, and return how to go backwards, with the same mask; see `Linear.vjp`.

        Parameters
        ----------
        input : array of any shape

        Returns
        -------
        y : ndarray
            Of the input's shape; the input itself in evaluation.
        pullback : callable
            ``dx = pullback(d_output)``; in evaluation it returns `d_output` itself.
        """
        y, mask = self._run(input)
        shape, dtype = y.shape, y.dtype

        @quiet
        def pullback(d_output):
            dy = _as_gradient(d_output, shape, dtype, "Dropout")
            return dy if mask is None else dy * mask

        return y, pullback

    def _join(self, name, given):
        return self, given

    def _run(self, input):
        """(output, mask); without dropout there is none."""
        x = _as_any_float(input, "Dropout")
        if not (self.training and self.p):
            return x, None
        mask = dropout_mask(x, self.p, self._rng)
        return x * mask, mask

    def _arguments(self):
        return f"p={self.p}"


class _Activation(Layer):
    """What has no parameters and can tell from its output alone how to go `_back` from dy to dx.

    A value's bits depend neither on the others' nor on where it lies: NumPy takes another exp for
    values that lie backwards, so all work side by side.
    """

    def __init__(self):
        super().__init__({})

    def vjp(self, input):
        """Run, and return how to go backwards; see `Linear.vjp`.

        Parameters
        ----------
        input : array of any shape

        Returns
        -------
        y : ndarray
            Of the input's shape. Refuses writing, for the pullback reads it.
        pullback : callable
            ``dx = pullback(d_output)``.
        """
        y = np.asarray(self(input))
        y.flags.writeable = False

        @quiet
        def pullback(d_output):
            return self._back(y, _as_gradient(d_output, y.shape, y.dtype, type(self).__name__))

        return y, pullback

    def _join(self, name, given):
        return self, given


class ReLU(_Activation):
    """max(x, 0), element by element.

    Examples
    --------
    >>> fastlstm.ReLU()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    @quiet
    def __call__(self, input):
        """Return an array of the input's shape."""
        return np.maximum(_as_any_float(input, "ReLU"), 0)

    def _back(self, y, dy):
        return np.where(y <= 0, y.dtype.type(0), dy)


class Tanh(_Activation):
    """tanh(x), element by element.

    Examples
    --------
    >>> fastlstm.Tanh()(np.array([0.0]))
    array([0.])
    """

    @quiet
    def __call__(self, input):
        """Return an array of the input's shape."""
        return np.tanh(np.asarray(_as_any_float(input, "Tanh"), order="C"))

    def _back(self, y, dy):
        return dy * (1 - y * y)


class Sigmoid(_Activation):
    """1 / (1 + exp(-x)), element by element.

    Examples
    --------
    >>> fastlstm.Sigmoid()(np.array([0.0]))
    array([0.5])
    """

    @quiet
    def __call__(self, input):
        """Return an array of the input's shape."""
        x = _as_any_float(input, "Sigmoid")
        y = np.negative(x, out=np.empty(x.shape, x.dtype))
        np.exp(y, out=y)  # where it is infinite, 1 / y is 0, as it should be
        y += 1
        return np.divide(1, y, out=y)

    def _back(self, y, dy):
        return dy * (y * (1 - y))


class Softmax(_Activation):
    """exp(x) / sum(exp(x)) along one axis.

    Parameters
    ----------
    dim : int

    Examples
    --------
    >>> fastlstm.Softmax()(np.zeros((1, 4)))
    array([[0.25, 0.25, 0.25, 0.25]])
    """

    def __init__(self, dim=-1):
        super().__init__()
        self.dim = check_size("dim", dim, least=None)

    @quiet
    def __call__(self, input):
        """Return an array of the input's shape; ValueError if it has no such axis."""
        x = _as_any_float(input, "Softmax")
        if not -x.ndim <= self.dim < x.ndim:
            raise ValueError(f"Softmax: Expected input with an axis {self.dim}, got {x.ndim}D")
        x = np.moveaxis(x, self.dim, -1)
        y = np.subtract(x, x.max(axis=-1, keepdims=True, initial=-np.inf), order="C")
        np.exp(y, out=y)
        y /= y.sum(axis=-1, keepdims=True)  # side by side, or the order of the sum would be another
        return np.moveaxis(y, -1, self.dim)

    def _back(self, y, dy):
        return y * (dy - (dy * y).sum(axis=self.dim, keepdims=True))

    def _arguments(self):
        return f"dim={self.dim}"


class Last(Layer):
    """From an LSTM's whole output, what a classifier wants: where each sequence's reading ended.

    That is the forward direction at each sequence's own last step and, if `bidirectional`, the
    backward direction at step 0, where it has read everything: h_n of the last layer. For a
    sequence of length 0 it is zeros.

    Parameters
    ----------
    batch_first : bool, optional
        The input is (B, T, F) instead of (T, B, F); an unbatched one is (T, F).
    bidirectional : bool, optional
        The features are [forward, backward], half and half.

    Notes
    -----
    In a Sequential both are those of the LSTM before it: leave them out there. Elsewhere they are
    False unless given. (The layer that the Sequential has is a copy that knows its LSTM.)

    Examples
    --------
    >>> fastlstm.Last()(np.array([[[1.0]], [[2.0]]]), lengths=[1])
    array([[1.]])
    >>> model = fastlstm.Sequential(fastlstm.LSTM(3, 4, batch_first=True), fastlstm.Last())
    >>> model[1]
    Last(batch_first=True, bidirectional=False)
    """

    def __init__(self, batch_first=None, bidirectional=None):
        super().__init__({})
        self._lstm = None  # the one before it in a Sequential
        self._batch_first = check_batch_first(batch_first)
        self._bidirectional = (
            None if bidirectional is None else check_bool("bidirectional", bidirectional)
        )

    @property
    def batch_first(self):
        """Whether the input is (B, T, F); None if it is undecided for the LSTM before it."""
        if self._batch_first is not None or self._lstm is None:
            return bool(self._batch_first)
        return self._lstm.batch_first

    @batch_first.setter
    def batch_first(self, value):
        self._batch_first = value

    @property
    def bidirectional(self):
        """Whether the features are [forward, backward]."""
        if self._bidirectional is not None or self._lstm is None:
            return bool(self._bidirectional)
        return self._lstm.bidirectional

    def _join(self, name, given):
        given.check_steps(who(name, self))
        if given.lstm is None:
            return self, given._replace(last=who(name, self))
        if given.stranger:
            if None in (self._batch_first, self._bidirectional):
                raise ValueError(
                    f"Sequential: {name!r} (Last) cannot take batch_first and bidirectional from "
                    f"{who(*given.lstm)}, for what {given.stranger} makes of its output is not "
                    "known: give both"
                )
            return self, given._replace(last=who(name, self))
        last, lstm = copy.copy(self), given.lstm[1]
        if lstm.bidirectional and not given.directions:
            if self._bidirectional is not False:
                raise ValueError(
                    f"Sequential: {name!r} (Last) takes both directions of {who(*given.lstm)} "
                    f"apart, which {given.giver} has mixed: put it before that, or say "
                    "Last(bidirectional=False) for the last step of each sequence"
                )
        elif self._bidirectional not in (None, lstm.bidirectional):
            torchs = ", or put it behind the Linear, for what torch's output[-1] gives there"
            raise ValueError(
                f"Sequential: {who(name, self)} does not agree with {who(*given.lstm)}: leave out "
                "bidirectional, to take it from there" + (torchs if lstm.bidirectional else "")
            )
        last._lstm = lstm
        given.check_layout(name, last)
        return last, given._replace(last=who(name, last))

    def __call__(self, input, *, lengths=None):
        """Map (T, B, F), (B, T, F) or (T, F), and B lengths, to (B, F) or (F,)."""
        x, places = self._arrange(input, lengths)
        return self._run(x, places)

    def vjp(self, input, *, lengths=None):
        """Run, and return how to go backwards; see `Linear.vjp`.

        Parameters
        ----------
        input, lengths
            As in a call.

        Returns
        -------
        y : ndarray of shape (B, F) or (F,)
        pullback : callable
            ``dx = pullback(d_output)``, zeros but for what was read.
        """
        x, places = self._arrange(input, lengths)
        y = self._run(x, places)
        shapes, dtype = (x.shape, y.shape), x.dtype

        def pullback(d_output):
            dy = _as_gradient(d_output, shapes[1], dtype, "Last")
            dx = np.zeros(shapes[0], dtype)
            for step, sequences, features in places:
                ends = np.atleast_2d(dy)[sequences, features]
                self._by_steps(dx)[step, sequences, features] = ends
            return dx

        return y, pullback

    def _arrange(self, input, lengths):
        """The input, and the places to read in its view `_by_steps`: steps, sequences, features."""
        x = _as_any_float(input, "Last")
        if x.ndim not in (2, 3):
            raise ValueError(f"Last: Expected input to be 2D or 3D, got {x.ndim}D instead")
        if x.ndim == 3 and self.batch_first is None:
            raise undecided("Last", x.shape)
        features = x.shape[-1]
        if self.bidirectional and features % 2:
            raise ValueError(f"Last: Expected an even number of features, got {features}")
        steps, sequences, _ = self._by_steps(x).shape
        who, start, end = slice(None), 0, -1
        if lengths is not None:
            if x.ndim == 2:
                raise ValueError("lengths needs batched 3-D input, got unbatched 2-D input")
            lengths = check_lengths(lengths, sequences, steps, least=0)
            who = np.flatnonzero(lengths)
            start, end = np.zeros_like(who), lengths[who] - 1
        elif not steps:
            raise ValueError("Expected sequence length to be larger than 0 in Last")
        if not self.bidirectional:
            return x, [(end, who, slice(None))]
        half = features // 2
        return x, [(end, who, slice(half)), (start, who, slice(half, None))]

    def _run(self, x, places):
        by_steps = self._by_steps(x)
        y = np.zeros(by_steps.shape[1:], x.dtype)
        for step, sequences, features in places:
            y[sequences, features] = by_steps[step, sequences, features]
        return y if x.ndim == 3 else y[0]

    def _by_steps(self, x):
        """x as (T, B, F)."""
        if x.ndim == 2:
            return x[:, None]
        return x.swapaxes(0, 1) if self.batch_first else x

    def _arguments(self):
        layout = "undecided" if self.batch_first is None else self.batch_first
        return f"batch_first={layout}, bidirectional={self.bidirectional}"


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
                None if d is None else _as_gradient(d, shape, self.dtype, "Sequential", "d_states")
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


def _as_gradient(value, shape, dtype, owner, what="d_output"):
    """The gradient of an output, an array of its shape and dtype; ValueError if it is not."""
    dy = as_array(value, what)
    try:
        dy = as_float(value, dtype)
    except ValueError:
        raise ValueError(
            f"{owner}: Expected {what} of the output's dtype {dtype}, got {dy.dtype}"
        ) from None
    if dy.shape != shape:
        raise ValueError(f"{owner}: Expected {what} of the output's shape {shape}, got {dy.shape}")
    return dy


def _as_any_float(value, owner):
    """An array of float32 or float64, whichever it has: what layers without parameters take."""
    array = as_array(value, "input")
    wanted = np.float32 if array.dtype.itemsize <= 4 else np.float64
    try:
        return as_float(value, np.dtype(wanted))
    except ValueError:
        raise ValueError(
            f"{owner}: Expected input of float32 or float64, got {array.dtype}"
        ) from None
