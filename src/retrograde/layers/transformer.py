"""Blocks of attention and feed-forward layers, their stack, and the model around it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from retrograde.core.choices import require_at_least, require_dropout
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Trace
from retrograde.core.streamed import AttentionMap
from retrograde.layers.attention import MultiHeadAttention
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.opened import Opened
from retrograde.layers.positions import Layout, Position, PositionFactory, Sinusoidal


@dataclass(frozen=True)
class BlockSettings:
    """What the blocks of a stack have in common; the last four each switch off what is claimed to matter.

    ``norm_first``: the norm before each sublayer (Xiong et al. 2020, arXiv:2002.04745) or after it (2017).
    ``scaling``: scores are divided by √d. ``normalisation``: there is a norm. ``residual``: there is a path around.
    """

    hidden: int
    heads: int
    feedforward: int
    dropout: float = 0.0
    norm_first: bool = True
    scaling: bool = True
    residual: bool = True
    normalisation: bool = True

    def __post_init__(self) -> None:
        for name in ("hidden", "heads", "feedforward"):
            require_at_least(name, getattr(self, name), 1)
        require_dropout(self.dropout)

    def norm(self) -> nn.Module:
        """A new LayerNorm, or nothing where it is switched off."""
        return nn.LayerNorm(self.hidden) if self.normalisation else nn.Identity()

    def attention(self, causal: bool, window: int | None = None) -> MultiHeadAttention:
        return MultiHeadAttention(self.hidden, self.heads, causal, window, self.scaling)

    def transition(self) -> nn.Sequential:
        """The feed-forward layer, W_2 max(0, W_1 x + b_1) + b_2."""
        return nn.Sequential(
            nn.Linear(self.hidden, self.feedforward), nn.ReLU(), nn.Linear(self.feedforward, self.hidden)
        )


class Around(nn.Module):
    r"""What stands around a sublayer f: a norm, dropout and a residual path.

        norm first        x + dropout(f(norm(x)))
        norm after        norm(x + dropout(f(x)))

    in two halves, ``enter`` before f and ``leave`` after it.
    """

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__()
        self.norm_first = settings.norm_first
        self.residual = settings.residual
        self.norm = settings.norm()
        self.dropout = nn.Dropout(settings.dropout)

    def enter(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        """What f reads."""
        return self.norm(x) if self.norm_first else x

    def leave(
        self, x: Float[Tensor, "batch time width"], made: Float[Tensor, "batch time width"]
    ) -> Float[Tensor, "batch time width"]:
        """What the next sublayer reads, of this one's input and of what f made."""
        made = self.dropout(made)
        if self.residual:
            made = x + made
        return made if self.norm_first else self.norm(made)


class Block(nn.Module):
    """Self-attention and a feed-forward layer."""

    def __init__(self, settings: BlockSettings, causal: bool = True, window: int | None = None) -> None:
        super().__init__()
        self.around_attention = Around(settings)
        self.attention = settings.attention(causal, window)
        self.around_feedforward = Around(settings)
        self.feedforward = settings.transition()

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        position: Position,
        visible: Bool[Tensor, "#batch #head #time #key"] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        entered = self.around_attention.enter(x)
        return self._after(x, self.attention(entered, visible=visible, position=position))

    def trace(
        self,
        x: Float[Tensor, "batch time width"],
        position: Position,
        visible: Bool[Tensor, "#batch #head #time #key"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], AttentionMap]:
        """The same with the map."""
        entered = self.around_attention.enter(x)
        attended, weights = self.attention.trace(entered, visible=visible, position=position)
        return self._after(x, attended), weights

    def _after(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.around_attention.leave(x, attended)
        return self.around_feedforward.leave(x, self.feedforward(self.around_feedforward.enter(x)))


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to a memory, and a feed-forward layer.

    The memory is read as it comes; ``visible`` says which of its positions are no padding.
    """

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__()
        self.around_attention = Around(settings)
        self.attention = settings.attention(causal=True)
        self.around_cross = Around(settings)
        self.cross = settings.attention(causal=False)
        self.around_feedforward = Around(settings)
        self.feedforward = settings.transition()

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        memory: Float[Tensor, "batch source width"],
        position: Position,
        visible: Bool[Tensor, "#batch #head #time #source"] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        x = self.around_attention.leave(x, self.attention(self.around_attention.enter(x), position=position))
        x = self.around_cross.leave(x, self.cross(self.around_cross.enter(x), memory, visible))
        return self._after(x)

    def trace(
        self,
        x: Float[Tensor, "batch time width"],
        memory: Float[Tensor, "batch source width"],
        position: Position,
        visible: Bool[Tensor, "#batch #head #time #source"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], AttentionMap, AttentionMap]:
        """The same with the maps of self-attention and of attention to the memory."""
        attended, weights = self.attention.trace(self.around_attention.enter(x), position=position)
        x = self.around_attention.leave(x, attended)
        attended, cross_weights = self.cross.trace(self.around_cross.enter(x), memory, visible)
        x = self.around_cross.leave(x, attended)
        return self._after(x), weights, cross_weights

    def _after(self, x: Tensor) -> Tensor:
        return self.around_feedforward.leave(x, self.feedforward(self.around_feedforward.enter(x)))


class TransformerStack(nn.Module):
    """``layers`` blocks with one position encoding, and the last norm that a stream with norms before needs."""

    def __init__(
        self,
        settings: BlockSettings,
        layers: int,
        causal: bool = True,
        window: int | None = None,
        position: PositionFactory = Sinusoidal,
    ) -> None:
        super().__init__()
        require_at_least("layers", layers, 1)
        self.blocks = nn.ModuleList(Block(settings, causal, window) for _ in range(layers))
        self.position = position(Layout(settings.hidden, settings.heads, causal))
        self.norm = settings.norm() if settings.norm_first else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        visible: Bool[Tensor, "#batch #head #time #key"] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        x = self.position.placed(x)
        for block in self._each_block():
            x = block(x, self.position, visible)
        return self.norm(x)

    def trace(
        self,
        x: Float[Tensor, "batch time width"],
        opened: Opened,
        visible: Bool[Tensor, "#batch #head #time #key"] | None = None,
        side: str = "",
    ) -> Float[Tensor, "batch time width"]:
        """The same; ``opened`` keeps the residual stream before the first block and after each, and the maps.

        ``side`` is the word before every layer's number, for a model that holds several stacks.
        """
        x = opened.kept(f"{side}0.forward.residual", self.position.placed(x))
        for depth, block in enumerate(self._each_block()):
            x, opened.maps[f"{side}{depth}"] = block.trace(x, self.position, visible)
            x = opened.kept(f"{side}{depth + 1}.forward.residual", x)
        return self.norm(x)

    def _each_block(self) -> Iterator[Block]:
        for block in self.blocks:
            assert isinstance(block, Block)  # a ModuleList forgets what it holds
            yield block


class DecoderStack(nn.Module):
    """As ``TransformerStack``, of blocks that also look at a memory; always causal."""

    def __init__(self, settings: BlockSettings, layers: int, position: PositionFactory = Sinusoidal) -> None:
        super().__init__()
        require_at_least("layers", layers, 1)
        self.blocks = nn.ModuleList(DecoderBlock(settings) for _ in range(layers))
        self.position = position(Layout(settings.hidden, settings.heads, causal=True))
        self.norm = settings.norm() if settings.norm_first else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        memory: Float[Tensor, "batch source width"],
        visible: Bool[Tensor, "#batch #head #time #source"],
    ) -> Float[Tensor, "batch time width"]:
        x = self.position.placed(x)
        for block in self.blocks:
            x = block(x, memory, self.position, visible)
        return self.norm(x)

    def trace(
        self,
        x: Float[Tensor, "batch time width"],
        memory: Float[Tensor, "batch source width"],
        visible: Bool[Tensor, "#batch #head #time #source"],
        opened: Opened,
    ) -> Float[Tensor, "batch time width"]:
        """The same; maps of self-attention are kept as ``decoder0`` …, those to the memory as ``cross0`` …"""
        x = opened.kept("decoder0.forward.residual", self.position.placed(x))
        for depth, block in enumerate(self.blocks):
            assert isinstance(block, DecoderBlock)  # a ModuleList forgets what it holds
            x, own, cross = block.trace(x, memory, self.position, visible)
            opened.maps |= {f"decoder{depth}": own, f"cross{depth}": cross}
            x = opened.kept(f"decoder{depth + 1}.forward.residual", x)
        return self.norm(x)


class Transformer(SequenceModel):
    """Embedding, a projection to ``hidden``, a stack, and a linear read-out at every position.

    Padding needs no mask where attention is causal: it stands at the end, where nothing before it can look. Where it is
    not, nobody looks at padding, and padding looks at what is real.
    """

    def __init__(
        self,
        task: Task,
        hidden: int = 64,
        layers: int = 2,
        heads: int = 4,
        feedforward: int = 256,
        dropout: float = 0.0,
        norm_first: bool = True,
        causal: bool = True,
        window: int | None = None,
        scaling: bool = True,
        residual: bool = True,
        normalisation: bool = True,
        position: PositionFactory = Sinusoidal,
        embedding: EmbeddingFactory = OneHot,
    ) -> None:
        super().__init__()
        settings = BlockSettings(hidden, heads, feedforward, dropout, norm_first, scaling, residual, normalisation)
        self.causal = causal
        self.carried = None if window is None else 2 * layers * hidden * (window - 1)
        self.embedding = embedding(task.inputs)
        self.project = nn.Linear(self.embedding.width, hidden)
        self.stack = TransformerStack(settings, layers, causal, window, position)
        self.readout = nn.Linear(hidden, task.outputs.size)

    def forward(self, batch: Batch) -> Float[Tensor, "batch time size"]:
        return self.readout(self.stack(self.project(self.embedding(batch.inputs)), self._visible(batch)))

    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        opened = Opened(perturb)
        read = opened.read(self.embedding(batch.inputs))
        x = self.stack.trace(self.project(read), opened, self._visible(batch))
        return opened.trace(self.readout(x))

    @property
    def state_size(self) -> int | None:
        """Keys and values of the earlier positions that the next one sees; None where that is all of them."""
        return self.carried

    def _visible(self, batch: Batch) -> Bool[Tensor, "batch 1 1 time"] | None:
        return None if self.causal else filled(batch)


def filled(batch: Batch) -> Bool[Tensor, "batch 1 1 time"]:
    """Which inputs are no padding, for every head and query."""
    time = torch.arange(batch.length, device=batch.lengths.device)
    return (time < batch.lengths[:, None])[:, None, None]
