"""The page itself: the template with a policy's numbers in it."""

import html
import importlib.resources
import json
from pathlib import Path

from ..bundle.files import write_whole
from ..calibration import Plan, Policy, ScoreHistogram, Scores
from .payload import page_data

_TEMPLATE = "page.html"


def report_html(policy: Policy, data: Scores | ScoreHistogram, plan: Plan | None = None) -> str:
    """The page of a calibration: self-contained, asks for nothing from outside, works from a file.

    Args:
        policy: what to judge.
        data: what it was made from, with the same labels in the same order; other data can be shown, and the page says so.
        plan: what was asked for, where it is at hand.

    Raises:
        BadData: the labels are not the policy's, or a score that counts is NaN.
    """
    template = importlib.resources.files(__package__).joinpath(_TEMPLATE).read_text("utf-8")
    # With every < escaped the text can neither end the script element it stands in nor open a comment.
    numbers = json.dumps(page_data(policy, data, plan), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    title = html.escape(f"{policy.model}/{policy.model_version}: calibration {policy.version}")
    # Split, not replaced one after the other: a label may be called like a mark.
    before, rest = template.split("@TITLE@")
    between, after = rest.split("@DATA@")
    return "".join((before, title, between, numbers, after))


def write_report(path: Path, policy: Policy, data: Scores | ScoreHistogram, plan: Plan | None = None) -> Path:
    """Write `report_html` to `path`, whole or not at all, and return the path; raises what it raises."""
    text = report_html(policy, data, plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode("utf-8", "replace"))
    return path
