"""input_gradient against autograd and finite differences of the training form, and its numbers by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from members import built, kinds, stems
from torch import Tensor

from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch, Reading
from retrograde.core.snapshot import snapshot
from retrograde.core.statuses import CENSORED, FINITE, ZERO
from retrograde.layers.embedding import Learned
from retrograde.models.elman import elman
from retrograde.models.linear_attention import linear_attention
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.lstm import lstm
from retrograde.models.rule import rule
from retrograde.probes.input_gradient import InputGradient
from retrograde.tasks.adding import Adding
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")

ALIGNED = [stem for stem in stems("model") if "aligned" in kinds(stem)]


def readings(model: SequenceModel, task: Task, batch: Batch) -> dict[str, Reading]:
    return {reading.name: reading for reading in InputGradient()(snapshot(model, task, batch, 0))}


def drawn(task: Task, count: int = 3) -> Batch:
    return task.sample(count, torch.Generator().manual_seed(1))


def losses(model: SequenceModel, task: Task, batch: Batch) -> Tensor:
    return sample_means(task.loss(model(batch), batch), batch.scored)


@pytest.mark.parametrize("stem", ALIGNED)
def test_norm_and_product_are_those_of_autograd_through_the_training_form(stem: str) -> None:
    task = Adding(length=6)
    model = built(stem, task).eval()
    batch = drawn(task)
    made = readings(model, task, batch)
    if not model.learns:
        assert not made
        return
    read: list[Tensor] = []

    def opened(module: torch.nn.Module, given: object, embedded: Tensor) -> Tensor:
        read.append(embedded.detach().requires_grad_())
        return read[0]

    model.embedding.register_forward_hook(opened)
    loss = losses(model, task, batch).sum()
    (x,) = read
    (gradient,) = torch.autograd.grad(loss, x)
    norm, product = gradient.norm(dim=-1), (gradient * x).sum(-1)
    np.testing.assert_allclose(10 ** made["norm/inputs"].values[0], norm.mean(0).numpy(), rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(10 ** made["norm/inputs"].values[2], norm.median(0)[0].numpy(), rtol=1e-8, atol=1e-14)
    expected = product.detach().mean(0).numpy()
    np.testing.assert_allclose(made["product/inputs"].values[0], expected, rtol=1e-8, atol=1e-14)
    middle = product.detach().median(0)[0].numpy()
    np.testing.assert_allclose(made["product/inputs"].values[2], middle, rtol=1e-8, atol=1e-14)


def test_a_tokens_vector_is_what_the_gradient_is_taken_at() -> None:
    """Central differences, entry by entry, of the vectors that the embedding hands on; they round to 1e-10."""
    task = TemporalOrder(length=10)
    model = elman(task, hidden=4, embedding=lambda space: Learned(space, 5))
    batch = drawn(task, 1)
    made = readings(model, task, batch)["norm/inputs"]
    length = int(batch.lengths[0])
    assert list(made.dims["time"]) == list(range(length))
    for time in (0, 3, length - 1):
        gradient = torch.zeros(5)
        for entry in range(5):
            ends = []
            for sign in (1, -1):
                added = torch.zeros(1, batch.length, 5)
                added[0, time, entry] = sign * 1e-6
                hook = model.embedding.register_forward_hook(lambda *args, added=added: args[2] + added)
                ends.append(losses(model, task, batch).item())
                hook.remove()
            gradient[entry] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(10 ** made.values[0, time], gradient.norm().item(), rtol=1e-6, atol=1e-9)


def test_of_a_linear_model_the_products_add_up_to_what_its_output_is_worth() -> None:
    """y = Σ_t x_t·dy/dx_t + d, so of the squared error the products add up to 2 (y - target) (y - d)."""
    task = Adding(length=8)
    model = linear_rnn(task, hidden=4)
    batch = drawn(task, 1)
    made = readings(model, task, batch)["product/inputs"]
    y, target = model(batch)[0, -1, 0], batch.targets[0, -1, 0]
    expected = 2 * (y - target) * (y - model.readout.bias[0])
    np.testing.assert_allclose(made.values[0].sum(), expected.item(), rtol=1e-10)
    assert (made.values < 0).any() and made.unit == "loss"


def test_positions_beside_the_input_are_no_part_of_it() -> None:
    """dL/dx_t of the two numbers that adding gives at every time, by central differences."""
    task = Adding(length=5)
    model = linear_attention(task, hidden=4, layers=1, heads=2, feedforward=3)
    batch = drawn(task, 1)

    def loss(inputs: Tensor) -> float:
        made = replace(batch, inputs=inputs)
        return sample_means(task.loss(model(made), made), made.scored).item()

    slopes = torch.empty(5, 2)
    for time, column in np.ndindex(5, 2):
        nudge = torch.zeros_like(batch.inputs)
        nudge[0, time, column] = 1e-5
        with torch.no_grad():
            slopes[time, column] = (loss(batch.inputs + nudge) - loss(batch.inputs - nudge)) / 2e-5
    made = readings(model, task, batch)
    np.testing.assert_allclose(10 ** made["norm/inputs"].values[0], slopes.norm(dim=-1), rtol=1e-6)
    np.testing.assert_allclose(made["product/inputs"].values[0], (slopes * batch.inputs[0]).sum(-1), rtol=1e-5)


def test_padding_is_left_out() -> None:
    task = TemporalOrder(length=10)
    batch = replace(drawn(task, 2), lengths=torch.tensor([4, 6]))
    scored = torch.zeros_like(batch.scored)
    scored[0, 3] = scored[1, 5] = True
    model = elman(task, hidden=4)
    made = readings(model, task, replace(batch, scored=scored))["norm/inputs"]
    assert list(made.dims["time"]) == list(range(6))
    alone = readings(model, task, replace(batch, scored=scored).select(torch.tensor([1])))["norm/inputs"]
    np.testing.assert_allclose(made.values[:, 4:], alone.values[:, 4:], rtol=1e-12)


def test_what_no_loss_reads_is_zero() -> None:
    task = Adding(length=8)
    batch = drawn(task)
    scored = torch.zeros_like(batch.scored)
    scored[:, 4] = True
    for reading in readings(linear_rnn(task, hidden=4), task, replace(batch, scored=scored)).values():
        assert reading.status is not None
        assert (reading.status[:, 5:] == ZERO).all()
        assert (reading.status[:, :5] == FINITE).all()


def test_what_the_format_loses_is_censored() -> None:
    """0.1^t over sixty times ends below what float32 holds."""
    task = Adding(length=60)
    model = linear_rnn(task, hidden=4, radius=0.1).float()
    made = readings(model, task, drawn(task).beside(model.readout.weight))
    for reading in made.values():
        assert reading.status is not None
        assert (reading.status[:, :10] == CENSORED).all()
        assert (reading.status[:, 40:] == FINITE).all()
    assert not made["product/inputs"].values[:, :10].any()


def test_an_explosion_is_kept() -> None:
    task = Adding(length=200)
    model = linear_rnn(task, hidden=4, radius=1e3).float()
    made = readings(model, task, drawn(task).beside(model.readout.weight))
    assert not np.isfinite(made["norm/inputs"].values[:, 0]).any()
    assert not np.isfinite(made["product/inputs"].values[0, 0])


def test_a_rule_reads_no_vectors() -> None:
    task = Adding(length=4)
    assert not readings(rule(task), task, drawn(task))


def test_an_lstm_in_both_directions_has_one_gradient_at_each_input() -> None:
    task = Adding(length=6)
    model = lstm(task, hidden=4, layers=2, bidirectional=True)
    batch = drawn(task)
    x = batch.inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses(model, task, replace(batch, inputs=x)).sum(), x)
    made = readings(model, task, batch)["norm/inputs"].values[0]
    np.testing.assert_allclose(10**made, gradient.norm(dim=-1).mean(0).numpy(), rtol=1e-8)
