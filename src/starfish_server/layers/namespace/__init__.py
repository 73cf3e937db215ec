"""`Namespace`: a prefix of its own for each tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starfish_server.checks import (
    MAX_KEY_BYTES,
    check_key,
    check_keys,
    check_page,
    check_prefix,
    is_segments,
)
from starfish_server.errors import ContextRequiredError, DeleteManyError, InvalidKeyError, StoreError
from starfish_server.layers.base import Slot, Wrapper
from starfish_server.layers.namespace.prefix import FunctionPrefix, TemplatePrefix, check_prefix_option
from starfish_server.layers.rethrow import copy_error
from starfish_server.printable import name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.context import StoreContext
    from starfish_server.layers.namespace.prefix import PrefixOf
    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["Namespace"]


class Namespace(Wrapper):
    """Keeps each tenant's objects under a prefix of its own, which callers neither write nor see.

    Stands outside `Caching` and all that follows, so that everything inside works on full keys and cannot mix
    tenants; audit, tracing and guards stand outside it and see the caller's keys.

    prefix: a template with fields, as in "tenants/{namespace}/": `{namespace}`, `{identity}`, `{collection}`
        and `{params.<name>}` of the context, at most one in a segment; or a plain prefix; or a function of
        the context, called for every operation, which must give no tenant a prefix that begins with
        another's. It ends with "/".
    without_context: prefix of calls that come without a context, such as "system/"; it may overlap no
        tenant's. Without it they raise `ContextRequiredError`, unless the prefix is plain.

    Keys are checked before the prefix is put in front, whatever the store inside allows, and together with it
    they have the room of one key. Before the store inside is asked, a context without a field that the
    prefix needs is a `ContextRequiredError`, and a value that is not one key segment an `InvalidKeyError`. A
    listed or failed key outside the prefix is a `StoreError`. The `key`, the `failures` and the quoted keys
    in the message and the notes of an error are the caller's own; its `__cause__` is the backend's and may
    name full keys.
    Raises `ValueError` or `TypeError` for a prefix that is not as above.
    """

    slot = Slot.NAMESPACE

    def __init__(
        self, inner: AbstractObjectStore, prefix: str | PrefixOf, *, without_context: str | None = None
    ) -> None:
        super().__init__(inner)
        if without_context is not None:
            check_prefix_option(without_context, without_context)
        self._plain = isinstance(prefix, str) and "{" not in prefix and without_context is None
        self._prefix_of: Callable[[StoreContext | None], str]
        if isinstance(prefix, str) and self._plain:
            check_prefix_option(prefix, prefix)
            self._prefix_of = lambda _: prefix
        elif isinstance(prefix, str):
            self._prefix_of = TemplatePrefix(prefix, without_context).of
        elif callable(prefix):
            self._prefix_of = FunctionPrefix(prefix, without_context).of
        else:
            raise TypeError(f"prefix must be a str or a function, not {type(prefix).__name__}")
        shown = prefix if isinstance(prefix, str) else name_of(prefix)
        self._settings: dict[str, object] = {"prefix": shown}
        if without_context is not None:
            self._settings["without_context"] = without_context

    @property
    def context_dependent(self) -> bool:
        return not self._plain or self._inner.context_dependent

    def settings(self) -> dict[str, object]:
        return self._settings

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        prefix = self._enter("get_string", key, context)
        try:
            return await self._inner.get_string(prefix + key, context=context)
        except StoreError as error:
            raise _own(error, prefix) from error.__cause__

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        prefix = self._enter("get_bytes", key, context)
        try:
            return await self._inner.get_bytes(prefix + key, context=context)
        except StoreError as error:
            raise _own(error, prefix) from error.__cause__

    async def get_versioned(self, key: str, *, context: StoreContext | None = None) -> tuple[str, str] | None:
        prefix = self._enter("get_versioned", key, context)
        try:
            return await self._inner.get_versioned(prefix + key, context=context)
        except StoreError as error:
            raise _own(error, prefix) from error.__cause__

    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        check_prefix(prefix, "list_keys")
        check_page(start_after, limit)
        own = self._prefix_for("list_keys", prefix, context)
        if len(own) + len(prefix) > MAX_KEY_BYTES:
            raise _too_long(own, prefix, "list_keys")
        if start_after is not None:
            start_after = _place(own + start_after)
        try:
            keys = await self._inner.list_keys(
                own + prefix, start_after=start_after, limit=limit, context=context
            )
        except StoreError as error:
            raise _own(error, own) from error.__cause__
        if not all(key.startswith(own) for key in keys):
            raise StoreError(
                "the store inside listed a key outside the namespace", operation="list_keys", key=prefix
            )
        skip = len(own)
        return [key[skip:] for key in keys]

    async def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        prefix = self._enter("put", key, context)
        try:
            await self._inner.put(
                prefix + key, body, content_type=content_type, cache_control=cache_control, context=context
            )
        except StoreError as error:
            raise _own(error, prefix) from error.__cause__

    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        prefix = self._enter("put_bytes", key, context)
        try:
            await self._inner.put_bytes(
                prefix + key, body, content_type=content_type, cache_control=cache_control, context=context
            )
        except StoreError as error:
            raise _own(error, prefix) from error.__cause__

    async def put_if(
        self,
        key: str,
        body: str,
        *,
        version: str | None,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> str:
        prefix = self._enter("put_if", key, context)
        try:
            return await self._inner.put_if(
                prefix + key,
                body,
                version=version,
                content_type=content_type,
                cache_control=cache_control,
                context=context,
            )
        except StoreError as error:
            raise _own(error, prefix) from error.__cause__

    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        prefix = self._enter("delete", key, context)
        try:
            await self._inner.delete(prefix + key, context=context)
        except StoreError as error:
            raise _own(error, prefix) from error.__cause__

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        keys = check_keys(keys)
        prefix = self._prefix_for("delete_many", None, context)
        longest = max(keys, key=len, default="")
        if len(prefix) + len(longest) > MAX_KEY_BYTES:
            raise _too_long(prefix, longest, "delete_many")
        try:
            await self._inner.delete_many([prefix + key for key in keys], context=context)
        except StoreError as error:
            raise _own(error, prefix) from error.__cause__

    def _enter(self, operation: str, key: str, context: StoreContext | None) -> str:
        """The caller's prefix, once it is sure that it may stand before `key`."""
        # The common case of `check_key`, here because this layer's cost is little more than calls.
        if not isinstance(key, str) or len(key) > MAX_KEY_BYTES or not is_segments(key):
            check_key(key, operation)
        try:
            prefix = self._prefix_of(context)
        except (ContextRequiredError, InvalidKeyError) as error:
            error.operation, error.key = operation, key
            raise
        if len(prefix) + len(key) > MAX_KEY_BYTES:
            raise _too_long(prefix, key, operation)
        return prefix

    def _prefix_for(self, operation: str, key: str | None, context: StoreContext | None) -> str:
        try:
            return self._prefix_of(context)
        except (ContextRequiredError, InvalidKeyError) as error:
            error.operation, error.key = operation, key
            raise


def _too_long(prefix: str, key: str, operation: str) -> InvalidKeyError:
    room = MAX_KEY_BYTES - len(prefix)
    return InvalidKeyError(
        f"{len(key)} characters are too many here: the namespace leaves {room} for a key",
        operation=operation,
        key=key,
    )


def _place(start_after: str) -> str:
    """The same place in the order of keys, in at most the bytes of a key."""
    if len(start_after.encode()) <= MAX_KEY_BYTES:
        return start_after
    kept = start_after.encode()[:MAX_KEY_BYTES].decode(errors="ignore")
    # Where a character was cut in two, "~" comes after all that a key may have there.
    return kept if len(kept.encode()) == MAX_KEY_BYTES else kept + "~"


def _own(error: StoreError, prefix: str) -> StoreError:
    """The error as the caller may see it; a copy, since others may hold the original."""
    if isinstance(error, DeleteManyError) and not all(key.startswith(prefix) for key in error.failures):
        return StoreError("the store inside failed on a key outside the namespace", operation=error.operation)
    own = copy_error(error)
    own.args = tuple(arg.replace(f"'{prefix}", "'") if isinstance(arg, str) else arg for arg in error.args)
    if hasattr(error, "__notes__"):
        own.__notes__ = [note.replace(f"'{prefix}", "'") for note in error.__notes__]
    own.key = error.key.removeprefix(prefix) if error.key is not None else None
    if isinstance(own, DeleteManyError):
        own.failures = {
            key.removeprefix(prefix): _own(failure, prefix) if isinstance(failure, StoreError) else failure
            for key, failure in own.failures.items()
        }
    return own
