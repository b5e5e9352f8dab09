"""conv140, the model that takes its time, part of `make bench-serving`: how much of the cores the server leaves to it."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Protocol

import serving_models
from claims import Claim
from serving_ceiling import best_alone, best_busy, measure
from serving_race import (
    CALLERS,
    EVERYTHING,
    OURS,
    SHARED,
    TUNED,
    Contestant,
    Lap,
    Options,
    alone,
    asked,
    built,
    ceiling_of,
    check,
    check_failures,
    expected,
    in_shared_memory,
    ours,
    peers_ready,
    race,
    rate_of,
    say,
    say_memory,
    times,
)


class TunedOptions(Options, Protocol):
    """What the command line says, of this model too."""

    tuned: Path | None
    tuned_cutpoint: Path | None
    tuned_serve: list[str]


def conv140(options: TunedOptions, scratch: Path) -> list[Claim]:
    """The model that takes its time: how much of the cores the server leaves to it."""
    graph = built(scratch / "models", "conv140")
    tuned = options.tuned or _quantised(scratch)
    x = serving_models.rows("conv140", 1)
    busy, single = best_busy(graph, 200), best_alone(graph, 60)
    say("in process", f"most a second: {busy}", f"soonest: {single}")
    with ExitStack() as stack:
        plain = ours(stack, scratch / "models", "conv140", x, options, command=options.cutpoint)
        command = options.tuned_cutpoint or options.cutpoint
        fast = ours(stack, tuned, "conv140", x, options, *options.tuned_serve, command=command, name=TUNED)
        decided = asked(EVERYTHING, plain.server, "conv140", x, ())
        near, fast_near = (in_shared_memory(stack, each, "conv140", x) for each in (plain, fast))
        tuned_graph = max((tuned / "conv140").iterdir(), key=lambda v: int(v.name) if v.name.isdecimal() else 0) / "model.onnx"
        wanted = [(each, expected(graph, x), 1e-4) for each in (plain, near)]
        # Of bf16, which has 8 bits: that it detects as well is what `cutpoint tune` has measured.
        wanted += [(each, expected(tuned_graph, x), 0.75) for each in (fast, fast_near)]
        for each, want, tolerance in wanted:
            check(each, want, tolerance)
        peers = stack.enter_context(peers_ready(options, scratch, graph, "conv140", x))
        laps = race([plain, near, fast, fast_near, decided, *peers], CALLERS, options, ceiling_of(graph, busy, 300))
        p50 = alone([plain, near, fast, fast_near, *peers], options, lambda: measure(graph, single, 60).p50_ms, 60)
        peers = [each for each in peers if not each.out]
        for each, want, tolerance in wanted:
            check(each, want, tolerance)
        check_failures(plain, fast)
        say_memory(plain, fast, *peers)
    say("note", f"conv140, all outputs against logits alone: {times(laps[EVERYTHING], laps[OURS]):.3f}")
    claims = []
    for how, name, tuned_name in (("", OURS, TUNED), (", shared memory", SHARED.format(OURS), SHARED.format(TUNED))):
        claims += _conv140_claims(how, laps, p50, peers, name, tuned_name)
    return claims


def _conv140_claims(
    how: str, laps: dict[str, list[Lap]], p50: dict[str, float], peers: Sequence[Contestant], name: str, tuned: str
) -> list[Claim]:
    """What is claimed of conv140, and of conv140 tuned, asked in this way; beside peers who are asked in their own."""
    ceiling = median(lap.ceiling for lap in laps[name])
    share = median(lap.share for lap in laps[name])
    rate, fast = rate_of(laps[name]), rate_of(laps[tuned])
    callers = f"{CALLERS} callers{how}"
    claims = [Claim(f"conv140, {callers}, against in process at its best", share * ceiling, ceiling, 0.88, "seq/s")]
    for each in peers:
        assert each.peer is not None
        ratio = times(laps[name], laps[each.name])
        claims.append(Claim(f"conv140, {callers}, against {each.name}", rate, rate / ratio, each.peer.conv_target, "seq/s"))
    one = f"one caller{how}, p50"
    claims.append(Claim(f"conv140, {one}, limit in process + 1.5 ms", p50[name], p50["in process"] + 1.5, 1, "ms", False))
    claims.append(Claim(f"conv140 tuned, {callers}, at least 550 seq/s", fast, 550, 1, "seq/s"))
    claims.append(Claim(f"conv140 tuned, {one}, limit 4 ms", p50[tuned], 4, 1, "ms", False))
    if peers:
        soonest = min(p50[each.name] for each in peers)
        claims.append(Claim(f"conv140, {one}, against the best peer", p50[name], soonest, 0.65, "ms", False))
        claims.append(Claim(f"conv140 tuned, {one}, against the best peer", p50[tuned], soonest, 0.65, "ms", False))
        best = min(times(laps[tuned], laps[each.name]) for each in peers)
        claims.append(Claim(f"conv140 tuned, {callers}, against the best peer", fast, fast / best, 2.5, "seq/s"))
    return claims


def _quantised(scratch: Path) -> Path:
    """conv140 in int8, as the trainer's export makes it: what stands in where `cutpoint tune` has not been run."""
    say("note", "tuned: int8 by the export's quantisation; --tuned MODELS takes what `cutpoint tune` made")
    models = scratch / "tuned"
    models.mkdir()
    serving_models.int8(scratch / "models" / "conv140" / "1", models)
    return models
