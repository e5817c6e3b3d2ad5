"""A run that stops being finite on a GPU is gone back to as on a CPU. Run by ``make gpu``."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch

from retrograde import RecorderSettings, TrainerSettings, fit
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.lstm import lstm
from retrograde.tasks.adding import Adding
from retrograde.train.load import weights_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

SETTINGS = {"probes": {}, "recorder": RecorderSettings(mode="disabled"), "progress": False}
SMALL = {"accelerator": "gpu", "log_every": 10, "validate_every": 10, "validation_samples": 16, "test_samples": 16}


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_the_step_is_kept_and_has_a_place(precision: str, tmp_path: Path) -> None:
    trainer = TrainerSettings(precision=precision, clip=None, **SMALL)
    steep = partial(linear_rnn, hidden=8, radius=2.0)
    run = fit(steep, Adding(length=150), steps=20, trainer=trainer, outputs=tmp_path, **SETTINGS)
    found = run.metadata["nonfinite"]
    assert run.metadata["diverged_step"] == run.metadata["steps"] + 1 and not math.isfinite(found["loss"])
    first = run.replay().first
    assert first is not None and (first.what, first.time) == (found["what"], found["time"])


def test_going_back_repeats_dropout_on_the_device(tmp_path: Path) -> None:
    """Weights leave the format between two logs; a run that is told to stop before that has the same weights."""
    settings = {
        "model": partial(lstm, hidden=8, layers=2, dropout=0.5),
        "task": Adding(length=10),
        "optimizer": partial(torch.optim.Adamax, lr=1e37, maximize=True),
        "trainer": TrainerSettings(clip=None, **SMALL),
        **SETTINGS,
    }
    run = fit(**settings, steps=40, outputs=tmp_path / "one")
    last = run.metadata["steps"]
    assert 0 < last < 40 and run.metadata["diverged_step"] == last + 1
    other = fit(**settings, steps=last, outputs=tmp_path / "other")
    expected, _ = weights_of(other.folder.checkpoints / "last.ckpt")
    for name, weight in run.replay().snapshot.model.named_parameters():
        assert torch.equal(weight, expected[name])
