"""How near precision and prevalence come without labels: `make bench-estimates`, a minute.

Scores of three kinds (tests/estimating.py), calibrated at a prevalence of 1 %, live at another: means and standard deviations
over a hundred draws of 20,000 rows, an hour's worth at six a second.

    rules          what the recording rules give: prevalence by Rogan and Gladen, precision by Bayes from it.
    CBPE           the mean probability of the positives, as calibrated.
    moved mean     that mean, moved to the new prevalence by the odds: what could be made of the sums of probabilities.
    moved each     each probability moved, then the mean: what a counter cannot tell.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from claims import Claim, report
from estimating import KINDS, Sums, moved_each

ROWS, DRAWS, SEED = 20_000, 100, 0
PREVALENCES = (0.003, 0.01, 0.03, 0.1)


def main() -> None:
    """Print the table and the claims."""
    print("| scores | prevalence, true | by the rules | precision, true | by the rules | CBPE | moved mean | moved each |")
    print("|" + " --- |" * 8)
    claims = []
    for kind in KINDS:
        cut, tpr, fpr = kind.cut()
        for prevalence in PREVALENCES:
            rng = np.random.default_rng(SEED)
            found = []
            for _ in range(DRAWS):
                probability, events = kind.draw(rng, ROWS, prevalence)
                sums = Sums.of(probability, cut)
                now = sums.prevalence(tpr, fpr)
                found.append(
                    (
                        now, events[probability >= cut].mean(), sums.precision(tpr, fpr), sums.cbpe()[0],
                        sums.moved(tpr, fpr), moved_each(probability, cut, now),
                    )
                )  # fmt: skip
            mean, spread = np.mean(found, axis=0), np.std(found, axis=0)
            estimates = " | ".join(f"{mean[i]:.3f} ± {spread[i]:.3f}" for i in range(2, 6))
            print(
                f"| {kind.name} | {prevalence:g} | {mean[0]:.4f} ± {spread[0]:.4f} | {mean[1]:.3f} | {estimates} |", flush=True
            )
            claims += [
                Claim(
                    f"precision, {kind.name}, {prevalence:g}: bias of the rules",
                    abs(mean[2] - mean[1]),
                    1,
                    0.02,
                    "",
                    least=False,
                ),
                Claim(f"prevalence, {kind.name}, {prevalence:g}: bias", abs(mean[0] - prevalence), 1, 0.001, "", least=False),
            ]
    print()
    report(claims)


if __name__ == "__main__":
    main()
