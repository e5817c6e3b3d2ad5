import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "analysis"


@pytest.fixture(scope="session")
def script():
    """A script of ``analysis/`` by its stem, as a module."""
    loaded: dict[str, ModuleType] = {}

    def load(stem: str) -> ModuleType:
        if stem not in loaded:
            spec = importlib.util.spec_from_file_location(stem, SCRIPTS / f"{stem}.py")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            loaded[stem] = module
        return loaded[stem]

    return load
