"""The columns of exactness.py: a probe each, what it is held against, and how.

A check takes a ``Case``, one architecture on one small batch in float64, and gives the worst error of the readings,
over all layers, components, statistics and coordinates; None where the probe does not apply. What is expected is
computed from the definition in the probe's docstring, by plain loops, plain autograd and NumPy, never by the probe's
own helpers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exact import attention, dynamics, gradients
from exact.case import Case

NODES, ELSEWHERE = 1e-10, 1e-6
"""The goals: for totals against live nodes, and for everything else."""


@dataclass(frozen=True)
class Column:
    """``title`` heads it; ``oracle`` says what the ``probe`` is held against."""

    title: str
    probe: str
    oracle: str
    check: Callable[[Case], float | None]
    goal: float = ELSEWHERE


COLUMNS: Sequence[Column] = (
    Column(
        "forms",
        "",
        "outputs and parameters' gradients of the fused form: those of the loop over the steps",
        gradients.forms,
    ),
    Column(
        "total",
        "state_gradient",
        "dL/dz_t: autograd over a loop in which every state is a live node",
        gradients.total,
        NODES,
    ),
    Column(
        "total ±",
        "state_gradient",
        "dL/dz_t: differences of re-runs from a changed state",
        gradients.total_by_differences,
    ),
    Column(
        "direct", "state_gradient", "∂L/∂z_t: the total of live nodes where the recurrence is cut", gradients.direct
    ),
    Column(
        "carried", "state_gradient", "share of the total less the direct one, both of live nodes", gradients.carried
    ),
    Column("input", "input_gradient", "autograd over the loop; of real inputs differences too", gradients.inputs),
    Column(
        "lag",
        "lag_gradient",
        "live nodes, one target's loss at a time; horizon, slope and half-life by hand",
        gradients.by_lag,
    ),
    Column("source", "source_gradient", "live nodes of the encoder, one target's loss at a time", gradients.of_source),
    Column(
        "weights",
        "weight_contribution",
        "a weight by a name of its own at every step; summed, the fused form's",
        gradients.weights,
    ),
    Column("omega", "omega", "norms at live nodes before and behind every step", gradients.omega),
    Column("truncate", "truncation", "loops that let go of the gradient at every K inputs", gradients.truncated),
    Column(
        "jacobian", "jacobian", "torch.autograd.functional.jacobian of the step at the loop's states", dynamics.jacobian
    ),
    Column(
        "lyapunov",
        "lyapunov",
        "decompositions of the whole product in 100 digits; the sum as mean ln |det J|; dimension by hand",
        dynamics.lyapunov,
    ),
    Column("gates", "gates", "forget path: what a step hands on of a state whose other paths are cut", dynamics.gates),
    Column(
        "spectrum",
        "recurrent_spectrum",
        "sizes in 30 digits; traces of the weights' powers; the root of WᵀW",
        dynamics.spectrum,
    ),
    Column(
        "hidden",
        "hidden_attention",
        "the matrix applied to its values: what the layer gives",
        attention.hidden_attention,
    ),
    Column("maps", "attention", "entropy, distance, confidence, previous token, row by row", attention.maps),
    Column("alignment", "alignment", "target by target, pair by pair", attention.alignment),
    Column("rollout", "rollout", "the sum over all paths through the layers", attention.rolled),
    Column(
        "influence",
        "influence",
        "every output's number by itself, by the fused form of real inputs",
        gradients.influence,
    ),
    Column("noise", "noise", "mean and scatter of the samples' own gradients", gradients.noise),
    Column("loss", "loss_over_time", "by position, summed and counted by hand", gradients.over_time),
)
