"""What a run computes on: its devices, and where one of several processes stands among the others."""

import logging
import os
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from retrograde.train.options import TrainerSettings
from retrograde.train.sweep import place


def device_in_words(device: torch.device) -> str:
    """What it is called by whoever made it; of a CPU the number of its cores, too."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


@cache
def processor() -> str:
    """This machine's."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


@dataclass(frozen=True)
class Rank:
    """A process among those of one run: its node, its place on that node, and where rank 0 listens."""

    node: int = 0
    local: int = 0
    address: str = "127.0.0.1"
    port: int = 0

    @property
    def is_first(self) -> bool:
        return self.node == self.local == 0


def rank_outside() -> Rank | None:
    """Which of several processes ``torchrun``, or the like, says that this one is; None where nothing has."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return None
    local, size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    node = int(os.environ["RANK"]) // size
    return Rank(node, local, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))


class Processes(LightningEnvironment):
    """Tells Lightning which rank this process is; it starts none and asks no cluster: launchers do."""

    def __init__(self, rank: Rank) -> None:
        super().__init__()
        self.rank = rank

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.rank.address

    @property
    def main_port(self) -> int:
        return self.rank.port

    def local_rank(self) -> int:
        return self.rank.local

    def node_rank(self) -> int:
        return self.rank.node


def trainer_of(
    settings: TrainerSettings, steps: int, callbacks: Sequence[pl.Callback] = (), rank: Rank = Rank()
) -> pl.Trainer:
    """A Lightning Trainer that does nothing but train; raises ValueError for a strategy that divides the weights."""
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=device_of(settings),
        num_nodes=settings.nodes,
        strategy=settings.strategy,
        precision=settings.precision,  # type: ignore[arg-type]  # Lightning checks it, and names the choices
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        plugins=[Processes(rank)],
    )
    if not isinstance(trainer.strategy, (DDPStrategy, SingleDeviceStrategy)):
        raise ValueError(
            f"trainer.strategy={settings.strategy} divides or copies the weights in a way that nothing can be measured "
            "in: choose ddp, or a variant of it such as ddp_find_unused_parameters_true"
        )
    return trainer


def device_of(settings: TrainerSettings) -> int | list[int]:
    """How many devices; where jobs share several GPUs, the one whose turn it is by the job's place in its sweep."""
    if settings.devices != "shared":
        return settings.devices
    number = torch.cuda.device_count() if device_kind(settings) == "cuda" else 0
    where = place()
    return [(where[0] - 1) % number] if where and number else 1


def device_kind(settings: TrainerSettings) -> str:
    """What the run is going to compute on: random numbers go on only where they began."""
    if settings.accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return {"gpu": "cuda"}.get(settings.accelerator, settings.accelerator)


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """For as long as this lasts torch computes with so many threads; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if number is None else number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def now(device: torch.device) -> float:
    """Seconds on a clock, read when the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning's notices are about loaders and loggers that this project does without."""
    logs = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated.*")  # Lightning 2.6 on torch 2.13
        try:
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)
