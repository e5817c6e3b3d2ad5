r"""Transformer, decoder only, with the norm before each sublayer.

    x ← x + Attention(LayerNorm(x))
    x ← x + W_2 max(0, W_1 LayerNorm(x) + b_1) + b_2        `layers` times
    y = V LayerNorm(x) + d

x the residual stream (batch, time, width), at the start the embedded input plus its position; attention is causal.

Source: Vaswani et al. 2017, arXiv:1706.03762; the norm's place: Xiong et al. 2020, arXiv:2002.04745.
Differs: no encoder; the last LayerNorm that pre-norm needs; dropout after each sublayer alone.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least, require_one_of
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Trace
from retrograde.layers.attention import MultiHeadAttention
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.positions import rotated, sinusoidal

Position = Literal["sinusoidal", "rope"]


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm and beside a residual path."""

    def __init__(self, hidden: int, heads: int, feedforward: int, dropout: float, position: Position) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden)
        self.attention = MultiHeadAttention(hidden, heads, rotated if position == "rope" else None)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, feedforward), nn.ReLU(), nn.Linear(feedforward, hidden)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        return self._after(x, self.attention(self.attention_norm(x)))

    def trace(
        self, x: Float[Tensor, "batch time width"]
    ) -> tuple[Float[Tensor, "batch time width"], Float[Tensor, "batch head query key"]]:
        attended, weights = self.attention.trace(self.attention_norm(x))
        return self._after(x, attended), weights

    def _after(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropout(attended)
        return x + self.dropout(self.feedforward(x))


class Transformer(SequenceModel):
    """``layers`` blocks; the states are the residual stream before the first block and after each.

    Padding needs no mask: it stands at the end, where a causal model cannot see it.
    """

    def __init__(
        self,
        task: Task,
        hidden: int = 64,
        layers: int = 2,
        heads: int = 4,
        feedforward: int = 256,
        dropout: float = 0.0,
        position: Position = "sinusoidal",
        embedding: EmbeddingFactory = OneHot,
    ) -> None:
        super().__init__()
        require_one_of("position", position, get_args(Position))
        for name, size in (("hidden", hidden), ("layers", layers), ("heads", heads), ("feedforward", feedforward)):
            require_at_least(name, size, 1)
        if position == "rope" and hidden % (2 * heads):
            raise ValueError(f"rope needs an even width per head: hidden {hidden} over {heads} heads gives none")
        self.position = position
        self.embedding = embedding(task.inputs)
        self.project = nn.Linear(self.embedding.width, hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads, feedforward, dropout, position) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.readout = nn.Linear(hidden, task.outputs.size)

    def forward(self, batch: Batch) -> Float[Tensor, "batch time size"]:
        x = self._embedded(batch)
        for block in self._each_block():
            x = block(x)
        return self.readout(self.norm(x))

    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        perturb = perturb or {}
        keys = [f"{depth}.forward.residual" for depth in range(len(self.blocks) + 1)]
        unknown = set(perturb) - set(keys)
        if unknown:
            raise ValueError(f"there is no state '{min(unknown)}' to perturb; the states are {', '.join(keys)}")
        states: dict[str, Tensor] = {}
        maps: dict[str, Tensor] = {}

        def kept(depth: int, x: Tensor) -> Tensor:
            key = f"{depth}.forward.residual"
            states[key] = x + perturb[key] if key in perturb else x
            return states[key]

        x = kept(0, self._embedded(batch))
        for depth, block in enumerate(self._each_block()):
            x, maps[str(depth)] = block.trace(x)
            x = kept(depth + 1, x)
        return Trace(self.readout(self.norm(x)), states, {key: range(batch.length) for key in states}, maps)

    @property
    def state_size(self) -> None:
        """None: keys and values of every earlier position are kept."""
        return None

    def _each_block(self) -> Iterator[Block]:
        for block in self.blocks:
            assert isinstance(block, Block)  # a ModuleList forgets what it holds
            yield block

    def _embedded(self, batch: Batch) -> Tensor:
        x = self.project(self.embedding(batch.inputs))
        return x + sinusoidal(x.shape[1], x.shape[2], x) if self.position == "sinusoidal" else x
