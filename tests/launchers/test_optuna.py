"""A search by Optuna: it goes on from its storage, and takes the score of what was run already."""

from pathlib import Path

import pytest

from launched import present

SEARCH = (
    *("model=gru", "task.length=5", "steps=3", "batch_size=4", "probe=none", "sweeper=optuna"),
    *("trainer.threads=1", "trainer.validation_samples=8", "trainer.test_samples=8", "trainer.validate_every=1"),
    *("recorder.mode=disabled", "progress=false"),
)


@pytest.fixture(autouse=True)
def optuna() -> None:
    if not present("optuna"):
        pytest.skip("sweeper=optuna needs optuna")


def launch(command, outputs: Path, *arguments: str, storage: Path | None = None):
    where = () if storage is None else (f"hydra.sweeper.storage=sqlite:///{storage}",)
    return command(*SEARCH, f"outputs={outputs}", *where, *arguments)


def trials(storage: Path) -> list:
    import optuna as package

    (name,) = package.get_all_study_names(f"sqlite:///{storage}")
    return package.load_study(study_name=name, storage=f"sqlite:///{storage}").trials


def test_a_second_launch_goes_on_to_so_many_trials_in_all(command, tmp_path: Path) -> None:
    storage = tmp_path / "search.db"
    widths = "width=interval(2,9)"
    first = launch(command, tmp_path, widths, "hydra.sweeper.n_trials=2", storage=storage)
    assert first.code == 0, first.error
    assert [line[:6] for line in first.output.splitlines()[:2]] == ["[1/2] ", "[2/2] "]
    before = [trial.params for trial in trials(storage)]
    second = launch(command, tmp_path, widths, "hydra.sweeper.n_trials=3", storage=storage)
    assert second.code == 0, second.error
    assert [line[:6] for line in second.output.splitlines() if line.startswith("[")] == ["[3/3] "]
    after = trials(storage)
    assert [trial.params for trial in after[:2]] == before
    assert [trial.state.name for trial in after] == ["COMPLETE"] * 3
    third = launch(command, tmp_path, widths, "hydra.sweeper.n_trials=3", storage=storage)
    assert third.output.splitlines() == second.output.splitlines()[-2:]


def test_settings_that_were_run_are_not_run_again(command, tmp_path: Path) -> None:
    first = launch(command, tmp_path, "width=4,5", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2")
    assert first.code == 0, first.error
    runs = {file: file.stat().st_mtime_ns for file in tmp_path.glob("single/*/run.json")}
    assert 1 <= len(runs) <= 2
    again = launch(command, tmp_path, "width=4,5", "hydra.sweeper.n_trials=4")
    assert "(finished already)" in again.output
    assert all(file.stat().st_mtime_ns == written for file, written in runs.items())


def test_a_trial_is_told_the_score_of_validation(command, tmp_path: Path) -> None:
    import json

    storage = tmp_path / "search.db"
    launch(command, tmp_path, "width=4,4", "hydra.sweeper.n_trials=1", storage=storage)
    (run,) = tmp_path.glob("single/*/run.json")
    (trial,) = trials(storage)
    assert trial.value == json.loads(run.read_text())["validation_score"]


def test_a_failed_job_is_a_failed_trial(command, tmp_path: Path) -> None:
    storage = tmp_path / "search.db"
    ended = launch(command, tmp_path, "batch_size=-1,0", "hydra.sweeper.n_trials=2", storage=storage)
    assert ended.code == 1
    assert ended.error.splitlines()[-1] == "retrograde: 2 of 2 trials failed"
    assert [trial.state.name for trial in trials(storage)] == ["FAIL"] * 2


def test_a_trial_that_a_lost_launch_began_is_ended_by_the_next(command, tmp_path: Path) -> None:
    storage = tmp_path / "search.db"
    widths = "width=interval(2,9)"
    launch(command, tmp_path, widths, "hydra.sweeper.n_trials=1", storage=storage)
    import optuna as package

    (name,) = package.get_all_study_names(f"sqlite:///{storage}")
    study = package.load_study(study_name=name, storage=f"sqlite:///{storage}")
    begun = study.ask({"width": package.distributions.IntDistribution(2, 9)})
    ended = launch(command, tmp_path, widths, "hydra.sweeper.n_trials=3", storage=storage)
    assert ended.code == 0, ended.error
    found = trials(storage)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 3
    assert found[1].params == begun.params


def test_two_searches_in_one_storage_do_not_mix(command, tmp_path: Path) -> None:
    import optuna as package

    storage = tmp_path / "search.db"
    for setting in ("width=interval(2,9)", "optimizer.lr=tag(log,interval(1e-3,1e-1))"):
        assert launch(command, tmp_path, setting, "hydra.sweeper.n_trials=1", storage=storage).code == 0
    assert len(package.get_all_study_names(f"sqlite:///{storage}")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["width=4"], "sweeper=optuna has nothing to choose: leave a setting open, such as 'width=interval(8,64)'"),
        (
            ["width=4,5", "hydra.sweeper.storage=sqlite:////nowhere/search.db"],
            "hydra.sweeper.storage: (sqlite3.OperationalError) unable to open database file",
        ),
        (["widht=4,5"], "unknown key 'widht'; did you mean 'width'?"),
        (["width=4,5", "hydra.sweeper.n_trials=0"], "n_trials and n_jobs must be at least 1, not 0 and 1"),
        (
            ["width=4,5", "plan=true"],
            "plan: what this sweeper tries next hangs on what comes of it; it cannot be planned",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(command, tmp_path, arguments: list[str], message: str) -> None:
    ended = launch(command, tmp_path, *arguments)
    assert ended.code == 1
    assert message in ended.error
    assert len(ended.error.splitlines()) == 1
