"""The synchronous client."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from cutpoint.calibration.policy import Policy
from cutpoint.errors import Unavailable
from cutpoint.oip import inference_pb2 as oip
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.v1 import outcome_pb2
from numpy.typing import ArrayLike

from . import calibration, methods, outcome_stream, outcomes, signals, streaming
from .connection import Channel, Connection
from .inference import Asked
from .outcomes import FromOutcomes, Outcomes, OutcomeSummary, Reported, Sampling
from .results import Calibration, PolicySummary, Scores

TIMEOUT_S = 60.0


class Client:
    """Scores arrays and manages policies. Thread-safe; use it as a context manager, or call `close`.

    Every call takes `timeout_s`, its deadline with all its retries (default: the client's), and raises errors of
    `cutpoint.errors`: the class that the server raised, `Unavailable` where it cannot be reached, `DeadlineExceeded` where time
    ran out.
    """

    def __init__(
        self,
        target: str | Sequence[str] = "127.0.0.1:8001",
        connection: Connection | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Connect lazily.

        Args:
            target: "host:port", or a list of them, or "dns:///name:port" for all addresses of a name. Of several servers each
                gets a call in turn; one that is down is left out until it is back. Names in a list are looked up once, now.
            connection: TLS, token, retries and the rest.
            timeout_s: deadline of calls that are given none.
            credentials: gRPC's own, as `Connection.credentials`.

        Raises:
            BadConfig: a setting that cannot be, or a token that would be sent to another machine without TLS.
            Unavailable: a name in a list is not known.
        """
        self._channel = Channel(grpc, target, Connection.of(connection, credentials), timeout_s)
        self._closed = threading.Event()

    @property
    def target(self) -> str:
        """The servers, as they were given."""
        return str(self._channel.servers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._closed.set()
        self._channel.close()

    def ready(self, *, timeout_s: float | None = None) -> bool:
        """Whether the server, or the one of several that is asked, is ready; raises Unavailable where there is none."""
        return bool(self._call(methods.SERVER_READY, oip.ServerReadyRequest(), timeout_s).ready)

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until there is a server; DeadlineExceeded where there is none in time, Unavailable where it is stopping."""
        if not self._call(methods.SERVER_READY, oip.ServerReadyRequest(), timeout_s, wait_for_ready=True).ready:
            raise Unavailable(f"server {self.target} is not ready: it is starting or stopping")

    def score(
        self,
        model: str,
        x: ArrayLike,
        *,
        version: str | int = "",
        input_name: str = "x",
        outputs: Sequence[str] = (),
        priority: int = 0,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Scores:
        """Score rows and get the decisions on them.

        Args:
            model: name.
            x: [row, ...] numbers, sent as float32; split into several requests where it is large. An array, lists, a pandas
                frame, or a torch tensor in the processor's memory.
            version: empty for the server's default.
            input_name: the graph's input; "x" in bundles that Cutpoint exported.
            outputs: which of "logits", "scores", "decisions" and "labels" to send back; empty for all. A decision is counted
                in the server's metrics when it is asked for.
            priority: among waiting requests smaller ones go first; give what can wait a larger one.
            request_id: sent with each request, and back; the server keeps what it decided under it, for `report_outcomes`.
            timeout_s: deadline of each request.

        Raises:
            BadInput: `x` is not numbers, a frame lacks some, or a tensor is on another device.
            BadRequest: `x` does not fit the model or holds NaN.
            ModelNotFound: no such model or version.
            NotCalibrated: "decisions" were asked of a model without a policy.
            Conflict: the policy changed between two requests of a large array; score it again.
        """
        asked = Asked(model, version, input_name, outputs, priority, request_id)
        answers = []
        for part in asked.parts(x):
            with part.named():
                answers.append(self._call(methods.MODEL_INFER, part, timeout_s))
        return asked.scores_of(answers)

    def stream(
        self,
        model: str,
        batches: Iterable[ArrayLike],
        *,
        version: str | int = "",
        input_name: str = "x",
        outputs: Sequence[str] = (),
        priority: int = 0,
        request_id: str = "",
        most_in_flight: int = streaming.IN_FLIGHT,
        timeout_s: float | None = None,
    ) -> Iterator[Scores]:
        """Score batches one after the other over one stream; their scores come in the same order.

        Rows are sent in the messages, with `Connection.shared_memory` too.

        The first batch is read when the first scores are asked for; from then on they are read in a thread of their own, at
        most `most_in_flight` ahead of the scores. Leaving the loop ends the stream.

        Args:
            model: name.
            batches: arrays as `score` takes them, each sent as one request; without end, if you like. What this raises is
                raised here, after the scores of the batches before.
            version: empty for the server's default.
            input_name: as for `score`.
            outputs: as for `score`.
            priority: as for `score`.
            request_id: under which the server keeps what it decided, for `report_outcomes`; rows are counted over all batches.
                Empty to keep nothing.
            most_in_flight: how many batches may be without an answer.
            timeout_s: deadline of the whole stream; none by default.

        Raises:
            CutpointError: as for `score`, "batch 3: ..." where the fault is in one, counted from 0. It ends the stream; nothing
                is sent twice.
        """
        asked = Asked(model, version, input_name, outputs, priority, request_id)
        requests = streaming.Requests(asked, batches, most_in_flight)
        return self._stream(requests, streaming.Answers(asked), timeout_s)

    def _stream(self, requests: streaming.Requests, answers: streaming.Answers, timeout_s: float | None) -> Iterator[Scores]:
        method, call = methods.MODEL_STREAM_INFER, None
        try:
            with streaming.naming(lambda: answers.given), self._channel.errors(method):
                call = self._channel.on(method)(iter(requests), timeout=timeout_s, metadata=self._channel.metadata())
                for message in call:
                    for scores in answers.of(message):
                        requests.answered()
                        yield scores
            streaming.finish(requests, answers)
        finally:
            requests.close()
            if call is not None:
                call.cancel()

    def stream_signal(
        self,
        model: str,
        chunks: Iterable[ArrayLike],
        *,
        version: str | int = "",
        rate_hz: float | None = None,
        start_s: float = 0.0,
        labels: Sequence[str] = (),
        events: signals.Events | None = None,
        events_only: bool = False,
        sequence_windows: int | None = None,
        scale: float | None = None,
        offset: float = 0.0,
        timeout_s: float | None = None,
    ) -> Iterator[signals.SignalPart]:
        """Score a signal as it comes: every window once, in order, as soon as it is certain, and events.

        What comes back is that of scoring the whole recording at once, however it is cut into chunks: first a `SignalOpened`,
        then `SignalWindows`, last a `SignalSummary`. Chunks are read in a thread of gRPC's, as fast as the server takes them.
        Leaving the loop ends the signal.

        Args:
            model: name, of a model of windows.
            chunks: [sample] or [sample, channel] numbers, of any length, sent as float32; without end, if you like. What this
                raises is raised here.
            version: empty for the server's default when the signal begins.
            rate_hz: of the samples; None for the model's. Another rate is resampled by the server.
            start_s: when the first sample was taken, on any clock; times of windows and events are on the same.
            labels: whose results are wanted; empty for all.
            events: how positive windows are joined to events; None for no events.
            events_only: send back no windows.
            sequence_windows: score sequences of so many windows, each for itself; None for the context that the model needs,
                where that is known, else sequences as it takes or was trained on.
            scale: send whole numbers of 16 bits, half as many bytes; a value is scale * number + offset.
            offset: with `scale`.
            timeout_s: deadline of the whole signal; none by default.

        Raises:
            BadInput: a setting or a chunk does not fit, or a sample is NaN; the message names it. It ends the signal.
            ModelNotFound: no such model or version.
            NotCalibrated: `events_only` of a model without a policy.
            Unavailable: the server stops, or cannot be reached; nothing is sent twice.
        """
        asked = signals.SignalAsked(
            model, version, rate_hz=rate_hz, start_s=start_s, labels=labels, events=events, events_only=events_only,
            sequence_windows=sequence_windows, scale=scale, offset=offset,
        )  # fmt: skip
        return signals.stream_signal(self._channel, asked, chunks, timeout_s)

    def calibrate(
        self,
        model: str,
        objective: str | Sequence[str],
        *,
        targets: ArrayLike | None = None,
        inputs: ArrayLike | None = None,
        logits: ArrayLike | None = None,
        histograms: Sequence[bytes] = (),
        from_outcomes: FromOutcomes | None = None,
        weights: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        delta: float | None = None,
        simultaneous: bool = False,
        by_group: bool = False,
        calibrator: str = "auto",
        min_positives: int = 0,
        shrink: float = 0.0,
        fallback: str = "none",
        version: str | int = "",
        author: str = "",
        activate: bool = True,
        allow_undecided: bool = False,
        timeout_s: float | None = None,
    ) -> Calibration:
        """Choose new thresholds from labelled data. When it returns, the policy is on the server's disk.

        Args:
            model: name.
            objective: `name=value`, see `cutpoint.calibration.OBJECTIVES`; or several, one for all labels and others written
                `label:name=value`.
            targets: [row, ..., label], or [row] for one label: 0, 1, and -1, 255 or NaN for not labelled. None where no classes
                are known: enough for `alert_rate_at_most`.
            inputs: [row, ...] to be scored by the server; or
            logits: [row, ..., label], scored before; or
            histograms: bytes of `ScoreHistogram.to_bytes()`, from any number of machines; or
            from_outcomes: the outcomes that the server keeps, `FromOutcomes()` for all of them: nothing is sent.
            weights: [row], how many rows each stands for.
            groups: [row] integers or text: rows of one group are not independent of each other.
            delta: asks for a guarantee: bounds that hold for new data but with this probability.
            simultaneous: delta is for all labels at once.
            by_group: the guarantee counts groups, not rows.
            calibrator: of probabilities: auto, none, temperature, platt, beta, isotonic or venn_abers.
            min_positives: labels with fewer labelled positives (or 1, where the objective needs labels) get no threshold.
            shrink: moves thresholds of labels with few positives towards the pooled one, see `cutpoint.calibration.Plan`.
            fallback: what labels with too little data get: none, the pooled threshold, or that of the previous policy.
            version: of the model; empty for the server's default.
            author: who asks, for the record.
            activate: whether the policy decides from now on.
            allow_undecided: activate even if some labels got no threshold; those then decide nothing. Without it such a policy
                is stored and not activated, and the answer says so.
            timeout_s: deadline of the whole call.

        Raises:
            BadInput: an unknown objective, or arrays that do not fit.
            Uncalibratable: no label can get a threshold; the message says why, per label.
            Conflict: somebody else activated a policy meanwhile; nothing was stored.
        """
        header = calibration.calibrate_header(
            model, version, objective, delta=delta, simultaneous=simultaneous, by_group=by_group, calibrator=calibrator,
            min_positives=min_positives, shrink=shrink, fallback=fallback, author=author, activate=activate,
            allow_undecided=allow_undecided,
        )  # fmt: skip
        labelled = calibration.Labelled(targets, inputs, logits, histograms, weights, groups, from_outcomes)
        requests = calibration.calibrate_requests(header, labelled)
        return calibration.calibration_of(self._call(methods.CALIBRATE, requests, timeout_s))

    def policies(self, model: str, *, version: str | int = "", timeout_s: float | None = None) -> list[PolicySummary]:
        """The policies of a model, newest first."""
        request = v1.ListPoliciesRequest(model=model, model_version=str(version))
        return [calibration.summary_of(m) for m in self._call(methods.LIST_POLICIES, request, timeout_s).policies]

    def policy(self, model: str, policy_version: int = 0, *, version: str | int = "", timeout_s: float | None = None) -> Policy:
        """One policy, by default the active one; PolicyNotFound where there is none."""
        request = v1.GetPolicyRequest(
            model=model, model_version=str(version), version=calibration.whole_number("policy_version", policy_version, 0)
        )
        return calibration.policy_of(self._call(methods.GET_POLICY, request, timeout_s).policy)

    def activate(
        self,
        model: str,
        policy_version: int,
        *,
        expected_active: int | None = None,
        version: str | int = "",
        timeout_s: float | None = None,
    ) -> int:
        """Make a policy the active one, an older one to roll back; returns the version that was active before (0 for none).

        Raises:
            Conflict: another policy than `expected_active` is active; nothing changed.
            PolicyNotFound: no such policy.
        """
        request = v1.ActivatePolicyRequest(
            model=model,
            model_version=str(version),
            version=calibration.whole_number("policy_version", policy_version, 1),
            expected_active=expected_active,
        )
        return int(self._call(methods.ACTIVATE_POLICY, request, timeout_s).previous)

    def report_outcomes(
        self,
        model: str,
        targets: ArrayLike,
        *,
        sampling: Sampling,
        probability: float | None = None,
        request_id: str | Sequence[str] | None = None,
        rows: ArrayLike | None = None,
        windows: ArrayLike | None = None,
        keys: Sequence[str] | None = None,
        logits: ArrayLike | None = None,
        labels: Sequence[str] = (),
        policy_version: int = 0,
        times_s: ArrayLike | None = None,
        version: str | int = "",
        replace: bool = False,
        timeout_s: float | None = None,
    ) -> Reported:
        """Tell the server what became of its decisions. When it returns, the server has it on disk.

        Safe to repeat, and repeated by itself where an answer was lost: each label of a decision is counted once. Sent in
        messages of 1000; of an error, those before it are taken, and it says how many.

        Args:
            model: name.
            targets: [outcome] for one label, or [outcome, label]: 0, 1, and -1, 255 or NaN for not known, which may follow. Of
                whole rows of windows [row, window, label].
            sampling: how the decisions came to be looked at: "all" of them, those that "alerted", at "random" whatever was
                decided, "alerted_and_random": all alerts and some of the rest, or "unknown". Recall and thresholds come from
                what is known of misses: not from "alerted" and "unknown".
            probability: with which each was drawn, for the two that are random; of the second those that did not alert.
            request_id: that they were scored with, one for all or one for each; or
            keys: the caller's own name for each, by which it is counted once, with `logits`.
            rows: [outcome] row of what was scored, from 0; None for 0, 1, 2 ... of one request, or the only row of several.
            windows: [outcome] window of the row, of models of windows.
            logits: [outcome, label], or [outcome] for one label, as they were answered; NaN where one is not kept.
            labels: whose targets they are; empty for all of the model's, in its order.
            policy_version: that decided, with `logits`; 0 for the one that is active now.
            times_s: when it was decided, seconds since 1970, with `logits`; None for now.
            version: of the model; empty for whichever decided, or with `logits` the server's default.
            replace: take another outcome of a decision in place of the one that is kept, which else is a conflict.
            timeout_s: deadline of each message.

        Returns:
            How many were taken, and those that fit no decision, each with a reason.

        Raises:
            BadInput: what is given does not fit together, or not the model.
            ModelNotFound: no such model or version.
        """
        asked = outcomes.Asked(model, str(version), sampling, probability, replace)
        given = Outcomes(targets, request_id, rows, windows, keys, logits, labels, policy_version, times_s)
        reported = Reported()
        for message, of in asked.messages(given):
            with outcomes.naming(of, reported):
                reported.add(self._call(methods.REPORT_OUTCOMES, message, timeout_s), of)
        return reported

    def stream_outcomes(
        self,
        model: str,
        batches: Iterable[Outcomes],
        *,
        sampling: Sampling,
        probability: float | None = None,
        version: str | int = "",
        replace: bool = False,
        timeout_s: float | None = None,
    ) -> Iterator[Reported]:
        """Tell the server what became of decisions as it comes to be known, over one stream.

        Each batch is answered, in order, when the server has it on disk. Batches are read in a thread of gRPC's, as fast as the
        server takes them. Leaving the loop ends the stream; nothing is sent twice, but what was not answered may be.

        Args:
            model: name.
            batches: without end, if you like. What this raises is raised here.
            sampling: as for `report_outcomes`, as are the rest.
            probability: with which each was drawn.
            version: of the model.
            replace: correct what is kept otherwise.
            timeout_s: deadline of the whole stream; none by default.

        Raises:
            CutpointError: as for `report_outcomes`. It ends the stream; what was answered before it stays.
        """
        asked = outcomes.Asked(model, str(version), sampling, probability, replace)
        return outcome_stream.stream(self._channel, asked, batches, timeout_s)

    def outcome_summary(
        self,
        model: str,
        *,
        version: str | int = "",
        since_s: float | None = None,
        until_s: float | None = None,
        timeout_s: float | None = None,
    ) -> OutcomeSummary:
        """What the outcomes say that the server keeps: counts by label, confirmed precision and recall.

        Args:
            model: name.
            version: empty for the server's default.
            since_s: of decisions from this time on, seconds since 1970; None for all.
            until_s: and before this one.
            timeout_s: deadline of the call.

        Raises:
            ModelNotFound: no such model or version.
        """
        request = outcome_pb2.GetOutcomeSummaryRequest(
            model=model, model_version=str(version), since_s=since_s, until_s=until_s
        )
        return outcomes.summary_of(self._call(methods.GET_OUTCOME_SUMMARY, request, timeout_s))

    def _call(self, method: methods.Method, request: Any, timeout_s: float | None, wait_for_ready: bool = False) -> Any:
        for attempt in self._channel.attempts(method, timeout_s):
            with attempt:
                return self._channel.on(method)(
                    request, timeout=attempt.timeout_s, metadata=self._channel.metadata(), wait_for_ready=wait_for_ready
                )
            self._closed.wait(attempt.delay_s)
        raise AssertionError("attempts end with an answer or an error")
