"""`cutpoint watch`: counts over restarts and several servers against a model of them, and the command as a user runs it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from cutpoint.errors import BadConfig, BadData
from cutpoint.watch.display import json_of, printable, table_of, text_of
from cutpoint.watch.page import Pages, page_url
from cutpoint.watch.replica import Replica
from cutpoint.watch.standing import Standing, Watch, wilson
from processes import ENVIRONMENT, cutpoint
from rich.cells import cell_len
from rich.console import Console
from scipy import stats

Counts = dict[tuple[str, str, str], tuple[float, float, float]]


def page(
    counts: Counts,
    *,
    policy: int = 1,
    activated_s: float = 100.0,
    started_s: float | None = 1000.0,
    more: str = "",
    threshold: float = 2.5,
    promised: tuple[float, float] | None = None,
) -> str:
    """What a server would write: (decisions, positives, expected) by model, version and label.

    Their rate has a relative standard error of a tenth; `promised` are recall and false positive rate.
    """
    lines = ["# HELP cutpoint_decisions_total Decisions made.", "# TYPE cutpoint_decisions_total counter"]
    for (model, version, label), values in counts.items():
        of = f'model="{model}",version="{version}",label="{label}"'
        decisions, positives, expected = values
        sums = {
            "decisions": decisions, "positives": positives, "expected_positives": expected,
            "expected_positives_standard_error": 0.1 * expected,
        }  # fmt: skip
        if promised:
            rates = ("promised_decisions", "promised_recall", "promised_false_positive_rate")
            sums |= {name: decisions * each for name, each in zip(rates, (1.0, *promised), strict=True)}
        lines += [f"cutpoint_{name}_total{{{of}}} {value!r}" for name, value in sums.items()]
        lines.append(f"cutpoint_threshold{{{of}}} {threshold}")
    for model, version in {key[:2] for key in counts}:
        of = f'model="{model}",version="{version}"'
        lines.append(f"cutpoint_policy_version{{{of}}} {policy}")
        lines.append(f"cutpoint_threshold_activated_timestamp_seconds{{{of}}} {activated_s}")
    if started_s is not None:
        lines.append(f"process_start_time_seconds {started_s}")
    return "\n".join(lines) + "\n" + more


A, B = ("m", "1", "a"), ("m", "1", "b")


def counted(standing: Standing, key: tuple[str, str, str]) -> tuple[float, float, float]:
    i = standing.keys.index(key)
    return standing.decisions[i], standing.positives[i], standing.expected[i]


def test_first_all_since_the_start_then_the_window() -> None:
    watch = Watch(["http://x"], 600.0)
    (replica,) = watch.replicas
    replica.take(page({A: (1000.0, 5.0, 4.0)}), 0.0)
    first = watch.look(0.0)
    assert first.since_start and counted(first, A) == (1000, 5, 4)
    for minute in range(1, 21):
        replica.take(page({A: (1000.0 + 10 * minute, 5.0 + minute, 4.0 + minute / 2)}), 60.0 * minute)
    at_10 = watch.look(1200.0)
    assert not at_10.since_start
    assert counted(at_10, A) == (100, 10, 5)
    assert at_10.covered_s == 600
    assert at_10.rate[0] == 0.1


@pytest.mark.parametrize("seed", range(5))
def test_counts_over_restarts_and_servers_that_hang_are_those_that_were_seen(seed: int) -> None:
    """Against a list of all that happened. What a server counted between its last page and its end is known to nobody."""
    rng = np.random.default_rng(seed)
    window_s, watch = 100.0, Watch(["http://x", "http://y"], 100.0)
    events: list[tuple[float, int, float]] = []  # when it was seen, which label, how many
    state = [{"counts": np.zeros(2), "seen": np.zeros(2), "start": 0.0} for _ in range(2)]
    for step in range(300):
        now_s = float(step)
        for replica, each in zip(watch.replicas, state, strict=True):
            each["counts"] = each["counts"] + rng.poisson(2.0, 2)
            if rng.random() < 0.03:
                each.update(counts=rng.poisson(2.0, 2).astype(float), seen=np.zeros(2), start=now_s)
            if rng.random() < 0.3:
                replica.failed("gone")
                continue
            counts: Counts = {key: (float(n), 0.0, 0.0) for key, n in zip((A, B), each["counts"], strict=True)}
            replica.take(page(counts, started_s=each["start"]), now_s)
            if len(replica.keys) and step:
                events += [(now_s, i, each["counts"][i] - each["seen"][i]) for i in range(2)]
            each["seen"] = each["counts"]
        if step > 150 and all(not replica.problem for replica in watch.replicas):
            found = watch.look(now_s)
            # The far end is the last page at least `window_s` ago, of each server its own: bounds by a window a little longer.
            for i, key in enumerate((A, B)):
                least = sum(n for at, label, n in events if label == i and at > now_s - window_s)
                most = sum(n for at, label, n in events if label == i and at > now_s - window_s - 15)
                assert least <= counted(found, key)[0] <= most


def test_a_restart_is_seen_even_where_the_counter_has_grown_past_what_it_was() -> None:
    replica = Replica("http://x", 600.0)
    replica.take(page({A: (10.0, 1.0, 1.0)}, started_s=1.0), 0.0)
    replica.take(page({A: (12.0, 1.0, 1.0)}, started_s=2.0), 60.0)
    assert replica.increase(60.0)[0][0].tolist() == [12]
    assert replica.restarts == 1
    replica.take(page({A: (11.0, 0.0, 0.5)}, started_s=2.0), 120.0)  # a model that was loaded anew
    assert replica.increase(120.0)[0][0].tolist() == [23]
    assert replica.restarts == 1


def test_of_a_server_that_does_not_say_when_it_started_a_smaller_counter_is_a_restart() -> None:
    replica = Replica("http://x", 600.0)
    replica.take(page({A: (10.0, 1.0, 1.0), B: (5.0, 1.0, 1.0)}, started_s=None), 0.0)
    replica.take(page({A: (12.0, 1.0, 1.0)}, started_s=None), 60.0)
    assert replica.restarts == 0, "one that is gone is no smaller"
    replica.take(page({A: (3.0, 1.0, 1.0)}, started_s=None), 120.0)
    assert replica.restarts == 1
    assert replica.increase(120.0)[0][0].tolist() == [5, 0]


def test_a_label_that_comes_later_has_started_at_zero_and_one_that_goes_is_not_shown() -> None:
    watch = Watch(["http://x"], 600.0)
    (replica,) = watch.replicas
    replica.take(page({A: (10.0, 1.0, 1.0)}), 0.0)
    replica.take(page({A: (20.0, 2.0, 2.0), B: (7.0, 3.0, 1.0)}), 100.0)
    assert counted(watch.look(100.0), B) == (7, 3, 1)
    replica.take(page({B: (9.0, 3.0, 1.0)}), 200.0)
    assert watch.look(200.0).keys == (B,)
    assert replica.restarts == 0 and "anew" not in shown(watch.look(200.0), watch, 200.0)
    replica.take(page({A: (50.0, 2.0, 2.0), B: (9.0, 3.0, 1.0)}), 300.0)
    assert counted(watch.look(300.0), A) == (60, 3, 3), "what was unloaded and comes again has started at zero"


def test_what_does_not_answer_stays_as_it_was_said_and_grows_old() -> None:
    watch = Watch(["http://x", "http://y"], 100.0)
    for replica in watch.replicas:
        replica.take(page({A: (0.0, 0.0, 0.0)}), 0.0)
        replica.take(page({A: (50.0, 5.0, 5.0)}), 70.0)
    for step in range(1, 40):
        watch.replicas[0].take(page({A: (50.0 + step, 5.0, 5.0)}), 70.0 + 5 * step)
        watch.replicas[1].failed("Connection refused")
        standing = watch.look(70.0 + 5 * step)
    assert counted(standing, A)[0] == 20, "in the last 100 s only one of the two has counted"
    text = shown(standing, watch, 70.0 + 5 * step)
    assert "http://y has not answered for 3 min 15 s: Connection refused" in text


def test_a_page_that_is_none_changes_nothing() -> None:
    replica = Replica("http://x", 100.0)
    replica.take(page({A: (5.0, 1.0, 1.0)}), 0.0)
    with pytest.raises(BadData, match="line 1 of the page of metrics"):
        replica.take("<html>", 1.0)
    with pytest.raises(BadData, match="page of metrics is another program's; expected that of a Cutpoint server"):
        replica.take("process_start_time_seconds 5\nup 1\n", 1.0)
    replica.take(page({A: (6.0, 1.0, 1.0)}), 2.0)
    assert replica.increase(2.0)[0][0].tolist() == [1]


def test_a_new_policy_is_marked_and_servers_that_disagree_are_named() -> None:
    watch = Watch(["http://x", "http://y"], 600.0)
    x, y = watch.replicas
    for each in (x, y):
        each.take(page({A: (1.0, 0.0, 0.0)}, policy=3), 0.0)
    assert watch.look(0.0).changes == ()
    x.take(page({A: (2.0, 0.0, 0.0)}, policy=4, activated_s=200.0, threshold=7.0), 60.0)
    y.take(page({A: (2.0, 0.0, 0.0)}, policy=3), 60.0)
    apart = watch.look(60.0)
    assert apart.policies == ((3, 4),)
    assert apart.threshold.tolist() == [7.0], "of the newest policy"
    assert "servers disagree: policies 3, 4 of m/1 are active" in shown(apart, watch, 60.0)
    y.take(page({A: (2.0, 0.0, 0.0)}, policy=4, activated_s=200.0), 62.0)
    assert "policy 4 of m/1 became active 8 s ago, before it 3" in shown(watch.look(62.0), watch, 70.0)
    assert watch.look(700.0).changes == ()


def test_what_follows_from_the_counts() -> None:
    outcomes = "".join(
        f'cutpoint_outcomes_total{{model="m",version="1",label="a",predicted="{p}",actual="{a}"}} {n}\n'
        for p, a, n in (("positive", "positive", 30), ("positive", "negative", 10), ("negative", "positive", 99))
    )
    watch = Watch(["http://x", "http://y"], 600.0)
    for replica in watch.replicas:
        counts: Counts = {A: (10000.0, 134.0, 102.0), B: (0.0, 0.0, 0.0)}
        replica.take(page(counts, promised=(0.304, 0.0071), more=outcomes), 0.0)
    found = watch.look(0.0)
    assert found.prevalence[0] == pytest.approx((0.0134 - 0.0071) / (0.304 - 0.0071))
    assert found.prevalence_low[0] < found.prevalence[0] < found.prevalence_high[0]
    assert (found.confirmed[0], found.reviewed[0]) == (60, 80)
    assert np.isnan([found.z[1], found.rate[1], found.prevalence[1], found.confirmed[1]]).all()
    low, high = wilson(found.confirmed, found.reviewed)
    wanted = stats.binomtest(60, 80).proportion_ci(method="wilson")
    assert (low[0], high[0]) == pytest.approx((wanted.low, wanted.high), abs=1e-4)
    assert found.order() == [0, 1]
    assert found.z[0] == pytest.approx(stats.norm.isf(stats.nbinom(100, 1 / (1 + 2.04)).sf(267)), abs=0.05)


def test_what_an_earlier_policy_decided_is_held_against_what_that_one_promised() -> None:
    """A tenth is positive where the first policy expected a hundredth, its rate known to a tenth; the next expects what is."""
    of = 'model="m",version="1",label="a"'

    def counted_by(first: float, second: float, known: float = 1.0) -> str:
        """So many decisions by recall 0.8 and false positive rate 0.02, and by 0.5 and 0.001; of a share these are known."""
        sums = {
            "decisions": first + second, "positives": 0.098 * first + 0.0509 * second,
            "expected_positives": 0.0278 * first + 0.0509 * second,
            "expected_positives_standard_error": 0.00278 * first + 0.000509 * second,
            "promised_decisions": known * (first + second), "promised_recall": 0.8 * first + 0.5 * second,
            "promised_false_positive_rate": 0.02 * first + 0.001 * second,
        }  # fmt: skip
        return "\n".join(f"cutpoint_{name}_total{{{of}}} {value!r}" for name, value in sums.items())

    watch = Watch(["http://x"], 600.0)
    (replica,) = watch.replicas
    surprises = []
    for now_s, first, second in ((0.0, 1e4, 0.0), (1.0, 1e4, 10.0), (2.0, 1e4, 1e4), (3.0, 1e4, 3e4)):
        replica.take(counted_by(first, second), now_s)
        found = watch.look(now_s)
        assert found.since_start and found.prevalence[0] == pytest.approx(0.1)
        surprises.append(float(found.z[0]))
    assert abs(surprises[1] - surprises[0]) < 0.1 and surprises[1:] == sorted(surprises[1:], reverse=True)
    vague = Watch(["http://x"], 600.0)
    vague.replicas[0].take(counted_by(1e4, 3e4, known=0.9), 0.0)
    assert np.isnan(vague.look(0.0).prevalence[0])


def test_the_most_surprising_come_first_and_what_is_asked_for_is_shown() -> None:
    counts: Counts = {("m", "1", f"l{i}"): (1000.0, float(i), 5.0) for i in range(12)} | {
        ("n", "10", "x"): (9.0, 1.0, 1.0),
        ("n", "9", "x"): (9.0, 1.0, 1.0),
    }
    watch = Watch(["http://x"], 600.0)
    watch.replicas[0].take(page(counts), 0.0)
    standing = watch.look(0.0)
    order = [standing.keys[i][2] for i in standing.order()]
    assert order[0] == "l0" and order[1] == "l11"
    assert [key[1] for key in standing.keys if key[0] == "n"] == ["9", "10"]
    text = shown(standing, watch, 0.0, top=3)
    assert "and 11 more labels" in text and "l5" not in text
    few = Watch(["http://x"], 600.0, models=["m"], labels=["l1", "l2"])
    few.replicas[0].take(page(counts), 0.0)
    assert {key[2] for key in few.look(0.0).keys} == {"l1", "l2"}
    assert few.look(0.0).missing == ()


def test_what_is_asked_for_and_not_there_is_named_with_what_is() -> None:
    def missing(models: list[str], labels: list[str]) -> tuple[str, ...]:
        watch = Watch(["http://x"], 600.0, models, labels)
        assert watch.look(0.0).missing == (), "nobody has answered"
        watch.replicas[0].take(page({A: (1.0, 0.0, 0.0), B: (1.0, 0.0, 0.0), ("n", "1", "c"): (1.0, 0.0, 0.0)}), 0.0)
        return watch.look(0.0).missing

    assert missing(["nosuch"], ["a"]) == ("no model 'nosuch' makes decisions here: 'm', 'n' do",)
    assert missing(["m", "o"], ["a", "c"]) == (
        "no model 'o' makes decisions here: 'm', 'n' do", "no label 'c' makes decisions here: 'a', 'b' do",
    )  # fmt: skip
    assert missing(["n"], ["x"]) == ("no label 'x' makes decisions here: 'c' does",)
    many = Watch(["http://x"], 600.0, (), ["x"])
    many.replicas[0].take(page({("m", "1", f"l{i:02}"): (1.0, 0.0, 0.0) for i in range(12)}), 0.0)
    assert many.look(0.0).missing[0].endswith("'l09' and 2 more do")
    none = Watch(["http://x"], 600.0, ["m"])
    none.replicas[0].take('cutpoint_build_info{version="1"} 1', 0.0)
    standing = none.look(0.0)
    assert standing.missing == ("no model 'm' makes decisions here: nothing does",)
    assert "no model here" not in text_of(standing, none.replicas, now_s=0.0).plain


def shown(standing: Standing, watch: Watch, now_s: float, top: int = 20, width: int | None = None) -> str:
    console = Console(width=width or 200, soft_wrap=True, highlight=False)
    with console.capture() as captured:
        console.print(table_of(standing, watch.replicas, now_s=now_s, top=top, width=width))
    return captured.get()


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_narrow_terminal_has_fewer_columns_and_no_broken_lines(width: int) -> None:
    watch = Watch(["http://x"], 600.0)
    watch.replicas[0].take(page({A: (12345.0, 3.0, 2.0)}, promised=(0.5, 0.0)), 0.0)
    text = shown(watch.look(0.0), watch, 0.0, width=width)
    assert all(len(line) <= width for line in text.splitlines())
    assert ("threshold" in text) == (width >= 140)
    assert "confirmed" not in text, "nothing is confirmed"
    assert "expected" in text and " z " in text and len([line for line in text.splitlines() if "m/1" in line]) == 1


@pytest.mark.parametrize("width", [24, 30, 48, 60])
def test_z_stays_however_narrow_the_terminal_and_long_the_names(width: int) -> None:
    watch = Watch(["http://x"], 600.0)
    watch.replicas[0].take(
        page({("a model of long name", "1", "and a label of one as long, 名前"): (10000.0, 150.0, 100.0)}), 0.0
    )
    text = shown(watch.look(0.0), watch, 0.0, width=width)
    _, *table = text.splitlines()  # below the title
    assert all(cell_len(line) <= width for line in table)
    assert " z" in text and ("rate" in text) == (width >= 48)
    (line,) = (line for line in table if "+3.2" in line)
    assert "…" in line


def test_names_do_not_steer_the_terminal() -> None:
    assert printable("Stöße 5 µm") == "Stöße 5 µm"
    assert printable("a\x1b[31mb\n\x9b") == "a\\x1b[31mb\\n\\x9b"
    watch = Watch(["http://x"], 600.0)
    watch.replicas[0].take(page({("m", "1", "[red]a\x1b[2J"): (5.0, 1.0, 1.0)}), 0.0)
    text = shown(watch.look(0.0), watch, 0.0)
    assert "[red]a\\x1b[2J" in text and "\x1b" not in text


def test_json_has_everything_and_null_for_what_is_unknown() -> None:
    watch = Watch(["http://x"], 600.0)
    watch.replicas[0].take(page({A: (100.0, 3.0, 1.0), B: (0.0, 0.0, 0.0)}), 0.0)
    found = json.loads(json_of(watch.look(0.0, at_s=1.7e9), watch.replicas, now_s=1.0))
    assert (found["since"], found["covered_s"], found["started_ago_s"]) == ("start", 0, 1.7e9 - 1000)
    assert found["missing"] == []
    assert found["servers"] == [{"url": "http://x", "answers": True, "problem": None, "restarts": 0, "age_s": 1.0}]
    a, b = found["labels"]
    assert (a["model"], a["version"], a["label"], a["decisions"], a["positives"], a["policies"]) == ("m", "1", "a", 100, 3, [1])
    assert a["z"] > 1 and a["rate"] == 0.03 and a["expected_rate"] == 0.01
    assert b["z"] is None and b["rate"] is None and b["precision"] is None


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("127.0.0.1:8002", "http://127.0.0.1:8002/metrics"), ("http://h", "http://h/metrics"), ("https://h:1/m?x=1", "https://h:1/m?x=1"),
        ("[::1]:8002", "http://[::1]:8002/metrics"), ("localhost", "http://localhost/metrics"),
    ],
)  # fmt: skip
def test_addresses(given: str, wanted: str) -> None:
    assert page_url(given) == wanted


@pytest.mark.parametrize(
    "given",
    ["", "ftp://h/", "http://", "http://h:x/", "h:99999", "file:///etc/passwd", "http://h/ a", "http://h:0", "http://[::1"],
)
def test_addresses_that_are_none(given: str) -> None:
    with pytest.raises(BadConfig, match="URL"):
        page_url(given)


class _Server:
    """A page of metrics over HTTP, or whatever else it is told."""

    def __init__(self) -> None:
        self.page, self.status, self.asked = page({A: (100.0, 3.0, 1.0)}), 200, threading.Semaphore(0)
        self.hangs: threading.Event | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.release()
                if outer.hangs is not None:
                    outer.hangs.wait(60)
                    return
                body = outer.page.encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/metrics"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def served() -> Iterator[_Server]:
    server = _Server()
    yield server
    if server.hangs is not None:
        server.hangs.set()
    server.http.shutdown()
    server.http.server_close()


def test_pages_that_do_not_come_say_why(served: _Server) -> None:
    pages = Pages([served.url, "http://127.0.0.1:1/metrics"], 30.0)
    good, refused = pages.fetch()
    assert good == served.page and isinstance(refused, OSError) and str(refused) == "Connection refused"
    served.status = 500
    assert str(pages.fetch()[0]) == "HTTP 500"
    served.hangs = threading.Event()
    hanging = Pages([served.url], 0.05)
    assert str(hanging.fetch()[0]) == "no answer within 0.05 s"
    assert str(hanging.fetch()[0]) == "no answer within 0.05 s"


def test_a_server_that_hangs_up_is_not_taken_for_another_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)

        thread = threading.Thread(target=hang_up)
        thread.start()
        found = Pages([f"http://127.0.0.1:{listening.getsockname()[1]}/metrics"], 60).fetch()
        thread.join(60)
    assert str(found[0]) == "it closed the connection without an answer"


def test_what_speaks_no_http_is_named_and_not_printed() -> None:
    """The gRPC port answers with a frame of HTTP/2."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x7f\xff\xff\xff\x1b[31m\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = cutpoint("watch", f"127.0.0.1:{listening.getsockname()[1]}", "--once")
        thread.join(60)
    assert done.returncode == 2
    assert done.stderr.endswith("/metrics: not an HTTP answer; /metrics is on --metrics-port (8002)\n")
    assert done.stderr.strip().isprintable() and done.stdout.replace("\n", "").isprintable()


@contextmanager
def watching(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "cutpoint.cli", "watch", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_once_prints_one_plain_table(served: _Server) -> None:
    done = cutpoint("watch", served.url, "--once")
    assert done.returncode == 0, done.stderr
    assert "all since the start" in done.stdout
    assert re.search(r"m/1 +a +100 +3 +0\.03 +0\.01", done.stdout)
    assert done.stdout.replace("\n", "").isprintable()


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_once_fails_where_what_is_asked_for_is_not_there(served: _Server, form: tuple[str, ...]) -> None:
    done = cutpoint("watch", served.url, "--once", "--model", "nosuch", *form)
    assert (done.returncode, done.stderr) == (1, "")
    assert "no model 'nosuch' makes decisions here: 'm' does" in done.stdout
    assert cutpoint("watch", served.url, "--once", "--model", "m", "--label", "a", *form).returncode == 0


def test_once_fails_where_a_server_does_not_answer(served: _Server) -> None:
    done = cutpoint("watch", served.url, "127.0.0.1:1", "--once")
    assert done.returncode == 2
    assert "m/1" in done.stdout, "what is known is shown"
    assert done.stderr == "error: no answer from http://127.0.0.1:1/metrics: Connection refused\n"
    served.page = "<html>hello</html>"
    assert "line 1 of the page of metrics is '<html>hello</html>'" in cutpoint("watch", served.url, "--once").stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--window", "10 parsecs"], "--window is 10 parsecs; expected a time"), (["--window", "0s"], "--window"),
        (["ftp://x"], "URL is ftp://x"), (["h:1", "http://h:1/metrics"], "each of them once"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], said: str) -> None:
    done = cutpoint("watch", *arguments)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_json_is_a_line_a_look_over_a_restart_and_ends_cleanly_by_either_signal(served: _Server) -> None:
    for sign in (signal.SIGINT, signal.SIGTERM):
        with watching(served.url, "--json", "--interval", "0.1") as process:
            assert process.stdout is not None
            first = json.loads(process.stdout.readline())
            assert first["since"] == "start" and first["labels"][0]["decisions"] == 100
            served.status = 503
            while not (found := json.loads(process.stdout.readline()))["servers"][0]["problem"]:
                pass
            assert found["servers"][0]["problem"] == "HTTP 503" and found["labels"][0]["decisions"] == 100
            served.page, served.status = page({A: (7.0, 0.0, 0.1)}, started_s=2000.0), 200
            while not (found := json.loads(process.stdout.readline()))["servers"][0]["restarts"]:
                pass
            assert found["labels"][0]["decisions"] == 107
            process.send_signal(sign)
            _, errors = process.communicate(timeout=60)
            assert (process.returncode, errors) == (0, "")
        served.page = page({A: (100.0, 3.0, 1.0)})


def test_a_reader_who_has_seen_enough_is_no_error(served: _Server) -> None:
    with watching(served.url, "--json", "--interval", "0.1") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
        process.stdout = None


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_in_a_terminal_it_refreshes_in_place_and_gives_the_cursor_back(served: _Server) -> None:
    main, side = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cutpoint.cli", "watch", served.url, "--interval", "0.1"],
        stdin=side, stdout=side, stderr=side, env=ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "120", "LINES": "30"},
    )  # fmt: skip
    os.close(side)
    try:
        seen = b""
        while seen.count(b"m/1") < 3:
            seen += os.read(main, 65536)
        assert b"\x1b[?25l" in seen, "the cursor is hidden"
        process.send_signal(signal.SIGTERM)
        while True:
            try:
                more = os.read(main, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not more:
                break
            seen += more
        assert process.wait(60) == 0
        assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")
    finally:
        process.kill()
        process.wait()
        os.close(main)
