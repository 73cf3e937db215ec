"""Lists of an obstore store: by string prefix, in byte order, with an exact `start_after` and `limit`."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import obstore

from starfish_server.checks import is_any_key
from starfish_server.storage.obstore.errors import ask

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore import ObjectMeta

    from starfish_server.operations import ListKeys, ListObjects

PAGE = 1000


async def list_all(
    client: Any, call: ListKeys | ListObjects, *, ordered: bool, is_key: Callable[[str], bool]
) -> list[ObjectMeta]:
    """Return obstore's metadata of the objects whose keys begin with the prefix.

    obstore's prefixes are whole segments, so this lists the folder that the prefix ends in and filters it.
    ordered: whether the backend lists in byte order. If so, nothing is fetched after the last wanted object.
    """
    prefix, start_after, limit = call.prefix, call.start_after, call.limit
    if limit == 0:
        return []
    offset = _offset(prefix, start_after) if ordered else None
    pages = obstore.list(client, _folder(prefix), offset=offset, chunk_size=PAGE)
    found: list[ObjectMeta] = []
    while (page := await ask(prefix, anext, pages, None)) is not None:
        found += [
            meta
            for meta in page
            if (key := meta["path"]).startswith(prefix) and key > (start_after or "") and is_key(key)
        ]
        last = page[-1]["path"] if page else ""
        is_past = last > prefix and not last.startswith(prefix)
        if ordered and (is_past or (limit is not None and len(found) >= limit)):
            break
    return sorted(found, key=itemgetter("path"))[:limit]


async def list_level(
    client: Any, call: ListObjects, *, is_key: Callable[[str], bool]
) -> tuple[list[ObjectMeta], list[str]]:
    """Return the objects and folders of one level that begin with the prefix."""
    prefix, after, limit = call.prefix, call.start_after or "", call.limit
    if limit == 0:
        return [], []
    level = await ask(prefix, obstore.list_with_delimiter_async, client, _folder(prefix))
    folders = {f"{path}/" for path in level["common_prefixes"] if is_key(path)}
    objects = {meta["path"]: meta for meta in level["objects"] if is_key(meta["path"])}
    wanted = (name for name in (*objects, *folders) if name.startswith(prefix) and name > after)
    names = sorted(wanted)[:limit]
    return [objects[name] for name in names if name in objects], [name for name in names if name in folders]


def _folder(prefix: str) -> str | None:
    return prefix.rpartition("/")[0] or None


def _offset(prefix: str, start_after: str | None) -> str | None:
    """Return the key after which obstore may start the list: no wanted key comes before it.

    It is the longest beginning of `start_after` that is a key, or a text just before `prefix`.
    """
    before = ""
    if prefix and prefix[-1].isascii() and prefix[-1].isalnum() and prefix[-1] not in "0Aa":
        before = f"{prefix[:-1]}{chr(ord(prefix[-1]) - 1)}~"
    text = max(start_after or "", before)
    while text and not is_any_key(text):
        text = text.rpartition("/")[0] if "/" in text else ""
    return text or None
