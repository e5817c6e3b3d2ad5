r"""What truncated back-propagation would make of the gradient, over the length K that it is truncated to.

    cosine    ⟨g_K, g⟩ / (‖g_K‖ ‖g‖)
    error     ‖g_K - g‖ / ‖g‖         the bias, relative to what is estimated

g the gradient of the mean loss over the probe batch's first `samples`, g_K the same with the gradient through time cut
at every K times, as `trainer.truncate` cuts it; K = 1, 2, 4, … and the length of the longest sequence, from which on
the two are one: 1 and 0. For each parameter, and for all of them together. Neither is a number for a parameter whose
gradient is zero. Nothing for a model without recurrence, or that learns nothing.

Source: Tallec & Ollivier 2017, arXiv:1705.08209; Aicher, Foti, Fox 2019, arXiv:1905.07473.
Cost: a forward and a backward pass of the training form for each K.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import SequenceModel, Snapshot, Task
from retrograde.core.gradients import parameter_gradients
from retrograde.core.records import Batch, Reading

ALL = "all"


class Truncation:
    """Readings ``cosine`` and ``error`` over parameters and lengths."""

    def __init__(self, samples: int = 32) -> None:
        require_at_least("samples", samples, 1)
        self.samples = samples

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        model, task = snapshot.model, snapshot.task
        if not snapshot.courses or not model.learns:
            return
        first = torch.arange(min(self.samples, len(snapshot.batch)), device=snapshot.batch.lengths.device)
        batch = snapshot.batch.select(first).trimmed()
        full = truncated_to(None, model, task, batch)
        compared: dict[int, list[tuple[float, float]]] = {}
        for length in lengths(batch):
            cut = truncated_to(length, model, task, batch)
            compared[length] = [beside(cut[name], full[name]) for name in full]
        dims: Mapping[str, Sequence[Any]] = {"parameter": list(full), "length": list(compared)}
        for part, name in enumerate(("cosine", "error")):
            values = np.array([[row[part] for row in rows] for rows in compared.values()]).T
            yield Reading(f"{name}/parameters", values, dims, "cosine" if name == "cosine" else "relative")


def lengths(batch: Batch) -> list[int]:
    """1, 2, 4, … and the longest that a recurrence reads."""
    longest = max(batch.length, batch.targets.shape[1])
    return [2**power for power in range((longest - 1).bit_length())] + [longest]


def truncated_to(length: int | None, model: SequenceModel, task: Task, batch: Batch) -> dict[str, Tensor]:
    """The gradient of each parameter, flat, and of all of them behind one another; the model is left as it was."""
    before = model.truncation
    model.truncate(length)
    try:
        found = parameter_gradients(model, task, batch)
    finally:
        model.truncate(before)
    flat = {name: gradient.flatten().to(torch.float64) for name, gradient in found.items()}
    return flat | {ALL: torch.cat(list(flat.values()))}


def beside(cut: Tensor, full: Tensor) -> tuple[float, float]:
    """Cosine and relative error. Each is measured by its largest entry, so that no square leaves the format."""
    one, other = cut / cut.abs().amax(), full / full.abs().amax()
    # of equal numbers exactly 1: the root of a square is exact
    cosine = one @ other / ((one @ one) * (other @ other)).sqrt()
    scale = full.abs().amax()
    error = torch.linalg.vector_norm(cut / scale - other) / torch.linalg.vector_norm(other)
    return cosine.item(), error.item()
