"""fastlstm.torch.LSTMCell is a torch.nn.LSTMCell: twins, as in `test_torch_module.py`.

The acts here are given an LSTM of one layer, and make a cell of the same parameters.
"""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import twins
from twins import DTYPES, Act, Given, Module, Setting, Tensor, assert_alike, torch

from fastlstm.torch import LSTM, LSTMCell

nn = torch.nn
alike = functools.partial(twins.alike, LSTM)
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:DeprecationWarning")
UNBATCHED = Setting(form="unbatched")


def cell_of(module: Module) -> Module:
    """A cell of the kind of the module: torch's or ours."""
    cls = LSTMCell if type(module) is LSTM else nn.LSTMCell
    cell = cls(module.input_size, module.hidden_size, module.bias, dtype=module.weight_ih_l0.dtype)
    state = {name.removesuffix("_l0"): value for name, value in module.state_dict().items()}
    cell.load_state_dict(state)
    return cell


def unroll(cell: Module, given: Given) -> tuple[Tensor, Tensor, Tensor]:
    """Step by step over the input; return what an LSTM returns."""
    states, outputs = given.hx and tuple(state[0] for state in given.hx), []
    for step in given.x:
        states = cell(step, states)
        outputs.append(states[0])
    return torch.stack(outputs), states[0][None], states[1][None]


def gradients(cell: Module, given: Given) -> dict[str, Tensor]:
    leaves = {"x": given.x, "h": given.h_0, "c": given.c_0, **dict(cell.named_parameters())}
    return {f"d_{name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


SETTINGS = [
    Setting(form, hx, bias=bias)
    for form in ("padded", "unbatched")
    for hx in (True, False)
    for bias in (True, False)
]


@alike(*SETTINGS)
def test_values_and_gradients(module: Module, given: Given):
    cell = cell_of(module)
    results = unroll(cell, given)
    given.back(list(results))
    with torch.no_grad():
        later = unroll(cell, given)
    return twins.named(list(results)) | twins.named(list(later), " later") | gradients(cell, given)


@alike(Setting(H=40, I=17), UNBATCHED._replace(H=64))
def test_sizes(module: Module, given: Given):
    cell = cell_of(module)
    results = unroll(cell, given)
    given.back(list(results))
    return twins.named(list(results)) | gradients(cell, given)


@alike(Setting())
def test_layouts_of_memory(module: Module, given: Given):
    cell = cell_of(module)
    h, c = (state[0].mT.contiguous().mT for state in given.hx)
    results = cell(torch.stack([given.x, given.x], dim=-1)[0, ..., 0], (h, c.expand_as(c)))
    sum(result.square().sum() for result in results).backward()
    return {"h": results[0], "c": results[1]} | gradients(cell, given)


@alike(Setting(), steps=6)
def test_changes_of_parameters_are_seen(module: Module, given: Given):
    cell, got = cell_of(module), {}
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            unroll(cell, given)
            cell.weight_hh.data[3, 1] += 1
            got |= twins.named(list(unroll(cell, given)), f" data {grad}")
            with torch.no_grad():
                cell.bias_ih.mul_(2)
            got |= twins.named(list(unroll(cell, given)), f" {grad}")
    return got


COPIES: dict[str, Callable[[Module], Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda cell: pickle.loads(pickle.dumps(cell)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", COPIES)
def test_copies(way, dtype):
    def act(module, given):
        cell = cell_of(module)
        unroll(cell, given)
        other = COPIES[way](cell)
        assert type(other) is type(cell)
        assert repr(other) == "LSTMCell(3, 5)"
        return twins.named(list(unroll(other, given)))

    assert_alike(act, LSTM, Setting(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_state_dict_by_exchanged_tensors(dtype):
    """As torch does it where a program has asked for that, also for a cell that has run."""

    def act(module, given):
        cell = cell_of(module)
        unroll(cell, given)
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            cell.load_state_dict({name: 2 * value for name, value in cell.state_dict().items()})
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)
        return twins.named(list(unroll(cell, given)))

    assert_alike(torch.no_grad()(act), LSTM, Setting(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_second_derivatives_and_transforms(dtype):
    def act(module, given):
        cell = cell_of(module)
        x, leaves = given.x[0], [given.x, *cell.parameters()]

        def total(x):
            return sum(r.square().sum() for r in cell(x))

        first = torch.autograd.grad(total(x), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        got = {f"first {k}": g for k, g in enumerate(first)}
        got |= {f"second {k}": g for k, g in enumerate(second)}
        return got | {
            "grad": torch.func.grad(total)(x),
            "vectorized": torch.autograd.functional.jacobian(
                lambda x: cell(x)[0], x.detach(), vectorize=True
            ),
            "jvp": torch.func.jvp(total, (x,), (2 * x,))[1],
        }

    assert_alike(act, LSTM, Setting(), dtype, steps=3, engine=False)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("way", [torch.jit.script, lambda cell: torch.jit.trace(cell, X[0])])
def test_jit(way):
    torch.manual_seed(0)
    cell = LSTMCell(3, 5)
    torch.testing.assert_close(way(cell)(X[0]), cell(X[0]))
    assert type(cell) is LSTMCell


# ---- errors ---------------------------------------------------------------------------------


def _zeros(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.zeros(shape) for shape in shapes)


X = torch.ones(4, 3, 3)
BAD_CALLS: dict[str, tuple[Any, ...]] = {
    "nothing": (),
    "None": (None,),
    "array": (X[0].numpy(),),
    "3-D": (X,),
    "0-D": (X[0, 0, 0],),
    "features": (X[0, :, :2],),
    "features unbatched": (X[0, 0, :2],),
    "dtype": (X[0].double(),),
    "integers": (X[0].long(),),
    "device": (X[0].to("meta"),),
    "hx a tensor": (X[0], torch.zeros(2, 3, 5)),
    "hx a number": (X[0], 0),
    "hx of one": (X[0], _zeros((3, 5))),
    "hx of three": (X[0], _zeros((3, 5), (3, 5), (3, 5))),
    "hx of None": (X[0], (None, None)),
    "hx rows": (X[0], _zeros((2, 5), (3, 5))),
    "cx rows": (X[0], _zeros((3, 5), (4, 5))),
    "hx features": (X[0], _zeros((3, 4), (3, 5))),
    "cx features": (X[0], _zeros((3, 5), (3, 6))),
    "hx 1-D": (X[0], _zeros((5,), (5,))),
    "hx unbatched 2-D": (X[0, 0], _zeros((1, 5), (1, 5))),
    "hx unbatched features": (X[0, 0], _zeros((4,), (5,))),
    "hx 3-D": (X[0], _zeros((1, 3, 5), (1, 3, 5))),
    "hx of another dtype": (X[0], tuple(t.double() for t in _zeros((3, 5), (3, 5)))),
    "cx of another dtype": (X[0], (torch.zeros(3, 5), torch.zeros(3, 5).double())),
}


def _outcome(cls: type, act: Act) -> Any:
    torch.manual_seed(0)
    try:
        return [result.shape for result in act(cls(3, 5), None)]
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("call", BAD_CALLS)
def test_bad_calls(call, training):
    """Refused with torch's sentence; what torch takes, such as an `hx` of three, is taken."""

    def act(cell, _):
        with torch.set_grad_enabled(training):
            return cell(*BAD_CALLS[call])

    assert _outcome(LSTMCell, act) == _outcome(nn.LSTMCell, act)


BAD_WEIGHTS: dict[str, tuple[int, int]] = {
    "weight_ih": (20, 4),  # of another input
    "weight_hh": (20, 4),
    "bias_hh": (16, 1),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_weights_that_do_not_fit(name, training):
    """They are torch's to refuse, before anything is read beyond its end."""
    errors = []
    for cls in (nn.LSTMCell, LSTMCell):
        cell = cls(3, 5)
        value = torch.ones(BAD_WEIGHTS[name])
        setattr(cell, name, nn.Parameter(value if "weight" in name else value[:, 0]))
        with torch.set_grad_enabled(training), pytest.raises(RuntimeError) as caught:
            cell(torch.ones(2, 3))
        errors.append(str(caught.value))
    assert errors[1] == errors[0]


@pytest.mark.parametrize("training", [True, False])
def test_weights_of_other_units(training):
    """All of them fit each other, and not the cell's sizes."""
    errors = []
    for cls in (nn.LSTMCell, LSTMCell):
        cell, other = cls(3, 5), cls(3, 64)
        cell._parameters.update(other._parameters)
        with torch.set_grad_enabled(training), pytest.raises(RuntimeError) as caught:
            cell(torch.ones(2, 3))
        errors.append(str(caught.value))
    assert errors[1] == errors[0]
