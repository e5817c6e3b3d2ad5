"""Any torch module between embedding and read-out: as it would compute by itself, and refused where it does not fit."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retrograde.core.snapshot import gradient_flow
from retrograde.models.module import Module
from retrograde.tasks.adding import Adding
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")

TASK = TemporalOrder(length=10)


class Halved(nn.Module):
    """Gives half of its width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x)


class Named(nn.Module):
    """Gives no tensor."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}


def test_a_gru_computes_as_by_itself_in_values_and_gradients() -> None:
    model = Module(TASK, "torch.nn.GRU", hidden=5)
    batch = TASK.sample(3, torch.Generator().manual_seed(0))
    cell = nn.GRUCell(5, 5)
    for theirs, ours in zip(cell.parameters(), model.module.parameters(), strict=True):
        theirs.data.copy_(ours)
    inputs = model.project.weight.T[batch.inputs] + model.project.bias
    hidden, made = torch.zeros(3, 5), []
    for x in inputs.unbind(1):
        hidden = cell(x, hidden)
        made.append(hidden)
    expected = model.readout(torch.stack(made, 1))
    torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-9)
    ours, theirs = (
        torch.autograd.grad(outputs.square().sum(), list(parameters))
        for outputs, parameters in ((model(batch), model.module.parameters()), (expected, cell.parameters()))
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_gradients_over_time_are_shown_at_inputs_and_outputs() -> None:
    model = Module(TASK, "torch.nn.GRU", hidden=5)
    flow = gradient_flow(model, TASK, TASK.sample(3, torch.Generator().manual_seed(0)))
    assert list(flow.gradients) == ["0.forward.activation", "1.forward.activation"]
    inputs, outputs = (gradient.total.value() for gradient in flow.gradients.values())
    scored = flow.losses != 0
    assert outputs[scored].any() and not outputs[~scored].any()  # at the outputs the read-out alone is felt
    assert inputs[:, 0].any()  # and at the inputs what lies later


def test_a_module_that_looks_ahead_is_given_each_sample_without_its_padding() -> None:
    task = Adding(length=20, markers="first_ten")
    arguments = {"d_model": 4, "nhead": 2, "dim_feedforward": 8, "batch_first": True}
    model = Module(task, "torch.nn.TransformerEncoderLayer", arguments, causal=False, hidden=4).eval()
    batch = task.sample(4, torch.Generator().manual_seed(0))
    batch = batch.to("cpu", torch.float64)
    assert len(batch.lengths.unique()) > 1
    made = model(batch)
    for sample, length in enumerate(batch.lengths.tolist()):
        alone = model.readout(model.module(model.project(batch.inputs[sample : sample + 1, :length])))
        torch.testing.assert_close(made[sample, :length], alone[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "GRU"}, "model.target must be a dotted path such as torch.nn.GRU, not 'GRU'"),
        ({"target": "nowhere.GRU"}, "'nowhere.GRU' cannot be imported: No module named 'nowhere'"),
        ({"target": "torch.nn.GRUU"}, "'torch.nn' has no 'GRUU'; did you mean 'GRU'"),
        ({"target": "torch.relu"}, "must name a subclass of torch.nn.Module; 'torch.relu' is none"),
        ({"target": "torch.Tensor"}, "must name a subclass of torch.nn.Module; 'torch.Tensor' is none"),
        ({"target": "torch.nn.Linear"}, "'torch.nn.Linear' cannot be built of input_size=64, .*model.arguments is"),
        ({"target": "torch.nn.Linear", "arguments": {}}, "'torch.nn.Linear' cannot be built of nothing: .*missing"),
        (
            {"target": "torch.nn.LSTM", "arguments": {"input_size": 64, "hidden_size": 64}},
            "'torch.nn.LSTM' takes time before batch: add batch_first=true to model.arguments",
        ),
        (
            {"target": "torch.nn.TransformerEncoderLayer", "arguments": {"d_model": 64, "nhead": 2}},
            "takes time before batch",
        ),
    ],
)
def test_a_module_that_cannot_be_built_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        Module(TASK, **settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        (
            f"{__name__}.Halved",
            {"width": 4},
            r"must give \(batch, time, width\) \(2, 1., 4\) as it came, not \(2, 1., 2\)",
        ),
        (f"{__name__}.Named", {}, r"must give \(batch, time, width\) \(2, 1., 4\) as it came, not dict"),
    ],
)
def test_a_module_of_another_shape_is_refused(target: str, arguments: dict[str, Any], message: str) -> None:
    model = Module(TASK, target, arguments, hidden=4)
    with pytest.raises(ValueError, match=message):
        model(TASK.sample(2, torch.Generator().manual_seed(0)))
