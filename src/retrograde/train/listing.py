"""``retrograde-list``: what there is to choose from."""

import argparse
import sys
from pathlib import Path

from retrograde.core.choices import nearest
from retrograde.train.configuration import config_folder, options

GROUPS = {
    "models": "model",
    "tasks": "task",
    "probes": "probe",
    "studies": "study",
    "papers": "study/paper",
    "embeddings": "model/embedding",
    "positions": "model/position",
    "scores": "model/score",
    "windows": "model/window",
    "schedulers": "scheduler",
    "regularizers": "regularizer",
    "budgets": "budget",
}


def main() -> None:
    """Print the options of one kind, each with its description."""
    parser = argparse.ArgumentParser(prog="retrograde-list", description="What there is to choose from, a line each.")
    parser.add_argument("what", help=", ".join(GROUPS))
    parser.add_argument("--config-dir", type=Path, help="a folder of configurations of your own")
    arguments = parser.parse_args()
    if arguments.what not in GROUPS:
        hint = nearest(arguments.what, GROUPS)
        sys.exit(
            f"retrograde-list: unknown '{arguments.what}'{hint}{' Known' if hint else '; known'}: {', '.join(GROUPS)}"
        )
    if arguments.config_dir and not arguments.config_dir.is_dir():
        sys.exit(f"retrograde-list: '{arguments.config_dir}' is not a folder")
    folders = [config_folder(), *([arguments.config_dir] if arguments.config_dir else [])]
    known = options(GROUPS[arguments.what], *folders)
    width = max(map(len, known), default=0)
    for name, description in known.items():
        print(f"{name:<{width}}  {description}")
