"""What a run names is called where it is Retrograde's own, torch's, or trusted by the caller, and nothing else is."""

import functools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import retrograde
from retrograde.core.contracts import SequenceModel
from retrograde.models.lstm import lstm
from retrograde.models.module import Module
from retrograde.record.folder import RunFolder
from retrograde.tasks.adding import Adding
from retrograde.train import ask
from retrograde.train.load import called, load, require_trusted, restored

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = retrograde.fit(
        functools.partial(lstm, hidden=4), Adding(length=5), steps=2, batch_size=2, probes={}, progress=False,
        trainer=retrograde.TrainerSettings(validation_samples=4, test_samples=4),
        outputs=tmp_path_factory.mktemp("one"),
        recorder=retrograde.RecorderSettings(mode="disabled"),
    )  # fmt: skip
    return run.folder.path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> RunFolder:
    """A copy to be changed."""
    return RunFolder(Path(shutil.copytree(trained, tmp_path / trained.name)))


def changed(run: RunFolder, part: str, **settings: Any) -> Path:
    metadata = run.read()
    metadata["config"][part] |= settings
    run.write(metadata)
    return run.path


@pytest.mark.parametrize("part", ["model", "task"])
@pytest.mark.parametrize(
    "settings",
    [
        {"_target_": "os.system", "command": "touch {mark}"},
        {"_target_": "builtins.eval", "source": "open('{mark}', 'w')"},
        {"_target_": "subprocess.check_output", "args": ["touch", "{mark}"]},
        {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "path": "{mark}"}},
        {"nested": {"deeper": [{"_target_": "os.system", "command": "touch {mark}"}]}},
        {"_target_": "retrograde.record.tables.os.system", "command": "touch {mark}"},
        {"_target_": "retrograde.models.module.importlib.import_module", "name": "antigravity"},
        {"_target_": "retrograde.models.module.located", "target": "antigravity.fly"},
        {"_target_": "retrograde.models.module.Module", "target": "antigravity.fly"},
        {"_target_": "retrograde.models.module.located", "_args_": ["antigravity.fly"]},
        {"_target_": "retrograde.train.jobs.copy.deepcopy", "x": 1},
        {"_target_": "retrograde.record.folder.RunFolder", "path": "{mark}"},
        {"_target_": "retrograde.layers.word_vectors.WordVectors.load", "path": "{mark}"},
        {"_target_": "retrograde.models.lstm.Task"},
        {"_target_": "torch.load", "f": "{mark}"},
        {"_target_": "torch.hub.load", "repo_or_dir": "somebody/something"},
        {"_target_": "torch.nn.functional.torch_function.os.system", "command": "touch {mark}"},
        {"_target_": "torch.nn.init.warnings.warn", "message": "called"},
        {"hidden": "${oc.create:'_target_: os.system'}"},
        {"hidden": "${oc.env:HOME}"},
        {"_target_": "ｏs.system"},
        {"_target_": ["os.system"]},
        {"_target_": None},
        {"_target_": ""},
        {"_target_": "retrograde.models.nobody.nothing"},
        {"_target_": "retrograde..models"},
    ],
)
def test_nothing_is_called_that_is_neither_ours_nor_torchs_nor_trusted(
    run: RunFolder, part: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    mark = tmp_path / "mark"

    def marked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: marked(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [marked(inner) for inner in value]
        return value.replace("{mark}", str(mark)) if isinstance(value, str) else value

    path = changed(run, part, **marked(settings))
    for way in (load, restored):
        with pytest.raises(ValueError, match=f"run {run.run} (names|holds|does not say)") as caught:
            way(path)
        assert str(caught.value).isprintable()  # one line
    assert not mark.exists()
    assert "antigravity" not in sys.modules


def test_the_line_says_what_to_do(run: RunFolder) -> None:
    with pytest.raises(
        ValueError, match=r"names 'my\.own\.net', which is not Retrograde's: trusted=\['my'\], or --trust my "
    ):
        load(changed(run, "model", _target_="my.own.net"))


def test_whatever_our_configurations_name_is_loaded() -> None:
    """Every ``_target_`` of a model, a task and their parts."""
    names = {
        line.split()[1]
        for group in ("model", "task")
        for file in (CONF / group).rglob("*.yaml")
        for line in file.read_text().splitlines()
        if line.startswith("_target_: ")
    }
    assert len(names) > 60
    for name in names:
        require_trusted({"_target_": name}, (), "run one")


MINE = """
from retrograde.models.lstm import lstm
import os
def mine(task, hidden): return lstm(task, hidden=hidden)
class Nets:
    @classmethod
    def one(cls, task, hidden): return lstm(task, hidden=hidden)
"""


@pytest.mark.parametrize(
    ("name", "is_called"), [("mine", True), ("Nets.one", True), ("os.system", False), ("nobody", False)]
)
def test_a_trusted_package_is_called_and_not_what_it_imports(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_called: bool
) -> None:
    (tmp_path / "trusty.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    metadata = run.read()
    metadata["config"]["model"] = {"_target_": f"trusty.{name}", "_partial_": True, "hidden": 4}
    run.write(metadata)
    with pytest.raises(ValueError, match="trust"):
        load(run.path)
    if is_called:
        assert load(run.path, trusted=["trusty"]).model.state_size == 8
    else:
        with pytest.raises(ValueError, match=f"names 'trusty.{name}', which"):
            load(run.path, trusted=["trusty"])
    with pytest.raises(ValueError, match="which is not Retrograde's"):
        load(run.path, trusted=["trust"])  # a package, not the beginning of its name


def test_a_module_of_torchs_is_loaded_and_one_of_somebodys_is_trusted_by_name() -> None:
    settings = {"_target_": "retrograde.models.module.Module", "target": "torch.nn.GRU"}
    require_trusted(settings, (), "run one")
    assert list(called(settings, "run one")) == ["retrograde.models.module.Module", "torch.nn.GRU"]
    with pytest.raises(ValueError, match=r"--trust antigravity "):
        require_trusted({**settings, "target": "antigravity.Net"}, (), "run one")


def own(task: Any, hidden: int = 4) -> SequenceModel:
    return lstm(task, hidden=hidden)


@pytest.mark.parametrize("model", [own, functools.partial(Module, hidden=4, target="torch.nn.GRU")])
def test_what_is_given_in_python_comes_back(tmp_path: Path, model: Callable[..., SequenceModel]) -> None:
    sys.modules.setdefault(own.__module__, sys.modules[__name__]) if own.__module__ not in sys.modules else None
    given = functools.partial(
        retrograde.fit, model, Adding(length=5), steps=1, batch_size=2, probes={}, progress=False, outputs=tmp_path,
        trainer=retrograde.TrainerSettings(validation_samples=4, test_samples=4),
        recorder=retrograde.RecorderSettings(mode="disabled"),
    )  # fmt: skip
    first, again = given(), given()
    assert first.folder == again.folder


def test_a_probe_is_asked_of_a_run_with_trust(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trusty.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    metadata = run.read()
    metadata["config"]["model"] = {"_target_": "trusty.mine", "_partial_": True, "hidden": 4}
    run.write(metadata)
    arguments = ["retrograde-probe", str(run.path), "parameters", "--samples", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match=r"^retrograde-probe: run .* names 'trusty\.mine', .* or --trust trusty "):
        ask.main()
    monkeypatch.setattr(sys, "argv", [*arguments, "--trust", "trusty"])
    ask.main()
    assert "parameters, step" in capsys.readouterr().out


@pytest.mark.parametrize("probing", [None, {}, {"samples": "many"}, {"samples": None}])
def test_a_run_that_does_not_say_how_many_samples_is_asked_with_a_number(run: RunFolder, probing: object) -> None:
    metadata = run.read()
    metadata["config"]["probing"] = probing
    run.write(metadata)
    with pytest.raises(
        ValueError, match=f"run {run.run} does not say on how many sequences it was probed: give --samples"
    ):
        ask.ask(run.path, {})


@pytest.mark.parametrize("damage", range(40))
def test_a_damaged_checkpoint_is_named_in_one_line(run: RunFolder, damage: int) -> None:
    file = run.checkpoints / "best.ckpt"
    content = bytearray(file.read_bytes())
    generator = torch.Generator().manual_seed(damage)
    if damage % 4 == 0:
        del content[int(torch.randint(len(content), (), generator=generator)) :]
    for place in torch.randint(len(content), (1 + damage,), generator=generator).tolist() if content else ():
        content[place] ^= 0x55
    file.write_bytes(content)
    try:
        load(run.path)
    except ValueError as error:
        assert str(file) in str(error)
        assert "\n" not in str(error)


def test_weights_of_another_model_are_named(run: RunFolder) -> None:
    torch.save({"state_dict": {"model.other": torch.zeros(1)}, "global_step": 1}, run.checkpoints / "best.ckpt")
    with pytest.raises(ValueError, match=r"^the weights in .*best\.ckpt are not those of the model that run\.json"):
        load(run.path)


def test_a_pickle_in_the_place_of_a_checkpoint_is_not_run(run: RunFolder, tmp_path: Path) -> None:
    torch.save({"state_dict": Marks(str(tmp_path / "mark")), "global_step": 1}, run.checkpoints / "best.ckpt")
    with pytest.raises(ValueError, match=r"best\.ckpt cannot be read as a checkpoint"):
        load(run.path)
    assert not (tmp_path / "mark").exists()


class Marks:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (self.mark, "w")
