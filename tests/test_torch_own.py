"""torch's own tests of `LSTM` and `LSTMCell`, run over ours.

torch keeps the tests of its modules in its repository. The installed package has the samples that
they run over (`module_db`: how a module is constructed, what it is called with, a reference without
a batch axis, and calls that must be refused). These are the tests of torch's `test_modules.py` over
those samples that a CPU can run. Values are compared with torch's own module too, at the tolerances
of torch's tests, and every check must reject the broken modules at the end.
"""

import copy
import functools
import io
import os
import sys
import types
import unittest
import warnings

import pytest

torch = pytest.importorskip("torch", reason="torch's tests need torch")
ours = pytest.importorskip("fastlstm.torch", exc_type=ImportError)

GradcheckError = sys.modules["torch.autograd.gradcheck"].GradcheckError
DTYPES = [torch.float32, torch.float64]
MODULES = [ours.LSTM, ours.LSTMCell]

# torch's own module says so of its samples with projections.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@functools.cache
def module_db():
    """Import torch's samples, and undo what their import does to the process."""
    # torch's TestCase derives from that of expecttest, which torch itself does not bring along.
    expecttest = types.ModuleType("expecttest")
    expecttest.TestCase, expecttest.ACCEPT = unittest.TestCase, False
    # Where hypothesis is, its settings would be changed for everybody.
    missing = {"expecttest": expecttest, "hypothesis": None}
    kept = {name: sys.modules[name] for name in missing if name in sys.modules}
    environment = dict(os.environ)
    script = torch._C.ScriptFunction, torch._C.ScriptMethod
    calls = [cls.__call__ for cls in script]
    frozen = "__allow_nonbracketed_mutation_flag"
    changeable = getattr(torch.backends, frozen)
    sys.modules.update(missing)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.testing._internal.common_modules import module_db
    finally:
        for name in missing:
            del sys.modules[name]
        sys.modules.update(kept)
        os.environ.clear()
        os.environ.update(environment)
        for cls, call in zip(script, calls, strict=True):
            cls.__call__ = call
        setattr(torch.backends, frozen, changeable)
    return {info.module_cls: info for info in module_db}


def theirs(cls):
    """The module of torch that `cls` derives from."""
    return next(base for base in cls.__mro__ if base.__module__.startswith("torch.nn"))


def samples(cls, dtype, training=True, requires_grad=False):
    """Yield, for each sample, a module of class `cls`, the same of torch's, and the sample."""
    info = module_db()[theirs(cls)]
    torch.manual_seed(0)
    for sample in info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=requires_grad, training=training
    ):
        made = sample.constructor_input
        module, peer = (
            kind(*made.args, **made.kwargs, dtype=dtype).train(training)
            for kind in (cls, theirs(cls))
        )
        peer.load_state_dict(module.state_dict())
        yield module, peer, sample


def called(module, sample):
    return module(*sample.forward_input.args, **sample.forward_input.kwargs)


def tensors(value):
    """The tensors within tuples."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value for tensor in tensors(part)]


def mapped(function, value):
    """`value` with every tensor within its tuples replaced."""
    if isinstance(value, torch.Tensor):
        return function(value)
    return tuple(mapped(function, part) for part in value)


def assert_same_bits(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def loss(outputs):
    """A sum in which every element has a weight of its own."""
    return sum(
        (t * torch.linspace(1, 2, t.numel(), dtype=t.dtype).view(t.shape)).sum()
        for t in tensors(outputs)
    )


def gradients(module, arguments):
    """The gradients of `loss` with respect to all arguments and all parameters."""
    return torch.autograd.grad(
        loss(module(*arguments)),
        [*tensors(arguments), *module.parameters()],
        materialize_grads=True,
    )


def check_forward(cls, dtype, training):
    for module, peer, sample in samples(cls, dtype, training):
        outputs = called(module, sample)
        forward = sample.forward_input
        torch.testing.assert_close(
            outputs, sample.reference_fn(module, *forward.args, **forward.kwargs)
        )
        torch.testing.assert_close(outputs, called(peer, sample))


def check_gradients(cls, dtype, training):
    for module, peer, sample in samples(cls, dtype, training, requires_grad=True):
        arguments = sample.forward_input.args
        torch.testing.assert_close(gradients(module, arguments), gradients(peer, arguments))


def check_numerically(cls, check):
    """`check` is one of torch's: it compares derivatives with differences of nearby values."""
    for module, _, sample in samples(cls, torch.float64, requires_grad=True):
        arguments, names = (
            sample.forward_input.args,
            [name for name, _ in module.named_parameters()],
        )

        def function(*values, module=module, arguments=arguments, names=names):
            given = iter(values)
            given = mapped(lambda _: next(given), arguments), dict(zip(names, given, strict=True))
            return tuple(tensors(torch.func.functional_call(module, given[1], given[0])))

        assert check(function, (*tensors(arguments), *module.parameters()))


def check_numerically_in_place(cls):
    """As torch's test of modules does it: gradcheck writes each parameter where it is."""
    for module, _, sample in [*samples(cls, torch.float64, requires_grad=True)][::5]:
        arguments = sample.forward_input.args

        def function(*_, module=module, arguments=arguments):
            return tuple(tensors(module(*arguments)))

        inputs = *tensors(arguments), *module.parameters()
        assert torch.autograd.gradcheck(function, inputs)


def spread(tensor):
    """The same values, not contiguous."""
    wide = tensor.detach().repeat_interleave(2, -1)[..., ::2]
    return wide.requires_grad_(tensor.requires_grad)


def check_non_contiguous(cls, dtype, training):
    for module, _, sample in samples(cls, dtype, training, requires_grad=True):
        arguments = sample.forward_input.args
        outputs, grads = called(module, sample), gradients(module, arguments)
        other = copy.deepcopy(module)
        for name, weight in module.named_parameters():
            setattr(other, name, torch.nn.Parameter(spread(weight)))
        for same in (module, other):
            for given in (arguments, mapped(spread, arguments)):
                assert_same_bits(same(*given), outputs)
                assert_same_bits(gradients(same, given), grads)


def check_stored(cls, dtype, training):
    for module, _, sample in samples(cls, dtype, training):
        outputs = called(module, sample)
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        for other in (
            torch.load(file, weights_only=False),
            copy.deepcopy(module),
            copy.copy(module),
        ):
            assert type(other) is type(module)
            assert other.training == training
            assert_same_bits(called(other, sample), outputs)


def check_converted(cls):
    for module, peer, sample in samples(cls, torch.float32):
        arguments = sample.forward_input.args
        module(*arguments)
        doubles = mapped(torch.Tensor.double, arguments)
        torch.testing.assert_close(module.double()(*doubles), peer.double()(*doubles))
        torch.testing.assert_close(module.float()(*arguments), peer.float()(*arguments))
        with torch.no_grad():
            for weight in peer.parameters():
                weight *= -0.5
        module.to("meta").to_empty(device="cpu").load_state_dict(peer.state_dict())
        torch.testing.assert_close(module(*arguments), peer(*arguments))


def check_refused(cls, dtype):
    """That torch's errors are ours, in type and words."""
    info = module_db()[theirs(cls)]
    options = {"device": "cpu", "dtype": dtype, "requires_grad": False, "training": True}
    for wrong in info.module_error_inputs_func(info, **options):
        made, forward = (
            wrong.module_error_input.constructor_input,
            wrong.module_error_input.forward_input,
        )
        if wrong.error_on.name == "CONSTRUCTION_ERROR":
            with pytest.raises(wrong.error_type, match=wrong.error_regex):
                cls(*made.args, **made.kwargs)
        else:
            module = cls(*made.args, **{"dtype": dtype, **made.kwargs})
            with pytest.raises(wrong.error_type, match=wrong.error_regex):
                module(*forward.args, **forward.kwargs)


def check_constructed(cls, dtype):
    """The factory arguments, the device of a context, the same draws, and what is printed."""
    info = module_db()[theirs(cls)]
    options = {"device": "cpu", "dtype": dtype, "requires_grad": False, "training": True}
    for sample in info.module_inputs_func(info, **options):
        made = sample.constructor_input
        pair = []
        for kind in (cls, theirs(cls)):
            torch.manual_seed(0)
            pair.append(kind(*made.args, **made.kwargs, device="cpu", dtype=dtype))
        assert repr(pair[0]) == repr(pair[1])
        assert {weight.dtype for weight in pair[0].parameters()} == {dtype}
        assert_same_bits(pair[0].state_dict(), pair[1].state_dict())
        with torch.device("meta"):
            assert all(weight.is_meta for weight in cls(*made.args, **made.kwargs).parameters())


each_class = pytest.mark.parametrize("cls", MODULES, ids=lambda cls: cls.__name__)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


@each_mode
@each_dtype
@each_class
def test_forward(cls, dtype, training):
    check_forward(cls, dtype, training)


@each_mode
@each_dtype
@each_class
def test_gradients(cls, dtype, training):
    check_gradients(cls, dtype, training)


first_derivatives = functools.partial(torch.autograd.gradcheck, fast_mode=True)
second_derivatives = functools.partial(torch.autograd.gradgradcheck, fast_mode=True)


@each_class
def test_numerical_gradients(cls):
    check_numerically(cls, first_derivatives)


@each_class
def test_numerical_gradients_in_place(cls):
    check_numerically_in_place(cls)


@pytest.mark.slow
@each_class
def test_numerical_second_derivatives(cls):
    check_numerically(cls, second_derivatives)


@each_mode
@each_dtype
@each_class
def test_non_contiguous(cls, dtype, training):
    check_non_contiguous(cls, dtype, training)


@each_mode
@each_dtype
@each_class
def test_stored_and_copied(cls, dtype, training):
    check_stored(cls, dtype, training)


@each_class
def test_converted_and_moved(cls):
    check_converted(cls)


@each_dtype
@each_class
def test_refused(cls, dtype):
    check_refused(cls, dtype)


@each_dtype
@each_class
def test_constructed(cls, dtype):
    check_constructed(cls, dtype)


# ---- broken modules -------------------------------------------------------------------------


class ForgetsTheState(ours.LSTM):
    def forward(self, input, hx=None):
        return super().forward(input)


class ConfusesTheStates(ours.LSTM):
    def forward(self, input, hx=None):
        output, (h, c) = super().forward(input, hx)
        return output, (h, h if h.shape == c.shape else c)


class ForgetsAGradient(ours.LSTMCell):
    def forward(self, input, hx=None):
        h, c = super().forward(input, hx)
        return h, c.detach()


class Once(torch.autograd.Function):
    """The identity, whose gradient has none."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, dx):
        return dx.detach()


class HasFirstDerivativesAlone(ours.LSTMCell):
    def forward(self, input, hx=None):
        h, c = super().forward(input, hx)
        return Once.apply(h), c


class KeepsItsFirstWeights(ours.LSTMCell):
    """As an operator whose copy of the weights does not see that they have been written."""

    def forward(self, input, hx=None):
        kept = vars(self).setdefault("kept", [w.detach().clone() for w in self.parameters()])
        # The differences are zeros with the gradients of the parameters.
        weights = [k.to(w) + (w - w.detach()) for k, w in zip(kept, self.parameters(), strict=True)]
        h, c = torch.lstm_cell(input[None], [state[None] for state in hx], *weights)
        return h[0], c[0]


class TakesRowsForContiguous(ours.LSTM):
    def forward(self, input, hx=None):
        return super().forward(input.as_strided(input.shape, (input.shape[-1], 1)), hx)


class IsStoredWithoutWeights(ours.LSTM):
    def __setstate__(self, state):
        super().__setstate__(state)
        for weight in self.parameters():
            weight.detach().zero_()


class RefusesNothing(ours.LSTMCell):
    def forward(self, input, hx=None):
        try:
            return super().forward(input, hx)
        except (RuntimeError, ValueError):
            return hx


class DrawsOtherWeights(ours.LSTMCell):
    def reset_parameters(self):
        super().reset_parameters()
        super().reset_parameters()


@pytest.mark.parametrize(
    "check",
    [
        functools.partial(check_forward, ForgetsTheState, torch.float64, True),
        functools.partial(check_forward, ConfusesTheStates, torch.float32, False),
        functools.partial(check_gradients, ForgetsTheState, torch.float32, True),
        functools.partial(check_gradients, ForgetsAGradient, torch.float32, True),
        functools.partial(check_numerically, KeepsItsFirstWeights, first_derivatives),
        functools.partial(check_numerically_in_place, KeepsItsFirstWeights),
        functools.partial(check_numerically, HasFirstDerivativesAlone, second_derivatives),
        functools.partial(check_non_contiguous, TakesRowsForContiguous, torch.float32, True),
        functools.partial(check_stored, IsStoredWithoutWeights, torch.float32, True),
        functools.partial(check_converted, KeepsItsFirstWeights),
        functools.partial(check_refused, RefusesNothing, torch.float32),
        functools.partial(check_constructed, DrawsOtherWeights, torch.float32),
    ],
    ids=lambda check: f"{check.func.__name__}-{check.args[0].__name__}",
)
def test_a_broken_module_is_rejected(check):
    with pytest.raises((AssertionError, GradcheckError, pytest.fail.Exception)):
        check()
