"""The step on which training stopped being finite, kept so that it can be run again.

checkpoints/nonfinite.pt    step, weights before it, the batch that it was taken on: tensors alone
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrograde.core.contracts import SequenceModel, Snapshot, Task
from retrograde.core.nonfinite import Place, first_backward, first_forward
from retrograde.core.records import Batch
from retrograde.core.snapshot import snapshot

KEPT = "nonfinite.pt"


@dataclass(frozen=True)
class Replay:
    """A step run again on its own batch, from the weights before it: what probes read of it, and the first place that
    is no number.

    ``first`` is where the states, the outputs or the loss stop being finite, or else the gradient of one of the states
    in the format that the model computes in. It is None where neither happens: the model is asked in evaluation mode,
    without a regularizer and without automatic mixed precision.
    """

    step: int
    snapshot: Snapshot
    first: Place | None


def replay(model: SequenceModel, task: Task, batch: Batch, step: int) -> Replay:
    """The snapshot of the model as it is before that step, on the batch of the step."""
    taken = snapshot(model, task, batch.beside(model.like), step)
    return Replay(step, taken, first_forward(taken) or first_backward(taken, share=1 / len(batch)))


@dataclass(frozen=True)
class Diverged:
    """The step after which weights, or on which the loss, were not finite any more; ``batch`` is what it was taken on.

    ``weights``, ``gradients`` and ``updated`` are the parameters that were not finite before the step, in its gradient
    and after it. ``batch`` is None where the step did not come again when its training was repeated, as may be on a
    device that does not compute the same twice: then nothing but its number is known.
    """

    step: int
    loss: float
    weights: list[str] = field(default_factory=list)
    gradients: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    batch: Batch | None = None

    def plain(self) -> dict[str, Any]:
        """For a checkpoint; the batch has a file of its own."""
        return {name: value for name, value in vars(self).items() if name != "batch"} | {"batch": None}

    def with_batch(self, folder: Path) -> "Diverged":
        """With the batch that ``keep`` wrote, if it did."""
        return replace(self, batch=kept(folder)[2]) if (folder / KEPT).exists() else self

    def described(self, first: Place | None) -> dict[str, Any]:
        """What run.json says of it: ``what`` is the first thing that was not finite, with its place if it has one."""
        said: dict[str, Any] = {"step": self.step, "loss": self.loss}
        if self.batch is None:
            return said | {"what": None}
        parameters = self.weights or self.gradients or self.updated
        said |= {"kept": f"checkpoints/{KEPT}", "parameters": parameters}
        if self.weights:
            return said | {"what": "weight"}
        if first is not None and (first.what != "gradient" or self.gradients):
            layer, _, component = first.key.rpartition(".")
            place = {"layer": layer, "component": component, "time": first.time, "sample": first.sample}
            return said | {"what": first.what, "value": str(first.value)} | place
        if not torch.isfinite(torch.tensor(self.loss)):
            return said | {"what": "loss"}
        return said | {"what": "gradient" if self.gradients else "update"}


def keep(folder: Path, step: int, weights: Mapping[str, Tensor], batch: Batch) -> None:
    """Write the step's file."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "step": step,
        # a copy, since of a run in company it is a view of all runs' weights
        "weights": {name: value.detach().cpu().clone() for name, value in weights.items()},
        "batch": {name: value.cpu() for name, value in batch.tensors().items()},
    }
    torch.save(content, folder / KEPT)


def kept(folder: Path) -> tuple[int, dict[str, Tensor], Batch]:
    """Step, weights before it and batch; raises ValueError where the run kept none."""
    file = folder / KEPT
    if not file.exists():
        raise ValueError(f"there is no {file}: no step of this run was kept, because none was seen to be not finite")
    content = torch.load(file, weights_only=True, map_location="cpu")
    return content["step"], content["weights"], Batch(**content["batch"])
