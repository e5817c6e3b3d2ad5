"""The layers in C++ against those of torch.nn, and what is said where they cannot be had.

That their totals are those of live nodes, and are read far below a format, is held in test_fused.py; that they equal
the loop as forms of a layer, and seed by seed, in contracts/test_forms.py and train/test_company.py.
"""

import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retrograde.core.recurrence import sequence
from retrograde.layers import compiled
from retrograde.layers.cells import ElmanCell
from retrograde.layers.seeds import of_seeds

MODULES: dict[str, Callable[..., nn.RNNBase]] = {
    "RNN_TANH": nn.RNN,
    "RNN_RELU": lambda *sizes, **settings: nn.RNN(*sizes, nonlinearity="relu", **settings),
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
}
SIZES = {  # batch, time, width, hidden
    "narrower than a register": (3, 7, 2, 3),
    "in blocks, and not whole registers": (37, 40, 5, 21),
    "several pieces of time": (16, 300, 3, 64),
    "one step of one sample": (1, 1, 1, 1),
}
pytestmark = pytest.mark.usefixtures("cpp")


@pytest.fixture(params=MODULES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def begun(mode: str, batch: int, hidden: int) -> list[Tensor]:
    return [torch.randn(1, batch, hidden, requires_grad=True) for _ in range(2 if mode == "LSTM" else 1)]


def computed(module: nn.RNNBase, x: Tensor, begin: list[Tensor]) -> Tensor:
    """(batch, time, hidden), of a module whose batch is the first axis."""
    weights = [weight[None] for weight in module.parameters()]
    return compiled.layer(module.mode, x.transpose(0, 1)[None], begin, weights)[0][0].transpose(0, 1)


def by_torch(module: nn.RNNBase, x: Tensor, begin: list[Tensor]) -> Tensor:
    outputs: Tensor = module(x, begin[0] if len(begin) == 1 else tuple(begin))[0]
    return outputs


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_values_and_gradients_are_those_of_torch(mode: str, sizes: tuple[int, ...], float64: None) -> None:
    batch, time, width, hidden = sizes
    module, x = MODULES[mode](width, hidden, batch_first=True), torch.randn(batch, time, width, requires_grad=True)
    begin, said = begun(mode, batch, hidden), torch.randn(batch, time, hidden)
    of = [x, *begin, *module.parameters()]
    made, expected = (form(module, x, begin) for form in (computed, by_torch))
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-14)
    for gradient, its in zip(*(torch.autograd.grad(y, of, said) for y in (made, expected)), strict=True):
        assert (gradient - its).abs().max() <= 1e-13 * its.abs().max()


def test_in_float32_it_is_as_near_to_float64_as_torch(mode: str) -> None:
    torch.manual_seed(0)
    module, x, said = MODULES[mode](3, 37, batch_first=True), torch.randn(20, 200, 3), torch.randn(20, 200, 37)
    begin = [part.detach() for part in begun(mode, 20, 37)]
    double = MODULES[mode](3, 37, batch_first=True).double()
    double.load_state_dict(module.state_dict())

    def gradients(form: Any, module: nn.RNNBase) -> Tensor:
        dtype = module.weight_hh_l0.dtype
        y = form(module, x.to(dtype), [part.to(dtype) for part in begin])
        return torch.cat([part.flatten() for part in torch.autograd.grad(y, list(module.parameters()), said.to(dtype))])

    exact = gradients(by_torch, double)
    ours, torchs = ((gradients(form, module) - exact).norm() for form in (computed, by_torch))
    assert ours <= 4 * torchs


def test_two_threads_and_one_agree_and_each_repeats_itself_to_the_bit(mode: str) -> None:
    module, x = MODULES[mode](3, 16, batch_first=True), torch.randn(32, 50, 3)
    begin = begun(mode, 32, 16)
    before, found = torch.get_num_threads(), {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs = []
            for _ in range(2):
                y = computed(module, x, begin)
                runs.append([y, *torch.autograd.grad(y.square().sum(), [*begin, *module.parameters()])])
            assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))
            found[threads] = runs[0]
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found.values(), strict=True):
        assert (one - other).abs().max() <= 1e-5 * one.abs().max()


def test_no_two_gradients_share_their_memory(mode: str) -> None:
    """Otherwise what clips them, in place, would do so twice."""
    module = MODULES[mode](2, 4, batch_first=True)
    computed(module, torch.randn(3, 5, 2), begun(mode, 3, 4)).sum().backward()
    places = {part.grad.untyped_storage().data_ptr() for part in module.parameters() if part.grad is not None}
    assert len(places) == 4


def test_seeds_are_those_of_torchs_operations(mode: str, float64: None) -> None:
    seeds, batch, time, width, hidden = 3, 5, 9, 2, 7
    gates = compiled.GATES[mode] * hidden
    x = torch.randn(seeds, batch, time, width, requires_grad=True)
    begin = [torch.randn(seeds, batch, hidden, requires_grad=True) for _ in range(2 if mode == "LSTM" else 1)]
    shapes = ((gates, width), (gates, hidden), (gates,), (gates,))
    weights = [torch.randn(seeds, *shape).mul(0.5).requires_grad_() for shape in shapes]
    said, found = torch.randn(seeds, batch, time, hidden), []
    for in_cpp in (False, True):
        outputs, last = torch.func.vmap(lambda *given, how=in_cpp: of_seeds(mode, *given, how))(
            x, tuple(begin), tuple(weights)
        )
        found.append([outputs, *torch.autograd.grad(outputs, [x, *begin, *weights], said)])
        found[-1] += [last] if mode == "LSTM" else []
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_an_explosion_stays_one() -> None:
    module = nn.RNN(1, 2, nonlinearity="relu", batch_first=True)
    module.weight_hh_l0.data.copy_(4 * torch.eye(2))
    x = torch.ones(2, 100, 1)
    begin = [torch.ones(1, 2, 2)]
    y, expected = computed(module, x, begin), by_torch(module, x, begin)
    assert torch.equal(y.isinf(), expected.isinf()) and y.isinf().any()
    gradient, its = (torch.autograd.grad(each.sum(), module.weight_hh_l0)[0] for each in (y, expected))
    assert not gradient.isfinite().any() and not its.isfinite().any()


def test_what_has_vanished_is_not_computed_with(float64: None) -> None:
    """Numbers below the normal ones take ten times as long; so counted, not timed: none is handed on."""
    module = nn.RNN(1, 4, batch_first=True).float()
    module.weight_hh_l0.data.copy_(0.01 * torch.eye(4))
    x = torch.randn(2, 60, 1, dtype=torch.float32, requires_grad=True)
    y = computed(module, x, [torch.zeros(1, 2, 4, dtype=torch.float32)])
    (of_x,) = torch.autograd.grad(y[:, -1].sum(), x)
    sizes = of_x.abs()
    assert (sizes[:, -15:] > 0).all() and not sizes[:, :30].any()
    assert not ((sizes > 0) & (sizes < torch.finfo(torch.float32).tiny)).any()
    tiny = torch.tensor([1e-40]) * 1  # and elsewhere they are numbers as before
    assert tiny.item() > 0


def test_nothing_is_asked_of_what_does_not_learn(mode: str) -> None:
    module = MODULES[mode](2, 4, batch_first=True).requires_grad_(False)
    x = torch.randn(3, 5, 2, requires_grad=True)
    computed(module, x, [part.detach() for part in begun(mode, 3, 4)]).sum().backward()
    assert x.grad is not None and all(part.grad is None for part in module.parameters())


@pytest.mark.usefixtures("cpp")
def test_a_gradient_passes_a_rectified_state_that_is_no_number_as_with_torch() -> None:
    torch.manual_seed(0)
    cell = ElmanCell(1, 1, "relu")
    found = {}
    for form in ("loop", "fused", "chunked", "compiled"):
        cell.form = form
        cell.zero_grad()
        sequence(cell, torch.tensor([[[math.nan], [2.0]]])).sum().backward()
        found[form] = [parameter.grad.flatten().tolist() for parameter in cell.parameters()]
    assert str(found["loop"]) == str(found["fused"]) == str(found["chunked"]) == str(found["compiled"])
    assert math.isfinite(found["loop"][2][0])


def test_where_there_is_no_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler 'no-such-compiler'" in str(compiled._library.__wrapped__())


def test_what_the_compiler_says_is_kept_and_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho once >> $0.log\necho 'no such standard' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("RETROGRADE_CACHE", str(tmp_path))
    for _ in range(2):
        assert "cannot build compiled.cpp" in str(compiled._library.__wrapped__())
    assert (tmp_path / "compiler.log").read_text() == "once\n"
    (failed,) = tmp_path.glob("compiled-*.failed")
    assert "no such standard" in failed.read_text()


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("kill -9 $$", "ended by signal 9"),
        ("echo 'cc1plus: out of memory allocating 65536 bytes' >&2; exit 1", "could not go on: cc1plus: out of memory"),
        ("echo 'fatal error: error writing to a.s: No space left on device' >&2; exit 1", "No space left"),
    ],
    ids=["killed", "memory", "disk"],
)
def test_a_compiler_that_ran_short_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, does: str, said: str
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\n{does}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("RETROGRADE_CACHE", str(tmp_path))
    assert said in str(compiled._library.__wrapped__())
    assert not list(tmp_path.glob("*.failed"))


def test_a_damaged_file_is_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder of its own: a process loads a path once."""
    whole = compiled._library()
    assert not isinstance(whole, str)
    damaged = tmp_path / Path(whole._name).name
    damaged.touch()
    monkeypatch.setenv("RETROGRADE_CACHE", str(tmp_path))
    assert not isinstance(compiled._library.__wrapped__(), str)
    assert list(tmp_path.glob("compiled-*.so")) == [damaged] and damaged.stat().st_size > 1000


def test_what_does_not_fit_is_refused_and_not_read(float64: None) -> None:
    module, x = nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3)
    begin = begun("LSTM", 2, 4)
    computed(module, x, begin)
    for inputs, states in (
        (torch.randn(2, 5, 6), begin),
        (x.float(), begin),
        (x, [part[:, :1] for part in begin]),
        (x, [part.float() for part in begin]),
        (x, begin[:1]),
    ):
        with pytest.raises(ValueError, match="LSTM"):
            computed(module, inputs, states)


def test_a_folder_that_cannot_be_written_to_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETROGRADE_CACHE", "/proc/nowhere")
    assert "cannot be built" in str(compiled._library.__wrapped__())


def test_it_compiles_without_a_warning(tmp_path: Path) -> None:
    """But for those of torch's own headers, which are left out as a system's are."""
    home = Path(torch.__file__).parent
    flags = [flag for flag in compiled.FLAGS if flag not in ("-w", "-shared")]
    capability = torch.backends.cpu.get_cpu_capability()
    command = [
        "g++",
        *flags,
        *compiled.CAPABILITIES[capability],
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-maybe-uninitialized",
    ]
    command += [f"-DCPU_CAPABILITY={capability}", f"-DCPU_CAPABILITY_{capability}", "-isystem", str(home / "include")]
    done = subprocess.run(
        [*command, "-c", str(compiled.SOURCE), "-o", str(tmp_path / "made.o")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
