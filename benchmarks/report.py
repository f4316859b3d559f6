"""The results of `compare`, `train` and `options` as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Results = dict[str, Any]  # what `compare`, `train` or `options` has measured, as in its JSON file
Entry = dict[str, Any]  # of one case, or of the program
Row = dict[str, str]  # the cells of a table by the heads of their columns
Drawn = dict[str, list[tuple[str, list[float | None], float | None]]]  # see `plots.ratios`

# numba's least share of native's speed, in cases of 10 steps and more: for one sequence, in batches
NUMBA_BARS = 0.9, 0.93
OURS = "fastlstm.fit"  # the one of our programs that counts


def best_peer(case: Entry, peers: Sequence[str]) -> str | None:
    """Return the name of the fastest peer of a case; None if no peer has such a layer."""
    return min((p for p in peers if p in case["seconds"]), key=case["seconds"].get, default=None)


def ratio(case: Entry, engine: str, peers: Sequence[str]) -> float | None:
    """Return the best peer's time over the engine's, or None if one of them is missing."""
    best = best_peer(case, peers)
    if best is None or engine not in case["seconds"]:
        return None
    return case["seconds"][best] / case["seconds"][engine]


def ratios(results: Results) -> Drawn:
    """Return what `plots.ratios` draws of the cases."""
    engines, peers = results["engines"], results["peers"]
    return {
        group: [
            (case["name"], [ratio(case, engine, peers) for engine in engines], case["bar"])
            for case in cases
        ]
        for group, cases in groups(results)
    }


def title(results: Results) -> str:
    return _threads(results["threads"])


def _threads(number: int) -> str:
    return f"{number} thread{'s' * (number > 1)}"


def with_threads(engine: str, number: int) -> str:
    """Return the name of the contestant that is an engine with so many threads."""
    return f"{engine}, {_threads(number)}"


def file_name(kind: str, threads: int) -> str:
    """Return the name of the files of a run, without what is behind the dot."""
    return kind if threads == 1 else f"{kind}-{threads}threads"


def groups(results: Results) -> Iterator[tuple[str, list[Entry]]]:
    """Yield the groups of cases, in the order in which they first appear."""
    order = list(dict.fromkeys(case["group"] for case in results["cases"]))
    for group in order:
        yield group, [case for case in results["cases"] if case["group"] == group]


def rate(case: Entry, name: str) -> float:
    """Return the GFLOP/s of useful operations."""
    return case["operations"] / case["seconds"][name] / 1e9


def of_peak(case: Entry, name: str, results: Results) -> float:
    return rate(case, name) / results["limits"]["peak"][case["dtype"]] / results["threads"]


def gains(case: Entry, results: Results) -> dict[str, tuple[float, float | None]]:
    """Return what the threads of a run bring the first engine, and the bar for it.

    "against 1 thread" is the time with one thread / that with all; "against fewer" the same of the
    best smaller number.
    """
    seconds, first = case["seconds"], results["engines"][0]
    fewer = [seconds[with_threads(first, number)] for number in results["fewer"]]
    found = {}
    if fewer:
        found["against 1 thread"] = fewer[0] / seconds[first], case["threads_bar"]
    if len(fewer) > 1:
        found["against fewer"] = min(fewer) / seconds[first], case["fewer_bar"]
    return found


def _gain_cells(case: Entry, results: Results) -> Row:
    return {
        what: f"{value:.2f}" + (f" {_verdict(value, bar)}" if bar else "")
        for what, (value, bar) in gains(case, results).items()
    }


def _bars(case: Entry, results: Results) -> dict[str, tuple[float, float]]:
    """Return the value and the bar of all that the first engine, or numba, must reach in a case."""
    first, seconds = results["engines"][0], case["seconds"]
    bars = {
        "ratio": (ratio(case, first, results["peers"]), case["bar"]),
        "of peak": (of_peak(case, first, results), case["peak_bar"]),
        **gains(case, results),
    }
    both = first == "native" and "numba" in results["engines"]
    if both and results["threads"] == 1 and case["steps"] >= 10:
        share = seconds["native"] / seconds["numba"]
        bars["numba/native"] = (share, NUMBA_BARS[case["batch"] > 1])
    return {what: pair for what, pair in bars.items() if None not in pair}


def _verdict(value: float, bar: float) -> str:
    return "met" if value >= bar else "missed"


def _time(seconds: float) -> str:
    """Return a time in three digits: 9.52 us, 312 us, 16.5 ms."""
    value, unit = (seconds * 1e6, "us") if seconds < 1e-3 else (seconds * 1e3, "ms")
    return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"


def markdown_table(rows: list[list[str]]) -> str:
    """Return a table of these rows, whose first are the heads; all columns but one are numbers."""
    head, *rows = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def _times(case: Entry, results: Results) -> Row:
    """Return the columns of a case's times, with the best peer's in bold."""
    seconds, best = case["seconds"], best_peer(case, results["peers"])
    row = {"T,B,I,H": case["name"]}
    fewer = [with_threads(results["engines"][0], number) for number in results["fewer"]]
    for name in (*results["engines"], *fewer, *results["peers"]):
        if name in seconds:
            row[name] = f"**{_time(seconds[name])}**" if name == best else _time(seconds[name])
    return row


def _ratios(case: Entry, results: Results, peers: Sequence[str]) -> Row:
    """Return the columns of a case's ratios to the best of `peers`."""
    row = {}
    for engine in results["engines"]:
        times = ratio(case, engine, peers)
        row[f"ratio {engine}"] = "-" if times is None else f"{times:.2f}" + " slower" * (times < 1)
    return row


def _row(case: Entry, results: Results) -> Row:
    """Return the cells of a case."""
    engines, peers, seconds = results["engines"], results["peers"], case["seconds"]
    best, bars = best_peer(case, peers), _bars(case, results)
    row = {**_times(case, results), **_ratios(case, results, peers)}
    value, bar = bars.pop("ratio", (0, None))
    row["bar"] = "" if bar is None else f"{bar:g} {_verdict(value, bar)}"
    row["GFLOP/s"] = f"{rate(case, engines[0]):.0f}"
    row["of peak"] = f"{of_peak(case, engines[0], results):.0%}"
    if "of peak" in bars:
        value, bar = bars.pop("of peak")
        row["of peak"] += f" ({bar:.0%} {_verdict(value, bar)})"
    row["of limit"] = f"{case['least_seconds'] / seconds[engines[0]]:.0%} ({case['level']})"
    row["best peer's"] = f"{case['least_seconds'] / seconds[best]:.0%}" if best else "-"
    row |= _gain_cells(case, results)
    if "numba/native" in bars:
        value, bar = bars["numba/native"]
        row["numba/native"] = f"{value:.2f} {_verdict(value, bar)}"
    return row


def _table(rows: list[Row]) -> str:
    """Return a table of all columns, in the order of the row that has most of them."""
    heads = list(max(rows, key=len))
    return markdown_table([heads, *([row.get(head, "-") for head in heads] for row in rows)])


def _c_program(results: Results) -> str:
    heads = ["LSTM alone", "one step", "in blocks of 64", "fixed.c", "in blocks of 64", "bar"]
    lines = [heads]
    for entry in results["c_program"]:
        keys = ("nanoseconds", "in_blocks", "fixed", "fixed_in_blocks")
        figures = [f"{entry[key]:.0f} ns" if key in entry else "-" for key in keys]
        bar = f"{entry['bar']} ns {_verdict(entry['bar'], _c_time(entry))}" if entry["bar"] else "-"
        lines.append([entry["sizes"], *figures, bar])
    return "\n## In C, without Python\n\n" + markdown_table(lines)


def _c_time(entry: Entry) -> float:
    """Return the time that a bar is for: that in blocks, where it was measured."""
    return entry.get("in_blocks", entry["nanoseconds"])


def _errors(cases: list[Entry]) -> str:
    worst = {}
    for case in cases:
        worst[case["dtype"]] = max(worst.get(case["dtype"], 0), *case["errors"].values())
    return " and ".join(f"{error:.0e} ({dtype})" for dtype, error in worst.items())


def _listed(names: Iterable[str]) -> str:
    return "; ".join(names) or "none"


def _setting(results: Results) -> str:
    """Tell what was measured, where and when."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    runs = _listed(f"{name} on {isa}" for name, isa in results["instruction_sets"].items())
    return (
        f"{machine['cpu']} ({machine['architecture']}, {machine['vector_bits']}-bit vectors), "
        f"{machine['system']}, Python {machine['python']}, {versions}. "
        f"Commit {results['commit']}, {results['date']}. Engines: {runs}.\n\n"
    )


def _size(size: int) -> str:
    return f"{size / 1024:g} KB" if size < 1 << 20 else f"{size / (1 << 20):g} MB"


def limits_table(machine: Entry, limits: Entry) -> str:
    """Return the limits of one core: peaks, and how fast it reads from each cache and memory."""
    rows = [["limits of one core, measured", ""]]
    rows += [[f"multiply-adds, {dtype}", f"{r:.0f} GFLOP/s"] for dtype, r in limits["peak"].items()]
    for level, rate in limits["read_by_level"].items():
        text = f"reads, {level}"
        if level in machine["caches"]:
            text += f", {_size(machine['caches'][level])}"
        if machine.get("sharers", {}).get(level, 1) > 1:
            text += f", shared by {machine['sharers'][level]} cores"
        rows.append([text, f"{rate:.0f} GB/s"])
    return markdown_table(rows)


def _blocks(results: Results) -> str:
    text = f"{results['blocks']} blocks of {results['seconds_per_block'] * 1e3:.0f} ms"
    if beyond := results["beyond"]:
        text += f" (of one, of whoever took over {beyond:g} times as long as the fastest)"
    return text


def _head(results: Results) -> str:
    """Tell what was measured, where, and what the columns mean."""
    first = results["engines"][0]
    truth = "the NumPy engine" if "torch" in results["absent"] else "torch"
    return (
        f"# fastlstm and its peers, {title(results)}\n\n"
        f"{_setting(results)}{limits_table(results['machine'], results['limits'])}\n"
        f"Medians of {_blocks(results)}, in turn. "
        "Ratio: the best peer's time (bold) / ours; above 1, ours is faster. "
        f"Bar and GFLOP/s (useful operations) are {first}'s. Of peak: its share of the "
        f"multiply-add peak of {title(results)}. Of limit: the least time by peak and bandwidth "
        "(of the cache named) / its time, and the same of the best peer. -: the library has no "
        "such layer, or is not raced there. All outputs were checked "
        f"first: at most {_errors(results['cases'])} from {truth} in float64.\n"
    )


def _missed(bars: list[tuple[str, str, str]]) -> str:
    """Tell the missed bars of each kind, from tuples (kind, case and figures, verdict)."""
    text = ""
    for kind in dict.fromkeys(what for what, *_ in bars):
        verdicts = [(name, verdict) for what, name, verdict in bars if what == kind]
        missed = _listed(name for name, verdict in verdicts if verdict == "missed")
        text += f"\nBars missed, {kind}, of {len(verdicts)}: {missed}.\n"
    return text


def _slower(results: Results) -> str:
    """Tell where the first engine is behind the best peer."""
    first = results["engines"][0]
    found = {c["name"]: ratio(c, first, results["peers"]) for c in results["cases"]}
    return _listed(f"{n} ({r:.2f})" for n, r in found.items() if r is not None and r < 1)


def _verdicts(results: Results) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, case and figures, verdict) of every bar of a run of `compare`."""
    for case in results["cases"]:
        for what, (value, bar) in _bars(case, results).items():
            yield what, f"{case['name']} ({value:.2f} of {bar:g})", _verdict(value, bar)
    for entry in results["c_program"]:
        if entry["bar"]:
            text = f"{entry['sizes']} ({_c_time(entry):.0f} ns of {entry['bar']})"
            yield "step.c", text, _verdict(entry["bar"], _c_time(entry))


def _conclusions(results: Results) -> str:
    """Tell the losses and the missed bars in words."""
    text = f"\nSlower than the best peer ({results['engines'][0]}): {_slower(results)}.\n"
    text += _missed(list(_verdicts(results)))
    first_calls = _listed(
        f"{engine} {taken['cold']:.2f} s, {taken['cached']:.2f} s"
        for engine, taken in results["first_call"].items()
    )
    return text + f"\nFirst call, compilation included, and in a second process: {first_calls}.\n"


def markdown(results: Results) -> str:
    """Return the results of `compare`: a table for each group of cases, losses in words."""
    text = _head(results)
    for group, members in groups(results):
        text += f"\n## {group}\n\n" + _table([_row(case, results) for case in members])
    if results["c_program"]:
        text += _c_program(results)
    return text + _conclusions(results) + _left_out(results) + _absent(results)


def _absent(results: Results) -> str:
    reasons = _listed(f"{name} ({why})" for name, why in results["absent"].items())
    return f"\nAbsent: {reasons}.\n" if results["absent"] else ""


def _left_out(results: Results) -> str:
    names = results["left_out"]
    return f"\nLeft out, as the time was over: {_listed(names)}.\n" if names else ""


# ---- training -----------------------------------------------------------------------------------


def _training_bars(case: Entry, results: Results) -> dict[str, tuple[float, float]]:
    """Return the value and the bar of all that the first engine must reach in a training step."""
    first = results["engines"][0]
    bars = {
        "ratio": (ratio(case, first, [case["against"]]), case["bar"]),
        "ratio to JAX": (ratio(case, first, ["JAX"]), case.get("jax_bar")),
        **gains(case, results),
    }
    return {what: pair for what, pair in bars.items() if None not in pair}


def _training_row(case: Entry, results: Results) -> Row:
    first, bars = results["engines"][0], _training_bars(case, results)
    row = {**_times(case, results), **_ratios(case, results, [case["against"]])}
    value, bar = bars.get("ratio", (0, None))
    row["bar"] = "" if bar is None else f"{bar:g} {_verdict(value, bar)}"
    if "ratio to JAX" in bars:
        row["bar, JAX"] = "{1:g} {2}".format(*bars["ratio to JAX"], _verdict(*bars["ratio to JAX"]))
    row["ratio to best"] = _ratios(case, results, results["peers"])[f"ratio {first}"]
    row["GFLOP/s"] = f"{rate(case, first):.0f}"
    row["of peak"] = f"{of_peak(case, first, results):.0%}"
    return row | _gain_cells(case, results)


def _memory(results: Results) -> str:
    rows = [["T,B,I,H", results["engines"][0], "torch", "torch's / ours", "at most torch's"]]
    for case in results["memory"]:
        ours, theirs = case["ours"], case["torch"]
        sizes = [f"{size / 1e6:.3g} MB" for size in (ours, theirs)]
        rows.append([case["name"], *sizes, f"{theirs / ours:.2f}", _verdict(theirs, ours)])
    return (
        "\n## Peak memory of a step\n\n"
        "Above x, the gradient of the output and the weights; torch packed in ragged batches.\n\n"
        + markdown_table(rows)
    )


def _program(results: Results) -> str:
    program = results["program"]
    best = min(program["seconds"].values())
    rows = [["program", "whole process", "after imports", "time / fastlstm.fit's", "last losses"]]
    for name, seconds in program["seconds"].items():
        cell = f"{seconds:.2f} s"
        rows.append(
            [
                name,
                f"**{cell}**" if seconds == best else cell,
                f"{program['after_imports'][name]:.2f} s",
                f"{seconds / program['seconds'][OURS]:.2f}",
                "{:.3g}, {:.3g}".format(*program["last_losses"][name]),
            ]
        )
    runs = len(program["runs"][OURS])
    return (
        "\n## The many-to-one program\n\n"
        f"Whole processes, imports included, {runs} of each in turn, medians. Last losses: train, "
        f"test; those of all epochs are at most {max(program['apart'].values()):.0e} of their "
        "value apart.\n\n" + markdown_table(rows)
    )


def _training_verdicts(results: Results) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, case and figures, verdict) of every bar of a run of `train`."""
    for case in results["cases"]:
        for what, (value, bar) in _training_bars(case, results).items():
            yield what, f"{case['name']} ({value:.2f} of {bar:g})", _verdict(value, bar)
    for case in results["memory"]:
        text = f"{case['name']} ({case['ours'] / 1e6:.3g} MB, torch {case['torch'] / 1e6:.3g})"
        yield "memory", text, _verdict(case["torch"], case["ours"])
    if results["program"]:
        value, bar = program_ratio(results["program"]), results["program"]["bar"]
        yield "program", f"{value:.2f} of {bar:g}", _verdict(value, bar)


def program_ratio(program: Entry) -> float:
    """Return the time of torch with its DataLoader over that of `fastlstm.fit`."""
    return program["seconds"]["torch, DataLoader"] / program["seconds"][OURS]


def training(results: Results) -> str:
    """Return the results of `train`: tables, and losses in words."""
    first, cases = results["engines"][0], results["cases"]
    peaks = results["limits"]["peak"]
    text = f"# Training, {title(results)}\n\n{_setting(results)}"
    if cases:
        text += (
            "A step: forward and backward, to the gradients of x and of all weights. Medians of "
            f"{_blocks(results)}, in turn. "
            "Ratio: torch's time / ours, packed sequences in ragged batches; above 1, ours is "
            f"faster. Ratio to best: the same of {first} to the fastest peer (bold). Bars and "
            f"GFLOP/s (3 times the forward pass's useful operations) are {first}'s. Of peak: "
            f"its share of the multiply-add peak of {title(results)}, measured in the same run at "
            f"{peaks['float32']:.0f} GFLOP/s a core in float32, {peaks['float64']:.0f} in float64. "
            f"All gradients were checked first: at most {_errors(cases)} of each one's greatest "
            "value from torch in float64.\n"
        )
    for group, members in groups(results):
        text += f"\n## {group}\n\n" + _table([_training_row(case, results) for case in members])
    if results["memory"]:
        text += _memory(results)
    if results["program"]:
        text += _program(results)
    if cases:
        text += f"\nSlower than the fastest peer ({first}): {_slower(results)}.\n"
    text += _missed(list(_training_verdicts(results)))
    return text + _left_out(results) + _absent(results)


def training_ratios(results: Results) -> Drawn:
    """Return what `plots.ratios` draws of a run of `train`."""
    engines, drawn = results["engines"], {}
    nothing = [None] * (len(engines) - 1)  # for the engines after the first
    for group, cases in groups(results):
        packed = " (packed)" * any(case["against"] == "torch packed" for case in cases)
        drawn[f"Step, torch's time{packed} / ours: {group.lower()}"] = [
            (c["name"], [ratio(c, e, [c["against"]]) for e in engines], c["bar"]) for c in cases
        ]
    if results["fewer"]:
        found = {case["name"]: gains(case, results) for case in results["cases"]}
        drawn[f"Step, one thread's time / that of {title(results)}"] = [
            (name, [of["against 1 thread"][0], *nothing], of["against 1 thread"][1])
            for name, of in found.items()
        ]
    if results["memory"]:
        drawn["Peak memory of a step, torch's / ours"] = [
            (case["name"], [case["torch"] / case["ours"], *nothing], 1)
            for case in results["memory"]
        ]
    if results["program"]:
        drawn["Whole program, torch's time / ours"] = [
            ("1000x10x1", [program_ratio(results["program"]), *nothing], results["program"]["bar"])
        ]
    return drawn


# ---- scaling ------------------------------------------------------------------------------------


def scaling(kind: str, runs: dict[int, Results]) -> str:
    """Return what runs of `compare` or `train` with 1, 2, ... threads say together."""
    verdicts = {"compare": _verdicts, "train": _training_verdicts}[kind]
    last = runs[max(runs)]
    first = last["engines"][0]
    text = (
        f"# {'Training' if kind == 'train' else 'fastlstm and its peers'}, by the number of "
        f"threads\n\n{_setting(last)}"
        f"Time of {first} / that of the best peer = ratio (above 1, ours is faster), everyone with "
        "the same number of threads, in one process for each number.\n"
    )
    for group, names in _names(runs).items():
        rows = [["T,B,I,H", *map(_threads, runs)]]
        rows += [[name, *(_race(_find(name, run), run) for run in runs.values())] for name in names]
        text += f"\n## {group}\n\n" + markdown_table(rows)
    further = {number: run for number, run in runs.items() if run["fewer"]}
    if further:
        text += (
            f"\n## More threads against fewer, {first}\n\n"
            "Time with one thread / that with as many as the head of the column says; in brackets "
            "the time with the best smaller number / it. All of a column were measured in turn.\n\n"
        )
        rows = [["T,B,I,H", *map(_threads, further)]]
        for names in _names(further).values():
            for name in names:
                rows.append([name, *(_gain(_find(name, r), r) for r in further.values())])
        text += markdown_table(rows)
    for number, run in runs.items():
        text += f"\n## {_threads(number)}\n\nSlower than the best peer: {_slower(run)}.\n"
        text += _missed(list(verdicts(run))) + _left_out(run)
    return text + _absent(last)


def _names(runs: dict[int, Results]) -> dict[str, list[str]]:
    """Return the names of all cases in any of the runs by their groups."""
    found: dict[str, dict[str, None]] = {}
    for run in runs.values():
        for case in run["cases"]:
            found.setdefault(case["group"], {})[case["name"]] = None
    return {group: list(names) for group, names in found.items()}


def _find(name: str, results: Results) -> Entry | None:
    return next((case for case in results["cases"] if case["name"] == name), None)


def _race(case: Entry | None, results: Results) -> str:
    """Return our time, the best peer's and the ratio, in bold if it is a loss."""
    if case is None:
        return "-"
    first, peers = results["engines"][0], results["peers"]
    best, times = best_peer(case, peers), ratio(case, first, peers)
    text = _time(case["seconds"][first])
    if best is None or times is None:
        return text
    figure = f"**{times:.2f}**" if times < 1 else f"{times:.2f}"
    return f"{text} / {_time(case['seconds'][best])} = {figure}"


def _gain(case: Entry | None, results: Results) -> str:
    if case is None:
        return "-"
    values = gains(case, results)
    text = f"{values['against 1 thread'][0]:.2f}"
    if "against fewer" in values:
        text += f" ({values['against fewer'][0]:.2f})"
    return text


# ---- callers ------------------------------------------------------------------------------------


def throughput(blocks: list[list[float]]) -> float:
    """Return the calls a second of all callers together."""
    return statistics.median(map(sum, blocks))


def least_share(blocks: list[list[float]]) -> float:
    """Return the share of the slowest caller, 1 if all have got the same."""
    return statistics.median(len(of) * min(of) / sum(of) for of in blocks)


def callers(results: Results) -> str:
    """Return the results of `callers`: a table for each part, and missed bars in words."""
    first = results["engines"][0]
    text = (
        f"# Python threads that call one LSTM at once\n\n{_setting(results)}"
        f"Calls a second of all callers together / those of one caller, medians of "
        f"{_blocks(results)}, in turn; in brackets the share of the slowest caller, 1 if all get "
        "the same. The outputs of all callers were checked.\n"
    )
    bars = []
    for group, cases in groups(results):
        numbers = list(cases[0]["rates"][first])
        rows = [["T,B,I,H", "", "1 caller", *(f"{n} callers" for n in numbers[1:])]]
        for case in cases:
            for name, by_number in case["rates"].items():
                one = throughput(by_number["1"])
                row = [case["name"], name, f"{_time(1 / one)} a call"]
                for number in numbers[1:]:
                    times = throughput(by_number[number]) / one
                    row.append(f"{times:.2f} ({least_share(by_number[number]):.2f})")
                    if name == first and case["bar"]:
                        bar = case["bar"] * int(number)
                        what = f"{case['name']}, {number} callers ({times:.2f} of {bar:g})"
                        bars.append((group.lower(), what, _verdict(times, bar)))
                rows.append(row)
        threads = _threads(cases[0]["threads"])
        text += f"\n## {group} ({threads})\n\n" + markdown_table(rows)
    return text + _missed(bars) + _absent(results)


def dask_workers(results: Results) -> str:
    """Return the results of `dask_workers`: medians, gains block by block, missed bars in words."""
    text = (
        f"# One worker of Dask, and two\n\n{_setting(results)}Each worker is a process with one "
        "thread, and makes the samples of its blocks itself. The results were compared, bit for "
        "bit, with those of `predict` in one process, which had the samples already. The workers' "
        "malloc keeps memory. Medians of "
        f"{len(results['cases'][0]['seconds']['1'])} runs in turn.\n\n"
    )
    rows, bars = [["T,B,I,H", "samples", "without Dask", "1 worker", "2 workers", "gain"]], []
    for case in results["cases"]:
        seconds = case["seconds"]
        gain = statistics.median(a / b for a, b in zip(seconds["1"], seconds["2"], strict=True))
        times = [_time(statistics.median(seconds[name])) for name in ("here", "1", "2")]
        rows.append([case["name"], str(case["samples"]), *times, f"{gain:.2f}"])
        what = f"{case['name']} ({gain:.2f} of {results['bar']})"
        bars.append(("2 workers", what, _verdict(gain, results["bar"])))
    return text + markdown_table(rows) + _missed(bars)


# ---- pools of live streams ----------------------------------------------------------------------


def pools(results: Results) -> str:
    """Return the results of `pools`: steps in turn, the load test, and missed bars in words."""
    first, cases = results["engines"][0], {case["name"]: case for case in results["cases"]}
    text = (
        f"# Pools of live streams\n\n{_setting(results)}"
        "I = H = 128, float32, one core. All results were checked before.\n"
    )
    if cases:
        names = list(dict.fromkeys(n for case in cases.values() for n in case["seconds"]))
        rows = [["a call", *cases, *(f"{name}: time / ours" for name in cases)]]
        for name in names:
            seconds = [case["seconds"].get(name) for case in cases.values()]
            ours = [case["seconds"][first] for case in cases.values()]
            row = ["-" if taken is None else _time(taken) for taken in seconds]
            row += [
                "-" if t is None else f"{t / own:.2f}" for t, own in zip(seconds, ours, strict=True)
            ]
            rows.append([name, *row])
        text += (
            "\n## Steps of 1000 streams\n\n"
            "All that there are, or others of 10 000 at each call, in random order. `one batch` is "
            "the same number of rows in a stream of that batch, which needs no gathering. Medians "
            f"of {_blocks(results)}, in turn.\n\n{markdown_table(rows)}"
        )
    bars = []
    for group, against, bar in results["bars"]:
        if group in cases:
            seconds = cases[group]["seconds"]
            peer = best_peer(cases[group], results["peers"]) if against == "peers" else against
            if peer in seconds:
                value = seconds[peer] / seconds[first]
                what = f"{group} against {peer} ({value:.2f} of {bar:g})"
                bars.append(("steps", what, _verdict(value, bar)))
    return text + _loads(results) + _missed(bars) + _absent(results)


def _loads(results: Results) -> str:
    """Return the table of the load test, if there was one."""
    if not results["loads"]:
        return ""
    rows = [["contestant", "capacity", "load", "streams x steps a second", "p50", "p99", "p99.9"]]
    for load in results["loads"]:
        share, latency = load["share"], load["latency"]
        row = [load["contestant"], f"{load['capacity']:,.0f}/s"]
        row.append("half of ours" if share is None else f"{share:.0%}")
        row.append(f"{load['streams']:,} x {load['rate']:.1f}")
        row += ["falls behind"] * 3 if latency is None else map(_time, latency.values())
        rows.append(row)
    return (
        "\n## Under load\n\n"
        "Steps come at random (each stream a Poisson process). From when a step comes to when its "
        f"result is there: a batch begins when its oldest step has waited {results['max_wait']:g} "
        f"s, or {results['max_batch']} are there. {results['changes']} streams leave each second, "
        "and as many join. Capacity: steps a second of 10 000 streams where more are always there. "
        "A plain loop collects for all but `submit`, where an asyncio task awaits each step, after "
        "gc.freeze(); the tasks that make the load run on the same core. "
        f"Medians of {results['load_blocks']} blocks, in turn.\n\n{markdown_table(rows)}"
    )


# ---- fleets of models ---------------------------------------------------------------------------


def fleets(results: Results) -> str:
    """Return the results of `fleets`: fleets in turn, data that are read, missed bars in words."""
    workers, bars = results["workers"], []
    text = f"# Fleets of models\n\n{_setting(results)}All results were checked before.\n"
    rows = [["T,B,I,H", "a step of one", "a model", "threads", "loky"]]
    of_reading = [["data", "predict", "in turn, or one call", "ratio"]]
    for case in results["cases"]:
        name, seconds = case["name"], case["seconds"]
        if case["group"] == "fleets":
            one, bar = seconds["one worker"], results["bar"] * workers
            a_model = one / case["models"]
            gains = {way: one / seconds[way] for way in ("threads", "loky")}
            row = [name, _time(a_model / case["steps"]), _time(a_model)]
            rows.append([*row, *(f"{gain:.2f}" for gain in gains.values())])
            for way, gain in gains.items():
                what = f"{name} by {way} ({gain:.2f} of {bar:g})"
                bars.append(("fleets", what, _verdict(gain, bar)))
        else:
            ours, before = seconds["predict"], seconds["before"]
            of_reading.append([name, _time(ours), _time(before), f"{before / ours:.2f}"])
    if len(rows) > 1:
        text += (
            f"\n## Training, {workers} workers\n\n"
            "An LSTM, its last step and a Linear, with Adam: how long one worker takes for a step, "
            f"and for all steps of a model; how many times as fast {workers} threads, or "
            f"processes, train a fleet of {2 * workers} models. Medians of {results['blocks']} "
            f"calls, in turn.\n\n{markdown_table(rows)}"
        )
    if len(of_reading) > 1:
        text += (
            "\n## Predicting what is read\n\n"
            "4096 samples in batches of 256, T = 168, I = 16, H = 64, one thread: `predict` from a "
            "file into another, and the same with reading, computing and writing in turn. In "
            "memory: `predict`, and one call of the model.\n\n"
            f"{markdown_table(of_reading)}"
        )
    return text + _missed(bars) + _absent(results)


# ---- options of the recurrence ------------------------------------------------------------------


def of_plain(case: Entry, engine: str) -> float | None:
    """Return an engine's time over that of its plain cell, or None if that is not measured."""
    plain = case["seconds"].get(f"{engine}, plain")
    return None if plain is None else case["seconds"][engine] / plain


def _options_row(case: Entry, results: Results) -> Row:
    engines, seconds, row = results["engines"], case["seconds"], _times(case, results)
    peers = [peer for peer in results["peers"] if peer in seconds]
    if case["against"] in peers:
        row |= _ratios(case, results, [case["against"]])
        value = ratio(case, engines[0], [case["against"]])
        row["bar"] = f"{case['bar']:g} {_verdict(value, case['bar'])}"
    if len(peers) > 1:
        row["ratio to best"] = _ratios(case, results, peers)[f"ratio {engines[0]}"]
    for engine in engines:
        times = of_plain(case, engine)
        if times is not None:
            row[f"{engine}, plain"] = _time(seconds[f"{engine}, plain"])
            row[f"{engine} / plain"] = f"{times:.2f}"
    if case["plain_bar"]:
        verdict = _verdict(case["plain_bar"], of_plain(case, engines[0]))
        row["at most"] = f"{case['plain_bar']:g} {verdict}"
    return row


def _options_verdicts(results: Results) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, case and figures, verdict) of every bar of a run of `options`."""
    first = results["engines"][0]
    for case in results["cases"]:
        value, bar = ratio(case, first, [case["against"]]), case["bar"]
        if value is not None and bar is not None:
            text = f"{case['name']} ({value:.2f} of {bar:g})"
            yield f"ratio to {case['against']}", text, _verdict(value, bar)
    for case in results["cases"]:
        if bar := case["plain_bar"]:
            times = of_plain(case, first)
            text = f"{case['name']} ({times:.2f}, at most {bar:g})"
            yield "time over the plain cell's", text, _verdict(bar, times)


def options(results: Results) -> str:
    """Return the results of `options`: a table for each part, and missed bars in words."""
    first = results["engines"][0]
    forward = [case for case in results["cases"] if not case["group"].endswith("back")]
    back = [case for case in results["cases"] if case["group"].endswith("back")]
    text = (
        f"# Options of the recurrence, {title(results)}\n\n{_setting(results)}"
        f"Medians of {_blocks(results)}, in turn. "
        "Ratio: the time of the first peer of a table / ours; above 1, ours is faster. Ratio "
        f'to best: the same of {first} to the fastest peer (bold). "/ plain": an engine\'s time / '
        "its time for the plain cell of the same sizes. Bars are "
        f"{first}'s. All were checked first:"
    )
    if forward:
        text += f" outputs, at most {_errors(forward)} from the truth in float64;"
    if back:
        text += f" gradients, at most {_errors(back)} of each one's greatest value."
    text = text.rstrip(";.") + ".\n"
    for group, members in groups(results):
        text += f"\n## {group}\n\n" + _table([_options_row(case, results) for case in members])
    return text + _missed(list(_options_verdicts(results))) + _absent(results)


def options_ratios(results: Results) -> Drawn:
    """Return what `plots.ratios` draws of a run of `options`."""
    engines, drawn = results["engines"], {}
    for group, cases in groups(results):
        of_peer = [
            (c["name"], [ratio(c, e, [c["against"]]) for e in engines], c["bar"])
            for c in cases
            if c["against"] in c["seconds"]
        ]
        if of_peer:
            drawn[f"{group}: {cases[0]['against']} / ours"] = of_peer
        of_plain_cell = [
            (
                c["name"],
                [1 / of_plain(c, e) for e in engines],
                c["plain_bar"] and 1 / c["plain_bar"],
            )
            for c in cases
            if of_plain(c, engines[0]) is not None
        ]
        if of_plain_cell:
            drawn[f"{group}: plain cell / this one"] = of_plain_cell
    return drawn


# ---- files --------------------------------------------------------------------------------------


def _files_row(case: Entry, results: Results) -> Row:
    row = {"case": case["name"]}
    row |= {name: of for name, of in _times(case, results).items() if name != "T,B,I,H"}
    value = ratio(case, results["engines"][0], results["peers"])
    row["ratio"] = "-" if value is None else f"{value:.2f}"
    if case["bar"] is not None and value is not None:
        row["bar"] = f"{case['bar']:g} {_verdict(value, case['bar'])}"
    return row


def _files_verdicts(results: Results) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, case and figures, verdict) of every bar of a run of `files`."""
    for case in results["cases"]:
        value, bar = ratio(case, results["engines"][0], results["peers"]), case["bar"]
        if value is not None and bar is not None:
            yield "ratio", f"{case['name']} ({value:.2f} of {bar:g})", _verdict(value, bar)


def _operators(found: Entry, first: str) -> str:
    """Return a table of the operators of a file: the time of all of a kind in a call."""
    ours, theirs = found[first], found["onnx"]
    rows = [["operator", "nodes", first, "onnx's evaluator", "ratio"]]
    whole = ours["whole"], theirs["whole"]
    rows.append(["the whole call", "", *map(_time, whole), f"{whole[1] / whole[0]:.1f}"])
    kinds = theirs["nodes"] | ours["nodes"]
    for kind in sorted(kinds, key=lambda kind: -theirs["nodes"].get(kind, (0, 0))[1]):
        (number, seconds), (before, slow) = (of["nodes"].get(kind, (0, 0)) for of in (ours, theirs))
        count = f"{number}" if number == before else f"{number} (of {before})"
        cells = [_time(taken) if taken else "-" for taken in (seconds, slow)]
        rows.append([kind, count, *cells, f"{slow / seconds:.1f}" if seconds and slow else "-"])
    return markdown_table(rows)


def files(results: Results) -> str:
    """Return the results of `files`: tables, and missed bars in words."""
    first = results["engines"][0]
    text = (
        f"# Models from ONNX and TFLite files, {title(results)}\n\n{_setting(results)}"
        f"Medians of {_blocks(results)}, in turn. Ratio: the time of the best other (bold) / ours; "
        "above 1, ours is faster. All outputs were checked first: at most "
        f"{_errors(results['cases'])} of an output's greatest value apart.\n"
    )
    for group, members in groups(results):
        text += f"\n## {group}\n\n" + _table([_files_row(case, results) for case in members])
    for name, found in results["operators"].items():
        text += (
            f"\n## Operators of {name}\n\nTime of all nodes of a kind in a run of the plan for "
            "inputs of any shapes, with a clock around each node; that of the whole call is "
            "without. The evaluator's plan has fastlstm's LSTMs.\n\n"
            f"{_operators(found, first)}"
        )
    return text + _missed(list(_files_verdicts(results))) + _absent(results)


# ---- inside torch -------------------------------------------------------------------------------


def torch_host(results: Results) -> str:
    """Return the results of `torch_host`: a table for each group, and missed bars in words."""
    (ours,), (peer,) = results["engines"], results["peers"]
    text = (
        f"# torch's programs with our modules, {title(results)}\n\n{_setting(results)}"
        f"Medians of {_blocks(results)}, in turn. Ratio: the time of {peer} / that of {ours}; "
        f"above 1, ours is faster. All results were checked first: at most "
        f"{_errors(results['cases'])} of each one's greatest value from torch in float64.\n"
    )
    for group, members in groups(results):
        rows = []
        for case in members:
            row = _files_row(case, results)
            for name in results["others"]:
                if name in case["seconds"]:
                    row[name] = _time(case["seconds"][name])
            rows.append(row)
        text += f"\n## {group}\n\n" + _table(rows)
    return text + _missed(list(_files_verdicts(results))) + _absent(results)
