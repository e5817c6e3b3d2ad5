"""How every architecture's training step grows with the sequence, and how fast its layer is beside other packages'.

    python benchmarks/architectures.py                                       about 14 minutes on one core
    python benchmarks/architectures.py --models lstm mamba --peers mamba     some of it
    python benchmarks/architectures.py --models --lengths 64 128             nothing but the peers

The machine should do nothing else. One thread, unless --threads says otherwise.

**Growth.** A step is forward, loss and backward, without an optimiser; gradients are added to those that are there. All
models of ``conf/model`` that fit read the same batches: copying with every position scored, for encoder-decoders the
reversal of strings of an eighth of the length, because they step through it twice in Python. Each is built as its file
says, at the width given. Steps are repeated in rounds over all models and lengths, and the median counts. Where a step
takes longer than --seconds, the next length is left out, and the table says so.

**Memory** is the most that a step holds at once beyond what was there before it: what is kept for the backward pass and
what that pass needs itself; no parameters, no gradients of parameters. It is counted from the allocator's own events,
and so exact. Because that is slow where there are many, it stops before the length at which it would take --seconds.

**Exponents** are least squares of log time and log memory over log T on the last four lengths measured: 1 is linear, 2
quadratic. Each round gives its own exponent of time, because its lengths met the machine in one state; their median
counts, and their range is shown. The goals: at most 1.10 for both where a model carries a state of fixed size, at most
1.15 for memory where it keeps everything, as attention does, whose maps the fused form never holds. A goal is missed
where every round misses it, and open where the median alone does.

**Peers** are other packages' layers of the same kind and size, forward and backward, in turn with ours in one process.
Ours has its default settings. Where the equations are the same the weights are copied, and outputs and gradients are
compared first; else the table says what differs. The goal: none of ours is slower. The interval is the 95 % bootstrap
interval of the median ratio over pairs; two runs of the same code differ by up to 5 %, and so much is allowed.
Peers that are not installed are listed (pip install 'retrograde[peers]').
"""

import argparse
import importlib.util
import json
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn

from retrograde.core.choices import Unavailable, require_at_least, require_one_of
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch
from retrograde.core.recurrence import Recurrence, sequence
from retrograde.layers.delta_rule import delta_rule
from retrograde.tasks.copying import Copying
from retrograde.tasks.reverse import Reverse
from retrograde.train.configuration import config_folder, options
from retrograde.train.provenance import commit

SEED = 0

LENGTHS = 128, 256, 512, 1024, 2048, 4096
PEER_LENGTHS = 256, 1024
REFERENCE = 1024
"""The length whose time and memory the table shows; the longest where it was not asked for."""

FITTED = 4
"""Lengths that an exponent is fitted to, the longest; three are needed."""

SHORTER = 8
"""By how much the sequences of encoder-decoders are shorter."""

VISIT = 0.1, 5
"""Seconds and steps after which the next model has its turn."""

BRIEF = 0.05
"""Seconds: steps shorter than that are preceded by one that is not measured, which warms caches."""

PAIRS = 15
RESAMPLES = 2000

SAME = 1.05
"""Ratio of two runs of the same code, at most."""

TOLERANCE = 2e-3
"""Of the largest value, in float32 along ``COMPARED`` times; a wrong gate or order of weights is off by over 0.05."""

COMPARED = 64

LINEAR, FUSED = 1.10, 1.15
"""The largest exponents meant: of a model whose state does not grow, and of the memory of one whose state does."""

FAMILIES = {
    "kernel": "recurrences in torch's kernel",
    "parallel": "recurrences by scan, chunks or convolution",
    "loop": "recurrences step by step",
    "attention": "attention",
    "other": "convolutions, and what is not opened",
    "encoder-decoder": f"encoder-decoders, source and target of length T/{SHORTER}",
}

Step = Callable[[], None]
Factory = Callable[[Task], SequenceModel]
Layers = tuple[nn.Module, nn.Module]
"""Ours and theirs, from (batch, time, width) to the same."""


@dataclass(frozen=True)
class Options:
    """What to measure, at which sizes and for how long."""

    models: tuple[str, ...]
    peers: tuple[str, ...]
    lengths: tuple[int, ...]
    peer_lengths: tuple[int, ...]
    batch: int
    width: int
    seconds: float
    rounds: int
    threads: int
    device: str

    def __post_init__(self) -> None:
        for name in ("batch", "width", "rounds", "threads"):
            require_at_least(f"--{name}", getattr(self, name), 1)
        for name in ("lengths", "peer_lengths"):
            for length in getattr(self, name):
                require_at_least(f"--{name.replace('_', '-')}", length, SHORTER)
        for name in self.models:
            require_one_of("--models", name, options("model", config_folder()))
        for name in self.peers:
            require_one_of("--peers", name, dict.fromkeys(peer.model for peer in PEERS))
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: this machine has no CUDA device; --device cpu works everywhere")


@dataclass
class Point:
    """A model at one length. Memory is in bytes, None where it was not counted; of seconds there is one a round."""

    length: int
    step: Step
    memory: int | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


@dataclass
class Growth:
    """A model at all lengths; ``carries`` is the size of its state, None where that grows with time."""

    name: str
    family: str
    carries: int | None
    points: list[Point] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def exponents(self) -> dict[str, list[float]]:
        """By quantity, in rising order: of time one a round, of memory one; none where lengths are too few."""
        rounds = zip(*(point.seconds for point in self.points), strict=True)
        of_time = [exponent([point.length for point in self.points], seconds) for seconds in rounds]
        counted = [point for point in self.points if point.memory is not None]
        of_memory = exponent([point.length for point in counted], [point.memory or 0 for point in counted])
        return {
            "time": sorted(value for value in of_time if value is not None),
            "memory": [] if of_memory is None else [of_memory],
        }

    @property
    def verdicts(self) -> dict[str, str]:
        """Of each quantity with a goal: met, missed, or open where rounds disagree."""
        return {
            quantity: "met" if np.median(found) <= goal else "missed" if found[0] > goal else "open"
            for quantity, goal in self.goals.items()
            if (found := self.exponents()[quantity])
        }

    @property
    def goals(self) -> dict[str, float]:
        """The largest exponents meant, by quantity; none for what is measured at lengths of its own."""
        if self.family == "encoder-decoder":
            return {}
        return {"memory": FUSED} if self.carries is None else {"time": LINEAR, "memory": LINEAR}

    def at(self, length: int) -> Point:
        """The point of that length, or the longest below it."""
        return [point for point in self.points if point.length <= length or point is self.points[0]][-1]


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


def factory(name: str, width: int, overrides: Iterable[str] = ()) -> Factory:
    """What the model's file stands for."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=[f"model={name}", f"width={width}", *overrides])
    return instantiate(config.model)


def tasks(length: int) -> list[Task]:
    """One task for each kind of model that is measured."""
    shorter = max(2, length // SHORTER)
    return [Copying(length=length - 4, recall=2), Reverse(symbols=8, shortest=shorter, longest=shorter)]


def fitting(make: Factory, length: int) -> tuple[SequenceModel, Task]:
    """The model and the first task that it fits. Raises Unavailable where there is none."""
    torch.manual_seed(SEED)
    first, *others = tasks(length)
    model = make(first)
    for task in (first, *others):
        if task.kind in model.kinds:
            torch.manual_seed(SEED)
            return make(task), task
    raise Unavailable(f"it is made for tasks of kind {', '.join(model.kinds)}, and none of those is measured here")


def family(model: SequenceModel, task: Task, batch: Batch) -> str:
    """By how the model goes through time, as the model itself shows it."""
    recurrences = [part for part in model.modules() if isinstance(part, Recurrence)]
    if task.kind == "transduce":
        return "encoder-decoder"
    if any(isinstance(part, nn.RNNBase) for part in model.modules()):
        return "kernel"
    if recurrences:
        loop = sequence.dispatch(object)
        return "loop" if any(sequence.dispatch(type(part)) is loop for part in recurrences) else "parallel"
    return "attention" if model.trace(batch).maps else "other"


def training_step(model: SequenceModel, task: Task, batch: Batch) -> Step:
    def step() -> None:
        losses, _ = model.objective(task, batch)
        losses.mean().backward()

    return with_gradients(model, step)


def layer_step(layer: nn.Module, x: Tensor, direction: Tensor) -> Step:
    def step() -> None:
        torch.autograd.backward(layer(x), direction)

    return with_gradients(layer, step)


def with_gradients(module: nn.Module, step: Step) -> Step:
    """The step, with room for the gradients of parameters already there."""
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return step


def now(device: str) -> float:
    """Seconds on a clock, read when the device has nothing left to do."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(step: Step, device: str) -> float:
    start = now(device)
    step()
    return now(device) - start


def visit(step: Step, device: str) -> float:
    """The median seconds of some steps in a row."""
    taken = [seconds(step, device)]
    if taken[0] < BRIEF:
        taken.clear()
    while not taken or (sum(taken) < VISIT[0] and len(taken) < VISIT[1]):
        taken.append(seconds(step, device))
    return float(np.median(taken))


def peak_memory(step: Step, device: str) -> int:
    """The most bytes that the step holds at once, beyond those that were there before it."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    # the allocator's events alone: to record every operation as well takes four times as long
    torch.autograd._enable_record_function(False)
    try:
        with torch.autograd.profiler.profile(profile_memory=True) as profile:
            step()
    finally:
        torch.autograd._enable_record_function(True)
    results = profile.kineto_results
    assert results is not None  # the profile is over
    events = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event[0])
    return max(0, int(np.cumsum([size for _, size in events]).max(initial=0)))


def exponent(lengths: Sequence[int], values: Sequence[float]) -> float | None:
    """The slope of log value over log length on the last lengths, which rise; None where they are fewer than three."""
    if len(lengths) < 3:
        return None
    return float(np.polyfit(np.log(lengths[-FITTED:]), np.log(values[-FITTED:]), 1)[0])


def surveyed(name: str, make: Factory, settings: Options) -> Growth:
    """The model at every length that it manages, with its memory; not timed yet."""
    growth: Growth | None = None
    counting = 0.0  # seconds that counting the last length's memory took
    before = 0
    for length in sorted(settings.lengths):
        try:
            model, task = fitting(make, length)
            model = model.to(settings.device)
            batch = task.sample(settings.batch, torch.Generator().manual_seed(SEED)).to(settings.device)
            step = training_step(model, task, batch)
            if growth is None:
                growth = Growth(name, family(model, task, batch), model.state_size)
                step()  # pays for what is imported and made once
            first = seconds(step, settings.device)
        except (RuntimeError, MemoryError) as error:
            if growth is None or not growth.points:
                raise
            growth.notes.append(f"no T={length}: {one_line(error)}")
            break
        point = Point(batch.length, step)
        growth.points.append(point)
        if before == 0 or (counting > 0 and counting * length / before < settings.seconds):
            start = time.perf_counter()
            point.memory = peak_memory(step, settings.device)
            counting = time.perf_counter() - start
        elif counting > 0:
            growth.notes.append(f"memory up to T={growth.points[-2].length}")
            counting = 0.0
        before = length
        if first > settings.seconds and length < max(settings.lengths):
            growth.notes.append(f"ends at T={point.length}, where a step took {first:.1f} s")
            break
    assert growth is not None  # there is at least one length
    return growth


def grown(settings: Options) -> tuple[list[Growth], dict[str, str]]:
    """All models that can be measured, by family, and why the others cannot."""
    growths, left_out = [], {}
    for name in settings.models if settings.lengths else ():
        try:
            growths.append(surveyed(name, factory(name, settings.width), settings))
            shown = ", ".join(str(point.length) for point in growths[-1].points)
            say(f"{name}: T = {shown}")
        except Unavailable as error:
            left_out[name] = str(error)
        except Exception as error:  # a model that is broken shall not keep the others from being measured
            left_out[name] = f"broken: {one_line(error)}"
    growths.sort(key=lambda growth: (list(FAMILIES).index(growth.family), growth.name))
    for place in range(settings.rounds if growths else 0):
        say(f"round {place + 1} of {settings.rounds}")
        for growth in growths:
            for point in growth.points:
                point.seconds.append(visit(point.step, settings.device))
    return growths, left_out


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
                parameter += given[name].view_as(parameter)


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
    given = {}
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
    Peer("mlstm", "xlstm mLSTMLayer, parallel", "xlstm", "xlstm", lambda *given: matrix_lstm(*given, False)),
    Peer("mlstm", "xlstm mLSTMLayer, chunkwise", "xlstm", "xlstm", lambda *given: matrix_lstm(*given, True)),
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
    for length in sorted(settings.peer_lengths):
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
    for peer in PEERS if settings.peer_lengths else ():
        if peer.model not in settings.peers:
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


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 160 else text[:157] + "..."


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def middle(values: Sequence[float], digits: int = 2) -> str:
    """The median."""
    return number(float(np.median(values)) if values else None, digits)


def growth_table(growths: Sequence[Growth], settings: Options) -> str:
    """A row a model, family by family: exponents, and time and memory at one length."""
    shown = REFERENCE if REFERENCE in settings.lengths else max(settings.lengths)
    width = max(len(growth.name) for growth in growths)
    lines = [
        f"{'T to the power':{width}}  {'time':>5}  {'in rounds':>12}  {'memory':>6}  {'fitted to T':>12}  "
        f"{'at T':>5}  {'ms':>8}  {'MiB':>8}"
    ]
    for name, meaning in FAMILIES.items():
        members = [growth for growth in growths if growth.family == name]
        if members:
            lines += ["", meaning]
        for growth in members:
            point = growth.at(shown // SHORTER if name == "encoder-decoder" else shown)
            found = growth.exponents()
            spread = f"{found['time'][0]:.2f} to {found['time'][-1]:.2f}" if found["time"] else "–"
            fitted = [point.length for point in growth.points][-FITTED:]
            span = f"{fitted[0]}…{fitted[-1]}" if len(fitted) >= 3 else "too few"
            memory = None if point.memory is None else point.memory / 2**20
            notes = [f"{quantity} {verdict}" for quantity, verdict in growth.verdicts.items() if verdict != "met"]
            row = f"{growth.name:{width}}  {middle(found['time']):>5}  {spread:>12}  {middle(found['memory']):>6}"
            row += f"  {span:>12}  {point.length:>5}  {1000 * point.median:8.1f}  {number(memory, 1):>8}"
            lines.append(f"{row}  {'; '.join(notes + growth.notes)}".rstrip())
    return "\n".join(lines)


def growth_summary(growths: Sequence[Growth]) -> str:
    """Which goals are met, and by how much the others are missed."""
    fixed, growing = "the state does not grow", "the state grows"
    lines = []
    for quantity, goal, where in (("time", LINEAR, fixed), ("memory", LINEAR, fixed), ("memory", FUSED, growing)):
        judged = [
            growth
            for growth in growths
            if (growth.carries is None) == (where == growing) and quantity in growth.verdicts
        ]
        met = [growth for growth in judged if growth.verdicts[quantity] == "met"]
        line = f"{quantity} ≤ T^{goal:.2f} where {where}: met by {len(met)} of {len(judged)}"
        for verdict in ("missed", "open"):
            others = [growth for growth in judged if growth.verdicts[quantity] == verdict]
            if others:
                named = (f"{growth.name} {middle(growth.exponents()[quantity], 3)}" for growth in others)
                line += f"; {verdict}: {', '.join(named)}"
        lines.append(line)
    return "\n".join(lines)


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


def peer_summary(comparisons: Sequence[Comparison], settings: Options) -> str:
    slower = [comparison for comparison in comparisons if comparison.verdict == "slower"]
    line = f"none slower than its peer: met by {len(comparisons) - len(slower)} of {len(comparisons)}"
    if slower:
        line += "; missed: " + ", ".join(
            f"{comparison.model} {comparison.ratio()[0]:.2f} of {comparison.layer} at T={comparison.length}"
            for comparison in slower
        )
    alone = sorted(set(options("model", config_folder())) - {peer.model for peer in PEERS})
    return f"{line}\nno peer, because we know of no package with that layer that trains here: {', '.join(alone)}"


def listed(title: str, reasons: Mapping[str, str]) -> str:
    return "\n".join([title, *(f"  {name}: {reason}" for name, reason in reasons.items())])


def machine(settings: Options) -> dict[str, Any]:
    """Where this was measured, with what, and when."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()
    return {
        "device": torch.cuda.get_device_name() if settings.device == "cuda" else processor,
        "processor": processor,
        "threads": settings.threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions({"torch", *(peer.distribution for peer in PEERS)}),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in sorted(distributions):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def report(
    settings: Options,
    growths: Sequence[Growth],
    comparisons: Sequence[Comparison],
    left_out: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """All that is kept of a run, every measurement included."""
    return {
        "benchmark": "architectures",
        "machine": machine(settings),
        "settings": asdict(settings),
        "growth": [
            {
                "name": growth.name,
                "family": growth.family,
                "state_size": growth.carries,
                "exponents": growth.exponents(),
                "goals": growth.goals,
                "verdicts": growth.verdicts,
                "notes": growth.notes,
                "points": [
                    {
                        "length": point.length,
                        "median": point.median,
                        "memory": point.memory,
                        "seconds": point.seconds,
                    }
                    for point in growth.points
                ],
            }
            for growth in growths
        ],
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
        "left_out": left_out,
    }


def parsed(arguments: Sequence[str] | None) -> tuple[Options, Path | None]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    all_models = list(options("model", config_folder()))
    all_peers = list(dict.fromkeys(peer.model for peer in PEERS))
    parser.add_argument("--models", nargs="*", default=all_models, help="whose growth to measure; all")
    parser.add_argument("--peers", nargs="*", default=all_peers, help="models to set beside their peers; all")
    parser.add_argument("--lengths", nargs="*", type=int, default=LENGTHS, help="T; %(default)s")
    parser.add_argument("--peer-lengths", nargs="*", type=int, default=PEER_LENGTHS, help="T; %(default)s")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=64, help="of every model's hidden layer")
    parser.add_argument("--seconds", type=float, default=3.0, help="that a step, or counting its memory, may take")
    parser.add_argument("--rounds", type=int, default=5, help="over all models and lengths")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--to", type=Path, help="a file to keep the result in")
    given = vars(parser.parse_args(arguments))
    kept = given.pop("to")
    return Options(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}), kept


def main(arguments: Sequence[str] | None = None) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's notes about itself
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # transformers would look for kernels
    try:
        settings, kept = parsed(arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    torch.set_num_threads(settings.threads)
    warnings.filterwarnings("ignore")  # other packages' about themselves
    started = time.perf_counter()
    growths, broken = grown(settings)
    comparisons, absent = beside_peers(settings)
    parts = []
    if growths:
        parts += [growth_table(growths, settings), growth_summary(growths)]
    if broken:
        parts.append(listed("not measured", broken))
    if comparisons:
        parts += [peer_table(comparisons), peer_summary(comparisons, settings)]
    if absent:
        parts.append(listed("peers left out", absent))
    print("\n\n".join(parts))
    where = machine(settings)
    minutes = (time.perf_counter() - started) / 60
    print(
        f"\nbatch {settings.batch}, width {settings.width}, float32; forward, loss and backward, no optimiser; "
        f"{math.ceil(minutes)} min\n{where['device']}; threads: {where['threads']}; "
        f"torch {where['packages']['torch']}; {where['date']}"
    )
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        left_out = {"models": broken, "peers": absent}
        kept.write_text(json.dumps(report(settings, growths, comparisons, left_out), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
