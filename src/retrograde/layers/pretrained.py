"""A first layer of word vectors that were trained before (``model/embedding=pretrained`` on the command line)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retrograde.core.contracts import Space, Tokens
from retrograde.core.words import UNKNOWN, Words
from retrograde.layers.embedding import Embedding
from retrograde.layers.word_vectors import WordVectors


class Pretrained(Embedding):
    """Each token's vector from a file in word2vec's text format, kept as it is (``frozen``) or trained further.

    Where the task's tokens are words, a token's vector is that of the same word. A word that the file does not have
    gets the vector of "<unknown>", which stood for every rare word when the file was made, or zeros where the file has
    not even that; ``found`` counts the words that it has. Where tokens are numbers alone, token i is row i of the file,
    which must have as many rows as there are tokens.

    Raises ValueError for a file that is missing or does not fit, and where inputs are real numbers.
    """

    vectors: Tensor

    def __init__(self, space: Space, path: str | None = None, frozen: bool = True) -> None:
        super().__init__()
        if not isinstance(space, Tokens):
            raise ValueError("embedding=pretrained needs tokens, and this task's inputs are real numbers; onehot fits")
        if path is None:
            raise ValueError(
                "embedding.path must name a file of word vectors; 'analysis/vectors.py RUN --to FILE' writes one"
            )
        if isinstance(space, Words):
            self.found, vectors = _by_word(space, path)
        else:
            self.found, vectors = space.size, _by_row(space, path)
        if frozen:
            self.register_buffer("vectors", vectors)
        else:
            self.vectors = nn.Parameter(vectors)

    @property
    def width(self) -> int:
        return self.vectors.shape[1]

    def forward(
        self, inputs: Float[Tensor, "batch time size"] | Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time width"]:
        return nn.functional.embedding(inputs, self.vectors)


def _by_word(space: Words, path: str) -> tuple[int, Float[Tensor, "words width"]]:
    """How many of the words the file has, and the vectors of all."""
    there = WordVectors.load(path, {UNKNOWN, *space.symbols})
    found = [word for word in space.symbols if word in there.rows]
    if not set(found) - {UNKNOWN}:
        raise ValueError(f"'{path}' has none of the task's {space.size} words, such as '{space.symbols[-1]}'")
    vectors = torch.zeros(space.size, there.vectors.shape[1])
    if UNKNOWN in there.rows:
        vectors[:] = there.vectors[there.rows[UNKNOWN]]
    rows = {word: row for row, word in enumerate(space.symbols)}
    vectors[[rows[word] for word in found]] = there.vectors[[there.rows[word] for word in found]]
    return len(found), vectors


def _by_row(space: Tokens, path: str) -> Float[Tensor, "words width"]:
    vectors = WordVectors.load(path).vectors
    if len(vectors) != space.size:
        raise ValueError(
            f"the task's tokens have no names, so that '{path}' must hold a vector for each of the {space.size}; "
            f"it holds {len(vectors)}"
        )
    return vectors
