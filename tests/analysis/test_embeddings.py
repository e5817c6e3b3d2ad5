"""Word vectors, on vectors made by hand, and on the planted text's run."""

from functools import partial
from pathlib import Path

import pytest
import torch

import planted
import retrograde
from fake_runs import Fake, write_run
from retrograde import RecorderSettings, TrainerSettings
from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.layers.word_vectors import WordVectors
from retrograde.models.cbow import CBOW
from retrograde.record.store import FolderStore
from retrograde.tasks.cloze import Cloze

NOUNS = ("cat", "dog", "tree", "house")
FILLERS = tuple(f"filler{number:02d}" for number in range(36))
WORDS = (*NOUNS, *(f"{noun}s" for noun in NOUNS), *FILLERS)


def cloze(model: str, seed: int = 0, **changes) -> Fake:
    config = {"model": {"_target_": model, "window": 1}, "task": {"_target_": "retrograde.tasks.cloze.Cloze"}}
    return Fake(model, seed, task="cloze", config=config, **changes)


def regular() -> WordVectors:
    """Every plural is its noun and one more direction; fillers lie between a noun and nothing in particular.

    Eleven fillers are nearer to each noun than its plural is, so that only the direction leads there.
    """
    vectors = torch.zeros(len(WORDS), 64)
    for place in range(4):
        vectors[place, place] = vectors[4 + place, place] = 1
        vectors[4 + place, 4] = 2
    for place in range(36):
        noun = place % 3
        vectors[8 + place, noun], vectors[8 + place, 8 + place] = 1, 0.3
    return WordVectors(WORDS, vectors)


def shuffled(seed: int) -> WordVectors:
    return WordVectors(WORDS, torch.randn(len(WORDS), 64, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture
def load(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The tables of these runs, whose vectors are what ``given`` says by model; the text is as ``regular`` has it."""

    def load(*fakes: Fake, given):
        folders = {write_run(tmp_path, fake).path: fake for fake in fakes}
        embeddings = script("embeddings")

        def learnt(folder: Path):
            vectors = given[folders[folder].model]
            if isinstance(vectors, str):
                raise ValueError(vectors)
            return embeddings.Learnt(vectors, regular())

        monkeypatch.setattr(embeddings, "learnt", learnt)
        (comparison,), _ = comparisons(FolderStore(tmp_path))
        return embeddings.load(comparison)

    return load


def test_vectors_that_are_as_the_text_share_all_neighbours(script, load):
    numbers = load(cloze("cbow"), given={"cbow": regular()})[NUMBERS].iloc[0]
    assert numbers["nearest words that counting finds"] == 1
    assert numbers["by chance"] == pytest.approx(10 / 43)
    assert numbers["analogies"] == 12


def test_analogies_are_right_where_differences_are_alike(script, load):
    """A difference leads to all plurals; alone, three of four nouns have twelve fillers nearer than their plural."""
    numbers = load(cloze("cbow"), given={"cbow": regular()})[NUMBERS].iloc[0]
    assert numbers["analogies right"] == 1
    assert numbers["right by neighbours alone"] == 1 / 4


def test_what_comes_out_as_theory_says_is_said(script, load):
    said = script("embeddings").finding(load(cloze("cbow"), cloze("cbow", 1), given={"cbow": regular()}))
    assert said == (
        "As theory says: of the 10 nearest words counting finds cbow's 100 % (100 to 100 %) (chance 23 %); of the "
        "analogies cbow's 100 % (100 to 100 %) are right, by neighbours alone 25 % (n = 2)"
    )


def test_what_does_not_is_said_too(script, load):
    given = {"cbow": regular(), "skipgram": shuffled(0)}
    said = script("embeddings").finding(load(cloze("cbow"), cloze("skipgram"), given=given))
    assert said.startswith("Against theory skipgram's nearest words are by chance: of the 10 nearest")


def test_a_run_without_weights_is_named(script, load):
    given = {"cbow": regular(), "skipgram": "its weights are not there"}
    tables = load(cloze("cbow"), cloze("skipgram"), given=given)
    assert "there are no vectors of skipgram" in script("embeddings").finding(tables)
    assert "has no vectors: its weights are not there." in script("embeddings").caption(tables)
    assert len(script("embeddings").draw(tables).axes) == 4


def test_no_weights_at_all_have_no_answer(load):
    with pytest.raises(NothingToDraw, match="no run holds its weights: its weights are not there"):
        load(cloze("cbow"), given={"cbow": "its weights are not there"})


def test_another_task_has_none(load):
    with pytest.raises(NothingToDraw, match="task=cloze model=cbow,skipgram"):
        load(Fake("elman"), given={})


def test_the_map_keeps_distances_that_are_in_a_plane(script):
    """Four words in a square: the axes are its own, and hold all of the variance."""
    square = WordVectors(("ab", "ac", "ad", "ae"), torch.tensor([[1.0, 1, 9], [1, -1, 9], [-1, 1, 9], [-1, -1, 9]]))
    table = script("embeddings").flat(square, [])
    places = torch.tensor(table[["x", "y"]].to_numpy())
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(square.unit, square.unit).double())
    assert table["share x"][0] + table["share y"][0] == pytest.approx(1)


def test_every_pair_is_joined_and_every_run_a_mark(script, load):
    tables = load(
        cloze("cbow"), cloze("cbow", 1), cloze("skipgram"), given={"cbow": regular(), "skipgram": shuffled(0)}
    )
    figure = script("embeddings").draw(tables)
    maps = [axes for axes in figure.axes if axes.get_title(loc="left") in ("cbow", "skipgram")]
    assert [sum(len(line.get_xdata()) == 2 for line in axes.lines) for axes in maps] == [4, 4]
    assert {text.get_text() for text in maps[1].texts} >= {"cat", "cats"}
    left = figure.axes[-2]
    assert sum(len(line.get_xdata()) for line in left.lines if line.get_marker() == "o") == 3


def test_neighbours_are_counted_to_both_sides(script, tmp_path: Path):
    """In "a b a b …" each stands beside the other alone, and two away from itself."""
    (tmp_path / "text.txt").write_text("a b " * 40)
    task = Cloze(str(tmp_path / "text.txt"), length=4, vocabulary=2, subsample=None)
    one, two = (script("embeddings").counts(task, window)[1:, 1:] for window in (1, 2))
    assert one.diagonal().tolist() == [0, 0] and one[0, 1] == one[1, 0] > 0
    assert (two.diagonal() > 0).all()


def test_a_run_gives_its_vectors_and_the_text_its_neighbours(script, tmp_path: Path):
    """Counting finds the planted groups whatever the vectors have learnt in two steps."""
    run = retrograde.fit(
        partial(CBOW, hidden=8, window=1),
        Cloze(planted.write(tmp_path / "planted.txt"), length=30, subsample=None),
        steps=2,
        optimizer=partial(torch.optim.Adam, lr=0.03),
        probes={},
        outputs=tmp_path,
        recorder=RecorderSettings(mode="disabled"),
        trainer=TrainerSettings(accelerator="cpu", validate_every=2, validation_samples=8, test_samples=8),
        progress=False,
    )
    found = script("embeddings").learnt(run.folder.path)
    assert len(found.vectors.words) == 80 and found.vectors.vectors.shape == (80, 8)
    near = {word for word, _ in found.counted.neighbours("word3a", 3)}
    assert near == {"word3b", "word3c", "word3d"}
