"""Which calibrator at how many positives: `make bench-probabilities`.

Rare events with a known truth: 1.8 % positives, and a model whose logit is 1.4 times the true one and shifted by log 99, as
over-confident training with a weight of 99 makes it. Each kind is fitted on draws with few positives and judged on fresh rows
by its log-loss skill (1 - log-loss over that of always answering the prevalence), beside the truth itself. All but the first
column know the shift, as an exported graph does, which has it undone. Prints the table of docs/calibration.md.
"""

import numpy as np
from claims import Claim, report
from cutpoint.calibration import Calibrator, Curve, exact_curve, fit_calibrator, log_loss_skill
from numpy.typing import NDArray

SHIFT, STRETCH = float(np.log(99)), 1.4
KINDS = ("temperature", "platt", "beta", "isotonic", "venn_abers", "auto")
POSITIVES = (10, 30, 100, 1000)
DRAWS = 40


def main() -> None:
    """Print the table and the claims."""
    rng = np.random.default_rng(0)
    true, fresh = sample(rng, 400_000)
    oracle = log_loss_skill(exact_curve(true, fresh))
    judge = exact_curve(model_of(true), fresh)
    print("| positives | truth | temperature, shift unknown | shift alone |", " | ".join(KINDS), "|")
    print("| --- " * (4 + len(KINDS)) + "|")
    alone = skill(judge, Calibrator(shift=SHIFT))
    autos = {}
    for positives in POSITIVES:
        rows = round(positives / fresh.mean())
        curves = [exact_curve(model_of(z), y) for z, y in (sample(rng, rows) for _ in range(DRAWS)) if y.sum() > 1]
        blind = np.mean([skill(judge, fit_calibrator(curve, "temperature")) for curve in curves])
        found = {
            kind: float(np.mean([skill(judge, fit_calibrator(curve, kind, shift=SHIFT)) for curve in curves])) for kind in KINDS
        }
        autos[positives] = found["auto"]
        cells = (f"{oracle:.3f}", f"{blind:.2f}", f"{alone:.3f}", *(f"{found[kind]:.3f}" for kind in KINDS))
        print(f"| {positives} |", " | ".join(cells), "|", flush=True)
    print()
    targets = {10: 0.75, 30: 0.9, 100: 0.95, 1000: 0.98}
    report([Claim(f"skill of auto at {n} positives, beside the truth's", autos[n], oracle, targets[n], "") for n in POSITIVES])


def sample(rng: np.random.Generator, rows: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """True log-odds and outcomes of rows."""
    true = rng.normal(-6, 2.2, rows)
    return true, (rng.random(rows) < 1 / (1 + np.exp(-true))).astype(np.uint8)


def model_of(true: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the model says instead of the truth."""
    return STRETCH * true + SHIFT


def skill(judge: Curve, calibrator: Calibrator) -> float:
    """Log-loss skill of a calibrator on fresh rows."""
    return log_loss_skill(judge, calibrator.log_odds)


if __name__ == "__main__":
    main()
