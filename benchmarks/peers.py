"""How fast our layers are beside other packages' of the same kind and size.

    python benchmarks/peers.py                       about 5 minutes on one core
    python benchmarks/peers.py --models mamba lstm   some of it

The machine should do nothing else. One thread, unless --threads says otherwise.

Each pair goes forward and backward, in turn, in one process. Ours has its default settings. Where the equations are the
same the weights are copied, and outputs and gradients are compared first; else the table says what differs. The goal:
none of ours is slower. The interval is the 95 % bootstrap interval of the median ratio over pairs; two runs of the same
code differ by up to 5 %, and so much is allowed.

Peers that are not installed are listed (pip install 'retrograde[peers]').
"""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from measuring import (
    SEED,
    Ratio,
    Step,
    closing,
    command_line,
    factory,
    given,
    keep,
    listed,
    machine,
    one_line,
    peak_memory,
    prepare,
    require_sizes,
    say,
    seconds,
    visit,
    with_gradients,
)
from retrograde.core.choices import require_one_of
from retrograde.core.recurrence import sequence
from retrograde.layers.delta_rule import delta_rule
from retrograde.tasks.copying import Copying
from retrograde.train.configuration import config_folder, options

LENGTHS = 256, 1024
SHORTEST = 8
"""The least that --lengths takes."""

PAIRS = 15
RESAMPLES = 2000

SAME = 1.05
"""Ratio of two runs of the same code, at most."""

TOLERANCE = 2e-3
"""Of the largest value, in float32 along ``COMPARED`` times; a wrong gate or order of weights is off by over 0.05."""

COMPARED = 64

Layers = tuple[nn.Module, nn.Module]
"""Ours and theirs, from (batch, time, width) to the same."""


@dataclass(frozen=True)
class Options:
    """What to compare, at which sizes and for how long."""

    models: tuple[str, ...]
    lengths: tuple[int, ...]
    batch: int
    width: int
    seconds: float
    threads: int
    device: str

    def __post_init__(self) -> None:
        sizes = {"batch": self.batch, "width": self.width, "threads": self.threads}
        require_sizes(sizes, self.lengths, SHORTEST, self.device)
        for name in self.models:
            require_one_of("--models", name, dict.fromkeys(peer.model for peer in PEERS))


@dataclass(frozen=True)
class Peer:
    """Another package's layer; ``make(model, length)`` gives it and ours.

    ``differs`` says in which the two are not the same computation; where it is empty, they are, with the same weights.
    """

    model: str
    layer: str
    package: str
    distribution: str
    make: Callable[[Any, int], Layers]
    differs: str = ""
    overrides: tuple[str, ...] = ()

    @property
    def missing(self) -> str:
        """How to get the package, or nothing where it is there."""
        return "" if importlib.util.find_spec(self.package) else f"not installed: pip install {self.distribution}"


@dataclass
class Comparison:
    """Seconds of ours and theirs pair by pair, memory of both in bytes, and how far the values differ."""

    model: str
    layer: str
    length: int
    values: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)

    def ratio(self) -> tuple[float, float, float]:
        """Our time in theirs: the median over pairs, and its interval."""
        ratios = np.array(self.ours) / np.array(self.theirs)
        chosen = np.random.default_rng(SEED).integers(len(ratios), size=(RESAMPLES, len(ratios)))
        value = float(np.median(ratios))
        lower, upper = np.quantile(np.median(ratios[chosen], 1), [0.025, 0.975]).tolist()
        return value, min(lower, value), max(upper, value)

    @property
    def verdict(self) -> str:
        """``slower`` only where the whole interval lies above what two runs of the same code differ by."""
        _, lower, upper = self.ratio()
        return "slower" if lower > SAME else "faster" if upper < 1 else "as fast"


def layer_step(layer: nn.Module, x: Tensor, direction: Tensor) -> Step:
    def step() -> None:
        torch.autograd.backward(layer(x), direction)

    return with_gradients(layer, step)


class Applied(nn.Module):
    """A computation, with the modules whose parameters it uses."""

    def __init__(self, compute: Callable[[Tensor], Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x)


def load(module: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Copy values into parameters by name, in the shape that these have; what is not given becomes zero."""
    parameters = dict(module.named_parameters())
    unknown = set(given) - set(parameters)
    if unknown:
        raise ValueError(f"{type(module).__name__} has no parameter {min(unknown)!r}; it has {', '.join(parameters)}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.zero_()
            if name in given:
                parameter.add_(given[name].view_as(parameter))


def stack_of(model: Any) -> nn.Module:
    """The stack of a recurrent model, of full sequences."""
    return Applied(lambda x: model.stack(x, torch.full((len(x),), x.shape[1], device=x.device)), model.stack)


def blocks_of(model: Any, count: int = 1) -> nn.Module:
    """The first blocks of a residual model."""
    blocks = model.chain[:count]

    def compute(x: Tensor) -> Tensor:
        for block in blocks:
            x = block.leave(x, sequence(block.recurrence, block.enter(x)))
        return x

    return Applied(compute, *blocks)


def kernel(kind: type[nn.RNNBase], **settings: Any) -> Callable[[Any, int], Layers]:
    """torch's own module."""

    def make(model: Any, length: int) -> Layers:
        fused = model.stack.placed[0][0].recurrence.fused
        theirs = kind(fused.input_size, fused.hidden_size, batch_first=True, **settings)
        load(theirs, dict(fused.named_parameters()))
        return stack_of(model), Applied(lambda x: theirs(x)[0], theirs)

    return make


def of_torchrecurrent(
    name: str,
    weights: Callable[[Any], Mapping[str, Tensor]] | None,
    settings: Callable[[Any], Mapping[str, Any]] = lambda recurrence: {},
) -> Callable[[Any, int], Layers]:
    """A layer of torchrecurrent; ``weights`` says what its parameters are of our recurrence's, None for its own."""

    def make(model: Any, length: int) -> Layers:
        recurrence = model.stack.placed[0][0].recurrence
        width = model.stack.width
        kind = vars(importlib.import_module("torchrecurrent"))[name]
        theirs = kind(width, width, batch_first=True, **settings(recurrence))
        if weights is not None:
            load(theirs.cells[0], weights(recurrence))
        return stack_of(model), Applied(lambda x: theirs(x)[0], theirs)

    return make


def update_gate(recurrence: Any) -> dict[str, Tensor]:
    """Their gate is shut where ours is open."""
    candidate, update = ({name: weight.chunk(2)[at] for name, weight in recurrence.weights().items()} for at in (0, 1))
    both = {name: torch.cat([candidate[name], -update[name]]) for name in candidate}
    return {"weight_ih": both["input"], "weight_hh": both["recurrent"], "bias_ih": both["bias"]}


def scalar_lstm(model: Any, length: int) -> Layers:
    from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

    recurrence = model.stack.placed[0][0].recurrence
    theirs = sLSTMCell(
        sLSTMCellConfig(hidden_size=recurrence.hidden, num_heads=recurrence.heads, backend="vanilla", dtype="float32")
    )
    load(theirs, {"_recurrent_kernel_": recurrence.recurrent, "_bias_": recurrence.bias})
    enter = nn.Linear(recurrence.input.shape[1], 4 * recurrence.hidden, bias=False)
    load(enter, {"weight": recurrence.input})
    return stack_of(model), Applied(lambda x: theirs(enter(x))[0].transpose(1, 2).flatten(2), theirs, enter)


def matrix_lstm(model: Any, length: int, chunkwise: bool) -> Layers:
    from xlstm.blocks.mlstm.backends import chunkwise_simple
    from xlstm.blocks.mlstm.layer import mLSTMLayer, mLSTMLayerConfig

    block = model.chain[0]
    cell = block.recurrence
    settings = {"embedding_dim": block.reduce.out_features, "num_heads": cell.heads, "context_length": length}
    theirs = mLSTMLayer(
        mLSTMLayerConfig(proj_factor=cell.inner / block.reduce.out_features, qkv_proj_blocksize=4, **settings)
    )
    if chunkwise:
        theirs.mlstm_cell.backend_fn = lambda **parts: chunkwise_simple(chunk_size=min(64, length), **parts)
    with torch.no_grad():
        block.head_norm.bias.zero_()  # theirs has none
    load(
        theirs,
        {
            "learnable_skip": block.skip,
            "proj_up.weight": block.enlarge.weight,
            "q_proj.weight": cell.query,
            "k_proj.weight": cell.key,
            "v_proj.weight": cell.value,
            "conv1d.conv.weight": cell.filter,
            "conv1d.conv.bias": cell.filter_bias,
            "mlstm_cell.igate.weight": cell.input_gate,
            "mlstm_cell.igate.bias": cell.input_bias,
            "mlstm_cell.fgate.weight": cell.forget_gate,
            "mlstm_cell.fgate.bias": cell.forget_bias,
            "mlstm_cell.outnorm.weight": block.head_norm.weight - 1,
            "proj_down.weight": block.reduce.weight,
        },
    )
    norm = block.norm
    return blocks_of(model), Applied(lambda x: x + theirs(norm(x)), theirs, norm)


def minimal(module: str, name: str) -> Callable[[Any, int], Layers]:
    """A layer of minGRU-pytorch."""

    def make(model: Any, length: int) -> Layers:
        theirs = vars(importlib.import_module(f"minGRU_pytorch.{module}"))[name](model.stack.width)
        return stack_of(model), Applied(theirs, theirs)

    return make


def linear_recurrent_unit(model: Any, length: int) -> Layers:
    """Without the block around it."""
    from LRU_pytorch import LRU

    ours = model.chain[0].recurrence
    theirs = LRU(ours.hidden, ours.hidden, ours.state)
    real, imaginary = ours.input.unflatten(0, (-1, 2)).unbind(1)
    of_real, of_imaginary = ours.output_weight.unflatten(1, (-1, 2)).unbind(2)
    load(
        theirs,
        {
            "nu_log": ours.magnitude,
            "theta_log": ours.phase,
            "gamma_log": ours.scale,
            "B": torch.complex(real, imaginary),
            "C": torch.complex(of_real, -of_imaginary),
            "D": torch.diag(ours.skip),
        },
    )
    return Applied(lambda x: sequence(ours, x), ours), Applied(theirs, theirs)


def mamba_weights(block: Any) -> dict[str, Tensor]:
    """Under the names that the authors' code has given to all its descendants."""
    cell = block.recurrence
    return {
        "in_proj.weight": torch.cat([block.project.weight, block.gate.weight]),
        "conv1d.weight": cell.filter,
        "conv1d.bias": cell.filter_bias,
        "x_proj.weight": cell.select.weight,
        "dt_proj.weight": cell.timescale.weight,
        "dt_proj.bias": cell.timescale.bias,
        "A_log": cell.log_decay,
        "D": cell.skip,
        "out_proj.weight": block.combine.weight,
    }


def mamba_of_mambapy(model: Any, length: int) -> Layers:
    from mambapy.mamba import MambaBlock, MambaConfig

    block = model.chain[0]
    cell = block.recurrence
    theirs = MambaBlock(
        MambaConfig(
            block.combine.out_features,
            1,
            dt_rank=cell.rank,
            d_state=cell.state,
            expand_factor=cell.inner // block.combine.out_features,
            d_conv=cell.convolution,
        )
    )
    load(theirs, mamba_weights(block))
    norm = block.norm
    return blocks_of(model), Applied(lambda x: x + theirs(norm(x)), theirs, norm)


def mamba_of_transformers(model: Any, length: int) -> Layers:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    block = model.chain[0]
    cell = block.recurrence
    config = MambaConfig(
        hidden_size=block.combine.out_features,
        state_size=cell.state,
        conv_kernel=cell.convolution,
        expand=cell.inner // block.combine.out_features,
        time_step_rank=cell.rank,
        num_hidden_layers=1,
    )
    theirs = MambaMixer(config, 0)
    load(theirs, mamba_weights(block))
    norm = block.norm
    return blocks_of(model), Applied(lambda x: x + theirs(norm(x)), theirs, norm)


def delta_rule_alone(model: Any, length: int) -> Layers:
    """Queries, keys, values and strengths are cut out of the input."""
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    heads = model.chain[0].recurrence.heads

    def parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        cut = x.unflatten(-1, (heads, -1))
        key = nn.functional.normalize(cut, dim=-1)
        return key.roll(1, -1), key, cut, torch.sigmoid(cut[..., 0])

    def ours(x: Tensor) -> Tensor:
        query, key, value, strength = parts(x)
        size = key.shape[-1]
        return delta_rule(query, key, value, strength, None, x.new_zeros(len(x), heads, size, size)).flatten(2)

    def theirs(x: Tensor) -> Tensor:
        query, key, value, strength = parts(x)
        query = query * key.shape[-1] ** 0.5  # theirs divides by it
        made, _ = torch_chunk_gated_delta_rule(query, key, value, torch.zeros_like(strength), strength)
        return made.flatten(2)

    return Applied(ours), Applied(theirs)


def gated_delta_net(model: Any, length: int) -> Layers:
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    block = model.chain[0]
    cell = block.recurrence
    keys, values = cell.keys // cell.heads, cell.values // cell.heads
    config = Qwen3NextConfig(
        hidden_size=block.combine.out_features,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        linear_num_key_heads=cell.heads,
        linear_num_value_heads=cell.heads,
        linear_key_head_dim=keys,
        linear_value_head_dim=values,
        linear_conv_kernel_dim=cell.convolution,
        # theirs divides the query by √keys before the norm, which takes that away again but for its ε
        rms_norm_eps=block.head_norm.eps / keys,
    )
    theirs = Qwen3NextGatedDeltaNet(config, 0)
    query, key, value = block.project.weight.split([cell.keys, cell.keys, cell.values])
    by_head = [part.unflatten(0, (cell.heads, -1)) for part in (query, key, value, block.gate.weight)]
    of_heads = torch.stack([block.strength.weight, block.decay.weight], 1)
    load(
        theirs,
        {
            "dt_bias": block.step_bias,
            "A_log": block.log_rate,
            "conv1d.weight": cell.filter,
            "in_proj_qkvz.weight": torch.cat(by_head, 1).flatten(0, 1),
            "in_proj_ba.weight": of_heads.flatten(0, 1),
            "norm.weight": block.head_norm.weight,
            "out_proj.weight": block.combine.weight,
        },
    )

    def compute(x: Tensor) -> Tensor:
        x = x + theirs(block.norm(x))
        return x + block.feedforward(x)

    return blocks_of(model), Applied(compute, theirs, block.norm, block.feedforward)


def rwkv_of_transformers(model: Any, length: int) -> Layers:
    """A block of time mixing and one of channel mixing."""
    from transformers import RwkvConfig
    from transformers.models.rwkv.modeling_rwkv import RwkvFeedForward, RwkvSelfAttention

    over_time, over_channels = model.chain[:2]
    cell = over_time.recurrence
    config = RwkvConfig(
        hidden_size=cell.hidden,
        attention_hidden_size=cell.hidden,
        intermediate_size=over_channels.key.out_features,
        num_hidden_layers=1,
    )
    attention, feedforward = RwkvSelfAttention(config), RwkvFeedForward(config)
    load(
        attention,
        {
            "time_decay": cell.log_decay,
            "time_first": cell.bonus,
            "time_mix_key": cell.mix_key,
            "time_mix_value": cell.mix_value,
            "time_mix_receptance": cell.mix_receptance,
            "key.weight": cell.key,
            "value.weight": cell.value,
            "receptance.weight": cell.receptance,
            "output.weight": over_time.combine.weight,
        },
    )
    load(
        feedforward,
        {
            "time_mix_key": over_channels.mix_key,
            "time_mix_receptance": over_channels.mix_receptance,
            "key.weight": over_channels.key.weight,
            "receptance.weight": over_channels.receptance.weight,
            "value.weight": over_channels.value.weight,
        },
    )

    def compute(x: Tensor) -> Tensor:
        x = over_time.first(x)
        x = x + attention(over_time.norm(x))[0]
        return x + feedforward(over_channels.norm(x))[0]

    norms = over_time.first, over_time.norm, over_channels.norm
    return blocks_of(model, 2), Applied(compute, attention, feedforward, *norms)


def retention(model: Any, length: int) -> Layers:
    from yet_another_retnet.retention import MultiScaleRetention

    block = model.chain[0]
    theirs = MultiScaleRetention(block.combine.out_features, block.recurrence.heads, bias=False)

    def compute(x: Tensor) -> Tensor:
        normed = block.norm(x)
        x = x + theirs(normed, normed, normed)[0]
        return x + block.feedforward(x)

    return blocks_of(model), Applied(compute, theirs, block.norm, block.feedforward)


def linear_attention(model: Any, length: int) -> Layers:
    from linear_attention_transformer.linear_attention_transformer import SelfAttention

    block = model.chain[0]
    theirs = SelfAttention(block.combine.out_features, block.recurrence.heads, causal=True)

    def compute(x: Tensor) -> Tensor:
        x = x + theirs(block.norm(x))
        return x + block.feedforward(x)

    return blocks_of(model), Applied(compute, theirs, block.norm, block.feedforward)


def encoder(model: Any, length: int) -> Layers:
    """torch's stack with our positions before it; with a causal mask where ours is causal."""
    stack = model.stack
    first = stack.blocks[0]
    norm_first = first.around_attention.norm_first
    layer = nn.TransformerEncoderLayer(
        first.attention.combine.in_features,
        first.attention.heads,
        first.feedforward[0].out_features,
        dropout=0.0,
        batch_first=True,
        norm_first=norm_first,
    )
    theirs = nn.TransformerEncoder(
        layer, len(stack.blocks), stack.norm if norm_first else None, enable_nested_tensor=False
    )
    for block, peer in zip(stack.blocks, theirs.layers, strict=True):
        parts = {
            "self_attn.in_proj_": block.attention.project,
            "self_attn.out_proj.": block.attention.combine,
            "linear1.": block.feedforward[0],
            "linear2.": block.feedforward[2],
            "norm1.": block.around_attention.norm,
            "norm2.": block.around_feedforward.norm,
        }
        load(peer, {name + end: value for name, part in parts.items() for end, value in part.named_parameters()})

    def compute(x: Tensor) -> Tensor:
        placed = stack.position.placed(x)
        if not model.causal:
            return theirs(placed)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], x.device)
        return theirs(placed, mask, is_causal=True)

    return Applied(lambda x: stack(x), stack), Applied(compute, theirs, stack.norm)


def windows(model: Any, length: int) -> Layers:
    """Our stack around their attention; a window of theirs is one less, the query's own position not counted."""
    from local_attention import LocalAttention

    stack = model.stack
    window = stack.blocks[0].attention.window
    theirs = LocalAttention(
        window - 1, causal=True, look_backward=1, exact_windowsize=True, autopad=True, use_rotary_pos_emb=False
    )

    def compute(x: Tensor) -> Tensor:
        x = stack.position.placed(x)
        for block in stack.blocks:
            made = block.attention.project(block.around_attention.enter(x)).unflatten(
                -1, (3, block.attention.heads, -1)
            )
            attended = theirs(*(part.transpose(1, 2) for part in made.unbind(-3))).transpose(1, 2).flatten(2)
            x = block.around_attention.leave(x, block.attention.combine(attended))
            x = block.around_feedforward.leave(x, block.feedforward(block.around_feedforward.enter(x)))
        return stack.norm(x)

    return Applied(lambda x: stack(x), stack), Applied(compute, stack)


def temporal_convolutions(model: Any, length: int) -> Layers:
    """Theirs gets a channel of zeros as well: it maps the first residual path, as ours does, if the widths differ."""
    from pytorch_tcn import TCN

    chain = model.chain
    width = model.readout.in_features
    theirs = TCN(width + 1, [width] * len(chain), chain[0].first.convolution.kernel_size[0], dropout=0.0)
    given: dict[str, Tensor] = {}
    for place, block in enumerate(chain):
        for name, part in (("conv1", block.first), ("conv2", block.second)):
            weights = {f"network.{place}.{name}.{key}": value for key, value in part.convolution.named_parameters()}
            given |= weights
    first = "network.0.conv1.parametrizations.weight.original1"
    given[first] = nn.functional.pad(given[first], (0, 0, 0, 1))
    given["network.0.downsample.weight"] = nn.functional.pad(chain[0].residual.weight, (0, 1))
    given["network.0.downsample.bias"] = chain[0].residual.bias
    load(theirs, given)

    def compute(x: Tensor) -> Tensor:
        for block in chain:
            x = block(x)
        return x

    return Applied(compute, *chain), Applied(lambda x: theirs(nn.functional.pad(x, (0, 1)).mT).mT, theirs)


def of_torch(model: str, layer: str, make: Callable[[Any, int], Layers]) -> Peer:
    return Peer(model, f"torch.nn.{layer}", "torch", "torch", make)


def of_recurrent(model: str, layer: str, *how: Any, differs: str = "") -> Peer:
    made = of_torchrecurrent(layer, *how)
    return Peer(model, f"torchrecurrent.{layer}", "torchrecurrent", "torchrecurrent", made, differs)


PEERS = [
    of_torch("lstm", "LSTM", kernel(nn.LSTM)),
    of_torch("lstm_chrono", "LSTM", kernel(nn.LSTM)),
    of_torch("gru", "GRU", kernel(nn.GRU)),
    of_torch("elman", "RNN", kernel(nn.RNN)),
    of_torch("elman_relu", "RNN", kernel(nn.RNN, nonlinearity="relu")),
    of_torch("irnn", "RNN", kernel(nn.RNN, nonlinearity="relu")),
    of_recurrent("lem", "LEM", None, differs="y reads the z before"),
    of_recurrent(
        "cornn",
        "coRNN",
        lambda ours: {
            "weight_ih": ours.input,
            "weight_hh": ours.recurrent,
            "weight_ch": ours.velocity,
            "bias_ih": ours.bias,
        },
        lambda ours: {"dt": ours.dt, "gamma": ours.gamma, "epsilon": ours.epsilon},
    ),
    of_recurrent(
        "indrnn",
        "IndRNN",
        lambda ours: {
            "weight_ih": ours.input.weight,
            "bias_ih": ours.input.bias,
            "vector_u": ours.weights()["recurrent"],
        },
        lambda ours: {"nonlinearity": "relu"},
    ),
    of_recurrent(
        "antisymmetric_rnn",
        "AntisymmetricRNN",
        lambda ours: {
            "weight_ih": ours.input,
            "bias_ih": ours.bias,
            "weight_hh": ours.weights()["recurrent"].triu(),
        },
        lambda ours: {"epsilon": ours.step_size, "gamma": ours.diffusion},
    ),
    of_recurrent(
        "lstm_peephole",
        "PeepholeLSTM",
        lambda ours: {
            "weight_ih": ours.input,
            "weight_hh": ours.recurrent,
            "weight_ph": ours.peephole,
            "bias_ih": ours.bias,
        },
    ),
    of_recurrent("lstm_1997", "OriginalLSTM", None, differs="squashes within other bounds"),
    of_recurrent("gru_simple", "UGRNN", update_gate),
    of_recurrent("torchrecurrent", "MGU", lambda ours: dict(ours.cell.named_parameters())),
    Peer("slstm", "xlstm sLSTMCell, vanilla", "xlstm", "xlstm", scalar_lstm),
    Peer("mlstm", "xlstm mLSTMLayer, parallel", "xlstm", "xlstm", partial(matrix_lstm, chunkwise=False)),
    Peer("mlstm", "xlstm mLSTMLayer, chunkwise", "xlstm", "xlstm", partial(matrix_lstm, chunkwise=True)),
    Peer(
        "mingru",
        "minGRU_pytorch.minGRU",
        "minGRU_pytorch",
        "minGRU-pytorch",
        minimal("minGRU", "minGRU"),
        "log-space, positive candidates",
    ),
    Peer(
        "minlstm",
        "minGRU_pytorch.minLSTM",
        "minGRU_pytorch",
        "minGRU-pytorch",
        minimal("minLSTM", "minLSTM"),
        "log-space, positive candidates",
    ),
    Peer("lru", "LRU_pytorch.LRU", "LRU_pytorch", "LRU-pytorch", linear_recurrent_unit),
    Peer("mamba", "mambapy MambaBlock, pscan", "mambapy", "mambapy", mamba_of_mambapy),
    Peer("mamba", "transformers MambaMixer", "transformers", "transformers", mamba_of_transformers),
    Peer("deltanet", "transformers chunked rule alone", "transformers", "transformers", delta_rule_alone),
    Peer("gated_deltanet", "transformers Qwen3NextGatedDeltaNet", "transformers", "transformers", gated_delta_net),
    Peer("rwkv", "transformers Rwkv", "transformers", "transformers", rwkv_of_transformers),
    Peer(
        "retnet",
        "yet_another_retnet, parallel",
        "yet_another_retnet",
        "yet-another-retnet",
        retention,
        "other rates and angles",
        ("model.expansion=1",),
    ),
    Peer(
        "linear_attention",
        "linear_attention_transformer",
        "linear_attention_transformer",
        "linear-attention-transformer",
        linear_attention,
        "softmax as features",
    ),
    of_torch("transformer", "TransformerEncoder, norm first", encoder),
    of_torch("transformer_postnorm", "TransformerEncoder, causal", encoder),
    of_torch("transformer_encoder", "TransformerEncoder", encoder),
    Peer("transformer_local", "local_attention", "local_attention", "local-attention", windows),
    Peer("tcn", "pytorch_tcn.TCN", "pytorch_tcn", "pytorch-tcn", temporal_convolutions),
]


def pair(peer: Peer, settings: Options, length: int) -> Layers:
    """Ours and theirs, on the device. What starts as nothing but zeros is moved, so that the comparison sees it."""
    torch.manual_seed(SEED)
    # as many tokens as the width, so that what the first layer reads is as wide as what it gives
    task = Copying(length=length - 4, recall=2, symbols=settings.width - 2)
    model = factory(peer.model, settings.width, peer.overrides)(task)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    ours, theirs = peer.make(model, length)
    return ours.to(settings.device), theirs.to(settings.device)


def drawn(settings: Options, length: int) -> tuple[Tensor, Tensor]:
    """Inputs that ask for a gradient, and a gradient at the outputs."""
    generator = torch.Generator().manual_seed(SEED)
    x, direction = (torch.randn(settings.batch, length, settings.width, generator=generator) for _ in range(2))
    return x.to(settings.device).requires_grad_(), direction.to(settings.device)


def difference(ours: nn.Module, theirs: nn.Module, x: Tensor, direction: Tensor) -> float:
    """Between outputs and between gradients at the inputs, relative to the largest of each."""
    made, expected = ours(x), theirs(x)
    if made.shape != expected.shape:
        raise ValueError(f"ours gives {tuple(made.shape)}, theirs {tuple(expected.shape)}")
    gradients = (torch.autograd.grad(outputs, x, direction)[0] for outputs in (made, expected))
    pairs = (made.detach(), expected.detach()), tuple(gradients)
    return float(torch.stack([(a - b).abs().max() / b.abs().max() for a, b in pairs]).max())  # NaN where one is NaN


def checked(peer: Peer, settings: Options) -> str:
    """What holds of the values. Raises ValueError where they are said to be the same and are not."""
    ours, theirs = pair(peer, settings, COMPARED)
    found = difference(ours, theirs, *drawn(settings, COMPARED))
    if peer.differs:
        return peer.differs
    if not found <= TOLERANCE:  # no number is no equality either
        raise ValueError(f"values differ by {found:.1e} of the largest: the two do not compute the same")
    return f"equal to {found:.0e}" if found else "equal"


def compared(peer: Peer, settings: Options) -> Iterable[Comparison]:
    """One comparison for each length, up to the first at which a step takes too long; there one pair has to do."""
    values = checked(peer, settings)
    for length in sorted(settings.lengths):
        result = Comparison(peer.model, peer.layer, length, values)
        inputs = drawn(settings, length)
        steps = [layer_step(layer, *inputs) for layer in pair(peer, settings, length)]
        first = [seconds(step, settings.device) for step in steps]
        ours, theirs = (peak_memory(step, settings.device) for step in steps)
        result.memory = ours, theirs
        if max(first) > settings.seconds:
            result.ours, result.theirs = first[:1], first[1:]
            yield result
            return
        spent = 0.0
        while len(result.ours) < 3 or (len(result.ours) < PAIRS and spent < 2 * settings.seconds):
            order = [(steps[0], result.ours), (steps[1], result.theirs)]
            for step, kept in order if len(result.ours) % 2 else order[::-1]:
                kept.append(visit(step, settings.device))
                spent += kept[-1]
        yield result


def beside_peers(settings: Options) -> tuple[list[Comparison], dict[str, str]]:
    """All comparisons that can be made, and why others cannot."""
    comparisons, left_out = [], {}
    for peer in PEERS if settings.lengths else ():
        if peer.model not in settings.models:
            continue
        name = f"{peer.model} / {peer.layer}"
        if peer.missing:
            left_out[name] = peer.missing
            continue
        try:
            for comparison in compared(peer, settings):
                comparisons.append(comparison)
                say(f"{name}, T={comparison.length}: {comparison.ratio()[0]:.2f}")
        except Exception as error:  # what another package does shall not keep the others from being compared
            left_out[name] = f"not compared: {one_line(error)}"
    return comparisons, left_out


def peer_table(comparisons: Sequence[Comparison]) -> str:
    """A row a peer and length: our time and memory in theirs."""
    width = max(len(comparison.model) for comparison in comparisons)
    wide = max(len(comparison.layer) for comparison in comparisons)
    head = f"{'':{width}}  {'against':{wide}}  {'T':>5}  {'time':>5}  {'95 % interval':>14}  {'':8}  {'memory':>6}"
    lines = [f"{head}  {'ms ours':>8}  {'theirs':>8}  values"]
    for comparison in comparisons:
        value, lower, upper = comparison.ratio()
        ours, theirs = (1000 * float(np.median(part)) for part in (comparison.ours, comparison.theirs))
        memory = comparison.memory[0] / comparison.memory[1]
        lines.append(
            f"{comparison.model:{width}}  {comparison.layer:{wide}}  {comparison.length:>5}  {value:5.2f}  "
            f"{f'{lower:.2f} to {upper:.2f}':>14}  {comparison.verdict:8}  {memory:6.2f}  {ours:8.1f}  {theirs:8.1f}  "
            f"{comparison.values}"
        )
    return "\n".join(lines)


def peer_summary(comparisons: Sequence[Comparison]) -> str:
    slower = [comparison for comparison in comparisons if comparison.verdict == "slower"]
    line = f"none slower than its peer: met by {len(comparisons) - len(slower)} of {len(comparisons)}"
    if slower:
        line += "; missed: " + ", ".join(
            f"{comparison.model} {comparison.ratio()[0]:.2f} of {comparison.layer} at T={comparison.length}"
            for comparison in slower
        )
    alone = sorted(set(options("model", config_folder())) - {peer.model for peer in PEERS})
    return f"{line}\nno peer, because we know of no package with that layer that trains here: {', '.join(alone)}"


def report(settings: Options, comparisons: Sequence[Comparison], left_out: Mapping[str, str]) -> dict[str, Any]:
    """All that is kept of a run, every measurement included."""
    return {
        "benchmark": "peers",
        "machine": machine(settings.device, settings.threads, {"torch", *(peer.distribution for peer in PEERS)}),
        "settings": asdict(settings),
        "peers": [
            {
                "model": comparison.model,
                "layer": comparison.layer,
                "length": comparison.length,
                "values": comparison.values,
                **dict(zip(("ratio", "lower", "upper"), comparison.ratio(), strict=True)),
                "verdict": comparison.verdict,
                "memory": comparison.memory,
                "ours": comparison.ours,
                "theirs": comparison.theirs,
            }
            for comparison in comparisons
        ],
        "left_out": {"peers": left_out},
        "ratios": [
            asdict(Ratio(f"{comparison.model}, T={comparison.length}", comparison.layer, *comparison.ratio()))
            for comparison in comparisons
        ],
    }


def parsed(arguments: Sequence[str] | None) -> tuple[Options, Path | None]:
    parser = command_line(__doc__, LENGTHS)
    everything = list(dict.fromkeys(peer.model for peer in PEERS))
    parser.add_argument("--models", nargs="*", default=everything, help="to set beside their peers; all")
    chosen, kept = given(parser, arguments)
    return Options(**chosen), kept


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        settings, kept = parsed(arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    prepare(settings.threads)
    started = time.perf_counter()
    comparisons, left_out = beside_peers(settings)
    parts = [peer_table(comparisons), peer_summary(comparisons)] if comparisons else []
    if left_out:
        parts.append(listed("peers left out", left_out))
    result = report(settings, comparisons, left_out)
    parts.append(closing(result["machine"], settings.batch, settings.width, started))
    print("\n\n".join(parts))
    if kept is not None:
        keep(result, kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
