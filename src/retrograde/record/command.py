"""The command that leads to a run again, from what Hydra recorded in its folder when it was launched."""

import shlex
from pathlib import Path

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from retrograde.core.choices import nearest
from retrograde.record.folder import RunFolder, regular, run_folders
from retrograde.record.survey import recorded

OF_THE_LAUNCH = ("hydra.mode=", "hydra.job.env_set.RETROGRADE_PLACE=", "hydra.sweeper", "hydra/sweeper")
"""Settings of Hydra's that a sweep has and one run of it does without."""


def command(root: Path, asked: str) -> str:
    """The command line that leads to that run below ``root``; raises ValueError, in one line, where there is none.

    It is what was recorded beside the run when it was launched. In a sweep that is the one job, with a launcher of its
    own where one was chosen.
    """
    folder = found(root, asked)
    record = folder.path / ".hydra"
    if not record.is_dir():
        said = recorded(folder)
        if said and "outputs" not in said["config"]:
            raise ValueError(f"{folder.run} was made from Python, by retrograde.fit: there is no command for it")
        raise ValueError(f"{record} is missing, which holds the command that {folder.run} was launched with")
    file = record / "hydra.yaml"
    try:
        hydra = yaml.safe_load(regular(file).read_text())["hydra"]
        overrides, runtime = hydra["overrides"], hydra["runtime"]
        settings = [str(text) for text in overrides["task"]]
        own = [str(text) for text in overrides["hydra"] if not text.lstrip("+~").startswith(OF_THE_LAUNCH)]
        name, cwd = str(hydra["job"]["config_name"]), Path(runtime["cwd"])
        sources = [source["path"] for source in runtime["config_sources"] if source["provider"] == "command-line"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    flags = [] if name == "train" else ["--config-name", name]
    for source in sources:
        flags += ["--config-dir", str(source)]
    if any(text.startswith("launcher=") for text in settings):
        own.append("hydra.mode=MULTIRUN")
    elif any(text.startswith("study=") for text in settings):
        own.append("hydra.mode=RUN")  # a study makes a sweep of itself
    line = shlex.join(["retrograde", *flags, *settings, *own])
    if cwd != Path.cwd() and cwd.is_dir():
        line = f"cd {shlex.quote(str(cwd))} && {line}"
    if not line.isprintable():
        raise ValueError(f"{file} holds what cannot be printed: {line}")
    return line


def found(root: Path, asked: str) -> RunFolder:
    """The run of that name or folder, or the only one whose name begins or ends so; raises ValueError for none."""
    folders = list(run_folders(root)) if root.is_dir() else []
    path = Path(asked).resolve()
    exact = [folder for folder in folders if folder.run == asked or folder.path == path]
    near = [folder for folder in folders if folder.run.startswith(asked) or folder.run.endswith(asked)]
    if exact:
        return exact[0]
    if len(near) == 1:
        return near[0]
    if near:
        raise ValueError(f"'{asked}' may be any of {len(near)} runs, such as {near[0].run} or {near[1].run}")
    hint = nearest(asked, [folder.run for folder in folders])
    raise ValueError(f"there is no run '{asked}' below '{root}'{hint}")
