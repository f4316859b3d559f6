"""What ``fastlstm run`` and ``fastlstm info`` do for a network that a file holds as a graph.

Such a network has inputs and outputs with names, and runs as a whole.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import npy, wav
from ..checks import quoted, short
from ..files import written_aside
from ..formats import load_state
from ..graphs import GraphModel, Port
from .csv_file import write_rows

if TYPE_CHECKING:
    from ..arrays import Array
    from ..graphs import Node

_BY = {
    "fastlstm": "fastlstm's engine",
    "numpy": "fastlstm, in NumPy",
    "onnx": "the reference evaluator of the onnx package, which is slow",
}


def run_graph(args: argparse.Namespace, model: GraphModel, read: Any, kind: str) -> None:
    """Run the network on what the arguments of ``fastlstm run`` name, and write what it gives.

    Parameters
    ----------
    args : argparse.Namespace
    model : GraphModel
    read : callable
        Reads the input file, unless that is a .npz file.
    kind : str
        The suffix of the output file.

    Raises
    ------
    ValueError
        If arrays and the network's inputs, or its outputs and the output file, do not fit.
    """
    if args.lengths is not None:
        raise ValueError(
            f"--lengths is for models of layers; {args.model} is a graph, whose inputs are "
            f"{_ports(model.inputs)}: --feed NAME=FILE.npy gives it one"
        )
    of_states = {state.input.name for state in model.states}
    shown = [port.name for port in model.outputs]
    final = {state.output for state in model.states}
    own = [name for name in shown if name not in final] or shown
    if kind != ".npz" and len(own) > 1:
        raise ValueError(
            f"{args.output} can hold one output, {args.model} gives {quoted(own)}: write a .npz "
            "file"
        )
    if (args.state_in or args.state_out) and not model.states:
        raise ValueError(
            f"--state-in and --state-out need inputs and outputs that belong together as a state, "
            f"{args.model} has none"
        )
    feeds = dict(_given(args.feed, model, of_states, args.model))
    sound = None
    if args.input.suffix.lower() == ".npz":
        feeds |= _named(load_state(args.input), model, args.input)
    else:
        value = read(args.input)
        sound = value if isinstance(value, wav.Sound) else None
        port = _only(model, of_states | feeds.keys(), args)
        feeds[port.name] = _fitted(value[:], port, args)
    if args.state_in:
        feeds |= _named(load_state(args.state_in), model, args.state_in, of_states)
    feeds |= {n: state for n, state in model._zero_states(feeds).items() if n not in feeds}
    results = dict(zip(shown, model.run(None, feeds), strict=True))
    _write(args, kind, {name: results[name] for name in own}, sound)
    if args.state_out:
        states = {state.input.name: results[state.output] for state in model.states}
        with written_aside(args.state_out) as file:
            np.savez(file, **states)


def operators(model: GraphModel) -> list[tuple[str, ...]]:
    """Return the rows of a table of a network's operators: the kind, how many, and who computes it.

    Those that take the most work come first: what fastlstm's engine computes, then NumPy's.
    """
    counts = Counter((node.by, node.type, node.note) for node in _nodes(model.plan.nodes))
    order = list(_BY)
    rows = sorted(counts.items(), key=lambda row: (order.index(row[0][0]), -row[1], row[0][1:]))
    return [
        (kind, str(count), _BY[by] + (f"; {note}" if note else ""))
        for (by, kind, note), count in rows
    ]


def _nodes(nodes: Sequence[Node]) -> Iterator[Node]:
    """Yield the nodes of a plan and those of the plans inside it."""
    for node in nodes:
        yield node
        for plan in getattr(node.compute, "plans", ()):  # of an If, a Loop or a Scan
            yield from _nodes(plan.nodes)


def _given(
    given: Sequence[str], model: GraphModel, of_states: set[str], path: Path
) -> Iterator[tuple[str, Any]]:
    """Yield the values of inputs that stand on the command line, as ``sr=16000``."""
    ports = {port.name: port for port in model.inputs if port.name not in of_states}
    for entry in given:
        name, equals, text = entry.partition("=")
        if not equals or name not in ports:
            raise ValueError(
                f"--feed must be NAME=NUMBER or NAME=FILE.npy, with one of the inputs "
                f"{quoted(ports)} of {path}, got {short(entry)}"
            )
        if text.lower().endswith(".npy"):
            yield name, _as_type(npy.map_array(text), ports[name], text)
            continue
        try:
            number = np.array(int(text) if text.lstrip("+-").isdigit() else float(text))
        except (ValueError, OverflowError):
            raise ValueError(f"--feed {name} must be a number, got {short(text)}") from None
        value = _as_type(number, ports[name], f"--feed {name}")
        yield name, value.reshape((1,) * len(ports[name].shape or ()))


def _named(
    arrays: Mapping[str, Array], model: GraphModel, path: Path, wanted: set[str] | None = None
) -> dict[str, Array]:
    """Return arrays of a .npz file as inputs; all of `wanted`, where that is given."""
    ports = {port.name: port for port in model.inputs}
    known = ports.keys() if wanted is None else wanted
    wrong = [name for name in arrays if name not in known]
    if wrong or (wanted is not None and wanted != arrays.keys()):
        raise ValueError(
            f"{path} must hold the arrays {quoted(sorted(known))}, got {quoted(arrays) or 'none'}"
        )
    return {name: _as_type(array, ports[name], path) for name, array in arrays.items()}


def _only(model: GraphModel, others: set[str], args: argparse.Namespace) -> Port:
    """Return the one input that the input file is for."""
    left = [port for port in model.inputs if port.name not in others and port.default is None]
    if len(left) != 1:
        raise ValueError(
            f"{args.input} is one array, {args.model} takes {_ports(left) or 'no other input'}: "
            "give a .npz file with an array for each name, or --feed NAME=FILE.npy"
        )
    return left[0]


def _fitted(value: Any, port: Port, args: argparse.Namespace) -> Array:
    """Return an array as an input of a graph, with an axis for the batch where that is missing."""
    array = _as_type(value, port, args.input)
    if port.shape is not None and array.ndim + 1 == len(port.shape):
        if args.batch_first is None:
            raise ValueError(
                f"{args.input} has shape {array.shape}, {args.model} takes {_ports([port])}: give "
                "--batch-first for (B, T, ...) or --no-batch-first for (T, B, ...)"
            )
        array = np.expand_dims(array, 0 if args.batch_first else 1)
    return array


def _as_type(array: Array, port: Port, path: object) -> Array:
    """Return numbers as the type of an input; ValueError if they do not fit it."""
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{path} must hold real numbers, got dtype {array.dtype}")
    if port.dtype is None or array.dtype == port.dtype:
        return array
    try:
        with np.errstate(over="raise", invalid="raise"):
            values = np.array(array, port.dtype)
    except FloatingPointError:
        raise ValueError(f"{path} holds values that do not fit {port.dtype}") from None
    if port.dtype.kind in "iub" and not np.array_equal(values, array):
        raise ValueError(f"{path} must hold numbers of type {port.dtype} for {short(port.name)}")
    return values


def _write(
    args: argparse.Namespace, kind: str, results: Mapping[str, Any], sound: wav.Sound | None
) -> None:
    """Write the outputs into a file of this suffix."""
    y = next(iter(results.values()))
    if kind == ".csv":
        single = [axis for axis in range(y.ndim - 1) if y.shape[axis] == 1]
        table = y.reshape(-1, 1) if y.ndim < 2 else y.squeeze(tuple(single[: y.ndim - 2]))
        if table.ndim > 2:
            raise ValueError(
                f"{args.output} can hold one table, {args.model} gives an array of shape "
                f"{y.shape}: write a .npy file"
            )
        y = table
    if kind == ".wav" and (sound is None or y.ndim != 2 or len(y) != sound.shape[0]):
        raise ValueError(
            f"{args.output} needs a row of channels for every sample of a .wav input, "
            f"{args.model} gives an array of shape {y.shape}"
        )
    with written_aside(args.output) as file:
        if kind == ".npz":
            np.savez(file, **results)
        elif kind == ".npy":
            np.save(file, y)
        elif kind == ".csv":
            write_rows(file, [y])
        else:
            assert sound is not None
            wav.write_pieces(file, [y], None, sound.rate)


def _ports(ports: Sequence[Port]) -> str:
    """Return inputs as people read them: ``'x' (batch, 16)``."""
    shapes = [
        "" if p.shape is None else f" ({', '.join(str(n or '?') for n in p.shape)})" for p in ports
    ]
    return ", ".join(short(p.name) + shape for p, shape in zip(ports, shapes, strict=True))
