"""The watch itself: what it takes, what it keeps, what it says, and what it leaves behind."""

import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import retrograde
from retrograde.core.statistics import STATISTICS
from watched import watched


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


def test_to_import_it_takes_neither_hydra_nor_lightning_nor_wandb() -> None:
    script = (
        "import sys, retrograde; retrograde.watch; retrograde.step; retrograde.log_spaced;"
        "print([name for name in ('hydra', 'omegaconf', 'pytorch_lightning', 'wandb') if name in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"


def test_the_frame_has_a_row_for_every_component_time_and_statistic() -> None:
    model, x = Recurrent(), torch.randn(6, 5, 3)
    with retrograde.watch(model) as flow:
        model(x).pow(2).mean().backward()
    frame = flow.frame()
    columns = "step layer component call backward time statistic total direct carried status direct_status"
    assert list(frame.columns) == columns.split()
    rows = frame[frame.layer == "rnn.0.forward"]
    assert len(rows) == 6 * len(STATISTICS) and set(rows.statistic) == set(STATISTICS)
    samples, _ = watched(model, lambda: model(x).pow(2).mean())
    last = samples[(samples.layer == "rnn.0.forward") & (samples.time == 4)]
    mean = rows[(rows.time == 4) & (rows.statistic == "mean")].total.item()
    assert 10**mean == pytest.approx((10**last.total).mean())
    with pytest.raises(ValueError, match="kept where that is asked for"):
        flow.frame(per_sample=True)


def test_gradients_are_of_the_loss_as_it_was_differentiated() -> None:
    model, x = Recurrent(), torch.randn(4, 5, 3)
    mean, _ = watched(model, lambda: model(x).sum((1, 2)).mean())
    total, _ = watched(model, lambda: model(x).sum())
    np.testing.assert_allclose(total.total - mean.total, math.log10(4), rtol=1e-5)


def test_a_training_loop_is_recorded_when_it_is_asked_to_and_keeps_tables_alone() -> None:
    model, x = Recurrent(), torch.randn(4, 5, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with retrograde.watch(model, when=retrograde.log_spaced(2)) as flow:
        for _ in range(40):
            optimizer.zero_grad()
            model(x).pow(2).mean().backward()
            optimizer.step()
            model.eval()
            with torch.no_grad():
                model(x)
            model.train()
    assert list(flow.frame().step.unique()) == [0, 1, 3, 10, 32]
    held = {id(part): part for block in flow.blocks for part in vars(block).values() if isinstance(part, np.ndarray)}
    assert sum(part.nbytes for part in held.values()) < 5 * 20_000
    assert not flow.open


def test_nothing_is_left_behind_even_where_the_block_fails() -> None:
    model = Recurrent()
    with pytest.raises(ZeroDivisionError), retrograde.watch(model):
        assert "forward" in vars(model.rnn)
        1 / 0  # noqa: B018  # fails
    assert all("forward" not in vars(module) for module in model.modules())
    mine = lambda x: x  # noqa: E731  # a forward that somebody has put there
    model.head.forward = mine  # type: ignore[method-assign, assignment]  # as accelerate does
    with retrograde.watch(model):
        pass
    assert vars(model.head)["forward"] is mine


def test_a_model_is_watched_by_one_at_a_time() -> None:
    model = Recurrent()
    with retrograde.watch(model), pytest.raises(RuntimeError, match="'rnn' is being watched already"):
        retrograde.watch(nn.ModuleDict({"rnn": model.rnn})).__enter__()
    watching = retrograde.watch(model)
    with watching, pytest.raises(RuntimeError, match="already in use"), watching:
        pass


def test_the_signature_of_a_watched_module_is_its_own() -> None:
    import inspect

    model = Recurrent()
    with retrograde.watch(model):
        assert list(inspect.signature(model.forward).parameters) == ["x"]


@pytest.mark.parametrize(
    ("do", "said"),
    [
        (lambda model, x: None, "the model was not called inside the block"),
        (lambda model, x: model(x).sum(), "no gradient has come to the model: call loss.backward\\(\\)"),
        (lambda model, x: torch.no_grad()(model)(x), "only called without gradients"),
        (lambda model, x: torch.inference_mode()(model)(x), "only called without gradients"),
    ],
)
def test_an_empty_frame_says_why(do: Any, said: str) -> None:
    model, x = Recurrent(), torch.randn(4, 5, 3)
    with retrograde.watch(model) as flow:
        do(model, x)
    with pytest.raises(RuntimeError, match=said):
        flow.frame()


def test_a_schedule_that_chooses_nothing_says_so() -> None:
    model = Recurrent()
    with retrograde.watch(model, when=lambda step: step > 5) as flow:
        model(torch.randn(4, 5, 3)).sum().backward()
    with pytest.raises(RuntimeError, match="`when` has chosen none"):
        flow.frame()


@pytest.mark.parametrize(
    ("only", "said"),
    [
        (lambda name, module: name == "gru", "`only` has chosen none of the model's modules"),
        (lambda name, module: name == "aside", "no gradient has come to the modules that `only` has chosen: 'aside'"),
    ],
)
def test_a_choice_of_nothing_that_is_called_says_so(only: Any, said: str) -> None:
    model = Recurrent()
    model.aside = nn.Linear(2, 2)
    with retrograde.watch(model, only=only) as flow:
        model(torch.randn(4, 5, 3)).sum().backward()
    with pytest.raises(RuntimeError, match=said):
        flow.frame()


def test_the_frame_says_what_its_columns_are_also_in_a_file(tmp_path: Path) -> None:
    model = Recurrent()
    with retrograde.watch(model) as flow:
        model(torch.randn(4, 5, 3)).sum().backward()
    frame = flow.frame()
    assert frame.attrs["total"].startswith("log10 of the norm of dL/dz_t") and set(frame.attrs) <= set(frame.columns)
    frame.to_parquet(tmp_path / "frame.parquet")
    assert pd.read_parquet(tmp_path / "frame.parquet").attrs == frame.attrs


def test_a_batch_without_samples_is_named_and_disturbs_no_other() -> None:
    model = Recurrent()
    with retrograde.watch(model) as flow:
        model(torch.randn(0, 5, 3)).sum().backward()
    with pytest.raises(RuntimeError, match="a batch without samples has no gradient to be measured"):
        flow.frame()
    with retrograde.watch(model, per_sample=True) as flow:
        for samples in (2, 0, 3):
            model(torch.randn(samples, 5, 3)).sum().backward()
    assert set(flow.frame().step) == {0, 2} and set(flow.left_out) == {"rnn.0.forward", "head"}


def test_a_transform_of_torch_func_is_left_alone_and_named_once() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), torch.randn(5, 2, 3)
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def of_one(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (sample,)).sum()

    of_each = torch.func.vmap(torch.func.grad(of_one), in_dims=(None, 0))
    expected = of_each(parameters, x)
    named = pytest.warns(UserWarning, match="leaves out Sequential: it is called under a transform of torch.func")
    with named as said, retrograde.watch(model) as flow:
        for _ in range(2):
            torch.testing.assert_close(of_each(parameters, x), expected)
    assert len(said) == 1
    with pytest.raises(RuntimeError, match="not called inside the block: Sequential: it is called under a transform"):
        flow.frame()


def test_a_backward_pass_after_the_block_counts_as_well() -> None:
    model, x = Recurrent(), torch.randn(4, 5, 3)
    with retrograde.watch(model) as flow:
        loss = model(x).sum()
    loss.backward()
    assert set(flow.frame().layer) == {"rnn.0.forward", "head"}


def compiled_inside() -> nn.Module:
    model = Recurrent()
    model.head.compile()
    return model


@pytest.mark.filterwarnings("ignore:`torch.jit.:DeprecationWarning")  # that is what the test is about
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.compile(Recurrent()), "the model is compiled"),
        (lambda: nn.Sequential(torch.compile(nn.Linear(2, 2))), "'0' is compiled"),
        (compiled_inside, "'head' is compiled"),
        (lambda: torch.jit.script(nn.Linear(2, 2)), "the model is TorchScript"),
        (lambda: nn.DataParallel(nn.Linear(2, 2)), "the model is nn.DataParallel"),
    ],
)
def test_what_no_watch_can_see_into_is_refused_in_one_line(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        retrograde.watch(make())
    assert "\n" not in str(refused.value)


def test_a_compiled_function_around_the_model_is_refused_in_one_line() -> None:
    model, x = Recurrent(), torch.randn(4, 5, 3)
    compiled = torch.compile(lambda: model(x).sum(), backend="eager")
    with (
        retrograde.watch(model),
        pytest.raises(RuntimeError, match=r"^retrograde\.watch cannot see into compiled code"),
    ):
        compiled()


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, not function"):
        retrograde.watch(lambda x: x)  # type: ignore[arg-type]  # that is the point


def test_an_empty_packed_sequence_is_the_layers_own_error() -> None:
    model, empty = (
        nn.ModuleDict({"rnn": nn.GRU(3, 4)}),
        PackedSequence(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)),
    )
    with pytest.raises((RuntimeError, ValueError, IndexError)) as own:
        model["rnn"](empty)
    with retrograde.watch(model) as flow, pytest.raises(type(own.value)) as ours:
        model["rnn"](empty)
    assert str(ours.value) == str(own.value)
    with pytest.raises(RuntimeError):
        flow.frame()
    with pytest.raises(RuntimeError, match="greater than 0"):
        pack_padded_sequence(torch.zeros(1, 2, 3), torch.tensor([1, 0]), enforce_sorted=False)


def test_a_wrong_input_is_the_layers_own_error() -> None:
    model = Recurrent()
    with pytest.raises(RuntimeError) as own:
        model(torch.randn(4, 5, 2))
    with retrograde.watch(model), pytest.raises(RuntimeError) as ours:
        model(torch.randn(4, 5, 2))
    assert str(ours.value) == str(own.value)


def test_infinities_and_nans_are_recorded_as_they_come() -> None:
    model, x = Recurrent(), torch.randn(4, 5, 3)
    frame, _ = watched(model, lambda: model(x).sum() * math.inf)
    assert set(frame[frame.layer == "head"].status) == {"inf"}
    frame, _ = watched(model, lambda: model(x).sum() * math.nan)
    assert set(frame.status) == {"nan"}


def test_a_scaled_loss_is_taken_as_it_was_before() -> None:
    model, x = Recurrent(), torch.randn(4, 5, 3)
    plain, _ = watched(model, lambda: model(x).sum())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaled, _ = watched(model, lambda: scaler.scale(model(x).sum()), scaler=scaler)
    np.testing.assert_allclose(scaled.total, plain.total, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_is_served(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True))
    x = torch.randn(2, 5, 3)

    def lower() -> Tensor:
        with torch.autocast("cpu", dtype):
            return model(x).float()[..., 0].sin().sum()

    plain, _ = watched(model, lambda: model(x)[..., 0].sin().sum())
    frame, flow = watched(model, lower)
    both = plain.merge(frame, on=["layer", "sample", "time"])
    assert flow.left_out == {} and len(both) == len(plain)
    assert np.median(np.abs(both.total_x - both.total_y)) < 0.05


def test_only_chooses_what_is_looked_at() -> None:
    model, x = Recurrent(), torch.randn(4, 5, 3)
    frame, _ = watched(model, lambda: model(x).sum(), only=lambda name, module: isinstance(module, nn.RNNBase))
    assert set(frame.layer) == {"rnn.0.forward"}


def test_a_layer_that_is_left_out_is_named_once() -> None:
    class Doubled(nn.GRU):
        def forward(self, *args: Any) -> Any:
            return super().forward(*args)

    model, x = nn.ModuleDict({"rnn": Doubled(3, 4)}), torch.randn(5, 2, 3)
    with warnings.catch_warnings(record=True) as said, retrograde.watch(model, batch_first=False) as flow:
        warnings.simplefilter("always")
        for _ in range(3):
            model["rnn"](x)[0].sum().backward()
    assert [str(one.message) for one in said] == [
        "retrograde.watch leaves out rnn: it computes something else than nn.GRU"
    ]
    assert list(flow.left_out) == ["rnn"]
