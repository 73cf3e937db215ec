"""The one table from an operating system's error numbers to this library's errors."""

from __future__ import annotations

import errno
import os

from starfish_server.errors import (
    InvalidKeyError,
    ReadOnlyStoreError,
    StoreAccessDeniedError,
    StoreError,
    StoreUnavailableError,
)

_ERRORS: dict[type[StoreError], tuple[str, ...]] = {
    StoreAccessDeniedError: ("EACCES", "EPERM", "ELOOP"),
    ReadOnlyStoreError: ("EROFS",),
    # A file system may hold shorter names than the key rules allow.
    InvalidKeyError: ("ENAMETOOLONG",),
    # ENOENT: whoever may see it as "no such object" or "pruned, go round again" did so before.
    StoreUnavailableError: (
        "EAGAIN", "EBUSY", "EDEADLK", "EDQUOT", "EINTR", "EIO", "EMFILE", "ENFILE", "ENOENT", "ENOLCK",
        "ENOMEM", "ENOSPC", "ESTALE", "ETIMEDOUT", "ETXTBSY",
    ),
    StoreError: (
        "E2BIG", "EBADF", "EEXIST", "EFBIG", "EINVAL", "EISDIR", "EMLINK", "ENODATA", "ENODEV", "ENOSYS",
        "ENOTDIR", "ENOTEMPTY", "ENOTSUP", "ENXIO", "EOPNOTSUPP", "EOVERFLOW", "ERANGE", "EXDEV",
    ),
}  # fmt: skip

ERROR_OF_ERRNO = {
    getattr(errno, name): error for error, names in _ERRORS.items() for name in names if hasattr(errno, name)
}


class os_errors:  # noqa: N801 - reads as the `with` statement that it stands in
    """Turn an `OSError` of the block into its `StoreError`; one outside the table is a plain `StoreError`."""

    __slots__ = ("_key", "_operation")

    def __init__(self, operation: str, key: str | None) -> None:
        self._operation = operation
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        # Some of ours are OSErrors too, by their second base.
        if not isinstance(error, OSError) or isinstance(error, StoreError):
            return
        operation, key = self._operation, self._key
        kind = ERROR_OF_ERRNO.get(error.errno or 0, StoreError)
        reason = error.strerror or os.strerror(error.errno or 0)
        where = "" if key is None else f" {key!r}"
        raise kind(f"{operation}{where} failed: {reason}", operation=operation, key=key) from error
