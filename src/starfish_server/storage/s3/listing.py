"""Keys and objects listed by ListObjectsV2, page by page, up to the limit."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote_plus, urlencode

from starfish_server.errors import StoreError
from starfish_server.frozen import NOTHING
from starfish_server.objects import ObjectInfo, ObjectList
from starfish_server.storage.s3.errors import MalformedReplyError
from starfish_server.storage.s3.replies import quoted, read_result, read_time, text_of
from starfish_server.storage.s3.transport import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from xml.etree import ElementTree as ET

    from starfish_server.operations import ListKeys, ListObjects
    from starfish_server.storage.s3.replies import Reply
    from starfish_server.storage.s3.transport import Transport

_PAGE = 1000
# S3 may send an empty page that is not the last one; a server that sends only those is at fault.
_EMPTY_PAGES = 100
# An entry of a list as S3 writes it: printable ASCII, elements without children, nothing escaped in the key.
_KEY = r"<Contents><Key>([!-%'-;=-~]+)</Key>"
_PLAIN_KEY = re.compile(_KEY + r"(?:<([A-Za-z]+)>[^<]*+</\2>)*+</Contents>")
_QUOTE = r"""(?:&quot;|&#34;|")?+"""
_PLAIN_OBJECT = re.compile(
    rf"{_KEY}(?:<LastModified>([^<&]*+)</LastModified>|<ETag>{_QUOTE}([^<&\"]*+){_QUOTE}</ETag>|<Size>([0-9]*+)</Size>"
    r"|<(?!LastModified|ETag|Size)([A-Za-z]+)>[^<]*+</\5>)*+</Contents>"
)


class Page(NamedTuple):
    """One page of a list; `token` leads to the next one, None on the last.

    names: the keys, followed by the folders.
    fields: three lists, of the keys' times, ETags and sizes; empty in a list of keys only.
    """

    names: list[str]
    fields: list[list[str]]
    token: str | None


async def list_keys(transport: Transport, call: ListKeys, is_valid: Callable[[str], bool]) -> list[str]:
    """Return keys in byte order, without those that are not valid.

    Raises `StoreError` for pages that lead nowhere or hold keys outside the prefix.
    """
    names, _ = await _entries(transport, call, None, read_key_page, is_valid)
    return names


async def list_objects(
    transport: Transport, call: ListObjects, is_valid: Callable[[str], bool]
) -> ObjectList:
    """Return objects, and with a delimiter the folders among them, in byte order, as `list_keys` does."""
    names, infos = await _entries(transport, call, call.delimiter, read_object_page, is_valid)
    objects = [infos[name] for name in names if name in infos]
    return ObjectList(objects, [name for name in names if name not in infos])


async def _entries(
    transport: Transport,
    call: ListKeys | ListObjects,
    delimiter: str | None,
    read: Callable[[Reply], Page],
    is_valid: Callable[[str], bool],
) -> tuple[list[str], dict[str, ObjectInfo]]:
    """Return the valid names, in order, up to the limit, and the infos of all objects."""
    found: list[str] = []  # some twice, if the service lists them twice
    infos: dict[str, ObjectInfo] = {}
    after, limit = call.start_after or "", call.limit
    query = {"encoding-type": "url", "list-type": "2", "prefix": call.prefix}
    query["max-keys"] = str(_PAGE if limit is None else min(_PAGE, limit))
    if delimiter is not None:
        query["delimiter"] = delimiter
    if after:
        query["start-after"] = after
    tokens: set[str] = set()
    empty = 0

    def fetch() -> Coroutine[None, None, Page]:
        return transport.run(Request("GET", query=urlencode(query, quote_via=quote, safe="~")), read)

    following: asyncio.Task[Page] | None = None
    try:
        while limit is None or len(found) < limit or len(set(found)) < limit:
            page = await (following or fetch())
            if page.token is not None:
                empty = 0 if page.names else empty + 1
                if page.token in tokens or empty > _EMPTY_PAGES:
                    raise StoreError("the server's pages do not end")
                tokens.add(page.token)
                # Only the first page is cut to the limit: many later ones would hold what is left out.
                query |= {"continuation-token": page.token, "max-keys": str(_PAGE)}
                query.pop("start-after", None)
                if limit is None:
                    following = asyncio.create_task(fetch())
                    await asyncio.sleep(0)  # so that it is sent before this page is read
            if [name for name in page.names if not name.startswith(call.prefix)]:
                raise StoreError("the server lists keys outside the prefix")
            infos |= infos_of(page)
            found += [
                name
                for name in page.names
                if name > after
                and is_valid(name if delimiter is None or name in infos else name.removesuffix("/"))
            ]
            if page.token is None:
                break
    finally:
        if following is not None:
            following.cancel()  # not awaited: a coroutine that is closed cannot wait
    # In order already, unless the service lists folder by folder.
    return sorted(dict.fromkeys(found))[:limit], infos


def read_key_page(reply: Reply) -> Page:
    """Return the keys of a ListBucketResult, decoded, in the order of the reply."""
    root, (keys,) = _columns(reply, _PLAIN_KEY)
    return Page(_decoded(keys, root), [], _next_token(root))


def read_object_page(reply: Reply) -> Page:
    """Return the page with the fields of each object, and with the folders."""
    root, (keys, *fields) = _columns(reply, _PLAIN_OBJECT, "LastModified", "ETag", "Size")
    folders = [text_of(entry, "Prefix") for entry in root.iterfind("{*}CommonPrefixes")]
    return Page([*_decoded(keys, root), *_decoded(folders, root)], fields, _next_token(root))


def infos_of(page: Page) -> dict[str, ObjectInfo]:
    """Return the info of each key."""
    return {
        key: ObjectInfo(
            key,
            int(size) if size and len(size) < 20 and size.isdecimal() else None,  # of 64 bits
            None,
            None,
            NOTHING,
            quoted(etag) if etag else None,
            read_time(time) if time else None,
        )
        # Not strict: folders, and the keys of a list of keys only, have no fields.
        for key, (time, etag, size) in zip(page.names, zip(*page.fields, strict=True), strict=False)
    }


def _columns(reply: Reply, plain: re.Pattern[str], *names: str) -> tuple[ET.Element, list[list[str]]]:
    """Return the root of a ListBucketResult, the keys of all entries, and for each name those fields.

    Plain entries are read without a parser, which makes an object of each element and takes eight times as
    long. This is as exact: where there is neither comment, CDATA nor processing instruction, each "<" begins
    a tag.
    """
    # Text between entries, the groups of an entry, and so on. A group is None where its field is missing.
    parts = plain.split(reply.body.decode(errors="surrogateescape"))
    step = plain.groups + 1
    between = "".join(parts[::step])
    if len(parts) > 1 and "<!" not in between and between.find("<?", 2) < 0:
        root = read_result(reply._replace(body=between.encode(errors="surrogateescape")))
        if root.find("{*}Contents") is None:
            return root, [parts[column::step] for column in range(1, len(names) + 2)]
    root = read_result(reply)
    entries = root.findall("{*}Contents")
    fields = ([text_of(entry, name).strip() for entry in entries] for name in names)
    return root, [[text_of(entry, "Key") for entry in entries], *fields]


def _next_token(root: ET.Element) -> str | None:
    truncated = text_of(root, "IsTruncated").strip().lower()
    if truncated not in ("true", "false"):
        raise MalformedReplyError("the reply does not say whether the list is complete")
    token = text_of(root, "NextContinuationToken") or None
    if truncated == "true" and token is None:
        raise MalformedReplyError("the list is incomplete, and the reply has no token for the rest")
    return token if truncated == "true" else None


def _decoded(keys: list[str], root: ET.Element) -> list[str]:
    """Return the keys as text. One that is not UTF-8 has surrogates, and so is not valid by any rule."""
    if "" in keys:
        raise MalformedReplyError("the list holds an entry without a key")
    together = "".join(keys)  # searched once, since most lists have no encoded key
    if text_of(root, "EncodingType") != "url" or not ("%" in together or "+" in together):
        return keys
    return [unquote_plus(key, errors="surrogateescape") for key in keys]
