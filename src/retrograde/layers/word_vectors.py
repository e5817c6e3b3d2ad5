r"""Vectors with the words that they stand for: what lies near, analogies, and word2vec's text format.

    similarity    cos(a, b) = a · b / (‖a‖ ‖b‖); 0 where either is zero
    analogy       a is to b as c is to d: the d nearest to b/‖b‖ - a/‖a‖ + c/‖c‖, none of the three itself

The format is a line ``words width`` and then a line for each word: the word and its numbers, between single spaces.

Source: Mikolov et al. 2013, arXiv:1301.3781, section 4; unit vectors: word2vec's code.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TextIO

import torch
from jaxtyping import Float
from torch import Tensor

from retrograde.core.choices import nearest, require_at_least

Near = list[tuple[str, float]]
"""Words with their cosine similarities, the most similar first."""


@dataclass(frozen=True)
class WordVectors:
    """``words[i]`` is row i of ``vectors``."""

    words: tuple[str, ...]
    vectors: Float[Tensor, "words width"]

    def __post_init__(self) -> None:
        if len(self.words) != len(self.vectors):
            raise ValueError(f"{len(self.words)} words need as many vectors, not {len(self.vectors)}")
        if len(self.rows) != len(self.words):
            twice = next(word for row, word in enumerate(self.words) if self.rows[word] != row)
            raise ValueError(f"every word may have one vector; '{twice}' has several")

    @cached_property
    def rows(self) -> dict[str, int]:
        """Each word's row."""
        return {word: row for row, word in enumerate(self.words)}

    @cached_property
    def unit(self) -> Float[Tensor, "words width"]:
        """The vectors at length 1; a zero stays zero."""
        return torch.nn.functional.normalize(self.vectors, dim=1, eps=torch.finfo(self.vectors.dtype).tiny)

    def row(self, word: str) -> int:
        """The word's row; raises ValueError, with the nearest spellings, for a word that is not there."""
        if word not in self.rows:
            raise ValueError(f"no vector for the word '{word}'{nearest(word, self.words)}")
        return self.rows[word]

    def similarity(self, one: str, other: str) -> float:
        """The cosine of the angle between two words' vectors."""
        return float(self.unit[self.row(one)] @ self.unit[self.row(other)])

    def neighbours(self, word: str, count: int = 10) -> Near:
        """The words most similar to this one, itself left out."""
        return self._near(self.unit[self.row(word)], [word], count)

    def analogy(self, a: str, b: str, c: str, count: int = 10) -> Near:
        """What is to ``c`` as ``b`` is to ``a``: (man, king, woman) asks for queen."""
        rows = [self.row(word) for word in (a, b, c)]
        return self._near(self.unit[rows[1]] - self.unit[rows[0]] + self.unit[rows[2]], (a, b, c), count)

    def _near(self, vector: Float[Tensor, " width"], without: Collection[str], count: int) -> Near:
        require_at_least("count", count, 1)
        similarities = self.unit @ (vector / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny))
        order = similarities.argsort(descending=True, stable=True).tolist()
        found = [row for row in order[: count + len(set(without))] if self.words[row] not in without]
        return [(self.words[row], float(similarities[row])) for row in found[:count]]

    def save(self, path: Path | str) -> None:
        """In word2vec's text format, with as many digits as give the same numbers back."""
        unfit = next((word for word in self.words if not word or word.split() != [word]), None)
        if unfit is not None:
            raise ValueError(f"the format divides words by spaces and lines: {unfit!r} cannot be written in it")
        precision = 1 - math.log2(torch.finfo(self.vectors.dtype).eps)  # bits of the significand
        digits = math.ceil(1 + precision * math.log10(2))
        with Path(path).open("w", encoding="utf-8") as file:
            file.write(f"{len(self.words)} {self.vectors.shape[1]}\n")
            for word, vector in zip(self.words, self.vectors.tolist(), strict=True):
                file.write(f"{word} {' '.join(f'{number:.{digits}g}' for number in vector)}\n")

    @classmethod
    def load(cls, path: Path | str, words: Collection[str] | None = None) -> "WordVectors":
        """The vectors of a file in that format, in torch's default type; of some ``words`` alone, where it has them.

        Raises ValueError, naming the file and the line, for a file that is missing or in another format.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"there is no file of word vectors at '{path}'")
        try:
            with path.open(encoding="utf-8") as file:
                count, width = _header(file, path)
                lines = list(_lines(file, path, width, words))
        except UnicodeDecodeError as error:
            raise ValueError(f"'{path}' is no text in UTF-8; the binary format is not read") from error
        if words is None and len(lines) != count:
            raise ValueError(f"'{path}' says that it holds {count} words and holds {len(lines)}")
        vectors = torch.tensor([numbers for _, numbers in lines]).view(len(lines), width)
        return cls(tuple(word for word, _ in lines), vectors)


def _header(file: TextIO, path: Path) -> tuple[int, int]:
    parts = file.readline().split()
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise ValueError(
            f"'{path}' must open with a line 'words width' of two whole numbers, as word2vec's text has it"
        )
    return int(parts[0]), int(parts[1])


def _lines(
    file: TextIO, path: Path, width: int, words: Collection[str] | None
) -> Iterator[tuple[str, Sequence[float]]]:
    """Each word with its numbers; those of others are not even read as numbers, of which large files have many."""
    for number, line in enumerate(file, 2):
        word, *parts = line.rstrip().split(" ")
        if words is not None and word not in words:
            continue
        try:
            numbers = [float(part) for part in parts]
        except ValueError:
            numbers = []
        if len(numbers) != width:
            raise ValueError(f"'{path}', line {number}: needs a word and {width} numbers, between single spaces")
        yield word, numbers
