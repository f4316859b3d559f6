"""Further peers, each as it runs a stored model: LiteRT, MNN, ncnn, tract and JAX.

They come with the extra `[bench-all]`. Each maker is one of those that `peers` describes, and gives
None where its library is not raced. LiteRT and ncnn get one layer with one direction, since their
models are written here by hand; ncnn knows no batches. JAX, whose loop is compiled, gets whole
sequences alone.
"""

from __future__ import annotations

import functools
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from . import THREADS
from .cases import Case
from .peers import Contestant, Maker, Weights, onnx_model, read_onnx

MOST_OPERATIONS = 1e10  # of a call
# MNN's converter, whose own command would send a log of its use to the makers.
CONVERT = "import sys, _tools; _tools.mnnconvert(sys.argv)"
MNN_SETTING = {"backend": "CPU", "precision": "high", "numThread": THREADS}


def _plain(case: Case) -> bool:
    """Say if a case is the plain cell in float32, with sequences of one length, and not too large.

    The largest batches would take these peers, which are behind in all smaller ones, minutes.
    """
    return (
        case.dtype == "float32"
        and not case.proj_size
        and not case.options
        and case.shortest is None
        and case.operations < MOST_OPERATIONS
    )


def one_layer(case: Case) -> bool:
    """Say if a case is plain, and one layer with one direction."""
    return _plain(case) and (case.layers, case.directions) == (1, 1)


def _bias(weights: Weights) -> np.ndarray:
    return weights["bias_ih_l0"] + weights["bias_hh_l0"]


# ---- LiteRT, once TensorFlow Lite ---------------------------------------------------------------


def _litert_model(case: Case, weights: Weights, cell_clip: float = 0.0) -> tuple[bytes, list[int]]:
    """Return a file with the one fused operator, and the numbers of its tensors x, y, h, c."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    tensors, buffers = [], [schema.BufferT()]  # the first buffer is the empty one

    def tensor(name: str, *shape: int, data: np.ndarray | None = None, state: bool = False) -> int:
        if data is not None:
            stored = np.ascontiguousarray(data).ravel().view(np.uint8)
            buffers.append(schema.BufferT(data=stored))
        of_data = len(buffers) - 1 if data is not None else 0
        tensors.append(
            schema.TensorT(list(shape), schema.TensorType.FLOAT32, of_data, name, isVariable=state)
        )
        return len(tensors) - 1

    def of_gates(name: str, array: np.ndarray) -> list[int]:
        """Store torch's four gates, whose order is the operator's too, as tensors of their own."""
        parts = zip("ifgo", np.split(array, 4), strict=True)
        return [tensor(name + gate, *part.shape, data=part) for gate, part in parts]

    x, y = (tensor(name, case.T, case.B, size) for name, size in (("x", case.I), ("y", case.H)))
    h, c = (tensor(name, case.B, case.H, state=True) for name in "hc")
    absent = [-1]
    inputs = [
        x, *of_gates("W", weights["weight_ih_l0"]), *of_gates("R", weights["weight_hh_l0"]),
        *absent * 3, *of_gates("b", _bias(weights)), *absent * 2, h, c, *absent * 4,
    ]  # fmt: skip  # absent: peepholes, projection, layer normalisation
    options = schema.UnidirectionalSequenceLSTMOptionsT(
        fusedActivationFunction=schema.ActivationFunctionType.TANH,
        cellClip=cell_clip,
        timeMajor=True,
    )
    operator = schema.OperatorT(
        inputs=inputs, outputs=[y], builtinOptions=options,
        builtinOptionsType=schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions,
    )  # fmt: skip
    kind = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
    model = schema.ModelT(
        version=3,
        operatorCodes=[schema.OperatorCodeT(deprecatedBuiltinCode=kind, builtinCode=kind)],
        subgraphs=[schema.SubGraphT(tensors, [x], [y], [operator])],
        buffers=buffers,
    )
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output()), [x, y, h, c]


def _litert(case: Case, weights: Weights, x: np.ndarray) -> Contestant | None:
    """Make LiteRT, which keeps h and c itself; a whole sequence begins with their reset."""
    if not one_layer(case):
        return None
    from ai_edge_litert.interpreter import Interpreter

    content, numbers = _litert_model(case, weights)
    interpreter = Interpreter(model_content=content, num_threads=THREADS)
    interpreter.allocate_tensors()
    x_there, *results = (interpreter.tensor(number) for number in numbers)
    x_there()[...] = x

    def sequence() -> None:
        interpreter.reset_all_variables()
        interpreter.invoke()

    def read(_: None) -> tuple[np.ndarray, ...]:
        y, h, c = (result().copy() for result in results)
        return (y, h[None], c[None]) if case.T > 1 else (y,)

    return Contestant(interpreter.invoke if case.T == 1 else sequence, read)


# ---- MNN and tract, which read ONNX -------------------------------------------------------------


def _mnn(case: Case, weights: Weights, x: np.ndarray) -> Contestant | None:
    """Make MNN: a session, its quickest form, for steps, and a module for loops over time."""
    if not _plain(case):
        return None
    import MNN

    with tempfile.TemporaryDirectory() as folder:
        stored, converted = (pathlib.Path(folder) / f"lstm.{kind}" for kind in ("onnx", "mnn"))
        stored.write_bytes(onnx_model(case, weights, states=case.T == 1))
        command = [sys.executable, "-c", CONVERT, "-f", "ONNX", "--bizCode", "benchmarks"]
        command += ["--modelFile", stored, "--MNNModel", converted]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        if case.T == 1:
            return _mnn_step(MNN.Interpreter(str(converted)), case, x)
        names = [f"y{case.layers - 1}"]
        names += [f"{state}{layer}" for layer in range(case.layers) for state in "hc"]
        manager = MNN.nn.create_runtime_manager((MNN_SETTING,))
        module = MNN.nn.load_module_from_file(str(converted), ["x"], names, runtime_manager=manager)
    there = MNN.expr.const(x, list(x.shape), MNN.expr.data_format.NCHW, MNN.expr.dtype.float)
    return Contestant(
        lambda: module.onForward([there]), lambda got: read_onnx([y.read() for y in got])
    )


def _mnn_step(interpreter: Any, case: Case, x: np.ndarray) -> Contestant:
    """Make a step, which computes in the memory of its inputs: all are set in each call."""
    import MNN

    session = interpreter.createSession(MNN_SETTING)
    inputs = interpreter.getSessionInputAll(session)
    outputs = interpreter.getSessionOutputAll(session)

    def tensor(array: np.ndarray) -> Any:
        kind = MNN.Halide_Type_Float, array, MNN.Tensor_DimensionType_Caffe
        return MNN.Tensor(array.shape, *kind)

    x_here, zeros = tensor(x), np.zeros((1, case.B, case.H), np.float32)
    x_there, h, c = (inputs[name] for name in "xhc")
    y, next_h, next_c = (outputs[name] for name in ("y0", "h0", "c0"))
    h.copyFrom(tensor(zeros))
    c.copyFrom(tensor(zeros))

    def step() -> None:
        x_there.copyFrom(x_here)
        interpreter.runSession(session)
        h.copyFrom(next_h)
        c.copyFrom(next_c)

    return Contestant(step, lambda _: read_onnx([y.getNumpyData()]))


def _tract(case: Case, weights: Weights, x: np.ndarray) -> Contestant | None:
    """Make tract, which has one thread; its tensors go from call to call as they are."""
    if not _plain(case):
        return None
    import tract

    with tempfile.TemporaryDirectory() as folder:
        stored = pathlib.Path(folder) / "lstm.onnx"
        stored.write_bytes(onnx_model(case, weights, states=True))
        run = tract.onnx().load(stored).into_model().into_runnable().spawn_state().run
    zeros = np.zeros((case.directions, case.B, case.H), np.float32)
    there, *state = map(tract.Tensor.from_numpy, (x, zeros, zeros))

    def step() -> Any:
        nonlocal state
        y, *state = run([there, *state])
        return [y]

    sequence = functools.partial(run, [there, *state])
    return Contestant(
        step if case.T == 1 else sequence, lambda got: read_onnx([y.to_numpy() for y in got])
    )


# ---- ncnn ---------------------------------------------------------------------------------------


def _ncnn(case: Case, weights: Weights, x: np.ndarray) -> Contestant | None:
    if not one_layer(case) or case.B > 1:
        return None
    import ncnn

    def rows(array: np.ndarray) -> bytes:
        """Return torch's gates i, f, g, o in ncnn's order, behind its mark of float32."""
        i, f, g, o = np.split(array, 4)
        return bytes(4) + np.concatenate([i, f, o, g]).tobytes()

    net = ncnn.Net()
    net.opt.num_threads, net.opt.use_vulkan_compute = THREADS, False
    layer = f"LSTM lstm 3 3 x h c y h_n c_n 0={case.H} 1={4 * case.H * case.I} 2=0"
    inputs = "".join(f"Input {name} 0 1 {name}\n" for name in "xhc")
    with tempfile.TemporaryDirectory() as folder:
        graph, stored = pathlib.Path(folder) / "lstm.param", pathlib.Path(folder) / "lstm.bin"
        graph.write_text(f"7767517\n4 6\n{inputs}{layer}\n")  # ncnn's mark, 4 layers, 6 blobs
        arrays = weights["weight_ih_l0"], _bias(weights), weights["weight_hh_l0"]
        stored.write_bytes(b"".join(map(rows, arrays)))
        net.load_param(str(graph))
        net.load_model(str(stored))
    # Clones, because a matrix made of an array does not keep it alive.
    zeros = np.zeros((1, case.H), np.float32)
    there, *state = (ncnn.Mat(array).clone() for array in (x[:, 0], zeros, zeros))

    def run(state: list[Any]) -> list[Any]:
        extractor = net.create_extractor()
        for number, value in enumerate((there, *state)):
            extractor.input(number, value)
        return [extractor.extract(number)[1] for number in (3, 4, 5)]

    def step() -> list[Any]:
        nonlocal state
        y, *state = run(state)
        return [y]

    sequence = functools.partial(run, state)
    return Contestant(
        step if case.T == 1 else sequence, lambda got: tuple(np.array(y)[:, None] for y in got)
    )


# ---- JAX ----------------------------------------------------------------------------------------


def jax_layer(case: Case) -> tuple[Any, Callable[..., Any]]:
    """Return JAX, and the function (x, weights by torch's names) -> y, h_n, c_n of one layer.

    The input products of all steps are one product before the loop.
    """
    import jax
    from jax import nn
    from jax import numpy as jnp

    jax.config.update("jax_platforms", "cpu")  # also where there is a GPU
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    zeros = jnp.zeros((case.B, case.H))

    def forward(x: Any, weights: dict[str, Any]) -> tuple[Any, Any, Any]:
        W, R = weights["weight_ih_l0"], weights["weight_hh_l0"]

        def step(state: tuple[Any, Any], z: Any) -> tuple[tuple[Any, Any], Any]:
            h, c = state
            i, f, g, o = jnp.split(z + h @ R.T, 4, axis=1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        z = x @ W.T + (weights["bias_ih_l0"] + weights["bias_hh_l0"])
        (h, c), y = jax.lax.scan(step, (zeros, zeros), z)
        return y, h[None], c[None]

    return jax, forward


def _jax(case: Case, weights: Weights, x: np.ndarray) -> Contestant | None:
    if not one_layer(case) or case.T == 1:
        return None
    jax, forward = jax_layer(case)
    run, arguments = jax.jit(forward), jax.device_put((x, weights))
    return Contestant(
        lambda: jax.block_until_ready(run(*arguments)), lambda got: tuple(map(np.asarray, got))
    )


FIELD: dict[str, Maker] = {
    "LiteRT": _litert,
    "MNN": _mnn,
    "ncnn": _ncnn,
    "tract": _tract,
    "JAX": _jax,
}
