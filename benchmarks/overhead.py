"""What training with Retrograde costs, against a bare PyTorch loop over the same network, and beside other tools.

    python benchmarks/overhead.py                         about 10 minutes on two cores
    python benchmarks/overhead.py --pairs 2 --length 20   a look at whether it runs

The machine should do nothing else: where another process takes a core, threads that wait for each other make single
blocks ten times slower; the median bears some of that, and the interval shows it.

One run of Lightning's Trainer is stopped after every block of steps; the bare loop then takes as many steps, one step
is taken on which the default probes fire, and the single measurements follow. All that is compared has thus met the
machine in the same state, and a ratio is formed within each such pair of blocks before the median is taken. The
interval is the 95 % bootstrap interval of that median, over pairs.

- Which side goes first in a pair alternates, because the first meets the heap as the single measurements left it.
- A block of ours lasts from the end of the Trainer's last hook before it to the beginning of the last hook in it, so
  that everything that Lightning does between two steps is inside, and the scalars are logged once in each block (more
  often than by default). Validation, checkpoints and a progress bar are no part of either side.
- The bare loop draws its batches with the same task and the same stream, from the same first weights; that both sides
  train the same network is checked by their losses.
- A firing is everything that probes add to a run at a scheduled step: the copies that the step makes, the snapshot, all
  default probes, tables and W&B's view of them, written to disk at once. What the default schedule costs is one firing
  times its firings in a run, none left out, against training without probes.
- By hand, the totals come from a loop over time with the gradient of every state retained. They are compared with ours
  at every pair; a difference ends the benchmark.

What follows needs no Trainer, in rounds of its own, from the same weights and on the same batches on every side; see
``every_step.py``: totals and norms at every training step, a loop that keeps every state's gradient, ``wandb.watch``,
exact Jacobian norms, and how the cost of totals grows with T.
"""

import argparse
import logging
import math
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

import every_step
from every_step import SAME_LOSS, largest_difference
from measuring import SEED, Ratio, keep, machine, median_and_interval, now, ratio_table, seconds
from retrograde.core.contracts import Probe, Task
from retrograde.core.records import Batch, StateGradient
from retrograde.core.snapshot import snapshot
from retrograde.models.lstm import lstm
from retrograde.record.folder import FINISHED, RunFolder
from retrograde.record.recorder import RunRecorder
from retrograde.record.view import WandbView
from retrograde.tasks.adding import Adding
from retrograde.train.checkpoints import Checkpoints
from retrograde.train.fit import ADAM, default_probes
from retrograde.train.interruption import Interruption
from retrograde.train.module import Training
from retrograde.train.options import Job, ProbingSettings, RecorderSettings, TrainerSettings
from retrograde.train.probing import Probing, probe_batch, schedule
from retrograde.train.streams import generator

RUN = 2000
"""Steps of the run over which the firings of the default schedule are counted."""

WARM_UP = 2
"""Pairs thrown away."""

SETTLE = 2
"""Steps after the single measurements that are not measured: the heap and W&B's process come to rest in them."""

WITHOUT, WITH, FIRING = "training without probes", "training with default probes", "one firing of the default probes"
ALONE = "state_gradient alone, {} batch"
BY_HAND = "the same totals by hand, {} batch"
BATCHES = ("probe", "training")
GOALS = {WITHOUT: 1.10, WITH: 1.02}


@dataclass(frozen=True)
class Options:
    """Sizes of network, batch and sequence, and how long to measure; ``conf/train.yaml`` sets what is not here."""

    pairs: int
    block: int
    hidden: int
    batch: int
    length: int
    threads: int
    device: str
    flush: bool = False

    def __post_init__(self) -> None:
        for name in ("pairs", "block", "hidden", "batch", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: this machine has no CUDA device; --device cpu works everywhere")


@dataclass
class Samples:
    """Seconds, one entry per pair: a block of either side, a firing, and the single measurements by name."""

    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    firing: list[float] = field(default_factory=list)
    single: dict[str, list[float]] = field(default_factory=dict)
    difference: float = 0.0  # the largest between our totals and those by hand


class BareLoop:
    """What a careful user writes without any framework."""

    def __init__(self, task: Task, hidden: int, batch: int, clip: float, device: torch.device) -> None:
        self.lstm = nn.LSTM(task.inputs.size, hidden, batch_first=True).to(device)
        self.readout = nn.Linear(hidden, task.outputs.size).to(device)
        self.parameters = [*self.lstm.parameters(), *self.readout.parameters()]
        self.optimizer = ADAM(self.parameters)
        self.task = task
        self.batch = batch
        self.clip = clip
        self.stream = torch.Generator(device)

    def begin_as(self, training: Training) -> None:
        """From the weights, and with the batches, that our training begins with."""
        with torch.no_grad():
            for parameter, ours in zip(self.parameters, training.model.parameters(), strict=True):
                parameter.copy_(ours)
        self.stream.set_state(training.stream.get_state())

    def train(self, steps: int) -> float:
        """The loss of the last step."""
        for _ in range(steps):
            batch = self.task.sample(self.batch, self.stream)
            outputs = self.readout(self.lstm(batch.inputs)[0])
            loss = nn.functional.mse_loss(outputs[:, -1], batch.targets[:, -1])
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def totals_by_hand(lstm: nn.LSTM, readout: nn.Linear, batch: Batch) -> dict[str, Tensor]:
    """dL/dz_t of every hidden and cell state, t = -1 first, by a loop that retains the gradient of each.

    L is one sample's squared error at the last position. The weights are constants, since their gradients would make
    the loop slower and are not asked for.
    """
    weights = {name: weight.detach() for name, weight in lstm.named_parameters()}
    bias = weights["bias_ih_l0"] + weights["bias_hh_l0"]
    from_input = nn.functional.linear(batch.inputs, weights["weight_ih_l0"], bias)
    recurrent = weights["weight_hh_l0"].T
    hidden, cell = (from_input.new_zeros(len(batch), lstm.hidden_size, requires_grad=True) for _ in range(2))
    states = {"hidden": [hidden], "cell": [cell]}
    for driven in from_input.unbind(1):
        input_gate, forget_gate, candidate, output_gate = (driven + hidden @ recurrent).chunk(4, 1)
        cell = torch.sigmoid(forget_gate) * cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
        hidden = torch.sigmoid(output_gate) * torch.tanh(cell)
        for state, kept in ((hidden, states["hidden"]), (cell, states["cell"])):
            state.retain_grad()
            kept.append(state)
    answer = nn.functional.linear(hidden, readout.weight.detach(), readout.bias.detach())
    (answer - batch.targets[:, -1]).square().sum().backward()
    return {name: torch.stack([_gradient(state) for state in kept], 1) for name, kept in states.items()}


def _gradient(state: Tensor) -> Tensor:
    assert state.grad is not None  # every state leads to the loss
    return state.grad


def totals(gradients: Mapping[str, StateGradient]) -> dict[str, Tensor]:
    """The totals of the only layer, by component."""
    return {key.rpartition(".")[2]: gradient.total.value() for key, gradient in gradients.items()}


class Interleaved(pl.Callback):
    """Takes over from the Trainer at the end of every block, measures everything else, and gives back.

    A cycle is one block and one step on which probes fire. The cycles begin after half a cycle, so that the step at
    which scalars are logged, once in a cycle, lies inside the block.
    """

    def __init__(self, options: Options, job: Job, recorder: RunRecorder) -> None:
        assert job.trainer.clip is not None  # the default clips
        self.device = options.device
        self.block = options.block
        self.pairs = options.pairs
        self.bare = BareLoop(job.task, options.hidden, options.batch, job.trainer.clip, torch.device(self.device))
        probed = probe_batch(job.task, job.probing.samples).to(self.device)
        drawn = job.task.sample(options.batch, generator("benchmark", SEED)).to(self.device)
        self.batches = dict(zip(BATCHES, (probed, drawn), strict=True))
        self.probing = Probing(job, probed, recorder)
        self.state_gradient: Probe = job.probes["state_gradient"]
        self.cycle = cycle(options.block)
        self.lead = lead(options.block)
        self.pair = 0
        self.started = 0.0
        self.samples = Samples()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)  # as ``measured`` has made it
        self.bare.begin_as(pl_module)
        pl_module.pauses = frozenset(
            self.lead + cycle * self.cycle + place for cycle in range(WARM_UP + self.pairs) for place in (0, self.block)
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Training)
        step = trainer.global_step
        place = (step - self.lead) % self.cycle
        if step < self.lead or place not in (0, self.block):
            return
        if step == self.lead:
            self._check_losses(self.bare.train(step), float(pl_module.current.loss))
        elif place == self.block:
            self.samples.ours.append(now(self.device) - self.started)
            if not self._bare_comes_first():
                self._measure_bare()
        else:
            self.probing.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self.probing.recorder.flush()
            step_with_firing = now(self.device) - self.started
            self.samples.firing.append(step_with_firing - self.samples.ours[-1] / self.block)
            self._measure_singly(pl_module)
            self._print_pair()
            self.pair += 1
            self.bare.train(1 + SETTLE)
            if self._bare_comes_first() and step < trainer.max_steps:
                self._measure_bare()
        self.started = now(self.device)

    def _bare_comes_first(self) -> bool:
        return self.pair % 2 == 1

    def _measure_bare(self) -> None:
        self.samples.bare.append(seconds(partial(self.bare.train, self.block), self.device))

    def _check_losses(self, bare: float, ours: float) -> None:
        if not math.isclose(bare, ours, rel_tol=SAME_LOSS):
            raise ValueError(
                f"after {self.lead} steps the bare loop's loss is {bare}, ours {ours}: not the same network"
            )

    def _measure_singly(self, training: Training) -> None:
        model = training.model
        network = next(part for part in model.modules() if isinstance(part, nn.LSTM))
        readout = next(part for part in model.modules() if isinstance(part, nn.Linear))
        for name, batch in self.batches.items():
            kept: dict[str, Any] = {}

            def ours(batch: Batch = batch, kept: dict[str, Any] = kept) -> None:
                kept["ours"] = taken = snapshot(model, training.task, batch, 0)
                list(self.state_gradient(taken))

            def by_hand(batch: Batch = batch, kept: dict[str, Any] = kept) -> None:
                kept["by hand"] = totals_by_hand(network, readout, batch)

            for label, measure in ((ALONE, ours), (BY_HAND, by_hand)):
                self.samples.single.setdefault(label.format(name), []).append(seconds(measure, self.device))
            difference = largest_difference(totals(kept["ours"].gradients), kept["by hand"])
            self.samples.difference = max(self.samples.difference, difference)

    def _print_pair(self) -> None:
        done = self.pair + 1
        name = f"warm-up {done} of {WARM_UP}" if done <= WARM_UP else f"pair {done - WARM_UP} of {self.pairs}"
        ours, bare = self.samples.ours[-1], self.samples.bare[-1]
        print(f"{name}: {self.block} steps in {ours:.2f} s, bare {bare:.2f} s", file=sys.stderr, flush=True)


def cycle(block: int) -> int:
    """Steps of the Trainer from one block's beginning to the next."""
    return block + 1


def lead(block: int) -> int:
    """Steps before the first block."""
    return cycle(block) // 2 + 1


def measured(options: Options, folder: Path) -> Samples:
    """The run itself, its files in ``folder``."""
    torch.manual_seed(SEED)
    job = training_job(options)
    run = RunFolder(folder / "overhead")
    run.clear()
    run.write_card(job.task.card)
    metadata = {"run": run.run}
    view = WandbView(run.path, metadata, "offline", job.recorder.project, None, "benchmarks")
    recorder = RunRecorder(run, metadata, view)
    interleaved = Interleaved(options, job, recorder)
    checkpoints = Checkpoints(run.checkpoints, recorder, interleaved.probing.state_dict)
    probed = interleaved.probing.scheduled
    training = Training(job, job.model(job.task), recorder, probed, checkpoints, Interruption())
    try:
        trainer = pl.Trainer(
            accelerator=job.trainer.accelerator,
            devices=1,
            precision=job.trainer.precision,  # type: ignore[arg-type]  # Lightning checks it
            max_steps=job.steps,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[interleaved],
        )
        trainer.fit(training)
    finally:
        recorder.close(FINISHED, {})
    return without_warm_up(interleaved.samples)


def training_job(options: Options) -> Job:
    """A run of default settings, but for its sizes and cadences, and the steps on which its probes fire."""
    per_pair, before = cycle(options.block), lead(options.block)
    steps = before + (WARM_UP + options.pairs) * per_pair
    return Job(
        model=partial(lstm, hidden=options.hidden),
        task=Adding(length=options.length),
        probes=default_probes(),
        seed=SEED,
        steps=steps,
        batch_size=options.batch,
        optimizer=ADAM,
        scheduler=None,
        trainer=TrainerSettings(
            accelerator="gpu" if options.device == "cuda" else "cpu",
            log_every=per_pair,
            validate_every=steps,
            validation_samples=options.batch,
            stop_when_solved=False,
        ),
        probing=ProbingSettings(steps=list(range(before + per_pair, steps + 1, per_pair)), share=None),
        recorder=RecorderSettings(),
    )


def flush_denormals(options: Options) -> None:
    """For torch's own kernels, as ``form=compiled`` does for itself; raises ValueError where they would not all."""
    if options.threads != 1:
        raise ValueError("--flush is said to one thread alone: --threads 1")
    if not torch.set_flush_denormal(True):
        raise ValueError("--flush: this processor cannot")


def without_warm_up(samples: Samples) -> Samples:
    """The pairs that count."""
    return Samples(
        samples.ours[WARM_UP:],
        samples.bare[WARM_UP:],
        samples.firing[WARM_UP:],
        {name: values[WARM_UP:] for name, values in samples.single.items()},
        samples.difference,
    )


def ratios(samples: Samples, block: int) -> list[Ratio]:
    """Everything that is compared, each with its interval."""
    bare = np.array(samples.bare)
    steps = bare / block
    ours, firing = np.array(samples.ours), np.array(samples.firing)
    share = firings() / RUN
    rows = {
        WITHOUT: ("bare loop", [ours / bare], [1.0]),
        WITH: ("without probes", [np.ones_like(ours), firing / (ours / block)], [1.0, share]),
        FIRING: ("bare step", [firing / steps], [1.0]),
    }
    rows |= {name: ("bare step", [np.array(values) / steps], [1.0]) for name, values in samples.single.items()}
    return [
        Ratio(name, against, *median_and_interval(parts, weights), GOALS.get(name))
        for name, (against, parts, weights) in rows.items()
    ]


def firings() -> int:
    """How often the default schedule fires in a run of ``RUN`` steps."""
    return len(schedule(RUN, ProbingSettings().per_decade))


def report(options: Options, samples: Samples, others: every_step.Samples, rows: Sequence[Ratio]) -> dict[str, Any]:
    """All that is kept of a run; ``samples`` are seconds, so that other statistics can be taken later."""
    packages = ("torch", "pytorch-lightning", "wandb")
    return {
        "benchmark": "overhead",
        "machine": machine(options.device, options.threads, packages),
        "settings": asdict(options),
        "ratios": [{**asdict(row), "verdict": row.verdict} for row in rows],
        "firings": firings(),
        "bare_step": float(np.median(samples.bare)) / options.block,
        "samples": asdict(samples),
        "every_step": asdict(others),
    }


def parsed(arguments: Sequence[str] | None) -> tuple[Options, Path | None]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--pairs", type=int, default=30, help="pairs of blocks that count")
    parser.add_argument("--block", type=int, default=20, help="training steps in a block")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=400, help="of the adding problem's sequences")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of either side")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--flush",
        action="store_true",
        help="torch's kernels, too, take numbers below the normal ones for 0; one thread",
    )
    parser.add_argument("--json", type=Path, help="a file to keep the result in")
    given = vars(parser.parse_args(arguments))
    kept = given.pop("json")
    return Options(**given), kept


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options, kept = parsed(arguments)
        torch.set_num_threads(options.threads)
        if options.flush:
            flush_denormals(options)
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # batches are drawn in the step
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated.*")  # Lightning 2.6 on torch 2.13
        with tempfile.TemporaryDirectory() as folder:
            samples = measured(options, Path(folder))
        sizes = (options.pairs, options.hidden, options.batch, options.length, options.device)
        others = every_step.measured(*sizes)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    rows = ratios(samples, options.block) + every_step.ratios(others)
    result = report(options, samples, others, rows)
    shown = result["machine"]
    print(ratio_table(rows))
    print(
        f"\n{options.pairs} pairs of {options.block} steps; LSTM, {options.hidden} units, batch {options.batch}, "
        f"adding over {options.length}; a bare step takes {1000 * result['bare_step']:.1f} ms\n"
        f"with probes: without them, plus {result['firings']} firings in {RUN} steps\n"
        f"totals and totals by hand differ by {max(samples.difference, others.difference):.0e} of the largest at most\n"
        f"at every step: as many rounds of {every_step.BLOCK} steps; powers of T from a third of them\n"
        f"{shown['device']}; threads: {shown['threads']}; torch {shown['packages']['torch']}; {shown['date']}"
    )
    if kept is not None:
        keep(result, kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
