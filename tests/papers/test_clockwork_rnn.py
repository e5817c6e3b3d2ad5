"""The clockwork network against a loop over its modules, torch.nn.RNN for a single one, and what rest means."""

import math

import pytest
import torch
from torch import Tensor

from retrograde.core.recurrence import sequence, unroll
from retrograde.core.snapshot import gradient_flow
from retrograde.models.clockwork_rnn import ClockworkCell, clockwork_rnn
from retrograde.tasks.adding import Adding
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")


def test_four_steps_of_two_modules_by_hand() -> None:
    """Unit a runs at every time and reads itself and b, unit b at even times and reads itself alone."""
    cell = ClockworkCell(1, 2, 2)
    with torch.no_grad():
        cell.input.copy_(torch.tensor([[1.0], [2.0]]))
        cell.recurrent.copy_(torch.tensor([[0.5, -0.7], [9.0, 0.3]]))  # the 9 is never read
        cell.bias.copy_(torch.tensor([0.1, 0.2]))
    x = [0.3, -0.4, 0.6, 0.9]
    a, b, expected = 0.0, 0.0, []
    for t, now in enumerate(x):
        a, b = (
            math.tanh(now + 0.5 * a - 0.7 * b + 0.1),
            math.tanh(2 * now + 0.3 * b + 0.2) if t % 2 == 0 else b,
        )
        expected.append([a, b])
    made = sequence(cell, torch.tensor(x)[None, :, None])
    torch.testing.assert_close(made[0], torch.tensor(expected), rtol=0, atol=1e-14)


def test_the_network_is_the_loop_over_its_modules_in_values_and_gradients() -> None:
    """Three modules with periods 1, 2, 4; each block of the matrix by itself; only what runs is computed."""
    cell = ClockworkCell(3, 6, 3)
    with torch.no_grad():
        cell.recurrent.mul_(8)
        cell.bias.normal_()
    x = torch.randn(2, 11, 3, requires_grad=True)
    parts = [slice(2 * module, 2 * module + 2) for module in range(3)]
    rows: list[Tensor] = []
    for sample in x:
        h = [torch.zeros(2)] * 3
        for t, now in enumerate(sample):
            before = list(h)
            for i, period in enumerate((1, 2, 4)):
                if t % period == 0:
                    read = [cell.recurrent[parts[i], parts[j]] @ before[j] for j in range(i, 3)]
                    driven = cell.input[parts[i]] @ now + cell.bias[parts[i]]
                    h[i] = torch.tanh(driven + torch.stack(read).sum(0))
            rows.append(torch.cat(h))
    expected, made = torch.stack(rows).view(2, 11, 6), sequence(cell, x)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(unroll(cell, x)["hidden"][:, 1:], expected, rtol=0, atol=1e-13)
    out, variables = torch.randn(2, 11, 6), [x, *cell.parameters()]
    of_loop = torch.autograd.grad((expected * out).sum(), variables)
    for gradient, reference in zip(torch.autograd.grad((made * out).sum(), variables), of_loop, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-11, atol=1e-12)


def test_a_single_module_is_torch_nn_rnn() -> None:
    cell = ClockworkCell(3, 5, 1)
    reference = torch.nn.RNN(3, 5, batch_first=True)
    given = (cell.input, cell.recurrent, cell.bias, torch.zeros(5))
    with torch.no_grad():
        for weight, value in zip(reference.parameters(), given, strict=True):
            weight.copy_(value)
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(sequence(cell, x), reference(x)[0], rtol=0, atol=1e-13)


def test_a_module_reads_its_own_and_slower_ones_alone() -> None:
    cell = ClockworkCell(2, 8, 4)
    recurrent = cell.weights()["recurrent"]
    blocks = recurrent.detach().view(4, 2, 4, 2).abs().amax((1, 3))
    assert torch.equal(blocks > 0, torch.ones(4, 4, dtype=torch.bool).triu())


def test_at_rest_a_module_keeps_its_state_and_its_gradient() -> None:
    """The slowest of four runs at 0 and 8 of eleven times: in between state and gradient stand still.

    The loss is read at the last time, and the slower modules do not write to themselves but at their own ticks; what
    the faster ones read of them is cut, so that the slowest has its own path alone.
    """
    task = Adding(length=11)
    model = clockwork_rnn(task, hidden=4, modules=4)
    cell = model.stack.placed[0][0].recurrence
    with torch.no_grad():
        for parameter in cell.parameters():
            if parameter.shape == (4, 4):
                parameter.copy_(torch.diag(parameter.diagonal()))
    batch = task.sample(3, torch.Generator().manual_seed(0))
    key = "0.forward.hidden"
    state = model.trace(batch).states[key].detach()[:, :, 3]  # from t = -1
    total = gradient_flow(model, task, batch).gradients[key].total.value()[:, :, 3]
    for start, stop in ((1, 9), (9, 12)):
        for values in (state, total):
            assert torch.equal(values[:, start:stop], values[:, start : start + 1].expand(-1, stop - start))
    assert (state[:, 8] != state[:, 9]).all() and (total[:, 8] != total[:, 9]).all()


def test_a_backward_direction_starts_its_clocks_where_it_starts_to_read() -> None:
    """At each sample's own end: read forward, the reversed sample gives the reversed states."""
    task = Adding(length=20, markers="first_ten")
    batch = task.sample(4, torch.Generator().manual_seed(0)).to("cpu", torch.float64)
    assert len(set(batch.lengths.tolist())) > 1
    both = clockwork_rnn(task, hidden=8, bidirectional=True)
    cell = both.stack.placed[0][1].recurrence
    made = both.trace(batch).states["0.backward.hidden"]
    for sample, length in enumerate(batch.lengths.tolist()):
        reversed_input = batch.inputs[sample : sample + 1, :length].flip(1)
        torch.testing.assert_close(made[sample, :length], sequence(cell, reversed_input)[0].flip(0))


def test_weights_start_as_in_the_paper() -> None:
    """Gaussian, standard deviation 0.1, by thousands of numbers."""
    cell = ClockworkCell(100, 100, 4)
    assert cell.input.std().item() == pytest.approx(0.1, rel=0.03)
    assert cell.recurrent.std().item() == pytest.approx(0.1, rel=0.03)
    assert not cell.bias.any()


def test_units_that_do_not_divide_into_modules_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden must be a multiple of modules: 10 is not one of 4"):
        clockwork_rnn(TemporalOrder(length=10), hidden=10)
