"""What a person reads when a run ends; from run.json alone, so that nothing has to be loaded for it."""

from collections.abc import Iterator, Mapping
from typing import Any

from retrograde.record.folder import RunFolder
from retrograde.train.provenance import provenance


def closing_line(folder: RunFolder, result: Mapping[str, Any]) -> str:
    """What a person wants to know when a run ends, in one line."""
    verdict = "solved" if result["solved"] else "not solved"
    if result["solved"] and result["solved_step"] is not None:
        verdict += f" at step {result['solved_step']}"
    reach = ""
    if result["horizon"] is not None:
        reach = f"; gradient horizon {result['horizon']:.0f} lags at step {result['steps']}"
    longer = f", {result['longer']['score']:.3f} on longer sequences" if "longer" in result else ""
    line = (
        f"{result['model']} on {result['task']}, seed {result['seed']}: score {result['score']:.3f}{longer} "
        f"({result['baseline_rule']} {result['baseline']:.3f}), {verdict}{reach}; {folder.path}"
    )
    return f"{line} ({result['reason']})" if result["reason"] else line


def alert_lines(result: Mapping[str, Any]) -> list[str]:
    """What the readings warn of at the end of a run, the gravest first, and what probes left out.

    What held only before stands in run.json. A run that was recorded before there were alerts has none.
    """
    warned = [f"  {alert['level']}: {alert['text']}" for alert in result.get("alerts", ()) if alert["at_end"]]
    notes = [*result.get("notes", ()), *result.get("probing", {}).get("notes", ())]
    return warned + [f"  note: {note}" for note in notes]


def closed_before(folder: RunFolder, result: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What is said of a run that is finished already, where it is launched with these settings."""
    line = f"{closing_line(folder, result)} (finished already{other_code(result)})"
    return "\n".join([line, *alert_lines(result), *_too_late(result["config"], settings)])


def _too_late(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What is asked of the record that a finished run's cannot give: it was made with other alerts, or not uploaded."""
    before = then.get("alerts", {})
    late = [
        f"alerts.{name}={'null' if value is None else value}"
        for name, value in now.get("alerts", {}).items()
        if name in before and before[name] != value
    ]
    upload = ""
    if now.get("recorder", {}).get("mode") == "online" != then.get("recorder", {}).get("mode"):
        late.append("recorder.mode=online")
        upload = "; analysis/sync.py uploads it"
    if late:
        yield f"  note: {', '.join(late)} came when the run was finished, and what it recorded stays{upload}"


def other_code(result: Mapping[str, Any]) -> str:
    """What is said where the code is another now than when the run was made."""
    change = changed(result, provenance())
    return f", by code {change[0]}, which is {change[1]} now" if change else ""


def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str] | None:
    """The code then and now, by its commit or else its version, where these differ."""
    if then["commit"] is None or now["commit"] is None:
        one, other = then["versions"]["retrograde"], now["versions"]["retrograde"]
    else:
        one, other = then["commit"], now["commit"]
    return None if one == other else (one, other)
