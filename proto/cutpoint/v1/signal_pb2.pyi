from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SignalRequest(_message.Message):
    __slots__ = ("header", "chunk", "channels")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    header: SignalHeader
    chunk: bytes
    channels: int
    def __init__(self, header: _Optional[_Union[SignalHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ..., channels: _Optional[int] = ...) -> None: ...

class SignalHeader(_message.Message):
    __slots__ = ("model", "model_version", "rate_hz", "channels", "datatype", "scale", "offset", "start_s", "sequence_windows", "labels", "events", "events_only")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    START_S_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_WINDOWS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_ONLY_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: str
    rate_hz: float
    channels: int
    datatype: str
    scale: float
    offset: float
    start_s: float
    sequence_windows: int
    labels: _containers.RepeatedScalarFieldContainer[str]
    events: SignalEvents
    events_only: bool
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[str] = ..., rate_hz: _Optional[float] = ..., channels: _Optional[int] = ..., datatype: _Optional[str] = ..., scale: _Optional[float] = ..., offset: _Optional[float] = ..., start_s: _Optional[float] = ..., sequence_windows: _Optional[int] = ..., labels: _Optional[_Iterable[str]] = ..., events: _Optional[_Union[SignalEvents, _Mapping]] = ..., events_only: bool = ...) -> None: ...

class SignalEvents(_message.Message):
    __slots__ = ("hysteresis", "min_duration_s", "join_gap_s")
    HYSTERESIS_FIELD_NUMBER: _ClassVar[int]
    MIN_DURATION_S_FIELD_NUMBER: _ClassVar[int]
    JOIN_GAP_S_FIELD_NUMBER: _ClassVar[int]
    hysteresis: float
    min_duration_s: float
    join_gap_s: float
    def __init__(self, hysteresis: _Optional[float] = ..., min_duration_s: _Optional[float] = ..., join_gap_s: _Optional[float] = ...) -> None: ...

class SignalResponse(_message.Message):
    __slots__ = ("opened", "results", "summary")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    opened: SignalOpened
    results: SignalResults
    summary: SignalSummary
    def __init__(self, opened: _Optional[_Union[SignalOpened, _Mapping]] = ..., results: _Optional[_Union[SignalResults, _Mapping]] = ..., summary: _Optional[_Union[SignalSummary, _Mapping]] = ...) -> None: ...

class SignalOpened(_message.Message):
    __slots__ = ("model", "model_version", "labels", "window_s", "window_samples", "rate_hz", "context", "sequence_windows", "resampled_up", "resampled_down", "policy_version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    WINDOW_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_WINDOWS_FIELD_NUMBER: _ClassVar[int]
    RESAMPLED_UP_FIELD_NUMBER: _ClassVar[int]
    RESAMPLED_DOWN_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    window_s: float
    window_samples: int
    rate_hz: float
    context: int
    sequence_windows: int
    resampled_up: int
    resampled_down: int
    policy_version: int
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., window_s: _Optional[float] = ..., window_samples: _Optional[int] = ..., rate_hz: _Optional[float] = ..., context: _Optional[int] = ..., sequence_windows: _Optional[int] = ..., resampled_up: _Optional[int] = ..., resampled_down: _Optional[int] = ..., policy_version: _Optional[int] = ...) -> None: ...

class SignalResults(_message.Message):
    __slots__ = ("first", "count", "start_s", "logits", "scores", "decisions", "policy_version", "events")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    START_S_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    start_s: float
    logits: bytes
    scores: bytes
    decisions: bytes
    policy_version: int
    events: _containers.RepeatedCompositeFieldContainer[SignalEvent]
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., start_s: _Optional[float] = ..., logits: _Optional[bytes] = ..., scores: _Optional[bytes] = ..., decisions: _Optional[bytes] = ..., policy_version: _Optional[int] = ..., events: _Optional[_Iterable[_Union[SignalEvent, _Mapping]]] = ...) -> None: ...

class SignalEvent(_message.Message):
    __slots__ = ("number", "label", "state", "first", "count", "start_s", "end_s", "peak", "peak_s", "peak_logit", "peak_score", "policy_version")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[SignalEvent.State]
        STATE_OPENED: _ClassVar[SignalEvent.State]
        STATE_CLOSED: _ClassVar[SignalEvent.State]
        STATE_CUT: _ClassVar[SignalEvent.State]
    STATE_UNSPECIFIED: SignalEvent.State
    STATE_OPENED: SignalEvent.State
    STATE_CLOSED: SignalEvent.State
    STATE_CUT: SignalEvent.State
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    START_S_FIELD_NUMBER: _ClassVar[int]
    END_S_FIELD_NUMBER: _ClassVar[int]
    PEAK_FIELD_NUMBER: _ClassVar[int]
    PEAK_S_FIELD_NUMBER: _ClassVar[int]
    PEAK_LOGIT_FIELD_NUMBER: _ClassVar[int]
    PEAK_SCORE_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    number: int
    label: str
    state: SignalEvent.State
    first: int
    count: int
    start_s: float
    end_s: float
    peak: int
    peak_s: float
    peak_logit: float
    peak_score: float
    policy_version: int
    def __init__(self, number: _Optional[int] = ..., label: _Optional[str] = ..., state: _Optional[_Union[SignalEvent.State, str]] = ..., first: _Optional[int] = ..., count: _Optional[int] = ..., start_s: _Optional[float] = ..., end_s: _Optional[float] = ..., peak: _Optional[int] = ..., peak_s: _Optional[float] = ..., peak_logit: _Optional[float] = ..., peak_score: _Optional[float] = ..., policy_version: _Optional[int] = ...) -> None: ...

class SignalSummary(_message.Message):
    __slots__ = ("samples", "windows", "left_over_samples", "left_over_s", "events")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    LEFT_OVER_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OVER_S_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    samples: int
    windows: int
    left_over_samples: int
    left_over_s: float
    events: int
    def __init__(self, samples: _Optional[int] = ..., windows: _Optional[int] = ..., left_over_samples: _Optional[int] = ..., left_over_s: _Optional[float] = ..., events: _Optional[int] = ...) -> None: ...
