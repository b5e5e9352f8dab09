"""Pages that a person opens to judge a calibration or a model: one HTML file each, data inside, no request outside."""

from .page import assemble_page as assemble_page
from .page import report_html as report_html
from .page import write_page as write_page
from .page import write_report as write_report
