"""What a snapshot holds, and what it leaves behind."""

import gc
from functools import partial

import torch

from retrograde.core.snapshot import gradient_flow, snapshot
from retrograde.core.sweep import Sweepable
from retrograde.layers.scores.additive import Additive
from retrograde.layers.windows.global_ import Global
from retrograde.models.gru import gru
from retrograde.models.lstm import lstm
from retrograde.models.seq2seq_bahdanau import seq2seq_bahdanau
from retrograde.models.transformer import transformer
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying
from retrograde.tasks.reverse import Reverse

TASK = Adding(length=6)


def batch(task: Adding | Copying = TASK, count: int = 3):  # type: ignore[no-untyped-def]  # of either task
    return task.sample(count, torch.Generator().manual_seed(0))


def test_no_step_of_a_sweep_outlives_its_snapshot() -> None:
    model = lstm(TASK, hidden=4, layers=2, bidirectional=True)
    gc.collect()
    kept = snapshot(model, TASK, batch(), 0)
    assert not any(issubclass(type(thing), Sweepable) for thing in gc.get_objects())
    assert kept.gradients


def test_nor_does_one_of_a_decoder_that_attends_outlive_it() -> None:
    """The decoder's recurrence holds the encoder's outputs, and those the graph that they were made by."""
    task = Reverse(symbols=3, shortest=2, longest=4)
    model = seq2seq_bahdanau(task, partial(gru, hidden=4), partial(gru, hidden=4), Additive, Global)
    gc.collect()
    alive = sum(issubclass(type(thing), Sweepable) for thing in gc.get_objects())
    snapshot(model, task, task.sample(3, torch.Generator().manual_seed(0)), 0)
    gc.collect()
    assert sum(issubclass(type(thing), Sweepable) for thing in gc.get_objects()) == alive


def test_tensors_of_a_snapshot_carry_no_graph() -> None:
    taken = snapshot(transformer(TASK, 8, 1, 2, 8), TASK, batch(), 0)
    tensors = [taken.losses, taken.trace.outputs, *taken.trace.states.values(), *taken.trace.maps.values()]
    tensors += [part.mantissa for gradient in taken.gradients.values() for part in (gradient.total, gradient.direct)]
    assert tensors and not any(tensor.requires_grad for tensor in tensors)


def test_losses_are_zero_where_nothing_is_scored() -> None:
    drawn = batch()
    losses = snapshot(gru(TASK, hidden=4), TASK, drawn, 0).losses
    assert not losses[~drawn.scored].any() and losses[drawn.scored].all()


def test_a_gradient_is_of_each_samples_own_loss_whatever_the_batch() -> None:
    """Without 1/batch, and as the mean over the scored positions: a batch of one gives the same numbers."""
    task = Copying(length=2, symbols=3, recall=2)
    model = gru(task, hidden=4).double()
    drawn = batch(task)
    together = gradient_flow(model, task, drawn).gradients["0.forward.hidden"].total.value()
    alone = gradient_flow(model, task, drawn.select(torch.tensor([1]))).gradients["0.forward.hidden"].total.value()
    torch.testing.assert_close(together[1:2], alone)


def test_frozen_recurrent_weights_do_not_hide_the_gradient() -> None:
    model = gru(TASK, hidden=4)
    expected = gradient_flow(model, TASK, batch()).gradients["0.forward.hidden"].total.value()
    made = gradient_flow(model.requires_grad_(False), TASK, batch()).gradients["0.forward.hidden"].total.value()
    torch.testing.assert_close(made, expected)


def test_a_model_of_which_nothing_learns_shows_the_same_gradient() -> None:
    torch.manual_seed(0)
    model = transformer(TASK, 8, 1, 2, 8)
    expected = gradient_flow(model, TASK, batch()).gradients
    made = gradient_flow(model.requires_grad_(False), TASK, batch()).gradients
    assert made
    for key, gradient in made.items():
        torch.testing.assert_close(gradient.total.value(), expected[key].total.value())
