from pathlib import Path

import pytest

from fake_runs import Fake, write_run
from retrograde.figures.comparison import Comparison, comparisons
from retrograde.record.store import FolderStore


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """Two seeds of an LSTM and one of an Elman network."""
    for seed in range(2):
        write_run(tmp_path, Fake("lstm", seed, components=("hidden", "cell")))
    write_run(tmp_path, Fake("elman", solved=False, keeps=(0.5, 0.5)))
    found, _ = comparisons(FolderStore(tmp_path))
    return found[0]
