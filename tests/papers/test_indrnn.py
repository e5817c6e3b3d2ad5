"""IndRNN against plain loops over single units, and its bound: what it means, where it starts, how it learns."""

from functools import partial

import pytest
import torch
from torch import Tensor

from retrograde.core.recurrence import sequence
from retrograde.models.indrnn import IndependentCell, indrnn
from retrograde.models.seq2seq import seq2seq
from retrograde.tasks.adding import Adding
from retrograde.tasks.duplicate import Duplicate
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")


def test_two_steps_by_hand() -> None:
    """Two units: one keeps half of what it holds, the other turns its sign and falls silent."""
    weights = {
        "input": torch.tensor([[1.0], [2.0]]),
        "recurrent": torch.tensor([0.5, -1.0]),
        "bias": torch.tensor([0.25, 0.0]),
    }
    cell = IndependentCell(1, 2, 10, 2.0)
    first = cell.step(weights, torch.tensor([[3.0]]), {"hidden": torch.zeros(1, 2)})
    second = cell.step(weights, torch.tensor([[1.0]]), first)
    assert first["hidden"].tolist() == [[3.25, 6.0]]
    assert second["hidden"].tolist() == [[1.0 + 0.5 * 3.25 + 0.25, 0.0]]  # 2 - 6 < 0


def test_the_network_is_the_loop_of_its_equation_in_values_and_gradients() -> None:
    """Unit by unit: no unit reads another."""
    cell = IndependentCell(3, 5, 7, 2.0)
    x = torch.randn(2, 7, 3, requires_grad=True)
    rows: list[Tensor] = []
    for sample in x:
        units = []
        for w, u, b in zip(cell.input.weight, cell.recurrent, cell.input.bias, strict=True):
            h, seen = torch.zeros(()), []
            for now in sample:
                h = torch.clamp(torch.dot(w, now) + u * h + b, min=0)
                seen.append(h)
            units.append(torch.stack(seen))
        rows.append(torch.stack(units, -1))
    expected, made = torch.stack(rows), sequence(cell, x)
    assert 0.2 < (expected > 0).double().mean() < 0.95
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-13)
    out, variables = torch.randn(2, 7, 5), [x, *cell.parameters()]
    of_loop = torch.autograd.grad((expected * out).sum(), variables)
    for gradient, reference in zip(torch.autograd.grad((made * out).sum(), variables), of_loop, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("growth", [2.0, 5.0])
def test_over_a_whole_sequence_a_unit_grows_no_more_than_it_may(growth: float) -> None:
    """Whatever the optimiser made of u: at the bound an active unit holds γ times what it began with after T steps."""
    cell = IndependentCell(1, 4, 50, growth)
    with torch.no_grad():
        cell.input.weight.zero_()
        cell.input.bias.zero_()
        cell.recurrent.copy_(torch.tensor([0.0, 1.0, growth ** (1 / 50), 7.0]))
    after = sequence(cell, torch.zeros(1, 50, 1), {"hidden": torch.ones(1, 4)})[0, -1]
    torch.testing.assert_close(after, torch.tensor([0.0, 1.0, growth, growth]))


def test_a_weight_beyond_its_bound_learns_only_what_leads_back() -> None:
    cell = IndependentCell(1, 6, 1, 2.0)  # the bound is 2
    with torch.no_grad():
        cell.recurrent.copy_(torch.tensor([1.0, 1.0, 3.0, 3.0, -3.0, -3.0]))
    bounded = cell.weights()["recurrent"]
    assert bounded.tolist() == [1.0, 1.0, 2.0, 2.0, -2.0, -2.0]
    given = torch.tensor([5.0, -5.0, 5.0, -5.0, 5.0, -5.0])  # a step goes against it
    (gradient,) = torch.autograd.grad(bounded, cell.recurrent, given)
    assert gradient.tolist() == [5.0, -5.0, 5.0, 0.0, 0.0, -5.0]


def test_a_weight_driven_to_its_bound_comes_back_when_the_gradient_turns() -> None:
    cell = IndependentCell(1, 1, 10, 2.0)
    optimiser = torch.optim.Adam([cell.recurrent], lr=0.01)

    def pushed(direction: float, steps: int) -> float:
        for _ in range(steps):
            optimiser.zero_grad()
            (-direction * cell.weights()["recurrent"]).sum().backward()
            optimiser.step()
        return cell.weights()["recurrent"].item()

    assert pushed(1.0, 300) == pytest.approx(2**0.1)
    assert pushed(-1.0, 60) < 1.0


def test_recurrent_weights_start_as_the_paper_has_them() -> None:
    """Uniform up to the bound; with long memory those of the last layer, both directions of it, from its inverse."""
    bound = 2 ** (1 / 20)
    task = Adding(length=20)
    for long_memory in (False, True):
        model = indrnn(task, hidden=2000, layers=2, bidirectional=True, long_memory=long_memory)
        for depth, layer in enumerate(model.stack.placed):
            lowest = 1 / bound if long_memory and depth == 1 else 0.0
            for placed in layer:
                start = placed.recurrence.weights()["recurrent"].detach()
                assert lowest <= start.min() < lowest + 0.01 and bound - 0.01 < start.max() <= bound
                assert start.mean().item() == pytest.approx((lowest + bound) / 2, abs=0.04)


def test_the_bound_follows_the_length_of_the_tasks_sequences() -> None:
    """Temporal order draws lengths from T to 11 T / 10; the longest counts. A length of one's own overrides it."""
    for task, length in ((Adding(length=33), 33), (TemporalOrder(length=50), 55)):
        (placed,) = indrnn(task, hidden=4).stack.placed[0]
        with torch.no_grad():
            for parameter in placed.recurrence.parameters():
                parameter.fill_(9.0)
        assert placed.recurrence.weights()["recurrent"].tolist() == [2 ** (1 / length)] * 4
    (placed,) = indrnn(Adding(length=33), hidden=4, length=5).stack.placed[0]
    assert placed.recurrence.weights()["recurrent"].max() <= 2**0.2
    with pytest.raises(ValueError, match="length must be at least 1, not 0"):
        indrnn(Adding(length=33), length=0)
    with pytest.raises(ValueError, match=r"growth must be at least 1, not 0\.5"):
        indrnn(Adding(length=33), growth=0.5)


def test_a_decoder_grows_no_more_than_it_may_over_a_target_longer_than_its_source() -> None:
    task = Duplicate(symbols=2, shortest=1, longest=20)
    decoder = seq2seq(task, *[partial(indrnn, hidden=4)] * 2).decoder.placed[0][0].recurrence
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.fill_(9.0)
    # two copies of 20 symbols and the end
    torch.testing.assert_close(decoder.weights()["recurrent"] ** 41, torch.full((4,), 2.0))


def test_the_network_is_that_of_torchrecurrent() -> None:
    peer = pytest.importorskip("torchrecurrent")
    cell = IndependentCell(3, 5, 7, 2.0)
    reference = peer.IndRNNCell(3, 5, nonlinearity="relu")
    with torch.no_grad():
        reference.weight_ih.copy_(cell.input.weight)
        reference.vector_u.copy_(cell.recurrent)
        reference.bias_ih.copy_(cell.input.bias)
        reference.bias_hh.zero_()
    x = torch.randn(2, 7, 3)
    hidden, rows = torch.zeros(2, 5), []
    for now in x.unbind(1):
        hidden = reference(now, hidden)
        rows.append(hidden)
    torch.testing.assert_close(sequence(cell, x), torch.stack(rows, 1), rtol=0, atol=1e-13)
