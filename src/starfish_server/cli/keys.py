"""`starfish ls` and `starfish rm`: keys, by name or by prefix."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from starfish_server.cli.arguments import AsJson, ContextFields, StoreURL, context_of
from starfish_server.cli.output import ExitCode, one_line, print_error, print_json, print_line
from starfish_server.cli.sources import LeftOut, list_left_out, open_source, print_left_out
from starfish_server.errors import DeleteManyError


def ls(
    store: StoreURL,
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin with this text.")
    ] = "",
    start_after: Annotated[
        str | None, typer.Option("--start-after", metavar="KEY", help="Only keys after this one.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="COUNT", min=0, help="At most so many; all by default.")
    ] = None,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """List keys, one a line, in byte order.

    Characters that are not printable are escaped; --json gives each key exactly. Files that are no objects,
    such as a link or one whose name breaks the key rules, are named on stderr, and the exit code is then 1.
    """
    keys, left_out = asyncio.run(_keys(store, prefix, start_after, limit, context))
    for key in keys:
        if json:
            print_json({"key": key})
        else:
            print_line(key)
    if sys.stdout.isatty() and not json:
        sys.stderr.write(f"{len(keys)} objects\n")
    print_left_out(left_out)
    return ExitCode.FAILED if left_out else ExitCode.OK


async def _keys(
    store: str, prefix: str, start_after: str | None, limit: int | None, context: list[str] | None
) -> tuple[list[str], Sequence[LeftOut]]:
    asked = context_of(context, "list")
    async with open_source(store) as opened:
        keys = await opened.list_keys(prefix, start_after=start_after, limit=limit, context=asked)
        left_out = await list_left_out(opened, prefix, asked)
    if start_after is not None:
        left_out = [found for found in left_out if found[0] > start_after]
    if limit is not None and len(keys) == limit:
        left_out = [found for found in left_out if found[0] < max(keys, default="")]
    return keys, left_out


def rm(
    store: StoreURL,
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...")] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="Delete every key that begins with this.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting by prefix.")] = False,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Delete objects. Deleting a missing object is no error.

    Every key is tried, and each failure is named on stderr. Deleting by prefix asks first, and in a pipe
    needs --yes. An empty prefix deletes every object.
    """
    if bool(keys) == (prefix is not None):
        raise typer.BadParameter("give either the keys to delete or --prefix")
    return asyncio.run(_delete(store, keys, prefix, yes, context, json))


async def _delete(
    store: str, keys: list[str] | None, prefix: str | None, yes: bool, context: list[str] | None, json: bool
) -> int:
    asked = context_of(context, "delete")
    async with open_source(store) as opened:
        given = keys or await opened.list_keys(prefix or "", context=asked)
        if prefix is not None and given and not yes:
            _confirm(len(given))
        failures: dict[str, Exception] = {}
        try:
            await opened.delete_many(given, context=asked)
        except DeleteManyError as error:
            failures = error.failures
    for key, failure in failures.items():
        print_error(f"{key}: {one_line(failure)}")
    deleted = len(set(given)) - len(failures)
    if json:
        failed = [{"key": key, "error": one_line(failure)} for key, failure in failures.items()]
        print_json({"deleted": deleted, "failed": failed})
    elif sys.stdout.isatty():
        print_line(f"{deleted} deleted")
    return ExitCode.FAILED if failures else ExitCode.OK


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{count} objects would be deleted: say --yes")
    typer.confirm(f"Delete {count} objects?", abort=True, err=True)
