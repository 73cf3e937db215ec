"""What `starfish serve` serves: a configuration file, or the embedded default, which is one as well."""

from __future__ import annotations

import os
import re
import secrets
import tomllib
from collections.abc import Mapping
from typing import Any

from starfish_server.errors import StackError
from starfish_server.router import (
    AuthResult,
    BearerTokens,
    CollectionConfig,
    ConfigEndpointOptions,
    NamespaceConfig,
    SyncConfig,
    SyncRouterOptions,
)
from starfish_server.stack_file import StackFile, hint, read_stack_file
from starfish_server.store_url import SERVER_TABLES

_TOKEN_OPTIONS = ("identity", "roles", "token")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_AUDIT_LOG = "audit.jsonl"
_EMBEDDED = """
[leaf]
type = "filesystem"
base_dir = "starfish-data"

[[layer]]
type = "AccessLog"
sink = {type = "JsonLinesSink", path = "audit.jsonl", chain = true}

[[layer]]
type = "Metrics"

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


def load_options(path: str | None, *, workers: bool = False) -> SyncRouterOptions:
    """Return the options of the router that a file describes.

    path: of a file with a stack (`[leaf]`, `[[layer]]`), `[sync]` and `[[auth.token]]`. None for the default:
        files under `./starfish-data`, an audit log, and a collection for two callers.
    workers: whether this is one of several processes, each with an audit log of its own in the default.

    Raises `StackError`, which names the line, for anything in the file that is not understood.
    """
    if path is None:
        text = _EMBEDDED.replace(_AUDIT_LOG, audit_log(workers=workers))
        file = StackFile("embedded default", text, tomllib.loads(text))
    else:
        file = read_stack_file(path)
    sync = file.table.get("sync")
    with file.errors_at("sync"):
        if not isinstance(sync, Mapping):
            raise StackError("a [sync] table is missing; its [[sync.collections]] say what is served")
    try:
        config = SyncConfig.model_validate(sync)
    except ValueError as error:
        reason = _reason(error)
        with file.errors_at("sync", *reason[0]):
            raise StackError(reason[1]) from None
    tokens = BearerTokens(_callers(file))
    store = file.build(SERVER_TABLES)
    shown = ConfigEndpointOptions(auth="role-filtered")
    return SyncRouterOptions(store, config, tokens.resolve, config_endpoint=shown)


def audit_log(*, workers: bool) -> str:
    """Return the path of the embedded default's audit log."""
    return "audit-{worker}.jsonl" if workers else _AUDIT_LOG


def embedded_notice(*, workers: bool) -> list[str]:
    """Return what to print about the embedded default.

    The callers' tokens come from STARFISH_ALICE_TOKEN and STARFISH_BOB_TOKEN. Without them, new ones are put
    there, for this process and its workers, and are in the notice.
    """
    callers = []
    for name in ("alice", "bob"):
        variable, token = f"STARFISH_{name.upper()}_TOKEN", secrets.token_urlsafe(24)
        known = os.environ.setdefault(variable, token) != token
        callers.append(f"  {name:8} " + (f"the token in {variable}" if known else f"Bearer {token}"))
    log = audit_log(workers=workers)
    return [
        "No --config: serving the embedded default, to try things out.",
        "  objects  files under ./starfish-data",
        f"  audit    ./{log} (starfish audit show {log.replace('{worker}', '*')})",
        "  routes   /pull/notes/NAME, /push/notes/NAME (their own), /list/notes",
        *callers,
    ]


def _callers(file: StackFile) -> list[tuple[str, AuthResult]]:
    auth = file.table.get("auth", {})
    entries = auth.get("token", []) if isinstance(auth, Mapping) and not auth.keys() - {"token"} else None
    with file.errors_at("auth"):
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise StackError("callers are written as [[auth.token]]")
    callers = []
    for number, entry in enumerate(entries):
        for name in entry:
            with file.errors_at("auth", "token", number, name):
                if name not in _TOKEN_OPTIONS:
                    raise StackError(f"unknown option {hint(name, _TOKEN_OPTIONS)}")
        with file.errors_at("auth", "token", number, options=_TOKEN_OPTIONS):
            if missing := [name for name in _TOKEN_OPTIONS if name not in entry]:
                raise StackError(f"a caller needs the option {missing[0]!r}")
            callers.append(_caller(**entry))
            BearerTokens(callers)  # refuses the token here, where its line is known
    return callers


def _caller(identity: str, roles: object, token: object) -> tuple[str, AuthResult]:
    if not isinstance(roles, list):
        raise StackError('roles are written as an array, as in roles = ["member"]')
    variable = _VARIABLE.fullmatch(str(token))
    if variable is None:
        raise StackError('token comes from the environment only: token = "${NAME_OF_A_VARIABLE}"')
    if variable[1] not in os.environ:
        raise StackError(f"token: the environment variable {variable[1]} is not set")
    return os.environ[variable[1]], AuthResult(identity, tuple(roles))


def _reason(error: Any) -> tuple[tuple[str | int, ...], str]:
    """Return the place of the first reason why the router refuses `[sync]`, and the reason in our words."""
    reason = error.errors(include_input=False, include_url=False)[0]
    place: tuple[str | int, ...] = reason["loc"]
    option = place[-1] if place else "sync"
    if reason["type"] == "missing":
        return place, f"the option {option!r} is missing"
    if reason["type"] == "extra_forbidden":
        in_collection = any(isinstance(part, int) for part in place)
        model = CollectionConfig if in_collection else NamespaceConfig if len(place) > 1 else SyncConfig
        known = [field.alias or name for name, field in model.model_fields.items()]
        return place, f"unknown option {hint(option, known)}"
    text = reason["msg"].removeprefix("Value error, ").replace("Input should be", f"{option} must be")
    return place, text.replace("tuple", "array")
