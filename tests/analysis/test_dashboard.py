"""The dashboard is made of keys that runs log, is the same whenever it is built, and arrives as it was built."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import wandb

import retrograde
from fake_runs import CARD, Fake, write_run
from loopback import LoopbackServer
from retrograde import RecorderSettings, TrainerSettings
from retrograde.models.lstm import lstm
from retrograde.models.transformer import transformer
from retrograde.probes.attention import Attention
from retrograde.probes.gates import Gates
from retrograde.probes.lag_gradient import LagGradient
from retrograde.probes.noise import Noise
from retrograde.probes.parameters import Parameters
from retrograde.probes.state_gradient import StateGradient
from retrograde.record.keys import Key, metric_keys, reading_keys
from retrograde.record.store import FolderStore
from retrograde.record.view import STEP
from retrograde.record.wandb_log import Log, read_logs
from retrograde.tasks.adding import Adding

OF_A_PICTURE = "_type"
HOSTILE = "a' or group != '\"`*x*`<script>$x$ 🙂 {}[](#) \\"

needed = pytest.mark.skipif(
    find_spec("wandb_workspaces") is None,
    reason='the package wandb-workspaces is not installed: pip install "retrograde[dashboards]"',
)
pytestmark = [
    pytest.mark.heavy,
    # wandb-workspaces is written for pydantic 1
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]


@pytest.fixture(scope="module")
def dashboard(script) -> ModuleType:
    return script("dashboard")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real runs with their logs of W&B."""
    place = tmp_path_factory.mktemp("runs")
    probes = {
        "attention": Attention(), "gates": Gates(), "lag_gradient": LagGradient(), "parameters": Parameters(),
        "state_gradient": StateGradient(), "noise": Noise(),
    }  # fmt: skip
    for model in (partial(lstm, hidden=4), partial(transformer, hidden=8, layers=1, heads=2, feedforward=8)):
        retrograde.fit(
            model, Adding(length=6), probes=probes, steps=20, study="demo", outputs=place, progress=False,
            trainer=TrainerSettings(accelerator="cpu", log_every=5, validate_every=10, test_samples=8),
            recorder=RecorderSettings(mode="offline"),
        )  # fmt: skip
    return place


@pytest.fixture(scope="module")
def logs(outputs: Path) -> dict[str, Log]:
    found = {run: read_logs(folder.path)[0] for run, folder in FolderStore(outputs).folders.items()}
    return {run: log for run, (log,) in found.items()}


def logged(log: Log) -> set[str]:
    """The keys of a history, a picture's once."""
    keys = {key for row in log.rows for key in row if not key.startswith("_") and key != STEP}
    pictures = {key.removesuffix(f".{OF_A_PICTURE}") for key in keys if key.endswith(f".{OF_A_PICTURE}")}
    return pictures | {key for key in keys if key.rpartition(".")[0] not in pictures}


def written(dashboard: ModuleType, outputs: Path, file: Path, project: str = "me/retrograde") -> dict[str, Any]:
    assert dashboard.main([project, "--from", str(outputs), "--dry-run", str(file)]) == 0
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def specification(dashboard: ModuleType, outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return written(dashboard, outputs, tmp_path_factory.mktemp("spec") / "dashboard.json")


def sections(specification: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found = specification["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in found}


def grids(specification: dict[str, Any]) -> dict[str, dict[str, Any]]:
    blocks = specification["report"]["spec"]["blocks"]
    found = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    return {grid["runSets"][0]["name"]: grid for grid in found}


def panels(specification: dict[str, Any]) -> list[dict[str, Any]]:
    of_workspace = [panel for of_section in sections(specification).values() for panel in of_section]
    of_report = [one for grid in grids(specification).values() for one in grid["panelBankSectionConfig"]["panels"]]
    return of_workspace + of_report


def keys_of(panel: dict[str, Any]) -> set[str]:
    config = panel["config"]
    return {*config.get("metrics", ()), *config.get("mediaKeys", ())}


def test_the_keys_that_the_tables_tell_are_those_that_are_logged(outputs: Path, logs) -> None:
    store = FolderStore(outputs)
    assert len(logs) == 2
    for run, log in logs.items():
        readings = [key for name in store.tables([run]) for key in reading_keys(store, name, [run])]
        told = [key.text for key in [*metric_keys(store, [run]), *readings]]
        assert len(told) == len(set(told)) > 50
        assert set(told) == logged(log)


@needed
def test_every_panel_is_of_keys_that_a_run_logs(specification, logs) -> None:
    known = set().union(*map(logged, logs.values()))
    shown = [panel for panel in panels(specification) if keys_of(panel)]
    assert len(shown) > 20
    assert set().union(*map(keys_of, shown)) <= known
    assert {panel["config"]["xAxis"] for panel in shown if panel["viewType"] == "Run History Line Plot"} == {STEP}
    titles = [panel["config"]["chartTitle"] for panel in sections(specification)["demo"] if keys_of(panel)]
    assert len(titles) == len(set(titles))


@needed
def test_pictures_stand_in_media_browsers_and_numbers_in_plots(specification, logs) -> None:
    pictures = {
        key.removesuffix(f".{OF_A_PICTURE}")
        for log in logs.values() for row in log.rows for key in row if key.endswith(f".{OF_A_PICTURE}")
    }  # fmt: skip
    for panel in panels(specification):
        drawn = keys_of(panel) & pictures
        assert drawn == (keys_of(panel) if panel["viewType"] == "Media Browser" else set())
    axes = {
        key.split("/")[1]: panel["config"]["gallerySettings"]["axis"]
        for panel in panels(specification) if panel["viewType"] == "Media Browser" for key in keys_of(panel)
    }  # fmt: skip
    assert axes == {"map": "step", "relative": "run", "total": "run"}


@needed
def test_an_axis_says_of_logarithms_that_they_are(dashboard, specification, outputs: Path, logs) -> None:
    captions: dict[str, str] = {}
    for log in logs.values():
        for row in log.rows:
            over = {key: text for key, text in row.items() if key.endswith(".caption") and "/over_" in key}
            captions |= {"/".join(key.split("/")[:2]): text.partition(", from")[0] for key, text in over.items()}
    assert len(captions) > 5
    for name, unit in captions.items():
        assert dashboard.LOG10.get(name) == (unit if unit.startswith("log10") else None), name
    curves = [
        panel["config"] for panel in panels(specification)
        if panel["viewType"] == "Run History Line Plot" and any("/lag_" in key for key in keys_of(panel))
    ]  # fmt: skip
    assert curves and {config["yAxisTitle"] for config in curves} == {"log10 share", "log10 loss per state"}
    assert not any(config.get("yLogScale") for config in curves)


def test_the_units_of_logarithms_are_those_of_the_probes(dashboard) -> None:
    source = Path(retrograde.__file__).parent / "probes"
    for name, unit in dashboard.LOG10.items():
        assert f'"{unit}"' in (source / f"{name.partition('/')[0]}.py").read_text(), name


@needed
def test_all_runs_have_scores_a_comparer_and_coordinates_of_what_varies(specification) -> None:
    of_all = sections(specification)["all runs"]
    lines, bars, comparer, coordinates = (panel["config"] for panel in of_all)
    assert (lines["metrics"], lines["groupBy"]) == (["validation/score"], "model.value")
    assert (bars["metrics"], bars["groupBy"]) == (["test/score"], "model.value")
    assert comparer == {"diffOnly": True}
    assert [axis["accessor"] for axis in coordinates["columns"]] == ["config:model.value", "summary:test/score"]


@needed
def test_axes_are_settings_that_vary_each_once_and_that_every_run_has(dashboard, tmp_path: Path) -> None:
    for at, rate in enumerate((1e-4, 1e-2)):
        shared = {"optimizer": {"lr": rate, "twin": at}, "trainer": {"clip": 1.0}, "outputs": f"place{at}"}
        gru = {"task": {"length": 8}, "model": {"_target_": "x.gru", "a.b": at}}
        lstm_ = {"task": {"length": 16}, "model": {"_target_": "x.lstm", "forget_bias": at}}
        write_run(tmp_path, Fake("gru", at, config={**shared, **gru}))
        write_run(tmp_path, Fake("lstm", at, config={**shared, **lstm_, "trainer": {"clip": 1.0 if at else None}}))
    store = FolderStore(tmp_path)
    runs = store.runs()
    (panel,) = dashboard.settings_panels(runs, store)
    assert [(axis.metric.name, axis.display_name, axis.log) for axis in panel.columns] == [
        ("model", "model", None),
        ("config.optimizer.lr", "optimizer.lr", True),
        ("config.trainer.clip", "trainer.clip", None),
        ("test/score", "test score", None),
    ]
    accessors = [column.accessor for column in panel._to_model().config.columns]
    assert accessors[1] == "config:config.value.optimizer.lr"
    assert list(dashboard.settings_panels(runs[:1], store)) == []


@needed
def test_runs_of_one_model_stand_in_groups_by_what_varies(dashboard, tmp_path: Path) -> None:
    for scaling in (True, False):
        write_run(tmp_path / "outputs", Fake("gru", config={"model": {"scaling": scaling, "value": 3}}))
    made = written(dashboard, tmp_path / "outputs", tmp_path / "dashboard.json")
    drawn = [panel["config"] for panel in sections(made)["demo"] if panel["config"].get("groupBy")]
    assert len(drawn) > 3 and {one["groupBy"] for one in drawn} == {"config.value.model.scaling"}
    assert drawn[0]["chartTitle"] == "validation score by model.scaling: median and range over the runs"
    of_all = sections(made)["all runs"][0]["config"]
    assert of_all["groupBy"] == "model.value"


@needed
def test_of_many_heads_the_first_are_shown_and_the_title_says_so(dashboard) -> None:
    for count, said in ((16, ""), (17, ", the first 16 of 17")):
        maps = [Key("attention/map", "0", "map", f"head_{head}") for head in range(count)]
        named = [Key("attention/distance", "0", "named", str(head)) for head in range(count)]
        browser, lines = dashboard.question_panels({"attention/map": maps, "attention/distance": named}, "model")
        assert browser.title.startswith(f"attention: map of 0{said}: ") and len(browser.media_keys) == 16
        assert lines.title == f"attention: distance of 0{said}" and len(lines.y) == 16


def test_the_summary_has_the_score_that_panels_show(logs) -> None:
    assert all(log.summary["test/score"] == log.summary["score"] for log in logs.values())


@needed
def test_a_study_of_a_script_s_name_is_asked_its_question_alone(dashboard, tmp_path: Path) -> None:
    write_run(tmp_path / "outputs", Fake("lstm", study="reach", heads=2))
    write_run(tmp_path / "outputs", Fake("elman", study="reach", keeps=(0.5, 0.5)))
    write_run(tmp_path / "outputs", Fake("lstm", study="mine"))
    made = written(dashboard, tmp_path / "outputs", tmp_path / "dashboard.json")
    assert list(sections(made)) == ["all runs", "mine", "reach"]
    named = {name: {key for panel in of for key in keys_of(panel)} for name, of in sections(made).items()}
    tables = {"/".join(key.split("/")[:2]) for key in named["reach"]}
    assert tables == {"validation/score", "lag_gradient/relative", "lag_gradient/horizon"}
    assert {"validation/score"} < named["mine"]
    texts = [
        "".join(child["text"] for child in block["children"])
        for block in made["report"]["spec"]["blocks"] if block["type"] in ("heading", "paragraph")
    ]  # fmt: skip
    after = texts[texts.index("reach") + 1 :]
    assert after[0] == "Question: how many steps back does the loss gradient reach, before and after training?"
    assert after[1].startswith("Expected: Elman loses it within about 20 steps")
    reach = dashboard.imported(dashboard.HERE / "report.py").questions()["reach"]
    (comparison,) = (one for one in dashboard.comparisons(FolderStore(tmp_path / "outputs"))[0] if one.study == "reach")
    assert after[2] == f"Found: adding: {reach.finding(reach.load(comparison))}."
    markdown = sections(made)["reach"][0]["config"]["value"]
    assert "**Question:** how many steps back" in markdown and "**Found:** adding: After training" in markdown


@needed
def test_a_study_whose_runs_do_not_answer_says_what_they_lack(dashboard, tmp_path: Path) -> None:
    for length in (8, 16):
        card = replace(CARD, variant=f"T = {length}")
        write_run(tmp_path / "outputs", Fake("gru", study="powers", card=card, config={"task": {"length": length}}))
    made = written(dashboard, tmp_path / "outputs", tmp_path / "dashboard.json")
    markdown, *drawn = sections(made)["powers"]
    for length in (8, 16):
        reason = f"**Not answered:** adding: T = {length}: no model's spectral radius is varied: "
        assert reason in markdown["config"]["value"]
    assert drawn  # lag_gradient/relative is there all the same


@needed
def test_a_question_that_fails_costs_the_others_nothing(dashboard, tmp_path: Path, monkeypatch, capsys) -> None:
    write_run(tmp_path / "outputs", Fake("lstm"))

    def broken(comparison: object) -> None:
        raise KeyError("curves")

    scripts = dashboard.imported(dashboard.HERE / "report.py").questions()
    monkeypatch.setattr(scripts["reach"], "load", broken)
    (study,), _ = dashboard.studies(FolderStore(tmp_path / "outputs"), scripts)
    assert [one.question for one in study.asked] == [
        "do those runs solve their task whose gradient reaches as far back as the task asks for?",
        "which models solve the task, and after how many steps?",
    ]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no finding: reach for demo, adding: KeyError: 'curves' (test_dashboard.py, line ")


@needed
def test_the_data_entry_names_readings_in_short(dashboard) -> None:
    known = ["attention/map", "attention/distance", "attention/entropy", "gates/gate", "validation/score"]
    entry = "metrics validation/score; readings attention/map (stored) and attention/none, distance; gates elsewhere"
    assert dashboard.data(entry, known) == ["validation/score", "attention/map", "attention/distance"]


@needed
def test_every_question_s_data_entry_names_what_runs_hold_or_could(dashboard) -> None:
    known = {f"{file.stem}/" for file in (Path(retrograde.__file__).parent / "probes").glob("*.py")} | {"validation/"}
    for stem, question in dashboard.imported(dashboard.HERE / "report.py").questions().items():
        named = re.findall(r"(\w+/)\w+", dashboard.asked(question.__doc__, "Data"))
        assert set(named) <= known | {"test/", "train/", "longer/", "device/", "benchmarks/"}, stem


@needed
def test_a_report_shows_each_study_its_own_runs(specification) -> None:
    found = grids(specification)
    assert list(found) == ["all runs", "demo"]
    assert found["all runs"]["runSets"][0]["filters"]["filters"] == []
    from wandb_workspaces import expr

    plain = expr.filters_tree_to_v2(expr.expr_to_filters("Metric('Group') == 'demo'"))
    assert found["demo"]["runSets"][0]["filters"] == plain
    places = [tuple(panel["layout"].values()) for panel in found["demo"]["panelBankSectionConfig"]["panels"]]
    assert places[:4] == [(0, 0, 8, 6), (8, 0, 8, 6), (16, 0, 8, 6), (0, 6, 8, 6)]


@needed
def test_both_survive_being_read_back(dashboard, outputs: Path) -> None:
    store = FolderStore(outputs)
    found, _ = dashboard.studies(store, dashboard.imported(dashboard.HERE / "report.py").questions())
    for build in (dashboard.workspace, dashboard.report):
        made = build("me", "retrograde", found, store)
        model = made._to_model()
        again = type(made)._from_model(model)
        if build == dashboard.report:
            again.width = made.width  # which the package forgets when it reads
        assert again._to_model().spec.model_dump_json(by_alias=True) == model.spec.model_dump_json(by_alias=True)


@pytest.mark.heavy
@needed
def test_the_same_runs_give_the_same_bytes(outputs: Path, tmp_path: Path, specification) -> None:
    file = tmp_path / "again.json"
    command = [sys.executable, "analysis/dashboard.py", "me/retrograde", "--from", str(outputs), "--dry-run", str(file)]
    env = {"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    root = Path(__file__).parents[2]
    made = subprocess.run(command, capture_output=True, text=True, cwd=root, env=env, timeout=100)
    assert (made.returncode, made.stdout, made.stderr) == (0, f"{file}\n", "")
    assert file.read_text() == json.dumps(specification, indent=1, ensure_ascii=False) + "\n"
    ids = [panel["__id__"] for panel in panels(specification)]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[0-9a-f]{12}", one) for one in ids)


@needed
def test_a_hostile_name_is_text(dashboard, tmp_path: Path) -> None:
    study = HOSTILE.replace("/", "")
    write_run(tmp_path / "outputs", Fake("l*s*tm<b>", study=study))
    made = written(dashboard, tmp_path / "outputs", tmp_path / "dashboard.json")
    filters = grids(made)[study]["runSets"][0]["filters"]["filters"]
    assert [(leaf["op"], leaf["value"]) for leaf in filters] == [("=", study)]
    markdown = sections(made)[study][0]["config"]["value"]
    assert "<" not in markdown and "`*x*`" not in markdown and r"\`\*x\*\`&lt;script&gt;\$x\$" in markdown
    assert re.sub(r"\\([\\`*_{}\[\]()#+!|~$])", r"\1", markdown).count("l*s*tm&lt;b&gt;") > 0
    headings = [block for block in made["report"]["spec"]["blocks"] if block["type"] == "heading"]
    assert headings[1]["children"] == [{"text": study}]


class Dashboards(LoopbackServer):
    """A server that keeps views and reports too, as they were sent; ``views`` are the variables of each, in order.

    It may take no ``reports``. Source: requests of wandb-workspaces 0.4.13 and wandb 0.31.0, as seen on this socket.
    """

    def __init__(self) -> None:
        super().__init__()
        self.views: list[dict[str, Any]] = []
        self.reports = True

    def _operate(self, query: str, variables: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        operation = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
        match operation[1] if operation else "nameless":
            case "upsertView" if not self.reports:
                return self._refuse("upsertView")
            case "UpsertView2" | "upsertView":
                self.views.append(variables)
                project = {"id": "1", "name": variables["projectName"], "entityName": variables["entityName"]}
                same = {name: variables[name] for name in ("name", "displayName", "description", "type", "spec")}
                view = {"id": f"view{len(self.views)}", "project": project, "updatedAt": "2026-01-01T00:00:00Z", **same}
                return 200, {"data": {"upsertView": {"view": view, "inserted": True}}}
            case "GetProjects":
                node = {
                    "__typename": "Project", "id": "1", "name": "retrograde", "entityName": "loopback", "user": None,
                    "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False,
                }  # fmt: skip
                page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
                return 200, {"data": {"models": {"edges": [{"node": node}], "pageInfo": page}}}
        return super()._operate(query, variables)


@pytest.fixture
def dashboards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboards]:
    """As the fixture ``server``, of a server that takes views."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    (tmp_path / "wandb").mkdir()
    with Dashboards() as server:
        for name, value in server.environment(tmp_path / "wandb").items():
            monkeypatch.setenv(name, value)
        wandb.teardown()
        yield server
        wandb.teardown()


@needed
def test_both_are_saved_as_they_were_written(dashboard, tmp_path: Path, dashboards: Dashboards, capsys) -> None:
    outputs = tmp_path / "outputs"
    for study in ("demo", HOSTILE.replace("/", "")):
        write_run(outputs, Fake("lstm", heads=2, study=study))
    assert dashboard.main(["loopback/retrograde", "--from", str(outputs)]) == 0
    assert dashboards.unknown == []
    view, report = dashboards.views
    assert (view["type"], report["type"]) == ("project-view", "runs")
    assert {(one["entityName"], one["projectName"]) for one in dashboards.views} == {("loopback", "retrograde")}
    specification = written(dashboard, outputs, tmp_path / "dashboard.json", "loopback/retrograde")
    assert json.loads(view["spec"]) == specification["workspace"]["spec"]
    assert json.loads(report["spec"]) == specification["report"]["spec"]
    there = dashboards.url + "/loopback/retrograde"
    address = view["name"].removeprefix("nw-").removesuffix("-v")
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"{there}?nw={address}",
        f"{there}/reports/{report['displayName'].replace(' ', '-')}--view2",
    ]


@needed
@pytest.mark.parametrize(
    ("key", "trouble", "message"),
    [
        ("0" * 40, "refusing", "the loopback server is refusing"),
        ("0" * 40, "hanging", "Failed to verify credentials with http://127.0.0.1:"),
        ("short", None, "API key must have 40"),
        (None, None, "No API key configured"),
    ],
)
def test_what_w_and_b_does_not_take_is_said_in_one_line(
    dashboard, tmp_path: Path, dashboards: Dashboards, key, trouble, message, monkeypatch, capfd
) -> None:
    write_run(tmp_path / "outputs", Fake("lstm"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY") if key is None else monkeypatch.setenv("WANDB_API_KEY", key)
    dashboards.trouble = trouble
    assert dashboard.main(["me/retrograde", "--from", str(tmp_path / "outputs"), "--timeout", "1"]) == 1
    printed = capfd.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("W&B could not save the workspace: ") and message in line
    assert (printed.out, dashboards.views) == ("", [])


@needed
def test_a_report_that_is_not_taken_leaves_the_workspace_s_address(
    dashboard, tmp_path: Path, dashboards: Dashboards, monkeypatch, capsys
) -> None:
    write_run(tmp_path / "outputs", Fake("lstm"))
    monkeypatch.setattr(dashboards, "reports", False)
    assert dashboard.main(["loopback/retrograde", "--from", str(tmp_path / "outputs")]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith(dashboards.url)
    assert printed.err.splitlines()[-1].startswith("W&B could not save the report: ")
    assert dashboards.unknown == ["upsertView"]


@needed
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retrograde"], "'retrograde' is no entity/project, such as my-team/retrograde"),
        (["a/b/c"], "'a/b/c' is no entity/project, such as my-team/retrograde"),
        (["me/it", "--from", "nothing"], "'nothing' is not a folder: give one that holds runs, such as outputs/demo"),
        (["me/it", "--from", "outputs", "--dry-run", "none/x.json"], "[Errno 2] No such file or directory"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(
    dashboard, tmp_path: Path, arguments, message, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "outputs", Fake("lstm"))
    assert dashboard.main(arguments) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(message) and printed.out == ""


def test_without_the_package_the_command_says_what_to_install(dashboard, monkeypatch, capsys) -> None:
    monkeypatch.setattr(dashboard.importlib.util, "find_spec", lambda name: None)
    assert dashboard.main(["me/retrograde"]) == 1
    needed = 'a dashboard needs the package wandb-workspaces: pip install "retrograde[dashboards]"'
    assert capsys.readouterr().err.splitlines() == [needed]
