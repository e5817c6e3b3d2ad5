"""Learning rates over steps that torch has not."""

import torch
from torch.optim.lr_scheduler import LambdaLR


def transformer_warmup(optimizer: torch.optim.Optimizer, width: int, warmup: int = 4000) -> LambdaLR:
    r"""A rate that rises in proportion to the step n, and after ``warmup`` steps w falls with its root.

        lr_n = lr · d^{-1/2} · min(n^{-1/2}, n · w^{-3/2})

    d the model's width; the optimiser's own rate lr is a factor, 1 in the paper.

    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 3.
    """
    if warmup < 1:
        raise ValueError(f"scheduler.warmup must be at least 1, not {warmup}")

    def factor(taken: int) -> float:
        step = taken + 1  # torch asks before the first step with 0
        return width**-0.5 * min(step**-0.5, step * warmup**-1.5)

    return LambdaLR(optimizer, factor)
