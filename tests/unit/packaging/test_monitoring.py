"""Alerts and dashboard: they name what an agent exposes, and each alert fires and ends with its fault."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway_agent.adapters.servers.metrics_answers import PAGES

from ..show.metrics.test_node import rich
from .monitored_faults import BEGINS, DRAINED, ENDS, OVER, PLANTED, Series

REPOSITORY = Path(__file__).parents[3]
MONITORING = REPOSITORY / "packaging" / "monitoring"
[GROUP] = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in GROUP["rules"]}
PANELS: list[dict[str, Any]] = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
EXPRESSIONS = {panel["title"]: panel["targets"][0]["expr"] for panel in PANELS}
METRIC = re.compile(r"\b(?:egress_gateway|process)_[a-z_]+")
LABEL = re.compile(r"\{\{ \$labels\.(\w+) \}\}")
SOON_MINUTES = 20
"""Minutes after the end of a fault until no alert about it fires any more."""


def exposed() -> dict[str, set[frozenset[str]]]:
    """Return the sets of labels by the name of each series that an agent exposes."""
    found: dict[str, set[frozenset[str]]] = {}
    for family in text_string_to_metric_families(PAGES["/metrics"](rich()).text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).add(frozenset(sample.labels))
    return found


def minutes(duration: str) -> float:
    """Return the minutes of a duration with one unit."""
    return int(duration[:-1]) * {"s": 1 / 60, "m": 1, "h": 60}[duration[-1]]


def promtool(directory: Path, *tests: dict[str, Any], rules: bool = True) -> None:
    """Run unit tests of rules, or of expressions alone: the rules are evaluated at each interval of a test."""
    given = {
        "rule_files": [str(MONITORING / "alerts.yaml")] if rules else [],
        "evaluation_interval": "30s",
        "tests": [{"interval": "1m", **test} for test in tests],
    }
    file = directory / "test.yaml"
    file.write_text(json.dumps(given))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def given(series: tuple[Series, ...]) -> list[dict[str, str]]:
    return [{"series": str(each), "values": each.values} for each in series]


def fired(name: str) -> dict[str, Any]:
    """Return the alert as it has to be sent."""
    rule, labels = RULES[name], PLANTED[name].labels
    texts = {key: LABEL.sub(lambda m: labels[m[1]], text) for key, text in rule["annotations"].items()}
    return {"exp_labels": {**labels, **rule["labels"]}, "exp_annotations": texts}


@pytest.mark.parametrize("name", RULES)
def test_an_alert_fires_and_ends_with_its_fault(tmp_path: Path, name: str) -> None:
    late = BEGINS + minutes(RULES[name].get("for", "0m")) + 12
    assert late < ENDS, "the fault must last for longer"
    times: tuple[tuple[int, list[Any]], ...] = (
        (BEGINS - 1, []),
        (int(late), [fired(name)]),
        (ENDS + SOON_MINUTES, []),
    )
    checks = [{"alertname": name, "eval_time": f"{at}m", "exp_alerts": alerts} for at, alerts in times]
    promtool(tmp_path, {"input_series": given(PLANTED[name].series), "alert_rule_test": checks})


def test_a_drained_node_is_no_fault(tmp_path: Path) -> None:
    name = "EgressGatewayMemberNotReady"
    checks = [{"alertname": name, "eval_time": f"{at}m", "exp_alerts": []} for at in range(BEGINS, OVER, 5)]
    promtool(tmp_path, {"input_series": given(DRAINED), "alert_rule_test": checks})


def test_each_alert_has_a_planted_fault() -> None:
    assert PLANTED.keys() == RULES.keys()


def test_planted_series_are_such_as_an_agent_exposes() -> None:
    known = exposed()
    for planted in (*(found.series for found in PLANTED.values()), DRAINED):
        for series in planted:
            assert frozenset(series.labels) in known[f"egress_gateway_{series.name}"], series


@pytest.mark.parametrize("name", RULES)
def test_an_alert_names_what_an_agent_exposes(name: str) -> None:
    named = set(METRIC.findall(RULES[name]["expr"]))
    assert named
    assert named <= exposed().keys()


@pytest.mark.parametrize("name", RULES)
def test_an_alert_says_what_to_do_and_where_it_is_described(name: str) -> None:
    annotations = RULES[name]["annotations"]
    assert annotations.keys() == {"summary", "action", "docs"}
    assert set(LABEL.findall(" ".join(annotations.values()))) <= PLANTED[name].labels.keys()
    page, _, anchor = annotations["docs"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (REPOSITORY / page).read_text(), re.MULTILINE)
    assert anchor in [heading.lower().replace(" ", "-") for heading in headings]
    assert f"| `{name}` |" in (REPOSITORY / page).read_text(), "the manual lists it"


def test_the_rules_of_the_operator_are_the_same() -> None:
    path = REPOSITORY / "packaging" / "build_prometheus_rule.py"
    spec = importlib.util.spec_from_file_location("build_prometheus_rule", path)
    assert spec is not None
    assert spec.loader is not None
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    written = (MONITORING / "prometheusrule.yaml").read_text()
    assert written == builder.text()
    document = yaml.safe_load(written)
    assert (document["kind"], document["apiVersion"]) == ("PrometheusRule", "monitoring.coreos.com/v1")
    assert document["spec"] == yaml.safe_load((MONITORING / "alerts.yaml").read_text())


@pytest.mark.parametrize("title", EXPRESSIONS)
def test_a_panel_names_what_an_agent_exposes(title: str) -> None:
    named = set(METRIC.findall(EXPRESSIONS[title]))
    assert named
    assert named <= exposed().keys()


def test_panels_have_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert taken.isdisjoint(cells), panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len(EXPRESSIONS) == len(PANELS)


def test_each_panel_shows_something_of_what_an_agent_exposes(tmp_path: Path) -> None:
    series = []
    for family in text_string_to_metric_families(PAGES["/metrics"](rich()).text):
        for sample in family.samples:
            labels = {**sample.labels, "instance": "g1:9479", "job": "egress-gateway"}
            of = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
            series.append({"series": f"{sample.name}{{{of}}}", "values": f"{sample.value}+1x1500"})
    checks = [
        {"expr": f"count({expr}) > bool 0", "eval_time": "25h", "exp_samples": [{"labels": "{}", "value": 1}]}
        for expr in EXPRESSIONS.values()
    ]
    promtool(tmp_path, {"input_series": series, "promql_expr_test": checks}, rules=False)
