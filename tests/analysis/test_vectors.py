"""The command over word vectors, on a run that was trained for it and on files."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import planted
import retrograde
from retrograde import RecorderSettings, Run, TrainerSettings
from retrograde.core.contracts import Task
from retrograde.layers.word_vectors import WordVectors
from retrograde.models.cbow import CBOW
from retrograde.models.elman import elman
from retrograde.tasks.adding import Adding
from retrograde.tasks.cloze import Cloze


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    outputs = tmp_path_factory.mktemp("runs")
    settings = TrainerSettings(accelerator="cpu", validate_every=150, validation_samples=16, test_samples=16)

    def train(model: object, task: Task, steps: int) -> Run:
        return retrograde.fit(
            model,
            task,
            steps=steps,
            optimizer=partial(torch.optim.Adam, lr=0.03),
            probes={},
            outputs=outputs,
            recorder=RecorderSettings(mode="disabled"),
            trainer=settings,
            progress=False,
        )

    return train


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory: pytest.TempPathFactory) -> Run:
    text = planted.write(tmp_path_factory.mktemp("text") / "planted.txt")
    return trained(partial(CBOW, hidden=16, window=1), Cloze(text, length=30, subsample=None), 150)


def said(script, capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert script("vectors").main([str(argument) for argument in arguments]) == code
    output = capsys.readouterr()
    return output.err if code else output.out


def test_neighbours_of_a_run_are_the_planted_ones(script, run: Run, capsys) -> None:
    lines = said(script, capsys, run.folder.path, "--neighbours", "word3a", "--count", 3).splitlines()
    assert {line.split()[1] for line in lines} == {"word3b", "word3c", "word3d"}
    assert all(0.5 < float(line.split()[0]) <= 1 for line in lines)


def test_analogies_of_a_run_are_those_of_its_vectors(script, run: Run, capsys) -> None:
    words = ("before2x", "word2a", "before3x")
    lines = said(script, capsys, run.folder.path, "--analogy", *words).splitlines()
    expected = WordVectors(tuple(run.task.words), run.model.vectors).analogy(*words)
    assert [(word, f"{similarity:.3f}") for word, similarity in expected] == [
        (word, number) for number, word in (line.split() for line in lines)
    ]
    assert len(lines) == 10


def test_what_is_written_is_what_the_run_has_and_can_be_asked_as_well(script, run: Run, tmp_path: Path, capsys) -> None:
    file = tmp_path / "vectors.txt"
    assert said(script, capsys, run.folder.path, "--to", file) == f"81 vectors of 16 numbers in {file}\n"
    back = WordVectors.load(file)
    assert list(back.words) == run.task.words
    assert torch.equal(back.vectors, run.model.vectors)
    ask = ("--neighbours", "word0b")
    assert said(script, capsys, file, *ask) == said(script, capsys, run.folder.path, *ask)


def test_what_is_not_there_is_said_in_one_line(script, run: Run, trained, tmp_path: Path, capsys) -> None:
    other = trained(partial(elman, hidden=4), Adding(length=5), 2)
    for source, asked, expected in (
        (run.folder.path, ("--neighbours", "word3"), "no vector for the word 'word3'; did you mean"),
        (other.folder.path, ("--neighbours", "a"), "word vectors come of cbow and skipgram on cloze"),
        (tmp_path, ("--neighbours", "a"), "run.json cannot be read"),
        (run.folder.path, ("--to", tmp_path / "no" / "where.txt"), "No such file or directory"),
    ):
        answer = said(script, capsys, source, *asked, code=1)
        assert expected in answer and answer.count("\n") == 1


def test_it_is_a_tool_and_no_question_of_the_report(script) -> None:
    sys.modules["report"] = script("report")  # where its dataclasses look for their module
    assert "vectors" not in script("report").questions()
