"""The two files of ``extension/`` are a new model, and the README's example: nothing else is edited for it.

It is trained, recorded, listed, loaded, drawn and held to the contract like any other.
"""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import model_contract
import pytest
import torch

import retrograde
from retrograde.figures.comparison import comparisons
from retrograde.record.store import FolderStore
from retrograde.tasks.adding import Adding
from retrograde.train import listing

pytestmark = pytest.mark.heavy

EXTENSION = Path(__file__).parent / "extension"
PROJECT = Path(__file__).parents[2]
CHECKS = [name for name in vars(model_contract) if name.startswith("check_")]


@dataclass(frozen=True)
class Trained:
    outputs: Path
    printed: str


@pytest.fixture(scope="module")
def trained(bin_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The README's command, with a shorter task."""
    outputs = tmp_path_factory.mktemp("outputs")
    command = [bin_folder / "retrograde", "--config-dir", "my_conf", "model=leaky", "steps=20"]
    small = ["task.length=10", "width=8", "trainer.test_samples=32", f"outputs={outputs}"]
    environment = {**os.environ, "PYTHONPATH": "."}
    ended = subprocess.run(command + small, cwd=EXTENSION, env=environment, capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stderr) == (0, "")
    return Trained(outputs, ended.stdout)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with PYTHONPATH=."""
    monkeypatch.syspath_prepend(EXTENSION)


def test_a_new_model_is_two_files() -> None:
    assert {path.relative_to(EXTENSION).as_posix() for path in EXTENSION.rglob("*.*") if path.suffix != ".pyc"} == {
        "mine/leaky.py",
        "my_conf/model/leaky.yaml",
    }


def test_it_is_trained_and_recorded(trained: Trained) -> None:
    (run,) = (trained.outputs / "single").iterdir()
    assert re.fullmatch(r"leaky-adding-s0-[0-9a-f]{10}", run.name)
    assert trained.printed.startswith("leaky on adding, seed 0: score ")
    store = FolderStore(trained.outputs)
    assert store.runs().loc[0, ["model", "status", "config.model.leak"]].to_list() == ["leaky", "finished", 0.1]
    assert set(store.readings("state_gradient/total")["layer"]) == {"0.forward"}
    assert len(list(run.rglob("*.wandb"))) == 1


@pytest.mark.usefixtures("importable")
def test_it_is_loaded_again(trained: Trained) -> None:
    (path,) = (trained.outputs / "single").iterdir()
    with pytest.raises(ValueError, match=r"names 'mine\.leaky\.leaky', which is not Retrograde's: trusted=\['mine'\]"):
        retrograde.load(path)
    run = retrograde.load(path, trusted=["mine"])
    assert type(run.model.stack.placed[0][0].recurrence).__name__ == "LeakyCell"
    batch = run.task.sample(2, torch.Generator().manual_seed(0))
    assert run.model(batch).shape == (2, 10, 1)


def test_it_is_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["retrograde-list", "models", "--config-dir", str(EXTENSION / "my_conf")])
    listing.main()
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert listed["leaky"] == "Tanh network whose units average over time (Jaeger et al. 2007)"
    assert "lstm" in listed


def test_it_is_drawn(trained: Trained) -> None:
    spec = importlib.util.spec_from_file_location("reach", PROJECT / "analysis" / "reach.py")
    assert spec is not None
    assert spec.loader is not None
    reach = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reach)
    (comparison,), left_out = comparisons(FolderStore(trained.outputs))
    assert left_out == {}
    tables = reach.load(comparison)
    assert "leaky" in reach.finding(tables)
    assert reach.draw(tables).get_axes()


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps_the_contract(check: str) -> None:
    from mine.leaky import leaky

    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        task = Adding(length=20, markers="first_ten")
        model = leaky(task, hidden=8, leak=0.3).eval()
        getattr(model_contract, check)(model, task, task.sample(3, torch.Generator().manual_seed(1)))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("importable")
def test_one_step_by_hand() -> None:
    from mine.leaky import LeakyCell

    cell = LeakyCell(1, 1, leak=0.25)
    weights = {"W": torch.tensor([[2.0]]), "b": torch.tensor([-1.0]), "U": torch.tensor([[0.5]])}
    made = cell.step(weights, torch.tensor([[1.0]]), {"hidden": torch.tensor([[0.8]])})
    # tanh(2·1 - 1 + 0.5·0.8) = tanh(1.4) = 0.885352
    assert made["hidden"].item() == pytest.approx(0.75 * 0.8 + 0.25 * 0.885352, abs=1e-6)
