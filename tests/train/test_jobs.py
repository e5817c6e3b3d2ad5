"""What a sweep's jobs are called before they run is what they are called when they do: Hydra's own composition says."""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from retrograde.train.app import run_config, run_folder, study_folder
from retrograde.train.configuration import config_folder
from retrograde.train.jobs import Composer

pytestmark = pytest.mark.heavy

EXTENSION = Path(__file__).parent / "extension" / "my_conf"

FOLDER = config_folder() / "study"
STUDIES = sorted(str(file.relative_to(FOLDER).with_suffix("")) for file in FOLDER.rglob("*.yaml"))

GROUPS = {
    "model": ["gru", "transformer", "lru", "elman"],
    "task": ["copying", "parity", "adding"],
    "probe": ["default", "none", "all"],
    "optimizer": ["sgd", "adam"],
    "scheduler": ["cosine", "warmup"],
    "budget": ["parameters"],
}

VALUES = [
    "seed={}",
    "width={}",
    "steps=1{}0",
    "optimizer.lr=0.0{}",
    "optimizer.lr=1e-{}",
    "model.hidden={}",
    "trainer.clip=null",
    "trainer.clip_by='value'",
    'trainer.precision="bf16-mixed"',
    "probing.steps=[0,{},100]",
    "probing={{samples:{},share:null}}",
    "progress=false",
    "trainer.threads={}",
    "recorder.project='a, b: ${{outputs}}'",
    "recorder.project='a \\'quoted\\' word'",
    "probing.samples=${{width}}",
    "outputs=/elsewhere/{}",
    "++trainer.log_every={}",
    "~trainer.compile",
    "+task.anything={}",
    "++task.anything=[{},{{a:null}}]",
]


Made = tuple[ConfigLoaderImpl, DictConfig]


@pytest.fixture(scope="module")
def launched() -> Iterator[Callable[..., Made]]:
    """Hydra's loader, and the configuration that a sweep with these arguments is launched with."""
    OmegaConf.register_new_resolver("study_folder", study_folder, replace=True)
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    before = HydraConfig.instance().cfg

    @cache
    def made(*overrides: str, config_dir: Path | None = None) -> Made:
        GlobalHydra.instance().clear()
        path = create_config_search_path(str(config_folder()))
        if config_dir is not None:
            path.prepend("command-line", f"file://{config_dir}", SearchPathQuery(provider="schema"))
        loader = Hydra.create_main_hydra2("train", path).config_loader
        assert isinstance(loader, ConfigLoaderImpl)
        return loader, loader.load_configuration("train", list(overrides), RunMode.MULTIRUN)

    yield made
    HydraConfig.instance().cfg = before
    GlobalHydra.instance().clear()


def require_same(made: Made, composer: Composer, overrides: Sequence[str]) -> None:
    """Folder and settings of the job as it runs; or, where it cannot be composed, the same kind of error."""
    loader, master = made
    try:
        config = loader.load_sweep_config(master, list(overrides))
        with open_dict(config):
            config.hydra.job.num = 0
        HydraConfig.instance().set_config(config)
        content = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        settings = run_config(content)
        folder = Path(str(config.hydra.sweep.dir)).resolve() / str(config.hydra.sweep.subdir)
    except Exception as error:
        with pytest.raises(type(error)) as raised:
            composer.planned(1, overrides)
        assert str(raised.value).splitlines()[0] == str(error).splitlines()[0], overrides
        return
    planned = composer.planned(1, overrides)
    assert planned.settings == settings, overrides
    assert planned.folder.path == folder, overrides


@pytest.mark.parametrize("study", STUDIES)
def test_the_jobs_of_every_study_have_the_names_that_they_run_under(launched, study: str) -> None:
    made = launched(f"study={study}")
    composer = Composer(*made)
    params = OmegaConf.to_container(made[1].hydra.sweeper.params or OmegaConf.create())
    for chosen, more in ((0, ()), (-1, ("width=12", "outputs=/elsewhere"))):
        axes = [f"{key}={str(value).split(',')[chosen]}" for key, value in params.items() if "(" not in str(value)]
        require_same(made, composer, [*axes, f"study={study}", *more])


@pytest.mark.parametrize("seed", range(4))
def test_names_and_settings_are_those_of_the_jobs_that_run(launched, seed: int) -> None:
    """Random choices and values, in random order, several jobs of each choice by one composer."""
    rng = random.Random(seed)
    made = launched()
    composer = Composer(*made)
    groups = [f"{group}={rng.choice(options)}" for group, options in GROUPS.items() if rng.random() < 0.4]
    if "scheduler=warmup" in groups and "scheduler=cosine" not in groups:
        groups.append("model=gru")
    for _ in range(4):
        chosen = rng.sample(VALUES, rng.randint(0, 4))
        values = [value.format(*[rng.randint(1, 9)] * value.count("{}")) for value in chosen]
        overrides = [*dict.fromkeys(groups), *values]
        rng.shuffle(overrides)
        require_same(made, composer, overrides)


@pytest.fixture(scope="module")
def composer(launched) -> Composer:
    """One for many jobs, so that none may leave a trace in the next."""
    return Composer(*launched("study=demo"))


@pytest.mark.parametrize("value", VALUES)
def test_every_form_of_value_gives_the_same_name(launched, composer: Composer, value: str) -> None:
    require_same(launched("study=demo"), composer, ["study=demo", value.format(*[8] * value.count("{}")), "width=24"])


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=transformer", "model/position=rope", "seed=3"],
        ["model=transformer", "model/position=rope", "width=32", "seed=3"],
        ["task=copying", "task.length=7", "~task.length", "width=3"],
        ["steps=5", "++steps=7", "steps=9"],
        ["~scheduler", "seed=4"],
        ["~probe", "seed=4"],
        ["hydra.sweep.dir=/there/${width}", "width=3"],
        ["hydra.sweep.subdir=s${seed}", "seed=3"],
        ["hydra.sweep.dir=/there", "outputs=/here"],
    ],
    ids=" ".join,
)
def test_choices_within_groups_and_what_is_added_or_taken_away(launched, overrides: list[str]) -> None:
    made = launched()
    composer = Composer(*made)
    require_same(made, composer, overrides)
    require_same(made, composer, [*overrides[:-1], overrides[-1].replace("3", "5")])


@pytest.mark.parametrize(
    ("overrides", "culprit"),
    [
        (["task.lenght=3"], "task.lenght"),
        (["width.of=3"], "width.of"),
        (["model=nothing"], "model/nothing"),
        (["nothing/at_all=3"], "nothing/at_all"),
        (["model@there=gru"], "there"),
        (["budget=null"], "budget"),
        (["probing=3"], "probing"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_composed_fails_as_the_job_would(launched, overrides: list[str], culprit: str) -> None:
    made = launched()
    require_same(made, Composer(*made), overrides)


def test_a_refusal_leaves_the_next_job_as_it_is(launched) -> None:
    made = launched()
    composer = Composer(*made)
    require_same(made, composer, ["width=12", "seed=1"])
    with pytest.raises(ConfigCompositionException):
        composer.planned(2, ["width=13", "nothing=1"])
    require_same(made, composer, ["seed=1"])


def test_the_configurations_of_an_extension_are_known(launched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXTENSION.parent))
    made = launched(config_dir=EXTENSION)
    require_same(made, Composer(*made), ["model=leaky", "width=12", "seed=3"])


def test_a_search_path_brings_in_groups_of_its_own(launched, tmp_path: Path) -> None:
    (tmp_path / "task" / "mine").mkdir(parents=True)
    (tmp_path / "task" / "mine" / "short.yaml").write_text("length: 3\n")
    made = launched(f"hydra.searchpath=[file://{tmp_path}]")
    require_same(made, Composer(*made), ["+task/mine@task=short", "seed=3"])


def test_jobs_of_one_choice_share_what_they_do_not_set(launched) -> None:
    """Ten thousand jobs would fill the memory otherwise."""
    composer = Composer(*launched())
    first, second = (composer.planned(number, [f"seed={number}", f"width={number}"]) for number in (1, 2))
    assert first.settings["probe"] is second.settings["probe"]
    assert first.settings["model"] is not second.settings["model"]
