"""Where runs are read from: a folder that holds them, W&B's offline runs copied from elsewhere, a project of W&B.

    outputs/demo                      a folder of runs, which is read as it is
    copied                            offline-run-<start>-<run>/files/retrograde/… at any depth, beside runs or not
    wandb:entity/project[/group]      the same files as W&B has them

The second and third are laid out by links in a temporary folder, a run's record as its folder has it:

    retrograde/metadata.json          run.json
    retrograde/card.json              card.json
    retrograde/<table>.parquet        tables/<table>.parquet

So the same runs give the same figures, wherever they come from. No other file of a run is looked at, and of what a name
from elsewhere says no path is made: a name with anything else than plain parts is left out and said.
"""

import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from retrograde.record.folder import CLAIM, NAME, PARTS, RunFolder
from retrograde.record.metadata import LONGEST, read_run, shown
from retrograde.record.store import BEGUN, SAID, FolderStore
from retrograde.record.tables import is_there

REMOTE = "wandb:"

RECORD, METADATA = "retrograde", "metadata.json"
PLACES = {METADATA: "run.json", "card.json": "card.json"}
TABLE, DEEPEST = ".parquet", 6
"""How the name of a table's file ends, and how many parts it may have."""

COPY = re.compile(r"(?:offline-)?run-(?P<start>[0-9]{8}_[0-9]{6})-(?P<run>.+)")
"""What W&B calls the folder of an attempt."""

FOLDERS, COPIES = "folders", "copies"
"""What lies below a temporary folder that is made of both."""


@dataclass
class LaidOut:
    """A folder that FolderStore reads. ``left_out`` says what is not there, or not wholly, and why, by run.

    ``origin`` is what it was made of, below which files are named.
    """

    folder: Path
    origin: Path | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    def say(self, who: str, what: str) -> None:
        """Note in one line what was left out, beside what is known of the same run."""
        if self.origin is not None:
            who, what = (text.replace(f"{self.origin}/", "") for text in (who, what))
        who, what = shown(who), shown(what)
        self.left_out[who] = f"{self.left_out[who]}; {what}" if who in self.left_out else what

    def add(self, run: str, files: Mapping[str, Path], beneath: str = "") -> None:
        """The run as links to the files of its record, which are given by their names in it."""
        if not is_plain(run):
            self.say(run, "a run's name must be one that a folder can have")
            return
        made = set()
        for name, file in sorted(files.items()):
            place = place_of(name)
            link = self.folder / beneath / run / (place or "")
            try:
                if place is None:
                    raise ValueError("it is none of a record's")
                if link.parent not in made:
                    link.parent.mkdir(parents=True, exist_ok=True)
                    made.add(link.parent)
                link.symlink_to(file)
            except (OSError, ValueError) as error:
                self.say(run, f"file {_cut(name)} was left out: {getattr(error, 'strerror', None) or error}")


@contextmanager
def opened(source: str) -> Iterator[FolderStore]:
    """The runs of a source, for as long as this lasts; raises ValueError, in one line, where none can be read."""
    with tempfile.TemporaryDirectory(prefix="retrograde-") as scratch:
        found = laid_out(source, Path(scratch).resolve())
        try:
            store = FolderStore(found.folder)
        except ValueError as error:
            if found.origin is None and not source.startswith(REMOTE):
                raise
            said = [f"{run}: {why}" for run, why in found.left_out.items()]
            if any(found.folder.iterdir()):
                said.append(str(error).partition(" holds no run that can be read: ")[2])
            more = [f"and {len(said) - SAID} more"] if len(said) > SAID else []
            why = "; ".join([*said[:SAID], *more]).replace(f"{found.folder}/", "")
            raise ValueError(f"'{shown(source)}' holds no run that can be read: {why}") from None
        for run, why in found.left_out.items():
            store.unreadable[run] = f"{store.unreadable[run]}; {why}" if run in store.unreadable else why
        yield store


def laid_out(source: str, folder: Path) -> LaidOut:
    """The source as a folder of runs: itself where it is one, else links in ``folder``, which has to be empty.

    Raises ValueError, in one line, where a project of W&B cannot be read at all.
    """
    if source.startswith(REMOTE):
        from retrograde.record.project import lay_out  # W&B takes half a second to load

        found = LaidOut(folder)
        lay_out(source, found)
        return found
    runs, copies, closed = _walked(Path(source))
    if not copies:
        return LaidOut(Path(source))
    root = Path(source).resolve()
    found = LaidOut(folder, root.parent if root == copies[0].folder else root)
    whole = {}
    for run in runs:
        _link_folder(run, folder / FOLDERS / run.path.relative_to(root.parent), found)
        try:
            whole[read_run(run)["run"]] = run.path
        except ValueError:  # which the store says
            continue
    for error in closed:
        found.say(Path(error.filename).name, f"{error.filename} cannot be read: {error.strerror}")
    by_run = defaultdict(list)
    for copy in copies:
        by_run[copy.run].append(copy)
    for name, attempts in by_run.items():
        _choose(name, attempts, whole.get(name), found)
    return found


@dataclass(frozen=True)
class Copy:
    """A folder that W&B wrote for one attempt of a run; ``start`` is the time in its name."""

    folder: Path
    start: str
    run: str

    @property
    def record(self) -> Path:
        return self.folder / "files" / RECORD

    @property
    def has_record(self) -> bool:
        """Not one that links lead to: it would be another's."""
        return (self.record / METADATA).is_file() and self.record.resolve().is_relative_to(self.folder)


def place_of(name: str) -> str | None:
    """Where a file of a record lies in a run's folder; None for one that is no part of it.

    >>> place_of("metadata.json"), place_of("readings/gates/share.parquet")
    ('run.json', 'tables/readings/gates/share.parquet')
    >>> place_of("../card.json"), place_of("/etc/x.parquet"), place_of("model.pkl")
    (None, None, None)
    """
    if name in PLACES:
        return PLACES[name]
    parts = name.split("/")
    if name.endswith(TABLE) and len(parts) <= DEEPEST and all(map(is_plain, parts)):
        return f"tables/{name}"
    return None


def is_plain(name: str) -> bool:
    """Whether a folder or a file of that name lies where it is put, on every system.

    >>> is_plain("gru <b>"), is_plain(".."), is_plain("a/b"), is_plain("x" * 300)
    (True, False, False, False)
    """
    return name.isprintable() and 0 < len(name.encode()) <= LONGEST and name[0] != "." and not {"/", "\\"} & {*name}


def _walked(root: Path) -> tuple[list[RunFolder], list[Copy], list[OSError]]:
    """The runs' folders, the copies that are not inside of one, and what cannot be looked into."""
    runs, copies = [], []
    closed: list[OSError] = []
    for place, inside, files in os.walk(root.resolve(), onerror=closed.append):
        folder = RunFolder(Path(place))
        named = COPY.fullmatch(folder.run)
        if named and ("files" in inside or any(file.endswith(".wandb") for file in files)):
            copies.append(Copy(folder.path, named["start"], named["run"]))
            inside.clear()
        elif "run.json" in files or NAME.fullmatch(folder.run):
            runs.append(folder)
            own = [name for name in PARTS if name != "wandb" or "run.json" in files]
            inside[:] = [name for name in inside if name not in own]
        inside.sort()
    return runs, copies, [error for error in closed if not isinstance(error, FileNotFoundError)]


def _link_folder(run: RunFolder, target: Path, found: LaidOut) -> None:
    """What the store asks a run's folder for."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in (*BEGUN, "card.json", CLAIM):
            if is_there(run.path / name):
                (target / name).symlink_to(run.path / name)
    except OSError as error:
        found.say(run.run, f"{run.path} cannot be read: {error.strerror}")


def _choose(run: str, attempts: Sequence[Copy], folder: Path | None, found: LaidOut) -> None:
    """Of one run's copies the last attempt's that has a record, once, and only where there is no folder of the run."""
    in_order = sorted(attempts, key=lambda copy: (copy.start, copy.folder))
    last = in_order[-1]
    with_record = [copy for copy in in_order if copy.has_record]
    if not with_record:
        if folder is None:
            found.say(run, f"{last.folder} has no tables: {why_without(last.folder)}")
        return
    chosen, *again = [copy for copy in with_record if copy.start == with_record[-1].start]
    if folder is not None:
        again = [chosen, *again]
    for copy in again:
        found.say(str(copy.folder), f"{copy.folder} is another copy of {folder or chosen.folder}")
    if folder is not None:
        return
    if last.start > chosen.start:
        found.say(run, f"{last.folder}, a later attempt, has no tables: {why_without(last.folder)}")
    files = {}
    for place, inside, names in os.walk(chosen.record):
        for name in (*names, *(name for name in inside if (Path(place) / name).is_symlink())):
            file = Path(place) / name
            if file.is_symlink():
                found.say(run, f"file {_cut(name)} was left out: it is a link")
            else:
                files[file.relative_to(chosen.record).as_posix()] = file
    found.add(run, files, COPIES)


def why_without(folder: Path) -> str:
    """What W&B's log of an attempt says of why there is no record."""
    from retrograde.record.wandb_log import read_log  # W&B takes half a second to load

    logs = sorted(folder.glob("run-*.wandb"))
    if not logs:
        return "there is no log of W&B either"
    try:
        log = read_log(logs[0])
    except (OSError, ValueError) as error:
        return str(error)
    if log.ended:
        return "the run ended without, as one of another tool does, or one that failed early"
    return "its log breaks off, since it was killed or goes on"


def _cut(name: str, longest: int = 80) -> str:
    return repr(name if len(name) <= longest else f"{name[:longest]}…")
