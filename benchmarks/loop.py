"""What a step of training costs beyond the step itself, where the network is so small that nothing hides it.

    python benchmarks/loop.py                     two minutes
    python benchmarks/loop.py --pairs 2           a look at whether it runs

A linear map of 8 to 8 numbers, at each of 4 positions, with Adam and clipping, on one thread: of our training and of a
bare loop over the same model and loss, from the same weights, on the same batches; that their losses are equal is
checked. One run of the Trainer is stopped after each block of steps, in which the scalars are logged once, and the bare
loop takes as many; which side goes first in a pair alternates. The difference is what Lightning and we add to a step,
in microseconds: its median over pairs with the 95 % bootstrap interval. Probes, validations and checkpoints are no part
of it.
"""

import argparse
import logging
import math
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from measuring import SEED, Ratio, keep, machine, median_and_interval, now
from retrograde.core.contracts import Baseline, Reals, SequenceModel, Task
from retrograde.core.records import Batch, Trace
from retrograde.record.folder import FINISHED, RunFolder
from retrograde.record.recorder import RunRecorder
from retrograde.train.checkpoints import Checkpoints
from retrograde.train.devices import quiet, trainer_of
from retrograde.train.fit import ADAM
from retrograde.train.interruption import Interruption
from retrograde.train.module import Training
from retrograde.train.options import Job, ProbingSettings, RecorderSettings, TrainerSettings

WIDTH, LENGTH, BATCH = 8, 4, 8

BLOCK = 500
"""Steps; as many as scalars are logged once in."""

WARM_UP = 2
"""Pairs thrown away."""

GOAL = 60.0
"""Microseconds."""


@dataclass(frozen=True)
class Noise(Task):
    """Numbers from numbers that have nothing to do with them: what is drawn costs next to nothing."""

    kind = "aligned"

    @property
    def inputs(self) -> Reals:
        return Reals(WIDTH)

    @property
    def outputs(self) -> Reals:
        return Reals(WIDTH)

    def sample(self, count: int, generator: torch.Generator, split: str = "train") -> Batch:
        inputs, targets = torch.randn(2, count, LENGTH, WIDTH, generator=generator, device=generator.device).unbind()
        scored = torch.ones(count, LENGTH, dtype=torch.bool, device=generator.device)
        return Batch(inputs, targets, scored, torch.full((count,), LENGTH, device=generator.device))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return (outputs - batch.targets).square().mean(-1)

    def score(self, outputs: Tensor, batch: Batch) -> Tensor:
        return -self.loss(outputs, batch)

    def describe(self) -> Mapping[str, Any]:
        nothing = Baseline("always 0", 1.0, -1.0, "the variance")
        return {
            "variant": "noise", "scored": "all", "score": "minus the squared error", "solved": 0.0,
            "baselines": (nothing,),
        }  # fmt: skip


class Linear(SequenceModel):
    """The smallest model there is."""

    state_size = 0

    def __init__(self) -> None:
        super().__init__()
        self.readout = nn.Linear(WIDTH, WIDTH)

    def forward(self, batch: Batch) -> Tensor:
        return self.readout(batch.inputs)

    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        raise NotImplementedError("nothing is probed here")


class Bare:
    """What a careful user writes without any framework."""

    def __init__(self, task: Task, clip: float) -> None:
        self.model = Linear()
        self.parameters = list(self.model.parameters())
        self.optimizer = ADAM(self.parameters)
        self.task = task
        self.clip = clip
        self.stream = torch.Generator()

    def begin_as(self, training: Training) -> None:
        """From the weights, and with the batches, that our training begins with."""
        self.model.load_state_dict(training.model.state_dict())
        self.stream.set_state(training.stream.get_state())

    def train(self, steps: int) -> float:
        """The loss of the last step."""
        for _ in range(steps):
            batch = self.task.sample(BATCH, self.stream)
            loss = self.model.objective(self.task, batch)[0].mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
            self.optimizer.step()
        return loss.item()


class Interleaved(pl.Callback):
    """Takes over from the Trainer after every block, and gives back."""

    def __init__(self, bare: Bare, steps: int) -> None:
        self.bare = bare
        self.steps = steps
        self.ours: list[float] = []
        self.alone: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)  # the one module that this project trains
        self.bare.begin_as(pl_module)
        self.losses: list[float] = []
        self.begun = now("cpu")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Training)
        if trainer.global_step % BLOCK:
            return
        self.ours.append(now("cpu") - self.begun)
        first = len(self.ours) % 2 == 0  # of the next pair
        if len(self.alone) < len(self.ours):
            self._alone()
        expected = float(pl_module.current.loss)
        if not math.isclose(self.losses[len(self.ours) - 1], expected, rel_tol=1e-5):
            raise ValueError(f"the bare loop's loss is {self.losses[-1]}, ours {expected}: not the same network")
        if first and trainer.global_step < self.steps:
            self._alone()
        self.begun = now("cpu")

    def _alone(self) -> None:
        begun = now("cpu")
        self.losses.append(self.bare.train(BLOCK))
        self.alone.append(now("cpu") - begun)


def measured(pairs: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of a step, of ours and of the bare loop, by pair."""
    steps = (WARM_UP + pairs) * BLOCK
    torch.manual_seed(SEED)
    job = Job(
        model=lambda task: Linear(),
        task=Noise(),
        probes={},
        seed=SEED,
        steps=steps,
        batch_size=BATCH,
        optimizer=ADAM,
        scheduler=None,
        trainer=TrainerSettings(
            accelerator="cpu", log_every=BLOCK, validate_every=steps, validation_samples=BATCH, stop_when_solved=False
        ),
        probing=ProbingSettings(),
        recorder=RecorderSettings(),
    )
    run = RunFolder(folder / "loop")
    run.clear()
    recorder = RunRecorder(run, {"run": run.run})
    training = Training(
        job, job.model(job.task), recorder, frozenset(), Checkpoints(run.checkpoints, recorder, dict), Interruption()
    )
    interleaved = Interleaved(Bare(job.task, job.trainer.clip or math.inf), steps)
    with quiet():
        trainer_of(job.trainer, steps, [interleaved]).fit(training)
    recorder.close(FINISHED, {})
    ours, alone = (np.array(taken[WARM_UP:]) / BLOCK for taken in (interleaved.ours, interleaved.alone))
    return ours, alone


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--pairs", type=int, default=60, help="pairs of blocks that count")
    parser.add_argument("--json", type=Path, help="a file to keep the result in")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = parsed(arguments)
    if given.pairs < 1:
        print(f"--pairs must be at least 1, not {given.pairs}", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # batches are drawn in the step
    with tempfile.TemporaryDirectory() as folder:
        ours, bare = measured(given.pairs, Path(folder))
    added = 1e6 * (ours - bare)
    row = Ratio("what Lightning and we add to a step, in µs", "a raw loop", *median_and_interval([added], [1.0]), GOAL)
    print(
        f"a step takes {1e6 * np.median(ours):.0f} µs, of a bare loop {1e6 * np.median(bare):.0f} µs: "
        f"{row.median:.0f} µs more ({row.lower:.0f} to {row.upper:.0f}); ≤ {GOAL:.0f} {row.verdict}"
    )
    if given.json:
        keep(
            {
                "benchmark": "loop",
                "machine": machine("cpu", 1, ("torch", "pytorch-lightning")),
                "ratios": [asdict(row)],
                "samples": {"ours": ours.tolist(), "bare": bare.tolist()},
            },
            given.json,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
