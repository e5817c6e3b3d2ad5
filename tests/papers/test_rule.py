"""The shallow rules against what they must score: closed forms, enumeration by hand, counting in plain Python."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

import model_contract as contract
import pytest
import torch
from torch import Tensor

from retrograde.core.contracts import Baseline, Reals, Task, Tokens
from retrograde.core.fitted import (
    CLASSIFIER_PENALTIES,
    DOUBTS,
    FLOOR,
    PENALTIES,
    BackOff,
    Examples,
    Linear,
    least_squares,
    logistic,
)
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch
from retrograde.core.snapshot import snapshot
from retrograde.core.splits import Split
from retrograde.models.rule import Rule, recent, rule
from retrograde.probes.attention import Attention
from retrograde.probes.health import Health
from retrograde.probes.lag_gradient import LagGradient
from retrograde.probes.parameters import Parameters
from retrograde.probes.source_gradient import SourceGradient
from retrograde.probes.state_gradient import StateGradient
from retrograde.tasks.adding import Adding
from retrograde.tasks.cloze import Cloze
from retrograde.tasks.copying import Copying
from retrograde.tasks.reverse import Reverse
from retrograde.tasks.temporal_order import TemporalOrder
from retrograde.train.fit import fit
from retrograde.train.options import RecorderSettings, TrainerSettings

Answer = Callable[[tuple[int, ...]], float]


@dataclass(frozen=True)
class Told(Task):
    """All strings of ``length`` bits, equally likely; at the last position ``answer`` of the string is due."""

    answer: Answer
    length: int = 3
    reals: bool = False
    kind = "aligned"

    @property
    def inputs(self) -> Tokens:
        return Tokens(2)

    @property
    def outputs(self) -> Tokens | Reals:
        return Reals(1) if self.reals else Tokens(2)

    @property
    def indivisible(self) -> str:
        return "there are eight strings"

    def sample(self, count: int, generator: torch.Generator, split: Split = "train") -> Batch:
        return self.batch(torch.randint(2, (count, self.length), generator=generator))

    def all(self) -> Batch:
        return self.batch(torch.tensor(list(product((0, 1), repeat=self.length))))

    def batch(self, inputs: Tensor) -> Batch:
        table = torch.tensor([self.answer(bits) for bits in product((0, 1), repeat=self.length)])
        right = table[(inputs * 2 ** torch.arange(self.length).flip(0)).sum(1)]
        targets = torch.zeros_like(inputs, dtype=torch.float32 if self.reals else torch.long)
        targets[:, -1] = right
        scored = torch.zeros_like(inputs, dtype=torch.bool)
        scored[:, -1] = True
        lengths = torch.full((len(inputs),), self.length)
        return Batch(inputs, targets[:, :, None] if self.reals else targets, scored, lengths)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return (outputs - batch.targets).square().squeeze(2) if self.reals else super().loss(outputs, batch)

    def score(self, outputs: Tensor, batch: Batch) -> Tensor:
        return 1 - self.loss(outputs, batch) if self.reals else super().score(outputs, batch)

    def describe(self) -> Mapping[str, Any]:
        guess = Baseline("a guess", log(2), 0.5, "two answers")
        return {"variant": "bits", "scored": "the last", "score": "right", "solved": 0.99, "baselines": (guess,)}


LAST = Told(lambda bits: bits[-1])
FIRST = Told(lambda bits: bits[0])
MAJORITY = Told(lambda bits: int(sum(bits) >= 2))
PARITY = Told(lambda bits: sum(bits) % 2)


def measured(task: Task, model: Callable[[Batch], Tensor], batch: Batch) -> tuple[float, float]:
    """Mean loss and score."""
    sums = torch.zeros(2, dtype=torch.float64)
    for chosen in torch.arange(len(batch)).split(500):
        part = batch.select(chosen)
        outputs = model(part)
        values = (task.loss(outputs, part), task.score(outputs, part))
        sums += torch.stack([sample_means(value.double(), part.scored).sum() for value in values])
    loss, score = (sums / len(batch)).tolist()
    return loss, score


def other(task: Task, count: int) -> Batch:
    """Sequences of another generator than the rules are fitted with."""
    return task.sample(count, torch.Generator().manual_seed(17))


def best_logit(right: Mapping[int, float]) -> float:
    """Of σ(a (n - 1.5)) for the share that is 1 among the strings with n ones, the loss at the best a, by trying."""
    ways = {0: 1, 1: 3, 2: 3, 3: 1}

    def loss(slope: float) -> float:
        total = 0.0
        for ones, share in right.items():
            probability = 1 / (1 + exp(-slope * (ones - 1.5)))
            total -= ways[ones] / 8 * (share * log(probability) + (1 - share) * log(1 - probability))
        return total

    return min(loss(step / 1000) for step in range(-8000, 8001))


CHANCE = (log(2), 0.5)
CERTAIN = (0.0, 1.0)
THREE_OF_FOUR = (-0.75 * log(0.75) - 0.25 * log(0.25), 0.75)


@pytest.mark.parametrize(
    ("task", "name", "k", "expected"),
    [
        (LAST, "constant", 1, CHANCE),
        (LAST, "position", 1, CHANCE),
        (LAST, "last_token", 1, CERTAIN),
        (LAST, "first_token", 1, CHANCE),
        # with n of three ones the last is one with n/3
        (LAST, "bag", 1, (best_logit({0: 0, 1: 1 / 3, 2: 2 / 3, 3: 1}), 0.75)),
        (LAST, "window", 1, CERTAIN),
        (FIRST, "constant", 1, CHANCE),
        (FIRST, "last_token", 1, CHANCE),
        (FIRST, "first_token", 1, CERTAIN),
        (FIRST, "window", 2, CHANCE),
        (FIRST, "window", 3, CERTAIN),
        # one bit tells the majority of three in three of four cases, two in seven of eight: with 00 or 11 for certain
        (MAJORITY, "constant", 1, CHANCE),
        (MAJORITY, "last_token", 1, THREE_OF_FOUR),
        (MAJORITY, "first_token", 1, THREE_OF_FOUR),
        (MAJORITY, "window", 2, (0.5 * log(2), 0.75)),
        (MAJORITY, "bag", 1, CERTAIN),
        (MAJORITY, "window", 3, CERTAIN),
        # no two bits and no sum of them tells the parity of three
        (PARITY, "last_token", 1, CHANCE),
        (PARITY, "first_token", 1, CHANCE),
        (PARITY, "bag", 1, (log(2), None)),  # of its ties some fall well
        (PARITY, "window", 2, CHANCE),
        (PARITY, "window", 3, CERTAIN),
        (PARITY, "window", 9, CERTAIN),
    ],
)
def test_a_rule_tells_what_it_sees_and_nothing_else(
    task: Told, name: str, k: int, expected: tuple[float, float | None]
) -> None:
    loss, score = measured(task, rule(task, name, k), task.all())
    assert loss == pytest.approx(expected[0], abs=2e-3)
    if expected[1] is not None:
        assert score == pytest.approx(expected[1], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "k", "loss"),
    [
        ("constant", 1, 5.25),  # Var[4 X + 2 Y + Z] of three bits: 21/4
        ("position", 1, 5.25),
        ("first_token", 1, 1.25),  # what is left are 2 Y + Z
        ("last_token", 1, 5.0),
        ("window", 2, 4.0),
        ("window", 3, 0.0),
        ("bag", 1, 7 / 6),  # of the sum alone, each of X, Y, Z counts 7/3: (5/3)² + (1/3)² + (4/3)², over 4
    ],
)
def test_numbers_told_from_tokens(name: str, k: int, loss: float) -> None:
    task = Told(lambda bits: 4 * bits[0] + 2 * bits[1] + bits[2], reals=True)
    assert measured(task, rule(task, name, k), task.all())[0] == pytest.approx(loss, abs=2e-3)


def best_of_last(pairs: int) -> Callable[[Batch], Tensor]:
    """What is marked among the last pairs, and 1/2 for each mark that is not: a loss of (1 - pairs/T)/6."""

    def answer(batch: Batch) -> Tensor:
        values, marks = batch.inputs[:, -pairs:].unbind(2)
        told = (values * marks).sum(1) + (2 - marks.sum(1)) / 2
        return told[:, None, None].expand(-1, batch.length, 1)

    return answer


@pytest.mark.parametrize(("length", "markers"), [(50, "any_two"), (20, "any_two"), (20, "one_per_half")])
def test_window_on_adding_is_the_best_predictor_of_its_pairs(length: int, markers: str) -> None:
    """Beside the best answer from those pairs the fit to 20,000 sequences costs less than 0.001."""
    task = Adding(length, markers)
    batch, many = other(task, 1000), other(task, 40_000)
    for w in (2, length // 2):
        best = best_of_last(w)
        expected = (1 - w / length) / 6
        assert task.loss(best(many), many)[many.scored].mean().item() == pytest.approx(expected, abs=4e-3)
        fitted = rule(task, "window", w)
        assert measured(task, fitted, batch)[0] == pytest.approx(measured(task, best, batch)[0], abs=1e-3)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("constant", 1 / 6),
        ("position", 1 / 6),
        ("bag", (1 - 2 / 20) / 6),  # of the sum of T values two are wanted: R² = Cov²/(Var Var) = 2/T
        ("last_half", 1 / 12),  # the task's own
    ],
)
def test_what_other_rules_tell_of_adding(name: str, loss: float) -> None:
    task = Adding(20)
    assert measured(task, rule(task, name), other(task, 40_000))[0] == pytest.approx(loss, abs=4e-3)


def test_a_constant_on_the_adding_of_1997_is_a_little_below_one_in_24() -> None:
    task = Adding(100, "first_ten")
    assert measured(task, rule(task, "constant"), other(task, 20_000))[0] == pytest.approx(0.0392, abs=1e-3)


def test_a_constant_of_numbers_is_their_mean() -> None:
    model = rule(Adding(20), "constant")
    (mean,) = model.fitted.mean.tolist()
    assert mean == pytest.approx(1, abs=4 * (1 / 6 / 20_000) ** 0.5)
    assert (model(other(Adding(20), 3)) == mean).all()


@pytest.mark.parametrize("length", [20, 50])
def test_position_on_copying_is_the_published_baseline(length: int) -> None:
    task = Copying(length)
    batch = other(task, 2000)
    loss, score = measured(task, rule(task, "position"), batch)
    assert loss == pytest.approx(10 * log(8) / (length + 20), abs=1e-3)
    assert score == pytest.approx(1 / 8, abs=0.01)


def test_a_constant_on_copying_says_blanks_with_their_share() -> None:
    task = Copying(50)
    loss, score = measured(task, rule(task, "constant"), other(task, 5000))
    assert loss == pytest.approx(-(6 / 7) * log(6 / 7) - 1 / 7 * log(1 / 7 / 8), abs=1e-3)
    assert score == 0


def test_a_longer_window_on_copying_knows_more_places_of_the_answer() -> None:
    """The marker stands at the first of ten: a window tells as many places as it is long, and the symbols never."""
    task = Copying(20)
    batch = other(task, 1000)
    losses = [measured(task, rule(task, "window", k, samples=4000), batch)[0] for k in (2, 5, 10)]
    assert losses[0] > losses[1] + 0.02 > losses[2] + 0.04
    assert losses[2] == pytest.approx(task.card.baseline.loss, abs=4e-3)


@pytest.mark.parametrize("name", ["constant", "position", "last_token", "first_token", "window"])
def test_what_does_not_see_the_symbols_of_temporal_order_is_at_chance(name: str) -> None:
    task = TemporalOrder()
    loss, score = measured(task, rule(task, name, samples=10_000), other(task, 4000))
    assert score == pytest.approx(0.25, abs=0.03)
    assert loss == pytest.approx(log(4), abs=5e-3)


def test_a_bag_on_temporal_order_knows_all_but_the_order() -> None:
    """Two X or two Y are told for certain; of X and Y the order is not: half of the cases at a loss of ln 2."""
    task = TemporalOrder()
    loss, score = measured(task, rule(task, "bag", samples=5000), other(task, 5000))
    assert score == pytest.approx(0.75, abs=0.03)
    assert loss == pytest.approx(log(2) / 2, abs=0.02)


def test_position_on_a_target_with_an_axis_of_its_own() -> None:
    """Of strings of n symbols, n from 5 to 8, each position counts 1/(n + 1), and the one behind the last is END."""
    task = Reverse(symbols=4, shortest=5, longest=8)
    outputs = rule(task, "position")(other(task, 1)).exp()[0]
    for place in range(9):
        reached = [n for n in range(5, 9) if n >= place]
        ends = sum(1 / (n + 1) for n in reached if n == place) / sum(1 / (n + 1) for n in reached)
        expected = [ends, 0, *4 * [(1 - ends) / 4]]
        assert outputs[place].tolist() == pytest.approx(expected, abs=0.02)


def strings(generator: torch.Generator, count: int, length: int) -> Iterator[tuple[list[int], int]]:
    """What a language of three symbols says, and what follows."""
    for _ in range(count):
        text = torch.randint(3, (length,), generator=generator).tolist()
        yield text, (text[0] + text[1]) % 3 if torch.rand((), generator=generator) < 0.8 else text[2]


def counted(
    pairs: list[tuple[list[int], int]], held: list[tuple[list[int], int]], levels: int
) -> Callable[..., list[float]]:
    """Back-off as its docstring says it, with dictionaries."""
    root = Counter(answer for _, answer in pairs)
    tables: list[tuple[dict[tuple[int, ...], Counter[int]], float]] = []

    def answer(text: Sequence[int], upto: int, doubt: float | None = None) -> list[float]:
        shares = [(root[token] + 1 / 3) / (len(pairs) + 1) for token in range(3)]
        for j in range(1, upto + 1):
            table, known = tables[j - 1]
            seen = table.get(tuple(text[:j]))
            if seen is None:
                return shares
            total = sum(seen.values())
            believed = total / (total + (doubt if doubt is not None and j == upto else known))
            shares = [(1 - believed) * share + believed * seen[token] / total for token, share in enumerate(shares)]
        return shares

    for level in range(1, levels + 1):
        table: dict[tuple[int, ...], Counter[int]] = {}
        for text, right in pairs:
            table.setdefault(tuple(text[:level]), Counter())[right] += 1
        table = {key: seen for key, seen in table.items() if sum(seen.values()) > 1}
        tables.append((table, 0.0))
        known = [(text, right) for text, right in held if tuple(text[:level]) in table]
        losses = {doubt: -sum(log(answer(text, level, doubt)[right]) for text, right in known) for doubt in DOUBTS}
        tables[-1] = (table, min(DOUBTS, key=losses.__getitem__))
    return answer


def examples(pairs: list[tuple[list[int], int]]) -> Examples:
    seen, targets = zip(*pairs, strict=True)
    return Examples(torch.tensor(seen).int(), torch.tensor(targets), torch.ones(len(pairs), dtype=torch.float64))


@pytest.mark.usefixtures("float64")
def test_back_off_is_counting_with_dictionaries() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs, held = list(strings(generator, 150, 4)), list(strings(generator, 60, 4))
    fitted = BackOff(Tokens(3), 4)
    fitted.fit(examples(pairs), examples(held))
    answer = counted(pairs, held, 4)
    texts = list(product(range(4), repeat=4))  # 3 is a symbol that never came up
    made = fitted(torch.tensor(texts)).exp()
    depths = set()
    for text, shares in zip(texts, made.tolist(), strict=True):
        expected = [
            (1 - FLOOR) * one + FLOOR * base for one, base in zip(answer(text, 4), answer(text, 0), strict=True)
        ]
        assert shares == pytest.approx(expected, rel=1e-9)
        depths.add(max(j for j in range(5) if sum(tuple(pair[0][:j]) == text[:j] for pair in pairs) > 1))
    assert depths == {0, 1, 2, 3, 4}  # every length has something to say


@pytest.mark.usefixtures("float64")
def test_what_was_not_seen_is_answered_by_less_of_it() -> None:
    generator = torch.Generator().manual_seed(1)
    pairs = list(strings(generator, 200, 3))
    fitted = BackOff(Tokens(3), 3)
    fitted.fit(examples(pairs), examples(pairs[:50]))
    shorter = BackOff(Tokens(3), 2)
    shorter.fit(examples(pairs), examples(pairs[:50]))
    assert torch.equal(fitted(torch.tensor([[1, 2, 9]])), shorter(torch.tensor([[1, 2]])))
    shares = [(sum(right == token for _, right in pairs) + 1 / 3) / 201 for token in range(3)]
    assert fitted(torch.tensor([[9, 1, 2]])).exp()[0].tolist() == pytest.approx(shares)


def test_a_context_may_be_as_long_as_one_likes() -> None:
    """100 symbols of 1,000, far beyond what an integer counts: told apart by the hundredth alone."""
    generator = torch.Generator().manual_seed(0)
    seen = torch.randint(1000, (1, 100), generator=generator).repeat(40, 1).int()
    seen[:, -1] = torch.arange(40) % 2
    given = Examples(seen, (torch.arange(40) % 2), torch.ones(40, dtype=torch.float64))
    fitted = BackOff(Tokens(2), 100)
    fitted.fit(given, given)
    assert (fitted(seen).argmax(1) == given.targets).all()
    assert fitted(seen).exp().amax(1).min() > 0.999


@pytest.mark.usefixtures("float64")
def test_least_squares_are_the_normal_equations() -> None:
    x, y, weights = torch.randn(40, 3), torch.randn(40, 2), torch.rand(40)
    shares = weights / weights.sum()
    centred = x - shares @ x
    for penalty, (weight, bias) in zip(PENALTIES, least_squares(centred, y, shares), strict=True):
        left = y - centred @ weight - bias
        torch.testing.assert_close(centred.T @ (left * shares[:, None]), penalty * weight, rtol=0, atol=1e-12)
        torch.testing.assert_close(shares @ left, torch.zeros(2), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_logistic_regression_ends_where_the_gradient_is_zero() -> None:
    x, tokens, weights = torch.randn(60, 3), torch.randint(3, (60,)), torch.rand(60)
    shares = weights / weights.sum()
    found = list(logistic(x, tokens, shares, 3))
    for penalty, (weight, bias) in zip(CLASSIFIER_PENALTIES, found, strict=True):
        wrong = (x @ weight + bias).softmax(1) - torch.nn.functional.one_hot(tokens, 3)
        torch.testing.assert_close(x.T @ (wrong * shares[:, None]) + penalty * weight, 0 * weight, rtol=0, atol=1e-5)
        torch.testing.assert_close(shares @ wrong, 0 * bias, rtol=0, atol=1e-5)
    assert found[-1][0].norm() > found[0][0].norm()


@pytest.mark.usefixtures("float64")
def test_a_linear_fit_does_not_depend_on_units_and_leaves_out_what_never_changes() -> None:
    x = torch.randn(200, 2)
    y = x @ torch.tensor([[2.0], [-1.0]]) + 0.5
    scaled = torch.cat([1000 * x[:, :1] + 7, x[:, 1:] / 1000, torch.full((200, 1), 3.0)], 1)
    fitted = Linear(Reals(1), 3)
    given = Examples(scaled, y, torch.ones(200))
    fitted.fit(given, given)
    torch.testing.assert_close(fitted(scaled), y, rtol=0, atol=1e-6)
    assert fitted.weight[2] == 0


def test_recent_values_by_hand() -> None:
    tokens = torch.tensor([[5, 6, 7]])
    assert recent(tokens, 2, 0, 9).tolist() == [[[5, 9], [6, 5], [7, 6]]]
    assert recent(tokens, 2, 1, 9).tolist() == [[[9, 9], [5, 9], [6, 5]]]
    numbers = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert recent(numbers, 2, 0, 0).tolist() == [[[[1, 0], [2, 0]], [[3, 1], [4, 2]]]]


@pytest.fixture(scope="module")
def gap(tmp_path_factory: pytest.TempPathFactory) -> Cloze:
    """A text in which every word but the first tells the next."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("one two three four five six seven eight nine ten " * 300)
    return Cloze(str(file), length=6, vocabulary=12, subsample=None)


def test_in_a_gap_a_rule_reads_what_stands_before_it(gap: Cloze) -> None:
    """The word before tells the next one; at the first position nothing does, of six: a loss of ln 10 / 6."""
    batch = other(gap, 300)
    for name in ("last_token", "window"):
        loss, score = measured(gap, rule(gap, name, samples=5000), batch)
        assert loss == pytest.approx(log(10) / 6, abs=0.03)
        assert score > 5 / 6
    loss, _ = measured(gap, rule(gap, "constant"), batch)
    assert loss == pytest.approx(log(10), abs=0.01)


RULES = [
    (task, name)
    for task, names in (
        (Adding(20, "first_ten"), ("constant", "position", "bag", "window")),
        (TemporalOrder(10), ("constant", "position", "last_token", "first_token", "bag", "window")),
        (Reverse(symbols=3, shortest=3, longest=5), ("constant", "position")),
        (None, ("constant", "position", "last_token", "first_token", "bag", "window")),  # a cloze task
    )
    for name in names
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("task", "name"), RULES, ids=str)
def test_a_rule_is_causal_mixes_no_samples_and_does_not_read_padding(task: Task | None, name: str, gap: Cloze) -> None:
    task = task or gap
    model = rule(task, name, k=3, samples=500).eval()
    batch = other(task, 6)
    if task.kind != "cloze":
        contract.check_outputs_do_not_see_the_future(model, task, batch)
    contract.check_samples_do_not_mix(model, task, batch)
    contract.check_padding_changes_nothing(model, task, batch)
    contract.check_trace_computes_the_outputs(model, task, batch)


@pytest.mark.parametrize("name", ["last_token", "first_token", "bag", "window"])
def test_in_a_gap_no_rule_reads_the_word_itself(name: str, gap: Cloze) -> None:
    model = rule(gap, name, k=3, samples=500)
    batch = other(gap, 4)
    for position in range(6):
        changed = batch.inputs.clone()
        changed[:, position:] = (changed[:, position:] + 1) % gap.inputs.size
        outputs = model(Batch(changed, batch.targets, batch.scored, batch.lengths))
        assert torch.equal(outputs[:, : position + 1], model(batch)[:, : position + 1])


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (
            Copying(5),
            {"rule": "windw"},
            "rule must be one of constant, position, .*; not 'windw'; did you mean 'window'",
        ),
        (
            Adding(20),
            {"rule": "last_token"},
            "rule=last_token is not made for inputs that are real numbers; the rules here are constant, position, bag, "
            "window, last_half",
        ),
        (
            Reverse(),
            {"rule": "window"},
            "rule=window is not made for targets with an axis of their own; the rules here are constant, position",
        ),
        (Adding(20), {"rule": "last_hal"}, "did you mean 'last_half'"),
        (
            Adding(20),
            {"rule": "window", "k": 400},
            "rule=window is made for at most 1024 features, and .* 2400; make k",
        ),
        (Copying(5, symbols=200), {"rule": "bag"}, "rule=bag is made for at most 16384 weights, and .* 40602"),
        (Copying(5), {"k": 0}, "k must be at least 1, not 0"),
        (Copying(5), {"samples": 0}, "samples must be at least 1, not 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(task: Task, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        rule(task, **settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["constant", "position", "bag", "window"])
def test_a_checkpoint_restores_tables_of_another_size(name: str) -> None:
    task = Copying(5)
    batch = other(task, 8)
    kept, made = (rule(task, name, k, samples) for k, samples in ((6, 80), (6, 30)))
    before = made(batch)
    assert not torch.equal(before, kept(batch))
    made.load_state_dict(kept.state_dict())
    assert torch.equal(made(batch), kept(batch))
    assert not list(kept.parameters()) and not kept.learns and kept.like.is_floating_point()


def test_a_rule_is_the_same_whatever_the_seed_and_leaves_random_numbers_alone() -> None:
    task = TemporalOrder(10)
    batch = other(task, 5)
    torch.manual_seed(0)
    first = rule(task, "bag", samples=500)(batch)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(rule(task, "bag", samples=500)(batch), first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("task", "name", "k", "size"),
    [
        (Copying(5), "constant", 1, 0),
        (Copying(5), "position", 1, 1),
        (Copying(5), "last_token", 1, 0),
        (Copying(5), "first_token", 1, 1),
        (Copying(5), "bag", 1, 10),  # eight symbols, blank and marker
        (Copying(5), "window", 4, 3),
        (Adding(20), "window", 4, 6),
        (Adding(20), "bag", 4, 2),
        (Adding(20), "last_half", 4, None),
    ],
)
def test_what_a_rule_carries_from_position_to_position(task: Task, name: str, k: int, size: int | None) -> None:
    assert rule(task, name, k, samples=100).state_size == size


@pytest.mark.parametrize("task", [Copying(4), Reverse(), TemporalOrder(10)], ids=str)
def test_probes_find_nothing_in_a_rule(task: Task) -> None:
    taken = snapshot(rule(task, samples=100), task, other(task, 3), 0)
    assert not taken.gradients and not taken.trace.states
    assert taken.losses[taken.batch.scored].all()
    for probe in (Attention(), LagGradient(), Parameters(), SourceGradient(), StateGradient()):
        assert list(probe(taken)) == []
    assert {reading.name.partition("/")[2] for reading in Health()(taken)} <= {"outputs", "loss"}


def test_there_is_no_state_to_perturb() -> None:
    task = Copying(4)
    with pytest.raises(ValueError, match="there is no state 'hidden' to perturb"):
        rule(task, samples=100).trace(other(task, 2), {"hidden": torch.zeros(1)})


def test_a_run_evaluates_a_rule_as_it_stands(tmp_path: Path) -> None:
    task = Adding(length=10)
    settings = TrainerSettings(validation_samples=64, test_samples=4096, accelerator="cpu")
    run = fit(
        partial(rule, rule="window", k=5),
        task,
        trainer=settings,
        recorder=RecorderSettings(mode="disabled"),
        outputs=tmp_path,
        progress=False,
    )
    assert run.metadata["status"] == "finished" and run.metadata["model"] == "rule"
    assert run.metadata["parameters"] == 0 and run.metadata["steps"] == 0 and not run.metadata["learns"]
    assert run.metadata["score"] == pytest.approx(0.5, abs=0.05)
    assert run.metadata["state_size"] == 8
    batch = other(task, 8)
    assert torch.equal(run.model(batch), rule(task, "window", 5)(batch))


def on_many(task: Task, model: Rule, portions: int, count: int) -> tuple[float, float]:
    """Mean loss and score over so many portions of sequences."""
    generator = torch.Generator().manual_seed(23)
    found = [measured(task, model, task.sample(count, generator)) for _ in range(portions)]
    losses, scores = zip(*found, strict=True)
    return sum(losses) / portions, sum(scores) / portions


def test_the_constant_on_adding_is_the_card_s_to_three_digits() -> None:
    task = Adding(10, "any_two")
    loss, score = on_many(task, rule(task, "constant"), 10, 60_000)
    assert loss == pytest.approx(1 / 6, abs=5e-4) and score == pytest.approx(0, abs=3e-3)
    assert task.card.baseline.loss == pytest.approx(1 / 6, rel=1e-9)


@pytest.mark.parametrize("length", [20, 50])
def test_the_position_on_copying_is_the_card_s_to_three_digits(length: int) -> None:
    task = Copying(length=length)
    loss, score = on_many(task, rule(task, "position"), 4, 10_000)
    baseline = task.card.baseline
    assert baseline.loss == pytest.approx(10 * log(8) / (length + 20), rel=1e-9)
    assert loss == pytest.approx(baseline.loss, abs=5e-4)
    assert score == pytest.approx(0.125, abs=4 * sqrt(0.125 * 0.875 / 400_000) + 1e-3)
