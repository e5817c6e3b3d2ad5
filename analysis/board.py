"""Published results, rerun: what a paper says comes out, and what came out here.

    python analysis/board.py [--outputs outputs] [--to docs/board]

Reads every preset of a paper, conf/study/paper/<stem>.yaml, and its runs below <outputs>/paper/<stem>/, and writes

    <to>/board.csv      a row a claim, with everything that the page says
    <to>/README.md      the page, made of that table alone
    <to>/<stem>.png     a preset's figure: values and bands, and how far the gradient reached

A preset says in the comments at its head what is rerun and what is not known of it, and under hydra.sweeper.claims what
the paper claims, each with a band of acceptance. Rows and figure of a preset without runs below <outputs> stay as they
are, so that a board grows preset by preset on different machines. The same runs give the same bytes.
"""

import argparse
import math
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from retrograde.figures import theme
from retrograde.figures.comparison import Comparison, comparisons, listed, outcomes, records
from retrograde.figures.provenance import lag_quantiles, number, trivial_rule
from retrograde.figures.question import asked
from retrograde.figures.save import escaped, save, shrunk
from retrograde.figures.statistics import FEWEST, interval, mean_interval, solve_rate
from retrograde.figures.summary import seconds_in_words
from retrograde.record.folder import NOT_PART_OF_THE_RESULT
from retrograde.record.metadata import number_of
from retrograde.record.store import FolderStore

HERE = Path(__file__).parent
CONF = HERE.parent / "conf"
PAPERS = CONF / "study" / "paper"
TABLE, PAGE = "board.csv", "README.md"

REPRODUCED, NOT_REPRODUCED, NOT_FINISHED, NOT_RUN = "reproduced", "not reproduced", "not finished", "not run"
"""Verdicts; the last two go on behind a colon: how many runs there are, and what they would cost."""

ENDED = ("solved", "unsolved", "diverged")
"""Outcomes that are results: a run that diverged did not solve its task; one that failed says nothing of it."""

ENTRIES = ("Source", "Published", "Open", "Cost", "Band", "Run", "Tried")
OPTIONAL = ("Tried",)

SHARE, SEQUENCES, BY_LENGTH = "solved", "sequences", "score_by_length"
COLUMNS_OF_RUNS = (
    "score", "loss", "validation_score", "horizon", "horizon_start", "parameters", "state_size", "duration", "steps",
    "selected_step",
)  # fmt: skip
"""Quantities that are a column of the runs; the measures of both tests, such as longer.score, are others."""

TESTS = ("test", "longer")
SCORED = ("score", "loss", SHARE)
"""Quantities beside which a trivial rule stands."""

WORDS = {
    SHARE: "share of runs that solved",
    SEQUENCES: "sequences seen until solved",
    "score": "test score",
    "loss": "test loss",
    "longer.score": "score on longer sequences",
}

COLUMNS = (
    "preset", "title", "source", "says", "models", "quantity", "aggregate", "published", "ours", "low", "high", "seeds",
    "max", "band_low", "band_high", "origin", "verdict", "diverged", "trivial_rule", "trivial", "shallow_rule",
    "shallow", "solved_from", "lag", "horizons_before", "horizons_after", "horizon_before", "horizon_after", "runs",
    "cost", "hardware", "version", "command", "figure", "settings", "open", "bands", "expected_cost", "tried",
)  # fmt: skip
"""Of board.csv, all of them texts; several values in one are set apart by semicolons, in the order of seeds."""

CLAIMED = ("says", "models", "quantity", "aggregate", "published", "band_low", "band_high", "origin")
"""What a row says before there is any run."""

NAMED = 2
"""Claims of a kind that a headline says in words; of more, the others are counted."""

Value = str | float | bool | None
Row = Mapping[str, str]


@dataclass(frozen=True)
class Claim:
    """What a paper says comes out of some runs, and between which values ours count as the same.

    ``where`` are settings of those runs, ``between`` the first and the last length of a score by length. ``low`` and
    ``high`` are the band's ends, None where it is open.
    """

    says: str
    where: Mapping[str, Value]
    of: str
    between: tuple[int, int] | None
    aggregate: str
    published: float | None
    low: float | None
    high: float | None
    origin: str

    @property
    def quantity(self) -> str:
        return self.of if self.between is None else f"{self.of} {self.between[0]} to {self.between[1]}"

    def holds(self, value: float) -> bool:
        """Whether a value lies in the band, its ends included; what is no number lies in none."""
        above = self.low is None or value >= self.low or math.isclose(value, self.low)
        below = self.high is None or value <= self.high or math.isclose(value, self.high)
        return not math.isnan(value) and above and below


@dataclass(frozen=True)
class Preset:
    """A study that reruns a paper: the head of its file, its sweep's axes, what it sets for all runs, its claims."""

    file: Path
    title: str
    head: Mapping[str, str]
    axes: Mapping[str, Sequence[Value]]
    fixed: Mapping[str, Value]
    claims: Sequence[Claim]

    @property
    def stem(self) -> str:
        return self.file.stem

    def expected(self, where: Mapping[str, Value]) -> int:
        """How many runs of the sweep have these settings."""
        return math.prod(len(values) for key, values in self.axes.items() if key not in where)

    def models(self, where: Mapping[str, Value]) -> str:
        """The models of a claim, with the settings that it names besides."""
        swept = where.get("model", self.fixed.get("model"))
        name = listed([str(each) for each in self.axes.get("model", ["every model"])]) if swept is None else str(swept)
        rest = [f"{key.rpartition('.')[2]}={_plain(value)}" for key, value in where.items() if key != "model"]
        return f"{name} ({', '.join(rest)})" if rest else name


def presets(folder: Path) -> list[Preset]:
    """Those of a folder, in order; raises ValueError, naming the file, for one that says something wrong."""
    return [preset(file) for file in sorted(folder.glob("*.yaml"))]


def preset(file: Path) -> Preset:
    """A file as a preset; raises ValueError, naming it, where its head or a claim is not as it must be."""
    text = file.read_text(encoding="utf-8")
    try:
        title, head = _head(text)
        content = yaml.safe_load(text)
        _require(isinstance(content, dict), "it holds no settings")
        sweeper = (content.get("hydra") or {}).get("sweeper") or {}
        axes = {str(key).lstrip("+"): _axis(str(values)) for key, values in (sweeper.get("params") or {}).items()}
        _require(bool(axes), "hydra.sweeper.params has no axis")
        fixed = {key: value for key, value in _fixed(content).items() if key not in axes}
        stated = sweeper.get("claims")
        if not isinstance(stated, list) or not stated:
            raise ValueError("hydra.sweeper.claims must be a list of claims")
        command = f"study=paper/{file.stem}"
        _require(command in head["Run"].split(), f"'Run:' must hold {command}")
        return Preset(file, title, head, axes, fixed, [_claim(one, axes, fixed) for one in stated])
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: {error}") from error


def _require(holds: bool, words: str) -> None:
    if not holds:
        raise ValueError(words)


def _head(text: str) -> tuple[str, dict[str, str]]:
    """The title and the entries of the comments at the beginning of a file."""
    lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
    said = [line.removeprefix("#").removeprefix(" ") for line in lines if not line.startswith("# @package")]
    named = [place for place, line in enumerate(said) if line.startswith(tuple(f"{entry}:" for entry in ENTRIES))]
    _require(bool(named) and named[0] > 0, "its head must open with a title, then 'Source:'")
    title, entries = " ".join(" ".join(said[: named[0]]).split()), "\n".join(said[named[0] :])
    head = {entry: asked(entries, entry) for entry in ENTRIES}
    head["Run"] = re.sub(r" \([^()]*\)$", "", head["Run"])
    missing = [f"'{entry}:'" for entry in ENTRIES if not head[entry] and entry not in OPTIONAL]
    _require(not missing, f"its head says nothing under {listed(missing)}")
    return title, head


def _axis(text: str) -> list[Value]:
    """The values of an axis of a sweep, from a list or a range as Hydra takes them.

    >>> _axis("lstm, elman"), _axis("range(0,4)"), _axis("0.01,1e-3,null,[1,2]")
    (['lstm', 'elman'], [0.0, 1.0, 2.0, 3.0], [0.01, 0.001, None, '[1,2]'])
    """
    counted = re.fullmatch(r"range\((.*)\)", text.strip())
    if counted:
        return [float(each) for each in range(*(int(end) for end in counted[1].split(",")))]
    listed_out = re.fullmatch(r"choice\((.*)\)", text.strip())
    parts = re.split(r",(?![^\[\]]*\])", listed_out[1] if listed_out else text)
    return [_value(part) for part in parts]


def _value(said: Any) -> Value:
    """A setting as it can be compared; numbers are floats, and a list is its text."""
    if said is None or isinstance(said, bool):
        return said
    text = str(said).strip().strip("'\"")
    if text in ("null", "true", "false"):
        return {"null": None, "true": True, "false": False}[text]
    try:
        return float(text)
    except ValueError:
        return text


def _plain(value: Value) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else value


def _fixed(content: Mapping[str, Any]) -> dict[str, Value]:
    """What a preset sets for all of its runs: settings, and which model, task and optimiser it chooses."""
    chosen = {}
    for entry in content.get("defaults") or []:
        if isinstance(entry, dict):
            for group, option in entry.items():
                name = str(group).removeprefix("override ").strip().lstrip("/")
                if name in ("model", "task", "optimizer"):
                    chosen[name] = _value(option)
    body = {key: value for key, value in content.items() if key not in ("defaults", "hydra")}
    return {**chosen, **{key: value for key, value in _leaves(body, "") if "${" not in str(value)}}


def _leaves(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Value]]:
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if any(f"{key}.".startswith(f"{part}.") for part in NOT_PART_OF_THE_RESULT):
            continue
        if isinstance(value, dict):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, _value(value)


def _claim(stated: Any, axes: Mapping[str, Sequence[Value]], fixed: Mapping[str, Value]) -> Claim:
    _require(isinstance(stated, dict) and isinstance(stated.get("says"), str), "a claim must say something: 'says:'")
    says = " ".join(stated["says"].split())

    def require(holds: bool, words: str) -> None:
        _require(holds, f"the claim '{says}': {words}")

    known = ("says", "where", "of", "between", "as", "published", "band", "origin")
    unknown = [str(key) for key in stated if key not in known]
    require(not unknown, f"there is no '{', '.join(unknown)}'; there are {', '.join(known)}")
    missing = [key for key in ("of", "published", "band", "origin") if key not in stated]
    require(not missing, f"'{', '.join(missing)}' is missing")
    where = stated.get("where") or {}
    require(isinstance(where, dict), "'where' must be settings and their values")
    where = {str(key): _value(value) for key, value in where.items()}
    for key, value in where.items():
        values = axes.get(key, [fixed[key]] if key in fixed else [])
        require(any(_same(value, each) for each in values), f"no run of the sweep has {key}={_plain(value)}")
        require(_told_apart(key, values), f"no run says which '{key}' it had: name one of its settings")
    of, between = str(stated["of"]), stated.get("between")
    measured = of in (SHARE, SEQUENCES, BY_LENGTH, *COLUMNS_OF_RUNS) or re.fullmatch(rf"({'|'.join(TESTS)})\.\w+", of)
    require(bool(measured), f"no quantity is called '{of}'")
    require((of == BY_LENGTH) == (between is not None), f"'between' is for '{BY_LENGTH}', which needs it")
    if between is not None:
        ordered = isinstance(between, list) and len(between) == 2 and all(type(end) is int for end in between)
        require(ordered and between[0] <= between[1], "'between' must be the first and the last length")
    aggregate = str(stated.get("as", "median" if of == SEQUENCES else "mean"))
    require(aggregate in ("mean", "median", "max"), f"'as' must be mean, median or max, not '{aggregate}'")
    require(of != SHARE or aggregate == "mean", "a share of runs is a mean")
    published, band = stated["published"], stated["band"]
    require(published is None or _is_number(published), "'published' must be a number or null")
    ends = isinstance(band, list) and len(band) == 2 and all(end is None or _is_number(end) for end in band)
    require(ends and band != [None, None], "'band' must be two numbers, of which one may be null")
    low, high = (None if end is None else float(end) for end in band)
    require(low is None or high is None or low <= high, f"its band is upside down: {band[0]} is above {band[1]}")
    require(isinstance(stated["origin"], str), "'origin' must say where the band comes from")
    return Claim(
        says,
        where,
        of,
        None if between is None else (between[0], between[1]),
        aggregate,
        None if published is None else float(published),
        low,
        high,
        " ".join(stated["origin"].split()),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_choice(key: str) -> bool:
    """Whether a key chooses one of a group's options, which a run says by what these set; model and task it names."""
    return key not in ("model", "task") and (CONF / key).is_dir()


@cache
def _made(group: str, option: Value) -> str | None:
    """What the option of a group makes, as a run's settings have it; None for no option, or one that makes nothing."""
    if option is None:
        return None
    file = CONF / group / f"{option}.yaml"
    _require(file.is_file(), f"there is no {group}={option}")
    return (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("_target_")


def _told_apart(key: str, values: Sequence[Value]) -> bool:
    """Whether runs with these values of a key can be told apart by what they say of themselves."""
    return not _is_choice(key) or len({_made(key, value) for value in values}) == len(values)


def _same(one: Any, other: Any) -> bool:
    """Whether a setting of a file is that of a run."""
    one, other = (None if each is None or each != each else each for each in (one, other))
    if isinstance(one, float) and isinstance(other, (int, float)) and not isinstance(other, bool):
        return one == float(other)
    return one == other or (one is not None and other is not None and str(one) == str(other))


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
    conditions = {**{key: list(values) for key, values in of.axes.items()}, **{k: [v] for k, v in of.fixed.items()}}
    kept = []
    for run in records(runs):
        odd = [key for key, values in conditions.items() if not _has(run, key, values)]
        kept.append(not odd)
        if odd and run.get("learns") is not False:  # a shallow rule stands beside the sweep
            why = f"{of.file.name} sets another {odd[0]}" if odd[0] in of.fixed else f"its {odd[0]} is not in the sweep"
            print(f"left out: {run['run']}: {why}", file=sys.stderr)
    table = runs[kept].sort_values(["seed", "model", "run"], ignore_index=True)
    compared, left_out = comparisons(store)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    return None if table.empty else Runs(store, table, compared)


def _has(run: Mapping[str, Any], key: str, values: Sequence[Value]) -> bool:
    """Whether a run has one of these values; where it does not tell them apart, it may."""
    if _is_choice(key):
        made = run.get(f"config.{key}._target_")
        return not _told_apart(key, values) or any(_same(_made(key, value), made) for value in values)
    column = key if key in ("model", "task", "seed") else f"config.{key}"
    return column in run and any(_same(value, run[column]) for value in values)


def rows(of: Preset, runs: Runs | None) -> list[dict[str, str]]:
    """A row a claim. Raises ValueError, naming the file, where the runs do not have what it asks for."""
    return [_row(of, claim, runs) for claim in of.claims]


def _row(of: Preset, claim: Claim, runs: Runs | None) -> dict[str, str]:
    row = dict.fromkeys(COLUMNS, "")
    row |= {
        "preset": of.stem, "title": of.title, "source": of.head["Source"], "says": claim.says,
        "models": of.models(claim.where), "quantity": claim.quantity, "aggregate": claim.aggregate,
        "published": _cell(claim.published), "band_low": _cell(claim.low), "band_high": _cell(claim.high),
        "origin": claim.origin, "command": of.head["Run"], "settings": of.head["Published"], "open": of.head["Open"],
        "bands": of.head["Band"], "expected_cost": of.head["Cost"], "tried": of.head["Tried"],
    }  # fmt: skip
    if runs is None:
        row["verdict"] = f"{NOT_RUN}: {of.head['Cost'].removeprefix(f'{NOT_RUN}: ')}"
        return row
    row |= _of_all(runs.table)
    mine = runs.table[[all(_has(run, *one) for one in _given(claim)) for run in records(runs.table)]]
    ended = mine[mine["outcome"].isin(ENDED)]
    expected = of.expected(claim.where)
    if len(ended) > expected:
        raise ValueError(
            f"{of.file}: the claim '{claim.says}' is of {number_of(expected, 'run')}, and {runs.store.root} holds "
            f"{len(ended)}: remove those that were made with other settings"
        )
    row["runs"] = f"{len(ended)} of {expected}"
    if len(ended) < expected:
        row["verdict"] = f"{NOT_FINISHED}: {len(ended)} of {number_of(expected, 'run')}"
        return row
    try:
        values = _values(claim, ended, runs.store)
    except ValueError as error:
        raise ValueError(f"{of.file}: the claim '{claim.says}': {error}") from error
    return row | _measured(claim, values) | _beside(claim, ended, runs)


def _given(claim: Claim) -> list[tuple[str, list[Value]]]:
    return [(key, [value]) for key, value in claim.where.items()]


def _of_all(table: pd.DataFrame) -> dict[str, str]:
    """What is said of all runs of a preset: seconds, machine, versions."""

    def distinct(column: str) -> list[str]:
        return sorted({str(value) for value in table[column].dropna()}) if column in table else []

    durations = table["duration"].astype(float) if "duration" in table else pd.Series(dtype=float)
    torch = distinct("versions.torch")
    on_cpu = distinct("config.trainer.accelerator") == ["cpu"] or (torch and all("+cpu" in one for one in torch))
    retrograde = listed(distinct("versions.retrograde")) or "not recorded"
    return {
        "cost": _cell(float(durations.sum())),
        "hardware": "CPU" if on_cpu else "not recorded",  # a run says which torch it had, and not on what
        "version": f"retrograde {retrograde}, torch {listed(torch) or 'not recorded'}, "
        f"commit {listed(distinct('commit')) or 'not recorded'}",
    }


def _values(claim: Claim, runs: pd.DataFrame, store: FolderStore) -> np.ndarray:
    """The quantity of each run, in their order; NaN where it is no number."""
    solved = (runs["outcome"] == "solved").to_numpy()
    if claim.of == SHARE:
        return solved.astype(float)
    if claim.of == SEQUENCES:
        needed = runs.reindex(columns=["solved_step", "config.batch_size"]).astype(float)
        return np.where(solved, needed["solved_step"] * needed["config.batch_size"], np.inf)
    if claim.between is not None:
        return _by_length(claim.between, runs, store)
    if claim.of not in runs or not pd.to_numeric(runs[claim.of], errors="coerce").notna().any():
        raise ValueError(f"no run has a number for '{claim.of}'")
    return pd.to_numeric(runs[claim.of], errors="coerce").to_numpy(dtype=float)


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
    if claim.of == SHARE:
        ours = solve_rate(int(values.sum()), len(values))
        value, low, high = (float(each) for each in (ours.value, ours.low, ours.high))
    elif claim.aggregate == "median":
        middle = interval(values)
        value, low, high = (float(each) for each in (middle.median, middle.low, middle.high))
        low, high = (math.nan, math.nan) if math.isnan(value) else (low, high)
    else:
        mean = mean_interval(values)
        value, low, high = (float(each) for each in (mean.value, mean.low, mean.high))
    most = float(values.max()) if claim.aggregate == "max" else None
    return {
        "ours": _cell(value),
        "low": _cell(low),
        "high": _cell(high),
        "seeds": _cells(values),
        "max": _cell(most),
        "verdict": REPRODUCED if claim.holds(value if most is None else most) else NOT_REPRODUCED,
    }


def _beside(claim: Claim, runs: pd.DataFrame, of: Runs) -> dict[str, str]:
    """What the task asks for, what rules score on it, and how far the gradient reached."""
    cards = []
    for run in runs["run"]:
        try:
            cards.append(of.store.card(str(run)))
        except ValueError:  # it was named where the runs were read
            continue
    lags = [quantiles["90 %"] for quantiles in map(lag_quantiles, cards) if quantiles]
    ends = runs.reindex(columns=["horizon_start", "horizon"]).astype(float)
    said = {
        "diverged": _cell(int((runs["outcome"] == "diverged").sum())),
        "lag": _cell(max(lags)) if lags else "",
    }
    for when, column in (("before", "horizon_start"), ("after", "horizon")):
        known = ends[column].dropna()
        said[f"horizons_{when}"] = _cells(ends[column]) if len(known) else ""
        said[f"horizon_{when}"] = _cell(float(known.median())) if len(known) else ""
    if claim.of not in SCORED:
        return said
    by = "loss" if claim.of == "loss" else "score"
    trivial = [rule for rule in map(trivial_rule, cards) if rule is not None]
    if trivial:
        best = max(trivial, key=lambda rule: (rule["score"], -rule["loss"]))
        said |= {"trivial_rule": str(best["rule"]), "trivial": _cell(best[by])}
    if cards:
        said["solved_from"] = _cell(max(float(card["solved"]) for card in cards))
    names = set(runs["run"])
    scores = [one.rule_scores() for one in of.compared if names.intersection(one.runs["run"])]
    shallow = pd.concat(scores) if scores else pd.DataFrame()
    if len(shallow):
        first = records(shallow.sort_values(["score", "loss"], ascending=[False, True], kind="stable"))[0]
        said |= {"shallow_rule": str(first["rule"]), "shallow": _cell(first[by])}
    return said


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _cells(values: np.ndarray | pd.Series) -> str:
    return ";".join(_cell(float(value)) for value in values)


def _number(cell: str) -> float:
    """NaN where there is none."""
    return float(cell) if cell else math.nan


def _numbers(cell: str) -> list[float]:
    return [float(one) for one in cell.split(";")] if cell else []


def read_table(path: Path) -> pd.DataFrame:
    """A board's table, every cell a text; empty where there is no file."""
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS), dtype=str)
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    return table.reindex(columns=list(COLUMNS), fill_value="")


def is_measured(row: Row) -> bool:
    """Whether there were runs."""
    return not row["verdict"].startswith(NOT_RUN)


# --- in words


def decimals(row: Row) -> int:
    """Digits behind the point that the seeds support; below zero those before it that they do not.

    The last is the first digit of the standard error; a share of n runs has those of 1/n. What seeds agree on has three
    digits and what one alone says has two. There are more where the value would seem to change its side of the band.
    """
    seeds = [value for value in _numbers(row["seeds"]) if math.isfinite(value)]
    value = _number(row["max"] or row["ours"])
    if row["quantity"] == SHARE:
        places = max(1, math.ceil(math.log10(len(seeds))))
    else:
        size = next((abs(one) for one in (_number(row["ours"]), value, *seeds) if math.isfinite(one) and one), 1.0)
        first = -math.floor(math.log10(size))
        error = float(np.std(seeds, ddof=1)) / math.sqrt(len(seeds)) if len(seeds) > 1 else 0.0
        if error > 0:
            places = min(max(-math.floor(math.log10(error)), first), first + 3)
        else:
            places = first + (2 if len(seeds) > 1 else 1)
    ends = [end for end in (_number(row["band_low"]), _number(row["band_high"])) if not math.isnan(end)]
    while (
        math.isfinite(value)
        and places < 9
        and any(_side(round(value, places), end) != _side(value, end) for end in ends)
    ):
        places += 1
    return places


def _side(value: float, end: float) -> int:
    return 0 if math.isclose(value, end) else int(math.copysign(1, value - end))


def rounded(value: float, places: int) -> str:
    """With that many digits behind the point; what would be rounded away keeps one of its own, within two more.

    >>> rounded(-1234.5, -2), rounded(0.8, 2), rounded(700, -3), rounded(1e-17, 1), rounded(math.inf, 1)
    ('−1,200', '0.80', '700', '0.0', '∞')
    """
    if not math.isfinite(value):
        return number(value)
    own = -math.floor(math.log10(abs(value))) if value else places
    if own <= places + 2:
        places = max(places, own)
    return f"{round(value, places) + 0.0:,.{max(places, 0)}f}".replace("-", "−")


def seeds_in_words(row: Row) -> str:
    """Every seed's value, and how many diverged."""
    places = 0 if row["quantity"] == SHARE else decimals(row)
    said = ", ".join(rounded(value, places) for value in _numbers(row["seeds"]))
    return f"{said}; {row['diverged']} diverged" if row["diverged"] not in ("", "0") else said


def ours_in_words(row: Row) -> str:
    """Value and interval, and the largest beside a mean where that is what is compared."""
    if not row["ours"]:
        return "–"
    places = decimals(row)
    value, low, high, most = (rounded(_number(row[name]), places) for name in ("ours", "low", "high", "max"))
    several = len(_numbers(row["seeds"])) > 1 and not (value == "–" or value == low == high == "∞")
    said = f"{value} ({low} to {high})" if several else value
    return f"{said}, max {most}" if row["max"] else said


def published_in_words(row: Row) -> str:
    return number(_number(row["published"]))


def band_in_words(row: Row) -> str:
    low, high = (number(_number(row[name])) for name in ("band_low", "band_high"))
    if not row["band_high"]:
        return f"at least {low}"
    return f"{low} to {high}" if row["band_low"] else f"at most {high}"


def quantity_in_words(row: Row) -> str:
    """What is compared.

    >>> quantity_in_words({"quantity": "score_by_length 41 to 500"}), quantity_in_words({"quantity": "loss"})
    ('score at lengths 41 to 500', 'test loss')
    """
    of = row["quantity"]
    if of.startswith(BY_LENGTH):
        return f"score at lengths{of.removeprefix(BY_LENGTH)}"
    return WORDS.get(of, of.replace("_", " ").replace(".", " "))


def outcome_in_words(of: Sequence[Row]) -> str:
    """How many claims of a preset are reproduced, and which are not, as one sentence without its full stop."""
    who = of[0]["source"].partition(",")[0]
    good = sum(row["verdict"] == REPRODUCED for row in of)
    said = f"{who}, rerun: {good} of {number_of(len(of), 'claim')} reproduced"
    missed = [
        f"{row['says']} ({rounded(_number(row['max'] or row['ours']), decimals(row))}, not {band_in_words(row)})"
        for row in of
        if row["verdict"] == NOT_REPRODUCED
    ]
    unfinished = [row["says"] for row in of if row["verdict"].startswith(NOT_FINISHED)]
    for kind, which in (("not", missed), (NOT_FINISHED, unfinished)):
        more = [number_of(len(which) - NAMED, "other")] if len(which) > NAMED else []
        said += f"; {kind}: {'; '.join([*which[:NAMED], *more])}" if which else ""
    return said


def mechanism_in_words(of: Sequence[Row]) -> str:
    """How far back the gradient reached before and after training, against the lag; one sentence."""
    told = {row["models"]: row for row in of if row["horizon_before"] or row["horizon_after"]}
    if not told:
        return "No run recorded how far back its gradient reaches."
    parts = []
    for models, row in told.items():
        before, after, lag = (_number(row[name]) for name in ("horizon_before", "horizon_after", "lag"))
        said = f"{models} {number(before)} → {number(after)}"
        if not math.isnan(lag) and not math.isnan(after):
            said += f", {'as far as' if after >= lag else 'short of'} the {number(lag)} that the task asks for"
        parts.append(said)
    return f"Horizon of the gradient in lags, median over seeds, before → after training: {'; '.join(parts)}."


def counted(verdicts: Sequence[str]) -> str:
    """How often each verdict was given.

    >>> counted(["reproduced", "not run: an hour", "reproduced"])
    '2 reproduced, 1 not run'
    """
    kinds = [verdict.partition(":")[0] for verdict in verdicts]
    order = (REPRODUCED, NOT_REPRODUCED, NOT_FINISHED, NOT_RUN)
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in order if kind in kinds)


INTRODUCTION = f"""\
# Published results

What papers say comes out, run again here. A claim is *reproduced* where our value over all seeds lies inside the band
beside it, ends included, and *not reproduced* otherwise. Each band says where it comes from, and each preset when its
bands were written. [The numbers](board.csv), every seed among them.

- In brackets stands the interval over seeds at 95 %: Wilson's for a share of runs, for a mean or a median the
  percentile bootstrap, and with fewer than {FEWEST} seeds no more than their range. The verdict is the value's alone.
- A run that diverged is a result: it did not solve its task, and scores what the weights of its last finite step score.
  Where a seed's value is no number (–), so is the mean or median over seeds, and that lies in no band.
- Of sequences until solved, an unsolved run has needed infinitely many (∞).
- A maximum over seeds, where a paper reports its best run, stands beside the mean; the verdict is then the maximum's.
- A run that failed or is missing is none: the claim is *not finished*, and no value is given.
- Values have no more digits than the spread of the seeds supports.

<!-- Written by analysis/board.py from board.csv: change that, or the preset. -->
"""


def page(table: pd.DataFrame) -> str:
    """The board as Markdown, of its table alone."""
    of_all = [{name: str(value) for name, value in row.items()} for row in records(table)]
    of_presets: dict[str, list[dict[str, str]]] = {}
    for row in of_all:
        of_presets.setdefault(row["preset"], []).append(row)
    if not of_all:
        return f"{INTRODUCTION}\nNo paper has been rerun yet.\n"
    verdicts = counted([row["verdict"] for row in of_all])
    papers = number_of(len(of_presets), "preset")
    lines = ["| source | claim | published | ours | every seed | band | verdict |", "|---|---|---|---|---|---|---|"]
    for row in of_all:
        said = [row["source"], row["says"], published_in_words(row), ours_in_words(row), seeds_in_words(row)]
        cells = [escaped(one) for one in (*said, band_in_words(row))]
        lines.append(f"| {' | '.join(cells)} | [{escaped(row['verdict'])}](#{row['preset']}) |")
    parts = [INTRODUCTION.rstrip("\n"), f"**{number_of(len(of_all), 'claim')} of {papers}: {verdicts}.**"]
    parts += ["\n".join(lines), *(section(of) for of in of_presets.values())]
    return "\n\n".join(parts) + "\n"


def section(of: Sequence[Row]) -> str:
    """A preset's part of the page."""
    first = of[0]
    file = f"conf/study/paper/{first['preset']}.yaml"
    parts = [
        f'<a id="{first["preset"]}"></a>',
        f"## {escaped(first['title'])}",
        f"{escaped(_sentence(first['source']))} The preset: [{escaped(file)}](../../{file}).",
    ]
    if first["figure"]:
        parts += [f"![{escaped(outcome_in_words(of))}]({first['figure']})"]
    lines = ["| claim | models | compared | published | ours | band | its origin | verdict |", f"|{'---|' * 8}"]
    for row in of:
        compared = f"{quantity_in_words(row)}, {row['aggregate']}"
        said = [row["says"], row["models"], compared, published_in_words(row), ours_in_words(row), band_in_words(row)]
        lines.append(f"| {' | '.join(escaped(one) for one in (*said, row['origin'], row['verdict']))} |")
    parts.append("\n".join(lines))
    rules = dict.fromkeys(filter(None, map(_rules_in_words, of)))
    if rules:
        parts.append(f"**Without learning:** {'; '.join(escaped(one) for one in rules)}.")
    if any(map(is_measured, of)):
        parts.append(f"**Mechanism:** {escaped(mechanism_in_words(of))}")
    parts += [
        f"**Published:** {escaped(_sentence(first['settings']))}",
        f"**Left open:** {escaped(_sentence(first['open']))}",
        f"**Bands:** {escaped(_sentence(first['bands']))}",
    ]
    if first["tried"]:
        parts.append(f"**Tried:** {escaped(_sentence(first['tried']))}")
    parts.append(f"**Cost:** {escaped(_sentence(_cost_in_words(first)))}")
    parts.append(f"**Again:** `{first['command']}`, then `python analysis/board.py`.")
    return "\n\n".join(parts)


def _rules_in_words(row: Row) -> str:
    by = "loss" if row["quantity"] == "loss" else "score"
    kinds = (("trivial rule", "trivial"), ("best shallow rule", "shallow"))
    said = [f"{kind} '{row[f'{name}_rule']}', {by} {number(_number(row[name]))}" for kind, name in kinds if row[name]]
    solved = f"solved from a score of {number(_number(row['solved_from']))}" if row["solved_from"] else ""
    return ", ".join([*said, solved] if said and solved else said)


def _cost_in_words(row: Row) -> str:
    if not is_measured(row):
        return f"not run; {row['expected_cost'].removeprefix(f'{NOT_RUN}: ')}"
    took = f"the runs took {seconds_in_words(_number(row['cost']))} in all; hardware: {row['hardware']}"
    return f"{took}; {row['version']}; foreseen: {row['expected_cost']}"


def _sentence(text: str) -> str:
    """With a capital at its beginning and a full stop, where it has neither."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


# --- the figure

CLAIM_WIDTH, CLAIM_LINES = 30, 3
"""Characters and lines of a claim beside its row; the page has all of it."""

UP, DOWN = -0.13, 0.27
"""Where in a row, which is 1 high, the seeds and their mean stand."""

HALF = 0.42
"""Of a row, what its band takes."""

DECADES = 2
"""Of one quantity, from which on its axis is logarithmic."""


@theme.applied()
def draw(of: Sequence[Row]) -> Figure | None:
    """Claims in rows, one panel a quantity, beside the horizons by model; None where no claim has a value."""
    shown = [row for row in of if row["ours"]]
    if not shown:
        return None
    quantities = {quantity: [row for row in shown if row["quantity"] == quantity] for quantity in _quantities(shown)}
    horizons = _horizons(shown)
    names = pd.CategoricalDtype(list(dict.fromkeys(row["models"] for row in of)))
    looks = theme.looks(pd.Series([row["models"] for row in shown]).astype(names))
    height = sum(0.55 * len(group) + 0.45 for group in quantities.values())
    height = max(height, 0.4 * len(horizons) + 0.45) + 1.1
    figure = Figure(figsize=(theme.WIDTH, height), layout="constrained")
    columns = 2 if horizons else 1
    grid = figure.add_gridspec(
        len(quantities),
        columns,
        width_ratios=[1.75, 1] if horizons else [1],
        height_ratios=[0.55 * len(group) + 0.3 for group in quantities.values()],
    )
    for place, group in enumerate(quantities.values()):
        _draw_claims(figure.add_subplot(grid[place, 0]), group, looks)
    if horizons:
        _draw_horizons(figure.add_subplot(grid[:, 1]), horizons, looks)
    _draw_legend(figure, shown, bool(horizons))
    theme.headline(figure, outcome_in_words(of))
    return figure


def _quantities(of: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["quantity"] for row in of))


def _horizons(of: Sequence[Row]) -> list[Row]:
    """A row a model, whichever claims are of it."""
    told = {row["models"]: row for row in of if row["horizons_before"] or row["horizons_after"]}
    return list(told.values())


def _rule_at(row: Row, name: str) -> float:
    """Where a rule stands on the axis of a quantity: of a share of runs, it is none of them or all."""
    value = _number(row[name])
    if row["quantity"] == SHARE and not math.isnan(value):
        return float(value >= _number(row["solved_from"]))
    return value


def _limits(of: Sequence[Row]) -> tuple[float, float, bool]:
    """Both ends of a quantity's axis, and whether it is logarithmic."""
    if of[0]["quantity"] == SHARE:
        return -0.06, 1.06, False
    told = [
        value
        for row in of
        for value in (
            *_numbers(row["seeds"]),
            *(_number(row[name]) for name in ("ours", "low", "high", "max", "published", "band_low", "band_high")),
            *(_rule_at(row, name) for name in ("trivial", "shallow")),
        )
        if math.isfinite(value)
    ]
    least, most = min(told), max(told)
    if least > 0 and most / least > 10**DECADES:
        return least / (most / least) ** 0.06, most * (most / least) ** 0.06, True
    room = 0.06 * (most - least) or 0.1 * abs(most) or 1.0
    return least - room, most + room, False


def _draw_claims(axes: Axes, of: Sequence[Row], looks: Mapping[str, theme.Look]) -> None:
    """Rows from above: band, published value, rules, every seed, and below these the mean with its interval."""
    low, high, logarithmic = _limits(of)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(len(of) - 0.5, -0.5)
    for place, row in enumerate(of):
        ends = [_number(row["band_low"]), _number(row["band_high"])]
        left, right = (
            edge if math.isnan(end) else min(max(end, low), high) for end, edge in zip(ends, (low, high), strict=True)
        )
        # a band of one value is a line; at least as wide as can be seen
        axes.add_patch(
            Rectangle((left, place - HALF), right - left, 2 * HALF, fc=theme.RULE, ec=theme.RULE, lw=1.2, zorder=1)
        )
        for name, dash in RULES.items():
            at = _rule_at(row, name)
            if not math.isnan(at):
                axes.plot([at] * 2, [place - HALF, place + HALF], color=theme.QUIET, lw=1.1, ls=dash, zorder=2)
        published = _number(row["published"])
        if not math.isnan(published):
            axes.plot([published] * 2, [place - HALF, place + HALF], color=theme.INK, lw=1.8, zorder=3)
        _draw_values(axes, place, row, looks[row["models"]], high)
        said = f"{ours_in_words(row)}\n{row['verdict']}".replace(", max", "\nmax")
        axes.text(1.03, place, _in_lines(said), transform=axes.get_yaxis_transform(), va="center", fontsize=theme.SMALL)
    axes.set_yticks(range(len(of)), [_claim_in_lines(row) for row in of], fontsize=theme.SMALL)
    axes.tick_params("y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(quantity_in_words(of[0]))
    if not logarithmic:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(round(value, 9))))
    axes.xaxis.set_minor_locator(NullLocator())


def _draw_values(axes: Axes, place: int, row: Row, look: theme.Look, edge: float) -> None:
    """Seeds side by side, upwards: those that agree would hide one another. What is infinite is at the edge."""
    seeds = _numbers(row["seeds"])
    heights = place + UP + np.linspace(-0.17, 0.17, len(seeds)) if len(seeds) > 1 else np.array([place + UP])
    for value, at in zip(seeds, heights, strict=True):
        beyond = value == math.inf
        axes.plot(
            [edge if beyond else value],
            [at],
            ">" if beyond else look.marker,
            color=look.colour,
            markersize=3.2,
            mfc="none" if beyond else look.colour,
            mew=0.8,
            alpha=0.75,
            clip_on=False,
            zorder=4,
        )
    ends = [min(value, edge) for value in (_number(row["low"]), _number(row["high"]))]
    below, value = place + DOWN, _number(row["ours"])
    if len(seeds) > 1:
        axes.plot(ends, [below] * 2, color=look.colour, lw=1.4, zorder=4)
    marks = [(value, "D")] + [(_number(row["max"]), "*")] * bool(row["max"])
    for at, marker in marks:
        beyond = at == math.inf
        axes.plot(
            [min(at, edge)],
            [below],
            ">" if beyond else marker,
            color=look.colour,
            mfc="none" if beyond else look.colour,
            markersize=4.5 if marker == "D" else 8,
            mew=0.8,
            clip_on=False,
            zorder=5,
        )


def _claim_in_lines(row: Row) -> str:
    lines = theme.wrapped(row["says"], CLAIM_WIDTH).split("\n")
    if len(lines) > CLAIM_LINES:
        lines = [*lines[: CLAIM_LINES - 1], f"{lines[CLAIM_LINES - 1]} …"]
    return "\n".join(lines)


def _in_lines(text: str) -> str:
    """Lines that a margin of an inch and a half has room for."""
    return "\n".join(theme.wrapped(line, 26) for line in text.split("\n"))


def _draw_horizons(axes: Axes, of: Sequence[Row], looks: Mapping[str, theme.Look]) -> None:
    """Each seed's horizon before and after training, and the lag that the task asks to bridge."""
    told = [
        value
        for row in of
        for value in (*_numbers(row["horizons_before"]), *_numbers(row["horizons_after"]), _number(row["lag"]))
        if math.isfinite(value)
    ]
    positive = [value for value in told if value > 0]
    most = max(told, default=1.0) or 1.0
    logarithmic = bool(positive) and most / min(positive) > 10**DECADES
    if logarithmic:
        axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(-0.04 * most if not logarithmic else -0.3, most * (2 if logarithmic else 1.06))
    axes.set_ylim(len(of) - 0.5, -0.5)
    for place, row in enumerate(of):
        look = looks[row["models"]]
        before, after = (_numbers(row[f"horizons_{when}"]) for when in ("before", "after"))
        count = max(len(before), len(after))
        heights = place + (np.linspace(-0.28, 0.28, count) if count > 1 else np.zeros(1))
        if before and after:
            for start, end, at in zip(before, after, heights, strict=True):
                axes.plot([start, end], [at] * 2, color=look.colour, lw=0.6, alpha=0.5, zorder=2)
        for values, filled in ((before, False), (after, True)):
            if values:
                inside = look.colour if filled else theme.PAPER
                size = 3.0 if filled else 5.0  # a ring about the other where they agree
                style: dict[str, Any] = {"color": look.colour, "mfc": inside, "markersize": size, "mew": 0.8}
                axes.plot(values, heights, look.marker, ls="none", zorder=4 if filled else 3, clip_on=False, **style)
        if row["lag"]:
            at = _number(row["lag"])
            axes.plot([at] * 2, [place - 0.5, place + 0.5], color=theme.INK, lw=0.9, dashes=(4, 2.5), zorder=1)
    axes.set_yticks(range(len(of)), [theme.wrapped(row["models"], 16) for row in of], fontsize=theme.SMALL)
    axes.tick_params("y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("gradient's horizon (lags)")
    if not logarithmic:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.xaxis.set_minor_locator(NullLocator())


RULES: dict[str, Any] = {"trivial": (0, (1, 1.2)), "shallow": (0, (4, 1.3, 1, 1.3))}
"""Dashes of the lines at which rules stand that learn nothing, or little."""


def _draw_legend(figure: Figure, of: Sequence[Row], has_horizons: bool) -> None:
    def mark(label: str, marker: str, **style: Any) -> Line2D:
        return Line2D(
            [], [], **{"color": theme.QUIET, "ls": "none", "marker": marker, "ms": 4, "label": label, **style}
        )

    kinds = listed(sorted({"median" if row["aggregate"] == "median" else "mean" for row in of}))
    handles: list[Artist] = [
        Patch(color=theme.RULE, label="band of acceptance"),
        mark("a seed", "o", ms=3.2),
        mark(f"{kinds}, interval over seeds", "D", ls="-", lw=1.4),
    ]
    if any(row["published"] for row in of):
        handles.insert(1, Line2D([], [], color=theme.INK, lw=1.8, label="published"))
    if any(row["max"] for row in of):
        handles.append(mark("maximum", "*", ms=8))
    if any("inf" in row["seeds"] for row in of):
        handles.append(mark("never (∞)", ">", mfc="none"))
    for name, kind in (("trivial", "trivial rule"), ("shallow", "best shallow rule")):
        named = sorted({row[f"{name}_rule"] for row in of if row[name]})
        if named:
            label = f"{kind}: {theme.wrapped(named[0], 34).partition(chr(10))[0]}" if len(named) == 1 else f"{kind}s"
            handles.append(Line2D([], [], color=theme.QUIET, lw=1.1, ls=RULES[name], label=label))
    if has_horizons:
        handles.append(mark("horizon before training", "o", ms=5.0, mfc=theme.PAPER))
        handles.append(mark("horizon after training", "o", ms=3.0))
        if any(row["lag"] for row in of):
            handles.append(Line2D([], [], color=theme.INK, lw=0.9, dashes=(4, 2.5), label="the task's lags, 90 %"))
    labels = [str(handle.get_label()) for handle in handles]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=theme.columns(labels, 4), frameon=False, handlelength=2.4
    )


def picture(of: Sequence[Row], stem: str, to: Path) -> str:
    """Writes a preset's figure; its name comes back, empty where there is nothing to draw."""
    figure = draw(of)
    if figure is None:
        return ""
    theme.write_powers(figure)
    with tempfile.TemporaryDirectory() as temporary:
        files = save(figure, {}, stem, Path(temporary), [], outcome_in_words(of))
        (drawn,) = (path for path in files if path.suffix == ".png")
        shrunk(drawn, 0.0, to / f"{stem}.png")
    return f"{stem}.png"


# --- all of it


def kept(before: pd.DataFrame, of: Preset) -> list[dict[str, str]]:
    """The rows that a board has of a preset by now, where they are of runs."""
    known = [{name: str(value) for name, value in row.items()} for row in records(before[before["preset"] == of.stem])]
    known = known if any(map(is_measured, known)) else []
    now = [{name: row[name] for name in CLAIMED} for row in rows(of, None)]
    if known and [{name: row[name] for name in CLAIMED} for row in known] != now:
        print(f"kept as it was: {of.stem}, whose claims are others now: run it again", file=sys.stderr)
    return known


def write(papers: Path, outputs: Path, to: Path) -> Path:
    """Writes table, figures and page; the page comes back. Raises ValueError for a preset that says something wrong."""
    before = read_table(to / TABLE)
    made: list[dict[str, str]] = []
    to.mkdir(parents=True, exist_ok=True)
    for one in presets(papers):
        runs = gathered(one, outputs)
        now = (kept(before, one) if runs is None else []) or rows(one, runs)
        if runs is not None:
            name = picture(now, one.stem, to)
            now = [row | {"figure": name} for row in now]
            print(f"{outcome_in_words(now)}.")
        made += now
    table = pd.DataFrame(made, columns=list(COLUMNS), dtype=str)
    table.to_csv(to / TABLE, index=False, lineterminator="\n", encoding="utf-8")
    for old in to.glob("*.png"):
        if old.name not in set(table["figure"]):
            old.unlink()
    (to / PAGE).write_text(page(read_table(to / TABLE)), encoding="utf-8")
    return to / PAGE


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Published results, rerun: a table, a page and figures.")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="where runs lie; outputs if left out")
    parser.add_argument("--to", type=Path, default=HERE.parent / "docs" / "board", help="docs/board if left out")
    options = parser.parse_args(arguments)
    try:
        print(write(PAPERS, options.outputs, options.to))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
