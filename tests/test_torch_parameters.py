"""fastlstm.torch.LSTM has its parameters, copies and hooks as torch.nn.LSTM has them.

Whatever changes a parameter is seen by the next run. Tests are acts, as in `test_torch_module.py`.
"""

from __future__ import annotations

import copy
import functools
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import twins
from twins import DEEP, DTYPES, Given, Module, Setting, Tensor, assert_alike, named, torch

from fastlstm.torch import LSTM

nn = torch.nn
prune = pytest.importorskip("torch.nn.utils.prune")

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

alike = functools.partial(twins.alike, LSTM)


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
