"""What holds of the project as a whole: its layout, its wheel, and what the README says."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "retrograde"
GROUPS = {"models": "model", "tasks": "task", "probes": "probe"}
PRESETS = {"all", "default", "none"}


@pytest.mark.parametrize("package", GROUPS)
def test_code_and_configuration_share_their_stems(package: str) -> None:
    modules = {file.stem for file in (PACKAGE / package).glob("*.py")} - {"__init__"}
    options = {file.stem for file in (ROOT / "conf" / GROUPS[package]).glob("*.yaml")} - PRESETS
    assert modules == options


@pytest.mark.parametrize("package", ["models", "tasks"])
def test_every_paper_has_its_oracle(package: str) -> None:
    modules = {file.stem for file in (PACKAGE / package).glob("*.py")} - {"__init__"}
    assert modules <= {file.stem.removeprefix("test_") for file in (ROOT / "tests" / "papers").glob("test_*.py")}


def test_every_file_that_defines_a_test_is_collected() -> None:
    for file in (ROOT / "tests").rglob("*.py"):
        if re.search(r"^def test_", file.read_text(), re.MULTILINE):
            assert file.name.startswith("test_"), file


def test_every_test_has_a_name_of_its_own() -> None:
    for file in (ROOT / "tests").rglob("test_*.py"):
        names = re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
        assert len(names) == len(set(names)), file


def test_no_file_is_called_utils() -> None:
    assert not [file for file in ROOT.glob("*/**/util*.py") if ".venv" not in file.parts]


@pytest.mark.heavy
def test_a_wheel_carries_the_configurations_and_works_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site, mine = tmp_path / "site", tmp_path / "mine" / "model"
    zipfile.ZipFile(wheel).extractall(site)
    assert (site / "retrograde" / "conf" / "train.yaml").is_file()
    mine.mkdir(parents=True)
    (mine / "small.yaml").write_text("# A small one\n_target_: retrograde.models.gru.gru\n_partial_: true\nhidden: 3\n")
    command = "import sys, retrograde; sys.path.remove('') if '' in sys.path else None; from {} import main; main()"

    def called(module: str, *arguments: str) -> str:
        made = subprocess.run(
            [sys.executable, "-c", command.format(module), *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(site), "PATH": "", "HOME": str(tmp_path), "WANDB_MODE": "offline"},
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr
        return made.stdout

    listed = called("retrograde.train.listing", "models", "--config-dir", str(mine.parent))
    assert "lstm" in listed and "A small one" in listed
    settings = ["steps=4", "task.length=4", "trainer.validate_every=4", "recorder.mode=disabled", "probe=none"]
    line = called("retrograde.train.app", "--config-dir", str(mine.parent), "model=small", *settings)
    assert line.startswith("small on adding, seed 0: score ")
    assert list(tmp_path.glob("outputs/single/small-adding-s0-*/run.json"))


def test_the_commands_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", readme, re.MULTILINE)) <= targets
    for script in re.findall(r"python ((?:analysis|benchmarks)/\w+\.py)", readme):
        assert (ROOT / script).is_file(), script
    for study in re.findall(r"study=([\w/]+)", readme):
        assert (ROOT / "conf" / "study" / f"{study}.yaml").is_file(), study


def test_the_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("package", GROUPS)
def test_the_readme_counts_what_there_is(package: str) -> None:
    said = re.search(
        rf"^\| \[{package}\]\(docs/{package}\.md\) \| (\d+) \|", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert said is not None
    assert int(said[1]) == len({file.stem for file in (PACKAGE / package).glob("*.py")} - {"__init__"})


@pytest.mark.parametrize(("name", "folder"), [("studies", "conf/study"), ("papers", "conf/study/paper")])
def test_the_readme_counts_the_studies(name: str, folder: str) -> None:
    said = re.search(rf"^\| \[{name}\]\({folder}\) \| (\d+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert said is not None
    assert int(said[1]) == len(list((ROOT / folder).glob("*.yaml")))


@pytest.mark.parametrize("package", GROUPS)
def test_the_documentation_lists_every_member(package: str) -> None:
    """With all that its table says of one: of a model the source, and what it is proved against."""
    rows = re.findall(
        r"^\| ([\w, ]+) \| (.+?) \| (.+?) \|", (ROOT / "docs" / f"{package}.md").read_text(), re.MULTILINE
    )
    named = {stem for stems, *cells in rows if all(cell.strip() for cell in cells) for stem in stems.split(", ")}
    options = {file.stem for file in (ROOT / "conf" / GROUPS[package]).glob("*.yaml")} - PRESETS
    assert options <= named


def test_the_documentation_shows_the_model_that_the_tests_train() -> None:
    page = (ROOT / "docs" / "adding-a-model.md").read_text()
    extension = ROOT / "tests" / "train" / "extension"
    for file in (*extension.rglob("leaky.py"), *extension.rglob("leaky.yaml")):
        assert file.read_text().strip() in page, file


def test_the_gallery_is_small_and_shows_all_of_its_pictures() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text()
    pictures = list((ROOT / "docs" / "gallery").iterdir())
    assert sum(picture.stat().st_size for picture in pictures) < 3_000_000
    assert {f"gallery/{picture.name}" for picture in pictures} == set(re.findall(r"\]\((gallery/[^)]+)\)", page))
