"""From a bundle to its next version: the fastest computation here that detects as well, with its cuts and its profile."""

import contextlib
import datetime
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from cutpoint.trainer.export.graph import name_graph
from cutpoint.trainer.export.precision import lower_precision
from cutpoint.trainer.export.quantize import calibration_batches
from cutpoint.trainer.score import batch_size_of, check_shape, labels_of
from numpy.typing import NDArray

from ..bundle import (
    MODEL_FILE,
    POLICY_FILE,
    PROFILE_FILE,
    Absent,
    Bundle,
    Computation,
    Detection,
    Examples,
    Manifest,
    Measured,
    Precision,
    Profile,
    mix_rows,
    next_version,
    read_examples,
    sha256_of,
    write_bundle,
)
from ..calibration import Plan, Policy, fit_policy
from ..dataset import Dataset
from ..errors import BadBundle, BadConfig, BadData, BadScores, CutpointError, Uncalibratable
from .choice import Choice, Load, choose
from .costly import costly_layers
from .detection import Judge, Judged, plan_of
from .process import Process
from .rounds import ROUNDS, SLOTS_S, Session, measure
from .variants import WEIGHT_BITS, computations, settings_of

MAX_AP_LOSS = 0.002
MINUTES = 3.0
_BYTES = (2 << 30) - (1 << 20)  # what one file holds


@dataclass(frozen=True)
class Asked:
    """What to try, and what it may cost.

    Attributes:
        precisions: of fp32, int8, bf16 and fp16.
        providers: empty for all that an onnxruntime here has.
        pythons: other interpreters, whose builds of onnxruntime are tried too.
        load: what is to be fast: many callers, or one.
        plan: what cuts are chosen for; None for what the bundle's policy says.
        max_ap_loss: what average precision may lose, mean over the labels.
        minutes: about how long the rounds may take.
        callers: that wait at a time when it is busy.
        rounds: at least; there are more while there is time.
        request_rows: rows of a request.
        slots_s: seconds of a first look, and of a measurement at least and at most.
    """

    precisions: tuple[str, ...] = ("fp32", "int8", "bf16")
    providers: tuple[str, ...] = ()
    pythons: tuple[Path, ...] = ()
    load: Load = "busy"
    plan: Plan | None = None
    max_ap_loss: float = MAX_AP_LOSS
    minutes: float = MINUTES
    rounds: int = ROUNDS
    callers: int = 16
    request_rows: int = 1
    slots_s: tuple[float, float, float] = SLOTS_S


@dataclass(frozen=True)
class Tuned:
    """What came of it; `path` is None where nothing was to be written."""

    profile: Profile
    policy: Policy
    path: Path | None


@dataclass
class _Bench:
    """Everything that is open while a model is tuned."""

    bundle: Bundle
    manifest: Manifest
    asked: Asked
    folder: Path
    graphs: dict[tuple[Precision, int | None], Path | str] = field(default_factory=dict)  # or why there is none
    sessions: dict[Computation, Session] = field(default_factory=dict)
    judged: dict[Computation, Judged] = field(default_factory=dict)
    absent: list[Absent] = field(default_factory=list)


def tune_model(
    bundle: Bundle,
    models: Path,
    dataset: Dataset,
    valid: NDArray[np.int64],
    others: NDArray[np.int64],
    asked: Asked,
    *,
    write: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Tuned:
    """Measure what this machine can run a model by, and write the best of it as the model's next version.

    Args:
        bundle: with a manifest, and a policy unless `asked` has a plan.
        models: the repository that the new version goes to.
        dataset: labelled data.
        valid: rows that detection is measured and cuts are chosen on; they trained nothing.
        others: rows for the ranges of int8.
        asked: what to try.
        write: whether to write it.
        say: told how far it is.

    Raises:
        BadConfig: there is no plan, or a setting is wrong.
        BadBundle: no manifest, or a graph that is too large for one file.
        BadData: labels or shapes are not the model's.
        Uncalibratable: a label of the reference gets no cut.
    """
    manifest = bundle.manifest
    if manifest is None:
        raise BadBundle(f"{bundle.path} has no manifest.json: `cutpoint import` makes a bundle of anybody's ONNX, labels named")
    plan = asked.plan or (plan_of(bundle.policy) if bundle.policy is not None else None)
    if plan is None:
        raise BadConfig.of("objective", "not given, and the bundle has no policy.json", "--objective NAME=VALUE")
    for name, least in (("callers", 1), ("request_rows", 1), ("rounds", ROUNDS if write else 1)):
        if getattr(asked, name) < least:
            raise BadConfig.of(name, getattr(asked, name), f"{least} or more")
    labels_of(bundle, dataset, valid)
    check_shape(list(manifest.input.shape), dataset)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = _Bench(bundle, manifest, asked, folder)
        _write_rows(bench, dataset, valid)
        _make_graphs(bench, dataset, others)
        processes = [stack.enter_context(Process(python)) for python in (None, *asked.pythons)]
        judge = _open_all(bench, processes, dataset, valid, plan, say)
        measured = _measure(bench, len(valid), judge, say)
        choice = choose(measured, asked.load)
        return _finish(bench, models, plan, measured, choice, write)


def _write_rows(bench: _Bench, dataset: Dataset, valid: NDArray[np.int64]) -> None:
    shape = (len(valid), *dataset.x.shape[1:])
    rows = np.lib.format.open_memmap(bench.folder / "x.npy", mode="w+", dtype=np.float32, shape=shape)
    at = 0
    for chosen, x in dataset.batches(valid, batch_size_of(dataset)):
        if not np.isfinite(x).all():
            row = chosen[int(np.argwhere(~np.isfinite(x))[0][0])]
            raise BadData.of(f"{dataset.path}: x[{row}]", "NaN or infinite somewhere", "finite numbers")
        rows[at : at + len(x)] = x
        at += len(x)
    rows.flush()
    count = min(len(valid), bench.asked.callers * bench.asked.request_rows)
    some = np.linspace(0, len(valid) - 1, count).astype(np.int64)
    np.save(bench.folder / "requests.npy", rows[some])


def _make_graphs(bench: _Bench, dataset: Dataset, others: NDArray[np.int64]) -> None:
    """The bundle's graph as one file, and those of lower precision made of it."""
    source = bench.folder / "source.onnx"
    model = onnx.load(bench.bundle.model_path)
    if model.ByteSize() > _BYTES:
        raise BadBundle.of(f"{bench.bundle.model_path}: size", f"{model.ByteSize() >> 20} MiB", "less than 2 GiB, as one file")
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"node {i}"
    onnx.save(model, source)
    bench.graphs[bench.manifest.precision, None] = source
    if bench.manifest.precision != "fp32" or "int8" not in bench.asked.precisions:
        return
    layers = costly_layers(source, np.load(bench.folder / "requests.npy")[: bench.asked.request_rows])
    for bits in WEIGHT_BITS:
        target = bench.folder / f"int8-{bits}.onnx"
        try:
            lower_precision(source, target, "int8", calibration_batches(dataset, others), only=layers, weight_bits=bits or 7)
            bench.graphs["int8", bits] = target
        except BadBundle as error:
            bench.graphs["int8", bits] = str(error)


def _open_all(
    bench: _Bench,
    processes: Sequence[Process],
    dataset: Dataset,
    valid: NDArray[np.int64],
    plan: Plan,
    say: Callable[[str], None],
) -> Computation:
    """Open and judge every computation; returns the reference, by which nothing is lowered, on the default provider."""
    asked, source = bench.asked, bench.manifest.precision
    reference = Computation(graph=source)
    judge: Judge | None = None
    for process in processes:
        process.requests(bench.folder / "requests.npy", asked.callers, asked.request_rows)
        wanted = computations(process.machine, source, asked.precisions, asked.providers)
        for computation in [reference, *wanted] if judge is None else wanted:
            if computation in bench.sessions or any(each.computation == computation for each in bench.absent):
                continue
            try:
                logits, moved = _open(bench, process, computation)
                if judge is None:  # the reference comes first
                    tolerance = bench.manifest.parity.tolerance
                    judge = Judge(
                        logits, dataset, valid, bench.manifest.labels, plan, max_ap_loss=asked.max_ap_loss, tolerance=tolerance
                    )
                judged = judge.judge(computation, logits, moved)
            except (BadConfig, BadBundle, BadScores, Uncalibratable) as error:
                if judge is None:
                    raise
                bench.sessions.pop(computation, None)
                bench.absent.append(Absent(computation=computation, why=str(error)))
                say(f"{computation}: cannot be had: {error}")
                continue
            bench.judged[computation] = judged
            say(f"{computation}: average precision {judged.detection.average_precision:.4f}{_refusal(judged.detection)}")
    for name in asked.providers:
        tried = [*bench.sessions, *(each.computation for each in bench.absent)]
        if all(each.provider != name for each in tried):
            raise BadConfig.of(
                "--provider", name, "one that an onnxruntime here has; --python PATH names another's interpreter"
            )
    return reference


def _open(bench: _Bench, process: Process, computation: Computation) -> tuple[NDArray[np.float32], float]:
    graph = bench.graphs[computation.graph, computation.weight_bits]
    if isinstance(graph, str):
        raise BadBundle(graph)
    said = process.open(str(computation), graph, settings_of(computation, process.machine.cores))
    bench.sessions[computation] = Session(computation, process, said["wide"], said["batchable"])
    return process.logits(str(computation), bench.folder / "x.npy", bench.folder / "logits.npy")


def _measure(bench: _Bench, valid_rows: int, reference: Computation, say: Callable[[str], None]) -> Measured:
    asked = bench.asked
    sessions = [
        Session(each.computation, each.process, each.wide, each.batchable, bool(bench.judged[c].detection.refused))
        for c, each in bench.sessions.items()
    ]
    assert any(each.computation == reference for each in sessions)  # it opens, or nothing does
    busy, idle = measure(sessions, 60 * asked.minutes, rounds=asked.rounds, slots_s=asked.slots_s, say=say)
    return Measured(
        callers=asked.callers, request_rows=asked.request_rows, valid_rows=valid_rows, ap_loss_allowed=asked.max_ap_loss,
        detection=tuple(each.detection for each in bench.judged.values()), busy=busy, idle=idle, absent=tuple(bench.absent),
    )  # fmt: skip


def _finish(bench: _Bench, models: Path, plan: Plan, measured: Measured, choice: Choice, write: bool) -> Tuned:
    computation, bundle = choice.computation, bench.bundle
    judged, session = bench.judged[computation], bench.sessions[computation]
    version = next_version(models, bundle.name)
    lowered = computation != Computation(graph=bench.manifest.precision)
    manifest = bench.manifest.model_copy(
        update={
            "version": version,
            "precision": computation.graph,
            "cost": judged.cost if lowered else bench.manifest.cost,
            "parity": bench.manifest.parity.model_copy(update={"batch_difference": judged.detection.batch_difference}),
            "provenance": bench.manifest.provenance.model_copy(update={"created": _now()}),
            "digests": {},
        }
    )
    graph = bench.graphs[computation.graph, computation.weight_bits]
    assert isinstance(graph, Path)  # it was opened
    examples = _examples(bench, session)  # before the file is touched
    chosen = bench.folder / MODEL_FILE
    chosen.write_bytes(graph.read_bytes())
    name_graph(chosen, manifest)
    digest = sha256_of(chosen)
    policy = fit_policy(
        judged.scores, plan, model=bundle.name, model_version=version, model_digest=digest, created=_now(),
        author="cutpoint tune",
    )  # fmt: skip
    profile = Profile(
        graph_digest=digest,
        machine=session.process.machine,
        computation=computation,
        way=choice.way,
        wide_threads=session.process.machine.cores if choice.wide or choice.way.wide else 1,
        measured=measured,
        reason=choice.reason,
        lost=choice.lost,
    )
    if not write:
        return Tuned(profile, policy, None)
    beside = {POLICY_FILE: policy.to_json(), PROFILE_FILE: profile.to_json()}
    return Tuned(profile, policy, write_bundle(models, manifest, chosen, examples, beside))


def _examples(bench: _Bench, session: Session) -> Examples | None:
    """The bundle's recorded rows, or some mixed from the data, with the logits that this computation gives."""
    recorded = read_examples(bench.bundle.path)
    x = recorded.x if recorded is not None else mix_rows(np.load(bench.folder / "x.npy", mmap_mode="r"))
    np.save(bench.folder / "examples.npy", x)
    try:
        logits, _ = session.process.logits(session.name, bench.folder / "examples.npy", bench.folder / "example_logits.npy")
    except CutpointError:
        return None
    return Examples(x, logits) if np.isfinite(logits).all() else None


def _refusal(detection: Detection) -> str:
    return f"; refused: {detection.refused}" if detection.refused else ""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
