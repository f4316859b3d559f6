"""Losses: values by hand, against torch's in float64, against differences, and what is refused."""

import functools

import numpy as np
import pytest
from errors import raises
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlstm.training import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    NSELoss,
    QuantileLoss,
    nse,
)

REDUCTIONS = ["mean", "sum", "none"]
SHAPE = (4, 3, 5)  # (T, B, F); F is C for classes


# ---- what is compared -----------------------------------------------------------------------
#
# A case is a loss and what it is given. Its truth is the element-wise loss of torch (reduction
# "none"), or a formula, over the same numbers in float64, reduced as the documentation says:
# sum(w l), divided by sum(w u) for "mean", where u is 1, or a target's class weight.


class Case:
    """`make(reduction)` is a loss, `elements(torch, y, t)` its l (and u) as tensors of float64."""

    def __init__(self, make, elements, target="like", **given):
        self.make, self.elements, self.target, self.given = make, elements, target, given

    def draw(self, dtype, seed=0):
        """(prediction, target) with values on both sides of every kink and clear of it."""
        rng = np.random.default_rng(seed)
        y = rng.standard_normal(SHAPE).astype(dtype) * 2
        t = {
            "like": lambda: (rng.standard_normal(SHAPE) * 2).astype(dtype),
            "below": lambda: (rng.standard_normal(SHAPE[:-1]) * 2).astype(dtype),
            "yes": lambda: rng.random(SHAPE).astype(dtype),
            "index": lambda: rng.integers(0, SHAPE[-1], SHAPE[:-1]),
            "shares": lambda: rng.dirichlet(np.ones(SHAPE[-1]), SHAPE[:-1]).astype(dtype),
        }[self.target]()
        return y, t

    def truth(self, torch, y, t, reduction, weights=None, mask=None):
        """Value and gradient in float64, by autograd."""
        y64 = torch.tensor(y.astype(np.float64), requires_grad=True)
        t64 = torch.tensor(t if t.dtype.kind == "i" else t.astype(np.float64))
        losses, units = self.elements(torch, y64, t64)
        shape = losses.shape
        w = torch.ones(shape, dtype=torch.float64)
        for extra in (weights, mask):
            if extra is not None:
                extra = np.asarray(extra, np.float64)
                w = w * torch.tensor(extra.reshape(extra.shape + (1,) * (len(shape) - extra.ndim)))
        value = torch.where(w > 0, w * losses, 0.0)  # nan in what is masked goes no further
        total = value.sum()
        if reduction == "mean":
            total = total / (w * units).sum()
        total.backward()
        kept = value if reduction == "none" else total
        return kept.detach().numpy(), y64.grad.numpy()


def _plain(function):
    return lambda torch, y, t: (function(torch, y, t), 1.0)


def _torch_loss(name, **options):
    return _plain(lambda torch, y, t: getattr(torch.nn, name)(reduction="none", **options)(y, t))


def _pinball(quantiles):
    def elements(torch, y, t):
        q = torch.tensor(quantiles, dtype=torch.float64)
        e = (t[..., None] if len(quantiles) > 1 else t) - y
        return torch.where(e > 0, q * e, (q - 1) * e)

    return _plain(elements)


def _cross_entropy(weight=None, shares=False, **options):
    """torch has classes on axis 1, and counts a target by its class' weight."""

    def elements(torch, y, t):
        w = None if weight is None else torch.tensor(weight, dtype=torch.float64)
        loss = torch.nn.CrossEntropyLoss(weight=w, reduction="none", **options)
        if shares:
            return loss(y.movedim(-1, 1), t.movedim(-1, 1)), 1.0
        counted = (t != options.get("ignore_index", -100)).to(torch.float64)
        units = counted if w is None else counted * w[t.clamp(0)]
        return loss(y.movedim(-1, 1), t), units

    return elements


C_WEIGHT = [0.5, 2.0, 1.0, 0.0, 3.0]
STD = np.array([[0.5, 2.0, 1.0]])
QUANTILES = [0.1, 0.3, 0.5, 0.8, 0.95]
POS = [0.5, 2.0, 1.0, 0.0, 3.0]


def _nse_loss(reduction, **options):
    return functools.partial(NSELoss(reduction, **options), std=STD)


CASES = {
    "mse": Case(MSELoss, _torch_loss("MSELoss")),
    "l1": Case(L1Loss, _torch_loss("L1Loss")),
    "huber": Case(HuberLoss, _torch_loss("HuberLoss")),
    "huber delta": Case(lambda r: HuberLoss(r, delta=0.25), _torch_loss("HuberLoss", delta=0.25)),
    "quantile": Case(lambda r: QuantileLoss(0.75, r), _pinball([0.75])),
    "quantiles": Case(lambda r: QuantileLoss(QUANTILES, r), _pinball(QUANTILES), "below"),
    "bce": Case(lambda r: BCEWithLogitsLoss(None, r), _torch_loss("BCEWithLogitsLoss"), "yes"),
    "bce pos": Case(
        lambda r: BCEWithLogitsLoss(2.5, r),
        _plain(lambda torch, y, t: torch.nn.BCEWithLogitsLoss(
            reduction="none", pos_weight=torch.tensor(2.5, dtype=torch.float64))(y, t)), "yes"),
    "bce pos each": Case(
        lambda r: BCEWithLogitsLoss(POS, r),
        _plain(lambda torch, y, t: torch.nn.BCEWithLogitsLoss(
            reduction="none", pos_weight=torch.tensor(POS, dtype=torch.float64))(y, t)), "yes"),
    "nse": Case(
        _nse_loss, _plain(lambda torch, y, t: (y - t) ** 2 / (
            torch.tensor(STD)[..., None] + 0.1) ** 2)),
    "nse eps": Case(
        lambda r: _nse_loss(r, eps=0.5), _plain(lambda torch, y, t: (y - t) ** 2 / (
            torch.tensor(STD)[..., None] + 0.5) ** 2)),
    "ce": Case(lambda r: CrossEntropyLoss(reduction=r), _cross_entropy(), "index"),
    "ce weight": Case(
        lambda r: CrossEntropyLoss(C_WEIGHT, reduction=r), _cross_entropy(C_WEIGHT), "index"),
    "ce ignore": Case(
        lambda r: CrossEntropyLoss(ignore_index=2, reduction=r),
        _cross_entropy(ignore_index=2), "index"),
    "ce smooth": Case(
        lambda r: CrossEntropyLoss(reduction=r, label_smoothing=0.25),
        _cross_entropy(label_smoothing=0.25), "index"),
    "ce all": Case(
        lambda r: CrossEntropyLoss(C_WEIGHT, 1, r, 0.25),
        _cross_entropy(C_WEIGHT, ignore_index=1, label_smoothing=0.25), "index"),
    "ce shares": Case(
        lambda r: CrossEntropyLoss(reduction=r), _cross_entropy(shares=True), "shares"),
    "ce shares all": Case(
        lambda r: CrossEntropyLoss(C_WEIGHT, reduction=r, label_smoothing=0.25),
        _cross_entropy(C_WEIGHT, shares=True, label_smoothing=0.25), "shares"),
}  # fmt: skip
WEIGHTS = np.random.default_rng(7).random((4, 3)) + 0.5
MASK = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]], bool)


def assert_matches(torch, case, loss, y, t, reduction, **given):
    """Assert that `loss` gives the truth of `case` for these arguments, to rounding.

    No element's loss or slope takes more than 20 operations, each within eps of its result at
    the most (exp and log: 2 eps). Most are products and sums of one sign, so that this is
    relative to the result; what is subtracted, logits and their greatest, or exponents of e, are at
    most `size`, the largest number in: absolute. Sums of elements are taken in float64: a mean is
    off by no more than an element, a sum by as many times more as there are elements.
    """
    value, gradient = loss(y, t, **given)
    assert (gradient.shape, gradient.dtype) == (y.shape, y.dtype)
    expected, slopes = case.truth(torch, y, t, reduction, **given)
    if reduction == "none":
        assert (value.shape, value.dtype) == (expected.shape, y.dtype)
    else:
        assert type(value) is float
    eps = np.finfo(y.dtype).eps
    size = max(1, np.abs(y).max(), np.abs(t).max() if t.dtype.kind == "f" else 1)
    terms = y.size if reduction == "sum" else 1
    np.testing.assert_allclose(value, expected, rtol=20 * eps, atol=20 * eps * size * terms)
    scale = np.abs(slopes).max()
    np.testing.assert_allclose(gradient, slopes, rtol=20 * eps, atol=20 * eps * scale * size)


# ---- against torch --------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
def test_loss_is_torchs(torch, dtype, name, reduction):
    case = CASES[name]
    y, t = case.draw(dtype)
    before = y.copy(), t.copy()
    loss = case.make(reduction)
    assert_matches(torch, case, loss, y, t, reduction)
    assert_matches(torch, case, loss, y, t, reduction, weights=WEIGHTS.astype(dtype))
    assert_matches(torch, case, loss, y, t, reduction, mask=MASK)
    assert_matches(torch, case, loss, y, t, reduction, weights=[[2.0, 0.5, 1.0]], mask=MASK)
    assert_matches(torch, case, loss, y, t, reduction, weights=np.arange(1, 5), mask=MASK[:, :1])
    for array, copy in zip((y, t), before, strict=True):
        assert array.tobytes() == copy.tobytes(), "an argument was written"


TORCHS = {
    "mse": "MSELoss", "l1": "L1Loss", "huber": "HuberLoss", "bce": "BCEWithLogitsLoss",
}  # fmt: skip


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", TORCHS)
def test_reductions_are_torchs_own(torch, name, reduction):
    case = CASES[name]
    y, t = case.draw("float64")
    theirs = getattr(torch.nn, TORCHS[name])(reduction=reduction)
    expected = theirs(torch.tensor(y), torch.tensor(t)).numpy()
    np.testing.assert_allclose(case.make(reduction)(y, t)[0], expected, rtol=1e-14)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("weight", [None, C_WEIGHT], ids=["even", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropys_reductions_are_torchs_own(torch, reduction, shares, weight, smoothing):
    """The divisor of a mean is torch's too."""
    y, t = CASES["ce shares" if shares else "ce"].draw("float64")
    options = {"reduction": reduction, "label_smoothing": smoothing}
    if not shares:
        options["ignore_index"] = 2
    w = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    tensor = torch.tensor(y, requires_grad=True)
    target = torch.tensor(t)
    theirs = torch.nn.CrossEntropyLoss(weight=w, **options)(
        tensor.movedim(-1, 1), target.movedim(-1, 1) if shares else target
    )
    theirs.sum().backward()
    value, gradient = CrossEntropyLoss(weight, **options)(y, t)
    np.testing.assert_allclose(value, theirs.detach().numpy(), rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-13, atol=1e-15)


def test_unbatched_cross_entropy(torch):
    y = np.array([0.5, 1.5, -1.0])
    expected = torch.nn.functional.cross_entropy(torch.tensor(y), torch.tensor(1)).item()
    value, gradient = CrossEntropyLoss()(y, 1)
    assert value == pytest.approx(expected, rel=1e-14)
    assert gradient.shape == (3,)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_slope(name):
    """Central differences err by h^2 / 6 of a third derivative below 100, and by eps / h."""
    case, h = CASES[name], 1e-5
    y, t = case.draw("float64", seed=3)
    for reduction in ("mean", "sum"):
        loss = functools.partial(case.make(reduction), weights=WEIGHTS, mask=MASK)
        value, gradient = loss(y, t)
        for at in np.ndindex(2, *SHAPE[1:]):
            moved = [y.copy(), y.copy()]
            moved[0][at] += h
            moved[1][at] -= h
            slope = (loss(moved[0], t)[0] - loss(moved[1], t)[0]) / (2 * h)
            bound = 100 * h**2 / 6 + 8 * np.finfo(float).eps * max(1, abs(value)) / h
            assert abs(slope - gradient[at]) <= bound, (reduction, at)


# ---- saboteurs: losses that the comparison must reject -----------------------------------------


def _spoil(change):
    """A loss whose result `change(value, gradient, prediction, given)` replaces."""

    def spoil(loss):
        return lambda y, t, **given: change(*loss(y, t, **given), y, given)

    return spoil


def _forget(name):
    return lambda loss: lambda y, t, **given: loss(y, t, **(given | {name: None}))


SABOTEURS = {
    "not divided": (_spoil(lambda v, g, y, given: (v * 12, g * 12)), "ce", {}),
    "gradient not divided": (_spoil(lambda v, g, y, given: (v, g * y.size)), "mse", {}),
    "divided by all": (
        _spoil(lambda v, g, y, given: (v * MASK.mean(), g * MASK.mean())), "mse", {"mask": MASK}),
    "half": (_spoil(lambda v, g, y, given: (v / 2, g / 2)), "mse", {}),
    "gradient half": (_spoil(lambda v, g, y, given: (v, g / 2)), "mse", {}),
    "sign": (_spoil(lambda v, g, y, given: (v, -g)), "l1", {}),
    "gradient by the target": (_spoil(lambda v, g, y, given: (v, -g)), "quantile", {}),
    "mask ignored": (_forget("mask"), "ce", {"mask": MASK}),
    "mask turned": (
        lambda loss: lambda y, t, mask: loss(y, t, mask=~mask), "huber", {"mask": MASK}),
    "weights ignored": (_forget("weights"), "bce", {"weights": WEIGHTS}),
    "weights not in the mean": (
        _spoil(lambda v, g, y, given: (v * WEIGHTS.mean(), g * WEIGHTS.mean())),
        "nse", {"weights": WEIGHTS}),
    "weights along the wrong axis": (
        lambda loss: lambda y, t, weights: loss(y, t, weights=weights[::-1]),
        "mse", {"weights": WEIGHTS}),
    "smoothing forgotten": (lambda loss: CrossEntropyLoss(), "ce smooth", {}),
    "class weights forgotten": (lambda loss: CrossEntropyLoss(), "ce weight", {}),
    "divided by all classes' weights": (
        _spoil(lambda v, g, y, given: (v / np.mean(C_WEIGHT), g / np.mean(C_WEIGHT))),
        "ce shares all", {}),
    "divided by the number of targets": (
        _spoil(lambda v, g, y, given: (v * np.mean(C_WEIGHT), g * np.mean(C_WEIGHT))),
        "ce weight", {}),
    "ignored class counts": (lambda loss: CrossEntropyLoss(), "ce ignore", {}),
    "shares of the wrong class": (
        lambda loss: lambda y, t: loss(y, t[..., ::-1]), "ce shares", {}),
    "pos_weight forgotten": (lambda loss: BCEWithLogitsLoss(), "bce pos", {}),
    "pos_weight for no": (
        lambda loss: lambda y, t: loss(y, 1 - t), "bce pos", {}),
    "delta forgotten": (lambda loss: HuberLoss(), "huber delta", {}),
    "quantile turned": (lambda loss: QuantileLoss(0.25), "quantile", {}),
    "quantiles in another order": (lambda loss: QuantileLoss(QUANTILES[::-1]), "quantiles", {}),
    "eps forgotten": (
        lambda loss: functools.partial(NSELoss(eps=0), std=STD), "nse", {}),
    "std not squared": (
        lambda loss: functools.partial(NSELoss(), std=np.sqrt(STD + 0.1) - 0.1), "nse", {}),
    "off by one in a thousand": (_spoil(lambda v, g, y, given: (v * 1.001, g)), "l1", {}),
    "another dtype": (_spoil(lambda v, g, y, given: (v, g.astype(np.float16))), "l1", {}),
    "float16 inside": (
        _spoil(lambda v, g, y, given: (v, g.astype(np.float16).astype(y.dtype))), "mse", {}),
    "last element forgotten": (
        _spoil(lambda v, g, y, given: (v, np.where(np.arange(5) < 4, g, g.dtype.type(0)))),
        "mse", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SABOTEURS)
def test_saboteur_is_rejected(torch, dtype, name):
    spoil, case, given = SABOTEURS[name]
    case = CASES[case]
    y, t = case.draw(dtype)
    loss = case.make("mean")
    assert_matches(torch, case, loss, y, t, "mean", **given)
    with pytest.raises(AssertionError):
        assert_matches(torch, case, spoil(loss), y, t, "mean", **given)


# ---- masks, nan and inf -----------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf])
def test_what_is_masked_is_nothing(dtype, name, reduction, rubbish):
    """Any values there leave the loss as it is, bit for bit, and have gradient 0."""
    case = CASES[name]
    loss = case.make(reduction)
    y, t = case.draw(dtype)
    expected = loss(y, t, mask=MASK)
    y[~MASK] = rubbish
    t[~MASK] = rubbish if t.dtype.kind == "f" else -7
    value, gradient = loss(y, t, mask=MASK)
    np.testing.assert_array_equal(value, expected[0])
    np.testing.assert_array_equal(gradient, expected[1])
    assert not gradient[~MASK].any()
    if reduction == "none":
        assert not value[~MASK].any()


@pytest.mark.parametrize("given", [{}, {"mask": MASK}, {"weights": WEIGHTS}], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_denominator_is_what_the_mean_divides_by(name, given):
    case = CASES[name]
    y, t = case.draw("float64")
    mean, total = (case.make(reduction)(y, t, **given)[0] for reduction in ("mean", "sum"))
    loss = case.make("mean")
    loss = loss.func if isinstance(loss, functools.partial) else loss
    assert mean * loss.denominator(y, t, **given) == pytest.approx(total, rel=1e-13)


def test_weights_of_what_is_masked_may_be_nan(dtype):
    y, mask = np.array([3.0, 1.0], dtype), np.array([True, False])
    for weights in ([2.0, np.nan], [2.0, -1.0]):
        value, gradient = MSELoss("sum")(y, np.zeros_like(y), weights=weights, mask=mask)
        assert value == 18 and gradient.tolist() == [12, 0]


def test_predictions_of_one_axis_take_weights(dtype):
    y = np.array([3.0, 1.0], dtype)
    value, gradient = MSELoss()(y, np.zeros_like(y), weights=[3.0, 1.0])
    assert value == 7 and gradient.tolist() == [4.5, 0.5]


def test_pos_weight_may_have_all_axes_of_the_prediction():
    """Two questions that are open, each with the loss log 2 and the slope 1/2."""
    value, gradient = BCEWithLogitsLoss([2.0, 1.0], "none")(np.zeros(2), np.array([1.0, 0.0]))
    np.testing.assert_allclose(value, [2 * np.log(2), np.log(2)], rtol=1e-15)
    assert gradient.tolist() == [-1, 0.5]


def test_an_ignored_target_of_a_single_class():
    value, gradient = CrossEntropyLoss(reduction="sum")(np.zeros((2, 1)), [0, -100])
    assert value == 0 and not gradient.any()


def test_ignored_class_may_stand_under_nan():
    logits = np.array([[0.0, 0.0], [np.nan, np.inf]])
    value, gradient = CrossEntropyLoss()(logits, np.array([1, -100]))
    assert value == pytest.approx(np.log(2))
    np.testing.assert_array_equal(gradient, [[0.5, -0.5], [0, 0]])


@pytest.mark.parametrize("name", CASES)
def test_nan_is_not_hidden(dtype, name):
    case = CASES[name]
    y, t = case.draw(dtype)
    if t.dtype.kind == "i":
        t[1, 1] = 0
    y[1, 1, 2] = np.nan
    value, gradient = case.make("mean")(y, t)
    assert np.isnan(value) and np.isnan(gradient[1, 1, 2])
    assert np.isfinite(gradient[0]).all() and np.isfinite(gradient[2:]).all()
    assert np.isnan(case.make("mean")(y, t, weights=np.ones((4, 1)))[0])
    zero = np.ones((4, 3))
    zero[1, 1] = 0
    assert np.isnan(case.make("sum")(y, t, weights=zero)[0])


@pytest.mark.parametrize("name", CASES)
def test_mean_over_nothing_is_nan(name):
    case = CASES[name]
    y, t = case.draw("float32")
    nothing = np.zeros((4, 1), bool)
    value, gradient = case.make("mean")(y, t, mask=nothing)
    assert np.isnan(value) and not gradient.any()
    value, gradient = case.make("sum")(y, t, mask=nothing)
    assert value == 0 and not gradient.any()


def test_losses_at_the_ends(dtype):
    """Far out, where exp overflows, the values are still exact, and nothing warns."""
    y = np.array([1e4, -1e4, 1e4, -1e4, 20, -20], dtype)
    t = np.array([1, 0, 0, 1, 1, 0], dtype)
    value, gradient = BCEWithLogitsLoss(reduction="none")(y, t)
    small, chance = np.log1p(np.exp(-20.0)), 1 / (1 + np.exp(20.0))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(value, [0, 0, 1e4, 1e4, small, small], rtol=8 * eps)
    np.testing.assert_allclose(gradient, [0, 0, 1, -1, -chance, chance], rtol=8 * eps)
    logits = np.array([[1e4, -1e4, 0], [-np.inf, 0, 0], [3e38, 3e38, -3e38]], dtype)
    value, gradient = CrossEntropyLoss(reduction="none")(logits, [1, 2, 0])
    np.testing.assert_allclose(value, [2e4, np.log(2), np.log(2)], rtol=4 * eps)
    np.testing.assert_allclose(gradient, [[1, -1, 0], [0, 0.5, -0.5], [-0.5, 0.5, 0]], rtol=4 * eps)


def test_kinks():
    """Where a loss has a corner, its slope is 0, which lies between those of both sides."""
    here = np.zeros((2, 1))
    for loss in (L1Loss(), QuantileLoss(0.9), HuberLoss()):
        value, gradient = loss(here, here)
        assert value == 0 and not gradient.any()
    assert not QuantileLoss([0.1])(here, here[:, 0])[1].any()
    assert HuberLoss("sum", delta=2)(np.array([2.0]), np.array([0.0])) == (2.0, np.array([2.0]))


def test_sums_are_taken_in_float64():
    """A sum in float32 would lose each of the n terms 2^-30 beside 1."""
    y = np.full(2**12, 2.0**-15, np.float32)
    y[0] = 1
    assert MSELoss("sum")(y, np.zeros_like(y))[0] == 1 + (2**12 - 1) * 2.0**-30


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple),
    axes=st.integers(0, 4),
    ones=st.lists(st.booleans(), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_masks_of_any_shape(shape, axes, ones, seed):
    """A mask of leading axes counts as the same mask written out, and as leaving out."""
    rng = np.random.default_rng(seed)
    y, t = rng.standard_normal((2, *shape))
    axes = min(axes, len(shape))
    lead = tuple(1 if one else n for n, one in zip(shape[:axes], ones, strict=False))
    mask = rng.random(lead) < 0.5
    full = np.broadcast_to(mask.reshape(lead + (1,) * (len(shape) - axes)), shape)
    value, gradient = MSELoss()(y, t, mask=mask)
    alone, slopes = MSELoss()(y[full], t[full])
    np.testing.assert_allclose(value, alone, rtol=1e-14)
    np.testing.assert_allclose(gradient[full], slopes, rtol=1e-15)
    assert not gradient[~full].any() and gradient.shape == shape


# ---- NSE ------------------------------------------------------------------------------------


def test_nse_by_hand():
    target = np.array([1, 2, 3, 6], np.float32)
    assert nse(target, target) == 1
    assert nse(np.full(4, 3, np.float32), target) == 0
    assert nse(np.array([1, 2, 3, 10]), target) == 1 - 16 / 14
    assert nse([1, 2, 3, 10], [1, 2, 3, 6]) == 1 - 16 / 14
    assert np.isnan(nse(np.array([1, np.nan]), np.array([1.0, 2.0])))
    assert nse(np.array([1.0, 2.0]), np.array([3.0, 3.0])) == -np.inf
    for call, got in (
        (lambda: nse(np.ones(2), np.ones(3)), "(2,) and (3,)"),
        (lambda: nse([], []), "(0,) and (0,)"),
    ):
        raises(call, ValueError, f"nse: Expected arrays of one shape, not empty, got {got}")
    raises(lambda: nse([True], [1]), ValueError,
           "nse: Expected arrays of numbers, got bool and int64")  # fmt: skip


def test_a_quantile_loss_is_that_of_the_median():
    value, gradient = QuantileLoss()(np.array([1.0, 5.0]), np.array([3.0, 5.0]))
    assert value == 0.5 and gradient.tolist() == [-0.25, 0]


def test_nse_loss_is_one_minus_nse():
    rng = np.random.default_rng(0)
    target = rng.standard_normal((50, 3)) * [1, 10, 100]
    prediction = target + rng.standard_normal((50, 3))
    std = target.std(axis=0)
    efficiency = [nse(prediction[:, k], target[:, k]) for k in range(3)]
    value, _ = NSELoss(eps=0)(prediction, target, std=std[None])
    assert value == pytest.approx(1 - np.mean(efficiency), rel=1e-13)
    assert NSELoss(eps=0)(prediction[:, 0], target[:, 0], std=std[0])[0] == pytest.approx(
        1 - efficiency[0], rel=1e-13
    )


# ---- bad input ------------------------------------------------------------------------------


def test_bad_options():
    for make in (MSELoss, L1Loss, HuberLoss, NSELoss):
        raises(lambda make=make: make("avg"), ValueError,
               "reduction must be one of mean, sum, none, got 'avg'")  # fmt: skip
    raises(lambda: HuberLoss(delta=0), ValueError,
           "delta must be a finite number above 0, got 0")  # fmt: skip
    raises(lambda: HuberLoss(delta="1"), TypeError, "delta should be a number, got: str")
    raises(lambda: QuantileLoss([0.5, 1]), ValueError,
           "quantile must be a finite number above 0 and below 1, got 1")  # fmt: skip
    raises(lambda: QuantileLoss([]), ValueError,
           "quantiles must hold at least one number, got none")  # fmt: skip
    raises(lambda: NSELoss(eps=np.nan), ValueError,
           "eps must be a finite number of at least 0, got nan")  # fmt: skip
    raises(lambda: CrossEntropyLoss(label_smoothing=2), ValueError,
           "label_smoothing must be a finite number of at least 0 and of at most 1, "
           "got 2")  # fmt: skip
    raises(lambda: CrossEntropyLoss(ignore_index=1.0), TypeError,
           "ignore_index should be of type int, got: float")  # fmt: skip
    for weight in ([1.0, -1.0], 1.0, [np.nan]):
        raises(lambda weight=weight: CrossEntropyLoss(weight), ValueError,
               "weight must hold one number of at least 0 for each class")  # fmt: skip
    raises(lambda: BCEWithLogitsLoss([1, -1]), ValueError,
           "pos_weight must hold numbers of at least 0")  # fmt: skip


def test_bad_arrays():
    y = np.zeros((4, 3), np.float32)
    raises(lambda: MSELoss()(y, y[:3]), ValueError,
           "MSELoss: Expected target of shape (4, 3) for a prediction of shape (4, 3), "
           "got (3, 3)")  # fmt: skip
    raises(lambda: MSELoss()(y, y.astype(np.float64)), ValueError,
           "MSELoss: Expected target of float32, as the prediction's, got float64")  # fmt: skip
    raises(lambda: L1Loss()(y.astype(int), y), ValueError,
           "L1Loss: Expected prediction of float32 or float64, got int64")  # fmt: skip
    raises(lambda: MSELoss()(y, y, weights=np.ones(3)), ValueError,
           "MSELoss: the axes of weights must be the first ones of (4, 3), each of that length "
           "or 1, got (3,)")  # fmt: skip
    raises(lambda: MSELoss()(y, y, mask=np.ones((4, 3, 1), bool)), ValueError,
           "MSELoss: the axes of mask must be the first ones of (4, 3), each of that length "
           "or 1, got (4, 3, 1)")  # fmt: skip
    for weights in ([1, 1, 1, -1], [1, 1, 1, np.nan], [True] * 4):
        raises(lambda weights=weights: MSELoss()(y, y, weights=weights), ValueError,
               "MSELoss: weights must be numbers of at least 0")  # fmt: skip
    raises(lambda: MSELoss()(y, y, mask=np.ones(4)), ValueError,
           "MSELoss: mask must hold bools, True where an element counts, got float64")  # fmt: skip
    raises(lambda: QuantileLoss([0.1, 0.9])(y, y[:, 0]), ValueError,
           "QuantileLoss: Expected prediction of shape (..., 2), one value for each quantile, "
           "got (4, 3)")  # fmt: skip
    raises(lambda: QuantileLoss([0.1, 0.5, 0.9])(y, y), ValueError,
           "QuantileLoss: Expected target of shape (4,) for a prediction of shape (4, 3), "
           "got (4, 3)")  # fmt: skip
    for weight, shape in (([1, 2], (2,)), (np.ones((2, 4, 3)), (2, 4, 3))):
        raises(lambda weight=weight: BCEWithLogitsLoss(weight)(y, y), ValueError,
               f"BCEWithLogitsLoss: pos_weight of shape {shape} does not fit a prediction of "
               "shape (4, 3)")  # fmt: skip
    raises(lambda: NSELoss()(y, y, std=np.ones(3)), ValueError,
           "NSELoss: the axes of std must be the first ones of (4, 3), each of that length or 1, "
           "got (3,)")  # fmt: skip
    raises(lambda: NSELoss()(y, y, std=-1.0), ValueError,
           "NSELoss: std must be numbers of at least 0")  # fmt: skip
    raises(lambda: NSELoss()(y, y), ValueError,
           "NSELoss: Expected std, the standard deviation of the target in each sample's basin: "
           "for fit in the data, as Arrays(x, y, std=...), or of a single basin as "
           "functools.partial(NSELoss(), std=...)")  # fmt: skip


def test_bad_classes():
    logits, loss = np.zeros((4, 3), np.float32), CrossEntropyLoss()
    raises(lambda: loss(np.float32(0), 0), ValueError,
           "CrossEntropyLoss: Expected logits (..., classes), got shape ()")  # fmt: skip
    for index in ([0, 1, 2, 3], [0, 0, 0, -1]):
        raises(lambda index=index: loss(logits, index), ValueError,
               "CrossEntropyLoss: target must hold classes 0..2, got indices from "
               f"{min(index)} to {max(index)}")  # fmt: skip
    raises(lambda: loss(logits, [0, 1]), ValueError,
           "CrossEntropyLoss: Expected target of shape (4,) for a prediction of shape (4, 3), "
           "got (2,)")  # fmt: skip
    raises(lambda: loss(logits, np.zeros((4, 3))), ValueError,
           "CrossEntropyLoss: Expected target of float32, as the prediction's, "
           "got float64")  # fmt: skip
    with pytest.raises(ValueError, match=r"from 0 to 4 in an array of shape \(2, 3\), or"):
        loss(np.zeros((2, 3, 5)), np.zeros((2, 3)))
    wanted = (
        "CrossEntropyLoss: Expected target to hold class indices, integers from 0 to 2 in an array "
        "of shape (4,), or class probabilities, float32 of shape (4, 3), got {}. Labels become "
        "indices by np.unique(labels, return_inverse=True)[1]"
    )
    words = np.array(["a", "b", "c", "a"])
    for target, got in (
        (np.zeros(4, np.float32), "float32 of shape (4,)"),
        (np.zeros(4), "float64 of shape (4,)"),
        (np.zeros((4, 3), int), "int64 of shape (4, 3)"),
        (np.zeros(4, bool), "bool of shape (4,)"),
        (words, "<U1 of shape (4,)"),
        (words.astype(object), "object of shape (4,)"),
        (list(words), "target must be an array of numbers, got list"),
    ):
        for call in (loss, loss.denominator):
            raises(lambda t=target, c=call: c(logits, t), ValueError, wanted.format(got))
    raises(lambda: CrossEntropyLoss([1, 1])(logits, [0] * 4), ValueError,
           "CrossEntropyLoss: weight has 2 classes, the logits have 3")  # fmt: skip
