"""A stand-in for a W&B server, on 127.0.0.1, that remembers what it was sent.

wandb-core is a separate Go process, so nothing short of a real socket can listen to it. The stand-in
knows as many operations as `wandb sync`, an online run without artifacts, and reading runs back through
`wandb.Api` need: a project's runs by pages and group, their history, files and artifacts; whatever else is asked is
refused and kept in `unknown`, so that a changed protocol fails a test instead of passing unseen.

    with LoopbackServer() as server:
        environment = os.environ | server.environment(tmp_path)
        subprocess.run([sys.executable, "-m", "wandb", "sync", run_directory], env=environment)
        assert server.unknown == []
        server.runs["run id"].rows

A run that is there already is told so, with its counts of lines, so that who resumes it appends. `trouble` is
what the server is like: `refusing` answers 401 to everything, as to a wrong key; `failing` 500; `hanging` takes
a request and says nothing until the trouble is over. It may be set at any time. A test may put runs, files and
`artifacts` of its own there, and say in `claimed` what the server tells of a file's size, digest or place instead of
the truth.

Answers contain more than was asked for: field selection is ignored. So this tests what our side sends,
not what a server would make of it.

Source: requests of wandb 0.31.0, as seen on this socket.
"""

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote, unquote

ENTITY = "loopback"
HISTORY, SUMMARY, EVENTS, OUTPUT = "wandb-history.jsonl", "wandb-summary.json", "wandb-events.jsonl", "output.log"

Trouble = Literal["refusing", "failing", "hanging"]


@dataclass
class ReceivedRun:
    """One run, as far as it has arrived.

    `name` is the display name. `files` are whole uploads by their path under the run's `files/`.
    `streams` are the appended files, line number -> line: a line that is sent twice, as after a broken
    connection, counts once. `alerts` are in order of arrival. `exit_code` stays None until the run has said that
    it is complete. `artifacts` are those that it has logged, type and files by name, the oldest first. `claimed` are
    fields of what is said of a file, by its name.
    """

    id: str
    project: str
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    streams: dict[str, dict[int, str]] = field(default_factory=dict)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None
    artifacts: dict[str, tuple[str, dict[str, bytes]]] = field(default_factory=dict)
    claimed: dict[str, dict[str, Any]] = field(default_factory=dict)
    sent_config: str = "{}"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """History in order of line. Bare NaN and Infinity are read as floats; 1.0 arrives as 1."""
        return [json.loads(line) for line in self.lines(HISTORY)]

    def lines(self, stream: str) -> list[str]:
        """What was appended to a stream, in order of line."""
        numbered = self.streams.get(stream, {})
        return [numbered[number] for number in sorted(numbered)]

    def count(self, stream: str) -> int:
        """The line from which on one appends."""
        return max(self.streams.get(stream, {}), default=-1) + 1

    @property
    def summary(self) -> dict[str, Any]:
        """The newest summary; every post carries all of it as line 0."""
        summary: dict[str, Any] = json.loads(self.streams.get(SUMMARY, {}).get(0, "{}"))
        return summary

    def describe(self, variables: dict[str, Any]) -> None:
        """Take over the variables of UpsertBucket, in which null means "as before"."""
        fields = {"displayName": "name", "groupName": "group", "jobType": "job_type"}
        for variable in ("displayName", "groupName", "jobType", "notes", "tags"):
            if variables[variable] is not None:
                setattr(self, fields.get(variable, variable), variables[variable])
        if variables["config"] is not None:
            self.sent_config = variables["config"]
            config = json.loads(self.sent_config)
            config.pop("_wandb", None)  # what W&B notes about itself: versions, host, telemetry
            self.config = {key: entry["value"] for key, entry in config.items()}

    def stream(self, post: dict[str, Any]) -> None:
        """Take over one file_stream post."""
        for name, chunk in post.get("files", {}).items():
            lines = self.streams.setdefault(name, {})
            lines.update(enumerate(chunk["content"], start=chunk["offset"]))
        if post.get("complete"):
            self.exit_code = post["exitcode"]


class LoopbackServer:
    """Listens from `__enter__` to `__exit__`, on a port the system picks.

    `runs` are by run id, `downloads` the files that were fetched, as run/file. `unknown` names each request that had
    no answer, in order of arrival, with what went wrong where it was an answer of ours that failed. `keys` are the API
    keys that requests came with.
    """

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self._ready = threading.Event()
        self._ready.set()
        self._trouble: Trouble | None = None
        self.runs: dict[str, ReceivedRun] = {}
        self.unknown: list[str] = []
        self.downloads: list[str] = []
        self._lock = threading.Lock()
        self._http = _QuietHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.loopback = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.trouble = None
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def trouble(self) -> Trouble | None:
        return self._trouble

    @trouble.setter
    def trouble(self, trouble: Trouble | None) -> None:
        self._trouble = trouble
        if trouble == "hanging":
            self._ready.clear()
        else:
            self._ready.set()

    def environment(self, directory: Path) -> dict[str, str]:
        """Variables that lead wandb here and keep all that it writes under `directory`."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "0" * 40,  # the client checks no more than the length
            "WANDB_SILENT": "true",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_DISABLE_CODE": "true",
            "WANDB_DIR": str(directory),  # without it `wandb sync` puts its logs into the working directory
            "WANDB_CACHE_DIR": str(directory / "wandb-cache"),
            "WANDB_CONFIG_DIR": str(directory / "wandb-config"),
            "WANDB_DATA_DIR": str(directory / "wandb-data"),
        }

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any] | bytes]:
        """Status and content of the answer to one request; what it says is recorded on the way."""
        self._ready.wait()
        if self.trouble is not None:
            status = {"refusing": 401}.get(self.trouble, 500)
            return status, {"data": None, "errors": [{"message": f"the loopback server is {self.trouble}"}]}
        with self._lock:
            try:
                return self._answer(method, path, body)
            except (AttributeError, LookupError, TypeError, ValueError) as error:  # not of the form we know
                return self._refuse(f"{method} {path}: {error!r}")

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any] | bytes]:
        if (method, path) == ("POST", "/graphql"):
            request = json.loads(body)
            return self._operate(request["query"], request.get("variables") or {})
        if method == "POST" and (stream := re.fullmatch(rf"/files/{ENTITY}/[^/]+/([^/]+)/file_stream", path)):
            self.runs[unquote(stream[1])].stream(json.loads(body))
            return 200, {}
        if method == "PUT" and (upload := re.fullmatch(r"/storage/([^/]+)/(.+)", path)):
            self.runs[unquote(upload[1])].files[unquote(upload[2])] = body
            return 200, {}
        if method == "GET" and (wanted := re.fullmatch(r"/storage/([^/]+)/(.+)", path)):
            run, name = self.runs[unquote(wanted[1])], unquote(wanted[2])
            self.downloads.append(f"{run.id}/{name}")
            held = {
                f"{of}:{file}": content for of, (_, files) in run.artifacts.items() for file, content in files.items()
            }
            return 200, (run.files | held)[name]
        return self._refuse(f"{method} {path}")

    def _operate(self, query: str, variables: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        # The field "operationName" is often empty, so the name is taken from the text.
        operation = re.search(r"\b(?:query|mutation|subscription)\s+(\w+)", query)
        match operation[1] if operation else "nameless":
            case "UpsertBucket":
                return 200, {"data": {"upsertBucket": self._upsert_bucket(variables)}}
            case "CreateRunFiles":
                return 200, {"data": {"createRunFiles": self._create_run_files(variables)}}
            case "NotifyScriptableRunAlert":
                run = self.runs[variables["runName"]]
                run.alerts.append({name: variables[name] for name in ("title", "text", "severity")})
                return 200, {"data": {"notifyScriptableRunAlert": {"success": True}}}
            case "RunResumeStatus":
                return 200, {"data": {"model": self._resume_status(variables["project"], variables["name"])}}
            case "Viewer" | "GetDefaultEntity":
                return 200, {"data": {"viewer": _VIEWER}}
            case "Run" | "RunHistoryKeys" | "RunParquetHistory":
                return 200, {"data": {"project": self._project(variables)}}
            case "HistoryPage":
                return 200, {"data": {"project": self._project(variables, _history(variables))}}
            case "RunFiles":
                return 200, {"data": {"project": self._project(variables, self._files(variables))}}
            case "Runs":
                return 200, {"data": {"project": self._runs(variables)}}
            case "GetProjects":
                return 200, {"data": {"models": self._projects(variables["entity"])}}
            case "ServerFeaturesQuery":
                return 200, {"data": {"serverInfo": {"features": []}}}
            case "RunOutputArtifacts":
                return 200, {"data": {"project": self._project(variables, _artifacts)}}
            case "ArtifactMembershipFiles":
                return 200, {"data": {"project": self._artifact_files(variables)}}
            case "OrganizationCoreWeaveOrganizationID":  # asked by the monitor of an online run's machine
                return 200, {"data": {"entity": {"organization": {"coreWeaveOrganizationId": None}}}}
            case name:
                return self._refuse(name)

    def _upsert_bucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        run_id, project = variables["name"], variables["project"]
        inserted = run_id not in self.runs
        run = self.runs.setdefault(run_id, ReceivedRun(run_id, project))
        if run.project != project:
            raise ValueError(f"one id, one project; run {run_id!r} came for {run.project!r} and {project!r}")
        run.describe(variables)
        return {
            "bucket": {
                "id": run_id,
                "name": run_id,
                "displayName": run.name or run_id,
                "description": run.notes,
                "config": "{}",
                "sweepName": None,
                "historyLineCount": run.count(HISTORY),
                "project": {"id": project, "name": project, "entity": {"id": ENTITY, "name": ENTITY}},
            },
            "inserted": inserted,
        }

    def _resume_status(self, project: str, name: str) -> dict[str, Any]:
        """The run as far as it is there, for who goes on with it; no bucket where it is not."""
        run = self.runs.get(name)
        found = run is not None and run.project == project
        return {
            "id": project,
            "name": project,
            "entity": {"id": ENTITY, "name": ENTITY},
            "bucket": _bucket(run) if run is not None and found else None,
        }

    def _project(
        self, variables: dict[str, Any], part: Callable[[ReceivedRun], dict[str, Any]] = lambda run: {}
    ) -> dict[str, Any]:
        """A project with the one run that is asked for; none where there is no such run."""
        run = self.runs.get(variables.get("runName") or variables.get("run") or variables["name"])
        if run is None or run.project != variables["project"] or variables["entity"] != ENTITY:
            return {"id": variables["project"], "internalId": "1", "run": None}
        return {"id": run.project, "internalId": "1", "run": {**_read_back(run), **part(run)}}

    def _runs(self, variables: dict[str, Any]) -> dict[str, Any] | None:
        """A page of a project's runs in order of arrival, all or those of a group; null where there is no project."""
        known = [run for run in self.runs.values() if run.project == variables["project"]]
        if not known or variables["entity"] != ENTITY:
            return None
        filters = json.loads(variables["filters"])
        if filters.keys() - {"group"}:
            raise ValueError(f"filters {filters}")
        chosen = [run for run in known if filters.get("group", run.group) == run.group]
        nodes = [_read_back(run) for run in chosen]
        runs = _page(nodes, int(variables.get("cursor") or 0), variables["perPage"])
        return {"internalId": "1", "runCount": len(chosen), "readOnly": False, "runs": runs}

    def _projects(self, entity: str) -> dict[str, Any]:
        """What an entity has; one that there is not has nothing."""
        names = dict.fromkeys(run.project for run in self.runs.values()) if entity == ENTITY else ()
        nodes = [
            {
                "__typename": "Project",
                "id": name,
                "name": name,
                "entityName": entity,
                "createdAt": "2026-01-01T00:00:00Z",
                "isBenchmark": False,
                "user": None,
            }
            for name in names
        ]
        return _page(nodes, 0, len(nodes))

    def _files(self, variables: dict[str, Any]) -> Callable[[ReceivedRun], dict[str, Any]]:
        """A page of what was uploaded, in order of name; of patterns, those that say how a name begins."""
        pattern = variables.get("pattern") or "%"
        if not pattern.endswith("%"):
            raise ValueError(f"pattern {pattern!r}")

        def page(run: ReceivedRun) -> dict[str, Any]:
            files = {name: content for name, content in sorted(run.files.items()) if name.startswith(pattern[:-1])}
            held = _page(self._described(run, files), int(variables.get("fileCursor") or 0), variables["fileLimit"])
            return {"fileCount": len(run.files), "files": held}

        return page

    def _artifact_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        """A page of the files of an artifact."""
        (run,) = (run for run in self.runs.values() if variables["collection"] in run.artifacts)
        files = self._described(run, run.artifacts[variables["collection"]][1], f"{variables['collection']}:")
        held = _page(files, int(variables.get("cursor") or 0), variables["perPage"])
        return {"artifactCollection": {"__typename": "ArtifactSequence", "artifactMembership": {"files": held}}}

    def _described(self, run: ReceivedRun, files: dict[str, bytes], prefix: str = "") -> list[dict[str, Any]]:
        """What is said of files; the prefix tells an artifact's from the run's where they are fetched."""
        return [
            {
                "id": name,
                "name": name,
                "url": (url := f"{self.url}/storage/{quote(run.id, safe='')}/{quote(prefix + name)}"),
                "directUrl": url,
                "sizeBytes": len(content),
                "storagePath": None,
                "mimetype": "application/octet-stream",
                "updatedAt": "2026-01-01T00:00:00Z",
                "digest": None,
                "md5": base64.b64encode(hashlib.md5(content).digest()).decode(),
                **run.claimed.get(name, {}),
            }
            for name, content in files.items()
        ]

    def _create_run_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        run_id = variables["run"]
        address = f"{self.url}/storage/{quote(run_id, safe='')}"
        files = [{"name": name, "uploadUrl": f"{address}/{quote(name)}"} for name in variables["files"]]
        return {"runID": run_id, "uploadHeaders": [], "files": files}

    def _refuse(self, what: str) -> tuple[int, dict[str, Any]]:
        self.unknown.append(what)
        # 400 and not 404 or 5xx: the client gives up at once instead of trying again.
        return 400, {"data": None, "errors": [{"message": f"the loopback server does not know {what}"}]}


_VIEWER = {
    "id": "viewer",
    "entity": ENTITY,
    "defaultEntity": {"name": ENTITY},
    "username": ENTITY,
    "email": None,
    "flags": "{}",
    "teams": {"edges": []},
}


def _bucket(run: ReceivedRun) -> dict[str, Any]:
    """What who resumes a run is told of it."""
    config = json.loads(run.sent_config)
    begun = config.get("_wandb", {}).get("value", {})
    return {
        "id": run.id,
        "name": run.id,
        "displayName": run.name,
        "summaryMetrics": json.dumps(run.summary),
        "logLineCount": run.count(OUTPUT),
        "historyLineCount": run.count(HISTORY),
        "eventsLineCount": run.count(EVENTS),
        "historyTail": json.dumps(run.lines(HISTORY)[-1:]),
        "eventsTail": json.dumps(run.lines(EVENTS)[-1:]),
        "config": run.sent_config,
        "tags": run.tags,
        "notes": run.notes,
        "wandbConfig": json.dumps({"t": begun["t"]} if "t" in begun else {}),
    }


def _read_back(run: ReceivedRun) -> dict[str, Any]:
    """A run as `wandb.Api` asks for it."""
    steps = [row["_step"] for row in run.rows]
    state = {None: "running", 0: "finished"}.get(run.exit_code, "failed")
    return {
        **_bucket(run),
        "projectId": "1",
        "state": state,
        "group": run.group,
        "jobType": run.job_type,
        "sweepName": None,
        "commit": None,
        "readOnly": False,
        "createdAt": "2026-01-01T00:00:00Z",
        "heartbeatAt": "2026-01-01T00:00:00Z",
        "description": None,
        "systemMetrics": "{}",
        "user": {"name": ENTITY, "username": ENTITY},
        "historyKeys": {"lastStep": max(steps, default=-1), "keys": {}},
        "parquetHistory": {"parquetUrls": [], "liveData": []},
    }


def _history(variables: dict[str, Any]) -> Callable[[ReceivedRun], dict[str, Any]]:
    """The rows from one step up to before another, as texts."""

    def page(run: ReceivedRun) -> dict[str, Any]:
        low, high = variables["minStep"], variables["maxStep"]
        chosen = [line for line in run.lines(HISTORY) if low <= json.loads(line)["_step"] < high]
        return {"history": sorted(chosen, key=lambda line: json.loads(line)["_step"])[: variables["pageSize"]]}

    return page


def _artifacts(run: ReceivedRun) -> dict[str, Any]:
    """What it has logged, all on one page; each is the first version of its name."""
    nodes = [
        {
            "id": name,
            "artifactSequence": {"name": name, "project": _project_info(run.project)},
            "versionIndex": 0,
            "artifactType": {"name": kind},
            "description": None,
            "metadata": None,
            "ttlDurationSeconds": -2,
            "ttlIsInherited": False,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED",
            "size": sum(map(len, files.values())),
            "digest": name,
            "commitHash": None,
            "fileCount": len(files),
            "createdAt": f"2026-01-01T00:00:{at:02}Z",
            "updatedAt": None,
            "aliases": [],
        }
        for at, (name, (kind, files)) in enumerate(run.artifacts.items())
    ]
    return {"artifacts": {"totalCount": len(nodes), **_page(nodes, 0, len(nodes))}}


def _project_info(project: str) -> dict[str, Any]:
    return {"id": project, "internalId": "1", "name": project, "entity": {"name": ENTITY}}


def _page(nodes: list[dict[str, Any]], first: int, count: int) -> dict[str, Any]:
    """Some of the nodes; the cursor is a place in their order."""
    last = first + count
    edges = [{"node": node, "cursor": str(at)} for at, node in enumerate(nodes[first:last], first + 1)]
    return {"edges": edges, "pageInfo": {"endCursor": str(last), "hasNextPage": last < len(nodes)}}


class _QuietHTTPServer(ThreadingHTTPServer):
    loopback: LoopbackServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        # wandb-core resets its connections when it leaves; that is no news.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _QuietHTTPServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            self.server.loopback.keys.add(base64.b64decode(credentials).decode().removeprefix("api:"))
        status, content = self.server.loopback.answer(self.command, self.path, body)
        is_file = isinstance(content, bytes)
        encoded = content if is_file else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if is_file else "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: what matters is recorded."""
