"""accelerate and restore: what becomes of modules, in models as people build and wrap them.

Models are compared as `twins.py` does it: an act builds one around torch.nn.LSTM, swaps it if ours
is asked for, and does something with it.
"""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
from typing import Any

import pytest
from errors import raises
from twins import Given, Module, Setting, Tensor, alike, assert_alike, named, torch

from fastlstm.torch import LSTM, LSTMCell, accelerate, restore

nn = torch.nn
SETTING = Setting(num_layers=2, lengths=(3, 3))


class Model(nn.Module):
    """An LSTM, the same one once more, one in a list, a cell, and a head."""

    def __init__(self, lstm: Module) -> None:
        super().__init__()
        torch.manual_seed(4)
        size, dtype = lstm.hidden_size, lstm.weight_hh_l0.dtype
        self.encoder = lstm
        self.again = nn.ModuleDict({"tied": lstm})
        self.stack = nn.ModuleList([nn.Identity(), nn.LSTM(size, size), nn.GRU(size, size)])
        self.cell = nn.LSTMCell(size, size)
        self.head = nn.Sequential(nn.Linear(size, 2), nn.Tanh())
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        y, (h_n, c_n) = self.encoder(x)
        z, _ = self.again["tied"](2 * x, (h_n, c_n))
        for layer in self.stack[1:]:
            y = layer(y)[0]
        h = c = None
        for step in y + z:
            h, c = self.cell(step, None if h is None else (h, c))
        return self.head(h) + self.head(c)


NAMES = ["encoder", "stack.1", "cell"]


def model_of(module: Module, wrap: Any = Model) -> Module:
    """The model around torch.nn.LSTM, swapped afterwards if the module was ours."""
    ours = type(module) is LSTM
    if ours:
        restore(module)
    model = wrap(module)
    if ours:
        assert accelerate(model)
    return model


def results(model: Module, given: Given) -> dict[str, Tensor]:
    """Output and all gradients of a model."""
    y = model(given.x)
    y.square().sum().backward()
    return {"y": y, "d_x": given.x.grad} | {n: p.grad for n, p in model.named_parameters()}


# ---- what is swapped ------------------------------------------------------------------------


def test_what_is_swapped_and_what_is_not():
    model = Model(nn.LSTM(3, 5))
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    swapped = accelerate(model)
    assert [*swapped] == NAMES
    assert [type(module) for module in swapped.values()] == [LSTM, LSTM, LSTMCell]
    assert all(swapped[name] is modules[name] for name in NAMES)
    assert model.again["tied"] is model.encoder
    assert type(model.stack[2]) is nn.GRU
    assert dict(model.named_modules()) == modules
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert accelerate(model) == {}
    assert restore(model) == swapped
    assert [type(modules[name]) for name in NAMES] == [nn.LSTM, nn.LSTM, nn.LSTMCell]
    assert restore(model) == {}
    assert [*accelerate(model)] == NAMES


def test_the_root_itself():
    lstm = nn.LSTM(3, 5)
    assert accelerate(lstm) == {"": lstm}
    assert type(lstm) is LSTM
    assert restore(lstm) == {"": lstm}
    assert type(lstm) is nn.LSTM
    assert accelerate(nn.GRU(3, 5)) == {}


def test_classes_of_others_are_left_alone():
    class Own(nn.LSTM):
        pass

    class OfOurs(LSTM):
        pass

    model = nn.ModuleList([Own(3, 5), OfOurs(3, 5), nn.RNN(3, 5)])
    assert accelerate(model) == {} == restore(model)
    assert [type(module) for module in model] == [Own, OfOurs, nn.RNN]


@pytest.mark.parametrize("swap", [accelerate, restore])
def test_what_is_no_module(swap):
    raises(
        lambda: swap([nn.LSTM(3, 5)]),
        TypeError,
        f"{swap.__name__} takes a torch.nn.Module, got list",
    )


# ---- what a swapped model does --------------------------------------------------------------


@alike(LSTM, SETTING)
def test_a_model_gives_the_same(module: Module, given: Given):
    return results(model_of(module), given)


def test_a_restored_model_gives_torchs_bits():
    given = Given(SETTING)
    torchs, model = Model(given.module(nn.LSTM)), Model(given.module(nn.LSTM))
    accelerate(model)
    model(given.x)
    restore(model)
    assert torch.equal(model(given.x), torchs(given.x))


@alike(LSTM, SETTING, dtypes=["float64"], steps=4, engine=False)  # in the end it is torch's own
def test_an_optimiser_goes_on(module: Module, given: Given):
    """It began with torch's modules, goes on with ours, and then with torch's again."""
    ours = type(module) is LSTM
    restore(module)
    model = Model(module)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for swap in (None, accelerate, restore):
        if swap and ours:
            swap(model)
        optimiser.zero_grad()
        model(given.x).square().sum().backward()
        optimiser.step()
    return dict(model.named_parameters()) | {"y": model(given.x)}


@alike(LSTM, SETTING)
def test_hooks_stay(module: Module, given: Given):
    seen: list[Any] = []

    def hooked(module: Module) -> Module:
        module.register_forward_pre_hook(lambda m, args: (2 * args[0], *args[1:]))
        module.register_forward_hook(lambda m, args, y: seen.append("after"))
        module.weight_hh_l0.register_hook(lambda d: 3 * d)
        module.train(False)
        return Model(module)

    return results(model_of(module, hooked), given) | {"seen": seen}


@pytest.mark.parametrize("way", ["deepcopy", "save"])
def test_copies_stay_swapped(way):
    given = Given(SETTING)
    model = Model(given.module(nn.LSTM))
    accelerate(model)
    if way == "save":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other = copy.deepcopy(model)
    assert type(other.encoder) is LSTM
    assert type(other.cell) is LSTMCell
    assert other.encoder is not model.encoder
    assert other.again["tied"] is other.encoder
    assert torch.equal(other(given.x), model(given.x))


def _normed(module: Module) -> Module:
    parametrizations = nn.utils.parametrizations
    parametrizations.weight_norm(module, "weight_hh_l0")
    parametrizations.weight_norm(module, "weight_ih_l1")
    return Model(module)


@alike(LSTM, SETTING, dtypes=["float64"], steps=4)
def test_parametrized_modules(module: Module, given: Given):
    model = model_of(module, _normed)
    assert isinstance(model.encoder, nn.LSTM)
    return results(model, given)


def test_parametrized_modules_are_restored():
    """Their class is one of their own, with torch's or ours below it."""
    lstm = nn.LSTM(3, 5)
    nn.utils.parametrizations.weight_norm(lstm, "weight_hh_l0")
    twin = copy.deepcopy(lstm)
    assert accelerate(lstm) == {"": lstm}
    assert isinstance(lstm, LSTM)
    assert not isinstance(twin, LSTM)
    assert repr(lstm) == repr(twin)
    assert restore(lstm) == {"": lstm}
    assert not isinstance(lstm, LSTM)
    accelerate(lstm)
    nn.utils.parametrize.remove_parametrizations(lstm, "weight_hh_l0")
    assert type(lstm) is LSTM


def test_half_precision_goes_on():
    """What the engine does not serve is torch's own, bit for bit."""
    given = Given(SETTING)
    torchs = Model(given.module(nn.LSTM)).to(torch.bfloat16)
    model = copy.deepcopy(torchs)
    accelerate(model)
    x = given.x.to(torch.bfloat16)
    assert torch.equal(model(x), torchs(x))


# ---- models that are wrapped ----------------------------------------------------------------


@alike(LSTM, SETTING)
def test_in_data_parallel_without_devices(module: Module, given: Given):
    return results(model_of(module, lambda module: nn.DataParallel(Model(module))), given)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_model_that_is_compiled_already():
    """It is traced anew: the class of a module is one of the things that it depends on."""
    given = Given(SETTING)
    compiled = torch.compile(Model(given.module(nn.LSTM)), backend="eager")
    before = compiled(given.x)
    assert [*accelerate(compiled)] == [f"_orig_mod.{name}" for name in NAMES]
    after, eager = compiled(given.x), compiled._orig_mod(given.x)
    assert torch.equal(after, eager)
    torch.testing.assert_close(after, before)
    restore(compiled)
    assert torch.equal(compiled(given.x), compiled._orig_mod(given.x))


def _distributed(rank: int, store: str) -> None:
    """In one of two processes: gradients are means over both, whichever class and when swapped."""
    distributed = torch.distributed
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)

    def act(module: Module, given: Given) -> dict[str, Tensor]:
        got = {}
        for when in ("before", "after"):
            ours = type(module) is LSTM
            if when == "after" and ours:
                restore(module)
            model = nn.parallel.DistributedDataParallel(module)
            if when == "after" and ours:
                assert [*accelerate(model)] == ["module"]
            model.zero_grad()
            results = given.run(model, (1 + rank) * given.x)
            given.back(results)
            got |= {f"{n} {when}": p.grad.clone() for n, p in model.named_parameters()}
        return got | named(results)

    try:
        for form in ("padded", "packed"):
            setting = Setting(form=form, num_layers=2, bidirectional=True)
            assert_alike(act, LSTM, setting, "float64", steps=2)
    finally:
        distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_in_distributed_data_parallel(tmp_path):
    torch.multiprocessing.spawn(_distributed, (str(tmp_path / "store"),), nprocs=2)


@pytest.mark.parametrize(
    "missing, says",
    [
        ("torch", "fastlstm.torch needs torch, which is missing: pip install torch"),
        ("fastlstm.engines._native", "fastlstm.torch computes with engine native alone: "),
    ],
)
def test_what_is_missing_is_said(missing, says):
    program = f"import sys; sys.modules[{missing!r}] = None; import fastlstm.torch"
    ended = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"ImportError: {says}")


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_the_engine_of_other_layers_does_not_matter(engine):
    """FASTLSTM_ENGINE chooses for layers of fastlstm; here it is always native."""
    program = "import fastlstm.torch, torch; fastlstm.torch.LSTM(3, 4)(torch.ones(2, 1, 3))"
    env = os.environ | {"FASTLSTM_ENGINE": engine}
    subprocess.run([sys.executable, "-c", program], env=env, check=True)


def test_torch_is_not_imported_by_others():
    program = "import fastlstm, sys; fastlstm.LSTM(3, 4); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
