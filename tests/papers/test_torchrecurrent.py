"""Every cell of the package, as a recurrence, against a plain loop over the cell in which each state is a live node."""

import re
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from retrograde.core.choices import Unavailable
from retrograde.core.records import Ledger
from retrograde.core.recurrence import sequence
from retrograde.layers.recurrent import RecurrentStack
from retrograde.models.torchrecurrent import TorchRecurrentCell

package = pytest.importorskip("torchrecurrent")

pytestmark = pytest.mark.usefixtures("float64")

CELLS = [name.removesuffix("Cell") for name in package.__all__ if name.endswith("Cell")]
INPUTS, HIDDEN, LENGTH = 3, 4, 6


@pytest.fixture(params=CELLS)
def cell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def widths(cell: str) -> tuple[int, int]:
    return (HIDDEN if cell == "IntersectionRNN" else INPUTS), HIDDEN


def stack_of(cell: str) -> RecurrentStack:
    """One layer away from its initialisation, which leaves biases at zero."""
    inputs, hidden = widths(cell)
    stack = RecurrentStack(lambda width: TorchRecurrentCell(width, hidden, cell), inputs, 1, False, 0.0)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return stack


def package_cell(cell: str, stack: RecurrentStack) -> Any:
    """The cell as its package makes it, with the stack's parameters."""
    own = getattr(package, f"{cell}Cell")(*widths(cell))
    with torch.no_grad():
        for parameter, value in zip(own.parameters(), stack.parameters(), strict=True):
            parameter.copy_(value)
    return own


def loop(cell: str, own: Any, x: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
    """The outputs, and for every time from -1 on what the cell gives back, flat and in its order."""
    base = sys.modules["torchrecurrent.base"]
    apart = isinstance(own, base.DecoupledSingleStateCellBase | base.DecoupledDoubleStateCellBase)
    zero, before = (torch.zeros(len(x), size, requires_grad=True) for size in (HIDDEN, x.shape[-1]))
    first: list[Tensor] = [zero] if not own.uses_double_state() else [zero, zero.detach().clone().requires_grad_()]
    if cell in ("TGRU", "TLSTM"):  # carry the input before
        first = [zero, before]
    if cell == "tauGRU":
        first = [zero, zero.detach().clone().requires_grad_()]
    state, nodes, outputs = first, [[torch.zeros(len(x), HIDDEN)] * apart + first], []
    for value in x.unbind(1):
        if cell == "tauGRU":
            made = [own(value, *state), state[0].view_as(state[0])]
        else:
            given = tuple(state) if len(state) == 2 else state[0]
            made = [own(value, given)]
            while any(isinstance(part, tuple) for part in made):
                made = [part for whole in made for part in (whole if isinstance(whole, tuple) else (whole,))]
            made = [part.view_as(part) if part is value else part for part in made]
        state = made[apart:]
        nodes.append(made)
        outputs.append(made[0])
    return torch.stack(outputs, 1), nodes


def test_sequence_totals_and_gradients_are_those_of_a_loop_over_the_cell(cell: str) -> None:
    stack = stack_of(cell)
    own = package_cell(cell, stack)
    x = torch.randn(2, LENGTH, widths(cell)[0], requires_grad=True)
    expected, nodes = loop(cell, own, x)
    weights = torch.randn_like(expected) * (torch.arange(LENGTH) % 2 == 1)[:, None]
    torch.testing.assert_close(sequence(stack.placed[0][0].recurrence, x), expected, rtol=0, atol=1e-13)

    ledger = Ledger()
    traced = stack.trace(x, torch.tensor([LENGTH] * 2), ledger)
    torch.testing.assert_close(traced.outputs, expected, rtol=0, atol=1e-13)
    mine = torch.autograd.grad((traced.outputs * weights).sum(), [ledger.anchor, x, *stack.parameters()])[1:]
    wanted = [node for made in nodes for node in made if node.requires_grad]
    theirs = torch.autograd.grad(
        (expected * weights).sum(), [x, *own.parameters(), *wanted], allow_unused=True, materialize_grads=True
    )
    for gradient, reference in zip(mine, theirs[: len(mine)], strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-12)
    live = dict(zip(map(id, wanted), theirs[len(mine) :], strict=True))
    nothing = torch.zeros(2, HIDDEN)  # an output before the first, which no step reads
    for place, gradient in enumerate(ledger.gradients.values()):
        reference = torch.stack([live.get(id(made[place]), nothing) for made in nodes], 1)
        assert reference.any()
        torch.testing.assert_close(gradient.total.value(), reference, rtol=1e-10, atol=1e-12)


def test_the_package_knows_its_41_cells() -> None:
    assert len(CELLS) == len(set(CELLS)) == 41


def test_tau_gru_is_the_packages_layer() -> None:
    stack = stack_of("tauGRU")
    layer = package.tauGRU(INPUTS, HIDDEN, batch_first=True)
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), stack.parameters(), strict=True):
            parameter.copy_(value)
    x = torch.randn(2, LENGTH, INPUTS)
    torch.testing.assert_close(sequence(stack.placed[0][0].recurrence, x), layer(x)[0], rtol=0, atol=1e-13)


def test_a_step_over_several_leading_axes_is_a_step_over_each(cell: str) -> None:
    recurrence = stack_of(cell).placed[0][0].recurrence
    x = torch.randn(3, 2, widths(cell)[0])
    state = {name: torch.randn(2, *shape) for name, shape in recurrence.components.items()}
    together = recurrence.step(recurrence.weights(), x, state)
    for at in range(3):
        for name, value in recurrence.step(recurrence.weights(), x[at], state).items():
            torch.testing.assert_close(together[name][at], value, rtol=0, atol=1e-14)


def test_a_cell_runs_and_learns_in_half_precision(cell: str) -> None:
    stack = stack_of(cell).to(torch.bfloat16)
    made = stack.trace(torch.randn(2, LENGTH, widths(cell)[0]).bfloat16(), torch.tensor([LENGTH] * 2), Ledger()).outputs
    assert made.dtype == torch.bfloat16
    for gradient in torch.autograd.grad(made.sum(), list(stack.parameters())):
        assert torch.isfinite(gradient).all()


def test_an_unknown_cell_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"torchrecurrent has no cell 'JANT'; did you mean 'JANET'") as raised:
        TorchRecurrentCell(3, 4, "JANT")
    assert "\n" not in str(raised.value) and "UGRNN" in str(raised.value)


def test_a_cell_that_mixes_its_input_with_its_output_needs_them_alike() -> None:
    with pytest.raises(ValueError, match="IntersectionRNN needs inputs as wide as hidden; they are 3 and 4 wide"):
        TorchRecurrentCell(3, 4, "IntersectionRNN")


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrecurrent", None)
    with pytest.raises(Unavailable, match=re.escape("pip install 'retrograde[torchrecurrent]'")):
        TorchRecurrentCell(3, 4, "MGU")
