"""The callback in somebody's Trainer, with somebody's LightningModule."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import retrograde
from watched import watched

pytestmark = pytest.mark.filterwarnings(
    # Lightning's advice on data loaders and hardware, and what it uses of torch's
    "ignore::UserWarning",
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
)


class Classifier(pl.LightningModule):
    """Nobody calls its forward: parts are used as they are."""

    def __init__(self, manual: bool = False) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)
        self.automatic_optimization = not manual
        self.seen: list[tuple[int, Tensor, dict[str, Tensor]]] = []

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.head(self.rnn(x)[0][:, -1]), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append((self.global_step, batch, {k: v.detach().clone() for k, v in self.state_dict().items()}))
        loss = self.loss(batch)
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.manual_backward(3 * self.loss(batch))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(module: pl.LightningModule, path: Path, watch: retrograde.Watch, **settings: Any) -> None:
    x, y = torch.randn(24, 6, 3), torch.randint(2, (24,))
    loader = DataLoader(TensorDataset(x, y), 4)
    settings = {"max_epochs": 2, "logger": False} | settings
    trainer = pl.Trainer(
        default_root_dir=path,
        accelerator="cpu",
        callbacks=[watch],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(module, loader, loader)


def by_hand(module: Classifier, at: int) -> Any:
    """The frame of a seen batch, with the weights of that time."""
    step, batch, weights = module.seen[at]
    copied = Classifier()
    copied.load_state_dict(weights)
    frame, _ = watched(copied, lambda: copied.loss(batch))
    return step, frame


def test_scheduled_steps_of_a_training_are_recorded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, watch = Classifier(), retrograde.Watch(when=lambda step: step in (0, 3, 7), per_sample=True)
    fit(module, tmp_path, watch)
    frame = watch.flow.frame(per_sample=True)
    assert list(frame.step.unique()) == [0, 3, 7]
    assert set(frame.layer) == {"rnn.0.forward", "head"} and len(module.seen) == 12
    for at in (0, 3, 7):
        step, expected = by_hand(module, at)
        np.testing.assert_allclose(frame[frame.step == step].total, expected.total, rtol=1e-5)
    assert all("forward" not in vars(part) for part in module.modules())


def test_the_schedule_is_log_spaced_by_default(tmp_path: Path) -> None:
    module, watch = Classifier(), retrograde.Watch()
    fit(module, tmp_path, watch, max_epochs=5)
    assert list(watch.flow.frame().step.unique()) == [0, 1, 2, 3, 4, 6, 7, 10, 13, 18, 24]


def test_of_accumulated_batches_the_first_is_recorded(tmp_path: Path) -> None:
    module, watch = Classifier(), retrograde.Watch(when=lambda step: step == 1, per_sample=True)
    fit(module, tmp_path, watch, accumulate_grad_batches=2)
    step, expected = by_hand(module, 2)
    frame = watch.flow.frame(per_sample=True)
    assert step == 1 and set(frame.call) == {0}
    np.testing.assert_allclose(frame.total, expected.total - np.log10(2), rtol=1e-5)


def test_passes_of_manual_optimisation_are_numbered_through(tmp_path: Path) -> None:
    module, watch = Classifier(manual=True), retrograde.Watch(when=lambda step: step == 0, per_sample=True)
    fit(module, tmp_path, watch, max_steps=2)
    frame = watch.flow.frame(per_sample=True)
    assert sorted({(row.call, row.backward) for row in frame.itertuples()}) == [(0, 0), (1, 1)]


def test_bfloat16_mixed_precision_is_served(tmp_path: Path) -> None:
    module, watch = Classifier(), retrograde.Watch()
    fit(module, tmp_path, watch, precision="bf16-mixed")
    assert set(watch.flow.frame().layer) == {"rnn.0.forward", "head"}


def test_the_loss_scale_of_16_bit_precision_is_taken_off(tmp_path: Path) -> None:
    class Dense(Classifier):
        def loss(self, batch: Any) -> Tensor:  # half precision has no LSTM on a CPU
            x, y = batch
            return nn.functional.cross_entropy(self.head(x.repeat(1, 1, 3)[:, -1, :8]).float(), y)

    torch.manual_seed(0)
    module, watch = Dense(), retrograde.Watch(when=lambda step: step == 2, per_sample=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    fit(module, tmp_path, watch, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    _, batch, weights = module.seen[2]
    copied = Dense()
    copied.load_state_dict(weights)
    expected, _ = watched(copied, lambda: copied.loss(batch))
    np.testing.assert_allclose(watch.flow.frame(per_sample=True).total, expected.total, atol=0.01)


def test_a_training_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    class Failing(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 2:
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    module, watch = Failing(), retrograde.Watch()
    with pytest.raises(ZeroDivisionError):
        fit(module, tmp_path, watch)
    assert all("forward" not in vars(part) for part in module.modules())
    assert set(watch.flow.frame().step) == {0, 1}


@pytest.fixture
def wandb_afresh() -> Iterator[None]:
    wandb.teardown()
    yield
    wandb.teardown()


def test_one_argument_sends_it_to_the_trainers_wandb_run(tmp_path: Path, wandb_afresh: None) -> None:
    logger = WandbLogger(save_dir=tmp_path, offline=False, mode="offline")
    module, watch = Classifier(), retrograde.Watch(wandb=True)
    fit(module, tmp_path, watch, logger=logger)
    summary = logger.experiment.summary
    assert summary["trainer/global_step"] == 10
    assert np.isfinite(summary["watch/total/rnn.0.forward.hidden/lag_4"])
    assert (Path(logger.experiment.dir) / "retrograde" / "watch.parquet").exists()
    logger.experiment.finish()


def test_without_a_wandb_logger_that_argument_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a WandbLogger"):
        fit(Classifier(), tmp_path, retrograde.Watch(wandb=True))
