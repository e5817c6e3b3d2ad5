"""Runs that stop being finite: which step was the first, what is kept of it, and what the run ends with.

The oracle is a loop in plain PyTorch that looks at every number after every step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retrograde import ProbingSettings, Run, TrainerSettings
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.nonfinite import Place
from retrograde.core.records import Batch
from retrograde.models.elman import elman
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.lstm import lstm
from retrograde.probes.lag_gradient import LagGradient
from retrograde.probes.parameters import Parameters
from retrograde.probes.state_gradient import StateGradient
from retrograde.tasks.adding import Adding
from retrograde.train.closing import closing_line
from retrograde.train.load import weights_of
from retrograde.train.streams import generator

WATCHED = TrainerSettings(
    accelerator="cpu", log_every=10, validate_every=10, validation_samples=16, test_samples=16, clip=None
)
EXPLODING = partial(linear_rnn, hidden=8, radius=1.5)
TASK = Adding(length=30)
AT_THE_ENDS = ProbingSettings(samples=2, steps=[0], share=None)
PROBES = {"state_gradient": StateGradient(), "parameters": Parameters()}
Fit = Callable[..., Run]


@dataclass(frozen=True)
class Bad:
    """What the plain loop found: the step, its batch, and the weights before it."""

    step: int
    batch: Batch
    weights: dict[str, Tensor]


def first_bad(make: Callable[[Task], SequenceModel], optimizer: Any, task: Task = TASK, steps: int = 100) -> Bad:
    """The first step with a loss or, after it, a weight that is no number."""
    torch.manual_seed(0)
    model = make(task)
    adjust = optimizer(model.parameters())
    stream = generator("train", 0)
    for step in range(1, steps + 1):
        batch = task.sample(64, stream)
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        loss = model.objective(task, batch)[0].mean()
        adjust.zero_grad()
        loss.backward()
        adjust.step()
        if not all(weight.isfinite().all() for weight in [loss, *model.parameters()]):
            return Bad(step, batch, before)
    raise AssertionError("all was finite")


@dataclass
class Trap:
    """Multiplies the training loss on certain batches by ``forward``, and the gradient through it by ``gradient``."""

    forward: float = 1.0
    gradient: float = 1.0
    once: bool = False

    def sprung(self, batch: Batch) -> bool:
        """One batch in twenty or so, the 16th first: the step hangs on what is drawn alone, and so comes again."""
        return 0.1 < float(batch.inputs[0, 0, 0]) < 0.145

    def __call__(self, loss: Tensor, batch: Batch) -> Tensor:
        if not self.sprung(batch):
            return loss
        made = _Scaled.apply(loss, self.forward, self.gradient)
        if self.once:
            self.forward = 1.0
        assert isinstance(made, Tensor)
        return made


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, forward: float, gradient: float) -> Tensor:
        ctx.gradient = gradient
        return loss * forward

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * ctx.gradient, None, None


@pytest.fixture
def trap(monkeypatch: pytest.MonkeyPatch) -> Trap:
    """In every model's training loss, and nowhere else."""
    set_up = Trap()
    objective = SequenceModel.objective

    def trapped(model: SequenceModel, task: Task, batch: Batch) -> tuple[Tensor, Tensor | None]:
        losses, outputs = objective(model, task, batch)
        return set_up(losses, batch), outputs

    monkeypatch.setattr(SequenceModel, "objective", trapped)
    return set_up


def diverged(small_run: Fit, **settings: Any) -> Run:
    everything = {"task": TASK, "steps": 100, "trainer": WATCHED, "probes": {}, "probing": AT_THE_ENDS, **settings}
    run = small_run(**everything)
    assert run.metadata["status"] == "finished"
    assert run.metadata["diverged_step"] == run.metadata["nonfinite"]["step"] == run.metadata["steps"] + 1
    return run


def same_batch(one: Batch, other: Batch) -> bool:
    pairs = zip(one.tensors().values(), other.tensors().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def same_weights(model: nn.Module, expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(weight, expected[name]) for name, weight in model.named_parameters())


GROWING = partial(torch.optim.Adamax, lr=0.1, maximize=True)
"""Uphill: weights grow by about the same at every step, until a sequence overflows between two logs."""


@pytest.fixture(scope="module")
def exploded(small_run: Fit) -> Run:
    """A run whose 19th step is the first that is not finite."""
    return diverged(small_run, model=EXPLODING, optimizer=GROWING, probes=PROBES)


def test_the_step_its_batch_and_the_weights_before_it_are_those_of_a_plain_loop(exploded: Run) -> None:
    expected = first_bad(EXPLODING, GROWING)
    assert WATCHED.log_every + 1 < expected.step < 2 * WATCHED.log_every
    assert exploded.metadata["diverged_step"] == expected.step
    replayed = exploded.replay()
    assert replayed.step == expected.step
    assert same_batch(replayed.snapshot.batch, expected.batch)
    assert same_weights(replayed.snapshot.model, expected.weights)


def test_the_losses_of_a_batch_may_be_finite_one_by_one_and_their_mean_not(exploded: Run) -> None:
    replayed = exploded.replay()
    losses = replayed.snapshot.losses.sum(1)
    assert losses.isfinite().all() and not losses.sum().isfinite() and losses.double().sum().isfinite()
    assert replayed.first == Place("mean", "", None, None, math.inf)
    assert exploded.metadata["nonfinite"]["what"] == "mean" and exploded.metadata["nonfinite"]["loss"] == math.inf
    reason = "step 19: the batch's mean loss is infinite, though the loss of each sample is finite"
    assert exploded.metadata["reason"] == reason
    (alert,) = (alert for alert in exploded.metadata["alerts"] if alert["level"] == "error")
    assert alert["text"].startswith(reason)


def test_a_horizon_from_before_training_is_not_taken_for_the_one_after_it(small_run: Fit) -> None:
    far = partial(torch.optim.SGD, lr=1e30)
    probes = {"lag_gradient": LagGradient()}
    run = diverged(small_run, model=partial(elman, hidden=8), optimizer=far, probes=probes)
    assert run.metadata["steps"] == 1
    assert run.metadata["horizon_start"] >= 0 and run.metadata["horizon"] is None
    assert "horizon" not in closing_line(run.folder, run.metadata)


def test_a_state_that_overflows_is_named_with_its_time(small_run: Fit) -> None:
    """The states are those of a re-run in double precision until that leaves float32."""
    run = diverged(small_run, model=partial(linear_rnn, hidden=8, radius=2.0), task=Adding(length=150), steps=20)
    replayed, found = run.replay(), run.metadata["nonfinite"]
    precise = replayed.snapshot.model.double().trace(replayed.snapshot.batch.to("cpu", torch.float64))
    beyond = (precise.states["0.forward.hidden"].abs() > torch.finfo(torch.float32).max).any(-1)
    time = int(beyond.any(0).nonzero()[0]) - 1  # the first is the initial state
    assert (found["what"], found["layer"], found["component"]) == ("state", "0.forward", "hidden")
    assert replayed.first is not None and replayed.first.time == found["time"] == time
    assert beyond[found["sample"], time + 1]
    assert run.metadata["reason"] == (
        f"step 1: layer 0, hidden state is infinite, first at time {time} (sample {found['sample']})"
    )


def test_the_run_ends_with_its_last_finite_step(exploded: Run) -> None:
    last = exploded.metadata["steps"]
    weights, step = weights_of(exploded.folder.checkpoints / "last.ckpt")
    assert step == last and same_weights(exploded.replay().snapshot.model, weights)
    assert exploded.readings("parameters/weight")["step"].max() == last
    assert exploded.readings("parameters/weight")["value"].map(math.isfinite).all()
    metrics = exploded.metrics()
    losses = metrics[(metrics["split"] == "train") & (metrics["quantity"] == "loss")].set_index("step")["value"]
    assert losses.index.to_list() == [10, last, last + 1]
    assert [math.isfinite(loss) for loss in losses] == [True, True, False]
    assert metrics.loc[metrics["split"] == "validation", "step"].max() == last
    assert not metrics.duplicated(["step", "split", "quantity"]).any()


def test_a_run_that_never_diverged_has_nothing_to_replay(small_run: Fit) -> None:
    run = small_run(probes={}, steps=1)
    assert run.metadata["nonfinite"] is None and run.metadata["diverged_step"] is None
    with pytest.raises(ValueError, match=r"no step of this run was kept, because none was seen to be not finite"):
        run.replay()


def test_going_back_is_exact_with_dropout_clipping_momentum_and_a_schedule(small_run: Fit, trap: Trap) -> None:
    """A run that is told to stop before the step has the same weights, and the same numbers."""
    settings = {
        "model": partial(lstm, hidden=8, layers=2, dropout=0.5),
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        "scheduler": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=40),
        "trainer": replace(WATCHED, clip=0.1),
        "task": Adding(length=10),
        "probes": PROBES,
    }
    trap.gradient = math.inf
    run = diverged(small_run, **settings)
    last = run.metadata["steps"]
    assert WATCHED.log_every < last < 2 * WATCHED.log_every - 1
    trap.gradient = 1.0
    other = small_run(**settings, steps=last, probing=AT_THE_ENDS)
    expected, _ = weights_of(other.folder.checkpoints / "last.ckpt")
    assert same_weights(run.replay().snapshot.model, expected)
    readings = [one.readings("state_gradient/total").drop(columns="run") for one in (run, other)]
    ends = [one[one["step"] == last].reset_index(drop=True) for one in readings]
    assert len(ends[0]) and ends[0].equals(ends[1])


def test_a_gradient_that_is_infinite_is_found_on_its_own_step(small_run: Fit, trap: Trap) -> None:
    """The losses up to the log are finite, and the weights are not: the step is that of the gradient."""
    trap.gradient = math.inf
    settings = {"model": partial(lstm, hidden=8), "task": Adding(length=10)}
    for clip in (None, 1.0):
        run = diverged(small_run, **settings, trainer=replace(WATCHED, clip=clip))
        found = run.metadata["nonfinite"]
        assert found["what"] == "gradient" and "time" not in found and math.isfinite(found["loss"])
        assert trap.sprung(run.replay().snapshot.batch)
        assert run.replay().first is None  # the trap is in training alone
        assert run.metadata["validation_score"] is not None and math.isfinite(run.metadata["score"])
        assert "gradient of" in run.metadata["reason"]


def test_a_bad_step_right_before_a_log_is_seen_in_the_weights(small_run: Fit, trap: Trap) -> None:
    trap.gradient = math.nan
    settings = {"model": partial(lstm, hidden=8), "task": Adding(length=10)}
    step = diverged(small_run, **settings).metadata["diverged_step"]
    run = diverged(small_run, **settings, trainer=replace(WATCHED, log_every=step, validate_every=step))
    assert run.metadata["diverged_step"] == step
    losses = run.metrics().query("split == 'train' and quantity == 'loss'")
    assert losses["value"].map(math.isfinite).all() and losses["step"].max() == step


def test_a_loss_that_is_none_for_one_batch_is_a_bad_step(small_run: Fit, trap: Trap) -> None:
    trap.forward = math.nan
    run = diverged(small_run, model=partial(lstm, hidden=8), task=Adding(length=10))
    assert run.metadata["nonfinite"]["what"] == "loss" and math.isnan(run.metadata["nonfinite"]["loss"])
    assert trap.sprung(run.replay().snapshot.batch)


def test_a_weight_that_is_none_from_the_start_is_named(small_run: Fit) -> None:
    run = diverged(small_run, model=poisoned, task=Adding(length=10))
    assert run.metadata["diverged_step"] == 1
    assert run.metadata["nonfinite"]["what"] == "weight"
    assert run.metadata["nonfinite"]["parameters"] == ["readout.bias"]
    first = run.replay().first
    assert first is not None and (first.what, first.time) == ("outputs", 0) and math.isnan(first.value)


def poisoned(task: Task) -> SequenceModel:
    model = lstm(task, hidden=8)
    with torch.no_grad():
        model.readout.bias.fill_(math.nan)
    return model


def test_an_update_that_is_none_is_told_from_its_gradient(small_run: Fit) -> None:
    run = diverged(small_run, task=Adding(length=10), optimizer=partial(Breaking, lr=0.1))
    assert run.metadata["diverged_step"] == 16
    assert run.metadata["nonfinite"]["what"] == "update"
    assert run.metadata["nonfinite"]["parameters"] == ["stack.layers.0.0.fused.weight_ih_l0"]


class Breaking(torch.optim.SGD):
    """Leaves a weight that is no number on its 16th step, which it counts where an optimiser keeps what it knows."""

    def step(self, closure: Any = None) -> Any:
        made = super().step(closure)
        weight = self.param_groups[0]["params"][0]
        self.state[weight]["taken"] = self.state[weight].get("taken", 0) + 1
        if self.state[weight]["taken"] == 16:
            weight.data[0, 0] = math.nan
        return made


def test_a_gradient_that_overflows_on_its_way_back_has_a_time(small_run: Fit) -> None:
    """W = 2 Q, Q orthogonal: what is written to the state is so faint that it stays small; its gradient does not."""
    run = diverged(small_run, model=faint, task=Adding(length=150, markers="any_two"), steps=20)
    replayed = run.replay()
    assert run.metadata["diverged_step"] == 1 and replayed.first is not None
    assert (replayed.first.what, replayed.first.key) == ("gradient", "0.forward.hidden")
    model = replayed.snapshot.model.double()
    batch = replayed.snapshot.batch.to("cpu", torch.float64)
    slope = 2 * (model(batch)[:, -1] - batch.targets[:, -1]) / len(batch)  # of the mean squared error
    gradient, time = slope @ model.readout.weight, batch.length - 1
    recurrent = model.stack.layers[0][0].recurrent
    while (gradient.abs() <= torch.finfo(torch.float32).max).all():
        gradient, time = gradient @ recurrent, time - 1
    assert replayed.first.time == run.metadata["nonfinite"]["time"] == time > 0


def faint(task: Task) -> SequenceModel:
    model = linear_rnn(task, hidden=8, radius=2.0)
    with torch.no_grad():
        model.stack.layers[0][0].input.mul_(1e-36)
    return model


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_keep_their_step_as_well(small_run: Fit, precision: str) -> None:
    """The range of bfloat16 is that of float32; in double precision 8^240 is a number, and its square is none."""
    double = precision == "64-true"
    steep, task = partial(linear_rnn, hidden=8, radius=8.0 if double else 2.0), Adding(length=240 if double else 150)
    run = diverged(small_run, model=steep, task=task, trainer=replace(WATCHED, precision=precision))
    replayed, found = run.replay(), run.metadata["nonfinite"]
    expected = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]
    assert replayed.snapshot.model.like.dtype == replayed.snapshot.batch.inputs.dtype == expected
    assert replayed.first is not None and replayed.first.time == found["time"]
    assert found["what"] == {"64-true": "loss"}.get(precision, "state") and not math.isfinite(found["loss"])


def test_a_step_that_does_not_come_again_leaves_the_run_at_its_last_look(small_run: Fit, trap: Trap) -> None:
    trap.forward, trap.once = math.nan, True
    run = small_run(model=partial(lstm, hidden=8), task=Adding(length=10), steps=100, trainer=WATCHED, probes={})
    found = run.metadata["nonfinite"]
    assert found["what"] is None and math.isnan(found["loss"])
    assert (run.metadata["steps"], run.metadata["diverged_step"]) == (10, 16)
    assert "was not so again when its steps were repeated" in run.metadata["reason"]
    assert math.isfinite(run.metadata["score"])


def test_nothing_that_is_validated_or_measured_comes_after_the_bad_step(small_run: Fit, trap: Trap) -> None:
    """Logs are rare here; validations and snapshots look as well, so that none is of weights that are no numbers."""
    trap.gradient = math.inf
    trainer = replace(WATCHED, log_every=100, validate_every=7)
    run = diverged(
        small_run,
        model=partial(lstm, hidden=8),
        task=Adding(length=10),
        trainer=trainer,
        probes=PROBES,
        probing=ProbingSettings(samples=2, steps=[10, 20], share=None),
    )
    last = run.metadata["steps"]
    assert run.readings("state_gradient/total")["step"].max() == last
    values = run.metrics().query("split == 'validation'")
    assert values["value"].map(math.isfinite).all() and values["step"].max() == last
    best = torch.load(run.folder.checkpoints / "best.ckpt", weights_only=True)
    assert all(weight.isfinite().all() for weight in best["state_dict"].values())


def test_weights_that_are_numbers_and_whose_norm_is_none_are_let_be(small_run: Fit) -> None:
    run = small_run(model=enormous, task=Adding(length=10), trainer=WATCHED, probes={}, steps=12)
    assert run.metadata["diverged_step"] is None and run.metadata["steps"] == 12


def enormous(task: Task) -> SequenceModel:
    model = lstm(task, hidden=8)
    with torch.no_grad():
        model.stack.layers[0][0].fused.bias_hh_l0[8:16] = 1e30  # of the forget gate: open
    return model
