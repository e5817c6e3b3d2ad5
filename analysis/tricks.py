"""Which of the classical remedies for vanishing gradients extends the longest length that is solved.

Question:  which of ReLU, identity initialisation, gates and clipping extends the longest length that is solved?
Expect:    rectified units (elman_relu) go further than tanh (elman), further still where they start as the identity
           (irnn), and gates (lstm, gru) go furthest; clipping helps where gradients explode, in networks without gates.
Data:      how each run ended, its test score; the settings task.length and trainer.clip.

    python analysis/tricks.py outputs/tricks
"""

import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retrograde.figures import question, theme
from retrograde.figures.comparison import COUNTED, NUMBERS, STUDY, Comparison, NothingToDraw, Tables, listed, outcomes
from retrograde.figures.provenance import number
from retrograde.figures.statistics import LEVEL, in_percent, solve_rate

OF = STUDY

LENGTH, CLIP, RATE = "config.task.length", "config.trainer.clip", "config.optimizer.lr"

PLAIN = "elman"

TRICKS = {
    "rectified units": (PLAIN, ("elman_relu",)),
    "identity weights": ("elman_relu", ("irnn",)),
    "gates": (PLAIN, ("lstm", "gru")),
}
"""What a trick is added to, and which models have it."""

MARKS = {"solved": "o", "unsolved": "o", "diverged": "x", "other": "+"}


def load(comparison: Comparison) -> Tables:
    """``cells`` one row a model, clipping and length: runs, solved, rate, low, high; ``numbers`` one row a run."""
    runs = comparison.runs
    runs = runs.assign(family=[theme.family(str(model)) for model in runs["model"]])
    order = list(dict.fromkeys([PLAIN, *(name for _, names in TRICKS.values() for name in names)]))
    runs = runs[runs["family"].isin(order)]
    if LENGTH not in runs or runs[LENGTH].nunique() < 2:
        raise NothingToDraw("the task's length is not varied: task.length=25,50,100 does")
    if not {PLAIN} < set(runs["family"]):
        raise NothingToDraw(f"{PLAIN} and a model with a trick are not both there, such as model=elman,irnn,lstm")
    if runs["task"].nunique() > 1:
        raise NothingToDraw(f"lengths of several tasks are no one axis: {listed(sorted(set(runs['task'])))}")
    runs = runs.reindex(columns=list(dict.fromkeys([*runs.columns, "score", "solved_step", CLIP, RATE])))
    ended = outcomes(runs)
    if not set(ended) & set(COUNTED):
        raise NothingToDraw("no run has come to its end yet")
    numbers = pd.DataFrame(
        {
            "model": runs["model"],
            "seed": runs["seed"],
            "network": runs["family"],
            "clipping": ["none" if pd.isna(clip) else f"{float(clip):g}" for clip in runs[CLIP]],
            "length": runs[LENGTH].astype(int),
            "learning rate": runs[RATE],
            "ended": ended,
            "test score": runs["score"],
            "solved at step": runs["solved_step"],
            "run": runs["run"],
        }
    )
    place = numbers["network"].map(order.index)
    keys = ["place", "clipping", "length", "seed", "run"]
    numbers = numbers.assign(place=place).sort_values(keys, ignore_index=True).drop(columns="place")
    return {"cells": _cells(numbers), NUMBERS: numbers}


def _cells(numbers: pd.DataFrame) -> pd.DataFrame:
    keys = ["network", "clipping", "length"]
    counted = numbers[numbers["ended"].isin(COUNTED)]
    cells = counted.assign(solved=counted["ended"] == "solved").groupby(keys, sort=False)["solved"]
    table = cells.agg(runs="size", solved="sum").reset_index()
    rates = solve_rate(table["solved"].to_numpy(), table["runs"].to_numpy())
    return table.assign(rate=rates.value, low=rates.low, high=rates.high)


def longest(cells: pd.DataFrame, network: str, clipping: str, share: float = 0.5) -> int:
    """The longest length up to which, at every length tried, more than that share of the runs solved; 0 for none."""
    found = 0
    chosen = cells[(cells["network"] == network) & (cells["clipping"] == clipping)].sort_values("length")
    for length, rate in zip(chosen["length"], chosen["rate"], strict=True):
        if rate <= share:
            break
        found = int(length)
    return found


def usual(cells: pd.DataFrame) -> str:
    """The clipping at which tricks are compared: the first that clips, or none."""
    clippings = list(dict.fromkeys(cells["clipping"]))
    return next((one for one in clippings if one != "none"), "none")


def finding(tables: Tables) -> str:
    """From where to where each trick moves what most seeds solve, and what of it the seeds are enough to tell."""
    cells = tables["cells"]
    clipping = usual(cells)
    here = cells[cells["clipping"] == clipping]
    reached = {network: longest(cells, network, clipping) for network in dict.fromkeys(here["network"])}
    of = listed([str(length) for length in sorted(cells["length"].unique())])
    moves = [move for trick in TRICKS for move in _moves(here, reached, trick)]
    told = {move.told for move in moves if move.told}
    words = "; ".join(_in_words([move for move in moves if move.trick == trick], len(told) > 1) for trick in TRICKS
                      if any(move.trick == trick for move in moves))  # fmt: skip
    throughout = f" (intervals {told.pop()})" if len(told) == 1 else ""
    words = f"Longest length, of {of}, that most seeds solve: {words}{throughout}"
    return words if cells["clipping"].nunique() == 1 else f"{words}. {_clipping(cells, list(reached), clipping)}"


def _clipped(clipping: str) -> str:
    return " without clipping" if clipping == "none" else f" gradients clipped at {clipping}"


@dataclass(frozen=True)
class Move:
    """How far a network goes without and with a trick, of lengths up to ``tried``.

    ``told`` is whether the intervals are apart that tell the two from one another.
    """

    trick: str
    member: str
    before: int
    after: int
    tried: int
    told: str

    @property
    def doubt(self) -> str:
        """Why it is not as expected, in words; empty where it is."""
        if self.after > self.before:
            return ""
        return "the longest tried" if self.after == self.before == self.tried else "against expectation"


def _moves(cells: pd.DataFrame, reached: dict[str, int], trick: str) -> list[Move]:
    """One for each network with the trick; none where there is nothing to compare with."""
    base, members = TRICKS[trick]
    if base not in reached:
        return []
    moves = []
    for member in filter(reached.__contains__, members):
        ours, theirs = (cells[cells["network"] == name] for name in (member, base))
        tried = int(ours["length"].max())
        told = _told(ours, theirs, reached[member] - reached[base])
        moves.append(Move(trick, member, reached[base], reached[member], tried, told))
    return moves


def _in_words(moves: list[Move], each: bool) -> str:
    """The moves of one trick; where ``each``, whether intervals are apart stands with it."""
    said = []
    for move in moves:
        notes = [move.member]
        notes += [f"intervals {move.told}"] if each and move.told else []
        notes += [move.doubt] if move.doubt else []
        said.append(f"{move.before or 'none'} → {move.after or 'none'} ({', '.join(notes)})")
    return f"{moves[0].trick} {listed(said)}"


def _told(ours: pd.DataFrame, theirs: pd.DataFrame, difference: int) -> str:
    """Whether the solve rates' intervals of two rows of cells are apart at the length where they differ most."""
    if not difference:
        return ""
    ours, theirs = ours.set_index("length"), theirs.set_index("length")
    common = ours.index.intersection(theirs.index)
    sign = int(np.sign(difference))
    at = ((ours.loc[common, "rate"] - theirs.loc[common, "rate"]) * sign).idxmax()
    here, there = (ours.loc[at], theirs.loc[at]) if sign > 0 else (theirs.loc[at], ours.loc[at])
    return "apart" if here["low"] > there["high"] else "overlap"


def _clipping(cells: pd.DataFrame, networks: list[str], clipping: str) -> str:
    """In which networks clipping lengthens what is solved, in which it shortens it, and whether that can be told."""
    kinds: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for network in networks:
        of_network = cells[cells["network"] == network]
        with_, without = (of_network[of_network["clipping"] == one] for one in (clipping, "none"))
        if len(without):
            change = longest(cells, network, clipping) - longest(cells, network, "none")
            told = _told(with_, without, change)
            kinds[int(np.sign(change))].append(f"{network} (intervals {told})" if told else network)
    words = {1: "extends it in", -1: "shortens it in"}
    said = [f"{verb} {listed(kinds[kind])}" for kind, verb in words.items() if kinds[kind]]
    return f"Clipping {', '.join(said) or 'changes it in none'}"


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A row a network and clipping, a column a length; in each cell every seed and the solve rate's interval."""
    cells, numbers = tables["cells"], tables[NUMBERS]
    rows = list(dict.fromkeys(zip(numbers["network"], numbers["clipping"], strict=True)))
    lengths = sorted(numbers["length"].unique())
    figure = Figure(figsize=(theme.WIDTH, 1.5 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    colours = {theme.family(model): look.colour for model, look in theme.looks(numbers["model"]).items()}
    for y, (network, clipping) in enumerate(rows):
        of_row = numbers[(numbers["network"] == network) & (numbers["clipping"] == clipping)]
        if y and network != rows[y - 1][0]:
            axes.axhline(y - 0.5, color=theme.RULE, lw=0.8, zorder=0)
        for x, length in enumerate(lengths):
            _draw_seeds(axes, of_row.loc[of_row["length"] == length, "ended"], (x, y), colours[network])
        of_row = cells[(cells["network"] == network) & (cells["clipping"] == clipping)]
        _draw_rates(axes, of_row, lengths, y)
        ends = [longest(cells, network, clipping, share) for share in (0.5, 1 - 1e-9)]
        for x, end in enumerate(ends, len(lengths)):
            axes.text(x - 0.15, y, str(end or "none"), ha="center", va="center", fontweight="bold")
    axes.set_yticks(range(len(rows)), [_row_name(rows, y) for y in range(len(rows))])
    columns = [*map(str, lengths), "most\nseeds solve", "all\nseeds solve"]
    places = [*range(len(lengths)), len(lengths) - 0.15, len(lengths) + 0.85]
    axes.set_xticks(places, columns)
    axes.xaxis.tick_top()
    axes.axvline(len(lengths) - 0.5, color=theme.RULE, lw=0.8)
    axes.annotate("length of the task", (0, 1), (0, 27), xycoords="axes fraction", textcoords="offset points")
    axes.annotate(
        "longest up to which", (len(lengths) / (len(lengths) + 1.85), 1), (0, 27), xycoords="axes fraction",
        textcoords="offset points",
    )  # fmt: skip
    axes.set_xlim(-0.5, len(lengths) + 1.35)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    _draw_legend(figure, set(numbers["ended"]))
    theme.headline(figure, finding(tables))
    return figure


def _row_name(rows: list[tuple[str, str]], y: int) -> str:
    """The network at the first of its rows, the clipping at each where it is varied."""
    network, clipping = rows[y]
    if len({one for _, one in rows}) == 1:
        return network
    words = "no clipping" if clipping == "none" else f"clipped at {clipping}"
    first = y == 0 or rows[y - 1][0] != network
    return f"{network}   {words}" if first else words


def _draw_seeds(axes: Axes, ended: pd.Series, place: tuple[int, int], colour: str) -> None:
    """A mark a run, side by side in the upper half of the cell: filled where it solved the task."""
    x, y = place
    step = min(0.12, 0.8 / max(len(ended), 1))
    for order, ending in enumerate(ended):
        kind = ending if ending in MARKS else "other"
        axes.plot(
            x + (order - (len(ended) - 1) / 2) * step, y - 0.16, MARKS[kind], color=colour, ms=5,
            mfc=colour if kind == "solved" else theme.PAPER, mew=1.1,
        )  # fmt: skip


def _draw_rates(axes: Axes, cells: pd.DataFrame, lengths: list[int], y: int) -> None:
    """In the lower half of each cell a scale from 0 to 100 %, the interval as a bar on it, the rate as a stroke."""
    for length, rate, low, high in cells[["length", "rate", "low", "high"]].itertuples(index=False):
        left = lengths.index(length) - 0.4
        axes.plot([left, left + 0.8], [y + 0.22] * 2, color=theme.RULE, lw=0.8, zorder=1)
        axes.plot([left + 0.8 * low, left + 0.8 * high], [y + 0.22] * 2, color=theme.QUIET, lw=3, zorder=2,
                  solid_capstyle="butt")  # fmt: skip
        axes.plot([left + 0.8 * rate] * 2, [y + 0.12, y + 0.32], color=theme.INK, lw=1.3, zorder=3)


def _draw_legend(figure: Figure, endings: set[str]) -> None:
    marks = {"solved": "a seed that solved it", "unsolved": "one that did not", "diverged": "one that diverged"}
    marks = {kind: words for kind, words in marks.items() if kind in endings}
    marks |= {"other": "one that did not end"} if endings - set(COUNTED) else {}
    handles = [
        Line2D([], [], ls="", marker=MARKS[kind], color=theme.QUIET, ms=5,
               mfc=theme.QUIET if kind == "solved" else theme.PAPER, label=words)
        for kind, words in marks.items()
    ]  # fmt: skip
    handles.append(Line2D([], [], color=theme.INK, ls="", marker="|", ms=7, mew=1.3, label="solve rate, 0 to 100 %"))
    handles.append(Line2D([], [], color=theme.QUIET, lw=3, label=f"its {LEVEL:.0%} interval"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, handlelength=1.5)


def caption(tables: Tables) -> str:
    """What is drawn, what counts as solved and up to which length, and what the interval is."""
    cells, numbers = tables["cells"], tables[NUMBERS]
    sizes = sorted({int(size) for size in cells["runs"]})
    each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    beside = int((~numbers["ended"].isin(COUNTED)).sum())
    kept = f" {beside} that did not end are drawn and not counted." if beside else ""
    clips = cells["clipping"].nunique() > 1
    rule = f"Tricks are compared{_clipped(usual(cells))}. " if clips else ""
    edges = [in_percent(solve_rate(solved, sizes[-1])) for solved in (0, sizes[-1])]
    return (
        "How runs ended, each a mark, by network and length. A run has solved its task when validation reached the "
        f"card's score. The bar is Wilson's {LEVEL:.0%} interval of the solve rate over {each} "
        f"run{'s' * (sizes[-1] != 1)} a cell: with none of {sizes[-1]} solved it is {edges[0]}, with all {edges[1]}. A "
        "network goes up to a length where more than half of its seeds (at the right: all) solve that length and "
        f"every shorter one that was tried. Intervals are apart or overlap at the length where the two rates differ "
        f"most.{kept} {rule}Diverged runs count as unsolved."
        f"{_at_rates(numbers['learning rate'])}"
    )


def _at_rates(rates: pd.Series) -> str:
    """What the comparison holds for: the steps that a network can bear differ."""
    found = [number(rate) for rate in sorted(rates.dropna().astype(float).unique())]
    return f" All of it is at the learning rate {listed(found)}." if found else ""


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
