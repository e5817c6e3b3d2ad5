"""Names and texts from outside are text on the page and in the figures, and no file is written elsewhere for them."""

import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from damage import ALERT, write_not_begun
from fake_runs import CARD, Fake, write_run
from retrograde.core.contracts import Baseline

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'--><svg onload=alert(1)>"
HOSTILE = f"{MARKUP}\n../../x\u202e$\\frac$\x1b[31m\x00" + "x" * 5_000
LINE = f"{MARKUP} .. x $\\frac$ {{{{ 7 * 7 }}}}"
"""What can be a name."""


class Tags(HTMLParser):
    """What the page opens, with which attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.opened: set[str] = set()
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.opened.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, script) -> tuple[Path, str]:
    place = tmp_path_factory.mktemp("hostile")
    outputs = place / "outputs"
    card = replace(
        CARD, variant=HOSTILE, scored=HOSTILE, score=HOSTILE, comparable=(HOSTILE,),
        baselines=(Baseline(HOSTILE, 1 / 6, 0.0, HOSTILE),),
    )  # fmt: skip
    labels = tuple(f"{HOSTILE}{'*' * (time == 1)}" for time in range(8))
    who = {"study": LINE.replace("/", ""), "task": LINE.replace("/", "")}
    more = {
        "alerts": [{**ALERT, "text": HOSTILE, "layer": HOSTILE, "kind": LINE, "level": f'"{LINE}'}],
        "commit": HOSTILE, "config_hash": HOSTILE, "versions": {HOSTILE: HOSTILE},
    }  # fmt: skip
    for seed, value in enumerate((HOSTILE, "plain")):
        config = {"model": {"setting": value}}
        write_run(outputs, Fake(LINE, seed, heads=2, card=card, labels=labels, more=more, config=config, **who))
    write_run(outputs, Fake("gru", card=card, status="failed", more={"reason": HOSTILE}, **who))
    write_not_begun(outputs, HOSTILE)
    with warnings.catch_warnings():  # 5,000 characters find no room in a figure, nor a control character in a font
        warnings.filterwarnings("ignore", message="Glyph|constrained_layout")
        assert script("report").main([str(outputs), "--to", str(place / "to")]) == 0
    assert {path.name for path in place.iterdir()} == {"outputs", "to"}
    return place / "to", (place / "to/index.html").read_text(encoding="utf-8")


def test_nothing_from_a_run_is_markup(made) -> None:
    tags = Tags(made[1])
    assert "script" not in tags.opened and "img" not in tags.opened
    assert not [name for name in tags.attributes if name.startswith("on")]
    assert MARKUP in "".join(tags.words)
    assert "{{ 7 * 7 }}" in "".join(tags.words)


def test_every_question_is_drawn_of_them(made) -> None:
    names = {path.name for path in (made[0] / "figures").iterdir()}
    for stem in ("reach", "learning", "attention_maps"):
        assert [name for name in names if name.endswith(f"-{stem}.svg")], (stem, names)


def test_every_file_lies_where_it_should(made) -> None:
    files = [path for path in made[0].rglob("*") if path.is_file()]
    assert {path.parent.relative_to(made[0]).as_posix() for path in files} == {".", "figures", "tables"}
    assert all(path.name.isprintable() and len(path.name) < 200 for path in files)


def test_a_run_that_failed_before_it_began_is_named_with_its_reason(made) -> None:
    assert "rnn, seed 0, failed: <script>" in "".join(Tags(made[1]).words)
