"""Gradients of fastlstm.torch that torch's own operators compute, and what they may not assume.

The module and its twin of torch are in float64, where both differ by rounding alone.
"""

import copy

import pytest

torch = pytest.importorskip("torch")
ours = pytest.importorskip("fastlstm.torch", exc_type=ImportError)
autograd = torch.autograd
FLOAT64 = torch.float64


def _lstm(given, bidirectional=False):
    torch.manual_seed(0)
    return ours.LSTM(4, 4, bidirectional=bidirectional, dtype=FLOAT64), torch.sin(given)


def _cell(given):
    torch.manual_seed(0)
    return ours.LSTMCell(4, 4, dtype=FLOAT64), torch.sin(given)[0]


def _tied_biases(given):
    module, x = _lstm(given)
    module.bias_hh_l0 = module.bias_ih_l0
    return module, lambda lstm: lstm(x)[0]


def _tied_biases_of_a_cell(given):
    module, x = _cell(given)
    module.bias_hh = module.bias_ih
    return module, lambda cell: cell(x)[0]


def _tied_directions(given):
    module, x = _lstm(given, bidirectional=True)
    for name in [name for name, _ in module.named_parameters(remove_duplicate=False)]:
        if name.endswith("_reverse"):
            setattr(module, name, getattr(module, name.removesuffix("_reverse")))
    return module, lambda lstm: lstm(x)[0]


def _one_state_twice(given):
    module, x = _lstm(given)
    return module, lambda lstm: lstm(x, (x[:1], x[:1]))[0]


def _one_state_of_a_cell_twice(given):
    module, x = _cell(given)
    state = x.cos()
    return module, lambda cell: cell(x, (state, state))[0]


def _states_of_the_input(given):
    module, x = _lstm(given)
    h = x.mean(0, keepdim=True)
    return module, lambda lstm: lstm(x, (h, h + h.cos()))[0]


def _states_of_the_input_of_a_cell(given):
    module, x = _cell(given)
    return module, lambda cell: cell(x, (x.cos(), x.exp()))[0]


def _weights_of_weights(given):
    module, x = _lstm(given)

    def run(lstm):
        w = {"weight_ih_l0": lstm.weight_hh_l0.tanh()}
        return torch.func.functional_call(lstm, w, (x,))[0]

    return module, run


@pytest.mark.parametrize(
    "arrange",
    [
        _tied_biases,
        _tied_biases_of_a_cell,
        _tied_directions,
        _one_state_twice,
        _one_state_of_a_cell_twice,
        _states_of_the_input,
        _states_of_the_input_of_a_cell,
        _weights_of_weights,
    ],
)
def test_what_is_tied_or_depends_on_each_other(arrange):
    """Its gradients add up once, and so do second derivatives."""
    torch.manual_seed(1)
    given = torch.randn(3, 2, 4, dtype=FLOAT64, requires_grad=True)
    module, run = arrange(given)
    both = []
    for one in (module, copy.deepcopy(module)):
        if both:
            ours.restore(one)
        leaves = [given, *one.parameters()]
        plain = autograd.grad(run(one).square().sum(), leaves, retain_graph=True, allow_unused=True)
        first = autograd.grad(run(one).square().sum(), leaves, create_graph=True, allow_unused=True)
        # What does not take part has no gradient, and is the same in both.
        kept = [k for k, gradient in enumerate(first) if gradient is not None]
        total = sum(first[k].square().sum() for k in kept)
        second = autograd.grad(total, [leaves[k] for k in kept], retain_graph=True)
        both.append([*(plain[k] for k in kept), *(first[k] for k in kept), *second])
    for got, expected in zip(*both, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def _batched(results, x, d):
    return autograd.grad(results, x, d, is_grads_batched=True, retain_graph=True)[0]


def _vmap(results, x, d):
    return torch.func.vmap(lambda one: autograd.grad(results, x, one, retain_graph=True)[0])(d)


@pytest.mark.parametrize("cls", [ours.LSTM, ours.LSTMCell])
@pytest.mark.parametrize("ask", [_batched, _vmap])
def test_many_gradients_at_once(cls, ask):
    torch.manual_seed(0)
    module = cls(3, 4, dtype=FLOAT64)
    x = torch.randn((5, 3) if cls is ours.LSTMCell else (2, 5, 3), dtype=FLOAT64)
    x.requires_grad_()
    results = module(x)[0]
    d = torch.randn(7, *results.shape, dtype=FLOAT64)
    expected = torch.stack([autograd.grad(results, x, one, retain_graph=True)[0] for one in d])
    torch.testing.assert_close(ask(results, x, d), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("function", ["jacobian", "hessian"])
def test_jacobians_and_hessians(function, vectorize):
    torch.manual_seed(0)
    module = ours.LSTM(3, 4, dtype=FLOAT64)
    torchs = copy.deepcopy(module)
    ours.restore(torchs)
    x = torch.randn(2, 2, 3, dtype=FLOAT64)
    got, expected = (
        getattr(autograd.functional, function)(
            lambda x, lstm=lstm: lstm(x)[0].square().sum(), x, vectorize=vectorize
        )
        for lstm in (module, torchs)
    )
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def _negative(tensor):
    """Return what torch has yet to negate, as the imaginary part of what is conjugate is."""
    put_off = torch._neg_view(-tensor)
    assert put_off.is_neg() and put_off.is_contiguous()
    return put_off


def _nothing(tensor):
    """Return zeros that have no memory, as derivatives may be."""
    return torch._efficientzerotensor(tensor.shape, dtype=tensor.dtype)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("cls", [ours.LSTM, ours.LSTMCell])
@pytest.mark.parametrize("put_off", [_negative, _nothing])
def test_tensors_whose_values_are_put_off(put_off, cls, training):
    """As input, as states and as gradients, they give what their values give."""
    torch.manual_seed(0)
    steps = (3,) if cls is ours.LSTM else ()
    module = cls(3, 4, dtype=FLOAT64)
    x = torch.randn(*steps, 2, 3, dtype=FLOAT64)
    h, c = (torch.randn(*(1 for _ in steps), 2, 4, dtype=FLOAT64) for _ in range(2))
    d = torch.randn(*steps, 2, 4, dtype=FLOAT64)
    if put_off is _nothing:
        x, h, c, d = map(torch.zeros_like, (x, h, c, d))
    with torch.set_grad_enabled(training):
        for given in [(put_off(x), (h, c)), (x, (put_off(h), c)), (x, (h, put_off(c)))]:
            both = [module(x, (h, c))[0], module(*given)[0]]
            torch.testing.assert_close(*both, rtol=0, atol=0)
            if training:
                gradients = []
                for results, way in zip(both, (d, put_off(d)), strict=True):
                    module.zero_grad()
                    results.backward(way)
                    gradients.append([p.grad for p in module.parameters()])
                torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_weights_that_are_yet_to_be_negated():
    """They are copied, so that nothing is kept that later writes would not reach."""
    torch.manual_seed(0)
    module, x = ours.LSTM(3, 4), torch.randn(3, 2, 3)
    w = module.weight_hh_l0.detach().clone()
    for _ in range(2):
        module.weight_hh_l0 = torch.nn.Parameter(w.clone(), requires_grad=False)
        expected = module(x)[0]
        del module.weight_hh_l0
        module.weight_hh_l0 = put_off = _negative(w)
        assert torch.equal(module(x)[0], expected)
        put_off.data[3, 1] += 1
        w[3, 1] += 1
        module.weight_hh_l0 = put_off
        got = module(x)[0]
        module.weight_hh_l0 = w
        assert torch.equal(got, module(x)[0])
        del module.weight_hh_l0
