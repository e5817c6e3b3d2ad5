"""Models that train together do what each does alone: losses, gradients, clipping, optimisers, joining and leaving."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from members import TASKS, built, fitting, stems
from torch import Tensor, nn
from torch.optim import Optimizer

from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.ensemble import Ensemble, refusal, stacked_batches, unlike
from retrograde.core.joint_optimizer import JointOptimizer, NotElementwise, stacked_entries
from retrograde.core.records import Batch
from retrograde.core.recurrence import Recurrence
from retrograde.layers.attention import MultiHeadAttention

SEEDS, STEPS, SAMPLES = 3, 3, 4
Factory = Callable[[Any], Optimizer]
ADAM: Factory = partial(torch.optim.Adam, lr=0.01)


@dataclass
class Run:
    """One training as it is made alone: a model, its optimiser and the batches that it draws."""

    model: SequenceModel
    optimizer: Optimizer
    stream: torch.Generator
    losses: list[float]

    def draw(self, task: Task) -> Batch:
        return task.sample(SAMPLES, self.stream).beside(self.model.like)

    def step(self, task: Task, clip: float | None = 1.0, by: str = "norm") -> None:
        self.optimizer.zero_grad()
        loss = self.model.objective(task, self.draw(task))[0].mean()
        loss.backward()
        if clip is not None and by == "norm":
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        elif clip is not None:
            nn.utils.clip_grad_value_(self.model.parameters(), clip)
        self.optimizer.step()
        self.losses.append(float(loss.detach()))


def runs(stem: str, task: Task, optimizer: Factory = ADAM, dtype: torch.dtype = torch.float64) -> list[Run]:
    found = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = built(stem, task).to(dtype)
        found.append(Run(model, optimizer(model.parameters()), torch.Generator().manual_seed(seed), []))
    return found


def copied(given: Sequence[Run]) -> list[Run]:
    """The same runs once more; an optimiser is copied with the model whose parameters it has."""
    made = []
    for run in given:
        model, optimizer = copy.deepcopy((run.model, run.optimizer))
        stream = torch.Generator()
        stream.set_state(run.stream.get_state())
        made.append(Run(model, optimizer, stream, list(run.losses)))
    return made


def together(given: Sequence[Run]) -> JointOptimizer:
    return JointOptimizer(Ensemble([run.model for run in given]), [run.optimizer for run in given])


def joint_step(
    joint: JointOptimizer, given: Sequence[Run], task: Task, clip: float | None = 1.0, by: str = "norm"
) -> None:
    joint.ensemble.zero_grad()
    made = joint.ensemble.objective(task, [run.draw(task) for run in given])
    made.losses.sum().backward()
    if clip is not None:
        joint.ensemble.clip(clip, by)
    joint.step()
    for run, loss in zip(given, made.losses.tolist(), strict=True):
        run.losses.append(loss)


def check_same(given: Run, alone: Run, tolerance: float) -> None:
    """Losses, weights, gradients that are shown, and the optimiser's state."""
    assert given.losses == pytest.approx(alone.losses, rel=tolerance, nan_ok=True)
    for (name, one), other in zip(given.model.named_parameters(), alone.model.parameters(), strict=True):
        scale = tolerance * max(1e-3, float(other.detach().abs().max()))
        torch.testing.assert_close(
            one, other, rtol=tolerance, atol=scale, msg=lambda text, name=name: f"{name}: {text}"
        )
    one_state, other_state = given.optimizer.state_dict(), alone.optimizer.state_dict()
    assert one_state["param_groups"] == other_state["param_groups"]
    assert one_state["state"].keys() == other_state["state"].keys()
    for at, kept in other_state["state"].items():
        assert kept.keys() == one_state["state"][at].keys()
        for key, value in kept.items():
            scale = tolerance * float(value.abs().max()) if isinstance(value, Tensor) else 0.0
            torch.testing.assert_close(one_state["state"][at][key], value, rtol=tolerance, atol=scale)


def trained_both_ways(
    stem: str, task: Task, tolerance: float, optimizer: Factory = ADAM, dtype: torch.dtype = torch.float64
) -> None:
    """Gradients by the largest of the model: those that are zero but for rounding have no size of their own."""
    given = runs(stem, task, optimizer, dtype)
    alone = copied(given)
    joint = together(given)
    for _ in range(STEPS):
        joint_step(joint, given, task)
        joint.ensemble.show_gradients()
        for run, other in zip(given, alone, strict=True):
            other.step(task)
            largest = max(float(p.grad.abs().max()) for p in other.model.parameters() if p.grad is not None)
            for one, two in zip(run.model.parameters(), other.model.parameters(), strict=True):
                assert (one.grad is None) == (two.grad is None)
                if one.grad is not None and two.grad is not None:
                    torch.testing.assert_close(one.grad, two.grad, rtol=tolerance, atol=tolerance * largest)
    joint.settle()
    for run, other in zip(given, alone, strict=True):
        check_same(run, other, tolerance)


def is_sequential(model: SequenceModel) -> bool:
    """A recurrence or a Transformer."""
    return any(isinstance(module, Recurrence | MultiHeadAttention) for module in model.modules())


QUICK = ("elman", "gru", "lstm", "lru", "mamba", "orthogonal_rnn", "seq2seq_luong", "transformer_encoder")


@pytest.mark.parametrize(
    "stem", [stem if stem in QUICK else pytest.param(stem, marks=pytest.mark.heavy) for stem in stems("model")]
)
def test_a_recurrence_or_a_transformer_trains_with_other_seeds_as_it_does_alone(stem: str, float64: None) -> None:
    for task in fitting(stem):
        models = [built(stem, task) for _ in range(2)]
        said = refusal(models, task)
        if said is None:
            trained_both_ways(stem, task, 1e-10)
        else:
            assert not is_sequential(models[0]), said
            assert "\n" not in said


@pytest.mark.parametrize("stem", ["elman_relu", "gru", "lstm", "transformer"])
def test_the_same_in_float32(stem: str) -> None:
    task = fitting(stem)[0]
    # Adam would divide gradients that are nothing but rounding by their own size
    trained_both_ways(stem, task, 1e-4, partial(torch.optim.SGD, lr=0.1), torch.float32)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("stem", ["elman", "gru", "lstm"])
def test_stacks_in_both_directions_truncated_or_not(stem: str, bidirectional: bool, float64: None) -> None:
    task = TASKS[0]
    for length in (None, 6):
        models = [built(stem, task, "model.layers=2", f"model.bidirectional={bidirectional}") for _ in range(2)]
        for model in models:
            model.truncate(length)
        assert refusal(models, task) is None


@pytest.mark.parametrize("cached", [1, 1000])
def test_steps_that_are_made_ready_at_once_are_steps(cached: int, float64: None, monkeypatch: Any) -> None:
    """One by one, and a few, of which the last ones are fewer."""
    monkeypatch.setattr("retrograde.layers.seeds.CACHED", cached)
    for stem in ("elman", "gru", "lstm"):
        trained_both_ways(stem, TASKS[0], 1e-10)


def test_batches_of_different_lengths_are_padded_and_that_changes_nothing(float64: None) -> None:
    task = TASKS[0]
    given = runs("gru", task)
    drawn = task.sample(4 * SAMPLES, torch.Generator().manual_seed(0)).beside(given[0].model.like)
    batches = [drawn.select(few).trimmed() for few in drawn.lengths.argsort().split(SAMPLES)[:SEEDS]]
    assert len({batch.length for batch in batches}) > 1
    alone = [run.model.objective(task, batch) for run, batch in zip(given, batches, strict=True)]
    expected = [loss.mean() for loss, _ in alone]
    gradients = [torch.autograd.grad(loss, list(r.model.parameters())) for loss, r in zip(expected, given, strict=True)]
    ensemble = Ensemble([run.model for run in given])
    made = ensemble.objective(task, batches)
    made.losses.sum().backward()
    torch.testing.assert_close(made.losses, torch.stack(expected))
    for at, (_, outputs) in enumerate(alone):
        torch.testing.assert_close(made.of(at), outputs)
        for one, other in zip(ensemble.gradients(at).values(), gradients[at], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_what_is_padded_is_neither_scored_nor_within_a_sample() -> None:
    short = Batch(torch.ones(2, 2, 1), torch.ones(2, 2, 1), torch.ones(2, 2, dtype=torch.bool), torch.tensor([1, 2]))
    long = Batch(torch.ones(2, 5, 1), torch.ones(2, 5, 1), torch.ones(2, 5, dtype=torch.bool), torch.tensor([5, 5]))
    both = stacked_batches([short, long])
    assert both.inputs.shape == (2, 2, 5, 1)
    assert both.scored[0].tolist() == [[True, True, False, False, False]] * 2
    assert both.lengths.tolist() == [[1, 2], [5, 5]]
    with pytest.raises(ValueError, match="2, 1"):
        stacked_batches([short, long.select(torch.tensor([0]))])


@pytest.mark.parametrize("by", ["norm", "value"])
def test_each_is_clipped_by_itself(by: str, float64: None) -> None:
    """To less than the largest of them has, and more than the smallest."""
    task = TASKS[2]
    given = runs("gru", task)
    ensemble = Ensemble([run.model for run in given])
    ensemble.objective(task, [run.draw(task) for run in given]).losses.sum().backward()
    size = ensemble.gradient_norms() if by == "norm" else ensemble.largest_gradients()
    bound = float(size.median())
    before = [ensemble.gradients(at) for at in range(SEEDS)]
    alone = [[nn.Parameter(g.clone()) for g in each.values()] for each in before]
    for parameters in alone:
        for parameter in parameters:
            parameter.grad = parameter.detach().clone()
        if by == "norm":
            nn.utils.clip_grad_norm_(parameters, bound)
        else:
            nn.utils.clip_grad_value_(parameters, bound)
    ensemble.clip(bound, by)
    changed = 0
    for at, parameters in enumerate(alone):
        for one, other in zip(ensemble.gradients(at).values(), parameters, strict=True):
            torch.testing.assert_close(one, other.grad, rtol=1e-12, atol=0)
            changed += not torch.equal(one, other.detach())
    assert 0 < changed < SEEDS * len(alone[0])


def test_norms_are_the_root_of_the_sum_of_squares_of_one_seed(float64: None) -> None:
    ensemble = Ensemble([run.model for run in runs("elman", TASKS[0])])
    for value, leaf in enumerate(ensemble.leaves.values(), 1):
        leaf.grad = torch.zeros_like(leaf)
        leaf.grad[1].view(-1)[0] = float(value)
    squares = sum(value**2 for value in range(1, len(ensemble.leaves) + 1))
    assert ensemble.gradient_norms().tolist() == pytest.approx([0, math.sqrt(squares), 0])
    assert ensemble.largest_gradients().tolist() == [0, len(ensemble.leaves), 0]


@pytest.mark.parametrize("stem", ["gru", "lstm", "lru", "transformer"])
@pytest.mark.parametrize("fault", ["weight", "rate"])
def test_one_that_diverges_leaves_the_others_bit_for_bit(stem: str, fault: str, float64: None) -> None:
    task = fitting(stem)[0]
    sound, faulty = runs(stem, task), runs(stem, task)
    if fault == "weight":
        with torch.no_grad():
            next(faulty[1].model.parameters()).fill_(math.nan)
    else:
        faulty[1].optimizer.param_groups[0]["lr"] = math.inf
    for given in (sound, faulty):
        joint = together(given)
        for _ in range(STEPS):
            joint_step(joint, given, task)
    assert not all(bool(p.isfinite().all()) for p in faulty[1].model.parameters())
    assert math.isnan(faulty[1].losses[-1])
    for at in (0, 2):
        assert faulty[at].losses == sound[at].losses
        for one, other in zip(faulty[at].model.parameters(), sound[at].model.parameters(), strict=True):
            assert torch.equal(one, other)


OPTIMIZERS: dict[str, Factory] = {
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.1),
    "amsgrad": partial(torch.optim.AdamW, lr=0.01, amsgrad=True),
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.5, centered=True),
    "nadam": torch.optim.NAdam,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_remember_what_they_would_alone(name: str, float64: None) -> None:
    """With other rates for each, and a schedule that changes them."""
    task = TASKS[2]
    given = runs("elman", task, OPTIMIZERS[name])
    for run, factor in zip(given, (1, 1, 3), strict=True):
        run.optimizer.param_groups[0]["lr"] *= factor
    alone = copied(given)
    joint = together(given)
    assert len(joint._parts) == 2
    schedules = [
        [torch.optim.lr_scheduler.StepLR(run.optimizer, 2, gamma=0.1) for run in each] for each in (given, alone)
    ]
    for _ in range(2 * STEPS):
        joint_step(joint, given, task)
        for other in alone:
            other.step(task)
        for schedule in (*schedules[0], *schedules[1]):
            schedule.step()
    joint.settle()
    for run, other in zip(given, alone, strict=True):
        check_same(run, other, 1e-10)


def test_a_schedule_of_one_alone_parts_it_from_the_others(float64: None) -> None:
    task = TASKS[2]
    given = runs("elman", task)
    alone, joint = copied(given), together(given)
    assert len(joint._parts) == 1
    for step in range(STEPS):
        if step == 1:
            for each in (given, alone):
                each[1].optimizer.param_groups[0]["lr"] = 0.3
        joint_step(joint, given, task)
        for other in alone:
            other.step(task)
    assert len(joint._parts) == 3
    joint.settle()
    for run, other in zip(given, alone, strict=True):
        check_same(run, other, 1e-10)


def test_members_leave_and_join_at_any_step(float64: None) -> None:
    """The first after one step; it comes back, from what a checkpoint would hold, after two."""
    task = TASKS[0]
    given = runs("gru", task)
    alone, joint = copied(given), together(given)
    joint_step(joint, given, task)
    left, optimizer = joint.leave(0)
    assert left is given[0].model and optimizer is given[0].optimizer
    joint_step(joint, given[1:], task)
    assert len({p.untyped_storage().data_ptr() for p in left.parameters()}) == len(list(left.parameters()))
    given[0].step(task)  # it is a model by itself again
    kept = copy.deepcopy((left.state_dict(), optimizer.state_dict()))
    back = runs("gru", task)[0]
    back.model.load_state_dict(kept[0])
    back.optimizer.load_state_dict(kept[1])
    given[0] = replace(given[0], model=back.model, optimizer=back.optimizer)
    joint.join(back.model, back.optimizer)
    order = [given[1], given[2], given[0]]
    assert len(joint._parts) == 1
    joint_step(joint, order, task)
    joint.settle()
    for other in alone:
        for _ in range(3):
            other.step(task)
    for run, other in zip(given, alone, strict=True):
        check_same(run, other, 1e-10)


def test_the_last_may_leave() -> None:
    given = runs("elman", TASKS[0])[:1]
    joint = together(given)
    joint_step(joint, given, TASKS[0])
    joint.leave(0)
    assert len(joint.ensemble) == 0
    given[0].step(TASKS[0])


def test_a_member_shows_and_takes_weights_at_any_time(float64: None) -> None:
    task = TASKS[0]
    given = runs("gru", task)
    joint = together(given)
    batch = given[1].draw(task)
    before = given[1].model(batch).detach()
    joint_step(joint, given, task)
    after = given[1].model.eval()(batch).detach()
    assert not torch.equal(before, after)
    saved = {name: value.clone() for name, value in given[2].model.state_dict().items()}
    given[1].model.load_state_dict(saved)
    for name, leaf in joint.ensemble.leaves.items():
        assert torch.equal(leaf[1], leaf[2]), name


def test_what_is_asked_alone_is_refused_in_a_line() -> None:
    task = TASKS[0]
    models = [built("gru", task) for _ in range(2)]
    for settings, said in (
        ({"autocast": True}, "mixed precision"),
        ({"ranks": 2}, "2 processes"),
        ({"regularized": True}, "regularizer"),
    ):
        found = refusal(models, task, **settings)
        assert found is not None and said in found and "\n" not in found
    dropped = [built("gru", task, "model.dropout=0.1", "model.layers=2") for _ in range(2)]
    assert "dropout in stack.dropout" in (refusal(dropped, task) or "")
    half = [model.to(torch.bfloat16) for model in models]
    assert "bfloat16" in (refusal(half, task) or "")


class Looks(nn.Module):
    """Reads a number out of a tensor, which no vmap can."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs) if float(inputs.sum()) > -math.inf else inputs


def test_a_model_that_cannot_be_computed_for_several_seeds_says_why() -> None:
    task = TASKS[0]
    models = [built("gru", task) for _ in range(2)]
    for model in models:
        model.embedding = Looks(model.embedding)
    found = refusal(models, task)
    assert found is not None and ".item()" in found and "\n" not in found
    kernel = [built("module", task) for _ in range(2)]
    assert "aten::gru" in (refusal(kernel, task) or "")


class Forgets(nn.Module):
    """Its gradient depends on whether it is asked for several seeds."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *given: Any) -> Tensor:
        made = self.inner(*given)
        return made if torch._C._functorch.maybe_current_level() is None else made.detach()


def test_a_model_that_gives_something_else_is_found_out() -> None:
    task = TASKS[0]
    models = [built("gru", task) for _ in range(2)]
    for model in models:
        model.stack = Forgets(model.stack)
    assert "other parameters" in (refusal(models, task) or "")


def test_members_of_other_kinds_are_named() -> None:
    task = TASKS[0]
    one, other = built("gru", task), built("lstm", task)
    assert "differ in" in (unlike([one, other]) or "")
    assert unlike([one, one]) == "a model cannot be two members"
    wide = built("transformer", task, "model.heads=2")
    assert "heads" in (unlike([built("transformer", task), wide]) or "")
    frozen = built("gru", task).requires_grad_(False)
    with pytest.raises(ValueError, match="differ in the parameter"):
        Ensemble([one, frozen])
    with pytest.raises(ValueError, match="a batch each, not 1"):
        Ensemble([one, built("gru", task)]).objective(task, [task.sample(2, torch.Generator())])


class Own(nn.Module):
    """A layer of somebody's, which holds what decides its equations."""

    def __init__(self, inner: nn.Module, **held: Any) -> None:
        super().__init__()
        self.inner = inner
        self.steps = 0
        self.register_buffer("mean", torch.zeros(()))
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, *given: Any) -> Tensor:
        return self.inner(*given)


class Counts(Own):
    def forward(self, *given: Any) -> Tensor:
        self.steps += 1
        return self.inner(*given)


class Averages(Own):
    def forward(self, *given: Any) -> Tensor:
        made = self.inner(*given)
        self.mean = 0.9 * self.mean + made.detach().mean()
        return made


def held(held_by: type[Own] = Own, **what: Any) -> SequenceModel:
    model = built("gru", TASKS[0])
    model.embedding = held_by(model.embedding, **what)
    return model


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"act": nn.Tanh()}, {"act": nn.Sigmoid()}),
        ({"order": [0, 1]}, {"order": [1, 0]}),
        ({"sizes": {"a": torch.ones(1)}}, {"sizes": {"a": torch.zeros(1)}}),
        ({"act": torch.tanh}, {"act": None}),
        ({"act": lambda x: x}, {"act": lambda x: -x}),
    ],
    ids=["module", "list", "mapping", "none", "function"],
)
def test_members_whose_equations_differ_are_named(one: dict[str, Any], other: dict[str, Any]) -> None:
    (name,) = one
    assert f"embedding.{name}" in (unlike([held(**one), held(**other)]) or "")
    assert unlike([held(**one), held(**one)]) is None


def test_what_a_model_changes_as_it_computes_is_found_out() -> None:
    assert "changes embedding.steps" in (refusal([held(Counts), held(Counts)], TASKS[0]) or "")
    assert "its buffer embedding.mean" in (refusal([held(Averages), held(Averages)], TASKS[0]) or "")
    assert refusal([held(), held()], TASKS[0]) is None


@pytest.mark.parametrize("make", [torch.optim.LBFGS, torch.optim.Adafactor, torch.optim.Muon])
def test_an_optimizer_that_mixes_entries_is_refused(make: Factory) -> None:
    with pytest.raises(NotElementwise, match=f"{make.__name__} cannot step several"):
        stacked_entries(make([nn.Parameter(torch.zeros(2, 2))]))


def test_what_an_optimizer_keeps_of_every_entry_is_found() -> None:
    parameters = [nn.Parameter(torch.zeros(2, 2))]
    assert stacked_entries(torch.optim.Adam(parameters)) == {"exp_avg", "exp_avg_sq"}
    assert stacked_entries(torch.optim.SGD(parameters)) == frozenset()
