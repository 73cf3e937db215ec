"""`docs/cli.md`, made of the program's own help. `python tests/cli/page.py` writes it anew."""
# ruff: noqa: E501 - lines of the page

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from starfish_server.cli.exit_codes import MEANINGS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
COMMANDS = (
    "serve",
    "get",
    "put",
    "ls",
    "rm",
    "cp",
    "doctor",
    "explain",
    "audit",
    "audit show",
    "audit verify",
)
_HEAD = """\
# Command line

`starfish` comes with the extra `[cli]`; `serve` needs `[http]` too, and S3 `[s3]`: `pip install 'starfish-server[all]'`.

A store is named by a URL or by the path of a stack file, as in [layer-order.md](layer-order.md):

| name | store |
|---|---|
| `file:///var/lib/objects` | the files below that folder |
| `s3://bucket/prefix?endpoint=https://host&region=name` | the objects below a prefix of a bucket; `endpoint` and `region` may be left out |
| `memory:` | a dict, gone at the end |
| `stack.toml` | the stack that the file describes |

Secrets come from the environment only, never from a URL or an option. Output is pretty on a terminal and plain in a
pipe; errors are one line on stderr.

## Exit codes

| code | meaning |
|---|---|
"""


def help_of(*command: str) -> str:
    """What the program prints for `starfish COMMAND --help`, 100 columns wide."""
    program = Path(sys.executable).with_name("starfish")
    done = subprocess.run(
        [program, *command, "--help"],
        env=os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"},
        check=True,
        capture_output=True,
        text=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def page() -> str:
    """The whole page."""
    codes = "".join(f"| {code.value} | {meaning} |\n" for code, meaning in MEANINGS.items())
    parts = [f"{_HEAD}{codes}", f"## starfish\n\n```console\n{help_of()}\n```\n"]
    parts += [f"## starfish {name}\n\n```console\n{help_of(*name.split())}\n```\n" for name in COMMANDS]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
