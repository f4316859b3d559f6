"""The results of `compare` as Markdown."""

# Two medians of one run that differ by less than 2 % do not differ.
SAME = 0.98
NUMBA_BAR = 0.9  # of native's speed, in cases of 10 steps and more


def best_peer(case, peers):
    """Return the name of the fastest peer of a case; None if no peer has such a layer."""
    return min((p for p in peers if p in case["seconds"]), key=case["seconds"].get, default=None)


def ratio(case, engine, peers):
    """Best peer's time / the engine's: above 1, ours is faster. None if one of them is missing."""
    best = best_peer(case, peers)
    if best is None or engine not in case["seconds"]:
        return None
    return case["seconds"][best] / case["seconds"][engine]


def title(results):
    return f"{results['threads']} thread{'s' * (results['threads'] > 1)}"


def groups(results):
    """The cases group by group, groups in the order in which they first appear."""
    order = list(dict.fromkeys(case["group"] for case in results["cases"]))
    for group in order:
        yield group, [case for case in results["cases"] if case["group"] == group]


def rate(case, name):
    """GFLOP/s, useful operations."""
    return case["operations"] / case["seconds"][name] / 1e9


def of_peak(case, name, results):
    return rate(case, name) / results["limits"]["peak"][case["dtype"]] / results["threads"]


def _bars(case, results):
    """{what: (value, bar)} of all that the first engine, or numba, has to reach in a case."""
    first, seconds = results["engines"][0], case["seconds"]
    bars = {
        "ratio": (ratio(case, first, results["peers"]), case["bar"]),
        "of peak": (of_peak(case, first, results), case["peak_bar"]),
    }
    if results["one_thread"]:
        bars["against 1 thread"] = (seconds[results["one_thread"]] / seconds[first], SAME)
    elif first == "native" and "numba" in results["engines"] and case["steps"] >= 10:
        bars["numba/native"] = (seconds["native"] / seconds["numba"], NUMBA_BAR)
    return {what: pair for what, pair in bars.items() if None not in pair}


def _verdict(value, bar):
    return "met" if value >= bar else "missed"


def _time(seconds):
    """Three digits: 9.52 us, 312 us, 16.5 ms."""
    value, unit = (seconds * 1e6, "us") if seconds < 1e-3 else (seconds * 1e3, "ms")
    return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"


def _markdown_table(rows):
    head, *rows = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def _row(case, results):
    """{head of the column: cell} of a case."""
    engines, peers, seconds = results["engines"], results["peers"], case["seconds"]
    best, bars = best_peer(case, peers), _bars(case, results)
    row = {"T,B,I,H": case["name"]}
    for name in filter(None, (*engines, results["one_thread"], *peers)):
        if name in seconds:
            row[name] = f"**{_time(seconds[name])}**" if name == best else _time(seconds[name])
    for engine in engines:
        times = ratio(case, engine, peers)
        row[f"ratio {engine}"] = "-" if times is None else f"{times:.2f}" + " slower" * (times < 1)
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


def _table(cases, results):
    """Columns that any of the cases has, in the order of the case that has most."""
    rows = [_row(case, results) for case in cases]
    heads = list(max(rows, key=len))
    return _markdown_table([heads, *([row.get(head, "-") for head in heads] for row in rows)])


def _c_program(results):
    lines = [["LSTM alone", "one step", "bar"]]
    for entry in results["c_program"]:
        verdict = _verdict(entry["bar"], entry["nanoseconds"])
        lines.append(
            [entry["sizes"], f"{entry['nanoseconds']:.0f} ns", f"{entry['bar']} ns {verdict}"]
        )
    return "\n## In C, without Python\n\n" + _markdown_table(lines)


def _errors(cases):
    worst = {}
    for case in cases:
        worst[case["dtype"]] = max(worst.get(case["dtype"], 0), *case["errors"].values())
    return " and ".join(f"{error:.0e} ({dtype})" for dtype, error in worst.items())


def _listed(names):
    return "; ".join(names) or "none"


def _head(results):
    """What was measured where, and what the columns mean."""
    machine, limits, first = results["machine"], results["limits"], results["engines"][0]
    reads = ", ".join(f"{rate:.0f} {name}" for name, rate in limits["read_by_level"].items())
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    truth = "the NumPy engine" if "torch" in results["absent"] else "torch"
    runs = _listed(f"{name} on {isa}" for name, isa in results["instruction_sets"].items())
    return (
        f"# fastlstm and its peers, {title(results)}\n\n"
        f"{machine['cpu']} ({machine['architecture']}, {machine['vector_bits']}-bit vectors), "
        f"{machine['system']}, Python {machine['python']}, {versions}. "
        f"Commit {results['commit']}, {results['date']}. Engines: {runs}.\n\n"
        f"Limits of one core, measured in the same run: "
        f"{limits['peak']['float32']:.0f} GFLOP/s float32, "
        f"{limits['peak']['float64']:.0f} float64; reads in GB/s: {reads}.\n\n"
        f"Medians of {results['blocks']} blocks of {results['seconds_per_block'] * 1e3:.0f} ms, "
        "in turn. Ratio: the best peer's time (bold) / ours; above 1, ours is faster. "
        f"Bar and GFLOP/s (useful operations) are {first}'s. Of peak: its share of the "
        f"multiply-add peak of {title(results)}. Of limit: the least time by peak and bandwidth "
        "(of the cache named) / its time, and the same of the best peer. All outputs were checked "
        f"first: at most {_errors(results['cases'])} from {truth} in float64.\n"
    )


def _conclusions(results):
    """Losses and missed bars, in words."""
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
            f"{entry['sizes']} ({entry['nanoseconds']:.0f} ns of {entry['bar']})",
            _verdict(entry["bar"], entry["nanoseconds"]),
        )
        for entry in results["c_program"]
    ]
    text = f"\nSlower than the best peer ({first}): {_listed(slower)}.\n"
    for kind in dict.fromkeys(what for what, *_ in bars):
        verdicts = [(name, verdict) for what, name, verdict in bars if what == kind]
        missed = _listed(name for name, verdict in verdicts if verdict == "missed")
        text += f"\nBars missed, {kind}, of {len(verdicts)}: {missed}.\n"
    first_calls = _listed(
        f"{engine} {taken['cold']:.2f} s, {taken['cached']:.2f} s"
        for engine, taken in results["first_call"].items()
    )
    return text + f"\nFirst call, compilation included, and in a second process: {first_calls}.\n"


def markdown(results):
    """What was measured where, each group of cases as a table, wins and losses in words."""
    text = _head(results)
    for group, members in groups(results):
        text += f"\n## {group}\n\n" + _table(members, results)
    if results["c_program"]:
        text += _c_program(results)
    text += _conclusions(results)
    if results["absent"]:
        reasons = _listed(f"{name} ({why})" for name, why in results["absent"].items())
        text += f"\nAbsent: {reasons}.\n"
    return text
