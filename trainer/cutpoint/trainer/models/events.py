"""Salient events of a signal, each described against its neighbours: when it came, and how it looks.

A heart beat, a stroke of a machine, a pulse: signals that repeat are judged by what breaks the repetition, an event that comes
early or looks unlike the others. Events are found and described by fixed rules, without weights; what is odd about them is
learnt. All lengths are in units of `gap`, the least time between two events, so that nothing depends on a sample rate.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RADIUS = 32  # samples of the thinned signal on either side of an event that show its shape
STEPS_PER_GAP = 18  # samples of the thinned signal in a gap, at least, where the signal has as many
SALIENT = 0.35  # of the usual height of the highest peak in ten gaps
SHAPE = 2 * RADIUS + 1
PARTS = 5  # of a shape, compared one by one
FEW = 15  # events around, where what is usual may change soon
BINS = 12  # of a figure
ODD = 11 + 3 * (1 + PARTS) + 4
FIGURES = 2 * ODD + 3
TINY = 1e-3


@dataclass(frozen=True)
class Events:
    """The events of each signal, in order of time; the places that are left over are empty.

    Attributes:
        window: int64 [batch, event], of the window that holds the event; 0 where empty.
        present: float32 [batch, 1, event], 1 or 0.
        time: float32 [batch, 1, event], in samples of the thinned signal: whole numbers, so that intervals are exact.
        shape: float32 [batch, channel x SHAPE, event], the signal around the event in units of its usual deviation.
    """

    window: Tensor
    present: Tensor
    time: Tensor
    shape: Tensor


def find_events(x: Tensor, per_window: int) -> Events:
    """Find peaks of the slope's envelope that stand out, at least 1 / `per_window` of a window apart.

    `x` is float32 [batch, window, channel, sample], of consecutive windows. Half as many events as there could be are kept,
    the highest. A constant signal has none.
    """
    batch, windows, channels, samples = x.shape
    thin = max(1, samples // (per_window * STEPS_PER_GAP))
    gap = max(1, samples // (per_window * thin))
    signal = x.transpose(1, 2).reshape(batch, channels, windows * samples)
    if thin > 1:
        signal = F.avg_pool1d(F.pad(signal, (0, thin - 1), mode="replicate"), thin)
    usual = 2 * (3 * gap // 2) + 1
    centred = signal - _moving_mean(_moving_mean(signal, usual), usual)
    power = _nearby(_block_mean(centred.square(), 10 * gap), 10 * gap, signal.shape[-1])
    centred = centred / (power.sqrt() + TINY)
    reach = max(1, gap // 9)
    wide = F.pad(centred, (reach, reach), mode="replicate")
    slope = wide[..., 2 * reach :] - wide[..., : -2 * reach]
    height = _moving_mean(slope.square().sum(1, keepdim=True), 2 * (gap // 3) + 1).sqrt()
    highest = _moving_max(height, 2 * gap + 1)
    length = signal.shape[-1]
    tall = _nearby(_block_max(height, 10 * gap), 10 * gap, length)
    stands_out = (height >= highest) & (height > SALIENT * tall) & (height > TINY)
    score = torch.where(stands_out, height, torch.zeros_like(height)).squeeze(1)
    kept = windows * max(1, min(per_window // 2, samples // thin))
    found, index = torch.topk(score, kept)
    index = torch.sort(torch.where(found > 0, index, length))[0]
    aligned = _largest_near(centred.square().sum(1), index.clamp(max=length - 1), 2 * gap // 5)
    # Two samples of one peak that are as high as each other, or differ by rounding, are one event.
    again = (index >= length) | (aligned == F.pad(aligned[:, :-1], (1, 0), value=-1))
    index = torch.sort(torch.where(again, length, aligned))[0]
    present = (index < length).unsqueeze(1)
    index = index.clamp(max=length - 1)
    around = index.unsqueeze(-1) + torch.arange(SHAPE, device=index.device)
    padded = F.pad(centred, (RADIUS, RADIUS), mode="replicate")
    shape = padded.gather(2, around.reshape(batch, 1, -1).expand(-1, channels, -1))
    shape = shape.reshape(batch, channels, -1, SHAPE).transpose(2, 3).reshape(batch, channels * SHAPE, -1)
    window = torch.where(present.squeeze(1), (index * thin // samples).clamp(max=windows - 1), torch.zeros_like(index))
    present = present.to(x.dtype)
    return Events(window, present, index.unsqueeze(1).to(x.dtype), shape * present)


class EventEncoder(nn.Module):
    """Events to features [batch, feature, event]: timing, size and shape against the nearest events, then residual layers.

    Args:
        channels: of the signal.
        width: features of an event.
        layers: residual layers along the events, dilated 1, 2, 4, ...
        span: how many events around make what is usual.
        dropout: share of features dropped.
    """

    edges: Tensor

    def __init__(self, channels: int, width: int, layers: int, span: int, dropout: float) -> None:
        super().__init__()
        self.span = 2 * (span // 2) + 1
        self.register_buffer("edges", torch.linspace(-1, 1, BINS + 1)[:-1].unsqueeze(1), persistent=False)
        self.shape = nn.Sequential(nn.Conv1d(channels * SHAPE, width, 1), nn.GELU(), nn.Dropout(dropout))
        self.join = nn.Conv1d(width + BINS * FIGURES, width, 1)
        self.along = nn.ModuleList(Along(width, 2**i, dropout) for i in range(layers))
        self.mix = nn.Sequential(
            EventNorm(width), nn.GELU(), nn.Dropout(dropout), nn.Conv1d(width, width, 1), nn.GELU(), nn.Dropout(dropout)
        )

    def forward(self, events: Events) -> Tensor:
        """[batch, feature, event]; what stands at an empty place means nothing."""
        with torch.no_grad():
            shape, figures = self.describe(events)
        return self.encode(shape, figures, events.present)

    def encode(self, shape: Tensor, figures: Tensor, present: Tensor) -> Tensor:
        """What `describe` gives to [batch, feature, event]."""
        # Steps at fixed places let a linear layer make sharp cuts, as a tree does.
        bins = ((figures.unsqueeze(2) - self.edges) * (BINS / 2)).clamp(0, 1).flatten(1, 2)
        z = self.join(torch.cat([self.shape(shape), bins], 1)) * present
        for layer in self.along:
            z = layer(z, present)
        return self.mix(z)  # type: ignore[no-any-return]

    def describe(self, events: Events) -> tuple[Tensor, Tensor]:
        """The shape less the usual shape [batch, channel x SHAPE, event], and FIGURES figures, most within +-1; no weights."""
        on, span = events.present, self.span
        usual = _mean(events.shape, on, span)
        for _ in range(2):  # re-weighted, so that events unlike the others do not count
            distance = _power(events.shape - usual) / (_power(usual) + TINY)
            usual = _mean(events.shape, on / (1 + (distance / 0.2) ** 2), span)
        odd = torch.cat([_timing(events.time, on, span), _likeness(events.shape, usual, on)], 1) * on
        spread = odd - _mean(odd, on, span)
        standard = spread / (3 * (_mean(spread.square(), on, span) + 0.05**2).sqrt())
        figures = torch.cat([odd, standard, _irregularity(odd[:, :1], on, span)], 1)
        return (events.shape - usual) * on, figures * on


def _timing(time: Tensor, on: Tensor, span: int) -> Tensor:
    """How early an event comes and the next one, against the usual interval of many and of few events around."""
    time, on = time.double(), on.double()  # what is divided by a small jitter must not carry float32's rounding
    timed = on * _shift(on, 1)  # all but the first
    interval = torch.log((time - _shift(time, 1)).clamp(min=1)) * timed
    figures = []
    for around in (span, FEW):
        early = ((interval - _usual(interval, timed, around, 0.1)) * timed).clamp(-1.2, 1.2)
        jitter = _mean(early.abs().clamp(max=0.3), timed, 2 * FEW + 1)
        late = _shift(early, -1)
        figures += [early * 3, late * 3, early / (3 * jitter + 0.05), late / (3 * jitter + 0.05)]
    change = (interval - _shift(interval, 1)) * timed * _shift(timed, 1)
    return torch.cat([*figures, change * 2, _shift(change, -1) * 2, early + late], 1).float()


def _likeness(shape: Tensor, usual: Tensor, on: Tensor) -> Tensor:
    """How an event compares with the usual shape, whole and in PARTS parts, and how like the events next to it it is."""
    figures = []
    for parts in (1, PARTS):
        own, wanted = _parts(shape, parts), _parts(usual, parts)
        size = wanted.square().sum(2) + TINY
        figures += [
            _agreement(own, wanted),
            torch.log(own.square().sum(2) / size + TINY) / 2,
            torch.log((own - wanted).square().sum(2) / size + TINY) / 2 + 1,
        ]
    before = _agreement(_parts(shape, 1), _parts(_shift(shape, 1), 1)) * on * _shift(on, 1)
    size = shape.abs()
    breadth = torch.log(size.sum(1, keepdim=True) / (size.amax(1, keepdim=True) + 0.1) + 1) - 2.5
    energy = torch.log(_power(shape) + TINY) / 2
    return torch.cat([*figures, before, _shift(before, -1), breadth, energy], 1)


def _irregularity(early: Tensor, on: Tensor, span: int) -> Tensor:
    """How much intervals around an event vary: of few and of many, a share and a deviation."""
    uneven = (early.abs() * 3).clamp(max=1)
    return torch.cat(
        [_mean(uneven, on, FEW) * 2 - 1, _mean(uneven, on, span) * 2 - 1, _mean(early.square(), on, span) * 2 - 1], 1
    )


def _parts(shape: Tensor, parts: int) -> Tensor:
    """[batch, channel x SHAPE, event] to [batch, part, channel x sample, event], each part and channel with mean 0."""
    cut = shape.reshape(shape.shape[0], -1, parts, SHAPE // parts, shape.shape[-1])
    return (cut - cut.mean(3, keepdim=True)).transpose(1, 2).flatten(2, 3)


def _agreement(a: Tensor, b: Tensor) -> Tensor:
    """A stretched correlation of [batch, part, sample, event] over samples: [batch, part, event]."""
    cosine = (a * b).sum(2) / (a.square().sum(2) * b.square().sum(2) + TINY).sqrt()
    return (-torch.log(1.05 - cosine) - 1) / 2


def _power(shape: Tensor) -> Tensor:
    return shape.square().mean(1, keepdim=True)


class EventNorm(nn.LayerNorm):
    """Layer normalisation of each event's features, [batch, feature, event] to the same."""

    def forward(self, z: Tensor) -> Tensor:
        """[batch, feature, event] to the same."""
        return super().forward(z.transpose(1, 2)).transpose(1, 2)


class Along(nn.Module):
    """One residual layer along events, [batch, feature, event] to the same, that looks `dilation` events either way."""

    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = EventNorm(width)
        self.look = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, z: Tensor, present: Tensor) -> Tensor:
        """[batch, feature, event] to the same; empty places stay zero."""
        return z + self.mix(self.dropout(F.gelu(self.look(self.norm(z) * present)))) * present  # type: ignore[no-any-return]


def _largest_near(x: Tensor, index: Tensor, reach: int) -> Tensor:
    """Where x [batch, sample] is largest within `reach` of each index [batch, event]; peaks align shapes, flanks do not."""
    near = (index.unsqueeze(-1) + torch.arange(-reach, reach + 1, device=index.device)).clamp(min=0, max=x.shape[-1] - 1)
    best = x.gather(1, near.flatten(1)).reshape(near.shape).argmax(-1, keepdim=True)
    return near.gather(-1, best).squeeze(-1)


def _moving_mean(x: Tensor, length: int) -> Tensor:
    return F.avg_pool1d(x, length, 1, length // 2, count_include_pad=False)


def _moving_max(x: Tensor, length: int) -> Tensor:
    # torch.export fixes the length of what goes into max_pool1d.
    return F.max_pool2d(x.unsqueeze(2), (1, length), 1, (0, length // 2)).squeeze(2)


def _block_mean(x: Tensor, block: int) -> Tensor:
    """Means of blocks, the first half out of view: [batch, channel, sample] to [batch, channel, block]."""
    return F.avg_pool1d(x, block, block, block // 2, count_include_pad=False)


def _block_max(x: Tensor, block: int) -> Tensor:
    return F.max_pool2d(x.unsqueeze(2), (1, block), (1, block), (0, block // 2)).squeeze(2)


def _nearby(blocks: Tensor, block: int, length: int) -> Tensor:
    """The mean of a block and the 12 on either side, at every sample: [batch, channel, block] to [batch, channel, sample]."""
    means = _moving_mean(blocks, 25)
    index = (torch.arange(length, device=blocks.device) + block // 2) // block
    return means.index_select(-1, index.clamp(max=means.shape[-1] - 1))


def _mean(x: Tensor, weight: Tensor, span: int) -> Tensor:
    """Moving weighted mean along events."""
    return _moving_sum(x * weight, span) / _moving_sum(weight, span).clamp(min=TINY * span)


def _moving_sum(x: Tensor, span: int) -> Tensor:
    """By differences of cumulative sums, at a cost that `span` does not change; for values of the order of 1."""
    total = F.pad(F.pad(x, (1, 0)).cumsum(-1), (span // 2, span // 2), mode="replicate")
    return total[..., span:] - total[..., :-span]


def _usual(x: Tensor, present: Tensor, span: int, scale: float) -> Tensor:
    """Moving location along events; what is further than `scale` from it hardly counts."""
    usual = _mean(x, present, span)
    for _ in range(3):
        usual = _mean(x, present / (1 + ((x - usual) / scale) ** 2) ** 2, span)
    return usual


def _shift(x: Tensor, places: int) -> Tensor:
    """Moved along the last axis, zeros coming in."""
    return F.pad(x, (places, -places))
