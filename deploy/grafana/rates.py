"""Queries of the serving page: which series, and the same few sums over them."""

HERE = 'instance=~"$instance"'
MODEL = f'{HERE},model=~"$model"'
# What clients ask for; health checks and reflection are not work.
RPC = f'{HERE},grpc_service=~"inference[.].+|cutpoint[.].+"'
# Codes that are the server's fault, as the rules have it: a caller's mistake or a missing model spends no error budget.
FAULT = f'{RPC},grpc_code=~"Unknown|Internal|Unavailable|DataLoss|DeadlineExceeded|ResourceExhausted"'
EVERY = "$__rate_interval"


def quantile(q: float, metric: str, by: str = "", of: str = MODEL, window: str = EVERY) -> str:
    """A quantile of a histogram over the chosen replicas, apart for the labels `by`."""
    kept = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({kept}) (rate({metric}_bucket{{{of}}}[{window}])))"


def rate(metric: str, by: str, of: str = MODEL) -> str:
    """A counter per second, apart for the labels `by`."""
    return f"sum by ({by}) (rate({metric}{{{of}}}[{EVERY}]))"


def increased(metric: str, by: str, window: str) -> str:
    """What a counter gained in a window, apart for the labels `by`."""
    return f"sum by ({by}) (increase({metric}{{{MODEL}}}[{window}]))"


def mean(metric: str, by: str = "", of: str = MODEL) -> str:
    """The mean of a histogram's observations; absent where there were none."""
    kept = f" by ({by})" if by else ""
    return f"sum{kept} (rate({metric}_sum{{{of}}}[{EVERY}])) / (sum{kept} (rate({metric}_count{{{of}}}[{EVERY}])) > 0)"


def error_ratio(window: str, by: str = "") -> str:
    """Share of RPCs that failed by the server's fault; 0 where none did, absent where there were none."""
    kept = f" by ({by})" if by else ""
    handled = f"(sum{kept} (rate(grpc_server_handled_total{{{RPC}}}[{window}])) > 0)"
    return f"(sum{kept} (rate(grpc_server_handled_total{{{FAULT}}}[{window}])) or 0 * {handled}) / {handled}"


def burn(window: str) -> str:
    """How many times too fast the error budget is spent by the method that does so fastest: what the alert looks at."""
    return f"max(method:grpc_server_errors:ratio_rate{window}) / scalar(cutpoint:error_budget_ratio)"
