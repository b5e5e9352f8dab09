"""The serving page: latency by stage, errors, batches, queues, versions and processes, over all models and replicas."""

from grafana_foundation_sdk.models import dashboard as models
from pages import Row, alert_annotation, page, policy_annotation, query_variable, source_variable
from panels import Panels, Query, cloud, lines, number
from rates import EVERY, HERE, MODEL, RPC, burn, error_ratio, mean, quantile, rate
from replicas import processes, versions
from styles import ANY_IS_BAD, BAD, BLUE, CLEAR, FINE, GREEN, GREY, LIVE, ORANGE, SKY, TARGET_LINE, WARNING, Style, limit

# In the order in which a request goes through them.
STAGES = {"decode": SKY, "queue": ORANGE, "inference": BLUE, "answer": GREEN}
STYLES = {name: Style(colour, width=1.5) for name, colour in STAGES.items()} | {"request": Style(GREY, dashed=True)}


def glance() -> Panels:
    """Is the service well?"""
    return [
        number(
            "RPCs per second",
            "Answered by the chosen replicas; health checks are not counted.",
            f"sum(rate(grpc_server_handled_total{{{RPC}}}[{EVERY}]))", "reqps",
        ),
        number(
            "Errors",
            "Share of the RPCs of the last 5 minutes that failed by the server's fault: Unknown, Internal, Unavailable, "
            "DataLoss, DeadlineExceeded, ResourceExhausted.",
            error_ratio("5m"), "percentunit", decimals=2, steps=((None, LIVE), (0.001, WARNING), (0.0144, BAD)),
        ),
        number(
            "Budget burn",
            "How many times too fast the monthly error budget is spent, over the last hour, by the method that does so "
            "fastest, in all replicas. 1 spends it exactly; an alert fires above 14.4, and above 6 over six hours.",
            burn("1h"), "none", steps=((None, LIVE), (1, WARNING), (14.4, BAD)), decimals=1,
        ),
        number(
            "p99 latency",
            "99 of 100 requests of the last 5 minutes were answered within this time, from message to answer.",
            quantile(0.99, "cutpoint_request_seconds", window="5m"), "s",
        ),
        number(
            "In flight", "Inference requests being answered now.", f"sum(cutpoint_inflight_requests{{{MODEL}}})", "none",
        ),
        number(
            "Rows waiting",
            "Rows that wait for a model run now. Past `--max-waiting-rows` (4096) requests are refused.",
            f"sum(cutpoint_queue_rows{{{MODEL}}})", "none", steps=((None, LIVE), (1024, WARNING), (3072, BAD)),
        ),
        number(
            "Versions served", "Model versions that answer, counted once per replica.",
            f"sum(cutpoint_model_ready{{{MODEL}}})", "none", steps=FINE,
        ),
        number(
            "Versions not ready",
            "Model versions that cannot be served, or replicas that cannot be read. The log says why.",
            f"(count(cutpoint_model_ready{{{MODEL}}} == 0) or vector(0)) + (count(up{{{HERE}}} == 0) or vector(0))",
            "none", steps=ANY_IS_BAD,
        ),
    ]  # fmt: skip


def latency() -> Panels:
    """Where does the time go?"""
    stages = [*STAGES, "request"]
    return [
        lines(
            "Median by stage",
            "Half of the requests spent less than this: from message to arrays (decode), waiting for a model run (queue), in "
            "the run (inference, shared with others), threshold and answer (answer), and end to end (request).",
            [Query(quantile(0.5, f"cutpoint_{stage}_seconds"), stage) for stage in stages], "s", styles=STYLES,
        ),
        lines(
            "p99 by stage",
            "99 of 100 spent less than this; the objective is the rules', for requests. Queue far above inference: more load "
            "than lanes, or batches that wait too long.",
            [
                *(Query(quantile(0.99, f"cutpoint_{stage}_seconds"), stage, exemplar=stage == "request") for stage in stages),
                Query("cutpoint:latency_objective_seconds", "objective"),
            ],
            "s", styles={**STYLES, "objective": TARGET_LINE},
        ),
        lines(
            "Mean by stage",
            "Means can be added up: the height is what a request costs on average, the colours say where.",
            [Query(mean(f"cutpoint_{stage}_seconds"), stage) for stage in STAGES], "s",
            styles={name: Style(colour, width=1, fill=40) for name, colour in STAGES.items()}, stacked=True,
        ),
        lines(
            "End to end by model",
            "Median and p99 of each model, from message to answer.",
            [
                Query(quantile(0.99, "cutpoint_request_seconds", "model"), "{{model}} p99"),
                Query(quantile(0.5, "cutpoint_request_seconds", "model"), "{{model}} median"),
            ],
            "s", w=12, side=True,
        ),
        cloud(
            "Requests by latency",
            "How many requests took how long. Two layers are two kinds of requests, or one that meets a full queue.",
            Query(f"sum by (le) (increase(cutpoint_request_seconds_bucket{{{MODEL}}}[{EVERY}]))", "{{le}}", wide=True),
            "s",
        ),
    ]  # fmt: skip


def calls() -> Panels:
    """What is asked, and does it get an answer?"""
    return [
        lines(
            "RPCs by method", "RPCs answered per second, whatever the answer.",
            [Query(rate("grpc_server_handled_total", "grpc_method", RPC), "{{grpc_method}}")], "reqps", w=6,
        ),
        lines(
            "Answers other than OK",
            "Per second, by status code. InvalidArgument and NotFound are the caller's mistakes, ResourceExhausted an "
            "overload that was refused, Unavailable and Internal the server's.",
            [Query(f'sum by (grpc_code) (rate(grpc_server_handled_total{{{RPC},grpc_code!="OK"}}[{EVERY}]))', "{{grpc_code}}")],
            "reqps", w=6, stacked=True,
        ),
        lines(
            "p99 by method",
            "99 of 100 RPCs took less than this; streams and calibrations count from their first message to the end.",
            [Query(quantile(0.99, "grpc_server_handling_seconds", "grpc_method", RPC), "{{grpc_method}}")], "s", w=6,
        ),
        lines(
            "Error budget burn",
            "How many times too fast the monthly error budget is spent by the method that does so fastest, in all replicas. "
            "The alert needs 1 hour and 5 minutes both above 14.4 (dashed), or 6 hours and 30 minutes both above 6: the long "
            "window is evidence, the short one says that it is still so.",
            [
                Query(burn("5m"), "5 minutes"), Query(burn("30m"), "30 minutes"), Query(burn("1h"), "1 hour"),
                Query(burn("6h"), "6 hours"),
            ],
            "none", w=6, limits=((None, CLEAR), (6, WARNING), (14.4, BAD)), most=15,
            styles={
                "5 minutes": Style(SKY, width=1), "30 minutes": Style(ORANGE, width=1), "1 hour": Style(BLUE),
                "6 hours": Style(ORANGE),
            },
        ),
    ]  # fmt: skip


def batches() -> Panels:
    """Is there room for more?"""
    return [
        lines(
            "Rows in a run",
            "Mean number of rows that shared a model run. Near 1 under load: requests do not meet; near `--max-batch-rows`: "
            "more would fit.",
            [Query(mean("cutpoint_batch_rows", "model"), "{{model}}")], "none", w=6,
        ),
        lines(
            "Rows scored", "Rows per second that went through model runs.",
            [Query(rate("cutpoint_batch_rows_sum", "model", MODEL), "{{model}}")], "cps", w=6,
        ),
        lines(
            "Queue",
            "Rows that wait for a model run. The dashed line is the default of `--max-waiting-rows`, where requests are "
            "refused.",
            [Query(f"sum by (model, version) (cutpoint_queue_rows{{{MODEL}}})", "{{model}} version {{version}}")],
            "short", w=6, limits=limit(4096),
        ),
        lines(
            "Requests in flight", "Inference requests being answered, by model.",
            [Query(f"sum by (model) (cutpoint_inflight_requests{{{MODEL}}})", "{{model}}")], "short", w=6,
        ),
    ]  # fmt: skip


def serving() -> models.Dashboard:
    """The whole page."""
    variables = [
        source_variable(),
        query_variable(
            "model", "Model", "label_values(cutpoint_model_ready, model)", "The models that are looked at.",
            several=True, all_value=".*",
        ),
        query_variable(
            "instance", "Replica", "label_values(cutpoint_build_info, instance)",
            "The servers that are looked at; other programs that this Prometheus reads are none.", several=True,
        ),
    ]  # fmt: skip
    rows = [
        Row("", glance()),
        Row("Latency", latency()),
        Row("Calls", calls()),
        Row("Batches and queue", batches()),
        Row("Versions", versions()),
        Row("Processes", processes()),
    ]
    text = "How requests go through the servers: latency by stage, errors, batches, queues, versions, processes."
    annotations = [policy_annotation('model=~"$model"'), alert_annotation("$model|")]
    return page("cutpoint-serving", "Cutpoint: serving", text, variables, rows, annotations, "now-6h")
