"""The page of a calibration: its numbers against counting rows, its text as a browser reads it, and the page at work."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from browser import browse
from cutpoint.calibration import (
    Curve,
    Infeasible,
    Plan,
    Policy,
    ScoreHistogram,
    Scores,
    exact_curve,
    fit_policy,
    parse_objective,
    probabilities,
    reliability,
)
from cutpoint.errors import BadData
from cutpoint.report import report_html, write_report
from cutpoint.report.payload import MOST_BINS, MOST_POINTS, compared_objectives, page_data, score_bins, thinned

EVIL = "</script><img src=x onerror=alert(1)>"
Data = Scores | ScoreHistogram


def some_rows(rows: int = 4000, labels: int = 3, seed: int = 0, rate: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are multiples of 1/64, so that a threshold between two of them has few digits; targets, some unknown."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((rows, labels)) < rate).astype(np.uint8)
    logits = np.round((rng.normal(size=(rows, labels)) * 1.5 + 3 * targets - 4) * 64) / 64
    targets[rng.random((rows, labels)) < 0.05] = 255
    return logits.astype(np.float32), targets


def names(count: int) -> list[str]:
    return [f"label {i}" for i in range(count)]


def policy_of(data: Data, plan: Plan, previous: Policy | None = None) -> Policy:
    return fit_policy(
        data, plan, model="pumps", model_version=2, model_digest="d" * 64, created="2026-01-02T03:04:05+00:00", author="me",
        previous=previous,
    )  # fmt: skip


def shown(data: Data, plan: Plan, previous: Policy | None = None) -> tuple[Policy, dict[str, Any]]:
    policy = policy_of(data, plan, previous)
    return policy, page_data(policy, data, plan)


def in_page(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def alerts_on(logits: np.ndarray, targets: np.ndarray, cut: float | None) -> list[int]:
    hit = logits >= np.float32(np.inf if cut is None else cut)
    return [int((hit & (targets == c)).sum()) for c in (1, 0)]


# ---- numbers ----


@pytest.mark.parametrize("objective", ["max_fbeta=1", "recall_at_least=0.9", "alert_rate_at_most=0.03", "min_cost=20"])
def test_counts_at_every_point_are_those_of_the_rows(objective: str) -> None:
    logits, targets = some_rows()
    data = Scores(logits, targets, names(3))
    policy, page = shown(data, Plan.of(objective))
    for i, (label, each) in enumerate(zip(policy.labels, page["labels"], strict=True)):
        points = each["points"]
        assert len(np.unique(logits[:, i])) > MOST_POINTS >= len(points["cut"]) - 1 > 100
        for cut, tp, fp in zip(points["cut"], points["tp"], points["fp"], strict=True):
            assert alerts_on(logits[:, i], targets[:, i], cut) == [tp, fp]
        assert (points["tp"][0], points["fp"][0]) == (0, 0)
        assert (points["tp"][-1], points["fp"][-1]) == (each["positives"], each["negatives"])
        assert np.all(np.diff(np.add(points["tp"], points["fp"])) > 0)
        chosen = each["chosen"]
        assert label.threshold is not None and label.expected is not None
        recall = label.expected.recall
        assert recall is not None
        assert points["cut"][chosen] == pytest.approx(label.threshold, rel=1e-5)
        assert each["threshold"] == label.threshold
        assert (points["tp"][chosen], points["fp"][chosen]) == (label.counts.tp, label.counts.fp)
        assert each["expected"]["recall"] == pytest.approx([recall.value, recall.low, recall.high], rel=1e-5)
        at = label.calibrator.log_odds(np.array(points["cut"], float))
        np.testing.assert_allclose(points["p"], 1 / (1 + np.exp(-at)), rtol=1e-4)  # of a cut of 6 digits


@pytest.mark.parametrize("source", ["scores", "histogram", "weights"])
def test_choices_are_those_of_the_objectives(source: str) -> None:
    logits, targets = some_rows(rate=0.004)
    targets[:, 2] = 0
    weights = np.random.default_rng(1).integers(1, 4, len(logits)).astype(float) if source == "weights" else None
    data: Data = Scores(logits, targets, names(3), weights=weights)
    if source == "histogram":
        data = ScoreHistogram(names(3))
        data.update(logits, targets)
    _, page = shown(data, Plan.of("max_fbeta=1"))
    for i, each in enumerate(page["labels"]):
        curve = exact_curve(logits[:, i], targets[:, i], weights) if source != "histogram" else data.curve(i)
        texts = [choice["objective"] for choice in each["choices"]]
        assert texts[0] == "max_fbeta=1" and texts.count("max_fbeta=1") == 1
        assert set(texts) == set(compared_objectives(curve))
        if i < 2:
            prevalence = f"{curve.positives / curve.rows:.2g}"
            assert f"alert_rate_at_most={prevalence}" in texts
        for choice in each["choices"]:
            wanted = parse_objective(choice["objective"]).choose(curve)
            if isinstance(wanted, Infeasible):
                assert (choice["at"], choice["status"]) == (None, wanted.status)
                assert choice["reason"] == wanted.reason
            else:
                found = [each["points"][name][choice["at"]] for name in ("tp", "fp")]
                assert found == list(curve.counts_at(wanted)), choice
                assert choice["status"] == "OK"
    assert any(choice["status"] == "INFEASIBLE" for each in page["labels"] for choice in each["choices"])
    assert any(choice["status"] == "INSUFFICIENT" for choice in page["labels"][2]["choices"])


def test_a_guaranteed_cut_stands_beside_the_same_objective_without_it() -> None:
    logits, targets = some_rows(labels=1)
    policy, page = shown(Scores(logits, targets, names(1)), Plan.of("recall_at_least=0.9", delta=0.05))
    (each,) = page["labels"]
    own, *others = each["choices"]
    assert (own["own"], own["at"]) == (True, each["chosen"])
    (plain,) = [other for other in others if other["objective"] == "recall_at_least=0.9"]
    assert plain["at"] < own["at"]
    assert each["guarantee"]["rate"] == "recall" and page["head"]["guarantee"]["delta"] == 0.05
    assert page["head"]["delta_spent"] == policy.delta_spent == 0.05


def test_thinned_points_are_even_in_recall_and_in_log_alert_rate() -> None:
    rng = np.random.default_rng(3)
    targets = rng.random(100_000) < 0.01
    curve = exact_curve(rng.normal(size=100_000) + 2 * targets, targets)
    always = [17, 50_001, len(curve.cuts) - 2, -1]
    kept = thinned(curve, always)
    assert len(kept) <= MOST_POINTS and np.all(np.diff(kept) > 0)
    assert set(always) - {-1} <= set(kept.tolist()) and kept[0] == 0 and kept[-1] == len(curve.cuts) - 1
    assert np.diff(curve.tp[kept] / curve.positives).max() < 0.02
    assert np.diff(np.log10(curve.alerts[kept])).max() < 0.31  # the first steps are whole alerts: 1, 2, 3
    few = exact_curve(np.arange(50.0), np.arange(50) % 7 == 0)
    np.testing.assert_array_equal(thinned(few, []), np.arange(50))
    assert len(thinned(exact_curve(np.zeros(0), np.zeros(0)), [])) == 0


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0, 1e5])
def test_bins_of_scores_against_counting(spread: float) -> None:
    rng = np.random.default_rng(5)
    scores, targets = (rng.normal(size=5000) * spread - spread).astype(np.float32), rng.random(5000) < 0.01
    bins = score_bins(exact_curve(scores, targets))
    edges = bins["first"] + bins["width"] * np.arange(len(bins["positives"]) + 1)
    assert len(edges) - 1 <= MOST_BINS and bins["outside"] is False
    for name, chosen in (("positives", targets), ("negatives", ~targets)):
        np.testing.assert_array_equal(bins[name], np.histogram(scores[chosen], edges)[0])
        assert sum(bins[name]) == chosen.sum()


def test_bins_of_a_histogram_are_those_of_its_scores() -> None:
    logits, targets = some_rows(rate=0.1)
    histogram = ScoreHistogram(names(3))
    histogram.update(logits, targets)
    data = Scores(logits, targets, names(3))
    assert [score_bins(histogram.curve(i)) for i in range(3)] == [score_bins(data.curve(i)) for i in range(3)]
    beyond = np.array([[-40, 40, -40]] * 2 + [[-50, 40, 0]], np.float32)
    histogram.update(beyond, np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]]))
    for i, (before, after) in enumerate((score_bins(data.curve(i)), score_bins(histogram.curve(i))) for i in range(3)):
        for name, more in (("positives", 1), ("negatives", 2)):
            assert sum(after[name]) == sum(before[name]) + more, i
    alone = ScoreHistogram(["only"])
    alone.update(beyond[:, :1], np.array([[0], [1], [0]]))
    assert score_bins(alone.curve(0))["negatives"] == [2]


def test_scores_far_off_do_not_stretch_the_bins() -> None:
    scores = np.append(np.linspace(-3, 3, 4000), [np.inf, -np.inf, 3e38])
    bins = score_bins(exact_curve(scores, np.arange(4003) % 50 == 0))
    assert bins["outside"] is True
    assert bins["first"] >= -10 and bins["width"] * len(bins["negatives"]) <= 20
    assert sum(bins["negatives"]) + sum(bins["positives"]) == 4003
    only = score_bins(exact_curve(np.array([np.inf, -np.inf]), np.array([1, 0])))
    assert (sum(only["positives"]), sum(only["negatives"])) == (1, 1)


def test_reliability_before_and_after_the_calibrator() -> None:
    logits, targets = some_rows(labels=1)
    data = Scores(logits, targets, names(1))
    policy, page = shown(data, Plan.of("max_fbeta=1"))
    (each,), map_ = page["labels"], policy.labels[0].calibrator
    assert map_.kind != "none"
    for name, log_odds in (("reliability", map_.log_odds), ("uncalibrated", None)):
        wanted = reliability(data.curve(0), log_odds)
        assert len(each[name]) == len(wanted)
        for found, bin_ in zip(each[name], wanted, strict=True):
            exact = [bin_.predicted, bin_.observed, bin_.low, bin_.high, bin_.rows, bin_.positives]
            assert found == pytest.approx(exact, rel=3e-3)  # the middle of a bin of 1/256
    _, plain = shown(data, Plan.of("max_fbeta=1", calibrator="none"))
    assert plain["labels"][0]["uncalibrated"] == []
    positive = targets[:, 0] == 1
    assert sum(found[5] for found in plain["labels"][0]["reliability"]) == positive.sum()
    total = sum(found[0] * found[4] for found in plain["labels"][0]["reliability"])
    assert total == pytest.approx(probabilities(logits[targets[:, 0] != 255, 0]).sum(), rel=3e-3)


def test_weighted_counts_are_sums_of_weights() -> None:
    logits, targets = some_rows(labels=1)
    weights = np.random.default_rng(2).gamma(2.0, 1.0, len(logits))
    _, page = shown(Scores(logits, targets, names(1), weights=weights), Plan.of("max_fbeta=1"))
    (each,) = page["labels"]
    for cut, tp, fp in zip(*(each["points"][name] for name in ("cut", "tp", "fp")), strict=True):
        hit = logits[:, 0] >= np.float32(cut)
        assert tp == pytest.approx(weights[hit & (targets[:, 0] == 1)].sum(), rel=1e-5)
        assert fp == pytest.approx(weights[hit & (targets[:, 0] == 0)].sum(), rel=1e-5)
    assert page["head"]["weighted"] is True


def test_unlabelled_rows_have_alert_rates_only() -> None:
    logits, _ = some_rows()
    histogram = ScoreHistogram(names(3), labelled=False)
    histogram.update(logits, None)
    for data in (Scores(logits, None, names(3)), histogram):
        policy, page = shown(data, Plan.of("alert_rate_at_most=0.02"))
        assert page["head"]["labelled"] is False
        for i, each in enumerate(page["labels"]):
            assert (each["positives"], each["ap"], each["reliability"], each["uncalibrated"]) == (None, None, [], [])
            assert [choice["objective"] for choice in each["choices"]] == ["alert_rate_at_most=0.02", "alert_rate_at_most=0.01"]
            assert (each["rows"], each["points"]["fp"][each["chosen"]]) == (4000, policy.labels[i].counts.unlabelled_alerts)
            assert sum(each["histogram"]["negatives"]) == 4000


def test_labels_without_a_cut_say_why_and_keep_their_curve() -> None:
    logits, targets = some_rows()
    targets[:, 1] = np.where(np.arange(4000) == 7, 1, 0)
    plan = Plan.of(["recall_at_least=0.9", "label 0:max_fbeta=1"], min_positives=5)
    policy, page = shown(Scores(logits, targets, names(3)), plan)
    each = page["labels"][1]
    assert (each["status"], each["chosen"], each["threshold"], each["expected"]) == ("INSUFFICIENT", None, None, None)
    assert each["reason"] == policy.labels[1].reason != ""
    assert each["needs"] == {"count": 5, "of": "positives"}
    assert len(each["points"]["tp"]) > 100 and each["choices"][0]["at"] is None
    assert each["choices"][0]["reason"] == each["reason"]


def test_a_cut_of_the_previous_policy_without_rows() -> None:
    logits, targets = some_rows()
    previous = policy_of(Scores(logits, targets, names(3)), Plan.of("max_fbeta=1"))
    targets = targets.copy()
    targets[:, 1] = 255
    data = Scores(logits, targets, names(3))
    policy, page = shown(data, Plan.of("max_fbeta=1", fallback="previous"), previous)
    each = page["labels"][1]
    assert (each["status"], each["rows"], each["chosen"]) == ("FALLBACK", 0, None)
    assert each["threshold"] == policy.labels[1].threshold == previous.labels[1].threshold
    assert (each["points"]["tp"], each["points"]["cut"], each["histogram"]) == ([0], [None], None)
    assert each["expected"] is not None


def test_data_of_other_labels_are_refused_and_other_data_are_named_so() -> None:
    logits, targets = some_rows()
    policy = policy_of(Scores(logits, targets, names(3)), Plan.of("max_fbeta=1"))
    with pytest.raises(BadData, match=r"labels of the data is \['a', 'b', 'c'\]; expected those of the policy"):
        page_data(policy, Scores(logits, targets, "abc"))
    assert page_data(policy, Scores(logits, targets, names(3)))["head"]["same_data"] is True
    assert page_data(policy, Scores(logits[:2000], targets[:2000], names(3)))["head"]["same_data"] is False


# ---- the text ----


def test_names_cannot_leave_the_data_element() -> None:
    logits, targets = some_rows()
    labels = [EVIL, "<!-- <script> @DATA@ @TITLE@", 'é "\\ \u2028 \x00']
    data = Scores(logits, targets, labels)
    text = report_html(policy_of(data, Plan.of("max_fbeta=1")), data)
    assert text.count("</script") == 2 and "<img" not in text and "<!-- <script>" not in text
    assert [each["name"] for each in in_page(text)["labels"]] == labels
    model = policy_of(data, Plan.of("max_fbeta=1")).model_copy(update={"model": "</title><b>"})
    assert "<title>&lt;/title&gt;&lt;b&gt;/2: calibration 1</title>" in report_html(model, data)


def test_nothing_outside_is_asked() -> None:
    logits, targets = some_rows()
    data = Scores(logits, targets, names(3))
    text = report_html(policy_of(data, Plan.of("max_fbeta=1")), data)
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:" in text
    assert not re.search(r"https?:|url\(|@import|\bsrc=|innerHTML|insertAdjacent|document\.write|eval\(", text)


def test_512_labels_stay_small() -> None:
    logits, targets = some_rows(20_000, 512, rate=0.01)
    data = Scores(logits, targets, names(512))
    text = report_html(policy_of(data, Plan.of("max_fbeta=1")), data)
    assert len(text.encode()) < 5e6
    assert len(in_page(text)["labels"]) == 512


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    logits, targets = some_rows()
    data, plan = Scores(logits, targets, names(3)), Plan.of("max_fbeta=1")
    policy, path = policy_of(data, plan), tmp_path / "new" / "report.html"
    assert write_report(path, policy, data, plan) == path
    written = path.read_text("utf-8")
    assert written == report_html(policy, data, plan)
    with pytest.raises(BadData):
        write_report(path, policy, Scores(logits, targets, "abc"), plan)
    assert path.read_text("utf-8") == written and list(path.parent.iterdir()) == [path]


# ---- the page at work, in a browser ----


def a_page(labels: Sequence[str], plan: Plan, **changes: Any) -> tuple[str, dict[str, Any], list[Curve]]:
    logits, targets = some_rows(labels=len(labels))
    for label, column in changes.items():
        targets[:, labels.index(label)] = column
    data = Scores(logits, targets, labels)
    policy = policy_of(data, plan)
    return report_html(policy, data, plan), page_data(policy, data, plan), [data.curve(i) for i in range(len(labels))]


def test_in_a_browser_the_slider_moves_the_cut(tmp_path: Path) -> None:
    page, data, _ = a_page(["a", "b", "few"], Plan.of("max_fbeta=1", min_positives=2), few=0)
    script = """
result.first = text("#name"); result.chosen = rates();
result.marks = document.querySelectorAll("#plots svg .now, #plots svg .nowline").length;
const where = () => [...document.querySelectorAll("#plots svg .now, #plots svg .nowline")].map((each) =>
  each.getAttribute("cx") || each.getAttribute("x1"));
const before = where();
result.backOff = document.querySelector("#back").disabled;
input("#slider", 20); result.moved = rates(); result.spoken = document.querySelector("#slider").getAttribute("aria-valuetext");
result.marksMoved = where().filter((each, i) => each !== before[i]).length;
input("#slider", 0); result.never = rates();
click(document.querySelectorAll("#choices .choose")[1]); result.other = rates();
result.here = text("#choices tr.here button");
click(document.querySelector("#back")); result.back = rates();
result.titles = [...document.querySelectorAll("#plots svg .title")].map((each) => each.textContent);
result.aria = [...document.querySelectorAll("#plots svg")].every((each) => each.getAttribute("aria-label").length > 40);
result.own = text("#choices tr.own th");
"""
    found = browse(page, script, tmp_path, "#label=b")
    each = data["labels"][1]

    def expected(i: int) -> dict[str, str]:
        tp, fp = each["points"]["tp"][i], each["points"]["fp"][i]
        share = {"precision": tp / (tp + fp) if tp + fp else None, "recall": tp / each["positives"]}
        wide = {"FPR": fp / each["negatives"], "alert rate": (tp + fp) / each["rows"]}
        counts = {"true positives": tp, "false positives": fp, "misses (FN)": each["positives"] - tp}
        return {
            **{name: "–" if v is None else f"{v:.3f}" if v else "0" for name, v in share.items()},
            **{name: f"{v:.5f}" if v else "0" for name, v in wide.items()},
            "alerts/1000 rows": f"{1000 * (tp + fp) / each['rows']:.2f}" if tp + fp else "0",
            **{name: f"{v:,}" for name, v in counts.items()},
        }

    assert found["first"] == "b"
    assert found["chosen"] == {**found["chosen"], **expected(each["chosen"])} == found["back"]
    assert found["backOff"] is True
    assert (found["marks"], found["marksMoved"]) == (3, 3)
    assert found["moved"] == {**found["moved"], **expected(20)}
    assert found["moved"]["recall"] in found["spoken"]
    assert found["never"] == {**found["never"], **expected(0)}
    assert found["other"] == {**found["other"], **expected(each["choices"][1]["at"])}
    assert found["here"] == each["choices"][1]["objective"]
    assert found["own"].startswith("max_fbeta=1")
    assert found["titles"][:4] == ["recall", "precision", "calibrated probability (log scale)", "observed rate (log scale)"]
    assert found["aria"] is True


def test_in_a_browser_a_rate_that_is_too_little_known_to_be_watched_is_said(tmp_path: Path) -> None:
    logits, targets = some_rows(rate=0.2)
    logits[:400] += 3  # one group of ten is another
    data = Scores(logits, targets, names(3), groups=np.repeat(np.arange(10), 400))
    policy = policy_of(data, Plan.of("max_fbeta=1"))
    found = browse(report_html(policy, data, None), 'result.facts = text("#facts");', tmp_path, "#label=label%201")
    factor = policy.labels[1].watched_from
    assert 2 < factor < np.inf
    assert f"fires only beyond {factor:.1f} times that: calibrate on more groups" in found["facts"]
    known = Scores(logits, targets, names(3))
    assert all(label["watched_from"] < 2 for label in shown(known, Plan.of("max_fbeta=1"))[1]["labels"])


def test_in_a_browser_labels_are_sorted_searched_and_chosen(tmp_path: Path) -> None:
    labels = [f"part {i}" for i in range(12)]
    page, data, _ = a_page(labels, Plan.of("max_fbeta=1", min_positives=2), **{"part 4": 0})
    script = """
result.byAlerts = rows(); result.selected = text("#labels tr[aria-selected=true] td");
result.sorted = headers().map((each) => each.getAttribute("aria-sort"));
click(headers()[2].firstChild); result.byPositives = rows();
click(headers()[2].firstChild); result.upwards = rows();
click(headers()[0].firstChild); result.byName = rows();
input("#search", "T 1"); result.searched = rows(); result.found = text("#found");
input("#search", ""); input("#status", "INSUFFICIENT"); result.filtered = rows();
click(document.querySelector("#labels tbody tr:not([hidden]) td"));
result.name = text("#name"); result.reason = text("#reason"); result.hash = location.hash;
result.curveShown = !document.querySelector("#curve").hidden; result.scoresShown = !document.querySelector("#histogram").hidden;
result.back = document.querySelector("#back").disabled;
input("#status", "");
document.querySelector("#labels tr[aria-selected=true] a").dispatchEvent(
  new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
result.next = text("#name"); result.focused = document.activeElement.textContent;
result.tally = text("#tally"); result.head = text("#head");
"""
    found = browse(page, script, tmp_path)
    alerts = {each["name"]: each["expected"]["alert_rate"][0] if each["expected"] else -1.0 for each in data["labels"]}
    assert [alerts[name] for name in found["byAlerts"]] == sorted(alerts.values(), reverse=True)
    assert found["byAlerts"][-1] == "part 4" and found["selected"] == found["byAlerts"][0]
    assert found["sorted"] == [None] * 7 + ["descending"]
    positives = {each["name"]: each["positives"] for each in data["labels"]}
    assert [positives[name] for name in found["byPositives"]] == sorted(positives.values(), reverse=True)
    assert [positives[name] for name in found["upwards"]] == sorted(positives.values())
    assert found["byName"] == labels
    assert (found["searched"], found["found"]) == (["part 1", "part 10", "part 11"], "3 of 12 labels")
    assert found["filtered"] == ["part 4"]
    assert (found["name"], found["hash"]) == ("part 4", "#label=part%204")
    assert found["reason"] == "No cut, so this label decides nothing: 0 labelled positives; needs at least 2"
    assert (found["curveShown"], found["scoresShown"], found["back"]) == (False, True, True)
    assert found["next"] == found["focused"] == "part 5"
    assert found["tally"] == "11 OK1 INSUFFICIENT"
    assert "max_fbeta=1" in found["head"] and "by" + "me" in found["head"]


def test_in_a_browser_names_are_text(tmp_path: Path) -> None:
    page, _, _ = a_page([EVIL, "b"], Plan.of("max_fbeta=1"))
    script = """result.name = text("#name"); result.images = document.images.length; result.rows = rows().sort();"""
    found = browse(page, script, tmp_path, "#label=" + quote(EVIL, safe=""))
    assert (found["name"], found["images"], found["rows"]) == (EVIL, 0, sorted([EVIL, "b"]))


def test_in_a_browser_unlabelled_rows_show_scores_only(tmp_path: Path) -> None:
    logits, _ = some_rows(labels=1)
    data = Scores(logits, None, ["only"])
    page = report_html(policy_of(data, Plan.of("alert_rate_at_most=0.02")), data)
    script = """
result.hidden = ["curve", "reliability", "histogram", "filters"].map((id) => document.getElementById(id).hidden);
result.rates = rates(); result.columns = headers().map((each) => each.textContent);
"""
    found = browse(page, script, tmp_path)
    assert found["hidden"] == [True, True, False, True]
    assert set(found["rates"]) == {"cut (logit)", "probability there", "alert rate", "alerts/1000 rows", "alerts"}
    assert found["columns"] == ["label", "status", "cut (logit)", "alerts per 1000 rows"]
