import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from retrograde.models.lstm import lstm
from retrograde.models.transformer import transformer
from retrograde.tasks.adding import Adding
from retrograde.train.settings import check_against, check_types, fits, in_words, specification

LSTM = {"_target_": "retrograde.models.lstm.lstm", "_partial_": True}
ADAM = {"_target_": "torch.optim.Adam", "_partial_": True}
ADDING = {"_target_": "retrograde.tasks.adding.Adding"}

Colour = Literal["red", "green"]


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, True),
        (3.0, int, False),
        (True, int, False),  # a bool is an int to Python, and a mistake to a person
        ("3", int, False),
        (3, float, True),
        (True, float, False),
        (1, bool, False),
        (None, int, False),
        (None, int | None, True),
        ("abc", float | Tensor, False),
        (0.1, float | Tensor, True),
        ("red", Colour, True),
        ("rod", Colour, False),
        (None, Colour | None, True),
        ([3], int, False),
        ([0.9, 0.99], tuple[float, float], True),
        ("x", Path | str, True),
        (3, Any, True),
        (3, object, True),
    ],
)
def test_a_value_fits_its_annotation(value: object, hint: Any, expected: bool) -> None:
    assert fits(value, hint) is expected


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "a whole number"),
        (float | Tensor, "a number"),
        (float | None, "a number or null"),
        (Colour | None, "one of red, green or null"),
        (Path | str, "a text"),
    ],
)
def test_an_annotation_reads_as_words(hint: Any, words: str) -> None:
    assert in_words(hint) == words


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": {**LSTM, "hidden": "abc"}}, "model.hidden must be a whole number, not 'abc'"),
        ({"optimizer": {**ADAM, "lr": "abc"}}, "optimizer.lr must be a number, not 'abc'"),
        (
            {"task": {**ADDING, "markers": "one_per_haf"}},
            "task.markers must be one of first_ten, one_per_half, any_two, not 'one_per_haf'; "
            "did you mean 'one_per_half'?",
        ),
        (
            {"model": {**LSTM, "hiden": 3}},
            "unknown key 'model.hiden'; did you mean 'hidden'? "
            "Here 'model' has hidden, layers, bidirectional, dropout, forget_bias, embedding",
        ),
        ({"task": {**ADDING, "zzz": 3}}, "unknown key 'task.zzz'; 'task' has length, markers, test_length"),
        (
            {"probe": {"health": {"_target_": "retrograde.probes.health.Health", "dead": 1}}},
            "unknown key 'probe.health.dead'; 'probe.health' has saturated",
        ),
        (
            {"model": {"_target_": "nowhere.model"}},
            "model._target_: 'nowhere.model' cannot be imported: No module named 'nowhere'",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_types(config)
    assert str(caught.value) == message


def test_a_package_of_this_folder_that_python_does_not_find_is_told_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "leaky.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    with pytest.raises(ValueError, match=r"nowhere/ lies in this folder: put PYTHONPATH=\. before the command"):
        check_types({"model": {"_target_": "nowhere.leaky.leaky"}})


def test_right_settings_pass() -> None:
    check_types({"model": {**LSTM, "hidden": 3}, "task": {**ADDING, "length": 3}, "optimizer": {**ADAM, "lr": 1}})
    check_types({"any": {"_target_": "builtins.dict", "whatever": 3}})  # takes any key


def test_a_factory_s_own_first_argument_is_no_setting() -> None:
    with pytest.raises(ValueError, match=r"unknown key 'model\.task'"):
        check_types({"model": {**LSTM, "task": "adding"}})


def test_only_shared_settings_are_checked_against_a_function() -> None:
    def function(steps: int) -> None: ...

    check_against(function, {"steps": 3, "other": "x"})
    with pytest.raises(ValueError, match=r"^here\.steps must be a whole number, not None$"):
        check_against(function, {"steps": None}, "here.")


def test_a_specification_gives_every_setting_of_a_factory() -> None:
    assert specification(partial(lstm, hidden=8)) == {
        "_target_": "retrograde.models.lstm.lstm",
        "_partial_": True,
        "hidden": 8,
        "layers": 1,
        "bidirectional": False,
        "dropout": 0.0,
        "forget_bias": 1.0,
        "embedding": {"_target_": "retrograde.layers.embedding.OneHot", "_partial_": True},
    }
    assert specification(transformer) == specification(partial(transformer, heads=4))
    assert specification(partial(torch.optim.SGD, lr=0.5))["lr"] == 0.5


def test_a_specification_gives_the_fields_of_a_task() -> None:
    expected = {
        "_target_": "retrograde.tasks.adding.Adding",
        "length": 7,
        "markers": "one_per_half",
        "test_length": None,
    }
    assert specification(Adding(length=7)) == expected


def test_a_specification_can_be_made_again() -> None:
    from hydra.utils import instantiate

    assert instantiate(specification(Adding(length=7))) == Adding(length=7)
    torch.manual_seed(0)
    made = instantiate(specification(partial(lstm, hidden=8)))(Adding())
    torch.manual_seed(0)
    weights = zip(made.parameters(), lstm(Adding(), hidden=8).parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in weights)


def test_what_is_defined_inside_a_function_cannot_be_loaded_again_and_is_refused() -> None:
    @dataclass(frozen=True)
    class Local:
        length: int = 3

    with pytest.raises(ValueError, match=r"task\._target_: .* cannot be imported"):
        check_types({"task": specification(Local())})
