"""The results of `compare`, `train` and `options` as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Results = dict[str, Any]  # what `compare`, `train` or `options` has measured, as in its JSON file
Entry = dict[str, Any]  # of one case, or of the program
Row = dict[str, str]  # the cells of a table by the heads of their columns
Drawn = dict[str, list[tuple[str, list[float | None], float | None]]]  # see `plots.ratios`

SAME = 0.98  # medians of one run that are closer than this count as equal
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
    return f"{results['threads']} thread{'s' * (results['threads'] > 1)}"


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


def _bars(case: Entry, results: Results) -> dict[str, tuple[float, float]]:
    """Return the value and the bar of all that the first engine, or numba, must reach in a case."""
    first, seconds = results["engines"][0], case["seconds"]
    bars = {
        "ratio": (ratio(case, first, results["peers"]), case["bar"]),
        "of peak": (of_peak(case, first, results), case["peak_bar"]),
    }
    if results["one_thread"]:
        bars["against 1 thread"] = (seconds[results["one_thread"]] / seconds[first], SAME)
    elif first == "native" and "numba" in results["engines"] and case["steps"] >= 10:
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
    for name in filter(None, (*results["engines"], results["one_thread"], *results["peers"])):
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
    for what, (value, bar) in bars.items():
        row[what] = f"{value:.2f} {_verdict(value, bar)}"
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


def _head(results: Results) -> str:
    """Tell what was measured, where, and what the columns mean."""
    first = results["engines"][0]
    truth = "the NumPy engine" if "torch" in results["absent"] else "torch"
    return (
        f"# fastlstm and its peers, {title(results)}\n\n"
        f"{_setting(results)}{limits_table(results['machine'], results['limits'])}\n"
        f"Medians of {results['blocks']} blocks of {results['seconds_per_block'] * 1e3:.0f} ms, "
        "in turn. Ratio: the best peer's time (bold) / ours; above 1, ours is faster. "
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


def _conclusions(results: Results) -> str:
    """Tell the losses and the missed bars in words."""
    first, cases = results["engines"][0], results["cases"]
    ratios = {case["name"]: ratio(case, first, results["peers"]) for case in cases}
    slower = [f"{n} ({r:.2f})" for n, r in ratios.items() if r is not None and r < 1]
    bars = [
        (what, f"{case['name']} ({value:.2f} of {bar:g})", _verdict(value, bar))
        for case in cases
        for what, (value, bar) in _bars(case, results).items()
    ] + [
        (
            "step.c",
            f"{entry['sizes']} ({_c_time(entry):.0f} ns of {entry['bar']})",
            _verdict(entry["bar"], _c_time(entry)),
        )
        for entry in results["c_program"]
        if entry["bar"]
    ]
    text = f"\nSlower than the best peer ({first}): {_listed(slower)}.\n" + _missed(bars)
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
    return text + _conclusions(results) + _absent(results)


def _absent(results: Results) -> str:
    reasons = _listed(f"{name} ({why})" for name, why in results["absent"].items())
    return f"\nAbsent: {reasons}.\n" if results["absent"] else ""


# ---- training -----------------------------------------------------------------------------------


def _training_bars(case: Entry, results: Results) -> dict[str, tuple[float, float]]:
    """Return the value and the bar of all that the first engine must reach in a training step."""
    first, seconds = results["engines"][0], case["seconds"]
    bars = {
        "ratio": (ratio(case, first, [case["against"]]), case["bar"]),
        "ratio to JAX": (ratio(case, first, ["JAX"]), case.get("jax_bar")),
    }
    if results["one_thread"]:
        against_one = seconds[results["one_thread"]] / seconds[first]
        bars["against 1 thread"] = against_one, case["threads_bar"]
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
    if results["one_thread"]:
        against_one = case["seconds"][results["one_thread"]] / case["seconds"][first]
        row["against 1 thread"] = f"{against_one:.2f}"
        if "against 1 thread" in bars:
            row["against 1 thread"] += " " + _verdict(*bars["against 1 thread"])
    return row


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
            f"{results['blocks']} blocks of {results['seconds_per_block'] * 1e3:.0f} ms, in turn. "
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
    ratios_to_best = {case["name"]: ratio(case, first, results["peers"]) for case in cases}
    slower = [f"{n} ({r:.2f})" for n, r in ratios_to_best.items() if r is not None and r < 1]
    if cases:
        text += f"\nSlower than the fastest peer ({first}): {_listed(slower)}.\n"
    return text + _missed(list(_training_verdicts(results))) + _absent(results)


def training_ratios(results: Results) -> Drawn:
    """Return what `plots.ratios` draws of a run of `train`."""
    engines, drawn = results["engines"], {}
    nothing = [None] * (len(engines) - 1)  # for the engines after the first
    for group, cases in groups(results):
        packed = " (packed)" * any(case["against"] == "torch packed" for case in cases)
        drawn[f"Step, torch's time{packed} / ours: {group.lower()}"] = [
            (c["name"], [ratio(c, e, [c["against"]]) for e in engines], c["bar"]) for c in cases
        ]
    threads = {
        c["name"]: _training_bars(c, results).get("against 1 thread") for c in results["cases"]
    }
    if any(threads.values()):
        drawn["Step, one thread's time / two threads'"] = [
            (name, [pair[0], *nothing], pair[1]) for name, pair in threads.items() if pair
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
        f"Medians of {results['blocks']} blocks of {results['seconds_per_block'] * 1e3:.0f} ms, in "
        "turn. Ratio: the time of the first peer of a table / ours; above 1, ours is faster. Ratio "
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
