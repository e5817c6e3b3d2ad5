"""Damage to folders of runs, one thing at a time and at random from a seed, and what must be left after it.

write_good(outputs)                      runs of every kind, by hand
before = everything(FolderStore(outputs))
done = damage(outputs, Random(7))        one file of one run
faults(before, outputs, done)            empty where nothing but that was lost, and the file is named
"""

import json
import os
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fake_runs import Fake, write_run
from retrograde.figures.comparison import NothingToDraw, comparisons
from retrograde.record.folder import RunFolder
from retrograde.record.store import FolderStore
from retrograde.record.tables import TableWriter, metrics_table

ALERT = {
    "kind": "vanishing", "level": "warning", "text": "layer 0: half.", "layer": "0.forward", "component": "hidden",
    "value": 1.0, "first": 0, "last": 200, "at_end": True,
}  # fmt: skip

NOT_READ = {
    "traceback.txt": b"Traceback (most recent call last):\nRuntimeError: out of patience\n",
    ".claim": b"4711 machine\n",
    "checkpoints/best.ckpt": bytes(range(256)) * 8,
    "checkpoints/last.ckpt": bytes(range(256)) * 8,
    "checkpoints/nonfinite.pt": bytes(range(256)) * 8,
    "wandb/offline-run-1/run-1.wandb": b":W&B" + bytes(range(256)) * 8,
}
"""Files that the reading side has no use for."""


def write_good(outputs: Path) -> None:
    """Finished runs, and one of each other end; of the unfinished the tables are in parts."""
    write_run(outputs, Fake("transformer", 0, heads=2, components=("residual",)))
    write_run(outputs, Fake("elman", 0, status="failed"))
    write_unmerged(outputs, Fake("gru", 1, status="interrupted"))
    write_not_begun(outputs)
    write_few(outputs)


def write_few(outputs: Path) -> None:
    """Two finished runs of one model, and one at work; what the reading side does not read lies there as well."""
    write_run(outputs, Fake("lstm", 0, components=("hidden", "cell"), more={"alerts": [ALERT]}))
    write_run(outputs, Fake("lstm", 1, components=("hidden", "cell"), more={"versions": {"torch": "2.13.0"}}))
    write_unmerged(outputs, Fake("gru", 0, status="running"))
    for file in outputs.glob("*/*/run.json"):
        name_tables(RunFolder(file.parent))
        for name, content in NOT_READ.items():
            (file.parent / name).parent.mkdir(parents=True, exist_ok=True)
            (file.parent / name).write_bytes(content)


def write_unmerged(outputs: Path, fake: Fake) -> None:
    """A run with parts beside its merged tables."""
    folder = write_run(outputs, fake)
    writer = TableWriter(folder.tables)
    for step in (300, 400):
        writer.append("metrics", metrics_table(folder.run, [(step, "train/loss", 0.1)]))
        writer.flush()


def name_tables(folder: RunFolder) -> None:
    """As the recorder does at a run's end."""
    metadata = folder.read()
    if metadata["status"] != "running" and folder.tables.exists():
        folder.write({**metadata, "tables": TableWriter(folder.tables).names()})


def write_not_begun(outputs: Path, reason: str = "task.length must be at least 2, not 1") -> RunFolder:
    """A job that failed before it became a run, as ``retrograde`` records it."""
    config = {"study": "demo", "seed": 0, "model": {"_target_": "rnn"}}
    folder = RunFolder(outputs / "demo" / "rnn-adding-s0-0123456789")
    folder.path.mkdir(parents=True)
    who = {"run": folder.run, "study": "demo", "model": "rnn", "task": "adding", "seed": 0}
    folder.write({**who, "status": "failed", "reason": reason, "config": config})
    return folder


@dataclass(frozen=True)
class Done:
    """What was damaged, and how. ``may_pass``: what is left is as a run might have written it."""

    file: Path
    how: str
    may_pass: bool = False

    @property
    def run(self) -> str:
        place = self.file.parent
        while place.parent.name not in ("demo", "python"):
            place = place.parent
        return place.name


# what a disk does


def truncated(file: Path, random: Random) -> None:
    file.write_bytes(file.read_bytes()[: random.randrange(file.stat().st_size)])


def flipped(file: Path, random: Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(random.choice((1, 1, 1, 8, 64))):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    file.write_bytes(content)


def zeroed(file: Path, random: Random) -> None:
    content = bytearray(file.read_bytes())
    begin = random.randrange(len(content))
    length = min(random.choice((16, 512, 4096)), len(content) - begin)
    content[begin : begin + length] = bytes(length)
    file.write_bytes(content)


def garbled(file: Path, random: Random) -> None:
    file.write_bytes(random.randbytes(file.stat().st_size))


def emptied(file: Path, random: Random) -> None:
    file.write_bytes(b"")


def deleted(file: Path, random: Random) -> None:
    file.unlink()


def folder(file: Path, random: Random) -> None:
    file.unlink()
    file.mkdir()


def loop(file: Path, random: Random) -> None:
    file.unlink()
    file.symlink_to(file)


def link_to_nothing(file: Path, random: Random) -> None:
    file.unlink()
    file.symlink_to("/nowhere/at/all")


def link_to_endless(file: Path, random: Random) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def link_to_another(file: Path, random: Random) -> None:
    """To the same file of another run, where there is one."""
    this = file.relative_to(_run_of(file))
    others = sorted(one / this for one in _run_of(file).parent.iterdir() if one != _run_of(file))
    others = [other for other in others if other.is_file()]
    file.unlink()
    file.symlink_to(random.choice(others) if others else "/etc/hostname")


def pipe(file: Path, random: Random) -> None:
    file.unlink()
    os.mkfifo(file)


def closed(file: Path, random: Random) -> None:
    file.chmod(0)


BYTES = [truncated, flipped, zeroed, garbled, emptied]
PLACES = [deleted, folder, loop, link_to_nothing, link_to_endless, link_to_another, pipe]
if os.geteuid() != 0:  # root reads everything
    PLACES.append(closed)

# what a program, or a person, does to JSON

NESTED: Any = 0
for _ in range(500):
    NESTED = [NESTED]

WRONG: list[Any] = [
    None, [], {}, "", "text", "../../x", "<script>alert(1)</script>", "a\nb\u202ec\x1b[31m", "x" * 5_000, "\ud800",
    True, 0, -1, 10**18, 10**30, 10**400, 1e308, float("nan"), float("inf"), [[1]], [None], {"a": {"b": []}}, NESTED,
]  # fmt: skip


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every key and index within, with what it is of."""
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in parts:
        yield content, key
        yield from places(value)


def other_value(file: Path, random: Random) -> None:
    content = json.loads(file.read_text())
    holder, key = random.choice(list(places(content)))
    holder[key] = random.choice([value for value in WRONG if value != holder[key]])
    file.write_text(json.dumps(content))


def key_taken_away(file: Path, random: Random) -> None:
    content = json.loads(file.read_text())
    holder, key = random.choice(list(places(content)))
    del holder[key]
    file.write_text(json.dumps(content))


def no_mapping(file: Path, random: Random) -> None:
    file.write_text(random.choice(["null", "[]", '"text"', "3", "NaN", "{}", "\ufeff{}", "1" * 5_000]))


def nested_deeply(file: Path, random: Random) -> None:
    content = file.read_text().rstrip()[:-1]
    deep = random.choice([("[", "]"), ('{"a":', "}")])
    file.write_text(f'{content}, "deep": {deep[0] * 10_000}0{deep[1] * 10_000}}}')


def very_long(file: Path, random: Random) -> None:
    content = json.loads(file.read_text())
    content["reason"] = "x" * 50_000_000
    file.write_text(json.dumps(content))


JSON = [other_value] * 6 + [key_taken_away] * 2 + [no_mapping, nested_deeply, very_long]

# what a program does to a table


def claims_rows(file: Path, random: Random) -> None:
    """10^12 of them, in the file's own metadata, which stays whole."""
    content = file.read_bytes()
    length = struct.unpack("<I", content[-8:-4])[0]
    footer = content[-8 - length : -8]
    rows = pq.read_metadata(file).num_rows
    footer = footer.replace(b"\x16" + _varint(2 * rows), b"\x16" + _varint(2 * 10**12))
    file.write_bytes(content[: -8 - length] + footer + struct.pack("<I", len(footer)) + b"PAR1")


def _varint(number: int) -> bytes:
    """As Thrift's compact protocol has it."""
    made = b""
    while number >= 128:
        made += bytes([number % 128 + 128])
        number //= 128
    return made + bytes([number])


def rewritten(change: Callable[[pa.Table, Random, Path], pa.Table]) -> Callable[[Path, Random], None]:
    def damage(file: Path, random: Random) -> None:
        pq.write_table(change(pq.read_table(file), random, file), file)

    damage.__name__ = change.__name__
    return damage


def column_missing(table: pa.Table, random: Random, file: Path) -> pa.Table:
    return table.drop_columns(random.choice(["run", "value" if "value" in table.column_names else "label"]))


def column_renamed(table: pa.Table, random: Random, file: Path) -> pa.Table:
    names = list(table.column_names)
    names[names.index("run")] = random.choice(["Run", "", names[1], "../run"])
    return table.rename_columns(names)


def other_types(table: pa.Table, random: Random, file: Path) -> pa.Table:
    place = random.randrange(table.num_columns)
    length = len(table)
    others = [
        pa.nulls(length), pa.array(["text"] * length), pa.array([[1]] * length), pa.array([b"\xff"] * length),
        pa.array([{"a": 1}] * length), pa.array([True] * length), pa.array([1] * length, pa.int8()),
        pa.array([1] * length, pa.timestamp("s")),
    ]  # fmt: skip
    kind = table.schema.field(place).type
    alike = [place for place in range(len(others)) if others[place].type in (kind, getattr(kind, "value_type", None))]
    chosen = random.choice([other for number, other in enumerate(others) if number not in alike])
    return table.set_column(place, table.column_names[place], chosen)


def no_utf8(table: pa.Table, random: Random, file: Path) -> pa.Table:
    bad = pa.array([b"\xff\xfe"] * len(table)).view(pa.string())
    return table.set_column(0, "run", bad)


def foreign_rows(table: pa.Table, random: Random, file: Path) -> pa.Table:
    column = pa.array(["another-run-s0-0123456789"] * len(table)).dictionary_encode()
    foreign = table.slice(0, 2).set_column(0, "run", column.slice(0, min(2, len(table))))
    return random.choice([table.set_column(0, "run", column), pa.concat_tables([table, foreign])])


def rows_twice(table: pa.Table, random: Random, file: Path) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, random.randint(1, len(table)))])


def without_values(table: pa.Table, random: Random, file: Path) -> pa.Table:
    place = random.choice(
        [table.column_names.index(name) for name in ("run", "step", "time", "value") if name in table.column_names]
    )
    column = table.column(place)
    return table.set_column(place, table.column_names[place], pc.if_else(pa.array([False] * len(table)), column, None))


def wrong_part_count(file: Path, random: Random) -> None:
    table = pq.read_table(file)
    pq.write_table(
        table.replace_schema_metadata({"retrograde.merged_parts": random.choice(["-1", "x", "1e3", "²"])}), file
    )


TABLE: list[Callable[[Path, Random], None]] = [
    claims_rows,
    *map(rewritten, [column_missing, column_renamed, other_types, other_types, no_utf8, foreign_rows, rows_twice]),
    rewritten(without_values),
]


def damage(outputs: Path, random: Random) -> Done:
    """One file of one run; every kind of file and of damage as likely as any other."""
    runs = sorted(file.parent for file in outputs.glob("*/*/run.json"))
    kinds = {
        "run.json": ["run.json"], "card.json": ["card.json"], "merged": ["tables/**/*.parquet"],
        "part": ["tables/**/part-*.parquet"], "other": list(NOT_READ),
    }  # fmt: skip
    kind = random.choice(["run.json", "run.json", "card.json", "merged", "merged", "part", "other"])
    files = sorted(file for run in runs for pattern in kinds[kind] for file in run.glob(pattern))
    file = random.choice([file for file in files if (kind == "part") == file.name.startswith("part-")])
    ways: list[Callable[[Path, Random], None]] = random.choice([BYTES, PLACES])
    if kind.endswith(".json"):
        ways = random.choice([BYTES, PLACES, JSON, JSON])
    elif kind in ("merged", "part"):
        ways = random.choice([BYTES, BYTES, PLACES, [*TABLE, wrong_part_count] if kind == "merged" else TABLE])
    way = random.choice(ways)
    way(file, random)
    is_json = kind.endswith(".json")
    may_pass = is_json and way in (flipped, other_value, key_taken_away)
    if way is deleted and not is_json:  # until a run has ended, nothing says which tables it has
        may_pass = kind == "part" or "tables" not in json.loads((_run_of(file) / "run.json").read_text())
    return Done(file, way.__name__, may_pass)


def _run_of(file: Path) -> Path:
    place = file.parent
    while not (place / "tables").is_dir() and not (place / "run.json").exists():
        place = place.parent
    return place


Everything = dict[tuple[str, str], Any]
"""What a store gives, by what it is and by run."""


def everything(store: FolderStore) -> Everything:
    found: Everything = {}
    for run in store.folders:
        found["metadata", run] = store.metadata(run)
        try:
            found["card", run] = store.card(run)
        except ValueError as error:
            found["card", run] = str(error)
    frames = {"tables/metrics": store.metrics(), "tables/labels": store.labels()}
    frames |= {f"tables/readings/{name}": store.readings(name) for name in store.tables()}
    for name, frame in frames.items():
        for run, of_run in frame.groupby("run"):
            found[name, str(run)] = _plain(of_run)
    return found


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in order, without the columns that only other runs have, whatever other runs make of their types."""
    own = frame.dropna(axis=1, how="all").reset_index(drop=True)
    return own.astype({name: "float64" for name in own if pd.api.types.is_numeric_dtype(own[name])})


def same(one: Any, other: Any) -> bool:
    if isinstance(one, pd.DataFrame) and isinstance(other, pd.DataFrame):
        return one.equals(other[one.columns]) if set(one.columns) == set(other.columns) else False
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(other, sort_keys=True, default=str)


def rows(frame: pd.DataFrame) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(frame[name].astype(str) for name in sorted(frame)), strict=True))


def faults(before: Everything, outputs: Path, done: Done) -> tuple[list[str], bool]:
    """What is lost beside the damaged file, or lost without being named; and whether the file was named."""
    store = FolderStore(outputs)
    after = everything(store)
    inside = str(done.file.relative_to(outputs / done.file.relative_to(outputs).parts[0] / done.run))
    said = f"{store.unreadable.get(done.run, '')} {after.get(('card', done.run), '')}"
    named = f"{inside} " in said or inside.removesuffix(".parquet") in said
    found = [f"{run} is named: {why}" for run, why in store.unreadable.items() if run != done.run]
    if inside in NOT_READ:
        found += [f"named: {store.unreadable[done.run]}"] if done.run in store.unreadable else []
    changed = [key for key in {**before, **after} if not same(before.get(key), after.get(key))]
    for what, run in changed:
        if run != done.run:
            found.append(f"{what} of {run} is not what it was")
        elif inside == "run.json":
            if not named and what != "metadata":
                found.append(f"{what} changed with run.json, which is not named")
        elif inside == "card.json":
            if what != "card":
                found.append(f"{what} changed with the card")
        elif not inside.startswith(what):
            found.append(f"{what} changed with {inside}")
        elif not named:
            found += [] if done.may_pass else [f"{what} changed and is not named"]
        elif (what, run) in after and rows(after[what, run]) - rows(before[what, run]):
            found.append(f"{what} holds what it did not")
    if changed and not named and not done.may_pass:
        found.append("not named")
    return found, named


def raised(outputs: Path, questions: dict[str, ModuleType]) -> list[str]:
    """What the scripts' ``load`` and what they say of it raise, where it is not that there is nothing to draw."""
    found, _ = comparisons(FolderStore(outputs))
    wrong = []
    for comparison in found:
        for stem, question in questions.items():
            try:
                tables = question.load(comparison)
                question.finding(tables)
                question.caption(tables)
            except NothingToDraw:
                continue
            except Exception as error:
                wrong.append(f"{stem}: {type(error).__name__}: {error}")
    return wrong


def restore(good: Path, outputs: Path, done: Done) -> None:
    """The run as it was."""
    place = outputs / done.file.relative_to(outputs).parts[0] / done.run
    shutil.rmtree(place)
    shutil.copytree(good / place.relative_to(outputs), place)
