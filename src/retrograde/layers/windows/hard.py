r"""Hard attention: one slot, drawn from the softmax.

    s_t ~ Categorical(softmax(e_t)) in training, the likeliest slot otherwise

A draw has no gradient; the score learns by REINFORCE. To a sample's loss L comes

    r (L - b) Σ_t log p(s_t) - h H          b ← 0.9 b + 0.1 L

over the target's positions t, H the mean entropy there. With r = 1 and h = 0 the gradient is on the average over draws
that of the expected loss.

Source: Xu et al. 2015, arXiv:1502.03044, section 4.1, eqs. 11 and 12.
Differs: one draw a sequence; L is the mean over the target's positions, where the paper has the sum.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retrograde.core.choices import require_at_least
from retrograde.layers.windows.window import Window, filled, shared


class Hard(Window):
    """One slot of the source. ``reinforce`` is r, ``entropy`` is h."""

    baseline: Tensor

    def __init__(self, query: int, reinforce: float = 1.0, entropy: float = 0.01) -> None:
        super().__init__()
        require_at_least("window.reinforce", reinforce, 0)
        require_at_least("window.entropy", entropy, 0)
        self.reinforce = reinforce
        self.entropy = entropy
        self.register_buffer("baseline", torch.zeros(()))

    def share(
        self,
        weights: Mapping[str, Tensor],
        energy: Float[Tensor, "... slots"],
        query: Float[Tensor, "... query"],
        time: Float[Tensor, "... 1"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, "... slots"]:
        """The likeliest slot alone."""
        likely = self.probabilities(energy, lengths).argmax(-1, keepdim=True)
        return torch.zeros_like(energy).scatter(-1, likely, 1)

    def probabilities(
        self, energy: Float[Tensor, "... slots"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "... slots"]:
        """What a slot is drawn from."""
        return shared(energy, filled(lengths, energy.shape[-1]))

    def drawn(
        self, probabilities: Float[Tensor, "batch target slots"]
    ) -> tuple[Float[Tensor, "batch target slots"], Float[Tensor, "batch target"], Float[Tensor, "batch target"]]:
        """One slot at each position, the logarithm of its probability, and the entropy in nats."""
        known = torch.isfinite(probabilities).all(-1, keepdim=True)
        even = probabilities.detach().where(known, 1.0)  # a run that explodes goes on to its end, and is recorded
        slot = torch.multinomial(even.flatten(0, -2), 1).view(*probabilities.shape[:-1], 1)
        one = torch.zeros_like(probabilities).scatter(-1, slot, 1)
        positive = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny)  # the slope at 0 is infinite
        return one, probabilities.gather(-1, slot).squeeze(-1).log(), torch.special.entr(positive).sum(-1)

    def surrogate(
        self,
        losses: Float[Tensor, " batch"],
        chosen: Float[Tensor, "batch target"],
        entropy: Float[Tensor, "batch target"],
        counts: Bool[Tensor, "batch target"],
    ) -> Float[Tensor, " batch"]:
        """The losses, unchanged in value, with the draw's part of the gradient; moves the baseline."""
        mean = losses.detach()
        number = counts.sum(1)
        advantage = mean - self.baseline
        term = self.reinforce * advantage * chosen.where(counts, 0.0).sum(1)
        term = term - self.entropy * entropy.where(counts, 0.0).sum(1) / number
        self.baseline.mul_(0.9).add_(0.1 * mean.mean())
        return losses + term - term.detach()
