"""The operators of fastlstm.torch, as torch's own tools look at them.

`twins.py` compares modules with torch's, values and gradients; this is about what `torch.library`
is told: schemas, FakeTensors, gradients by differences, and what modes, profilers and tracers see.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any, NamedTuple

import pytest

torch: Any = pytest.importorskip("torch", reason="the operators are torch's")
ours: Any = pytest.importorskip("fastlstm.torch", exc_type=ImportError)  # without engine native

checkpoints = torch.utils.checkpoint
make_fx = pytest.importorskip("torch.fx.experimental.proxy_tensor").make_fx
pytree = torch.utils._pytree
FakeTensorMode = torch._subclasses.FakeTensorMode
FlopCounterMode = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode
OPS = torch.ops.fastlstm
Tensor = torch.Tensor


class Setting(NamedTuple):
    """What an operator is called with; `packed` are sequences of lengths 4, 2 and 1."""

    dtype: str = "float32"
    layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    P: int = 0
    packed: bool = False
    batch_first: bool = False
    I: int = 3
    H: int = 4

    @property
    def directions(self) -> int:
        return 1 + self.bidirectional

    def lstm(self, **options: Any) -> Any:
        return ours.LSTM(
            self.I, self.H, self.layers, bias=self.bias, batch_first=self.batch_first,
            bidirectional=self.bidirectional, proj_size=self.P,
            dtype=getattr(torch, self.dtype), **options,
        )  # fmt: skip

    def operands(self, grad: bool = False) -> list[Any]:
        """Return arguments of ``fastlstm::lstm``, leaves that ask for gradients or do not."""
        torch.manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=getattr(torch, self.dtype)).requires_grad_(grad)

        cells, B = self.layers * self.directions, 3
        x = draw(7, self.I) if self.packed else draw(4, B, self.I)
        if self.batch_first:
            x = x.detach().transpose(0, 1).contiguous().requires_grad_(grad)
        sizes = torch.tensor([3, 2, 1, 1]) if self.packed else None
        weights = [draw(*p.shape) for p in self.lstm(device="meta").parameters()]
        states = draw(cells, B, self.P or self.H), draw(cells, B, self.H)
        return [
            x, sizes, *states, weights, self.bias, self.layers, self.bidirectional, self.batch_first
        ]  # fmt: skip


DEEP = Setting(layers=2, bidirectional=True)
SETTINGS = [
    Setting(),
    Setting("float64", bias=False, packed=True, H=8),
    Setting(P=2, batch_first=True),
    Setting(P=2, bias=False, packed=True, bidirectional=True),
    DEEP._replace(batch_first=True, H=16),
    DEEP._replace(dtype="float64", packed=True, P=3),
]
each_setting = pytest.mark.parametrize("setting", SETTINGS, ids=str)


def calls(setting: Setting, grad: bool = False) -> dict[str, tuple[Any, list[Any]]]:
    """Return each operator with arguments; those of a single layer have a single layer."""
    found = {"lstm": (OPS.lstm.default, setting.operands(grad))}
    setting = setting._replace(layers=1, batch_first=False)
    *given, bias, _, both, _ = setting.operands(grad)
    found["lstm_layer"] = OPS.lstm_layer.default, [*given, bias, both]
    if not grad:  # it is not differentiable: autograd calls it
        x, sizes, _, _, weights = given
        output, h, c, tape = OPS.lstm_layer(*given, bias, both)
        d_results = [torch.randn_like(result) for result in (output, h, c)]
        found["lstm_layer_backward"] = (
            OPS.lstm_layer_backward.default,
            [*d_results, x, sizes, weights, bias, both, output, tape, setting.packed],
        )
    return found


each_operator = pytest.mark.parametrize("name", calls(Setting()))


def assert_same_bits(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


# ---- what torch.library is told -------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@each_setting
def test_opcheck(setting, grad):
    """Schema, autograd, FakeTensors, and AOTAutograd of static and of dynamic shapes."""
    for operator, arguments in calls(setting, grad).values():
        found = torch.library.opcheck(operator, arguments)
        assert set(found.values()) == {"SUCCESS"} and len(found) == 4


def assert_fakes_alike(operator: Any, arguments: list[Any]) -> None:
    """Assert that FakeTensors get the shapes, strides, dtypes and devices that tensors get."""
    results = operator(*arguments)
    with FakeTensorMode() as mode:
        fakes = operator(*pytree.tree_map_only(Tensor, mode.from_tensor, arguments))
    pairs = zip(pytree.tree_leaves(fakes), pytree.tree_leaves(results), strict=True)
    for fake, real in pairs:
        assert fake.shape == real.shape and fake.stride() == real.stride()
        assert (fake.dtype, fake.device, fake.layout) == (real.dtype, real.device, real.layout)


@each_setting
@each_operator
def test_fake_tensors(name, setting):
    assert_fakes_alike(*calls(setting)[name])


def assert_pure(operator: Any, arguments: list[Any], between: Any) -> None:
    """Assert that results depend on arguments alone, lie in memory of their own, and nothing else
    is written. `between` is what else runs meanwhile."""
    before = pytree.tree_map_only(Tensor, torch.clone, arguments)
    results = operator(*arguments)
    assert_same_bits(arguments, before)
    places = [t.untyped_storage().data_ptr() for t in pytree.tree_leaves((arguments, results))
              if isinstance(t, Tensor) and t.numel()]  # fmt: skip
    assert len(set(places)) == len(places)
    kept = pytree.tree_map_only(Tensor, torch.clone, results)
    between()
    assert_same_bits(operator(*arguments), kept)
    assert_same_bits(operator(*before), kept)  # other tensors with these values
    assert_same_bits(results, kept)
    assert_same_bits(arguments, before)


@each_setting
@each_operator
def test_a_function_of_its_arguments(name, setting):
    def between():
        for other in SETTINGS:
            for operator, arguments in calls(other).values():
                operator(*arguments)

    assert_pure(*calls(setting)[name], between)


@each_setting
def test_modules_and_operators_have_the_same_bits(setting):
    """Where nobody looks on, modules call what is below the operators."""
    module, (x, sizes, h, c, weights, *_) = setting.lstm(), setting.operands()
    module.load_state_dict(dict(zip(module.state_dict(), weights, strict=True)))
    rows = torch.nn.utils.rnn.PackedSequence(x, sizes) if setting.packed else x
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            output, states = module(rows, (h, c))
            output = output.data if setting.packed else output
            arguments = setting.operands()
            arguments[4] = [*module.parameters()]
            assert_same_bits((output, *states), OPS.lstm(*arguments))


# ---- gradients --------------------------------------------------------------------------------


def differentiable(setting: Setting) -> tuple[Any, list[Tensor]]:
    """Return ``fastlstm::lstm`` as a function of tensors alone, and these."""
    x, sizes, h, c, weights, *options = setting.operands(grad=True)

    def function(x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Any:
        return OPS.lstm(x, sizes, h, c, list(weights), *options)

    return function, [x, h, c, *weights]


SMALL = [
    setting._replace(dtype="float64", I=2, H=2, P=1 if setting.P else 0) for setting in SETTINGS
]


@pytest.mark.parametrize("setting", SMALL, ids=str)
def test_gradients_by_differences(setting):
    """Of the input, of both states and of every weight."""
    function, tensors = differentiable(setting)
    assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize("setting", SMALL, ids=str)
def test_second_derivatives_by_differences(setting):
    function, tensors = differentiable(setting)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


# ---- what others see ----------------------------------------------------------------------------


class Dispatches(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen[str(function)] += 1
        return function(*args, **(kwargs or {}))


class Functions(torch.overrides.TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen[str(function)] += 1
        return function(*args, **(kwargs or {}))


def run(module: Any, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        output, _ = module(torch.ones(5, 2, module.input_size))
        if grad:
            output.sum().backward()


def ours_of(seen: Any) -> dict[str, int]:
    """The operators of ours among names that were seen, and how often."""
    return {name: n for name, n in Counter(seen).items() if "fastlstm" in name}


def test_modes_see_the_operators():
    module = DEEP.lstm()
    with Dispatches() as mode:
        run(module, False)
    assert ours_of(mode.seen) == {"fastlstm.lstm.default": 1}
    with Dispatches() as mode:
        run(module, True)
    assert ours_of(mode.seen) == {
        "fastlstm.lstm_layer.default": 2,
        "fastlstm.lstm_layer_backward.default": 2,
    }
    with Functions() as mode:
        run(module, True)
    assert ours_of(mode.seen) == {"fastlstm.lstm.default": 1}


def test_the_profiler_sees_the_operators():
    module = DEEP.lstm()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        run(module, True)
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["fastlstm::lstm"] == 1
    assert counts["fastlstm::lstm_layer"] == counts["fastlstm::lstm_layer_backward"] == 2


@each_setting
def test_operations_are_counted(setting):
    """Two for each number of a row times each number of a matrix; twice that on the way back,
    but for the gradient of the input, which nobody asks for here."""
    setting = setting._replace(packed=False)
    module, x = setting.lstm(), setting.operands()[0]
    matrices = [p for p in module.parameters() if p.dim() == 2]
    of_input = [p for name, p in module.named_parameters() if name.startswith("weight_ih_l0")]
    rows = 4 * 3
    forward, unasked = (2 * rows * sum(p.numel() for p in of) for of in (matrices, of_input))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    assert counter.get_total_flops() == forward
    with FlopCounterMode(display=False) as counter:
        module(x)[0].sum().backward()
    assert counter.get_total_flops() == forward + 2 * forward - unasked


@pytest.mark.parametrize("policy", ["MUST_SAVE", "MUST_RECOMPUTE"])
def test_selective_checkpoints(policy):
    """A policy may keep what the layers recorded: the way back then runs none of them again."""
    module, x = DEEP.lstm(), DEEP.operands(grad=True)[0]
    choice = getattr(checkpoints.CheckpointPolicy, policy)

    def chosen(context: Any, operator: Any, *args: Any, **options: Any) -> Any:
        is_layer = operator is OPS.lstm_layer.default
        return choice if is_layer else checkpoints.CheckpointPolicy.PREFER_RECOMPUTE

    contexts = functools.partial(checkpoints.create_selective_checkpoint_contexts, chosen)
    leaves = [x, *module.parameters()]
    expected = torch.autograd.grad(module(x)[0].square().sum(), leaves)
    output, _ = checkpoints.checkpoint(module, x, use_reentrant=False, context_fn=contexts)
    with Dispatches() as mode:
        found = torch.autograd.grad(output.square().sum(), leaves)
    assert_same_bits(found, expected)
    again = mode.seen["fastlstm.lstm_layer.default"]
    assert again == (0 if policy == "MUST_SAVE" else 2)


# ---- tracers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("setting", [s for s in SETTINGS if not s.packed], ids=str)
def test_make_fx(mode, grad, setting):
    """But of packed sequences: how many there are is a value of a tensor, as in torch."""
    module, (x, _, h, c, *_) = setting.lstm(), setting.operands()

    def function(x: Tensor, h: Tensor, c: Tensor) -> Any:
        output, states = module(x, (h, c))
        return output, *states

    with torch.set_grad_enabled(grad):
        graph = make_fx(function, tracing_mode=mode, _allow_non_fake_inputs=True)(x, h, c)
        names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        layer = {"fastlstm.lstm_layer.default": setting.layers}
        assert ours_of(names) == (layer if grad else {"fastlstm.lstm.default": 1})
        assert_same_bits(graph(x, h, c), function(x, h, c))


def test_symbolic_trace_has_modules_as_leaves():
    """As it has torch's own: they are named in the graph, and not looked into."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.cell = DEEP.lstm(), ours.LSTMCell(2 * DEEP.H, 5)

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
            output, states = self.lstm(x, (h, c))
            return self.cell(output[-1].tanh()), states

    model, (x, _, h, c, *_) = Model(), DEEP.operands()
    graph = torch.fx.symbolic_trace(model)
    assert [n.target for n in graph.graph.nodes if n.op == "call_module"] == ["lstm", "cell"]
    assert_same_bits(graph(x, h, c), model(x, h, c))


def test_modules_in_fake_tensor_mode():
    with FakeTensorMode():
        module = DEEP.lstm()
        output, (h_n, _) = module(torch.ones(5, 2, 3))
        assert output.shape == (5, 2, 8) and h_n.shape == (4, 2, 4)
        output.sum().backward()
        assert module.weight_hh_l1.grad.shape == module.weight_hh_l1.shape
        cell = ours.LSTMCell(3, 4)
        h, _ = cell(torch.ones(2, 3))
        assert h.shape == (2, 4)


# ---- broken operators ---------------------------------------------------------------------------


def writes_an_argument(x, sizes, h, *rest):
    h += 1
    return OPS.lstm(x, sizes, h, *rest)


def returns_an_argument(x, sizes, h, *rest):
    OPS.lstm(x, sizes, h, *rest)
    return h


def returns_memory_twice(*arguments):
    output, h, c = OPS.lstm(*arguments)
    return output, output[-1]


def remembers_identities(x, *rest, known=[]):  # noqa: B006
    known[:] = known or [id(x)]
    output, *_ = OPS.lstm(x, *rest)
    return output.clone() if id(x) == known[0] else output * 2


@pytest.mark.parametrize(
    "broken",
    [writes_an_argument, returns_an_argument, returns_memory_twice, remembers_identities],
)
def test_an_impure_operator_is_found(broken):
    with pytest.raises(AssertionError):
        assert_pure(broken, DEEP.operands(), lambda: None)


def test_a_wrong_fake_is_found():
    library = torch.library.Library("fastlstm_broken", "DEF")
    library.define("transposed(Tensor x) -> Tensor")
    library.impl("transposed", lambda x: x.t().clone(), "CPU")
    torch.library.register_fake(
        "fastlstm_broken::transposed", lambda x: x.new_empty(x.t().shape), lib=library
    )
    with pytest.raises(AssertionError):
        assert_fakes_alike(torch.ops.fastlstm_broken.transposed, [torch.ones(2, 3)])
    library._destroy()
