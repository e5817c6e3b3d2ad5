"""A study in one row and who leads in it, from runs whose numbers are known."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from fake_runs import CARD, Fake, shallow, write_run
from retrograde.figures.comparison import Comparison, comparisons
from retrograde.figures.overview import Leads, in_words, leads, per_study
from retrograde.figures.summary import per_run
from retrograde.record.store import FolderStore

LONGER = replace(CARD, variant="twice as long", lags=((10, 1),))


def parts(outputs: Path, *fakes: Fake) -> list[tuple[Comparison, Any]]:
    for fake in fakes:
        write_run(outputs, fake)
    return [(one, per_run(one)) for one in comparisons(FolderStore(outputs))[0]]


def led(outputs: Path, *fakes: Fake) -> Leads:
    found = leads([runs for _, runs in parts(outputs, *fakes)])
    assert found is not None
    return found


def scored(model: str, seed: int, score: float, validation: float | None = None, **more: Any) -> Fake:
    chosen = score if validation is None else validation
    return Fake(model, seed, more={"score": score, "validation_score": chosen, "solved": score > 0.9}, **more)


def test_a_study_is_all_of_its_runs_on_all_of_its_variants(tmp_path: Path):
    fakes = [
        *(scored("gru", seed, 0.95) for seed in range(3)),
        *(scored("elman", seed, 0.1 * seed) for seed in range(3)),
        *(scored("gru", seed, 0.5, card=LONGER, task="adding") for seed in range(3, 6)),
        Fake("lstm", 0, status="failed"),
        shallow("bag", 0.3),
    ]
    numbers = per_study("demo", parts(tmp_path, *fakes))
    assert (numbers["variants"], numbers["models"], numbers["runs"]) == (2, 3, 10)
    assert (numbers["solved"], numbers["unsolved"], numbers["failed"]) == (3, 6, 1)
    expected = stats.trim_mean([0.95] * 3 + [0, 0.1, 0.2] + [0.5] * 3, 0.25)
    assert numbers["interquartile mean score"] == pytest.approx(expected)
    assert numbers["runs with a score"] == 9
    assert (numbers["lags asked, least"], numbers["lags asked, most"]) == (7, 10)
    assert (numbers["runs with a horizon"], numbers["runs whose horizon covers the lags"]) == (9, 6)  # 7 of 7, 7 of 10
    assert numbers["seconds"] == pytest.approx(9 * 12.5 + 3)
    row = in_words(numbers, "demo")
    assert (row.ended, row.counted, row.rate) == ("1 failed", 9, "12 to 65 %")
    assert (row.shallow, row.trivial) == ("0.3", "0")
    assert (numbers["solve rate, low"], numbers["solve rate, high"]) == pytest.approx((0.1206, 0.6458), abs=1e-4)
    assert (row.asked, row.covered, row.parameters) == ("7 to 10", "6 of 9 runs", "1,234")
    assert row.between and row.score == f"{expected:.3f}"


def test_a_study_without_a_score_has_dashes(tmp_path: Path):
    numbers = per_study("demo", parts(tmp_path, Fake("gru", status="failed")))
    row = in_words(numbers, "demo")
    assert math.isnan(numbers["interquartile mean score"])
    assert (row.score, row.between, row.horizon, row.covered, row.solved) == ("–", "", "–", "", 0)
    assert (row.counted, row.rate) == (0, "")


def test_who_leads_is_chosen_by_validation_and_judged_on_the_test_set(tmp_path: Path):
    """Of 36 pairs of test scores the leader wins 6: on validation it was ahead of the others."""
    fakes = [scored("gru", seed, 0.1 * seed, validation=0.9) for seed in range(6)]
    fakes += [scored("lstm", seed, 0.1 * seed + 0.25, validation=0.5) for seed in range(6)]
    found = led(tmp_path, *fakes)
    (row,) = found.over
    wins = sum(0.1 * a > 0.1 * b + 0.25 for a in range(6) for b in range(6))
    assert (found.leader, found.tied, found.lost) == ("gru", "", 0)
    assert (row.model, row.probability) == ("lstm", f"{wins / 36:.2f}")
    assert row.told in ("no", "the other way round") and row.between


def test_who_was_not_validated_on_every_variant_does_not_lead():
    easy, hard = ({"gru": 0.8, "lstm": 0.9}, {"gru": 0.4, "lstm": math.nan})
    tables = [
        pd.DataFrame(
            {"model": list(of), "outcome": "unsolved", "test score": 0.5, "best validation score": of.values()}
        )
        for of in (easy, hard)
    ]
    found = leads(tables)
    assert found is not None and found.leader == "gru"


def test_few_seeds_give_a_probability_without_an_interval(tmp_path: Path):
    fakes = [scored(model, seed, score) for model, score in (("gru", 0.9), ("lstm", 0.1)) for seed in range(3)]
    found = led(tmp_path, *fakes)
    (row,) = found.over
    assert (found.leader, row.probability, row.between, row.told) == ("gru", "1.00", "", "too few seeds")


def test_a_study_of_one_model_has_nobody_to_lead(tmp_path: Path):
    assert leads([runs for _, runs in parts(tmp_path, scored("gru", 0, 0.5))]) is None


def test_runs_without_a_score_rank_lowest_and_are_counted(tmp_path: Path):
    """Half of gru's runs diverged, one of them with a score of -inf: of 16 pairs with lstm it wins the other half."""
    fakes = [scored("gru", seed, 0.9) for seed in range(2)] + [scored("lstm", seed, 0.1) for seed in range(4)]
    fakes.append(Fake("gru", 2, solved=False, more={"score": None, "validation_score": 0.9, "diverged_step": 7}))
    fakes.append(scored("gru", 3, -math.inf, validation=0.9))
    fakes.append(Fake("lstm", 4, status="running"))
    found = led(tmp_path, *fakes)
    assert (found.leader, found.lost, found.over[0].probability) == ("gru", 2, "0.50")


def test_two_runs_without_a_score_are_a_tie(tmp_path: Path):
    fakes = [scored(model, 0, -math.inf, validation=value) for model, value in (("gru", 0.9), ("lstm", 0.1))]
    found = led(tmp_path, *fakes)
    assert (found.leader, found.lost, found.over[0].probability) == ("gru", 2, "0.50")


def test_who_leads_as_far_is_named_too(tmp_path: Path):
    fakes = [scored(model, 0, 0.5, validation=value) for model, value in (("elman", 0.1), ("gru", 0.9), ("lstm", 0.9))]
    found = led(tmp_path, *fakes)
    assert (found.leader, found.tied, [one.model for one in found.over]) == ("gru", "lstm", ["elman", "lstm"])


def test_models_of_which_none_was_validated_have_no_leader(tmp_path: Path):
    fakes = [scored(model, 0, 0.5, validation=math.nan) for model in ("gru", "lstm")]
    assert leads([runs for _, runs in parts(tmp_path, *fakes)]) is None
