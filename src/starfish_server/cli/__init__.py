"""The `starfish` command. Its pages: `docs/cli.md`."""

from __future__ import annotations

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
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run(sys.argv[1:]))


def _interrupt(*_: object) -> None:
    """End the command at SIGTERM as after Ctrl-C, so that it cleans up."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell script
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)
