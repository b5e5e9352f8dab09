"""Colours that mean one thing each, and how series are drawn.

They are those of Okabe and Ito (2008), which people with any colour vision tell apart; red beside green is not used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.models.dashboard import DynamicConfigValue

BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
VERMILION, PURPLE, GREY, CLEAR = "#D55E00", "#CC79A7", "#8C8C8C", "transparent"

LIVE = BLUE  # what was observed
PROMISED = GREY  # what the calibration expects, and its limits
CONFIRMED = GREEN  # what somebody checked
ESTIMATED = ORANGE  # what was worked out without labels
TARGET = PURPLE  # what was asked for
BAD = VERMILION  # needs somebody now
WARNING = ORANGE  # needs a look
LOW = SKY  # as far off as BAD, but downwards

Steps = Sequence[tuple[float | None, str]]  # (from this value on, colour); the first has None

FINE: Steps = ((None, LIVE),)
ANY_IS_BAD: Steps = ((None, LIVE), (1, BAD))
ANY_IS_A_WARNING: Steps = ((None, LIVE), (1, WARNING))
# The alerts begin there over an hour and over six; longer windows are in `unusual`.
ALERTS_HIGH, ALERTS_LOW = 5, 4.5
SURPRISE: Steps = ((None, LIVE), (3, WARNING), (ALERTS_LOW, BAD))  # whichever way


def beyond(high: float, low: float) -> Steps:
    """For cells: coloured where it is more than `high` or less than -`low`."""
    return ((None, LOW), (-low, CLEAR), (high, BAD))


def limits(high: float, low: float) -> Steps:
    """Lines at `high` and at -`low`."""
    return ((None, CLEAR), (-low, LOW), (high, BAD))


def limit(value: float) -> Steps:
    """A line at a value that should not be passed."""
    return ((None, CLEAR), (value, BAD))


@dataclass(frozen=True)
class Style:
    """How the series of one name are drawn; `band_to` fills down to the series of that name."""

    colour: str
    width: float = 2
    dashed: bool = False
    band_to: str | None = None
    fill: int = 0

    def properties(self) -> list[DynamicConfigValue]:
        """As Grafana's field overrides."""
        found = [
            DynamicConfigValue("color", {"mode": "fixed", "fixedColor": self.colour}),
            DynamicConfigValue("custom.lineWidth", self.width),
            DynamicConfigValue("custom.fillOpacity", self.fill),
        ]
        if self.dashed:
            found.append(DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}))
        if self.band_to:
            found.append(DynamicConfigValue("custom.fillBelowTo", self.band_to))
        return found


LIVE_LINE = Style(LIVE)
PROMISED_LINE = Style(PROMISED, dashed=True)
CONFIRMED_LINE = Style(CONFIRMED)
ESTIMATED_LINE = Style(ESTIMATED)
TARGET_LINE = Style(TARGET, dashed=True)


def band(upper: str, lower: str, colour: str) -> dict[str, Style]:
    """The styles of two series between which the panel is filled."""
    return {upper: Style(colour, width=0.5, band_to=lower, fill=18), lower: Style(colour, width=0.5)}
