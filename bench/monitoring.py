"""What counting decisions costs: `make bench-monitoring`.

One request of one row against a 512-label model: numpy additions, beside one `Counter.inc` per label and counter, as a server
would do that kept a prometheus_client child per label; and the share of that request's in-process inference.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from claims import Claim, report, timed
from cutpoint.calibration import Plan, Policy, Scores, fit_labels
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.policy.policies import Active
from cutpoint.server.runs.session import OnnxSession
from prometheus_client import CollectorRegistry, Counter, generate_latest

LABELS, ROWS, CALLS = 512, 1, 2000


def main() -> None:
    """Print the claims."""
    rng = np.random.default_rng(0)
    names = tuple(f"label{i}" for i in range(LABELS))
    logits = rng.normal(size=(2000, LABELS)).astype(np.float32)
    targets = (logits + rng.normal(size=logits.shape) > 3).astype(np.uint8)
    fitted = fit_labels(Scores(logits, targets, names), Plan.of("max_fbeta=1"))
    policy = Policy(model="m", model_version=1, model_digest="0", created="", author="bench", data_digest="0", labels=fitted)
    metrics = Metrics()
    counters = metrics.add_model("m", 1, names, "0", "cpu")
    active = Active(policy, 1, 0.0)
    counters.apply(active)
    decisions = logits[:ROWS] >= active.thresholds

    kinds = ("decisions", "positives", "expected_positives", "expected_positives_variance")
    plain = [Counter(f"{kind}_total", "", ("label",), registry=CollectorRegistry()) for kind in kinds]
    children = [[counter.labels(name) for name in names] for counter in plain]

    def additions() -> None:
        for _ in range(CALLS):
            counters.add(decisions, active)

    def calls() -> None:
        for _ in range(CALLS // 50):
            for i in range(LABELS):
                children[0][i].inc(ROWS)
                children[1][i].inc(int(decisions[0, i]))
                children[2][i].inc(active.rates[i])
                children[3][i].inc(active.rates[i] * (1 - active.rates[i]))

    with tempfile.TemporaryDirectory() as folder:
        session = OnnxSession(_mlp(Path(folder) / "mlp.onnx"))
        row = {"x": rng.normal(size=(ROWS, 64)).astype(np.float32)}

        def infer() -> None:
            for _ in range(CALLS):
                session.run(row)

        add_s, call_s, infer_s = timed(additions, calls, infer)
    begun = time.perf_counter()
    generate_latest(metrics.registry)
    scrape_s = time.perf_counter() - begun
    us = 1e6 / CALLS
    report(
        [
            Claim("counting a row of 512 labels, against inc() per label", 50 * call_s * us, add_s * us, 50, "us"),
            Claim("counting a row of 512 labels, limit 50 us", add_s * us, 50, 1, "us", least=False),
            Claim("counting beside a run of mlp512 in process", add_s * us, infer_s * us, 3, "us", least=False),
            Claim("a scrape of 512 labels, limit 100 ms", scrape_s * 1e3, 100, 1, "ms", least=False),
        ]
    )


def _mlp(path: Path) -> Path:
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    sizes = (64, 256, LABELS)
    weights = [numpy_helper.from_array(rng.normal(size=sizes[i : i + 2]).astype(np.float32), f"w{i}") for i in range(2)]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w1"], ["logits"]),
    ]
    x, z = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", s]) for n, s in (("x", 64), ("logits", LABELS)))
    save(
        helper.make_model(
            helper.make_graph(nodes, "mlp512", [x], [z], weights), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
        ),
        path,
    )
    return path


if __name__ == "__main__":
    main()
