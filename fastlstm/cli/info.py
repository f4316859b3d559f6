"""``fastlstm info``: the layers, shapes, parameters and size of a model file."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..checks import quoted, short
from ..engines.machine import threads
from ..formats import fl, load, load_state
from ..formats.parts import find_parts
from ..formats.source import Source, opened
from ..graphs import GraphModel
from ..terminal import one_line, printable, show
from ..training import Forecaster
from .graph import operators
from .parser import add_model

if TYPE_CHECKING:
    from .parser import Commands

_ENGINE: Final = "numpy"  # nothing is computed, and this one is always there


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("info", help="show a model's layers, shapes, parameters and size")
    command.set_defaults(action=_show_model)
    add_model(command)


def _show_model(args: argparse.Namespace) -> None:
    threads(None, _ENGINE)  # asked first, because a wrong variable is not the file's fault
    parts, graph = [], None
    try:
        model = load(
            args.model,
            key=args.key,
            prefix=args.prefix,
            engine=_ENGINE,
            max_bytes=args.max_bytes,
        )
        layers, arrays = str(model), model.state_dict()
        graph = model if isinstance(model, GraphModel) else None
    except ValueError as error:
        if args.prefix is not None:
            raise
        arrays = load_state(args.model, key=args.key)  # a file that cannot be read fails again
        layers = one_line(error).removeprefix(f"{args.model}: ")
        parts = [n for n, part in find_parts(arrays).items() if part.readings and n]
    show(f"{args.model}: {_bytes(os.path.getsize(args.model))}")
    show(*layers.split("\n"))
    with contextlib.suppress(ValueError):  # most files hold a model alone
        show(Forecaster.load(args.model, engine=_ENGINE))
    with opened(args.model) as file:
        source = Source(file)
        show(*(fl.summary(source) if fl.recognises(source) else ()))
    if graph:
        _show_table([("operator", "number", "computed by"), *operators(graph)])
    rows = [("parameter", "shape", "values")]
    for name, p in arrays.items():
        plain = len(name) <= 100 and printable(name) == name
        rows.append((name if plain else short(name), str(p.shape), f"{p.size:,}"))
    dtypes = sorted({str(p.dtype) for p in arrays.values()})
    rows.append(("total", ", ".join(dtypes), f"{sum(p.size for p in arrays.values()):,}"))
    _show_table(rows)
    show(f"{_bytes(sum(p.nbytes for p in arrays.values()))} in memory")
    if parts:
        show(f"for --prefix: {quoted(parts)}")


def _show_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Show rows in columns. A column of numbers, its head included, stands to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [all(re.match(r"[\d,]+$", row[n]) for row in rows[1:]) for n in range(len(widths))]
    for row in rows:
        cells = zip(row, widths, right, strict=True)
        show("  ".join(f"{c:>{w}}" if r else f"{c:{w}}" for c, w, r in cells).rstrip())


def _bytes(size: float) -> str:
    """Return a number of bytes with its unit."""
    size, unit = size / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if size >= 1024:
            size, unit = size / 1024, larger
    return f"{size:,.1f} {unit}"
