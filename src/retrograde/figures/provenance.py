"""Where a figure comes from, in words: the task's card, the seeds, and everything that is needed to make it again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from retrograde.figures.comparison import LONGEST_DRAWN, Comparison, exceptions, in_short, records
from retrograde.figures.statistics import interval, interval_in_words
from retrograde.figures.theme import present
from retrograde.record.lags import lag_quantiles as lag_quantiles
from retrograde.record.metadata import number_of

MOST_VARIANTS = 12
"""Of tasks that a card names; the runs name all of them."""

MOST_TOLD = 8
"""Models whose numbers stand in a sentence one by one."""


def number(value: Any) -> str:
    """A number as a reader wants it: four digits at most, thousands apart, a dash for what is missing.

    >>> [number(value) for value in (0.16666, 1294, 3e-9, 0.0, float("nan"), float("-inf"), True, None, "x")]
    ['0.1667', '1,294', '3e-09', '0', '–', '−∞', 'yes', '–', 'x']
    """
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "–"
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}".replace("-", "−")
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−") if "e" not in text else text


def seeds_in_words(table: pd.DataFrame) -> str:
    """How many seeds each model of a table has, and what the interval over them is therefore."""
    counts = {model: table.loc[table["model"] == model, "run"].nunique() for model in present(table["model"])}
    sizes = sorted(set(counts.values()))
    if len(sizes) == 1:
        each = f"{sizes[0]} seeds per model" if sizes[0] != 1 else "1 seed per model: no interval"
    else:
        each = "Seeds per model: " + ", ".join(f"{model} {count}" for model, count in counts.items())
    if sizes[-1] == 1:
        return f"{each}."
    bands = {interval_in_words(size): size for size in sizes if size > 1}
    if len(bands) == 1:
        return f"{each}; thin lines are seeds, the thick one is their median, the band is {next(iter(bands))}."
    kinds = "; ".join(f"with {size} seeds {words}" for words, size in bands.items())
    return f"{each}; thin lines are seeds, the thick one is their median, the band is {kinds}."


def medians_in_words(columns: Sequence[pd.Series], words: Callable[[float], str]) -> str:
    """Medians over seeds, a column each and a dash where none has a number, with the interval of the last that has.

    >>> medians_in_words([pd.Series([1.0, 3.0]), pd.Series([4.0, 8.0])], number)
    '2 → 6 (4 to 8)'
    >>> medians_in_words([pd.Series([np.nan]), pd.Series([4.0])], number)
    '– → 4'
    """
    known = [column.dropna().to_numpy(dtype=float) for column in columns]
    over_seeds = [interval(values) if len(values) else None for values in known]
    said = " → ".join("–" if one is None else words(float(one.median)) for one in over_seeds)
    last = next((one for one in reversed(over_seeds) if one is not None), None)
    several = last is not None and max(map(len, known)) > 1
    return f"{said} ({words(float(last.low))} to {words(float(last.high))})" if last and several else said


def models_in_words(numbers: pd.DataFrame, columns: Sequence[str], words: Callable[[float], str]) -> str:
    """``medians_in_words`` of each model; of many models the least and the largest of their medians.

    >>> table = pd.DataFrame({"model": [f"m{place}" for place in range(9)], "before": range(9), "after": 3})
    >>> models_in_words(table.astype({"model": "category"}), ["before", "after"], number)
    '0 to 8 → 3, the medians of 9 models'
    """
    models = numbers.groupby("model", observed=True)
    if models.ngroups <= MOST_TOLD:
        each = [f"{model} {medians_in_words([of[name] for name in columns], words)}" for model, of in models]
        return ", ".join(each)
    spans = []
    for name in columns:
        low, high = (words(float(end)) for end in models[name].median().agg(["min", "max"]))
        spans.append(low if low == high else f"{low} to {high}")
    return f"{' → '.join(spans)}, the medians of {models.ngroups} models"


def seeds_each(counts: Sequence[int]) -> str:
    """How many seeds each of several settings has, from the different counts in order.

    >>> seeds_each([1]), seeds_each([3]), seeds_each([2, 3])
    ('1 seed', '3 seeds', '2 to 3 seeds')
    """
    few, many = counts[0], counts[-1]
    return f"{few} to {many} seeds" if few < many else number_of(few, "seed")


def endings(comparison: Comparison) -> str:
    """The runs that did not end as they should, in one sentence; empty where there is none."""
    found = exceptions(comparison.runs)
    return f"Shown as far as they got: {'; '.join(found)}." if found else ""


def trivial_rule(card: Mapping[str, Any]) -> dict[str, Any] | None:
    """The best of the trivial rules in a card as it was recorded, by score, then by loss, as ``Card.baseline`` is."""
    return max(card["baselines"], key=lambda rule: (rule["score"], -rule["loss"]), default=None)


def card_in_words(comparison: Comparison) -> list[tuple[str, str]]:
    """The task's card as terms and what they mean."""
    card = comparison.card
    entries = [
        *(("Task", variant) for variant in comparison.variants[:MOST_VARIANTS]),
        ("Scored", str(card["scored"])),
        ("Score", f"{card['score']}; 1 is perfect, solved from {number(card['solved'])}"),
    ]
    for baseline in card["baselines"]:
        entries.append(
            (
                "Trivial rule",
                f"{baseline['rule']}: score {number(baseline['score'])}, loss {number(baseline['loss'])}"
                f" ({baseline['derivation']})",
            )
        )
    for rule in records(comparison.rule_scores()):
        words = f"{rule['rule']}: score {number(rule['score'])}, loss {number(rule['loss'])} (run on the test set)"
        entries.append(("Shallow rule", words))
    entries.append(("Lags to bridge", _lags_in_words(card)))
    if card.get("window"):
        entries.append(("Effective window", f"the loss as {card['window']}"))
    entries += [("May be compared with", sentence) for sentence in card.get("comparable", ())]
    entries += [("Not comparable", sentence) for sentence in card.get("incomparable", ())]
    source = card.get("source")
    if source:
        words = f"{source['name']} {source['version']}, {number(source['count'])} {source['unit']}"
        entries.append(("Source", f"{words}; licence: {source['licence']}; sha256 {source['sha256'][:16]}…"))
    return entries


def _lags_in_words(card: Mapping[str, Any]) -> str:
    lags = lag_quantiles(card)
    if not lags:
        return "not known"
    return f"half within {lags['median']}, 90 % within {lags['90 %']}, at most {lags['most']}"


def card_in_one_line(comparison: Comparison) -> str:
    """What a figure says of its task in its own margin; the whole card stands beside it."""
    card = comparison.card
    best = trivial_rule(card)
    variants = comparison.variants
    several = f"{comparison.task}, {len(variants)} variants"
    parts = [
        several if len(variants) > 1 else in_short(variants[0], LONGEST_DRAWN),
        f"scored: {in_short(card['scored'], LONGEST_DRAWN)}",
        f"solved from {number(card['solved'])}",
        *([] if best is None else [f"{in_short(best['rule'], LONGEST_DRAWN)}: {number(best['score'])}"]),
        *(
            f"best shallow rule run: {rule['rule']}, {number(rule['score'])}"
            for rule in records(comparison.rule_scores().head(1))
        ),
        f"lags to bridge: {_lags_in_words(card)}",
    ]
    return " · ".join(parts)


def provenance(comparison: Comparison, runs: Sequence[str]) -> list[tuple[str, str]]:
    """What a figure's runs were made with, as terms and what they are."""
    used = comparison.runs[comparison.runs["run"].isin(list(runs))]
    versions = [column for column in used.columns if column.startswith("versions.")]
    return [
        ("Study", comparison.study),
        ("Seeds", _distinct(used, "seed")),
        ("Commit", _distinct(used, "commit")),
        ("Versions", ", ".join(f"{name.partition('.')[2]} {_distinct(used, name)}" for name in versions) or "–"),
        *(
            (term, _distinct(used, column))
            for term, column in (("Hardware", "hardware"), ("Forms", "form"))
            if column in used and used[column].notna().any()  # runs of an older version do not say
        ),
        ("Config hashes", _distinct(used, "config_hash")),
        ("Runs", ", ".join(sorted(used["run"]))),
    ]


def _distinct(runs: pd.DataFrame, column: str) -> str:
    if column not in runs:
        return "–"
    values = runs[column].dropna()
    return ", ".join(str(value) for value in sorted(values.unique())) or "–"
