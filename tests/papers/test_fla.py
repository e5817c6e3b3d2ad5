"""The adapter to flash-linear-attention: what it refuses, what it makes of a layer, and on a GPU a layer itself."""

import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retrograde.core.choices import Unavailable
from retrograde.core.snapshot import gradient_flow
from retrograde.models.fla import Fla
from retrograde.tasks.temporal_order import TemporalOrder

TASK = TemporalOrder(length=10)


class RunningMean(nn.Module):
    """Stands in for a layer of the package: its constructor's first words, and a tuple of three given back."""

    def __init__(
        self, hidden_size: int = 1024, num_heads: int = 4, layer_idx: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__()
        assert hidden_size % num_heads == 0, "hidden_size must be divisible by num_heads"
        self.place = layer_idx
        self.map = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None, None]:
        counts = torch.arange(1, hidden_states.shape[1] + 1, device=hidden_states.device).unsqueeze(1)
        return self.map(hidden_states).cumsum(1) / counts, None, None


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that name with one layer, and a device that seems to be there."""
    outer, inner = ModuleType("fla"), ModuleType("fla.layers")
    outer.__spec__ = importlib.machinery.ModuleSpec("fla", None, is_package=True)
    outer.__path__ = []
    vars(inner)["RunningMean"] = RunningMean
    monkeypatch.setitem(sys.modules, "fla", outer)
    monkeypatch.setitem(sys.modules, "fla.layers", inner)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"needs the package flash-linear-attention: pip install 'retrograde\[fla\]'"):
        Fla(TASK)


@pytest.mark.usefixtures("package")
def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unavailable, match="needs a CUDA device, and torch sees none"):
        Fla(TASK)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "RuningMean"}, "must be one of RunningMean; not 'RuningMean'; did you mean 'RunningMean'"),
        (
            {"arguments": {"heads": 2}},
            "an argument of RunningMean must be one of .*; not 'heads'; did you mean 'num_heads'",
        ),
        ({"arguments": {"num_heads": 3}}, "RunningMean cannot be built of .*'num_heads': 3}: .*divisible by num_heads"),
    ],
)
def test_what_the_package_does_not_have_is_refused_with_the_nearest_names(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Fla(TASK, **{"layer": "RunningMean", **settings})


@pytest.mark.usefixtures("package")
def test_on_a_cpu_and_in_double_precision_it_does_not_run() -> None:
    with pytest.raises(Unavailable, match=r"runs on CUDA and in float32 or less, not on cpu in torch.float32"):
        Fla(TASK, "RunningMean")(TASK.sample(2, torch.Generator().manual_seed(0)))


@pytest.mark.usefixtures("package")
def test_layers_stand_behind_norms_in_one_residual_stream() -> None:
    """Block by block, from the docstring's equations; every layer knows its place."""
    model = Fla(TASK, "RunningMean", {"num_heads": 2}, hidden=8, layers=2)
    x = torch.randn(2, 5, 8)
    for place, block in enumerate(model.blocks):
        weights = dict(block.named_parameters())

        def norm(x: Tensor, gain: Tensor) -> Tensor:
            return gain * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

        made = norm(x, weights["norm.weight"]) @ weights["layer.map.weight"].T + weights["layer.map.bias"]
        after = x + torch.stack([made[:, : t + 1].mean(1) for t in range(5)], 1)
        inner = norm(after, weights["feedforward.0.weight"]) @ weights["feedforward.1.enter.weight"].T
        gate, value = inner.chunk(2, -1)
        expected = after + (value * gate / (1 + torch.exp(-gate))) @ weights["feedforward.1.leave.weight"].T
        torch.testing.assert_close(block(x), expected)
        assert block.layer.place == place


@pytest.mark.gpu
@pytest.mark.parametrize("layer", ["GatedLinearAttention", "DeltaNet", "LinearAttention"])
def test_a_layer_of_the_package_is_causal_and_has_gradients_over_time(layer: str) -> None:
    pytest.importorskip("fla")
    torch.manual_seed(0)
    task = TemporalOrder(length=100)
    model = Fla(task, layer, {"num_heads": 2}, hidden=64, layers=2).cuda()
    batch = task.sample(4, torch.Generator().manual_seed(0)).to("cuda")
    flow = gradient_flow(model, task, batch)
    assert list(flow.gradients) == [f"{depth}.forward.residual" for depth in range(3)]
    assert all(gradient.total.value().isfinite().all() for gradient in flow.gradients.values())
    assert flow.gradients["0.forward.residual"].total.value()[:, 0].any()
    changed = batch.inputs.clone()
    changed[:, 50:] = (changed[:, 50:] + 1) % task.inputs.size
    before = model(batch)[:, :50]
    batch.inputs.copy_(changed)
    torch.testing.assert_close(model(batch)[:, :50], before, rtol=0, atol=1e-3)
