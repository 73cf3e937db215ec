"""An upload: batches of its chunks are written in threads, into a draft that is put in place at the end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from starfish_server.checks import checked_chunks
from starfish_server.storage.filesystem.changes import Commit

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable

    from starfish_server.objects import IfVersion, ObjectInfo
    from starfish_server.storage.filesystem.attributes import Attributes
    from starfish_server.storage.filesystem.directory import Directory
    from starfish_server.storage.filesystem.writing import Draft

T = TypeVar("T")

_BATCH_BYTES = 4 * 1024 * 1024  # a hop to a thread for each; two are in memory
_MAX_WRITES = 64  # of a batch; more chunks are joined into one


class Upload:
    """An object that is written batch by batch.

    Cancelled, it ends after the batch that is being written, with nothing left of it.
    """

    def __init__(self, directory: Directory, key: str, attributes: Attributes, if_version: IfVersion) -> None:
        self._directory = directory
        self._key = key
        self._attributes = attributes
        self._if_version = if_version
        self._draft: Draft | None = None
        self._commit = Commit()

    async def run(self, chunks: Iterable[bytes] | AsyncIterable[bytes]) -> ObjectInfo:
        """Write the chunks, put the object in place, and return its info."""
        last: list[bytes] = []
        try:
            async with aclosing(_batches(chunks)) as batches:
                async for batch in batches:
                    if last:
                        await self._in_thread(self._append, last)
                    last = batch
        except BaseException:
            await self._in_thread(self._discard)
            raise
        finished = _start(lambda: self._finish(last))
        try:
            await asyncio.wait((finished,))
        except asyncio.CancelledError:
            # The thread finds out, and discards the draft.
            finished.add_done_callback(_retrieve)
            await self._commit.withdraw()
            raise
        return finished.result()

    async def _in_thread(self, step: Callable[..., object], *arguments: list[bytes]) -> None:
        """Await a step that must end before anything else is done; a cancellation is raised after it."""
        running = _start(lambda: step(*arguments))
        cancelled: asyncio.CancelledError | None = None
        while not running.done():
            try:
                await asyncio.wait((running,))
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            _retrieve(running)
            raise cancelled
        running.result()

    def _append(self, batch: list[bytes]) -> Draft:
        if self._draft is None:
            self._draft = self._directory.draft("upload", self._key, self._attributes, self._if_version)
        for chunk in batch if len(batch) <= _MAX_WRITES else [b"".join(batch)]:
            self._draft.append(chunk)
        return self._draft

    def _finish(self, last: list[bytes]) -> ObjectInfo:
        try:
            return self._append(last).put_with_info(self._commit)
        finally:
            self._discard()

    def _discard(self) -> None:
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.close()


def _start(step: Callable[[], T]) -> asyncio.Future[T]:
    return asyncio.get_running_loop().run_in_executor(None, step)


def _retrieve(future: asyncio.Future[T]) -> None:
    """Take the exception of a step that nothing waits for, so that it is not reported."""
    if not future.cancelled():
        future.exception()


async def _batches(chunks: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncGenerator[list[bytes], None]:
    """Yield the chunks, several at a time."""
    batch: list[bytes] = []
    size = 0
    async for chunk in checked_chunks(chunks, "upload"):
        batch.append(chunk)
        size += len(chunk)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
