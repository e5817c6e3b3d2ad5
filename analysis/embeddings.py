"""What lies near in the vectors of cbow and skip-gram, what differences carry, and a map of them.

Question:  which words lie near one another in the vectors of cbow and skip-gram, and do differences carry meaning?
Expect:    near are words that stand in the same places, so that a word's nearest are largely those that counting its
           neighbours finds (Levy & Goldberg 2014, Neural word embedding as implicit matrix factorization); and the
           step from a word to its plural, taken from another word, leads to that word's plural more often than its own
           neighbourhood does (Linzen 2016, arXiv:1606.07736, has that comparison).
Data:      the weights that validation chose, from the runs' own checkpoints, and the text that they were trained on;
           what is without checkpoints, such as runs read from W&B, has no vectors.

    python analysis/embeddings.py outputs/embeddings
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

import retrograde
from retrograde.figures import question, theme
from retrograde.figures.comparison import (
    LONGEST_REASON,
    NUMBERS,
    Comparison,
    NothingToDraw,
    Tables,
    in_short,
    listed,
    outcome,
    records,
)
from retrograde.figures.provenance import number
from retrograde.figures.statistics import Interval, interval, interval_in_words, too_few

if TYPE_CHECKING:  # torch takes a second to load, and a report asks this of runs without vectors too
    from retrograde.core.contracts import Task
    from retrograde.layers.word_vectors import WordVectors

CLOZE = "retrograde.tasks.cloze.Cloze"

NEAR = 10
"""How many words count as near."""

ASKED, PAIRS, SHORTEST = 200, 30, 3
"""The most frequent words whose nearest are compared, the most pairs of word and plural, a word's fewest letters."""

SEGMENTS = 4000
"""Of the training text, from which neighbours are counted."""

ABOVE = 2.0
"""How many times as often as by chance is more than by chance."""

SHOWN_PAIRS, SHOWN_WORDS, SHOWN_NEAR, LISTED = 12, 24, 4, 5
"""On the map: pairs, or words where there are no pairs; beside it: nearest words, and of how many words."""

SHARED, RIGHT, ALONE, CHANCE = (
    "nearest words that counting finds",
    "analogies right",
    "right by neighbours alone",
    "by chance",
)


class Learnt(NamedTuple):
    """A run's vectors, without the one of unknown words, and the same words by what stands around them in the text."""

    vectors: "WordVectors"
    counted: "WordVectors"


def learnt(folder: Path) -> Learnt:
    """Of a finished run; raises ValueError where it has no weights, or no vectors in them."""
    import torch

    from retrograde.core.contracts import Tokens
    from retrograde.core.words import UNKNOWN
    from retrograde.layers.word_vectors import WordVectors

    run = retrograde.load(folder)
    inputs, vectors = run.task.inputs, getattr(run.model, "vectors", None)
    if not (isinstance(inputs, Tokens) and isinstance(vectors, torch.Tensor)):
        raise ValueError(f"its model {run.metadata['model']} has no vectors of words")
    window = int(run.metadata["config"]["model"]["window"])
    kept = [row for row, word in enumerate(inputs.symbols) if word != UNKNOWN]
    words = tuple(inputs.symbols[row] for row in kept)
    counted = torch.from_numpy(information(counts(run.task, window))[kept])
    return Learnt(WordVectors(words, vectors[kept]), WordVectors(words, counted))


def counts(task: "Task", window: int) -> Float[np.ndarray, "words words"]:
    """How often each word stands within ``window`` positions of each other in segments of the training text."""
    import torch

    tokens = task.sample(SEGMENTS, torch.Generator().manual_seed(0)).inputs.numpy()
    size = task.inputs.size
    found = np.zeros((size, size))
    for distance in range(1, min(window, tokens.shape[1] - 1) + 1):
        pairs = (tokens[:, :-distance] * size + tokens[:, distance:]).ravel()
        found += np.bincount(pairs, minlength=size * size).reshape(size, size)
    return found + found.T


def information(counted: Float[np.ndarray, "words words"]) -> Float[np.ndarray, "words words"]:
    """The positive pointwise mutual information of words and neighbours; 0 for a pair that does not come up.

    >>> np.exp(information(np.array([[0.0, 2.0], [2.0, 0.0]])))
    array([[1., 2.],
           [2., 1.]])
    """
    expected = counted.sum(1, keepdims=True) * counted.sum(0, keepdims=True) / counted.sum()
    ratio = np.divide(counted, expected, out=np.ones_like(counted), where=counted > 0)
    return np.log(np.maximum(ratio, 1))


def plurals(words: Sequence[str]) -> list[tuple[str, str]]:
    """Words that are there with an s behind them too, the pairs whose rarer word is most frequent first.

    >>> plurals(["object", "is", "value", "i", "values", "objects"])
    [('value', 'values'), ('object', 'objects')]
    """
    rank = {word: place for place, word in enumerate(words)}
    found = [(word, f"{word}s") for word in words if len(word) >= SHORTEST and f"{word}s" in rank]
    return sorted(found, key=lambda pair: max(rank[word] for word in pair))[:PAIRS]


def shared(one: "WordVectors", other: "WordVectors") -> float:
    """Which share of a word's nearest in one are among its nearest in the other, mean of the most frequent words."""
    shares = [
        len({near for near, _ in one.neighbours(word, NEAR)} & {near for near, _ in other.neighbours(word, NEAR)})
        for word in one.words[:ASKED]
    ]
    return float(np.mean(shares)) / NEAR


def analogies(vectors: "WordVectors", pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Of all analogies of two pairs, the share whose word is among the nearest; and that of asking the word alone."""
    right = [
        plural in {near for near, _ in vectors.analogy(of_other, others, word, NEAR)}
        for of_other, others in pairs
        for word, plural in pairs
        if word != of_other
    ]
    alone = [plural in {near for near, _ in vectors.neighbours(word, NEAR)} for word, plural in pairs]
    return (float(np.mean(right)), float(np.mean(alone))) if len(pairs) > 1 else (np.nan, np.nan)


def load(comparison: Comparison) -> Tables:
    """``map``, ``near`` of first seeds; ``without`` runs that have no vectors; ``numbers`` one row a run."""
    runs = comparison.runs
    target = "config.task._target_"
    if target not in runs or not (runs[target] == CLOZE).any():
        raise NothingToDraw("word vectors come of cbow and skipgram on cloze: task=cloze model=cbow,skipgram")
    rows, without, maps, near = [], [], [], []
    drawn: set[str] = set()
    for run in records(runs):
        row = {"model": run["model"], "seed": run["seed"], "outcome": outcome(run), "run": run["run"]}
        try:
            found = learnt(comparison.store.folders[run["run"]].path)
        except (OSError, ValueError) as error:
            root = f"{comparison.store.root.resolve()}/"
            without.append((run["run"], in_short(str(error).replace(root, ""), LONGEST_REASON)))
            rows.append(row)
            continue
        words = found.vectors.words
        pairs = plurals(words)
        right, alone = analogies(found.vectors, pairs)
        rows.append(
            row
            | {
                SHARED: shared(found.vectors, found.counted),
                RIGHT: right,
                ALONE: alone,
                CHANCE: NEAR / max(len(words) - 1, NEAR),
                "analogies": len(pairs) * (len(pairs) - 1),
                "words": len(words),
            }
        )
        if run["model"] not in drawn:
            drawn.add(run["model"])
            maps.append(flat(found.vectors, pairs[:SHOWN_PAIRS]).assign(model=run["model"], run=run["run"]))
            asked = [word for word, _ in pairs[:LISTED]] or list(words[:LISTED])
            lines = [(word, ", ".join(one for one, _ in found.vectors.neighbours(word, SHOWN_NEAR))) for word in asked]
            near.append(pd.DataFrame(lines, columns=["word", "nearest"]).assign(model=run["model"]))
    if not maps:
        raise NothingToDraw(f"no run holds its weights: {without[0][1]}")
    numbers = pd.DataFrame(rows).astype({"model": runs["model"].dtype})
    columns = ["model", "seed", "outcome", SHARED, RIGHT, ALONE, CHANCE, "analogies", "words", "run"]
    return {
        "map": pd.concat(maps, ignore_index=True),
        "near": pd.concat(near, ignore_index=True),
        "without": pd.DataFrame(without, columns=["run", "reason"]),
        NUMBERS: numbers[columns],
    }


def flat(vectors: "WordVectors", pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """The unit vectors of the pairs, or of the most frequent words where there are none, on their first two principal
    axes, with the share of their variance that each axis has."""
    words = [word for pair in pairs for word in pair] or list(vectors.words[:SHOWN_WORDS])
    chosen = vectors.unit[[vectors.row(word) for word in words]].double().numpy()
    left, sizes, axes = np.linalg.svd(chosen - chosen.mean(0), full_matrices=False)
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1, keepdims=True), 1)[:, 0]
    places = (left * sizes * np.where(largest < 0, -1, 1))[:, :2]  # the sign of an axis is nobody's choice
    shares = sizes[:2] ** 2 / max((sizes**2).sum(), np.finfo(float).tiny)
    return pd.DataFrame(
        {
            "word": words,
            "x": places[:, 0],
            "y": places[:, 1],
            "pair": [place // 2 if pairs else -1 for place in range(len(words))],
            "share x": shares[0],
            "share y": shares[1],
        }
    )


def finding(tables: Tables) -> str:
    """Whether theory is right; how many of the nearest words counting finds, and how many analogies are right."""
    numbers = tables[NUMBERS]
    surprises, without, counts = [], [], set()
    near, chance, right, alone = [], [], [], []
    for model in theme.present(numbers["model"]):
        of_model = numbers[(numbers["model"] == model) & numbers[SHARED].notna()]
        if of_model.empty:
            without.append(f"there are no vectors of {model}")
            continue
        counts.add(len(of_model))
        found = interval(of_model[SHARED].to_numpy())
        near.append(f"{model}'s {_span(found)}")
        chance.append(float(of_model[CHANCE].iloc[0]))
        if not found.low > ABOVE * chance[-1]:
            surprises.append(f"{model}'s nearest words are by chance")
        if of_model[RIGHT].notna().all():
            right.append(f"{model}'s {_span(interval(of_model[RIGHT].to_numpy()))}")
            alone.append(_percent(float(of_model[ALONE].median())))
            if not (of_model[RIGHT] > of_model[ALONE]).all():
                surprises.append(f"{model}'s analogies are no better than neighbours")
    verdict = "As theory says" if not surprises else f"Against theory {listed(surprises)}"
    by_chance = " to ".join(dict.fromkeys(_percent(end) for end in (min(chance), max(chance))))
    said = [f"of the {NEAR} nearest words counting finds {listed(near)} (chance {by_chance})"]
    if right:
        said.append(f"of the analogies {listed(right)} are right, by neighbours alone {listed(alone)}")
    n = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    return f"{verdict}: {'; '.join([*said, *without])} (n = {n})"


def _percent(share: float) -> str:
    return f"{number(float(f'{100 * share:.2g}'))} %"


def _span(over: Interval) -> str:
    """
    >>> _span(interval(np.array([0.31, 0.29, 0.335])))
    '31 % (29 to 34 %)'
    """
    middle, low, high = (_percent(float(end)) for end in (over.median, over.low, over.high))
    return f"{middle} ({low.removesuffix(' %')} to {high})"


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A map a model, what lies nearest below it, and below that the numbers of every run."""
    maps, near, numbers = tables["map"], tables["near"], tables[NUMBERS]
    models = [model for model in theme.present(numbers["model"]) if (maps["model"] == model).any()]
    figure = Figure(figsize=(theme.WIDTH, 7.2), layout="constrained")
    (upper,), (lower,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(3.7, 2)).tolist()
    grid = upper.subplots(2, len(models), squeeze=False, height_ratios=(3, 1))
    for axes, below, model in zip(*grid.tolist(), models, strict=True):
        of_map = maps[maps["model"] == model]
        _draw_map(axes, of_map, (theme.WIDTH / len(models) - 0.7, 2.5))
        axes.set_title(model, fontweight="bold")
        axes.set_xlabel(f"first principal axis ({_percent(of_map['share x'].iloc[0])} of the variance)")
        axes.set_ylabel(f"second ({_percent(of_map['share y'].iloc[0])})")
        below.set_axis_off()
        lines = near.loc[near["model"] == model, ["word", "nearest"]].itertuples(index=False)
        text = "\n".join(_cut(f"{word}: {nearest}", 100 // len(models)) for word, nearest in lines)
        below.text(0, 1, f"Nearest words\n{text}", va="top", fontsize=7, linespacing=1.35)
    left, right = lower.subplots(1, 2)
    _draw_runs(left, numbers, SHARED, "o", 0.0)
    if numbers[RIGHT].notna().any():
        _draw_runs(right, numbers, RIGHT, "o", -0.14)
        _draw_runs(right, numbers, ALONE, "s", 0.14)
    else:
        right.text(0.5, 0.5, "no word is there with its plural", ha="center", transform=right.transAxes,
                   color=theme.QUIET)  # fmt: skip
    left.set_title(f"of the {NEAR} nearest, those that counting finds")
    right.set_title(f"word : words, right among the {NEAR} nearest")
    left.set_ylabel("share")
    names = theme.present(numbers["model"])
    for axes in (left, right):
        axes.axhline(numbers[CHANCE].max(), color=theme.INK, lw=0.7, dashes=(4, 3), zorder=1)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    handles = [
        Line2D(
            [],
            [],
            color=theme.RULE,
            mec=theme.FAMILIES[0],
            mfc=theme.PAPER,
            marker="o",
            ms=3.5,
            lw=0.9,
            label="to its plural",
        ),
        Line2D([], [], color=theme.FAMILIES[0], marker="o", ms=4.5, lw=0, label="by the vectors"),
        Line2D([], [], color=theme.FAMILIES[1], marker="s", ms=4.5, lw=0, label="a word's neighbours alone"),
        Line2D([], [], color=theme.INK, lw=0.7, dashes=(4, 3), label="by chance"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    theme.headline(figure, finding(tables))
    return figure


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _draw_map(axes: Axes, words: pd.DataFrame, inches: tuple[float, float]) -> None:
    """Words at their places, a line from each to its plural; a label that would cover another is left out.

    Both axes have one scale, so that distances are seen as they are; ``inches`` is the room that the panel has.
    """
    for _, of_pair in words[words["pair"] >= 0].groupby("pair"):
        axes.plot(of_pair["x"], of_pair["y"], color=theme.RULE, lw=0.9, zorder=1)
    plural = (words["pair"] >= 0) & (words.index.to_series() - words.index[0]).mod(2).eq(1)
    for chosen, fill in ((~plural, theme.FAMILIES[0]), (plural, theme.PAPER)):
        axes.plot(words.loc[chosen, "x"], words.loc[chosen, "y"], "o", ms=3.5, mec=theme.FAMILIES[0], mfc=fill,
                  mew=0.8, zorder=3)  # fmt: skip
    room = 0.6, 0.15  # inches, for labels at the edges
    spans = [words[axis].max() - words[axis].min() for axis in ("x", "y")]
    unit = max(*(span / (size - 2 * edge) for span, size, edge in zip(spans, inches, room, strict=True)), 1e-9)
    middle = [(words[axis].max() + words[axis].min()) / 2 for axis in ("x", "y")]
    axes.set_xlim(middle[0] - unit * inches[0] / 2, middle[0] + unit * inches[0] / 2)
    half = max(spans[1] / 2 + unit * room[1], 0.35 * unit * inches[0])
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_aspect("equal")
    boxes = [(x, y, 0.05, 0.05) for x, y in zip(words["x"] / unit, words["y"] / unit, strict=True)]
    left_out = 0
    for word, x, y in words[["word", "x", "y"]].itertuples(index=False):
        size = (0.068 * min(len(word), 14), 0.1)
        for side, rise in ((1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            place = (x / unit + side * 0.05, y / unit + rise * 0.07)
            box = (place[0] + side * size[0] / 2, place[1], *size)
            if not any(_overlap(box, other) for other in boxes):
                boxes.append(box)
                axes.text(place[0] * unit, place[1] * unit, _cut(str(word), 14), va="center_baseline",
                          ha="left" if side > 0 else "right", fontsize=theme.SMALL, zorder=4)  # fmt: skip
                break
        else:
            left_out += 1
    if left_out:
        theme.note(axes, f"{left_out} without room for a label", (0.02, 0.01))


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Of boxes by their middle and size."""
    return all(abs(one[axis] - other[axis]) < (one[axis + 2] + other[axis + 2]) / 2 for axis in (0, 1))


def _draw_runs(axes: Axes, numbers: pd.DataFrame, column: str, marker: str, aside: float) -> None:
    """Every run as a mark, medians as bars."""
    colour = theme.FAMILIES[0] if marker == "o" else theme.FAMILIES[1]
    for place, model in enumerate(theme.present(numbers["model"])):
        values = numbers.loc[numbers["model"] == model, column].dropna().to_numpy()
        if not len(values):
            continue
        x = place + aside + 0.05 * (np.arange(len(values)) - (len(values) - 1) / 2)
        axes.plot(x, values, marker, color=colour, ms=4.5, mec=theme.PAPER, mew=0.5, zorder=4)
        middle = float(np.median(values))
        axes.plot([x[0] - 0.05, x[-1] + 0.05], [middle, middle], color=colour, lw=1.2, alpha=0.7)


def caption(tables: Tables) -> str:
    """What is drawn, what counting is, how analogies are asked, and which runs have no vectors."""
    numbers, without = tables[NUMBERS], tables["without"]
    seeds = int(numbers.groupby("model", observed=True)["run"].nunique().max())
    few = too_few(seeds, "a median")
    missing = "".join(f" {run} has no vectors: {reason}." for run, reason in without.itertuples(index=False))
    what = (
        "words and their plurals, joined by a line, plurals hollow" if (tables["map"]["pair"] >= 0).any() else "words"
    )
    return (
        f"Above: {what}, of each model's first seed: unit vectors on the first two principal axes of those shown; the "
        "sign of an axis means nothing. Below: every run as a mark, medians as bars. Counting is the positive "
        "pointwise mutual information of words within the model's window, in "
        f"{number(SEGMENTS)} segments of the training text, compared by cosine as the vectors are, for the {ASKED} "
        "most frequent words. An analogy takes a word's difference from its plural to another word, among at most "
        f"{PAIRS} pairs of which one word is the other with an s behind it, and is right where the plural is among the "
        f"{NEAR} nearest; beside it how often the plural is among the {NEAR} nearest of the word alone. {seeds} "
        f"seed{'s' * (seeds != 1)} a model; the finding's ends are {interval_in_words(seeds)}"
        f"{f': {few}' * bool(few)}.{missing}"
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
