"""Where rows take place: the S3 server, the relays before it, and a folder, each made on first use."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
import warnings
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bench.contenders import by_hand
from bench.filling import make_tree, write_all
from bench.objects import Bucket, Folder
from bench.registry import ROOT
from servers import make_certificate, start_seaweedfs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from bench.plan import Plan
    from bench.row import Entrant, Row
    from servers import Certificate, S3Server

ONE_WAY_SECONDS = 0.010


class Stage:
    """Gives each entrant of a row its place, and fills it where the coordinator does so."""

    def __init__(self) -> None:
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @cached_property
    def folder(self) -> str:
        """A new folder, in TMPDIR or where that says."""
        return self._open.enter_context(tempfile.TemporaryDirectory(prefix="starfish-bench-"))

    @cached_property
    def _server(self) -> S3Server:
        return self._open.enter_context(start_seaweedfs(self._certificate))

    @cached_property
    def _certificate(self) -> Certificate:
        folder = self._open.enter_context(tempfile.TemporaryDirectory(prefix="starfish-bench-"))
        return make_certificate(Path(folder))

    @cached_property
    def _far_relay(self) -> _Relay:
        return self._open.enter_context(_Relay(self._server.endpoint, ONE_WAY_SECONDS))

    @cached_property
    def _counting_relay(self) -> _Relay:
        return self._open.enter_context(_Relay(self._server.endpoint, 0.0))

    @cached_property
    def _bucket(self) -> str:
        return self._server.make_bucket()

    def place(self, row: Row, entrant: Entrant, plan: Plan) -> Bucket | Folder | None:
        match row.place:
            case "s3":
                return self._in_bucket(self._server.endpoint, plan)
            case "s3 tls":
                return self._in_bucket(self._server.secure_endpoint, plan)
            case "s3 far":
                return self._in_bucket(self._far_relay.endpoint, plan)
            case "s3 counted":
                return self._in_bucket(self._counting_relay.endpoint, plan)
            case "files":
                path = f"{self.folder}/{row.name}-{uuid.uuid4().hex[:8]}"
                return Folder(path, fsync=row.fsync, inline_reads=entrant.inline_reads)
            case "tree":
                return Folder(self._tree(plan), inline_reads=entrant.inline_reads)
            case "none":
                return None

    def environment(self, row: Row) -> dict[str, str]:
        """Return the variables by which every contender trusts the server of the row."""
        if row.place != "s3 tls":
            return {}
        return dict.fromkeys(("SSL_CERT_FILE", "AWS_CA_BUNDLE"), str(self._certificate.authority))

    def carried(self, row: Row) -> int | None:
        """Return how many bytes the relay of the row carried so far; None where they are not counted."""
        return self._counting_relay.carried() if row.place == "s3 counted" else None

    def fill(self, place: Bucket, bodies: Iterable[tuple[str, bytes]]) -> None:
        """Write objects with the fastest contender, straight to the server."""

        async def write() -> None:
            objects = await by_hand.open_objects(replace(place, endpoint=self._server.endpoint))
            try:
                await write_all(objects.put, bodies)
            finally:
                await objects.close()

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending a large body", ResourceWarning)  # nothing else runs
            asyncio.run(write())

    def leave(self, place: Bucket | Folder | None) -> None:
        """Remove what one entrant wrote."""
        if isinstance(place, Folder) and not os.path.basename(place.path).startswith("tree"):
            for path in (place.path, f"{place.path}-temporary", f"{place.path}-beside"):
                shutil.rmtree(path, ignore_errors=True)

    def _in_bucket(self, endpoint: str, plan: Plan) -> Bucket:
        keys = self._server.access_key_id, self._server.secret_access_key
        return Bucket(endpoint, self._bucket, *keys, max(64, plan.concurrency))

    def _tree(self, plan: Plan) -> str:
        path = f"{self.folder}/tree-{plan.objects}"
        if not os.path.isdir(path):
            make_tree(f"{path}/{plan.prefix}", plan.objects, plan.per_folder)
        return path


class _Relay:
    """`bench.relay` before a server, this many seconds away in each direction."""

    def __init__(self, server: str, seconds: float) -> None:
        address = urlsplit(server)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.relay", str(address.hostname), str(address.port), str(seconds)],
            env=os.environ | {"PYTHONPATH": str(ROOT / "benchmarks")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.endpoint = f"http://127.0.0.1:{self._answer()}"

    def carried(self) -> int:
        """Return how many bytes went through it so far, both ways."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()
