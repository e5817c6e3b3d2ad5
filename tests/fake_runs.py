"""Small runs written by hand, for tests of the reading side: real folders, made-up numbers.

outputs = tmp_path / "outputs"
write_run(outputs, Fake("lstm", seed=0))
write_run(outputs, Fake("elman", seed=0, solved=False, keeps=0.5))
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from retrograde.core.contracts import Baseline, Card
from retrograde.core.records import Reading
from retrograde.core.statistics import STATISTICS
from retrograde.core.statuses import STATUSES
from retrograde.record.folder import RunFolder, config_hash, run_name
from retrograde.record.tables import TableWriter, labels_table, metrics_table, reading_table

LENGTH = 8
STEPS = (0, 10, 200)

CARD = Card(
    variant=f"one per half, values in [0, 1], T = {LENGTH}",
    scored="the last position",
    score="share of the target's variance explained",
    solved=0.94,
    baselines=(Baseline("always 1", 1 / 6, 0.0, "Var[X1 + X2] = 2/12 for independent uniform values"),),
    lags=((0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (5, 1), (6, 1), (7, 2)),
)


@dataclass(frozen=True)
class Fake:
    """What a run is to say. ``keeps``: the share of the gradient that each lag keeps, before and after training.

    ``gradient`` overrides the norms over lag (log10) after training, ``status`` their status, by name. ``also`` gives
    further readings of a step, each with its probe.
    """

    model: str
    seed: int = 0
    study: str = "demo"
    task: str = "adding"
    status: str = "finished"
    solved: bool = True
    keeps: tuple[float, float] = (0.5, 0.9)
    gradient: tuple[float, ...] | None = None
    statuses: tuple[str, ...] | None = None
    components: tuple[str, ...] = ("hidden",)
    heads: int = 0
    validation: tuple[float, ...] = (0.1, 0.95)
    labels: tuple[str, ...] = ("0.10", "0.20*", "0.30", "0.40", "0.50", "0.60*", "0.70", "0.80")
    card: Card = CARD
    more: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    also: Callable[[int], Iterable[tuple[str, Reading]]] = lambda step: ()


def write_run(outputs: Path, fake: Fake) -> RunFolder:
    """The folder of the run, complete."""
    config = {
        "study": fake.study,
        "seed": fake.seed,
        "steps": STEPS[-1],
        "model": {"_target_": fake.model},
        **fake.config,
    }
    folder = RunFolder(outputs / fake.study / run_name(fake.model, fake.task, config))
    folder.path.mkdir(parents=True)
    folder.write_card(fake.card)
    writer = TableWriter(folder.tables)
    writer.append("metrics", metrics_table(folder.run, _metrics(fake)))
    scored = np.arange(len(fake.labels))[None] == len(fake.labels) - 1
    writer.append("labels", labels_table(folder.run, [fake.labels], scored))
    for step in STEPS:
        for probe, reading in _readings(fake, step):
            quantity, table = reading_table(folder.run, step, reading)
            writer.append(f"readings/{probe}/{quantity}", table)
    writer.merge()
    folder.write(_metadata(fake, folder.run, config))
    return folder


def _metadata(fake: Fake, run: str, config: dict[str, Any]) -> dict[str, Any]:
    best = fake.card.baseline
    metadata = {
        "run": run, "study": fake.study, "model": fake.model, "task": fake.task, "seed": fake.seed,
        "baseline": best.score, "baseline_loss": best.loss, "baseline_rule": best.rule,
        "parameters": 1234, "state_size": 64, "config_hash": config_hash(config), "commit": "abc1234",
        "versions": {"torch": "2.13.0"}, "config": config, "status": fake.status,
    }  # fmt: skip
    if fake.status == "finished":
        score = 0.97 - 0.01 * fake.seed if fake.solved else 0.02
        metadata |= {
            "score": score, "loss": (1 - score) / 6, "validation_score": score, "solved": fake.solved,
            "solved_step": STEPS[-1] if fake.solved else None, "steps": STEPS[-1], "selected_step": STEPS[-1],
            "horizon": 7.0, "horizon_start": 6.0, "diverged_step": None, "reason": None, "duration": 12.5,
        }  # fmt: skip
    if fake.status == "failed":
        metadata |= {"reason": "RuntimeError: out of patience", "duration": 3.0}
    return metadata | fake.more


def _metrics(fake: Fake) -> list[tuple[int, str, float]]:
    rows = [(step, "train/loss", 0.2) for step in (50, 100)]
    for place, score in enumerate(fake.validation):
        step = 100 * (place + 1)
        rows += [(step, "validation/score", score), (step, "validation/loss", (1 - score) / 6)]
        if fake.card.window is not None:
            rows.append((step, "validation/effective_window", LENGTH * score))
    return rows


def shallow(rule: str, score: float, k: int = 10) -> Fake:
    """A run of a shallow rule with that score."""
    scored = {"learns": False, "score": score, "loss": (1 - score) / 6, "solved": score >= CARD.solved}
    return Fake("rule", validation=(score,), more=scored, config={"model": {"rule": rule, "k": k}})


def asked_after(fake: Fake) -> Fake:
    """The same run with its further readings of the last step alone, as a probe has them that is asked of its end."""
    return replace(fake, also=lambda step: fake.also(step) if step == STEPS[-1] else ())


def _readings(fake: Fake, step: int) -> list[tuple[str, Reading]]:
    readings = []
    keeps = fake.keeps[0] if step == 0 else fake.keeps[1]
    values = np.arange(LENGTH + 1) * np.log10(keeps) - 1.0
    statuses = np.zeros(LENGTH + 1, dtype=np.int8)
    if step and fake.gradient is not None:
        values = np.array(fake.gradient)
    if step and fake.statuses is not None:
        statuses = np.array([STATUSES.index(name) for name in fake.statuses], dtype=np.int8)
    for component in fake.components:
        over = {"statistic": STATISTICS, "lag": range(LENGTH + 1)}
        where = f"0.forward.{component}"
        four = (4, 1)
        readings.append(
            (
                "lag_gradient",
                Reading(f"relative/{where}", np.tile(values, four), over, "log10", np.tile(statuses, four)),
            )
        )
        kept = np.flatnonzero(values >= values[0] - 2)
        horizon = float(kept.max()) if len(kept) else np.nan
        readings.append(("lag_gradient", Reading(f"horizon/{where}", np.array(horizon), {}, "lags")))
    if fake.heads:
        readings += _attention(fake.heads, step)
    return [*readings, *fake.also(step)]


def _attention(heads: int, step: int) -> list[tuple[str, Reading]]:
    """Even over what is visible before training; afterwards the last query looks at the marked positions alone."""
    maps = np.tril(np.ones((LENGTH, LENGTH)))
    if step:
        maps[-1] = np.isin(np.arange(LENGTH), (1, 5))
    maps = np.tile(maps / maps.sum(1, keepdims=True), (1, heads, 1, 1))
    positions = range(LENGTH)
    readings = []
    for layer in ("0", "1"):
        dims = {"sample": [0], "head": range(heads), "query": positions, "key": positions}
        readings.append(("attention", Reading(f"map/{layer}", maps, dims, "share")))
        for name, value in {"entropy_share": 0.4 if step else 1.0, "distance": 3.0, "confidence": 0.5}.items():
            reading = Reading(f"{name}/{layer}", np.full(heads, value), {"head": range(heads)}, "share")
            readings.append(("attention", reading))
    return readings
