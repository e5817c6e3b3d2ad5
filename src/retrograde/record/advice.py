"""What might be tried against what alerts say: settings that the run's own model and trainer have, or another model."""

from collections.abc import Sequence

from retrograde.record.evidence import Evidence


def against_vanishing(evidence: Evidence, lag: int) -> list[str]:
    """Settings that the run's own model and trainer have, or another model, for what has to reach over ``lag``."""
    advice = []
    truncate = evidence.config("trainer.truncate")
    if truncate is not None and truncate < lag:
        advice.append(f"a larger trainer.truncate (it is {truncate})")
    bias = evidence.config("model.forget_bias")
    if bias is not None:
        advice += [f"a larger model.forget_bias (it is {bias:g})", "model=lstm_chrono"]
    radius = evidence.config("model.radius")
    if radius is not None and radius < 1:
        advice.append(f"model.radius=1 (it is {radius:g})")
    if evidence.ungated:
        advice.append("a gated cell (model=lstm)")
        if evidence.metadata.get("model") != "orthogonal_rnn":
            advice.append("model=orthogonal_rnn")
    if evidence.asks("regularizer") and evidence.config("regularizer") is None:
        advice.append("regularizer=omega")
    return advice


def against_explosion(evidence: Evidence, trained: bool = True) -> list[str]:
    """The same of a gradient that grows, or of numbers that are none; the model alone, where no step was taken yet."""
    advice = []
    if trained and evidence.config("trainer.clip") is None:
        advice.append("trainer.clip=1")
    radius = evidence.config("model.radius")
    if radius is not None and radius > 1:
        advice.append(f"model.radius=1 (it is {radius:g})")
    elif evidence.ungated:
        advice.append("a gated cell (model=lstm)")
    return [*advice, smaller_rate(evidence)] if trained else advice


def beside_divergence(evidence: Evidence) -> list[str]:
    """The same, unless the step that ended the run says it already."""
    return [] if evidence.metadata.get("nonfinite") else against_explosion(evidence)


def made_by_training(at_start: float | None, limit: float, evidence: Evidence) -> list[str]:
    """What to turn down where a share has reached its limit since the start; where it began so, no step has done it."""
    return [] if at_start is not None and at_start >= limit else [smaller_rate(evidence)]


def smaller_rate(evidence: Evidence) -> str:
    """The learning rate as something to turn down."""
    rate = evidence.config("optimizer.lr")
    return "a smaller learning rate" if rate is None else f"a smaller optimizer.lr (it is {rate:g})"


def either(names: Sequence[str]) -> str:
    """
    >>> either(["a", "b", "c"]), either(["a"])
    ('a, b or c', 'a')
    """
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
