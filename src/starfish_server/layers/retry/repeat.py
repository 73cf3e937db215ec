"""The two operations whose repetition takes more than calling them again, as `Retry` proceeds with them."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from starfish_server.errors import (
    DeleteManyError,
    StoreDecodeError,
    StoreNotSupportedError,
    VersionConflictError,
)
from starfish_server.layers.retry.recovery import GAVE_UP

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

__all__ = ["RepeatableDeleteMany", "RepeatablePutIf"]


class RepeatableDeleteMany:
    """A `delete_many` that, called again, repeats the keys that failed and may succeed, and those only.

    Every call raises what is known by then: a `DeleteManyError` of all keys still not deleted, in the order
    they were given, as soon as keys have failed one by one.
    """

    def __init__(
        self,
        delete_many: Callable[[list[str]], Coroutine[None, None, None]],
        keys: list[str],
        may_retry: Callable[[Exception], bool],
    ) -> None:
        self._delete_many = delete_many
        self._keys: Sequence[str] = keys
        self._left = keys
        self._may_retry = may_retry
        self._settled: dict[str, Exception] = {}
        self._one_by_one = False

    async def __call__(self) -> None:
        cause: Exception | None = None
        failed: dict[str, Exception] = {}
        try:
            await self._delete_many(self._left)
        except DeleteManyError as error:
            if not self._settled:
                self._keep(error.failures)
                raise
            cause, failed = error, error.failures
        except Exception as error:
            if not self._one_by_one:
                raise
            cause, failed = error, dict.fromkeys(self._left, error)
        failures = self._settled | failed
        if failures:
            self._keep(failed)
            in_order = {key: failures[key] for key in (*self._keys, *failures) if key in failures}
            raise DeleteManyError(in_order) from cause

    def _keep(self, failed: dict[str, Exception]) -> None:
        self._one_by_one = True
        self._left = [key for key, error in failed.items() if self._may_retry(error)]
        self._settled |= {key: error for key, error in failed.items() if not self._may_retry(error)}


class RepeatablePutIf:
    """A `put_if` that, called again, first finds out whether an earlier try was done and its answer lost.

    If the object is what it was before, it is tried again. If it holds our body, an earlier try was done (or
    somebody wrote the very same: to the caller there is no difference) and its version is the answer. Any
    other change is a `VersionConflictError`. If the store cannot tell, the error of the first try is raised.
    """

    def __init__(
        self,
        put_if: Callable[[], Coroutine[None, None, str]],
        get_versioned: Callable[[], Coroutine[None, None, tuple[str, str] | None]],
        key: str,
        body: str,
        version: str | None,
    ) -> None:
        self._put_if = put_if
        self._get_versioned = get_versioned
        self._key = key
        self._body = body
        self._version = version
        self._failure: Exception | None = None

    async def __call__(self) -> str:
        if self._failure is None:
            try:
                return await self._put_if()
            except Exception as error:
                self._failure = error
                raise
        written = await self._written(self._failure)
        if written is not None:
            return written
        try:
            return await self._put_if()
        except VersionConflictError:
            # The earlier try may have reached the backend only now, between our look and this one.
            written = await self._written(self._failure)
            if written is None:
                raise
            return written

    async def _written(self, failure: Exception) -> str | None:
        """The version that our body was stored as, or None if the object is what it was before."""
        try:
            found = await self._get_versioned()
        except StoreDecodeError as error:
            raise self._conflict() from error
        except StoreNotSupportedError:
            # This error would say that nothing was written, which nobody knows.
            setattr(failure, GAVE_UP, monotonic())
            raise failure from failure.__cause__
        version = None if found is None else found[1]
        if version == self._version:
            return None
        if found is None or found[0] != self._body:
            raise self._conflict()
        return version

    def _conflict(self) -> VersionConflictError:
        return VersionConflictError(
            f"{self._key!r} has changed; an earlier try, whose answer was lost, may have been written before",
            operation="put_if",
            key=self._key,
        )
