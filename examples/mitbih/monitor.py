"""Watch the ECG model with a real Prometheus while patients with far more events come in.

    python examples/mitbih/run.py MITBIH.npz OUT examples/mitbih/monitor.yaml
    python examples/mitbih/monitor.py OUT

Serves the trained model, calibrates it on calm patients, and plays a ward of heart monitors some hundred times as fast as they
recorded: calm sequences, whose patients are then calibrated on too, the patients with far more events, and calm ones again. A
Prometheus with the shipped rules, their durations divided as much, looks on. Prints after each phase what the dashboards'
panels show beside what is true, and writes monitor.json and monitor.png. Exits with 0 if CutpointPositiveRateHigh was silent,
fired and resolved when it should, with 1 if not, with 2 if something failed.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from cutpoint.calibration import Policy
from cutpoint.client import Client
from cutpoint.dataset import Dataset, read_dataset
from cutpoint.demo.commands import console, say, serving
from cutpoint.demo.job import targets_of
from cutpoint.errors import BadConfig, CutpointError
from cutpoint.terminal import policy_table
from cutpoint.trainer import read_run

REHEARSAL = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
sys.path.insert(1, str(REHEARSAL))

from boards import Boards  # noqa: E402
from cohorts import Cohorts, calibrating, cohorts  # noqa: E402
from findings import Finding, finding  # noqa: E402
from picture import Run, draw  # noqa: E402
from rehearsal import LEAST_MS, Prometheus, prometheus, until  # noqa: E402
from ward import Ward  # noqa: E402

MODEL, VERSION, ALERT = "mitbih", "1", "CutpointPositiveRateHigh"
RATE_HZ = 360


class Show:
    """One run through the phases."""

    def __init__(
        self, ward: Ward, found: Prometheus, boards: Boards, chosen: Cohorts, seed: int, recalibrate: Callable[[], object]
    ) -> None:
        self.ward, self.found, self.boards, self.chosen, self.recalibrate = ward, found, boards, chosen, recalibrate
        self.labels = tuple(ward.dataset.label_names)
        self.begun_s = self.policy_s = time.time()
        self.phases: list[tuple[str, float]] = []
        self.findings: list[Finding] = []
        self._rng = np.random.default_rng(seed)

    @property
    def watched(self) -> str:
        """The label of which there will be far more."""
        return self.labels[self.chosen.label]

    def phase(self, name: str, rows: np.ndarray, least_h: float, most_h: float, done: Callable[[], bool]) -> Finding:
        """Stream the rows over and over in random order, each once a pass, until it is done; whole passes at first."""
        begun_s, first = time.time(), len(self.ward.sent)
        self.phases.append((name, self.hour(begun_s)))
        for turn, row in enumerate(self._shuffled(rows)):
            self.ward.stream(int(row))
            hours = self.ward.hours(time.time() - begun_s)
            if turn + 1 >= len(rows) and ((hours >= least_h and done()) or hours >= most_h):
                break
        now_s = time.time()
        truths = {
            "hour": self.ward.truth(now_s - self.seconds(1), now_s),
            "policy": self.ward.truth(self.policy_s),
            "reported": self.ward.reported(),
        }
        made = finding(name, len(self.ward.sent) - first, hours, self.boards, self.labels, truths, self.states())
        self.findings.append(made)
        console.print(made.table())
        return made

    def _shuffled(self, rows: np.ndarray) -> Iterator[int]:
        while True:
            yield from self._rng.permutation(rows)

    def hour(self, at_s: float) -> float:
        """Hours of the ward since the start."""
        return self.ward.hours(at_s - self.begun_s)

    def seconds(self, hours: float) -> float:
        """How long so many hours of the ward take here."""
        return hours * 3600 / self.ward.speed

    def states(self) -> dict[str, dict[str, str]]:
        """State by name and label of every alert that is pending or firing now."""
        found: dict[str, dict[str, str]] = {}
        for alert in self.found.get("alerts")["alerts"]:
            found.setdefault(alert["labels"]["alertname"], {})[alert["labels"].get("label", "")] = alert["state"]
        return found

    def state(self) -> str | None:
        """Of the alert on the label that is watched."""
        return self.found.states(ALERT).get(self.watched)

    def play(self) -> dict[str, bool]:
        """All phases, and whether each thing happened that should."""
        self.phase("calm", self.chosen.calm, least_h=4, most_h=4, done=lambda: True)
        calm = self.history(self.watched)
        self.recalibrate()
        self.policy_s = time.time()
        self.phase("surge", self.chosen.surge, least_h=1.5, most_h=6, done=lambda: self.state() == "firing")
        surge = self.history(self.watched)[len(calm) :]
        self.phase("calm again", self.chosen.calm, least_h=1.5, most_h=10, done=lambda: not self.found.states(ALERT))
        alert = f"{ALERT} of {self.watched}"
        return {
            f"{alert} was silent while calm": not calm,
            f"{alert} was pending, then firing in the surge": surge[:1] == ["pending"] and "firing" in surge,
            f"{alert} was resolved when calm again": self.state() is None,
            "the server's outcomes are those that were reported": self.told(),
        }

    def told(self) -> bool:
        """Whether the server counts outcomes as they are."""
        truth = self.ward.reported()
        kept = self.ward.client.outcome_summary(self.ward.model).labels
        return all(
            (each.true_positives, each.false_positives, each.false_negatives) == (right, alerts - right, events - right)
            for each, right, alerts, events in zip(kept, truth.right, truth.alerts, truth.events, strict=True)
        )

    def history(self, label: str) -> list[str]:
        """States of the alert on a label at every moment so far at which it had one."""
        return [state for _, state in self.moments().get(label, [])]

    def moments(self) -> dict[str, list[tuple[float, str]]]:
        """Hour and state by label, of every moment at which the alert had one."""
        by_label: dict[str, list[tuple[float, str]]] = {}
        for alert, values in self.boards.alerts(self.begun_s, time.time()):
            if alert["alertname"] == ALERT:
                by_label.setdefault(alert["label"], []).extend((self.hour(at), alert["alertstate"]) for at, _ in values)
        return {label: sorted(moments) for label, moments in by_label.items()}

    def changes(self, label: str) -> str:
        """What became of the alert on a label, in words: each state with its first hour, "silent" where it ended."""
        found: list[tuple[float, str]] = []
        last_h, step_h = 0.0, self.ward.hours(LEAST_MS / 1000)
        for hour, state in self.moments().get(label, []):
            if found and hour - last_h > 1.5 * step_h:
                found.append((last_h + step_h, "silent"))
            if not found or found[-1][1] != state:
                found.append((hour, state))
            last_h = hour
        if found and label not in self.found.states(ALERT):
            found.append((last_h + step_h, "silent"))
        return ", ".join(f"{state} at {hour:.2f} h" for hour, state in found) or "silent"

    def fired(self) -> list[str]:
        """Every alert that fired at any time, as "name label"."""
        fired = [alert for alert, _ in self.boards.alerts(self.begun_s, time.time()) if alert["alertstate"] == "firing"]
        return sorted({f"{alert['alertname']} {alert.get('label', '')}".strip() for alert in fired})

    def picture(self, path: Path, title: str) -> None:
        """Draw the run."""
        end_s = time.time()
        names = (
            "live rate", "expected rate", "lower limit", "upper limit", "prevalence from the rate", "prevalence from scores",
            "prevalence: calibration's",
        )  # fmt: skip
        courses = {
            name: {
                label: [[self.hour(at), value] for at, value in points]
                for label, points in self.boards.course(name, self.begun_s, end_s).items()
            }
            for name in names
        }
        moments = np.arange(self.begun_s + 2, end_s, LEAST_MS / 1000)
        hour_s = self.seconds(1)
        for name, since in (
            ("true prevalence, 1 h", lambda at: at - hour_s),
            ("true prevalence, policy", lambda at: self.policy_s if at > self.policy_s else self.begun_s),
        ):
            truths = [(at, self.ward.truth(since(at), at)) for at in moments]
            courses[name] = {
                label: [[self.hour(at), float(truth.events[i] / truth.windows)] for at, truth in truths if truth.windows]
                for i, label in enumerate(self.labels)
            }
        labels = tuple(sorted(self.labels, key=lambda label: label != self.watched))
        step_h = self.ward.hours(LEAST_MS / 1000)
        draw(Run(title, labels, self.phases, courses, self.moments(), step_h), path)


def arguments() -> argparse.Namespace:
    """What the user asked for."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("made", type=Path, help="the folder that run.py wrote")
    words.add_argument("--run", type=Path, help="the training run, for its data and splits (default: MADE/run)")
    words.add_argument("--models", type=Path, help="folder of models to serve (default: MADE/models)")
    words.add_argument("--out", type=Path, help="where monitor.json and monitor.png go (default: MADE/monitor)")
    words.add_argument("--objective", default="max_fbeta=1", help="what thresholds are chosen for (default: %(default)s)")
    words.add_argument("--calm", type=int, default=22, help="how many calm sequences there are (default: %(default)s)")
    words.add_argument(
        "--choose", choices=("rates", "events"), default="rates",
        help="calm sequences are chosen so that together they have the positive rates that the calibration promises, or its"
        " shares of true events, whatever the model says of them (default: %(default)s)",
    )  # fmt: skip
    words.add_argument("--beds", type=int, default=4, help="monitors at a time (default: %(default)s)")
    words.add_argument("--speed", type=int, default=240, help="times as fast as recorded (default: %(default)s)")
    words.add_argument("--seed", type=int, default=0, help="of the order of sequences (default: %(default)s)")
    found = words.parse_args()
    for name in ("run", "models", "out"):
        if getattr(found, name) is None:
            setattr(found, name, found.made / ("monitor" if name == "out" else name))
    return found


def monitor(asked: argparse.Namespace) -> bool:
    """Do it all; whether the alert did as it should."""
    for name, most in (("calm", 10_000), ("beds", 100), ("speed", 1200)):
        if not 1 <= getattr(asked, name) <= most:
            raise BadConfig.of(f"--{name}", getattr(asked, name), f"1 to {most}")
    if shutil.which("prometheus") is None:
        raise CutpointError(
            "prometheus is not on the PATH: apt-get install prometheus, or unpack a release of https://prometheus.io/download"
        )
    run = read_run(asked.run)
    return rehearse(asked, read_dataset(run.config.data.path), run.rows("valid"), run.rows("test"))


def rehearse(asked: argparse.Namespace, dataset: Dataset, valid: np.ndarray, test: np.ndarray) -> bool:
    """The same of these sequences, with the rows that validated and those that were held out."""
    calibration = calibrating(dataset, valid)
    asked.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="mitbih-monitor-") as scratch,
        serving(asked.models, asked.out / "server.log", "--state", Path(scratch) / "state") as (target, metrics_url),
        Client(target) as client,
    ):
        policy = calibrated(client, asked.objective, dataset, calibration)
        alerts = promised = None
        if asked.choose == "rates":
            logits = client.score(MODEL, dataset.x[test], outputs=["logits"]).logits  # asked for no decisions, it counts none
            alerts = (logits >= [label.threshold for label in policy.labels]).sum(axis=1)
            promised = np.array([label.expected.alert_rate.value for label in policy.labels if label.expected])
        chosen = cohorts(dataset, calibration, test, asked.calm, alerts, promised)
        for name, rows in (("calibration", calibration), ("calm", chosen.calm), ("surge", chosen.surge)):
            say(f"{name}: {dataset_words(dataset, rows)}")
        with prometheus(Path(scratch) / "prometheus", metrics_url, asked.speed) as found:
            sequence_s = dataset.x.shape[1] * dataset.x.shape[2] / RATE_HZ
            ward = Ward(client, MODEL, dataset, sequence_s, asked.speed, asked.beds)
            boards = Boards(found, MODEL, VERSION, asked.speed)
            until(lambda: bool(found.instant(f'cutpoint_decisions_total{{model="{MODEL}"}}')), "Prometheus scrapes nothing")
            # By now it is known what the calm sequences held, and the rate of more patients is known better.
            known = np.concatenate([calibration, chosen.calm])
            show = Show(ward, found, boards, chosen, asked.seed, lambda: calibrated(client, asked.objective, dataset, known))
            checks = show.play()
            for label in show.labels:
                say(f"{ALERT} of {label}: {show.changes(label)}")
            say(f"alerts that fired at any time: {', '.join(show.fired()) or 'none'}; at most {ward.late_s:.2f} s late")
            for check, held in checks.items():
                say(f"{check}: {'yes' if held else '[bold red]no[/bold red]'}")
            written = {
                "objective": asked.objective, "choose": asked.choose, "speed": asked.speed, "beds": asked.beds,
                "watched": show.watched,
                "cohorts": {"calibration": calibration.tolist(), "calm": chosen.calm.tolist(), "surge": chosen.surge.tolist()},
                "checks": checks, "fired": show.fired(), "begun_s": show.begun_s, "phases": show.phases,
                "moments": show.moments(), "findings": [each.json() for each in show.findings],
            }  # fmt: skip
            (asked.out / "monitor.json").write_text(json.dumps(written, indent=1))
            show.picture(asked.out / "monitor.png", f"{asked.beds} monitors, played {asked.speed} times as fast")
    say(f"{asked.out / 'monitor.json'}, {asked.out / 'monitor.png'}")
    return all(checks.values())


def calibrated(client: Client, objective: str, dataset: Dataset, rows: np.ndarray) -> Policy:
    """Calibrate on these sequences, whose patients are independent where they are not, and print the policy."""
    made = client.calibrate(
        MODEL, objective, targets=targets_of(dataset, rows), inputs=dataset.x[rows], groups=np.asarray(dataset.group)[rows],
        author="monitor.py",
    )  # fmt: skip
    console.print(policy_table(made.policy))
    if not made.activated:
        raise CutpointError(f"{objective} cannot be met for every label")
    return made.policy


def dataset_words(dataset: Dataset, rows: np.ndarray) -> str:
    """How many sequences, of how many patients, and the share of windows with events by label."""
    shares = targets_of(dataset, rows).mean(axis=(0, 1))
    held = ", ".join(f"{label} {share:.1%}" for label, share in zip(dataset.label_names, shares, strict=True))
    return f"{len(rows)} sequences of {len(set(np.asarray(dataset.group)[rows]))} patients; windows with {held}"


if __name__ == "__main__":
    try:
        sys.exit(not monitor(arguments()))
    except (CutpointError, RuntimeError) as error:
        console.print(f"[bold red]error:[/bold red] {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
