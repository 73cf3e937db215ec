"""`os_errors`: the errors of a store as the OSErrors that programs for files expect."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starfish_server import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

# The errno of errors that are not OSErrors themselves; EIO for all others.
_NUMBERS = {
    errors.ContextRequiredError: errno.EACCES,
    errors.InvalidKeyError: errno.EINVAL,
    errors.KeyConflictError: errno.ENOTDIR,
    errors.ObjectNotFoundError: errno.ENOENT,
    errors.ObjectTooLargeError: errno.EFBIG,
    errors.StoreClosedError: errno.EBADF,
    errors.StoreUnavailableError: errno.EBUSY,
    errors.VersionConflictError: errno.ESTALE,
    PermissionError: errno.EACCES,  # inside a DeleteManyError; elsewhere it passes unchanged
}


@contextmanager
def os_errors(path: str, *, creating: bool = False, reading: bool = False) -> Iterator[None]:
    """Raise a `StoreError` as an OSError with the path.

    Errors that are an OSError already, and `StoreNotSupportedError`, a `NotImplementedError`, pass unchanged.
    A `DeleteManyError` becomes an OSError of the kind of its first failure.

    creating: a conflict means that the file is there.
    reading: an invalid key means that there is no file, since no object can have it.
    """
    try:
        yield
    except errors.StoreError as error:
        if isinstance(error, OSError | NotImplementedError):
            raise
        first = next(iter(error.failures.values())) if isinstance(error, errors.DeleteManyError) else error
        number = next((number for kind, number in _NUMBERS.items() if isinstance(first, kind)), errno.EIO)
        if creating and number == errno.ESTALE:
            number = errno.EEXIST
        if reading and number == errno.EINVAL:
            number = errno.ENOENT
        raise OSError(number, str(error) if first is not error else error.reason, path) from error


def missing(path: str) -> FileNotFoundError:
    """Make the error of a path where there is no object."""
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
