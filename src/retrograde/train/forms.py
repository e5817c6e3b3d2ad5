"""The form in which each layer trains: the fastest of those that are proved equal, by a timing before the first step.

A batch of the run's own shape, drawn from a stream of its own, goes through the model once. Each kind of recurrence
that it met, with what the loss says of its outputs, is then timed by itself: forward and backward of each of its forms,
in turn. One wins over the first, which is taken otherwise, by more than noise. Nothing random goes on for it.

    run.json    forms: for each kind its layers, its shapes, the form, who chose it, and the milliseconds of each
    <outputs>/<study>/forms/    a file for each kind, from which the other runs of a study take the choice

Forms differ in rounding, so a run takes what was chosen before, where it can: by its own record if it goes on, else by
the first run of its study with layers of this kind on this machine. ``docs/decisions/forms.md`` says why.
"""

import fcntl
import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from retrograde.core.choices import nearest
from retrograde.core.contracts import SequenceModel, Task
from retrograde.core.records import Batch, State
from retrograde.core.recurrence import LOOP, Form, Recurrence, forms, listening
from retrograde.train.devices import now
from retrograde.train.module import Training
from retrograde.train.options import AUTO, Job
from retrograde.train.streams import generator

SHARE, LONGEST = 0.01, 30.0
"""Of the time that training takes in these layers, and seconds, that timing may take."""

FEWEST = 9
"""Passes, forward and back, that a choice takes: where they are more than ``SHARE`` of the steps nothing is timed."""

LEAST, MOST = 3, 9
"""Rounds in which each form has its turn."""

NOISE = 0.05
"""By how much a form must be faster than the first."""

SLOW, HOPELESS = 1.25, 3.0
"""Times the first's seconds: what takes that in two rounds or more, or the loop by a short one, has no further turn."""

SHORT, LONG = 32, 64
"""The share of times, and from how many on, that the loop is tried on before all of them."""

SETTING, TIMED, STUDY, RECORD, UNTIMED = "the setting", "timing", "the study", "the record", "too few steps to time"
"""Who chose a form, or why nobody did."""

Pass = Callable[[int | None], float]
"""One pass of a form, forward and back, through all times or through the first so many: gives its seconds."""

Entry = dict[str, Any]
"""Of run.json: layers, what they are, ``form``, ``by`` whom, ``milliseconds``."""


@dataclass
class Call:
    """What a layer is given in training, what the loss says of its outputs, and the forms that it has for that."""

    layers: list[str]
    recurrence: Recurrence
    inputs: Tensor
    initial: State | None
    forms: Mapping[str, Form]
    said: Tensor | None = None

    def hear(self, gradient: Tensor) -> None:
        self.said = gradient.detach()

    def learned(self) -> list[Tensor]:
        """What its backward pass makes the gradients of."""
        begun = [] if self.initial is None else list(self.initial.values())
        return [each for each in (self.inputs, *self.recurrence.parameters(), *begun) if each.requires_grad]

    def described(self) -> Entry:
        """What its timing hangs on."""
        device = self.inputs.device
        return {
            "recurrence": type(self.recurrence).__name__,
            "inputs": list(self.inputs.shape),
            "state": {name: list(shape) for name, shape in self.recurrence.components.items()},
            "begun": self.initial is not None,
            "learned": sum(each.numel() for each in self.learned()),
            "dtype": str(self.inputs.dtype).removeprefix("torch."),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
            "machine": platform.node(),
            "torch": torch.__version__,
        }

    def seconds(self, form: Form, times: int | None = None) -> float:
        """Of one pass."""
        assert self.said is not None  # else nothing is asked of its backward pass
        learned, device = self.learned(), self.inputs.device
        inputs, said = (self.inputs, self.said) if times is None else (self.inputs[:, :times], self.said[:, :times])
        begun = now(device)
        made = form.compute(self.recurrence, inputs, self.initial)
        torch.autograd.grad(made, learned, said, allow_unused=True)
        return now(device) - begun


@dataclass(frozen=True)
class Chosen:
    """A form, what each takes in milliseconds, and who chose it."""

    form: str
    milliseconds: dict[str, float] = field(default_factory=dict)
    by: str = TIMED


class Forms(pl.Callback):
    """Chooses when training starts; of several ranks the first, for all.

    ``shared`` is the folder in which the runs of a study tell each other, ``known`` what the run's record says, and
    ``note`` writes what was chosen into it.
    """

    def __init__(
        self,
        job: Job,
        shared: Path | None = None,
        known: Iterable[Entry] = (),
        note: Callable[..., None] = lambda **facts: None,
    ) -> None:
        self.job = job
        self.shared = shared
        self.known = {layer: entry for entry in known for layer in entry["layers"]}
        self.note = note

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)  # the one module that this project trains
        model = pl_module.model
        found = self._chosen(model, trainer) if trainer.is_global_zero else []
        layers = dict(model.named_modules())
        found = trainer.strategy.broadcast(found)
        for entry in found:
            for layer in entry["layers"]:
                recurrence = layers[layer]
                assert isinstance(recurrence, Recurrence)  # it was heard as one
                recurrence.form = entry["form"]
        if trainer.is_global_zero:
            self.note(forms=found, form=in_words(found))

    def _chosen(self, model: SequenceModel, trainer: pl.Trainer) -> list[Entry]:
        name = self.job.trainer.form
        if name == AUTO and (self.job.trainer.compile or not (self._worthwhile() or self.known)):
            return []
        device = model.like.device
        drawn = self.job.task.sample(self.job.batch_size, generator("forms", self.job.seed, device)).beside(model.like)
        part = drawn.select(torch.arange(self.job.batch_size // trainer.world_size, device=device))
        with trainer.precision_plugin.forward_context():
            calls = heard(model, self.job.task, part)
            if name != AUTO:
                require_known(name, calls)
            kinds = of_a_kind([call for call in calls if len(call.forms) > 1 and call.said is not None])
            return [self._entry(call, len(kinds)) for call in kinds]

    def _worthwhile(self) -> bool:
        return SHARE * self.job.steps >= FEWEST

    def _entry(self, call: Call, kinds: int) -> Entry:
        chosen = self._choice(call, kinds)
        milliseconds = {name: round(value, 3) for name, value in chosen.milliseconds.items()}
        return {
            "layers": call.layers,
            **call.described(),
            "form": chosen.form,
            "by": chosen.by,
            "milliseconds": milliseconds,
        }

    def _choice(self, call: Call, kinds: int) -> Chosen:
        name, first = self.job.trainer.form, next(iter(call.forms))
        if name != AUTO:
            return Chosen(name if name in call.forms else first, by=SETTING)
        recorded = self.known.get(call.layers[0], {})
        if recorded.get("form") in call.forms:
            return Chosen(recorded["form"], recorded["milliseconds"], RECORD)
        if not self._worthwhile():
            return Chosen(first, by=UNTIMED)

        def measured() -> Chosen:
            passes = {name: _pass(call, form) for name, form in call.forms.items() if form.timed}
            return fastest(passes, call.inputs.shape[1], self.job.steps * len(call.layers), LONGEST / kinds)

        if self.shared is None:
            return measured()
        return agreed(self.shared, {**call.described(), "steps": self.job.steps}, call.forms, measured)


def in_words(entries: Iterable[Entry]) -> str | None:
    """What a run's layers train in, in short; None where none had a choice."""
    return ", ".join(sorted({f"{entry['recurrence']} {entry['form']}" for entry in entries})) or None


def _pass(call: Call, form: Form) -> Pass:
    return lambda times: call.seconds(form, times)


def heard(model: SequenceModel, task: Task, batch: Batch) -> list[Call]:
    """What each recurrence of the model is given on a training step; the model and all random states stay as they are.

    One that is called several times is heard the first time.
    """
    names = {id(module): name for name, module in model.named_modules() if isinstance(module, Recurrence)}
    found: dict[int, Call] = {}

    def listener(recurrence: Recurrence, inputs: Tensor, initial: State | None, made: Tensor) -> None:
        at = id(recurrence)
        if at not in names or at in found:
            return
        begun = None if initial is None else {name: _leaf(value) for name, value in initial.items()}
        able = forms(recurrence, inputs)
        found[at] = call = Call([names[at]], recurrence, _leaf(inputs), begun, able)
        if made.requires_grad:
            made.register_hook(call.hear)

    device = model.like.device
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with torch.random.fork_rng([device] if device.type == "cuda" else []), listening(listener):
        losses, _ = model.objective(task, batch)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.autograd.grad(losses.mean(), learned, allow_unused=True)
    for name, value in model.named_buffers():
        value.copy_(buffers[name])
    return list(found.values())


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_(value.requires_grad)


def of_a_kind(calls: Iterable[Call]) -> list[Call]:
    """One call for all layers whose timing would be the same."""
    kinds: dict[str, Call] = {}
    for call in calls:
        first = kinds.setdefault(json.dumps(call.described()), call)
        if first is not call:
            first.layers += call.layers
    return list(kinds.values())


def require_known(name: str, calls: Sequence[Call]) -> None:
    """Raise ValueError for a form that no layer has."""
    there = sorted({form for call in calls for form in call.forms})
    if name not in there:
        if not there:
            raise ValueError(f"form={name}: this model has no layer with forms to choose from as it is trained here")
        hint = nearest(name, there)
        known = f"{hint}{' Here' if hint else ';'} they have {AUTO}, {', '.join(there)}"
        raise ValueError(f"form={name}: no layer of this model has that form here{known}")


def fastest(passes: Mapping[str, Pass], length: int, steps: int, longest: float = LONGEST) -> Chosen:
    """The fastest by the median over rounds, if it beats the first by more than noise; the first otherwise.

    Each form's first pass warms up. What all of them take together stays below ``SHARE`` of ``steps`` passes of the
    first; where fewer than ``LEAST`` rounds fit into that it is the first, and no choice. Milliseconds are medians, or
    of those that were given up what they seemed to take.
    """
    first, *others = passes
    spent = 0.0

    def take(name: str, times: int | None = None) -> float:
        nonlocal spent
        seconds = passes[name](times)
        spent += seconds
        return seconds

    def tried(name: str) -> float:
        try:
            return take(name)
        except torch.OutOfMemoryError:  # of a form that keeps more than the first
            return math.inf

    take(first)
    seems = {first: take(first)}
    allowance = min(longest, SHARE * steps * seems[first])
    racing, in_time = [first], True
    for name in others:
        if spent >= allowance:
            in_time = False
            break
        seems[name] = seems[first]
        if name == LOOP and length >= LONG:  # what others take for a few times says little of what they take for many
            short = max(1, length // SHORT)
            seems[name] = take(name, short) * length / short
        if seems[name] > HOPELESS * seems[first]:
            continue
        if spent + seems[name] > allowance:
            in_time = False
            continue
        seems[name] = tried(name)
        if math.isfinite(seems[name]):
            racing.append(name)
    while len(racing) > 2 and spent + LEAST * sum(seems[name] for name in racing) > allowance:
        racing.pop()  # the loop stands last
    taken: dict[str, list[float]] = {name: [] for name in racing}
    for place in range(MOST):
        if len(racing) == 1 or spent + sum(seems[name] for name in racing) > allowance:
            break
        turn = place % len(racing)
        for name in racing[turn:] + racing[:turn]:
            taken[name].append(take(name))
        if place > 0:
            racing = [name for name in racing if name == first or min(taken[name]) <= SLOW * min(taken[first])]
    medians = {name: median(values) for name, values in taken.items() if values}
    milliseconds = {name: 1000 * seconds for name, seconds in (seems | medians).items() if math.isfinite(seconds)}
    if len(taken[first]) < LEAST and (len(racing) > 1 or not in_time):
        return Chosen(first, milliseconds, UNTIMED)
    best = min(racing, key=lambda name: medians.get(name, seems[name]))
    won = best != first and medians[best] < (1 - NOISE) * medians[first]
    return Chosen(best if won else first, milliseconds)


def agreed(folder: Path, kind: Entry, able: Mapping[str, Form], measure: Callable[[], Chosen]) -> Chosen:
    """What the first run of a study chose for layers of this kind; that run measures, and the others wait for it.

    The file says of what kind it is; where its measuring run was ended within it, the next one measures.
    """
    digest = hashlib.sha256(json.dumps(kind, sort_keys=True).encode()).hexdigest()[:10]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{kind['recurrence']}-{digest}.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        try:
            found = json.loads(file.read())
        except ValueError:  # empty, or torn
            found = None
        if isinstance(found, dict) and found.get("form") in able:
            return Chosen(found["form"], found["milliseconds"], STUDY)
        chosen = measure()
        file.truncate(0)
        json.dump({**kind, **vars(chosen)}, file, indent=1)
        file.flush()
    return chosen
