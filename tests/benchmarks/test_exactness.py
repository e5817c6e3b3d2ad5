"""The exactness benchmark runs, its oracles have the values known on paper, and what is wrong misses its goal."""

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from retrograde.core.contracts import Probe, Snapshot
from retrograde.core.records import Reading
from retrograde.models.gru import gru
from retrograde.models.linear_rnn import linear_rnn
from retrograde.models.lstm import lstm
from retrograde.probes.gates import Gates
from retrograde.probes.jacobian import Jacobian
from retrograde.probes.lag_gradient import LagGradient
from retrograde.probes.lyapunov import Lyapunov
from retrograde.probes.noise import Noise
from retrograde.probes.recurrent_spectrum import RecurrentSpectrum
from retrograde.probes.state_gradient import StateGradient
from retrograde.probes.weight_contribution import WeightContribution
from retrograde.tasks.adding import Adding
from scripts import loaded, ran

pytestmark = pytest.mark.heavy
"""The whole script is run, small."""

bench = loaded("exactness")
case, columns, differences, dynamics, gradients, known, loops, steps, watched = (
    loaded(f"exact.{name}")
    for name in ("case", "columns", "differences", "dynamics", "gradients", "known", "loops", "steps", "watched")
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    file = tmp_path_factory.mktemp("exactness") / "exactness.json"
    printed = ran(bench, "--models", "elman", "--json", file)
    return printed, json.loads(file.read_text())


def test_every_probe_that_applies_is_within_its_goal(run: tuple[str, dict[str, Any]]) -> None:
    _, result = run
    (row,) = result["rows"]
    goals = {column["title"]: column["goal"] for column in result["columns"]}
    assert row["name"] == "elman" and not row["missed"]
    assert {"total", "total ±", "direct", "carried", "input", "weights", "omega", "jacobian"} <= set(row["errors"])
    assert all(error <= goals[title] for title, error in row["errors"].items())
    assert row["differences"] < 1e-7


def test_the_table_names_every_column_and_shows_where_a_probe_does_not_apply(run: tuple[str, dict[str, Any]]) -> None:
    printed, result = run
    heading, row, *_ = printed.splitlines()
    assert heading.split() == " ".join(column["title"] for column in result["columns"]).split()
    assert row.split()[0] == "elman" and "–" in row.split()
    assert all(f"{column['title']}" in printed and column["oracle"] in printed for column in result["columns"])
    assert "every goal is met" in printed


def test_a_missed_goal_is_named_and_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], float64: None
) -> None:
    wrong = columns.Column("guess", "", "nothing", lambda case: 2e-6)
    broken = columns.Column("crash", "", "nothing", lambda case: 1 / 0)
    monkeypatch.setattr(bench, "COLUMNS", (wrong, broken))
    monkeypatch.setattr(bench, "all_probes", dict)
    assert bench.main(["--models", "elman"]) == 1
    printed = capsys.readouterr().out
    assert "2e-06!" in printed and "elman, guess: 2.0e-06" in printed
    assert "broken!" in printed and "elman, crash: ZeroDivisionError" in printed


def test_an_error_that_is_no_number_misses_every_goal(float64: None) -> None:
    assert case.worst([1e-15, math.nan]) == case.worst([math.nan, 1e-15]) == math.inf
    assert case.worst([]) is None
    assert case.worse(math.nan, 0.0) == case.worse(0.0, math.nan) == math.inf and case.worse(1e-15, 2e-15) == 2e-15
    errors = iter([math.nan] + [1e-15] * 99)
    row = bench.judged("elman", {}, [columns.Column("first", "", "nothing", lambda case: next(errors))])
    assert row.errors["first"] == math.inf


def test_a_column_without_its_probe_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], float64: None
) -> None:
    monkeypatch.setattr(bench, "COLUMNS", [column for column in columns.COLUMNS if column.title == "loss"])
    monkeypatch.setattr(bench, "all_probes", dict)
    assert bench.main(["--models", "elman"]) == 1
    assert "elman, loss: KeyError: 'loss_over_time'" in capsys.readouterr().out


def test_an_unknown_model_is_answered_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--models", "elmann"]) == 1
    assert "did you mean 'elman'" in capsys.readouterr().err


def taken(probe: Probe, model: Any = linear_rnn) -> Any:
    task = Adding(length=6)
    made = model(task, hidden=4).eval()
    return case.Case(made, task, task.sample(3, torch.Generator().manual_seed(0)), {"state_gradient": probe})


class DirectAsTotal:
    """What tools show that read a fused layer's output."""

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        direct = {key: replace(gradient, total=gradient.direct) for key, gradient in snapshot.gradients.items()}
        yield from StateGradient()(replace(snapshot, gradients=direct))


class SlightlyOff:
    """A total that is wrong in its ninth digit."""

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        for reading in StateGradient()(snapshot):
            yield replace(reading, values=reading.values + 1e-9) if reading.name.startswith("total") else reading


@pytest.mark.parametrize(("wrong", "error"), [(DirectAsTotal(), 0.5), (SlightlyOff(), 1e-9)])
def test_totals_that_are_none_miss_their_goal(wrong: Probe, error: float, float64: None) -> None:
    found = gradients.total(taken(wrong))
    assert found > columns.NODES and found >= error
    assert gradients.total(taken(StateGradient())) < columns.NODES


def test_live_nodes_have_the_closed_form_of_a_linear_net(float64: None) -> None:
    """dL/dh_t = Wᵀ^{T-1-t} dL/dh_{T-1}, and directly the last state alone counts."""
    of = taken(StateGradient())
    recurrent = of.model.stack.placed[0][0].recurrence.recurrent.detach()
    totals = of.live.totals()["0.forward.hidden"]
    for back in range(7):
        expected = totals[:, -1] @ torch.linalg.matrix_power(recurrent, back)
        torch.testing.assert_close(totals[:, -1 - back], expected, rtol=1e-12, atol=0)
    direct = of.directs["0.forward.hidden"]
    torch.testing.assert_close(direct[:, -1], totals[:, -1])
    assert not direct[:, :-1].any()


def test_differences_pass_a_kink_and_claim_what_they_are_off_by(float64: None) -> None:
    places = torch.tensor([0.3, 1e-4, -2.0])
    made = differences.derivative(lambda step: (places + step).relu() + (3 * (places + step)).sin())
    expected = (places > 0).double() + 3 * (3 * places).cos()
    assert (made.value - expected).abs().max() < 1e-9
    assert made.error.max() < 1e-8


@pytest.mark.parametrize(("model", "component", "gate"), [(gru, "hidden", "update"), (lstm, "cell", "forget")])
def test_a_states_own_path_is_its_gate(model: Any, component: str, gate: str, float64: None) -> None:
    course = taken(StateGradient(), model).live.courses["0.forward"]
    for time in (0, 3):
        before = {name: value.detach() for name, value in course.on[time].items()}
        expected = course.recurrence.gates(course.weights, course.inputs[:, time], before)[gate]
        torch.testing.assert_close(steps.own_path(course, component, time), expected.detach(), rtol=1e-9, atol=1e-12)


def test_exponents_of_a_product_keep_what_is_far_below_the_largest(float64: None) -> None:
    one = torch.tensor([[1e9, 1.0], [0.0, 1e-9]])
    assert steps.exponents([one] * 5) == pytest.approx([math.log(1e9), -math.log(1e9)])
    assert steps.exponents([torch.tensor([[1.0, 1.0], [1.0, 1.0]])]) == [pytest.approx(math.log(2) / 2), -math.inf]


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [([1.0, 2.2], [1.0, 2.0], 0.1), ([0.0], [0.0], 0.0), ([1e-30], [0.0], math.inf), ([math.nan], [1.0], math.inf)],
)
def test_an_error_is_relative_to_each_entry(found: list[float], expected: list[float], error: float) -> None:
    assert case.error(np.array(found), np.array(expected)) == pytest.approx(error)


def test_nothing_compared_is_no_error_of_nothing() -> None:
    with pytest.raises(ValueError, match="no numbers were found"):
        case.error(np.zeros((4, 0)), np.zeros((4, 0)))


def test_readings_of_another_shape_are_no_readings() -> None:
    with pytest.raises(ValueError, match="numbers were found"):
        case.error(np.zeros(3), np.zeros((1, 3)))


@pytest.mark.parametrize("layer", watched.LAYERS, ids=lambda layer: layer.name)
def test_a_watched_layer_is_within_its_goal(layer: Any, float64: None) -> None:
    errors = watched.of_layer(layer)
    assert errors["total"] <= columns.NODES and max(errors.values()) <= columns.ELSEWHERE


def test_a_halving_net_falls_by_its_decades(float64: None) -> None:
    """At rest tanh has slope 1: each step back halves the gradient."""
    task = Adding(length=30)
    layer, readout = torch.nn.RNN(2, 3, batch_first=True), torch.nn.Linear(3, 1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weight_hh_l0.copy_(torch.eye(3) / 2)
    decades = bench.by_hand(layer, readout, task.sample(2, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(decades[:, -1:] - decades, math.log10(2) * torch.arange(30, -1, -1.0).expand(2, -1))


def test_a_halving_rotation_falls_by_its_decades(float64: None) -> None:
    task = Adding(length=30)
    model = linear_rnn(task, hidden=3, radius=0.5)
    decades = bench.by_hand_of_a_linear_net(model, task.sample(2, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(decades[:, -1:] - decades, math.log10(2) * torch.arange(30, -1, -1.0).expand(2, -1))


class Without:
    """A probe that keeps some of its readings to itself."""

    def __init__(self, probe: Probe, left_out: str) -> None:
        self.probe = probe
        self.left_out = left_out

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        return [reading for reading in self.probe(snapshot) if not reading.name.startswith(self.left_out)]


class JacobianWithoutProducts(Jacobian):
    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        yield from Without(super().__call__, "product")(snapshot)


@pytest.mark.parametrize(
    ("check", "probe", "left_out"),
    [
        (dynamics.gates, Gates(), ""),
        (gradients.by_lag, LagGradient(), "relative"),
        (gradients.noise, Noise(), "ratio_by_lag"),
        (gradients.weights, WeightContribution(), "norm"),
    ],
)
def test_readings_that_are_missing_are_no_readings_that_agree(
    check: Any, probe: Probe, left_out: str, float64: None
) -> None:
    stem = type(probe).__module__.rpartition(".")[2]
    of = taken(StateGradient(), gru)
    assert check(replace(of, probes={stem: probe})) <= columns.ELSEWHERE
    with pytest.raises(KeyError):
        check(replace(of, probes={stem: Without(probe, left_out)}))


def test_norms_of_jacobians_that_are_missing_are_seen(float64: None) -> None:
    of = taken(StateGradient(), gru)
    assert dynamics.jacobian(replace(of, probes={"jacobian": Jacobian()})) <= columns.ELSEWHERE
    with pytest.raises(KeyError):
        dynamics.jacobian(replace(of, probes={"jacobian": JacobianWithoutProducts()}))


class AllAlike(Lyapunov):
    """Asymptotic exponents by their mean: the sum is right."""

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        for reading in super().__call__(snapshot):
            alike = reading.name.startswith("asymptotic")
            yield replace(reading, values=np.full_like(reading.values, reading.values.mean())) if alike else reading


class AnyDimension(Lyapunov):
    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        for reading in super().__call__(snapshot):
            yield replace(reading, values=np.array(3.5)) if reading.name.startswith("kaplan_yorke") else reading


@pytest.mark.parametrize(("probe", "right"), [(Lyapunov, True), (AllAlike, False), (AnyDimension, False)])
def test_asymptotic_exponents_are_judged_one_by_one(
    probe: Any, right: bool, monkeypatch: pytest.MonkeyPatch, float64: None
) -> None:
    monkeypatch.setattr(dynamics, "Lyapunov", probe)
    assert (dynamics.lyapunov(taken(StateGradient(), gru)) <= columns.ELSEWHERE) == right


def test_a_spectrum_is_judged_beside_its_bounds() -> None:
    """What is no number has to be below its bound, and -∞ where it says so."""
    spectrum, status = np.array([-0.5, -30.0, -math.inf]), np.array([0, 2, 1])
    assert dynamics.apart(spectrum, status, [-math.inf, -0.5, -40.0]) == [0.0]
    assert dynamics.apart(spectrum, status, [-math.inf, -0.5, -20.0]) == [0.0, math.inf]
    assert dynamics.apart(spectrum, status, [-50.0, -0.5, -40.0]) == [0.0, math.inf]


def test_parts_that_do_not_bear_on_one_another_are_decomposed_by_themselves(float64: None) -> None:
    one, other = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[0.5, 0.1], [0.2, -0.4]])
    both = torch.zeros(4, 4)
    both[0::2, 0::2], both[1::2, 1::2] = one, other
    assert steps.parts([both]) == [[0, 2], [1, 3]]
    whole = steps._logarithms([both] * 3)
    assert steps.logarithms([both] * 3) == pytest.approx(whole)


class OtherEigenvalues(RecurrentSpectrum):
    """Eight values on a circle that is too small; their powers below the eighth sum to 0."""

    def __call__(self, snapshot: Snapshot) -> Iterable[Reading]:
        for reading in super().__call__(snapshot):
            values = {
                "magnitude": np.full(8, 0.9),
                "phase": 2 * np.pi * np.arange(8) / 8,
                "radius": np.array(0.9),
                "departure": np.array((8 * (1 - 0.81)) ** 0.5),
            }
            yield replace(reading, values=values.get(reading.name.partition("/")[0], reading.values))


def test_eigenvalues_are_judged_by_more_than_their_first_powers(float64: None) -> None:
    """Of a shift by one place: powers below the eighth have no trace either, and all values have size 1."""
    task = Adding(length=6)
    model = linear_rnn(task, hidden=8).eval()
    with torch.no_grad():
        model.stack.placed[0][0].recurrence.weights()["recurrent"].copy_(torch.eye(8).roll(1, 0))
    batch = task.sample(3, torch.Generator().manual_seed(0))
    for probe, right in ((RecurrentSpectrum(), True), (OtherEigenvalues(), False)):
        found = dynamics.spectrum(case.Case(model, task, batch, {"recurrent_spectrum": probe}))
        assert (found <= columns.ELSEWHERE) == right


def test_forms_are_compared_parameter_by_parameter(float64: None) -> None:
    """Recurrent gradients cut at every input are far below those of a small read-out, and wrong all the same."""
    of = taken(StateGradient(), gru)
    with torch.no_grad():
        of.model.readout.weight.mul_(1e-3)
    assert gradients.forms(of) <= columns.ELSEWHERE
    of.model.truncate(1)
    assert gradients.forms(of) > 0.1


def test_an_lstm_without_recurrent_weights_has_the_exponents_of_its_gates(float64: None) -> None:
    assert known.lstm_alone(Lyapunov(length=1, warmup=0)) < 1e-12


@pytest.mark.parametrize(("status", "value"), [(1, -math.inf), (2, -45.0), (0, -250.1)])
def test_a_range_that_is_not_read_is_missed(status: int, value: float) -> None:
    """A zero, a bound, or a number that is off."""
    expected = torch.tensor([[-250.0, -1.0]])
    kept = bench.judged_range("any", expected, np.array([[0, 0]]), expected)
    assert not kept.missed
    found = torch.tensor([[value, -1.0]])
    assert bench.judged_range("any", found, np.array([[status, 0]]), expected).missed
