import math

import pytest
import torch
from members import built

from retrograde.core.records import Batch
from retrograde.core.snapshot import gradient_flow
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.lstm import lstm
from retrograde.models.transformer import transformer
from retrograde.regularizers.flossing import Flossing, exponents
from retrograde.tasks.adding import Adding
from retrograde.tasks.reverse import Reverse

TASK = Adding(length=12)


def drawn(samples: int = 2) -> Batch:
    return TASK.sample(samples, torch.Generator().manual_seed(1)).to("cpu", torch.float64)


def course_of(model: torch.nn.Module):
    (course,) = gradient_flow(model, TASK, drawn()).courses.values()
    return course


def diagonal(values: list[float]) -> torch.nn.Module:
    model = linear_rnn(TASK, hidden=len(values)).double()
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.weights()["recurrent"].copy_(
            torch.diag(torch.tensor(values, dtype=torch.float64))
        )
    return model


def test_a_diagonal_recurrence_spreads_volume_as_its_eigenvalues_say() -> None:
    """All exponents together: the determinant, whatever the frame; along T steps the single ones come near ln|λ|."""
    values = [0.9, -0.5, 0.2]
    found = exponents(course_of(diagonal(values)), 0, 3).detach()
    assert float(found.sum()) == pytest.approx(sum(math.log(abs(value)) for value in values), abs=1e-12)
    assert found.tolist() == sorted(found.tolist(), reverse=True)


def test_the_gradient_is_a_central_difference_through_the_states_too() -> None:
    torch.manual_seed(0)
    model = lstm(TASK, hidden=3).double()
    penalty = Flossing(exponents=4)
    parameters = list(model.stack.parameters())
    got = torch.autograd.grad(penalty(model, TASK, drawn(), 1), parameters)
    for parameter, gradient in zip(parameters, got, strict=True):
        direction, values = torch.randn_like(parameter), []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * 1e-6 * direction)
            values.append(penalty(model, TASK, drawn(), 1).item())
            with torch.no_grad():
                parameter.sub_(sign * 1e-6 * direction)
        expected = (values[0] - values[1]) / 2e-6
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_minimising_it_brings_the_exponents_to_zero() -> None:
    torch.manual_seed(0)
    model = diagonal([0.6, 0.5, 0.4, 0.3])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    penalty = Flossing(exponents=2, every=1)
    for step in range(1, 81):
        optimizer.zero_grad()
        penalty(model, TASK, drawn(), step).backward()
        optimizer.step()
    assert exponents(course_of(model), 0, 2).detach().abs().max() < 0.05


def test_it_acts_on_every_so_many_steps_from_the_first() -> None:
    model = lstm(TASK, hidden=2).double()
    acts = [step for step in range(1, 12) if Flossing(every=5, exponents=1)(model, TASK, drawn(), step) is not None]
    assert acts == [1, 6, 11]


def test_directions_that_die_are_named() -> None:
    model = diagonal([0.5, 0.0])
    with pytest.raises(ValueError, match=r"of 2 directions only 1 survive a step; lower regularizer\.exponents"):
        exponents(course_of(model), 0, 2)


def test_exponents_that_are_no_numbers_are_no_directions_that_die() -> None:
    """What diverges is for training to say, and nothing that fewer exponents would mend."""
    model = diagonal([0.5, 0.2])
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.weights()["recurrent"].fill_(math.nan)
    assert exponents(course_of(model), 0, 2).isnan().all()


def test_a_decoder_that_looks_at_a_memory_is_measured_at_its_own_samples() -> None:
    """Each as alone, with more directions than samples and with as many."""
    task = Reverse(symbols=3, shortest=2, longest=4)
    torch.manual_seed(0)
    model = built("seq2seq_bahdanau", task).double()
    batch = task.sample(2, torch.Generator().manual_seed(0))
    together = gradient_flow(model, task, batch).courses["decoder0.forward"]
    for sample in range(2):
        chosen = batch.select(torch.tensor([sample])).trimmed()
        alone = gradient_flow(model, task, chosen).courses["decoder0.forward"]
        for count in (2, 3):
            torch.testing.assert_close(exponents(together, sample, count), exponents(alone, 0, count))


def test_attention_has_no_exponents() -> None:
    with pytest.raises(ValueError, match="regularizer=flossing is for recurrences, and Transformer has none"):
        Flossing()(transformer(TASK, 8, 1, 2, 8).double(), TASK, drawn(), 1)
