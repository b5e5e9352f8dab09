"""The rules by real promtool, and that every alert is documented, tested firing and tested silent."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cutpoint.calibration.surprise import HIGH_Z, LOW_Z
from grafana import foreign, metrics
from processes import ROOT
from rules_files import FOLDER, RULES, alerts, expressions, groups, promtool, recorded

UNIT_TESTS = sorted(Path(__file__).parent.glob("*.test.yml"))
TESTED: list[dict[str, Any]] = [yaml.safe_load(path.read_text()) for path in UNIT_TESTS]
PAGE = (ROOT / "docs/alerts.md").read_text()


def test_promtool_finds_no_fault() -> None:
    assert f"SUCCESS: {sum(len(group['rules']) for group in groups())} rules found" in promtool("check", "rules", RULES)
    promtool("check", "config", FOLDER / "prometheus.yml")


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.name)
def test_the_rules_do_what_the_unit_tests_say(path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", path)


def test_unit_tests_evaluate_in_the_order_of_the_file() -> None:
    """Otherwise promtool takes the groups in random order, and results differ by one step."""
    order = [group["name"] for group in groups()]
    assert all(test["group_eval_order"] == order for test in TESTED)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_what_it_is_about(rule: dict[str, Any]) -> None:
    name = rule["alert"]
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert "$value" in rule["annotations"]["description"] or name == "CutpointServerDown"
    assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"


def test_every_alert_has_its_paragraph_and_every_paragraph_its_alert() -> None:
    headings = re.findall(r"^### (Cutpoint\w+)$", PAGE, re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in alerts())
    for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE):
        if part.startswith("Cutpoint"):
            assert all(f"**{what}**" in part for what in ("Means", "Look at", "Do")), part.split("\n", 1)[0]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_is_seen_firing_and_silent(rule: dict[str, Any]) -> None:
    checks = [check for file in TESTED for test in file["tests"] for check in test["alert_rule_test"]]
    assert {bool(check["exp_alerts"]) for check in checks if check["alertname"] == rule["alert"]} == {True, False}


@pytest.mark.parametrize("name", expressions())
def test_what_a_rule_reads_a_server_exports_or_another_rule_records(
    name: str, exported: Mapping[str, tuple[Mapping[str, str], ...]]
) -> None:
    """Its labels too, with the values that are asked for, where there are series from the start."""
    expr = expressions()[name]
    assert {each for each in metrics(expr) if not foreign(each)} - set(exported) - recorded() == set()
    for metric, matchers in re.findall(r"(\w+)\{([^}]*)\}", expr):
        for label, value in re.findall(r'(\w+)="([^"]*)"', matchers):
            if exported.get(metric):
                assert value in {labels[label] for labels in exported[metric]}, (metric, label)


def test_recorded_names_are_as_prometheus_wants_them() -> None:
    """level:metric:operation, none recorded twice."""
    names = [rule["record"] for group in groups() for rule in group["rules"] if "record" in rule]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z_]+:[a-z0-9_]+(:[a-z0-9_]+)?", name) for name in names)


@pytest.mark.parametrize(("name", "least"), [("CutpointPositiveRateHigh", HIGH_Z), ("CutpointPositiveRateLow", -LOW_Z)])
def test_the_limits_of_what_can_ever_be_found_are_the_least_that_the_alerts_ask(name: str, least: float) -> None:
    (rule,) = (rule for rule in alerts() if rule["alert"] == name)
    limits = [float(text) for text in re.findall(r":dispersion7d [<>] (-?[\d.]+)", rule["expr"])]
    assert len(limits) == 4
    assert min(limits, key=abs) == least
