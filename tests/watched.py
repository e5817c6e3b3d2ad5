"""Oracles for ``retrograde.watch``: recurrent layers as loops of plain autograd, one sample at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import retrograde

States = dict[str, list[dict[int, Tensor]]]
"""By ``layer.direction.component``, for every sample, the nodes by time."""


def stepped(module: nn.RNNBase, suffix: str, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of one layer in one direction, for one sample."""
    weights = {
        name: getattr(module, f"{name}_{suffix}", None) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    a = nn.functional.linear(x, weights["weight_ih"], weights["bias_ih"])
    b = nn.functional.linear(h, weights["weight_hh"], weights["bias_hh"])
    if module.mode == "LSTM":
        i, f, g, o = (a + b).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        if module.proj_size:
            h = getattr(module, f"weight_hr_{suffix}") @ h
        return h, c
    if module.mode == "GRU":
        (ri, zi, ni), (rh, zh, nh) = a.chunk(3), b.chunk(3)
        r, z = torch.sigmoid(ri + rh), torch.sigmoid(zi + zh)
        return (1 - z) * torch.tanh(ni + r * nh) + z * h, c
    return (torch.tanh if module.mode == "RNN_TANH" else torch.relu)(a + b), c


def live(
    module: nn.RNNBase, samples: list[Tensor], cut: str | None = None
) -> tuple[list[Tensor], list[Tensor], States]:
    """Outputs, last hidden states (layer · direction, width) of every sample, and all states as nodes.

    ``cut`` names a layer and direction whose later steps read detached states: gradients there are direct.
    """
    states: States = {}
    outputs, ends = [], []
    for x in samples:
        end = []
        for layer in range(module.num_layers):
            made = []
            for direction in range(2 if module.bidirectional else 1):
                name = f"{layer}.{('forward', 'backward')[direction]}"
                suffix = f"l{layer}" + "_reverse" * direction
                width = module.proj_size or module.hidden_size
                h, c = torch.zeros(width, requires_grad=True), torch.zeros(module.hidden_size, requires_grad=True)
                order = range(len(x))[::-1] if direction else range(len(x))
                hidden, cell, out = {len(x) if direction else -1: h}, {len(x) if direction else -1: c}, {}
                for t in order:
                    read = (h.detach(), c.detach()) if cut == name else (h, c)
                    h, c = stepped(module, suffix, x[t], *read)
                    hidden[t], cell[t], out[t] = h, c, h
                states.setdefault(f"{name}.hidden", []).append(hidden)
                if module.mode == "LSTM":
                    states.setdefault(f"{name}.cell", []).append(cell)
                made.append(torch.stack([out[t] for t in range(len(x))]))
                end.append(h)
            x = torch.cat(made, -1)
        outputs.append(x)
        ends.append(torch.stack(end))
    return outputs, ends, states


def norms(loss: Tensor, states: States) -> dict[tuple[str, int, int], float]:
    """The gradient's norm by place, sample and time."""
    nodes = [
        (place, b, t, node) for place, own in states.items() for b, by_t in enumerate(own) for t, node in by_t.items()
    ]
    gradients = torch.autograd.grad(loss, [node for *_, node in nodes], allow_unused=True, materialize_grads=True)
    return {(p, b, t): float(gradient.norm()) for (p, b, t, _), gradient in zip(nodes, gradients, strict=True)}


def watched(model: nn.Module, loss: Callable[[], Tensor], **settings: Any) -> tuple[pd.DataFrame, Any]:
    """One backward pass under a watch: the frame of single samples, and the flow."""
    with retrograde.watch(model, per_sample=True, **settings) as flow:
        loss().backward()
    return flow.frame(per_sample=True), flow


def check(
    frame: pd.DataFrame, column: str, expected: dict[tuple[str, int, int], float], tolerance: float = 1e-10
) -> None:
    """Every expected norm is there, once, and is that; and a zero is called one."""
    by = {
        (f"{row.layer}.{row.component}", int(row.sample), int(row.time)): row
        for row in frame.itertuples()
        if row.call == 0
    }
    status = "status" if column == "total" else "direct_status"
    for key, value in expected.items():
        row = by[key]
        if value == 0.0:
            assert getattr(row, status) == "zero", key
        else:
            np.testing.assert_allclose(10 ** getattr(row, column), value, rtol=tolerance, err_msg=str(key))


def parameter_gradients(model: nn.Module) -> list[Tensor | None]:
    """Taken, and set back."""
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return gradients


def check_undisturbed(model: nn.Module, outputs: Callable[[], Tensor], tolerance: float = 0.0) -> None:
    """Outputs, gradients of parameters and the state of the generator are the same with a watch and without."""
    runs = []
    for is_watched in (False, True):
        torch.manual_seed(3)
        model.zero_grad()
        if is_watched:
            with retrograde.watch(model) as flow:
                made = outputs()
                made.pow(2).sum().backward()
            assert len(flow.frame())
        else:
            made = outputs()
            made.pow(2).sum().backward()
        runs.append((made.detach(), parameter_gradients(model), torch.get_rng_state()))
    (one, gradients, state), (other, watched_gradients, watched_state) = runs
    torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance)
    for gradient, watched_gradient in zip(gradients, watched_gradients, strict=True):
        assert (gradient is None) == (watched_gradient is None)
        if gradient is not None and watched_gradient is not None:
            torch.testing.assert_close(watched_gradient, gradient, rtol=tolerance, atol=tolerance)
    assert torch.equal(state, watched_state)
