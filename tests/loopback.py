"""A stand-in for a W&B server, on 127.0.0.1, that remembers what it was sent.

wandb-core is a separate Go process, so nothing short of a real socket can listen to it. The stand-in
knows as many operations as `wandb sync`, an online run without artifacts, and reading such a run back through
`wandb.Api` need; whatever else is asked is refused and kept in `unknown`, so that a changed protocol fails a
test instead of passing unseen.

    with LoopbackServer() as server:
        environment = os.environ | server.environment(tmp_path)
        subprocess.run([sys.executable, "-m", "wandb", "sync", run_directory], env=environment)
        assert server.unknown == []
        server.runs["run id"].rows

A run that is there already is told so, with its counts of lines, so that who resumes it appends. `trouble` is
what the server is like: `refusing` answers 401 to everything, as to a wrong key; `failing` 500; `hanging` takes
a request and says nothing until the trouble is over. It may be set at any time.

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
    it is complete.
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

    `runs` are by run id. `unknown` names each request that had no answer, in order of arrival, with what
    went wrong where it was an answer of ours that failed. `keys` are the API keys that requests came with.
    """

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self._ready = threading.Event()
        self._ready.set()
        self._trouble: Trouble | None = None
        self.runs: dict[str, ReceivedRun] = {}
        self.unknown: list[str] = []
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

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
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

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if (method, path) == ("POST", "/graphql"):
            request = json.loads(body)
            return self._operate(request["query"], request.get("variables") or {})
        if method == "POST" and (stream := re.fullmatch(rf"/files/{ENTITY}/[^/]+/([^/]+)/file_stream", path)):
            self.runs[unquote(stream[1])].stream(json.loads(body))
            return 200, {}
        if method == "PUT" and (upload := re.fullmatch(r"/storage/([^/]+)/(.+)", path)):
            self.runs[unquote(upload[1])].files[unquote(upload[2])] = body
            return 200, {}
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
                return 200, {"data": {"project": self._project(variables, _files(variables))}}
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


def _files(variables: dict[str, Any]) -> Callable[[ReceivedRun], dict[str, Any]]:
    """A page of what was uploaded, in order of name; the cursor is a place in that order."""

    def page(run: ReceivedRun) -> dict[str, Any]:
        first = int(variables.get("fileCursor") or 0)
        names = sorted(run.files)
        last = first + variables["fileLimit"]
        nodes = [
            {
                "id": name,
                "name": name,
                "url": None,
                "directUrl": None,
                "sizeBytes": str(len(run.files[name])),
                "mimetype": "application/octet-stream",
                "updatedAt": "2026-01-01T00:00:00Z",
                "md5": base64.b64encode(hashlib.md5(run.files[name]).digest()).decode(),
            }
            for name in names[first:last]
        ]
        edges = [{"node": node, "cursor": str(at)} for at, node in enumerate(nodes, first + 1)]
        more = {"endCursor": str(last), "hasNextPage": last < len(names)}
        return {"fileCount": len(names), "files": {"edges": edges, "pageInfo": more}}

    return page


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
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: what matters is recorded."""
