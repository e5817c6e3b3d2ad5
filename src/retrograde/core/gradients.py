"""The gradient of a model's parameters, asked for without leaving a mark."""

import torch
from torch import Tensor

from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch
from retrograde.core.snapshot import evaluating


def parameter_gradients(model: SequenceModel, task: Task, batch: Batch) -> dict[str, Tensor]:
    """By name, of every parameter that learns: the gradient of the mean over samples of each one's mean loss.

    Through the training form, and truncated where that is, but in eval mode. Nothing is written to ``.grad``.
    """
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    # cuDNN's recurrent layers have no gradient in eval mode
    with torch.enable_grad(), evaluating(model), torch.backends.cudnn.flags(enabled=False):
        loss = sample_means(task.loss(model(batch), batch), batch.scored).mean()
        found = torch.autograd.grad(loss, list(learned.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(learned, found, strict=True))
