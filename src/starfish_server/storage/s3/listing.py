"""Keys and objects listed by ListObjectsV2, page by page, up to the limit."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from starfish_server.errors import StoreError
from starfish_server.objects import ObjectList
from starfish_server.storage.s3.replies import read_list_page, read_object_page
from starfish_server.storage.s3.transport import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.objects import ObjectInfo
    from starfish_server.storage.s3.replies import ListPage, Reply
    from starfish_server.storage.s3.transport import Transport

_PAGE = 1000
# S3 may send an empty page that is not the last one; a server that sends only those is at fault.
_EMPTY_PAGES = 100


async def list_keys(
    transport: Transport,
    prefix: str,
    start_after: str | None,
    limit: int | None,
    is_valid: Callable[[str], bool],
) -> list[str]:
    """Return keys in byte order, without those that are not valid.

    Raises `StoreError` for pages that lead nowhere or hold keys outside the prefix.
    """
    request = Request("list_keys", prefix, "GET")
    found: list[str] = []
    in_order = True
    after = start_after or ""

    def add(page: ListPage) -> int:
        nonlocal found, in_order
        keys = [key for key in page.keys if key > after and is_valid(key)]
        in_order = in_order and all(a < b for a, b in pairwise([*found[-1:], *keys]))
        found += keys
        return len(keys)

    await _pages(transport, request, read_list_page, add, {"prefix": prefix}, start_after, limit)
    # Out of order only if the server breaks S3's promise: some list folder by folder.
    return (found if in_order else sorted(set(found)))[:limit]


async def list_objects(
    transport: Transport,
    prefix: str,
    start_after: str | None,
    limit: int | None,
    delimiter: str | None,
    is_valid: Callable[[str], bool],
) -> ObjectList:
    """Return objects, and with a delimiter the folders among them, in byte order, as `list_keys` does."""
    request = Request("list_objects", prefix, "GET")
    found: dict[str, ObjectInfo | None] = {}  # None for a folder
    after = start_after or ""

    def add(page: ListPage) -> int:
        before = len(found)
        for info in page.details:
            if info.key > after and is_valid(info.key):
                found[info.key] = info
        for folder in page.prefixes:
            if folder > after and is_valid(folder.removesuffix("/")):
                found[folder] = None
        return len(found) - before

    fixed = {"prefix": prefix} if delimiter is None else {"delimiter": delimiter, "prefix": prefix}
    await _pages(transport, request, read_object_page, add, fixed, start_after, limit)
    listed = sorted(found)[:limit]
    objects = [info for name in listed if (info := found[name]) is not None]
    return ObjectList(objects, [name for name in listed if found[name] is None])


async def _pages(
    transport: Transport,
    request: Request,
    read: Callable[[Reply], ListPage],
    add: Callable[[ListPage], int],
    fixed: dict[str, str],
    start_after: str | None,
    limit: int | None,
) -> None:
    """Call `add` with each page, which returns how many entries it took, until it has taken `limit`."""
    prefix = fixed["prefix"]
    count, empty = 0, 0
    token: str | None = None
    tokens: set[str] = set()
    left_out = False
    while limit is None or count < limit:
        # Where keys are left out there may be many more of them, and a short page would hold nothing else.
        wanted = _PAGE if limit is None or left_out else min(_PAGE, limit - count)
        query = _query(fixed, start_after, token, wanted)
        page = await transport.run(request._replace(query=query), read)
        names = [*page.keys, *page.prefixes] if page.prefixes else page.keys
        if not all(name.startswith(prefix) for name in names):
            raise _broken("the server lists keys outside the prefix", request)
        taken = add(page)
        count += taken
        left_out = left_out or taken < len(names)
        token = page.token
        if token is None:
            break
        empty = 0 if names else empty + 1
        if token in tokens or empty > _EMPTY_PAGES:
            raise _broken("the server's pages do not end", request)
        tokens.add(token)


def _query(fixed: dict[str, str], start_after: str | None, token: str | None, wanted: int) -> str:
    query = {"encoding-type": "url", "list-type": "2", "max-keys": str(wanted), **fixed}
    if token is not None:
        query["continuation-token"] = token
    elif start_after:
        query["start-after"] = start_after
    return urlencode(query, quote_via=quote, safe="~")


def _broken(what: str, request: Request) -> StoreError:
    return StoreError(what, operation=request.operation, key=request.key)
