"""What a graph really answers: how its scores are to be read, and the rewritten graph held against it."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto

from ..bundle import Examples, Parity, Precision, mix_rows
from ..errors import BadBundle, BadConfig
from .graph import Form, log_odds
from .source import Output, Scores, Source

BATCH_SIZES = (1, 2, 5)  # and what is left
# Of a logit, times the largest logit when that is above 1. What is added makes onnxruntime join other operators than before,
# and so rounds at other places.
TOLERANCE: Final[dict[Precision, float]] = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 2e-2, "int8": 1e-4}
# A float32 probability next to 1 has log-odds of 16 or 17: what one rounding moves says nothing of the rows beside it.
MOVED = 1e-3  # of a probability
ALONE = 8  # rows that are also run alone
_DTYPES: dict[int, Any] = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64, TensorProto.FLOAT16: np.float16}


class Original:
    """The graph as it came: scores of an output as one array, whatever the graph makes of them."""

    def __init__(self, source: Source, output: Output) -> None:
        """Load the graph of `source`; BadBundle where onnxruntime cannot."""
        self._session = _session(source.model, str(source.path))
        self._source, self._output = source, output
        self.tolerance = TOLERANCE[source.precision]

    def __call__(self, x: NDArray[np.float32]) -> NDArray[Any]:
        """Scores of x; of a ZipMap, its maps as columns. BadBundle where onnxruntime cannot run it."""
        found = _run(self._session, self._output.name, self._source.input, x.astype(_DTYPES[self._source.element]))
        keys = self._output.classes
        return np.array([[row[key] for key in keys] for row in found]) if keys else np.asarray(found)


def read_form(
    found: NDArray[Any], lead: tuple[int, ...], labels: Sequence[str], output: Output, scores: Scores, classes: Sequence[str]
) -> Form:
    """How the scores `found` of rows, or windows of rows, `lead` are to be read as those of `labels`.

    Raises:
        BadConfig: they are of another number of labels, or of other ones.
        BadBundle: they are not scores of these rows, or not what they are taken for.
    """
    if len(labels) == 1 and found.shape == lead:
        columns: Any = "none"
    elif found.shape == (*lead, len(labels)):
        columns = "label"
    elif len(labels) == 1 and found.shape == (*lead, 2):
        columns = "classes"
    elif found.shape[:-1] == lead:
        wanted = f"{found.shape[-1]}, one per column of output '{output.name}'"
        raise BadConfig.of("labels", list(labels), wanted + (", or 1, the positive class" if found.shape[-1] == 2 else ""))
    else:
        raise BadBundle.of(f"shape of output '{output.name}'", list(found.shape), f"{[*lead, len(labels)]}, with this task")
    form = Form(scores, columns, _positive(labels, classes))
    _check_range(found, form, f"output '{output.name}'")
    return form


def measure(
    original: Original, rewritten: onnx.ModelProto, form: Form, x: NDArray[np.float32], window_counts: Sequence[int]
) -> Parity:
    """Compare the rewritten graph with the log-odds of the original's scores, in batches of several sizes.

    Args:
        original: the graph that was rewritten.
        rewritten: to what.
        form: of the original's scores.
        x: rows.
        window_counts: other numbers of windows to compare on.

    Raises:
        BadBundle: a batch cannot be run, shapes differ, a logit is not finite, they are further apart than the tolerance, or
            a row's score depends on the rows beside it.
    """
    session = _session(rewritten, "the rewritten graph")
    parts = [part for part in np.split(x, np.cumsum(BATCH_SIZES)) if len(part)]
    parts += [np.ascontiguousarray(x[:2, :count]) for count in window_counts]
    worst, largest = 0.0, 0.0
    for part in parts:
        wanted, logits = log_odds(original(part), form), _run(session, "logits", "x", part)
        if logits.dtype != np.float32 or logits.shape != wanted.shape:
            raise BadBundle.of("logits", f"{logits.dtype} {list(logits.shape)}", f"float32 {list(wanted.shape)}")
        if not np.isfinite(logits).all():
            raise BadBundle.of("logits", "NaN or infinite somewhere", "finite numbers")
        worst = max(worst, float(np.abs(wanted - logits).max()))
        largest = max(largest, float(np.abs(wanted).max()))
    allowed = original.tolerance * max(1.0, largest)
    if worst > allowed:
        raise BadBundle.of(
            "parity with the original graph", f"{worst:.3g} apart", f"at most {allowed:.3g}; nothing was written"
        )
    some = np.unique(np.linspace(0, len(x) - 1, min(ALONE, len(x))).astype(int))
    together = _run(session, "logits", "x", x)[some]
    alone = np.concatenate([_run(session, "logits", "x", x[i : i + 1]) for i in some])
    moved = float(np.abs(np.tanh(together / 2) - np.tanh(alone / 2)).max()) / 2
    if moved > MOVED:
        raise BadBundle.of("probability of a row alone and in a batch", f"{moved:.3g} apart", "the same in any company")
    return Parity(
        max_abs_difference=worst,
        tolerance=allowed,
        batch_sizes=tuple(sorted({len(part) for part in parts})),
        window_counts=tuple(sorted({x.shape[1], *window_counts})) if window_counts else (),
        rows=sum(len(part) for part in parts),
        batch_difference=float(np.abs(together - alone).max()),
    )


def record_examples(rewritten: onnx.ModelProto, x: NDArray[np.float32]) -> Examples | None:
    """Rows mixed from those of `x`, and the rewritten graph's logits of them; None where these are not all finite."""
    mixed = mix_rows(x)
    logits = _run(_session(rewritten, "the rewritten graph"), "logits", "x", mixed)
    return Examples(mixed, logits) if np.isfinite(logits).all() else None


def _positive(labels: Sequence[str], classes: Sequence[str]) -> int:
    """Which of two classes is the one label; BadConfig where the classes have names and the labels are others."""
    if len(classes) == 2 and len(labels) == 1:
        if labels[0] not in classes:
            raise BadConfig.of("labels", list(labels), f"one of {list(classes)}, the classes of the graph: the positive one")
        return classes.index(labels[0])
    if len(classes) == len(labels) and list(classes) != list(labels):
        raise BadConfig.of("labels", list(labels), f"{list(classes)}, the classes of the graph, in that order")
    return 1


def _check_range(found: NDArray[Any], form: Form, name: str) -> None:
    if not np.isfinite(found).all():
        raise BadBundle.of(name, "NaN or infinite somewhere", "finite numbers")
    if form.columns != "classes" and form.positive != 1:
        raise BadConfig.of("labels", "the first of two classes", f"the second: {name} has one column, of that class")
    if form.scores == "logits":
        if form.columns == "classes" and np.array_equal(found[..., 0], -found[..., 1]):
            raise BadBundle.of(name, "one decision function with both signs", "probabilities: convert without raw scores")
        return
    low, high = float(found.min()), float(found.max())
    if low < -1e-6 or high > 1 + 1e-6:
        raise BadBundle.of(name, f"from {low:.4g} to {high:.4g}", "probabilities, 0 to 1; or they are logits (--scores)")
    if form.columns == "classes" and np.abs(found.sum(axis=-1) - 1).max() > 1e-3:
        raise BadBundle.of(name, "two columns that do not sum to 1", "two classes; two labels are task multilabel")


def _session(model: onnx.ModelProto, name: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class of its own for each of its status codes
        raise BadBundle(f"{name} cannot be loaded by onnxruntime: {' '.join(str(error).split())[:300]}") from error


def _run(session: Any, output: str, name: str, x: NDArray[Any]) -> Any:
    try:
        return session.run([output], {name: x})[0]
    except Exception as error:  # as above
        raise BadBundle(f"the graph fails on a batch {list(x.shape)}: {' '.join(str(error).split())[:300]}") from error
