"""What wandb 0.31 puts on the wire, heard by the loopback server: the record has to arrive as it was made."""

import io
import json
import math
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy
import pytest
import wandb
from PIL import Image

from loopback import LoopbackServer, ReceivedRun

STEPS = 50
PICTURE_AT = 10
PICTURE = numpy.arange(8 * 6 * 3, dtype=numpy.uint8).reshape(8, 6, 3)
TABLE = bytes(range(256)) * 40  # stands for a parquet file; wandb does not look inside


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackServer]:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    with LoopbackServer() as server:
        for name, value in server.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        # The environment is read once per process, so a set-up left by another test would win over ours.
        wandb.teardown()
        yield server
        wandb.teardown()


def start(mode: Literal["offline", "online"], directory: Path) -> wandb.Run:
    return wandb.init(
        mode=mode,
        reinit="create_new",
        dir=directory,
        project="retrograde-tests",
        group="horizon-0421",
        name="elman 3",
        id="elman-3",
        config={"hidden": 64, "model": {"name": "elman"}, "clip": math.inf},
        settings=wandb.Settings(x_disable_stats=True, console="off"),
    )


def scalars(step: int) -> dict[str, float]:
    return {
        "loss": 1 / (step + 3),
        "gradient_norm/hidden": math.nan if step % 7 == 3 else 10.0 ** (-6 * step),
        "gradient_norm/memory": math.inf if step % 2 else -math.inf,
        "tokens": 2**53 + step,
    }


def record(run: wandb.Run) -> None:
    """Log all rows, one with a picture, and save a file that is rewritten after the call to save."""
    tables = Path(run.dir, "retrograde")
    tables.mkdir()
    (tables / "curves.parquet").write_bytes(b"early")
    run.save(str(tables / "*.parquet"), base_path=run.dir, policy="end")
    for step in range(STEPS):
        picture = {"picture": wandb.Image(PICTURE)} if step == PICTURE_AT else {}
        run.log(scalars(step) | picture)
    (tables / "curves.new").write_bytes(TABLE)
    (tables / "curves.new").replace(tables / "curves.parquet")
    run.finish()
    wandb.teardown()  # finish() returns a few milliseconds before the log is complete on disk


def sync(directory: Path) -> None:
    (run_directory,) = directory.glob("wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "sync", str(run_directory)]
    # The exit code says little (0 even when data is lost), hence the reading back in every test.
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def exactly(row: dict[str, float]) -> Any:
    """Equal without rounding, where NaN equals NaN; the wire does not tell 1.0 from 1 nor -0.0 from 0."""
    return pytest.approx(row, rel=0, abs=0, nan_ok=True)


def assert_arrived_whole(server: LoopbackServer) -> None:
    assert server.unknown == []
    assert list(server.runs) == ["elman-3"]
    run = server.runs["elman-3"]
    assert (run.project, run.group, run.name) == ("retrograde-tests", "horizon-0421", "elman 3")
    assert run.config == {"hidden": 64, "model": {"name": "elman"}, "clip": math.inf}
    assert run.exit_code == 0

    assert [row["_step"] for row in run.rows] == list(range(STEPS))
    assert "picture" in run.rows[PICTURE_AT]
    for step, row in enumerate(run.rows):
        logged = {key: value for key, value in row.items() if key != "picture" and not key.startswith("_")}
        assert logged == exactly(scalars(step))
    assert {key: run.summary[key] for key in scalars(0)} == exactly(scalars(STEPS - 1))

    picture = run.files[run.rows[PICTURE_AT]["picture"]["path"]]
    assert numpy.array_equal(numpy.asarray(Image.open(io.BytesIO(picture))), PICTURE)
    assert run.files["retrograde/curves.parquet"] == TABLE


def test_offline_run_arrives_whole_by_sync(server: LoopbackServer, tmp_path: Path) -> None:
    run = start("offline", tmp_path)
    record(run)
    assert server.runs == {}
    assert not any(path.is_symlink() for path in Path(run.dir).rglob("*"))
    sync(tmp_path)
    assert_arrived_whole(server)


def test_online_run_arrives_whole_by_finish(server: LoopbackServer, tmp_path: Path) -> None:
    record(start("online", tmp_path))
    assert_arrived_whole(server)


def test_save_picks_files_when_called_and_reads_them_at_sync(server: LoopbackServer, tmp_path: Path) -> None:
    run = start("offline", tmp_path)
    tables = Path(run.dir, "retrograde")
    (tables / "deeper").mkdir(parents=True)
    for name in ("rewritten", "appended", "deeper/unseen"):
        (tables / name).write_bytes(b"early")
    run.save(str(tables / "*"), base_path=run.dir, policy="end")
    (tables / "late").write_bytes(b"late")
    with (tables / "appended").open("ab") as file:
        file.write(b" and late")
    run.finish()
    wandb.teardown()
    (tables / "rewritten").write_bytes(b"after finish")
    sync(tmp_path)

    files = server.runs["elman-3"].files
    saved = {name: content for name, content in files.items() if name.startswith("retrograde/")}
    assert saved == {"retrograde/rewritten": b"after finish", "retrograde/appended": b"early and late"}
    assert server.unknown == []


def test_unknown_requests_are_refused_and_remembered(server: LoopbackServer) -> None:
    def ask(method: str, path: str, content: dict[str, Any]) -> int:
        body = json.dumps(content).encode()
        request = urllib.request.Request(server.url + path, body, method=method)
        with pytest.raises(urllib.error.HTTPError) as refusal, urllib.request.urlopen(request, timeout=5):
            pass
        assert json.load(refusal.value)["errors"]
        return refusal.value.code

    assert ask("POST", "/graphql", {"query": "query Sweeps { sweeps { id } }", "operationName": ""}) == 400
    assert ask("DELETE", "/files/somewhere", {}) == 400
    assert ask("POST", "/files/loopback/project/nobody/file_stream", {}) == 400  # no UpsertBucket came before
    assert server.unknown[:2] == ["Sweeps", "DELETE /files/somewhere"]
    assert "nobody" in server.unknown[2]


def test_row_sent_twice_counts_once() -> None:
    run = ReceivedRun("id", "project")
    run.stream({"files": {"wandb-history.jsonl": {"offset": 0, "content": ['{"a": 0}', '{"a": 1}']}}})
    run.stream({"files": {"wandb-history.jsonl": {"offset": 1, "content": ['{"a": 1}', '{"a": NaN}']}}})
    assert run.rows == [{"a": 0}, {"a": 1}, exactly({"a": math.nan})]
