"""How our docstrings become pages: plain text as it stands in the file, said in Markdown.

An equation is indented by four columns behind an empty line, which Markdown shows as code. What is done here: an entry
such as ``Source:`` begins a paragraph of its own, an example (``>>>``) becomes a block of code, and what Markdown would
take for HTML or emphasis is shown as it is.
"""

import re
from typing import Any

import griffe

ENTRY = re.compile(r"^(Source|Differs|Units?|Cost|Question|Expect|Data|At the start): +")
AS_IT_IS = re.compile(r"(``.+?``|`[^`]+`|(?<!\w)\*[A-Za-z][\w -]*\*(?!\w))")
"""Code, and words that are stressed."""


def readable(text: str) -> str:
    r"""The docstring as Markdown.

    >>> print(readable("A *step*.\n\n    h = <x>\n\nOf a*b*.\nSource: a paper."))
    A *step*.
    <BLANKLINE>
        h = <x>
    <BLANKLINE>
    Of a\*b\*.
    <BLANKLINE>
    **Source:** a paper.
    """
    made: list[str] = []
    for paragraph in re.split(r"\n[ \t]*\n", text.strip("\n")):
        if paragraph.lstrip().startswith(">>>"):
            made.append(f"```pycon\n{_dedented(paragraph)}\n```")
        elif paragraph.startswith("    "):
            made.append(paragraph)
        else:
            made.append(_prose(paragraph))
    return "\n\n".join(made)


def _prose(paragraph: str) -> str:
    lines: list[str] = []
    in_list = False
    for number, line in enumerate(paragraph.splitlines()):
        if ENTRY.match(line):
            lines += ["", ENTRY.sub(lambda found: f"**{found[1]}:** ", _escaped(line))]
        elif line.startswith(">>>"):
            return "\n".join(lines) + f"\n\n```pycon\n{_dedented(chr(10).join(paragraph.splitlines()[number:]))}\n```"
        elif line.startswith("    ") and not in_list:  # an equation close to its sentence
            lines += ([""] if lines and not lines[-1].startswith("    ") else []) + [line]
        else:
            begins = line.startswith("- ")
            lines += ([""] if begins and not in_list else []) + [_escaped(line)]
            in_list = in_list or begins
    return "\n".join(lines).strip("\n")


def _escaped(line: str) -> str:
    """Nothing that Markdown would read but what is meant, and a list's dash."""
    parts = AS_IT_IS.split(line)
    return "".join(
        part if place % 2 else re.sub(r"([\\*\[\]|])", r"\\\1", part).replace("<", "&lt;")
        for place, part in enumerate(parts)
    )


def _dedented(text: str) -> str:
    lines = text.splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:] for line in lines)


class Plain(griffe.Extension):
    """Rewrites every docstring once, as it is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of modules, classes, functions and attributes alike."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)
