"""The `starfish` application: all commands, and how an error becomes one line and an exit code."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from starfish_server.cli.audit import show, verify
from starfish_server.cli.cp import cp
from starfish_server.cli.doctor import doctor, explain_store
from starfish_server.cli.init import init
from starfish_server.cli.listing import du, ls, rm
from starfish_server.cli.maintenance import repair, rotate
from starfish_server.cli.objects import get, put, stat, url
from starfish_server.cli.output import ExitCode, exit_code_of, one_line, print_error, print_line
from starfish_server.cli.serve import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXAMPLES = {
    "init": ("starfish init", "starfish init deployment"),
    "serve": ("starfish serve", "starfish serve --config stack.toml --port 8080"),
    "get": ("starfish get data notes/1.json", "starfish get s3://bucket notes/1.json -o 1.json"),
    "put": (
        "starfish put data notes/1.json 1.json",
        "tar c folder | starfish put s3://bucket backups/folder.tar --create",
    ),
    "stat": ("starfish stat data notes/1.json",),
    "url": ("starfish url s3://bucket notes/1.json --expires 3600",),
    "ls": ("starfish ls data notes/ --long", "starfish ls s3://bucket --folders"),
    "du": ("starfish du data --depth 2",),
    "rm": ("starfish rm data notes/1.json notes/2.json", "starfish rm data --prefix drafts/ --yes"),
    "cp": ("starfish cp data s3://bucket/backup", "starfish cp data copies --prefix notes/ --update"),
    "repair": ("starfish repair mirror.toml --dry-run", "starfish repair mirror.toml"),
    "rotate": ("starfish rotate encrypted.toml --prefix notes/",),
    "doctor": ("starfish doctor s3://bucket", "starfish doctor stack.toml --context identity=alice"),
    "explain": ("starfish explain stack.toml",),
    "audit show": ("starfish audit show audit.jsonl --identity alice --outcome denied",),
    "audit verify": ("starfish audit verify audit.jsonl",),
}
"""The examples at the end of each command's help."""


def _add(group: typer.Typer, name: str, command: Callable[..., object]) -> None:
    # The first character tells click to keep the line breaks.
    lines = ("\b\nExamples:", *EXAMPLES[name])
    group.command(name.rsplit(maxsplit=1)[-1], epilog="\n  ".join(lines))(command)


app = typer.Typer(
    name="starfish",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (init, serve, get, put, stat, url, ls, du, rm, cp, repair, rotate, doctor):
    _add(app, command.__name__, command)
_add(app, "explain", explain_store)
audit = typer.Typer(
    name="audit", help="Read and check the log that a JsonLinesSink wrote.", no_args_is_help=True
)
_add(audit, "audit show", show)
_add(audit, "audit verify", verify)
app.add_typer(audit)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(f"starfish-server {metadata.version('starfish-server')}")
        raise typer.Exit


@app.callback()
def starfish(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Work with object stores from the command line, or serve one over HTTP."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. An error is printed as one line, without a traceback."""
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks must not end the command.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    try:
        code = app(list(arguments), prog_name="starfish", standalone_mode=False)
        if inspect.iscoroutine(code):
            with asyncio.Runner() as runner:
                # A loop that handles one signal is woken by all. Else Ctrl-C just before it sleeps waits.
                runner.get_loop().add_signal_handler(signal.SIGWINCH, int)
                code = runner.run(code)
        sys.stdout.flush()
    except typer.Abort as error:
        interrupted = isinstance(error.__context__, KeyboardInterrupt)
        return ExitCode.INTERRUPTED if interrupted else ExitCode.FAILED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        # typer turns a broken pipe into an exit with code 1.
        if not isinstance(error.__context__ or error, BrokenPipeError):
            raise
        _discard_output()
        return ExitCode.CLOSED_PIPE
    except Exception as error:  # noqa: BLE001 - the outermost place
        try:
            sys.stdout.flush()
        except OSError:
            _discard_output()
        # An error of the command line's own parser, whose exception types are not public.
        usage = getattr(error, "format_message", None)
        message = usage() if usage else _description(error)
        if usage and message.startswith("Usage:"):
            sys.stderr.write(f"{message}\n")
        else:
            context = getattr(error, "ctx", None)
            advice = f"; see {context.command_path} --help" if context else ""
            print_error(" ".join(message.split()).removesuffix(".") + advice)
        return ExitCode.USAGE if usage else exit_code_of(error)
    return int(code or ExitCode.OK)


def _replace_closed_streams() -> None:
    """Replace closed standard streams with ones that fail: another file would get their descriptors."""
    for name, mode in (("stdin", "w"), ("stdout", "r"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - to the end of the program


def _discard_output() -> None:
    """Discard what cannot be printed; else Python tries again when it ends, with an exit code of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _description(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    known = isinstance(error, OSError | ValueError | ImportError) or hasattr(error, "operation")
    return one_line(error) if known else f"unexpected {type(error).__name__}: {one_line(error)}"
