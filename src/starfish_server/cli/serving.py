"""What `starfish serve` serves: by a configuration file, or the embedded default."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starfish_server.builder import StoreBuilder
from starfish_server.cli.callers import BearerTokens
from starfish_server.errors import StackError
from starfish_server.layers import AccessLog, JsonLinesSink
from starfish_server.router import AuthResult, SyncConfig, SyncRouterOptions
from starfish_server.stack_file import load_stack, read_toml
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions
from starfish_server.store_url import SERVER_TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA, AUDIT = "starfish-data", "audit.jsonl"
DEMO_CALLERS = ("alice", "bob")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_DEMO = {
    "version": 1,
    "collections": [
        {
            "name": "notes",
            "storagePath": "notes/{identity}",
            "readRoles": ["member"],
            "writeRoles": ["self"],
            "maxBodyBytes": 2**20,
            "listable": True,
        }
    ],
}


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served, and what to tell whoever started it."""

    options: SyncRouterOptions
    notice: tuple[str, ...] = ()


def configured(path: Path) -> Serving:
    """What a file describes: a stack (`[leaf]`, `[[layer]]`), `[sync]` and `[[auth.token]]`.

    `StackError` for anything in it that is not understood.
    """
    _, table = read_toml(path)
    try:
        config = SyncConfig.model_validate(table.get("sync"))
    except ValueError as error:
        raise StackError(f"{path}: [sync]: {_reasons(error)}") from error
    try:
        tokens = BearerTokens(_tokens(table.get("auth", {})))
    except (StackError, ValueError, TypeError) as error:
        raise StackError(f"{path}: [auth]: {error}") from error
    store = load_stack(path, other_tables=SERVER_TABLES)
    return Serving(SyncRouterOptions(store=store, config=config, role_resolver=tokens.resolve))


def embedded() -> Serving:
    """Files under `./starfish-data`, audit to `audit.jsonl`, and a collection for two callers.

    Their tokens are those of STARFISH_ALICE_TOKEN and STARFISH_BOB_TOKEN, or else new ones, which are told.
    """
    callers, told = [], []
    for name in DEMO_CALLERS:
        variable = f"STARFISH_{name.upper()}_TOKEN"
        given = os.environ.get(variable)
        token = given or secrets.token_urlsafe(24)
        callers.append((token, AuthResult(identity=name, roles=("member",))))
        told.append(f"  {name:8} " + (f"the token in {variable}" if given else f"Bearer {token}"))
    tokens = BearerTokens(callers)
    store = (
        StoreBuilder()
        .layer(AccessLog, sink=JsonLinesSink(AUDIT, chain=True))
        .over(FilesystemObjectStore(FilesystemStorageOptions(base_dir=DATA)))
    )
    notice = (
        "No --config: the embedded default, to try things out.",
        f"  objects  files under ./{DATA}",
        f"  audit    ./{AUDIT} (starfish audit show {AUDIT})",
        "  routes   /pull/notes/NAME, /push/notes/NAME (one's own), /list/notes",
        *told,
    )
    config = SyncConfig.model_validate(_DEMO)
    return Serving(SyncRouterOptions(store=store, config=config, role_resolver=tokens.resolve), notice)


def _tokens(table: object) -> Iterator[tuple[str, AuthResult]]:
    if (
        not isinstance(table, Mapping)
        or table.keys() - {"token"}
        or not isinstance(table.get("token", []), list)
    ):
        raise StackError("callers are written as [[auth.token]]")
    for entry in table.get("token", []):
        yield _token(entry)


def _token(entry: object) -> tuple[str, AuthResult]:
    if not isinstance(entry, Mapping) or entry.keys() != {"identity", "roles", "token"}:
        raise StackError("a token has identity, roles and token")
    variable = _VARIABLE.fullmatch(str(entry["token"]))
    if variable is None:
        raise StackError('secrets come from the environment only: token = "${NAME_OF_A_VARIABLE}"')
    token = os.environ.get(variable[1])
    if token is None:
        raise StackError(f"the environment variable {variable[1]} is not set")
    if not isinstance(entry["roles"], list):
        raise StackError('roles are written as a list, as in roles = ["member"]')
    return token, AuthResult(identity=entry["identity"], roles=tuple(entry["roles"]))


def _reasons(error: ValueError) -> str:
    """Each reason of a validation error with its place, without what was given."""
    reasons: Any = getattr(error, "errors", None)
    if reasons is None:
        return str(error)
    return "; ".join(f"{'.'.join(map(str, reason['loc'])) or 'it'}: {reason['msg']}" for reason in reasons())
