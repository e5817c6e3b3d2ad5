"""``retrograde-probe``: any probe asked of a run that has ended, or of a checkpoint of it.

    retrograde-probe RUN lyapunov
    retrograde-probe RUN/checkpoints/last.ckpt jacobian influence jacobian.times=8

The probe reads a snapshot of the saved weights on the run's own probe batch. Its readings are written beside the run's
other tables, with the step that the weights are from, in the place of the same quantities of that step.
Numbers without axes are printed, and of all others where they stand. W&B's view of the run is not written to: it ended
with the run.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from retrograde.core.choices import Unavailable
from retrograde.train.configuration import config_folder
from retrograde.train.errors import in_one_line
from retrograde.train.settings import check_types

if TYPE_CHECKING:  # torch loads when a probe is asked
    from retrograde.core.records import Reading


def main() -> None:
    """Ask, write, and print what was written; an error reaches a person as one line."""
    parser = argparse.ArgumentParser(
        prog="retrograde-probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder, or a checkpoint in it")
    parser.add_argument("what", nargs="+", metavar="PROBE", help="probes by name; PROBE.KEY=VALUE sets one of theirs")
    parser.add_argument("--samples", type=int, help="sequences of the probe batch, where not as many as in the run")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of yours that the run's model and task may be made of; once for each",
    )
    parser.add_argument("--config-dir", type=Path, help="a folder of configurations of your own")
    given = parser.parse_args()
    names = [word for word in given.what if "=" not in word]
    overrides = [f"probe.{word}" for word in given.what if "=" in word]
    try:
        if given.config_dir:
            overrides.append(f"hydra.searchpath=['{given.config_dir.resolve()}']")
        for line in ask(given.run, settings_of(names, overrides), given.samples, given.trust):
            print(line, flush=True)
    except (ValueError, OSError, Unavailable, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"retrograde-probe: {in_one_line(error, [choice(names), *overrides])}")


def settings_of(names: Sequence[str], overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The settings of each probe by name, also of those in a preset; ``overrides`` as on the command line of a run."""
    if not names:
        raise ValueError("name a probe to ask, or a preset such as default")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=[choice(names), *overrides], return_hydra_config=True)
    probes = OmegaConf.to_container(config.get("probe") or OmegaConf.create(), resolve=True)
    assert isinstance(probes, dict)  # a group
    made = {str(stem): settings for stem, settings in probes.items()}
    for name, settings in made.items():
        if not isinstance(settings, dict):
            raise ValueError(f"'{name}={settings}' is no setting of a probe: {name}.KEY=VALUE sets one")
    check_types(made, "probe.")
    return made


def choice(names: Sequence[str]) -> str:
    """The override that chooses these probes together."""
    return f"probe=[{','.join(names)}]"


def ask(
    run: Path | str,
    probes: Mapping[str, Mapping[str, Any]],
    samples: int | None = None,
    trusted: Sequence[str] = (),
) -> "list[str]":
    """What the probes with these settings say of a run's weights, written to its tables; in lines for a person.

    ``trusted`` is as in ``load``. Raises ValueError where there is no such run or checkpoint, or another process is at
    work on the run.
    """
    from hydra.utils import instantiate

    from retrograde.core.snapshot import snapshot
    from retrograde.record.metadata import read_run
    from retrograde.record.tables import replace_readings
    from retrograde.train.load import restored
    from retrograde.train.probing import noting, probe_batch
    from retrograde.train.provenance import provenance

    folder, model, task, step = restored(Path(run), trusted)
    metadata = read_run(folder)
    with folder.claimed():
        count = recorded_samples(metadata) if samples is None else samples
        if count < 1:
            raise ValueError(f"--samples must be at least 1, not {count}")
        taken = snapshot(model, task, probe_batch(task, count).beside(model.like), step)
        lines = []
        for name, settings in probes.items():
            begun = time.perf_counter()
            notes: dict[str, None] = {}
            with noting(notes):
                readings = list(instantiate(settings)(taken))
            replace_readings(folder.tables, folder.run, step, name, readings)
            asked = {"probe": name, "step": step, "samples": count, "settings": settings, **provenance()}
            asked |= {"seconds": time.perf_counter() - begun, "at": datetime.now(UTC).isoformat(timespec="seconds")}
            metadata = {**metadata, "asked": [*metadata.get("asked", []), asked]}
            folder.write(metadata)
            lines += [*notes, *said(name, step, readings, folder.tables)]
    return lines


def recorded_samples(metadata: Mapping[str, Any]) -> int:
    """How many sequences the run was probed on; raises ValueError where it does not say."""
    probing = metadata["config"].get("probing")
    count = probing.get("samples") if isinstance(probing, Mapping) else None
    if not isinstance(count, int):
        raise ValueError(f"run {metadata['run']} does not say on how many sequences it was probed: give --samples")
    return count


def said(name: str, step: int, readings: "Sequence[Reading]", tables: Path) -> list[str]:
    """One line for each number without axes, and one for each table."""
    if not readings:
        return [f"{name}: nothing to say of this model on this task"]
    numbers = [reading for reading in readings if not reading.dims]
    lines = [f"{name}, step {step}: {number.name} = {float(number.values):.4g} {number.unit}" for number in numbers]
    quantities = dict.fromkeys(reading.name.partition("/")[0] for reading in readings)
    return [*lines, f"{name}, step {step}: {', '.join(quantities)} in {tables / 'readings' / name}"]
