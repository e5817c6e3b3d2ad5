"""How the time and the memory of a training step grow with the sequence's length.

Question:  how do a training step's time and memory grow with the length T, for attention, recurrence and scans?
Expect:    attention compares every position with every other: its time goes towards T² where T is far above the width,
           its memory too unless the maps are never held, as in the fused form. A recurrence takes T steps one after the
           other: T. A scan has as much work, but a depth of log T only: T where that keeps the device busy, less where
           it does not.
Data:      the runs' duration and steps at two numbers of steps, which gives seconds a step, since what a run takes
           beside its steps is the same for both; the setting task.length. Memory is the record of benchmarks/growth.py
           in benchmarks/results, counted there from the allocator's own events: of a run's own device/memory_peak
           nobody can tell which run of a process it is of, and on a CPU there is none.

    python analysis/cost.py outputs/cost
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from retrograde.figures import question, theme
from retrograde.figures.comparison import NUMBERS, STUDY, Comparison, NothingToDraw, Tables, listed
from retrograde.figures.provenance import number, seeds_each
from retrograde.figures.statistics import interval, interval_in_words
from retrograde.record.folder import FINISHED

OF = STUDY

LENGTH = "config.task.length"

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
RECORDS = "growth-cpu.json", "architectures-cpu.json"
"""What benchmarks/growth.py has left, the newer name first."""

ATTENTION, RECURRENCE, SCAN, OTHER = "attention", "recurrence", "scan", "other"
FAMILIES = {"attention": ATTENTION, "kernel": RECURRENCE, "loop": RECURRENCE, "parallel": SCAN}
"""Of the benchmark's record, in the words of the question."""

LOCAL = ("transformer_local",)
"""Attention over a window of fixed size, whose cost is not T²."""

QUADRATIC, LINEAR = 2.0, 1.0
MISSED = 0.1
"""By which the interval of an exponent may miss theory's: what benchmarks/growth.py allows."""

LAST = 4
"""Lengths over which exponents are taken, the longest ones, as in benchmarks/growth.py."""


def load(comparison: Comparison) -> Tables:
    """``times`` seconds a step by model, length, seed; ``memory`` bytes by model and length; ``numbers`` exponents."""
    columns = dict.fromkeys([*comparison.runs.columns, LENGTH, "duration", "steps"])
    runs = comparison.runs.reindex(columns=list(columns))
    runs = runs[(runs["status"] == FINISHED) & runs[[LENGTH, "duration", "steps"]].notna().all(axis=1)]
    if runs["task"].nunique() > 1:
        raise NothingToDraw(f"the tasks differ in cost too: {listed(sorted(set(runs['task'].astype(str))))}")
    if runs[LENGTH].nunique() < 2:
        raise NothingToDraw("the length is not varied: task.length=128,512,2048 does")
    times = _times(runs.assign(architecture=[without_steps(str(model)) for model in runs["model"]]))
    if times.empty or times["length"].nunique() < 2:
        raise NothingToDraw("no run differs from another in its steps alone, which gives seconds a step: steps=4,24")
    memory, source, kinds = _record()
    families = times["architecture"].map(theme.family)
    memory = memory[memory["architecture"].isin(families)].reset_index(drop=True)
    times["kind"] = families.map(kinds).fillna(OTHER)
    return {"times": times, "memory": memory, "source": source, NUMBERS: _numbers(times, memory)}


def without_steps(model: str) -> str:
    """A model's name without the number of steps that tells its runs apart.

    >>> without_steps("lstm (steps=4)"), without_steps("lstm (steps=4, hidden=8)")
    ('lstm', 'lstm (hidden=8)')
    """
    return re.sub(r"\bsteps=\d+(, )?", "", model).replace(", )", ")").replace(" ()", "")


def _times(runs: pd.DataFrame) -> pd.DataFrame:
    """Seconds a step: the slope of a run's duration over its steps, by least squares where there are more than two."""
    rows = []
    for (architecture, length, seed), chosen in runs.groupby(["architecture", LENGTH, "seed"], observed=True):
        steps, seconds = chosen["steps"].to_numpy(dtype=float), chosen["duration"].to_numpy(dtype=float)
        if len(set(steps)) < 2:
            continue
        slope = float(np.polynomial.polynomial.polyfit(steps, seconds, 1)[1])
        for run in chosen["run"]:
            rows.append((chosen["model"].iloc[0], architecture, length, seed, slope if slope > 0 else np.nan, run))
    table = pd.DataFrame(rows, columns=["model", "architecture", "length", "seed", "seconds", "run"])
    return table.astype({"model": runs["model"].dtype, "length": int})


def _record() -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Bytes by architecture and length as the benchmark counted them, where and when, and what kind each is of."""
    file = next((RESULTS / name for name in RECORDS if (RESULTS / name).is_file()), None)
    if file is None:
        raise NothingToDraw(f"{RESULTS.name} holds no record of benchmarks/growth.py, such as {RECORDS[0]}")
    record: dict[str, Any] = json.loads(file.read_text())
    rows, kinds = [], {}
    for growth in record["growth"]:
        name = str(growth["name"])
        kinds[name] = OTHER if name in LOCAL else FAMILIES.get(growth["family"], OTHER)
        rows += [(name, point["length"], point["memory"]) for point in growth["points"] if point["memory"] is not None]
    memory = pd.DataFrame(rows, columns=["architecture", "length", "bytes"])
    machine: Mapping[str, Any] = record["machine"]
    settings: Mapping[str, Any] = record["settings"]
    source = {"file": file.name, "device": machine["device"], "commit": machine["commit"], "date": machine["date"]}
    return memory, pd.DataFrame([source | {"batch": settings["batch"], "width": settings["width"]}]), kinds


def exponent(lengths: np.ndarray, values: np.ndarray) -> float:
    """The power of T with which the values grow over the longest ``LAST`` lengths, by least squares in logarithms."""
    order = np.argsort(lengths)[-LAST:]
    x, y = np.log(lengths[order].astype(float)), np.log(values[order].astype(float))
    return float(np.polynomial.polynomial.polyfit(x, y, 1)[1]) if len(order) > 1 else np.nan


def _numbers(times: pd.DataFrame, memory: pd.DataFrame) -> pd.DataFrame:
    """One row an architecture and seed."""
    rows = []
    for (architecture, seed), chosen in times.groupby(["architecture", "seed"], sort=False):
        of_length = chosen.drop_duplicates("length").sort_values("length")
        counted = memory[memory["architecture"] == theme.family(str(architecture))]
        rows.append(
            {
                "architecture": architecture,
                "kind": chosen["kind"].iloc[0],
                "seed": seed,
                "shortest T": int(of_length["length"].iloc[-LAST:].iloc[0]),
                "longest T": int(of_length["length"].iloc[-1]),
                "seconds a step there": float(of_length["seconds"].iloc[-1]),
                "exponent of time": exponent(of_length["length"].to_numpy(), of_length["seconds"].to_numpy()),
                "exponent of memory": exponent(counted["length"].to_numpy(), counted["bytes"].to_numpy()),
            }
        )
    return pd.DataFrame(rows).sort_values(["kind", "architecture", "seed"], ignore_index=True)


def finding(tables: Tables) -> str:
    """The powers of T with which time and memory grow, by architecture, and what of theory they show."""
    numbers = tables[NUMBERS]
    said = []
    for kind in (ATTENTION, RECURRENCE, SCAN, OTHER):
        for architecture, chosen in numbers[numbers["kind"] == kind].groupby("architecture", sort=False):
            found = interval(chosen["exponent of time"].to_numpy())
            low, high = float(found.low), float(found.high)
            said.append(f"{architecture} ({kind}) {_power(low, high)}{_verdict(kind, low, high, len(chosen))}")
    short, long = numbers["shortest T"].min(), numbers["longest T"].max()
    steps = f"A step's time from T = {number(short)} to {number(long)}"
    return f"{steps}: {'; '.join(said)}. {_memory(numbers)}"


def _power(low: float, high: float) -> str:
    if np.isnan(low) or np.isnan(high):
        return "not measured, noise outweighs the steps"
    ends = [f"{end:.2f}" for end in (low, high)]
    return f"T^{ends[0]}" if ends[0] == ends[1] else f"T^{ends[0]} to {ends[1]}"


def _verdict(kind: str, low: float, high: float, seeds: int) -> str:
    """What theory says of that kind, and whether the interval of the exponent of time agrees."""
    if np.isnan(low) or np.isnan(high) or kind == OTHER:
        return ""
    if seeds < 2:
        return ", one seed, which shows nothing"
    if kind == ATTENTION:
        if low - MISSED <= QUADRATIC <= high + MISSED:
            return ", T² as expected"
        between = low > LINEAR + MISSED and high < QUADRATIC
        return ", on the way to T²" if between else ", not the T² expected"
    if low - MISSED <= LINEAR <= high + MISSED:
        return ", T as expected" if kind == RECURRENCE else ", as its work T and not as its depth log T"
    return ", less than its work" if kind == SCAN and high < LINEAR else ", not the T expected"


def _memory(numbers: pd.DataFrame) -> str:
    """The powers of T with which memory grows, of attention apart from the others'."""
    counted = numbers.dropna(subset="exponent of memory")
    if counted.empty:
        return "Of memory the benchmark has none of these"
    parts = []
    for words, chosen in (
        ("attention", counted[counted["kind"] == ATTENTION]),
        ("the others", counted[counted["kind"] != ATTENTION]),
    ):
        if len(chosen):
            powers = chosen["exponent of memory"]
            parts.append(f"{_power(powers.min(), powers.max())} in {words}")
    held = counted.loc[counted["kind"] == ATTENTION, "exponent of memory"]
    why = ", whose maps are never held" if len(held) and held.max() <= LINEAR + MISSED else ""
    return f"Memory, counted by the benchmark: {f'{why} and '.join(parts) if len(parts) > 1 else parts[0] + why}"


@theme.applied()
def draw(tables: Tables) -> Figure:
    """Time over T of every seed, from the runs; memory over T, from the benchmark; dashed, what T and T² are."""
    times, memory = tables["times"], tables["memory"]
    looks: dict[str, theme.Look] = {}
    for model, look in theme.looks(times["model"]).items():
        if (times["architecture"] == without_steps(model)).any():
            looks.setdefault(without_steps(model), look)
    figure = Figure(figsize=(theme.WIDTH, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for architecture, look in looks.items():
        chosen = times[times["architecture"] == architecture].drop_duplicates(["length", "seed"])
        wide = chosen.pivot(index="length", columns="seed", values="seconds")
        for seed in wide:
            left.plot(wide.index, wide[seed], look.marker, color=look.colour, ms=3, alpha=0.5, mew=0)
        over = interval(wide.to_numpy().T)
        left.plot(wide.index, over.median, color=look.colour, lw=1.6)
        left.fill_between(wide.index, over.low, over.high, color=look.colour, alpha=0.15, lw=0)
        counted = memory[memory["architecture"] == theme.family(architecture)].sort_values("length")
        if len(counted):
            right.plot(
                counted["length"], counted["bytes"] / 2**20, look.marker, color=look.colour, ms=3.5, ls="-", lw=1.6
            )
    left.set_title("time of a step, from the runs", fontweight="bold")
    left.set_ylabel("seconds a step")
    right.set_title("memory of a step, from the benchmark", fontweight="bold")
    right.set_ylabel("MiB beyond parameters")
    _finish(left, times["length"], times["seconds"])
    _finish(right, memory["length"], memory["bytes"] / 2**20)
    kinds = dict(zip(times["architecture"], times["kind"], strict=True))
    handles = [
        Line2D(
            [], [], color=look.colour, marker=look.marker, ms=4, lw=1.6, label=f"{architecture}: {kinds[architecture]}"
        )
        for architecture, look in looks.items()
    ]
    handles.append(Line2D([], [], color=theme.INK, lw=0.7, dashes=(4, 3), label="in proportion to T"))
    handles.append(Line2D([], [], color=theme.INK, lw=0.7, dashes=(1, 1.5), label="to T²"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    theme.headline(figure, finding(tables))
    return figure


def _finish(axes: Axes, lengths: pd.Series, values: pd.Series) -> None:
    """Logarithmic axes, and the two powers from just below the smallest value."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("T (positions)")
    known = values.dropna()
    if known.empty:
        return
    ticks = sorted(set(map(int, lengths)))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    span = np.array([ticks[0], ticks[-1]], dtype=float)
    low, high = float(known.min()), float(known.max())
    for power, dashes in ((LINEAR, (4, 3)), (QUADRATIC, (1, 1.5))):
        axes.plot(span, 0.75 * low * (span / span[0]) ** power, color=theme.INK, lw=0.7, dashes=dashes, zorder=1)
    axes.set_ylim(low / 1.9, high * 2.5)


def caption(tables: Tables) -> str:
    """What a step's time is taken from, what memory is and where it was counted, and what neither says."""
    times, source = tables["times"], tables["source"].iloc[0]
    sizes = sorted({int(size) for size in times.groupby(["architecture", "length"])["seed"].nunique()})
    each = seeds_each(sizes)
    bands = listed(sorted({interval_in_words(size) for size in sizes if size > 1})) or "absent with one seed"
    lost = int(times.drop_duplicates(["architecture", "length", "seed"])["seconds"].isna().sum())
    lost_ones = "1 difference was" if lost == 1 else f"{lost} differences were"
    gone = f" {lost_ones} not above 0 and left out, with the exponents of those seeds." if lost else ""
    without = sorted(set(times["architecture"].map(theme.family)) - set(tables["memory"]["architecture"]))
    missing = f" Of {listed(without)} the benchmark has no memory." if without else ""
    return (
        "Left: seconds of an optimiser step, the difference of the durations of runs that differ in their number of "
        f"steps alone, by that number; {each} for each model and length, every one a mark; lines are medians, the "
        f"bands {bands}. The first run of a process takes longer beside its steps than the others, and no run says "
        f"which device it was on nor what else that did.{gone} Right: the most that a step holds beyond what was there "
        f"before, counted by benchmarks/growth.py ({source['file']}) with batches of {source['batch']} at width "
        f"{source['width']} on {source['device']}, {source['date']}, commit {source['commit']}: batch and width need "
        f"not be those of the runs.{missing} Exponents are of straight lines through the logarithms at the last {LAST} "
        "lengths, intervals of time's as the bands. Scans here walk √T chunks of √T positions side by side, a depth of "
        "√T and not of log T; on a CPU they may walk all in turn."
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
