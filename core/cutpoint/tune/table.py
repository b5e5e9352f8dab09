"""What was measured, as tables for a terminal."""

from rich.markup import escape
from rich.table import Table

from ..bundle import Busy, Computation, Idle, Profile
from ..terminal import plain_table


def choice_table(profile: Profile) -> Table:
    """A line a computation: what it detects, how fast it is, and why it was chosen or not."""
    measured = profile.measured
    table = plain_table(
        "", "AP", "AP lost, 95 %", "changed", f"rows/s, {measured.callers} callers", "CPU ms a row", "ms, 1 caller", "",
        title=f"on {measured.valid_rows} validation rows; medians of rounds, least to greatest",
    )  # fmt: skip
    table.columns[-1].justify = "left"
    why = {each.what: each.why for each in profile.lost}
    for each in measured.detection:
        chosen = each.computation == profile.computation
        busy = _best_busy(profile, each.computation)
        idle = _best_idle(profile, each.computation)
        between = "" if each.low is None or each.high is None else f" {each.low:.4f} to {each.high:.4f}"
        table.add_row(
            f"[bold]{each.computation}[/bold]" if chosen else str(each.computation),
            f"{each.average_precision:.4f}",
            f"{each.loss:.4f}{between}",
            f"{each.changed:.4%}",
            "-" if busy is None else spread(busy.rows_per_s),
            "-" if busy is None or busy.cpu_ms is None else f"{busy.cpu_ms:.3g}",
            "-" if idle is None else spread(idle.p50_ms),
            "chosen" if chosen else escape(why.get(str(each.computation), "")),
        )
    for absent in measured.absent:
        table.add_row(str(absent.computation), "", "", "", "", "", "", escape(absent.why))
    return table


def ways_table(profile: Profile) -> Table:
    """A line a way to share the machine, of the computation that was chosen."""
    table = plain_table("busy", "rows/s", "CPU ms a row", "", title=f"ways to run {profile.computation}")
    table.columns[-1].justify = "left"
    why = {each.what: each.why for each in profile.lost}
    for each in profile.measured.busy:
        if each.computation == profile.computation:
            chosen = each.way == profile.way
            cpu_ms = "-" if each.cpu_ms is None else f"{each.cpu_ms:.3g}"
            said = "chosen" if chosen else escape(why.get(str(each.way), ""))
            table.add_row(str(each.way), spread(each.rows_per_s), cpu_ms, said)
    for one in profile.measured.idle:
        if one.computation == profile.computation:
            table.add_row(f"one caller, {'all cores' if one.wide else 'one core'}", f"{spread(one.p50_ms)} ms", "", "")
    return table


def spread(figures: tuple[float, ...]) -> str:
    """The median of figures, and the least and the greatest."""
    ordered = sorted(figures)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return f"{_digits(middle)}" + (f" ({_digits(ordered[0])} to {_digits(ordered[-1])})" if len(ordered) > 1 else " (one look)")


def _best_busy(profile: Profile, computation: Computation) -> Busy | None:
    found = [each for each in profile.measured.busy if each.computation == computation]
    if computation == profile.computation:
        return next(each for each in found if each.way == profile.way)
    most = max((len(each.rows_per_s) for each in found), default=0)
    return max((each for each in found if len(each.rows_per_s) == most), key=lambda each: each.median, default=None)


def _best_idle(profile: Profile, computation: Computation) -> Idle | None:
    found = [each for each in profile.measured.idle if each.computation == computation]
    return min(found, key=lambda each: each.median, default=None)


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
