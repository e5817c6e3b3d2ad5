"""Presets of papers written by hand, for tests of the board: claims made up, and runs whose verdicts are known."""

from pathlib import Path

from fake_runs import Fake, write_run
from retrograde.figures.papers.presets import presets
from retrograde.figures.papers.rows import gathered, rows

CONF = Path(__file__).parents[1] / "conf"
PAPERS = sorted((CONF / "study" / "paper").glob("*.yaml"))

HEAD = """\
# @package _global_
# Does an LSTM add where an Elman network fails?
# Source:    Somebody & Else 1997, A Journal 9(8), table 1
# Published: 5 trials, learning rate 0.1,
#            nothing else
# Open:      the batch, here 4
# Cost:      5 runs, 4 minutes on two cores
# Band:      written before the run
# Run:       retrograde study=paper/{stem}    (5 runs)
defaults:
  - override /task: adding

steps: 200
batch_size: 4

hydra:
  mode: MULTIRUN
  sweeper:
    params:
      model: {models}
      seed: {seeds}
    claims:
{claims}
"""

CLAIM = """\
      - says: {says}
        where: {{model: {model}}}
        of: {of}
        published: {published}
        band: {band}
        origin: 30 of 30 trials
{more}"""


def claim(
    says: str = "LSTM scores above 0.9",
    model: str = "lstm",
    of: str = "score",
    published: object = 1.0,
    band: str = "[0.9, 1.0]",
    more: str = "",
) -> str:
    return CLAIM.format(
        says=says, model=model, of=of, published=published, band=band, more=f"        {more}\n" if more else ""
    )


def preset(
    tmp_path: Path, *claims: str, models: str = "lstm", seeds: str = "0,1,2", stem: str = "else1997", head: str = HEAD
) -> Path:
    """A preset in a folder of such; the folder comes back."""
    folder = tmp_path / "paper"
    folder.mkdir(exist_ok=True)
    text = head.format(stem=stem, models=models, seeds=seeds, claims="".join(claims).rstrip("\n"))
    (folder / f"{stem}.yaml").write_text(text)
    return folder


def ran(model: str, seed: int, score: float | None = None, stem: str = "else1997", **more: object) -> Fake:
    """A finished run of the preset; what it is to say besides, by the key of run.json."""
    given = {} if score is None else {"score": score}
    return Fake(model, seed, f"paper/{stem}", config={"batch_size": 4}, more={**given, **more})


def rows_of(tmp_path: Path, papers: Path, *fakes: Fake) -> list[dict[str, str]]:
    """The rows of all presets with these runs, and with those that were there."""
    for fake in fakes:
        write_run(tmp_path / "outputs", fake)
    return [row for one in presets(papers, CONF) for row in rows(one, gathered(one, tmp_path / "outputs"))]
