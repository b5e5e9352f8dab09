"""The rule files as users load them, and promtool on them."""

import re
import shutil
import subprocess
import warnings
from collections.abc import Container
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import ROOT

FOLDER = ROOT / "deploy/prometheus"
RULES = FOLDER / "cutpoint.rules.yml"


def binary(name: str) -> str:
    """The path of `promtool` or `prometheus`; the test is skipped, with a warning, where it is not installed."""
    found = shutil.which(name)
    if found is None:
        warnings.filterwarnings("default", message=name)
        warnings.warn(f"{name} is not installed: the rules went untested", stacklevel=2)
        pytest.skip(f"{name} is not installed (apt-get install prometheus)")
    return found


def promtool(*arguments: object, timeout_s: float = 300) -> str:
    """What it prints; fails where it finds a fault."""
    done = subprocess.run(
        [binary("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@cache
def groups() -> list[dict[str, Any]]:
    """The groups of rules, in the order of the file, which is that of evaluation."""
    loaded = yaml.safe_load(RULES.read_text())
    return list(loaded["groups"])


def alerts() -> list[dict[str, Any]]:
    """The alerting rules."""
    return [rule for group in groups() for rule in group["rules"] if "alert" in rule]


@cache
def recorded() -> set[str]:
    """Every name that a recording rule makes."""
    return {rule["record"] for group in groups() for rule in group["rules"] if "record" in rule}


@cache
def expressions() -> dict[str, str]:
    """Every expression by the name of its rule, with those in an alert's description."""
    found = {}
    for group in groups():
        for rule in group["rules"]:
            name = rule.get("record") or rule["alert"]
            found[name] = rule["expr"]
            asked = re.findall(r"`([^`]*)`", rule.get("annotations", {}).get("description", ""))
            found |= {f"{name}, description {i}": re.sub(r"\{[^}]*%q[^}]*\}", "", expr) for i, expr in enumerate(asked)}
    return found


def unit_test(
    path: Path, interval: str, series: dict[str, str], checks: list[dict[str, Any]], without: Container[str] = ()
) -> Path:
    """Write a file for `promtool test rules`: input series by their name, promql_expr_tests, and the groups that they need."""
    needed = [group for group in groups() if group["name"] not in without]
    rules = path.with_name(f"{path.stem}.rules.yml")
    rules.write_text(yaml.safe_dump({"groups": needed}, width=10**9, sort_keys=False))
    path.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(rules)],
                "evaluation_interval": interval,
                "group_eval_order": [group["name"] for group in needed],
                "tests": [
                    {
                        "interval": interval,
                        "input_series": [{"series": name, "values": values} for name, values in series.items()],
                        "promql_expr_test": checks,
                    }
                ],
            },
            width=10**9,
        )
    )
    return path
