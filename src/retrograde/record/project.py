"""The runs of a W&B project: their records, each file of which is fetched once.

    <cache>/wandb/<server>/<entity>/<project>/<run>/<md5>

A file is kept under W&B's own digest, so that what has changed, as of a run that goes on, is fetched anew, and what has
not is not. It counts once it is of the size and the digest that W&B has said. The folder can be deleted at any time.

A record is the run's files below ``retrograde/``; of a run without, the files of the newest artifact that it has logged
with the type ``retrograde``. History is no substitute: it has no card of the task, and what a resumed run did again
stands there twice. A run that has nothing else is named with what it has.
"""

import base64
import hashlib
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit

import wandb
from wandb.apis.public import File, Files, RunArtifacts, Runs
from wandb.apis.public.artifacts import ArtifactFiles
from wandb.apis.public.service_api import ServiceApi
from wandb.proto import wandb_api_pb2 as protocol
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from retrograde.core.cache import cache_folder
from retrograde.record.folder import aside
from retrograde.record.metadata import LARGEST, LONGEST, shown
from retrograde.record.secret import redacted
from retrograde.record.sources import METADATA, PLACES, RECORD, REMOTE, LaidOut, is_plain, place_of

SOURCE = re.compile(rf"{REMOTE}(?P<entity>[^/]+)/(?P<project>[^/]+)(?:/(?P<group>.+))?")

LARGEST_TABLE, MOST_FILES = 8 * 2**30, 5_000
"""Bytes of a table's file and files of a record, beyond which neither is fetched; W&B's answer may say anything."""

TIMEOUT, SLOWEST = 30, 10_000
"""Seconds that W&B has for an answer; bytes a second below which a download has failed."""

UNANSWERED = "did not respond in time"
"""What W&B says of its own process where a server is silent, or is not there."""

TOGETHER = 8
"""Runs that are read at a time."""

PAGE, NAMED = 500, 10
"""What is asked for at a time; projects that are named where one is unknown."""

PREFIX = f"{RECORD}/"


@dataclass(frozen=True)
class Listed:
    """A run as W&B lists it. Its own object makes a folder of the run's name, wherever that leads."""

    entity: str
    project: str
    id: str
    state: str
    rows: int


@dataclass
class Fetched:
    """A run's record by name, as files below the cache; what was left out; how many came now, how many were here."""

    run: Listed
    files: dict[str, Path] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    new: int = 0
    known: int = 0


class _Nodes(Runs):
    def convert_objects(self) -> list[Any]:
        answer = self.last_response or {}
        if answer.get("project") is None:
            raise LookupError(self.project)
        return [edge["node"] for edge in answer["project"]["runs"]["edges"]]


def lay_out(source: str, found: LaidOut) -> None:
    """Adds every run of the project, or group; raises ValueError, in one line, where the project cannot be read."""
    named = SOURCE.fullmatch(source)
    if named is None:
        raise ValueError(f"'{shown(source)}' names no project of W&B: write {REMOTE}entity/project or …/project/group")
    entity, project, group = named["entity"], named["project"], named["group"]
    try:
        api = wandb.Api(timeout=TIMEOUT)
        service = api._service_api
        runs = _listed(service, entity, project, group)
        if not runs:
            whose = f"its group '{shown(group)}'" if group else "it"
            raise ValueError(f"W&B's project '{shown(project)}' of '{shown(entity)}' is there, and {whose} has no run")
        cache = cache_folder() / "wandb" / quote(urlsplit(api.settings["base_url"]).netloc, safe="") / entity / project
        with ThreadPoolExecutor(TOGETHER) as pool:
            fetched = list(pool.map(lambda run: _fetched(service, run, cache), runs))
    except LookupError:
        raise ValueError(_unknown(api, entity, project)) from None
    except (wandb.Error, WandbApiFailedError) as error:
        raise ValueError(_in_words(error)) from None
    for one in fetched:
        for what in one.left_out:
            found.say(one.run.id, what)
        if one.files:
            found.add(one.run.id, one.files)
    new, known = sum(one.new for one in fetched), sum(one.known for one in fetched)
    said = f"{source}: {len(runs)} runs; {new} files fetched, {known} were here already"
    print(shown(said), file=sys.stderr, flush=True)


def _listed(service: ServiceApi, entity: str, project: str, group: str | None) -> list[Listed]:
    """All runs, over as many pages as it takes; raises LookupError where there is no such project."""
    if not (is_plain(entity) and is_plain(project)):
        raise LookupError(project)
    wanted = {"group": group} if group else {}
    nodes = cast(Iterable[Mapping[str, Any]], _Nodes(service, entity, project, filters=wanted, per_page=PAGE))
    return [
        Listed(entity, project, node["name"], str(node["state"]), int(node["historyLineCount"] or 0)) for node in nodes
    ]


def _fetched(service: ServiceApi, run: Listed, cache: Path) -> Fetched:
    """A run's record; what cannot be had of it is said, and costs the others nothing."""
    one = Fetched(run)
    if not is_plain(run.id):
        one.left_out.append("a run's name must be one that a folder can have")
        return one
    try:
        found = _record(service, run)
    except (wandb.Error, WandbApiFailedError, AttributeError, LookupError, TypeError, ValueError) as error:
        if _is_unreached(error):
            raise
        one.left_out.append(f"W&B does not say what it holds of the run: {_in_words(error)}")
        return one
    if METADATA not in found:
        has = f"{run.rows:,} rows of history" if run.rows else "no history either"
        one.left_out.append(f"its tables are not in W&B, where it is {shown(run.state)} and has {has}")
        return one
    if len(found) > MOST_FILES:
        one.left_out.append(f"its record has more than {MOST_FILES:,} files")
        return one
    for name, file in found.items():
        try:
            one.files[name], is_new = _kept(service, name, file, cache / run.id)
            one.new += is_new
            one.known += not is_new
        except (wandb.Error, WandbApiFailedError, OSError, TypeError, ValueError) as error:
            if _is_unreached(error):
                raise
            one.left_out.append(f"file {shown(name)[:LONGEST]!r} was left out: {_in_words(error)}")
    if METADATA not in one.files:  # nobody could tell what the rest is of
        one.files.clear()
    return one


def _record(service: ServiceApi, run: Listed) -> dict[str, File]:
    """The files of a run's record by their names in it; empty where it has none. One more than may be is enough."""
    listed = Files(service, cast(Any, run), per_page=PAGE, pattern=f"{PREFIX}%")
    found = _named(islice((file for file in listed if file.name.startswith(PREFIX)), MOST_FILES + 1))
    if METADATA in found:
        return found
    # newest first is nowhere promised
    artifacts = sorted(RunArtifacts(service, cast(Any, run)), key=lambda artifact: artifact.created_at, reverse=True)
    for artifact in artifacts:
        if artifact.type == RECORD:
            files = _named(islice(ArtifactFiles(service, artifact, per_page=PAGE), MOST_FILES + 1))
            if METADATA in files:
                return files
    return found


def _named(files: Iterable[File]) -> dict[str, File]:
    return {file.name.removeprefix(PREFIX): file for file in files}


def _kept(service: ServiceApi, name: str, file: File, folder: Path) -> tuple[Path, bool]:
    """The file as it is kept, and whether it came just now; raises ValueError where it is not what W&B says."""
    if place_of(name) is None:
        raise ValueError("it is none of a record's")
    size, largest = file.size, LARGEST if name in PLACES else LARGEST_TABLE
    if not 0 <= size <= largest:
        raise ValueError(f"it has {size:,} bytes, more than the {largest:,} that it may")
    digest = base64.b64decode(file.md5 or "", validate=True)
    if len(digest) != hashlib.md5(usedforsecurity=False).digest_size:
        raise ValueError("W&B gives no digest of it")
    kept = folder / digest.hex()
    if kept.is_file() and kept.stat().st_size == size:
        return kept, False
    url = str(file.url)
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("it is not kept by W&B")
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ValueError(f"it has {size:,} bytes, more than the {free:,} that are free in {folder}")
    with aside(kept) as unfinished:
        wanted = protocol.DownloadFileRequest(  # type: ignore[attr-defined]  # made when it is loaded
            path=str(unfinished), url=url, size=size
        )
        request = protocol.ApiRequest(download_file_request=wanted)  # type: ignore[attr-defined]
        service.send_api_request(request, timeout=TIMEOUT + size / SLOWEST)
        came = unfinished.stat().st_size
        if came != size:
            raise ValueError(f"{came:,} bytes came of {size:,}")
        if md5_of(unfinished) != digest:
            raise ValueError("what came is not what was uploaded, by its md5")
    return kept, True


def md5_of(file: Path) -> bytes:
    """What W&B knows files by."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).digest()


def _unknown(api: wandb.Api, entity: str, project: str) -> str:
    """What is wrong with the name of a project that is not there, with the names of those that are."""
    try:
        known: Sequence[str] = [one.name for one in islice(api.projects(entity), NAMED)]
    except (wandb.Error, WandbApiFailedError, ValueError):  # W&B has no such entity, or does not say
        known = []
    if known:
        names = ", ".join(shown(name)[:LONGEST] for name in known)
        return f"W&B has no project '{shown(project)}' of '{shown(entity)}' that you may see; there are {names}"
    return f"W&B has no user or team '{shown(entity)}' with a project that you may see"


def _is_unreached(error: BaseException) -> bool:
    """Whether W&B's process got no answer, as against one that says no."""
    cause = error.__cause__ if isinstance(error, wandb.Error) else error
    return isinstance(cause, WandbApiFailedError) and cause.response is None


def _in_words(error: Exception) -> str:
    """One line, without keys."""
    first = redacted(next(iter(str(error).strip().splitlines()), type(error).__name__))
    first = first if len(first) <= LONGEST else f"{first[:LONGEST]}…"
    if _is_unreached(error):
        return f"W&B cannot be reached: {f'no answer within {TIMEOUT} s' if UNANSWERED in first else first}"
    if isinstance(error, wandb.errors.AuthenticationError):
        return f"W&B refuses the key: {first}; log in with `wandb login`"
    return first
