"""The tables of a run: one schema, which the writing and the reading side share.

    readings/<probe>/<quantity>   run, step, layer, component, the reading's own dims, value, status
    metrics                       run, step, split, quantity, value, status
    labels                        run, side, sample, time, label, scored       the probe batch in words

One row is one number. ``value`` is float64 and may be infinite or NaN; ``status`` says which, and what is censored.
Strings are dictionary-coded, so that a long table stays small.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrograde.core.statuses import FINITE, INF, NAN, STATUSES, ZERO
from retrograde.record.folder import aside, regular
from retrograde.record.metadata import shown

if TYPE_CHECKING:  # at run time it would load torch, which a reader of tables does without
    from retrograde.core.records import Reading

TEXT = pa.dictionary(pa.int32(), pa.string())

METRICS = pa.schema(
    {"run": TEXT, "step": pa.int64(), "split": TEXT, "quantity": TEXT, "value": pa.float64(), "status": TEXT}
)
LABELS = pa.schema(
    {"run": TEXT, "side": TEXT, "sample": pa.int32(), "time": pa.int32(), "label": TEXT, "scored": pa.bool_()}
)
READINGS = pa.schema(
    {"run": TEXT, "step": pa.int64(), "layer": TEXT, "component": TEXT, "value": pa.float64(), "status": TEXT}
)
"""What all readings have; each has dims of its own beside, of numbers or texts."""
READING = tuple(READINGS.names)

Side = Literal["input", "target"]

LOWEST = "0."
"""How the name of the lowest layer begins; an encoder-decoder has none, nor a lag from source to target."""

PART = "part-{:06d}.parquet"
PART_NAME = re.compile(r"part-([0-9]{6,18})\.parquet")
MERGED = b"retrograde.merged_parts"

MOST_ROWS = 2_000
"""Rows for each byte of a file: a group of 2^20, all the same, takes more than 1,000 bytes."""


def place(where: str) -> tuple[str, str]:
    """Layer and component of the second half of a reading's name: ``0.forward.hidden`` is ``0.forward``, ``hidden``.

    What is not of that form is a layer without components.
    """
    layer, _, component = where.rpartition(".")
    return (layer, component) if layer.count(".") == 1 else (where, "")


def reading_table(run: str, step: int, reading: "Reading") -> tuple[str, pa.Table]:
    """The quantity's name and the reading in long form."""
    quantity, _, where = reading.name.partition("/")
    layer, component = place(where)
    rows = reading.values.size
    columns: dict[str, pa.Array] = {
        "run": _repeated(run, rows),
        "step": pa.array(np.full(rows, step, dtype=np.int64)),
        "layer": _repeated(layer, rows),
        "component": _repeated(component, rows),
    }
    indices = np.indices(reading.values.shape).reshape(len(reading.dims), rows)
    for (name, coordinates), index in zip(reading.dims.items(), indices, strict=True):
        columns[name] = _coordinates(coordinates, index)
    values = reading.values.astype(np.float64).ravel()
    columns["value"] = pa.array(values)
    columns["status"] = _coded(status_codes(values, reading.unit) if reading.status is None else reading.status)
    return quantity, pa.table(columns)


def metrics_table(run: str, rows: Sequence[tuple[int, str, float]]) -> pa.Table:
    """Rows of (step, ``split/quantity``, value)."""
    names = [name.partition("/") for _, name, _ in rows]
    values = np.array([value for _, _, value in rows], dtype=np.float64)
    columns = {
        "run": _repeated(run, len(rows)),
        "step": pa.array([step for step, _, _ in rows], pa.int64()),
        "split": pa.array([split for split, _, _ in names]).dictionary_encode(),
        "quantity": pa.array([quantity for _, _, quantity in names]).dictionary_encode(),
        "value": pa.array(values),
        "status": _coded(status_codes(values, "")),
    }
    return pa.table(columns, schema=METRICS)


def labels_table(run: str, labels: Sequence[Sequence[str]], scored: np.ndarray, side: Side = "input") -> pa.Table:
    """The probe batch in words, one row a position; ``scored`` is (sample, time).

    ``side`` is ``target`` for the words of a target sequence with an axis of its own.
    """
    samples, times = np.indices(scored.shape).reshape(2, -1)
    columns = {
        "run": _repeated(run, scored.size),
        "side": _repeated(side, scored.size),
        "sample": pa.array(samples.astype(np.int32)),
        "time": pa.array(times.astype(np.int32)),
        "label": pa.array([label for row in labels for label in row]).dictionary_encode(),
        "scored": pa.array(scored.ravel()),
    }
    return pa.table(columns, schema=LABELS)


def write_aside(table: pa.Table, path: Path) -> None:
    """The file appears whole or not at all; a byte of its pages that changes later is found out in reading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside(path) as unfinished:
        pq.write_table(table, unfinished, compression="zstd", write_page_checksum=True)


class TableWriter:
    """Collects tables by name and appends them to ``root/<name>/`` as parts; ``merge`` makes one file of each.

    A merged file says up to which part it holds everything, so that a part which outlives the merging counts once.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pending: dict[str, list[pa.Table]] = {}
        parts = [part_number(path) + 1 for path in root.glob("**/part-*.parquet")]
        merged = [merged_parts(path) for path in root.glob("**/*.parquet") if not path.name.startswith("part-")]
        self.parts = max([*parts, *merged], default=0)

    def append(self, name: str, table: pa.Table) -> None:
        self.pending.setdefault(name, []).append(table)

    def flush(self) -> None:
        for name, tables in self.pending.items():
            write_aside(_together(tables), self.root / name / PART.format(self.parts))
        self.parts += bool(self.pending)
        self.pending.clear()

    def names(self) -> list[str]:
        """Of all tables that have been merged."""
        merged = [path for path in self.root.glob("**/*.parquet") if not path.name.startswith("part-")]
        return sorted(path.relative_to(self.root).with_suffix("").as_posix() for path in merged)

    def merge(self) -> None:
        """One file per table, ``<name>.parquet``, with what was merged before and what is not yet in a part."""
        parted = {str(path.parent.relative_to(self.root)) for path in self.root.glob("**/part-*.parquet")}
        until = {MERGED: str(self.parts).encode()}
        for name in sorted(parted | self.pending.keys()):
            table = _together([*_tables(self.root, name), *self.pending.get(name, ())])
            write_aside(table.replace_schema_metadata(until), self.root / f"{name}.parquet")
            self.pending.pop(name, None)
            for part in (self.root / name).glob("part-*.parquet"):
                part.unlink()
            if name in parted:
                (self.root / name).rmdir()


def replace_readings(root: Path, run: str, step: int, probe: str, readings: "Sequence[Reading]") -> None:
    """A probe's readings of one step in the tables below ``root``, in the place of what these say of the same quantity.

    Other quantities stay: what only a step of training shows cannot be asked again.
    """
    made: dict[str, list[pa.Table]] = {}
    for reading in readings:
        quantity, table = reading_table(run, step, reading)
        made.setdefault(f"readings/{probe}/{quantity}", []).append(table)
    for name, tables in made.items():
        if table_files(root, name):
            earlier = stored(root, name)
            tables = [earlier.filter(pc.not_equal(earlier["step"], step)), *tables]
        table = _together(tables)
        until = max([part_number(part) + 1 for part in (root / name).glob("part-*.parquet")], default=0)
        merged = root / f"{name}.parquet"
        until = max(until, merged_parts(merged) if merged.exists() else 0)
        write_aside(table.replace_schema_metadata({MERGED: str(until).encode()}), merged)


def cut(root: Path, step: int, without: Sequence[str]) -> None:
    """Take away what was recorded after ``step``, and all of these splits: a run goes on from there.

    Raises ValueError, naming the file, where one cannot be read.
    """
    for split in without:
        shutil.rmtree(root / "readings" / split, ignore_errors=True)
    for unfinished in root.glob("**/.*.parquet.*"):
        unfinished.unlink()
    for file in root.glob("**/*.parquet"):
        try:
            table = pq.ParquetFile(file).read()
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        if "step" not in table.column_names:
            continue
        kept = pc.less_equal(table["step"], step)
        if "split" in table.column_names:
            kept = pc.and_(kept, pc.invert(pc.is_in(table["split"].cast(pa.string()), pa.array(without))))
        left = table.filter(kept)
        if len(left) < len(table):
            write_aside(left, file)


def stored(root: Path, name: str) -> pa.Table:
    """All that there is of a table."""
    return _together(_tables(root, name))


def table_files(root: Path, name: str) -> list[Path]:
    """The files that make up a table: the merged one, and the parts that it does not hold.

    Raises ValueError, naming the file, where the merged one cannot be read.
    """
    merged, parts = root / f"{name}.parquet", parts_of(root, name)
    if not is_there(merged):
        return parts
    since = merged_parts(merged) if parts else 0
    return [merged, *(part for part in parts if part_number(part) >= since)]


def parts_of(root: Path, name: str) -> list[Path]:
    """A table's parts, in order; a file of another name is none."""
    return sorted(part for part in (root / name).glob("part-*.parquet") if PART_NAME.fullmatch(part.name))


def is_there(path: Path) -> bool:
    """Whether there is anything of that name, also a link that leads nowhere."""
    return os.path.lexists(path)


def part_number(path: Path) -> int:
    """The number of a part, from its name; raises ValueError, naming the file, where it has none."""
    named = PART_NAME.fullmatch(path.name)
    if named is None:
        raise ValueError(f"{shown(path)} is no part of a table: a part is called {PART.format(0)}, with its number")
    return int(named[1])


def merged_parts(path: Path) -> int:
    """Up to which part a merged file holds everything; raises ValueError, naming the file, where it cannot be read."""
    with _naming(path):
        number = (pq.read_schema(regular(path)).metadata or {}).get(MERGED, b"0")
        if not number.isdigit():
            raise ValueError(f"{MERGED.decode()} must be a number, not {number!r}")
        return int(number)


def read_table(
    path: Path, run: str, schema: pa.Schema, steps: Sequence[int] | None = None, statistic: str | None = None
) -> pa.Table:
    """A file of one of a run's tables: the columns of ``schema``, and dims beside, which are numbers or texts.

    Of these steps and this statistic alone, where they are named.

    Raises ValueError, in one line that names the file, where it cannot be read or is not such a table of that run.
    """
    with _naming(path):
        file = pq.ParquetFile(regular(path), page_checksum_verification=True)
        rows = file.metadata.num_rows
        if rows > MOST_ROWS * path.stat().st_size:
            raise ValueError(f"it claims {rows:,} rows in {path.stat().st_size:,} bytes")
        # by one thread: what several spend on each other is more than a table of a run takes
        wanted = None if steps is None else pc.field("step").isin(list(steps))
        if statistic is not None:
            of_it = pc.field("statistic") == statistic
            wanted = of_it if wanted is None else wanted & of_it
        if wanted is None:
            table = file.read(use_threads=False)
        else:
            table = pq.read_table(path, filters=wanted, use_threads=False, page_checksum_verification=True)
        table = table.replace_schema_metadata(None)
        table.validate(full=True)
        return _of_run(table, run, schema)


def _of_run(table: pa.Table, run: str, schema: pa.Schema) -> pa.Table:
    """The table with its texts coded alike, and its columns in the order of the schema."""
    missing = [name for name in schema.names if table.column_names.count(name) != 1]
    if missing:
        raise ValueError(f"it must have one column '{missing[0]}'")
    for place, field in enumerate(table.schema):
        wanted = schema.field(field.name).type if field.name in schema.names else None
        if _is_text(field.type) and wanted in (None, TEXT):
            if field.type != TEXT:
                table = table.set_column(place, field.name, table.column(place).cast(TEXT))
        elif field.type not in ([pa.int32(), pa.float64()] if wanted is None else [wanted]):
            raise ValueError(f"column '{field.name}' must hold {wanted or 'numbers or texts'}, not {field.type}")
        if wanted is not None and table.column(place).null_count:
            raise ValueError(f"column '{field.name}' has rows without a value")
    for name, known in {"run": [run], "status": STATUSES}.items():
        found = pc.unique(table[name].cast(pa.string())).to_pylist() if name in schema.names else []
        foreign = [value for value in found if value not in known]
        if foreign:
            raise ValueError(f"column '{name}' holds '{foreign[0]}'")
    return table


def _is_text(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(plain) or pa.types.is_large_string(plain)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What goes wrong in reading a file becomes one line that names it."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{shown(path)} cannot be read: {shown(error.strerror or error)}") from error
    except (ValueError, MemoryError, pa.ArrowException) as error:
        raise ValueError(f"{shown(path)} cannot be read: {shown(error)}") from error


def _together(tables: Sequence[pa.Table]) -> pa.Table:
    plain = [table.replace_schema_metadata(None) for table in tables]
    return pa.concat_tables(plain, promote_options="default").combine_chunks().unify_dictionaries()


def _tables(root: Path, name: str) -> list[pa.Table]:
    return [pq.ParquetFile(file).read(use_threads=False) for file in table_files(root, name)]


def _repeated(text: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(rows, dtype=np.int32), pa.array([text], pa.string()))


def _coordinates(coordinates: Sequence[Any], index: np.ndarray) -> pa.Array:
    values = np.asarray(coordinates)
    if values.dtype.kind == "U":
        return pa.DictionaryArray.from_arrays(index.astype(np.int32), pa.array(list(coordinates), pa.string()))
    if values.dtype.kind not in "iuf":
        raise ValueError(f"coordinates must be all numbers or all texts, not {coordinates}")
    return pa.array(values.astype(np.float64 if values.dtype.kind == "f" else np.int32)[index])


def status_codes(values: np.ndarray, unit: str) -> np.ndarray:
    """What values are by themselves; the logarithm of nothing is a zero."""
    zero = np.isneginf(values) & unit.startswith("log10")
    return np.select([np.isnan(values), zero, np.isinf(values)], [NAN, ZERO, INF], FINITE)


def _coded(status: np.ndarray) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(status.astype(np.int32).ravel(), pa.array(STATUSES, pa.string()))


def columns_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping as one row: keys joined by dots, sequences as text."""
    row: dict[str, Any] = {}
    for key, value in metadata.items():
        if isinstance(value, Mapping):
            row |= {f"{key}.{name}": inner for name, inner in columns_of(value).items()}
        else:
            row[key] = value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
    return row
