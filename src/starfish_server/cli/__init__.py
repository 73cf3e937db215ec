"""The `starfish` command. Its pages: `docs/cli.md`."""

from __future__ import annotations

import io
import signal
import sys

_EXTRA = {"typer", "rich", "uvicorn"}


def main() -> None:
    """Run the command that the program's arguments name, and exit with its code."""
    try:
        from starfish_server.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(
            "starfish: the command line needs more packages: pip install 'starfish-server[cli]'\n"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    _buffer_output()
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run(sys.argv[1:]))


def _interrupt(*_: object) -> None:
    """End the command at SIGTERM as after Ctrl-C, so that it cleans up."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell script
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def _buffer_output() -> None:
    """Buffer stdout under PYTHONUNBUFFERED, too: else a write that a full disk cuts short is no error."""
    raw = getattr(sys.stdout, "buffer", None)
    if isinstance(raw, io.RawIOBase):
        encoding = sys.stdout.encoding
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, line_buffering=True)
