"""The same runs give the same tables and figures from a folder, from offline runs copied elsewhere and from W&B."""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import wandb

from fake_runs import CARD, Fake, write_run
from loopback import ENTITY, HISTORY, LoopbackServer, ReceivedRun
from retrograde.core.records import Reading
from retrograde.core.statistics import STATISTICS
from retrograde.figures.question import imported, main
from retrograde.record.folder import RunFolder
from retrograde.record.project import LARGEST_TABLE
from retrograde.record.recorder import RunRecorder
from retrograde.record.sources import PLACES, LaidOut, opened
from retrograde.record.store import FolderStore
from retrograde.record.view import Mode, WandbView

pytestmark = pytest.mark.heavy

ANALYSIS = Path(__file__).parents[2] / "analysis"
PROJECT = "project"
SOURCE = f"wandb:{ENTITY}/{PROJECT}"

FAKES = (
    Fake("lstm", 0, components=("hidden", "cell")),
    Fake("lstm", 1, components=("hidden", "cell"), solved=False),
    Fake("elman", 0, solved=False, keeps=(0.3, 0.3)),
)


def script(stem: str) -> ModuleType:
    return imported(ANALYSIS / f"{stem}.py")


def viewed(folder: RunFolder, mode: Mode = "offline", group: str = "demo") -> None:
    """The W&B run of a folder that has its tables."""
    view = WandbView(folder.path, folder.read(), mode, PROJECT, ENTITY, group)
    view.metrics(100, {"train/loss": 0.2})
    view.close(folder, {}, failed=False)
    assert view.failures == {}


def copied(folder: RunFolder, to: Path) -> Path:
    """The offline run alone, elsewhere."""
    (offline,) = folder.path.glob("wandb/offline-run-*")
    return Path(shutil.copytree(offline, to / offline.name))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Iterator[Path]:
    """Folders of runs, each with its offline run."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        wandb.teardown()
        root = tmp_path_factory.mktemp("runs")
        for fake in FAKES:
            viewed(write_run(root, fake))
        wandb.teardown()
        yield root


@pytest.fixture
def offline(outputs: Path, tmp_path: Path) -> Path:
    """The offline runs, copied from elsewhere."""
    target = tmp_path / "copied" / "from" / "a-cluster"
    for folder in FolderStore(outputs).folders.values():
        copied(folder, target / folder.run[:2])
    return tmp_path / "copied"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("RETROGRADE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def there(server: LoopbackServer, outputs: Path, kept: Path) -> LoopbackServer:
    """A server that holds the runs of ``outputs``, as if all had been sent."""
    for folder in FolderStore(outputs).folders.values():
        put(server, folder)
    return server


def put(server: LoopbackServer, folder: RunFolder, group: str = "demo") -> ReceivedRun:
    run = ReceivedRun(folder.run, PROJECT, group=group, exit_code=0, files=record(folder) | {"config.yaml": b"x"})
    server.runs[folder.run] = run
    return run


def record(folder: RunFolder) -> dict[str, bytes]:
    """The files of a run as W&B has them."""
    files = {f"retrograde/{name}": (folder.path / place).read_bytes() for name, place in PLACES.items()}
    tables = {file.relative_to(folder.tables).as_posix(): file for file in folder.tables.rglob("*.parquet")}
    return files | {f"retrograde/{name}": file.read_bytes() for name, file in tables.items()}


def everything(store: FolderStore) -> dict[str, pd.DataFrame]:
    found = {name: store.readings(name) for name in store.tables()}
    return found | {"runs": store.runs(), "metrics": store.metrics(), "labels": store.labels()}


def assert_same(source: str | Path, outputs: Path) -> None:
    expected = FolderStore(outputs)
    with opened(str(source)) as store:
        assert store.unreadable == {}
        assert {run: store.card(run) for run in store.folders} == {run: expected.card(run) for run in expected.folders}
        found, wanted = everything(store), everything(expected)
    assert found.keys() == wanted.keys()
    for name, table in wanted.items():
        pd.testing.assert_frame_equal(found[name], table, check_exact=True)


def left_out(source: str | Path) -> dict[str, str]:
    with opened(str(source)) as store:
        return dict(store.unreadable)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_runs_is_read_where_it_is(outputs: Path) -> None:
    with opened(str(outputs)) as store:
        assert store.root == outputs
    assert_same(outputs, outputs)


def test_offline_runs_copied_from_elsewhere_are_their_folders(offline: Path, outputs: Path) -> None:
    assert_same(offline, outputs)


def test_a_project_is_the_folder_that_was_sent_there(there: LoopbackServer, outputs: Path) -> None:
    assert_same(SOURCE, outputs)
    assert there.unknown == []


def test_three_sources_give_the_same_bytes(
    there: LoopbackServer,
    outputs: Path,
    offline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report, reach, made = script("report"), script("reach"), {}
    monkeypatch.setattr(report, "questions", lambda: {"reach": reach})  # the others are drawn of the same tables
    for name, source in {"folder": outputs, "offline": offline, "project": SOURCE}.items():
        assert report.main([str(source), "--to", str(tmp_path / name)]) == 0, capsys.readouterr()
        made[name] = contents(tmp_path / name)
    kinds = {Path(name).suffix for name in made["folder"]}
    assert {".svg", ".pdf", ".png", ".csv", ".tex", ".txt", ".html"} <= kinds
    for name in ("offline", "project"):
        assert made[name].keys() == made["folder"].keys()
        assert [file for file, content in made["folder"].items() if made[name][file] != content] == []
    capsys.readouterr()

    assert main(reach, [SOURCE, "--to", str(tmp_path / "question")]) == 0
    assert contents(tmp_path / "question").items() <= made["folder"].items()
    assert capsys.readouterr().err.endswith(" were here already\n")
    assert main(reach, [SOURCE]) == 1
    assert capsys.readouterr().err == f"say where to write with --to: '{SOURCE}' is no folder\n"


def trained(outputs: Path, mode: Mode) -> RunFolder:
    """A run as a recorder writes it, with all that tables can hold and a text for each of W&B's own."""
    folder = RunFolder(outputs / "demo" / f"{mode}-s0-0123456789")
    folder.path.mkdir(parents=True)
    folder.write_card(CARD)
    metadata = {"run": folder.run, "study": "demo", "model": "gru", "task": "adding", "seed": 0, "config": {"x": 0.1}}
    view = WandbView(folder.path, metadata, mode, PROJECT, ENTITY, "demo")
    recorder = RunRecorder(folder, metadata, view)
    recorder.labels([["0.1", "<b>", "é"]], np.array([[False, False, True]]))
    values = np.full((len(STATISTICS), 3), [0.0, -math.inf, math.nan])
    for step in (0, 7):
        recorder.metrics(step, {"train/loss": 1 / 3 + step, "train/score": math.nan, "train/norm": math.inf})
        over_lag = Reading("relative/0.forward.hidden", values, {"statistic": STATISTICS, "lag": range(3)}, "log10")
        recorder.readings(step, "lag_gradient", [over_lag])
    recorder.close("finished", {"score": 0.1 + 0.2, "loss": math.inf, "solved": False})
    assert view.failures == {}
    return folder


def test_what_is_logged_online_is_read_back(server: LoopbackServer, tmp_path: Path, kept: Path) -> None:
    trained(tmp_path / "outputs", "online")
    assert_same(SOURCE, tmp_path / "outputs")
    assert server.unknown == []


def test_what_is_synced_is_read_back(
    server: LoopbackServer, tmp_path: Path, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path / "outputs", "offline")
    assert script("sync").main([str(tmp_path / "outputs"), "--patience", "0", "--timeout", "5"]) == 0
    assert_same(SOURCE, tmp_path / "outputs")
    assert server.unknown == []


def test_a_second_report_downloads_nothing_and_what_changed_is_fetched_anew(
    there: LoopbackServer, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sum(name.startswith("retrograde/") for run in there.runs.values() for name in run.files)
    left_out(SOURCE)
    assert len(there.downloads) == files
    assert capsys.readouterr().err == f"{SOURCE}: 3 runs; {files} files fetched, 0 were here already\n"
    left_out(SOURCE)
    assert len(there.downloads) == files
    assert capsys.readouterr().err == f"{SOURCE}: 3 runs; 0 files fetched, {files} were here already\n"

    run = next(iter(there.runs.values()))
    metadata = json.loads(run.files["retrograde/metadata.json"]) | {"status": "interrupted"}
    run.files["retrograde/metadata.json"] = json.dumps(metadata).encode()
    with opened(SOURCE) as store:
        assert store.metadata(run.id)["status"] == "interrupted"
    assert there.downloads[files:] == [f"{run.id}/retrograde/metadata.json"]


def test_runs_come_by_pages_and_groups(there: LoopbackServer, outputs: Path, monkeypatch) -> None:
    folders = FolderStore(outputs).folders
    monkeypatch.setattr("retrograde.record.project.PAGE", 2)
    assert_same(SOURCE, outputs)
    chosen = sorted(folders)[0]
    put(there, folders[chosen], "one/of a kind")
    with opened(f"{SOURCE}/one/of a kind") as store:
        assert list(store.folders) == [chosen]
    with pytest.raises(ValueError, match=r"^W&B's project 'project' of 'loopback' is there, and its group 'x' has no"):
        left_out(f"{SOURCE}/x")


def test_a_run_without_tables_is_named_and_the_others_go_on(there: LoopbackServer, outputs: Path) -> None:
    there.runs["sklearn"] = ReceivedRun("sklearn", PROJECT, files={"output.log": b"x"}, exit_code=0)
    crashed = ReceivedRun("crashed", PROJECT)
    crashed.streams[HISTORY] = {0: '{"_step": 0, "train/loss": 1}', 1: '{"_step": 1, "train/loss": 1}'}
    there.runs["crashed"] = crashed
    with opened(SOURCE) as store:
        assert set(store.folders) == set(FolderStore(outputs).folders)
        assert store.unreadable == {
            "sklearn": "its tables are not in W&B, where it is finished and has no history either",
            "crashed": "its tables are not in W&B, where it is running and has 2 rows of history",
        }
    assert there.unknown == []


def test_an_artifact_stands_in_for_files(there: LoopbackServer, outputs: Path) -> None:
    first, second = list(there.runs.values())[:2]
    for run, prefix in ((first, ""), (second, "retrograde/")):
        held = {name: run.files.pop(name) for name in list(run.files) if name.startswith("retrograde/")}
        files = {prefix + name.removeprefix("retrograde/"): content for name, content in held.items()}
        run.artifacts = {
            f"{run.id}-old": ("retrograde", {**files, f"{prefix}metadata.json": b"{"}),
            f"{run.id}-record": ("retrograde", files),
            f"{run.id}-model": ("model", {"metadata.json": b"{"}),
        }
    assert_same(SOURCE, outputs)
    assert there.unknown == []


HOSTILE = ("..", "../../evil", "/tmp/retrograde-evil", "a/b", ".hidden", "x" * 300, "line\nbreak", "a\\b")


def test_a_run_s_name_never_leaves_its_folder(there: LoopbackServer, outputs: Path, tmp_path: Path, kept: Path) -> None:
    files = next(iter(there.runs.values())).files
    before = {path.name for path in tmp_path.parent.iterdir()}
    for name in HOSTILE:
        there.runs[name] = ReceivedRun(name, PROJECT, files=dict(files), exit_code=0)
    there.runs["<b>&amp;"] = ReceivedRun("<b>&amp;", PROJECT, files=dict(files), exit_code=0)
    with opened(SOURCE) as store:
        assert set(store.folders) == set(FolderStore(outputs).folders)
        assert set(store.unreadable) == {*(name.replace("\n", "\\n") for name in HOSTILE), "<b>&amp;"}
        assert "does not describe run <b>&amp;" in store.unreadable.pop("<b>&amp;")
        assert set(store.unreadable.values()) == {"a run's name must be one that a folder can have"}
    assert before == {path.name for path in tmp_path.parent.iterdir()}
    assert not Path("/tmp/retrograde-evil").exists()
    assert {path.name for path in (kept / "wandb").glob("*/*/*/*")} == {*FolderStore(outputs).folders, "<b>&amp;"}


@pytest.mark.parametrize(
    ("name", "claimed", "why"),
    [
        ("retrograde/../../evil.parquet", {}, "it is none of a record's"),
        ("retrograde//etc/evil.parquet", {}, "it is none of a record's"),
        ("retrograde/readings/gates/" + "x" * 300 + ".parquet", {}, "it is none of a record's"),
        ("retrograde/model.pkl", {}, "it is none of a record's"),
        ("retrograde/metrics.parquet", {"sizeBytes": LARGEST_TABLE + 1}, "more than the 8,589,934,592 that it may"),
        ("retrograde/metrics.parquet", {"sizeBytes": -1}, "it has -1 bytes"),
        ("retrograde/metrics.parquet", {"sizeBytes": 3}, r"bytes came of 3|file size"),
        ("retrograde/metrics.parquet", {"md5": "AAAAAAAAAAAAAAAAAAAAAA=="}, "what came is not what was uploaded"),
        ("retrograde/metrics.parquet", {"md5": None}, "W&B gives no digest of it"),
        ("retrograde/metrics.parquet", {"md5": "../../evil"}, "W&B gives no digest|Incorrect padding|base64"),
        ("retrograde/metrics.parquet", {"url": "file:///etc/hostname"}, "it is not kept by W&B"),
        ("retrograde/metrics.parquet", {"url": None}, "it is not kept by W&B"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(
    there: LoopbackServer, outputs: Path, kept: Path, name: str, claimed: dict[str, object], why: str
) -> None:
    run = next(iter(there.runs.values()))
    run.files.setdefault(name, b"\x80\x04cos\nsystem\n")
    run.claimed[name] = claimed
    with opened(SOURCE) as store:
        assert set(store.folders) == set(FolderStore(outputs).folders)
        assert list(store.unreadable) == [run.id]
        said = store.unreadable[run.id]
        store.metrics()
    assert "was left out: " in said and re.search(why, said), said
    digests = {path.name for path in kept.rglob("*") if path.is_file()}
    assert all(len(digest) == 32 for digest in digests)  # nothing unfinished stays


def test_a_file_that_cannot_be_downloaded_costs_its_own(there: LoopbackServer, outputs: Path) -> None:
    run = next(iter(there.runs.values()))
    run.claimed["retrograde/metrics.parquet"] = {"url": f"{there.url}/elsewhere"}
    with opened(SOURCE) as store:
        assert set(store.folders) == set(FolderStore(outputs).folders)
        assert list(store.unreadable) == [run.id]
        assert "file 'metrics.parquet' was left out: " in store.unreadable[run.id]


@pytest.mark.parametrize(
    ("source", "key", "trouble", "message"),
    [
        ("wandb:project", "0" * 40, None, "'wandb:project' names no project of W&B: write wandb:entity/project"),
        ("wandb:loopback/other", "0" * 40, None, "W&B has no project 'other' of 'loopback' that you may see; there"),
        ("wandb:nobody/project", "0" * 40, None, "W&B has no user or team 'nobody' with a project that you may see"),
        ("wandb:../..", "0" * 40, None, "W&B has no user or team '..' with a project that you may see"),
        (SOURCE, "0" * 40, "refusing", "W&B refuses the key: "),
        (SOURCE, "short", None, "W&B refuses the key: "),
        (SOURCE, "0" * 40, "failing", "W&B cannot be reached: "),
        (SOURCE, "0" * 40, "hanging", "W&B cannot be reached: "),
    ],
)
def test_what_is_wrong_with_a_project_is_one_line(
    there: LoopbackServer, source: str, key: str, trouble, message: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setattr("retrograde.record.project.TIMEOUT", 1)
    there.trouble = trouble
    assert script("report").main([source, "--to", str(tmp_path / "to")]) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(message)
    assert printed.out == "" and not (tmp_path / "to").exists()
    assert key == "short" or key not in line


def test_no_network_is_one_line(there: LoopbackServer, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("retrograde.record.project.TIMEOUT", 1)
    wandb.teardown()
    with pytest.raises(ValueError, match=r"^W&B cannot be reached: [^\n]*$"):
        left_out(SOURCE)


def test_a_run_that_is_there_twice_counts_once(outputs: Path, offline: Path, tmp_path: Path) -> None:
    folders = FolderStore(outputs).folders
    mixed, names = tmp_path / "mixed", sorted(folders)
    for name in names[:2]:
        shutil.copytree(folders[name].path, mixed / "demo" / name)
    copies = {name: next(offline.rglob(f"offline-run-*-{name}")) for name in names}
    for name in names[1:]:
        shutil.copytree(copies[name], mixed / "sent" / copies[name].name)
    shutil.copytree(copies[names[2]], mixed / "sent again" / copies[names[2]].name)
    with opened(str(mixed)) as store:
        wanted = everything(FolderStore(outputs))
        for name, table in everything(store).items():
            pd.testing.assert_frame_equal(table, wanted[name], check_exact=True)
        again = {
            f"sent/{copies[names[1]].name}": f"demo/{names[1]}",
            f"sent again/{copies[names[2]].name}": f"sent/{copies[names[2]].name}",
        }
        twice = {copy: f"{copy} is another copy of {kept}" for copy, kept in again.items()}
        swapped = {kept: f"{kept} is another copy of {copy}" for copy, kept in again.items()}
        assert store.unreadable.items() <= (twice | swapped).items()
        assert len(store.unreadable) == 2


def test_a_copy_stands_in_for_a_folder_that_cannot_be_read(outputs: Path, offline: Path, tmp_path: Path) -> None:
    name, folder = min(FolderStore(outputs).folders.items())
    torn = RunFolder(Path(shutil.copytree(folder.path, offline / name)))
    (torn.path / "run.json").write_text("{")
    with opened(str(offline)) as store:
        assert name in store.folders
        assert "run.json cannot be read" in store.unreadable[name]
        assert_metrics = store.metrics([name])
    pd.testing.assert_frame_equal(assert_metrics, FolderStore(outputs).metrics([name]))


def test_offline_runs_without_tables_are_named(
    outputs: Path, offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = wandb.init(mode="offline", reinit="create_new", dir=str(offline), project="other", id="sklearn")
    other.log({"loss": 1})
    other.finish()
    wandb.teardown()
    early, torn, *_ = sorted(offline.rglob("offline-run-*-*-s*"))
    shutil.rmtree(early / "files" / "retrograde")
    (log,) = early.glob("run-*.wandb")
    log.write_bytes(log.read_bytes()[:-40])
    (torn / "files" / "retrograde" / "metadata.json").write_text('{"run": 1}')
    (offline / "offline-run-20260101_000000-empty" / "files").mkdir(parents=True)
    said = left_out(offline)
    assert said.keys() == {"sklearn", "empty", *(path.name.partition("-run-")[2][16:] for path in (early, torn))}
    assert said["sklearn"].endswith("has no tables: the run ended without, as one of another tool does, or one that "
                                    "failed early")  # fmt: skip
    assert said["empty"] == "offline-run-20260101_000000-empty has no tables: there is no log of W&B either"
    assert said[early.name[28:]].endswith("its log breaks off, since it was killed or goes on")
    assert "run.json cannot be read" in said[torn.name[28:]]
    assert not any(str(tmp_path) in why for run, why in said.items() if run != torn.name[28:])


def test_the_last_attempt_with_tables_counts(outputs: Path, tmp_path: Path) -> None:
    folder = min(FolderStore(outputs).folders.values(), key=lambda folder: folder.run)
    (whole,) = folder.path.glob("wandb/offline-run-*")
    for start, status in (("20260101_000000", "interrupted"), ("20260102_000000", "finished")):
        attempt = Path(shutil.copytree(whole, tmp_path / f"offline-run-{start}-{folder.run}"))
        file = attempt / "files" / "retrograde" / "metadata.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"status": status}))
    with opened(str(tmp_path)) as store:
        assert store.metadata(folder.run)["status"] == "finished"
        assert store.unreadable == {}
    shutil.rmtree(attempt / "files" / "retrograde")
    with opened(str(tmp_path)) as store:
        assert store.metadata(folder.run)["status"] == "interrupted"
        assert store.unreadable[folder.run].startswith(f"{attempt.name}, a later attempt, has no tables: ")


def test_links_within_a_copy_are_not_followed(offline: Path, tmp_path: Path) -> None:
    first, second, *_ = sorted(offline.rglob("offline-run-*-*-s*"))
    metrics = first / "files" / "retrograde" / "metrics.parquet"
    metrics.rename(tmp_path / "elsewhere.parquet")
    metrics.symlink_to(tmp_path / "elsewhere.parquet")
    (second / "files" / "retrograde").rename(tmp_path / "elsewhere")
    (second / "files" / "retrograde").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    said = left_out(offline)
    assert "file 'metrics.parquet' was left out: it is a link" in said[first.name[28:]]
    assert "has no tables" in said[second.name[28:]]


def test_a_folder_with_nothing_that_can_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "offline-run-20260101_000000-empty" / "files").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"^'[^\n]*' holds no run that can be read: empty: offline-run-[^\n]*either$"):
        left_out(tmp_path)
    with pytest.raises(ValueError, match=r"^'[^\n]*nowhere' is not a folder"):
        left_out(tmp_path / "nowhere")


def test_what_cannot_be_laid_out_is_named(tmp_path: Path) -> None:
    found = LaidOut(tmp_path / "laid out")
    file: Callable[[str], Path] = tmp_path.joinpath
    found.add("run", {"a.parquet": file("a"), "a.parquet/b.parquet": file("b")})
    assert found.left_out["run"].startswith("file 'a.parquet/b.parquet' was left out: ")


def test_a_run_at_work_beside_copies_is_seen_at_work(outputs: Path, offline: Path) -> None:
    busy = write_run(offline, Fake("gru", 5, status="running"))
    with busy.claimed(), opened(str(offline)) as store:
        assert [run for run in store.folders if store.at_work(run)] == [busy.run]
        assert len(store.folders) == len(FAKES) + 1
