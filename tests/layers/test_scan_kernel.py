"""The kernel without a device: its arithmetic in Triton's interpreter, and that it can be compiled for one.

Triton comes with the torch that is built for CUDA; the torch for a CPU is tested without, and this file is skipped.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
]

INTERPRETED = """
import json
import itertools
import torch
from retrograde.layers import scan_kernel, scans

def written_out(decay, inputs, initial, reverse):
    state, states = initial, []
    steps = list(zip(decay.expand_as(inputs).unbind(1), inputs.unbind(1)))
    for a, b in reversed(steps) if reverse else steps:
        state = a * state + b
        states.append(state)
    return torch.stack(states[::-1] if reverse else states, 1)

SHAPES = [
    ((2, -1, 7), (2, -1, 7)),                   # more columns than a program has
    ((1, 1, 3, 1), (2, -1, 3, 2)),              # one decay for all times
    ((2, -1, 3, 1), (2, -1, 3, 2)),             # one for a row: three axes of columns
    ((2, -1, 2, 1, 3), (2, -1, 2, 2, 3)),       # four, which are too many
]
TYPES = torch.float64, torch.float32, torch.complex128, torch.complex64
scans.in_kernel = lambda value: True            # on whatever device
scan_kernel.COLUMNS, scan_kernel.TIMES = 4, 8   # the interpreter goes from number to number
torch.manual_seed(0)
errors = {}
for dtype, (small, shape), reverse in itertools.product(TYPES, SHAPES, (False, True)):
    for length in (1, 19):
        wide = torch.promote_types(dtype, torch.float64)
        decay, inputs = (torch.randn([length if n == -1 else n for n in s], dtype=wide) for s in (small, shape))
        decay *= 0.7
        decay.view(-1)[0], decay.view(-1)[-1] = 0, 1
        initial = torch.randn(inputs[:, 0].shape, dtype=wide)
        exact = [part.requires_grad_() for part in (decay, inputs, initial)]
        given = [part.detach().to(dtype).requires_grad_() for part in exact]
        made, expected = scans.scan(*given, reverse=reverse), written_out(*exact, reverse)
        direct = torch.randn_like(expected)
        ours = torch.autograd.grad(made, given, direct.to(dtype))
        pairs = zip((made, *ours), (expected, *torch.autograd.grad(expected, exact, direct)))
        error = max(float((one - other).abs().max() / other.abs().max().clamp(min=1e-300)) for one, other in pairs)
        errors[f"{dtype} {small} {shape} {reverse} {length}"] = error
print(json.dumps(errors))

for dtype in (torch.float64, torch.complex128):
    given = [torch.randn(1, 3, 2, dtype=dtype), torch.randn(1, 3, 2, dtype=dtype), torch.randn(1, 2, dtype=dtype)]
    assert torch.autograd.gradgradcheck(scans.scan, [part.requires_grad_() for part in given])

time_first = torch.randn(19, 2, 5, dtype=torch.float64).transpose(0, 1)
made = scan_kernel.states(time_first, time_first, time_first[:, 0], True)
assert made.stride() == time_first.stride()
torch.testing.assert_close(made, written_out(time_first, time_first, time_first[:, 0], True))

ones = torch.ones(1, 1000, 1, dtype=torch.bfloat16)
assert scans.scan(torch.ones(1, dtype=torch.bfloat16), ones)[0, -1, 0] == 1000
assert scans.scan(torch.full((1,), 1e-30), torch.ones(1, 50, 1)).eq(1).all()
"""

COMPILED = """
import itertools
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from retrograde.layers.scan_kernel import COLUMNS, TIMES, walk

NUMBERS = {"fp32": (tl.float32, 4), "bf16": (tl.float32, 2), "fp64": (tl.float64, 8)}
names = walk.arg_names
for (number, (precise, size)), paired, adjoint in itertools.product(NUMBERS.items(), (False, True), (False, True)):
    flags = {"PAIRED": paired, "REVERSE": adjoint, "ADJOINT": adjoint, "PRODUCTS": adjoint, "PRECISE": precise}
    flags |= {"TIMES": TIMES // max(1, size * (1 + paired) // 4), "COLUMNS": COLUMNS}
    kinds = ["*" + number] * 6 + ["i32"] * 2 + [("i32",) * 2] + [("i32",) * 4] * 6 + ["constexpr"] * len(flags)
    constants = {(names.index(name),): value for name, value in flags.items()}
    source = ASTSource(fn=walk, signature=dict(zip(names, kinds, strict=True)), constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
    assert made.asm["cubin"]
"""

ROUNDING = {"float64": 1e-12, "complex128": 1e-12, "float32": 2e-5, "complex64": 2e-5}
"""Of the largest entry: 19 steps, some of whose products are added up in another order."""


def printed(script: str, **environment: str) -> str:
    source = str(Path(__file__).parents[2] / "src")
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def test_values_and_gradients_are_those_of_the_loop() -> None:
    errors = json.loads(printed(INTERPRETED, TRITON_INTERPRET="1"))
    assert len(errors) == 64
    for case, error in errors.items():
        assert error < ROUNDING[case.split()[0].removeprefix("torch.")], case


def test_it_compiles_for_a_device_that_is_not_there(tmp_path: Path) -> None:
    """Of what the interpreter lets pass the compiler need not know all."""
    printed(COMPILED, TRITON_CACHE_DIR=str(tmp_path))
