"""Write the dashboards: `python deploy/grafana/build.py [FOLDER]`, FOLDER being deploy/grafana/dashboards by default."""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from overview import overview
from serving import serving


def main() -> None:
    """Write one file a page."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent / "dashboards"
    for dashboard in (overview(), serving()):
        text = json.dumps(dashboard, cls=JSONEncoder, indent=2, ensure_ascii=False)
        (target / f"{dashboard.uid}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
