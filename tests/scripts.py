"""Scripts of benchmarks/, loaded as the modules that they are when they run."""

import importlib
import io
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


def loaded(name: str) -> ModuleType:
    """The script of that name, which finds its neighbours as it does when it runs."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


def ran(script: ModuleType, *arguments: object) -> str:
    """What a script prints that is called with these arguments and succeeds; in this process, which is then as before.

    A process of its own would first load for longer than most of them take.
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("default")
            code = script.main([str(argument) for argument in arguments])
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
    assert code == 0, printed.getvalue()
    return printed.getvalue()
