"""What attention's maps specialise on, with one head and with several at equal parameters.

Question:  what do attention's maps specialise on, with one head and with several at equal parameters?
Expect:    where a token has to be recalled by the one that stood before it, a head of the lowest layer looks at the
           previous token and one above it at what followed the same token before (Olsson et al. 2022,
           arXiv:2209.11895); with several heads these are single heads, and the others look elsewhere.
Data:      the setting model.heads; attention/map of the stored samples at the last snapshot, with the probe batch in
           words; the runs' parameters and test scores.

    python analysis/heads.py outputs/heads
"""

import sys

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from retrograde.figures import question, theme
from retrograde.figures.comparison import AFTER, NUMBERS, Comparison, NothingToDraw, Tables, ends, listed, records
from retrograde.figures.provenance import number
from retrograde.figures.statistics import interval, interval_in_words

HEADS = "config.model.heads"

PREVIOUS, INDUCTION = "the previous token", "what followed before"

AHEAD = 0.2
"""Of the weight: by so much the strongest head is ahead of its layer's others where the layer is said to divide."""

EQUAL = 0.01
"""By which share numbers of parameters may differ and still be called equal."""

FEW = 16
"""Tokens whose labels have room for letters of full size."""

STRONGEST, OTHERS = "strongest head", "other heads"


def load(comparison: Comparison) -> Tables:
    """``heads`` one row a head of a run; ``maps`` and ``labels`` of first seeds; ``numbers`` one row a run."""
    runs = comparison.runs
    if HEADS not in runs or runs[HEADS].nunique() < 2:
        raise NothingToDraw("the number of heads is not varied: model=transformer model.heads=1,4 does")
    runs = runs[runs[HEADS].notna()].reset_index(drop=True)
    sizes = runs["parameters"].dropna().astype(float)
    if len(sizes) and sizes.max() > (1 + EQUAL) * sizes.min():
        raise NothingToDraw(
            f"runs have {number(sizes.min())} to {number(sizes.max())} parameters: heads compare at equal ones"
        )
    if runs.duplicated([HEADS, "seed"]).any():
        raise NothingToDraw("runs with as many heads differ in more than the seed: compare one setting at a time")
    maps = ends(comparison.readings("attention/map"))
    maps = maps[
        (maps["when"] == AFTER) & maps["layer"].astype(str).str.fullmatch(r"\d+") & maps["run"].isin(runs["run"])
    ]
    parts = [_looked(of_run, comparison.labels(str(run))).assign(run=str(run)) for run, of_run in maps.groupby("run")]
    looked = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if looked.empty:
        raise NothingToDraw("no scored position repeats an earlier token: task=recall has such")
    settings = runs.rename(columns={HEADS: "heads"}).astype({"heads": int})[["run", "heads", "seed"]]
    looked = looked.merge(settings, on="run").sort_values(["heads", "seed", "layer", "head"], ignore_index=True)
    first = looked.groupby("heads")["run"].first()
    shown, labels = _shown(comparison, maps, looked[looked["run"].isin(first)], str(first.iloc[0]))
    columns = ["heads", "seed", "layer", "head", PREVIOUS, INDUCTION, "run"]
    return {"heads": looked[columns], "maps": shown, "labels": labels, NUMBERS: _numbers(runs, looked)}


def _looked(maps: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Per layer and head: the weights that recalling takes, the mean over the scored positions that can recall.

    Such a position q holds a token that came before, last at time p. What followed it stands at p + 1: that is to be
    looked at from q, and from there, in a lower layer, the previous token at p.
    """
    places = recalls(labels[labels["side"] == "input"])
    weights = maps[["layer", "head", "sample", "query", "key", "value"]]
    means = {}
    for name, query, key in ((PREVIOUS, "followed", "before"), (INDUCTION, "query", "followed")):
        wanted = places.drop_duplicates(["sample", query, key]).rename(columns={query: "at", key: "looks"})
        found = weights.merge(
            wanted[["sample", "at", "looks"]], left_on=["sample", "query", "key"], right_on=["sample", "at", "looks"]
        )
        means[name] = found.groupby(["layer", "head"], observed=True)["value"].mean()
    return pd.DataFrame(means).dropna().reset_index()


def recalls(labels: pd.DataFrame) -> pd.DataFrame:
    """``sample``, ``query``, ``before`` and ``followed``: scored positions, and the last time their token came up."""
    rows = []
    for sample, of_sample in labels.sort_values("time").groupby("sample"):
        last: dict[str, int] = {}
        for time, label, scored in of_sample[["time", "label", "scored"]].itertuples(index=False):
            if scored and label in last:
                rows.append((sample, int(time), last[label], last[label] + 1))
            last[label] = int(time)
    return pd.DataFrame(rows, columns=["sample", "query", "before", "followed"])


def _shown(
    comparison: Comparison, maps: pd.DataFrame, looked: pd.DataFrame, run: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of each number of heads' first seed the strongest head for either purpose, on the first sample."""
    rows = []
    for purpose in (PREVIOUS, INDUCTION):
        chosen = of_purpose(looked, purpose).sort_values(purpose).groupby("heads").tail(1)
        for run_, heads, layer, head in chosen[["run", "heads", "layer", "head"]].itertuples(index=False):
            is_head = (maps["run"] == run_) & (maps["layer"] == layer) & (maps["head"] == head) & (maps["sample"] == 0)
            rows.append(
                maps.loc[is_head, ["layer", "head", "query", "key", "value"]].assign(heads=heads, looks=purpose)
            )
    labels = comparison.labels(run)
    labels = labels[(labels["sample"] == 0) & (labels["side"] == "input") & (labels["label"] != "")]
    return pd.concat(rows, ignore_index=True), labels[["time", "label", "scored"]].reset_index(drop=True)


def of_purpose(looked: pd.DataFrame, purpose: str) -> pd.DataFrame:
    """The heads that can serve it: of the lowest layer the previous token, of those above what followed."""
    lowest = looked["layer"].astype(int) == looked["layer"].astype(int).min()
    return looked[lowest if purpose == PREVIOUS else ~lowest]


def _numbers(runs: pd.DataFrame, looked: pd.DataFrame) -> pd.DataFrame:
    """A run's strongest head for either purpose, and the mean of the others of that head's layer."""
    rows = []
    for run in records(runs.sort_values([HEADS, "seed"])):
        row: dict[str, object] = {"heads": int(run[HEADS]), "seed": run["seed"]}
        for purpose in (PREVIOUS, INDUCTION):
            served = of_purpose(looked, purpose)
            served = served[served["run"] == run["run"]].sort_values(purpose)
            best = served.tail(1)
            others = served[:-1]
            others = others[others["layer"].isin(best["layer"])]
            row[f"{purpose}, {STRONGEST}"] = best[purpose].max()
            row[f"{purpose}, {OTHERS}"] = others[purpose].mean()
        row |= {"test score": run.get("score", np.nan), "parameters": run["parameters"], "run": run["run"]}
        rows.append(row)
    return pd.DataFrame(rows).astype({"test score": float})


def ahead(numbers: pd.DataFrame, purpose: str) -> pd.Series:
    """By how much a run's strongest head is ahead of the mean of its layer's others, where there are any."""
    return (numbers[f"{purpose}, {STRONGEST}"] - numbers[f"{purpose}, {OTHERS}"]).dropna()


def finding(tables: Tables) -> str:
    """Whether heads divide the work, and how far the strongest is ahead of its layer's others."""
    numbers = tables[NUMBERS].dropna(subset=[f"{PREVIOUS}, {STRONGEST}"])
    runs = numbers.groupby("heads")["run"].nunique()
    n = f"{runs.min()}" if runs.min() == runs.max() else f"{runs.min()} to {runs.max()}"
    said: list[str] = []
    divided: list[bool] = []
    for purpose in (PREVIOUS, INDUCTION):
        found: list[str] = []
        for heads, of_heads in numbers.groupby("heads"):
            lead = ahead(of_heads, purpose).to_numpy()
            if len(lead):
                over_seeds = interval(lead)
                divided.append(bool(over_seeds.low > AHEAD))
                ends_ = dict.fromkeys(f"{end:.2f}" for end in (over_seeds.low, over_seeds.high))
                found.append(f"{' to '.join(ends_)} with {heads}{'' if said or found else ' heads'}")
        said.append(f"on {purpose} by {listed(found)}")
    if not divided:
        weights = [f"{numbers[f'{one}, {STRONGEST}'].median():.2f} on {one}" for one in (PREVIOUS, INDUCTION)]
        return f"A head alone, with no others to divide the work with, puts {listed(weights)} (medians, n = {n})"
    verdict = f"Heads divide the work in {sum(divided)} of {len(divided)} cases (theory: in all)"
    if all(divided):
        verdict = "Heads divide the work, as theory says"
    elif not any(divided):
        verdict = "Heads do not divide the work, against theory"
    return f"{verdict}: the strongest is ahead of its layer's others {', '.join(said)} (n = {n})"


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A column per number of heads: every head by what it looks at, and the strongest two as maps."""
    looked, maps, labels = tables["heads"], tables["maps"], tables["labels"]
    counts = sorted(int(heads) for heads in looked["heads"].unique())
    side = min(2.3, (theme.WIDTH - 0.5) / len(counts))
    figure = Figure(figsize=(theme.WIDTH, 3 * side + 3.7), layout="constrained")
    grid = figure.subplots(3, len(counts), squeeze=False)
    layers = sorted(looked["layer"].unique(), key=int)
    norm = PowerNorm(0.5, 0, 1)
    image: AxesImage | None = None
    for column, heads in enumerate(counts):
        above = grid[0][column]
        _draw_heads(above, looked[looked["heads"] == heads], layers)
        above.set_title(f"{heads} head{'s' * (heads != 1)}", loc="center", fontweight="bold")
        above.set_ylabel(f"weight on {INDUCTION}" if column == 0 else "")
        above.tick_params(labelleft=column == 0)
        for axes, purpose in zip((grid[1][column], grid[2][column]), (PREVIOUS, INDUCTION), strict=True):
            of_map = maps[(maps["heads"] == heads) & (maps["looks"] == purpose)]
            if of_map.empty:
                axes.set_axis_off()
                continue
            wide = of_map.pivot(index="query", columns="key", values="value")
            image = axes.imshow(wide.to_numpy(), cmap=theme.SEQUENTIAL, norm=norm, interpolation="nearest")
            _words(axes, labels, left=column == 0, below=purpose == INDUCTION)
            axes.set_title(f"layer {of_map['layer'].iloc[0]}, head {of_map['head'].iloc[0]}", loc="center")
            axes.set_ylabel(f"most on {purpose}\n\nquery" if column == 0 else "")
            axes.set_xlabel("key" if purpose == INDUCTION else "")
    assert image is not None  # load found maps
    bar = figure.colorbar(image, ax=grid[2], location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label("attention weight (square-root scale, one for all maps)")
    bar.outline.set_visible(False)
    handles = [
        Line2D([], [], ls="", marker=theme.MARKERS[place], color=theme.FAMILIES[place], ms=5, label=f"layer {layer}")
        for place, layer in enumerate(layers)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    theme.headline(figure, finding(tables))
    return figure


def _draw_heads(axes: Axes, looked: pd.DataFrame, layers: list[str]) -> None:
    """Every head of every run as a mark by its layer."""
    for place, layer in enumerate(layers):
        of_layer = looked[looked["layer"] == layer]
        axes.plot(of_layer[PREVIOUS], of_layer[INDUCTION], theme.MARKERS[place], color=theme.FAMILIES[place], ms=5,
                  alpha=0.75, mec=theme.PAPER, mew=0.5, clip_on=False)  # fmt: skip
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_aspect("equal")
    axes.set_xlabel(f"weight on {PREVIOUS}")


def _words(axes: Axes, labels: pd.DataFrame, left: bool, below: bool) -> None:
    """The tokens; the scored ones, which recall, in bold."""
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    texts, scored = labels["label"].astype(str).tolist(), labels["scored"].tolist()
    size = 6.5 if len(texts) <= FEW else 4.5
    axes.set_xticks(labels["time"], texts if below else [""] * len(texts), fontsize=size, rotation=90)
    axes.set_yticks(labels["time"], texts if left else [""] * len(texts), fontsize=size)
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label, bold in zip(ticks, scored, strict=True):
            label.set_fontweight("bold" if bold else "normal")


def caption(tables: Tables) -> str:
    """What a mark is, which maps are shown, and what the finding's numbers are."""
    numbers = tables[NUMBERS]
    runs = numbers.groupby("heads")["run"].nunique()
    seeds = f"{runs.min()}" if runs.min() == runs.max() else f"{runs.min()} to {runs.max()}"
    known = numbers.dropna(subset=[f"{PREVIOUS}, {STRONGEST}"])
    weights = known.groupby("heads")[[f"{one}, {STRONGEST}" for one in (PREVIOUS, INDUCTION)]].median()
    put = [f"{first:.2f} and {then:.2f} with {heads}" for heads, first, then in weights.itertuples()]
    return (
        "Of a scored token that came before, what followed it then is due. Above, every head of every run at its last "
        "snapshot, by the weight that it puts, from there, on what followed the token before (upwards) and, from what "
        "followed, on the token previous to it (to the right), the mean over the probe batch's stored samples. Below, "
        "maps of the first seed on the first sample, queries downward, of the lowest layer's head that looks most at "
        "the previous token and of the upper layers' head that looks most at what followed: a single seed, not an "
        "average; scored tokens are bold. Of "
        f"{seeds} seeds the finding says how far the strongest head is ahead of the mean of its layer's others, run by "
        f"run: {interval_in_words(int(runs.max()))}. Heads are said to divide the work where all of that lies above "
        f"{AHEAD:g}. By number of heads the strongest puts, in the median, on {PREVIOUS} and on {INDUCTION} "
        f"{'; '.join(put)}. All runs have {number(numbers['parameters'].median())} parameters."
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
