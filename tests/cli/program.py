"""The real `starfish` program, run as people run it, for as long as the test may take."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PROGRAM = Path(sys.executable).with_name("starfish")
HANGING = """
import asyncio, pathlib, sys
from starfish_server.cli.app import run
from starfish_server.storage.filesystem import FilesystemObjectStore

def hanging(method):
    async def instead(self, key, **options):
        if key == sys.argv[1]:
            pathlib.Path("reached").write_text("")
            await asyncio.Event().wait()
        return await method(self, key, **options)
    return instead

for name in ("open", "read"):
    setattr(FilesystemObjectStore, name, hanging(getattr(FilesystemObjectStore, name)))
sys.exit(run(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code, and all that it printed."""

    code: int
    out: bytes
    err: str


def starfish(
    *arguments: str,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    program: Sequence[str | Path] = (PROGRAM,),
) -> Ended:
    """Run it in pipes, without any credentials of this machine."""
    ended = subprocess.run(
        [*program, *arguments], input=stdin, capture_output=True, env=environment(env), cwd=cwd
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr.decode())


def starfish_on_a_terminal(
    *arguments: str, cwd: Path, typed: bytes = b"", interrupt_at: bytes | None = None
) -> Ended:
    """Run it with a terminal as stdin, stdout and stderr, all of which is in `out`.

    interrupt_at: send SIGINT, as Ctrl-C does, when this has been printed.
    """
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, *arguments], stdin=slave, stdout=slave, stderr=slave, env=environment(None), cwd=cwd
    )
    os.write(master, typed)
    os.close(slave)
    printed = b""
    try:
        while chunk := os.read(master, 65536):
            printed += chunk
            if interrupt_at is not None and interrupt_at in printed:
                process.send_signal(signal.SIGINT)
                interrupt_at = None
    except OSError:  # how Linux says that the other side is closed
        pass
    finally:
        os.close(master)
    return Ended(process.wait(), printed, "")


@contextmanager
def running(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    out: IO[bytes] | int | None = None,
    program: Sequence[str | Path] = (PROGRAM,),
) -> Iterator[subprocess.Popen[str]]:
    """It runs meanwhile; its stderr is a pipe, its stdout is `out`. Killed in the end if it has not ended."""
    process = subprocess.Popen(
        [*program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=out or subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(env),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupted_at(
    key: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run it until it reads the file of `key`, which hangs, and press Ctrl-C; its exit code and output."""
    os.mkfifo(cwd / "reached")
    program = (sys.executable, "-c", HANGING, key)
    with running(*arguments, cwd=cwd, env=env, out=subprocess.PIPE, program=program) as process:
        (cwd / "reached").read_text()  # returns once the file is being read
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        return process.returncode, out, err


def environment(more: Mapping[str, str] | None) -> dict[str, str]:
    """This process's, without what names credentials or endpoints of S3, and without proxies."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return (
        kept
        | {"AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1", "TERM": "xterm"}
        | dict(more or {})
    )
