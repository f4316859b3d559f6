"""ONNX's operator LSTM, by `fastlstm.LSTM`; and onnxruntime's DynamicQuantizeLSTM.

The values are those of onnxruntime. Where that does not run an operator (layout 1, float64), they
are what ONNX says. Legend, as in `fastlstm.engines`: T steps, B sequences, I features, H units, and
D directions, 1 or 2::

    X  (T, B, I)     W  (D, 4H, I)   R  (D, 4H, H)   B  (D, 8H)    gates i, o, f, g
    Y  (T, D, B, H)  P  (D, 3H)      gates i, o, f   sequence_lens (B,)
    initial_h, initial_c, Y_h, Y_c   (D, B, H)

With layout 1, X is (B, T, I), Y (B, T, D, H), and the states are (B, D, H). Sources:
https://onnx.ai/onnx/operators/onnx__LSTM.html, and for the order in which activations take their
parameters, and for defaults of these, onnxruntime's rnn_helpers.cc.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..arrays import quiet
from ..checks import check_number, check_size, listed, short
from ..layers import LSTM
from .plan import Node, Operator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..arrays import Array
    from ..engines import EngineChoice
    from .limits import Limits
    from .plan import Value

_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
_ATTRIBUTES = {
    "activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size",
    "input_forget", "layout", "output_sequence",
}  # fmt: skip

# This clip bounds nothing: it is what onnxruntime has where the file has none.
_LARGEST = float(np.finfo(np.float32).max)

# The functions by their names in small letters, which are all that onnxruntime looks at, with the
# parameters that it gives them if the file does not.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "sigmoid": ("sigmoid",),
    "tanh": ("tanh",),
    "relu": ("relu",),
    "softsign": ("softsign",),
    "softplus": ("softplus",),
    "elu": ("elu", 1.0),
    "leakyrelu": ("leaky_relu", 0.01),
    "thresholdedrelu": ("thresholded_relu", 0.0),
    "hardsigmoid": ("hard_sigmoid", 0.2, 0.5),
    "scaledtanh": ("scaled_tanh", 0.0, 0.0),
    "affine": ("affine", 0.0, 0.0),
}


class _Form(NamedTuple):
    """What the attributes of an operator say.

    ``options`` are arguments of `LSTM`; ``functions`` are three of these for each direction.
    """

    directions: int
    hidden_size: int | None
    batch_first: bool
    options: dict[str, Any]
    functions: list[dict[str, Any]]


def lstm(operator: Operator) -> Node:
    """Make the node of an LSTM."""
    return _node(operator, _form(operator), (1, 2, 3, 7))


def dynamic_quantize_lstm(operator: Operator) -> Node:
    """Make the node of an LSTM whose weights are integers: they become float32.

    onnxruntime rounds the inputs of the products to 8 bits too, we do not.
    """
    form = _form(operator)
    node = _node(operator, form, (1, 2, 3, 7, 8, 9, 10, 11))
    return node._replace(note="its quantised weights run as float32")


def _node(operator: Operator, form: _Form, places: tuple[int, ...]) -> Node:
    """Return the node of an operator whose weights are the inputs at these places."""
    name, draft = operator.name or operator.type, operator.draft
    names = [operator.inputs[n] if operator.has(n) else "" for n in (0, 5, 6, 4)]
    weights = [operator.constant(n) for n in places]
    compute: Any
    if all(w is not None or not operator.has(n) for w, n in zip(weights, places, strict=True)):

        def made() -> list[LSTM]:
            layers = _layers(form, draft.engine, *weights)
            ends = ("",) if len(layers) == 1 else ("_forward", "_reverse")
            for layer, end in zip(layers, ends, strict=True):
                draft.layer(name + end, layer)
            return layers

        layers = draft.once((operator.type, repr(form)), weights, made)
        compute = _Run(form, layers, operator.outputs, draft.limits)
    else:
        compute = _RunWithWeights(form, draft.engine, operator.outputs, draft.limits)
        names += [operator.inputs[n] if operator.has(n) else "" for n in places]
    return Node(operator.name, operator.type, compute, tuple(names), operator.outputs, "fastlstm")


def _form(operator: Operator) -> _Form:
    """Return what the attributes say; raise if they are not those of an LSTM."""
    given = operator.attributes
    if unknown := sorted(given.keys() - _ATTRIBUTES):
        raise ValueError(f"it has no attribute {short(unknown[0])}")
    way, directions = direction(given)
    layout = given.get("layout", 0)
    if layout not in (0, 1):
        raise ValueError(f"layout must be 0 or 1, got {short(layout)}")
    hidden_size, clip = given.get("hidden_size"), given.get("clip")
    forget = given.get("input_forget", 0)
    if hidden_size is not None:
        hidden_size = check_size("hidden_size", hidden_size)
    if clip in (math.inf, _LARGEST):
        clip = None
    if clip is not None:
        clip = _as_written(check_number("clip", clip, above=0))
    options = {
        "reverse": way == "reverse",
        "coupled": "f=1-i" if check_size("input_forget", forget, least=None) else None,
        "gate_clip": clip,
    }
    found = functions(given, ("Sigmoid", "Tanh", "Tanh") * directions)
    names = "gate_activation", "cell_activation", "output_activation"
    arguments = [
        dict(zip(names, found[k : k + 3], strict=True)) for k in range(0, 3 * directions, 3)
    ]
    return _Form(directions, hidden_size, layout == 1, options, arguments)


def direction(given: Mapping[str, Any]) -> tuple[str, int]:
    """Return the attribute that says the direction, and the number of directions."""
    way = given.get("direction", "forward")
    if not isinstance(way, str) or way not in _DIRECTIONS:
        raise ValueError(f"direction must be one of {listed(_DIRECTIONS)}, got {short(way)}")
    return way, _DIRECTIONS[way]


def functions(given: Mapping[str, Any], usual: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the activations, of each the name and parameters; `usual` are those if none are given.

    Those that have parameters take them in turn from the two lists, and the defaults where a list
    has come to its end.
    """
    names = given.get("activations") or usual
    if not isinstance(names, (list, tuple)) or len(names) != len(usual):
        raise ValueError(f"activations must be {len(usual)} names, got {short(names)}")
    parameters = []
    for name in ("activation_alpha", "activation_beta"):
        numbers = given.get(name, ())
        if not isinstance(numbers, (list, tuple)):
            raise ValueError(f"{name} must be a list of numbers, got {short(numbers)}")
        parameters.append(iter([_as_written(check_number(name, number)) for number in numbers]))
    found = []
    for name in names:
        if not isinstance(name, str) or name.lower() not in _FUNCTIONS:
            raise ValueError(f"activations must be of {listed(_FUNCTIONS)}, got {short(name)}")
        kind, *defaults = _FUNCTIONS[name.lower()]
        own = zip(parameters, defaults, strict=False)
        found.append((kind, *(next(numbers, default) for numbers, default in own)))
    return found


def _as_written(number: float) -> float:
    """Return the shortest number that a file stores as this one.

    0.2 is stored as a float32, which is 0.20000000298023224.
    """
    return float(str(np.float32(number)))


def _layers(
    form: _Form,
    engine: EngineChoice,
    w: Array,
    r: Array,
    b: Array | None = None,
    p: Array | None = None,
    *scales: Array | None,
) -> list[LSTM]:
    """Return the LSTM that computes with these weights; two, if their activations differ.

    `scales` are scale and zero point of W, and those of R, if these are quantised.
    """
    if scales:
        w = _dequantised("W", w, *scales[:2])
        r = _dequantised("R", r, *scales[2:])
    h = (form.hidden_size or r.shape[-1]) if r.ndim else 0
    d, i = form.directions, w.shape[-1] if w.ndim else 0
    for name, array, shape, said in (
        ("R", r, (d, 4 * h, h), "(D, 4H, H)"),
        ("W", w, (d, 4 * h, i), "(D, 4H, I)"),
        ("B", b, (d, 8 * h), "(D, 8H)"),
        ("P", p, (d, 3 * h), "(D, 3H)"),
    ):
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} must have shape {said}, here {shape}, got {array.shape}")

    def layer(part: slice, functions: dict[str, Any], **options: Any) -> LSTM:
        return LSTM.from_arrays(
            w[part],
            r[part],
            None if b is None else b[part],
            peephole=None if p is None else p[part],
            layout="onnx",
            batch_first=form.batch_first,
            engine=engine,
            **{**form.options, **functions, **options},
        )

    if d == 1 or form.functions[0] == form.functions[1]:
        return [layer(slice(d), form.functions[0])]
    forward, reverse = form.functions
    return [layer(slice(0, 1), forward), layer(slice(1, 2), reverse, reverse=True)]


def _dequantised(name: str, q: Array, scale: Any, zero_point: Any) -> Array:
    """Return quantised weights (D, I, 4H) as floats (D, 4H, I).

    Scales and zero points are those of each direction, (D,), or of its rows too, (D, 4H).
    """
    if q.dtype not in (np.int8, np.uint8):
        raise ValueError(f"{name} must hold int8 or uint8, got {q.dtype}")
    if scale is None:
        raise ValueError(f"{name} has no scale")
    zero_point = np.zeros_like(scale, q.dtype) if zero_point is None else zero_point
    if q.ndim != 3:
        raise ValueError(f"{name} must have shape (D, I, 4H), got {q.shape}")
    d, _, rows = q.shape
    for kind, array in ("scale", scale), ("zero_point", zero_point):
        if array.shape not in ((d,), (d, rows)):
            raise ValueError(
                f"{name}_{kind} must have shape ({d},) or ({d}, {rows}), got {array.shape}"
            )
    scale, zero_point = (a.reshape(d, -1, 1).astype("f4") for a in (scale, zero_point))
    floats: Array = (q.transpose(0, 2, 1).astype("f4") - zero_point) * scale
    return floats


class _Run:
    """Computes Y, Y_h and Y_c of X, the initial states and the lengths.

    There are two layers if each runs in a direction of its own.
    """

    def __init__(
        self, form: _Form, layers: list[LSTM], outputs: Sequence[str], limits: Limits
    ) -> None:
        self.layers, self.limits = layers, limits
        self.directions, self.batch_first = form.directions, form.batch_first
        self.wanted = tuple(map(bool, outputs))
        self.units = layers[0].hidden_size
        self.is_one = len(layers) == 1
        self.is_plain = form.directions == 1 and not form.batch_first and len(outputs) == 3
        self.most = 8 * form.directions * self.units  # bytes of Y for each value of X, at most

    def __call__(self, x: Array, h: Value = None, c: Value = None, lengths: Value = None) -> Any:
        shape = x.shape
        if len(shape) != 3:
            raise ValueError(f"X must have 3 axes, got {len(shape)}")
        if not 0 < x.size * self.most <= self.limits.most:
            self.limits.allow(
                (*shape[:2], self.directions * self.units), self.layers[0].dtype.itemsize
            )
            if not x.size:
                return self._nothing(x)
        if lengths is not None:
            lengths = self._lengths(shape, lengths)
        hx = None
        if h is not None or c is not None:
            hx = h, c
            if h is None or c is None or self.batch_first:
                hx = self._states(shape, h, c)
        if self.is_one:
            y, (h, c) = self.layers[0](x, hx, lengths=lengths)
        else:
            y, h, c = _both(self.layers, x, hx, lengths)
        if lengths is not None and not lengths.all():
            h[:, lengths == 0] = c[:, lengths == 0] = 0  # and not what it began with
        if self.is_plain and y.dtype is x.dtype:
            return y[:, None], h, c
        return self._results(y, h, c, x.dtype)

    def _lengths(self, shape: tuple[int, ...], lengths: Value) -> Value:
        """Return the lengths, or None if no sequence ends before the last step."""
        steps, rows = shape[1::-1] if self.batch_first else shape[:2]
        if lengths.shape != (rows,):
            raise ValueError(f"sequence_lens must have shape {(rows,)}, got {lengths.shape}")
        return None if (lengths == steps).all() else lengths

    def _states(self, shape: tuple[int, ...], h: Value, c: Value) -> tuple[Array, Array]:
        """Return initial states (D, B, H); zeros in place of one that is not given."""
        expected = self.directions, shape[not self.batch_first], self.units
        if self.batch_first:
            expected = expected[1], expected[0], expected[2]
        dtype, states = self.layers[0].dtype, []
        for name, state in ("initial_h", h), ("initial_c", c):
            if state is None:
                state = np.zeros(expected, dtype)
            if state.shape != expected:
                raise ValueError(f"{name} must have shape {expected}, got {state.shape}")
            states.append(state.swapaxes(0, 1) if self.batch_first else state)
        return states[0], states[1]

    def _results(self, y: Array, h: Array, c: Array, dtype: Any) -> Any:
        """Return the outputs as the operator has them, of y (T, B, DH), h and c (D, B, H).

        With layout 1, y is (B, T, DH). Y is a view of it.
        """
        y = y.reshape(*y.shape[:2], self.directions, self.units)
        if self.batch_first:
            h, c = h.swapaxes(0, 1), c.swapaxes(0, 1)
        else:
            y = y.transpose(0, 2, 1, 3)
        results = y, h, c
        if y.dtype != dtype:
            results = _narrowed(results, self.wanted, dtype)
        return results[: len(self.wanted)] if len(self.wanted) > 1 else results[0]

    def _nothing(self, x: Array) -> Any:
        """Return the outputs where there are no steps or no sequences: zeros, as onnxruntime's."""
        layer, rows = self.layers[0], x.shape[not self.batch_first]
        if x.shape[2] != layer.input_size:
            raise ValueError(f"X must have {layer.input_size} features, got {x.shape[2]}")
        wide = self.directions * self.units
        self.limits.allow((rows, wide), layer.dtype.itemsize)
        y = np.zeros((*x.shape[:2], wide), layer.dtype)
        h = np.zeros((self.directions, rows, self.units), layer.dtype)
        return self._results(y, h, h, x.dtype)


class _RunWithWeights:
    """Does what `_Run` does where the weights are not known before."""

    def __init__(
        self, form: _Form, engine: EngineChoice, outputs: Sequence[str], limits: Limits
    ) -> None:
        self.form, self.engine = form, engine
        self.outputs, self.limits = tuple(outputs), limits

    def __call__(self, x: Array, h: Value, c: Value, lengths: Value, *weights: Value) -> Any:
        layers = _layers(self.form, self.engine, *weights)
        return _Run(self.form, layers, self.outputs, self.limits)(x, h, c, lengths)


def _both(layers: list[LSTM], x: Array, hx: Any, lengths: Value) -> tuple[Array, ...]:
    """Return y, h and c of two layers, which run in a direction each."""
    parts = []
    for k, layer in enumerate(layers):
        own = None if hx is None else (hx[0][k : k + 1], hx[1][k : k + 1])
        y, (h, c) = layer(x, own, lengths=lengths)
        parts.append((y, h, c))
    ys, hs, cs = zip(*parts, strict=True)
    return np.concatenate(ys, axis=2), np.concatenate(hs), np.concatenate(cs)


@quiet
def _narrowed(results: Any, wanted: tuple[bool, ...], dtype: Any) -> Any:
    """Return those outputs that are wanted in a half type, that of X."""
    pairs = zip(results, wanted, strict=False)
    return tuple(value.astype(dtype) if is_wanted else None for value, is_wanted in pairs)
