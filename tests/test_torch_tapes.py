"""Memory that fastlstm.torch lends to tapes and gradients, and takes back when nobody has them."""

import copy

import numpy as np
import pytest

import fastlstm
from fastlstm.engines import load
from fastlstm.engines.contract import Cell

torch = pytest.importorskip("torch")
ours = pytest.importorskip("fastlstm.torch", exc_type=ImportError)
operator = ours.operator


@pytest.fixture
def stack():
    weights = [*torch.nn.LSTM(2, 3).parameters()]
    return operator.stack_of(weights, 4, 1, True)


@pytest.mark.parametrize("size", [0, 64, 65_535, 65_536, (1 << 22) + 1, 20_000_001])
def test_a_tape_begins_at_a_multiple_of_64(stack, size):
    """Otherwise the pass back would copy it."""
    for memory in [operator._tape(stack, size) for _ in range(3)]:
        assert memory.shape == (size,) and memory.dtype is torch.uint8
        assert memory.data_ptr() % 64 == 0
        memory.fill_(7)


@pytest.mark.parametrize("shape, values, dtype", [((999,), False, "u1"), ((9, 8), True, "f4")])
def test_memory_is_taken_again_when_nobody_has_it(stack, shape, values, dtype):
    lent = [stack.lend(name, shape, values) for name in "aab"]
    places = [array.ctypes.data for array in lent]
    lent[0] = lent[0][1:2]  # the rest of which is nobody's, but its memory is not free
    lent.append(stack.lend("a", shape, values))
    places.append(lent[3].ctypes.data)
    for n, array in enumerate(lent):
        assert array.dtype == dtype and (n == 0 or array.shape == shape)
        array[:] = n
    assert all((array == n).all() for n, array in enumerate(lent))
    assert len(set(places)) == 4 and not any(place % 64 for place in places)
    del array
    lent.clear()
    taken = [stack.lend(name, shape, values) for name in "ab"]
    assert {array.ctypes.data for array in taken} <= {*places}
    del stack
    taken[0][:] = 7  # memory outlives the stack


def test_what_is_kept_has_a_limit():
    """Of all LSTMs of the process together, and not of each of them."""
    spare = load("native").Spare(100_000)
    weights = [*torch.nn.LSTM(2, 3).parameters()]
    cell = Cell(*(w.detach().numpy() for w in weights[:3]))
    stacks = [load("native").Stack([cell], 1, True, spare) for _ in range(30)]
    for stack in stacks:
        stack.lend("a", (10_000,), False)
    assert 10_000 <= spare.bytes < 30_000  # one piece, which all of them took
    lent = [stack.lend("a", (10_000,), False) for stack in stacks]
    del lent
    assert 50_000 < spare.bytes <= 100_000
    stacks[0].lend("a", (200_000,), False)
    assert spare.bytes <= 100_000
    small = [stacks[0].lend("a", (1,), False) for _ in range(1000)]
    del small
    assert spare.bytes <= 256 * 128


def test_what_somebody_holds_stays():
    """Tapes, gradients and views of these, through further steps."""
    torch.manual_seed(0)
    lstm = ours.LSTM(128, 128)
    x = torch.randn(3, 40, 20, 128)
    held = []
    for given in x:
        lstm.zero_grad(set_to_none=True)
        lstm(given)[0].square().sum().backward()
        held.append((lstm.weight_ih_l0.grad, lstm.weight_hh_l0.grad[5:]))
    copies = [tuple(grad.clone() for grad in pair) for pair in held]
    outputs = [lstm(given)[0].square().sum() for given in x]  # so many tapes at once
    for output, pair, expected in zip(outputs, held, copies, strict=True):
        lstm.zero_grad(set_to_none=True)
        output.backward()
        assert torch.equal(lstm.weight_ih_l0.grad, expected[0])
        assert torch.equal(lstm.weight_hh_l0.grad[5:], expected[1])
        assert all(map(torch.equal, pair, expected))


def test_gradients_by_a_large_tape(monkeypatch):
    sizes = []
    take = operator._tape
    monkeypatch.setattr(
        operator, "_tape", lambda stack, size: sizes.append(size) or take(stack, size)
    )
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


def test_a_tape_that_is_not_contiguous():
    """What saves tensors may give them back in another layout: the values count."""
    torch.manual_seed(0)
    module, x, state = torch.nn.LSTM(3, 4), torch.randn(5, 2, 3), torch.zeros(1, 2, 4)
    w = [p.detach() for p in module.parameters()]
    output, *_, tape = operator.lstm_layer(x, None, state, state, w, True, False)
    strided = torch.zeros(2 * len(tape), dtype=torch.uint8)[::2].copy_(tape)
    moved = torch.zeros(len(tape) + 1, dtype=torch.uint8)[1:].copy_(tape)
    (*expected, expected_w), *others = (
        operator.lstm_layer_backward(
            output.cos(), state, state, x, None, w, True, False, output, one, True
        )
        for one in (tape, strided, moved)
    )
    for *got, got_w in others:
        assert all(map(torch.equal, [*got, *got_w], [*expected, *expected_w]))


@pytest.mark.parametrize("bad", [lambda t: t[:-1], lambda t: t.view(1, -1), lambda t: t[:0]])
def test_a_tape_that_is_too_small(bad):
    module, x, state = torch.nn.LSTM(3, 4), torch.randn(5, 2, 3), torch.zeros(1, 2, 4)
    w = [p.detach() for p in module.parameters()]
    output, *_, tape = operator.lstm_layer(x, None, state, state, w, True, False)
    with pytest.raises(ValueError, match="a tape of "):
        operator.lstm_layer_backward(
            output, state, state, x, None, w, True, False, output, bad(tape), True
        )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [(1, 1), (3, 7), (100, 100)])  # the last one adds up sums of 4096
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"proj_size": 3}])
def test_gradients_are_those_that_fastlstm_adds_to_zeros(rows, options, threads, monkeypatch):
    """To the bit, and whatever the memory has held before that is filled with them."""
    take = operator._gradient
    monkeypatch.setattr(operator, "_gradient", lambda *given: take(*given).fill_(np.nan))
    torch.manual_seed(0)
    lstm = ours.LSTM(5, 19, **options)
    layer = fastlstm.LSTM(5, 19, engine="native", num_threads=threads, **options)
    layer.load_state_dict({name: value.numpy() for name, value in lstm.state_dict().items()})
    x = torch.randn(*rows, 5, requires_grad=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        output, _ = lstm(x)
        d_output = torch.randn_like(output)
        output.backward(d_output)
    finally:
        torch.set_num_threads(before)
    _, pullback = layer.vjp(x.detach().numpy())
    assert np.array_equal(pullback(d_output.numpy())[0], x.grad.numpy())
    for name, parameter in lstm.named_parameters():
        assert np.array_equal(layer.grads[name], parameter.grad.numpy()), name


@pytest.mark.parametrize("make", [lambda: ours.LSTM(3, 4), lambda: ours.LSTMCell(3, 4)])
def test_a_tape_that_a_hook_has_changed(make):
    """As torch's own LSTM in float32 refuses it: numbers of it are not what was recorded."""
    module, x = make(), torch.randn(2, 3)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t / 2, lambda t: t * 2):
        result = module(x)[0]
    with pytest.raises(TypeError, match=r"Expected a tape of torch.uint8, .* got torch.float32"):
        result.sum().backward()
