"""The page of a model: one HTML file beside it, that a person opens to judge it."""

from pathlib import Path

import numpy as np
from cutpoint.bundle import Bundle
from cutpoint.dataset import Dataset
from cutpoint.report import assemble_page, write_page
from numpy.typing import NDArray

from ..run import Run
from .payload import model_data

REPORT_FILE = "report.html"


def model_html(bundle: Bundle, dataset: Dataset, rows: NDArray[np.int64], split: str = "test", run: Run | None = None) -> str:
    """The page of a model: self-contained, asks for nothing from outside, works from a file.

    Args:
        bundle: with its policy, where it has one.
        dataset: with y.
        rows: indices of rows that neither trained nor calibrated the model.
        split: what to call them.
        run: that the bundle was exported from; without it there is nothing of training.

    Raises:
        BadData: no y, or labels or shapes that are not the model's.
        BadConfig: the bundle is not an export of `run`.
    """
    title = f"{bundle.name}/{bundle.version}: model report"
    return assemble_page("model.html", title, model_data(bundle, dataset, rows, split, run))


def write_model_report(
    path: Path, bundle: Bundle, dataset: Dataset, rows: NDArray[np.int64], split: str = "test", run: Run | None = None
) -> Path:
    """Write `model_html` to `path`, whole or not at all, and return the path; raises what it raises."""
    return write_page(path, model_html(bundle, dataset, rows, split, run))
