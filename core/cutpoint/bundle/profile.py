"""A profile: how one graph is best run on one kind of machine, as `cutpoint tune` measured it; profile.json beside model.onnx.

It is no part of the graph: a server on another machine goes by its own settings. What a provider computes in less than float32
moves the logits, though, so the policy beside such a profile was chosen on the logits that this provider gives.
"""

import json
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

from pydantic import Field

from ..errors import BadBundle
from ..validation import Record, first_problem
from .manifest import Precision

PROFILE_FORMAT: Literal[1] = 1
PROFILE_FILE = "profile.json"

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
Hint = Literal["f32", "bf16", "f16"]
Rounds = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class Machine(Record):
    """What was measured on.

    Attributes:
        cpu: the processor's name, as the system says.
        cores: that the process may use.
        onnxruntime: its version.
        providers: that this build of onnxruntime has, by onnxruntime's names.
    """

    cpu: str
    cores: int = Field(ge=1)
    onnxruntime: str
    providers: tuple[str, ...]


class Computation(Record):
    """What computes the logits: a graph of some precision, by a provider, in what the provider was told to compute in.

    Attributes:
        graph: precision of the graph.
        provider: the server's `--provider`.
        hint: what the provider may compute a float32 graph in.
        weight_bits: of an int8 graph made here: 7, or 8 for processors with VNNI alone; None for any other graph.
    """

    graph: Precision = "fp32"
    provider: Provider = "cpu"
    hint: Hint = "f32"
    weight_bits: Literal[7, 8] | None = None

    def __str__(self) -> str:
        bits = "" if self.weight_bits is None else f" ({self.weight_bits}-bit weights)"
        return f"{self.graph}{bits}, {self.provider}" + ("" if self.hint == "f32" else f" in {self.hint}")


class Way(Record):
    """How runs share a machine that is busy.

    Attributes:
        lanes: runs at a time.
        wide: whether every run may use all cores; then there is one lane.
        max_batch_rows: rows of different callers in one run.
        queue_delay_ms: how long a request may wait for others while a lane is free.
    """

    lanes: int = Field(default=1, ge=1, le=1024)
    wide: bool = False
    max_batch_rows: int = Field(default=1, ge=1)
    queue_delay_ms: float = Field(default=0.0, ge=0, le=10_000)

    def __str__(self) -> str:
        runs = "one run on all cores" if self.wide else f"{self.lanes} lane{'s' if self.lanes > 1 else ''}"
        delay = f" after {self.queue_delay_ms:g} ms" if self.queue_delay_ms else ""
        rows = f"up to {self.max_batch_rows} rows a run" if self.max_batch_rows > 1 else "a run a request"
        return f"{runs}, {rows}{delay}"


class Busy(Record):
    """Rows a second while many callers wait, one figure a round, and the least ms of processor time that a row took."""

    computation: Computation
    way: Way
    rows_per_s: Rounds
    cpu_ms: float | None = Field(default=None, ge=0)

    @property
    def median(self) -> float:
        """Of the rounds."""
        return median(self.rows_per_s)


class Idle(Record):
    """The median ms of a request while there is one caller, one figure a round; `wide` runs use all cores."""

    computation: Computation
    wide: bool
    p50_ms: Rounds

    @property
    def median(self) -> float:
        """Of the rounds."""
        return median(self.p50_ms)


class Detection(Record):
    """What a computation costs in detection, against the reference on the same rows.

    Attributes:
        average_precision, reference: mean over the labels with positives, 0 to 1.
        loss: the latter less the former.
        low, high: 95 % interval of the loss, both on the same draws; None where there are too few positives.
        max_abs_difference: largest difference of a logit.
        batch_difference: largest difference of a logit between a row alone and in a batch.
        changed: share of the decisions that are others, each by its own policy, 0 to 1.
        refused: why it may not be served; empty where it may.
    """

    computation: Computation
    average_precision: float = Field(ge=0, le=1)
    reference: float = Field(ge=0, le=1)
    loss: float
    low: float | None = None
    high: float | None = None
    max_abs_difference: float = Field(ge=0)
    batch_difference: float = Field(ge=0)
    changed: float = Field(ge=0, le=1)
    refused: str = ""


class Absent(Record):
    """A computation that could not be measured, and why."""

    computation: Computation
    why: str


class Measured(Record):
    """The whole table.

    Attributes:
        callers: that waited at a time in the busy figures.
        request_rows: rows of each request.
        valid_rows: rows that detection was measured on.
        ap_loss_allowed: what average precision might lose.
        busy, idle: in rounds that took turns; what was given up after a first look has fewer of them.
    """

    callers: int = Field(ge=1)
    request_rows: int = Field(ge=1)
    valid_rows: int = Field(ge=1)
    ap_loss_allowed: float = Field(ge=0)
    detection: tuple[Detection, ...] = Field(min_length=1)
    busy: tuple[Busy, ...] = Field(min_length=1)
    idle: tuple[Idle, ...] = Field(min_length=1)
    absent: tuple[Absent, ...] = ()


class Lost(Record):
    """What was not chosen, and why."""

    what: str
    why: str


class Profile(Record):
    """How a graph is to be run, and what that was chosen from.

    Attributes:
        graph_digest: of the bundle that it was measured for; it fits no other.
        wide_threads: cores of a run that has the machine to itself; 1 where more of them did not pay.
        batch_sizes: numbers of rows that runs are padded to; empty for none.
        measured: the table.
        reason: of the choice, for a person.
        lost: what else was measured, and why it was not chosen.
    """

    format: Literal[1] = PROFILE_FORMAT
    graph_digest: str
    machine: Machine
    computation: Computation
    way: Way
    wide_threads: int = Field(default=1, ge=1, le=1024)
    batch_sizes: tuple[int, ...] = ()
    measured: Measured
    reason: str
    lost: tuple[Lost, ...] = ()

    def to_json(self) -> str:
        """The document, indented, ending in a newline."""
        return self.model_dump_json(indent=1) + "\n"


def read_profile(folder: Path, graph_digest: str) -> Profile | None:
    """The profile of the bundle in `folder`; None where it has none.

    Args:
        folder: a version's.
        graph_digest: `Bundle.digest` of what is in it.

    Raises:
        BadBundle: the file cannot be read, is of another format, or was measured for another graph.
    """
    file = folder / PROFILE_FILE
    if not file.exists():
        return None
    try:
        document = json.loads(file.read_bytes())
        if isinstance(document, dict) and document.get("format") != PROFILE_FORMAT:
            raise BadBundle.of(f"{file}: format", document.get("format"), f"{PROFILE_FORMAT}, which this version reads")
        profile = Profile.model_validate(document)
    except BadBundle:
        raise
    except (OSError, ValueError) as error:
        raise BadBundle(f"{file}: {first_problem(error)}") from error
    if profile.graph_digest != graph_digest:
        raise BadBundle(
            f"{file} was measured for another graph (SHA-256 {profile.graph_digest[:12]}..., this one has "
            f"{graph_digest[:12]}...); tune this one, or delete the file"
        )
    return profile
