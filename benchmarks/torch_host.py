"""Measure torch's programs with our modules in them: ``python -m benchmarks.torch_host --help``.

Each program is run twice, with the modules of torch.nn and with those of fastlstm.torch, in turn.
README.md has the protocol.
"""

from __future__ import annotations

from . import NUMBERS, THREADS  # first: it pins the threads of whatever is imported next

# isort: split
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import report, train
from .cases import CASES, OPTIONS, Case
from .compare import Rounds, Task, checked, command_line, rounds_of, setting, timed
from .peers import Contestant, Weights

# "Padded": packed sequences are given to torch.nn.LSTM as a padded batch, in training. Without
# gradients that is not the same program: the final states would be those of the padding.
# "Step by step": the program that torch.nn needs, with our modules, where they have a shorter one.
OURS, NN = "fastlstm.torch", "torch.nn"
PADDED, STEP_BY_STEP = "torch.nn, padded", "fastlstm.torch, step by step"
RUNS_CHECKED = 2  # the second result is checked: of weights and memory that have been used before
MODULES = 32  # the small modules of one program
LEAST = 0.98  # nowhere slower; what differs by 2 % does not differ


def _layer(modules: Any, case: Case, weights: Weights, **arguments: Any) -> Any:
    """Return the LSTM of `modules` with these weights."""
    import torch

    torch.set_num_threads(THREADS)
    lstm = modules.LSTM(
        case.I, case.H, case.layers, bidirectional=case.directions == 2,
        proj_size=case.proj_size, dtype=getattr(torch, case.dtype), **arguments,
    )  # fmt: skip
    lstm.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return lstm


def _cell(modules: Any, case: Case, weights: Weights) -> Any:
    """Return the LSTMCell of `modules` with these weights."""
    import torch

    torch.set_num_threads(THREADS)
    cell = modules.LSTMCell(case.I, case.H, dtype=getattr(torch, case.dtype))
    cell.load_state_dict({n.removesuffix("_l0"): torch.from_numpy(w) for n, w in weights.items()})
    return cell


class _Form:
    """How a program holds its sequences: padded or packed, the batch first or the steps."""

    def __init__(self, case: Case, use: Iterable[str]) -> None:
        self.lengths, self.packed, self.batch_first = (
            case.lengths, "packed" in use, "batch_first" in use,
        )  # fmt: skip
        self.rest: tuple[Any, ...] = ()  # what a packed sequence has besides its data

    def tensor(self, array: np.ndarray) -> Any:
        """Return the values of an array (T, B, F), those of packed sequences in their order."""
        import torch

        tensor = torch.from_numpy(array)
        if self.packed:
            tensor, *self.rest = torch.nn.utils.rnn.pack_padded_sequence(
                tensor, torch.from_numpy(self.lengths), enforce_sorted=False
            )
            return tensor
        return tensor.transpose(0, 1).contiguous() if self.batch_first else tensor.clone()

    def sequences(self, tensor: Any) -> Any:
        """Return what a layer takes, of the values."""
        import torch

        return torch.nn.utils.rnn.PackedSequence(tensor, *self.rest) if self.packed else tensor

    def values(self, sequences: Any) -> Any:
        """Return the values of what a layer gives."""
        return sequences[0] if self.packed else sequences

    def array(self, tensor: Any) -> np.ndarray:
        """Return values as an array (T, B, F), with zeros in the padding."""
        import torch

        tensor = tensor.detach()
        if self.packed:
            tensor, _ = torch.nn.utils.rnn.pad_packed_sequence(self.sequences(tensor))
        array = (tensor.transpose(0, 1) if self.batch_first else tensor).numpy().copy()
        array[np.arange(len(array))[:, None] >= self.lengths] = 0
        return array


# ---- programs: made with these modules, words for their use, and the numbers of a case ----------


def training(
    use: Sequence[str], modules: Any, case: Case, weights: Weights, x: np.ndarray, dy: np.ndarray
) -> Contestant:
    """Make a training step: forward, and back to the gradients of x and of all weights.

    With "SGD" an optimiser's step follows. Its rate is zero, so that weights stay what they are;
    they count as changed all the same.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    dropout = "dropout" in use
    lstm = _layer(
        modules, case, weights, batch_first="batch_first" in use, dropout=0.5 if dropout else 0.0
    )
    if "frozen" in use:
        lstm.weight_hh_l0.requires_grad_(False)
    optimiser = torch.optim.SGD(lstm.parameters(), lr=0.0, foreach=True) if "SGD" in use else None
    layer = (
        functools.partial(checkpoint, lstm, use_reentrant=False) if "checkpoint" in use else lstm
    )
    form = _Form(case, use)
    leaf, d_output = form.tensor(x).requires_grad_(), form.tensor(dy)
    sequences = form.sequences(leaf)

    def step() -> Any:
        if dropout:
            torch.manual_seed(0)
        lstm.zero_grad(set_to_none=True)
        leaf.grad = None
        y, _ = layer(sequences)
        form.values(y).backward(d_output)
        if optimiser:
            optimiser.step()
        return leaf.grad

    return Contestant(step, lambda dx: {"x": form.array(dx), **_gradients(lstm)})


def _gradients(module: Any) -> Weights:
    found = {name: p.grad for name, p in module.named_parameters()}
    return {name: grad.numpy().copy() for name, grad in found.items() if grad is not None}


def inference(
    use: Sequence[str], modules: Any, case: Case, weights: Weights, x: np.ndarray, dy: np.ndarray
) -> Contestant:
    """Make a call without gradients; that of one step begins with the state of the call before."""
    import torch

    lstm = _layer(modules, case, weights, batch_first="batch_first" in use).eval()
    form, state = _Form(case, use), None
    sequences = form.sequences(form.tensor(x))

    def step() -> Any:
        nonlocal state
        y, state = lstm(sequences, state)
        return y, state

    def read(got: Any) -> Weights:
        y, (h_n, c_n) = got
        return {"y": form.array(form.values(y)), "h_n": h_n.numpy(), "c_n": c_n.numpy()}

    run = step if case.T == 1 else functools.partial(lstm, sequences)
    return Contestant(run, read, torch.inference_mode if "inference_mode" in use else torch.no_grad)


def cell_inference(
    use: Sequence[str], modules: Any, case: Case, weights: Weights, x: np.ndarray, dy: np.ndarray
) -> Contestant:
    """Make a step of an LSTMCell, which begins with the state of the call before."""
    import torch

    cell, step_x, state = _cell(modules, case, weights), torch.from_numpy(x[0]), None

    def step() -> Any:
        nonlocal state
        state = cell(step_x, state)
        return state

    return Contestant(step, lambda got: {"h": got[0].numpy(), "c": got[1].numpy()}, torch.no_grad)


def cell_training(
    use: Sequence[str], modules: Any, case: Case, weights: Weights, x: np.ndarray, dy: np.ndarray
) -> Contestant:
    """Make a training step of a loop over an LSTMCell."""
    import torch

    cell = _cell(modules, case, weights)
    leaf, d_output = torch.from_numpy(x.copy()).requires_grad_(), torch.from_numpy(dy)

    def step() -> Any:
        cell.zero_grad(set_to_none=True)
        leaf.grad = None
        state, outputs = None, []
        for step_x in leaf.unbind():
            state = cell(step_x, state)
            outputs.append(state[0])
        torch.stack(outputs).backward(d_output)
        return leaf.grad

    return Contestant(step, lambda dx: {"x": dx.numpy(), **_gradients(cell)})


def episodes(
    use: Sequence[str], modules: Any, case: Case, weights: Weights, x: np.ndarray, dy: np.ndarray
) -> Contestant:
    """Make a training step over steps at some of which sequences begin anew.

    With "reset=" it is one call. Without, it is the loop of sb3-contrib's RecurrentPPO
    (`RecurrentActorCriticPolicy._process_sequence`).
    """
    import torch

    assert case.reset is not None, f"{case.name} has no resets"
    lstm, starts = _layer(modules, case, weights), torch.from_numpy(case.reset)
    float_starts = starts.to(getattr(torch, case.dtype))
    leaf, d_output = torch.from_numpy(x.copy()).requires_grad_(), torch.from_numpy(dy)
    zeros = torch.zeros(1, case.B, case.H, dtype=leaf.dtype)

    def by_step() -> Any:
        state, outputs = (zeros, zeros), []
        for step_x, start in zip(leaf, float_starts, strict=True):
            keep = (1.0 - start).view(1, -1, 1)
            y, state = lstm(step_x.unsqueeze(0), (keep * state[0], keep * state[1]))
            outputs.append(y)
        return torch.cat(outputs)

    def step() -> Any:
        lstm.zero_grad(set_to_none=True)
        leaf.grad = None
        y = lstm(leaf, reset=starts)[0] if "reset=" in use else by_step()
        y.backward(d_output)
        return leaf.grad

    return Contestant(step, lambda dx: {"x": dx.numpy(), **_gradients(lstm)})


def many_modules(
    use: Sequence[str], modules: Any, case: Case, weights: Weights, x: np.ndarray, dy: np.ndarray
) -> Contestant:
    """Make a training step of many small modules that read the same sequences."""
    import torch

    members = torch.nn.ModuleList(_layer(modules, case, weights) for _ in range(MODULES))
    leaf, d_output = torch.from_numpy(x.copy()).requires_grad_(), torch.from_numpy(dy)

    def step() -> Any:
        members.zero_grad(set_to_none=True)
        leaf.grad = None
        torch.stack([lstm(leaf)[0] for lstm in members]).mean(0).backward(d_output)
        return leaf.grad

    return Contestant(step, lambda dx: {"x": dx.numpy(), **_gradients(members)})


# ---- what is raced ------------------------------------------------------------------------------


class Race(NamedTuple):
    """A program at a case, and the bar of the ratio torch.nn's time / ours.

    `use` are words for the program; `ours` are those with which our modules run it, where they
    have a shorter way.
    """

    group: str
    program: Callable[..., Contestant]
    case: Case
    use: tuple[str, ...] = ()
    bar: float = LEAST
    ours: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """The program, the sizes and the words: training 10-400,64,64,128 packed SGD."""
        return " ".join((self.program.__name__, self.case.name, *self.use))

    @property
    def task(self) -> Task:
        """How contestants are made and checked."""
        made = functools.partial(functools.partial, self._made)
        makers = {OURS: made(True, self.use if self.ours is None else self.ours)}
        makers[NN] = made(False, self.use)
        if self.case.shortest is not None and self.program is training:
            makers[PADDED] = made(False, tuple(word for word in self.use if word != "packed"))
        if self.ours is not None:
            makers[STEP_BY_STEP] = made(True, self.use)
        return Task(makers, train.draw, self._truth, check)

    def _made(self, ours: bool, use: Sequence[str], *drawn: Any) -> Contestant:
        return self.program(use, _modules(ours), *drawn)

    def _truth(self, *drawn: Any) -> Weights:
        """Return what torch.nn gives in float64."""
        contestant = _used(self._made(False, self.use, *train.doubled(*drawn)))
        with contestant.context():
            return contestant.read(contestant.run())


def _modules(ours: bool) -> Any:
    """Return the module that has LSTM and LSTMCell."""
    if ours:
        import fastlstm.torch

        return fastlstm.torch
    import torch

    return torch.nn


def _used(contestant: Contestant) -> Contestant:
    """Run a contestant so often that its next result is the one that is checked."""
    with contestant.context():
        for _ in range(RUNS_CHECKED - 1):
            contestant.run()
    return contestant


def check(name: str, case: Case, contestant: Contestant, expected: Weights) -> float:
    """Return the greatest error in any result, of its greatest value; raise if it is too great."""
    return train.check(name, case, _used(contestant), expected)


TRAINING, INFERENCE, CELLS, OTHER = "Training", "Inference", "LSTMCell", "Other programs"
TRAINING_BARS = {  # each with and without an optimiser's step
    "10-400,64,64,128": 15,
    "5-50,32,100,256": 2,
    "100,32,256,256": 1.1,
    "365,256,5,64": 2.2,
    "100,32,256,256,float64": 1.6,
}
INFERENCE_BARS = {"1,1,128,128": 3, "100,1,128,128": 1.6}
RAGGED = [name for name, case in CASES.items() if case.shortest is not None]
USUAL = CASES["100,32,128,128"]
SIZES = [
    Case(1, 1, 8, 8), CASES["1,1,32,32"], CASES["1,1,512,512"], CASES["1,1,1024,1024"],
    CASES["10,50,1,10"], CASES["100,1,512,512"], Case(100, 32, 32, 32), USUAL,
    CASES["100,32,512,512"], CASES["100,128,512,512"], CASES["100,256,256,256"],
    CASES["100,1,256,256,2,2"], CASES["100,32,256,256,2,2"], CASES["100,32,256,256,proj64"],
    CASES["100,32,256,256,float64"],
]  # fmt: skip
CELL_SIZES = (1, 128, 128), (32, 256, 256)
RACES = {
    race.name: race
    for race in (
        *(
            Race(TRAINING, training, CASES[name], form + also, bar)
            for name, bar in TRAINING_BARS.items()
            for form in [("packed",) if name in RAGGED else ()]
            for also in ((), ("SGD",))
        ),
        *(Race(TRAINING, training, case) for case in SIZES if case.name not in TRAINING_BARS),
        Race(TRAINING, training, CASES["100,1,128,128"], ("SGD",)),
        Race(TRAINING, training, CASES["10,50,1,10"], ("SGD",)),
        *(
            Race(TRAINING, training, USUAL, (word,))
            for word in ("packed", "batch_first", "frozen", "checkpoint")
        ),
        Race(TRAINING, training, USUAL._replace(layers=2), ("dropout",)),
        *(Race(INFERENCE, inference, CASES[name], (), bar) for name, bar in INFERENCE_BARS.items()),
        *(Race(INFERENCE, inference, case) for case in SIZES),
        *(
            Race(INFERENCE, inference, CASES[name], ("inference_mode",))
            for name in ("1,1,128,128", "100,1,128,128")
        ),
        *(Race(INFERENCE, inference, USUAL, (word,)) for word in ("packed", "batch_first")),
        *(Race(INFERENCE, inference, CASES[name], ("packed",)) for name in RAGGED),
        *(
            Race(CELLS, cell_inference, Case(1, *sizes))
            for sizes in ((1, 128, 128), (32, 256, 256))
        ),
        *(
            Race(CELLS, cell_training, Case(20, *sizes))
            for sizes in ((1, 128, 128), (32, 256, 256))
        ),
        Race(OTHER, episodes, OPTIONS["128,16,128,128,resets4"], ours=("reset=",)),
        Race(OTHER, many_modules, Case(10, 4, 8, 8)),
    )
}


def measure(race: Race, rounds: Rounds) -> dict[str, Any]:
    """Check all contestants, then time them; return the case's entry in the results."""
    task = race.task
    contestants, errors = checked(task, race.case, [*task.makers], {})
    return {
        "name": race.name,
        "group": race.group,
        "dtype": race.case.dtype,
        "bar": race.bar if THREADS == 1 else None,
        "errors": errors,
        **timed(contestants, rounds),
    }


def main() -> None:
    """Measure what the command line names, and write the results."""
    parser = command_line("python -m benchmarks.torch_host", __doc__, RACES, ["native"])
    groups = list(dict.fromkeys(race.group for race in RACES.values()))
    parser.add_argument(
        "--only", nargs="+", choices=groups, default=groups, metavar="GROUP",
        help=f"cases of these groups alone: {', '.join(map(repr, groups))}; default: all",
    )  # fmt: skip
    args = parser.parse_args()
    if len(NUMBERS) > 1:
        parser.error("expected one number of threads; the bars are for one thread")
    try:
        _modules(ours=True)
    except ImportError as error:
        sys.exit(str(error))
    rounds = rounds_of(args, 9)
    races = [RACES[name] for name in args.cases if RACES[name].group in args.only]
    cases = []
    for number, race in enumerate(races, 1):
        print(f"{number}/{len(races)} {race.name}", file=sys.stderr, flush=True)
        cases.append(measure(race, rounds))
    results = {
        **setting(["native"]),
        **rounds._asdict(),
        "engines": [OURS],
        "tolerance": train.TOLERANCE,
        "peers": [NN],
        "others": [PADDED, STEP_BY_STEP],
        "absent": {},
        "cases": cases,
    }
    write(results, args.out)


def write(results: dict[str, Any], folder: pathlib.Path) -> None:
    """Write torch_host.json and .md; with two threads, -2threads is added to their names."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / report.file_name("torch_host", THREADS)
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    text = report.torch_host(results)
    path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
