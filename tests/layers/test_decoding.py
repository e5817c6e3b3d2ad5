"""Greedy and beam search against a table of probabilities small enough to go through by hand."""

from itertools import product

import pytest
import torch
from torch import Tensor

from retrograde.core.contracts import END, START
from retrograde.core.records import Batch
from retrograde.layers.decoding import Carried, beam, greedy

SIZE, LENGTH = 4, 4


class Table:
    """The next token's scores depend on the last two tokens and on the sample, by random tables."""

    def __init__(self, samples: int) -> None:
        self.scores = 2 * torch.randn(samples, SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(3))

    def begin(self, batch: Batch) -> Carried:
        samples = torch.arange(len(batch))
        return {"sample": samples, "before": torch.full_like(samples, START)}

    def advance(self, carried: Carried, tokens: Tensor) -> tuple[Tensor, Carried]:
        scores = self.scores[carried["sample"], carried["before"], tokens]
        return scores, {"sample": carried["sample"], "before": tokens}


def likelihood(table: Table, sample: int, answer: tuple[int, ...]) -> float:
    before, last, total = START, START, 0.0
    for token in answer:
        total += torch.log_softmax(table.scores[sample, before, last], -1)[token].item()
        before, last = last, token
        if token == END:
            break
    return total


def batch(samples: int) -> Batch:
    return Batch(
        torch.zeros(samples, 2, dtype=torch.long),
        torch.zeros(samples, LENGTH, dtype=torch.long),
        torch.ones(samples, LENGTH, dtype=torch.bool),
        torch.full((samples,), 2),
    )


def answers() -> list[tuple[int, ...]]:
    """Every answer: what follows <eos> is <eos>."""
    found = {
        tuple(answer[: answer.index(END)]) if END in answer else answer
        for answer in product(range(SIZE), repeat=LENGTH)
    }
    return [answer + (END,) * (LENGTH - len(answer)) for answer in found]


def test_greedy_search_takes_the_likeliest_token_each_time() -> None:
    table = Table(5)
    scores = greedy(table, batch(5), LENGTH)
    for sample in range(5):
        before, last = START, START
        for time in range(LENGTH):
            if last == END:  # what is said after it is nothing but the end
                assert scores[sample, time:].argmax(-1).tolist() == [END] * (LENGTH - time)
                break
            expected = table.scores[sample, before, last]
            assert torch.equal(scores[sample, time], expected)
            before, last = last, int(expected.argmax())
    assert any(END in sample for sample in scores.argmax(-1)[:, :-1].tolist()), "no answer ends early"


def test_a_wide_beam_finds_the_likeliest_of_all_answers() -> None:
    table = Table(8)
    made = beam(table, batch(8), LENGTH, beams=SIZE**LENGTH)
    for sample in range(8):
        best = max(answers(), key=lambda answer: likelihood(table, sample, answer))
        assert tuple(made[sample].tolist()) == best


def test_a_beam_of_one_is_greedy_search() -> None:
    table = Table(8)
    made, scores = beam(table, batch(8), LENGTH, beams=1), greedy(table, batch(8), LENGTH)
    assert torch.equal(made, scores.argmax(-1))


def test_a_beam_is_never_less_likely_than_a_narrower_one_that_it_holds() -> None:
    table = Table(50)
    greedily, widely = (beam(table, batch(50), LENGTH, beams=beams) for beams in (1, SIZE**LENGTH))
    pairs = [
        (likelihood(table, sample, tuple(one.tolist())), likelihood(table, sample, tuple(other.tolist())))
        for sample, (one, other) in enumerate(zip(greedily, widely, strict=True))
    ]
    assert all(narrow <= wide + 1e-6 for narrow, wide in pairs)
    assert any(narrow < wide - 1e-3 for narrow, wide in pairs), "the tables do not tell the two apart"


def test_a_beam_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="beams must be at least 1, not 0"):
        beam(Table(1), batch(1), 2, beams=0)
