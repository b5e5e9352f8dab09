"""Signals without end: resampled, cut into windows with the context that a model needs, positive windows joined to events."""

from .buffer import SampleBuffer as SampleBuffer
from .event import Event as Event
from .event import EventRule as EventRule
from .event import join as join
from .joiner import EventJoiner as EventJoiner
from .resampler import Resampler as Resampler
from .windower import Block as Block
from .windower import Windower as Windower
