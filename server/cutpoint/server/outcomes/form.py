"""The form of a report: what is wrong with a message whatever is known of models and decisions."""

import math

from cutpoint.dataset import UNLABELLED
from cutpoint.errors import BadRequest
from cutpoint.v1 import outcome_pb2 as v1

from ..protocol.fields import fields

MOST_OUTCOMES = 10_000
# Names of labels in a message, of all its outcomes: each takes some forty bytes once it is read.
MOST_NAMES = 1_000_000
# A message this short cannot hold too many names: each takes two bytes at least.
_SHORT = 2 * MOST_NAMES
_OUTCOMES = v1.ReportOutcomesRequest.DESCRIPTOR.fields_by_name["outcomes"].number
_NAMES = tuple(v1.Outcome.DESCRIPTOR.fields_by_name[name].number for name in ("positive", "negative"))
# Bytes of a request's id, or of a caller's key.
LONGEST_KEY = 1000
_FIXED = (v1.SAMPLING_UNKNOWN, v1.SAMPLING_ALL, v1.SAMPLING_ALERTED)
# One outcome stands for a million decisions at the most; float32 holds it, and a sum of them.
_LEAST = 1e-6
_RANDOM = (v1.SAMPLING_RANDOM, v1.SAMPLING_ALERTED_AND_RANDOM)


def refuse_many(data: bytes) -> None:
    """Raise BadRequest for a message with too many outcomes or names, before it is parsed: a few bytes each become hundreds."""
    outcomes = names = 0
    for number, start, end in fields(data, 0, len(data)):
        if number != _OUTCOMES:
            continue
        outcomes += 1
        if outcomes > MOST_OUTCOMES:
            raise BadRequest.of("outcomes", f"more than {MOST_OUTCOMES} of them", f"1 to {MOST_OUTCOMES}")
        if len(data) > _SHORT:
            names += sum(field in _NAMES for field, _, _ in fields(data, start, min(end, len(data))))
            if names > MOST_NAMES:
                raise BadRequest.of(
                    "outcomes", f"more than {MOST_NAMES} names of labels", f"{MOST_NAMES} at most, or `targets`"
                )


def check_form(request: v1.ReportOutcomesRequest) -> None:
    """Check what can be said of a message without looking anything up; BadRequest, naming the field."""
    if not request.model:
        raise BadRequest.of("model", "empty", "the name of a model")
    if not 1 <= len(request.outcomes) <= MOST_OUTCOMES:
        raise BadRequest.of("outcomes", f"{len(request.outcomes)} of them", f"1 to {MOST_OUTCOMES}")
    sampling, probability = request.sampling, request.probability
    if sampling not in v1.Sampling.values():
        raise BadRequest.of("sampling", sampling, ", ".join(v1.Sampling.keys()))
    if sampling in _RANDOM and not _LEAST <= probability <= 1:
        raise BadRequest.of("probability", probability, f"{_LEAST:g} to 1, with {v1.Sampling.Name(sampling)}")
    if sampling in _FIXED and probability != 0:
        raise BadRequest.of("probability", probability, f"0, with {v1.Sampling.Name(sampling)}")
    for place, outcome in enumerate(request.outcomes):
        _check_outcome(f"outcomes[{place}]", outcome)


def _check_outcome(name: str, outcome: v1.Outcome) -> None:
    kind = outcome.WhichOneof("decision")
    if kind is None:
        raise BadRequest.of(name, "without a decision", "requested or scored")
    key, of = (outcome.requested.request_id, "request_id") if kind == "requested" else (outcome.scored.key, "key")
    if not 1 <= len(key.encode()) <= LONGEST_KEY:
        found = f"{len(key.encode())} bytes" if key else "empty"
        raise BadRequest.of(f"{name}.{kind}.{of}", found, f"1 to {LONGEST_KEY} bytes of text")
    if kind == "requested" and outcome.requested.only_row and outcome.requested.row:
        raise BadRequest.of(f"{name}.requested.row", outcome.requested.row, "0 beside only_row")
    if kind == "scored" and not (math.isfinite(outcome.scored.time_s) and 0 <= outcome.scored.time_s < 1e12):
        raise BadRequest.of(f"{name}.scored.time_s", outcome.scored.time_s, "seconds since 1970, or 0 for now")
    if outcome.targets:
        if outcome.positive or outcome.negative:
            raise BadRequest.of(f"{name}.targets", "given beside names", "targets, or names of labels")
        wrong = set(outcome.targets) - {0, 1, UNLABELLED}
        if wrong:
            raise BadRequest.of(f"{name}.targets", min(wrong), f"0, 1, or {UNLABELLED} for not known")
        if not set(outcome.targets) - {UNLABELLED}:
            raise BadRequest.of(f"{name}.targets", "all not known", "at least one label that is known")
        return
    if not outcome.positive and not outcome.negative:
        raise BadRequest.of(name, "without labels", "positive or negative labels, or targets")
    both = set(outcome.positive) & set(outcome.negative)
    if both:
        raise BadRequest.of(f"{name}.positive and .negative", repr(min(both)[:100]), "each label in one of them")
