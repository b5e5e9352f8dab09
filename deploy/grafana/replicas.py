"""The bottom of the serving page: what is served by which process, and what that takes."""

from panels import Column, Panels, Query, grid, lines, states
from rates import HERE, MODEL, increased, rate
from styles import BAD, CLEAR, LIVE, limit


def versions() -> Panels:
    """What is served?"""
    return [
        grid(
            "Models",
            "Every version of every model in every replica: the digest of its graph, what runs it, and whether it answers.",
            ("model", "version", "instance", "digest", "provider"),
            [
                Column(
                    "ready",
                    f"max by (model, version, instance, digest, provider) (cutpoint_model_info{{{MODEL}}} "
                    f"* on (model, version, job, instance) group_left () cutpoint_model_ready{{{MODEL}}})",
                    "none", 0, ((None, BAD), (1, CLEAR)),
                )
            ],
            w=14, h=8,
        ),
        grid(
            "Servers", "What runs in each replica, and since when.",
            ("instance", "version", "python", "onnxruntime"),
            [
                Column(
                    "started",
                    f"max by (instance, version, python, onnxruntime) (cutpoint_build_info{{{HERE}}} * on (job, instance) "
                    f"group_left () (1000 * process_start_time_seconds{{{HERE}}}))",
                    "dateTimeFromNow",
                )
            ],
            w=10, h=8,
        ),
        states(
            "Versions over time", "When each version answered, came and went.",
            Query(f"min by (model, version) (cutpoint_model_ready{{{MODEL}}})", "{{model}} version {{version}}"),
            {1: ("ready", LIVE), 0: ("not ready", BAD)}, w=9, h=7,
        ),
        lines(
            "Loads",
            "Model versions loaded in an hour, by outcome. A failed load leaves what was served before.",
            [Query(increased("cutpoint_model_loads_total", "outcome", "1h"), "{{outcome}}")], "short", w=5, h=7,
        ),
        lines(
            "Calibrations", "Calibrate calls in an hour, by outcome.",
            [Query(increased("cutpoint_calibrations_total", "outcome", "1h"), "{{outcome}}")], "short", w=5, h=7,
        ),
        lines(
            "Invalid scores",
            "Scores on which nothing can be decided (NaN), in 5 minutes. Any is an alert: the model or its input is broken.",
            [
                Query(
                    increased("cutpoint_invalid_scores_total", "model, version", "5m"),
                    "{{model}} version {{version}}",
                )
            ],
            "short", w=5, h=7,
        ),
    ]  # fmt: skip


def processes() -> Panels:
    """Is the machine enough?"""
    files = f"max by (instance) (process_open_fds{{{HERE}}} / process_max_fds{{{HERE}}})"
    return [
        lines(
            "CPU", "Cores in use by each replica.",
            [Query(rate("process_cpu_seconds_total", "instance", HERE), "{{instance}}")], "none", w=6, h=7,
            axis="cores",
        ),
        lines(
            "Memory",
            "Resident memory of each replica. It should be flat once every model has run.",
            [Query(f"sum by (instance) (process_resident_memory_bytes{{{HERE}}})", "{{instance}}")], "bytes", w=6, h=7,
        ),
        lines(
            "File descriptors",
            "Share of those allowed that is open. At 100 % connections are refused.",
            [Query(files, "{{instance}}")], "percentunit", w=6, h=7, most=1, limits=limit(0.8),
        ),
        lines(
            "Time of a scrape",
            "What reading /metrics takes: it grows with labels, not with time.",
            [Query(f"max by (instance) (scrape_duration_seconds{{{HERE}}})", "{{instance}}")], "s", w=6, h=7,
        ),
    ]  # fmt: skip
