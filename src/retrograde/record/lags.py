"""How far back a task asks a model to reach, from its card as it was recorded."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def lag_quantiles(card: Mapping[str, Any]) -> dict[str, int]:
    """Median, 90 % and largest of the lags that the task asks to bridge; empty where it names none."""
    if not card["lags"]:
        return {}
    lags, counts = np.asarray(card["lags"], dtype=int).T
    upto = counts.cumsum()
    shares = {"median": 0.5, "90 %": 0.9, "most": 1.0}
    at = {name: lags[np.searchsorted(upto, round(share * (upto[-1] - 1)), "right")] for name, share in shares.items()}
    return {name: int(lag) for name, lag in at.items()}
