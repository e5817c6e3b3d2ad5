"""What lies near in word vectors: neighbours, analogies, and a file of them for a model's first layer.

    python analysis/vectors.py RUN --neighbours WORD
    python analysis/vectors.py RUN --analogy man king woman
    python analysis/vectors.py RUN --to FILE

RUN is the folder of a finished run of cbow or skipgram, or a file in word2vec's text format.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

import retrograde
from retrograde.core.contracts import Tokens
from retrograde.layers.word_vectors import Near, WordVectors


def vectors_of(source: Path) -> WordVectors:
    """The vectors of a run or of a file; raises ValueError where there are none."""
    if source.is_file():
        return WordVectors.load(source)
    run = retrograde.load(source)
    inputs, vectors = run.task.inputs, getattr(run.model, "vectors", None)
    if run.task.kind != "cloze" or not (isinstance(inputs, Tokens) and isinstance(vectors, Tensor)):
        raise ValueError(
            f"run {run.folder.run} is {run.metadata['model']} on {run.metadata['task']}: "
            "word vectors come of cbow and skipgram on cloze"
        )
    return WordVectors(inputs.symbols, vectors)


def listed(near: Near) -> str:
    """A line for each word, behind its similarity."""
    return "\n".join(f"{similarity:7.3f}  {word}" for word, similarity in near)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit code 1, with one line that says why, where what is asked for is not there."""
    options = parser().parse_args(arguments)
    try:
        vectors = vectors_of(options.source)
        if options.neighbours is not None:
            print(listed(vectors.neighbours(options.neighbours, options.count)))
        if options.analogy is not None:
            a, b, c = options.analogy
            print(listed(vectors.analogy(a, b, c, options.count)))
        if options.to is not None:
            vectors.save(options.to)
            print(f"{len(vectors.words)} vectors of {vectors.vectors.shape[1]} numbers in {options.to}")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description="Neighbours and analogies of word vectors, and a file of them")
    made.add_argument("source", metavar="RUN", type=Path, help="a run's folder, or a file in word2vec's text format")
    asked = made.add_mutually_exclusive_group(required=True)
    asked.add_argument("--neighbours", metavar="WORD", help="the words most similar to this one")
    asked.add_argument("--analogy", nargs=3, metavar=("A", "B", "C"), help="what is to C as B is to A")
    asked.add_argument("--to", type=Path, metavar="FILE", help="write the vectors there, in word2vec's text format")
    made.add_argument("--count", type=int, default=10, help="how many words to show (10)")
    return made


if __name__ == "__main__":
    sys.exit(main())
