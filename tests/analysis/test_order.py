"""Position encodings, on runs with known scores at the trained length and beyond it."""

from dataclasses import replace
from pathlib import Path

import pytest

from fake_runs import CARD, Fake, write_run
from retrograde.core.contracts import Baseline
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.record.store import FolderStore

COUNTING = Baseline("how many of each", 0.35, 0.75, "by hand")
CARDS = {"adding": CARD, "temporal_order": replace(CARD, variant="4 classes", baselines=(COUNTING,))}


def placed(
    position: str, task: str, score: float, longer: float | None = None, seed: int = 0, model="transformer"
) -> Fake:
    """A run whose test gave ``score``, and ``longer`` on longer sequences; solved from 0.94 on."""
    more = {"score": score, "solved": score >= CARD.solved}
    if longer is not None:
        more["longer"] = {"score": longer, "loss": 0.1}
    config = {
        "model": {"_target_": model, "position": {"_target_": f"retrograde.layers.positions.{position}"}},
        "task": {"length": 20, "test_length": 60},
    }
    return Fake(model, seed, task=task, card=CARDS[task], config=config, more=more)


def both_tasks(without: tuple[float, float], model: str = "transformer") -> list[Fake]:
    """Without an encoding these scores on adding and on temporal order; with one, both solved, also beyond by alibi."""
    fakes = []
    for seed in (0, 1):
        for task, score in zip(CARDS, without, strict=True):
            fakes.append(placed("NoPosition", task, score, 0.3, seed, model))
            fakes.append(placed("Sinusoidal", task, 0.98, 0.5, seed, model))
            fakes.append(placed("Alibi", task, 0.99, 0.97, seed, model))
    return fakes


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs), script("order").OF)
    return script("order").load(comparison)


def test_scores_and_rules_are_those_of_each_task(script, tmp_path: Path):
    tables = load(script, tmp_path, *both_tasks((0.96, 0.75)))
    numbers = tables[NUMBERS]
    assert numbers["position"].tolist()[:6] == ["none", "none", "sinusoidal", "sinusoidal", "alibi", "alibi"]
    assert numbers["test score"].tolist()[:6] == [0.96, 0.96, 0.98, 0.98, 0.99, 0.99]
    assert tables["rules"].set_index("task")["score"].to_dict() == {"adding": 0.0, "temporal_order": 0.75}


def test_what_comes_out_as_theory_says_is_said(script, tmp_path: Path):
    tables = load(script, tmp_path, *both_tasks((0.96, 0.75), "transformer_encoder"))
    said, caption = script("order").finding(tables), script("order").caption(tables)
    falls = "attention over all positions falls on temporal_order (to 0.75) and holds on adding"
    assert said.startswith(f"Without encoding {falls}. On longer sequences encodings of distance ")
    scores = "none 0.75, no better than a trivial rule's 0.75; sinusoidal 0.98, alibi 0.99"
    assert f"attention over all positions (transformer_encoder) on temporal_order: {scores}. " in caption
    assert "none 0 of 2, sinusoidal 0 of 4, alibi 4 of 4" in caption


def test_what_does_not_is_said_too(script, tmp_path: Path):
    """A causal mask that is enough for order."""
    said = script("order").finding(load(script, tmp_path, *both_tasks((0.96, 0.97))))
    assert "causal attention holds on both" in said
    assert "falls" not in said


def test_a_task_that_no_encoding_learns_shows_nothing(script, tmp_path: Path):
    fakes = [placed(position, "temporal_order", 0.7) for position in ("NoPosition", "Rope")]
    tables = load(script, tmp_path, *fakes)
    said = script("order").finding(tables)
    assert "shows nothing on temporal_order. " in said
    assert "none 0.7, no better than a trivial rule's 0.75; rope 0.7." in script("order").caption(tables)
    assert "No run was tested on longer sequences" in said


def test_encodings_of_distance_hold_better_where_the_intervals_lie_apart(script, tmp_path: Path):
    fakes = [
        placed(position, "adding", 0.99, longer, seed)
        for position, longer in (("NoPosition", 0.3), ("Sinusoidal", 0.3), ("Rope", 0.99))
        for seed in range(5)
    ]
    said = script("order").finding(load(script, tmp_path, *fakes))
    assert "encodings of distance hold better than of position (57 to 100 against 0 to 43 %)" in said


def test_one_seed_that_does_without_is_enough_for_a_task_not_to_fall(script, tmp_path: Path):
    fakes = [placed("Rope", "adding", 0.99, seed=seed) for seed in (0, 1)]
    fakes += [placed("NoPosition", "adding", score, seed=seed) for seed, score in enumerate((0.1, 0.99))]
    numbers = load(script, tmp_path, *fakes)[NUMBERS]
    assert script("order").falls(numbers) == "open"


def test_runs_that_did_not_finish_score_not_nothing(script, tmp_path: Path):
    """Of those without an encoding none has been tested: not that they fall."""
    fakes = [placed("Rope", "adding", 0.99, seed=seed) for seed in (0, 1)]
    fakes += [replace(placed("NoPosition", "adding", 0.1, seed=seed), status="running", more={}) for seed in (0, 1)]
    said = script("order").finding(load(script, tmp_path, *fakes))
    assert said.startswith("Without encoding causal attention shows nothing on adding.")
    assert said.endswith("Not counted: 2 running")


def test_every_panel_has_its_marks(script, tmp_path: Path):
    fakes = [*both_tasks((0.96, 0.75)), *both_tasks((0.96, -3.0), "transformer_encoder")]
    tables = load(script, tmp_path, *fakes)
    figure = script("order").draw(tables)
    assert len(figure.axes) == 4
    below = [line for line in figure.axes[1].lines if line.get_marker() == "v"]
    assert [len(line.get_xdata()) for line in below] == [2]
    assert "adding: 20, then 60; temporal_order: 20, then 60" in script("order").caption(tables)
    assert "causal attention (transformer)" in script("order").caption(tables)


def test_runs_with_one_encoding_have_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match="model/position=none"):
        load(script, tmp_path, placed("Rope", "adding", 0.9))
