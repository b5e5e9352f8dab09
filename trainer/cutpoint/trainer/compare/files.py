"""What a comparison leaves: compare.json, compare.html and compare.png."""

from pathlib import Path

from cutpoint.bundle import write_whole
from cutpoint.report import assemble_page, write_page

from .outcome import Comparison
from .picture import plot_comparison


def comparison_html(comparison: Comparison) -> str:
    """The page of a comparison: self-contained, asks for nothing from outside, works from a file."""
    return assemble_page("compare.html", f"{comparison.model}: comparison", comparison.model_dump(mode="json"))


def write_comparison(folder: Path, comparison: Comparison) -> tuple[Path, Path, Path]:
    """Write the three files into `folder`, each whole or not at all, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "compare.json"
    write_whole(record, comparison.model_dump_json(indent=1).encode() + b"\n")
    page = write_page(folder / "compare.html", comparison_html(comparison))
    return record, page, plot_comparison(folder / "compare.png", comparison)
