r"""How much each state still matters to the loss: its total gradient, and what of it is direct.

    total    ‖dL/dz_t‖       along every later path
    direct   ‖∂L/∂z_t‖       with the layer's states at other times held fixed: what autograd shows of a fused layer
    carried  share of the total that came through later states, ‖total - direct‖ / (‖direct‖ + ‖total - direct‖)

z_t one component of a layer's state after input t (t = -1: the initial state). L is the mean loss over one sample's
scored positions. Norms are of one sample, in log10, then their mean and quantiles over the batch; the norm of the
mean gradient is another quantity.

Source: Hochreiter 1991; Bengio, Simard, Frasconi 1994; the components apart: Hochreiter & Schmidhuber 1997.
Cost: none beyond the snapshot.
"""

import math
from collections.abc import Iterable

import torch

from retrograde.core.contracts import Snapshot
from retrograde.core.records import Reading
from retrograde.core.scaled import log10_norm
from retrograde.core.statistics import STATISTICS, linear_statistics, log10_statistics, present
from retrograde.core.statuses import CENSORED, ZERO


class StateGradient:
    """Readings ``total``, ``direct`` and ``carried`` for every component of every layer, over time."""

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        for key, gradient in snapshot.gradients.items():
            counts = present(snapshot.batch, gradient.times, key in snapshot.trace.target_side)
            kept = counts.any(0)
            times = [time for time, keep in zip(gradient.times, kept.tolist(), strict=True) if keep]
            dims = {"statistic": STATISTICS, "time": times}
            total, direct = log10_norm(gradient.total), log10_norm(gradient.direct)
            for name, (norm, status) in (("total", total), ("direct", direct)):
                values, statuses = log10_statistics(norm[:, kept], status[:, kept], counts[:, kept])
                yield Reading(
                    f"{name}/{key}", values.cpu().numpy(), dims, "log10 loss per state", statuses.cpu().numpy()
                )
            carried, carried_status = log10_norm(gradient.total - gradient.direct)
            none = (carried_status == ZERO) | (carried_status == CENSORED)  # the difference is nothing
            share = torch.where(none, 0.0, 1 / (1 + 10 ** (direct[0] - carried)))
            share = torch.where(total[1] == CENSORED, math.nan, share)  # nobody knows which part is lost
            yield Reading(
                f"carried/{key}", linear_statistics(share[:, kept], counts[:, kept]).cpu().numpy(), dims, "share"
            )
