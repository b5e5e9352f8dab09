"""The synchronous client."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from cutpoint.calibration.policy import Policy
from cutpoint.errors import Unavailable
from cutpoint.oip import inference_pb2 as oip
from cutpoint.v1 import calibration_pb2 as v1
from numpy.typing import ArrayLike

from . import messages, methods
from .results import Calibration, PolicySummary, Scores

TIMEOUT_S = 60.0


class Client:
    """Scores arrays and manages policies on one server. Thread-safe; use it as a context manager, or call `close`.

    Every call takes `timeout_s`, its deadline (default: the client's), and raises errors of `cutpoint.errors`: the class that
    the server raised, `Unavailable` where it cannot be reached, `DeadlineExceeded` where time ran out.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:8001",
        *,
        timeout_s: float = TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Connect lazily to `target`, "host:port"; with `credentials`, over TLS."""
        self.target = target
        self._timeout_s = timeout_s
        self._channel = (
            grpc.secure_channel(target, credentials, methods.OPTIONS)
            if credentials is not None
            else grpc.insecure_channel(target, methods.OPTIONS)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def ready(self, *, timeout_s: float | None = None) -> bool:
        """Whether the server is ready; raises Unavailable where there is none."""
        return bool(self._call(methods.SERVER_READY, oip.ServerReadyRequest(), timeout_s).ready)

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until there is a server; DeadlineExceeded where there is none in time, Unavailable where it is stopping."""
        if not self._call(methods.SERVER_READY, oip.ServerReadyRequest(), timeout_s, wait_for_ready=True).ready:
            raise Unavailable(f"server {self.target} is not ready: it is starting or stopping")

    def score(
        self, model: str, x: ArrayLike, *, version: str | int = "", input_name: str = "x", timeout_s: float | None = None
    ) -> Scores:
        """Score rows and get the decisions on them.

        Args:
            model: name.
            x: [row, ...] numbers, sent as float32; split into several requests where it is large.
            version: empty for the highest.
            input_name: the graph's input; "x" in bundles that Cutpoint exported.
            timeout_s: deadline of each request.

        Raises:
            BadRequest: `x` does not fit the model or holds NaN.
            ModelNotFound: no such model or version.
            Conflict: the policy changed between two requests of a large array; score it again.
        """
        answers = []
        for part in messages.infer_parts(model, x, version, input_name):
            with part.named():
                answers.append(self._call(methods.MODEL_INFER, part.request, timeout_s))
        return messages.scores_of(answers)

    def calibrate(
        self,
        model: str,
        objective: str | Sequence[str],
        *,
        targets: ArrayLike | None = None,
        inputs: ArrayLike | None = None,
        logits: ArrayLike | None = None,
        histograms: Sequence[bytes] = (),
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
            histograms: bytes of `ScoreHistogram.to_bytes()`, from any number of machines.
            weights: [row], how many rows each stands for.
            groups: [row] integers or text: rows of one group are not independent of each other.
            delta: asks for a guarantee: bounds that hold for new data but with this probability.
            simultaneous: delta is for all labels at once.
            by_group: the guarantee counts groups, not rows.
            calibrator: of probabilities: auto, none, temperature, platt, beta, isotonic or venn_abers.
            min_positives: labels with fewer labelled positives (or 1, where the objective needs labels) get no threshold.
            shrink: moves thresholds of labels with few positives towards the pooled one, see `cutpoint.calibration.Plan`.
            fallback: what labels with too little data get: none, the pooled threshold, or that of the previous policy.
            version: of the model; empty for the highest.
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
        header = messages.calibrate_header(
            model, version, objective, delta=delta, simultaneous=simultaneous, by_group=by_group, calibrator=calibrator,
            min_positives=min_positives, shrink=shrink, fallback=fallback, author=author, activate=activate,
            allow_undecided=allow_undecided,
        )  # fmt: skip
        labelled = messages.Labelled(targets, inputs, logits, histograms, weights, groups)
        requests = messages.calibrate_requests(header, labelled)
        return messages.calibration_of(self._call(methods.CALIBRATE, requests, timeout_s))

    def policies(self, model: str, *, version: str | int = "", timeout_s: float | None = None) -> list[PolicySummary]:
        """The policies of a model, newest first."""
        request = v1.ListPoliciesRequest(model=model, model_version=str(version))
        return [messages.summary_of(m) for m in self._call(methods.LIST_POLICIES, request, timeout_s).policies]

    def policy(self, model: str, policy_version: int = 0, *, version: str | int = "", timeout_s: float | None = None) -> Policy:
        """One policy, by default the active one; PolicyNotFound where there is none."""
        request = v1.GetPolicyRequest(
            model=model, model_version=str(version), version=messages.whole_number("policy_version", policy_version, 0)
        )
        return messages.policy_of(self._call(methods.GET_POLICY, request, timeout_s).policy)

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
            version=messages.whole_number("policy_version", policy_version, 1),
            expected_active=expected_active,
        )
        return int(self._call(methods.ACTIVATE_POLICY, request, timeout_s).previous)

    def _call(self, method: methods.Method, request: Any, timeout_s: float | None, wait_for_ready: bool = False) -> Any:
        with methods.typed_errors(self.target):
            call = method.on(self._channel)
            return call(request, timeout=self._timeout_s if timeout_s is None else timeout_s, wait_for_ready=wait_for_ready)
