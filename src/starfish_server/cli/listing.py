"""`starfish ls`, `starfish du` and `starfish rm`: keys, by name or by prefix."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from starfish_server.bulk import scan
from starfish_server.cli.output import (
    ExitCode,
    ProgressBar,
    described,
    print_cells,
    print_error,
    print_failures,
    print_json,
    print_line,
    read_chunk,
)
from starfish_server.cli.stores import (
    AsJson,
    ContextFields,
    StoreURL,
    context_of,
    list_left_out,
    open_source,
    print_left_out,
)
from starfish_server.errors import DeleteManyError
from starfish_server.objects import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

_PAGE = 10_000
_WIDTHS = (12, 20, 24)

Prefix = Annotated[str, typer.Argument(metavar="PREFIX", help="Only keys that begin with this text.")]


async def ls(
    store: StoreURL,
    prefix: Prefix = "",
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Also size, time and content type, if the list has them.")
    ] = False,
    folders: Annotated[
        bool, typer.Option("--folders", "-f", help="One level: each folder instead of the keys in it.")
    ] = False,
    start_after: Annotated[
        str | None, typer.Option("--start-after", metavar="KEY", help="Only keys after this one.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="COUNT", min=0, help="At most this many; all by default.")
    ] = None,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """List keys, one a line, in byte order.

    Characters that are not printable are escaped; --json prints each key exactly. Files that are not objects,
    such as a link or a file whose name breaks the key rules, are reported on stderr, and the exit code is
    then 1. With --long, the columns are size, time, content type and key, "-" if unknown.
    """
    asked = context_of(context, "list")
    count, last = 0, start_after
    async with open_source(store) as opened:
        while limit is None or count < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - count)
            entries: dict[str, ObjectInfo | None]
            if long or folders:
                found = await opened.list_objects(
                    prefix, start_after=last, limit=size, delimiter="/" if folders else None, context=asked
                )
                entries = {info.key: info for info in found.objects} | dict.fromkeys(found.prefixes)
            else:  # much cheaper than a list of infos on some stores
                keys = await opened.list_keys(prefix, start_after=last, limit=size, context=asked)
                entries = {key: ObjectInfo(key) for key in keys}
            for key in sorted(entries):
                _print_entry(key, entries[key], long, json)
                last = key
            count += len(entries)
            if len(entries) < size:
                break
        left_out = await list_left_out(opened, prefix, asked)
    if start_after is not None:
        left_out = {path: reason for path, reason in left_out.items() if path > start_after}
    if limit is not None and count == limit:
        left_out = {path: reason for path, reason in left_out.items() if path < (last or "")}
    if sys.stdout.isatty() and not json:
        sys.stderr.write(f"{count} {'entries' if folders else 'objects'}\n")
    print_left_out(left_out)
    return ExitCode.FAILED if left_out else ExitCode.OK


def _print_entry(key: str, info: ObjectInfo | None, long: bool, json: bool) -> None:
    """Print an object, or a folder, which has no info."""
    if json:
        print_json({"folder": key} if info is None else described(info) if long else {"key": key})
    elif long:
        seen = info or ObjectInfo(key)
        modified = seen.modified and f"{seen.modified:%Y-%m-%dT%H:%M:%SZ}"
        print_cells([seen.size, modified, seen.content_type, key], _WIDTHS)
    else:
        print_line(key)


async def du(
    store: StoreURL,
    prefix: Prefix = "",
    depth: Annotated[
        int, typer.Option("--depth", "-d", metavar="COUNT", min=0, help="Levels of folders below the prefix.")
    ] = 1,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Count the bytes and objects in each folder below a prefix, and in total.

    The columns are bytes, objects and folder; the last line is the total. If lists have no sizes, the size of
    each object is requested. Files that are not objects are reported on stderr, and the exit code is then 1.
    """
    asked = context_of(context, "list")
    totals = {prefix: (0, 0)}  # of the folders that contain the last object, outermost first
    unknown = 0
    async with open_source(store) as opened:
        async for info in scan(opened, prefix, page_size=_PAGE, context=asked):
            found = info if info.size is not None else await opened.stat(info.key, context=asked)
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
        left_out = await list_left_out(opened, prefix, asked)
    for folder in reversed(totals):
        _print_total(folder, totals[folder], json)
    if unknown:
        print_error(f"the sizes of {unknown} objects are unknown and not counted")
    print_left_out(left_out)
    return ExitCode.FAILED if unknown or left_out else ExitCode.OK


def _print_total(folder: str, total: tuple[int, int], json: bool) -> None:
    size, count = total
    if json:
        print_json({"folder": folder, "bytes": size, "objects": count})
    else:
        print_cells([size, count, folder or "(all)"], _WIDTHS[:2])


async def rm(
    store: StoreURL,
    keys: Annotated[list[str] | None, typer.Argument(metavar="KEY")] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="Delete every key that begins with this.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting by prefix.")] = False,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Delete objects. Deleting a missing object is no error.

    Every key is tried, and each failure is reported on stderr. Deleting by prefix goes page by page and asks
    first; in a pipe it needs --yes. An empty prefix deletes every object.
    """
    if bool(keys) == (prefix is not None):
        raise typer.BadParameter("give either the keys to delete or --prefix")
    asked = context_of(context, "delete")
    deleted = 0
    failed: list[dict[str, str]] = []
    async with open_source(store) as opened:
        page = list(dict.fromkeys(keys or ()))
        if prefix is not None:
            page = await opened.list_keys(prefix, limit=_PAGE, context=asked)
            if page and not yes:
                await _confirm(len(page))
        try:
            with ProgressBar("deleting", lambda: (deleted, None, "")):
                while page:
                    failures: Mapping[str, Exception] = {}
                    try:
                        await opened.delete_many(page, context=asked)
                    except DeleteManyError as error:
                        failures = error.failures
                    failed += print_failures(failures)
                    deleted += len(page) - len(failures)
                    if prefix is None or len(page) < _PAGE:
                        break
                    page = await opened.list_keys(prefix, start_after=page[-1], limit=_PAGE, context=asked)
        except BaseException:
            if deleted:
                print_error(f"{deleted} objects had been deleted by then")
            raise
    if json:
        print_json({"deleted": deleted, "failed": failed})
    elif sys.stdout.isatty():
        print_line(f"{deleted} deleted")
    return ExitCode.FAILED if failed else ExitCode.OK


async def _confirm(count: int) -> None:
    objects = f"{count} objects" if count < _PAGE else f"{count} objects or more"
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{objects} would be deleted: confirm with --yes")
    sys.stderr.write(f"Delete {objects}? [y/N]: ")
    sys.stderr.flush()
    answer = b""
    while not answer.endswith(b"\n") and (chunk := await read_chunk(sys.stdin)):  # Ctrl-D may end a chunk
        answer += chunk
    if answer.strip().lower() not in (b"y", b"yes"):
        raise typer.Abort
