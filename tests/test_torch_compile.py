"""torch.compile, torch.export and the exporters to ONNX, over modules of fastlstm.torch."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
from twins import has_bfloat16_lstm

torch: Any = pytest.importorskip("torch", reason="compiles with torch")
ours: Any = pytest.importorskip("fastlstm.torch", exc_type=ImportError)  # without engine native

nn, rnn = torch.nn, torch.nn.utils.rnn
dynamo = pytest.importorskip("torch._dynamo")
CompileCounter = pytest.importorskip("torch._dynamo.testing").CompileCounterWithBackend
OPS = torch.ops.fastlstm


pytestmark = [  # of torch's own tracers
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning"),
]


@pytest.fixture(autouse=True)
def _afresh():
    dynamo.reset()
    torch.manual_seed(0)
    # Otherwise no compiled graph can be kept for a second way back.
    with torch._functorch.config.patch(donated_buffer=False):
        yield
    dynamo.reset()


class Model(nn.Module):
    """An LSTM between other modules."""

    def __init__(self, cls: type = ours.LSTM, **options: Any) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.lstm = cls(3, 8, **options)
        features = (1 + self.lstm.bidirectional) * (self.lstm.proj_size or 8)
        self.last = nn.Linear(features, 2)

    def forward(self, x: Any) -> Any:
        output, states = self.lstm(self.first(x).tanh())
        return self.last(output), *states


OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"proj_size": 4, "bias": False},
    {"num_layers": 2, "dropout": 0.5},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


def inputs(*shapes: tuple[int, int]) -> list[Any]:
    return [torch.randn(*shape, 3) for shape in shapes]


def pieces(*lengths: int) -> list[Any]:
    return [torch.randn(length, 3) for length in lengths]


def assert_same_bits(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def results(function: Any, module: Any, x: Any) -> list[Any]:
    """Return outputs, and the gradients of x and of all parameters; dropout has the same masks."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    outputs = function(x)
    loss = sum((t * torch.linspace(1, 2, t.numel()).view(t.shape)).sum() for t in outputs)
    # With a graph that is kept, a second way back gives the same.
    leaves = [x, *module.parameters()]
    once, again = (torch.autograd.grad(loss, leaves, retain_graph=keep) for keep in (True, False))
    assert_same_bits(again, once)
    return [*outputs, *once]


def assert_compiled_alike(
    module: Any, xs: list[Any], backend: str, graphs: int, same: Any = assert_same_bits,
    **options: Any,
) -> None:  # fmt: skip
    """Assert that training and inference give what they give without a compiler, and that an LSTM
    of ours is one operator of each of so many graphs, without a break."""
    counter = CompileCounter(backend)
    compiled = torch.compile(module, backend=counter, fullgraph=True, **options)
    for x in xs:
        same(results(compiled, module, x), results(module, module, x))
    assert counter.frame_count == graphs
    for graph in counter.graphs:
        targets = [node.target for node in graph.graph.nodes]
        assert OPS.lstm.default in targets
    with torch.no_grad():
        torch.manual_seed(1)
        expected = module(xs[0])
        torch.manual_seed(1)
        same(compiled(xs[0]), expected)


# ---- torch.compile ------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@each_option
def test_compiled(options, backend):
    """In one graph for each shape; the gradients are those of the operators without a compiler."""
    assert_compiled_alike(Model(**options), inputs((5, 4)), backend, 1)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_for_any_shape(backend):
    xs = inputs((5, 4), (7, 6), (2, 3))
    assert_compiled_alike(Model(bidirectional=True), xs, backend, 1, dynamic=True)


def test_compiled_for_the_shapes_that_come():
    """A graph for the first shape, and one for all others."""
    assert_compiled_alike(Model(), inputs((5, 4), (7, 6), (9, 3)), "eager", 2)


@pytest.mark.filterwarnings("ignore")  # as torch imports its compiler
@pytest.mark.slow  # a C++ compiler runs
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_by_inductor(dynamic, tmp_path, monkeypatch):
    """Bit for bit, where the LSTM stands alone; beside it Inductor rounds in its own ways."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    xs = inputs((5, 4), (7, 6))
    graphs = 1 if dynamic else 2

    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = ours.LSTM(3, 8, bidirectional=True)

        def forward(self, x: Any) -> Any:
            output, states = self.lstm(x)
            return output, *states

    assert_compiled_alike(Alone(), xs, "inductor", graphs, dynamic=dynamic)
    close = torch.testing.assert_close
    assert_compiled_alike(Model(bidirectional=True), xs, "inductor", graphs, close, dynamic=dynamic)


def test_compiled_where_modules_are_found_in_other_ways():
    """The root itself, one in a closure, one of a class of one's own, a parametrized one, a cell,
    and one that `accelerate` has swapped."""

    class Own(ours.LSTM):
        def forward(self, input: Any, hx: Any = None) -> Any:
            output, states = super().forward(2 * input, hx)
            return output + 1, states

    (x,) = inputs((5, 4))
    lstm, cell = ours.LSTM(3, 8), ours.LSTMCell(3, 8)
    swapped = Model(nn.LSTM)
    ours.accelerate(swapped)
    normed = nn.utils.parametrizations.weight_norm(ours.LSTM(3, 8), "weight_hh_l0")
    for function in (lstm, lambda x: lstm(x), Own(3, 8), normed, lambda x: cell(x[0]), swapped):
        counter = CompileCounter("eager")
        compiled = torch.compile(function, backend=counter, fullgraph=True)
        assert_same_bits(compiled(x), function(x))
        assert counter.frame_count == 1


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
def test_modules_of_others_are_what_they_were(cls):
    module, (x,) = cls(3, 4), inputs((5, 4))
    ours_too = ours.LSTM(4, 4)
    assert not dynamo.config.allow_rnn
    with pytest.raises(dynamo.exc.Unsupported, match="Attempted to wrap RNN, GRU, or LSTM"):
        torch.compile(lambda x: ours_too(module(x)[0]), backend="eager", fullgraph=True)(x)
    compiled = torch.compile(lambda x: ours_too(module(x)[0]), backend="eager")
    assert_same_bits(compiled(x), ours_too(module(x)[0]))


@pytest.mark.filterwarnings("ignore:Dynamo (does not know|detected a call)")
def test_without_the_table_of_dynamo(monkeypatch):
    """Ours are then refused as torch's are, which leaves the numbers right."""
    builder = dynamo.variables.builder.VariableBuilder
    for of_numpy in (True, False):
        monkeypatch.delitem(builder._type_dispatch_impl(of_numpy), ours.LSTM)
    model, (x,) = Model(), inputs((5, 4))
    with pytest.raises(dynamo.exc.Unsupported):
        torch.compile(model, backend="eager", fullgraph=True)(x)
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        assert_same_bits(results(compiled, model, x), results(model, model, x))


def test_packed_sequences_break_the_graph_around_the_operator():
    """How many there are is a value of a tensor, as in torch."""
    lengths, (x,) = torch.tensor([5, 3, 1]), inputs((5, 3))
    lstm = ours.LSTM(3, 4, bidirectional=True)

    def function(x: Any) -> Any:
        packed = rnn.pack_padded_sequence(x, lengths)
        output, states = lstm(packed)
        return rnn.pad_packed_sequence(output)[0] * 2, *states

    counter = CompileCounter("aot_eager")
    compiled = torch.compile(function, backend=counter)
    for _ in range(2):
        assert_same_bits(results(compiled, lstm, x), results(function, lstm, x))
    targets = [node.target for graph in counter.graphs for node in graph.graph.nodes]
    assert targets.count(OPS.lstm.default) == 1


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_packed_sequences_in_a_graph(backend):
    """Where Dynamo takes values of tensors for symbols."""
    lstm, packed = ours.LSTM(3, 4, bidirectional=True), rnn.pack_sequence(pieces(5, 3, 1))
    compiled = torch.compile(lstm, backend=backend, fullgraph=True)
    with dynamo.config.patch(capture_scalar_outputs=True):
        for data in (packed, rnn.pack_sequence(pieces(4, 4))):
            (got, states), (expected, others) = compiled(data), lstm(data)
            assert_same_bits((got.data, states), (expected.data, others))


def test_what_torchs_own_code_does_is_beside_the_graph():
    """As torch's LSTM is: other dtypes, autocast, transforms, and `reset`, which goes by values."""
    (x,) = inputs((5, 4))
    lstm, half = ours.LSTM(3, 4), ours.LSTM(3, 4, dtype=torch.bfloat16)
    reset, weights = torch.rand(5, 4) < 0.3, dict(lstm.named_parameters())

    def with_autocast(x: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return lstm(x)[0]

    def of_weights(weights: Any, x: Any) -> Any:
        return torch.func.functional_call(lstm, weights, (x,))[0].sum()

    def with_grad(x: Any) -> Any:
        return torch.func.grad(of_weights)(weights, x)

    def with_reset(x: Any) -> Any:
        return lstm(x, reset=reset)[0]

    functions = [lambda x: half(x.bfloat16())[0], with_grad, with_reset]
    for function in [*functions, with_autocast] if has_bfloat16_lstm() else functions:
        with pytest.raises(dynamo.exc.Unsupported):
            torch.compile(function, backend="aot_eager", fullgraph=True)(x)
        compiled = torch.compile(function, backend="aot_eager")
        assert_same_bits(compiled(x), function(x))


@pytest.mark.parametrize("optimiser", ["SGD", "Adam"])
def test_compiled_training(optimiser):
    """The graph stays, and the weights change."""
    x, y = torch.randn(5, 4, 3), torch.randn(5, 4, 2)
    models = Model(num_layers=2), Model(num_layers=2)
    models[1].load_state_dict(models[0].state_dict())
    counter = CompileCounter("aot_eager")
    for model, call in zip(
        models, (models[0], torch.compile(models[1], backend=counter)), strict=True
    ):
        of = getattr(torch.optim, optimiser)(model.parameters(), lr=0.01)
        for _ in range(10):
            of.zero_grad()
            (call(x)[0] - y).square().mean().backward()
            of.step()
    assert_same_bits(models[1].state_dict(), models[0].state_dict())
    assert counter.frame_count == 1


def test_kernels_are_not_compiled():
    """Dynamo looks at every function that runs where a graph has broken, but not at kernels."""
    lstm, x = ours.LSTM(3, 4), torch.ones(5, 2, 3, requires_grad=True)
    weights, state = [*lstm.parameters()], torch.zeros(1, 2, 4)

    def function(x: Any) -> Any:
        for _ in range(2):
            dynamo.graph_break()  # in a loop: nothing of this function is compiled
            output, *_ = OPS.lstm(x, None, state, state, weights, True, 1, False, False)
            output.sum().backward()
        return x.grad

    counter = CompileCounter("eager")
    compiled = torch.compile(function, backend=counter)(x).clone()
    x.grad = None
    assert_same_bits(compiled, function(x))
    assert counter.frame_count == 0


IMPORTS = """
import sys, torch
{first}
import fastlstm.torch
lstm = fastlstm.torch.LSTM(3, 4)
x = torch.ones(5, 2, 3, requires_grad=True)
lstm(x)[0].sum().backward()
with torch.no_grad():
    lstm(x)
assert ("torch._dynamo" in sys.modules) == {known}
{then}
compiled = torch.compile(lstm, backend="eager", fullgraph=True)
assert torch.equal(compiled(x)[0], lstm(x)[0])
assert not [finder for finder in sys.meta_path if "fastlstm" in type(finder).__module__]
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "first, then",
    [
        ("import torch._dynamo", ""),
        ("", "import threading; t = threading.Thread(target=__import__, args=['torch._dynamo']);"
             "t.start(); import torch._dynamo; t.join()"),
        ("", "import importlib.util; assert importlib.util.find_spec('torch._dynamo')"),
    ],
)  # fmt: skip
def test_dynamo_is_imported_by_those_who_use_it(first, then):
    """Its import takes as long as torch's; whenever it comes, it is told of our modules."""
    program = IMPORTS.format(first=first, then=then, known="_dynamo" in first)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


# ---- torch.export -------------------------------------------------------------------------------


def exported(options: dict[str, Any], strict: bool, dynamic: bool) -> tuple[Any, Any]:
    model = Model(**options).eval()
    Dim = torch.export.Dim
    shapes = {"x": {0: Dim("first"), 1: Dim("second")}} if dynamic else None
    x = torch.randn(5, 4, 3)
    return model, torch.export.export(model, (x,), dynamic_shapes=shapes, strict=strict)


each_export = pytest.mark.parametrize(
    "strict, dynamic", [(False, False), (False, True), (True, True)]
)


@each_export
@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_exported(options, strict, dynamic):
    model, program = exported(options, strict, dynamic)
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(OPS.lstm.default) == 1
    for x in inputs((5, 4), (7, 6), (1, 1)) if dynamic else inputs((5, 4)):
        assert_same_bits(program.module()(x), model(x))
        kept = program.run_decompositions({})
        assert_same_bits(kept.module()(x), model(x))


class Tagger(nn.Module):
    """Packed rows in, and out."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = ours.LSTM(3, 4, 2, bidirectional=True)

    def forward(self, rows: Any, batch_sizes: Any) -> Any:
        output, _ = self.lstm(rnn.PackedSequence(rows, batch_sizes))
        return output.data


@pytest.mark.parametrize("strict", [False, True])
def test_packed_sequences_are_exported(strict):
    """Of any lengths."""
    Dim, model = torch.export.Dim, Tagger().eval()
    shapes = {"rows": {0: Dim("rows")}, "batch_sizes": {0: Dim("steps")}}
    given = rnn.pack_sequence(pieces(5, 3, 1))[:2]
    program = torch.export.export(model, given, dynamic_shapes=shapes, strict=strict)
    for packed in (given, rnn.pack_sequence(pieces(7, 7, 2, 2))[:2]):
        assert_same_bits(program.module()(*packed), model(*packed))


@pytest.mark.filterwarnings("ignore")  # as torch imports its compiler
@pytest.mark.slow  # a C++ compiler runs
def test_exported_programs_are_compiled_ahead(tmp_path, monkeypatch):
    """By AOTInductor, for a process that has imported fastlstm.torch."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    (x,), lstm = inputs((5, 4)), ours.LSTM(3, 8, 2).eval()
    path = torch._inductor.aoti_compile_and_package(
        torch.export.export(lstm, (x,)), package_path=str(tmp_path / "model.pt2")
    )
    assert_same_bits(torch._inductor.aoti_load_package(path)(x), lstm(x))


@pytest.mark.slow
def test_exported_programs_run_in_another_process(tmp_path):
    """Which has imported fastlstm.torch, and nothing of what made the programs."""
    (x,) = inputs((6, 3))
    torch.save(x, tmp_path / "x.pt")
    models = []
    for n, options in enumerate(OPTIONS):
        model, program = exported(options, strict=False, dynamic=True)
        torch.export.save(program, tmp_path / f"{n}.pt2")
        models.append(model)
    program = textwrap.dedent(f"""
        import sys, pathlib, torch, fastlstm.torch
        folder = pathlib.Path(sys.argv[1])
        x = torch.load(folder / "x.pt")
        for n in range({len(models)}):
            found = torch.export.load(folder / f"{{n}}.pt2").module()(x)
            torch.save([t.detach() for t in found], folder / f"{{n}}.pt")
    """)
    command = [sys.executable, "-c", program, str(tmp_path)]
    subprocess.run(command, check=True, timeout=120)
    for n, model in enumerate(models):
        found = torch.load(tmp_path / f"{n}.pt")
        assert_same_bits(found, [t.detach() for t in model(x)])


# ---- ONNX ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("by_dynamo", [False, True])
@pytest.mark.parametrize("options", OPTIONS[:2], ids=str)
def test_onnx(options, by_dynamo, tmp_path):
    """A file has ONNX's own LSTM, as from torch's module."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    if by_dynamo:
        pytest.importorskip("onnxscript")
    model, (x,) = Model(**options).eval(), inputs((5, 4))
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(model, (x,), path, dynamo=by_dynamo, verbose=False)
    nodes = onnx.load(path).graph.node
    assert [n.op_type for n in nodes].count("LSTM") == model.lstm.num_layers
    assert {n.domain for n in nodes} == {""}
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for got, expected in zip(found, model(x), strict=True):
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=0, atol=2e-6)


# ---- faults -------------------------------------------------------------------------------------


class Specialized(ours.LSTM):
    """Is traced for some shapes alone."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        return super().forward(input.relu() if len(input) > 5 else input, hx)


class Unlike(ours.LSTM):
    """Computes something else where it is compiled."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        return super().forward(input * (2 if torch.compiler.is_compiling() else 1), hx)


@pytest.mark.parametrize("cls", [Specialized, Unlike, nn.LSTM])
def test_faults_are_found(cls):
    with pytest.raises((AssertionError, dynamo.exc.Unsupported)):
        xs = inputs((5, 4), (7, 6), (9, 3))
        assert_compiled_alike(Model(cls), xs, "eager", 1, dynamic=True)
