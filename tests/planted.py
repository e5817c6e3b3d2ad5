"""A text of words with neighbours by design: groups whose words stand in the same places, and never side by side."""

import random
from pathlib import Path

GROUPS, MEMBERS = 10, 4


def members(group: int) -> list[str]:
    """Words that stand in each other's places."""
    return [f"word{group}{member}" for member in "abcd"]


def words() -> list[str]:
    """The text: members, drawn at random, each between two words of its group's own, of two before and two after."""
    rng = random.Random(0)
    text = []
    for _ in range(4000):
        group = rng.randrange(GROUPS)
        text += [f"before{group}{rng.choice('xy')}", rng.choice(members(group)), f"after{group}{rng.choice('xy')}"]
    return text


def passages() -> list[list[str]]:
    """The text in pieces that gensim takes whole."""
    text = words()
    return [text[start : start + 4000] for start in range(0, len(text), 4000)]


def write(path: Path) -> str:
    """The text's file."""
    path.write_text(" ".join(words()))
    return str(path)
