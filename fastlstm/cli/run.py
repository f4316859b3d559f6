"""``fastlstm run``: run a model on a file of input and write what its last layer gives.

The sequence goes through the model in chunks of time, and the states are carried from one chunk to
the next, so that input and output may be larger than memory. A model that needs the whole sequence
gets it in one piece.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import npy, wav
from ..checks import listed, short
from ..engines import MODULES
from ..files import check_writable, written_aside
from ..formats import load, load_state
from ..graphs import GraphModel
from ..layers import LSTM, Layer, LSTMCell
from ..terminal import progress_bar
from ..training import is_forecaster
from .csv_file import read_numbers, write_rows
from .graph import run_graph
from .parser import add_model, check_suffix

if TYPE_CHECKING:
    from .parser import Commands

CHUNK_VALUES = 1 << 22  # of the widest layer in a chunk: 16 MB of float32

_Array = NDArray[Any]
_Input = NDArray[Any] | wav.Sound
_States = dict[str, Any]  # (h, c) by the name of the LSTM in the model

_READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": npy.map_array,
    ".csv": read_numbers,
    ".wav": wav.Sound,
    ".npz": load_state,  # for graphs alone
}
_OUTPUTS = (".npy", ".csv", ".wav", ".npz")

_DESCRIPTION = """\
Run a model on a file of input and write what its last layer gives.

Input, by suffix:
  .npy  (T, features), or as the model was made: (T, B, features) or (B, T, features),
        which --no-batch-first or --batch-first says where the model's file does not;
        token numbers (T,), (T, B) or (B, T) where the model begins with an embedding
  .csv  one sequence: a row for every time step, a column for every feature;
        a first line without any number is taken as the names of the columns
  .wav  one sequence: a step for every sample, a feature for every channel; PCM of
        8, 16, 24 or 32 bits, scaled to -1 <= x < 1, or floating point
Values are converted to the model's dtype.

A graph, as an ONNX file holds one, takes arrays of the shapes that `fastlstm info` shows. A
file of one array is for its one input that is no state; --feed gives it further inputs. Or:
  .npz  an array for each input, by its name

Output, by suffix:
  .npy  the array
  .csv  one sequence: a row for every time step; where only the last step is left,
        a row for every sequence
  .wav  for a .wav input: floating point at the same rate, a channel for every feature
  .npz  of a graph: an array for each output, by its name

The input goes through the model in chunks of time, .npy and .wav files without being read
as a whole, so that files may be larger than memory. An LSTM that is bidirectional or runs
from the end, a layer that takes the last step, and --lengths need whole sequences: they run
in one go, in memory.
"""


class _Layout(NamedTuple):
    """How an input lies: whether it has a batch, its axis of time, and its sizes T and B."""

    batched: bool
    time: int
    steps: int
    batch: int  # 1 where there is none


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "run",
        help="run a model on a file of input",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(action=_run)
    add_model(command)
    command.add_argument("input", metavar="INPUT", type=Path, help=".npy, .csv, .wav or .npz file")
    command.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=Path,
        required=True,
        help=".npy, .csv, .wav or .npz file",
    )
    command.add_argument(
        "--batch-first",
        action=argparse.BooleanOptionalAction,
        help="input and output are (B, T, ...), or with --no-batch-first (T, B, ...)",
    )
    command.add_argument(
        "--lengths", help="real steps of each sequence: 3,5,2, or a .npy or .txt file of them"
    )
    command.add_argument(
        "--state-in",
        metavar="S.npz",
        type=Path,
        help="begin with these states: arrays h and c, as of `Stream.state` or --state-out; h_l0, "
        "c_l0, h_l1, ... of layers of different widths; of a graph, arrays by its inputs' names",
    )
    command.add_argument(
        "--state-out", metavar="S.npz", type=Path, help="write the last states, to resume from"
    )
    command.add_argument(
        "--feed",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a further input of a graph: a number, or a .npy file; may be given several times",
    )
    command.add_argument(
        "--engine", choices=("auto", *MODULES), default="auto", help="engine (default: auto)"
    )


def _run(args: argparse.Namespace) -> None:
    """Refuse what cannot be read, run or written, then run the model piece by piece."""
    kind, read = _check_files(args)
    model = _load(args)
    if isinstance(model, GraphModel):
        run_graph(args, model, read, kind)
        return
    timed = _checked(args, model)
    lengths = _lengths(args.lengths)
    if lengths is not None and not timed:
        raise ValueError(f"--lengths needs a model with an LSTM, {args.model} has none")

    x = read(args.input)
    tokens = model._takes_indices
    layout = _layout(args, x.shape, tokens, timed)
    states = _first_states(args, model, layout)
    _check_output_fits(args, kind, model, layout)
    chunk = layout.steps
    if lengths is None and model._goes_by_chunks:
        widest = max((max(p.shape) for p in model.state_dict().values()), default=1)
        chunk = max(1, CHUNK_VALUES // (layout.batch * widest))

    def pieces() -> Iterator[_Array]:
        nonlocal states
        for start in progress_bar(range(0, layout.steps, chunk), unit="chunk"):
            here = slice(start, start + chunk)
            part = x[:, here] if layout.time and not isinstance(x, wav.Sound) else x[here]
            dtype = np.dtype(np.int64) if tokens else model.dtype
            after: _States = {}
            part = _convert(part, dtype, args.input)
            y = model._pass("", part, lengths, states, after)
            states = after
            yield y

    length = layout.steps if chunk < layout.steps else None  # None says that there is one piece
    with written_aside(args.output) as file:
        if isinstance(x, wav.Sound) and kind == ".wav":
            wav.write_pieces(file, pieces(), length, x.rate)
        elif kind == ".csv":
            write_rows(file, pieces())
        else:
            npy.write_pieces(file, pieces(), layout.time, length)
    if args.state_out:  # only now, because states of an output that was not written leave a gap
        ((name, (h, c)),) = states.items()
        keys = _state_arrays(_lstm(model, name))
        arrays: dict[str, Any] = dict(zip(keys, [*_each(h), *_each(c)], strict=True))
        with written_aside(args.state_out) as file:
            np.savez(file, **arrays)


def _check_files(args: argparse.Namespace) -> tuple[str, Callable[[Path], Any]]:
    """Return the output's suffix and the input's reader; raise if a file cannot be of its kind.

    An output that cannot be written, or that is also an input, is refused too.
    """
    kind = check_suffix("output", args.output, _OUTPUTS)
    read = _READERS[check_suffix("input", args.input, _READERS)]
    if kind == ".wav" and read is not wav.Sound:
        raise ValueError(f"{args.output} needs a rate, which only a .wav input has: write .npy")
    if args.state_out:
        check_suffix("--state-out", args.state_out, [".npz"])
    for path in filter(None, (args.output, args.state_out)):
        check_writable(path, [args.model, args.input, *filter(None, [args.lengths])])
    return kind, read


def _check_output_fits(args: argparse.Namespace, kind: str, model: Layer, layout: _Layout) -> None:
    """Raise ValueError if an output of this suffix cannot hold what the model gives."""
    if kind == ".csv" and layout.batch != 1 and model._gives_steps:
        raise ValueError(
            f"{args.output} can hold one sequence, {args.input} has {layout.batch}: write a .npy "
            "file"
        )
    if kind == ".wav" and not model._gives_steps:
        raise ValueError(
            f"{args.output} needs values for every step, {args.model} gives those of the last one"
        )


def _load(args: argparse.Namespace) -> Layer:
    """Return the model, if `run` is for such a one."""
    model = load(
        args.model,
        key=args.key,
        prefix=args.prefix,
        engine=args.engine,
        max_bytes=args.max_bytes,
    )
    if is_forecaster(args.model):
        raise ValueError(
            f"{args.model} is a forecaster, whose model takes and gives standardised values: use "
            "`fastlstm forecast`"
        )
    return model


def _checked(args: argparse.Namespace, model: Layer) -> list[Any]:
    """Return the layers of a model with a `batch_first`, which is set by --batch-first.

    What is for graphs alone is refused.
    """
    for path in (args.input, args.output):
        if path.suffix.lower() == ".npz":
            raise ValueError(
                f"{path} is for a graph with inputs and outputs by names, {args.model} is none: "
                "give a .npy file"
            )
    if args.feed:
        raise ValueError(f"--feed is for a graph with inputs by names, {args.model} is none")
    layers = [layer for _, layer in model.named_layers()]
    if any(isinstance(layer, LSTMCell) for layer in layers):
        raise ValueError(f"{args.model} holds an LSTMCell, which only Python code can step")
    timed = [layer for layer in layers if hasattr(layer, "batch_first")]
    if args.batch_first is not None:
        for layer in timed:
            layer.batch_first = args.batch_first
    return timed


def _first_states(args: argparse.Namespace, model: Layer, layout: _Layout) -> _States:
    """Return the states of --state-in, by the LSTM's name in the model; none without the option.

    The states of one sequence may have an axis for it or not, whether the input has one or not.
    """
    if not (args.state_in or args.state_out):
        return {}
    names = model._state_names()
    if len(names) != 1:
        raise ValueError(
            f"--state-in and --state-out need a model with one LSTM, {args.model} has {len(names)}"
        )
    if not args.state_in:
        return {}
    (name,) = names
    state, lstm = load_state(args.state_in), _lstm(model, name)
    keys = _state_arrays(lstm)
    if set(state) != set(keys):
        got, expected = listed(key[:100] for key in state), listed(keys)
        expected = " and ".join(keys) if len(keys) == 2 else expected
        raise ValueError(f"{args.state_in} must hold the arrays {expected}, got {got or 'none'}")
    arrays = [_convert(state[key], lstm.dtype, args.state_in) for key in keys]
    is_each = len(keys) > 2  # an array for each layer and direction
    if layout.batch == 1:
        without = 1 if is_each else 2  # as many axes has one without an axis for the sequence
        arrays = [np.expand_dims(a, -2) if a.ndim == without else a for a in arrays]
    half = len(arrays) // 2
    h_c = (tuple(arrays[:half]), tuple(arrays[half:])) if is_each else arrays
    try:
        states = lstm.check_states(h_c, layout.batch, True)
    except ValueError as fault:
        raise ValueError(f"{args.state_in}: {fault}") from fault
    return {name: lstm._given_out(states if layout.batched else [s[:, 0] for s in states])}


def _lstm(model: Layer, name: str) -> LSTM:
    """Return the LSTM of this name in a model."""
    lstm = next(layer for n, layer in model.named_layers() if n.removesuffix(".") == name)
    assert isinstance(lstm, LSTM)  # no other layer that a file holds has states
    return lstm


def _state_arrays(lstm: LSTM) -> list[str]:
    """Return the names of the arrays that a file of states has for an LSTM, h first.

    Layers of different widths have one each, whose names end as those of their parameters.
    """
    ends = [""] if isinstance(lstm.hidden_size, int) else lstm._suffixes
    return [state + end for state in ("h", "c") for end in ends]


def _each(state: Any) -> Sequence[_Array]:
    """Return the arrays of which a state, h or c, is made."""
    return state if isinstance(state, tuple) else [state]


def _layout(
    args: argparse.Namespace, shape: tuple[int, ...], tokens: bool, timed: Sequence[Any]
) -> _Layout:
    """Return how an input of this shape lies; ValueError if it does not fit the model."""
    batch_first = any(layer.batch_first for layer in timed) or args.batch_first
    names: list[tuple[str, ...]] = [("T",), ("B", "T") if batch_first else ("T", "B")]
    if not tokens:
        names = [(*axes, "features") for axes in names]
    if len(shape) not in map(len, names) or 0 in shape:
        expected = " or ".join(f"({', '.join(axes)})" for axes in names)
        raise ValueError(
            f"{args.input} must have shape {expected}, every size at least 1, got {shape}"
        )
    if len(shape) == len(names[0]):
        return _Layout(False, 0, shape[0], 1)
    if any(layer.batch_first is None for layer in timed):
        raise ValueError(
            f"{args.model} does not tell whether the batch comes first in {args.input}, of shape "
            f"{shape}: give --batch-first for (B, T, ...) or --no-batch-first for (T, B, ...)"
        )
    time = int(bool(batch_first))
    return _Layout(True, time, shape[time], shape[1 - time])


def _convert(part: _Array, dtype: np.dtype[Any], path: Path) -> _Array:
    """Return a part of a file's numbers as an array of the dtype, which they must fit."""
    if part.dtype.kind not in "fiub":
        raise ValueError(f"{path} must hold real numbers, got dtype {part.dtype}")
    try:
        with np.errstate(over="raise", invalid="raise"):
            values = np.array(part, dtype)
    except FloatingPointError:
        raise ValueError(f"{path} holds values that do not fit {dtype}") from None
    if dtype.kind == "i" and not np.array_equal(values, part):
        raise ValueError(f"{path} must hold whole numbers: the model begins with an embedding")
    return values


def _lengths(text: str | None) -> Sequence[int] | _Array | None:
    """Return the lengths that an option gives as numbers or as the name of a file."""
    if text is None:
        return None
    if text.endswith(".npy"):
        return npy.map_array(text)
    if text.endswith(".txt"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{text} cannot be read as text: {error}") from None
    words = text.replace(",", " ").split()
    if not all(re.fullmatch(r"\d{1,18}", word, re.ASCII) for word in words):
        raise ValueError(f"--lengths must be whole numbers as 3,5,2, got {short(text)}")
    return [int(word) for word in words]
