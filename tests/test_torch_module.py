"""fastlstm.torch.LSTM is a torch.nn.LSTM in every respect: both do the same things, as twins do.

`twins.py` says how they are compared. Most tests are acts, of which `alike` makes tests.
"""

from __future__ import annotations

import copy
import functools
import gc
import io
import itertools
import multiprocessing
import pickle
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import twins
from errors import raises
from support import assert_same_bits
from test_threads_python import THREADS, together
from twins import (
    DTYPES,
    Act,
    Given,
    Module,
    Setting,
    Tensor,
    assert_alike,
    assert_same_error,
    named,
    rnn,
    torch,
    train,
)

from fastlstm.torch import LSTM, accelerate, packs, restore

FORMS = ["padded", "unbatched", "packed", "unsorted"]
nn = torch.nn
prune = pytest.importorskip("torch.nn.utils.prune")

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:DeprecationWarning"),
]


alike = functools.partial(twins.alike, LSTM)
DEEP = Setting(num_layers=2, bidirectional=True)
IN_EVERY_FORM = [DEEP._replace(form=form) for form in FORMS]


# ---- values and gradients -------------------------------------------------------------------


# Half of all, of an even number of yeses: every pair and every triple of values is there.
GRID = [
    Setting(form, hx, num_layers=3 if deep else 1, bidirectional=both, bias=bias, batch_first=first,
            proj_size=2 if projected else 0)
    for form in FORMS
    for hx, deep, both, bias, first, projected in itertools.product((True, False), repeat=6)
    if (hx + deep + both + bias + first + projected) % 2 == 0
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_every_option(form, dtype):
    """Outputs, states, and gradients of the input, of states and of every parameter.

    Results lie in memory as torch's do: whether `view` takes them depends on it.
    """

    def act(module, given):
        results = given.run(module)
        given.back(results)
        strides = {"strides": [result.stride() for result in results]}
        return named(results) | given.gradients(module) | strides

    for setting in GRID:
        if setting.form == form:
            assert_alike(act, LSTM, setting, dtype)


SIZES = {
    "one of all": Setting(I=1, H=1, lengths=(1,)),
    "wider than vectors": Setting(I=17, H=33, lengths=(9, 5, 5, 3, 1), num_layers=2),
    "many rows": Setting(I=2, H=9, lengths=(3,) * 70, bidirectional=True),
    "a long one": Setting(I=1, H=4, lengths=(300,)),
    "wide input": Setting(I=130, H=3, lengths=(2, 2)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["padded", "unsorted"])
@pytest.mark.parametrize("size", SIZES)
def test_sizes(size, form, dtype):
    assert_alike(train, LSTM, SIZES[size]._replace(form=form), dtype)


@alike(*IN_EVERY_FORM)
def test_evaluation_without_gradients(module: Module, given: Given):
    module.eval()
    with torch.no_grad():
        results = given.run(module)
    return named(results) | {"requires_grad": [r.requires_grad for r in results]}


@alike(*IN_EVERY_FORM)
def test_inference_mode_and_its_results_later(module: Module, given: Given):
    with torch.inference_mode():
        results = given.run(module)
    return named([2 * r for r in results]) | {"inference": [r.is_inference() for r in results]}


@alike(
    *[s._replace(dropout=0.4, batch_first=first) for s in IN_EVERY_FORM for first in (True, False)]
)
def test_dropout_takes_the_same_from_torchs_generator(module: Module, given: Given):
    torch.manual_seed(3)
    results = given.train(module)
    module.eval()
    return results | named(given.run(module), " evaluated") | {"rng": torch.get_rng_state()}


@alike(DEEP._replace(dropout=1.0))
def test_dropout_of_everything(module: Module, given: Given):
    torch.manual_seed(3)
    return given.train(module)


# ---- tensors of every kind ------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "every second value": lambda t: torch.stack([t, -t], dim=-1)[..., 0],
    "axes in another order": lambda t: t.mT.contiguous().mT,
    "part of a larger one": lambda t: nn.functional.pad(t, (2, 1, 1, 3))[..., 1:-3, 2:-1],
    "off the vectors' alignment": lambda t: torch.cat([t.new_zeros(1), t.reshape(-1)])[1:].view(
        t.shape
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_memory(layout, form, dtype):
    """Of the input, of states, of parameters and of the results' gradients."""
    lay = LAYOUTS[layout]

    def act(module, given):
        given.hx = tuple(lay(state) for state in given.hx)
        given.d = [lay(d) for d in given.d]
        for p in module.parameters():
            p.data = lay(p.data[None])[0]
        return given.train(module, lay(given.x))

    for first in (False, True):
        assert_alike(act, LSTM, DEEP._replace(form=form, batch_first=first), dtype)


@alike(DEEP, DEEP._replace(batch_first=True))
def test_tensors_that_are_expanded(module: Module, given: Given):
    """One sequence for the whole batch, one state for all layers, one gradient for all results."""
    x = given.x.select(0 if module.batch_first else 1, 0)
    x = x.unsqueeze(0 if module.batch_first else 1).expand_as(given.x)
    given.hx = tuple(state[:1].expand_as(state) for state in given.hx)
    output, h_n, c_n = given.run(module, x)
    (output.sum() + h_n.sum() + c_n.sum()).backward()
    return given.gradients(module)


@alike(DEEP, DEEP._replace(form="unsorted"))
def test_one_tensor_for_both_states(module: Module, given: Given):
    given.hx = (given.h_0, given.h_0)
    results = given.run(module)
    given.back(results)
    with torch.no_grad():
        later = given.run(module)
    assert torch.equal(later[0], results[0])  # nobody wrote it
    return named(later) | given.gradients(module)


@alike(DEEP)
def test_steps_of_a_longer_sequence(module: Module, given: Given):
    """Slices go in, the state goes on: as a whole run does it in one direction."""
    results, given.hx = [], None
    for x in given.x.split(2):
        results += given.run(module, x)
        given.hx = tuple(results[-2:])
    sum(r.square().sum() for r in results).backward()
    return given.gradients(module)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["padded", "packed"])
def test_gradients_for_some_only(form, dtype):
    """Whatever needs no gradient gets none, and the others get theirs."""
    kinds = ["x", "h_0", "c_0", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"]

    def act_of(wanted):
        def act(module, given):
            leaves = {"x": given.x, "h_0": given.h_0, "c_0": given.c_0}
            for name, leaf in [*leaves.items(), *module.named_parameters()]:
                leaf.requires_grad_(name.startswith(wanted))
            return given.train(module)

        return act

    setting = DEEP._replace(form=form, proj_size=2)
    for wanted in [*kinds, ("x", "weight_hh_l1"), ("weight_ih_l0", "bias_hh_l1_reverse")]:
        assert_alike(act_of(wanted), LSTM, setting, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kept", [(0,), (1,), (2,), (0, 2)])
def test_the_way_back_from_some_results_only(kept, form, dtype):
    def act(module, given):
        results = given.run(module)
        torch.autograd.backward([results[k] for k in kept], [given.d[k] for k in kept])
        return given.gradients(module)

    assert_alike(act, LSTM, DEEP._replace(form=form), dtype)


def _pattern(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Which values are nan or infinite, and the values that are neither."""
    kinds = {
        f"{n}'s kinds": t.isnan() + 2 * t.isposinf() + 4 * t.isneginf() for n, t in tensors.items()
    }
    return kinds | {name: torch.nan_to_num(t, 0, 0, 0) for name, t in tensors.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["padded", "packed"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_values_that_are_not_finite_or_huge(value, form, dtype):
    def act(module, given):
        given.x.data[1, 0, 0] = value
        given.x.data[0, 1] = value
        return _pattern(given.train(module))

    assert_alike(act, LSTM, DEEP._replace(form=form), dtype)


@alike(DEEP, DEEP._replace(batch_first=True), DEEP._replace(hx=False, proj_size=2), engine=False)
def test_no_sequences(module: Module, given: Given):
    batch = 0 if module.batch_first else 1
    given.x = given.x.detach().narrow(batch, 0, 0).requires_grad_()
    if given.hx:
        given.hx = tuple(state[:, :0] for state in given.hx)
    results = given.run(module)
    sum(r.sum() for r in results).backward()
    return named(results) | given.gradients(module) | {"shapes": [r.shape for r in results]}


# ---- autograd -------------------------------------------------------------------------------


@alike(*IN_EVERY_FORM, steps=2)
def test_two_ways_back_over_one_graph(module: Module, given: Given):
    results = given.run(module)
    given.back(results, retain_graph=True)
    given.back(results)
    return given.gradients(module)


@alike(DEEP, steps=3)
def test_gradients_add_up(module: Module, given: Given):
    for x in (given.x, 2 * given.x, given.x.flip(0)):
        given.back(given.run(module, x))
    return given.gradients(module)


@alike(DEEP)
def test_gradients_of_one_result_at_a_time(module: Module, given: Given):
    leaves = [given.x, *given.hx, *module.parameters()]
    got = {}
    for name, result in named(given.run(module)).items():
        gradients = torch.autograd.grad(result.square().sum(), leaves, retain_graph=True)
        got |= {f"{name} {k}": gradient for k, gradient in enumerate(gradients)}
    return got


@alike(DEEP)
def test_one_module_twice_in_one_graph(module: Module, given: Given):
    one = given.run(module)
    given.hx = tuple(one[1:])
    two = given.run(module, given.x.flip(0) * one[0].mean())
    given.back(two)
    return named(two) | given.gradients(module)


def test_states_may_be_written():
    """Those that come out are the caller's, also before the way back."""

    def act(module, given):
        output, h_n, c_n = given.run(module)
        h_n.mul_(2), c_n.mul_(3)
        given.back([output, h_n, c_n])
        return given.gradients(module)

    for setting in IN_EVERY_FORM:
        assert_alike(act, LSTM, setting)


@pytest.mark.parametrize(
    "name", ["x", "h_0", "c_0", "output", "weight_ih_l0", "weight_hh_l1", "bias_ih_l0"]
)
def test_what_the_way_back_needs_may_not_be_written(name):
    """Torch refuses that where oneDNN runs, in float32, and we always do.

    The sentence names the tensor by type and shape, which may be another.
    """
    given = Given(Setting(num_layers=2))
    for cls in (nn.LSTM, LSTM):
        module = given.module(cls)
        x = given.x.clone()
        results = given.run(module, x)
        tensors = {"x": x, "h_0": given.h_0, "c_0": given.c_0, "output": results[0].detach()}
        tensors |= dict(module.named_parameters())
        with torch.no_grad():
            tensors[name].add_(1)
        with pytest.raises(RuntimeError, match="modified (by an )?inplace"):
            given.back(results)


def test_a_graph_is_gone_after_the_way_back():
    def act(module, given):
        results = given.run(module)
        given.back(results)
        given.back(results)

    assert_same_error(act, LSTM, DEEP)


@alike(*IN_EVERY_FORM, engine=False)
def test_gradients_of_gradients(module: Module, given: Given):
    leaves = [given.x, *given.hx, *module.parameters()]
    results = given.run(module)
    total = sum((r * d).sum() for r, d in zip(results, given.d, strict=True))
    gradients = torch.autograd.grad(total, leaves, create_graph=True)
    sum(g.square().sum() for g in gradients).backward()
    return named(gradients[:3]) | given.gradients(module)


@alike(*IN_EVERY_FORM)
def test_many_gradients_at_once(module: Module, given: Given):
    """As `torch.autograd.functional` does it with vectorize=True: by vmap over the way back."""
    results = given.run(module)
    leaves = [given.x, *given.hx, *module.parameters()]
    d = [torch.stack([d, -2 * d, d.flip(0)]) for d in given.d]
    found = torch.autograd.grad(results, leaves, d, is_grads_batched=True)
    return {f"gradient {k}": gradient for k, gradient in enumerate(found)}


@alike(Setting(), Setting("unsorted"), dtypes=["float64"])  # torch has none for oneDNN's way back
def test_forward_mode_over_the_way_back(module: Module, given: Given):
    results = given.run(module)
    with torch.autograd.forward_ad.dual_level():
        d = [torch.autograd.forward_ad.make_dual(d, d.flip(0)) for d in given.d]
        leaves = [given.x, *given.hx, *module.parameters()]
        found = torch.autograd.grad(results, leaves, d)
        both = map(torch.autograd.forward_ad.unpack_dual, found)
        return {f"{k} {kind}": t for k, two in enumerate(both) for kind, t in enumerate(two)}


@pytest.mark.parametrize("form", ["padded", "unsorted"])
def test_gradcheck(form):
    """Finite differences, of the first and of the second order."""
    given = Given(Setting(form=form, I=2, H=2, lengths=(3, 2), bidirectional=True), dtype="float64")
    module = given.module(LSTM)
    leaves = [given.x, *given.hx, *module.parameters()]
    names = [name for name, _ in module.named_parameters()]

    def results(x, h, c, *parameters):
        given.hx, own = (h, c), dict(zip(names, parameters, strict=True))
        return tuple(given.run(lambda *a: torch.func.functional_call(module, own, a), x))

    assert torch.autograd.gradcheck(results, leaves)
    assert torch.autograd.gradgradcheck(results, leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("form", ["padded", "packed"])
def test_checkpoint(form, reentrant, dtype):
    """Activations are not kept but computed again, with the same masks of dropout."""

    def act(module, given):
        torch.manual_seed(1)
        results = torch.utils.checkpoint.checkpoint(
            lambda x: tuple(given.run(module, x)), given.x, use_reentrant=reentrant
        )
        given.back(results)
        return named(results) | given.gradients(module)

    assert_alike(act, LSTM, DEEP._replace(form=form, dropout=0.3), dtype)


@alike(*IN_EVERY_FORM)
def test_saved_tensors_on_their_way(module: Module, given: Given):
    """What is saved goes through the caller's hooks, and what comes back from them is used."""
    saved = []

    def pack(t):
        saved.append(t)
        return t.clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t.clone()):
        results = given.run(module)
    assert saved
    given.back(results)
    return given.gradients(module)


@alike(DEEP)
def test_saved_tensors_on_the_cpu(module: Module, given: Given):
    with torch.autograd.graph.save_on_cpu():
        results = given.run(module)
    given.back(results)
    return given.gradients(module)


@alike(DEEP)
def test_anomalies_are_detected(module: Module, given: Given):
    with pytest.warns(UserWarning, match="Anomaly"), torch.autograd.detect_anomaly():
        return given.train(module)


# ---- transforms and dtypes that the engine does not serve -----------------------------------


def _of_input(module: Module, given: Given) -> Callable[[Tensor], Tensor]:
    return lambda x: given.run(module, x)[0]


def _dual(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, 2 * x)))[1]


TRANSFORMS: dict[str, Callable[[Module, Given], Tensor]] = {
    "grad": lambda m, g: torch.func.grad(lambda x: _of_input(m, g)(x).square().sum())(g.x),
    "vjp": lambda m, g: torch.func.vjp(_of_input(m, g), g.x)[1](g.d[0])[0],
    "jvp": lambda m, g: torch.func.jvp(_of_input(m, g), (g.x,), (g.x,))[1],
    "forward mode": lambda m, g: _dual(_of_input(m, g), g.x),
    "jacrev": lambda m, g: torch.func.jacrev(_of_input(m, g))(g.x),
    "jacfwd": lambda m, g: torch.func.jacfwd(_of_input(m, g))(g.x),
    "hessian": lambda m, g: torch.func.hessian(lambda x: _of_input(m, g)(x).sum())(g.x[:1]),
    "vmap": lambda m, g: torch.vmap(_of_input(m, g))(torch.stack([g.x, -g.x])),
    "jacobian": lambda m, g: torch.autograd.functional.jacobian(_of_input(m, g), g.x),
    "vectorized jacobian": lambda m, g: torch.autograd.functional.jacobian(
        _of_input(m, g), g.x, vectorize=True
    ),
    "vectorized hessian": lambda m, g: torch.autograd.functional.hessian(
        lambda x: _of_input(m, g)(x).square().sum(), g.x, vectorize=True
    ),
    "jvp by two ways back": lambda m, g: torch.autograd.functional.jvp(
        _of_input(m, g), g.x, g.x.detach()
    )[1],
    "hvp": lambda m, g: torch.autograd.functional.hvp(
        lambda x: _of_input(m, g)(x).square().sum(), g.x, g.x.detach()
    )[1],
}


# What torch.nn.LSTM refuses: forward mode where oneDNN runs, in float32.
REFUSED = {("vmap", dtype) for dtype in DTYPES}
REFUSED |= {(name, "float32") for name in ("jvp", "jacfwd", "hessian", "forward mode")}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms(transform, dtype):
    def act(module, given):
        return {"result": TRANSFORMS[transform](module, given)}

    setting = Setting(lengths=(2, 2), hx=False)
    if (transform, dtype) in REFUSED:
        assert_same_error(act, LSTM, setting, dtype)
    else:
        assert_alike(act, LSTM, setting, dtype, engine=False)


@alike(engine=False)
def test_gradients_of_parameters_by_functional_call(module: Module, given: Given):
    def total(parameters):
        call = torch.func.functional_call
        return given.run(lambda *a: call(module, parameters, a))[0].square().sum()

    return torch.func.grad(total)(dict(module.named_parameters()))


def _equal(act: Act, setting: Setting = Setting()) -> None:  # noqa: B008 (a tuple)
    """Assert that both classes give the same bits: torch's own forward ran for both."""
    got, expected = (act(given.module(cls), given) for cls, given in
                     ((cls, Given(setting)) for cls in (LSTM, nn.LSTM)))  # fmt: skip
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64])
def test_other_dtypes(dtype):
    def act(module, given):
        module.to(dtype)
        given.hx = tuple(state.to(dtype) for state in given.hx)
        return given.run(module, given.x.to(dtype))

    _equal(act, DEEP)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_gradients_of_each_sample():
    """In float32: torch refuses them in float64."""

    def act(module, given):
        def total(parameters, x):
            call = torch.func.functional_call
            return call(module, parameters, (x.unsqueeze(1),))[0].square().sum()

        each = torch.vmap(torch.func.grad(total), (None, 1))
        return [*each(dict(module.named_parameters()), given.x).values()]

    _equal(act)


@pytest.mark.parametrize("form", FORMS)
def test_autocast(form):
    def act(module, given):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results = given.run(module)
        given.back([r.float() for r in results])
        return [*results, *given.gradients(module).values()]

    _equal(act, DEEP._replace(form=form))


# ---- parameters that change -----------------------------------------------------------------


def _polyak(module: Module) -> None:
    """As Stable-Baselines3 moves a target's parameters."""
    for p in module.parameters():
        p.data.mul_(0.9)
        torch.add(p.data, 2 * p.data.flip(0), alpha=0.1, out=p.data)


def _vector(module: Module) -> None:
    vector = nn.utils.parameters_to_vector(module.parameters())
    nn.utils.vector_to_parameters(vector.flip(0), module.parameters())


def _assign(module: Module) -> None:
    for name, p in [*module.named_parameters()]:
        setattr(module, name, nn.Parameter(p.detach().flip(0)))


def _load(module: Module, assign: bool) -> None:
    state = {name: value.flip(0) for name, value in module.state_dict().items()}
    module.load_state_dict(state, assign=assign)


def _each(write: Callable[[Tensor], Any]) -> Callable[[Module], None]:
    """Write each parameter as it is, outside of autograd."""

    def change(module: Module) -> None:
        with torch.no_grad():
            for p in module.parameters():
                write(p)

    return change


def _set_data(p: Tensor) -> None:
    p.data = p.data.flip(0)


CHANGES: dict[str, Callable[[Module], None]] = {
    "no_grad": _each(lambda p: p.mul_(1.5)),
    "foreach": lambda module: torch._foreach_mul_([p.data for p in module.parameters()], 1.5),
    "one value": _each(lambda p: p[-1:].add_(1)),
    "data": _each(lambda p: p.data.mul_(1.5)),
    "data = ": _each(_set_data),
    "detach": _each(lambda p: p.detach().mul_(1.5)),
    "numpy": _each(lambda p: np.multiply(p.numpy(), 1.5, out=p.numpy())),
    "data clamped": _each(lambda p: p.data.clamp_(-0.9, 0.9)),
    "data, one value": lambda module: module.weight_hh_l0.data[3, 1].add_(1),
    "data, exchanged": _each(lambda p: p.data.copy_(p.data.flip(-1))),
    "polyak": _polyak,
    "vector_to_parameters": _vector,
    "new parameters": _assign,
    "load_state_dict": lambda module: _load(module, False),
    "load_state_dict, assign": lambda module: _load(module, True),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_parameters_is_seen(change, dtype):
    """However they are written, at once, in training and in evaluation."""

    def act(module, given):
        got = {}
        for training in (True, False):
            module.train(training)
            for enabled in (True, False):
                with torch.set_grad_enabled(enabled):
                    given.run(module)
                    CHANGES[change](module)
                    got |= named(given.run(module), f" {training} {enabled}")
        return got | given.train(module)

    assert_alike(act, LSTM, DEEP._replace(proj_size=2), dtype, steps=8)


@alike(DEEP, steps=2)
def test_functional_call(module: Module, given: Given):
    """Other parameters for one call, gradients for them, and the module's own afterwards."""
    others = {n: (2 * p).detach().requires_grad_() for n, p in module.named_parameters()}
    results = given.run(lambda *a: torch.func.functional_call(module, others, a))
    given.back(results)
    got = {f"others' {name}": other.grad for name, other in others.items()}
    return got | named(results, " of others") | given.train(module)


@alike(DEEP)
def test_parameters_that_are_shared(module: Module, given: Given):
    """Both directions, and both biases, are one."""
    for name in [*dict(module.named_parameters())]:
        if name.endswith("_reverse"):
            setattr(module, name, getattr(module, name.removesuffix("_reverse")))
    for layer in range(2):
        setattr(module, f"bias_hh_l{layer}", getattr(module, f"bias_ih_l{layer}"))
    return given.train(module)


@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_of_modules_of_different_kinds(dtype):
    """Two layers and two directions may have the very same parameters."""

    def act(module, given):
        deep = type(module)(5, 5, 2, dtype=given.dtype)
        wide = type(module)(5, 5, 1, bidirectional=True, dtype=given.dtype)
        deep.load_state_dict({name: module.state_dict()[name] for name in deep.state_dict()})
        for name in [*dict(wide.named_parameters())]:
            setattr(wide, name, getattr(deep, name.replace("l0_reverse", "l1")))
        got = {}
        for enabled in (False, True):
            with torch.set_grad_enabled(enabled):
                for one in (deep, wide, deep):
                    got[f"{enabled} {one} {len(got)}"] = one(given.x)[0]
        return got

    assert_alike(act, LSTM, Setting(I=5, num_layers=2), dtype)


@alike(DEEP)
def test_parameters_that_are_tensors(module: Module, given: Given):
    """As weight drop has them: what a parameter was is computed anew before each run."""
    raw = module.weight_hh_l0
    del module.weight_hh_l0
    module.register_parameter("raw", raw)
    got = {}
    for factor in (2, 3):
        module.weight_hh_l0 = raw * factor
        got |= named(given.run(module), f" {factor}")
    return got | given.train(module)


# ---- optimisers -----------------------------------------------------------------------------

VARIANTS: dict[str, list[str]] = {
    name: ["foreach"] for name in "Adadelta Adamax ASGD NAdam RAdam RMSprop Rprop".split()
} | {name: ["foreach", "fused"] for name in "Adagrad Adam AdamW SGD".split()}
VARIANTS |= {"LBFGS": [], "Adafactor": ["foreach"]}


@pytest.mark.parametrize("optimiser, variant", [
    (name, variant) for name, variants in VARIANTS.items() for variant in ["", *variants]
])  # fmt: skip
def test_optimisers(optimiser, variant):
    """All of torch's that take parameters of one and of two axes: three steps."""

    def act(module, given):
        options = {variant: True} if variant else {}
        of = getattr(torch.optim, optimiser)(module.parameters(), lr=0.01, **options)

        def loss():
            of.zero_grad()
            total = sum((r * d).sum() for r, d in zip(given.run(module), given.d, strict=True))
            total.backward()
            return total

        for _ in range(3):
            of.step(loss)
        return dict(module.named_parameters())

    assert_alike(act, LSTM, Setting(num_layers=2), "float64", steps=60 if of_many(optimiser) else 3)


def of_many(optimiser: str) -> bool:
    """Whether one step calls the loss many times."""
    return optimiser == "LBFGS"


@pytest.mark.parametrize("kind", ["AveragedModel", "swa", "ema"])
def test_averages_of_models(kind):
    def act(module, given):
        swa = torch.optim.swa_utils
        averaging = {"ema": {"multi_avg_fn": swa.get_ema_multi_avg_fn(0.5)}}
        averaging["swa"] = {"multi_avg_fn": swa.get_swa_multi_avg_fn()}
        average = swa.AveragedModel(module, **averaging.get(kind, {}))
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
        got = {}
        for k in range(3):
            optimiser.zero_grad()
            given.train(module)
            optimiser.step()
            average.update_parameters(module)
            got |= named(given.run(average), f" {k}")
        return got

    assert_alike(act, LSTM, Setting(num_layers=2), "float64", steps=6)


@alike(DEEP, dtypes=["float64"], steps=2)
def test_clipping(module: Module, given: Given):
    got = given.train(module)
    norm = nn.utils.clip_grad_norm_(module.parameters(), 0.5)
    got |= {f"by norm {name}": g.clone() for name, g in given.gradients(module).items()}
    nn.utils.clip_grad_value_(module.parameters(), 0.01)
    return got | {f"by value {n}": g for n, g in given.gradients(module).items()} | {"norm": norm}


# ---- parametrizations -----------------------------------------------------------------------


class _Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / 2


def _register(module: Module) -> None:
    for name in ("weight_ih_l0", "weight_hh_l1", "bias_hh_l0"):
        nn.utils.parametrize.register_parametrization(module, name, _Doubled())


PARAMETRIZATIONS: dict[str, tuple[Callable[[Module], Any], Callable[[Module], Any]]] = {
    "own": (_register, lambda m: nn.utils.parametrize.remove_parametrizations(m, "weight_hh_l1")),
    "weight norm": (
        lambda m: nn.utils.parametrizations.weight_norm(m, "weight_hh_l0"),
        lambda m: nn.utils.parametrize.remove_parametrizations(m, "weight_hh_l0"),
    ),
    "weight norm of old": (
        lambda m: nn.utils.weight_norm(m, "weight_hh_l0"),
        lambda m: nn.utils.remove_weight_norm(m, "weight_hh_l0"),
    ),
    "spectral norm": (
        lambda m: nn.utils.parametrizations.spectral_norm(m, "weight_ih_l1"),
        lambda m: nn.utils.parametrize.remove_parametrizations(m, "weight_ih_l1"),
    ),
    "spectral norm of old": (
        lambda m: nn.utils.spectral_norm(m, "weight_ih_l1"),
        lambda m: nn.utils.remove_spectral_norm(m, "weight_ih_l1"),
    ),
    "orthogonal": (
        lambda m: nn.utils.parametrizations.orthogonal(m, "weight_hh_l0"),
        lambda m: nn.utils.parametrize.remove_parametrizations(m, "weight_hh_l0"),
    ),
    "pruned": (
        lambda m: prune.l1_unstructured(m, "weight_hh_l0", 0.5),
        lambda m: prune.remove(m, "weight_hh_l0"),
    ),
}


@pytest.mark.filterwarnings("ignore:.*is deprecated in favor of:FutureWarning")
@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_parametrizations(name):
    """In training, after an optimiser's step, in a cache, and when they are removed again."""
    register, remove = PARAMETRIZATIONS[name]

    def act(module, given):
        torch.manual_seed(1)
        register(module)
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
        got = given.train(module)
        optimiser.step()
        got |= named(given.run(module), " after a step")
        with nn.utils.parametrize.cached():
            got |= named(given.run(module), " cached")
        remove(module)
        return got | named(given.run(module), " removed") | {
            "isinstance": isinstance(module, nn.LSTM),
            "names": [n for n, _ in module.named_parameters()],
        }  # fmt: skip

    assert_alike(act, LSTM, Setting(num_layers=2), "float64", steps=20)


# ---- copies and files -----------------------------------------------------------------------


def _saved(module: Module) -> Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _state_saved(module: Module) -> Module:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = type(module)(module.input_size, module.hidden_size, 2, bidirectional=True)
    other.to(module.weight_ih_l0.dtype).load_state_dict(torch.load(file, weights_only=True))
    return other


def _on_meta(module: Module) -> Module:
    state = {name: value.clone() for name, value in module.state_dict().items()}
    module.to("meta")
    module.to_empty(device="cpu").load_state_dict(state)
    return module


COPIES: dict[str, Callable[[Module], Module]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "save": _saved,
    "state_dict": _state_saved,
    "meta": _on_meta,
    "share_memory": lambda module: module.share_memory(),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", COPIES)
def test_copies(way, dtype):
    """Also of a module that has run; what happens to the one does not change the other."""

    def act(module, given):
        given.run(module)
        other = COPIES[way](module)
        assert type(other) is type(module)
        got = given.train(other)
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(1.5)
        return got | named(given.run(module), " of the old") | named(given.run(other), " of it")

    assert_alike(act, LSTM, DEEP, dtype, steps=2)


@pytest.mark.parametrize("swap", [False, True])
def test_another_dtype_and_back(swap):
    """`module.double()` and `module.float()`, by new tensors and by exchanged ones."""

    @torch.no_grad()
    def act(module, given):
        torch.__future__.set_swap_module_params_on_conversion(swap)
        try:
            given.run(module)
            x, given.hx = given.x.float(), tuple(state.float() for state in given.hx)
            got = named(given.run(module.float(), x), " in float32")
            x, given.hx = x.double(), tuple(state.double() for state in given.hx)
            got |= named(given.run(module.double(), x), " in float64")
            return {name: result.to(given.dtype) for name, result in got.items()}
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)

    assert_alike(act, LSTM, DEEP, "float32")


# ---- hooks ----------------------------------------------------------------------------------


@alike(DEEP, DEEP._replace(form="packed"))
def test_hooks_of_modules(module: Module, given: Given):
    """Before and after forward and backward, with keywords, and that change what passes."""
    seen = []

    def before(module, args, kwargs):
        seen.append(("before", len(args), sorted(kwargs)))
        return args, kwargs

    def after(module, args, result):
        seen.append(("after", len(args)))
        return result[0], (result[1][0] * 2, result[1][1])

    module.register_forward_pre_hook(before, with_kwargs=True)
    module.register_forward_hook(after)
    module.register_forward_hook(lambda *_: seen.append("always"), always_call=True)
    if given.setting.form == "padded":  # torch's hooks of the way back see no packs
        module.register_full_backward_pre_hook(lambda module, d: seen.append(("back", len(d))))
        module.register_full_backward_hook(lambda m, dx, dy: seen.append((len(dx), len(dy))))
    return given.train(module) | {"seen": seen}


@alike(DEEP)
def test_hooks_of_tensors_and_parameters(module: Module, given: Given):
    seen = []
    given.x.register_hook(lambda d: 2 * d)
    for name, p in module.named_parameters():
        p.register_hook(lambda d: 3 * d)
        p.register_post_accumulate_grad_hook(lambda p, name=name: seen.append(name))
    results = given.run(module)
    results[0].register_hook(lambda d: d / 2)
    results[1].retain_grad()
    given.back(results)
    return given.gradients(module) | {"seen": sorted(seen), "d_h_n": results[1].grad}


@alike(DEEP)
def test_hooks_of_state_dicts(module: Module, given: Given):
    seen = []
    module.register_state_dict_pre_hook(lambda *_: seen.append("state_dict before"))
    module.register_state_dict_post_hook(lambda *_: seen.append("state_dict after"))
    module.register_load_state_dict_pre_hook(lambda *_: seen.append("load before"))
    module.register_load_state_dict_post_hook(lambda *_: seen.append("load after"))
    module.load_state_dict({name: 2 * value for name, value in module.state_dict().items()})
    return given.train(module) | {"seen": seen}


# ---- the class ------------------------------------------------------------------------------


def _twins(**arguments: Any) -> tuple[Module, Module]:
    """torch.nn.LSTM and ours, both made after the same seed."""
    torch.manual_seed(7)
    theirs = nn.LSTM(3, 5, **arguments)
    torch.manual_seed(7)
    return theirs, LSTM(3, 5, **arguments)


OPTIONS = [
    {},
    {"num_layers": 2, "bias": False, "batch_first": True},
    {"num_layers": 3, "dropout": 0.25, "bidirectional": True, "proj_size": 2},
    {"dtype": torch.float64},
    {"device": "meta"},
]


@pytest.mark.parametrize("arguments", OPTIONS, ids=repr)
def test_what_a_module_is(arguments):
    theirs, ours = _twins(**arguments)
    assert isinstance(ours, nn.LSTM)
    assert repr(ours) == repr(theirs)
    assert ours.extra_repr() == theirs.extra_repr()
    assert ours.all_weights is not None
    for of in (lambda m: m.named_parameters(), lambda m: m.state_dict().items()):
        for (name, value), (their_name, their_value) in zip(of(ours), of(theirs), strict=True):
            assert (name, value.dtype, value.device) == (
                their_name, their_value.dtype, their_value.device,
            )  # fmt: skip
            assert value.is_meta or torch.equal(value, their_value), name
    assert [[w.shape for w in ws] for ws in ours.all_weights] == [
        [w.shape for w in ws] for ws in theirs.all_weights
    ]
    public = {name for name in vars(theirs) if name != "_flat_weight_refs"}
    assert {name for name in vars(ours) if name != "_flat_weight_refs"} == public
    assert ours.flatten_parameters() is None


def test_first_weights_and_reset():
    """The same numbers of torch's generator, also of a module that has run."""
    theirs, ours = _twins(num_layers=2)
    x = torch.ones(2, 3)
    with torch.no_grad():
        ours(x)
    for module in (theirs, ours):
        torch.manual_seed(8)
        module.reset_parameters()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[0], theirs(x)[0])


def _subclass(base: type) -> type:
    """A class as a user would write it, on torch's or ours."""

    class Residual(base):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.gain = nn.Parameter(torch.full((), 0.5, dtype=options["dtype"]))

        def forward(self, input: Tensor, hx: Any = None) -> Any:
            output, states = super().forward(self.gain * input, hx)
            return output + output.mean(), states

        def check_forward_args(self, *args: Any) -> None:
            """One that torch's own forward calls."""
            super().check_forward_args(*args)

        def permute_hidden(self, hx: Any, permutation: Any) -> Any:
            h, c = super().permute_hidden(hx, permutation)
            return h, c

    return Residual


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_a_class_of_ones_own(form, dtype):
    def act(module, given):
        other = _subclass(type(module))(**given.setting.arguments(), dtype=given.dtype)
        other.load_state_dict(module.state_dict(), strict=False)
        if form in ("packed", "unsorted"):
            other.forward = super(type(other), other).forward
        return given.train(other)

    assert_alike(act, LSTM, DEEP._replace(form=form), dtype)


# ---- errors ---------------------------------------------------------------------------------

BAD_ARGUMENTS: list[dict[str, Any]] = [
    {"hidden_size": 0}, {"hidden_size": 5.0}, {"input_size": -1}, {"input_size": "3"},
    {"num_layers": 0}, {"dropout": 1.5}, {"dropout": True}, {"dropout": "1"}, {"bias": 1},
    {"batch_first": None}, {"proj_size": -1}, {"proj_size": 5}, {"dtype": torch.int64},
    {"device": "nowhere"}, {"nonlinearity": "relu"}, {"hidden_size": None},
]  # fmt: skip


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS, ids=repr)
def test_bad_arguments(arguments):
    given = {"input_size": 3, "hidden_size": 5} | arguments
    errors = []
    for cls in (nn.LSTM, LSTM):
        with pytest.raises(Exception) as caught:  # noqa: B017, PT011 (any, but the same)
            cls(**given)
        errors.append((caught.type, str(caught.value)))
    assert errors[1] == errors[0]


def test_dropout_of_one_layer_is_warned_of():
    with pytest.warns(UserWarning, match="num_layers greater than 1"):
        LSTM(3, 5, dropout=0.5)


def _zeros(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.zeros(shape) for shape in shapes)


def _pack(x: Tensor) -> Any:
    return rnn.pack_padded_sequence(x, [4, 2, 1])


X = torch.ones(4, 3, 3)
STATE, FLAT = (2, 3, 5), (2, 5)
BAD_CALLS: dict[str, tuple[Any, ...]] = {
    "nothing": (),
    "three": (X, None, None),
    "None": (None,),
    "list": ([[1.0]],),
    "array": (X.numpy(),),
    "1-D": (X[0, 0],),
    "4-D": (X[None],),
    "features": (X[..., :2],),
    "features unbatched": (X[:, 0, :2],),
    "dtype": (X.double(),),
    "integers": (X.long(),),
    "no steps": (X[:0],),
    "no steps unbatched": (X[:0, 0],),
    "device": (X.to("meta"),),
    "sparse": (X.to_sparse(),),
    "hx of another dtype": (X, (torch.zeros(STATE), torch.zeros(STATE).double())),
    "hx of another device": (X, (torch.zeros(STATE), torch.zeros(STATE, device="meta"))),
    "hx a tensor": (X, torch.zeros(STATE)),
    "hx a number": (X, 0),
    "hx a string": (X, "ab"),
    "hx of one": (X, _zeros(STATE)),
    "hx of three": (X, _zeros(STATE, STATE, STATE)),
    "hx of None": (X, (None, None)),
    "hx of lists": (X, ([0.0], [0.0])),
    "hx 2-D": (X, _zeros(FLAT, FLAT)),
    "hx 3-D and 2-D": (X, _zeros(STATE, FLAT)),
    "hx unbatched 3-D": (X[:, 0], _zeros(STATE, STATE)),
    "hx layers": (X, _zeros((1, 3, 5), STATE)),
    "cx layers": (X, _zeros(STATE, (3, 3, 5))),
    "hx rows": (X, _zeros((2, 4, 5), STATE)),
    "cx rows": (X, _zeros(STATE, (2, 2, 5))),
    "cx features": (X, _zeros(STATE, (2, 3, 4))),
    "hx unbatched layers": (X[:, 0], _zeros((3, 5), FLAT)),
    "pack of fewer rows": (rnn.PackedSequence(X[0], torch.tensor([3, 1])),),
    "pack that grows": (rnn.PackedSequence(X[0], torch.tensor([1, 2])),),
    "pack of nothing": (rnn.PackedSequence(X[0, :0], torch.tensor([], dtype=torch.int64)),),
    "pack with sizes of int32": (rnn.PackedSequence(X[0], torch.tensor([3], dtype=torch.int32)),),
    "pack of another dtype": (_pack(X.double()),),
    "pack of integers": (_pack(X.long()),),
    "pack, hx of one": (_pack(X), _zeros(STATE)),
    "pack, hx of three": (_pack(X), _zeros(STATE, STATE, STATE)),
    "pack, hx of another dtype": (_pack(X), tuple(t.double() for t in _zeros(STATE, STATE))),
    "pack, hx of None": (_pack(X), (None, None)),
    "pack, hx a number": (_pack(X), 0),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("call", BAD_CALLS)
def test_bad_calls(call, training):
    def act(module, given):
        with torch.set_grad_enabled(training):
            module.train(training)(*BAD_CALLS[call])

    assert_same_error(act, LSTM, Setting(num_layers=2, dropout=0.5))


# Of packs torch checks no shapes, says whatever its operators say, or reads beyond the rows. Ours
# are refused with what it says of padded input.
BAD_PACKS: dict[str, tuple[tuple[Any, ...], str]] = {
    "features": (
        (_pack(X[..., :2]),),
        "input.size(-1) must be equal to input_size. Expected 3, got 2",
    ),
    "hx rows": (
        (_pack(X), _zeros((2, 2, 5), STATE)),
        "Expected hidden[0] size (2, 3, 5), got [2, 2, 5]",
    ),
    "cx rows": (
        (_pack(X), _zeros(STATE, (2, 4, 5))),
        "Expected hidden[1] size (2, 3, 5), got [2, 4, 5]",
    ),
    "hx layers": (
        (_pack(X), _zeros((1, 3, 5), STATE)),
        "Expected hidden[0] size (2, 3, 5), got [1, 3, 5]",
    ),
    "hx 2-D": ((_pack(X), _zeros(FLAT, FLAT)), "Expected hidden[0] size (2, 3, 5), got [2, 5]"),
}


@pytest.mark.parametrize("fault", BAD_PACKS)
def test_bad_packs(fault):
    call, sentence = BAD_PACKS[fault]
    raises(lambda: LSTM(3, 5, 2)(*call), RuntimeError, sentence)


def _broken(module: Module, name: str, value: Tensor) -> None:
    setattr(module, name, nn.Parameter(value))


BAD_WEIGHTS: dict[str, Callable[[Module], Any]] = {
    "dtype of one": lambda m: _broken(m, "weight_hh_l1", m.weight_hh_l1.detach().double()),
    "dtype of a bias": lambda m: _broken(m, "bias_ih_l0", m.bias_ih_l0.detach().double()),
    "shape of one": lambda m: _broken(m, "weight_hh_l0", m.weight_hh_l0.detach()[:, :3].clone()),
    "rows of one": lambda m: _broken(m, "weight_ih_l1", m.weight_ih_l1.detach()[:8].clone()),
    "on meta": lambda m: m.to("meta"),
}


@pytest.mark.parametrize("form", ["padded", "packed"])
@pytest.mark.parametrize("weights", BAD_WEIGHTS)
def test_bad_weights(weights, form):
    def act(module, given):
        BAD_WEIGHTS[weights](module)
        given.run(module)

    dtype = "float32" if "dtype" in weights else "float64"  # oneDNN looks at no shapes
    assert_same_error(act, LSTM, Setting(form=form, num_layers=2), dtype)


BAD_STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "missing": lambda state: state.pop("bias_hh_l0"),
    "unexpected": lambda state: state.update(weight_hr_l0=torch.zeros(2, 5)),
    "shape": lambda state: state.update(weight_hh_l0=torch.zeros(20, 4)),
    "no tensor": lambda state: state.update(weight_hh_l0=3),
}


@pytest.mark.parametrize("fault", BAD_STATES)
def test_bad_state_dicts(fault):
    errors = []
    for module in _twins():
        state = module.state_dict()
        BAD_STATES[fault](state)
        with pytest.raises(RuntimeError) as caught:
            module.load_state_dict(state)
        errors.append(str(caught.value))
    assert errors[1] == errors[0]


def test_tensors_of_inference_mode_are_refused_in_training():
    def act(module, given):
        with torch.inference_mode():
            x = 2 * given.x
        given.run(module, x)

    assert_same_error(act, LSTM, DEEP, "float64")


# ---- torch.jit ------------------------------------------------------------------------------


class Tagger(nn.Module):
    """What people script: a module that has an LSTM."""

    def __init__(self, lstm: Module) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output, (h_n, c_n) = self.lstm(x)
        return output + h_n[-1] + c_n[-1]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("way", ["script", "trace", "freeze"])
def test_jit(way, tmp_path):
    """TorchScript has torch's own LSTM with these parameters; it can be stored and loaded.

    Like torch's own classes that prepare for it, `script` leaves what it compiled in the model.
    """
    given = Given(Setting(num_layers=2))
    tagger = Tagger(given.module(LSTM)).eval()
    x, weight = given.x.detach(), tagger.lstm.weight_hh_l0
    if way == "trace":
        compiled = torch.jit.trace(tagger, x)
    else:
        compiled = torch.jit.script(tagger)
        compiled = torch.jit.freeze(compiled) if way == "freeze" else compiled
    assert tagger.lstm.weight_hh_l0 is weight
    assert [*accelerate(tagger)] == (["lstm"] if way != "trace" else [])
    torch.jit.save(compiled, tmp_path / "tagger.pt")
    expected = Tagger(given.module(nn.LSTM)).eval()(x)
    for one in (compiled, torch.jit.load(tmp_path / "tagger.pt")):
        torch.testing.assert_close(one(x), expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_dynamic_quantization():
    """Torch looks for the very class: ours stays as it is, and `restore` makes it torch's again."""
    model = nn.Sequential(LSTM(3, 5))
    quantize = torch.ao.quantization.quantize_dynamic
    assert type(quantize(model, {nn.LSTM})[0]) is LSTM
    restore(model)
    assert "Quantized" in repr(quantize(model, {nn.LSTM}))


# ---- threads and processes ------------------------------------------------------------------


def test_threads_of_torch():
    """Each call takes as many threads as torch has then; the numbers are the same."""
    given = Given(Setting(I=32, H=96, lengths=(60,) * 64))
    module, results = given.module(LSTM), []
    before = torch.get_num_threads()
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        results.append(given.run(module))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("form", ["padded", "packed"])
def test_threads_of_python(form):
    """Several run one module and go back, each over its own graph, as if they ran alone."""
    setting = DEEP._replace(form=form, H=24, lengths=(20, 20, 9))
    module = Given(setting).module(LSTM)

    def work(thread):
        given = Given(setting)
        x = (given.x.detach() * (1 + thread)).requires_grad_()
        output, *_ = given.run(module, x)
        leaves = [x, *module.parameters()]
        gradients = torch.autograd.grad(output.square().sum(), leaves)
        with torch.no_grad():
            return [output.detach(), *gradients, *given.run(module, x)]

    expected = [work(thread) for thread in range(THREADS)]
    for results in together(work, times=20):
        for got, alone in zip(results, expected, strict=True):
            assert all(map(torch.equal, got, alone))


def _in_child(module: Module, x: Tensor, queue: Any) -> None:
    with torch.no_grad():
        queue.put(module(x)[0].numpy())
    output = module(x)[0]
    output.sum().backward()
    queue.put(module.weight_hh_l0.grad.numpy())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process():
    """As a DataLoader's worker or a vectorised environment: after the module ran with threads."""
    given = Given(Setting(I=32, H=96, lengths=(60,) * 64, hx=False))
    module, x = given.module(LSTM), given.x.detach()
    torch.set_num_threads(2)
    try:
        output = module(x)[0]
        output.sum().backward()
    finally:
        torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    module.share_memory().zero_grad()
    child = context.Process(target=_in_child, args=(module, x, queue))
    child.start()
    got = [queue.get(timeout=60) for _ in range(2)]
    child.join(60)
    assert child.exitcode == 0
    with torch.no_grad():
        assert_same_bits(got[0], module(x)[0].numpy())
    module(x)[0].sum().backward()
    assert_same_bits(got[1], module.weight_hh_l0.grad.numpy())


# ---- memory ---------------------------------------------------------------------------------


def test_a_module_goes_with_its_last_reference():
    """Packed weights do not keep parameters alive, nor do graphs that are gone."""
    given = Given(DEEP)
    module = given.module(LSTM)
    given.train(module)
    with torch.no_grad():
        given.run(module)
    watched = [weakref.ref(p) for p in module.parameters()] + [weakref.ref(module)]
    before = len(packs._packs)
    assert before
    del module
    gc.collect()
    assert not [w for w in watched if w() is not None]
    assert len(packs._packs) < before


def test_memory_of_many_calls():
    """In training with an optimiser, in evaluation, packed: what 50 calls hold is all."""
    resource = pytest.importorskip("resource")
    given = Given(Setting(form="packed", H=64, lengths=(20, 20, 9), num_layers=2))
    module = given.module(LSTM)
    optimiser = torch.optim.SGD(module.parameters(), lr=1e-3)

    def calls(count):
        for _ in range(count):
            given.train(module)
            optimiser.step()
            optimiser.zero_grad()
            with torch.no_grad():
                given.run(module)
        gc.collect()
        unit = 1 if sys.platform == "darwin" else 1024
        return len(gc.get_objects()), unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    objects, memory = calls(50)
    more_objects, more_memory = calls(200)
    assert more_objects - objects < 50
    # A tape of one call has 100 kB, its weights 200 kB: leaks would show as 60 MB.
    assert more_memory - memory < 20e6


# ---- broken twins ---------------------------------------------------------------------------


class _Broken(nn.LSTM):
    """torch.nn.LSTM with one fault, which `fault` names."""

    fault = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.old: list[Module] = []

    def forward(self, input: Any, hx: Any = None) -> Any:
        return getattr(self, f"_{self.fault}")(input, hx)

    def _hx_dropped(self, input, hx):
        return _FORWARD(self, input)

    def _states_swapped(self, input, hx):
        output, (h, c) = _FORWARD(self, input, hx)
        return output, (c, h)

    def _gates_swapped(self, input, hx):
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            i, f, g, o = getattr(self, name).data.chunk(4)
            getattr(self, name).data = torch.cat([f, i, g, o])
        return _FORWARD(self, input, hx)

    def _bias_of_layer_two_forgotten(self, input, hx):
        self.bias_hh_l1.data.zero_()
        return _FORWARD(self, input, hx)

    def _order_of_a_pack(self, input, hx):
        if isinstance(input, rnn.PackedSequence) and input.sorted_indices is not None:
            output, (h, c) = _FORWARD(self, input, hx)
            return output, (h[:, input.sorted_indices], c)
        return _FORWARD(self, input, hx)

    def _a_gradient_missing(self, input, hx):
        self.bias_hh_l1_reverse.requires_grad_(False)
        return _FORWARD(self, input, hx)

    def _a_gradient_doubled(self, input, hx):
        hx = (hx[0] * 2 - hx[0].detach(), hx[1])
        return _FORWARD(self, input, hx)

    def _masks_of_another_draw(self, input, hx):
        torch.rand(())
        return _FORWARD(self, input, hx)

    def _generator_drawn_from(self, input, hx):
        result = _FORWARD(self, input, hx)
        torch.rand(())
        return result

    def _old_weights(self, input, hx):
        if not self.old:
            self.old.append(copy.deepcopy(self))
        return _FORWARD(self.old[0], input, hx)

    def _rounded(self, input, hx):
        output, states = _FORWARD(self, input, hx)
        if isinstance(output, rnn.PackedSequence):
            return output, states
        return output * (1 + 1000 * torch.finfo(output.dtype).eps), states

    def _torchs_own(self, input, hx):
        return super().forward(input, hx)


_FORWARD = nn.LSTM.forward
_IN_PACKS = DEEP._replace(form="unsorted")


def _dropped(module: Module, given: Given) -> dict[str, Any]:
    torch.manual_seed(3)
    return given.train(module) | {"rng": torch.get_rng_state()}


def _stepped(module: Module, given: Given) -> dict[str, Any]:
    given.train(module)
    CHANGES["data"](module)
    return named(given.run(module))


FAULTS: dict[str, tuple[Act, Setting]] = {
    "masks_of_another_draw": (_dropped, DEEP._replace(dropout=0.4)),
    "generator_drawn_from": (_dropped, DEEP._replace(dropout=0.4)),
    "old_weights": (_stepped, DEEP),
    "rounded": (train, DEEP),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "fault", [name[1:] for name in vars(_Broken) if name.startswith("_") and "__" not in name]
)
def test_the_comparison_finds_faults(fault, dtype):
    act, setting = FAULTS.get(fault, (train, _IN_PACKS))
    broken = type("Broken", (_Broken,), {"fault": fault})
    with pytest.raises(AssertionError):
        assert_alike(act, broken, setting, dtype)


def test_the_comparison_passes_what_is_right():
    right = type("Right", (nn.LSTM,), {"forward": _FORWARD})
    for act, setting in [(train, _IN_PACKS), *FAULTS.values()]:
        assert_alike(act, right, setting, "float64")
