"""A comparison as a table, and as lines."""

from cutpoint.terminal import SHOWN_LABELS, plain_table
from rich.markup import escape
from rich.table import Table

from .outcome import Comparison, Estimate, RunOutcome


def comparison_table(comparison: Comparison) -> Table:
    """One line a run: AP and its difference to the baseline, skill before and after, the price of the wanted recall."""
    many = len(comparison.labels) > 1
    title = f"{comparison.model}: {len(comparison.runs)} runs with {len(comparison.seeds)} seeds on {comparison.rows} test rows"
    table = plain_table(
        "run", "mean AP" if many else "AP", f"against {escape(comparison.baseline)}", "skill before", "after",
        "alerts per hit", "precision", "recall", "FPR", title=title,
    )  # fmt: skip
    for run in comparison.runs:
        price = run.price
        table.add_row(
            escape(run.name), shown(run.average_precision), signed(run.difference),
            *("-" if each is None else f"{each.value:.3f}" for each in (run.skill_before, run.skill_after)),
            "-" if price.alerts_per_hit is None else f"{price.alerts_per_hit:.2f}",
            *("-" if rate is None else f"{rate:.3f}" for rate in (price.precision, price.recall)),
            "-" if price.fpr is None else f"{price.fpr:.4f}",
        )  # fmt: skip
    lines = [
        f"AP of random scores: {comparison.prevalence:.4f}",
        *comparison.method,
        "skill: log loss against always answering the prevalence, before the prior is undone and after; mean over seeds",
        f"price: at the cuts that reach recall {comparison.recall:g} on the validation rows, counted on the test rows",
    ]
    missing = {run.name: run.price.missing for run in comparison.runs if run.price.missing}
    if missing:
        lines.append("no such cut for labels without validation positives, which the price leaves out")
    table.caption = "\n".join(escape(line) for line in lines)
    return table


def labels_table(comparison: Comparison) -> Table:
    """One line a label: AP of every run; of more than 20 labels those with the fewest positives."""
    runs = comparison.runs
    table = plain_table("label", "positives", *(escape(run.name) for run in runs), title="AP by label")
    order = sorted(range(len(comparison.labels)), key=lambda i: runs[0].labels[i].positives)
    for i in sorted(order[:SHOWN_LABELS]):
        each = [run.labels[i] for run in runs]
        table.add_row(escape(each[0].label), f"{each[0].positives}", *(shown(label.average_precision) for label in each))
    if len(order) > SHOWN_LABELS:
        table.caption = f"the {SHOWN_LABELS} of {len(order)} labels with the fewest positives in test; all are in compare.json"
    return table


def shown(estimate: Estimate | None) -> str:
    """A figure and its interval."""
    if estimate is None:
        return "-"
    return f"{estimate.value:.3f}" + ("" if estimate.low is None else f" {estimate.low:.2f}-{estimate.high:.2f}")


def signed(estimate: Estimate | None) -> str:
    """A difference and its interval; the baseline has none."""
    if estimate is None:
        return "baseline"
    ends = "" if estimate.low is None else f" ({estimate.low:+.3f} to {estimate.high:+.3f})"
    return f"{estimate.value:+.3f}{ends}"


def runs_in_words(run: RunOutcome) -> str:
    """What a run changes, on one line."""
    return ", ".join(f"{key}: {value}" for key, value in run.changes.items()) or "the configuration as it is"
