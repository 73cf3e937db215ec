"""Twenty writers in four processes change one document with conditional writes: no update is lost."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reliability.counting import KEY
from starfish_server import FilesystemObjectStore, FilesystemStorageOptions, VersionConflictError
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from servers import S3Server
    from starfish_server import AbstractObjectStore

PROCESSES = 4
WRITERS = 5


def filesystem(folder: Path) -> dict[str, Any]:
    return {"base_dir": str(folder), "fsync": False}


def s3(server: S3Server) -> dict[str, Any]:
    return {
        "access_key_id": server.access_key_id,
        "secret_access_key": server.secret_access_key,
        "endpoint": server.endpoint,
        "bucket": server.make_bucket(),
    }


@pytest.mark.parametrize("leaf", ["filesystem", "s3"])
async def test_no_update_is_lost_between_processes(
    leaf: str, tmp_path: Path, seaweedfs: S3Server, full: bool
) -> None:
    updates = 50 if full else 5
    options = filesystem(tmp_path) if leaf == "filesystem" else s3(seaweedfs)
    program = [sys.executable, str(Path(__file__).with_name("counting.py")), str(WRITERS), str(updates)]
    processes = [
        await asyncio.create_subprocess_exec(*program, leaf, json.dumps(options)) for _ in range(PROCESSES)
    ]
    assert [await process.wait() for process in processes] == [0] * PROCESSES
    store: AbstractObjectStore = (
        FilesystemObjectStore(FilesystemStorageOptions(**options))
        if leaf == "filesystem"
        else S3ObjectStore(S3StorageOptions(**options))
    )
    async with store:
        assert await store.get_string(KEY) == str(PROCESSES * WRITERS * updates)


async def test_a_conditional_write_does_not_pass_a_plain_one_by(tmp_path: Path) -> None:
    """Two stores on one folder: what a plain put or delete did in between is never overwritten."""
    options = FilesystemStorageOptions(**filesystem(tmp_path))
    async with FilesystemObjectStore(options) as plain, FilesystemObjectStore(options) as conditional:
        overwritten = 0
        await plain.put("k", "start")
        for number in range(200):
            found = await conditional.stat("k")
            version = found and found.version
            racing = plain.delete("k") if number % 5 == 4 else plain.put("k", f"plain {number}")
            written, _ = await asyncio.gather(
                conditional.write("k", f"conditional {number}", if_version=version),
                racing,
                return_exceptions=True,
            )
            now = await plain.get_string("k")
            if isinstance(written, VersionConflictError):
                assert now == (None if number % 5 == 4 else f"plain {number}")
            else:
                # It won, so the plain write came after it and is what is there.
                overwritten += now == f"conditional {number}"
        assert overwritten == 0
