"""Keys and tokens, which nobody may read in a log or a run's folder.

What is secret is the value of any variable of the environment whose name says so by its end, such as WANDB_API_KEY or
HF_TOKEN, and the passwords in the user's netrc, where ``wandb login`` keeps the key.
"""

import netrc
import os
import re
from pathlib import Path

NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD)_?\d*$", re.IGNORECASE)
SHORTEST = 8
"""Characters; what is shorter stands for many a word that is no secret."""

HIDDEN = "[a secret]"


def redacted(text: str) -> str:
    """The text with each secret replaced.

    >>> os.environ["EXAMPLE_TOKEN"] = "abcdefghij"
    >>> redacted("refused abcdefghij")
    'refused [a secret]'
    >>> del os.environ["EXAMPLE_TOKEN"]
    """
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def redact(error: BaseException) -> None:
    """Replaces secrets in what an exception says, and in those that led to it, however it is then shown."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        left += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions
        one.args = tuple(redacted(part) if isinstance(part, str) else part for part in one.args)
        of_the_system = ("strerror", "filename", "filename2") if isinstance(one, OSError) else ()
        for name in (*vars(one), *of_the_system):
            if isinstance(value := getattr(one, name), str):
                setattr(one, name, redacted(value))


def _secrets() -> set[str]:
    found = {value for name, value in os.environ.items() if NAMES.search(name)}
    try:
        hosts = netrc.netrc(os.environ.get("NETRC", Path("~/.netrc").expanduser())).hosts
        found |= {password for _, _, password in hosts.values()}
    except (OSError, RuntimeError, netrc.NetrcParseError):  # there is none, no home, or none that W&B could read
        pass
    return {secret for secret in found if len(secret) >= SHORTEST}
