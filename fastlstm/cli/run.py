"""The ``fastlstm`` command: look into a model file, run it on a file of input, list the engines.

A run goes through time in chunks, with the states carried from one to the next, so that input and
output may be larger than memory; a model that needs the whole sequence runs in one go. How to train
and to forecast stands in `cli_training`.
"""

import argparse
import contextlib
import csv
import math
import os
import re
import sys
import traceback
from array import array
from pathlib import Path

import numpy as np

from .. import __version__
from ..checks import listed, quoted, short
from ..engines import MODULES, engine_info, threads
from ..files import check_writable, written_aside
from ..formats import inference, load, load_state
from ..layers import (
    LSTM,
    Dropout,
    Embedding,
    Last,
    Linear,
    LSTMCell,
    ReLU,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)
from ..npy import map_array
from ..terminal import printable, progress_bar, show, writing
from ..training import Forecaster, NonFiniteError, is_forecaster
from ..wav import Sound, write_head
from . import train as cli_training

CHUNK_VALUES = 1 << 22  # of the widest layer in a chunk: 16 MB of float32

_FAULTS = (ValueError, TypeError, OSError, ImportError, MemoryError, NonFiniteError, RecursionError)

_RUN_DESCRIPTION = """\
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

Output, by suffix:
  .npy  the array
  .csv  one sequence: a row for every time step; where only the last step is left,
        a row for every sequence
  .wav  for a .wav input: floating point at the same rate, a channel for every feature

The input goes through the model in chunks of time, .npy and .wav files without being read
as a whole, so that files may be larger than memory. A bidirectional LSTM, a layer that takes
the last step, and --lengths need whole sequences: they run in one go, in memory.
"""


def main(argv=None):
    """Run the command.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; the process's own if not given.

    Returns
    -------
    int
        The exit code: 0; 1 if something is wrong with a file or a value, told in one line on
        stderr; 130 if interrupted; 141 if the reader of the output went away. Wrong usage leaves
        through argparse, with 2.

    Examples
    --------
    >>> fastlstm.cli.main(["info", "missing.npz"])
    1
    """
    try:
        try:
            args = _parser().parse_args(argv)
            args.action(args)
        finally:
            if sys.stdout is not None:
                with writing():
                    sys.stdout.flush()  # of what argparse printed
    except BrokenPipeError:
        code, fault = 141, None
    except KeyboardInterrupt:
        code, fault = 130, None
    except _FAULTS as error:
        code, fault = 1, _line(error) or type(error).__name__
    except Exception as error:
        code, fault = 1, f"unexpected {type(error).__name__}{_where(error)}: {_line(error)}"
    else:
        return 0
    if fault:
        with contextlib.suppress(OSError):
            show(f"fastlstm: error: {fault}", to="stderr")
    _forget_output()
    return code


def _where(error):
    """The place of an error that nobody foresaw, for a report of it."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f" at {Path(last.filename).name}:{last.lineno}, a fault of fastlstm, please report it"


def _forget_output():
    """Let go of what the outputs do not take, or Python would complain at its exit."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints, which cite the command line, are printable."""

    def error(self, message):
        super().error(printable(message))

    def _print_message(self, message, file=None):
        if message and file is not None:
            with writing():  # where argparse itself is silent
                file.write(message)


def _parser():
    parser = _Parser(
        prog="fastlstm",
        description="Train and run LSTMs on a CPU, without a deep-learning framework.",
    )
    parser.add_argument("--version", action="version", version=f"fastlstm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("model", metavar="MODEL", help="model file: .npz, .pt, .pth, .safetensors")
    model.add_argument("--key", help="which state dict of a checkpoint that nests several")
    model.add_argument(
        "--prefix", help="take only the part whose parameters' names begin so, as encoder.lstm"
    )

    info = commands.add_parser(
        "info", parents=[model], help="show a model's layers, shapes, parameters and size"
    )
    info.set_defaults(action=_info, engine="numpy")

    run = commands.add_parser(
        "run",
        parents=[model],
        help="run a model on a file of input",
        description=_RUN_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.set_defaults(action=_run)
    run.add_argument("input", metavar="INPUT", type=Path, help=".npy, .csv or .wav file")
    run.add_argument(
        "-o", "--output", metavar="OUT", type=Path, required=True, help=".npy, .csv or .wav file"
    )
    run.add_argument(
        "--batch-first",
        action=argparse.BooleanOptionalAction,
        help="input and output are (B, T, ...), or with --no-batch-first (T, B, ...)",
    )
    run.add_argument(
        "--lengths", help="real steps of each sequence: 3,5,2, or a .npy or .txt file of them"
    )
    run.add_argument(
        "--state-in",
        metavar="S.npz",
        type=Path,
        help="begin with these states (arrays h and c, as of `Stream.state` or --state-out)",
    )
    run.add_argument(
        "--state-out", metavar="S.npz", type=Path, help="write the last states, to resume from"
    )
    run.add_argument(
        "--engine", choices=("auto", *MODULES), default="auto", help="who computes (default: auto)"
    )

    cli_training.add_commands(commands)

    table = commands.add_parser("engines", help="list the engines and why one is missing")
    table.set_defaults(action=_engines)
    return parser


def _line(error):
    return " ".join(str(error).split())


def _engines(args):
    fault = None
    try:
        table = engine_info()
    except ValueError as error:  # a variable names what there is not: what there is without it
        fault = error
        for name in ("FASTLSTM_ENGINE", "FASTLSTM_ISA"):
            os.environ.pop(name, None)
        table = engine_info()
    for name, facts in table.items():
        state = "default" if facts["default"] else "available" if facts["available"] else "missing"
        rest = [
            value if key == "reason" else f"{key.replace('_', ' ')} {value}"
            for key, value in facts.items()
            if key not in ("available", "default", "prepare_seconds")  # nothing is prepared here
        ]
        show(f"{name:8}{state:11}{', '.join(rest)}")
    if fault:
        raise fault
    threads(None, "native")  # refuses a wrong FASTLSTM_NUM_THREADS


def _info(args):
    parts = ()
    threads(None, args.engine)  # here, for a wrong variable is not the file's fault
    try:
        layers = _load(args)
        arrays = layers.state_dict()
    except ValueError as error:
        if args.prefix is not None:
            raise
        arrays = load_state(args.model, key=args.key)  # a file that cannot be read fails again
        layers = _line(error).removeprefix(f"{args.model}: ")
        parts = [n for n, part in inference.find_parts(arrays).items() if part.readings and n]
    show(f"{args.model}: {_bytes(os.path.getsize(args.model))}")
    show(*str(layers).split("\n"))
    with contextlib.suppress(ValueError):  # most files hold a model alone
        show(Forecaster.load(args.model, engine=args.engine))
    rows = [("parameter", "shape", "values")]
    for name, p in arrays.items():
        plain = len(name) <= 100 and printable(name) == name
        rows.append((name if plain else short(name), str(p.shape), f"{p.size:,}"))
    dtypes = sorted({str(p.dtype) for p in arrays.values()})
    rows.append(("total", ", ".join(dtypes), f"{sum(p.size for p in arrays.values()):,}"))
    names, shapes, values = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, shape, value in rows:
        show(f"{name:{names}}  {shape:{shapes}}  {value:>{values}}")
    show(f"{_bytes(sum(p.nbytes for p in arrays.values()))} in memory")
    if parts:
        show(f"for --prefix: {quoted(parts)}")


def _bytes(size):
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024 or unit == "GiB":
            return f"{size:,.1f} {unit}"


def _load(args):
    return load(args.model, key=args.key, prefix=args.prefix, engine=args.engine)


def _run(args):
    write = _by_suffix("output", args.output, _WRITERS)
    read = _by_suffix("input", args.input, {".npy": map_array, ".csv": _csv, ".wav": Sound})
    if write is _write_wav and read is not Sound:
        raise ValueError(f"{args.output} needs a rate, which only a .wav input has: write .npy")
    if args.state_out:
        _by_suffix("--state-out", args.state_out, {".npz": None})
    for path in filter(None, (args.output, args.state_out)):
        check_writable(path, [args.model, args.input])
    model = _load(args)
    if is_forecaster(args.model):
        raise ValueError(
            f"{args.model} is a forecaster, whose model takes and gives standardised values: use "
            "`fastlstm forecast`"
        )
    layers = [layer for _, layer in model.named_layers() if not layer.children]
    if any(isinstance(layer, LSTMCell) for layer in layers):
        raise ValueError(f"{args.model} holds an LSTMCell, which only Python code can step")
    timed = [layer for layer in layers if isinstance(layer, (LSTM, Last))]
    if args.batch_first is not None:
        for layer in timed:
            layer.batch_first = args.batch_first
    lengths = _lengths(args.lengths)
    if lengths is not None and not timed:
        raise ValueError(f"--lengths needs a model with an LSTM, {args.model} has none")

    x = read(args.input)
    tokens = bool(layers) and isinstance(layers[0], Embedding)
    batched, time, steps, batch = _layout(args, x.shape, tokens, timed)
    states = _states(args, model, batched, batch)
    by_steps = not any(isinstance(layer, Last) for layer in layers)
    if write is _write_csv and batch != 1 and by_steps:
        raise ValueError(
            f"{args.output} can hold one sequence, {args.input} has {batch}: write a .npy file"
        )
    if write is _write_wav and not by_steps:
        raise ValueError(
            f"{args.output} needs values for every step, {args.model} gives those of the last one"
        )
    chunk = steps
    if lengths is None and all(map(_goes_by_steps, layers)):
        widest = max((max(p.shape) for p in model.state_dict().values()), default=1)
        chunk = max(1, CHUNK_VALUES // (batch * widest))

    def pieces():
        for start in progress_bar(range(0, steps, chunk), unit="chunk"):
            here = slice(start, start + chunk)
            dtype = np.dtype(np.int64) if tokens else model.dtype
            part = _convert(x[:, here] if time else x[here], dtype, args.input)
            yield _advance(model, part, states, lengths)

    with written_aside(args.output) as file:
        write(file, pieces(), time, steps if chunk < steps else None, getattr(x, "rate", None))
    if args.state_out:  # once the output stands, or a failure would leave a gap in a stream
        ((h, c),) = states.values()
        with written_aside(args.state_out) as file:
            np.savez(file, h=h, c=c)


def _states(args, model, batched, batch):
    """Return the states to begin with, (h, c) by the LSTM's name in the model.

    Those of one sequence may have an axis for it or not, whether the input has one or not.
    """
    if not (args.state_in or args.state_out):
        return {}
    lstms = [(name, layer) for name, layer in model.named_layers() if isinstance(layer, LSTM)]
    if len(lstms) != 1:
        raise ValueError(
            f"--state-in and --state-out need a model with one LSTM, {args.model} has {len(lstms)}"
        )
    if not args.state_in:
        return {}
    state = load_state(args.state_in)
    if set(state) != {"h", "c"}:
        names = listed(name[:100] for name in state)
        raise ValueError(f"{args.state_in} must hold the arrays h and c, got {names or 'none'}")
    ((name, lstm),) = lstms
    h_c = [_convert(state[key], lstm.dtype, args.state_in) for key in "hc"]
    if batch == 1:
        h_c = [part[:, None] if part.ndim == 2 else part for part in h_c]
    try:
        h, c = lstm._states(h_c, batch, True)
    except ValueError as fault:
        raise ValueError(f"{args.state_in}: {fault}") from fault
    return {name.removesuffix("."): (h, c) if batched else (h[:, 0], c[:, 0])}


def _layout(args, shape, tokens, timed):
    """Return (whether there is a batch, axis of time, T, B) of an input; B without one is 1."""
    batch_first = any(layer.batch_first for layer in timed) or args.batch_first
    names = [("T",), ("B", "T") if batch_first else ("T", "B")]
    if not tokens:
        names = [(*axes, "features") for axes in names]
    if len(shape) not in map(len, names) or 0 in shape:
        expected = " or ".join(f"({', '.join(axes)})" for axes in names)
        raise ValueError(
            f"{args.input} must have shape {expected}, every size at least 1, got {shape}"
        )
    if len(shape) == len(names[0]):
        return False, 0, shape[0], 1
    if any(layer.batch_first is None for layer in timed):
        raise ValueError(
            f"{args.model} does not tell whether the batch comes first in {args.input}, of shape "
            f"{shape}: give --batch-first for (B, T, ...) or --no-batch-first for (T, B, ...)"
        )
    time = int(bool(batch_first))
    return True, time, shape[time], shape[1 - time]


def _by_suffix(what, path, table):
    try:
        return table[path.suffix.lower()]
    except KeyError:
        raise ValueError(f"{what} must end in {' or '.join(table)}, got {path}") from None


def _goes_by_steps(layer):
    """Tell whether the layer's output at a step needs nothing of the steps after it."""
    if isinstance(layer, LSTM):
        return not layer.bidirectional
    if isinstance(layer, Softmax):
        return layer.dim == -1
    return isinstance(layer, (Linear, Embedding, Dropout, ReLU, Tanh, Sigmoid))


def _advance(model, x, states, lengths):
    """Run the model on a piece of the sequence; `states` are taken and left for the next one."""
    if isinstance(model, LSTM):
        y, states[""] = model(x, states.get(""), lengths=lengths)
        return y
    if isinstance(model, Sequential):
        y, after = model(x, states, lengths=lengths)
        states.update(after)
        return y
    return model(x, lengths=lengths) if isinstance(model, Last) else model(x)


def _csv(path):
    values, columns = array("d"), None
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            for row in rows:
                if not row:
                    continue
                columns = columns or len(row)
                if len(row) != columns:
                    raise ValueError(
                        f"{path}, line {rows.line_num}: expected {columns} columns, got {len(row)}"
                    )
                if rows.line_num == 1 and _are_names(row):
                    continue
                try:
                    values.extend(map(_number, row))
                except ValueError as error:
                    raise ValueError(f"{path}, line {rows.line_num}: {error}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from error
    if not values:
        raise ValueError(f"{path} holds no rows of numbers")
    return np.frombuffer(values).reshape(-1, columns)


def _are_names(row):
    """Tell whether a first row holds the names of the columns: words, and no number of any kind."""

    def is_number(text):
        try:
            float(text)
        except ValueError:
            return False
        return True

    return any(map(str.strip, row)) and not any(map(is_number, row))


def _number(text):
    """The number in a cell; ValueError if it is none, or one that float64 cannot hold."""
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"could not convert string to float: {short(text)}") from None
    if not math.isfinite(number) or "_" in text:
        raise ValueError(f"expected a finite number in digits, got {short(text)}")
    return number


def _convert(part, dtype, path):
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


def _lengths(text):
    if text is None:
        return None
    if text.endswith(".npy"):
        return map_array(text)
    if text.endswith(".txt"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{text} cannot be read as text: {error}") from None
    words = text.replace(",", " ").split()
    if not all(re.fullmatch(r"\d{1,18}", word, re.ASCII) for word in words):
        raise ValueError(f"--lengths must be whole numbers as 3,5,2, got {short(text)}")
    return [int(word) for word in words]


def _write_npy(file, pieces, time, steps, _):
    """Write pieces of a sequence of `steps`, cut along axis `time`; one whole piece if None.

    Not through a memory map: on a full disk that ends the process, a write raises OSError.
    """
    start = 0
    for y in pieces:
        if steps is None:
            time, steps = 0, len(y)
        if not start:
            shape = (*y.shape[:time], steps, *y.shape[time + 1 :])
            head = {"descr": y.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, head)
            head_size, step_size = file.tell(), y.itemsize * math.prod(shape[time + 1 :])
        for row, part in enumerate(y if time else y[None]):
            file.seek(head_size + (row * steps + start) * step_size)
            file.write(np.ascontiguousarray(part))
        start += y.shape[time]


def _write_csv(file, pieces, time, steps, _):
    """Write pieces of one sequence, batched or not: a row for every step."""
    for y in pieces:
        digits = "%.9g" if y.dtype == np.float32 else "%.17g"  # enough to read the same back
        np.savetxt(file, y.reshape(-1, y.shape[-1]), fmt=digits, delimiter=",")


def _write_wav(file, pieces, time, steps, rate):
    """Write pieces of one sequence without a batch: a channel for every feature."""
    for number, y in enumerate(pieces):
        if not number:
            write_head(file, steps or len(y), y.shape[1], rate, y.dtype)
        file.write(np.ascontiguousarray(y, y.dtype.newbyteorder("<")))


_WRITERS = {".npy": _write_npy, ".csv": _write_csv, ".wav": _write_wav}
