"""The ratios over all machines measured: ``python -m benchmarks.ranges`` prints them as tables.

They are made of the stored results, ``results/<machine>/*.json``. docs/performance.md holds all of
the tables between two comments, README.md a short one, and ``--write`` puts them there.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
from collections.abc import Collection, Iterable

from . import report
from .report import Results

HERE = pathlib.Path(__file__).parent
STORED = HERE / "results"
README = HERE.parent / "README.md"
PAGE = HERE.parent / "docs/performance.md"
KINDS = {"running": "compare", "training": "train"}
ALWAYS = 1, 2  # numbers of threads that have columns in any case; others, if there are results
NUMBERS = (*ALWAYS, 4, 8, 16, 32, 64)
BEGIN, END = "<!-- benchmarks.ranges -->\n", "<!-- end -->\n"
USUAL = "torch", "onnxruntime"  # a step's lead against these is shown beside that against all
FURTHER = {"LiteRT", "MNN", "ncnn", "tract"}  # without these a step's ratio says too much
WORK = (  # the rows of the short table
    "one step of a stream",
    "one sequence",
    "batches, up to 64 units",
    "batches, 128 to 1024 units",
    "ragged batches",
    "float64, projections",
    "training",
    "training, ragged batches",
    "Silero VAD's ONNX file",
)

ALONE = {  # what is timed of the kernels in C, with the names in the results
    "one call for each sample": "nanoseconds",
    "blocks of 64 samples": "in_blocks",
    "sizes fixed, one call for each": "fixed",
    "sizes fixed, blocks of 64": "fixed_in_blocks",
}

RTNEURAL = "one step a call", "blocks of 64"  # what `clib` times, in this order

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


def ratios(machines: dict[str, Results], first: str = "") -> Ratios:
    """Return the best peer's time over ours, with the first engine of each machine's results.

    The best of those peers whose names begin with `first`. Steps are left out where none of the
    peers that are quick at them took part.
    """
    found: Ratios = {}
    for machine, results in machines.items():
        ours = results["engines"][0]
        others = [p for p in results["peers"] if p.startswith(first) and not p.startswith(ours)]
        for case in results["cases"]:
            times = report.ratio(case, ours, others)
            quick = case.get("steps") != 1 or FURTHER & {*results["peers"]}
            if times is not None and quick:
                found.setdefault(case["name"], {})[machine] = times
    return found


def ends(values: Collection[float]) -> str:
    """Return the lowest and the highest of some ratios; a loss is in bold."""
    low, high = (f"{end(values):.2f}" for end in (min, max))
    if min(values) < 1:
        low = f"**{low}**"
    return low if low.strip("*") == high else f"{low} to {high}"


def span(of_machines: dict[str, float]) -> str:
    """Return the lowest and the highest ratio of a case, and of how many machines."""
    return f"{ends(of_machines.values())} ({len(of_machines)})"


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
                f"[{name}](../benchmarks/results/{name}/compare.md)",
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


def program_table(training: dict[str, Results]) -> str:
    """Return how long whole programs took, in seconds, and the memory of a training step."""
    programs = {m: results["program"] for m, results in training.items() if "program" in results}
    names = list(
        dict.fromkeys(name for program in programs.values() for name in program["seconds"])
    )
    rows = [["machine", *names, "a step's memory: torch's / ours"]]
    for machine, program in programs.items():
        seconds = [
            f"{program['seconds'][n]:.2f} s" if n in program["seconds"] else "-" for n in names
        ]
        memory = [case["torch"] / case["ours"] for case in training[machine]["memory"]]
        rows.append([machine, *seconds, ends(memory)])
    return report.markdown_table(rows) if programs else ""


def alone_table(running: dict[str, Results]) -> str:
    """Return how long the kernels take in C, beside a program whose sizes are fixed."""
    rows = []
    for machine, results in running.items():
        entries = [entry for entry in results.get("c_program", []) if "fixed" in entry]
        for what, key in ALONE.items() if entries else ():
            rows.append([machine, what, *(f"{entry[key]:.0f}" for entry in entries)])
    return (
        report.markdown_table(
            [["machine", "ns a sample", *(entry["sizes"] for entry in entries)], *rows]
        )
        if rows
        else ""
    )


def rtneural_table(machines: dict[str, Results]) -> str:
    """Return the ratios of RTNeural's time, of its fastest backend, and ours in C, as a table."""
    rows: list[list[str]] = []
    heads: list[str] = []
    for machine, results in machines.items():
        for isa in dict.fromkeys(case["isa"] for case in results["cases"]):
            cases = [case for case in results["cases"] if case["isa"] == isa]
            heads = [f"I {case['I']}, H {case['H']}" for case in cases]
            for part, says in enumerate(RTNEURAL):
                row = []
                for case in cases:
                    times = {name: taken[part] for name, taken in case["nanoseconds"].items()}
                    ours = times.pop(isa)
                    row.append(ends([min(times.values()) / ours]))
                rows.append([machine, isa, says, *row])
    return report.markdown_table([["machine", "ours with", "", *heads], *rows]) if rows else ""


def text(folder: pathlib.Path) -> str:
    """Return all tables of the results in a folder, which docs/performance.md has."""
    columns = runs(folder)
    machines, trained = read(folder, "compare.json"), read(folder, "train.json")
    parts = [
        machine_table(machines, trained),
        "Ratio: the best peer's time / ours, with the engine `native`; the lowest and the highest\n"
        "of the machines, whose number is in brackets. In bold it is below 1: we are behind.\n"
        "Steps are those of machines on which LiteRT, MNN, ncnn or tract took part.\n",
        table(columns),
        "Behind, of all that was measured:\n",
        losses(columns),
    ]
    further = {
        "A step of a stream against the usual peers, and against the best of all:": step_table(
            machines
        ),
        "A whole program, many to one (1000 x 10 x 1, hidden 10, batches of 50, Adam, 50 epochs; "
        "process and imports\nincluded), and the peak memory of one step of training:": (
            program_table(trained)
        ),
        "The kernels alone, called from C for one sequence, beside a C program whose sizes are "
        "fixed when it is compiled, and\nwhose tanh is off by up to 0.0014:": alone_table(machines),
        "The C library beside RTNeural's models, whose sizes are fixed when they are compiled for "
        "the very machine: the\ntime of its fastest backend / ours:": rtneural_table(
            read(folder, "clib.json")
        ),
    }
    parts += [f"{said}\n\n{made}" for said, made in further.items() if made]
    return "\n".join(parts)


def work(case: str, kind: str) -> str | None:
    """Return the row of the short table to which a case belongs; None if it has none."""
    step, one, small, large, ragged, other, training, training_ragged, network = WORK
    if kind == "files":
        return network if "ilero" in case else None
    steps, batch, _, hidden, *rest = case.split(",")
    if kind == "train":
        return training_ragged if "-" in steps else training
    if steps == "1":
        return step
    if "-" in steps:
        return ragged
    if rest and not rest[-1].isdigit():
        return other
    if batch == "1":
        return one
    return small if int(hidden) <= 64 else large


def by_work(
    folder: pathlib.Path, numbers: Iterable[int], first: str = ""
) -> dict[str, list[float]]:
    """Return the ratios of all cases and machines by the rows of the short table."""
    found: dict[str, list[float]] = {}
    for kind in (*KINDS.values(), "files"):
        for number in numbers:
            machines = read(folder, f"{report.file_name(kind, number)}.json")
            for case, of_machines in ratios(machines, first).items():
                if row := work(case, kind):
                    found.setdefault(row, []).extend(of_machines.values())
    return found


def short(folder: pathlib.Path) -> str:
    """Return README.md's table: the ratios of each kind of work, over all cases and machines."""
    columns = {
        "torch's time / ours": by_work(folder, [1], "torch"),
        "the best peer's / ours": by_work(folder, [1]),
        "the same, more threads": by_work(folder, NUMBERS[1:]),
    }
    rows = [["", *columns]]
    for row in (row for row in WORK if any(row in found for found in columns.values())):
        rows.append([row, *(ends(f[row]) if row in f else "-" for f in columns.values())])
    kinds = (*KINDS.values(), "files")  # what the table is of
    files = (path for kind in kinds for path in folder.glob(f"*/{kind}*.json"))
    machines = sorted({path.parent.name for path in files})
    return (
        f"{report.markdown_table(rows)}\n"
        "The lowest and the highest ratio of all cases and machines "
        f"({', '.join(f'`{name}`' for name in machines)}).\n"
        "Above 1 fastlstm is faster; below it, in bold, slower. The first two columns are of one\n"
        "thread.\n"
    )


def put(path: pathlib.Path, made: str) -> None:
    """Write tables into a file, between the two comments."""
    before, begin, after = path.read_text("utf-8").partition(BEGIN)
    _, end, after = after.partition(END)
    assert begin and end, f"{path.name} has no {BEGIN} and {END} for the tables"
    path.write_text(before + begin + made + end + after, "utf-8")


def main() -> None:
    """Print the tables, and write them where they belong if the command line says so."""
    parser = argparse.ArgumentParser("python -m benchmarks.ranges", description=__doc__)
    parser.add_argument("--short", action="store_true", help="print README.md's table alone")
    parser.add_argument(
        "--write", action="store_true", help="into docs/performance.md, and README.md's"
    )
    arguments = parser.parse_args()
    if arguments.write:
        put(PAGE, text(STORED))
        put(README, short(STORED))
    print(short(STORED) if arguments.short else text(STORED))


if __name__ == "__main__":
    main()
