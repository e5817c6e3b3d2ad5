"""S4D: convolution against recurrence, kernel and discretisations against closed forms, HiPPO's eigenvalues."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from draws import check_gaussian, check_uniform
from retrograde.core.recurrence import sequence, unroll
from retrograde.layers.residual import ResidualModel
from retrograde.models.s4d import DiagonalStateSpace, Discretisation, Initialisation, frequencies, s4d
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")

TASK = TemporalOrder(length=10)
DISCRETISATIONS: list[Discretisation] = ["zoh", "bilinear"]
INITIALISATIONS: list[Initialisation] = ["lin", "inv", "legs"]


def system(discretisation: Discretisation = "zoh", initialisation: Initialisation = "lin") -> DiagonalStateSpace:
    """Three channels of six states, away from the start."""
    made = DiagonalStateSpace(3, 6, initialisation, discretisation, 0.01, 0.3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def numbers(pairs: Tensor) -> Tensor:
    return torch.complex(pairs[..., 0], pairs[..., 1])


def discrete(cell: DiagonalStateSpace, discretisation: Discretisation) -> tuple[Tensor, Tensor]:
    """Ā and B̄ as the paper writes them."""
    step = torch.exp(cell.log_timescale)[:, None]
    a, b = torch.complex(-torch.exp(cell.log_decay), cell.frequency), numbers(cell.input)
    if discretisation == "zoh":
        return torch.exp(step * a), (torch.exp(step * a) - 1) / (step * a) * (step * b)
    return (1 + step * a / 2) / (1 - step * a / 2), step * b / (1 - step * a / 2)


@pytest.mark.parametrize("begun", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize(
    ("discretisation", "initialisation"), list(itertools.product(DISCRETISATIONS, INITIALISATIONS))
)
def test_the_convolution_is_the_recurrence_in_values_and_gradients(
    discretisation: Discretisation, initialisation: Initialisation, begun: bool
) -> None:
    cell = system(discretisation, initialisation)
    inputs, initial = torch.randn(2, 19, 3, requires_grad=True), torch.randn(2, 3, 3, 2, requires_grad=True)
    start = {"state": initial} if begun else None
    made = sequence(cell, inputs, start)
    states = unroll(cell, inputs, initial=start)["state"][:, 1:]
    expected = cell.read(cell.weights(), inputs, {"state": states})
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    of, direction = [inputs, *cell.parameters()] + [initial] * begun, torch.randn_like(made)
    ours, theirs = (torch.autograd.grad((value * direction).sum(), of) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("discretisation", DISCRETISATIONS)
def test_an_impulse_reads_out_the_kernel_in_closed_form(discretisation: Discretisation) -> None:
    """K_t = 2 Re Σ_n C_n B̄_n Ā_n^t, with Python's powers, and D on top of it at time 0."""
    cell = system(discretisation)
    impulse = torch.zeros(1, 50, 3)
    impulse[:, 0] = 1
    made = sequence(cell, impulse)[0]
    decay, drive = (part.tolist() for part in discrete(cell, discretisation))
    read, skip = numbers(cell.output_weight).tolist(), cell.skip.tolist()
    for channel, t in itertools.product(range(3), range(50)):
        terms = (read[channel][n] * drive[channel][n] * decay[channel][n] ** t for n in range(3))
        expected = 2 * sum(terms).real + (skip[channel] if t == 0 else 0.0)
        assert made[t, channel].item() == pytest.approx(expected, abs=1e-12)


def test_zero_order_hold_solves_the_equation_for_a_constant_input() -> None:
    """(s, u)' = (A s + B u, 0) over Δ is the exponential of a matrix."""
    cell = system("zoh")
    decay, drive = cell.discrete(cell.weights())
    for channel, n in itertools.product(range(3), range(3)):
        matrix = torch.zeros(2, 2, dtype=torch.complex128)
        matrix[0, 0] = torch.complex(-torch.exp(cell.log_decay[channel, n]), cell.frequency[channel, n])
        matrix[0, 1] = numbers(cell.input)[channel, n]
        flow = torch.linalg.matrix_exp(matrix * torch.exp(cell.log_timescale[channel]))
        torch.testing.assert_close(decay[channel, n], flow[0, 0])
        torch.testing.assert_close(drive[channel, n], flow[0, 1])


def test_bilinear_is_the_trapezoidal_rule() -> None:
    """(s_t - s_{t-1}) / Δ = A (s_t + s_{t-1}) / 2 + B u_t."""
    cell = system("bilinear")
    before, u = torch.randn(1, 3, 3, 2), torch.randn(1, 3)
    after = numbers(cell.step(cell.weights(), u, {"state": before})["state"])
    step = torch.exp(cell.log_timescale)[:, None]
    a = torch.complex(-torch.exp(cell.log_decay), cell.frequency)
    slope = a * (after + numbers(before)) / 2 + numbers(cell.input) * u[..., None]
    torch.testing.assert_close((after - numbers(before)) / step, slope)


@pytest.mark.parametrize("discretisation", DISCRETISATIONS)
def test_the_model_computes_the_papers_equations_in_values_and_gradients(discretisation: Discretisation) -> None:
    model = s4d(TASK, hidden=4, layers=2, state=6, discretisation=discretisation)
    batch = TASK.sample(2, torch.Generator().manual_seed(0))
    made = model(batch)
    expected = torch.stack([outputs(model, tokens, discretisation) for tokens in batch.inputs.tolist()])
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    parameters, direction = list(model.parameters()), torch.randn_like(made)
    ours, theirs = (torch.autograd.grad((value * direction).sum(), parameters) for value in (made, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def outputs(model: ResidualModel, tokens: list[int], discretisation: Discretisation) -> Tensor:
    """Of one sample, time by time, as a recurrence of complex numbers."""
    stream = [model.project.weight[:, token] + model.project.bias for token in tokens]
    for block in model.chain:
        weights = dict(block.named_parameters())
        assert isinstance(block.recurrence, DiagonalStateSpace)
        decay, drive = discrete(block.recurrence, discretisation)
        state = torch.zeros_like(decay)
        after = []
        for x in stream:
            deviation = x - x.mean()
            u = deviation / (deviation.square().mean() + 1e-5).sqrt() * weights["norm.weight"] + weights["norm.bias"]
            state = decay * state + drive * u[:, None]
            y = 2 * (numbers(weights["recurrence.output_weight"]) * state).sum(-1).real + weights["recurrence.skip"] * u
            v = y * (1 + torch.erf(y / math.sqrt(2))) / 2
            value, gate = (weights["mix.weight"] @ v + weights["mix.bias"]).chunk(2)
            after.append(x + value / (1 + torch.exp(-gate)))
        stream = after
    return torch.stack([model.readout(model.norm(x)) for x in stream])


def test_a_step_serves_two_sets_of_weights_at_once() -> None:
    one, two = system(), system()
    x = torch.randn(2, 5, 3)
    state = {name: torch.randn(2, 5, *shape) for name, shape in one.components.items()}
    both = {name: torch.stack([weight, two.weights()[name]]) for name, weight in one.weights().items()}
    after = one.step(both, x, state)
    read = one.read(both, x, after)
    for place, alone in enumerate((one, two)):
        own = alone.step(alone.weights(), x[place], {name: value[place] for name, value in state.items()})
        for name, value in own.items():
            torch.testing.assert_close(after[name][place], value)
        torch.testing.assert_close(read[place], alone.read(alone.weights(), x[place], own))


def test_legs_has_the_eigenvalues_of_the_normal_part_of_hippo() -> None:
    """A + P Pᵀ from HiPPO-LegS as it is defined; real parts -1/2, and the imaginary ones in conjugate pairs."""
    size = 16
    hippo = torch.zeros(size, size)
    for n, k in itertools.product(range(size), range(size)):
        hippo[n, k] = -math.sqrt((2 * n + 1) * (2 * k + 1)) if n > k else -(n + 1.0) if n == k else 0.0
    low_rank = torch.tensor([math.sqrt(n + 0.5) for n in range(size)])
    eigenvalues = torch.linalg.eigvals(hippo + torch.outer(low_rank, low_rank))
    torch.testing.assert_close(eigenvalues.real, torch.full((size,), -0.5))
    above = eigenvalues.imag[eigenvalues.imag > 0].sort().values
    torch.testing.assert_close(frequencies(size, "legs").sort().values, above)


def test_inv_and_lin_by_hand_and_inv_as_the_limit_of_legs() -> None:
    """For N = 4: 4/π (4/(2n+1) - 1); and the n-th of legs nears it as N² / (π (2n + 1)) grows."""
    torch.testing.assert_close(frequencies(4, "lin"), torch.tensor([0.0, math.pi]))
    torch.testing.assert_close(frequencies(4, "inv"), torch.tensor([12 / math.pi, 4 / (3 * math.pi)]))
    apart = [
        (frequencies(size, "legs")[:3] / frequencies(size, "inv")[:3] - 1).abs().max().item() for size in (16, 64, 256)
    ]
    assert apart[0] > apart[1] > apart[2]
    assert apart[2] < 0.02


def test_time_steps_begin_within_their_bounds() -> None:
    steps = DiagonalStateSpace(2000, 2, "lin", "zoh", 0.001, 0.1).log_timescale.exp()
    assert 0.001 <= steps.min() < 0.0011 and 0.09 < steps.max() <= 0.1
    assert steps.median().item() == pytest.approx(0.01, rel=0.2)  # the middle in log-space


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"state": 7}, "state must be even, .* not 7"),
        ({"state": 0}, "at least 2, not 0"),
        ({"dt_min": 0.2}, "0 < dt_min ≤ dt_max, not dt_min 0.2 and dt_max 0.1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        s4d(TASK, hidden=8, **settings)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("initialisation", INITIALISATIONS)
def test_weights_start_as_published(initialisation: Initialisation) -> None:
    """Re A = -1/2 and B = 1 everywhere; each part of C with variance 1/2, D with 1; Δ log-uniform."""
    cell = DiagonalStateSpace(2000, 8, initialisation, "zoh", 0.001, 0.1)
    timescale, continuous = cell.continuous(cell.weights())
    torch.testing.assert_close(continuous.real, torch.full((2000, 4), -0.5))
    torch.testing.assert_close(continuous.imag, frequencies(8, initialisation).expand(2000, 4))
    assert torch.equal(numbers(cell.input), torch.ones(2000, 4, dtype=torch.complex128))
    check_gaussian(cell.output_weight, 1 / 2)
    check_gaussian(cell.skip, 1.0)
    check_uniform(timescale.log(), math.log(0.001), math.log(0.1))
