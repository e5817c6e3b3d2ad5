r"""Continuous bag of words: a word from the mean of the words around it.

    c_t = 1/|N_t| Σ_{j ∈ N_t} v_{w_j}        N_t = {j : 0 < |j - t| ≤ window}
    y_t = U c_t

w words (batch, time), v input vectors (words, hidden), c context (batch, time, hidden), y output (batch, time, words),
U output vectors (words, hidden), without a bias. N_t are real positions alone; a word without neighbours has c = 0.

Trained by the cross entropy of softmax(y_t) at w_t or, with `negatives` = k > 0, by negative sampling, which forms no
scores but those of w_t and of k drawn words (``layers/neighbourhood.py``). Then y_t = U c_t + log q, q the distribution
of the draws: at the optimum its softmax is the probability of each word in that context.

Source: Mikolov et al. 2013, arXiv:1301.3781, section 3.1; negative sampling: arXiv:1310.4546, section 2.2.
Differs: the full softmax, where the paper's is hierarchical; output vectors start as the input vectors do, where
word2vec's code starts them at zero, so that a gradient flows from the first step; Adam or what else is chosen, where
the paper has stochastic gradients with a falling rate.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch, Trace
from retrograde.core.words import Words
from retrograde.layers.neighbourhood import Noise, mean_over, neighbours, small_vectors
from retrograde.layers.opened import Opened


class CBOW(SequenceModel):
    """The states are the input vectors (layer 0) and the mean over each position's neighbours (layer 1)."""

    kinds = ("cloze",)
    causal = False

    def __init__(self, task: Task, hidden: int = 64, window: int = 5, negatives: int = 0) -> None:
        super().__init__()
        require_at_least("window", window, 1)
        require_at_least("negatives", negatives, 0)
        self.window = window
        self.input = small_vectors(task.inputs.size, hidden)
        self.output = small_vectors(task.outputs.size, hidden)
        self.noise: Noise | None = None
        if negatives:
            if not isinstance(task.outputs, Words):
                raise ValueError(f"negatives={negatives} needs a task that counts its words; 0 is the full softmax")
            self.noise = Noise(task.outputs.frequencies, negatives)

    @property
    def vectors(self) -> Float[Tensor, "words hidden"]:
        """The words' vectors: those that they have as neighbours."""
        return self.input.weight.detach()

    def forward(self, batch: Batch) -> Float[Tensor, "batch time words"]:
        return self._scores(self._context(batch, self.input(batch.inputs)))

    def objective(self, task: Task, batch: Batch) -> tuple[Float[Tensor, " batch"], Tensor | None]:
        if self.noise is None:
            return super().objective(task, batch)
        context = self._context(batch, self.input(batch.inputs))
        losses = self.noise.losses(context, batch.targets, self.output.weight)
        return sample_means(losses, batch.scored), None

    def trace(self, batch: Batch, perturb: Mapping[str, Tensor] | None = None) -> Trace:
        opened = Opened(perturb)
        embedding = opened.kept("0.forward.embedding", opened.read(self.input(batch.inputs)))
        context = opened.kept("1.forward.context", self._context(batch, embedding))
        return opened.trace(self._scores(context))

    @property
    def state_size(self) -> int:
        """The vectors of the neighbours, which is what a run position by position has to carry."""
        return 2 * self.window * self.input.embedding_dim

    def _context(self, batch: Batch, embedding: Float[Tensor, "batch time hidden"]) -> Tensor:
        return mean_over(neighbours(batch.lengths, batch.length, self.window), embedding)

    def _scores(self, context: Float[Tensor, "batch time hidden"]) -> Tensor:
        scores = context @ self.output.weight.mT
        return scores if self.noise is None else scores + self.noise.shares.log()
