"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

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
Jobs = Annotated[
    int, typer.Option("--jobs", "-j", metavar="COUNT", min=1, max=256, help="Objects in flight.")
]
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


def split(option: str, given: list[str] | None) -> list[tuple[str, str]]:
    """Return name and value of each NAME=VALUE; anything else is a usage error."""
    parts = [text.partition("=") for text in given or ()]
    for part in parts:
        if not all(part):
            raise typer.BadParameter(f"{option} takes NAME=VALUE, not {''.join(part)!r}")
    return [(name, value) for name, _, value in parts]


def context_of(given: list[str] | None, action: str) -> StoreContext | None:
    """Return the context that `--context` describes, or None without it."""
    if not given:
        return None
    fields: dict[str, Any] = {"collection": "", "params": {}, "identity": None, "roles": (), "action": action}
    for name, value in split("--context", given):
        if name in {"identity", "namespace", "collection"}:
            fields[name] = value
        elif name == "role":
            fields["roles"] += (value,)
        elif name.startswith("params."):
            fields["params"][name.removeprefix("params.")] = value
        else:
            raise typer.BadParameter(
                f"--context has identity, namespace, collection, role and params.NAME, not {name!r}"
            )
    return StoreContext(**fields)
