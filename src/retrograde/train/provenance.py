"""What a run was made with: versions of the packages and of the code."""

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("retrograde", "torch", "pytorch-lightning", "hydra-core", "wandb", "numpy", "pandas", "pyarrow")


@cache
def provenance() -> dict[str, Any]:
    """Versions, and the commit of a source checkout: with a ``+`` where files had been changed, None elsewhere."""
    versions = {package: version(package) for package in PACKAGES} | {"python": platform.python_version()}
    return {"versions": versions, "commit": commit()}


def commit() -> str | None:
    """The commit of the checkout that this file belongs to."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
        tracked = subprocess.run(["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    # a package installed below somebody else's checkout is not described by its commit
    return described.stdout.strip() if tracked.returncode == 0 else None
