"""`starfish init`: the files to start from."""

import os
import secrets
import string
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from starfish_server.cli.output import print_result
from starfish_server.cli.stores import AsJson

_STARTER = resources.files("starfish_server.cli") / "starter"


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to write them; by default here.")
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace these files.")] = False,
    json: AsJson = False,
) -> None:
    """Write a commented stack file, a compose file, and a file with their secrets.

    stack.toml puts the usual layers over an S3 bucket. compose.yaml serves it with `docker compose up`,
    together with an S3 server and Redis. .env holds new secrets. Nothing is written if one of the files
    exists.
    """
    environment = string.Template((_STARTER / "environment").read_text())
    texts = {
        "stack.toml": (_STARTER / "stack.toml").read_text(),
        "compose.yaml": (_STARTER / "compose.yaml").read_text(),
        ".env": environment.substitute(secret=secrets.token_urlsafe(32), token=secrets.token_urlsafe(24)),
    }
    paths = [folder / name for name in texts]
    present = [path for path in paths if os.path.lexists(path)]
    if present and not force:
        raise FileExistsError(f"{present[0]} exists, so nothing was written; --force replaces it")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".starfish-", dir=folder) as complete:  # the disk may be full
        for name, text in texts.items():
            path = Path(complete, name)
            path.touch(mode=0o600 if name == ".env" else 0o666)
            path.write_text(text)
        for path in paths:
            if path not in present:
                path.touch(exist_ok=False)  # one that has appeared since is not replaced
            Path(complete, path.name).replace(path)
    for path in paths:  # only now: its reader may have gone
        print_result(json, {"path": str(path)}, str(path))
