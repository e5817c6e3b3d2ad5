"""What a report of many runs takes, in time and in memory.

    python benchmarks/report.py                        100 and 1,000 runs, a few minutes on two cores
    python benchmarks/report.py --runs 10 20           a look at whether it runs

The machine should do nothing else; its load before each report is kept with the result. One real run is trained: the
default probes on adding of length 100, one layer, 30 recorded steps. The others are its copies under names of their
own, with all of its tables, so that reading is as dear as it is. They are of 20 models with 5 seeds to a study; with
--together they are all of one study, of 20 models with as many seeds as that takes.

A report is a process of its own, from its begin to its end, with the runs' files in the system's cache, and the
processes that draw for it. The memory is the most that all of them held at one look, of which there are five a second.
Goals: 100 runs in 15 s, 1,000 in 60 s and 2 GB; the exponent of time over runs, by least squares of their logarithms,
at most 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from measuring import Ratio, keep, machine
from retrograde.record.folder import run_name

SCRIPT = Path(__file__).parents[1] / "analysis" / "report.py"
TRAIN = "from retrograde.train.app import main; main()"

LENGTH, SNAPSHOTS = 100, 30
MODELS, SEEDS = 20, 5
"""Of a study."""

GOALS = {100: (15.0, 2e9), 1000: (60.0, 2e9)}
"""Seconds and bytes, by number of runs."""

LOOK_EVERY = 0.2
"""Seconds between two looks at the memory held."""

LINEAR = 1.0
"""The exponent meant."""


def trained(outputs: Path) -> Path:
    """The folder of the run that the others are copies of."""
    steps = ",".join(str(step) for step in range(SNAPSHOTS))
    settings = [
        f"outputs={outputs}", f"task.length={LENGTH}", f"steps={SNAPSHOTS - 1}", f"probing.steps=[{steps}]",
        "probing.share=null", "trainer.validate_every=10", "trainer.accelerator=cpu", "progress=false",
        "trainer.threads=1",
    ]  # fmt: skip
    environment = {**os.environ, "WANDB_MODE": "offline"}
    command = [sys.executable, "-c", TRAIN, *settings]
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    (metadata,) = outputs.rglob("run.json")
    return metadata.parent


def copy(original: Path, outputs: Path, study: str, model: str, seed: int) -> None:
    """The same run under another name, model and seed."""
    metadata = json.loads((original / "run.json").read_text(encoding="utf-8"))
    config = {**metadata["config"], "seed": seed, "study": study}
    config["model"] = {**config["model"], "_target_": model}
    name = run_name(model, metadata["task"], config)
    metadata |= {"run": name, "study": study, "model": model, "seed": seed, "config": config}
    folder = outputs / study / name
    for file in sorted((original / "tables").rglob("*.parquet")):
        table = pq.ParquetFile(file).read()
        runs = pa.DictionaryArray.from_arrays(np.zeros(len(table), np.int32), pa.array([name]))
        place = folder / file.relative_to(original)
        place.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            table.set_column(table.column_names.index("run"), "run", runs), place,
            compression="zstd", write_page_checksum=True,
        )  # fmt: skip
    (folder / "card.json").write_bytes((original / "card.json").read_bytes())
    (folder / "run.json").write_text(json.dumps(metadata), encoding="utf-8")


def copies(original: Path, outputs: Path, runs: int, together: bool) -> None:
    """So many copies, by study, model and seed."""
    seeds = -(-runs // MODELS) if together else SEEDS
    for number in range(runs):
        study, within = divmod(number, MODELS * seeds)
        model, seed = within // seeds, within % seeds
        copy(original, outputs, f"study-{study:02d}", f"model_{model:02d}", seed)


def reported(outputs: Path, to: Path) -> dict[str, Any]:
    """Seconds and peak memory of a report on what lies there."""
    load = os.getloadavg()[0]
    begun, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, SCRIPT, outputs, "--to", to], stdout=subprocess.DEVNULL, start_new_session=True
    )
    ended = 0
    while not ended:
        time.sleep(LOOK_EVERY)
        peak = max(peak, resident(process.pid))
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the report of {outputs} ended with {process.returncode}")
    return {
        "seconds": seconds,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": peak,
        "page_bytes": (to / "index.html").stat().st_size,
        "load_before": load,
    }


def resident(session: int) -> int:
    """Bytes that the processes of a session hold, what they share counted once (Linux's proportional set size)."""
    held = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(process.name)) == session:
                rollup = (process / "smaps_rollup").read_text(encoding="ascii")
                held += 1024 * int(rollup.split("\nPss:", 1)[1].split(maxsplit=1)[0])
        except (OSError, IndexError):  # it has ended
            continue
    return held


def exponent(seconds: dict[int, float]) -> float:
    """Of time over runs; NaN where there is one size."""
    if len(seconds) < 2:
        return float("nan")
    return float(np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0])


def verdict(runs: int, found: dict[str, Any]) -> str:
    """Whether the goal for that many runs is met; empty where there is none."""
    if runs not in GOALS:
        return ""
    seconds, memory = GOALS[runs]
    met = found["seconds"] <= seconds and found["peak_bytes"] <= memory
    return f"≤ {seconds:.0f} s and {memory / 1e9:.0f} GB {'met' if met else 'missed'}"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--runs", nargs="+", type=int, default=sorted(GOALS), help="how many; %(default)s")
    parser.add_argument("--together", action="store_true", help="all runs in one study")
    parser.add_argument("--json", type=Path, help="a file to keep the result in")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = parsed(arguments)
    if min(given.runs) < 1:
        print(f"--runs must be at least 1, not {min(given.runs)}", file=sys.stderr)
        return 1
    results: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        original = trained(place / "original")
        size = sum(file.stat().st_size for file in (original / "tables").rglob("*.parquet"))
        print(f"{'runs':>6}{'seconds':>9}{'processor':>11}{'peak MB':>9}{'page MB':>9}{'load':>6}   goal")
        for runs in sorted(set(given.runs)):
            copies(original, place / str(runs), runs, given.together)
            results[runs] = found = reported(place / str(runs), place / f"{runs}-report")
            print(
                f"{runs:>6}{found['seconds']:>9.1f}{found['processor_seconds']:>11.1f}"
                f"{found['peak_bytes'] / 1e6:>9.0f}{found['page_bytes'] / 1e6:>9.2f}{found['load_before']:>6.1f}"
                f"   {verdict(runs, found)}",
                flush=True,
            )
    grows = exponent({runs: found["seconds"] for runs, found in results.items()})
    goal = "" if np.isnan(grows) else f"   ≤ {LINEAR:g} {'met' if grows <= LINEAR else 'missed'}"
    print(f"time grows with runs to the power of {grows:.2f}{goal}; tables of a run: {size / 1e3:.0f} kB")
    if given.json:
        where = machine("cpu", 1, ["torch", "retrograde", "pandas", "pyarrow", "matplotlib"])
        together = {"together": given.together, "table_bytes_of_a_run": size, "exponent": grows}
        rows = [
            Ratio(f"a report of {runs} runs, in s", "", taken, taken, taken, GOALS.get(runs, (None,))[0])
            for runs, taken in ((runs, found["seconds"]) for runs, found in results.items())
        ]
        keep(
            {
                "benchmark": "report",
                "machine": where,
                **together,
                "reports": {str(runs): found for runs, found in results.items()},
                "ratios": [asdict(row) for row in rows],
            },
            given.json,
        )
    met = all("missed" not in verdict(runs, found) for runs, found in results.items())
    return 0 if met and not grows > LINEAR else 1


if __name__ == "__main__":
    sys.exit(main())
