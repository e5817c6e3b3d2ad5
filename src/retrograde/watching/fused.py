"""``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``: the same values, and in backward the total gradient of every state."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from retrograde.core.records import StateGradient
from retrograde.layers.fused import with_totals
from retrograde.watching.activations import plain
from retrograde.watching.calls import Call, overrides, serve
from retrograde.watching.flow import Measured
from retrograde.watching.norms import Norm, difference, share


@serve.register(nn.RNN)
@serve.register(nn.LSTM)
@serve.register(nn.GRU)
def _(module: nn.RNNBase, call: Call) -> Any:
    kind = next(kind for kind in (nn.RNN, nn.LSTM, nn.GRU) if isinstance(module, kind))
    if overrides(module, kind):
        call.leave_out(f"it computes something else than nn.{kind.__name__}")
        return plain(call)
    shown = [getattr(module, name) for name in module._flat_weights_names]
    if any(one is not other for one, other in zip(shown, module._flat_weights, strict=True)):
        # as under torch.nn.utils.parametrize, which the kernel does not ask
        call.leave_out("it computes with other weights than those that it shows")
        return plain(call)
    number = call.step.call(call.layer)
    within = call.step.within()
    given, hx = _arguments(*call.args, **call.kwargs)

    def report(place: str, gradient: StateGradient, lengths: Tensor) -> None:
        layer, _, component = place.rpartition(".")
        passing = call.step.passing(within)
        passing.measured.append(_measured(f"{call.layer}.{layer}".lstrip("."), component, number, gradient, lengths))

    with call.muted():
        made = with_totals(module, given, hx, report)
    if isinstance(made[0], Tensor) and made[0].device.type == "cpu":
        # as the module's own, these may be changed in place; those that the totals are made of may not
        made = made[0].clone(memory_format=torch.contiguous_format), made[1]
    if isinstance(given, PackedSequence):
        call.step.told(int(given.batch_sizes[0]))
    elif given.ndim == 3:
        call.step.told(given.shape[0 if module.batch_first else 1])
    return made


def _arguments(input: Any, hx: Any = None) -> tuple[Any, Any]:
    return input, hx


def _measured(layer: str, component: str, number: int, gradient: StateGradient, lengths: Tensor) -> Measured:
    total, direct = Norm.of(gradient.total), Norm.of(gradient.direct)
    carried = Norm.of(difference(gradient.total, gradient.direct))
    time = torch.tensor(list(gradient.times), device=lengths.device)
    # the state that a direction begins with stands before the first time or behind the last, whatever the lengths
    begins = (time < 0) | (time == len(time) - 1) & (gradient.times.start == 0)
    counts = (time < lengths.unsqueeze(1)) | begins
    return Measured(
        layer,
        component,
        number,
        gradient.times,
        total,
        direct,
        share(total, direct, carried),
        counts,
    )
