"""What a run's readings warn of, in sentences: what holds, where, since when, and what might be tried.

    nonfinite   training, or the model on the probe batch, came to numbers that are none
    exploding   a recurrence's loss gradient grows with the lag
    vanishing   it falls so fast that nothing is left of it at the lag that the task asks for
    dead        units of a state that are exactly 0, whatever the input
    saturated   states at the ends of their range
    collapsed   heads of a layer that look at one key alone
    clipping    most steps are clipped

An alert is made of what the run recorded and of nothing else, so that a finished folder gives the same ones as the end
of the run. Where the tables do not hold the reading that it needs, or the card does not say how far back the task asks
to reach, there is none, or it says no more than what was measured.

Gradients over lag are judged where a layer is a recurrence, which shows in an initial state among its gradients; and
for vanishing in the lowest layer, which everything from the past has to pass through. Its components and directions are
one memory, which reaches as far as the best of them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from retrograde.core.statuses import CENSORED, FINITE, STATUSES, ZERO
from retrograde.record.advice import (
    against_explosion,
    against_vanishing,
    beside_divergence,
    either,
    made_by_training,
    smaller_rate,
)
from retrograde.record.evidence import Evidence, by_step, rows
from retrograde.record.lags import lag_quantiles
from retrograde.record.store import FolderStore
from retrograde.record.tables import LOWEST

Kind = Literal["nonfinite", "exploding", "vanishing", "dead", "saturated", "collapsed", "clipping"]
Level = Literal["error", "warning", "info"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LEVELS: tuple[Level, ...] = get_args(Level)
"""The gravest first."""

TITLES: Mapping[str, str] = {
    "nonfinite": "Numbers that are none",
    "exploding": "Exploding gradient",
    "vanishing": "Vanishing gradient",
    "dead": "Dead units",
    "saturated": "Saturated states",
    "collapsed": "Collapsed attention",
    "clipping": "Clipping on most steps",
}


@dataclass(frozen=True)
class AlertSettings:
    """From where on something is worth a sentence; None for never. ``conf/alerts/default.yaml`` says why there."""

    nonfinite: bool = True
    exploding: float | None = 100.0
    vanishing: float | None = 0.01
    dead: float | None = 0.2
    saturated: float | None = 0.5
    collapsed: float | None = 0.05
    clipping: float | None = 0.5

    def __post_init__(self) -> None:
        for name in ("vanishing", "dead", "saturated", "collapsed", "clipping"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"alerts.{name} is a share, above 0 and at most 1, or null for never; not {value}")
        if self.exploding is not None and not self.exploding > 1:
            raise ValueError(f"alerts.exploding is a factor above 1, or null for never; not {self.exploding}")


@dataclass(frozen=True)
class Alert:
    """One sentence, and what it is made of. It held from the snapshot ``first`` to ``last``, and maybe before."""

    kind: Kind
    level: Level
    text: str
    layer: str
    component: str
    value: float
    first: int
    last: int
    at_end: bool


@dataclass(frozen=True)
class Found:
    """What one snapshot shows of ``about``. ``advice`` is what might be tried while it holds and the task does not."""

    about: str
    step: int
    layer: str
    component: str
    value: float
    text: str
    advice: Sequence[str] = ()
    level: Level = "warning"


def alerts(
    store: FolderStore,
    run: str,
    settings: AlertSettings | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> list[Alert]:
    """A run's alerts: what holds at its end first, then in order of weight.

    ``metadata`` is what run.json is going to say of a run that is about to end.
    """
    known = store.metadata(run) if metadata is None else metadata
    evidence, limits = Evidence(store, run, known), AlertSettings() if settings is None else settings
    made = [*diverged(evidence), *evaluated(evidence)] if limits.nonfinite else []
    for kind, (find, steps_of) in FINDERS.items():
        if limit := getattr(limits, kind):
            made += spans(kind, find(evidence, limit), evidence.steps(steps_of), solved=known.get("solved") is True)
    return sorted(
        made, key=lambda alert: (not alert.at_end, LEVELS.index(alert.level), KINDS.index(alert.kind), alert.layer)
    )


def spans(kind: Kind, found: Iterable[Found], steps: Sequence[int], solved: bool) -> Iterator[Alert]:
    """One alert for everything that something was found about: the last unbroken run of ``steps`` on which it held."""
    series: dict[str, dict[int, Found]] = {}
    for one in found:
        series.setdefault(one.about, {})[one.step] = one
    for of_steps in series.values():
        last = max(of_steps)
        place = steps.index(last)
        while place > 0 and steps[place - 1] in of_steps:
            place -= 1
        one, first, at_end = of_steps[last], steps[place], last == steps[-1]
        text = f"{one.text} ({when(first, last, steps)})."
        if at_end and one.advice and not solved:
            text += f" Try {either(one.advice)}."
        level: Level = "info" if solved and kind != "nonfinite" else one.level
        yield Alert(kind, level, text, one.layer, one.component, one.value, first, last, at_end)


def when(first: int, last: int, steps: Sequence[int]) -> str:
    """The steps in words, of snapshots at ``steps``.

    >>> steps = [0, 1, 10, 2000]
    >>> [when(*held, steps) for held in ((0, 2000), (1, 2000), (2000, 2000), (0, 10), (1, 1))]
    ['at every snapshot', 'since step 1', 'at step 2,000', 'from step 0 to 10, not later', 'at step 1, not later']
    """
    at_end = last == steps[-1]
    if at_end and first == steps[0] and first != last:
        return "at every snapshot"
    if first == last:
        return f"at step {last:,}" + ("" if at_end else ", not later")
    return f"since step {first:,}" if at_end else f"from step {first:,} to {last:,}, not later"


def exploding(evidence: Evidence, limit: float) -> Iterator[Found]:
    """By the slope over all lags: what is only higher somewhere in between does not explode."""
    slopes = evidence.numbers("lag_gradient/slope")
    measured = evidence.over_lag("relative")
    if measured.empty:
        return
    reach = measured.groupby(["step", "layer", "component"])[["lag"]].max().reset_index()
    worst: dict[int, dict[str, Any]] = {}
    for row in rows(reach):
        decades = slopes.get((row["step"], row["layer"], row["component"]), math.nan) * row["lag"]
        known = worst.get(row["step"], {"decades": math.log10(limit)})
        if decades >= known["decades"]:
            worst[row["step"]] = row | {"decades": decades}
    for step, row in worst.items():
        doubles = rounded(math.log10(2) * row["lag"] / row["decades"])
        grown = f"{power(row['decades'])} times its size over the {row['lag']} measured"
        text = f"{where(row['layer'], row['component'])}: the gradient doubles every {doubles} lags, {grown}"
        advice = against_explosion(evidence)
        yield Found("gradient", step, row["layer"], row["component"], row["decades"], text, advice)


def vanishing(evidence: Evidence, limit: float) -> Iterator[Found]:
    """By what is left at the lag that the task asks for, or where the card knows none, at the largest measured."""
    table, absolute = (
        table[table["layer"].map(lambda layer: str(layer).startswith(LOWEST)).astype(bool)]
        for table in (evidence.over_lag("relative"), evidence.over_lag("norm"))
    )
    if table.empty:
        return
    nothing = [STATUSES[CENSORED], STATUSES[ZERO]]
    arriving = absolute[~absolute["status"].isin(nothing)].groupby(["step", "lag"])[["layer", "component"]]
    reached = {at: set(map(tuple, parts.to_numpy())) for at, parts in arriving}
    asked = lag_quantiles(evidence.store.card(evidence.run)).get("90 %")
    halves = evidence.numbers("lag_gradient/half_life")
    judged = table.groupby("step")["lag"].transform("max") if asked is None else asked
    for step, components in by_step(rows(table[table["lag"] == judged])).items():
        best = max(components, key=lambda row: row["value"])
        # what the loss does not see at lag 0 has no relative gradient, and may be what remembers
        measured = {(row["layer"], row["component"]) for row in components}
        known = reached.get((step, best["lag"]), set()) <= measured and all(row["status"] in LEFT for row in components)
        if not known or best["value"] >= math.log10(limit):
            continue
        layer, component, lag = best["layer"], best["component"], best["lag"]
        name, left = where(layer, component), LEFT[best["status"]].format(power(best["value"]))
        half_life = halves.get((step, layer, component), math.nan)
        falls = f"the gradient falls by half every {rounded(half_life)} lags" if math.isfinite(half_life) else ""
        if asked is not None:
            asks = f"the task asks for {lag}" if falls else f"the task asks for a gradient over {lag} lags"
            text = f"{name}: {falls + '; ' if falls else ''}{asks}, where {left}"
            yield Found("gradient", step, layer, component, best["value"], text, against_vanishing(evidence, lag))
        elif falls:
            text = f"{name}: {falls}, and at lag {lag} {left}; how far back the task asks to reach is not known"
            yield Found("gradient", step, layer, component, best["value"], text, level="info")


LEFT = {
    STATUSES[FINITE]: "{} of it is left",
    STATUSES[CENSORED]: "less of it is left than the format holds",
    STATUSES[ZERO]: "nothing of it arrives",
}
"""What remains of a gradient, by the status of its reading; of one that is no number nothing can be said."""


def dead(evidence: Evidence, limit: float) -> Iterator[Found]:
    """Units that answer nothing, by component."""
    shares = evidence.numbers("health/dead")
    for (step, layer, component), share in shares.items():
        if share >= limit:
            text = f"{where(layer, component)}: {share:.0%} of its units are 0 for every sample at every time"
            advice = made_by_training(shares.get((0, layer, component)), limit, evidence)
            yield Found(f"{layer}.{component}", step, layer, component, share, text, advice)


def saturated(evidence: Evidence, limit: float) -> Iterator[Found]:
    """Entries at the ends of their range, by component."""
    beyond = evidence.config("probe.health.saturated")
    shares = evidence.numbers("health/saturated")
    for (step, layer, component), share in shares.items():
        if share >= limit:
            ends = "at the ends of their range" if beyond is None else f"beyond ±{beyond:g}"
            text = f"{where(layer, component)}: {share:.0%} of its entries lie {ends}, where tanh is flat"
            advice = made_by_training(shares.get((0, layer, component)), limit, evidence)
            yield Found(f"{layer}.{component}", step, layer, component, share, text, advice)


def collapsed(evidence: Evidence, limit: float) -> Iterator[Found]:
    """Layers all of whose heads look at one key each; not those that look from a target at its source, as they may."""
    within = {row["layer"] for row in rows(evidence.table("attention/distance"))}
    switched_off = [name for name in ("scaling", "normalisation") if evidence.config(f"model.{name}") is False]
    advice = [f"model.{name}=true" for name in switched_off]
    if evidence.asks("scheduler") and evidence.config("scheduler") is None:
        advice.append("scheduler=warmup")
    advice.append(smaller_rate(evidence))
    for step, heads in by_step(rows(evidence.table("attention/entropy_share"))).items():
        for layer in dict.fromkeys(row["layer"] for row in heads if row["layer"] in within):
            shares = [row["value"] for row in heads if row["layer"] == layer]
            if not all(share <= limit for share in shares):  # NaN is none of them
                continue
            each = "its head looks" if len(shares) == 1 else f"each of its {len(shares)} heads looks"
            much = f"with at most {max(shares):.1%} of the entropy that it could have"
            text = f"{where(layer, '')}: {each} at hardly more than one key, {much}"
            yield Found(layer, step, layer, "", max(shares), text, advice)


def clipping(evidence: Evidence, limit: float) -> Iterator[Found]:
    """Steps as long as the clip and not as the gradient, of all so far; nothing where only the first were clipped, nor
    of a run too short to tell."""
    gradients = rows(evidence.table("parameters/gradient"))
    norms = {row["step"]: row["value"] for row in gradients if row["parameter"] == "all"}
    clip, by = evidence.config("trainer.clip"), evidence.config("trainer.clip_by")
    clipped, before, shares = 0.0, 0, {}
    for (step, _, _), share in sorted(evidence.numbers("parameters/clipped").items()):
        clipped, before = clipped + share * (step - before), step
        shares[step] = clipped / step
    if clip is None or before < SETTLED or shares[before] < limit:
        return
    for step, share in shares.items():
        if share >= limit:
            text = f"{share:.0%} of {step:,} steps were clipped by trainer.clip={clip:g}"
            if by != "value" and step in norms:
                text += f"; at step {step:,} the gradient's norm was {power(norms[step])}"
            yield Found("steps", step, "", "", share, text, ["a larger trainer.clip", smaller_rate(evidence)])


def nonfinite(evidence: Evidence, _: float) -> Iterator[Found]:
    """What the model, as it is at a snapshot, makes of the probe batch, and the gradient of that."""
    for name, first, of, order in (
        ("nonfinite", "first_nonfinite", "", min),
        ("gradient_nonfinite", "gradient_first", "the gradient at ", max),  # on the way back later times come first
    ):
        times = evidence.numbers(f"health/{first}")
        bad = [row for row in rows(evidence.table(f"health/{name}")) if row["value"] > 0]
        for step, found in by_step(bad).items():
            at = {(row["layer"], row["component"]): times[(step, row["layer"], row["component"])] for row in found}
            layer, component = order(at, key=at.__getitem__)
            here = [row for row in found if (row["layer"], row["component"]) == (layer, component)]
            counts = " and ".join(f"{row['value']:,.0f} times {WORDS[row['kind']]}" for row in here)
            thing = of + THINGS.get(layer, where(layer, component))
            text = f"on the probe batch, {thing} is {counts}, first at time {at[(layer, component)]:.0f}"
            value = float(sum(row["value"] for row in found))
            yield Found(name, step, layer, component, value, text, beside_divergence(evidence))


def evaluated(evidence: Evidence) -> Iterator[Alert]:
    """Losses of validation and test that are none, though training's were."""
    metrics = [row for row in rows(evidence.store.metrics([evidence.run])) if row["quantity"] == "loss"]
    for split in dict.fromkeys(row["split"] for row in metrics if row["split"] != "train"):
        losses = {row["step"]: row["value"] for row in metrics if row["split"] == split}
        advice = beside_divergence(evidence)
        found = [
            Found("loss", step, "", "", value, f"the {split} loss is {value:g}", advice)
            for step, value in losses.items()
            if not math.isfinite(value)
        ]
        yield from spans("nonfinite", found, sorted(losses), solved=False)


SETTLED = 100
"""Steps before which nothing is said of clipping, since nearly every run begins with gradients that are clipped."""

WORDS = {"nan": "NaN", "inf": "infinite"}

FINDERS: Mapping[Kind, tuple[Callable[[Evidence, float], Iterator[Found]], str]] = {
    "nonfinite": (nonfinite, "health/nonfinite"),
    "exploding": (exploding, "lag_gradient/norm"),
    "vanishing": (vanishing, "lag_gradient/norm"),
    "dead": (dead, "health/dead"),
    "saturated": (saturated, "health/dead"),
    "collapsed": (collapsed, "attention/entropy_share"),
    "clipping": (clipping, "parameters/clipped"),
}
"""What finds each kind, and the readings whose steps it could have been found at."""

NEEDS: Mapping[Kind, tuple[str, ...]] = {
    "exploding": ("lag_gradient", "state_gradient"),
    "vanishing": ("lag_gradient", "state_gradient"),
    "dead": ("health",),
    "saturated": ("health",),
    "collapsed": ("attention",),
    "clipping": ("parameters",),
}
"""The probes without which a kind cannot be judged; of numbers that are none, training's own tell as well."""


def diverged(evidence: Evidence) -> Iterator[Alert]:
    """The step that ended training, where one did."""
    said = evidence.metadata.get("nonfinite")
    if said is None:
        return
    text = f"{in_words(said)}; the run ends before that step."
    layer, component = said.get("layer", ""), said.get("component", "")
    advice = against_explosion(evidence, trained=said["step"] > 1)
    if advice:
        text += f" Try {either(advice)}."
    yield Alert("nonfinite", "error", text, layer, component, float(said["step"]), said["step"], said["step"], True)


def in_words(said: Mapping[str, Any]) -> str:
    """What run.json says of the step on which a run stopped being finite, without a full stop."""
    step, what = f"step {said['step']:,}", said["what"]
    if what is None:
        return f"{step}: the training loss is {said['loss']:g}, and was not so again when its steps were repeated"
    names = said["parameters"]
    some = f"{names[0]} and {len(names) - 1} others" if len(names) > 1 else "".join(names)
    if what == "weight":
        return f"{step}: {some} holds something that is no number before it"
    if what == "update":
        return f"{step}: a gradient that is finite makes an update that is not, of {some}"
    if what == "mean":
        return f"{step}: the batch's mean loss is {WORDS[said['value']]}, though the loss of each sample is finite"
    if "time" in said:
        thing = THINGS[what].format(where(said["layer"], said["component"]))
        return f"{step}: {thing} is {WORDS[said['value']]}, first at time {said['time']} (sample {said['sample']})"
    if what == "gradient":
        return f"{step}: the gradient of {some} is not finite"
    alone = "without dropout, regularizer and reduced precision"
    return f"{step}: the training loss is {said['loss']:g}, while the model by itself, {alone}, stays finite"


THINGS = {
    "inputs": "an input as the model reads it",
    "state": "{}",
    "outputs": "an output",
    "loss": "the loss",
    "gradient": "the gradient at {}",
}
"""What was not finite at a time, as the beginning of a clause."""


def where(layer: str, component: str) -> str:
    """
    >>> where("0.forward", "cell"), where("decoder1.backward", "hidden"), where("2", "state"), where("outputs", "")
    ('layer 0, cell state', 'decoder1, reading backward, hidden state', 'layer 2, state', 'outputs')
    """
    number, _, direction = layer.partition(".")
    name = f"layer {number}" if number.isdigit() else number
    name += ", reading backward" if direction == "backward" else ""
    if not component:
        return name
    return f"{name}, {component}" if component.endswith("state") else f"{name}, {component} state"


def rounded(value: float) -> str:
    """
    >>> rounded(3.14), rounded(1234.5)
    ('3.1', '1,234')
    """
    return f"{value:.2g}" if value < 100 else f"{value:,.0f}"


def power(decades: float) -> str:
    """10 to that power, also beyond any format.

    >>> power(-4.5), power(0.5), power(-400.2), power(400.7)
    ('3.2e-05', '3.2', '6e-401', '5e+400')
    """
    if abs(decades) < 300:
        return f"{10**decades:.2g}"
    whole = math.floor(decades)
    return f"{10 ** (decades - whole):.0f}e{whole:+d}"
