"""Measure models that are read from ONNX and TFLite files: ``python -m benchmarks.files --help``.

Whole networks and their steps against onnxruntime, and an LSTM against LiteRT, on the same file;
how long loading takes; an embedding whose products are made ahead; and each operator against onnx's
reference evaluator. README.md has the protocol.
"""

from __future__ import annotations

from . import THREADS  # first: it pins the threads of whatever is imported next

# isort: split
import contextlib
import functools
import importlib.resources
import json
import pathlib
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

import fastlstm
from fastlstm.graphs import operators
from fastlstm.graphs.control import If
from fastlstm.graphs.plan import Plan
from fastlstm.layers import lookup

from . import field, report
from .cases import Case
from .compare import Rounds, command_line, engines_there, rounds_of, setting, timed
from .peers import ENGINES, PEERS, STEPS_CHECKED, Contestant, check, truth

OURS, PEER, BOUND = "native", "onnxruntime", "onnxruntime, bound"
LITERT = "LiteRT"
PLAIN = "native, without the table"
# The greatest error of an output, against its greatest value: two engines round differently, and
# each step of an LSTM goes on from the error of the one before.
TOLERANCE = 1e-4
SEQUENCE = "silero_vad_16k_sequence.onnx"
Feeds = dict[str, np.ndarray]


class Race(NamedTuple):
    """A case: who makes its contestants, in a folder for files, and the bar of the ratio.

    ``contestants(folder)`` returns them by their names, and the greatest error.
    """

    group: str
    contestants: Callable[[pathlib.Path], tuple[dict[str, Contestant], float]]
    bar: float | None


# ---- files --------------------------------------------------------------------------------------


def silero(name: str) -> pathlib.Path:
    """Return the path of one of Silero VAD's files, from its package."""
    path = importlib.resources.files("silero_vad") / "data" / name
    return pathlib.Path(str(path))


def _export(model: Any, inputs: Any, path: pathlib.Path, **names: Any) -> pathlib.Path:
    """Write a torch model as an ONNX file by torch's exporter of TorchScript."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), inputs, str(path), opset_version=20, dynamo=False, **names)
    return path


def tagger(folder: pathlib.Path) -> pathlib.Path:
    """Write a tagger of sentences: Embedding, two bidirectional LSTMs, Linear."""
    import torch

    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(5000, 100)
            self.lstm = torch.nn.LSTM(100, 128, 2, batch_first=True, bidirectional=True)
            self.linear = torch.nn.Linear(256, 20)

        def forward(self, words: Any, lengths: Any) -> Any:
            packed = torch.nn.utils.rnn.pack_padded_sequence(
                self.embedding(words), lengths, batch_first=True, enforce_sorted=False
            )
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
            return self.linear(y)

    torch.manual_seed(0)
    example = torch.zeros(2, 7, dtype=torch.int64), torch.tensor([7, 4])
    axes = {"words": {0: "batch", 1: "steps"}, "lengths": {0: "batch"}, "tags": {0: "batch"}}
    names = {"input_names": ["words", "lengths"], "output_names": ["tags"], "dynamic_axes": axes}
    return _export(Tagger(), example, folder / "tagger.onnx", **names)


def large(folder: pathlib.Path) -> pathlib.Path:
    """Write a file of 10 MB: two LSTMs and a Linear."""
    import torch

    class Large(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(256, 400, 2, batch_first=True)
            self.linear = torch.nn.Linear(400, 400)

        def forward(self, x: Any) -> Any:
            return self.linear(self.lstm(x)[0])

    torch.manual_seed(0)
    axes = {"x": {0: "batch", 1: "steps"}}
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
    return _export(Large(), (torch.zeros(1, 5, 256),), folder / "large.onnx", **names)


# ---- contestants --------------------------------------------------------------------------------


def session(path: pathlib.Path) -> Any:
    """Return onnxruntime's session of a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def apart(got: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Return the greatest error against an output's greatest value; raise if it is too great."""
    worst = 0.0
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape, f"shapes {ours.shape} and {theirs.shape}"
        worst = max(worst, float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
    assert worst <= TOLERANCE, f"outputs are {worst:.1e} apart, at most {TOLERANCE:.0e}"
    return worst


def _whole(
    find: Callable[[pathlib.Path], pathlib.Path], feeds: Feeds, folder: pathlib.Path
) -> tuple[dict[str, Contestant], float]:
    """Make the runs of a whole file."""
    path = find(folder)
    model, peer = fastlstm.load(path, engine=OURS), session(path)
    runs = {
        name: functools.partial(of.run, None, feeds) for name, of in ((OURS, model), (PEER, peer))
    }
    error = apart(*(run() for run in runs.values()))
    return {name: Contestant(run, None) for name, run in runs.items()}, error


def _frames(path: str, folder: pathlib.Path) -> tuple[dict[str, Contestant], float]:
    """Make the steps of Silero's streams: a frame goes in, the states go on."""
    model, peer = fastlstm.load(silero(path), engine=OURS), session(silero(path))
    given = {port.name for port in model.inputs}
    feeds = {name: array for name, array in frames(1).items() if name in given}
    states = {state.input.name: state.output for state in model.states}
    fixed = {name: array for name, array in feeds.items() if name not in states}
    stream = model.stream()
    ours = functools.partial(stream.run, **fixed)
    names = [port.name for port in model.outputs]
    now = {name: feeds[name] for name in states}

    def theirs() -> np.ndarray:
        nonlocal now
        results = dict(zip(names, peer.run(None, {**fixed, **now}), strict=True))
        now = {name: results[output] for name, output in states.items()}
        return next(array for name, array in results.items() if name not in states.values())

    bound = _bound_steps(peer, fixed, states, feeds, model.outputs)
    error = 0.0
    for _ in range(STEPS_CHECKED):
        expected = [theirs().copy()]
        error = max(error, apart([ours()], expected), apart([bound().copy()], expected))
    made = {OURS: ours, PEER: theirs, BOUND: bound}
    return {name: Contestant(run, None) for name, run in made.items()}, error


def _bound_steps(
    peer: Any, fixed: Feeds, states: dict[str, str], first: Feeds, outputs: Any
) -> Callable[[], np.ndarray]:
    """Make onnxruntime's step with inputs and outputs bound once; two bindings swap the states."""
    import onnxruntime

    value = onnxruntime.OrtValue.ortvalue_from_numpy
    names = [port.name for port in outputs]
    example = dict(
        zip(names, peer.run(None, {**fixed, **{n: first[n] for n in states}}), strict=True)
    )
    here, there = ({name: value(first[name]) for name in states} for _ in range(2))
    own = {n: value(np.empty_like(a)) for n, a in example.items() if n not in states.values()}
    given = {name: value(array) for name, array in fixed.items()}
    bindings = []
    for before, after in ((here, there), (there, here)):
        binding = peer.io_binding()
        for name, of in {**given, **before}.items():
            binding.bind_ortvalue_input(name, of)
        for name, of in own.items():
            binding.bind_ortvalue_output(name, of)
        for name, output in states.items():
            binding.bind_ortvalue_output(output, after[name])
        bindings.append(binding)
    (result,) = own.values()

    def step() -> np.ndarray:
        peer.run_with_iobinding(bindings[0])
        bindings.reverse()
        return result.numpy()

    return step


def frames(count: int) -> Feeds:
    """Return inputs for any of Silero's files: so many frames of noise, and states of zeros."""
    rng = np.random.default_rng(0)
    return {
        "input": (0.1 * rng.normal(size=(count, 576))).astype(np.float32),
        "state": np.zeros((2, 1, 128), np.float32),
        "h": np.zeros((1, 1, 128), np.float32),
        "c": np.zeros((1, 1, 128), np.float32),
        "sr": np.array(16000),
    }


def _sequence(count: int, folder: pathlib.Path) -> tuple[dict[str, Contestant], float]:
    feeds = {name: array for name, array in frames(count).items() if name in ("input", "h", "c")}
    return _whole(lambda _: silero(SEQUENCE), feeds, folder)


def _lstm_alone(steps: int, folder: pathlib.Path) -> tuple[dict[str, Contestant], float]:
    """Make Silero's LSTM, loaded from the file, and one node with its weights in onnxruntime."""
    weights = fastlstm.load_lstm(silero(SEQUENCE)).state_dict()
    case = Case(steps, 1, 128, 128)
    x = np.random.default_rng(1).normal(size=(steps, 1, 128)).astype(np.float32)
    makers = {OURS: ENGINES[OURS], PEER: PEERS[PEER]}
    made = {name: make(case, weights, x) for name, make in makers.items()}
    right = truth(case, weights, x)
    return made, max(check(name, case, one, right) for name, one in made.items())


def _of_tflite(
    steps: int, inputs: int, units: int, folder: pathlib.Path
) -> tuple[dict[str, Contestant], float]:
    """Make an LSTM from a TFLite file: whole sequences, which LiteRT begins with a reset.

    Its cell has the clip that TensorFlow's converter gives each LSTM.
    """
    from ai_edge_litert.interpreter import Interpreter

    case = Case(steps, 1, inputs, units)
    weights = fastlstm.LSTM(inputs, units, seed=0).state_dict()
    content, (x_there, y_there, *_) = field._litert_model(case, weights, cell_clip=10.0)
    path = folder / "lstm.tflite"
    path.write_bytes(content)
    x = np.random.default_rng(5).normal(size=(steps, 1, inputs)).astype(np.float32)
    model = fastlstm.load(path, engine=OURS)
    interpreter = Interpreter(model_path=str(path), num_threads=THREADS)
    interpreter.allocate_tensors()
    given, result = interpreter.tensor(x_there), interpreter.tensor(y_there)

    def theirs() -> np.ndarray:
        given()[...] = x  # as quick as a caller can be: no copies by set_tensor and get_tensor
        interpreter.reset_all_variables()
        interpreter.invoke()
        return result()

    runs = {OURS: functools.partial(model, x), LITERT: theirs}
    error = apart([model(x)], [theirs().copy()])
    return {name: Contestant(run, None) for name, run in runs.items()}, error


def sentences() -> Feeds:
    """Return 32 sentences of 5 to 40 words."""
    rng = np.random.default_rng(2)
    lengths = rng.integers(5, 41, 32)
    words = rng.integers(0, 5000, (32, lengths.max()))
    return {"words": words, "lengths": lengths}


def _loading(and_run: bool, folder: pathlib.Path) -> tuple[dict[str, Contestant], float]:
    """Make what loads the large file and, if asked, runs it once."""
    path = large(folder)
    feeds = {"x": np.random.default_rng(3).normal(size=(1, 5, 256)).astype(np.float32)}

    def loaded(load: Callable[[], Any]) -> Any:
        model = load()
        return model.run(None, feeds) if and_run else model

    loads = {
        OURS: functools.partial(fastlstm.load, path, engine=OURS),
        PEER: functools.partial(session, path),
    }
    error = apart(*(load().run(None, feeds) for load in loads.values()))
    return {
        name: Contestant(functools.partial(loaded, load), None) for name, load in loads.items()
    }, error


def _looked_up(rows: int, folder: pathlib.Path) -> tuple[dict[str, Contestant], float]:
    """Make an Embedding and an LSTM whose products of rows are made ahead, or are not."""
    words = np.random.default_rng(4).integers(0, rows, (100, 1))
    made, results = {}, []
    for name, limit in ((OURS, lookup._BYTES_PER_INPUT), (PLAIN, 0)):
        model = fastlstm.Sequential(
            {
                "embedding": fastlstm.Embedding(rows, 128, seed=0),
                "lstm": fastlstm.LSTM(128, 128, num_threads=THREADS, engine=OURS, seed=1),
            }
        ).eval()
        with mock.patch.object(lookup, "_BYTES_PER_INPUT", limit):
            for _ in range(2 + 2 * rows // 100):  # it counts rows until a table pays
                results.append(model(words))
        made[name] = Contestant(functools.partial(model, words), None)
    assert all(np.array_equal(results[0][0], y) for y, *_ in results), "results differ"
    return made, 0.0


# ---- all cases ----------------------------------------------------------------------------------

STEPS = (SEQUENCE, "silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_op18_ifless.onnx")
FILES, FRAMES, ALONE = "Whole files", "Silero, frame by frame", "Silero's LSTM alone"
TFLITE = "LSTMs of TFLite files, whole sequences"
LARGE, AHEAD = "A file of 10 MB", "Embedding and LSTM, products of rows made ahead"

RACES = {
    "Silero, 1 frame": Race(FILES, functools.partial(_sequence, 1), 1),
    "Silero, 10 frames": Race(FILES, functools.partial(_sequence, 10), 1),
    "Silero, 100 frames": Race(FILES, functools.partial(_sequence, 100), 1),
    "Silero, 1000 frames": Race(FILES, functools.partial(_sequence, 1000), 1),
    "tagger, 32 sentences": Race(FILES, functools.partial(_whole, tagger, sentences()), 1.5),
    **{f"step of {name}": Race(FRAMES, functools.partial(_frames, name), 1) for name in STEPS},
    "1,1,128,128": Race(ALONE, functools.partial(_lstm_alone, 1), 2.5),
    "100,1,128,128": Race(ALONE, functools.partial(_lstm_alone, 100), None),
    "1000,1,128,128": Race(ALONE, functools.partial(_lstm_alone, 1000), None),
    "TFLite, 28,1,28,20": Race(TFLITE, functools.partial(_of_tflite, 28, 28, 20), 2),
    "TFLite, 100,1,128,128": Race(TFLITE, functools.partial(_of_tflite, 100, 128, 128), None),
    "load": Race(LARGE, functools.partial(_loading, False), 1),
    "load, first call": Race(LARGE, functools.partial(_loading, True), None),
    "256 rows, 100,1,128,128": Race(AHEAD, functools.partial(_looked_up, 256), None),
    "5000 rows, 100,1,128,128": Race(AHEAD, functools.partial(_looked_up, 5000), None),
}


def measure(name: str, rounds: Rounds, absent: dict[str, str]) -> dict[str, Any] | None:
    """Check contestants, then time them; return the entry, or None if a library is absent."""
    race = RACES[name]
    with tempfile.TemporaryDirectory() as folder:
        try:
            contestants, error = race.contestants(pathlib.Path(folder))
        except ImportError as missing:
            absent[str(missing.name)] = str(missing)
            return None
        return {
            "name": name,
            "group": race.group,
            "dtype": "float32",
            "bar": race.bar,
            "errors": {OURS: error},
            **timed(contestants, rounds),
        }


# ---- operators ----------------------------------------------------------------------------------


class _Timed:
    """What computes a node, with a clock around it."""

    def __init__(self, kind: str, compute: Any, taken: dict[str, list[float]]) -> None:
        self.kind, self.compute, self.taken = kind, compute, taken

    def __call__(self, *values: Any) -> Any:
        begin = time.perf_counter()
        result = self.compute(*values)
        self.taken.setdefault(self.kind, []).append(time.perf_counter() - begin)
        return result


def _put_clocks(plan: Plan, taken: dict[str, list[float]]) -> None:
    """Put clocks around the nodes of a plan, and of the plans inside its Ifs."""
    steps = []
    for node, compute, *slots in plan._steps:
        if isinstance(compute, If):
            for inner, _ in compute.branches:
                _put_clocks(inner, taken)
            steps.append((node, compute, *slots))
        else:
            steps.append((node, _Timed(node.type, compute, taken), *slots))
    plan._steps = steps


@contextlib.contextmanager
def _by_onnx_alone() -> Iterator[None]:
    """Leave all but LSTMs and graphs inside to onnx's reference evaluator, and all nodes apart."""
    own = ("If", "Loop", "LSTM", "Scan")
    table = {kind: make for kind, make in operators.OPERATORS.items() if kind in own}
    apart = mock.patch("fastlstm.graphs.fusion.fused", lambda draft, nodes, outputs: list(nodes))
    with mock.patch.object(operators, "OPERATORS", table), apart:
        yield


def operator_times(path: pathlib.Path, feeds: Feeds, calls: int) -> dict[str, Any]:
    """Return the seconds that each kind of operators takes in a call, ours and the evaluator's."""
    found: dict[str, Any] = {}
    results = []
    for name, context in ((OURS, contextlib.nullcontext()), ("onnx", _by_onnx_alone())):
        with context:
            model = fastlstm.load(path, engine=OURS)
        given = {port.name: feeds[port.name] for port in model.inputs}
        results.append(model.run(None, given))
        begin, times = time.perf_counter(), []
        for _ in range(calls):
            begin = time.perf_counter()
            model.run(None, given)
            times.append(time.perf_counter() - begin)
        taken: dict[str, list[float]] = {}
        values = [given[port.name] for port in model.inputs]
        _put_clocks(model.plan, taken)
        with np.errstate(all="ignore"):
            for _ in range(calls):
                model.plan.run(values)
        found[name] = {
            "whole": statistics.median(times),
            "nodes": {kind: [len(of) // calls, sum(of) / calls] for kind, of in taken.items()},
        }
    apart(*results)
    return found


# ---- the command --------------------------------------------------------------------------------


def main() -> None:
    """Measure what the command line names, and write the results."""
    parser = command_line("python -m benchmarks.files", __doc__, RACES, [OURS])
    args = parser.parse_args()
    if THREADS > 1:
        parser.error("the bars are for one thread")
    engines, absent = engines_there([OURS])
    rounds = rounds_of(args, 9)
    cases = []
    for number, name in enumerate(args.cases, 1):
        print(f"{number}/{len(args.cases)} {name}", file=sys.stderr, flush=True)
        cases.append(measure(name, rounds, absent))
    nodes: dict[str, Any] = {}
    if set(args.cases) == set(RACES):
        print("operators", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(ImportError):
            calls = 5 if args.quick else 200
            nodes[SEQUENCE] = operator_times(silero(SEQUENCE), frames(1), calls)
            nodes["silero_vad.onnx"] = operator_times(silero("silero_vad.onnx"), frames(1), calls)
            nodes["tagger"] = operator_times(tagger(pathlib.Path(folder)), sentences(), calls // 5)
    results = {
        **setting(engines),
        **rounds._asdict(),
        "tolerance": TOLERANCE,
        "peers": [PEER, BOUND, PLAIN, LITERT],
        "absent": absent,
        "cases": [case for case in cases if case],
        "operators": nodes,
    }
    write(results, args.out)


def write(results: dict[str, Any], folder: pathlib.Path) -> None:
    """Write files.json and files.md."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "files"
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    text = report.files(results)
    path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
