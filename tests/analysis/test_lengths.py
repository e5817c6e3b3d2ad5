"""Which lengths what was learnt holds on, from runs whose score by length is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fake_runs import CARD, Fake, write_run
from retrograde.core.contracts import Baseline
from retrograde.core.records import Reading
from retrograde.figures.comparison import NUMBERS, STUDY, NothingToDraw, comparisons
from retrograde.record.store import FolderStore


def learner(
    model: str,
    trained: int,
    holds: int,
    seed: int = 0,
    state: int | None = 64,
    task: str = "parity",
    tested: tuple[int, ...] = tuple(range(5, 33)),
    solved: bool = True,
) -> Fake:
    """Right on lengths up to ``holds`` and a coin's throw beyond, ten sequences of each length."""

    def scores(step: int) -> list[tuple[str, Reading]]:
        parts = {
            "test": [length for length in tested if length <= trained],
            "longer": [length for length in tested if length > trained],
        }
        readings = []
        for split, lengths in parts.items():
            values = np.array([[1.0 if length <= holds else 0.5 for length in lengths], [10.0] * len(lengths)])
            dims = {"statistic": ("mean", "count"), "length": lengths}
            readings.append((split, Reading("score_by_length/outputs", values, dims, "score")))
        return readings if step == 200 else []

    card = replace(CARD, variant=f"up to {trained}", baselines=(Baseline("a coin", 0.7, 0.5, "two answers"),))
    config = {"task": {"longest": trained, "test_longest": max(tested)}}
    more = {"state_size": state, "longer": {"score": 1.0 if holds >= max(tested) else 0.5}}
    return Fake(model, seed, task=task, solved=solved, card=card, more=more, config=config, also=scores)


def load(script, outputs: Path, *fakes: Fake):
    for fake in fakes:
        write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs), STUDY)
    return script("lengths").load(comparison)


def theory(seeds: int = 3) -> list[Fake]:
    return [
        learner(model, trained, 32 if state else trained, seed, state)
        for model, state in (("lstm", 64), ("transformer", None))
        for trained in (8, 16)
        for seed in range(seeds)
    ]


def test_columns_double_and_a_run_holds_up_to_the_last_before_it_falls(script, tmp_path: Path):
    """Of 17 to 32, what is right up to 20 is right on 4 of 16 lengths: (4 + 12/2)/16 = 0.625."""
    tables = load(script, tmp_path, learner("lstm", 8, 20), learner("lstm", 16, 32))
    cells, numbers = tables["cells"], tables[NUMBERS]
    assert cells["column_end"].tolist() == [8, 16, 32, 8, 16, 32]
    np.testing.assert_allclose(cells["score"], [1, 1, 0.625, 1, 1, 1])
    assert cells["count"].tolist() == [40, 80, 160] * 2
    assert numbers["holds up to"].tolist() == [16, 32]
    assert numbers["holds on longest"].tolist() == [False, True]


def test_tasks_of_one_length_have_a_column_for_each(script, tmp_path: Path):
    runs = [learner("lstm", trained, 40, tested=(trained, 80)) for trained in (20, 40)]
    cells = load(script, tmp_path, *runs)["cells"]
    assert cells[["trained", "column_end"]].values.tolist() == [[20, 20], [20, 80], [40, 40], [40, 80]]
    assert cells["score"].tolist() == [1, 0.5, 1, 0.5]


def test_what_comes_out_as_theory_says_is_said(script, tmp_path: Path):
    """6 of 6 and 0 of 6 by Wilson: 61 to 100 % and 0 to 39 %."""
    said = script("lengths").finding(load(script, tmp_path, *theory()))
    assert "2 to 4 times as long as those trained on" in said
    assert "lstm 6 of 6 (61 to 100 %), transformer 0 of 6 (0 to 39 %)" in said
    assert "As expected a state of fixed size holds more often than attention" in said


def test_attention_that_holds_as_well_is_said(script, tmp_path: Path):
    """By Wilson 0 of 4 is at most 49 %, and 4 of 4 at least 51 %."""
    fallen = [learner("lstm", trained, trained, seed) for trained in (8, 16) for seed in range(2)]
    holding = [learner("transformer", trained, 32, seed, None) for trained in (8, 16) for seed in range(2)]
    said = script("lengths").finding(load(script, tmp_path, *fallen, *holding))
    assert "Against expectation a state of fixed size holds less often than attention" in said


def test_intervals_that_overlap_tell_nothing(script, tmp_path: Path):
    """By Wilson 2 of 2 is at least 34 %, and 0 of 2 at most 66 %."""
    said = script("lengths").finding(load(script, tmp_path, *theory(seeds=1)))
    assert "Whether a state of fixed size holds more often than attention is not told" in said


def test_runs_that_solve_nothing_are_not_counted(script, tmp_path: Path):
    solved = [learner("lstm", trained, 32) for trained in (8, 16)]
    unsolved = [learner("transformer", trained, 0, state=None, solved=False) for trained in (8, 16)]
    said = script("lengths").finding(load(script, tmp_path, *solved, *unsolved))
    assert "transformer: none of 2 solves its task" in said
    assert "Of runs that carry all that was read none solves its task, so that the two are not compared" in said


def test_every_seed_has_its_strip(script, tmp_path: Path):
    tables = load(script, tmp_path, *theory(), *(learner("lstm", n, 32, task="dyck") for n in (8, 16)))
    figure = script("lengths").draw(tables)
    panels = figure.axes[:4]
    assert [axes.get_title(loc="left") for axes in panels] == ["lstm", "transformer", "", ""]
    strips = [sum(mesh.get_array().size for mesh in axes.collections) for axes in panels]
    assert strips == [6, 0, 18, 18]
    assert [axes.get_ylabel() for axes in panels[::2]] == ["dyck\ntrained up to", "parity\ntrained up to"]
    assert {text.get_text() for text in panels[1].texts} == {"–"}
    caption = script("lengths").caption(tables)
    assert "are its 1 to 3 seeds" in caption
    assert "{" not in caption


def test_one_trained_length_has_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match=r"task\.longest=20,40"):
        load(script, tmp_path, learner("lstm", 8, 32))


def test_without_longer_sequences_there_is_no_answer(script, tmp_path: Path):
    with pytest.raises(NothingToDraw, match=r"task\.test_longest=500"):
        load(script, tmp_path, Fake("lstm"))
