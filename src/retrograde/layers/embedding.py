"""What a model makes of a task's inputs before its first layer (``model/embedding=`` on the command line)."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retrograde.core.abreast import abreast
from retrograde.core.choices import require_at_least
from retrograde.core.contracts import Space, Tokens


class Embedding(nn.Module, ABC):
    """From a task's inputs to ``width`` real numbers at every position. Real inputs pass as they are."""

    @property
    @abstractmethod
    def width(self) -> int: ...

    @abstractmethod
    def forward(
        self, inputs: Float[Tensor, "batch time size"] | Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time width"]: ...


EmbeddingFactory = Callable[[Space], Embedding]


class OneHot(Embedding):
    """Tokens as one-hot vectors, so that the first layer's weights are the embedding."""

    unit: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("unit", torch.ones(()), persistent=False)  # knows the model's precision

    @property
    def width(self) -> int:
        return self.space.size

    def forward(
        self, inputs: Float[Tensor, "batch time size"] | Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time width"]:
        if not isinstance(self.space, Tokens):
            return inputs
        flat = inputs.new_zeros((*inputs.shape, self.space.size), dtype=self.unit.dtype)
        put = flat.scatter if abreast(inputs) else flat.scatter_  # of many seeds torch has no form in place
        return put(-1, inputs.unsqueeze(-1), 1)


class Learned(Embedding):
    """A vector of its own for every token, learned with the rest of the model; Gaussian at the start."""

    def __init__(self, space: Space, width: int = 32) -> None:
        super().__init__()
        require_at_least("embedding.width", width, 1)
        if not isinstance(space, Tokens):
            raise ValueError(
                "embedding=learned needs tokens, and these inputs are real numbers; onehot fits "
                "(both sides of an encoder-decoder are embedded by model/embedding=)"
            )
        self.vectors = nn.Embedding(space.size, width)

    @property
    def width(self) -> int:
        return self.vectors.embedding_dim

    def forward(
        self, inputs: Float[Tensor, "batch time size"] | Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time width"]:
        return self.vectors(inputs)
