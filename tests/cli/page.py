"""`docs/cli.md`, made of the program's own help. `python tests/cli/page.py` writes it anew."""
# ruff: noqa: E501 - lines of the page

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from starfish_server.cli.output import MEANINGS

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

`starfish` comes with the extra `[cli]`; `serve` needs `[http]` too, and S3 `[s3]`: `pip install '.[all]'` in a clone.

A store is named by a URL or by the path of a stack file, as in [layer-order.md](layer-order.md):

| name | store |
|---|---|
| `file:///var/lib/objects` | the files below that folder; `file:objects` for one below the current folder. Option: `fsync` |
| `s3://bucket/prefix?endpoint=https://host&region=name` | the objects below a prefix of a bucket. Options: `endpoint`, `region`, `addressing_style`, `anonymous`, `portable_keys` |
| `memory:` | a dict, gone at the end |
| `stack.toml` | the stack that the file describes |

Secrets come from the environment only, never from a URL or an option: for S3 from `AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY` and the rest of the [standard chain](leaves.md#aws). `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`
stands in for `endpoint`, `AWS_REGION` or `AWS_DEFAULT_REGION` for `region`.

Output is pretty on a terminal and plain in a pipe; errors are one line on stderr.

## Exit codes

| code | meaning |
|---|---|
"""

_CONFIGURATION = """\
### The configuration file

A [stack file](layer-order.md#the-same-in-toml) with two more tables: `[sync]`, the
[collections](serve.md#collections), and `[[auth.token]]`, the callers. A token has at least 16 characters and comes
from the environment only.

```toml
[leaf]
type = "filesystem"
base_dir = "data"

[sync]
version = 1

[[sync.collections]]
name = "notes"
storagePath = "notes/{identity}"
readRoles = ["member"]
writeRoles = ["self"]
maxBodyBytes = 65536

[[auth.token]]
identity = "alice"
roles = ["member"]
token = "${ALICE_TOKEN}"
```

```sh
curl http://127.0.0.1:8000/push/notes/alice -H "Authorization: Bearer $ALICE_TOKEN" \\
    -H "Content-Type: application/json" -d '{"data": {"text": "hello"}, "baseHash": null}'
```

Without `--config` the tokens of alice and bob are those of `STARFISH_ALICE_TOKEN` and `STARFISH_BOB_TOKEN`, or new ones.
"""
_AFTER = {"serve": _CONFIGURATION}


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
    for name in COMMANDS:
        parts.append(f"## starfish {name}\n\n```console\n{help_of(*name.split())}\n```\n")
        parts += [_AFTER[name]] if name in _AFTER else []
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
