"""The runs of a project as a workspace and a report in W&B, made from the runs themselves.

    python analysis/dashboard.py my-team/retrograde --from outputs
    python analysis/dashboard.py my-team/retrograde --from outputs --dry-run dashboard.json

The workspace has a section for all runs and one for each study: its question, what is expected, and the panels which
the script of the same name in analysis/ needs, by the readings that its ``Data:`` names. The report says the same, with
the runs of each study alone and with the finding as that script computes it. A study without a script of its name is
asked every question that its runs answer. Layers, lags, heads and settings are those of the runs in SOURCE: a panel is
of keys that they log. Nothing is uploaded but the two specifications; analysis/sync.py uploads runs.

``--dry-run`` writes both as one JSON file, without any network; the same runs give the same bytes. Otherwise both are
saved, as a new view and a new report, and their addresses printed; W&B is asked for the key as ever (wandb login).
"""

import argparse
import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import wandb

from retrograde.figures.comparison import Comparison, NothingToDraw, comparisons
from retrograde.figures.question import Question, asked, compared, failure, imported
from retrograde.record.folder import NOT_PART_OF_THE_RESULT
from retrograde.record.keys import Key, metric_keys, reading_keys
from retrograde.record.metadata import shown
from retrograde.record.secret import redacted
from retrograde.record.store import FolderStore
from retrograde.record.view import STEP

if importlib.util.find_spec("wandb_workspaces") is not None:  # main says what is needed where it is not there
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

HERE = Path(__file__).parent

NAME = "Retrograde"
"""Of the workspace; W&B takes no emoji there."""

SCORE, TEST = "validation/score", "test/score"

LOG10 = {
    "gates/forget_path": "log10 factor",
    "influence/norm": "log10 output per input",
    "input_gradient/norm": "log10 loss per input",
    "jacobian/frobenius": "log10",
    "jacobian/product_frobenius": "log10",
    "jacobian/product_spectral": "log10",
    "jacobian/spectral": "log10",
    "lag_gradient/norm": "log10 loss per state",
    "lag_gradient/relative": "log10 share",
    "omega/ratio": "log10",
    "parameters/gradient": "log10",
    "parameters/update_ratio": "log10",
    "parameters/used": "log10",
    "parameters/weight": "log10",
    "source_gradient/norm": "log10 loss per state",
    "state_gradient/direct": "log10 loss per state",
    "state_gradient/total": "log10 loss per state",
    "weight_contribution/norm": "log10 loss per weight",
}
"""What is logged as a logarithm, and of what: W&B knows no units, and an axis has to say it."""

NO_AXIS = ("seed", "study", "probe", "probing", "_target_", "_partial_", *NOT_PART_OF_THE_RESULT)
"""Settings that are no axis of a plot, at whatever depth."""

MOST_AXES = 12
"""Of a plot of parallel coordinates that can still be read."""

DECADES = 50
"""Largest over smallest value from which on an axis is logarithmic."""

MOST_RUNS = 100
"""That W&B draws in one panel, where it would leave out all but ten."""

MOST_GROUPINGS = 3
"""Of what varies in a study, that the scores are shown by."""

MOST_KEYS = 16
"""Heads, or parameters, in one panel."""

WIDE, HIGH, ABREAST = 8, 6, 3
"""A panel of a report, whose width is 24, and how many stand side by side."""


@dataclass(frozen=True)
class Asked:
    """A question of a study, with what the runs say to it, by task, and the keys of its data, by reading or metric.

    ``open`` are the tasks whose runs do not answer it, each with what is missing.
    """

    question: str
    expected: str
    findings: list[tuple[str, str]]
    open: list[tuple[str, str]]
    keys: dict[str, list[Key]]


@dataclass(frozen=True)
class Study:
    """A study's runs, and what is asked of them; ``metrics`` are the keys of all its metrics, ``by`` is what varies."""

    name: str
    runs: pd.DataFrame
    by: list[str]
    metrics: set[str]
    asked: list[Asked]


def studies(store: FolderStore, scripts: Mapping[str, Question]) -> tuple[list[Study], dict[str, str]]:
    """Every study that the store holds, in order, and what is in none, each with the reason."""
    found, left_out = comparisons(store)
    names = list(dict.fromkeys(comparison.study for comparison in found))
    whole = {compared(script) for script in scripts.values()}
    by_kind = {of: comparisons(store, of)[0] for of in whole}
    made = []
    for name in names:
        of_study = [comparison for comparison in found if comparison.study == name]
        chosen = [run for comparison in of_study for run in _one_of_each(comparison)]
        own = {name: scripts[name]} if name in scripts else scripts
        questions = []
        for stem, script in own.items():
            given = [comparison for comparison in by_kind[compared(script)] if comparison.study == name]
            one = _asked(stem, script, given, store, chosen)
            if name in scripts or (one.keys and one.findings):
                questions.append(one)
        runs = pd.concat([comparison.runs.astype({"model": str}) for comparison in of_study], ignore_index=True)
        metrics = {key.text for key in metric_keys(store, chosen)}
        made.append(Study(name, runs, varying(runs, store) or ["model"], metrics, questions))
    return made, left_out


def _one_of_each(comparison: Comparison) -> list[str]:
    """A run of each model, the one that says most: runs that differ in their seed alone log the same keys."""
    chosen = []
    for _, of_model in comparison.runs.groupby("model", observed=True):
        runs = [str(run) for run in of_model["run"]]
        chosen.append(max(runs, key=lambda run: len(comparison.store.tables([run]))))
    return chosen


def _asked(stem: str, script: Question, given: Sequence[Comparison], store: FolderStore, runs: Sequence[str]) -> Asked:
    """The script's question, its finding for each comparison that it can be asked of, and the keys of its data."""
    findings, unanswered = [], []
    for comparison in given:
        is_one_of_several = sum(other.task == comparison.task for other in given) > 1
        task = comparison.variants[0] if is_one_of_several else comparison.task
        try:
            findings.append((task, f"{script.finding(script.load(comparison))}."))
        except NothingToDraw as reason:
            unanswered.append((task, f"{reason}."))
        except Exception as error:  # a question that fails costs the others nothing
            why = failure(error, comparison)
            unanswered.append((task, f"{why}."))
            print(f"no finding: {stem} for {shown(comparison.study)}, {shown(task)}: {why}", file=sys.stderr)
    metrics = {key.text: [key] for key in metric_keys(store, runs)}
    readings = store.tables(runs)
    keys = {}
    for name in data(asked(script.__doc__, "Data"), [*metrics, *readings]):
        of_name = metrics[name] if name in metrics else reading_keys(store, name, runs)
        if of_name:
            keys[name] = of_name
    return Asked(asked(script.__doc__) or stem, asked(script.__doc__, "Expect"), findings, unanswered, keys)


def data(entry: str, known: Sequence[str]) -> list[str]:
    """The readings and metrics that a ``Data:`` entry names, of those that there are.

    The probe need not be said again: "attention/map and distance".
    """
    found: dict[str, None] = {}
    probe = ""
    for match in re.finditer(r"(?:(\w+)/)?(\w+)", entry):
        probe = match[1] or probe
        if f"{probe}/{match[2]}" in known:
            found[f"{probe}/{match[2]}"] = None
    return list(found)


def result_panels(metrics: set[str], by: Sequence[str]) -> Iterator[Any]:
    """The score over training and of the test, by what varies."""
    for column in by[:MOST_GROUPINGS]:
        words = f"by {_words(column)}: median and range over the runs"
        if SCORE in metrics:
            yield _lines(f"validation score {words}", [SCORE], "score", column)
        if TEST in metrics:
            yield _bars(f"test score {words}", [TEST], "score", column)


def _words(column: str) -> str:
    return column.removeprefix("config.")


def _grouping(column: str) -> Any:
    """As W&B stores a setting: a key of the run's config, its value, and the way inside."""
    first, *rest = column.split(".")
    return wr.Config(".".join([first, "value", *rest]))


def question_panels(keys: Mapping[str, Sequence[Key]], by: str) -> Iterator[Any]:
    """What shows a question's data, reading by reading, with the runs in groups."""
    for name, of_name in keys.items():
        kinds: dict[str, list[Key]] = {}
        for key in of_name:
            kinds.setdefault(key.kind, []).append(key)
        words = name.replace("_", " ").replace("/", ": ")
        unit = LOG10.get(name, words.partition(": ")[2])
        plain = [key.text for kind in ("metric", "number") for key in kinds.get(kind, ())]
        if plain:
            yield _lines(words, plain, unit, by)
        for where, named in _by_place(kinds.get("named", ())).items():
            yield _lines(f"{words} of {where}{_of(named)}", [key.text for key in named[:MOST_KEYS]], unit, by)
        if "set" in kinds:
            yield _bars(f"{words}, mean over the test set", [key.text for key in kinds["set"]], unit, by)
        yield from _lag_panels(words, unit, kinds.get("lag", ()), by)
        for over, right in (("over_lag", "lag"), ("over_time", "time")):
            pictures = [key.text for key in kinds.get("picture", ()) if key.label == over]
            if pictures:
                yield wr.MediaBrowser(
                    title=f"{words}, as colour ({unit}): training downward, {right} to the right",
                    media_keys=pictures, mode="gallery", gallery_axis="run",
                )  # fmt: skip
        for where, maps in _by_place(kinds.get("map", ())).items():
            yield wr.MediaBrowser(
                title=f"{words} of {where}{_of(maps)}: queries downward, square-root scale; a picture a step",
                media_keys=[key.text for key in maps[:MOST_KEYS]], mode="gallery", gallery_axis="step",
            )  # fmt: skip


def _lag_panels(words: str, unit: str, keys: Sequence[Key], by: str) -> Iterator[Any]:
    """At the largest lag that all places have; then of each place at every lag."""
    places = _by_place(keys)
    shared = [key.label for key in keys if sum(other.label == key.label for other in keys) == len(places)]
    if shared:
        last = max(shared, key=_lag)
        yield _lines(f"{words} at lag {_lag(last)}", [key.text for key in keys if key.label == last], unit, by)
    for where, of_place in places.items():
        lags = sorted(of_place, key=lambda key: _lag(key.label))
        yield _lines(f"{words} of {where}, a line for each lag", [key.text for key in lags], unit, by)


def _of(keys: Sequence[Key]) -> str:
    return f", the first {MOST_KEYS} of {len(keys)}" if len(keys) > MOST_KEYS else ""


def _lag(label: str) -> int:
    return int(label.removeprefix("lag_"))


def _by_place(keys: Iterable[Key]) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = {}
    for key in keys:
        found.setdefault(key.where, []).append(key)
    return found


def _lines(title: str, keys: Sequence[str], unit: str, by: str) -> Any:
    """Over optimiser steps: the median over each group's runs, and their range; nothing is smoothed."""
    return wr.LinePlot(
        title=title, x=STEP, y=list(keys), title_x="step", title_y=unit, groupby=_grouping(by),
        groupby_aggfunc="median", groupby_rangefunc="minmax", smoothing_type="none", max_runs_to_show=MOST_RUNS,
    )  # fmt: skip


def _bars(title: str, keys: Sequence[str], unit: str, by: str) -> Any:
    return wr.BarPlot(
        title=title, metrics=list(keys), title_x=unit, groupby=_grouping(by), groupby_aggfunc="median",
        groupby_rangefunc="minmax", max_runs_to_show=MOST_RUNS, max_bars_to_show=MOST_RUNS,
    )  # fmt: skip


def settings_panels(runs: pd.DataFrame, store: FolderStore) -> Iterator[Any]:
    """From what varies among the runs to the test score; none where nothing does."""
    columns = varying(runs, store)
    if not columns:
        return
    axes = [
        wr.ParallelCoordinatesPlotColumn(
            wr.Config(column), display_name=_words(column), log=_is_wide(runs[column]) or None
        )
        for column in columns[:MOST_AXES]
    ]
    axes.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(TEST), display_name="test score"))
    more = f" (the first {MOST_AXES} of {len(columns)})" if len(columns) > MOST_AXES else ""
    yield wr.ParallelCoordinatesPlot(title=f"what varies{more}, and the test score", columns=axes)


def varying(runs: pd.DataFrame, store: FolderStore) -> list[str]:
    """Model, task and the settings in which the runs differ and that all have; of those that tell the same runs apart,
    the first. A run without a setting would be left out of the plot; null is a value.
    """
    settings = [column for column in map(str, runs) if column.startswith("config.") and _is_axis(column)]
    found: dict[tuple[int, ...], str] = {}
    for column in ["model", "task", *settings]:
        values = [_value(store.metadata(str(run)), column.split(".")) for run in runs["run"]]
        codes, kinds = pd.factorize(pd.Series(values, dtype=object))
        if len(kinds) > 1 and None not in values:
            found.setdefault(tuple(codes), column)
    return list(found.values())


def _is_axis(column: str) -> bool:
    parts = column.split(".")[1:]
    return parts[0] not in NO_AXIS and parts[-1] not in NO_AXIS


def _value(metadata: Mapping[str, Any], path: Sequence[str]) -> str | None:
    """What W&B finds there, which takes every dot for a step inside; None where it finds nothing."""
    found: Any = metadata
    for part in path:
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return json.dumps(found)


def _is_wide(values: pd.Series) -> bool:
    """Whether an axis has to be logarithmic."""
    numbers = pd.to_numeric(values, errors="coerce").dropna()
    return len(numbers) > 0 and bool(numbers.min() > 0 and numbers.max() / numbers.min() >= DECADES)


def workspace(entity: str, project: str, found: Sequence[Study], store: FolderStore) -> Any:
    """A section for all runs, then one a study."""
    runs, metrics = _all(found)
    everything = [*result_panels(metrics, ["model"]), wr.RunComparer(diff_only=True)]
    everything += settings_panels(runs, store) if TEST in metrics else ()
    sections = [_section("all runs", everything)]
    for study in found:
        sections.append(_section(study.name, [wr.MarkdownPanel(markdown(study)), *_panels_of(study, store)]))
    for section in sections:
        _name(section.panels, entity, project, "workspace", section.name)
    settings = ws.WorkspaceSettings(x_axis=STEP, max_runs=MOST_RUNS)
    return ws.Workspace(entity=entity, project=project, name=NAME, sections=sections, settings=settings)


def _section(name: str, panels: list[Any]) -> Any:
    rows = min(4, -(-len(panels) // ABREAST))
    return ws.Section(
        name=name, panels=panels, is_open=True, panel_settings=ws.SectionPanelSettings(x_axis=STEP),
        layout_settings=ws.SectionLayoutSettings(columns=ABREAST, rows=rows),
    )  # fmt: skip


def _panels_of(study: Study, store: FolderStore) -> list[Any]:
    """The panels of all that is asked, each reading once, between the scores and what varies within the study."""
    keys = {name: of_name for one in study.asked for name, of_name in one.keys.items() if name not in (SCORE, TEST)}
    return [
        *result_panels(study.metrics, study.by),
        *question_panels(keys, study.by[0]),
        *(settings_panels(study.runs, store) if TEST in study.metrics else ()),
    ]


def _all(found: Sequence[Study]) -> tuple[pd.DataFrame, set[str]]:
    """The runs of all studies, and the metrics that any has."""
    runs = pd.concat([study.runs for study in found], ignore_index=True)
    return runs, set().union(*(study.metrics for study in found))


def markdown(study: Study) -> str:
    """What is asked of a study, as Markdown in which nothing from outside is markup."""
    lines = [f"In the table of runs, the filter Group = {escaped(study.name)} leaves the runs of this study."]
    lines += [f"**{head}:** {escaped(text)}" for one in study.asked for head, text in said(one)]
    return "\n\n".join(lines)


def said(one: Asked) -> Iterator[tuple[str, str]]:
    """Question, expectation and answers, each with its heading."""
    yield "Question", one.question
    yield "Expected", one.expected
    for task, words in one.findings:
        yield "Found", f"{task}: {words}"
    for task, reason in one.open:
        yield "Not answered", f"{task}: {reason}"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is.

    >>> escaped("a*b <i>")
    'a\\\\*b &lt;i&gt;'
    """
    plain = shown(" ".join(text.split()))
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        plain = plain.replace(character, entity)
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", plain)


def report(entity: str, project: str, found: Sequence[Study], store: FolderStore) -> Any:
    """All runs, then each study with its question, the finding and its own runs; its texts are no markup."""
    runs, metrics = _all(found)
    everything = [*result_panels(metrics, ["model"]), *(settings_panels(runs, store) if TEST in metrics else ())]
    blocks = [wr.TableOfContents(), wr.H2("all runs"), _grid(entity, project, "all runs", None, everything)]
    for study in found:
        blocks.append(wr.H2(shown(study.name)))
        blocks += [wr.P(shown(f"{head}: {text}")) for one in study.asked for head, text in said(one)]
        panels = _panels_of(study, store)
        blocks.append(_grid(entity, project, study.name, study.name, panels))
    return wr.Report(
        entity=entity, project=project, title=f"{NAME}: every study", width="fluid", blocks=blocks,
        description="Made by analysis/dashboard.py of the runs that it was given.",
    )  # fmt: skip


def _grid(entity: str, project: str, name: str, group: str | None, panels: list[Any]) -> Any:
    """Panels on the runs of one group, or on all of the report's project."""
    for at, panel in enumerate(panels):
        panel.layout = wr.Layout(x=at % ABREAST * WIDE, y=at // ABREAST * HIGH, w=WIDE, h=HIGH)
    _name(panels, entity, project, "report", name)
    runset = wr.Runset(name=shown(name))
    runset._id = _id(entity, project, "report", name, "runs")
    if group is not None:  # given as data: the package's own language of filters takes a quote for the end of a text
        leaf = {"key": {"section": "run", "name": "group"}, "op": "=", "value": group, "disabled": False}
        runset._stashed_filters_v2 = {"filterFormat": "filterV2", "filters": [leaf]}
        runset._stashed_filter_string = str(runset.filters)
    return wr.PanelGrid(runsets=[runset], panels=panels)


def _name(panels: Sequence[Any], *place: str) -> None:
    """Ids that are the same whenever the same is built; the package would draw them."""
    for at, panel in enumerate(panels):
        panel._id = _id(*place, str(at))


def _id(*place: str) -> str:
    return hashlib.sha256(json.dumps(place).encode()).hexdigest()[:12]


def specification(one: Any) -> dict[str, Any]:
    """What ``save`` of a workspace or report sends; the one place that asks the package for it."""
    written: dict[str, Any] = one._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
    return written


def save(made: Mapping[str, Any], timeout: int) -> None:
    """Saves each and prints its address; raises ValueError, in one line, where W&B does not take it."""
    for name, one in made.items():
        try:
            wandb.Api(timeout=timeout)  # which says it best where the key is missing or refused, or nobody answers
            one.save()
        except Exception as error:  # W&B and its package raise what they like, of no common class
            said = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
            raise ValueError(f"W&B could not save the {name}: {redacted(said)}") from error
        print(one.url, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if importlib.util.find_spec("wandb_workspaces") is None:
        needed = 'pip install "retrograde[dashboards]"'
        print(f"a dashboard needs the package wandb-workspaces: {needed}", file=sys.stderr)
        return 1
    entity, _, project = options.project.partition("/")
    if not entity or not project or "/" in project:
        print(f"'{shown(options.project)}' is no entity/project, such as my-team/retrograde", file=sys.stderr)
        return 1
    try:
        store = FolderStore(options.source)
        found, left_out = studies(store, imported(HERE / "report.py").questions())
        for run, why in sorted((left_out | store.unreadable).items()):
            print(f"left out: {run}: {why}", file=sys.stderr)
        if not found:
            raise ValueError(f"'{options.source}' holds no run that can be compared")
        made = {"workspace": workspace(entity, project, found, store), "report": report(entity, project, found, store)}
        if options.dry_run is None:
            save(made, options.timeout)
        else:
            written = {name: specification(one) for name, one in made.items()}
            options.dry_run.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(options.dry_run)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A workspace and a report in W&B, made from the runs themselves.")
    parser.add_argument("project", metavar="entity/project", help="where the runs are, or are going to be, in W&B")
    parser.add_argument(
        "--from", dest="source", type=Path, default=Path("outputs"), metavar="SOURCE",
        help="a folder that holds the runs; %(default)s",
    )  # fmt: skip
    parser.add_argument("--dry-run", type=Path, metavar="FILE", help="write both to FILE, and save nothing")
    parser.add_argument("--timeout", type=int, default=30, help="seconds that W&B has for an answer; %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
