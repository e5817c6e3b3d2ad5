r"""Skip-gram: each of a word's neighbours from the word alone.

    p(w | w_j) = softmax(U v_{w_j} + b)_w        b = 0
    loss = - Σ_j Σ_{t ∈ N_j} log p(w_t | w_j) / (number of pairs)        N_j = {t : 0 < |t - j| ≤ R_j}
    y_t = 1/|N_t| Σ_{j ∈ N_t} log p(· | w_j)        N_t = {j : 0 < |j - t| ≤ window}

w words (batch, time), v input vectors (words, hidden), U output vectors (words, hidden), y output (batch, time, words).
N are real positions alone; a pair is left out where t is not scored; y = 0 at a word without neighbours.

The paper has the centre j tell its neighbours t. For an output at t the same pairs are gathered by t: y_t is what t's
neighbours say of it, each alone, and its softmax is the geometric mean of their distributions. With R_j = window every
pair counts in both directions, so gathering by centre or by target gives one loss: the mean of -y_t at w_t, but that
positions near the ends, which have fewer neighbours, weigh less. With `dynamic_window` R_j is drawn evenly from
1 … window for every centre of every batch in training, so that what stands nearer counts more.

Trained by the full softmax or, with `negatives` = k > 0, by negative sampling, which draws k words for every pair and
forms no other scores (``layers/neighbourhood.py``). Then b = log q, q the distribution of the draws: at the optimum the
softmax is the probability of each word beside w_j.

Source: Mikolov et al. 2013, arXiv:1301.3781, section 3.2 (R), and arXiv:1310.4546, equations 1 and 2; negative
sampling: equation 4.
Differs: the mean over pairs, where equation 1 has the sum over a word's pairs; output vectors start as the input
vectors do, where word2vec's code starts them at zero; Adam or what else is chosen, where the papers have stochastic
gradients with a falling rate.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, Trace
from retrograde.core.words import Words
from retrograde.layers.neighbourhood import Noise, mean_over, neighbours, small_vectors
from retrograde.layers.opened import Opened


class SkipGram(SequenceModel):
    """The states are the input vectors, layer 0."""

    kinds = ("cloze",)
    causal = False

    def __init__(
        self, task: Task, hidden: int = 64, window: int = 5, dynamic_window: bool = True, negatives: int = 0
    ) -> None:
        super().__init__()
        require_at_least("window", window, 1)
        require_at_least("negatives", negatives, 0)
        self.window = window
        self.dynamic_window = dynamic_window
        self.input = small_vectors(task.inputs.size, hidden)
        self.output = small_vectors(task.outputs.size, hidden)
        self.noise: Noise | None = None
        if negatives:
            if not isinstance(task.outputs, Words):
                raise ValueError(f"negatives={negatives} needs a task that counts its words; 0 is the full softmax")
            self.noise = Noise(task.outputs.frequencies, negatives)

    @property
    def vectors(self) -> Float[Tensor, "words hidden"]:
        """The words' vectors: those that they have as centres."""
        return self.input.weight.detach()

    def forward(self, batch: Batch) -> Float[Tensor, "batch time words"]:
        return self._outputs(batch, self.input(batch.inputs))

    def objective(self, task: Task, batch: Batch) -> tuple[Float[Tensor, " batch"], Tensor | None]:
        """The mean over a sample's pairs; 0 where it has none. It takes no outputs."""
        pairs = self._pairs(batch)
        embedding = self.input(batch.inputs)
        sample, target, centre = pairs.nonzero(as_tuple=True)
        if self.noise is None:
            losses = -self._said(embedding)[sample, centre, batch.targets[sample, target]]
        else:
            losses = self.noise.losses(embedding[sample, centre], batch.targets[sample, target], self.output.weight)
        sums = losses.new_zeros(len(batch)).index_add(0, sample, losses)
        return sums / pairs.sum((1, 2)).clamp(min=1), None

    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        opened = Opened(perturb)
        embedding = opened.kept("0.forward.embedding", opened.read(self.input(batch.inputs)))
        return opened.trace(self._outputs(batch, embedding))

    @property
    def state_size(self) -> int:
        """The vectors of the neighbours, which is what a run position by position has to carry."""
        return 2 * self.window * self.input.embedding_dim

    def _said(self, embedding: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "batch time words"]:
        """log p(· | w_j) at every j."""
        scores = embedding @ self.output.weight.mT
        return torch.log_softmax(scores if self.noise is None else scores + self.noise.shares.log(), -1)

    def _outputs(self, batch: Batch, embedding: Float[Tensor, "batch time hidden"]) -> Tensor:
        return mean_over(neighbours(batch.lengths, batch.length, self.window), self._said(embedding))

    def _pairs(self, batch: Batch) -> Bool[Tensor, "batch time time"]:
        """Whether a target (second axis) is due from a centre (last axis)."""
        reach: int | Tensor = self.window
        if self.dynamic_window:
            device = self.input.weight.device
            reach = torch.randint(1, self.window + 1, (len(batch), 1, batch.length), device=device)
        return neighbours(batch.lengths, batch.length, reach) & batch.scored.unsqueeze(-1)
