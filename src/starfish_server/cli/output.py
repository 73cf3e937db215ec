"""What commands print: results on stdout, complaints on stderr, nothing that could take over a terminal."""

from __future__ import annotations

import json
import sys

from starfish_server.printable import printable


def line(text: str) -> None:
    """One line on stdout; what is not printable in it is escaped."""
    sys.stdout.write(f"{printable(text)}\n")


def json_line(value: object) -> None:
    """One line of ASCII JSON on stdout."""
    sys.stdout.write(f"{json.dumps(value)}\n")


def complain(message: str) -> None:
    """One line on stderr, as of an error."""
    sys.stderr.write(f"starfish: {printable(message)}\n")


def one_line(error: BaseException) -> str:
    """An error in one line: its message, without line breaks, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
