"""The pages that nobody writes: one for every model, task, probe and regulariser, and for files that pages link to.

- A folder in ``nav`` stands for the pages in it. ``reference/<kind>/`` has one for every file of ``conf/<kind>``: a new
  member has its page by being there.
- ``studies.md`` is made of the heads of ``conf/study``.
- A link that leads out of ``docs`` to a file of the repository leads to a page that shows it, so that the same link
  holds in the repository and on the site. One to a file that is not there is a warning, and so an error.
- Names in the first column of a table in models.md, tasks.md and probes.md lead to the member's page.
- The built site is looked through at the end: a page that would ask another host for anything ends the build.
"""

import ast
import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[2]
log = logging.getLogger("mkdocs.plugins.retrograde")

KINDS = {"models": "model", "tasks": "task", "probes": "probe", "regularizers": "regularizer"}
"""Packages of members, and the groups of configuration that choose them."""

NAMES = {"models": "Models", "tasks": "Tasks", "probes": "Probes", "regularizers": "Regularisers"}
LISTS = {"models.md": "models", "tasks.md": "tasks", "probes.md": "probes"}
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}
"""Files of the repository that are pages, by where; README's own place is the home page's."""

LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
FENCE = re.compile(r"^(```.*?^```[ \t]*$)", re.DOTALL | re.MULTILINE)
SHOWN = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json", ".txt": "text"}
LARGEST = 50_000
"""Bytes of a file that is shown as a page; a larger one is handed out as it is."""

OUTSIDE = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\b(?:src|srcset|data)=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|<link\b(?![^>]*\brel=[\"']?canonical)[^>]*?\bhref=[\"']?((?:https?:)?//[^\"'\s>]+)",
    re.IGNORECASE,
)
IMPORTED = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)")

origins: dict[str, str] = {}
"""Where in the repository a page's text comes from, for pages that do not lie below docs/."""


def on_config(config: Any) -> Any:
    """Members' pages into ``nav`` where it names their folder."""
    config.nav = [_expanded(entry) for entry in config.nav]
    return config


def _expanded(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_expanded(one) for one in entry]
    if isinstance(entry, str):
        return entry
    return {
        title: _pages_of(place) if isinstance(place, str) and place.endswith("/") else _expanded(place)
        for title, place in entry.items()
    }


def _pages_of(folder: str) -> list[str]:
    kind = folder.removeprefix("reference/").rstrip("/")
    if kind in KINDS:
        return [f"{folder}index.md", *(f"{folder}{stem}.md" for stem in members(kind))]
    found = sorted(path.name for path in (ROOT / "docs" / folder).glob("*.md"))
    if not found:
        raise PluginError(f"nav names docs/{folder}, which holds no page")
    return [f"{folder}{name}" for name in sorted(found, key=lambda name: name != "README.md")]


def members(kind: str) -> list[str]:
    """The members of a kind, by the modules that hold them."""
    folder = ROOT / "src" / "retrograde" / kind
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made, and those for files that others link to."""
    origins.clear()

    def add(uri: str, text: str, origin: str) -> None:
        origins[uri] = origin
        level = InclusionLevel.NOT_IN_NAV if uri.startswith("files/") else InclusionLevel.UNDEFINED
        files.append(File.generated(config, uri, content=text, inclusion=level))

    for kind in KINDS:
        add(f"reference/{kind}/index.md", index(kind), "")
        for stem in members(kind):
            add(f"reference/{kind}/{stem}.md", member(kind, stem), "")
    add("studies.md", studies(), "")
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        add(PAGES[name], (ROOT / name).read_text(encoding="utf-8"), name)
    for target in sorted(_linked(files)):
        path = ROOT / target
        if target not in PAGES and path.is_file():
            uri = uri_of(target)
            if uri.endswith(".md"):
                add(uri, shown(path, target), target)
            else:
                files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def _linked(files: Files) -> set[str]:
    """Files of the repository outside docs/ that some page links to."""
    found = set()
    for file in files.documentation_pages():
        origin = origin_of(file.src_uri)
        if origin:
            for part in FENCE.split(file.content_string)[::2]:
                found |= {target for _, target, *_ in _links(part, origin) if _outside(target)}
    return found


def _links(text: str, origin: str) -> Iterator[tuple[re.Match[str], str]]:
    """Relative links, each with the file of the repository that it leads to."""
    for found in LINK.finditer(text):
        if not re.match(r"[a-z][a-z0-9+.-]*:|/|<", found[2], re.IGNORECASE):
            yield found, posixpath.normpath(posixpath.join(posixpath.dirname(origin), found[2]))


def _outside(target: str) -> bool:
    return not target.startswith("docs/")


def origin_of(uri: str) -> str:
    """The file of the repository that a page is; empty for one that is made."""
    return origins.get(uri, f"docs/{uri}")


def uri_of(target: str) -> str:
    """Where on the site a file of the repository stands."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    if target in PAGES:
        return PAGES[target]
    path = ROOT / target
    small = path.is_file() and path.stat().st_size <= LARGEST
    return f"files/{target}.md" if small and path.suffix in {*SHOWN, ".md", ""} else f"files/{target}"


def shown(path: Path, target: str) -> str:
    """A file of the repository as a page, which search leaves out."""
    text = path.read_text(encoding="utf-8")
    head = f"---\ntitle: {target}\nsearch:\n  exclude: true\n---\n\n"
    if path.suffix == ".md":
        return head + text
    fence = "`" * (3 + max((len(run) for run in re.findall(r"`{3,}", text)), default=0))
    return f"{head}# {path.name}\n\n`{target}`\n\n{fence}{SHOWN.get(path.suffix, 'text')}\n{text}\n{fence}\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links out of docs/ lead to the pages of those files; names in lists lead to members."""
    uri = page.file.src_uri
    origin = origin_of(uri)
    parts = FENCE.split(markdown)
    for place in range(0, len(parts), 2):
        if origin:
            parts[place] = _led(parts[place], uri, origin)
        if uri in LISTS:
            parts[place] = _named(parts[place], LISTS[uri])
    return "".join(parts)


def _led(text: str, uri: str, origin: str) -> str:
    made, end = [], 0
    for found, target in _links(text, origin):
        if origin == f"docs/{uri}" and not _outside(target):
            continue
        if not (ROOT / target).is_file():
            log.warning(f"{origin} links to '{found[2]}', and {target} is no file of the repository")
            continue
        place = posixpath.relpath(uri_of(target), posixpath.dirname(uri) or ".")
        made += [text[end : found.start()], f"{found[1]}{place}{found[3] or ''}{found[4]}"]
        end = found.end()
    return "".join([*made, text[end:]])


def _named(text: str, kind: str) -> str:
    """Members in the first column of a table, each a link to its page."""
    known = set(members(kind))

    def linked(found: re.Match[str]) -> str:
        names = [name.strip() for name in found[2].split(",")]
        if not known.issuperset(names):
            return found[0]
        return found[1] + ", ".join(f"[{name}](reference/{kind}/{name}.md)" for name in names) + found[3]

    return re.sub(r"^(\| )([\w, ]+?)( \|)", linked, text, flags=re.MULTILINE)


def first_line(path: Path) -> str:
    """The first line of a module's docstring; empty where it has none."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def code_of(kind: str, stem: str) -> Path:
    """The module of a member."""
    return ROOT / "src" / "retrograde" / kind / f"{stem}.py"


def index(kind: str) -> str:
    """The members of a kind, each with its first line."""
    rows = [f"| [{stem}]({stem}.md) | {_cell(first_line(code_of(kind, stem)))} |" for stem in members(kind)]
    group = KINDS[kind]
    said = f"One file each in `src/retrograde/{kind}`; chosen by `{group}=<name>`, listed by `retrograde-list {kind}`."
    return "\n".join([f"# {NAMES[kind]}", "", said, "", f"| {group} | |", "|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def member(kind: str, stem: str) -> str:
    """A member's page: what its module says, its settings, what it is proved against, its classes and functions."""
    group = KINDS[kind]
    said = [
        "    options:",
        "      show_root_heading: false",
        "      show_root_toc_entry: false",
        "      members: false",
    ]
    parts = [f"# {stem}", "", f"::: retrograde.{kind}.{stem}", *said, "      show_source: false", ""]
    settings = (ROOT / "conf" / group / f"{stem}.yaml").read_text(encoding="utf-8").rstrip()
    parts += [
        "## Settings",
        "",
        f"`{group}={stem}`; the file is `conf/{group}/{stem}.yaml`.",
        "",
        "```yaml",
        settings,
        "```",
        "",
    ]
    tests = [ROOT / "tests" / folder / f"test_{stem}.py" for folder in ("papers", kind)]
    for test in filter(Path.is_file, tests):
        parts += ["## Proved", "", " ".join([_cell(first_line(test)), f"In `{test.relative_to(ROOT)}`."]).strip(), ""]
    chosen = re.search(rf"^_target_: retrograde\.{kind}\.{stem}\.(\w+)", settings, re.MULTILINE)
    parts += ["## Code", ""]
    for name in public(code_of(kind, stem), first=chosen[1] if chosen else ""):
        parts += [f"::: retrograde.{kind}.{stem}.{name}", "    options:", "      heading_level: 3", ""]
    return "\n".join(parts)


def public(path: Path, first: str) -> list[str]:
    """What a module defines for others to know of: ``first``, classes and functions, values; all with a docstring."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    code, values = [], []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            code.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(after, ast.Expr):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            values += [target.id] if isinstance(target, ast.Name) else []
    found = sorted([*code, *values], key=lambda name: name != first)
    return [name for name in found if not name.startswith("_")]


def studies() -> str:
    """Every study in the words of its own configuration."""
    parts = [
        "# Studies",
        "",
        "A study is a question with its sweep in `conf/study`, and a script in `analysis` that draws the answer.",
        "`size=small` runs within minutes on two cores. What they have said of real runs: the [gallery](gallery.md).",
        "",
    ]
    for path in sorted((ROOT / "conf" / "study").glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        head = "\n".join(line[2:] for line in lines if line.startswith("# "))
        entries = {name: _entry(head, name) for name in ("Question", "Expect", "Run", "Figures?")}
        for name, said in entries.items():
            if not said:
                raise PluginError(f"{path.relative_to(ROOT)} does not say '{name.rstrip('s?')}:'")
        commands = [re.sub(r" {2,}(\(.*)$", r"` \1", line) for line in entries["Run"]]
        parts += [
            f"## {path.stem}",
            "",
            _sentence(entries["Question"]),
            "",
            f"**Expected:** {_sentence(entries['Expect'])}",
            "",
            *(f"- `{line}" if "` (" in line else f"- `{line}`" for line in commands),
            f"- `{entries['Figures?'][0]}`",
            "",
        ]
    return "\n".join(parts)


def _sentence(lines: list[str]) -> str:
    text = _cell(" ".join(lines))
    return text[:1].upper() + text[1:]


def _entry(head: str, name: str) -> list[str]:
    """The lines of an entry of a study's head."""
    found = re.search(rf"^{name}:\s*(.*(?:\n +\S.*)*)", head, re.MULTILINE)
    return [line.strip() for line in found[1].splitlines()] if found else []


def on_post_build(config: Any) -> None:
    """Ends the build where a page or a style would ask another host for anything."""
    site = Path(config.site_dir)
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        pattern = OUTSIDE if path.suffix == ".html" else IMPORTED
        for found in pattern.finditer(path.read_text(encoding="utf-8")):
            asked = next(group for group in found.groups() if group)
            raise PluginError(f"{path.relative_to(site)} asks for {asked}: the site has to hold all that it shows")
