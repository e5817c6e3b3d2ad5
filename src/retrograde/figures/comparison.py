"""The runs that may stand in one figure: one study, and of it one variant of one task.

Runs of other variants are another comparison, because a loss on a longer sequence is another quantity. Within one, runs
that differ in their seed alone are drawn as one model; where other settings differ, each setting is a model of its own,
named after what differs: ``lstm (hidden=64)``. A question that is about tasks, such as how long a sequence may be, is
asked of all runs of a study at once.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import pandas as pd

from retrograde.record.folder import FAILED, FINISHED, NOT_PART_OF_THE_RESULT, RUNNING
from retrograde.record.metadata import number_of, shown
from retrograde.record.store import BEGUN, FolderStore
from retrograde.record.survey import differing, settings_of
from retrograde.record.tables import columns_of, is_there

Tables = Mapping[str, pd.DataFrame]
"""What a figure is drawn from, by name. ``numbers`` is the one that is reported; the others hold what is drawn."""

NUMBERS = "numbers"

NO_MODEL = (
    *("seed", "study", "task", "probe", "probing", *NOT_PART_OF_THE_RESULT),
    *("trainer.log_every", "trainer.validate_every"),
    *("trainer.validation_samples", "trainer.test_samples", "trainer.longer_samples"),
)
"""Settings that do not make another model: what it is asked, and how often and on how much it is looked at."""

RULE, REACH = "model.rule", "model.k"
"""The settings that say which shallow rule a run is of, and how many steps one sees that looks at the last few; the
name of a rule says both."""

COUNTED = ("solved", "unsolved", "diverged")
"""Outcomes that tell whether a run solves its task, as one that diverged does not; the others do not tell yet."""

BEFORE, AFTER = "before", "after"

LONGEST_STEM, LONGEST_SETTING, LONGEST_REASON = 100, 60, 500
"""Characters of a file's stem, of a setting in a model's name, and of the reason why a run ended."""

NAMED = 8
"""Models that a sentence names; of more, the others are counted."""

LONGEST_DRAWN, LONGEST_LABEL = 200, 40
"""Characters of a sentence in a figure, which takes time by the letter, and of a position's label."""


class NothingToDraw(ValueError):
    """The runs hold nothing that answers the question; the message says what is missing."""


class NotRecorded(NothingToDraw):
    """A reading is missing that no run holds: nobody asked for its probe, or no model has what it measures."""


@dataclass(frozen=True)
class Comparison:
    """Some of a store's runs. ``runs`` is FolderStore.runs() for these, with ``model`` as a category.

    The categories are the models of the whole store, so that a look stays with its model across comparisons. Rules come
    last among them: they are drawn only where they are alone, and no other look depends on whether there are any.
    ``rules`` are the runs of shallow rules, which learn nothing: the others are measured by them.
    ``cards`` are the tasks' cards by run; where there are several variants, ``task`` names all tasks.
    """

    store: FolderStore
    study: str
    task: str
    cards: Mapping[str, Mapping[str, Any]]
    runs: pd.DataFrame
    rules: pd.DataFrame
    stem: str

    @property
    def card(self) -> Mapping[str, Any]:
        """The card that all runs have, or the first of several."""
        return next(iter(self.cards.values()))

    @property
    def variants(self) -> list[str]:
        """What runs are of, each once, in order; more than one only where the whole study is compared."""
        return list(
            dict.fromkeys(f"{run['task']}: {run['variant']}" for run in records(self.runs[["task", "variant"]]))
        )

    def rule_scores(self) -> pd.DataFrame:
        """``rule``, ``score`` and ``loss`` of every shallow rule that was run on the test set, the best first."""
        table = self.rules.reindex(columns=["model", "score", "loss"]).dropna()
        table = table.astype({"model": str, "score": float, "loss": float}).groupby("model", as_index=False).median()
        table["model"] = table["model"].str.removeprefix("rule: ")
        return table.rename(columns={"model": "rule"}).sort_values(
            ["score", "loss"], ascending=[False, True], ignore_index=True
        )

    def metrics(self) -> pd.DataFrame:
        return self._named(self.store.metrics(self._names()))

    def labels(self, run: str) -> pd.DataFrame:
        """The probe batch in words, each as long as it can be drawn."""
        table = self.store.labels([run])
        short = [f"{one[:LONGEST_LABEL]}{'…' * (len(one) > LONGEST_LABEL)}" for one in table["label"]]
        return table.assign(label=pd.Series(short, table.index, dtype="str"))

    def readings(self, name: str, steps: Sequence[int] | None = None, statistic: str | None = None) -> pd.DataFrame:
        """As the store gives them, with model and seed; raises NotRecorded where no run holds any."""
        table = self._named(self.store.readings(name, self._names(), steps, statistic))
        if table.empty:
            raise NotRecorded(f"no run holds the reading {name}")
        return table

    def _names(self) -> list[str]:
        return [str(run) for run in self.runs["run"]]

    def _named(self, table: pd.DataFrame) -> pd.DataFrame:
        return self.runs[["run", "model", "seed"]].merge(table, on="run")


VARIANT, STUDY = ("study", "task", "variant"), ("study",)
"""What the runs of one comparison share."""


def comparisons(store: FolderStore, of: tuple[str, ...] = VARIANT) -> tuple[list[Comparison], dict[str, str]]:
    """Every comparison that the store holds, in order, and what is in none or cannot be read, each with the reason.

    A run without a card that can be read, or that failed before it had one, is compared with those on the same task.
    """
    left_out = dict(store.unreadable)
    runs = store.runs()
    runs["reason"] = [_reason(run, store) for run in records(runs)]
    cards: dict[str, Mapping[str, Any]] = {}
    without = {}
    for run in runs["run"]:
        try:
            cards[run] = store.card(run)
        except ValueError as error:
            without[run] = str(error)
    known = {_on_task(store.metadata(run)): card for run, card in cards.items()}
    for run, why in without.items():
        card = known.get(_on_task(store.metadata(run)))
        if card is not None:
            cards[run] = card
        has_begun = any(is_there(store.folders[run].path / part) for part in ("card.json", *BEGUN[1:]))
        if has_begun:
            left_out[run] = f"{left_out[run]}; {why}" if run in left_out else why
        elif card is None:
            left_out[run] = next(iter(exceptions(runs[runs["run"] == run])), why)
    runs = runs[runs["run"].isin(list(cards))].reset_index(drop=True)
    runs["variant"] = [cards[run]["variant"] for run in runs["run"]]
    groups = [frame for _, frame in runs.groupby(list(of), sort=True)]
    named = [
        frame.assign(model=model_names([columns_of(store.metadata(run)) for run in frame["run"]])) for frame in groups
    ]
    trained = {name for frame in named for name in frame.loc[_learns(frame), "model"]}
    rules = {name for frame in named for name in frame["model"]} - trained
    models = pd.CategoricalDtype([*sorted(trained, key=in_order), *sorted(rules, key=in_order)])
    found: list[Comparison] = []
    for frame in named:
        frame = frame.astype({"model": models}).sort_values(["model", "seed", "run"], ignore_index=True)
        study, task = str(frame["study"][0]), listed(sorted({str(task) for task in frame["task"]}))
        stem = again = slug(study if of == STUDY else f"{study}-{task}")
        taken = {one.stem.casefold() for one in found}  # as some file systems see it
        for number in count(2):
            if stem.casefold() not in taken:
                break
            stem = f"{again}-{number}"
        learns = _learns(frame)
        if not learns.any():  # rules among themselves
            learns = ~learns
        # in one piece, or pandas warns whoever adds a column to hundreds of settings
        drawn, beside = (frame[chosen].reset_index(drop=True).copy() for chosen in (learns, ~learns))
        of_run = {str(run): cards[run] for run in frame["run"]}
        found.append(Comparison(store, study, task, of_run, drawn, beside, stem))
    return found, left_out


def _on_task(metadata: Mapping[str, Any]) -> str:
    """The same for runs of one study on one task with the same settings."""
    return json.dumps([metadata["study"], metadata["task"], metadata["config"].get("task")], sort_keys=True)


def _reason(run: Mapping[str, Any], store: FolderStore) -> str | None:
    """Why a run ended as it did, where that is known."""
    if run["status"] == RUNNING and not store.at_work(run["run"]):
        return "nobody is at work on it"
    reason = run.get("reason")
    return None if pd.isna(reason) else in_short(str(reason), LONGEST_REASON)


def model_names(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The model of each run, with the settings in which runs of that model differ.

    >>> model_names([{"model": "lstm", "seed": seed, "config.seed": seed} for seed in (0, 1)])
    ['lstm', 'lstm']
    >>> model_names([{"model": "lstm", "config.model.hidden": hidden} for hidden in (8.0, 16.0)])
    ['lstm (hidden=8)', 'lstm (hidden=16)']

    A shallow rule is called by what it is; of a model that learns, a setting named as one of a rule is like any other.

    >>> rules = [{"model": "rule", "learns": False, "config.model.rule": rule} for rule in ("bag", "window")]
    >>> model_names([rule | {"config.model.k": 10} for rule in rules])
    ['rule: bag', 'rule: last 10 steps']
    >>> model_names([{"model": "mine", "config.model.k": k} for k in (4.0, 8.0)])
    ['mine (k=4)', 'mine (k=8)']
    """
    of_stem: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        of_stem.setdefault(_rule(run) if run.get("learns") is False else str(run["model"]), []).append(place)
    names = [""] * len(runs)
    for stem, places in of_stem.items():
        settings = settings_of([runs[place] for place in places])
        learn = all(runs[place].get("learns") is not False for place in places)
        told = differing(settings, NO_MODEL if learn else (*NO_MODEL, RULE, REACH), _plain)
        for place, of_run in zip(places, settings, strict=True):
            entries = [f"{name}={_plain(of_run[key])}" for key, name in told.items() if key in of_run]
            names[place] = f"{stem} ({', '.join(entries)})" if entries else stem
    return names


def _rule(run: Mapping[str, Any]) -> str:
    """What a run of a shallow rule is called."""
    name, reach = (_plain(run.get(f"config.{setting}", "unnamed")) for setting in (RULE, REACH))
    return f"rule: last {reach} steps" if name == "window" else f"rule: {name.replace('_', ' ')}"


def _learns(runs: pd.DataFrame) -> pd.Series:
    """Whether there is anything to train in each run's model; runs that do not say have."""
    if "learns" not in runs:
        return pd.Series(True, runs.index)
    return runs["learns"].map(lambda learns: learns is not False and learns != 0)


def in_order(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers within names by their size.

    >>> sorted(["hidden=16", "hidden=8"], key=in_order)
    ['hidden=8', 'hidden=16']
    """
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """The rows before training, of step 0, and those of each run's last later step, told apart by ``when``.

    A probe that was asked of a run's saved weights alone has read it ``after`` and never ``before``.
    """
    last = table.groupby("run")["step"].transform("max")
    when = np.where(table["step"] == 0, BEFORE, np.where(table["step"] == last, AFTER, ""))
    return table.assign(when=when)[when != ""].reset_index(drop=True)


def at_ends(numbers: pd.DataFrame, column: str) -> list[str]:
    """At which ends of training any row has a number in a column, whose name has ``{}`` for the end; else both."""
    names = {when: column.format(when) for when in (BEFORE, AFTER)}
    return [when for when, name in names.items() if name in numbers and numbers[name].notna().any()] or list(names)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as mappings."""
    return [{str(column): value for column, value in row.items()} for row in table.to_dict("records")]


def outcome(run: Mapping[str, Any]) -> str:
    """How a run ended, in one word: solved, unsolved, diverged, failed, interrupted or running."""
    if run["status"] != FINISHED:
        return str(run["status"])
    if not pd.isna(run.get("diverged_step")):
        return "diverged"
    return "solved" if run.get("solved") is True or run.get("solved") == 1 else "unsolved"


def outcomes(runs: pd.DataFrame) -> list[str]:
    """How each ended."""
    return [outcome(run) for run in records(runs.reindex(columns=["status", "diverged_step", "solved"]))]


def uncounted(ended: Iterable[str]) -> str:
    """How many runs there were beside those that count, by how they ended; empty where all count.

    >>> uncounted(["solved", "running", "failed", "running", "diverged"])
    'Not counted: 1 failed, 2 running'
    """
    beside = Counter(one for one in ended if one not in COUNTED)
    return f"Not counted: {', '.join(f'{beside[one]} {one}' for one in sorted(beside))}" if beside else ""


def exceptions(runs: pd.DataFrame) -> list[str]:
    """One sentence for every run that did not end as it should."""
    sentences = []
    for run, ended in zip(records(runs.reindex(columns=["model", "seed", "reason"])), outcomes(runs), strict=True):
        if ended in ("solved", "unsolved"):
            continue
        reason = run.get("reason")
        because = "" if pd.isna(reason) else f": {reason}"
        verb = {FAILED: "failed", "diverged": "diverged", "running": "is not finished"}.get(ended, f"was {ended}")
        sentences.append(f"{run['model']}, seed {run['seed']}, {verb}{because}")
    return sentences


def slug(text: str) -> str:
    """A file name's worth of a name.

    >>> slug("../../demo-<b>")
    'demo-_b'
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text)[:LONGEST_STEM].strip("._") or "runs"


def in_short(text: str, longest: int) -> str:
    """One line of at most so many characters that can be printed; what is cut stays told apart by a hash.

    >>> in_short("one\\ntwo", 20), in_short("0123456789" * 10, 20)
    ('one two', '012345678901… 9cfe7f')
    """
    line = shown(" ".join(text.split()))
    digest = hashlib.sha256(line.encode()).hexdigest()[:6]
    return line if len(line) <= longest else f"{line[: longest - 8]}… {digest}"


def listed(names: Sequence[str]) -> str:
    """
    >>> listed(["gru", "lstm", "elman"])
    'gru, lstm and elman'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def listed_in_short(names: Sequence[str]) -> str:
    """A few by name, the others by number.

    >>> listed_in_short([f"m{place}" for place in range(10)])
    'm0, m1, m2, m3, m4, m5, m6, m7 and 2 others'
    """
    more = len(names) - NAMED
    return listed([*names[:NAMED], *[number_of(more, "other")] * (more > 0)])


def _plain(value: Any) -> str:
    """
    >>> [_plain(value) for value in (1.0, 0.003, 1e30, True, None)]
    ['1', '0.003', '1e+30', 'True', 'null']
    """
    if value is None:
        return "null"
    return str(value).removesuffix(".0") if isinstance(value, float) else in_short(str(value), LONGEST_SETTING)
