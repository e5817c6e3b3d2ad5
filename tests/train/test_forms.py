"""The form in which each layer trains: chosen by a timing, recorded, shared in a study, or as the setting says.

Clocks are made up wherever a choice is tested: what a machine takes is no test.
"""

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from retrograde import Run, TrainerSettings
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch
from retrograde.core.recurrence import LOOP
from retrograde.models.gru import gru
from retrograde.models.lstm import lstm
from retrograde.models.tcn import TCN
from retrograde.record.folder import RunFolder
from retrograde.tasks.adding import Adding
from retrograde.train import forms
from retrograde.train.forms import FEWEST, RECORD, SETTING, SHARE, STUDY, TIMED, UNTIMED, Chosen, fastest, heard
from retrograde.train.interruption import Interrupted

Fit = Callable[..., Run]

SMALL = TrainerSettings(accelerator="cpu", log_every=5, validate_every=5, validation_samples=32, test_samples=32)
EXACTLY = replace(SMALL, precision="64-true")


class Clock:
    """Passes that take as long as is said: seconds by form for the whole sequence, the first pass of each twice that.

    ``took`` is the seconds of all passes together, by form.
    """

    def __init__(self, length: int, **seconds: float | Sequence[float]) -> None:
        self.length = length
        self.passes = {name: partial(self.run, name, each) for name, each in seconds.items()}
        self.took: dict[str, list[float]] = {name: [] for name in seconds}

    def run(self, name: str, seconds: float | Sequence[float], times: int | None) -> float:
        done = len(self.took[name])
        base = seconds if isinstance(seconds, float) else seconds[done % len(seconds)]
        share = 1.0 if times is None else times / self.length
        self.took[name].append(base * share * (1.0 if done else 2.0))
        return self.took[name][-1]

    def choice(self, steps: int = 10_000) -> Chosen:
        return fastest(self.passes, self.length, steps)

    def spent(self) -> float:
        return sum(sum(values) for values in self.took.values())


def test_the_fastest_by_the_median_is_taken() -> None:
    chosen = Clock(40, fused=0.010, chunked=0.007, loop=0.011).choice()
    assert (chosen.form, chosen.by) == ("chunked", TIMED)
    assert chosen.milliseconds == pytest.approx({"fused": 10, "chunked": 7, "loop": 11})


def test_one_round_among_many_that_was_disturbed_decides_nothing() -> None:
    disturbed = (0.02, 0.007, 0.9, 0.007, 0.007, 0.007)
    assert Clock(40, fused=0.010, chunked=disturbed).choice(100_000).form == "chunked"


def test_what_is_faster_by_no_more_than_noise_is_not_taken() -> None:
    assert Clock(40, fused=0.0100, chunked=0.0096).choice().form == "fused"
    assert Clock(40, fused=0.0100, chunked=0.0094).choice().form == "chunked"


def test_a_hopeless_form_is_tried_on_a_short_sequence_alone() -> None:
    clock = Clock(1000, scanned=0.02, loop=1.0)
    chosen = clock.choice()
    assert chosen.form == "scanned" and len(clock.took[LOOP]) == 1
    assert clock.took[LOOP][0] == pytest.approx(2 * 31 / 1000)  # times of 1,000, on its first pass
    assert clock.spent() < 0.13


def test_what_a_form_sets_up_once_is_not_held_against_it() -> None:
    """The closed form takes 2 ms before its first step, of 7 in all."""
    clock = Clock(100, fused=0.010)
    clock.passes["chunked"] = lambda times: 0.002 + 0.005 * (1.0 if times is None else times / 100)
    assert clock.choice().form == "chunked"


@pytest.mark.parametrize("steps", (1, 500, 930, 2000, 10_000))
def test_timing_takes_no_more_than_its_share_of_training(steps: int) -> None:
    """But for two passes of the first form, by which the share is known."""
    clock = Clock(400, fused=0.2, chunked=0.15, loop=0.22)
    chosen = clock.choice(steps)
    warming_up = sum(clock.took["fused"][:2])
    assert clock.spent() <= max(warming_up, SHARE * steps * 0.2)
    assert (chosen.form, chosen.by) == (("fused", UNTIMED) if steps < 1000 else ("chunked", TIMED))


def test_where_time_is_short_the_loop_is_given_up_first() -> None:
    clock = Clock(400, fused=0.2, chunked=0.15, loop=0.22)
    assert clock.choice(1200).form == "chunked"
    assert len(clock.took[LOOP]) == 2  # a short one, and one that warmed it up


def model_and_batch(dropout: float = 0.5) -> tuple[SequenceModel, Task, Batch]:
    task = Adding(length=7)
    torch.manual_seed(0)
    model = gru(task, hidden=5, layers=3, bidirectional=True, dropout=dropout)
    return model, task, task.sample(4, torch.Generator().manual_seed(0))


def test_a_rehearsal_leaves_the_model_and_all_random_numbers_as_they_were() -> None:
    model, task, batch = model_and_batch()
    model.register_buffer("counted", torch.zeros(()))

    def count(*_: Any) -> None:
        model.counted.add_(1)

    model.embedding.register_forward_hook(count)
    before = torch.get_rng_state()
    calls = heard(model, task, batch)
    assert torch.equal(torch.get_rng_state(), before) and model.training and model.counted == 0
    assert all(parameter.grad is None for parameter in model.parameters()) and len(calls) == 6


def test_a_call_is_heard_with_what_the_loss_says_of_its_outputs() -> None:
    model, task, batch = model_and_batch(dropout=0.0)
    calls = {call.layers[0]: call for call in heard(model, task, batch)}
    top, first = calls["stack.layers.2.0"], calls["stack.layers.0.1"]
    assert not first.inputs.requires_grad and top.inputs.requires_grad
    made = torch.cat([model.stack.layers[2][0].fused(top.inputs)[0], torch.zeros(4, 7, 5)], -1).detach()
    weight = model.readout.weight.detach()
    losses, outputs = model.objective(task, batch)
    (of_outputs,) = torch.autograd.grad(losses.mean(), outputs)
    assert top.said is not None and made.shape == (4, 7, 10)
    torch.testing.assert_close(top.said, (of_outputs @ weight)[..., :5])


def test_layers_that_would_be_timed_alike_are_timed_once() -> None:
    kinds = forms.of_a_kind(heard(*model_and_batch()))
    assert [sorted(kind.layers) for kind in kinds] == [
        ["stack.layers.0.0", "stack.layers.0.1"],
        [f"stack.layers.{layer}.{direction}" for layer in (1, 2) for direction in (0, 1)],
    ]
    assert kinds[0].described()["inputs"] == [4, 7, 2] and kinds[1].described()["inputs"] == [4, 7, 10]


@pytest.mark.parametrize("form", ("compiled", "chunked", "taps", LOOP))
def test_a_form_that_is_named_trains_to_the_same_weights_and_is_recorded(small_run: Fit, cpp: None, form: str) -> None:
    run, plain = (small_run(trainer=replace(EXACTLY, form=name), probes={}) for name in (form, "auto"))
    for one, other in zip(run.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    (entry,) = run.metadata["forms"]
    assert (entry["form"], entry["by"], entry["layers"]) == (form, SETTING, ["stack.layers.0.0"])
    assert run.metadata["form"] == f"LSTMCell {form}"
    assert plain.metadata["forms"] == [] and run.folder.run == plain.folder.run  # how, and not what


def test_a_name_that_no_layer_has_is_answered_with_those_that_they_have(small_run: Fit) -> None:
    for form, model, message in (
        (
            "chunky",
            partial(lstm, hidden=4),
            "did you mean 'chunked'.* Here they have auto, chunked, .*fused, loop, taps",
        ),
        ("scanned", partial(lstm, hidden=4), "no layer of this model has that form"),
        (LOOP, partial(TCN, hidden=4, layers=1), "this model has no layer with forms to choose from"),
    ):
        with pytest.raises(ValueError, match=message):
            small_run(model=model, trainer=replace(SMALL, form=form), probes={})


def test_a_form_and_the_compiler_are_not_asked_for_together() -> None:
    with pytest.raises(ValueError, match="choose one of both"):
        TrainerSettings(form=LOOP, compile=True)


@pytest.fixture
def choosing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Any]]:
    """Has every run choose, however short it is, and the timing end as is said; gives a list of what was timed."""
    monkeypatch.setattr(forms, "FEWEST", 0)

    def chosen(form: str) -> list[Any]:
        timed: list[Any] = []

        def made_up(passes: dict[str, Any], length: int, *_: Any) -> Chosen:
            timed.append((list(passes), length))
            return Chosen(form, dict.fromkeys(passes, 1.0))

        monkeypatch.setattr(forms, "fastest", made_up)
        return timed

    return chosen


def test_a_short_run_times_nothing(small_run: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that two runs of a test cannot differ by a choice."""
    monkeypatch.setattr(forms, "heard", None)
    assert small_run(probes={}, steps=min(20, round(FEWEST / SHARE) - 1)).metadata["forms"] == []


def test_the_runs_of_a_study_take_what_the_first_of_them_found(
    small_run: Fit, tmp_path: Path, cpp: None, choosing: Callable[[str], list[Any]]
) -> None:
    timed = choosing("chunked")
    first = small_run(probes={}, seed=0, outputs=tmp_path)
    assert timed == [(["fused", "compiled", "chunked", LOOP], 10)]  # the taps do what the kernel does, and more
    again = choosing(LOOP)
    second = small_run(probes={}, seed=1, outputs=tmp_path)
    assert again == []
    said = [run.metadata["forms"][0] for run in (first, second)]
    assert [(one["form"], one["by"]) for one in said] == [("chunked", TIMED), ("chunked", STUDY)]
    assert said[1]["milliseconds"] == said[0]["milliseconds"] == dict.fromkeys(timed[0][0], 1.0)
    assert small_run(probes={}, seed=1, outputs=tmp_path, batch_size=8).metadata["form"] == "LSTMCell loop"
    assert small_run(probes={}, seed=1, outputs=tmp_path / "other").metadata["form"] == "LSTMCell loop"


def test_a_form_that_finds_no_room_is_left_out() -> None:
    def full(times: int | None) -> float:
        raise torch.OutOfMemoryError

    chosen = fastest({"first": lambda times: 1.0, "full": full, "other": lambda times: 0.5}, 10, 10_000)
    assert (chosen.form, chosen.milliseconds) == ("other", {"first": 1000.0, "other": 500.0})


def test_what_a_killed_run_left_half_written_is_timed_again(
    small_run: Fit, tmp_path: Path, choosing: Callable[[str], list[Any]]
) -> None:
    choosing("chunked")
    small_run(probes={}, outputs=tmp_path)
    (file,) = (tmp_path / "python" / "forms").iterdir()
    whole = file.read_text()
    choosing(LOOP)
    for seed, left in enumerate((whole[: len(whole) // 2], "[1]")):
        file.write_text(left)
        assert small_run(probes={}, seed=1 + seed, outputs=tmp_path).metadata["form"] == "LSTMCell loop"
    assert json.loads(file.read_text())["form"] == LOOP


class Interrupting:
    """A regularizer that adds nothing and interrupts its process once, within a step."""

    done = True

    def __call__(self, model: SequenceModel, task: Task, batch: Batch, step: int) -> Tensor | None:
        if not Interrupting.done and step == 12:
            Interrupting.done = True
            os.kill(os.getpid(), signal.SIGTERM)
        return None


@pytest.mark.usefixtures("interrupts")
def test_a_run_that_goes_on_takes_the_forms_that_it_has_recorded(
    small_run: Fit, tmp_path: Path, choosing: Callable[[str], list[Any]]
) -> None:
    settings = {"probes": {}, "outputs": tmp_path, "regularizer": Interrupting()}
    choosing("chunked")
    Interrupting.done = False
    with pytest.raises((Interrupted, SystemExit)):
        small_run(**settings)
    (path,) = (tmp_path / "python").glob("lstm-*")
    assert RunFolder(path).read()["forms"][0]["form"] == "chunked"
    for file in (tmp_path / "python" / "forms").iterdir():
        file.unlink()
    timed = choosing(LOOP)
    run = small_run(**settings)
    (entry,) = run.metadata["forms"]
    assert len(run.metadata["attempts"]) == 2 and timed == []
    assert (entry["form"], entry["by"]) == ("chunked", RECORD)


class Sharpness:
    """A regularizer that differentiates the training loss's gradient: the squared norm of it."""

    def __call__(self, model: SequenceModel, task: Task, batch: Batch, step: int) -> Tensor | None:
        losses, _ = model.objective(task, batch)
        gradients = torch.autograd.grad(losses.mean(), list(model.parameters()), create_graph=True)
        return 0.01 * sum(gradient.square().sum() for gradient in gradients)


def test_a_regularizer_gets_a_form_that_can_be_differentiated_twice(small_run: Fit) -> None:
    model, task, batch = model_and_batch()
    for recurrence in (layer for layers in model.stack.layers for layer in layers):
        recurrence.form = "chunked"
    with pytest.raises(ValueError, match="cannot be differentiated again"):
        Sharpness()(model, task, batch, 1)
    run, plain = (
        small_run(trainer=replace(EXACTLY, form=name), probes={}, regularizer=Sharpness()) for name in ("chunked", LOOP)
    )
    assert run.metadata["form"] == "LSTMCell chunked"
    for one, other in zip(run.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_what_is_evaluated_does_not_hang_on_the_choice() -> None:
    """Bit by bit: a loaded run knows of no choice."""
    model, _, batch = model_and_batch(dropout=0.0)
    with torch.no_grad():
        expected = model(batch)
    for recurrence in (layer for layers in model.stack.layers for layer in layers):
        recurrence.form = LOOP
    assert not torch.equal(model(batch), expected)
    with torch.no_grad():
        assert torch.equal(model(batch), expected)


@pytest.mark.heavy
def test_all_ranks_take_what_the_first_has_chosen(small_run: Fit) -> None:
    """The other one times nothing, and would take the kernel."""
    one, two = (
        small_run(trainer=replace(EXACTLY, form="chunked", devices=devices), probes={}, batch_size=16)
        for devices in (1, 2)
    )
    assert two.metadata["form"] == "LSTMCell chunked"
    for ours, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
