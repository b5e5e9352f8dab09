"""Who may call what: tokens, roles, certificates' names, and a file that changes while it is used."""

import hashlib
import importlib
import logging
import os
import pkgutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cutpoint.oip
import cutpoint.v1
import pytest
from cutpoint.errors import BadConfig, PermissionDenied, Unauthenticated
from cutpoint.server.port.reflection import SERVICE as REFLECTION
from cutpoint.server.security.guard import (
    ANYBODY,
    NEEDS,
    NOBODY,
    ROLES,
    Guard,
    is_loopback,
    read_callers,
    warn_of_open_doors,
)
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st
from processes import cutpoint as command

INFER, LIVE = "/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ServerLive"
CALIBRATE, LOAD = "/cutpoint.v1.CalibrationService/Calibrate", "/inference.GRPCInferenceService/RepositoryModelLoad"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def line(name: str, role: str, token: str) -> str:
    return f"{name} {role} {hashlib.sha256(token.encode()).hexdigest()}\n"


def bearer(token: str) -> tuple[tuple[str, str | bytes], ...]:
    return (("user-agent", "test"), ("authorization", f"Bearer {token}"))


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    """Replaced by a rename, as a careful person does it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(mode)
    new.rename(path)
    return path


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return write(
        tmp_path / "tokens",
        "# who may\n\n" + line("ann", "score", "A") + line("bob", "calibrate", "B") + line("eve", "admin", "E"),
    )


def services() -> Iterable[tuple[str, Any]]:
    """Every service of ours and every one that we answer, by its descriptor."""
    for package in (cutpoint.oip, cutpoint.v1):
        for found in pkgutil.iter_modules(package.__path__):
            if found.name.endswith("_pb2"):
                module = importlib.import_module(f"{package.__name__}.{found.name}")
                yield from module.DESCRIPTOR.services_by_name.items()
    yield from health_pb2.DESCRIPTOR.services_by_name.items()


def test_every_rpc_has_a_row() -> None:
    found = [f"/{service.full_name}/{method}" for _, service in services() for method in service.methods_by_name]
    assert len(found) > 12
    assert [method for method in found if method not in NEEDS] == []
    assert f"/{REFLECTION}/ServerReflectionInfo" in NEEDS
    assert set(NEEDS.values()) <= {"", *ROLES}


def test_only_probes_are_open() -> None:
    assert {method for method, role in NEEDS.items() if not role} == {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.health.v1.Health/List",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
    }


def test_what_changes_decisions_is_not_for_who_scores() -> None:
    for word in (
        "Calibrate", "ActivatePolicy", "ReportOutcomes", "RepositoryModelLoad", "RepositoryModelUnload",
        "SystemSharedMemoryRegister",
    ):  # fmt: skip
        assert [role for method, role in NEEDS.items() if method.endswith("/" + word)] not in ([""], ["score"])


@pytest.mark.parametrize(
    ("token", "name", "allowed"),
    [("A", "ann", [INFER]), ("B", "bob", [INFER, CALIBRATE]), ("E", "eve", [INFER, CALIBRATE, LOAD])],
)
def test_a_role_includes_those_before_it(tokens: Path, token: str, name: str, allowed: list[str]) -> None:
    guard = Guard(tokens)
    for method in (INFER, CALIBRATE, LOAD):
        if method in allowed:
            assert guard.authorize(method, bearer(token)).name == name
        else:
            with pytest.raises(PermissionDenied, match=rf"{name} has .*; {method.rpartition('/')[2]} needs the role"):
                guard.authorize(method, bearer(token))


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        bearer("C"),
        bearer("a"),
        bearer(""),
        (("authorization", "A"),),
        (("authorization", "Bearer"),),
        (("authorization", "Basic A"),),
        (("authorization", b"\xff\xfe"),),
        (*bearer("A"), *bearer("A")),
        (("authorization-bin", "Bearer A"),),
        bearer(hashlib.sha256(b"A").hexdigest()),  # what the file holds is no token
    ],
)
def test_whoever_is_not_known_is_told_nothing(tokens: Path, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
    guard = Guard(tokens)
    for method in (INFER, CALIBRATE, LOAD):
        with pytest.raises(Unauthenticated) as refused:
            guard.authorize(method, metadata)
        assert not {"ann", "bob", "eve", "score", "admin"} & set(str(refused.value).replace(",", " ").split())
    assert guard.authorize(LIVE, metadata) is NOBODY


@given(st.text() | st.binary())
def test_no_header_gets_through(tmp_path_factory: pytest.TempPathFactory, value: str | bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz-tokens"
    if not path.exists():
        write(path, line("ann", "admin", "a token that nobody guesses"))
    with pytest.raises(Unauthenticated):
        Guard(path).authorize(INFER, (("authorization", value),))


def test_the_schemes_case_does_not_matter(tokens: Path) -> None:
    assert Guard(tokens).authorize(INFER, (("authorization", "bEARER   A "),)).name == "ann"


def test_an_rpc_without_a_row_is_for_admins(tokens: Path) -> None:
    guard = Guard(tokens)
    with pytest.raises(PermissionDenied):
        guard.authorize("/cutpoint.v1.New/Thing", bearer("B"))
    assert guard.authorize("/cutpoint.v1.New/Thing", bearer("E")).name == "eve"


def test_without_a_file_nothing_is_asked() -> None:
    guard = Guard(None)
    assert guard.authorize(LOAD, ()) is ANYBODY
    assert not guard.checks


def test_certificates_have_roles_too(tmp_path: Path) -> None:
    path = write(
        tmp_path / "tokens", "certificate:edge-8.lan score\n'certificate:Anne Elk' calibrate\n" + line("ann", "score", "A")
    )
    guard = Guard(path, client_ca=True)
    assert guard.authorize(INFER, (), lambda: (b"edge-8.lan",)).name == "edge-8.lan"
    assert guard.authorize(CALIBRATE, (), lambda: ("unknown", "Anne Elk")).name == "Anne Elk"
    assert guard.authorize(INFER, bearer("A"), lambda: ("Anne Elk",)).name == "ann"
    with pytest.raises(PermissionDenied):
        guard.authorize(CALIBRATE, (), lambda: ("edge-8.lan",))
    with pytest.raises(Unauthenticated):  # a wrong token is not helped by a right certificate
        guard.authorize(INFER, bearer("X"), lambda: ("edge-8.lan",))
    for names in ((), ("ann",), ("certificate:edge-8.lan",), ("EDGE-8.LAN",)):
        with pytest.raises(Unauthenticated):
            guard.authorize(INFER, (), lambda names=names: names)
    with pytest.raises(BadConfig, match=r"tokens: .*:1: .*--tls-client-ca"):
        Guard(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "without a line"),
        ("# only a comment\n", "without a line"),
        ("ann score\n", ":1: 2 words; expected three"),
        ("ok score " + "0" * 64 + "\nann score x y\n", ":2: 4 words"),
        ("ann root " + "0" * 64, ":1: the role root; expected one of score, calibrate, admin"),
        ("ann score, " + "0" * 64, r":1: the role \(empty\)"),
        ("ann score my-secret-token", ":1: .*not shown.*SHA-256, 64 digits"),
        ("ann score " + "A" * 64, "64 digits 0-9 a-f"),
        ("a/b score " + "0" * 64, ":1: a/b; expected a name"),
        ("'ann score " + "0" * 64, ":1: No closing quotation"),
        ("ann score " + "0" * 64 + "\nbob score " + "0" * 64, ":2: bob; expected a token of its own"),
        ("certificate: score\n", ":1: 2 words; expected two: certificate:NAME ROLE"),
        ("certificate:x score\ncertificate:x admin\n", ":2: certificate:x; expected a certificate once"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "tokens", text)
    with pytest.raises(BadConfig, match=message) as refused:
        Guard(path, client_ca=True)
    assert "my-secret-token" not in str(refused.value)


def test_what_is_no_file_of_tokens_is_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "cannot be read"), (tmp_path, "cannot be read")):
        with pytest.raises(BadConfig, match=message):
            Guard(path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadConfig, match="not UTF-8"):
        Guard(tmp_path / "binary")
    (tmp_path / "large").write_bytes(b"#" * (2 << 20))
    with pytest.raises(BadConfig, match="more than 1048576 bytes"):
        Guard(tmp_path / "large")


def test_what_others_may_write_is_refused_and_what_they_may_read_is_said(
    tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for mode in (0o620, 0o602, 0o666):
        tokens.chmod(mode)
        with pytest.raises(BadConfig, match=f"mode of .* is {mode:o}; .*chmod 600"):
            Guard(tokens)
    tokens.chmod(0o640)
    Guard(tokens)
    assert caplog.text == ""
    tokens.chmod(0o644)
    Guard(tokens)
    assert "can be read by everybody" in caplog.text


def test_a_changed_file_counts_within_a_second(tokens: Path) -> None:
    clock = Clock()
    guard = Guard(tokens, now_s=clock)
    write(tokens, line("bob", "score", "B") + line("new", "score", "N"))
    assert guard.authorize(INFER, bearer("A")).name == "ann"  # not looked at yet
    clock.now_s += 1
    with pytest.raises(Unauthenticated):
        guard.authorize(INFER, bearer("A"))
    assert guard.authorize(INFER, bearer("N")).name == "new"
    with pytest.raises(PermissionDenied):
        guard.authorize(CALIBRATE, bearer("B"))


@pytest.mark.parametrize("broken", ["", "ann score", "\xff", None, "mode"])
def test_a_broken_change_keeps_what_was_and_says_so_once(
    tokens: Path, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    clock, good = Clock(), tokens.read_text()
    guard = Guard(tokens, now_s=clock)
    if broken is None:
        tokens.unlink()
    elif broken == "mode":
        tokens.chmod(0o666)
    else:
        write(tokens, broken)
    for _ in range(5):
        clock.now_s += 1
        assert guard.authorize(INFER, bearer("A")).name == "ann"
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "the last good ones stay in use" in errors[0]
    assert str(tokens) in errors[0]
    write(tokens, good + line("new", "score", "N"))
    clock.now_s += 1
    assert guard.authorize(INFER, bearer("N")).name == "new"


def test_a_rewrite_in_place_and_a_swapped_link_count(tmp_path: Path) -> None:
    clock = Clock()
    first, second = write(tmp_path / "1", line("ann", "score", "A")), write(tmp_path / "2", line("ann", "score", "B"))
    os.utime(second, ns=(first.stat().st_atime_ns, first.stat().st_mtime_ns))
    link = tmp_path / "tokens"
    link.symlink_to(first)
    guard = Guard(link, now_s=clock)
    link.unlink()
    link.symlink_to(second)
    clock.now_s += 1
    assert guard.authorize(INFER, bearer("B")).name == "ann"
    with second.open("w") as file:
        file.write(line("ann", "score", "C") + "# longer\n")
    clock.now_s += 1
    assert guard.authorize(INFER, bearer("C")).name == "ann"


def test_whoever_asked_hears_of_a_change_and_a_probe_is_enough(tokens: Path) -> None:
    clock, heard = Clock(), []
    guard = Guard(tokens, now_s=clock)

    def changed() -> None:
        with pytest.raises(Unauthenticated):
            guard.authorize(INFER, bearer("A"))
        heard.append(guard.authorize(INFER, bearer("N")).name)

    guard.changed = changed
    for _ in range(3):
        clock.now_s += 1
        guard.authorize(LIVE, ())
    assert heard == []
    write(tokens, line("new", "score", "N"))
    for _ in range(3):
        clock.now_s += 1
        assert guard.authorize(LIVE, ()) is NOBODY
    assert heard == ["new"]


def test_two_lines_may_have_one_name(tmp_path: Path) -> None:
    guard = Guard(write(tmp_path / "tokens", line("ann", "score", "old") + line("ann", "admin", "new")))
    assert guard.authorize(INFER, bearer("old")).name == guard.authorize(LOAD, bearer("new")).name == "ann"


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("10.0.0.1", False), ("edge.lan", False), ("", False)],
)  # fmt: skip
def test_an_open_door_is_said(host: str, inside: bool, caplog: pytest.LogCaptureFixture) -> None:
    assert is_loopback(host) is inside
    warn_of_open_doors(host, tokens=False, tls=False, client_ca=False)
    assert ("without --tokens" in caplog.text) is not inside
    caplog.clear()
    warn_of_open_doors(host, tokens=True, tls=False, client_ca=False)
    assert ("in the clear" in caplog.text) is not inside
    caplog.clear()
    warn_of_open_doors(host, tokens=True, tls=True, client_ca=False)
    warn_of_open_doors(host, tokens=False, tls=True, client_ca=True)
    assert caplog.text == ""


def test_the_command_makes_what_the_server_takes(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    first = command("token", "ann", "--tokens", path)
    path.write_text(path.read_text().rstrip("\n"))  # an editor that ends no line
    second = command("token", "bob", "--role", "calibrate", "--tokens", path)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ann, bob = first.stdout.strip(), second.stdout.strip()
    assert len(ann) == 43
    assert ann != bob
    guard = Guard(path)
    assert guard.authorize(INFER, bearer(ann)).name == "ann"
    assert guard.authorize(CALIBRATE, bearer(bob)).name == "bob"
    assert ann not in path.read_text() + first.stderr


def test_the_command_shows_the_line_where_no_file_is_given(tmp_path: Path) -> None:
    made = command("token", "ann", "--role", "admin")
    assert made.returncode == 0
    path = write(tmp_path / "tokens", made.stderr.splitlines()[1])
    assert Guard(path).authorize(LOAD, bearer(made.stdout.strip())).name == "ann"


def test_the_command_leaves_other_files_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\n")
    made = command("token", "ann", "--tokens", path)
    assert made.returncode == 2
    assert made.stderr.startswith(f"error: tokens: {path}:1: 2 words")
    assert made.stdout == ""
    assert path.read_text() == "dear diary\n"
    made = command("token", "a/b", "--tokens", tmp_path / "new")
    assert made.returncode == 2
    assert made.stderr.startswith("error: name is a/b; expected")
    assert not (tmp_path / "new").exists()


def test_reading_takes_a_file_of_thousands(tmp_path: Path) -> None:
    path = write(tmp_path / "tokens", "".join(line(f"caller-{i}", "score", str(i)) for i in range(5000)))
    assert len(read_callers(path).by_digest) == 5000
