"""The page of a calibration: one HTML file that a person opens to judge it."""

from .page import report_html as report_html
from .page import write_report as write_report
