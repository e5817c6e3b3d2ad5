"""Every probe of ``conf/probe`` keeps the contract; and the checks catch probes that do not."""

from collections.abc import Iterable
from functools import partial

import numpy as np
import pytest
import torch
from members import CONF, chosen, stems
from omegaconf import OmegaConf

from retrograde.core.contracts import Probe, Snapshot, Task
from retrograde.core.records import Reading, Update
from retrograde.core.snapshot import snapshot
from retrograde.layers.scores.additive import Additive
from retrograde.layers.windows.global_ import Global
from retrograde.models.gru import gru
from retrograde.models.lstm import lstm
from retrograde.models.mamba import mamba
from retrograde.models.seq2seq_bahdanau import seq2seq_bahdanau
from retrograde.models.transformer import transformer
from retrograde.record.tables import reading_table
from retrograde.tasks.adding import Adding
from retrograde.tasks.copying import Copying
from retrograde.tasks.reverse import Reverse

PRESETS = ("all", "default", "none")
PROBES = [stem for stem in stems("probe") if stem not in PRESETS]
SNAPSHOTS = ("lstm", "mamba", "transformer", "seq2seq")

SHORT = {"lyapunov": ("probe.lyapunov.length=40", "probe.lyapunov.warmup=5")}
"""What takes long and is promised of any setting alike."""


def taken(name: str) -> Snapshot:
    torch.manual_seed(0)
    task: Task
    if name == "lstm":
        task = Copying(length=3, symbols=3, recall=2)
        model = lstm(task, hidden=4, layers=2, bidirectional=True)
    elif name == "mamba":
        task = Adding(length=20, markers="first_ten")
        model = mamba(task, hidden=4, layers=1, state=2)
    elif name == "transformer":
        task = Adding(length=6)
        model = transformer(task, 8, 1, 2, 8)
    else:
        task = Reverse(symbols=3, shortest=2, longest=4)
        reader, writer = partial(gru, hidden=4, bidirectional=True), partial(gru, hidden=4)
        model = seq2seq_bahdanau(task, reader, writer, Additive, Global)
    gradients = {key: torch.randn_like(parameter) for key, parameter in model.named_parameters()}
    change = {key: 0.1 * gradient for key, gradient in gradients.items()}
    update = Update(gradients, gradients, change, 0.5)
    return snapshot(model, task, task.sample(3, torch.Generator().manual_seed(0)), 7, update)


def check_leaves_no_mark(probe: Probe, on: Snapshot) -> list[Reading]:
    """Parameters, their gradients, training mode and global generators are as before; two calls agree.

    Python's own generator is not looked at: beartype, which checks signatures in tests, draws from it.
    """
    on.model.train()
    before = {name: parameter.detach().clone() for name, parameter in on.model.named_parameters()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    fields = dict(vars(probe))
    readings = list(probe(on))
    again = list(probe(on))
    for name, parameter in on.model.named_parameters():
        assert parameter.grad is None, f"writes the gradient of {name}"
        assert torch.equal(parameter, before[name]), f"changes {name}"
    assert on.model.training, "leaves the model in evaluation mode"
    assert torch.equal(states[0], torch.get_rng_state()), "draws from torch's global generator"
    assert (states[1] == np.random.get_state()[1]).all(), "draws from numpy's global generator"
    assert fields == vars(probe), "keeps state"
    for one, other in zip(readings, again, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.values, other.values)
    return readings


@pytest.mark.parametrize("name", SNAPSHOTS)
@pytest.mark.parametrize("stem", PROBES)
def test_a_probe_keeps_the_contract(stem: str, name: str) -> None:
    probe = chosen("probe", stem, *SHORT.get(stem, ()))[stem]
    readings = check_leaves_no_mark(probe, taken(name))
    names = [reading.name for reading in readings]
    assert len(set(names)) == len(names)
    for reading in readings:
        quantity, _, where = reading.name.partition("/")
        assert quantity and where and reading.unit
        _, table = reading_table("run", 7, reading)
        assert table.num_rows == reading.values.size


@pytest.mark.parametrize("stem", PROBES)
def test_a_probe_yields_something_on_one_of_the_snapshots(stem: str) -> None:
    probe = chosen("probe", stem, *SHORT.get(stem, ()))[stem]
    assert any(reading.values.size for name in SNAPSHOTS for reading in probe(taken(name)))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_holds_the_probes_that_it_lists(preset: str) -> None:
    listed = OmegaConf.load(CONF / "probe" / f"{preset}.yaml").get("defaults", [])
    assert list(chosen("probe", preset) or {}) == list(listed) if preset != "none" else not listed


class WritesGradients:
    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        snapshot.task.loss(snapshot.model(snapshot.batch), snapshot.batch).sum().backward()
        yield Reading("a/b", np.array(1.0), {}, "unit")


class Draws:
    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        torch.rand(1)
        yield Reading("a/b", np.array(1.0), {}, "unit")


class Steps:
    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        with torch.no_grad():
            next(snapshot.model.parameters()).add_(1.0)
        yield Reading("a/b", np.array(1.0), {}, "unit")


class Counts:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        self.calls += 1
        yield Reading("a/b", np.array(1.0), {}, "unit")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [(WritesGradients(), "gradient of"), (Draws(), "torch's global"), (Steps(), "changes"), (Counts(), "keeps state")],
)
def test_a_probe_that_leaves_a_mark_is_caught(wrong: Probe, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_leaves_no_mark(wrong, taken("lstm"))
