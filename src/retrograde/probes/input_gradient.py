r"""What the loss says of each input: the gradient at it, and what it adds to the loss to first order.

    norm       ‖dL/dx_t‖
    product    x_t · dL/dx_t, of either sign: what the loss would lose, to first order, if x_t were 0

x_t the vector that the model reads the input at time t as: the input itself where that is a vector of real numbers,
else the token's embedding. L is the mean loss over one sample's scored positions. Per sample, norms in log10, then mean
and quantiles over the batch. Where the task leads from a source to a target these are the source's inputs. Nothing for
a model that does not read vectors.

The gradient comes out of the model as plain numbers: below what these hold it is censored.

Source: Simonyan, Vedaldi, Zisserman 2013, arXiv:1312.6034, section 3; product: Shrikumar et al. 2016, arXiv:1605.01713.
Cost: none beyond the snapshot.
"""

from collections.abc import Iterable

import torch

from retrograde.core.contracts import Snapshot
from retrograde.core.records import Reading
from retrograde.core.scaled import log10_norm, power_of_two
from retrograde.core.statistics import STATISTICS, log10_statistics, plain_status, present, signed_statistics
from retrograde.core.statuses import CENSORED, ZERO


class InputGradient:
    """Readings ``norm`` and ``product`` of the inputs, over time."""

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        inputs, gradient = snapshot.trace.inputs, snapshot.inputs
        if inputs is None or gradient is None:
            return
        counts = present(snapshot.batch, gradient.times)
        kept = counts.any(0)
        times = [time for time, keep in zip(gradient.times, kept.tolist(), strict=True) if keep]
        dims = {"statistic": STATISTICS, "time": times}
        norm, status = log10_norm(gradient.total)
        values, statuses = log10_statistics(norm[:, kept], status[:, kept], counts[:, kept])
        yield Reading("norm/inputs", values.cpu().numpy(), dims, "log10 loss per input", statuses.cpu().numpy())
        # in float64, where the product of two numbers of float32 always has its place
        slope = power_of_two(gradient.total.mantissa.to(torch.float64), gradient.total.exponent)
        product = (inputs.to(torch.float64) * slope).sum(-1)
        lost = (status == ZERO) | (status == CENSORED)
        values, statuses = signed_statistics(
            product.masked_fill(lost, 0.0)[:, kept],
            torch.where(lost, status, plain_status(product))[:, kept],
            counts[:, kept],
        )
        yield Reading("product/inputs", values.cpu().numpy(), dims, "loss", statuses.cpu().numpy())
