"""All ratios of a machine on one page, with what they were before.

    python benchmarks/board.py RESULT.json … [--to benchmarks/results]

Every benchmark keeps its ratios, with interval and goal, in a file of its own; ``make bench`` runs all of them and
hands the files to this. For each machine among them

    <to>/<machine>.json    every ratio by commit, the newest last; what was measured again at a commit counts
    <to>/<machine>.md      the page: what is worse than before, all ratios with goal and verdict, the figures
    <to>/<machine>-ratios.svg    each ratio with its interval and its goal
    <to>/<machine>-history.svg   each that was measured at several commits, over these

A ratio that is more than 15 % above the last one of the same name on the same machine is said, and so is one that
missed its goal. The exit code is 0 all the same: a machine that has something else to do may do that to any of them.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from measuring import Ratio, keep
from retrograde.figures import theme
from retrograde.figures.provenance import number

WORSE = 1.15
"""Times the last ratio from which on a ratio is said to be worse."""

RESULTS = Path(__file__).parent / "results"

Entry = dict[str, Any]
"""What was measured at one commit: ``commit``, ``date``, ``packages`` and ``rows``, by benchmark and name."""


def slug(device: str) -> str:
    """A machine as a file's name.

    >>> slug("AMD EPYC, 2 cores")
    'amd-epyc-2-cores'
    """
    return re.sub(r"[^a-z0-9]+", "-", device.casefold()).strip("-")


def key(benchmark: str, row: Mapping[str, Any]) -> str:
    return f"{benchmark}: {row['name']} / {row['against']}" if row["against"] else f"{benchmark}: {row['name']}"


def with_result(history: list[Entry], result: Mapping[str, Any]) -> list[Entry]:
    """The history with one benchmark's result, which joins what was measured last where the commit is the same."""
    where = result["machine"]
    if not history or history[-1]["commit"] != where["commit"]:
        history = [*history, {"commit": where["commit"], "date": where["date"], "packages": {}, "rows": {}}]
    last = history[-1]
    rows = {
        key(result["benchmark"], row): {name: row[name] for name in ("median", "lower", "upper", "goal")}
        for row in result["ratios"]
    }
    joined = {**last, "packages": last["packages"] | where["packages"], "rows": last["rows"] | rows}
    return [*history[:-1], joined]


def before(history: Sequence[Entry], name: str) -> tuple[Entry, Mapping[str, float]] | None:
    """The last entry but the newest that has the ratio, and the ratio in it."""
    for entry in reversed(history[:-1]):
        if name in entry["rows"]:
            return entry, entry["rows"][name]
    return None


def worse(history: Sequence[Entry]) -> list[str]:
    """What has become worse since it was measured last, in words."""
    said = []
    for name, row in history[-1]["rows"].items():
        earlier = before(history, name)
        if earlier is not None and row["median"] > WORSE * earlier[1]["median"] > 0:
            entry, then = earlier
            times = row["median"] / then["median"]
            said.append(
                f"{name}: {number(row['median'])}, {times - 1:.0%} more than the {number(then['median'])} of "
                f"{entry['commit']}, {entry['date']}"
            )
    return said


def missed(entry: Entry) -> list[str]:
    """What is beyond its goal with all of its interval, in words."""
    return [
        f"{name}: {number(row['median'])}, where {number(row['goal'])} is meant"
        for name, row in entry["rows"].items()
        if verdict(row) == "missed"
    ]


def verdict(row: Mapping[str, Any]) -> str:
    return Ratio("", "", **row).verdict


def page(machine: str, history: Sequence[Entry], figures: Sequence[str]) -> str:
    """As Markdown."""
    newest = history[-1]
    packages = ", ".join(f"{name} {version}" for name, version in sorted(newest["packages"].items()))
    parts = [
        f"# Ratios on {machine}",
        f"At commit {newest['commit']}, {newest['date']}; {packages}. A ratio is a median over pairs within one run, "
        "with its 95 % interval; less is better. `make bench` measures all of them.",
    ]
    for title, said in (("Worse than before", worse(history)), ("Goals missed", missed(newest))):
        parts.append(f"**{title}:** " + ("none." if not said else "\n\n" + "\n".join(f"- {one}" for one in said)))
    lines = ["| | ratio | interval | goal | | before |", "|---|---|---|---|---|---|"]
    for name, row in newest["rows"].items():
        earlier = before(history, name)
        then = "" if earlier is None else f"{number(earlier[1]['median'])} ({earlier[0]['commit']})"
        goal = "" if row["goal"] is None else f"≤ {number(row['goal'])}"
        interval = f"{number(row['lower'])} to {number(row['upper'])}"
        lines.append(f"| {name} | {number(row['median'])} | {interval} | {goal} | {verdict(row)} | {then} |")
    parts.append("\n".join(lines))
    parts += [f"![{figure}]({figure})" for figure in figures]
    return "\n\n".join(parts) + "\n"


@theme.applied()
def ratios_figure(machine: str, entry: Entry) -> Figure:
    """A row a ratio: its interval, its median, and the goal as a stroke; filled where the goal is met."""
    rows = {name: row for name, row in entry["rows"].items() if row["median"] > 0}
    figure = Figure(figsize=(theme.WIDTH, 1.4 + 0.2 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    for place, row in enumerate(rows.values()):
        colour = theme.FAMILIES[1] if verdict(row) == "missed" else theme.FAMILIES[0]
        axes.plot([max(row["lower"], 1e-3), row["upper"]], [place] * 2, color=colour, linewidth=1.2)
        axes.plot(
            [row["median"]],
            [place],
            "o",
            color=colour,
            markersize=4,
            mfc=theme.PAPER if row["goal"] is None else colour,
        )
        if row["goal"] is not None:
            axes.plot([row["goal"]], [place], "|", color=theme.INK, markersize=8, markeredgewidth=1.2)
    axes.axvline(1, color=theme.QUIET, linewidth=0.7, dashes=(4, 3))
    axes.set_yticks(range(len(rows)), [theme.wrapped(name, 90) for name in rows], fontsize=6)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.tick_params("x", rotation=90, labelsize=6)
    axes.set_xlabel("ratio, or what the row says; a stroke is the goal")
    theme.headline(figure, f"{machine}, {entry['commit']}")
    return figure


@theme.applied()
def history_figure(history: Sequence[Entry]) -> Figure | None:
    """A panel a ratio that was measured at several commits; None where there is none."""
    names = [name for name in history[-1]["rows"] if sum(name in entry["rows"] for entry in history) > 1]
    if not names:
        return None
    columns = min(3, len(names))
    count = -(-len(names) // columns)
    figure = Figure(figsize=(theme.WIDTH, 0.8 + 1.3 * count), layout="constrained")
    grid = figure.subplots(count, columns, squeeze=False)
    commits = [entry["commit"][:7] for entry in history]
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for name, axes in zip(names, grid.flat, strict=False):
        at = [place for place, entry in enumerate(history) if name in entry["rows"]]
        rows = [history[place]["rows"][name] for place in at]
        axes.fill_between(
            at,
            [row["lower"] for row in rows],
            [row["upper"] for row in rows],
            color=theme.FAMILIES[0],
            alpha=0.15,
            lw=0,
        )
        axes.plot(at, [row["median"] for row in rows], "o-", color=theme.FAMILIES[0], markersize=3, linewidth=1)
        if rows[-1]["goal"] is not None:
            axes.axhline(rows[-1]["goal"], color=theme.QUIET, linewidth=0.7, dashes=(4, 3))
        axes.set_title(theme.wrapped(name, 42), fontsize=6)
        axes.set_ylim(0, 1.15 * max([row["upper"] for row in rows] + [row["goal"] or 0 for row in rows]))
        axes.set_xticks(np.arange(len(commits)), commits, fontsize=5, rotation=90)
    theme.headline(figure, "By commit; dashed is the goal")
    return figure


def write(figure: Figure, path: Path) -> None:
    with theme.applied():
        FigureCanvasSVG(figure).print_svg(str(path), metadata={"Date": None, "Creator": None})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("results", nargs="+", type=Path, help="that benchmarks have kept")
    parser.add_argument("--to", type=Path, default=RESULTS, help="the folder of the machines' files")
    given = parser.parse_args(arguments)
    machines: dict[str, list[Entry]] = {}
    for path in given.results:
        result = json.loads(path.read_text(encoding="utf-8"))
        if "ratios" not in result:
            print(f"{path} keeps no ratios: measure it again", file=sys.stderr)
            return 1
        device = result["machine"]["device"]
        file = given.to / f"{slug(device)}.json"
        if device not in machines:
            machines[device] = json.loads(file.read_text(encoding="utf-8"))["history"] if file.exists() else []
        machines[device] = with_result(machines[device], result)
    for device, history in machines.items():
        stem = slug(device)
        keep({"machine": device, "history": history}, given.to / f"{stem}.json")
        drawn = {
            f"{stem}-ratios.svg": ratios_figure(device, history[-1]),
            f"{stem}-history.svg": history_figure(history),
        }
        for name, figure in drawn.items():
            if figure is not None:
                write(figure, given.to / name)
        figures = [name for name, figure in drawn.items() if figure is not None]
        (given.to / f"{stem}.md").write_text(page(device, history, figures), encoding="utf-8")
        for kind, said in (("worse", worse(history)), ("goal missed", missed(history[-1]))):
            for one in said:
                print(f"{kind}: {one}")
        print(given.to / f"{stem}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
