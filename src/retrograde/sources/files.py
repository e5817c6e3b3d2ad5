"""Files that real sequences are read from: found, checked against their manifest, and kept where they took long."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from jaxtyping import Int
from torch import Tensor

from retrograde.core.cache import cache_folder as cache_folder
from retrograde.core.contracts import Source
from retrograde.core.splits import SPLITS, apart

Content = TypeVar("Content")


@dataclass(frozen=True)
class Manifest:
    """What a source has to be: a loader compares what it finds, and raises ValueError where it is something else.

    ``count`` and ``sha256`` are None where they change with the version, such as of text that ships with Python.
    """

    name: str
    version: str
    licence: str
    unit: str
    count: int | None = None
    sha256: str | None = None

    def checked(self, found: int, digest: str, where: Path | str) -> Source:
        """The source as it was found at ``where``, if it is what the manifest says."""
        if self.sha256 is not None and digest != self.sha256:
            raise ValueError(
                f"{where} is not the {self.name} {self.version} that was expected: "
                f"its sha256 is {digest}, not {self.sha256}"
            )
        if self.count is not None and found != self.count:
            raise ValueError(
                f"{where} is not the {self.name} {self.version} that was expected: "
                f"it has {found:,} {self.unit}, not {self.count:,}"
            )
        return Source(self.name, self.version, self.licence, found, self.unit, digest)


def given(path: Path, found: int, unit: str, digest: str) -> Source:
    """The source that a user's own file is; nothing is known of it but what it says."""
    return Source(path.name, "as given", "as given", found, unit, digest)


def several(sources: Sequence[Source]) -> Source:
    """Several files as one source, which is called as the first; the hash is that of their hashes, if it is not one."""
    if len(sources) == 1:
        return sources[0]
    digest = sha256_of("".join(source.sha256 for source in sources).encode())
    return replace(sources[0], count=sum(source.count for source in sources), sha256=digest)


def require_hash_of_something(sha256: str | None, path: str | None) -> None:
    """Raise ValueError where a hash is asked for and there is no file that could have it."""
    if path is None and sha256 is not None:
        raise ValueError("sha256 is the hash of the file at path, and there is no path")


def digest_of(path: Path, sha256: str | None) -> str:
    """The file's hash; ValueError where another is asked for. To be compared before anything is made of the file."""
    return as_asked_for(path.name, sha256_of(path.read_bytes()), sha256)


def as_asked_for(name: str, digest: str, sha256: str | None) -> str:
    """The hash; ValueError where another is asked for, in small letters or capitals."""
    if sha256 is not None and digest != sha256.lower():
        raise ValueError(f"'{name}' has sha256 {digest}, not {sha256.lower()} as asked for")
    return digest


def at(path: str | Path) -> Path:
    """The path, ~ being the user's home, or that of ~user, where there is such a one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no such user, and ~ may be a letter like any other
        return Path(path)


def required(setting: str, path: str | Path, content: str) -> Path:
    """The file at that path, ~ being the user's home; ValueError where there is none.

    ``content`` says what is expected, such as "a text".
    """
    file = at(path)
    if not file.is_file():
        raise ValueError(f"{setting} must name {content}; there is no file at '{path}'")
    return file


def divided_in_three(names: Iterable[str | bytes], what: str, where: str) -> Int[Tensor, " rows"]:
    """``core.splits.apart``, and a ValueError that says how many different ``what`` there are ``where``, if too few."""
    rows = list(names)
    try:
        return apart(rows)
    except ValueError as error:
        raise ValueError(
            f"{where} must have at least {len(SPLITS)} different {what}, for {', '.join(SPLITS)}; "
            f"it has {len(set(rows))}"
        ) from error


def sha256_of(*contents: bytes) -> str:
    """The hash of several contents, one behind the other."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def utf8(path: Path, setting: str) -> str:
    r"""The text in that file, without a byte order mark and with ``\n`` for every line end; ValueError where it is none
    in UTF-8."""
    try:
        return plain(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{setting} must name a text in UTF-8; '{path}' is none at byte {error.start}") from error


def plain(text: str) -> str:
    r"""The text without a byte order mark in front, and with ``\n`` for ``\r\n`` and ``\r``."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def cached(
    name: str, parts: Iterable[str | bytes], build: Callable[[Path], None], read: Callable[[Path], Content]
) -> Content:
    """What ``read`` finds in the file that ``build`` writes; both are given its path.

    It is built once for equal ``parts``, which are all that it depends on, and once more where ``read`` fails, because
    a file there may be damaged. It is written aside and renamed, so that nobody ever sees half of it. Raises ValueError
    where the folder cannot be written.
    """
    key = sha256_of(*(part.encode() if isinstance(part, str) else part for part in parts))[:16]
    stem, dot, suffix = name.partition(".")
    path = cache_folder() / f"{stem}-{key}{dot}{suffix}"
    if path.is_file():
        try:
            return read(path)
        except Exception:  # whatever is wrong with it, nothing is in it that cannot be made again
            path.unlink(missing_ok=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as folder:
            aside = Path(folder) / path.name
            build(aside)
            aside.replace(path)
    except OSError as error:
        raise ValueError(
            f"RETROGRADE_CACHE must name a folder that can be written; '{path.parent}' cannot: "
            f"{error.strerror or error}"
        ) from error
    return read(path)
