"""Measure what the recurrence's options cost: ``python -m benchmarks.options --help``.

Cells with options, forward against onnxruntime, and forward and back against the plain cell; all
cell states and sequences that begin anew, against torch. README.md has the protocol.
"""

from __future__ import annotations

from . import THREADS  # first: it pins the threads of whatever is imported next

# isort: split
import functools
import importlib.util
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import plots, report, train
from .cases import OPTIONS, Case
from .compare import (
    RUN,
    Rounds,
    Task,
    checked,
    command_line,
    engines_there,
    rounds_of,
    setting,
    timed,
)
from .peers import (
    ENGINES,
    TOLERANCE,
    Contestant,
    Maker,
    Weights,
    check,
    fastlstm_layer,
    torch_layer,
    without_onednn,
)

# ---- all cell states ----------------------------------------------------------------------------


def _fastlstm_cells(engine: str, case: Case, weights: Weights, x: np.ndarray) -> Contestant:
    lstm = fastlstm_layer(engine, case, weights, THREADS)
    run = functools.partial(lstm, x, return_cells=True)
    return Contestant(run, lambda got: (got[0], *got[1], got[2][0]))


def _torch_cells(case: Case, weights: Weights, x: np.ndarray) -> Contestant:
    """Make torch's loop over a cell, whose states are stacked: torch.nn.LSTM hides its own."""
    import torch

    torch.set_num_threads(THREADS)
    cell = torch.nn.LSTMCell(case.I, case.H, dtype=getattr(torch, case.dtype))
    cell.load_state_dict({n.removesuffix("_l0"): torch.from_numpy(w) for n, w in weights.items()})
    steps = torch.from_numpy(x)

    def run() -> tuple[Any, Any]:
        state, outputs, cells = None, [], []
        for step in steps:
            state = cell(step, state)
            outputs.append(state[0])
            cells.append(state[1])
        return torch.stack(outputs), torch.stack(cells)

    def read(got: tuple[Any, Any]) -> tuple[np.ndarray, ...]:
        y, c = (tensor.numpy() for tensor in got)
        return y, y[-1:], c[-1:], c

    return Contestant(run, read, torch.inference_mode)


def _true_cells(case: Case, weights: Weights, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return y, h_n, c_n and all cells by torch in float64."""
    contestant = _torch_cells(*train.doubled(case, weights, x))
    with contestant.context():
        return contestant.read(contestant.run())


# ---- sequences that begin anew ------------------------------------------------------------------


def pieces(case: Case) -> list[tuple[slice, int]]:
    """Return the steps and the sequence of each piece between two resets."""
    assert case.reset is not None, f"{case.name} has no resets"
    found = []
    for b, reset in enumerate(case.reset.T):
        ends = itertools.pairwise([0, *np.flatnonzero(reset), case.T])
        found += [(slice(*pair), b) for pair in ends]
    return found


def _torch_pieces(case: Case, weights: Weights, x: np.ndarray, dy: np.ndarray) -> Contestant:
    """Make torch's step that calls the layer for each piece, cut before the clock starts."""
    torch, lstm = torch_layer(case, weights)
    found = pieces(case)
    inputs, d_outputs = (
        [torch.from_numpy(array[steps, b : b + 1].copy()) for steps, b in found]
        for array in (x, dy)
    )
    for piece in inputs:
        piece.requires_grad_()

    def step() -> list[Any]:
        lstm.zero_grad(set_to_none=True)
        for piece in inputs:
            piece.grad = None
        torch.autograd.backward([lstm(piece)[0] for piece in inputs], d_outputs)
        return [piece.grad for piece in inputs]

    def read(d_inputs: list[Any]) -> Weights:
        dx = np.empty_like(x)
        for (steps, b), d_input in zip(found, d_inputs, strict=True):
            dx[steps, b] = d_input[:, 0].numpy()
        return train.gradients(lstm, torch.from_numpy(dx))

    return Contestant(step, read)


def _torch_pieces_without_onednn(*drawn: Any) -> Contestant:
    return _torch_pieces(*drawn)._replace(context=without_onednn)


def _torch_batch(
    packed: bool, case: Case, weights: Weights, x: np.ndarray, dy: np.ndarray
) -> Contestant:
    """Make torch's step on a batch of all pieces, cut and padded, or packed, before the clock."""
    found = pieces(case)
    lengths = np.array([steps.stop - steps.start for steps, _ in found])

    def cut(array: np.ndarray) -> np.ndarray:
        batch = np.zeros((lengths.max(), len(found), array.shape[2]), array.dtype)
        for n, (steps, b) in enumerate(found):
            batch[: lengths[n], n] = array[steps, b]
        return batch

    if packed:
        contestant = train.torch_packed_step(case, weights, cut(x), cut(dy), lengths)
    else:
        contestant = train.torch_step(case, weights, cut(x), cut(dy))

    def read(result: Any) -> Weights:
        got = contestant.read(result)
        dx = np.empty_like(x)
        for n, (steps, b) in enumerate(found):
            dx[steps, b] = got["x"][: lengths[n], n]
        return {**got, "x": dx}

    return contestant._replace(read=read)


def _true_gradients(*drawn: Any) -> Weights:
    """Return all gradients by torch in float64, piece by piece."""
    contestant = _torch_pieces(*train.doubled(*drawn))
    return contestant.read(contestant.run())


# ---- what is measured in each case --------------------------------------------------------------

CELLS_PEERS: dict[str, Maker] = {"torch LSTMCell": _torch_cells}
RESETS_PEERS: dict[str, Maker] = {
    "torch, piece by piece": _torch_pieces,
    "torch, piece by piece, without oneDNN": _torch_pieces_without_onednn,
    "torch, pieces padded": functools.partial(_torch_batch, False),
    "torch, pieces packed": functools.partial(_torch_batch, True),
}
CELLS = Task(
    {**{name: functools.partial(_fastlstm_cells, name) for name in ENGINES}, **CELLS_PEERS},
    Case.draw,
    _true_cells,
    check,
)
RESETS = train.STEP._replace(makers={**train.CONTESTANTS, **RESETS_PEERS}, truth=_true_gradients)
PEERS = ["onnxruntime", *CELLS_PEERS, *RESETS_PEERS]


class Part(NamedTuple):
    """A part of a case, which has a table of its own; bars are against the first of its peers."""

    group: str
    task: Task
    peers: Sequence[str]


def parts(case: Case) -> Iterator[Part]:
    """Yield what is measured in a case."""
    if case.options:
        yield Part("Options of the cell, forward", RUN, ["onnxruntime"])
        yield Part("Options of the cell, forward and back", train.STEP, [])
    if case.cells:
        yield Part("All cell states, forward", CELLS, [*CELLS_PEERS])
    if case.resets:
        yield Part("Resets, forward and back", RESETS, [*RESETS_PEERS])


def measure(
    case: Case,
    part: Part,
    engines: Sequence[str],
    rounds: Rounds,
    absent: dict[str, str],
) -> dict[str, Any]:
    """Check all contestants, then time them; return the entry of the results.

    Where the cell has options, the plain cell of the same sizes takes part, with each engine.
    """
    contestants, errors = checked(part.task, case, [*engines, *part.peers], absent)
    if case.options:
        plain, plain_errors = checked(part.task, case._replace(options=()), engines, absent)
        contestants |= {f"{name}, plain": one for name, one in plain.items()}
        errors |= {f"{name}, plain": error for name, error in plain_errors.items()}
    forward = part.task is not train.STEP
    return {
        "name": case.name,
        "group": part.group,
        "dtype": case.dtype,
        "against": part.peers[0] if part.peers else None,
        "bar": case.bar if forward else None,
        "plain_bar": case.plain_bar if forward else None,
        "errors": errors,
        **timed(contestants, rounds),
    }


# ---- the command --------------------------------------------------------------------------------


def main() -> None:
    """Measure what the command line names, and write the results."""
    parser = command_line("python -m benchmarks.options", __doc__, OPTIONS, train.DEFAULT_ENGINES)
    args = parser.parse_args()
    if THREADS > 1:
        parser.error("the bars are for one thread")
    if importlib.util.find_spec("torch") is None:
        sys.exit("Expected torch, whose gradients are the right ones: pip install -e '.[bench]'")
    rounds = rounds_of(args, 9)
    engines, absent = engines_there(args.engines)
    results = {
        **setting(engines),
        **rounds._asdict(),
        "tolerance": {"outputs": TOLERANCE, "gradients": train.TOLERANCE},
        "peers": PEERS,
        "absent": absent,
        "cases": [],
    }
    for number, name in enumerate(args.cases, 1):
        print(f"{number}/{len(args.cases)} {name}", file=sys.stderr, flush=True)
        case = OPTIONS[name]
        results["cases"] += [measure(case, part, engines, rounds, absent) for part in parts(case)]
    write(results, args.out)


def write(results: dict[str, Any], folder: pathlib.Path) -> None:
    """Write options.json, .md and .png."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "options"
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    text = report.options(results)
    path.with_suffix(".md").write_text(text)
    plots.ratios(
        report.options_ratios(results), results, path.with_suffix(".png"),
        "onnxruntime, torch and the plain cell",
        "ratio of times (right of 1: ours, or the cell with options, is faster)",
    )  # fmt: skip
    print(text)


if __name__ == "__main__":
    main()
