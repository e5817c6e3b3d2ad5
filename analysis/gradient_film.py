"""The gradient over time as it changes with training: an animation, a frame a snapshot.

    python analysis/gradient_film.py outputs/demo flow.gif
    python analysis/gradient_film.py outputs/demo flow.mp4      by ffmpeg

Of the runs that analysis/gradient_map.py draws, on the same scale; a file for each study and variant of its task.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.animation import FFMpegWriter, PillowWriter
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from retrograde.figures import theme
from retrograde.figures.comparison import Comparison, NothingToDraw, Tables, comparisons
from retrograde.figures.maps import spread
from retrograde.figures.provenance import number
from retrograde.figures.question import imported
from retrograde.record.metadata import number_of
from retrograde.record.sources import opened

of_map = imported(Path(__file__).with_name("gradient_map.py"))

PER_SECOND = 2
"""Frames of an animation."""

MOST_FRAMES = 60
"""Of an animation; where runs have more steps between them, evenly spread."""

MAKERS: dict[str, type[PillowWriter] | type[FFMpegWriter]] = {".gif": PillowWriter, ".mp4": FFMpegWriter}
"""What writes an animation, by the ending of its file."""


def animate(tables: Tables, scores: pd.DataFrame, path: Path) -> int:
    """Writes the gradient over time, a frame for each step that any run shows, or of many some; how many comes back.

    ``scores`` is run, step, value: of the validation, of which a frame names the latest one.
    """
    maps, steps = tables["maps"], spread(np.unique(tables["maps"]["step"]).tolist(), MOST_FRAMES)
    finite = maps.loc[maps["status"] == "finite", "value"].to_numpy()
    low, high = of_map.scale(finite) if len(finite) else (-1.0, 0.0)
    models, looks = theme.present(maps["model"]), theme.looks(maps["model"])
    writer = MAKERS[path.suffix](fps=PER_SECOND)
    with theme.applied():
        figure, panels = theme.panels(len(models), 2.2)
        for axes in panels:
            axes.set_xlim(maps["time"].min() - 0.5, maps["time"].max() + 0.5)
            axes.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.yaxis.set_major_formatter(lambda value, _: theme.power(value))
        theme.label(panels, "time (position)", "‖dL/dz‖ (loss per state)")
        figure.legend(handles=_lines_legend(), loc="outside lower center", ncols=4, frameon=False, handlelength=2.4)
        theme.headline(figure, f"step {number(steps[-1])}: the gradient over time")
        for model, axes in zip(models, panels, strict=True):
            axes.set_title(model, fontweight="bold", color=looks[model].colour)
            axes.set_title(" ", loc="right")
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # or the panels would move from frame to frame
        with writer.saving(figure, str(path), dpi=140):
            for step in steps:
                shown = at_step(maps, step)
                theme.headline(figure, f"step {number(step)}: the gradient over time")
                for model, axes in zip(models, panels, strict=True):
                    of_model = shown[shown["model"] == model]
                    _draw_lines(axes, of_model, looks[model].colour, (low, high))
                    axes.set_title(_score(scores, of_model, step), loc="right")
                writer.grab_frame()
    return len(steps)


def at_step(maps: pd.DataFrame, step: int) -> pd.DataFrame:
    """Of each run the latest snapshot up to a step; ``ended`` is whether it was its last one, before that step."""
    upto = maps[maps["step"] <= step]
    latest = upto[upto["step"] == upto.groupby("run")["step"].transform("max")]
    last = latest["run"].map(maps.groupby("run")["step"].max())
    return latest.assign(ended=(last < step).to_numpy()).reset_index(drop=True)


def _draw_lines(axes: Axes, of_model: pd.DataFrame, colour: str, ends: tuple[float, float]) -> None:
    """Every seed as a line, in place of those of the frame before; marks at the edges for what lies beyond them."""
    for line in list(axes.lines):
        line.remove()
    low, high = ends
    for _, of_run in of_model.groupby("run", sort=True):
        is_number, value = of_run["status"] == "finite", of_run["value"]
        inside = value.where(is_number & value.between(low, high))
        dash = (0, (3, 1.5)) if of_run["ended"].any() else "-"
        axes.plot(of_run["time"], inside, color=colour, linewidth=1.1, alpha=0.8, ls=dash, marker=".", markersize=2)
        below = of_run.loc[(is_number & (value < low)) | of_run["status"].isin(["zero", "censored"]), "time"]
        above = of_run.loc[(is_number & (value > high)) | (of_run["status"] == "inf"), "time"]
        for times, edge, mark in ((below, low, "v"), (above, high, "^")):
            axes.plot(times, np.full(len(times), edge), mark, color=colour, markersize=3, clip_on=False)
        unknown = of_run.loc[of_run["status"] == "nan", "time"]
        axes.plot(unknown, np.full(len(unknown), high), "x", color=theme.INK, markersize=3, clip_on=False)


def _lines_legend() -> list[Line2D]:
    return [
        Line2D([], [], color=theme.INK, lw=1.1, label="a seed"),
        Line2D([], [], color=theme.INK, lw=1.1, ls=(0, (3, 1.5)), label="one that has ended: its last snapshot"),
        Line2D([], [], color=theme.INK, lw=0, marker="v", ms=3, label="zero, lost, infinite or beyond the axis"),
        Line2D([], [], color=theme.INK, lw=0, marker="x", ms=3, label="no number"),
    ]


def _score(scores: pd.DataFrame, of_model: pd.DataFrame, step: int) -> str:
    """The seeds' latest validation scores up to a step: their median, in words."""
    known = scores[scores["run"].isin(of_model["run"]) & (scores["step"] <= step)]
    if known.empty:
        return "not yet validated"
    latest = known.sort_values("step").groupby("run")["value"].last()
    middle = f"{latest.median():.2f}".replace("-", "−")
    return f"validation score {middle}{' (median)' * (len(latest) > 1)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """A file for each comparison below a folder; exit code 1 where there is none."""
    parser = argparse.ArgumentParser(description="The gradient over time, a frame a snapshot.")
    parser.add_argument("source", metavar="SOURCE", help="runs, as for every figure, such as outputs/demo")
    parser.add_argument("file", type=Path, metavar="FILE", help="a .gif, or an .mp4 where there is ffmpeg")
    options = parser.parse_args(arguments)
    path, drawn = options.file, 0
    try:
        if path.suffix not in MAKERS:
            raise ValueError(f"'{path}' does not say what is to be written: an animation ends in {' or '.join(MAKERS)}")
        if not MAKERS[path.suffix].isAvailable():
            raise ValueError(f"'{path}' needs the program ffmpeg, which is not found; a .gif needs no other program")
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened(options.source) as store:
            found, left_out = comparisons(store)
            for comparison in found:
                target = path if len(found) == 1 else path.with_stem(f"{path.stem}-{comparison.stem}")
                try:
                    tables = of_map.load(comparison)
                except NothingToDraw as reason:
                    print(f"nothing to draw for {comparison.study}, {comparison.task}: {reason}", file=sys.stderr)
                    continue
                print(f"{target}: {number_of(animate(tables, scores_of(comparison), target), 'frame')}")
                drawn += 1
            for run, why in (left_out | store.unreadable).items():
                print(f"left out: {run}: {why.replace(f'{store.root.resolve()}/', '')}", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
    return 0 if drawn else 1


def scores_of(comparison: Comparison) -> pd.DataFrame:
    """``run``, ``step`` and ``value`` of the validations of the runs that are drawn."""
    metrics = replace(comparison, runs=of_map.chosen(comparison.runs)).metrics()
    is_score = (metrics["split"] == "validation") & (metrics["quantity"] == "score")
    return metrics.loc[is_score, ["run", "step", "value"]]


if __name__ == "__main__":
    sys.exit(main())
