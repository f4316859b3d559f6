"""The memory of tapes in fastlstm.torch: where it begins, and tapes of more than 4 MB."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ours = pytest.importorskip("fastlstm.torch", exc_type=ImportError)
operator = ours.operator


@pytest.mark.parametrize("size", [0, 64, 5000, 1 << 22, (1 << 22) + 1, 20_000_001])
def test_a_tape_begins_at_a_multiple_of_64(size):
    """Otherwise the pass back would copy it."""
    for memory in [operator._memory(size) for _ in range(3)]:
        assert memory.shape == (size,) and memory.dtype is torch.uint8
        assert memory.data_ptr() % 64 == 0
        memory.fill_(7)


def test_gradients_by_a_large_tape(monkeypatch):
    sizes = []
    take = operator._memory
    monkeypatch.setattr(operator, "_memory", lambda size: sizes.append(size) or take(size))
    torch.manual_seed(0)
    slow = torch.nn.LSTM(3, 32)
    fast = copy.deepcopy(slow)
    ours.accelerate(fast)
    x = torch.randn(100, 100, 3)
    for lstm in (slow, fast):
        lstm(x)[0].square().sum().backward()
    (size,) = sizes
    assert size > 1 << 22
    # A gradient is a sum of 10,000 terms, to each of which sums of 3 + 32 + 2 lead.
    off = np.sqrt(10_000 * 37) * np.finfo("float32").eps
    for got, expected in zip(fast.parameters(), slow.parameters(), strict=True):
        assert (got.grad - expected.grad).abs().max() < off * expected.grad.abs().max()
