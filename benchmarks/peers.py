"""fastlstm and its peers, each in its cheapest form, and the check that all results are right.

``CONTESTANTS[name](case, weights, x)`` makes a contestant, with the same weights for all. It
returns None if the library has no such layer, and raises ImportError if the library is missing.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

import fastlstm
from fastlstm.engines import MODULES

from . import THREADS, report
from .cases import Case, fewer

Weights = dict[str, np.ndarray]

# The greatest absolute error of outputs and states, against torch in float64: some 40 eps.
TOLERANCE = {"float32": 5e-6, "float64": 1e-14}
STEPS_CHECKED = 5  # of a stream, so that its state is checked too


class Contestant(NamedTuple):
    """One library at one case.

    `run()` is timed, within `context()`. `read(result)` makes arrays of its result: y (T, B, D*P)
    and, where the contestant has them for this case, h_n and c_n.
    """

    run: Callable[[], Any]
    read: Callable[[Any], Any]
    context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


Maker = Callable[..., "Contestant | None"]


def fastlstm_layer(engine: str, case: Case, weights: Weights, num_threads: int) -> fastlstm.LSTM:
    """Return fastlstm's layer of the case with these weights."""
    lstm = fastlstm.LSTM(
        case.I, case.H, case.layers, bidirectional=case.directions == 2, proj_size=case.proj_size,
        dtype=case.dtype, engine=engine, num_threads=num_threads, **case.arguments,
    )  # fmt: skip
    lstm.load_state_dict(weights)
    return lstm.eval()


def _fastlstm(
    engine: str, case: Case, weights: Weights, x: np.ndarray, num_threads: int = THREADS
) -> Contestant:
    lstm = fastlstm_layer(engine, case, weights, num_threads)
    if case.T == 1:
        stream, out = lstm.stream(case.B), np.empty((case.B, case.output_size), case.dtype)
        return Contestant(functools.partial(stream.step, x[0], out), lambda y: (y[None],))
    lengths = case.lengths if case.shortest is not None else None
    return Contestant(functools.partial(lstm, x, lengths=lengths), lambda got: (got[0], *got[1]))


# ---- torch ----------------------------------------------------------------------------------


def torch_layer(case: Case, weights: Weights) -> tuple[Any, Any]:
    """Return torch, and its layer of the case with these weights."""
    import torch

    torch.set_num_threads(THREADS)
    lstm = torch.nn.LSTM(
        case.I, case.H, case.layers, bidirectional=case.directions == 2,
        proj_size=case.proj_size, dtype=getattr(torch, case.dtype),
    )  # fmt: skip
    lstm.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return torch, lstm


def _arrays(*tensors: Any) -> tuple[np.ndarray, ...]:
    return tuple(t.detach().numpy() for t in tensors)


def _torch(case: Case, weights: Weights, x: np.ndarray) -> Contestant | None:
    """Make torch with oneDNN, which has neither float64 nor projections."""
    if case.dtype != "float32" or case.proj_size:
        return None
    return _torch_lstm(case, weights, x)


def _torch_without_onednn(case: Case, weights: Weights, x: np.ndarray) -> Contestant:
    return _torch_lstm(case, weights, x)._replace(context=_inference_without_onednn)


def _torch_lstm(case: Case, weights: Weights, x: np.ndarray) -> Contestant:
    """Make torch's LSTM, which computes all of the padding of a ragged batch."""
    torch, lstm = torch_layer(case, weights)
    x, state = torch.from_numpy(x), None

    def step() -> Any:
        nonlocal state
        y, state = lstm(x, state)
        return y

    if case.T == 1:
        return Contestant(step, _arrays, torch.inference_mode)
    if case.shortest is not None:
        return Contestant(lambda: lstm(x), lambda got: _arrays(got[0]), torch.inference_mode)
    return Contestant(lambda: lstm(x), lambda got: _arrays(got[0], *got[1]), torch.inference_mode)


@contextlib.contextmanager
def without_onednn() -> Iterator[None]:
    """Let torch do without oneDNN inside the block."""
    import torch

    torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = True


@contextlib.contextmanager
def _inference_without_onednn() -> Iterator[None]:
    import torch

    with torch.inference_mode(), without_onednn():
        yield


def _torch_packed(case: Case, weights: Weights, x: np.ndarray) -> Contestant | None:
    """Make torch with sequences that are packed before the clock starts, and stay packed."""
    if case.shortest is None:
        return None
    torch, lstm = torch_layer(case, weights)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.from_numpy(x), torch.from_numpy(case.lengths), enforce_sorted=False
    )

    def read(got: Any) -> tuple[np.ndarray, ...]:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(got[0])
        return _arrays(y, *got[1])

    return Contestant(lambda: lstm(packed), read, torch.inference_mode)


def _torch_cell(case: Case, weights: Weights, x: np.ndarray) -> Contestant | None:
    if case.T > 1:
        return None
    import torch

    torch.set_num_threads(THREADS)
    cell = torch.nn.LSTMCell(case.I, case.H)
    cell.load_state_dict({n.removesuffix("_l0"): torch.from_numpy(w) for n, w in weights.items()})
    x, state = torch.from_numpy(x[0]), None

    def step() -> Any:
        nonlocal state
        state = cell(x, state)
        return state[0]

    return Contestant(step, lambda y: _arrays(y[None]), torch.inference_mode)


# ---- ONNX -----------------------------------------------------------------------------------


_ONNX_FUNCTIONS = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "hard_sigmoid": "HardSigmoid", "softsign": "Softsign",
}  # fmt: skip


def _onnx_attributes(case: Case) -> dict[str, Any]:
    """Return the attributes of ONNX's operator that the case's options stand for."""
    given, attributes = case.arguments, {}
    if "gate_clip" in given:
        attributes["clip"] = given["gate_clip"]
    if "coupled" in given:
        attributes["input_forget"] = 1
    if "gate_activation" in given:
        functions = [
            _ONNX_FUNCTIONS[given[f"{of}_activation"]] for of in ("gate", "cell", "output")
        ]
        attributes["activations"] = functions * case.directions
    return attributes


def onnx_model(case: Case, weights: Weights, states: bool) -> bytes:
    """Return the same stack as an ONNX file, with y of the last layer and h, c of each as outputs.

    The inputs are x, the lengths of a ragged batch and, with `states`, h and c, with which all
    layers begin.
    """
    from onnx import TensorProto, helper, numpy_helper

    def value(name: str, shape: list[int] | None, kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    inputs, outputs = [value("x", [case.T, case.B, case.I])], []
    optional = ["", "", ""]  # sequence_lens, initial_h, initial_c
    attributes = _onnx_attributes(case)
    if case.shortest is not None:
        inputs.append(value("lengths", [case.B], TensorProto.INT32))
        optional[0] = "lengths"
    if states:
        inputs += [value(name, [case.directions, case.B, case.H]) for name in ("h", "c")]
        optional[1:] = "h", "c"
    nodes, stored, below = [], [], "x"

    def of_direction(name: str, suffix: str) -> np.ndarray:
        """Return torch's gates i, f, g, o in ONNX's order, which has rows for coupled ones too."""
        gates = dict(
            zip(case.gates, np.split(weights[name + suffix], len(case.gates)), strict=True)
        )
        return np.concatenate([gates.get(gate, np.zeros_like(gates["i"])) for gate in "iofg"])

    def peepholes(suffix: str) -> np.ndarray:
        nothing = np.zeros_like(weights["weight_ci" + suffix])
        return np.concatenate([weights.get(f"weight_c{gate}{suffix}", nothing) for gate in "iof"])

    for k in range(case.layers):
        suffixes = (f"_l{k}", f"_l{k}_reverse")[: case.directions]
        W, R, b_ih, b_hh = (
            np.stack([of_direction(name, suffix) for suffix in suffixes])
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        parameters = {f"W{k}": W, f"R{k}": R, f"B{k}": np.concatenate([b_ih, b_hh], axis=1)}
        further = []  # inputs after the initial states
        if "peephole" in case.options:
            parameters[f"P{k}"] = np.stack([peepholes(suffix) for suffix in suffixes])
            further = [f"P{k}"]
        stored += [numpy_helper.from_array(array, name) for name, array in parameters.items()]
        results = [f"y{k}", f"h{k}", f"c{k}"]
        nodes.append(
            helper.make_node(
                "LSTM",
                [below, f"W{k}", f"R{k}", f"B{k}", *optional, *further],
                results,
                hidden_size=case.H,
                direction=("forward", "bidirectional")[case.directions - 1],
                **attributes,
            )  # fmt: skip
        )
        outputs += results[1:]
        if k < case.layers - 1:  # (T, D, B, H) -> (T, B, D*H)
            wide, below = np.array([0, 0, case.directions * case.H]), f"x{k + 1}"
            stored.append(numpy_helper.from_array(wide, f"shape{k}"))
            nodes.append(helper.make_node("Transpose", [f"y{k}"], [f"t{k}"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"t{k}", f"shape{k}"], [below]))
    outputs = [value(name, None) for name in (f"y{case.layers - 1}", *outputs)]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, stored)
    opset = [helper.make_opsetid("", 14)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def read_onnx(got: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """Return ONNX's y (T, D, B, H) and each layer's h and c as torch has them."""
    y, *states = map(np.asarray, got)
    y = y.swapaxes(1, 2).reshape(y.shape[0], y.shape[2], -1)
    return (y, np.concatenate(states[::2]), np.concatenate(states[1::2])) if states else (y,)


def _feeds(case: Case, x: np.ndarray) -> dict[str, np.ndarray]:
    ragged = {} if case.shortest is None else {"lengths": case.lengths.astype(np.int32)}
    return {"x": x, **ragged}


def _in_turn(calls: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    """Return a step that calls one and then the other, each of which reads the other's states."""
    now, then = calls

    def step() -> Any:
        nonlocal now, then
        result = now()
        now, then = then, now
        return result

    return step


def _onnxruntime(case: Case, weights: Weights, x: np.ndarray) -> Contestant | None:
    unknown = {"tflite", "haste", "zoneout"} & {*case.options}
    if case.dtype != "float32" or case.proj_size or unknown:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(
        onnx_model(case, weights, states=case.T == 1), options, providers=["CPUExecutionProvider"]
    )
    if case.T > 1:
        return Contestant(functools.partial(session.run, None, _feeds(case, x)), read_onnx)

    def tensor(array: np.ndarray) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)

    here, there = (
        [tensor(np.zeros((1, case.B, case.H), np.float32)) for _ in "hc"] for _ in range(2)
    )
    x, y = tensor(x), tensor(np.empty((1, 1, case.B, case.H), np.float32))

    def bound(before: list[Any], after: list[Any]) -> Callable[[], Any]:
        binding = session.io_binding()
        for name, value in zip(("x", "h", "c"), (x, *before), strict=True):
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(("y0", "h0", "c0"), (y, *after), strict=True):
            binding.bind_ortvalue_output(name, value)
        return functools.partial(session.run_with_iobinding, binding)

    step = _in_turn([bound(here, there), bound(there, here)])
    return Contestant(step, lambda _: read_onnx([y.numpy()]))


def _openvino(case: Case, weights: Weights, x: np.ndarray) -> Contestant | None:
    if case.dtype != "float32" or case.proj_size:
        return None
    import openvino

    core = openvino.Core()
    model = core.compile_model(
        core.read_model(onnx_model(case, weights, states=case.T == 1)),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": THREADS,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    if case.T > 1:
        infer = model.create_infer_request().infer
        run = functools.partial(infer, _feeds(case, x), share_inputs=True, share_outputs=True)
        return Contestant(run, lambda got: read_onnx(got.to_tuple()))
    here, there = (
        [openvino.Tensor(np.zeros((1, case.B, case.H), np.float32)) for _ in "hc"] for _ in range(2)
    )
    x = openvino.Tensor(x)
    y = openvino.Tensor(np.empty((1, 1, case.B, case.H), np.float32))

    def bound(before: list[Any], after: list[Any]) -> Callable[[], Any]:
        request = model.create_infer_request()
        for k, value in enumerate((x, *before)):
            request.set_input_tensor(k, value)
        for k, value in enumerate((y, *after)):
            request.set_output_tensor(k, value)
        return request.infer

    step = _in_turn([bound(here, there), bound(there, here)])
    return Contestant(step, lambda _: read_onnx([y.data]))


# ---- the contestants, and the check that they are right -----------------------------------------

ENGINES: dict[str, Maker] = {name: functools.partial(_fastlstm, name) for name in MODULES}
PEERS: dict[str, Maker] = {
    "torch": _torch,
    "torch without oneDNN": _torch_without_onednn,
    "torch packed": _torch_packed,
    "torch LSTMCell": _torch_cell,
    "onnxruntime": _onnxruntime,
    "OpenVINO": _openvino,
}
FEWER_THREADS: dict[str, Maker] = {
    report.with_threads(name, number): functools.partial(_fastlstm, name, num_threads=number)
    for name in ENGINES
    for number in fewer(THREADS)
}
CONTESTANTS = {**ENGINES, **PEERS}


def truth(case: Case, weights: Weights, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return y, h_n and c_n by torch in float64.

    The NumPy engine takes its place if torch is missing, and in cases with options, which torch
    does not have.
    """
    doubled = {name: value.astype(np.float64) for name, value in weights.items()}
    repeat = STEPS_CHECKED if case.T == 1 else 1
    case, x = case._replace(T=case.T * repeat, dtype="float64"), np.repeat(x, repeat, axis=0)
    x = x.astype(np.float64)
    make = _torch_packed if case.shortest is not None else _torch_without_onednn
    if case.options:
        make = ENGINES["numpy"]
    try:
        contestant = make(case, doubled, x)
    except ImportError:
        contestant = ENGINES["numpy"](case, doubled, x)
    with contestant.context():
        return contestant.read(contestant.run())


def check(name: str, case: Case, contestant: Contestant, expected: tuple[np.ndarray, ...]) -> float:
    """Return the greatest absolute error of a contestant; AssertionError if it is too great."""
    with contestant.context():
        if case.T == 1:
            steps = [contestant.read(contestant.run())[0].copy() for _ in range(STEPS_CHECKED)]
            got = (np.concatenate(steps),)
        else:
            got = contestant.read(contestant.run())
    real = np.arange(len(expected[0]))[:, None] < case.lengths
    if case.T == 1:
        real = slice(None)
    error = 0.0
    for n, (array, right) in enumerate(zip(got, expected, strict=False)):
        assert array.shape == right.shape, f"{name}, {case.name}: {array.shape}, {right.shape}"
        difference = np.abs(array - right)
        error = np.maximum(error, (difference if n else difference[real]).max())
    assert error <= TOLERANCE[case.dtype], (
        f"{name} is wrong in case {case.name}: it differs from the truth by {error:.1e}, "
        f"expected at most {TOLERANCE[case.dtype]:.0e}"
    )
    return float(error)
