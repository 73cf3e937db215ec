"""`docs/cli.md`, made of the program's own help. `python tests/cli/page.py` writes it anew."""
# ruff: noqa: E501 - lines of the page

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from starfish_server.cli.output import ExitCode

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
COMMANDS = (
    "init",
    "serve",
    "get",
    "put",
    "stat",
    "url",
    "ls",
    "du",
    "rm",
    "cp",
    "repair",
    "rotate",
    "doctor",
    "explain",
    "audit",
    "audit show",
    "audit verify",
)
MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed: refused, broken, incomplete, or a check found something wrong",
    ExitCode.USAGE: "the command line, a key, a store's name or a configuration file is wrong",
    ExitCode.NO_OBJECT: "there is no such object",
    ExitCode.UNAVAILABLE: "the store is unavailable; try again later",
    ExitCode.CONFLICT: "the object has changed, or exists already",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C or SIGTERM)",
    ExitCode.CLOSED_PIPE: "the reader of the output closed it, as in `starfish ls data | head`",
}
_HEAD = """\
# Command line

`starfish` comes with the extra `[cli]`. `serve` also needs `[http]`, and S3 needs `[s3]`; in a clone, `pip install '.[all]'`
installs everything.

A store is named by a URL or a path, which [`open_store`](#open_store-in-python) opens:

| name | store |
|---|---|
| `data`, `/var/lib/objects`, `file:///var/lib/objects` | the files below that folder, which `put` and `cp` create. Options: `fsync`, `inline_reads`, `portable_keys` |
| `s3://bucket/prefix?endpoint=https://host&region=name` | the objects of a bucket below a prefix. Options: `endpoint`, `region`, `addressing_style`, `anonymous`, `portable_keys` |
| `gs://bucket`, `az://container` | Google Cloud Storage or Azure Blob Storage, with the extra `[obstore]`; settings and credentials from `GOOGLE_...` or `AZURE_...` variables |
| `memory:` | a dict, gone when the command ends. Option: `portable_keys` |
| `stack.toml` | the stack that the [stack file](layer-order.md#the-same-in-toml) describes |

Options are the query of a URL. A folder with options needs one as well, as in `file:data?fsync=false`. A path with a colon
in its name is written as `./a:b`, and a `~` at its start is the home folder. Credentials never come from a URL or an
option but from the environment: for S3, from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and the rest of the
[standard chain](leaves.md#aws). Without `endpoint`, `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` is used; without `region`, `AWS_REGION` or `AWS_DEFAULT_REGION`.

By default a key has ASCII letters, digits and `._:@-` between slashes. `?portable_keys=false` allows any text, as in
`starfish ls "file:///var/objects?portable_keys=false"`; see the [key rules](leaves.md#what-holds-on-every-leaf).

Output is formatted on a terminal and plain in a pipe. An error is one line on stderr; warnings that a store
[logs](logging-and-debugging.md) may come before it.

`starfish --install-completion` lets bash, zsh, fish and PowerShell complete commands and options.

## Files that are not objects

A folder may hold files that are not objects: a link, a pipe, a name with a space or another character outside the [key
rules](leaves.md#what-holds-on-every-leaf). `ls` and `cp` report each of them on stderr with the reason and exit with 1. If
an object cannot be read, `cp` reports it and copies the others. Reading from a folder that does not exist is an error.

## Exit codes

| code | meaning |
|---|---|
"""

_STARTER = """\
Change the files as you need. `docker compose up` in that folder serves on port 8000. A server on the host can use
the same bucket and Redis:

```sh
docker compose up --detach seaweedfs redis
set -a; . ./.env; set +a
starfish doctor stack.toml
starfish serve --config stack.toml
```

The image installs version 3 from PyPI, or a wheel beside `compose.yaml`. Until 3.0 is on PyPI, make one:
`pip wheel --no-deps --wheel-dir . CLONE`, where `CLONE` is the folder of a clone of this repository.
"""
_CONFIGURATION = """\
### The configuration file

The file is a [stack file](layer-order.md#the-same-in-toml) with two more tables: `[sync]` lists the
[collections](serve.md#collections), and each `[[auth.token]]` is a caller. A token comes from the environment only. It has
at least 16 characters, all of them visible ASCII. An error names the line.

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

Collections of a tenant are under its namespace, and served below `/acme`. The [`Namespace`](a-prefix-per-namespace.md) layer
keeps the objects of each tenant apart:

```toml
[leaf]
type = "filesystem"
base_dir = "data"

[[layer]]
type = "Namespace"
prefix = "tenants/{namespace}/"

[[sync.namespaces.acme.collections]]
name = "notes"
storagePath = "notes/{id}"
readRoles = ["acme"]
writeRoles = ["acme"]
maxBodyBytes = 65536

[[sync.namespaces.emca.collections]]
name = "notes"
storagePath = "notes/{id}"
readRoles = ["emca"]
writeRoles = ["emca"]
maxBodyBytes = 65536

[[auth.token]]
identity = "alice"
roles = ["acme"]
token = "${ALICE_TOKEN}"
```

A caller has the same identity and roles in all namespaces. So name roles after tenants, as here: with the role "member" in
both, alice could read what the other tenant stored, and with "self" she could store documents there.

Without `--config` the tokens of alice and bob come from `STARFISH_ALICE_TOKEN` and `STARFISH_BOB_TOKEN`, or are generated.

Only one process may write an audit log. A second server or worker with the same log stops with an error that says so.
With `path = "audit-{worker}.jsonl"` each process has a log of its own: `{worker}` becomes the lowest number whose log no
other process writes. `starfish audit verify audit-*.jsonl` checks them together. [Deployment](deploy.md) has the rest:
workers, probes, metrics and containers.
"""
_PIPES = """\
A pipe may carry more than memory holds, in and out. With `--create`, a job that runs twice stores one object:

```sh
tar c notes | starfish put backups notes.tar --create --metadata host=db1
starfish get backups notes.tar | tar t
```

An upload that is interrupted or fails leaves nothing behind. If the program before the pipe fails, its partial output is
still stored: run the job under `set -o pipefail`, and delete the object if it fails.
"""
_OPEN_STORE = """\
## open_store in Python

```python
from starfish_server import open_store

async with open_store("data") as store:
    await store.put("greeting", "hello")
    print(await store.list_keys(""))
```

```text
['greeting']
```

`open_store` takes the same names as `STORE`. It raises `StackError` for any other name. The error never repeats a URL, which
may hold credentials.
"""
_AFTER = {"init": _STARTER, "serve": _CONFIGURATION, "put": _PIPES, "audit verify": _OPEN_STORE}


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
