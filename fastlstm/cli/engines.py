"""``fastlstm engines``: the engines, and why one is missing."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from ..engines import engine_info
from ..engines.machine import threads
from ..terminal import show

if TYPE_CHECKING:
    from .parser import Commands


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("engines", help="list the engines and why one is missing")
    command.set_defaults(action=_list_engines)


def _list_engines(args: argparse.Namespace) -> None:
    fault = None
    try:
        table = engine_info()
    except ValueError as error:  # a variable has a wrong value: list what there is without it
        fault = error
        for name in ("FASTLSTM_ENGINE", "FASTLSTM_ISA", "FASTLSTM_CACHES"):
            os.environ.pop(name, None)
        table = engine_info()
    for name, facts in table.items():
        state = "default" if facts["default"] else "available" if facts["available"] else "missing"
        rest = [
            str(value) if key == "reason" else f"{key.replace('_', ' ')} {value}"
            for key, value in facts.items()
            if key not in ("available", "default", "prepare_seconds")  # nothing is prepared here
        ]
        show(f"{name:8}{state:11}{', '.join(rest)}")
    if fault:
        raise fault
    threads(None, "native")  # refuses a wrong FASTLSTM_NUM_THREADS
