"""Every command of the documentation is checked, and every page that can be is carried out from top to bottom.

Checked (``test_a_command_means_something``): each line of each block of bash has a rule in RULES by its program, and
the rule's check holds. A command without a rule fails, so nobody can add one that is never tried. What a check is, the
rule says: a configuration that composes, arguments that the script's own parser takes, a target that ``make`` knows, an
extra that exists.

Carried out (``test_a_page_does_what_it_says``, heavy): in a copy of the project, files are written, then, in the
order of the page, Python is run in one namespace, and the commands whose rule has a ``run``; TINY, and two values
of what is swept first, keep that short. A folder of runs that a page takes for given is made first.
"""

import argparse
import atexit
import importlib
import itertools
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import wandb
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from documented import ROOT, Block, Command, blocks, commands, pages, unfenced
from loopback import ENTITY, LoopbackServer
from retrograde.train import app, ask, listing, plan

pytestmark = pytest.mark.heavy

TINY = {
    "steps": "5",
    "batch_size": "4",
    "width": "8",
    "trainer.accelerator": "cpu",
    "trainer.threads": "1",
    "trainer.validate_every": "5",
    "trainer.validation_samples": "8",
    "trainer.test_samples": "8",
    "trainer.longer_samples": "8",
    "progress": "false",
}
"""What every run of the documentation is given here, in the place of what the page says or besides."""

KEPT = 2
"""Values of the first axis of a sweep that are run, one beside the other; of all others the last of so many; of seeds,
one. That each value means something is asked of all, and the first one of an axis is mostly what is the default."""

PLANNING = 0.2
"""Seconds that a plan may time configurations for."""

SHORTER = ((r"\b(max_)?steps=\d+", r"\1steps=5"),)
"""What is replaced in Python."""

PLACEHOLDERS = {"HOST": "127.0.0.1", "N": "0", "my-team/retrograde": f"{ENTITY}/retrograde", "my-team": ENTITY}
"""What stands for something of the reader's. RUN is the last run that there is, ``<…>`` any name."""

NOT_HERE = ("launcher", "sweeper", "trainer.devices", "trainer.nodes", "budget")
"""Settings with which a command is checked and not run: tests/launchers, tests/train/test_ranks.py and test_budget.py
run such as far as this machine can."""

GIVEN = """
import torch
from torch import Tensor, nn

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.read = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        return self.read(self.rnn(x)[0][:, -1])

torch.manual_seed(0)
model, criterion = Reader(), nn.MSELoss()
x, y = torch.randn(2, 6, 3), torch.randn(2, 1)
scaler = torch.amp.GradScaler("cpu", enabled=False)

import pytorch_lightning as pl
import wandb

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = Reader()

    def training_step(self, batch, batch_idx):
        x, y = batch
        return criterion(self.model(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

class MyLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

module, loader = Module(), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y))
run = wandb.init(mode="offline")
"""
"""What the Python of a page may take for given: a model of the reader's, a loss, a batch, a LightningModule, a run."""

PAGES = pages()
BLOCKS = {page: blocks(page) for page in PAGES}
COMMANDS = [
    command for page in PAGES for block in BLOCKS[page] if block.language == "bash" for command in commands(block)
]
FILES = {block.file: block.text for page in PAGES for block in BLOCKS[page] if block.file}
LANGUAGES = {"bash", "python", "yaml", "text", "toml", "json", "mermaid", ""}


@dataclass
class Checkout:
    """A copy of the project in which a page is carried out; ``folder`` is where commands start."""

    folder: Path
    logs: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    def resolved(self, word: str) -> str:
        """A word with something that is there for each of its placeholders."""
        for placeholder, value in PLACEHOLDERS.items():
            word = re.sub(rf"(?<!\w){re.escape(placeholder)}(?!\w)", value, word)
        if word == "RUN" or word.startswith("RUN/"):
            runs = sorted(self.folder.glob("outputs/*/*/run.json"), key=lambda file: file.stat().st_mtime_ns)
            assert runs, "the page names a RUN before it has made any"
            word = word.replace("RUN", str(runs[-1].parent.relative_to(self.folder)), 1)
        if re.search(r"/[^ ]*(<[^<>]+>|\*)", word):
            found = sorted(self.folder.glob(re.sub(r"<[^<>]*>", "*", word)))
            assert found, f"nothing is there that '{word}' could stand for"
            word = str(found[0].relative_to(self.folder))
        return word


# --- what commands are checked by, and how they are run


def composes(command: Command) -> None:
    """Every value of every axis, one at a time, gives a configuration."""
    flags, overrides = told_apart(command.arguments)
    axes = {override.get_key_element(): values(override) for override in parsed(overrides)}
    first = {key: each[0] for key, each in axes.items()}
    own = [f"hydra.searchpath=['{files_of_pages() / flags['--config-dir']}']"] if "--config-dir" in flags else []
    for one in [first] + [{**first, key: value} for key, each in axes.items() for value in each[1:]]:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            words = [*own, *(f"{key}={value}" for key, value in one.items())]
            compose("train", overrides=words, return_hydra_config=True)


@cache
def files_of_pages() -> Path:
    """A folder with the files that pages show, in which a configuration of the reader's own is found."""
    folder = Path(mkdtemp(prefix="retrograde-docs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def told_apart(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Flags with their values, and overrides."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-dir")
    parser.add_argument("--cfg", choices=["job", "hydra", "all"])
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("overrides", nargs="*")
    given = vars(parser.parse_intermixed_args(app.spelled_out(arguments)))
    flags = {"--config-dir": given["config_dir"], "--cfg": given["cfg"], "-m": given["multirun"]}
    return {name: value for name, value in flags.items() if value}, given["overrides"]


def parsed(overrides: list[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(overrides)


def values(override: Override) -> list[str]:
    """Of a sweep each of its values; of an interval its beginning."""
    if override.is_interval_sweep():
        return [str(override.value().start)]  # type: ignore[union-attr]
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.input_line.partition("=")[2]]  # type: ignore[union-attr]


def trains(command: Command, checkout: Checkout) -> None:
    """``retrograde``, made short."""
    flags, overrides = told_apart([checkout.resolved(word) for word in command.arguments])
    given = {override.get_key_element(): override for override in parsed(overrides)}
    if any(key in given for key in NOT_HERE):
        return
    several = {key: values(override) for key, override in given.items()}
    for key, axis in axes_of_study(several, flags, checkout).items():
        several.setdefault(key, axis)
    made = shortened(several, all_axes="--config-dir" in flags)
    if flags.get("--cfg") is None:
        made |= TINY | ({} if checkout.logs else {"recorder.mode": "disabled"})
    words = [*(["--config-dir", flags["--config-dir"]] if "--config-dir" in flags else [])]
    words += ["--cfg", flags["--cfg"]] if "--cfg" in flags else []
    words += ["-m"] if "-m" in flags or ("study" in made and "--cfg" not in flags) else []
    called(app.main, "retrograde", [*words, *(f"{key}={value}" for key, value in made.items())])


def axes_of_study(given: dict[str, list[str]], flags: dict[str, str], checkout: Checkout) -> dict[str, list[str]]:
    """What a study sweeps over, with its values."""
    if "study" not in given:
        return {}
    (study,) = given["study"]
    own = checkout.folder / flags.get("--config-dir", "conf") / "study" / f"{study}.yaml"
    file = own if own.is_file() else ROOT / "conf" / "study" / f"{study}.yaml"
    sweeper = OmegaConf.load(file).hydra.sweeper
    axes = dict(sweeper.params) | (dict(sweeper.get("small") or {}) if given.get("size") == ["small"] else {})
    found = {str(key): values(parsed([f"{key}={value}"])[0]) for key, value in axes.items()}
    return {key: several for key, several in found.items() if len(several) > 1}


def shortened(axes: dict[str, list[str]], all_axes: bool) -> dict[str, str]:
    """What is run of these values of each setting; see ``KEPT``.

    With ``all_axes`` as much of each axis as else of the first: a page's own study asks its question of all of them.
    """
    swept = [key for key, several in axes.items() if len(several) > 1 and key != "seed"]
    made = {}
    for key, several in axes.items():
        first = several[: 1 if key == "seed" else KEPT]
        made[key] = ",".join(first if all_axes or key in swept[:1] else first[-1:])
    return made


def called(main: Callable[[], Any], name: str, arguments: list[str]) -> None:
    """A command in this process; fails where it ends with anything but 0."""
    before = sys.argv
    sys.argv = [name, *arguments]
    try:
        main()
    except SystemExit as end:
        assert end.code in (0, None), f"{shlex.join(sys.argv)}: {end.code}"
    finally:
        sys.argv = before
        GlobalHydra.instance().clear()


class Understood(Exception):
    """The arguments were taken; nothing more is asked."""


def parses(main: Callable[[], Any], name: str, arguments: list[str]) -> None:
    """The command's own parser takes the arguments; what comes after it is left."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        parse(self, args, namespace)
        raise Understood

    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        patched.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(Understood):
            main()


def script(command: Command) -> tuple[Path, list[str]]:
    """The file that ``python`` is given, in the project or on a page, and what is given to it."""
    name, *arguments = command.arguments
    assert (ROOT / name).is_file() or name in FILES, f"{command.place}: there is no {name}"
    return ROOT / name, arguments


def python_knows(command: Command) -> None:
    """The script takes the arguments; a module is one of those that pages use, and its files are there."""
    if command.arguments[0] == "-m":
        module, *rest = command.arguments[1:]
        assert module in ("pytest", "doctest"), f"{command.place}: no rule for python -m {module}"
        for file in (word for word in rest if "/" in word):
            assert (ROOT / file).exists() or file in FILES, f"{command.place}: there is no {file}"
        return
    file, arguments = script(command)
    if not file.is_file():
        compile(FILES[command.arguments[0]], command.arguments[0], "exec")
        return
    if not re.search(r"parse_args|question\.main", file.read_text()):
        compile(file.read_text(), str(file), "exec")
        assert not arguments, f"{command.place}: {file.name} takes no arguments"
        return
    with beside(file):
        parses(lambda: runpy.run_path(str(file), run_name="__main__"), str(file), arguments)


@contextmanager
def beside(file: Path) -> Iterator[None]:
    """The script's folder on the path, as Python puts it there."""
    sys.path.insert(0, str(file.parent))
    known = set(sys.modules)
    try:
        yield
    finally:
        sys.path.remove(str(file.parent))
        for name in set(sys.modules) - known:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin is not None and Path(origin).parent == file.parent:
                del sys.modules[name]


def python_runs(command: Command, checkout: Checkout) -> None:
    """A script of analysis/ in this process; a test in one of its own; benchmarks are only checked."""
    if command.arguments[0] == "-m":
        module, *rest = command.arguments[1:]
        options = ["-p", "no:cacheprovider", "-p", "no:xdist"] if module == "pytest" else []
        # what a page adds to the project is there and nowhere else
        path = "." if dict(command.settings).get("PYTHONPATH") else str(checkout.folder / "src")
        path = os.pathsep.join([path, str(ROOT / "src")] if module == "doctest" else [path])
        in_a_process([sys.executable, "-m", module, *options, *rest], checkout, PYTHONPATH=path)
        return
    name, *arguments = [checkout.resolved(word) for word in command.arguments]
    if not name.startswith("analysis/"):
        return
    arguments = [word for word in arguments if word != "--watch"]
    if name == "analysis/dashboard.py" and "--dry-run" not in arguments:
        arguments += ["--dry-run", "dashboard.json"]
    with beside(checkout.folder / name):
        called(lambda: runpy.run_path(name, run_name="__main__"), name, arguments)


def in_a_process(words: list[str], checkout: Checkout, **environment: str) -> None:
    ended = subprocess.run(
        words,
        cwd=checkout.folder,
        env={**os.environ, **checkout.environment, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ended.returncode == 0, f"{shlex.join(words)}\n{ended.stdout}\n{ended.stderr}"


def make_knows(command: Command) -> None:
    """``make -n``: the target is there, and all that it hangs on."""
    made = subprocess.run(["make", "-n", *command.arguments], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pip_finds(command: Command) -> None:
    """What is installed is this project, with extras that it has."""
    assert command.arguments[0] == "install"
    for word in (word for word in command.arguments[1:] if not word.startswith("-")):
        found = re.fullmatch(r"(?:retrograde|\.)(?:\[([\w,]+)\])?", word)
        assert found is not None, f"{command.place}: '{word}' is not this project"
        extras = found[1].split(",") if found[1] else []
        assert set(extras) <= set(project()["optional-dependencies"]), f"{command.place}: there is no such extra"


def environment_is(command: Command) -> None:
    """The environment that the Makefile makes."""
    (folder,) = re.findall(r"^VENV := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert command.arguments == [f"{folder}/bin/activate"]


def in_dev(package: str) -> Callable[[Command], None]:
    """The program comes with an extra of the project."""

    def check(command: Command) -> None:
        needed = [need for extra in project()["optional-dependencies"].values() for need in extra]
        assert any(re.match(rf"{package}\b", need) for need in needed), f"{command.place}: no extra brings {package}"

    return check


def wandb_knows(command: Command) -> None:
    """W&B's own command takes the arguments."""
    import click
    from wandb.cli.cli import cli

    words, group = list(command.arguments), cli
    while isinstance(group, click.Group):
        name = words[0] if words and words[0] in group.commands else "run"  # leet PATH is leet run PATH
        words = words[1:] if words and words[0] == name else words
        assert name in group.commands, f"{command.place}: wandb has no '{name}'"
        group = group.commands[name]
    parser = group.make_parser(click.Context(group))
    _, left, _ = parser.parse_args(words)
    assert not left, f"{command.place}: {left} is not understood"


def wandb_runs(command: Command, checkout: Checkout) -> None:
    """``wandb leet inspect`` without ``--follow``; the rest asks for a person."""
    if command.arguments[:2] == ["leet", "inspect"] and "--follow" not in command.arguments:
        words = [checkout.resolved(word) for word in command.arguments]
        in_a_process([sys.executable, "-m", "wandb", *words], checkout)


def torchrun_knows(command: Command) -> None:
    """torchrun takes the arguments, and what it starts composes."""
    from torch.distributed.run import get_args_parser

    words = [re.sub(r"(?<==)(HOST|N)$", lambda found: PLACEHOLDERS[found[0]], word) for word in command.arguments]
    given = get_args_parser().parse_args(words)
    assert given.training_script == "retrograde" and given.no_python
    composes(Command(command.page, command.line, command.text, ("retrograde", *given.training_script_args), (), False))


def ray_knows(command: Command) -> None:
    """The options are those that tests/launchers starts a cluster with."""
    tried = (ROOT / "tests" / "launchers" / "test_launchers.py").read_text()
    assert command.arguments[0] in ("start", "stop"), command.place
    for option in command.arguments[1:]:
        assert f'"{option.partition("=")[0]}' in tried, f"{command.place}: {option} is tried nowhere"


def bash_knows(command: Command) -> None:
    """It is a line of bash, and the files of the project that it names are there."""
    made = subprocess.run(["bash", "-n", "-c", command.text], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def bash_runs(command: Command, checkout: Checkout) -> None:
    in_a_process(["bash", "-c", re.sub(r"\s#.*", "", command.text)], checkout)


def exports(command: Command) -> None:
    """One variable."""
    assert re.fullmatch(r"[A-Z][A-Z0-9_]*=\S+", command.arguments[0]) and len(command.arguments) == 1, command.place


def file_is_there(command: Command) -> None:
    """A script of the project, which bash can read."""
    (file,) = command.arguments
    assert subprocess.run(["bash", "-n", ROOT / file]).returncode == 0, command.place


@dataclass(frozen=True)
class Rule:
    """How a program's commands are checked, and how they are run where they can be."""

    check: Callable[[Command], None]
    run: Callable[[Command, Checkout], None] | None = None


def listed(command: Command) -> None:
    """The kind is one of those that there are."""
    parses(listing.main, "retrograde-list", command.arguments)
    assert command.arguments[0] in listing.GROUPS, command.place


def asked(command: Command) -> None:
    """Arguments are taken, and each probe is one of the project's or of a page's."""
    parses(ask.main, "retrograde-probe", command.arguments)
    words = itertools.takewhile(lambda word: not word.startswith("-"), command.arguments[1:])
    for name in (word for word in words if "=" not in word):
        own = [file for file in FILES if file.endswith(f"/probe/{name}.yaml")]
        assert (ROOT / "conf" / "probe" / f"{name}.yaml").is_file() or own, f"{command.place}: no probe '{name}'"


def in_this_process(main: Callable[[], Any], name: str) -> Callable[[Command, Checkout], None]:
    def run(command: Command, checkout: Checkout) -> None:
        called(main, name, [checkout.resolved(word) for word in command.arguments])

    return run


SHELL = Rule(bash_knows, bash_runs)

RULES = {
    "retrograde": Rule(composes, trains),
    "retrograde-list": Rule(listed, in_this_process(listing.main, "retrograde-list")),
    "retrograde-probe": Rule(asked, in_this_process(ask.main, "retrograde-probe")),
    "python": Rule(python_knows, python_runs),
    "make": Rule(make_knows),
    "pip": Rule(pip_finds),
    "source": Rule(environment_is),
    "export": Rule(exports),
    "pre-commit": Rule(in_dev("pre-commit")),
    "mkdocs": Rule(in_dev("mkdocs")),
    "wandb": Rule(wandb_knows, wandb_runs),
    "torchrun": Rule(torchrun_knows),
    "ray": Rule(ray_knows),
    "bash": Rule(file_is_there),
    **dict.fromkeys(("cp", "mv", "mkdir", "ln", "sed", "ls", "cat"), SHELL),
}


def rule_of(command: Command) -> Rule:
    rule = RULES.get(command.program)
    assert rule is not None, (
        f"{command.place}: no rule in tests/docs/test_commands.py says how '{command.program}' is tried"
    )
    if command.shell and rule is not SHELL:
        raise AssertionError(f"{command.place}: a line that needs a shell; write one command a line")
    return rule


# --- the tests


@pytest.mark.filterwarnings("default")  # the packages that a command loads may warn
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}:{command.line}")
def test_a_command_means_something(command: Command) -> None:
    rule_of(command).check(command)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_of_each_block_what_it_is_and_hides_no_command(page: str) -> None:
    for block in BLOCKS[page]:
        assert block.language in LANGUAGES, f"{block.place}: a block of '{block.language}'; commands are bash"
        if block.language not in ("bash", "python", "yaml"):
            hidden = [line for line in block.text.splitlines() if is_command(line)]
            assert not hidden, f"{block.place}: '{hidden[0]}' is a command: fence it as bash"
    for number, line in unfenced(page):
        assert not (line.startswith("    ") and is_command(line)), f"{page}:{number}: fence this command as bash"


def is_command(line: str) -> bool:
    """Whether a person would type it."""
    try:
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
    except ValueError:  # a text with an apostrophe
        return False
    return len(words) > 1 and words[0].removeprefix(".venv/bin/") in set(RULES) - {"source", "make"}


@pytest.mark.parametrize(
    "block",
    [block for page in PAGES for block in BLOCKS[page] if block.language == "python"],
    ids=lambda block: block.place,
)
def test_a_block_of_python_is_python(block: Block) -> None:
    compile(block.text, block.place, "exec")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("retrogrado model=lstm", "no rule in tests/docs/test_commands.py says how 'retrogrado' is tried"),
        ("retrograde model=lstn", "lstn"),
        ("retrograde model=lstm model.hiden=4", "hiden"),
        ("retrograde-list modles", "modles"),
        ("retrograde-probe RUN jacobain", "no probe 'jacobain'"),
        ("python analysis/raech.py outputs", "there is no analysis/raech.py"),
        ("python analysis/report.py outputs --too report", "2"),
        ("make domo", "domo"),
        ("pip install 'retrograde[jobleb]'", "there is no such extra"),
        ("wandb leat outputs", "leat"),
        ("wandb login --rilogin", "rilogin"),
        ("source .vnev/bin/activate", "vnev"),
        ("torchrun --nproc-per-node=2 --no-python retrograde model=lstn", "lstn"),
        ("ray start --hed", "tried nowhere"),
        ("retrograde model=lstm && make demo", "one command a line"),
        ("cp a 'b", "No closing quotation"),
    ],
)
def test_a_command_that_means_nothing_is_found(line: str, why: str) -> None:
    with pytest.raises(BaseException, match=re.escape(why)):
        (command,) = commands(Block("page.md", 1, "bash", f"{line}\n", None))
        rule_of(command).check(command)


def test_blocks_files_and_commands_are_found() -> None:
    page = """
`mine/a.py`:

```python
x = 1
```

```yaml title="my_conf/b.yaml"
c: 1
```

- In a list:

    ```bash
    A=1 make demo   # a remark
    retrograde \\
        model=lstm "task=a b"
    ```
"""
    found = blocks("page.md", page)
    assert [(block.language, block.file) for block in found] == [
        ("python", "mine/a.py"),
        ("yaml", "my_conf/b.yaml"),
        ("bash", None),
    ]
    first, second = commands(found[2])
    assert (first.words, first.settings, first.shell) == (("make", "demo"), (("A", "1"),), False)
    assert (second.words, second.line) == (("retrograde", "model=lstm", "task=a b"), first.line + 1)
    with pytest.raises(ValueError, match="opened and not closed"):
        blocks("page.md", "```bash\nmake demo\n")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: LoopbackServer) -> Iterator[Checkout]:
    """A copy of the project, the folder that this process is in, with nobody's W&B but the stand-in's."""
    folder = tmp_path / "retrograde"
    ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "outputs", "results", "*.png")
    shutil.copytree(ROOT, folder, ignore=ignored)
    monkeypatch.chdir(folder)
    monkeypatch.setenv(app.FULL_ERROR, "0")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(app, "TRACEBACK_WANTED", False)
    monkeypatch.setattr(plan.plan, "__defaults__", (PLANNING,))
    monkeypatch.syspath_prepend(folder)
    before = dict(os.environ)
    yield Checkout(folder)
    if wandb.run is not None:  # of a page's Python; the next test would take it for its own
        wandb.finish()
    os.environ.clear()
    os.environ.update(before)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.heavy
@pytest.mark.filterwarnings("default")  # as whoever follows the page has them
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language in ("bash", "python") for b in BLOCKS[page])]
)
def test_a_page_does_what_it_says(page: str, checkout: Checkout, server: LoopbackServer) -> None:
    text = " ".join(block.text for block in BLOCKS[page])
    checkout.logs = "wandb" in text or "sync.py" in text
    namespace: dict[str, Any] = {}
    python = " ".join(block.text for block in BLOCKS[page] if block.language == "python" and block.file is None)
    if re.search(r"\b(criterion|module|MyLayer)\b", python):
        exec(GIVEN, namespace)
    for block in BLOCKS[page]:
        if block.file is not None:
            (checkout.folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (checkout.folder / block.file).write_text(block.text, encoding="utf-8")
    for block in BLOCKS[page]:
        if block.language == "bash":
            for command in commands(block):
                carry_out(command, checkout)
        elif block.language == "python" and block.file is None:
            source = block.text
            for long, short in SHORTER:
                source = re.sub(long, short, source)
            for placeholder, value in PLACEHOLDERS.items():
                source = (
                    re.sub(rf"(?<!\w){re.escape(placeholder)}(?!\w)", value, source) if "/" in placeholder else source
                )
            exec(compile(source, block.place, "exec"), namespace)
    assert server.unknown == []


def carry_out(command: Command, checkout: Checkout) -> None:
    """Run it, after what it takes for given has been made."""
    rule = rule_of(command)
    if rule.run is None:
        return
    studies = {file.stem for file in (ROOT / "conf" / "study").glob("*.yaml")}
    for study in studies.intersection(re.findall(r"\boutputs/(\w+)", command.text)):
        if not (checkout.folder / "outputs" / study).exists():
            trains(Command(command.page, command.line, "", ("retrograde", f"study={study}"), (), False), checkout)
    if "RUN" in command.words and not list(checkout.folder.glob("outputs/*/*/run.json")):
        trains(Command(command.page, command.line, "", ("retrograde",), (), False), checkout)
    print(command.place, flush=True)
    rule.run(command, checkout)
