"""What a model scores on sequences that it was not trained on: in two numbers while it trains, at length in the end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from retrograde.core.contracts import SequenceModel, Task, Tokens
from retrograde.core.losses import sample_means
from retrograde.core.records import Batch, Reading
from retrograde.core.splits import Split
from retrograde.core.statistics import curve
from retrograde.train.streams import FIXED, generator

POSITIONS = 2**14
"""Times of all sequences together that are evaluated at once at least: few sequences would take as long as many."""


@dataclass(frozen=True)
class Examination:
    """All that a test says: loss and score, the further measures by name, and score by position, by lag, by length."""

    loss: float
    score: float
    measures: Mapping[str, float]
    readings: Sequence[Reading]


def batches(task: Task, split: Split, samples: int, batch_size: int) -> list[Batch]:
    """The evaluation set of that split: the same for every run of the task, drawn on the CPU at once, then divided.

    It has fewer than ``samples`` sequences where the split has. A batch has ``batch_size`` of them, or more where they
    are short, as training with one at a time would otherwise wait for its evaluation.
    """
    available = task.available(split)
    count = samples if available is None else min(samples, available)
    drawn = task.sample(count, generator(split, FIXED), split)
    return [drawn.select(chosen) for chosen in torch.arange(count).split(at_once(drawn, batch_size))]


def at_once(batch: Batch, batch_size: int) -> int:
    """How many of these sequences are evaluated together."""
    return max(batch_size, POSITIONS // batch.length)


def evaluate(model: SequenceModel, task: Task, evaluation: Iterable[Batch]) -> tuple[float, float]:
    """Mean loss and score over samples."""
    model.eval()
    with torch.no_grad():
        sums = [_sums(model, task, batch.beside(model.like)) for batch in evaluation]
    loss, score, count = torch.stack(sums).sum(0).tolist()
    return loss / count, score / count


def mean_score(task: Task, outputs: Float[Tensor, "batch target size"], batch: Batch) -> Float[Tensor, ""]:
    """Mean over the batch of each sample's score."""
    return sample_means(task.score(outputs, batch), batch.scored).mean()


def _sums(model: SequenceModel, task: Task, batch: Batch) -> Float[Tensor, "3"]:
    """Loss and score summed over samples, and the number of samples."""
    outputs = model(batch)
    loss = sample_means(task.loss(outputs, batch).double(), batch.scored).sum()
    score = sample_means(task.score(model.answers(batch, outputs), batch).double(), batch.scored).sum()
    return torch.stack([loss, score, torch.tensor(float(len(batch)), dtype=torch.float64, device=loss.device)]).cpu()


def examine(model: SequenceModel, task: Task, evaluation: Sequence[Batch]) -> Examination:
    """The test: everything of ``evaluate``, and what only the answers to the whole set can say.

    Accuracy, for tokens, and exact match are of the judged positions. ``forced_score``, where the target has an axis of
    its own, is the score of a decoder that reads the given target in place of its own answers.
    """
    model.eval()
    is_tokens = isinstance(task.outputs, Tokens)
    losses, scores, forced, answers, judged, furthest = [], [], [], [], [], []
    with torch.no_grad():
        for batch in evaluation:
            moved = batch.beside(model.like)
            outputs = model(moved)
            said = model.answers(moved, outputs)
            losses.append(task.loss(outputs, moved).double().where(moved.scored, 0.0).cpu())
            scores.append(task.score(said, moved).double().where(moved.scored, 0.0).cpu())
            forced.append(task.score(outputs, moved).double().where(moved.scored, 0.0).cpu())
            answers.append((said.argmax(2) if is_tokens else said).cpu())
            judged.append(task.judged(batch))
            furthest.append(task.furthest_lags(batch))
    whole, asked, answer = Batch.joined(evaluation), torch.cat(judged), torch.cat(answers)
    loss, score, lag = torch.cat(losses), torch.cat(scores), torch.cat(furthest)
    measures = dict(task.metrics(answer, loss, whole))
    right, name, unit = score, "score", "score"
    if is_tokens:
        right, name, unit = (answer == whole.targets).double(), "accuracy", "share"
        if int(asked.sum(1).max()) > 1:
            measures["exact_match"] = float((right.bool() | ~asked).all(1).double().mean())
    if task.kind == "transduce":
        measures["forced_score"] = float(sample_means(torch.cat(forced), whole.scored).mean())
    mean_loss = float(sample_means(loss, whole.scored).mean())
    window = task.effective_window(mean_loss)
    if window is not None:
        measures["effective_window"] = window
    of_sample = sample_means(score, whole.scored)
    position = torch.arange(asked.shape[1]).expand_as(asked)
    known = asked & (lag >= 0)
    curves = [curve(f"{name}_by_position", "position", position[asked], right[asked], unit)]
    if known.any():
        curves.append(curve(f"{name}_by_lag", "lag", lag[known], right[known], unit))
    curves.append(curve("score_by_length", "length", whole.lengths, of_sample, "score"))
    return Examination(mean_loss, float(of_sample.mean()), measures, curves)
