r"""What of a target reaches each position of its source.

    norm    ‖dL_j/dz_i‖, j a target position, i the time of an encoder's state

L_j is the loss at target position j alone, z_i one component of an encoder's layer; the gradient is total, along every
path: through attention from j itself, through the decoder's recurrence from what it looked at before, through the one
vector where there is no attention. Where the encoder forgets, the norm shows where the decoder looks.

Nothing for tasks whose targets have no axis of their own. Norms are of one sample of the probe batch, in log10.

Source: ours; attention's own alignment is Bahdanau et al. 2014, arXiv:1409.0473, figure 3.
Cost: one sweep over as many copies of the sample as it has targets.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Snapshot
from retrograde.core.records import Batch, Reading
from retrograde.core.scaled import log10_norm
from retrograde.core.snapshot import gradient_flow


class SourceGradient:
    """Reading ``norm`` for every component of an encoder's layers, a row per scored target position of one sample."""

    def __init__(self, sample: int = 0) -> None:
        require_at_least("sample", sample, 0)
        self.sample = sample

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        if snapshot.task.kind != "transduce":
            return
        if self.sample >= len(snapshot.batch):
            raise ValueError(
                f"source_gradient reads sample {self.sample}, and the probe batch has {len(snapshot.batch)}"
            )
        targets = snapshot.batch.scored[self.sample].nonzero().flatten()
        batch = each_alone(snapshot.batch, self.sample, targets)
        length = int(batch.lengths[0])
        for key, gradient in gradient_flow(snapshot.model, snapshot.task, batch).gradients.items():
            if key in snapshot.trace.target_side:
                continue
            norm, status = log10_norm(gradient.total)
            own = [at for at, time in enumerate(gradient.times) if time < length]  # neither padding nor behind it
            dims = {
                "sample": [self.sample],
                "target": targets.tolist(),
                "time": [gradient.times[at] for at in own],
            }
            values, statuses = (part[:, own].unsqueeze(0).cpu().numpy() for part in (norm, status))
            yield Reading(f"norm/{key}", values, dims, "log10 loss per state", statuses)


def each_alone(batch: Batch, sample: int, targets: Int[Tensor, " targets"]) -> Batch:
    """One sample as often as there are target positions, each copy scored at one of them."""
    copies = batch.select(torch.full_like(targets, sample))
    scored = torch.zeros_like(copies.scored)
    scored[torch.arange(len(targets), device=scored.device), targets] = True
    return replace(copies, scored=scored)
