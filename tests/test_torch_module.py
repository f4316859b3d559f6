"""fastlstm.torch.LSTM computes what torch.nn.LSTM does, whatever it is given and how it is called.

`twins.py` says how the two are compared. Most tests are acts, of which `alike` makes tests.
`test_torch_parameters.py` and `test_torch_class.py` are about all else that a module is.
"""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import multiprocessing
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import twins
from support import assert_same_bits
from test_threads_python import THREADS, together
from twins import (
    DEEP,
    DTYPES,
    FORMS,
    IN_EVERY_FORM,
    Act,
    Given,
    Module,
    Setting,
    Tensor,
    assert_alike,
    assert_same_error,
    has_bfloat16_lstm,
    named,
    rnn,
    torch,
    train,
)

from fastlstm.torch import LSTM, packs

nn = torch.nn

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:DeprecationWarning"),
]

alike = functools.partial(twins.alike, LSTM)


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
    before = given.h_0.clone()
    given.back(given.run(module))
    with torch.no_grad():
        later = given.run(module)
    assert torch.equal(given.h_0, before)  # nobody wrote it
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


@pytest.mark.skipif(not has_bfloat16_lstm(), reason="torch has no LSTM in bfloat16 here")
@pytest.mark.parametrize("form", FORMS)
def test_autocast(form):
    def act(module, given):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results = given.run(module)
        given.back([r.float() for r in results])
        return [*results, *given.gradients(module).values()]

    _equal(act, DEEP._replace(form=form))


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
    for p in module.parameters():
        p.data.mul_(1.5)
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
