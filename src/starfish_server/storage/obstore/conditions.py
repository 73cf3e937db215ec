"""Conditional writes: obstore's versions, and the detection of backends that ignore conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from obstore.store import GCSStore, HTTPStore, LocalStore, MemoryStore

from starfish_server.checks import check_unchanged
from starfish_server.errors import (
    StoreAccessDeniedError,
    StoreError,
    StoreNotSupportedError,
    VersionConflictError,
)
from starfish_server.storage.obstore.attributes import is_version
from starfish_server.storage.obstore.requests import get_info, put

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obstore import PutMode, PutResult


_NEVER = {True: "1", False: '"starfish-never"'}


class Conditions:
    """Writes of one store that depend on the object's version: its generation in GCS, elsewhere its ETag.

    A backend that does not support a condition overwrites silently. So the first conditional write is
    preceded by a read that checks the condition, and followed by a write whose condition cannot be met. If
    that write is accepted, conditional writes raise `StoreNotSupportedError` from then on. A refusal proves
    support.
    """

    def __init__(self, store: Any) -> None:
        self._by_generation = isinstance(store, GCSStore)
        # By whether the object must be missing.
        self._heeded: dict[bool, bool] = {}
        if isinstance(store, MemoryStore):
            self._heeded = {True: True, False: True}
        elif isinstance(store, LocalStore | HTTPStore):
            self._heeded = {False: False}

    async def put(
        self, client: Any, key: str, body: bytes, version: str | None, attributes: Mapping[str, str] | None
    ) -> PutResult:
        """Write if the object has this version, or, for None, if there is none."""
        create = version is None
        if not self._heeded.get(create, True):
            raise StoreNotSupportedError("the backend does not heed this if_version")
        if version is not None and not is_version(client, version):
            check_unchanged(version, "another")
        if create not in self._heeded:
            await self._check_now(client, key, version)
        result = await self._put(client, key, body, version, attributes)
        if create not in self._heeded:
            await self._try(client, key, body, attributes, create)
        return result

    async def _try(
        self, client: Any, key: str, body: bytes, attributes: Mapping[str, str] | None, create: bool
    ) -> None:
        """Find out after a write whether the backend heeds the condition, by writes that it must refuse.

        If the object was deleted meanwhile, the first write that creates it succeeds, but not the second.
        """
        never = None if create else _NEVER[self._by_generation]
        try:
            for _ in range(2 if create else 1):
                await self._put(client, key, body, never, attributes)
        except VersionConflictError:
            return
        except StoreNotSupportedError:
            pass
        except StoreError:  # it proves nothing: the next write tries again
            return
        self._heeded[create] = False
        reason = "the backend does not heed if_version: it may have replaced a version that it should not"
        raise StoreNotSupportedError(reason)

    async def _put(
        self, client: Any, key: str, body: bytes, version: str | None, attributes: Mapping[str, str] | None
    ) -> PutResult:
        mode: PutMode = "create"
        if version is not None:
            mode = {"version": version} if self._by_generation else {"e_tag": version}
        try:
            return await put(client, key, body, attributes, mode=mode)
        except VersionConflictError:
            self._heeded[version is None] = True
            raise

    async def _check_now(self, client: Any, key: str, version: str | None) -> None:
        try:
            found = await get_info(client, key)
        except StoreAccessDeniedError:  # the credentials may be good for writing alone
            return
        check_unchanged(version, None if found is None else found.version or "another")
