"""How long threads take to meet, and to come together for a call: meetings.c, built and run."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

from . import machine, processors, report
from .alone import COMPILER, FLAGS, NATIVE
from .compare import HERE, commit

NUMBERS = (2, 4, 8, 16, 32, 64)  # of threads, at most
HEADS = {
    "meet": (
        "To meet once, in nanoseconds",
        "What a phase takes in which nothing is done. Team: the library's, with a share for each "
        "thread or two; it waits for nobody who does not come, the other ways do.",
    ),
    "late": (
        "To meet when one is late, in nanoseconds",
        "In each phase another thread comes 3 us after the others: what a phase takes beyond that.",
    ),
    "pool": (
        "A call of the pool, in nanoseconds",
        "In a call that awaits nobody the caller is through before others come, and takes back "
        "what it offered them. Asleep: after a millisecond without a call.",
    ),
}


def build(folder: str | os.PathLike[str]) -> pathlib.Path:
    """Compile meetings.c with the library's own threads.c into `folder`; return the program."""
    program = pathlib.Path(folder) / "meetings"
    files = [f"-I{NATIVE}", HERE / "meetings.c", NATIVE / "threads.c", "-o", program]
    subprocess.run([COMPILER, *FLAGS, *files], check=True)
    return program


def measure(numbers: Sequence[int]) -> dict[str, dict[str, dict[str, float]]]:
    """Return nanoseconds by part ("meet" or "pool"), by what is measured, by number of threads."""
    with tempfile.TemporaryDirectory() as folder:
        printed = subprocess.check_output([build(folder), *map(str, numbers)], text=True)
    measured: dict[str, dict[str, dict[str, float]]] = {part: {} for part in HEADS}
    for line in printed.splitlines():
        what, number, nanoseconds = line.rsplit(" ", 2)
        part, name = what.split(":")
        measured[part].setdefault(name, {})[number] = float(nanoseconds)
    return measured


def markdown(results: dict[str, Any]) -> str:
    """Return the results as tables."""
    text = (
        f"# How long threads take to meet\n\n{results['machine']['cpu']}, {results['processors']} "
        f"processors, {results['compiler']}. Commit {results['commit']}, {results['date']}. "
        "Medians of several runs; threads wait awake and are not bound to a core.\n"
    )
    for part, (head, says) in HEADS.items():
        columns = [str(number) for number in results["threads"]]
        rows = [["threads", *columns]]
        for name, taken in results[part].items():
            rows.append([name, *(f"{taken[number]:.0f}" for number in columns)])
        text += f"\n## {head}\n\n{says}\n\n{report.markdown_table(rows)}"
    return text


def main() -> None:
    """Measure with 2, 4, 8, ... threads, up to the processors, and write the results."""
    parser = argparse.ArgumentParser("python -m benchmarks.meetings", description=__doc__)
    folder = HERE / "results" / machine.slug(machine.describe())
    parser.add_argument("--out", type=pathlib.Path, default=folder, metavar="FOLDER")
    args = parser.parse_args()
    numbers = [number for number in NUMBERS if number <= processors()]
    if not numbers:
        raise SystemExit("one processor: no threads can meet here")
    version = subprocess.check_output([COMPILER, "--version"], text=True).splitlines()[0]
    results = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine.describe(),
        "processors": processors(),
        "compiler": version,
        "threads": numbers,
        **measure(numbers),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "meetings.json").write_text(json.dumps(results, indent=1) + "\n")
    text = markdown(results)
    (args.out / "meetings.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
