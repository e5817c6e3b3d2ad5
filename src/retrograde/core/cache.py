"""Where what took long to make or to fetch is kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$RETROGRADE_CACHE, or retrograde/ in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("RETROGRADE_CACHE") or Path(home) / "retrograde")
