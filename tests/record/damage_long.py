"""A thousand damaged folders, and what the reading side makes of each: the long form of test_damage.

    python tests/record/damage_long.py [DAMAGES] [REPORTS] [FIRST]

DAMAGES (1,000) are applied one at a time to fabricated runs and to two that were trained; after each, all that a store
gives is compared with what it gave before, every script of analysis/ loads, and of REPORTS (30) the page is made. What
is lost beside the damaged file, or is lost without being named, or raises, is printed; the exit code is then 1.
"""

import contextlib
import io
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from types import ModuleType

HERE = Path(__file__).parents[1]
sys.path.insert(0, str(HERE))

from damage import Done, damage, everything, faults, raised, restore, write_good  # noqa: E402
from retrograde.figures.question import imported  # noqa: E402
from retrograde.record.store import FolderStore  # noqa: E402

SCRIPTS = HERE.parent / "analysis"


def main(damages: int = 1_000, reports: int = 30, first: int = 0) -> int:
    warnings.filterwarnings("ignore", message=r".*(Glyph|constrained_layout|tight_layout).*")
    questions = {stem: script(stem) for stem in ("reach", "learning", "attention_maps", "source_gradient")}
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        good, outputs = Path(place) / "good", Path(place) / "outputs"
        write_good(good)
        train(good)
        shutil.copytree(good, outputs)
        store = FolderStore(outputs)
        before = everything(store)
        wrong = [f"undamaged: {what}" for what in [*store.unreadable.values(), *raised(outputs, questions)]]
        begun = time.monotonic()
        for seed in range(first, first + damages):
            done = damage(outputs, Random(seed))
            try:
                found, named = faults(before, outputs, done)
                found += raised(outputs, questions)
                if reports and (seed - first) % max(1, damages // reports) == 0:
                    found += of_page(outputs, done, Path(place) / "report", named)
                    seen["reports"] += 1
            except Exception as error:
                found, named = [f"raised {''.join(traceback.format_exception(error)[-2:])}"], False
            wrong += [f"{seed}: {done.how} {done.file.relative_to(outputs)}: {what}" for what in found]
            seen["damages"] += 1
            seen["named" if named else "without effect, or told by nothing"] += 1
            seen[f"  {done.how}"] += 1
            restore(good, outputs, done)
        print(f"{time.monotonic() - begun:.0f} s")
        assert not faults(before, outputs, done)[0]  # put back as it was
    print(*(f"{count:6,} {what}" for what, count in sorted(seen.items())), sep="\n")
    print(*wrong, f"{len(wrong)} faults", sep="\n")
    return 1 if wrong else 0


def train(outputs: Path) -> None:
    """Two small runs: one to its end, one that diverges and keeps the step."""
    from functools import partial

    import torch

    import retrograde
    from retrograde.models.elman import elman
    from retrograde.models.lstm import lstm
    from retrograde.tasks.adding import Adding

    fit = partial(
        retrograde.fit, task=Adding(length=10), steps=20, batch_size=8, outputs=outputs, progress=False,
        recorder=retrograde.RecorderSettings(mode="offline"),
        trainer=retrograde.TrainerSettings(validation_samples=16, test_samples=16, log_every=5),
    )  # fmt: skip
    fit(partial(lstm, hidden=4))
    fit(partial(elman, hidden=4), optimizer=partial(torch.optim.SGD, lr=float("inf")))


def of_page(outputs: Path, done: Done, to: Path, named: bool) -> list[str]:
    """What is wrong with the report on these runs."""
    shutil.rmtree(to, ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        code = script("report").main([str(outputs), "--to", str(to)])
    page = (to / "index.html").read_text(encoding="utf-8")
    wrong = [] if code == 0 else [f"report ended with {code}"]
    wrong += [line for line in said.getvalue().splitlines() if re.search(r"not drawn.*\(\S+\.py, line \d+\)", line)]
    is_read = done.file.name in ("run.json", "card.json", "metrics.parquet")  # of others not every question asks
    if named and is_read and done.file.name not in page:
        wrong.append("the page does not name the file")
    if "<script" in page:
        wrong.append("the page holds a script")
    return wrong


def script(stem: str) -> ModuleType:
    """A script of analysis/ as a module."""
    return imported(SCRIPTS / f"{stem}.py")


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
