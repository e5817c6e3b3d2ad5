"""Attention through several layers against paths summed up one by one, and by hand."""

from itertools import product

import numpy as np
import pytest
import torch

from retrograde.core.contracts import Snapshot
from retrograde.core.records import Batch, Reading, Trace
from retrograde.core.snapshot import snapshot
from retrograde.models.lstm import lstm
from retrograde.models.transformer import transformer
from retrograde.models.transformer_encoder import transformer_encoder
from retrograde.models.transformer_seq2seq import TransformerEncoderDecoder
from retrograde.probes.rollout import Rollout, rollout
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying
from retrograde.tasks.reverse import Reverse
from retrograde.tasks.temporal_order import TemporalOrder

pytestmark = pytest.mark.usefixtures("float64")

BEFORE = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
"""Each position looks at the one before it, the first at itself."""


def by_name(readings: object) -> dict[str, Reading]:
    return {reading.name: reading for reading in readings}  # type: ignore[attr-defined]  # readings


def test_two_layers_that_look_one_back_by_hand() -> None:
    """Half of what a position has is its own, half that of the one before: a quarter comes from two before."""
    both = BEFORE[None, None]
    assert rollout([both, both])[0].tolist() == [[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.25, 0.5, 0.25]]


def test_it_is_the_sum_over_all_paths_with_heads_averaged() -> None:
    """Each path from a query to an input through three layers, its steps' weights multiplied; the lowest layer last."""
    layers = [torch.softmax(torch.randn(1, 2, 3, 3), -1) for _ in range(3)]
    steps = [(0.5 * (layer[0, 0] + layer[0, 1]) / 2 + 0.5 * torch.eye(3)).tolist() for layer in layers]
    for query, key in product(range(3), repeat=2):
        paths = [
            steps[2][query][high] * steps[1][high][low] * steps[0][low][key]
            for high, low in product(range(3), repeat=2)
        ]
        assert rollout(layers)[0, query, key].item() == pytest.approx(sum(paths))


def test_map_and_distance_of_one_sample_by_hand() -> None:
    task = TemporalOrder(length=10)
    tokens = torch.tensor([[3, 4, 5]])
    batch = Batch(tokens, tokens, torch.ones(1, 3, dtype=torch.bool), torch.tensor([3]))
    maps = {"0": BEFORE[None, None], "1": BEFORE[None, None]}
    trace = Trace(torch.zeros(1, 3, 1), {}, {}, maps)
    on = Snapshot(0, transformer(task, 8, 1, 2, 8), task, batch, trace, torch.zeros(1, 3), {})
    made = by_name(Rollout()(on))
    assert made["map/input"].values.tolist() == [[[[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.25, 0.5, 0.25]]]]
    assert float(made["distance/input"].values) == pytest.approx((0 + 0.75 + (0.5 + 0.5)) / 3)
    padded = Snapshot(0, on.model, task, Batch(tokens, tokens, batch.scored, torch.tensor([2])), trace, on.losses, {})
    assert float(by_name(Rollout()(padded))["distance/input"].values) == pytest.approx(0.75 / 2)


def test_a_rows_weights_sum_to_one_and_a_causal_model_stays_causal() -> None:
    task = Copying(length=4, symbols=3, recall=2)
    on = snapshot(transformer(task, 8, 3, 2, 8), task, task.sample(4, torch.Generator().manual_seed(0)), 0)
    rolled = rollout(on.trace.maps.values())
    torch.testing.assert_close(rolled.sum(-1), torch.ones(4, on.batch.length))
    assert not rolled.triu(1).any()
    stored = by_name(Rollout(samples=2, longest=4)(on))["map/input"].values
    assert stored.shape == (2, 1, 4, 4)
    np.testing.assert_allclose(stored.sum(-1), 1.0)


def test_nothing_comes_from_padding() -> None:
    task = Adding(length=20, markers="first_ten")
    on = snapshot(transformer_encoder(task, 8, 2, 2, 8), task, task.sample(4, torch.Generator().manual_seed(0)), 0)
    short = int(on.batch.lengths.argmin())
    length = int(on.batch.lengths[short])
    assert length < on.batch.length
    assert not rollout(on.trace.maps.values())[short, :length, length:].any()


def test_encoder_and_decoder_are_rolled_out_apart() -> None:
    """What leads from one to the other is in neither."""
    task = Reverse(symbols=3, shortest=2, longest=4)
    model = TransformerEncoderDecoder(task, hidden=8, layers=2, heads=2, feedforward=8)
    on = snapshot(model, task, task.sample(3, torch.Generator().manual_seed(0)), 0)
    made = by_name(Rollout()(on))
    assert sorted(made) == ["distance/input", "distance/target", "map/input", "map/target"]
    for side, stack in (("input", "encoder"), ("target", "decoder")):
        expected = rollout([on.trace.maps[f"{stack}0"], on.trace.maps[f"{stack}1"]])
        np.testing.assert_allclose(made[f"map/{side}"].values[0, 0], expected[0].numpy())


def test_a_model_without_self_attention_has_none() -> None:
    task = Copying(length=3, symbols=3, recall=2)
    on = snapshot(lstm(task, hidden=4), task, task.sample(2, torch.Generator().manual_seed(0)), 0)
    assert not list(Rollout()(on))
