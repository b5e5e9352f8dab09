"""Profiles made by hand."""

from typing import Any

from cutpoint.bundle import Busy, Computation, Detection, Idle, Measured, Profile, Way
from cutpoint.server.serving.profiled import this_machine


def profile(digest: str, computation: Computation | None = None, way: Way | None = None, **fields: Any) -> Profile:
    """A profile of this machine for the graph of `digest`."""
    computation, way = computation or Computation(), way or Way(lanes=1)
    measured = Measured(
        callers=16, request_rows=1, valid_rows=10, ap_loss_allowed=0.002,
        detection=(
            Detection(
                computation=computation, average_precision=0.9, reference=0.9, loss=0, max_abs_difference=0, batch_difference=0,
                changed=0,
            ),
        ),
        busy=(Busy(computation=computation, way=way, rows_per_s=(100.0,)),),
        idle=(Idle(computation=computation, wide=False, p50_ms=(5.0,)),),
    )  # fmt: skip
    given: dict[str, Any] = {
        "graph_digest": digest, "machine": this_machine(), "computation": computation, "way": way, "measured": measured,
        "reason": "by hand",
    }  # fmt: skip
    return Profile.model_validate({**given, **fields})
