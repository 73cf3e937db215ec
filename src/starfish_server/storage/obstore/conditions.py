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
from starfish_server.storage.obstore.requests import get_info, is_version, put

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from obstore import PutMode, PutResult

# Versions that no object has: a generation, or an ETag.
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
        # Whether the backend supports writes if there is no object (True) and if it has a version (False).
        self._supported: dict[bool, bool] = {}
        if isinstance(store, MemoryStore):
            self._supported = {True: True, False: True}
        elif isinstance(store, LocalStore | HTTPStore):
            self._supported = {False: False}

    async def put(
        self, client: Any, key: str, body: bytes, version: str | None, attributes: Mapping[str, str] | None
    ) -> PutResult:
        """Write if the object has this version, or, for None, if there is none."""

        async def write(condition: str | None) -> PutResult:
            mode: PutMode = "create"
            if condition is not None:
                mode = {"version": condition} if self._by_generation else {"e_tag": condition}
            try:
                return await put(client, key, body, attributes, mode=mode)
            except VersionConflictError:
                self._supported[create] = True
                raise

        create = version is None
        if not self._supported.get(create, True):
            raise StoreNotSupportedError("the backend does not support this if_version")
        if version is not None and not is_version(client, version):
            check_unchanged(version, "another")
        if create in self._supported:
            return await write(version)
        await self._check_now(client, key, version)
        result = await write(version)
        if create not in self._supported:
            await self._try(write, create)
        return result

    async def _check_now(self, client: Any, key: str, version: str | None) -> None:
        try:
            found = await get_info(client, key)
        except StoreAccessDeniedError:  # the credentials may allow writing only
            return
        check_unchanged(version, None if found is None else found.version or "another")

    async def _try(self, write: Callable[[str | None], Awaitable[PutResult]], create: bool) -> None:
        """Find out after a write whether the backend supports the condition, by writes that it must refuse.

        If the object was deleted meanwhile, the first write that creates it succeeds, but not the second.
        """
        try:
            for _ in range(2 if create else 1):
                await write(None if create else _NEVER[self._by_generation])
        except VersionConflictError:
            return
        except StoreNotSupportedError:
            pass
        except StoreError:  # it proves nothing: the next write tries again
            return
        self._supported[create] = False
        reason = "the backend ignores if_version: it may have replaced a version that it should not"
        error = StoreNotSupportedError(reason)
        error.undetermined = True  # the write was done
        raise error
