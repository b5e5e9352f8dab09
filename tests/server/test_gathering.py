"""Requests that are ready at the same moment share a run on the serving thread; each gets its own answer, or its own error."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import linear_bundle, linear_onnx, nan_onnx
from cutpoint.errors import BadRequest, BadScores
from cutpoint.server.outcomes.decisions import DecisionLog
from cutpoint.server.outcomes.keeping import _keeper
from cutpoint.server.port.idle import Idle
from cutpoint.server.runs.session import OnnxSession
from cutpoint.server.serving.gathering import Gathering
from cutpoint.server.serving.served import ServedModel
from numpy.typing import NDArray
from workplace import Workplace, workplace

RNG = np.random.default_rng(5)
ALL: tuple[str, ...] = ()


class Asked:
    """A gathering as the serving thread has it, and the answers it gave."""

    def __init__(self) -> None:
        self.idle = Idle()
        self.idle.begin()
        self.gathering = Gathering(self.idle)
        self.answers: list[Any] = []

    def take(self, model: ServedModel, x: NDArray[np.float32], wanted: tuple[str, ...] = ALL) -> int:
        """Ask; gives where the answer will be."""
        at = len(self.answers)
        self.answers.append(None)

        def answered(answer: Any, error: BaseException | None) -> None:
            assert self.answers[at] is None, "answered twice"
            self.answers[at] = error if answer is None else answer

        assert self.gathering.take(model, {"x": x}, (("x", "FP32", x.shape),), wanted, answered)
        return at


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    models = tmp_path / "models"
    for name in ("m", "other"):
        linear_bundle(models, name=name, features=4)
    linear_onnx(models / "foreign" / "1" / "model.onnx", np.eye(3, 2), ["n", 3])
    nan_onnx(models / "log" / "1" / "model.onnx")
    with workplace(models) as found:
        for model in found.models.all():
            for rows in range(1, 9):
                model.batcher.learn(rows, 1e-9)
        yield found


def runs(place: Workplace, model: str) -> tuple[float, float]:
    """Runs of a model, and rows in them."""
    samples = place.samples()
    return tuple(samples.get(f'cutpoint_batch_rows_{of}{{model="{model}"}}', 0.0) for of in ("count", "sum"))  # type: ignore[return-value]


def test_what_is_ready_at_one_moment_shares_a_run_and_each_gets_its_own_rows(place: Workplace) -> None:
    asked, model = Asked(), place.models.get("m")
    before, rows_before = runs(place, "m")
    xs = [RNG.normal(size=(1 + i % 2, 4)).astype(np.float32) for i in range(4)]
    for x in xs:
        asked.take(model, x)
    assert asked.answers == [None] * 4, "nobody is answered before nothing more is ready"
    asked.idle.do()
    after, rows_after = runs(place, "m")
    assert (after - before, rows_after - rows_before) == (1, 6)
    alone = OnnxSession(model.bundle.model_path)
    for x, answer in zip(xs, asked.answers, strict=True):
        np.testing.assert_allclose(answer.outputs["logits"], alone.run({"x": x})["logits"], rtol=1e-6)
        assert answer.outputs["labels"].tolist() == [label.encode() for label in model.labels]
        assert answer.outputs["scores"].shape == answer.outputs["logits"].shape
    assert not asked.idle.waits


def test_each_of_a_shared_run_is_kept_by_its_id_with_its_own_logits(place: Workplace, tmp_path: Path) -> None:
    asked, model = Asked(), place.models.get("m")
    log = DecisionLog(tmp_path / "state", 1 << 20, gather_s=1e6)
    keep = _keeper(log)
    xs = [RNG.normal(size=(1 + i, 4)).astype(np.float32) for i in range(3)]
    for x in xs:
        asked.take(model, x, ("scores",))
    asked.idle.do()
    assert runs(place, "m")[0] == 1
    for i, answer in enumerate(asked.answers):
        keep(model, f"{i}", 0, answer, True)
    log.flush()
    alone = OnnxSession(model.bundle.model_path)
    for i, x in enumerate(xs):
        (found,) = log.find("m", f"{i}", [(row, -1) for row in range(9)])
        assert found.rows == len(x)
        kept = np.array([found.logits[row, -1] for row in range(len(x))])
        np.testing.assert_allclose(kept, alone.run({"x": x})["logits"], rtol=1e-6)
    log.close()


def test_no_run_has_more_rows_than_it_may(place: Workplace) -> None:
    asked, model = Asked(), place.models.get("m")
    before, _ = runs(place, "m")
    for _ in range(20):
        asked.take(model, np.ones((1, 4), np.float32))
    asked.idle.do()
    after, _ = runs(place, "m")
    assert model.batcher.batching.max_rows == 8
    assert after - before == 3
    assert all(answer.outputs["logits"].shape[0] == 1 for answer in asked.answers)


def test_models_and_outputs_that_differ_do_not_share_a_run(place: Workplace) -> None:
    asked = Asked()
    m, other, foreign = (place.models.get(name) for name in ("m", "other", "foreign"))
    x = np.ones((1, 4), np.float32)
    asked.take(m, x)
    asked.take(m, x, ("logits",))
    asked.take(other, x)
    asked.take(foreign, x[:, :3])
    asked.take(m, x)
    asked.idle.do()
    every = ["labels", "logits", "scores"]
    assert [sorted(answer.outputs) for answer in asked.answers] == [every, ["logits"], every, every, every]
    assert [answer.outputs["logits"].shape[-1] for answer in asked.answers] == [len(m.labels)] * 3 + [2, len(m.labels)]


def test_one_that_is_wrong_hurts_nobody_beside_it(place: Workplace) -> None:
    asked, model = Asked(), place.models.get("m")
    good = RNG.normal(size=(1, 4)).astype(np.float32)
    bad = good.copy()
    bad[0, 2] = np.nan
    for x in (good, bad, good):
        asked.take(model, x)
    asked.idle.do()
    first, error, last = asked.answers
    assert isinstance(error, BadRequest)
    assert "input 'x'[0, 2]" in str(error)
    assert first.outputs["logits"].tolist() == last.outputs["logits"].tolist()


def test_what_is_asked_again_is_counted_once(place: Workplace) -> None:
    asked, model = Asked(), place.models.get("log")

    def counted() -> dict[str, float]:
        samples, series = place.samples(), 'cutpoint_invalid_scores_total{{model="log",reason="{}",version="1"}}'
        return {of: samples[series.format(of)] for of in ("nan", "infinite")}

    before = counted()
    for x in (1.0, -1.0, 0.0, 2.0):  # of which the second gives NaN, the third -inf
        asked.take(model, np.full((1, 1), x, np.float32))
    asked.idle.do()
    assert [type(answer) is BadScores for answer in asked.answers] == [False, True, False, False]
    assert {of: value - before[of] for of, value in counted().items()} == {"nan": 1, "infinite": 1}
    asked.take(model, np.zeros((2, 1), np.float32))
    asked.take(model, np.zeros((1, 1), np.float32))
    asked.idle.do()
    assert {of: value - before[of] for of, value in counted().items()} == {"nan": 1, "infinite": 4}


def test_who_cannot_be_answered_hurts_nobody_beside_it(place: Workplace, caplog: pytest.LogCaptureFixture) -> None:
    asked, model = Asked(), place.models.get("m")

    def broken(answer: Any, error: BaseException | None) -> None:
        raise RuntimeError("the caller is broken")

    good, bad = np.ones((1, 4), np.float32), np.full((1, 4), np.nan, np.float32)
    for x in (good, bad):
        for _ in range(2):
            asked.take(model, good)
            assert asked.gathering.take(model, {"x": x}, (("x", "FP32", x.shape),), ALL, broken)
            asked.take(model, good)
        asked.idle.do()
    large = np.ones((8, 4), np.float32)
    assert asked.gathering.take(model, {"x": large}, (("x", "FP32", large.shape),), ALL, broken)
    assert all(answer.outputs["logits"].shape == (1, len(model.labels)) for answer in asked.answers)
    assert caplog.text.count("an answer could not be given") == 5
    assert model.series.inflight.value == 0


def test_whoever_is_answered_may_ask_again_at_once(place: Workplace) -> None:
    asked, model = Asked(), place.models.get("m")
    x = np.ones((1, 4), np.float32)
    declared, answers, left = (("x", "FP32", x.shape),), list[Any](), [40]

    def again(answer: Any, error: BaseException | None) -> None:
        answers.append(answer)
        if left[0]:
            left[0] -= 1
            assert asked.gathering.take(model, {"x": x}, declared, ALL, again)

    for _ in range(20):  # more than a run may have
        assert asked.gathering.take(model, {"x": x}, declared, ALL, again)
    while asked.idle.waits:
        asked.idle.do()
    assert len(answers) == 60 and None not in answers


def test_requests_are_in_flight_until_they_are_answered(place: Workplace) -> None:
    asked, model = Asked(), place.models.get("m")
    name = 'cutpoint_inflight_requests{model="m"}'
    seen = []

    def answered(answer: Any, error: BaseException | None) -> None:
        seen.append(place.samples()[name])

    x, bad = np.ones((1, 4), np.float32), np.full((1, 4), np.nan, np.float32)
    for i, each in enumerate((x, bad, x)):
        assert asked.gathering.take(model, {"x": each}, (("x", "FP32", x.shape),), ALL, answered)
        assert place.samples()[name] == i + 1
    asked.idle.do()
    assert seen == [2, 1, 0], "one by one, since they failed together"
    asked.take(model, x)
    asked.take(model, x)
    assert place.samples()[name] == 2
    asked.idle.do()
    assert place.samples()[name] == 0


def test_what_is_large_fills_a_run_or_comes_from_another_thread_runs_alone_and_at_once(place: Workplace) -> None:
    asked, model = Asked(), place.models.get("m")
    asked.take(model, np.ones((8, 4), np.float32))  # as many rows as a run may have
    assert asked.answers[0].outputs["logits"].shape[0] == 8
    elsewhere = Asked()
    elsewhere.idle = Idle()  # of a thread that does not serve
    elsewhere.gathering = Gathering(elsewhere.idle)
    elsewhere.take(model, np.ones((1, 4), np.float32))
    assert elsewhere.answers[0] is not None
    assert not elsewhere.idle.waits and not asked.idle.waits


def test_what_is_not_quick_is_not_taken(place: Workplace) -> None:
    asked, model = Asked(), place.models.get("m")
    model.batcher.learn(1, 1.0)
    x = np.ones((1, 4), np.float32)
    assert not asked.gathering.take(model, {"x": x}, (("x", "FP32", x.shape),), ALL, lambda answer, error: None)
