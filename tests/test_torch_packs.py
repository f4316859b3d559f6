"""Packed weights of fastlstm.torch: writes that torch does not count, and the cost to forget."""

import importlib
from unittest import mock

import pytest

torch = pytest.importorskip("torch")
ours = pytest.importorskip("fastlstm.torch", exc_type=ImportError)
packs = importlib.import_module("fastlstm.torch.packs")


def _is_seen(module, x, write):
    """Whether a write after a call is seen by the next one."""
    with torch.no_grad():
        module(x)
        write()
        torchs = torch.nn.LSTM(module.input_size, module.hidden_size)
        torchs.load_state_dict(module.state_dict())
        expected, got = torchs(x)[0], module(x)[0]
    return bool((got - expected).abs().max() < 1e-5)


@pytest.mark.parametrize("sizes", [(1000, 32), (32, 100), (128, 32)])
@pytest.mark.parametrize("axis", [0, 1])
def test_every_row_and_column_is_looked_at(sizes, axis):
    """In a parameter that has more columns than rows, too."""
    I, H = sizes  # noqa: E741
    torch.manual_seed(0)
    module, x = ours.LSTM(I, H), torch.randn(3, 2, I)
    w = module.weight_ih_l0.data
    assert w.nbytes > 16384  # otherwise all values are looked at
    count = w.shape[axis]
    for at in {0, 1, count // 2, count - 1}:
        line = w.select(axis, at)
        assert _is_seen(module, x, lambda line=line: line.add_(1))


def test_single_values_of_what_inference_mode_made_are_seen():
    """Such tensors have no count of writes."""
    with torch.inference_mode():
        torch.manual_seed(0)
        module, x = ours.LSTM(64, 64), torch.randn(3, 2, 64)
        w = module.weight_hh_l0
        assert w.nbytes > 16384
        assert _is_seen(module, x, lambda: w[3, 5].add_(3))
        assert _is_seen(module, x, lambda: w[200, 1].add_(3))


def test_weights_of_inference_mode_are_packed_once():
    with torch.inference_mode():
        module, x = ours.LSTM(64, 64), torch.randn(3, 2, 64)
        module(x)
        with mock.patch.object(packs, "_Pack", side_effect=AssertionError("packed again")):
            module(x)


@pytest.mark.parametrize("optimiser", ["SGD", "Adam", "Adagrad"])
def test_a_fused_optimiser_does_not_count_but_is_seen(optimiser):
    torch.manual_seed(0)
    module, x = ours.LSTM(64, 64), torch.randn(3, 2, 64)
    step = getattr(torch.optim, optimiser)(module.parameters(), lr=0.1, fused=True).step
    module(x)[0].sum().backward()
    assert _is_seen(module, x, step)


def test_what_is_forgotten_is_found_by_its_parameters():
    """Moving a model of many LSTMs looks at the packs of each, not of all for each."""
    modules = [ours.LSTM(2, 4, num_layers=2) for _ in range(3)]
    x = torch.ones(1, 1, 2)
    for module in modules:
        module(x)  # a pack of each layer
        with torch.no_grad():
            module(x)  # and one of both
    first, *others = ({*map(id, module.parameters())} for module in modules)
    assert sum(not first.isdisjoint(key) for key in packs._packs) == 3
    with mock.patch.object(packs, "_drop", wraps=packs._drop) as drop:
        modules[0].double()
    assert not any(not first.isdisjoint(key) for key in packs._packs)
    assert all(sum(not other.isdisjoint(key) for key in packs._packs) == 3 for other in others)
    assert drop.call_count <= 2 * 8  # each of its parameters has two packs
