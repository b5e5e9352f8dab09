"""The main job on real ECG recordings: `python examples/mitbih/run.py MITBIH.npz OUT [CONFIG.yaml]`.

Arranges the data, then trains, exports, calibrates, serves, scores the held-out records through the client, recalibrates over
gRPC for a recall of 0.9, and prints what was measured beside what the calibration promised. The configuration is train.yaml
here unless said; monitor.yaml holds out more records, for monitor.py.
"""

import sys
from pathlib import Path

from cutpoint.demo.commands import console
from cutpoint.demo.job import Job, main_job, outcome_table
from prepare import prepare

HERE = Path(__file__).parent
JOB = Job(model="mitbih", unseen="records of other patients")

if __name__ == "__main__":
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    wanted = Path(sys.argv[3]) if len(sys.argv) > 3 else HERE / "train.yaml"
    prepare(source, out / "data")
    config = out / "train.yaml"
    config.write_text(wanted.read_text().replace("path: mitbih", f"path: {out / 'data'}"))
    console.print(outcome_table(JOB, main_job(JOB, config, out)))
