"""Every error that a store raises on purpose.

StoreError
├── InvalidKeyError (ValueError)               a key, prefix or start_after outside the key rules
├── KeyConflictError                           `a` and `a/b` cannot both be files
├── StoreDecodeError (ValueError)              text that is not UTF-8, stored or handed in
├── StoreAccessDeniedError (PermissionError)   refused by the backend or by a layer
├── BucketNotFoundError                        the bucket, not the key, is missing
├── ObjectNotFoundError (LookupError)          a missing object where None cannot be returned
├── StoreIntegrityError                        stored data is damaged or was tampered with
├── ObjectTooLargeError (ValueError)           over the limit of a layer, going in or coming out
├── VersionConflictError                       a conditional write found another version
├── StoreUnavailableError                      transient: worth another try
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

    reason: what went wrong and what to do. It names neither the operation nor the key, which `str()` adds, so
        that a layer that changes keys need not edit texts.
    operation: name of the store's method, or None.
    key: the key or prefix that the method was called with, or None.
    undetermined: whether a write that failed may have been done nevertheless, as by an earlier attempt of
        `Retry` whose reply was lost; None if the error's class alone tells.

    `__cause__` is the backend's own exception.
    """

    undetermined: bool | None = None

    def __init__(self, reason: str, *, operation: str | None = None, key: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.operation = operation
        self.key = key

    def __str__(self) -> str:
        key = "" if self.key is None else f" {shown_text(self.key)}"
        return f"{self.operation}{key}: {self.reason}" if self.operation else self.reason


def shown_text(text: str) -> str:
    """Return the `repr` of a text from outside, which escapes what could forge a line; a long one is cut."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text)} characters)"


_SHOWN = 100  # characters of a key in a message; a key that no leaf has checked yet may have any length


class InvalidKeyError(StoreError, ValueError):
    """A key, prefix or `start_after` breaks the key rules. Nothing was sent or written."""


class KeyConflictError(StoreError):
    """A key is a prefix segment of another (`a` and `a/b`), which a file system cannot hold."""


class StoreDecodeError(StoreError, ValueError):
    """Stored bytes are not UTF-8 text, or text handed in cannot be encoded as UTF-8 (a lone surrogate)."""


class StoreAccessDeniedError(StoreError, PermissionError):
    """The backend or a layer refuses: bad credentials, no permission, a link that leads out of the store."""


class BucketNotFoundError(StoreError):
    """The bucket (or container) does not exist; a missing object is None instead."""


class ObjectNotFoundError(StoreError, LookupError):
    """The object is missing, in an operation that cannot return None, such as `copy`."""


class StoreIntegrityError(StoreError):
    """What was read is damaged, was tampered with, or does not belong to its key."""


class ObjectTooLargeError(StoreError, ValueError):
    """A body over a limit. `size` and `max_bytes`, the limit, in bytes. A write was not sent."""

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
    """The object does not have the expected version.

    A conditional write has written nothing, unless `undetermined` is True; a range or a stream ended because
    the object was replaced.
    """


class StoreUnavailableError(StoreError):
    """The backend cannot answer now; a retry may succeed. `retry_after`: seconds, if the server said.

    undetermined: whether a write may have been done. False in a class or an error that says for certain that
        nothing was written: a `VersionConflictError` of the retry is then no reply to an earlier attempt.
    """

    undetermined = True

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
    """No answer in time. A write may or may not have been done."""


class StoreOverloadedError(StoreUnavailableError):
    """The backend, or a limit in front of it, asks for fewer requests."""


class CircuitOpenError(StoreUnavailableError):
    """A `CircuitBreaker` is open; nothing was sent. `retry_after`: seconds until probes may pass."""

    undetermined = False


class DeleteManyError(StoreError):
    """Some keys of a `delete_many` could not be deleted; every key was tried.

    `failures` maps each key that failed to its error, in the order they were given.
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
    """The operation came without the `StoreContext` that a layer needs."""


class StoreClosedError(StoreError, RuntimeError):
    """The store was closed; make a new one."""


class StoreNotSupportedError(StoreError, NotImplementedError):
    """This store does not have the operation."""


class ReadOnlyStoreError(StoreError, PermissionError):
    """A write reached a read-only store."""


class StackError(StoreError):
    """A stack cannot be built as written. Raised while building, never while running."""


NOT_SENT = (
    ContextRequiredError,
    InvalidKeyError,
    ObjectTooLargeError,
    ReadOnlyStoreError,
    StoreClosedError,
    StoreNotSupportedError,
)
"""What is raised before the backend is asked: it says nothing about the backend, and a retry cannot help."""
