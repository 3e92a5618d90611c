"""The `limelight` command: its table of commands, its errors and exit codes.

Everything heavy is imported inside the commands, so that `limelight --help` answers at once.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from .. import __version__
from ..probe.errors import LimelightError
from . import circuit, explain, lists, run, sites, tiles
from .terminal import FAILED, INTERRUPTED, USAGE, plain, say

COMMANDS: dict[str, tuple[Callable[..., int | None], str]] = {
    "models": (lists.models, lists.MODELS_EPILOG),
    "methods": (lists.methods, lists.METHODS_EPILOG),
    "sites": (sites.sites, sites.EPILOG),
    "explain": (explain.explain, explain.EPILOG),
    "run": (run.run, run.RUN_EPILOG),
    "score": (run.score, run.SCORE_EPILOG),
    "report": (run.report, run.REPORT_EPILOG),
    "circuit": (circuit.circuit, circuit.EPILOG),
    "tiles": (tiles.tiles, tiles.EPILOG),
}
app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(
    invoke_without_command=True,
    epilog="\b\nExit codes: 0 done, 1 unexpected error, 2 a mistake in what was asked,\n"
    "3 done but for some images, 130 interrupted.",
)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[
        bool, typer.Option("--traceback", help="Show where an error was raised.")
    ] = False,
) -> None:
    """See what a trained network looks at, and which of its parts do the work."""
    if version:
        typer.echo(f"limelight {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _name, (_command, _epilog) in COMMANDS.items():
    app.command(name=_name, epilog=_epilog)(_command)


def _warned(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"note: {message}")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if args is None else args)
    debug = "--traceback" in words
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = _warned
        try:
            code = _run([word for word in words if word != "--traceback"])
        except Exception as error:
            code = _report(error)
            if debug:
                print(plain("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    return code


def _run(words: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        code = command.main(words, prog_name="limelight", standalone_mode=False) or 0
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    if code == INTERRUPTED:
        say("interrupted")
    return code


def _report(error: Exception) -> int:
    """Say in one sentence what went wrong; the exit code for it."""
    if isinstance(error, _UsageError):
        context = error.ctx
        where = context.command_path if context else "limelight"
        say(f"{error.format_message().rstrip('.')}; see `{where} --help`")
        return USAGE
    if isinstance(error, (LimelightError, OSError)):
        say(str(error))
        return USAGE
    say(f"unexpected {type(error).__name__}: {error}; run again with --traceback to see where")
    return FAILED


# typer carries a copy of click in its newer versions: its errors by way of one it exports
_UsageError: Any = typer.BadParameter.__mro__[1]
