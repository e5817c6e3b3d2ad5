"""The board as Markdown, made of its table alone."""

import math
from collections.abc import Iterable, Sequence

from retrograde.figures.papers.presets import SHARE
from retrograde.figures.papers.table import (
    NOT_FINISHED,
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    Row,
    grouped,
    is_measured,
    number_in,
)
from retrograde.figures.papers.words import (
    band_in_words,
    named,
    ours_in_words,
    outcome_in_words,
    quantity_in_words,
    seeds_in_words,
)
from retrograde.figures.provenance import number
from retrograde.figures.save import escaped, sentence
from retrograde.figures.statistics import FEWEST
from retrograde.figures.summary import seconds_in_words
from retrograde.record.metadata import number_of

INTRODUCTION = f"""\
# Published results

What papers say comes out, run again here. A claim is *reproduced* where our value over all seeds lies inside the band
beside it, ends included, and *not reproduced* otherwise. Each band says where it comes from, and each preset when its
bands were written. [The numbers](board.csv), every seed among them.

- In brackets stands the interval over seeds at 95 %: Wilson's for a share of runs, for a mean or a median the
  percentile bootstrap, and with fewer than {FEWEST} seeds no more than their range. The verdict is the value's alone.
- A run that diverged is a result: it did not solve its task, and scores what the weights of its last finite step score.
  Where a seed's value is no number (–), so is the mean or median over seeds, and that lies in no band.
- Of sequences until solved ours is the median over all seeds, in which an unsolved run has needed infinitely many (∞);
  papers print the mean of trials that succeeded.
- A maximum over seeds, where a paper reports its best run, stands beside the mean; the verdict is then the maximum's.
- A run that failed or is missing is none: the claim is *not finished*, and no value is given.
- Values have no more digits than the spread of the seeds supports.

<!-- Written by analysis/board.py from board.csv: change that, or the preset. -->"""

OF_ALL = ("rerun", "claim", "published", "ours", "every seed", "band", "verdict")
OF_NONE = ("question", "source", "claims", "what it would cost", "command")
OF_ONE = ("claim", "models", "compared", "published", "ours", "band", "its origin", "verdict")


def page(rows: Sequence[Row]) -> str:
    """All claims of which there are runs in one table, then what was not run, then a section a preset that was."""
    if not rows:
        return f"{INTRODUCTION}\n\nNo paper has been rerun yet.\n"
    of_presets = grouped(rows, "preset")
    counts = f"{number_of(len(rows), 'claim')} of {number_of(len(of_presets), 'preset')}"
    verdicts = counted([row["verdict"] for row in rows])
    parts = [INTRODUCTION, f"**{counts}: {verdicts}.**"]
    begun = {stem: of for stem, of in of_presets.items() if is_measured(of[0])}
    waiting = [of for stem, of in of_presets.items() if stem not in begun]
    if begun:
        parts.append(_table(OF_ALL, [_in_short(row) for of in begun.values() for row in of]))
    if waiting:
        parts += ["## Not run", _table(OF_NONE, map(_unrun, waiting))]
    return "\n\n".join([*parts, *map(section, begun.values())]) + "\n"


def counted(verdicts: Sequence[str]) -> str:
    """How often each verdict was given.

    >>> counted(["reproduced", "not run: an hour", "reproduced"])
    '2 reproduced, 1 not run'
    """
    kinds = [verdict.partition(":")[0] for verdict in verdicts]
    order = (REPRODUCED, NOT_REPRODUCED, NOT_FINISHED, NOT_RUN)
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in order if kind in kinds)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(titles)}", *lines[1:]])


def _in_short(row: Row) -> list[str]:
    said = named(row), row["says"], number(number_in(row["published"])), ours_in_words(row), seeds_in_words(row)
    return [*map(escaped, (*said, band_in_words(row))), f"[{escaped(row['verdict'])}](#{row['preset']})"]


def _unrun(of: Sequence[Row]) -> list[str]:
    first = of[0]
    title = f"[{escaped(first['title'])}](../../{_file(first)})"
    cost = first["expected_cost"].removeprefix(f"{NOT_RUN}: ")
    return [title, escaped(first["source"]), str(len(of)), escaped(cost), f"`{first['command']}`"]


def _file(row: Row) -> str:
    return f"conf/study/paper/{row['preset']}.yaml"


def _in_full(row: Row) -> list[str]:
    what = row["says"], row["models"], f"{quantity_in_words(row)}, {row['aggregate']}"
    values = number(number_in(row["published"])), ours_in_words(row), band_in_words(row)
    return [escaped(one) for one in (*what, *values, row["origin"], row["verdict"])]


def section(of: Sequence[Row]) -> str:
    """A preset's part of the page."""
    first = of[0]
    file = _file(first)
    parts = [
        f'<a id="{first["preset"]}"></a>',
        f"## {escaped(first['title'])}",
        f"{escaped(sentence(first['source']))} The preset: [{escaped(file)}](../../{file}).",
    ]
    if first["figure"]:
        parts.append(f"![{escaped(outcome_in_words(of))}]({first['figure']})")
    parts.append(_table(OF_ONE, map(_in_full, of)))
    rules = "; ".join(dict.fromkeys(filter(None, map(_rules_in_words, of))))
    said = {
        "Without learning": f"{rules}." if rules else "",
        "Mechanism": mechanism_in_words(of),
        "Published": sentence(first["settings"]),
        "Open, or other than published": sentence(first["open"]),
        "Bands": sentence(first["bands"]),
        "Tried": sentence(first["tried"]) if first["tried"] else "",
        "Cost": sentence(_cost_in_words(first)),
    }
    parts += [f"**{entry}:** {escaped(words)}" for entry, words in said.items() if words]
    again = [f"`{first['command']}`", *([f"for the shallow rules `{first['rules']}`"] if first["rules"] else [])]
    return "\n\n".join([*parts, f"**Again:** {', '.join(again)}, then `python analysis/board.py`."])


def _rules_in_words(row: Row) -> str:
    by = {SHARE: "score", "score": "score", "loss": "loss"}.get(row["quantity"], quantity_in_words(row))
    kinds = (("trivial rule", "trivial"), ("best shallow rule", "shallow"))
    said = [f"{kind} '{row[f'{name}_rule']}', {by} {number(number_in(row[name]))}" for kind, name in kinds if row[name]]
    if said and row["solved_from"]:
        said.append(f"solved from a score of {number(number_in(row['solved_from']))}")
    return ", ".join(said)


def mechanism_in_words(of: Sequence[Row]) -> str:
    """How far back the gradient reached before and after training, against the lag; one sentence."""
    told = {row["models"]: row for row in of if row["horizon_before"] or row["horizon_after"]}
    if not told:
        return "No run recorded how far back its gradient reaches."
    parts = []
    for models, row in told.items():
        before, after, lag = (number_in(row[name]) for name in ("horizon_before", "horizon_after", "lag"))
        said = f"{models} {number(before)} → {number(after)}"
        if not math.isnan(lag) and not math.isnan(after):
            said += f", {'as far as' if after >= lag else 'short of'} the {number(lag)} that the task asks for"
        parts.append(said)
    return f"Horizon of the gradient in lags, median over seeds, before → after training: {'; '.join(parts)}."


def _cost_in_words(row: Row) -> str:
    took = f"the runs took {seconds_in_words(number_in(row['cost']))} in all; hardware: {row['hardware']}"
    return f"{took}; {row['version']}; foreseen: {row['expected_cost']}"
