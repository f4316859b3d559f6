"""The results of `compare` as Markdown and as a plot."""


def best_peer(case, peers):
    """Return the name of the fastest peer of a case; None if no peer has such a layer."""
    return min((p for p in peers if p in case["seconds"]), key=case["seconds"].get, default=None)


def ratio(case, engine, peers):
    """Best peer's time / the engine's: above 1, ours is faster. None if one of them is missing."""
    best = best_peer(case, peers)
    if best is None or engine not in case["seconds"]:
        return None
    return case["seconds"][best] / case["seconds"][engine]


def _time(seconds):
    """Three digits: 9.52 us, 312 us, 16.5 ms."""
    value, unit = (seconds * 1e6, "us") if seconds < 1e-3 else (seconds * 1e3, "ms")
    return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"


def _line(cells):
    return "| " + " | ".join(cells) + " |\n"


def _groups(results):
    """The cases group by group, groups in the order in which they first appear."""
    order = list(dict.fromkeys(case["group"] for case in results["cases"]))
    for group in order:
        yield group, [case for case in results["cases"] if case["group"] == group]


def _table(cases, results):
    engines, peers, peak = results["engines"], results["peers"], results["limits"]["peak"]
    columns = [n for n in (*engines, *peers) if any(n in case["seconds"] for case in cases)]
    ratios = [f"ratio {engine}" for engine in engines]
    heads = ["T,B,I,H", *columns, *ratios, "bar", "GFLOP/s", "of peak", "best peer's"]
    text = _line(heads) + _line(["---"] + ["---:"] * (len(heads) - 1))
    for case in cases:
        best = best_peer(case, peers)
        cells = [case["name"]]
        for name in columns:
            cell = _time(case["seconds"][name]) if name in case["seconds"] else "-"
            cells.append(f"**{cell}**" if name == best else cell)
        for engine in engines:
            times = ratio(case, engine, peers)
            cells.append("-" if times is None else f"{times:.2f}" + (" slower" * (times < 1)))
        cells.append("" if case["bar"] is None else f"{case['bar']:g} {_verdict(case, results)}")
        rates = {n: case["operations"] / taken / 1e9 for n, taken in case["seconds"].items()}
        cells.append(f"{rates[engines[0]]:.0f}")
        cells += [f"{rates[n] / peak[case['dtype']]:.0%}" if n else "-" for n in (engines[0], best)]
        text += _line(cells)
    return text


def _verdict(case, results):
    times = ratio(case, results["engines"][0], results["peers"])
    return "" if times is None else "met" if times >= case["bar"] else "missed"


def _errors(cases):
    worst = {}
    for case in cases:
        worst[case["dtype"]] = max(worst.get(case["dtype"], 0), *case["errors"].values())
    return " and ".join(f"{error:.0e} ({dtype})" for dtype, error in worst.items())


def _listed(names):
    return "; ".join(names) or "none"


def markdown(results):
    """What was measured where, each group of cases as a table, wins and losses in words."""
    machine, limits, cases = results["machine"], results["limits"], results["cases"]
    first, peers = results["engines"][0], results["peers"]
    reads = ", ".join(f"{rate:.0f} {name}" for name, rate in limits["read_by_level"].items())
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    truth = "the NumPy engine" if "torch" in results["absent"] else "torch"
    text = (
        f"# fastlstm and its peers, {results['threads']} thread\n\n"
        f"{machine['cpu']} ({machine['architecture']}, {machine['vector_bits']}-bit vectors), "
        f"{machine['system']}, Python {machine['python']}, {versions}. "
        f"Commit {results['commit']}, {results['date']}.\n\n"
        f"Limits of one core, measured in the same run: "
        f"{limits['peak']['float32']:.0f} GFLOP/s float32, "
        f"{limits['peak']['float64']:.0f} float64; reads in GB/s: {reads}.\n\n"
        f"Medians of {results['blocks']} blocks of {results['seconds_per_block'] * 1e3:.0f} ms, "
        "in turn. Ratio: the best peer's time (bold) / ours; above 1, ours is faster. "
        f"Bar and GFLOP/s (useful operations) are {first}'s; of peak: its share of the "
        "multiply-add peak, and the best peer's. All outputs were checked first: at most "
        f"{_errors(cases)} from {truth} in float64.\n"
    )
    for group, members in _groups(results):
        text += f"\n## {group}\n\n" + _table(members, results)
    ratios = {case["name"]: ratio(case, first, peers) for case in cases}
    slower = [f"{n} ({r:.2f})" for n, r in ratios.items() if r is not None and r < 1]
    missed = [
        f"{case['name']} ({ratios[case['name']]:.2f} of {case['bar']:g})"
        for case in cases
        if case["bar"] is not None and _verdict(case, results) == "missed"
    ]
    text += (
        f"\nSlower than the best peer ({first}): {_listed(slower)}.\n\n"
        f"Bars missed ({first}): {_listed(missed)}.\n\n"
        "First call, compilation included, and the same in a second process: "
        + _listed(
            f"{engine} {taken['cold']:.2f} s, {taken['cached']:.2f} s"
            for engine, taken in results["first_call"].items()
        )
        + ".\n"
    )
    if results["absent"]:
        text += (
            "\nAbsent: " + _listed(f"{n} ({why})" for n, why in results["absent"].items()) + ".\n"
        )
    return text


def plot(results, path):
    """Ratio bars of every engine and case, group by group; black marks are the bars to reach."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    engines, peers = results["engines"], results["peers"]
    thickness = 0.8 / len(engines)
    rows = len(results["cases"]) + 1.3 * len(list(_groups(results)))
    figure, axes = plt.subplots(
        figsize=(9, 1.5 + (0.1 + 0.12 * len(engines)) * rows), layout="constrained"
    )
    labels, y = {}, 0
    for group, cases in _groups(results):
        axes.text(0.01, y, group, transform=axes.get_yaxis_transform(), weight="bold", va="center")
        for case in cases:
            y += 1
            labels[y] = case["name"]
            for n, engine in enumerate(engines):
                times = ratio(case, engine, peers)
                if times is None:
                    continue
                place, reach = y + (n - (len(engines) - 1) / 2) * thickness, times
                axes.barh(place, times - 1, 0.9 * thickness, left=1, color=f"C{n}")
                if n == 0 and case["bar"] is not None:
                    reach = max(times, case["bar"])
                    axes.plot(
                        [case["bar"]] * 2, [place - thickness / 2, place + thickness / 2],
                        color="black", lw=2.5,
                    )  # fmt: skip
                side = 1 if reach >= 1 else -1
                axes.annotate(
                    f"{times:.2f}", (reach, place), (5 * side, 0), textcoords="offset points",
                    size=7, va="center", ha="left" if side > 0 else "right",
                )  # fmt: skip
        y += 1.3
    axes.axvline(1, color="black", lw=0.8)
    axes.set(xscale="log", ylim=(y - 0.5, -0.8), yticks=list(labels))
    axes.set_yticklabels(labels.values(), size=8)
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_xlabel("best peer's time / ours (right of 1: ours is faster)")
    machine = results["machine"]
    axes.set_title(
        f"{', '.join(engines)} against the best of {', '.join(peers)}\n{machine['cpu']} "
        f"({machine['architecture']}), {results['threads']} thread, {results['date'][:10]}",
        size=9,
    )
    handles = [plt.Rectangle((0, 0), 1, 1, color=f"C{n}") for n in range(len(engines))]
    marks = [plt.Line2D([], [], color="black", lw=2)]
    figure.legend(
        handles + marks, [*engines, f"bar for {engines[0]}"], loc="outside lower center",
        ncols=len(engines) + 1, frameon=False,
    )  # fmt: skip
    figure.savefig(path, dpi=120)
    plt.close(figure)
