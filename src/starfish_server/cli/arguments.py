"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from starfish_server.context import StoreContext

StoreURL = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="A folder, s3://bucket/prefix?endpoint=URL&region=NAME, memory:, or a stack file (*.toml).",
    ),
]
StackFile = Annotated[str, typer.Argument(metavar="STACK", help="A stack file (*.toml).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
ContextFields = Annotated[
    list[str] | None,
    typer.Option(
        "--context",
        metavar="FIELD=VALUE",
        help="A field of the context that the stack's layers see: identity, namespace, collection, role or "
        "params.NAME. Can be given several times.",
    ),
]


def context_of(fields: list[str] | None, action: str) -> StoreContext | None:
    """Return the context that `--context` describes, or None without it."""
    if not fields:
        return None
    single: dict[str, str] = {}
    params: dict[str, str] = {}
    roles: list[str] = []
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals or not value:
            raise typer.BadParameter(f"--context takes FIELD=VALUE, not {field!r}")
        if name == "role":
            roles.append(value)
        elif name.startswith("params."):
            params[name.removeprefix("params.")] = value
        elif name in {"identity", "namespace", "collection"}:
            single[name] = value
        else:
            raise typer.BadParameter(
                f"--context has identity, namespace, collection, role and params.NAME, not {name!r}"
            )
    return StoreContext(
        collection=single.get("collection", ""),
        params=params,
        identity=single.get("identity"),
        roles=tuple(roles),
        action=action,
        namespace=single.get("namespace"),
    )
