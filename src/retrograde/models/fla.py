r"""Any layer of the package flash-linear-attention, by the name of its class in ``fla.layers``.

    x ← x + Layer(RMSNorm(x))
    x ← x + SwiGLU(RMSNorm(x))        `layers` times
    y = V RMSNorm(x) + d

x the residual stream (batch, time, hidden), at the start the embedded input. A layer is built with ``hidden_size``, its
place in the stack where it asks for ``layer_idx``, and ``arguments``.

The states are the residual stream before the first block and after each, as of a layer without recurrence: the
package's kernels do not show what they carry. They run on CUDA alone, and not in float64.

Source: Yang & Zhang 2024, flash-linear-attention; each layer's paper stands in its code.
Differs: the stack is ours; initialisation is each layer's own, where the package's models draw all weights from
N(0, 0.02²). Some kernels of the package have no gradient in eval mode up to 64 positions (GatedDeltaNet's): gradients
over time need longer sequences there.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import Unavailable, require_at_least, require_one_of
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Trace
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.feedforward import SwiGLU
from retrograde.layers.opened import Opened

EPSILON = 1e-5
"""What the norms add to a mean square, as in the package."""


def layers_by_name() -> dict[str, type[nn.Module]]:
    """The package's layers. Raises Unavailable where package or device are missing."""
    if importlib.util.find_spec("fla") is None:
        raise Unavailable("model=fla needs the package flash-linear-attention: pip install 'retrograde[fla]'")
    if not torch.cuda.is_available():
        raise Unavailable("model=fla needs a CUDA device, and torch sees none")
    found = vars(importlib.import_module("fla.layers")).items()
    return {name: kind for name, kind in found if isinstance(kind, type) and issubclass(kind, nn.Module)}


def built(kind: type[nn.Module], hidden: int, place: int, arguments: Mapping[str, Any]) -> nn.Module:
    """One layer; ValueError where its constructor refuses the arguments, Unavailable where it lacks a package."""
    known = inspect.signature(kind).parameters
    own = {"hidden_size": hidden, **({"layer_idx": place} if "layer_idx" in known else {})}
    unknown = [name for name in arguments if name not in known]
    if unknown:  # said here, because many of these constructors swallow what they do not know
        require_one_of(f"an argument of {kind.__name__}", unknown[0], [name for name in known if name != "kwargs"])
    try:
        return kind(**{**own, **arguments})
    except ImportError as error:
        raise Unavailable(f"fla.layers.{kind.__name__} cannot be built here: {error}") from error
    except (TypeError, ValueError, ArithmeticError, AssertionError) as error:
        raise ValueError(f"fla.layers.{kind.__name__} cannot be built of {own | dict(arguments)}: {error}") from error


class FlaBlock(nn.Module):
    """A layer of the package and a feed-forward layer, each behind a norm and beside a residual path."""

    def __init__(self, layer: nn.Module, hidden: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(hidden, eps=EPSILON)
        self.layer = layer
        self.feedforward = nn.Sequential(nn.RMSNorm(hidden, eps=EPSILON), SwiGLU(hidden))

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        result = self.layer(self.norm(x))
        x = x + (result[0] if isinstance(result, tuple) else result)  # with caches and maps behind it
        return x + self.feedforward(x)


class Fla(SequenceModel):
    """``layers`` blocks around the layer of that name; ``arguments`` go to its constructor."""

    def __init__(
        self,
        task: Task,
        layer: str = "GatedLinearAttention",
        arguments: Mapping[str, Any] | None = None,
        hidden: int = 64,
        layers: int = 2,
        embedding: EmbeddingFactory = OneHot,
    ) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        require_at_least("layers", layers, 1)
        known = layers_by_name()
        require_one_of("model.layer", layer, known)
        self.embedding = embedding(task.inputs)
        self.project = nn.Linear(self.embedding.width, hidden)
        self.blocks = nn.ModuleList(
            FlaBlock(built(known[layer], hidden, place, arguments or {}), hidden) for place in range(layers)
        )
        self.norm = nn.RMSNorm(hidden, eps=EPSILON)
        self.readout = nn.Linear(hidden, task.outputs.size)

    def forward(self, batch: Batch) -> Float[Tensor, "batch time size"]:
        return self.trace(batch).outputs

    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        weight = self.readout.weight
        if weight.device.type != "cuda" or weight.dtype == torch.float64:
            raise Unavailable(
                f"model=fla runs on CUDA and in float32 or less, not on {weight.device} in {weight.dtype}"
            )
        opened = Opened(perturb)
        x = opened.kept("0.forward.residual", self.project(opened.read(self.embedding(batch.inputs))))
        for depth, block in enumerate(self.blocks, 1):
            x = opened.kept(f"{depth}.forward.residual", block(x))
        return opened.trace(self.readout(self.norm(x)))

    @property
    def state_size(self) -> None:
        """None: the package's layers do not say what they carry, and attention is among them."""
        return None
