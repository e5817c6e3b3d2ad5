"""Layers that join with one step function, against live nodes inside them."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import retrograde
from watched import check, watched

pytestmark = pytest.mark.usefixtures("float64")


class Coupled(nn.Module):
    """An LSTM with coupled gates that hides its loop; ``kept`` has its states."""

    def __init__(self, batch_first: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        self.gates = nn.Linear(7, 12)
        self.batch_first = batch_first
        self.scale = scale
        self.kept: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.kept = []
        h = c = x.new_zeros(x.shape[0 if self.batch_first else 1], 4)
        for step in x.unbind(1 if self.batch_first else 0):
            h, c = self.next(step, h, c)
            self.kept.append((h, c))
        return torch.stack([h for h, _ in self.kept], 1 if self.batch_first else 0) * self.scale, self.kept[-1][1]

    def next(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        f, g, o = self.gates(torch.cat([x, h], -1)).chunk(3, -1)
        c = torch.sigmoid(f) * c + (1 - torch.sigmoid(f)) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


@pytest.fixture(autouse=True)
def joined() -> Iterator[None]:
    """Registered for these tests."""

    @retrograde.step.register
    def _(layer: Coupled, x: Tensor, state: dict[str, Tensor] | None) -> dict[str, Tensor]:
        zeros = x.new_zeros(len(x), 4)
        h, c = (zeros, zeros) if state is None else (state["hidden"], state["cell"])
        h, c = layer.next(x, h, c)
        return {"hidden": h, "cell": c}

    yield


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("length", [1, 2, 11])
def test_totals_are_those_of_the_nodes_inside(batch_first: bool, length: int) -> None:
    layer = Coupled(batch_first)
    model = nn.ModuleDict({"layer": layer})
    x = torch.randn(3, length, 3) if batch_first else torch.randn(length, 3, 3)

    def loss() -> Tensor:
        made, last = layer(x)
        weights = torch.arange(1.0, 1 + made.numel()).view(made.shape).cos()
        return (made * weights).sin().sum() + last.pow(2).sum()

    value = loss()
    nodes = layer.kept
    expected = {}
    for place, component in enumerate(("hidden", "cell")):
        gradients = torch.autograd.grad(value, [state[place] for state in nodes], retain_graph=True)
        for t, gradient in enumerate(gradients):
            expected |= {(f"layer.{component}", b, t): gradient[b].norm().item() for b in range(3)}
    plain = [p.grad for p in model.parameters()]
    value.backward()
    plain = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    frame, flow = watched(model, loss)
    check(frame, "total", expected)
    torch.testing.assert_close([p.grad for p in model.parameters()], plain)
    assert flow.left_out == {} and set(frame.layer) == {"layer"}


def test_the_direct_part_is_what_the_layer_gives_away() -> None:
    layer, x = Coupled(), torch.randn(2, 5, 3)
    frame, _ = watched(nn.ModuleDict({"layer": layer}), lambda: layer(x)[0][:, -1].sum())
    early = frame[frame.time < 4]
    assert set(early.direct_status) == {"zero"} and set(early.carried) == {1.0}
    hidden = frame[(frame.component == "hidden") & (frame.time == 4)]
    assert hidden.total.tolist() == pytest.approx([0.5 * torch.log10(torch.tensor(4.0)).item()] * 2)


def test_a_step_that_gives_something_else_than_its_layer_is_named() -> None:
    layer, x = Coupled(scale=2.0), torch.randn(2, 5, 3)
    named = pytest.warns(UserWarning, match="step function gives other states than the layer: hidden differs by up to")
    with retrograde.watch(nn.ModuleDict({"layer": layer})) as flow, named:
        layer(x)[0].sum().backward()
    with pytest.raises(RuntimeError, match="no layer could be served: layer: its step function"):
        flow.frame()


def test_a_frozen_layer_is_served_and_random_numbers_are_left_alone() -> None:
    layer, x = Coupled().requires_grad_(False), torch.randn(2, 5, 3)
    before = torch.get_rng_state()
    frame, _ = watched(nn.ModuleDict({"layer": layer}), lambda: layer(x)[0].sum())
    assert set(frame.component) == {"hidden", "cell"}
    assert torch.equal(torch.get_rng_state(), before)
