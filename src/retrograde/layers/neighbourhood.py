r"""What word-vector models share: whose neighbours a position has, and negative sampling.

**Negative sampling.** In place of the softmax over all words, the right word w is told from k words n_1 … n_k, drawn
anew each time:

    loss = -log σ(u_w · c) - Σ_{i=1}^k log σ(-u_{n_i} · c)        n_i ~ q,  q(n) ∝ (count of n)^{3/4}

c context (…, hidden), u output vectors (words, hidden). At its optimum u_w · c = log p(w | c) - log (k q(w)), where p
is the share that w has among the words found in context c. So u · c + log q are scores whose softmax is p, and these
are what a model trained in this way answers: u · c alone would prefer whatever is rare.

Source: Mikolov et al. 2013, arXiv:1310.4546, section 2.2, equation 4; the optimum: Levy & Goldberg 2014, NeurIPS,
section 3.1, for q of any shape.
Differs: a draw may be the right word itself, as in the equation; word2vec's code leaves such draws out. A word that the
text does not hold counts as if it came up once.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from retrograde.core.choices import require_at_least

POWER = 0.75
"""What flattens the noise: arXiv:1310.4546, section 2.2."""


def neighbours(
    lengths: Int[Tensor, " batch"], time: int, window: int | Int[Tensor, "batch 1 time"] | Int[Tensor, "batch time 1"]
) -> Bool[Tensor, "batch time time"]:
    """Whether the last axis's position is a neighbour of the one before: another, real, at most ``window`` away.

    A window of its own may stand for each position, on either of the two axes.
    """
    position = torch.arange(time, device=lengths.device)
    distance = (position[:, None] - position).abs()
    real = (position < lengths[:, None]).unsqueeze(1)
    return (distance > 0) & (distance <= window) & real


def mean_over(
    neighbours: Bool[Tensor, "batch time time"], values: Float[Tensor, "batch time size"]
) -> Float[Tensor, "batch time size"]:
    """At every position the mean of its neighbours' values; zero at one that has none."""
    weights = neighbours.to(values.dtype)
    return weights @ values / weights.sum(-1, keepdim=True).clamp(min=1)


def small_vectors(words: int, hidden: int) -> nn.Embedding:
    """A vector for every word, at the start evenly between -1/(2 hidden) and 1/(2 hidden), as in word2vec's code."""
    require_at_least("hidden", hidden, 1)
    vectors = nn.Embedding(words, hidden)
    nn.init.uniform_(vectors.weight, -0.5 / hidden, 0.5 / hidden)
    return vectors


class Noise(nn.Module):
    """The distribution q of the words that the right one is told from, ``draws`` at a time."""

    shares: Tensor

    def __init__(self, frequencies: Sequence[int], draws: int) -> None:
        super().__init__()
        self.draws = draws
        counts = torch.tensor(frequencies, dtype=torch.float64).clamp(min=1) ** POWER
        # of the task, not learnt: not among the weights that are kept
        self.register_buffer("shares", (counts / counts.sum()).to(torch.get_default_dtype()), persistent=False)

    def drawn(self, *shape: int) -> Int[Tensor, "*shape draws"]:
        """Words from torch's global generator."""
        count = torch.Size(shape).numel() * self.draws
        if count == 0:  # which multinomial refuses
            return torch.zeros(*shape, self.draws, dtype=torch.long, device=self.shares.device)
        return torch.multinomial(self.shares.float(), count, replacement=True).view(*shape, self.draws)

    def losses(
        self,
        context: Float[Tensor, "*place hidden"],
        word: Int[Tensor, "*place"],
        vectors: Float[Tensor, "words hidden"],
    ) -> Float[Tensor, "*place"]:
        """The loss of each word in its context, from draws of its own. No score of any other word is formed."""
        right = (nn.functional.embedding(word, vectors) * context).sum(-1)
        others = nn.functional.embedding(self.drawn(*word.shape), vectors)
        wrong = (others @ context.unsqueeze(-1)).squeeze(-1)
        return -nn.functional.logsigmoid(right) - nn.functional.logsigmoid(-wrong).sum(-1)
