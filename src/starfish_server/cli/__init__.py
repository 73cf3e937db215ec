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
    # A command that is asked to end cleans up as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    sys.exit(run(sys.argv[1:]))
