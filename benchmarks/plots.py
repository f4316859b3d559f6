"""The results as plots: bars of ratios, and the roofline of the machine."""

from __future__ import annotations

import collections
import pathlib
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from .report import Drawn, Results, best_peer, rate, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Points = list[tuple[float, float, str | None]]  # x, y, and the name of the point if it has one


def _machine(results: Results) -> str:
    machine = results["machine"]
    return f"{machine['cpu']} ({machine['architecture']}), {title(results)}, {results['date'][:10]}"


def _plain_ticks(axis: Axis) -> None:
    """Write 1, 2, 5, 10, ... on a logarithmic axis."""
    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(matplotlib.ticker.NullLocator())


def ratios(drawn: Drawn, results: Results, path: pathlib.Path, against: str, label: str) -> None:
    """Draw the ratios of every engine and case, group by group; black marks are bars to reach.

    `drawn` is {group: [(name, ratio of each engine or None, bar of the first engine or None)]}.
    `label` says what the ratios are, and `against` names the peer.
    """
    engines = results["engines"]
    thickness = 0.8 / len(engines)
    rows = sum(map(len, drawn.values())) + 1.3 * len(drawn)
    figure, axes = plt.subplots(
        figsize=(9, 1.5 + (0.1 + 0.12 * len(engines)) * rows), layout="constrained"
    )
    labels, y = {}, 0
    for group, members in drawn.items():
        axes.text(0.01, y, group, transform=axes.get_yaxis_transform(), weight="bold", va="center")
        for name, of_engines, bar in members:
            y += 1
            labels[y] = name
            for n, times in enumerate(of_engines):
                if times is not None:
                    place = y + (n - (len(engines) - 1) / 2) * thickness
                    _ratio(axes, place, thickness, times, None if n else bar, f"C{n}")
        y += 1.3
    axes.axvline(1, color="black", lw=0.8)
    axes.set(xscale="log", ylim=(y - 0.5, -0.8), yticks=list(labels))
    axes.set_yticklabels(labels.values(), size=8)
    axes.margins(x=0.12)
    _plain_ticks(axes.xaxis)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_xlabel(label)
    axes.set_title(f"{', '.join(engines)} against {against}\n{_machine(results)}", size=9)
    handles = [plt.Rectangle((0, 0), 1, 1, color=f"C{n}") for n in range(len(engines))]
    marks = [plt.Line2D([], [], color="black", lw=2)]
    figure.legend(
        handles + marks, [*engines, f"bar for {engines[0]}"], loc="outside lower center",
        ncols=len(engines) + 1, frameon=False,
    )  # fmt: skip
    figure.savefig(path, dpi=120)
    plt.close(figure)


def scaling(runs: dict[int, Results], path: pathlib.Path) -> None:
    """Draw the times of the first engine and of the best peer over the number of threads.

    Each case that several runs have has a plot of its own.
    """
    counted = collections.Counter(case["name"] for run in runs.values() for case in run["cases"])
    names = [name for name, number in counted.items() if number > 1]
    if not names:
        return
    columns = 5
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.2 * rows + 0.8), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    last = runs[max(runs)]
    first = last["engines"][0]
    for axes, name in zip(grid.flat, names, strict=False):
        for best, style in ((False, "o-"), (True, "s--")):
            numbers, times = [], []
            for number, run in runs.items():
                for case in (case for case in run["cases"] if case["name"] == name):
                    contestant = best_peer(case, run["peers"]) if best else first
                    if contestant:
                        numbers.append(number)
                        times.append(case["seconds"][contestant] * 1e6)
            axes.plot(numbers, times, style, ms=4, lw=1.2)
        axes.set(xscale="log", yscale="log")
        axes.set_title(name, size=9)
        axes.set_xticks(list(runs), [str(number) for number in runs], size=8)
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        _plain_ticks(axes.yaxis)
        axes.tick_params(axis="y", labelsize=7)
        axes.grid(alpha=0.3)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_axis_off()
    handles = [
        plt.Line2D([], [], color=f"C{n}", marker=marker, ls=line)
        for n, (marker, line) in enumerate((("o", "-"), ("s", "--")))
    ]
    figure.legend(handles, [first, "best peer"], loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(
        f"Microseconds by the number of threads, {last['machine']['cpu']} "
        f"({last['machine']['cores']} cores), {last['date'][:10]}", size=10,
    )  # fmt: skip
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _ratio(
    axes: Axes, place: float, thickness: float, times: float, bar: float | None, color: str
) -> None:
    """Draw one ratio from 1, its figure, and a mark that it has to reach."""
    axes.barh(place, times - 1, 0.9 * thickness, left=1, color=color)
    reach = times
    if bar is not None:
        reach = max(times, bar) if times >= 1 else times
        ends = place - 0.4 * thickness, place + 0.4 * thickness
        axes.plot([bar] * 2, ends, color="black", lw=2.5)
    side = 1 if reach >= 1 else -1
    axes.annotate(
        f"{times:.2f}", (reach, place), (5 * side, 0), textcoords="offset points",
        size=7, va="center", ha="left" if side > 0 else "right",
    )  # fmt: skip


def roofline(results: Results, path: pathlib.Path) -> None:
    """Draw GFLOP/s over FLOP per byte of weights, of the first engine and the best peer.

    A case has the colour of the cache that holds its weights, which is that of the roof above it
    (Williams, Waterman & Patterson 2009).
    """
    first, cases = results["engines"][0], results["cases"]
    colors = {name: f"C{n}" for n, name in enumerate(results["limits"]["read_by_level"])}
    figure, axes = plt.subplots(figsize=(11, 8), layout="constrained")
    axes.set(xscale="log", yscale="log")
    points: Points = []
    for case in cases:
        x, color = case["operations"] / case["bytes"], colors[case["level"]]
        names = filter(None, (first, best_peer(case, results["peers"])))
        rates = [rate(case, name) for name in names]
        axes.plot([x] * len(rates), rates, color=color, lw=1)
        for y, fill in zip(rates, (color, "white"), strict=False):
            axes.plot(x, y, "o", color=color, mfc=fill, zorder=3)
            points.append((x, y, case["name"] if fill == color else None))
    _roofs(axes, results, colors, points)
    axes.grid(alpha=0.3)
    axes.set_xlabel("useful FLOP per byte of weights read")
    axes.set_ylabel("useful GFLOP/s")
    axes.set_title(f"{first} and the best peer under the roofs of {_machine(results)}", size=10)
    handles = [
        plt.Line2D([], [], color="gray", marker="o", ls="", mfc=fill) for fill in ("gray", "white")
    ]
    axes.legend(handles, [first, "best peer"], loc="lower right", frameon=False)
    for axis in (axes.xaxis, axes.yaxis):
        _plain_ticks(axis)
    _name_points(figure, axes, points)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _roofs(axes: Axes, results: Results, colors: dict[str, str], points: Points) -> None:
    """Draw the bandwidth of each level up to the peak, and the peaks; set the axes' limits."""
    limits, threads = results["limits"], results["threads"]
    dtypes = dict.fromkeys(case["dtype"] for case in results["cases"])
    peaks = {dtype: limits["peak"][dtype] * threads for dtype in dtypes}
    x, y, _ = zip(*points, strict=True)
    left, right = min(x) / 4, max(x) * 4
    axes.set_xlim(left, right)
    axes.set_ylim(min(y) / 1.6, max(peaks.values()) * 1.5)
    fastest = max(limits["read_by_level"].values()) * threads
    for dtype, peak in peaks.items():
        axes.plot([peak / fastest, right], [peak, peak], color="black", lw=1)
        axes.annotate(
            f"{dtype}:\n{peak:.0f} GFLOP/s", (right, peak), (4, 0), textcoords="offset points",
            size=8, va="center",
        )  # fmt: skip
    top = max(peaks.values())
    for name, bandwidth in limits["read_by_level"].items():
        bandwidth *= threads
        axes.plot([left, top / bandwidth], [left * bandwidth, top], color=colors[name], lw=1)
        at = max(left, axes.get_ylim()[0] / bandwidth) * 1.08
        axes.text(
            at, at * bandwidth * 1.06, f"{name}: {bandwidth:.0f} GB/s", color=colors[name], size=8,
            rotation=np.degrees(np.arctan(bandwidth)), rotation_mode="anchor",
            transform_rotates_text=True,
        )  # fmt: skip


def _name_points(figure: Figure, axes: Axes, points: Points) -> None:
    """Write each name at the first place near its point that no point and no name has taken."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    pixels = axes.transData.transform([point[:2] for point in points])
    taken = [matplotlib.transforms.Bbox([p - 5, p + 5]) for p in pixels]
    rows = sorted(range(-12, 13), key=abs)
    for x, y, name in points:
        if name is None:
            continue
        for side, row in ((side, row) for row in rows for side in (1, -1)):
            text = axes.annotate(
                name, (x, y), (12 * side, 5 * row), textcoords="offset points", size=7,
                va="center", ha="left" if side > 0 else "right",
                bbox={"color": "white", "alpha": 0.85, "pad": 0},
                arrowprops={"arrowstyle": "-", "lw": 0.4, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
            text.update_positions(renderer)
            box = matplotlib.text.Text.get_window_extent(text, renderer)
            if not box.count_overlaps(taken):
                taken.append(box)
                break
            text.remove()
