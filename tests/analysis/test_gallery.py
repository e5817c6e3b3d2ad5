"""The gallery, from made-up runs: what stands on the page, and what stays of what stood there."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fake_runs import Fake, write_run
from retrograde.core.records import Reading


def linear(radius: float, rate: float, seed: int = 0) -> Fake:
    """A run of the study powers at ``size=small`` whose gradient changes by ``rate`` a lag before training."""

    def slope(step: int) -> list[tuple[str, Reading]]:
        return [("lag_gradient", Reading("slope/0.forward.hidden", np.array(np.log10(rate)), {}, "decades per lag"))]

    config = {"size": "small", "model": {"_target_": "linear_rnn", "radius": radius, "matrix": "orthogonal"}}
    day = f"2026-11-0{seed + 1}T10:00:00+00:00"
    versions = {"retrograde": "0.1.0", "torch": "2.13.0", "python": "3.11.7"}
    more = {"started": day, "versions": versions}
    return Fake("linear_rnn", seed, "powers", keeps=(rate, 1.0), config=config, also=slope, more=more)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery") / "outputs"
    for seed in (0, 1):
        write_run(folder, linear(0.5, rate=0.5, seed=seed))
        write_run(folder, linear(2.0, rate=0.9, seed=seed))
    return folder


@pytest.fixture(scope="module")
def docs(script, outputs: Path) -> Path:
    """A gallery of one study."""
    assert script("gallery").main([str(outputs), "--to", str(outputs.parent / "docs")]) == 0
    return outputs.parent / "docs"


def test_a_section_says_question_verdict_and_what_it_was_made_with(docs: Path) -> None:
    page = (docs / "gallery.md").read_text()
    assert "## powers\n" in page
    assert "*Does the gradient of a recurrence explode where ‖W‖ &gt; 1" in page
    assert "in 2 of 4 runs" in page.split("**Found:**")[1]  # of radius 2, whose gradient falls: against theory
    assert "`retrograde study=powers size=small`: 4 runs, 2 seeds (0, 1)" in page
    assert "`python analysis/powers.py outputs/powers`" in page
    assert "When: 2026-11-01 to 2026-11-02" in page
    assert "retrograde 0.1.0, torch 2.13.0, python 3.11.7; commit abc1234" in page


def test_the_picture_is_the_scripts_without_its_headline(docs: Path) -> None:
    (picture,) = (docs / "gallery").iterdir()
    assert f"](gallery/{picture.name})" in (docs / "gallery.md").read_text()
    with Image.open(picture) as image:
        # a figure of 5.2 inches at 200 dots an inch, less its headline
        assert 700 < image.height < 1040
        assert image.mode == "P"


def test_another_run_changes_its_own_sections_alone(
    script, docs: Path, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sections of other studies stay, pictures that none shows go; what cannot be drawn costs the others nothing."""
    sources = tmp_path / "outputs"
    shutil.copytree(outputs, sources)
    write_run(sources, Fake("lstm", study="scaling"))
    write_run(sources, Fake("lstm", study="mine"))
    missing, again = tmp_path / "nowhere", tmp_path / "docs"
    (again / "gallery").mkdir(parents=True)
    (again / "gallery" / "order.png").write_bytes(b"kept")
    (again / "gallery" / "powers-old.png").write_bytes(b"gone")
    before = "# Gallery\n\nOld.\n\n## order\n\n![x](gallery/order.png)\n\n## powers\n\n![x](gallery/powers-old.png)\n"
    (again / "gallery.md").write_text(before)
    assert script("gallery").main([str(missing), str(sources), "--to", str(again)]) == 0
    said = capsys.readouterr().err
    assert "not drawn: scaling: " in said
    assert "not drawn: mine: conf/study/mine.yaml names no question under 'Figure:'" in said
    assert f"'{missing}' is not a folder" in said
    introduction, powers = (docs / "gallery.md").read_text().split("## powers", 1)
    order = "## order\n\n![x](gallery/order.png)\n\n"
    assert (again / "gallery.md").read_text() == f"{introduction}{order}## powers{powers}"  # byte for byte
    name = "powers-adding-powers.png"
    assert sorted(path.name for path in (again / "gallery").iterdir()) == ["order.png", name]
    assert (again / "gallery" / name).read_bytes() == (docs / "gallery" / name).read_bytes()


def test_nothing_drawn_at_all_is_an_error(script, tmp_path: Path) -> None:
    write_run(tmp_path / "outputs", Fake("lstm", study="mine"))
    assert script("gallery").main([str(tmp_path / "outputs"), "--to", str(tmp_path / "docs")]) == 1


def test_text_from_runs_is_shown_as_text(script) -> None:
    assert script("gallery").escaped("a_b <img src=x> [c](d) `e`") == r"a\_b &lt;img src=x&gt; \[c\](d) \`e\`"


def test_runs_that_are_left_out_are_named(script, outputs: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(outputs, tmp_path / "outputs")
    card = sorted((tmp_path / "outputs").rglob("card.json"))[0]
    card.write_text("{")
    assert script("gallery").main([str(tmp_path / "outputs"), "--to", str(tmp_path / "docs")]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"left out: {card.parent.name}: ") and str(tmp_path) not in line


def test_where_nothing_is_drawn_no_page_is_begun(script, tmp_path: Path) -> None:
    assert script("gallery").main([str(tmp_path / "none"), "--to", str(tmp_path)]) == 1
    assert not (tmp_path / "gallery.md").exists()


def test_a_study_of_several_questions_shows_each(script, tmp_path: Path):
    """The newcomer's study, whose configuration names reach first."""
    gallery = script("gallery")
    assert gallery.scripts_of("demo")[:3] == ["reach", "learning", "gradient_map"]
    assert gallery.scripts_of("embeddings") == ["embeddings"]  # a tool is named beside it, which asks nothing
