"""The figure of what a target feels of its source, from a run of two steps and from norms by hand."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from retrograde.figures.comparison import NUMBERS, NothingToDraw, comparisons
from retrograde.layers.scores.dot import Dot
from retrograde.layers.windows.global_ import Global
from retrograde.models.lstm import lstm
from retrograde.models.seq2seq import seq2seq
from retrograde.models.seq2seq_luong import seq2seq_luong
from retrograde.probes.attention import Attention
from retrograde.probes.source_gradient import SourceGradient
from retrograde.record.store import FolderStore
from retrograde.tasks.adding import Adding
from retrograde.tasks.reverse import Reverse
from retrograde.train.fit import fit
from retrograde.train.options import ProbingSettings, RecorderSettings, TrainerSettings


def trained(outputs: Path, model, task) -> None:
    fit(
        model,
        task,
        probes={"source_gradient": SourceGradient(), "attention": Attention()},
        steps=2,
        batch_size=4,
        trainer=TrainerSettings(validate_every=2, validation_samples=4, test_samples=4),
        probing=ProbingSettings(samples=2, share=None),
        recorder=RecorderSettings(mode="disabled"),
        outputs=outputs,
        progress=False,
    )


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory):
    outputs = tmp_path_factory.mktemp("outputs")
    task = Reverse(symbols=3, shortest=3, longest=5)
    side = partial(lstm, hidden=4)
    trained(outputs, partial(seq2seq_luong, encoder=side, decoder=side, score=Dot, window=Global), task)
    trained(outputs, partial(seq2seq, encoder=side, decoder=side), task)
    (found,), _ = comparisons(FolderStore(outputs))
    return found


def test_a_run_with_attention_has_its_map_beside_the_gradient(script, comparison) -> None:
    module = script("source_gradient")
    tables = module.load(comparison)
    shown = tables["maps"].groupby("model", observed=True)["shown"].unique().map(set).to_dict()
    assert shown["seq2seq_luong"] == {"before", "after", "attention, after"}
    assert shown["seq2seq"] == {"before", "after"}
    rows = tables["maps"].groupby(["model", "shown", "target"], observed=True)["value"].max()
    np.testing.assert_allclose(rows, 1)
    finding = module.finding(tables)
    assert "of seq2seq's targets, the one that attention looks at most for" in finding
    assert set(tables[NUMBERS]["model"]) == {"seq2seq", "seq2seq_luong"}
    figure = module.draw(tables)
    titles = [axes.get_title(loc="center") for axes in figure.axes[:3]]
    assert titles == ["gradient, before", "gradient, after", "attention, after"]
    assert not figure.axes[2].axison and "first seed" in module.caption(tables)


def test_components_and_directions_of_the_top_layer_are_one_norm(script) -> None:
    rows = [
        ("encoder0.forward", 0, 9.0),
        ("encoder1.forward", 0, np.log10(3.0)),
        ("encoder1.backward", 0, np.log10(4.0)),
        ("encoder1.forward", 1, np.log10(5.0)),
    ]
    norms = pd.DataFrame(rows, columns=["layer", "time", "value"]).assign(model="m", when="after", target=0)
    made = script("source_gradient")._of_top_layer(norms)
    np.testing.assert_allclose(made["value"], 1)  # 3 and 4 together are 5, the largest single one
    assert list(made["time"]) == [0, 1]


def test_runs_on_one_sequence_have_nothing_to_draw(script, tmp_path: Path) -> None:
    trained(tmp_path, partial(lstm, hidden=4), Adding(length=4))
    (found,), _ = comparisons(FolderStore(tmp_path))
    with pytest.raises(NothingToDraw, match="source_gradient/norm"):
        script("source_gradient").load(found)
