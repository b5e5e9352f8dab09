"""The numbers that panels of the Grafana dashboards show, by the dashboards' own expressions, asked of a faster Prometheus."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rehearsal import Prometheus, shortened

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"
OVERVIEW, SERVING = "cutpoint-overview", "cutpoint-serving"


@dataclass(frozen=True)
class Shown:
    """One query of a panel: the page's file, the panel's title, and the query's legend or column."""

    page: str
    panel: str
    legend: str

    @property
    def expression(self) -> str:
        """As it stands in the page, with Grafana's variables; KeyError where the page has no such query."""
        for panel in _page(self.page)["panels"]:
            if panel["title"] == self.panel:
                for target in panel["targets"]:
                    if target["legendFormat"] == self.legend:
                        return str(target["expr"])
        raise KeyError(f"{self.page} shows no {self.legend!r} in a panel {self.panel!r}")


_LIVE, _QUALITY = "Live rates by label", "Precision, recall and prevalence by label"
# What is asked of the overview by label: name, query.
BY_LABEL = {
    "live rate": Shown(OVERVIEW, _LIVE, "live rate"),
    "expected rate": Shown(OVERVIEW, _LIVE, "expected rate"),
    "lower limit": Shown(OVERVIEW, _LIVE, "lower limit"),
    "upper limit": Shown(OVERVIEW, _LIVE, "upper limit"),
    "surprise, 1 h": Shown(OVERVIEW, _LIVE, "surprise, 1 h"),
    "surprise, 6 h": Shown(OVERVIEW, _LIVE, "6 h"),
    "positives, 1 h": Shown(OVERVIEW, _LIVE, "positives, 1 h"),
    "expected, 1 h": Shown(OVERVIEW, _LIVE, "expected, 1 h"),
    "prevalence from the rate": Shown(OVERVIEW, _QUALITY, "prevalence: from the rate"),
    "prevalence from scores": Shown(OVERVIEW, _QUALITY, "prevalence: from scores"),
    "prevalence: calibration's": Shown(OVERVIEW, _QUALITY, "prevalence: calibration's"),
    "precision estimated": Shown(OVERVIEW, _QUALITY, "estimated"),
    "precision confirmed": Shown(OVERVIEW, _QUALITY, "precision: confirmed"),
    "precision promised": Shown(OVERVIEW, _QUALITY, "promised"),
    "recall estimated": Shown(OVERVIEW, _QUALITY, "recall: estimated"),
    "recall confirmed": Shown(OVERVIEW, _QUALITY, "recall: confirmed"),
}
# On no page, but it is why an estimate is off: the estimates take it for that of the live traffic.
PROMISED_FPR = "false positive rate promised"
_STAGES = ("decode", "queue", "inference", "answer", "request")
# And of the serving page, one number each.
NUMBERS = {
    "RPCs per second": Shown(SERVING, "RPCs per second", "RPCs per second"),
    "Errors": Shown(SERVING, "Errors", "Errors"),
    "Budget burn": Shown(SERVING, "Budget burn", "Budget burn"),
    **{f"median of {stage}": Shown(SERVING, "Median by stage", stage) for stage in _STAGES},
    **{f"p99 of {stage}": Shown(SERVING, "p99 by stage", stage) for stage in _STAGES},
    "Alerts firing": Shown(OVERVIEW, "Alerts firing", "Alerts firing"),
}


class Boards:
    """Both pages of one model, of which every label is shown."""

    def __init__(self, prometheus: Prometheus, model: str, version: str, divisor: int) -> None:
        self._prometheus, self._divisor = prometheus, divisor
        # Grafana's interval of rates is at least four scrapes; ten minutes are what a page over a week has.
        self._values = {
            "model": model, "version": version, "label": ".*", "shown": ".*", "instance": ".*", "__rate_interval": "10m",
        }  # fmt: skip

    def expression(self, shown: Shown) -> str:
        """What Prometheus is asked: variables filled in, durations divided."""
        return shortened(substituted(shown.expression, self._values), self._divisor)

    def by_label(self) -> dict[str, dict[str, float]]:
        """BY_LABEL and PROMISED_FPR now: value by label, of the labels that have one."""
        asked = {name: self.expression(shown) for name, shown in BY_LABEL.items()}
        asked[PROMISED_FPR] = substituted(
            'max by (label) (cutpoint_expected_false_positive_rate{model="$model",version="$version"})', self._values
        )
        return {
            name: {labels["label"]: value for labels, value in self._prometheus.instant(expression)}
            for name, expression in asked.items()
        }

    def numbers(self) -> dict[str, float | None]:
        """NUMBERS now; None where the page would show nothing."""
        found = {name: self._prometheus.value(self.expression(shown)) for name, shown in NUMBERS.items()}
        return {name: None if value is None or math.isnan(value) else value for name, value in found.items()}

    def course(self, name: str, start_s: float, end_s: float) -> dict[str, list[list[float]]]:
        """One of BY_LABEL over a time: [[second, value], ...] by label."""
        shown = self.expression(BY_LABEL[name])
        return {labels["label"]: values for labels, values in self._prometheus.range(shown, start_s, end_s)}

    def alerts(self, start_s: float, end_s: float) -> list[tuple[dict[str, str], list[list[float]]]]:
        """Every alert that was pending or firing, with the moments at which it was."""
        return self._prometheus.range("ALERTS", start_s, end_s)


def substituted(text: str, values: Mapping[str, str]) -> str:
    """With values in place of variables, as Grafana does it."""
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], text)


@cache
def _page(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
