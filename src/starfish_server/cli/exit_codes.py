"""The exit codes of every command."""

from __future__ import annotations

from enum import IntEnum

from starfish_server.errors import InvalidKeyError, StackError, StoreUnavailableError


class ExitCode(IntEnum):
    """What the code of an ended command says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_OBJECT = 3
    UNAVAILABLE = 4
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed: refused, broken, or something that was checked is not as it should be",
    ExitCode.USAGE: "the command line, a key, a store's name or a configuration file is wrong",
    ExitCode.NO_OBJECT: "there is no such object",
    ExitCode.UNAVAILABLE: "the store cannot answer now; another try may succeed",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
}


def code_of(error: Exception) -> ExitCode:
    """The code of a command that ended with this error."""
    if isinstance(error, StackError | InvalidKeyError):
        return ExitCode.USAGE
    return ExitCode.UNAVAILABLE if isinstance(error, StoreUnavailableError) else ExitCode.FAILED
