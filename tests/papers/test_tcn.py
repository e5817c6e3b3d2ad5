"""The TCN against sums written out, its receptive field by gradients, and a run that carries only its windows."""

import pytest
import torch
from torch import Tensor

from retrograde.models.tcn import TCN
from retrograde.tasks.adding import Adding
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")


def kernel_of(name: str, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """W_i = g v_i / ‖v‖, (outputs, inputs, kernel), and the bias, of the parameters as torch names them."""
    length, direction = (weights[f"{name}.convolution.parametrizations.weight.original{part}"] for part in (0, 1))
    norm = direction.square().sum((1, 2), keepdim=True).sqrt()
    return length * direction / norm, weights[f"{name}.convolution.bias"]


def convolved(x: list[Tensor], kernel: Tensor, bias: Tensor, dilation: int) -> list[Tensor]:
    """Σ_i W_i x_{t-di} + b; the last tap is the present's, as torch orders them."""
    taps = kernel.shape[2]
    made = []
    for t in range(len(x)):
        total = bias
        for i in range(taps):
            if t - dilation * i >= 0:
                total = total + kernel[:, :, taps - 1 - i] @ x[t - dilation * i]
        made.append(total)
    return made


def outputs(model: TCN, inputs: Tensor) -> Tensor:
    """Of one sample, from the paper's equations: the ReLU behind every block included."""
    x = list(inputs.unbind(0))
    for depth, block in enumerate(model.blocks):
        weights = dict(block.named_parameters())
        first = [a.clamp(min=0) for a in convolved(x, *kernel_of("first", weights), 2**depth)]
        second = [a.clamp(min=0) for a in convolved(first, *kernel_of("second", weights), 2**depth)]
        beside = [weights["residual.weight"] @ a + weights["residual.bias"] for a in x] if depth == 0 else x
        x = [(b + a).clamp(min=0) for b, a in zip(second, beside, strict=True)]
    return torch.stack([model.readout(a) for a in x])


def test_it_computes_the_papers_sums_in_values_and_gradients() -> None:
    task = Adding(length=20)
    model = TCN(task, hidden=5, layers=3, kernel=3)
    batch = task.sample(2, torch.Generator().manual_seed(0))
    made = model(batch)
    expected = torch.stack([outputs(model, inputs.double()) for inputs in batch.inputs])
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    parameters = list(model.parameters())
    direction = torch.randn_like(made)
    ours, theirs = (torch.autograd.grad((value * direction).sum(), parameters) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("kernel", "layers"), [(2, 1), (2, 4), (3, 3), (5, 2)])
def test_an_output_depends_on_exactly_the_inputs_of_the_receptive_field(kernel: int, layers: int) -> None:
    """With units that never fall silent, every input of the 1 + 2 (k - 1) (2^L - 1) has a gradient, and no other."""
    field = 1 + 2 * (kernel - 1) * (2**layers - 1)
    task = Adding(length=field + 7)
    model = TCN(task, hidden=4, layers=layers, kernel=kernel)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.fill_(100.0)
    trace = model.trace(task.sample(1, torch.Generator().manual_seed(0)))
    (gradient,) = torch.autograd.grad(trace.outputs[0, -1].sum(), trace.states["0.forward.activation"])
    assert gradient[0].any(-1).tolist() == 7 * [False] + field * [True]


def test_what_is_carried_from_one_position_to_the_next_is_the_declared_size() -> None:
    """The same outputs from a run that keeps, of each convolution, its last (k - 1) d inputs and nothing else."""
    task = TemporalOrder(length=30)
    model = TCN(task, hidden=4, layers=3, kernel=3)
    batch = task.sample(1, torch.Generator().manual_seed(0))
    kernels = []
    for depth, block in enumerate(model.blocks):
        weights = dict(block.named_parameters())
        kernels.append([(*kernel_of(name, weights), 2**depth) for name in ("first", "second")])
    windows = [[torch.zeros(2 * d, kernel.shape[1]) for kernel, _, d in pair] for pair in kernels]
    assert sum(window.numel() for pair in windows for window in pair) == model.state_size
    made = []
    for token in batch.inputs[0]:
        x = torch.nn.functional.one_hot(token, task.inputs.size).double()
        for depth, block in enumerate(model.blocks):
            value = x
            for at, (kernel, bias, d) in enumerate(kernels[depth]):
                past = torch.cat([windows[depth][at], value[None]])
                windows[depth][at] = past[1:]
                value = (sum(kernel[:, :, 2 - i] @ past[-1 - i * d] for i in range(3)) + bias).clamp(min=0)
            x = value + (block.residual(x).clamp(min=-value) if depth == 0 else x)
        made.append(model.readout(x))
    torch.testing.assert_close(torch.stack(made), model(batch)[0], rtol=0, atol=1e-9)


def test_dropout_acts_in_training_alone() -> None:
    task = TemporalOrder(length=10)
    model = TCN(task, hidden=4, layers=2, dropout=0.5)
    batch = task.sample(2, torch.Generator().manual_seed(0))
    assert not torch.equal(model(batch), model(batch))
    assert torch.equal(model.eval()(batch), model(batch))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": 0}, "kernel must be at least 1, not 0"),
        ({"layers": 0}, "layers must be at least 1, not 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), not 1.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TCN(TemporalOrder(length=10), **settings)
