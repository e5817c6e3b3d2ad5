import math
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

import retrograde
from retrograde import RecorderSettings, Run, TrainerSettings
from retrograde.core.contracts import SequenceModel
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch
from retrograde.models.elman import elman
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.lstm import lstm
from retrograde.models.transformer import transformer
from retrograde.probes.parameters import Parameters
from retrograde.probes.state_gradient import StateGradient
from retrograde.record.alerts import Alert
from retrograde.record.folder import RunFolder
from retrograde.record.store import FolderStore
from retrograde.regularizers.flossing import Flossing
from retrograde.regularizers.omega import Omega
from retrograde.tasks.adding import Adding
from retrograde.tasks.classify_text import ClassifyText
from retrograde.train import job
from retrograde.train.devices import processor
from retrograde.train.evaluation import batches, evaluate
from retrograde.train.probing import schedule

NUMBERS = ["step", "split", "quantity", "value", "status"]
SMALL = TrainerSettings(accelerator="cpu", log_every=5, validate_every=5, validation_samples=32, test_samples=32)
PARAMETERS = {"parameters": Parameters()}
"""The probe that a test reads; the default ones, which do not change training, take half of a run's time."""


def numbers(run: Run) -> pd.DataFrame:
    """All that was logged of training, without the run's name."""
    return run.metrics()[NUMBERS]


def weights(run: Run) -> list[Tensor]:
    return list(run.model.parameters())


def same_weights(one: Run, other: Run) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def column(run: Run, quantity: str) -> pd.Series:
    """``split/quantity`` by step."""
    split, name = quantity.split("/")
    metrics = run.metrics()
    chosen = metrics[(metrics["split"] == split) & (metrics["quantity"] == name)]
    return chosen.set_index("step")["value"]


def test_the_same_seed_gives_the_same_numbers_and_weights(small_run, finished: Run) -> None:
    again = small_run(seed=0)
    assert again.folder.path != finished.folder.path
    pd.testing.assert_frame_equal(numbers(again), numbers(finished), check_exact=True)
    assert same_weights(again, finished)


def test_what_was_drawn_before_does_not_matter(small_run, finished: Run) -> None:
    torch.manual_seed(17)
    torch.randn(3)
    assert same_weights(small_run(), finished)


def test_the_caller_s_random_numbers_go_on_as_if_nothing_had_been(small_run) -> None:
    torch.manual_seed(17)
    expected = torch.randn(3)
    torch.manual_seed(17)
    small_run(probes={})
    assert torch.equal(torch.randn(3), expected)


def test_another_seed_gives_other_numbers(small_run, finished: Run) -> None:
    other = small_run(seed=1, probes=PARAMETERS)
    assert not same_weights(other, finished)
    assert set(column(other, "train/loss")).isdisjoint(column(finished, "train/loss"))
    before = [run.readings("parameters/weight").query("step == 0")["value"].to_list() for run in (other, finished)]
    assert set(before[0]).isdisjoint(before[1])  # another seed starts from other weights


def test_probes_do_not_change_training(small_run, finished: Run) -> None:
    unprobed = small_run(probes={})
    assert {name.partition("/")[0] for name in unprobed.tables()} == {"test"}
    assert set(unprobed.tables()) < set(finished.tables())
    pd.testing.assert_frame_equal(numbers(unprobed), numbers(finished), check_exact=True)
    assert same_weights(unprobed, finished)


def test_watching_and_recording_do_not_change_training(small_run, finished: Run) -> None:
    viewed = small_run(recorder=RecorderSettings(mode="offline"))
    assert viewed.folder.run == finished.folder.run  # neither is part of what a run is
    pd.testing.assert_frame_equal(numbers(viewed), numbers(finished), check_exact=True)


def test_the_command_trains_as_python_does(command, finished: Run, tmp_path: Path) -> None:
    settings = (
        "width=8",
        "task.length=10",
        "steps=20",
        "recorder.mode=disabled",
        "alerts.vanishing=1",
        f"outputs={tmp_path}",
        *(f"trainer.{name}={value}" for name, value in vars(SMALL).items() if value is not None),
    )
    ended = command(*settings)
    assert ended.code == 0, ended.error
    assert ended.error == ""
    (folder,) = (tmp_path / "single").iterdir()
    run = retrograde.load(folder)
    pd.testing.assert_frame_equal(numbers(run), numbers(finished), check_exact=True)
    assert same_weights(run, finished)
    assert run.tables() == finished.tables()
    closing, *warnings = ended.output.splitlines()
    assert closing.startswith("lstm on adding, seed 0: score ") and closing.endswith(f"; {folder}")
    assert warnings == [f"  {alert['level']}: {alert['text']}" for alert in run.metadata["alerts"] if alert["at_end"]]
    before = [f"{closing} (finished already)", *warnings]
    assert warnings and command(*settings).output.splitlines() == before
    late = "alerts.vanishing=null, recorder.mode=online came when the run was finished, and what it recorded stays"
    again = command(*settings, "alerts.vanishing=null", "recorder.mode=online")
    assert again.output.splitlines() == [*before, f"  note: {late}; analysis/sync.py uploads it"]


def test_a_run_whose_alerts_cannot_be_made_has_failed(small_run, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """It says so, and is not left as one that is still at work."""

    def broken(*_: object) -> list[Alert]:
        raise RuntimeError("no alerts")

    monkeypatch.setattr(job, "alerts", broken)
    with pytest.raises(RuntimeError, match="no alerts"):
        small_run(probes={}, steps=1, outputs=tmp_path)
    (folder,) = (tmp_path / "python").iterdir()
    assert RunFolder(folder).read()["status"] == "failed"


def test_the_model_scores_on_the_test_set_what_was_recorded(finished: Run) -> None:
    run = retrograde.load(finished.folder.path)
    test = batches(run.task, "test", SMALL.test_samples, 64)
    loss, score = evaluate(run.model, run.task, test)
    assert (loss, score) == (run.metadata["loss"], run.metadata["score"])
    assert column(run, "test/score").to_list() == [score]


def test_task_and_settings_are_those_of_the_run(finished: Run) -> None:
    run = retrograde.load(finished.folder.path)
    assert run.task == Adding(length=10)
    assert (run.metadata["model"], run.metadata["task"], run.metadata["study"]) == ("lstm", "adding", "python")
    assert run.metadata["config"]["model"]["hidden"] == 8
    assert run.metadata["baseline"] == 0.0
    assert run.metadata["state_size"] == 16  # hidden and cell
    assert run.metadata["parameters"] == sum(parameter.numel() for parameter in run.model.parameters())


def test_it_says_what_it_was_computed_on(finished: Run) -> None:
    assert finished.metadata["hardware"] == finished.metadata["attempts"][0]["hardware"] == processor()
    assert processor()


def test_tables_are_those_of_the_run(finished: Run) -> None:
    run = retrograde.load(finished.folder.path)
    total = run.readings("state_gradient/total")
    assert set(total["component"]) == {"hidden", "cell"}
    assert set(total["time"]) == set(range(-1, 10))
    assert set(total["run"]) == {run.folder.run}


def test_a_path_may_be_relative(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.folder.path.parent)
    assert same_weights(retrograde.load(finished.folder.run), finished)


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run\.json cannot be read") as caught:
        retrograde.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_finished_run_is_given_back_as_it_is(small_run, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    first = small_run(outputs=tmp_path, probes={})

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("retrograde.train.fit.carry_out", never)
    assert same_weights(small_run(outputs=tmp_path, probes={}), first)
    with pytest.raises(AssertionError, match="trained again"):
        small_run(outputs=tmp_path, probes={}, seed=3)


@pytest.fixture(scope="module")
def solved(small_run) -> Run:
    """Both numbers are marked, always: a sum is all that there is to learn."""
    return small_run(
        task=Adding(length=2),
        steps=3000,
        optimizer=partial(torch.optim.Adam, lr=1e-2),
        trainer=replace(SMALL, validate_every=30, log_every=30),
    )


def test_a_solved_run_ends_early(solved: Run) -> None:
    metadata = solved.metadata
    assert metadata["solved"] is True
    assert metadata["validation_score"] >= 0.94
    assert metadata["steps"] == metadata["solved_step"] < 3000
    assert metadata["reason"] is None


def test_its_last_snapshot_is_of_its_last_step(solved: Run) -> None:
    steps = solved.readings("lag_gradient/horizon")["step"]
    assert steps.max() == solved.metadata["steps"]
    assert steps.max() not in schedule(3000, 4)  # else it would have been taken anyway
    assert solved.metadata["horizon"] >= 0


def test_it_may_be_told_to_go_on(small_run, solved: Run) -> None:
    beyond = solved.metadata["solved_step"] + 100
    run = small_run(
        task=Adding(length=2),
        steps=beyond,
        optimizer=partial(torch.optim.Adam, lr=1e-2),
        trainer=replace(SMALL, validate_every=30, log_every=30, stop_when_solved=False),
        probes={},
    )
    assert run.metadata["solved_step"] == solved.metadata["solved_step"]
    assert run.metadata["steps"] == beyond


def test_the_checkpoint_of_the_best_validation_is_tested(small_run) -> None:
    run = small_run(seed=2, steps=40, optimizer=partial(torch.optim.Adam, lr=1.0), probes={})
    validation = column(run, "validation/score")
    assert validation.idxmax() != validation.index[-1]  # else the last one would do as well
    assert run.metadata["selected_step"] == validation.idxmax()
    assert run.metadata["validation_score"] == validation.max()
    assert column(run, "test/score").index.to_list() == [validation.idxmax()]
    best = torch.load(run.folder.checkpoints / "best.ckpt", weights_only=True)
    assert best["global_step"] == validation.idxmax()


@pytest.fixture(scope="module")
def diverged(small_run) -> Run:
    return small_run(
        model=partial(linear_rnn, hidden=8, radius=1.5),
        task=Adding(length=30),
        optimizer=partial(torch.optim.SGD, lr=1e3),
        steps=100,
        trainer=replace(SMALL, clip=None),
        probes={"state_gradient": StateGradient()},
    )


def test_an_explosion_is_a_result(diverged: Run) -> None:
    metadata = diverged.metadata
    assert metadata["status"] == "finished"
    assert metadata["solved"] is False
    assert 1 < metadata["diverged_step"] == metadata["steps"] + 1 < 100
    assert metadata["reason"].startswith(f"step {metadata['diverged_step']}: ")


def test_its_numbers_are_kept_with_their_status(diverged: Run) -> None:
    losses = diverged.metrics().query("split == 'train' and quantity == 'loss'")
    assert set(losses["status"]) >= {"nan"} or set(losses["status"]) >= {"inf"}
    unusual = losses[losses["status"] != "finite"]
    assert not unusual["value"].map(math.isfinite).any()
    assert losses[losses["status"] == "finite"]["value"].map(math.isfinite).all()


def test_its_gradients_are_kept(diverged: Run) -> None:
    total = diverged.readings("state_gradient/total")
    assert set(total[total["step"] == diverged.metadata["steps"]]["status"]) & {"inf", "nan"}
    assert "finite" in set(total[total["step"] == 0]["status"])


def test_an_explosion_before_the_first_validation_is_one_too(small_run) -> None:
    run = small_run(
        optimizer=partial(torch.optim.SGD, lr=1e30),
        probes={},
        trainer=replace(SMALL, clip=None, validate_every=20),
    )
    assert run.metadata["status"] == "finished"
    assert run.metadata["solved"] is False
    assert 1 < run.metadata["diverged_step"] <= 5


def test_every_probe_reads_it_without_a_warning(small_run) -> None:
    small_run(
        model=partial(linear_rnn, hidden=8, radius=1.5),
        task=Adding(length=30),
        optimizer=partial(torch.optim.SGD, lr=1e3),
        trainer=replace(SMALL, clip=None),
    )


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Training raises this after seven steps."""

    def arrange(error: BaseException) -> None:
        steps = []
        objective = SequenceModel.objective

        def raising(*arguments: object) -> tuple[Tensor, Tensor | None]:
            steps.append(1)
            if len(steps) == 8:
                raise error
            return objective(*arguments)

        monkeypatch.setattr(SequenceModel, "objective", raising)

    return arrange


def test_an_exception_leaves_a_failed_run(small_run, failing, tmp_path: Path, monkeypatch) -> None:
    failing(RuntimeError("no more memory"))
    with pytest.raises(RuntimeError, match="no more memory"):
        small_run(outputs=tmp_path, recorder=RecorderSettings(mode="offline"), probes={})
    (path,) = (tmp_path / "python").iterdir()
    metadata = RunFolder(path).read()
    assert metadata["status"] == "failed"
    assert metadata["reason"] == "RuntimeError: no more memory"
    assert FolderStore(path).metrics()["step"].max() == 5  # what came before is kept
    with pytest.raises(ValueError, match=r"is failed, not finished"):
        retrograde.load(path)

    monkeypatch.undo()
    again = small_run(outputs=tmp_path, recorder=RecorderSettings(mode="offline"), probes={})
    assert again.folder.path == path.resolve()
    assert again.metadata["status"] == "finished"
    assert len(list((path / "wandb").glob("offline-run-*"))) == 1  # nothing of the first attempt is left
    assert not again.metrics().duplicated(["step", "split", "quantity"]).any()


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupt_leaves_an_interrupted_run(small_run, failing, tmp_path: Path, error) -> None:
    failing(error)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        small_run(outputs=tmp_path, probes={})
    (path,) = (tmp_path / "python").iterdir()
    assert RunFolder(path).read()["status"] == "interrupted"
    assert not RunFolder(path).is_finished()


def test_a_model_that_cannot_be_built_leaves_nothing(small_run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layers must be at least 1"):
        small_run(model=partial(lstm, layers=0), outputs=tmp_path)
    assert list(tmp_path.rglob("*.json")) == []


def test_an_exploding_step_is_clipped_to_the_norm_asked_for(small_run) -> None:
    run = small_run(
        model=partial(linear_rnn, hidden=8, radius=1.5),
        task=Adding(length=30),
        trainer=replace(SMALL, clip=0.5),
        probes=PARAMETERS,
    )
    raw, used = (run.readings(f"parameters/{name}").query("parameter == 'all'") for name in ("gradient", "used"))
    assert (raw["value"] > 3).any()  # log10
    exploded = (raw["value"] > math.log10(0.5)).to_numpy()
    assert (used["value"][exploded] - math.log10(0.5)).abs().max() < 1e-5
    assert run.readings("parameters/clipped").set_index("step")["value"][1] == 1.0


def test_clipping_by_value_bounds_every_entry_and_leaves_smaller_ones(small_run) -> None:
    run = small_run(
        trainer=replace(SMALL, clip=1e-4, clip_by="value"),
        optimizer=partial(torch.optim.SGD, lr=1.0),
        steps=1,
        probes=PARAMETERS,
    )
    table = run.readings("parameters/used")
    used = table[table["step"] == 1].set_index("parameter")["value"]
    raw = run.readings("parameters/gradient").query("step == 1").set_index("parameter")["value"]
    entries = {name: weight.numel() for name, weight in run.model.named_parameters()}
    for name, count in entries.items():
        assert used[name] <= math.log10(1e-4 * count**0.5) + 1e-6
        assert used[name] <= raw[name] + 1e-9
    assert used["all"] < raw["all"]
    assert run.readings("parameters/clipped").set_index("step")["value"][1] == 1.0


@pytest.mark.parametrize("regularizer", [Omega(weight=4.0), Flossing(weight=10.0, exponents=2, every=3)])
def test_a_regularizer_is_trained_with_and_logged_apart_from_the_loss(small_run, finished: Run, regularizer) -> None:
    run = small_run(regularizer=regularizer, probes={})
    assert not same_weights(run, finished)
    assert (column(run, "train/regularizer") > 0).all()
    assert column(run, "train/loss")[5] == pytest.approx(column(finished, "train/loss")[5], rel=0.2)
    assert run.metadata["config"]["regularizer"]["weight"] == regularizer.weight


def test_the_command_takes_a_regularizer(command, tmp_path: Path) -> None:
    ended = command(
        "width=4",
        "task.length=5",
        "steps=3",
        "regularizer=omega",
        "recorder.mode=disabled",
        "regularizer.weight=4.5",
        "probe=none",
        f"outputs={tmp_path}",
    )
    assert ended.code == 0, ended.error
    (folder,) = (tmp_path / "single").iterdir()
    assert retrograde.load(folder).metadata["config"]["regularizer"]["weight"] == 4.5


def test_truncation_changes_what_is_learnt_from_and_not_what_is_computed(small_run, finished: Run) -> None:
    cut = small_run(trainer=replace(SMALL, truncate=2), probes=PARAMETERS)
    assert column(cut, "train/loss")[5] == pytest.approx(column(finished, "train/loss")[5], rel=0.05)
    first = "step == 1 and parameter == 'all'"
    whole, piece = (run.readings("parameters/gradient").query(first)["value"].item() for run in (finished, cut))
    assert piece != pytest.approx(whole, abs=1e-3)
    never = small_run(trainer=replace(SMALL, truncate=10), probes={})
    assert same_weights(never, finished)


def test_a_model_without_recurrence_has_nothing_to_truncate(small_run) -> None:
    with pytest.raises(ValueError, match="Transformer has no recurrence to truncate"):
        small_run(model=partial(transformer, hidden=8, heads=2), trainer=replace(SMALL, truncate=2))


def test_without_clipping_the_gradient_is_used_as_it_came(small_run) -> None:
    run = small_run(trainer=replace(SMALL, clip=None), probes=PARAMETERS)
    raw, used = (run.readings(f"parameters/{name}")["value"] for name in ("gradient", "used"))
    pd.testing.assert_series_equal(raw, used, check_exact=True)


def test_a_cosine_takes_the_learning_rate_to_zero(small_run) -> None:
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=20)
    run = small_run(scheduler=cosine, optimizer=partial(torch.optim.SGD, lr=0.1), probes={})
    for step, rate in column(run, "train/learning_rate").items():
        assert rate == pytest.approx(0.05 * (1 + math.cos(math.pi * (step - 1) / 20)), abs=1e-9)


@pytest.mark.parametrize(
    "precision",
    [
        "bf16-mixed",
        "64-true",
    ],
)
def test_precision_is_a_setting(small_run, finished: Run, precision: str) -> None:
    run = small_run(trainer=replace(SMALL, precision=precision))
    loss, usual = column(run, "train/loss"), column(finished, "train/loss")
    assert not loss.equals(usual)
    assert (loss - usual).abs().max() < 0.2  # in double precision other numbers are drawn, too
    assert run.tables() == finished.tables()
    stored = torch.load(run.folder.checkpoints / "best.ckpt", weights_only=True)["state_dict"]
    expected = torch.float64 if precision == "64-true" else torch.float32
    assert {weight.dtype for weight in stored.values()} == {expected}


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(small_run, bin_folder: Path, tmp_path: Path) -> None:
    """In a process of its own, without the checks of shapes, which the compiler cannot see through."""
    given = {
        name: value for name, value in vars(SMALL).items() if value is not None and name not in ("clip", "compile")
    }
    settings = [f"trainer.{name}={value}" for name, value in given.items()]
    command = [bin_folder / "retrograde", "model=elman", "width=8", "task.length=10", "steps=20", "probe=none"]
    command += [*settings, "trainer.compile=true", "recorder.mode=disabled", f"outputs={tmp_path}"]
    subprocess.run(command, check=True)
    (folder,) = (tmp_path / "single").iterdir()
    compiled, plain = retrograde.load(folder), small_run(model=partial(elman, hidden=8), probes={})
    losses = column(compiled, "train/loss")
    assert len(losses) == 4
    assert (losses - column(plain, "train/loss")).abs().max() < 1e-4


def test_a_batch_counts_samples_and_not_positions(small_run) -> None:
    """The loss of a sample is the mean over its own scored positions, whatever the others' lengths."""
    task = Adding(length=4)
    batch = task.sample(2, torch.Generator().manual_seed(0))
    scored = torch.tensor([[True, True, True, True], [False, False, False, True]])
    targets = torch.zeros(2, 4, 1)
    outputs = torch.tensor([[1.0, 1.0, 1.0, 1.0], [9.0, 9.0, 9.0, 3.0]]).unsqueeze(2)
    weighed = Batch(batch.inputs, targets, scored, batch.lengths)
    assert sample_means(task.loss(outputs, weighed), weighed.scored).mean().item() == (1 + 9) / 2


def test_a_finished_run_on_other_data_is_not_given_back_for_this(small_run, tmp_path: Path) -> None:
    table = tmp_path / "texts.csv"
    rows = [f"{word} {number},{word}" for word in ("sun", "rain") for number in range(40)]

    def again() -> Run:
        settings = {"model": partial(lstm, hidden=4), "steps": 2, "probes": {}, "outputs": tmp_path}
        return small_run(task=ClassifyText(path=str(table)), **settings)

    table.write_text("\n".join(["text,label", *rows]))
    first = again()
    assert again().metadata["started"] == first.metadata["started"]
    table.write_text("\n".join(["text,label", *reversed(rows)]))
    with pytest.raises(ValueError, match=r"is a finished run on texts.csv .*, sha256 .* and what is there now is"):
        again()
