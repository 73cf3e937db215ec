"""`MemoryObjectStore`: objects in a dict of this process."""

from __future__ import annotations

import itertools
import threading
from collections.abc import MutableMapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from starfish_server.checks import (
    DEFAULT_BYTES_TYPE,
    check_keys,
    check_metadata,
    check_unchanged,
    decode_text,
    encode_body,
    type_or_default,
)
from starfish_server.forks import reset_in_child
from starfish_server.objects import ObjectInfo, ObjectList, StoredObject, one_level
from starfish_server.storage.custom import CustomObjectStore
from starfish_server.storage.leaf import Leaf

if TYPE_CHECKING:
    from starfish_server.operations import (
        Delete,
        DeleteMany,
        GetBytes,
        GetString,
        ListKeys,
        ListObjects,
        Put,
        PutBytes,
        Read,
        Write,
    )

__all__ = ["CustomObjectStore", "MemoryObjectStore"]


class _Text(str):
    """Text with its stored attributes; equal to the plain str."""

    __slots__ = ("info",)
    info: ObjectInfo


class _Bytes(bytes):
    """Bytes with their stored attributes; equal to the plain bytes."""

    info: ObjectInfo


_versions = itertools.count(1)
_shared: dict[str, str | bytes] = {}


class _Changes:
    """The lock held around each change, so that a conditional write is atomic, even between threads."""

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        self.lock = threading.Lock()


_changes = _Changes()


class MemoryObjectStore(Leaf):
    """A leaf that keeps objects in a dict; they are gone when the process ends.

    data: the dict that backs the store. Writes appear in it as str or bytes, and values added to it are
        objects. Without it, all stores of the process share one dict; `data={}` gives a separate store.
    portable_keys: allow portable keys only, True by default; see `docs/leaves.md`.
    """

    def __init__(
        self,
        data: MutableMapping[str, str] | MutableMapping[str, str | bytes] | None = None,
        *,
        portable_keys: bool = True,
    ) -> None:
        super().__init__(portable_keys=portable_keys)
        if not isinstance(data, MutableMapping | None):
            raise TypeError(f"data must be a dict or another MutableMapping, not {type(data).__name__}")
        # Another thread may add keys during this loop; copying the dict first is one atomic step.
        for key, body in data.copy().items() if type(data) is dict else ():
            if not isinstance(body, str | bytes):
                reason = f"data[{key!r}] must be str or bytes, not {type(body).__name__}"
                raise TypeError(f'{reason}: put text in quotes, as in "a.b" = "5"')
        self._data = cast("MutableMapping[str, str | bytes]", _shared if data is None else data)

    def __repr__(self) -> str:
        return f"MemoryObjectStore({'shared' if self._data is _shared else f'{len(self._data)} objects'})"

    async def _get_string(self, call: GetString) -> str | None:
        body = self._data.get(call.key)
        if isinstance(body, bytes):
            return decode_text(body, "get_string", call.key)
        # Not `str(body)`: a subclass of str may define another `__str__`.
        return None if body is None else str.__str__(body)

    async def _put(self, call: Put | PutBytes) -> None:
        self._store(call)

    _put_bytes = _put

    async def _list_keys(self, call: ListKeys) -> list[str]:
        return self._list(call)[: call.limit]

    async def _delete(self, call: Delete) -> None:
        self._remove(call.key)

    async def _delete_many(self, call: DeleteMany) -> None:
        for key in check_keys(call.keys, self._check_key):
            self._remove(key)

    async def _get_bytes(self, call: GetBytes) -> tuple[bytes, str] | None:
        found = self._find(call.key)
        return None if found is None else (found.body, found.info.content_type or DEFAULT_BYTES_TYPE)

    async def _read(self, call: Read) -> StoredObject | None:
        found = self._find(call.key)
        return None if found is None else StoredObject(found.info, found.body[call.start : call.stop])

    async def _write(self, call: Write) -> ObjectInfo:
        return self._store(call)

    async def _list_objects(self, call: ListObjects) -> ObjectList:
        infos = [_info(key, body) for key in self._list(call) if (body := self._data.get(key)) is not None]
        if call.delimiter is None:
            return ObjectList(infos[: call.limit])
        return one_level(infos, call.prefix, call.start_after, call.limit)

    async def close(self) -> None:
        """Refuse further operations; the dict is left unchanged."""
        self._closed = True

    def _list(self, call: ListKeys | ListObjects) -> list[str]:
        after = call.start_after or ""
        keys = [key for key in list(self._data) if key.startswith(call.prefix) and key > after]
        return sorted(keys)  # valid Unicode sorts by code point as its UTF-8 does

    def _find(self, key: str) -> StoredObject | None:
        body = self._data.get(key)
        if body is None:
            return None
        content = body.encode() if isinstance(body, str) else bytes(body)
        return StoredObject(_info(key, body), content)

    def _store(self, call: Put | PutBytes | Write) -> ObjectInfo:
        key, body = call.key, call.body
        content = encode_body(body, call.name, key)
        kept = check_metadata(call.metadata)
        stored = _Text(content, "utf-8") if isinstance(body, str) else _Bytes(content)
        kind = type_or_default(call.content_type, body)
        with _changes.lock:
            before = self._data.get(key)
            found = None if before is None else _info(key, before).version
            check_unchanged(call.if_version, found)
            version, now = str(next(_versions)), datetime.now(UTC)
            stored.info = ObjectInfo(key, len(content), kind, call.cache_control, kept, version, now)
            self._data[key] = stored
        return stored.info

    def _remove(self, key: str) -> None:
        with _changes.lock:
            self._data.pop(key, None)


def _info(key: str, body: str | bytes) -> ObjectInfo:
    """Return the info of a stored object, or of a value added to the dict directly."""
    if isinstance(body, _Text | _Bytes):
        return body.info if body.info.key == key else replace(body.info, key=key)
    import hashlib  # here, because few programs add values to the dict directly

    content = encode_body(body, "read", key)
    version = hashlib.sha256(content).hexdigest()  # the same for the same body, as an ETag of S3
    return ObjectInfo(key, len(content), type_or_default(None, body), version=version)
