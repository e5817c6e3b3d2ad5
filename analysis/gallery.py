"""The documentation's gallery: of each study the question, the verdict and the figure, made from its runs.

    python analysis/gallery.py outputs/powers outputs/reach --to docs

    <to>/gallery.md              a section a study, in order of their names
    <to>/gallery/<stem>.png      its figures, without the headline, which the page says in words

A study's figures are drawn by the scripts that its configuration names under ``Figure:``, as a report draws them.
Sections of studies that none of the sources holds stay as they are; so does one of which a figure cannot be drawn, and
it is named with the reason. The exit code is 1 where nothing is drawn. The same runs give the same bytes.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from retrograde.figures.comparison import STUDY, Comparison, NothingToDraw, comparisons, listed, outcome, records
from retrograde.figures.question import Answer, Question, answer, asked, compared, failure, imported
from retrograde.figures.save import escaped, sentence, shrunk
from retrograde.record.metadata import number_of
from retrograde.record.sources import opened
from retrograde.record.store import FolderStore

HERE = Path(__file__).parent
CONF = HERE.parent / "conf" / "study"
PAGE, PICTURES = "gallery.md", "gallery"

INTRODUCTION = """\
# Gallery

What the studies said of real runs. Every verdict is computed from the runs by the script that draws the figure, and
says by itself what did not come out as expected. With `size=small` there are few seeds: read those verdicts as hints.

<!-- Written by analysis/gallery.py from runs: change that, or the study. -->
"""


def scripts_of(study: str) -> list[str]:
    """The stems of the questions that a study is for, its own first; raises ValueError where its head names none."""
    named = re.findall(r"(?:(?<=analysis/)|(?<= ))(\w+)\.py", asked(_head(study), "Figure"))
    questions = [stem for stem in dict.fromkeys(named) if hasattr(imported(HERE / f"{stem}.py"), "finding")]
    if not questions:
        raise ValueError(f"conf/study/{study}.yaml names no question under 'Figure:'")
    return questions


def _head(study: str) -> str:
    """What the head of a study's configuration says; empty where there is no such study."""
    path = CONF / f"{study}.yaml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return "\n".join(line[2:] for line in lines if line.startswith("# "))


def answers(
    store: FolderStore, study: str, stem: str, question: Question, folder: Path
) -> list[tuple[Comparison, Answer]]:
    """What a script draws of a study's runs, on each variant of its task or on all at once.

    A variant that holds nothing on it is left out; raises NothingToDraw where all are.
    """
    drawn, reasons = [], []
    for comparison in comparisons(store, compared(question))[0]:
        if comparison.study == study:
            try:
                drawn.append((comparison, answer(question, stem, comparison, folder)))
            except NothingToDraw as reason:
                reasons.append(str(reason))
    if not drawn:
        raise NothingToDraw("; ".join(dict.fromkeys(reasons)))
    return drawn


def section(study: str, drawn: Mapping[str, Sequence[tuple[Comparison, Answer]]]) -> str:
    """A study's part of the page; ``drawn`` is what each of its scripts gave, by stem."""
    (_, first), *others = drawn.items()
    parts = [f"## {study}", f"*{escaped(sentence(asked(_head(study)) or first[0][1].question))}*"]
    expected = asked(_head(study), "Expect") or first[0][1].expected
    if expected:
        parts.append(f"**Expected:** {escaped(sentence(expected))}")
    parts += _found(first)
    for stem, given in others:
        parts += [f"### {study}: {stem.replace('_', ' ')}", f"*{escaped(sentence(given[0][1].question))}*"]
        parts += _found(given)
    parts += ["**Made with**", made_with(study, [comparison for comparison, _ in first], list(drawn))]
    return "\n\n".join(parts) + "\n"


def _found(given: Sequence[tuple[Comparison, Answer]]) -> list[str]:
    """Verdict, figure and caption of each variant."""
    parts = []
    for comparison, one in given:
        where = f" ({escaped(', '.join(comparison.variants))})" if len(given) > 1 else ""
        words = escaped(one.finding).replace("\n", " ")
        parts += [f"**Found{where}:** {escaped(one.finding)}.", f"![{words}]({PICTURES}/{one.stem}.png)"]
        parts.append(escaped(one.caption))
    return parts


def made_with(study: str, compared: Sequence[Comparison], scripts: Sequence[str]) -> str:
    """Command, runs, seeds, days and versions, as the runs themselves have recorded them."""
    runs = [run for one in compared for run in records(one.runs)]

    def distinct(column: str) -> list[str]:
        return sorted({str(run[column]) for run in runs if run.get(column) == run.get(column) is not None})

    sizes = distinct("config.size") or ["full"]
    commands = [f"`retrograde study={study}{'' if size == 'full' else f' size={size}'}`" for size in sizes]
    days = sorted({started[:10] for started in distinct("started")})
    seeds = sorted({int(run["seed"]) for run in runs})
    ends = [outcome(run) for run in runs]
    odd = [f"{ends.count(name)} {name}" for name in dict.fromkeys(ends) if name not in ("solved", "unsolved")]
    ended = f" ({', '.join(odd)})" if odd else ""
    versions = [
        f"{name} {', '.join(distinct(f'versions.{name}')) or '?'}" for name in ("retrograde", "torch", "python")
    ]
    return "\n".join(
        [
            f"- Runs: {listed(commands)}: {number_of(len(runs), 'run')}{ended}, "
            f"{number_of(len(seeds), 'seed')} ({', '.join(map(str, seeds))})",
            f"- Figure: {listed([f'`python analysis/{stem}.py outputs/{study}`' for stem in scripts])}",
            f"- When: {' to '.join(dict.fromkeys([days[0], days[-1]])) if days else 'not recorded'}",
            f"- Versions: {escaped(', '.join(versions))}; commit {escaped(', '.join(distinct('commit')) or '?')}",
        ]
    )


def sections(page: Path) -> dict[str, str]:
    """What the page holds by now, by study."""
    if not page.is_file():
        return {}
    parts = re.split(r"^(?=## )", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {part.splitlines()[0].removeprefix("## "): part.rstrip() + "\n" for part in parts}


def write(found: Mapping[str, str], to: Path) -> Path:
    """The page, and away with pictures that no section shows."""
    page = to / PAGE
    text = "\n".join([INTRODUCTION, *(found[study] for study in sorted(found))])
    page.write_text(text, encoding="utf-8")
    for picture in (to / PICTURES).glob("*.png"):
        if f"({PICTURES}/{picture.name})" not in text:
            picture.unlink()
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The documentation's gallery, made from the studies' runs.")
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="a folder that holds runs, such as outputs/powers")
    parser.add_argument(
        "--to", type=Path, default=HERE.parent / "docs", help="the documentation's folder; docs if left out"
    )
    options = parser.parse_args(arguments)
    options.to.mkdir(parents=True, exist_ok=True)
    found = sections(options.to / PAGE)
    drawn = 0
    for source in options.sources:
        try:
            with opened(source) as store, tempfile.TemporaryDirectory() as temporary:
                wholes, left_out = comparisons(store, STUDY)
                for whole in wholes:
                    drawn += one_study(store, whole, Path(temporary), found, options.to)
                for run, why in (left_out | store.unreadable).items():
                    print(f"left out: {run}: {why.replace(f'{store.root.resolve()}/', '')}", file=sys.stderr)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
    if not drawn:
        return 1
    print(write(found, options.to))
    return 0


def one_study(store: FolderStore, whole: Comparison, drawing: Path, found: dict[str, str], to: Path) -> int:
    """Draws a study and puts its section among those found; how many there are of it comes back, 1 or 0."""
    study = whole.study
    try:
        drawn = {
            stem: answers(store, study, stem, imported(HERE / f"{stem}.py"), drawing) for stem in scripts_of(study)
        }
        text = section(study, drawn)
    except ValueError as reason:
        print(f"not drawn: {study}: {reason}", file=sys.stderr)
        return 0
    except Exception as error:  # a mistake in one script costs the others nothing
        print(f"not drawn: {study}: {failure(error, whole)}", file=sys.stderr)
        return 0
    given = [one for of_script in drawn.values() for _, one in of_script]
    for one in given:
        (picture,) = (path for path in one.files if path.suffix == ".png")
        shrunk(picture, one.headline, to / PICTURES / f"{one.stem}.png")
    found[study] = text
    print(f"{study}: {'; '.join(one.finding for one in given)}.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
