"""A comparison in one table: per model, what came out, beside what a trivial rule scores and what the task asks for."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retrograde.figures import theme
from retrograde.figures.comparison import Comparison, listed, listed_in_short, outcomes
from retrograde.figures.provenance import lag_quantiles, number
from retrograde.figures.statistics import Estimate, in_percent, not_told, solve_rate, steps_to_solve, too_few

COLUMNS = {
    "score": "test score",
    "loss": "test loss",
    "validation_score": "best validation score",
    "baseline": "trivial rule's score",
    "baseline_rule": "trivial rule",
    "solved_step": "solved at step",
    "steps": "steps",
    "horizon_start": "horizon before (lags)",
    "horizon": "horizon after (lags)",
    "parameters": "parameters",
    "duration": "duration (s)",
    "run": "run",
}
"""What run.json calls it, and what a table calls it."""

ASKED = "task's lags, 90 %"

SHOWN = 12
"""Scores of a model that the page says in digits; its line shows all."""


@dataclass(frozen=True)
class Scores:
    """A model's test scores on a line from the best rule to perfect, as percentages of the line's length.

    Where a rule is perfect, the line begins at 0.
    """

    seeds: list[float]
    baseline: float
    threshold: float


@dataclass(frozen=True)
class Row:
    """What the summary says of one model, in words as they are to be read.

    ``rate`` is the interval of the solve rate, ``steps`` the median number to solve and ``between`` its interval.
    """

    model: str
    colour: str
    solved: int
    runs: int
    rate: str
    scores: list[str]
    median: str
    line: Scores
    steps: str
    between: str
    horizon: str
    parameters: str
    duration: str


def per_run(comparison: Comparison) -> pd.DataFrame:
    """One row a run, failed ones with dashes: the table behind the summary."""
    runs = comparison.runs.reindex(columns=list(dict.fromkeys([*comparison.runs.columns, *COLUMNS])))
    ended = outcomes(runs)
    table = runs[["model", "seed"]].assign(outcome=ended).join(runs[list(COLUMNS)]).rename(columns=COLUMNS)
    asked = lag_quantiles(comparison.card).get("90 %")
    table.insert(table.columns.tolist().index("parameters"), ASKED, asked)
    return table


def per_model(runs: pd.DataFrame, comparison: Comparison) -> list[Row]:
    """The rows of a comparison's table, from ``per_run``; medians are over the seeds that have the number."""
    card = comparison.card
    looks = theme.looks(runs["model"])
    rules = [rule["score"] for rule in card["baselines"]] + comparison.rule_scores()["score"].tolist()
    best = max(filter(math.isfinite, rules), default=0.0)
    rows = []
    for model in theme.present(runs["model"]):
        of_model = runs[runs["model"] == model]
        scores = of_model["test score"].dropna().astype(float).tolist()
        horizons = [_middle(of_model[f"horizon {when} (lags)"]) for when in ("before", "after")]
        solved = int((of_model["outcome"] == "solved").sum())
        taken = steps_taken(of_model)
        rows.append(
            Row(
                model=model,
                colour=looks[model].colour,
                solved=solved,
                runs=len(of_model),
                rate=in_percent(solve_rate(solved, len(of_model))),
                scores=[score_in_words(score) for score in scores[:SHOWN]]
                + [f"and {len(scores) - SHOWN} more"] * (len(scores) > SHOWN),
                median=score_in_words(float(np.median(scores))) if scores else "–",
                line=_on_a_line(scores, best, card["solved"]),
                steps="–" if taken is None else _reached(float(taken.value)),
                between="" if taken is None or not solved else _between(taken),
                horizon=" → ".join(horizons) if horizons != ["–", "–"] else "–",
                parameters=_middle(of_model["parameters"]),
                duration=seconds_in_words(float(of_model["duration (s)"].astype(float).median())),
            )
        )
    return rows


def steps_taken(runs: pd.DataFrame) -> Estimate | None:
    """Steps to solve of runs from ``per_run``; None where none of them says any.

    A run that diverged never will solve; one that failed, was interrupted or goes on may have, after what it had.
    """
    solved = runs["outcome"] == "solved"
    steps = (
        runs["solved at step"].where(solved, runs["steps"]).astype(float).mask(runs["outcome"] == "diverged", np.inf)
    )
    known = steps.notna()
    return steps_to_solve(steps[known].to_numpy(), solved[known].to_numpy()) if known.any() else None


def verdict(rows: list[Row], comparison: Comparison) -> str:
    """How many models solve the task, in one sentence."""
    always = [row.model for row in rows if row.solved == row.runs]
    partly = [row.model for row in rows if 0 < row.solved < row.runs]
    if not always and not partly:
        return f"No model solves {comparison.task}."
    sentence = f"{len(always)} of {len(rows)} models solve {comparison.task} with every seed"
    if always and len(always) < len(rows):
        sentence += f": {listed(always)}"
    return f"{sentence}; {listed(partly)} with some." if partly else f"{sentence}."


def doubts(rows: list[Row]) -> list[str]:
    """What these seeds are too few for, in sentences without their full stop."""
    found = []
    for seeds in sorted({row.runs for row in rows}):
        of_size = [row.model for row in rows if row.runs == seeds]
        if warning := too_few(seeds, "a model's median"):
            found.append(warning if len(of_size) == len(rows) else f"{listed_in_short(of_size)}: {warning}")
    rates: dict[str, list[str]] = {}
    for row in rows:
        if said := not_told(row.solved, row.runs):
            rates.setdefault(said, []).append(row.model)
    return found + [f"{listed_in_short(models)}: {said}" for said, models in rates.items()]


def _on_a_line(scores: list[float], baseline: float, threshold: float) -> Scores:
    lowest = baseline if baseline < 1 else 0.0  # from a perfect rule to perfect is no way to go
    start = lowest - 0.08 * (1 - lowest)

    def place(score: float) -> float:
        return round(100 * min(max((score - start) / (1 - start), 0.0), 1.0), 1)

    return Scores([place(score) for score in scores], place(baseline), place(threshold))


def _middle(values: pd.Series) -> str:
    return number(values.astype(float).median())


def score_in_words(value: float) -> str:
    """Three digits, with a true minus."""
    return f"{value:.3f}".replace("-", "−")


def _reached(steps: float) -> str:
    return "not reached" if math.isinf(steps) else number(steps)


def _between(steps: Estimate) -> str:
    low, high = number(steps.low.item()), number(steps.high.item())
    if low == high:
        return ""
    return f"{low} or more" if math.isinf(steps.high) else f"{low} to {high}"


def seconds_in_words(seconds: float) -> str:
    """
    >>> [seconds_in_words(seconds) for seconds in (12.5, 600, 9000)]
    ['12 s', '10 min', '2.5 h']
    """
    if math.isnan(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
