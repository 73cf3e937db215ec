"""`starfish ls`, `starfish du` and `starfish rm`: keys, by name or by prefix."""

import asyncio
import sys
from typing import Annotated

import typer

from starfish_server.bulk import scan
from starfish_server.cli.arguments import AsJson, ContextFields, StoreURL, context_of
from starfish_server.cli.output import (
    ExitCode,
    described,
    one_line,
    print_cells,
    print_error,
    print_json,
    print_line,
)
from starfish_server.cli.sources import list_left_out, open_source, print_left_out
from starfish_server.context import StoreContext
from starfish_server.errors import DeleteManyError
from starfish_server.objects import ObjectInfo
from starfish_server.storage.base import AbstractObjectStore

_PAGE = 10_000
_WIDTHS = (12, 20, 24)


def ls(
    store: StoreURL,
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin with this text.")
    ] = "",
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Size, time and content type too, as far as lists tell.")
    ] = False,
    folders: Annotated[
        bool, typer.Option("--folders", "-f", help="One level: each folder instead of the keys in it.")
    ] = False,
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
    With --long, the columns are size, time, content type and key, "-" for what is unknown.
    """
    return asyncio.run(_list(store, prefix, long, folders, start_after, limit, context, json))


async def _list(
    url: str,
    prefix: str,
    long: bool,
    folders: bool,
    start_after: str | None,
    limit: int | None,
    context: list[str] | None,
    json: bool,
) -> int:
    asked = context_of(context, "list")
    count, last = 0, start_after
    async with open_source(url) as store:
        while limit is None or count < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - count)
            page = await _page(store, prefix, last, size, long, folders, asked)
            for key, info in page:
                _print_entry(key, info, long, json)
            count += len(page)
            last = page[-1][0] if page else last
            if len(page) < size:
                break
        left_out = await list_left_out(store, prefix, asked)
    if start_after is not None:
        left_out = [found for found in left_out if found[0] > start_after]
    if limit is not None and count == limit:
        left_out = [found for found in left_out if found[0] < (last or "")]
    if sys.stdout.isatty() and not json:
        sys.stderr.write(f"{count} {'entries' if folders else 'objects'}\n")
    print_left_out(left_out)
    return ExitCode.FAILED if left_out else ExitCode.OK


async def _page(
    store: AbstractObjectStore,
    prefix: str,
    start_after: str | None,
    limit: int,
    long: bool,
    folders: bool,
    context: StoreContext | None,
) -> list[tuple[str, ObjectInfo | None]]:
    """Return a page of keys, each with its info, which is None for a folder."""
    if not (long or folders):  # much cheaper than a list of infos on some stores
        keys = await store.list_keys(prefix, start_after=start_after, limit=limit, context=context)
        return [(key, ObjectInfo(key)) for key in keys]
    delimiter = "/" if folders else None
    page = await store.list_objects(
        prefix, start_after=start_after, limit=limit, delimiter=delimiter, context=context
    )
    entries: dict[str, ObjectInfo | None] = {info.key: info for info in page.objects}
    return sorted((entries | dict.fromkeys(page.prefixes)).items(), key=lambda entry: entry[0])


def _print_entry(key: str, info: ObjectInfo | None, long: bool, json: bool) -> None:
    if json:
        print_json({"folder": key} if info is None else described(info) if long else {"key": key})
    elif long:
        seen = info or ObjectInfo(key)
        modified = seen.modified and f"{seen.modified:%Y-%m-%dT%H:%M:%SZ}"
        print_cells([seen.size, modified, seen.content_type, key], _WIDTHS)
    else:
        print_line(key)


def du(
    store: StoreURL,
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin with this text.")
    ] = "",
    depth: Annotated[
        int, typer.Option("--depth", "-d", metavar="COUNT", min=0, help="Levels of folders below the prefix.")
    ] = 1,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Count the bytes and objects of each folder below a prefix, and of all.

    The columns are bytes, objects and folder, the whole last. Where lists tell no sizes, each object is asked
    for its own. Files that are no objects are named on stderr, and the exit code is then 1.
    """
    return asyncio.run(_count(store, prefix, depth, context, json))


async def _count(url: str, prefix: str, depth: int, context: list[str] | None, json: bool) -> int:
    asked = context_of(context, "list")
    totals = {prefix: (0, 0)}  # of the folders that the last object is in, outermost first
    unknown = 0
    async with open_source(url) as store:
        async for info in scan(store, prefix, page_size=_PAGE, context=asked):
            found = info if info.size is not None else await store.stat(info.key, context=asked)
            size = found.size if found is not None else 0
            unknown += size is None
            parts = info.key[len(prefix) :].split("/")
            inside = [prefix, *(prefix + "/".join(parts[:n]) + "/" for n in range(1, len(parts)))][
                : depth + 1
            ]
            for folder in [folder for folder in reversed(totals) if folder not in inside]:
                _print_total(folder, totals.pop(folder), json)
            for folder in inside:
                total, count = totals.get(folder, (0, 0))
                totals[folder] = total + (size or 0), count + 1
        left_out = await list_left_out(store, prefix, asked)
    for folder in reversed(totals):
        _print_total(folder, totals[folder], json)
    if unknown:
        print_error(f"the store does not tell the size of {unknown} objects, which are not in the bytes")
    print_left_out(left_out)
    return ExitCode.FAILED if unknown or left_out else ExitCode.OK


def _print_total(folder: str, total: tuple[int, int], json: bool) -> None:
    size, count = total
    if json:
        print_json({"folder": folder, "bytes": size, "objects": count})
    else:
        print_cells([size, count, folder or "(all)"], _WIDTHS[:2])


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
