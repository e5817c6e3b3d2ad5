"""The W&B run of a job: the view that a person browses. The complete record is the tables, which travel with it.

    train/loss, validation/score, …                  as they come
    <probe>/<quantity>/<where>                       numbers without dims
    <probe>/<quantity>/<where>/lag_<k>               mean over the batch at log-spaced lags, or times before the last
    <probe>/<quantity>/<where>/<head or parameter>   numbers along one named dim, not of every unit
    <probe>/<quantity>/<where>/over_time, over_lag   picture: training downward, time or lag to the right
    <probe>/map/<where>/head_<h>                     picture of an attention map, queries downward, square-root scale
    <test>/<quantity>_by_<dim>/outputs/<dim>_<k>     means of a whole test set at log-spaced positions, lags or lengths

What the readings warn of when the run ends is sent as W&B's own alerts; all of it stands in the summary.

Of a test's coordinates those are chosen that are the nearest at or below 0, 1, 2, 4, 8, … and the largest; each number
is that of the coordinate in its name, none is moved to a neighbour's. A test is no snapshot: it comes once, in the end,
with the step of the checkpoint that was tested, has no part in the pictures, and neither counts in their rhythm nor
changes their steps.

Nothing relies on a global ``wandb.run``: several views can be open in one process. ``trainer/global_step`` is the axis;
W&B's own step counts calls.

A view never ends a run. Where W&B cannot be reached the run goes on offline, and whatever else W&B fails to do is left
undone: said in one line when it first happens, and kept in run.json under ``wandb``. What is wrong with a setting, such
as the key, is raised before training.
"""

import json
import math
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import wandb

from retrograde.core.records import Reading
from retrograde.core.statistics import OF_A_SET
from retrograde.record.alerts import TITLES
from retrograde.record.folder import RunFolder
from retrograde.record.palette import coloured
from retrograde.record.secret import redacted
from retrograde.record.tables import place, stored

WANDB_LEVELS = {"error": "ERROR", "warning": "WARN", "info": "INFO"}

Mode = Literal["offline", "online", "disabled"]

STEP = "trainer/global_step"
PICTURE_EVERY = 4
"""Maps are drawn on every fourth snapshot and the last: a picture costs as much as a hundred scalars."""

AS_LONG_AS_WIDE = ("unit", "eigenvalue", "index")
"""Dims with an entry for each unit of a layer, or number of its state: hundreds of scalars, which stay in tables."""

GRACE = 5.0
"""Seconds that W&B has to notice by itself that the time for a run's end is over."""

REFUSED = r"returned error 4(?!08|29)\d\d"
"""What W&B says of a server that answers and does not let us in: no time will mend it."""

SMALLEST_SIDE = 160
"""Pixels; smaller maps are magnified by a whole number so that a browser does not blur them."""


class WandbView:
    """Opens a run of its own; ``close`` attaches the record. Once the last view is closed, every log is complete."""

    still_open: ClassVar[set[str]] = set()
    starting: ClassVar[threading.Thread | None] = None
    """What starts W&B's process for the next view, see ``start_ahead``."""

    def __init__(
        self,
        folder: Path,
        metadata: Mapping[str, Any],
        mode: Mode,
        project: str,
        entity: str | None,
        group: str,
        init_timeout: float = 30.0,
        finish_timeout: float = 60.0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.finish_timeout = finish_timeout
        self.failures: dict[str, str] = {}
        self.lost = False
        if self.starting is not None:
            self.starting.join()

        @_as_it_was()
        def started(mode: Mode) -> wandb.Run:
            return wandb.init(
                id=folder.name,
                name=folder.name,
                group=group,
                project=project,
                entity=entity,
                dir=str(folder),
                config=dict(metadata),
                mode=mode,
                reinit="create_new",
                resume="allow",
                settings=wandb.Settings(
                    console="off",
                    silent=True,
                    x_transaction_log_flush_interval=1.0,
                    init_timeout=init_timeout,
                    finish_timeout=finish_timeout,
                    finish_timeout_raises=True,
                ),
            )

        self.run: wandb.Run | None = None
        if mode == "online":
            self._go_online(started)
        if self.run is None:
            self._spared("start", lambda: self._open(started("disabled" if mode == "disabled" else "offline")))
        self.metadata = dict(metadata)
        self.curves: dict[str, tuple[str, str, str]] = {}
        self.maps: dict[str, tuple[int, Reading]] = {}
        self.snapshots = -1
        self.last_step = -1

    def note(self, facts: Mapping[str, Any]) -> None:
        """What the record says besides, from now on."""
        self.metadata |= facts

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, values)

    def readings(self, step: int, probe: str, readings: Iterable[Reading]) -> None:
        if self.run is not None and not self.lost:
            self._spared("log", lambda: self._readings(step, probe, readings))

    def _readings(self, step: int, probe: str, readings: Iterable[Reading]) -> None:
        given = list(readings)
        is_snapshot = not given or not all(_is_of_a_set(reading) for reading in given)
        if is_snapshot and step != self.last_step:
            self.snapshots += 1
            self.last_step = step
        logged: dict[str, Any] = {}
        for reading in given:
            name = f"{probe}/{reading.name}"
            dims = tuple(reading.dims)
            if not dims:
                logged[name] = float(reading.values)
            elif _is_of_a_set(reading):
                logged |= _of_a_set(name, reading)
            elif dims in (("statistic", "time"), ("statistic", "lag")):
                logged |= self._curve(name, reading)
            elif len(dims) == 1 and dims[0] not in AS_LONG_AS_WIDE:
                coordinates = reading.dims[dims[0]]
                logged |= {
                    f"{name}/{label}": float(value) for label, value in zip(coordinates, reading.values, strict=True)
                }
            elif dims[-2:] == ("query", "key"):
                self.maps[name] = (step, reading)
        if is_snapshot and self.snapshots % PICTURE_EVERY == 0:
            logged |= self._drawn_maps(step)
        if logged:
            self._log(step, logged)

    def close(self, folder: RunFolder, summary: Mapping[str, Any], failed: bool) -> None:
        run = self.run
        if run is not None:
            if not self.lost:
                alerts = [alert for alert in summary.get("alerts", ()) if alert["at_end"]]
                self._spared("draw the last pictures", lambda: self._draw_last(folder))
                self._spared("keep the summary", lambda: run.summary.update(dict(summary)))
                self._spared("send the alerts", lambda: self._alert(run, alerts))
                self._spared("take the tables", lambda: self._attach(run, folder, summary))
            in_time = f"take everything within {self.finish_timeout:g} s (analysis/sync.py uploads the rest)"
            self._spared(in_time, lambda: self._finish(run, exit_code=1 if failed else 0))
            self._spared("end", self._teardown)
        if self.failures:
            failures = "; ".join(f"could not {what}: {why}" for what, why in self.failures.items())
            self._spared("note that in run.json", lambda: folder.write({**folder.read(), "wandb": failures}))

    def _go_online(self, started: Callable[[Mode], wandb.Run]) -> None:
        """Not where the server is out of reach; raises ValueError where a setting is wrong."""
        try:
            self._open(started("online"))
        except (wandb.Error, OSError) as error:
            is_setting = isinstance(error, (wandb.errors.UsageError, wandb.errors.AuthenticationError))
            if is_setting or re.search(REFUSED, str(error)):
                raise ValueError(
                    f"recorder.mode=online: {in_one_line(error)}; see that the key (wandb login) and recorder.entity "
                    "are right, or choose recorder.mode=offline"
                ) from None
            self._failed("start online, so that the run goes on offline", error)
            self._spared("end", self._teardown)  # until then the run's name counts as taken

    def _open(self, run: wandb.Run) -> None:
        self.run = run
        self.still_open.add(run.id)
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP)

    def _spared(self, what: str, act: Callable[[], object]) -> None:
        """The run is spared what goes wrong here."""
        try:
            act()
        except Exception as error:
            self._failed(what, error)
            self.lost |= isinstance(error, ConnectionError)

    def _failed(self, what: str, error: Exception) -> None:
        """Said when it first happens; of a W&B that has died, nothing more."""
        if what not in self.failures and not self.lost:
            self.failures[what] = in_one_line(error)
            print(f"retrograde: W&B could not {what}: {self.failures[what]}", file=sys.stderr, flush=True)

    def _finish(self, run: wandb.Run, exit_code: int) -> None:
        """W&B's own limit does not hold where a server takes a request and never answers: then its process is ended."""
        raised: list[Exception] = []

        def finish() -> None:
            try:
                run.finish(exit_code=exit_code)
            except Exception as error:
                raised.append(error)

        thread = threading.Thread(target=finish, daemon=True)
        thread.start()
        thread.join(self.finish_timeout + GRACE)
        if thread.is_alive():
            if self.still_open == {run.id}:  # the log is on disk, and nobody else needs W&B's process
                _end_process()
                thread.join(GRACE)
            self.still_open.discard(run.id)
            raise ConnectionAbortedError("the server does not answer")
        self.still_open.discard(run.id)
        if raised:
            raise raised[0]

    def _teardown(self) -> None:
        """Ends W&B's process once no view is open: finish() can return before the log on disk is complete."""
        if self.still_open or wandb.run is not None:
            return
        try:
            wandb.teardown()
        except SystemExit as error:
            if type(error) is not SystemExit:  # a signal's
                raise
            raise ConnectionAbortedError(f"its process ended with {error.code}") from None

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        run = self.run
        if run is not None and not self.lost:
            self._spared("log", lambda: run.log({**values, STEP: step}))

    def _draw_last(self, folder: RunFolder) -> None:
        last = max(self.last_step, 0)
        for step in sorted({step for step, _ in self.maps.values()} - {last}):
            self._log(step, self._drawn_maps(step))
        self._log(last, {**self._drawn_maps(last), **self._drawn_curves(folder)})

    def _alert(self, run: wandb.Run, alerts: Iterable[Mapping[str, Any]]) -> None:
        for alert in alerts:
            # one kind may hold in several layers; 0 would mean a minute without a second alert of one title
            run.alert(TITLES[alert["kind"]], alert["text"], WANDB_LEVELS[alert["level"]], wait_duration=0.001)

    def _curve(self, name: str, reading: Reading) -> dict[str, Any]:
        """Numbers at log-spaced lags, the means, or the only ones that there are; time is counted back from its end."""
        dim = tuple(reading.dims)[1]
        statistics = [str(statistic) for statistic in reading.dims["statistic"]]
        shown = "mean" if "mean" in statistics else statistics[0]
        mean = reading.values[statistics.index(shown)]
        coordinates = np.asarray(reading.dims[dim])
        self.curves[name] = dim, reading.unit, shown
        lags = coordinates if dim == "lag" else coordinates[-1] - coordinates
        at = {int(lag): float(value) for lag, value in zip(lags, mean, strict=True)}
        return {f"{name}/lag_{lag}": at[lag] for lag in log_spaced(int(lags.max())).tolist() if lag in at}

    def _drawn_maps(self, step: int) -> dict[str, Any]:
        """The first sample's maps of that step, those not drawn yet, all on one scale from 0 to 1."""
        drawn = {}
        for name, reading in [(name, reading) for name, (at, reading) in self.maps.items() if at == step]:
            for head, weights in enumerate(reading.values[0]):
                drawn[f"{name}/head_{head}"] = _picture(np.sqrt(weights), 0.0, 1.0, "square root, from 0 to 1")
            del self.maps[name]
        return drawn

    def _drawn_curves(self, folder: RunFolder) -> dict[str, Any]:
        """The curves of all snapshots, one below the other; of the tables, where also those of earlier attempts are."""
        drawn = {}
        tables: dict[str, pa.Table] = {}
        for name, (dim, unit, shown) in self.curves.items():
            probe, quantity, where = (*name.split("/", 2), "")[:3]
            table = f"readings/{probe}/{quantity}"
            if table not in tables:
                tables[table] = stored(folder.tables, table)
            values = _over_steps(tables[table], where, dim, shown)
            finite = values[np.isfinite(values)]
            low, high = (0.0, 1.0) if unit == "share" or not len(finite) else (finite.min(), finite.max())
            drawn[f"{name}/over_{dim}"] = _picture(
                values, float(low), float(high), f"{unit}, from {low:.1f} to {high:.1f}"
            )
        return drawn

    def _attach(self, run: wandb.Run, folder: RunFolder, summary: Mapping[str, Any]) -> None:
        """The record as files of the run, so that a synced project gives the same figures as the folder.

        What run.json is going to say is called metadata.json here: a second run.json would make a second run.
        """
        target = Path(run.dir) / "retrograde"
        target.mkdir()
        if folder.tables.exists():  # a run that failed early has none
            shutil.copytree(folder.tables, target, dirs_exist_ok=True)
        shutil.copy(folder.path / "card.json", target)
        (target / "metadata.json").write_text(json.dumps({**self.metadata, **summary}, indent=1, default=str))
        # each file by its name: to save() a "**" means one level
        for file in sorted(file for file in target.glob("**/*") if file.is_file()):
            run.save(str(file), base_path=run.dir, policy="end", glob=False)


def start_ahead() -> None:
    """Start W&B's process for the next run, beside other work: to wait for it would take a fifth of a second."""

    @_as_it_was()
    def start() -> None:
        with suppress(Exception):  # the next run meets the same, and says it
            wandb.setup()

    # no daemon: who exits before it has started waits until it can be told to end
    WandbView.starting = threading.Thread(target=start)
    WandbView.starting.start()


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Whoever starts W&B's process here keeps the functions that end this one and show an error.

    W&B puts its own on top of those that it put there before, and after a thousand runs an exit would be too deep.
    """
    before = sys.exit, sys.excepthook
    try:
        yield
    finally:
        sys.exit, sys.excepthook = before


def _end_process() -> None:
    """Kill W&B's process, which would be waited for at the end of this one. W&B itself has no way to.

    Raises ConnectionAbortedError where it is not found, such as in another version of W&B.
    """
    try:
        service = wandb.setup().assert_service()._proc
        assert service is not None  # it belongs to whoever started this process
        process = service._process
    except (AttributeError, AssertionError):
        raise ConnectionAbortedError(
            f"the server does not answer, and W&B {wandb.__version__} waits for it until this process is ended"
        ) from None
    process.kill()
    service.join()


def in_one_line(error: Exception) -> str:
    """Without the details of retrying, which follow on lines of their own, and without keys."""
    lines = str(error).strip().splitlines()
    return redacted(lines[0] if lines else type(error).__name__)


def _is_of_a_set(reading: Reading) -> bool:
    return len(reading.dims) == 2 and tuple(reading.dims.get("statistic", ())) == OF_A_SET


def _of_a_set(name: str, reading: Reading) -> dict[str, float]:
    """The means at the coordinates nearest at or below 0, 1, 2, 4, 8, …, and at the largest, each under its own."""
    dim = next(dim for dim in reading.dims if dim != "statistic")
    means = dict(zip(reading.dims[dim], reading.values[OF_A_SET.index("mean")].tolist(), strict=True))
    return {f"{name}/{dim}_{at}": means[at] for at in marks(list(means))}


def marks(coordinates: Sequence[int]) -> list[int]:
    """Of a test's coordinates those that are logged.

    >>> marks([3, 5, 6, 16, 17, 30, 40])
    [3, 6, 16, 30, 40]
    """
    largest = max(coordinates)
    wanted = [*log_spaced(largest).tolist(), largest]
    return sorted({max(at for at in coordinates if at <= mark) for mark in wanted if mark >= min(coordinates)})


def log_spaced(largest: int) -> np.ndarray:
    """0, 1, 2, 4, 8, … up to ``largest``."""
    return np.array([0, *(2**power for power in range(int(math.log2(max(largest, 1))) + 1))])


def _over_steps(table: pa.Table, where: str, dim: str, statistic: str) -> np.ndarray:
    """One statistic of one place as (step, coordinate); NaN where a step has none."""
    layer, component = place(where)
    wanted = {"layer": layer, "component": component, "statistic": statistic}
    rows = table.filter(reduce(pc.and_, [pc.equal(table[column], value) for column, value in wanted.items()]))
    steps, down = np.unique(rows["step"].to_numpy(), return_inverse=True)
    coordinates, right = np.unique(rows[dim].to_numpy(), return_inverse=True)
    values = np.full((len(steps), len(coordinates)), np.nan)
    values[down, right] = rows["value"].to_numpy()
    return values


def _picture(values: np.ndarray, low: float, high: float, caption: str) -> wandb.Image:
    pixels = coloured(values, low, high)
    factors = [max(1, SMALLEST_SIDE // side) for side in values.shape]
    return wandb.Image(pixels.repeat(factors[0], 0).repeat(factors[1], 1), caption=caption)
