"""Word vectors by hand in two dimensions, and their file format against its definition and gensim."""

import math
from pathlib import Path

import pytest
import torch

from retrograde.layers.word_vectors import WordVectors

# angles in degrees, and lengths that must not matter
PLANE = {"north": (90, 1.0), "east": (0, 3.0), "northeast": (45, 0.1), "west": (180, 2.0), "almost_east": (1, 7.0)}


@pytest.fixture
def plane() -> WordVectors:
    rows = [
        (size * math.cos(math.radians(angle)), size * math.sin(math.radians(angle))) for angle, size in PLANE.values()
    ]
    return WordVectors(tuple(PLANE), torch.tensor(rows, dtype=torch.float64))


def test_similarity_is_the_cosine_of_the_angle(plane: WordVectors) -> None:
    assert plane.similarity("north", "northeast") == pytest.approx(math.sqrt(0.5))
    assert plane.similarity("east", "west") == pytest.approx(-1)
    assert plane.similarity("east", "east") == pytest.approx(1)


def test_neighbours_come_by_angle_without_the_word_itself(plane: WordVectors) -> None:
    near = plane.neighbours("east", 3)
    assert [word for word, _ in near] == ["almost_east", "northeast", "north"]
    assert [similarity for _, similarity in near] == pytest.approx(
        [math.cos(math.radians(angle)) for angle in (1, 45, 90)]
    )
    assert len(plane.neighbours("east", 99)) == 4


def test_a_zero_vector_is_like_nothing() -> None:
    vectors = WordVectors(("a", "nothing"), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert vectors.similarity("a", "nothing") == 0
    assert vectors.neighbours("nothing") == [("a", 0.0)]


def test_analogies_by_hand() -> None:
    """man + royal = king: queen is reached, though king itself is nearer to what is asked for."""
    vectors = WordVectors(
        ("man", "woman", "king", "queen", "apple"),
        torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 4], [0, 1, 4], [-1, -1, -1]], dtype=torch.float64),
    )
    assert [word for word, _ in vectors.analogy("man", "king", "woman", 2)] == ["queen", "apple"]
    root = math.sqrt(17)
    asked = (1 / root - 1, 1, 4 / root)
    expected = (asked[1] + 4 * asked[2]) / (root * math.sqrt(sum(number**2 for number in asked)))
    assert vectors.analogy("man", "king", "woman", 1)[0][1] == pytest.approx(expected)


def test_an_analogy_of_a_word_with_itself_gives_the_neighbours(plane: WordVectors) -> None:
    assert plane.analogy("north", "north", "east", 2) == [
        (word, pytest.approx(similarity)) for word, similarity in plane.neighbours("east", 3)[:2]
    ]


def test_the_file_is_word2vecs_text(tmp_path: Path) -> None:
    WordVectors(("a", "ü"), torch.tensor([[1.0, -0.5, 0.1], [0.0, 1e-20, 3.0]])).save(tmp_path / "v.txt")
    lines = (tmp_path / "v.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "2 3"
    assert [line.split(" ")[0] for line in lines[1:]] == ["a", "ü"]
    assert lines[1].startswith("a 1 -0.5 0.1")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_was_saved_comes_back_to_the_last_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    vectors = WordVectors(("a", "b", "c"), torch.randn(3, 50, dtype=dtype) * 1e-3)
    vectors.save(tmp_path / "v.txt")
    torch.set_default_dtype(dtype)
    try:
        back = WordVectors.load(tmp_path / "v.txt")
    finally:
        torch.set_default_dtype(torch.float32)
    assert back.words == vectors.words
    assert torch.equal(back.vectors, vectors.vectors)


def test_some_words_alone_are_read(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("3 2\na 1 2 \nb no number\nc 5 6\n")  # word2vec ends its lines with a space
    some = WordVectors.load(tmp_path / "v.txt", {"c", "a", "elsewhere"})
    assert some.words == ("a", "c")
    assert some.vectors.tolist() == [[1, 2], [5, 6]]
    assert WordVectors.load(tmp_path / "v.txt", {"elsewhere"}).vectors.shape == (0, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("the 0.1 0.2\n", "must open with a line 'words width'"),
        ("", "must open with a line 'words width'"),
        ("1 2\na 1 2 3\n", "line 2: needs a word and 2 numbers"),
        ("2 2\na 1 2\nb 1 x\n", "line 3: needs a word and 2 numbers"),
        ("3 2\na 1 2\nb 1 2\n", "says that it holds 3 words and holds 2"),
        ("2 2\na 1 2\na 1 2\n", "every word may have one vector; 'a' has several"),
    ],
)
def test_files_that_are_something_else_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "v.txt").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        WordVectors.load(tmp_path / "v.txt")
    assert "\n" not in str(caught.value)


def test_a_missing_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file of word vectors at"):
        WordVectors.load(tmp_path / "nowhere.txt")
    (tmp_path / "v.bin").write_bytes(b"2 2\na \xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="the binary format is not read"):
        WordVectors.load(tmp_path / "v.bin")


def test_unknown_words_are_refused_with_the_nearest_spellings(plane: WordVectors) -> None:
    with pytest.raises(ValueError, match="no vector for the word 'norht'; did you mean 'north'"):
        plane.neighbours("norht")


def test_words_that_the_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    for word in ("two words", "", "line\n"):
        with pytest.raises(ValueError, match="cannot be written in it"):
            WordVectors((word,), torch.zeros(1, 2)).save(tmp_path / "v.txt")


def test_words_and_vectors_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="2 words need as many vectors, not 3"):
        WordVectors(("a", "b"), torch.zeros(3, 2))


def test_gensim_reads_the_file_and_finds_the_same(tmp_path: Path) -> None:
    models = pytest.importorskip("gensim.models")
    words = tuple(f"word{number}" for number in range(40))
    ours = WordVectors(words, torch.randn(40, 6, generator=torch.Generator().manual_seed(0)))
    ours.save(tmp_path / "ours.txt")
    theirs = models.KeyedVectors.load_word2vec_format(str(tmp_path / "ours.txt"))
    for asked, answer in (
        (ours.neighbours("word3", 5), theirs.most_similar("word3", topn=5)),
        (
            ours.analogy("word1", "word2", "word3", 5),
            theirs.most_similar(positive=["word2", "word3"], negative=["word1"], topn=5),
        ),
    ):
        assert asked == [(word, pytest.approx(similarity, abs=1e-6)) for word, similarity in answer]
    theirs.save_word2vec_format(str(tmp_path / "theirs.txt"))
    back = WordVectors.load(tmp_path / "theirs.txt")
    assert back.words == words
    assert torch.equal(back.vectors, ours.vectors)
