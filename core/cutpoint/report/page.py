"""The pages themselves: a template with its style, its scripts and its numbers in it."""

import html
import importlib.resources
import json
import re
from pathlib import Path
from typing import Any

from ..bundle.files import write_whole
from ..calibration import Plan, Policy, ScoreHistogram, Scores
from .payload import page_data

_PARTS = re.compile(r"@([a-z]+\.(?:html|css|js))@")


def assemble_page(template: str, title: str, data: Any) -> str:
    """A page of ours: self-contained, asks for nothing from outside, works from a file.

    Args:
        template: name of an .html file of this package; it names the parts to put in, `@chart.js@`, as they may in turn.
        title: of the page, any text.
        data: what its script reads, JSON values; any text in it.
    """
    page = _part(template)
    # With every < escaped the text can neither end the script element it stands in nor open a comment.
    numbers = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    # Split, not replaced one after the other: a label may be called like a mark.
    before, rest = page.split("@TITLE@")
    between, after = rest.split("@DATA@")
    return "".join((before, html.escape(title), between, numbers, after))


def _part(name: str) -> str:
    text = importlib.resources.files(__package__).joinpath(name).read_text("utf-8")
    return _PARTS.sub(lambda mark: _part(mark[1]), text)


def write_page(path: Path, text: str) -> Path:
    """Write a page to `path`, whole or not at all, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode("utf-8", "replace"))
    return path


def report_html(policy: Policy, data: Scores | ScoreHistogram, plan: Plan | None = None) -> str:
    """The page of a calibration.

    Args:
        policy: what to judge.
        data: what it was made from, with the same labels in the same order; other data can be shown, and the page says so.
        plan: what was asked for, where it is at hand.

    Raises:
        BadData: the labels are not the policy's, or a score that counts is NaN.
    """
    title = f"{policy.model}/{policy.model_version}: calibration {policy.version}"
    return assemble_page("calibration.html", title, page_data(policy, data, plan))


def write_report(path: Path, policy: Policy, data: Scores | ScoreHistogram, plan: Plan | None = None) -> Path:
    """Write `report_html` to `path`, whole or not at all, and return the path; raises what it raises."""
    return write_page(path, report_html(policy, data, plan))
