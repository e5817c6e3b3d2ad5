"""The report on the same runs from every kind of source, compared byte by byte.

    python tests/round_trip.py outputs/demo                 twelve runs take about a minute
    python tests/round_trip.py outputs/demo --keep made     leaves the three reports there to be looked at

The runs are copied first, and the copies are what is read and synced, because W&B notes in a run's folder that it was.
Then `analysis/report.py` is asked three times, each time in a process of its own:

    folder     the folder of runs
    copies     W&B's offline runs alone, away from their folders
    wandb      what `analysis/sync.py` has sent to a stand-in for W&B's server, read back as a project's group

The exit code is 1 where any file of a report, the page among them, differs or is missing.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from loopback import ENTITY, LoopbackServer

ANALYSIS = Path(__file__).parents[1] / "analysis"
PROJECT = "round-trip"

Files = Mapping[str, bytes]
"""The files of a report, by their path in it."""


def reports(outputs: Path, scratch: Path) -> dict[str, Files]:
    """The report on the runs from each source, by its name; raises RuntimeError where a step does not succeed."""
    runs, copies = scratch / "runs", scratch / "copies"
    shutil.copytree(outputs, runs, symlinks=True)
    for offline in sorted(runs.rglob("offline-run-*")):
        shutil.copytree(offline, copies / offline.name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment["RETROGRADE_CACHE"] = str(scratch / "cache")  # an empty one: everything is fetched
    with LoopbackServer() as server:
        environment |= server.environment(scratch)
        done("sync.py", [str(runs), "--project", PROJECT, "--entity", ENTITY], environment)
        groups = {run.group for run in server.runs.values()}
        group = f"/{groups.pop()}" if len(groups) == 1 else ""
        sources = {"folder": str(runs), "copies": str(copies), "wandb": f"wandb:{ENTITY}/{PROJECT}{group}"}
        for name, source in sources.items():
            done("report.py", [source, "--to", str(scratch / "reports" / name)], environment)
        if server.unknown:
            raise RuntimeError(f"the server does not know {server.unknown[0]}")
        if not server.downloads:
            raise RuntimeError("nothing was read back from the server")
    return {name: contents(scratch / "reports" / name) for name in sources}


def done(script: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """A script of analysis/, to its end."""
    command = [sys.executable, str(ANALYSIS / script), *arguments]
    ended = subprocess.run(command, env=dict(environment), capture_output=True, text=True)
    if ended.returncode:
        said = (ended.stderr or ended.stdout).strip() or "it said nothing"
        raise RuntimeError(f"{script} {' '.join(arguments)} ended with {ended.returncode}: {said}")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def differing(one: Files, other: Files) -> list[str]:
    """The files that only one has, or that are not the same in both."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compares the report on the same runs from every kind of source.")
    parser.add_argument("outputs", type=Path, help="a folder of runs with their offline W&B runs, such as outputs/demo")
    parser.add_argument("--keep", type=Path, help="a folder, not there yet, in which all that is made is left")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        scratch = Path(folder) if options.keep is None else options.keep
        if options.keep is not None:
            scratch.mkdir(parents=True)
        made = reports(options.outputs, scratch.resolve())
    first, *others = made
    kinds = Counter(Path(name).suffix for name in made[first])
    print(f"{first}: {len(made[first])} files: {', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))}")
    found = {name: differing(made[first], made[name]) for name in others}
    for name, files in found.items():
        print(f"{name}: {len(made[name])} files, of which {len(files)} differ")
        print("".join(f"  {file}\n" for file in files), end="")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
