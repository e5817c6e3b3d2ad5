"""Attention scores and windows against values worked out here, one query and one slot at a time."""

import math

import pytest
import torch
from torch import Tensor

from retrograde.layers.memory_attention import MemoryAttention
from retrograde.layers.scores.additive import Additive
from retrograde.layers.scores.concat import Concat
from retrograde.layers.scores.content import Content
from retrograde.layers.scores.dot import Dot
from retrograde.layers.scores.general import General
from retrograde.layers.scores.location import Location
from retrograde.layers.scores.scaled_dot import ScaledDot
from retrograde.layers.scores.score import Score
from retrograde.layers.windows.global_ import Global
from retrograde.layers.windows.hard import Hard
from retrograde.layers.windows.local_m import LocalM
from retrograde.layers.windows.local_p import LocalP
from retrograde.layers.windows.window import Window

pytestmark = pytest.mark.usefixtures("float64")

TIME, SAMPLES, SLOTS, WIDTH = 4, 3, 5, 6


def by_hand(score: Score, query: Tensor, slot: Tensor, place: int) -> Tensor:
    """The energy of one query and one slot, from the papers' equations."""
    own = dict(score.named_parameters())
    match score:
        case Dot():
            return sum(q * m for q, m in zip(query, slot, strict=True))
        case ScaledDot():
            return sum(q * m for q, m in zip(query, slot, strict=True)) / math.sqrt(len(query))
        case General():
            return query @ own["matrix.weight"] @ slot
        case Additive():
            return own["weigh.weight"][0] @ torch.tanh(own["query.weight"] @ query + own["memory.weight"] @ slot)
        case Concat():
            return own["weigh.weight"][0] @ torch.tanh(own["together.weight"] @ torch.cat([query, slot]))
        case Location():
            return own["places.weight"][place] @ query
        case Content():
            strength = torch.log1p(torch.exp(own["strength.weight"][0] @ query + own["strength.bias"][0]))
            return strength * (query @ slot) / (query.norm() * slot.norm())
    raise AssertionError(score)


@pytest.mark.parametrize("make", [Dot, ScaledDot, General, Additive, Concat, Location, Content])
def test_an_energy_is_the_papers_at_all_times_and_at_one(make: type[Score]) -> None:
    score = make(WIDTH, WIDTH)
    query, memory = torch.randn(TIME, SAMPLES, WIDTH), torch.randn(SAMPLES, SLOTS, WIDTH)
    weights, keys = dict(score.named_parameters()), score.keys(memory)
    made = score.energy(weights, query, keys)
    expected = torch.stack(
        [
            torch.stack([by_hand(score, query[t, b], memory[b, j], j) for j in range(SLOTS)])
            for t in range(TIME)
            for b in range(SAMPLES)
        ]
    ).view(TIME, SAMPLES, SLOTS)
    torch.testing.assert_close(made, expected)
    torch.testing.assert_close(score.energy(weights, query[1], keys), expected[1])


@pytest.mark.parametrize("make", [General, Additive, Concat, Location])
def test_a_score_with_a_matrix_takes_two_widths(make: type[Score]) -> None:
    score = make(WIDTH, 4)
    memory = torch.randn(SAMPLES, SLOTS, 4)
    assert score.energy(dict(score.named_parameters()), torch.randn(SAMPLES, WIDTH), score.keys(memory)).shape == (3, 5)


@pytest.mark.parametrize(("make", "name"), [(Dot, "dot"), (ScaledDot, "scaled_dot"), (Content, "content")])
def test_a_score_without_a_matrix_refuses_two_widths(make: type[Score], name: str) -> None:
    with pytest.raises(ValueError, match=f"score={name} compares vectors of one width, and .* has 6, .* 4; general"):
        make(6, 4)


def test_a_source_longer_than_there_are_places_is_refused() -> None:
    score = Location(WIDTH, WIDTH, longest=4)
    with pytest.raises(ValueError, match=r"score=location has 4 places and the source 5: raise score\.longest"):
        score.energy(dict(score.named_parameters()), torch.randn(1, WIDTH), torch.randn(1, 5, WIDTH))


def shares(window: Window, energy: Tensor, query: Tensor, lengths: Tensor) -> Tensor:
    time = torch.arange(float(TIME)).view(TIME, 1, 1).expand(TIME, SAMPLES, 1)
    return window.share(dict(window.named_parameters()), energy, query, time, lengths)


LENGTHS = torch.tensor([5, 2, 4])


def test_the_global_window_is_a_softmax_over_the_source() -> None:
    energy = torch.randn(TIME, SAMPLES, SLOTS)
    made = shares(Global(WIDTH), energy, torch.randn(TIME, SAMPLES, WIDTH), LENGTHS)
    for sample, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(made[:, sample, :length], torch.softmax(energy[:, sample, :length], -1))
        assert not made[:, sample, length:].any()


def test_the_monotonic_window_moves_with_the_target_and_stays_at_the_end() -> None:
    energy = torch.randn(TIME, SAMPLES, SLOTS)
    made = shares(LocalM(WIDTH, reach=1), energy, torch.randn(TIME, SAMPLES, WIDTH), LENGTHS)
    for time in range(TIME):
        for sample, length in enumerate(LENGTHS.tolist()):
            centre = min(time, length - 1)
            seen = [slot for slot in range(length) if abs(slot - centre) <= 1]
            torch.testing.assert_close(made[time, sample, seen], torch.softmax(energy[time, sample, seen], -1))
            assert made[time, sample].count_nonzero() == len(seen)


def test_the_predictive_window_is_a_gaussian_around_a_place_that_the_query_names() -> None:
    window = LocalP(WIDTH, reach=2)
    energy, query = torch.randn(TIME, SAMPLES, SLOTS), torch.randn(TIME, SAMPLES, WIDTH)
    made = shares(window, energy, query, LENGTHS)
    hidden, place = window.hidden.weight, window.place.weight[0]
    for time in range(TIME):
        for sample, length in enumerate(LENGTHS.tolist()):
            centre = (length - 1) * torch.sigmoid(place @ torch.tanh(hidden @ query[time, sample]))
            seen = [slot for slot in range(length) if abs(slot - centre) <= 2]
            soft = torch.softmax(energy[time, sample, seen], -1)
            gauss = torch.stack([torch.exp(-((slot - centre) ** 2) / (2 * 1.0**2)) for slot in seen])  # σ = D/2 = 1
            torch.testing.assert_close(made[time, sample, seen], soft * gauss)
            assert made[time, sample].count_nonzero() == len(seen)


def test_a_context_is_the_mean_of_the_memory_by_the_weights() -> None:
    attention = MemoryAttention(WIDTH, WIDTH, Dot, Global)
    memory, query = torch.randn(SAMPLES, SLOTS, WIDTH), torch.randn(TIME, SAMPLES, WIDTH)
    seen, share = attention.look(
        attention.weights() | attention.remembered(memory, LENGTHS), query, torch.zeros(TIME, SAMPLES, 1)
    )
    for time in range(TIME):
        for sample in range(SAMPLES):
            expected = sum(share[time, sample, slot] * memory[sample, slot] for slot in range(SLOTS))
            torch.testing.assert_close(seen[time, sample], expected)


def test_hard_attention_draws_slots_by_their_probability_and_takes_the_likeliest_in_evaluation() -> None:
    window = Hard(WIDTH)
    energy = torch.randn(1, SAMPLES, SLOTS).expand(20_000, -1, -1)
    probabilities = window.probabilities(energy, LENGTHS)
    one, chosen, entropy = window.drawn(probabilities)
    assert (one.sum(-1) == 1).all()
    torch.testing.assert_close(one.mean(0), probabilities[0], rtol=0, atol=0.02)
    torch.testing.assert_close(chosen, (one * probabilities).sum(-1).log())
    real = [probabilities[0, sample, :length] for sample, length in enumerate(LENGTHS.tolist())]
    torch.testing.assert_close(entropy[0], torch.stack([-(p * p.log()).sum() for p in real]))
    best = shares(window, energy[:TIME], torch.zeros(TIME, SAMPLES, WIDTH), LENGTHS)
    assert torch.equal(best.argmax(-1), probabilities[:TIME].argmax(-1)) and (best.sum(-1) == 1).all()


def test_reinforce_has_the_gradient_of_the_expected_loss_on_the_average_over_all_draws() -> None:
    """Two target positions, three slots: nine draws are all there are, so the average is exact."""
    window = Hard(WIDTH, entropy=0.0)
    window.baseline.fill_(0.7)
    energy = torch.randn(2, 3, requires_grad=True)
    probabilities = torch.softmax(energy, -1)
    table = torch.rand(3, 3)  # the loss of drawing slot i, then slot j
    expected = torch.einsum("i,j,ij->", probabilities[0], probabilities[1], table)
    (wanted,) = torch.autograd.grad(expected, energy, retain_graph=True)
    counts = torch.ones(1, 2, dtype=torch.bool)
    made = torch.zeros(2, 3)
    for i in range(3):
        for j in range(3):
            window.baseline.fill_(0.7)
            chosen = torch.stack([probabilities[0, i].log(), probabilities[1, j].log()])[None]
            loss = window.surrogate(table[i, j][None], chosen, torch.zeros(1, 2), counts)
            assert loss.item() == pytest.approx(table[i, j].item())
            (gradient,) = torch.autograd.grad(loss.sum(), energy, retain_graph=True)
            made += (probabilities[0, i] * probabilities[1, j]).detach() * gradient
    torch.testing.assert_close(made, wanted)


def test_the_baseline_follows_the_loss() -> None:
    window = Hard(WIDTH)
    counts = torch.ones(2, 1, dtype=torch.bool)
    window.surrogate(torch.tensor([1.0, 3.0]), torch.zeros(2, 1), torch.zeros(2, 1), counts)
    assert window.baseline.item() == pytest.approx(0.2)
    window.surrogate(torch.tensor([1.0, 1.0]), torch.zeros(2, 1), torch.zeros(2, 1), counts)
    assert window.baseline.item() == pytest.approx(0.28)


def test_hard_attention_lets_a_run_that_explodes_go_on_to_its_end() -> None:
    window = Hard(WIDTH)
    probabilities = torch.full((2, 1, 3), torch.nan)
    probabilities[0] = torch.tensor([0.2, 0.3, 0.5])
    one, chosen, _ = window.drawn(probabilities)
    assert (one.sum(-1) == 1).all()
    assert chosen[0].isfinite().all() and chosen[1].isnan().all()
