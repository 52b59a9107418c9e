"""The alerts' rules: each fires when it must and is silent when it need not, by Prometheus' own promtool.

What they and the dashboard ask of is a metric that exists; each alert says what it means and which command answers.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from quadrille_cli.reference.metrics import all_metrics
from quadrille_cli.stack.servers import promtool
from tests.alerts.cases import CASES, Series

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
GROUPS = [group for file in RULES for group in yaml.safe_load(file.read_text("utf-8"))["groups"]]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for g in GROUPS for rule in g["rules"] if "alert" in rule}
RECORDS = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
EXPRESSIONS = [rule["expr"] for group in GROUPS for rule in group["rules"]]
HANDBOOK = (ROOT / "docs" / "operating.md").read_text("utf-8")
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
PROMTOOL = promtool.binary()
built = pytest.mark.skipif(not PROMTOOL.exists(), reason=promtool.NO_GO)


def judged(alert: str, series: Series, folder: Path, *, fires: bool, rules: list[Path] = RULES) -> str:
    """What promtool says against an alert that is to fire, or not to, 20 minutes into these series; or nothing."""
    asked = {
        "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
        "eval_time": "20m",
        "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
    }
    given = [{"series": name, "values": values} for name, values in series.items()]
    document = {
        "rule_files": [str(file) for file in rules],
        "evaluation_interval": "15s",
        "tests": [{"interval": "15s", "input_series": given, "promql_expr_test": [asked]}],
    }
    (test := folder / "test.yml").write_text(yaml.safe_dump(document), "utf-8")
    done = subprocess.run([PROMTOOL, "test", "rules", test], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@built
@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_an_alert_fires_and_is_silent(alert: str, tmp_path: Path) -> None:
    """With what it is for it fires, once whoever tells it; with what only comes close, or is over, it does not."""
    case = CASES[alert]

    assert judged(alert, case.fires, tmp_path, fires=True) == ""
    assert judged(alert, case.silent, tmp_path, fires=False) == ""


@built
def test_promtool_finds_the_rules_well_written() -> None:
    """Every file of rules parses, with its templates; no name is given twice."""
    done = subprocess.run([PROMTOOL, "check", "rules", *RULES], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@built
@pytest.mark.parametrize(
    ("before", "after"),
    [('level=~"PAGE|ESCALATE"', 'level="NONE"'), ('level=~"PAGE|ESCALATE"', 'level=~"WARN|PAGE|ESCALATE"')],
)
def test_a_rule_that_is_wrong_is_noticed(before: str, after: str, tmp_path: Path) -> None:
    """One that never fires, and one that fires too early: its case turns red."""
    text = next(file for file in RULES if file.stem == "orders").read_text("utf-8")
    (planted := tmp_path / "orders.yml").write_text(text.replace(before, after), "utf-8")
    case = CASES["QuadrilleOrderStuckLong"]

    said = [
        judged("QuadrilleOrderStuckLong", case.fires, tmp_path, fires=True, rules=[planted]),
        judged("QuadrilleOrderStuckLong", case.silent, tmp_path, fires=False, rules=[planted]),
    ]

    assert any(said)


def test_every_alert_has_its_case() -> None:
    """No alert is untried, and no case is of an alert that is not there."""
    assert set(CASES) == set(ALERTS)


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_an_alert_says_what_it_means_and_what_to_do(alert: str) -> None:
    """Summary, meaning and command; its link leads to its row in the handbook, which says the same."""
    rule, [row] = ALERTS[alert], [line for line in HANDBOOK.splitlines() if f'<a id="{alert.lower()}"></a>' in line]
    said = rule["annotations"]

    assert rule["labels"]["severity"] in {"ticket", "page", "escalate"}
    assert said["runbook_url"] == f"docs/operating.md#{alert.lower()}"
    assert f"`{alert}`" in row
    assert f"| {rule['labels']['severity']} |" in row
    assert said["meaning"].strip() in row
    assert said["command"] in row
    assert said["summary"]


def test_the_handbook_has_no_other_alert() -> None:
    """A row of an alert that is no more is found."""
    assert {name.lower() for name in ALERTS} == set(re.findall(r'<a id="(quadrille\w+)"></a>', HANDBOOK))


def commands() -> set[str]:
    """The commands of ``quadrille`` that alerts and handbook tell a person to type: the first two words of each."""
    texts = [HANDBOOK, *(rule["annotations"]["command"] for rule in ALERTS.values())]
    return {found for text in texts for found in re.findall(r"\bquadrille ([a-z]+)\b", text)}


def test_every_command_that_is_named_exists() -> None:
    """What alerts and handbook tell a person to type is a command."""
    page = subprocess.run([sys.executable, "-m", "quadrille_cli", "--help"], capture_output=True, text=True, check=True)
    there = set(re.findall(r"^  ([a-z]+) ", page.stdout, re.MULTILINE))

    assert commands() - there == set()
    assert {"status", "logs", "resolve"} <= commands()


NAME = re.compile(r"\bquadrille_[a-z_0-9]+|\bquadrille:[a-z_0-9:]+")
LABELS = re.compile(r"(quadrille_[a-z_0-9]+)\{([^}]*)\}")


def asked_for() -> Iterator[tuple[str, str]]:
    """Every expression of rules and dashboards, with where it stands."""
    yield from (("rules", expression) for expression in EXPRESSIONS)
    for file in DASHBOARDS:
        yield from ((file.name, target["expr"]) for target in _targets(json.loads(file.read_text("utf-8"))))


def _targets(node: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - any part of a JSON document
    if isinstance(node, dict):
        if "expr" in node:
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _targets(part)


def unknown(expression: str) -> set[str]:
    """The metrics of ours an expression names that are told by nobody, and labels they have not."""
    series = {name: {*metric.labels, "service", "role", "le"} for metric in all_metrics() for name in metric.series}
    found = {name for name in NAME.findall(expression) if name not in series and name not in RECORDS}
    for name, matchers in LABELS.findall(expression):
        labels = set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)", matchers))
        found |= {f"{name}{{{label}}}" for label in labels - series.get(name, labels)}
    return found


def test_what_is_asked_for_exists() -> None:
    """Every metric that a rule or a panel names is one that a process tells, with the labels it is asked by."""
    wrong = {(place, name) for place, expression in asked_for() for name in unknown(expression)}

    assert wrong == set()
    assert {place for place, _ in asked_for()} > {"rules"}, "no dashboard was read"


@pytest.mark.parametrize(
    "planted", ["max(quadrille_service_quiet)", 'quadrille_service_silent{by="x"}', "quadrille:no_such:ratio15m"]
)
def test_a_metric_nobody_tells_is_noticed(planted: str) -> None:
    """A misspelt metric, label or record turns the check red."""
    assert unknown(planted)
