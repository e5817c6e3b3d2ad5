"""A study in one row, over all variants of its tasks; and which of its models scores above which, how probably."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retrograde.figures.comparison import COUNTED, Comparison, listed
from retrograde.figures.provenance import number
from retrograde.figures.statistics import Estimate, improvement, in_percent, interquartile_mean, solve_rate
from retrograde.figures.summary import ASKED, score_in_words, seconds_in_words

ODD = ("diverged", "failed", "interrupted", "running")
"""How a run ends that did not end as it should."""


@dataclass(frozen=True)
class OfStudy:
    """A study in one row, in words as they are to be read; ``stem`` is where its section is."""

    study: str
    stem: str
    models: int
    runs: int
    ended: str
    solved: int
    counted: int
    rate: str
    score: str
    between: str
    scored: int
    trivial: str
    shallow: str
    horizon: str
    asked: str
    covered: str
    seconds: str
    each: str
    parameters: str


def per_study(study: str, parts: Sequence[tuple[Comparison, pd.DataFrame]]) -> dict[str, object]:
    """Numbers of a study over all of its variants, each given with its ``per_run``.

    The score is the interquartile mean over all runs that have one, its interval stratified by variant and model.
    """
    runs = pd.concat([table.astype({"model": str}).assign(variant=place) for place, (_, table) in enumerate(parts)])
    solved = int((runs["outcome"] == "solved").sum())
    rate = solve_rate(solved, int(runs["outcome"].isin(COUNTED).sum()))
    scored = runs[np.isfinite(runs["test score"].astype(float))]
    strata = [of_one["test score"].to_numpy(dtype=float) for _, of_one in scored.groupby(["variant", "model"])]
    score = interquartile_mean(strata) if strata else Estimate(*[np.asarray(np.nan)] * 3)
    trivial = [max((rule["score"] for rule in one.card["baselines"]), default=np.nan) for one, _ in parts]
    shallow = [float(one.rule_scores()["score"].max()) for one, _ in parts]
    measured = runs[runs["horizon after (lags)"].notna() & runs[ASKED].notna()].astype({ASKED: float})
    ends = runs["outcome"].value_counts()
    return {
        "study": study,
        "variants": len(parts),
        "models": runs["model"].nunique(),
        "runs": len(runs),
        **{name: int(ends.get(name, 0)) for name in ("solved", "unsolved", *ODD)},
        "solve rate, low": float(rate.low),
        "solve rate, high": float(rate.high),
        "runs with a score": len(scored),
        "interquartile mean score": float(score.value),
        "score, low": float(score.low),
        "score, high": float(score.high),
        "trivial rule, least": _least(trivial),
        "trivial rule, most": -_least([-one for one in trivial]),
        "shallow rule, least": _least(shallow),
        "shallow rule, most": -_least([-one for one in shallow]),
        "runs with a horizon": len(measured),
        "runs whose horizon covers the lags": int((measured["horizon after (lags)"] >= measured[ASKED]).sum()),
        "median horizon (lags)": float(runs["horizon after (lags)"].astype(float).median()),
        "lags asked, least": float(runs[ASKED].astype(float).min()),
        "lags asked, most": float(runs[ASKED].astype(float).max()),
        "seconds": float(runs["duration (s)"].astype(float).sum()),
        "median seconds of a run": float(runs["duration (s)"].astype(float).median()),
        "parameters, least": float(runs["parameters"].astype(float).min()),
        "parameters, most": float(runs["parameters"].astype(float).max()),
    }


def in_words(numbers: Mapping[str, object], stem: str) -> OfStudy:
    """The row of the page, from ``per_study``."""

    def value(name: str) -> float:
        return float(str(numbers[name]))

    def count(name: str) -> int:
        return int(str(numbers[name]))

    def span(name: str) -> str:
        low, high = (number(value(f"{name}, {end}")) for end in ("least", "most"))
        return low if low == high else f"{low} to {high}"

    measured, counted = count("runs with a horizon"), sum(map(count, COUNTED))
    low, high = value("score, low"), value("score, high")
    score = value("interquartile mean score")
    return OfStudy(
        study=str(numbers["study"]),
        stem=stem,
        models=count("models"),
        runs=count("runs"),
        ended=", ".join(f"{count(name)} {name}" for name in ODD if count(name)),
        solved=count("solved"),
        counted=counted,
        rate=in_percent(solve_rate(count("solved"), counted)) if counted else "",
        score="–" if math.isnan(score) else score_in_words(score),
        between="" if math.isnan(low) else f"{score_in_words(low)} to {score_in_words(high)}",
        scored=count("runs with a score"),
        trivial=span("trivial rule"),
        shallow=span("shallow rule"),
        horizon=number(value("median horizon (lags)")),
        asked=span("lags asked"),
        covered=f"{count('runs whose horizon covers the lags')} of {measured} runs" if measured else "",
        seconds=seconds_in_words(value("seconds")),
        each=seconds_in_words(value("median seconds of a run")),
        parameters=span("parameters"),
    )


@dataclass(frozen=True)
class Lead:
    """How probable it is that a run of the leading model scores above one of this model on the same task."""

    model: str
    probability: str
    between: str
    told: str


@dataclass(frozen=True)
class Leads:
    """A model against all others. ``tied`` are those that lead as far as it, ``lost`` is how many runs rank lowest."""

    leader: str
    tied: str
    lost: int
    over: list[Lead]


def leads(parts: Sequence[pd.DataFrame]) -> Leads | None:
    """The model that leads on validation, and what its test scores say against the others; ``per_run`` by variant.

    Compared are models with a run that counts on every variant; None where there are not two, or none was validated. A
    run without a score, such as one that diverged, ranks below all that have one.
    """
    columns = ["test score", "best validation score"]
    tables = [
        part[part["outcome"].isin(COUNTED)].astype({"model": str} | dict.fromkeys(columns, float)) for part in parts
    ]
    tables = [table.fillna(dict.fromkeys(columns, -np.inf)) for table in tables]
    scores = [{str(model): of.to_numpy() for model, of in table.groupby("model")[columns[0]]} for table in tables]
    everywhere = [model for model in dict.fromkeys(tables[0]["model"]) if all(model in one for one in scores)]
    if len(everywhere) < 2:
        return None
    chosen_by = pd.DataFrame([table.groupby("model")[columns[1]].median()[everywhere] for table in tables]).mean()
    if not np.isfinite(chosen_by.max()):
        return None
    leader, *tied = chosen_by.index[chosen_by == chosen_by.max()]
    rows = []
    for model in everywhere:
        if model == leader:
            continue
        found = improvement([one[leader] for one in scores], [one[model] for one in scores])
        has_interval = not np.isnan(found.low)
        told = "yes" if found.low > 0.5 else "the other way round" if found.high < 0.5 else "no"
        rows.append(
            Lead(
                model=model,
                probability=f"{found.value:.2f}",
                between=f"{found.low:.2f} to {found.high:.2f}" if has_interval else "",
                told=told if has_interval else "too few seeds",
            )
        )
    lost = sum(int(np.isneginf(one[model]).sum()) for one in scores for model in everywhere)
    return Leads(leader, listed(tied) if tied else "", lost, rows)


def _least(values: Sequence[float]) -> float:
    """The smallest of the numbers among them; NaN where there is none."""
    return min((value for value in values if not math.isnan(value)), default=math.nan)
