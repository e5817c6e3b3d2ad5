"""Numbers as colours, without a drawing library in the loop: one look-up, four milliseconds a picture."""

from functools import cache

import numpy as np

ANCHORS = ((13, 8, 65), (70, 20, 140), (150, 45, 130), (225, 95, 80), (250, 175, 70), (252, 250, 190))
"""Dark to light with steadily rising lightness, so that the order survives in grey and for the colour-blind."""

BELOW, ABOVE, NONE = (0, 0, 0), (255, 255, 255), (128, 128, 128)
"""Minus infinity, plus infinity, and what is no number or was not measured."""


def coloured(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Eight-bit red, green, blue of each value, ``low`` darkest and ``high`` lightest."""
    span = high - low if high > low else 1.0
    finite = np.isfinite(values)
    share = np.clip((np.where(finite, values, low) - low) / span, 0, 1)
    pixels = _table()[(share * 255).round().astype(int)]
    pixels[np.isneginf(values)] = BELOW
    pixels[np.isposinf(values)] = ABOVE
    pixels[np.isnan(values)] = NONE
    return pixels


@cache
def _table() -> np.ndarray:
    at = np.linspace(0, len(ANCHORS) - 1, 256)
    channels = [np.interp(at, range(len(ANCHORS)), channel) for channel in zip(*ANCHORS, strict=True)]
    return np.stack(channels, -1).round().astype(np.uint8)
