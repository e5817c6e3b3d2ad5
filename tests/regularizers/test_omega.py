import pytest
import torch

from retrograde.core.records import Course
from retrograde.core.snapshot import gradient_flow
from retrograde.models.elman import elman
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.lstm import lstm
from retrograde.models.retnet import retnet
from retrograde.models.transformer import transformer
from retrograde.probes.omega import ratios
from retrograde.regularizers.omega import Omega, omega
from retrograde.tasks.adding import Adding

TASK = Adding(length=7)


def drawn(samples: int = 3):
    return TASK.sample(samples, torch.Generator().manual_seed(1)).to("cpu", torch.float64)


def course_of(model: torch.nn.Module) -> Course:
    (course,) = gradient_flow(model, TASK, drawn()).courses.values()
    return course


def test_the_gradient_is_that_of_the_papers_formula_for_a_tanh_network() -> None:
    """Ω_k with the error g and the state before held: J = diag(1 - h'²) U, where h' = tanh(W x + b + U h + c)."""
    torch.manual_seed(0)
    model = elman(TASK, hidden=4).double()
    course = course_of(model)
    (got,) = torch.autograd.grad(omega(course).sum(), [course.recurrence.weights()["recurrent"]])
    weights = {name: value.detach().clone() for name, value in course.recurrence.weights().items()}
    U = weights["recurrent"].requires_grad_()
    g = course.total["hidden"].value()
    expected = torch.zeros((), dtype=torch.float64)
    for b in range(len(g)):
        for t in range(7):
            h, x, error = course.states["hidden"][b, t], course.inputs[b, t], g[b, t + 1]
            new = torch.tanh(weights["input"] @ x + weights["input_bias"] + U @ h + weights["recurrent_bias"])
            passing = U.T @ ((1 - new**2) * error)
            expected = expected + (passing.norm() / error.norm() - 1) ** 2
    torch.testing.assert_close(got, torch.autograd.grad(expected / 7, U)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [elman, lstm])
def test_its_value_is_what_the_probe_reads(make) -> None:
    torch.manual_seed(0)
    course = course_of(make(TASK, hidden=4).double())
    ratio, _, counts = ratios(course)
    torch.testing.assert_close(omega(course), (10**ratio - 1).square().where(counts, 0.0).sum(1) / counts.sum(1))


def test_the_gradient_is_a_central_difference_with_states_and_errors_held() -> None:
    torch.manual_seed(0)
    course = course_of(lstm(TASK, hidden=3).double())
    weight = course.recurrence.weights()["recurrent"]
    (got,) = torch.autograd.grad(omega(course).sum(), [weight])
    direction, values = torch.randn_like(weight), []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * 1e-6 * direction)
        values.append(omega(course).sum().item())
        with torch.no_grad():
            weight.sub_(sign * 1e-6 * direction)
    assert float((got * direction).sum()) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)


def test_an_error_that_vanishes_below_the_format_still_counts() -> None:
    """Steps that keep a share of 1e-8: nine of them leave float32 behind, and each is missed as much as the last."""
    model = elman(Adding(length=9), hidden=2)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1e-8 if value.ndim == 2 and value.shape == (2, 2) else 0.5)
    batch = Adding(length=9).sample(2, torch.Generator().manual_seed(0))
    (course,) = gradient_flow(model, Adding(length=9), batch).courses.values()
    assert omega(course).tolist() == pytest.approx([1.0, 1.0], abs=1e-3)


def test_minimising_it_brings_the_ratio_to_one() -> None:
    torch.manual_seed(0)
    model = elman(TASK, hidden=6).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    penalty = Omega(weight=1.0)
    first = penalty(model, TASK, drawn(), 1).item()
    for step in range(60):
        optimizer.zero_grad()
        penalty(model, TASK, drawn(), step).backward()
        optimizer.step()
    assert penalty(model, TASK, drawn(), 1).item() < 0.05 * first


def test_an_orthogonal_linear_step_costs_nothing() -> None:
    model = linear_rnn(TASK, hidden=3).double()
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.weights()["recurrent"].copy_(torch.eye(3).roll(1, 0))
    assert omega(course_of(model)).tolist() == pytest.approx([0.0] * 3, abs=1e-24)


def test_attention_has_nothing_to_keep() -> None:
    with pytest.raises(ValueError, match="regularizer=omega keeps the error in a recurrence, and Transformer has none"):
        Omega()(transformer(TASK, 8, 1, 2, 8).double(), TASK, drawn(), 1)


def test_only_the_weights_of_the_recurrence_feel_it() -> None:
    torch.manual_seed(0)
    model = elman(TASK, hidden=4).double()
    Omega()(model, TASK, drawn(), 1).backward()
    assert model.readout.weight.grad is None
    assert all(p.grad is not None for p in model.stack.parameters())


def test_a_step_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="this model's steps have none that learn"):
        Omega()(retnet(TASK, hidden=4, heads=1, layers=1).double(), TASK, drawn(), 1)
