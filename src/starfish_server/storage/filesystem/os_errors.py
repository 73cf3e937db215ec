"""The one table from an operating system's error numbers to this library's errors."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starfish_server.errors import (
    InvalidKeyError,
    KeyConflictError,
    ObjectTooLargeError,
    ReadOnlyStoreError,
    StoreAccessDeniedError,
    StoreError,
    StoreUnavailableError,
    mark_undetermined,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_ERRORS: dict[type[StoreError], tuple[str, ...]] = {
    # ENXIO: a socket, or a device without a driver.
    StoreAccessDeniedError: ("EACCES", "EPERM", "ELOOP", "ENXIO"),
    ReadOnlyStoreError: ("EROFS",),
    # A file system may hold shorter names than the key rules allow.
    InvalidKeyError: ("ENAMETOOLONG",),
    # ENOENT that means "no such object" or "pruned, try again" was handled before.
    StoreUnavailableError: (
        "EAGAIN", "EBUSY", "EDEADLK", "EDQUOT", "EINTR", "EIO", "EMFILE", "ENFILE", "ENOENT", "ENOLCK",
        "ENOMEM", "ENOSPC", "ESTALE", "ETIMEDOUT", "ETXTBSY",
    ),
    KeyConflictError: ("ENOTDIR", "ENOTEMPTY"),
    StoreError: (
        "E2BIG", "EBADF", "EEXIST", "EFBIG", "EINVAL", "EISDIR", "EMLINK", "ENODATA", "ENODEV", "ENOSYS",
        "ENOTSUP", "EOPNOTSUPP", "EOVERFLOW", "ERANGE", "EXDEV",
    ),
}  # fmt: skip

ERROR_OF_ERRNO = {
    getattr(errno, name): error for error, names in _ERRORS.items() for name in names if hasattr(errno, name)
}
_REASONS = {
    errno.ENOTDIR: "one of its parents is an object",
    errno.ENOTEMPTY: "there are objects below it",
}


class typed_errors:  # noqa: N801 - reads as the `with` statement that it stands in
    """Turn an `OSError` or `MemoryError` of the block into a `StoreError` with the operation and the key.

    A `StoreError` without an operation gets both. When permission is denied, the reason names the file or
    folder.
    """

    __slots__ = ("_base_dir", "key", "operation")

    def __init__(self, base_dir: str, operation: str, key: str | None) -> None:
        self._base_dir = base_dir
        self.operation = operation
        self.key = key

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, MemoryError):
            reason = "the object does not fit into memory"
            raise ObjectTooLargeError(reason, operation=self.operation, key=self.key) from error
        if isinstance(error, StoreError):  # some have OSError as a second base
            if error.operation is None:
                error.operation, error.key = self.operation, self.key
            return
        if not isinstance(error, OSError):
            return
        kind = ERROR_OF_ERRNO.get(error.errno or 0, StoreError)
        reason = _REASONS.get(error.errno or 0) or error.strerror or os.strerror(error.errno or 0)
        if kind in (StoreAccessDeniedError, ReadOnlyStoreError):
            place = f"{self._base_dir}/{self.key or ''}"
            if isinstance(error.filename, str) and error.filename.startswith("/"):
                place = error.filename
            reason = f"{reason}, at {place!r}"
        failure = kind(reason, operation=self.operation, key=self.key)
        failure.undetermined = getattr(error, "undetermined", failure.undetermined)
        raise failure from error


@contextmanager
def after_change() -> Iterator[None]:
    """Mark an `OSError` of the block as undetermined: the change was done, but may not be durable."""
    try:
        yield
    except OSError as error:
        mark_undetermined(error)
        raise
