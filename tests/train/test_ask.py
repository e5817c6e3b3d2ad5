import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from retrograde import FolderStore, Run, load
from retrograde.core.snapshot import snapshot
from retrograde.probes.state_gradient import StateGradient
from retrograde.record.folder import RunFolder
from retrograde.train import ask
from retrograde.train.probing import probe_batch


@pytest.fixture
def copy(finished: Run, tmp_path: Path) -> Path:
    """A finished run that may be written to."""
    return Path(shutil.copytree(finished.folder.path, tmp_path / finished.folder.run))


def asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["retrograde-probe", *map(str, arguments)])
    ask.main()
    return capsys.readouterr().out


def refused(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["retrograde-probe", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        ask.main()
    return str(end.value)


def read(path: Path, name: str) -> pd.DataFrame:
    return FolderStore(path).readings(name)


def test_a_finished_run_answers_what_a_snapshot_of_its_weights_says(monkeypatch, capsys, copy: Path) -> None:
    run = load(copy)
    taken = snapshot(run.model, run.task, probe_batch(run.task, 32), 20)
    expected = next(r for r in StateGradient()(taken) if r.name == "total/0.forward.cell").values[0]
    said = asked(monkeypatch, capsys, copy, "state_gradient")
    step = int(said.split("step ")[1].split(":")[0])
    table = read(copy, "state_gradient/total")
    here = table[(table["step"] == step) & (table["component"] == "cell") & (table["statistic"] == "mean")]
    assert here.sort_values("time")["value"].to_numpy() == pytest.approx(expected)


def test_what_was_recorded_at_other_steps_stays_and_what_is_asked_twice_stands_once(
    monkeypatch, capsys, copy: Path
) -> None:
    before = read(copy, "health/dead")
    asked(monkeypatch, capsys, copy, "health")
    asked(monkeypatch, capsys, copy, "health")
    after = read(copy, "health/dead")
    keys = ["step", "layer", "component"]
    assert not after.duplicated(keys).any()
    assert set(before["step"]) <= set(after["step"])
    others = before[~before["step"].isin(set(after["step"]) - set(before["step"]))]
    pd.testing.assert_frame_equal(
        others.sort_values(keys, ignore_index=True),
        after[after["step"].isin(others["step"])].sort_values(keys, ignore_index=True),
    )


def test_what_training_alone_could_say_stays_when_its_probe_is_asked_again(monkeypatch, capsys, copy: Path) -> None:
    before = read(copy, "parameters/gradient")
    assert 20 in set(before["step"])
    asked(monkeypatch, capsys, copy / "checkpoints" / "last.ckpt", "parameters")
    pd.testing.assert_frame_equal(read(copy, "parameters/gradient"), before)


def test_a_checkpoint_is_asked_at_its_own_step(monkeypatch, capsys, copy: Path) -> None:
    said = asked(monkeypatch, capsys, copy / "checkpoints" / "last.ckpt", "lag_gradient", "lag_gradient.targets=2")
    assert "step 20" in said and "half_life/0.forward.cell" in said
    record = RunFolder(copy).read()["asked"][-1]
    assert record["probe"] == "lag_gradient" and record["step"] == 20 and record["settings"]["targets"] == 2


def test_a_preset_asks_all_its_probes(monkeypatch, capsys, copy: Path) -> None:
    said = asked(monkeypatch, capsys, copy, "default", "--samples", "2")
    assert {"state_gradient", "parameters"} <= {line.split(",")[0] for line in said.splitlines()}


def test_a_setting_reaches_its_probe_also_within_a_preset() -> None:
    made = ask.settings_of(["default", "jacobian"], ["probe.gates.units=3", "probe.jacobian.times=5"])
    assert made["gates"]["units"] == 3 and made["jacobian"]["times"] == 5 and "omega" in made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lyapunof"], "unknown probe 'lyapunof'"),
        (["health", "gates.units=1"], "unknown key 'probe.gates'; 'probe' has health"),
        (["gates.units=1"], "name a probe to ask"),
        (["gates", "gates=1"], "'gates=1' is no setting of a probe: gates.KEY=VALUE sets one"),
        (["jacobian", "jacobian.time=1"], "did you mean 'times'?"),
        (["lag_gradient", "lag_gradient.target=1"], "did you mean 'targets'?"),
        (["lag_gradient", "lag_gradient.targets=many"], "must be a whole number, not 'many'"),
        (["lag_gradient", "lag_gradient.targets=0"], "targets and samples must be at least 1"),
        (["health", "--samples", "0"], "--samples must be at least 1, not 0"),
    ],
)
def test_a_wrong_question_is_refused_in_one_line(monkeypatch, finished: Run, arguments, message) -> None:
    said = refused(monkeypatch, finished.folder.path, *arguments)
    assert said.startswith("retrograde-probe: ") and message in said and "\n" not in said


def test_what_is_no_run_is_refused(monkeypatch, tmp_path: Path, copy: Path) -> None:
    assert "is neither a run's folder nor a checkpoint in one" in refused(monkeypatch, tmp_path, "health")
    (copy / "checkpoints" / "best.ckpt").write_bytes(b"damaged")
    assert "best.ckpt cannot be read as a checkpoint" in refused(monkeypatch, copy, "health")
    (copy / "checkpoints" / "best.ckpt").unlink()
    assert "has no checkpoint best.ckpt" in refused(monkeypatch, copy, "health")


def test_a_run_that_somebody_works_on_is_left_alone(monkeypatch, copy: Path) -> None:
    with RunFolder(copy).claimed():
        assert "another process is at work on" in refused(monkeypatch, copy, "health")
