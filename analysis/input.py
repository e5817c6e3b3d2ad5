"""How fast and how far models learn from one-hot words, learned vectors and pretrained ones.

Question:  how fast and how far does a language model learn from one-hot words, learned and pretrained vectors?
Expect:    one-hot words make the first layer's weights an embedding, so that one-hot and learned differ in speed at
           most. Pretrained vectors need not be learned: the loss falls sooner. Frozen, they cannot be fitted to the
           task, and end no better than those that are trained further.
Data:      the setting model.embedding; metrics validation/loss; the runs' test losses and parameters; the card's
           trivial rules.

    python analysis/input.py outputs/input
"""

import sys
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retrograde.figures import question, theme
from retrograde.figures.comparison import NUMBERS, Comparison, NothingToDraw, Tables, listed, outcomes, records
from retrograde.figures.provenance import number, seeds_each, trivial_rule
from retrograde.figures.statistics import FEWEST, Estimate, interval, interval_in_words, steps_to_solve, too_few

KIND, FROZEN, FILE = (f"config.model.embedding.{name}" for name in ("_target_", "frozen", "path"))

ONE_HOT, LEARNED, FROZEN_VECTORS, TRAINED_VECTORS = KNOWN = (
    "one-hot",
    "learned",
    "pretrained (frozen)",
    "pretrained (tuned)",
)
"""What the first layer can make of tokens, in the order in which it is drawn; tuned is trained with the rest."""

LOSS, STEPS = "test loss (nats)", "steps to the common loss"


def load(comparison: Comparison) -> Tables:
    """``curves`` validation loss over steps; ``rule`` the loss of the best trivial rule; ``numbers`` one row a run.

    The common loss is the lowest that every run reaches that has ended as it should, at one validation or another.
    """
    wanted = [KIND, FROZEN, FILE, "loss", "parameters"]
    runs = comparison.runs.reindex(columns=list(dict.fromkeys([*comparison.runs.columns, *wanted])))
    runs = runs[runs[KIND].notna()]
    if runs[KIND].nunique() < 2 and runs[FROZEN].nunique() < 2:
        raise NothingToDraw("no model's first layer is varied: model=gru model/embedding=onehot,learned does")
    files = runs[FILE].nunique()
    runs = runs.assign(embedding=[_named(run, several=files > 1) for run in records(runs)])
    runs["cell"] = [theme.family(str(model)) for model in runs["model"]]
    order = {name: place for place, name in enumerate(dict.fromkeys([*KNOWN, *sorted(runs["embedding"])]))}
    runs = runs.assign(place=runs["embedding"].map(order)).sort_values(["cell", "place", "seed"], ignore_index=True)
    if runs.duplicated(["cell", "embedding", "seed"]).any():
        raise NothingToDraw(
            "runs of one model and embedding differ in more than the seed: compare one setting at a time"
        )
    metrics = comparison.metrics()
    metrics = metrics[(metrics["split"] == "validation") & (metrics["quantity"] == "loss")]
    curves = runs[["run", "cell", "embedding", "seed"]].merge(metrics[["run", "step", "value"]], on="run")
    if curves.empty:
        raise NothingToDraw("no run whose first layer is varied has been validated yet")
    ended = outcomes(runs)
    whole = [run for run, end in zip(runs["run"], ended, strict=True) if end in ("solved", "unsolved")]
    numbers = pd.DataFrame(
        {
            "model": runs["cell"],
            "embedding": runs["embedding"],
            "seed": runs["seed"],
            "outcome": ended,
            LOSS: runs["loss"].astype(float),
            "parameters": runs["parameters"],
            "run": runs["run"],
        }
    )
    for model, of_model in numbers.groupby("model"):
        of_cell = curves[curves["cell"] == model]
        lowest = of_cell[of_cell["run"].isin(whole)].groupby("run")["value"].min()
        common = float(lowest.max()) if len(lowest) else np.nan
        for row, run in of_model["run"].items():
            of_run = of_cell[of_cell["run"] == run].sort_values("step")
            reached = of_run.loc[of_run["value"] <= common, "step"]
            numbers.loc[row, STEPS] = reached.iloc[0] if len(reached) else np.nan
            numbers.loc[row, "up to step"] = of_run["step"].max()
            numbers.loc[row, "common loss (nats)"] = common
    best = trivial_rule(comparison.card)
    rule = [] if best is None else [(str(best["rule"]), float(best["loss"]))]
    columns = ["model", "embedding", "seed", "outcome", LOSS, "common loss (nats)", STEPS, "up to step", "parameters"]
    return {
        "curves": curves.sort_values(["cell", "run", "step"], ignore_index=True),
        "rule": pd.DataFrame(rule, columns=["rule", "loss"]),
        NUMBERS: numbers[[*columns, "run"]],
    }


def _named(run: dict[str, Any], several: bool) -> str:
    """What the first layer of a run does, with the file's name where ``several`` files are compared."""
    kind = str(run[KIND]).rpartition(".")[2]
    if kind != "Pretrained":
        return {"OneHot": ONE_HOT, "Learned": LEARNED}.get(kind, kind)
    name = FROZEN_VECTORS if run[FROZEN] else TRAINED_VECTORS
    return f"{name} {PurePath(str(run[FILE])).stem}" if several else name


def steps(numbers: pd.DataFrame) -> Estimate:
    """The median of the steps to the common loss, with its interval; a run that did not get there is censored.

    One that never will, because it failed or diverged, is so at infinity.
    """
    got_there = numbers[STEPS].notna()
    ended = numbers["outcome"].isin(["solved", "unsolved"]) & numbers["up to step"].notna()
    upto = numbers["up to step"].where(ended, np.inf)
    return steps_to_solve(numbers[STEPS].where(got_there, upto).to_numpy(), got_there.to_numpy())


def apart(ours: pd.Series, theirs: pd.Series) -> int:
    """-1 where each of our seeds is below each of theirs, 1 where each is above, 0 where they overlap or are missing.

    A run without a value is above all that have one.
    """
    ours, theirs = ours.fillna(np.inf), theirs.fillna(np.inf)
    if ours.empty or theirs.empty:
        return 0
    return -1 if ours.max() < theirs.min() else int(ours.min() > theirs.max())


def finding(tables: Tables) -> str:
    """Test loss and steps to the common loss of every embedding, and whether that is what theory says."""
    numbers, said = tables[NUMBERS], []
    surprises: dict[str, list[str]] = {}
    for model, of_model in numbers.groupby("model", sort=False):
        parts = []
        of = {str(name): chosen for name, chosen in of_model.groupby("embedding", sort=False)}
        for name, chosen in of.items():
            known = chosen[LOSS].dropna().to_numpy()
            if not len(known):
                parts.append(f"{name} not tested")
                continue
            over, took = interval(known), float(np.round(steps(chosen).value))
            parts.append(f"{name} {over.median:.2f} ({over.low:.2f} to {over.high:.2f}; {number(took)})")
        counts = sorted({int(chosen[LOSS].notna().sum()) for chosen in of.values()})
        said.append(f"{model} (n = {listed([str(count) for count in counts])}) {', '.join(parts)}")
        for surprise in against_theory(of):
            surprises.setdefault(surprise, []).append(str(model))
    if numbers["embedding"].nunique() < 2:
        verdict = "one embedding alone is nothing to compare"
    elif surprises:
        verdict = f"against theory {'; '.join(f'{said} ({listed(models)})' for said, models in surprises.items())}"
    else:
        verdict = "as theory says"
    most = int(numbers.groupby(["model", "embedding"]).size().max())
    spread = "the seeds' range" if most < FEWEST else "its interval"
    return f"Test loss in nats, with {spread} and the steps to the loss that all reach: {'; '.join(said)}: {verdict}"


def against_theory(of: dict[str, pd.DataFrame]) -> list[str]:
    """What theory says otherwise of one model's embeddings, whose runs are given by name."""
    surprises = []
    if ONE_HOT in of and LEARNED in of:
        side = apart(of[ONE_HOT][LOSS], of[LEARNED][LOSS])
        if side:
            surprises.append(f"one-hot ends {'below' if side < 0 else 'above'} learned")
    for name, chosen in of.items():
        if name.startswith("pretrained") and LEARNED in of and apart(chosen[STEPS], of[LEARNED][STEPS]) >= 0:
            surprises.append(f"{name} is not sooner than learned")
        if name.startswith(FROZEN_VECTORS):
            tuned = name.replace(FROZEN_VECTORS, TRAINED_VECTORS)
            if tuned in of and apart(chosen[LOSS], of[tuned][LOSS]) < 0:
                surprises.append(f"{name} ends below {tuned}")
    return surprises


@theme.applied()
def draw(tables: Tables) -> Figure:
    """A row a model: the validation loss over steps by embedding, and beside it every run's test loss."""
    curves, numbers, rule = tables["curves"], tables[NUMBERS], tables["rule"]
    names = list(dict.fromkeys(numbers.sort_values("embedding", key=lambda names: names.map(_place))["embedding"]))
    looks = {
        name: theme.Look(
            theme.FAMILIES[place % len(theme.FAMILIES)],
            theme.DASHES[place % len(theme.DASHES)],
            theme.MARKERS[place % len(theme.MARKERS)],
        )
        for place, name in enumerate(names)
    }
    models = list(dict.fromkeys(numbers["model"]))
    figure = Figure(figsize=(theme.WIDTH, 1.9 + 2.4 * len(models)), layout="constrained")
    grid = figure.subplots(len(models), 2, sharey="row", squeeze=False, width_ratios=(3, 1.3))
    for (left, right), model in zip(grid.tolist(), models, strict=True):
        of_model = numbers[numbers["model"] == model]
        for name in names:
            of_curves = curves[(curves["cell"] == model) & (curves["embedding"] == name)]
            _draw_curves(left, of_curves, looks[name], of_model)
        _draw_losses(right, of_model, looks)
        _draw_levels((left, right), of_model, rule)
        left.set_ylabel(f"{model}\nloss (nats)" if len(models) > 1 else "loss (nats)")
        right.set_xlim(-0.6, len(names) - 0.4)
        right.set_xticks([])
        right.tick_params(labelleft=False)
    grid[0][0].set_title("validation", fontweight="bold")
    grid[0][1].set_title("test", fontweight="bold")
    grid[-1][0].set_xlabel("step")
    handles = [
        Line2D([], [], color=look.colour, ls=look.dash, marker=look.marker, ms=4.5, lw=1.6, label=name)
        for name, look in looks.items()
    ]
    handles.append(Line2D([], [], color=theme.QUIET, lw=0.7, dashes=(1, 1.5), label="loss that all reach"))
    if any(line.get_color() == theme.INK for line in grid[0][1].lines):
        handles.append(Line2D([], [], color=theme.INK, lw=0.7, dashes=(4, 3), label="best trivial rule"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, handlelength=3)
    theme.headline(figure, finding(tables))
    return figure


def _place(name: str) -> int:
    return KNOWN.index(name) if name in KNOWN else len(KNOWN)


def _draw_curves(axes: Axes, curves: pd.DataFrame, look: theme.Look, numbers: pd.DataFrame) -> None:
    """Every seed faintly, with a cross where one ended early; the median of those that did not."""
    ended = numbers.set_index("run")["outcome"].isin(["solved", "unsolved"])
    for run, of_run in curves.groupby("run"):
        of_run = of_run.sort_values("step")
        axes.plot(of_run["step"], of_run["value"], color=look.colour, lw=0.7, alpha=0.45, ls=look.dash)
        last = of_run[np.isfinite(of_run["value"])].tail(1)
        if not ended[run]:
            axes.plot(last["step"], last["value"], "x", color=look.colour, ms=5)
    wide = curves[curves["run"].map(ended).astype(bool)].pivot(index="step", columns="run", values="value").dropna()
    if wide.empty:
        return
    over = interval(wide.to_numpy().T)
    axes.plot(wide.index, over.median, color=look.colour, lw=1.8, ls=look.dash, marker=look.marker, ms=4,
              markevery=[-1])  # fmt: skip
    if wide.shape[1] > 1:
        axes.fill_between(wide.index, over.low, over.high, color=look.colour, alpha=0.1, lw=0)


def _draw_losses(axes: Axes, numbers: pd.DataFrame, looks: dict[str, theme.Look]) -> None:
    """Every run as a mark, medians as bars."""
    for place, (name, look) in enumerate(looks.items()):
        losses = numbers.loc[numbers["embedding"] == name, LOSS].dropna().to_numpy()
        if not len(losses):
            continue
        x = place + 0.12 * (np.arange(len(losses)) - (len(losses) - 1) / 2)
        axes.plot(x, losses, look.marker, color=look.colour, ms=4.5, mec=theme.PAPER, mew=0.5, zorder=4)
        middle = float(np.median(losses))
        axes.plot([place - 0.35, place + 0.35], [middle, middle], color=look.colour, lw=1.2, alpha=0.7)


def _draw_levels(panels: tuple[Axes, Axes], numbers: pd.DataFrame, rule: pd.DataFrame) -> None:
    """The loss that all reach, at validation, and that of the trivial rule, or its number where it lies far off."""
    low, high = panels[0].get_ylim()
    panels[0].axhline(numbers["common loss (nats)"].iloc[0], color=theme.QUIET, lw=0.7, dashes=(1, 1.5), zorder=1)
    for name, loss in rule.itertuples(index=False):
        if not low - (high - low) <= loss <= high + (high - low):
            theme.note(panels[0], f"beyond the axis: {name}, {number(loss)} nats", (0.45, 0.9))
            continue
        for axes in panels:
            axes.axhline(loss, color=theme.INK, lw=0.7, dashes=(4, 3), zorder=1)


def caption(tables: Tables) -> str:
    """What is drawn, what the common loss is, how large the models are, and what the band is."""
    numbers, rule = tables[NUMBERS], tables["rule"]
    counts = numbers.groupby(["model", "embedding"])["run"].nunique()
    seeds = sorted({int(count) for count in counts})
    each = seeds_each(seeds)
    few = too_few(seeds[0], "a median")
    sizes = numbers.groupby("embedding", sort=False)["parameters"].median().dropna()
    size = listed([f"{name} {number(count)}" for name, count in sizes.items()])
    trivial = "".join(f" Dashed is the loss of the best trivial rule, {name}." for name in rule["rule"])
    return (
        "Left: loss on the validation set over steps, not smoothed, by what the first layer makes of tokens; thin "
        "lines are seeds, the thick one is their median, the band and the finding's ends are "
        f"{interval_in_words(seeds[-1])}; a cross ends a run that failed, diverged or is not finished. Dotted is the "
        "lowest loss that every finished run of a model reaches: the steps of the finding are the median of those at "
        "which runs are first validated at it or below, one that never is being censored. Right: loss on the test set "
        f"of the checkpoint that validation chose.{trivial} Parameters, median: {size}. Vectors count as sooner where "
        f"every seed is before every seed of the learned ones. {each} for each, every one drawn"
        f"{f': {few}' * bool(few)}."
    )


if __name__ == "__main__":
    sys.exit(question.main(sys.modules[__name__]))
