r"""Your own: any torch module between our embedding and our read-out.

    a = W e(x) + b        b = module(a)        y = V b + d

x inputs, e the embedding, a and b (batch, time, hidden), y outputs. The module is the class that ``target`` names by
its dotted path, built with ``arguments``. It takes (batch, time, hidden) and gives as much; of a tuple, such as
torch.nn.GRU's, the first part counts and the rest is left.

The states are the module's inputs and outputs, where the gradient over time is shown; what happens within, between a
module's own layers or along its own recurrence, is not opened. Whether it is ``causal`` cannot be known and is taken
from the setting. A causal module reads a batch as it comes, with padding at the end, which it cannot see from earlier
times; any other is given the samples of each length by themselves, without padding.

Source: none.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retrograde.core.choices import nearest, require_at_least
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Trace
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.opened import Opened


def located(target: str) -> Callable[..., Any]:
    """The class at a dotted path. Raises ValueError where there is none, with the nearest names beside it."""
    path, _, name = target.rpartition(".")
    if not path:
        raise ValueError(f"model.target must be a dotted path such as torch.nn.GRU, not {target!r}")
    try:
        package = importlib.import_module(path)
    except ImportError as error:
        raise ValueError(f"model.target: '{target}' cannot be imported: {error}") from error
    if name not in vars(package):
        raise ValueError(f"model.target: '{path}' has no '{name}'{nearest(name, vars(package))}")
    found = vars(package)[name]
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"model.target must name a subclass of torch.nn.Module; '{target}' is none")
    return found


def made(target: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The module at a dotted path. Raises ValueError where its constructor refuses the arguments."""
    kind = located(target)
    try:
        module: nn.Module = kind(**arguments)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items()) or "nothing"
        raise ValueError(f"'{target}' cannot be built of {given}: {error}; model.arguments is what it takes") from error
    # torch's own word for the order of axes, in its recurrent and attention layers
    if any(getattr(part, "batch_first", True) is False for part in module.modules()):
        raise ValueError(f"'{target}' takes time before batch: add batch_first=true to model.arguments")
    return module


class Module(SequenceModel):
    """``target`` between embedding and read-out; without ``arguments``, those that torch's recurrent layers take."""

    def __init__(
        self,
        task: Task,
        target: str,
        arguments: Mapping[str, Any] | None = None,
        causal: bool = True,
        hidden: int = 64,
        embedding: EmbeddingFactory = OneHot,
    ) -> None:
        super().__init__()
        require_at_least("hidden", hidden, 1)
        if arguments is None:
            arguments = {"input_size": hidden, "hidden_size": hidden, "batch_first": True}
        self.target = target
        self.causal = causal
        self.embedding = embedding(task.inputs)
        self.project = nn.Linear(self.embedding.width, hidden)
        self.module = made(target, arguments)
        self.readout = nn.Linear(hidden, task.outputs.size)

    def forward(self, batch: Batch) -> Float[Tensor, "batch time size"]:
        return self.readout(self.applied(self.project(self.embedding(batch.inputs)), batch.lengths))

    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        opened = Opened(perturb)
        x = opened.kept("0.forward.activation", self.project(opened.read(self.embedding(batch.inputs))))
        with torch.backends.cudnn.flags(enabled=False):  # its recurrent layers have no gradient in eval mode
            x = self.applied(x, batch.lengths)
        return opened.trace(self.readout(opened.kept("1.forward.activation", x)))

    def applied(
        self, x: Float[Tensor, "batch time width"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time width"]:
        """What the module makes of the inputs; zero at the padding where it would see that."""
        if self.causal:
            return self._checked(x)
        made = torch.zeros_like(x)
        for length in lengths.unique().tolist():
            samples = (lengths == length).nonzero().squeeze(1)
            part = self._checked(x[samples, :length])
            made = made.index_copy(0, samples, nn.functional.pad(part, (0, 0, 0, x.shape[1] - length)))
        return made

    def _checked(self, x: Tensor) -> Tensor:
        result = self.module(x)
        first = result[0] if isinstance(result, tuple) else result
        if not isinstance(first, Tensor) or first.shape != x.shape:
            came = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
            raise ValueError(f"'{self.target}' must give (batch, time, width) {tuple(x.shape)} as it came, not {came}")
        return first

    @property
    def state_size(self) -> None:
        """None: what a module carries from one position to the next cannot be known from outside."""
        return None
