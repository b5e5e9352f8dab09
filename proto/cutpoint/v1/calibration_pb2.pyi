from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Tensor(_message.Message):
    __slots__ = ("datatype", "shape", "raw")
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    raw: bytes
    def __init__(self, datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., raw: _Optional[bytes] = ...) -> None: ...

class CalibrateRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: CalibrateHeader
    chunk: LabelledChunk
    def __init__(self, header: _Optional[_Union[CalibrateHeader, _Mapping]] = ..., chunk: _Optional[_Union[LabelledChunk, _Mapping]] = ...) -> None: ...

class CalibrateHeader(_message.Message):
    __slots__ = ("model", "model_version", "objective", "author", "min_positives", "activate", "allow_undecided", "label_objectives", "guarantee", "calibrator", "shrink", "fallback", "outcomes")
    class LabelObjectivesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    MIN_POSITIVES_FIELD_NUMBER: _ClassVar[int]
    ACTIVATE_FIELD_NUMBER: _ClassVar[int]
    ALLOW_UNDECIDED_FIELD_NUMBER: _ClassVar[int]
    LABEL_OBJECTIVES_FIELD_NUMBER: _ClassVar[int]
    GUARANTEE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATOR_FIELD_NUMBER: _ClassVar[int]
    SHRINK_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: str
    objective: str
    author: str
    min_positives: int
    activate: bool
    allow_undecided: bool
    label_objectives: _containers.ScalarMap[str, str]
    guarantee: Guarantee
    calibrator: str
    shrink: float
    fallback: str
    outcomes: KeptOutcomes
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[str] = ..., objective: _Optional[str] = ..., author: _Optional[str] = ..., min_positives: _Optional[int] = ..., activate: bool = ..., allow_undecided: bool = ..., label_objectives: _Optional[_Mapping[str, str]] = ..., guarantee: _Optional[_Union[Guarantee, _Mapping]] = ..., calibrator: _Optional[str] = ..., shrink: _Optional[float] = ..., fallback: _Optional[str] = ..., outcomes: _Optional[_Union[KeptOutcomes, _Mapping]] = ...) -> None: ...

class KeptOutcomes(_message.Message):
    __slots__ = ("since_s", "until_s", "any_sampling")
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    UNTIL_S_FIELD_NUMBER: _ClassVar[int]
    ANY_SAMPLING_FIELD_NUMBER: _ClassVar[int]
    since_s: float
    until_s: float
    any_sampling: bool
    def __init__(self, since_s: _Optional[float] = ..., until_s: _Optional[float] = ..., any_sampling: bool = ...) -> None: ...

class Guarantee(_message.Message):
    __slots__ = ("delta", "simultaneous", "by_group")
    DELTA_FIELD_NUMBER: _ClassVar[int]
    SIMULTANEOUS_FIELD_NUMBER: _ClassVar[int]
    BY_GROUP_FIELD_NUMBER: _ClassVar[int]
    delta: float
    simultaneous: bool
    by_group: bool
    def __init__(self, delta: _Optional[float] = ..., simultaneous: bool = ..., by_group: bool = ...) -> None: ...

class LabelledChunk(_message.Message):
    __slots__ = ("inputs", "logits", "histogram", "targets", "weights", "groups")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    inputs: Tensor
    logits: Tensor
    histogram: bytes
    targets: Tensor
    weights: Tensor
    groups: Tensor
    def __init__(self, inputs: _Optional[_Union[Tensor, _Mapping]] = ..., logits: _Optional[_Union[Tensor, _Mapping]] = ..., histogram: _Optional[bytes] = ..., targets: _Optional[_Union[Tensor, _Mapping]] = ..., weights: _Optional[_Union[Tensor, _Mapping]] = ..., groups: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class CalibrateResponse(_message.Message):
    __slots__ = ("policy", "activated")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ACTIVATED_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    activated: bool
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ..., activated: bool = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("model", "model_version", "version", "active", "created", "author", "objectives", "labels", "undecided_labels", "document")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    UNDECIDED_LABELS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: str
    version: int
    active: bool
    created: str
    author: str
    objectives: _containers.RepeatedScalarFieldContainer[str]
    labels: int
    undecided_labels: int
    document: str
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[str] = ..., version: _Optional[int] = ..., active: bool = ..., created: _Optional[str] = ..., author: _Optional[str] = ..., objectives: _Optional[_Iterable[str]] = ..., labels: _Optional[int] = ..., undecided_labels: _Optional[int] = ..., document: _Optional[str] = ...) -> None: ...

class ListPoliciesRequest(_message.Message):
    __slots__ = ("model", "model_version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: str
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[str] = ...) -> None: ...

class ListPoliciesResponse(_message.Message):
    __slots__ = ("policies",)
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[Policy]
    def __init__(self, policies: _Optional[_Iterable[_Union[Policy, _Mapping]]] = ...) -> None: ...

class GetPolicyRequest(_message.Message):
    __slots__ = ("model", "model_version", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: str
    version: int
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetPolicyResponse(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ...) -> None: ...

class ActivatePolicyRequest(_message.Message):
    __slots__ = ("model", "model_version", "version", "expected_active")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: str
    version: int
    expected_active: int
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[str] = ..., version: _Optional[int] = ..., expected_active: _Optional[int] = ...) -> None: ...

class ActivatePolicyResponse(_message.Message):
    __slots__ = ("policy", "previous")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    previous: int
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ..., previous: _Optional[int] = ...) -> None: ...
