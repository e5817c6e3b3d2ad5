"""What a model makes of a task's inputs before its first layer."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retrograde.core.contracts import Space, Tokens


class Embedding(nn.Module):
    """Real inputs as they are; tokens as one-hot vectors, so that the first layer's weights are the embedding."""

    one_hot: Tensor | None

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.width = space.size
        one_hot = torch.eye(space.size) if isinstance(space, Tokens) else None
        self.register_buffer("one_hot", one_hot, persistent=False)

    def forward(
        self, inputs: Float[Tensor, "batch time width"] | Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time width"]:
        if self.one_hot is None:
            return inputs
        return nn.functional.embedding(inputs, self.one_hot)
