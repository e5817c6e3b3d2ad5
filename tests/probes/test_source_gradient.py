"""What of a target reaches its source, against a gradient for each target position and each state by plain autograd."""

from functools import partial

import numpy as np
import pytest
import torch

from retrograde.core.snapshot import snapshot
from retrograde.layers.scores.dot import Dot
from retrograde.layers.windows.global_ import Global
from retrograde.models.elman import elman
from retrograde.models.seq2seq import seq2seq
from retrograde.models.seq2seq_luong import seq2seq_luong
from retrograde.probes.source_gradient import SourceGradient
from retrograde.tasks.adding import Adding
from retrograde.tasks.reverse import Reverse

pytestmark = pytest.mark.usefixtures("float64")

TASK = Reverse(symbols=3, shortest=2, longest=5)
KEY = "norm/encoder0.forward.hidden"


def test_norms_are_those_of_each_target_positions_own_loss() -> None:
    """The encoder's states as a loop of live nodes, put in place of its outputs."""
    model = seq2seq_luong(TASK, partial(elman, hidden=4), partial(elman, hidden=4), Dot, Global)
    batch = TASK.sample(3, torch.Generator().manual_seed(2))
    (reading,) = SourceGradient(sample=1)(snapshot(model, TASK, batch, 0))
    length, targets = int(batch.lengths[1]), int(batch.target_lengths[1])
    assert reading.name == KEY
    assert list(reading.dims["target"]) == list(range(targets))
    assert list(reading.dims["time"]) == list(range(-1, length))
    alone = batch.select(torch.tensor([1]))
    cell = model.encoder.placed[0][0].recurrence
    nodes = [torch.zeros(1, 4, requires_grad=True)]
    for x in model.source_embedding(alone.inputs)[:, :length].unbind(1):
        nodes.append(cell.step(cell.weights(), x, {"hidden": nodes[-1]})["hidden"])
    padding = torch.zeros(1, batch.length - length, 4)
    model.encoder.forward = lambda inputs, *rest: torch.cat([torch.stack(nodes[1:], 1), padding], 1)
    losses = TASK.loss(model(alone), alone)[0]
    for target in range(targets):
        gradients = torch.autograd.grad(losses[target], nodes, retain_graph=True)
        norms = torch.stack(gradients, 1)[0].norm(dim=-1)
        np.testing.assert_allclose(10 ** reading.values[0, target], norms.numpy(), rtol=1e-9)


def test_through_one_vector_every_target_is_felt_most_at_the_sources_end() -> None:
    """A linear encoder that halves what it holds: one step nearer to the end is twice as much, for every target."""
    from retrograde.models.linear_rnn import linear_rnn

    model = seq2seq(TASK, partial(linear_rnn, hidden=4, radius=0.5), partial(elman, hidden=4))
    batch = TASK.sample(3, torch.Generator().manual_seed(2))
    (reading,) = SourceGradient()(snapshot(model, TASK, batch, 0))
    np.testing.assert_allclose(np.diff(reading.values[0], axis=1), np.log10(2), rtol=1e-9)


def test_a_task_without_a_target_of_its_own_has_no_source() -> None:
    task = Adding(length=4)
    batch = task.sample(2, torch.Generator().manual_seed(0))
    assert not list(SourceGradient()(snapshot(elman(task, hidden=3), task, batch, 0)))


def test_a_sample_that_is_not_there_is_refused() -> None:
    model = seq2seq(TASK, partial(elman, hidden=4), partial(elman, hidden=4))
    on = snapshot(model, TASK, TASK.sample(2, torch.Generator().manual_seed(0)), 0)
    with pytest.raises(ValueError, match="source_gradient reads sample 2, and the probe batch has 2"):
        list(SourceGradient(sample=2)(on))
