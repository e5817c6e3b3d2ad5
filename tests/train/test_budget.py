"""Budgets: widths by hand, and what the command line makes of them."""

from pathlib import Path

import pytest

import retrograde
from retrograde.models.elman import elman
from retrograde.models.lstm import lstm
from retrograde.models.transformer import transformer
from retrograde.tasks.adding import Adding
from retrograde.train.budget import Budget, carried, parameters

TASK = Adding(length=6)


def elman_of(width: int):
    return elman(TASK, hidden=width)


def size(width: int) -> int:
    """An Elman network on two inputs and one output: W, U, two biases, V and its bias."""
    return 2 * width + width * width + 2 * width + width + 1


@pytest.mark.parametrize("most", [37, 36 + 1, 1000, 5000, 20_000])
def test_the_width_is_the_largest_multiple_within_the_budget(most: int) -> None:
    width = Budget("parameters", most).width(TASK, elman_of)
    assert width % 4 == 0 and size(width) == parameters(elman_of(width)) <= most < size(width + 4)


def test_state_is_counted_in_all_layers_and_components() -> None:
    def build(width: int):
        return lstm(TASK, hidden=width, layers=2, bidirectional=True)

    assert carried(build(5), TASK) == 5 * 2 * 2 * 2
    assert Budget("state", 100, multiple=1).width(TASK, build) == 12


def test_a_budget_below_the_smallest_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"budget\.size=20: with width 4, the smallest, this model has 37 parameters"):
        Budget("parameters", 20).width(TASK, elman_of)


def test_a_model_that_keeps_everything_has_no_state_to_compare() -> None:
    with pytest.raises(
        ValueError, match="what recurrences carry, and this model has attention; budget=parameters fits"
    ):
        Budget("state", 100).width(TASK, lambda width: transformer(TASK, hidden=width))


def test_a_width_that_the_model_refuses_says_which_are_tried() -> None:
    with pytest.raises(ValueError, match=r"is not one of 8; budget\.multiple=4 sets which widths are tried"):
        Budget("parameters", 10_000).width(TASK, lambda width: transformer(TASK, hidden=width, heads=8))


def test_a_model_that_does_not_follow_the_width_is_refused() -> None:
    with pytest.raises(ValueError, match="budget=parameters sets the width, and this model's parameters do not depend"):
        Budget("parameters", 10_000).width(TASK, lambda width: elman(TASK, hidden=8))


def test_models_of_one_budget_have_like_sizes() -> None:
    made = {
        name: parameters(build(Budget("parameters", 20_000).width(TASK, build)))
        for name, build in {
            "elman": elman_of,
            "lstm": lambda width: lstm(TASK, hidden=width),
            "transformer": lambda width: transformer(TASK, hidden=width, layers=1),
        }.items()
    }
    assert all(0.85 * 20_000 < count <= 20_000 for count in made.values()), made


QUICK = ("task.length=6", "steps=2", "trainer.validate_every=2", "recorder.mode=disabled", "probe=none")


def test_the_command_sizes_records_and_loads_a_model_by_its_budget(command, tmp_path: Path) -> None:
    ended = command("model=elman", "budget=parameters", "budget.size=1000", *QUICK, f"outputs={tmp_path}")
    assert ended.code == 0, ended.error
    (folder,) = (tmp_path / "single").iterdir()
    run = retrograde.load(folder)
    assert run.metadata["config"]["width"] == run.metadata["config"]["model"]["hidden"] == 28
    assert run.metadata["parameters"] == parameters(run.model) == size(28) <= 1000 < size(32)
    assert folder.name.endswith(run.metadata["config_hash"])
    again = command("model=elman", "budget=parameters", "budget.size=1000", *QUICK, f"outputs={tmp_path}")
    assert "finished already" in again.output


def test_what_follows_the_width_follows_the_budget(command, tmp_path: Path) -> None:
    warm = ("scheduler=warmup",)
    ended = command("model=elman", "budget=state", "budget.size=8", *warm, *QUICK, f"outputs={tmp_path}")
    assert ended.code == 0, ended.error
    (folder,) = (tmp_path / "single").iterdir()
    config = retrograde.load(folder).metadata["config"]
    assert config["scheduler"]["width"] == config["width"] == 8
    assert config["optimizer"]["lr"] == 1.0


def test_a_budget_that_cannot_be_kept_is_one_line(command, tmp_path: Path) -> None:
    ended = command("model=transformer", "budget=state", *QUICK, f"outputs={tmp_path}")
    assert ended.code == 1
    assert "this model has attention; budget=parameters fits" in ended.message
    assert not list(tmp_path.rglob("run.json"))


def test_a_budget_for_a_model_that_does_not_fit_the_task_is_refused_for_that(command, tmp_path: Path) -> None:
    ended = command("model=seq2seq", "budget=state", *QUICK, f"outputs={tmp_path}")
    assert ended.message == "retrograde: seq2seq is made for transduce tasks, and adding is of kind aligned"
