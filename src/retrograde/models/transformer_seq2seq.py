r"""The encoder-decoder Transformer.

    encoder   x ← LayerNorm(x + Attention(x))                   every position sees every other, padding apart
              x ← LayerNorm(x + FFN(x))                         `layers` times; m is the last x
    decoder   y ← LayerNorm(y + Attention(y))                   each position sees itself and what came before
              y ← LayerNorm(y + Attention(y, m))                queries of y, keys and values of m
              y ← LayerNorm(y + FFN(y))                         `layers` times
    p(y_j | y_<j, x) = softmax(V y_j + d)

    FFN(x) = W_2 max(0, W_1 x + b_1) + b_2

x the embedded source, y the embedded target behind <sos>, each with its position. The paper's learning rate is
`scheduler=warmup`.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.
Differs: source, target and read-out have weights of their own, embeddings are projected rather than scaled by √d;
dropout after each sublayer alone; weights start as torch.nn.Linear's; `norm_first` puts the norm before each sublayer
(Xiong et al. 2020, arXiv:2002.04745) with one more at each stack's end.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Trace
from retrograde.layers.decoding import Carried, Decoding, Writing
from retrograde.layers.embedding import EmbeddingFactory, OneHot
from retrograde.layers.opened import Opened
from retrograde.layers.positions import PositionFactory, Sinusoidal
from retrograde.layers.transformer import BlockSettings, DecoderStack, TransformerStack, filled


class TransformerEncoderDecoder(SequenceModel):
    """Two stacks; states are both residual streams, maps ``encoder0`` …, ``decoder0`` … and, between them, ``cross0`` …

    In evaluation the loss is that of the given target, the score that of the model's own answers.
    """

    kinds = ("transduce",)

    def __init__(
        self,
        task: Task,
        hidden: int = 64,
        layers: int = 2,
        heads: int = 4,
        feedforward: int = 256,
        dropout: float = 0.0,
        norm_first: bool = False,
        scaling: bool = True,
        residual: bool = True,
        normalisation: bool = True,
        forcing: float = 1.0,
        decoding: Decoding = "greedy",
        beams: int = 4,
        position: PositionFactory = Sinusoidal,
        embedding: EmbeddingFactory = OneHot,
    ) -> None:
        super().__init__()
        settings = BlockSettings(hidden, heads, feedforward, dropout, norm_first, scaling, residual, normalisation)
        self.writing = Writing(forcing, decoding, beams)
        self.source_embedding, self.target_embedding = embedding(task.inputs), embedding(task.outputs)
        self.project_source = nn.Linear(self.source_embedding.width, hidden)
        self.project_target = nn.Linear(self.target_embedding.width, hidden)
        self.encoder = TransformerStack(settings, layers, causal=False, position=position)
        self.decoder = DecoderStack(settings, layers, position)
        self.readout = nn.Linear(hidden, task.outputs.size)

    def forward(self, batch: Batch) -> Float[Tensor, "batch target size"]:
        tokens = self.writing.read(self, batch, self.training)
        return self.readout(self.decoder(self._target(tokens), self._memory(batch), filled(batch)))

    def answers(self, batch: Batch, outputs: Float[Tensor, "batch target size"]) -> Float[Tensor, "batch target size"]:
        return self.writing.answers(self, batch, outputs)

    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        """The decoder reads the given target."""
        assert batch.decoder_inputs is not None  # the task is of kind transduce
        opened, visible = Opened(perturb), filled(batch)
        source = self.project_source(opened.read(self.source_embedding(batch.inputs)))
        memory = self.encoder.trace(source, opened, visible, side="encoder")
        of_source = {*opened.states, *opened.maps}
        y = self.decoder.trace(self._target(batch.decoder_inputs), memory, visible, opened)
        trace = opened.trace(self.readout(y))
        target_side = frozenset({*trace.states, *trace.maps} - of_source)
        return replace(trace, target_side=target_side, cross=frozenset(key for key in trace.maps if "cross" in key))

    @property
    def state_size(self) -> None:
        """None: keys and values of every earlier position are kept."""
        return None

    def begin(self, batch: Batch) -> Carried:
        return {
            "memory": self._memory(batch),
            "visible": filled(batch),
            "tokens": batch.lengths.new_empty(len(batch), 0),
        }

    def advance(self, carried: Carried, tokens: Int[Tensor, " batch"]) -> tuple[Float[Tensor, "batch size"], Carried]:
        """All that was said is read again: a step costs what the answer so far costs."""
        said = torch.cat([carried["tokens"], tokens.unsqueeze(1)], 1)
        y = self.decoder(self._target(said), carried["memory"], carried["visible"])
        return self.readout(y[:, -1]), carried | {"tokens": said}

    def _source(self, batch: Batch) -> Float[Tensor, "batch source hidden"]:
        return self.project_source(self.source_embedding(batch.inputs))

    def _target(self, tokens: Int[Tensor, "batch target"]) -> Float[Tensor, "batch target hidden"]:
        return self.project_target(self.target_embedding(tokens))

    def _memory(self, batch: Batch) -> Float[Tensor, "batch source hidden"]:
        return self.encoder(self._source(batch), filled(batch))
