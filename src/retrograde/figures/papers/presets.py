"""Presets that rerun a paper, and what the paper claims: read from conf/study/paper/<stem>.yaml, and checked.

The comments at a preset's head say what is rerun and what is not known of it; ``hydra.sweeper.claims`` says what the
paper claims, each with a band of acceptance. What is wrong with either is said before there is any run.
"""

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from retrograde.figures.comparison import listed
from retrograde.figures.papers.settings import NAMED, Value, axis, fixed, made, plain, same, value_of
from retrograde.figures.question import asked

ENTRIES = ("Source", "Published", "Open", "Cost", "Band", "Run", "Rules", "Tried")
OPTIONAL = ("Rules", "Tried")

SHARE, SEQUENCES, BY_LENGTH = "solved", "sequences", "score_by_length"
OF_RUNS = (
    "score", "loss", "validation_score", "horizon", "horizon_start", "parameters", "state_size", "duration", "steps",
    "selected_step",
)  # fmt: skip
"""Quantities that are a column of the runs; the measures of both tests, such as longer.score, are others."""

TESTS = ("test", "longer")

STATED = ("says", "where", "of", "between", "as", "published", "band", "origin")
NEEDED = ("of", "published", "band", "origin")


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
        """Whether a value lies in the band, its ends included; what is not finite lies in none."""
        above = self.low is None or value >= self.low or math.isclose(value, self.low)
        below = self.high is None or value <= self.high or math.isclose(value, self.high)
        return math.isfinite(value) and above and below


@dataclass(frozen=True)
class Preset:
    """A study that reruns a paper: the head of its file, what its runs have, and its claims.

    ``settings`` are those that it sweeps or sets, with their values. Where one chooses an option of a group, a run says
    what that makes and not its name: ``makes`` has it for each.
    """

    file: Path
    title: str
    head: Mapping[str, str]
    settings: Mapping[str, Sequence[Value]]
    swept: Collection[str]
    makes: Mapping[str, Mapping[Value, str | None]]
    claims: Sequence[Claim]

    @property
    def stem(self) -> str:
        return self.file.stem

    @property
    def configured(self) -> str:
        """A name for all that is set or swept, by which a board sees that its rows are of other settings."""
        said = {key: [str(value) for value in values] for key, values in self.settings.items()}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:10]

    def expected(self, where: Mapping[str, Value]) -> int:
        """How many runs of the sweep have these settings."""
        return math.prod(len(values) for key, values in self.settings.items() if key not in where)

    def models(self, where: Mapping[str, Value]) -> str:
        """The models of a claim, with the settings that it names besides."""
        models = [where["model"]] if "model" in where else self.settings.get("model", ["every model"])
        name = listed([str(model) for model in models])
        rest = [f"{key.rpartition('.')[2]}={plain(value)}" for key, value in where.items() if key != "model"]
        return f"{name} ({', '.join(rest)})" if rest else name

    def has(self, run: Mapping[str, Any], key: str, values: Sequence[Value]) -> bool:
        """Whether a run has one of these values."""
        if key in self.makes:
            one = run.get(f"config.{key}._target_")
            return any(same(self.makes[key][value], one) for value in values)
        column = key if key in NAMED else f"config.{key}"
        return column in run and any(same(value, run[column]) for value in values)

    def values_of(self, run: Mapping[str, Any]) -> list[str]:
        """Which of the values that are swept over a run has, in words."""
        swept = {key: values for key, values in self.settings.items() if key in self.swept}
        return [f"{key}={plain(one)}" for key, values in swept.items() for one in values if self.has(run, key, [one])]

    def odd(self, run: Mapping[str, Any]) -> str:
        """Why a run is none of the sweep; empty where it is."""
        for key, values in self.settings.items():
            if not self.has(run, key, values):
                return f"its {key} is not in the sweep" if key in self.swept else f"{self.file.name} sets another {key}"
        return ""


def presets(folder: Path, conf: Path) -> list[Preset]:
    """Those of a folder, in order; raises ValueError, naming the file, for one that says something wrong."""
    return [preset(file, conf) for file in sorted(folder.glob("*.yaml"))]


def preset(file: Path, conf: Path) -> Preset:
    """A file as a preset; raises ValueError, naming it, where its head or a claim is not as it must be.

    ``conf`` is the folder of the groups of options.
    """
    text = file.read_text(encoding="utf-8")
    try:
        title, head = _head(text)
        content = yaml.safe_load(text)
        _require(isinstance(content, dict), "it holds no settings")
        sweeper = (content.get("hydra") or {}).get("sweeper") or {}
        axes = {str(key).lstrip("+"): axis(str(values)) for key, values in (sweeper.get("params") or {}).items()}
        _require(bool(axes), "hydra.sweeper.params has no axis")
        settings = axes | {key: [value] for key, value in fixed(content).items() if key not in axes}
        groups = {key: values for key, values in settings.items() if key not in NAMED and (conf / key).is_dir()}
        makes = {key: {value: made(conf / key, value) for value in values} for key, values in groups.items()}
        stated = sweeper.get("claims")
        if not isinstance(stated, list) or not stated:
            raise ValueError("hydra.sweeper.claims must be a list of claims")
        command = f"study=paper/{file.stem}"
        for entry in ("Run", "Rules"):
            _require(not head[entry] or command in head[entry].split(), f"'{entry}:' must hold {command}")
        for key, options in makes.items():
            alike = len(set(options.values())) < len(options)
            _require(not alike, f"no run says which '{key}' it had: sweep over one of its settings")
        return Preset(file, title, head, settings, set(axes), makes, [_claim(one, settings) for one in stated])
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


def _claim(stated: Any, settings: Mapping[str, Sequence[Value]]) -> Claim:
    """A claim on runs that have these settings."""
    _require(isinstance(stated, dict) and isinstance(stated.get("says"), str), "a claim must say something: 'says:'")
    says = " ".join(stated["says"].split())
    try:
        unknown = [str(key) for key in stated if key not in STATED]
        _require(not unknown, f"there is no '{', '.join(unknown)}'; there are {', '.join(STATED)}")
        missing = [key for key in NEEDED if key not in stated]
        _require(not missing, f"'{', '.join(missing)}' is missing")
        where = _where(stated.get("where") or {}, settings)
        of = str(stated["of"])
        known = of in (SHARE, SEQUENCES, BY_LENGTH, *OF_RUNS) or re.fullmatch(rf"({'|'.join(TESTS)})\.\w+", of)
        _require(bool(known), f"no quantity is called '{of}'")
        between = _between(stated.get("between"), of)
        aggregate = str(stated.get("as", "median" if of == SEQUENCES else "mean"))
        _require(aggregate in ("mean", "median", "max"), f"'as' must be mean, median or max, not '{aggregate}'")
        _require(of != SHARE or aggregate == "mean", "a share of runs is a mean")
        published = stated["published"]
        _require(published is None or _is_number(published), "'published' must be a number or null")
        low, high = _band(stated["band"])
        _require(isinstance(stated["origin"], str), "'origin' must say where the band comes from")
    except ValueError as error:
        raise ValueError(f"the claim '{says}': {error}") from error
    published, origin = None if published is None else float(published), " ".join(stated["origin"].split())
    return Claim(says, where, of, between, aggregate, published, low, high, origin)


def _where(stated: Any, settings: Mapping[str, Sequence[Value]]) -> dict[str, Value]:
    _require(isinstance(stated, dict), "'where' must be settings and their values")
    where = {str(key): value_of(value) for key, value in stated.items()}
    for key, value in where.items():
        swept = any(same(value, each) for each in settings.get(key, ()))
        _require(swept, f"no run of the sweep has {key}={plain(value)}")
    return where


def _between(stated: Any, of: str) -> tuple[int, int] | None:
    _require((of == BY_LENGTH) == (stated is not None), f"'between' is for '{BY_LENGTH}', which needs it")
    if stated is None:
        return None
    ordered = isinstance(stated, list) and len(stated) == 2 and all(type(end) is int for end in stated)
    _require(ordered and stated[0] <= stated[1], "'between' must be the first and the last length")
    return stated[0], stated[1]


def _band(stated: Any) -> tuple[float | None, float | None]:
    ends = isinstance(stated, list) and len(stated) == 2 and all(end is None or _is_number(end) for end in stated)
    _require(ends and stated != [None, None], "'band' must be two numbers, of which one may be null")
    low, high = (None if end is None else float(end) for end in stated)
    upright = low is None or high is None or low <= high
    _require(upright, f"its band is upside down: {stated[0]} is above {stated[1]}")
    return low, high


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
