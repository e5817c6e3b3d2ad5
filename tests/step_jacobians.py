"""∂z_t/∂z_{t-1} the plain way: each step by itself, flattened, by torch's own function."""

import torch
from torch import Tensor

from retrograde.core.contracts import Snapshot


def jacobians(on: Snapshot, key: str = "0.forward", sample: int = 0) -> list[Tensor]:
    """Along a sample in the order of reading."""
    course = on.courses[key]
    sizes = [value[0, 0].numel() for value in course.states.values()]

    def made(time: int) -> Tensor:
        def step(flat: Tensor) -> Tensor:
            parts = zip(course.states.items(), flat.split(sizes), strict=True)
            state = {name: part.view(1, *value.shape[2:]) for (name, value), part in parts}
            after = course.recurrence.step(course.weights, course.inputs[sample, time : time + 1], state)
            return torch.cat([after[name].flatten() for name in course.states])

        before = torch.cat([value[sample, time].flatten() for value in course.states.values()])
        return torch.autograd.functional.jacobian(step, before)  # type: ignore[no-any-return]  # one input, one output

    return [made(time) for time in range(int(course.lengths[sample]))]
