"""The page in a browser: `make page`, which fetches axe-core first. Needs Debian's chromium.

At a phone's and a desktop's width, light and dark: nothing is wider than the window, nothing is asked of anybody, the
console is silent, and axe-core finds no serious fault.
"""

import warnings
from itertools import pairwise
from pathlib import Path

import pytest

from browser import Browser, missing
from fake_runs import Fake, shallow, write_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

NAME = ("<b>&amp;</b> 🧠 a/b $x$ " + "n" * 300)[:250]
"""What a model may be called."""

ALERT = {"kind": "vanishing", "level": "error", "layer": "0.forward", "component": "hidden", "value": 1.0, "first": 0,
         "last": 10, "text": f"layer 0: it is gone, {'x' * 300}", "at_end": True}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, script) -> Path:
    """Two studies, one of two variants; runs of every ending, alerts, rules, and names that are long or odd."""
    outputs, to = tmp_path_factory.mktemp("outputs"), tmp_path_factory.mktemp("to")
    for seed in range(2):
        for study in ("reach", "demo"):
            write_run(outputs, Fake("lstm", seed, study, components=("hidden", "cell"), more={"alerts": [ALERT]}))
    write_run(outputs, Fake("odd", study="demo", more={"model": NAME}))
    write_run(outputs, Fake("elman", study="demo", solved=False, keeps=(0.3, 0.3)))
    write_run(
        outputs, Fake("transformer", study="demo", task=f"copying 🧠 {'t' * 150}", heads=2, components=("residual",))
    )
    write_run(outputs, Fake("gru", study="demo", status="failed", more={"reason": f"<b>{'r' * 400}"}))
    write_run(outputs, Fake("gru", 1, "demo", more={"diverged_step": 7, "reason": "not finite", "solved": False}))
    write_run(outputs, shallow("bag", 0.2))
    torn = write_run(outputs, Fake("gru", 2, "demo"))
    (torn.path / "run.json").write_text("{")
    with warnings.catch_warnings():  # 250 characters find no room in a figure, nor an emoji in its font
        warnings.filterwarnings("ignore", message="Glyph|constrained_layout")
        assert script("report").main([str(outputs), "--to", str(to)]) == 0
    return to / "index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_what_it_should_be(browser: Browser, page: Path, width: int, dark: bool):
    with browser.open(page, width, dark) as view:
        assert view.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is dark
        assert view.overflow == 0
        view.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert view.overflow == 0
        assert [url for url in view.requests if not url.startswith(("file:", "data:"))] == []
        assert [url for url in view.requests if url.startswith("file:")] == [page.resolve().as_uri()]
        assert view.faults() == []
        assert view.said == []


def test_a_key_reaches_what_scrolls_and_what_unfolds(browser: Browser, page: Path):
    """Every region that is wider than it is shown can have the focus, and has a name that no other has."""
    with browser.open(page, 360) as view:
        unreached = """[...document.querySelectorAll('*')].filter(one => one.scrollWidth > one.clientWidth + 1
            && ['auto', 'scroll'].includes(getComputedStyle(one).overflowX) && one.tabIndex < 0).length"""
        assert view.evaluate(unreached) == 0
        names = view.evaluate("[...document.querySelectorAll('[role=region]')].map(one => one.ariaLabel)")
        assert names and len(names) == len(set(names))


def test_headings_go_down_one_level_at_a_time(browser: Browser, page: Path):
    with browser.open(page, 1280) as view:
        levels = view.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5')].map(one => +one.tagName[1])")
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_faults_are_found_where_there_are_some(browser: Browser, tmp_path: Path):
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><html><body><img src='https://example.invalid/x.png'>"
        "<p style='color:#eee;width:2000px'>pale</p>"
        "<script>console.error('said')</script></body></html>"
    )
    with browser.open(bad, 360) as view:
        assert view.overflow > 0
        assert any("color-contrast" in fault for fault in view.faults())
        assert any(url.startswith("https:") for url in view.requests)
        assert any("said" in said for said in view.said)
