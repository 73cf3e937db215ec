"""What the operating system may answer, and the errors that it becomes."""

import errno
import os
from pathlib import Path

import pytest

from starfish_server.errors import (
    InvalidKeyError,
    ReadOnlyStoreError,
    StoreAccessDeniedError,
    StoreError,
    StoreUnavailableError,
)
from starfish_server.storage.filesystem import FilesystemObjectStore
from starfish_server.storage.filesystem.os_errors import ERROR_OF_ERRNO, typed_errors
from storage.filesystem_support import make_store

# Of open, read, write, fsync, rename, link, unlink, mkdir, rmdir, flock, the directory calls and the extended
# attribute calls, in POSIX.1-2024 and the Linux manual pages; without EFAULT, which Python cannot cause.
DOCUMENTED = [
    "E2BIG", "EACCES", "EAGAIN", "EBADF", "EBUSY", "EDQUOT", "EEXIST", "EFBIG", "EINTR", "EINVAL",
    "EIO", "EISDIR", "ELOOP", "EMFILE", "EMLINK", "ENAMETOOLONG", "ENFILE", "ENODATA", "ENODEV",
    "ENOENT", "ENOLCK", "ENOMEM", "ENOSPC", "ENOSYS", "ENOTDIR", "ENOTEMPTY", "ENOTSUP", "ENXIO",
    "EOPNOTSUPP", "EOVERFLOW", "EPERM", "ERANGE", "EROFS", "ESTALE", "ETIMEDOUT", "ETXTBSY",
    "EXDEV",
]  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_documented_error_is_in_the_table(name: str) -> None:
    assert getattr(errno, name) in ERROR_OF_ERRNO


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, StoreAccessDeniedError),
        (errno.EROFS, ReadOnlyStoreError),
        (errno.ENAMETOOLONG, InvalidKeyError),
        (errno.ENOSPC, StoreUnavailableError),
        (errno.EXDEV, StoreError),
        (errno.ECHILD, StoreError),
    ],
)
def test_an_error_says_operation_key_and_cause(number: int, kind: type[StoreError]) -> None:
    with pytest.raises(StoreError) as caught, typed_errors("/base", "put", "k"):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is kind
    assert (caught.value.operation, caught.value.key) == ("put", "k")
    assert isinstance(caught.value.__cause__, OSError)


def test_an_error_of_ours_passes_as_it_is() -> None:
    ours = StoreAccessDeniedError("ours")
    with pytest.raises(StoreAccessDeniedError) as caught, typed_errors("/base", "put", "k"):
        raise ours
    assert caught.value is ours


async def test_a_base_dir_that_is_a_file_is_an_error_in_every_operation(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    store = make_store(tmp_path / "file")
    for operation in (store.get_bytes("k"), store.list_keys(""), store.delete("k"), store.put("k", "x")):
        with pytest.raises(StoreError, match=f"base_dir '{tmp_path}/file' is not a directory"):
            await operation
    await store.close()


def test_a_path_in_place_of_options_is_refused() -> None:
    message = r"FilesystemObjectStore takes FilesystemStorageOptions\(base_dir=\.\.\.\), not str"
    with pytest.raises(TypeError, match=message):
        FilesystemObjectStore("data")  # type: ignore[arg-type]  # that is the test
