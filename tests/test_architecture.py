"""The shape of the tree: who may import whom, proven by reading every import and by what is loaded at run time."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ENVIRONMENT, ROOT

ROOTS = ("proto", "core", "server", "trainer", "client")
ARRAYS = {"numpy", "scipy"}
MATHS = {"errors", "dataset", "validation", "calibration", "bundle", "signals"}
GENERATED = {"oip", "v1"}

# Part: (parts of ours it may import, packages of others). The standard library is free; a part may import itself.
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    **{part: (MATHS, ARRAYS | {"pydantic"}) for part in MATHS},
    "cli": ({"errors"}, {"typer"}),
    # The command that calibrates offline; only to score with a model does it need the trainer.
    "calibrate": ({*MATHS, "terminal", "report", "trainer"}, ARRAYS | {"typer", "pyarrow"}),
    # ONNX from elsewhere into a bundle: without torch, and without a server.
    "importer": ({*MATHS, "terminal"}, {"numpy", "onnx", "onnxruntime", "pydantic", "typer"}),
    "report": (MATHS, ARRAYS),
    "estimator": (MATHS, ARRAYS | {"sklearn"}),
    # What commands print with.
    "terminal": (MATHS, {"rich"}),
    # A server's page of metrics in a terminal; for the base install, so it reads the page itself.
    "watch": ({"errors", "calibration", "terminal"}, {"numpy", "rich", "typer"}),
    # What serves a model, held against what it was trained for: it runs both, in processes of their own.
    "tune": ({*MATHS, "terminal", "server", "trainer"}, {"numpy", "scipy", "onnx", "onnxruntime", "pydantic", "typer", "rich"}),
    # An application of the whole, which runs the other commands as a user would.
    "demo": ({*MATHS, "terminal", "client", "trainer"}, ARRAYS | {"typer", "rich", "matplotlib", "pydantic", "yaml"}),
    "oip": (set(), {"google"}),
    "v1": (set(), {"google", "grpc"}),
    "wire": ({*MATHS, *GENERATED}, {"numpy", "grpc", "google"}),
    "client": ({*MATHS, *GENERATED, "wire", "terminal"}, {"numpy", "grpc", "typer", "rich"}),
    "server": (
        {*MATHS, *GENERATED, "wire"},
        ARRAYS
        | {
            "onnxruntime",
            "prometheus_client",
            "grpc",
            "grpc_health",
            "grpc_reflection",
            "google",
            "typer",
            "pydantic",
            "opentelemetry",
        },
    ),
    "trainer": (
        {*MATHS, "terminal", "report"},
        ARRAYS
        | {
            "torch",
            "lightning",
            "onnx",
            "onnxscript",
            "onnxruntime",
            "safetensors",
            "tensorboardX",
            "sklearn",
            "matplotlib",
            "yaml",
        }
        | {"pydantic", "typer", "rich"},
    ),
}

FILES = sorted(path for root in ROOTS for path in (ROOT / root / "cutpoint").rglob("*.py") if "__pycache__" not in path.parts)


def part_of(path: Path) -> str:
    return (
        path.relative_to(next(ROOT / root for root in ROOTS if path.is_relative_to(ROOT / root)) / "cutpoint")
        .parts[0]
        .removesuffix(".py")
    )


def module_of(path: Path) -> list[str]:
    root = next(ROOT / root for root in ROOTS if path.is_relative_to(ROOT / root))
    return list(path.relative_to(root).with_suffix("").parts)


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, wherever it does, with relative imports made absolute."""
    package = module_of(path)[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from cutpoint import errors` and `from . import messages` name modules too
            names = {f"{module}.{alias.name}" for alias in node.names} if module == "cutpoint" or not node.module else {module}
            found |= names
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_allowed_imports_exist(path: Path) -> None:
    part = part_of(path)
    assert part in ALLOWED, f"{part} is a new part: say here and in docs/design.md what it may import"
    ours, others = ALLOWED[part]
    for name in imports_of(path):
        top, _, rest = name.partition(".")
        if top == "cutpoint":
            wanted = rest.split(".")[0]
            assert wanted == part or wanted in ours, f"{path} imports {name}: {part} may import of ours only {sorted(ours)}"
        elif top != "__future__" and top not in sys.stdlib_module_names:
            assert top in others, f"{path} imports {name}: {part} may import only {sorted(others)}"


def test_there_are_files_to_read() -> None:
    assert {part_of(path) for path in FILES} >= {"errors", "calibration", "bundle", "wire", "oip", "v1", "server", "client"}


def test_the_namespace_has_no_init() -> None:
    for root in ROOTS:
        assert not (ROOT / root / "cutpoint" / "__init__.py").exists(), "cutpoint is a PEP 420 namespace over five roots"


def test_nothing_is_in_two_roots() -> None:
    seen: dict[str, Path] = {}
    for path in FILES:
        name = ".".join(module_of(path))
        assert name not in seen, f"{path} and {seen.get(name)}"
        seen[name] = path


def loaded_by(module: str, *names: str) -> list[str]:
    code = f"import {module}, sys\nprint(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code] if module != "cutpoint.trainer" else [sys.executable, "-c", code],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("cutpoint.client", ("torch", "onnxruntime", "onnx", "scipy", "sklearn", "prometheus_client", "typer")),
        ("cutpoint.client.cli", ("torch", "onnxruntime", "onnx", "scipy", "sklearn", "prometheus_client", "matplotlib")),
        (
            "cutpoint.server",
            ("torch", "onnx", "scipy", "sklearn", "matplotlib", "lightning", "cutpoint.client", "cutpoint.trainer"),
        ),
        (
            "cutpoint.server.cli",
            ("torch", "onnx", "scipy", "sklearn", "matplotlib", "lightning", "cutpoint.client", "opentelemetry"),
        ),
        ("cutpoint.trainer", ("grpc", "prometheus_client", "cutpoint.wire", "cutpoint.server", "cutpoint.client")),
        ("cutpoint.calibration", ("grpc", "torch", "onnxruntime", "scipy", "sklearn")),
        ("cutpoint.calibrate.cli", ("torch", "onnxruntime", "grpc", "sklearn", "pyarrow", "matplotlib", "cutpoint.trainer")),
        ("cutpoint.report", ("torch", "onnxruntime", "grpc", "sklearn", "matplotlib", "typer")),
        ("cutpoint.bundle", ("grpc", "torch", "onnxruntime", "scipy", "onnx")),
        ("cutpoint.signals", ("grpc", "torch", "onnxruntime", "scipy", "onnx")),
        ("cutpoint.wire", ("torch", "onnxruntime", "scipy", "tritonclient")),
        ("cutpoint.tune.worker", ("torch", "onnx", "sklearn", "lightning", "cutpoint.trainer", "cutpoint.client")),
        ("cutpoint.tune.cli", ("torch", "onnxruntime", "grpc")),
        ("cutpoint.watch.cli", ("scipy", "grpc", "torch", "onnxruntime", "prometheus_client")),
        ("cutpoint.cli", ("numpy", "grpc", "torch", "onnxruntime", "pydantic")),
    ],
)
def test_what_is_loaded_at_run_time(module: str, heavy: tuple[str, ...]) -> None:
    assert loaded_by(module, *heavy) == []


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_public_names_are_explicit_re_exports(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # the docstring
        assert isinstance(node, ast.ImportFrom), f"{path}:{node.lineno} is no re-export"
        assert node.level > 0, f"{path}:{node.lineno} re-exports what is not its own"
        for alias in node.names:
            assert alias.asname == alias.name, f"{path}:{node.lineno}: write `{alias.name} as {alias.name}`"


def test_modules_do_nothing_at_import_but_define() -> None:
    allowed = (
        ast.Import,
        ast.ImportFrom,
        ast.Assign,
        ast.AnnAssign,
        ast.ClassDef,
        ast.FunctionDef,
        ast.AsyncFunctionDef,
        ast.If,
    )
    for path in FILES:
        if "_pb2" in path.name:
            continue
        for node in ast.parse(path.read_text()).body:
            text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            command = isinstance(node, ast.Expr) and path.name == "cli.py"  # app.add_typer
            assert text or command or isinstance(node, allowed), f"{path}:{node.lineno}"


def test_environment_variables_are_read_only_at_the_edge() -> None:
    for path in FILES:
        if path.name != "cli.py" and "_pb2" not in path.name:
            text = path.read_text()
            assert "os.environ" not in text and "getenv" not in text, path
