"""Names that dashboards read and that are not made yet: by the server, by the recording rules."""

METRICS = {
    f"cutpoint_{name}"
    for name in (
        "expected_recall", "expected_precision", "expected_prevalence", "target_precision", "target_recall", "outcomes_total",
        "outcomes_unmatched_total", "outcome_pool_rows", "folded_labels", "estimated_prevalence",
    )
} | {
    f"cutpoint_{stage}_seconds_{suffix}" for stage in ("decode", "answer", "request") for suffix in ("bucket", "sum", "count")
}  # fmt: skip

RULES = {
    f"model_version_label:cutpoint_{name}"
    for name in (
        "decisions:increase1h", "positives:increase1h", "expected_positives:increase1h", "positives:z1h", "positives:z6h",
        "positives:z1d", "positives:z7d",
        "positives:dispersion7d", "positive_rate:ratio1h", "positive_rate:expected1h", "positive_rate:ucl1h",
        "positive_rate:lcl1h", "prevalence:rogan_gladen1h", "precision:estimated1h", "recall:estimated1h",
        "precision:confirmed7d", "precision:confirmed7d_low", "precision:confirmed7d_high", "recall:confirmed7d",
        "recall:confirmed7d_low", "recall:confirmed7d_high",
    )
} | {
    "cutpoint:error_budget_ratio", "cutpoint:latency_objective_seconds",
    *(f"method:grpc_server_errors:ratio_rate{window}" for window in ("5m", "30m", "1h", "6h")),
}  # fmt: skip
