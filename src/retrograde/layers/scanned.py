r"""The sweep of a recurrence whose entries do not mix, as one scan for all times.

    h_t = a_t ⊙ h_{t-1} + b_t
    g_t = d_t + ā_{t+1} ⊙ g_{t+1}

a what the recurrence says it has ``kept`` of every entry, real or complex, d direct and g total gradient. A recurrence
need not be linear for its sweep to be so: a_t may be made of h_{t-1}, as where a unit has been shut.

**Range.** Every entry has a power of two of its own, known before the scan, from a bound on what it can have become:

    m_t = max over s ≥ t of log₂|d_s| + log₂|a_{t+1}| + … + log₂|a_s|        E_t = ⌈m_t⌉
    g_t = 2^{E_t} G_t        G_t = 2^{-E_t} d_t + 2^{E_{t+1}-E_t} ā_{t+1} ⊙ G_{t+1}

The largest term of the sum that G_t is lies between ½ and 1; products of its decays are at most 2, and multiplying by a
power of two is exact. What is carried, ā_{t+1} ⊙ g_{t+1}, is had by itself, so that nothing larger that joins it takes
its digits. The bound is a sum and a running maximum, and needs no loop either.
"""

import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor

from retrograde.core.records import State
from retrograde.core.recurrence import Recurrence, clocked, unroll
from retrograde.core.scaled import Scaled, power_of_two
from retrograde.core.sweep import Stepped, Sweepable, Unrolled, common_scale, reach, read_out
from retrograde.layers.scans import scan

NEVER = -1e5
"""log₂ of a decay of 0: less than any product of others, and small enough for sums of it to keep their digits."""

LOWEST = -(2**28)
"""The power of two of what nothing has reached; differences of two are still of 32 bits."""


def scanned(recurrence: Recurrence, inputs: Tensor, initial: State | None = None) -> Sweepable:
    """A linear recurrence whose entries do not mix; in half precision, which rounds at every step, by steps."""
    if inputs.dtype not in (torch.float32, torch.float64):
        return Unrolled(recurrence, inputs, initial=initial)
    with torch.no_grad():
        clock = clocked(recurrence, inputs)
        begin = recurrence.initial_state(clock) if initial is None else initial
        nothing = {name: value.new_zeros(()).expand(inputs.shape[1], *value.shape) for name, value in begin.items()}
        x, weights = clock.transpose(0, 1), recurrence.weights()
        kept, added = (part(weights, x, nothing) for part in (recurrence.kept, recurrence.step))
        states = {name: _states(kept[name], added[name], value) for name, value in begin.items()}
    return Scanned(recurrence, inputs, states)


def swept_by_scan(recurrence: Recurrence, inputs: Tensor, initial: State | None = None) -> Sweepable:
    """A recurrence that is not linear but whose entries do not mix: forward by steps, back by a scan."""
    if inputs.dtype not in (torch.float32, torch.float64):
        return Unrolled(recurrence, inputs, initial=initial)
    with torch.no_grad():
        states = unroll(recurrence, inputs, initial=initial)
    return Scanned(recurrence, inputs, states)


class Scanned(Stepped):
    """A recurrence along a batch whose every component is carried on by what is ``kept`` of it, and by nothing else."""

    def __init__(
        self, recurrence: Recurrence, inputs: Tensor, states: dict[str, Float[Tensor, "batch states ..."]]
    ) -> None:
        self.recurrence = recurrence
        self.columns = inputs.shape[-1]
        self.inputs = clocked(recurrence, inputs)
        self.weights = {name: weight.detach() for name, weight in recurrence.weights().items()}
        self.states = states
        self.outputs = read_out(recurrence, self.weights, self.inputs, states)

    def back(self, direct: dict[str, Scaled]) -> tuple[dict[str, Scaled], dict[str, Scaled]]:
        before = {name: value[:, :-1].transpose(0, 1) for name, value in self.states.items()}
        with torch.no_grad():
            kept = self.recurrence.kept(self.weights, self.inputs.transpose(0, 1), before)
        reached, later = reach(next(iter(direct.values())))  # the components share it
        made = {name: _back(kept[name].transpose(0, 1), part) for name, part in direct.items()}
        total, carried = ({name: parts[which] for name, parts in made.items()} for which in (0, 1))
        return (
            common_scale({name: _by_sample(*part, reached) for name, part in total.items()}),
            common_scale({name: _by_sample(*part, later) for name, part in carried.items()}),
        )


def _states(kept: Inexact[Tensor, "time batch *state"], added: Tensor, initial: Tensor) -> Tensor:
    """All states, the initial one first; of a complex recurrence they come and go as pairs."""
    paired = kept.is_complex()
    if paired:
        added, initial = torch.view_as_complex(added.contiguous()), torch.view_as_complex(initial.contiguous())
    made = scan(kept.transpose(0, 1), added.transpose(0, 1), initial)
    made = torch.cat([initial.unsqueeze(1), made], 1)
    return torch.view_as_real(made) if paired else made


def _back(
    kept: Inexact[Tensor, "batch time *state"], direct: Scaled
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Of states 0 to T totals and what is carried to them, each with the powers of two of its entries."""
    said = torch.view_as_complex(direct.mantissa.contiguous()) if kept.is_complex() else direct.mantissa
    exponent = direct.exponent.reshape(direct.exponent.shape + (1,) * (said.ndim - 2))
    power = _bound(kept, said, exponent)
    kept = kept.conj().resolve_conj()
    scaled = _shifted(said, exponent - power)
    made = scan(_shifted(kept, power[:, 1:] - power[:, :-1]), scaled[:, :-1], scaled[:, -1], reverse=True)
    total = torch.cat([made, scaled[:, -1:]], 1)
    carried = torch.cat([kept * total[:, 1:], torch.zeros_like(total[:, :1])], 1)
    later = torch.cat([power[:, 1:], power[:, -1:]], 1)
    return (total, power), (carried, later)


def _bound(
    kept: Inexact[Tensor, "batch time *state"], said: Tensor, exponent: Int[Tensor, "batch states ..."]
) -> Int[Tensor, "batch states *state"]:
    """E of every entry. What is no number counts as 1, and remains what it is."""
    own = said.abs().to(torch.float64).log2().nan_to_num(nan=0.0, posinf=0.0, neginf=-torch.inf) + exponent
    decay = kept.abs().to(torch.float64).log2().nan_to_num(nan=0.0, posinf=0.0, neginf=NEVER)
    passed = torch.cat([torch.zeros_like(own[:, :1]), decay.cumsum(1)], 1)
    largest = (own + passed).flip(1).cummax(1).values.flip(1) - passed
    return largest.ceil().clamp(min=LOWEST).to(torch.int32)


def _shifted(value: Inexact[Tensor, "..."], power: Int[Tensor, "..."]) -> Inexact[Tensor, "..."]:
    """value · 2^power, entry by entry."""
    if not value.is_complex():
        return power_of_two(value, power)
    return torch.view_as_complex(power_of_two(torch.view_as_real(value), power))


def _by_sample(value: Tensor, power: Tensor, reached: Tensor) -> Scaled:
    """With one power of two for each sample and time, that of the largest entry; pairs where it is complex."""
    least = torch.iinfo(power.dtype).min
    largest = power.where(value != 0, least).flatten(2).amax(-1)
    exponent = largest.where(largest != least, 0)
    mantissa = _shifted(value, power - exponent.reshape(exponent.shape + (1,) * (value.ndim - 2)))
    return Scaled(torch.view_as_real(mantissa) if value.is_complex() else mantissa, exponent, reached)
