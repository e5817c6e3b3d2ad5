"""The gap in a text: each word is to be told from the words around it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from retrograde.core.contracts import Baseline, Task
from retrograde.core.records import Batch
from retrograde.core.words import UNKNOWN, Words

WORD = re.compile(r"\w+(?:['’]\w+)*")
"""Letters, digits and underscores, with apostrophes inside."""

LONGEST_LABEL = 12


@dataclass(frozen=True)
class Text:
    """A text as tokens: its words, how often each comes up, how often it stays, and where each stands.

    ``places`` are all positions of token 0, then all of token 1, and so on; those of token i begin at ``first[i]``.
    """

    words: tuple[str, ...]
    tokens: Int[Tensor, " text"]
    frequencies: Int[Tensor, " words"]
    stays: Float[Tensor, " words"]
    places: Int[Tensor, " text"]
    first: Int[Tensor, " words"]

    def kept(self, dtype: torch.dtype) -> Float[Tensor, " words"]:
        """How many of each word stay, on average."""
        return self.frequencies.to(dtype) * self.stays.to(dtype)

    def to(self, device: torch.device) -> "Text":
        """On the device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if name != "words"}
        return Text(self.words, **moved)


@dataclass(frozen=True)
class Cloze(Task):
    """Segments of ``length`` words from one text; the word at every position is due, given its neighbours.

    The text is the file at ``path``, in UTF-8, or, without one, Python's own documentation topics, which come with
    Python and differ a little from version to version. Its words are lower-cased. The ``vocabulary`` most frequent
    are kept, those equally frequent in alphabetical order, and every other is the word "<unknown>", token 0: a word
    like any other, to be told as well.

    With ``subsample`` = t frequent words are thinned out: a word whose share of the text is f stays with probability
    min(1, √(t/f)), drawn anew for every segment, and what stays closes up, so that windows reach further. Without it
    a segment is the text as it stands.

    The text is read as a circle, and of the words that stay each is as likely as any other to begin a segment; so at
    every position a word stands with exactly the share that it has of what stays, which is what the baseline reads.

    Segments of training, validation and test are drawn from the same text and overlap, as is usual where word vectors
    are what is wanted: loss and score say how well this text is told, not how well another would be.

    Source: Mikolov et al. 2013, arXiv:1301.3781; subsampling: arXiv:1310.4546, section 2.3, equation 5.
    Differs: rare words are one word, where word2vec's code drops them; that code lets words stay a little more often,
    with √(t/f) + t/f.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "text.txt")
    ...     _ = path.write_text("The cat sat on the mat. The dog sat on the cat.")
    ...     task = Cloze(str(path), length=6, vocabulary=4, subsample=None)
    ...     print(*task.words)
    <unknown> the cat on sat
    >>> batch = task.sample(1, torch.Generator().manual_seed(0))
    >>> print(*task.labels(batch)[0])
    cat sat on the <unknown> the
    >>> task.card.baseline.score == 4 / 12
    True
    """

    kind = "cloze"

    path: str | None = None
    length: int = 32
    vocabulary: int = 1500
    subsample: float | None = 1e-3

    def __post_init__(self) -> None:
        for name, least in (("length", 2), ("vocabulary", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.subsample is not None and self.subsample <= 0:
            raise ValueError(f"subsample must be greater than 0, or null for none; not {self.subsample}")
        if self.path is not None and not Path(self.path).is_file():
            raise ValueError(f"path must name a text file; there is none at '{self.path}'")

    @property
    def words(self) -> list[str]:
        """The words that the tokens stand for, in order."""
        return list(self._text.words)

    @property
    def inputs(self) -> Words:
        return self._space

    @property
    def outputs(self) -> Words:
        return self._space

    @cached_property
    def _space(self) -> Words:
        return Words(len(self._text.words), self._text.words, tuple(self._text.frequencies.tolist()))

    @cached_property
    def _text(self) -> Text:
        numbers: dict[str, int] = {}
        found = (match.group() for match in WORD.finditer(self._read().lower()))
        kinds = np.fromiter((numbers.setdefault(word, len(numbers)) for word in found), np.int64)
        if len(kinds) < self.length:
            raise ValueError(
                f"the text must hold at least length = {self.length} words; '{self.path}' has {len(kinds)}"
            )
        counts, names = np.bincount(kinds), list(numbers)
        known = sorted(range(len(names)), key=lambda kind: (-counts[kind], names[kind]))[: self.vocabulary]
        token_of = np.zeros(len(names), np.int64)
        token_of[known] = np.arange(1, len(known) + 1)
        words = (UNKNOWN, *(names[kind] for kind in known))
        tokens = torch.from_numpy(token_of[kinds])
        frequencies = torch.bincount(tokens, minlength=len(words))
        stays = torch.ones(len(words), dtype=torch.float32)  # whatever the default type is: batches hang on it
        if self.subsample is not None:
            stays = (self.subsample * len(tokens) / frequencies.float()).sqrt().clamp(max=1)
        first = frequencies.cumsum(0) - frequencies
        return Text(words, tokens, frequencies, stays, tokens.argsort(stable=True), first)

    def _read(self) -> str:
        if self.path is None:
            from pydoc_data.topics import topics

            return "\n".join(topics[name] for name in sorted(topics))
        try:
            return Path(self.path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"path must name a text in UTF-8; '{self.path}' is none") from error

    @cached_property
    def _placed(self) -> dict[torch.device, Text]:
        """The text on every device where it has been asked for."""
        return {}

    @cached_property
    def _stretch(self) -> int:
        """Of how many words a segment's length stays, on average."""
        return ceil(self.length * len(self._text.tokens) / float(self._text.kept(torch.float64).sum()))

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        device = generator.device
        if device not in self._placed:
            self._placed[device] = self._text.to(device)
        text = self._placed[device]
        draw: dict[str, Any] = {"generator": generator, "device": device, "dtype": torch.float32}
        word = torch.multinomial(text.kept(torch.float32), count, replacement=True, generator=generator)
        occurrence = (torch.rand(count, **draw) * text.frequencies[word]).long()
        place = text.places[text.first[word] + occurrence.minimum(text.frequencies[word] - 1)].unsqueeze(1)
        stays = torch.ones_like(place, dtype=torch.bool)
        stretch = torch.arange(1, 1 + self._stretch, device=device)
        while int(stays.sum(1).min()) < self.length:
            further = (place[:, -1:] + stretch) % len(text.tokens)
            place = torch.cat([place, further], 1)
            stays = torch.cat([stays, torch.rand(further.shape, **draw) < text.stays[text.tokens[further]]], 1)
        taken = stays & (stays.cumsum(1) <= self.length)
        inputs = text.tokens[place[taken]].view(count, self.length)
        return Batch(
            inputs,
            targets=inputs,
            scored=torch.ones_like(inputs, dtype=torch.bool),
            lengths=torch.full((count,), self.length, device=device),
        )

    def loss(self, outputs: Float[Tensor, "batch time size"], batch: Batch) -> Float[Tensor, "batch time"]:
        """The cross-entropy in nats."""
        losses = cross_entropy(outputs.flatten(0, 1), batch.targets.flatten(), reduction="none")
        return losses.view_as(batch.targets)

    def score(self, outputs: Float[Tensor, "batch time size"], batch: Batch) -> Float[Tensor, "batch time"]:
        """1 where the likeliest word is the right one, else 0."""
        return (outputs.argmax(2) == batch.targets).to(outputs.dtype)

    def lags(self, batch: Batch) -> Int[Tensor, " pieces"]:
        """1 for each scored position: the distance to its nearest neighbour."""
        return torch.ones_like(batch.inputs[batch.scored])

    def labels(self, batch: Batch) -> list[list[str]]:
        """The words, cut where they are long."""
        words = self._text.words
        short = [word if len(word) <= LONGEST_LABEL else f"{word[: LONGEST_LABEL - 1]}…" for word in words]
        return [[short[token] for token in sample] for sample in batch.inputs.tolist()]

    def describe(self) -> Mapping[str, Any]:
        text = self._text
        name = "Python's documentation topics" if self.path is None else Path(self.path).name
        unknown = int(text.frequencies[0]) / len(text.tokens)
        thinned = "" if self.subsample is None else f", frequent words thinned out at {self.subsample:g}"
        staying = text.kept(torch.float64)
        shares = staying / staying.sum()
        kept = "the text" if self.subsample is None else "what stays of the text"
        guess = Baseline(
            "the most frequent word",
            float(torch.special.entr(shares).sum()),
            float(shares.max()),
            f"the share of '{text.words[int(shares.argmax())]}' in {kept}; the loss is the entropy of its words",
        )
        return {
            "variant": f"{name}: {len(text.tokens)} words, {len(text.words) - 1} of them known, {unknown:.1%} of the "
            f"text unknown; segments of {self.length}{thinned}",
            "scored": f"all {self.length} positions",
            "score": "share of the words that are told right",
            "solved": 0.99,
            "baselines": (guess,),
        }
