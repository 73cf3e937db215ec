"""`DurableSync`: the one place where this leaf calls `fsync`."""

from __future__ import annotations

import errno
import logging
import os

_logger = logging.getLogger(__package__)
# A file system that cannot make a folder durable says these (CIFS, FUSE, older NFS). EIO means it tried.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)


class DurableSync:
    """Make an open file or folder durable. Where the file system cannot, log one warning and go on.

    With `enabled=False` it does nothing.
    """

    def __init__(self, base_dir: str, *, enabled: bool) -> None:
        self._base_dir = base_dir
        self._enabled = enabled
        self._warned = False

    def __call__(self, file: int) -> None:
        if not self._enabled:
            return
        try:
            os.fsync(file)
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                raise
            if not self._warned:
                self._warned = True
                _logger.warning(
                    "%r: this file system cannot sync (%s), so a write may not survive a power failure",
                    self._base_dir,
                    error.strerror,
                )
