"""Every model of ``conf/model`` trains, is probed and recorded on the tasks that it fits, found in ``conf/task``."""

from pathlib import Path

import numpy as np
import pytest
from members import chosen, kinds, stems, task_kind

from retrograde.core.choices import Unavailable
from retrograde.probes.state_gradient import StateGradient
from retrograde.record.store import FolderStore
from retrograde.train.fit import fit
from retrograde.train.options import ProbingSettings, RecorderSettings, TrainerSettings

SMALL = {
    "adding": ("task.length=8",),
    "copying": ("task.length=4",),
    "temporal_order": ("task.length=10",),
    "reverse": ("task.longest=8",),
    "pathfinder": ("task.size=24",),
    "tag_code": ("task.length=64",),
    "language_model": ("task.length=32",),
    "induction": ("task.test_length=80",),
    "state_tracking": ("task.test_length=30",),
    **dict.fromkeys(("parity", "cycle_navigation", "modular_arithmetic", "dyck"), ("task.test_longest=60",)),
}
"""Shorter sequences than the tasks' own."""

OWN = {"lstm_chrono": ("model.t_max=8",)}
"""What a model has to be told where a task does not say how far back it asks to reach."""

FIRST = {"aligned": "adding", "transduce": "reverse", "cloze": "cloze"}
"""The task of each kind that every model is tried on, where there is not time for all of them."""

QUICK = TrainerSettings(
    log_every=2, validate_every=2, validation_samples=8, test_samples=8, longer_samples=4, accelerator="cpu"
)


def trained(stem: str, task: str, folder: Path) -> None:
    """Two steps from the configurations as they stand, and what they leave."""
    try:
        run = fit(
            chosen("model", stem, "width=8", *OWN.get(stem, ())),
            chosen("task", task, *SMALL.get(task, ())),
            probes={"state_gradient": StateGradient()},
            steps=2,
            batch_size=4,
            trainer=QUICK,
            probing=ProbingSettings(samples=3, share=None),
            recorder=RecorderSettings(mode="disabled"),
            outputs=folder,
            progress=False,
        )
    except Unavailable as error:
        pytest.skip(str(error))
    store = FolderStore(run.folder.path)
    (recorded,) = store.runs().to_dict("records")
    assert recorded["status"] == "finished" and np.isfinite(recorded["score"])
    totals = store.readings("state_gradient/total")
    if not recorded["learns"]:
        assert totals.empty and recorded["steps"] == 0
        return
    assert set(totals["step"]) == {0, 1, 2}
    assert len(totals) and not (totals["status"] == "nan").any()
    assert not totals["value"].isna().any()
    reached = totals[totals["status"] == "finite"]
    assert set(reached["layer"]) == set(totals["layer"]), "a layer that the loss is never felt at"


@pytest.mark.heavy
@pytest.mark.parametrize("stem", stems("model"))
def test_a_model_trains_on_a_task_of_each_kind_that_it_fits(stem: str, tmp_path: Path) -> None:
    assert set(kinds(stem)) <= set(FIRST)
    for kind in kinds(stem):
        trained(stem, FIRST[kind], tmp_path)


def test_every_kind_of_task_has_one_that_models_are_tried_on() -> None:
    assert {task_kind(stem) for stem in stems("task")} == set(FIRST)
    assert all(task_kind(stem) == kind for kind, stem in FIRST.items())


@pytest.mark.slow
@pytest.mark.parametrize("task", stems("task"))
@pytest.mark.parametrize("stem", stems("model"))
def test_a_model_trains_on_every_task_that_it_fits(stem: str, task: str, tmp_path: Path) -> None:
    if task_kind(task) not in kinds(stem):
        pytest.skip(f"{stem} is made for {' and '.join(kinds(stem))}, {task} is of kind {task_kind(task)}")
    trained(stem, task, tmp_path)
