"""What is written comes back: every number, infinite ones included, whatever moment the writer dies at."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fake_runs import Fake, write_run
from retrograde.core.records import Reading
from retrograde.core.statuses import CENSORED, FINITE, INF, NAN, STATUSES, ZERO
from retrograde.record.folder import RunFolder
from retrograde.record.recorder import RunRecorder
from retrograde.record.store import FolderStore
from retrograde.record.tables import (
    METRICS,
    READING,
    TableWriter,
    columns_of,
    labels_table,
    metrics_table,
    place,
    reading_table,
    write_aside,
)

VALUES = np.array([[0.5, -math.inf, -37.9], [math.inf, math.nan, -300.25]])
CODES = np.array([[FINITE, ZERO, CENSORED], [INF, NAN, FINITE]], dtype=np.int8)
CURVE = Reading(
    "norm/0.forward.hidden", VALUES, {"statistic": ["mean", "median"], "lag": [0, 1, 4]}, "log10", status=CODES
)


def rows(number: int, step: int = 0) -> pa.Table:
    return metrics_table("run", [(step, "train/loss", float(value)) for value in range(number)])


def names(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs."""


def dies(*_: object, **__: object) -> None:
    raise Killed


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("0.forward.hidden", ("0.forward", "hidden")),
        ("12.backward.cell", ("12.backward", "cell")),
        ("0", ("0", "")),
        ("parameters", ("parameters", "")),
        ("layers.0.weight.bias", ("layers.0.weight.bias", "")),
    ],
)
def test_a_place_is_a_layer_and_a_component(where: str, expected: tuple[str, str]) -> None:
    assert place(where) == expected


def test_a_reading_becomes_a_row_for_every_number() -> None:
    quantity, table = reading_table("run-1", 7, CURVE)
    assert quantity == "norm"
    assert table.column_names == ["run", "step", "layer", "component", "statistic", "lag", "value", "status"]
    assert [name for name in READING if name not in table.column_names] == []
    frame = table.to_pandas()
    assert frame["value"].to_list() == pytest.approx(VALUES.ravel().tolist(), rel=0, abs=0, nan_ok=True)
    assert frame["status"].to_list() == ["finite", "zero", "censored", "inf", "nan", "finite"]
    assert frame["statistic"].to_list() == ["mean"] * 3 + ["median"] * 3
    assert frame["lag"].to_list() == [0, 1, 4, 0, 1, 4]
    assert set(frame["run"]) == {"run-1"}
    assert set(frame["step"]) == {7}


def test_types_are_those_of_the_schema() -> None:
    _, table = reading_table("run", 7, CURVE)
    text = pa.dictionary(pa.int32(), pa.string())
    expected = {
        "run": text,
        "step": pa.int64(),
        "layer": text,
        "component": text,
        "value": pa.float64(),
        "status": text,
    }
    assert {name: table.schema.field(name).type for name in READING} == expected
    assert table.schema.field("statistic").type == text
    assert table.schema.field("lag").type == pa.int32()
    assert rows(1).schema == METRICS


def test_a_number_without_dims_is_one_row() -> None:
    _, table = reading_table("run", 0, Reading("clipped/steps", np.array(0.25), {}, "share"))
    assert table.to_pylist() == [
        {"run": "run", "step": 0, "layer": "steps", "component": "", "value": 0.25, "status": "finite"}
    ]


def test_the_status_follows_from_the_values_where_none_is_given() -> None:
    reading = Reading("norm/0", np.array([1.0, math.inf, -math.inf, math.nan]), {"head": range(4)}, "log10")
    statuses = reading_table("run", 0, reading)[1].column("status").to_pylist()
    assert statuses == ["finite", "inf", "zero", "nan"]
    losses = metrics_table("run", [(1, "train/loss", math.nan), (2, "train/loss", math.inf), (3, "train/loss", 1e300)])
    assert losses.column("status").to_pylist() == ["nan", "inf", "finite"]
    assert set(statuses) < set(STATUSES)


def test_a_metric_is_split_at_its_first_slash() -> None:
    (row,) = metrics_table("run", [(5, "device/memory/peak", 1.0)]).to_pylist()
    assert (row["split"], row["quantity"]) == ("device", "memory/peak")


def test_labels_are_a_row_for_every_position() -> None:
    table = labels_table("run", [["a", "b"], ["c", ""]], np.array([[False, True], [True, False]]))
    assert [(r["sample"], r["time"], r["label"], r["scored"]) for r in table.to_pylist()] == [
        (0, 0, "a", False),
        (0, 1, "b", True),
        (1, 0, "c", True),
        (1, 1, "", False),
    ]


def test_numbers_survive_the_round_trip_bit_by_bit(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Fake("gru"))
    extremes = np.array([math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308, -0.0, 1 / 3])
    writer = TableWriter(folder.tables)
    writer.append(
        "readings/probe/size", reading_table(folder.run, 0, Reading("size/0", extremes, {"x": range(7)}, ""))[1]
    )
    writer.merge()
    read = FolderStore(tmp_path).readings("probe/size")
    assert read["value"].to_numpy().tobytes() == extremes.tobytes()
    assert read["layer"].to_list() == ["0"] * 7


def test_parts_are_in_order_and_merge_into_one_file(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path)
    for step in range(3):
        writer.append("metrics", rows(2, step))
        writer.append("metrics", rows(1, step))
        writer.flush()
    writer.flush()  # of nothing
    assert names(tmp_path) == [f"metrics/part-{part:06d}.parquet" for part in range(3)]
    parts = [pq.read_table(tmp_path / name) for name in names(tmp_path)]
    writer.merge()
    assert names(tmp_path) == ["metrics.parquet"]
    assert pq.read_table(tmp_path / "metrics.parquet").to_pylist() == [
        row for part in parts for row in part.to_pylist()
    ]


def test_a_store_reads_parts_as_it_reads_the_merged_file(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Fake("gru"))
    writer = TableWriter(folder.tables)
    for step in (1, 2):
        writer.append("readings/probe/size", reading_table(folder.run, step, CURVE)[1])
        writer.flush()
    before, listed = FolderStore(tmp_path).readings("probe/size"), FolderStore(tmp_path).tables()
    writer.merge()
    pd.testing.assert_frame_equal(FolderStore(tmp_path).readings("probe/size"), before)
    assert "probe/size" in listed
    assert FolderStore(tmp_path).tables() == listed
    assert len(before) == 12


def test_a_later_part_may_know_more_columns(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path)
    writer.append("t", pa.table({"run": ["a"]}))
    writer.flush()
    writer.append("t", pa.table({"run": ["b"], "head": [1]}))
    writer.merge()
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == [{"run": "a", "head": None}, {"run": "b", "head": 1}]


def test_a_kill_while_a_part_is_written_leaves_the_parts_before_it(tmp_path: Path, monkeypatch) -> None:
    writer = TableWriter(tmp_path)
    writer.append("metrics", rows(2))
    writer.flush()
    monkeypatch.setattr(Path, "replace", dies)
    writer.append("metrics", rows(3))
    with pytest.raises(Killed):
        writer.flush()
    assert [name for name in names(tmp_path) if "/." not in name] == ["metrics/part-000000.parquet"]
    assert pq.read_table(tmp_path / "metrics" / "part-000000.parquet").num_rows == 2


@pytest.fixture(params=[0, 1])
def killed_in_merging(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Two parts of ``probe/size`` were merged, and the writer died when it had removed so many of them."""
    folder = write_run(tmp_path, Fake("gru"))
    writer = TableWriter(folder.tables)
    for step in (1, 2):
        writer.append("readings/probe/size", reading_table(folder.run, step, CURVE)[1])
        writer.flush()
    removed = []
    unlink = Path.unlink

    def dying(path: Path, *_: object, **__: object) -> None:
        if len(removed) == request.param:
            raise Killed
        removed.append(path)
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dying)
        with pytest.raises(Killed):
            writer.merge()
    assert len(list((folder.tables / "readings/probe/size").glob("part-*"))) == 2 - request.param
    return folder


def test_a_kill_between_merging_and_removing_loses_and_doubles_nothing(killed_in_merging: RunFolder) -> None:
    assert FolderStore(killed_in_merging.path).readings("probe/size")["step"].to_list() == [1] * 6 + [2] * 6


def test_who_comes_after_that_kill_cleans_up(killed_in_merging: RunFolder) -> None:
    TableWriter(killed_in_merging.tables).merge()
    assert not (killed_in_merging.tables / "readings/probe/size").exists()
    assert FolderStore(killed_in_merging.path).readings("probe/size")["step"].to_list() == [1] * 6 + [2] * 6


def test_what_comes_after_merging_is_read_and_merged_too(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Fake("gru"))
    writer = TableWriter(folder.tables)

    def steps() -> list[int]:
        return FolderStore(tmp_path).readings("probe/size")["step"].drop_duplicates().to_list()

    for step in (1, 2, 3):
        writer.append("readings/probe/size", reading_table(folder.run, step, CURVE)[1])
        writer.flush()
        assert steps() == list(range(1, step + 1))
        (writer if step < 3 else TableWriter(folder.tables)).merge()
        assert steps() == list(range(1, step + 1))
    assert len(FolderStore(tmp_path).readings("probe/size")) == 3 * CURVE.values.size


def test_a_writer_that_comes_later_does_not_overwrite(tmp_path: Path) -> None:
    for _ in range(2):
        writer = TableWriter(tmp_path)
        writer.append("metrics", rows(1))
        writer.flush()
    assert names(tmp_path) == ["metrics/part-000000.parquet", "metrics/part-000001.parquet"]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_aside(rows(1), tmp_path / "metrics.parquet")
    whole = (tmp_path / "metrics.parquet").read_bytes()

    def half(table: pa.Table, path: Path, **_: object) -> None:
        path.write_bytes(whole[:20])
        raise Killed

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(Killed):
        write_aside(rows(5), tmp_path / "metrics.parquet")
    assert (tmp_path / "metrics.parquet").read_bytes() == whole


def test_a_recorder_flushes_when_it_is_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    folder = RunFolder(tmp_path / "run")
    recorder = RunRecorder(folder, {"run": "run"})
    recorder.metrics(1, {"train/loss": 1.0})
    assert not folder.tables.exists()
    now[0] = 5.0
    recorder.readings(1, "probe", [CURVE])
    assert names(folder.tables) == ["metrics/part-000000.parquet", "readings/probe/norm/part-000000.parquet"]


def test_only_what_is_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (write_run(tmp_path, Fake("gru", seed)) for seed in (0, 1))
    store = FolderStore(tmp_path)
    everything = store.readings("lag_gradient/relative")
    read: list[tuple[str, int]] = []
    original = pq.read_table

    def watched(file: Path, **options: object) -> pa.Table:
        table = original(file, **options)
        read.append((file.relative_to(tmp_path).parts[1], table.num_rows))
        return table

    monkeypatch.setattr(pq, "read_table", watched)
    chosen = store.readings("lag_gradient/relative", runs=[second.run], steps=[10])
    expected = everything[(everything["run"] == second.run) & (everything["step"] == 10)].reset_index(drop=True)
    pd.testing.assert_frame_equal(chosen, expected)
    assert len(expected) > 0
    assert read == [(second.run, len(expected))]  # nothing was read to be thrown away
    assert first.run != second.run


def test_runs_come_back_in_the_order_that_they_are_asked_for(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path, Fake("gru", seed)) for seed in (0, 1))
    asked = [second.run, first.run]
    assert FolderStore(tmp_path).metrics(asked)["run"].drop_duplicates().to_list() == asked


def test_an_unknown_reading_is_an_empty_table_and_an_unknown_run_an_error(tmp_path: Path) -> None:
    write_run(tmp_path, Fake("gru"))
    store = FolderStore(tmp_path)
    empty = store.readings("probe/nothing")
    assert (len(empty), list(empty.columns)) == (0, list(READING))
    with pytest.raises(ValueError, match=r"^no run 'nobody' below '.*'$"):
        store.metrics(["nobody"])


@pytest.mark.parametrize("damage", ["cut", "empty", "garbled"])
def test_a_damaged_table_is_named_in_one_line(tmp_path: Path, damage: str) -> None:
    folder = write_run(tmp_path, Fake("gru"))
    file = folder.tables / "metrics.parquet"
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "garbled": b"PAR1" + whole[::-1][4:]}[damage])
    other = write_run(tmp_path, Fake("gru", seed=1))
    store = FolderStore(tmp_path)
    assert set(store.metrics()["run"]) == {other.run}  # the others' tables are read
    assert store.unreadable[folder.run].startswith(f"{file} cannot be read: ")
    assert "\n" not in store.unreadable[folder.run]


def test_nested_settings_become_columns() -> None:
    assert columns_of({"a": 1, "b": {"c": None, "d": {"e": "x"}}, "f": [1, 2], "g": {}}) == {
        "a": 1,
        "b.c": None,
        "b.d.e": "x",
        "f": "[1, 2]",
    }
