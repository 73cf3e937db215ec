"""`starfish rm`."""

import asyncio
import sys
from typing import Annotated

import typer

from starfish_server.cli.arguments import AsJson, ContextFields, StoreName, context_of
from starfish_server.cli.exit_codes import ExitCode
from starfish_server.cli.output import complain, json_line, line, one_line
from starfish_server.cli.stores import open_store
from starfish_server.errors import DeleteManyError


def rm(
    store: StoreName,
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...")] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="Delete every key that begins with this.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting by prefix.")] = False,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Delete objects. One that is not there is no error.

    All are tried; each one that fails is named on stderr. Deleting by prefix asks first, and in a pipe needs
    --yes; an empty prefix is every object.
    """
    if bool(keys) == (prefix is not None):
        raise typer.BadParameter("give keys to delete, or --prefix, and not both")
    return asyncio.run(_delete(store, keys, prefix, yes, context, json))


async def _delete(
    store: str, keys: list[str] | None, prefix: str | None, yes: bool, context: list[str] | None, json: bool
) -> int:
    asked = context_of(context, "delete")
    async with open_store(store) as opened:
        given = keys or await opened.list_keys(prefix or "", context=asked)
        if prefix is not None and given and not yes:
            _confirm(len(given))
        failures: dict[str, Exception] = {}
        try:
            await opened.delete_many(given, context=asked)
        except DeleteManyError as error:
            failures = error.failures
    for key, failure in failures.items():
        complain(f"{key}: {one_line(failure)}")
    deleted = len(set(given)) - len(failures)
    if json:
        failed = [{"key": key, "error": one_line(failure)} for key, failure in failures.items()]
        json_line({"deleted": deleted, "failed": failed})
    elif sys.stdout.isatty():
        line(f"{deleted} deleted")
    return ExitCode.FAILED if failures else ExitCode.OK


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{count} objects would be deleted: say --yes")
    typer.confirm(f"Delete {count} objects?", abort=True, err=True)
