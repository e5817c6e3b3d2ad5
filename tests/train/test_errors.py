"""Bad input gets one line that names the culprit and says what was expected, and leaves nothing that looks finished."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from retrograde import TrainerSettings
from retrograde.train.configuration import common_keys, config_folder, options
from retrograde.train.errors import flags_first, in_one_line

pytestmark = pytest.mark.heavy

KEYS = f"the keys are {', '.join(common_keys())}"
LSTM = "'model' has embedding, hidden, layers, bidirectional, dropout, forget_bias"
TRAINER = f"'trainer' has {', '.join(vars(TrainerSettings()))}"

UNKNOWN = {
    "stepz=3": f"unknown key 'stepz'; did you mean 'steps'? Here {KEYS}",
    "mdoel=lstm": f"unknown key 'mdoel'; did you mean 'model'? Here {KEYS}",
    "zzz=3": f"unknown key 'zzz'; {KEYS}",
    "~stepz": f"unknown key 'stepz'; did you mean 'steps'? Here {KEYS}",
    "model.hiden=3": f"unknown key 'model.hiden'; did you mean 'hidden'? Here {LSTM}",
    "+model.hiden=3": "unknown key 'model.hiden'; did you mean 'hidden'? "
    "Here 'model' has hidden, layers, bidirectional, dropout, forget_bias, embedding",
    "trainer.clipp=3": f"unknown key 'trainer.clipp'; did you mean 'clip' or 'clip_by'? Here {TRAINER}",
    "+probing.sample=3": "unknown key 'probing.sample'; did you mean 'samples' or 'share'? "
    "Here 'probing' has samples, per_decade, steps, share",
    "probe.attention.smaples=3": "unknown key 'probe.attention.smaples'; did you mean 'samples'? "
    "Here 'probe.attention' has samples, longest, rows, queries",
    "model@model.encoder=gru": "'model@model.encoder' names no part of what is chosen",
    "model.hidden.x=3": "unknown key 'model.hidden.x': 'model.hidden' is a single value",
}

WRONG = {
    "model.hidden=abc": "model.hidden must be a whole number, not 'abc'",
    "model.hidden=[3]": "model.hidden must be a whole number, not [3]",
    "model.hidden=null": "model.hidden must be a whole number, not None",
    "width=abc": "width must be a whole number of at least 1, not 'abc'",
    "steps=many": "steps must be a whole number, not 'many'",
    "seed=x": "seed must be a whole number, not 'x'",
    "batch_size=0.5": "batch_size must be a whole number, not 0.5",
    "progress=3": "progress must be true or false, not 3",
    "model.embedding=learned": "model.embedding is a group of settings, not 'learned': write model/embedding=learned",
    "task.length=1.5": "task.length must be a whole number, not 1.5",
    "task.markers=one_per_haf": "task.markers must be one of first_ten, one_per_half, any_two, not 'one_per_haf'; "
    "did you mean 'one_per_half'?",
    "recorder.mode=onlin": "recorder.mode must be one of offline, online, disabled, not 'onlin'; "
    "did you mean 'online' or 'offline'?",
    "trainer.clip=abc": "trainer.clip must be a number or null, not 'abc'",
    "trainer.compile=abc": "trainer.compile must be true or false, not 'abc'",
    "optimizer.lr=abc": "optimizer.lr must be a number, not 'abc'",
    "probe.lag_gradient.targets=abc": "probe.lag_gradient.targets must be a whole number, not 'abc'",
    "probe.attention=3": "probe.attention must be a group of settings with a _target_, not 3",
    "outputs=null": "outputs must be the name of a folder, not None",
}

IMPOSSIBLE = {
    "task.length=-5": "task: length must be at least 2 for markers='one_per_half', not -5",
    "task.length=1": "task: length must be at least 2 for markers='one_per_half', not 1",
    "model.layers=0": "layers must be at least 1, not 0",
    "model.dropout=1.5": "dropout must lie in [0, 1), not 1.5",
    "seed=-1": "seed must not be negative, as -1 is",
    "width=0": "width must be a whole number of at least 1, not 0",
    "width=-1": "width must be a whole number of at least 1, not -1",
    "trainer.devices=0": "trainer.devices must be at least 1, or shared; not 0",
    "trainer.clip=0": "trainer.clip must be greater than 0, or null for none; not 0",
    "trainer.log_every=0": "trainer.log_every must be at least 1, not 0",
    "trainer.accelerator=tpuu": "trainer.accelerator must be one of auto, cpu, gpu, cuda, mps; not 'tpuu'",
    "probe.attention.samples=0": "probe.attention: samples must be at least 1, not 0",
}

UNREADABLE = {
    "model=[": "'model=[' cannot be read: write key=value, and quote what is not a plain word or number",
    "steps": "'steps' cannot be read: write key=value, and quote what is not a plain word or number",
    "a=1 b=2": "'a=1 b=2' cannot be read: write key=value, and quote what is not a plain word or number",
    "steps=1,2": "'steps=1,2' are several values: add --multirun for a run of each",
    "study=demo,reach": "'study=demo,reach': one study at a time; give the command once for each",
    "probe=default,gates": "run of each, or brackets for all of them in one run: probe=[default,gates]",
    "+study=reach": "'study' has a value already: write it without the +",
    "+steps=3": "'steps' has a value already: write it without the +",
    "~steps": "'steps' is missing: no run can do without it",
    "~task": f"choose one task: {', '.join(options('task', config_folder()))}",
    "scheduler=null": "scheduler=null: a choice of null is made by leaving it out",
    "width=${wdth}": "Interpolation key 'wdth' not found",
    "hydra.job.num=x": "hydra.job.num: Value 'x' of type 'str' could not be converted to Integer",
    "--frobnicate": "unknown flag '--frobnicate'; --hydra-help lists them",
    "--multirn": "unknown flag '--multirn'; did you mean '--multirun' or '--run' or '--info'?",
    "--config-dir": "argument --config-dir/-cd: expected one argument",
    "--config-dir=nowhere-to-be-found": "nowhere-to-be-found' not found",
    "--config-name=foo": "there is no configuration 'foo'",
}


def cases(*tables: dict[str, str]) -> list[tuple[str, str]]:
    return [case for table in tables for case in table.items()]


@pytest.mark.parametrize(("argument", "message"), cases(UNKNOWN, WRONG, IMPOSSIBLE, UNREADABLE))
def test_bad_input_gets_one_line(command, tmp_path: Path, argument: str, message: str) -> None:
    ended = command("recorder.mode=disabled", f"outputs={tmp_path}/out", argument)
    assert ended.code == 1
    assert ended.output == ""
    assert ended.message.startswith("retrograde: ")
    assert ended.message.endswith(message)
    assert not list(tmp_path.glob("out/*/*")), "a folder that will be taken for a run"


@pytest.mark.parametrize("several", ["study=demo,powers", "study=choice(demo,powers)"])
def test_several_studies_are_no_sweep(command, tmp_path: Path, several: str) -> None:
    ended = command("-m", several, f"outputs={tmp_path}/out")
    assert ended.message == f"retrograde: '{several}': one study at a time; give the command once for each"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("group", "option", "meant"),
    [
        ("model", "lstn", "'lstm'"),
        ("task", "addin", "'adding'"),
        ("probe", "parametres", "'parameters'"),
        ("study", "reech", "'reach'"),
        ("optimizer", "adan", "'adam'"),
        ("model", "zzz", None),
    ],
)
def test_an_unknown_option_is_told_from_the_known_ones(
    command, tmp_path: Path, group: str, option: str, meant: str | None
) -> None:
    ended = command(f"{group}={option}", f"outputs={tmp_path}")
    assert ended.code == 1
    hint = "; known" if meant is None else f"; did you mean {meant}.*\\? Known"
    known = ", ".join(options(group, config_folder()))
    assert re.fullmatch(f"retrograde: unknown {group} '{option}'{hint}: {known}", ended.message)
    assert list(tmp_path.iterdir()) == []


def test_heads_that_do_not_divide_the_width_are_refused(command, tmp_path: Path) -> None:
    ended = command("model=transformer", "model.heads=5", f"outputs={tmp_path}")
    assert ended.code == 1
    assert "the width must be a multiple of heads: 64 is not one of 5" in ended.message
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize("accelerator", ["gpu", "mps"])
def test_a_device_that_is_not_there_is_refused(command, tmp_path: Path, monkeypatch, accelerator: str) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    ended = command(f"trainer.accelerator={accelerator}", f"outputs={tmp_path}")
    assert ended.code == 1
    assert f"trainer.accelerator={accelerator}" in ended.message
    assert ended.message.endswith("trainer.accelerator=cpu works everywhere")
    assert not list(tmp_path.rglob("run.json"))


def test_an_unknown_precision_is_refused_with_the_known_ones(command, tmp_path: Path) -> None:
    ended = command("trainer.precision=abc", "recorder.mode=disabled", f"outputs={tmp_path}")
    assert ended.code == 1
    assert "'abc'" in ended.message
    assert "'32-true'" in ended.message
    assert all(json.loads(file.read_text())["status"] == "failed" for file in tmp_path.rglob("run.json"))


def test_a_folder_that_cannot_be_written_is_named(command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = command(f"outputs={tmp_path}/file/below")
    assert ended.code == 1
    assert ended.message.startswith(f"retrograde: '{tmp_path}/file/below/single/lstm-adding-s0-")
    assert ended.message.endswith("': not a directory; outputs=FOLDER chooses another place")


STUDIES = {
    "top": ("stepz: 5", "unknown key 'stepz'; did you mean 'steps'?"),
    "nested": ("trainer:\n  clipp: 5", "unknown key 'trainer.clipp'; did you mean 'clip' or 'clip_by'?"),
    "member": ("model:\n  hiden: 5", "unknown key 'model.hiden'; did you mean 'hidden'?"),
    "group": ("defaults:\n  - override /tsk: copying", "In 'study/group': unknown key 'tsk'; did you mean 'task'?"),
    "option": ("defaults:\n  - override /task: copyin", "unknown task 'copyin'; did you mean 'copying'"),
    "hydra": ("hydra:\n  mod: MULTIRUN", "In 'study/hydra': Key 'mod' not in 'HydraConf'"),
    "axis": ("hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      modle: gru,lstm", "did you mean 'model'?"),
    "point": ("hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      model: gru,lstn", "unknown model 'lstn'"),
    "broken": ("model: [", "broken.yaml, line 4: expected the node content, but found '<stream end>'"),
    "target": ("model:\n  _target_: mine.nothing", "model._target_: 'mine.nothing' cannot be imported: No module"),
}


@pytest.mark.parametrize("study", STUDIES)
def test_a_mistake_in_a_study_gets_one_line(command, tmp_path: Path, study: str) -> None:
    content, message = STUDIES[study]
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / f"{study}.yaml").write_text(f"# @package _global_\n# A study\n{content}\n")
    ended = command("--config-dir", f"{tmp_path}/conf", f"study={study}", f"outputs={tmp_path}/out", "steps=2")
    assert ended.code == 1
    assert ended.output == ""
    assert message in ended.message
    assert not list(tmp_path.rglob("run.json"))


def test_what_is_known_includes_a_user_s_own(command, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# Mine\n_target_: mine.model\n_partial_: true\nwidgets: 3\n")
    arguments = (f"--config-dir={tmp_path}", f"outputs={tmp_path}/out")
    assert command(*arguments, "model=min").message.startswith("retrograde: unknown model 'min'; did you mean 'mine'")
    unknown = "retrograde: unknown key 'model.widget'; did you mean 'widgets'? Here 'model' has widgets"
    assert command(*arguments, "model=mine", "model.widget=3").message == unknown


def test_flags_may_stand_anywhere() -> None:
    assert flags_first(["steps=1", "-m", "model=gru,lstm"]) == ["-m", "steps=1", "model=gru,lstm"]
    assert flags_first(["a=1", "--config-dir", "mine", "b=2"]) == ["--config-dir", "mine", "a=1", "b=2"]
    assert flags_first(["~a", "+b=1", "c=-1"]) == ["~a", "+b=1", "c=-1"]


def test_an_error_without_words_is_called_by_its_kind() -> None:
    assert in_one_line(KeyError("x"), []) == "KeyError: 'x'"
    assert in_one_line(RuntimeError(), []) == "RuntimeError: RuntimeError"
    assert in_one_line(ValueError("first\nsecond"), []) == "first"


@pytest.fixture(scope="module")
def installed(bin_folder: Path):
    def ended(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [bin_folder / "retrograde", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=100)

    return ended


def test_the_installed_command_says_it_in_one_line(installed, tmp_path: Path) -> None:
    ended = installed("task.length=-5", f"outputs={tmp_path}")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "retrograde: task: length must be at least 2 for markers='one_per_half', not -5\n"


def test_a_traceback_is_there_for_who_asks(installed, tmp_path: Path) -> None:
    ended = installed("modle=lstm", f"outputs={tmp_path}", HYDRA_FULL_ERROR="1")
    assert ended.returncode == 1
    assert "Traceback (most recent call last):" in ended.stderr
    assert "ConfigCompositionException: Could not override 'modle'." in ended.stderr


def test_one_bad_job_does_not_keep_the_others_of_a_sweep_from_running(command, tmp_path: Path) -> None:
    ended = command(
        *("model.hidden=3,abc,4", "-m", "recorder.mode=disabled", "probe=none", "steps=2", f"outputs={tmp_path}"),
        *("trainer.validation_samples=8", "trainer.test_samples=8"),
    )
    assert ended.code == 1
    assert ended.error.splitlines() == [
        "retrograde: model.hidden must be a whole number, not 'abc'",
        "retrograde: 1 of 3 runs did not finish",
    ]
    first, last, counts, failed = ended.output.splitlines()
    assert first.startswith("[1/3] lstm on adding, seed 0: score")
    assert last.startswith("[3/3] lstm on adding, seed 0: score")
    assert counts == f"3 runs: 2 finished, 1 failed; {tmp_path / 'single'}"
    assert failed.startswith(f"  failed: {tmp_path / 'single'}/lstm-adding-s0-")
    assert failed.endswith(": model.hidden must be a whole number, not 'abc'")
    status = [json.loads(file.read_text())["status"] for file in tmp_path.rglob("run.json")]
    assert sorted(status) == ["failed", "finished", "finished"]


def test_an_interrupt_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch, command) -> None:
    from retrograde.train import app

    for error in (KeyboardInterrupt(), SystemExit(1), SystemExit()):  # the latter two as Lightning leaves
        monkeypatch.setattr(app, "_command", lambda error=error: (_ for _ in ()).throw(error))
        ended = command()
        assert (ended.code, ended.message) == (1, "retrograde: interrupted")
    monkeypatch.setattr(app, "_command", lambda: sys.exit(0))
    assert command().code == 0
