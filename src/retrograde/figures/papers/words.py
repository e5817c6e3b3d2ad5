"""What page and figure both say of a row, with as many digits as its seeds support."""

import math
import re
from collections.abc import Sequence

import numpy as np

from retrograde.figures.papers.presets import BY_LENGTH, SEQUENCES, SHARE
from retrograde.figures.papers.table import NOT_FINISHED, NOT_REPRODUCED, REPRODUCED, Row, number_in, numbers_in
from retrograde.figures.provenance import number
from retrograde.record.metadata import number_of

WORDS = {
    SHARE: "share of runs that solved",
    SEQUENCES: "sequences seen until solved",
    "score": "test score",
    "loss": "test loss",
    "longer.score": "score on longer sequences",
}

NAMED = 1
"""Claims of a kind that a headline says in words; of more, the others are counted."""


def compared(row: Row) -> float:
    """The value that the verdict is on."""
    return number_in(row["max"] or row["ours"])


def decimals(row: Row) -> int:
    """Digits behind the point that the seeds support; below zero those before it that they do not.

    The last is the first digit of the standard error; a share of n runs has those of 1/n. What seeds agree on has three
    digits and what one alone says has two. There are more where the value would seem to change its side of the band.
    """
    seeds = [value for value in numbers_in(row["seeds"]) if math.isfinite(value)]
    value = compared(row)
    if row["quantity"] == SHARE:
        places = max(1, math.ceil(math.log10(len(seeds))))
    elif row["quantity"] == SEQUENCES:
        places = 0
    else:
        size = next((abs(one) for one in (number_in(row["ours"]), value, *seeds) if math.isfinite(one) and one), 1.0)
        first = -math.floor(math.log10(size))
        error = float(np.std(seeds, ddof=1)) / math.sqrt(len(seeds)) if len(seeds) > 1 else 0.0
        if error > 0:
            places = min(max(-math.floor(math.log10(error)), first), first + 3)
        else:
            places = first + (2 if len(seeds) > 1 else 1)
    ends = [number_in(row[end]) for end in ("band_low", "band_high") if row[end]]
    if math.isfinite(value):
        while places < 9 and any(_side(round(value, places), end) != _side(value, end) for end in ends):
            places += 1
    return places


def _side(value: float, end: float) -> int:
    return 0 if math.isclose(value, end) else int(math.copysign(1, value - end))


def rounded(value: float, places: int) -> str:
    """With that many digits behind the point; what would be rounded away keeps one of its own, within two more.

    >>> rounded(-1234.5, -2), rounded(0.8, 2), rounded(700, -3), rounded(1e-17, 1), rounded(math.inf, 1)
    ('−1,200', '0.80', '700', '0.0', '∞')
    """
    if not math.isfinite(value):
        return number(value)
    own = -math.floor(math.log10(abs(value))) if value else places
    if own <= places + 2:
        places = max(places, own)
    return f"{round(value, places) + 0.0:,.{max(places, 0)}f}".replace("-", "−")


def seeds_in_words(row: Row) -> str:
    """Every seed's value, and how many diverged."""
    places = 0 if row["quantity"] == SHARE else decimals(row)
    said = ", ".join(rounded(value, places) for value in numbers_in(row["seeds"]))
    return f"{said}; {row['diverged']} diverged" if row["diverged"] not in ("", "0") else said


def ours_in_words(row: Row) -> str:
    """Value and interval, and the largest beside a mean where that is what is compared."""
    if not row["ours"]:
        return "–"
    places = decimals(row)
    value, low, high, most = (rounded(number_in(row[name]), places) for name in ("ours", "low", "high", "max"))
    several = len(numbers_in(row["seeds"])) > 1 and not (value == "–" or value == low == high == "∞")
    said = f"{value} ({low} to {high})" if several else value
    return f"{said}, max {most}" if row["max"] else said


def band_in_words(row: Row) -> str:
    """Both ends, or the one that there is."""
    low, high = (number(number_in(row[name])) for name in ("band_low", "band_high"))
    if not row["band_high"]:
        return f"at least {low}"
    return f"{low} to {high}" if row["band_low"] else f"at most {high}"


def quantity_in_words(row: Row) -> str:
    """What is compared.

    >>> quantity_in_words({"quantity": "score_by_length 41 to 500"}), quantity_in_words({"quantity": "loss"})
    ('score at lengths 41 to 500', 'test loss')
    """
    of = row["quantity"]
    if of.startswith(BY_LENGTH):
        return f"score at lengths{of.removeprefix(BY_LENGTH)}"
    return WORDS.get(of, of.replace("_", " ").replace(".", " "))


def named(row: Row) -> str:
    """Authors, year and what is rerun, of a preset <author><year>_<what>.

    >>> named({"source": "Tay et al. 2020 (Long Range Arena), table", "preset": "tay2020_list_ops"})
    'Tay et al. 2020, list ops'
    """
    dated = re.match(r".*?\b(19|20)\d\d\b", row["source"])
    who = dated[0] if dated else row["source"].partition(",")[0]
    return f"{who}, {row['preset'].partition('_')[2].replace('_', ' ')}"


def outcome_in_words(of: Sequence[Row]) -> str:
    """How many claims of a preset are reproduced, and which are not, as one sentence without its full stop."""
    good = sum(row["verdict"] == REPRODUCED for row in of)
    said = f"{named(of[0])}: {good} of {number_of(len(of), 'claim')} reproduced"
    missed = [
        f"{row['says']} ({rounded(compared(row), decimals(row))}, not {band_in_words(row)})"
        for row in of
        if row["verdict"] == NOT_REPRODUCED
    ]
    unfinished = [row["says"] for row in of if row["verdict"].startswith(NOT_FINISHED)]
    for kind, which in (("not", missed), (NOT_FINISHED, unfinished)):
        more = [number_of(len(which) - NAMED, "other")] if len(which) > NAMED else []
        said += f"; {kind}: {'; '.join([*which[:NAMED], *more])}" if which else ""
    return said
