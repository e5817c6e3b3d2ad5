"""From a decoder that takes one token at a time to whole answers."""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retrograde.core.choices import require_at_least, require_one_of
from retrograde.core.contracts import END, START
from retrograde.core.records import Batch

Carried = dict[str, Tensor]
"""What a decoder carries from one token to the next, every tensor with the batch first."""


@runtime_checkable
class Decoder(Protocol):
    """What decoding needs of a model."""

    def begin(self, batch: Batch) -> Carried:
        """What stands before the first token; it reads the source alone."""
        ...

    def advance(self, carried: Carried, tokens: Int[Tensor, " batch"]) -> tuple[Float[Tensor, "batch size"], Carried]:
        """The scores of the next token after these, and what is carried on."""
        ...


Decoding = Literal["greedy", "beam"]


@dataclass(frozen=True)
class Writing:
    """How a decoder is trained and answers.

    ``forcing`` is the share of tokens that it is given in training; in place of the others it reads its own answers
    (Bengio et al. 2015, arXiv:1506.03099, one coin for every token).
    """

    forcing: float = 1.0
    decoding: Decoding = "greedy"
    beams: int = 4

    def __post_init__(self) -> None:
        require_one_of("decoding", self.decoding, get_args(Decoding))
        require_at_least("beams", self.beams, 1)
        if not 0 <= self.forcing <= 1:
            raise ValueError(f"forcing is a share and must lie in [0, 1], not {self.forcing}")

    def read(self, decoder: Decoder, batch: Batch, training: bool) -> Int[Tensor, "batch target"]:
        """What the decoder reads: the batch's decoder inputs, or in training what ``forcing`` leaves of them."""
        given = batch.decoder_inputs
        assert given is not None  # the task is of kind transduce
        if not training or self.forcing == 1:
            return given
        with torch.no_grad():
            carried = decoder.begin(batch)
            tokens = [given[:, 0]]
            for expected in given.unbind(1)[1:]:
                scores, carried = decoder.advance(carried, tokens[-1])
                forced = torch.rand(len(expected), device=expected.device) < self.forcing
                tokens.append(torch.where(forced, expected, scores.argmax(-1)))
        return torch.stack(tokens, 1)

    def answers(
        self, decoder: Decoder, batch: Batch, like: Float[Tensor, "batch target size"]
    ) -> Float[Tensor, "batch target size"]:
        """The decoder's own, of the shape of ``like``: no target is read."""
        if self.decoding == "greedy":
            return greedy(decoder, batch, like.shape[1])
        tokens = beam(decoder, batch, like.shape[1], self.beams)
        return nn.functional.one_hot(tokens, like.shape[2]).to(like.dtype)


def greedy(decoder: Decoder, batch: Batch, length: int) -> Float[Tensor, "batch target size"]:
    """The scores of ``length`` tokens where each is followed by the likeliest; behind ``<eos>`` they say ``<eos>``."""
    carried = decoder.begin(batch)
    tokens = torch.full((len(batch),), START, device=batch.lengths.device)
    ended = torch.zeros(len(batch), 1, dtype=torch.bool, device=tokens.device)
    made: list[Tensor] = []
    while len(made) < length and not (made and ended.all()):
        scores, carried = decoder.advance(carried, tokens)
        only_end = torch.zeros_like(scores)
        only_end[:, END] = 1
        scores = torch.where(ended, only_end, scores)
        tokens = scores.argmax(-1)
        ended = ended | (tokens == END).unsqueeze(1)
        made.append(scores)
    made += [only_end] * (length - len(made))
    return torch.stack(made, 1)


def beam(decoder: Decoder, batch: Batch, length: int, beams: int) -> Int[Tensor, "batch target"]:
    """The likeliest of ``beams`` answers that are kept at every position, ended by ``<eos>`` or cut at ``length``.

    The likelihood is the product over tokens, ``<eos>`` included, without a correction for length. Behind ``<eos>``
    stands ``<eos>``.
    """
    require_at_least("beams", beams, 1)
    count = len(batch)
    rows = torch.arange(count, device=batch.lengths.device)
    carried = {name: value.repeat_interleave(beams, 0) for name, value in decoder.begin(batch).items()}
    tokens = torch.full((count * beams,), START, device=rows.device)
    answers = torch.full((count, beams, 0), END, device=rows.device)
    total = torch.full((count, beams), -torch.inf, device=rows.device)
    total[:, 0] = 0  # at the beginning all beams are one
    ended = torch.zeros(count, beams, dtype=torch.bool, device=rows.device)
    while answers.shape[2] < length and not ended.all():
        scores, carried = decoder.advance(carried, tokens)
        likely = torch.log_softmax(scores, -1).view(count, beams, -1)
        only_end = torch.full_like(likely, -torch.inf)
        only_end[..., END] = 0
        likely = torch.where(ended.unsqueeze(-1), only_end, likely)
        total, best = (total.unsqueeze(-1) + likely).flatten(1).topk(beams, 1)
        parent, chosen = best // likely.shape[-1], best % likely.shape[-1]
        answers = torch.cat([answers.gather(1, parent.unsqueeze(-1).expand_as(answers)), chosen.unsqueeze(-1)], -1)
        ended = ended.gather(1, parent) | (chosen == END)
        kept = (rows.unsqueeze(1) * beams + parent).flatten()
        carried = {name: value[kept] for name, value in carried.items()}
        tokens = chosen.flatten()
    return nn.functional.pad(answers[:, 0], (0, length - answers.shape[2]), value=END)
