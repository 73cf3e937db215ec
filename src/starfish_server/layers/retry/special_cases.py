"""The operations that `Retry` retries in a special way: conditional writes, deletions, uploads and streams.

The rule for all others is `Recovery.repeatable`; uploads and streams are in `streams.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starfish_server.checks import check_metadata, encode_body, type_or_default
from starfish_server.errors import DeleteManyError, VersionConflictError, mark_undetermined
from starfish_server.layers.retry.policy import may_have_written
from starfish_server.layers.retry.recovery import Recovery
from starfish_server.layers.retry.streams import ResumableReader, StreamRecovery, UploadRecovery
from starfish_server.operations import Read, Write

if TYPE_CHECKING:
    from starfish_server.layers.retry.policy import Policy
    from starfish_server.objects import ObjectInfo, StoredObject
    from starfish_server.operations import Operation


class _ConditionalRecovery(Recovery["ObjectInfo"]):
    """Recognises a write that was done but whose reply was lost, so that its retry conflicts with itself.

    An object with the same body, content type, cache control and metadata counts as that write. An equal
    object of another writer counts too, unless every failed attempt certainly wrote nothing. Where `read` is
    derived, only the body is compared. A copy is not compared, since that takes two whole reads: the failure
    of the undetermined attempt is raised.
    """

    @property
    def repeatable(self) -> bool:
        return True

    async def attempt(self) -> ObjectInfo:
        try:
            return await super().attempt()
        except VersionConflictError:
            if self._undetermined is None:
                raise
        operation = self._operation
        if not isinstance(operation, Write):
            self._gave_up = ": the target has changed, perhaps by an earlier attempt"
            raise self._undetermined
        try:
            found = await self._source.perform(
                Read(operation.key, 0, None, operation.context, operation.notes)
            )
        except Exception as error:
            if self._policy.is_transient(error):
                raise
            raise self._conflict() from error
        if found is None or not self._is_ours(found):
            raise self._conflict()
        return found.info  # type: ignore[no-any-return]  # of a Read

    def _is_ours(self, found: StoredObject) -> bool:
        operation, info = self._operation, found.info
        if found.body != encode_body(operation.body, "write", operation.key):
            return False
        if not self._source.native("read"):
            return True  # a derived read need not return the stored headers and metadata
        return (info.content_type, info.cache_control, dict(info.metadata)) == (
            type_or_default(operation.content_type, operation.body),
            operation.cache_control,
            check_metadata(operation.metadata),
        )

    def _conflict(self) -> VersionConflictError:
        reason = "the object has changed, and an earlier attempt may have written it; read it and try again"
        conflict: VersionConflictError = self._operation.error(VersionConflictError, reason)
        return conflict


class _DeletionRecovery(Recovery[None]):
    """Retries the keys that failed transiently.

    Once an attempt has raised a `DeleteManyError`, every error is a `DeleteManyError` of all keys that are
    not deleted yet, in the order given.
    """

    async def attempt(self) -> None:
        left = self._left()
        try:
            await self._source.perform(self._operation.replace(keys=left))
        except DeleteManyError as error:
            raise self._still_failed(left, error.failures) from error
        except Exception as error:
            if not self._failures:
                raise
            raise self._still_failed(left, dict.fromkeys(left, error)) from error
        if not self._failures.keys() <= set(left):
            raise self._still_failed(left, {})

    def end(self, error: Exception) -> None:
        if error is self._failure or not self._failures:
            super().end(error)
        else:
            left = self._left()
            raise self._noted(self._still_failed(left, dict.fromkeys(left, error))) from error

    @property
    def _failures(self) -> dict[str, Exception]:
        return self._failure.failures if isinstance(self._failure, DeleteManyError) else {}

    def _left(self) -> list[str]:
        failures = self._failures or dict.fromkeys(self._operation.keys, self._failure)
        return [key for key, error in failures.items() if self._policy.is_transient(error)]

    def _still_failed(self, tried: list[str], failed: dict[str, Exception]) -> DeleteManyError:
        for key, error in failed.items():
            if may_have_written(self._failures.get(key, self._failure)):
                mark_undetermined(error)
        failures = {key: error for key, error in self._failures.items() if key not in tried} | failed
        in_order = dict.fromkeys((*self._operation.keys, *failures))
        return DeleteManyError({key: failures[key] for key in in_order if key in failures})


_SPECIAL_CASES: dict[str, type[Recovery[Any]]] = {
    "copy": _ConditionalRecovery,
    "delete_many": _DeletionRecovery,
    "upload": UploadRecovery,
    "write": _ConditionalRecovery,
}


def recovery_of(
    policy: Policy, operation: Operation[Any], source: Any, failure: Exception, started: float
) -> Recovery[Any] | None:
    """Return the recovery of an operation or a reader, or None if `failure` must be raised."""
    kind = _SPECIAL_CASES.get(operation.name, Recovery)
    if isinstance(source, ResumableReader):
        kind = StreamRecovery
    recovery = kind(policy, operation, source, failure, started)
    return recovery if recovery.may_retry(failure) else None
