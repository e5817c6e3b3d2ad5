"""A first layer from a file, matched by word or by row."""

from pathlib import Path

import pytest
import torch
from torch import nn

from retrograde.core.contracts import Reals, Tokens
from retrograde.core.words import UNKNOWN, Words
from retrograde.layers.pretrained import Pretrained
from retrograde.layers.word_vectors import WordVectors
from retrograde.models.transformer import Transformer
from retrograde.tasks.cloze import Cloze
from retrograde.tasks.temporal_order import TemporalOrder

SPACE = Words(4, (UNKNOWN, "the", "cat", "zebra"), (9, 5, 2, 1))


def written(path: Path, **vectors: list[float]) -> str:
    words = tuple(word.replace("unknown", UNKNOWN) for word in vectors)
    WordVectors(words, torch.tensor(list(vectors.values()))).save(path / "vectors.txt")
    return str(path / "vectors.txt")


def test_words_get_the_vectors_of_the_same_words_whatever_their_order(tmp_path: Path) -> None:
    file = written(tmp_path, cat=[1.0, 2.0], house=[9.0, 9.0], unknown=[7.0, 8.0], the=[3.0, 4.0])
    embedding = Pretrained(SPACE, file)
    assert embedding.width == 2
    assert embedding(torch.tensor([[0, 1, 2, 3]]))[0].tolist() == [[7, 8], [3, 4], [1, 2], [7, 8]]
    assert embedding.found == 3


def test_words_that_the_file_lacks_are_zero_where_it_has_no_unknown(tmp_path: Path) -> None:
    embedding = Pretrained(SPACE, written(tmp_path, cat=[1.0, 2.0]))
    assert embedding.vectors.tolist() == [[0, 0], [0, 0], [1, 2], [0, 0]]
    assert embedding.found == 1


def test_tokens_without_names_get_the_rows_in_their_order(tmp_path: Path) -> None:
    file = written(tmp_path, b=[1.0], a=[2.0])
    assert Pretrained(Tokens(2), file)(torch.tensor([[1, 0]])).tolist() == [[[2], [1]]]


def test_frozen_vectors_are_kept_and_others_learnt(tmp_path: Path) -> None:
    task = TemporalOrder(length=10)
    path = written(tmp_path, **{f"w{row}": torch.randn(3).tolist() for row in range(task.inputs.size)})
    batch = task.sample(4, torch.Generator().manual_seed(0))
    for frozen in (True, False):
        model = Transformer(
            task,
            hidden=8,
            layers=1,
            heads=2,
            feedforward=8,
            embedding=lambda space, f=frozen: Pretrained(space, path, f),
        )
        before = model.embedding.vectors.detach().clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        task.loss(model(batch), batch)[batch.scored].sum().backward()
        optimizer.step()
        assert torch.equal(model.embedding.vectors, before) == frozen
        assert isinstance(model.embedding.vectors, nn.Parameter) != frozen
        assert any("vectors" in name for name in model.state_dict())  # either way a checkpoint holds them


def test_they_take_the_model_s_precision(tmp_path: Path) -> None:
    embedding = Pretrained(Tokens(1), written(tmp_path, a=[1.0])).to(torch.bfloat16)
    assert embedding(torch.tensor([[0]])).dtype == torch.bfloat16


def test_vectors_of_a_text_fit_another_task_on_that_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a b c a b a d e f a b c")
    small, large = (Cloze(str(tmp_path / "text.txt"), length=4, vocabulary=size) for size in (2, 5))
    vectors = torch.randn(small.inputs.size, 3)
    WordVectors(tuple(small.words), vectors).save(tmp_path / "vectors.txt")
    embedding = Pretrained(large.inputs, str(tmp_path / "vectors.txt"))
    rows = [small.words.index(word) if word in small.words else 0 for word in large.words]
    assert torch.equal(embedding.vectors, vectors[rows])


def refused(space: Words | Tokens | Reals, path: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Pretrained(space, path)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    file = written(tmp_path, a=[1.0], b=[2.0], unknown=[3.0])
    refused(SPACE, None, "embedding.path must name a file of word vectors")
    refused(SPACE, str(tmp_path / "nowhere.txt"), "there is no file of word vectors at")
    refused(SPACE, file, "has none of the task's 4 words, such as 'zebra'")
    refused(Tokens(8), file, "must hold a vector for each of the 8; it holds 3")
    refused(Reals(2), file, "needs tokens, and this task's inputs are real numbers; onehot fits")
