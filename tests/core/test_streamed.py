"""Maps that are never held against the same maps held, which tests/layers/test_attention.py proves by loops."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from retrograde.core import streamed
from retrograde.core.contracts import SequenceModel, Snapshot, Task
from retrograde.core.maps import Pooled, by_query, distance, entropy, keys_seen, pooled, weight_at
from retrograde.core.records import Batch, Reading
from retrograde.core.snapshot import snapshot
from retrograde.core.streamed import AttentionMap, Block, StreamedMap, blocks, first_samples, rows_of, whole
from retrograde.layers import attention
from retrograde.layers.attention import MultiHeadAttention
from retrograde.layers.positions import T5, Alibi, Layout, NoPosition, PositionFactory, Rope
from retrograde.models.transformer import transformer
from retrograde.models.transformer_encoder import transformer_encoder
from retrograde.models.transformer_local import transformer_local
from retrograde.models.transformer_seq2seq import TransformerEncoderDecoder
from retrograde.probes.attention import Attention
from retrograde.probes.rollout import Rollout
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying
from retrograde.tasks.reverse import Reverse

LENGTHS = torch.tensor([11, 4, 0])
PADDED = (torch.arange(11) < LENGTHS[:, None])[:, None, None]
BY_QUERY = torch.rand(3, 2, 11, 11, generator=torch.Generator().manual_seed(3)) < 0.2  # some queries are left nothing
VISIBLE: dict[str, Tensor | None] = {"all visible": None, "padded": PADDED, "by query": BY_QUERY}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows at a time of maps of two heads and eleven keys."""
    monkeypatch.setitem(streamed.AT_ONCE, "cpu", 2 * 3 * 11)


def held(monkeypatch: pytest.MonkeyPatch, longest: int) -> None:
    """From now on no longer map is held."""
    monkeypatch.setattr(attention, "LONGEST_HELD", longest)


def gathered(parts: StreamedMap) -> Tensor:
    """The whole map, of what its blocks say."""
    made = torch.zeros(parts.shape)
    for block in blocks(parts):
        made[block.samples, :, block.queries, block.keys] = block.weights
    return made


@pytest.mark.usefixtures("float64", "few")
@pytest.mark.parametrize("make", [NoPosition, Rope, Alibi, T5])
@pytest.mark.parametrize("visible", VISIBLE.values(), ids=VISIBLE)
@pytest.mark.parametrize(
    "seeing", [{}, {"window": 1}, {"window": 5}, {"window": 40}, {"causal": False}, {"scaling": False}], ids=str
)
def test_every_row_is_that_of_the_held_map(
    make: PositionFactory, visible: Tensor | None, seeing: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = MultiHeadAttention(8, 2, **seeing)
    position = make(Layout(8, 2, layer.causal))
    x = torch.randn(3, 11, 8)
    outputs, expected = layer.trace(x, visible=visible, position=position)
    held(monkeypatch, 10)
    fused, made = layer.trace(x, visible=visible, position=position)
    assert isinstance(expected, Tensor) and isinstance(made, StreamedMap) and made.shape == expected.shape
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-12)
    close(fused, outputs)
    close(gathered(made), expected)
    close(whole(made), expected)
    chosen = torch.tensor([10, 0, 7])
    close(rows_of(made, chosen), expected[:, :, chosen])
    close(whole(first_samples(made, 2)), expected[:2])
    close(pooled(made, 4)[0], pooled(expected, 4)[0])
    for block in blocks(made):
        shown = block.weights > 0
        close(block.logarithms[shown], (block.weights / block.weights.amax(-1, keepdim=True))[shown].log())


@pytest.mark.usefixtures("float64")
def test_a_query_gives_two_keys_weights_by_the_logistic_function_of_their_difference() -> None:
    query, key = torch.tensor([[[[1.0], [2.0]]]]), torch.tensor([[[[0.0], [1.0]]]])
    share = 1 / (1 + math.exp(-2 * 0.5))
    made = StreamedMap(query, key, 0.5, causal=True)
    torch.testing.assert_close(whole(made)[0, 0], torch.tensor([[1.0, 0.0], [1 - share, share]]))


def test_a_block_goes_no_further_than_its_queries_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(streamed.AT_ONCE, "cpu", 4 * 12)
    part = torch.zeros(2, 1, 12, 3)
    looked = [(block.queries, block.keys) for block in blocks(StreamedMap(part, part, 1.0, causal=True, window=3))]
    once = [(slice(0, 4), slice(0, 4)), (slice(4, 8), slice(2, 8)), (slice(8, 12), slice(6, 12))]
    assert looked == 2 * once


def pooled_by_hand(weights: Tensor, longest: int) -> np.ndarray:
    """Entry by entry, each added to its block."""
    samples, heads, queries, keys = weights.shape
    rows, columns = math.ceil(queries / longest), math.ceil(keys / longest)
    made = np.zeros((samples, heads, math.ceil(queries / rows), math.ceil(keys / columns)))
    for sample, head, query, key in np.ndindex(*weights.shape):
        size = min(rows, queries - query // rows * rows)
        made[sample, head, query // rows, key // columns] += float(weights[sample, head, query, key]) / size
    return made


@pytest.mark.usefixtures("float64", "few")
@pytest.mark.parametrize("longest", [1, 2, 3, 4, 6, 11, 20])
@pytest.mark.parametrize("window", [None, 4])
def test_a_pooled_map_is_the_sum_of_its_entries_over_the_queries(longest: int, window: int | None) -> None:
    """Blocks of rows and of the pooled map need not begin at the same place."""
    query, key = torch.randn(2, 2, 11, 3), torch.randn(2, 2, 11, 3)
    made = StreamedMap(query, key, 1.0, causal=True, window=window)
    expected = pooled_by_hand(whole(made), longest)
    for each in (made, whole(made)):
        np.testing.assert_allclose(pooled(each, longest)[0].numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.usefixtures("float64", "few")
def test_the_numbers_of_a_query_are_sums_over_its_row() -> None:
    part, asked = torch.randn(3, 2, 11, 4), torch.randint(0, 11, (3, 11))
    made = StreamedMap(part, torch.randn(3, 2, 11, 4), 1.0, causal=True)
    found = by_query(
        made,
        {"entropy": entropy, "distance": distance, "seen": keys_seen, "asked": partial(weight_at, keys=asked)},
    )
    rows = whole(made)
    for sample, head, query in np.ndindex(3, 2, 11):
        row = rows[sample, head, query].tolist()
        at = (sample, head, query)
        assert found["entropy"][at].item() == pytest.approx(-sum(share * math.log(share) for share in row if share))
        assert found["distance"][at].item() == pytest.approx(sum(s * abs(query - j) for j, s in enumerate(row)))
        assert found["asked"][at].item() == pytest.approx(row[int(asked[sample, query])])
        assert found["seen"][sample, 0, query].item() == query + 1


@pytest.mark.parametrize("gap", [5.0, 20.0, 60.0])
def test_the_entropy_of_a_head_that_has_collapsed_keeps_its_digits_in_float32(gap: float) -> None:
    """Two keys, one e^gap times as much: ln(1 + e^-gap) + gap / (1 + e^gap); from rounded weights 0 came out at 20."""
    made = StreamedMap(torch.ones(1, 1, 2, 1), torch.tensor([[[[gap], [0.0]]]]), 1.0)
    (block,) = blocks(made)
    rest = math.exp(-gap)
    assert entropy(block)[0, 0, 0].item() == pytest.approx(math.log1p(rest) + gap * rest / (1 + rest), rel=1e-1)
    assert entropy(block)[0, 0, 0].item() > 0


def test_a_row_of_one_key_has_no_entropy_and_no_sign() -> None:
    (block,) = blocks(torch.ones(1, 1, 1, 1))
    assert math.copysign(1, entropy(block).item()) == 1 and entropy(block).item() == 0


def test_what_is_not_a_number_stays_in_its_head() -> None:
    weights = torch.full((1, 2, 2, 2), 0.5)
    weights[0, 1] = math.nan
    (block,) = blocks(weights)
    assert entropy(block)[0, 0].tolist() == pytest.approx([math.log(2)] * 2) and entropy(block)[0, 1].isnan().all()
    assert keys_seen(block).tolist() == [[[2, 2]]]


def test_half_precision_is_streamed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    held(monkeypatch, 4)
    layer = MultiHeadAttention(8, 2).bfloat16()
    _, made = layer.trace(torch.randn(1, 6, 8).bfloat16(), position=Alibi(Layout(8, 2, True)))
    assert isinstance(made, StreamedMap) and made.bias is not None
    assert made.query.dtype == made.bias.dtype == rows_of(made, torch.tensor([2])).dtype == torch.float32


def drawn(task: Task, count: int = 3) -> Batch:
    return task.sample(count, torch.Generator().manual_seed(1))


def named(readings: object) -> dict[str, Reading]:
    return {reading.name: reading for reading in readings}  # type: ignore[attr-defined]  # readings


COPYING, ADDING, REVERSE = Copying(length=20, symbols=3, recall=2), Adding(length=24, markers="first_ten"), Reverse()
MODELS: dict[str, tuple[Task, Callable[[Task], SequenceModel]]] = {
    "transformer": (COPYING, partial(transformer, hidden=8, layers=2, heads=2, feedforward=8)),
    "rope": (COPYING, partial(transformer, hidden=8, layers=2, heads=2, feedforward=8, position=Rope)),
    "alibi": (COPYING, partial(transformer, hidden=8, layers=2, heads=2, feedforward=8, position=Alibi)),
    "local": (COPYING, partial(transformer_local, hidden=8, layers=2, heads=2, feedforward=8, window=5)),
    "encoder": (ADDING, partial(transformer_encoder, hidden=8, layers=2, heads=2, feedforward=8)),
    "encoder, t5": (ADDING, partial(transformer_encoder, hidden=8, layers=2, heads=2, feedforward=8, position=T5)),
    "seq2seq": (REVERSE, partial(TransformerEncoderDecoder, hidden=8, layers=2, heads=2, feedforward=8)),
}


def both(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> tuple[Snapshot, Snapshot]:
    """A snapshot with maps held and one with maps streamed, of one model."""
    torch.manual_seed(0)
    task, make = MODELS[name]
    model = make(task).to(dtype)
    with torch.no_grad():  # heads that look somewhere: a new one looks everywhere
        for parameter in model.parameters():
            parameter.mul_(2.0)
    batch = drawn(task).beside(model.like)
    monkeypatch.setitem(streamed.AT_ONCE, "cpu", 2 * 5 * batch.length)
    whole_maps = snapshot(model, task, batch, 0)
    held(monkeypatch, 0)
    return whole_maps, snapshot(model, task, batch, 0)


def written_out(weights: AttentionMap) -> Tensor:
    """The definition, T² scores at once."""
    if isinstance(weights, Tensor):
        return weights
    time = torch.arange(weights.shape[2])
    distance = time[:, None] - time
    scores = weights.query @ weights.key.mT * weights.scale
    if weights.bias is not None:
        scores = scores + weights.bias[:, len(time) - 1 - distance]
    seen = distance >= 0 if weights.causal else torch.ones_like(distance, dtype=torch.bool)
    if weights.window is not None:
        seen = seen & (distance < weights.window)
    if weights.visible is not None:
        seen = seen & weights.visible
        seen = seen | ~seen.any(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_the_probe_reads_the_same_of_maps_that_are_held_and_streamed(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = both(name, dtype, monkeypatch)
    cross = one.trace.cross
    assert all(isinstance(weights, Tensor) for weights in one.trace.maps.values())
    assert all(isinstance(weights, Tensor) == (layer in cross) for layer, weights in other.trace.maps.items())
    if dtype == torch.float32:  # the lower layers' outputs are rounded otherwise by the fused form: of its own queries
        maps = {layer: written_out(weights) for layer, weights in other.trace.maps.items()}
        one = replace(other, trace=replace(other.trace, maps=maps))
    probe = Attention(samples=2, longest=7, rows=[-1, 2], queries=True)
    expected, made = named(probe(one)), named(probe(other))
    assert list(made) == list(expected) and any(name.startswith("distance") for name in made)
    near = 1e-12 if dtype == torch.float64 else 1e-6
    for key, reading in expected.items():
        assert made[key].dims == reading.dims and made[key].unit == reading.unit
        np.testing.assert_allclose(made[key].values, reading.values, rtol=near, atol=near, err_msg=key)
    for key, reading in named(Rollout(longest=7)(one)).items():
        np.testing.assert_allclose(named(Rollout(longest=7)(other))[key].values, reading.values, rtol=near, atol=near)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_and_outputs_do_not_depend_on_what_is_held(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = both(name, torch.float64, monkeypatch)
    torch.testing.assert_close(other.trace.outputs, one.trace.outputs, rtol=1e-10, atol=1e-12)
    assert list(other.gradients) == list(one.gradients)
    for key, gradient in one.gradients.items():
        torch.testing.assert_close(other.gradients[key].total.value(), gradient.total.value(), rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_a_trace_of_a_long_sequence_computes_the_outputs_with_the_fused_form() -> None:
    task = Copying(length=streamed.LONGEST_HELD, symbols=3, recall=2)
    model, batch = transformer(task, 8, 1, 2, 8).eval(), drawn(task, 1)
    trace = model.trace(batch)
    assert torch.equal(trace.outputs, model(batch))
    assert isinstance(trace.maps["0"], StreamedMap)


class Largest(TorchDispatchMode):
    """The most numbers that any one tensor holds which an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes())
        return made


def test_nothing_of_the_size_of_a_map_is_held_in_a_snapshot_or_by_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(streamed.AT_ONCE, "cpu", 2**14)
    largest = []
    for length in (600, 1200):
        task = Copying(length=length - 4, symbols=3, recall=2)
        model, batch = transformer(task, 8, 1, 2, 16), drawn(task, 1)
        assert batch.length == length
        with Largest() as watch:
            list(Attention(longest=16, rows=[-1])(snapshot(model, task, batch, 0)))
        largest.append(watch.numbers)
    assert largest[1] <= 2 * largest[0] < 600 * 600


def test_pooling_keeps_no_more_samples_than_it_is_asked_for() -> None:
    weights = torch.softmax(torch.randn(5, 2, 6, 6), -1)
    pooling = Pooled(weights, samples=2, longest=3)
    for place in range(5):
        pooling.add(Block(weights[place : place + 1], slice(place, place + 1), slice(0, 6), slice(0, 6)))
    torch.testing.assert_close(pooling.means(), pooled(weights[:2], 3)[0])
