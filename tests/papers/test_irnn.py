"""The identity at the start: with active units and no input the state stays, and so does its gradient."""

import torch

from retrograde.core.snapshot import gradient_flow
from retrograde.models.irnn import irnn
from retrograde.tasks.adding import Adding


def test_initialisation_is_the_papers() -> None:
    torch.manual_seed(0)
    weights = irnn(Adding(length=4), hidden=200, scale=0.5).stack.placed[0][0].recurrence.weights()
    assert torch.equal(weights["recurrent"], 0.5 * torch.eye(200))
    assert not weights["input_bias"].any() and not weights["recurrent_bias"].any()
    assert 0.0008 < weights["input"].std() < 0.0012  # 400 numbers of standard deviation 0.001


def test_the_state_of_active_units_is_copied_and_so_is_its_gradient() -> None:
    model = irnn(Adding(length=4), hidden=3)
    cell = model.stack.placed[0][0].recurrence
    state = {"hidden": torch.tensor([[0.3, 2.0, 5.0]])}
    assert torch.equal(cell.step(cell.weights(), torch.zeros(1, 2), state)["hidden"], state["hidden"])


def test_totals_do_not_shrink_where_units_stay_active() -> None:
    torch.manual_seed(0)
    task = Adding(length=30)
    model = irnn(task, hidden=4)
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.weights()["input"].abs_()  # positive inputs: every unit stays active
    total = gradient_flow(model, task, task.sample(2, torch.Generator().manual_seed(0))).gradients["0.forward.hidden"]
    norms = total.total.value().norm(dim=-1)[:, 1:]
    torch.testing.assert_close(norms, norms[:, -1:].expand_as(norms))
