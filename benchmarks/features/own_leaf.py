"""The same leaf for this library and for starfish-server 2.3, whose interface this one keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starfish_server import AbstractObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterable


class OwnLeaf(AbstractObjectStore):
    """A store over a dict."""

    def __init__(self) -> None:
        self.bodies: dict[str, str] = {}

    async def get_string(self, key: str, **_: Any) -> str | None:
        return self.bodies.get(key)

    async def put(self, key: str, body: str, **_: Any) -> None:
        self.bodies[key] = body

    async def list_keys(self, prefix: str, **_: Any) -> list[str]:
        return sorted(key for key in self.bodies if key.startswith(prefix))

    async def delete(self, key: str, **_: Any) -> None:
        self.bodies.pop(key, None)

    async def delete_many(self, keys: Iterable[str], **_: Any) -> None:
        for key in keys:
            self.bodies.pop(key, None)
