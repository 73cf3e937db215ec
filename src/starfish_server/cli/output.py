"""Input, output and exit codes of commands. Control characters are escaped for the sake of terminals."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from enum import IntEnum
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from starfish_server.checks import ENCODE_ADVICE
from starfish_server.errors import InvalidKeyError, StackError, StoreUnavailableError, VersionConflictError
from starfish_server.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import IO, Any

    from rich.console import RenderableType

    from starfish_server.objects import ObjectInfo

_CHUNK = 2**20
_KEY_ADVICE = (
    "portable_keys=false in the store's URL or stack file allows other characters, "
    "as in 'file:data?portable_keys=false'"
)


class ExitCode(IntEnum):
    """The exit codes of every command, as `docs/cli.md` explains; 130 and 141 are those of shells."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_OBJECT = 3
    UNAVAILABLE = 4
    CONFLICT = 5
    INTERRUPTED = 130
    CLOSED_PIPE = 141


def exit_code_of(error: Exception) -> ExitCode:
    """Return the exit code of a command that ended with this error."""
    # A plain ValueError is of an option, such as a content type, that no store takes.
    if isinstance(error, StackError | InvalidKeyError) or type(error) is ValueError:
        return ExitCode.USAGE
    if isinstance(error, VersionConflictError):
        return ExitCode.CONFLICT
    return ExitCode.UNAVAILABLE if isinstance(error, StoreUnavailableError) else ExitCode.FAILED


async def read_chunk(file: IO[Any]) -> bytes:
    """Return the next bytes of a file, pipe or terminal, b"" at its end. Ctrl-C ends the wait for them."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(file.fileno(), ready.set)
    except PermissionError:  # a file: always ready, so the system has nothing to watch
        ready.set()
    try:
        await ready.wait()
    finally:
        loop.remove_reader(file.fileno())
    return os.read(file.fileno(), _CHUNK)


def print_line(text: str) -> None:
    """Print one line on stdout; characters that are not printable are escaped."""
    sys.stdout.write(f"{printable(text)}\n")


def print_cells(
    cells: Sequence[object], widths: Sequence[int], colours: Mapping[int, str] | None = None
) -> None:
    """Print one row: aligned on a terminal, with a colour for some cells; separated by tabs in a pipe.

    None is printed as "-".
    """
    texts = ["-" if cell is None else printable(str(cell)) for cell in cells]
    if not sys.stdout.isatty():
        sys.stdout.write("\t".join(texts) + "\n")
        return
    for number, width in enumerate(widths):
        texts[number] = f"{texts[number]:{width}}"
    for number, colour in (colours or {}).items():
        texts[number] = typer.style(texts[number], fg=colour)
    sys.stdout.write(" ".join(texts) + "\n")


def described(info: ObjectInfo) -> dict[str, object]:
    """Return the info of an object for JSON."""
    modified = info.modified.isoformat() if info.modified else None
    return asdict(info) | {"metadata": dict(info.metadata), "modified": modified}


def print_json(value: object) -> None:
    """Print one line of ASCII JSON on stdout."""
    sys.stdout.write(f"{json.dumps(value)}\n")


def print_result(as_json: bool, fields: Mapping[str, object], text: str) -> None:
    """Print what a command has done: as JSON, or as one line of text."""
    if as_json:
        print_json(fields)
    else:
        print_line(text)


def print_error(message: str) -> None:
    """Print one line on stderr, if anything can be printed there."""
    with suppress(OSError):
        sys.stderr.write(f"starfish: {printable(message)}\n")


def one_line(error: BaseException) -> str:
    """Return an error's message without line breaks, or its type if it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.replace(ENCODE_ADVICE, _KEY_ADVICE)


def print_failures(failures: Mapping[str, Exception]) -> list[dict[str, str]]:
    """Print the failures on stderr in the order of their keys, and return them for JSON."""
    texts = {key: one_line(error) for key, error in sorted(failures.items())}
    for key, text in texts.items():
        print_error(f"{key}: {text}")
    return [{"key": key, "error": text} for key, text in texts.items()]


class ProgressBar(Progress):
    """A bar on stderr while a `with` block runs, if stderr is a terminal.

    state: returns how many objects are done, of how many (None if that is not known yet), and a note.
    """

    def __init__(self, verb: str, state: Callable[[], tuple[int, int | None, str]]) -> None:
        self._state = state
        console = Console(stderr=True)
        columns = (verb, BarColumn(), MofNCompleteColumn(), "{task.fields[note]}", TimeRemainingColumn())
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.add_task(verb, total=None, note="")

    def get_renderables(self) -> Iterable[RenderableType]:
        done, total, note = self._state()
        for task in self.task_ids:  # none yet while it is made
            self.update(task, completed=done, total=total, note=note)
        return super().get_renderables()
