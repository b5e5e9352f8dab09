"""The `cutpoint` command; each subcommand's part is imported when it is called, so that none drags in the others' packages."""

import gc
import importlib
import os
import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup

from .errors import CutpointError, MissingPart

# Command: (module with a Typer `app`, the extra that it needs, one line).
COMMANDS: Final = {
    "train": ("cutpoint.trainer.cli", "trainer", "Train a model from a YAML configuration."),
    "export": ("cutpoint.trainer.cli", "trainer", "Export a trained run to ONNX, prior undone, parity measured."),
    "import": ("cutpoint.importer.cli", "server,import", "Bring in an ONNX model from elsewhere."),
    "calibrate": (
        "cutpoint.calibrate.cli",
        "calibration",
        "Choose thresholds from labelled scores, ship them with a model.",
    ),
    "histogram": ("cutpoint.calibrate.cli", "calibration", "Count scores, to calibrate from anywhere and any amount."),
    "evaluate": ("cutpoint.trainer.cli", "trainer", "Judge a model and its thresholds on unseen data."),
    "report": ("cutpoint.trainer.cli", "trainer", "Write the page of a model, to look at before it is served."),
    "tune": ("cutpoint.tune.cli", "server,trainer", "Find the fastest way to run a model here that detects as well."),
    "serve": ("cutpoint.server.cli", "server", "Serve a model repository over gRPC, with /metrics."),
    "token": ("cutpoint.server.security.token", "server", "Make a token for callers of a server."),
    "score": ("cutpoint.client.cli", "", "Score data against a running server."),
    "policy": ("cutpoint.client.cli", "", "List, show, make, activate a running server's policies."),
    "outcomes": ("cutpoint.client.cli", "", "Report what became of decisions to a running server; what it says."),
    "watch": ("cutpoint.watch.cli", "", "Watch live positives beside the expected ones, most surprising first."),
    "demo": ("cutpoint.demo.cli", "all", "Run the main job on simulated bearings, start to end."),
}


class _Lazy(TyperGroup):
    """A group whose commands live in modules that are imported one at a time."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, extra, line = COMMANDS[cmd_name]
        if not _wanted(cmd_name):  # only its line in the list is needed
            stub = typer.Typer()
            stub.command(cmd_name, help=line)(lambda: None)
            return typer.main.get_command(stub)
        # What is imported stays: to look through it for what is garbage, time and again, is a tenth of the time it takes.
        gc.disable()
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            if package == "cutpoint":
                raise
            raise MissingPart(f"cutpoint {cmd_name} needs the package {package}: pip install 'cutpoint[{extra}]'") from error
        finally:
            gc.freeze()
            gc.enable()
        group = typer.main.get_group(found.app)
        return group.commands[cmd_name]


app = typer.Typer(
    cls=_Lazy,
    help="Decisions about rare events that can be trusted in production.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Each command has --help with an example. Start with: cutpoint demo",
)


@app.callback()
def _root() -> None:
    """Decisions about rare events that can be trusted in production."""


def main() -> None:
    """Run the command line; an error of ours is one line on standard error and exit code 2."""
    if _wanted("serve"):
        # C-core reads this once, when grpc is first imported: the serving thread then reads the sockets itself, where by
        # default others do and hand each message over. Where it is unknown all works as well, and takes more of the cores.
        os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
    # It would read the list of all installed packages for plugins that nobody here knows of.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        app()
    except (CutpointError, OSError) as error:  # an OSError names its file and says what the system said
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _wanted(command: str) -> bool:
    return command in sys.argv[1:2]


if __name__ == "__main__":
    main()
