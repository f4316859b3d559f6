"""The ratios over all machines measured, as README.md has them: ``python -m benchmarks.ranges``.

They are made of the stored results, ``results/<machine>/*.json``. README.md holds what this prints
between two comments, and ``--write`` puts it there.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re

from . import report
from .report import Results

HERE = pathlib.Path(__file__).parent
STORED = HERE / "results"
README = HERE.parent / "README.md"
KINDS = {"running": "compare", "training": "train"}
ALWAYS = 1, 2  # numbers of threads that have columns in any case; others, if there are results
NUMBERS = (*ALWAYS, 4, 8, 16, 32, 64)
BEGIN, END = "<!-- benchmarks.ranges -->\n", "<!-- end -->\n"
USUAL = "torch", "onnxruntime"  # a step's lead against these is shown beside that against all
FURTHER = {"LiteRT", "MNN", "ncnn", "tract"}  # without these a step's ratio says too much

Ratios = dict[str, dict[str, float]]  # by case and machine


def read(folder: pathlib.Path, file: str) -> dict[str, Results]:
    """Return the results in files of this name, by machine."""
    return {
        path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{file}"))
    }


def runs(folder: pathlib.Path) -> dict[str, Ratios]:
    """Return the columns of the table: the ratios of each kind of run and number of threads."""
    found = {}
    for what, kind in KINDS.items():
        for number in NUMBERS:
            machines = read(folder, f"{report.file_name(kind, number)}.json")
            if machines or number in ALWAYS:
                found[what + f", {number} threads" * (number > 1)] = ratios(machines)
    return found


def ratios(machines: dict[str, Results]) -> Ratios:
    """Return the best peer's time over ours, with the first engine of each machine's results.

    Steps are left out where none of the peers that are quick at them took part.
    """
    found: Ratios = {}
    for machine, results in machines.items():
        for case in results["cases"]:
            times = report.ratio(case, results["engines"][0], results["peers"])
            quick = case.get("steps") != 1 or FURTHER & {*results["peers"]}
            if times is not None and quick:
                found.setdefault(case["name"], {})[machine] = times
    return found


def span(of_machines: dict[str, float]) -> str:
    """Return the lowest and the highest ratio, and of how many machines; a loss is in bold."""
    low, high = (f"{end(of_machines.values()):.2f}" for end in (min, max))
    if min(of_machines.values()) < 1:
        low = f"**{low}**"
    ends = low if low.strip("*") == high else f"{low} to {high}"
    return f"{ends} ({len(of_machines)})"


def table(runs: dict[str, Ratios]) -> str:
    """Return the table of all cases."""
    names = dict.fromkeys(name for found in runs.values() for name in found)
    rows = [["T,B,I,H", *runs]]
    for name in names:
        rows.append([name, *(span(f[name]) if name in f else "-" for f in runs.values())])
    return report.markdown_table(rows)


def losses(runs: dict[str, Ratios]) -> str:
    """Return a sentence for each run that says where we are behind, and on which machine."""
    text = ""
    for run, found in runs.items():
        behind = [
            f"{name} ({times:.2f}, {machine})"
            for name, of_machines in found.items()
            for machine, times in of_machines.items()
            if times < 1
        ]
        text += f"- {run}: {'; '.join(behind) or 'nowhere'}.\n"
    return text


def peers(results: Results) -> str:
    """Return the peers of a run; torch is one, in all of its forms."""
    return ", ".join(dict.fromkeys(re.sub("^torch .*", "torch", peer) for peer in results["peers"]))


def machine_table(running: dict[str, Results], training: dict[str, Results]) -> str:
    """Return what was measured where, and against whom."""
    heads = ["GFLOP/s", "reads, GB/s", "peers, running", "peers, training", "measured"]
    rows = [["machine", *heads]]
    for name, results in running.items():
        reads = results["limits"]["read_by_level"].items()
        rows.append(
            [
                f"[{name}](benchmarks/results/{name}/compare.md)",
                f"{results['limits']['peak']['float32']:.0f}",
                ", ".join(f"{level} {rate:.0f}" for level, rate in reads),
                peers(results),
                peers(training[name]) if name in training else "-",
                f"{results['date'][:10]}, {(results['commit'] or '?')[:7]}",
            ]
        )
    return report.markdown_table(rows)


def step_table(machines: dict[str, Results]) -> str:
    """Return a step's lead against the usual peers, and against the best of all."""
    heads = [*(f"against {peer}" for peer in USUAL), "the best of all", "against it"]
    rows = [["step", "machine", *heads]]
    for name, results in machines.items():
        steps = [case for case in results["cases"] if case["steps"] == 1]
        for case in steps if FURTHER & {*results["peers"]} else []:
            engine, everyone = results["engines"][0], results["peers"]
            usual = [[p for p in everyone if p.startswith(peer)] for peer in USUAL]
            leads = [report.ratio(case, engine, those) for those in (*usual, everyone)]
            *cells, last = ("-" if lead is None else f"{lead:.1f}" for lead in leads)
            rows.append([case["name"], name, *cells, str(report.best_peer(case, everyone)), last])
    return report.markdown_table(rows) if len(rows) > 1 else ""


def text(folder: pathlib.Path) -> str:
    """Return all that README.md has of the results in a folder."""
    columns = runs(folder)
    machines = read(folder, "compare.json")
    parts = [
        machine_table(machines, read(folder, "train.json")),
        "Ratio: the best peer's time / ours, with the engine `native`; the lowest and the highest\n"
        "of the machines, whose number is in brackets. In bold it is below 1: we are behind.\n"
        "Steps are those of machines on which LiteRT, MNN, ncnn or tract took part.\n",
        table(columns),
        "Behind, of all that was measured:\n",
        losses(columns),
    ]
    if steps := step_table(machines):
        parts += [
            "A step of a stream against the usual peers, and against the best of all:\n",
            steps,
        ]
    return "\n".join(parts)


def main() -> None:
    """Print the tables, and write them into README.md where the command line says so."""
    parser = argparse.ArgumentParser("python -m benchmarks.ranges", description=__doc__)
    parser.add_argument("--write", action="store_true", help="into README.md")
    made = text(STORED)
    if parser.parse_args().write:
        before, begin, after = README.read_text().partition(BEGIN)
        _, end, after = after.partition(END)
        assert begin and end, f"README.md has no {BEGIN} and {END} for the tables"
        README.write_text(before + begin + made + end + after)
    print(made)


if __name__ == "__main__":
    main()
