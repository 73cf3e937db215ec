"""A server may send interim replies before the one that counts (RFC 9110, 15.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bare_server import FOUND, STORED, read_request, server, store_at

if TYPE_CHECKING:
    import socket

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </k>; rel=preload\r\n\r\n"


async def test_interim_replies_are_passed_over() -> None:
    found = FOUND % 5 + b"value"
    answers = [INTERIM + STORED, INTERIM + found, found]

    def serve(connection: socket.socket) -> None:
        while True:
            read_request(connection)
            connection.sendall(answers.pop(0))

    with server(serve) as endpoint:
        async with store_at(endpoint) as store:
            await store.put("k", "value")
            assert [await store.get_string("k"), await store.get_string("k")] == ["value", "value"]
