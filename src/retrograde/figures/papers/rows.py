"""From the runs of a preset to the rows of the board: values over seeds, intervals and verdicts."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from retrograde.figures.comparison import COUNTED, Comparison, comparisons, listed, outcomes, records
from retrograde.figures.papers.presets import BY_LENGTH, SEQUENCES, SHARE, TESTS, Claim, Preset
from retrograde.figures.papers.table import (
    COLUMNS,
    NOT_FINISHED,
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    cell,
    cells,
)
from retrograde.figures.provenance import lag_quantiles, trivial_rule
from retrograde.figures.statistics import Estimate, interval, mean_interval, solve_rate
from retrograde.record.metadata import number_of
from retrograde.record.store import FolderStore

SCORED = ("score", "loss", SHARE)
"""Quantities beside which a trivial rule stands."""

ON_OTHERS = ("longer.score", BY_LENGTH)
"""Quantities beside which a shallow rule alone stands: what is trivial is known of the test at large."""


@dataclass(frozen=True)
class Runs:
    """The runs of a preset's sweep below a folder; ``table`` is FolderStore.runs() for these, with their outcomes."""

    store: FolderStore
    table: pd.DataFrame
    compared: Sequence[Comparison]


def gathered(of: Preset, outputs: Path) -> Runs | None:
    """The runs of a preset; None where there is none. What lies there and is none of them is named."""
    folder = outputs / "paper" / of.stem
    if not folder.is_dir():
        return None
    try:
        store = FolderStore(folder)
    except ValueError as error:
        print(f"left out: {error}", file=sys.stderr)
        return None
    runs = store.runs()
    runs["outcome"] = outcomes(runs)
    odd = [of.odd(run) for run in records(runs)]
    for run, why in zip(records(runs), odd, strict=True):
        if why and run.get("learns") is not False:  # a shallow rule stands beside the sweep
            print(f"left out: {run['run']}: {why}", file=sys.stderr)
    table = runs[[not why for why in odd]].sort_values(["seed", "model", "run"], ignore_index=True)
    compared, left_out = comparisons(store)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    return None if table.empty else Runs(store, table, compared)


def rows(of: Preset, runs: Runs | None) -> list[dict[str, str]]:
    """A row a claim. Raises ValueError, naming the file, where the runs do not have what it asks for."""
    made = []
    for claim in of.claims:
        try:
            made.append(dict.fromkeys(COLUMNS, "") | _stated(of, claim) | _found(of, claim, runs))
        except ValueError as error:
            raise ValueError(f"{of.file}: the claim '{claim.says}': {error}") from error
    return made


def _stated(of: Preset, claim: Claim) -> dict[str, str]:
    """What a claim's row says before there is any run."""
    return {
        "preset": of.stem, "title": of.title, "source": of.head["Source"], "says": claim.says,
        "models": of.models(claim.where), "quantity": claim.quantity, "aggregate": claim.aggregate,
        "published": cell(claim.published), "band_low": cell(claim.low), "band_high": cell(claim.high),
        "origin": claim.origin, "command": of.head["Run"], "rules": of.head["Rules"],
        "settings": of.head["Published"], "open": of.head["Open"], "bands": of.head["Band"],
        "expected_cost": of.head["Cost"], "tried": of.head["Tried"], "configured": of.configured,
    }  # fmt: skip


def _found(of: Preset, claim: Claim, runs: Runs | None) -> dict[str, str]:
    """What came out of a claim; of runs that are not all there, no value."""
    if runs is None:
        return {"verdict": f"{NOT_RUN}: {of.head['Cost'].removeprefix(f'{NOT_RUN}: ')}"}
    given = [all(of.has(run, key, [value]) for key, value in claim.where.items()) for run in records(runs.table)]
    mine = runs.table[given]
    ended = mine[mine["outcome"].isin(COUNTED)]
    expected = of.expected(claim.where)
    settings = [tuple(of.values_of(run)) for run in records(ended)]
    twice = next((one for one in settings if settings.count(one) > 1), None)
    if twice is not None:
        raise ValueError(f"{runs.store.root} holds two runs of {listed(twice)}: remove one")
    found = _of_all(runs.table) | {"runs": f"{len(ended)} of {expected}"}
    if len(ended) < expected:
        return found | {"verdict": f"{NOT_FINISHED}: {len(ended)} of {number_of(expected, 'run')}"}
    return found | _measured(claim, _values(claim, ended, runs.store)) | _beside(claim, ended, runs)


def _of_all(table: pd.DataFrame) -> dict[str, str]:
    """What is said of all runs of a preset: seconds, machine, versions."""

    def distinct(column: str) -> list[str]:
        return sorted({str(value) for value in table[column].dropna()}) if column in table else []

    durations = table.reindex(columns=["duration"])["duration"].astype(float)
    torch = distinct("versions.torch")
    on_cpu = distinct("config.trainer.accelerator") == ["cpu"] or (torch and all("+cpu" in one for one in torch))
    made_with = {"retrograde": distinct("versions.retrograde"), "torch": torch, "commit": distinct("commit")}
    return {
        "cost": cell(float(durations.sum())),
        "hardware": listed(distinct("hardware")) or ("CPU" if on_cpu else "not recorded"),  # older runs do not say
        "version": ", ".join(f"{name} {listed(said) or 'not recorded'}" for name, said in made_with.items()),
    }


def _values(claim: Claim, runs: pd.DataFrame, store: FolderStore) -> np.ndarray:
    """The quantity of each run, in their order; NaN where it is no number."""
    if claim.of in (SHARE, SEQUENCES):
        solved = (runs["outcome"] == "solved").to_numpy()
        if claim.of == SHARE:
            return solved.astype(float)
        needed = runs.reindex(columns=["solved_step", "config.batch_size"]).astype(float)
        return np.where(solved, needed["solved_step"] * needed["config.batch_size"], np.inf)
    if claim.between is not None:
        return _by_length(claim.between, runs, store)
    values = pd.to_numeric(runs.reindex(columns=[claim.of])[claim.of], errors="coerce")
    if values.isna().all():
        raise ValueError(f"no run has a number for '{claim.of}'")
    return values.to_numpy(dtype=float)


def _by_length(between: tuple[int, int], runs: pd.DataFrame, store: FolderStore) -> np.ndarray:
    """Each run's mean over these lengths, of both tests; a length that both have counts by how many sequences."""
    names = [str(run) for run in runs["run"]]
    tables = [store.readings(f"{split}/{BY_LENGTH}", names) for split in TESTS]
    both = pd.concat([one.assign(split=split) for one, split in zip(tables, TESTS, strict=True) if len(one)] or tables)
    if both.empty:
        raise ValueError("no run holds a score by length")
    both = both[both["length"].between(*between)]
    if both.empty:
        raise ValueError(f"no run was tested at a length of {between[0]} to {between[1]}")
    wide = both.pivot(index=["run", "length", "split"], columns="statistic", values="value").reset_index()
    wide["sum"] = wide["mean"] * wide["count"]
    lengths = wide.groupby(["run", "length"])[["sum", "count"]].sum(min_count=1)
    means = (lengths["sum"] / lengths["count"]).groupby("run").agg(lambda scores: scores.mean(skipna=False))
    return means.reindex(names).to_numpy(dtype=float)


def _measured(claim: Claim, values: np.ndarray) -> dict[str, str]:
    """Value, interval and verdict."""
    ours = _over_seeds(claim, values)
    most = float(values.max()) if claim.aggregate == "max" else None
    return {
        "ours": cell(float(ours.value)),
        "low": cell(float(ours.low)),
        "high": cell(float(ours.high)),
        "seeds": cells(values),
        "max": cell(most),
        "verdict": REPRODUCED if claim.holds(float(ours.value) if most is None else most) else NOT_REPRODUCED,
    }


def _over_seeds(claim: Claim, values: np.ndarray) -> Estimate:
    if claim.of == SHARE:
        return solve_rate(int(values.sum()), len(values))
    if claim.aggregate == "median":
        middle = interval(values)
        return Estimate(middle.median, middle.low, middle.high)
    return mean_interval(values)


def _beside(claim: Claim, runs: pd.DataFrame, of: Runs) -> dict[str, str]:
    """What the task asks for, what rules score on it, and how far the gradient reached."""
    cards = []
    for run in runs["run"]:
        try:
            cards.append(of.store.card(str(run)))
        except ValueError:  # it was named where the runs were read
            continue
    lags = [quantiles["90 %"] for quantiles in map(lag_quantiles, cards) if quantiles]
    said = {"diverged": cell(int((runs["outcome"] == "diverged").sum())), "lag": cell(max(lags, default=None))}
    horizons = runs.reindex(columns=["horizon_start", "horizon"]).astype(float)
    for when, column in (("before", "horizon_start"), ("after", "horizon")):
        if horizons[column].notna().any():
            said[f"horizons_{when}"] = cells(horizons[column])
            said[f"horizon_{when}"] = cell(float(horizons[column].median()))
    if claim.of not in SCORED:
        return said | (_shallow(claim, runs, of) if claim.of in ON_OTHERS else {})
    trivial = [rule for rule in map(trivial_rule, cards) if rule is not None]
    if trivial:
        best = max(trivial, key=lambda rule: (rule["score"], -rule["loss"]))
        said |= {"trivial_rule": str(best["rule"]), "trivial": cell(best["loss" if claim.of == "loss" else "score"])}
    if cards:
        said["solved_from"] = cell(max(float(card["solved"]) for card in cards))
    return said | _shallow(claim, runs, of)


def _shallow(claim: Claim, runs: pd.DataFrame, of: Runs) -> dict[str, str]:
    """The shallow rule that does best in what a claim is on; for a share of runs, in the score."""
    names = set(runs["run"])
    rules = [one.rules for one in of.compared if names.intersection(one.runs["run"])]
    if not any(map(len, rules)):
        return {}
    table = pd.concat(rules).sort_values(["model", "run"], ignore_index=True)
    values = _values(replace(claim, of="score") if claim.of == SHARE else claim, table, of.store)
    if np.isnan(values).all():
        return {}
    best = np.nanargmin(values) if claim.of == "loss" else np.nanargmax(values)
    return {"shallow_rule": str(table["model"][best]).removeprefix("rule: "), "shallow": cell(float(values[best]))}
