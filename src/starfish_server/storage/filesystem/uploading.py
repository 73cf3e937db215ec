"""An upload: batches of chunks are written in threads, into a draft that is put in place at the end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from starfish_server.chunks import checked_chunks
from starfish_server.errors import StoreUnavailableError
from starfish_server.storage.filesystem.changes import Commit
from starfish_server.storage.filesystem.os_errors import typed_errors
from starfish_server.threads import start_in_thread, wait_to_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.objects import ObjectInfo
    from starfish_server.operations import Upload
    from starfish_server.storage.filesystem.attributes import Attributes
    from starfish_server.storage.filesystem.directory import Directory
    from starfish_server.storage.filesystem.writing import Draft

T = TypeVar("T")

_BATCH_BYTES = 4 * 1024 * 1024  # a hop to a thread for each; two are in memory
_MAX_WRITES = 64  # of a batch; more chunks are joined into one


class BatchUpload:
    """An object that is written batch by batch: one in a thread, while the next one is gathered.

    Cancelled, it ends after the batch that is being written, with nothing left of it.
    """

    def __init__(self, directory: Directory, call: Upload, attributes: Attributes) -> None:
        self._directory = directory
        self._call = call
        self._attributes = attributes
        self._typed = typed_errors(directory.path, "upload", call.key)
        self._draft: Draft | None = None
        self._writing: asyncio.Future[Draft] | None = None
        self._commit = Commit()

    async def run(self) -> ObjectInfo:
        """Write the chunks, put the object in place, and return its info."""
        batch: list[bytes] = []
        size = 0
        try:
            async with aclosing(checked_chunks(self._call.chunks, "upload")) as source:
                async for chunk in source:
                    batch.append(chunk)
                    size += len(chunk)
                    if size >= _BATCH_BYTES:
                        await self._written()
                        self._writing = self._start(partial(self._append, batch))
                        batch, size = [], 0
            await self._written()
            finished = self._start(partial(self._finish, batch))
        except BaseException:
            cancelled = await self._abandon()
            if cancelled is not None:
                raise cancelled from None
            raise
        try:
            await asyncio.wait((finished,))
        except asyncio.CancelledError:
            # The thread finds out, and discards the draft.
            await self._commit.withdraw()
            raise
        return finished.result()

    def _start(self, step: Callable[[], T]) -> asyncio.Future[T]:
        return start_in_thread(step, operation="upload", key=self._call.key)

    async def _written(self) -> None:
        """Wait until the batch in flight is written."""
        if self._writing is not None:
            await asyncio.wait((self._writing,))
            writing, self._writing = self._writing, None
            writing.result()

    async def _abandon(self) -> asyncio.CancelledError | None:
        """Discard the draft after the batch in flight; return a cancellation that came meanwhile."""
        cancelled = None if self._writing is None else await wait_to_end(self._writing)
        try:
            discarding = self._start(self._discard)
        except StoreUnavailableError:  # no thread can be started; it is little work
            self._discard()
            return cancelled
        return await wait_to_end(discarding) or cancelled

    def _append(self, batch: list[bytes]) -> Draft:
        with self._typed:
            if self._draft is None:
                self._draft = self._directory.draft(self._call.key, self._attributes, self._call.if_version)
            for chunk in batch if len(batch) <= _MAX_WRITES else [b"".join(batch)]:
                self._draft.append(chunk)
            return self._draft

    def _finish(self, last: list[bytes]) -> ObjectInfo:
        try:
            draft = self._append(last)
            with self._typed:
                return draft.put_with_info(self._commit)
        finally:
            self._discard()

    def _discard(self) -> None:
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.close()
