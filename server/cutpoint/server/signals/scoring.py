"""One signal being scored: samples to blocks of windows, logits to results. Knows nothing of calls and threads."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from cutpoint.bundle import Manifest
from cutpoint.calibration import probabilities
from cutpoint.errors import BadRequest, NotCalibrated
from cutpoint.signals import Block, Event, EventJoiner, EventRule, Resampler, Windower
from cutpoint.v1 import signal_pb2 as v1
from numpy.typing import NDArray

from ..serving.served import LOGITS, ServedModel

DATATYPES: dict[str, np.dtype[Any]] = {"": np.dtype("<f4"), "FP32": np.dtype("<f4"), "INT16": np.dtype("<i2")}
PIECE = 1 << 17  # samples, of all channels and at the model's rate, that are looked at at a time
_MESSAGE_BYTES = 1 << 20
_STATES = {
    "opened": v1.SignalEvent.STATE_OPENED, "closed": v1.SignalEvent.STATE_CLOSED, "cut": v1.SignalEvent.STATE_CUT,
}  # fmt: skip


class SignalScoring:
    """What a signal needs from its first sample to its last; a block's worth of it is kept.

    Blocks have to be scored in any order, but told to `results` in theirs.

    Attributes:
        model: that scores it, to its end.
        input: name of the model's input.
    """

    def __init__(self, model: ServedModel, header: v1.SignalHeader, largest_bytes: int) -> None:
        """Nothing came yet.

        Args:
            model: that the header names.
            header: what is asked.
            largest_bytes: of a block; what would be refused as a request is refused as a block too.

        Raises:
            BadInput: a field is wrong or does not fit the model; the message names it.
            NotCalibrated: nothing but events is asked of a model that has no policy.
        """
        self.model = model
        manifest = _manifest_of(model)
        self._windower = Windower.of(manifest, header.sequence_windows or None)
        if self._windower.largest * 4 > largest_bytes:
            raise BadRequest.of(
                "sequence_windows", f"{self._windower.sequence or 'not given'}, {self._windower.largest * 4} bytes at a time",
                f"at most {largest_bytes} bytes, the server's --max-message-mib",
            )  # fmt: skip
        _check_graph(model)
        (self.input,) = model.inputs
        self._channels = self._windower.channels
        if header.channels not in (0, self._channels):
            raise BadRequest.of("channels", header.channels, f"{self._channels}, as model '{model.name}' takes")
        assert manifest.windows is not None
        self._rate_hz, self._resampler = _rates(model, manifest.windows.rate_hz, header.rate_hz, self._channels)
        if header.datatype not in DATATYPES:
            raise BadRequest.of("datatype", header.datatype, "FP32 or INT16")
        self._dtype = DATATYPES[header.datatype]
        with np.errstate(over="ignore"):
            self._scale, self._offset = np.float32(header.scale or 1), np.float32(header.offset)
        if not np.isfinite([float(self._scale), float(self._offset), header.start_s]).all():
            raise BadRequest.of("scale, offset or start_s", "not finite", "finite numbers, scale and offset of 32 bits")
        if self._dtype.kind == "f" and (header.scale or header.offset):
            raise BadRequest.of("scale and offset", "given", "none for FP32: they are for INT16")
        self._start_s, self._window_s = header.start_s, self._windower.samples / self._rate_hz
        self._chosen, self._labels = _chosen(model, list(header.labels))
        self._joiner = self._joiner_of(header) if header.HasField("events") else None
        self._quiet = header.events_only
        if self._quiet and self._joiner is None:
            raise BadRequest.of("events_only", "true", "settings of events with it, even if they are empty")
        self._chunks = self._samples = self._answered = self._events = 0

    def opened(self) -> v1.SignalResponse:
        """What is scored, and how."""
        windower, resampler, active = self._windower, self._resampler, self.model.active
        return v1.SignalResponse(
            opened=v1.SignalOpened(
                model=self.model.name,
                model_version=str(self.model.version),
                labels=self._labels,
                window_s=self._window_s,
                window_samples=windower.samples,
                rate_hz=self._rate_hz,
                context=windower.context,
                sequence_windows=windower.sequence or 0,
                resampled_up=1 if resampler is None else resampler.up,
                resampled_down=1 if resampler is None else resampler.down,
                policy_version=0 if active is None else active.policy.version,
            )
        )

    def blocks(self, chunk: bytes, channels: int = 0) -> Iterator[Block]:
        """The blocks that a chunk completes. Another chunk only once they are all taken.

        Args:
            chunk: samples as sent.
            channels: that the sender knows of; 0: it did not say.

        Raises:
            BadRequest: the channels are not the model's, the chunk is no whole number of samples, or one is NaN or infinite;
                the message names chunk and sample.
        """
        if channels not in (0, self._channels):
            raise BadRequest.of(
                f"channels of chunk {self._chunks}", channels, f"{self._channels}, as model '{self.model.name}' takes"
            )
        samples = self._decoded(chunk)
        resampler = self._resampler
        ratio = 1.0 if resampler is None else max(1.0, resampler.up / resampler.down)
        step = max(1, int(PIECE / (self._channels * ratio)))
        for at in range(0, len(samples), step):
            yield from self._pushed(self._value(samples[at : at + step]))

    def finish(self) -> Iterator[Block]:
        """The blocks that are left at the end of the signal."""
        if self._resampler is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                self._windower.push(self._resampler.finish())
            yield from self._taken()
        self._windower.finish()
        yield from self._taken()

    def results(self, block: Block, logits: NDArray[np.float32]) -> list[v1.SignalResponse]:
        """What is certain with a block's logits [1, window, label]: decided by the policy in force now, and counted."""
        logits = block.answered(logits)
        active = self.model.active
        decisions = None
        if active is not None:
            decisions = logits >= active.thresholds
            self.model.counters.add(logits, decisions, active)
            decisions = decisions[:, self._chosen]
        scores = (probabilities if active is None else active.probabilities)(logits)[:, self._chosen]
        logits = logits[:, self._chosen]
        version = 0 if active is None else active.policy.version
        events: list[Event] = []
        if self._joiner is not None and active is not None:
            events = self._joiner.push(logits, scores, active.thresholds[self._chosen])
        self._answered += len(logits)
        told = [self._event(event, version) for event in events]
        if self._quiet:
            return [_results(v1.SignalResults(policy_version=version, events=told))] if told else []
        step = max(1, _MESSAGE_BYTES // (9 * max(1, len(self._labels))))
        found = []
        for at in range(0, len(logits), step):
            some = slice(at, at + step)
            found.append(
                v1.SignalResults(
                    first=block.first + at,
                    count=len(logits[some]),
                    start_s=self._at(block.first + at),
                    logits=logits[some].astype("<f4", copy=False).tobytes(),
                    scores=scores[some].astype("<f4", copy=False).tobytes(),
                    decisions=b"" if decisions is None else decisions[some].tobytes(),
                    policy_version=version,
                )
            )
        found[-1].events.extend(told)
        return [_results(each) for each in found]

    def summary(self) -> list[v1.SignalResponse]:
        """The events that were still open, and the counts, once all blocks are answered."""
        active = self.model.active
        version = 0 if active is None else active.policy.version
        last = [] if self._joiner is None else [self._event(event, version) for event in self._joiner.finish()]
        found = [_results(v1.SignalResults(policy_version=version, events=last))] if last else []
        left = self._windower.left_over
        summary = v1.SignalSummary(
            samples=self._samples,
            windows=self._answered,
            left_over_samples=left,
            left_over_s=left / self._rate_hz,
            events=self._events,
        )
        return [*found, v1.SignalResponse(summary=summary)]

    def _joiner_of(self, header: v1.SignalHeader) -> EventJoiner:
        if self.model.active is None and header.events_only:
            raise NotCalibrated(
                f"model '{self.model.name}' version {self.model.version} has no active policy; calibrate it to get events"
            )
        asked = header.events
        rule = EventRule.of_seconds(self._window_s, asked.hysteresis, asked.min_duration_s, asked.join_gap_s)
        return EventJoiner(len(self._labels), rule)

    def _decoded(self, chunk: bytes) -> NDArray[Any]:
        """[sample, channel] as sent, a view."""
        size = self._channels * self._dtype.itemsize
        name = f"chunk {self._chunks}"
        if len(chunk) % size:
            raise BadRequest.of(name, f"{len(chunk)} bytes", f"a multiple of {size}, the bytes of {self._channels} channels")
        samples: NDArray[Any] = np.frombuffer(chunk, self._dtype).reshape(-1, self._channels)
        if self._dtype.kind == "f":
            finite = np.isfinite(samples)
            if not finite.all():
                i, channel = (int(each) for each in np.unravel_index(np.argmin(finite), samples.shape))
                where = f"{name}: sample {i}" + (f", channel {channel}" if self._channels > 1 else "")
                raise BadRequest.of(
                    f"{where} ({self._samples + i} of the signal)", float(samples[i, channel]), "a finite number"
                )
        self._chunks += 1
        self._samples += len(samples)
        return samples

    def _value(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        if self._dtype.kind == "f":
            return np.asarray(samples, np.float32)
        with np.errstate(over="ignore"):
            return np.asarray(samples.astype(np.float32) * self._scale + self._offset, np.float32)

    def _pushed(self, samples: NDArray[np.float32]) -> Iterator[Block]:
        if self._resampler is not None:
            with np.errstate(over="ignore", invalid="ignore"):  # of numbers near the largest; the model refuses infinity
                samples = self._resampler.push(samples)
        self._windower.push(samples)
        yield from self._taken()

    def _taken(self) -> Iterator[Block]:
        while (block := self._windower.take()) is not None:
            yield block

    def _at(self, window: int) -> float:
        return self._start_s + window * self._window_s

    def _event(self, event: Event, version: int) -> v1.SignalEvent:
        self._events = max(self._events, event.number)
        return v1.SignalEvent(
            number=event.number,
            label=self._labels[event.label],
            state=_STATES[event.state],
            first=event.start,
            count=event.end - event.start,
            start_s=self._at(event.start),
            end_s=self._at(event.end),
            peak=event.peak,
            peak_s=self._at(event.peak),
            peak_logit=event.peak_logit,
            peak_score=event.peak_score,
            policy_version=version,
        )


def _results(results: v1.SignalResults) -> v1.SignalResponse:
    return v1.SignalResponse(results=results)


def _manifest_of(model: ServedModel) -> Manifest:
    model.require_labels()
    if model.bundle.manifest is None:
        raise BadRequest.of(f"model '{model.name}'", "without a manifest", "one that says how a signal is cut into windows")
    return model.bundle.manifest


def _check_graph(model: ServedModel) -> None:
    shape = model.outputs[LOGITS].shape
    if len(model.inputs) != 1 or len(shape) != 3:
        raise BadRequest.of(f"logits of model '{model.name}'", list(shape), "[batch, window, label] of one input")
    if next(iter(model.inputs.values())).shape[0] not in (-1, 1):
        raise BadRequest.of(f"model '{model.name}'", "of a fixed batch", "one that takes a single sequence")


def _rates(model: ServedModel, own_hz: float | None, given_hz: float, channels: int) -> tuple[float, Resampler | None]:
    """The rate that the model is given, and what makes it of the rate that comes, if anything."""
    if own_hz is None and given_hz == 0:
        raise BadRequest.of("rate_hz", "0", f"the rate of the signal: the manifest of '{model.name}' has none")
    if own_hz is None:
        if not (np.isfinite(given_hz) and given_hz > 1e-9):
            raise BadRequest.of("rate_hz", given_hz, "a rate in Hz, above 1e-9")
        return given_hz, None
    if given_hz == 0:
        return own_hz, None
    resampler = Resampler(given_hz, own_hz, channels)
    return own_hz, None if resampler.up == resampler.down else resampler


def _chosen(model: ServedModel, wanted: list[str]) -> tuple[slice | NDArray[np.intp], tuple[str, ...]]:
    """Which columns of the logits are sent, and their labels."""
    if not wanted:
        return slice(None), model.labels
    unknown = [label for label in wanted if label not in model.labels]
    if unknown or len(set(wanted)) < len(wanted):
        found = f"{unknown[0]!r}, which model '{model.name}' has not" if unknown else "one twice"
        raise BadRequest.of("labels", found, "labels of the model, each once")
    return np.array([model.labels.index(label) for label in wanted], np.intp), tuple(wanted)
