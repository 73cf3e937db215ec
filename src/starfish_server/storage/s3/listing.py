"""Keys listed by ListObjectsV2, page by page, up to the limit."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from starfish_server.errors import StoreError
from starfish_server.storage.s3.replies import read_list_page
from starfish_server.storage.s3.transport import Request

if TYPE_CHECKING:
    from collections.abc import Callable

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
    found: list[str] = []
    in_order = True
    token: str | None = None
    tokens: set[str] = set()
    empty = 0
    left_out = False
    while limit is None or len(found) < limit:
        # Where keys are left out there may be many more of them, and a short page would hold nothing else.
        wanted = _PAGE if limit is None or left_out else min(_PAGE, limit - len(found))
        query = _query(prefix, start_after, token, wanted)
        page = await transport.run(Request("list_keys", prefix, "GET", query=query), read_list_page)
        if not all(key.startswith(prefix) for key in page.keys):
            raise _broken("the server lists keys outside the prefix", prefix)
        keys = [key for key in page.keys if (start_after is None or key > start_after) and is_valid(key)]
        left_out = left_out or len(keys) < len(page.keys)
        in_order = in_order and all(a < b for a, b in pairwise([*found[-1:], *keys]))
        found += keys
        token = page.token
        if token is None:
            break
        empty = 0 if page.keys else empty + 1
        if token in tokens or empty > _EMPTY_PAGES:
            raise _broken("the server's pages do not end", prefix)
        tokens.add(token)
    # Out of order only if the server breaks S3's promise: some list folder by folder.
    return (found if in_order else sorted(set(found)))[:limit]


def _query(prefix: str, start_after: str | None, token: str | None, wanted: int) -> str:
    query = {"encoding-type": "url", "list-type": "2", "max-keys": str(wanted), "prefix": prefix}
    if token is not None:
        query["continuation-token"] = token
    elif start_after:
        query["start-after"] = start_after
    return urlencode(query, quote_via=quote, safe="~")


def _broken(what: str, prefix: str) -> StoreError:
    return StoreError(what, operation="list_keys", key=prefix)
