"""`make bench-watch`: what a refresh of `cutpoint watch` takes, from a page of metrics to a table in a terminal.

Three versions of a model of 512 labels, with every series that a server has of them; and what reading the same page with
prometheus_client takes, which the base install does not have.
"""

import io

import numpy as np
from claims import Claim, report, timed
from cutpoint.watch.display import table_of
from cutpoint.watch.standing import Watch
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

LABELS, VERSIONS, ROUNDS, WINDOW_S, EVERY_S = 512, 3, 9, 600.0, 2.0
COUNTERS = (
    "decisions", "positives", "expected_positives", "expected_positives_variance", "expected_positives_standard_error",
    "promised_recall", "promised_false_positive_rate", "promised_decisions", "probability", "alerted_probability",
)  # fmt: skip
GAUGES = (
    "expected_positive_rate", "expected_positive_rate_rse", "threshold", "expected_recall", "expected_false_positive_rate",
    "expected_precision", "expected_prevalence", "target_precision", "estimated_prevalence",
)  # fmt: skip


def main() -> None:
    """Print the claims."""
    rng = np.random.default_rng(0)
    pages = [_page(rng, look) for look in range(4)]
    watch = Watch(["http://127.0.0.1:8002/metrics"], WINDOW_S)
    looks = 0

    def refresh() -> None:
        nonlocal looks
        now_s = looks * EVERY_S
        watch.replicas[0].take(pages[looks % len(pages)], now_s)
        standing = watch.look(now_s)
        console = Console(file=io.StringIO(), force_terminal=True, width=160, height=50)
        console.print(table_of(standing, watch.replicas, now_s=now_s, top=40, width=160))
        looks += 1

    for _ in range(int(1.2 * WINDOW_S / EVERY_S)):  # a window that is full
        refresh()
    ours_s, theirs_s = timed(refresh, lambda: list(text_string_to_metric_families(pages[0])), rounds=ROUNDS)
    what = f"{VERSIONS} x {LABELS} labels, {pages[0].count(chr(10))} lines"
    report(
        [
            Claim(f"a refresh of {what}, limit 100 ms", ours_s * 1e3, 100, 1, "ms", least=False),
            Claim(
                "the same against only reading the page with prometheus_client",
                ours_s * 1e3,
                theirs_s * 1e3,
                0.5,
                "ms",
                least=False,
            ),
        ]
    )


def _page(rng: np.random.Generator, look: int) -> str:
    of = [f'label="label {i}",model="many",version="{v}"' for v in range(1, VERSIONS + 1) for i in range(LABELS)]
    lines = []
    for name in COUNTERS:
        lines += [f"# HELP cutpoint_{name}_total Text.", f"# TYPE cutpoint_{name}_total counter"]
        lines += [
            f"cutpoint_{name}_total{{{each}}} {value!r}"
            for each, value in zip(
                of, ((1e4 if name == "decisions" else 100) * (look + rng.random(len(of)))).tolist(), strict=True
            )
        ]
    for name in GAUGES:
        lines += [f"# HELP cutpoint_{name} Text.", f"# TYPE cutpoint_{name} gauge"]
        lines += [f"cutpoint_{name}{{{each}}} {value!r}" for each, value in zip(of, rng.random(len(of)).tolist(), strict=True)]
    lines += ["# HELP cutpoint_outcomes_total Text.", "# TYPE cutpoint_outcomes_total counter"]
    for each in of:
        for predicted in ("positive", "negative"):
            for actual in ("positive", "negative"):
                lines.append(f'cutpoint_outcomes_total{{actual="{actual}",{each},predicted="{predicted}"}} {look}')
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
