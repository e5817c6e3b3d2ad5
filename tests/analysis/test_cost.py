"""What a step costs over T, from runs whose durations are known, beside a record of memory that is."""

import json
from pathlib import Path

import numpy as np
import pytest

from fake_runs import Fake, write_run
from retrograde.figures.comparison import NUMBERS, STUDY, NothingToDraw, comparisons
from retrograde.record.store import FolderStore

LENGTHS = (64, 128, 256)
FAMILIES = {"lstm": "kernel", "mingru": "parallel", "transformer": "attention"}


@pytest.fixture
def cost(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The script, with a benchmark that counted T bytes for lstm and T² for transformer."""
    growth = [
        {"name": name, "family": family, "points": [{"length": at, "memory": at**power} for at in LENGTHS]}
        for (name, family), power in zip(FAMILIES.items(), (1, 1, 2), strict=True)
    ]
    machine = {"device": "a CPU", "commit": "abc1234", "date": "2026-01-01"}
    record = {"growth": growth, "machine": machine, "settings": {"batch": 4, "width": 64}}
    results = tmp_path / "results"
    results.mkdir()
    (results / "growth-cpu.json").write_text(json.dumps(record))
    module = script("cost")
    monkeypatch.setattr(module, "RESULTS", results)
    return module


def runs(model: str, power: float, seed: int = 0, beside: float = 3.0) -> list[Fake]:
    """A step takes (T/64)^power seconds, and a run ``beside`` seconds more than its 4 or 24 steps."""
    found = []
    for length in LENGTHS:
        for steps in (4, 24):
            more = {"steps": steps, "duration": beside + steps * (length / 64) ** power}
            config = {"task": {"length": length}, "steps": steps}
            found.append(Fake(model, seed, solved=False, more=more, config=config))
    return found


def load(cost, outputs: Path, *fakes: list[Fake]):
    for many in fakes:
        for fake in many:
            write_run(outputs, fake)
    (comparison,), _ = comparisons(FolderStore(outputs), STUDY)
    return cost.load(comparison)


def test_seconds_a_step_are_what_more_steps_take(cost, tmp_path: Path):
    tables = load(cost, tmp_path / "o", runs("lstm", 1), runs("transformer", 2))
    times, numbers = tables["times"], tables[NUMBERS].set_index("architecture")
    seconds = times.drop_duplicates(["architecture", "length"]).groupby("architecture")["seconds"].apply(list)
    np.testing.assert_allclose(seconds["lstm"], [1, 2, 4])
    np.testing.assert_allclose(seconds["transformer"], [1, 4, 16])
    np.testing.assert_allclose(numbers.loc[["lstm", "transformer"], "exponent of time"], [1, 2])
    np.testing.assert_allclose(numbers.loc[["lstm", "transformer"], "exponent of memory"], [1, 2])


def test_runs_of_two_widths_are_not_taken_together(cost, tmp_path: Path):
    """At width 8 a step takes a second, at 64 ten, at every length."""
    found = []
    for width, seconds in ((8, 1.0), (64, 10.0)):
        for length in LENGTHS:
            for steps in (4, 24):
                config = {"task": {"length": length}, "steps": steps, "width": width}
                found.append(Fake("lstm", more={"steps": steps, "duration": steps * seconds}, config=config))
    times = load(cost, tmp_path / "o", found)["times"]
    assert set(times["architecture"]) == {"lstm (width=8)", "lstm (width=64)"}
    assert set(times["kind"]) == {"recurrence"}
    np.testing.assert_allclose(times.loc[times["architecture"] == "lstm (width=64)", "seconds"], 10)


def test_exponents_are_of_the_last_lengths(cost):
    """A constant up to 64 and T from there: the first of five lengths does not count."""
    lengths = np.array([512, 32, 64, 128, 256])
    assert cost.exponent(lengths, np.maximum(lengths, 64)) == pytest.approx(1)


def seeds(model: str, power: float, apart: float = 0.0) -> list[Fake]:
    return [fake for seed in range(3) for fake in runs(model, power + apart * (seed - 1), seed)]


def test_what_comes_out_as_theory_says_is_said(cost, tmp_path: Path):
    said = cost.finding(load(cost, tmp_path / "o", seeds("lstm", 1), seeds("mingru", 1), seeds("transformer", 2)))
    assert "A step's time from T = 64 to 256" in said
    assert "transformer (attention) T^2.00, T² as expected" in said
    assert "lstm (recurrence) T^1.00, T as expected" in said
    assert "mingru (scan) T^1.00, as its work T and not as its depth log T" in said
    assert said.endswith("Memory, counted by the benchmark: T^2.00 in attention and T^1.00 in the others")


def test_what_does_not_is_said_too(cost, tmp_path: Path):
    tables = load(cost, tmp_path / "o", seeds("lstm", 1.5, 0.1), seeds("mingru", 0.4), seeds("transformer", 1.5))
    said = cost.finding(tables)
    assert "lstm (recurrence) T^1.40 to 1.60, not the T expected" in said
    assert "transformer (attention) T^1.50, on the way to T²" in said
    assert "mingru (scan) T^0.40, less than its work" in said


def test_attention_as_cheap_as_recurrence_is_said(cost, tmp_path: Path):
    said = cost.finding(load(cost, tmp_path / "o", seeds("transformer", 1)))
    assert "transformer (attention) T^1.00, not the T² expected" in said


def test_one_seed_shows_nothing(cost, tmp_path: Path):
    said = cost.finding(load(cost, tmp_path / "o", runs("transformer", 2)))
    assert "transformer (attention) T^2.00, one seed, which shows nothing" in said


def test_noise_that_outweighs_the_steps_is_said(cost, tmp_path: Path):
    noisy = [
        Fake(
            "lstm",
            more={"steps": steps, "duration": 9.0 - steps / 8},
            config={"task": {"length": length}, "steps": steps},
        )
        for length in LENGTHS
        for steps in (4, 24)
    ]
    tables = load(cost, tmp_path / "o", noisy, runs("transformer", 2))
    assert "lstm (recurrence) not measured, noise outweighs the steps" in cost.finding(tables)
    assert "3 differences were not above 0" in cost.caption(tables)


def test_both_panels_and_every_seed_are_drawn(cost, tmp_path: Path):
    tables = load(cost, tmp_path / "o", *(runs("lstm", 1, seed) for seed in range(3)), runs("gru", 1))
    left, right = cost.draw(tables).axes
    marks = [line for line in left.lines if line.get_linestyle() == "None"]
    assert sum(len(line.get_xdata()) for line in marks) == 4 * len(LENGTHS)
    assert right.get_title(loc="left") == "memory of a step, from the benchmark"
    caption = cost.caption(tables)
    assert "(growth-cpu.json)" in caption
    assert "Of gru the benchmark has no memory" in caption
    assert "the range of the seeds" in caption


def test_what_answers_nothing_is_said(cost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    of_one = [fake for fake in runs("lstm", 1) if fake.config["task"]["length"] == 64]
    with pytest.raises(NothingToDraw, match=r"task\.length=128,512,2048"):
        load(cost, tmp_path / "lengths", of_one)
    of_one = [fake for fake in runs("lstm", 1) if fake.config["steps"] == 4]
    with pytest.raises(NothingToDraw, match="steps=4,24"):
        load(cost, tmp_path / "steps", of_one)
    monkeypatch.setattr(cost, "RESULTS", tmp_path / "nowhere")
    with pytest.raises(NothingToDraw, match="growth-cpu"):
        load(cost, tmp_path / "none", runs("lstm", 1))


def test_the_record_of_this_project_is_read(script):
    memory, source, kinds = script("cost")._record()
    assert {"transformer", "lstm", "mingru"} <= set(memory["architecture"])
    assert kinds["transformer"] == "attention"
    assert kinds["transformer_local"] == "other"
    assert len(source) == 1
