"""`openat2` of Linux: a file many folders down in one system call, and no link followed on the way.

Python has no name for it. Where it does not exist (other systems, kernels before 5.6, some sandboxes) an
opener raises `OSError`, as for anything else that is in its way: what `walk` says of the path then holds.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Opener = Callable[[int, bytes], int]

# Its number is the same on every processor but Alpha.
AVAILABLE = sys.platform == "linux" and os.uname().machine != "alpha"
_OPENAT2 = 437
NO_LINKS = 0x02 | 0x04  # RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS
BENEATH = 0x08
CACHED = 0x20
FROM_HERE = -100  # AT_FDCWD: an absolute path needs no folder to start from


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def opener(flags: int, resolve: int, mode: int = 0) -> Opener:
    """A function that opens a path relative to a folder and returns the file descriptor, the caller's own.

    With `CACHED` it fails with EAGAIN rather than wait for the disk, and so holds the interpreter's lock.
    """
    if not AVAILABLE:
        return _missing
    library = ctypes.PyDLL if resolve & CACHED else ctypes.CDLL
    call = library(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    address, size = ctypes.addressof(how), ctypes.sizeof(how)

    def open_path(folder: int, path: bytes, _: _OpenHow = how) -> int:  # the default keeps `how` alive
        file: int = call(_OPENAT2, folder, path, address, size)
        if file < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return file

    return open_path


def _missing(_folder: int, _path: bytes) -> int:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
