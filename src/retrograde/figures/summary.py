"""A comparison in one table: per model, what came out, beside what a trivial rule scores and what the task asks for."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retrograde.figures import theme
from retrograde.figures.comparison import COUNTED, Comparison, listed, listed_in_short, outcomes, uncounted
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

    ``runs`` are those that count, ``beside`` tells of the others. ``rate`` is the interval of the solve rate, ``steps``
    the median number to solve and ``between`` its interval.
    """

    model: str
    colour: str
    solved: int
    runs: int
    rate: str
    beside: str
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
        solved, counted = int((of_model["outcome"] == "solved").sum()), int(of_model["outcome"].isin(COUNTED).sum())
        taken = steps_taken(of_model)
        rows.append(
            Row(
                model=model,
                colour=looks[model].colour,
                solved=solved,
                runs=counted,
                rate=in_percent(solve_rate(solved, counted)) if counted else "",
                beside=uncounted(of_model["outcome"]),
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
    beside = uncounted(outcomes(comparison.runs))
    finished = [row for row in rows if row.runs]
    always = [row.model for row in finished if row.solved == row.runs]
    partly = [row.model for row in finished if 0 < row.solved < row.runs]
    every = "every finished seed" if beside else "every seed"
    sentence = f"{len(always)} of {len(finished)} models solve {comparison.task} with {every}"
    if always and len(always) < len(finished):
        sentence += f": {listed(always)}"
    if partly:
        sentence += f"; {listed(partly)} with some"
    if not always and not partly:
        sentence = f"No model solves {comparison.task}" if finished else f"No run on {comparison.task} has finished"
    without = [row.model for row in rows if not row.runs] if finished else []
    return " ".join(
        f"{part}."
        for part in (sentence, f"No run of {listed_in_short(without)} has finished" if without else "", beside)
        if part
    )


def doubts(rows: list[Row]) -> list[str]:
    """What these seeds are too few for, in sentences without their full stop."""
    found = []
    rows = [row for row in rows if row.runs]
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
    """Three digits, with a true minus.

    >>> [score_in_words(score) for score in (0.5, -0.787, -math.inf)]
    ['0.500', '−0.787', '−∞']
    """
    return number(value) if math.isinf(value) else f"{value:.3f}".replace("-", "−")


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
