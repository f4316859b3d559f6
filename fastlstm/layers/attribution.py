"""Attribution: how much each step and feature of an input contributed to an output."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..arrays import as_array, as_float, quiet
from ..checks import check_size
from ..sequences.packing import PackedSequence
from .embedding import Embedding
from .layer import Layer
from .sequential import Sequential
from .tracing import Layout, as_given, described, is_pack, quiet_copy, without_states

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import ArrayLike

    from ..arrays import Floats

    Method: TypeAlias = Literal["integrated_gradients", "gradient_times_input", "gradient"]

METHODS = "integrated_gradients", "gradient_times_input", "gradient"


class Attribution:
    """How much each value of an input contributed to an output of a model.

    Attributes
    ----------
    values : ndarray of the input's shape; or PackedSequence
        The contribution of each value. Of a model that begins with an Embedding, these are the
        contributions of the values of the embedded input, with its features as the last axis.
    steps : as `values`, without the axis of features
        The contribution of each step, which is the sum over its features.
    output : float
        The number that is explained.
    baseline_output : float
        What that number is for the baseline; nan with "gradient", which compares with nothing.
    method : str
    input
        What the model was given.

    Examples
    --------
    >>> lstm = fastlstm.LSTM(3, 4, seed=0)
    >>> x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    >>> attribution = fastlstm.visualize.attribution(lstm, x, output=(-1, 2))
    >>> attribution
    Attribution('integrated_gradients' of (5, 3) float32, output 0.3698)
    >>> moved = attribution.output - attribution.baseline_output
    >>> np.allclose(attribution.steps.sum(), moved, atol=1e-5)
    True
    """

    def __init__(
        self,
        method: str,
        values: Any,
        input: Any,
        output: float,
        baseline_output: float,
        layout: Layout,
    ) -> None:
        self.method, self.values, self.input = method, values, input
        self.output, self.baseline_output, self._layout = output, baseline_output, layout

    @property
    def steps(self) -> Any:
        """The contribution of each step."""
        values = self.values
        return _packed(values.data.sum(-1), values) if is_pack(values) else values.sum(axis=-1)

    def sequence(self, number: int = 0) -> Attribution:
        """Return the attribution of one sequence, without the axis of the batch and padding.

        Parameters
        ----------
        number : int
            Which sequence of the batch; 0 of input without a batch.

        Returns
        -------
        Attribution
            With `values` of shape (T, features). The two outputs are those of the whole batch.

        Raises
        ------
        IndexError
            If there is no such sequence.
        """
        values, input = (self._layout.one(value, number) for value in (self.values, self.input))
        outputs = self.output, self.baseline_output
        return Attribution(self.method, values, input, *outputs, Layout(False, False))

    def __repr__(self) -> str:
        what = described(self.values)
        return f"Attribution({self.method!r} of {what}, output {self.output:.4g})"


def attribution(
    model: Layer,
    input: Any,
    hx: Any = None,
    *,
    output: Any = ...,
    method: Method = "integrated_gradients",
    baseline: ArrayLike | None = None,
    points: int = 32,
    lengths: ArrayLike | None = None,
    **options: Any,
) -> Attribution:
    """Tell how much each step and feature of an input contributed to an output.

    Parameters
    ----------
    model : Layer
        Any model that has a `vjp`: all but a GraphModel.
    input : array of floats, or PackedSequence; of a model that begins with an Embedding, indices
    hx : optional
        Initial states, as the model takes them.
    output : index
        Which number of the model's output is to be explained, as NumPy's indexing takes it:
        ``(-1, 0)`` is ``y[-1, 0]``. If the index selects more than one, their sum is explained; so
        ``(slice(None), 2)`` explains output 2 of each sequence of a batch at once. All by default.
        The output of an LSTMCell is h.
    method : {"integrated_gradients", "gradient_times_input", "gradient"}
        - "integrated_gradients": the gradient, averaged on the straight way from the baseline to
          the input, times their difference (Sundararajan, Taly & Yan 2017). The contributions of
          all values add up to what separates the two outputs.
        - "gradient_times_input": the gradient at the input times the difference. This is the same
          for a linear model, and the first term of its series for others.
        - "gradient": how fast the output changes with each value.
    baseline : array that broadcasts to the input, optional
        What the input is compared with; zeros if not given. A baseline of indices is for a model
        that begins with an Embedding, whose default is the zero vector.
    points : int
        At how many points integrated gradients take the gradient. They are those of Gauss and
        Legendre, so few are enough where the model is smooth; one with ReLU may take more, until
        the contributions add up.
    lengths : B ints, optional
        The real steps of each sequence, as the model takes them.
    **options
        What else the model's `vjp` takes, such as the `mask` of an LSTM.

    Returns
    -------
    Attribution

    Raises
    ------
    TypeError
        If `model` is no layer.
    ValueError
        If there is no such method, the input holds no floats and no Embedding takes it, or the
        baseline does not fit.
    IndexError
        If the output has no such place.
    NotImplementedError
        If the model cannot go backwards.

    Notes
    -----
    A copy of the model runs, in evaluation mode; the model itself, and its `grads`, do not change.
    Cost: a run and a pullback for each of the points. Needs NumPy alone.

    Examples
    --------
    Of a linear model the contributions are the products that it adds up:

    >>> model = fastlstm.Linear(3, 1, bias=False)
    >>> model.weight = [[1.0, -2.0, 0.5]]
    >>> x = np.array([[1.0, 1.0, 4.0]], np.float32)
    >>> fastlstm.visualize.attribution(model, x).values
    array([[ 1., -2.,  2.]], dtype=float32)
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r:.100}")
    check_size("points", points)
    twin = quiet_copy(model, "attribution").freeze()
    pack = input if is_pack(input) else None
    if embedding := _first_embedding(twin):
        x = embedding(input)
        baseline = None if baseline is None else embedding(baseline)
        # The copy goes on from what the embedding gave.
        vars(embedding)["_pass_vjp"] = lambda name, x, *more: (x, lambda dx, *states: dx)
    else:
        x = as_float(input.data if pack else input, twin.dtype, "input", "attribution")
    given = {"hx": hx, "lengths": lengths, **options}
    given = {name: value for name, value in given.items() if value is not None}

    def at(values: Floats) -> tuple[float, Floats]:
        """Return the explained number, and its gradient, for an input of these values."""
        arranged = values if pack is None else _packed(values, pack)
        result, pullback = twin.vjp(arranged, **given)
        y = without_states(twin, result, hx)
        is_cell = type(y) is tuple  # (h, c)
        y = y[0] if is_cell else y
        array = y.data if is_pack(y) else y
        dy = np.zeros_like(array)
        dy[output] = 1
        number = float(np.sum(array[output], dtype="float64"))
        d_output = _packed(dy, y) if is_pack(y) else dy
        dx = pullback((d_output, None) if is_cell else d_output)
        if type(dx) is tuple:  # with the gradients of states
            dx = dx[0]
        return number, dx.data if is_pack(dx) else dx

    number, gradient = at(x)
    values: Any = gradient
    compared = float("nan")
    if method != "gradient":
        base = _baseline(baseline, x)
        compared = at(base)[0]
        if method == "integrated_gradients":
            gradient = _mean_on_the_way(lambda values: at(values)[1], base, x, points)
        with np.errstate(all="ignore"):
            values = gradient * (x - base)
    if pack is not None:
        values = _packed(values, pack)
    return Attribution(method, values, as_given(input), number, compared, _layout(twin, x, lengths))


def _layout(model: Layer, x: Floats, lengths: Any) -> Layout:
    """Return how the input of a model lies, as its first LSTM or Last takes it."""
    first = [getattr(layer, "batch_first", None) for _, layer in model.named_layers()]
    batch_first = next((bool(value) for value in first if value is not None), True)
    return Layout(x.ndim > 2, batch_first, None if lengths is None else np.asarray(lengths))


def _first_embedding(model: Layer) -> Embedding | None:
    """Return the Embedding with which a Sequential begins, if it does."""
    while isinstance(model, Sequential) and len(model):
        model = model[0]
        if isinstance(model, Embedding):
            return model
    return None


def _packed(values: Floats, pack: Any) -> PackedSequence:
    return PackedSequence(values, *pack[1:])


@quiet
def _mean_on_the_way(
    gradient: Callable[[Floats], Floats], base: Floats, x: Floats, points: int
) -> Floats:
    """Return the mean gradient between two inputs, by the quadrature of Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    total = np.zeros(x.shape)
    for node, weight in zip(nodes, weights, strict=True):
        share = (node + 1) / 2
        total += weight / 2 * gradient((base + share * (x - base)).astype(x.dtype))
    return total.astype(x.dtype)


def _baseline(baseline: Any, x: Floats) -> Floats:
    """Return the baseline as an array like the input."""
    if baseline is None:
        return np.zeros_like(x)
    array = as_array(baseline, "baseline")
    try:
        return np.broadcast_to(array, x.shape).astype(x.dtype)
    except ValueError:
        raise ValueError(
            f"Expected a baseline that broadcasts to the input's shape {x.shape}, got {array.shape}"
        ) from None
