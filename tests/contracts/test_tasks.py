"""What every task must hold to; tasks are found in ``conf/task``. Run as a script, this prints their digests."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from once import once
from retrograde.core.choices import Unavailable
from retrograde.core.contracts import END, START, Space, Task, Tokens
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch
from retrograde.core.splits import SPLITS, Split
from retrograde.tasks.adding import Adding

PATHS = sorted((Path(__file__).parents[2] / "conf" / "task").glob("*.yaml"))


class Sampler(Protocol):
    """What the check of randomness needs of a task."""

    def sample(self, count: int, generator: torch.Generator, split: Split = "train") -> Batch: ...


def build(path: Path) -> Task:
    return instantiate(OmegaConf.load(path))


def draw(task: Sampler, count: int = 16, seed: int = 0, split: Split = "train") -> Batch:
    return task.sample(count, torch.Generator().manual_seed(seed), split)


def sequences(batch: Batch) -> list[bytes]:
    """Each sample's inputs, padding left out."""
    lengths = batch.lengths.tolist()
    return [inputs[:length].numpy().tobytes() for inputs, length in zip(batch.inputs, lengths, strict=True)]


def digest(batch: Batch) -> str:
    """A hash of all that the batch holds, with its shapes and types."""
    summary = hashlib.sha256()
    for name, value in sorted(vars(batch).items()):
        if isinstance(value, Tensor):
            summary.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            summary.update(value.numpy().tobytes())
    return summary.hexdigest()


def global_states() -> tuple[bytes, object, str]:
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), f"{kind} {keys.tobytes().hex()} {rest}"


def assert_uses_only_its_generator(task: Sampler) -> None:
    """The global random states are neither moved nor read, not even to be put back."""
    kept = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        drawn = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            before = global_states()
            drawn.append(digest(draw(task)))
            assert global_states() == before, "sampling moved a global random state"
        assert drawn[0] == drawn[1], "samples depend on a global random state"
    finally:
        torch.set_rng_state(kept[0])
        random.setstate(kept[1])
        np.random.set_state(kept[2])


def certain(task: Task, batch: Batch) -> Tensor:
    """Outputs that are the targets: the tokens with certainty, or the numbers themselves."""
    if isinstance(task.outputs, Tokens):
        return torch.nn.functional.one_hot(batch.targets, task.outputs.size).float() * 100
    return batch.targets


def constant(task: Task, sample: Batch, batch: Batch) -> Tensor:
    """The best outputs for ``batch`` that are the same everywhere, as far as ``sample`` tells."""
    known = sample.targets[sample.scored]
    if isinstance(task.outputs, Tokens):
        seen = torch.bincount(known, minlength=task.outputs.size)
        best = (seen + 1).log()  # a token that has not come up yet may still come
    else:
        best = known.mean(0)
    return best.expand(*batch.targets.shape[:2], -1)


def affordable(task: Task, most: int = 512) -> int:
    """How many samples may be drawn before their outputs grow beyond 64 MB."""
    return max(8, min(most, 2**24 // (draw(task, 1).targets.shape[1] * task.outputs.size)))


@pytest.fixture(scope="module", params=PATHS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def task(path: Path) -> Task:
    """The task, or a skip that says what this machine lacks for it."""
    try:
        task = build(path)
        draw(task, 1)
    except Unavailable as error:
        pytest.skip(str(error))
    return task


@pytest.fixture(scope="module")
def batch(task: Task) -> Batch:
    return draw(task)


@pytest.fixture
def outputs(task: Task, batch: Batch) -> Tensor:
    """What a network might say that has learnt nothing."""
    shape = (*batch.targets.shape[:2], task.outputs.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def digests_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Each task's digest as a fresh process sees it."""

    def make(folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "12345"}
        script = subprocess.run(
            [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True, timeout=300
        )
        (folder / "digests.json").write_text(script.stdout)

    return json.loads((once(tmp_path_factory, "digests", make) / "digests.json").read_text())


def test_tasks_are_found() -> None:
    assert PATHS


def test_conf_opens_with_a_description(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and len(first) > 10


def test_conf_states_every_setting_with_its_default(path: Path, task: Task) -> None:
    assert is_dataclass(task)
    assert [*OmegaConf.load(path)] == ["_target_", *(field.name for field in fields(task))]
    assert task == type(task)()


def test_settings_cannot_be_changed_afterwards(task: Task) -> None:
    for field in fields(task):
        with pytest.raises(AttributeError):
            setattr(task, field.name, None)


def test_same_generator_gives_the_same_batch(task: Task, batch: Batch) -> None:
    assert digest(draw(task)) == digest(batch)


def test_same_generator_gives_the_same_batch_in_another_process(
    path: Path, batch: Batch, digests_elsewhere: dict[str, str]
) -> None:
    assert digests_elsewhere[path.stem] == digest(batch)


def test_splits_have_no_sequence_in_common(task: Task) -> None:
    drawn = {split: draw(task, 128, split=split) for split in SPLITS}
    assert all(len(batch) == 128 for batch in drawn.values())
    found = {split: set(sequences(batch)) for split, batch in drawn.items()}
    if task.indivisible:
        assert found["train"] & found["test"], "it can be divided after all"
        return
    if task.longer is not None:
        found["longer"] = set(sequences(draw(task.longer, 128, split="test")))
    assert sum(map(len, found.values())) == len(set().union(*found.values()))


def test_every_split_is_seeded_and_an_evaluation_comes_to_an_end(task: Task) -> None:
    for split in SPLITS:
        assert digest(draw(task, split=split)) == digest(draw(task, split=split))
        available = task.available(split)
        if available is not None:
            once = sequences(draw(task, min(available, 256), split="test")) if split == "test" else []
            assert available >= 1 and len(set(once)) >= 0.9 * len(once), "rows come again before all have come"


def test_longer_sequences_are_longer_and_of_the_same_kind(task: Task) -> None:
    longer = task.longer
    if longer is None:
        return
    assert (longer.inputs, longer.outputs, longer.kind) == (task.inputs, task.outputs, task.kind)
    assert longer.longer is None
    assert draw(longer, split="test").lengths.min() > draw(task, 256).lengths.max()
    assert longer.card.variant != task.card.variant


def test_another_seed_and_another_draw_give_other_batches(task: Task, batch: Batch) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [task.sample(16, generator), task.sample(16, generator), draw(task, seed=1)]
    assert digest(draws[0]) == digest(batch)
    assert len({digest(each) for each in draws}) == 3


def test_samples_of_a_batch_differ(batch: Batch) -> None:
    assert len({batch.inputs[sample].numpy().tobytes() for sample in range(len(batch))}) > 1


def test_only_the_generator_is_random(task: Task) -> None:
    assert_uses_only_its_generator(task)


def assert_fits(values: Tensor, space: Space) -> None:
    """Tokens are whole numbers below the size, reals are finite and as many as the size says."""
    if isinstance(space, Tokens):
        assert values.dtype == torch.int64 and values.dim() == 2
        assert values.min() >= 0 and values.max() < space.size
    else:
        assert values.dtype == torch.float32 and values.dim() == 3
        assert values.shape[2] == space.size and values.isfinite().all()


def test_batch_is_what_the_task_announces(task: Task, batch: Batch) -> None:
    assert_fits(batch.inputs, task.inputs)
    assert_fits(batch.targets, task.outputs)
    assert len(batch) == 16
    assert batch.scored.dtype == torch.bool and batch.scored.shape == batch.targets.shape[:2]
    assert batch.lengths.dtype == torch.int64 and batch.lengths.shape == (16,)
    assert batch.lengths.min() >= 1 and batch.lengths.max() <= batch.length
    if task.kind != "transduce":
        assert batch.targets.shape[:2] == batch.inputs.shape[:2]


def test_each_sample_is_scored_somewhere(batch: Batch) -> None:
    assert batch.scored.any(1).all()


def test_padding_is_not_scored(task: Task, batch: Batch) -> None:
    if task.kind != "transduce":
        padding = torch.arange(batch.length) >= batch.lengths[:, None]
        assert not (batch.scored & padding).any()


def test_one_sample_is_a_batch_too(task: Task) -> None:
    assert len(draw(task, 1)) == 1


def test_loss_and_score_are_per_position_and_finite_where_scored(task: Task, batch: Batch, outputs: Tensor) -> None:
    for values in (task.loss(outputs, batch), task.score(outputs, batch)):
        assert values.shape == batch.scored.shape
        assert values.dtype == outputs.dtype
        assert values[batch.scored].isfinite().all()


def test_loss_of_a_position_is_that_of_its_output(task: Task, batch: Batch, outputs: Tensor) -> None:
    sample, time = (int(index) for index in batch.scored.nonzero()[0])
    changed = outputs.clone()
    changed[sample, time] += torch.linspace(1, 2, task.outputs.size)
    moved = task.loss(changed, batch) != task.loss(outputs, batch)
    assert moved[sample, time]
    assert moved[batch.scored].sum() == 1


def test_loss_has_a_gradient_and_leaves_the_outputs_alone(task: Task, batch: Batch, outputs: Tensor) -> None:
    before = outputs.clone()
    outputs.requires_grad_()
    sample_means(task.loss(outputs, batch), batch.scored).sum().backward()
    task.score(outputs.detach(), batch)
    assert torch.equal(outputs, before)
    assert outputs.grad is not None and outputs.grad.isfinite().all()
    assert outputs.grad[batch.scored].abs().sum() > 0
    assert outputs.grad[~batch.scored].abs().sum() == 0


def test_targets_as_outputs_solve_the_task(task: Task) -> None:
    batch = draw(task, affordable(task, 16))
    right = certain(task, batch)
    score = sample_means(task.score(right, batch), batch.scored)
    loss = sample_means(task.loss(right, batch), batch.scored)
    assert task.card.solved <= score.mean() <= score.max() <= 1 + 1e-5
    assert loss.mean() < task.card.baseline.loss


def test_card_is_filled_in(task: Task) -> None:
    card = task.card
    for text in (card.variant, card.scored, card.score, *card.comparable, *card.incomparable):
        assert text and "\n" not in text
    assert card.window != ""
    assert card.baselines
    for baseline in card.baselines:
        assert baseline.rule and baseline.derivation
        assert baseline.loss >= 0
        assert baseline.score < card.solved <= 1


def test_a_uniform_guess_scores_chance_and_no_more_than_the_baseline(task: Task) -> None:
    """Chance is the mean over tokens of what saying that token everywhere scores."""
    if not isinstance(task.outputs, Tokens):
        return
    batch = draw(task, affordable(task, 128), seed=3)
    size = task.outputs.size
    shape = (*batch.targets.shape[:2], size)
    generator = torch.Generator().manual_seed(4)
    guesses = [sample_means(task.score(torch.rand(shape, generator=generator), batch), batch.scored) for _ in range(4)]
    score = torch.cat(guesses)
    if size <= 64:  # a score adds up over positions, and at each of them every token is as likely to be guessed
        each = []
        for token in range(size):
            said = torch.full(shape, -1.0)
            said[..., token] = 1.0
            each.append(sample_means(task.score(said, batch), batch.scored).mean())
        chance = float(torch.stack(each).mean())
        assert abs(score.mean().item() - chance) <= 4 * score.std().item() / sqrt(len(score)) + 1e-6
    assert score.mean().item() <= task.card.baseline.score + 4 * score.std().item() / sqrt(len(score)) + 1e-6


def test_no_constant_beats_the_baselines(task: Task) -> None:
    count = affordable(task)
    batch = draw(task, count, seed=1, split="test")
    same = constant(task, draw(task, count, seed=2), batch)
    loss = sample_means(task.loss(same, batch), batch.scored)
    score = sample_means(task.score(same, batch), batch.scored)
    errors = 4 * loss.std().item() / sqrt(count), 4 * score.std().item() / sqrt(count)
    assert min(baseline.loss for baseline in task.card.baselines) <= loss.mean().item() + errors[0] + 1e-6
    assert task.card.baseline.score >= score.mean().item() - errors[1] - 1e-6


def test_what_is_needed_is_an_input_and_a_scored_position(task: Task, batch: Batch) -> None:
    needs = task.needs(batch)
    assert needs.dtype == torch.int64 and needs.dim() == 2 and needs.shape[1] == 3
    sample, time, position = needs.unbind(1)
    assert (time >= 0).all() and (time < batch.lengths[sample]).all()
    assert batch.scored[sample, position].all()
    assert len({tuple(row) for row in needs.tolist()}) == len(needs), "a piece is counted twice"
    if task.kind == "aligned":
        assert (time <= position).all()


def test_lags_of_other_sequences_are_distributed_as_the_card_says(task: Task) -> None:
    """The largest distance of the two cumulative distributions, beside what chance leaves between samples."""
    kept = dict(task.card.lags)
    assert list(kept) == sorted(kept) and all(count > 0 for count in kept.values())
    found = task.lags(draw(task, 512, seed=5))
    assert (len(found) == 0) == (not kept)
    if not kept:
        return
    counts = torch.bincount(found, minlength=max(kept) + 1).double()
    expected = torch.zeros_like(counts)
    expected[list(kept)] = torch.tensor(list(kept.values()), dtype=torch.float64)
    apart = (counts / counts.sum() - expected / expected.sum()).cumsum(0)
    # pieces of one sequence hang together, so that 512 sequences are what counts
    assert apart.abs().max() < 2.2 * sqrt(2 / 512)


def test_what_is_judged_is_scored_and_there_is_some_in_every_sample(task: Task, batch: Batch) -> None:
    judged = task.judged(batch)
    assert judged.dtype == torch.bool and not (judged & ~batch.scored).any()
    assert judged.any(1).all()


def test_effective_window_is_nothing_for_a_constant_and_said_on_the_card(task: Task) -> None:
    worst = max(baseline.loss for baseline in task.card.baselines)
    windows = [task.effective_window(loss) for loss in (0.0, worst / 2, worst)]
    if task.card.window is None:
        assert windows == [None, None, None]
    else:
        assert windows[0] is not None and windows[1] is not None and windows[2] is not None
        assert windows[0] > windows[1] > windows[2]
        assert windows[2] == pytest.approx(0, abs=1e-6 * windows[0])


def test_rules_read_nothing_that_a_model_does_not_see(task: Task, batch: Batch) -> None:
    shown = {
        name: torch.zeros_like(value) for name, value in batch.tensors().items() if name not in ("inputs", "lengths")
    }
    hidden = replace(batch, **shown)
    for name, rule in task.rules().items():
        said = rule(batch)
        assert said.shape == (*batch.targets.shape[:2], task.outputs.size), name
        assert torch.equal(said, rule(hidden)), f"{name} reads the targets"
        assert task.score(said, batch)[batch.scored].isfinite().all()


def test_docstring_has_a_worked_example_and_a_source(task: Task) -> None:
    text = type(task).__doc__ or ""
    assert ">>>" in text and ".sample(" in text
    assert "Source:" in text or "arXiv" in text


def test_every_position_has_a_short_label(task: Task, batch: Batch) -> None:
    labels = task.labels(batch)
    assert [len(sample) for sample in labels] == [batch.length] * len(batch)
    assert all(isinstance(label, str) and len(label) <= 12 for sample in labels for label in sample)
    of_target = task.target_labels(batch)
    assert (of_target is not None) == (task.kind == "transduce")
    if of_target is not None:
        assert [len(sample) for sample in of_target] == [batch.targets.shape[1]] * len(batch)


def test_a_decoder_reads_the_target_one_position_behind(task: Task, batch: Batch) -> None:
    if task.kind != "transduce":
        assert batch.decoder_inputs is None and batch.target_lengths is None
        return
    assert batch.decoder_inputs is not None and batch.target_lengths is not None
    assert (batch.decoder_inputs[:, 0] == START).all()
    assert torch.equal(batch.decoder_inputs[:, 1:], batch.targets[:, :-1])
    position = torch.arange(batch.targets.shape[1])
    padding = position >= batch.target_lengths[:, None]
    assert not (batch.scored & padding).any()
    last = position == batch.target_lengths[:, None] - 1
    assert torch.equal((batch.targets == END) & ~padding, last), "<eos> ends every target"


class Peeking:
    """Adding with a fault: it also draws from elsewhere."""

    def __init__(self, noise: Callable[[], float]) -> None:
        self.noise = noise

    def sample(self, count: int, generator: torch.Generator, split: Split = "train") -> Batch:
        batch = Adding().sample(count, generator, split)
        return replace(batch, inputs=batch.inputs + self.noise())


def torch_put_back() -> float:
    with torch.random.fork_rng(devices=[]):
        return float(torch.rand(()))


@pytest.mark.parametrize(
    "noise",
    [lambda: float(torch.rand(())), lambda: float(np.random.rand()), random.random, torch_put_back],
    ids=["torch", "numpy", "python", "torch put back"],
)
def test_check_of_randomness_catches_whoever_draws_from_elsewhere(noise: Callable[[], float]) -> None:
    with pytest.raises(AssertionError, match="global random state"):
        assert_uses_only_its_generator(Peeking(noise))


def test_check_of_randomness_lets_the_same_task_pass_without_the_fault() -> None:
    assert_uses_only_its_generator(Peeking(lambda: 0.0))


def test_check_of_randomness_leaves_the_global_states_as_they_were() -> None:
    before = global_states()
    assert_uses_only_its_generator(Adding())
    assert global_states() == before


if __name__ == "__main__":
    digests = {}
    for each in PATHS:
        with suppress(Unavailable):
            digests[each.stem] = digest(draw(build(each)))
    print(json.dumps(digests))
