"""Attention's numbers by hand."""

import math

import numpy as np
import pytest
import torch

from retrograde.core.contracts import Snapshot
from retrograde.core.maps import pooled
from retrograde.core.records import Batch, Trace
from retrograde.models.transformer import transformer
from retrograde.probes.attention import Attention, after_previous_occurrence
from retrograde.tasks.temporal_order import TemporalOrder

WEIGHTS = torch.tensor(
    [
        [1.0, 0.0, 0.0, 0.0],
        [0.5, 0.5, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0],
        [0.25, 0.25, 0.25, 0.25],
    ]
)


def on(weights: torch.Tensor, tokens: list[int], length: int) -> Snapshot:
    task = TemporalOrder(length=10)
    batch = Batch(
        torch.tensor([tokens]), torch.tensor([tokens]), torch.ones(1, 4, dtype=torch.bool), torch.tensor([length])
    )
    trace = Trace(torch.zeros(1, 4, 1), {}, {}, {"0": weights[None, None]})
    return Snapshot(0, transformer(task, 8, 1, 2, 8), task, batch, trace, torch.zeros(1, 4), {})


def numbers(snapshot: Snapshot) -> dict[str, float]:
    return {
        reading.name: float(reading.values[0]) for reading in Attention()(snapshot) if tuple(reading.dims) == ("head",)
    }


def test_each_number_by_hand() -> None:
    made = numbers(on(WEIGHTS, [3, 5, 3, 4], 4))
    assert made["entropy/0"] == pytest.approx((0 + math.log(2) + 0 + math.log(4)) / 4)
    assert made["distance/0"] == pytest.approx((0 + 0.5 + 1 + (3 + 2 + 1) / 4) / 4)
    assert made["confidence/0"] == pytest.approx((1 + 0.5 + 1 + 0.25) / 4)
    assert made["previous_token/0"] == pytest.approx((0.5 + 1 + 0.25) / 3)
    assert made["induction/0"] == pytest.approx(1.0)  # the second 3 looks at the 5 that followed the first


def test_queries_of_padding_do_not_count() -> None:
    made = numbers(on(WEIGHTS, [3, 5, 3, 4], 2))
    assert made["entropy/0"] == pytest.approx(math.log(2) / 2)
    assert made["previous_token/0"] == pytest.approx(0.5)


def test_an_even_spread_over_a_window_is_an_even_spread_also_where_weights_sum_to_less() -> None:
    window = torch.eye(4) + torch.diag(torch.ones(3), -1)
    made = numbers(on(0.6 * window / window.sum(-1, keepdim=True), [0, 1, 2, 3], 4))
    assert made["entropy_share/0"] == pytest.approx(1.0)
    assert made["entropy/0"] == pytest.approx(math.log(2) * 3 / 4)
    assert made["confidence/0"] == pytest.approx((1 + 3 * 0.5) / 4)


def test_entropy_share_is_of_the_keys_that_are_visible() -> None:
    uniform = torch.tril(torch.ones(4, 4)) / torch.arange(1, 5)[:, None]
    assert numbers(on(uniform, [0, 1, 2, 3], 4))["entropy_share/0"] == pytest.approx(1.0)


def test_the_position_after_the_last_earlier_occurrence() -> None:
    after, exists = after_previous_occurrence(torch.tensor([[7, 8, 7, 7, 9]]))
    assert exists[0].tolist() == [False, False, True, True, False]
    assert after[0, 2].item() == 1 and after[0, 3].item() == 3


def test_the_last_earlier_occurrence_is_found_in_any_sequence() -> None:
    tokens = torch.randint(0, 4, (3, 40), generator=torch.Generator().manual_seed(0))
    after, exists = after_previous_occurrence(tokens)
    for sample, row in enumerate(tokens.tolist()):
        for time, token in enumerate(row):
            earlier = [place for place in range(time) if row[place] == token]
            assert exists[sample, time].item() == bool(earlier)
            if earlier:
                assert after[sample, time].item() == earlier[-1] + 1


def test_rows_asked_for_are_stored_whole_however_the_map_is_pooled() -> None:
    made = {reading.name: reading for reading in Attention(longest=2, rows=[-1, 1])(on(WEIGHTS, [3, 5, 3, 4], 4))}
    assert made["row/0"].dims == {"sample": range(1), "head": range(1), "time": [3, 1], "key": range(4)}
    assert made["row/0"].values.tolist() == [[[[0.25] * 4, [0.5, 0.5, 0.0, 0.0]]]]
    assert made["map/0"].values.shape == (1, 1, 2, 2)


def test_entropy_and_distance_query_by_query_by_hand() -> None:
    made = {reading.name: reading for reading in Attention(queries=True)(on(WEIGHTS, [3, 5, 3, 4], 4))}
    np.testing.assert_allclose(made["query_entropy/0"].values[0, 0], [0, math.log(2), 0, math.log(4)], atol=1e-6)
    assert made["query_distance/0"].values[0, 0].tolist() == [0.0, 0.5, 1.0, 1.5]
    assert list(made["query_distance/0"].dims) == ["sample", "head", "time"]


@pytest.mark.parametrize("row", [4, -5])
def test_a_row_that_is_not_there_is_refused(row: int) -> None:
    with pytest.raises(ValueError, match=f"^rows: {row} is none of the 4 queries of layer 0$"):
        list(Attention(rows=[row])(on(WEIGHTS, [3, 5, 3, 4], 4)))


def test_a_pooled_map_keeps_rows_that_sum_to_one() -> None:
    weights = torch.softmax(torch.randn(1, 2, 7, 7), -1)
    stored, blocks = pooled(weights, 4)
    assert (blocks, stored.shape) == ((2, 2), (1, 2, 4, 4))
    torch.testing.assert_close(stored.sum(-1), torch.ones(1, 2, 4))
    torch.testing.assert_close(stored[0, 0, 0, 0], weights[0, 0, :2, :2].sum(-1).mean())
    torch.testing.assert_close(stored[0, 0, 3, 3], weights[0, 0, 6, 6])


def test_a_map_between_two_sequences_is_pooled_along_each() -> None:
    weights = torch.softmax(torch.randn(1, 2, 3, 9), -1)
    stored, blocks = pooled(weights, 4)
    assert (blocks, stored.shape) == ((1, 3), (1, 2, 3, 3))
    torch.testing.assert_close(stored, weights.unflatten(-1, (3, 3)).sum(-1))


def test_a_short_map_is_stored_as_it_is() -> None:
    reading = next(iter(Attention()(on(WEIGHTS, [3, 5, 3, 4], 4))))
    assert list(reading.dims) == ["sample", "head", "query", "key"]
    np.testing.assert_array_equal(reading.values[0, 0], WEIGHTS.numpy())
