"""What `starfish serve` serves: a configuration file, or the embedded default, which is one as well."""

from __future__ import annotations

import os
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starfish_server.errors import StackError
from starfish_server.router import (
    AuthResult,
    BearerTokens,
    CollectionConfig,
    NamespaceConfig,
    SyncConfig,
    SyncRouterOptions,
)
from starfish_server.stack_file import Lines, load_stack, read_toml, unknown
from starfish_server.store_url import SERVER_TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TOKEN_OPTIONS = ("identity", "roles", "token")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_EMBEDDED = """
[leaf]
type = "filesystem"
base_dir = "starfish-data"

[[layer]]
type = "AccessLog"
sink = {type = "JsonLinesSink", path = "audit.jsonl", chain = true}

[[sync.collections]]
name = "notes"
storagePath = "notes/{identity}"
readRoles = ["member"]
writeRoles = ["self"]
maxBodyBytes = 1048576
listable = true

[[auth.token]]
identity = "alice"
roles = ["member"]
token = "${STARFISH_ALICE_TOKEN}"

[[auth.token]]
identity = "bob"
roles = ["member"]
token = "${STARFISH_BOB_TOKEN}"
"""


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served, and what to print when it starts."""

    options: SyncRouterOptions
    notice: tuple[str, ...] = ()


def configured(path: Path) -> Serving:
    """Read a file with a stack (`[leaf]`, `[[layer]]`), `[sync]` and `[[auth.token]]`.

    Raises `StackError`, which names the line, for anything in it that is not understood.
    """
    text, table = read_toml(path)
    return Serving(_options(table, Lines(str(path), text), path))


def embedded() -> Serving:
    """Make the default: files under `./starfish-data`, an audit log, and a collection for two callers.

    Their tokens come from STARFISH_ALICE_TOKEN and STARFISH_BOB_TOKEN; without them, new ones are printed.
    """
    callers = []
    for name in ("alice", "bob"):
        variable, token = f"STARFISH_{name.upper()}_TOKEN", secrets.token_urlsafe(24)
        known = os.environ.setdefault(variable, token) != token
        callers.append(f"  {name:8} " + (f"the token in {variable}" if known else f"Bearer {token}"))
    table = tomllib.loads(_EMBEDDED)
    notice = (
        "No --config: serving the embedded default, to try things out.",
        "  objects  files under ./starfish-data",
        "  audit    ./audit.jsonl (starfish audit show audit.jsonl)",
        "  routes   /pull/notes/NAME, /push/notes/NAME (their own), /list/notes",
        *callers,
    )
    return Serving(_options(table, Lines("embedded default", _EMBEDDED), table), notice)


def _options(table: Mapping[str, Any], lines: Lines, stack: Path | Mapping[str, Any]) -> SyncRouterOptions:
    if not isinstance(table.get("sync"), Mapping):
        place = lines.place(option="sync")
        raise StackError(f"{place}: a [sync] table is missing; its [[sync.collections]] say what is served")
    try:
        config = SyncConfig.model_validate(table["sync"])
    except ValueError as error:
        raise StackError(_reason(error, lines)) from None
    try:
        tokens = BearerTokens(_callers(table.get("auth", {}), lines))
    except (ValueError, TypeError) as error:
        raise StackError(f"{lines.place('auth.token')}: {error}") from error
    store = load_stack(stack, other_tables=SERVER_TABLES)
    return SyncRouterOptions(store=store, config=config, role_resolver=tokens.resolve)


def _callers(auth: object, lines: Lines) -> Iterator[tuple[str, AuthResult]]:
    entries = auth.get("token", []) if isinstance(auth, Mapping) and not auth.keys() - {"token"} else None
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise StackError(f"{lines.place(option='auth')}: callers are written as [[auth.token]]")
    for number, entry in enumerate(entries):
        for name in entry:
            if name not in _TOKEN_OPTIONS:
                place = lines.place("auth.token", number, name)
                raise StackError(f"{place}: {unknown('option', name, _TOKEN_OPTIONS)}")
        for name in _TOKEN_OPTIONS:
            if name not in entry:
                raise StackError(f"{lines.place('auth.token', number)}: the option {name!r} is missing")
        try:
            caller = _caller(**entry)
            BearerTokens([caller])  # refuses the token here, where its line is known
        except (StackError, ValueError, TypeError) as error:
            to_blame = next((name for name in _TOKEN_OPTIONS if name in str(error)), None)
            raise StackError(f"{lines.place('auth.token', number, to_blame)}: {error}") from error
        yield caller


def _caller(identity: str, roles: object, token: object) -> tuple[str, AuthResult]:
    if not isinstance(roles, list):
        raise StackError('roles are written as an array, as in roles = ["member"]')
    variable = _VARIABLE.fullmatch(str(token))
    if variable is None:
        raise StackError('secrets come from the environment only: token = "${NAME_OF_A_VARIABLE}"')
    if variable[1] not in os.environ:
        raise StackError(f"the environment variable {variable[1]} is not set, so there is no token")
    return os.environ[variable[1]], AuthResult(identity, tuple(roles))


def _reason(error: Any, lines: Lines) -> str:
    """Return the first reason why the router refuses `[sync]`, with its line and without the value."""
    reason = error.errors(include_input=False, include_url=False)[0]
    loc = reason["loc"]
    at = next((index for index, part in enumerate(loc) if isinstance(part, int)), None)
    table, number, names = (loc[:-1], 0, loc[-1:]) if at is None else (loc[:at], loc[at], loc[at + 1 :])
    option = str(names[0]) if names else None
    place = lines.place(".".join(("sync", *table)), number, option)
    if reason["type"] == "missing":
        return f"{place}: the option {option!r} is missing"
    if reason["type"] == "extra_forbidden":
        model = SyncConfig if not table else NamespaceConfig if at is None else CollectionConfig
        known = [field.alias or name for name, field in model.model_fields.items()]
        return f"{place}: {unknown('option', option, known)}"
    text = reason["msg"].removeprefix("Value error, ").replace("Input should be", f"{option} must be")
    return f"{place}: {text.replace('tuple', 'array')}"
