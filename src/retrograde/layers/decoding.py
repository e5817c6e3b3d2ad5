"""From a decoder that takes one token at a time to whole answers."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retrograde.core.choices import require_at_least
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


def greedy(decoder: Decoder, batch: Batch, length: int) -> Float[Tensor, "batch target size"]:
    """The scores of ``length`` tokens where each is followed by the likeliest; behind ``<eos>`` nothing counts."""
    carried = decoder.begin(batch)
    tokens = torch.full((len(batch),), START, device=batch.lengths.device)
    made = []
    for _ in range(length):
        scores, carried = decoder.advance(carried, tokens)
        tokens = scores.argmax(-1)
        made.append(scores)
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
    for _ in range(length):
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
    return answers[:, 0]
