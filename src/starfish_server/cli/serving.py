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
    """Read a file with a stack (`[leaf]`, `[[layer]]`), `[sync]` and `[[auth.token]]`.

    Raises `StackError`, which names the line, for anything in it that is not understood.
    """
    text, table = read_toml(path)
    lines = Lines(str(path), text)
    if not isinstance(table.get("sync"), Mapping):
        place = lines.place(option="sync")
        raise StackError(f"{place}: a [sync] table is missing; its [[sync.collections]] say what is served")
    try:
        config = SyncConfig.model_validate(table["sync"])
    except ValueError as error:
        raise StackError(_reason(error, lines)) from None
    tokens = _bearer_tokens(_tokens(table.get("auth", {}), lines), lines.place("auth.token"))
    store = load_stack(path, other_tables=SERVER_TABLES)
    return Serving(SyncRouterOptions(store=store, config=config, role_resolver=tokens.resolve))


def embedded() -> Serving:
    """Make the default: files under `./starfish-data`, an audit log, and a collection for two callers.

    Their tokens come from STARFISH_ALICE_TOKEN and STARFISH_BOB_TOKEN; without them, new ones are printed.
    """
    callers, printed = [], []
    for name in DEMO_CALLERS:
        variable = f"STARFISH_{name.upper()}_TOKEN"
        given = os.environ.get(variable)
        token = given or secrets.token_urlsafe(24)
        callers.append((token, AuthResult(identity=name, roles=("member",))))
        printed.append(f"  {name:8} " + (f"the token in {variable}" if given else f"Bearer {token}"))
    tokens = _bearer_tokens(callers, "the environment")
    store = (
        StoreBuilder()
        .layer(AccessLog, sink=JsonLinesSink(AUDIT, chain=True))
        .over(FilesystemObjectStore(FilesystemStorageOptions(base_dir=DATA)))
    )
    notice = (
        "No --config: serving the embedded default, to try things out.",
        f"  objects  files under ./{DATA}",
        f"  audit    ./{AUDIT} (starfish audit show {AUDIT})",
        "  routes   /pull/notes/NAME, /push/notes/NAME (their own), /list/notes",
        *printed,
    )
    config = SyncConfig.model_validate(_DEMO)
    return Serving(SyncRouterOptions(store=store, config=config, role_resolver=tokens.resolve), notice)


def _bearer_tokens(callers: Iterable[tuple[str, AuthResult]], place: str) -> BearerTokens:
    try:
        return BearerTokens(callers)
    except (ValueError, TypeError) as error:
        raise StackError(f"{place}: {error}") from error


def _tokens(auth: object, lines: Lines) -> Iterator[tuple[str, AuthResult]]:
    entries = auth.get("token", []) if isinstance(auth, Mapping) and not auth.keys() - {"token"} else None
    if not isinstance(entries, list):
        raise StackError(f"{lines.place(option='auth')}: callers are written as [[auth.token]]")
    for number, entry in enumerate(entries):
        try:
            caller = _caller(entry)
        except (StackError, ValueError, TypeError) as error:
            to_blame = next((name for name in _TOKEN_OPTIONS if name in str(error)), None)
            raise StackError(f"{lines.place('auth.token', number, to_blame)}: {error}") from error
        yield caller


def _caller(entry: object) -> tuple[str, AuthResult]:
    if not isinstance(entry, Mapping):
        raise StackError("callers are written as [[auth.token]]")
    for name in entry:
        if name not in _TOKEN_OPTIONS:
            raise StackError(unknown("option", name, _TOKEN_OPTIONS))
    for name in _TOKEN_OPTIONS:
        if name not in entry:
            raise StackError(f"the option {name!r} is missing")
    variable = _VARIABLE.fullmatch(str(entry["token"]))
    if variable is None:
        raise StackError('secrets come from the environment only: token = "${NAME_OF_A_VARIABLE}"')
    token = os.environ.get(variable[1])
    if token is None:
        raise StackError(f"the environment variable {variable[1]} is not set")
    if not isinstance(entry["roles"], list):
        raise StackError('roles are written as a list, as in roles = ["member"]')
    return token, AuthResult(identity=entry["identity"], roles=tuple(entry["roles"]))


def _reason(error: ValueError, lines: Lines) -> str:
    """Return the first reason of a validation error of `[sync]` with its line, without the value given."""
    errors: Any = getattr(error, "errors", None)
    if errors is None:
        return f"{lines.place(option='sync')}: {error}"
    reason = errors(include_input=False)[0]
    table, number, option = ["sync"], 0, None
    for part in reason["loc"]:
        if isinstance(part, int):
            number = part
        elif len(table)
