r"""What attention looks at: the numbers of ``probes/attention``, and a map of the first sample.

    entropy, entropy_share, confidence, distance, previous_token        per head, the mean over samples and queries

``nn.MultiheadAttention`` (and so the Transformer layers) is asked again for its weights, without a gradient, a few
queries at a time: it works with need_weights=False, and no more than ``AT_ONCE`` weights are formed at once. They are
those before dropout. Queries that the key padding mask of self-attention marks do not count. Positions of queries and
keys are compared in self-attention alone; else distance and previous_token are missing.

A module of another kind whose type is called an attention is served where it returns its weights (batch, head, query,
key), as Hugging Face's do when they are asked to.
"""

import inspect
import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from retrograde.watching.activations import attend, differentiable
from retrograde.watching.calls import Call, overrides, serve, tensors
from retrograde.watching.flow import HEAD_NUMBERS, Heads

AT_ONCE = 2**22
"""Weights that are formed at once."""

LONGEST = 128
"""Rows and columns of a map that is kept; of a longer one, means over equal blocks of queries and sums over keys."""

SIGNATURE = inspect.signature(nn.MultiheadAttention.forward)


class Tally:
    """Sums over queries and samples, per head, and the first sample's map, as parts of the weights come in."""

    def __init__(self, queries: int, keys: int, positions: bool) -> None:
        self.rows, self.columns = (math.ceil(length / LONGEST) for length in (queries, keys))
        self.positions = positions
        self.sums: dict[str, tuple[Tensor, Tensor]] = {}
        self.map: list[Tensor] = []

    def add(
        self, weights: Float[Tensor, "batch head query key"], real: Bool[Tensor, "batch query"], first: int, sample: int
    ) -> None:
        """The weights of some samples' queries from ``first`` on; a row of zeros is no query."""
        weights = weights.double()
        counts = real[:, None].expand(weights.shape[:-1])
        whole = weights.sum(-1, keepdim=True)
        weights = weights / torch.where(whole == 0, 1.0, whole)
        entropy = torch.special.entr(weights).sum(-1)
        visible = (weights > 0).any(1, keepdim=True).sum(-1).expand_as(entropy)
        self._sum("entropy", entropy, counts)
        self._sum("entropy_share", entropy / visible.clamp(min=2).log(), counts & (visible > 1))
        self._sum("confidence", weights.amax(-1), counts)
        if self.positions:
            query = torch.arange(first, first + weights.shape[-2], device=weights.device)
            key = torch.arange(weights.shape[-1], device=weights.device)
            self._sum("distance", (weights * (query[:, None] - key).abs()).sum(-1), counts)
            before = (query - 1).clamp(0, weights.shape[-1] - 1)[None, None, :, None]
            previous = weights.gather(-1, before.expand(*weights.shape[:-1], 1)).squeeze(-1)
            self._sum("previous_token", previous, counts & (query > 0))
        if sample == 0:
            self.map.append(self._blocks(weights[0]))

    def numbers(self) -> dict[str, Tensor]:
        """Each the mean over what counts, NaN where nothing does."""
        heads = next(iter(self.sums.values()))[0].shape[0]
        known = {name: total / count for name, (total, count) in self.sums.items()}
        return {name: known.get(name, torch.full((heads,), math.nan)) for name in HEAD_NUMBERS}

    def heads(self, layer: str, call: int) -> Heads:
        """All that has come in."""
        return Heads(layer, call, self.numbers(), torch.cat(self.map, -2).float(), (self.rows, self.columns))

    def _sum(self, name: str, values: Tensor, counts: Tensor) -> None:
        total, count = values.where(counts, 0.0).sum((0, 2)), counts.sum((0, 2))
        before = self.sums.get(name)
        self.sums[name] = (total, count) if before is None else (before[0] + total, before[1] + count)

    def _blocks(self, weights: Float[Tensor, "head query key"]) -> Float[Tensor, "head rows columns"]:
        padded = functional.pad(weights, (0, -weights.shape[-1] % self.columns))
        keys = padded.unflatten(-1, (-1, self.columns)).sum(-1)
        return torch.stack([part.mean(-2) for part in keys.split(self.rows, -2)], -2)


@serve.register(nn.TransformerEncoderLayer)
@serve.register(nn.TransformerDecoderLayer)
def _(module: nn.Module, call: Call) -> Any:
    number = call.step.call(call.layer)
    made = differentiable(call, call.run())
    attend(call, number, made, foremost=True)  # a layer that ends in a norm is told of as the layer
    return made


@serve.register(nn.MultiheadAttention)
def _(module: nn.MultiheadAttention, call: Call) -> Any:
    number = call.step.call(call.layer)
    made = differentiable(call, call.run())
    output = made[0]
    if overrides(module, nn.MultiheadAttention):
        attend(call, number, made)
    elif output.is_nested:
        call.leave_out("its maps are not known for nested tensors")
    else:
        batched = output.ndim == 3
        batch = (0 if module.batch_first else 1) if batched else None
        if batch is not None:
            call.step.told(output.shape[batch])
        axes = (batch, 0 if batch is None else 1 - batch)
        with torch.no_grad():
            heads = asked_again(module, SIGNATURE.bind(module, *call.args, **call.kwargs), number, call.layer)
        attend(call, number, made, axes, heads)
        if not output.requires_grad:
            call.flow.leave_out(call.layer, "no gradient comes to it")
    return made


def asked_again(module: nn.MultiheadAttention, bound: inspect.BoundArguments, number: int, layer: str) -> Heads | None:
    """The weights of one call, a few queries at a time; None for a call without samples or positions."""
    bound.apply_defaults()
    given = bound.arguments
    query, key, value = (given[name].detach() for name in ("query", "key", "value"))
    is_self = given["query"] is given["key"]
    if query.ndim == 2:
        query, key, value = (part.unsqueeze(1) for part in (query, key, value))
    elif module.batch_first:
        query, key, value = (part.transpose(0, 1) for part in (query, key, value))
    padding, mask = given["key_padding_mask"], given["attn_mask"]
    padding = padding.unsqueeze(0) if padding is not None and padding.ndim == 1 else padding
    real_keys = None if padding is None else ~padding if padding.dtype == torch.bool else padding > -math.inf
    # the kernel that gives no weights takes masks of other types than the queries', and of two types
    padding, mask = (None if part is None else _added(part, query.dtype) for part in (padding, mask))
    (queries, samples), keys = query.shape[:2], len(key)
    if not queries or not keys or not samples:
        return None
    further = int(module.bias_k is not None) + int(module.add_zero_attn)  # keys that are no positions
    tally = Tally(queries, keys + further, positions=is_self and not further)
    real = torch.ones(samples, queries, dtype=torch.bool, device=query.device)
    if is_self and real_keys is not None:
        real = real_keys
    per_query = module.num_heads * (keys + further)
    many = max(1, AT_ONCE // (per_query * queries))  # samples
    few = queries if per_query * queries <= AT_ONCE else max(1, AT_ONCE // per_query // tally.rows) * tally.rows
    for sample in range(0, samples, many):
        some = slice(sample, sample + many)
        for first in range(0, queries, few):
            rows = slice(first, first + few)
            mine = mask
            if mask is not None:
                own = slice(sample * module.num_heads, (sample + many) * module.num_heads)
                mine = mask[rows] if mask.ndim == 2 else mask[own, rows]
            weights = _weights(
                module,
                query[rows, some],
                key[:, some],
                value[:, some],
                None if padding is None else padding[some],
                mine,
            )
            tally.add(weights, real[some, rows], first, sample)
    return tally.heads(layer, number)


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to scores."""
    return (
        mask.to(dtype) if mask.dtype != torch.bool else torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
    )


def _weights(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
    mask: Tensor | None,
) -> Float[Tensor, "batch head query key"]:
    _, weights = functional.multi_head_attention_forward(
        query,
        key,
        value,
        module.embed_dim,
        module.num_heads,
        module.in_proj_weight,
        module.in_proj_bias,
        module.bias_k,
        module.bias_v,
        module.add_zero_attn,
        0.0,
        module.out_proj.weight,
        module.out_proj.bias,
        training=False,
        key_padding_mask=padding,
        need_weights=True,
        attn_mask=mask,
        use_separate_proj_weight=not module._qkv_same_embed_dim,
        q_proj_weight=module.q_proj_weight,
        k_proj_weight=module.k_proj_weight,
        v_proj_weight=module.v_proj_weight,
        average_attn_weights=False,
    )
    assert weights is not None  # they were asked for
    return weights


def returned_heads(call: Call, number: int, made: Any) -> Heads | None:
    """Of a module that is called an attention, the weights that it returns; it is named where there are none."""
    if "Attention" not in type(call.module).__name__ or not isinstance(made, tuple):
        return None
    weights = next((value.detach() for _, value in tensors(made[1:]) if value.ndim == 4), None)
    if weights is None:
        call.leave_out("it returns no weights; a Hugging Face model does with attn_implementation='eager'", warn=False)
        return None
    samples, _, queries, keys = weights.shape
    tally = Tally(queries, keys, positions=queries == keys)
    real = torch.ones(samples, queries, dtype=torch.bool, device=weights.device)
    with torch.no_grad():
        for sample in range(samples):
            tally.add(weights[sample : sample + 1], real[sample : sample + 1], 0, sample)
    return tally.heads(call.layer, number)
