from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Sampling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SAMPLING_UNKNOWN: _ClassVar[Sampling]
    SAMPLING_ALL: _ClassVar[Sampling]
    SAMPLING_ALERTED: _ClassVar[Sampling]
    SAMPLING_RANDOM: _ClassVar[Sampling]
    SAMPLING_ALERTED_AND_RANDOM: _ClassVar[Sampling]
SAMPLING_UNKNOWN: Sampling
SAMPLING_ALL: Sampling
SAMPLING_ALERTED: Sampling
SAMPLING_RANDOM: Sampling
SAMPLING_ALERTED_AND_RANDOM: Sampling

class ReportOutcomesRequest(_message.Message):
    __slots__ = ("model", "model_version", "outcomes", "sampling", "probability", "replace")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: str
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    sampling: Sampling
    probability: float
    replace: bool
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[str] = ..., outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ..., sampling: _Optional[_Union[Sampling, str]] = ..., probability: _Optional[float] = ..., replace: bool = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("requested", "scored", "positive", "negative", "targets")
    REQUESTED_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    POSITIVE_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    requested: Requested
    scored: Scored
    positive: _containers.RepeatedScalarFieldContainer[str]
    negative: _containers.RepeatedScalarFieldContainer[str]
    targets: bytes
    def __init__(self, requested: _Optional[_Union[Requested, _Mapping]] = ..., scored: _Optional[_Union[Scored, _Mapping]] = ..., positive: _Optional[_Iterable[str]] = ..., negative: _Optional[_Iterable[str]] = ..., targets: _Optional[bytes] = ...) -> None: ...

class Requested(_message.Message):
    __slots__ = ("request_id", "row", "window", "only_row")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    ONLY_ROW_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    row: int
    window: int
    only_row: bool
    def __init__(self, request_id: _Optional[str] = ..., row: _Optional[int] = ..., window: _Optional[int] = ..., only_row: bool = ...) -> None: ...

class Scored(_message.Message):
    __slots__ = ("key", "logits", "policy_version", "time_s")
    KEY_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    key: str
    logits: _containers.RepeatedScalarFieldContainer[float]
    policy_version: int
    time_s: float
    def __init__(self, key: _Optional[str] = ..., logits: _Optional[_Iterable[float]] = ..., policy_version: _Optional[int] = ..., time_s: _Optional[float] = ...) -> None: ...

class ReportOutcomesResponse(_message.Message):
    __slots__ = ("taken", "repeated", "corrected", "unmatched", "unmatched_reasons")
    class UnmatchedReasonsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    REPEATED_FIELD_NUMBER: _ClassVar[int]
    CORRECTED_FIELD_NUMBER: _ClassVar[int]
    UNMATCHED_FIELD_NUMBER: _ClassVar[int]
    UNMATCHED_REASONS_FIELD_NUMBER: _ClassVar[int]
    taken: int
    repeated: int
    corrected: int
    unmatched: _containers.RepeatedCompositeFieldContainer[Unmatched]
    unmatched_reasons: _containers.ScalarMap[str, int]
    def __init__(self, taken: _Optional[int] = ..., repeated: _Optional[int] = ..., corrected: _Optional[int] = ..., unmatched: _Optional[_Iterable[_Union[Unmatched, _Mapping]]] = ..., unmatched_reasons: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Unmatched(_message.Message):
    __slots__ = ("outcome", "reason", "text")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    outcome: int
    reason: str
    text: str
    def __init__(self, outcome: _Optional[int] = ..., reason: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class GetOutcomeSummaryRequest(_message.Message):
    __slots__ = ("model", "model_version", "since_s", "until_s")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    UNTIL_S_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: str
    since_s: float
    until_s: float
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[str] = ..., since_s: _Optional[float] = ..., until_s: _Optional[float] = ...) -> None: ...

class GetOutcomeSummaryResponse(_message.Message):
    __slots__ = ("model", "model_version", "rows", "labels")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: str
    rows: int
    labels: _containers.RepeatedCompositeFieldContainer[LabelOutcomes]
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[str] = ..., rows: _Optional[int] = ..., labels: _Optional[_Iterable[_Union[LabelOutcomes, _Mapping]]] = ...) -> None: ...

class LabelOutcomes(_message.Message):
    __slots__ = ("label", "true_positives", "false_positives", "false_negatives", "true_negatives", "undecided_positives", "undecided_negatives", "precision", "recall", "recall_reason")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TRUE_POSITIVES_FIELD_NUMBER: _ClassVar[int]
    FALSE_POSITIVES_FIELD_NUMBER: _ClassVar[int]
    FALSE_NEGATIVES_FIELD_NUMBER: _ClassVar[int]
    TRUE_NEGATIVES_FIELD_NUMBER: _ClassVar[int]
    UNDECIDED_POSITIVES_FIELD_NUMBER: _ClassVar[int]
    UNDECIDED_NEGATIVES_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    RECALL_REASON_FIELD_NUMBER: _ClassVar[int]
    label: str
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    undecided_positives: int
    undecided_negatives: int
    precision: ConfirmedRate
    recall: ConfirmedRate
    recall_reason: str
    def __init__(self, label: _Optional[str] = ..., true_positives: _Optional[int] = ..., false_positives: _Optional[int] = ..., false_negatives: _Optional[int] = ..., true_negatives: _Optional[int] = ..., undecided_positives: _Optional[int] = ..., undecided_negatives: _Optional[int] = ..., precision: _Optional[_Union[ConfirmedRate, _Mapping]] = ..., recall: _Optional[_Union[ConfirmedRate, _Mapping]] = ..., recall_reason: _Optional[str] = ...) -> None: ...

class ConfirmedRate(_message.Message):
    __slots__ = ("value", "low", "high")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    value: float
    low: float
    high: float
    def __init__(self, value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...
