"""`starfish audit show` and `starfish audit verify`."""

import heapq
import json as json_module
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from starfish_server.audit.log_file import rotated_files
from starfish_server.cli.output import ExitCode, print_cells, print_error, print_json, print_line
from starfish_server.cli.stores import AsJson
from starfish_server.layers import verify_audit_log

_COLUMNS = {
    "timestamp": 27,
    "identity": 12,
    "action": 7,
    "operation": 13,
    "outcome": 9,
    "error_type": 22,
}
"""The fields that are shown, each with its width on a terminal."""

_COLOURS = {"ok": typer.colors.GREEN, "miss": typer.colors.YELLOW, "started": typer.colors.YELLOW}

LogFiles = Annotated[
    list[Path],
    # Not checked beforehand: a rotation may rename the file between two checks.
    typer.Argument(metavar="FILE...", help="The logs; their rotated files are read as well.", readable=False),
]


def show(
    files: LogFiles,
    identity: Annotated[
        str | None, typer.Option("--identity", metavar="NAME", help="Only what this caller did.")
    ] = None,
    action: Annotated[
        str | None,
        typer.Option("--action", metavar="NAME", help="Only pull, push, list, delete or system (no caller)."),
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option("--outcome", metavar="NAME", help="Only ok, miss, error, denied, cancelled or started."),
    ] = None,
    json: AsJson = False,
) -> int:
    """Show the records of audit logs together, oldest first.

    The columns are time, caller, action, operation, outcome, error type, and keys; in a pipe they are
    separated by tabs. Lines that are not records are reported on stderr, and the exit code is then 1.

    The log may be written and rotated while it is shown. Only files that are deleted during
    that time, as the sink does with `backups`, may be missing.
    """
    wanted = {"identity": identity, "action": action, "outcome": outcome}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    broken = False
    for place, record in heapq.merge(*map(_records, files), key=_time):
        if record is None:
            print_error(f"{place}: not a record")
            broken = True
        elif all(record.get(name) == value for name, value in wanted.items()):
            _print(record, json)
    return ExitCode.FAILED if broken else ExitCode.OK


def verify(
    files: LogFiles,
    last_hash: Annotated[
        list[str] | None,
        typer.Option(
            "--last-hash",
            metavar="HASH",
            help="From an earlier check; its line must still be there. One for each FILE, in the same order.",
        ),
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option(
            "--key-env", metavar="NAME", help="Environment variable that holds the secret of the chain."
        ),
    ] = None,
    missing_start: Annotated[
        bool, typer.Option("--missing-start", help="Accept that the oldest lines were deleted.")
    ] = False,
    json: AsJson = False,
) -> int:
    """Check the hash chain of each audit log, and show each line that was removed, changed, inserted or
    moved.

    Keep each printed last hash elsewhere and pass it the next time. Without it, a log that was cut off at its
    end passes. Exit code 1 if anything is wrong.
    """
    if last_hash and len(last_hash) != len(files):
        raise typer.BadParameter("--last-hash is given once for each FILE, in the same order, or not at all")
    key = None if key_env is None else os.environ.get(key_env)
    if key_env is not None and not key:
        raise typer.BadParameter(f"the environment variable {key_env} is not set")
    passed = True
    for file, known in zip(files, last_hash or repeat(None), strict=False):
        found = verify_audit_log(file, key=key, last_hash=known, missing_start=missing_start)
        passed = passed and found.ok
        if json:
            texts = {"files": list(map(str, found.files)), "problems": list(map(str, found.problems))}
            print_json(asdict(found) | texts)
        else:
            verdict = "ok" if found.ok else "BROKEN"
            where = f" in {len(found.files)} files" if len(found.files) > 1 else ""
            print_line(f"{verdict}: {file}, {found.lines} lines{where}")
            print_line(f"last hash: {found.last_hash}")
            if found.unfinished_bytes:
                print_line(f"{found.unfinished_bytes} bytes of lines that a crash cut short were moved aside")
        for problem in found.problems:
            print_error(str(problem))
    return ExitCode.OK if passed else ExitCode.FAILED


def _records(file: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield each line's place and its record, or None for a line that is not a record.

    A line without an end is left out unless it is a record.
    """
    for path, lines in _opened(Path(os.path.realpath(file))):
        for number, text in enumerate(lines, 1):
            try:
                record = json_module.loads(text)
            except (ValueError, RecursionError):
                if not text.endswith("\n"):
                    break  # it is being written
                record = None
            yield f"{path}:{number}", record if isinstance(record, dict) else None


def _opened(live: Path) -> Iterator[tuple[Path, TextIO]]:
    """Yield the files of a log, each open, oldest first. The log may be rotated while they are read."""
    with ExitStack() as opened:
        newest = None
        try:
            newest = opened.enter_context(live.open(encoding="utf-8", errors="replace"))
        except FileNotFoundError:  # as in the middle of a rotation
            if not rotated_files(live):
                raise
        # Listed only now that the live file is open: a rotation between the two hides no file.
        for path in rotated_files(live):
            with suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as rotated:
                if newest is not None and os.path.sameopenfile(rotated.fileno(), newest.fileno()):
                    break  # the live file, rotated since it was opened
                yield path, rotated
        if newest is not None:
            yield live, newest


def _time(placed: tuple[str, dict[str, Any] | None]) -> str:
    return str((placed[1] or {}).get("timestamp", ""))


def _print(record: dict[str, Any], json: bool) -> None:
    if json:
        print_json(record)
        return
    keys = record.get("keys")
    target = " ".join(map(str, keys)) if isinstance(keys, list) and keys else record.get("prefix")
    colour = _COLOURS.get(str(record.get("outcome")), typer.colors.RED)
    cells = [record.get(name) for name in _COLUMNS]
    print_cells([*cells, target], list(_COLUMNS.values()), colours={4: colour, 5: colour})
