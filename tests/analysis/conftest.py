from pathlib import Path
from types import ModuleType

import pytest

from retrograde.figures.question import imported

SCRIPTS = Path(__file__).parents[2] / "analysis"


@pytest.fixture(scope="session")
def script():
    """A script of ``analysis/`` by its stem, as a module."""
    loaded: dict[str, ModuleType] = {}

    def load(stem: str) -> ModuleType:
        if stem not in loaded:
            loaded[stem] = imported(SCRIPTS / f"{stem}.py")
        return loaded[stem]

    return load
