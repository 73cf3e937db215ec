"""Probes of py-key-value: its wrappers over its memory store. Values are dictionaries."""

from __future__ import annotations

import asyncio
import json
import logging
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

import key_value.aio.stores
from key_value.aio.stores.base import BaseStore
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.compression import CompressionWrapper
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper
from key_value.aio.wrappers.fallback import FallbackWrapper
from key_value.aio.wrappers.logging import LoggingWrapper
from key_value.aio.wrappers.passthrough_cache import PassthroughCacheWrapper
from key_value.aio.wrappers.retry import RetryWrapper
from key_value.aio.wrappers.timeout import TimeoutWrapper

from features.lab import No, no_if, own_methods

if TYPE_CHECKING:
    from features.lab import Lab

PACKAGES = ("key_value",)
DISTRIBUTIONS = ("py-key-value-aio",)
OTHER_NAMES = "EncryptionVersionError|encryption_version|version|cursor"  # of formats; inside of a store
VALUE = {"text": "a small body"}


class Failing(MemoryStore):  # type: ignore[misc]  # in another environment
    """A memory store whose next reads raise, or hang where there is nothing to raise."""

    def __init__(self, *faults: Exception | None) -> None:
        super().__init__()
        self.faults = list(faults)

    async def _get_managed_entry(self, *, key: str, collection: str) -> Any:
        if self.faults:
            fault = self.faults.pop(0)
            if fault is None:
                await asyncio.Event().wait()
            else:
                raise fault
        return await super()._get_managed_entry(key=key, collection=collection)


def encrypted(store: Any) -> FernetEncryptionWrapper:
    return FernetEncryptionWrapper(store, source_material="secret", salt="salt")


async def retries(_lab: Lab) -> None:
    store = RetryWrapper(Failing(ConnectionError(), ConnectionError()), initial_delay=0.01)
    await store.put("k", VALUE)
    assert await store.get("k") == VALUE


async def timeout(_lab: Lab) -> None:
    store = RetryWrapper(TimeoutWrapper(Failing(None), timeout=0.1), initial_delay=0.01)
    await store.put("k", VALUE)
    assert await store.get("k") == VALUE


async def fallback(_lab: Lab) -> None:
    backup = MemoryStore()
    await backup.put("k", VALUE)
    assert await FallbackWrapper(Failing(ConnectionError()), backup).get("k") == VALUE


async def tenants(_lab: Lab) -> str:
    store = MemoryStore()
    await store.put("k", {"of": "t1"}, collection="t1")
    await store.put("k", {"of": "t2"}, collection="t2")
    assert await store.get("k", collection="t1") == {"of": "t1"}
    return "by `collection=`"


async def audit(_lab: Lab) -> str:
    lines: list[str] = []
    logger = logging.getLogger("probe")
    logger.setLevel("INFO")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    await LoggingWrapper(MemoryStore(), logger=logger, structured_logs=True).put("k", VALUE)
    assert set(json.loads(lines[0])) == {"status", "action", "collection", "keys", "value", "extra"}
    return "without identity"


async def cache(_lab: Lab) -> None:
    inner, near = MemoryStore(), MemoryStore()
    store = PassthroughCacheWrapper(inner, near)
    await store.put("k", {"is": "old"})
    await store.get("k")
    assert await near.get("k") == {"is": "old"}
    await store.put("k", {"is": "new"})
    assert await store.get("k") == {"is": "new"}


async def encryption(_lab: Lab) -> str | None:
    inner = MemoryStore()
    store = encrypted(inner)
    await store.put("k", VALUE)
    stored = await inner.get("k")
    assert stored is not None
    assert "small" not in json.dumps(stored)
    await inner.put("other", stored)
    return "not bound to the key" if await store.get("other") == VALUE else None


async def compression(_lab: Lab) -> None:
    inner = MemoryStore()
    store = CompressionWrapper(inner)
    value = {"text": "the same line\n" * 1000}
    await store.put("k", value)
    assert len(json.dumps(await inner.get("k"))) < len(json.dumps(value)) / 2
    assert await store.get("k") == value


async def wrapping(_lab: Lab) -> None:
    store = MemoryStore()
    await store.put("k", VALUE, collection="c")
    assert await store.keys("c") == ["k"]
    with no_if(AttributeError):
        await RetryWrapper(store).keys("c")


async def order(_lab: Lab) -> None:
    store = encrypted(CompressionWrapper(MemoryStore()))  # compresses what is already encrypted
    await store.put("k", VALUE)
    raise No("compression inside encryption is accepted")


class OwnLeaf(BaseStore):  # type: ignore[misc]  # in another environment
    """A store over a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], Any] = {}

    async def _get_managed_entry(self, *, collection: str, key: str) -> Any:
        return self.entries.get((collection, key))

    async def _put_managed_entry(self, *, collection: str, key: str, managed_entry: Any) -> None:
        self.entries[collection, key] = managed_entry

    async def _delete_managed_entry(self, *, key: str, collection: str) -> bool:
        return self.entries.pop((collection, key), None) is not None


async def own_leaf(_lab: Lab) -> str:
    store = OwnLeaf()
    await store.put("k", VALUE)
    assert await store.get("k") == VALUE
    return own_methods(OwnLeaf)


async def interface(_lab: Lab) -> str:
    store = MemoryStore()
    await store.put("k", VALUE)
    assert await store.get("k") == VALUE
    assert not hasattr(key_value, "sync")
    return "async, dictionaries"


async def backends(_lab: Lab) -> str:
    stores = {module.name for module in iter_modules(key_value.aio.stores.__path__) if module.ispkg}
    return str(len(stores - {"null", "simple"}))
