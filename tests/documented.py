"""The documentation as tests see it: pages, the blocks that they fence, and the commands of these.

A block of Python or YAML with a title, or below a line that opens with the name of a file and ends with a colon, is
that file; other blocks of Python are run. Blocks of bash are commands, a line each, a backslash at its end going on.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>\w*)[^\n]*$")
TITLE = re.compile(r'title="(?P<title>[^"]+)"')
FILE = re.compile(r"`([\w./-]+/[\w.-]+\.\w+)`")

FILES = ("python", "yaml")
"""Languages of which a block may be a file."""

SHELL = re.compile(r"(&&|\|\||[|;><]|\$\(|\$PWD|\*)")
"""What a shell has to make sense of."""


@dataclass(frozen=True)
class Block:
    """What stands between two fences: its page, line, language, and the file that it is, where it is one."""

    page: str
    line: int
    language: str
    text: str
    file: str | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One line of a block of bash; ``words`` are its parts without a comment, without what it sets for itself."""

    page: str
    line: int
    text: str
    words: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    shell: bool

    @property
    def program(self) -> str:
        """By name alone: the folder of the environment does not matter."""
        name = self.words[0].removeprefix(".venv/bin/")
        return "python" if name == "python3" else name

    @property
    def arguments(self) -> list[str]:
        return list(self.words[1:])

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def pages() -> list[str]:
    """Whatever a reader is shown, by its path in the project."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [file.relative_to(ROOT).as_posix() for file in files]


def blocks(page: str, text: str | None = None) -> list[Block]:
    """Every fenced block of a page, in order; ``text`` instead of what the page says."""
    lines = ((ROOT / page).read_text(encoding="utf-8") if text is None else text).splitlines()
    found: list[Block] = []
    opened: tuple[int, re.Match[str]] | None = None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if opened is None:
            opened = (number, fence) if fence else None
            continue
        begun, opening = opened
        if fence and fence["ticks"] >= opening["ticks"] and not fence["language"]:
            inside = [each.removeprefix(opening["indent"]) for each in lines[begun + 1 : number]]
            file = _file(lines, begun, opening["language"])
            found.append(Block(page, begun + 1, opening["language"], "\n".join(inside) + "\n", file))
            opened = None
    if opened is not None:
        raise ValueError(f"{page}:{opened[0] + 1}: a fence is opened and not closed")
    return found


def _file(lines: list[str], fence: int, language: str) -> str | None:
    """The file that a block is, by its title or the line above it."""
    title = TITLE.search(lines[fence])
    if title is not None:
        return title["title"]
    above = next((line for line in reversed(lines[:fence]) if line.strip()), "").strip()
    named = FILE.findall(above)
    if language in FILES and named and above.startswith("`") and above.endswith(":"):
        return str(named[-1])
    return None


def unfenced(page: str, text: str | None = None) -> list[tuple[int, str]]:
    """The lines of a page outside of its fences, each with its number."""
    lines = ((ROOT / page).read_text(encoding="utf-8") if text is None else text).splitlines()
    inside = {
        number for block in blocks(page, text) for number in range(block.line, block.line + block.text.count("\n") + 2)
    }
    return [(number, line) for number, line in enumerate(lines, 1) if number not in inside]


def commands(block: Block) -> list[Command]:
    """The commands of a block of bash."""
    found = []
    text, begun = "", block.line + 1
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        begun = begun if text else number
        text += line
        if text.endswith("\\"):
            text = text[:-1].rstrip() + " "
            continue
        words = shlex.split(text, comments=True)
        settings = []
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            settings.append((name, value))
        if words:
            bare = re.sub(r"'[^']*'|\"[^\"]*\"|<[^<> ]*>|\s#.*", "", text)
            shell = SHELL.search(bare) is not None
            found.append(Command(block.page, begun, text.strip(), tuple(words), tuple(settings), shell))
        text = ""
    return found
