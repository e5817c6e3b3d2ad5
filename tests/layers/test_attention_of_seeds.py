"""Fused attention of seeds that train together is that of each alone, whatever is seen."""

import math

import pytest
import torch
from torch import Tensor

from retrograde.layers.attention import attended

SEEDS, BATCH, HEADS, QUERIES, KEYS, WIDTH = 3, 2, 2, 4, 5, 3
SCALE = 1 / math.sqrt(WIDTH)


def by_hand(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    scores = query @ key.mT * SCALE
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, -1) @ value


def seen(*shape: int) -> Tensor:
    """At random, and never nothing."""
    mask = torch.rand(shape) > 0.4
    mask[..., 0] = True
    return mask


MASKS = {
    "all": (),
    "one for all samples": (QUERIES, KEYS),
    "one a sample": (BATCH, 1, QUERIES, KEYS),
    "one a head": (1, HEADS, QUERIES, KEYS),
}


@pytest.mark.parametrize("own", [False, True], ids=["shared", "of each seed"])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("added", [False, True], ids=["boolean", "added"])
def test_attention_of_seeds_is_that_of_each(kind: str, own: bool, added: bool, float64: None) -> None:
    query = torch.randn(SEEDS, BATCH, HEADS, QUERIES, WIDTH)
    key, value = torch.randn(2, SEEDS, BATCH, HEADS, KEYS, WIDTH)
    mask = None if kind == "all" else seen(*([SEEDS] if own else []), *MASKS[kind])
    if mask is not None and added:
        mask = torch.randn(mask.shape)
    at = None if mask is None or not own else 0
    made = torch.func.vmap(lambda q, k, v, m: attended(q, k, v, m, False, SCALE), in_dims=(0, 0, 0, at))(
        query, key, value, mask
    )
    for seed in range(SEEDS):
        of_seed = mask[seed] if mask is not None and own else mask
        torch.testing.assert_close(made[seed], by_hand(query[seed], key[seed], value[seed], of_seed))


def test_causal_attention_of_seeds_with_a_shared_key(float64: None) -> None:
    query = torch.randn(SEEDS, BATCH, HEADS, QUERIES, WIDTH)
    key, value = torch.randn(2, BATCH, HEADS, QUERIES, WIDTH)
    made = torch.func.vmap(lambda q: attended(q, key, value, None, True, SCALE))(query)
    past = torch.ones(QUERIES, QUERIES, dtype=torch.bool).tril()
    for seed in range(SEEDS):
        torch.testing.assert_close(made[seed], by_hand(query[seed], key, value, past))
