"""Chrono initialisation: the law of the biases, the time constants they mean, and an ordinary LSTM after the start."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from retrograde.core.records import Batch
from retrograde.models.lstm_chrono import lstm_chrono
from retrograde.models.seq2seq import seq2seq
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying
from retrograde.tasks.duplicate import Duplicate

pytestmark = pytest.mark.usefixtures("float64")


def biases(hidden: int, t_max: int) -> Tensor:
    """Gate by gate: input, forget, candidate, output; as they act, the sum of both of torch's."""
    weights = lstm_chrono(Adding(length=4), hidden=hidden, t_max=t_max).stack.placed[0][0].recurrence.weights()
    return (weights["input_bias"] + weights["recurrent_bias"]).detach().view(4, hidden)


def test_the_exponential_of_forget_biases_is_uniform_from_1_to_one_less_than_t_max() -> None:
    """By the largest gap between both distributions: at 400 draws above 0.081 once in a hundred (Kolmogorov)."""
    drawn = biases(400, 100)[1].exp()
    assert drawn.min() >= 1 and drawn.max() <= 99
    uniform = (drawn.sort().values - 1) / 98
    assert (uniform - torch.linspace(0, 1, 400)).abs().max() < 0.081


def test_input_biases_are_the_negative_of_forget_biases() -> None:
    input_gate, forget_gate, candidate, output_gate = biases(50, 30)
    assert torch.equal(input_gate, -forget_gate)
    bound = 2 * 50**-0.5  # the sum of two of torch's, each within 1/√hidden
    assert torch.stack([candidate, output_gate]).abs().max() <= bound


def test_cells_left_alone_forget_over_two_to_t_max_steps() -> None:
    """Measured on the cell itself: what is left after one step without input and hidden state."""
    model = lstm_chrono(Adding(length=4), hidden=500, t_max=40)
    cell = model.stack.placed[0][0].recurrence
    weights = dict(cell.weights())
    weights["recurrent"] = torch.zeros_like(weights["recurrent"])
    held = torch.full((1, 500), 1e12)  # what the input gate lets in is nothing beside it
    kept = cell.step(weights, torch.zeros(1, 2), {"hidden": torch.zeros(1, 500), "cell": held})["cell"] / held
    constants = 1 / (1 - kept)
    assert 2 - 1e-6 <= constants.min() < 4 and 36 < constants.max() <= 40 + 1e-6


def test_t_max_comes_from_the_longest_lag_of_the_task() -> None:
    """In copying every symbol is kept for T + K positions, here 7, so T_max is 8; for adding it is the length."""
    for task, t_max in ((Copying(length=4, symbols=3, recall=3), 8), (Adding(length=12), 12)):
        drawn = lstm_chrono(task, hidden=400).stack.placed[0][0].recurrence.weights()["input_bias"][400:800].exp()
        assert t_max - 1.1 < drawn.max() <= t_max - 1


def test_of_an_encoder_decoder_each_side_bridges_its_part_of_a_lag() -> None:
    """The first of 12 symbols lies 11 before the end; its second copy is due at 12, 13 after the beginning at -1."""
    task = Duplicate(symbols=3, shortest=12, longest=12)
    first = task.needs(task.sample(1, torch.Generator().manual_seed(0)))[:2].tolist()
    assert first == [[0, 0, 0], [0, 0, 12]]
    assert max(lag for lag, _ in task.card.lags) == 24
    model = seq2seq(task, *[partial(lstm_chrono, hidden=400)] * 2)
    for stack, longest in ((model.encoder, 11), (model.decoder, 24)):
        drawn = stack.placed[0][0].recurrence.weights()["input_bias"][400:800].exp()
        assert longest - 0.2 < drawn.max() <= longest  # T_max - 1


def test_the_network_is_torch_nn_lstm_in_values_and_gradients() -> None:
    """Stepped and fused alike; the reference has all biases in one place."""
    task = Adding(length=12)
    model = lstm_chrono(task, hidden=5)
    batch = task.sample(3, torch.Generator().manual_seed(0)).to("cpu", torch.float64)
    parameters = list(model.stack.parameters())
    reference = torch.nn.LSTM(2, 5, batch_first=True)
    with torch.no_grad():
        for weight, given in zip(
            reference.parameters(),
            (parameters[0], parameters[1], parameters[2] + parameters[3], torch.zeros(20)),
            strict=True,
        ):
            weight.copy_(given)
    expected = model.readout(reference(batch.inputs)[0])
    out = torch.randn_like(expected)
    of_torch = torch.autograd.grad((expected * out).sum(), list(reference.parameters()))
    for made in (model(batch), model.trace(batch).outputs):
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-13)
        gradients = torch.autograd.grad((made * out).sum(), parameters)
        for gradient, other in zip(gradients, of_torch, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-12)


@dataclass(frozen=True)
class Memoryless(Adding):
    """A task that says of itself that nothing has to be remembered."""

    def lags(self, batch: Batch) -> Tensor:
        return torch.zeros(3, dtype=torch.int64)

    def describe(self) -> Mapping[str, Any]:
        return super().describe()


def test_a_range_of_less_than_two_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="t_max must be at least 2, not 1"):
        lstm_chrono(Adding(length=4), t_max=1)
    with pytest.raises(ValueError, match="set t_max"):
        lstm_chrono(Memoryless(length=4))
    lstm_chrono(Memoryless(length=4), t_max=20)
