"""A server may send interim replies before the one that counts (RFC 9110, 15.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from starfish_server.storage.s3 import S3ObjectStore

if TYPE_CHECKING:
    from servers import S3Server

MakeS3 = Callable[..., S3ObjectStore]

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </k>; rel=preload\r\n\r\n"
STORED = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n'
FOUND = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 5\r\n\r\nvalue'


async def test_interim_replies_are_passed_over(seaweedfs: S3Server, make_s3: MakeS3) -> None:
    answers = [INTERIM + STORED, INTERIM + FOUND, FOUND]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(answers.pop(0))
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    store = make_s3(seaweedfs, bucket="b", endpoint=endpoint, max_attempts=1)
    await store.put("k", "value")
    assert [await store.get_string("k"), await store.get_string("k")] == ["value", "value"]
    await store.close()
    listener.close()
    await listener.wait_closed()
