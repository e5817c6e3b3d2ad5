"""Alignment's numbers by hand: of copies, reversals, even attention and a mixture."""

import math
from functools import partial
from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from retrograde.core.contracts import Snapshot
from retrograde.core.records import Trace
from retrograde.core.snapshot import snapshot
from retrograde.layers.scores.dot import Dot
from retrograde.layers.windows.global_ import Global
from retrograde.layers.windows.local_p import LocalP
from retrograde.models.gru import gru
from retrograde.models.lstm import lstm
from retrograde.models.seq2seq import seq2seq
from retrograde.models.seq2seq_luong import seq2seq_luong
from retrograde.models.transformer_seq2seq import TransformerEncoderDecoder
from retrograde.probes.alignment import Alignment, coverage, diagonal, monotonicity
from retrograde.tasks.adding import Adding
from retrograde.tasks.duplicate import Duplicate
from retrograde.tasks.reverse import Reverse
from retrograde.tasks.translate_numbers import TranslateNumbers

pytestmark = pytest.mark.usefixtures("float64")

REVERSE = Reverse(symbols=3, shortest=4, longest=4)
DUPLICATE = Duplicate(symbols=3, shortest=4, longest=4)


def looking(task: Any, weights: Tensor, samples: int = 1) -> Snapshot:
    """A snapshot whose one head has those weights, target by source position, in every sample."""
    batch = task.sample(samples, torch.Generator().manual_seed(0))
    maps = {"cross0": weights.expand(samples, 1, -1, -1)}
    trace = Trace(torch.zeros(samples, 1, 1), {}, {}, maps, target_side=frozenset(maps), cross=frozenset(maps))
    model = seq2seq(task, partial(gru, hidden=2), partial(gru, hidden=2))
    return Snapshot(0, model, task, batch, trace, torch.zeros(1, 1), {})


def numbers(on: Snapshot, **settings: float) -> dict[str, float]:
    readings = list(Alignment(**settings)(on))
    assert all(list(reading.dims) == ["head"] for reading in readings)
    return {reading.name: float(reading.values[0]) for reading in readings}


def at(*positions: int, length: int = 4) -> Tensor:
    """All weight of each target on one source position."""
    return torch.nn.functional.one_hot(torch.tensor(positions), length).to(torch.float64)


def test_a_perfect_reversal_falls_back_at_every_step() -> None:
    """Four symbols and the end, which needs nothing and does not count, wherever it looks."""
    made = numbers(looking(REVERSE, at(3, 2, 1, 0, 3)), width=0.0)
    assert made == {"needed/cross0": 1.0, "coverage/cross0": 1.0, "monotonicity/cross0": -1.0, "diagonal/cross0": 0.0}


def test_a_copy_where_a_reversal_is_asked_for_looks_at_what_is_not_needed() -> None:
    made = numbers(looking(REVERSE, at(0, 1, 2, 3, 3)), width=0.0)
    assert made == {"needed/cross0": 0.0, "coverage/cross0": 1.0, "monotonicity/cross0": 1.0, "diagonal/cross0": 1.0}


def test_even_attention_covers_all_and_follows_nothing() -> None:
    made = numbers(looking(REVERSE, torch.full((5, 4), 0.25)), width=1.0)
    assert made["needed/cross0"] == pytest.approx(0.25)
    assert made["coverage/cross0"] == 1.0  # four targets give every source position 1
    assert made["monotonicity/cross0"] == 0.0
    assert made["diagonal/cross0"] == pytest.approx((2 + 3 + 3 + 2) / 16)


def test_a_mixture_by_hand() -> None:
    """Targets look at 2, halfway between 0 and 3, at 1 and at 0; they need 3, 2, 1, 0."""
    weights = torch.cat([at(2), torch.tensor([[0.5, 0, 0, 0.5]]), at(1, 0, 0)])
    on = looking(REVERSE, weights)
    made = numbers(on, covered=0.5, width=0.0)
    assert made["needed/cross0"] == pytest.approx((0 + 0 + 1 + 1) / 4)
    assert made["coverage/cross0"] == 1.0
    assert numbers(on, covered=0.75)["coverage/cross0"] == 0.75  # the last position was given a half
    assert made["monotonicity/cross0"] == -1.0  # places 2, 1.5, 1, 0
    assert made["diagonal/cross0"] == 0.0
    assert numbers(on, width=1.0)["diagonal/cross0"] == pytest.approx((0 + 0.5 + 1 + 0) / 4)


def test_the_second_copy_begins_again_at_the_start() -> None:
    """Eight targets of four symbols: of 28 pairs 12 within a copy rise; across, 6 rise, 6 fall, and 4 stand still."""
    made = numbers(looking(DUPLICATE, at(0, 1, 2, 3, 0, 1, 2, 3, 0)))
    assert made["needed/cross0"] == made["coverage/cross0"] == 1.0
    assert made["monotonicity/cross0"] == pytest.approx(12 / 28)


def test_samples_count_alike_and_source_padding_not_at_all() -> None:
    task = Reverse(symbols=3, shortest=2, longest=5)
    on = looking(task, torch.full((6, 5), 0.2), samples=20)
    lengths = on.batch.lengths.tolist()
    assert len(set(lengths)) > 1
    perfect = torch.zeros(20, 1, 6, 5)
    for sample, length in enumerate(lengths):
        perfect[sample, 0, range(length), range(length - 1, -1, -1)] = 1
        perfect[sample, 0, length:, 0] = 1
    trace = Trace(torch.zeros(20, 1, 1), {}, {}, {"cross0": perfect}, cross=frozenset({"cross0"}))
    made = numbers(Snapshot(0, on.model, task, on.batch, trace, on.losses, {}), width=0.0)
    assert made["needed/cross0"] == made["coverage/cross0"] == 1.0
    assert made["monotonicity/cross0"] == -1.0
    middle = [1 / length if length % 2 else 0.0 for length in lengths]  # where a reversal crosses the diagonal
    assert made["diagonal/cross0"] == pytest.approx(sum(middle) / 20)


def test_kendalls_tau_counts_the_pairs_in_order_less_those_out_of_order() -> None:
    shares = torch.softmax(3 * torch.randn(2, 3, 7, 5), -1)
    targets = torch.tensor([[True] * 7, [True, True, False, True, True, False, False]])
    made = monotonicity(shares, targets)
    for sample, head in product(range(2), range(3)):
        looked = [sum(j * share for j, share in enumerate(row)) for row in shares[sample, head].tolist()]
        pairs = list(combinations([place for place, counts in zip(looked, targets[sample], strict=True) if counts], 2))
        rising = sum(late > early for early, late in pairs)
        assert made[sample, head].item() == pytest.approx((2 * rising - len(pairs)) / len(pairs))


def test_a_single_target_has_no_order_and_stands_at_the_beginning() -> None:
    shares, targets = at(0).view(1, 1, 1, 4), torch.ones(1, 1, dtype=torch.bool)
    assert math.isnan(monotonicity(shares, targets).item())
    assert diagonal(shares, targets, torch.tensor([4]), 0.0).item() == 1.0


def test_what_stands_just_within_the_diagonals_width_belongs_to_it() -> None:
    """Of any two lengths: where the line passes through a position, those one before and behind it."""
    for last, end in product(range(1, 25), repeat=2):
        targets, lengths = torch.ones(1, last + 1, dtype=torch.bool), torch.tensor([end + 1])
        order = torch.arange(last + 1)
        for beside in (-1, 1):
            place = (order * end // last + beside).clamp(0, end)
            shares = torch.nn.functional.one_hot(place, end + 1).float().view(1, 1, last + 1, end + 1)
            near = ((order * end / last - place).abs() < 1 + 1e-3).float().mean()
            assert diagonal(shares, targets, lengths, 1.0).item() == near.item()


def test_only_real_source_positions_are_to_be_covered_and_only_by_targets_that_need_something() -> None:
    """The end alone looks at the third position, and the second target at padding."""
    shares = at(0, 3, 2).view(1, 1, 3, 4)
    targets = torch.tensor([[True, True, False]])
    assert coverage(shares, targets, torch.tensor([3]), 0.5).item() == pytest.approx(1 / 3)


def test_a_window_that_takes_from_the_weights_is_read_by_its_shares() -> None:
    full, less = (numbers(looking(REVERSE, scale * at(3, 2, 1, 0, 0))) for scale in (1.0, 0.3))
    assert full == less


def test_without_a_known_alignment_every_scored_target_counts_and_none_is_needed() -> None:
    task = TranslateNumbers(source="en", target="de", unit="characters", largest=99)
    writer = partial(gru, hidden=4)
    model = seq2seq_luong(task, writer, writer, Dot, Global)
    on = snapshot(model, task, task.sample(4, torch.Generator().manual_seed(0)), 0)
    assert sorted(numbers(on)) == ["coverage/cross0", "diagonal/cross0", "monotonicity/cross0"]


@pytest.mark.parametrize("window", [Global, LocalP])
def test_every_number_of_a_model_lies_within_its_bounds(window: Any) -> None:
    task = Reverse(symbols=3, shortest=2, longest=5)
    writer = partial(gru, hidden=4)
    models = [seq2seq_luong(task, writer, writer, Dot, window)]
    if window is Global:
        models.append(TransformerEncoderDecoder(task, hidden=8, layers=2, heads=2, feedforward=8))
    for model in models:
        on = snapshot(model, task, task.sample(8, torch.Generator().manual_seed(0)), 0)
        readings = list(Alignment()(on))
        assert len(readings) == 4 * len(on.trace.cross)
        for reading in readings:
            low = -1 if reading.name.startswith("monotonicity") else 0
            assert (reading.values >= low - 1e-9).all() and (reading.values <= 1 + 1e-9).all()


def test_a_model_that_looks_at_no_source_has_no_alignment() -> None:
    task = Adding(length=6)
    for model, drawn in (
        (lstm(task, hidden=4), task),
        (seq2seq(REVERSE, partial(gru, hidden=4), partial(gru, hidden=4)), REVERSE),
    ):
        assert not list(Alignment()(snapshot(model, drawn, drawn.sample(2, torch.Generator().manual_seed(0)), 0)))


@pytest.mark.parametrize("settings", [{"covered": 0.0}, {"width": -1.0}])
def test_settings_that_say_nothing_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"covered must be greater than 0 and width at least 0, not "):
        Alignment(**settings)
