"""The main job on real ECG recordings: `python examples/mitbih/run.py MITBIH.npz OUT`.

Arranges the data, then trains, exports, calibrates, serves, scores the held-out records through the client, recalibrates over
gRPC for a recall of 0.9, and prints what was measured beside what the calibration promised.
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
    prepare(source, out / "data")
    config = out / "train.yaml"
    config.write_text((HERE / "train.yaml").read_text().replace("path: mitbih", f"path: {out / 'data'}"))
    console.print(outcome_table(JOB, main_job(JOB, config, out)))
