"""Every error that a store raises on purpose.

StoreError
├── InvalidKeyError (ValueError)               a key, prefix or start_after outside the key rules
├── KeyConflictError                           `a` and `a/b` cannot both be files
├── StoreDecodeError (ValueError)              stored bytes or a given text that is not valid UTF-8
├── StoreAccessDeniedError (PermissionError)   refused by the backend or by a layer
├── BucketNotFoundError                        the bucket, not the key, is missing
├── ObjectNotFoundError (LookupError)          a missing object, where None cannot be returned
├── StoreIntegrityError                        stored data is damaged or was tampered with
├── ObjectTooLargeError (ValueError)           over the limit of a layer, going in or coming out
├── VersionConflictError                       a conditional write found another version
├── StoreUnavailableError                      transient: a retry may succeed
│   ├── StoreTimeoutError (TimeoutError)
│   ├── StoreOverloadedError
│   └── CircuitOpenError                       a breaker is open: nothing was sent
├── DeleteManyError                            which keys failed, and why
├── ContextRequiredError                       the operation needs a StoreContext
├── StoreClosedError (RuntimeError)
├── StoreNotSupportedError (NotImplementedError)
├── ReadOnlyStoreError (PermissionError)
└── StackError                                 raised while building a stack, never while running
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BucketNotFoundError",
    "CircuitOpenError",
    "ContextRequiredError",
    "DeleteManyError",
    "InvalidKeyError",
    "KeyConflictError",
    "ObjectNotFoundError",
    "ObjectTooLargeError",
    "ReadOnlyStoreError",
    "StackError",
    "StoreAccessDeniedError",
    "StoreClosedError",
    "StoreDecodeError",
    "StoreError",
    "StoreIntegrityError",
    "StoreNotSupportedError",
    "StoreOverloadedError",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "VersionConflictError",
]


class StoreError(Exception):
    """Base of all errors of this library.

    reason: what went wrong and what to do. It names neither the operation nor the key: `str()` adds them.
    operation: name of the store's method, or None.
    key: the key or prefix that the method was called with, or None.
    undetermined: whether a write that failed may have been done, or may still be done, perhaps by an earlier
        attempt. False only if it is certain that nothing was written. Means nothing after a read.

    `__cause__` is the backend's own exception.
    """

    undetermined = True

    def __init__(self, reason: str, *, operation: str | None = None, key: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.operation = operation
        self.key = key

    def __str__(self) -> str:
        key = "" if self.key is None else f" {shown_text(str(self.key))}"
        return f"{self.operation}{key}: {self.reason}" if self.operation else self.reason


def shown_text(text: str) -> str:
    """Return the `repr` of an untrusted text, so that it cannot forge a log line; a long text is cut."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text)} characters)"


_SHOWN = 100  # characters of a key in a message; a key that has not been checked may have any length


class InvalidKeyError(StoreError, ValueError):
    """Raised when a key, prefix or `start_after` breaks the key rules. Nothing was sent or written."""

    undetermined = False


class KeyConflictError(StoreError):
    """Raised when a key is also the folder of another (`a` and `a/b`), which a file system cannot hold."""

    undetermined = False


class StoreDecodeError(StoreError, ValueError):
    """Raised when stored bytes are not UTF-8, or a text to store has a lone surrogate."""

    undetermined = False


class StoreAccessDeniedError(StoreError, PermissionError):
    """Raised when the backend or a layer denies access: bad credentials, no permission, a symbolic link."""

    undetermined = False


class BucketNotFoundError(StoreError):
    """Raised when the bucket or container does not exist. A missing object is None instead."""

    undetermined = False


class ObjectNotFoundError(StoreError, LookupError):
    """Raised when the object is missing and the operation cannot return None, such as `copy`."""

    undetermined = False


class StoreIntegrityError(StoreError):
    """Raised when a stored object is damaged, was tampered with, or belongs to another key."""


class ObjectTooLargeError(StoreError, ValueError):
    """Raised when a body is over a limit; a write was not sent. `size` and `max_bytes` are in bytes."""

    undetermined = False

    def __init__(
        self,
        reason: str,
        *,
        operation: str | None = None,
        key: str | None = None,
        size: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        super().__init__(reason, operation=operation, key=key)
        self.size = size
        self.max_bytes = max_bytes


class VersionConflictError(StoreError):
    """Raised when the object does not have the expected version.

    A conditional write wrote nothing, unless `undetermined` is True. A read of a range or a stream ended
    because the object was replaced.
    """

    undetermined = False


class StoreUnavailableError(StoreError):
    """Raised after a transient failure: a retry may succeed.

    If `undetermined` is False, a `VersionConflictError` of the retry cannot be caused by the earlier attempt.

    retry_after: seconds that the server asked to wait, or None.
    """

    def __init__(
        self,
        reason: str,
        *,
        operation: str | None = None,
        key: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason, operation=operation, key=key)
        self.retry_after = retry_after


class StoreTimeoutError(StoreUnavailableError, TimeoutError):
    """Raised when an operation times out. A write may or may not have been done."""


class StoreOverloadedError(StoreUnavailableError):
    """Raised when the backend, or a limit in front of it, asks for fewer requests."""


class CircuitOpenError(StoreUnavailableError):
    """Raised while a `CircuitBreaker` is open; nothing was sent. `retry_after`: seconds until probes pass."""

    undetermined = False


class DeleteManyError(StoreError):
    """Raised when some keys of a `delete_many` could not be deleted. Every key was tried.

    `failures` maps each key that failed to its error, in the order given.
    """

    def __init__(self, failures: Mapping[str, Exception]) -> None:
        super().__init__(f"{len(failures)} keys were not deleted", operation="delete_many")
        self.failures: dict[str, Exception] = dict(failures)

    def __str__(self) -> str:
        key, error = next(iter(self.failures.items()))
        first = error.reason if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        more = f" (and {len(self.failures) - 1} more)" if len(self.failures) > 1 else ""
        return f"{len(self.failures)} keys were not deleted: {shown_text(key)}: {first}{more}"

    def __reduce__(self) -> tuple[type[DeleteManyError], tuple[dict[str, Exception]]]:
        return type(self), (self.failures,)


class ContextRequiredError(StoreError):
    """Raised when a layer needs a `StoreContext` and the operation has none."""

    undetermined = False


class StoreClosedError(StoreError, RuntimeError):
    """Raised when an operation reaches a closed store, or is cut off by `close`; make a new store."""


class StoreNotSupportedError(StoreError, NotImplementedError):
    """Raised when the store does not support the operation."""

    undetermined = False


class ReadOnlyStoreError(StoreError, PermissionError):
    """Raised when a write reaches a read-only store."""

    undetermined = False


class StackError(StoreError):
    """Raised when a stack cannot be built as written; never while it runs."""


NOT_THE_BACKEND = (
    ContextRequiredError,
    InvalidKeyError,
    ObjectTooLargeError,
    ReadOnlyStoreError,
    StoreClosedError,
    StoreNotSupportedError,
)
"""Errors of the caller or this library. They say nothing about the backend's health; a retry cannot help."""


def is_undetermined(error: BaseException) -> bool:
    """Return whether a write that raised `error` may have been done, or may still be done; True if in doubt.

    For a `DeleteManyError`, pass the failure of one key. Checks of arguments raise exactly `TypeError` or
    `ValueError`; a subclass may come from a reply that could not be read.
    """
    undetermined: bool | None = getattr(error, "undetermined", None)
    return type(error) not in (TypeError, ValueError) if undetermined is None else undetermined


def mark_undetermined(error: Exception) -> None:
    """Make `error`, which may be of any class, say that a write may have been done."""
    vars(error)["undetermined"] = True


_BY_STATUS: dict[int, type[StoreError]] = {
    401: StoreAccessDeniedError,
    403: StoreAccessDeniedError,
    407: StoreAccessDeniedError,
    408: StoreTimeoutError,
    412: VersionConflictError,
    429: StoreOverloadedError,
    501: StoreNotSupportedError,
    503: StoreOverloadedError,
}


def error_of_status(status: int) -> type[StoreError]:
    """Return the error for an HTTP status: `StoreError` for 404, which may mean the bucket or the object."""
    return _BY_STATUS.get(status) or (StoreUnavailableError if status >= 500 else StoreError)
