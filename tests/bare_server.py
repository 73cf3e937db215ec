"""Servers of a few lines over plain sockets, for replies that no HTTP library would send."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Serve = Callable[[socket.socket], None]

STORED = b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 0\r\n\r\n'
FOUND = b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: %d\r\n\r\n'


def read_request(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return the first line and the body; raise a `ConnectionError` at the end."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += received(connection, 65536)
    head, _, body = head.partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    named = dict(header.lower().split(b": ", 1) for header in headers)
    while len(body) < int(named.get(b"content-length", 0)):
        body += received(connection, 65536)
    return line, body


def received(connection: socket.socket, most: int) -> bytes:
    data = connection.recv(most)
    if not data:
        raise ConnectionError
    return data


@contextlib.contextmanager
def server(serve: Serve) -> Iterator[str]:
    """`serve` in a thread for each connection; the endpoint."""

    def run(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            serve(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=run, args=listener.accept()[:1], daemon=True).start()

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def store_at(endpoint: str, **options: object) -> S3ObjectStore:
    settings = {"bucket": "b", "anonymous": True, "endpoint": endpoint, "max_attempts": 1} | options
    return S3ObjectStore(S3StorageOptions(**settings))  # type: ignore[arg-type]
